package dashboard

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
)

// statusPages are the page with the status of the server.
type statusPages struct{}

func (s statusPages) sections() []section { return []section{{"System", "Status", "/status"}} }

func (s statusPages) pages() map[string]page {
	return map[string]page{
		"GET /status": {"GET /admin/v1/status", showStatus}, "POST /webhooks/release": {"POST /admin/v1/webhooks/release", releaseWebhooks},
	}
}

// statusPart is a heading on the status page with its facts.
type statusPart struct {
	Title string
	Facts []namedText
}

// statusRow describes how the page shows a member of the status: under which heading, with which
// label, and in which form.
type statusRow struct {
	part, member, label string
	show                func(v any) string
}

func statusRows() []statusRow {
	return []statusRow{
		{"Service", "ready", "Ready", textOf}, {"Service", "not_ready_because", "Not ready because", textOf},
		{"Service", "version", "Version", textOf}, {"Service", "go_version", "Built with", textOf}, {"Service", "started_at", "Started", whenShown}, {"Service", "uptime_seconds", "Up for", uptime},
		{"Service", "api_url", "API", textOf}, {"Service", "listening", "Listeners", statusList}, {"Service", "connections", "Open connections", connectionsList}, {"Service", "keys", "Keys", textOf}, {"Service", "log_level", "Log level", textOf},
		{"Service", "certificate_ends_at", "First certificate ends", whenShown}, {"Service", "ending_tokens", "Admin tokens that end soon", tokensShown},
		{"Service", "config.loaded_at", "Configuration loaded", whenShown}, {"Service", "config.error", "Last reload failed", textOf}, {"Service", "config.restart_needed", "Changed, needs a restart", textOf},
		{"Store", "store_id", "Id", textOf}, {"Store", "store_bytes", "Size", bytesShown}, {"Store", "store_free_bytes", "Reusable space", bytesShown}, {"Store", "disk_free_bytes", "Free on the disk", bytesShown},
		{"Store", "disk", "Low disk space", diskShown}, {"Store", "full_owners", "Owners with little storage left", fullOwners},
		{"Store", "commits", "Commits", textOf}, {"Store", "transactions", "Transactions", textOf}, {"Store", "forged_records", "Records without a valid MAC", textOf},
		{"Backups", "last_backup_at", "Last", whenShown}, {"Backups", "last_backup_error", "Last error", textOf}, {"Backups", "backup_every_seconds", "Interval", uptime},
		{"Webhooks", "webhook_backlog", "Pending deliveries", textOf}, {"Webhooks", "webhook_oldest_at", "Oldest pending", whenShown}, {"Webhooks", "webhooks_held_since", "Held back since the restore", whenShown},
		{"Mails", "mail_backlog", "Events that wait", textOf}, {"Mails", "mail_failing_since", "Not sent since", whenShown}, {"Mails", "mail_error", "Last error", textOf},
		{"Activity", "audit", "Last entry", statusList},
		{"Clocks", "now", "Wall clock", secondsShown}, {"Clocks", "service_time", "Limit clock", secondsShown},
	}
}

// fullOwners returns the owners whose storage is nearly full, one per line.
func fullOwners(v any) string {
	list, _ := v.([]any)
	var lines []string
	for _, row := range list {
		lines = append(lines, fmt.Sprintf("%s: %s of %s", textOf(memberOf(row.(map[string]any), "name")),
			sizeShown(memberOf(row.(map[string]any), "storage.bytes")), sizeShown(memberOf(row.(map[string]any), "storage.limit"))))
	}
	return strings.Join(lines, "\n")
}

// tokensShown returns the admin tokens that end soon, one per line.
func tokensShown(v any) string {
	list, _ := v.([]any)
	var lines []string
	for _, row := range list {
		token, _ := row.(map[string]any)
		lines = append(lines, fmt.Sprintf("%s %s: %s", textOf(token["id"]), textOf(token["name"]), whenShown(token["expires_at"])))
	}
	return strings.Join(lines, "\n")
}

