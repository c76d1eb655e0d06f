package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// twins is an app with records that differ only in where they belong: agents and contacts 1 and 2, and agent and
// contact 3 of team 1. Their calls and events are named after them.
type twins struct {
	*testApp
	free   string            // a key of the same owner that is not limited
	calls  map[string]string // name of a call or an event by its id, such as "a1c2"
	events map[string]string
}

const manyRequests = `"limits": {"requests_per_minute_limit": 1000000, "calls_per_day_limit": 1000000, "calendar_events_per_day_limit": 1000000}`

func newTwins(t testing.TB) *twins {
	w := &twins{newHookApp(t), "", map[string]string{}, map[string]string{}}
	w.operate(201, "POST", "/admin/v1/teams", `{"name": "Reception", "members": ["admin"]}`)
	w.operate(201, "POST", "/admin/v1/teams", `{"name": "Others", "members": ["eve"]}`)
	for i := 1; i <= 3; i++ {
		team := map[int]string{3: `, "team_id": 1`}[i]
		w.operate(201, "POST", "/admin/v1/agents", fmt.Sprintf(`{"name": "Agent", "phone_number": "+493055500%d"%s}`, i, team))
		w.operate(201, "POST", "/admin/v1/contacts", fmt.Sprintf(`{"first_name": "Mara", "tags": ["vip"], "email": "m%d@example.net", "phone_numbers": [{"phone_number": "+493055501%d"}]%s}`, i, i, team))
	}
	_, w.free = w.key(everyPermission, manyRequests)
	for _, c := range []string{"a1c1", "a1c2", "a2c1", "a2c2", "a3c3", "a3c2", "a1", "a3"} {
		w.call(w.free, c)
	}
	for i, agent := range []string{"1", "2", "3", ""} {
		body := fmt.Sprintf(`"customer_name": "Mara", "ai_agent_id": %s`, map[bool]string{true: "null", false: agent}[agent == ""])
		if agent == "3" {
			body += `, "team_id": 1`
		}
		e := w.event(w.free, fmt.Sprintf("2026-02-04T1%d:00:00Z", i), fmt.Sprintf("2026-02-04T1%d:30:00Z", i), body)
		w.events[number(e["id"])] = "e" + agent
	}
	return w
}

// number returns an id of an answer as text.
func number(id any) string { return strconv.FormatFloat(id.(float64), 'f', -1, 64) }

// call starts a call between those in its name, and remembers its id.
func (w *twins) call(key, name string) {
	w.t.Helper()
	body := `{"phone_number": "+4930555099", "agent_id": ` + name[1:2]
	if _, contact, ok := strings.Cut(name, "c"); ok {
		body += `, "contact_id": ` + contact
	}
	answer := w.ask("POST", "/api/v1/calls", key, body+"}")
	if answer.Code != 201 {
		w.t.Fatalf("%s: got %d %s", name, answer.Code, answer.Body)
	}
	v := object(w.t, answer.Body.String())
	w.calls[number(v["id"])], w.calls[v["call_id"].(string)] = name, name
}

// listed returns the ids in a list, in ascending order, and checks the numbers of pages against them.
func (w *twins) listed(key, path, rows string, names map[string]string) string {
	w.t.Helper()
	read := func(more string) map[string]any {
		answer := w.ask("GET", path+more, key, "")
		if answer.Code != 200 {
			w.t.Fatalf("%s: got %d %s", path, answer.Code, answer.Body)
		}
		return object(w.t, answer.Body.String())
	}
	page := read("")
	var list []string
	for _, row := range page[rows].([]any) {
		id, ok := row.(map[string]any)["id"].(string)
		if !ok {
			id = number(row.(map[string]any)["id"])
		}
		if names != nil {
			id = names[id]
		}
		list = append(list, id)
	}
	slices.Sort(list)
	if count, paged := page["count"]; paged {
		second := read(map[bool]string{true: "&", false: "?"}[strings.Contains(path, "?")] + "limit=1&page=2")
		if rest := len(second[rows].([]any)); count != float64(len(list)) || second["count"] != count || second["pages"] != count || rest != min(1, max(0, len(list)-1)) {
			w.t.Errorf("%s: got count %v, and on page 2 of one row each %v of %v with %d rows, want %d", path, count, second["count"], second["pages"], rest, len(list))
		}
	}
	return strings.Join(list, " ")
}

