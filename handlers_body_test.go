package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	ical "github.com/emersion/go-ical"

	"latchkey/internal/strictjson"
)

// What strangers send is read by these. Each target says what must be true of
// whatever is accepted; `sh fuzz.sh` runs them all for a time. testdata/fuzz
// keeps what they found, which every test run tries again.

// FuzzReadCredential: what is taken for a key was sent as one, by every carrier
// alike, and stands nowhere afterwards.
func FuzzReadCredential(f *testing.F) {
	f.Add("Bearer k1", "k1", "a=b&api_key=k1", uint8(0))
	f.Add("bearer  k1 ", "", "api%5Fkey=k1&api_key=k2", uint8(2))
	f.Add("Basic eA==", "k1", "a=1;api_key=k1&&=&%zz=%", uint8(6))
	f.Add("Bearer", "x", "api_key=%zz", uint8(7))
	f.Fuzz(func(t *testing.T, authorization, header, query string, how uint8) {
		u, err := url.ParseRequestURI("/x?" + query)
		if err != nil || u.RawQuery != query {
			return // no server would have come this far
		}
		r := &http.Request{Method: "GET", URL: u, RequestURI: u.RequestURI(), Header: http.Header{}}
		sent := map[string][]string{}
		if how&1 == 0 {
			r.Header["Authorization"] = slices.Repeat([]string{authorization}, 1+int(how>>3&1))
			if scheme, rest, _ := strings.Cut(authorization, " "); strings.EqualFold(scheme, "bearer") {
				sent[CarrierBearer] = slices.Repeat([]string{strings.Trim(rest, " ")}, 1+int(how>>3&1))
			}
		}
		if how&2 == 0 {
			r.Header["X-Api-Key"] = slices.Repeat([]string{header}, 1+int(how>>4&1))
			sent[CarrierHeader] = r.Header["X-Api-Key"]
		}
		before, _ := url.ParseQuery(query)
		if before.Has("api_key") {
			sent[CarrierQuery] = before["api_key"]
		}
		c, err := ReadCredential(r)
		if err != nil {
			return
		}
		if c.Secret == "" || !slices.Contains(sent[c.Carrier], c.Secret) {
			t.Errorf("got %+v of %q", c, sent)
		}
		for carrier, values := range sent {
			if len(values) != 1 || values[0] != c.Secret {
				t.Errorf("let pass %q by %s beside %q", values, carrier, c.Secret)
			}
		}
		after, _ := url.ParseQuery(r.URL.RawQuery)
		if r.Header["X-Api-Key"] != nil || after.Has("api_key") || r.RequestURI != r.URL.RequestURI() {
			t.Errorf("the key is left in %v %q %q", r.Header, r.URL.RawQuery, r.RequestURI)
		}
		delete(before, "api_key")
		if !reflect.DeepEqual(before, after) {
			t.Errorf("the query became %q, was %q", after, before)
		}
	})
}

