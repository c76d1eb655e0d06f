package main

import (
	"compress/gzip"
	"errors"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"latchkey/dashboard"
	"latchkey/internal/keytext"
)

const operatorPassword = "correct horse battery"

// plainCookie returns the name of the cookie with a session, without TLS.
func (a *testApp) plainCookie() string { return "latchkey_session_" + a.instance() }

// secureCookie returns the name of the cookie with a session under TLS.
func (a *testApp) secureCookie() string { return "__Host-latchkey_session_" + a.instance() }

// browser is a client of the dashboard without a browser: it keeps cookies and
// follows no redirect by itself.
type browser struct {
	*testApp
	door http.Handler
	jar  http.CookieJar
}

func newBrowser(a *testApp) *browser {
	a.t.Helper()
	door, err := a.AdminDoor()
	if err != nil {
		a.t.Fatal(err)
	}
	jar, err := cookiejar.New(nil)
	if err != nil {
		a.t.Fatal(err)
	}
	return &browser{a, door, jar}
}

// newDashboard is a service with an operator who has logged in.
func newDashboard(t testing.TB, change ...func(*Config)) *browser {
	a := newTestApp(t, change...)
	a.Server.ListensAt("http://127.0.0.1:8080")
	b := newBrowser(a)
	b.operate(201, "POST", "/admin/v1/operators", `{"name": "Ann", "password": "`+operatorPassword+`"}`)
	if w := b.post("/login", "name", "ann", "password", operatorPassword); w.Code != 303 || w.Header().Get("Location") != "/keys" {
		t.Fatalf("log in: got %d %s", w.Code, w.Body)
	}
	return b
}

// sessionCookie returns the cookie with the session.
func (b *browser) sessionCookie() *http.Cookie {
	b.t.Helper()
	for _, c := range b.jar.Cookies(b.request("GET", "/").URL) {
		if c.Name == b.plainCookie() {
			return c
		}
	}
	b.t.Fatal("the browser has no session")
	return nil
}

// prove has the operator's session count as one in which the password was confirmed just now.
func (b *browser) prove() {
	b.t.Helper()
	b.change(func(op *operator, login *loginSession) { login.ProvenAt = b.clock.Latest(b.clock.Now()) })
}

// change changes the stored records of the operator and of the session.
func (b *browser) change(change func(*operator, *loginSession)) {
	b.t.Helper()
	err := b.Store.Update(func(tx *Tx) error {
		login, err1 := sessionTable.Get(tx, sessionHash(b.sessionCookie().Value))
		op, err2 := b.Operators.Get(tx, login.Operator)
		change(&op, &login)
		return errors.Join(err1, err2, OperatorTable.Put(tx, op), sessionTable.Put(tx, login))
	})
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *browser) send(r *http.Request) *httptest.ResponseRecorder {
	b.t.Helper()
	home := &url.URL{Scheme: "http", Host: "127.0.0.1:8081"}
	for _, c := range b.jar.Cookies(home) {
		r.AddCookie(c)
	}
	w := httptest.NewRecorder()
	b.door.ServeHTTP(w, r)
	b.jar.SetCookies(home, w.Result().Cookies())
	h := w.Header()
	if csp := h.Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") || !strings.Contains(csp, "frame-ancestors 'none'") {
		b.t.Errorf("%s: got policy %q", r.URL, csp)
	}
	if kind := h.Get("Content-Type"); strings.HasPrefix(kind, "text/html") {
		page := w.Body.String()
		bare := regexp.MustCompile(`="[^"]*"`).ReplaceAllString(page, `=""`) // tags without what their attributes say
		if regexp.MustCompile(`(?i)<[^>]*\s(on[a-z]+|style)=|<script[^>]*>[^<]`).MatchString(bare) || regexp.MustCompile(`(?i)(href|src|action)="\s*(javascript|data):`).MatchString(page) {
			b.t.Errorf("%s: the page has a script or a style within", r.URL)
		}
	}
	return w
}

