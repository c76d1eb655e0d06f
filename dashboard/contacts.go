package dashboard

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"latchkey/internal/sorted"
)

// contactPages are the pages of the contacts and of their import.
type contactPages struct{ *recordPages }

func newContactPages() contactPages {
	return contactPages{&recordPages{
		section: section{"Data", "Contacts", "/contacts"}, One: "contact", API: "contacts", Rows: "contacts", TitleField: "full_name", Page: "contact", NewPage: "newcontact",
		About: "The people that agents speak with.", Empty: "No contacts yet.", Links: []pageLink{{"Import CSV", "/contacts/import"}},
		Columns: []column{
			{Head: "Name", Member: "full_name", Kind: cellName, Sub: "email"}, {Head: "Company", Member: "company"}, {Head: "Number", Member: "phone"},
			{Head: "Stage", Member: "stage"}, {Head: "Status", Member: "status", Kind: cellState}, {Head: "Tags", Member: "tags"},
			{Head: "Last call", Member: "last_call_date", Kind: cellTime}, {Head: "Owner", Member: "owner"},
		},
		Filters: []formField{
			{Name: "search", Label: "Name or email", Kind: fieldSearch}, {Name: "stage", Label: "Stage", Kind: fieldText, Choices: stages},
			{Name: "status", Label: "Status", Kind: fieldText, Choices: contactStates}, {Name: "tag", Label: "Tag", Kind: fieldText}, ownerFilter(),
		},
		Facts: []column{
			{Head: "Id", Member: "id"}, {Head: "Created", Member: "created_date", Kind: cellTime}, {Head: "Last call", Member: "last_call_date", Kind: cellTime},
			{Head: "Owner", Member: "owner"}, {Head: "Team", Member: "team"},
		},
		Fields: contactFields(), More: contactPhones, Body: contactBody, Deletion: contactDeletion,
	}}
}

// maxInUse is the number of the newest contacts in which stages and contactStates look for values.
const maxInUse = 200

// inUse returns the usual values of a member of contacts, and those of the newest contacts, as
// suggestions.
func inUse(v *pageRequest, member string, usual ...string) []choice {
	if v.contacts == nil {
		answer, _ := v.call(http.MethodGet, fmt.Sprintf("/admin/v1/contacts?limit=%d", maxInUse), nil) // after a fault there are only the usual values
		list, _ := answer["contacts"].([]any)
		v.contacts = append([]any{}, list...)
	}
	for _, row := range v.contacts {
		contact, _ := row.(map[string]any)
		if value := textOf(contact[member]); value != "" && !slices.Contains(usual, value) {
			usual = append(usual, value)
		}
	}
	return words(usual...)(v)
}

func stages(v *pageRequest) []choice {
	return inUse(v, "stage", "lead", "qualified_lead", "customer")
}

func contactStates(v *pageRequest) []choice {
	return inUse(v, "status", "not_contacted", "contacted")
}

func contactFields() []formField {
	owner, team := ownerField(), teamField()
	owner.Group = "Who sees it"
	return []formField{
		{Name: "first_name", Label: "First name", Kind: fieldText, Needed: true, Group: "Person"}, {Name: "last_name", Label: "Last name", Kind: fieldText},
		{Name: "email", Label: "Email", Kind: fieldEmail}, {Name: "company", Label: "Company", Kind: fieldText}, {Name: "website", Label: "Website", Kind: fieldText},
		{Name: "stage", Label: "Stage", Kind: fieldText, Choices: stages, Usual: "lead", Hint: "one of those in use, or another: lower-case letters, digits and _", Group: "Progress"},
		{Name: "status", Label: "Status", Kind: fieldText, Choices: contactStates, Usual: "not_contacted", Hint: "likewise"},
		{Name: "tags", Label: "Tags", Kind: fieldLines, Hint: "one per line"},
		{Name: "address", Label: "Street", Kind: fieldText, From: "address.street", Group: "Postal address"}, {Name: "zip_code", Label: "Zip code", Kind: fieldText, From: "address.zip_code"},
		{Name: "city", Label: "City", Kind: fieldText, From: "address.city"}, {Name: "state", Label: "State", Kind: fieldText, From: "address.state"},
		{Name: "country", Label: "Country", Kind: fieldText, From: "address.country", Usual: "US"},
		{Name: "timezone", Label: "Time zone", Kind: fieldText, Usual: "UTC", Hint: "such as Europe/Berlin", Choices: timeZones},
		owner, team,
		{Name: "custom_context", Label: "Values for prompts", Kind: fieldJSON, Hint: `a JSON object, such as {"preferred_language": "de"}`, Usual: "{}", Group: "Prompts"},
	}
}

