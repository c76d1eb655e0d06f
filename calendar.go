// The calendar family holds calendar events and availability. Read
// calendar_event.go first (the event, its table, its form and its iCalendar
// text), then calendar.go (the endpoints) and calendar_availability.go
// (schedules and free slots).

package main

import (
	"errors"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"latchkey/internal/clock"
)

// calendar serves the API endpoints for calendar events.
type calendar struct {
	store   *Store
	limiter *Limiter
}

// NewCalendar returns the API endpoints for the events in store. Each new event
// uses one unit of the limit EventsPerDay.
func NewCalendar(store *Store, limiter *Limiter) *calendar { return &calendar{store, limiter} }

// Routes returns the API endpoints for events.
func (c *calendar) Routes() []Route {
	const path = "/api/v1/calendar/events"
	return []Route{
		{Method: "GET", Path: path, Permission: ReadCalendar, Handle: c.list},
		{Method: "GET", Path: path + "/:event_id", Permission: ReadCalendar, Handle: c.get, Object: eventExists},
		{Method: "POST", Path: path + "/create", Permission: WriteCalendar, Handle: c.create, Spends: EventsPerDay},
		{Method: "PUT", Path: path + "/:event_id/update", Permission: WriteCalendar, Handle: c.update, Object: eventExists},
		{Method: "PATCH", Path: path + "/:event_id/update", Permission: WriteCalendar, Handle: c.update, Object: eventExists},
		{Method: "POST", Path: path + "/:event_id/cancel", Permission: WriteCalendar, Handle: c.cancel, Finishes: true, Object: eventExists},
	}
}

// dateRange is a range of whole days in a time zone. The days First and Last
// are part of the range.
type dateRange struct {
	First, Last time.Time // dates; each is midnight in UTC, not in Zone
	Zone        *time.Location
}

// readDates returns the range from start_date to end_date of a query (contract
// 7.1, 7.6). start_date defaults to today in zone. end_date defaults to the
// date that is days after start_date, but at most to the last date of the year 9999. readDates returns ErrParameterFormat if a
// date is malformed or end_date is before start_date.
func readDates(q url.Values, days int, zone *time.Location, now time.Time) (d dateRange, err error) {
	today := now.In(zone)
	d = dateRange{First: time.Date(today.Year(), today.Month(), today.Day(), 0, 0, 0, 0, time.UTC), Zone: zone}
	read := func(name string, into *time.Time) error {
		text := q.Get(name)
		if text == "" {
			return nil
		}
		t, err := clock.ParseDate(text)
		if err != nil {
			return ErrParameterFormat.With("%s must be a date such as 2026-03-02; got %q.", name, text)
		}
		*into = t
		return nil
	}
	if err := read("start_date", &d.First); err != nil {
		return d, err
	}
	if d.Last = d.First.AddDate(0, 0, days); d.Last.After(clock.LastDate) {
		d.Last = clock.LastDate
	}
	if err := read("end_date", &d.Last); err != nil {
		return d, err
	}
	if d.Last.Before(d.First) {
		return d, ErrParameterFormat.With("end_date is before start_date.")
	}
	return d, nil
}

// Bounds returns the first instant of the range and the first instant after the
// range.
func (d dateRange) Bounds() (from, to time.Time) {
	return clock.Instant(d.First, 0, d.Zone), clock.LastInstant(d.Last, 24*60, d.Zone)
}

func (c *calendar) list(w http.ResponseWriter, r *Request) error {
	q, err := r.Query("page", "limit", "start_date", "end_date", "status")
	if err != nil {
		return err
	}
	page, err := ReadPage(q, 10, 100)
	if err != nil {
		return err
	}
	filters, err := statusFilter(q.Get("status"))
	if err != nil {
		return err
	}
	rows, count := []any{}, 0
	err = r.View(c.store, func(tx *Tx) error {
		scope, err := ScopeOfKey(tx, r.Key)
		if err != nil {
			return err
		}
		schedule, err := scheduleOf(tx, r.Key.Owner)
		if err != nil {
			return err
		}
		dates, err := readDates(q, 30, schedule.Zone(), r.Now)
		if err != nil {
			return err
		}
		from, to := dates.Bounds()
		query := scope.Query(EventRecord, eventQuery(r, from, to, filters...))
		events, n, err := appointmentTable.Page(tx, query, page.Bounds)
		count = n
		for _, e := range events {
			rows = append(rows, e.Row(tx, scope))
		}
		return err
	})
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, page.Answer(count, "events", rows))
}

