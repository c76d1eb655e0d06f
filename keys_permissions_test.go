package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// withReports is a configuration with permissions and limits of its own.
func withReports(c *Config) {
	c.Permissions = []permissionRow{{"can_read_reports", "Read reports."}, {"can_write_reports", "Write reports."}}
	c.Limits = []limitRow{
		{Name: "reports_per_hour", Window: time.Hour, Default: 3, Scope: "key"},
		{Name: "reports_per_second", Window: time.Second, Default: 2, Scope: "owner"},
		{Name: "trial_per_day", Window: 24 * time.Hour, Default: 0, Scope: "owner"},
	}
}

func TestRights_Permissions(t *testing.T) {
	a := newTestApp(t, withReports)
	id, secret := a.key(`["can_write_reports", "can_read_agents"]`)
	only, _ := a.key(`["can_read_reports"]`)
	shown := func(of string) string {
		key := a.operate(200, "GET", "/admin/v1/keys/"+of, "")
		return fmt.Sprint(key["permissions"], key["dormant_permissions"])
	}
	if got := shown(id); got != "[can_read_agents can_write_reports] <nil>" {
		t.Errorf("got %s", got)
	}
	all := fmt.Sprint(a.operate(200, "GET", "/admin/v1/permissions", ""))
	if !strings.Contains(all, "can_verify_keys own:false] map[description:Read reports. group:Other label:read reports limits:[] name:can_read_reports own:true]") {
		t.Errorf("got %s", all)
	}
	if w := a.ask("GET", "/api/v1/calls", secret, ""); w.Code != 403 || !strings.Contains(w.Body.String(), "It has can_read_agents, can_write_reports.") {
		t.Errorf("got %d %s, want 403 and what is held", w.Code, w.Body)
	}

	a.config.Permissions = a.config.Permissions[1:] // another bit for the one that stays
	a.restart()
	if got := shown(id) + shown(only); got != "[can_read_agents can_write_reports] <nil>[] [can_read_reports]" {
		t.Errorf("with one taken out of the configuration: got %s", got)
	}
	a.config.Permissions = nil
	a.restart()
	if got := shown(id); got != "[can_read_agents] [can_write_reports]" {
		t.Errorf("with none in the configuration: got %s", got)
	}
	a.operate(200, "PATCH", "/admin/v1/keys/"+id, `{"name": "renamed"}`)
	a.operate(200, "PATCH", "/admin/v1/keys/"+only, `{"permissions": ["can_read_calls", "can_read_reports"]}`)
	e := a.operate(400, "PATCH", "/admin/v1/keys/"+id, `{"permissions": ["can_read_reports"]}`)
	if !strings.Contains(e["message"].(string), `unknown permission "can_read_reports"`) {
		t.Errorf("one that it does not have: got %v", e)
	}
	a.refuse("PATCH", "/admin/v1/keys/"+id, `{"permissions": ["all"]}`, 400, "validation_error", `which only the flag --permission knows`)
	withReports(&a.config)
	a.restart()
	if got := shown(id) + shown(only); got != "[can_read_agents can_write_reports] <nil>[can_read_calls can_read_reports] <nil>" {
		t.Errorf("configured again: got %s", got)
	}
	a.operate(200, "PATCH", "/admin/v1/keys/"+id, `{"permissions": ["can_read_agents"]}`)
	if got := shown(id); got != "[can_read_agents] <nil>" {
		t.Errorf("taken away: got %s", got)
	}
}

func TestRights_Ordinary(t *testing.T) {
	var c Config
	withReports(&c)
	own, _ := c.Rights().OfOwn([]string{"can_read_reports", "can_write_reports"})
	if own == 0 || Ordinary&own != 0 || Ordinary&VerifyKeys != 0 {
		t.Errorf("\"all\" is %b and holds some of %b or %b", Ordinary, own, VerifyKeys)
	}
	for i := range MaxOwnPermissions {
		c.Permissions = append(c.Permissions[:i], permissionRow{Name: fmt.Sprint("can_", i)})
	}
	set := ^Permission(0).Builtin()
	for _, p := range c.Rights().Permissions() {
		if p.Own && (set&p.Bit == 0 || p.Bit.Builtin() != 0) {
			t.Fatalf("%s shares its bit", p.Name)
		}
		if p.Own {
			set &^= p.Bit
		}
	}
}

