package main

import (
	"fmt"
	"net/url"
	"strings"
)

// AgentPages are the pages of the agents.
func AgentPages() *Records {
	return &Records{
		Section: Section{"Data", "Agents", "/agents"}, One: "agent", API: "agents", Rows: "agents", CalledBy: "name",
		About: "Who speaks in calls.", Empty: "No agent yet. A call needs one: it speaks, and its number is the one that is shown.",
		Columns: []Column{
			{Head: "Name", Member: "name", Kind: CellName, Sub: "assistant_id"}, {Head: "Role", Member: "role"}, {Head: "Number", Member: "phone_number"},
			{Head: "Calls", Member: "total_calls", Kind: CellNumber}, {Head: "Minutes", Member: "minutes_used", Kind: CellNumber}, {Head: "Owner", Member: "owner"},
		},
		Filters: []Field{{Name: "search", Label: "Name", Kind: FieldSearch}, OwnerFilter()},
		Facts: []Column{
			{Head: "Assistant id", Member: "assistant_id", Kind: CellMono}, {Head: "Id", Member: "id"}, {Head: "Owner", Member: "owner"}, {Head: "Calls", Member: "total_calls"},
			{Head: "Minutes", Member: "minutes_used"}, {Head: "May place calls", Member: "can_make_calls"}, {Head: "Created", Member: "created_at", Kind: CellTime},
		},
		Fields: []Field{
			{Name: "name", Label: "Name", Kind: FieldText, Needed: true},
			{Name: "role", Label: "Role", Kind: FieldSelect, Needed: true, Choices: Words("inbound agent", "outbound agent")},
			{Name: "phone_number", Label: "Number", Kind: FieldTel, Hint: "such as +4930555001; without one it places no calls"},
			{Name: "model", Label: "Model", Kind: FieldText, Hint: "name of the language model"},
			{Name: "voice_id", Label: "Voice", Kind: FieldText},
			TeamField(),
			OwnerField(true),
		},
		Deletion: func(_ *Visit, agent map[string]any) string {
			return fmt.Sprintf("The calls that it has made stay, with its name (%s so far). Requests for new calls with its id are refused from now on, and events that name it no longer do.", Shown(agent["total_calls"]))
		},
	}
}

// BlockPages are the pages of the do-not-call list.
func BlockPages() *Records {
	return &Records{
		Section: Section{"Data", "Do not call", "/do-not-call"}, One: "number", API: "do-not-call", Rows: "do_not_call", CalledBy: "phone_number",
		About: "Numbers that nobody may have called.", Empty: "No number is barred.",
		Columns: []Column{
			{Head: "Number", Member: "phone_number", Kind: CellName}, {Head: "Why", Member: "reason"}, {Head: "Since", Member: "created_at", Kind: CellTime},
		},
		Filters: []Field{{Name: "search", Label: "Number or reason", Kind: FieldSearch}},
		Facts:   []Column{{Head: "Since", Member: "created_at", Kind: CellTime}},
		Fields: []Field{
			{Name: "phone_number", Label: "Number", Kind: FieldTel, Needed: true, Hint: "such as +4930555044"},
			{Name: "reason", Label: "Why", Kind: FieldText},
		},
		Deletion: func(_ *Visit, number map[string]any) string {
			return "Calls to " + Shown(number["phone_number"]) + " are allowed again from now on, unless a contact is marked as not to be called."
		},
	}
}

// CallPages are the pages of the calls.
func CallPages() *Records {
	return &Records{
		Section: Section{"Data", "Calls", "/calls"}, One: "call", API: "calls", Rows: "calls", CalledBy: "call_id", Page: "call",
		About: "Newest first; times are UTC.", Empty: "No call yet. POST /api/v1/calls with a key starts one; an inbound one can be recorded here.",
		Columns: []Column{
			{Head: "Number", Member: "phone_number", Kind: CellName, Sub: "contact.name"}, {Head: "Status", Member: "status", Kind: CellState}, {Head: "Type", Member: "type"},
			{Head: "Agent", Member: "agent.name"}, {Head: "Started", Member: "started_at", Kind: CellTime}, {Head: "Seconds", Member: "duration_seconds", Kind: CellNumber}, {Head: "Owner", Member: "owner"},
		},
		Filters: []Field{
			{Name: "agent_id", Label: "Agent", Kind: FieldSelect, Blank: "any", Choices: RecordChoices("agents", "agents", "id", "name")},
			{Name: "status", Label: "Status", Kind: FieldSelect, Blank: "any", Choices: Words(CallStates()...)},
			{Name: "type", Label: "Type", Kind: FieldSelect, Blank: "any", Choices: Words(CallTypes()...)},
			OwnerFilter(),
		},
		Facts: callFacts(), Fields: callFields(), More: callVariables, New: "Record inbound call",
	}
}

