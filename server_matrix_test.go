package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"latchkey/dashboard"
	"latchkey/internal/keytext"
)

// contractRights says who may ask what: any one of the permissions is enough, none
// means every key. It is written down here once more so that no row of the
// program is held against itself.
var contractRights = map[string]Permission{
	"GET /api/v1/key": 0, "DELETE /api/v1/key": 0, "POST /api/v1/key/revoke": 0,
	"GET /api/v1/agents": ReadAgents,
	"GET /api/v1/calls":  ReadCalls, "GET /api/v1/calls/:call_id": ReadCalls, "POST /api/v1/calls": InitiateCalls,
	"GET /api/v1/contacts": ReadContacts, "GET /api/v1/contacts/:contact_id": ReadContacts,
	"POST /api/v1/contacts/create": ReadContacts | WriteContacts, "PUT /api/v1/contacts/:contact_id/update": ReadContacts | WriteContacts,
	"PATCH /api/v1/contacts/:contact_id/update": ReadContacts | WriteContacts,
	"POST /api/v1/contacts/:contact_id/context": WriteContacts, "POST /api/v1/business/context": WriteContacts,
	"GET /api/v1/context-variables": ReadContacts, "POST /api/v1/context-variables/create": WriteContacts,
	"PUT /api/v1/context-variables/:variable_id/update": WriteContacts, "PATCH /api/v1/context-variables/:variable_id/update": WriteContacts,
	"DELETE /api/v1/context-variables/:variable_id/delete": WriteContacts,
	"GET /api/v1/calendar/availability":                    ReadCalendar,
	"GET /api/v1/calendar/events":                          ReadCalendar, "GET /api/v1/calendar/events/:event_id": ReadCalendar,
	"POST /api/v1/calendar/events/create": WriteCalendar, "PUT /api/v1/calendar/events/:event_id/update": WriteCalendar,
	"PATCH /api/v1/calendar/events/:event_id/update": WriteCalendar, "POST /api/v1/calendar/events/:event_id/cancel": WriteCalendar,
	"POST /api/v1/verify": VerifyKeys, "POST /api/v1/introspect": VerifyKeys,
	"GET /api/webhooks": 0, "POST /api/webhooks/create": 0, "PUT /api/webhooks/:id/update": 0, "PATCH /api/webhooks/:id/update": 0,
	"DELETE /api/webhooks/:id/delete": 0, "POST /api/webhooks/:id/test": 0, "GET /api/webhooks/:id/logs": 0,
}

// askDoor asks a door as it is.
func askDoor(door http.Handler, method, path, body string, fields ...string) *httptest.ResponseRecorder {
	r, w := httptest.NewRequest(method, path, strings.NewReader(body)), httptest.NewRecorder()
	for _, f := range fields {
		name, value, _ := strings.Cut(f, ": ")
		r.Header.Add(name, value)
	}
	door.ServeHTTP(w, r)
	return w
}

// TestServer_PermissionMatrix asks every endpoint with every set of the seven
// permissions of the contract: 403 exactly where none of those is in it that
// the endpoint takes. can_verify_keys comes beside them.
func TestServer_PermissionMatrix(t *testing.T) {
	a := newTestApp(t)
	const many = `"limits": {"requests_per_minute_limit": 1000000}`
	keys := map[Permission]string{}
	for set := range Ordinary + 1 {
		for _, more := range []Permission{0, VerifyKeys} {
			if set|more == 0 || more != 0 && set != 0 && set != Ordinary {
				continue
			}
			var names []string
			for _, p := range Permissions() {
				if (set|more)&p.Bit != 0 {
					names = append(names, fmt.Sprintf("%q", p.Name))
				}
			}
			_, keys[set|more] = a.key("["+strings.Join(names, ",")+"]", many)
		}
	}
	asked := 0
	for _, row := range slices.Concat(a.Server.o.Keyed, a.Server.o.Free) {
		right, known := contractRights[row.Method+" "+row.Path]
		if !known {
			if strings.HasPrefix(row.Path, "/api/") {
				t.Errorf("%s %s is in no row of contractRights", row.Method, row.Path)
			}
			continue
		}
		if strings.HasSuffix(row.Path, "/key/revoke") || row.Method == "DELETE" && row.Path == "/api/v1/key" {
			continue // would end the key; keys_ring_test.go has it
		}
		for set, key := range keys {
			w := askDoor(a.api, row.Method, fill(row.Path, "999"), "[]", "X-API-Key: "+key)
			asked++
			if denied := w.Code == 403; denied != (right != 0 && set&right == 0) || denied && code(w) != "permission_denied" || w.Code == 401 || w.Code >= 500 {
				t.Errorf("%s %s with %b: got %d %s, want it denied %t", row.Method, row.Path, set, w.Code, w.Body, right != 0 && set&right == 0)
			}
		}
	}
	t.Logf("%d requests by %d keys", asked, len(keys))
}