// FuzzClientAddr: only declared proxies are believed, and who writes further
// addresses in front gains nothing, in either field.
func FuzzClientAddr(f *testing.F) {
	f.Add("10.0.0.1:1", "1.2.3.4, 10.0.0.2", "6.6.6.6", false)
	f.Add("[fd00::1]:2", "::ffff:10.1.1.1,,what", "127.0.0.1, 10.0.0.1", false)
	f.Add("192.0.2.1:3", "fe80::1%eth0", " ", false)
	f.Add("10.0.0.1:1", "[2001:db8::1]:443, 10.0.0.2:80, \"[fd00::2]\"", "unknown", false)
	f.Add("10.0.0.1:1", `for="[2001:db8::1]:80";by=_x, For=10.0.0.2;host="a,b;for=1.1.1.1"`, `for="`, true)
	f.Add("10.0.0.1:1", `for=_hidden`, `for=6.6.6.6;by="\"`, true)
	proxies := Proxies{Networks: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}}
	f.Fuzz(func(t *testing.T, peer, told, more string, standard bool) {
		field, name := "X-Forwarded-For", ""
		if standard {
			field, name = "Forwarded", "for="
		}
		ask := func(fields ...string) (netip.Addr, []netip.Addr) {
			r := &http.Request{RemoteAddr: peer, Header: http.Header{field: fields}}
			return ClientAddr(r, proxies), ClientPath(r, proxies)
		}
		got, hops := ask(told)
		if hops[len(hops)-1] != got || len(hops) > 2+strings.Count(told, ",") {
			t.Errorf("got %s at the end of %s", got, hops)
		}
		for i, hop := range hops[:len(hops)-1] {
			if !proxies.contain(hop) {
				t.Errorf("believed %s, which is no proxy, at %d of %s", hop, i, hops)
			}
		}
		for _, hop := range hops[1:] {
			if hop.Zone() != "" || hop.Is4In6() {
				t.Errorf("got %s of %q", hop, told)
			}
		}
		if at, err := netip.ParseAddrPort(peer); err == nil && hops[0] != at.Addr().Unmap().WithZone("") {
			t.Errorf("the first of %s is not the peer", hops)
		}
		if proxies.contain(got) {
			return // the proxy says that the client is one of the proxies, so what is in front counts too
		}
		for _, lines := range [][]string{{more, told}, {more + "," + told}} {
			if forged, _ := ask(lines...); forged != got && len(hops) > 1 {
				t.Errorf("with %q in front: got %s, want %s", more, forged, got)
			}
		}
		// A proxy may append to the same line what is well-formed, whatever the client wrote there.
		for _, line := range []string{told + "," + name + "192.0.2.77", more + "," + told + `, ` + name + `"[2001:db8::77]:1"`} {
			want := netip.MustParseAddr("192.0.2.77")
			if strings.HasSuffix(line, `"`) {
				want = netip.MustParseAddr("2001:db8::77")
			}
			if got, _ := ask(line); proxies.contain(hops[0]) && got != want {
				t.Errorf("%q: got %s, want %s", line, got, want)
			}
		}
	})
}

// countMembers counts the members of all objects in a value, and how deep it is.
func countMembers(v any) (n, deep int) {
	var below []any
	switch v := v.(type) {
	case map[string]any:
		n = len(v)
		for _, m := range v {
			below = append(below, m)
		}
	case []any:
		below = v
	default:
		return 0, 0
	}
	for _, m := range below {
		k, d := countMembers(m)
		n, deep = n+k, max(deep, d)
	}
	return n, deep + 1
}

// storable reports whether encoding/json keeps every text and number in data, which is JSON: no text
// has a NUL character or half of a surrogate pair, and every number is in the range of float64.
func storable(data []byte) bool {
	text := regexp.MustCompile(`"(?:[^"\\]|\\.)*"`)
	for _, raw := range text.FindAll(data, -1) {
		var s string
		if json.Unmarshal(raw, &s) != nil || strings.ContainsRune(s, 0) {
			return false
		}
		// A pair is one character outside of the first plane. Half of one becomes U+FFFD.
		sent := strings.Count(s, "\ufffd")
		kept := bytes.Count(raw, []byte("\ufffd")) + len(regexp.MustCompile(`(?i)\\ufffd`).FindAll(bytes.ReplaceAll(raw, []byte(`\\`), nil), -1))
		if sent != kept {
			return false
		}
	}
	for _, number := range regexp.MustCompile(`[-+.eE0-9]+`).FindAll(text.ReplaceAll(data, []byte(" ")), -1) {
		if _, err := strconv.ParseFloat(string(number), 64); len(number) > strictjson.MaxNumber || errors.Is(err, strconv.ErrRange) {
			return false
		}
	}
	return true
}

// A number that a float64 can hold only rounded is refused, in whatever spelling.
func TestBody_Number(t *testing.T) {
	for text, want := range map[string]float64{
		"0": 0, "-0": 0, "0.00e5": 0, "null": 0, "12.50": 12.5, "1E2": 100, "0.1": 0.1, "0.30000000000000004": 0.30000000000000004, "9007199254740992": 1 << 53,
		"12345678901234567890": -1, "9007199254740993": -1, "0.1000000000000000055511151231257827": -1, "1e-999": -1, `"5"`: -1, "true": -1, "1e999": -1,
	} {
		b, err := ParseBody([]byte(`{"rate": ` + text + `}`))
		got := -1.0
		if err == nil {
			if b.Number("rate", &got); b.Err() != nil {
				got = -1
			}
		}
		if got != want {
			t.Errorf("%s: got %v, want %v (-1: refused)", text, got, want)
		}
	}
}

