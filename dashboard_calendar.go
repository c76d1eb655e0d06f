package main

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"time"

	"latchkey/internal/clock"
)

// Week is seven days of a calendar, from a Monday on, in a time zone.
type Week struct {
	Monday time.Time // midnight of UTC that stands for the date
	Zone   *time.Location
}

// WeekOf gives the week of a moment.
func WeekOf(at time.Time, zone *time.Location) Week {
	local := at.In(zone)
	date := time.Date(local.Year(), local.Month(), local.Day(), 0, 0, 0, 0, time.UTC)
	return Week{date.AddDate(0, 0, -(int(date.Weekday())+6)%7), zone}
}

// Day is the date of a day of the week, Monday being 0, as Monday is one.
func (w Week) Day(n int) time.Time { return w.Monday.AddDate(0, 0, n) }

// Part is the part of something on one day, in minutes of that day's wall
// clock, and where it stands beside others at the same time: in which lane of
// how many.
type Part struct {
	From, To    int
	Lane, Lanes int
	Index       int // of what it is a part of
	Before      bool
	After       bool // it began before the day, goes on after it
}

// MinutesOfDay is the length of a day's grid. On a day that is an hour longer
// or shorter the wall clock still goes from 0 to 24.
const MinutesOfDay = 24 * 60

// PartOn gives the part of a span on a day of the week; none where ok is false.
func (w Week) PartOn(n int, start, end time.Time) (p Part, ok bool) {
	day := w.Day(n)
	first, last := clock.Instant(day, 0, w.Zone, false), clock.Instant(day, MinutesOfDay, w.Zone, false)
	if !start.Before(last) || !end.After(first) {
		return p, false
	}
	p.To = MinutesOfDay
	if p.Before = start.Before(first); !p.Before {
		p.From = clockMinutes(start.In(w.Zone))
	}
	if p.After = end.After(last); end.Before(last) {
		p.To = clockMinutes(end.In(w.Zone))
	}
	return p, true
}

func clockMinutes(t time.Time) int { return t.Hour()*60 + t.Minute() }

// SideBySide puts the parts of a day into lanes, so that none hides another,
// in the order of their beginning. Each is taken to be at least so many
// minutes long, which is what it needs to be seen.
func SideBySide(parts []Part, least int) {
	slices.SortStableFunc(parts, func(a, b Part) int { return cmp.Or(a.From-b.From, b.To-a.To) })
	for begin := 0; begin < len(parts); {
		// A group ends where one begins after all before it have ended.
		var ends []int // of the last in each lane
		end := begin
		for latest := 0; end < len(parts) && (end == begin || parts[end].From < latest); end++ {
			p := &parts[end]
			p.To = max(p.To, p.From+least)
			p.Lane = slices.IndexFunc(ends, func(to int) bool { return to <= p.From })
			if p.Lane < 0 {
				p.Lane, ends = len(ends), append(ends, 0)
			}
			ends[p.Lane] = p.To
			latest = max(latest, p.To)
		}
		for i := begin; i < end; i++ {
			parts[i].Lanes = len(ends)
		}
		begin = end
	}
}

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

// EventPages are the pages of the calendar: its weeks and its events. Times on
// them are in the time zone that the address names.
type EventPages struct{ apiURL func() string }

// NewEventPages makes the pages; apiURL gives where clients reach the API.
func NewEventPages(apiURL func() string) EventPages { return EventPages{apiURL} }

// Sections is the entry of the navigation.
func (p EventPages) Sections() []Section { return []Section{{"Data", "Calendar", "/calendar"}} }

// Pages lists the pages.
func (p EventPages) Pages() map[string]func(*Visit) {
	pages := map[string]func(*Visit){"GET /calendar": ShowWeek, "POST /calendar/events/{id}/cancel": p.cancel}
	for pattern := range p.records(time.UTC).Pages() {
		pages[pattern] = func(v *Visit) { p.records(ZoneOf(v, "")).Pages()[pattern](v) }
	}
	return pages
}

