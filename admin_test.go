package main

import (
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"latchkey/internal/keytext"
)

// refuse sends a bad request to the control socket and wants its code and a
// part of its message.
func (a *testApp) refuse(method, path, body string, status int, wantCode, wantText string) {
	a.t.Helper()
	w := httptest.NewRecorder()
	a.local.ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
	if w.Code != status || code(w) != wantCode || !strings.Contains(w.Body.String(), wantText) {
		a.t.Errorf("%s %s %s: got %d %s, want %d %s with %q", method, path, body, w.Code, w.Body, status, wantCode, wantText)
	}
}

func TestAdmin_CreateRefuses(t *testing.T) {
	a := newTestApp(t)
	for _, tt := range []struct{ body, code, text string }{
		{`{"permissions": ["can_read_calls"]}`, "missing_parameter", "name"},
		{`{"name": " ", "permissions": ["can_read_calls"]}`, "missing_parameter", "name"},
		{`{"name": "x"}`, "missing_parameter", "permissions"},
		{`{"name": "x", "permissions": []}`, "validation_error", "at least one"},
		{`{"name": "x", "permissions": ["can_fly"]}`, "validation_error", "can_fly"},
		{`{"name": "x", "permissions": "can_read_calls"}`, "validation_error", "permissions must be an array"},
		{`{"name": 5, "permissions": ["can_read_calls"]}`, "validation_error", "name must be a string"},
		{`{"name": "x", "permissions": ["can_read_calls"], "limits": {"calls": 5}}`, "validation_error", "unknown limit"},
		{`{"name": "x", "permissions": ["can_read_calls"], "limits": {"calls_per_day_limit": 0}}`, "validation_error", "limits.calls_per_day_limit"},
		{`{"name": "x", "permissions": ["can_read_calls"], "limits": {"calls_per_day_limit": 1.5}}`, "validation_error", "limits.calls_per_day_limit"},
		{`{"name": "x", "permissions": ["can_read_calls"], "limits": {"calls_per_day_limit": "9"}}`, "validation_error", "limits.calls_per_day_limit"},
		{`{"name": "x", "permissions": ["can_read_calls"], "allowed_ips": ["10.0.0.0/40"]}`, "validation_error", "allowed_ips[0]"},
		{`{"name": "x", "permissions": ["can_read_calls"], "expires_at": "tomorrow"}`, "validation_error", "expires_at"},
		{`{"name": "x", "permissions": ["can_read_calls"], "expires_at": "2020-01-01T00:00:00Z"}`, "validation_error", "expires_at"},
		{`{"name": "x", "permissions": ["can_read_calls"], "metadata": {"a": 1}}`, "validation_error", "metadata.a"},
		{`not json`, "invalid_json", "JSON"},
	} {
		a.refuse("POST", "/admin/v1/keys", tt.body, 400, tt.code, tt.text)
	}
	if got := a.operate(200, "GET", "/admin/v1/keys", ""); got["count"] != 0.0 {
		t.Errorf("got %v keys, want none stored", got["count"])
	}
	a.refuse("GET", "/admin/v1/keys?status=dead", "", 400, "validation_error", "status")
	a.refuse("GET", "/admin/v1/keys/none", "", 404, "not_found", "")
	a.refuse("POST", "/admin/v1/keys/none/revoke", "", 404, "not_found", "")
	a.refuse("PATCH", "/admin/v1/keys/none", "{}", 404, "not_found", "")
}

