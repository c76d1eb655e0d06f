package main

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"latchkey/cli"
)

// A service with contract.enabled = false serves no endpoint and no page of the Klen AI API, lists no
// permission and no limit of it, and works otherwise.
func TestContract_Disabled(t *testing.T) {
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	defer upstream.Close()
	whole := newTestApp(t)
	b := newDashboard(t, func(c *Config) {
		c.Contract.Enabled = false
		c.Permissions = []permissionRow{{Name: "can_use"}}
		c.Routes = []RouteRow{{Path: "/*rest", Permission: []string{"can_use"}, Upstream: upstream.URL, Timeout: time.Minute}}
	})
	gone := 0
	o := whole.Server.o
	for _, row := range slices.Concat(o.Keyed, o.Open, o.Admin) {
		kept := func(r Route) bool { return r.Method == row.Method && r.Path == row.Path }
		if slices.ContainsFunc(slices.Concat(b.Server.o.Keyed, b.Server.o.Free, b.Server.o.Open, b.Server.o.Admin), kept) {
			continue
		}
		gone++
		if strings.HasPrefix(row.Path, "/admin/") {
			if w := askDoor(b.local, row.Method, fill(row.Path, "1"), ""); w.Code != 404 || !strings.Contains(w.Body.String(), "No such endpoint") {
				t.Errorf("%s %s: got %d %s, want 404", row.Method, row.Path, w.Code, w.Body)
			}
		}
		if slices.ContainsFunc([]string{"/keys", "/webhooks", "/tokens", "/operators", "/owners", "/audit", "/status", "/usage"}, func(kind string) bool { return strings.HasPrefix(row.Path, "/admin/v1"+kind) }) {
			t.Errorf("%s %s is gone", row.Method, row.Path)
		}
	}
	if gone < 60 {
		t.Errorf("only %d endpoints are gone", gone)
	}
	id, key := b.key(`["can_use", "can_verify_keys"]`)
	for path, want := range map[string]int{"/api/v1/key": 200, "/api/v1/calls": 204, "/anything": 204} { // the catch-all route has what is free now
		if w := askDoor(b.api, "GET", path, "", "X-API-Key: "+key); w.Code != want {
			t.Errorf("%s: got %d %s, want %d", path, w.Code, w.Body, want)
		}
	}
	listed := b.operate(200, "GET", "/admin/v1/permissions", "")
	if names := memberTexts(listed["permissions"], "name"); !slices.Equal(names, []string{"can_verify_keys", "can_use"}) || len(listed["presets"].([]any)) > 0 {
		t.Errorf("got the permissions %q and presets %v", names, listed["presets"])
	}
	if names := memberTexts(b.operate(200, "GET", "/admin/v1/limits", "")["limits"], "name"); slices.Contains(names, CallsPerDay) || slices.Contains(names, OwnerEventsPerDay) || !slices.Contains(names, RequestsPerMinute) {
		t.Errorf("got the limits %q", names)
	}
	b.operate(400, "POST", "/admin/v1/keys", `{"name": "x", "permissions": ["can_read_calls"]}`)
	b.operate(200, "GET", "/admin/v1/keys/"+id, "")
	var doc struct{ Paths map[string]map[string]any }
	if err := json.Unmarshal(askDoor(b.api, "GET", "/openapi.json", "").Body.Bytes(), &doc); err != nil {
		t.Fatal(err)
	}
	if doc.Paths["/api/v1/calls"] != nil || doc.Paths["/admin/v1/contacts"] != nil || doc.Paths["/api/v1/key"]["get"] == nil || doc.Paths["/admin/v1/keys"]["post"] == nil {
		t.Errorf("openapi.json describes %d paths, among them those that are gone", len(doc.Paths))
	}
	page := b.get("/keys").Body.String()
	for _, link := range []string{"/calls", "/contacts", "/agents", "/calendar", "/teams"} {
		if strings.Contains(page, `href="`+link+`"`) || b.get(link).Code != 404 {
			t.Errorf("the dashboard leads to %s", link)
		}
	}
	on := newDashboard(t)
	onID, _ := on.key(`["can_read_calls"]`)
	for _, tt := range []struct{ path, onPath, words string }{ // what belongs to the contract on pages that stay
		{"/keys/new", "/keys/new", `name="objects"|objects, owner|Tick:|calls nobody`},
		{"/keys/" + id + "/access", "/keys/" + onID + "/access", "<dt>Objects</dt>|/api/v1/calls"},
		{"/find", "/find", "Key, owner, contact"},
		{"/docs", "/docs", `href="/docs/dialer"|href="/docs/contract"`},
		{"/tokens/new", "/tokens/new", "claims calls"},
		{"/owners", "/owners", "Balance|Price of a minute"},
		{"/owners/1", "/owners/1", "Balance|Price of a minute"},
		{"/owners/new", "/owners/new", `name="balance"|name="rate"`},
	} {
		off, whole := b.get(tt.path), on.get(tt.onPath)
		if off.Code != 200 || whole.Code != 200 {
			t.Fatalf("%s: got %d and %d", tt.path, off.Code, whole.Code)
		}
		for word := range strings.SplitSeq(tt.words, "|") {
			if strings.Contains(off.Body.String(), word) || !strings.Contains(whole.Body.String(), word) {
				t.Errorf("%s: %q is there without the contract, or is not with it", tt.path, word)
			}
		}
		if strings.Contains(off.Body.String(), "KLEN") {
			t.Errorf("%s says KLEN", tt.path)
		}
	}
	if !strings.Contains(page, `href="/webhooks"`) || strings.Contains(b.get("/webhooks/new").Body.String(), "call.ended") {
		t.Error("the pages of webhooks are missing or offer events of calls")
	}
}

