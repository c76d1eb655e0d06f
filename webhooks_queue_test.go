package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// waiting gives which webhooks have a delivery.
func (a *testApp) waiting(ids ...uint64) (some []uint64) {
	for _, id := range ids {
		if a.webhook(id)["waiting"] != 0.0 {
			some = append(some, id)
		}
	}
	return some
}

// push queues an event for one webhook.
func push(tx *Tx, d delivery) error {
	return enqueue(tx, outboxEvent{Type: d.Event, At: d.At}, d.Body, []uint64{d.Webhook})
}

// withAttempt adds an attempt to the log of the webhook with this id and returns the id.
func (a *testApp) withAttempt(id string) string {
	a.t.Helper()
	hook, err := strconv.ParseUint(id, 10, 64)
	if err == nil {
		err = a.Store.Update(func(tx *Tx) error {
			return addReplayable(tx, Attempt{Webhook: hook, Delivery: newDeliveryID(), Event: "call.ended", At: epoch, Attempt: 1}, []byte("{}"))
		})
	}
	if err != nil {
		a.t.Fatal(err)
	}
	return id
}

// addReplayable adds a log entry with a body of its own to the log of a.Webhook.
func addReplayable(tx *Tx, a Attempt, body []byte) error {
	b := openOutbox(tx)
	e := outboxEvent{Type: a.Event, At: a.At}
	q, err := b.queue(a.Webhook)
	if err = errors.Join(err, b.addEvent(&e, body)); err != nil {
		return err
	}
	a.Kept = e.ID
	return errors.Join(b.log(q, a), b.flush())
}

// countPending returns the number of deliveries that are pending for all webhooks.
func countPending(tx *Tx) (int, error) {
	n, _, err := OutboxBacklog(tx)
	return n, err
}