func callFacts() []Column {
	return []Column{
		{Head: "Number", Member: "phone_number"}, {Head: "Type", Member: "type"},
		{Head: "Agent", Member: "agent.name", To: "/agents/", By: "agent.id"},
		{Head: "Contact", Member: "contact.name", To: "/contacts/", By: "contact.id"},
		{Head: "Owner", Member: "owner"}, {Head: "Team", Member: "team"},
		{Head: "Asked for", Member: "created_at", Kind: CellTime}, {Head: "Started", Member: "started_at", Kind: CellTime}, {Head: "Ended", Member: "ended_at", Kind: CellTime},
		{Head: "Seconds", Member: "duration_seconds"}, {Head: "Failed because", Member: "error_reason", Sub: "error_message"},
		{Head: "Recording", Member: "recording_url", Kind: CellURL},
		{Head: "Billing", Member: "billing.status"}, {Head: "Charged", Member: "billing.total_charge"},
		{Head: "Dialer", Member: "dialer"}, {Head: "Its lease ends", Member: "lease_until", Kind: CellTime},
		{Head: "Id", Member: "id"}, {Head: "Summary", Member: "summary", Kind: CellLong},
	}
}

func callFields() []Field {
	return []Field{
		{Name: "phone_number", Label: "Number", Kind: FieldTel, Needed: true, Make: true, Hint: "who called, such as +4930555010"},
		{Name: "agent_id", Label: "Agent", Kind: FieldID, Needed: true, Make: true, Choices: RecordChoices("agents", "agents", "id", "name")},
		{Name: "contact_id", Label: "Contact", Kind: FieldNumber, Make: true, Hint: "id of a contact, if it is one"},
		OwnerField(true),
		{Name: "status", Label: "Status", Kind: FieldSelect, Needed: true, Make: true, Choices: Words(CallStates()[1:]...)},
		{Name: "status", Label: "Status", Kind: FieldSelect, Needed: true, Change: true, Choices: Words(CallStates()...), Hint: "a call that is over stays so"},
		{Name: "error_reason", Label: "Failed because", Kind: FieldSelect, Choices: Words(FailReasons()...)},
		{Name: "started_at", Label: "Started", Kind: FieldTime, Hint: "UTC; empty: now, once it is under way"},
		{Name: "ended_at", Label: "Ended", Kind: FieldTime, Hint: "UTC; empty: now, once it is over"},
		{Name: "recording_url", Label: "Recording", Kind: FieldText, Wide: true, Hint: "address of the sound file"},
		{Name: "summary", Label: "Summary", Kind: FieldArea},
		{Name: "transcript", Label: "Transcript", Kind: FieldArea},
	}
}

// callVariables adds what the call's prompts can name.
func callVariables(_ *Visit, p *RecordPage) *Error {
	p.Extra = Pairs(p.Record["prompt_variables"])
	return nil
}

// SchedulePages are the pages of the availability schedules.
func SchedulePages() *Records {
	return &Records{
		Section: Section{"Data", "Availability", "/schedules"}, One: "schedule", API: "schedules", Rows: "schedules", CalledBy: "owner",
		About: "When an owner can be booked; without a schedule that is Monday to Friday, 9 to 17, UTC.", Empty: "No schedule yet.",
		Columns: []Column{
			{Head: "Owner", Member: "owner", Kind: CellName}, {Head: "Time zone", Member: "time_zone"}, {Head: "Free around events", Member: "buffer_minutes", Kind: CellNumber},
			{Head: "Notice", Member: "notice_minutes", Kind: CellNumber}, {Head: "Created", Member: "created_at", Kind: CellTime},
		},
		Filters: []Field{OwnerFilter()},
		Facts:   []Column{{Head: "Owner", Member: "owner"}, {Head: "Created", Member: "created_at", Kind: CellTime}},
		Fields:  scheduleFields(), Body: scheduleBody,
		Deletion: func(_ *Visit, schedule map[string]any) string {
			return "The availability of " + Shown(schedule["owner"]) + " is then Monday to Friday, 9 to 17, UTC. Events stay."
		},
	}
}

// weekDays lists the days of a week as the admin endpoint names them, and in the
// order in which they are shown.
func weekDays() []string {
	return []string{"monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"}
}

func scheduleFields() []Field {
	owner := OwnerField(true)
	owner.Hint = "who can be booked then; empty: " + DefaultOwner
	fields := []Field{
		owner, {Name: "time_zone", Label: "Time zone", Kind: FieldText, Needed: true, Usual: "UTC", Choices: TimeZones, Hint: "such as Europe/Berlin"},
		{Name: "buffer_minutes", Label: "Minutes free around events", Kind: FieldNumber, Hint: "0 to 1440"},
		{Name: "notice_minutes", Label: "Minutes of notice", Kind: FieldNumber, Hint: "from now to the first free slot"},
	}
	for _, day := range weekDays() {
		f := Field{Name: "windows." + day, Label: strings.ToUpper(day[:1]) + day[1:], Kind: FieldList, Usual: "09:00-17:00"}
		switch day {
		case "monday":
			f.Hint, f.Group = "such as 09:00-12:00, 13:00-17:00; empty: not at all", "Hours"
		case "saturday", "sunday":
			f.Usual = ""
		}
		fields = append(fields, f)
	}
	for _, day := range weekDays() {
		f := Field{Name: "business_hours." + day, Label: strings.ToUpper(day[:1]) + day[1:], Kind: FieldList}
		if day == "monday" {
			f.Hint, f.Group = "these cut the hours above; all empty: nothing is cut", "Business hours"
		}
		fields = append(fields, f)
	}
	return fields
}

