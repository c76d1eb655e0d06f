package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// askFrom asks for the status of the service with an admin token from an address.
func (a *testApp) askFrom(address, token string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("GET", "/admin/v1/status", nil)
	r.RemoteAddr = address
	r.Header.Set("Authorization", "Bearer "+token)
	w := httptest.NewRecorder()
	a.admin.ServeHTTP(w, r)
	conform(a.t, r, w)
	return w
}

// wantRefused wants an answer with a status, a code and a text in its message.
func wantRefused(t *testing.T, w *httptest.ResponseRecorder, status int, errorCode, text string) {
	t.Helper()
	if w.Code != status || code(w) != errorCode || !strings.Contains(w.Body.String(), text) {
		t.Errorf("got %d %s, want %d %s with %q", w.Code, w.Body, status, errorCode, text)
	}
}

const usualClient = "192.0.2.1:1234"

// token1 returns the first token as the list shows it.
func (a *testApp) token1() map[string]any {
	a.t.Helper()
	if err := a.Store.Update(func(*Tx) error { return nil }); err != nil { // after the uses that are queued
		a.t.Fatal(err)
	}
	rows := a.operate(200, "GET", "/admin/v1/tokens", "")["tokens"].([]any)
	return rows[len(rows)-1].(map[string]any)
}

func TestTokens_Create(t *testing.T) {
	a := newTestApp(t)
	made := a.operate(201, "POST", "/admin/v1/tokens", `{"name": "ci"}`)
	for field, want := range map[string]string{
		"name": "ci", "scope": "all", "status": "active", "expires_at": *Seconds(epoch.Add(365 * 24 * time.Hour)), "allowed_ips": "[]", "made_by": "control socket",
		"last_used_at": "<nil>", "last_used_ip": "<nil>", "revoked_at": "<nil>", "previous_secrets": "[]", "rotated_at": "<nil>", "rotated_by": "<nil>",
	} {
		if got := fmt.Sprint(made[field]); got != want {
			t.Errorf("%s: got %s, want %s", field, got, want)
		}
	}
	made = a.operate(201, "POST", "/admin/v1/tokens", `{"name": "b", "scope": "read", "expires_at": "never", "allowed_ips": ["192.0.2.77/24", "::ffff:198.51.100.1"]}`)
	if fmt.Sprintf("%v %v %v", made["expires_at"], made["allowed_ips"], made["scope"]) != "<nil> [192.0.2.0/24 198.51.100.1/32] read" {
		t.Errorf("got %v", made)
	}
	end := *Seconds(epoch.Add(time.Hour))
	if made = a.operate(201, "POST", "/admin/v1/tokens", `{"name": "c", "expires_at": "`+end+`"}`); made["expires_at"] != end {
		t.Errorf("got %v, want the end %s", made, end)
	}
	for body, want := range map[string]string{
		`{}`:                             "name is missing",
		`{"name": " "}`:                  "name is missing",
		`{"name": "x", "scope": "some"}`: "scope must be one of metrics, read, dialer, keys, write, all",
		`{"name": "x", "scope": null}`:   "scope must be one of",
		`{"name": "x", "expires_at": "` + *Seconds(epoch.Add(-time.Hour)) + `"}`:   "expires_at is not in the future",
		`{"name": "x", "expires_at": "` + *Seconds(a.clock.Now()) + `"}`:           "expires_at is not in the future",
		`{"name": "x", "expires_at": null}`:                                        `\"never\" for a token that never expires`,
		`{"name": "x", "expires_at": "forever"}`:                                   "expires_at must be a time such as",
		`{"name": "x", "expires_at": 7}`:                                           "expires_at must be a time such as",
		`{"name": "x", "allowed_ips": ["192.0.2.0/33"]}`:                           "allowed_ips[0] must be an address or a range",
		`{"name": "x", "allowed_ips": "192.0.2.1"}`:                                "allowed_ips must be an array",
		`{"name": "` + strings.Repeat("x", NameLength+1) + `"}`:                    "name has 201 characters",
		`{"name": "x", "allowed_ips": [` + strings.Repeat(`"::1",`, 1000) + `""]}`: "allowed_ips has 1,001 entries",
	} {
		w := a.control("POST", "/admin/v1/tokens", body)
		wantRefused(t, w, 400, code(w), want)
	}
	if n := a.operate(200, "GET", "/admin/v1/tokens", "")["count"]; fmt.Sprint(n) != "3" {
		t.Errorf("got %v tokens, want those 3 that were accepted", n)
	}
}

