package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"
)

// The outbox is bounded, so that a receiver that is down for long cannot fill the disk. Such a
// receiver loses the oldest deliveries instead. Bounds has the bounds on pending deliveries.
const (
	maxAttempts = 1_000               // entries in the log of one webhook
	keepLog     = 30 * 24 * time.Hour // a log entry is deleted at this age
	maxAnswer   = 1 << 10             // in bytes
	maxReplay   = 64 << 10            // in bytes; a longer body is not kept in the log, so it cannot be sent again
)

// schedule returns the delays between the attempts at a delivery. There is one attempt more than
// there are delays.
func schedule() []time.Duration {
	return []time.Duration{time.Minute, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 6 * time.Hour}
}

// A webhook is switched off when every attempt since deadAfter has failed and there were at least
// deadAttempts attempts.
const (
	deadAfter    = 5 * 24 * time.Hour
	deadAttempts = 10
)

// delivery is an event that is to be sent to a webhook. Each attempt at it sends the same bytes. It is
// not stored: it follows from the event and the webhook.
type delivery struct {
	Webhook uint64
	Number  uint64 // position in the webhook's queue, counted from 1
	EventID uint64 // id of the stored event; 0 for a test
	ID      string // sent in the header field X-Klen-Delivery
	Event   string
	Body    []byte
	At      time.Time
}

// queue is the state of a webhook's queue and log. The pending deliveries have the numbers from
// Next-Waiting to Next-1. The first of them is tried until it arrives or its last attempt fails.
// Only then is the next one tried.
type queue struct {
	Webhook uint64 `json:"webhook"`
	Owner   uint64 `json:"owner,omitempty"`   // owner of the webhook
	Next    uint64 `json:"next"`              // number of the next delivery to be added
	Waiting int    `json:"waiting"`           // number of pending deliveries
	Bytes   int    `json:"bytes,omitempty"`   // sum of the sizes of their bodies
	Head    uint64 `json:"head,omitempty"`    // event of the first pending delivery; 0 if there is none
	Tail    uint64 `json:"tail,omitempty"`    // event of the last pending delivery; 0 if there is none
	Dropped uint64 `json:"dropped,omitempty"` // number of deliveries that were dropped because of a bound
	Tries   int    `json:"tries,omitempty"`   // attempts at the first pending delivery so far

	// Due and Failing are times on the service clock, which never steps. A step of the wall clock
	// could make a retry too early.
	Due     time.Time `json:"due,omitzero"`      // earliest time of the next attempt; zero means now
	Failing time.Time `json:"failing,omitzero"`  // time of the first failure since the last success; zero if none
	Failed  int       `json:"failed,omitempty"`  // number of failures since the last success
	Slow    bool      `json:"slow,omitempty"`    // the last attempt failed or took over a second, or no attempt was made yet
	Stopped bool      `json:"stopped,omitempty"` // the webhook is not active
	Gone    bool      `json:"gone,omitempty"`    // the webhook was deleted; SweepOutbox will remove the queue

	FirstLog uint64  `json:"first_log"` // log entries have the numbers from FirstLog to NextLog-1
	NextLog  uint64  `json:"next_log"`
	Last     Attempt `json:"last,omitzero"` // the newest log entry

	// The log entries before FirstKept have no body. LogBytes is the sum of the sizes of the bodies that
	// the others refer to. An event counts once for each entry.
	FirstKept uint64 `json:"first_kept,omitempty"`
	LogBytes  int    `json:"log_bytes,omitempty"`
}

func pairKey(webhook, number uint64) []byte {
	return binary.BigEndian.AppendUint64(IDKey(webhook), number)
}

var (
	attemptTable = Table[Attempt]{Name: "webhook_log", Key: func(a Attempt) []byte { return pairKey(a.Webhook, a.Number) }}
	queueTable   = Table[queue]{
		Name: "webhook_queues", Key: func(q queue) []byte { return IDKey(q.Webhook) },
		Indexes: []Index[queue]{{"due", dueEntries}, {"owner", func(q queue) [][]byte { return [][]byte{IDKey(q.Owner)} }}},
	}
)

