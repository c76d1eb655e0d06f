package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// What bounds an outbox. A receiver that is away for long loses the oldest
// deliveries rather than fill the disk.
const (
	maxWaiting  = 10_000              // deliveries that wait for one webhook
	maxAttempts = 1_000               // entries in the log of one webhook
	keepLog     = 30 * 24 * time.Hour // and how long they stay
	maxReplay   = 64 << 10            // bytes of a body kept in the log, to be sent again
)

// schedule are the waits between the attempts (contract 8.5): six in all.
func schedule() []time.Duration {
	return []time.Duration{time.Minute, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 6 * time.Hour}
}

// A receiver is dead when everything sent to it has failed for this long, and
// at least that often.
const (
	deadAfter    = 5 * 24 * time.Hour
	deadAttempts = 10
)

// delivery is one event on its way to one webhook: the bytes that are sent, the
// same on each attempt.
type delivery struct {
	Webhook uint64    `json:"webhook"`
	Number  uint64    `json:"number"` // its place in the webhook's order
	ID      string    `json:"id"`     // told to the receiver
	Event   string    `json:"event"`
	Body    []byte    `json:"body"`
	At      time.Time `json:"at"`
}

// queue says which deliveries wait for a webhook, in order, and how they go.
// Those with the numbers from Next-Waiting to Next-1 wait; the first of them is
// sent until it arrives or has failed for good, and only then the next.
type queue struct {
	Webhook uint64 `json:"webhook"`
	Next    uint64 `json:"next"`
	Waiting int    `json:"waiting"`
	Tries   int    `json:"tries,omitempty"` // how often the first one has been sent

	// Due and Failing are service times: the wall clock may step, and a retry
	// must not come early for it.
	Due     time.Time `json:"due,omitzero"`      // not before this
	Failing time.Time `json:"failing,omitzero"`  // since when nothing has arrived
	Failed  int       `json:"failed,omitempty"`  // how often since then
	Slow    bool      `json:"slow,omitempty"`    // the last attempt failed or took long, or there was none
	Stopped bool      `json:"stopped,omitempty"` // the webhook is not active
	Gone    bool      `json:"gone,omitempty"`    // the webhook is deleted, and this is to be swept

	FirstLog uint64  `json:"first_log"` // the log has the numbers from FirstLog to NextLog-1
	NextLog  uint64  `json:"next_log"`
	Last     Attempt `json:"last,omitzero"` // the latest entry, without its body
}

// Attempt is an entry of a webhook's log: one try to send one delivery.
type Attempt struct {
	Webhook  uint64        `json:"webhook"`
	Number   uint64        `json:"number"`
	Delivery string        `json:"delivery"` // Delivery.ID
	Event    string        `json:"event"`
	Attempt  int           `json:"attempt"`          // from 1; 0 for a delivery that was dropped
	Status   int           `json:"status,omitempty"` // 0: there was no answer
	Error    string        `json:"error,omitempty"`
	Took     time.Duration `json:"took,omitempty"`
	At       time.Time     `json:"at"`
	// Body is there with the last attempt at a delivery, to be sent again.
	Body []byte `json:"body,omitempty"`
}

// Success says whether the receiver has taken it: any 2xx (contract 8.5).
func (a Attempt) Success() bool { return a.Status/100 == 2 && a.Error == "" }

// Outcome says in a few words how it went.
func (a Attempt) Outcome() string {
	if a.Error != "" {
		return a.Error
	}
	return fmt.Sprintf("the receiver answered %d", a.Status)
}

func pairKey(webhook, number uint64) []byte {
	return binary.BigEndian.AppendUint64(IDKey(webhook), number)
}

// outboxName is the table that Outbox.Watch watches.
const outboxName = "webhook_outbox"

var (
	deliveryTable = Table[delivery]{Name: outboxName, Key: func(d delivery) []byte { return pairKey(d.Webhook, d.Number) }}
	attemptTable  = Table[Attempt]{Name: "webhook_log", Key: func(a Attempt) []byte { return pairKey(a.Webhook, a.Number) }}
	queueTable    = Table[queue]{
		Name: "webhook_queues", Key: func(q queue) []byte { return IDKey(q.Webhook) },
		Indexes: []Index[queue]{{"due", dueEntries}},
	}
)

