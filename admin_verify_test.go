package main

import (
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"latchkey/internal/keytext"
)

// question asks about a key and gives the answer.
func (a *testApp) question(asker, body string) map[string]any {
	a.t.Helper()
	w := a.ask("POST", "/api/v1/verify", asker, body)
	var v map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil || w.Code != 200 {
		a.t.Fatalf("%s: got %d %s", body, w.Code, w.Body)
	}
	if w.Header().Get("Cache-Control") != "no-store" {
		a.t.Errorf("%s: the answer may be cached", body)
	}
	return v
}

func TestVerifier_Verify(t *testing.T) {
	a := newTestApp(t)
	_, asker := a.key(`["can_verify_keys"]`, `"limits": {"requests_per_minute_limit": 100000}`)
	id, key := a.key(`["can_read_agents", "can_read_calls"]`, `"owner": "ann"`, `"environment": "live"`, `"metadata": {"plan": "pro"}`, `"limits": {"requests_per_minute_limit": 10, "calls_per_day_limit": 3}`)
	pausedID, paused := a.key(`["can_read_agents"]`)
	a.operate(200, "POST", "/admin/v1/keys/"+pausedID+"/pause", "")
	_, fenced := a.key(`["can_read_agents"]`, `"allowed_ips": ["192.0.2.0/24"]`)
	rotatedID, rotated := a.key(`["can_read_agents"]`)
	a.rotate(rotatedID, 60)
	for _, tt := range []struct {
		name, key, more string
		valid           bool
		code            string
		status          float64
		remaining       any
	}{
		{"plain", key, ``, true, "valid", 200, 9.0},
		{"with permissions", key, `, "permission": "can_read_calls", "permissions": ["can_read_agents"]`, true, "valid", 200, 8.0},
		{"one missing, which pays too", key, `, "permissions": ["can_read_calls", "can_read_contacts"]`, false, "permission_denied", 403, 7.0},
		{"dearer", key, `, "cost": 5`, true, "valid", 200, 2.0},
		{"too dear, which costs nothing", key, `, "cost": 3`, false, "rate_limit_exceeded", 429, 2.0},
		{"free", key, `, "cost": 0`, true, "valid", 200, 2.0},
		{"without a limit", key, `, "limit": null`, true, "valid", 200, nil},
		{"dearer than it ever lets through", key, `, "cost": 11`, false, "rate_limit_exceeded", 429, 2.0},
		{"the rest", key, `, "cost": 2`, true, "valid", 200, 0.0},
		{"spent", key, ``, false, "rate_limit_exceeded", 429, 0.0},
		{"another limit", key, `, "limit": "calls_per_day_limit", "cost": 2`, true, "valid", 200, 1.0},
		{"another limit, too dear", key, `, "limit": "calls_per_day_limit", "cost": 2`, false, "rate_limit_exceeded", 429, 1.0},
		{"unknown", keytext.NewSecret("klen_"), ``, false, "invalid_key", 401, nil},
		{"text", "hello", ``, false, "invalid_key", 401, nil},
		{"paused", paused, ``, false, "invalid_key", 401, nil},
		{"address not told", fenced, ``, false, "permission_denied", 403, nil},
		{"wrong address", fenced, `, "ip": "198.51.100.1"`, false, "permission_denied", 403, nil},
		{"right address", fenced, `, "ip": "192.0.2.77"`, true, "valid", 200, 59.0},
		{"earlier secret", rotated, ``, true, "valid", 200, 59.0},
	} {
		got := a.question(asker, `{"key": "`+tt.key+`"`+tt.more+`}`)
		if got["valid"] != tt.valid || got["code"] != tt.code || got["status_code"] != tt.status || got["remaining"] != tt.remaining || got["message"] == "" {
			t.Errorf("%s: got %v, want %v %s %v, %v remaining", tt.name, got, tt.valid, tt.code, tt.status, tt.remaining)
		}
		if _, told := got["retry_after"]; told != (tt.status == 429 && tt.name != "dearer than it ever lets through") {
			t.Errorf("%s: got retry_after %v", tt.name, got["retry_after"])
		}
		if text := fmt.Sprint(got); strings.Contains(text, tt.key) || strings.Contains(tt.name, "unknown") && got["key_id"] != nil {
			t.Errorf("%s: says too much: %s", tt.name, text)
		}
	}
	got := a.question(asker, `{"key": "`+key+`", "limit": null, "ip": "203.0.113.5"}`)
	want := map[string]any{"key_id": id, "name": "test", "owner": "ann", "environment": "live", "status": "active", "expires_at": nil, "secret_ends_at": nil}
	for name, value := range want {
		if got[name] != value {
			t.Errorf("%s: got %v, want %v", name, got[name], value)
		}
	}
	if text := fmt.Sprint(got["permissions"], got["metadata"]); text != "[can_read_calls can_read_agents] map[plan:pro]" {
		t.Errorf("got %s", text)
	}
	if shown := a.operate(200, "GET", "/admin/v1/keys/"+id, ""); shown["last_used_by"] != "verify" || shown["last_used_ip"] != "203.0.113.5" {
		t.Errorf("got last use %v from %v", shown["last_used_by"], shown["last_used_ip"])
	}
	a.clocks.Pass(time.Minute)
	if got := a.question(asker, `{"key": "`+rotated+`"}`); got["valid"] != false || got["code"] != "invalid_key" {
		t.Errorf("earlier secret after its end: got %v", got)
	}
}

