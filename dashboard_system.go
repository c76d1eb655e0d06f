package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
)

// AuditPages show the audit log.
type AuditPages struct{}

// Sections is the entry of the navigation.
func (AuditPages) Sections() []Section { return []Section{{"System", "Activity", "/activity"}} }

// Pages lists the pages.
func (AuditPages) Pages() map[string]func(*Visit) {
	return map[string]func(*Visit){"GET /activity": showAudit, "GET /activity/verify": verifyAudit}
}

// activityPage is a page of the log.
type activityPage struct {
	ListPage
	Inputs  []Input
	Entries []activityEntry
}

// activityEntry is an entry of the log as the page shows it.
type activityEntry struct {
	Number, At, Actor, Client, Action, Object, Result, Why, Request string
	Changes                                                         []activityChange
	More                                                            string // how many changes there were, where not all are told of
	Detail                                                          []Pair
}

// activityChange is a record that was changed.
type activityChange struct {
	Object, Did string
	Fields      []activityField
}

// activityField is a field of it, before and after; of personal data the log has
// no values.
type activityField struct {
	Name, Before, After string
	Told                bool
}

func activityFilters() []Field {
	return []Field{
		{Name: "object", Label: "What", Kind: FieldText, Hint: "such as agent 12, or key_..."}, {Name: "actor", Label: "Who", Kind: FieldText, Hint: "such as operator 1"},
		{Name: "action", Label: "Action", Kind: FieldText, Hint: "a part of it, such as revoke"}, {Name: "result", Label: "Result", Kind: FieldSelect, Blank: "any", Choices: Words("done", "refused")},
	}
}

func showAudit(v *Visit) {
	query, filters := v.R.URL.Query(), activityFilters()
	var page activityPage
	var fault *Error
	page.ListPage, fault = v.List("/admin/v1/audit", "entries", "object", "actor", "action", "result")
	page.Inputs = v.Inputs(filters, Fill(func(f Field) string { return query.Get(f.Name) }), fault)
	for _, row := range page.Rows {
		entry, _ := row.(map[string]any)
		page.Entries = append(page.Entries, activityOf(entry))
	}
	shown, status := View{Title: "Activity", Data: page}, http.StatusOK
	if fault != nil {
		status, shown.Fault = fault.Status, Labelled(fault.Message, filters...)
	}
	v.Show(status, "audit", shown)
}

func activityOf(e map[string]any) activityEntry {
	entry := activityEntry{
		Number: Shown(e["number"]), At: When(Shown(e["at"])), Actor: Shown(e["actor"]), Client: Shown(e["client"]), Action: Shown(e["action"]), Object: Shown(e["object"]),
		Result: Shown(e["result"]), Why: Shown(e["code"]), Request: Shown(e["request_id"]), Detail: Pairs(e["detail"]),
	}
	changes, _ := e["changes"].([]any)
	for _, c := range changes {
		change, _ := c.(map[string]any)
		entry.Changes = append(entry.Changes, activityChangeOf(change))
	}
	if n, _ := e["changed"].(float64); int(n) > len(changes) {
		entry.More = Shown(n)
	}
	return entry
}

