package main

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

// Records are the pages of one kind of record: the list, the form of a new
// one, the page of one with its form, and its deletion. They read and change
// it by way of the admin endpoint. Nothing of it changes once it is served.
type Records struct {
	Section
	One      string // what one is called: "agent"
	API      string // its path below /admin/v1/
	Rows     string // the member of the list's answer
	About    string // said under the heading of the list
	Empty    string // said where there is none
	New      string // on the button for a new one, "" for the usual
	CalledBy string // the member by which one is called
	Columns  []Column
	Filters  []Field
	Fields   []Field
	Facts    []Column   // what the page of one tells besides the form
	Links    []Link     // beside the button for a new one
	Query    url.Values // goes along in every address
	Always   url.Values // goes along with every list that is asked for
	Page     string     // template of the page of one, "" for the usual
	NewPage  string     // template of the form of a new one, "" for the usual
	// Deletion says what it does to delete a record; nil: none can be.
	Deletion func(v *Visit, record map[string]any) string
	// More adds what the page of one has besides; nil: nothing.
	More func(v *Visit, p *RecordPage) *Error
	// Body has the last word on the body of a request that a form makes. record
	// is nil for a new one.
	Body func(form url.Values, record, body map[string]any) error
	// Made shows what was made in place of its page; nil: that.
	Made func(v *Visit, record map[string]any)
}

// Link leads to another page.
type Link struct{ Label, Path string }

// RecordList is the page of a list.
type RecordList struct {
	ListPage
	Kind   *Records
	Inputs []Input
	Cells  [][]PageCell
	Made   bool // whether new ones can be made
}

// RecordPage is the page of one record; a new one has no ID.
type RecordPage struct {
	*Records
	ID       string
	Called   string
	Record   map[string]any
	Inputs   []Input
	Shown    []PageCell
	Deleting string
	Extra    any
	Form     url.Values // what was sent and not taken, nil for nothing
}

// Sections is the entry of the navigation.
func (p *Records) Sections() []Section { return []Section{p.Section} }

// Pages lists the pages.
func (p *Records) Pages() map[string]func(*Visit) {
	pages := map[string]func(*Visit){"GET " + p.Path: p.list, "GET " + p.Path + "/{id}": func(v *Visit) { p.Show(v, nil, nil) }}
	if p.makes() {
		pages["GET "+p.Path+"/new"] = func(v *Visit) { p.Ask(v, nil, v.R.URL.Query()) }
		pages["POST "+p.Path] = p.create
	}
	if len(p.changing()) > 0 {
		pages["POST "+p.Path+"/{id}"] = p.change
	}
	if p.Deletion != nil {
		pages["GET "+p.Path+"/{id}/delete"] = p.askDelete
		pages["POST "+p.Path+"/{id}/delete"] = p.remove
	}
	return pages
}

func (p *Records) makes() bool { return len(p.making()) > 0 }

func (p *Records) making() (list []Field) {
	for _, f := range p.Fields {
		if !f.Change {
			list = append(list, f)
		}
	}
	return list
}

func (p *Records) changing() (list []Field) {
	for _, f := range p.Fields {
		if !f.Make {
			list = append(list, f)
		}
	}
	return list
}

// At is where the admin endpoint has the record that an address names, with a
// further part.
func (p *Records) At(v *Visit, more string) string {
	return "/admin/v1/" + p.API + "/" + url.PathEscape(v.R.PathValue("id")) + more
}

// Here is the address of the record that an address names, with a word for what
// was done.
func (p *Records) Here(v *Visit, done string) string { return p.page(v.R.PathValue("id"), done) }