// TestServer_OthersAreMissing has a key of another owner, and one that is limited
// to other objects, ask for what does not exist for them and for what is not
// there: both answers are the same, byte for byte.
func TestServer_OthersAreMissing(t *testing.T) {
	a, ann := newCalendarApp(t)
	event := a.event(ann, "2026-03-02T09:00:00Z", "2026-03-02T10:00:00Z")
	must := func(path, key, body string) {
		t.Helper()
		if w := a.ask("POST", path, key, body); w.Code >= 300 {
			t.Fatalf("%s: got %d %s", path, w.Code, w.Body)
		}
	}
	must("/api/v1/contacts/create", ann, `{"first_name": "Mara", "phone_numbers": [{"phone_number": "+4930555010"}]}`)
	must("/api/v1/calls", ann, `{"phone_number": "+4930555944", "agent_id": 1}`)
	must("/api/v1/context-variables/create", ann, `{"name": "plan", "display_name": "Plan", "variable_type": "text", "context_type": "contact"}`)
	must("/api/webhooks/create", ann, `{"name": "h", "url": "https://hooks.example.net/", "subscribed_events": ["call.ended"]}`)
	const many = `"limits": {"requests_per_minute_limit": 100000}`
	_, bob := a.key(everyPermission, `"owner": "eve2"`, many)
	a.operate(201, "POST", "/admin/v1/agents", `{"name": "Twin", "phone_number": "+4930555002"}`)
	must("/api/v1/contacts/create", ann, `{"first_name": "Twin"}`)
	_, limited := a.key(everyPermission, `"resources": {"agents": [2], "contacts": [2]}`, many)
	asker := ""
	same := func(what, method, mine, missing, body1, body2 string) {
		t.Helper()
		var said [2]string
		for i, ask := range [][2]string{{mine, body1}, {missing, body2}} {
			w := askDoor(a.api, method, ask[0], ask[1], "X-API-Key: "+asker)
			for name := range w.Header() {
				if strings.Contains(strings.ToLower(name), "ratelimit") {
					w.Header().Del(name)
				}
			}
			text := regexp.MustCompile(`"request_id":"[^"]*"`).ReplaceAllString(w.Body.String(), "")
			said[i] = fmt.Sprint(w.Code, w.Header(), regexp.MustCompile(`\b(1|999999)\b`).ReplaceAllString(text, "N"))
		}
		if said[0] != said[1] || strings.HasPrefix(said[0], "2") {
			t.Errorf("%s: somebody else's is answered with\n%s\nand a missing one with\n%s", what, said[0], said[1])
		}
	}
	for _, asker = range []string{bob, limited} {
		for _, row := range a.Server.o.Keyed {
			if !strings.Contains(row.Path, ":") || !strings.HasPrefix(row.Path, "/api/") || asker == limited && strings.Contains(row.Path, ":variable_id") {
				continue
			}
			for _, body := range []string{"", "{}", `{"first_name": "X", "title": "T", "start_time": "2026-03-02T09:00:00Z", "end_time": "2026-03-02T10:00:00Z", "values": {"plan": "x"}, "url": "https://a.example.net/"}`} {
				same(row.Method+" "+row.Path, row.Method, fill(row.Path, "1"), fill(row.Path, "999999"), body, body)
			}
		}
		uuid := event["uuid"].(string)
		same("event by its uuid", "GET", eventsPath+"/"+uuid, eventsPath+"/"+strings.Repeat("0", 8)+uuid[8:], "", "")
		for _, body := range []string{`{"phone_number": "+4930555944", "agent_id": N}`, `{"phone_number": "+4930555944", "agent_id": 1, "contact_id": N}`} {
			same("POST /api/v1/calls "+body, "POST", "/api/v1/calls", "/api/v1/calls", strings.ReplaceAll(body, "N", "1"), strings.ReplaceAll(body, "N", "999999"))
		}
		// The published API reveals whether a team exists (team_access_denied), so team_id is not compared.
		const agent = `{"title": "T", "start_time": "2026-03-02T09:00:00Z", "end_time": "2026-03-02T10:00:00Z", "ai_agent_id": `
		same("event with ai_agent_id", "POST", eventsPath+"/create", eventsPath+"/create", agent+"1}", agent+"999999}")
	}
}

