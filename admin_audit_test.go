package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"latchkey/cli"
)

func TestAudit_Refusals(t *testing.T) {
	a := newTestApp(t)
	id, secret := a.key(`["can_read_calls"]`)
	a.operate(200, "POST", "/admin/v1/keys/"+id+"/revoke", "")
	token := a.operate(201, "POST", "/admin/v1/tokens", `{"name": "ci"}`)["token"].(string)
	tcp := func(method, path, token, body string) int {
		r := httptest.NewRequest(method, path, strings.NewReader(body))
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		w := httptest.NewRecorder()
		a.admin.ServeHTTP(w, r)
		return w.Code
	}
	for _, tt := range []struct {
		method, path, token, body string
		want                      AuditEntry
	}{
		{"POST", "/admin/v1/keys/" + id + "/pause", token, "", AuditEntry{Actor: "token 1 ci", Action: "POST /admin/v1/keys/:id/pause", Object: "key " + id, Status: 409, Code: "conflict"}},
		{"POST", "/admin/v1/keys", token, `{"name": 1}`, AuditEntry{Actor: "token 1 ci", Action: "POST /admin/v1/keys", Status: 400, Code: "validation_error"}},
		{"GET", "/admin/v1/keys", "lka_wrong", "", AuditEntry{Actor: "nobody", Action: "GET /admin/v1/keys", Status: 401, Code: "invalid_key"}},
		{"POST", "/admin/v1/keys", "", "{}", AuditEntry{Actor: "nobody", Action: "POST /admin/v1/keys", Status: 401, Code: "authentication_required"}},
		// A secret in the wrong place is no object.
		{"POST", "/admin/v1/keys/" + secret + "/revoke", token, "", AuditEntry{Actor: "token 1 ci", Action: "POST /admin/v1/keys/:id/revoke", Status: 404, Code: "not_found"}},
	} {
		before := len(auditEntries(t, a.Store))
		status := tcp(tt.method, tt.path, tt.token, tt.body)
		all := auditEntries(t, a.Store)
		if status != tt.want.Status || len(all) != before+1 {
			t.Errorf("%s %s: got %d and %d entries, want %d and 1", tt.method, tt.want.Action, status, len(all)-before, tt.want.Status)
			continue
		}
		e := all[before]
		got := AuditEntry{Actor: e.Actor, Action: e.Action, Object: e.Object, Status: e.Status, Code: e.Code}
		if fmt.Sprint(got) != fmt.Sprint(tt.want) || e.Result != AuditRefused || e.Client != "192.0.2.1" {
			t.Errorf("got %+v, want %+v", e, tt.want)
		}
	}
	before := len(auditEntries(t, a.Store))
	if tcp("GET", "/admin/v1/keys/none", token, "") != 404 || len(auditEntries(t, a.Store)) != before {
		t.Error("what was not found left an entry")
	}
	wantNoSecrets(t, "the audit log", auditText(t, a), []string{secret, token, "lka_wrong"})
}

// Who guesses cannot fill the disk or push out what others did.
func TestAudit_RefusalsAreBounded(t *testing.T) {
	a := newTestApp(t)
	guess := func(from string) {
		r := httptest.NewRequest("GET", "/admin/v1/keys", nil)
		r.RemoteAddr = from
		a.admin.ServeHTTP(httptest.NewRecorder(), r)
	}
	for range 500 {
		guess("198.51.100.7:1")
	}
	if got := len(auditEntries(t, a.Store)); got != refusedByAddress {
		t.Errorf("one address left %d entries, want %d", got, refusedByAddress)
	}
	for n := range 500 {
		guess(fmt.Sprintf("203.0.113.%d:1", n%250))
	}
	if got := len(auditEntries(t, a.Store)); got != refusedPerMinute {
		t.Errorf("many addresses left %d entries, want %d", got, refusedPerMinute)
	}
	a.audit.Refused(AuditContext{Actor: "token 1 ci", Action: "x", Now: a.clock.Now()}, ErrConflict)
	if got := len(auditEntries(t, a.Store)); got != refusedPerMinute+1 {
		t.Error("strangers used up the room of those who are known")
	}
	for range 2 {
		if err := tendAudit(a.audit, a.clock.Now()); err != nil {
			t.Fatal(err)
		}
	}
	all := auditEntries(t, a.Store)
	last := all[len(all)-1]
	if len(all) != refusedPerMinute+2 || last.Action != "refusals not written down" || last.Detail["of_strangers"] != float64(1000-refusedPerMinute) {
		t.Errorf("got %d entries, the last %+v", len(all), last)
	}
	for n := range 3 * refusedPerDay / refusedPerMinute {
		a.clocks.Pass(time.Minute)
		for m := range refusedPerMinute {
			guess(fmt.Sprintf("203.%d.%d.1:1", n%250, m))
		}
	}
	if got := len(auditEntries(t, a.Store)); got > refusedPerDay+2 {
		t.Errorf("in a day strangers left %d entries, want at most %d", got, refusedPerDay)
	}
}

