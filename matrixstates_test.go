package main

import (
	"fmt"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// things are the kinds of records that keys reach by an id: how one is made, how
// its owner's are listed, and where most is told of one.
var things = []struct{ prefix, make, body, list, show string }{
	{"/api/v1/calls/", "/api/v1/calls", `{"phone_number": "+4930555944", "agent_id": AGENT}`, "/api/v1/calls", "ID"},
	{"/api/v1/contacts/", "/api/v1/contacts/create", `{"first_name": "Mara", "phone_numbers": [{"phone_number": "+4930555NNN"}]}`, "/api/v1/contacts", "ID"},
	{"/api/v1/context-variables/", "/api/v1/context-variables/create", `{"name": "vNNN", "display_name": "Plan", "variable_type": "text", "context_type": "contact"}`, "/api/v1/context-variables", ""},
	{"/api/v1/calendar/events/", "/api/v1/calendar/events/create", `{"title": "Fitting", "start_time": "2026-03-02T09:00:00Z", "end_time": "2026-03-02T10:00:00Z"}`, "/api/v1/calendar/events?start_date=2026-01-01&end_date=2026-12-31", "ID"},
	{"/api/webhooks/", "/api/webhooks/create", `{"name": "h", "url": "http://127.0.0.1:1/", "subscribed_events": ["calendar.reminder"]}`, "/api/webhooks", "ID/logs"},
}

// stateBodies are bodies for the endpoints that change a record.
var stateBodies = map[string]string{
	"PUT /api/v1/contacts/:contact_id/update": `{"first_name": "Nora", "phone_numbers": [{"phone_number": "+4930556NNN"}]}`, "PATCH /api/v1/contacts/:contact_id/update": `{"last_name": "Nord"}`,
	"POST /api/v1/contacts/:contact_id/context":           `{"variables": {"plan": "gold"}}`,
	"PUT /api/v1/context-variables/:variable_id/update":   `{"display_name": "Other"}`,
	"PATCH /api/v1/context-variables/:variable_id/update": `{"display_name": "Other"}`,
	"PUT /api/v1/calendar/events/:event_id/update":        `{"title": "Moved", "start_time": "2026-03-03T09:00:00Z", "end_time": "2026-03-03T10:00:00Z"}`,
	"PATCH /api/v1/calendar/events/:event_id/update":      `{"title": "Moved"}`,
	"POST /api/v1/calendar/events/:event_id/cancel":       `{"cancellation_reason": "ill"}`,
	"PUT /api/webhooks/:id/update":                        `{"name": "n", "url": "http://127.0.0.1:1/n", "subscribed_events": ["call.ended"]}`,
	"PATCH /api/webhooks/:id/update":                      `{"is_active": false}`,
}

// owned is an owner with a key and what it has made.
type owned struct {
	*testApp
	key   string
	agent int
	n     *int
}

// quick asks without a look at what the description of the API says of the answer,
// which is for other tests and takes most of the time.
func (o owned) quick(method, path, secret, body string) *httptest.ResponseRecorder {
	if secret == "" {
		return askDoor(o.api, method, path, body)
	}
	return askDoor(o.api, method, path, body, "Authorization: Bearer "+secret)
}

// thing makes one record and gives its id.
func (o owned) thing(kind int) string {
	o.t.Helper()
	*o.n++
	w := o.quick("POST", things[kind].make, o.key, strings.NewReplacer("NNN", fmt.Sprint(1000+*o.n), "AGENT", fmt.Sprint(o.agent)).Replace(things[kind].body))
	id, ok := object(o.t, w.Body.String())["id"].(float64)
	if w.Code != 201 || !ok {
		o.t.Fatalf("%s: got %d %s", things[kind].make, w.Code, w.Body)
	}
	return fmt.Sprint(id)
}

// all is everything that the owner has, as its key sees it: the lists, and one
// record of each kind with all that is told of it.
func (o owned) all(ids []string) (text string) {
	o.t.Helper()
	for i, kind := range things {
		sep := map[bool]string{true: "&", false: "?"}[strings.Contains(kind.list, "?")]
		w := o.quick("GET", kind.list+sep+"limit=100", o.key, "")
		if w.Code != 200 {
			o.t.Fatalf("%s: got %d %s", kind.list, w.Code, w.Body)
		}
		text += w.Body.String() + "\n"
		if kind.show != "" {
			w := o.quick("GET", kind.prefix+strings.ReplaceAll(kind.show, "ID", ids[i]), o.key, "")
			if w.Code != 200 {
				o.t.Fatalf("%s: got %d %s", kind.prefix, w.Code, w.Body)
			}
			text += w.Body.String() + "\n"
		}
	}
	return text
}

// keyState is a secret in some state and what comes of it.
type keyState struct {
	name, secret string
	status       int // 0: it is let in
}

// keyStates makes keys of an owner in every state that there is.
func (a *testApp) keyStates(owner string) []keyState {
	const many = `"limits": {"requests_per_minute_limit": 1000000, "calls_per_day_limit": 100000, "calendar_events_per_day_limit": 100000}`
	make := func(more ...string) (id, secret string) {
		return a.key(everyPermission, append(more, many, fmt.Sprintf(`"owner": %q`, owner))...)
	}
	_, active := make()
	_, ending := make(`"expires_at": "` + *Seconds(epoch.Add(1000 * time.Hour)) + `"`)
	_, here := make(`"allowed_ips": ["192.0.2.0/24"]`)
	rotated, overlapping := make()
	fresh := a.rotate(rotated, 3600)
	over, old := make()
	a.rotate(over, 10)
	atOnce, replaced := make()
	a.rotate(atOnce, 0)
	resumed, again := make()
	paused, asleep := make()
	revoked, gone := make()
	for _, path := range []string{resumed + "/pause", resumed + "/resume", paused + "/pause", revoked + "/revoke"} {
		a.operate(200, "POST", "/admin/v1/keys/"+path, "")
	}
	_, expired := make(`"expires_at": "` + *Seconds(epoch.Add(10 * time.Second)) + `"`)
	_, elsewhere := make(`"allowed_ips": ["203.0.113.0/24"]`)
	a.clocks.Pass(11 * time.Second)
	return []keyState{
		{"active", active, 0}, {"not yet expired", ending, 0}, {"from its network", here, 0}, {"rotated", fresh, 0}, {"earlier secret in the overlap", overlapping, 0}, {"resumed", again, 0},
		{"earlier secret after it", old, 401}, {"earlier secret without one", replaced, 401}, {"paused", asleep, 401}, {"revoked", gone, 401}, {"expired", expired, 401}, {"from elsewhere", elsewhere, 403},
		{"no", "", 401}, {"unknown", NewSecret("klen_"), 401},
	}
}

// TestServer_StatesAndOwners crosses the states of a key with every endpoint that
// has an id, and with a record of its own, of another owner and none: a key that
// is not let in hears the same of all three, and one that is hears of another's
// what it hears of none. Nothing of another's is ever changed, nor of one's own by
// a key that is not let in.
func TestServer_StatesAndOwners(t *testing.T) {
	a := newHookApp(t, inMemory(t))
	for _, owner := range []string{"ann", "bob"} {
		a.operate(201, "POST", "/admin/v1/agents", `{"name": "Front desk", "phone_number": "+4930555001", "owner": "`+owner+`"}`)
	}
	made := 0
	ann := a.keyStates("ann")
	_, bobs := a.key(everyPermission, `"owner": "bob"`, `"limits": {"requests_per_minute_limit": 1000000}`)
	own, other := owned{a, ann[0].secret, 1, &made}, owned{a, bobs, 2, &made}
	for _, o := range []owned{own, other} {
		w := o.ask("POST", "/api/v1/context-variables/create", o.key, `{"name": "plan", "display_name": "Plan", "variable_type": "text", "context_type": "contact"}`)
		if w.Code != 201 {
			t.Fatalf("got %d %s", w.Code, w.Body)
		}
	}
	var theirs, mine []string
	for kind := range things {
		theirs, mine = append(theirs, other.thing(kind)), append(mine, own.thing(kind))
	}
	before := other.all(theirs)
	const missing = "987654"
	asked := 0
	for _, row := range slices.Concat(a.Server.o.Keyed, a.Server.o.Free) {
		if !strings.Contains(row.Path, ":") || !strings.HasPrefix(row.Path, "/api/") {
			continue
		}
		name := row.Method + " " + row.Path
		kind := slices.IndexFunc(things, func(th struct{ prefix, make, body, list, show string }) bool {
			return strings.HasPrefix(row.Path, th.prefix)
		})
		if kind < 0 {
			t.Errorf("%s: of what it asks for no record is made here", name)
			continue
		}
		ask := func(secret, id string) (int, string) {
			t.Helper()
			asked++
			a.Server.throttle = NewThrottle(60, time.Minute)
			w := own.quick(row.Method, fill(row.Path, id), secret, strings.ReplaceAll(stateBodies[name], "NNN", fmt.Sprint(1000+asked)))
			return w.Code, answerOf(w)
		}
		ours := own.all(mine)
		for _, state := range ann {
			_, of := ask(state.secret, missing)
			if code, text := ask(state.secret, theirs[kind]); text != of || code != map[bool]int{true: 404, false: state.status}[state.status == 0] {
				t.Errorf("%s, %s key: another's is answered with\n%s\nand a missing one with\n%s", name, state.name, text, of)
			}
			if state.status == 0 {
				continue
			}
			if code, text := ask(state.secret, mine[kind]); text != of || code != state.status {
				t.Errorf("%s, %s key: its own is answered with\n%s\nand a missing one with\n%s", name, state.name, text, of)
			}
		}
		if now := own.all(mine); now != ours {
			t.Errorf("%s: keys that are not let in changed\n%s\nto\n%s", name, ours, now)
		}
		if now := other.all(theirs); now != before {
			t.Errorf("%s: another's was changed from\n%s\nto\n%s", name, before, now)
			before = now
		}
		for _, state := range ann {
			if state.status != 0 {
				continue
			}
			id := own.thing(kind)
			if code, text := ask(state.secret, id); code/100 != 2 {
				t.Errorf("%s, %s key: its own is answered with %s", name, state.name, text)
			}
		}
	}
	if now := other.all(theirs); now != before {
		t.Errorf("another's was changed from\n%s\nto\n%s", before, now)
	}
	t.Logf("%d requests by %d keys", asked, len(ann))
}

// answerOf is an answer without what differs between two that say the same: the
// request id and the units that are left.
func answerOf(w *httptest.ResponseRecorder) string {
	h := w.Header().Clone()
	for name := range h {
		if strings.Contains(strings.ToLower(name), "ratelimit") {
			h.Del(name)
		}
	}
	text := regexp.MustCompile(`"request_id":"[^"]*"`).ReplaceAllString(w.Body.String(), "")
	return fmt.Sprint(w.Code, h, text)
}

// TestServer_EndedCredentials tries admin tokens that were revoked and logins that
// have ended, by a sign-out and by time, at every endpoint of the admin door, and
// what holds at the door of keys.
func TestServer_EndedCredentials(t *testing.T) {
	b := newDashboard(t)
	home := &url.URL{Scheme: "http", Host: "127.0.0.1:8081"}
	session := func() string { return b.jar.Cookies(home)[0].Value }
	made := b.operate(201, "POST", "/admin/v1/tokens", `{"name": "gone"}`)
	b.operate(200, "POST", fmt.Sprintf("/admin/v1/tokens/%v/revoke", made["id"]), "")
	idle := session()
	b.clocks.Pass(b.config.Admin.SessionIdle)
	login := func() {
		if w := b.post("/login", "name", "ann", "password", operatorPassword); w.Code != 303 {
			t.Fatalf("got %d, want to be in", w.Code)
		}
	}
	login()
	left := session()
	if w := b.post("/logout"); w.Code != 303 {
		t.Fatalf("got %d, want to be out", w.Code)
	}
	login()
	holds, token := session(), b.token()
	let := map[string]bool{"Cookie: " + plainCookie + "=" + holds: true, "Authorization: Bearer " + token: true}
	for _, row := range b.Server.o.Admin {
		if row.Public {
			continue
		}
		for _, field := range []string{
			"Authorization: Bearer " + made["token"].(string), "Cookie: " + plainCookie + "=" + idle, "Cookie: " + plainCookie + "=" + left,
			"Cookie: " + plainCookie + "=" + holds, "Authorization: Bearer " + token,
		} {
			if let[field] && row.Method != "GET" {
				continue // would do it
			}
			b.Server.throttle = NewThrottle(60, time.Minute)
			name, value, _ := strings.Cut(field, ": ")
			r := httptest.NewRequest(row.Method, "http://127.0.0.1:8081"+fill(row.Path, "1"), nil)
			r.Header.Set(name, value)
			r.Header.Set("Sec-Fetch-Site", "same-origin")
			w := httptest.NewRecorder()
			if b.door.ServeHTTP(w, r); (w.Code == 401) == let[field] {
				t.Errorf("%s %s with %.40s: got %d", row.Method, row.Path, field, w.Code)
			}
		}
	}
}
