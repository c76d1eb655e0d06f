package dashboard

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"latchkey/internal/strictjson"
)

// auditPages are the pages of the audit log.
type auditPages struct{}

func (auditPages) sections() []section { return []section{{"System", "Activity", "/activity"}} }

func (auditPages) pages() map[string]page {
	return map[string]page{"GET /activity": {"GET /admin/v1/audit", showAudit}, "GET /activity/verify": {"GET /admin/v1/audit/verify", verifyAudit}}
}

// activityPage is the data of a page of the audit log.
type activityPage struct {
	listPage
	Inputs  []input
	Entries []activityEntry
}

// activityEntry is an entry of the audit log as the page shows it.
type activityEntry struct {
	Number, At, Actor, Client, Action, Object, Result, Why, Request string
	Changes                                                         []activityChange
	More                                                            string // number of all changes if the log does not hold all of them; otherwise ""
	Detail                                                          []namedText
}

// activityChange is a record that was changed. Did is the kind of change.
type activityChange struct {
	Object, Did string
	Fields      []activityField
}

// activityField is a field of a changed record with its values before and after. Told is false if
// the log does not hold the values, as with personal data.
type activityField struct {
	Name, Before, After string
	Told                bool
}

func activityFilters() []formField {
	return []formField{
		{Name: "object", Label: "What", Kind: fieldText, Hint: "such as agent 12, or key_..."}, {Name: "actor", Label: "Who", Kind: fieldText, Hint: "such as operator 1"},
		{Name: "action", Label: "Action", Kind: fieldText, Hint: "a part of it, such as revoke"}, {Name: "result", Label: "Result", Kind: fieldSelect, Blank: "any", Choices: words(Vocabulary().AuditResults...)},
	}
}

func showAudit(v *pageRequest) {
	query, filters := v.query, activityFilters()
	var page activityPage
	var fault *Fault
	page.listPage, fault = v.list("/admin/v1/audit", "entries", "object", "actor", "action", "result")
	page.Inputs = v.inputs(filters, fillBy(func(f formField) string { return query.Get(f.Name) }), fault)
	for _, row := range page.Rows {
		entry, _ := row.(map[string]any)
		page.Entries = append(page.Entries, activityOf(entry))
	}
	shown, status := view{Title: "Activity", Data: page}, http.StatusOK
	if fault != nil {
		status, shown.Fault = fault.Status, labelled(fault.Message, filters...)
	}
	v.show(status, "audit", shown)
}

func activityOf(e map[string]any) activityEntry {
	entry := activityEntry{
		Number: textOf(e["number"]), At: when(textOf(e["at"])), Actor: textOf(e["actor"]), Client: textOf(e["client"]), Action: textOf(e["action"]), Object: textOf(e["object"]),
		Result: textOf(e["result"]), Why: textOf(e["code"]), Request: textOf(e["request_id"]), Detail: membersOf(e["detail"]),
	}
	changes, _ := e["changes"].([]any)
	for _, c := range changes {
		change, _ := c.(map[string]any)
		entry.Changes = append(entry.Changes, activityChangeOf(change))
	}
	if int(numberOf(e["changed"])) > len(changes) {
		entry.More = textOf(e["changed"])
	}
	return entry
}

func activityChangeOf(c map[string]any) activityChange {
	change := activityChange{Object: textOf(c["object"]), Did: textOf(c["did"])}
	before, _ := c["before"].(map[string]any)
	after, _ := c["after"].(map[string]any)
	names := texts(c["fields"])
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

// activityValue returns a value of the log as one line. Objects and lists are in JSON.
func activityValue(v any) string {
	switch v.(type) {
	case nil:
		return ""
	case map[string]any, []any:
		data, err := strictjson.Encode(v)
		if err == nil {
			return string(data)
		}
	}
	return textOf(v)
}

// verifyAudit verifies the hash chain of the whole audit log and shows the result.
func verifyAudit(v *pageRequest) {
	answer, e := v.call(http.MethodGet, "/admin/v1/audit/verify", nil)
	if e != nil {
		v.showFault(e)
		return
	}
	v.show(http.StatusOK, "auditcheck", view{Title: "The chain of the audit log", Data: answer})
}

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
		{"Store", "store_id", "Id", textOf}, {"Store", "store_bytes", "Size", bytesShown}, {"Store", "store_free_bytes", "Free inside the file", bytesShown}, {"Store", "disk_free_bytes", "Free on the disk", bytesShown},
		{"Store", "disk", "Low disk space", diskShown}, {"Store", "full_owners", "Owners with little storage left", fullOwners},
		{"Store", "commits", "Commits", textOf}, {"Store", "transactions", "Transactions", textOf}, {"Store", "forged_records", "Records without a valid MAC", textOf},
		{"Backups", "last_backup_at", "Last", whenShown}, {"Backups", "last_backup_error", "Last error", textOf}, {"Backups", "backup_every_seconds", "Seconds between two", textOf},
		{"Webhooks", "webhook_backlog", "Pending deliveries", textOf}, {"Webhooks", "webhook_oldest_at", "Oldest pending", whenShown}, {"Webhooks", "webhooks_held_since", "Held back since the restore", whenShown}, {"Audit log", "audit", "Head", statusList},
		{"Clocks", "now", "Wall clock", textOf}, {"Clocks", "service_time", "Clock of the limits", textOf},
	}
}

// fullOwners returns the owners whose storage is nearly full, one per line.
func fullOwners(v any) string {
	list, _ := v.([]any)
	var lines []string
	for _, row := range list {
		lines = append(lines, fmt.Sprintf("%s: %s of %s", textOf(memberOf(row.(map[string]any), "name")),
			bytesShown(memberOf(row.(map[string]any), "storage.bytes")), bytesShown(memberOf(row.(map[string]any), "storage.limit"))))
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

// uptime returns a number of seconds as text, with days if there are any.
func uptime(v any) string {
	seconds := numberOf(v)
	d := time.Duration(seconds) * time.Second
	if d < 24*time.Hour {
		return d.String()
	}
	return fmt.Sprintf("%d days %s", d/(24*time.Hour), d%(24*time.Hour))
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
	v.show(http.StatusOK, "status", view{Title: "Status", Data: map[string]any{"Parts": parts, "Held": held}})
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
