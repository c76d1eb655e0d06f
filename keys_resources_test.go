package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// TestResources_Has compares the rule with itself written in another way, for all records and lists of two agents, two
// contacts and two teams.
func TestResources_Has(t *testing.T) {
	lists := [][]uint64{nil, {1}, {1, 2}}
	in := func(list []uint64, id uint64) bool { return slices.Contains(list, id) }
	for n := range 27 * 4 * 27 {
		r := &Resources{Agents: lists[n%3], Contacts: lists[n/3%3], Teams: lists[n/9%3]}
		p := Place{Kind: RecordKind(1 + n/27%4), Owner: 1, Agent: uint64(n / 108 % 3), Contact: uint64(n / 324 % 3), Team: uint64(n / 972 % 3)}
		agents, contacts, teams := r.Agents != nil, r.Contacts != nil, r.Teams != nil
		want := true
		switch {
		case !agents && !contacts && !teams:
			continue // the form refuses it
		case in(r.Teams, p.Team):
		case p.Kind == AgentRecord:
			want = in(r.Agents, p.Agent) || !agents && !teams
		case p.Kind == ContactRecord:
			want = in(r.Contacts, p.Contact) || !contacts && !teams
		case p.Kind == CallRecord:
			want = (in(r.Agents, p.Agent) || !agents && !teams) && (in(r.Contacts, p.Contact) || !contacts)
		default:
			want = in(r.Agents, p.Agent)
		}
		if got := r.Has(p); got != want {
			t.Errorf("%+v has %+v: got %t, want %t", r, p, got, want)
		}
	}
	if (&Resources{Agents: []uint64{1}}).Has(Place{Owner: 1, Agent: 1}) {
		t.Error("a record of no kind exists for a limited key")
	}
	if none := (*Resources)(nil); !none.Has(Place{}) || !none.HasTeam(9) || !none.Equal(nil) || none.Equal(&Resources{}) {
		t.Error("a key without resources is limited")
	}
}

// TestResources_Refuses sends resources that are wrong: the error names the ids, and nothing changes.
func TestResources_Refuses(t *testing.T) {
	w := newTwins(t)
	w.operate(201, "POST", "/admin/v1/agents", `{"name": "Hers", "owner": "eve"}`)
	w.operate(201, "POST", "/admin/v1/contacts", `{"first_name": "Hers", "owner": "eve"}`)
	id, _ := w.key(everyPermission, `"resources": {"agents": [1]}`)
	var many []string
	for i := range MaxObjects + 1 {
		many = append(many, fmt.Sprint(i+1))
	}
	for resources, want := range map[string]string{
		`{}`:                            "resources must be an object with ids",
		`[]`:                            "resources must be an object with ids",
		`"agents"`:                      "resources must be an object with ids",
		`{"agents": null}`:              "resources must have an id",
		`{"agents": []}`:                "resources must have an array with at least one id of agents",
		`{"agents": ["1"]}`:             "resources must have an array with at least one id of agents",
		`{"agents": [1.5]}`:             "resources must have an array with at least one id of agents",
		`{"agents": [-1]}`:              "resources must have an array with at least one id of agents",
		`{"agents": [1], "calls": [1]}`: `resources must have only agents, contacts, teams; got \"calls\"`,
		`{"agents": [0]}`:               `resources must have only agents that the owner \"admin\" sees; there are none with the ids 0`,
		`{"agents": [99, 1, 4]}`:        `resources must have only agents that the owner \"admin\" sees; there are none with the ids 4, 99`,
		`{"contacts": [4, 3]}`:          `resources must have only contacts that the owner \"admin\" sees; there are none with the ids 4`,
		`{"teams": [1, 2, 3]}`:          `resources must have only teams that the owner \"admin\" sees; there are none with the ids 2, 3`,
		`{"agents": [` + strings.Join(many, ",") + `]}`: "resources must have at most 100 agents; got 101",
	} {
		w.refuse("POST", "/admin/v1/keys", `{"name": "x", "permissions": ["can_read_calls"], "resources": `+resources+`}`, 400, "validation_error", want)
		w.refuse("PATCH", "/admin/v1/keys/"+id, `{"resources": `+resources+`}`, 400, "validation_error", want)
	}
	w.refuse("PATCH", "/admin/v1/keys/"+id, `{"owner": "eve"}`, 400, "validation_error", `agents that the owner \"eve\" sees; there are none with the ids 1`)
	if got := w.operate(200, "GET", "/admin/v1/keys/"+id, ""); fmt.Sprint(got["resources"]) != "map[agents:[1]]" || got["owner"] != "admin" {
		t.Errorf("got %v %v", got["resources"], got["owner"])
	}
	w.operate(200, "PATCH", "/admin/v1/keys/"+id, `{"owner": "eve", "resources": {"agents": [4]}}`)
}

