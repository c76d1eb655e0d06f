package main

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

// newestSentence returns the sentence about the newest entry of the audit log.
func (a *testApp) newestSentence() string {
	a.t.Helper()
	entries := a.operate(200, "GET", "/admin/v1/audit?limit=1", "")["entries"].([]any)
	return entries[0].(map[string]any)["summary"].(string)
}

func TestSentences(t *testing.T) {
	a := newTestApp(t)
	const v1 = "/admin/v1/"
	id, _ := a.key(`["can_read_agents"]`)
	a.operate(201, "POST", v1+"operators", `{"name": "Ann", "password": "`+operatorPassword+`"}`)
	contact := fmt.Sprint(a.operate(201, "POST", v1+"contacts", `{"first_name": "Mara"}`)["id"])
	for _, tt := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"POST", "keys", `{"name": "mobile", "permissions": ["can_read_agents"]}`, 201, "The control socket created the key mobile"},
		{"PATCH", "keys/" + id, `{"name": "crm", "limits": {"requests_per_minute_limit": 7}}`, 200, "The control socket changed the key test (limits, name)"},
		{"POST", "keys/" + id + "/rotate", `{"overlap_seconds": 604800}`, 200, "The control socket rotated the key crm (overlap 7 days)"},
		{"POST", "keys/" + id + "/rotate/finish", "", 200, "The control socket ended the old secrets of the key crm"},
		{"POST", "keys/" + id + "/rotate", `{"overlap_seconds": 0}`, 200, "The control socket rotated the key crm (no overlap)"},
		{"POST", "keys/" + id + "/pause", "", 200, "The control socket paused the key crm"},
		{"POST", "keys/" + id + "/revoke", "", 200, "The control socket revoked the key crm"},
		{"POST", "keys/" + id + "/pause", "", 409, "The control socket tried to pause the key crm and was refused: conflict"},
		{"POST", "agents", `{"name": "A", "owner": "new"}`, 201, "The control socket created the agent A"},
		{"POST", "keys", `{"name": 1}`, 400, "The control socket tried to create a key and was refused: validation error"},
		{"PATCH", "operators/1", `{"role": "viewer"}`, 200, "The control socket changed the operator Ann (role)"},
		{"PATCH", "contacts/" + contact, `{"first_name": "Jon"}`, 200, "The control socket changed the contact " + contact + " (first name)"},
		{"POST", "contacts/import", `[{"first_name": "A"}, {"first_name": "B"}]`, 201, "The control socket imported 2 contacts"},
		{"DELETE", "contacts/" + contact, "", 200, "The control socket deleted the contact " + contact},
		{"POST", "sandbox/reset", `{"owner": "new"}`, 200, "The control socket emptied the sandbox of the owner new"},
		{"POST", "sandbox/reset", `{}`, 400, "The control socket tried to empty the sandbox of an owner and was refused: missing parameter"},
		{"PATCH", "operators/1", `{"role": "admin", "password": "` + operatorPassword + ` 2"}`, 200, "The control socket set the password of the operator Ann (role)"},
	} {
		got := a.control(tt.method, v1+tt.path, tt.body)
		if got.Code != tt.status {
			t.Fatalf("%s %s: got %d %s", tt.method, tt.path, got.Code, got.Body)
		}
		if err := a.Store.Update(func(*Tx) error { return nil }); err != nil { // refusals are stored in the background
			t.Fatal(err)
		}
		if said := a.newestSentence(); said != tt.want {
			t.Errorf("%s %s: got %q, want %q", tt.method, tt.path, said, tt.want)
		}
	}
	if text := auditText(t, a); strings.Contains(text, "Mara") || strings.Contains(text, "Jon") {
		t.Error("the log has the name of a contact")
	}
}

