package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// These limits bound the outbox, so that a receiver that is down for long cannot
// fill the disk. It loses the oldest deliveries instead.
const (
	maxWaiting  = 10_000              // pending deliveries of one webhook
	maxAttempts = 1_000               // entries in the log of one webhook
	keepLog     = 30 * 24 * time.Hour // age at which log entries are deleted
	maxReplay   = 64 << 10            // bytes; a longer body is not kept in the log and cannot be sent again
)

// schedule returns the delays between the six attempts (contract 8.5).
func schedule() []time.Duration {
	return []time.Duration{time.Minute, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 6 * time.Hour}
}

// A webhook is switched off if all attempts have failed for deadAfter and there
// were at least deadAttempts of them.
const (
	deadAfter    = 5 * 24 * time.Hour
	deadAttempts = 10
)

// delivery is one event that is to be sent to one webhook. Each attempt sends the
// same bytes.
type delivery struct {
	Webhook uint64    `json:"webhook"`
	Number  uint64    `json:"number"` // its place in the webhook's queue
	ID      string    `json:"id"`     // sent as X-Klen-Delivery
	Event   string    `json:"event"`
	Body    []byte    `json:"body"`
	At      time.Time `json:"at"`
}

// queue is the state of a webhook's queue and of its log. The deliveries with the
// numbers from Next-Waiting to Next-1 are pending. The first of them is tried
// until it arrives or its last attempt fails, and only then the next.
type queue struct {
	Webhook uint64 `json:"webhook"`
	Next    uint64 `json:"next"`
	Waiting int    `json:"waiting"`
	Tries   int    `json:"tries,omitempty"` // attempts made at the first pending delivery

	// Due and Failing are service times. The wall clock may step, and a step
	// must not make a retry early.
	Due     time.Time `json:"due,omitzero"`      // no attempt before this; zero: at once
	Failing time.Time `json:"failing,omitzero"`  // first failure since the last success; zero: none
	Failed  int       `json:"failed,omitempty"`  // failures since the last success
	Slow    bool      `json:"slow,omitempty"`    // the last attempt failed or took over a second, or there was none
	Stopped bool      `json:"stopped,omitempty"` // the webhook is not active
	Gone    bool      `json:"gone,omitempty"`    // the webhook is deleted; SweepOutbox removes the rest

	FirstLog uint64  `json:"first_log"` // the log has the numbers from FirstLog to NextLog-1
	NextLog  uint64  `json:"next_log"`
	Last     Attempt `json:"last,omitzero"` // the newest entry, without its body
}

// Attempt is an entry of a webhook's log: one attempt at one delivery.
type Attempt struct {
	Webhook  uint64        `json:"webhook"`
	Number   uint64        `json:"number"`
	Delivery string        `json:"delivery"` // delivery.ID
	Event    string        `json:"event"`
	Attempt  int           `json:"attempt"`          // from 1; 0 for a delivery that was dropped
	Status   int           `json:"status,omitempty"` // HTTP status; 0: no answer
	Error    string        `json:"error,omitempty"`
	Took     time.Duration `json:"took,omitempty"`
	At       time.Time     `json:"at"`
	// Body is kept only with the last attempt at a queued delivery, so that it
	// can be sent again. It is nil if it was longer than maxReplay.
	Body []byte `json:"body,omitempty"`
}

// Success reports whether the receiver accepted the delivery: it answered with a
// 2xx status (contract 8.5).
func (a Attempt) Success() bool { return a.Status/100 == 2 && a.Error == "" }

// Outcome returns the error, or a phrase with the status of the answer.
func (a Attempt) Outcome() string {
	if a.Error != "" {
		return a.Error
	}
	return fmt.Sprintf("the receiver answered %d", a.Status)
}

func pairKey(webhook, number uint64) []byte {
	return binary.BigEndian.AppendUint64(IDKey(webhook), number)
}

// outboxName is the name of the table of pending deliveries.
const outboxName = "webhook_outbox"

var (
	deliveryTable = Table[delivery]{Name: outboxName, Key: func(d delivery) []byte { return pairKey(d.Webhook, d.Number) }}
	attemptTable  = Table[Attempt]{Name: "webhook_log", Key: func(a Attempt) []byte { return pairKey(a.Webhook, a.Number) }}
	queueTable    = Table[queue]{
		Name: "webhook_queues", Key: func(q queue) []byte { return IDKey(q.Webhook) },
		Indexes: []Index[queue]{{"due", dueEntries}},
	}
)

// OutboxTables returns the tables of the outbox, for store checks.
func OutboxTables() []Checked { return []Checked{deliveryTable, attemptTable, queueTable} }

// dueEntries returns the "due" entry of a queue, which sorts by Due. It returns
// nil if the queue has nothing to send or must not send.
func dueEntries(q queue) [][]byte {
	if q.Waiting == 0 || q.Stopped || q.Gone {
		return nil
	}
	if q.Due.IsZero() {
		return [][]byte{IDKey(0)}
	}
	return [][]byte{IDKey(uint64(q.Due.UnixNano()))}
}

