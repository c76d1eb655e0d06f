package main

import (
	"fmt"
	"net/http"
)

// RecordPages are the lists of what the API serves, to look at.
type RecordPages struct{}

// Sections are the entries of the navigation.
func (p *RecordPages) Sections() []Section {
	return []Section{
		{"API", "Webhooks", "/webhooks"}, {"Data", "Calls", "/calls"}, {"Data", "Agents", "/agents"}, {"Data", "Contacts", "/contacts"}, {"System", "Status", "/status"},
	}
}

// Pages lists the pages.
func (p *RecordPages) Pages() map[string]func(*Visit) {
	return map[string]func(*Visit){
		"GET /calls": p.listCalls, "GET /agents": p.listAgents, "GET /contacts": p.listContacts, "GET /webhooks": p.listWebhooks, "GET /status": p.showStatus,
	}
}

// cell is a field of a row.
type cell struct {
	Text string
	Tag  bool // a state, shown as a label
}

// column is a field of the records of a list.
type column struct{ Head, Member string }

// records shows a list of the admin endpoint as a table.
func records(v *Visit, title, path, rows, empty string, columns ...column) {
	t, e := v.List(path, rows)
	if e != nil {
		v.Fault(e)
		return
	}
	t.Empty = empty
	for _, c := range columns {
		t.Heads = append(t.Heads, c.Head)
	}
	for i, row := range t.Rows {
		fields, _ := row.(map[string]any)
		var cells []cell
		for _, c := range columns {
			cells = append(cells, cell{Text: shown(fields[c.Member]), Tag: c.Member == "status"})
		}
		t.Rows[i] = cells
	}
	v.Show(http.StatusOK, "records", View{Title: title, Data: t})
}

// shown is a value for a table.
func shown(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case bool:
		if v {
			return "yes"
		}
		return "no"
	case float64:
		return fmt.Sprint(v)
	case string:
		return v
	case []any:
		return fmt.Sprintf("%d", len(v))
	case map[string]any:
		return shown(v["name"])
	}
	return fmt.Sprint(v)
}

func (p *RecordPages) listCalls(v *Visit) {
	records(v, "Calls", "/admin/v1/calls", "calls", "No call yet. POST /api/v1/calls starts one.",
		column{"Id", "id"}, column{"Status", "status"}, column{"Type", "type"}, column{"Number", "phone_number"}, column{"Agent", "agent"}, column{"Started", "started_at"}, column{"Seconds", "duration_seconds"}, column{"Owner", "owner"})
}

func (p *RecordPages) listAgents(v *Visit) {
	records(v, "Agents", "/admin/v1/agents", "agents", "No agent yet: latchkey agents create --name \"Front desk\" --phone +4930555001",
		column{"Id", "id"}, column{"Name", "name"}, column{"Role", "role"}, column{"Number", "phone_number"}, column{"Calls", "total_calls"}, column{"Minutes", "minutes_used"}, column{"Owner", "owner"})
}

func (p *RecordPages) listContacts(v *Visit) {
	records(v, "Contacts", "/admin/v1/contacts", "contacts", "No contact yet: latchkey contacts import contacts.csv",
		column{"Id", "id"}, column{"Name", "full_name"}, column{"Company", "company"}, column{"Mail", "email"}, column{"Number", "phone"}, column{"Stage", "stage"}, column{"Owner", "owner"})
}

func (p *RecordPages) listWebhooks(v *Visit) {
	records(v, "Webhooks", "/admin/v1/webhooks", "webhooks", "No webhook yet: latchkey webhooks create --name sync --target https://hooks.example.net/x --event call.ended",
		column{"Id", "id"}, column{"Name", "name"}, column{"Address", "url"}, column{"Events", "subscribed_events"}, column{"Active", "is_active"}, column{"Waiting", "waiting"}, column{"Owner", "owner"})
}

// fact is a line of the status.
type fact struct{ Name, Value string }

func (p *RecordPages) showStatus(v *Visit) {
	status, e := v.Call(http.MethodGet, "/admin/v1/status", nil)
	if e != nil {
		v.Fault(e)
		return
	}
	size, _ := status["store_bytes"].(float64)
	v.Show(http.StatusOK, "status", View{Title: "Status", Data: []fact{
		{"API", shown(status["api_url"])}, {"Keys", shown(status["keys"])}, {"Database", fmt.Sprintf("%.1f MB", size/1e6)}, {"Store", shown(status["store_id"])},
		{"Wall clock", shown(status["now"])}, {"Clock of the limits", shown(status["service_time"])},
	}})
}