// limitedKeys are keys, with what exists for each.
var limitedKeys = []struct{ resources, agents, contacts, calls, events string }{
	{`{"agents": [1]}`, "1", "1 2 3", "a1 a1c1 a1c2", "e1"},
	{`{"contacts": [1]}`, "1 2 3", "1", "a1c1 a2c1", ""},
	{`{"teams": [1]}`, "3", "3", "a3 a3c2 a3c3", "e3"},
	{`{"agents": [1], "contacts": [1]}`, "1", "1", "a1c1", "e1"},
	{`{"agents": [2, 1, 2], "contacts": null}`, "1 2", "1 2 3", "a1 a1c1 a1c2 a2c1 a2c2", "e1 e2"},
	{`{"agents": [1], "teams": [1]}`, "1 3", "3", "a1 a1c1 a1c2 a3 a3c2 a3c3", "e1 e3"},
	{`{"contacts": [1], "teams": [1]}`, "3", "1 3", "a3 a3c2 a3c3", "e3"},
	{`{"agents": [1], "contacts": [2], "teams": [1]}`, "1 3", "2 3", "a1c2 a3 a3c2 a3c3", "e1 e3"},
	{`null`, "1 2 3", "1 2 3", "a1 a1c1 a1c2 a2c1 a2c2 a3 a3c2 a3c3", "e e1 e2 e3"},
}

// TestScope_Lists compares all lists, counts, filters and searches of limited keys with what should exist for them.
func TestScope_Lists(t *testing.T) {
	w := newTwins(t)
	for _, tt := range limitedKeys {
		_, key := w.key(everyPermission, manyRequests, `"resources": `+tt.resources)
		const events = eventsPath + "?start_date=2026-02-01"
		for _, list := range []struct {
			path, rows, want string
			names            map[string]string
		}{
			{"/api/v1/agents", "agents", tt.agents, nil},
			{"/api/v1/contacts", "contacts", tt.contacts, nil},
			{"/api/v1/contacts?search=mara", "contacts", tt.contacts, nil},
			{"/api/v1/contacts?tag=vip&stage=lead&search=example", "contacts", tt.contacts, nil},
			{"/api/v1/calls", "calls", tt.calls, w.calls},
			{"/api/v1/calls?status=queued&type=outbound", "calls", tt.calls, w.calls},
			{events, "events", tt.events, w.events},
			{events + "&status=scheduled", "events", tt.events, w.events},
		} {
			if got := w.listed(key, list.path, list.rows, list.names); got != list.want {
				t.Errorf("%s: %s: got %q, want %q", tt.resources, list.path, got, list.want)
			}
		}
		for _, agent := range []string{"1", "2", "3"} {
			var want []string
			for _, call := range strings.Fields(tt.calls) {
				if call[1:2] == agent && slices.Contains(strings.Fields(tt.agents), agent) {
					want = append(want, call)
				}
			}
			if got := w.listed(key, "/api/v1/calls?agent_id="+agent, "calls", w.calls); got != strings.Join(want, " ") {
				t.Errorf("%s: calls of agent %s: got %q, want %q", tt.resources, agent, got, want)
			}
		}
		for id, name := range w.calls {
			w.exists(key, "/api/v1/calls/"+id, name, tt.calls)
		}
		for id, name := range w.events {
			w.exists(key, eventsPath+"/"+id, name, tt.events)
		}
		for _, id := range []string{"1", "2", "3"} {
			w.exists(key, "/api/v1/contacts/"+id, id, tt.contacts)
		}
	}
}

// exists checks that an object is found only if its name is in a list, and that no answer names another object.
func (w *twins) exists(key, path, name, list string) {
	w.t.Helper()
	want := 404
	if slices.Contains(strings.Fields(list), name) {
		want = 200
	}
	if answer := w.ask("GET", path, key, ""); answer.Code != want {
		w.t.Errorf("%s (%s) with %s: got %d %s, want %d", path, name, list, answer.Code, answer.Body, want)
	}
}