// TestServer_MissingIsNamed asks every endpoint whose path has an id for an object that does not
// exist: the message of the 404 names the kind and the id, or only the kind if the id might be a secret.
func TestServer_MissingIsNamed(t *testing.T) {
	a := newTestApp(t)
	_, key := a.key(everyPermission, `"limits": {"requests_per_minute_limit": 100000}`)
	named := 0
	ask := func(row Route, id string) {
		t.Helper()
		var w *httptest.ResponseRecorder
		path := fill(row.Path, id)
		body := `{"first_name": "X", "title": "T", "start_time": "2026-03-02T09:00:00Z", "end_time": "2026-03-02T10:00:00Z", "values": {"plan": "x"}, "url": "https://a.example.net/"}`
		switch row.Path[strings.LastIndexByte(row.Path, '/')+1:] {
		case "explain":
			body = `{"method": "GET", "path": "/api/v1/key"}`
		case "password":
			body = `{"password": "correct horse battery"}`
		case "redeliver":
			body = `{"log_id": 1}`
		case "complete", "fail", "heartbeat", "start":
			body = `{"lease_token": "0"}`
		case "cancel", "finish", "revoke", "rotate", "test":
			body = ""
		}
		if row.NoBody {
			body = ""
		}
		if strings.HasPrefix(row.Path, "/admin/") {
			w = a.control(row.Method, path, body)
		} else {
			w = askDoor(a.api, row.Method, path, body, "X-API-Key: "+key)
		}
		if w.Code != 404 {
			return
		}
		named++
		want := "There is no " + routeKind(row.Path)
		if ObjectID.MatchString(id) {
			want += " " + id + "."
		} else {
			want += " with this id."
		}
		if text := w.Body.String(); !strings.Contains(text, want) || code(w) != "not_found" {
			t.Errorf("%s %s: got %s, want %q", row.Method, path, text, want)
		}
	}
	for _, row := range slices.Concat(a.Server.o.Keyed, a.Server.o.Admin) {
		if routeKind(row.Path) != "" {
			for _, id := range []string{"999999", "key_0123456789abcdef", "klen_0123"} {
				ask(row, id)
			}
		}
	}
	if named < 100 {
		t.Errorf("got %d answers 404, want those of all endpoints with an id", named)
	}
}

