package main

import (
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	ics "github.com/arran4/golang-ical"

	"latchkey/internal/clock"
	"latchkey/internal/keytext"
	"latchkey/internal/sorted"
)

// The states of calendar events (contract 7).
const (
	eventScheduled = "scheduled"
	eventConfirmed = "confirmed"
	eventCancelled = "cancelled"
	eventCompleted = "completed"
	eventNoShow    = "no_show"
)

// eventStates returns the states of events. The index stores positions in this
// list, so the order must not change.
func eventStates() []string {
	return []string{eventScheduled, eventConfirmed, eventCancelled, eventCompleted, eventNoShow}
}

// eventKinds returns the types of events. The first is the default.
func eventKinds() []string {
	return []string{"meeting", "appointment", "busy", "voice_call", "video_call"}
}

// event is a calendar event.
type event struct {
	ID            uint64    `json:"id"`
	UUID          string    `json:"uuid"`
	Owner         uint64    `json:"owner"`
	TeamID        uint64    `json:"team_id,omitempty"`
	AgentID       uint64    `json:"ai_agent_id,omitempty"`
	Title         string    `json:"title"`
	Description   string    `json:"description,omitempty"`
	Kind          string    `json:"event_type"`
	Status        string    `json:"status"`
	Start         time.Time `json:"start_time"` // in whole milliseconds
	End           time.Time `json:"end_time"`   // in whole milliseconds
	Location      string    `json:"location,omitempty"`
	Video         bool      `json:"has_video_conference,omitempty"`
	VideoURL      string    `json:"video_conference_url,omitempty"`
	VideoProvider string    `json:"video_conference_provider,omitempty"`
	ByAgent       bool      `json:"created_by_ai_agent,omitempty"`
	Remind        bool      `json:"is_reminder_enabled,omitempty"`
	RemindBefore  int       `json:"remind_before_minutes,omitempty"`
	CustomerName  string    `json:"customer_name,omitempty"`
	CustomerEmail string    `json:"customer_email,omitempty"`
	CustomerPhone string    `json:"customer_phone,omitempty"`
	CustomerNotes string    `json:"customer_notes,omitempty"`
	// Notify is the value of send_notifications when the event was created. It is
	// stored, but no code uses it yet.
	Notify    bool      `json:"send_notifications,omitempty"`
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
	// RemindedFor is the value of Start when the last reminder was sent. If Start
	// changes, another reminder is sent.
	RemindedFor time.Time `json:"reminded_for,omitzero"`
	// Sequence is the number of changes since the event was created (RFC 5545 section 3.8.7.4).
	Sequence int `json:"sequence,omitempty"`
	Authors
}

// longEvent is the length above which an event is indexed by its end instead of
// its start. Events that are indexed by start are not longer. So a search for
// them begins only this long before the range.
const longEvent = 24 * time.Hour

// timeKey returns a time, in milliseconds, as bytes. The bytes sort in the
// order of time, even for times before 1970.
func timeKey(t time.Time) []byte {
	return binary.BigEndian.AppendUint64(nil, timeNumber(t))
}

// timeNumber returns a time in milliseconds, as a number that grows with the time even before 1970.
func timeNumber(t time.Time) uint64 { return uint64(t.UnixMilli()) + 1<<63 }

func keyTime(b []byte) time.Time { return time.UnixMilli(int64(binary.BigEndian.Uint64(b) - 1<<63)) }

// Offsets of fields in an index entry, counted from the end of its scope. The
// sort time is at offset 0. It is the start of the event or, in the index "long",
// its end. Because the entry contains the state, a list is counted without
// reading records.
const (
	eventOther = 8 // the end of the event or, in the index "long", its start
	eventState = 16
	eventSize  = 17 // bytes after the scope
)

func (e event) entries(first, second time.Time) (keys [][]byte) {
	for _, key := range ScopeKeys(e.Owner, e.TeamID) {
		key = append(append(key, timeKey(first)...), timeKey(second)...)
		keys = append(keys, append(key, byte(slices.Index(eventStates(), e.Status))))
	}
	return keys
}

func (e event) long() bool { return e.End.Sub(e.Start) > longEvent }

// live reports whether the event is scheduled or confirmed.
func (e event) live() bool { return e.Status == eventScheduled || e.Status == eventConfirmed }

// ReminderTime returns the time at which the reminder of the event is due.
func (e event) ReminderTime() time.Time {
	return e.Start.Add(-time.Duration(e.RemindBefore) * time.Minute)
}

