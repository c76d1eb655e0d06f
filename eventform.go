package main

import (
	"net/http"
	"strings"
	"time"
)

// ParseMoment reads a date and a time of ISO 8601, to the millisecond. One
// without an offset is UTC (contract 7.3).
func ParseMoment(text string) (time.Time, bool) {
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04Z07:00", "2006-01-02T15:04:05", "2006-01-02T15:04"} {
		if t, err := time.Parse(layout, text); err == nil {
			t = t.UTC().Truncate(time.Millisecond)
			// The first instant of all stands for none, and its like has no form to be told in.
			return t, !t.IsZero() && t.Year() > 0 && t.Year() < 10000
		}
	}
	return time.Time{}, false
}

// ReadEvent sets what a body says of an event: all of it for POST and PUT,
// where what is left out has its default, and what was sent for PATCH. Errors
// are in the order of contract 7.3.
func ReadEvent(b *Body, method string, e Appointment) (Appointment, error) {
	if method != http.MethodPatch {
		for _, name := range []string{"title", "start_time", "end_time"} {
			if raw := b.Raw(name); !b.Given(name) || string(raw) == `""` {
				return e, ErrMissing.With("%s is missing.", name)
			}
		}
		e = Appointment{
			ID: e.ID, UUID: e.UUID, Owner: e.Owner, ByAgent: e.ByAgent, Notify: e.Notify, CreatedAt: e.CreatedAt, RemindedFor: e.RemindedFor,
			Kind: EventKinds()[0], Status: EventScheduled, Remind: true, RemindBefore: 60,
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
	states := EventStates()
	if method == http.MethodPost {
		states = states[:2]
		e.Notify = true
		readFlag(b, "created_by_ai_agent", &e.ByAgent)
		readFlag(b, "send_notifications", &e.Notify)
	}
	if b.Given("event_type") {
		b.Word("event_type", &e.Kind, EventKinds()...)
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
	t, ok := ParseMoment(text)
	if !ok {
		return bad
	}
	*into = t
	return nil
}
