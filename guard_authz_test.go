package main

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"latchkey/internal/keytext"
)

// newAuthz is the service with routes that only proxies ask about.
func newAuthz(t testing.TB, change ...func(*Config)) *testApp {
	return newTestApp(t, append([]func(*Config){func(c *Config) {
		c.Permissions = []permissionRow{{Name: "can_use", Description: "Use it."}}
		c.Limits = []limitRow{{Name: "reports_per_hour", Window: time.Hour, Default: 5, Scope: "key"}}
		c.Routes = []RouteRow{
			{Path: "/up/*rest", Permission: []string{"can_use"}},
			{Path: "/free/:id", Methods: []string{"GET", "PUT"}},
			{Path: "/report", Limits: []string{"reports_per_hour"}, Cost: 3},
			{Path: "/healthz", Permission: []string{"can_use"}}, // of the API behind the proxy, not ours
		}
	}}, change...)...)
}

// proxyQuestion is what a proxy sends.
type proxyQuestion struct {
	family, method, address string
	fields                  []string
	from                    string // "": this machine
}

// put asks as the proxies of a family do.
func (a *testApp) put(q proxyQuestion) *httptest.ResponseRecorder {
	a.t.Helper()
	method, target := "GET", "/authz/"+q.family
	if q.family == "envoy" {
		method, target = q.method, target+q.address
	}
	r := httptest.NewRequest(method, target, nil)
	r.RemoteAddr = "127.0.0.1:1234"
	if q.from != "" {
		r.RemoteAddr = netip.AddrPortFrom(netip.MustParseAddr(q.from), 1234).String()
	}
	switch q.family {
	case "nginx":
		r.Header["X-Original-Method"], r.Header["X-Original-Uri"] = []string{q.method}, []string{q.address}
	case "forward":
		r.Header["X-Forwarded-Method"], r.Header["X-Forwarded-Uri"] = []string{q.method}, []string{q.address}
		r.Header["X-Forwarded-Proto"], r.Header["X-Forwarded-Host"] = []string{"https"}, []string{"api.example.com"}
	}
	for _, f := range q.fields {
		name, value, _ := strings.Cut(f, ": ")
		r.Header[name] = append(r.Header[name], value)
	}
	w := httptest.NewRecorder()
	a.api.ServeHTTP(w, r)
	conform(a.t, r, w)
	return w
}

var families = []string{"nginx", "forward", "envoy"}

// refusalTo gives the status that an answer stands for, and its error code. For
// nginx both are in fields, beside the status that nginx passes on.
func refusalTo(t *testing.T, family string, w *httptest.ResponseRecorder) (status int, errorCode string) {
	t.Helper()
	if family != "nginx" || w.Code == http.StatusOK {
		return w.Code, code(w)
	}
	if w.Code != http.StatusUnauthorized && w.Code != http.StatusForbidden {
		t.Errorf("nginx makes 500 of %d", w.Code)
	}
	if got := w.Header().Get("X-Auth-Body"); got != strings.TrimSpace(w.Body.String()) {
		t.Errorf("X-Auth-Body is %q, the body %q", got, w.Body)
	}
	status, err := strconv.Atoi(w.Header().Get("X-Auth-Status"))
	if err != nil {
		t.Error(err)
	}
	return status, code(w)
}