// phoneRow is a phone number in the form of a contact. ID is "" for a new number. Stop means that
// the number must not be called.
type phoneRow struct {
	N                        int
	ID, Number, Type, Reason string
	Primary, Stop            bool
	Marks                    []input // hidden fields with the marks of the stored values
}

// newPhones is the number of empty rows for new numbers in the form.
const newPhones = 2

// contactPhones adds the phone numbers to the page of a contact. After a refused form they are the
// numbers in the form, and otherwise the numbers in the record.
func contactPhones(_ *pageRequest, p *recordPage) *Fault {
	p.Extra = phoneRows(p.Form, p.Record)
	return nil
}

// phoneRows returns the phone numbers in form, or those in record if form has none, with newPhones
// empty rows after them.
func phoneRows(form url.Values, record map[string]any) (rows []phoneRow) {
	if form.Has("phone.0.number") {
		for n := range form {
			at, ok := strings.CutPrefix(n, "phone.")
			if i, err := strconv.Atoi(strings.TrimSuffix(at, ".number")); ok && err == nil && i >= 0 {
				rows = append(rows, sentPhone(form, i))
			}
		}
		sorted.Func(rows, func(a, b phoneRow) int { return a.N - b.N })
		return rows
	}
	list, _ := record["phone_numbers"].([]any)
	for _, p := range list {
		phone, _ := p.(map[string]any)
		rows = append(rows, phoneRow{
			N: len(rows), ID: textOf(phone["id"]), Number: textOf(phone["phone_number"]), Type: textOf(phone["phone_type"]), Reason: textOf(phone["dnc_reason"]),
			Primary: phone["primary"] == true, Stop: phone["do_not_call"] == true, Marks: phoneMarks(len(rows), phone),
		})
	}
	for range newPhones {
		rows = append(rows, phoneRow{N: len(rows), Marks: phoneMarks(len(rows), nil)})
	}
	return rows
}

// phoneMarks returns the marks of row n of the phone numbers, which shows phone. The row of the
// primary number has the mark of the field "primary" too.
func phoneMarks(n int, phone map[string]any) (list []input) {
	for _, f := range phoneFields(n) {
		list = append(list, input{formField: f, Was: f.was(f.of(phone))})
	}
	if phone["primary"] == true {
		f := formField{Name: "primary", Kind: fieldText}
		list = append(list, input{formField: f, Was: f.was(strconv.Itoa(n))})
	}
	return list
}

// sentPhone returns row n of the phone numbers in a form.
func sentPhone(form url.Values, n int) phoneRow {
	at := fmt.Sprintf("phone.%d.", n)
	var marks []input
	for _, f := range append(phoneFields(n), formField{Name: "primary"}) {
		if was := form.Get("was." + f.Name); was != "" && (f.Name != "primary" || n == 0) {
			marks = append(marks, input{formField: f, Was: was})
		}
	}
	return phoneRow{
		Marks: marks, N: n, ID: form.Get(at + "id"), Number: strings.TrimSpace(form.Get(at + "number")), Type: strings.TrimSpace(form.Get(at + "type")),
		Reason: strings.TrimSpace(form.Get(at + "reason")), Primary: form.Get("primary") == strconv.Itoa(n), Stop: form.Get(at+"stop") != "",
	}
}

// phoneFields returns the fields of row n of the phone numbers. The form has them as "phone.", n, "."
// and the name.
func phoneFields(n int) []formField {
	at := fmt.Sprintf("phone.%d.", n)
	return []formField{
		{Name: at + "number", From: "phone_number", Kind: fieldTel}, {Name: at + "type", From: "phone_type", Kind: fieldText},
		{Name: at + "reason", From: "dnc_reason", Kind: fieldText}, {Name: at + "stop", From: "do_not_call", Kind: fieldCheck},
	}
}