// TestScope_Fields checks the objects that answers mention beside those that they are about.
func TestScope_Fields(t *testing.T) {
	w := newTwins(t)
	for _, tt := range []struct{ resources, path, field, want string }{
		{`{"teams": [1]}`, "/api/v1/calls/6", "contact", "null"}, // a call of the team with a contact outside
		{`{"teams": [1]}`, "/api/v1/calls/5", "team", `{"id":1,"name":"Reception"}`},
		{`{"agents": [3]}`, "/api/v1/calls/6", "team", `{"id":1,"name":"Reception"}`}, // teams are not limited
		{`{"contacts": [3]}`, "/api/v1/contacts/3", "team", `{"id":1,"name":"Reception"}`},
	} {
		_, key := w.key(everyPermission, `"resources": `+tt.resources)
		got, _ := json.Marshal(object(t, w.ask("GET", tt.path, key, "").Body.String())[tt.field])
		if string(got) != tt.want {
			t.Errorf("%s: %s %s: got %s, want %s", tt.resources, tt.path, tt.field, got, tt.want)
		}
	}
	// An agent outside of an event of the team, and a team outside of a listed contact.
	w.operate(200, "PATCH", "/admin/v1/agents/3", `{"team_id": null}`)
	w.operate(201, "POST", "/admin/v1/teams", `{"name": "New", "members": ["admin"]}`)
	_, key := w.key(everyPermission, `"resources": {"teams": [1]}`)
	if got := object(t, w.ask("GET", eventsPath+"/3", key, "").Body.String()); got["ai_agent"] != nil {
		t.Errorf("got the agent %v", got["ai_agent"])
	}
	_, key = w.key(everyPermission, `"resources": {"contacts": [3], "teams": [3], "agents": [3]}`)
	if got := object(t, w.ask("GET", "/api/v1/contacts/3", key, "").Body.String()); got["team"] != nil {
		t.Errorf("got the team %v", got["team"])
	}
	w.operate(200, "PATCH", "/admin/v1/agents/3", `{"team_id": 1}`)
	if got := object(t, w.ask("GET", "/api/v1/agents", key, "").Body.String())["agents"].([]any)[0].(map[string]any); got["team_id"] != nil {
		t.Errorf("got the agent %v", got)
	}
}

var volatile = regexp.MustCompile(`"request_id":"[^"]*"|"created_at":"[^"]*"`)

// saidOf returns an answer without what differs between two requests.
func saidOf(w *httptest.ResponseRecorder) string {
	return fmt.Sprint(w.Code, volatile.ReplaceAllString(w.Body.String(), ""))
}

// TestScope_Refers has keys name objects that do not exist for them in bodies: the answer is that for an object which
// does not exist at all, and nothing is stored or charged.
func TestScope_Refers(t *testing.T) {
	w := newTwins(t)
	for _, tt := range []struct{ resources, path, body string }{
		{`{"agents": [1]}`, "/api/v1/calls", `{"phone_number": "+4930555099", "agent_id": N}`},
		{`{"agents": [1]}`, "/api/v1/calls", `{"phone_number": "+4930555099", "agent_id": "N"}`},
		{`{"agents": [1], "contacts": [1]}`, "/api/v1/calls", `{"phone_number": "+4930555099", "agent_id": 1, "contact_id": N}`},
		{`{"contacts": [1]}`, "/api/v1/calls", `{"phone_number": "+4930555099", "agent_id": 1, "contact_id": N}`},
		{`{"teams": [1]}`, "/api/v1/calls", `{"phone_number": "+4930555099", "agent_id": N}`},
		{`{"agents": [1]}`, eventsPath + "/create", `{"title": "T", "start_time": "2026-03-02T09:00:00Z", "end_time": "2026-03-02T10:00:00Z", "ai_agent_id": N}`},
		{`{"teams": [1]}`, eventsPath + "/create", `{"title": "T", "start_time": "2026-03-02T09:00:00Z", "end_time": "2026-03-02T10:00:00Z", "team_id": N}`},
		{`{"teams": [1]}`, "/api/v1/contacts/create", `{"first_name": "X", "team_id": N}`},
		{`{"teams": [1]}`, "/api/v1/contacts/3/update", `{"first_name": "X", "team_id": N}`},
	} {
		id, key := w.key(everyPermission, manyRequests, `"resources": `+tt.resources)
		method := "POST"
		if strings.HasSuffix(tt.path, "/update") {
			method = "PATCH"
		}
		out := saidOf(w.ask(method, tt.path, key, strings.ReplaceAll(tt.body, "N", "2")))
		missing := saidOf(w.ask(method, tt.path, key, strings.ReplaceAll(tt.body, "N", "999999")))
		if strings.ReplaceAll(missing, "999999", "2") != out || !strings.HasPrefix(out, "404") {
			t.Errorf("%s: %s %s: what exists for others is answered with\n%s\nand a missing one with\n%s", tt.resources, tt.path, tt.body, out, missing)
		}
		for name, limit := range w.operate(200, "GET", "/admin/v1/keys/"+id+"/usage", "")["usage"].(map[string]any) {
			if strings.Contains(name, "per_day") && limit.(map[string]any)["used"] != 0.0 {
				t.Errorf("%s: %s was charged: %v", tt.path, name, limit)
			}
		}
	}
}

