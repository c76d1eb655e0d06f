package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"latchkey/cli"
)

// second is another operator who has logged in, in a browser of its own.
func (b *browser) second(name, role string) (other *browser, id int) {
	b.t.Helper()
	made := b.operate(201, "POST", "/admin/v1/operators", fmt.Sprintf(`{"name": %q, "password": %q, "role": %q}`, name, operatorPassword, role))
	other = newBrowser(b.testApp)
	if w := other.post("/login", "name", name, "password", operatorPassword); w.Code != 303 {
		b.t.Fatalf("log in: got %d %s", w.Code, w.Body)
	}
	return other, int(made["id"].(float64))
}

// askAdmin sends a request with a JSON body to the admin endpoint, as the operator who has logged in.
func (b *browser) askAdmin(method, path, body string) *httptest.ResponseRecorder {
	b.t.Helper()
	r := httptest.NewRequest(method, "http://127.0.0.1:8081"+path, strings.NewReader(body))
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	return b.send(r)
}

// wantAnswer fails the test unless an answer has this status and contains the text.
func wantAnswer(t testing.TB, w *httptest.ResponseRecorder, status int, text string) {
	t.Helper()
	if w.Code != status || !strings.Contains(w.Body.String(), text) {
		t.Errorf("got %d %s, want %d with %q", w.Code, w.Body, status, text)
	}
}

// invite creates an invitation and returns the token of its link.
func (a *testApp) invite(name, role string) string {
	a.t.Helper()
	path := a.operate(201, "POST", "/admin/v1/operators/invite", fmt.Sprintf(`{"name": %q, "role": %q}`, name, role))["path"].(string)
	return strings.TrimPrefix(path, JoinPath(""))
}

// operatorNamed returns the operator as the list has it, or nil.
func (a *testApp) operatorNamed(name string) map[string]any {
	a.t.Helper()
	for _, row := range a.operate(200, "GET", "/admin/v1/operators", "")["operators"].([]any) {
		if op := row.(map[string]any); op["name"] == name {
			return op
		}
	}
	return nil
}

// An invitation is accepted once. It sets the password of the invited name with the role that the
// inviter has chosen, whatever else the form has.
func TestOperators_Join(t *testing.T) {
	b := newDashboard(t)
	token := b.invite("Ida", RoleKeyManager)
	if op := b.operatorNamed("Ida"); op["status"] != "invited" || op["role"] != RoleKeyManager || op["invitation_expires_at"] == nil {
		t.Errorf("the list has %v, want the invitation", op)
	}
	guest := newBrowser(b.testApp)
	wantAnswer(t, guest.post("/login", "name", "Ida", "password", ""), 401, "name or the password is wrong")
	page := guest.get(JoinPath(token))
	wantAnswer(t, page, 200, "Welcome, Ida")
	wantAnswer(t, page, 200, "key manager")
	if page.Header().Get("Referrer-Policy") != "no-referrer" {
		t.Error("the page would send its address to other sites")
	}
	wantAnswer(t, guest.post("/join", "token", token, "password", "short"), 400, `role="alert"`)
	for _, wrong := range []string{"", "none", strings.Repeat("0", 64), token + "0"} {
		wantAnswer(t, guest.get(JoinPath(wrong)), 403, "This link was used")
		wantAnswer(t, guest.post("/join", "token", wrong, "password", operatorPassword), 403, "This link was used")
	}
	if w := guest.post("/join", "token", token, "password", operatorPassword, "name", "Eve", "role", RoleAdmin); w.Code != 303 {
		t.Fatalf("got %d %s", w.Code, w.Body)
	}
	if w := guest.get("/keys"); w.Code != 200 {
		t.Errorf("got %d, want to be logged in", w.Code)
	}
	wantAnswer(t, guest.get(JoinPath(token)), 403, "This link was used")
	wantAnswer(t, guest.post("/join", "token", token, "password", "another password"), 403, "This link was used")
	op := b.operatorNamed("Ida")
	if op["status"] != "active" || op["role"] != RoleKeyManager || op["invitation_expires_at"] != nil || op["last_login_at"] == nil {
		t.Errorf("the list has %v", op)
	}
	wantAnswer(t, newBrowser(b.testApp).post("/login", "name", "ida", "password", operatorPassword), 303, "")
	wantNoSecrets(t, "the log and the audit log", b.log.String()+auditText(t, b.testApp), []string{token, operatorPassword})
	refused := 0
	for _, e := range auditEntries(t, b.Store) {
		if e.Action == "accept invitation" && e.Result == AuditRefused && e.Code == ErrInvitation.Code {
			refused++
		}
	}
	if refused != 5 {
		t.Errorf("the audit log has %d refused invitations, want 5", refused)
	}
}

