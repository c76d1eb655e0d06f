package main

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"latchkey/internal/clock"
)

// Limits and a default for requests of free slots (contract 7.6).
const (
	usualSlot = 30  // default length of a slot, in minutes
	maxSlot   = 180 // maximum length of a slot, in minutes
	maxRange  = 90  // maximum number of days in a range, with its first and last day
)

// slot is a free period in which a meeting can be held.
type slot struct {
	Start   *string `json:"start"`
	End     *string `json:"end"`
	Minutes int     `json:"duration_minutes"`
}

// slotQuery holds everything that freeSlots needs to find free slots.
type slotQuery struct {
	Schedule Schedule
	Dates    dateRange
	Length   time.Duration // length of each slot
	Busy     []span        // sorted by start
	Now      time.Time
}

// freeSlots returns the start times of the free slots (contract 7.6). It
// divides each window of the schedule into slots, from the start of the window.
// If the clocks are put back out of the window, it is two windows on that day.
// It skips a slot that begins before Now plus the notice of the schedule. It
// also skips a slot that is closer to a busy span than the buffer of the
// schedule.
func freeSlots(q slotQuery) []time.Time {
	s, dates, length := q.Schedule, q.Dates, q.Length
	buffer := time.Duration(s.Buffer) * time.Minute
	earliest := q.Now.Add(time.Duration(s.Notice) * time.Minute)
	busy := merge(q.Busy)
	var free []time.Time
	for day := dates.First; !day.After(dates.Last); day = day.AddDate(0, 0, 1) {
		for _, w := range s.Day(day.Weekday()) {
			for _, part := range clock.Spans(day, w.From, w.To, dates.Zone) {
				for at := part.Start; !at.Add(length).After(part.End); at = at.Add(length) {
					// In zones away from UTC, the first and the last day of the calendar have times that
					// no answer can contain.
					possible := clock.InRange(at) && clock.InRange(at.Add(length))
					if possible && !at.Before(earliest) && !overlaps(busy, at.Add(-buffer), at.Add(length+buffer)) {
						free = append(free, at)
					}
				}
			}
		}
	}
	slices.SortFunc(free, time.Time.Compare) // parts of two windows can alternate if the clocks are put back
	return free
}