func (b *browser) request(method, path string, form ...string) *http.Request {
	v := url.Values{}
	for i := 0; i < len(form); i += 2 {
		v.Add(form[i], form[i+1])
	}
	r := httptest.NewRequest(method, "http://127.0.0.1:8081"+path, strings.NewReader(v.Encode()))
	if method == "POST" {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	return r
}

func (b *browser) get(path string) *httptest.ResponseRecorder { return b.send(b.request("GET", path)) }

func (b *browser) post(path string, form ...string) *httptest.ResponseRecorder {
	r := b.request("POST", path, form...)
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	return b.send(r)
}

// pagePatterns lists the pages that need a login, without the mark of a path that ends with a slash.
func pagePatterns(t testing.TB) []string {
	d, err := dashboard.New(dashboard.Options{})
	if err != nil {
		t.Fatal(err)
	}
	list := d.Patterns()
	for i, pattern := range list {
		list[i] = strings.TrimSuffix(pattern, "{$}")
	}
	return list
}

// TestDashboard_NeedsLogin asks for every page without one.
func TestDashboard_NeedsLogin(t *testing.T) {
	b := newDashboard(t)
	patterns := pagePatterns(t)
	if len(patterns) < 50 {
		t.Errorf("got %d pages", len(patterns))
	}
	stranger := newBrowser(b.testApp)
	for _, pattern := range patterns {
		method, path, _ := strings.Cut(pattern, " ")
		path = strings.NewReplacer("{id}", "key_1", "{verb}", "revoke").Replace(path)
		r := stranger.request(method, path)
		r.Header.Set("Sec-Fetch-Site", "same-origin")
		w := stranger.send(r)
		if form := `action="` + path + `"`; w.Code == 401 && strings.Contains(w.Body.String(), form) && strings.Contains(w.Body.String(), `name="login.password"`) {
			continue // what was sent goes on after the login
		}
		if w.Code != 303 || !strings.HasPrefix(w.Header().Get("Location"), "/login") {
			t.Errorf("%s: got %d to %q, want to be sent to the login", pattern, w.Code, w.Header().Get("Location"))
		}
	}
	if w := stranger.get("/admin/v1/keys"); w.Code != 401 {
		t.Errorf("the admin endpoint: got %d, want 401", w.Code)
	}
	if w := b.get("/admin/v1/keys"); w.Code != 200 {
		t.Errorf("with a login: got %d %s, want 200", w.Code, w.Body)
	}
	if w := stranger.get("/nothing"); w.Code != 404 {
		t.Errorf("got %d, want 404", w.Code)
	}
}

func TestDashboard_Setup(t *testing.T) {
	a := newTestApp(t)
	b := newBrowser(a)
	if w := b.get("/login"); !strings.Contains(w.Body.String(), "admin setup-link") {
		t.Errorf("got %s, want the way to the first operator", w.Body)
	}
	link := func() string { return a.operate(201, "POST", "/admin/v1/setup-link", "")["path"].(string) }
	first := link()
	second := link()
	if w := b.get(first); w.Code != 403 {
		t.Errorf("a link that another replaced: got %d, want 403", w.Code)
	}
	if data, _ := a.Store.Stamp(); strings.Contains(string(data), "token") {
		t.Error("the token is stored")
	}
	a.clocks.Pass(setupSpan)
	if w := b.get(second); w.Code != 403 {
		t.Errorf("after half an hour: got %d, want 403", w.Code)
	}
	third := link()
	token := strings.TrimPrefix(third, SetupPath(""))
	if w := b.get(third); w.Code != 200 || !strings.Contains(w.Body.String(), "Create account") {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	for _, form := range [][]string{{"name", "", "password", operatorPassword}, {"name", "Ann", "password", "short"}} {
		if w := b.post("/setup", append(form, "token", token)...); w.Code != 400 || !strings.Contains(w.Body.String(), "role=\"alert\"") {
			t.Errorf("%v: got %d %s", form, w.Code, w.Body)
		}
	}
	for _, token := range []string{"", "none", strings.Repeat("0", 64)} {
		if w := b.post("/setup", "name", "Eve", "password", operatorPassword, "token", token); w.Code != 403 {
			t.Errorf("token %q: got %d, want 403", token, w.Code)
		}
	}
	if w := b.post("/setup", "name", "Ann", "password", operatorPassword, "token", token); w.Code != 303 {
		t.Fatalf("got %d %s", w.Code, w.Body)
	}
	if w := b.get("/keys"); w.Code != 200 || !strings.Contains(w.Body.String(), "No key yet") {
		t.Errorf("got %d %s, want the empty list", w.Code, w.Body)
	}
	if w := b.post("/setup", "name", "Eve", "password", operatorPassword, "token", token); w.Code != 403 {
		t.Errorf("a second time: got %d, want 403", w.Code)
	}
	a.operate(409, "POST", "/admin/v1/setup-link", "")
}

// TestDashboard_Vocabulary holds the words of the pages against those of the
// endpoints.
func TestDashboard_Vocabulary(t *testing.T) {
	want := dashboard.Words{
		DefaultOwner: DefaultOwner, LiveKeys: StatusLive, AnyKeys: statusAny, KeyStates: KeyStates(), KeyTags: keyTags(), Carriers: CarrierNames(), CallStates: callStates(), CallTypes: callTypes(), FailReasons: failReasons(),
		EventStates: eventStates(), EventTypes: eventKinds(), WebhookEvents: OperatorEventTypes(), ContactColumns: contactColumns(), VariableTypes: variableTypes(), ContextTypes: contextTypes(),
		AgentRoles: agentRoles(), Weekdays: dayNames(), AuditResults: AuditResults(), AuditKinds: AuditKinds(), ActivityKinds: ActivityKinds(), Roles: GrantNames(Roles()), TokenScopes: tokenScopes(),
	}
	got, ours := reflect.ValueOf(dashboard.Vocabulary()), reflect.ValueOf(want)
	for i := range got.NumField() {
		name, words := got.Type().Field(i).Name, got.Field(i).Interface()
		if ours.Field(i).IsZero() || !reflect.DeepEqual(words, ours.Field(i).Interface()) {
			t.Errorf("%s: the pages have %q, the endpoints %q", name, words, ours.Field(i).Interface())
		}
	}
}

// tokenScopes returns the names of the scopes of admin tokens, each with what it is for.
func tokenScopes() (list [][2]string) {
	for _, scope := range Scopes() {
		list = append(list, [2]string{scope.Name, scope.About})
	}
	return list
}

func TestDashboard_Login(t *testing.T) {
	b := newDashboard(t)
	other := newBrowser(b.testApp)
	unknown := other.post("/login", "name", "nobody", "password", operatorPassword)
	wrong := other.post("/login", "name", "Ann", "password", "not it at all")
	if unknown.Code != 401 || wrong.Code != 401 || !strings.Contains(wrong.Body.String(), "name or the password is wrong") {
		t.Errorf("got %d and %d", unknown.Code, wrong.Code)
	}
	if a, b := unknown.Body.String(), strings.Replace(wrong.Body.String(), `value="Ann"`, `value="nobody"`, 1); a != b {
		t.Error("an unknown name and a wrong password look different")
	}
	for range loginsByAddress - 2 {
		other.post("/login", "name", "Ann", "password", "not it at all")
	}
	if w := other.post("/login", "name", "Ann", "password", operatorPassword); w.Code != 429 || w.Header().Get("Retry-After") != "900" {
		t.Errorf("after %d failures: got %d %v, want 429", loginsByAddress, w.Code, w.Header())
	}
	if w := b.get("/keys"); w.Code != 200 {
		t.Errorf("who has logged in: got %d, want 200", w.Code)
	}
	b.clocks.Pass(loginSpan)
	if w := other.post("/login", "name", "Ann", "password", operatorPassword, "next", "//evil.example/x"); w.Code != 303 || w.Header().Get("Location") != "/keys" {
		t.Errorf("got %d to %q, want to the keys and nowhere else", w.Code, w.Header().Get("Location"))
	}
}

func TestDashboard_Sessions(t *testing.T) {
	b := newDashboard(t)
	// A token that was there before the login is none after it.
	fixed := newBrowser(b.testApp)
	fixed.jar.SetCookies(&url.URL{Scheme: "http", Host: "127.0.0.1:8081"}, []*http.Cookie{{Name: b.plainCookie(), Value: "chosen"}})
	w := fixed.post("/login", "name", "Ann", "password", operatorPassword)
	cookie := w.Result().Cookies()[0]
	if cookie.Value == "chosen" || len(cookie.Value) != 64 || !cookie.HttpOnly || cookie.SameSite != http.SameSiteLaxMode || cookie.Path != "/" {
		t.Errorf("got %+v", cookie)
	}
	if w := fixed.post("/account", "old", "wrong wrong wrong", "password", "another password"); w.Code != 400 {
		t.Errorf("the old password is wrong: got %d", w.Code)
	}
	if w := fixed.post("/account", "old", operatorPassword, "password", "another password"); w.Code != 303 {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	if w := b.get("/keys"); w.Code != 303 {
		t.Errorf("another session after the change: got %d, want to be sent to the login", w.Code)
	}
	if w := fixed.get("/keys"); w.Code != 200 {
		t.Errorf("this session: got %d, want 200", w.Code)
	}
	second := newBrowser(b.testApp)
	second.post("/login", "name", "Ann", "password", "another password")
	if w := second.post("/logout"); w.Code != 303 {
		t.Errorf("got %d", w.Code)
	}
	if w := second.get("/keys"); w.Code != 303 {
		t.Errorf("after the sign-out: got %d", w.Code)
	}
	second.post("/login", "name", "Ann", "password", "another password")
	second.post("/logout-everywhere")
	for _, s := range []*browser{second, fixed} {
		if w := s.get("/keys"); w.Code != 303 {
			t.Errorf("after the sign-out everywhere: got %d", w.Code)
		}
	}
	fixed.post("/login", "name", "Ann", "password", "another password")
	b.clocks.Pass(11 * time.Hour)
	if w := fixed.get("/keys"); w.Code != 200 {
		t.Errorf("idle for 11 hours: got %d", w.Code)
	}
	b.clocks.Pass(12 * time.Hour)
	if w := fixed.get("/keys"); w.Code != 303 {
		t.Errorf("idle for 12 hours: got %d, want to be sent to the login", w.Code)
	}
	fixed.post("/login", "name", "Ann", "password", "another password")
	for range 16 {
		fixed.get("/keys")
		b.clocks.Pass(11 * time.Hour)
	}
	if w := fixed.get("/keys"); w.Code != 303 {
		t.Errorf("after more than a week in use: got %d, want to be sent to the login", w.Code)
	}
}

func TestDashboard_Guards(t *testing.T) {
	b := newDashboard(t)
	id, _ := b.key(`["can_read_calls"]`)
	for _, field := range []struct{ name, value string }{{"Sec-Fetch-Site", "cross-site"}, {"Origin", "https://evil.example"}} {
		for _, path := range []string{"/keys/" + id + "/revoke", "/admin/v1/keys/" + id + "/revoke", "/logout"} {
			r := b.request("POST", path)
			r.Header.Set(field.name, field.value)
			if w := b.send(r); w.Code != 403 {
				t.Errorf("%s with %s: got %d, want 403", path, field.name, w.Code)
			}
		}
	}
	for _, path := range []string{"/keys/" + id + "/revoke", "/admin/v1/keys/" + id + "/revoke", "/logout"} {
		if w := b.send(b.request("POST", path)); w.Code != 403 {
			t.Errorf("%s from nowhere: got %d, want 403", path, w.Code)
		}
	}
	for _, path := range []string{"/login", "/setup"} {
		if w := newBrowser(b.testApp).send(b.request("POST", path, "name", "Ann", "password", operatorPassword)); w.Code != 403 {
			t.Errorf("%s from nowhere: got %d, want 403", path, w.Code)
		}
	}
	if v := b.operate(200, "GET", "/admin/v1/keys/"+id, ""); v["status"] != "active" {
		t.Errorf("got %v, want the key as it was", v["status"])
	}
	for host, want := range map[string]int{
		"127.0.0.1:8081": 303, "localhost:8081": 303, "[::1]:8081": 303, "LOCALHOST": 303, "evil.example": 421, "evil.example:8081": 421, "127.0.0.1.evil.example": 421, "10.0.0.5:8081": 421, "": 421,
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Host = host
		w := httptest.NewRecorder()
		if b.door.ServeHTTP(w, r); w.Code != want {
			t.Errorf("host %q: got %d, want %d", host, w.Code, want)
		}
	}
	named := newBrowser(newTestApp(t, func(c *Config) {
		c.Admin.Hosts, c.Admin.BaseURL = []string{"keys.internal"}, "https://admin.example.com"
	}))
	for host, want := range map[string]int{"keys.internal:8081": 303, "admin.example.com": 303, "other.internal": 421} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Host = host
		w := httptest.NewRecorder()
		if named.door.ServeHTTP(w, r); w.Code != want {
			t.Errorf("host %q: got %d, want %d", host, w.Code, want)
		}
	}
	named.operate(201, "POST", "/admin/v1/operators", `{"name": "Ann", "password": "`+operatorPassword+`"}`)
	// What a proxy asks for under a name of its own, and without Sec-Fetch-Site.
	proxied := named.request("POST", "/login", "name", "nobody", "password", operatorPassword)
	proxied.Header.Set("Origin", "https://admin.example.com")
	if w := named.send(proxied); w.Code != 401 {
		t.Errorf("from the address of the dashboard: got %d, want 401", w.Code)
	}
	w := named.post("/login", "name", "ann", "password", operatorPassword)
	if c := w.Result().Cookies(); len(c) != 2 || c[0].Name != named.secureCookie() || !c[0].Secure || !strings.HasPrefix(c[1].Name, "__Host-latchkey_device_") || !c[1].Secure {
		t.Errorf("under TLS: got %v", c)
	}
}

// TestDashboard_Key goes through a key's life on the pages.
func TestDashboard_Key(t *testing.T) {
	b := newDashboard(t)
	const name = `<script>alert(1)</script>`
	if w := b.post("/keys", "name", name, "permission", "can_read_agents", "limit.requests_per_minute_limit", "many"); w.Code != 400 || !strings.Contains(w.Body.String(), "whole number") {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	if w := b.post("/keys", "name", name); w.Code != 400 || !strings.Contains(w.Body.String(), "&lt;script&gt;") {
		t.Errorf("without a permission: got %d %s, want the form with what was filled in", w.Code, w.Body)
	}
	w := b.post("/keys", "name", name, "permission", "can_read_agents", "permission", "can_read_calls", "limit.requests_per_minute_limit", "5", "ips", "192.0.2.0/24, 127.0.0.1", "expires", "2027-01-31T12:00")
	found := regexp.MustCompile(`value="(klen_[0-9A-Za-z]+)"`).FindStringSubmatch(w.Body.String())
	if w.Code != 201 || found == nil || w.Header().Get("Cache-Control") != "no-store" || strings.Contains(w.Body.String(), "<script>alert") {
		t.Fatalf("got %d %s", w.Code, w.Body)
	}
	id := regexp.MustCompile(`/keys/(key_[0-9a-f]+)/used`).FindStringSubmatch(w.Body.String())[1]
	for _, page := range []string{"/keys", "/keys/" + id, "/keys?search=script", "/keys?status=active"} {
		w := b.get(page)
		if w.Code != 200 || strings.Contains(w.Body.String(), found[1]) || strings.Contains(w.Body.String(), "<script>alert") || !strings.Contains(w.Body.String(), "&lt;script&gt;") {
			t.Errorf("%s: got %d %s", page, w.Code, w.Body)
		}
	}
	if w := b.get("/keys/" + id + "/used"); !strings.Contains(w.Body.String(), "Waiting for the first request") {
		t.Errorf("got %s", w.Body)
	}
	if w := b.ask("GET", "/api/v1/agents", found[1], ""); w.Code != 200 {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	if w := b.get("/keys/" + id + "/used"); !strings.Contains(w.Body.String(), "First request seen, from 192.0.2.1.") {
		t.Errorf("got %s", w.Body)
	}
	if w := b.get("/keys/" + id); !strings.Contains(w.Body.String(), `just now</time> from <span class="mono">192.0.2.1`) || !strings.Contains(w.Body.String(), "Requests per minute: 1 of 5") {
		t.Errorf("got %s", w.Body)
	}
	for _, tt := range []struct {
		path   string
		form   []string
		status int
		ask    int
	}{
		{"/pause", nil, 303, 401}, {"/resume", nil, 303, 200},
		{"/edit", []string{"name", "renamed", "permission", "can_read_calls", "limit.requests_per_minute_limit", "99"}, 303, 403},
		{"/edit", []string{"name", "", "permission", "can_read_calls"}, 400, 403},
		{"/edit", []string{"name", "renamed", "permission", "can_read_agents"}, 303, 200},
		{"/explode", nil, 404, 200},
		{"/rotate", []string{"overlap", "3600"}, 200, 200}, {"/rotate", []string{"overlap", "x"}, 400, 200}, {"/revoke", nil, 400, 200}, {"/revoke", []string{"confirm", "Renamed"}, 400, 200}, {"/revoke", []string{"confirm", "renamed"}, 303, 401}, {"/resume", nil, 409, 401},
	} {
		if w := b.post("/keys/"+id+tt.path, tt.form...); w.Code != tt.status {
			t.Errorf("%s %v: got %d %s, want %d", tt.path, tt.form, w.Code, w.Body, tt.status)
		}
		if w := b.ask("GET", "/api/v1/agents", found[1], ""); w.Code != tt.ask {
			t.Errorf("after %s %v: got %d %s, want %d", tt.path, tt.form, w.Code, w.Body, tt.ask)
		}
	}
	if w := b.get("/keys/key_none"); w.Code != 404 {
		t.Errorf("got %d, want 404", w.Code)
	}
	if w := b.get("/keys/" + id + "?done=<b>x"); strings.Contains(w.Body.String(), "<b>x") || !strings.Contains(w.Body.String(), "Revoked") {
		t.Errorf("got %s", w.Body)
	}
}

// The other pages, empty and with something on them, and lists of many pages.
func TestDashboard_Lists(t *testing.T) {
	b := newDashboard(t)
	paths := []string{"/calls", "/agents", "/contacts", "/webhooks"}
	for _, path := range paths {
		if w := b.get(path); w.Code != 200 || !strings.Contains(w.Body.String(), "0 in all") {
			t.Errorf("%s: got %d %s", path, w.Code, w.Body)
		}
	}
	b.operate(201, "POST", "/admin/v1/agents", `{"name": "Front desk", "phone_number": "+4930555001"}`)
	b.operate(201, "POST", "/admin/v1/contacts", `{"first_name": "<i>Mara</i>"}`)
	b.operate(201, "POST", "/admin/v1/calls", `{"agent_id": 1, "phone_number": "+4930555010"}`)
	b.operate(201, "POST", "/admin/v1/webhooks", `{"name": "W", "url": "https://hooks.example.net/x", "subscribed_events": ["call.ended"]}`)
	for i, want := range []string{"4930555010", "Front desk", "&lt;i&gt;Mara", "https://hooks.example.net/x"} {
		if w := b.get(paths[i]); w.Code != 200 || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s: got %d %s, want %q", paths[i], w.Code, w.Body, want)
		}
	}
	if w := b.get("/status"); w.Code != 200 || !strings.Contains(w.Body.String(), "http://127.0.0.1:8080") {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	var rows []string
	for i := range 60 {
		rows = append(rows, fmt.Sprintf(`{"name": "many %d", "permissions": ["can_read_calls"], "sha256": "%x"}`, i, keytext.DigestOf(fmt.Sprint(i))))
	}
	b.operate(201, "POST", "/admin/v1/keys/import", "["+strings.Join(rows, ",")+"]")
	first, last := b.get("/keys?search=many").Body.String(), b.get("/keys?search=many&page=3").Body.String()
	if !strings.Contains(first, `href="/keys?page=2&amp;search=many&amp;status=live"`) || strings.Contains(first, "Previous</a>") || !strings.Contains(last, "Page 3 of 3") || strings.Contains(last, "Next</a>") {
		t.Errorf("got %s\n%s", first, last)
	}
	if w := b.get("/keys?search=nothing-like-it"); !strings.Contains(w.Body.String(), "No keys match") {
		t.Errorf("got %s", w.Body)
	}
}

// Whatever the admin listener answers, no other site may show, embed or hold it.
func TestDashboard_SecurityFields(t *testing.T) {
	b := newDashboard(t)
	want := map[string]string{
		"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin", "Referrer-Policy": "no-referrer",
		"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY",
		"Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
	}
	misdirected, foreign := b.request("GET", "/login"), b.request("POST", "/logout")
	misdirected.Host = "evil.example"
	foreign.Header.Set("Origin", "https://evil.example")
	for _, tt := range []struct {
		request *http.Request
		status  int
	}{
		{b.request("GET", "/keys"), 200}, {b.request("GET", "/login"), 200}, {b.request("GET", "/static/style.css"), 200}, {b.request("GET", "/admin/v1/keys"), 200},
		{b.request("GET", "/nothing"), 404}, {misdirected, 421}, {foreign, 403}, {b.request("POST", "/logout"), 403}, {b.request("GET", "/"), 200},
	} {
		w := b.send(tt.request)
		if w.Code != tt.status {
			t.Errorf("%s: got %d, want %d", tt.request.URL, w.Code, tt.status)
		}
		for name, value := range want {
			if got := w.Header()[name]; len(got) != 1 || got[0] != value {
				t.Errorf("%s: %s: got %q, want %q", tt.request.URL, name, got, value)
			}
		}
	}
}

// Each page loads its files under addresses that change with the content, so browsers keep them. They are
// packed if the browser takes that, and not sent again if it has them.
func TestDashboard_Static(t *testing.T) {
	b := newDashboard(t)
	page := b.get("/keys").Body.String()
	for _, name := range []string{"style.css", "script.js", "icon.svg"} {
		at := regexp.MustCompile(`/static/` + regexp.QuoteMeta(name) + `\?v=[0-9a-f]{24}`).FindString(page)
		if at == "" {
			t.Fatalf("the page does not load %s", name)
		}
		ask := func(path, encoding, known string) *httptest.ResponseRecorder {
			r := b.request("GET", path)
			r.Header.Set("Accept-Encoding", encoding)
			r.Header.Set("If-None-Match", known)
			w := b.send(r)
			if got := w.Header().Get("Vary"); got != "Accept-Encoding" {
				t.Errorf("%s: got Vary %q", path, got)
			}
			return w
		}
		plain := ask(at, "", "")
		if got := plain.Header().Get("Cache-Control"); plain.Code != 200 || !strings.Contains(got, "immutable") || plain.Header().Get("Content-Encoding") != "" {
			t.Errorf("%s: got %d, %q", at, plain.Code, plain.Header())
		}
		for _, path := range []string{"/static/" + name, at + "0"} {
			if got := ask(path, "", "").Header().Get("Cache-Control"); got != "no-cache" {
				t.Errorf("%s: got %q, want no-cache", path, got)
			}
		}
		for _, encoding := range []string{"gzip;q=0", "br", "identity, gzip; q=0.0", "*;q=0"} {
			if got := ask(at, encoding, "").Header().Get("Content-Encoding"); got != "" {
				t.Errorf("%q: got %s", encoding, got)
			}
		}
		tags := map[string]bool{plain.Header().Get("ETag"): true}
		for _, encoding := range []string{"gzip, deflate, br", "br;q=1.0, GZIP;q=0.5", "*"} {
			w := ask(at, encoding, "")
			if w.Header().Get("Content-Encoding") != "gzip" || w.Header().Get("Content-Type") != plain.Header().Get("Content-Type") {
				t.Fatalf("%q: got %v", encoding, w.Header())
			}
			size := w.Body.Len()
			unpacked, err := gzip.NewReader(w.Body)
			if err != nil {
				t.Fatal(err)
			}
			if data, err := io.ReadAll(unpacked); err != nil || string(data) != plain.Body.String() {
				t.Errorf("%q: got other content, %v", encoding, err)
			}
			if name != "icon.svg" && size*2 > plain.Body.Len() {
				t.Errorf("%s: got %d bytes of %d", name, size, plain.Body.Len())
			}
			tag := w.Header().Get("ETag")
			tags[tag] = true
			if again := ask(at, encoding, tag); again.Code != 304 || again.Body.Len() != 0 {
				t.Errorf("%s: got %d, want 304", name, again.Code)
			}
		}
		if again := ask(at, "gzip", plain.Header().Get("ETag")); len(tags) != 2 || again.Code != 200 {
			t.Errorf("%s: got the tags %v and %d, want two forms", name, tags, again.Code)
		}
	}
}

// What has no page, or not in this way, is answered with a page that says so and leads on.
func TestDashboard_Faults(t *testing.T) {
	b := newDashboard(t)
	stranger := newBrowser(b.testApp)
	for _, tt := range []struct {
		method, path  string
		status        int
		title, text   string
		back, allowed string
	}{
		{"GET", "/nothing", 404, "Not found", "There is no page at this URL", `href="/"`, ""},
		{"GET", "/static/none.js", 404, "Not found", "There is no page at this URL", `href="/"`, ""},
		{"GET", "/keys/key_none", 404, "Not found", "There is no key with this id.", `<a class="button" href="/keys">API Keys</a>`, ""},
		{"GET", "/webhooks/99", 404, "Not found", "There is no webhook 99.", `<a class="button" href="/webhooks">Webhooks</a>`, ""},
		{"GET", "/requests/none", 404, "Not found", "not among the latest", `<a class="button" href="/requests">Requests</a>`, ""},
		{"POST", "/requests", 405, "That did not work", "does not accept POST requests", `<a class="button" href="/requests">Requests</a>`, "GET, HEAD"},
		{"DELETE", "/keys", 405, "That did not work", "does not accept DELETE requests", `<a class="button" href="/keys">API Keys</a>`, "GET, HEAD, POST"},
	} {
		for who, browser := range map[string]*browser{"operator": b, "stranger": stranger} {
			r := browser.request(tt.method, tt.path)
			r.Header.Set("Sec-Fetch-Site", "same-origin")
			w := browser.send(r)
			if who == "stranger" && w.Code == 303 { // to the login
				continue
			}
			browser.says(w, tt.status, `<html lang="en">`, "<title>"+tt.title+" - Latchkey</title>", "<h1>"+tt.title+"</h1>", `role="alert"`, tt.text, `href="/"`, "style.css")
			if who == "operator" && !strings.Contains(w.Body.String(), tt.back) || strings.Contains(w.Body.String(), "Log out") != (who == "operator") {
				t.Errorf("%s, %s %s: got %s", who, tt.method, tt.path, w.Body)
			}
			if got := w.Header().Get("Allow"); got != tt.allowed {
				t.Errorf("%s %s: got Allow %q, want %q", tt.method, tt.path, got, tt.allowed)
			}
		}
	}
}

// evil is a name that would run if a page forgot to escape it.
const evil = `"><img src=x onerror=alert(1)><script>alert(1)</script>`

// tame wants a page that shows evil as text alone.
func (b *browser) tame(where string, w *httptest.ResponseRecorder) {
	b.t.Helper()
	if body := w.Body.String(); strings.Contains(body, "<img") || strings.Contains(body, "<script>") || !strings.Contains(body, "&lt;script&gt;") {
		b.t.Errorf("%s: the name is not shown as text: %s", where, body)
	}
}

// says wants a status and a text on a page.
func (b *browser) says(w *httptest.ResponseRecorder, status int, texts ...string) {
	b.t.Helper()
	if w.Code != status {
		b.t.Errorf("got %d %s, want %d", w.Code, w.Body, status)
	}
	for _, text := range texts {
		if body := w.Body.String(); !strings.Contains(body, text) && !strings.Contains(html.UnescapeString(body), text) {
			b.t.Errorf("got %s, want it to say %q", w.Body, text)
		}
	}
}

// sent wants to be led to another page, and gives its address.
func (b *browser) sent(w *httptest.ResponseRecorder, to string) string {
	b.t.Helper()
	at := w.Header().Get("Location")
	if w.Code != 303 || !strings.HasPrefix(at, to) {
		b.t.Fatalf("got %d to %q %s, want to be led to %s", w.Code, at, w.Body, to)
	}
	return at
}

// saveForm sends a page's form as it stands, with some fields changed.
func (b *browser) saveForm(path string, change ...string) *httptest.ResponseRecorder {
	b.t.Helper()
	page := b.get(path).Body.String()
	fields := map[string]bool{}
	for i := 0; i < len(change); i += 2 {
		fields[change[i]] = true
	}
	form := append([]string{}, change...)
	for _, m := range regexp.MustCompile(`name="(was\.[a-z_.]+)" value="([0-9a-f]+)"`).FindAllStringSubmatch(page, -1) {
		form = append(form, m[1], m[2])
		if name := strings.TrimPrefix(m[1], "was."); !fields[name] {
			form = append(form, name, inputOf(page, name))
		}
	}
	return b.post(path, form...)
}

// inputOf gives what stands in a field of a page.
func inputOf(page, name string) string {
	name = regexp.QuoteMeta(name)
	for _, pattern := range []string{
		`name="` + name + `" type="[a-z-]+"(?: step="\w+")? value="([^"]*)"`, `(?s)<textarea id="` + name + `"[^>]*>\n(.*?)</textarea>`,
		`(?s)<select id="` + name + `"(?:[^<]|<option|</option)*?value="([^"]*)" selected`,
	} {
		if m := regexp.MustCompile(pattern).FindStringSubmatch(page); m != nil {
			return strings.NewReplacer("&lt;", "<", "&gt;", ">", "&#34;", `"`, "&#43;", "+", "&amp;", "&", "&#39;", "'").Replace(m[1])
		}
	}
	return ""
}

// TestRecords_Life makes, changes and deletes one of each kind on the pages.
func TestRecords_Life(t *testing.T) {
	b := newDashboard(t)
	b.operate(201, "POST", "/admin/v1/agents", `{"name": "Front desk"}`)
	for _, tt := range []struct {
		path      string
		form      []string // of a new one; the first field has its name
		bad       []string // makes it wrong
		fault     string
		change    []string // of the record
		admin     string
		want      string // what the admin endpoint then tells
		deletions string // what the question says
	}{
		{"/agents", []string{"name", evil, "role", "inbound agent"}, []string{"phone_number", "12"}, "Number must be an E.164 number", []string{"phone_number", "+4930555001"},
			"agents", `"phone_number":"+4930555001"`, "Its calls remain"},
		{"/teams", []string{"name", evil, "members", "ann\r\nbob\r\n"}, []string{"name", " "}, "Name is missing", []string{"members", "ann"}, "teams", `"members":["ann"]`, "remain with their owners"},
		{"/owners", []string{"name", evil, "rate", "0.1"}, []string{"rate", "x"}, "Price of a minute must be a number", []string{"balance", "12.5"}, "owners", `"balance":12.5`, ""},
		{"/do-not-call", []string{"phone_number", "+4930555099", "reason", evil}, []string{"phone_number", "1"}, "Number must be an E.164 number", []string{"reason", evil + " twice"},
			"do-not-call", "twice", "are allowed again"},
		{"/contacts", []string{"first_name", evil, "phone.0.number", "+4930555010", "primary", "0"}, []string{"email", "nobody"}, "Email must be an address", []string{"last_name", "Lind"},
			"contacts", `"last_name":"Lind"`, "Its calls remain"},
		{"/webhooks", []string{"name", evil, "url", "https://hooks.example.net/x", "subscribed_events", "call.ended"}, []string{"url", "javascript:alert(1)"}, "URL must be",
			[]string{"subscribed_events", "key.created"}, "webhooks", `"subscribed_events":["key.created"]`, "Nothing is sent"},
		{"/calls", []string{"phone_number", "+4930555010", "agent_id", "1", "status", "in-progress", "summary", evil}, []string{"ended_at", "yesterday"}, "Ended must be a date and a time",
			[]string{"status", "completed"}, "calls", `"status":"completed"`, ""},
	} {
		t.Run(tt.path, func(t *testing.T) {
			b.t = t
			b.says(b.get(tt.path+"/new"), 200, `name="`+tt.form[0]+`"`)
			w := b.post(tt.path, append(append([]string{}, tt.bad...), tt.form[len(tt.form)-2:]...)...)
			if w.Code != 400 || !strings.Contains(w.Body.String(), `role="alert"`) {
				t.Errorf("%v: got %d %s", tt.bad, w.Code, w.Body)
			}
			var made string
			if w = b.post(tt.path, tt.form...); tt.path == "/webhooks" {
				b.says(w, 201, "shown this once", `value="whsec_`)
				made = "/webhooks/1"
			} else {
				made, _, _ = strings.Cut(b.sent(w, tt.path+"/"), "?")
			}
			b.says(b.get(tt.path), 200)
			page := b.get(made + "?done=made")
			if tt.path != "/webhooks" { // its secret was shown in between
				b.says(page, 200, "Created.")
			}
			if tt.path != "/calls" {
				b.tame(tt.path, b.get(tt.path))
			}
			b.tame(made, page)

			if w := b.saveForm(made, tt.bad...); !strings.Contains(tt.fault, "Name is") {
				b.says(w, 400, tt.fault, `aria-invalid="true"`, `value="`+strings.TrimSpace(tt.bad[1]))
			} else {
				b.says(w, 400, tt.fault)
			}
			b.sent(b.saveForm(made, tt.change...), made+"?done=saved")
			id := made[strings.LastIndex(made, "/"):]
			if w := b.control("GET", "/admin/v1/"+tt.admin+id, ""); !strings.Contains(w.Body.String(), tt.want) {
				t.Errorf("got %s, want %s", w.Body, tt.want)
			}
			if tt.deletions == "" {
				if w := b.post(made + "/delete"); w.Code != 404 && w.Code != 405 {
					t.Errorf("deletion: got %d, want none", w.Code)
				}
				return
			}
			b.says(page, 200, `<dialog id="delete"`, tt.deletions)
			b.says(b.get(made+"/delete"), 200, tt.deletions, "cannot be undone")
			b.sent(b.post(made+"/delete"), tt.path+"?done=deleted")
			b.says(b.get(made), 404, "There is no ")
		})
	}
}

// A form changes what was changed in it, and leaves alone what others have
// changed since it was shown.
func TestRecords_OnlyWhatChanged(t *testing.T) {
	b := newDashboard(t)
	b.operate(201, "POST", "/admin/v1/agents", `{"name": "Front desk", "model": "one"}`)
	page := b.get("/agents/1").Body.String()
	form := []string{"name", "Reception", "model", "one", "role", "inbound agent", "phone_number", "", "voice_id", "", "team_id", ""}
	for _, m := range regexp.MustCompile(`name="(was\.[a-z_]+)" value="([0-9a-f]+)"`).FindAllStringSubmatch(page, -1) {
		form = append(form, m[1], m[2])
	}
	b.operate(200, "PATCH", "/admin/v1/agents/1", `{"model": "two"}`)
	b.sent(b.post("/agents/1", form...), "/agents/1")
	if v := b.operate(200, "GET", "/admin/v1/agents/1", ""); v["name"] != "Reception" || v["model"] != "two" {
		t.Errorf("got %v, want the new name and the other's model", v)
	}
}

func TestRecords_Filters(t *testing.T) {
	b := newDashboard(t)
	b.operate(201, "POST", "/admin/v1/agents", `{"name": "Front desk"}`)
	b.operate(201, "POST", "/admin/v1/agents", `{"name": "Night line", "owner": "ann"}`)
	b.operate(201, "POST", "/admin/v1/calls", `{"agent_id": 1, "phone_number": "+4930555010"}`)
	b.operate(201, "POST", "/admin/v1/calls", `{"agent_id": 1, "phone_number": "+4930555011", "status": "completed"}`)
	b.operate(201, "POST", "/admin/v1/contacts", `{"first_name": "Mara", "stage": "customer", "tags": ["Regular"]}`)
	b.operate(201, "POST", "/admin/v1/contacts", `{"first_name": "Jon"}`)
	b.operate(201, "POST", "/admin/v1/do-not-call", `{"phone_number": "+4930555099", "reason": "by letter"}`)
	b.operate(201, "POST", "/admin/v1/owners", `{"name": "clinic"}`)
	for _, tt := range []struct{ path, has, hasNot string }{
		{"/agents?search=night", "Night line", "Front desk"}, {"/agents?owner=ann", "Night line", "Front desk"}, {"/calls?status=completed", "4930555011", "4930555010"},
		{"/calls?agent_id=2", "No call matches", "4930555010"}, {"/calls?type=inbound&agent_id=1", "4930555010", "No call matches"}, {"/contacts?search=mar", "Mara", "Jon"},
		{"/contacts?stage=customer", "Mara", "Jon"}, {"/contacts?tag=Regular", "Mara", "Jon"}, {"/contacts?status=contacted", "No contact matches", "Mara"},
		{"/do-not-call?search=letter", "4930555099", "matches"}, {"/do-not-call?search=9999", "No number matches", "4930555099"}, {"/owners?search=CLI", "clinic", "fits"},
	} {
		body := b.get(tt.path).Body.String()
		_, table, _ := strings.Cut(body, "</form>\n")
		_, table, _ = strings.Cut(table, "</form>")
		if !strings.Contains(table, tt.has) || strings.Contains(table, tt.hasNot) {
			t.Errorf("%s: got %s, want %q and not %q", tt.path, table, tt.has, tt.hasNot)
		}
	}
	b.says(b.get("/calls?status=odd"), 400, "Status must be one of")
	b.says(b.get("/calls?page=x"), 400, "whole number")
	for range 30 {
		b.operate(201, "POST", "/admin/v1/contacts", `{"first_name": "Mara"}`)
	}
	b.says(b.get("/contacts?search=mara"), 200, "31 found", `href="/contacts?page=2&amp;search=mara"`)
	b.says(b.get("/contacts?page=2"), 200, "32 in all", "Page 2 of 2")
}

// What is stored as an address becomes a link only where it is one of the web.
func TestRecords_Addresses(t *testing.T) {
	b := newDashboard(t)
	b.operate(201, "POST", "/admin/v1/agents", `{"name": "Front desk"}`)
	for i, tt := range []struct{ url, link string }{
		{"https://files.example.net/1.mp3", `href="https://files.example.net/1.mp3"`}, {"javascript:alert(1)", ""}, {" javascript:alert(1)", ""}, {"data:text/html,x", ""}, {"//evil.example", ""},
	} {
		b.operate(201, "POST", "/admin/v1/calls", `{"agent_id": 1, "phone_number": "+4930555010", "recording_url": "`+tt.url+`"}`)
		r := b.request("GET", "/calls/"+string(rune('1'+i)))
		for _, c := range b.jar.Cookies(r.URL) {
			r.AddCookie(c)
		}
		w := httptest.NewRecorder()
		b.door.ServeHTTP(w, r)
		if page := w.Body.String(); strings.Contains(page, `href="`+strings.TrimSpace(tt.url)) != (tt.link != "") || strings.Contains(page, "href=\" ") {
			t.Errorf("%q: got %s", tt.url, page)
		}
	}
}

// The page of an owner has one chart of the requests with all its keys.
func TestOwnerPages_Chart(t *testing.T) {
	b := newDashboard(t)
	id := b.operate(201, "POST", "/admin/v1/owners", `{"name": "ann"}`)["id"]
	path := fmt.Sprint("/owners/", id)
	if page := b.tells(path); strings.Contains(page, "Requests of its keys") {
		t.Error("an owner without keys has a chart")
	}
	_, key1 := b.key(`["can_read_agents"]`, `"owner": "ann"`)
	_, key2 := b.key(`["can_read_agents"]`, `"owner": "ann"`)
	_, other := b.key(`["can_read_agents"]`)
	sandbox := b.sandboxKey(`"owner": "ann"`)
	b.tells(path, "No request in the last 24 hours.")
	for _, key := range []string{key1, key2, key2, other, sandbox} {
		b.ask("GET", "/api/v1/agents", key, "")
	}
	b.ask("GET", "/api/v1/calls", key2, "")
	b.tells(path, "4 requests, 1 refused in the last 24 hours.", `<td class="number">4</td><td class="number">3</td><td class="number">0</td><td class="number">0</td><td class="number">1</td>`)
	b.post("/space", "space", "sandbox", "next", "/owners")
	b.tells(path, "1 request in the last 24 hours.")
}

func TestOwnerPages_Limits(t *testing.T) {
	b := newDashboard(t)
	b.operate(201, "POST", "/admin/v1/owners", `{"name": "clinic"}`)
	const calls, requests = "limits." + OwnerCallsPerDay, "limits.owner_requests_per_minute_limit"
	b.says(b.get("/owners/1"), 200, `name="`+calls+`" type="number" step="any" value=""`, "Calls per day", "empty or 0: no limit")
	stored := func() map[string]any {
		t.Helper()
		return b.operate(200, "GET", "/admin/v1/owners/1", "")["own_limits"].(map[string]any)
	}
	b.sent(b.saveForm("/owners/1", calls, "5", requests, "600"), "/owners/1?done=saved")
	if got := stored(); got[OwnerCallsPerDay] != 5.0 || got["owner_requests_per_minute_limit"] != 600.0 {
		t.Errorf("got %v, want both", got)
	}
	key := b.operate(201, "POST", "/admin/v1/keys", `{"name": "k", "owner": "clinic", "permissions": ["can_read_calls"]}`)["key"].(string)
	for range 3 {
		b.ask("GET", "/api/v1/calls", key, "")
	}
	b.says(b.get("/owners/1"), 200, "3 of 600 used now", "0 of 5 used now", `name="`+requests+`" type="number" step="any" value="600"`)
	usage := b.operate(200, "GET", "/admin/v1/owners/1/usage", "")["usage"].(map[string]any)
	if got := usage["owner_requests_per_minute_limit"].(map[string]any); len(usage) != 2 || got["used"] != 3.0 || got["scope"] != "owner" {
		t.Errorf("got %v, want the two limits that are set", usage)
	}
	b.refuse("GET", "/admin/v1/owners/99/usage", "", 404, "not_found", "")
	b.says(b.saveForm("/owners/1", calls, "-1"), 400, "must be a whole number from 0", `id="`+calls+`-fault"`, `value="-1"`)
	b.sent(b.saveForm("/owners/1", calls, ""), "/owners/1?done=saved")
	if got := stored(); got[OwnerCallsPerDay] != nil || len(got) != 1 {
		t.Errorf("got %v, want the default again", got)
	}
	// Another tab has changed the same limit meanwhile, and another one.
	form := formOf(t, b.get("/owners/1").Body.String(), "/owners/1")
	b.sent(b.saveForm("/owners/1", calls, "8", requests, "700"), "/owners/1?done=saved")
	form.Set(requests, "650")
	w := b.postForm("/owners/1", form)
	b.says(w, 409, "was changed by somebody else meanwhile. It is now: 700. Save again to replace that.", `value="650"`, `id="`+requests+`-fault"`)
	b.sent(b.again(w, "/owners/1"), "/owners/1?done=saved")
	if got := stored(); got[OwnerCallsPerDay] != 8.0 || got["owner_requests_per_minute_limit"] != 650.0 {
		t.Errorf("got %v, want the other change kept", got)
	}
	b.says(b.get("/owners"), 200, `data-head="Storage limit"><bdi>256.0 MiB<`, `data-head="Stored"><bdi>0 bytes<`)
}

func TestContactPages_Numbers(t *testing.T) {
	b := newDashboard(t)
	b.operate(201, "POST", "/admin/v1/contacts", `{"first_name": "Mara", "phone_numbers": [{"phone_number": "+4930555010"}, {"phone_number": "+4930555011"}], "custom_context": {"a": 1, "b": "x"}}`)
	b.says(b.get("/contacts/1"), 200, `value="&#43;4930555010"`, "do not call")
	stored := func() string { return b.control("GET", "/admin/v1/contacts/1", "").Body.String() }
	rows := []string{"phone.0.id", "1", "phone.0.number", "+4930555010", "phone.1.id", "2", "phone.1.number", "+4930555011", "phone.2.number", "+4930555012", "phone.1.stop", "yes", "phone.1.reason", "asked", "primary", "2"}
	b.sent(b.saveForm("/contacts/1", append(rows, "custom_context", `{"b": "y", "c": 1.50}`)...), "/contacts/1")
	for _, want := range []string{`"phone":"+4930555012"`, `"dnc_reason":"asked"`, `"custom_context":{"b":"y","c":1.50}`} {
		if got := stored(); !strings.Contains(got, want) {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	rows[3] = "12"
	b.says(b.saveForm("/contacts/1", rows...), 400, "must be an E.164 number", `value="12"`)
	rows[3] = ""
	b.says(b.saveForm("/contacts/1", rows...), 400, "must keep every stored number")
	b.says(b.saveForm("/contacts/1", "custom_context", "[1]"), 400, "Values for prompts must be a JSON object")
	b.says(b.get("/contacts/1/delete"), 200, "+4930555011 is marked as not to be called")
}

func TestContactPages_Import(t *testing.T) {
	b := newDashboard(t)
	b.says(b.get("/contacts/import"), 200, "first_name")
	load := func(file, pasted string) *httptest.ResponseRecorder {
		return b.sendImport(file, url.Values{"csv": {pasted}})
	}
	bad := "first_name,email\n" + `"""><img src=x><script>alert(1)</script>",nobody` + "\nJon,\n,x@example.net\n"
	w := load(bad, "")
	b.says(w, 200, "2 of 3 rows cannot be imported", `<td>line 2 of the file (row 1)</td>`, `<td>line 4 of the file (row 3)</td>`, "email must be an address", "first_name")
	b.tame("import", w)
	if strings.Contains(w.Body.String(), "(row 2)") {
		t.Error("a good row is among the bad ones")
	}
	b.says(load("", "name\nx\n"), 200, "does not exist")
	b.says(load(" ", " "), 400, "The file contacts.csv is empty. Choose a CSV file")
	if w := load("first_name\nMara\nJ\xfcrgen\n", ""); w.Code != 200 || !strings.Contains(w.Body.String(), "line 3 of the file (row 2)") || strings.Contains(w.Body.String(), "J\xfcrgen") {
		t.Errorf("got %d %s, want the row that is not UTF-8 named and the text not shown", w.Code, w.Body)
	}
	b.says(load("first_name\n"+strings.Repeat("\"\"\n", 202), ""), 200, "and 2 more")
	b.says(b.sendImport("first_name\n"+strings.Repeat("\"\"\n", maxRowFaults+2), url.Values{"do": {"import"}}), 400, "Nothing was imported", "and 2 more")
	if v := b.operate(200, "GET", "/admin/v1/contacts", ""); v["count"] != 0.0 {
		t.Errorf("got %v, want nothing stored", v["count"])
	}
	b.sent(b.upload("first_name\nMara\nJon\n"), "/contacts?done=imported-2-0-0")
	b.sent(b.sendImport("", url.Values{"csv": {"first_name\r\nAnn\r\n"}, "do": {"import"}}), "/contacts?done=imported-1-0-0")
	if v := b.operate(200, "GET", "/admin/v1/contacts", ""); v["count"] != 3.0 {
		t.Errorf("got %v, want 3", v["count"])
	}
	const two = "first_name,owner\nMara,\nJon,ben\n"
	b.says(b.sendImport(two, url.Values{"owner": {"ann"}}), 200, "<dt>Owner</dt><dd><bdi>ann, ben</bdi></dd>", `value="ann"`)
	b.sent(b.sendImport(two, url.Values{"owner": {"ann"}, "do": {"import"}}), "/contacts?done=imported-2-0-0")
	if v := b.operate(200, "GET", "/admin/v1/contacts?owner=ann", ""); v["count"] != 1.0 {
		t.Errorf("got %v contacts of ann, want 1", v["count"])
	}
}

// Who logs in, out, or changes a password while the store takes no writes is told
// so, and gets no cookie that would say otherwise.
func TestDashboard_ClosingStore(t *testing.T) {
	b := newDashboard(t)
	fresh := newBrowser(b.testApp)
	refuseWrites(t, b.Store)
	for _, tt := range []struct {
		from *browser
		path string
		form []string
	}{
		{fresh, "/login", []string{"name", "Ann", "password", operatorPassword}}, {b, "/login", []string{"name", "Ann", "password", operatorPassword}},
		{b, "/logout", nil}, {b, "/logout-everywhere", nil}, {b, "/account", []string{"old", operatorPassword, "password", "another password"}},
	} {
		if w := tt.from.post(tt.path, tt.form...); w.Code != 503 || len(w.Result().Cookies()) != 0 {
			t.Errorf("%s: got %d and cookies %v, want 503 and none", tt.path, w.Code, w.Result().Cookies())
		}
	}
	if w := b.get("/account"); w.Code != 200 {
		t.Errorf("got %d, want the login as before", w.Code)
	}
}
