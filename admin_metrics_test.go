package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v4"
)

// scrape reads /metrics as Prometheus does, with a token, unless that is "".
func (a *testApp) scrape(token string) (int, string) {
	a.t.Helper()
	door, err := a.AdminDoor()
	if err != nil {
		a.t.Fatal(err)
	}
	r := httptest.NewRequest("GET", "http://127.0.0.1/metrics", nil)
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	w := httptest.NewRecorder()
	door.ServeHTTP(w, r)
	if w.Code == 200 {
		wantOneEach(a.t, w.Body.String())
	}
	return w.Code, w.Body.String()
}

// wantOneEach wants each sample of a scrape to be in it once: Prometheus drops the second one and raises an alert. It also wants
// each metric to have one type and its samples without others between, as the text format demands.
func wantOneEach(t testing.TB, text string) {
	t.Helper()
	seen, latest, name := map[string]bool{}, "", regexp.MustCompile(`^\w+`)
	for line := range strings.Lines(text) {
		sample := line[:strings.LastIndexByte(line, ' ')] // without its value
		if strings.HasPrefix(line, "# ") {
			sample = strings.Join(strings.Fields(line)[:3], " ")
		}
		if seen[sample] {
			t.Errorf("the metrics have %q twice", sample)
		}
		seen[sample] = true
		if rest, is := strings.CutPrefix(sample, "# TYPE "); is {
			latest = rest
		} else if own := name.FindString(sample); strings.HasPrefix(own, "latchkey_") && !strings.HasPrefix(own, latest) {
			t.Errorf("the metrics have %q among those of %s", sample, latest)
		}
	}
}

func (a *testApp) token() string {
	a.t.Helper()
	return a.operate(201, "POST", "/admin/v1/tokens", `{"name": "prometheus"}`)["token"].(string)
}

// wantLines looks for lines of a scrape.
func wantLines(t *testing.T, text string, lines ...string) {
	t.Helper()
	for _, line := range lines {
		if !strings.Contains("\n"+text, "\n"+line+"\n") {
			name, _, _ := strings.Cut(line, "{")
			near := regexp.MustCompile(`(?m)^`+regexp.QuoteMeta(strings.Fields(name)[0])+`.*$`).FindAllString(text, -1)
			t.Errorf("the metrics lack %q; there is %q", line, near)
		}
	}
}

func TestMetrics_Access(t *testing.T) {
	a := newTestApp(t)
	if status, _ := a.scrape(""); status != 401 {
		t.Errorf("without a token: got %d, want 401", status)
	}
	if status, body := a.scrape(a.token()); status != 200 || !strings.Contains(body, "latchkey_ready 1") {
		t.Errorf("with a token: got %d %.200s", status, body)
	}
	wantOneEach(t, a.control("GET", "/metrics", "").Body.String())
	onAPI := httptest.NewRecorder()
	if a.api.ServeHTTP(onAPI, httptest.NewRequest("GET", "/metrics", nil)); onAPI.Code != 404 {
		t.Errorf("on the API listener: got %d, want 404", onAPI.Code)
	}
	open := newTestApp(t, func(c *Config) { c.Metrics.Open = true })
	if status, _ := open.scrape(""); status != 200 {
		t.Errorf("opened: got %d, want 200", status)
	}
	w := httptest.NewRecorder()
	if open.admin.ServeHTTP(w, httptest.NewRequest("GET", "/admin/v1/keys", nil)); w.Code != 401 {
		t.Errorf("the others when the metrics are open: got %d, want 401", w.Code)
	}
}

