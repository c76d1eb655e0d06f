package main

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
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