func TestRights_Limits(t *testing.T) {
	a := newDashboard(t, withReports, func(c *Config) { c.Observed = []string{CallsPerDay} })
	list := fmt.Sprint(a.operate(200, "GET", "/admin/v1/limits", "")["limits"])
	for _, want := range []string{
		"map[default:100 kind:window name:calls_per_day_limit observe:true own:false recorded:true scope:key window_seconds:86400 would_refuse:0]",
		"map[default:0 kind:window name:owner_calls_per_day_limit observe:false own:false recorded:true scope:owner window_seconds:86400 would_refuse:0]",
		"map[default:2 kind:window name:reports_per_second observe:false own:true recorded:false scope:owner window_seconds:1 would_refuse:0]",
	} {
		if !strings.Contains(list, want) {
			t.Errorf("got %s, want %s in it", list, want)
		}
	}
	id, _ := a.key(everyPermission, `"limits": {"reports_per_hour": 5}`)
	key := a.operate(200, "GET", "/admin/v1/keys/"+id, "")
	if got := fmt.Sprint(key["limits"]); got != "map[calendar_events_per_day_limit:50 calls_per_day_limit:100 concurrent_requests:64 concurrent_streams:1000 reports_per_hour:5 requests_per_minute_limit:60]" {
		t.Errorf("got %s", got)
	}
	usage := key["usage"].(map[string]any)
	if got := fmt.Sprint(usage["reports_per_second"]); got != "map[kind:window limit:2 observe:false remaining:2 resets_at:<nil> scope:owner used:0 window_seconds:1]" || usage["trial_per_day"] != nil {
		t.Errorf("got %s and %v", got, usage["trial_per_day"])
	}
	e := a.operate(400, "POST", "/admin/v1/keys", `{"name": "x", "permissions": ["can_read_calls"], "limits": {"reports_per_second": 5}}`)
	if !strings.Contains(e["message"].(string), "limits.reports_per_second counts the requests of all keys of an owner") {
		t.Errorf("got %v", e)
	}
	labels := []string{}
	for _, m := range regexp.MustCompile(`<span class="meter"><span>(.+?): 0 of`).FindAllStringSubmatch(a.get("/keys/"+id).Body.String(), -1) {
		labels = append(labels, m[1])
	}
	if want := []string{"Reports per second", "Requests per minute", "Reports per hour", "Calendar events per day", "Calls per day (observed)", "Concurrent requests", "Concurrent streams"}; !slices.Equal(labels, want) {
		t.Errorf("got meters %q, want %q", labels, want)
	}
}

// TestPermissions_Limits holds the limits that a permission names against the
// routes which need it.
func TestPermissions_Limits(t *testing.T) {
	a := newTestApp(t)
	spent := map[string]Permission{}
	for _, row := range a.Server.o.Keyed {
		if row.Spends != "" {
			spent[row.Spends] |= row.Permission
		}
	}
	if len(spent) < 2 {
		t.Fatalf("got %v, want the routes that spend a daily limit", spent)
	}
	for _, l := range a.Keyring.Rights().Limits() {
		for _, p := range a.Keyring.Rights().Permissions() {
			name := l.Name
			if l.Owner {
				name = l.With
			}
			if got, want := slices.Contains(p.Limits, l.Name), spent[name] == p.Bit; got != want {
				t.Errorf("%s names %s: got %v, want %v", p.Name, l.Name, got, want)
			}
		}
	}
}

// TestPermissions_Presets wants no preset with a permission that has to be
// granted by name, and each under its own name.
func TestPermissions_Presets(t *testing.T) {
	names := map[string]bool{}
	for _, p := range PermissionPresets() {
		if p.Permissions == 0 || p.Permissions&^Ordinary != 0 || names[p.Name] {
			t.Errorf("got %+v", p)
		}
		names[p.Name] = true
	}
}

