package main

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
)

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
