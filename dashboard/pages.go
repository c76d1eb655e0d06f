package dashboard

import (
	"fmt"
	"net/url"
	"strings"
)

// agentPages returns the pages of the agents.
func agentPages() *recordPages {
	return &recordPages{
		section: section{"Data", "Agents", "/agents"}, One: "agent", API: "agents", Rows: "agents", CalledBy: "name",
		About: "Who speaks in calls.", Empty: "No agent yet. A call needs one: it speaks, and its number is the one that is shown.",
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
			{Name: "phone_number", Label: "Number", Kind: fieldTel, Hint: "such as +4930555001; without one it places no calls"},
			{Name: "model", Label: "Model", Kind: fieldText, Hint: "name of the language model"},
			{Name: "voice_id", Label: "Voice", Kind: fieldText},
			teamField(),
			ownerField(true),
		},
		Deletion: func(_ *visit, agent map[string]any) string {
			return fmt.Sprintf("The calls that it has made stay, with its name (%s so far). Requests for new calls with its id are refused from now on, and events that name it no longer do.", textOf(agent["total_calls"]))
		},
	}
}

// blockPages returns the pages of the do-not-call list.
func blockPages() *recordPages {
	return &recordPages{
		section: section{"Data", "Do not call", "/do-not-call"}, One: "number", API: "do-not-call", Rows: "do_not_call", CalledBy: "phone_number",
		About: "Numbers that nobody may have called.", Empty: "No number is barred.",
		Columns: []column{
			{Head: "Number", Member: "phone_number", Kind: cellName}, {Head: "Why", Member: "reason"}, {Head: "Since", Member: "created_at", Kind: cellTime},
		},
		Filters: []formField{{Name: "search", Label: "Number or reason", Kind: fieldSearch}},
		Facts:   []column{{Head: "Since", Member: "created_at", Kind: cellTime}},
		Fields: []formField{
			{Name: "phone_number", Label: "Number", Kind: fieldTel, Needed: true, Hint: "such as +4930555044"},
			{Name: "reason", Label: "Why", Kind: fieldText},
		},
		Deletion: func(_ *visit, number map[string]any) string {
			return "Calls to " + textOf(number["phone_number"]) + " are allowed again from now on, unless a contact is marked as not to be called."
		},
	}
}

// callPages returns the pages of the calls.
func callPages() *recordPages {
	return &recordPages{
		section: section{"Data", "Calls", "/calls"}, One: "call", API: "calls", Rows: "calls", CalledBy: "call_id", Page: "call",
		About: "Newest first; times are UTC.", Empty: "No call yet. POST /api/v1/calls with a key starts one; an inbound one can be recorded here.",
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
		{Head: "Asked for", Member: "created_at", Kind: cellTime}, {Head: "Started", Member: "started_at", Kind: cellTime}, {Head: "Ended", Member: "ended_at", Kind: cellTime},
		{Head: "Seconds", Member: "duration_seconds"}, {Head: "Failed because", Member: "error_reason", Sub: "error_message"},
		{Head: "Recording", Member: "recording_url", Kind: cellURL},
		{Head: "Billing", Member: "billing.status"}, {Head: "Charged", Member: "billing.total_charge"},
		{Head: "Dialer", Member: "dialer"}, {Head: "Its lease ends", Member: "lease_until", Kind: cellTime},
		{Head: "Id", Member: "id"}, {Head: "Summary", Member: "summary", Kind: cellLong},
	}
}