// TestServer_EachToItsDoor tries every kind of credential in every place of the
// other kinds.
func TestServer_EachToItsDoor(t *testing.T) {
	b := newDashboard(t)
	_, key := b.key(everyPermission)
	token := b.token()
	session := b.sessionCookie().Value
	cookie := "Cookie: " + b.plainCookie() + "="
	site := "Sec-Fetch-Site: same-origin"
	fresh := func() { b.Server.throttle = NewThrottle(60, time.Minute) } // this is not about it
	for _, row := range slices.Concat(b.Server.o.Keyed, b.Server.o.Free) {
		for _, fields := range [][]string{
			{cookie + session}, {cookie + key}, {cookie + token}, {"Authorization: Bearer " + session}, {"Authorization: Bearer " + token}, {"X-API-Key: " + token},
			{"X-API-Key: " + session}, {"Authorization: Basic " + key}, {"Authorization: " + key}, {"Proxy-Authorization: Bearer " + key}, {"X-Auth-Key-Id: key_1"},
		} {
			fresh()
			if w := askDoor(b.api, row.Method, fill(row.Path, "1"), "", append(fields, site)...); w.Code != 401 {
				t.Errorf("%s %s with %.40s: got %d, want 401", row.Method, row.Path, fields[0], w.Code)
			}
		}
		fresh()
		r := httptest.NewRequest(row.Method, "http://127.0.0.1:8081"+fill(row.Path, "1"), nil)
		r.Header.Set("X-API-Key", key)
		r.Header.Set("Sec-Fetch-Site", "same-origin")
		w := httptest.NewRecorder()
		if b.door.ServeHTTP(w, r); w.Code != 404 {
			t.Errorf("%s %s on the admin listener: got %d, want 404", row.Method, row.Path, w.Code)
		}
	}
	for _, row := range b.Server.o.Admin {
		if row.Public {
			continue
		}
		path := fill(row.Path, "1")
		for _, tt := range []struct{ path, field string }{
			{path, "Authorization: Bearer " + key}, {path, "X-API-Key: " + token}, {path, "X-API-Key: " + key}, {path + "?api_key=" + token, "A: b"}, {path + "?api_key=" + key, "A: b"},
			{path + "?token=" + token, "A: b"}, {path, cookie + token}, {path, cookie + key}, {path, cookie}, {path, "Authorization: Bearer " + session}, {path, "Authorization: Basic " + token},
			{path, "Cookie: " + b.secureCookie() + "=" + session}, {path, "X-Forwarded-For: 127.0.0.1"},
		} {
			fresh()
			name, value, _ := strings.Cut(tt.field, ": ")
			r := httptest.NewRequest(row.Method, "http://127.0.0.1:8081"+tt.path, nil)
			r.Header.Set(name, value)
			r.Header.Set("Sec-Fetch-Site", "same-origin")
			w := httptest.NewRecorder()
			if b.door.ServeHTTP(w, r); w.Code != 401 {
				t.Errorf("%s %s with %.40s: got %d %.100s, want 401", row.Method, row.Path, tt.field, w.Code, w.Body)
			}
		}
		if w := askDoor(b.api, row.Method, path, "", "Authorization: Bearer "+token); w.Code != 404 && w.Code != 405 && row.Path != "/metrics" {
			t.Errorf("%s %s on the API listener: got %d, want 404", row.Method, row.Path, w.Code)
		}
	}
}

// TestServer_NothingByGET asks for every page and list as a link on another site
// would have a browser do, with the login: nothing changes, nobody else may
// read an answer, and nobody may frame a page.
func TestServer_NothingByGET(t *testing.T) {
	b := newDashboard(t)
	hostile := hostileApp(b)
	audit := func() any { return b.operate(200, "GET", "/admin/v1/audit?limit=1", "")["count"] }
	before := audit()
	for _, path := range append(hostile, "/", "/login", "/setup", "/logout", "/metrics", "/openapi.json", "/reference") {
		for _, method := range []string{"GET", "HEAD", "OPTIONS"} {
			r := b.request(method, path)
			r.Header.Set("Sec-Fetch-Site", "cross-site")
			r.Header.Set("Origin", "https://evil.example")
			w := b.send(r)
			for name := range w.Header() {
				if strings.HasPrefix(name, "Access-Control-") {
					t.Errorf("%s %s: got %s", method, path, name)
				}
			}
			if h := w.Header(); h.Get("X-Frame-Options") != "DENY" || h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Referrer-Policy") != "no-referrer" {
				t.Errorf("%s %s: got %v", method, path, h)
			}
		}
	}
	if now := audit(); now != before {
		t.Errorf("%v entries of the audit log, want %v", now, before)
	}
	for _, row := range slices.Concat(b.Server.o.Keyed, b.Server.o.Free, b.Server.o.Open) {
		w := askDoor(b.api, row.Method, fill(row.Path, "1"), "", "Origin: https://evil.example", "Access-Control-Request-Method: POST")
		if w.Header().Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s %s may be read by other sites", row.Method, row.Path)
		}
	}
}