// TestRights_Verify has a service spend limits of the configuration.
func TestRights_Verify(t *testing.T) {
	a := newTestApp(t, withReports)
	_, asker := a.key(`["can_verify_keys"]`, `"limits": {"requests_per_minute_limit": 1000}`)
	_, one := a.key(`["can_read_reports"]`, `"owner": "ann"`)
	_, two := a.key(`["can_read_reports"]`, `"owner": "ann"`)
	verify := func(key, more string) map[string]any {
		w := a.ask("POST", "/api/v1/verify", asker, `{"key": "`+key+`", `+more+`}`)
		return object(t, w.Body.String())
	}
	const both = `"limits": {"reports_per_hour": 1, "reports_per_second": 1}, "permission": "can_read_reports"`
	for i, step := range []struct {
		key, more string
		pass      time.Duration
		valid     bool
		says      string
	}{
		{one, both, 0, true, "map[max:3 remaining:2"},
		{two, both, 0, true, "map[max:3 remaining:2"},
		{one, both, 0, false, "The limit reports_per_second of 2, which all keys of its owner share, is reached."},
		{one, both, time.Second, true, "map[max:3 remaining:1"}, // the refusal cost nothing
		{one, `"limits": {"reports_per_hour": 2, "reports_per_second": 1}`, 0, false, "The limit reports_per_hour of 3 does not admit 2 more now."},
		{two, `"limits": {"reports_per_second": 1}`, 0, true, "map[max:2 remaining:0"}, // that one neither
		{two, `"limits": {"trial_per_day": 5}`, 0, true, ""},
		{two, `"limits": {"reports_per_hour": 4}`, 0, false, "The cost of 4 is more than the limit reports_per_hour of 3, so it is never admitted. Use a lower cost."},
		{two, `"limits": {"nonsense": 4}`, 0, false, "a key has no limit \"nonsense\""},
		{two, `"limits": {"reports_per_hour": 1}, "cost": 2`, 0, false, "Send either limits, or limit and cost"},
		{two, `"limits": {"reports_per_hour": -1}`, 0, false, "limits.reports_per_hour must be a whole number from 0"},
		{two, `"permission": "can_write_reports", "limits": {}`, 0, false, "lacks the permission can_write_reports. It has can_read_reports."},
	} {
		a.clocks.Pass(step.pass)
		got := verify(step.key, step.more)
		if valid, _ := got["valid"].(bool); valid != step.valid || !strings.Contains(fmt.Sprint(got), step.says) {
			t.Errorf("step %d: got %v, want %v and %q", i, got, step.valid, step.says)
		}
	}
}

// A row that names limits has them paid together with the minute, and by those
// alone who may use it.
func TestServer_rowLimits(t *testing.T) {
	a := newTestApp(t, withReports)
	reports, _ := a.config.Rights().Parse([]string{"can_read_reports"})
	o := a.Server.o
	o.Keyed = append(slices.Clone(o.Keyed), Route{
		Method: "GET", Path: "/reports", Permission: reports, Limits: []string{"reports_per_hour"}, Cost: 1,
		Handle: func(w http.ResponseWriter, r *Request) error { return WriteJSON(w, 200, map[string]bool{"ok": true}) },
	})
	api, err := NewServer(o).API()
	if err != nil {
		t.Fatal(err)
	}
	_, with := a.key(`["can_read_reports"]`)
	id, without := a.key(`["can_read_agents"]`)
	get := func(key string) *httptest.ResponseRecorder {
		w, r := httptest.NewRecorder(), httptest.NewRequest("GET", "/reports", nil)
		r.Header.Set("X-API-Key", key)
		api.ServeHTTP(w, r)
		return w
	}
	for n := range 3 {
		if w := get(with); w.Code != 200 || w.Header().Get("RateLimit-Policy") != `"requests_per_minute";q=60;w=60, "reports_per_hour";q=3;w=3600` || w.Header().Get("X-RateLimit-Remaining") != fmt.Sprint(2-n) {
			t.Fatalf("request %d: got %d %v", n, w.Code, w.Header())
		}
	}
	if w := get(with); w.Code != 429 || w.Header().Get("Retry-After") != "3600" || w.Header().Get("RateLimit") != `"requests_per_minute";r=57;t=60, "reports_per_hour";r=0;t=3600` {
		t.Errorf("got %d %v, want a refusal that cost no minute unit", w.Code, w.Header())
	}
	if w := get(without); w.Code != 403 || !strings.Contains(w.Header().Get("WWW-Authenticate"), `scope="can_read_reports"`) {
		t.Errorf("got %d %v, want 403 with the scope", w.Code, w.Header())
	}
	usage := a.operate(200, "GET", "/admin/v1/keys/"+id+"/usage", "")["usage"].(map[string]any)
	if minute, hour := usage[RequestsPerMinute].(map[string]any)["used"], usage["reports_per_hour"].(map[string]any)["used"]; minute != 1.0 || hour != 0.0 {
		t.Errorf("without permission: got %v and %v used, want 1 and 0", minute, hour)
	}
}

// A permission of the configuration without a description is described by its name.
func TestPolicy_Description(t *testing.T) {
	p := NewPolicy([]PermissionInfo{{Name: "can_read_all_reports"}, {Name: "can_use", Description: "Use it."}}, nil).Permissions()
	if got := p[len(p)-2].Description; got != "Read all reports." {
		t.Errorf("got %q, want the name as a sentence", got)
	}
	if got := p[len(p)-1].Description; got != "Use it." {
		t.Errorf("got %q, want the description", got)
	}
}
