package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"latchkey/internal/keytext"
)

// storedOp is something that the program does within a transaction, and what
// comes of it.
type storedOp struct {
	name string
	run  func(tx *Tx) (any, error)
}

// trial runs an operation on a store that was harmed first, and takes both back.
// It gives the outcome, how much the operation wrote, and its error; see sees
// the transaction before and after it.
func (op storedOp) trial(t *testing.T, s *Store, harm func(*Tx) error, see func(*Tx)) (outcome string, writes int, err error) {
	t.Helper()
	undo := errors.New("undo")
	got := s.Update(func(tx *Tx) error {
		if err := harm(tx); err != nil {
			return err
		}
		see(tx)
		already := tx.Writes
		err = guarded(tx, func(tx *Tx) error {
			v, err := op.run(tx)
			if outcome = fmt.Sprint(v); err != nil {
				return err
			}
			return tx.flushChunks() // as the commit does
		})
		writes = tx.Writes - already
		see(tx)
		return errors.Join(undo, tx.Put("trial", []byte("x"), nil)) // so that there is something to take back
	})
	if !errors.Is(got, undo) {
		t.Fatalf("%s: %v", op.name, errors.Join(got, s.Err()))
	}
	return outcome, writes, err
}

// harmless is a harm that does none.
func harmless(*Tx) error { return nil }

// unseen looks at nothing.
func unseen(*Tx) {}

// writesTo lists the buckets and keys that an operation writes to, other than
// those of records that exist: they would look missing where writes to them fail.
func (op storedOp) writesTo(t *testing.T, s *Store) (changed [][2]string) {
	t.Helper()
	var states []map[[2]string]string
	_, _, _ = op.trial(t, s, harmless, func(tx *Tx) { states = append(states, storedValues(tx)) })
	before, after := states[0], states[1]
	for at := range after {
		before[at] += "" // so that before has all keys
	}
	for at, old := range before {
		if isRecord := len(old) > 5 && old[5] == '{'; after[at] != old && !isRecord {
			changed = append(changed, at)
		}
	}
	return changed
}

// storedValues gives every stored value by its bucket and key.
func storedValues(tx *Tx) map[[2]string]string {
	all := map[[2]string]string{}
	_ = tx.Walk(func(bucket string, key, stored []byte) error {
		all[[2]string{bucket, string(key)}] = string(stored)
		return nil
	})
	return all
}

// damageBucket changes a bit of every value in a bucket.
func damageBucket(tx *Tx, bucket string) error {
	raw := map[string][]byte{}
	for key, stored := range tx.Range(bucket, nil) {
		raw[string(key)] = bytes.Clone(stored)
	}
	for key, stored := range raw {
		stored[len(stored)-1] ^= 1
		if err := tx.PutRaw(bucket, []byte(key), stored); err != nil {
			return err
		}
	}
	return nil
}

// spoilRecords replaces every JSON record in a bucket by one with a checksum that
// fits and contents that are no JSON.
func spoilRecords(tx *Tx, bucket string) error {
	var keys [][]byte
	for key, stored := range tx.Range(bucket, nil) {
		if len(stored) > 5 && stored[5] == '{' {
			keys = append(keys, bytes.Clone(key))
		}
	}
	for _, key := range keys {
		put := tx.Put
		if isSigned(bucket, key) {
			put = tx.PutSigned // or the record would be forged rather than damaged
		}
		if err := put(bucket, key, []byte("{")); err != nil {
			return err
		}
	}
	return nil
}

// blockKey makes every write to a key of a bucket fail: bbolt refuses to put a
// value where a nested bucket is, and to delete one as a value.
func blockKey(tx *Tx, bucket, key string) error {
	b, err := tx.Bolt.CreateBucketIfNotExists([]byte(bucket))
	if err == nil {
		err = b.Delete([]byte(key))
	}
	if err == nil {
		_, err = b.CreateBucket([]byte(key))
	}
	return err
}