// hostileTexts are what people put into fields to have a browser run it.
var hostileTexts = []string{`<script>alert(1)</script>`, `"><img src=x onerror=alert(1)>`, `javascript:alert(1)`, `{{7*7}}`, "\u202etxt.exe", `'-alert(1)-'`, `</title><svg onload=alert(1)>`, strings.Repeat("W", 150)}

// hostileApp fills every kind of record with such texts and gives the addresses
// of all pages that show them.
func hostileApp(b *browser) (paths []string) {
	b.t.Helper()
	keyID := ""
	for i, text := range hostileTexts {
		q := fmt.Sprintf("%q", text)
		name := fmt.Sprintf("%q", text+fmt.Sprint(i))
		keyID, _ = b.key(`["can_read_calls"]`, `"owner": `+name, `"metadata": {"note": `+q+`}`)
		b.operate(200, "PATCH", "/admin/v1/keys/"+keyID, `{"name": `+q+`}`)
		for path, body := range map[string]string{
			"agents": `{"name": N, "model": N, "voice_id": N}`, "teams": `{"name": U, "members": [U]}`, "tokens": `{"name": N}`,
			"contacts": `{"first_name": N, "last_name": N, "company": N, "website": N, "address": N, "city": N, "tags": [N]}`,
			"events":   `{"title": N, "description": N, "location": N, "video_conference_url": N, "customer_name": N, "customer_notes": N, "start_time": "2026-03-02T09:00:00Z", "end_time": "2026-03-02T10:00:00Z"}`,
		} {
			b.operate(201, "POST", "/admin/v1/"+path, strings.NewReplacer("N", q, "U", name).Replace(body))
		}
		paths = append(paths, "/keys/"+keyID, fmt.Sprint("/contacts/", i+1), fmt.Sprint("/events/", i+1), fmt.Sprint("/agents/", i+1), fmt.Sprint("/teams/", i+1), fmt.Sprint("/owners/", i+1),
			"/keys?search="+url.QueryEscape(text), "/contacts?search="+url.QueryEscape(text), "/login?next="+url.QueryEscape(text), "/keys?done="+url.QueryEscape(text), "/setup?token="+url.QueryEscape(text),
			"/audit?object="+url.QueryEscape(text), "/keys/"+url.PathEscape(text))
	}
	for _, pattern := range pagePatterns(b.t) {
		if method, path, _ := strings.Cut(pattern, " "); method == "GET" {
			paths = append(paths, strings.NewReplacer("{id}", "1", "{$}", "").Replace(path))
		}
	}
	return paths
}

// TestPages_Hostile looks at all pages: browser.send finds scripts and styles
// within; here it is the texts themselves, which may stand only escaped.
func TestPages_Hostile(t *testing.T) {
	b := newDashboard(t)
	shown := 0
	for _, path := range hostileApp(b) {
		w := b.get(path)
		page := w.Body.String()
		for _, raw := range []string{"<script>alert", "<img src=x", "<svg onload", "onerror=alert(1)>", ">49<", "href=\"javascript", "href='javascript"} {
			if strings.Contains(page, raw) {
				t.Errorf("%s: %q stands on the page", path, raw)
			}
		}
		if w.Code >= 500 {
			t.Errorf("%s: got %d", path, w.Code)
		}
		if strings.Contains(page, "&lt;script&gt;alert(1)") {
			shown++
		}
	}
	if shown < 8 {
		t.Errorf("the texts stand on %d pages, so this looked at nothing", shown)
	}
}

