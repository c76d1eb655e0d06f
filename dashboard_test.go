package main

import (
	"fmt"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"
)

const operatorPassword = "correct horse battery"

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
func newDashboard(t testing.TB) *browser {
	a := newTestApp(t)
	a.Server.ListensAt("http://127.0.0.1:8080")
	b := newBrowser(a)
	b.operate(201, "POST", "/admin/v1/operators", `{"name": "Ann", "password": "`+operatorPassword+`"}`)
	if w := b.post("/login", "name", "ann", "password", operatorPassword); w.Code != 303 || w.Header().Get("Location") != "/keys" {
		t.Fatalf("log in: got %d %s", w.Code, w.Body)
	}
	return b
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

// TestDashboard_NeedsLogin asks for every page without one.
func TestDashboard_NeedsLogin(t *testing.T) {
	b := newDashboard(t)
	d, err := NewDashboard(DashboardOptions{Clock: b.clock, Pages: b.pages()})
	if err != nil {
		t.Fatal(err)
	}
	patterns := []string{}
	for p := range d.own() {
		patterns = append(patterns, p)
	}
	for _, set := range d.o.Pages {
		for p := range set.Pages() {
			patterns = append(patterns, p)
		}
	}
	stranger := newBrowser(b.testApp)
	for _, pattern := range patterns {
		method, path, _ := strings.Cut(pattern, " ")
		path = strings.NewReplacer("{id}", "key_1", "{verb}", "revoke").Replace(path)
		r := stranger.request(method, path)
		r.Header.Set("Sec-Fetch-Site", "same-origin")
		w := stranger.send(r)
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
	for next, want := range map[string]string{"/calls?page=2": "/calls?page=2", "https://evil.example": "/keys", "/\\evil.example": "/keys", "": "/keys", "keys": "/keys"} {
		if got := localPath(next); got != want {
			t.Errorf("%q: got %q, want %q", next, got, want)
		}
	}
}

func TestDashboard_Sessions(t *testing.T) {
	b := newDashboard(t)
	// A token that was there before the login is none after it.
	fixed := newBrowser(b.testApp)
	fixed.jar.SetCookies(&url.URL{Scheme: "http", Host: "127.0.0.1:8081"}, []*http.Cookie{{Name: "latchkey_session", Value: "chosen"}})
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
	if c := w.Result().Cookies(); len(c) != 1 || c[0].Name != "__Host-latchkey_session" || !c[0].Secure {
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
	if w := b.get("/keys/" + id + "/used"); !strings.Contains(w.Body.String(), `"last_used_at":null`) {
		t.Errorf("got %s", w.Body)
	}
	if w := b.ask("GET", "/api/v1/agents", found[1], ""); w.Code != 200 {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	if w := b.get("/keys/" + id + "/used"); !strings.Contains(w.Body.String(), `"last_used_ip":"192.0.2.1"`) {
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
		rows = append(rows, fmt.Sprintf(`{"name": "many %d", "permissions": ["can_read_calls"], "sha256": "%x"}`, i, DigestOf(fmt.Sprint(i))))
	}
	b.operate(201, "POST", "/admin/v1/keys/import", "["+strings.Join(rows, ",")+"]")
	first, last := b.get("/keys?search=many").Body.String(), b.get("/keys?search=many&page=3").Body.String()
	if !strings.Contains(first, `href="/keys?page=2&amp;search=many&amp;status=live"`) || strings.Contains(first, "Previous</a>") || !strings.Contains(last, "Page 3 of 3") || strings.Contains(last, "Next</a>") {
		t.Errorf("got %s\n%s", first, last)
	}
	if w := b.get("/keys?search=nothing-like-it"); !strings.Contains(w.Body.String(), "No key fits") {
		t.Errorf("got %s", w.Body)
	}
}