func TestAuthz_Passes(t *testing.T) {
	a := newAuthz(t)
	id, secret := a.key(`["can_use", "can_read_calls"]`, `"owner": "ann", "environment": "live"`)
	for _, family := range families {
		for _, q := range []proxyQuestion{
			{address: "/up/a%20b/?x=%20&&y", fields: []string{"X-Api-Key: " + secret}},
			{address: "/up", fields: []string{"Authorization: Bearer " + secret}},
			{address: "/up/1?a=1&api_key=" + secret + "&b=2"},
			{address: "/up/1?api_key=" + secret},
			{address: "/up/1?", fields: []string{"X-Api-Key: " + secret, "X-Auth-Key-Id: forged"}},
		} {
			q.family, q.method = family, "POST"
			w := a.put(q)
			if w.Code != 200 || w.Body.Len() != 0 {
				t.Fatalf("%+v: got %d %s", q, w.Code, w.Body)
			}
			want := strings.NewReplacer("api_key="+secret+"&", "", "?api_key="+secret, "").Replace(q.address)
			for name, value := range map[string]string{
				"X-Auth-Key-Id": id, "X-Auth-Key-Name": "test", "X-Auth-Owner": "ann", "X-Auth-Permissions": "can_read_calls,can_use", "X-Auth-Environment": "live", "X-Auth-Uri": want,
			} {
				if got := w.Header()[name]; len(got) != 1 || got[0] != value {
					t.Errorf("%+v: got %s %q, want %q", q, name, got, value)
				}
			}
			if w.Header().Get("X-Request-Id") == "" || w.Header().Get("X-Ratelimit-Limit") != "60" || !strings.Contains(w.Header().Get("Cache-Control"), "no-store") {
				t.Errorf("%+v: got %v", q, w.Header())
			}
			for name, values := range w.Header() {
				if strings.Contains(strings.Join(values, ""), secret) {
					t.Errorf("%+v: %s has the key", q, name)
				}
			}
		}
	}
	// What does not stand in a key is there too, for the proxy to overwrite with.
	_, plain := a.key(`["can_use"]`)
	w := a.put(proxyQuestion{family: "forward", method: "GET", address: "/free/1", fields: []string{"X-Api-Key: " + plain}})
	if got := w.Header()["X-Auth-Environment"]; len(got) != 1 || got[0] != "" {
		t.Errorf("got X-Auth-Environment %q", got)
	}
}

// Each endpoint refuses for the same reasons, in the way of its family.
func TestAuthz_Refuses(t *testing.T) {
	for _, family := range families {
		a := newAuthz(t)
		_, good := a.key(`["can_use"]`, `"limits": {"requests_per_minute_limit": 1000}`)
		_, poor := a.key(`["can_read_calls"]`)
		_, few := a.key(`["can_use"]`, `"limits": {"requests_per_minute_limit": 1}`)
		gone, revoked := a.key(`["can_use"]`)
		a.operate(200, "POST", "/admin/v1/keys/"+gone+"/revoke", "")
		for i, tt := range []struct {
			method, address, secret string
			status                  int
			code                    string
			more                    string
		}{
			{"GET", "/up/1", "", 401, "authentication_required", ""},
			{"GET", "/up/1", revoked, 401, "invalid_key", ""},
			{"GET", "/up/1", keytext.NewSecret("klen_"), 401, "invalid_key", ""},
			{"GET", "/up/1", poor, 403, "permission_denied", ""},
			{"GET", "/up/1", few, 200, "", ""},
			{"GET", "/up/1", few, 429, "rate_limit_exceeded", ""},
			{"GET", "/report", good, 200, "", ""},
			{"GET", "/report", good, 429, "rate_limit_exceeded", ""},
			{"GET", "/healthz", poor, 403, "permission_denied", ""}, // ours does not count
			{"GET", "/healthz", good, 200, "", ""},
			{"GET", "/api/v1/agents", good, 404, "not_found", ""},
			{"GET", "/elsewhere", good, 404, "not_found", ""},
			{"DELETE", "/free/1", good, 405, "method_not_allowed", ""},
			{"TRACE", "/up/1", good, 405, "method_not_allowed", ""},
			{"GET", "/up/1", good, 400, "validation_error", "Authorization: Bearer " + poor},
			{"GET", "/up/1?api_key=" + poor, good, 400, "validation_error", ""},
			{"GET", "/free/%2e%2e", good, 400, "validation_error", ""},
			{"GET", "/free/..%2fup", good, 400, "validation_error", ""},
			{"GET", "//up/1", good, 400, "validation_error", ""},
			{"GET", "/up/%00", good, 400, "validation_error", ""},
			{"GET", "/up/%2523%252f", good, 400, "validation_error", ""},
		} {
			q := proxyQuestion{family: family, method: tt.method, address: tt.address}
			if tt.secret != "" {
				q.fields = []string{"X-Api-Key: " + tt.secret}
			}
			if tt.more != "" {
				q.fields = append(q.fields, tt.more)
			}
			w := a.put(q)
			if tt.status == 200 {
				if w.Code != 200 {
					t.Errorf("%s, step %d: got %d %s", family, i+1, w.Code, w.Body)
				}
				continue
			}
			if status, errorCode := refusalTo(t, family, w); status != tt.status || errorCode != tt.code {
				t.Errorf("%s, step %d, %s %s: got %d %s, want %d %s", family, i+1, tt.method, tt.address, status, w.Body, tt.status, tt.code)
			}
			if w.Header().Get("X-Auth-Key-Id") != "" || w.Header().Get("Link") != "" {
				t.Errorf("%s, step %d: got %v", family, i+1, w.Header())
			}
			if (tt.status == 401) != strings.HasPrefix(w.Header().Get("WWW-Authenticate"), "Bearer realm=") && tt.status != 403 && tt.status != 400 {
				t.Errorf("%s, step %d: got WWW-Authenticate %q", family, i+1, w.Header()["Www-Authenticate"])
			}
		}
	}
}

