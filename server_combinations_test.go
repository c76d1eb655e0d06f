package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"latchkey/internal/keytext"
	"latchkey/tests/program"
)

// accessCaller is a credential in some state, and what the tables say of it.
type accessCaller struct {
	name   string
	kind   string // "key", "token" or "login"
	secret string
	dead   int         // the status of every answer; 0: it is valid
	may    Permission  // of a key
	rights AdminRights // of a token or a login
	proven bool        // the password of a login was confirmed within ProofSpan
	things []string    // ids of the records of its owner, by their place in things; nil: no owner that has any
}

// accessCarriers are the places of a request for a credential. api and admin are the kinds that each
// listener takes there.
var accessCarriers = []struct {
	name, api, admin string
	put              func(r *http.Request, cookie, secret string)
}{
	{"X-API-Key", "key", "", func(r *http.Request, _, secret string) { r.Header.Set("X-API-Key", secret) }},
	{"Bearer", "key", "token", func(r *http.Request, _, secret string) { r.Header.Set("Authorization", "Bearer "+secret) }},
	{"api_key", "key", "", func(r *http.Request, _, secret string) { r.URL.RawQuery = "api_key=" + secret }},
	{"cookie", "", "login", func(r *http.Request, cookie, secret string) { r.Header.Set("Cookie", cookie+"="+secret) }},
	{"Basic", "", "", func(r *http.Request, _, secret string) { r.Header.Set("Authorization", "Basic "+secret) }},
	{"Proxy-Authorization", "", "", func(r *http.Request, _, secret string) { r.Header.Set("Proxy-Authorization", "Bearer "+secret) }},
}

// accessWalk is the service with callers of every kind.
type accessWalk struct {
	*browser
	callers            []accessCaller
	asked, all, denied int
	share              int // one of so many combinations is asked
}

// login returns the secret of a new login of an operator, and changes its record.
func (w *accessWalk) login(name string, change func(*browser)) string {
	w.t.Helper()
	s := newBrowser(w.testApp)
	if got := s.post("/login", "name", name, "password", operatorPassword); got.Code != 303 {
		w.t.Fatalf("log in: got %d %s", got.Code, got.Body)
	}
	secret := s.sessionCookie().Value
	if change != nil {
		change(s)
	}
	return secret
}

// addLogins adds logins of every role: with the password confirmed in time, too long ago and never,
// and ended in every way.
func (w *accessWalk) addLogins() {
	w.t.Helper()
	add := func(name, secret string, dead int, rights AdminRights, proven bool) {
		w.callers = append(w.callers, accessCaller{name: "login " + name, kind: "login", secret: secret, dead: dead, rights: rights, proven: proven})
	}
	create := func(name, role string) int {
		return int(w.operate(201, "POST", "/admin/v1/operators", fmt.Sprintf(`{"name": %q, "password": %q, "role": %q}`, name, operatorPassword, role))["id"].(float64))
	}
	for _, role := range Roles() {
		create(role.Name, role.Name)
		add(role.Name+", idle for too long", w.login(role.Name, nil), 401, 0, false)
	}
	w.clocks.Pass(w.config.Admin.SessionIdle)
	for _, role := range Roles() {
		for _, proven := range []time.Duration{0, ProofSpan, ProofSpan + time.Second} {
			secret := w.login(role.Name, func(s *browser) {
				s.change(func(_ *operator, login *loginSession) {
					if login.ProvenAt = (time.Time{}); proven > 0 {
						login.ProvenAt = w.clock.Latest(w.clock.Now()).Add(-proven)
					}
				})
			})
			add(fmt.Sprintf("%s, confirmed %v ago", role.Name, proven), secret, 0, role.Rights, proven == ProofSpan)
		}
		add(role.Name+", signed out", w.login(role.Name, func(s *browser) { s.post("/logout") }), 401, 0, false)
		add(role.Name+", ended by another", w.login(role.Name, func(s *browser) {
			w.operate(200, "DELETE", "/admin/v1/sessions/"+s.ownSession(), "")
		}), 401, 0, false)
	}
	gone := create("gone", RoleAdmin)
	add("of a removed operator", w.login("gone", func(*browser) { w.operate(200, "DELETE", fmt.Sprint("/admin/v1/operators/", gone), "") }), 401, 0, false)
	add("unknown", strings.Repeat("0", 64), 401, 0, false)
}

