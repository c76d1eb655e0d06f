package main

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// outboxProblems returns what the check of the tables of webhooks reports.
func outboxProblems(tx *Tx) (problems []string) {
	for _, table := range append(WebhookTables(), OutboxTables()...) {
		if err := table.Check(tx, func(problem string) { problems = append(problems, problem) }); err != nil {
			problems = append(problems, err.Error())
		}
	}
	return problems
}

// outboxModel is what the queues must have, by webhook: the bodies that are pending, oldest first.
type outboxModel struct {
	pending map[uint64][]string
	bounds  Bounds
	rt      *rapid.T
}

// holds compares the store with the model.
func (m *outboxModel) holds(s *Store, did string) {
	m.rt.Helper()
	err := s.View(func(tx *Tx) error {
		if problems := outboxProblems(tx); len(problems) > 0 {
			m.rt.Fatalf("after %s: %q", did, problems)
		}
		for id, want := range m.pending {
			q, err := findQueue(tx, id)
			if err != nil {
				return err
			}
			var got []string
			for event, seen := q.Head, map[uint64]int{}; event != 0; {
				e, err := findOutboxEvent(tx, event)
				if err != nil {
					return err
				}
				body, err := findBody(tx, event)
				if err != nil {
					return err
				}
				i := e.delivery(id, seen[event])
				seen[event]++
				got, event = append(got, string(body)), e.Pending[i].Next
			}
			if strings.Join(got, " ") != strings.Join(want, " ") || q.Waiting != len(want) {
				m.rt.Fatalf("after %s: webhook %d has %q (%d), want %q", did, id, got, q.Waiting, want)
			}
			if q.Waiting > m.bounds.WebhookWaiting || q.Bytes > m.bounds.WebhookWaitingBytes || q.LogBytes > m.bounds.WebhookLogBytes {
				m.rt.Fatalf("after %s: webhook %d exceeds a bound: %+v", did, id, q)
			}
		}
		for o, err := range backlogTable.All(tx, Forward) {
			if err != nil || o.Bytes > m.bounds.OwnerWaitingBytes {
				m.rt.Fatalf("after %s: the backlog of owner %d is %+v, %v", did, o.Owner, o, err)
			}
		}
		return nil
	})
	if err != nil {
		m.rt.Fatal(err)
	}
}

// sync reads the queues into the model after bounds may have dropped something, and requires that
// only the oldest deliveries are missing.
func (m *outboxModel) sync(s *Store, added string, to []uint64) {
	err := s.View(func(tx *Tx) error {
		for id, had := range m.pending {
			q, err := findQueue(tx, id)
			if err != nil {
				return err
			}
			for _, receiver := range to {
				if receiver == id {
					had = append(had, added)
				}
			}
			if q.Waiting > len(had) {
				m.rt.Fatalf("webhook %d has %d pending, at most %d were queued", id, q.Waiting, len(had))
			}
			m.pending[id] = had[len(had)-q.Waiting:]
		}
		return nil
	})
	if err != nil {
		m.rt.Fatal(err)
	}
}