// TestResources_Life follows the resources of a key through what happens to it.
func TestResources_Life(t *testing.T) {
	w := newTwins(t)
	id, secret := w.key(everyPermission, manyRequests, `"resources": {"agents": [2, 1], "teams": [1]}`)
	holds := func(when, want string) {
		t.Helper()
		for path, answer := range map[string]map[string]any{
			"/admin/v1/keys/" + id: w.operate(200, "GET", "/admin/v1/keys/"+id, ""),
			"/api/v1/key":          object(t, w.ask("GET", "/api/v1/key", secret, "").Body.String()),
		} {
			if got, _ := json.Marshal(answer["resources"]); string(got) != want {
				t.Errorf("%s: %s: got %s, want %s", when, path, got, want)
			}
		}
	}
	const first = `{"agents":[1,2],"teams":[1]}`
	holds("created", first)
	w.restart()
	holds("restarted", first)
	secret = w.rotate(id, 0)
	holds("rotated", first)
	w.operate(200, "PATCH", "/admin/v1/keys/"+id, `{"name": "other"}`)
	w.operate(200, "POST", "/admin/v1/keys/"+id+"/pause", "")
	w.operate(200, "POST", "/admin/v1/keys/"+id+"/resume", "")
	holds("renamed, paused and resumed", first)
	w.operate(200, "DELETE", "/admin/v1/agents/2", "")
	if got := w.listed(secret, "/api/v1/agents", "agents", nil); got != "1 3" {
		t.Errorf("after the deletion of an agent: got %s", got)
	}
	holds("an agent deleted", first)
	w.operate(200, "PATCH", "/admin/v1/keys/"+id, `{"resources": {"contacts": [2]}}`)
	holds("changed", `{"contacts":[2]}`)
	entry := w.operate(200, "GET", "/admin/v1/audit?limit=1", "")["entries"].([]any)[0]
	if text, _ := json.Marshal(entry); !strings.Contains(string(text), `"resources"`) || !strings.Contains(string(text), id) {
		t.Errorf("got the audit entry %s", text)
	}
	w.operate(200, "PATCH", "/admin/v1/keys/"+id, `{"resources": null}`)
	holds("taken away", `null`)
}

// TestResources_Explain asks why an object is not found.
func TestResources_Explain(t *testing.T) {
	w := newTwins(t)
	id, key := w.key(everyPermission, manyRequests, `"resources": {"agents": [1], "contacts": [1]}`)
	free, _ := w.key(everyPermission)
	hook := number(object(t, w.ask("POST", "/api/webhooks/create", w.free, `{"name": "n", "url": "https://hooks.example.net/", "subscribed_events": ["call.ended"]}`).Body.String())["id"])
	for _, tt := range []struct{ key, method, path, want string }{
		{id, "GET", "/api/v1/agents", "true The key is limited to agents 1 and contacts 1 by its resources. Everything else is left out."},
		{id, "GET", "/api/v1/contacts/1", "true The key is limited to agents 1 and contacts 1 by its resources. The object in the path is one of them, or belongs to one."},
		{id, "GET", "/api/v1/contacts/2", "false The key is limited to agents 1 and contacts 1 by its resources. The object in the path is none of them and belongs to none, so the answer is the same as if it did not exist."},
		{id, "PATCH", "/api/v1/contacts/9/update", "false The object in the path does not exist for the owner of the key."},
		{id, "GET", "/api/v1/calls/1", "true The key is limited"},
		{id, "GET", "/api/v1/calls/2", "false The key is limited"},
		{id, "POST", eventsPath + "/2/cancel", "false The key is limited"},
		{id, "GET", eventsPath + "/1", "true The key is limited"},
		{id, "POST", "/api/v1/contacts/2/context", "false The key is limited"},
		{id, "GET", "/api/webhooks/" + hook + "/logs", "false The key is limited"},
		{id, "GET", "/api/v1/key", ""},
		{free, "GET", "/api/v1/contacts/2", ""},
	} {
		answer := w.operate(200, "POST", "/admin/v1/keys/"+tt.key+"/explain", fmt.Sprintf(`{"method": %q, "path": %q}`, tt.method, tt.path))
		got := ""
		for _, one := range answer["checks"].([]any) {
			if c := one.(map[string]any); c["check"] == "resources" {
				got = fmt.Sprint(c["passes"], " ", c["message"])
				if c["passes"] == false && (answer["allowed"] != false || answer["refused_by"] != "resources" || answer["status"] != 404.0) {
					t.Errorf("%s: got %v", tt.path, answer)
				}
			}
		}
		if !strings.HasPrefix(got, tt.want) || tt.want == "" && got != "" {
			t.Errorf("%s %s: got %q, want %q", tt.method, tt.path, got, tt.want)
		}
		if method, path := tt.method, tt.path; tt.key == id && got != "" {
			if status := w.ask(method, path, key, "{}").Code; (status == 404) != strings.HasPrefix(got, "false") && method == "GET" {
				t.Errorf("%s %s: explained as %q, but answered %d", method, path, got, status)
			}
		}
	}
}

