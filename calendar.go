package main

import (
	"net/http"
	"net/url"
	"time"
)

// Calendar serves the events.
type Calendar struct {
	store   *Store
	limiter *Limiter
}

// NewCalendar serves the events of a store; creating one spends a unit of
// EventsPerDay.
func NewCalendar(store *Store, limiter *Limiter) *Calendar { return &Calendar{store, limiter} }

// Routes lists the endpoints.
func (c *Calendar) Routes() []Route {
	const path = "/api/v1/calendar/events"
	return []Route{
		{Method: "GET", Path: path, Permission: ReadCalendar, Handle: c.list},
		{Method: "GET", Path: path + "/:event_id", Permission: ReadCalendar, Handle: c.get},
		{Method: "POST", Path: path + "/create", Permission: WriteCalendar, Handle: c.create, Spends: EventsPerDay},
		{Method: "PUT", Path: path + "/:event_id/update", Permission: WriteCalendar, Handle: c.update},
		{Method: "PATCH", Path: path + "/:event_id/update", Permission: WriteCalendar, Handle: c.update},
		{Method: "POST", Path: path + "/:event_id/cancel", Permission: WriteCalendar, Handle: c.cancel},
	}
}

// DateRange is a range of whole days in a time zone, both inclusive.
type DateRange struct {
	First, Last time.Time // midnights of UTC that stand for the dates
	Zone        *time.Location
}

// ReadDates reads start_date and end_date of a query: the first is today by
// default, the last so many days after it. ErrParameterFormat: a date that
// cannot be read, or a last one before the first (contract 7.1, 7.6).
func ReadDates(q url.Values, days int, zone *time.Location, now time.Time) (d DateRange, err error) {
	today := now.In(zone)
	d = DateRange{First: time.Date(today.Year(), today.Month(), today.Day(), 0, 0, 0, 0, time.UTC), Zone: zone}
	read := func(name string, into *time.Time) error {
		text := q.Get(name)
		if text == "" {
			return nil
		}
		t, err := time.Parse(time.DateOnly, text)
		if err != nil {
			return ErrParameterFormat.With("%s must be a date such as 2026-03-02; got %q.", name, text)
		}
		*into = t
		return nil
	}
	if err := read("start_date", &d.First); err != nil {
		return d, err
	}
	d.Last = d.First.AddDate(0, 0, days)
	if err := read("end_date", &d.Last); err != nil {
		return d, err
	}
	if d.Last.Before(d.First) {
		return d, ErrParameterFormat.With("end_date is before start_date.")
	}
	return d, nil
}

// Bounds gives the first instant of the range, and the first one after it.
func (d DateRange) Bounds() (from, to time.Time) {
	return Instant(d.First, 0, d.Zone, false), Instant(d.Last, 24*60, d.Zone, false)
}

func (c *Calendar) list(w http.ResponseWriter, r *Request) error {
	q := r.URL.Query()
	page, err := ReadPage(q, 10, 100)
	if err != nil {
		return err
	}
	wanted, err := StateFilter(q.Get("status"))
	if err != nil {
		return err
	}
	rows, count := []any{}, 0
	err = c.store.View(func(tx *Tx) error {
		scope, err := ScopeOf(tx, r.Key.Owner)
		if err != nil {
			return err
		}
		schedule, err := ScheduleOf(tx, r.Key.Owner)
		if err != nil {
			return err
		}
		dates, err := ReadDates(q, 30, schedule.Zone(), r.Now)
		if err != nil {
			return err
		}
		from, to := dates.Bounds()
		spans := wanted(EventsBetween(tx, scope.Keys(), from, to))
		count = len(spans)
		first, last := page.Bounds(count)
		events, err := GetEvents(tx, spans[first:last])
		for _, e := range events {
			rows = append(rows, e.Row(tx))
		}
		return err
	})
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, page.Answer(count, "events", rows))
}

// own reads the event that the path names; ErrNotFound for one out of scope.
func (c *Calendar) own(tx *Tx, r *Request) (Appointment, Scope, error) {
	scope, err := ScopeOf(tx, r.Key.Owner)
	if err != nil {
		return Appointment{}, scope, err
	}
	e, err := FindEvent(tx, r.Params.ByName("event_id"))
	if err == nil && !scope.Allows(e.Owner, e.TeamID) {
		err = ErrNotFound
	}
	return e, scope, err
}

func (c *Calendar) get(w http.ResponseWriter, r *Request) error {
	var shown map[string]any
	err := c.store.View(func(tx *Tx) error {
		e, _, err := c.own(tx, r)
		if err != nil {
			return err
		}
		shown = e.Detail(tx)
		return nil
	})
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, shown)
}

// CheckLinks checks the agent and the team that an event names, for who may see
// a scope: ErrAgentNotFound, ErrTeamNotFound, ErrTeamAccess.
func CheckLinks(tx *Tx, scope Scope, e Appointment) error {
	if e.AgentID != 0 {
		agent, err := GetAgent(tx, e.AgentID)
		if err != nil || !scope.Allows(agent.Owner, agent.TeamID) {
			return ErrAgentNotFound
		}
	}
	return CheckTeam(tx, scope, e.TeamID)
}