// TestGuards_MethodCase sends methods with lower-case letters by every way in:
// the API listener, each family of proxies and explain. Some servers take delete for
// DELETE, which here needs more than any other method.
func TestGuards_MethodCase(t *testing.T) {
	reached := 0
	g := newGuarded(t, func(http.ResponseWriter, *http.Request) { reached++ }, func(c *Config, url string) {
		c.Routes = append(c.Routes, RouteRow{Path: "/up/item", Methods: []string{"DELETE"}, Permission: []string{"can_read_calls"}, Upstream: url, Timeout: time.Minute},
			RouteRow{Path: "/up/item", Permission: []string{"can_use"}, Upstream: url, Timeout: time.Minute},
			RouteRow{Path: "/named", Methods: []string{"GET"}, Permission: []string{"can_use"}, Upstream: url, Timeout: time.Minute},
			RouteRow{Path: "/asked/:id", Permission: []string{"can_use"}})
	})
	id, secret := g.testApp.key(`["can_use"]`, `"limits": {"requests_per_minute_limit": 1000}`)
	ways := map[string]func(method, path string) (status int, text string){
		"explain": func(method, path string) (int, string) {
			got := g.operate(200, "POST", "/admin/v1/keys/"+id+"/explain", `{"method": "`+method+`", "path": "`+path+`"}`)
			if got["allowed"] == true {
				return 200, ""
			}
			return int(got["status"].(float64)), got["error"].(string) + got["message"].(string)
		},
		"guard": func(method, path string) (int, string) {
			r := httptest.NewRequest("GET", path, nil)
			r.Method = method
			r.Header.Set("X-API-Key", secret)
			w := httptest.NewRecorder()
			g.api.ServeHTTP(w, r)
			return w.Code, w.Body.String()
		},
	}
	for _, family := range families {
		ways[family] = func(method, path string) (int, string) {
			w := g.put(proxyQuestion{family: family, method: method, address: path, fields: []string{"X-Api-Key: " + secret}})
			status, _ := refusalTo(t, family, w)
			return status, w.Body.String()
		}
	}
	for way, ask := range ways {
		for _, path := range []string{"/up/item", "/up/x", "/named", "/asked/1"} {
			if way == "guard" && path == "/asked/1" {
				continue // which is not its
			}
			if status, text := ask("GET", path); status != 200 {
				t.Errorf("%s: GET %s: got %d %s", way, path, status, text)
			}
			reached = 0
			for _, method := range []string{"delete", "Delete", "dELETE", "DELETe", "get", "Get", "trace", "Trace", "connect", "Connect", "m-search", "brew"} {
				status, text := ask(method, path)
				if status != 400 || !strings.Contains(text, "validation_error") || !strings.Contains(text, "Send "+strings.ToUpper(method)+" instead") {
					t.Errorf("%s: %s %s: got %d %s, want 400", way, method, path, status, text)
				}
			}
			if reached > 0 {
				t.Errorf("%s: %s: %d reached the upstream", way, path, reached)
			}
		}
		for method, want := range map[string]int{"DELETE": 403, "TRACE": 405, "CONNECT": 405} {
			if status, text := ask(method, "/up/item"); status != want {
				t.Errorf("%s: %s: got %d %s, want %d", way, method, status, text, want)
			}
		}
	}
}