// contactBody adds the phone numbers that the form changes to body, each with its changed members.
func contactBody(form url.Values, record, body map[string]any) error {
	stored, _ := record["phone_numbers"].([]any)
	primary := formField{Name: "primary", Kind: fieldText}
	list := []map[string]any{}
	for _, row := range phoneRows(form, record) {
		if row.Number == "" && row.ID == "" {
			continue
		}
		phone := map[string]any{}
		for _, f := range phoneFields(row.N) {
			if !f.changed(form) {
				continue
			}
			value, err := f.value(form)
			if err != nil {
				return err
			}
			if phone[f.From] = value; value == nil {
				phone[f.From] = ""
			}
		}
		if row.Primary && primary.changed(form) {
			phone["primary"] = true
		}
		if len(phone) == 0 {
			continue
		}
		if row.ID != "" {
			id, err := strconv.ParseUint(row.ID, 10, 63)
			if err != nil {
				return invalid("phone_numbers has %q, which is not the id of a number.", row.ID)
			}
			phone["id"] = id
		}
		if row.ID != "" && row.Number == "" {
			return invalid("phone_numbers must keep every stored number. To stop calls to a number, mark it as not to be called.")
		}
		if _, sent := phone["phone_number"]; !sent { // the endpoint needs it
			phone["phone_number"] = storedNumber(stored, row)
		}
		list = append(list, phone)
	}
	if len(list) > 0 {
		body["phone_numbers"] = list
	}
	return nil
}

// storedNumber returns the stored phone number with the id of row. If there is none, it returns the
// number of row.
func storedNumber(stored []any, row phoneRow) string {
	for _, p := range stored {
		if phone, _ := p.(map[string]any); textOf(phone["id"]) == row.ID {
			return textOf(phone["phone_number"])
		}
	}
	return row.Number
}

// contactDeletion returns the text that the page shows before it deletes a contact.
func contactDeletion(_ *pageRequest, contact map[string]any) string {
	text := "Its notes and values are deleted too. Its calls remain, without a contact."
	list, _ := contact["phone_numbers"].([]any)
	for _, p := range list {
		if phone, _ := p.(map[string]any); phone["do_not_call"] == true {
			text += " " + textOf(phone["phone_number"]) + " is marked as not to be called. Put it on the do-not-call list first, or it may be called again."
		}
	}
	return text
}

func (c contactPages) pages() map[string]page {
	pages, needs := c.recordPages.pages(), c.endpoint(http.MethodPost, "/import")
	pages["GET /contacts/import"] = page{needs, func(v *pageRequest) { showImport(v, importPage{}, "", nil) }}
	pages["POST /contacts/import"] = page{needs, importContacts}
	return pages
}

// variablePages are the pages of the context variables and of the values that belong to a business.
type variablePages struct{ *recordPages }

func newVariablePages() variablePages {
	return variablePages{&recordPages{
		section: section{"Data", "Variables", "/variables"}, One: "variable", API: "variables", Rows: "variables", TitleField: "name",
		About: "The variables that prompts can use, and their types. The built-in variables of an owner are created at its first use.", Empty: "No variables yet.",
		Links: []pageLink{{"Values of the business", "/business-context"}},
		Columns: []column{
			{Head: "Name", Member: "name", Kind: cellName, Sub: "display_name"}, {Head: "Type", Member: "variable_type"}, {Head: "Belongs to", Member: "context_type"},
			{Head: "Built in", Member: "is_default"}, {Head: "Owner", Member: "owner"}, {Head: "Description", Member: "description"},
		},
		Filters: []formField{
			{Name: "search", Label: "Name", Kind: fieldSearch}, {Name: "context_type", Label: "Of", Kind: fieldSelect, Blank: "any", Choices: words(Vocabulary().ContextTypes...)}, ownerFilter(),
		},
		Facts: []column{{Head: "Belongs to", Member: "context_type"}, {Head: "Owner", Member: "owner"}, {Head: "Built in", Member: "is_default"}, {Head: "Created", Member: "created_at", Kind: cellTime}},
		Fields: []formField{
			{Name: "name", Label: "Name", Kind: fieldText, Needed: true, Make: true, Hint: "a-z, 0-9 and _; cannot be changed later"},
			{Name: "display_name", Label: "Shown as", Kind: fieldText, Needed: true},
			{Name: "context_type", Label: "Of", Kind: fieldSelect, Needed: true, Make: true, Choices: words(Vocabulary().ContextTypes...)},
			{Name: "variable_type", Label: "Type", Kind: fieldSelect, Needed: true, Choices: words(Vocabulary().VariableTypes...)},
			newOwnerField(), {Name: "description", Label: "Description", Kind: fieldText, Wide: true},
			{Name: "select_options", Label: "Values of a select", Kind: fieldLines, Hint: "one per line"},
		},
		Deletion: func(_ *pageRequest, variable map[string]any) string {
			if variable["is_default"] == true {
				return "" // the admin endpoint refuses to delete it
			}
			return "Values that are set remain, and prompts still use them. They can then only be emptied."
		},
	}}
}

func (p variablePages) pages() map[string]page {
	pages := p.recordPages.pages()
	pages["GET /business-context"] = page{"GET /admin/v1/business-context", func(v *pageRequest) { showBusiness(v, nil, nil) }}
	pages["POST /business-context"] = page{"PATCH /admin/v1/business-context", changeBusiness}
	return pages
}

