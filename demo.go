package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"
)

// Demo is what opens the two doors of a demo.
type Demo struct{ Key, Password string }

// demoOperator is who may log in to the dashboard of a demo.
const demoOperator = "demo"

// SeedDemo fills an empty store with a team, agents, contacts, calls and events
// of these days by way of the admin endpoint, and makes an operator and a key
// that may do everything.
func SeedDemo(ctx context.Context, c *Client, now time.Time) (d Demo, err error) {
	type object = map[string]any
	at := func(day, hour, minutes int) string {
		midnight := now.UTC().Truncate(24*time.Hour).AddDate(0, 0, day)
		return midnight.Add(time.Duration(hour)*time.Hour + time.Duration(minutes)*time.Minute).Format(time.RFC3339)
	}
	d.Password = RandomHex(8)
	var team struct {
		ID int `json:"id"`
	}
	if err := c.Do(ctx, http.MethodPost, "/admin/v1/teams", object{"name": "Reception"}, &team); err != nil {
		return d, err
	}
	for _, sample := range []struct {
		path string
		body object
	}{
		{"agents", object{"name": "Front desk", "role": "inbound agent", "phone_number": "+4930555001", "model": "local-model-a", "voice_id": "reed", "team_id": team.ID}},
		{"agents", object{"name": "Reminder line", "role": "outbound agent", "phone_number": "+4930555002", "model": "local-model-a", "voice_id": "ash"}},
		{"contacts", object{"first_name": "Mara", "last_name": "Lind", "email": "mara@example.net", "company": "Lind KG", "stage": "customer",
			"status": "contacted", "tags": []string{"Regular"}, "team_id": team.ID, "phone_numbers": []object{{"phone_number": "+4930555010", "phone_type": "mobile"}}}},
		{"contacts", object{"first_name": "Jon", "last_name": "Arden", "email": "jon@example.net",
			"phone_numbers": []object{{"phone_number": "+4930555011", "phone_type": "work"}}}},
		{"calls", object{"agent_id": 1, "phone_number": "+4930555010", "contact_id": 1, "status": "completed", "started_at": at(-1, 9, 15),
			"ended_at": at(-1, 9, 17), "summary": "Caller moved a booking."}},
		{"schedules", object{"time_zone": "Europe/Berlin", "buffer_minutes": 15}},
		{"events", object{"title": "First visit", "start_time": at(0, 8, 0), "end_time": at(0, 8, 45), "status": "confirmed", "contact_id": 1}},
		{"events", object{"title": "Phone call", "start_time": at(0, 13, 30), "end_time": at(0, 14, 0), "contact_id": 2}},
		{"events", object{"title": "Fitting", "start_time": at(1, 9, 0), "end_time": at(1, 10, 30), "contact_id": 1, "ai_agent_id": 1}},
		{"events", object{"title": "Follow-up", "start_time": at(2, 14, 0), "end_time": at(2, 14, 30), "contact_id": 2}},
		{"keys", object{"name": "booking site", "environment": "live", "permissions": []string{"can_read_contacts", "can_read_calendar", "can_write_calendar"},
			"metadata": object{"note": "on the web server"}}},
		{"keys", object{"name": "nightly report", "environment": "live", "permissions": []string{"can_read_calls"}, "expires_at": at(30, 0, 0)}},
		{"operators", object{"name": demoOperator, "password": d.Password}},
	} {
		if err := c.Do(ctx, http.MethodPost, "/admin/v1/"+sample.path, sample.body, nil); err != nil {
			return d, fmt.Errorf("%s: %w", sample.path, err)
		}
	}
	var made struct {
		Key string `json:"key"`
	}
	err = c.Do(ctx, http.MethodPost, "/admin/v1/keys", object{"name": "demo", "permissions": Ordinary.Names()}, &made)
	d.Key = made.Key
	return d, err
}

// PrintDemo shows how to log in to a demo and what can be done with its key. It
// is the one place where the key and the password are ever shown.
func PrintDemo(w io.Writer, url, dashboard string, d Demo) error {
	_, err := fmt.Fprintf(w, `
A demo with sample data; it is gone when the server stops. Its dashboard, with keys, calls and a calendar:

  %[3]s/login    name: %[4]s    password: %[5]s

Its key, which may do everything (watch its meters on the dashboard):

  export KEY=%[1]s

  curl -H "Authorization: Bearer $KEY" %[2]s/api/v1/agents
  curl -H "X-API-Key: $KEY" "%[2]s/api/v1/contacts?search=mara"
  curl -H "Authorization: Bearer $KEY" %[2]s/api/v1/calls -d '{"phone_number": "+4930555044", "agent_id": 2}'

`, d.Key, url, dashboard, demoOperator, d.Password)
	return err
}