func activityChangeOf(c map[string]any) activityChange {
	change := activityChange{Object: Shown(c["object"]), Did: Shown(c["did"])}
	before, _ := c["before"].(map[string]any)
	after, _ := c["after"].(map[string]any)
	names := Texts(c["fields"])
	for _, side := range []map[string]any{before, after} {
		for _, name := range slices.Sorted(maps.Keys(side)) {
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	for _, name := range names {
		_, was := before[name]
		_, is := after[name]
		change.Fields = append(change.Fields, activityField{name, activityValue(before[name]), activityValue(after[name]), was || is})
	}
	return change
}

// activityValue is a value of the log in one line.
func activityValue(v any) string {
	switch v.(type) {
	case nil:
		return ""
	case map[string]any, []any:
		data, err := json.Marshal(v)
		if err == nil {
			return string(data)
		}
	}
	return Shown(v)
}

// verifyAudit goes through the chain of the whole log.
func verifyAudit(v *Visit) {
	answer, e := v.Call(http.MethodGet, "/admin/v1/audit/verify", nil)
	if e != nil {
		v.Fault(e)
		return
	}
	v.Show(http.StatusOK, "auditcheck", View{Title: "The chain of the audit log", Data: answer})
}

// StatusPages tell how the server is.
type StatusPages struct{}

// Sections is the entry of the navigation.
func (s StatusPages) Sections() []Section { return []Section{{"System", "Status", "/status"}} }

// Pages lists the pages.
func (s StatusPages) Pages() map[string]func(*Visit) {
	return map[string]func(*Visit){"GET /status": showStatus}
}

// statusPart is a group of facts.
type statusPart struct {
	Title string
	Facts []Pair
}

// statusRow is a member of the status: in which group, and how it is shown.
type statusRow struct {
	part, member, label string
	show                func(v any) string
}

func statusRows() []statusRow {
	return []statusRow{
		{"Service", "ready", "Ready", Shown}, {"Service", "not_ready_because", "Not ready because", Shown},
		{"Service", "version", "Version", Shown}, {"Service", "go_version", "Built with", Shown}, {"Service", "started_at", "Started", whenShown}, {"Service", "uptime_seconds", "Up for", uptime},
		{"Service", "api_url", "API", Shown}, {"Service", "listening", "Doors", statusList}, {"Service", "keys", "Keys", Shown}, {"Service", "log_level", "Log level", Shown},
		{"Service", "config.loaded_at", "Configuration of", whenShown}, {"Service", "config.error", "A later one was not taken", Shown}, {"Service", "config.restart_needed", "Changed, waits for a restart", Shown},
		{"Store", "store_id", "Id", Shown}, {"Store", "store_bytes", "Size", bytesShown}, {"Store", "store_free_bytes", "Free within", bytesShown}, {"Store", "disk_free_bytes", "Free on the disk", bytesShown},
		{"Store", "commits", "Commits", Shown}, {"Store", "transactions", "Transactions", Shown},
		{"Backups", "last_backup_at", "Last", whenShown}, {"Backups", "last_backup_error", "The latest failed", Shown},
		{"Webhooks", "webhook_backlog", "Waiting", Shown}, {"Webhooks", "webhook_oldest_at", "The oldest since", whenShown}, {"Audit log", "audit", "Head", statusList},
		{"Clocks", "now", "Wall clock", Shown}, {"Clocks", "service_time", "Clock of the limits", Shown},
	}
}

func whenShown(v any) string { return When(Shown(v)) }

func bytesShown(v any) string {
	n, _ := v.(float64)
	for _, unit := range []string{"bytes", "kB", "MB", "GB"} {
		if n < 1000 {
			return strings.TrimSuffix(fmt.Sprintf("%.1f", n), ".0") + " " + unit
		}
		n /= 1000
	}
	return fmt.Sprintf("%.1f TB", n)
}

func uptime(v any) string {
	seconds, _ := v.(float64)
	d := time.Duration(seconds) * time.Second
	if d < 24*time.Hour {
		return d.String()
	}
	return fmt.Sprintf("%d days %s", d/(24*time.Hour), d%(24*time.Hour))
}

// statusList is a value of several, one to a line.
func statusList(v any) string {
	if items, ok := v.([]any); ok {
		return strings.Join(Texts(items), "\n")
	}
	var lines []string
	for _, pair := range Pairs(v) {
		lines = append(lines, pair.Name+": "+pair.Value)
	}
	return strings.Join(lines, "\n")
}

// showStatus shows what the admin endpoint tells; what it tells beyond the rows
// that are known here stands at the end, under its own name.
func showStatus(v *Visit) {
	status, e := v.Call(http.MethodGet, "/admin/v1/status", nil)
	if e != nil {
		v.Fault(e)
		return
	}
	var parts []statusPart
	add := func(part string, fact Pair) {
		if fact.Value == "" {
			return
		}
		i := slices.IndexFunc(parts, func(p statusPart) bool { return p.Title == part })
		if i < 0 {
			i, parts = len(parts), append(parts, statusPart{Title: part})
		}
		parts[i].Facts = append(parts[i].Facts, fact)
	}
	for _, row := range statusRows() {
		if value := Member(status, row.member); value != nil {
			add(row.part, Pair{row.label, row.show(value)})
		}
	}
	for _, row := range statusRows() {
		first, _, _ := strings.Cut(row.member, ".")
		delete(status, first)
	}
	for _, name := range slices.Sorted(maps.Keys(status)) {
		add("More", Pair{strings.ReplaceAll(name, "_", " "), compactStatus(status[name])})
	}
	v.Show(http.StatusOK, "status", View{Title: "Status", Data: parts})
}

func compactStatus(v any) string {
	if _, ok := v.(map[string]any); ok {
		return statusList(v)
	}
	return Shown(v)
}