// An invitation ends after a day, and when it is replaced, withdrawn, disabled or not needed any more.
func TestOperators_InvitationEnds(t *testing.T) {
	for name, end := range map[string]func(b *browser, id any){
		"a day later": func(b *browser, _ any) { b.clocks.Pass(inviteSpan) },
		"replaced":    func(b *browser, _ any) { b.invite("IDA", RoleViewer) },
		"withdrawn":   func(b *browser, id any) { b.operate(200, "DELETE", fmt.Sprint("/admin/v1/operators/", id), "") },
		"disabled": func(b *browser, id any) {
			b.operate(200, "PATCH", fmt.Sprint("/admin/v1/operators/", id), `{"disabled": true}`)
		},
		"a password set": func(b *browser, id any) {
			b.operate(200, "POST", fmt.Sprint("/admin/v1/operators/", id, "/password"), `{"password": "another password"}`)
		},
		"after a restore": func(b *browser, _ any) {
			restoreApp(b.t.(*testing.T), b.testApp, b.saveBackup(), RestoreAppOptions{Exactly: true})
			b.browserAgain()
		},
		"a day but 1 ms":   nil,
		"nothing happened": nil,
	} {
		t.Run(name, func(t *testing.T) {
			b := newDashboard(t)
			b.testApp.t = t
			token, want := b.invite("Ida", RoleViewer), 403
			if end == nil {
				want = 200
			} else {
				end(b, b.operatorNamed("Ida")["id"])
			}
			if name == "a day but 1 ms" {
				b.clocks.Pass(inviteSpan - time.Millisecond)
			}
			if w := b.get(JoinPath(token)); w.Code != want {
				t.Errorf("GET: got %d, want %d", w.Code, want)
			}
			if w := b.post("/join", "token", token, "password", operatorPassword); (w.Code == 403) != (want == 403) {
				t.Errorf("POST: got %d %s", w.Code, w.Body)
			}
		})
	}
	b := newDashboard(t)
	for body, want := range map[string]int{
		`{"name": "ann", "role": "viewer"}`: 409, `{"name": "x"}`: 400, `{"name": "x", "role": "king"}`: 400, `{"name": " ", "role": "viewer"}`: 400,
	} {
		b.operate(want, "POST", "/admin/v1/operators/invite", body)
	}
}