func TestAudit_List(t *testing.T) {
	a := newTestApp(t)
	id, _ := a.key(`["can_read_calls"]`)
	a.key(`["can_read_calls"]`)
	a.operate(201, "POST", "/admin/v1/agents", `{"name": "A"}`)
	a.operate(200, "POST", "/admin/v1/keys/"+id+"/revoke", "")
	for _, tt := range []struct {
		query string
		want  []float64
		count float64
	}{
		{"", []float64{4, 3, 2, 1}, 4},
		{"?limit=2", []float64{4, 3}, 4},
		{"?limit=2&page=2", []float64{2, 1}, 4},
		{"?limit=2&page=3", nil, 4},
		{"?object=" + id, []float64{4, 1}, 2},
		{"?object=key", []float64{4, 2, 1}, 3},
		{"?object=agent+1", []float64{3}, 1},
		{"?object=agent", []float64{3}, 1},
		{"?object=agent+11", nil, 0},
		{"?action=revoke", []float64{4}, 1},
		{"?actor=control+socket&action=/keys&limit=1&page=2", []float64{2}, 3},
		{"?actor=token", nil, 0},
		{"?result=refused", nil, 0},
	} {
		v := a.operate(200, "GET", "/admin/v1/audit"+tt.query, "")
		var got []float64
		for _, e := range v["entries"].([]any) {
			got = append(got, e.(map[string]any)["number"].(float64))
		}
		if fmt.Sprint(got) != fmt.Sprint(tt.want) || v["count"] != tt.count {
			t.Errorf("%q: got %v of %v, want %v of %v", tt.query, got, v["count"], tt.want, tt.count)
		}
	}
	if w := a.control("GET", "/admin/v1/audit?result=x", ""); w.Code != 400 {
		t.Errorf("an unknown result: got %d", w.Code)
	}
}

func TestAudit_Holder(t *testing.T) {
	a := newTestApp(t)
	id, secret := a.key(`["can_read_calls"]`)
	if w := a.ask("POST", "/api/v1/key/revoke", secret, ""); w.Code != 200 {
		t.Fatalf("got %d %s", w.Code, w.Body)
	}
	all := auditEntries(t, a.Store)
	if e := all[len(all)-1]; e.Actor != "key "+id || e.Action != "POST /api/v1/key/revoke" || e.Object != "key "+id {
		t.Errorf("got %+v", e)
	}
}

