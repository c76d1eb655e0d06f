package main

import (
	"cmp"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// ContactPages are the pages of the contacts, and of their import.
type ContactPages struct{ *Records }

// NewContactPages makes the pages.
func NewContactPages() ContactPages {
	return ContactPages{&Records{
		Section: Section{"Data", "Contacts", "/contacts"}, One: "contact", API: "contacts", Rows: "contacts", CalledBy: "full_name", Page: "contact", NewPage: "newcontact",
		About: "The people that calls are about.", Empty: "No contact yet.", Links: []Link{{"Import CSV", "/contacts/import"}},
		Columns: []Column{
			{Head: "Name", Member: "full_name", Kind: CellName, Sub: "email"}, {Head: "Company", Member: "company"}, {Head: "Number", Member: "phone"},
			{Head: "Stage", Member: "stage"}, {Head: "Status", Member: "status", Kind: CellState}, {Head: "Tags", Member: "tags"},
			{Head: "Last call", Member: "last_call_date", Kind: CellTime}, {Head: "Owner", Member: "owner"},
		},
		Filters: []Field{
			{Name: "search", Label: "Name or mail", Kind: FieldSearch}, {Name: "stage", Label: "Stage", Kind: FieldText, Choices: stages},
			{Name: "status", Label: "Status", Kind: FieldText, Choices: contactStates}, {Name: "tag", Label: "Tag", Kind: FieldText}, OwnerFilter(),
		},
		Facts: []Column{
			{Head: "Id", Member: "id"}, {Head: "Created", Member: "created_date", Kind: CellTime}, {Head: "Last call", Member: "last_call_date", Kind: CellTime},
			{Head: "Owner", Member: "owner"}, {Head: "Team", Member: "team"},
		},
		Fields: contactFields(), More: contactPhones, Body: contactBody, Deletion: contactDeletion,
	}}
}

func stages(v *Visit) []Choice        { return Words("lead", "qualified_lead", "customer")(v) }
func contactStates(v *Visit) []Choice { return Words("not_contacted", "contacted")(v) }

func contactFields() []Field {
	return []Field{
		{Name: "first_name", Label: "First name", Kind: FieldText, Needed: true}, {Name: "last_name", Label: "Last name", Kind: FieldText},
		{Name: "email", Label: "Mail", Kind: FieldEmail}, {Name: "company", Label: "Company", Kind: FieldText}, {Name: "website", Label: "Website", Kind: FieldText},
		{Name: "stage", Label: "Stage", Kind: FieldText, Choices: stages, Usual: "lead", Hint: "lower-case letters, digits and _"},
		{Name: "status", Label: "Status", Kind: FieldText, Choices: contactStates, Usual: "not_contacted", Hint: "lower-case letters, digits and _"},
		{Name: "address", Label: "Street", Kind: FieldText, From: "address.street"}, {Name: "zip_code", Label: "Zip code", Kind: FieldText, From: "address.zip_code"},
		{Name: "city", Label: "City", Kind: FieldText, From: "address.city"}, {Name: "state", Label: "State", Kind: FieldText, From: "address.state"},
		{Name: "country", Label: "Country", Kind: FieldText, From: "address.country", Usual: "US"},
		{Name: "timezone", Label: "Time zone", Kind: FieldText, Usual: "UTC", Hint: "such as Europe/Berlin", Choices: TimeZones},
		TeamField(), OwnerField(false),
		{Name: "tags", Label: "Tags", Kind: FieldLines, Hint: "one to a line"},
		{Name: "custom_context", Label: "Values for prompts", Kind: FieldJSON, Hint: `a JSON object, such as {"preferred_language": "de"}`, Usual: "{}"},
	}
}

// phoneRow is a number in the form of a contact; a new one has no ID.
type phoneRow struct {
	N                        int
	ID, Number, Type, Reason string
	Primary, Stop            bool
}

// newPhones is how many empty rows the form offers.
const newPhones = 2

// contactPhones adds the numbers: as the record has them, or as they were sent.
func contactPhones(_ *Visit, p *RecordPage) *Error {
	p.Extra = phoneRows(p.Form, p.Record)
	return nil
}

func phoneRows(form url.Values, record map[string]any) (rows []phoneRow) {
	if form.Has("phone.0.number") {
		for n := range form {
			if n, ok := strings.CutSuffix(strings.TrimPrefix(n, "phone."), ".number"); ok {
				i, _ := strconv.Atoi(n)
				rows = append(rows, sentPhone(form, i))
			}
		}
		slices.SortFunc(rows, func(a, b phoneRow) int { return a.N - b.N })
		return rows
	}
	list, _ := record["phone_numbers"].([]any)
	for _, p := range list {
		phone, _ := p.(map[string]any)
		rows = append(rows, phoneRow{
			N: len(rows), ID: Shown(phone["id"]), Number: Shown(phone["phone_number"]), Type: Shown(phone["phone_type"]), Reason: Shown(phone["dnc_reason"]),
			Primary: phone["primary"] == true, Stop: phone["do_not_call"] == true,
		})
	}
	for range newPhones {
		rows = append(rows, phoneRow{N: len(rows)})
	}
	return rows
}

func sentPhone(form url.Values, n int) phoneRow {
	at := fmt.Sprintf("phone.%d.", n)
	return phoneRow{
		N: n, ID: form.Get(at + "id"), Number: strings.TrimSpace(form.Get(at + "number")), Type: strings.TrimSpace(form.Get(at + "type")),
		Reason: strings.TrimSpace(form.Get(at + "reason")), Primary: form.Get("primary") == strconv.Itoa(n), Stop: form.Get(at+"stop") != "",
	}
}

// contactBody adds the numbers to a body where they were changed, and says
// which values for prompts are to go.
func contactBody(form url.Values, record, body map[string]any) error {
	if values, changed := body["custom_context"].(map[string]any); changed {
		had, _ := record["custom_context"].(map[string]any)
		for name := range had {
			if _, stays := values[name]; !stays {
				values[name] = nil
			}
		}
	}
	was := phoneRows(nil, record)
	list := []map[string]any{}
	for _, row := range phoneRows(form, record) {
		if row.Number == "" && row.ID == "" || row.N < len(was) && row == was[row.N] {
			continue
		}
		phone := map[string]any{"phone_number": row.Number, "phone_type": row.Type, "primary": row.Primary, "do_not_call": row.Stop, "dnc_reason": row.Reason}
		if row.ID != "" {
			id, err := strconv.ParseUint(row.ID, 10, 63)
			if err != nil {
				return ErrValidation.With("phone_numbers: %q is no id of a number.", row.ID)
			}
			phone["id"] = id
		}
		if row.ID != "" && row.Number == "" {
			return ErrValidation.With("phone_numbers: a number that was stored cannot be taken away; mark it as not to be called.")
		}
		list = append(list, phone)
	}
	if len(list) > 0 {
		body["phone_numbers"] = list
	}
	return nil
}

func contactDeletion(_ *Visit, contact map[string]any) string {
	text := "Its notes and values go with it. Its calls stay, without a contact."
	list, _ := contact["phone_numbers"].([]any)
	for _, p := range list {
		if phone, _ := p.(map[string]any); phone["do_not_call"] == true {
			text += " " + Shown(phone["phone_number"]) + " is marked as not to be called: put it on the do-not-call list first, or it may be called again."
		}
	}
	return text
}

// Pages lists the pages.
func (c ContactPages) Pages() map[string]func(*Visit) {
	pages := c.Records.Pages()
	pages["GET /contacts/import"] = func(v *Visit) { showImport(v, nil, "") }
	pages["POST /contacts/import"] = importContacts
	return pages
}

// importPage is the page of an import: what was pasted and what is wrong.
type importPage struct {
	Columns []string
	Text    string
	Faults  []any
}

func showImport(v *Visit, fault *Error, text string) {
	page, status := importPage{Columns: ContactColumns(), Text: text}, http.StatusOK
	shown := View{Title: "Import contacts"}
	if fault != nil {
		status, shown.Fault = fault.Status, fault.Message
		page.Faults, _ = fault.Fields["errors"].([]any)
	}
	shown.Data = page
	v.Show(status, "import", shown)
}

// importContacts stores what was pasted, or the file that was chosen.
func importContacts(v *Visit) {
	if err := v.R.ParseMultipartForm(1 << 20); err != nil {
		showImport(v, ErrTooLarge.With("The form cannot be read; it may be larger than a megabyte. For more: latchkey contacts import FILE"), "")
		return
	}
	text := strings.ReplaceAll(v.R.PostFormValue("csv"), "\r\n", "\n")
	if file, _, err := v.R.FormFile("file"); err == nil {
		data, err := io.ReadAll(file)
		_ = file.Close()
		if err != nil {
			showImport(v, ErrValidation.With("The file cannot be read."), text)
			return
		}
		if len(data) > 0 {
			text = string(data)
		}
	}
	if strings.TrimSpace(text) == "" {
		showImport(v, ErrMissing.With("Choose a file, or paste its lines."), "")
		return
	}
	if _, e := v.Send(http.MethodPost, "/admin/v1/contacts/import", "text/csv", []byte(text)); e != nil {
		showImport(v, e, text)
		return
	}
	http.Redirect(v.W, v.R, "/contacts?done=imported", http.StatusSeeOther)
}

// VariablePages are the pages of the context variables, and of their values for
// the business.
type VariablePages struct{ *Records }

// NewVariablePages makes the pages.
func NewVariablePages() VariablePages {
	return VariablePages{&Records{
		Section: Section{"Data", "Variables", "/variables"}, One: "variable", API: "variables", Rows: "variables", CalledBy: "name",
		About: "What prompts can name, and which values it takes. The built-in ones of an owner come with its first use.", Empty: "No variable yet.",
		Links: []Link{{"Values of the business", "/business-context"}},
		Columns: []Column{
			{Head: "Name", Member: "name", Kind: CellName, Sub: "display_name"}, {Head: "Type", Member: "variable_type"}, {Head: "Of", Member: "context_type"},
			{Head: "Built in", Member: "is_default"}, {Head: "Owner", Member: "owner"}, {Head: "Description", Member: "description"},
		},
		Filters: []Field{
			{Name: "search", Label: "Name", Kind: FieldSearch}, {Name: "context_type", Label: "Of", Kind: FieldSelect, Blank: "any", Choices: Words(ContextContact, ContextBusiness)}, OwnerFilter(),
		},
		Facts: []Column{{Head: "Of", Member: "context_type"}, {Head: "Owner", Member: "owner"}, {Head: "Built in", Member: "is_default"}, {Head: "Created", Member: "created_at", Kind: CellTime}},
		Fields: []Field{
			{Name: "name", Label: "Name", Kind: FieldText, Needed: true, Make: true, Hint: "a-z, 0-9 and _; it cannot change later"},
			{Name: "display_name", Label: "Shown as", Kind: FieldText, Needed: true},
			{Name: "context_type", Label: "Of", Kind: FieldSelect, Needed: true, Make: true, Choices: Words(ContextContact, ContextBusiness)},
			{Name: "variable_type", Label: "Type", Kind: FieldSelect, Needed: true, Choices: Words(VariableText, VariableNumber, VariableDate, VariableBoolean, VariableSelect)},
			OwnerField(true), {Name: "description", Label: "Description", Kind: FieldText, Wide: true},
			{Name: "select_options", Label: "Values of a select", Kind: FieldLines, Hint: "one to a line"},
		},
		Deletion: func(_ *Visit, variable map[string]any) string {
			if variable["is_default"] == true {
				return "" // the admin endpoint would refuse
			}
			return "Values that are set stay, and prompts still get them; they can no longer be changed but to nothing."
		},
	}}
}

// Pages lists the pages.
func (p VariablePages) Pages() map[string]func(*Visit) {
	pages := p.Records.Pages()
	pages["GET /business-context"] = func(v *Visit) { showBusiness(v, nil, nil) }
	pages["POST /business-context"] = changeBusiness
	return pages
}

// businessPage is the page of the values of an owner's business.
type businessPage struct {
	Owner  string
	Owners []Choice
	Inputs []Input
}

// businessFields gives a field for each definition, and for each value that
// has none, with the values.
func businessFields(v *Visit, owner string) (fields []Field, values map[string]any, e *Error) {
	answer, e := v.Call(http.MethodGet, "/admin/v1/business-context?owner="+url.QueryEscape(owner), nil)
	switch {
	case e != nil && e.Status != http.StatusNotFound:
		return nil, nil, e
	case e == nil:
		values, _ = answer["variables"].(map[string]any)
	}
	answer, e = v.Call(http.MethodGet, "/admin/v1/variables?limit=1000&context_type=business&owner="+url.QueryEscape(owner), nil)
	if e != nil {
		return nil, nil, e
	}
	defined := map[string]bool{}
	rows, _ := answer["variables"].([]any)
	for _, row := range rows {
		d, _ := row.(map[string]any)
		name := Shown(d["name"])
		defined[name] = true
		f := Field{Name: name, Label: Shown(d["display_name"]), Kind: FieldText, Hint: cmp.Or(Shown(d["description"]), name)}
		switch d["variable_type"] {
		case VariableSelect:
			f.Kind, f.Choices = FieldSelect, Words(Texts(d["select_options"])...)
		case VariableBoolean:
			f.Kind, f.Choices = FieldSelect, Words("true", "false")
		case VariableNumber, VariableDate:
			f.Hint += ", a " + Shown(d["variable_type"])
		}
		fields = append(fields, f)
	}
	for _, pair := range Pairs(values) {
		if !defined[pair.Name] {
			fields = append(fields, Field{Name: pair.Name, Label: pair.Name, Kind: FieldText, Hint: "its definition is gone: it can only be emptied"})
		}
	}
	return fields, values, nil
}

// valueText is a value as the form has it.
func valueText(value any) string {
	if flag, ok := value.(bool); ok {
		return map[bool]string{true: "true", false: "false"}[flag]
	}
	return Shown(value)
}

func showBusiness(v *Visit, fault *Error, form url.Values) {
	owner := cmp.Or(v.R.FormValue("owner"), DefaultOwner)
	fields, values, e := businessFields(v, owner)
	if e != nil {
		v.Fault(e)
		return
	}
	var fill Filling
	fill.Was = func(f Field) string { return cmp.Or(form.Get("was.value."+f.Name), Mark(valueText(values[f.Name]))) }
	fill.Value = func(f Field) string {
		if form == nil {
			return valueText(values[f.Name])
		}
		return form.Get("value." + f.Name)
	}
	inputs := v.Inputs(fields, fill, fault)
	for i := range inputs {
		inputs[i].Name = "value." + inputs[i].Name // apart from the owner's
	}
	page, status := View{Title: "Values of the business", Data: businessPage{owner, OwnerChoices(v), inputs}}, http.StatusOK
	if fault != nil {
		status, page.Fault = fault.Status, Labelled(fault.Message, fields...)
	}
	v.Show(status, "business", page)
}

// changeBusiness sets the values that the form changes.
func changeBusiness(v *Visit) {
	form, ok := v.Form()
	if !ok {
		return
	}
	values := map[string]any{}
	for field := range form {
		name, is := strings.CutPrefix(field, "value.")
		text := strings.TrimSpace(form.Get(field))
		if !is || form.Get("was."+field) == Mark(text) {
			continue
		}
		values[name] = nil // takes the value away
		if text != "" {
			values[name] = text // numbers and flags are taken as texts too
		}
	}
	owner := cmp.Or(form.Get("owner"), DefaultOwner)
	if _, e := v.Call(http.MethodPatch, "/admin/v1/business-context", map[string]any{"owner": owner, "variables": values}); e != nil {
		showBusiness(v, e, form)
		return
	}
	http.Redirect(v.W, v.R, "/business-context?done=saved&owner="+url.QueryEscape(owner), http.StatusSeeOther)
}