// The last admin who can log in stays, whichever way an operator takes. The control socket may remove
// it and says what that means.
func TestOperators_LastAdmin(t *testing.T) {
	changes := []struct{ method, body string }{{"DELETE", ""}, {"PATCH", `{"role": "viewer"}`}, {"PATCH", `{"disabled": true}`}, {"PATCH", `{"role": "key_manager", "disabled": false}`}}
	others := map[string]func(b *browser){
		"nobody else": func(*browser) {},
		"a viewer":    func(b *browser) { b.second("Bea", RoleViewer) },
		"a disabled admin": func(b *browser) {
			_, id := b.second("Bea", RoleAdmin)
			b.operate(200, "PATCH", fmt.Sprint("/admin/v1/operators/", id), `{"disabled": true}`)
		},
		"an invited admin":          func(b *browser) { b.invite("Bea", RoleAdmin) },
		"a role of a later version": func(b *browser) { _, id := b.second("Bea", RoleAdmin); b.setRole(id, "later") },
	}
	for name, other := range others {
		t.Run(name, func(t *testing.T) {
			b := newDashboard(t)
			other(b)
			b.prove()
			for _, change := range changes {
				w := b.askAdmin(change.method, "/admin/v1/operators/1", change.body)
				if w.Code != 409 || !strings.Contains(w.Body.String(), "Ann is the only operator") {
					t.Errorf("%s %s: got %d %s, want 409", change.method, change.body, w.Code, w.Body)
				}
			}
			for _, form := range [][]string{{"/operators/1/role", "role", "viewer"}, {"/operators/1/disable"}, {"/operators/1/delete"}} {
				wantAnswer(t, b.post(form[0], form[1:]...), 409, "Ann is the only operator")
			}
			if op := b.operatorNamed("Ann"); op["role"] != RoleAdmin || op["status"] != "active" {
				t.Errorf("got %v, want no change", op)
			}
			if w := b.askAdmin("PATCH", "/admin/v1/operators/1", `{"role": "admin", "disabled": false}`); w.Code != 200 {
				t.Errorf("a change that takes nothing: got %d %s", w.Code, w.Body)
			}
		})
	}
	b := newDashboard(t)
	b.second("Bea", RoleAdmin)
	b.prove()
	wantAnswer(t, b.askAdmin("PATCH", "/admin/v1/operators/1", `{"role": "viewer"}`), 200, `"viewer"`)
	for _, change := range changes[1:] {
		b.operate(200, "PATCH", "/admin/v1/operators/2", `{"role": "admin", "disabled": false}`)
		if warning := b.operate(200, "PATCH", "/admin/v1/operators/2", change.body)["warning"]; warning != noAdminLeft {
			t.Errorf("the control socket, %s: got %q, want a warning", change.body, warning)
		}
	}
	b.operate(200, "PATCH", "/admin/v1/operators/2", `{"role": "admin", "disabled": false}`)
	if message := b.operate(200, "DELETE", "/admin/v1/operators/2", "")["message"].(string); !strings.Contains(message, noAdminLeft) {
		t.Errorf("the control socket: got %q, want a warning", message)
	}
}

// setRole stores a role that this version may not know.
func (a *testApp) setRole(id int, role string) {
	a.t.Helper()
	err := a.Store.Update(func(tx *Tx) error {
		op, err := a.Operators.Get(tx, uint64(id))
		op.Role = role
		return errors.Join(err, OperatorTable.Put(tx, op))
	})
	if err != nil {
		a.t.Fatal(err)
	}
}

// Two admins who lower, disable or remove each other at the same time do not leave the service
// without an admin.
func TestOperators_LastAdminParallel(t *testing.T) {
	for _, change := range [][2]string{{"PATCH", `{"role": "viewer"}`}, {"PATCH", `{"disabled": true}`}, {"DELETE", ""}} {
		b := newDashboard(t)
		other, id := b.second("Bea", RoleAdmin)
		b.prove()
		other.prove()
		codes, both := make([]int, 2), sync.WaitGroup{}
		for i, step := range []func() *httptest.ResponseRecorder{
			func() *httptest.ResponseRecorder {
				return b.askAdmin(change[0], fmt.Sprint("/admin/v1/operators/", id), change[1])
			},
			func() *httptest.ResponseRecorder {
				return other.askAdmin(change[0], "/admin/v1/operators/1", change[1])
			},
		} {
			both.Go(func() { codes[i] = step().Code })
		}
		both.Wait()
		admins := 0
		for _, row := range b.operate(200, "GET", "/admin/v1/operators", "")["operators"].([]any) {
			if op := row.(map[string]any); op["role"] == RoleAdmin && op["status"] == "active" {
				admins++
			}
		}
		if admins != 1 || (codes[0] == 200) == (codes[1] == 200) {
			t.Errorf("%v: %d admins are left after %v, want 1", change, admins, codes)
		}
	}
}