func TestAudit_Commands(t *testing.T) {
	a := newTestApp(t)
	data := a.config.Server.Data
	if err := a.Close(); err != nil { // the commands open the folder themselves
		t.Fatal(err)
	}
	a.App = nil
	run := func(want int, args ...string) string {
		t.Helper()
		var out bytes.Buffer
		env := environment(nil, nil)
		env.Stdin, env.Stdout, env.Stderr = strings.NewReader(""), &out, &out
		if code := cli.Run(context.Background(), append([]string{"latchkey", "--data", data}, args...), env); code != want {
			t.Fatalf("%v: got %d %s, want %d", args, code, out.String(), want)
		}
		return out.String()
	}
	for _, name := range []string{"one", "two", "three"} {
		run(0, "agents", "create", "--name", name)
	}
	if out := run(0, "audit", "list"); strings.Count(out, "The control socket created the agent ") != 3 {
		t.Errorf("got %s", out)
	}
	out := run(0, "audit", "verify")
	_, head, ok := strings.Cut(strings.TrimSpace(out), "Head ")
	if !ok {
		t.Fatalf("got %q", out)
	}
	run(0, "agents", "create", "--name", "four")
	run(0, "audit", "verify", "--head", head)
	run(1, "audit", "verify", "--head", head[:len(head)-1]+map[bool]string{true: "1", false: "0"}[strings.HasSuffix(head, "0")])
	run(2, "audit", "verify", "--head", "nonsense")
	db, err := bbolt.Open(storePath(data), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(b *bbolt.Tx) error { return (&Tx{Bolt: b}).Delete(auditTable.Name, IDKey(2)) })
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	if out := run(1, "audit", "verify"); !strings.Contains(out, "entry 2 is missing") {
		t.Errorf("got %s", out)
	}
	if out := run(1, "check", storePath(data)); !strings.Contains(out, "entry 2 is missing") {
		t.Errorf("check: got %s", out)
	}
}