// The refusal that nginx would lose arrives by fields.
func TestAuthz_Nginx429(t *testing.T) {
	a := newAuthz(t)
	_, secret := a.key(`["can_use"]`)
	q := proxyQuestion{family: "nginx", method: "GET", address: "/report", fields: []string{"X-Api-Key: " + secret}}
	if w := a.put(q); w.Code != 200 || w.Header().Get("X-Auth-Ratelimit-Remaining") != "2" {
		t.Fatalf("got %d %v", w.Code, w.Header())
	}
	w := a.put(q)
	for name, want := range map[string]string{
		"X-Auth-Status": "429", "X-Auth-Retry-After": "3600", "X-Auth-Ratelimit-Limit": "5", "X-Auth-Ratelimit-Remaining": "2",
		"X-Auth-Ratelimit": `"requests_per_minute";r=59;t=60, "reports_per_hour";r=2;t=3600`,
	} {
		if got := w.Header().Get(name); got != want {
			t.Errorf("got %s %q, want %q", name, got, want)
		}
	}
	for _, name := range []string{"X-Auth-Ratelimit-Reset", "X-Auth-Ratelimit-Policy"} {
		if w.Header().Get(name) != w.Header().Get(strings.TrimPrefix(strings.Replace(name, "X-Auth-Ratelimit-Reset", "X-Ratelimit-Reset", 1), "X-Auth-")) {
			t.Errorf("got %v", w.Header())
		}
	}
	if w.Code != 403 {
		t.Errorf("got %d, want 403", w.Code)
	}
}

// A store that takes no writes is told to each family.
func TestAuthz_Unavailable(t *testing.T) {
	for _, family := range families {
		a := newAuthz(t)
		_, secret := a.key(`["can_use"]`)
		a.Store.fail(os.ErrClosed)
		w := a.put(proxyQuestion{family: family, method: "GET", address: "/report", fields: []string{"X-Api-Key: " + secret}})
		if status, errorCode := refusalTo(t, family, w); status != 503 || errorCode != "service_unavailable" {
			t.Errorf("%s: got %d %s", family, status, errorCode)
		}
		if name := map[bool]string{true: "X-Auth-Retry-After", false: "Retry-After"}[family == "nginx"]; w.Header().Get(name) == "" {
			t.Errorf("%s: got %v", family, w.Header())
		}
	}
}

// An endpoint believes the fields of its own family and nothing else.
func TestAuthz_Families(t *testing.T) {
	a := newAuthz(t)
	_, poor := a.key(`["can_read_calls"]`, `"limits": {"requests_per_minute_limit": 1000}`)
	foreign := map[string][]string{
		"nginx":   {"X-Forwarded-Uri: /free/1", "X-Forwarded-Method: GET", "X-Original-Url: http://x/free/1", "X-Rewrite-Url: /free/1"},
		"forward": {"X-Original-Uri: /free/1", "X-Original-Method: GET", "X-Original-Url: http://x/free/1"},
		"envoy":   {"X-Forwarded-Uri: /free/1", "X-Original-Uri: /free/1", "X-Forwarded-Method: GET", "X-Envoy-Original-Path: /free/1"},
	}
	for family, fields := range foreign {
		fields = append(fields, "X-Api-Key: "+poor)
		if w := a.put(proxyQuestion{family: family, method: "GET", address: "/up/1", fields: fields}); w.Code != 403 {
			t.Errorf("%s: got %d %s, want 403", family, w.Code, w.Body)
		}
		if family == "envoy" {
			continue
		}
		r := httptest.NewRequest("GET", "/authz/"+family+"?api_key="+poor, nil) // its own fields are missing
		r.RemoteAddr = "127.0.0.1:1"
		for _, f := range fields {
			name, value, _ := strings.Cut(f, ": ")
			r.Header.Set(name, value)
		}
		w := httptest.NewRecorder()
		a.api.ServeHTTP(w, r)
		if status, errorCode := refusalTo(t, family, w); status != 400 || errorCode != "validation_error" || !strings.Contains(w.Body.String(), "must send X-") {
			t.Errorf("%s without its fields: got %d %s", family, status, w.Body)
		}
	}
	for _, fields := range [][]string{
		{"X-Original-Uri: /free/1"}, {"X-Original-Method: GET"}, // twice, with those that the question has
	} {
		w := a.put(proxyQuestion{family: "nginx", method: "GET", address: "/free/1", fields: append(fields, "X-Api-Key: "+poor)})
		if status, _ := refusalTo(t, "nginx", w); status != 400 {
			t.Errorf("%q: got %d %s", fields, status, w.Body)
		}
	}
	for _, address := range []string{"", "*", "free/1", "http://x/free/1", "/free/1#a", "/free/ 1", "/free/1?a#b"} {
		w := a.put(proxyQuestion{family: "forward", method: "GET", address: address, fields: []string{"X-Api-Key: " + poor}})
		if w.Code != 400 {
			t.Errorf("%q: got %d %s", address, w.Code, w.Body)
		}
	}
	for _, method := range []string{"", "GE T", "GET,PUT", "G\u00cbT"} {
		w := a.put(proxyQuestion{family: "forward", method: method, address: "/free/1", fields: []string{"X-Api-Key: " + poor}})
		if w.Code != 400 {
			t.Errorf("%q: got %d %s", method, w.Code, w.Body)
		}
	}
	for _, path := range []string{"/authz", "/authz/other", "/authz/envoyx/free/1", "/%61uthz/forward", "/authz/forward/free/1"} {
		r := httptest.NewRequest("GET", path, nil)
		r.RemoteAddr = "127.0.0.1:1"
		w := httptest.NewRecorder()
		if a.api.ServeHTTP(w, r); w.Code != 404 {
			t.Errorf("%s: got %d %s", path, w.Code, w.Body)
		}
	}
}

