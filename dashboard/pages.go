package dashboard

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"latchkey/internal/bytesize"
	"latchkey/internal/figures"
	"latchkey/internal/sorted"
)

// agentPages returns the pages of the agents.
func agentPages() *recordPages {
	return &recordPages{
		section: section{"Data", "Agents", "/agents"}, One: "agent", API: "agents", Rows: "agents", TitleField: "name",
		About: "The voices that speak in calls.", Empty: "No agents yet. A call needs an agent, which speaks and whose number is shown.",
		Columns: []column{
			{Head: "Name", Member: "name", Kind: cellName, Sub: "assistant_id"}, {Head: "Role", Member: "role"}, {Head: "Number", Member: "phone_number"},
			{Head: "Calls", Member: "total_calls", Kind: cellNumber}, {Head: "Minutes", Member: "minutes_used", Kind: cellNumber}, {Head: "Owner", Member: "owner"},
		},
		Filters: []formField{{Name: "search", Label: "Name", Kind: fieldSearch}, ownerFilter()},
		Facts: []column{
			{Head: "Assistant id", Member: "assistant_id", Kind: cellMono}, {Head: "Id", Member: "id"}, {Head: "Owner", Member: "owner"}, {Head: "Calls", Member: "total_calls"},
			{Head: "Minutes", Member: "minutes_used"}, {Head: "May place calls", Member: "can_make_calls"}, {Head: "Created", Member: "created_at", Kind: cellTime},
		},
		Fields: []formField{
			{Name: "name", Label: "Name", Kind: fieldText, Needed: true},
			{Name: "role", Label: "Role", Kind: fieldSelect, Needed: true, Choices: words(Vocabulary().AgentRoles...)},
			{Name: "phone_number", Label: "Number", Kind: fieldTel, Hint: "such as +4930555001; without a number it cannot place calls"},
			{Name: "model", Label: "Model", Kind: fieldText, Hint: "name of the language model"},
			{Name: "voice_id", Label: "Voice", Kind: fieldText},
			teamField(),
			newOwnerField(),
		},
		Deletion: func(_ *pageRequest, agent map[string]any) string {
			return fmt.Sprintf("Its calls remain, with its name (%s so far). Requests for new calls with its id are refused from now on, and its events no longer name an agent.", textOf(agent["total_calls"]))
		},
	}
}

// blockPages returns the pages of the do-not-call list.
func blockPages() *recordPages {
	return &recordPages{
		section: section{"Data", "Do not call", "/do-not-call"}, One: "number", API: "do-not-call", Rows: "do_not_call", TitleField: "phone_number",
		About: "Numbers that no call may be placed to.", Empty: "No numbers on the list.",
		Columns: []column{
			{Head: "Number", Member: "phone_number", Kind: cellName}, {Head: "Reason", Member: "reason"}, {Head: "Since", Member: "created_at", Kind: cellTime},
		},
		Filters: []formField{{Name: "search", Label: "Number or reason", Kind: fieldSearch}},
		Facts:   []column{{Head: "Since", Member: "created_at", Kind: cellTime}},
		Fields: []formField{
			{Name: "phone_number", Label: "Number", Kind: fieldTel, Needed: true, Hint: "such as +4930555044"},
			{Name: "reason", Label: "Reason", Kind: fieldText},
		},
		Deletion: func(_ *pageRequest, number map[string]any) string {
			return "Calls to " + textOf(number["phone_number"]) + " are allowed again from now on, unless a contact is marked as not to be called."
		},
	}
}