// TestScope_Stored checks that keys store nothing that would not exist for them.
func TestScope_Stored(t *testing.T) {
	w := newTwins(t)
	const event = `{"title": "T", "start_time": "2026-03-02T09:00:00Z", "end_time": "2026-03-02T10:00:00Z"`
	for _, tt := range []struct {
		resources, method, path, body string
		want                          int
	}{
		{`{"contacts": [1]}`, "POST", "/api/v1/contacts/create", `{"first_name": "X"}`, 403},
		{`{"teams": [1]}`, "POST", "/api/v1/contacts/create", `{"first_name": "X"}`, 403},
		{`{"teams": [1]}`, "POST", "/api/v1/contacts/create", `{"first_name": "X", "team_id": 1}`, 201},
		{`{"agents": [1]}`, "POST", "/api/v1/contacts/create", `{"first_name": "X"}`, 201},
		{`{"teams": [1]}`, "PATCH", "/api/v1/contacts/3/update", `{"team_id": null}`, 403},
		{`{"teams": [1]}`, "PUT", "/api/v1/contacts/3/update", `{"first_name": "X"}`, 403},
		{`{"contacts": [1]}`, "PUT", "/api/v1/contacts/1/update", `{"first_name": "Mara"}`, 200},
		{`{"contacts": [1]}`, "POST", "/api/v1/contacts/1/context", `{"variables": {"plan": "x"}, "auto_create_variables": true}`, 200},
		{`{"contacts": [1]}`, "POST", "/api/v1/calls", `{"phone_number": "+4930555099", "agent_id": 1}`, 403},
		{`{"contacts": [1]}`, "POST", "/api/v1/calls", `{"phone_number": "+4930555099", "agent_id": 2, "contact_id": 1}`, 201},
		{`{"agents": [1]}`, "POST", "/api/v1/calls", `{"phone_number": "+4930555099", "agent_id": 1}`, 201},
		{`{"agents": [1]}`, "POST", eventsPath + "/create", event + `}`, 403},
		{`{"agents": [1]}`, "POST", eventsPath + "/create", event + `, "ai_agent_id": 1}`, 201},
		{`{"contacts": [1]}`, "POST", eventsPath + "/create", event + `, "ai_agent_id": 1}`, 403},
		{`{"teams": [1]}`, "POST", eventsPath + "/create", event + `, "ai_agent_id": 3}`, 403},
		{`{"teams": [1]}`, "POST", eventsPath + "/create", event + `, "team_id": 1}`, 201},
		{`{"agents": [1]}`, "PUT", eventsPath + "/1/update", event + `}`, 403},
		{`{"agents": [1]}`, "PATCH", eventsPath + "/1/update", `{"ai_agent_id": null}`, 403},
		{`{"agents": [1]}`, "PATCH", eventsPath + "/1/update", `{"title": "Y"}`, 200},
		{`{"agents": [1]}`, "POST", eventsPath + "/1/cancel", `{}`, 200},
	} {
		_, key := w.key(everyPermission, manyRequests, `"resources": `+tt.resources)
		before := w.records()
		answer := w.ask(tt.method, tt.path, key, tt.body)
		if answer.Code != tt.want || tt.want == 403 && (code(answer) != "permission_denied" || !strings.Contains(answer.Body.String(), "limited to")) {
			t.Errorf("%s: %s %s %s: got %d %s, want %d", tt.resources, tt.method, tt.path, tt.body, answer.Code, answer.Body, tt.want)
		}
		if tt.want == 403 && w.records() != before {
			t.Errorf("%s: %s %s: something was stored", tt.resources, tt.method, tt.path)
		}
	}
	// Who must not be called is not called with a key for which that contact does not exist.
	w.operate(200, "PATCH", "/admin/v1/contacts/2", `{"phone_numbers": [{"phone_number": "+4930555666", "do_not_call": true}]}`)
	_, key := w.key(everyPermission, `"resources": {"contacts": [1]}`)
	if answer := w.ask("POST", "/api/v1/calls", key, `{"phone_number": "+4930555666", "agent_id": 1, "contact_id": 1}`); code(answer) != "do_not_call" {
		t.Errorf("got %d %s", answer.Code, answer.Body)
	}
}