// A disabled operator is logged out and cannot log in, and nobody outside learns why.
func TestOperators_Disable(t *testing.T) {
	b := newDashboard(t)
	other, id := b.second("Bea", RoleViewer)
	path := fmt.Sprint("/admin/v1/operators/", id)
	b.operate(200, "PATCH", path, `{"disabled": true}`)
	if w := other.get("/keys"); w.Code != 303 {
		t.Errorf("the session: got %d, want to be sent to the login", w.Code)
	}
	if w := other.askAdmin("GET", "/admin/v1/keys", ""); w.Code != 401 {
		t.Errorf("the session: got %d, want 401", w.Code)
	}
	refused := newBrowser(b.testApp).post("/login", "name", "Bea", "password", operatorPassword)
	wrong := newBrowser(b.testApp).post("/login", "name", "Bea", "password", "not it at all")
	if refused.Code != 401 || refused.Body.String() != wrong.Body.String() {
		t.Errorf("got %d %s, want the answer to a wrong password", refused.Code, refused.Body)
	}
	reason := fmt.Sprintf("operator %d is disabled", id)
	if n := strings.Count(b.log.String(), reason); n != 1 {
		t.Errorf("the log has the reason %d times, want once: %s", n, b.log)
	}
	if n := strings.Count(auditText(t, b.testApp), reason); n != 1 {
		t.Errorf("the audit log has the reason %d times, want once", n)
	}
	by := AuditContext{Actor: ActorSelf, Action: "test", Now: b.clock.Now()}
	if _, err := b.sessions.Begin(by, uint64(id), sessionStart{}); !errors.Is(err, ErrLogin) {
		t.Errorf("a session that begins after the password was checked: got %v, want ErrLogin", err)
	}
	if _, err := b.sessions.Begin(by, 999, sessionStart{}); !errors.Is(err, ErrLogin) {
		t.Errorf("a session of an operator who was removed: got %v, want ErrLogin", err)
	}
	b.operate(200, "PATCH", path, `{"disabled": false}`)
	if w := other.get("/keys"); w.Code != 303 {
		t.Errorf("the earlier session: got %d, want it ended", w.Code)
	}
	wantAnswer(t, other.post("/login", "name", "Bea", "password", operatorPassword), 303, "")
}

// Another role applies to the sessions that are open.
func TestOperators_RoleAtOnce(t *testing.T) {
	b := newDashboard(t)
	other, id := b.second("Bea", RoleKeyManager)
	const key = `{"name": "k", "permissions": ["can_read_calls"]}`
	for _, step := range []struct {
		role string
		want int
	}{{RoleKeyManager, 201}, {RoleViewer, 403}, {RoleAdmin, 201}} {
		b.operate(200, "PATCH", fmt.Sprint("/admin/v1/operators/", id), fmt.Sprintf(`{"role": %q}`, step.role))
		if w := other.askAdmin("POST", "/admin/v1/keys", key); w.Code != step.want {
			t.Errorf("%s: got %d %s, want %d", step.role, w.Code, w.Body, step.want)
		}
	}
}

// Nobody sets the own password at the endpoint, where the present one is not asked for.
func TestOperators_OwnPassword(t *testing.T) {
	b := newDashboard(t)
	other, id := b.second("Bea", RoleAdmin)
	b.prove()
	const body = `{"password": "another password"}`
	for of, want := range map[int]int{1: 403, id: 200} {
		for _, ask := range [][2]string{{"PATCH", fmt.Sprint("/admin/v1/operators/", of)}, {"POST", fmt.Sprintf("/admin/v1/operators/%d/password", of)}} {
			w := b.askAdmin(ask[0], ask[1], body)
			if w.Code != want || want == 403 && !strings.Contains(w.Body.String(), "page Account") {
				t.Errorf("%v: got %d %s, want %d", ask, w.Code, w.Body, want)
			}
		}
	}
	if w := other.get("/keys"); w.Code != 303 {
		t.Errorf("the sessions of the other: got %d, want them ended", w.Code)
	}
	wantAnswer(t, newBrowser(b.testApp).post("/login", "name", "Ann", "password", operatorPassword), 303, "")
	for body, want := range map[string]int{`{}`: 400, `{"password": "short"}`: 400, `{"role": "king"}`: 400, `{"role": null}`: 400} {
		b.operate(want, "PATCH", "/admin/v1/operators/1", body)
	}
}

