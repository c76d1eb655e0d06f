package main

import "net/url"

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
