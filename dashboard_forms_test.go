package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"golang.org/x/net/html"

	"latchkey/cli"
)

// attributes returns the attributes of an element.
func attributes(n *html.Node) map[string]string {
	all := map[string]string{}
	for _, a := range n.Attr {
		all[a.Key] = a.Val
	}
	return all
}

// typed returns the value of an input as a browser has it: cleaned by the rules for its type.
func typed(kind, value string) string {
	matches := func(pattern string) string {
		if regexp.MustCompile(pattern).MatchString(value) {
			return value
		}
		return ""
	}
	switch kind {
	case "hidden":
		return value
	case "number":
		return matches(`^-?(\d+(\.\d+)?|\.\d+)([eE][+-]?\d+)?$`)
	case "time":
		return matches(`^\d\d:\d\d(:\d\d(\.\d{1,3})?)?$`)
	case "date":
		return matches(`^\d{4,}-\d\d-\d\d$`)
	case "datetime-local":
		return strings.TrimSuffix(matches(`^\d{4,}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d{1,3})?)?$`), ":00.000")
	case "email":
		return strings.TrimSpace(strings.NewReplacer("\r", "", "\n", "").Replace(value))
	}
	return strings.NewReplacer("\r", "", "\n", "").Replace(value)
}

// formOf returns what a browser sends for the form of a page with this action if nobody touches it.
func formOf(t testing.TB, page, action string) url.Values {
	t.Helper()
	root, err := html.Parse(strings.NewReader(page))
	if err != nil {
		t.Fatal(err)
	}
	sent, found := url.Values{}, false
	add := func(name, value string) { // with CRLF, as the standard of HTML has it
		if name != "" {
			sent.Add(name, regexp.MustCompile(`\r\n|\r|\n`).ReplaceAllString(value, "\r\n"))
		}
	}
	for n := range root.Descendants() {
		if n.Type != html.ElementNode || n.Data != "form" || attributes(n)["action"] != action {
			continue
		}
		found = true
		for n := range n.Descendants() {
			a := attributes(n)
			_, checked := a["checked"]
			switch box := a["type"] == "checkbox" || a["type"] == "radio"; {
			case n.Data == "input" && (!box || checked):
				add(a["name"], typed(a["type"], a["value"]))
			case n.Data == "textarea":
				text := ""
				if n.FirstChild != nil {
					text = n.FirstChild.Data
				}
				add(a["name"], text)
			case n.Data == "select":
				value, first := "", true
				for o := range n.Descendants() {
					b := attributes(o)
					if _, chosen := b["selected"]; o.Data == "option" && (first || chosen) {
						value, first = b["value"], false
					}
				}
				add(a["name"], value)
			}
		}
	}
	if !found {
		t.Fatalf("the page has no form for %s", action)
	}
	return sent
}

// flatten returns the values in a JSON object by their paths.
func flatten(v any, at string, into map[string]string) map[string]string {
	switch v := v.(type) {
	case map[string]any:
		for name, value := range v {
			flatten(value, at+"."+name, into)
		}
		if len(v) == 0 {
			into[at] = "{}"
		}
	case []any:
		for i, value := range v {
			flatten(value, fmt.Sprintf("%s[%d]", at, i), into)
		}
		if len(v) == 0 {
			into[at] = "[]"
		}
	default:
		into[at] = fmt.Sprint(v)
	}
	return into
}

// exact reads a record from the admin endpoint, with numbers as they are spelled.
func (a *testApp) exact(path string) map[string]string {
	a.t.Helper()
	w := a.control("GET", path, "")
	dec := json.NewDecoder(w.Body)
	dec.UseNumber()
	var v map[string]any
	if err := dec.Decode(&v); err != nil || w.Code != 200 {
		a.t.Fatalf("%s: got %d %v", path, w.Code, err)
	}
	return flatten(v, "", map[string]string{})
}