// scheduleBody puts the days back together: the admin endpoint takes a week as
// a whole.
func scheduleBody(form url.Values, record, body map[string]any) error {
	for _, name := range []string{"windows", "business_hours"} {
		week, changed, open := map[string]any{}, record == nil, false
		for _, f := range scheduleFields() {
			day, ok := strings.CutPrefix(f.Name, name+".")
			if !ok {
				continue
			}
			if _, is := body[f.Name]; is {
				changed = true
			}
			delete(body, f.Name)
			value, err := f.Value(form)
			if err != nil {
				return err
			}
			week[day] = value
			open = open || len(value.([]string)) > 0
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

// TeamPages are the pages of the teams.
func TeamPages() *Records {
	return &Records{
		Section: Section{"System", "Teams", "/teams"}, One: "team", API: "teams", Rows: "teams", CalledBy: "name",
		About: "Owners who see each other's records where those name the team.", Empty: "No team yet. Without one every owner sees only its own records.",
		Columns: []Column{
			{Head: "Name", Member: "name", Kind: CellName}, {Head: "Members", Member: "members"}, {Head: "Id", Member: "id", Kind: CellNumber}, {Head: "Created", Member: "created_at", Kind: CellTime},
		},
		Facts: []Column{{Head: "Id", Member: "id"}, {Head: "Created", Member: "created_at", Kind: CellTime}},
		Fields: []Field{
			{Name: "name", Label: "Name", Kind: FieldText, Needed: true},
			{Name: "members", Label: "Members", Kind: FieldLines, Hint: "an owner to a line; a new name makes a new owner", Usual: DefaultOwner},
		},
		Deletion: func(_ *Visit, team map[string]any) string {
			members := Texts(team["members"])
			if len(members) == 0 {
				return "It has no members."
			}
			return "What belongs to it stays with its owner; the other members (" + strings.Join(members, ", ") + ") no longer see it."
		},
	}
}

// OwnerPages are the pages of the owners.
func OwnerPages() *Records {
	return &Records{
		Section: Section{"System", "Owners", "/owners"}, One: "owner", API: "owners", Rows: "owners", CalledBy: "name",
		About: "Whom keys act for: a key sees what its owner has. An owner stays: what it has made would belong to nobody.", Empty: "No owner yet. The first key makes one.",
		Columns: []Column{
			{Head: "Name", Member: "name", Kind: CellName}, {Head: "Balance", Member: "balance", Kind: CellNumber}, {Head: "Price of a minute", Member: "rate", Kind: CellNumber},
			{Head: "Created", Member: "created_at", Kind: CellTime},
		},
		Filters: []Field{{Name: "search", Label: "Name", Kind: FieldSearch}},
		Facts:   []Column{{Head: "Id", Member: "id"}, {Head: "Created", Member: "created_at", Kind: CellTime}},
		Fields: []Field{
			{Name: "name", Label: "Name", Kind: FieldText, Needed: true, Make: true, Hint: "it cannot change later: keys and teams refer to it"},
			{Name: "balance", Label: "Balance", Kind: FieldNumber, Hint: "what the wallet holds; empty: there is none, and no call is refused for it"},
			{Name: "rate", Label: "Price of a minute", Kind: FieldNumber, Hint: "also the least that the wallet must hold for a call"},
			{Name: "limits", Label: "Limits of all its keys together", Kind: FieldJSON, Usual: "{}", Hint: "a JSON object; 0 is no limit, and one that is taken out has its default again"},
		},
		Body: ownerLimits,
	}
}

// ownerLimits sends those limits that a form changes. The page shows the
// defaults too, which are not to become the owner's own.
func ownerLimits(_ url.Values, record, body map[string]any) error {
	limits, changed := body["limits"].(map[string]any)
	if !changed {
		return nil
	}
	had, _ := record["limits"].(map[string]any)
	for name, value := range had {
		if now, stays := limits[name]; !stays {
			limits[name] = nil
		} else if Shown(now) == Shown(value) {
			delete(limits, name)
		}
	}
	return nil
}

// OwnerField is the owner in the form of a record.
func OwnerField(onlyNew bool) Field {
	return Field{Name: "owner", Label: "Owner", Kind: FieldText, Hint: "whose it is; empty: " + DefaultOwner, Choices: OwnerChoices, Make: onlyNew}
}

// OwnerFilter narrows a list to the records of an owner.
func OwnerFilter() Field {
	return Field{Name: "owner", Label: "Owner", Kind: FieldText, Choices: OwnerChoices}
}

// TeamField is the team in the form of a record.
func TeamField() Field {
	return Field{Name: "team_id", Label: "Team", Kind: FieldID, Choices: RecordChoices("teams", "teams", "id", "name"), Hint: "whose members see it too; its owner must be one"}
}

// AgentField is the agent in the form of a record.
func AgentField(name string) Field {
	return Field{Name: name, Label: "Agent", Kind: FieldID, Choices: RecordChoices("agents", "agents", "id", "name")}
}