// OutboxTables returns the tables of the outbox and the check of their references, for checks of the
// store.
func OutboxTables() []Checked {
	return []Checked{&eventTable, &bodyTable, &backlogTable, &attemptTable, &queueTable, outboxReferences{}}
}

// dueEntries returns the entry of a queue in the index "due", which sorts by Due. It returns nil if
// the queue is empty or must not be sent.
func dueEntries(q queue) [][]byte {
	if q.Waiting == 0 || q.Stopped || q.Gone {
		return nil
	}
	if q.Due.IsZero() {
		return [][]byte{IDKey(0)}
	}
	return [][]byte{IDKey(uint64(q.Due.UnixNano()))}
}

// outboxChanged returns a channel that receives a token when a delivery is added or removed. The
// channel holds at most one token. Every call returns the same channel.
func outboxChanged(s *Store) <-chan struct{} { return s.Watch(eventsName) }

// findQueue returns the queue of a webhook, or a new empty queue if none is stored. A new queue
// counts as slow (see queue.Slow).
func findQueue(tx *Tx, webhook uint64) (queue, error) {
	q, err := queueTable.Get(tx, IDKey(webhook))
	if !errors.Is(err, ErrNotFound) {
		return q, err
	}
	w, err := findWebhook(tx, webhook)
	if errors.Is(err, ErrNotFound) {
		err = nil
	}
	return queue{Webhook: webhook, Owner: w.Owner, Next: 1, FirstLog: 1, NextLog: 1, Slow: true}, err
}

// first returns the number of the first pending delivery, or Next if nothing is
// pending.
func (q queue) first() uint64 { return q.Next - uint64(q.Waiting) }

// dueQueues calls visit with each queue that is due at moment, a time on the service clock. It
// starts with the queue that has been due longest. It stops when visit returns false.
func dueQueues(tx *Tx, moment time.Time, visit func(queue) (more bool)) error {
	for entry, key := range queueTable.Find(tx, "due", nil, Forward) {
		if len(entry) != 8 || binary.BigEndian.Uint64(entry) > uint64(moment.UnixNano()) {
			return nil
		}
		q, err := queueTable.Get(tx, key)
		if err != nil {
			return err
		}
		if !visit(q) {
			return nil
		}
	}
	return nil
}

// nextDelivery returns the delivery that may be sent to a webhook at moment, a time on the service
// clock. It returns ErrNotFound if no delivery may be sent then.
func nextDelivery(tx *Tx, webhook uint64, moment time.Time) (delivery, error) {
	q, err := findQueue(tx, webhook)
	if err != nil {
		return delivery{}, err
	}
	if dueEntries(q) == nil || q.Due.After(moment) {
		return delivery{}, ErrNotFound
	}
	e, err := findOutboxEvent(tx, q.Head)
	if err != nil {
		return delivery{}, err
	}
	i := e.pendingFor(webhook)
	if i < 0 {
		return delivery{}, brokenQueue(&q, &e)
	}
	d := delivery{Webhook: webhook, Number: q.first(), EventID: e.ID, Event: e.Type}
	d.ID, d.At = e.deliveryTo(e.Pending[i])
	d.Body, err = findBody(tx, e.ID)
	return d, err
}

// enqueue adds an event that is not stored yet to the queues of webhooks. recordOwner is the owner of
// the record that the event is about. A queue that is full drops its oldest deliveries.
func enqueue(tx *Tx, e outboxEvent, body []byte, webhooks []uint64) error {
	b := openOutbox(tx)
	recordOwner := e.Owner
	e.Owner = 0
	var queues []*queue
	for _, id := range webhooks {
		q, err := b.queue(id)
		if err != nil {
			return err
		}
		if queues = append(queues, q); q.Owner == recordOwner {
			e.Owner = recordOwner
		}
	}
	if err := b.addEvent(&e, body); err != nil {
		return err
	}
	for _, q := range queues {
		refused, err := b.makeRoom(q, &e)
		switch {
		case err != nil:
		case refused == "":
			err = b.add(&e, recipient{Webhook: q.Webhook})
		default:
			b.countDropped(q)
			err = b.logUnsent(q, Attempt{Delivery: derivedID(e.Seed, q.Webhook), Event: e.Type, At: e.At, Error: refused})
		}
		if err != nil {
			return err
		}
	}
	return b.flush()
}

