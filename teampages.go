package main

import "strings"

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
