package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Meter shows how a limit stands.
type Meter struct {
	Label       string
	Used, Limit int
	Percent     int
	Free        string
}

// Says is the meter as a text.
func (m Meter) Says() string { return fmt.Sprintf("%s: %d of %d", m.Label, m.Used, m.Limit) }

// Level is "full" where nothing is left, "high" where little is, or "".
func (m Meter) Level() string {
	switch {
	case m.Percent >= 100:
		return "full"
	case m.Percent >= 80:
		return "high"
	}
	return ""
}

// NextFree says when the next unit is free.
func (m Meter) NextFree(now time.Time) string {
	if m.Free == "" {
		return "nothing used"
	}
	return "next unit free " + Until(m.Free, now)
}

// Carrier says for people by which of the ways a key was sent.
func Carrier(way any) string {
	switch way {
	case CarrierBearer:
		return "bearer token"
	case CarrierHeader:
		return "X-API-Key"
	case CarrierQuery:
		return "?api_key= in the address"
	}
	return fmt.Sprint(way)
}

// LimitLabel is a limit as people read it.
func LimitLabel(name string) string {
	name = strings.TrimSuffix(name, "_limit")
	return strings.ToUpper(name[:1]) + strings.ReplaceAll(name[1:], "_", " ")
}

// meters returns the meters of a key as the admin endpoint shows it: of the
// limits that its permissions let it use, the shortest window first.
func (p permissions) meters(key map[string]any) []Meter {
	var list []Meter
	usage, _ := key["usage"].(map[string]any)
	held := Texts(key["permissions"])
	window := func(name string) float64 {
		u, _ := usage[name].(map[string]any)
		seconds, _ := u["window_seconds"].(float64)
		return seconds
	}
	names := slices.SortedFunc(maps.Keys(usage), func(a, b string) int {
		return cmp.Or(cmp.Compare(window(a), window(b)), strings.Compare(a, b))
	})
	for _, name := range names {
		u, ok := usage[name].(map[string]any)
		if !ok || p.unused(name, held) {
			continue
		}
		used, _ := u["used"].(float64)
		limit, _ := u["limit"].(float64)
		m := Meter{Label: LimitLabel(name), Used: int(used), Limit: int(limit), Percent: int(min(100, 100*used/max(1, limit)))}
		if u["observe"] == true {
			m.Label += " (observed)"
		}
		m.Free, _ = u["resets_at"].(string)
		list = append(list, m)
	}
	return list
}

// State is how a key stands, for people: a word and the class of its label.
type State struct{ Word, Class string }

// soon is how long before its end a key is told of as expiring.
const soon = 7 * 24 * time.Hour

// StateOf gives the first that applies: revoked, expired, paused, refused for
// a limit in the last minutes, at its end soon, never used, active.
func StateOf(key map[string]any, limited bool, now time.Time) State {
	status, _ := key["status"].(string)
	if status != StatusActive {
		return State{DisplayWord(status), status}
	}
	ends, _ := key["expires_at"].(string)
	at, err := time.Parse(time.RFC3339, ends)
	switch {
	case limited:
		return State{"Rate-limited", "failed"}
	case err == nil && at.Sub(now) < soon:
		return State{"Expires soon", "paused"}
	case key["last_used_at"] == nil:
		return State{"Never used", "unused"}
	}
	return State{"Active", StatusActive}
}

// Until says how long from now a time is, as the admin endpoint writes it.
func Until(at any, now time.Time) string {
	text, _ := at.(string)
	t, err := time.Parse(time.RFC3339, text)
	switch {
	case err != nil:
		return "never"
	case !t.After(now):
		return Ago(at, now)
	}
	left := t.Sub(now)
	for _, unit := range []struct {
		length time.Duration
		name   string
	}{{24 * time.Hour, "day"}, {time.Hour, "hour"}, {time.Minute, "minute"}} {
		if n := int(left / unit.length); n > 1 {
			return fmt.Sprintf("in %d %ss", n, unit.name)
		} else if n == 1 {
			return "in 1 " + unit.name
		}
	}
	return "in less than a minute"
}

// Ago says how long before now a time was, as the admin endpoint writes it.
func Ago(at any, now time.Time) string {
	text, _ := at.(string)
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return "never"
	}
	since := now.Sub(t)
	for _, unit := range []struct {
		length time.Duration
		name   string
	}{{24 * time.Hour, "day"}, {time.Hour, "hour"}, {time.Minute, "minute"}} {
		if n := int(since / unit.length); n > 1 {
			return fmt.Sprintf("%d %ss ago", n, unit.name)
		} else if n == 1 {
			return "1 " + unit.name + " ago"
		}
	}
	return "just now"
}