// TestBody_ID reads ids: one that is not valid leaves the value as it was.
func TestBody_ID(t *testing.T) {
	for body, want := range map[string]uint64{
		`{}`: 7, `{"a": 1}`: 1, `{"a": 9}`: 9, `{"a": null}`: 0, `{"a": 9223372036854775807}`: 1<<63 - 1, // the rest is refused
		`{"a": 0}`: 7, `{"a": -1}`: 7, `{"a": 1.5}`: 7, `{"a": "1"}`: 7, `{"a": 9223372036854775808}`: 7, `{"a": true}`: 7, `{"a": [1]}`: 7,
	} {
		b, err := ParseBody([]byte(body))
		if err != nil {
			t.Fatal(err)
		}
		got := uint64(7)
		if b.ID("a", &got); got != want || (b.Err() != nil) != (want == 7 && body != `{}`) {
			t.Errorf("%s: got %d, %v; want %d", body, got, b.Err(), want)
		}
	}
}

// CutString keeps what is as long as allowed, cuts what is longer, and leaves alone what is not sent.
func TestBody_CutString(t *testing.T) {
	for _, tt := range []struct {
		body, want string
		bad        bool
	}{
		{`{}`, "before", false}, {`{"a": ""}`, "", false}, {`{"a": null}`, "", false}, {`{"a": "12345"}`, "12345", false}, {`{"a": "\u00e4\u00e4\u00e4\u00e4\u00e4"}`, "\u00e4\u00e4\u00e4\u00e4\u00e4", false},
		{`{"a": "123456"}`, CutText("123456", 5), false}, {`{"a": "\u00e4\u00e4\u00e4\u00e4\u00e4\u00e4"}`, CutText("\u00e4\u00e4\u00e4\u00e4\u00e4\u00e4", 5), false}, {`{"a": 5}`, "before", true}, {`{"a": ["x"]}`, "before", true},
	} {
		b, err := ParseBody([]byte(tt.body))
		if err != nil {
			t.Fatal(err)
		}
		got := "before"
		if b.CutString("a", 5, &got); got != tt.want || (b.Err() != nil) != tt.bad {
			t.Errorf("%s: got %q, %v; want %q", tt.body, got, b.Err(), tt.want)
		}
	}
}

// FuzzParseBody holds what is taken for a body against what encoding/json makes
// of it: one object, in which no name was lost because it appears twice, and no text and
// number is changed.
func FuzzParseBody(f *testing.F) {
	for _, s := range []string{
		`{"a": 1, "A": {"b": [true, null, {"c": "d"}]}}`, `{"a": 1, "a": 2}`, `{"x": {"a": 1, "\u0061": 2}}`, `[1]`, "null", `{}{}`, "\ufeff{}", "{\"a\": \"\xff\"}",
		`{"a": "\ud800"}`, `{"a": "\ud83d\ude00\\ud800"}`, `{"a\u0000": "\ufffd"}`, `{"n": 1e400}`, `{"n": [1e308, -0, 1E-999]}`, strings.Repeat(`{"a":`, 33) + "1" + strings.Repeat("}", 33), strings.Repeat(`[`, 100),
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := ParseBody(data)
		dec := json.NewDecoder(bytes.NewReader(data))
		dec.UseNumber()
		var v any
		object := false
		if dec.Decode(&v) == nil {
			_, object = v.(map[string]any)
			_, end := dec.Token()
			object = object && end == io.EOF && utf8.Valid(data)
		}
		n, deep := countMembers(v)
		written := 0
		if object {
			written = nameTokens(t, data)
		}
		want := object && n == written && deep <= strictjson.MaxDepth && storable(data)
		if (err == nil) != want {
			t.Fatalf("%q: got %v, want it taken %t", data, err, want)
		}
		if err != nil {
			if Public(err) != err && Public(err).Status != http.StatusBadRequest {
				t.Errorf("%q: got %v", data, err)
			}
			return
		}
		if len(b.Names()) != len(v.(map[string]any)) {
			t.Errorf("%q: got the names %q", data, b.Names())
		}
		var text string
		var number int
		for _, name := range b.Names() { // any reader on any member
			b.err = nil
			if b.Int(name, &number, -5, 5); number < -5 || number > 5 {
				t.Errorf("%q: %s became %d", data, name, number)
			}
			b.err = nil
			if b.String(name, AnyLength, &text); Length(text) > AnyLength || strings.ContainsRune(text, 0) {
				t.Errorf("%q: %s became %q", data, name, text)
			}
			b.Bodies(name)
		}
	})
}

