package dashboard

import (
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"latchkey/internal/clock"
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
	Inputs []input
	Days   []activityDay
	filter url.Values
}

// Export returns where the entries that the page selects are downloaded in a format.
func (p activityPage) Export(format string) string {
	q := maps.Clone(p.filter)
	q.Set("format", format)
	return "/admin/v1/audit?" + q.Encode()
}

// activityDay is a day with its entries, newest first.
type activityDay struct {
	Day     string
	Entries []activityEntry
}

// activityEntry is an entry of the audit log as the page shows it.
type activityEntry struct {
	Number, At, Actor, Client, Action, Object, Result, Request, Hash string
	Sentence                                                         []activityPart
	Changes                                                          []activityChange
	More                                                             string // number of all changes if the log does not hold all of them; otherwise ""
	Detail                                                           []namedText
}

// activityPart is a part of the sentence about an entry. To is the page of the object that it names, or
// "". Now is the name that the object has by now if that is another one.
type activityPart struct{ Text, To, Now string }

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

// activityFilters returns the filters of the page. Days are in a time zone.
func activityFilters(zone *time.Location) []formField {
	kinds := func(*pageRequest) (list []choice) {
		for _, kind := range Vocabulary().AuditKinds {
			list = append(list, choice{Value: kind, Label: capital(kind)})
		}
		return list
	}
	return []formField{
		{Name: "actor", Label: "Who", Kind: fieldSearch, Hint: "a name"}, {Name: "object", Label: "What", Kind: fieldSearch, Hint: "a name or an id"},
		{Name: "kind", Label: "Action", Kind: fieldSelect, Blank: "any", Choices: kinds}, {Name: "result", Label: "Result", Kind: fieldSelect, Blank: "any", Choices: words(Vocabulary().AuditResults...)},
		{Name: "from", Label: "From", Kind: fieldDate, Hint: "day in " + zone.String()}, {Name: "to", Label: "To", Kind: fieldDate, Hint: "day in " + zone.String()},
	}
}

func showAudit(v *pageRequest) {
	query, filters := v.query, activityFilters(v.zone())
	names := []string{"actor", "object", "kind", "result", "from", "to", "action"}
	var page activityPage
	var fault *Fault
	page.listPage, fault = v.listAs("/admin/v1/audit", "entries", v.dayBound, names...)
	page.Inputs = v.inputs(filters, fillBy(func(f formField) string { return query.Get(f.Name) }), fault)
	page.Days = v.activityDays(page.Rows)
	page.filter = url.Values{}
	for _, name := range names {
		if value := query.Get(name); value != "" {
			page.filter.Set(name, v.dayBound(name, value))
		}
	}
	shown, status := view{Title: "Activity", Data: page}, http.StatusOK
	if fault != nil {
		status, shown.Fault = fault.Status, labelled(fault.Message, filters...)
	}
	v.show(status, "audit", shown)
}

// dayBound returns the time at which a day of the operator's time zone begins, if a filter with the name from
// is that day, or at which it ends, if one with the name to is. It returns other values unchanged.
func (v *pageRequest) dayBound(name, value string) string {
	day, err := clock.ParseDate(value)
	if err != nil || name != "from" && name != "to" {
		return value
	}
	if name == "to" {
		day = day.AddDate(0, 0, 1)
	}
	return startOfDay(day.Year(), day.Month(), day.Day(), v.zone()).UTC().Format(time.RFC3339)
}

// activityDays returns entries of the audit log by day, in the time zone of the operator.
func (v *pageRequest) activityDays(rows []any) (days []activityDay) {
	last := ""
	for _, row := range rows {
		entry, _ := row.(map[string]any)
		at, date := textOf(entry["at"]), ""
		if t, err := clock.ParseTime(at); err == nil {
			date = t.In(v.zone()).Format(time.DateOnly)
		}
		if date != last || len(days) == 0 {
			days, last = append(days, activityDay{Day: whenIn(at, showDay)}), date
		}
		day := &days[len(days)-1]
		day.Entries = append(day.Entries, v.activityOf(entry))
	}
	return days
}

// objectPage returns the path of the page of an object of the audit log, such as "team 3". It returns ""
// if there is no such page, or if the operator may not open it.
func (v *pageRequest) objectPage(object string) string {
	kind, id, _ := strings.Cut(object, " ")
	path := map[string]string{"number": "/do-not-call/", "event": "/calendar/events/"}[kind]
	if path == "" {
		path = "/" + kind + "s/"
	}
	if needs := v.dashboard.needs["GET "+path+"{id}"]; needs == "" || !v.may(needs) {
		return ""
	}
	return path + url.PathEscape(id)
}

func (v *pageRequest) activityOf(e map[string]any) activityEntry {
	entry := activityEntry{
		Number: textOf(e["number"]), At: textOf(e["at"]), Actor: textOf(e["actor"]), Client: textOf(e["client"]), Action: textOf(e["action"]), Object: textOf(e["object"]),
		Result: textOf(e["result"]), Request: textOf(e["request_id"]), Hash: textOf(e["hash"]), Detail: membersOf(e["detail"]),
	}
	sentence, _ := e["sentence"].([]any)
	for _, part := range sentence {
		p, _ := part.(map[string]any)
		shown := activityPart{Text: plainName(p["text"]), Now: textOf(p["now"])}
		if object := textOf(p["object"]); object != "" {
			shown.To = v.objectPage(object)
		}
		entry.Sentence = append(entry.Sentence, shown)
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
	v.show(http.StatusOK, "auditcheck", view{Title: "Check of the activity log", Data: answer})
}