func TestAdmin_KeyObject(t *testing.T) {
	a := newTestApp(t)
	id, key := a.key(`["can_read_agents","can_read_calls"]`, `"owner": "ann"`, `"environment": "live"`, `"metadata": {"where": "vm"}`,
		`"allowed_ips": ["192.0.2.1", "2001:db8::/32", "192.0.2.77/24"]`, `"expires_at": "2027-01-01T00:00:00Z"`, `"limits": {"calls_per_day_limit": 7}`)
	r := httptest.NewRequest("GET", "/api/v1/agents", nil)
	r.Header.Set("X-API-Key", key)
	r.RemoteAddr = "192.0.2.9:1234"
	w := httptest.NewRecorder()
	if a.api.ServeHTTP(w, r); w.Code != 200 {
		t.Fatalf("got %d %s", w.Code, w.Body)
	}
	got := a.operate(200, "GET", "/admin/v1/keys/"+id, "")
	if hint := got["hint"].(string); hint != "klen_..."+key[len(key)-4:] {
		t.Errorf("got hint %q", hint)
	}
	delete(got, "hint")
	delete(got, "id")
	encoded, _ := json.Marshal(got)
	text := strings.Replace(string(encoded), "klen_..."+key[len(key)-4:], "HINT", 1)
	want := `{"allowed_ips":["192.0.2.1/32","2001:db8::/32","192.0.2.0/24"],"carriers":{"bearer":0,"header":1,"query":0},"created_at":"2026-02-03T09:00:00Z","environment":"live","expires_at":"2027-01-01T00:00:00Z",` +
		`"last_used_at":"2026-02-03T09:00:00Z","last_used_by":"header","last_used_ip":"192.0.2.9",` +
		`"limits":{"calendar_events_per_day_limit":50,"calls_per_day_limit":7,"concurrent_requests":64,"concurrent_streams":1000,"requests_per_minute_limit":60},"metadata":{"where":"vm"},"name":"test","owner":"ann",` +
		`"permissions":["can_read_calls","can_read_agents"],"query_allowed":null,"query_last_at":null,"query_last_ip":null,"ref":null,"resources":null,"revoked_at":null,"rotated_at":null,"sandbox":false,` +
		`"secrets":[{"ends_at":null,"hint":"HINT","last_used_at":"2026-02-03T09:00:00Z","last_used_by":"header","last_used_ip":"192.0.2.9","present":true}],"status":"active",` +
		`"usage":{"calendar_events_per_day_limit":{"kind":"window","limit":50,"observe":false,"remaining":50,"resets_at":null,"scope":"key","used":0,"window_seconds":86400},` +
		`"calls_per_day_limit":{"kind":"window","limit":7,"observe":false,"remaining":7,"resets_at":null,"scope":"key","used":0,"window_seconds":86400},` +
		`"concurrent_requests":{"kind":"concurrent","limit":64,"observe":false,"remaining":64,"resets_at":null,"scope":"key","used":0,"window_seconds":0},` +
		`"concurrent_streams":{"kind":"concurrent","limit":1000,"observe":false,"remaining":1000,"resets_at":null,"scope":"key","used":0,"window_seconds":0},` +
		`"requests_per_minute_limit":{"kind":"window","limit":60,"observe":false,"remaining":59,"resets_at":"2026-02-03T09:01:00Z","scope":"key","used":1,"window_seconds":60}},"webhooks":[]}`
	if text != want {
		t.Errorf("got  %s\nwant %s", text, want)
	}
	a.restart()
	if again := a.operate(200, "GET", "/admin/v1/keys/"+id, ""); again["last_used_ip"] != "192.0.2.9" {
		t.Errorf("after a restart: got last_used_ip %v", again["last_used_ip"])
	}
}

func TestAdmin_Update(t *testing.T) {
	a := newTestApp(t)
	id, key := a.key(`["can_read_agents"]`)
	status := func() int { return a.ask("GET", "/api/v1/agents", key, "").Code }
	for _, step := range []struct {
		method, path, body string
		want               int
	}{
		{"GET", "", "", 200},
		{"POST", "/pause", "", 401},
		{"POST", "/resume", "", 200},
		{"PATCH", "", `{"permissions": ["can_read_calls"]}`, 403},
		{"PATCH", "", `{"permissions": ["can_read_agents"]}`, 200},
		{"PATCH", "", `{"allowed_ips": ["10.9.9.9"]}`, 403},
		{"PATCH", "", `{"allowed_ips": []}`, 200},
		{"PATCH", "", `{"limits": {"requests_per_minute_limit": 1}}`, 429},
		{"PATCH", "", `{"limits": {"requests_per_minute_limit": null}}`, 200},
		{"PATCH", "", `{"expires_at": "2026-02-03T09:00:01Z"}`, 200},
		{"PATCH", "", `{"name": "renamed"}`, 200},
	} {
		a.operate(200, step.method, "/admin/v1/keys/"+id+step.path, step.body)
		if got := status(); got != step.want {
			t.Errorf("after %s %s %s: got %d, want %d", step.method, step.path, step.body, got, step.want)
		}
	}
	a.clocks.Pass(time.Second)
	if got := status(); got != 401 {
		t.Errorf("at its end: got %d, want 401", got)
	}
	a.operate(200, "PATCH", "/admin/v1/keys/"+id, `{"expires_at": null}`)
	if got := status(); got != 200 {
		t.Errorf("with its end removed: got %d, want 200", got)
	}
	a.refuse("PATCH", "/admin/v1/keys/"+id, `{"name": ""}`, 400, "missing_parameter", "name")
}