var appointmentTable = Table[event]{
	Name: "events", Bounded: "event", Audit: AuditPolicy{Object: "event", Personal: true},
	Owner: func(e event) uint64 { return e.Owner },
	Key:   func(e event) []byte { return IDKey(e.ID) },
	Indexes: []Index[event]{
		{"start", func(e event) [][]byte {
			if e.long() {
				return nil
			}
			return e.entries(e.Start, e.End)
		}},
		{"long", func(e event) [][]byte {
			if !e.long() {
				return nil
			}
			return e.entries(e.End, e.Start)
		}},
		{"uuid", func(e event) [][]byte { return [][]byte{[]byte(e.UUID)} }},
		{"remind", func(e event) [][]byte {
			if !e.Remind || !e.live() || e.RemindedFor.Equal(e.Start) {
				return nil
			}
			return [][]byte{timeKey(e.ReminderTime())}
		}},
	},
	List: &Listing[event]{
		Sets: []Index[event]{
			{"scope", func(e event) [][]byte { return ScopeKeys(e.Owner, e.TeamID) }},
			SandboxSet(func(e event) uint64 { return e.Owner }),
			{"status", func(e event) [][]byte { return [][]byte{[]byte(e.Status)} }},
			{"agent", event.agentKeys},
		},
		Order:   func(e event) uint64 { return timeNumber(e.Start) },
		Columns: []Column[event]{{endColumn, func(e event) uint64 { return timeNumber(e.End) }}},
	},
}

// endColumn is the column of the ends of events.
const endColumn = "end"

// eventQuery selects events that overlap the range between two times, and that pass the filters. An
// event that only touches the range is not selected. The earliest start comes first.
func eventQuery(r *Request, from, to time.Time, filters ...Filter) Query {
	before := timeNumber(to.Add(time.Millisecond-1)) - 1 // starts are in whole milliseconds
	return Query{
		Context: r.Context(), All: filters, Ascending: true,
		Ranges: []Range{{OrderColumn, 0, before}, {endColumn, timeNumber(from) + 1, math.MaxUint64}},
	}
}

// statusFilter returns the filter of the events with a status, or none if status is "". It returns
// ErrValidation if status is not a known state.
func statusFilter(status string) ([]Filter, error) {
	switch {
	case status == "":
		return nil, nil
	case !slices.Contains(eventStates(), status):
		return nil, ErrValidation.With("status must be one of %s; got %q.", strings.Join(eventStates(), ", "), status)
	}
	return []Filter{{"status", []byte(status)}}, nil
}

// place returns where the event belongs.
func (e event) place() Place {
	return Place{Kind: EventRecord, Owner: e.Owner, Team: e.TeamID, Agent: e.AgentID}
}

// agentKeys returns the entry of the event in the set of the events of its agent.
func (e event) agentKeys() [][]byte {
	if e.AgentID == 0 {
		return nil
	}
	return [][]byte{IDKey(e.AgentID)}
}

// EventTables returns the table of events, for store checks.
func EventTables() []Checked { return []Checked{&appointmentTable} }

// findEvent returns the event whose id or UUID is ref, no matter which owner
// has it. It returns ErrNotFound if there is no such event.
func findEvent(tx *Tx, ref string) (event, error) {
	if id, err := strconv.ParseUint(ref, 10, 64); err == nil {
		return appointmentTable.Get(tx, IDKey(id))
	}
	return findEventByUUID(tx, ref)
}

// findEventByUUID returns the event with this UUID, in upper or lower case. It
// returns ErrNotFound if there is no such event.
func findEventByUUID(tx *Tx, uuid string) (event, error) {
	return appointmentTable.One(tx, "uuid", []byte(strings.ToLower(uuid)))
}

// saveEvent stores an event and returns it. If the ID is 0, the event is new
// and gets an id and a UUID. Otherwise its Sequence goes up, unless only a
// reminder was sent.
func saveEvent(tx *Tx, e event) (event, error) {
	if e.ID == 0 {
		id, err := appointmentTable.NextID(tx)
		if err != nil {
			return e, err
		}
		e.ID, e.UUID = id, newUUID()
		return e, appointmentTable.Put(tx, e)
	}
	old, err := appointmentTable.Get(tx, IDKey(e.ID))
	switch {
	case errors.Is(err, ErrNotFound):
	case err != nil:
		return e, err
	case e.RemindedFor.Equal(old.RemindedFor):
		e.Sequence = old.Sequence + 1
	}
	return e, appointmentTable.Put(tx, e)
}

// newUUID returns a random UUID of version 4 (RFC 9562 section 5.4).
func newUUID() string {
	b, err := hex.DecodeString(keytext.RandomHex(16))
	if err != nil {
		panic(err) // RandomHex returns hex digits
	}
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	s := hex.EncodeToString(b)
	return strings.Join([]string{s[:8], s[8:12], s[12:16], s[16:20], s[20:]}, "-")
}