// outboxChanged returns a channel that receives a token when a delivery is stored
// or removed. It holds at most one token, and all callers share it.
func outboxChanged(s *Store) <-chan struct{} { return s.Watch(outboxName) }

// findQueue returns the queue of a webhook, or a new empty one if none is stored.
// A new queue counts as slow (see queue.Slow).
func findQueue(tx *Tx, webhook uint64) (queue, error) {
	q, err := queueTable.Get(tx, IDKey(webhook))
	if errors.Is(err, ErrNotFound) {
		return queue{Webhook: webhook, Next: 1, FirstLog: 1, NextLog: 1, Slow: true}, nil
	}
	return q, err
}

// first returns the number of the first pending delivery, or Next if nothing is
// pending.
func (q queue) first() uint64 { return q.Next - uint64(q.Waiting) }

// dueQueues calls visit with each queue that is due at moment, a service time.
// The queue that has been due longest comes first. It stops when visit returns
// false.
func dueQueues(tx *Tx, moment time.Time, visit func(queue) (more bool)) error {
	for entry, key := range queueTable.Find(tx, "due", nil, false) {
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

// nextDelivery returns the delivery that may be sent to a webhook at moment, a
// service time. It returns ErrNotFound if none may be sent then.
func nextDelivery(tx *Tx, webhook uint64, moment time.Time) (delivery, error) {
	q, err := findQueue(tx, webhook)
	if err != nil {
		return delivery{}, err
	}
	if dueEntries(q) == nil || q.Due.After(moment) {
		return delivery{}, ErrNotFound
	}
	return deliveryTable.Get(tx, pairKey(webhook, q.first()))
}

// push appends a delivery to its webhook's queue. If the queue is full, push
// drops the oldest delivery and records that in the log.
func push(tx *Tx, d delivery) error {
	q, err := findQueue(tx, d.Webhook)
	if err != nil {
		return err
	}
	if q.Waiting >= maxWaiting {
		old, err := deliveryTable.Get(tx, pairKey(q.Webhook, q.first()))
		if err != nil {
			return err
		}
		if err := q.leave(tx); err != nil {
			return err
		}
		entry := Attempt{Delivery: old.ID, Event: old.Event, At: d.At, Error: fmt.Sprintf("dropped unsent: more than %d deliveries wait", maxWaiting)}
		if err := q.log(tx, entry); err != nil {
			return err
		}
	}
	d.Number = q.Next
	q.Next++
	q.Waiting++
	if err := deliveryTable.Put(tx, d); err != nil {
		return err
	}
	return queueTable.Put(tx, q)
}

// leave removes the first delivery from the queue. The caller stores q.
func (q *queue) leave(tx *Tx) error {
	if err := deliveryTable.Delete(tx, pairKey(q.Webhook, q.first())); err != nil {
		return err
	}
	q.Waiting--
	q.Tries = 0
	return nil
}

// log appends an entry to the log. If the log is full, it deletes the oldest
// entry. The caller stores q.
func (q *queue) log(tx *Tx, a Attempt) error {
	a.Webhook, a.Number = q.Webhook, q.NextLog
	if len(a.Body) > maxReplay {
		a.Body = nil
	}
	if err := attemptTable.Put(tx, a); err != nil {
		return err
	}
	q.NextLog++
	q.Last, q.Last.Body = a, nil
	if q.NextLog-q.FirstLog <= maxAttempts {
		return nil
	}
	err := attemptTable.Delete(tx, pairKey(q.Webhook, q.FirstLog))
	q.FirstLog++
	return err
}

// Settle stores the outcome of attempt a at delivery d and adds it to the log.
// moment is the service time after the attempt. After a success or the last
// attempt the delivery leaves the queue; otherwise it waits for the next attempt.
// dead is "", or the reason in a sentence if the caller should switch the webhook
// off. If the webhook has been deleted, Settle stores nothing.
func Settle(tx *Tx, d delivery, a Attempt, moment time.Time) (dead string, err error) {
	q, err := queueTable.Get(tx, IDKey(d.Webhook))
	if err != nil || q.Gone {
		if errors.Is(err, ErrNotFound) {
			err = nil
		}
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
	if q.Waiting > 0 && q.first() == d.Number { // else it has been dropped since
		q.Tries++
		q.Due = moment // after a success too: queues that have waited longer come first
		last := q.Tries > len(schedule())
		if !last && !a.Success() {
			wait := schedule()[q.Tries-1]
			q.Due = moment.Add(wait + rand.N(wait/20)) // never early; the random part spreads failures of the same moment
		} else {
			a.Body = d.Body
			err = q.leave(tx)
		}
	}
	if err := errors.Join(err, q.log(tx, a)); err != nil {
		return "", err
	}
	if q.Failed >= deadAttempts && moment.Sub(q.Failing) >= deadAfter {
		dead = fmt.Sprintf("Switched off after %d days in which every delivery failed, the last because: %s.", deadAfter/(24*time.Hour), a.Outcome())
	}
	return dead, queueTable.Put(tx, q)
}

// addAttempt adds an attempt to the log that did not come from the queue, such as
// a test.
func addAttempt(tx *Tx, webhook uint64, a Attempt) error {
	q, err := findQueue(tx, webhook)
	if err != nil {
		return err
	}
	if err := q.log(tx, a); err != nil {
		return err
	}
	return queueTable.Put(tx, q)
}

// attempts returns a part of a webhook's log, newest first, and the number of
// entries in the whole log. page gets that number and returns a half-open range
// of indexes.
func attempts(tx *Tx, webhook uint64, page func(count int) (from, to int)) (list []Attempt, count int, err error) {
	q, err := findQueue(tx, webhook)
	if err != nil {
		return nil, 0, err
	}
	count = int(q.NextLog - q.FirstLog)
	from, to := page(count)
	for i := from; i < to; i++ {
		a, err := attemptTable.Get(tx, pairKey(webhook, q.NextLog-1-uint64(i)))
		if err != nil {
			return nil, 0, err
		}
		list = append(list, a)
	}
	return list, count, nil
}

// OutboxBacklog returns the number of pending deliveries and the wall-clock time
// of the oldest, which is zero if there are none. Deliveries of webhooks that are
// switched off count too.
func OutboxBacklog(tx *Tx) (waiting int, oldest time.Time, err error) {
	for q, err := range queueTable.All(tx, false) {
		if err != nil {
			return 0, oldest, err
		}
		if q.Waiting == 0 || q.Gone {
			continue
		}
		waiting += q.Waiting
		d, err := deliveryTable.Get(tx, pairKey(q.Webhook, q.Next-uint64(q.Waiting)))
		if err != nil {
			return 0, oldest, err
		}
		if oldest.IsZero() || d.At.Before(oldest) {
			oldest = d.At
		}
	}
	return waiting, oldest, nil
}

// repeat queues the delivery of a log entry again, with the same id and bytes. It
// returns ErrNotFound if there is no such entry and ErrConflict if the entry has
// no body (see Attempt).
func repeat(tx *Tx, webhook, entry uint64, now time.Time) (delivery, error) {
	a, err := attemptTable.Get(tx, pairKey(webhook, entry))
	if errors.Is(err, ErrNotFound) {
		return delivery{}, ErrNotFound.With("No entry %d in the log of this webhook.", entry)
	}
	if err != nil {
		return delivery{}, err
	}
	if a.Body == nil {
		return delivery{}, ErrConflict.With("The body of this delivery is not in this entry: it was not the last attempt, or the body was larger than %d bytes.", maxReplay)
	}
	d := delivery{Webhook: webhook, ID: a.Delivery, Event: a.Event, Body: a.Body, At: now}
	return d, push(tx, d)
}

// switchQueue starts a queue if on is true, else stops it. With afresh, earlier
// attempts no longer count, so that the first pending delivery is due at once.
func switchQueue(tx *Tx, webhook uint64, on, afresh bool) error {
	q, err := findQueue(tx, webhook)
	if err != nil {
		return err
	}
	if afresh {
		q.Tries, q.Due, q.Failing, q.Failed = 0, time.Time{}, time.Time{}, 0
	}
	q.Stopped = !on
	return queueTable.Put(tx, q)
}

// dropQueue marks the queue of a deleted webhook. It may hold many records, so it
// leaves their removal to SweepOutbox.
func dropQueue(tx *Tx, webhook uint64) error {
	q, err := findQueue(tx, webhook)
	if err != nil {
		return err
	}
	q.Gone = true
	return queueTable.Put(tx, q)
}

// SweepOutbox deletes log entries older than keepLog, and all records of deleted
// webhooks. now is the wall clock. It deletes at most 500 records in each
// transaction, so that other writes do not wait long.
func SweepOutbox(s *Store, now time.Time) error {
	var work []uint64
	err := s.View(func(tx *Tx) error {
		for q, err := range queueTable.All(tx, false) {
			if err != nil {
				return err
			}
			if old, err := q.old(tx, now); err != nil {
				return err
			} else if old || q.Gone {
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
	return err
}

// old reports whether SweepOutbox should delete the oldest entry of the log.
func (q queue) old(tx *Tx, now time.Time) (bool, error) {
	if q.FirstLog == q.NextLog {
		return false, nil
	}
	a, err := attemptTable.Get(tx, pairKey(q.Webhook, q.FirstLog))
	return q.Gone || now.Sub(a.At) > keepLog, err
}

// sweepQueue deletes up to 500 records of one queue. more reports whether there
// may be others to delete.
func sweepQueue(tx *Tx, webhook uint64, now time.Time) (more bool, err error) {
	q, err := findQueue(tx, webhook)
	if err != nil {
		return false, err
	}
	for range 500 {
		old, err := q.old(tx, now)
		switch {
		case err != nil:
			return false, err
		case old:
			err = attemptTable.Delete(tx, pairKey(webhook, q.FirstLog))
			q.FirstLog++
		case q.Gone && q.Waiting > 0:
			err = q.leave(tx)
		case q.Gone:
			return false, queueTable.Delete(tx, IDKey(webhook))
		default:
			return false, queueTable.Put(tx, q)
		}
		if err != nil {
			return false, err
		}
	}
	return true, queueTable.Put(tx, q)
}