// A token that was stored by an earlier version has no end, and says so.
func TestTokens_Earlier(t *testing.T) {
	a := newTestApp(t)
	secret := a.token()
	if err := a.Store.Update(func(tx *Tx) error {
		now, err := TokenTable.Get(tx, IDKey(1))
		if err != nil {
			return err
		}
		return TokenTable.Put(tx, Token{ID: 1, Name: "old", Hint: now.Hint, Hash: now.Hash, CreatedAt: now.CreatedAt})
	}); err != nil {
		t.Fatal(err)
	}
	a.clocks.Pass(5 * 365 * 24 * time.Hour)
	if w := a.askFrom(usualClient, secret); w.Code != 200 {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	if got := a.token1(); fmt.Sprintf("%v %v %v %v %v", got["expires_at"], got["made_by"], got["scope"], got["status"], got["allowed_ips"]) != "<nil> <nil> all active []" {
		t.Errorf("got %v", got)
	}
}

func TestTokens_Expired(t *testing.T) {
	a := newTestApp(t)
	end := epoch.Add(time.Hour)
	secret := a.operate(201, "POST", "/admin/v1/tokens", `{"name": "ci", "expires_at": "`+*Seconds(end)+`"}`)["token"].(string)
	a.clocks.Pass(time.Hour - time.Second)
	if w := a.askFrom(usualClient, secret); w.Code != 200 {
		t.Errorf("a second before its end: got %d %s", w.Code, w.Body)
	}
	a.clocks.Pass(2 * time.Second)
	used := a.token1()["last_used_at"]
	a.clocks.Pass(2 * time.Minute)
	for range wrongKeys {
		w := a.askFrom(usualClient, secret)
		wantRefused(t, w, 401, "invalid_key", "expired on "+*Seconds(end))
		if !strings.Contains(w.Header().Get("WWW-Authenticate"), "invalid_token") {
			t.Errorf("got the challenge %q", w.Header().Get("WWW-Authenticate"))
		}
	}
	wantRefused(t, a.askFrom(usualClient, secret), 429, "rate_limit_exceeded", "Too many wrong tokens")
	if got := a.token1(); got["status"] != "expired" || got["last_used_at"] != used {
		t.Errorf("got %v, want it to be expired, and last used at %v", got, used)
	}
	wantRefused(t, a.control("POST", "/admin/v1/tokens/1/rotate", ""), 409, "conflict", "is expired, so it cannot be rotated")
}

// A token is accepted only from its addresses. A right token from another address does not count as
// a guess, as a key does not.
func TestTokens_Addresses(t *testing.T) {
	a := newTestApp(t, func(c *Config) { c.Server.TrustedProxies = nil })
	secret := a.operate(201, "POST", "/admin/v1/tokens", `{"name": "ci", "allowed_ips": ["192.0.2.0/28", "2001:db8::/32"]}`)["token"].(string)
	for _, from := range []string{"192.0.2.1:1", "[2001:db8::5%eth0]:1", "[::ffff:192.0.2.3]:1"} {
		if w := a.askFrom(from, secret); w.Code != 200 {
			t.Errorf("from %s: got %d %s", from, w.Code, w.Body)
		}
	}
	a.clocks.Pass(2 * time.Minute)
	used := a.token1()["last_used_at"]
	for range wrongKeys + 1 {
		wantRefused(t, a.askFrom("192.0.2.16:1", secret), 403, "permission_denied", "may not be used from the address 192.0.2.16. Use an address in its allowed_ips")
	}
	wantRefused(t, a.askFrom("@", secret), 403, "permission_denied", "address of the client is unknown")
	if got := a.token1()["last_used_at"]; got != used {
		t.Errorf("got the last use %v, want %v: a refused use is none", got, used)
	}
	if w := a.askFrom(usualClient, secret); w.Code != 200 {
		t.Errorf("afterwards: got %d %s", w.Code, w.Body)
	}
}

func TestTokens_LastUse(t *testing.T) {
	a := newTestApp(t)
	secret := a.token()
	at := func(from, want, wantIP string) {
		t.Helper()
		if w := a.askFrom(from, secret); w.Code != 200 {
			t.Fatalf("got %d %s", w.Code, w.Body)
		}
		if got := a.token1(); got["last_used_at"] != want || got["last_used_ip"] != wantIP {
			t.Errorf("got %v %v, want %s %s", got["last_used_at"], got["last_used_ip"], want, wantIP)
		}
	}
	first := *Seconds(a.clock.Now())
	at("192.0.2.1:1", first, "192.0.2.1")
	a.clocks.Pass(time.Minute)
	at("192.0.2.2:1", first, "192.0.2.1")
	a.clocks.Pass(time.Second)
	at("192.0.2.2:1", *Seconds(a.clock.Now()), "192.0.2.2")
}

func TestTokens_Rotate(t *testing.T) {
	a := newTestApp(t)
	secrets := []string{a.token()}
	rotate := func(body string) map[string]any {
		t.Helper()
		made := a.operate(200, "POST", "/admin/v1/tokens/1/rotate", body)
		secrets = append(secrets, made["token"].(string))
		return made
	}
	valid := func(want ...bool) {
		t.Helper()
		for i, secret := range secrets {
			a.Server.throttle = NewThrottle(60, time.Minute)
			if w := a.askFrom(usualClient, secret); (w.Code == 200) != want[i] {
				t.Errorf("secret %d: got %d %s, want valid: %t", i, w.Code, w.Body, want[i])
			}
		}
	}
	made := rotate("")
	if made["rotated_by"] != "control socket" || fmt.Sprint(made["previous_secrets"]) != fmt.Sprintf("[map[ends_at:%s hint:%s last_used_at:<nil>]]", *Seconds(epoch.Add(24 * time.Hour)), hintOf(secrets[0])) {
		t.Errorf("got %v", made)
	}
	valid(true, true)
	if shown := fmt.Sprint(a.token1()); strings.Contains(shown, secrets[1]) || !strings.Contains(shown, "last_used_at:2026") {
		t.Errorf("got %s, want the last use of the previous secret, and no secret", shown)
	}
	a.clocks.Pass(24*time.Hour + time.Second)
	valid(false, true)
	wantRefused(t, a.askFrom(usualClient, secrets[0]), 401, "invalid_key", "was replaced, and its old secret was valid until "+*Seconds(epoch.Add(24 * time.Hour)))
	rotate(`{"overlap_seconds": 60}`)
	rotate(`{"overlap_seconds": 60}`)
	rotate(`{"overlap_seconds": 60}`)
	wantRefused(t, a.control("POST", "/admin/v1/tokens/1/rotate", ""), 409, "conflict", "3 earlier secrets")
	valid(false, true, true, true, true)
	rotate(`{"overlap_seconds": 0}`)
	valid(false, false, false, false, false, true)
	for _, body := range []string{`{"overlap_seconds": -1}`, `{"overlap_seconds": 2592001}`, `{"overlap_seconds": "1"}`} {
		w := a.control("POST", "/admin/v1/tokens/1/rotate", body)
		wantRefused(t, w, 400, code(w), "overlap_seconds must be a whole number from 0 to 2592000")
	}
	rotate("")
	a.operate(200, "POST", "/admin/v1/tokens/1/revoke", "")
	valid(false, false, false, false, false, false, false)
	wantRefused(t, a.control("POST", "/admin/v1/tokens/1/rotate", ""), 409, "conflict", "is revoked")
	wantRefused(t, a.control("POST", "/admin/v1/tokens/9/rotate", ""), 404, "not_found", "")
}

// hintOf returns the hint of a token's secret.
func hintOf(secret string) string { return secret[:len(TokenPrefix)] + "..." + secret[len(secret)-4:] }

// json sends a request to the admin endpoint as the operator who has logged in.
func (b *browser) json(method, path, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, "http://127.0.0.1:8081"+path, strings.NewReader(body))
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	r.Header.Set("Content-Type", "application/json")
	return b.send(r)
}