// callPages returns the pages of the calls.
func callPages() *recordPages {
	return &recordPages{
		section: section{"Data", "Calls", "/calls"}, One: "call", API: "calls", Rows: "calls", TitleField: "call_id", Page: "call",
		About: "Phone calls of agents, newest first.", Empty: "No calls yet. POST /api/v1/calls with a key starts a call. An inbound call can be recorded here.",
		Columns: []column{
			{Head: "Number", Member: "phone_number", Kind: cellName, Sub: "contact.name"}, {Head: "Status", Member: "status", Kind: cellState}, {Head: "Type", Member: "type"},
			{Head: "Agent", Member: "agent.name"}, {Head: "Requested", Member: "created_at", Kind: cellTime}, {Head: "Started", Member: "started_at", Kind: cellTime}, {Head: "Seconds", Member: "duration_seconds", Kind: cellNumber}, {Head: "Owner", Member: "owner"},
		},
		Filters: []formField{
			{Name: "agent_id", Label: "Agent", Kind: fieldSelect, Blank: "any", Choices: recordChoices("agents", "agents", "id", "name")},
			{Name: "status", Label: "Status", Kind: fieldSelect, Blank: "any", Choices: words(Vocabulary().CallStates...)},
			{Name: "type", Label: "Type", Kind: fieldSelect, Blank: "any", Choices: words(Vocabulary().CallTypes...)},
			ownerFilter(),
		},
		Facts: callFacts(), Fields: callFields(), More: callVariables, New: "Record inbound call",
	}
}

func callFacts() []column {
	return []column{
		{Head: "Number", Member: "phone_number"}, {Head: "Type", Member: "type"},
		{Head: "Agent", Member: "agent.name", To: "/agents/", By: "agent.id"},
		{Head: "Contact", Member: "contact.name", To: "/contacts/", By: "contact.id"},
		{Head: "Owner", Member: "owner"}, {Head: "Team", Member: "team"},
		{Head: "Requested", Member: "created_at", Kind: cellTime}, {Head: "Started", Member: "started_at", Kind: cellTime}, {Head: "Ended", Member: "ended_at", Kind: cellTime},
		{Head: "Seconds", Member: "duration_seconds"}, {Head: "Failure reason", Member: "error_reason", Sub: "error_message"},
		{Head: "Recording", Member: "recording_url", Kind: cellURL},
		{Head: "Billing", Member: "billing.status"}, {Head: "Charged", Member: "billing.total_charge"},
		{Head: "Dialer", Member: "dialer"}, {Head: "Lease ends", Member: "lease_until", Kind: cellTime},
		{Head: "Id", Member: "id"}, {Head: "Summary", Member: "summary", Kind: cellLong},
	}
}

func callFields() []formField {
	return []formField{
		{Name: "phone_number", Label: "Number", Kind: fieldTel, Needed: true, Make: true, Hint: "who called, such as +4930555010"},
		{Name: "agent_id", Label: "Agent", Kind: fieldID, Needed: true, Make: true, Choices: recordChoices("agents", "agents", "id", "name")},
		{Name: "contact_id", Label: "Contact", Kind: fieldNumber, Make: true, Hint: "id of the contact, if there is one"},
		newOwnerField(),
		{Name: "status", Label: "Status", Kind: fieldSelect, Needed: true, Make: true, Choices: words(Vocabulary().CallStates[1:]...)},
		{Name: "status", Label: "Status", Kind: fieldSelect, Needed: true, Change: true, Choices: words(Vocabulary().CallStates...), Hint: "an ended call cannot be resumed"},
		{Name: "error_reason", Label: "Failure reason", Kind: fieldSelect, Choices: words(Vocabulary().FailReasons...)},
		{Name: "started_at", Label: "Started", Kind: fieldTime, Hint: "UTC; empty: now, if the call has started"},
		{Name: "ended_at", Label: "Ended", Kind: fieldTime, Hint: "UTC; empty: now, if the call has ended"},
		{Name: "recording_url", Label: "Recording", Kind: fieldText, Wide: true, Hint: "URL of the audio file"},
		{Name: "summary", Label: "Summary", Kind: fieldArea},
		{Name: "transcript", Label: "Transcript", Kind: fieldArea},
	}
}

// callVariables adds the variables of the call's prompts to its page.
func callVariables(_ *pageRequest, p *recordPage) *Fault {
	p.Extra = membersOf(p.Record["prompt_variables"])
	return nil
}