// TestOutbox_Property publishes, delivers, fails, sends again, discards and deletes at random, with
// changes that are undone in between. The references and the counters stay exact.
func TestOutbox_Property(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := newTestStore(t)
		m := &outboxModel{map[uint64][]string{}, Bounds{WebhookWaiting: 6, WebhookWaitingBytes: 300, OwnerWaitingBytes: 400, WebhookLogBytes: 200}, rt}
		s.SetBounds(m.bounds)
		update := func(run func(tx *Tx) error) {
			if rapid.IntRange(0, 5).Draw(rt, "undone") == 0 { // as after a crash before the commit
				undo := errors.New("undone")
				if err := s.Update(func(tx *Tx) error { return errors.Join(run(tx), undo) }); !errors.Is(err, undo) {
					rt.Fatal(err)
				}
				m.holds(s, "a change that was undone")
			}
			if err := s.Update(run); err != nil {
				rt.Fatal(err)
			}
		}
		update(func(tx *Tx) error {
			for id := range uint64(6) {
				w := webhook{ID: id + 1, Owner: id / 2, Name: "w", Events: []string{"call.ended"}, Active: true}
				if err := saveWebhook(tx, w); err != nil {
					return err
				}
			}
			return nil
		})
		for id := range uint64(6) {
			m.pending[id+1] = nil
		}
		steps := rapid.IntRange(5, 40).Draw(rt, "steps")
		for n := range steps {
			now := epoch.Add(time.Duration(n) * time.Second)
			id := uint64(rapid.IntRange(1, 6).Draw(rt, "webhook"))
			_, exists := m.pending[id]
			switch did := rapid.SampledFrom([]string{"publish", "publish", "publish", "succeed", "succeed", "fail", "again", "discard", "delete", "sweep"}).Draw(rt, "step"); did {
			case "publish":
				body := fmt.Sprintf("%d:%s", n, strings.Repeat("x", rapid.IntRange(0, 120).Draw(rt, "size")))
				owner := uint64(rapid.IntRange(0, 2).Draw(rt, "owner"))
				var to []uint64
				update(func(tx *Tx) (err error) {
					if to, err = subscriptions(tx, "call.ended", 0, owner); err != nil || len(to) == 0 {
						return err
					}
					return enqueue(tx, outboxEvent{Owner: owner, Type: "call.ended", At: now}, []byte(body), to)
				})
				m.sync(s, body, to)
				m.holds(s, did)
			case "succeed", "fail":
				if !exists || len(m.pending[id]) == 0 {
					continue
				}
				status, attempts := 200, 1
				if did == "fail" {
					status, attempts = 500, len(schedule())+1
				}
				update(func(tx *Tx) error {
					for range attempts {
						d, err := nextDelivery(tx, id, now.Add(1000*time.Hour))
						if err != nil {
							return err
						}
						if string(d.Body) != m.pending[id][0] {
							return fmt.Errorf("got %q, want %q", d.Body, m.pending[id][0])
						}
						if _, err := Settle(tx, d, Attempt{Status: status, At: now}, now); err != nil {
							return err
						}
					}
					return nil
				})
				m.pending[id] = m.pending[id][1:]
				m.holds(s, did)
			case "again":
				if !exists {
					continue
				}
				var body string
				update(func(tx *Tx) error {
					body = ""
					list, _, err := attempts(tx, id, func(count int) (from, to int) { return 0, count })
					for _, a := range list {
						if a.Kept != 0 && body == "" {
							text, err1 := findBody(tx, a.Kept)
							d, err2 := repeat(tx, id, a.Number, now)
							if err = errors.Join(err, err1, err2); d.ID != a.Delivery {
								err = errors.Join(err, fmt.Errorf("got the delivery %s, want %s", d.ID, a.Delivery))
							}
							body = string(text)
						}
					}
					return err
				})
				if body != "" {
					m.sync(s, body, []uint64{id})
					m.holds(s, did)
				}
			case "discard":
				update(func(tx *Tx) error {
					_, err := discardBefore(tx, now.Add(-5*time.Second), now)
					return err
				})
				m.sync(s, "", nil)
				m.holds(s, did)
			case "delete":
				if !exists {
					continue
				}
				update(func(tx *Tx) error { return RemoveWebhook(tx, id) })
				delete(m.pending, id)
				m.holds(s, did)
			case "sweep":
				if err := SweepOutbox(s, now); err != nil {
					rt.Fatal(err)
				}
				m.holds(s, did)
			}
		}
		for id := range m.pending {
			update(func(tx *Tx) error { return RemoveWebhook(tx, id) })
		}
		if err := SweepOutbox(s, epoch); err != nil {
			rt.Fatal(err)
		}
		_ = s.View(func(tx *Tx) error {
			for _, bucket := range []string{"webhook_events", "webhook_bodies", "webhook_backlogs", "webhook_log", "webhook_queues"} {
				if n := tx.Count(bucket); n > 0 {
					rt.Fatalf("%s has %d records after all webhooks were deleted", bucket, n)
				}
			}
			return nil
		})
		if err := s.Close(); err != nil {
			rt.Fatal(err)
		}
	})
}

// storedBytes returns the size of everything that is stored.
func storedBytes(a *testApp) (n int) {
	_ = a.Store.View(func(tx *Tx) error {
		return tx.Walk(func(_ string, key, stored []byte) error {
			n += len(key) + len(stored)
			return nil
		})
	})
	return n
}

// TestOutbox_ManyWebhooks compares what a change stores with one webhook and with fifty, whose
// receivers are away.
func TestOutbox_ManyWebhooks(t *testing.T) {
	grown := map[int]int{}
	for _, hooks := range []int{1, maxWebhooks} {
		a := newHookApp(t)
		for range hooks {
			a.hook("http://127.0.0.1:1/", "ann", "calendar.updated")
		}
		a.operate(201, "POST", "/admin/v1/events", `{"title": "Visit", "owner": "ann", "start_time": "2026-02-09T10:00:00Z", "end_time": "2026-02-09T11:00:00Z"}`)
		patch := func(from, to int) {
			for n := from; n < to; n++ {
				a.operate(200, "PATCH", "/admin/v1/events/1", fmt.Sprintf(`{"title": "Visit %d"}`, n))
			}
		}
		patch(100, 110)
		before := storedBytes(a)
		patch(110, 130)
		grown[hooks] = storedBytes(a) - before
		if got := a.webhook(1)["waiting"]; got != 30.0 {
			t.Fatalf("got %v waiting, want 30", got)
		}
	}
	if grown[1] == 0 || grown[maxWebhooks] > 2*grown[1] {
		t.Errorf("20 changes store %d bytes with 1 webhook and %d with %d, want at most twice as much", grown[1], grown[maxWebhooks], maxWebhooks)
	}
}