func callFields() []formField {
	return []formField{
		{Name: "phone_number", Label: "Number", Kind: fieldTel, Needed: true, Make: true, Hint: "who called, such as +4930555010"},
		{Name: "agent_id", Label: "Agent", Kind: fieldID, Needed: true, Make: true, Choices: recordChoices("agents", "agents", "id", "name")},
		{Name: "contact_id", Label: "Contact", Kind: fieldNumber, Make: true, Hint: "id of a contact, if it is one"},
		ownerField(true),
		{Name: "status", Label: "Status", Kind: fieldSelect, Needed: true, Make: true, Choices: words(Vocabulary().CallStates[1:]...)},
		{Name: "status", Label: "Status", Kind: fieldSelect, Needed: true, Change: true, Choices: words(Vocabulary().CallStates...), Hint: "a call that is over stays so"},
		{Name: "error_reason", Label: "Failed because", Kind: fieldSelect, Choices: words(Vocabulary().FailReasons...)},
		{Name: "started_at", Label: "Started", Kind: fieldTime, Hint: "UTC; empty: now, once it is under way"},
		{Name: "ended_at", Label: "Ended", Kind: fieldTime, Hint: "UTC; empty: now, once it is over"},
		{Name: "recording_url", Label: "Recording", Kind: fieldText, Wide: true, Hint: "address of the sound file"},
		{Name: "summary", Label: "Summary", Kind: fieldArea},
		{Name: "transcript", Label: "Transcript", Kind: fieldArea},
	}
}

// callVariables adds the values that the call's prompts can use to its page.
func callVariables(_ *visit, p *recordPage) *Fault {
	p.Extra = membersOf(p.Record["prompt_variables"])
	return nil
}

// schedulePages returns the pages of the availability schedules.
func schedulePages() *recordPages {
	return &recordPages{
		section: section{"Data", "Availability", "/schedules"}, One: "schedule", API: "schedules", Rows: "schedules", CalledBy: "owner",
		About: "When an owner can be booked; without a schedule that is Monday to Friday, 9 to 17, UTC.", Empty: "No schedule yet.",
		Columns: []column{
			{Head: "Owner", Member: "owner", Kind: cellName}, {Head: "Time zone", Member: "time_zone"}, {Head: "Free around events", Member: "buffer_minutes", Kind: cellNumber},
			{Head: "Notice", Member: "notice_minutes", Kind: cellNumber}, {Head: "Created", Member: "created_at", Kind: cellTime},
		},
		Filters: []formField{ownerFilter()},
		Facts:   []column{{Head: "Owner", Member: "owner"}, {Head: "Created", Member: "created_at", Kind: cellTime}},
		Fields:  scheduleFields(), Body: scheduleBody,
		Deletion: func(_ *visit, schedule map[string]any) string {
			return "The availability of " + textOf(schedule["owner"]) + " is then Monday to Friday, 9 to 17, UTC. Events stay."
		},
	}
}

// weekDays returns the days of a week, from Monday to Sunday.
func weekDays() []string {
	days := Vocabulary().Weekdays
	return append(days[1:], days[0])
}

func scheduleFields() []formField {
	owner := ownerField(true)
	owner.Hint = "who can be booked then; empty: " + defaultOwner
	fields := []formField{
		owner, {Name: "time_zone", Label: "Time zone", Kind: fieldText, Needed: true, Usual: "UTC", Choices: timeZones, Hint: "such as Europe/Berlin"},
		{Name: "buffer_minutes", Label: "Minutes free around events", Kind: fieldNumber, Hint: "0 to 1440"},
		{Name: "notice_minutes", Label: "Minutes of notice", Kind: fieldNumber, Hint: "from now to the first free slot"},
	}
	for _, day := range weekDays() {
		f := formField{Name: "windows." + day, Label: capital(day), Kind: fieldList, Usual: "09:00-17:00"}
		switch day {
		case "monday":
			f.Hint, f.Group = "such as 09:00-12:00, 13:00-17:00; empty: not at all", "Hours"
		case "saturday", "sunday":
			f.Usual = ""
		}
		fields = append(fields, f)
	}
	for _, day := range weekDays() {
		f := formField{Name: "business_hours." + day, Label: capital(day), Kind: fieldList}
		if day == "monday" {
			f.Hint, f.Group = "these cut the hours above; all empty: nothing is cut", "Business hours"
		}
		fields = append(fields, f)
	}
	return fields
}

// scheduleBody replaces the fields of single days in a body by whole weeks, because
// the admin endpoint accepts only whole weeks. A week is left out if none of its
// days was changed.
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
			value, err := f.value(form)
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

