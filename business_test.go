package main

import (
	"encoding/json"
	"strings"
	"time"
)

// week is the Monday after the next, as the calendar has it filled.
func week() time.Time {
	now := time.Now().UTC().Truncate(24 * time.Hour)
	return now.AddDate(0, 0, 14-(int(now.Weekday())+6)%7)
}

// fillBusiness makes a business that has used the service for a week until now, and
// gives the ids and the secrets of its keys by their names, and the id of a
// variable that is not built in.
func fillBusiness(a *testApp) (ids, secrets map[string]string) {
	a.t.Helper()
	const span = 7 * 24 * time.Hour
	if age := time.Since(epoch); age > span {
		a.clocks.Pass(age - span)
	}
	add := func(path string, body map[string]any) map[string]any {
		a.t.Helper()
		data, err := json.Marshal(body)
		if err != nil {
			a.t.Fatal(err)
		}
		return a.operate(201, "POST", "/admin/v1/"+path, string(data))
	}
	type object = map[string]any
	add("operators", object{"name": "Ann", "password": operatorPassword})
	add("teams", object{"name": "Reception"})
	add("agents", object{"name": "Front desk", "role": "inbound agent", "phone_number": "+4930555001", "team_id": 1})
	add("agents", object{"name": evil})
	add("contacts", object{"first_name": "Mara", "last_name": "Lind", "email": "mara@example.net", "company": "Lind KG", "tags": []string{"Regular"}, "phone_numbers": []object{{"phone_number": "+4930555010", "phone_type": "mobile"}}})
	add("contacts", object{"first_name": evil, "phone_numbers": []object{{"phone_number": "+4930555011"}}})
	add("schedules", object{"time_zone": "Europe/Berlin"})
	add("calls", object{"agent_id": 1, "phone_number": "+4930555010", "contact_id": 1, "status": "completed", "summary": strings.Repeat("x", 300), "recording_url": "https://files.example.net/" + strings.Repeat("x", 300)})
	add("webhooks", object{"name": "CRM", "url": "https://hooks.example.invalid/" + strings.Repeat("x", 300), "subscribed_events": []string{"call.ended"}})
	add("do-not-call", object{"phone_number": "+4930555099", "reason": "asked for it"})
	variable := add("variables", object{"name": "opening_hours", "display_name": "Opening hours", "variable_type": "text", "context_type": "business"})
	for _, e := range []struct {
		day, hour, minutes int
		title, status      string
	}{{0, 9, 45, "First visit", "confirmed"}, {0, 9, 30, "Phone call", "scheduled"}, {0, 14, 60, "Fitting", "scheduled"}, {1, 10, 90, "Site visit", "confirmed"}, {2, 8, 30, "Review", "confirmed"}, {2, 11, 60, "Lunch with Mara", "scheduled"}, {3, 13, 120, "Workshop", "confirmed"}, {4, 10, 45, "Follow-up", "scheduled"}, {12, 15, 30, evil, "scheduled"}} {
		start := week().AddDate(0, 0, e.day).Add(time.Duration(e.hour) * time.Hour)
		add("events", object{"title": e.title, "status": e.status, "start_time": start.Format(time.RFC3339), "end_time": start.Add(time.Duration(e.minutes) * time.Minute).Format(time.RFC3339), "contact_id": 1})
	}
	ids, secrets = fillKeys(a, span, func(body map[string]any) (id, key string) {
		made := add("keys", body)
		return made["id"].(string), made["key"].(string)
	})
	ids["opening_hours"] = Shown(variable["id"])
	return ids, secrets
}

// fillKeys makes keys in every state and uses them, hour by hour.
func fillKeys(a *testApp, span time.Duration, add func(map[string]any) (id, key string)) (ids, secrets map[string]string) {
	a.t.Helper()
	type object = map[string]any
	caller, reader := []string{"can_read_calls", "can_initiate_calls", "can_read_agents", "can_read_contacts"}, []string{"can_read_agents", "can_read_calls"}
	ids, secrets = map[string]string{}, map[string]string{}
	for _, body := range []object{
		{"name": evil, "permissions": reader, "metadata": object{"note": strings.Repeat("unbroken", 30)}},
		{"name": "kiosk", "permissions": caller},
		{"name": "old import", "permissions": reader, "metadata": object{"note": "from the gateway before"}},
		{"name": "partner", "permissions": reader, "owner": "partner", "limits": object{RequestsPerMinute: 5}},
		{"name": "nightly report", "permissions": reader, "environment": "live", "expires_at": a.clocks.Read().Wall.Add(span + 3*24*time.Hour).UTC().Format(time.RFC3339)},
		{"name": "crm", "permissions": caller, "environment": "live", "metadata": object{"note": "connector on the old server"}},
		{"name": "ci-runner", "permissions": reader, "environment": "test", "metadata": object{"note": "GitHub secret KLEN_KEY"}},
		{"name": "booking site", "permissions": caller, "environment": "live", "limits": object{CallsPerDay: 10}, "metadata": object{"note": "environment of the web server"}},
	} {
		name := body["name"].(string)
		ids[name], secrets[name] = add(body)
	}
	change := func(name, verb, body string) map[string]any {
		return a.operate(200, "POST", "/admin/v1/keys/"+ids[name]+"/"+verb, body)
	}
	change(evil, "revoke", "")
	change("old import", "pause", "")
	for hour := range int(span / time.Hour) {
		for range 2 + hour%24/4 {
			a.ask("GET", "/api/v1/agents", secrets["booking site"], "")
		}
		if hour%24 > 6 {
			a.ask("GET", "/api/v1/calls", secrets["ci-runner"], "")
			a.ask("GET", "/api/v1/agents?api_key="+secrets["crm"], "", "")
		}
		for range hour % 9 {
			a.ask("GET", "/api/v1/agents", secrets["partner"], "")
		}
		if hour%24 == 3 {
			a.ask("GET", "/api/v1/calls", secrets["nightly report"], "")
			a.ask("GET", "/api/v1/contacts", secrets["nightly report"], "")
		}
		if hour == int(span/time.Hour)-2 {
			change("crm", "rotate", `{"overlap_seconds": 604800}`)
		}
		a.clocks.Pass(time.Hour)
	}
	for range 4 {
		if w := a.ask("POST", "/api/v1/calls", secrets["booking site"], `{"phone_number": "+4930555010", "agent_id": 1}`); w.Code >= 300 {
			a.t.Errorf("place a call: got %d %s", w.Code, w.Body)
		}
	}
	return ids, secrets
}