// OutboxTables lists what the outbox keeps in the store, for checks.
func OutboxTables() []Checked { return []Checked{deliveryTable, attemptTable, queueTable} }

// dueEntries orders the queues that may be sent from by when they were due.
func dueEntries(q queue) [][]byte {
	if q.Waiting == 0 || q.Stopped || q.Gone {
		return nil
	}
	if q.Due.IsZero() {
		return [][]byte{IDKey(0)}
	}
	return [][]byte{IDKey(uint64(q.Due.UnixNano()))}
}

// outboxChanged gives a channel that holds a token once a delivery was stored
// or has left.
func outboxChanged(s *Store) <-chan struct{} { return s.Watch(outboxName) }

// findQueue reads the queue of a webhook; a new one where there is none. What
// has never arrived anywhere counts as slow.
func findQueue(tx *Tx, webhook uint64) (queue, error) {
	q, err := queueTable.Get(tx, IDKey(webhook))
	if errors.Is(err, ErrNotFound) {
		return queue{Webhook: webhook, Next: 1, FirstLog: 1, NextLog: 1, Slow: true}, nil
	}
	return q, err
}

// first is the number of the delivery whose turn it is.
func (q queue) first() uint64 { return q.Next - uint64(q.Waiting) }

// dueQueues gives the queues whose first delivery may be sent at a service
// time, the longest due first, until visit says to stop.
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

// nextDelivery gives the delivery that may be sent to a webhook at a service
// time; ErrNotFound where none may.
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

// push puts a delivery at the end of its webhook's queue. From a full queue the
// oldest is dropped, and the log says so.
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

// leave takes the first delivery out of the queue. The queue is not stored yet.
func (q *queue) leave(tx *Tx) error {
	if err := deliveryTable.Delete(tx, pairKey(q.Webhook, q.first())); err != nil {
		return err
	}
	q.Waiting--
	q.Tries = 0
	return nil
}

// log adds an entry, and takes the oldest away where there are too many. The
// queue is not stored yet.
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

// Settle stores what came of an attempt at a delivery at a service time: what
// has arrived leaves the queue, what has failed waits for its next attempt, and
// leaves after the last one. Where nothing has arrived for so long that the
// webhook should be switched off, dead says so in a sentence.
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
	if q.Waiting > 0 && q.first() == d.Number { // else it was dropped meanwhile
		q.Tries++
		q.Due = moment // behind those who have waited longer
		last := q.Tries > len(schedule())
		if !last && !a.Success() {
			wait := schedule()[q.Tries-1]
			q.Due = moment.Add(wait + rand.N(wait/20)) // never early; apart, where many failed together
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

// addAttempt puts an attempt at something that never waited into the log.
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

// attempts gives the entries of a webhook's log, newest first, that page
// chooses of count.
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

// OutboxBacklog says how many deliveries wait, and since when the oldest does.
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

// repeat queues what an entry of the log has sent again, with the same id and
// bytes. It is ErrNotFound where there is no such entry, ErrConflict where the
// delivery still waits or its body is not kept.
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

// switchQueue stops a queue or has it go on. Afresh forgets how it went so far,
// so that what waits is sent at once.
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

// dropQueue gives up the queue of a deleted webhook. Its contents, which may be
// many, are for SweepOutbox.
func dropQueue(tx *Tx, webhook uint64) error {
	q, err := findQueue(tx, webhook)
	if err != nil {
		return err
	}
	q.Gone = true
	return queueTable.Put(tx, q)
}

// SweepOutbox removes what is too old or of a deleted webhook, some hundred
// records in each transaction, so that nobody waits for it long.
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

// old says whether the oldest entry of the log is to go.
func (q queue) old(tx *Tx, now time.Time) (bool, error) {
	if q.FirstLog == q.NextLog {
		return false, nil
	}
	a, err := attemptTable.Get(tx, pairKey(q.Webhook, q.FirstLog))
	return q.Gone || now.Sub(a.At) > keepLog, err
}

// sweepQueue sweeps a part of one queue and says whether more is left.
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