// differing returns the paths whose values differ.
func differing(before, after map[string]string) (paths []string) {
	all := maps.Clone(before)
	maps.Copy(all, after)
	for path := range all {
		if was, had := before[path]; before[path] != after[path] || !had || was == "" && after[path] != "" {
			paths = append(paths, path)
		}
	}
	return slices.Sorted(slices.Values(paths))
}

func (b *browser) postForm(path string, form url.Values) *httptest.ResponseRecorder {
	var pairs []string
	for name, values := range form {
		for _, value := range values {
			pairs = append(pairs, name, value)
		}
	}
	return b.post(path, pairs...)
}

// A formCase is a record with values that a form cannot show exactly.
type formCase struct {
	make      []string // path and body of requests to the admin endpoint; the last one makes the record
	page      string   // where the form is; "" if it is at the path that the form is sent to
	more      []string // further pages with forms for the same record
	admin     string   // where the admin endpoint has the record
	touch     []string // field, its new value, and a pattern of the paths that change with it; three for each change
	elsewhere []string // body of a change by somebody else while the form is open, and the value that must stay
}

// formCases has a row for each form that changes a record, by the pattern of the page. {key} is the id of a key.
func formCases() map[string]formCase {
	const odd = `" leading, trailing\r\nsecond\t "`
	return map[string]formCase{
		"POST /keys/{id}/edit": {
			make: []string{"agents", `{"name": "A"}`, "keys", `{"resources": {"agents": [1]}, "name": "` + strings.Repeat("x", 20) + ` ", "permissions": ["can_read_reports", "can_read_agents"], "expires_at": "2026-09-01T12:34:56Z", "allowed_ips": ["2001:db8::/32", "10.1.2.3"],
				"metadata": {"note": ` + odd + `, "n": " 1.50 "}, "limits": {"requests_per_minute_limit": 60, "calls_per_day_limit": 7}, "environment": "live", "query_allowed": false}`},
			admin: "keys/{id}",
			touch: []string{"name", "other", `^\.name$`, "note", "moved", `^\.metadata\.note$`, "environment", "test", `^\.environment$`, "ips", "2001:db8::/32, 10.1.2.3, 10.9.9.9", `^\.allowed_ips\[2\]$`,
				"objects", "", `^\.resources`, "query", "yes", `^\.query_allowed$`, "expires", "2027-01-01", `^\.(expires_at|status)$`, "limit.calls_per_day_limit", "8", `^\.(limits\.calls_per_day_limit|usage.*)$`, "+permission", "can_read_calls", `^\.(permissions|usage).*`},
			more:      []string{"/keys/{id}/access"},
			elsewhere: []string{`{"environment": "stage", "limits": {"requests_per_minute_limit": 99}, "metadata": {"n": "2"}}`, "stage"},
		},
		"POST /agents/{id}": {
			make: []string{"agents", `{"name": ` + odd + `, "role": "inbound agent", "phone_number": "+4930555001", "model": " m ", "voice_id": "v\n"}`}, admin: "agents/1",
			touch: []string{"model", "n", `^\.model$`, "name", "Desk", `^\.name$`}, elsewhere: []string{`{"voice_id": "w"}`, "w"},
		},
		"POST /contacts/{id}": {
			make: []string{"teams", `{"name": "T", "members": ["ann"]}`, "contacts", `{"owner": "ann", "team_id": 1, "first_name": ` + odd + `, "last_name": "L ", "company": "A\r\nB", "tags": [" b", "a", "two words "], "timezone": "Europe/Berlin",
				"last_call_date": "2026-01-02T03:04:05.678Z", "custom_context": {"big": 12345678901234567890, "f": 1.50, "s": " x ", "o": {"z": 1, "a": [1.0]}},
				"phone_numbers": [{"phone_number": "+4930555010", "phone_type": " desk "}, {"phone_number": "+4930555011", "do_not_call": true, "dnc_reason": " asked ", "primary": true}]}`},
			admin: "contacts/1",
			touch: []string{"last_name", "M", `^\.(last_name|full_name|name)$`, "tags", "b\r\na\r\ntwo words\r\nnew", `^\.tags\[3\]$`,
				"custom_context", `{"big": 12345678901234567890, "f": 1.50, "s": "y", "o": {"z": 1, "a": [1.0]}}`, `^\.custom_context\.(s|big|f|o.*)$`,
				"phone.0.type", "home", `^\.phone_numbers\[0\]\.phone_type$`, "primary", "0", `^\.(phone|phone_numbers\[[01]\]\.primary)$`, "phone.0.stop", "yes", `^\.phone_numbers\[0\]\.(do_not_call|dnc_date)$`,
				"timezone", "UTC", `^\.timezone$`},
			elsewhere: []string{`{"custom_context": {"new": 1}, "phone_numbers": [{"id": 1, "phone_number": "+4930555010", "do_not_call": true, "dnc_reason": "meanwhile"}]}`, "meanwhile"},
		},
		"POST /calendar/events/{id}": {
			make: []string{"schedules", `{"time_zone": "Europe/Berlin"}`, "events", `{"title": ` + odd + `, "start_time": "2026-10-25T01:30:07.250Z", "end_time": "2026-10-25T01:45:00.999Z", "description": "a\r\nb \n", "customer_name": " C ",
				"customer_notes": "\n\nlead ", "location": "x\ny", "remind_before_minutes": 61}`}, admin: "events/1",
			touch:     []string{"location", "here", `^\.location$`, "description", "c", `^\.description$`, "end_time", "2026-10-25T05:00:09", `^\.(end_time|duration_minutes)$`, "customer_name", "D", `^\.customer\.name$`},
			elsewhere: []string{`{"video_conference_provider": "elsewhere"}`, "elsewhere"},
		},
		"POST /calls/{id}": {
			make: []string{"agents", `{"name": "A", "role": "inbound agent", "phone_number": "+4930555001"}`, "calls", `{"phone_number": "+4930555010", "agent_id": 1, "status": "completed", "started_at": "2026-01-01T00:00:00.5Z", "ended_at": "2026-01-01T00:01:30.75Z",
				"summary": "a\r\nb ", "transcript": "\nx\r"}`}, admin: "calls/1",
			touch: []string{"summary", "new", `^\.summary$`, "transcript", "t", `^\.transcript`}, elsewhere: []string{`{"recording_url": "https://r.example.net/1"}`, "https://r.example.net/1"},
		},
		"POST /schedules/{id}": {
			make: []string{"schedules", `{"owner": "bob", "time_zone": "Asia/Kathmandu", "buffer_minutes": 7, "windows": {"monday": ["09:00-12:00", "12:00-24:00"], "tuesday": ["09:00-12:00"]}, "business_hours": {}}`}, admin: "schedules/1",
			touch: []string{"buffer_minutes", "8", `^\.buffer_minutes$`, "windows.tuesday.to", "11:00", `^\.windows\.tuesday`}, elsewhere: []string{`{"windows": {"friday": ["07:00-08:00"]}}`, "07:00-08:00"},
		},
		"POST /webhooks/{id}": {
			make: []string{"webhooks", `{"name": ` + odd + `, "url": "https://hooks.example.net/a?b=%20c", "subscribed_events": ["calendar.updated", "call.started", "calendar.created"]}`}, admin: "webhooks/1",
			touch: []string{"name", "hook", `^\.name$`, "+subscribed_events", "call.ended", `^\.subscribed_events\[3\]$`, "all_events", "yes", `^\.subscribed_events`}, elsewhere: []string{`{"is_active": false}`, "false"},
		},
		"POST /variables/{id}": {
			make: []string{"variables", `{"name": "mood", "display_name": " Mood\n", "context_type": "contact", "variable_type": "select", "select_options": [" a", "b,c", "d\ne"], "description": " x "}`}, admin: "variables/{id}",
			touch: []string{"description", "y", `^\.description$`, "select_options", "a\r\nb,c\r\nd e\r\nf", `^\.select_options\[3\]$`}, elsewhere: []string{`{"display_name": "Other"}`, "Other"},
		},
		"POST /owners/{id}": {
			make: []string{"owners", `{"name": "carl", "balance": 12.50, "rate": 0.1, "limits": {"owner_requests_per_minute_limit": 0}}`}, admin: "owners/{id}",
			touch: []string{"rate", "0.2", `^\.rate$`, "balance", "13", `^\.balance$`, "storage_bytes", "512MiB", `^\.storage(_bytes|\.limit)$`, "limits.owner_requests_per_minute_limit", "", `^\.own_limits`}, elsewhere: []string{`{"limits": {"owner_calls_per_day_limit": 5}}`, "5"},
		},
		"POST /teams/{id}": {
			make: []string{"teams", `{"name": " Team ", "members": ["bob", "ann"]}`}, admin: "teams/1",
			touch: []string{"name", "Crew", `^\.name$`, "members", "bob\r\nann\r\ncarl", `^\.members\[\d\]$`}, elsewhere: []string{`{"members": ["dora"]}`, "dora"},
		},
		"POST /do-not-call/{id}": {
			make: []string{"do-not-call", `{"phone_number": "+4930555099", "reason": ` + odd + `}`}, admin: "do-not-call/1",
			touch: []string{"reason", "r", `^\.reason$`}, elsewhere: nil,
		},
		"POST /business-context": {
			make: []string{"variables", `{"owner": "ann", "name": "hours", "display_name": "H", "context_type": "business", "variable_type": "text"}`,
				"variables", `{"owner": "ann", "name": "seats", "display_name": "S", "context_type": "business", "variable_type": "number"}`,
				"PATCH business-context", `{"owner": "ann", "variables": {"hours": " 9 to 5\r\nnot 6 ", "seats": 1.50}}`},
			page: "/business-context?owner=ann", admin: "business-context?owner=ann",
			touch: []string{"value.seats", "2", `^\.variables\.seats$`}, elsewhere: []string{`{"owner": "ann", "variables": {"hours": "closed"}}`, "closed"},
		},
	}
}