// TestVerifier_IsNoOracle asks without the permission, which "all" must not
// give.
func TestVerifier_IsNoOracle(t *testing.T) {
	a := newTestApp(t)
	_, all := a.key(everyPermission)
	names, _ := json.Marshal(Ordinary.Names())
	if string(names) != strings.ReplaceAll(everyPermission, " ", "") {
		t.Errorf("all is %s, want the seven of the contract", names)
	}
	for _, path := range []string{"/api/v1/verify", "/api/v1/introspect"} {
		for _, secret := range []string{all, keytext.NewSecret("klen_")} {
			w := a.ask("POST", path, all, `{"key": "`+secret+`"}`)
			if w.Code != 403 || !strings.Contains(w.Body.String(), "can_verify_keys") {
				t.Errorf("%s: got %d %s, want 403 for any key", path, w.Code, w.Body)
			}
		}
	}
}

func TestVerifier_Refuses(t *testing.T) {
	a := newTestApp(t)
	_, asker := a.key(`["can_verify_keys"]`)
	_, key := a.key(`["can_read_agents"]`)
	for _, tt := range []struct{ body, code, text string }{
		{``, "invalid_json", ""},
		{`{}`, "missing_parameter", "key is missing"},
		{`{"key": 5}`, "validation_error", "key must be a string"},
		{`{"key": "` + key + `", "cost": -1}`, "validation_error", "cost"},
		{`{"key": "` + key + `", "cost": 10001}`, "validation_error", "cost"},
		{`{"key": "` + key + `", "permission": "can_fly"}`, "validation_error", "can_fly"},
		{`{"key": "` + key + `", "limit": "x"}`, "validation_error", "limit"},
		{`{"key": "` + key + `", "ip": "here"}`, "validation_error", "ip must be"},
	} {
		if w := a.ask("POST", "/api/v1/verify", asker, tt.body); w.Code != 400 || code(w) != tt.code || !strings.Contains(w.Body.String(), tt.text) {
			t.Errorf("%s: got %d %s, want 400 %s with %q", tt.body, w.Code, w.Body, tt.code, tt.text)
		}
	}
}

func TestVerifier_Introspect(t *testing.T) {
	a := newTestApp(t)
	_, asker := a.key(`["can_verify_keys"]`, `"limits": {"requests_per_minute_limit": 1000}`)
	id, key := a.key(`["can_read_agents", "can_read_calls"]`, `"owner": "ann"`, `"expires_at": "2026-02-03T10:00:00Z"`)
	introspect := func(form string) string {
		r := httptest.NewRequest("POST", "/api/v1/introspect", strings.NewReader(form))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Authorization", "Bearer "+asker)
		w := httptest.NewRecorder()
		a.api.ServeHTTP(w, r)
		return fmt.Sprint(w.Code, " ", strings.TrimSpace(w.Body.String()))
	}
	active := fmt.Sprintf(`200 {"active":true,"client_id":"%s","exp":%d,"iat":%d,"scope":"can_read_calls can_read_agents","sub":"ann","token_type":"Bearer"}`, id, epoch.Add(time.Hour).Unix(), epoch.Unix())
	if got := introspect("token_type_hint=access_token&token=" + url.QueryEscape(key)); got != active {
		t.Errorf("got  %s\nwant %s", got, active)
	}
	second := a.rotate(id, 600)
	if got := introspect("token=" + key); !strings.Contains(got, fmt.Sprintf(`"exp":%d`, epoch.Add(10*time.Minute).Unix())) {
		t.Errorf("an earlier secret: got %s, want its own end", got)
	}
	if got := introspect("token=" + second); got != active {
		t.Errorf("got  %s\nwant %s", got, active)
	}
	a.clocks.Pass(10 * time.Minute)
	a.operate(200, "POST", "/admin/v1/keys/"+id+"/pause", "")
	for _, token := range []string{key, second, keytext.NewSecret("klen_"), "x"} {
		if got := introspect("token=" + token); got != `200 {"active":false}` {
			t.Errorf("got %s, want nothing but active false", got)
		}
	}
	for _, form := range []string{"", "token=", "token=a&token=b", "key=" + key, "%zz"} {
		if got := introspect(form); !strings.HasPrefix(got, "400 ") {
			t.Errorf("%q: got %s, want 400", form, got)
		}
	}
	if w := a.ask("POST", "/api/v1/introspect", asker, `{"token": "x"}`); w.Code != 400 {
		t.Errorf("JSON: got %d %s, want 400", w.Code, w.Body)
	}
	if got := a.operate(200, "GET", "/admin/v1/keys/"+id+"/usage", "")["usage"].(map[string]any)[RequestsPerMinute].(map[string]any)["used"]; got != 0.0 {
		t.Errorf("got %v units charged for introspection, want none", got)
	}
}

