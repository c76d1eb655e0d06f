package main

import (
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	ics "github.com/arran4/golang-ical"

	"latchkey/internal/keytext"
)

// The states of calendar events (contract 7).
const (
	eventScheduled = "scheduled"
	eventConfirmed = "confirmed"
	eventCancelled = "cancelled"
	eventCompleted = "completed"
	eventNoShow    = "no_show"
)

// eventStates lists the states; the index stores their places in it.
func eventStates() []string {
	return []string{eventScheduled, eventConfirmed, eventCancelled, eventCompleted, eventNoShow}
}

// eventKinds lists the types of events, the usual one first.
func eventKinds() []string {
	return []string{"meeting", "appointment", "busy", "voice_call", "video_call"}
}

// event is an event of the calendar.
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
	Start         time.Time `json:"start_time"` // to the millisecond, as End
	End           time.Time `json:"end_time"`
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
	// Notify is send_notifications at creation: whether a cancellation may be
	// told to the customer.
	Notify    bool      `json:"send_notifications,omitempty"`
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
	// RemindedFor is the Start that a reminder was sent for.
	RemindedFor time.Time `json:"reminded_for,omitzero"`
}

// longEvent is the length above which events are found by their end: the
// others that touch a range begin at most this long before it.
const longEvent = 24 * time.Hour

// timeKey writes a time so that it sorts, also before 1970.
func timeKey(t time.Time) []byte {
	return binary.BigEndian.AppendUint64(nil, uint64(t.UnixMilli())+1<<63)
}

func keyTime(b []byte) time.Time { return time.UnixMilli(int64(binary.BigEndian.Uint64(b) - 1<<63)) }

// The parts of an index entry after the scope: the time it is sorted by, the
// other end of the event and the state, so that a list counts without reading
// a record.
const (
	eventOther = 8
	eventState = 16
	eventSize  = 17
)

func (e event) entries(first, second time.Time) (keys [][]byte) {
	for _, key := range ScopeKeys(e.Owner, e.TeamID) {
		key = append(append(key, timeKey(first)...), timeKey(second)...)
		keys = append(keys, append(key, byte(slices.Index(eventStates(), e.Status))))
	}
	return keys
}

func (e event) long() bool { return e.End.Sub(e.Start) > longEvent }

// live says whether the event is still to take place.
func (e event) live() bool { return e.Status == eventScheduled || e.Status == eventConfirmed }

// ReminderTime is when the event is to be reminded of.
func (e event) ReminderTime() time.Time {
	return e.Start.Add(-time.Duration(e.RemindBefore) * time.Minute)
}

var appointmentTable = Table[event]{
	Name: "events", Audit: AuditPolicy{Object: "event", Personal: true},
	Key: func(e event) []byte { return IDKey(e.ID) },
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
}

// EventTables lists what is kept of events in the store, for checks.
func EventTables() []Checked { return []Checked{appointmentTable} }

// findEvent reads an event by its id or its UUID, whoever it belongs to;
// ErrNotFound.
func findEvent(tx *Tx, ref string) (event, error) {
	if id, err := strconv.ParseUint(ref, 10, 64); err == nil {
		return appointmentTable.Get(tx, IDKey(id))
	}
	return appointmentTable.One(tx, "uuid", []byte(strings.ToLower(ref)))
}

// saveEvent stores an event; a new one (ID 0) gets its ids.
func saveEvent(tx *Tx, e event) (event, error) {
	if e.ID == 0 {
		id, err := appointmentTable.NextID(tx)
		if err != nil {
			return e, err
		}
		e.ID, e.UUID = id, newUUID()
	}
	return e, appointmentTable.Put(tx, e)
}

// newUUID makes a random UUID, version 4 (RFC 9562 section 5.4).
func newUUID() string {
	b, err := hex.DecodeString(keytext.RandomHex(16))
	if err != nil {
		panic(err) // RandomHex gives hex digits
	}
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	s := hex.EncodeToString(b)
	return strings.Join([]string{s[:8], s[8:12], s[12:16], s[16:20], s[20:]}, "-")
}

// span is an event of a range before its record is read.
type span struct {
	ID         uint64
	Start, End time.Time
	State      int // place in eventStates
}

// eventsBetween gives the events under the beginnings of index entries, as
// Scope.Keys gives them, that overlap a range, by their start: those that
// begin before its end and end after its beginning.
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
	slices.SortFunc(all, func(a, b span) int { return cmp.Or(a.Start.Compare(b.Start), cmp.Compare(a.ID, b.ID)) })
	return slices.Compact(all) // one of mine in a team of mine stands in both
}