// span holds the fields of an event that its index entry contains.
type span struct {
	ID         uint64
	Start, End time.Time
	State      int // position in eventStates
}

// eventsBetween returns the events that overlap the range between the times
// from and to, earliest start first. An event that only touches the range is
// not included. prefixes selects the owners and teams. ScopeKeys returns such prefixes.
func eventsBetween(tx *Tx, prefixes [][]byte, from, to time.Time) []span {
	var all []span
	add := func(entry, key []byte, start, end time.Time) {
		if len(entry) == eventSize && start.Before(to) && end.After(from) {
			all = append(all, span{binary.BigEndian.Uint64(key), start, end, int(entry[eventState])})
		}
	}
	for _, prefix := range prefixes {
		for entry, key := range appointmentTable.From(tx, "start", prefix, timeKey(from.Add(-longEvent))) {
			start := keyTime(entry)
			if !start.Before(to) {
				break
			}
			add(entry, key, start, keyTime(entry[eventOther:]))
		}
		for entry, key := range appointmentTable.From(tx, "long", prefix, timeKey(from)) {
			add(entry, key, keyTime(entry[eventOther:]), keyTime(entry))
		}
	}
	sorted.Func(all, func(a, b span) int { return cmp.Or(a.Start.Compare(b.Start), cmp.Compare(a.ID, b.ID)) })
	return slices.Compact(all) // an event can be under the prefixes of both its owner and its team
}

// existsIn reports whether the event is in a scope, whose owner has it.
func (s span) existsIn(tx *Tx, scope Scope) (bool, error) {
	if !scope.Limited() {
		return true, nil
	}
	e, err := appointmentTable.Get(tx, IDKey(s.ID))
	return err == nil && scope.Has(e.place()), err
}

// dueReminders returns up to limit events whose reminder is due at or before
// now. The earliest reminder comes first.
func dueReminders(tx *Tx, now time.Time, limit int) (events []event, err error) {
	for at, key := range appointmentTable.Find(tx, "remind", nil, Forward) {
		if len(events) == limit || keyTime(at).After(now) {
			break
		}
		e, err := appointmentTable.Get(tx, key)
		if err != nil {
			return nil, err
		}
		events = append(events, e)
	}
	return events, nil
}

// Row returns the event in the form in which lists show it to a caller with this scope (contract 7.1).
func (e event) Row(tx *Tx, s Scope) map[string]any {
	row := map[string]any{
		"id": e.ID, "uuid": e.UUID, "title": e.Title, "event_type": e.Kind, "status": e.Status, "start_time": Millis(e.Start), "end_time": Millis(e.End),
		"duration_minutes": (e.End.UnixMilli() - e.Start.UnixMilli()) / time.Minute.Milliseconds(), "location": TextOrNone(e.Location), "has_video_conference": e.Video,
		"video_conference_url": TextOrNone(e.VideoURL), "created_by_ai_agent": e.ByAgent, "ai_agent": nil,
		"customer": map[string]any{"name": TextOrNone(e.CustomerName), "email": TextOrNone(e.CustomerEmail), "phone": TextOrNone(e.CustomerPhone)},
	}
	if agent := AgentBrief(tx, s, e.AgentID); agent != nil {
		row["ai_agent"] = agent
	}
	return row
}

// Detail returns the event in the form in which GET /calendar/events/{event_id}
// shows it to a caller with this scope (contract 7.2).
func (e event) Detail(tx *Tx, s Scope) map[string]any {
	shown := e.Row(tx, s)
	shown["description"], shown["event_type_display"], shown["status_display"] = TextOrNone(e.Description), DisplayWord(e.Kind), DisplayWord(e.Status)
	shown["video_conference_provider"], shown["is_reminder_enabled"], shown["remind_before_minutes"] = TextOrNone(e.VideoProvider), e.Remind, e.RemindBefore
	shown["created_at"], shown["updated_at"], shown["ics_url"] = Millis(e.CreatedAt), Millis(e.UpdatedAt), e.ICSPath()
	shown["customer"].(map[string]any)["notes"] = TextOrNone(e.CustomerNotes)
	shown["team"] = nil
	if team := s.TeamBrief(tx, e.TeamID); team != nil {
		shown["team"] = team
	}
	// These fields are always nil, because there are no connectors to other
	// calendars (contract 7).
	shown["external_calendars"] = map[string]any{"google": nil, "outlook": nil, "gohighlevel": nil}
	return shown
}