// TestVerifier_CostUnderLoad spends by many at once: never more than the limit.
func TestVerifier_CostUnderLoad(t *testing.T) {
	a := newTestApp(t)
	_, asker := a.key(`["can_verify_keys"]`, `"limits": {"requests_per_minute_limit": 1000000}`)
	id, key := a.key(`["can_read_agents"]`, `"limits": {"requests_per_minute_limit": 500, "calls_per_day_limit": 50}`)
	var mu sync.Mutex
	spent := map[string]int{}
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			for n := range 40 {
				cost, limit := 1+(worker+n)%7, RequestsPerMinute
				if n%4 == 0 {
					limit = CallsPerDay
				}
				w := a.ask("POST", "/api/v1/verify", asker, fmt.Sprintf(`{"key": %q, "cost": %d, "limit": %q}`, key, cost, limit))
				if strings.Contains(w.Body.String(), `"valid":true`) {
					mu.Lock()
					spent[limit] += cost
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	usage := a.operate(200, "GET", "/admin/v1/keys/"+id+"/usage", "")["usage"].(map[string]any)
	for limit, most := range map[string]int{RequestsPerMinute: 500, CallsPerDay: 50} {
		used := usage[limit].(map[string]any)["used"]
		if spent[limit] > most || spent[limit] < most-7 || used != float64(spent[limit]) {
			t.Errorf("%s: got %d units let through and %v counted, want the same and at most %d", limit, spent[limit], used, most)
		}
	}
}

func TestVerifier_Lookup(t *testing.T) {
	a := newTestApp(t)
	id, first := a.key(`["can_read_agents"]`)
	second := a.rotate(id, 60)
	revokedID, revoked := a.key(`["can_read_agents"]`)
	a.operate(200, "POST", "/admin/v1/keys/"+revokedID+"/revoke", "")
	got := a.operate(200, "POST", "/admin/v1/keys/lookup", fmt.Sprintf(`{"sha256": ["%s", "%s", "%s", "%s"]}`, sha(keytext.NewSecret("klen_")), sha(first), strings.ToUpper(sha(second)), sha(revoked)))
	if got["prefix"] != "klen_" {
		t.Errorf("got prefix %v", got["prefix"])
	}
	want := []string{
		fmt.Sprint(sha(first), id, "active", false, true, "2026-02-03T09:01:00Z"),
		fmt.Sprint(sha(second), id, "active", true, true, nil),
		fmt.Sprint(sha(revoked), revokedID, "revoked", true, false, nil),
	}
	rows := got["keys"].([]any)
	if len(rows) != len(want) {
		t.Fatalf("got %v", rows)
	}
	for i, v := range rows {
		row := v.(map[string]any)
		if text := fmt.Sprint(row["sha256"], row["id"], row["status"], row["present"], row["live"], row["ends_at"]); text != want[i] {
			t.Errorf("got %s, want %s", text, want[i])
		}
	}
	a.refuse("POST", "/admin/v1/keys/lookup", `{}`, 400, "validation_error", "sha256")
	a.refuse("POST", "/admin/v1/keys/lookup", `{"sha256": ["12"]}`, 400, "validation_error", "sha256[0]")
	a.refuse("POST", "/admin/v1/keys/lookup", `{"sha256": [`+strings.Repeat(`"x",`, MaxWords)+`"x"]}`, 400, "validation_error", "the maximum is 1,000")
}
