package dashboard

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"latchkey/internal/clock"
	"latchkey/internal/sorted"
)

// calendarWeek is a week in a time zone, from Monday to Sunday.
type calendarWeek struct {
	Monday time.Time // the date, as midnight UTC in every zone
	Zone   *time.Location
}

// weekOf returns the week in zone that contains the time at.
func weekOf(at time.Time, zone *time.Location) calendarWeek {
	local := at.In(zone)
	date := time.Date(local.Year(), local.Month(), local.Day(), 0, 0, 0, 0, time.UTC)
	return calendarWeek{date.AddDate(0, 0, -(int(date.Weekday())+6)%7), zone}
}

// day returns the date of day n as midnight UTC. Day 0 is Monday.
func (w calendarWeek) day(n int) time.Time { return w.Monday.AddDate(0, 0, n) }

// dayPart is the part of an event that is on one day. From and To are clock times in minutes after
// midnight. The page draws the part in lane Lane of Lanes lanes. Lanes are counted from 0.
type dayPart struct {
	From, To    int
	Lane, Lanes int
	Index       int  // of the event in the list of the week's events
	Before      bool // the event begins before the day
	After       bool // the event ends after the day
}

// minutesOfDay is the height of a day's grid. It is also used for days of 23 or 25 hours, because
// the clock still runs from 0 to 24.
const minutesOfDay = 24 * 60

// partOn returns the part of an event on day n of the week. It returns false if the event is not on
// that day.
func (w calendarWeek) partOn(n int, start, end time.Time) (p dayPart, ok bool) {
	day := w.day(n)
	first, last := clock.Instant(day, 0, w.Zone), clock.LastInstant(day, minutesOfDay, w.Zone)
	if !start.Before(last) || !end.After(first) {
		return p, false
	}
	p.To = minutesOfDay
	if p.Before = start.Before(first); !p.Before {
		p.From = clockMinutes(start.In(w.Zone))
	}
	if p.After = end.After(last); end.Before(last) {
		p.To = clockMinutes(end.In(w.Zone))
	}
	return p, true
}

// clockMinutes returns the clock time of t in minutes after midnight.
func clockMinutes(t time.Time) int { return t.Hour()*60 + t.Minute() }

