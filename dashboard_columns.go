package main

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The kinds of columns.
const (
	CellText   = ""
	CellName   = "name"  // leads to the record
	CellState  = "state" // shown as a label
	CellTime   = "time"
	CellMono   = "mono"
	CellNumber = "number"
	CellURL    = "url"  // a link where it is one of the web
	CellLong   = "long" // a text of several lines
)

// Column is a member of records as a list or a page shows it.
type Column struct {
	Head, Member, Kind string
	Sub                string         // a second member, in small type
	To                 string         // the beginning of the address that it leads to, "" for none
	By                 string         // the member that ends that address
	Zone               *time.Location // of CellTime, nil for UTC
}

// PageCell is a field of a row.
type PageCell struct{ Head, Text, Kind, Sub, Href string }

// Cells shows a record; page gives the address of its page by its id.
func Cells(columns []Column, record map[string]any, page func(id string) string) (cells []PageCell) {
	for _, c := range columns {
		cell := PageCell{Head: c.Head, Text: Shown(Member(record, c.Member)), Kind: c.Kind}
		if c.Sub != "" {
			cell.Sub = Shown(Member(record, c.Sub))
		}
		switch {
		case c.Kind == CellName:
			if strings.TrimSpace(cell.Text) == "" {
				cell.Text = Shown(record["id"])
			}
			cell.Href = page(Shown(record["id"]))
		case c.Kind == CellURL:
			cell.Href = WebAddress(cell.Text)
		case c.Kind == CellTime:
			cell.Text = whenIn(cell.Text, c.Zone)
		case c.To != "" && Member(record, c.By) != nil:
			cell.Href = c.To + url.PathEscape(Shown(Member(record, c.By)))
		}
		cells = append(cells, cell)
	}
	return cells
}

// Member gives a member of a record; of one in another the names are apart by
// dots.
func Member(record map[string]any, at string) any {
	first, rest, deeper := strings.Cut(at, ".")
	if !deeper {
		return record[first]
	}
	inner, _ := record[first].(map[string]any)
	return Member(inner, rest)
}

// WebAddress gives a text that is an address of the web, "" for any other:
// what others have stored must not become a link that runs a script.
func WebAddress(text string) string {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return ""
	}
	return u.String()
}

// When is a time of the admin endpoint for people, UTC.
func When(text string) string { return whenIn(text, nil) }

func whenIn(text string, zone *time.Location) string {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return text
	}
	if zone == nil {
		zone = time.UTC
	}
	return t.In(zone).Format("2006-01-02 15:04")
}

// Shown is a value of the admin endpoint as a text.
func Shown(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case bool:
		if v {
			return "yes"
		}
		return "no"
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	case string:
		return v
	case []any:
		return strings.Join(Texts(v), ", ")
	case map[string]any:
		if name := Shown(v["name"]); name != "" {
			return name
		}
		return Shown(v["id"])
	}
	return fmt.Sprint(v)
}

// Texts are the texts of a list.
func Texts(v any) (list []string) {
	items, _ := v.([]any)
	for _, item := range items {
		list = append(list, Shown(item))
	}
	return list
}

// Pair is a name and its value on a page.
type Pair struct{ Name, Value string }

// Pairs gives the members of an object in the order of the alphabet.
func Pairs(object any) (list []Pair) {
	members, _ := object.(map[string]any)
	for _, name := range slices.Sorted(maps.Keys(members)) {
		list = append(list, Pair{name, Shown(members[name])})
	}
	return list
}