// otherForms are the pages that take forms which do not show the values of a record.
var otherForms = regexp.MustCompile(`^POST (/logout.*|/space|/account|/account/(link|preferences|passkeys|password/remove|app|recovery-codes)|/account/factors/\{id\}(/remove)?|/requests/\{id\}/fix|/confirm/oidc|/account/sessions/(end|\{id\}/end)|/confirm|/operators|/operators/\{id\}/(role|disable|enable|reset-factors)|/keys|/find|/reference/\{id\}|/keys/(find|bulk|presets)|/keys/\{id\}/(rotate|finish|revoke|\{verb\})|/tokens(/\{id\}/(rotate|revoke))?|/contacts/import|/backups/(check|download|\{id\}/check)|/[a-z/-]+/\{id\}/(delete|cancel|pause|resume|test|redeliver|retry|empty)|/(webhooks|webhooks/release|agents|contacts|calendar/events|schedules|variables|do-not-call|owners|teams|calls))$`)

// TestForms_KeepUntouched opens the form of each kind of record and sends it as a browser does:
// untouched, with one field changed, and while somebody else changes another field.
func TestForms_KeepUntouched(t *testing.T) {
	cases := formCases()
	for _, pattern := range pagePatterns(t) {
		if _, covered := cases[pattern]; strings.HasPrefix(pattern, "POST ") && !covered && !otherForms.MatchString(pattern) {
			t.Errorf("%s has no row in formCases", pattern)
		}
	}
	stamps := regexp.MustCompile(`^\.(updated_at|ics_url)$`)
	for pattern, c := range cases {
		t.Run(strings.TrimPrefix(pattern, "POST "), func(t *testing.T) {
			b := newDashboard(t, func(c *Config) { c.Permissions = []permissionRow{{"can_read_reports", "Read reports."}} })
			id := ""
			for i := 0; i < len(c.make); i += 2 {
				method, path, other := strings.Cut(c.make[i], " ")
				status := 200
				if !other {
					method, path, status = "POST", c.make[i], 201
				}
				made := b.operate(status, method, "/admin/v1/"+path, c.make[i+1])
				id = strings.TrimSuffix(fmt.Sprint(made["id"]), ".0")
				if n, is := made["id"].(float64); is {
					id = strconv.Itoa(int(n))
				}
			}
			b.config.Permissions = nil // what the key holds is then unknown
			b.restart()
			b.browserAgain()
			path := strings.ReplaceAll(strings.TrimPrefix(pattern, "POST "), "{id}", id)
			page := c.page
			if page == "" {
				page = strings.TrimSuffix(path, "/edit")
			}
			admin := "/admin/v1/" + strings.ReplaceAll(c.admin, "{id}", id)
			open := func() url.Values {
				form := url.Values{}
				for _, page := range append([]string{page}, c.more...) { // one page after the other, as if both were open
					maps.Copy(form, formOf(t, b.get(strings.ReplaceAll(page, "{id}", id)).Body.String(), path))
				}
				return form
			}
			send := func(form url.Values) {
				t.Helper()
				if w := b.postForm(path, form); w.Code != 303 {
					t.Fatalf("got %d %s", w.Code, w.Body)
				}
			}
			before, audit := b.exact(admin), b.exact("/admin/v1/audit")[".count"]
			send(open())
			if paths := differing(before, b.exact(admin)); len(paths) > 0 {
				t.Errorf("untouched, but changed: %v from %v to %v", paths, before, b.exact(admin))
			}
			if now := b.exact("/admin/v1/audit")[".count"]; now != audit {
				t.Errorf("untouched, but %s entries of the audit log became %s", audit, now)
			}
			for i := 0; i < len(c.touch); i += 3 {
				form, before := open(), b.exact(admin)
				if name, more := strings.CutPrefix(c.touch[i], "+"); more {
					form.Add(name, c.touch[i+1])
				} else {
					form.Set(name, c.touch[i+1])
				}
				send(form)
				paths := differing(before, b.exact(admin))
				others := slices.DeleteFunc(slices.Clone(paths), func(p string) bool { return stamps.MatchString(p) || regexp.MustCompile(c.touch[i+2]).MatchString(p) })
				if len(others) > 0 || len(paths) == 0 {
					t.Errorf("with %s changed: got changes of %v from %v to %v", c.touch[i], paths, before, b.exact(admin))
				}
			}
			if len(c.elsewhere) == 0 {
				return
			}
			form := open()
			where, _, _ := strings.Cut(admin, "?")
			b.operate(200, "PATCH", where, c.elsewhere[0])
			theirs := b.exact(admin)
			form.Set(c.touch[0], form.Get(c.touch[0])+"1")
			send(form)
			if !slices.Contains(slices.Collect(maps.Values(b.exact(admin))), c.elsewhere[1]) {
				t.Errorf("a change by somebody else is undone: %v", b.exact(admin))
			}
			paths := slices.DeleteFunc(differing(theirs, b.exact(admin)), func(p string) bool { return stamps.MatchString(p) || regexp.MustCompile(c.touch[2]).MatchString(p) })
			if len(paths) > 0 {
				t.Errorf("changes by somebody else are lost at %v", paths)
			}
		})
	}
}

