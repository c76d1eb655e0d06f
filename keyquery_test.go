package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

// names gives the names of the keys on a page of the list.
func (a *testApp) names(query string) string {
	a.t.Helper()
	var names []string
	for _, row := range a.operate(200, "GET", "/admin/v1/keys?"+query, "")["keys"].([]any) {
		names = append(names, row.(map[string]any)["name"].(string))
	}
	return strings.Join(names, " ")
}

func TestKeyQuery(t *testing.T) {
	a := newTestApp(t)
	make := func(name, more string) (id, key string) {
		a.clocks.Pass(time.Second)
		v := a.operate(201, "POST", "/admin/v1/keys", `{"name": "`+name+`", "permissions": ["can_read_agents"]`+more+`}`)
		return v["id"].(string), v["key"].(string)
	}
	_, old := make("Beta", `, "expires_at": "2027-01-01T00:00:00Z", "metadata": {"note": "in the vault"}`)
	_, used := make("alpha", `, "environment": "live", "expires_at": "2026-12-01T00:00:00Z"`)
	gone, _ := make("gamma", `, "owner": "ann"`)
	a.ask("GET", "/api/v1/agents", old, "")
	a.clocks.Pass(31 * 24 * time.Hour)
	a.ask("GET", "/api/v1/agents", used, "")
	make("delta", "")
	a.operate(200, "POST", "/admin/v1/keys/"+gone+"/revoke", "")
	for query, want := range map[string]string{
		"": "delta gamma alpha Beta", "order=asc": "Beta alpha gamma delta", "sort=created": "delta gamma alpha Beta", "status=live": "delta alpha Beta",
		"sort=name": "alpha Beta delta gamma", "sort=name&order=desc": "gamma delta Beta alpha", "sort=name&limit=1&page=2": "Beta", "sort=name&page=9": "",
		"sort=last_used": "alpha Beta delta gamma", "sort=last_used&order=asc": "delta gamma Beta alpha",
		"sort=expires": "alpha Beta delta gamma", "sort=expires&order=desc": "delta gamma Beta alpha",
		"unused_days=30": "gamma Beta", "unused_days=32": "", "permission=can_read_agents&status=active": "delta alpha Beta", "permission=can_read_calls": "",
		"search=VAULT": "Beta", "owner=ann": "gamma", "environment=live": "alpha",
	} {
		if got := a.names(query); got != want {
			t.Errorf("%q: got %q, want %q", query, got, want)
		}
	}
	for query, says := range map[string]string{
		"status=gone": "status must be", "sort=size": "sort must be", "order=up": "order must be", "unused_days=0": "unused_days must be", "permission=can_fly": "can_fly",
	} {
		if w := a.control("GET", "/admin/v1/keys?"+query, ""); w.Code != 400 || !strings.Contains(w.Body.String(), says) {
			t.Errorf("%q: got %d %s, want %q", query, w.Code, w.Body, says)
		}
	}
}

// importMany gives an import of so many keys.
func importMany(t testing.TB, n int) string {
	t.Helper()
	rows := []map[string]any{}
	for i := range n {
		rows = append(rows, map[string]any{"name": fmt.Sprintf("many %05d", n-i), "permissions": []string{"can_read_calls"}, "sha256": fmt.Sprintf("%x", DigestOf(fmt.Sprint("m", i)))})
	}
	data, err := json.Marshal(rows)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// TestKeyQuery_Many sorts and filters 10,000 keys; -v says how long it takes.
func TestKeyQuery_Many(t *testing.T) {
	b := newDashboard(t)
	b.operate(201, "POST", "/admin/v1/keys/import", importMany(t, 10_000))
	for _, query := range []string{"", "sort=name", "sort=last_used", "sort=expires&order=desc", "search=many+00001&status=live", "unused_days=30"} {
		began := time.Now()
		v := b.operate(200, "GET", "/admin/v1/keys?"+query, "")
		t.Logf("%q: %v keys in %s", query, v["count"], time.Since(began))
	}
	if got := b.names("sort=name&limit=2"); got != "many 00001 many 00002" {
		t.Errorf("got %q", got)
	}
	began := time.Now()
	if page := b.get("/keys?sort=name&page=400").Body.String(); !strings.Contains(page, "many 10000") || !strings.Contains(page, "Page 400 of 400") || !strings.Contains(page, `aria-sort="ascending"`) {
		t.Errorf("got %s", page)
	}
	t.Logf("a page of the dashboard in %s", time.Since(began))
}