// teamPages returns the pages of the teams.
func teamPages() *recordPages {
	return &recordPages{
		section: section{"System", "Teams", "/teams"}, One: "team", API: "teams", Rows: "teams", CalledBy: "name",
		About: "Owners who see each other's records where those name the team.", Empty: "No team yet. Without one every owner sees only its own records.",
		Columns: []column{
			{Head: "Name", Member: "name", Kind: cellName}, {Head: "Members", Member: "members"}, {Head: "Id", Member: "id", Kind: cellNumber}, {Head: "Created", Member: "created_at", Kind: cellTime},
		},
		Facts: []column{{Head: "Id", Member: "id"}, {Head: "Created", Member: "created_at", Kind: cellTime}},
		Fields: []formField{
			{Name: "name", Label: "Name", Kind: fieldText, Needed: true},
			{Name: "members", Label: "Members", Kind: fieldLines, Hint: "an owner to a line; a new name makes a new owner", Usual: defaultOwner},
		},
		Deletion: func(_ *visit, team map[string]any) string {
			members := texts(team["members"])
			if len(members) == 0 {
				return "It has no members."
			}
			return "What belongs to it stays with its owner; the other members (" + strings.Join(members, ", ") + ") no longer see it."
		},
	}
}

// ownerPages returns the pages of the owners.
func ownerPages() *recordPages {
	return &recordPages{
		section: section{"System", "Owners", "/owners"}, One: "owner", API: "owners", Rows: "owners", CalledBy: "name",
		About: "Whom keys act for: a key sees what its owner has. An owner stays: what it has made would belong to nobody.", Empty: "No owner yet. The first key makes one.",
		Columns: []column{
			{Head: "Name", Member: "name", Kind: cellName}, {Head: "Balance", Member: "balance", Kind: cellNumber}, {Head: "Price of a minute", Member: "rate", Kind: cellNumber},
			{Head: "Created", Member: "created_at", Kind: cellTime},
		},
		Filters: []formField{{Name: "search", Label: "Name", Kind: fieldSearch}},
		Facts:   []column{{Head: "Id", Member: "id"}, {Head: "Created", Member: "created_at", Kind: cellTime}},
		Fields: []formField{
			{Name: "name", Label: "Name", Kind: fieldText, Needed: true, Make: true, Hint: "it cannot change later: keys and teams refer to it"},
			{Name: "balance", Label: "Balance", Kind: fieldNumber, Hint: "what the wallet holds; empty: there is none, and no call is refused for it"},
			{Name: "rate", Label: "Price of a minute", Kind: fieldNumber, Hint: "also the least that the wallet must hold for a call"},
			{Name: "limits", Label: "Limits of all its keys together", Kind: fieldJSON, Usual: "{}", Hint: "a JSON object; 0 is no limit, and one that is taken out has its default again"},
		},
		Body: ownerLimits,
	}
}

// ownerLimits reduces the limits in a body to those that the form changes, with
// null for those that it removes. The page shows the defaults too, and they must
// not be stored for the owner.
func ownerLimits(_ url.Values, record, body map[string]any) error {
	limits, changed := body["limits"].(map[string]any)
	if !changed {
		return nil
	}
	had, _ := record["limits"].(map[string]any)
	for name, value := range had {
		if now, stays := limits[name]; !stays {
			limits[name] = nil
		} else if textOf(now) == textOf(value) {
			delete(limits, name)
		}
	}
	return nil
}

// ownerField returns the field of the owner in the form of a record.
func ownerField(onlyNew bool) formField {
	return formField{Name: "owner", Label: "Owner", Kind: fieldText, Hint: "whose it is; empty: " + defaultOwner, Choices: ownerChoices, Make: onlyNew}
}

// ownerFilter returns the filter for the records of an owner.
func ownerFilter() formField {
	return formField{Name: "owner", Label: "Owner", Kind: fieldText, Choices: ownerChoices}
}

// teamField returns the field of the team in the form of a record.
func teamField() formField {
	return formField{Name: "team_id", Label: "Team", Kind: fieldID, Choices: recordChoices("teams", "teams", "id", "name"), Hint: "whose members see it too; its owner must be one"}
}

// agentField returns the field of the agent in the form of a record.
func agentField(name string) formField {
	return formField{Name: name, Label: "Agent", Kind: fieldID, Choices: recordChoices("agents", "agents", "id", "name")}
}