func (p EventPages) records(zone *time.Location) *Records {
	name := zone.String()
	return &Records{
		Section: Section{"Data", "Events", "/calendar/events"}, One: "event", API: "events", Rows: "events", CalledBy: "title", Page: "event",
		About: "Of 30 days from today, unless other days are named; times are of " + name + ".", Empty: "No event in these days.",
		Links: []Link{{"Week", "/calendar?zone=" + url.QueryEscape(name)}}, Query: url.Values{"zone": {name}},
		Always: url.Values{"time_zone": {name}},
		Columns: []Column{
			{Head: "Title", Member: "title", Kind: CellName, Sub: "customer.name"}, {Head: "Start", Member: "start_time", Kind: CellTime, Zone: zone}, {Head: "Minutes", Member: "duration_minutes", Kind: CellNumber},
			{Head: "Status", Member: "status", Kind: CellState}, {Head: "Type", Member: "event_type"}, {Head: "Agent", Member: "ai_agent.name"}, {Head: "Owner", Member: "owner"},
		},
		Filters: []Field{
			{Name: "zone", Kind: FieldHidden, Usual: name},
			{Name: "start_date", Label: "From", Kind: FieldDate}, {Name: "end_date", Label: "To", Kind: FieldDate},
			{Name: "status", Label: "Status", Kind: FieldSelect, Blank: "any", Choices: Words(EventStates()...)}, OwnerFilter(),
		},
		Facts: []Column{
			{Head: "Start", Member: "start_time", Kind: CellTime, Zone: zone}, {Head: "End", Member: "end_time", Kind: CellTime, Zone: zone}, {Head: "Minutes", Member: "duration_minutes"},
			{Head: "Type", Member: "event_type_display"}, {Head: "Location", Member: "location"}, {Head: "Video", Member: "video_conference_url", Kind: CellURL, Sub: "video_conference_provider"},
			{Head: "Agent", Member: "ai_agent.name", To: "/agents/", By: "ai_agent.id"}, {Head: "Customer", Member: "customer.name"}, {Head: "Mail", Member: "customer.email"}, {Head: "Number", Member: "customer.phone"},
			{Head: "Owner", Member: "owner"}, {Head: "Team", Member: "team"}, {Head: "Description", Member: "description", Kind: CellLong}, {Head: "Notes", Member: "customer.notes", Kind: CellLong},
			{Head: "UUID", Member: "uuid", Kind: CellMono}, {Head: "Changed", Member: "updated_at", Kind: CellTime, Zone: zone},
		},
		Fields: eventFields(zone), More: p.more,
	}
}

func eventFields(zone *time.Location) []Field {
	name := zone.String()
	customer := func(name, label, kind string) Field {
		return Field{Name: "customer_" + name, Label: label, Kind: kind, From: "customer." + name}
	}
	agent, team := AgentField("ai_agent_id"), TeamField()
	agent.From, team.From = "ai_agent.id", "team.id"
	return []Field{
		{Name: "zone", Kind: FieldHidden, Usual: name},
		{Name: "title", Label: "Title", Kind: FieldText, Needed: true, Wide: true},
		{Name: "start_time", Label: "Start", Kind: FieldTime, Needed: true, Zone: zone, Hint: "time of " + name}, {Name: "end_time", Label: "End", Kind: FieldTime, Needed: true, Zone: zone, Hint: "time of " + name},
		{Name: "event_type", Label: "Type", Kind: FieldSelect, Needed: true, Choices: Words(EventKinds()...)},
		{Name: "status", Label: "Status", Kind: FieldSelect, Needed: true, Make: true, Choices: Words(EventStates()[:2]...)},
		{Name: "status", Label: "Status", Kind: FieldSelect, Needed: true, Change: true, Choices: Words(EventStates()...)},
		{Name: "location", Label: "Location", Kind: FieldText}, OwnerField(true), agent, team,
		customer("name", "Customer", FieldText), customer("email", "Mail", FieldEmail), customer("phone", "Number", FieldTel),
		{Name: "has_video_conference", Label: "Video conference", Kind: FieldCheck},
		{Name: "video_conference_url", Label: "Its address", Kind: FieldText}, {Name: "video_conference_provider", Label: "Its provider", Kind: FieldText},
		{Name: "is_reminder_enabled", Label: "Reminder", Kind: FieldCheck, Usual: "yes", Hint: "webhooks are told ahead of the event"},
		{Name: "remind_before_minutes", Label: "Minutes ahead", Kind: FieldNumber, Usual: "60"},
		{Name: "description", Label: "Description", Kind: FieldArea}, customer("notes", "Notes", FieldArea),
	}
}

// eventPage is what the page of an event has besides.
type eventPage struct {
	Week string // address of its week
	Zone string
	Live bool // it can be cancelled
}

func (p EventPages) more(v *Visit, page *RecordPage) *Error {
	zone := ZoneOf(v, "")
	start := MomentOf(page.Record["start_time"])
	week := url.Values{"week": {start.In(zone).Format(time.DateOnly)}, "zone": {zone.String()}}
	page.Extra = eventPage{Week: "/calendar?" + week.Encode(), Zone: zone.String(), Live: page.Record["status"] != EventCancelled}
	if path, _ := page.Record["ics_url"].(string); path != "" {
		address := p.apiURL() + path
		page.Shown = append(page.Shown, PageCell{Head: "iCalendar file", Text: address, Kind: CellURL, Href: WebAddress(address)})
	}
	return nil
}

// cancel calls an event off.
func (p EventPages) cancel(v *Visit) {
	form, ok := v.Form()
	if !ok {
		return
	}
	records := p.records(ZoneOf(v, ""))
	if _, e := v.Call(http.MethodPost, records.At(v, "/cancel"), map[string]any{"reason": form.Get("reason")}); e != nil {
		records.Show(v, e, nil)
		return
	}
	http.Redirect(v.W, v.R, records.Here(v, "cancelled"), http.StatusSeeOther)
}
