package main

import (
	"cmp"
	"net/http"
	"net/url"
	"strings"
)

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