// queueLoad is what a delivery adds to a queue: a number of deliveries and bytes.
type queueLoad struct{ Waiting, Bytes int }

// full returns why a queue that gets more exceeds a bound, or "" if it does not or is empty.
func (q *queue) full(bounds Bounds, more queueLoad) string {
	switch {
	case q.Waiting == 0:
	case bounds.WebhookWaiting > 0 && q.Waiting+more.Waiting > bounds.WebhookWaiting:
		return fmt.Sprintf(queueFull, bounds.WebhookWaiting)
	case bounds.WebhookWaitingBytes > 0 && q.Bytes+more.Bytes > bounds.WebhookWaitingBytes:
		return fmt.Sprintf(bytesFull, bounds.WebhookWaitingBytes)
	}
	return ""
}

// tooLarge returns why an event of this size cannot be queued at all, or "" if it can.
func tooLarge(bounds Bounds, size int) string {
	for _, bound := range []int{bounds.WebhookWaitingBytes, bounds.OwnerWaitingBytes} {
		if bound > 0 && size > bound {
			return fmt.Sprintf(eventTooLarge, bound)
		}
	}
	return ""
}

// Settle stores the outcome of attempt a at delivery d and adds it to the log. moment is the time
// after the attempt, on the service clock. After a success or the last attempt, the delivery leaves
// the queue. Otherwise it waits for the next attempt. If the caller should now switch the webhook
// off, reason is the reason as a sentence; otherwise reason is "". If the webhook has been deleted,
// Settle stores nothing.
func Settle(tx *Tx, d delivery, a Attempt, moment time.Time) (reason string, err error) {
	b := openOutbox(tx)
	q, err := b.queue(d.Webhook)
	if err != nil || q.Gone || !tx.Has(queueTable.Name, IDKey(d.Webhook)) {
		return "", err
	}
	a.Delivery, a.Event, a.Attempt = d.ID, d.Event, q.Tries+1
	q.Slow = !a.Success() || a.Took > time.Second
	switch {
	case a.Success():
		q.Failing, q.Failed = time.Time{}, 0
	case q.Failing.IsZero():
		q.Failing, q.Failed = moment, 1
	default:
		q.Failed++
	}
	if q.Waiting > 0 && q.first() == d.Number { // otherwise the delivery was dropped during the attempt
		q.Tries++
		q.Due = moment // also after a success, so that queues that have waited longer are sent first
		last := q.Tries > len(schedule())
		if !last && !a.Success() {
			wait := schedule()[q.Tries-1]
			q.Due = moment.Add(wait + rand.N(wait/20)) // the random part spreads retries after simultaneous failures
		} else {
			a.Kept = d.EventID
			_, _, err = b.leave(q)
		}
	}
	if err == nil {
		err = b.log(q, a)
	}
	if err != nil {
		return "", err
	}
	if q.Failed >= deadAttempts && moment.Sub(q.Failing) >= deadAfter {
		reason = fmt.Sprintf("Switched off because every delivery failed for %d days. %s%s.", deadAfter/(24*time.Hour), finalFailed, a.Outcome())
	}
	return reason, b.flush()
}

// headOf returns the first pending delivery of a webhook, without its body, and how often it was tried.
// It returns ErrNotFound if none is pending.
func headOf(tx *Tx, webhook uint64) (d delivery, tries int, err error) {
	q, err := findQueue(tx, webhook)
	if err != nil {
		return d, 0, err
	}
	if q.Waiting == 0 {
		return d, 0, ErrNotFound
	}
	e, err := findOutboxEvent(tx, q.Head)
	if err != nil {
		return d, 0, err
	}
	i := e.pendingFor(webhook)
	if i < 0 {
		return d, 0, brokenQueue(&q, &e)
	}
	d = delivery{Webhook: webhook, Number: q.first(), EventID: e.ID, Event: e.Type}
	d.ID, d.At = e.deliveryTo(e.Pending[i])
	return d, q.Tries, nil
}