// ICSPath returns the path of the event's iCalendar file (contract 7.7).
func (e event) ICSPath() string { return "/calendar/event/" + e.UUID + "/calendar.ics" }

// parseMoment returns the time that text contains as an ISO 8601 date and time.
// The result is in UTC and cut to milliseconds. A time without an offset is UTC
// (contract 7.3). parseMoment returns false if text is not such a time.
func parseMoment(text string) (time.Time, bool) {
	t, err := clock.ParseISO(text)
	t = t.Truncate(time.Millisecond)
	return t, err == nil && clock.InRange(t)
}

// readEvent returns e with the fields of the body. PATCH changes only the
// fields in the body. In POST and PUT a field that the body omits gets its
// default. Only POST sets created_by_ai_agent and send_notifications, and it
// accepts only the first two states. The errors are ErrMissing, ErrDatetime and
// ErrValidation. If several fields are wrong, they are returned in this order.
func readEvent(b *Body, method string, e event) (event, error) {
	if method != http.MethodPatch {
		for _, name := range []string{"title", "start_time", "end_time"} {
			if raw := b.Raw(name); !b.Given(name) || string(raw) == `""` {
				return e, ErrMissing.With("%s is missing.", name)
			}
		}
		was := e
		e = event{
			ID: e.ID, UUID: e.UUID, Owner: e.Owner, ByAgent: e.ByAgent, Notify: e.Notify, CreatedAt: e.CreatedAt, RemindedFor: e.RemindedFor,
			Kind: eventKinds()[0], Status: eventScheduled, Remind: true, RemindBefore: 60,
		}
		for i, text := range was.texts() { // the old texts, because String compares with them
			if b.Has(text.name) {
				*e.texts()[i].into = *text.into
			}
		}
	}
	if err := cmp.Or(readMoment(b, "start_time", &e.Start), readMoment(b, "end_time", &e.End)); err != nil {
		return e, err
	}
	for _, text := range e.texts() {
		b.String(text.name, text.most, text.into)
	}
	states := eventStates()
	if method == http.MethodPost {
		states = states[:2]
		e.Notify = true
		readFlag(b, "created_by_ai_agent", &e.ByAgent)
		readFlag(b, "send_notifications", &e.Notify)
	}
	if b.Given("event_type") {
		b.Word("event_type", &e.Kind, eventKinds()...)
	}
	if b.Given("status") {
		b.Word("status", &e.Status, states...)
	}
	readFlag(b, "has_video_conference", &e.Video)
	readFlag(b, "is_reminder_enabled", &e.Remind)
	var unused bool // for fields that have no effect, because only webhooks send notifications
	readFlag(b, "sync_external_calendars", &unused)
	readFlag(b, "send_notifications", &unused)
	if b.Given("remind_before_minutes") {
		b.Int("remind_before_minutes", &e.RemindBefore, 0, 366*24*60)
	}
	b.ID("ai_agent_id", &e.AgentID)
	b.ID("team_id", &e.TeamID)
	if err := b.Err(); err != nil {
		return e, err
	}
	if strings.TrimSpace(e.Title) == "" {
		return e, ErrValidation.With("title must not be empty.")
	}
	if !e.End.After(e.Start) {
		return e, ErrValidation.With("end_time must be after start_time.")
	}
	return e, nil
}

// eventText is a string field of an event.
type eventText struct {
	name string
	most int // largest length, in characters
	into *string
}

// texts returns the string fields that a body can set.
func (e *event) texts() []eventText {
	return []eventText{
		{"title", LineLength, &e.Title}, {"description", NoteLength, &e.Description}, {"location", ReasonLength, &e.Location},
		{"video_conference_url", URLLength, &e.VideoURL}, {"video_conference_provider", NameLength, &e.VideoProvider},
		{"customer_name", NameLength, &e.CustomerName}, {"customer_email", EmailLength, &e.CustomerEmail},
		{"customer_phone", WordLength, &e.CustomerPhone}, {"customer_notes", NoteLength, &e.CustomerNotes},
	}
}

// readFlag sets *into to the boolean in the body field called name. If the
// field is omitted or null, *into keeps its value.
func readFlag(b *Body, name string, into *bool) {
	if b.Given(name) {
		b.Bool(name, into)
	}
}

func readMoment(b *Body, name string, into *time.Time) error {
	if !b.Given(name) {
		return nil
	}
	want := name + " must be an ISO 8601 date and time with a T between them, such as 2026-03-02T09:00:00Z"
	text := ""
	if raw := b.Raw(name); raw[0] != '"' {
		return ErrDatetime.With("%s, in quotes.", want)
	}
	if b.String(name, AnyLength, &text); b.Err() != nil {
		return b.Err()
	}
	t, ok := parseMoment(text)
	if !ok {
		return ErrDatetime.With("%s; got %q.", want, text)
	}
	*into = t
	return nil
}