// own returns the event in the request path and the scope of the key. It
// returns ErrNotFound if there is no such event or if the scope does not
// include it.
func (c *calendar) own(tx *Tx, r *Request) (event, Scope, error) {
	return eventOf(tx, r.Key, r.Params.ByName("event_id"))
}

// eventOf returns the event whose id or UUID is ref, like own.
func eventOf(tx *Tx, key *Key, ref string) (event, Scope, error) {
	scope, err := ScopeOfKey(tx, key)
	if err != nil {
		return event{}, scope, err
	}
	e, err := findEvent(tx, ref)
	if err == nil && !scope.Has(e.place()) {
		err = ErrNotFound
	}
	return e, scope, err
}

// eventExists is the Route.Object of routes with the id of an event.
func eventExists(tx *Tx, key *Key, ref string) error {
	_, _, err := eventOf(tx, key, ref)
	return err
}

func (c *calendar) get(w http.ResponseWriter, r *Request) error {
	var shown map[string]any
	err := c.store.View(func(tx *Tx) error {
		e, scope, err := c.own(tx, r)
		if err != nil {
			return err
		}
		shown = e.Detail(tx, scope)
		return nil
	})
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, shown)
}

// checkLinks returns nil if the owner of scope may use the agent and the team
// of the event. An event without agent or team is allowed. checkLinks returns
// ErrAgentNotFound, ErrTeamNotFound or ErrTeamAccess if not.
func checkLinks(tx *Tx, scope Scope, e event) error {
	if e.AgentID != 0 {
		if _, err := FindAgent(tx, scope, strconv.FormatUint(e.AgentID, 10)); err != nil {
			return err
		}
	}
	return CheckTeam(tx, scope, e.TeamID)
}

// brief returns the answer to a request that has created or changed the event e
// (contract 7.3, 7.4).
func brief(e event, message string) map[string]any {
	return map[string]any{
		"id": e.ID, "uuid": e.UUID, "title": e.Title, "start_time": Millis(e.Start), "end_time": Millis(e.End), "status": e.Status, "message": message,
	}
}

// referEvent returns the error of checkLinks for a new event of a key, or ErrPermission if the key would not see the
// event.
func referEvent(tx *Tx, key *Key, e event) error {
	scope, err := ScopeOfKey(tx, key)
	if err == nil {
		err = checkLinks(tx, scope, e)
	}
	if err == nil {
		err = scope.CheckStored(e.place())
	}
	return err
}

// create stores an event and charges the limit EventsPerDay. Both happen in one
// transaction, so a refused event uses no unit of the limit.
func (c *calendar) create(w http.ResponseWriter, r *Request) error {
	body, err := r.ReadBody()
	if err != nil {
		return err
	}
	e, err := readEvent(body, http.MethodPost, event{Owner: r.Key.Owner, CreatedAt: r.Now})
	if err != nil {
		return err
	}
	var standings []LimitStatus
	var seen func(*Tx) error
	if r.Key.Resources != nil { // otherwise it would be allocated for every request
		seen = func(tx *Tx) error { return referEvent(tx, r.Key, e) }
	}
	return Once(w, r, Creation{c.store, "events", http.StatusCreated, body, seen}, func(tx *Tx) (any, error) {
		if err := referEvent(tx, r.Key, e); err != nil {
			return nil, err
		}
		if standings, err = c.limiter.SpendIn(tx, r.Key.Charge(nil, EventsPerDay, 1), r.Steady); err != nil {
			return nil, err
		}
		tx.After(func() { r.SetLimits(standings) })
		made := e
		made.UpdatedAt = r.Now
		if made, err = saveEvent(tx, made); err != nil {
			return nil, err
		}
		answer := brief(made, "Created.")
		answer["ics_url"] = made.ICSPath()
		return answer, publishEvent(tx, eventNotice{Type: "calendar.created", Event: made, At: r.Now})
	})
}