// Plot is a chart of requests as a page draws it: a bar for each step, what
// was refused stacked on top. Its units are those of the drawing.
type Plot struct {
	Says          string // the whole as a sentence
	Width, Height int
	Bars          []Bar
	Top, Middle   string   // of the axis
	Marks         []string // under the bars, spread evenly
	Rows          []PlotRow
	CSV           string
	Title         string
}

// Bar is a step of a plot.
type Bar struct {
	Says     string
	X, Width int
	Y, H     int // what was answered
	RefusedY int
	RefusedH int
}

// PlotRow is a line of the table beside a plot.
type PlotRow struct {
	Start                                                                  string
	Requests, OK, Client, Unauthorized, Forbidden, Limited, Server, Refuse int
}

// plotRow reads the counts of one step or of a sum.
func plotRow(v any) PlotRow {
	row, _ := v.(map[string]any)
	n := func(name string) int {
		f, _ := row[name].(float64)
		return int(f)
	}
	start, _ := row["start"].(string)
	r := PlotRow{start, n("requests"), n("ok"), n("client_error"), n("unauthorized"), n("forbidden"), n("rate_limited"), n("server_error"), 0}
	r.Refuse = r.Unauthorized + r.Forbidden + r.Limited
	return r
}

// NewPlot draws the buckets of a history over the last so many steps up to a
// time, in a drawing of a height and with bars of a width.
func NewPlot(buckets any, step Step, last int, now time.Time, width, height int) Plot {
	list, _ := buckets.([]any)
	found := map[string]PlotRow{}
	most, sum := 1, PlotRow{}
	p := Plot{Width: last * width, Height: height}
	period := Period{step, last, now}
	begin := *Seconds(period.From())
	for _, v := range list {
		row := plotRow(v)
		if row.Start < begin { // whole seconds in UTC sort as text
			continue
		}
		found[row.Start] = row
		p.Rows = append(p.Rows, row)
		most = max(most, row.Requests)
		sum.Requests, sum.Refuse = sum.Requests+row.Requests, sum.Refuse+row.Refuse
	}
	for i := range last {
		at := period.From().Add(time.Duration(i) * time.Duration(step) * time.Second)
		row := found[*Seconds(at)]
		total := scaled(row.Requests, most, height)
		refused := min(scaled(row.Refuse, most, height), total)
		bar := Bar{X: i * width, Width: max(1, width-1), H: total - refused, Y: height - total + refused, RefusedY: height - total, RefusedH: refused}
		layout := "2 Jan 15:04"
		if step == StepDay {
			layout = "2 Jan"
		}
		bar.Says = fmt.Sprintf("%s: %s", at.Format(layout), counted(row.Requests, row.Refuse))
		p.Bars = append(p.Bars, bar)
	}
	length := time.Duration(last) * time.Duration(step) * time.Second
	p.Says = fmt.Sprintf("%s in the last %s.", counted(sum.Requests, sum.Refuse), lengthOf(length))
	p.Top, p.Middle = fmt.Sprint(most), ""
	if most > 1 {
		p.Middle = fmt.Sprint((most + 1) / 2)
	}
	for i := range 4 {
		p.Marks = append(p.Marks, period.From().Add(length*time.Duration(i)/4).Format("2 Jan"))
	}
	p.Marks = append(p.Marks, "now")
	return p
}

// scaled gives a height; anything at all is seen.
func scaled(n, most, height int) int {
	if n == 0 {
		return 0
	}
	return max(1, n*height/most)
}

func counted(requests, refused int) string {
	text := fmt.Sprintf("%d requests", requests)
	if requests == 1 {
		text = "1 request"
	}
	if refused > 0 {
		text += fmt.Sprintf(", %d refused", refused)
	}
	return text
}

// lengthOf says a length of time in days, or in hours where it is one day.
func lengthOf(d time.Duration) string {
	if d <= 24*time.Hour {
		return fmt.Sprintf("%d hours", int(d/time.Hour))
	}
	return fmt.Sprintf("%d days", int(d/(24*time.Hour)))
}

// Spark is a small plot of the last 24 hours, with the numbers beside it.
type Spark struct {
	Plot
	Requests, Refused int
}

// NewSpark draws the last 24 hours of a row of a history.
func NewSpark(v any, now time.Time) Spark {
	row, _ := v.(map[string]any)
	sum := plotRow(v)
	return Spark{NewPlot(row["buckets"], StepHour, 24, now, 4, 24), sum.Requests, sum.Refuse}
}