// records returns all records that a limited key could store.
func (w *twins) records() (text string) {
	for _, kind := range []string{"calls", "contacts", "events", "webhooks"} {
		text += w.control("GET", "/admin/v1/"+kind+"?limit=1000", "").Body.String()
	}
	return text
}

// TestScope_Availability checks that events which do not exist for a key take no time away.
func TestScope_Availability(t *testing.T) {
	w := newTwins(t)
	slots := func(resources string) float64 {
		_, key := w.key(everyPermission, `"resources": `+resources)
		return object(t, w.ask("GET", "/api/v1/calendar/availability?start_date=2026-02-04&end_date=2026-02-04", key, "").Body.String())["count"].(float64)
	}
	if all, one, none := slots("null"), slots(`{"agents": [1]}`), slots(`{"contacts": [1]}`); all != none-4 || one != none-1 {
		t.Errorf("got %v slots with four events, %v with one, %v without", all, one, none)
	}
}

// TestScope_Replay repeats a request after its key was limited.
func TestScope_Replay(t *testing.T) {
	w := newTwins(t)
	id, key := w.key(everyPermission)
	const body = `{"phone_number": "+4930555099", "agent_id": 2, "contact_id": 2}`
	if got := w.retry(key, "one", body); got.Code != 201 {
		t.Fatalf("got %d %s", got.Code, got.Body)
	}
	for _, tt := range []struct {
		resources string
		want      int
		code      string
	}{
		{`{"agents": [1]}`, 404, "agent_not_found"}, {`{"contacts": [1]}`, 404, "not_found"}, {`{"agents": [2], "contacts": [2]}`, 201, ""}, {`null`, 201, ""},
	} {
		w.operate(200, "PATCH", "/admin/v1/keys/"+id, `{"resources": `+tt.resources+`}`)
		got := w.retry(key, "one", body)
		if got.Code != tt.want || tt.code != "" && code(got) != tt.code || (got.Header().Get("Idempotency-Replayed") == "true") != (tt.want == 201) {
			t.Errorf("%s: got %d %s %v, want %d", tt.resources, got.Code, got.Body, got.Header(), tt.want)
		}
	}
	w.operate(200, "PATCH", "/admin/v1/keys/"+id, `{"resources": {"agents": [2]}}`)
	event := func() int {
		r := httptest.NewRequest("POST", eventsPath+"/create", strings.NewReader(`{"title": "T", "start_time": "2026-03-02T09:00:00Z", "end_time": "2026-03-02T10:00:00Z", "ai_agent_id": 2}`))
		r.Header.Set("X-API-Key", key)
		r.Header.Set("Idempotency-Key", "two")
		answer := httptest.NewRecorder()
		w.api.ServeHTTP(answer, r)
		return answer.Code
	}
	if first := event(); first != 201 {
		t.Fatalf("got %d", first)
	}
	w.operate(200, "PATCH", "/admin/v1/keys/"+id, `{"resources": {"agents": [1]}}`)
	if again := event(); again != 404 {
		t.Errorf("an event: got %d, want 404", again)
	}
}

