package main

import (
	"fmt"
	"net/http"
	"net/url"
	"time"
)

// KeyLists are the page that lists the keys, and what keeps it up to date.
type KeyLists struct{ apiURL func() string }

// NewKeyLists makes the page; apiURL gives where clients reach the API.
func NewKeyLists(apiURL func() string) *KeyLists { return &KeyLists{apiURL} }

// Sections is the entry of the navigation.
func (k *KeyLists) Sections() []Section { return []Section{{"API", "API Keys", "/keys"}} }

// Pages lists the pages.
func (k *KeyLists) Pages() map[string]func(*Visit) {
	return map[string]func(*Visit){"GET /keys": k.list, "GET /keys/meters": k.meters}
}

// keyFilters are what the list may be narrowed and sorted by, in the address.
func keyFilters() []string {
	return []string{"search", "status", "environment", "permission", "owner", "unused_days", "sort", "order"}
}

// keyLine is a key in the list.
type keyLine struct {
	Key    map[string]any
	State  State
	Spark  Spark
	Meters []Meter
	Note   string
	Says   []string // the permissions, as people say them
}

// sorter is the head of a column that sorts.
type sorter struct{ Name, Link, Order string }

// keyList is the page of the keys.
type keyList struct {
	ListPage
	Lines       []keyLine
	Sorts       map[string]sorter
	Permissions []string
	URL         string
	Query       string // of the address
	Any         bool   // whether there is any key
}

func (k *KeyLists) list(v *Visit) {
	q := v.R.URL.Query()
	if !q.Has("status") {
		q.Set("status", "live")
		given := *v.R.URL
		given.RawQuery = q.Encode()
		v.R.URL = &given
	}
	t, e := v.List("/admin/v1/keys", "keys", keyFilters()...)
	if e != nil {
		v.Fault(e)
		return
	}
	list := keyList{ListPage: t, Sorts: sorters(q), URL: k.apiURL(), Query: q.Encode()}
	list.Filtered = false
	for _, name := range []string{"search", "environment", "permission", "owner", "unused_days"} {
		list.Filtered = list.Filtered || q.Get(name) != ""
	}
	list.Filtered = list.Filtered || q.Get("status") != "live"
	list.States = []string{"live", "", "active", "paused", "expired", "revoked"}
	status, e := v.Call(http.MethodGet, "/admin/v1/status", nil)
	if e == nil {
		n, _ := status["keys"].(float64)
		list.Any = n > 0
	}
	if all, e := v.Call(http.MethodGet, "/admin/v1/permissions", nil); e == nil {
		for _, g := range KeyGroups(all["permissions"], nil) {
			for _, c := range g.Choices {
				list.Permissions = append(list.Permissions, c.Name)
			}
		}
	}
	list.Lines = k.lines(v, t.Rows)
	v.Show(http.StatusOK, "keys", View{Title: "API Keys", Data: list, Form: q})
}

// meters gives the meters of the keys in a list, by their ids, for the page
// to show them as they are now.
func (k *KeyLists) meters(v *Visit) {
	t, e := v.List("/admin/v1/keys", "keys", keyFilters()...)
	if e != nil {
		http.Error(v.W, e.Message, e.Status)
		return
	}
	keys := map[string]any{}
	for _, row := range t.Rows {
		if key, ok := row.(map[string]any); ok {
			keys[fmt.Sprint(key["id"])] = LiveMeters(key, v.Now())
		}
	}
	_ = WriteJSON(v.W, http.StatusOK, map[string]any{"keys": keys})
}

// LiveMeters are the meters of a key for the page's script.
func LiveMeters(key map[string]any, now time.Time) []map[string]any {
	list := []map[string]any{}
	for _, m := range Meters(key) {
		list = append(list, map[string]any{"text": m.Says(), "percent": m.Percent, "level": m.Level(), "free": m.NextFree(now)})
	}
	return list
}

// lines adds to the keys of a page what their history says.
func (k *KeyLists) lines(v *Visit, rows []any) (lines []keyLine) {
	q := url.Values{"last": {"24"}}
	for _, row := range rows {
		key, _ := row.(map[string]any)
		q.Add("key", fmt.Sprint(key["id"]))
	}
	history := map[string]any{}
	if len(rows) > 0 {
		if answer, e := v.Call(http.MethodGet, "/admin/v1/usage?"+q.Encode(), nil); e == nil {
			list, _ := answer["keys"].([]any)
			for _, one := range list {
				used, _ := one.(map[string]any)
				history[fmt.Sprint(used["id"])] = used
			}
		}
	}
	for _, row := range rows {
		key, _ := row.(map[string]any)
		used, _ := history[fmt.Sprint(key["id"])].(map[string]any)
		lines = append(lines, keyLine{key, StateOf(key, used["limited_at"] != nil, v.Now()), NewSpark(used, v.Now()), Meters(key), NoteOf(key), nil})
		for _, name := range Texts(key["permissions"]) {
			lines[len(lines)-1].Says = append(lines[len(lines)-1].Says, SayPermission(name))
		}
	}
	return lines
}

// NoteOf gives the note of a key, "" where it has none.
func NoteOf(key map[string]any) string {
	metadata, _ := key["metadata"].(map[string]any)
	note, _ := metadata["note"].(string)
	return note
}

// sorters gives the heads that sort, each with the link to sort by it, or the
// other way round where the list is sorted by it already.
func sorters(q url.Values) map[string]sorter {
	all := map[string]sorter{}
	for name, label := range map[string]string{"name": "Name", "created": "Key, created", "last_used": "Last used", "expires": "Expires"} {
		now := q.Get("sort") == name || q.Get("sort") == "" && name == "created"
		order := "desc"
		if name == "name" || name == "expires" {
			order = "asc"
		}
		if now && q.Get("order") != "" {
			order = q.Get("order")
		}
		s := sorter{Name: label}
		if now {
			s.Order = map[string]string{"asc": "ascending", "desc": "descending"}[order]
			order = map[string]string{"asc": "desc", "desc": "asc"}[order]
		}
		to := url.Values{"sort": {name}, "order": {order}}
		for _, filter := range keyFilters() {
			if !to.Has(filter) && q.Get(filter) != "" {
				to.Set(filter, q.Get(filter))
			}
		}
		s.Link = "/keys?" + to.Encode()
		all[name] = s
	}
	return all
}