// diskShown returns what is known of the free disk space, such as "no; below 268.4 MB keys can store
// nothing new".
func diskShown(v any) string {
	disk, _ := v.(map[string]any)
	mark := bytesShown(disk["mark_bytes"])
	switch {
	case disk["refusing"] == true:
		return "yes: keys can store nothing new until more than " + mark + " is free"
	case disk["low"] == true:
		return "soon: below " + mark + " keys can store nothing new"
	}
	return "no; below " + mark + " keys can store nothing new"
}

func whenShown(v any) string { return when(textOf(v)) }

func secondsShown(v any) string { return whenIn(textOf(v), showSeconds) }

// bytesShown returns a number of bytes with a decimal unit, such as "1.2 MB".
func bytesShown(v any) string {
	n := numberOf(v)
	for _, unit := range []string{"bytes", "kB", "MB", "GB"} {
		if n < 1000 {
			return strings.TrimSuffix(fmt.Sprintf("%.1f", n), ".0") + " " + unit
		}
		n /= 1000
	}
	return fmt.Sprintf("%.1f TB", n)
}

// uptime returns a number of seconds in its two largest units, such as "2 days 5 hours".
func uptime(v any) string {
	left, parts := int(numberOf(v)), []string{}
	for _, unit := range []struct {
		seconds int
		name    string
	}{{24 * 60 * 60, "day"}, {60 * 60, "hour"}, {60, "minute"}, {1, "second"}} {
		n := left / unit.seconds
		left %= unit.seconds
		switch {
		case n == 1:
			parts = append(parts, "1 "+unit.name)
		case n > 1 || unit.seconds == 1 && len(parts) == 0:
			parts = append(parts, fmt.Sprintf("%d %ss", n, unit.name))
		case len(parts) > 0:
			return parts[0]
		}
		if len(parts) == 2 {
			break
		}
	}
	return strings.Join(parts, " ")
}

// statusList returns the items of a list, or the members of an object, one per line.
func statusList(v any) string {
	if items, ok := v.([]any); ok {
		return strings.Join(texts(items), "\n")
	}
	var lines []string
	for _, pair := range membersOf(v) {
		lines = append(lines, pair.Name+": "+pair.Value)
	}
	return strings.Join(lines, "\n")
}

// connectionsList returns the open connections of each listener, one per line, such as
// "api: 12 of 768".
func connectionsList(v any) string {
	all, _ := v.(map[string]any)
	var lines []string
	for _, name := range slices.Sorted(maps.Keys(all)) {
		use, _ := all[name].(map[string]any)
		line := name + ": " + textOf(use["open"])
		if use["max"] != nil {
			line += " of " + textOf(use["max"])
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}

// showStatus shows the status of the server. Members that no statusRow names are shown last, under
// their own names.
func showStatus(v *pageRequest) {
	status, e := v.call(http.MethodGet, "/admin/v1/status", nil)
	if e != nil {
		v.showFault(e)
		return
	}
	held := status["webhooks_held_since"] != nil
	overview, unknown := v.call(http.MethodGet, "/admin/v1/overview", nil)
	var parts []statusPart
	add := func(part string, fact namedText) {
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
		if value := memberOf(status, row.member); value != nil {
			add(row.part, namedText{row.label, row.show(value)})
		}
	}
	for _, row := range statusRows() {
		first, _, _ := strings.Cut(row.member, ".")
		delete(status, first)
	}
	for _, name := range slices.Sorted(maps.Keys(status)) {
		add("More", namedText{strings.ReplaceAll(name, "_", " "), compactStatus(status[name])})
	}
	v.show(http.StatusOK, "status", view{Title: "Status", Data: map[string]any{"Parts": parts, "Held": held, "Attention": v.attention(overview), "Known": unknown == nil}})
}

// releaseWebhooks ends the hold of webhooks after a restore, and redirects to the status page.
func releaseWebhooks(v *pageRequest) {
	form, ok := v.form()
	if !ok {
		return
	}
	body := map[string]any{"discard": form.Get("discard") != ""}
	if _, e := v.call(http.MethodPost, "/admin/v1/webhooks/release", body); e != nil {
		v.showFault(e)
		return
	}
	http.Redirect(v.W, v.R, "/status", http.StatusSeeOther)
}

// compactStatus returns a value without a statusRow as text.
func compactStatus(v any) string {
	if _, ok := v.(map[string]any); ok {
		return statusList(v)
	}
	return textOf(v)
}
