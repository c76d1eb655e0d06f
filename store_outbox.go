package main

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	bolterrors "go.etcd.io/bbolt/errors"
)

// The types below are the records of webhooks in format 2 and format 3, as far as shareBodies reads and
// writes them. They must not change with the program.

// delivery2 is a pending delivery of format 2.
type delivery2 struct {
	Webhook uint64    `json:"webhook"`
	Number  uint64    `json:"number"`
	ID      string    `json:"id"`
	Event   string    `json:"event"`
	Body    []byte    `json:"body"`
	At      time.Time `json:"at"`
}

// event3 is an event of format 3, without its body.
type event3 struct {
	ID      uint64    `json:"id"`
	Owner   uint64    `json:"owner,omitempty"`
	Type    string    `json:"type"`
	At      time.Time `json:"at"`
	Size    int       `json:"size"`
	Seed    string    `json:"seed"`
	Pending *pending3 `json:"pending,omitempty"`
	Kept    int       `json:"kept,omitempty"`
}

// pending3 is the webhooks to which an event of format 3 is still to be sent.
type pending3 struct {
	To  []uint64 `json:"to"` // webhook, owner and next event of each
	Own []own3   `json:"own"`
}

// own3 is what a delivery of format 3 does not derive from its event.
type own3 struct {
	Index    int       `json:"index"`
	At       time.Time `json:"at,omitzero"`
	Delivery string    `json:"id"`
}

// body3 is the body of an event of format 3.
type body3 struct {
	Event uint64 `json:"event"`
	Owner uint64 `json:"owner,omitempty"`
	Body  []byte `json:"body"`
}

// backlog3 is what is pending for an owner in format 3.
type backlog3 struct {
	Owner  uint64 `json:"owner"`
	Events int    `json:"events"`
	Bytes  int    `json:"bytes"`
}

// bodyHash identifies a body and the type of its event. Equal bodies of format 2 become one event.
type bodyHash [sha256.Size]byte

// bodySharing is the state of shareBodies.
type bodySharing struct {
	tx     *Tx
	owners map[uint64]uint64 // by webhook
	events map[bodyHash]*event3
	order  []*event3                 // the events by their ids
	bodies map[*event3]recordPlace   // a record that has the body of the event
	tails  map[uint64]place3         // by webhook: the last pending delivery so far
	queues map[uint64]map[string]any // by webhook: the members that its queue gets
}

// place3 is where a delivery is: its event and its index there.
type place3 struct {
	event *event3
	index int
}

// shareBodies is the part of format3 that moves the bodies of pending deliveries and of log entries
// into events, which deliveries and log entries refer to.
func shareBodies(tx *Tx) error {
	s := bodySharing{
		tx: tx, owners: map[uint64]uint64{}, events: map[bodyHash]*event3{}, bodies: map[*event3]recordPlace{},
		tails: map[uint64]place3{}, queues: map[uint64]map[string]any{},
	}
	for _, step := range []func() error{s.readOwners, s.numberEvents, s.storeBodies, s.moveDeliveries, s.moveLogs, s.writeEvents, s.writeQueues} {
		if err := step(); err != nil {
			return err
		}
	}
	if err := tx.Bolt.DeleteBucket([]byte("webhook_outbox")); err != nil && !errors.Is(err, bolterrors.ErrBucketNotFound) {
		return err
	}
	return tx.Delete("counts", []byte("webhook_outbox"))
}

// readStored decodes each record of a bucket into a T and calls visit with its key and the T.
func readStored[T any](tx *Tx, bucket string, visit func(key []byte, v T) error) error {
	for key, stored := range tx.Range(bucket, nil) {
		value, err := Unseal(bucket, key, stored)
		if err = errors.Join(err, tx.changing()); err != nil {
			return err
		}
		var v T
		if err := json.Unmarshal(value, &v); err != nil {
			return fmt.Errorf("%s/%x: %w", bucket, key, err)
		}
		if err := visit(key, v); err != nil {
			return err
		}
	}
	return nil
}