func TestAdmin_List(t *testing.T) {
	a := newTestApp(t)
	var ids []string
	for i := range 30 {
		a.clocks.Pass(time.Second)
		id, _ := a.key(`["can_read_agents"]`, fmt.Sprintf(`"owner": "owner-%d"`, i%3))
		ids = append(ids, id)
	}
	a.operate(200, "POST", "/admin/v1/keys/"+ids[3]+"/revoke", "")
	for _, tt := range []struct {
		query              string
		count, pages, rows float64
		first              string
	}{
		{"", 30, 2, 25, ids[29]}, {"?page=2", 30, 2, 5, ids[4]}, {"?page=3", 30, 2, 0, ""}, {"?limit=7&page=5", 30, 5, 2, ids[1]},
		{"?search=owner-1", 10, 1, 10, ids[28]}, {"?search=OWNER-1&limit=4&page=3", 10, 3, 2, ids[4]}, {"?status=revoked", 1, 1, 1, ids[3]}, {"?status=active&search=owner-0", 9, 1, 9, ids[27]},
	} {
		v := a.operate(200, "GET", "/admin/v1/keys"+tt.query, "")
		rows := v["keys"].([]any)
		first := ""
		if len(rows) > 0 {
			first = rows[0].(map[string]any)["id"].(string)
		}
		if v["count"] != tt.count || v["pages"] != tt.pages || float64(len(rows)) != tt.rows || first != tt.first {
			t.Errorf("%s: got count %v, pages %v, %d rows from %s; want %v, %v, %v from %s", tt.query, v["count"], v["pages"], len(rows), first, tt.count, tt.pages, tt.rows, tt.first)
		}
	}
}

func TestAdmin_Import(t *testing.T) {
	a := newTestApp(t)
	row := func(secret string) string {
		return fmt.Sprintf(`{"name": "old", "sha256": "%x", "permissions": ["can_read_agents"]}`, keytext.DigestOf(secret))
	}
	a.refuse("POST", "/admin/v1/keys/import", "["+row("sk-one")+`, {"name": "x", "permissions": ["can_read_agents"], "sha256": "12"}]`, 400, "validation_error", "row 2: sha256")
	if w := a.ask("GET", "/api/v1/agents", "sk-one", ""); w.Code != 401 {
		t.Errorf("a row of an import that failed: got %d, want 401", w.Code)
	}
	a.operate(201, "POST", "/admin/v1/keys/import", "["+row("sk-one")+","+row("sk-two")+"]")
	a.restart()
	for secret, want := range map[string]int{"sk-one": 200, "sk-two": 200, "sk-three": 401} {
		if w := a.ask("GET", "/api/v1/agents", secret, ""); w.Code != want {
			t.Errorf("%s: got %d, want %d", secret, w.Code, want)
		}
	}
	a.refuse("POST", "/admin/v1/keys/import", `{"keys": [`+row("sk-one")+`]}`, 409, "conflict", "has the same secret as the stored key")
}

// TestKeyring_CacheIsBounded asks for more keys than there is room for, and
// checks that changes reach those in memory and those that are not.
func TestKeyring_CacheIsBounded(t *testing.T) {
	a := newTestApp(t, func(c *Config) { c.Keys.Cache = 64 })
	type pair struct{ id, secret string }
	var keys []pair
	for range 300 {
		id, secret := a.key(`["can_read_agents"]`)
		keys = append(keys, pair{id, secret})
		if w := a.ask("GET", "/api/v1/agents", secret, ""); w.Code != 200 {
			t.Fatalf("got %d", w.Code)
		}
	}
	if got := len(a.Keyring.memory.byID); got > 64 {
		t.Errorf("got %d keys in memory, want no more than 64", got)
	}
	for i, k := range keys {
		if i%3 == 0 {
			a.operate(200, "POST", "/admin/v1/keys/"+k.id+"/revoke", "")
		}
	}
	for i, k := range keys {
		want := 200
		if i%3 == 0 {
			want = 401
		}
		a.Server.throttle = NewThrottle(60, time.Minute)
		if w := a.ask("GET", "/api/v1/agents", k.secret, ""); w.Code != want {
			t.Errorf("key %d: got %d, want %d", i, w.Code, want)
		}
	}
	if err := a.Keyring.Flush(); err != nil {
		t.Error(err)
	}
}