// browserAgain connects the browser to the service after a restart.
func (b *browser) browserAgain() {
	b.t.Helper()
	door, err := b.AdminDoor()
	if err != nil {
		b.t.Fatal(err)
	}
	b.door = door
	b.Server.ListensAt("http://127.0.0.1:8080")
}

// TestForms_LocalTimes: a form refuses a time that clocks skip, and one that they show twice is the first.
func TestForms_LocalTimes(t *testing.T) {
	b := newDashboard(t)
	b.operate(201, "POST", "/admin/v1/events", `{"title": "x", "start_time": "2026-03-28T09:00:00Z", "end_time": "2026-11-01T09:30:00Z"}`)
	const page = "/calendar/events/1"
	for _, tt := range []struct{ zone, start, want string }{
		{"Europe/Berlin", "2026-03-29T02:30", ""}, {"Europe/Berlin", "2026-03-29T03:30", "2026-03-29T01:30:00.000Z"}, {"Europe/Berlin", "2026-10-25T02:30:15", "2026-10-25T00:30:15.000Z"},
		{"Asia/Beirut", "2026-03-29T00:30", ""}, {"Africa/Cairo", "2026-04-24T00:00", ""}, {"Australia/Lord_Howe", "2026-10-04T02:15", ""}, {"UTC", "0000-12-31T10:00", ""},
		{"localtime", "2026-03-29T12:00", ""}, {"europe/berlin", "2026-03-29T12:00", ""},
	} {
		before := b.exact("/admin/v1/events/1")[".start_time"]
		address := page + "?zone=" + url.QueryEscape(tt.zone)
		if tt.zone != "UTC" && !strings.ContainsAny(tt.zone, "ABCDE") {
			address = page // no zone of that name
		}
		form := formOf(t, b.get(address).Body.String(), page)
		form.Set("zone", tt.zone)
		form.Set("start_time", tt.start)
		w := b.postForm(page, form)
		got := b.exact("/admin/v1/events/1")[".start_time"]
		if tt.want == "" && (w.Code != 400 || got != before) || tt.want != "" && (w.Code != 303 || got != tt.want) {
			t.Errorf("%s in %s: got %d, %s; want %q", tt.start, tt.zone, w.Code, got, tt.want)
		}
	}
}