// schedulePages returns the pages of the availability schedules.
func schedulePages() *recordPages {
	return &recordPages{
		section: section{"Data", "Availability", "/schedules"}, One: "schedule", API: "schedules", Rows: "schedules", TitleField: "owner",
		About: "The hours in which an owner can be booked. Without a schedule they are Monday to Friday, 9 to 17, UTC.", Empty: "No schedules yet.",
		Columns: []column{
			{Head: "Owner", Member: "owner", Kind: cellName}, {Head: "Time zone", Member: "time_zone"}, {Head: "Free around events", Member: "buffer_minutes", Kind: cellNumber},
			{Head: "Notice", Member: "notice_minutes", Kind: cellNumber}, {Head: "Created", Member: "created_at", Kind: cellTime},
		},
		Filters: []formField{ownerFilter()},
		Facts:   []column{{Head: "Owner", Member: "owner"}, {Head: "Created", Member: "created_at", Kind: cellTime}},
		Fields:  scheduleFields(), Body: scheduleBody, Rework: copyMonday,
		Buttons: []formButton{{"copy", "windows", "Copy Monday to weekdays"}, {"copy", "business_hours", "Copy business hours of Monday"}},
		Deletion: func(_ *pageRequest, schedule map[string]any) string {
			return "The availability of " + textOf(schedule["owner"]) + " is then Monday to Friday, 9 to 17, UTC. Events remain."
		},
	}
}

// weekDays returns the days of the week from Monday to Sunday, in lower case.
func weekDays() []string {
	days := Vocabulary().Weekdays
	return append(days[1:], days[0])
}

func scheduleFields() []formField {
	owner := newOwnerField()
	owner.Hint = "the owner who can be booked; empty: " + defaultOwner
	fields := []formField{
		owner, {Name: "time_zone", Label: "Time zone", Kind: fieldText, Needed: true, Usual: "UTC", Choices: timeZones, Hint: "such as Europe/Berlin"},
		{Name: "buffer_minutes", Label: "Minutes free around events", Kind: fieldNumber, Hint: "0 to 1440"},
		{Name: "notice_minutes", Label: "Minutes of notice", Kind: fieldNumber, Hint: "minimum from now to the first free slot"},
	}
	for _, day := range weekDays() {
		f := formField{Name: "windows." + day, Label: capital(day), Kind: fieldHours, Usual: "09:00-17:00"}
		switch day {
		case "monday":
			f.Hint, f.Group = "earliest first; without times: no hours on this day; until 00:00 is until midnight", "Hours"
		case "saturday", "sunday":
			f.Usual = ""
		}
		fields = append(fields, f)
	}
	for _, day := range weekDays() {
		f := formField{Name: "business_hours." + day, Label: capital(day), Kind: fieldHours}
		if day == "monday" {
			f.Hint, f.Group = "slots must also be within these hours; if all are empty, they do not matter", "Business hours"
		}
		fields = append(fields, f)
	}
	return fields
}

// copyMonday copies the hours of Monday to the days until Friday, in the week that the button names.
func copyMonday(form url.Values) string {
	week := form.Get("copy")
	if week != "windows" && week != "business_hours" {
		return ""
	}
	for _, day := range weekDays()[1:5] {
		for _, end := range []string{".from", ".to"} {
			form[week+"."+day+end] = form[week+".monday"+end]
		}
	}
	return "Copied. Nothing is saved yet."
}

// scheduleBody replaces the fields for single days in body by whole weeks, because the admin
// endpoint accepts only whole weeks. Days that the form does not change are as they are stored. It
// leaves out a week if none of its days was changed.
func scheduleBody(_ url.Values, record, body map[string]any) error {
	for _, name := range []string{"windows", "business_hours"} {
		week, changed, open := map[string]any{}, record == nil, false
		for _, f := range scheduleFields() {
			day, ok := strings.CutPrefix(f.Name, name+".")
			if !ok {
				continue
			}
			hours, is := body[f.Name].([]string)
			if !is {
				hours = append([]string{}, texts(f.stored(record))...)
			}
			changed = changed || is
			delete(body, f.Name)
			week[day] = hours
			open = open || len(hours) > 0
		}
		switch {
		case changed && name == "business_hours" && !open:
			body[name] = nil
		case changed:
			body[name] = week
		}
	}
	return nil
}