// putJSON stores a record as JSON.
func putJSON(tx *Tx, bucket string, key []byte, v any) error {
	value, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s: %w", bucket, err)
	}
	return tx.Put(bucket, key, value)
}

// readOwners reads the owners of the webhooks.
func (s *bodySharing) readOwners() error {
	type webhook2 struct{ ID, Owner uint64 }
	return readStored(s.tx, "webhooks", func(_ []byte, w webhook2) error {
		s.owners[w.ID] = w.Owner
		return nil
	})
}

func hashBody(kind string, body []byte) bodyHash {
	return sha256.Sum256(append([]byte(kind+"\x00"), body...))
}

// entry2 is a log entry of format 2.
type entry2 struct {
	Webhook uint64    `json:"webhook"`
	Event   string    `json:"event"`
	Body    []byte    `json:"body"`
	At      time.Time `json:"at"`
}

// numberEvents makes an event of each different body and numbers the events by their times, because
// the oldest event is dropped first.
func (s *bodySharing) numberEvents() error {
	add := func(at recordPlace, d entry2) {
		h := hashBody(d.Event, d.Body)
		e := s.events[h]
		if e == nil {
			e = &event3{Type: d.Event, At: d.At, Size: len(d.Body), Seed: fmt.Sprintf("%x", h[:16]), Owner: s.owners[d.Webhook]}
			s.events[h], s.bodies[e] = e, at
		}
		if d.At.Before(e.At) {
			e.At = d.At
		}
		if s.owners[d.Webhook] != e.Owner {
			e.Owner = 0
		}
	}
	for _, bucket := range []string{"webhook_outbox", "webhook_log"} {
		err := readStored(s.tx, bucket, func(key []byte, d entry2) error {
			if bucket == "webhook_outbox" || d.Body != nil {
				add(recordPlace{bucket, string(key)}, d)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	s.order = slices.SortedFunc(maps.Values(s.events), func(a, b *event3) int {
		return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.Seed, b.Seed))
	})
	for i, e := range s.order {
		e.ID = uint64(i + 1)
	}
	return nil
}

// storeBodies stores the bodies of the events. It does so by their ids: in any other order bbolt moves the keys that
// it has already stored in this transaction again and again.
func (s *bodySharing) storeBodies() error {
	if err := s.tx.inOrder("webhook_bodies"); err != nil {
		return err
	}
	for _, e := range s.order {
		at := s.bodies[e]
		value, err := s.tx.Get(at.bucket, []byte(at.key))
		if err = errors.Join(err, s.tx.changing()); err != nil {
			return err
		}
		var d entry2
		if err := json.Unmarshal(value, &d); err != nil {
			return fmt.Errorf("%s/%x: %w", at.bucket, at.key, err)
		}
		if err := putJSON(s.tx, "webhook_bodies", IDKey(e.ID), body3{e.ID, e.Owner, d.Body}); err != nil {
			return err
		}
	}
	return nil
}

// queue returns the members that the queue of a webhook gets.
func (s *bodySharing) queue(webhook uint64) map[string]any {
	q := s.queues[webhook]
	if q == nil {
		q = map[string]any{"bytes": 0, "log_bytes": 0}
		s.queues[webhook] = q
	}
	return q
}

// moveDeliveries links the pending deliveries of each webhook.
func (s *bodySharing) moveDeliveries() error {
	return readStored(s.tx, "webhook_outbox", func(_ []byte, d delivery2) error {
		e := s.events[hashBody(d.Event, d.Body)]
		if e.Pending == nil {
			e.Pending = &pending3{}
		}
		own := own3{Index: len(e.Pending.Own), Delivery: d.ID}
		if !d.At.Equal(e.At) {
			own.At = d.At
		}
		q := s.queue(d.Webhook)
		if tail := s.tails[d.Webhook]; tail.event != nil {
			tail.event.Pending.To[3*tail.index+2] = e.ID
		} else {
			q["head"] = e.ID
		}
		e.Pending.To = append(e.Pending.To, d.Webhook, s.owners[d.Webhook], 0)
		e.Pending.Own = append(e.Pending.Own, own)
		s.tails[d.Webhook] = place3{e, own.Index}
		q["tail"], q["bytes"] = e.ID, q["bytes"].(int)+e.Size
		return nil
	})
}

// moveLogs replaces the bodies in log entries by references.
func (s *bodySharing) moveLogs() error {
	var keys [][]byte
	err := readStored(s.tx, "webhook_log", func(key []byte, d entry2) error {
		if d.Body != nil {
			keys = append(keys, bytes.Clone(key))
		}
		return nil
	})
	for _, key := range keys {
		if err == nil {
			err = s.moveEntry(key)
		}
	}
	return err
}

// moveEntry replaces the body in one log entry by a reference.
func (s *bodySharing) moveEntry(key []byte) error {
	value, err := s.tx.Get("webhook_log", key)
	if err != nil {
		return err
	}
	var d entry2
	var all map[string]json.RawMessage // keeps the other members as they are
	if err := errors.Join(json.Unmarshal(value, &d), json.Unmarshal(value, &all)); err != nil {
		return fmt.Errorf("webhook_log/%x: %w", key, err)
	}
	e := s.events[hashBody(d.Event, d.Body)]
	delete(all, "body")
	all["kept"] = json.RawMessage(fmt.Sprint(e.ID))
	e.Kept++
	q := s.queue(d.Webhook)
	q["log_bytes"] = q["log_bytes"].(int) + e.Size
	return putJSON(s.tx, "webhook_log", key, all)
}

// writeEvents stores the events, the backlogs of the owners, and the numbers of these records.
func (s *bodySharing) writeEvents() error {
	if err := s.tx.inOrder("webhook_events"); err != nil {
		return err
	}
	backlogs := map[uint64]backlog3{}
	for _, e := range s.order {
		counted := map[uint64]bool{}
		for i := 0; e.Pending != nil && i < len(e.Pending.To); i += 3 {
			owner := e.Pending.To[i+1]
			if o := backlogs[owner]; !counted[owner] {
				backlogs[owner] = backlog3{owner, o.Events + 1, o.Bytes + e.Size}
			}
			counted[owner] = true
		}
		if err := putJSON(s.tx, "webhook_events", IDKey(e.ID), e); err != nil {
			return err
		}
	}
	for _, owner := range slices.Sorted(maps.Keys(backlogs)) {
		if err := putJSON(s.tx, "webhook_backlogs", IDKey(owner), backlogs[owner]); err != nil {
			return err
		}
	}
	for table, n := range map[string]int{"webhook_events": len(s.events), "webhook_bodies": len(s.events), "webhook_backlogs": len(backlogs)} {
		if n == 0 {
			continue
		}
		if err := s.tx.Put("counts", []byte(table), IDKey(uint64(n))); err != nil {
			return err
		}
	}
	if len(s.events) == 0 {
		return nil
	}
	return s.tx.Bolt.Bucket([]byte("webhook_events")).SetSequence(uint64(len(s.events)))
}

// writeQueues adds the new members to the queues and enters the queues in the index by owner.
func (s *bodySharing) writeQueues() error {
	type record struct {
		key []byte
		all map[string]json.RawMessage
	}
	var list []record
	err := readStored(s.tx, "webhook_queues", func(key []byte, all map[string]json.RawMessage) error {
		list = append(list, record{bytes.Clone(key), all})
		return nil
	})
	if err != nil {
		return err
	}
	for _, r := range list {
		webhook := binary.BigEndian.Uint64(r.key)
		owner := s.owners[webhook]
		members := s.queue(webhook)
		members["owner"] = owner
		for name, v := range members {
			r.all[name] = json.RawMessage(fmt.Sprint(v))
		}
		entry := append(IDKey(owner), r.key...)
		err := errors.Join(
			putJSON(s.tx, "webhook_queues", r.key, r.all),
			s.tx.PutRaw("webhook_queues/owner", entry, sealEntry(entry, len(r.key))),
		)
		if err != nil {
			return err
		}
	}
	return nil
}
