package main

import (
	"encoding/csv"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestUsage asks by several ways for what came of a few requests.
func TestUsage(t *testing.T) {
	a := newTestApp(t)
	id, key := a.key(`["can_read_agents"]`, `"limits": {"requests_per_minute_limit": 4}`)
	other, _ := a.key(`["can_read_agents"]`)
	for _, path := range []string{"/api/v1/agents", "/api/v1/calls", "/api/v1/agents/", "/api/webhooks/999/logs/", "/api/v1/agents"} {
		a.ask("GET", path, key, "")
	}
	a.ask("GET", "/api/v1/agents", "", "")
	a.ask("GET", "/nothing", "", "")
	a.operate(200, "POST", "/admin/v1/keys/"+id+"/revoke", "")
	a.ask("GET", "/api/v1/agents", key, "")
	want := map[string]any{"requests": 6.0, "ok": 2.0, "client_error": 1.0, "unauthorized": 1.0, "forbidden": 1.0, "rate_limited": 1.0, "server_error": 0.0}
	holds := func(where string, got any, want map[string]any) {
		t.Helper()
		row, _ := got.(map[string]any)
		for name, n := range want {
			if row[name] != n {
				t.Errorf("%s: got %s %v, want %v", where, name, row[name], n)
			}
		}
	}
	for range 2 { // in memory, then stored
		v := a.operate(200, "GET", "/admin/v1/keys/"+id+"/history?step=day", "")
		holds("the key", v["total"], want)
		holds("its day", v["buckets"].([]any)[0], map[string]any{"start": "2026-02-03T00:00:00Z", "requests": 6.0})
		if v["to"] != "2026-02-04T00:00:00Z" || v["name"] != "test" {
			t.Errorf("got %v", v)
		}
		all := a.operate(200, "GET", "/admin/v1/usage", "")
		holds("the service", all["total"], map[string]any{"requests": 8.0, "unauthorized": 2.0, "client_error": 2.0})
		holds("the first route", all["routes"].([]any)[0], map[string]any{"route": "/api/v1/agents", "requests": 5.0})
		holds("the first key", all["keys"].([]any)[0], map[string]any{"id": id, "requests": 6.0})
		if codes := fmt.Sprint(all["errors"]); !strings.Contains(codes, "error:rate_limit_exceeded") || strings.Contains(fmt.Sprint(all["routes"]), "/admin/") || all["count"] != 1.0 {
			t.Errorf("got %v", all)
		}
		some := a.operate(200, "GET", "/admin/v1/usage?last=1&key="+other+"&key="+id, "")["keys"].([]any)
		holds("an unused key", some[0], map[string]any{"id": other, "requests": 0.0})
		holds("a named key", some[1].(map[string]any)["buckets"].([]any)[0], want)
		a.restart()
	}
	a.clocks.Pass(time.Hour)
	if v := a.operate(200, "GET", "/admin/v1/keys/"+id+"/history?last=1", ""); len(v["buckets"].([]any)) != 0 {
		t.Errorf("an hour later: got %v, want nothing in the last hour", v)
	}
	for path, says := range map[string]string{
		"/admin/v1/usage?step=week": "step must be", "/admin/v1/usage?last=0": "last must be", "/admin/v1/usage?last=91&step=day": "1 to 90",
		"/admin/v1/usage?format=xml": "format must be", "/admin/v1/usage?format=csv&by=hue": "by must be", "/admin/v1/keys/" + id + "/history?last=x": "last must be",
	} {
		if w := a.control("GET", path, ""); w.Code != 400 || !strings.Contains(w.Body.String(), says) {
			t.Errorf("%s: got %d %s, want %q", path, w.Code, w.Body, says)
		}
	}
	for _, path := range []string{"/admin/v1/keys/key_none/history", "/admin/v1/usage?key=key_none"} {
		if w := a.control("GET", path, ""); w.Code != 404 {
			t.Errorf("%s: got %d %s, want 404", path, w.Code, w.Body)
		}
	}
}

// TestUsage_CSV has names that a spreadsheet would take for formulas.
func TestUsage_CSV(t *testing.T) {
	a := newTestApp(t)
	names := []string{`=HYPERLINK("http://evil.example")`, "+1", "-1", "@SUM(A1)", " =1", "a, \"b\"\nc", "plain"}
	for _, name := range names {
		v := a.operate(201, "POST", "/admin/v1/keys", fmt.Sprintf(`{"name": %q, "permissions": ["can_read_agents"]}`, name))
		a.ask("GET", "/api/v1/agents", v["key"].(string), "")
	}
	w := a.control("GET", "/admin/v1/usage?format=csv&step=day", "")
	lines, err := csv.NewReader(w.Body).ReadAll()
	if err != nil || len(lines) != len(names)+1 || w.Header().Get("Content-Disposition") != `attachment; filename="usage.csv"` {
		t.Fatalf("got %d %v %v %v", w.Code, w.Header(), lines, err)
	}
	if got := strings.Join(lines[0], ","); got != "key_id,name,owner,start,requests,ok,client_error,unauthorized,forbidden,rate_limited,server_error" {
		t.Errorf("got %s", got)
	}
	found := map[string]bool{}
	for _, line := range lines[1:] {
		if found[line[1]] = true; line[4] != "1" || line[5] != "1" || line[3] != "2026-02-03T00:00:00Z" {
			t.Errorf("got %v", line)
		}
	}
	for _, want := range append([]string{"a, \"b\"\nc", "plain"}, "'"+names[0], "'+1", "'-1", "'@SUM(A1)", "' =1") {
		if !found[want] {
			t.Errorf("got %v, want %q among the names", found, want)
		}
	}
	for by, want := range map[string]string{"route": "/api/v1/agents,2026-02-03T09:00:00Z,7,7", "error": "error,start,requests"} {
		if w := a.control("GET", "/admin/v1/usage?format=csv&by="+by, ""); !strings.Contains(w.Body.String(), want) {
			t.Errorf("by %s: got %s, want %q", by, w.Body, want)
		}
	}
}

// TestProgram_Usage uses the command beside the real program and without it.
func TestProgram_Usage(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	p := serveReal(t, data)
	latchkey := func(want int, args ...string) (out, errs string) {
		t.Helper()
		out, errs, exit := run(t, append(args, "--data", data)...)
		if exit != want {
			t.Fatalf("%v: exit %d, %s %s", args, exit, out, errs)
		}
		return out, errs
	}
	if out, _ := latchkey(0, "usage"); !strings.Contains(out, "No request") {
		t.Errorf("got %s", out)
	}
	key, _ := latchkey(0, "keys", "create", "--name", "=1", "--permission", "can_read_agents")
	wantStatus(t, p.url, strings.TrimSpace(key), 200)
	if _, errs := latchkey(2, "usage", "--csv", "--json"); !strings.Contains(errs, "exclude each other") {
		t.Errorf("got %s", errs)
	}
	latchkey(1, "usage", "--step", "week")
	p.stop(t)
	if out, _ := latchkey(0, "usage", "--step", "day", "--last", "2"); !strings.Contains(out, "/api/v1/agents") || !strings.Contains(out, "RATE LIMITED") || !strings.Contains(out, "=1") {
		t.Errorf("got %s", out)
	}
	out, _ := latchkey(0, "usage", "--csv")
	_, line, _ := strings.Cut(out, "\n")
	id, rest, _ := strings.Cut(line, ",")
	if !strings.HasPrefix(rest, "'=1,admin,") {
		t.Errorf("got %s", out)
	}
	if out, _ := latchkey(0, "usage", "--key", id, "--json"); !strings.Contains(out, `"requests": 1`) {
		t.Errorf("got %s", out)
	}
}
