package main

import (
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"
)

// tells wants texts on a page.
func (b *browser) tells(path string, wants ...string) string {
	b.t.Helper()
	w := b.get(path)
	for _, want := range wants {
		if w.Code != 200 || !strings.Contains(w.Body.String(), want) {
			b.t.Errorf("%s: got %d %s, want %q", path, w.Code, w.Body, want)
		}
	}
	return w.Body.String()
}

func TestKeyPages_List(t *testing.T) {
	b := newDashboard(t)
	b.tells("/keys", "No key yet", "curl -i http://127.0.0.1:8080/api/v1/agents")
	id, key := b.key(`["can_read_agents","can_read_calls","can_read_contacts","can_read_calendar"]`, `"limits": {"requests_per_minute_limit": 2}`, `"metadata": {"note": "in <b>"}`)
	b.key(`["can_read_agents"]`, `"expires_at": "2026-02-09T00:00:00Z"`, `"environment": "live"`)
	b.tells("/keys", "Never used", "in &lt;b&gt;", "4 permissions", "Expires soon", "in 5 days", `aria-sort="descending"`, "0 requests in the last 24 hours.")
	for range 3 {
		b.ask("GET", "/api/v1/agents", key, "")
	}
	b.tells("/keys", "Rate-limited", "3 requests, 1 refused in the last 24 hours.", `fill="url(#hatch)"`, "Requests per minute: 2 of 2")
	b.clocks.Pass(6 * time.Minute)
	if page := b.tells("/keys", ">Active<"); strings.Contains(page, "Rate-limited") {
		t.Error("a limit that was reached six minutes ago is told of")
	}
	if page := b.tells("/keys?environment=live&sort=name&order=desc", "1 found", `href="/keys?environment=live&amp;order=asc&amp;sort=name&amp;status=live"`); strings.Contains(page, id) {
		t.Error("the filter lets another key through")
	}
	b.operate(200, "POST", "/admin/v1/keys/"+id+"/pause", "")
	b.tells("/keys?status=paused", "Paused")
	b.operate(200, "POST", "/admin/v1/keys/"+id+"/revoke", "")
	if page := b.tells("/keys"); strings.Contains(page, id) {
		t.Error("a revoked key is not hidden")
	}
	b.tells("/keys?status=", id, "none: it is over")
	b.tells("/keys?status=revoked", id)
	if w := b.get("/keys?sort=size"); w.Code != 400 || !strings.Contains(w.Body.String(), "sort must be") {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
}

// TestKeyPages_Create fills the form by its address, sends it, and sends it again.
func TestKeyPages_Create(t *testing.T) {
	b := newDashboard(t)
	page := b.tells("/keys/new?name=ci&note=GitHub&perm=can_read_calls,can_read_agents&limit.calls_per_day_limit=7&environment=test&expiry=30d&ips=192.0.2.1",
		`value="ci"`, `value="GitHub"`, `value="can_read_agents" data-says="read agents" checked`, `value="7"`, `<option value="30d" selected>`, "Scheduler")
	if n := strings.Count(page, " checked>"); n != 2 {
		t.Errorf("got %d permissions ticked, want 2", n)
	}
	if n := strings.Count(b.tells("/keys/new?preset=scheduler"), " checked>"); n != 3 {
		t.Errorf("got %d permissions ticked, want those of the preset", n)
	}
	nonce := regexp.MustCompile(`name="nonce" value="([0-9a-f]{32})"`).FindStringSubmatch(page)[1]
	form := []string{"nonce", nonce, "name", "ci", "note", "GitHub", "permission", "can_read_calls", "limit.calls_per_day_limit", "7", "limit.requests_per_minute_limit", "", "environment", "test", "expiry", "30d", "ips", "192.0.2.1"}
	if w := b.post("/keys", append(form[:2:2], form[4:]...)...); w.Code != 400 || !strings.Contains(w.Body.String(), nonce) {
		t.Errorf("without a name: got %d %s, want the form again", w.Code, w.Body)
	}
	w := b.post("/keys", form...)
	if w.Code != 201 || !strings.Contains(w.Body.String(), "It is shown only now") || !strings.Contains(w.Body.String(), "http://127.0.0.1:8080/api/v1/key") {
		t.Fatalf("got %d %s", w.Code, w.Body)
	}
	secret := regexp.MustCompile(`klen_[0-9A-Za-z]+`).FindString(w.Body.String())
	again := b.post("/keys", form...)
	if again.Code != 409 || !strings.Contains(again.Body.String(), "cannot be shown again") || strings.Contains(again.Body.String(), secret) {
		t.Errorf("sent again: got %d %s", again.Code, again.Body)
	}
	list := b.operate(200, "GET", "/admin/v1/keys", "")["keys"].([]any)
	key := list[0].(map[string]any)
	if len(list) != 1 || key["expires_at"] != "2026-03-05T09:00:00Z" || key["metadata"].(map[string]any)["note"] != "GitHub" || key["limits"].(map[string]any)["calls_per_day_limit"] != 7.0 {
		t.Errorf("got %v", list)
	}
	for _, tt := range []struct {
		form string
		want any // the end, or with set false a status of 400
		set  bool
	}{
		{"expiry=never", nil, true}, {"expiry=date&expires=2026-12-24", "2026-12-24T23:59:59Z", true}, {"expiry=1y", "2027-02-03T09:00:00Z", true},
		{"expires=2026-12-24T10:00", "2026-12-24T10:00:00Z", true}, {"", nil, false},
	} {
		form, err := url.ParseQuery(tt.form)
		if err != nil {
			t.Fatal(err)
		}
		if end, set, err := KeyExpiry(form, epoch); err != nil || end != tt.want || set != tt.set {
			t.Errorf("%q: got %v %v %v, want %v", tt.form, end, set, err, tt.want)
		}
	}
	for _, bad := range []string{"expiry=date", "expiry=date&expires=soon", "expiry=5d"} {
		form, _ := url.ParseQuery(bad)
		if _, _, err := KeyExpiry(form, epoch); err == nil {
			t.Errorf("%q: got no error", bad)
		}
	}
}

// TestKeyPages_Change edits, rotates, finishes and revokes on the pages.
func TestKeyPages_Change(t *testing.T) {
	b := newDashboard(t)
	id, key := b.key(`["can_read_agents"]`, `"metadata": {"team": "x"}`, `"limits": {"requests_per_minute_limit": 9}`)
	path := "/keys/" + id
	b.ask("GET", "/api/v1/agents", key, "")
	b.ask("GET", "/api/v1/calls", key, "")
	b.tells(path, "Requests per minute: 2 of 9", "next unit free", "2 requests, 1 refused in the last 7 days.", "<th scope=\"row\">2026-02-03T09:00:00Z</th><td>2</td><td>1</td>",
		`href="/admin/v1/keys/`+id+`/history?step=day&amp;format=csv"`, `name="limit.requests_per_minute_limit" type="number" min="1" max="1000000000" placeholder="60" value="9"`)
	if w := b.get("/admin/v1/keys/" + id + "/history?step=hour&format=csv"); w.Code != 200 || !strings.Contains(w.Body.String(), id+",test,admin,2026-02-03T09:00:00Z,2,1,0,0,1,0,0") {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	form := []string{"name", "renamed", "note", "moved", "permission", "can_read_agents", "limit.requests_per_minute_limit", "", "expires", "2026-12-24", "environment", "live", "ips", "", "query", "no"}
	if w := b.post(path+"/edit", form...); w.Code != 303 {
		t.Fatalf("got %d %s", w.Code, w.Body)
	}
	v := b.operate(200, "GET", "/admin/v1/keys/"+id, "")
	if m := v["metadata"].(map[string]any); m["team"] != "x" || m["note"] != "moved" || v["expires_at"] != "2026-12-24T23:59:59Z" || v["environment"] != "live" || v["query_allowed"] != false || v["limits"].(map[string]any)[RequestsPerMinute] != 60.0 {
		t.Errorf("got %v", v)
	}
	if b.post(path+"/edit", form...); b.operate(200, "GET", "/admin/v1/keys/"+id, "")["expires_at"] != "2026-12-24T23:59:59Z" {
		t.Error("an end that was not changed has moved")
	}
	b.tells(path+"/rotate", "Rotate renamed?", `action="`+path+`/rotate"`)
	if w := b.post(path+"/rotate", "overlap", "3600"); w.Code != 200 || !strings.Contains(w.Body.String(), "It is shown only now") {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	b.tells(path+"/used", `"last_used_at":null`, `"text":"Requests per minute: 2 of 60"`) // of the new secret
	b.tells("/keys/meters?status=active", `"`+id+`":[{`, `"text":"Requests per minute: 2 of 60"`)
	b.tells(path, "Rotation", "Finish early", "in 1 hour", "192.0.2.1", "<b>is still used</b>")
	if w := b.post(path+"/finish", "unused", "3600"); w.Code != 409 || !strings.Contains(w.Body.String(), "Nothing was ended.") {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	if w := b.post(path+"/finish", "unused", "soon"); w.Code != 400 {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	if w := b.ask("GET", "/api/v1/agents", key, ""); w.Code != 200 {
		t.Errorf("the earlier secret: got %d", w.Code)
	}
	if w := b.post(path+"/finish", "unused", "0"); w.Code != 303 {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	if w := b.ask("GET", "/api/v1/agents", key, ""); w.Code != 401 {
		t.Errorf("an ended secret: got %d", w.Code)
	}
	b.tells(path+"/revoke", "Revoke renamed?", "type its name", "3 requests in the last 24 hours, 1 of them refused")
	b.clocks.Pass(25 * time.Hour)
	b.post("/login", "name", "ann", "password", operatorPassword)
	if page := b.tells(path+"/revoke", "0 requests in the last 24 hours"); strings.Contains(page, "type its name") {
		t.Error("the name is asked for though the key is not in use")
	}
	if w := b.post(path + "/revoke"); w.Code != 303 {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	// A second tab that still shows the key as it was.
	for _, stale := range [][]string{{"/pause"}, {"/rotate", "overlap", "0"}, {"/finish"}, append([]string{"/edit"}, form...)} {
		if w := b.post(path+stale[0], stale[1:]...); w.Code != 409 || !strings.Contains(w.Body.String(), "The key was revoked on") {
			t.Errorf("%v: got %d %s", stale, w.Code, w.Body)
		}
	}
	b.tells(path+"?done=revoke", "Revoked", "3 requests")
}

// TestKeyPages_Sent tells how a key is sent, what that calls for, and why its
// requests were refused.
func TestKeyPages_Sent(t *testing.T) {
	b := newDashboard(t)
	id, key := b.key(`["can_read_agents"]`)
	if page := b.tells("/keys/"+id, "None since the server started"); strings.Contains(page, "which proxies") {
		t.Error("advice on addresses for a key that was never in one")
	}
	b.ask("GET", "/api/v1/agents", key, "")
	b.ask("GET", "/api/v1/agents?api_key="+key, "", "")
	b.ask("GET", "/api/v1/calls", key, "")
	page := b.tells("/keys/"+id, "2 times as bearer token, 0 times in X-API-Key, 1 times in the address", "which proxies, browsers and logs write down",
		"refuse it in addresses under Edit", "/api/v1/calls", `<a href="/errors/permission_denied">403 permission_denied</a>`)
	if strings.Contains(page, key) {
		t.Error("the page has the key")
	}
}