func TestMetrics_Figures(t *testing.T) {
	a := newTestApp(t)
	token := a.token()
	_, secret := a.key(`["can_read_agents"]`, `"limits": {"requests_per_minute_limit": 2}`)
	paused, _ := a.key(`["can_read_agents"]`)
	a.operate(200, "POST", "/admin/v1/keys/"+paused+"/pause", "")
	for range 3 {
		a.ask("GET", "/api/v1/agents", secret, "")
	}
	a.ask("GET", "/api/v1/agents", "", "")
	a.ask("GET", "/api/v1/calls", "klen_wrong", "")
	a.ask("GET", "/api/v1/nothing-"+secret, "", "")
	a.ask("BREW", "/api/v1/agents", "", "")
	if err := a.metrics.CountKeys(a.clock.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	a.metrics.Attempted(Attempt{Status: 204})
	a.metrics.Attempted(Attempt{Status: 500})
	a.metrics.Attempted(Attempt{Error: "no answer"})
	_, text := a.scrape(token)
	wantLines(t, text,
		`latchkey_requests_total{code="200",door="api",method="GET",route="/api/v1/agents"} 2`,
		`latchkey_requests_total{code="429",door="api",method="GET",route="/api/v1/agents"} 1`,
		`latchkey_requests_total{code="401",door="api",method="GET",route="/api/v1/calls"} 1`,
		`latchkey_requests_total{code="404",door="api",method="GET",route="-"} 1`,
		`latchkey_requests_total{code="405",door="api",method="other",route="-"} 1`,
		`latchkey_requests_total{code="201",door="admin",method="POST",route="/admin/v1/keys"} 2`,
		`latchkey_request_seconds_count{door="api",method="GET",route="/api/v1/agents"} 4`,
		`latchkey_decisions_total{decision="allowed"} 2`,
		`latchkey_decisions_total{decision="rate_limit_exceeded"} 1`,
		`latchkey_decisions_total{decision="authentication_required"} 1`,
		`latchkey_decisions_total{decision="invalid_key"} 1`,
		`latchkey_keys{state="active"} 1`, `latchkey_keys{state="paused"} 1`, `latchkey_keys{state="expired"} 0`, `latchkey_keys_stored 2`,
		`latchkey_key_lookups_total 3`, `latchkey_key_cache_misses_total 1`, `latchkey_key_cache_entries 1`, `latchkey_limiter_keys 1`,
		`latchkey_in_flight{limit="concurrent_requests"} 0`, `latchkey_in_flight_refused_total{limit="concurrent_streams"} 0`,
		`latchkey_webhook_attempts_total{result="delivered"} 1`, `latchkey_webhook_attempts_total{result="refused"} 1`, `latchkey_webhook_attempts_total{result="unreachable"} 1`,
		`latchkey_webhook_backlog 0`, `latchkey_webhook_dropped_total 0`, `latchkey_audit_entries 4`, `latchkey_ready 1`, `latchkey_last_backup_failed 0`, `latchkey_last_backup_timestamp_seconds 0`,
	)
	if strings.Contains(text, "latchkey_store_commit_seconds_count 0\n") || !strings.Contains(text, "latchkey_build_info{") || !strings.Contains(text, "go_goroutines ") {
		t.Errorf("got %s", text)
	}
	wantNoSecrets(t, "the metrics", text, []string{secret, secret[5:], token})
	a.Server.Drain()
	_, text = a.scrape(token)
	wantLines(t, text, "latchkey_ready 0")
}

func TestMetrics_Backlog(t *testing.T) {
	a := newTestApp(t)
	a.operate(201, "POST", "/admin/v1/webhooks", `{"name": "h", "url": "https://hooks.example.net/", "subscribed_events": ["key.created"]}`)
	a.key(`["can_read_agents"]`)
	a.clocks.Pass(90 * time.Second)
	a.key(`["can_read_agents"]`)
	_, text := a.scrape(a.token())
	wantLines(t, text, "latchkey_webhook_backlog 2", "latchkey_webhook_oldest_seconds 90")
	v := a.operate(200, "GET", "/admin/v1/status", "")
	if v["webhook_backlog"] != float64(2) || v["webhook_oldest_at"] != *Seconds(epoch) {
		t.Errorf("status: got %v since %v", v["webhook_backlog"], v["webhook_oldest_at"])
	}
}

func TestMetrics_Backup(t *testing.T) {
	a := newTestApp(t, func(c *Config) { c.Backup.Dir = t.TempDir() })
	if err := a.backups.Due(a.clock.Now()); err != nil {
		t.Fatal(err)
	}
	_, text := a.scrape(a.token())
	if made, err := a.backups.Last(); err != nil || !made.At.Equal(epoch) || strings.Contains(text, "latchkey_last_backup_timestamp_seconds 0\n") {
		t.Errorf("got %v %v", made, err)
	}
	a.clocks.Pass(48 * time.Hour)
	if err := os.RemoveAll(a.config.Backup.Dir); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(a.config.Backup.Dir, nil, 0o600); err != nil { // no folder can be made there
		t.Fatal(err)
	}
	if err := a.backups.Due(a.clock.Now()); err == nil {
		t.Fatal("got no error")
	}
	_, text = a.scrape(a.token())
	wantLines(t, text, "latchkey_last_backup_failed 1")
	if v := a.operate(200, "GET", "/admin/v1/status", ""); v["last_backup_error"] == nil || v["last_backup_at"] != *Seconds(epoch) {
		t.Errorf("status: got %v, %v", v["last_backup_error"], v["last_backup_at"])
	}
}

// Whoever asks for anything cannot make new series.
func TestMetrics_AreBounded(t *testing.T) {
	a := newTestApp(t)
	o := &Outcome{Method: "GET", Status: 200, Client: netip.MustParseAddr("192.0.2.1")}
	for i := range 3 * maxRoutes {
		o.Route = "/x/" + strings.Repeat("y", i%100) + string(rune('a'+i%26)) + time.Duration(i).String()
		a.metrics.Watch(o)
	}
	for _, method := range []string{"A", "B", "C"} {
		o.Method, o.Route = method, "-"
		a.metrics.Watch(o)
	}
	if n := len(*a.metrics.routes.Load()); n > maxRoutes+1 {
		t.Errorf("got %d routes, want at most %d", n, maxRoutes+1)
	}
}

func TestMetrics_TakesNoMemory(t *testing.T) {
	a := newTestApp(t)
	o := &Outcome{Method: "GET", Route: "/api/v1/agents", Status: 200, Key: &Key{}, Took: time.Millisecond}
	a.metrics.Watch(o)
	if n := testing.AllocsPerRun(100, func() { a.metrics.Watch(o) }); n != 0 {
		t.Errorf("got %v allocations for a request, want 0", n)
	}
}

func BenchmarkMetrics(b *testing.B) {
	a := newTestApp(b)
	o := &Outcome{Method: "GET", Route: "/api/v1/contacts/:contact_id", Status: 200, Key: &Key{}, Took: time.Millisecond}
	b.ReportAllocs()
	for b.Loop() {
		a.metrics.Watch(o)
	}
}

// TestMetrics_Packaged holds what is packaged for Prometheus and Grafana against
// the metrics that a server really has.
func TestMetrics_Packaged(t *testing.T) {
	a := newTestApp(t)
	token := a.token()
	_, secret := a.key(`["can_read_agents"]`)
	a.ask("GET", "/api/v1/agents", secret, "")
	a.ask("GET", "/api/v1/agents", "", "")
	a.joinMade(newMadeCluster())
	_, text := a.scrape(token)
	var exported []string
	for line := range strings.Lines(text) {
		if name := regexp.MustCompile(`^[a-z_]+`).FindString(line); name != "" && !slices.Contains(exported, name) {
			exported = append(exported, name)
		}
	}
	var exprs []string
	var rules struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	data, err := os.ReadFile("packaging/prometheus/latchkey.rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(data, &rules); err != nil {
		t.Fatal(err)
	}
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			if r.Alert == "" || r.Expr == "" || r.Annotations["summary"] == "" || r.Labels["severity"] == "" {
				t.Errorf("the alert %q lacks something: %+v", r.Alert, r)
			}
			exprs = append(exprs, r.Expr)
		}
	}
	if len(exprs) < 8 {
		t.Errorf("got %d alerts", len(exprs))
	}
	if data, err = os.ReadFile("packaging/grafana/latchkey.json"); err != nil {
		t.Fatal(err)
	}
	var board struct {
		Title  string
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(data, &board); err != nil {
		t.Fatal(err)
	}
	for _, p := range board.Panels {
		if p.Title == "" || len(p.Targets) == 0 {
			t.Errorf("the panel %q shows nothing", p.Title)
		}
		for _, target := range p.Targets {
			exprs = append(exprs, target.Expr)
		}
	}
	if len(board.Panels) < 10 {
		t.Errorf("got %d panels", len(board.Panels))
	}
	doc, err := os.ReadFile("docs/observe.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, expr := range append(exprs, regexp.MustCompile("`latchkey_[a-z_]+").FindAllString(string(doc), -1)...) {
		for _, name := range regexp.MustCompile(`\b(latchkey|go|process)_[a-z_]+`).FindAllString(expr, -1) {
			if !slices.Contains(exported, name) && !slices.Contains(exported, name+"_count") {
				t.Errorf("%s: a server has no %s", expr, name)
			}
		}
	}
	for _, name := range exported {
		base := regexp.MustCompile(`_(bucket|sum|count)$`).ReplaceAllString(name, "")
		if strings.HasPrefix(name, "latchkey_") && !strings.Contains(string(doc), "`"+base+"`") {
			t.Errorf("docs/observe.md does not tell of %s", base)
		}
	}
}

func TestStatus(t *testing.T) {
	a := newTestApp(t)
	a.status.ListensAt(map[string]string{"api": "127.0.0.1:1"}, func() time.Time { return epoch })
	a.key(`["can_read_agents"]`)
	a.clocks.Pass(90 * time.Second)
	v := a.operate(200, "GET", "/admin/v1/status", "")
	for name, want := range map[string]any{
		"uptime_seconds": float64(90), "started_at": *Seconds(epoch), "keys": float64(1), "log_level": "info", "ready": true, "not_ready_because": nil,
		"certificate_ends_at": *Seconds(epoch), "forged_records": float64(0), "backup_every_seconds": nil,
		"webhook_backlog": float64(0), "last_backup_at": nil, "version": ProgramVersion(), "store_id": a.Store.ID(),
	} {
		if v[name] != want {
			t.Errorf("%s: got %v, want %v", name, v[name], want)
		}
	}
	for _, name := range []string{"commits", "transactions", "store_bytes", "disk_free_bytes"} {
		if n, _ := v[name].(float64); n < 1 {
			t.Errorf("%s: got %v", name, v[name])
		}
	}
	if head := v["audit"].(map[string]any); head["number"] != float64(1) || len(head["hash"].(string)) != 64 {
		t.Errorf("audit: got %v", head)
	}
	if v["listening"].(map[string]any)["api"] != "127.0.0.1:1" {
		t.Errorf("listening: got %v", v["listening"])
	}
}

func TestServer_Readiness(t *testing.T) {
	a := newTestApp(t)
	for _, tt := range []struct {
		path, want string
		status     int
		change     func()
	}{
		{"/readyz", `{"status":"ok"}`, http.StatusOK, func() {}},
		{"/healthz", `{"status":"ok"}`, http.StatusOK, func() {}},
		{"/readyz", `{"reason":"the server is stopping","status":"unavailable"}`, http.StatusServiceUnavailable, a.Server.Drain},
		{"/readyz", `{"reason":"the database cannot be written; the log contains the cause","status":"unavailable"}`, http.StatusServiceUnavailable, func() { a.Store.fail(ErrServer) }},
		{"/healthz", `{"status":"ok"}`, http.StatusOK, func() {}},
	} {
		tt.change()
		if w := a.control("GET", tt.path, ""); w.Code != tt.status || strings.TrimSpace(w.Body.String()) != tt.want {
			t.Errorf("%s: got %d %s, want %d %s", tt.path, w.Code, w.Body, tt.status, tt.want)
		}
	}
}
