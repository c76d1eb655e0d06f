package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
)

// SeedDemo fills an empty store with a team, agents, contacts and calls by way
// of the admin endpoint, and gives a key that may do everything.
func SeedDemo(ctx context.Context, c *Client) (key string, err error) {
	type object = map[string]any
	var team struct {
		ID int `json:"id"`
	}
	if err := c.Do(ctx, http.MethodPost, "/admin/v1/teams", object{"name": "Reception"}, &team); err != nil {
		return "", err
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
		{"calls", object{"agent_id": 1, "phone_number": "+4930555010", "contact_id": 1, "status": "completed", "started_at": "2026-02-03T09:15:00Z",
			"ended_at": "2026-02-03T09:17:10Z", "summary": "Caller moved a booking."}},
		{"schedules", object{"time_zone": "Europe/Berlin", "buffer_minutes": 15}},
	} {
		if err := c.Do(ctx, http.MethodPost, "/admin/v1/"+sample.path, sample.body, nil); err != nil {
			return "", fmt.Errorf("%s: %w", sample.path, err)
		}
	}
	var made struct {
		Key string `json:"key"`
	}
	err = c.Do(ctx, http.MethodPost, "/admin/v1/keys", object{"name": "demo", "permissions": Ordinary.Names()}, &made)
	return made.Key, err
}

// PrintDemo shows a key of the demo and what can be done with it. It is the
// one place where the key is ever shown.
func PrintDemo(w io.Writer, url, key string) error {
	_, err := fmt.Fprintf(w, `
A demo with sample data; it is gone when the server stops. Its key:

  export KEY=%s

  curl -H "Authorization: Bearer $KEY" %[2]s/api/v1/agents
  curl -H "X-API-Key: $KEY" "%[2]s/api/v1/contacts?search=mara"
  curl -H "Authorization: Bearer $KEY" %[2]s/api/v1/calls -d '{"phone_number": "+4930555044", "agent_id": 2}'

`, key, url)
	return err
}