// TestResources_Ways sets resources with the command and by imports.
func TestResources_Ways(t *testing.T) {
	w := newTwins(t)
	resources := func(name string) string {
		t.Helper()
		text, _ := json.Marshal(w.operate(200, "GET", "/admin/v1/keys?search="+name, "")["keys"].([]any)[0].(map[string]any)["resources"])
		return string(text)
	}
	run := func(want int, args ...string) string {
		t.Helper()
		exit, stdout, stderr := w.run("", args...)
		if exit != want {
			t.Errorf("%v: got %d, want %d: %s%s", args, exit, want, stdout, stderr)
		}
		return stdout + stderr
	}
	run(0, "keys", "create", "--name", "cmd", "--permission", "can_read_calls", "--resource", "agents=1,2", "--resource", "contacts=3")
	if got := resources("cmd"); got != `{"agents":[1,2],"contacts":[3]}` {
		t.Errorf("got %s", got)
	}
	if got := run(0, "keys", "show", "cmd"); !strings.Contains(got, "agents=1,2,contacts=3") {
		t.Errorf("got %s", got)
	}
	for _, bad := range []string{"8", "agents", "agents=x"} {
		if got := run(2, "keys", "update", "cmd", "--resource", bad); !strings.Contains(got, "--resource must be kinds with ids, such as agents=8,9") {
			t.Errorf("%s: got %s", bad, got)
		}
	}
	if got := run(1, "keys", "update", "cmd", "--resource", "agents=77"); !strings.Contains(got, "there are none with the ids 77") {
		t.Errorf("got %s", got)
	}
	run(0, "keys", "update", "cmd", "--resource", "none")
	if got := resources("cmd"); got != "null" {
		t.Errorf("got %s", got)
	}
	if got := w.load("text/csv", "name,sha256,permissions,resources\ncsv,"+sha("a")+",can_read_calls,\"agents=1,2 teams=1\"\nplain,"+sha("b")+",can_read_calls,\n"); got.Code != 201 {
		t.Fatalf("got %d %s", got.Code, got.Body)
	}
	if got := resources("csv") + resources("plain"); got != `{"agents":[1,2],"teams":[1]}null` {
		t.Errorf("got %s", got)
	}
	for cell, want := range map[string]string{"1": "resources must be kinds with ids", "agents=9": "there are none with the ids 9"} {
		if got := w.load("text/csv", "name,sha256,permissions,resources\nbad,"+sha("c")+",can_read_calls,"+cell+"\n"); got.Code != 400 || !strings.Contains(got.Body.String(), "line 2 of the file (row 1): ") || !strings.Contains(got.Body.String(), want) {
			t.Errorf("%s: got %d %s", cell, got.Code, got.Body)
		}
	}
	if got := w.load("application/json", `[{"name": "json", "sha256": "`+sha("d")+`", "permissions": ["can_read_calls"], "resources": {"contacts": [1]}}]`); got.Code != 201 || resources("json") != `{"contacts":[1]}` {
		t.Errorf("got %d %s", got.Code, got.Body)
	}
}