// TestServer_ForgedAddress: who is held to an address cannot write another one
// into a header field.
func TestServer_ForgedAddress(t *testing.T) {
	a := newTestApp(t, func(c *Config) { c.Server.TrustedProxies = []string{"10.0.0.0/8"} })
	_, key := a.key(`["can_read_agents"]`, `"allowed_ips": ["203.0.113.0/24"]`)
	for _, tt := range []struct {
		peer   string
		fields []string
		want   int
	}{
		{"203.0.113.5:1", nil, 200},
		{"198.51.100.1:1", nil, 403},
		{"198.51.100.1:1", []string{"X-Forwarded-For: 203.0.113.5"}, 403},
		{"10.0.0.1:1", []string{"X-Forwarded-For: 203.0.113.5"}, 200},
		{"10.0.0.1:1", []string{"X-Forwarded-For: 203.0.113.5, 198.51.100.1"}, 403},
		{"10.0.0.1:1", []string{"X-Forwarded-For: 203.0.113.5", "X-Forwarded-For: 198.51.100.1"}, 403},
		{"10.0.0.1:1", []string{"X-Forwarded-For: 198.51.100.1, 203.0.113.5"}, 200},
		{"10.0.0.1:1", []string{"X-Real-IP: 203.0.113.5"}, 403},
		{"10.0.0.1:1", []string{"Forwarded: for=203.0.113.5"}, 200},
		{"198.51.100.1:1", []string{"Forwarded: for=203.0.113.5"}, 403},
		{"10.0.0.1:1", []string{"Forwarded: for=203.0.113.5, for=198.51.100.1"}, 403},
		{"10.0.0.1:1", []string{"X-Forwarded-For: 203.0.113.5", "Forwarded: for=198.51.100.1"}, 403},
		{"10.0.0.1:1", []string{"X-Forwarded-For: 198.51.100.1", "Forwarded: for=203.0.113.5"}, 403},
		{"10.0.0.1:1", []string{"X-Forwarded-For: unknown"}, 403},
		{"10.0.0.1:1", []string{"X-Forwarded-For: 203.0.113.5, what"}, 403},
		{"[::ffff:203.0.113.5]:1", nil, 200},
	} {
		r, w := httptest.NewRequest("GET", "/api/v1/agents", nil), httptest.NewRecorder()
		r.RemoteAddr = tt.peer
		for _, f := range append(tt.fields, "X-API-Key: "+key) {
			name, value, _ := strings.Cut(f, ": ")
			r.Header.Add(name, value)
		}
		if a.api.ServeHTTP(w, r); w.Code != tt.want {
			t.Errorf("%s %v: got %d, want %d", tt.peer, tt.fields, w.Code, tt.want)
		}
	}
}

// Who guesses passwords at many places at once has no more tries than one after
// the other: each counts before it is looked at.
func TestDashboard_LoginsAtOnce(t *testing.T) {
	b := newDashboard(t)
	var mu sync.Mutex
	got := map[int]int{}
	var wg sync.WaitGroup
	for range 60 {
		wg.Go(func() {
			r := b.request("POST", "/login", "name", "Ann", "password", "not it at all")
			r.Header.Set("Sec-Fetch-Site", "same-origin")
			w := httptest.NewRecorder()
			b.door.ServeHTTP(w, r)
			mu.Lock()
			defer mu.Unlock()
			got[w.Code]++
		})
	}
	wg.Wait()
	if got[401] != loginsByAddress || got[429] != 60-loginsByAddress {
		t.Errorf("got %v, want %d tries", got, loginsByAddress)
	}
	if w := b.get("/keys"); w.Code != 200 {
		t.Errorf("who has logged in: got %d, want 200", w.Code)
	}
	b.clocks.Pass(loginSpan)
	for range 2 * loginsByAddress { // those that go well cost nothing
		if w := b.post("/login", "name", "Ann", "password", operatorPassword); w.Code != 303 {
			t.Fatalf("got %d, want to be in", w.Code)
		}
	}
}