// A token that an operator has created or rotated ends when the operator signs out everywhere, is
// removed or gets another password; after a change of one's own password only those of other sessions
// end. A token that another operator was shown last stays.
func TestTokens_EndWithMaker(t *testing.T) {
	for name, tt := range map[string]struct {
		end            func(b *browser) int
		want           int
		own, of, later int // answers to tokens of this session, of another session, and one that bea rotated
	}{
		"sign out":            {func(b *browser) int { return b.post("/logout").Code }, 303, 200, 200, 200},
		"sign out everywhere": {func(b *browser) int { return b.post("/logout-everywhere").Code }, 303, 401, 401, 200},
		"removed":             {func(b *browser) int { return b.control("DELETE", "/admin/v1/operators/1", "").Code }, 200, 401, 401, 200},
		"lower role": {func(b *browser) int {
			return b.control("PATCH", "/admin/v1/operators/1", `{"role": "key_manager"}`).Code
		}, 200, 401, 401, 200},
		"higher role": {func(b *browser) int { return b.control("PATCH", "/admin/v1/operators/2", `{"role": "admin"}`).Code }, 200, 200, 200, 200},
		"one session ended": {func(b *browser) int {
			for _, row := range b.operate(200, "GET", "/admin/v1/sessions?operator=1", "")["sessions"].([]any) {
				if s := row.(map[string]any); s["id"] != b.ownSession() {
					return b.control("DELETE", "/admin/v1/sessions/"+s["id"].(string), "").Code
				}
			}
			return 0
		}, 200, 200, 401, 200},
		"another password": {func(b *browser) int {
			return b.control("POST", "/admin/v1/operators/1/password", `{"password": "another horse battery"}`).Code
		}, 200, 401, 401, 200},
		"own password": {func(b *browser) int {
			return b.post("/account", "old", operatorPassword, "password", "another horse battery").Code
		}, 303, 200, 401, 200},
	} {
		t.Run(name, func(t *testing.T) {
			b := newDashboard(t)
			b.operate(201, "POST", "/admin/v1/operators", `{"name": "bea", "password": "`+operatorPassword+`"}`)
			secretOf := func(s *browser, path, body string) string {
				t.Helper()
				s.prove()
				w := s.json("POST", path, body)
				if w.Code != 201 && w.Code != 200 {
					t.Fatalf("%s: got %d %s", path, w.Code, w.Body)
				}
				var made struct{ Token string }
				if err := json.Unmarshal(w.Body.Bytes(), &made); err != nil {
					t.Fatal(err)
				}
				return made.Token
			}
			login := func(name string) *browser {
				t.Helper()
				s := newBrowser(b.testApp)
				if w := s.post("/login", "name", name, "password", operatorPassword); w.Code != http.StatusSeeOther {
					t.Fatalf("got %d %s", w.Code, w.Body)
				}
				return s
			}
			other, bea := login("ann"), login("bea")
			create := func(s *browser) string { return secretOf(s, "/admin/v1/tokens", `{"name": "t"}`) }
			own, of, first := create(b), create(other), create(other)
			later := secretOf(bea, "/admin/v1/tokens/3/rotate", "")
			socket := b.operate(201, "POST", "/admin/v1/tokens", `{"name": "socket"}`)["token"].(string)
			if made := b.operate(200, "GET", "/admin/v1/tokens", "")["tokens"].([]any)[2].(map[string]any); made["made_by"] != "operator 1 Ann" {
				t.Errorf("got %v, want that it was made by operator 1", made)
			}
			if got := tt.end(b); got != tt.want {
				t.Fatalf("got %d, want %d", got, tt.want)
			}
			for i, c := range []struct {
				secret string
				want   int
			}{{own, tt.own}, {of, tt.of}, {first, tt.of}, {later, tt.later}, {socket, 200}} {
				if w := b.askFrom(usualClient, c.secret); w.Code != c.want {
					t.Errorf("token %d: got %d %s, want %d", i, w.Code, w.Body, c.want)
				}
			}
		})
	}
}