// A path that nobody serves is answered in the terms of what is served: of guarded routes alone, of the
// contract, or of operators. keys explain names the request and where the routes are listed.
func TestContract_UnknownPath(t *testing.T) {
	upstream := httptest.NewServer(http.NotFoundHandler())
	defer upstream.Close()
	for _, contract := range []bool{true, false} {
		a := newTestApp(t, func(c *Config) {
			c.Contract.Enabled = contract
			c.Permissions = []permissionRow{{Name: "can_use"}}
			c.Routes = []RouteRow{{Path: "/reports/:id", Methods: []string{"GET"}, Permission: []string{"can_use"}, Upstream: upstream.URL, Timeout: time.Minute}}
		})
		id, key := a.key(`["can_use"]`)
		want := "No [[route]] of the configuration matches GET /report/today, so the request is refused."
		if contract {
			want = "No such endpoint: GET /report/today. Check the path. Those of the Klen AI API begin with /api/v1, see /reference."
		}
		if w := a.ask("GET", "/report/today", key, ""); w.Code != 404 || !strings.Contains(w.Body.String(), want) {
			t.Errorf("contract %v: got %d %s, want %s", contract, w.Code, w.Body, want)
		}
		if w := a.ask("GET", "/admin/v1/keys", key, ""); w.Code != 404 || !strings.Contains(w.Body.String(), "No such endpoint: GET /admin/v1/keys. The admin endpoint is on another port, see the setting admin.listen.") {
			t.Errorf("contract %v: got %d %s for an admin path at the API listener", contract, w.Code, w.Body)
		}
		if w := askDoor(a.local, "GET", "/report/today", ""); w.Code != 404 || !strings.Contains(w.Body.String(), "No such endpoint: GET /report/today. Check the path. Those for operators begin with /admin/v1.") {
			t.Errorf("contract %v: got %d %s at the admin listener", contract, w.Code, w.Body)
		}
		for _, tt := range []struct{ method, path, want string }{
			{"GET", "/report/today", "No endpoint and no [[route]] matches GET /report/today. List them with: latchkey routes"},
			{"POST", "/reports/7", "The path /reports/7 does not accept the method POST. It accepts GET."},
			{"POST", "/api/v1/key", "/api/v1/key does not accept POST. It accepts DELETE, GET. POST is accepted at /api/v1/key/revoke."},
		} {
			body, _ := json.Marshal(map[string]string{"method": tt.method, "path": tt.path})
			if got := a.operate(200, "POST", "/admin/v1/keys/"+id+"/explain", string(body)); got["message"] != tt.want {
				t.Errorf("contract %v: explained %s %s as %v, want %s", contract, tt.method, tt.path, got["message"], tt.want)
			}
		}
	}
}

