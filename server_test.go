package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"latchkey/internal/keytext"
)

// fill puts a value in place of each wildcard of a path.
func fill(path, value string) string {
	parts := strings.Split(path, "/")
	for i, p := range parts {
		if strings.HasPrefix(p, ":") {
			parts[i] = value
		}
	}
	return strings.Join(parts, "/")
}

// TestServer_EveryRouteIsGuarded walks all routes of the API listener, also those
// added later.
func TestServer_EveryRouteIsGuarded(t *testing.T) {
	a := newTestApp(t)
	_, all := a.key(everyPermission)
	revokedID, revoked := a.key(everyPermission)
	a.operate(200, "POST", "/admin/v1/keys/"+revokedID+"/revoke", "")
	pausedID, paused := a.key(everyPermission)
	a.operate(200, "POST", "/admin/v1/keys/"+pausedID+"/pause", "")
	_, expired := a.key(everyPermission, `"expires_at": "`+*Seconds(epoch.Add(time.Second))+`"`)
	a.clocks.Pass(2 * time.Second)
	_, elsewhere := a.key(everyPermission, `"allowed_ips": ["203.0.113.0/24"]`)
	_, spent := a.key(everyPermission, `"limits": {"requests_per_minute_limit": 1}`)
	a.ask("GET", "/api/v1/agents", spent, "")
	typo := all[:20] + strings.Map(func(c rune) rune { return c ^ 1 }, all[20:21]) + all[21:]
	for _, row := range a.Server.o.Keyed {
		var lacking []string
		for _, p := range Permissions() {
			if row.Permission&p.Bit == 0 {
				lacking = append(lacking, p.Name)
			}
		}
		list, _ := json.Marshal(lacking)
		_, powerless := a.key(string(list))
		for _, tt := range []struct {
			name, secret string
			status       int
			code         string
		}{
			{"no key", "", 401, "authentication_required"},
			{"unknown key", keytext.NewSecret("klen_"), 401, "invalid_key"},
			{"wrong checksum", typo, 401, "invalid_key"},
			{"text", "hello", 401, "invalid_key"},
			{"revoked key", revoked, 401, "invalid_key"},
			{"paused key", paused, 401, "invalid_key"},
			{"expired key", expired, 401, "invalid_key"},
			{"from another address", elsewhere, 403, "permission_denied"},
			{"over its limit", spent, 429, "rate_limit_exceeded"},
			{"without permission", powerless, 403, "permission_denied"},
		} {
			if tt.name == "without permission" && row.Permission == 0 {
				continue
			}
			a.clocks.Pass(100 * time.Millisecond)
			a.Server.throttle = NewThrottle(60, time.Minute) // this is about the keys, not about the address
			w := a.ask(row.Method, fill(row.Path, "1"), tt.secret, "{}")
			if w.Code != tt.status || code(w) != tt.code {
				t.Errorf("%s %s with %s: got %d %s, want %d %s", row.Method, row.Path, tt.name, w.Code, w.Body, tt.status, tt.code)
			}
			if challenge := w.Header().Get("WWW-Authenticate"); (challenge != "") != (w.Code == 401 || tt.name == "without permission") {
				t.Errorf("%s %s with %s: WWW-Authenticate is %q", row.Method, row.Path, tt.name, challenge)
			}
			if w.Code == 429 && w.Header().Get("Retry-After") == "" {
				t.Errorf("%s %s: 429 without Retry-After", row.Method, row.Path)
			}
		}
	}
	if len(a.Server.o.Keyed) < 9 {
		t.Errorf("got %d routes, want at least those of calls, agents and contacts", len(a.Server.o.Keyed))
	}
}

// TestServer_AdminNeedsToken walks all routes of the admin listener.
func TestServer_AdminNeedsToken(t *testing.T) {
	a := newTestApp(t)
	_, key := a.key(everyPermission)
	made := a.operate(201, "POST", "/admin/v1/tokens", `{"name": "ops"}`)
	token := made["token"].(string)
	over := func(method, path, token string) *httptest.ResponseRecorder {
		a.Server.throttle = NewThrottle(60, time.Minute)
		r := httptest.NewRequest(method, path, strings.NewReader(""))
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		w := httptest.NewRecorder()
		a.admin.ServeHTTP(w, r)
		return w
	}
	for _, row := range a.Server.o.Admin {
		path := fill(row.Path, "1")
		for _, tt := range []struct{ name, token, code string }{
			{"no token", "", "authentication_required"}, {"an API key", key, "invalid_key"}, {"an unknown token", keytext.NewSecret(TokenPrefix), "invalid_key"},
		} {
			if w := over(row.Method, path, tt.token); w.Code != 401 || code(w) != tt.code {
				t.Errorf("%s %s with %s: got %d %s, want 401 %s", row.Method, path, tt.name, w.Code, w.Body, tt.code)
			}
		}
	}
	if w := over("GET", "/admin/v1/keys", token); w.Code != 200 {
		t.Errorf("with the token: got %d %s, want 200", w.Code, w.Body)
	}
	a.operate(200, "POST", fmt.Sprintf("/admin/v1/tokens/%v/revoke", made["id"]), "")
	if w := over("GET", "/admin/v1/keys", token); w.Code != 401 {
		t.Errorf("with the revoked token: got %d, want 401", w.Code)
	}
	if w := a.ask("GET", "/admin/v1/keys", key, ""); w.Code != 404 {
		t.Errorf("the admin endpoint on the API listener: got %d, want 404", w.Code)
	}
}