// Who may ask, and whose word on the client's address counts.
func TestAuthz_Proxies(t *testing.T) {
	const nobody = "192.0.2.1"
	for _, tt := range []struct {
		name     string
		declared []string
		from     string
		ask      bool
	}{
		{"this machine by default", nil, "127.0.0.1", true},
		{"this machine by IPv6", nil, "::1", true},
		{"this machine by IPv6 as IPv4", nil, "::ffff:127.0.0.1", true},
		{"another one", nil, nobody, false},
		{"a declared one", []string{"10.0.0.0/8"}, "10.1.2.3", true},
		{"an undeclared one", []string{"10.0.0.0/8"}, nobody, false},
		{"this machine where others are declared", []string{"10.0.0.0/8"}, "127.0.0.1", false},
	} {
		a := newAuthz(t, func(c *Config) { c.Server.TrustedProxies = tt.declared })
		_, secret := a.key(`["can_use"]`, `"allowed_ips": ["198.51.100.7"]`)
		for _, family := range families {
			q := proxyQuestion{family: family, method: "GET", address: "/up/1", from: tt.from, fields: []string{"X-Api-Key: " + secret, "X-Forwarded-For: 203.0.113.9, 198.51.100.7"}}
			w := a.put(q)
			if (w.Code == 200) != tt.ask {
				t.Errorf("%s, %s: got %d %s", tt.name, family, w.Code, w.Body)
			}
			if !tt.ask {
				if w.Code != 403 || !strings.Contains(w.Body.String(), "trusted_proxies") || !strings.Contains(a.log.String(), "not in trusted_proxies") {
					t.Errorf("%s, %s: got %d %s", tt.name, family, w.Code, w.Body)
				}
				continue
			}
			q.fields[1] = "X-Forwarded-For: 198.51.100.7, 203.0.113.9" // the client made the first up
			if w := a.put(q); w.Code != 403 || !strings.Contains(w.Body.String(), "203.0.113.9") {
				t.Errorf("%s, %s: got %d %s", tt.name, family, w.Code, w.Body)
			}
		}
	}
}

