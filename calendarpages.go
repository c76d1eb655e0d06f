package main

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

// weekPage is the page of a week.
type weekPage struct {
	Days              []weekDay
	Hours             []hourMark
	Height            int // of the grid
	Title             string
	Zone, Owner       string
	Before, After     string // addresses of the weeks beside it
	Today, List, New  string
	Zones, Owners     []Choice
	Week              string
	Events, Cancelled int
	More              bool // there are more events than the page shows
}

// weekDay is a day of a week: the blocks of its grid, and what fills it.
type weekDay struct {
	Name, Date, New string
	Today           bool
	Blocks          []weekBlock
	Long            []weekBlock
	List            []weekBlock // all of them, for a narrow screen
}

// weekBlock is an event, or its part on a day. Places are in the units of the
// grid: one for a minute; from the side in percent of a day's width.
type weekBlock struct {
	Title, Who, When, Status, Href string
	X, Width                       string
	Y, Height                      int
}

// hourMark is a line of the grid.
type hourMark struct {
	Y    int
	Text string
}

const (
	leastMinutes = 28   // an event's height, so that its title can be read
	mostEvents   = 1000 // of a week on its page
	openHour     = 7    // the grid goes from here
	closeHour    = 20   // to there, further where events need it
)

// ZoneOf gives the time zone that an address or a form names, else that of the
// schedule of the owner, else UTC.
func ZoneOf(v *Visit, owner string) *time.Location {
	name := v.R.URL.Query().Get("zone")
	if v.R.Method == http.MethodPost {
		name = v.R.PostFormValue("zone")
	}
	if name == "" {
		answer, e := v.Call(http.MethodGet, "/admin/v1/schedules?limit=1&owner="+url.QueryEscape(cmp.Or(owner, DefaultOwner)), nil)
		if rows, _ := answer["schedules"].([]any); e == nil && len(rows) > 0 {
			row, _ := rows[0].(map[string]any)
			name, _ = row["time_zone"].(string)
		}
	}
	if zone, err := ReadZone(url.Values{"time_zone": {name}}); err == nil {
		return zone
	}
	return time.UTC
}

// ShowWeek sends the page of the week that the address names by one of its
// days, else of this one.
func ShowWeek(v *Visit) {
	query := v.R.URL.Query()
	owner := query.Get("owner")
	zone := ZoneOf(v, owner)
	today := WeekOf(v.Now(), zone)
	week := today
	if text := query.Get("week"); text != "" {
		day, err := time.Parse(time.DateOnly, text)
		if err != nil || day.Year() < 1 || day.Year() > 9000 {
			v.Fault(ErrParameterFormat.With("week must be a date such as 2026-03-02; got %q.", text))
			return
		}
		week = WeekOf(day, time.UTC)
		week.Zone = zone
	}
	q := url.Values{"start_date": {week.Monday.Format(time.DateOnly)}, "end_date": {week.Day(6).Format(time.DateOnly)}, "time_zone": {zone.String()}, "limit": {fmt.Sprint(mostEvents)}}
	if owner != "" {
		q.Set("owner", owner)
	}
	answer, e := v.Call(http.MethodGet, "/admin/v1/events?"+q.Encode(), nil)
	if e != nil {
		v.Fault(e)
		return
	}
	rows, _ := answer["events"].([]any)
	page := week.page(v.Now(), rows, owner)
	count, _ := answer["count"].(float64)
	page.More = int(count) > len(rows)
	page.Zones, page.Owners = TimeZones(v), OwnerChoices(v)
	v.Show(http.StatusOK, "week", View{Title: "Calendar", Data: page})
}

// page lays a week's events out.
func (w Week) page(now time.Time, rows []any, owner string) weekPage {
	link := func(path string, pairs ...string) string {
		q := url.Values{"zone": {w.Zone.String()}}
		if owner != "" {
			q.Set("owner", owner)
		}
		for i := 0; i < len(pairs); i += 2 {
			q.Set(pairs[i], pairs[i+1])
		}
		return path + "?" + q.Encode()
	}
	date := func(t time.Time) string { return t.Format(time.DateOnly) }
	p := weekPage{
		Zone: w.Zone.String(), Owner: owner, Week: date(w.Monday), Events: len(rows), Title: w.Monday.Format("2 January") + " to " + w.Day(6).Format("2 January 2006"),
		Before: link("/calendar", "week", date(w.Day(-7))), After: link("/calendar", "week", date(w.Day(7))), Today: link("/calendar"),
		List: link("/calendar/events", "start_date", date(w.Monday), "end_date", date(w.Day(6))), New: link("/calendar/events/new"),
	}
	from, to := openHour*60, closeHour*60
	for n := range 7 {
		day := w.Day(n)
		d := weekDay{Name: day.Format("Mon"), Date: day.Format("2 Jan"), Today: date(day) == now.In(w.Zone).Format(time.DateOnly), New: link("/calendar/events/new", "start_time", date(day)+"T09:00", "end_time", date(day)+"T09:30")}
		parts := w.fill(&d, n, rows)
		for _, part := range parts {
			from, to = min(from, part.From/60*60), max(to, (min(part.To, MinutesOfDay)+59)/60*60)
		}
		p.Days = append(p.Days, d)
	}
	p.Height = to - from
	for i := range p.Days {
		for j := range p.Days[i].Blocks {
			p.Days[i].Blocks[j].Y -= from
		}
	}
	for hour := from / 60; hour <= to/60; hour++ {
		p.Hours = append(p.Hours, hourMark{hour*60 - from, fmt.Sprintf("%02d:00", hour)})
	}
	return p
}

// fill puts the events of a day into it.
func (w Week) fill(d *weekDay, n int, rows []any) (parts []Part) {
	for i, row := range rows {
		e, _ := row.(map[string]any)
		start, end := MomentOf(e["start_time"]), MomentOf(e["end_time"])
		part, ok := w.PartOn(n, start, end)
		if !ok {
			continue
		}
		block := w.block(e, start, end)
		d.List = append(d.List, block)
		if part.Before && part.After || end.Sub(start) >= MinutesOfDay*time.Minute {
			d.Long = append(d.Long, block)
			continue
		}
		part.Index = i
		parts = append(parts, part)
	}
	SideBySide(parts, leastMinutes)
	for _, part := range parts {
		e, _ := rows[part.Index].(map[string]any)
		block := w.block(e, MomentOf(e["start_time"]), MomentOf(e["end_time"]))
		width := 100 / float64(part.Lanes)
		block.X, block.Width = fmt.Sprintf("%.2f%%", width*float64(part.Lane)), fmt.Sprintf("%.2f%%", width)
		block.Y, block.Height = part.From, min(part.To, MinutesOfDay)-part.From
		d.Blocks = append(d.Blocks, block)
	}
	return parts
}

// MomentOf is a time that the admin endpoint tells of.
func MomentOf(v any) time.Time {
	text, _ := v.(string)
	t, _ := time.Parse(time.RFC3339, text) // zero for what is none; the admin endpoint writes times alone
	return t
}

func (w Week) block(e map[string]any, start, end time.Time) weekBlock {
	from, to := start.In(w.Zone), end.In(w.Zone)
	layout := "15:04"
	if end.Sub(start) >= MinutesOfDay*time.Minute {
		layout = "2 Jan 15:04"
	}
	return weekBlock{
		Title: Shown(e["title"]), Who: Shown(Member(e, "customer.name")), Status: Shown(e["status"]), When: from.Format(layout) + " to " + to.Format(layout),
		Href: "/calendar/events/" + Shown(e["id"]) + "?zone=" + url.QueryEscape(w.Zone.String()),
	}
}