func TestCatalog_Imports(t *testing.T) {
	a := newTestApp(t)
	a.refuse("POST", "/admin/v1/agents/import", `[{"name": "A"}, {"name": ""}]`, 400, "missing_parameter", "row 2: name")
	a.refuse("POST", "/admin/v1/agents/import", `{"agent": []}`, 400, "missing_parameter", "agents is missing")
	if got := a.operate(200, "GET", "/admin/v1/agents", "")["count"]; got != 0.0 {
		t.Errorf("got %v agents after an import that failed, want none", got)
	}
	a.operate(201, "POST", "/admin/v1/agents/import", `[{"name": "A"}, {"name": "B"}]`)
	if got := a.operate(200, "GET", "/admin/v1/agents?search=b", "")["count"]; got != 1.0 {
		t.Errorf("got %v agents named B, want 1", got)
	}
	a.operate(200, "DELETE", "/admin/v1/agents/1", "")
	a.refuse("GET", "/admin/v1/agents/1", "", 404, "not_found", "")
	a.refuse("DELETE", "/admin/v1/agents/1", "", 404, "not_found", "")
	a.refuse("PATCH", "/admin/v1/agents/2", `{"phone_number": "0049"}`, 400, "validation_error", "phone_number")
	a.refuse("POST", "/admin/v1/agents", `{"name": "C", "team_id": 9}`, 404, "team_not_found", "9")
	a.refuse("POST", "/admin/v1/agents", `{"name": "C", "role": "spy"}`, 400, "validation_error", "inbound agent, outbound agent")
}

func TestAgents_Scope(t *testing.T) {
	a := newTestApp(t)
	a.operate(201, "POST", "/admin/v1/teams", `{"name": "Both", "members": ["ann", "bob"]}`)
	a.operate(201, "POST", "/admin/v1/agents", `{"name": "Ann's", "owner": "ann", "phone_number": "+4930555001"}`)
	a.operate(201, "POST", "/admin/v1/agents", `{"name": "Shared", "owner": "ann", "team_id": 1}`)
	a.operate(201, "POST", "/admin/v1/agents", `{"name": "Bob's", "owner": "bob"}`)
	a.refuse("POST", "/admin/v1/agents", `{"name": "x", "owner": "eve", "team_id": 1}`, 403, "team_access_denied", "")
	list := func(key string) string {
		var v struct{ Agents []map[string]any }
		w := a.ask("GET", "/api/v1/agents", key, "")
		if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil || v.Agents == nil {
			t.Fatalf("got %d %s", w.Code, w.Body)
		}
		names := ""
		for _, agent := range v.Agents {
			names += agent["name"].(string) + ";"
		}
		return names
	}
	_, ann := a.key(`["can_read_agents"]`, `"owner": "ann"`)
	_, bob := a.key(`["can_read_agents"]`, `"owner": "bob"`)
	_, eve := a.key(`["can_read_agents"]`, `"owner": "eve"`)
	for range 2 { // the second time from memory
		for _, tt := range []struct{ key, want string }{{ann, "Ann's;Shared;"}, {bob, "Shared;Bob's;"}, {eve, ""}} {
			if got := list(tt.key); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		}
	}
	a.operate(200, "PATCH", "/admin/v1/teams/1", `{"members": ["ann", "eve"]}`)
	a.operate(200, "PATCH", "/admin/v1/agents/2", `{"name": "Renamed"}`)
	for _, tt := range []struct{ key, want string }{{ann, "Ann's;Renamed;"}, {bob, "Bob's;"}, {eve, "Renamed;"}} {
		if got := list(tt.key); got != tt.want {
			t.Errorf("after the changes: got %q, want %q", got, tt.want)
		}
	}
}

func TestAgents_Shape(t *testing.T) {
	a := newTestApp(t)
	a.operate(201, "POST", "/admin/v1/agents", `{"name": "Front desk"}`)
	_, key := a.key(`["can_read_agents"]`)
	body := a.ask("GET", "/api/v1/agents", key, "").Body.String()
	i := strings.Index(body, "assistant_")
	i += strings.Index(body[i+1:], "assistant_") + 1
	got := strings.Replace(body, body[i:i+26], "ID", 1)
	want := `{"agents":[{"id":1,"assistant_id":"ID","name":"Front desk","role":"inbound agent","phone_number":null,"minutes_used":0,"total_calls":0,"model":"","voice_id":"","can_make_calls":false,"team_id":null}]}` + "\n"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestOwners(t *testing.T) {
	a := newTestApp(t)
	a.operate(201, "POST", "/admin/v1/owners", `{"name": "ann", "balance": 2.5, "rate": 0.4}`)
	a.refuse("POST", "/admin/v1/owners", `{"name": "ann"}`, 409, "conflict", "ann")
	a.refuse("PATCH", "/admin/v1/owners/1", `{"name": "bob"}`, 400, "validation_error", "name")
	a.refuse("PATCH", "/admin/v1/owners/1", `{"rate": -1}`, 400, "validation_error", "rate")
	a.refuse("DELETE", "/admin/v1/owners/1", "", 405, "method_not_allowed", "")
	if got := a.operate(200, "PATCH", "/admin/v1/owners/1", `{"balance": null}`); got["balance"] != nil || got["rate"] != 0.4 {
		t.Errorf("got %v, want no wallet and the rate as it was", got)
	}
}