// brief is the answer to a change of an event (contract 7.3).
func brief(e Appointment, message string) map[string]any {
	return map[string]any{
		"id": e.ID, "uuid": e.UUID, "title": e.Title, "start_time": Millis(e.Start), "end_time": Millis(e.End), "status": e.Status, "message": message,
	}
}

// create stores an event and charges the day's limit, in one transaction.
func (c *Calendar) create(w http.ResponseWriter, r *Request) error {
	body, err := r.ReadBody(false)
	if err != nil {
		return err
	}
	e, err := ReadEvent(body, http.MethodPost, Appointment{Owner: r.Key.Owner, CreatedAt: r.Now})
	if err != nil {
		return err
	}
	var standings []Standing
	return Once(c.store, w, r, "events", http.StatusCreated, body, func(tx *Tx) (any, error) {
		scope, err := ScopeOf(tx, r.Key.Owner)
		if err == nil {
			err = CheckLinks(tx, scope, e)
		}
		if err != nil {
			return nil, err
		}
		if standings, err = c.limiter.PayIn(tx, r.Key.Charge(nil, EventsPerDay, 1), r.Moment); err != nil {
			return nil, err
		}
		tx.After(func() { r.SetLimits(standings) })
		made := e
		made.UpdatedAt = r.Now
		if made, err = SaveEvent(tx, made); err != nil {
			return nil, err
		}
		answer := brief(made, "Created.")
		answer["ics_url"] = made.ICSPath()
		return answer, RaiseEvent(tx, "calendar.created", made, r.Now, nil)
	})
}

// update replaces an event (PUT) or changes what is sent (PATCH). One that
// becomes cancelled or completed tells of that rather than of a change (7.4).
func (c *Calendar) update(w http.ResponseWriter, r *Request) error {
	body, err := r.ReadBody(false)
	if err != nil {
		return err
	}
	var e Appointment
	err = c.store.Update(func(tx *Tx) error {
		before, scope, err := c.own(tx, r)
		if err != nil {
			return err
		}
		if e, err = ReadEvent(body, r.Method, before); err != nil {
			return err
		}
		if e.AgentID != before.AgentID || e.TeamID != before.TeamID {
			if err := CheckLinks(tx, scope, e); err != nil {
				return err
			}
		}
		e.UpdatedAt = r.Now
		if e, err = SaveEvent(tx, e); err != nil {
			return err
		}
		return RaiseChange(tx, before, e, r.Now)
	})
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, brief(e, "Updated."))
}

// ReadReason reads the body of a cancellation, which may be empty.
func ReadReason(r *Request) (reason string, err error) {
	body, err := r.ReadBody(true)
	if err != nil {
		return "", err
	}
	body.String("reason", &reason)
	return reason, body.Err()
}

// CancelEvent calls an event off and tells of it. Done twice it changes nothing
// more (7.5).
func CancelEvent(tx *Tx, e Appointment, reason string, now time.Time) (Appointment, error) {
	if e.Status == EventCancelled {
		return e, nil
	}
	e.Status, e.UpdatedAt = EventCancelled, now
	more := map[string]any{}
	if reason != "" {
		if e.CustomerNotes != "" {
			e.CustomerNotes += "\n"
		}
		e.CustomerNotes += "Cancelled: " + reason
		more["cancellation_reason"] = reason
	}
	e, err := SaveEvent(tx, e)
	if err != nil {
		return e, err
	}
	return e, RaiseEvent(tx, "calendar.cancelled", e, now, more)
}

func (c *Calendar) cancel(w http.ResponseWriter, r *Request) error {
	reason, err := ReadReason(r)
	if err != nil {
		return err
	}
	var e Appointment
	err = c.store.Update(func(tx *Tx) (err error) {
		if e, _, err = c.own(tx, r); err != nil {
			return err
		}
		e, err = CancelEvent(tx, e, reason, r.Now)
		return err
	})
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, map[string]any{"id": e.ID, "uuid": e.UUID, "status": e.Status, "message": "Cancelled."})
}

// RaiseChange tells of a change of an event, by what it has become.
func RaiseChange(tx *Tx, before, e Appointment, now time.Time) error {
	if e.Status != before.Status && (e.Status == EventCancelled || e.Status == EventCompleted) {
		return RaiseEvent(tx, "calendar."+e.Status, e, now, nil)
	}
	more := map[string]any{"time_changed": false}
	if !e.Start.Equal(before.Start) || !e.End.Equal(before.End) {
		more = map[string]any{"time_changed": true, "previous_start": Millis(before.Start), "previous_end": Millis(before.End)}
	}
	return RaiseEvent(tx, "calendar.updated", e, now, more)
}

// RaiseEvent tells of an event of the calendar (contract 8.3), with further
// members of its object.
func RaiseEvent(tx *Tx, kind string, e Appointment, now time.Time, more map[string]any) error {
	if !HasWebhooks(tx) {
		return nil
	}
	shown := e.Row(tx)
	shown["ics_url"] = e.ICSPath()
	for name, value := range more {
		shown[name] = value
	}
	return Raise(tx, Event{Type: kind, Owner: e.Owner, Team: e.TeamID, At: now, Body: map[string]any{"calendar_event": shown}})
}