// nameTokens counts the names that stand in a JSON text, by a count of colons
// outside of texts.
func nameTokens(t *testing.T, data []byte) (n int) {
	inText := false
	for i := 0; i < len(data); i++ {
		switch {
		case inText && data[i] == '\\':
			i++
		case data[i] == '"':
			inText = !inText
		case !inText && data[i] == ':':
			n++
		}
	}
	return n
}

// FuzzReadPage: whatever is asked for, a page is a part of the list.
func FuzzReadPage(f *testing.F) {
	for _, s := range []string{"page=2&limit=5", "page=0", "limit=99999999999999999999", "page=-1&page=2", "page=%2b1", "page=9223372036854775807&limit=9223372036854775807"} {
		f.Add(s, uint16(7))
	}
	f.Fuzz(func(t *testing.T, query string, count uint16) {
		q, _ := url.ParseQuery(query)
		p, err := ReadPage(q, 10, 100)
		if err != nil {
			if !errors.Is(err, ErrValidation) {
				t.Errorf("%q: got %v", query, err)
			}
			return
		}
		from, to := p.Bounds(int(count))
		if from < 0 || from > to || to > int(count) || to-from > 100 || p.Limit < 1 || p.Number < 1 {
			t.Errorf("%q of %d: got %+v, %d to %d", query, count, p, from, to)
		}
		if from < to && from != (p.Number-1)*p.Limit {
			t.Errorf("%q: page %d begins at %d", query, p.Number, from)
		}
	})
}

// FuzzMoments: times, dates and hours of the day are what they say.
func FuzzMoments(f *testing.F) {
	for _, s := range []string{"2026-03-02T09:00:00Z", "2026-03-02T09:00", "2026-03-02T09:00:00.1234+05:30", "0000-01-01T00:00", "2026-02-30", "09:00-12:30", "00:00-24:00", "9999-12-31", "2026-03-02T24:00:00Z"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if at, ok := parseMoment(text); ok {
			again, ok := parseMoment(*Millis(at))
			if !ok || !again.Equal(at) || at.Year() < 0 || at.Location() != time.UTC {
				t.Errorf("%q: got %s, then %s", text, at, again)
			}
		}
		if w, ok := parseWindow(text); ok {
			if said := fmt.Sprintf("%02d:%02d-%02d:%02d", w.From/60, w.From%60, w.To/60, w.To%60); said != text || w.From < 0 || w.From >= w.To || w.To > 24*60 {
				t.Errorf("%q: got %+v, which is %s", text, w, said)
			}
		}
		d, err := readDates(url.Values{"start_date": {text}}, 7, time.UTC, epoch)
		if text != "" && err == nil && d.First.Format(time.DateOnly) != text {
			t.Errorf("%q: got %s", text, d.First)
		}
		if from, to := d.Bounds(); err == nil && !from.Before(to) {
			t.Errorf("%q: from %s to %s", text, from, to)
		}
	})
}

