package dashboard

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"latchkey/internal/clock"
)

// These are the kinds of columns.
const (
	cellText   = ""
	cellName   = "name"  // links to the page of the record
	cellState  = "state" // shown as a label
	cellTime   = "time"
	cellMono   = "mono"
	cellNumber = "number"
	cellURL    = "url"  // links to the value if it is an http or https URL
	cellLong   = "long" // text with several lines
)

// column describes how a list or a page shows one member of a record.
type column struct {
	Head, Member, Kind string
	Sub                string         // second member, shown in small type; "" if there is none
	Cut                bool           // the second member is cut to one line
	To                 string         // first part of a link's address; "" if the value is not a link
	By                 string         // member whose value is appended to To
	Zone               *time.Location // time zone of a cellTime; nil means the one of the operator
}

// pageCell is one value as a page shows it. Href is "" if the value is not a link.
type pageCell struct {
	Head, Text, Kind, Sub, Href string
	Cut                         bool // Sub is cut to one line
}

// cellsOf returns the cells of a record, one for each column. pageAddress returns the address of
// the record's page. It may be nil if no column is a cellName.
func cellsOf(columns []column, record map[string]any, pageAddress func(id string) string) (cells []pageCell) {
	for _, c := range columns {
		cell := pageCell{Head: c.Head, Text: textOf(memberOf(record, c.Member)), Kind: c.Kind, Cut: c.Cut}
		if c.Sub != "" {
			cell.Sub = textOf(memberOf(record, c.Sub))
		}
		switch {
		case c.Kind == cellName:
			if strings.TrimSpace(cell.Text) == "" {
				cell.Text = textOf(record["id"])
			}
			cell.Href = pageAddress(textOf(record["id"]))
		case c.Kind == cellURL:
			cell.Href = webAddress(cell.Text)
		case c.Kind == cellTime:
			cell.Text = whenThere(cell.Text, c.Zone)
		case c.To != "" && memberOf(record, c.By) != nil:
			cell.Href = c.To + url.PathEscape(textOf(memberOf(record, c.By)))
		}
		cells = append(cells, cell)
	}
	return cells
}

// memberOf returns the member of a record with the name in path, or nil if there is none. A dot in
// path leads to a member of an inner object, as in "customer.name".
func memberOf(record map[string]any, path string) any {
	first, rest, deeper := strings.Cut(path, ".")
	if !deeper {
		return record[first]
	}
	inner, _ := record[first].(map[string]any)
	return memberOf(inner, rest)
}

// webAddress returns text if it is an http or https URL, and otherwise "". So a stored text cannot
// become a link that runs a script.
func webAddress(text string) string {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return ""
	}
	return u.String()
}

// whenThere returns a time of the admin endpoint as it is in a time zone. A nil zone means the one that the
// operator has chosen.
func whenThere(text string, zone *time.Location) string {
	t, err := clock.ParseTime(text)
	if err != nil || zone == nil {
		return when(text)
	}
	return t.In(zone).Format("2006-01-02 15:04")
}

// textOf returns a value of the admin endpoint as a text. nil becomes "". An object becomes its
// name, or its id if it has no name.
func textOf(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case bool:
		if v {
			return "yes"
		}
		return "no"
	case json.Number:
		return v.String()
	case string:
		return v
	case []any:
		return strings.Join(texts(v), ", ")
	case map[string]any:
		if name := textOf(v["name"]); name != "" {
			return name
		}
		return textOf(v["id"])
	}
	return fmt.Sprint(v)
}

// numberOf returns a number in an answer of the admin endpoint. It returns 0 if v is not a number.
func numberOf(v any) float64 {
	number, _ := v.(json.Number)
	n, _ := number.Float64()
	return n
}

// texts returns the items of a list as texts. It returns nil if v is not a list.
func texts(v any) (list []string) {
	items, _ := v.([]any)
	for _, item := range items {
		list = append(list, textOf(item))
	}
	return list
}

// namedText is a name and its value as a page shows them.
type namedText struct{ Name, Value string }

// membersOf returns the members of an object, sorted by name. It returns nil if object is not an
// object.
func membersOf(object any) (list []namedText) {
	members, _ := object.(map[string]any)
	for _, name := range slices.Sorted(maps.Keys(members)) {
		list = append(list, namedText{name, textOf(members[name])})
	}
	return list
}
