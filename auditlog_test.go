package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"
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
		want                      Entry
	}{
		{"POST", "/admin/v1/keys/" + id + "/pause", token, "", Entry{Actor: "token 1 ci", Action: "POST /admin/v1/keys/:id/pause", Object: "key " + id, Status: 409, Code: "conflict"}},
		{"POST", "/admin/v1/keys", token, `{"name": 1}`, Entry{Actor: "token 1 ci", Action: "POST /admin/v1/keys", Status: 400, Code: "validation_error"}},
		{"GET", "/admin/v1/keys", "lka_wrong", "", Entry{Actor: "nobody", Action: "GET /admin/v1/keys", Status: 401, Code: "invalid_key"}},
		{"POST", "/admin/v1/keys", "", "{}", Entry{Actor: "nobody", Action: "POST /admin/v1/keys", Status: 401, Code: "authentication_required"}},
		// A secret in the wrong place is no object.
		{"POST", "/admin/v1/keys/" + secret + "/revoke", token, "", Entry{Actor: "token 1 ci", Action: "POST /admin/v1/keys/:id/revoke", Status: 404, Code: "not_found"}},
	} {
		before := len(auditEntries(t, a.Store))
		status := tcp(tt.method, tt.path, tt.token, tt.body)
		all := auditEntries(t, a.Store)
		if status != tt.want.Status || len(all) != before+1 {
			t.Errorf("%s %s: got %d and %d entries, want %d and 1", tt.method, tt.want.Action, status, len(all)-before, tt.want.Status)
			continue
		}
		e := all[before]
		got := Entry{Actor: e.Actor, Action: e.Action, Object: e.Object, Status: e.Status, Code: e.Code}
		if fmt.Sprint(got) != fmt.Sprint(tt.want) || e.Result != DeedRefused || e.Client != "192.0.2.1" {
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
	a.audit.Refused(Deed{Actor: "token 1 ci", Action: "x", Now: a.clock.Now()}, ErrConflict)
	if got := len(auditEntries(t, a.Store)); got != refusedPerMinute+1 {
		t.Error("strangers used up the room of those who are known")
	}
	for range 2 {
		if err := a.audit.Tend(a.clock.Now()); err != nil {
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
		env := Environment{Stdin: strings.NewReader(""), Stdout: &out, Stderr: &out, Open: open, CheckFile: CheckStoreFile}
		if code := RunCommand(context.Background(), append([]string{"latchkey", "--data", data}, args...), env); code != want {
			t.Fatalf("%v: got %d %s, want %d", args, code, out.String(), want)
		}
		return out.String()
	}
	for _, name := range []string{"one", "two", "three"} {
		run(0, "agents", "create", "--name", name)
	}
	if out := run(0, "audit", "list"); strings.Count(out, "POST /admin/v1/agents") != 3 {
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
	db, err := bbolt.Open(StorePath(data), 0o600, nil)
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
	if out := run(1, "check", StorePath(data)); !strings.Contains(out, "entry 2 is missing") {
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