// An admin token cannot create or rotate one, not even itself.
func TestTokens_NeverByToken(t *testing.T) {
	a := newTestApp(t)
	secret := a.token()
	for _, path := range []string{"/admin/v1/tokens", "/admin/v1/tokens/1/rotate"} {
		r := httptest.NewRequest("POST", path, strings.NewReader(`{"name": "t"}`))
		r.Header.Set("Authorization", "Bearer "+secret)
		w := httptest.NewRecorder()
		a.admin.ServeHTTP(w, r)
		wantRefused(t, w, 403, "permission_denied", "An admin token cannot be used for POST "+strings.Replace(path, "/1/", "/:id/", 1))
	}
	if w := a.askFrom(usualClient, secret); w.Code != 200 {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
}

// ownSession returns the public id of the session of the browser.
func (b *browser) ownSession() string {
	b.t.Helper()
	id := ""
	b.change(func(_ *operator, login *loginSession) { id = login.publicID() })
	return id
}

// TestTokens_ListQuery asks for the list with queries that are wrong.
func TestTokens_ListQuery(t *testing.T) {
	a := newTestApp(t)
	a.operate(201, "POST", "/admin/v1/tokens", `{"name": "ops"}`)
	for query, want := range map[string]int{
		"": 200, "?page=1&limit=1000": 200, "?ends_soon=true": 200, "?page=0": 400, "?page=x": 400, "?limit=0": 400, "?limit=1001": 200, "?limit=x": 400, "?ends_soon=yes": 400,
	} {
		if w := a.control("GET", "/admin/v1/tokens"+query, ""); w.Code != want || want == 400 && code(w) != "validation_error" {
			t.Errorf("%s: got %d %s, want %d", query, w.Code, w.Body, want)
		}
	}
	damageRecords(t, a.Store, TokenTable.Name)
	a.operate(500, "GET", "/admin/v1/tokens", "")
}
