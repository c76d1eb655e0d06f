package main

import (
	"fmt"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// Every admin endpoint has a row in endpointRules, and every row an endpoint.
func TestRoles_Table(t *testing.T) {
	a := newTestApp(t)
	served := map[string]bool{}
	for _, row := range a.Server.o.Admin {
		served[row.Method+" "+row.Path] = true
	}
	for name, rule := range endpointRules {
		if !served[name] {
			t.Errorf("endpointRules has a row for %s, which is no endpoint", name)
		}
		if rule.Rights == 0 || rule.Rights&^RightAll != 0 {
			t.Errorf("%s needs %b, which nobody or not everybody with all rights has", name, rule.Rights)
		}
	}
	for _, list := range [][]Grant{Roles(), Scopes()} {
		if last := list[len(list)-1]; last.Rights != RightAll {
			t.Errorf("%s does not have all rights", last.Name)
		}
	}
	if err := checkRules([]Route{{Method: "POST", Path: "/admin/v1/new"}}); err == nil || !strings.Contains(err.Error(), "POST /admin/v1/new") {
		t.Errorf("a route without a row: got %v, want an error that names it", err)
	}
	a.Server.o.Admin = append(slices.Clip(a.Server.o.Admin), Route{Method: "POST", Path: "/admin/v1/new"})
	if _, err := a.Server.Admin(); err == nil {
		t.Error("the admin listener starts with a route that has no row")
	}
}

// roleWalk asks every admin endpoint as one caller.
type roleWalk struct {
	*browser
	who    string
	token  string // "" for the operator who has logged in
	refuse func(rule endpointRule) (code string)
}

// walk asks every endpoint. An endpoint that would do something with an unknown id or without a body
// is left out if the caller may use it.
func (w roleWalk) walk() {
	w.t.Helper()
	for _, row := range w.Server.o.Admin {
		endpoint := row.Method + " " + row.Path
		want := w.refuse(endpointRules[endpoint])
		if want == "" && slices.Contains([]string{"POST /admin/v1/reload", "POST /admin/v1/setup-link", "POST /admin/v1/recovery-codes"}, endpoint) {
			continue
		}
		w.Server.throttle = NewThrottle(1000, time.Minute)
		r := httptest.NewRequest(row.Method, "http://127.0.0.1:8081"+fill(row.Path, "999"), strings.NewReader("["))
		r.Header.Set("Sec-Fetch-Site", "same-origin")
		if w.token != "" {
			r.Header.Set("Authorization", "Bearer "+w.token)
		}
		answer, refused := w.send(r), ""
		if answer.Code == 401 || answer.Code == 403 {
			refused = code(answer)
		}
		if refused != want {
			w.t.Errorf("%s: %s: got %d %s, want the refusal %q", w.who, endpoint, answer.Code, answer.Body, want)
		}
	}
}

// Every endpoint is asked with every scope and every role, with and without a confirmed password,
// with an ended token, with an ended login, and with neither.
func TestRoles_EveryEndpoint(t *testing.T) {
	b := newDashboard(t)
	always := func(code string) func(endpointRule) string { return func(endpointRule) string { return code } }
	for _, scope := range Scopes() {
		made := b.operate(201, "POST", "/admin/v1/tokens", fmt.Sprintf(`{"name": "t", "scope": %q}`, scope.Name))
		token := made["token"].(string)
		roleWalk{b, "scope " + scope.Name, token, func(rule endpointRule) string {
			if rule.Rights&scope.Rights == 0 || rule.Proof == humanProof || rule.Proof.own() {
				return "permission_denied"
			}
			return ""
		}}.walk()
		b.operate(200, "POST", fmt.Sprintf("/admin/v1/tokens/%v/revoke", made["id"]), "")
		roleWalk{b, "ended scope " + scope.Name, token, always("invalid_key")}.walk()
	}
	for _, role := range Roles() {
		for _, proven := range []time.Duration{0, ProofSpan, ProofSpan + time.Second} {
			b.change(func(op *operator, login *loginSession) {
				op.Role, login.ProvenAt = role.Name, time.Time{}
				if proven > 0 {
					login.ProvenAt = b.clock.Latest(b.clock.Now()).Add(-proven)
				}
			})
			roleWalk{b, fmt.Sprintf("role %s, password confirmed %v ago", role.Name, proven), "", func(rule endpointRule) string {
				switch {
				case rule.Rights&role.Rights == 0:
					return "permission_denied"
				case rule.Proof.needed() && proven != ProofSpan:
					return "confirmation_required"
				}
				return ""
			}}.walk()
		}
	}
	b.post("/logout")
	roleWalk{b, "after the logout", "", always("authentication_required")}.walk()
}

// A token that was stored before there were scopes may do everything; a scope or role of a later
// version may do nothing.
func TestRoles_Stored(t *testing.T) {
	for scope, want := range map[string]AdminRights{"": RightAll, "read": RightMetrics | RightRead, "later": 0} {
		if got := (Token{Scope: scope}).caller(netip.Addr{}).Rights; got != want {
			t.Errorf("token with the scope %q: got %b, want %b", scope, got, want)
		}
	}
	for role, want := range map[string]AdminRights{"": RightAll, RoleViewer: RightMetrics | RightRead, "later": 0} {
		if got := (operator{Role: role}).role().Rights; got != want {
			t.Errorf("operator with the role %q: got %b, want %b", role, got, want)
		}
	}
	if roleNamed("").Rights != 0 {
		t.Error("a role without a name allows something")
	}
}