// update replaces all fields of an event (PUT) or changes only the fields in
// the body (PATCH).
func (c *calendar) update(w http.ResponseWriter, r *Request) error {
	body, err := r.ReadBody()
	if err != nil {
		return err
	}
	// Other members could add any number of bytes each time, so only a bare status ends an event.
	r.Finishes = body.Only("status", `"cancelled"`, `"completed"`, `"no_show"`)
	var e event
	err = r.Update(c.store, func(tx *Tx) error {
		before, scope, err := c.own(tx, r)
		if err != nil {
			return err
		}
		if e, err = readEvent(body, r.Method, before); err != nil {
			return err
		}
		if e.AgentID != before.AgentID || e.TeamID != before.TeamID {
			if err := checkLinks(tx, scope, e); err != nil {
				return err
			}
		}
		if err := scope.CheckStored(e.place()); err != nil {
			return err
		}
		e.UpdatedAt = r.Now
		if e, err = saveEvent(tx, e); err != nil {
			return err
		}
		return publishChange(tx, before, e, r.Now)
	})
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, brief(e, "Updated."))
}

// readReason returns the reason in the body of a cancellation. It returns "" if
// the body is empty or has no reason.
func readReason(r *Request) (reason string, err error) {
	body, err := r.ReadOptionalFields(OnlyFields("reason"))
	if err != nil {
		return "", err
	}
	body.String("reason", ReasonLength, &reason)
	return reason, body.Err()
}

// cancelEvent cancels an event, stores it and publishes calendar.cancelled. It
// adds the reason to the customer notes as far as they have room for it, unless
// reason is "". If the event is already cancelled, it changes and publishes nothing (contract 7.5). It
// returns the stored event.
func cancelEvent(tx *Tx, e event, reason string, now time.Time) (event, error) {
	if e.Status == eventCancelled {
		return e, nil
	}
	e.Status, e.UpdatedAt = eventCancelled, now
	more := map[string]any{}
	if reason != "" {
		line := "Cancelled: " + reason
		if e.CustomerNotes != "" {
			line = "\n" + line
		}
		e.CustomerNotes = AppendText(e.CustomerNotes, line, NoteLength)
		more["cancellation_reason"] = reason
	}
	e, err := saveEvent(tx, e)
	if err != nil {
		return e, err
	}
	return e, publishEvent(tx, eventNotice{Type: "calendar.cancelled", Event: e, At: now, More: more})
}

// cutReason returns at most the first 200 bytes of a reason, with a mark if it is longer.
func cutReason(reason string) string {
	const most = 200
	if len(reason) <= most {
		return reason
	}
	return strings.ToValidUTF8(reason[:most], "") + " [cut]"
}

func (c *calendar) cancel(w http.ResponseWriter, r *Request) error {
	reason, err := readReason(r)
	if err != nil {
		return err
	}
	var e event
	cancel := func() error {
		return r.Update(c.store, func(tx *Tx) (err error) {
			if e, _, err = c.own(tx, r); err != nil {
				return err
			}
			e, err = cancelEvent(tx, e, reason, r.Now)
			return err
		})
	}
	// A long reason is cut if there is no space for it. Otherwise an owner whose storage is full could
	// still store any number of bytes.
	short := cutReason(reason)
	r.Finishes = short == reason
	if err = cancel(); !r.Finishes && (errors.Is(err, ErrStorageFull) || errors.Is(err, ErrDiskLow)) {
		reason, r.Finishes = short, true
		err = cancel()
	}
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, map[string]any{"id": e.ID, "uuid": e.UUID, "status": e.Status, "message": "Cancelled."})
}

// publishChange publishes the webhook event for the change from before to e.
// This is calendar.cancelled or calendar.completed if e has just reached that
// state. Otherwise it is calendar.updated (contract 7.4).
func publishChange(tx *Tx, before, e event, now time.Time) error {
	if e.Status != before.Status && (e.Status == eventCancelled || e.Status == eventCompleted) {
		return publishEvent(tx, eventNotice{Type: "calendar." + e.Status, Event: e, At: now})
	}
	more := map[string]any{"time_changed": false}
	if !e.Start.Equal(before.Start) || !e.End.Equal(before.End) {
		more = map[string]any{"time_changed": true, "previous_start": Millis(before.Start), "previous_end": Millis(before.End)}
	}
	return publishEvent(tx, eventNotice{Type: "calendar.updated", Event: e, At: now, More: more})
}

// eventNotice is a webhook event about a calendar event.
type eventNotice struct {
	Type  string // such as calendar.created
	Event event
	At    time.Time
	More  map[string]any // further fields of calendar_event, may be nil
}