// addTokens adds admin tokens of every scope in every state.
func (w *accessWalk) addTokens() {
	w.t.Helper()
	for _, scope := range Scopes() {
		add := func(name string, dead int, more, after string) {
			made := w.operate(201, "POST", "/admin/v1/tokens", fmt.Sprintf(`{"name": "t", "scope": %q%s}`, scope.Name, more))
			c := accessCaller{name: "token " + scope.Name + ", " + name, kind: "token", secret: made["token"].(string), dead: dead, rights: scope.Rights}
			if after != "" {
				path, body, _ := strings.Cut(after, " ")
				answer := w.operate(200, "POST", fmt.Sprintf("/admin/v1/tokens/%v/%s", made["id"], path), body)
				if next, ok := answer["token"].(string); ok && dead == 0 {
					c.secret = next
				}
			}
			w.callers = append(w.callers, c)
		}
		add("active", 0, "", "")
		add("from its network", 0, `, "allowed_ips": ["192.0.2.0/24"]`, "")
		add("from elsewhere", 403, `, "allowed_ips": ["203.0.113.0/24"]`, "")
		add("not yet expired", 0, `, "expires_at": "`+*Seconds(epoch.Add(10000 * time.Hour))+`"`, "")
		add("expired", 401, `, "expires_at": "`+*Seconds(w.clock.Now().Add(10 * time.Second))+`"`, "") // keyStates lets 11 seconds pass
		add("rotated", 0, "", "rotate")
		add("earlier secret", 401, "", `rotate {"overlap_seconds": 0}`)
		add("revoked", 401, "", "revoke")
	}
	w.callers = append(w.callers, accessCaller{name: "token unknown", kind: "token", secret: keytext.NewSecret(TokenPrefix), dead: 401})
}

// addKeys adds keys of two owners: one in every state with all permissions, one with each of them.
func (w *accessWalk) addKeys() {
	w.t.Helper()
	const many = `"limits": {"requests_per_minute_limit": 1000000, "calls_per_day_limit": 100000, "calendar_events_per_day_limit": 100000}`
	made := 0
	for i, owner := range []string{"ann", "bob"} {
		w.operate(201, "POST", "/admin/v1/agents", `{"name": "Front desk", "phone_number": "+4930555001", "owner": "`+owner+`"}`)
		_, maker := w.key(everyPermission, many, fmt.Sprintf(`"owner": %q`, owner))
		o := owned{w.testApp, maker, i + 1, &made}
		var ids []string
		for kind := range things {
			ids = append(ids, o.thing(kind))
		}
		if owner == "ann" {
			for _, state := range w.keyStates(owner) {
				if state.secret != "" {
					w.callers = append(w.callers, accessCaller{name: "key " + state.name, kind: "key", secret: state.secret, dead: state.status, may: Ordinary, things: ids})
				}
			}
			continue
		}
		for _, p := range Permissions() {
			_, secret := w.key(fmt.Sprintf("[%q]", p.Name), many, fmt.Sprintf(`"owner": %q`, owner))
			w.callers = append(w.callers, accessCaller{name: "key with " + p.Name, kind: "key", secret: secret, may: p.Bit, things: ids})
		}
	}
}

// onKeys returns what the API listener answers: a status, or "in" for any other than 401 and 403.
func (c accessCaller) onKeys(row Route, carried, id string) string {
	need := contractRights[row.Method+" "+row.Path]
	switch {
	case c.kind != carried:
		return "401"
	case c.dead != 0:
		return fmt.Sprint(c.dead)
	case need != 0 && need&c.may == 0:
		return "403"
	case id == "":
		return "in"
	case slices.Contains(c.things, id):
		return "200"
	}
	return "404"
}

// onAdmin returns the same for the admin listener.
func (c accessCaller) onAdmin(row Route, carried string) string {
	rule := endpointRules[row.Method+" "+row.Path]
	switch {
	case row.Public:
		return "in"
	case c.kind != carried:
		return "401"
	case c.dead != 0:
		return fmt.Sprint(c.dead)
	case rule.Rights&c.rights == 0, c.kind == "token" && (rule.Proof == humanProof || rule.Proof.own()), c.kind == "login" && rule.Proof.needed() && !c.proven:
		return "403"
	}
	return "in"
}

