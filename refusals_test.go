package main

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

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
	if got := fmt.Sprint(latest["limits"]); got != "[map[max:3 name:requests_per_minute_limit remaining:0 retry_after:60 used:3 window_seconds:60]]" {
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
	for n := range MaxRefusals + 7 {
		f.Note(&Outcome{ID: fmt.Sprint(n), Status: 404, Code: "not_found", Client: netip.MustParseAddr("192.0.2.1")})
	}
	if len(f.list) != MaxRefusals || f.list[f.next].id != "7" || f.list[f.next-1].id != fmt.Sprint(MaxRefusals+6) {
		t.Errorf("got %d, oldest %s, newest %s", len(f.list), f.list[f.next].id, f.list[f.next-1].id)
	}
}
