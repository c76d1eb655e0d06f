package main

import "fmt"

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
