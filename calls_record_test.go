package main

import (
	"encoding/json"
	"errors"
	"testing"
	"time"
)

// A lease holds up to its end, and not at it; a call lapses at the same moment.
func TestLease_Bounds(t *testing.T) {
	a := newCallApp(t)
	_, key := a.key(everyPermission)
	if w := a.ask("POST", "/api/v1/calls", key, `{"phone_number": "+4930555044", "agent_id": 1}`); w.Code != 201 {
		t.Fatalf("got %d %s", w.Code, w.Body)
	}
	lease := a.operate(200, "POST", "/admin/v1/calls/claim", `{"lease_seconds": 60}`)["lease"].(map[string]any)
	text, _ := json.Marshal(map[string]any{"lease_token": lease["token"]})
	_ = a.Store.View(func(tx *Tx) error {
		c, err := findCall(tx, "1")
		if err != nil {
			t.Fatal(err)
		}
		for after, holds := range map[time.Duration]bool{-time.Nanosecond: true, 0: false, time.Nanosecond: false} {
			body, err := ParseBody(text)
			if err != nil {
				t.Fatal(err)
			}
			now := c.Lease.Until.Add(after)
			if err := c.CheckLease(body, now); (err == nil) != holds {
				t.Errorf("%s after the end: got %v, want that it holds: %v", after, err, holds)
			}
			if calls, err := lapsedCalls(tx, now, 10); (len(calls) == 0) != holds || err != nil {
				t.Errorf("%s after the end: %d calls have lapsed, %v; want that it holds: %v", after, len(calls), err, holds)
			}
		}
		return nil
	})
}

// A call may end as it starts, but not before.
func TestMove_EndAndStart(t *testing.T) {
	a := newCallApp(t)
	for after, ok := range map[time.Duration]bool{-time.Nanosecond: false, 0: true, time.Nanosecond: true} {
		err := a.Store.Update(func(tx *Tx) error {
			c := call{Owner: 1, Status: callInProgress, StartedAt: epoch, EndedAt: epoch.Add(after)}
			return move(tx, &c, callCompleted, epoch)
		})
		if (err == nil) != ok || err != nil && !errors.Is(err, ErrValidation) {
			t.Errorf("ends %s after its start: got %v, want ok %v", after, err, ok)
		}
	}
}

// A call whose dialer went silent ends with its lease, and not before it started.
func TestLapse_EndsWithTheLease(t *testing.T) {
	a := newCallApp(t)
	for after, want := range map[time.Duration]time.Duration{-time.Second: 0, 0: 0, time.Second: time.Second} {
		err := a.Store.Update(func(tx *Tx) error {
			c, err := saveCall(tx, call{Owner: 1, Status: callInProgress, Type: callTypes()[0], CreatedAt: epoch, StartedAt: epoch, Lease: lease{Until: epoch.Add(after)}})
			if err != nil {
				return err
			}
			if err := lapse(tx, epoch.Add(time.Minute)); err != nil {
				return err
			}
			if c, err = callTable.Get(tx, IDKey(c.ID)); c.Status != callFailed || !c.EndedAt.Equal(epoch.Add(want)) {
				t.Errorf("a lease that ends %s after the start: got %s at %s, want it failed %s after", after, c.Status, c.EndedAt, want)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