// stateFilter gives what leaves of a list of events those of a state, and all of
// them for "". It takes the list over.
func stateFilter(status string) (func([]span) []span, error) {
	state := slices.Index(eventStates(), status)
	switch {
	case status == "":
		return func(all []span) []span { return all }, nil
	case state < 0:
		return nil, ErrValidation.With("status must be one of %v; got %q.", eventStates(), status)
	}
	return func(all []span) []span {
		return slices.DeleteFunc(all, func(s span) bool { return s.State != state })
	}, nil
}

// dueReminders gives up to most events whose reminder is due, the first first.
func dueReminders(tx *Tx, now time.Time, most int) (events []event, err error) {
	for at, key := range appointmentTable.Find(tx, "remind", nil, false) {
		if len(events) == most || keyTime(at).After(now) {
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

// getEvents reads the records of events.
func getEvents(tx *Tx, spans []span) (events []event, err error) {
	for _, s := range spans {
		e, err := appointmentTable.Get(tx, IDKey(s.ID))
		if err != nil {
			return nil, err
		}
		events = append(events, e)
	}
	return events, nil
}

// Row is an event as lists show it (contract 7.1).
func (e event) Row(tx *Tx) map[string]any {
	row := map[string]any{
		"id": e.ID, "uuid": e.UUID, "title": e.Title, "event_type": e.Kind, "status": e.Status, "start_time": Millis(e.Start), "end_time": Millis(e.End),
		"duration_minutes": int(e.End.Sub(e.Start) / time.Minute), "location": TextOrNone(e.Location), "has_video_conference": e.Video,
		"video_conference_url": TextOrNone(e.VideoURL), "created_by_ai_agent": e.ByAgent, "ai_agent": nil,
		"customer": map[string]any{"name": TextOrNone(e.CustomerName), "email": TextOrNone(e.CustomerEmail), "phone": TextOrNone(e.CustomerPhone)},
	}
	if agent, err := GetAgent(tx, e.AgentID); err == nil {
		row["ai_agent"] = agent.Brief()
	}
	return row
}

// Detail is an event as GET /calendar/events/{event_id} shows it (7.2).
func (e event) Detail(tx *Tx) map[string]any {
	shown := e.Row(tx)
	shown["description"], shown["event_type_display"], shown["status_display"] = TextOrNone(e.Description), DisplayWord(e.Kind), DisplayWord(e.Status)
	shown["video_conference_provider"], shown["is_reminder_enabled"], shown["remind_before_minutes"] = TextOrNone(e.VideoProvider), e.Remind, e.RemindBefore
	shown["created_at"], shown["updated_at"], shown["ics_url"] = Millis(e.CreatedAt), Millis(e.UpdatedAt), e.ICSPath()
	shown["customer"].(map[string]any)["notes"] = TextOrNone(e.CustomerNotes)
	shown["team"] = nil
	if team := TeamBrief(tx, e.TeamID); team != nil {
		shown["team"] = team
	}
	// There are no connectors to other calendars (contract 7).
	shown["external_calendars"] = map[string]any{"google": nil, "outlook": nil, "gohighlevel": nil}
	return shown
}

// ICSPath is where the event is had as an iCalendar file (contract 7.7).
func (e event) ICSPath() string { return "/calendar/event/" + e.UUID + "/calendar.ics" }

// parseMoment reads a date and a time of ISO 8601, to the millisecond. One
// without an offset is UTC (contract 7.3).
func parseMoment(text string) (time.Time, bool) {
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04Z07:00", "2006-01-02T15:04:05", "2006-01-02T15:04"} {
		if t, err := time.Parse(layout, text); err == nil {
			t = t.UTC().Truncate(time.Millisecond)
			// The first instant of all stands for none, and its like has no form to be told in.
			return t, !t.IsZero() && t.Year() > 0 && t.Year() < 10000
		}
	}
	return time.Time{}, false
}

// readEvent sets what a body says of an event: all of it for POST and PUT,
// where what is left out has its default, and what was sent for PATCH. Errors
// are in the order of contract 7.3.
func readEvent(b *Body, method string, e event) (event, error) {
	if method != http.MethodPatch {
		for _, name := range []string{"title", "start_time", "end_time"} {
			if raw := b.Raw(name); !b.Given(name) || string(raw) == `""` {
				return e, ErrMissing.With("%s is missing.", name)
			}
		}
		e = event{
			ID: e.ID, UUID: e.UUID, Owner: e.Owner, ByAgent: e.ByAgent, Notify: e.Notify, CreatedAt: e.CreatedAt, RemindedFor: e.RemindedFor,
			Kind: eventKinds()[0], Status: eventScheduled, Remind: true, RemindBefore: 60,
		}
	}
	for name, into := range map[string]*time.Time{"start_time": &e.Start, "end_time": &e.End} {
		if err := readMoment(b, name, into); err != nil {
			return e, err
		}
	}
	for _, text := range []struct {
		name string
		into *string
	}{
		{"title", &e.Title}, {"description", &e.Description}, {"location", &e.Location}, {"video_conference_url", &e.VideoURL},
		{"video_conference_provider", &e.VideoProvider}, {"customer_name", &e.CustomerName}, {"customer_email", &e.CustomerEmail},
		{"customer_phone", &e.CustomerPhone}, {"customer_notes", &e.CustomerNotes},
	} {
		b.String(text.name, text.into)
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
	var unused bool // there are no calendars to synchronise with, and nobody to notify but by webhook
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

// readFlag reads true or false; null is as left out.
func readFlag(b *Body, name string, into *bool) {
	if b.Given(name) {
		b.Bool(name, into)
	}
}

func readMoment(b *Body, name string, into *time.Time) error {
	if !b.Given(name) {
		return nil
	}
	bad := ErrDatetime.With("%s must be an ISO 8601 date and time, such as 2026-03-02T09:00:00Z.", name)
	text := ""
	if raw := b.Raw(name); raw[0] != '"' {
		return bad
	}
	if b.String(name, &text); b.Err() != nil {
		return b.Err()
	}
	t, ok := parseMoment(text)
	if !ok {
		return bad
	}
	*into = t
	return nil
}

// ICS serves events as iCalendar files (RFC 5545). No key is asked for, since
// calendar programs cannot send one: the random UUID is the secret (contract
// 7.7).
type ICS struct{ store *Store }

// NewICS serves the events of a store.
func NewICS(store *Store) *ICS { return &ICS{store} }

// OpenRoutes lists the endpoints, which need no key.
func (i *ICS) OpenRoutes() []Route {
	return []Route{{Method: "GET", Path: "/calendar/event/:uuid/calendar.ics", Handle: i.get}}
}

func (i *ICS) get(w http.ResponseWriter, r *Request) error {
	uuid := r.Params.ByName("uuid")
	if len(uuid) != 36 { // or the number of an event would do, which can be guessed
		return ErrNotFound
	}
	var e event
	err := i.store.View(func(tx *Tx) (err error) {
		e, err = findEvent(tx, uuid)
		return err
	})
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", "text/calendar; charset=utf-8")
	h.Set("Content-Disposition", `inline; filename="calendar.ics"`)
	h.Set("Cache-Control", "private, no-cache")
	h.Set("Referrer-Policy", "no-referrer")
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write([]byte(e.file()))
	return nil
}

// file gives the event as an iCalendar file.
func (e event) file() string {
	return e.calendar().Serialize(ics.WithNewLine("\r\n")) // RFC 5545 section 3.1
}

// calendar gives the event alone, without notes or data of the customer.
func (e event) calendar() *ics.Calendar {
	c := ics.NewCalendar()
	c.SetProductId("-//Latchkey//EN")
	c.SetMethod(ics.MethodPublish)
	v := c.AddEvent(e.UUID)
	v.SetDtStampTime(e.UpdatedAt)
	v.SetCreatedTime(e.CreatedAt)
	v.SetModifiedAt(e.UpdatedAt)
	v.SetStartAt(e.Start)
	v.SetEndAt(e.End)
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
		v.SetStatus(ics.ObjectStatusCancelled)
	default: // completed and no_show took place, or were to, as agreed
		v.SetStatus(ics.ObjectStatusConfirmed)
	}
	if e.Remind {
		alarm := v.AddAlarm()
		alarm.SetAction(ics.ActionDisplay)
		alarm.SetDescription(icsText(e.Title))
		alarm.SetTrigger("-PT" + strconv.Itoa(e.RemindBefore) + "M")
	}
	return c
}

// icsText leaves out of a text what the format has no way to write: control
// characters but tabs and line ends (RFC 5545 section 3.3.11). As they are they
// would end the line, for some readers, and begin another property.
func icsText(s string) string {
	s = strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(s)
	return strings.Map(func(c rune) rune {
		if unicode.IsControl(c) && c != '\n' && c != '\t' {
			return -1
		}
		return c
	}, s)
}

// icsURL gives an address as the format has it, "" for what is none of the
// web: it is written without any escaping, so that anything else could bring
// lines of its own.
func icsURL(s string) string {
	u, err := url.Parse(strings.TrimSpace(s)) // fails at control characters
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return ""
	}
	return u.String()
}