// publishEvent publishes the webhook event n (contract 8.3). It does nothing if
// there are no webhooks.
func publishEvent(tx *Tx, n eventNotice) error {
	if !HasWebhooks(tx) {
		return nil
	}
	e := n.Event
	return Publish(tx, RecordEvent(n.Type, e.place(), n.At, func(s Scope) map[string]any {
		shown := e.Row(tx, s)
		shown["ics_url"] = e.ICSPath()
		maps.Copy(shown, n.More)
		return map[string]any{"calendar_event": shown}
	}))
}

// adminEvents serves the admin endpoints for the events of all owners. An event
// that is created here uses no unit of EventsPerDay, because that limit applies
// to keys.
type adminEvents struct{ store *Store }

// NewAdminEvents returns the admin endpoints for the events in store.
func NewAdminEvents(store *Store) *adminEvents { return &adminEvents{store} }

// AdminRoutes returns the admin endpoints for events.
func (d *adminEvents) AdminRoutes() []Route {
	return []Route{
		{Method: "GET", Path: "/admin/v1/events", Handle: d.list, Query: []string{"page", "limit", "start_date", "end_date", "time_zone", "status", "owner", "sandbox"}},
		{Method: "POST", Path: "/admin/v1/events", Handle: d.create},
		{Method: "GET", Path: "/admin/v1/events/:id", Handle: d.get},
		{Method: "PATCH", Path: "/admin/v1/events/:id", Handle: d.update},
		{Method: "POST", Path: "/admin/v1/events/:id/cancel", Handle: d.cancel},
	}
}

// readZone returns the time zone in the parameter time_zone of a query. The
// default is UTC. It returns ErrParameterFormat if there is no such zone.
func readZone(q url.Values) (*time.Location, error) {
	name := q.Get("time_zone")
	if name == "" {
		return time.UTC, nil
	}
	zone, err := clock.Zone(name)
	if err != nil {
		return nil, ErrParameterFormat.With("time_zone must be an IANA name such as Europe/Berlin; got %q.", name)
	}
	return zone, nil
}

// list answers with the events that overlap a range of days. The event that
// starts first comes first.
func (d *adminEvents) list(w http.ResponseWriter, r *Request) error {
	q, space, err := r.SpaceQuery()
	if err != nil {
		return err
	}
	page, err := ReadPage(q, 25, 1000)
	if err != nil {
		return err
	}
	zone, err := readZone(q)
	if err != nil {
		return err
	}
	dates, err := readDates(q, 30, zone, r.Now)
	if err != nil {
		return err
	}
	filters, err := statusFilter(q.Get("status"))
	if err != nil {
		return err
	}
	rows, count := []any{}, 0
	err = r.View(d.store, func(tx *Tx) error {
		if q.Get("owner") != "" {
			f, err := OwnerFilter(tx, q)
			if errors.Is(err, ErrNotFound) {
				return nil
			}
			if err != nil {
				return err
			}
			filters = append(filters, f)
		}
		from, to := dates.Bounds()
		query := eventQuery(r, from, to, filters...)
		query.Space = space
		events, n, err := appointmentTable.Page(tx, query, page.Bounds)
		count = n
		for _, e := range events {
			rows = append(rows, showEvent(tx, e))
		}
		return err
	})
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, page.Answer(count, "events", rows))
}

// showEvent returns an event in the form in which the operator sees it.
func showEvent(tx *Tx, e event) map[string]any {
	shown := e.Detail(tx, Scope{All: true})
	shown["owner"], shown["sandbox"] = OwnerName(tx, e.Owner), IsSandbox(e.Owner)
	e.ShowAuthors(shown)
	return shown
}

func (d *adminEvents) get(w http.ResponseWriter, r *Request) error {
	var shown map[string]any
	err := d.store.View(func(tx *Tx) error {
		e, err := findEvent(tx, r.Params.ByName("id"))
		shown = showEvent(tx, e)
		return err
	})
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, shown)
}

// answer runs change in a transaction. It then answers with the HTTP status and
// the event that change returned. If change fails, nothing is stored.
func (d *adminEvents) answer(w http.ResponseWriter, r *Request, status int, change func(*Tx) (event, error)) error {
	var shown map[string]any
	err := r.Update(d.store, func(tx *Tx) error {
		e, err := change(tx)
		if err != nil {
			return err
		}
		shown = showEvent(tx, e)
		return nil
	})
	if err != nil {
		return err
	}
	return WriteJSON(w, status, shown)
}

