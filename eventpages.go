package main

import (
	"net/http"
	"net/url"
	"time"
)

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