// The dashboard's own doings are in the log too: logins that fail and succeed,
// set-up links, requests from other sites.
func TestAudit_Dashboard(t *testing.T) {
	a := newTestApp(t)
	door, err := a.AdminDoor()
	if err != nil {
		t.Fatal(err)
	}
	post := func(path string, form url.Values, header ...string) *httptest.ResponseRecorder {
		r := httptest.NewRequest("POST", "http://127.0.0.1"+path, strings.NewReader(form.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Sec-Fetch-Site", "same-origin")
		for i := 0; i < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		w := httptest.NewRecorder()
		door.ServeHTTP(w, r)
		return w
	}
	password := "canary password"
	a.operate(201, "POST", "/admin/v1/operators", fmt.Sprintf(`{"name": "ann", "password": %q}`, password))
	post("/setup", url.Values{"name": {"mallory"}, "password": {"canary password 2"}, "token": {"canary-token"}})
	post("/login", url.Values{"name": {"ann"}, "password": {"canary password 3"}})
	post("/login", url.Values{"name": {"ann"}, "password": {password}}, "Origin", "https://evil.example.net", "Sec-Fetch-Site", "cross-site")
	login := post("/login", url.Values{"name": {"ann"}, "password": {password}})
	cookie := strings.SplitN(login.Header().Get("Set-Cookie"), ";", 2)[0]
	post("/account", url.Values{"old": {"canary password 4"}, "password": {"canary password 5"}}, "Cookie", cookie)
	made := post("/admin/v1/agents", nil, "Cookie", cookie)
	post("/logout", nil, "Cookie", cookie)
	var got []string
	for _, e := range auditEntries(t, a.Store)[1:] {
		got = append(got, fmt.Sprintf("%s: %s %s %s", e.Actor, e.Action, e.Result, e.Code))
	}
	want := []string{
		"nobody: set up refused invalid_setup_link", "nobody: log in refused invalid_login", "nobody: request from another site refused permission_denied",
		"operator 1 ann: log in done ", "operator 1 ann: change password refused invalid_login", "operator 1 ann: POST /admin/v1/agents refused invalid_json", "operator 1 ann: log out done ",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got %q, want %q (agents: %d)", got, want, made.Code)
	}
	_, token, _ := strings.Cut(cookie, "=")
	wantNoSecrets(t, "the audit log", auditText(t, a), []string{"canary", token})
}

// auditWalk makes each change of the admin endpoint once.
type auditWalk struct {
	*testApp
	t        *testing.T
	secrets  []string
	logins   int    // operators that were created to log in
	loggedIn uint64 // id of the operator of the last login
}

// made asks for something to change first, and gives a member of the answer.
func (w *auditWalk) made(path, body, member string) string {
	w.t.Helper()
	v := w.operate(201, "POST", path, body)
	w.note(v)
	return fmt.Sprint(v[member])
}

// note keeps the secrets of an answer.
func (w *auditWalk) note(v map[string]any) {
	for _, name := range []string{"key", "token", "secret"} {
		if s, ok := v[name].(string); ok {
			w.secrets = append(w.secrets, s)
		}
	}
	if path, ok := v["path"].(string); ok {
		_, token, _ := strings.Cut(path, "=")
		w.secrets = append(w.secrets, token)
	}
	list, _ := v["secrets"].([]any)
	for _, one := range list {
		w.note(one.(map[string]any))
	}
	if lease, ok := v["lease"].(map[string]any); ok {
		w.note(lease)
	}
}

func (w *auditWalk) newKey() string {
	w.t.Helper()
	return w.made("/admin/v1/keys", `{"name": "k", "permissions": ["can_read_calls"]}`, "id")
}

func (w *auditWalk) newHook() string {
	w.t.Helper()
	return w.made("/admin/v1/webhooks", `{"name": "h", "url": "https://hooks.example.net/canary-path?x=canary-query", "subscribed_events": ["call.ended"]}`, "id")
}

// claimed claims a new call and gives its path and the lease as a body.
func (w *auditWalk) claimed() (path, body string) {
	w.t.Helper()
	w.queued()
	v := w.operate(200, "POST", "/admin/v1/calls/claim", `{"dialer": "d"}`)
	w.note(v)
	call, lease := v["call"].(map[string]any), v["lease"].(map[string]any)
	return fmt.Sprintf("/admin/v1/calls/%v", call["id"]), fmt.Sprintf(`{"lease_token": %q}`, lease["token"])
}

// queued has a key start a call.
func (w *auditWalk) queued() {
	w.t.Helper()
	agent := w.made("/admin/v1/agents", `{"name": "A", "phone_number": "+4930555001"}`, "id")
	_, secret := w.key(`["can_initiate_calls"]`)
	if got := w.ask("POST", "/api/v1/calls", secret, `{"phone_number": "+4930555944", "agent_id": `+agent+`}`); got.Code >= 300 {
		w.t.Fatalf("start a call: got %d %s", got.Code, got.Body)
	}
}

// changes gives for every endpoint what to ask for: a path and a body.
func (w *auditWalk) changes() map[string]func() (path, body string) {
	const v1 = "/admin/v1/"
	all := map[string]func() (string, string){
		"POST /admin/v1/cluster/nodes/:name/remove": func() (string, string) {
			w.joinMade(newMadeCluster())
			return v1 + "cluster/nodes/c/remove", ""
		},
		"POST /admin/v1/keys":            func() (string, string) { return v1 + "keys", `{"name": "k", "permissions": ["can_read_calls"]}` },
		"PATCH /admin/v1/keys/:id":       func() (string, string) { return v1 + "keys/" + w.newKey(), `{"name": "l"}` },
		"POST /admin/v1/keys/:id/revoke": func() (string, string) { return v1 + "keys/" + w.newKey() + "/revoke", "" },
		"POST /admin/v1/keys/:id/pause":  func() (string, string) { return v1 + "keys/" + w.newKey() + "/pause", "" },
		"POST /admin/v1/keys/:id/resume": func() (string, string) {
			id := w.newKey()
			w.operate(200, "POST", v1+"keys/"+id+"/pause", "")
			return v1 + "keys/" + id + "/resume", ""
		},
		"POST /admin/v1/keys/:id/rotate": func() (string, string) { return v1 + "keys/" + w.newKey() + "/rotate", "" },
		"POST /admin/v1/keys/:id/rotate/finish": func() (string, string) {
			id := w.newKey()
			w.note(w.operate(200, "POST", v1+"keys/"+id+"/rotate", ""))
			return v1 + "keys/" + id + "/rotate/finish", ""
		},
		"POST /admin/v1/sandbox/reset": func() (string, string) {
			return v1 + "sandbox/reset", `{"owner": "admin"}`
		},
		"POST /admin/v1/keys/import": func() (string, string) {
			return v1 + "keys/import", `[{"name": "i", "permissions": ["can_read_calls"], "sha256": "` + strings.Repeat("ab", 32) + `"}]`
		},
		"POST /admin/v1/tokens": func() (string, string) { return v1 + "tokens", `{"name": "t"}` },
		"POST /admin/v1/apply": func() (string, string) {
			return v1 + "apply", `{"keys": [{"ref": "r", "name": "k", "permissions": ["can_read_calls"]}]}`
		},
		"POST /admin/v1/tokens/:id/revoke": func() (string, string) {
			return v1 + "tokens/" + w.made(v1+"tokens", `{"name": "t"}`, "id") + "/revoke", ""
		},
		"POST /admin/v1/tokens/:id/rotate": func() (string, string) {
			return v1 + "tokens/" + w.made(v1+"tokens", `{"name": "t"}`, "id") + "/rotate", ""
		},
		"POST /admin/v1/reload": func() (string, string) {
			w.Reloader.From(func() (Config, error) { return w.config, nil }, new(slog.LevelVar))
			return v1 + "reload", ""
		},
		"POST /admin/v1/webhooks/release": func() (string, string) {
			if err := w.Store.Update(func(tx *Tx) error { return HoldWebhooks(tx, w.clock.Now()) }); err != nil {
				w.t.Fatal(err)
			}
			return v1 + "webhooks/release", `{"discard": true}`
		},
		"POST /admin/v1/setup-link": func() (string, string) {
			for _, op := range w.operate(200, "GET", v1+"operators", "")["operators"].([]any) {
				w.operate(200, "DELETE", fmt.Sprint(v1, "operators/", op.(map[string]any)["id"]), "")
			}
			return v1 + "setup-link", ""
		},
		"DELETE /admin/v1/sessions/:id": func() (string, string) { return v1 + "sessions/" + w.login(), "" },
		"POST /admin/v1/sessions/end": func() (string, string) {
			w.login()
			return v1 + "sessions/end", fmt.Sprintf(`{"operator": %d}`, w.loggedIn)
		},
		"POST /admin/v1/operators": func() (string, string) { return v1 + "operators", `{"name": "ann", "password": "canary password"}` },
		"POST /admin/v1/operators/invite": func() (string, string) {
			return v1 + "operators/invite", `{"name": "ida", "role": "viewer"}`
		},
		"PATCH /admin/v1/operators/:id": func() (string, string) {
			id := w.made(v1+"operators", `{"name": "dot", "password": "canary password"}`, "id")
			return v1 + "operators/" + id, `{"role": "viewer"}`
		},
		"POST /admin/v1/operators/:id/password": func() (string, string) {
			id := w.made(v1+"operators", `{"name": "bea", "password": "canary password"}`, "id")
			return v1 + "operators/" + id + "/password", `{"password": "canary password 2"}`
		},
		"POST /admin/v1/operators/:id/enroll-link": func() (string, string) {
			return v1 + "operators/" + w.made(v1+"operators", `{"name": "eva", "password": "canary password"}`, "id") + "/enroll-link", ""
		},
		"DELETE /admin/v1/operators/:id": func() (string, string) {
			return v1 + "operators/" + w.made(v1+"operators", `{"name": "cay", "password": "canary password"}`, "id"), ""
		},
		"POST /admin/v1/calls": func() (string, string) {
			return v1 + "calls", `{"phone_number": "+4930555945", "agent_id": ` + w.made(v1+"agents", `{"name": "A"}`, "id") + `}`
		},
		"PATCH /admin/v1/calls/:id":      func() (string, string) { path, _ := w.claimed(); return path, `{"summary": "s"}` },
		"POST /admin/v1/calls/claim":     func() (string, string) { w.queued(); return v1 + "calls/claim", `{"dialer": "d"}` },
		"POST /admin/v1/calls/:id/start": func() (string, string) { path, body := w.claimed(); return path + "/start", body },
		"POST /admin/v1/calls/:id/complete": func() (string, string) {
			path, body := w.claimed()
			w.operate(200, "POST", path+"/start", body)
			return path + "/complete", body
		},
		"POST /admin/v1/calls/:id/fail": func() (string, string) { path, body := w.claimed(); return path + "/fail", body },
		"POST /admin/v1/webhooks": func() (string, string) {
			return v1 + "webhooks", `{"name": "h", "url": "https://hooks.example.net/canary-path", "subscribed_events": ["call.ended"]}`
		},
		"PATCH /admin/v1/webhooks/:id":             func() (string, string) { return v1 + "webhooks/" + w.newHook(), `{"name": "i"}` },
		"DELETE /admin/v1/webhooks/:id":            func() (string, string) { return v1 + "webhooks/" + w.newHook(), "" },
		"POST /admin/v1/webhooks/:id/test":         func() (string, string) { return v1 + "webhooks/" + w.privateHook() + "/test", "" },
		"POST /admin/v1/mail/test":                 func() (string, string) { return v1 + "mail/test", "" },
		"POST /admin/v1/webhooks/:id/redeliver":    func() (string, string) { return v1 + "webhooks/" + w.failedHook() + "/redeliver", `{"log_id": 1}` },
		"POST /admin/v1/webhooks/:id/retry-failed": func() (string, string) { return v1 + "webhooks/" + w.failedHook() + "/retry-failed", "" },
	}
	const event = `{"title": "Canary", "start_time": "2026-03-02T09:00:00Z", "end_time": "2026-03-02T10:00:00Z"}`
	all["POST /admin/v1/events"] = func() (string, string) { return v1 + "events", event }
	all["PATCH /admin/v1/events/:id"] = func() (string, string) {
		return v1 + "events/" + w.made(v1+"events", event, "id"), `{"title": "Canary2"}`
	}
	all["POST /admin/v1/events/:id/cancel"] = func() (string, string) {
		return v1 + "events/" + w.made(v1+"events", event, "id") + "/cancel", `{"reason": "Canary"}`
	}
	all["PATCH /admin/v1/business-context"] = func() (string, string) {
		return v1 + "business-context", `{"variables": {"visits": 3}, "auto_create_variables": true}`
	}
	for name, form := range map[string][2]string{
		"agents": {`{"name": "A"}`, `{"name": "B"}`}, "contacts": {`{"first_name": "Canary"}`, `{"first_name": "Canary2"}`}, "teams": {`{"name": "T"}`, `{"name": "U"}`},
		"owners": {`{"name": "o%d"}`, `{"rate": 2}`}, "do-not-call": {`{"phone_number": "+49305559%02d"}`, `{"reason": "asked"}`},
		"schedules": {`{"owner": "s%d", "time_zone": "UTC"}`, `{"buffer_minutes": 5}`},
		"variables": {`{"name": "v%d", "display_name": "V", "variable_type": "text", "context_type": "contact"}`, `{"description": "d"}`},
	} {
		n := 10
		one := func() string {
			n++
			return strings.Replace(strings.Replace(form[0], "%d", fmt.Sprint(n), 1), "%02d", fmt.Sprint(n), 1)
		}
		all["POST /admin/v1/"+name] = func() (string, string) { return v1 + name, one() }
		all["POST /admin/v1/"+name+"/import"] = func() (string, string) { return v1 + name + "/import", "[" + one() + "," + one() + "]" }
		all["PATCH /admin/v1/"+name+"/:id"] = func() (string, string) { return v1 + name + "/" + w.made(v1+name, one(), "id"), form[1] }
		all["DELETE /admin/v1/"+name+"/:id"] = func() (string, string) { return v1 + name + "/" + w.made(v1+name, one(), "id"), "" }
	}
	return all
}

// failedHook creates a webhook with a delivery that has failed for good and returns its id.
func (w *auditWalk) failedHook() string {
	return w.withAttempt(w.privateHook())
}

// privateHook leads to where nothing listens, without being asked.
func (w *auditWalk) privateHook() string {
	w.t.Helper()
	return w.made("/admin/v1/webhooks", `{"name": "h", "url": "https://127.0.0.1:1/", "subscribed_events": ["call.ended"]}`, "id")
}

// login begins a session of the operator 1 and returns its public id.
func (w *auditWalk) login() string {
	w.t.Helper()
	w.logins++
	w.loggedIn = uint64(w.operate(201, "POST", "/admin/v1/operators", fmt.Sprintf(`{"name": "login %d", "password": %q}`, w.logins, operatorPassword))["id"].(float64))
	if _, err := w.sessions.Begin(AuditContext{Actor: ActorSelf, Action: "test", Now: w.clock.Now()}, w.loggedIn, sessionStart{}); err != nil {
		w.t.Fatal(err)
	}
	list := w.operate(200, "GET", "/admin/v1/sessions", "")["sessions"].([]any)
	return list[0].(map[string]any)["id"].(string)
}

// TestAudit_EveryChange walks all endpoints of the admin listener that are not GET.
// Whoever adds one makes its changes by Request.Update (or says with
// Request.Record that it did something), and adds it to auditWalk.changes.
func TestAudit_EveryChange(t *testing.T) {
	w := &auditWalk{testApp: newTestApp(t, func(c *Config) {
		c.Webhooks.AllowPrivateTargets = true
		c.Mail = MailConfig{Server: "localhost:1", TLS: "auto", From: "latchkey@example.com", To: []string{"ops@example.com"}, Events: []string{KeyRotated}}
	}), t: t}
	changes := w.changes()
	for _, row := range w.Server.o.Admin {
		action := row.Method + " " + row.Path
		if row.Method == http.MethodGet || unaudited[action] != "" {
			continue
		}
		change := changes[action]
		if change == nil {
			t.Errorf("%s: auditWalk.changes does not know how to ask for it", action)
			continue
		}
		path, body := change()
		before := len(auditEntries(t, w.Store))
		got := w.control(row.Method, path, body)
		if got.Code >= 300 {
			t.Errorf("%s: got %d %s", action, got.Code, got.Body)
			continue
		}
		var answer map[string]any
		if json.Unmarshal(got.Body.Bytes(), &answer) == nil {
			w.note(answer)
		}
		all := auditEntries(t, w.Store)
		if len(all) != before+1 {
			t.Errorf("%s: left %d entries in the audit log, want 1: make the change by Request.Update", action, len(all)-before)
			continue
		}
		e := all[before]
		if e.Action != action || e.Result != auditDone || e.Actor != "control socket" || e.Request == "" || !e.At.Equal(epoch) {
			t.Errorf("%s: got the entry %+v", action, e)
		}
		if id := strings.Split(path, "/"); strings.Contains(row.Path, ":id") && !strings.HasSuffix(e.Object, " "+id[4]) {
			t.Errorf("%s %s: the entry is about %q", action, path, e.Object)
		}
	}
	if p := auditProblems(t, w.Store); len(p) > 0 {
		t.Errorf("the chain: %q", p)
	}
	w.secrets = append(w.secrets, "canary password", "canary-path", "canary-query", "Canary", "argon2", "+49305559")
	w.hashes()
	wantNoSecrets(t, "the audit log", auditText(t, w.testApp), w.secrets)
}

// hashes adds what is stored of secrets to them.
func (w *auditWalk) hashes() {
	w.t.Helper()
	err := w.Store.View(func(tx *Tx) error {
		for k, err := range KeyTable.All(tx, Forward) {
			if err != nil {
				return err
			}
			w.secrets = append(w.secrets, base64.StdEncoding.EncodeToString(k.Hash))
		}
		for token, err := range TokenTable.All(tx, Forward) {
			if err != nil {
				return err
			}
			w.secrets = append(w.secrets, base64.StdEncoding.EncodeToString(token.Hash))
			for _, p := range token.Previous {
				w.secrets = append(w.secrets, base64.StdEncoding.EncodeToString(p.Hash))
			}
		}
		for op, err := range OperatorTable.All(tx, Forward) {
			if err != nil {
				return err
			}
			if op.Hash != nil {
				w.secrets = append(w.secrets, base64.StdEncoding.EncodeToString(op.Hash))
			}
		}
		for hook, err := range webhookTable.All(tx, Forward) {
			if err != nil {
				return err
			}
			w.secrets = append(w.secrets, base64.StdEncoding.EncodeToString(hook.Secret))
		}
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
}