// OutboxBacklog returns the number of pending deliveries and the wall-clock time of the oldest one.
// The time is zero if there is none. Deliveries to inactive webhooks count too.
func OutboxBacklog(tx *Tx) (waiting int, oldest time.Time, err error) {
	for q, err := range queueTable.All(tx, Forward) {
		if err != nil {
			return 0, oldest, err
		}
		if q.Waiting == 0 || q.Gone {
			continue
		}
		waiting += q.Waiting
		at, err := q.oldest(tx)
		if err != nil {
			return 0, oldest, err
		}
		if oldest.IsZero() || at.Before(oldest) {
			oldest = at
		}
	}
	return waiting, oldest, nil
}

// oldest returns the time of the first pending delivery. There must be one.
func (q *queue) oldest(tx *Tx) (time.Time, error) {
	e, err := findOutboxEvent(tx, q.Head)
	if err != nil {
		return time.Time{}, err
	}
	i := e.pendingFor(q.Webhook)
	if i < 0 {
		return time.Time{}, brokenQueue(q, &e)
	}
	_, at := e.deliveryTo(e.Pending[i])
	return at, nil
}

// heldKey is the key in the bucket meta of the time since which webhooks are held back.
var heldKey = []byte("webhooks_held")

// HoldWebhooks makes the Sender send nothing until ReleaseWebhooks. Events are still
// queued. now is the wall time.
func HoldWebhooks(tx *Tx, now time.Time) error {
	return tx.Put("meta", heldKey, IDKey(uint64(now.UnixMilli())))
}

// HeldSince returns the wall time since which webhooks are held back, or the zero time if
// they are not.
func HeldSince(tx *Tx) (time.Time, error) {
	value, err := tx.Get("meta", heldKey)
	if err != nil || len(value) != 8 {
		return time.Time{}, err
	}
	return time.UnixMilli(int64(binary.BigEndian.Uint64(value))).UTC(), nil
}

// ReleaseWebhooks ends HoldWebhooks. With Discard it first deletes the pending deliveries of
// events before the hold began; each is recorded in the log of its webhook. It returns the
// number of deliveries that it has deleted. now is the wall time.
func ReleaseWebhooks(tx *Tx, pending PendingDeliveries, now time.Time) (discarded int, err error) {
	held, err := HeldSince(tx)
	if err != nil || held.IsZero() {
		return 0, err
	}
	if pending == Discard {
		if discarded, err = discardBefore(tx, held, now); err != nil {
			return 0, err
		}
	}
	return discarded, tx.Delete("meta", heldKey)
}

// PendingDeliveries determines whether deliveries that were pending when the webhooks were held back
// are sent.
type PendingDeliveries int

const (
	Send    PendingDeliveries = iota // send them
	Discard                          // delete them
)

// discardBefore deletes the pending deliveries of events before limit.
func discardBefore(tx *Tx, limit, now time.Time) (discarded int, err error) {
	b := openOutbox(tx)
	for stored, err := range queueTable.All(tx, Forward) {
		if err != nil {
			return 0, err
		}
		if _, err := b.queue(stored.Webhook); err != nil {
			return 0, err
		}
	}
	for _, id := range slices.Sorted(maps.Keys(b.queues)) {
		q := b.queues[id]
		for q.Waiting > 0 && !q.Gone {
			e, err := b.event(q.Head)
			if err != nil {
				return 0, err
			}
			i := e.pendingFor(id)
			if i < 0 {
				return 0, brokenQueue(q, e)
			}
			if _, at := e.deliveryTo(e.Pending[i]); !at.Before(limit) {
				break
			}
			if err := b.discard(q, heldBack, now); err != nil {
				return 0, err
			}
			discarded++
		}
	}
	return discarded, b.flush()
}

// queueSwitch is a change of a queue. Stop stops the queue; otherwise the queue is started. With
// Reset, earlier attempts no longer count, so the first pending delivery is due immediately.
type queueSwitch struct{ Stop, Reset bool }