// FuzzICS: whatever a key writes into an event, its file is one event with
// these texts, and nothing of it becomes a property, an alarm or a line of
// its own.
func FuzzICS(f *testing.F) {
	f.Add("Fitting; a, b \\ c", "First\nsecond", "Room 2", "https://meet.example.net/x?a=1,2;3")
	f.Add("a\r\nATTENDEE:mailto:x@example.net", "b\rBEGIN:VALARM", "c\x00\x7f\u0085\u2028", "https://a/\r\nATTENDEE:mailto:x@example.net")
	f.Add(strings.Repeat("\u00e4\U0001f511", 60), "", "\t", "javascript:alert(1)")
	f.Fuzz(func(t *testing.T, title, description, location, address string) {
		for _, s := range []*string{&title, &description, &location, &address} { // as bodies are
			*s = strings.ReplaceAll(strings.ToValidUTF8(*s, "?"), "\x00", "")
		}
		e := event{
			UUID: "f", Title: title, Description: description, Location: location, VideoURL: address, Status: eventConfirmed,
			Start: epoch, End: epoch.Add(time.Hour), CreatedAt: epoch, UpdatedAt: epoch,
		}
		file := e.file()
		names := map[string]int{}
		for line := range strings.SplitSeq(strings.TrimSuffix(file, "\r\n"), "\r\n") {
			if len(line) > 75 || strings.ContainsFunc(line, func(c rune) bool { return c != '\t' && (c < ' ' || c == 0x7f) }) {
				t.Errorf("the line %q", line)
			}
			if !strings.HasPrefix(line, " ") {
				name, _, _ := strings.Cut(line, ":")
				names[name]++
			}
		}
		for name, n := range names {
			if n > 1 && name != "BEGIN" && name != "END" || n > 2 ||
				!slices.Contains(strings.Fields("BEGIN END VERSION PRODID METHOD UID DTSTAMP SEQUENCE CREATED LAST-MODIFIED DTSTART DTEND SUMMARY DESCRIPTION LOCATION URL STATUS"), name) {
				t.Errorf("%d of %q in %q", n, name, file)
			}
		}
		c, err := ical.NewDecoder(strings.NewReader(file)).Decode()
		if err != nil || len(c.Events()) != 1 {
			t.Fatalf("%v in %q", err, file)
		}
		bare := func(s string) string { // without what a text may not have, and blanks that readers trim
			s = strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(s)
			return strings.TrimSpace(regexp.MustCompile(`[\x00-\x08\x0b-\x1f\x7f\x{80}-\x{9f}]`).ReplaceAllString(s, ""))
		}
		for name, want := range map[string]string{"SUMMARY": title, "DESCRIPTION": description, "LOCATION": location} {
			got, err := c.Events()[0].Props.Text(name)
			if err != nil || strings.TrimSpace(got) != bare(want) {
				t.Errorf("%s: got %q, %v; want %q in %q", name, got, err, bare(want), file)
			}
		}
	})
}

