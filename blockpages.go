package main

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
