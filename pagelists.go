package main

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

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