// TestTimes_Ends sends times at and after the ends of the calendar to each field that takes one, on
// both listeners. What no answer could contain is refused, and the record stays as it is.
func TestTimes_Ends(t *testing.T) {
	a, key := newCalendarApp(t)
	a.operate(201, "POST", "/admin/v1/contacts", `{"owner": "admin", "first_name": "Far", "phone_numbers": [{"phone_number": "+4930555010"}]}`)
	id, _ := a.key(`["can_read_calls"]`)
	a.operate(201, "POST", "/admin/v1/agents", `{"name": "A", "role": "inbound agent", "phone_number": "+4930555001"}`)
	a.operate(201, "POST", "/admin/v1/calls", `{"phone_number": "+4930555010", "agent_id": 1, "status": "completed", "started_at": "2026-01-01T00:00:00Z", "ended_at": "2026-01-01T00:01:00Z"}`)
	a.event(key, "2026-03-02T09:00:00Z", "2026-03-02T09:45:00Z")
	bad := []string{
		"9999-12-31T23:59:59-01:00", "9999-12-31T23:59:59.999-00:01", "0000-01-01T00:00:00+01:00", "0001-01-01T00:30:00+01:00", "0000-12-31T23:59:59Z", "0001-01-01T00:00:00Z", "10000-01-01T00:00:00Z",
		"2026-06-30T23:59:60Z", "2026-02-30T00:00:00Z", "2026-02-03T24:00:00Z", "2026-02-03T9:00:00Z", "2026-02-03T09:00:00,5Z", "2026-02-03T09:00:00+24:00", "2026-02-03T09:00:00+05:60", "", " ",
	}
	for _, field := range []struct {
		method, path, name string
		api                bool
	}{
		{"PATCH", "/admin/v1/contacts/1", "last_call_date", false}, {"PATCH", "/admin/v1/keys/" + id, "expires_at", false},
		{"PATCH", "/admin/v1/calls/1", "started_at", false}, {"PATCH", "/admin/v1/calls/1", "ended_at", false},
		{"PATCH", "/admin/v1/events/1", "start_time", false}, {"PATCH", "/admin/v1/events/1", "end_time", false},
		{"PATCH", eventsPath + "/1/update", "start_time", true}, {"PATCH", eventsPath + "/1/update", "end_time", true},
	} {
		for _, text := range bad {
			body := fmt.Sprintf(`{%q: %q}`, field.name, text)
			w := httptest.NewRecorder()
			if field.api {
				w = a.ask(field.method, field.path, key, body)
			} else {
				a.local.ServeHTTP(w, httptest.NewRequest(field.method, field.path, strings.NewReader(body)))
			}
			if w.Code != 400 || !strings.Contains(w.Body.String(), field.name) {
				t.Errorf("%s %s: got %d %s, want 400 with the name of the field", field.path, body, w.Code, w.Body)
			}
		}
	}
	a.operate(200, "PATCH", "/admin/v1/calls/1", `{"started_at": "0001-01-01T00:00:00.001Z", "ended_at": "9999-12-31T23:59:59.999Z"}`)
	if v := a.operate(200, "GET", "/admin/v1/calls/1", ""); v["duration_seconds"] != 315537897599.0 {
		t.Errorf("a call of 9998 years: got %v", v["duration_seconds"])
	}
	v := a.operate(200, "PATCH", "/admin/v1/events/1", `{"start_time": "0001-01-01T00:00:00.001Z", "end_time": "9999-12-31T23:59:59.999Z"}`)
	if v["duration_minutes"] != 5258964959.0 {
		t.Errorf("an event of 9998 years: got %v", v["duration_minutes"])
	}
	for _, query := range []string{"start_date=9999-12-31", "start_date=0001-01-01", "start_date=9999-12-01&end_date=9999-12-31", "start_date=0001-01-01&end_date=9999-12-31"} {
		w := a.ask("GET", eventsPath+"?"+query, key, "")
		if w.Code != 200 || !strings.Contains(w.Body.String(), `"count":1`) || strings.Contains(w.Body.String(), "10000") {
			t.Errorf("%s: got %d %s", query, w.Code, w.Body)
		}
	}
	for _, query := range []string{"start_date=0000-12-31", "start_date=10000-01-01", "end_date=0000-01-01"} {
		if w := a.ask("GET", eventsPath+"?"+query, key, ""); w.Code != 400 || code(w) != "invalid_parameter_format" {
			t.Errorf("%s: got %d %s", query, w.Code, w.Body)
		}
	}
}

