package dashboard

import (
	"cmp"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// recordPages are the pages for one kind of record: the list, the form of a new record, the page of
// a record with its form, and the deletion. Do not change the struct once it is served.
type recordPages struct {
	section
	One        string // noun for one record, such as "agent"
	API        string // path of the records below /admin/v1/
	Rows       string // member that holds the records in the answer of the list
	About      string // text under the heading of the list
	Empty      string // text shown if there are no records
	New        string // title of the form of a new record, also on its button; "" means "New " and One
	TitleField string // member that is used as the title of a record's page
	Columns    []column
	Filters    []formField
	Fields     []formField
	Facts      []column   // members that the page of a record shows above its form
	Links      []pageLink // links beside the button for a new record
	Query      url.Values // parameters added to the address of every record's page
	Always     url.Values // parameters added to every request for the list
	Page       string     // template of a record's page; "" means "record"
	NewPage    string     // template of the form of a new record; "" means "newrecord"
	// Deletion returns a text about the consequences of deleting a record, or "" if that record
	// cannot be deleted. It is nil if records of this kind are never deleted.
	Deletion func(v *pageRequest, record map[string]any) string
	// Each adds members to a record in the list. It may be nil.
	Each func(record map[string]any)
	// More adds data to the page of a record. If NewPage is set, it does so for the form of a new
	// record too. It may be nil.
	More func(v *pageRequest, p *recordPage) *Fault
	// Body changes body before it is sent to the admin endpoint. form is the form that was sent.
	// record is the stored record, or nil if it is new. Body may be nil.
	Body func(form url.Values, record, body map[string]any) error
	// Buttons are further buttons of the form. Each sends it, and Rework then changes its values; it
	// returns a sentence about that. The form is shown again and nothing is stored. Rework returns "" if
	// no such button was used. It may be nil.
	Buttons []formButton
	Rework  func(form url.Values) string
	// AfterCreate shows a record that was just created. If it is nil, the browser is redirected to the
	// page of the record.
	AfterCreate func(v *pageRequest, record map[string]any)
}

// formButton is a button of a form besides that which saves it.
type formButton struct{ Name, Value, Label string }

// pageLink is a link to another page.
type pageLink struct{ Label, Path string }

// recordList is the data of the page of a list.
type recordList struct {
	listPage
	Kind      *recordPages
	Inputs    []input
	Cells     [][]pageCell
	Links     []pageLink // those of Kind that the operator may open
	Creatable bool       // whether the operator can create records of this kind
}

// recordPage is the data of the page of a record. ID is "" for a new record.
type recordPage struct {
	*recordPages
	ID        string
	Called    string // title of the page
	Record    map[string]any
	Inputs    []input
	FactCells []pageCell
	Changes   bool       // whether the operator may change the record
	Values    []valueSet // what the form would show, if the operator may not change the record; Inputs is then nil
	Deleting  string     // text about the consequences of a deletion; "" if the record cannot be deleted
	Extra     any        // data that More adds
	Form      url.Values // the form that was sent and refused; for a new record, the values to fill the form with
}

func (p *recordPages) sections() []section { return []section{p.section} }

func (p *recordPages) pages() map[string]page {
	pages := map[string]page{
		"GET " + p.Path:           {p.endpoint(http.MethodGet, ""), p.list},
		"GET " + p.Path + "/{id}": {p.endpoint(http.MethodGet, "/:id"), func(v *pageRequest) { p.showRecord(v, nil, nil) }},
	}
	if p.makes() {
		pages["GET "+p.Path+"/new"] = page{p.creates(), func(v *pageRequest) { p.ask(v, nil, v.query) }}
		pages["POST "+p.Path] = page{p.creates(), p.create}
	}
	if len(p.changing()) > 0 {
		pages["POST "+p.Path+"/{id}"] = page{p.changes(), p.change}
	}
	if p.Deletion != nil {
		pages["GET "+p.Path+"/{id}/delete"] = page{p.deletes(), p.askDelete}
		pages["POST "+p.Path+"/{id}/delete"] = page{p.deletes(), p.remove}
	}
	return pages
}

// endpoint returns an endpoint for records of this kind. path is what follows the path of the list,
// such as "/:id".
func (p *recordPages) endpoint(method, path string) string {
	return method + " /admin/v1/" + p.API + path
}

func (p *recordPages) creates() string { return p.endpoint(http.MethodPost, "") }
func (p *recordPages) changes() string { return p.endpoint(http.MethodPatch, "/:id") }
func (p *recordPages) deletes() string { return p.endpoint(http.MethodDelete, "/:id") }

// makes reports whether operators can create records of this kind.
func (p *recordPages) makes() bool { return len(p.making()) > 0 }

// making returns the fields of the form of a new record.
func (p *recordPages) making() (list []formField) {
	for _, f := range p.Fields {
		if !f.Change {
			list = append(list, f)
		}
	}
	return list
}

// changing returns the fields of the form of an existing record.
func (p *recordPages) changing() (list []formField) {
	for _, f := range p.Fields {
		if !f.Make {
			list = append(list, f)
		}
	}
	return list
}

// at returns the path at the admin endpoint for the record in the path of the page. It appends
// suffix, such as "/cancel".
func (p *recordPages) at(v *pageRequest, suffix string) string {
	return "/admin/v1/" + p.API + "/" + url.PathEscape(v.R.PathValue("id")) + suffix
}

// here returns the address of the page of the current record. done selects the sentence that the
// page shows (see the function done), or is "".
func (p *recordPages) here(v *pageRequest, done string) string {
	return p.page(v.R.PathValue("id"), done)
}

// page returns the address of the page of the record with this id. done is as for here.
func (p *recordPages) page(id, done string) string {
	at, q := p.Path+"/"+url.PathEscape(id), url.Values{}
	maps.Copy(q, p.Query)
	if done != "" {
		q.Set("done", done)
	}
	if len(q) == 0 {
		return at
	}
	return at + "?" + q.Encode()
}

// linksOf returns the links of p whose pages the operator may open.
func (v *pageRequest) linksOf(p *recordPages) (list []pageLink) {
	for _, link := range p.Links {
		if path, _, _ := strings.Cut(link.Path, "?"); v.mayOpen(path) {
			list = append(list, link)
		}
	}
	return list
}

func (p *recordPages) list(v *pageRequest) {
	var names []string
	for _, f := range p.Filters {
		names = append(names, f.Name)
	}
	asked := func(name, value string) string {
		if slices.ContainsFunc(p.Filters, func(f formField) bool { return f.Name == name && f.Kind == fieldHidden }) {
			return "" // the admin endpoint does not have it
		}
		return value
	}
	query := v.query
	t := recordList{Kind: p, Links: v.linksOf(p), Creatable: p.makes() && v.may(p.creates())}
	var fault *Fault
	t.listPage, fault = v.listAs("/admin/v1/"+p.API+"?"+p.Always.Encode(), p.Rows, asked, names...)
	t.Filtered = slices.ContainsFunc(p.Filters, func(f formField) bool { return f.Kind != fieldHidden && query.Get(f.Name) != "" })
	t.Inputs = v.inputs(p.Filters, fillBy(func(f formField) string { return query.Get(f.Name) }), fault)
	for _, row := range t.listPage.Rows {
		record, _ := row.(map[string]any)
		if p.Each != nil {
			p.Each(record)
		}
		t.Cells = append(t.Cells, cellsOf(p.Columns, record, func(id string) string { return p.page(id, "") }))
	}
	page := view{Title: p.section.Name, Data: t, Form: query}
	status := http.StatusOK
	if fault != nil {
		status, page.Fault = fault.Status, labelled(fault.Message, p.Filters...)
	}
	v.show(status, "records", page)
}

// ask shows the form of a new record, filled with the values in form. fault is the reason why form
// was refused, or nil if it has not been sent.
func (p *recordPages) ask(v *pageRequest, fault *Fault, form url.Values) {
	value := func(f formField) string {
		if !f.within(form) && fault == nil {
			return f.Usual
		}
		return f.sent(form)
	}
	page := recordPage{recordPages: p, Form: form, Record: map[string]any{}, Inputs: v.inputs(p.making(), fillBy(value), fault)}
	if p.NewPage != "" && p.More != nil {
		if e := p.More(v, &page); e != nil {
			v.showFault(e)
			return
		}
	}
	p.show(v, cmp.Or(p.NewPage, "newrecord"), view{Title: cmp.Or(p.New, "New "+p.One), Data: &page}, fault)
}

// show sends a page with a form. If fault is not nil, the page has its status and shows its
// message.
func (p *recordPages) show(v *pageRequest, name string, page view, fault *Fault) {
	status := http.StatusOK
	if fault != nil {
		status, page.Fault = fault.Status, labelled(fault.Message, p.Fields...)
	}
	v.show(status, name, page)
}

func (p *recordPages) create(v *pageRequest) {
	form, ok := v.form()
	if !ok {
		return
	}
	if p.Rework != nil {
		if v.note = p.Rework(form); v.note != "" {
			p.ask(v, nil, form)
			return
		}
	}
	body, err := newBody(p.making(), form)
	if err == nil && p.Body != nil {
		err = p.Body(form, nil, body)
	}
	if err != nil {
		p.ask(v, faultOf(err), form)
		return
	}
	made, e := v.call(http.MethodPost, "/admin/v1/"+p.API, body)
	if e != nil {
		p.ask(v, e, form)
		return
	}
	if p.AfterCreate != nil {
		p.AfterCreate(v, made)
		return
	}
	http.Redirect(v.W, v.R, p.page(textOf(made["id"]), "made"), http.StatusSeeOther)
}

// showRecord shows the page of the record in the request's path. form is the form that was refused.
// If it is nil, the form shows the stored values. fault is the reason why a request was refused, or
// nil.
func (p *recordPages) showRecord(v *pageRequest, fault *Fault, form url.Values) {
	record, e := v.call(http.MethodGet, p.at(v, ""), nil)
	if e != nil {
		v.showFault(e)
		return
	}
	page := recordPage{recordPages: p, ID: v.R.PathValue("id"), Record: record, Called: p.called(record), FactCells: cellsOf(factsOf(p.Facts, record), record, nil), Form: form}
	in := fillBy(func(f formField) string {
		if form == nil {
			return f.of(record)
		}
		return f.sent(form)
	})
	in.Was = func(f formField) string {
		replaces := fault != nil && fault.Status == http.StatusConflict && names(fault.Message, f.Name)
		if form == nil || replaces { // who saves again has seen the stored value
			return f.was(f.of(record))
		}
		return form.Get("was." + f.Name)
	}
	page.Inputs, page.Changes = v.inputs(p.changing(), in, fault), v.may(p.changes())
	if !page.Changes {
		page.Values, page.Inputs = p.valuesOf(page.Inputs), nil
	}
	if p.Deletion != nil && v.may(p.deletes()) {
		page.Deleting = p.Deletion(v, record)
	}
	if p.More != nil {
		if e := p.More(v, &page); e != nil {
			v.showFault(e)
			return
		}
	}
	p.show(v, cmp.Or(p.Page, "record"), view{Title: page.Called, Data: &page}, fault)
}

// valuesOf returns what inputs show as text, without what the page of a record shows anyway.
func (p *recordPages) valuesOf(inputs []input) []valueSet {
	shown := func(in input) bool {
		member := cmp.Or(in.From, in.Name)
		return member == p.TitleField || member == "status" ||
			slices.ContainsFunc(p.Facts, func(c column) bool { return c.Member == member || c.Head == in.Label })
	}
	return valueSets(slices.DeleteFunc(slices.Clone(inputs), shown))
}

// called returns the title of a record's page.
func (p *recordPages) called(record map[string]any) string {
	if name := strings.TrimSpace(textOf(memberOf(record, p.TitleField))); name != "" {
		return name
	}
	return fmt.Sprintf("%s %s", p.One, textOf(record["id"]))
}

func (p *recordPages) change(v *pageRequest) {
	form, ok := v.form()
	if !ok {
		return
	}
	if p.Rework != nil {
		if v.note = p.Rework(form); v.note != "" {
			p.showRecord(v, nil, form)
			return
		}
	}
	record, e := v.call(http.MethodGet, p.at(v, ""), nil)
	if e != nil {
		v.showFault(e)
		return
	}
	body, err := changeBody(p.changing(), form, record)
	if err == nil && p.Body != nil {
		err = p.Body(form, record, body)
	}
	if err != nil {
		p.showRecord(v, faultOf(err), form)
		return
	}
	if len(body) > 0 {
		if _, e := v.call(http.MethodPatch, p.at(v, ""), body); e != nil {
			p.showRecord(v, e, form)
			return
		}
	}
	http.Redirect(v.W, v.R, p.here(v, "saved"), http.StatusSeeOther)
}

// askDelete shows a page that asks whether to delete the record. A browser that runs scripts asks
// in a dialog instead.
func (p *recordPages) askDelete(v *pageRequest) {
	record, e := v.call(http.MethodGet, p.at(v, ""), nil)
	if e != nil {
		v.showFault(e)
		return
	}
	page := recordPage{recordPages: p, ID: v.R.PathValue("id"), Record: record, Called: p.called(record), Deleting: p.Deletion(v, record)}
	if page.Deleting == "" {
		v.showFault(&Fault{Status: http.StatusForbidden, Message: "Built-in context variables cannot be deleted."})
		return
	}
	v.show(http.StatusOK, "deletion", view{Title: "Delete " + page.Called, Data: &page})
}

func (p *recordPages) remove(v *pageRequest) {
	if _, e := v.call(http.MethodDelete, p.at(v, ""), nil); e != nil {
		p.showRecord(v, e, nil)
		return
	}
	http.Redirect(v.W, v.R, p.Path+"?done=deleted", http.StatusSeeOther)
}

// listPage is a page of a list of the admin endpoint. Before and After are the addresses of the
// previous and the next page, or "" if there is no such page.
type listPage struct {
	Rows          []any
	Count         float64 // number of rows on all pages together
	Page, Pages   float64
	Before, After string
	Filtered      bool     // a filter is set
	States        []string // choices of the filter by status
	Answer        map[string]any
}

// Beyond reports whether the page is after the last one.
func (t listPage) Beyond() bool { return t.Page > 1 && t.Count > 0 && len(t.Rows) == 0 }

// list reads a page of a list from the admin endpoint, with 25 rows. The address of the page has
// the page number and the values of the filters. path is the path of the list, and rows is the
// member of the answer that holds the records.
func (v *pageRequest) list(path, rows string, filters ...string) (t listPage, e *Fault) {
	return v.listAs(path, rows, func(_, value string) string { return value }, filters...)
}

// listAs does the same as list, but asks the admin endpoint for what asked returns for the name and the value
// of a filter, and for nothing if that is "".
func (v *pageRequest) listAs(path, rows string, asked func(name, value string) string, filters ...string) (t listPage, e *Fault) {
	q := url.Values{"limit": {"25"}}
	given := v.query
	for _, name := range append(filters, "page") {
		if value := given.Get(name); value != "" {
			if value = asked(name, value); value != "" {
				q.Set(name, value)
			}
			t.Filtered = t.Filtered || name != "page"
		}
	}
	joint := "?"
	if strings.Contains(path, "?") {
		joint = "&"
	}
	answer, e := v.call(http.MethodGet, path+joint+q.Encode(), nil)
	if e != nil {
		return t, e
	}
	t.Answer = answer
	t.Rows, _ = answer[rows].([]any)
	t.Count, t.Page, t.Pages = numberOf(answer["count"]), numberOf(answer["page"]), numberOf(answer["pages"])
	link := func(page float64) string {
		to := url.Values{}
		for _, name := range filters {
			if given.Get(name) != "" {
				to.Set(name, given.Get(name))
			}
		}
		to.Set("page", strconv.Itoa(int(page)))
		return v.R.URL.Path + "?" + to.Encode()
	}
	if t.Page > 1 {
		t.Before = link(min(t.Page-1, max(1, t.Pages)))
	}
	if t.Page < t.Pages {
		t.After = link(t.Page + 1)
	}
	return t, nil
}
