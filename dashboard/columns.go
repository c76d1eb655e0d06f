package dashboard

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
	cellText   = ""
	cellName   = "name"  // a link to the page of the record
	cellState  = "state" // shown as a label
	cellTime   = "time"
	cellMono   = "mono"
	cellNumber = "number"
	cellURL    = "url"  // a link if it is an http or https URL
	cellLong   = "long" // a text of several lines
)

// column describes how a list or a page shows a member of a record.
type column struct {
	Head, Member, Kind string
	Sub                string         // a second member, in small type
	To                 string         // the first part of the link's address, "" if there is no link
	By                 string         // the member that is added to To
	Zone               *time.Location // of cellTime, nil means UTC
}

// pageCell is one value as a page shows it. Href is "" if it is no link.
type pageCell struct{ Head, Text, Kind, Sub, Href string }

// cellsOf returns the cells of a record. page returns the address of a record's
// page; it may be nil if no column is a cellName.
func cellsOf(columns []column, record map[string]any, page func(id string) string) (cells []pageCell) {
	for _, c := range columns {
		cell := pageCell{Head: c.Head, Text: textOf(memberOf(record, c.Member)), Kind: c.Kind}
		if c.Sub != "" {
			cell.Sub = textOf(memberOf(record, c.Sub))
		}
		switch {
		case c.Kind == cellName:
			if strings.TrimSpace(cell.Text) == "" {
				cell.Text = textOf(record["id"])
			}
			cell.Href = page(textOf(record["id"]))
		case c.Kind == cellURL:
			cell.Href = webAddress(cell.Text)
		case c.Kind == cellTime:
			cell.Text = whenIn(cell.Text, c.Zone)
		case c.To != "" && memberOf(record, c.By) != nil:
			cell.Href = c.To + url.PathEscape(textOf(memberOf(record, c.By)))
		}
		cells = append(cells, cell)
	}
	return cells
}

// memberOf returns a member of a record, or nil. A dot in at leads into an inner
// object, as in "customer.name".
func memberOf(record map[string]any, at string) any {
	first, rest, deeper := strings.Cut(at, ".")
	if !deeper {
		return record[first]
	}
	inner, _ := record[first].(map[string]any)
	return memberOf(inner, rest)
}

// webAddress returns text if it is an http or https URL, and otherwise "". So a
// stored text cannot become a link that runs a script.
func webAddress(text string) string {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return ""
	}
	return u.String()
}

// when returns a time of the admin endpoint in readable form, in UTC. It returns
// a text that is no time unchanged.
func when(text string) string { return whenIn(text, nil) }

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

// textOf returns a value of the admin endpoint as a text: "" for nil, and the
// name or else the id of an object.
func textOf(v any) string {
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
		return strings.Join(texts(v), ", ")
	case map[string]any:
		if name := textOf(v["name"]); name != "" {
			return name
		}
		return textOf(v["id"])
	}
	return fmt.Sprint(v)
}

// texts returns the items of a list as texts, nil if v is no list.
func texts(v any) (list []string) {
	items, _ := v.([]any)
	for _, item := range items {
		list = append(list, textOf(item))
	}
	return list
}

// namedText is a name with its value on a page.
type namedText struct{ Name, Value string }

// membersOf returns the members of an object, sorted by name.
func membersOf(object any) (list []namedText) {
	members, _ := object.(map[string]any)
	for _, name := range slices.Sorted(maps.Keys(members)) {
		list = append(list, namedText{name, textOf(members[name])})
	}
	return list
}