// TestRaise_WhoHears has one webhook of everybody and looks who is told.
func TestRaise_WhoHears(t *testing.T) {
	a := newHookApp(t)
	operator, _ := a.hook("http://127.0.0.1:1", "", "call.ended", "key.created", "calendar.created")
	ann, _ := a.hook("http://127.0.0.1:1", "ann", "call.ended", "calendar.created")
	bob, _ := a.hook("http://127.0.0.1:1", "bob", "call.ended")
	cat, _ := a.hook("http://127.0.0.1:1", "cat", "call.ended")
	paused, _ := a.hook("http://127.0.0.1:1", "ann", "call.ended")
	a.operate(200, "PATCH", fmt.Sprintf("/admin/v1/webhooks/%d", paused), `{"is_active": false}`)
	team := uint64(a.operate(201, "POST", "/admin/v1/teams", `{"name": "Reception", "members": ["ann", "bob"]}`)["id"].(float64))
	owner := map[string]uint64{}
	for _, row := range a.operate(200, "GET", "/admin/v1/owners", "")["owners"].([]any) {
		o := row.(map[string]any)
		owner[o["name"].(string)] = uint64(o["id"].(float64))
	}
	for _, tt := range []struct {
		name string
		e    WebhookEvent
		want []uint64
	}{
		{"of ann", WebhookEvent{Type: "call.ended", Owner: owner["ann"]}, []uint64{operator, ann}},
		{"of ann in the team", WebhookEvent{Type: "call.ended", Owner: owner["ann"], Team: team}, []uint64{operator, ann, bob}},
		{"of cat in the team", WebhookEvent{Type: "call.ended", Owner: owner["cat"], Team: team}, []uint64{operator, ann, bob, cat}},
		{"of cat in a team that is gone", WebhookEvent{Type: "call.ended", Owner: owner["cat"], Team: 99}, []uint64{operator, cat}},
		{"of nobody", WebhookEvent{Type: "call.ended", Owner: 99}, []uint64{operator}},
		{"not subscribed", WebhookEvent{Type: "call.failed", Owner: owner["ann"], Team: team}, nil},
		{"the beginning of a name", WebhookEvent{Type: "call", Owner: owner["ann"]}, nil},
		{"calendar", WebhookEvent{Type: "calendar.created", Owner: owner["bob"], Team: team}, []uint64{operator, ann}},
		{"operator", WebhookEvent{Type: "key.created", Operator: true}, []uint64{operator}},
	} {
		before := map[uint64]float64{}
		all := []uint64{operator, ann, bob, cat, paused}
		for _, id := range all {
			before[id] = a.webhook(id)["waiting"].(float64)
		}
		a.raise(tt.e, 1)
		var got []uint64
		for _, id := range all {
			switch a.webhook(id)["waiting"].(float64) - before[id] {
			case 0:
			case 1:
				got = append(got, id)
			default:
				t.Errorf("%s: webhook %d is told more than once", tt.name, id)
			}
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
}

// TestRaise_WithItsChange has a change fail after it raised an event.
func TestRaise_WithItsChange(t *testing.T) {
	a := newHookApp(t)
	id, _ := a.hook("http://127.0.0.1:1", "", "call.ended")
	err := a.Store.Update(func(tx *Tx) error {
		if err := Publish(tx, WebhookEvent{Type: "call.ended", Owner: 1, At: epoch}); err != nil {
			return err
		}
		return ErrConflict
	})
	if err != ErrConflict || a.waiting(id) != nil {
		t.Errorf("got %v, waiting %v; want no event of a change that did not happen", err, a.waiting(id))
	}
}

func TestPayload(t *testing.T) {
	at := time.Date(2026, 2, 21, 8, 0, 0, 5_000_000, time.UTC)
	for _, tt := range []struct{ kind, want string }{
		{"call.ended", `{"a":"<&>","event_type":"call.ended","timestamp":"2026-02-21T08:00:00Z"}`},
		{"calendar.updated", `{"a":"<&>","event_type":"calendar.updated","timestamp":"2026-02-21T08:00:00.005Z"}`},
	} {
		if got, err := payload(WebhookEvent{Type: tt.kind, At: at, Body: map[string]any{"a": "<&>"}}); string(got) != tt.want || err != nil {
			t.Errorf("got %s, %v; want %s", got, err, tt.want)
		}
	}
}

// TestOutbox_IsBounded sends more than fits to a receiver that is away.
func TestOutbox_IsBounded(t *testing.T) {
	v := newReceiver(t, 500)
	a := newHookApp(t)
	id, _ := a.hook(v.URL, "", "call.ended")
	a.raise(WebhookEvent{Type: "call.ended", Owner: 1}, 0)
	a.send()
	const more = 10_005
	err := a.Store.Update(func(tx *Tx) error {
		for n := range more {
			if err := Publish(tx, WebhookEvent{Type: "call.ended", Owner: 1, At: epoch, Body: map[string]any{"n": n + 1}}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := a.webhook(id)["waiting"]; got != 10_000.0 {
		t.Errorf("got %v waiting, want 10000", got)
	}
	first := a.webhookLog(id)[0].(map[string]any)
	if text := fmt.Sprint(first["error"]); !strings.Contains(text, "dropped unsent") || first["attempt"] != 0.0 || first["success"] != false {
		t.Errorf("got %v, want the log to tell of it", first)
	}
	a.send()
	if n := len(v.all()); n != 1 {
		t.Errorf("got %d attempts, want the receiver left alone until it is due", n)
	}
	a.clocks.Pass(2 * time.Minute)
	for range 30 / inARow {
		if _, err := a.Sender.next(id); err != nil {
			t.Fatal(err)
		}
	}
	if got := v.all()[1].n(); got != 6 {
		t.Errorf("got event %d, want 6, the oldest that is left", got)
	}
}

// TestOutbox_LogIsBounded makes more attempts than are kept, lets them grow old
// and deletes the webhook.
func TestOutbox_LogIsBounded(t *testing.T) {
	a := newHookApp(t)
	id, _ := a.hook("http://127.0.0.1:1", "", "call.ended")
	count := func(tables ...string) (n int) {
		t.Helper()
		err := a.Store.View(func(tx *Tx) error {
			for _, name := range tables {
				k, err := (&Table[struct{}]{Name: name}).Count(tx)
				if n += k; err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	sweep := func() {
		t.Helper()
		if err := SweepOutbox(a.Store, a.clock.Now()); err != nil {
			t.Fatal(err)
		}
	}
	add := func(many int) {
		t.Helper()
		err := a.Store.Update(func(tx *Tx) error {
			for range many {
				if err := addReplayable(tx, Attempt{Webhook: id, At: a.clock.Now(), Status: 200}, make([]byte, maxReplay+1)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	add(maxAttempts + 100)
	if n := count("webhook_log"); n != maxAttempts {
		t.Errorf("got %d entries, want %d", n, maxAttempts)
	}
	page := a.operate(200, "GET", fmt.Sprintf("/admin/v1/webhooks/%d/logs?page=10&limit=100", id), "")
	if rows := page["logs"].([]any); page["count"] != float64(maxAttempts) || len(rows) != 100 || rows[99].(map[string]any)["id"] != 101.0 || rows[0].(map[string]any)["redeliverable"] != false {
		t.Errorf("got the last page %v", page)
	}
	if page := a.operate(200, "GET", fmt.Sprintf("/admin/v1/webhooks/%d/logs?page=11&limit=100", id), ""); len(page["logs"].([]any)) != 0 {
		t.Error("there is a page after the last")
	}
	a.clocks.Pass(20 * 24 * time.Hour)
	add(10)
	sweep()
	if n := count("webhook_log"); n != maxAttempts {
		t.Errorf("after 20 days: got %d entries, want all", n)
	}
	a.clocks.Pass(11 * 24 * time.Hour)
	sweep()
	if n := count("webhook_log"); n != 10 {
		t.Errorf("after 31 days: got %d entries, want the 10 younger ones", n)
	}
	for n := range 700 {
		a.raise(WebhookEvent{Type: "call.ended", Owner: 1}, n)
	}
	a.operate(200, "DELETE", fmt.Sprintf("/admin/v1/webhooks/%d", id), "")
	a.send()
	sweep()
	if n := count("webhook_log", "webhook_events", "webhook_bodies", "webhook_backlogs", "webhook_queues", "webhooks"); n != 0 {
		t.Errorf("got %d records of a deleted webhook, want none", n)
	}
	if next, _ := a.hook("http://127.0.0.1:1", "", "call.ended"); next == id {
		t.Error("the number of a deleted webhook is used again")
	}
}

// BenchmarkRaise is what an event costs a change, by how many webhooks hear it.
func BenchmarkRaise(b *testing.B) {
	for _, webhooks := range []int{0, 1, 10} {
		b.Run(fmt.Sprint(webhooks), func(b *testing.B) {
			a := newHookApp(b)
			for range webhooks {
				a.hook("http://127.0.0.1:1", "ann", "call.ended")
			}
			e := WebhookEvent{Type: "call.ended", Owner: 1, At: epoch, Body: map[string]any{"call": map[string]any{"id": 1, "status": "completed"}}}
			b.ReportAllocs()
			for done := false; !done; { // in transactions of a thousand, so that the disk is not measured
				err := a.Store.Update(func(tx *Tx) error {
					for range 1000 {
						if done = !b.Loop(); done {
							return nil
						}
						if err := Publish(tx, e); err != nil {
							return err
						}
					}
					return nil
				})
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// What the log keeps: bodies up to maxReplay, and entries for keepLog.
func TestOutbox_LogBounds(t *testing.T) {
	s := newTestStore(t)
	err := s.Update(func(tx *Tx) error {
		for i, size := range []int{maxReplay, maxReplay + 1} {
			if err := addReplayable(tx, Attempt{Webhook: 1, At: epoch}, make([]byte, size)); err != nil {
				return err
			}
			a, err := attemptTable.Get(tx, pairKey(1, uint64(i+1)))
			if kept := a.Kept != 0; err != nil || kept != (size <= maxReplay) {
				t.Errorf("a body of %d bytes: kept %v, %v", size, kept, err)
			}
		}
		q, err := findQueue(tx, 1)
		if err != nil {
			return err
		}
		for after, want := range map[time.Duration]bool{keepLog - 1: false, keepLog: false, keepLog + 1: true} {
			if old, err := q.old(tx, epoch.Add(after)); old != want || err != nil {
				t.Errorf("after %s: got old %v, %v; want %v", after, old, err, want)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A receiver that needs more than a second counts as slow; one that fails all
// the time is dead after deadAfter and deadAttempts, and after no less of either.
func TestSettle_Bounds(t *testing.T) {
	s := newTestStore(t)
	for _, tt := range []struct {
		name         string
		took         time.Duration
		status       int
		failed       int // before
		since        time.Duration
		slow, isDead bool
	}{
		{"a second", time.Second, 204, 0, 0, false, false},
		{"more than a second", time.Second + 1, 204, 0, 0, true, false},
		{"a failure", 0, 500, 0, 0, true, false},
		{"failed long and often", 0, 500, deadAttempts - 1, deadAfter, true, true},
		{"failed too seldom", 0, 500, deadAttempts - 2, deadAfter, true, false},
		{"failed not long enough", 0, 500, deadAttempts - 1, deadAfter - 1, true, false},
	} {
		err := s.Update(func(tx *Tx) error {
			q := queue{Webhook: 1, Next: 1, FirstLog: 1, NextLog: 1, Failed: tt.failed}
			if tt.failed > 0 {
				q.Failing = epoch.Add(-tt.since)
			}
			if err := queueTable.Put(tx, q); err != nil {
				return err
			}
			dead, err := Settle(tx, delivery{Webhook: 1, Number: 9}, Attempt{Status: tt.status, Took: tt.took, At: epoch}, epoch)
			if err != nil {
				return err
			}
			if q, err = findQueue(tx, 1); q.Slow != tt.slow || (dead != "") != tt.isDead {
				t.Errorf("%s: got slow %v, dead %q; want %v, %v", tt.name, q.Slow, dead, tt.slow, tt.isDead)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