// teamPages returns the pages of the teams.
func teamPages() *recordPages {
	return &recordPages{
		section: section{"System", "Teams", "/teams"}, One: "team", API: "teams", Rows: "teams", TitleField: "name",
		About: "Groups of owners. The members of a team see each other's records that name the team.", Empty: "No teams yet. Without a team, an owner sees only its own records.",
		Columns: []column{
			{Head: "Name", Member: "name", Kind: cellName}, {Head: "Members", Member: "members"}, {Head: "Id", Member: "id", Kind: cellNumber}, {Head: "Created", Member: "created_at", Kind: cellTime},
		},
		Facts: []column{{Head: "Id", Member: "id"}, {Head: "Created", Member: "created_at", Kind: cellTime}},
		Fields: []formField{
			{Name: "name", Label: "Name", Kind: fieldText, Needed: true},
			{Name: "members", Label: "Members", Kind: fieldLines, Hint: "one owner per line; a new name creates an owner", Usual: defaultOwner},
		},
		Deletion: func(_ *pageRequest, team map[string]any) string {
			members := texts(team["members"])
			if len(members) == 0 {
				return "It has no members."
			}
			return "Its records remain with their owners. The other members (" + strings.Join(members, ", ") + ") no longer see it."
		},
	}
}

// ownerPages are the pages of the owners. They have a field for each limit that the service has for
// owners.
type ownerPages struct {
	contract bool // the service serves the Klen AI API, whose calls are paid from the wallets of owners, and whose records can be in sandboxes
}

func (o ownerPages) sections() []section { return o.records(nil).sections() }

func (o ownerPages) pages() map[string]page {
	pages := map[string]page{}
	if o.contract {
		pages["GET /owners/{id}/empty"] = page{emptySandbox, askEmpty}
		pages["POST /owners/{id}/empty"] = page{emptySandbox, doEmpty}
	}
	for pattern, records := range o.records(nil).pages() {
		pages[pattern] = page{records.Needs, func(v *pageRequest) {
			limits, e := ownerLimits(v)
			if e != nil {
				v.showFault(e)
				return
			}
			o.records(limits).pages()[pattern].Serve(v)
		}}
	}
	return pages
}

// emptySandbox is the endpoint that empties the sandbox of an owner.
const emptySandbox = "POST /admin/v1/sandbox/reset"

// askEmpty asks whether the sandbox of an owner is to be emptied.
func askEmpty(v *pageRequest) {
	owner, e := v.call(http.MethodGet, "/admin/v1/owners/"+url.PathEscape(v.R.PathValue("id")), nil)
	if e != nil {
		v.showFault(e)
		return
	}
	v.show(http.StatusOK, "emptysandbox", view{Title: "Empty the sandbox of " + textOf(owner["name"]), Data: owner})
}

// doEmpty empties the sandbox of an owner.
func doEmpty(v *pageRequest) {
	v.noDeadline()
	at := "/owners/" + url.PathEscape(v.R.PathValue("id"))
	owner, e := v.call(http.MethodGet, "/admin/v1"+at, nil)
	if e == nil {
		_, e = v.call(http.MethodPost, "/admin/v1/sandbox/reset", map[string]any{"owner": owner["name"]})
	}
	if e != nil {
		v.showFault(e)
		return
	}
	http.Redirect(v.W, v.R, at+"?done=emptied", http.StatusSeeOther)
}

// ownerLimits returns the fields for the limits of owners. The page of an owner shows what is used of
// each.
func ownerLimits(v *pageRequest) (fields []formField, e *Fault) {
	answer, e := v.call(http.MethodGet, "/admin/v1/limits", nil)
	if e != nil {
		return nil, e
	}
	usage := map[string]any{}
	if id := v.R.PathValue("id"); id != "" {
		used, e := v.call(http.MethodGet, "/admin/v1/owners/"+url.PathEscape(id)+"/usage", nil)
		if e != nil {
			return nil, e
		}
		usage, _ = used["usage"].(map[string]any)
	}
	rows, _ := answer["limits"].([]any)
	for _, row := range rows {
		limit, _ := row.(map[string]any)
		if limit["scope"] != "owner" {
			continue
		}
		name := textOf(limit["name"])
		f := formField{Name: "limits." + name, From: "own_limits." + name, Label: capital(strings.TrimPrefix(limitLabel(name), "Owner ")), Kind: fieldNumber, Hint: "empty or 0: no limit"}
		if standard := int(numberOf(limit["default"])); standard > 0 {
			f.Hint = "empty: the default, " + figures.Grouped(standard) + "; 0: no limit"
		}
		if u, is := usage[name].(map[string]any); is {
			f.Hint = fmt.Sprintf("%s of %s used now; ", figures.Grouped(int(numberOf(u["used"]))), figures.Grouped(int(numberOf(u["limit"])))) + f.Hint
		}
		if len(fields) == 0 {
			f.Group = "Limits of all its keys together"
		}
		fields = append(fields, f)
	}
	return fields, nil
}