// storedBuckets lists the buckets of a store.
func storedBuckets(t *testing.T, s *Store) (names []string) {
	t.Helper()
	err := s.View(func(tx *Tx) error {
		return tx.Walk(func(bucket string, _, _ []byte) error {
			if len(names) == 0 || names[len(names)-1] != bucket {
				names = append(names, bucket)
			}
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// opsApp is a service whose store has what the operations of storedOps need.
func opsApp(t *testing.T) (*testApp, fixture) {
	t.Helper()
	a := newHookApp(t)
	f := fillStore(a)
	a.key(everyPermission, `"owner": "ann"`, `"expires_at": "2026-02-04T09:00:00Z"`)
	a.hook("http://127.0.0.1:1/", "", keyExpiring, limitReached, "call.queued")
	a.operate(201, "POST", "/admin/v1/keys/import", fmt.Sprintf(`[{"name": "old", "sha256": "%x", "permissions": ["can_read_agents"]}]`, keytext.DigestOf("sk-one")))
	a.operate(200, "POST", "/admin/v1/calls/claim", `{"lease_seconds": 60}`)
	a.operate(200, "PATCH", "/admin/v1/owners/1", `{"limits": {"owner_requests_per_minute_limit": 1000}}`)
	if w := a.ask("POST", "/api/v1/calls", f.Key, `{"phone_number": "+4930555044", "agent_id": 1}`); w.Code != 201 {
		t.Fatalf("got %d %s, want a call that waits for a dialer", w.Code, w.Body)
	}
	a.ask("GET", "/api/v1/agents", f.Key, "")
	a.ask("GET", "/api/v1/agents", f.Earlier, "")
	key, err := a.Keyring.Lookup(keytext.DigestOf(f.Key))
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(a.Keyring.Flush(), a.Store.Update(func(tx *Tx) error {
		_, err := saveEvent(tx, event{Owner: 1, AgentID: 1, Title: "Long", Kind: "meeting", Status: eventScheduled, Start: epoch, End: epoch.Add(72 * time.Hour), Remind: true})
		for _, id := range []uint64{1, 2} {
			err = errors.Join(err, push(tx, delivery{Webhook: id, ID: "whd_1", Event: "call.ended", Body: []byte("{}"), At: epoch}))
			for range 2 {
				err = errors.Join(err, addReplayable(tx, Attempt{Webhook: id, Delivery: "whd_0", Event: "call.ended", Attempt: 1, At: epoch}, []byte("{}")))
			}
		}
		return errors.Join(err, reachedTable.Put(tx, reachedRecord{Key: key.ID, Limit: RequestsPerMinute, At: epoch}))
	}))
	if err != nil {
		t.Fatal(err)
	}
	return a, f
}

// storedOps lists what keys, webhooks, the calendar and the calls do with the
// store within a transaction of their caller.
func storedOps(a *testApp, f fixture) []storedOp {
	ring, later := a.Keyring, epoch.Add(90*24*time.Hour)
	id := func(secret string) string {
		key, err := ring.Lookup(keytext.DigestOf(secret))
		if err != nil {
			a.t.Fatal(err)
		}
		return key.ID
	}
	rotated, imported := id(f.Key), id("sk-one")
	withStored := func(run func(tx *Tx, key *Key) (any, error)) func(tx *Tx) (any, error) {
		return func(tx *Tx) (any, error) {
			stored, err := KeyTable.Get(tx, []byte(rotated))
			if err != nil {
				return nil, err
			}
			return run(tx, &Key{StoredKey: *stored})
		}
	}
	withKey := func(run func(tx *Tx, key *Key) (any, error)) func(tx *Tx) (any, error) {
		return func(tx *Tx) (any, error) {
			key, err := ring.Get(tx, rotated)
			if err != nil {
				return nil, err
			}
			return run(tx, key.Clone())
		}
	}
	withCall := func(ref string, run func(tx *Tx, c call) (any, error)) func(tx *Tx) (any, error) {
		return func(tx *Tx) (any, error) {
			c, err := findCall(tx, ref)
			if err != nil {
				return nil, err
			}
			return run(tx, c)
		}
	}
	settle := func(status int) func(tx *Tx) (any, error) {
		return func(tx *Tx) (any, error) {
			d, err := nextDelivery(tx, 1, later)
			if err != nil {
				return nil, err
			}
			return Settle(tx, d, Attempt{Status: status, At: later}, later)
		}
	}
	move := func(to string) func(tx *Tx, c call) (any, error) {
		return func(tx *Tx, c call) (any, error) {
			if err := changeStatus(tx, &c, to, epoch.Add(time.Minute)); err != nil {
				return nil, err
			}
			return saveCall(tx, c)
		}
	}
	none := func(err error) (any, error) { return nil, err }
	rules := func(key *Key, err error) (any, error) { // what the owner's limits are part of
		if err != nil {
			return nil, err
		}
		return key.Rules(), nil
	}
	return []storedOp{
		{"Keyring.Get", func(tx *Tx) (any, error) { return rules(ring.Get(tx, rotated)) }},
		{"Keyring.Each", func(tx *Tx) (any, error) {
			n := 0
			err := ring.Each(tx, func(*Key) bool { n++; return true })
			return n, err
		}},
		{"Keyring.Count", func(tx *Tx) (any, error) { return ring.Count(tx) }},
		{"Keyring.CountLive", func(tx *Tx) (any, error) { return ring.CountLive(tx, 1, 10), nil }},
		{"Keyring.Holding", func(tx *Tx) (any, error) { return ring.Holding(tx, keytext.DigestOf(f.Key)) }},
		{"Keyring.Expiring", func(tx *Tx) (any, error) { keys, err := ring.Expiring(tx, later, 10); return len(keys), err }},
		{"Keyring.Create", func(tx *Tx) (any, error) {
			_, err := ring.Create(tx, &Key{StoredKey: StoredKey{ID: "key_new", Owner: 1, CreatedAt: epoch}})
			return nil, err
		}},
		{"Keyring.Import", func(tx *Tx) (any, error) {
			return none(ring.Import(tx, &Key{StoredKey: StoredKey{ID: "key_new", Owner: 1, CreatedAt: epoch}}, keytext.DigestOf("new")))
		}},
		{"Keyring.Save", withStored(func(tx *Tx, key *Key) (any, error) {
			key.Paused = true
			err := ring.Save(tx, key)
			return len(tx.Afters), err // what is in memory changes too
		})},
		{"Keyring.Readied", withStored(func(tx *Tx, key *Key) (any, error) { return rules(ring.Resolved(tx, key)) })},
		{"Keyring.Rotate", withKey(func(tx *Tx, key *Key) (any, error) {
			_, err := ring.Rotate(tx, key, epoch, epoch)
			return key.Serial, err
		})},
		{"Keyring.Rotate with an overlap", withKey(func(tx *Tx, key *Key) (any, error) {
			_, err := ring.Rotate(tx, key, epoch, later)
			return key.Serial, err
		})},
		{"Keyring.Rotate for the first time", func(tx *Tx) (any, error) {
			key, err := ring.Get(tx, imported)
			if err == nil {
				_, err = ring.Rotate(tx, key.Clone(), epoch, later)
			}
			return nil, err
		}},
		{"Keyring.Drop", withKey(func(tx *Tx, key *Key) (any, error) {
			return none(ring.Drop(tx, key, func(PreviousSecret) bool { return true }))
		})},
		{"Keyring.LastUse", func(tx *Tx) (any, error) { return ring.LastUse(tx, rotated) }},
		{"Keyring.SecretUse", withKey(func(tx *Tx, key *Key) (any, error) {
			return ring.SecretUse(tx, key, key.Serial)
		})},
		{"Keyring.LimitOwner", func(tx *Tx) (any, error) {
			return none(ring.LimitOwner(tx, 1, map[string]int{OwnerRequestsPerMinute: 9}))
		}},
		{"Peppers.Match", func(tx *Tx) (any, error) { return none(ring.peppers.Match(tx)) }},
		{"FindQueue", func(tx *Tx) (any, error) { return findQueue(tx, 1) }},
		{"DueQueues", func(tx *Tx) (any, error) {
			n := 0
			err := dueQueues(tx, later, func(queue) bool { n++; return true })
			return n, err
		}},
		{"NextDelivery", func(tx *Tx) (any, error) { return nextDelivery(tx, 1, later) }},
		{"Push", func(tx *Tx) (any, error) {
			return none(push(tx, delivery{Webhook: 1, ID: "whd_2", Event: "call.ended", Body: []byte("{}"), At: epoch}))
		}},
		{"Push to a full queue", func(tx *Tx) (any, error) {
			tx.Bounds.WebhookWaiting = 1
			return none(push(tx, delivery{Webhook: 1, ID: "whd_2", Event: "call.ended", Body: []byte("{}"), At: epoch}))
		}},
		{"Settle a success", settle(204)},
		{"Settle a failure", settle(500)},
		{"AddAttempt", func(tx *Tx) (any, error) { return none(addAttempt(tx, 1, Attempt{At: epoch})) }},
		{"Attempts", func(tx *Tx) (any, error) {
			list, count, err := attempts(tx, 1, func(count int) (from, to int) { return 0, count })
			return fmt.Sprint(len(list), " ", count), err
		}},
		{"OutboxBacklog", func(tx *Tx) (any, error) { n, oldest, err := OutboxBacklog(tx); return fmt.Sprint(n, " ", oldest), err }},
		{"Repeat", func(tx *Tx) (any, error) {
			_, err := repeat(tx, 1, 1, epoch)
			var e *Error
			if errors.As(err, &e) && e.Status == 404 {
				return "not found", nil // which a damaged entry is not
			}
			return nil, err
		}},
		{"SwitchQueue", func(tx *Tx) (any, error) { return none(switchQueue(tx, 1, queueSwitch{Stop: true, Reset: true})) }},
		{"DropQueue", func(tx *Tx) (any, error) { return none(dropQueue(tx, 1)) }},
		{"sweepQueue of old entries", func(tx *Tx) (any, error) { return sweepQueue(tx, 1, later) }},
		{"sweepQueue of a deleted webhook", func(tx *Tx) (any, error) {
			if err := dropQueue(tx, 1); err != nil {
				return nil, err
			}
			return sweepQueue(tx, 1, epoch)
		}},
		{"Raise", func(tx *Tx) (any, error) {
			return none(Publish(tx, WebhookEvent{Type: "call.ended", Owner: 1, Team: 1, At: epoch}))
		}},
		{"Raise for the operator", func(tx *Tx) (any, error) {
			return none(Publish(tx, WebhookEvent{Type: keyExpiring, Operator: true, At: epoch}))
		}},
		{"SaveWebhook", func(tx *Tx) (any, error) {
			w, err := findWebhook(tx, 1)
			if err != nil {
				return nil, err
			}
			w.Active = false
			return none(saveWebhook(tx, w))
		}},
		{"RemoveWebhook", func(tx *Tx) (any, error) { return none(RemoveWebhook(tx, 1)) }},
		{"Notices.raiseOne", func(tx *Tx) (any, error) {
			key, err := ring.Get(tx, rotated)
			if err != nil {
				return nil, err
			}
			return none(a.notices.raiseOne(tx, reachedNow{reachedLimit: reachedLimit{rotated, RequestsPerMinute}, holder: key, size: Limit{}, at: later, service: later}))
		}},
		{"dropReached", func(tx *Tx) (any, error) { return none(dropReached(tx, later)) }},
		{"Notices.expiring", withKey(func(tx *Tx, key *Key) (any, error) {
			key.ExpiresAt = later
			return none(a.notices.expiring(tx, key, epoch))
		})},
		{"FindEvent", func(tx *Tx) (any, error) { return findEvent(tx, "2") }},
		{"ListEvents", func(tx *Tx) (any, error) {
			list, n, err := appointmentTable.Page(tx, eventQuery(&Request{Request: httptest.NewRequest("GET", "/", nil)}, epoch, later), func(n int) (int, int) { return 0, n })
			return len(list) + n, err
		}},
		{"EventsBetween", func(tx *Tx) (any, error) {
			return len(eventsBetween(tx, ScopeKeys(1, 0), epoch, later)), nil
		}},
		{"DueReminders", func(tx *Tx) (any, error) { list, err := dueReminders(tx, later, 10); return len(list), err }},
		{"SaveEvent", func(tx *Tx) (any, error) {
			e, err := saveEvent(tx, event{Owner: 1, Title: "New", Kind: "meeting", Status: eventScheduled, Start: epoch, End: epoch.Add(time.Hour), UUID: "x", ID: 77})
			return e.ID, err
		}},
		{"SaveEvent with a new id", func(tx *Tx) (any, error) {
			e, err := saveEvent(tx, event{Owner: 1, Title: "New", Kind: "meeting", Status: eventScheduled, Start: epoch, End: epoch.Add(time.Hour)})
			return e.ID, err
		}},
		{"ScheduleOf", func(tx *Tx) (any, error) { return scheduleOf(tx, 1) }},
		{"NextCall", func(tx *Tx) (any, error) { c, _, err := nextCall(tx, lease{}); return c.ID, err }},
		{"LapsedCalls", func(tx *Tx) (any, error) { list, err := lapsedCalls(tx, later, 10); return len(list), err }},
		{"lapse", func(tx *Tx) (any, error) { return none(errors.Join(lapse(tx, later))) }},
		{"Move to failed", withCall("2", move(callFailed))},
		{"Move to completed", withCall("2", func(tx *Tx, c call) (any, error) {
			c.StartedAt = epoch
			return move(callCompleted)(tx, c)
		})},
		{"Call.Operators", withCall("2", func(tx *Tx, c call) (any, error) {
			shown, err := c.Operators(tx)
			return fmt.Sprint(shown["agent"], shown["prompt_variables"]), err
		})},
		{"RaiseCall", withCall("2", func(tx *Tx, c call) (any, error) {
			after := c
			after.Status = callCompleted
			return none(publishCall(tx, c, after, epoch))
		})},
		{"RaiseQueued", withCall("2", func(tx *Tx, c call) (any, error) { return none(publishQueued(tx, c, epoch)) })},
	}
}

// lostDamage damages all that is in one bucket after the other and lists where the
// operation neither fails nor comes to what it comes to otherwise. refused is how
// often it failed.
func (op storedOp) lostDamage(t *testing.T, s *Store, buckets []string) (lost []string, refused int) {
	t.Helper()
	want, writes, err := op.trial(t, s, harmless, unseen)
	if err != nil {
		t.Fatalf("%s: %v in a good store", op.name, err)
	}
	for _, bucket := range buckets {
		for harm, do := range map[string]func(tx *Tx, bucket string) error{"damaged": damageBucket, "no JSON": spoilRecords} {
			got, wrote, err := op.trial(t, s, func(tx *Tx) error { return do(tx, bucket) }, unseen)
			if err != nil {
				refused++
			} else if got != want || wrote != writes {
				lost = append(lost, fmt.Sprintf("%s %s: got %s after %d writes, in a good store %s after %d", bucket, harm, got, wrote, want, writes))
			}
		}
	}
	return lost, refused
}

// lostWriteErrors makes one after the other of the operation's writes fail and
// lists where it does not fail. What it finds nothing to write to may pass.
func (op storedOp) lostWriteErrors(t *testing.T, s *Store) (lost []string) {
	t.Helper()
	again := op.writesTo(t, s) // without what has a random key
	for _, at := range op.writesTo(t, s) {
		if !slices.Contains(again, at) {
			continue
		}
		got, wrote, err := op.trial(t, s, func(tx *Tx) error { return blockKey(tx, at[0], at[1]) }, unseen)
		if err == nil && wrote > 0 {
			lost = append(lost, fmt.Sprintf("%s/%x cannot be written: got %s after %d writes", at[0], at[1], got, wrote))
		}
	}
	return lost
}

// TestStore_DamageReachesCaller has every operation meet damage in every bucket: an
// error that is lost on the way shows here, also in operations that are added to
// storedOps later.
func TestStore_DamageReachesCaller(t *testing.T) {
	a, f := opsApp(t)
	buckets := storedBuckets(t, a.Store)
	for _, op := range storedOps(a, f) {
		lost, refused := op.lostDamage(t, a.Store, buckets)
		for _, text := range lost {
			t.Errorf("%s: no error with %s", op.name, text)
		}
		if refused == 0 {
			t.Errorf("%s: fails for no damage, so this shows nothing", op.name)
		}
	}
}

// TestStore_WriteErrorReachesCaller does so for writes that fail.
func TestStore_WriteErrorReachesCaller(t *testing.T) {
	a, f := opsApp(t)
	for _, op := range storedOps(a, f) {
		for _, text := range op.lostWriteErrors(t, a.Store) {
			t.Errorf("%s: no error though %s", op.name, text)
		}
	}
}

// TestStore_DamageReachesJob has what runs in the background meet damage in the
// buckets that it needs.
func TestStore_DamageReachesJob(t *testing.T) {
	a, f := opsApp(t)
	later := epoch.Add(24*time.Hour - time.Second) // before the keys expire
	key, _, err := a.Keyring.Find(f.Key)
	if err != nil {
		t.Fatal(err)
	}
	use := func() { a.ask("GET", "/api/v1/agents", f.Key, "") }
	for _, job := range []struct {
		name    string
		buckets string
		before  func() // nil for nothing
		run     func() error
	}{
		{"Keyring.Flush", "keys key_uses", use, a.Keyring.Flush},
		{"Keyring.Sweep", "keys keys/alias_end", nil, func() error { return a.Keyring.Sweep(epoch.Add(90 * 24 * time.Hour)) }},
		{"Notices.Flush", "webhooks/listener limits_reached webhook_queues counts", func() {
			a.notices.Reached(key, []LimitStatus{{Limit: Limit{RequestsPerMinute, 1, time.Minute}, Wait: 1}}, later, later)
		}, a.notices.Flush},
		{"Notices.Expiring", "webhooks/listener keys keys/expiring", nil, func() error { return a.notices.Expiring(later) }},
		{"SweepOutbox", "webhook_queues webhook_log", nil, func() error { return SweepOutbox(a.Store, epoch.Add(2*keepLog)) }},
		{"Dialer.Lapse", "calls calls/lease", nil, func() error { return a.dialer.Lapse(later) }},
		{"Sender.scan", "webhook_queues webhook_queues/due", nil, func() error { _, err := a.Sender.scan(); return err }},
		{"Sender.next", "webhook_queues webhook_events webhook_bodies webhooks", nil, func() error { _, err := a.Sender.next(1); return err }},
		{"Sender.Try", "webhook_queues webhooks", nil, func() error {
			_, err := a.Sender.Try(t.Context(), webhook{ID: 1, URL: "http://127.0.0.1:1/"}, "call.ended", []byte("{}"))
			return err
		}},
	} {
		for bucket := range strings.FieldsSeq(job.buckets) {
			if job.before != nil {
				job.before()
			}
			change := func() { // twice is as it was
				t.Helper()
				if err := a.Store.Update(func(tx *Tx) error { return damageBucket(tx, bucket) }); err != nil {
					t.Fatal(err)
				}
			}
			change()
			if err := job.run(); err == nil {
				t.Errorf("%s: no error with %s damaged", job.name, bucket)
			}
			change()
		}
	}
	_ = a.Store.View(func(tx *Tx) error {
		if result, err := CheckStore(tx, tables()); err != nil || len(result.Problems) > 0 {
			t.Errorf("afterwards: got %+v, %v; want the store as it was", result, err)
		}
		return nil
	})
}

// TestStore_DamagedMeta damages the records that are read once, at the start.
func TestStore_DamagedMeta(t *testing.T) {
	peppers := Peppers{list: [][]byte{bytes.Repeat([]byte{1}, pepperSize)}}
	for _, tt := range []struct {
		name string
		run  func(*Store) error
	}{
		{"stamp", func(s *Store) error { _, err := s.Stamp(); return err }},
		{"pepper", peppers.Verify},
		{"pepper", func(s *Store) error { return s.View(peppers.Match) }},
		{"imported", func(s *Store) error {
			_, err := NewKeyring(s, KeyringOptions{Peppers: peppers, Prefix: "klen_", Policy: NewPolicy(nil, nil), Cache: 10})
			return err
		}},
	} {
		name, run := tt.name, tt.run
		s := newTestStore(t)
		if err := errors.Join(peppers.Verify(s), run(s)); err != nil {
			t.Errorf("%s: %v in a good store", name, err)
		}
		if err := s.Update(func(tx *Tx) error { return tx.PutRaw("meta", []byte(name), []byte("damaged")) }); err != nil {
			t.Fatal(err)
		}
		if err := run(s); err == nil {
			t.Errorf("%s: no error for a damaged record", name)
		}
	}
}

// TestStore_FailureReachesAnswers sends requests that all succeed, has the store
// fail, and sends them again: no handler answers as if it had done something.
func TestStore_FailureReachesAnswers(t *testing.T) {
	a, f := opsApp(t)
	token := ""
	const hook, url = `"name": "n", "subscribed_events": ["call.ended"], `, `"url": "http://127.0.0.1:1/"`
	list := []struct{ method, path, body string }{
		{"POST", "/api/webhooks/create", "{" + hook + url + "}"},
		{"GET", "/api/webhooks", ""},
		{"PUT", "/api/webhooks/2/update", "{" + hook + url + "}"},
		{"PATCH", "/api/webhooks/2/update", "{" + url + "}"},
		{"POST", "/api/webhooks/2/test", ""},
		{"GET", "/api/webhooks/2/logs", ""},
		{"DELETE", "/api/webhooks/2/delete", ""},
		{"GET", "/api/v1/calendar/availability", ""},
		{"POST", "/admin/v1/webhooks", "{" + hook + url + "}"},
		{"GET", "/admin/v1/webhooks", ""},
		{"GET", "/admin/v1/webhooks/1", ""},
		{"PATCH", "/admin/v1/webhooks/1", "{" + url + "}"},
		{"POST", "/admin/v1/webhooks/1/test", ""},
		{"POST", "/admin/v1/webhooks/1/redeliver", `{"log_id": 1}`},
		{"GET", "/admin/v1/webhooks/1/logs", ""},
		{"DELETE", "/admin/v1/webhooks/1", ""},
		{"POST", "/admin/v1/calls/claim", ""},
		{"POST", "/admin/v1/calls/3/heartbeat", `{"lease_token": "TOKEN"}`},
		{"POST", "/admin/v1/calls/3/start", `{"lease_token": "TOKEN"}`},
		{"POST", "/admin/v1/calls/3/complete", `{"lease_token": "TOKEN"}`},
		{"POST", "/admin/v1/calls/3/complete", `{"lease_token": "TOKEN"}`},
		{"GET", "/admin/v1/schedules", ""},
		{"GET", "/admin/v1/schedules/1", ""},
		{"PATCH", "/admin/v1/schedules/1", `{"buffer_minutes": 5}`},
		{"DELETE", "/admin/v1/schedules/1", ""},
		{"POST", "/admin/v1/schedules", `{"owner": "ann", "time_zone": "UTC"}`},
	}
	for _, failed := range []bool{false, true} {
		if failed {
			a.Store.fail(errors.New("disk gone"))
		}
		for _, r := range list {
			body := strings.ReplaceAll(r.body, "TOKEN", token)
			var w *httptest.ResponseRecorder
			if strings.HasPrefix(r.path, "/api/") {
				w = a.ask(r.method, r.path, f.Key, body)
			} else {
				w = a.control(r.method, r.path, body)
			}
			if strings.HasSuffix(r.path, "/claim") && !failed {
				lease, _ := object(t, w.Body.String())["lease"].(map[string]any)
				token, _ = lease["token"].(string)
			}
			if failed && (w.Code != 503 || code(w) != "service_unavailable") || !failed && w.Code/100 != 2 {
				t.Errorf("%s %s, failed store %v: got %d %s", r.method, r.path, failed, w.Code, w.Body)
			}
		}
	}
}
