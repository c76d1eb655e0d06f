package main

import (
	"fmt"
	"time"
)

// The limits of the contract (1.6).
const (
	RequestsPerMinute = "requests_per_minute_limit"
	CallsPerDay       = "calls_per_day_limit"
	EventsPerDay      = "calendar_events_per_day_limit"
)

// The limits beside them that all keys of an owner share.
const (
	OwnerRequestsPerMinute = "owner_" + RequestsPerMinute
	OwnerCallsPerDay       = "owner_" + CallsPerDay
	OwnerEventsPerDay      = "owner_" + EventsPerDay
)

// Limit allows Max units in any span of length Window. Windows under an hour
// are counted in memory, ahead of which a reserve is stored; longer ones in
// the transaction that stores what was paid for.
type Limit struct {
	Name   string
	Max    int
	Window time.Duration
}

// MaxLimit is the largest limit that there may be.
const MaxLimit = 1_000_000_000

// Short says whether the limit is counted in memory.
func (l Limit) Short() bool { return l.Window < time.Hour }

// Standing tells how a limit stands after a check.
type Standing struct {
	Limit Limit
	Used  int
	Next  time.Duration // until the oldest unit comes back, 0 when none is used
	Wait  time.Duration // until one more unit passes, 0 when one does now
}

// Remaining is how many more units pass now.
func (s Standing) Remaining() int { return max(0, s.Limit.Max-s.Used) }

// StandingOf tells how a limit stands that is counted in a window.
func StandingOf(w *Window, limit Limit, now time.Time) Standing {
	return Standing{Limit: limit, Used: w.Used(now), Next: w.Next(now), Wait: w.Wait(now, 1)}
}

// ReadQuota reads the window of a long limit.
func ReadQuota(tx *Tx, id string, limit Limit) (Window, error) {
	value, err := tx.Get("quotas", MeterKey(id, limit.Name))
	if err != nil || value == nil {
		return NewWindow(limit.Max, limit.Window), err
	}
	w, _, err := ReadWindow(value, limit.Max, limit.Window)
	if err != nil {
		return w, fmt.Errorf("read limit %s of %s: %w", limit.Name, id, err)
	}
	return w, nil
}

// MeterKey is the key under which a limit of an id is stored.
func MeterKey(id, limit string) []byte { return []byte(id + "\x00" + limit) }