// ownerBody moves the limits in body to the member limits, in which null is the default.
func ownerBody(_ url.Values, _, body map[string]any) error {
	limits := map[string]any{}
	for field, value := range body {
		if name, is := strings.CutPrefix(field, "limits."); is {
			limits[name] = value
			delete(body, field)
		}
	}
	if len(limits) > 0 {
		body["limits"] = limits
	}
	return nil
}

// records returns the pages of the owners with the fields for their limits. Without the contract they
// have no wallets.
func (o ownerPages) records(limits []formField) *recordPages {
	p := &recordPages{
		section: section{"System", "Owners", "/owners"}, One: "owner", API: "owners", Rows: "owners", TitleField: "name",
		About: "A key acts for its owner and sees its owner's records. An owner cannot be deleted, because its records would then belong to nobody.", Empty: "No owners yet. The first key creates one.",
		Columns: []column{
			{Head: "Name", Member: "name", Kind: cellName}, {Head: "Balance", Member: "balance", Kind: cellNumber}, {Head: "Price of a minute", Member: "rate", Kind: cellNumber},
			{Head: "Stored", Member: "stored", Kind: cellNumber}, {Head: "Storage limit", Member: "stored_of", Kind: cellNumber}, {Head: "Created", Member: "created_at", Kind: cellTime},
		},
		Page: "owner", More: ownerStorage, Each: ownerStored, Body: ownerBody,
		Filters: []formField{
			{Name: "search", Label: "Name", Kind: fieldSearch},
			{Name: "storage", Label: "Storage", Kind: fieldSelect, Blank: "any", Choices: func(*pageRequest) []choice { return []choice{{Value: "low", Label: "little left"}} }},
		},
		Facts: []column{{Head: "Id", Member: "id"}, {Head: "Created", Member: "created_at", Kind: cellTime}},
		Fields: append([]formField{
			{Name: "name", Label: "Name", Kind: fieldText, Needed: true, Make: true, Hint: "cannot be changed later, because keys and teams refer to it"},
			{Name: "balance", Label: "Balance", Kind: fieldNumber, Hint: "money in the wallet; empty: no wallet, so no call is refused for lack of money"},
			{Name: "rate", Label: "Price of a minute", Kind: fieldNumber, Hint: "a call needs at least this much in the wallet"},
			{Name: "storage_bytes", Label: "Storage", Kind: fieldSize, Hint: "how much its records may need, such as 512MiB; none: no limit; empty: the default"},
		}, limits...),
	}
	if !o.contract {
		wallet := []string{"balance", "rate"}
		p.Columns = slices.DeleteFunc(p.Columns, func(c column) bool { return slices.Contains(wallet, c.Member) })
		p.Fields = slices.DeleteFunc(p.Fields, func(f formField) bool { return slices.Contains(wallet, f.Name) })
	}
	return p
}

// ownerStored adds to an owner in the list how much it stores, as text.
func ownerStored(owner map[string]any) {
	owner["stored"], owner["stored_of"] = sizeShown(memberOf(owner, "storage.bytes")), "no limit"
	if limit := memberOf(owner, "storage.limit"); limit != nil {
		owner["stored_of"] = sizeShown(limit)
	}
}

// sizeShown returns a number of bytes in the units in which storage is set, such as "12.5 MiB".
func sizeShown(v any) string { return bytesize.Rounded(int64(numberOf(v))) }

// storageBar is a bar that shows how much of an owner's storage is used.
type storageBar struct {
	limitBar
	Bytes, Of int64 // Of is 0 if there is no limit
}