// What is charged, logged and kept is the request that was asked about.
func TestAuthz_Accounts(t *testing.T) {
	a := newAuthz(t)
	id, secret := a.key(`["can_read_calls"]`)
	q := proxyQuestion{family: "nginx", method: "PUT", address: "/free/17?x=1", fields: []string{"X-Api-Key: " + secret}}
	for range 2 { // asked twice, charged twice
		if w := a.put(q); w.Code != 200 {
			t.Fatalf("got %d %s", w.Code, w.Body)
		}
	}
	usage := a.operate(200, "GET", "/admin/v1/keys/"+id, "")["usage"].(map[string]any)[RequestsPerMinute].(map[string]any)
	if usage["used"] != 2.0 {
		t.Errorf("got %v, want 2 used", usage)
	}
	q.address = "/up/1"
	w := a.put(q)
	request := object(t, w.Body.String())["request_id"].(string)
	list := a.operate(200, "GET", "/admin/v1/refusals?id="+request, "")["refusals"].([]any)
	if len(list) != 1 {
		t.Fatalf("got %v", list)
	}
	if r := list[0].(map[string]any); r["method"] != "PUT" || r["route"] != "/up/*rest" || r["status"] != 403.0 {
		t.Errorf("got %v", r)
	}
	if log := a.log.String(); !strings.Contains(log, `"method":"PUT","route":"/free/:id","status":200`) || strings.Contains(log, secret) {
		t.Errorf("the log says %s", log)
	}
}

// A route without an upstream answers proxies only, and a reload changes it for
// them.
func TestAuthz_OnlyThere(t *testing.T) {
	a := newAuthz(t)
	_, secret := a.key(`["can_use"]`)
	if w := a.ask("GET", "/up/1", secret, ""); w.Code != 404 {
		t.Errorf("the API listener: got %d %s", w.Code, w.Body)
	}
	explained := a.operate(200, "POST", "/admin/v1/keys/"+keyIDOf(t, a, secret)+"/explain", `{"method": "GET", "path": "/up/1"}`)
	if explained["allowed"] != true {
		t.Errorf("got %v", explained)
	}
	if _, err := newRouteTable([]*proxyRoute{{Index: 1, Path: "/authz/*rest"}}, AuthzEndpoints()); err != nil {
		t.Errorf("a wider route: %v", err)
	}
	for _, path := range []string{"/authz/nginx", "/authz/envoy/x", "/authz/envoy/*rest"} {
		if _, err := newRouteTable([]*proxyRoute{{Index: 1, Path: path}}, AuthzEndpoints()); err == nil {
			t.Errorf("%s takes a path of ours", path)
		}
	}
	a.Reloader.From(func() (Config, error) {
		c := a.config
		c.Routes = []RouteRow{{Path: "/other"}}
		return c, nil
	}, new(slog.LevelVar))
	if _, err := a.Reloader.Reload(epoch); err != nil {
		t.Fatal(err)
	}
	for address, want := range map[string]int{"/up/1": 404, "/other": 200} {
		if w := a.put(proxyQuestion{family: "forward", method: "GET", address: address, fields: []string{"X-Api-Key: " + secret}}); w.Code != want {
			t.Errorf("%s: got %d %s, want %d", address, w.Code, w.Body, want)
		}
	}
}

// keyIDOf gives the id of a key by its secret.
func keyIDOf(t *testing.T, a *testApp, secret string) string {
	t.Helper()
	key, _, err := a.Keyring.Find(secret)
	if err != nil {
		t.Fatal(err)
	}
	return key.ID
}

// The questions of Traefik and Envoy, with the fields that these two send.
func TestAuthz_Shapes(t *testing.T) {
	a := newAuthz(t)
	_, secret := a.key(`["can_use"]`)
	for name, text := range map[string][]string{
		"Traefik": {"GET", "/authz/forward", "X-Forwarded-Method: DELETE", "X-Forwarded-Proto: https", "X-Forwarded-Host: api.example.com", "X-Forwarded-Uri: /up/1?x=1",
			"X-Forwarded-For: 203.0.113.9", "X-Forwarded-Port: 443", "X-Forwarded-Server: edge", "X-Real-Ip: 203.0.113.9", "Accept-Encoding: gzip", "Authorization: Bearer " + secret},
		"APISIX": {"GET", "/authz/forward", "X-Forwarded-Proto: http", "X-Forwarded-Method: GET", "X-Forwarded-Host: api.example.com", "X-Forwarded-Uri: /up/1", "X-Forwarded-For: 203.0.113.9", "X-Api-Key: " + secret},
		"Envoy":  {"DELETE", "/authz/envoy/up/1?x=1", "Content-Length: 0", "X-Envoy-Internal: true", "X-Forwarded-For: 203.0.113.9", "Authorization: Bearer " + secret},
	} {
		r := httptest.NewRequest(text[0], text[1], nil)
		r.RemoteAddr = "127.0.0.1:4711"
		for _, f := range text[2:] {
			field, value, _ := strings.Cut(f, ": ")
			r.Header.Set(field, value)
		}
		w := httptest.NewRecorder()
		if a.api.ServeHTTP(w, r); w.Code != 200 || w.Header().Get("X-Auth-Permissions") != "can_use" {
			t.Errorf("%s: got %d %s %v", name, w.Code, w.Body, w.Header())
		}
	}
	if got := slices.Compact(strings.Split(a.log.String(), "203.0.113.9")); len(got) < 4 {
		t.Errorf("the log does not name the client: %s", a.log)
	}
}