// ICS serves events as iCalendar files (RFC 5545). A request needs no key,
// because calendar programs cannot send one. Only somebody who knows the random
// UUID in the path can read an event (contract 7.7).
type ICS struct{ store *Store }

// NewICS returns the endpoint for the iCalendar files of the events in store.
func NewICS(store *Store) *ICS { return &ICS{store} }

// OpenRoutes returns the endpoints that need no key.
func (i *ICS) OpenRoutes() []Route {
	return []Route{{Method: "GET", Path: "/calendar/event/:uuid/calendar.ics", Handle: i.get}}
}

func (i *ICS) get(w http.ResponseWriter, r *Request) error {
	var e event
	err := i.store.View(func(tx *Tx) (err error) {
		e, err = findEventByUUID(tx, r.Params.ByName("uuid")) // not by id, because ids can be guessed
		return err
	})
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", "text/calendar; charset=utf-8")
	h.Set("Content-Disposition", `inline; filename="calendar.ics"`)
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write([]byte(e.file()))
	return nil
}

// file returns the event as the text of an iCalendar file.
func (e event) file() string {
	return e.calendar().Serialize(ics.WithNewLine("\r\n")) // RFC 5545 section 3.1
}

// calendar returns an iCalendar object with the event. It omits the customer's
// data and notes (contract 7.7).
func (e event) calendar() *ics.Calendar {
	c := ics.NewCalendar()
	c.SetProductId("-//Latchkey//EN")
	c.SetMethod(ics.MethodPublish)
	v := c.AddEvent(e.UUID)
	v.SetSequence(e.Sequence)
	v.SetDtStampTime(e.UpdatedAt)
	v.SetCreatedTime(e.CreatedAt)
	v.SetModifiedAt(e.UpdatedAt)
	start, end := e.seconds()
	if v.SetStartAt(start); end.After(start) {
		v.SetEndAt(end)
	}
	v.SetSummary(icsText(e.Title))
	if e.Description != "" {
		v.SetDescription(icsText(e.Description))
	}
	if e.Location != "" {
		v.SetLocation(icsText(e.Location))
	}
	if address := icsURL(e.VideoURL); address != "" {
		v.SetURL(address)
	}
	switch e.Status {
	case eventScheduled:
		v.SetStatus(ics.ObjectStatusTentative)
	case eventCancelled:
		c.SetMethod(ics.MethodCancel)
		v.SetStatus(ics.ObjectStatusCancelled)
		v.SetSequence(max(e.Sequence, 1)) // events that older versions cancelled have no number
	default: // the participants also agreed to events that are completed or no_show
		v.SetStatus(ics.ObjectStatusConfirmed)
	}
	if e.Remind && e.live() {
		alarm := v.AddAlarm()
		alarm.SetAction(ics.ActionDisplay)
		alarm.SetDescription(icsText(e.Title))
		alarm.SetTrigger("-PT" + strconv.Itoa(e.RemindBefore) + "M")
	}
	return c
}

// seconds returns the start and the end of the event in whole seconds, because iCalendar has no
// parts of a second. The end is rounded up, so a short event does not lose its length. Only at the
// very end of the year 9999 it can be equal to the start.
func (e event) seconds() (start, end time.Time) {
	start, end = e.Start.Truncate(time.Second), e.End.Truncate(time.Second)
	if end.Before(e.End) && end.Before(clock.Last) {
		end = end.Add(time.Second)
	}
	return start, end
}

// icsText returns s without control characters, except tabs and line ends.
// iCalendar allows no others (RFC 5545 section 3.3.11). Some programs treat
// them as the end of a line, so a text could add a property to the event.
func icsText(s string) string {
	s = strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(s)
	return strings.Map(func(c rune) rune {
		if unicode.IsControl(c) && c != '\n' && c != '\t' {
			return -1
		}
		return c
	}, s)
}

// icsURL returns s as a normalized http or https address, or "" if s is not
// such an address. A URL in iCalendar is not escaped, so any other text could
// add lines to the file.
func icsURL(s string) string {
	u, err := url.Parse(strings.TrimSpace(s)) // returns an error if s contains control characters
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return ""
	}
	return u.String()
}

// EventsOfKeys returns the events that keys have created since a time, for each of which EventsPerDay was charged.
func EventsOfKeys(tx *Tx, since time.Time) ([]Created, error) {
	return CreatedByKeys(tx, &appointmentTable, since, func(e event) time.Time { return e.CreatedAt })
}