// Text returns the values of the bar as a text.
func (b storageBar) Text() string {
	if b.Of == 0 {
		return "Storage: " + bytesize.Rounded(b.Bytes) + ", no limit"
	}
	return "Storage: " + bytesize.Rounded(b.Bytes) + " of " + bytesize.Rounded(b.Of)
}

// ownerExtra is what the page of an owner shows besides the record.
type ownerExtra struct {
	storageBar
	Chart chart // of the last 24 hours of its keys
	Keys  int   // number of its keys
	Empty bool  // whether the page shows sandboxes, and the operator may empty that of the owner
	Shown int   // number of the keys in the chart
}

// ownerKeys is how many keys the chart of an owner sums up: those that were used last.
const ownerKeys = 100

// ownerChart adds the chart of the requests with the keys of an owner in the chosen space to e. Without the right to see
// them it adds nothing.
func ownerChart(v *pageRequest, owner string, e *ownerExtra) {
	keys, fault := v.call(http.MethodGet, v.listOfSpace("/admin/v1/keys")+"&"+url.Values{"owner": {owner}, "sort": {"last_used"}, "limit": {fmt.Sprint(ownerKeys)}}.Encode(), nil)
	rows, _ := keys["keys"].([]any)
	if fault != nil || len(rows) == 0 {
		return
	}
	q := url.Values{"last": {"48"}}
	for _, row := range rows {
		q.Add("key", textOf(memberOf(row.(map[string]any), "id")))
	}
	var answer struct {
		From, To string
		Keys     []keyUsage
	}
	if v.read("/admin/v1/usage?"+q.Encode(), &answer) != nil {
		return
	}
	sums := map[string]chartRow{}
	for _, key := range answer.Keys {
		for _, row := range key.Buckets {
			sums[row.Start] = sums[row.Start].plus(row)
		}
	}
	buckets := slices.Collect(maps.Values(sums))
	sorted.Func(buckets, func(a, b chartRow) int { return strings.Compare(a.Start, b.Start) })
	e.Chart = newChart(lastOf(map[string]any{"step": "hour", "from": answer.From, "to": answer.To, "buckets": buckets}, 24), v.zone())
	e.Keys, e.Shown = int(numberOf(keys["count"])), len(rows)
}

// ownerStorage adds the bar of the storage and the chart of the keys to the page of an owner.
func ownerStorage(v *pageRequest, p *recordPage) *Fault {
	b := storageBar{Bytes: int64(numberOf(memberOf(p.Record, "storage.bytes"))), Of: int64(numberOf(memberOf(p.Record, "storage.limit")))}
	if b.Of > 0 {
		b.Percent = int(min(100, 100*float64(b.Bytes)/float64(b.Of)))
	}
	e := ownerExtra{storageBar: b, Empty: v.inSandbox() && !v.dashboard.o.WithoutContract && v.may(emptySandbox)}
	ownerChart(v, textOf(p.Record["name"]), &e)
	p.Extra = e
	return nil
}

// ownerField returns the field for the owner in the forms of a new and of an existing record.
func ownerField() formField {
	return formField{Name: "owner", Label: "Owner", Kind: fieldText, Hint: "who owns it; empty: " + defaultOwner, Choices: ownerChoices}
}

// newOwnerField returns the field for the owner if only the form of a new record has it.
func newOwnerField() formField {
	f := ownerField()
	f.Make = true
	return f
}

// ownerFilter returns the filter that selects the records of one owner.
func ownerFilter() formField {
	return formField{Name: "owner", Label: "Owner", Kind: fieldText, Choices: ownerChoices}
}

// teamField returns the field for the team in the form of a record.
func teamField() formField {
	return formField{Name: "team_id", Label: "Team", Kind: fieldID, Choices: recordChoices("teams", "teams", "id", "name"), Hint: "its members see the record too; the owner must be a member"}
}

// agentField returns the field for the agent in the form of a record. name is the member that holds
// the agent's id.
func agentField(name string) formField {
	return formField{Name: name, Label: "Agent", Kind: fieldID, Choices: recordChoices("agents", "agents", "id", "name")}
}