// eventBody returns the members that the body of an admin request may have.
func eventBody() BodyFields {
	set := []string{"start_time", "end_time"}
	for _, text := range (&event{}).texts() {
		set = append(set, text.name)
	}
	return BodyFields{
		Set: append(set, "event_type", "status", "created_by_ai_agent", "has_video_conference", "is_reminder_enabled", "remind_before_minutes",
			"sync_external_calendars", "send_notifications", "ai_agent_id", "team_id", "owner"),
		Shown: []string{
			"id", "uuid", "event_type_display", "status_display", "duration_minutes", "ics_url", "ai_agent", "team", "customer", "external_calendars", "sandbox",
			"created_at", "created_by", "updated_at", "updated_by",
		},
	}
}

func (d *adminEvents) create(w http.ResponseWriter, r *Request) error {
	body, err := r.ReadFields(eventBody())
	if err != nil {
		return err
	}
	e, err := readEvent(body, http.MethodPost, event{CreatedAt: r.Now, UpdatedAt: r.Now})
	if err != nil {
		return err
	}
	name := ""
	if body.String("owner", NameLength, &name); body.Err() != nil {
		return body.Err()
	}
	return d.answer(w, r, http.StatusCreated, func(tx *Tx) (event, error) {
		made := e
		made.UpdatedAt = r.Now
		owner, err := EnsureOwner(tx, name, r.Now)
		if err != nil {
			return made, err
		}
		made.Owner = owner.ID
		scope, err := ScopeOf(tx, owner.ID)
		if err != nil {
			return made, err
		}
		if err := checkLinks(tx, scope, made); err != nil {
			return made, err
		}
		if made, err = saveEvent(tx, made); err != nil {
			return made, err
		}
		return made, publishEvent(tx, eventNotice{Type: "calendar.created", Event: made, At: r.Now})
	})
}

func (d *adminEvents) update(w http.ResponseWriter, r *Request) error {
	body, err := r.ReadBody()
	if err != nil {
		return err
	}
	return d.answer(w, r, http.StatusOK, func(tx *Tx) (event, error) {
		before, err := findEvent(tx, r.Params.ByName("id"))
		if err == nil {
			err = r.CheckFields(body, eventBody())
		}
		if err != nil {
			return before, err
		}
		e, err := readEvent(body, http.MethodPatch, before)
		if err = errors.Join(err, KeepOwner(tx, body, before.Owner, "event")); err != nil {
			return e, err
		}
		scope, err := ScopeOf(tx, e.Owner)
		if err == nil && (e.AgentID != before.AgentID || e.TeamID != before.TeamID) {
			err = checkLinks(tx, scope, e)
		}
		if err != nil {
			return e, err
		}
		e.UpdatedAt = r.Now
		if e, err = saveEvent(tx, e); err != nil {
			return e, err
		}
		return e, publishChange(tx, before, e, r.Now)
	})
}

func (d *adminEvents) cancel(w http.ResponseWriter, r *Request) error {
	reason, err := readReason(r)
	if err != nil {
		return err
	}
	return d.answer(w, r, http.StatusOK, func(tx *Tx) (event, error) {
		e, err := findEvent(tx, r.Params.ByName("id"))
		if err != nil {
			return e, err
		}
		return cancelEvent(tx, e, reason, r.Now)
	})
}

// maxReminders is the maximum number of due reminders that one transaction
// handles.
const maxReminders = 100

// FireReminders publishes calendar.reminder for each event whose reminder is
// due. One transaction stores the webhook event and marks the reminder as sent,
// so a crash neither repeats nor loses a reminder. A reminder can be late, for
// example after a restart. It is dropped if the calendar event has already
// begun. Call FireReminders about once a second.
func FireReminders(store *Store, now time.Time) error {
	for {
		count := 0
		err := store.View(func(tx *Tx) error {
			due, err := dueReminders(tx, now, 1)
			count = len(due)
			return err
		})
		if err != nil || count == 0 {
			return err
		}
		err = store.Update(func(tx *Tx) error {
			due, err := dueReminders(tx, now, maxReminders)
			count = len(due)
			if err != nil {
				return err
			}
			for _, e := range due {
				e.RemindedFor = e.Start
				if e, err = saveEvent(tx, e); err != nil {
					return err
				}
				if !now.Before(e.Start) {
					continue
				}
				if err := publishEvent(tx, eventNotice{Type: "calendar.reminder", Event: e, At: now}); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil || count < maxReminders {
			return err
		}
	}
}