// TestOutbox_Bounds fills queues to a bound, and beyond it by one.
func TestOutbox_Bounds(t *testing.T) {
	const size = 100
	for _, tt := range []struct {
		name   string
		bounds Bounds
		cause  string
	}{
		{"deliveries", Bounds{WebhookWaiting: 3}, "dropped unsent: more than 3 deliveries are pending"},
		{"bytes", Bounds{WebhookWaitingBytes: 3 * size}, "dropped unsent: more than 300 bytes are pending"},
		{"bytes of the owner", Bounds{OwnerWaitingBytes: 3 * size}, "dropped unsent: more than 300 bytes are pending for the webhooks of the owner"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newTestStore(t)
			publish := func(n int) {
				t.Helper()
				err := s.Update(func(tx *Tx) error {
					body := fmt.Appendf(nil, "%0*d", size, n)
					return enqueue(tx, outboxEvent{Owner: 1, Type: "call.ended", At: epoch}, body, []uint64{1, 2})
				})
				if err != nil {
					t.Fatal(err)
				}
			}
			check := func(first, waiting, dropped int) {
				t.Helper()
				_ = s.View(func(tx *Tx) error {
					for id := uint64(1); id <= 2; id++ {
						q, err := findQueue(tx, id)
						body, err2 := findBody(tx, q.Head)
						if want := fmt.Sprintf("%0*d", size, first); err != nil || err2 != nil || string(body) != want || q.Waiting != waiting || int(q.Dropped) != dropped {
							t.Errorf("webhook %d begins with %s and has %d pending, %d dropped (%v); want %d, %d, %d", id, bytes.TrimLeft(body, "0"), q.Waiting, q.Dropped, errors.Join(err, err2), first, waiting, dropped)
						}
						log, count, err := attempts(tx, id, func(count int) (from, to int) { return 0, count })
						if dropped > 0 && (err != nil || count != 1 || log[0].Dropped != dropped || log[0].Outcome() != tt.cause) {
							t.Errorf("webhook %d: got the log %+v, %v; want one entry of %d with %q", id, log, err, dropped, tt.cause)
						}
					}
					if n, err := DroppedDeliveries(tx); err != nil || int(n) != 2*dropped {
						t.Errorf("got %d dropped, %v; want %d", n, err, 2*dropped)
					}
					if problems := outboxProblems(tx); len(problems) > 0 {
						t.Error(problems)
					}
					return nil
				})
			}
			err := s.Update(func(tx *Tx) error {
				return errors.Join(saveWebhook(tx, webhook{ID: 1, Owner: 1, Active: true}), saveWebhook(tx, webhook{ID: 2, Owner: 1, Active: true}))
			})
			if err != nil {
				t.Fatal(err)
			}
			for n := range 5 { // without a bound
				publish(n + 1)
			}
			check(1, 5, 0)
			s.SetBounds(tt.bounds) // lowered below what is pending
			publish(6)
			check(4, 3, 3)
			for n := 7; n <= 20; n++ {
				publish(n)
			}
			check(18, 3, 17)
			lower := Bounds{WebhookWaiting: tt.bounds.WebhookWaiting / 3, WebhookWaitingBytes: tt.bounds.WebhookWaitingBytes / 3, OwnerWaitingBytes: tt.bounds.OwnerWaitingBytes / 3}
			s.SetBounds(lower)
			if err := SweepOutbox(s, epoch); err != nil {
				t.Fatal(err)
			}
			_ = s.View(func(tx *Tx) error {
				if q, err := findQueue(tx, 1); err != nil || q.Waiting != 1 {
					t.Errorf("after a lower bound and a sweep: got %d waiting, %v; want 1", q.Waiting, err)
				}
				return nil
			})
		})
	}
}