// TestServer_Journey is the life of a key as the README tells it.
func TestServer_Journey(t *testing.T) {
	a := newTestApp(t)
	a.operate(201, "POST", "/admin/v1/agents", `{"name": "Front desk"}`)
	id, key := a.key(`["can_read_agents"]`)
	w := a.ask("GET", "/api/v1/agents/", key, "")
	if w.Code != 200 || !strings.Contains(w.Body.String(), "Front desk") {
		t.Fatalf("got %d %s, want the agents", w.Code, w.Body)
	}
	for name, want := range map[string]string{
		"X-Ratelimit-Limit": "60", "X-Ratelimit-Remaining": "59", "X-Ratelimit-Reset": strconv.FormatInt(epoch.Add(time.Minute).Unix(), 10),
		"Ratelimit-Policy": `"requests_per_minute";q=60;w=60`, "Ratelimit": `"requests_per_minute";r=59;t=60`, "Content-Type": "application/json",
	} {
		if got := w.Header().Get(name); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	if w := a.ask("GET", "/api/v1/calls", key, ""); w.Code != 403 || !strings.Contains(w.Body.String(), "can_read_calls") {
		t.Errorf("got %d %s, want 403 that names can_read_calls", w.Code, w.Body)
	}
	for i := range 58 { // the refused one paid too
		if w := a.ask("GET", "/api/v1/agents", key, ""); w.Code != 200 {
			t.Fatalf("request %d: got %d, want 200", i+3, w.Code)
		}
	}
	a.clocks.Pass(10 * time.Second)
	for range 3 {
		if w := a.ask("GET", "/api/v1/agents", key, ""); w.Code != 429 || w.Header().Get("Retry-After") != "50" {
			t.Errorf("got %d, Retry-After %q; want 429 and 50", w.Code, w.Header().Get("Retry-After"))
		}
	}
	a.restart()
	if w := a.ask("GET", "/api/v1/agents", key, ""); w.Code != 429 || w.Header().Get("Retry-After") != "50" {
		t.Errorf("after a restart: got %d, Retry-After %q; want 429 and 50", w.Code, w.Header().Get("Retry-After"))
	}
	a.clocks.Pass(50 * time.Second)
	if w := a.ask("GET", "/api/v1/agents", key, ""); w.Code != 200 {
		t.Errorf("after the wait: got %d, want 200", w.Code)
	}
	a.operate(200, "POST", "/admin/v1/keys/"+id+"/revoke", "")
	for _, when := range []string{"at once", "after a restart"} {
		if w := a.ask("GET", "/api/v1/agents", key, ""); w.Code != 401 || code(w) != "invalid_key" {
			t.Errorf("revoked, %s: got %d %s, want 401 invalid_key", when, w.Code, w.Body)
		}
		a.restart()
	}
	a.operate(409, "POST", "/admin/v1/keys/"+id+"/resume", "")
}

func TestServer_KeyAboutItself(t *testing.T) {
	a := newTestApp(t)
	_, key := a.key(`["can_read_calls"]`, `"limits": {"requests_per_minute_limit": 1}`)
	for range 5 {
		w := a.ask("GET", "/api/v1/key", key, "")
		if w.Code != 200 || strings.Contains(w.Body.String(), key) {
			t.Fatalf("got %d %s", w.Code, w.Body)
		}
		var v struct {
			Usage map[string]struct{ Limit, Used, Remaining int }
		}
		if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil {
			t.Fatal(err)
		}
		if got := v.Usage[RequestsPerMinute]; got.Used != 0 || got.Remaining != 1 {
			t.Errorf("got %+v, want nothing used", got)
		}
	}
}

func TestServer_RoutesAndMethods(t *testing.T) {
	a := newTestApp(t)
	_, key := a.key(everyPermission)
	for _, tt := range []struct {
		method, path string
		status       int
		code, allow  string
	}{
		{"GET", "/", 404, "not_found", ""},
		{"GET", "/api/v1/nothing", 404, "not_found", ""},
		{"GET", "/api/v1/CALLS", 404, "not_found", ""},
		{"GET", "/api/v1//calls", 404, "not_found", ""},
		{"GET", "/api/v1/x/../calls", 404, "not_found", ""},
		{"DELETE", "/api/v1/calls", 405, "method_not_allowed", "GET, HEAD, POST"},
		{"POST", "/api/v1/agents/", 405, "method_not_allowed", "GET, HEAD"},
		{"TRACE", "/api/v1/agents", 405, "method_not_allowed", "GET, HEAD"},
		{"POST", "/api/v1/contacts/17", 405, "method_not_allowed", "GET, HEAD"},
		{"GET", "/api/v1/calls/none", 404, "not_found", ""},
		{"GET", "/api/v1/calls/-1", 404, "not_found", ""},
		{"GET", "/api/v1/contacts/1e3", 404, "not_found", ""},
		{"GET", "/api/v1/contacts/99999999999999999999999", 404, "not_found", ""},
		{"GET", "/api/v1/contacts/1%2f2", 404, "not_found", ""},
		{"GET", "/api/v1/calls?page=0", 400, "validation_error", ""},
		{"GET", "/api/v1/calls?page=x", 400, "validation_error", ""},
		{"GET", "/api/v1/contacts?limit=-5", 400, "validation_error", ""},
		{"GET", "/api/v1/contacts?limit=99999", 200, "", ""},
		{"GET", "/api/v1/contacts?page=99999999999999999999", 200, "", ""},
		{"GET", "/healthz", 200, "", ""},
		{"GET", "/readyz", 200, "", ""},
	} {
		w := a.ask(tt.method, tt.path, key, "")
		if w.Code != tt.status || code(w) != tt.code || w.Header().Get("Allow") != tt.allow {
			t.Errorf("%s %s: got %d %s, Allow %q; want %d %s, %q", tt.method, tt.path, w.Code, w.Body, w.Header().Get("Allow"), tt.status, tt.code, tt.allow)
		}
		if loc := w.Header().Get("Location"); loc != "" {
			t.Errorf("%s %s: redirects to %s", tt.method, tt.path, loc)
		}
	}
}

// TestServer_RoutesConflict adds a route twice: there is no handler then, with guarded routes and without.
func TestServer_RoutesConflict(t *testing.T) {
	a := newTestApp(t)
	for _, guards := range []bool{true, false} {
		for _, twice := range []bool{true, false} {
			o := a.Server.o
			if o.Guards == nil {
				t.Fatal("the server has no guards")
			}
			if !guards {
				o.Guards = nil
			}
			if twice {
				o.Free = append(slices.Clone(o.Free), o.Keyed[0])
			}
			api, err := NewServer(o).API()
			if (err != nil) != twice {
				t.Fatalf("guards %t, a route twice %t: got %v", guards, twice, err)
			}
			if err != nil {
				continue
			}
			w := httptest.NewRecorder()
			if api.ServeHTTP(w, httptest.NewRequest("GET", "/healthz", nil)); w.Code != 200 {
				t.Errorf("guards %t: got %d %s", guards, w.Code, w.Body)
			}
		}
	}
}

func TestServer_Bodies(t *testing.T) {
	a := newTestApp(t)
	_, key := a.key(everyPermission)
	for _, tt := range []struct {
		name, body string
		status     int
		code       string
	}{
		{"empty", "", 400, "invalid_json"},
		{"text", "hello", 400, "invalid_json"},
		{"half", `{"first_name": `, 400, "invalid_json"},
		{"array", `[{"first_name": "A"}]`, 400, "invalid_json"},
		{"null", `null`, 400, "invalid_json"},
		{"two documents", `{"first_name": "A"}{}`, 400, "invalid_json"},
		{"not UTF-8", "{\"first_name\": \"\xff\"}", 400, "invalid_json"},
		{"a name twice", `{"first_name": "A", "first_name": "B"}`, 400, "invalid_json"},
		{"too deep", `{"first_name": "A", "x": ` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}`, 400, "invalid_json"},
		{"too large", `{"first_name": "` + strings.Repeat("a", 1<<20) + `"}`, 413, "validation_error"},
		{"a number for a text", `{"first_name": 5}`, 400, "validation_error"},
		{"another case", `{"First_Name": "A"}`, 400, "missing_first_name"},
		{"unknown fields are ignored", `{"first_name": "A", "favourite_colour": {"a": [1]}}`, 201, ""},
	} {
		if w := a.ask("POST", "/api/v1/contacts/create", key, tt.body); w.Code != tt.status || code(w) != tt.code {
			t.Errorf("%s: got %d %.200s, want %d %s", tt.name, w.Code, w.Body, tt.status, tt.code)
		}
	}
	if got := a.operate(200, "GET", "/admin/v1/contacts", "")["count"]; got != 1.0 {
		t.Errorf("got %v contacts, want only the good one", got)
	}
	r := httptest.NewRequest("POST", "/api/v1/contacts/create", strings.NewReader("x"))
	r.Header.Set("X-API-Key", key)
	r.Header.Set("Content-Encoding", "gzip")
	w := httptest.NewRecorder()
	if a.api.ServeHTTP(w, r); w.Code != 415 {
		t.Errorf("gzip: got %d, want 415", w.Code)
	}
}

// TestServer_KeyInURL sends keys in the URL and in the header to a guarded route, by both ways to its upstream. Only an answer
// to a key in the URL may not be stored, and links on it must not reveal the URL, whatever the upstream says.
func TestServer_KeyInURL(t *testing.T) {
	for _, said := range [][2]string{{"public, max-age=60", "unsafe-url"}, {"", ""}} {
		g := newGuarded(t, func(w http.ResponseWriter, r *http.Request) {
			for i, name := range []string{"Cache-Control", "Referrer-Policy"} {
				if said[i] != "" {
					w.Header().Set(name, said[i])
				}
			}
		}, nil)
		_, other := g.testApp.key(`["can_read_agents"]`)
		for _, method := range []string{"GET", "HEAD", "POST", "DELETE", "OPTIONS"} {
			for _, tt := range []struct {
				key    string
				status int
			}{{g.key, 200}, {other, 403}, {g.key + "x", 401}} {
				for _, inURL := range []bool{true, false} {
					path, fields := "/up/page", []string{"X-API-Key: " + tt.key}
					want := said
					if inURL {
						path, fields = path+"?api_key="+tt.key, nil
						want = [2]string{"private, no-store", "no-referrer"}
					}
					if tt.status != 200 {
						want = [2]string{"no-store", "no-referrer"}
					}
					w := askDoor(g.api, method, path, "", fields...)
					got := [2]string{w.Header().Get("Cache-Control"), w.Header().Get("Referrer-Policy")}
					if w.Code != tt.status || got != want {
						t.Errorf("%s, the key in the URL %t, the upstream says %q: got %d %q, want %d %q", method, inURL, said, w.Code, got, tt.status, want)
					}
				}
			}
		}
	}
}

// TestServer_SecretsStayHidden looks for a known key everywhere but in the
// answer that showed it.
func TestServer_SecretsStayHidden(t *testing.T) {
	a := newTestApp(t)
	a.operate(201, "POST", "/admin/v1/agents", `{"name": "Front desk"}`)
	id, key := a.key(`["can_read_agents"]`)
	token := a.operate(201, "POST", "/admin/v1/tokens", `{"name": "ops"}`)["token"].(string)
	var seen bytes.Buffer
	for _, path := range []string{"/api/v1/agents?api_key=" + key, "/api/v1/calls?api_key=" + key, "/api/v1/nothing?api_key=" + key, "/api/v1/key?api_key=" + key} {
		w := a.ask("GET", path, "", "")
		_ = w.Result().Header.Write(&seen)
		seen.Write(w.Body.Bytes())
		if w.Code == 200 && w.Header().Get("Cache-Control") != "private, no-store" {
			t.Errorf("%s: an answer to a key in the query may be cached", path[:14])
		}
	}
	wrong := a.ask("GET", "/api/v1/agents", key+"x", "")
	seen.Write(wrong.Body.Bytes())
	earlier := key
	key = a.rotate(id, 3600)
	_, asker := a.key(`["can_verify_keys"]`)
	for _, secret := range []string{earlier, key} {
		seen.Write(a.ask("POST", "/api/v1/verify", asker, `{"key": "`+secret+`"}`).Body.Bytes())
		seen.Write(a.ask("POST", "/api/v1/introspect", asker, "token="+secret).Body.Bytes())
		_ = json.NewEncoder(&seen).Encode(a.operate(200, "POST", "/admin/v1/keys/lookup", `{"sha256": ["`+sha(secret)+`"]}`)["keys"].([]any)[0].(map[string]any)["id"])
	}
	for _, path := range []string{"/keys", "/keys/" + id, "/tokens", "/status", "/keys/" + id + "/usage"} {
		v := a.operate(200, "GET", "/admin/v1"+path, "")
		_ = json.NewEncoder(&seen).Encode(v)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	a.App = nil
	seen.WriteString(a.log.String())
	files, err := os.ReadDir(a.config.Server.Data)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		data, err := os.ReadFile(filepath.Join(a.config.Server.Data, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		seen.Write(data)
		if info, err := f.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: got mode %v, %v; want 0600", f.Name(), info.Mode(), err)
		}
	}
	for _, secret := range []string{key, earlier, asker, token} {
		for i := 5; i+12 <= len(secret); i++ {
			if bytes.Contains(seen.Bytes(), []byte(secret[i:i+12])) {
				t.Fatalf("12 characters of a secret, from number %d, stand somewhere", i)
			}
		}
	}
}

func TestServer_Throttle(t *testing.T) {
	a := newTestApp(t)
	_, key := a.key(`["can_read_agents"]`)
	last := 0
	for range wrongKeys + 1 {
		last = a.ask("GET", "/api/v1/agents", keytext.NewSecret("klen_"), "").Code
	}
	if last != 429 {
		t.Errorf("after %d wrong keys: got %d, want 429", wrongKeys, last)
	}
	if w := a.ask("GET", "/api/v1/agents", key, ""); w.Code != 200 {
		t.Errorf("a valid key from the same address: got %d, want 200", w.Code)
	}
	a.clocks.Pass(time.Minute)
	if w := a.ask("GET", "/api/v1/agents", keytext.NewSecret("klen_"), ""); w.Code != 401 {
		t.Errorf("a minute later: got %d, want 401", w.Code)
	}
}

func TestThrottle_IsBounded(t *testing.T) {
	th := NewThrottle(60, time.Minute)
	for i := range 3 * throttleTable {
		th.Fail(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), epoch)
	}
	if got := len(th.seen); got > throttleTable {
		t.Errorf("got %d addresses remembered, want no more than %d", got, throttleTable)
	}
}

func TestServer_QueryKeySwitch(t *testing.T) {
	a := newTestApp(t, func(c *Config) { c.Keys.QueryAllowed = false })
	_, key := a.key(`["can_read_agents"]`)
	if w := a.ask("GET", "/api/v1/agents?api_key="+key, "", ""); w.Code != 401 {
		t.Errorf("got %d, want 401", w.Code)
	}
	b := newTestApp(t)
	_, key = b.key(`["can_read_agents"]`, `"query_allowed": false`)
	if w := b.ask("GET", "/api/v1/agents?api_key="+key, "", ""); w.Code != 401 {
		t.Errorf("switched off for the key: got %d, want 401", w.Code)
	}
	if w := b.ask("GET", "/api/v1/agents", key, ""); w.Code != 200 {
		t.Errorf("as a header: got %d, want 200", w.Code)
	}
}

func TestServer_StoreFailed(t *testing.T) {
	a := newTestApp(t)
	_, key := a.key(everyPermission)
	a.Store.fail(os.ErrClosed)
	for _, path := range []string{"/api/v1/agents", "/api/v1/contacts"} {
		if w := a.ask("GET", path, key, ""); w.Code != 503 || w.Header().Get("Retry-After") == "" {
			t.Errorf("%s: got %d, want 503 with Retry-After", path, w.Code)
		}
	}
	if w := a.ask("GET", "/readyz", "", ""); w.Code != 503 {
		t.Errorf("/readyz: got %d, want 503", w.Code)
	}
	if w := a.ask("GET", "/healthz", "", ""); w.Code != 200 {
		t.Errorf("/healthz: got %d, want 200", w.Code)
	}
}

// TestServer_RevokeBindsAtOnce hammers a key while it is revoked: what starts
// after the answer must be refused.
func TestServer_RevokeBindsAtOnce(t *testing.T) {
	a := newTestApp(t)
	for round := range 20 {
		id, key := a.key(`["can_read_agents"]`, `"limits": {"requests_per_minute_limit": 1000000}`)
		var wg sync.WaitGroup
		stop := make(chan struct{})
		for range 4 {
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
						a.ask("GET", "/api/v1/agents", key, "")
					}
				}
			})
		}
		a.operate(200, "POST", "/admin/v1/keys/"+id+"/revoke", "")
		for range 50 {
			if w := a.ask("GET", "/api/v1/agents", key, ""); w.Code != 401 && w.Code != 429 {
				t.Fatalf("round %d: got %d after the key was revoked", round, w.Code)
			}
		}
		close(stop)
		wg.Wait()
	}
}

func TestServer_Watch(t *testing.T) {
	a := newTestApp(t)
	var got []string
	a.Server.o.Watch = append(a.Server.o.Watch, func(o *Outcome) {
		got = append(got, fmt.Sprintf("%s %s %d %s %t", o.Method, o.Route, o.Status, o.Code, o.Key != nil))
	})
	_, key := a.key(`["can_read_agents"]`)
	a.ask("GET", "/api/v1/agents?api_key="+key, "", "")
	a.ask("GET", "/api/v1/calls/7", key, "")
	a.ask("GET", "/api/v1/agents", "klen_none", "")
	a.ask("GET", "/api/v1/nothing", key, "")
	want := []string{
		"POST /admin/v1/keys 201  false", "GET /api/v1/agents 200  true", "GET /api/v1/calls/:call_id 403 permission_denied true",
		"GET /api/v1/agents 401 invalid_key false", "GET - 404 not_found false",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// An inner fault is one line of the log with the request id and the cause, of
// which the caller sees nothing; what is the caller's own fault is none.
func TestServer_FaultsAreLogged(t *testing.T) {
	a := newTestApp(t)
	a.operate(201, "POST", "/admin/v1/contacts", `{"first_name": "Mara"}`)
	_, key := a.key(everyPermission)
	lines := func() (found []string) {
		for line := range strings.Lines(a.log.String()) {
			if strings.Contains(line, "request failed") {
				found = append(found, line)
			}
		}
		return found
	}
	for path, want := range map[string]int{"/api/v1/calls/7": 404, "/api/v1/nothing": 404, "/api/v1/calls?page=0": 400, "/api/v1/contacts": 200} {
		if w := a.ask("GET", path, key, ""); w.Code != want {
			t.Errorf("%s: got %d %s, want %d", path, w.Code, w.Body, want)
		}
	}
	if found := lines(); len(found) != 0 {
		t.Errorf("got %q, want no line", found)
	}
	damageRecords(t, a.Store, "contacts")
	for i, ask := range []func() *httptest.ResponseRecorder{
		func() *httptest.ResponseRecorder { return a.ask("GET", "/api/v1/contacts", key, "") },
		func() *httptest.ResponseRecorder { return a.control("GET", "/admin/v1/contacts", "") },
	} {
		w := ask()
		said := object(t, w.Body.String())
		if w.Code != 500 || said["error"] != "server_error" || said["message"] != ErrServer.Message || len(said) != 3 {
			t.Errorf("got %d %v, want server_error and nothing of the cause", w.Code, said)
		}
		found := lines()
		if len(found) != i+1 {
			t.Fatalf("got %q, want a line for each of %d faults", found, i+1)
		}
		line := object(t, found[i])
		if line["level"] != "ERROR" || line["id"] != said["request_id"] || line["error"] == nil || !strings.Contains(fmt.Sprint(line["error"]), "contacts/0000000000000001: checksum does not match") {
			t.Errorf("got %v, want the request %v and the cause", line, said["request_id"])
		}
	}
}

// Retry-After is there when there is something to wait for, and only then.
func TestServer_RetryAfter(t *testing.T) {
	a := newTestApp(t, withReports)
	_, key := a.key(everyPermission)
	_, few := a.key(everyPermission, `"limits": {"requests_per_minute_limit": 1}`)
	_, asker := a.key(`["can_verify_keys"]`)
	_, paused := a.key(everyPermission)
	_, powerless := a.key(`["can_read_calls"]`)
	a.operate(409, "POST", "/admin/v1/owners", `{"name": "admin"}`)
	a.ask("GET", "/api/v1/agents", few, "")
	want := func(w *httptest.ResponseRecorder, status int, wait []string) {
		t.Helper()
		if got := w.Header()["Retry-After"]; w.Code != status || !slices.Equal(got, wait) {
			t.Errorf("got %d %s, Retry-After %q; want %d and %q", w.Code, w.Body, got, status, wait)
		}
	}
	want(a.ask("GET", "/api/v1/agents", key, ""), 200, nil)
	want(a.ask("GET", "/api/v1/agents", "", ""), 401, nil)
	want(a.ask("GET", "/api/v1/agents", keytext.NewSecret("klen_"), ""), 401, nil)
	want(a.ask("GET", "/api/v1/agents", powerless, ""), 403, nil)
	want(a.ask("GET", "/api/v1/calls/7", key, ""), 404, nil)
	want(a.ask("GET", "/api/v1/nothing", key, ""), 404, nil)
	want(a.ask("DELETE", "/api/v1/agents", key, ""), 405, nil)
	want(a.ask("POST", "/api/v1/contacts/create", key, "{}"), 400, nil)
	want(a.control("POST", "/admin/v1/owners", `{"name": "admin"}`), 409, nil)
	want(a.ask("GET", "/api/v1/agents", few, ""), 429, []string{"60"})
	a.clocks.Pass(59*time.Second + 500*time.Millisecond)
	want(a.ask("GET", "/api/v1/agents", few, ""), 429, []string{"1"})
	a.clocks.Pass(500*time.Millisecond - 1)
	want(a.ask("GET", "/api/v1/agents", few, ""), 429, []string{"1"})
	a.clocks.Pass(1)
	want(a.ask("GET", "/api/v1/agents", few, ""), 200, nil)
	want(a.ask("POST", "/api/v1/verify", asker, `{"key": "`+paused+`", "limits": {"requests_per_minute_limit": 1000}}`), 200, nil)
	damageRecords(t, a.Store, "owners")
	want(a.control("GET", "/admin/v1/owners", ""), 500, nil)
	refuseWrites(t, a.Store)
	want(a.ask("POST", "/api/v1/contacts/create", key, `{"first_name": "Mara"}`), 503, []string{"5"})
}

// doorOf is the door that serves a path: the control socket for what the operator
// may do.
func (a *testApp) doorOf(path string) http.Handler {
	if strings.HasPrefix(path, "/admin/") {
		return a.local
	}
	return a.api
}

// A damaged record is a fault of ours that is told of. It is not one that is
// missing, so nothing is answered as if it were not there, and no other is made
// in its place.
func TestServer_DamagedIsNotMissing(t *testing.T) {
	a := newTestApp(t)
	f := fillStore(a)
	for _, tt := range []struct {
		bucket, method, path, body string
		good, damaged              int
	}{
		{"agents", "POST", "/api/v1/calls", `{"phone_number": "+4930555010", "agent_id": 1}`, 201, 500},
		{"agents", "GET", "/api/v1/calls?agent_id=1", "", 200, 500},
		{"agents", "POST", "/api/v1/calendar/events/create", `{"title": "Visit", "start_time": "2026-02-10T10:00:00Z", "end_time": "2026-02-10T11:00:00Z", "ai_agent_id": 1}`, 201, 500},
		{"agents", "POST", "/admin/v1/calls", `{"owner": "ann", "phone_number": "+4930555010", "agent_id": 1}`, 201, 500},
		{"contacts", "POST", "/api/v1/calls", `{"phone_number": "+4930555010", "agent_id": 1, "contact_id": 1}`, 201, 500},
		{"contacts", "POST", "/admin/v1/calls", `{"owner": "ann", "phone_number": "+4930555010", "agent_id": 1, "contact_id": 1}`, 201, 500},
		{"teams", "POST", "/api/v1/contacts/create", `{"first_name": "Oda", "team_id": 1}`, 201, 500},
		{"teams", "POST", "/admin/v1/agents", `{"owner": "ann", "name": "Back desk", "team_id": 1}`, 201, 500},
		{"owners", "POST", "/admin/v1/owners", `{"name": "ann"}`, 409, 409},
		{"owners", "POST", "/admin/v1/agents", `{"owner": "ann", "name": "Back desk"}`, 201, 500},
		{"owners", "POST", "/admin/v1/teams", `{"name": "Other", "members": ["ann"]}`, 201, 500},
		{"schedules", "POST", "/admin/v1/schedules", `{"owner": "ann", "time_zone": "UTC", "windows": {}}`, 409, 409},
		{"do_not_call", "POST", "/admin/v1/do-not-call", `{"phone_number": "+4930555666"}`, 201, 500},
		{"variables", "POST", "/api/v1/context-variables/create", `{"name": "tariff", "display_name": "Tariff", "variable_type": "text", "context_type": "business"}`, 400, 500},
	} {
		ask := func(when string, want int) {
			t.Helper()
			if w := askDoor(a.doorOf(tt.path), tt.method, tt.path, tt.body, "X-API-Key: "+f.Key); w.Code != want {
				t.Errorf("%s %s, %s %s: got %d %s, want %d", tt.method, tt.path, tt.bucket, when, w.Code, w.Body, want)
			}
		}
		repair := damageRecords(t, a.Store, tt.bucket)
		ask("damaged", tt.damaged)
		repair()
		ask("as they were", tt.good)
	}
}

// An admin token is refused as wrong only when it is: not when the store cannot
// be read, and not when the record of the token is damaged.
func TestServer_TokenUnreadable(t *testing.T) {
	a := newTestApp(t)
	token := a.operate(201, "POST", "/admin/v1/tokens", `{"name": "ops"}`)["token"].(string)
	want := func(when string, status int) {
		t.Helper()
		if w := askDoor(a.admin, "GET", "/admin/v1/keys", "", "Authorization: Bearer "+token); w.Code != status {
			t.Errorf("%s: got %d %s, want %d", when, w.Code, w.Body, status)
		}
	}
	want("good", 200)
	repair := damageRecords(t, a.Store, "admin_tokens")
	want("damaged", 500)
	repair()
	want("as before", 200)
	a.Store.fail(os.ErrClosed)
	want("a store that has failed", 503)
}

// Every endpoint that writes tells when the store takes no writes: nothing is
// answered as done.
func TestServer_ClosingStore(t *testing.T) {
	a := newTestApp(t)
	f := fillStore(a)
	refuseWrites(t, a.Store)
	asked := map[string]bool{}
	for _, ask := range []struct{ row, path, body string }{
		{"POST /admin/v1/owners", "/admin/v1/owners", `{"name": "eve"}`},
		{"PATCH /admin/v1/owners/:id", "/admin/v1/owners/1", `{"rate": 2}`},
		{"POST /admin/v1/owners/import", "/admin/v1/owners/import", `[{"name": "eve"}]`},
		{"POST /admin/v1/teams", "/admin/v1/teams", `{"name": "Other"}`},
		{"PATCH /admin/v1/teams/:id", "/admin/v1/teams/1", `{"name": "Other"}`},
		{"DELETE /admin/v1/teams/:id", "/admin/v1/teams/1", ""},
		{"POST /admin/v1/teams/import", "/admin/v1/teams/import", `[{"name": "Other"}]`},
		{"POST /admin/v1/agents", "/admin/v1/agents", `{"owner": "ann", "name": "Back desk"}`},
		{"DELETE /admin/v1/agents/:id", "/admin/v1/agents/1", ""},
		{"DELETE /admin/v1/contacts/:id", "/admin/v1/contacts/1", ""},
		{"POST /admin/v1/do-not-call", "/admin/v1/do-not-call", `{"phone_number": "+4930555667"}`},
		{"POST /admin/v1/schedules", "/admin/v1/schedules", `{"owner": "bob", "time_zone": "UTC", "windows": {}}`},
		{"POST /admin/v1/operators", "/admin/v1/operators", `{"name": "eve", "password": "` + operatorPassword + `"}`},
		{"POST /admin/v1/operators/invite", "/admin/v1/operators/invite", `{"name": "eve", "role": "viewer"}`},
		{"PATCH /admin/v1/operators/:id", "/admin/v1/operators/1", `{"role": "viewer"}`},
		{"POST /admin/v1/operators/:id/enroll-link", "/admin/v1/operators/1/enroll-link", ""},
		{"POST /admin/v1/operators/:id/password", "/admin/v1/operators/1/password", `{"password": "` + operatorPassword + `"}`},
		{"DELETE /admin/v1/operators/:id", "/admin/v1/operators/1", ""},
		{"POST /admin/v1/tokens", "/admin/v1/tokens", `{"name": "other"}`},
		{"POST /admin/v1/keys", "/admin/v1/keys", `{"name": "x", "permissions": ["can_read_calls"]}`},
		{"POST /api/v1/calls", "/api/v1/calls", `{"phone_number": "+4930555010", "agent_id": 1}`},
		{"POST /api/v1/contacts/create", "/api/v1/contacts/create", `{"first_name": "Oda"}`},
		{"POST /api/v1/calendar/events/create", "/api/v1/calendar/events/create", `{"title": "Visit", "start_time": "2026-02-10T10:00:00Z", "end_time": "2026-02-10T11:00:00Z"}`},
	} {
		method, _, _ := strings.Cut(ask.row, " ")
		asked[ask.row] = true
		if w := askDoor(a.doorOf(ask.path), method, ask.path, ask.body, "X-API-Key: "+f.Key); w.Code != 503 || code(w) != "service_unavailable" {
			t.Errorf("%s: got %d %s, want 503", ask.row, w.Code, w.Body)
		}
	}
	for _, row := range a.Server.o.Admin { // all of the owners, teams and operators
		if name := row.Method + " " + row.Path; row.Method != "GET" && !asked[name] {
			for _, of := range []string{"/admin/v1/owners", "/admin/v1/teams", "/admin/v1/operators"} {
				if strings.HasPrefix(row.Path, of) {
					t.Errorf("%s is not asked", name)
				}
			}
		}
	}
}

// Every list and record of the admin endpoint refuses what it cannot mean, also
// those that are added later: a page that is none, an id that is none or nobody's,
// a body that is none.
func TestServer_AdminRefusals(t *testing.T) {
	a := newTestApp(t)
	fillStore(a)
	refused := func(method, path, body string, status ...int) {
		t.Helper()
		if w := askDoor(a.local, method, path, body); !slices.Contains(status, w.Code) {
			t.Errorf("%s %s %s: got %d %s, want %v", method, path, body, w.Code, w.Body, status)
		}
	}
	asked := 0
	for _, c := range []string{"owners", "teams", "agents", "contacts", "do-not-call", "schedules", "variables", "operators"} {
		for _, row := range a.Server.o.Admin {
			rest, ok := strings.CutPrefix(row.Path, "/admin/v1/"+c)
			if !ok {
				continue
			}
			asked++
			if strings.Contains(rest, ":") {
				body := `{"password": "` + operatorPassword + `"}`
				if row.NoBody {
					body = ""
				}
				refused(row.Method, fill(row.Path, "x"), body, 404)
				refused(row.Method, fill(row.Path, "999999"), body, 404)
			}
			if (row.Method == "POST" || row.Method == "PATCH") && !row.NoBody {
				for _, body := range []string{"", "[", "5", `{"name": 5, "phone_number": 5, "password": 5, "first_name": 5, "owner": 5, "display_name": 5, "members": 5}`} {
					refused(row.Method, fill(row.Path, "1"), body, 400)
				}
			}
			if rest == "" && row.Method == "GET" && c != "operators" {
				refused("GET", row.Path+"?page=0", "", 400)
				refused("GET", row.Path+"?limit=x", "", 400)
			}
		}
	}
	if asked < 40 {
		t.Errorf("asked %d rows, want those of eight kinds", asked)
	}
	refused("POST", "/admin/v1/teams", `{"name": " "}`, 400)
	refused("POST", "/admin/v1/teams", `{"name": "x", "members": ["`+strings.Repeat("n", 201)+`"]}`, 400)
	refused("POST", "/admin/v1/teams", `{"members": ["ann"]}`, 400)
}

// An import that cannot be read, or with a row that cannot be stored, imports
// nothing and names what is wrong, fifty rows at most.
func TestServer_ImportRefusals(t *testing.T) {
	a := newTestApp(t)
	rows := func(n int) string { return strings.TrimSuffix(strings.Repeat(`{"first_name": 5},`, n), ",") }
	for _, tt := range []struct {
		of, kind, body, says string
		faults               int // listed
	}{
		{"owners", "text/csv", "name\nann\n", "The import of owners accepts only JSON", 0},
		{"contacts", "text/csv", "", "It must have the column names", 0},
		{"contacts", "text/csv", "first_name,shoe_size\nMara,39\n", `The column "shoe_size" does not exist`, 0},
		{"contacts", "text/csv", "first_name,last_name\nMara\n", "line 2 of the file (row 1): The row has 1 cells", 1},
		{"contacts", "text/csv", "first_name,last_name\n\"Mara\n", "The CSV cannot be read", 0},
		{"contacts", "text/csv", "first_name,do_not_call\nMara,false\nOda,perhaps\n", "line 3 of the file (row 2): do_not_call must be true or false", 1},
		{"contacts", "text/csv", "first_name,last_name\nMara,Lind\n,Nord\n", "line 3 of the file (row 2): first_name is missing", 1},
		{"contacts", "application/json", "[", "not valid JSON", 0},
		{"contacts", "application/json", "[5]", "row 1: Each row must be a JSON object", 1},
		{"contacts", "application/json", `{"rows": []}`, "contacts is missing", 0},
		{"contacts", "application/json", `[{"first_name": "Mara"}, {}]`, "row 2: first_name is missing", 1},
		{"contacts", "application/json", "[" + rows(maxRowFaults) + "]", "row 1: first_name must be", maxRowFaults},
		{"contacts", "application/json", "[" + rows(maxRowFaults+1) + "]", "row 1: first_name must be", maxRowFaults},
	} {
		w := askDoor(a.local, "POST", "/admin/v1/"+tt.of+"/import", tt.body, "Content-Type: "+tt.kind)
		said := object(t, w.Body.String())
		faults, _ := said["errors"].([]any)
		if w.Code != 400 || !strings.Contains(fmt.Sprint(said["message"]), tt.says) || len(faults) != tt.faults {
			t.Errorf("%.60q: got %d %.300s with %d faults, want 400 %q with %d", tt.body, w.Code, w.Body, len(faults), tt.says, tt.faults)
		}
	}
	for _, of := range []string{"owners", "contacts"} {
		if n := a.operate(200, "GET", "/admin/v1/"+of, "")["count"]; n != 0.0 {
			t.Errorf("got %v %s, want none", n, of)
		}
	}
	a.operate(201, "POST", "/admin/v1/owners/import", `[{"name": "ann"}, {"name": "bob"}, {"name": "eve"}]`)
	for page, want := range map[string]string{"1": "[eve bob]", "2": "[ann]", "3": "[]"} {
		var names []any
		for _, row := range a.operate(200, "GET", "/admin/v1/owners?limit=2&page="+page, "")["owners"].([]any) {
			names = append(names, row.(map[string]any)["name"])
		}
		if fmt.Sprint(names) != want {
			t.Errorf("page %s: got %v, want %s", page, names, want)
		}
	}
}

// TestServer_EveryRouteAtPresent asks every route of a node of a cluster that does not know what has changed on the others.
// All refuse every caller and do nothing. Only /healthz, /readyz and the reference answer, and on the control socket the routes that
// are Stale.
func TestServer_EveryRouteAtPresent(t *testing.T) {
	a := newTestApp(t, func(c *Config) {
		c.Permissions = []permissionRow{{Name: "can_use", Description: "Use it."}}
		c.Routes = []RouteRow{{Path: "/up/*rest", Permission: []string{"can_use"}, Upstream: "http://127.0.0.1:1", Timeout: time.Minute}}
	})
	_, key := a.key(everyPermission)
	a.Server.o.Serving = func() error { return errors.New("the lease has ended") }
	asked := 0
	ask := func(door http.Handler, method, path string, fields ...string) {
		t.Helper()
		r, w := httptest.NewRequest(method, path, strings.NewReader("{}")), httptest.NewRecorder()
		r.RemoteAddr = "127.0.0.1:1000"
		for _, f := range fields {
			name, value, _ := strings.Cut(f, ": ")
			r.Header.Set(name, value)
		}
		door.ServeHTTP(w, r)
		want := 503
		if path == "/authz/nginx" {
			want = 403 // nginx takes no other refusal
		}
		if asked++; w.Code != want || !strings.Contains(w.Body.String(), "the lease has ended") {
			t.Errorf("%s %s %q: got %d %s, want %d", method, path, fields, w.Code, w.Body, want)
		}
	}
	routes := a.Server.o.Routes
	for _, fields := range [][]string{nil, {"X-API-Key: " + key}, {"X-API-Key: klen_wrong"}} {
		for _, row := range slices.Concat(routes.Keyed, routes.Free, routes.Open) {
			ask(a.api, row.Method, fill(row.Path, "1"), fields...)
		}
		ask(a.api, "GET", "/up/1", fields...)
		ask(a.api, "GET", "/authz/nginx", append(fields, "X-Original-Method: GET", "X-Original-URI: /up/1")...)
		ask(a.api, "GET", "/authz/forward", append(fields, "X-Forwarded-Method: GET", "X-Forwarded-URI: /up/1")...)
		ask(a.api, "GET", "/authz/envoy/up/1", fields...)
	}
	for _, row := range routes.Admin {
		ask(a.admin, row.Method, fill(row.Path, "1"))
		if !row.Stale { // see TestCluster_Stopped
			ask(a.local, row.Method, fill(row.Path, "1"))
		}
	}
	if asked < 150 {
		t.Errorf("asked %d times, want every route", asked)
	}
	for _, path := range []string{"/healthz", "/reference"} {
		if w := askDoor(a.api, "GET", path, ""); w.Code != 200 {
			t.Errorf("%s: got %d, want 200", path, w.Code)
		}
	}
	if w := askDoor(a.api, "GET", "/readyz", ""); w.Code != 503 || !strings.Contains(w.Body.String(), "the lease has ended") {
		t.Errorf("/readyz: got %d %s, want the reason", w.Code, w.Body)
	}
}
