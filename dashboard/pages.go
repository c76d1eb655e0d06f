package dashboard

import (
	"fmt"
	"net/url"
	"strings"

	"latchkey/internal/bytesize"
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
			{Head: "Agent", Member: "agent.name"}, {Head: "Started", Member: "started_at", Kind: cellTime}, {Head: "Seconds", Member: "duration_seconds", Kind: cellNumber}, {Head: "Owner", Member: "owner"},
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
		Fields:  scheduleFields(), Body: scheduleBody,
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
		f := formField{Name: "windows." + day, Label: capital(day), Kind: fieldList, Usual: "09:00-17:00"}
		switch day {
		case "monday":
			f.Hint, f.Group = "such as 09:00-12:00, 13:00-17:00; empty: no hours on this day", "Hours"
		case "saturday", "sunday":
			f.Usual = ""
		}
		fields = append(fields, f)
	}
	for _, day := range weekDays() {
		f := formField{Name: "business_hours." + day, Label: capital(day), Kind: fieldList}
		if day == "monday" {
			f.Hint, f.Group = "slots must also be within these hours; if all are empty, they do not matter", "Business hours"
		}
		fields = append(fields, f)
	}
	return fields
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

// ownerPages returns the pages of the owners.
func ownerPages() *recordPages {
	return &recordPages{
		section: section{"System", "Owners", "/owners"}, One: "owner", API: "owners", Rows: "owners", TitleField: "name",
		About: "A key acts for its owner and sees its owner's records. An owner cannot be deleted, because its records would then belong to nobody.", Empty: "No owners yet. The first key creates one.",
		Columns: []column{
			{Head: "Name", Member: "name", Kind: cellName}, {Head: "Balance", Member: "balance", Kind: cellNumber}, {Head: "Price of a minute", Member: "rate", Kind: cellNumber},
			{Head: "Created", Member: "created_at", Kind: cellTime}, {Head: "Stored bytes", Member: "storage.bytes", Kind: cellNumber}, {Head: "Of", Member: "storage.limit", Kind: cellNumber},
		},
		Page: "owner", More: ownerStorage,
		Filters: []formField{{Name: "search", Label: "Name", Kind: fieldSearch}},
		Facts:   []column{{Head: "Id", Member: "id"}, {Head: "Created", Member: "created_at", Kind: cellTime}},
		Fields: []formField{
			{Name: "name", Label: "Name", Kind: fieldText, Needed: true, Make: true, Hint: "cannot be changed later, because keys and teams refer to it"},
			{Name: "balance", Label: "Balance", Kind: fieldNumber, Hint: "money in the wallet; empty: no wallet, so no call is refused for lack of money"},
			{Name: "rate", Label: "Price of a minute", Kind: fieldNumber, Hint: "a call needs at least this much in the wallet"},
			{Name: "storage_bytes", Label: "Storage", Kind: fieldSize, Hint: "how much its records may need, such as 512MiB; none: no limit; empty: the default"},
			{Name: "limits", Label: "Limits of all its keys together", Kind: fieldJSON, Usual: "{}", Hint: "a JSON object; 0 means no limit; a limit that you remove gets its default again"},
		},
	}
}

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

// ownerStorage adds the bar of the storage to the page of an owner.
func ownerStorage(_ *pageRequest, p *recordPage) *Fault {
	b := storageBar{Bytes: int64(numberOf(memberOf(p.Record, "storage.bytes"))), Of: int64(numberOf(memberOf(p.Record, "storage.limit")))}
	if b.Of > 0 {
		b.Percent = int(min(100, 100*float64(b.Bytes)/float64(b.Of)))
	}
	p.Extra = b
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