// ask sends one combination and compares the answer.
func (w *accessWalk) ask(door http.Handler, c accessCaller, row Route, path, want string, put func(r *http.Request, cookie, secret string)) {
	w.t.Helper()
	if w.all++; w.all%w.share != 0 {
		return
	}
	w.asked++
	w.Server.throttle = NewThrottle(1000, time.Minute)
	r := httptest.NewRequest(row.Method, "http://127.0.0.1:8081"+path, strings.NewReader("["))
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	put(r, w.plainCookie(), c.secret)
	answer := httptest.NewRecorder()
	door.ServeHTTP(answer, r)
	got := fmt.Sprint(answer.Code)
	switch {
	case want == "401" || want == "403":
		w.denied++
	case want == "in" && got != "401" && got != "403" && answer.Code < 500, want == "404" && got == "405":
		return
	}
	if got != want {
		w.t.Errorf("%s: %s %s: got %d %.200s, want %s", c.name, row.Method, path, answer.Code, answer.Body, want)
	}
}

// TestServer_Combinations makes the product of all routes of both listeners and of the control
// socket, of keys with every permission, tokens of every scope and logins of every role in all of
// their states, of the places of a request for a credential, and of records of the caller's owner
// and of another. Each answer is the one that contractRights and endpointRules say. Usually it asks
// one of 7 combinations; LATCHKEY_TEST_ACCESS=1 asks all.
func TestServer_Combinations(t *testing.T) {
	w := &accessWalk{browser: newDashboard(t, inMemory(t), func(c *Config) {
		c.Webhooks.AllowPrivateTargets, c.Admin.SessionIdle = true, 15*time.Minute
	}), share: program.Long(t, "LATCHKEY_TEST_ACCESS", 7)}
	w.addKeys()   // first, because its times count from the start
	w.addTokens() // some end before the logins begin
	w.addLogins()
	ending := func(row Route) bool { // it would do what it is for, even with this body
		return slices.Contains([]string{"POST /api/v1/key/revoke", "DELETE /api/v1/key", "POST /admin/v1/reload", "POST /admin/v1/setup-link", "POST /admin/v1/recovery-codes"}, row.Method+" "+row.Path)
	}
	var others []string // ids of records of both owners, by their place in things
	for _, c := range w.callers {
		if c.things != nil && !slices.Contains(others, c.things[0]) {
			others = append(others, c.things...)
		}
	}
	for _, c := range w.callers {
		for _, carrier := range accessCarriers {
			for _, row := range slices.Concat(w.Server.o.Keyed, w.Server.o.Free) {
				ids := []string{""}
				kind := slices.IndexFunc(things, func(th struct{ prefix, make, body, list, show string }) bool {
					return row.Method == "GET" && th.show != "" && strings.HasPrefix(row.Path, th.prefix+":")
				})
				if kind >= 0 {
					ids = []string{"", others[kind], others[len(things)+kind]}
				}
				for _, id := range ids {
					want := c.onKeys(row, carrier.api, id)
					if want == "in" && ending(row) {
						continue
					}
					path := fill(row.Path, "999")
					if id != "" {
						path = fill(row.Path, id)
					}
					w.ask(w.api, c, row, path, want, carrier.put)
				}
				w.ask(w.door, c, row, fill(row.Path, "999"), "404", carrier.put)
			}
			for _, row := range w.Server.o.Open {
				w.ask(w.api, c, row, fill(row.Path, "999"), "in", carrier.put)
			}
			for _, row := range w.Server.o.Admin {
				if want := c.onAdmin(row, carrier.admin); want != "in" || !ending(row) {
					w.ask(w.door, c, row, fill(row.Path, "999"), want, carrier.put)
				}
				if row.Path != "/metrics" {
					w.ask(w.api, c, row, fill(row.Path, "999"), "404", carrier.put)
				}
			}
		}
	}
	w.share = 1
	for _, row := range w.Server.o.Admin {
		want := "in"
		if endpointRules[row.Method+" "+row.Path].Proof.own() {
			want = "403" // there is no login
		}
		if want != "in" || !ending(row) {
			w.ask(w.local, accessCaller{name: "control socket"}, row, fill(row.Path, "999"), want, func(*http.Request, string, string) {})
		}
	}
	t.Logf("%d of %d combinations of %d callers, %d of them refused", w.asked, w.all, len(w.callers), w.denied)
}