// memberTexts returns a text member of each object in a list.
func memberTexts(list any, member string) (texts []string) {
	rows, _ := list.([]any)
	for _, row := range rows {
		object, _ := row.(map[string]any)
		text, _ := object[member].(string)
		texts = append(texts, text)
	}
	return texts
}

// A key that holds permissions of the contract keeps them while the contract is switched off, also
// when it is changed meanwhile, and the answer lists them apart.
func TestContract_KeyKeepsPermissions(t *testing.T) {
	a := newTestApp(t, func(c *Config) { c.Permissions = []permissionRow{{Name: "can_use"}} })
	id, key := a.key(`["can_read_calls", "can_use"]`, `"limits": {"calls_per_day_limit": 7}`)
	a.config.Contract.Enabled = false
	a.restart()
	names := func(shown map[string]any, member string) string { return strings.Join(anyTexts(shown[member]), " ") }
	shown := a.operate(200, "GET", "/admin/v1/keys/"+id, "")
	if names(shown, "permissions") != "can_use" || names(shown, "dormant_permissions") != "can_read_calls" {
		t.Errorf("got %v and %v; want the permission of the contract apart", shown["permissions"], shown["dormant_permissions"])
	}
	a.operate(200, "PATCH", "/admin/v1/keys/"+id, `{"name": "renamed"}`)
	a.operate(200, "PATCH", "/admin/v1/keys/"+id, `{"permissions": ["can_use", "can_read_calls"]}`)
	a.restart()
	a.config.Contract.Enabled = true
	a.restart()
	shown = a.operate(200, "GET", "/admin/v1/keys/"+id, "")
	limits, _ := shown["limits"].(map[string]any)
	if got := names(shown, "permissions"); got != "can_read_calls can_use" || shown["dormant_permissions"] != nil || limits["calls_per_day_limit"] != 7.0 {
		t.Errorf("got %q, limits %v; want everything as before", got, limits)
	}
	if w := a.ask("GET", "/api/v1/calls", key, ""); w.Code != 200 {
		t.Errorf("the key: got %d %s, want 200", w.Code, w.Body)
	}
}

// anyTexts returns the texts in a list.
func anyTexts(list any) (texts []string) {
	values, _ := list.([]any)
	for _, value := range values {
		text, _ := value.(string)
		texts = append(texts, text)
	}
	return texts
}

// The demo consists of the Klen AI API, so it does not start without it.
func TestContract_Demo(t *testing.T) {
	err := serveOptions{ServeOptions: cli.ServeOptions{Demo: true}}.run(context.Background(), nil)
	if err == nil || !strings.Contains(err.Error(), "contract.enabled is false") {
		t.Errorf("got %v, want an error that names the setting", err)
	}
}

func TestContract_Address(t *testing.T) {
	for enabled, want := range map[bool]string{true: "http://127.0.0.1:8080/api/v1", false: "http://127.0.0.1:8080"} {
		var c Config
		c.Contract.Enabled = enabled
		if got := apiBase(c, "http://127.0.0.1:8080"); got != want {
			t.Errorf("contract.enabled = %v: got %s, want %s", enabled, got, want)
		}
	}
}