// TestTimes_Far: times after 2262, whose nanoseconds do not fit into an int64, and after 2554 sort
// and expire as others do.
func TestTimes_Far(t *testing.T) {
	a := newTestApp(t)
	var ids []string
	for i, end := range []string{"2026-02-05T00:00:00Z", "2261-01-01T00:00:00Z", "2263-01-01T00:00:00Z", "2555-01-01T00:00:00Z", "2611-01-01T00:00:00Z", "9999-12-31T23:59:59Z"} {
		v := a.operate(201, "POST", "/admin/v1/keys", fmt.Sprintf(`{"name": "k%d", "permissions": ["can_read_calls"], "expires_at": %q}`, i, end))
		ids = append(ids, v["id"].(string))
		if v["status"] != "active" || v["expires_at"] != end {
			t.Errorf("%s: got %v", end, v)
		}
	}
	forever, _ := a.key(`["can_read_calls"]`)
	var got []string
	for _, k := range a.operate(200, "GET", "/admin/v1/keys?sort=expires&order=asc", "")["keys"].([]any) {
		got = append(got, k.(map[string]any)["id"].(string))
	}
	if want := append(slices.Clone(ids), forever); !slices.Equal(got, want) {
		t.Errorf("sorted by expiry: got %v, want %v", got, want)
	}
	err := a.Store.View(func(tx *Tx) error {
		keys, err := a.Keyring.Expiring(tx, epoch.AddDate(0, 0, 7), 10)
		if len(keys) != 1 || keys[0].ID != ids[0] {
			t.Errorf("got %v, want the key that expires soon", keys)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	a.operate(201, "POST", "/admin/v1/agents", `{"name": "A", "role": "inbound agent", "phone_number": "+4930555001"}`)
	for _, at := range []string{"2600-01-01T00:00:00Z", "1960-01-01T00:00:00Z", "2026-01-01T00:00:00Z", "2300-01-01T00:00:00Z"} {
		a.operate(201, "POST", "/admin/v1/calls", fmt.Sprintf(`{"phone_number": "+4930555010", "agent_id": 1, "status": "completed", "started_at": %q, "ended_at": %q}`, at, at))
	}
	got = nil
	_, secret := a.key(`["can_read_calls"]`)
	for _, c := range object(t, a.ask("GET", "/api/v1/calls", secret, "").Body.String())["calls"].([]any) {
		got = append(got, c.(map[string]any)["started_at"].(string)[:4])
	}
	if fmt.Sprint(got) != "[2600 2300 2026 1960]" {
		t.Errorf("calls, newest first: got %v", got)
	}
}

// TestICS_Edges: the file of a short, a cancelled and a changed event is one that RFC 5545 allows.
func TestICS_Edges(t *testing.T) {
	for _, tt := range []struct{ start, end, wantStart, wantEnd string }{
		{"2030-12-01T09:00:00Z", "2030-12-01T09:00:00.001Z", "20301201T090000Z", "20301201T090001Z"}, {"2030-12-01T09:00:00.999Z", "2030-12-01T09:00:01Z", "20301201T090000Z", "20301201T090001Z"},
		{"2030-12-01T09:00:00.5Z", "2030-12-01T09:30:00Z", "20301201T090000Z", "20301201T093000Z"}, {"9999-12-31T23:59:59.1Z", "9999-12-31T23:59:59.9Z", "99991231T235959Z", ""},
		{"9999-12-31T23:59:58.1Z", "9999-12-31T23:59:59.9Z", "99991231T235958Z", "99991231T235959Z"},
	} {
		start, _ := parseMoment(tt.start)
		end, _ := parseMoment(tt.end)
		file := event{UUID: "x", Status: eventScheduled, Start: start, End: end, CreatedAt: epoch, UpdatedAt: epoch}.file()
		if !strings.Contains(file, "DTSTART:"+tt.wantStart+"\r\n") || tt.wantEnd != "" && !strings.Contains(file, "DTEND:"+tt.wantEnd+"\r\n") || tt.wantEnd == "" && strings.Contains(file, "DTEND") {
			t.Errorf("%s to %s: got %s", tt.start, tt.end, file)
		}
	}
	a, key := newCalendarApp(t)
	a.operate(200, "GET", "/admin/v1/events", "")
	path := a.event(key, "2026-03-02T09:00:00Z", "2026-03-02T09:45:00Z", `"remind_before_minutes": 15`)["ics_url"].(string)
	for _, tt := range []struct {
		do, want string
		alarm    bool
	}{
		{"", "METHOD:PUBLISH STATUS:TENTATIVE SEQUENCE:0", true}, {`{"start_time": "2026-03-02T08:00:00Z"}`, "METHOD:PUBLISH STATUS:TENTATIVE SEQUENCE:1", true},
		{`{"status": "completed"}`, "METHOD:PUBLISH STATUS:CONFIRMED SEQUENCE:2", false}, {"cancel", "METHOD:CANCEL STATUS:CANCELLED SEQUENCE:3", false},
	} {
		switch tt.do {
		case "":
		case "cancel":
			a.ask("POST", eventsPath+"/1/cancel", key, "")
		default:
			a.ask("PATCH", eventsPath+"/1/update", key, tt.do)
		}
		file := a.ask("GET", path, "", "").Body.String()
		for line := range strings.FieldsSeq(tt.want) {
			if !strings.Contains(file, "\r\n"+line+"\r\n") {
				t.Errorf("after %q: got %s, want %s", tt.do, file, line)
			}
		}
		if strings.Contains(file, "VALARM") != tt.alarm {
			t.Errorf("after %q: got %s, want an alarm: %t", tt.do, file, tt.alarm)
		}
	}
}