// TestSentences_Login takes the password, the second factors or both from an operator.
func TestSentences_Login(t *testing.T) {
	a := newTestApp(t)
	a.operate(201, "POST", "/admin/v1/operators", `{"name": "Ann", "password": "`+operatorPassword+`"}`)
	for _, tt := range []struct{ body, want string }{
		{`{"reset_factors": true}`, "The control socket removed the second factors of the operator Ann"},
		{`{"reset_factors": true, "password": "` + operatorPassword + ` 2"}`, "The control socket reset the login of the operator Ann"},
		{`{"password": "` + operatorPassword + ` 3"}`, "The control socket set the password of the operator Ann"},
	} {
		if err := a.Store.Update(func(tx *Tx) error {
			_, err := addFactor(tx, factor{Operator: 1, Kind: factorTOTP, Name: "phone"})
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if w := a.control("PATCH", "/admin/v1/operators/1", tt.body); w.Code != 200 {
			t.Fatalf("%s: got %d %s", tt.body, w.Code, w.Body)
		}
		if said := a.newestSentence(); said != tt.want {
			t.Errorf("%s: got %q, want %q", tt.body, said, tt.want)
		}
	}
}

// TestSentences_Names wants an entry to have the name of its time, and the one of today beside it.
func TestSentences_Names(t *testing.T) {
	a := newTestApp(t)
	id, _ := a.key(`["can_read_agents"]`)
	a.operate(200, "PATCH", "/admin/v1/keys/"+id, `{"name": "crm"}`)
	team := fmt.Sprint(a.operate(201, "POST", "/admin/v1/teams", `{"name": "Reception"}`)["id"])
	a.operate(200, "DELETE", "/admin/v1/teams/"+team, "")
	entries := a.operate(200, "GET", "/admin/v1/audit", "")["entries"].([]any)
	part := func(i int) string {
		parts := entries[i].(map[string]any)["sentence"].([]any)
		return fmt.Sprint(parts[3])
	}
	for i, want := range []string{
		"map[now:<nil> object:<nil> text:Reception]", "map[now:<nil> object:<nil> text:Reception]",
		"map[now:crm object:key " + id + " text:test]", "map[now:crm object:key " + id + " text:test]",
	} {
		if got := part(i); got != want {
			t.Errorf("entry %d: got %s, want %s", i, got, want)
		}
	}
}

// TestSentences_EveryAction wants a verb for each change of the admin endpoint and for each action that
// the program names.
func TestSentences_EveryAction(t *testing.T) {
	a := newTestApp(t)
	for _, row := range slices.Concat(a.Server.o.Admin, a.routes.Keyed) {
		verb := verbOf(row.Method + " " + row.Path)
		if row.Method != "GET" && (strings.Contains(verb.Past, "/") || verb.Past == verb.Try && !strings.HasPrefix(verb.Try, "set ")) || !slices.Contains(AuditKinds(), verb.Kind) {
			t.Errorf("%s %s: got %+v", row.Method, row.Path, verb)
		}
	}
	for _, row := range a.Server.o.Admin {
		action := row.Method + " " + row.Path
		verb, last := verbOf(action), row.Path[strings.LastIndexByte(row.Path, '/')+1:]
		if row.Method != "GET" && !verb.Whole && kindOfRoute(action) == "something" {
			t.Errorf("%s: the sentence ends with %q", action, verb.Past+" something")
		}
		if row.Method == "POST" && verb.Past == "created" && !strings.HasSuffix(last, "s") && last != "do-not-call" {
			t.Errorf("%s creates nothing: give it a verb", action)
		}
	}
	for action := range auditVerbs {
		method, path, is := strings.Cut(action, " /")
		if is && !slices.ContainsFunc(slices.Concat(a.Server.o.Admin, a.routes.Keyed, a.routes.Free), func(r Route) bool { return r.Method == method && r.Path == "/"+path }) {
			t.Errorf("%s: there is no such route", action)
		}
	}
	for _, word := range signOnWords {
		if _, ok := auditVerbs[word]; !ok {
			t.Errorf("%s has no verb", word)
		}
	}
}

// TestAudit_Filters selects entries by names, kinds and days.
func TestAudit_Filters(t *testing.T) {
	a := newTestApp(t)
	id, _ := a.key(`["can_read_agents"]`)
	a.operate(200, "PATCH", "/admin/v1/keys/"+id, `{"name": "crm"}`)
	a.operate(201, "POST", "/admin/v1/tokens", `{"name": "ci", "scope": "all"}`)
	token := a.operate(201, "POST", "/admin/v1/tokens", `{"name": "Deploy", "scope": "all"}`)["token"].(string)
	a.clocks.Pass(25 * time.Hour)
	r, w := httptest.NewRequest("POST", "/admin/v1/keys/"+id+"/pause", nil), httptest.NewRecorder()
	r.Header.Set("Authorization", "Bearer "+token)
	if a.admin.ServeHTTP(w, r); w.Code != 200 {
		t.Fatalf("pause: got %d %s", w.Code, w.Body)
	}
	first, second := epoch.UTC().Format(time.DateOnly), epoch.Add(25*time.Hour).UTC().Format(time.DateOnly)
	for query, want := range map[string]int{
		"object=crm": 3, "object=CRM": 3, "object=test": 2, "object=ci": 1, "object=deploy": 1, "actor=deploy": 1, "actor=Deploy&object=crm": 1, "object=nobody": 0,
		"kind=paused": 1, "kind=created": 3, "kind=changed": 1, "kind=login": 0, "kind=created&action=tokens": 2, "from=" + first + "&to=" + first: 4, "from=" + second: 1,
		"to=" + first + "&kind=created": 3, "from=" + url.QueryEscape(epoch.Add(time.Hour).Format(time.RFC3339)): 1, "": 5,
	} {
		list := a.operate(200, "GET", "/admin/v1/audit?"+query, "")
		if list["count"].(float64) != float64(want) || len(list["entries"].([]any)) != want {
			t.Errorf("%s: got %v, want %d", query, list["count"], want)
		}
		lines := strings.Split(strings.TrimSuffix(a.control("GET", "/admin/v1/audit?format=jsonl&"+query, "").Body.String(), "\n"), "\n")
		if want == 0 {
			lines = lines[1:]
		}
		if len(lines) != want {
			t.Errorf("%s as JSON lines: got %d, want %d", query, len(lines), want)
		}
	}
	a.operate(201, "POST", "/admin/v1/operators", `{"name": "Ann Lee", "password": "`+operatorPassword+`"}`)
	for _, action := range []string{"log in", "log out"} {
		by := AuditContext{Actor: "operator 1 Ann Lee", Action: action, Now: a.clocks.Read().Wall}
		if err := a.Store.Update(by.Append); err != nil {
			t.Fatal(err)
		}
	}
	a.operate(201, "POST", "/admin/v1/operators", `{"name": "Ben", "password": "`+operatorPassword+`"}`)
	a.operate(200, "DELETE", "/admin/v1/operators/1", "")
	for query, want := range map[string]int{"actor=Ann+Lee": 2, "actor=ann": 2, "actor=Lee": 0, "actor=operator+1": 2} {
		if list := a.operate(200, "GET", "/admin/v1/audit?"+query, ""); list["count"].(float64) != float64(want) {
			t.Errorf("after the operator was deleted, %s: got %v, want %d", query, list["count"], want)
		}
	}
	for query, want := range map[string]string{"kind=odd": "kind must be created, changed", "from=yesterday": "from must be a day", "to=2026-13-01": "to must be a day", "format=xml": "format must be json, csv or jsonl"} {
		a.refuse("GET", "/admin/v1/audit?"+query, "", 400, "validation_error", want)
	}
}

// TestAudit_Export reads more entries than one transaction of the export.
func TestAudit_Export(t *testing.T) {
	a := newTestApp(t)
	const many = 2*exportPart + 7
	err := a.Store.Update(func(tx *Tx) error {
		for i := range many {
			e := AuditEntry{At: epoch, Actor: fmt.Sprintf("operator %d =cmd", i%2+1), Action: "log in", Result: auditDone}
			if err := appendAudit(tx, e); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for filter, want := range map[string]int{"": many, "&actor=operator+1": (many + 1) / 2} {
		w := a.control("GET", "/admin/v1/audit?format=csv"+filter, "")
		lines, err := csv.NewReader(w.Body).ReadAll()
		if err != nil || len(lines) != want+1 || !slices.Equal(lines[0], auditColumns()) {
			t.Fatalf("%s: got %d lines, %v; want %d", filter, len(lines), err, want+1)
		}
		if lines[1][2] != "'=cmd logged in" {
			t.Errorf("got %q", lines[1])
		}
		decoder, numbers := json.NewDecoder(a.control("GET", "/admin/v1/audit?format=jsonl"+filter, "").Body), []uint64{}
		for decoder.More() {
			var e AuditEntry
			if err := decoder.Decode(&e); err != nil {
				t.Fatal(err)
			}
			numbers = append(numbers, e.Number)
		}
		slices.Reverse(numbers)
		if len(numbers) != want || !slices.IsSorted(numbers) || len(slices.Compact(numbers)) != want {
			t.Errorf("%s: got %d entries, want %d in order", filter, len(numbers), want)
		}
	}
}