func (p *Records) page(id, done string) string {
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

func (p *Records) list(v *Visit) {
	var names []string
	for _, f := range p.Filters {
		names = append(names, f.Name)
	}
	query := v.R.URL.Query()
	t := RecordList{Kind: p, Made: p.makes()}
	var fault *Error
	t.ListPage, fault = v.List("/admin/v1/"+p.API+"?"+p.Always.Encode(), p.Rows, names...)
	t.Filtered = slices.ContainsFunc(p.Filters, func(f Field) bool { return f.Kind != FieldHidden && query.Get(f.Name) != "" })
	t.Inputs = v.Inputs(p.Filters, Fill(func(f Field) string { return query.Get(f.Name) }), fault)
	for _, row := range t.ListPage.Rows {
		record, _ := row.(map[string]any)
		t.Cells = append(t.Cells, Cells(p.Columns, record, func(id string) string { return p.page(id, "") }))
	}
	page := View{Title: p.Section.Name, Data: t, Form: query}
	status := http.StatusOK
	if fault != nil {
		status, page.Fault = fault.Status, Labelled(fault.Message, p.Filters...)
	}
	v.Show(status, "records", page)
}

// Ask shows the form of a new record, with what was sent and why it was not
// taken, if so.
func (p *Records) Ask(v *Visit, fault *Error, form url.Values) {
	value := func(f Field) string {
		if !form.Has(f.Name) && fault == nil {
			return f.Usual
		}
		return f.Sent(form)
	}
	page := RecordPage{Records: p, Form: form, Record: map[string]any{}, Inputs: v.Inputs(p.making(), Fill(value), fault)}
	if p.NewPage != "" && p.More != nil {
		if e := p.More(v, &page); e != nil {
			v.Fault(e)
			return
		}
	}
	p.show(v, cmp.Or(p.NewPage, "newrecord"), View{Title: cmp.Or(p.New, "New "+p.One), Data: &page}, fault)
}

// show sends the page of a form.
func (p *Records) show(v *Visit, name string, page View, fault *Error) {
	status := http.StatusOK
	if fault != nil {
		status, page.Fault = fault.Status, Labelled(fault.Message, p.Fields...)
	}
	v.Show(status, name, page)
}

func (p *Records) create(v *Visit) {
	form, ok := v.Form()
	if !ok {
		return
	}
	body, err := NewBody(p.making(), form)
	if err == nil && p.Body != nil {
		err = p.Body(form, nil, body)
	}
	if err != nil {
		p.Ask(v, Public(err), form)
		return
	}
	made, e := v.Call(http.MethodPost, "/admin/v1/"+p.API, body)
	if e != nil {
		p.Ask(v, e, form)
		return
	}
	if p.Made != nil {
		p.Made(v, made)
		return
	}
	http.Redirect(v.W, v.R, p.page(Shown(made["id"]), "made"), http.StatusSeeOther)
}

// Show sends the page of the record that the address names, with what was sent
// and why it was not taken, if so.
func (p *Records) Show(v *Visit, fault *Error, form url.Values) {
	record, e := v.Call(http.MethodGet, p.At(v, ""), nil)
	if e != nil {
		v.Fault(e)
		return
	}
	page := RecordPage{Records: p, ID: v.R.PathValue("id"), Record: record, Called: p.called(record), Shown: Cells(p.Facts, record, nil), Form: form}
	in := Fill(func(f Field) string {
		if form == nil {
			return f.Of(record)
		}
		return f.Sent(form)
	})
	in.Was = func(f Field) string {
		if form == nil {
			return Mark(f.Of(record))
		}
		return form.Get("was." + f.Name)
	}
	page.Inputs = v.Inputs(p.changing(), in, fault)
	if p.Deletion != nil {
		page.Deleting = p.Deletion(v, record)
	}
	if p.More != nil {
		if e := p.More(v, &page); e != nil {
			v.Fault(e)
			return
		}
	}
	p.show(v, cmp.Or(p.Page, "record"), View{Title: page.Called, Data: &page}, fault)
}

func (p *Records) called(record map[string]any) string {
	if name := strings.TrimSpace(Shown(Member(record, p.CalledBy))); name != "" {
		return name
	}
	return fmt.Sprintf("%s %s", p.One, Shown(record["id"]))
}

func (p *Records) change(v *Visit) {
	form, ok := v.Form()
	if !ok {
		return
	}
	body, err := ChangeBody(p.changing(), form)
	if err == nil && p.Body != nil {
		record, e := v.Call(http.MethodGet, p.At(v, ""), nil)
		if e != nil {
			v.Fault(e)
			return
		}
		err = p.Body(form, record, body)
	}
	if err != nil {
		p.Show(v, Public(err), form)
		return
	}
	if _, e := v.Call(http.MethodPatch, p.At(v, ""), body); e != nil {
		p.Show(v, e, form)
		return
	}
	http.Redirect(v.W, v.R, p.Here(v, "saved"), http.StatusSeeOther)
}

// askDelete is the dialog's question as a page, for browsers without script.
func (p *Records) askDelete(v *Visit) {
	record, e := v.Call(http.MethodGet, p.At(v, ""), nil)
	if e != nil {
		v.Fault(e)
		return
	}
	page := RecordPage{Records: p, ID: v.R.PathValue("id"), Record: record, Called: p.called(record), Deleting: p.Deletion(v, record)}
	if page.Deleting == "" {
		v.Fault(ErrDeleteNotAllowed)
		return
	}
	v.Show(http.StatusOK, "deletion", View{Title: "Delete " + page.Called, Data: &page})
}

func (p *Records) remove(v *Visit) {
	if _, e := v.Call(http.MethodDelete, p.At(v, ""), nil); e != nil {
		p.Show(v, e, nil)
		return
	}
	http.Redirect(v.W, v.R, p.Path+"?done=deleted", http.StatusSeeOther)
}

// ListPage is a page of a list.
type ListPage struct {
	Rows          []any
	Count         float64
	Page, Pages   float64
	Before, After string
	Filtered      bool
	States        []string
}

// List reads the page of a list that the address names from the admin
// endpoint, narrowed by what it says of the filters.
func (v *Visit) List(path, rows string, filters ...string) (t ListPage, e *Error) {
	q := url.Values{"limit": {"25"}}
	given := v.R.URL.Query()
	for _, name := range append(filters, "page") {
		if value := given.Get(name); value != "" {
			q.Set(name, value)
			t.Filtered = t.Filtered || name != "page"
		}
	}
	joint := "?"
	if strings.Contains(path, "?") {
		joint = "&"
	}
	answer, e := v.Call(http.MethodGet, path+joint+q.Encode(), nil)
	if e != nil {
		return t, e
	}
	t.Rows, _ = answer[rows].([]any)
	t.Count, _ = answer["count"].(float64)
	t.Page, _ = answer["page"].(float64)
	t.Pages, _ = answer["pages"].(float64)
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
