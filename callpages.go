package main

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