// TestOutbox_TooLarge publishes an event that no bound admits. What is pending stays.
func TestOutbox_TooLarge(t *testing.T) {
	a := newHookApp(t)
	id, _ := a.hook("http://127.0.0.1:1/", "", "call.ended")
	a.raise(WebhookEvent{Type: "call.ended", Owner: 1}, 1)
	b := a.config.Bounds
	b.WebhookWaitingBytes = 100
	a.Store.SetBounds(b)
	err := a.Store.Update(func(tx *Tx) error {
		return Publish(tx, WebhookEvent{Type: "call.ended", Owner: 1, At: epoch, Body: map[string]any{"text": strings.Repeat("x", 100)}})
	})
	if err != nil {
		t.Fatal(err)
	}
	shown := a.webhook(id)
	if shown["waiting"] != 1.0 || shown["dropped"] != 1.0 {
		t.Errorf("got %v, want the first event pending and the second dropped", shown)
	}
	if row := a.webhookLog(id)[0].(map[string]any); row["error"] != "dropped unsent: larger than the 100 bytes that can be pending" || row["dropped"] != 1.0 {
		t.Errorf("got the log entry %v", row)
	}
}

// TestOutbox_LogBytes keeps bodies up to the bound on the log.
func TestOutbox_LogBytes(t *testing.T) {
	s := newTestStore(t)
	s.SetBounds(Bounds{WebhookLogBytes: 1000})
	err := s.Update(func(tx *Tx) error {
		for range 5 {
			if err := addReplayable(tx, Attempt{Webhook: 1, Event: "call.ended", At: epoch, Attempt: 1}, make([]byte, 300)); err != nil {
				return err
			}
		}
		list, _, err := attempts(tx, 1, func(count int) (from, to int) { return 0, count })
		for i, a := range list {
			if kept := a.Kept != 0; kept != (i < 3) {
				t.Errorf("entry %d from the newest: kept %v", i, kept)
			}
		}
		if problems := outboxProblems(tx); len(problems) > 0 || tx.Count("webhook_bodies") != 3 {
			t.Errorf("got %d bodies, %q; want 3", tx.Count("webhook_bodies"), problems)
		}
		_, gone := repeat(tx, 1, 1, epoch)
		if !errors.Is(gone, ErrConflict) {
			t.Errorf("got %v, want ErrConflict for an entry that has lost its body", gone)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestOutbox_Check damages each reference and each counter in turn.
func TestOutbox_Check(t *testing.T) {
	s := newTestStore(t)
	undo := errors.New("undo")
	for name, damage := range map[string]func(tx *Tx) error{
		"a missing body":  func(tx *Tx) error { return bodyTable.Delete(tx, IDKey(1)) },
		"a missing event": func(tx *Tx) error { return eventTable.Delete(tx, IDKey(1)) },
		"an orphan": func(tx *Tx) error {
			return errors.Join(eventTable.Put(tx, outboxEvent{ID: 9}), bodyTable.Put(tx, outboxBody{Event: 9}))
		},
		"the number of a queue": func(tx *Tx) error {
			q, err := findQueue(tx, 1)
			q.Waiting++
			return errors.Join(err, queueTable.Put(tx, q))
		},
		"the bytes of a queue": func(tx *Tx) error {
			q, err := findQueue(tx, 1)
			q.Bytes--
			return errors.Join(err, queueTable.Put(tx, q))
		},
		"the bytes of a log": func(tx *Tx) error {
			q, err := findQueue(tx, 1)
			q.LogBytes--
			return errors.Join(err, queueTable.Put(tx, q))
		},
		"the references of logs": func(tx *Tx) error {
			e, err := findOutboxEvent(tx, 2)
			e.Kept++
			return errors.Join(err, eventTable.Put(tx, e))
		},
		"a backlog":         func(tx *Tx) error { return backlogTable.Put(tx, ownerBacklog{Events: 1, Bytes: 1}) },
		"a missing backlog": func(tx *Tx) error { return backlogTable.Delete(tx, IDKey(0)) },
	} {
		err := s.Update(func(tx *Tx) error {
			err := errors.Join(
				push(tx, delivery{Webhook: 1, Event: "call.ended", Body: []byte("{}"), At: epoch}),
				addReplayable(tx, Attempt{Webhook: 1, Event: "call.ended", At: epoch, Attempt: 1}, []byte("{}")),
			)
			if problems := outboxProblems(tx); err != nil || len(problems) > 0 {
				return fmt.Errorf("%w, %q", err, problems)
			}
			if err := damage(tx); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			if len(outboxProblems(tx)) == 0 {
				t.Errorf("%s: the check finds nothing", name)
			}
			return undo
		})
		if !errors.Is(err, undo) {
			t.Fatal(err)
		}
	}
}
