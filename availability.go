package main

import (
	"net/http"
	"sort"
	"strconv"
	"time"
)

// The lengths of slots, in minutes, and the longest range, in days (contract
// 7.6).
const (
	usualSlot = 30
	maxSlot   = 180
	maxRange  = 90
)

// slot is a time at which a meeting can begin and end.
type slot struct {
	Start   *string `json:"start"`
	End     *string `json:"end"`
	Minutes int     `json:"duration_minutes"`
}

// FreeSlots gives the beginnings of the slots of a length in a range: those in
// the schedule's windows, stepped through from the beginning of each, that do
// not begin before now and the notice, and leave the buffer to all that is
// busy (contract 7.6). busy is sorted by start.
func FreeSlots(s Schedule, dates DateRange, length time.Duration, busy []Span, now time.Time) []time.Time {
	buffer := time.Duration(s.Buffer) * time.Minute
	earliest := now.Add(time.Duration(s.Notice) * time.Minute)
	busy = merge(busy)
	var free []time.Time
	for day := dates.First; !day.After(dates.Last); day = day.AddDate(0, 0, 1) {
		for _, w := range s.Day(day.Weekday()) {
			end := Instant(day, w.To, dates.Zone, true)
			for at := Instant(day, w.From, dates.Zone, false); !at.Add(length).After(end); at = at.Add(length) {
				if !at.Before(earliest) && !overlaps(busy, at.Add(-buffer), at.Add(length+buffer)) {
					free = append(free, at)
				}
			}
		}
	}
	return free
}

// merge joins spans that touch, so that both their starts and ends are in
// order.
func merge(spans []Span) []Span {
	var all []Span
	for _, s := range spans {
		if n := len(all); n > 0 && !s.Start.After(all[n-1].End) {
			if s.End.After(all[n-1].End) {
				all[n-1].End = s.End
			}
			continue
		}
		all = append(all, s)
	}
	return all
}

func overlaps(busy []Span, from, to time.Time) bool {
	i := sort.Search(len(busy), func(i int) bool { return busy[i].End.After(from) })
	return i < len(busy) && busy[i].Start.Before(to)
}

// Availability serves the times that are free.
type Availability struct{ store *Store }

// NewAvailability serves the free times by the schedules and events of a store.
func NewAvailability(store *Store) *Availability { return &Availability{store} }

// Routes lists the endpoints.
func (a *Availability) Routes() []Route {
	return []Route{{Method: "GET", Path: "/api/v1/calendar/availability", Permission: ReadCalendar, Handle: a.list}}
}

// list counts as busy what the owner's own calendar has, whoever else's events
// a team lets the key see.
func (a *Availability) list(w http.ResponseWriter, r *Request) error {
	q := r.URL.Query()
	minutes := usualSlot
	if text := q.Get("duration"); q.Has("duration") {
		var err error
		if minutes, err = strconv.Atoi(text); err != nil || minutes < 1 || minutes > maxSlot {
			return ErrDuration.With("duration must be a whole number of minutes from 1 to %d; got %q.", maxSlot, text)
		}
	}
	var dates DateRange
	slots := []slot{}
	err := a.store.View(func(tx *Tx) error {
		s, err := ScheduleOf(tx, r.Key.Owner)
		if err != nil {
			return err
		}
		if dates, err = ReadDates(q, 7, s.Zone(), r.Now); err != nil {
			return err
		}
		if dates.Last.After(dates.First.AddDate(0, 0, maxRange)) {
			return ErrParameterFormat.With("The range from start_date to end_date is longer than %d days.", maxRange)
		}
		from, to := dates.Bounds()
		buffer := time.Duration(s.Buffer) * time.Minute
		var busy []Span
		for _, span := range EventsBetween(tx, ScopeKeys(r.Key.Owner, 0), from.Add(-buffer), to.Add(buffer)) {
			if state := EventStates()[span.State]; state == EventScheduled || state == EventConfirmed {
				busy = append(busy, span)
			}
		}
		length := time.Duration(minutes) * time.Minute
		for _, at := range FreeSlots(s, dates, length, busy, r.Now) {
			slots = append(slots, slot{Millis(at), Millis(at.Add(length)), minutes})
		}
		return nil
	})
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, map[string]any{
		"user_id": r.Key.Owner, "start_date": dates.First.Format(time.DateOnly), "end_date": dates.Last.Format(time.DateOnly),
		"duration_minutes": minutes, "available_slots": slots, "count": len(slots),
	})
}