// TestScope_Webhooks checks which webhooks exist for limited keys, and which events their own get.
func TestScope_Webhooks(t *testing.T) {
	w := newTwins(t)
	receivers := []*receiver{}
	hook := func(key string) (id string) {
		v := newReceiver(t)
		receivers = append(receivers, v)
		answer := w.ask("POST", "/api/webhooks/create", key, `{"name": "n", "url": "`+v.URL+`", "subscribed_events": ["call.ended", "calendar.cancelled"]}`)
		if answer.Code != 201 {
			t.Fatalf("got %d %s", answer.Code, answer.Body)
		}
		return number(object(t, answer.Body.String())["id"])
	}
	var keys, hooks []string
	for _, tt := range limitedKeys {
		id, key := w.key(everyPermission, manyRequests, `"resources": `+tt.resources)
		keys, hooks = append(keys, id), append(hooks, hook(key))
		list := object(t, w.ask("GET", "/api/webhooks", key, "").Body.String())
		if tt.resources != "null" && (list["count"] != 1.0 || number(list["webhooks"].([]any)[0].(map[string]any)["id"]) != hooks[len(hooks)-1]) {
			t.Errorf("%s: got the webhooks %v", tt.resources, list)
		}
	}
	// finish ends all calls and cancels all events.
	finish := func() {
		for id := range w.calls {
			if !strings.HasPrefix(id, "call_") {
				w.operate(200, "PATCH", "/admin/v1/calls/"+id, `{"status": "completed"}`)
			}
		}
		for id := range w.events {
			w.operate(200, "POST", "/admin/v1/events/"+id+"/cancel", "")
		}
		w.send()
	}
	// about returns what a receiver got events about, and the contacts in them.
	about := func(v *receiver) (names, contacts []string) {
		for _, r := range v.all() {
			body := object(t, r.body)
			if event, ok := body["calendar_event"].(map[string]any); ok {
				names = append(names, w.events[number(event["id"])])
			}
			if call, ok := body["call"].(map[string]any); ok {
				names = append(names, w.calls[number(call["id"])])
				if contact, ok := call["contact"].(map[string]any); ok {
					contacts = append(contacts, number(contact["id"]))
				}
			}
		}
		slices.Sort(names)
		return names, contacts
	}
	finish()
	for i, tt := range limitedKeys {
		want := strings.Fields(tt.calls + " " + tt.events)
		slices.Sort(want)
		names, contacts := about(receivers[i])
		if !slices.Equal(names, want) {
			t.Errorf("%s: got events about %v, want %v", tt.resources, names, want)
		}
		for _, contact := range contacts {
			if !slices.Contains(strings.Fields(tt.contacts), contact) {
				t.Errorf("%s: an event has the contact %s", tt.resources, contact)
			}
		}
	}
	// A change of the key changes its webhooks.
	last := len(hooks) - 1
	w.operate(200, "PATCH", "/admin/v1/keys/"+keys[0], `{"resources": null}`)
	w.operate(200, "PATCH", "/admin/v1/keys/"+keys[last], `{"resources": {"agents": [2]}}`)
	if one, two := w.operate(200, "GET", "/admin/v1/webhooks/"+hooks[0], ""), w.operate(200, "GET", "/admin/v1/webhooks/"+hooks[last], ""); one["resources"] != nil || fmt.Sprint(two["resources"]) != "map[agents:[2]]" {
		t.Errorf("got %v and %v", one["resources"], two["resources"])
	}
	before := [2]int{len(receivers[0].all()), len(receivers[last].all())}
	w.call(w.free, "a1")
	w.call(w.free, "a2")
	finish()
	if one, two := len(receivers[0].all())-before[0], len(receivers[last].all())-before[1]; one != 2 || two != 1 {
		t.Errorf("after the change: got %d and %d events, want 2 and 1", one, two)
	}
}