// A refusal becomes one line of ASCII, whatever stands in it.
func TestAuthz_ASCII(t *testing.T) {
	for text, want := range map[string]string{
		"{\"a\": \"gr\u00fcn\"}\n": `{"a": "gr\u00fcn"}`,
		"\"\U0001F511\x7f\"":       `"\ud83d\udd11\u007f"`,
	} {
		if got := asciiJSON(text); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func BenchmarkAuthz(b *testing.B) {
	a := newAuthz(b, func(c *Config) { c.Log.Access = false })
	_, secret := a.key(`["can_use"]`, `"limits": {"requests_per_minute_limit": 1000000000}`)
	r := httptest.NewRequest("GET", "/authz/forward", nil)
	r.RemoteAddr = "127.0.0.1:1234"
	r.Header["X-Forwarded-Method"], r.Header["X-Forwarded-Uri"] = []string{"GET"}, []string{"/up/1"}
	b.ReportAllocs()
	for b.Loop() {
		r.Header["X-Api-Key"] = []string{secret}
		w := httptest.NewRecorder()
		if a.api.ServeHTTP(w, r); w.Code != 200 {
			b.Fatalf("got %d %s", w.Code, w.Body)
		}
	}
}

// TestAuthz_Status compares the status that is sent to each proxy with that of the answer. nginx takes only 401 and 403 for a
// refusal, and passes on what is in the fields.
func TestAuthz_Status(t *testing.T) {
	for _, family := range []authzFamily{authzNginx, authzForward, authzEnvoy} {
		for _, status := range []int{200, 202, 204, 301, 400, 401, 403, 404, 429, 500, 503} {
			w := httptest.NewRecorder()
			a := family.Answer(w)
			a.WriteHeader(status)
			_, _ = a.Write([]byte("{}"))
			want := status
			if family == authzNginx && status >= 400 && status != 401 {
				want = 403
			}
			said := w.Header().Get("X-Auth-Status")
			if w.Code != want || family == authzNginx && said != strconv.Itoa(status) || family != authzNginx && said != "" {
				t.Errorf("family %d, %d: got %d and the field %q, want %d", family, status, w.Code, said, want)
			}
		}
	}
}

// linedRecorder is a writer that takes fields as lines.
type linedRecorder struct {
	*httptest.ResponseRecorder
	lines []byte
}

func (w *linedRecorder) FieldLines() []byte         { return w.lines }
func (w *linedRecorder) SetFieldLines(lines []byte) { w.lines = lines }

// TestAuthz_Lines passes fields as lines through an answer: nginx gets copies of those that it would drop.
func TestAuthz_Lines(t *testing.T) {
	const lines = "Retry-After: 5\r\nX-Ratelimit-Limit: 60\r\nOther: 1\r\n"
	for family, want := range map[authzFamily]string{authzNginx: lines + "X-Auth-Retry-After: 5\r\nX-Auth-Ratelimit-Limit: 60\r\n", authzForward: lines, authzEnvoy: lines} {
		w := &linedRecorder{ResponseRecorder: httptest.NewRecorder()}
		a, ok := family.Answer(w).(LineWriter)
		if !ok {
			t.Fatalf("family %d: the answer takes no lines", family)
		}
		if a.SetFieldLines([]byte(lines)); string(w.lines) != want || string(a.FieldLines()) != want {
			t.Errorf("family %d: got %q, want %q", family, w.lines, want)
		}
		if _, ok := family.Answer(w.ResponseRecorder).(LineWriter); ok {
			t.Errorf("family %d: takes lines for a writer that does not", family)
		}
	}
}