// merge joins spans that overlap or touch, so that the result is sorted by both
// start and end. spans must be sorted by start. The caller may use only Start
// and End of the result.
func merge(spans []span) []span {
	var all []span
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

func overlaps(busy []span, from, to time.Time) bool {
	i := sort.Search(len(busy), func(i int) bool { return busy[i].End.After(from) })
	return i < len(busy) && busy[i].Start.Before(to)
}

// availability serves the API endpoint for free slots.
type availability struct{ store *Store }

// NewAvailability returns the endpoint for free slots. It reads the schedules
// and events in store.
func NewAvailability(store *Store) *availability { return &availability{store} }

// Routes returns the API endpoint for free slots.
func (a *availability) Routes() []Route {
	return []Route{{Method: "GET", Path: "/api/v1/calendar/availability", Permission: ReadCalendar, Handle: a.list}}
}

// list answers with the free slots of the key's owner. The events of this owner
// count as busy, as far as they exist for the key. The events of other team
// members do not, although the key can see them.
func (a *availability) list(w http.ResponseWriter, r *Request) error {
	q, err := r.Query("start_date", "end_date", "duration")
	if err != nil {
		return err
	}
	minutes := usualSlot
	if text := q.Get("duration"); text != "" {
		if minutes, err = strconv.Atoi(text); err != nil || minutes < 1 || minutes > maxSlot {
			return ErrDuration.With("duration must be a whole number of minutes from 1 to %d; got %q.", maxSlot, text)
		}
	}
	var dates dateRange
	slots := []slot{}
	err = a.store.View(func(tx *Tx) error {
		s, err := scheduleOf(tx, r.Key.Owner)
		if err != nil {
			return err
		}
		if dates, err = readDates(q, 7, s.Zone(), r.Now); err != nil {
			return err
		}
		if dates.Last.After(dates.First.AddDate(0, 0, maxRange-1)) {
			return ErrParameterFormat.With("The range from start_date to end_date has more than %d days, with the first and the last.", maxRange)
		}
		from, to := dates.Bounds()
		buffer := time.Duration(s.Buffer) * time.Minute
		var busy []span
		scope, err := ScopeOfKey(tx, r.Key)
		if err != nil {
			return err
		}
		for _, span := range eventsBetween(tx, ScopeKeys(r.Key.Owner, 0), from.Add(-buffer), to.Add(buffer)) {
			if exists, err := span.existsIn(tx, scope); err != nil || !exists {
				if err != nil {
					return err
				}
				continue
			}
			if state := eventStates()[span.State]; state == eventScheduled || state == eventConfirmed {
				busy = append(busy, span)
			}
		}
		length := time.Duration(minutes) * time.Minute
		for _, at := range freeSlots(slotQuery{s, dates, length, busy, r.Now}) {
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

// hours holds the time windows of each day of the week. The index is a
// time.Weekday.
type hours [7][]window24

// window24 is a time window within a day, in minutes after midnight on the wall
// clock. It includes From and excludes To. To is at most 1440, which is the end
// of the day.
type window24 struct {
	From int `json:"from"`
	To   int `json:"to"`
}

// Schedule holds the times at which an owner is available.
type Schedule struct {
	ID       uint64 `json:"id"`
	Owner    uint64 `json:"owner"`
	TimeZone string `json:"time_zone"`
	Windows  hours  `json:"windows"`
	// Business holds the business hours. The owner is available only in the parts
	// of Windows inside them. If Business is nil, all of Windows counts.
	Business  *hours    `json:"business_hours,omitempty"`
	Buffer    int       `json:"buffer_minutes"` // minimum free time before and after every event
	Notice    int       `json:"notice_minutes"` // minimum time between a request and the first free slot
	CreatedAt time.Time `json:"created_at"`
}

var scheduleTable = Table[Schedule]{
	Owner: func(s Schedule) uint64 { return s.Owner },
	Name:  "schedules", Audit: AuditPolicy{Object: "schedule"},
	Key:     func(s Schedule) []byte { return IDKey(s.ID) },
	Indexes: []Index[Schedule]{{"owner", func(s Schedule) [][]byte { return [][]byte{IDKey(s.Owner)} }}},
	List:    &Listing[Schedule]{Sets: []Index[Schedule]{SandboxSet(func(s Schedule) uint64 { return s.Owner })}},
}

// usualSchedule returns the schedule of an owner who has not stored one. It is
// Monday to Friday, 9:00 to 17:00 UTC.
func usualSchedule(owner uint64) Schedule {
	s := Schedule{Owner: owner, TimeZone: "UTC"}
	for day := time.Monday; day <= time.Friday; day++ {
		s.Windows[day] = []window24{{9 * 60, 17 * 60}}
	}
	return s
}

// scheduleOf returns the stored schedule of an owner. If there is none, it
// returns usualSchedule.
func scheduleOf(tx *Tx, owner uint64) (Schedule, error) {
	s, err := scheduleTable.One(tx, "owner", IDKey(owner))
	if errors.Is(err, ErrNotFound) {
		return usualSchedule(owner), nil
	}
	return s, err
}

// Zone returns the time zone of the schedule. It returns UTC if
// clock.Zone does not know the zone.
func (s Schedule) Zone() *time.Location {
	zone, err := clock.Zone(s.TimeZone)
	if err != nil {
		return time.UTC // saveSchedule has checked the name, but an older version knew other names
	}
	return zone
}

// Day returns the windows of a day of the week, earliest first. It limits them
// to the business hours. The caller must not change the result.
func (s Schedule) Day(day time.Weekday) []window24 {
	if s.Business == nil {
		return s.Windows[day]
	}
	var cut []window24
	for _, a := range s.Windows[day] {
		for _, b := range s.Business[day] {
			if w := (window24{max(a.From, b.From), min(a.To, b.To)}); w.From < w.To {
				cut = append(cut, w)
			}
		}
	}
	return cut
}

// schedules serves the admin endpoints for schedules.
type schedules struct{ catalog AdminRecords[Schedule] }

// NewSchedules returns the admin endpoints for the schedules in store.
func NewSchedules(store *Store) *schedules {
	return &schedules{AdminRecords[Schedule]{
		Store: store, Name: "schedules", Table: scheduleTable, Save: saveSchedule, Show: showSchedule, Filters: []string{"owner"},
		Body: BodyFields{
			Set: []string{"owner", "time_zone", "windows", "business_hours", "buffer_minutes", "notice_minutes"}, Shown: []string{"id", "sandbox", "created_at"},
		},
		Filter: func(tx *Tx, q url.Values, _ string) (Filter, error) {
			id, err := SpaceNamed(tx, q)
			return Filter{"owner", IDKey(id)}, err
		},
	}}
}

// ScheduleTables returns the table of schedules, for store checks.
func ScheduleTables() []Checked { return []Checked{&scheduleTable} }

// AdminRoutes returns the admin endpoints for schedules.
func (s *schedules) AdminRoutes() []Route { return s.catalog.Routes() }

func dayNames() []string {
	return []string{"sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"}
}

func saveSchedule(tx *Tx, r *Request, old *Schedule, b *Body) (Schedule, error) {
	s, owner := usualSchedule(0), ""
	s.CreatedAt = r.Now
	if old != nil {
		s = *old
	}
	b.String("owner", NameLength, &owner)
	b.String("time_zone", AnyLength, &s.TimeZone)
	b.Int("buffer_minutes", &s.Buffer, 0, 24*60)
	b.Int("notice_minutes", &s.Notice, 0, 366*24*60)
	if err := b.Err(); err != nil {
		return s, err
	}
	if _, err := clock.Zone(s.TimeZone); err != nil && (old == nil || b.Has("time_zone")) {
		return s, ErrValidation.With("time_zone must be an IANA name such as Europe/Berlin; got %q.", s.TimeZone)
	}
	if b.Given("windows") {
		if err := readHours(b, "windows", &s.Windows); err != nil {
			return s, err
		}
	}
	if b.Has("business_hours") {
		s.Business = nil
		if b.Given("business_hours") {
			s.Business = &hours{}
			if err := readHours(b, "business_hours", s.Business); err != nil {
				return s, err
			}
		}
	}
	if old == nil {
		if !b.Given("time_zone") {
			return s, ErrMissing.With("time_zone is missing. Send an IANA name such as Europe/Berlin.")
		}
		o, err := EnsureOwner(tx, owner, r.Now)
		if err != nil {
			return s, err
		}
		if scheduleTable.Has(tx, "owner", IDKey(o.ID)) {
			return s, ErrConflict.With("The owner %s already has a schedule. Change that schedule instead.", o.Name)
		}
		s.Owner = o.ID
		if s.ID, err = scheduleTable.NextID(tx); err != nil {
			return s, err
		}
	} else if err := KeepOwner(tx, b, s.Owner, "schedule"); err != nil {
		return s, err
	}
	return s, scheduleTable.Put(tx, s)
}

// readHours sets *into from the body field called name. The field has the form
// {"monday": ["09:00-12:00", "13:00-17:00"]}. A day that the field omits has no
// windows. readHours returns ErrValidation if the field is wrong.
func readHours(b *Body, name string, into *hours) error {
	days, err := b.Object(b.Raw(name))
	if err != nil {
		return ErrValidation.With(`%s must be an object such as {"monday": ["09:00-17:00"]}.`, name)
	}
	*into = hours{}
	known := dayNames()
	for _, day := range days.Names() {
		i := slices.Index(known, day)
		if i < 0 {
			return ErrValidation.With("%s has an unknown day %q. The known days are %s.", name, day, strings.Join(known, ", "))
		}
		var texts []string
		if days.Strings(day, ListBound{24 * 60, AnyLength}, &texts); days.Err() != nil {
			return ErrValidation.With(`%s.%s must be an array such as ["09:00-17:00"].`, name, day)
		}
		last := 0
		for _, text := range texts {
			w, ok := parseWindow(text)
			if !ok || w.From < last {
				return ErrValidation.With(
					`%s.%s must have windows such as "09:00-17:00". They must be in order, must not overlap and must end by 24:00; got %q.`, name, day, text)
			}
			last = w.To
			into[i] = append(into[i], w)
		}
	}
	return nil
}

func parseWindow(text string) (w window24, ok bool) {
	from, to, ok := strings.Cut(text, "-")
	var err1, err2 bool
	w.From, err1 = parseClock(from)
	w.To, err2 = parseClock(to)
	return w, ok && err1 && err2 && w.From < w.To
}

func parseClock(text string) (minutes int, ok bool) {
	if text == "24:00" {
		return 24 * 60, true
	}
	t, err := time.Parse("15:04", text)
	return t.Hour()*60 + t.Minute(), err == nil && len(text) == 5
}

func showHours(h hours) map[string][]string {
	shown := map[string][]string{}
	for i, name := range dayNames() {
		list := []string{}
		for _, w := range h[i] {
			list = append(list, fmt.Sprintf("%02d:%02d-%02d:%02d", w.From/60, w.From%60, w.To/60, w.To%60))
		}
		shown[name] = list
	}
	return shown
}

func showSchedule(tx *Tx, s Schedule) (any, error) {
	shown := map[string]any{
		"id": s.ID, "owner": OwnerName(tx, s.Owner), "sandbox": IsSandbox(s.Owner), "time_zone": s.TimeZone, "windows": showHours(s.Windows), "business_hours": nil,
		"buffer_minutes": s.Buffer, "notice_minutes": s.Notice, "created_at": Seconds(s.CreatedAt),
	}
	if s.Business != nil {
		shown["business_hours"] = showHours(*s.Business)
	}
	return shown, nil
}
