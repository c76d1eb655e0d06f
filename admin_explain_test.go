package main

import (
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// TestExplainer_AgreesWithServer explains a request, makes it, and wants the
// same to come of it. Explaining spends nothing, so it comes first, twice.
func TestExplainer_AgreesWithServer(t *testing.T) {
	a := newTestApp(t)
	a.operate(201, "POST", "/admin/v1/agents", `{"name": "A", "phone_number": "+4930555001"}`)
	type held struct{ id, secret string }
	keys := map[string]held{}
	add := func(name, permissions string, more ...string) {
		id, secret := a.key(permissions, more...)
		keys[name] = held{id, secret}
	}
	add("all", everyPermission)
	add("powerless", `["can_read_calendar"]`)
	add("spent", everyPermission, `"limits": {"requests_per_minute_limit": 1}`)
	add("spent and powerless", `["can_read_calendar"]`, `"limits": {"requests_per_minute_limit": 1}`)
	add("fenced", everyPermission, `"allowed_ips": ["203.0.113.0/24"]`)
	add("fenced and spent", everyPermission, `"allowed_ips": ["203.0.113.0/24"]`, `"limits": {"requests_per_minute_limit": 1}`)
	add("one call a day", everyPermission, `"limits": {"calls_per_day_limit": 1}`)
	add("not in the query", everyPermission, `"query_allowed": false`)
	for _, name := range []string{"paused", "revoked", "paused, not in the query"} {
		add(name, everyPermission, `"query_allowed": `+fmt.Sprint(name != "paused, not in the query"))
	}
	add("expired", everyPermission, `"expires_at": "2026-02-03T09:00:01Z"`)
	a.operate(200, "POST", "/admin/v1/keys/"+keys["paused"].id+"/pause", "")
	a.operate(200, "POST", "/admin/v1/keys/"+keys["paused, not in the query"].id+"/pause", "")
	a.operate(200, "POST", "/admin/v1/keys/"+keys["revoked"].id+"/revoke", "")
	const call = `{"phone_number": "+4930555044", "agent_id": 1}`
	a.ask("GET", "/api/v1/agents", keys["spent"].secret, "")
	a.ask("GET", "/api/v1/agents", keys["spent and powerless"].secret, "")
	if w := a.ask("POST", "/api/v1/calls", keys["one call a day"].secret, call); w.Code != 201 {
		t.Fatalf("got %d %s", w.Code, w.Body)
	}
	a.clocks.Pass(2 * time.Second)
	refusals := map[string]int{}
	for name, key := range keys {
		for _, q := range []struct{ method, path string }{
			{"GET", "/api/v1/agents"}, {"GET", "/api/v1/calls/"}, {"POST", "/api/v1/calls"}, {"GET", "/api/v1/key"}, {"GET", "/api/v1/contacts/create"},
			{"POST", "/api/v1/agents"}, {"GET", "/api/v1/nothing"}, {"POST", "/api/v1/verify"}, {"GET", "/api/v1/calls?status=ended&page=1"}, {"get", "/api/v1/agents"},
		} {
			for _, carrier := range []string{CarrierBearer, CarrierHeader, CarrierQuery} {
				body, _ := json.Marshal(map[string]string{"method": q.method, "path": q.path, "ip": "192.0.2.1", "carrier": carrier})
				a.operate(200, "POST", "/admin/v1/keys/"+key.id+"/explain", string(body))
				got := a.operate(200, "POST", "/admin/v1/keys/"+key.id+"/explain", string(body))
				r := httptest.NewRequest(q.method, q.path, strings.NewReader(call))
				switch carrier {
				case CarrierBearer:
					r.Header.Set("Authorization", "Bearer "+key.secret)
				case CarrierHeader:
					r.Header.Set("X-API-Key", key.secret)
				case CarrierQuery:
					values := r.URL.Query()
					values.Set("api_key", key.secret)
					r.URL.RawQuery = values.Encode()
				}
				a.Server.throttle = NewThrottle(60, time.Minute)
				w := httptest.NewRecorder()
				a.api.ServeHTTP(w, r)
				passed := w.Code < 400 || got["allowed"] == true && (w.Code == 404 || w.Code == 400) // of the handler, which comes after the checks
				if got["allowed"] != passed || !passed && (got["status"] != float64(w.Code) || got["error"] != code(w)) {
					t.Errorf("%s: %s %s by %s: explained as %v %v %v (%v), came out as %d %s", name, q.method, q.path, carrier, got["allowed"], got["status"], got["error"], got["refused_by"], w.Code, w.Body)
				}
				if !passed {
					refusals[fmt.Sprint(got["refused_by"])]++
				}
				a.clocks.Pass(100 * time.Millisecond)
			}
		}
	}
	for _, check := range []string{"route", "state", "carrier", "address", "limit " + RequestsPerMinute, "permission", "limit " + CallsPerDay} {
		if refusals[check] == 0 {
			t.Errorf("no request was refused by %s; %v", check, refusals)
		}
	}
}

func TestExplainer_Steps(t *testing.T) {
	a := newTestApp(t)
	id, key := a.key(`["can_read_calls"]`, `"allowed_ips": ["192.0.2.0/24"]`)
	a.ask("GET", "/api/v1/calls", key, "")
	got := a.operate(200, "POST", "/admin/v1/keys/"+id+"/explain", `{"method": "POST", "path": "/api/v1/calls"}`)
	var order []string
	for _, v := range got["checks"].([]any) {
		step := v.(map[string]any)
		order = append(order, fmt.Sprint(step["check"], "=", step["passes"]))
		if step["check"] == "limit "+RequestsPerMinute && fmt.Sprint(step["limit"]) != "map[kind:window max:60 remaining:59 resets_at:2026-02-03T09:01:00Z used:1]" {
			t.Errorf("got the limit's standing %v", step["limit"])
		}
	}
	want := "route=true state=true carrier=true address=<nil> limit concurrent_requests=true limit requests_per_minute_limit=true permission=false limit calls_per_day_limit=true"
	if strings.Join(order, " ") != want || got["refused_by"] != "permission" || !strings.Contains(got["message"].(string), "can_initiate_calls") {
		t.Errorf("got %s, refused by %v: %v", strings.Join(order, " "), got["refused_by"], got["message"])
	}
	for _, body := range []string{`{}`, `{"method": "GET"}`, `{"method": "GET", "path": "calls"}`, `{"method": "GET", "path": "/x", "ip": "here"}`, `{"method": "GET", "path": "/x", "carrier": "pigeon"}`} {
		w := httptest.NewRecorder()
		a.local.ServeHTTP(w, httptest.NewRequest("POST", "/admin/v1/keys/"+id+"/explain", strings.NewReader(body)))
		if w.Code != 400 {
			t.Errorf("%s: got %d %s, want 400", body, w.Code, w.Body)
		}
	}
	a.refuse("POST", "/admin/v1/keys/none/explain", `{"method": "GET", "path": "/api/v1/calls"}`, 404, "not_found", "")
}

func TestRefusals(t *testing.T) {
	a := newCallApp(t)
	refused := func(query string) []any {
		return a.operate(200, "GET", "/admin/v1/refusals"+query, "")["refusals"].([]any)
	}
	_, good := a.key(everyPermission, `"limits": {"requests_per_minute_limit": 3, "calls_per_day_limit": 1}`)
	pausedID, paused := a.key(everyPermission)
	a.operate(200, "PATCH", "/admin/v1/keys/"+pausedID, `{"name": "sleeper"}`)
	a.operate(200, "POST", "/admin/v1/keys/"+pausedID+"/pause", "")
	_, fenced := a.key(everyPermission, `"allowed_ips": ["203.0.113.0/24"]`)
	_, narrow := a.key(`["can_read_agents"]`)
	_, query := a.key(everyPermission, `"query_allowed": false`)
	const call = `{"phone_number": "+4930555044", "agent_id": 1}`
	for _, tt := range []struct {
		method, path, key, body, step, code string
	}{
		{"GET", "/api/v1/nothing", good, "", StepRoute, "not_found"},
		{"GET", "/api/v1/agents", "", "", StepCarrier, "authentication_required"},
		{"GET", "/api/v1/agents?api_key=" + query, "", "", StepCarrier, "invalid_key"},
		{"GET", "/api/v1/agents", good[:len(good)-1] + "!", "", StepKey, "invalid_key"},
		{"GET", "/api/v1/agents", paused, "", StepState, "invalid_key"},
		{"GET", "/api/v1/agents", fenced, "", StepAddress, "permission_denied"},
		{"GET", "/api/v1/calls", narrow, "", StepPermission, "permission_denied"},
		{"POST", "/api/v1/calls", good, "{}", StepHandler, "missing_phone_number"},
		{"POST", "/api/v1/calls", good, call, "", ""},
		{"POST", "/api/v1/calls", good, call, StepLimit, "rate_limit_exceeded"},
		{"GET", "/api/v1/agents", good, "", StepLimit, "rate_limit_exceeded"},
	} {
		before := len(refused("?limit=1000"))
		w := a.ask(tt.method, tt.path, tt.key, tt.body)
		if tt.step == "" {
			if w.Code >= 400 || len(refused("?limit=1000")) != before {
				t.Errorf("%s %s: got %d %s, want it to pass and not to be kept", tt.method, tt.path, w.Code, w.Body)
			}
			continue
		}
		id := object(t, w.Body.String())["request_id"].(string)
		list := refused("?id=" + id)
		if len(list) != 1 {
			t.Fatalf("%s %s: got %d refusals of %s", tt.method, tt.path, len(list), id)
		}
		one := list[0].(map[string]any)
		if one["refused_by"] != tt.step || one["error"] != tt.code || one["status"] != float64(w.Code) || one["message"] != object(t, w.Body.String())["message"] {
			t.Errorf("%s %s: got %v, want %s and %s", tt.method, tt.path, one, tt.step, tt.code)
		}
		if text := fmt.Sprint(one); strings.Contains(text, query) || tt.key != "" && strings.Contains(text, tt.key) {
			t.Errorf("%s %s: a secret is in %s", tt.method, tt.path, text)
		}
	}
	latest := refused("?code=rate_limit_exceeded")[0].(map[string]any)
	if got := fmt.Sprint(latest["limits"]); got != "[map[kind:window max:3 name:requests_per_minute_limit remaining:0 retry_after:60 used:3 window_seconds:60]]" {
		t.Errorf("got %s", got)
	}
	if list := refused("?key=" + pausedID); len(list) != 1 || list[0].(map[string]any)["key_name"] != "sleeper" {
		t.Errorf("got %v, want the one of the paused key", list)
	}
	if list := refused("?limit=2&page=2"); len(list) != 2 {
		t.Errorf("got %d rows of the second page, want 2", len(list))
	}
}

func TestRefusals_bound(t *testing.T) {
	f := NewRefusals()
	for n := range maxRefusals + 7 {
		f.Note(&Outcome{ID: fmt.Sprint(n), Status: 404, Code: "not_found", Client: netip.MustParseAddr("192.0.2.1")})
	}
	if len(f.list) != maxRefusals || f.list[f.next].id != "7" || f.list[f.next-1].id != fmt.Sprint(maxRefusals+6) {
		t.Errorf("got %d, oldest %s, newest %s", len(f.list), f.list[f.next].id, f.list[f.next-1].id)
	}
}