// Long names are no way to fill the memory, and a set-up link that does not hold
// is refused before any hashing.
func TestDashboard_CheapRefusals(t *testing.T) {
	b := newDashboard(t)
	accounts := b.accounts
	d, err := dashboard.New(dashboard.Options{Accounts: accounts, Now: b.clock.Now, Log: b.logger().Logger, Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	door, err := d.Handler()
	if err != nil {
		t.Fatal(err)
	}
	ask := func(path string, form ...string) int {
		r, w := b.request("POST", path, form...), httptest.NewRecorder()
		r.Header.Set("Sec-Fetch-Site", "same-origin")
		door.ServeHTTP(w, r)
		return w.Code
	}
	if got := ask("/login", "name", strings.Repeat("x", 60<<10), "password", "p"); got != 401 {
		t.Errorf("got %d, want 401", got)
	}
	for name := range accounts.guesses.byAccount.seen {
		if len(name) > 128 {
			t.Errorf("an account's name of %d bytes is kept", len(name))
		}
	}
	for range cap(b.Operators.hashing) { // who hashes now waits
		b.Operators.hashing <- struct{}{}
	}
	got := make(chan int, 1)
	go func() {
		got <- ask("/setup", "name", "Eve", "password", operatorPassword, "token", strings.Repeat("0", 64))
	}()
	select {
	case status := <-got:
		if status != 403 {
			t.Errorf("set-up: got %d, want 403", status)
		}
	case <-time.After(time.Minute):
		t.Error("set-up with a link that does not hold: the password is hashed")
	}
	for range cap(b.Operators.hashing) {
		<-b.Operators.hashing
	}
}

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
func (a *testApp) keyStates(owner string, also ...string) []keyState {
	const many = `"limits": {"requests_per_minute_limit": 1000000, "calls_per_day_limit": 100000, "calendar_events_per_day_limit": 100000}`
	make := func(more ...string) (id, secret string) {
		return a.key(everyPermission, slices.Concat(more, also, []string{many, fmt.Sprintf(`"owner": %q`, owner)})...)
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
		{"no", "", 401}, {"unknown", keytext.NewSecret("klen_"), 401},
	}
}

// TestServer_StatesAndOwners sends keys in all states to every endpoint that has an id,
// with the id of a record of the key's owner, of another owner, and of none. A key that is
// refused gets the same answer for all three. A valid one gets the same answer for a record
// of another owner as for none. No record of another owner changes, and a key that is refused
// changes none at all.
//
// An owner and the owner's sandbox are two owners here.
func TestServer_StatesAndOwners(t *testing.T) {
	const live, sandbox = `"sandbox": false`, `"sandbox": true`
	for _, tt := range []struct {
		name string
		pair spaces
	}{
		{"two owners", spaces{live, "bob", live}}, {"an owner and the owner's sandbox", spaces{live, "ann", sandbox}}, {"a sandbox and its owner", spaces{sandbox, "ann", live}},
		{"two sandboxes", spaces{sandbox, "bob", sandbox}},
	} {
		t.Run(tt.name, tt.pair.test)
	}
}

// spaces are those of ann and of another owner, or two of ann.
type spaces struct{ mine, other, theirs string }

func (s spaces) test(t *testing.T) {
	a := newHookApp(t, inMemory(t))
	for _, owner := range []string{"ann", "bob"} {
		a.operate(201, "POST", "/admin/v1/agents", `{"name": "Front desk", "phone_number": "+4930555001", "owner": "`+owner+`"}`)
	}
	made := 0
	ann := a.keyStates("ann", s.mine)
	_, bobs := a.key(everyPermission, s.theirs, fmt.Sprintf(`"owner": %q`, s.other), `"limits": {"requests_per_minute_limit": 1000000}`)
	own, other := owned{a, ann[0].secret, a.firstAgent(ann[0].secret), &made}, owned{a, bobs, a.firstAgent(bobs), &made}
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
			return w.Code, strings.Replace(answerOf(w), " "+id+`."`, ` ID."`, 1) // the message of a 404 names the id
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
// have ended, by a sign-out and by time, at every endpoint of the admin listener, and
// what holds at the door of keys.
func TestServer_EndedCredentials(t *testing.T) {
	b := newDashboard(t)
	session := func() string { return b.sessionCookie().Value }
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
	let := map[string]bool{"Cookie: " + b.plainCookie() + "=" + holds: true, "Authorization: Bearer " + token: true}
	for _, row := range b.Server.o.Admin {
		if row.Public {
			continue
		}
		for _, field := range []string{
			"Authorization: Bearer " + made["token"].(string), "Cookie: " + b.plainCookie() + "=" + idle, "Cookie: " + b.plainCookie() + "=" + left,
			"Cookie: " + b.plainCookie() + "=" + holds, "Authorization: Bearer " + token,
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