// The pages invite, change and remove operators. Who may not change them sees no forms.
func TestDashboard_Operators(t *testing.T) {
	b := newDashboard(t)
	wantAnswer(t, b.post("/operators", "name", "Ida", "role", RoleViewer), 403, "Confirm your password")
	b.prove()
	page := b.post("/operators", "name", "Ida", "role", RoleViewer)
	wantAnswer(t, page, 201, "http://127.0.0.1:8081/join?token=")
	wantAnswer(t, b.post("/operators", "name", "ann", "role", RoleViewer), 409, `value="ann"`)
	list := b.get("/operators")
	for _, text := range []string{"Ida", "link ends", "you</span>", "Invite an operator"} {
		wantAnswer(t, list, 200, text)
	}
	wantAnswer(t, b.get("/operators/2"), 200, "New link")
	wantAnswer(t, b.get("/operators/99"), 404, "no such operator")
	wantAnswer(t, b.post("/operators/2/role", "role", RoleKeyManager), 303, "")
	wantAnswer(t, b.get("/operators/2?done=saved"), 200, "key manager")
	wantAnswer(t, b.post("/operators/2/disable"), 303, "")
	wantAnswer(t, b.get("/operators/2"), 200, "/operators/2/enable")
	wantAnswer(t, b.post("/operators/2/enable"), 303, "")
	wantAnswer(t, b.get("/operators/2/delete"), 200, "The link of the invitation stops working")
	wantAnswer(t, b.post("/operators/2/delete"), 303, "")
	if b.operatorNamed("Ida") != nil {
		t.Error("the operator is still there")
	}
	viewer, id := b.second("Bea", RoleViewer)
	for _, path := range []string{"/operators", fmt.Sprint("/operators/", id)} {
		if w := viewer.get(path); w.Code != 200 || strings.Contains(w.Body.String(), `action="/operators`) {
			t.Errorf("%s: got %d %s, want no form", path, w.Code, w.Body)
		}
	}
}

// The commands find an operator by the name in any case, and reset brings back an admin, with the
// service running or not.
func TestCommands_Operators(t *testing.T) {
	w := &commandWalk{testApp: newTestApp(t), dir: t.TempDir()}
	w.made("operators", `{"name": "Ann", "password": "a long password"}`)
	run := func(want int, text string, args ...string) {
		t.Helper()
		var out bytes.Buffer
		if exit, errs := w.run(&out, append([]string{"admin"}, args...)...); exit != want || !strings.Contains(out.String()+errs, text) {
			t.Errorf("%v: exit %d, %s%s; want %d with %q", args, exit, out.String(), errs, want, text)
		}
	}
	run(0, "key_manager", "create", "--name", "Bea", "--role", "key_manager", "--password-file", w.file("", "a long password"))
	run(0, "Bea", "list")
	run(0, "viewer", "set-role", "bea", "viewer")
	run(0, "disabled", "disable", "BEA")
	run(0, "active", "enable", "Bea")
	run(1, "role must be one of viewer, key_manager, admin", "set-role", "bea", "king")
	run(2, "the name of an operator and a role are needed", "set-role", "bea")
	run(2, "--name and --role are needed", "invite", "--name", "ida")
	run(0, "was deleted", "remove", "bea")
	for _, verb := range []string{"disable", "enable", "remove", "reset", "passwd"} {
		run(1, `there is no operator named "bea"`, verb, "bea")
	}
	run(1, `there is no operator named "bea"`, "set-role", "bea", "viewer")
	run(0, noAdminLeft, "set-role", "ann", "viewer")
	run(0, "disabled", "disable", "ann")
	run(0, "admin", "reset", "ann", "--password-file", w.file("", "another password"))
	if op := w.operatorNamed("Ann"); op["role"] != RoleAdmin || op["status"] != "active" {
		t.Errorf("after the reset: got %v", op)
	}
	if _, err := w.Operators.Authenticate("ann", "another password"); err != nil {
		t.Errorf("after the reset: %v", err)
	}
	run(2, "this command works on the files of this machine", "reset", "ann", "--url", "http://127.0.0.1:1")

	w.operate(200, "PATCH", "/admin/v1/operators/1", `{"role": "viewer", "disabled": true}`)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	w.App = nil
	config := filepath.Join(w.dir, "none.toml")
	if err := os.WriteFile(config, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	env := environment(nil, nil)
	env.Stdout, env.Stderr = &out, &errs
	args := []string{"latchkey", "--config", config, "--data", w.config.Server.Data, "admin", "reset", "ann", "--password-file", w.file("", "a third password")}
	if exit := cli.Run(context.Background(), args, env); exit != 0 || !strings.Contains(out.String(), "admin") {
		t.Fatalf("the service is not running: exit %d, %s%s", exit, out.String(), errs.String())
	}
	w.start()
	if op := w.operatorNamed("Ann"); op["role"] != RoleAdmin || op["status"] != "active" {
		t.Errorf("after the reset without the service: got %v", op)
	}
}
