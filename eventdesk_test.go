package main

import (
	"fmt"
	"strings"
	"testing"
)

func TestEventDesk(t *testing.T) {
	a := newTestApp(t)
	a.operate(201, "POST", "/admin/v1/agents", `{"name": "Front desk"}`)
	a.operate(201, "POST", "/admin/v1/teams", `{"name": "Reception", "members": ["ann"]}`)
	a.operate(201, "POST", "/admin/v1/webhooks", `{"name": "W", "url": "https://hooks.example.invalid/x", "subscribed_events": ["calendar.created", "calendar.updated", "calendar.cancelled"]}`)
	waiting := func() float64 {
		return a.operate(200, "GET", "/admin/v1/webhooks/1", "")["waiting"].(float64)
	}
	for body, want := range map[string]string{
		`{"title": "Fitting"}`: "missing_parameter",
		`{"title": "Fitting", "start_time": "x", "end_time": "2026-03-02T10:00:00Z"}`:                                      "invalid_datetime_format",
		`{"title": "Fitting", "start_time": "2026-03-02T10:00:00Z", "end_time": "2026-03-02T10:00:00Z"}`:                   "validation_error",
		`{"title": "Fitting", "start_time": "2026-03-02T09:00:00Z", "end_time": "2026-03-02T10:00:00Z", "ai_agent_id": 7}`: "agent_not_found",
		`{"title": "Fitting", "start_time": "2026-03-02T09:00:00Z", "end_time": "2026-03-02T10:00:00Z", "team_id": 1}`:     "team_access_denied",
		`{"title": "Fitting", "start_time": "2026-03-02T09:00:00Z", "end_time": "2026-03-02T10:00:00Z", "owner": 5}`:       "validation_error",
	} {
		if w := a.control("POST", "/admin/v1/events", body); code(w) != want {
			t.Errorf("%s: got %d %s, want %s", body, w.Code, w.Body, want)
		}
	}
	made := a.operate(201, "POST", "/admin/v1/events", `{"title": "Fitting", "start_time": "2026-03-02T22:30:00Z", "end_time": "2026-03-02T23:30:00Z", "owner": "ann", "team_id": 1}`)
	if made["owner"] != "ann" || made["status"] != "scheduled" || waiting() != 1 {
		t.Errorf("got %v with %v waiting", made, waiting())
	}
	a.operate(201, "POST", "/admin/v1/events", `{"title": "Other", "start_time": "2026-03-04T09:00:00Z", "end_time": "2026-03-04T10:00:00Z", "ai_agent_id": 1}`)
	for query, want := range map[string]string{
		"start_date=2026-03-02&end_date=2026-03-08": "Fitting Other", "start_date=2026-03-03&end_date=2026-03-03": "", "start_date=2026-03-03&end_date=2026-03-03&time_zone=Europe/Berlin": "Fitting",
		"start_date=2026-03-01&owner=ann": "Fitting", "start_date=2026-03-01&owner=nobody": "", "start_date=2026-03-01&status=cancelled": "", "start_date=2026-03-01&limit=1&page=2": "Other",
	} {
		rows, _ := a.operate(200, "GET", "/admin/v1/events?"+query, "")["events"].([]any)
		var titles []string
		for _, row := range rows {
			titles = append(titles, row.(map[string]any)["title"].(string))
		}
		if got := strings.Join(titles, " "); got != want {
			t.Errorf("%s: got %q, want %q", query, got, want)
		}
	}
	for query, want := range map[string]string{"time_zone=Mars": "invalid_parameter_format", "start_date=x": "invalid_parameter_format", "status=odd": "validation_error", "page=0": "validation_error"} {
		if w := a.control("GET", "/admin/v1/events?"+query, ""); code(w) != want {
			t.Errorf("%s: got %d %s, want %s", query, w.Code, w.Body, want)
		}
	}
	uuid := made["uuid"].(string)
	if v := a.operate(200, "PATCH", "/admin/v1/events/"+uuid, `{"title": "Second fitting"}`); v["title"] != "Second fitting" || v["start_time"] != "2026-03-02T22:30:00.000Z" || waiting() != 3 {
		t.Errorf("got %v with %v waiting", v, waiting())
	}
	if w := a.control("PATCH", "/admin/v1/events/1", `{"ai_agent_id": 1}`); code(w) != "agent_not_found" {
		t.Errorf("another owner's agent: got %d %s", w.Code, w.Body)
	}
	for range 2 {
		v := a.operate(200, "POST", "/admin/v1/events/1/cancel", `{"reason": "ill"}`)
		if notes := v["customer"].(map[string]any)["notes"]; v["status"] != "cancelled" || notes != "Cancelled: ill" || waiting() != 4 {
			t.Errorf("got %v, notes %v, %v waiting", v["status"], notes, waiting())
		}
	}
	a.operate(404, "GET", "/admin/v1/events/9", "")
	a.operate(404, "POST", "/admin/v1/events/9/cancel", "")
	// An operator's event costs no key anything, and the owner's key sees it.
	_, key := a.key(`["can_read_calendar"]`, `"owner": "ann"`)
	if w := a.ask("GET", "/api/v1/calendar/events/1", key, ""); w.Code != 200 {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
}

func TestVariables_Desk(t *testing.T) {
	a := newTestApp(t)
	for body, want := range map[string]string{
		`{"name": "Visits"}`: "missing_parameter",
		`{"name": "Visits", "display_name": "Visits", "variable_type": "number", "context_type": "contact"}`: "validation_error",
		`{"name": "visits", "display_name": "Visits", "variable_type": "odd", "context_type": "contact"}`:    "validation_error",
		`{"name": "kind", "display_name": "Kind", "variable_type": "select", "context_type": "contact"}`:     "missing_parameter",
	} {
		if w := a.control("POST", "/admin/v1/variables", body); code(w) != want {
			t.Errorf("%s: got %d %s, want %s", body, w.Code, w.Body, want)
		}
	}
	made := a.operate(201, "POST", "/admin/v1/variables", `{"name": "visits", "display_name": "Visits", "variable_type": "number", "context_type": "business", "owner": "ann"}`)
	if made["owner"] != "ann" || made["id"] != 3.0 { // after the two that every account has
		t.Errorf("got %v", made)
	}
	if w := a.control("POST", "/admin/v1/variables", `{"name": "visits", "display_name": "Visits", "variable_type": "number", "context_type": "business", "owner": "ann"}`); code(w) != "duplicate_variable" {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	for query, want := range map[string]float64{"": 3, "?owner=ann": 3, "?owner=bob": 0, "?context_type=business": 2, "?search=VIS": 1} {
		if v := a.operate(200, "GET", "/admin/v1/variables"+query, ""); v["count"] != want {
			t.Errorf("%s: got %v, want %v", query, v["count"], want)
		}
	}
	if v := a.operate(200, "PATCH", "/admin/v1/variables/3", `{"display_name": "Times", "name": "other"}`); v["display_name"] != "Times" || v["name"] != "visits" {
		t.Errorf("got %v", v)
	}
	if w := a.control("DELETE", "/admin/v1/variables/1", ""); code(w) != "delete_not_allowed" {
		t.Errorf("a built-in one: got %d %s", w.Code, w.Body)
	}
	if v := a.operate(200, "PATCH", "/admin/v1/business-context", `{"owner": "ann", "variables": {"visits": 3, "company_name": "Lind KG"}}`); v["variables"].(map[string]any)["visits"] != 3.0 {
		t.Errorf("got %v", v)
	}
	told := a.operate(200, "GET", "/admin/v1/audit?action=business-context", "")["entries"].([]any)[0].(map[string]any)["detail"]
	if got := fmt.Sprint(told); got != "map[owner:ann variables:[company_name visits]]" {
		t.Errorf("the audit log: got %s", got)
	}
	for body, want := range map[string]string{
		`{"owner": "ann"}`: "missing_parameter", `{"owner": "ann", "variables": {"visits": "many"}}`: "invalid_value", `{"variables": {"unknown": 1}}`: "undefined_variable",
	} {
		if w := a.control("PATCH", "/admin/v1/business-context", body); code(w) != want {
			t.Errorf("%s: got %d %s, want %s", body, w.Code, w.Body, want)
		}
	}
	a.operate(200, "PATCH", "/admin/v1/business-context", `{"variables": {"own": true}, "auto_create_variables": true}`)
	if v := a.operate(200, "GET", "/admin/v1/business-context?owner=ann", ""); v["variables"].(map[string]any)["company_name"] != "Lind KG" {
		t.Errorf("got %v", v)
	}
	a.operate(200, "DELETE", "/admin/v1/variables/3", "")
	a.operate(404, "GET", "/admin/v1/variables/3", "")
}