// sideBySide sorts the parts of one day by their start and sets their lanes, so that no part hides
// another. It extends each part to at least minMinutes, so that it can be seen. Its end may then be
// after midnight.
func sideBySide(parts []dayPart, minMinutes int) {
	sorted.StableFunc(parts, func(a, b dayPart) int { return cmp.Or(a.From-b.From, b.To-a.To) })
	for begin := 0; begin < len(parts); {
		// A group is a run of parts that overlap. All its parts have equal width.
		var ends []int // the end of the last part in each lane
		end := begin
		for latest := 0; end < len(parts) && (end == begin || parts[end].From < latest); end++ {
			p := &parts[end]
			p.To = max(p.To, p.From+minMinutes)
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

// weekPage is the data of the page of a week.
type weekPage struct {
	Days              []weekDay
	Hours             []hourMark
	Height            int // height of the grid, in minutes
	Title             string
	Zone, Owner       string
	Before, After     string // addresses of the previous and the next week
	Today, List, New  string
	Zones, Owners     []choice
	Week              string
	Events, Cancelled int
	More              bool // the week has more events than the page shows
}

// weekDay is one day on the page of a week. Blocks are the events in the grid. Long are the events
// that fill the day or last for 24 hours.
type weekDay struct {
	Name, Date, New string
	Today, Past     bool
	Blocks          []weekBlock
	Long            []weekBlock
	List            []weekBlock // all events of the day, for narrow screens
}

// weekBlock is an event on a day of the page. Y and Height are in minutes. X and Width are
// percentages of the width of the day.
type weekBlock struct {
	Title, Who, When, Status, Href string
	X, Width                       string
	Y, Height                      int
}

// hourMark is a line of the grid at a full hour. Y is in minutes from the top of the grid.
type hourMark struct {
	Y    int
	Text string
}

const (
	minMinutes = 28   // minimum height of an event, so that its title is readable
	maxEvents  = 1000 // maximum number of events on the page of a week
	openHour   = 7    // hour at which the grid begins, unless an event begins earlier
	closeHour  = 20   // hour at which the grid ends, unless an event ends later
)

// zoneName returns the time zone in the form of a page, or in its address. It returns "" if there
// is none.
func zoneName(v *pageRequest) string {
	if v.R.Method == http.MethodPost {
		return v.R.PostFormValue("zone") // the times in a form are those of its zone
	}
	return v.query.Get("zone")
}

// zoneOf returns the time zone of a page: the one of zoneName, or otherwise that of the owner's
// schedule. If there is neither, or if the name is unknown, it is UTC. owner "" means the default
// owner.
func zoneOf(v *pageRequest, owner string) *time.Location {
	name := zoneName(v)
	if name == "" {
		answer, e := v.call(http.MethodGet, "/admin/v1/schedules?limit=1&owner="+url.QueryEscape(cmp.Or(owner, defaultOwner)), nil)
		if rows, _ := answer["schedules"].([]any); e == nil && len(rows) > 0 {
			row, _ := rows[0].(map[string]any)
			name, _ = row["time_zone"].(string)
		}
	}
	if zone, err := clock.Zone(name); err == nil {
		return zone
	}
	return time.UTC
}

// checkZone returns a Fault if zoneName is not the name of a time zone.
func checkZone(v *pageRequest) *Fault {
	name := zoneName(v)
	if _, err := clock.Zone(name); name != "" && err != nil {
		return invalid("zone must be an IANA name such as Europe/Berlin; got %q.", name)
	}
	return nil
}

// showWeek shows the page of a week. The parameter "week" in the address is the date of any day in
// it. Without that parameter, the page shows the current week.
func showWeek(v *pageRequest) {
	query := v.query
	if fault := checkZone(v); fault != nil {
		v.showFault(fault)
		return
	}
	owner := query.Get("owner")
	zone := zoneOf(v, owner)
	today := weekOf(v.now(), zone)
	week := today
	if text := query.Get("week"); text != "" {
		day, err := clock.ParseDate(text)
		if err != nil || day.Year() > 9000 {
			v.showFault(invalid("week must be a date such as 2026-03-02; got %q.", text))
			return
		}
		week = weekOf(day, time.UTC)
		week.Zone = zone
	}
	q := url.Values{"start_date": {week.Monday.Format(time.DateOnly)}, "end_date": {week.day(6).Format(time.DateOnly)}, "time_zone": {zone.String()}, "limit": {fmt.Sprint(maxEvents)}}
	if owner != "" {
		q.Set("owner", owner)
	}
	answer, e := v.call(http.MethodGet, "/admin/v1/events?"+q.Encode(), nil)
	if e != nil {
		v.showFault(e)
		return
	}
	rows, _ := answer["events"].([]any)
	page := week.page(v.now(), rows, owner)
	count := numberOf(answer["count"])
	page.More = int(count) > len(rows)
	page.Zones, page.Owners = timeZones(v), ownerChoices(v)
	v.show(http.StatusOK, "week", view{Title: "Calendar", Data: page})
}

// page returns the data of the page of a week. rows are the events of that week.
func (w calendarWeek) page(now time.Time, rows []any, owner string) weekPage {
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
		Zone: w.Zone.String(), Owner: owner, Week: date(w.Monday), Events: len(rows), Title: w.Monday.Format("2 January") + " to " + w.day(6).Format("2 January 2006"),
		Before: link("/calendar", "week", date(w.day(-7))), After: link("/calendar", "week", date(w.day(7))), Today: link("/calendar"),
		List: link("/calendar/events", "start_date", date(w.Monday), "end_date", date(w.day(6))), New: link("/calendar/events/new"),
	}
	events := w.events(rows)
	from, to, today := openHour*60, closeHour*60, date(now.In(w.Zone))
	for n := range 7 {
		day := w.day(n)
		d := weekDay{Name: day.Format("Mon"), Date: day.Format("2 Jan"), Today: date(day) == today, Past: date(day) < today, New: link("/calendar/events/new", "start_time", date(day)+"T09:00", "end_time", date(day)+"T09:30")}
		parts := w.fill(&d, n, events)
		for _, part := range parts {
			from, to = min(from, part.From/60*60), max(to, (min(part.To, minutesOfDay)+59)/60*60)
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

// weekEvent is an event of the week. The page shows it on each of its days.
type weekEvent struct {
	Start, End time.Time
	Block      weekBlock // without the place
}

// events returns the events in rows.
func (w calendarWeek) events(rows []any) []weekEvent {
	list := make([]weekEvent, 0, len(rows))
	for _, row := range rows {
		e, _ := row.(map[string]any)
		start, end := momentOf(e["start_time"]), momentOf(e["end_time"])
		list = append(list, weekEvent{start, end, w.block(e, start, end)})
	}
	return list
}

// fill adds the events on day n to d and returns the parts that are in the grid.
func (w calendarWeek) fill(d *weekDay, n int, events []weekEvent) (parts []dayPart) {
	for i := range events {
		e := &events[i]
		part, ok := w.partOn(n, e.Start, e.End)
		if !ok {
			continue
		}
		d.List = append(d.List, e.Block)
		if part.Before && part.After || e.End.Sub(e.Start) >= minutesOfDay*time.Minute {
			d.Long = append(d.Long, e.Block)
			continue
		}
		part.Index = i
		parts = append(parts, part)
	}
	sideBySide(parts, minMinutes)
	for _, part := range parts {
		block := events[part.Index].Block
		width := 100 / float64(part.Lanes)
		block.X, block.Width = percent(width*float64(part.Lane)), percent(width)
		block.Y, block.Height = part.From, min(part.To, minutesOfDay)-part.From
		d.Blocks = append(d.Blocks, block)
	}
	return parts
}

// percent returns a part of the width of a day.
func percent(n float64) string { return strconv.FormatFloat(n, 'f', 2, 64) + "%" }

// momentOf parses a time of the admin endpoint. It returns the zero time if v is not a time.
func momentOf(v any) time.Time {
	text, _ := v.(string)
	t, _ := clock.ParseTime(text) // t is zero after an error
	return t
}

func (w calendarWeek) block(e map[string]any, start, end time.Time) weekBlock {
	from, to := start.In(w.Zone), end.In(w.Zone)
	layout := "15:04"
	if end.Sub(start) >= minutesOfDay*time.Minute {
		layout = "2 Jan 15:04"
	}
	return weekBlock{
		Title: textOf(e["title"]), Who: textOf(memberOf(e, "customer.name")), Status: textOf(e["status"]), When: from.Format(layout) + " to " + to.Format(layout),
		Href: "/calendar/events/" + textOf(e["id"]) + "?zone=" + url.QueryEscape(w.Zone.String()),
	}
}

// eventPages are the pages of the calendar: the weeks and the events. They show times in the zone
// that zoneOf returns.
type eventPages struct{ apiURL func() string }

// newEventPages returns the pages. apiURL is a function that returns the URL of the API.
func newEventPages(apiURL func() string) eventPages { return eventPages{apiURL} }

func (p eventPages) sections() []section { return []section{{"Data", "Calendar", "/calendar"}} }

func (p eventPages) pages() map[string]page {
	pages := map[string]page{
		"GET /calendar": {"GET /admin/v1/events", showWeek}, "POST /calendar/events/{id}/cancel": {"POST /admin/v1/events/:id/cancel", p.cancel},
	}
	for pattern, records := range p.records(time.UTC).pages() {
		pages[pattern] = page{records.Needs, func(v *pageRequest) {
			if fault := checkZone(v); fault != nil {
				v.showFault(fault)
				return
			}
			p.records(zoneOf(v, "")).pages()[pattern].Serve(v)
		}}
	}
	return pages
}

func (p eventPages) records(zone *time.Location) *recordPages {
	name := zone.String()
	return &recordPages{
		section: section{"Data", "Events", "/calendar/events"}, One: "event", API: "events", Rows: "events", TitleField: "title", Page: "event",
		About: "The next 30 days, or the days chosen below. The time zone is " + name + ".", Empty: "No events on these days.",
		Links: []pageLink{{"Week", "/calendar?zone=" + url.QueryEscape(name)}}, Query: url.Values{"zone": {name}},
		Always: url.Values{"time_zone": {name}},
		Columns: []column{
			{Head: "Title", Member: "title", Kind: cellName, Sub: "customer.name"}, {Head: "Start", Member: "start_time", Kind: cellTime, Zone: zone}, {Head: "Minutes", Member: "duration_minutes", Kind: cellNumber},
			{Head: "Status", Member: "status", Kind: cellState}, {Head: "Type", Member: "event_type"}, {Head: "Agent", Member: "ai_agent.name"}, {Head: "Owner", Member: "owner"},
		},
		Filters: []formField{
			{Name: "zone", Kind: fieldHidden, Usual: name},
			{Name: "start_date", Label: "From", Kind: fieldDate}, {Name: "end_date", Label: "To", Kind: fieldDate},
			{Name: "status", Label: "Status", Kind: fieldSelect, Blank: "any", Choices: words(Vocabulary().EventStates...)}, ownerFilter(),
		},
		Facts: []column{
			{Head: "Start", Member: "start_time", Kind: cellTime, Zone: zone}, {Head: "End", Member: "end_time", Kind: cellTime, Zone: zone}, {Head: "Minutes", Member: "duration_minutes"},
			{Head: "Type", Member: "event_type_display"}, {Head: "Location", Member: "location"}, {Head: "Video", Member: "video_conference_url", Kind: cellURL, Sub: "video_conference_provider"},
			{Head: "Agent", Member: "ai_agent.name", To: "/agents/", By: "ai_agent.id"}, {Head: "Customer", Member: "customer.name"}, {Head: "Email", Member: "customer.email"}, {Head: "Number", Member: "customer.phone"},
			{Head: "Owner", Member: "owner"}, {Head: "Team", Member: "team"}, {Head: "Description", Member: "description", Kind: cellLong}, {Head: "Notes", Member: "customer.notes", Kind: cellLong},
			{Head: "UUID", Member: "uuid", Kind: cellMono}, {Head: "Changed", Member: "updated_at", Kind: cellTime, Zone: zone},
		},
		Fields: eventFields(zone), More: p.more,
	}
}

func eventFields(zone *time.Location) []formField {
	name := zone.String()
	customer := func(name, label, kind string) formField {
		return formField{Name: "customer_" + name, Label: label, Kind: kind, From: "customer." + name}
	}
	agent, team := agentField("ai_agent_id"), teamField()
	agent.From, team.From = "ai_agent.id", "team.id"
	return []formField{
		{Name: "zone", Kind: fieldHidden, Usual: name},
		{Name: "title", Label: "Title", Kind: fieldText, Needed: true, Wide: true},
		{Name: "start_time", Label: "Start", Kind: fieldTime, Needed: true, Zone: zone, Hint: "time of " + name}, {Name: "end_time", Label: "End", Kind: fieldTime, Needed: true, Zone: zone, Hint: "time of " + name},
		{Name: "event_type", Label: "Type", Kind: fieldSelect, Needed: true, Choices: words(Vocabulary().EventTypes...)},
		{Name: "status", Label: "Status", Kind: fieldSelect, Needed: true, Make: true, Choices: words(Vocabulary().EventStates[:2]...)},
		{Name: "status", Label: "Status", Kind: fieldSelect, Needed: true, Change: true, Choices: words(Vocabulary().EventStates...)},
		{Name: "location", Label: "Location", Kind: fieldText}, newOwnerField(), agent, team,
		customer("name", "Customer", fieldText), customer("email", "Email", fieldEmail), customer("phone", "Number", fieldTel),
		{Name: "has_video_conference", Label: "Video conference", Kind: fieldCheck},
		{Name: "video_conference_url", Label: "Its URL", Kind: fieldText}, {Name: "video_conference_provider", Label: "Its provider", Kind: fieldText},
		{Name: "is_reminder_enabled", Label: "Reminder", Kind: fieldCheck, Usual: "yes", Hint: "send an event to webhooks before it begins"},
		{Name: "remind_before_minutes", Label: "Minutes ahead", Kind: fieldNumber, Usual: "60"},
		{Name: "description", Label: "Description", Kind: fieldArea}, customer("notes", "Notes", fieldArea),
	}
}

// eventPage is what the page of an event shows besides the record.
type eventPage struct {
	Week string // address of the page of its week
	Zone string
	Live bool // the event can be cancelled
}

func (p eventPages) more(v *pageRequest, page *recordPage) *Fault {
	zone := zoneOf(v, "")
	start := momentOf(page.Record["start_time"])
	week := url.Values{"week": {start.In(zone).Format(time.DateOnly)}, "zone": {zone.String()}}
	page.Extra = eventPage{Week: "/calendar?" + week.Encode(), Zone: zone.String(), Live: page.Record["status"] != eventCancelled}
	if path, _ := page.Record["ics_url"].(string); path != "" {
		address := p.apiURL() + path
		page.FactCells = append(page.FactCells, pageCell{Head: "iCalendar file", Text: address, Kind: cellURL, Href: webAddress(address)})
	}
	return nil
}

func (p eventPages) cancel(v *pageRequest) {
	form, ok := v.form()
	if !ok {
		return
	}
	records := p.records(zoneOf(v, ""))
	if _, e := v.call(http.MethodPost, records.at(v, "/cancel"), map[string]any{"reason": form.Get("reason")}); e != nil {
		records.showRecord(v, e, nil)
		return
	}
	http.Redirect(v.W, v.R, records.here(v, "cancelled"), http.StatusSeeOther)
}
