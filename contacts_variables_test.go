package main

import (
	"fmt"
	"strings"
	"testing"
)

func TestVariables_Definitions(t *testing.T) {
	a := newCallApp(t)
	_, key := a.key(everyPermission, `"limits": {"requests_per_minute_limit": 100000}`)
	_, other := a.key(everyPermission, `"owner": "eve"`)
	const path = "/api/v1/context-variables"
	list := object(t, a.ask("GET", path, key, "").Body.String())
	if list["count"] != 2.0 || members(list) != "count variables" {
		t.Errorf("got %v, want the built-in ones", list)
	}
	if row := list["variables"].([]any)[0]; members(row) != "context_type description display_name id is_default name select_options variable_type" || row.(map[string]any)["is_default"] != true {
		t.Errorf("got %v", row)
	}
	for _, tt := range []struct {
		body   string
		status int
		code   string
	}{
		{`{`, 400, "invalid_json"},
		{`[]`, 400, "invalid_json"},
		{`{}`, 400, "missing_parameter"},
		{`{"name": "x", "variable_type": "text", "context_type": "contact"}`, 400, "missing_parameter"},
		{`{"name": "x", "display_name": "X", "context_type": "contact"}`, 400, "missing_parameter"},
		{`{"name": "x", "display_name": "X", "variable_type": "text"}`, 400, "missing_parameter"},
		{`{"name": "x", "display_name": "X", "variable_type": "select", "context_type": "contact"}`, 400, "missing_parameter"},
		{`{"name": "x", "display_name": "X", "variable_type": "select", "context_type": "contact", "select_options": []}`, 400, "missing_parameter"},
		{`{"name": "x", "display_name": "X", "variable_type": "select", "context_type": "contact", "select_options": ["a", "a"]}`, 400, "validation_error"},
		{`{"name": "Upper", "display_name": "X", "variable_type": "text", "context_type": "contact"}`, 400, "validation_error"},
		{`{"name": "x", "display_name": "X", "variable_type": "money", "context_type": "contact"}`, 400, "validation_error"},
		{`{"name": "x", "display_name": "X", "variable_type": "text", "context_type": "agent"}`, 400, "validation_error"},
		{`{"name": 7, "display_name": "X", "variable_type": "text", "context_type": "contact"}`, 400, "validation_error"},
		{`{"name": "loyalty_tier", "display_name": "Loyalty Tier", "description": "Bonus level", "variable_type": "select", "context_type": "contact", "select_options": ["blue", "green"]}`, 201, ""},
		{`{"name": "loyalty_tier", "display_name": "Again", "variable_type": "text", "context_type": "contact"}`, 400, "duplicate_variable"},
		{`{"name": "loyalty_tier", "display_name": "Of the business", "variable_type": "text", "context_type": "business"}`, 201, ""},
	} {
		if w := a.ask("POST", path+"/create", key, tt.body); w.Code != tt.status || tt.code != "" && code(w) != tt.code {
			t.Errorf("%s: got %d %s, want %d %s", tt.body, w.Code, w.Body, tt.status, tt.code)
		}
	}
	if v := object(t, a.ask("GET", path+"?context_type=contact", key, "").Body.String()); v["count"] != 2.0 || !strings.Contains(fmt.Sprint(v), "[blue green]") {
		t.Errorf("got %v", v)
	}
	if w := a.ask("GET", path+"?context_type=agent", key, ""); code(w) != "validation_error" {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	if w := a.ask("POST", path+"/create", other, `{"name": "loyalty_tier", "display_name": "Mine", "variable_type": "text", "context_type": "contact"}`); w.Code != 201 {
		t.Errorf("another account may use the name too: got %d %s", w.Code, w.Body)
	}
	for _, tt := range []struct {
		method, path, key, body string
		status                  int
		want                    string
	}{
		{"PATCH", "/3/update", key, `{"display_name": "Tier", "name": "ignored", "context_type": "business"}`, 200, `"display_name":"Tier"`},
		{"PUT", "/3/update", key, `{}`, 200, "Updated."},
		{"PATCH", "/3/update", key, `{"variable_type": "money"}`, 400, "validation_error"},
		{"PATCH", "/3/update", key, `{"display_name": ""}`, 400, "validation_error"},
		{"PATCH", "/4/update", key, `{"variable_type": "select"}`, 400, "missing_parameter"},
		{"PATCH", "/3/update", key, `{`, 400, "invalid_json"},
		{"PATCH", "/99/update", key, `{}`, 404, "not_found"},
		{"PATCH", "/x/update", key, `{}`, 404, "not_found"},
		{"PATCH", "/3/update", other, `{}`, 404, "not_found"},
		{"PATCH", "/1/update", key, `{"display_name": "Language"}`, 200, "Language"},
		{"DELETE", "/1/delete", key, ``, 403, "delete_not_allowed"},
		{"DELETE", "/3/delete", other, ``, 404, "not_found"},
		{"DELETE", "/3/delete", key, ``, 200, `{"message":"Deleted."}`},
		{"DELETE", "/3/delete", key, ``, 404, "not_found"},
	} {
		if w := a.ask(tt.method, path+tt.path, tt.key, tt.body); w.Code != tt.status || !strings.Contains(w.Body.String(), tt.want) {
			t.Errorf("%s %s %s: got %d %s, want %d %s", tt.method, tt.path, tt.body, w.Code, w.Body, tt.status, tt.want)
		}
	}
	_, reader := a.key(`["can_read_contacts"]`)
	if w := a.ask("POST", path+"/create", reader, `{}`); code(w) != "permission_denied" || !strings.Contains(w.Body.String(), "can_write_contacts") {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
}

// TestContexts_Values checks the table of contract 6. For each type it checks which
// values are accepted, how they are stored, and which are refused.
func TestContexts_Values(t *testing.T) {
	a := newCallApp(t)
	_, key := a.key(everyPermission, `"limits": {"requests_per_minute_limit": 100000}`)
	for _, kind := range []string{"text", "number", "date", "boolean", "select"} {
		body := fmt.Sprintf(`{"name": "a_%s", "display_name": "A", "variable_type": %q, "context_type": "contact", "select_options": ["one", "two"]}`, kind, kind)
		if w := a.ask("POST", "/api/v1/context-variables/create", key, body); w.Code != 201 {
			t.Fatalf("got %d %s", w.Code, w.Body)
		}
	}
	for _, tt := range []struct{ name, value, stored string }{ // if stored is "", the value is refused
		{"a_text", `"x"`, `"x"`}, {"a_text", `""`, `""`}, {"a_text", `7`, ""}, {"a_text", `true`, ""}, {"a_text", `{}`, ""},
		{"a_number", `42`, `42`}, {"a_number", `"42"`, `42`}, {"a_number", `"4.50"`, `4.50`}, {"a_number", `12345678901234567890`, `12345678901234567890`},
		{"a_number", `"forty"`, ""}, {"a_number", `"0x10"`, ""}, {"a_number", `"NaN"`, ""}, {"a_number", `""`, ""}, {"a_number", `true`, ""},
		{"a_date", `"2026-02-03"`, `"2026-02-03"`}, {"a_date", `"2026-02-03T09:15:00Z"`, `"2026-02-03T09:15:00Z"`}, {"a_date", `"2026-02-03T09:15:00"`, `"2026-02-03T09:15:00"`},
		{"a_date", `"03.02.2026"`, ""}, {"a_date", `"2026-02-30"`, ""}, {"a_date", `20260203`, ""},
		{"a_boolean", `true`, `true`}, {"a_boolean", `"Yes"`, `true`}, {"a_boolean", `"1"`, `true`}, {"a_boolean", `"FALSE"`, `false`}, {"a_boolean", `"no"`, `false`}, {"a_boolean", `"0"`, `false`},
		{"a_boolean", `1`, ""}, {"a_boolean", `"maybe"`, ""},
		{"a_select", `"two"`, `"two"`}, {"a_select", `"three"`, ""}, {"a_select", `1`, ""},
	} {
		w := a.ask("POST", "/api/v1/contacts/1/context", key, fmt.Sprintf(`{"variables": {%q: %s}}`, tt.name, tt.value))
		if tt.stored == "" {
			if w.Code != 400 || code(w) != "invalid_value" || !strings.Contains(w.Body.String(), tt.name) {
				t.Errorf("%s %s: got %d %s, want invalid_value", tt.name, tt.value, w.Code, w.Body)
			}
			continue
		}
		if w.Code != 200 || strings.TrimSpace(w.Body.String()) != `{"contact_id":1,"message":"Saved."}` {
			t.Errorf("%s %s: got %d %s", tt.name, tt.value, w.Code, w.Body)
		}
		if shown := a.ask("GET", "/api/v1/contacts/1", key, "").Body.String(); !strings.Contains(shown, fmt.Sprintf("%q:%s", tt.name, tt.stored)) {
			t.Errorf("%s %s: the contact shows %s, want %s", tt.name, tt.value, shown, tt.stored)
		}
	}
}

func TestContexts_Assignments(t *testing.T) {
	a := newCallApp(t)
	_, key := a.key(everyPermission, `"limits": {"requests_per_minute_limit": 100000}`)
	context := func() map[string]any {
		return object(t, a.ask("GET", "/api/v1/contacts/1", key, "").Body.String())["custom_context"].(map[string]any)
	}
	for _, tt := range []struct {
		path, body string
		status     int
		code       string
	}{
		{"/contacts/1/context", `{`, 400, "invalid_json"},
		{"/contacts/1/context", `{}`, 400, "missing_parameter"},
		{"/contacts/1/context", `{"variables": []}`, 400, "missing_parameter"},
		{"/contacts/1/context", `{"variables": null}`, 400, "missing_parameter"},
		{"/contacts/99/context", `{"variables": {}}`, 404, "not_found"},
		{"/contacts/x/context", `{"variables": {}}`, 404, "not_found"},
		{"/contacts/1/context", `{"variables": {"unknown": 1}}`, 400, "undefined_variable"},
		{"/contacts/1/context", `{"variables": {"unknown": null}}`, 400, "undefined_variable"},
		{"/contacts/1/context", `{"variables": {"Bad Name": 1}, "auto_create_variables": true}`, 400, "validation_error"},
		{"/contacts/1/context", `{"variables": {"nested": {"a": 1}}, "auto_create_variables": true}`, 400, "invalid_value"},
		// If one value is bad, nothing is stored, not even the definition for the good
		// value.
		{"/contacts/1/context", `{"variables": {"a_good": 1, "z_bad": []}, "auto_create_variables": true}`, 400, "invalid_value"},
		{"/contacts/1/context", `{"variables": {"visits": 3, "vip": true, "since": "2020-01-31", "nickname": "Mo"}, "auto_create_variables": true}`, 200, ""},
		{"/contacts/1/context", `{"variables": {"visits": "4", "nickname": null}}`, 200, ""},
		{"/contacts/1/context", `{"variables": {"visits": "many"}}`, 400, "invalid_value"},
		{"/business/context", `{"variables": {"opening_hours": "9 to 5"}}`, 400, "undefined_variable"},
		{"/business/context", `{"variables": {"opening_hours": "9 to 5"}, "auto_create_variables": true}`, 200, ""},
		{"/business/context", `{"variables": {"visits": 1}}`, 400, "undefined_variable"}, // visits is defined only for contacts
	} {
		if w := a.ask("POST", "/api/v1"+tt.path, key, tt.body); w.Code != tt.status || tt.code != "" && code(w) != tt.code {
			t.Errorf("%s: got %d %s, want %d %s", tt.body, w.Code, w.Body, tt.status, tt.code)
		}
	}
	if got := fmt.Sprint(context()); got != "map[since:2020-01-31 vip:true visits:4]" {
		t.Errorf("got %s", got)
	}
	kinds := map[string]string{}
	for _, row := range object(t, a.ask("GET", "/api/v1/context-variables", key, "").Body.String())["variables"].([]any) {
		v := row.(map[string]any)
		kinds[v["name"].(string)] = v["variable_type"].(string) + " " + v["display_name"].(string)
	}
	if got := fmt.Sprint(kinds); got != "map[company_name:text Company Name nickname:text Nickname opening_hours:text Opening Hours preferred_language:text Preferred Language since:date Since vip:boolean Vip visits:number Visits]" {
		t.Errorf("got %s", got)
	}
	a.restart()
	if v := a.operate(200, "GET", "/admin/v1/business-context", ""); fmt.Sprint(v["variables"]) != "map[opening_hours:9 to 5]" {
		t.Errorf("got %v", v)
	}
	if v := a.operate(404, "GET", "/admin/v1/business-context?owner=nobody", ""); v["error"] != "not_found" {
		t.Errorf("got %v", v)
	}
}

func TestPromptVariables(t *testing.T) {
	a := newCallApp(t)
	_, key := a.key(everyPermission)
	a.ask("POST", "/api/v1/business/context", key, `{"variables": {"city": "Kiel", "motto": "Hi"}, "auto_create_variables": true}`)
	a.ask("POST", "/api/v1/contacts/1/context", key, `{"variables": {"city": "Bonn", "tier": "blue", "business_motto": "Moin"}, "auto_create_variables": true}`)
	w := a.ask("POST", "/api/v1/calls", key, `{"phone_number": "+4930555044", "agent_id": 1, "contact_id": 1, "variables": {"tier": "gold", "order": {"id": 7}}}`)
	if w.Code != 201 {
		t.Fatalf("got %d %s", w.Code, w.Body)
	}
	claimed := a.operate(200, "POST", "/admin/v1/calls/claim", "")["call"].(map[string]any)
	if got := fmt.Sprint(claimed["prompt_variables"]); got != "map[business_city:Kiel business_motto:Moin city:Bonn order:map[id:7] tier:gold]" {
		t.Errorf("got %s", got)
	}
}