// TestBrowser_Forms adds a range of times to a day, imports contacts after a look at what the import
// does, and downloads a backup.
func TestBrowser_Forms(t *testing.T) {
	p := openBrowser(t)
	p.operator("/schedules/new")
	p.click(`[name="windows.sunday.from"]`)
	p.click(`fieldset:has([name="windows.sunday.from"]) [data-more] > button`)
	p.wait("the second range", `document.querySelectorAll('[name="windows.sunday.from"]').length === 2 && document.activeElement === document.querySelectorAll('[name="windows.sunday.from"]')[1]`)
	p.do(chromedp.Evaluate(`["from", "to"].forEach((end, i) => document.querySelectorAll('[name="windows.sunday.' + end + '"]').forEach((field, j) => { field.value = ["10:00", "12:00", "13:00", "00:00"][2 * j + i]; }))`, nil))
	p.click("form .actions button.main")
	p.sees("Delete this schedule")
	var list struct {
		Schedules []struct{ Windows map[string][]string }
	}
	if err := p.socket.Do(context.Background(), cli.Request{Method: "GET", Path: "/admin/v1/schedules"}, &list); err != nil || fmt.Sprint(list.Schedules[0].Windows["sunday"]) != "[10:00-12:00 13:00-24:00]" {
		t.Errorf("got %v, %v", list, err)
	}
	p.click(`button[value="windows"]`)
	p.sees("Copied. Nothing is saved yet.")

	p.open("/contacts/import")
	p.fill("#csv", "First Name;E-Mail\nMara;mara@example.net\nOda;oda@example.net")
	p.click("form .actions button")
	p.sees("Nothing is imported yet.")
	p.sees("semicolons")
	p.click(`button[value="import"]`)
	p.sees("Imported: 2 created.")

	p.open("/backups")
	p.click(`form[action="/backups/download"] button`)
	p.sees("Confirm your password")
	p.fill("#password", operatorPassword)
	p.press(kb.Enter)
	p.sees("then the download begins")
	for end := time.Now().Add(browserPatience); ; {
		var log struct{ Count int }
		if err := p.socket.Do(context.Background(), cli.Request{Method: "GET", Path: "/admin/v1/audit?action=/admin/v1/backup"}, &log); err != nil || time.Now().After(end) {
			t.Fatalf("the browser downloads no backup: %v", err)
		}
		if log.Count > 0 {
			break
		}
		<-time.After(30 * time.Millisecond)
	}
	p.sees("Download it if nothing happens.") // the page stays
}
