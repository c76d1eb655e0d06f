package main

import (
	"cmp"
	"errors"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// drawEvent draws an event, of which some are long and some have a team.
func drawEvent(rt *rapid.T, id uint64) event {
	e := event{ID: id, Title: "x", Kind: "meeting", Status: rapid.SampledFrom(eventStates()).Draw(rt, "status"), Owner: uint64(rapid.IntRange(1, 3).Draw(rt, "owner"))}
	e.TeamID = uint64(rapid.IntRange(0, 2).Draw(rt, "team"))
	e.Start = epoch.Add(time.Duration(rapid.IntRange(-72, 72).Draw(rt, "start")) * time.Hour)
	e.End = e.Start.Add(rapid.SampledFrom([]time.Duration{time.Millisecond, time.Hour, longEvent, longEvent + 1e6, 5 * longEvent}).Draw(rt, "length"))
	return e
}

// TestEventQuery compares lists of events with a look at each event.
func TestEventQuery(t *testing.T) {
	r := &Request{Request: httptest.NewRequest("GET", "/", nil)}
	rapid.Check(t, func(rt *rapid.T) {
		a := newTestApp(t)
		var events []event
		for range rapid.IntRange(1, 6).Draw(rt, "rounds") {
			err := a.Store.Update(func(tx *Tx) error {
				for range rapid.IntRange(0, 40).Draw(rt, "events") {
					i := rapid.IntRange(0, len(events)).Draw(rt, "which")
					old := event{}
					if i < len(events) {
						old = events[i]
					}
					e := drawEvent(rt, old.ID)
					e.UUID = old.UUID
					e, err := saveEvent(tx, e)
					if err != nil {
						return err
					}
					events = append(slices.Delete(events, i, min(i+1, len(events))), e)
				}
				return nil
			})
			if err != nil {
				rt.Fatal(err)
			}
			wantEvents(rt, a, r, events)
		}
		wantChecked(rt, a, &appointmentTable)
	})
}

func wantEvents(rt *rapid.T, a *testApp, r *Request, events []event) {
	offset := func(name string) time.Time {
		return epoch.Add(time.Duration(rapid.IntRange(-80, 80).Draw(rt, name))*time.Hour + rapid.SampledFrom([]time.Duration{0, 0, 1, -1}).Draw(rt, name+" more"))
	}
	from := offset("from")
	to := from.Add(time.Duration(rapid.IntRange(1, 100).Draw(rt, "hours")) * time.Hour)
	status := rapid.SampledFrom(append(eventStates(), "", "")).Draw(rt, "status filter")
	scope := Scope{Owner: uint64(rapid.IntRange(1, 3).Draw(rt, "scope")), Teams: []uint64{2}}
	anyone := rapid.Bool().Draw(rt, "of any owner")
	var want []event
	for _, e := range events {
		if e.Start.Before(to) && e.End.After(from) && (status == "" || e.Status == status) && (anyone || scope.Has(e.place())) {
			want = append(want, e)
		}
	}
	slices.SortFunc(want, func(a, b event) int { return cmp.Or(a.Start.Compare(b.Start), cmp.Compare(a.ID, b.ID)) })
	first := rapid.IntRange(0, len(want)).Draw(rt, "first")
	last := rapid.IntRange(first, len(want)).Draw(rt, "last")
	filters, err := statusFilter(status)
	q := eventQuery(r, from, to, filters...)
	if !anyone {
		q = scope.Query(EventRecord, q)
	}
	viewErr := a.Store.View(func(tx *Tx) error {
		got, count, err := appointmentTable.Page(tx, q, func(count int) (int, int) { return min(first, count), min(last, count) })
		same := slices.EqualFunc(got, want[first:last], func(a, b event) bool { return a.ID == b.ID })
		if count != len(want) || !same {
			rt.Errorf("%s to %s, status %q: got %d events, %v; want %d, %v", from, to, status, count, got, len(want), want[first:last])
		}
		return err
	})
	if err = errors.Join(err, viewErr); err != nil {
		rt.Fatal(err)
	}
}