// businessPage is the data of the page with the values of an owner's business.
type businessPage struct {
	Owner  string
	Owners []choice
	Inputs []input
	Values []valueSet // what Inputs show, if the operator may not change it
}

// businessFields returns the values of an owner's business and the fields to edit them. There is a
// field for each variable, and for each value whose variable was deleted. values is nil if the
// owner has no values.
func businessFields(v *pageRequest, owner string) (fields []formField, values map[string]any, e *Fault) {
	answer, e := v.call(http.MethodGet, "/admin/v1/business-context?owner="+url.QueryEscape(owner), nil)
	switch {
	case e != nil && e.Status != http.StatusNotFound:
		return nil, nil, e
	case e == nil:
		values, _ = answer["variables"].(map[string]any)
	}
	answer, e = v.call(http.MethodGet, "/admin/v1/variables?limit=1000&context_type=business&owner="+url.QueryEscape(owner), nil)
	if e != nil {
		return nil, nil, e
	}
	defined := map[string]bool{}
	rows, _ := answer["variables"].([]any)
	for _, row := range rows {
		d, _ := row.(map[string]any)
		name := textOf(d["name"])
		defined[name] = true
		f := formField{Name: name, Label: textOf(d["display_name"]), Kind: fieldText, Hint: cmp.Or(textOf(d["description"]), name)}
		switch d["variable_type"] {
		case variableSelect:
			f.Kind, f.Choices = fieldSelect, words(texts(d["select_options"])...)
		case variableBoolean:
			f.Kind, f.Choices = fieldSelect, words("true", "false")
		case variableNumber, variableDate:
			f.Hint += ", a " + textOf(d["variable_type"])
		}
		fields = append(fields, f)
	}
	for _, pair := range membersOf(values) {
		if !defined[pair.Name] {
			fields = append(fields, formField{Name: pair.Name, Label: pair.Name, Kind: fieldText, Hint: "its variable was deleted, so it can only be emptied"})
		}
	}
	return fields, values, nil
}

// valueText returns a value as text for the form. A boolean becomes "true" or "false".
func valueText(value any) string {
	if flag, ok := value.(bool); ok {
		return map[bool]string{true: "true", false: "false"}[flag]
	}
	return textOf(value)
}

func showBusiness(v *pageRequest, fault *Fault, form url.Values) {
	owner := cmp.Or(form.Get("owner"), v.query.Get("owner"), defaultOwner)
	fields, values, e := businessFields(v, owner)
	if e != nil {
		v.showFault(e)
		return
	}
	var fill filling
	fill.Was = func(f formField) string {
		return cmp.Or(form.Get("was.value."+f.Name), f.was(valueText(values[f.Name])))
	}
	fill.Value = func(f formField) string {
		if form == nil {
			return valueText(values[f.Name])
		}
		return form.Get("value." + f.Name)
	}
	inputs := v.inputs(fields, fill, fault)
	for i := range inputs {
		inputs[i].Name = "value." + inputs[i].Name // the form also has a field owner
	}
	data := businessPage{Owner: owner, Owners: ownerChoices(v), Inputs: inputs}
	if !v.may("PATCH /admin/v1/business-context") {
		data.Inputs, data.Values = nil, valueSets(inputs)
	}
	page, status := view{Title: "Values of the business", Data: data}, http.StatusOK
	if fault != nil {
		status, page.Fault = fault.Status, labelled(fault.Message, fields...)
	}
	v.show(status, "business", page)
}

// changeBusiness sends the values that the user has changed in the form.
func changeBusiness(v *pageRequest) {
	form, ok := v.form()
	if !ok {
		return
	}
	values := map[string]any{}
	for field := range form {
		name, is := strings.CutPrefix(field, "value.")
		f := formField{Name: field, Kind: fieldText}
		if !is || !f.changed(form) {
			continue
		}
		text := f.sent(form)
		values[name] = nil // null removes the value
		if text != "" {
			values[name] = text // the endpoint accepts numbers and booleans as texts too
		}
	}
	owner := cmp.Or(form.Get("owner"), defaultOwner)
	if len(values) > 0 {
		if _, e := v.call(http.MethodPatch, "/admin/v1/business-context", map[string]any{"owner": owner, "variables": values}); e != nil {
			showBusiness(v, e, form)
			return
		}
	}
	http.Redirect(v.W, v.R, "/business-context?done=saved&owner="+url.QueryEscape(owner), http.StatusSeeOther)
}
