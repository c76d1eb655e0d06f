package main

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"unicode"

	ics "github.com/arran4/golang-ical"
)

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
	var e Appointment
	err := i.store.View(func(tx *Tx) (err error) {
		e, err = FindEvent(tx, uuid)
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
func (e Appointment) file() string {
	return e.calendar().Serialize(ics.WithNewLine("\r\n")) // RFC 5545 section 3.1
}

// calendar gives the event alone, without notes or data of the customer.
func (e Appointment) calendar() *ics.Calendar {
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
	case EventScheduled:
		v.SetStatus(ics.ObjectStatusTentative)
	case EventCancelled:
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