// switchQueue stops or starts a queue.
func switchQueue(tx *Tx, webhook uint64, s queueSwitch) error {
	q, err := findQueue(tx, webhook)
	if err != nil {
		return err
	}
	if s.Reset {
		q.Tries, q.Due, q.Failing, q.Failed = 0, time.Time{}, time.Time{}, 0
	}
	q.Stopped = s.Stop
	return queueTable.Put(tx, q)
}

// dropQueue marks the queue of a webhook as deleted. The queue may have many records, so
// SweepOutbox removes them later.
func dropQueue(tx *Tx, webhook uint64) error {
	q, err := findQueue(tx, webhook)
	if err != nil {
		return err
	}
	q.Gone = true
	return queueTable.Put(tx, q)
}

// SweepOutbox deletes the log entries older than keepLog, all records of deleted webhooks, and what
// exceeds the bounds on pending deliveries because they were lowered. now is the wall clock. It deletes at most 500 records in a transaction, so that other writes need not
// wait long.
func SweepOutbox(s *Store, now time.Time) error {
	var work []uint64
	err := s.View(func(tx *Tx) error {
		for q, err := range queueTable.All(tx, Forward) {
			if err != nil {
				return err
			}
			if old, err := q.old(tx, now); err != nil {
				return err
			} else if old || q.Gone || q.full(tx.Bounds, queueLoad{}) != "" {
				work = append(work, q.Webhook)
			}
		}
		return nil
	})
	for more := true; len(work) > 0 && err == nil; {
		err = s.Update(func(tx *Tx) (err error) {
			more, err = sweepQueue(tx, work[0], now)
			return err
		})
		if !more {
			work = work[1:]
		}
	}
	if err != nil {
		return err
	}
	return trimOwners(s, now)
}

// trimOwners drops the oldest events of the owners that exceed Bounds.OwnerWaitingBytes, because the
// bound was lowered. It drops at most maxDrops events of an owner in a transaction.
func trimOwners(s *Store, now time.Time) error {
	for more := true; more; {
		more = false
		err := s.Update(func(tx *Tx) error {
			more = false
			limit := tx.Bounds.OwnerWaitingBytes
			for o, err := range backlogTable.All(tx, Forward) {
				if err != nil || limit == 0 || o.Bytes <= limit {
					if err != nil {
						return err
					}
					continue
				}
				b := openOutbox(tx)
				more = true
				return errors.Join(b.makeOwnerRoom(o.Owner, 0, now), b.flush())
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// old reports whether the oldest log entry is to be deleted. It is false if the log is empty.
func (q queue) old(tx *Tx, now time.Time) (bool, error) {
	if q.FirstLog == q.NextLog {
		return false, nil
	}
	a, err := attemptTable.Get(tx, pairKey(q.Webhook, q.FirstLog))
	return q.Gone || now.Sub(a.At) > keepLog, err
}

// sweepQueue deletes up to 500 records of one queue. It returns true if there may be more records
// to delete.
func sweepQueue(tx *Tx, webhook uint64, now time.Time) (more bool, err error) {
	b := openOutbox(tx)
	q, err := b.queue(webhook)
	if err != nil {
		return false, err
	}
	for range 500 {
		old, err := q.old(tx, now)
		cause := q.full(tx.Bounds, queueLoad{})
		switch {
		case err != nil:
		case old:
			err = b.forget(q)
		case q.Gone && q.Waiting > 0:
			_, _, err = b.leave(q)
		case q.Gone:
			delete(b.queues, webhook)
			return false, errors.Join(b.flush(), queueTable.Delete(tx, IDKey(webhook)))
		case cause != "":
			err = b.drop(q, cause, now)
		default:
			return false, b.flush()
		}
		if err != nil {
			return false, err
		}
	}
	return true, b.flush()
}

// FailingWebhooks returns the ids of the webhooks whose last attempt failed.
func FailingWebhooks(tx *Tx) (ids []uint64, err error) {
	for q, err := range queueTable.All(tx, Forward) {
		if err != nil {
			return nil, err
		}
		if !q.Failing.IsZero() {
			ids = append(ids, q.Webhook)
		}
	}
	return ids, nil
}