// TestScope_EveryRoute wants each route for keys to be in one of the tests of this file, and in TestServer_OthersAreMissing
// if its path has the id of an object.
func TestScope_EveryRoute(t *testing.T) {
	a := newTestApp(t)
	known := map[string]string{
		"GET /api/v1/agents": "Lists", "GET /api/v1/calls": "Lists", "GET /api/v1/contacts": "Lists", "GET /api/v1/calendar/events": "Lists",
		"GET /api/v1/calendar/availability": "Availability", "POST /api/v1/calls": "Refers", "POST /api/v1/contacts/create": "Stored", "POST /api/v1/calendar/events/create": "Refers",
		"GET /api/webhooks": "Webhooks", "POST /api/webhooks/create": "Webhooks",
		// These are about the owner or about keys, and know no agent, contact or team.
		"POST /api/v1/business/context": "", "GET /api/v1/context-variables": "", "POST /api/v1/context-variables/create": "", "PUT /api/v1/context-variables/:variable_id/update": "",
		"PATCH /api/v1/context-variables/:variable_id/update": "", "DELETE /api/v1/context-variables/:variable_id/delete": "", "POST /api/v1/verify": "", "POST /api/v1/introspect": "",
	}
	for _, row := range a.Server.o.Keyed {
		_, listed := known[row.Method+" "+row.Path]
		if id := strings.Contains(row.Path, "/:"); strings.HasPrefix(row.Path, "/api/") && listed == (row.Object != nil) || row.Object != nil && !id {
			t.Errorf("%s %s: say in this test what a limited key gets; a route with the id of an object has Route.Object", row.Method, row.Path)
		}
	}
}

// TestScope_OnlyKeys checks that no handler asks for the scope of the owner of a key, which would forget what the key
// is limited to.
func TestScope_OnlyKeys(t *testing.T) {
	names, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		found += strings.Count(string(text), "ScopeOfKey(")
		for _, wrong := range []string{"ScopeOf(tx, r.Key.Owner)", "Scope{Owner: r.Key"} {
			if strings.Contains(string(text), wrong) {
				t.Errorf("%s: %s instead of ScopeOfKey", name, wrong)
			}
		}
	}
	if found < 8 {
		t.Errorf("found %d uses of ScopeOfKey", found)
	}
}

// TestCheckTeam puts records into teams: into none and into one of its owner's, and not into another's.
func TestCheckTeam(t *testing.T) {
	a := newTestApp(t)
	a.operate(201, "POST", "/admin/v1/teams", `{"name": "Reception", "members": ["ann"]}`)
	a.operate(201, "POST", "/admin/v1/teams", `{"name": "Others", "members": ["eve"]}`)
	check := func(s Scope, id uint64) (err error) {
		_ = a.Store.View(func(tx *Tx) error { err = CheckTeam(tx, s, id); return nil })
		return err
	}
	limited := Scope{Teams: []uint64{1, 2}, only: &Resources{Teams: []uint64{2}}}
	for _, tt := range []struct {
		name string
		s    Scope
		team uint64
		want error
	}{
		{"none", Scope{Teams: []uint64{1}}, 0, nil}, {"own", Scope{Teams: []uint64{1}}, 1, nil}, {"another's", Scope{Teams: []uint64{1}}, 2, ErrTeamAccess},
		{"an owner without teams", Scope{}, 1, ErrTeamAccess}, {"no such team", Scope{Teams: []uint64{1, 3}}, 3, ErrTeamNotFound},
		{"left out", limited, 1, ErrTeamNotFound}, {"left in", limited, 2, nil},
	} {
		if err := check(tt.s, tt.team); !errors.Is(err, tt.want) || err != nil && tt.want == nil {
			t.Errorf("%s: got %v, want %v", tt.name, err, tt.want)
		}
	}
	damageRecords(t, a.Store, "teams")
	for _, team := range []uint64{1, 2} {
		if err := check(Scope{Teams: []uint64{1}}, team); err == nil || errors.Is(err, ErrTeamAccess) || errors.Is(err, ErrTeamNotFound) {
			t.Errorf("a damaged team: got %v", err)
		}
	}
}
