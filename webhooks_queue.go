package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// The outbox is bounded, so that a receiver that is down for long cannot fill the disk. Such a
// receiver loses the oldest deliveries instead.
const (
	maxWaiting  = 10_000              // pending deliveries of one webhook
	maxAttempts = 1_000               // entries in the log of one webhook
	keepLog     = 30 * 24 * time.Hour // a log entry is deleted at this age
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

// delivery is an event that is to be sent to a webhook. Each attempt at it sends the same bytes.
type delivery struct {
	Webhook uint64    `json:"webhook"`
	Number  uint64    `json:"number"` // position in the webhook's queue, counted from 1
	ID      string    `json:"id"`     // sent in the header field X-Klen-Delivery
	Event   string    `json:"event"`
	Body    []byte    `json:"body"`
	At      time.Time `json:"at"`
}

// queue is the state of a webhook's queue and log. The pending deliveries have the numbers from
// Next-Waiting to Next-1. The first of them is tried until it arrives or its last attempt fails.
// Only then is the next one tried.
type queue struct {
	Webhook uint64 `json:"webhook"`
	Next    uint64 `json:"next"`            // number of the next delivery to be added
	Waiting int    `json:"waiting"`         // number of pending deliveries
	Tries   int    `json:"tries,omitempty"` // attempts at the first pending delivery so far

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
	Last     Attempt `json:"last,omitzero"` // the newest log entry, without its body
}

// Attempt is an entry in a webhook's log: one attempt at a delivery, or a delivery that was dropped
// unsent.
type Attempt struct {
	Webhook  uint64        `json:"webhook"`
	Number   uint64        `json:"number"`
	Delivery string        `json:"delivery"` // delivery.ID
	Event    string        `json:"event"`
	Attempt  int           `json:"attempt"`          // counted from 1; 0 if the delivery was dropped unsent
	Status   int           `json:"status,omitempty"` // HTTP status; 0 if there was no answer
	Error    string        `json:"error,omitempty"`  // why there was no answer, such as notReached, or ""
	Took     time.Duration `json:"took,omitempty"`
	At       time.Time     `json:"at"` // start of the attempt, on the wall clock
	// Body is the payload, kept so that it can be sent again. It is kept only with the attempt
	// after which the delivery left the queue, and only up to maxReplay bytes. Otherwise it is nil.
	Body []byte `json:"body,omitempty"`
}

// Success reports whether the receiver accepted the delivery. It accepts it with a 2xx status.
func (a Attempt) Success() bool { return a.Status/100 == 2 && a.Error == "" }

// Outcome returns the cause of the failure as owners are shown it, or a phrase with the HTTP status.
func (a Attempt) Outcome() string {
	if a.Error != "" {
		return publicCause(a.Error)
	}
	return fmt.Sprint(answered, a.Status)
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

// OutboxTables returns the tables of the outbox, for checks of the store.
func OutboxTables() []Checked { return []Checked{deliveryTable, attemptTable, queueTable} }

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

// outboxChanged returns a channel that receives a token when a delivery is stored or removed. The
// channel holds at most one token. Every call returns the same channel.
func outboxChanged(s *Store) <-chan struct{} { return s.Watch(outboxName) }

// findQueue returns the queue of a webhook, or a new empty queue if none is stored. A new queue
// counts as slow (see queue.Slow).
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
	return deliveryTable.Get(tx, pairKey(webhook, q.first()))
}

// push appends d to the queue of its webhook. If the queue is full, push drops the oldest delivery
// and adds a log entry about it.
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
		entry := Attempt{Delivery: old.ID, Event: old.Event, At: d.At, Error: queueFull}
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

// leave removes the first pending delivery. The caller stores q.
func (q *queue) leave(tx *Tx) error {
	if err := deliveryTable.Delete(tx, pairKey(q.Webhook, q.first())); err != nil {
		return err
	}
	q.Waiting--
	q.Tries = 0
	return nil
}

// log appends an entry to the log. If the log is full, it deletes the oldest entry. The caller
// stores q.
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

// Settle stores the outcome of attempt a at delivery d and adds it to the log. moment is the time
// after the attempt, on the service clock. After a success or the last attempt, the delivery leaves
// the queue. Otherwise it waits for the next attempt. If the caller should now switch the webhook
// off, reason is the reason as a sentence; otherwise reason is "". If the webhook has been deleted,
// Settle stores nothing.
func Settle(tx *Tx, d delivery, a Attempt, moment time.Time) (reason string, err error) {
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
	if q.Waiting > 0 && q.first() == d.Number { // otherwise the delivery was dropped during the attempt
		q.Tries++
		q.Due = moment // also after a success, so that queues that have waited longer are sent first
		last := q.Tries > len(schedule())
		if !last && !a.Success() {
			wait := schedule()[q.Tries-1]
			q.Due = moment.Add(wait + rand.N(wait/20)) // the random part spreads retries after simultaneous failures
		} else {
			a.Body = d.Body
			err = q.leave(tx)
		}
	}
	if err := errors.Join(err, q.log(tx, a)); err != nil {
		return "", err
	}
	if q.Failed >= deadAttempts && moment.Sub(q.Failing) >= deadAfter {
		reason = fmt.Sprintf("Switched off because every delivery failed for %d days. %s%s.", deadAfter/(24*time.Hour), finalFailed, a.Outcome())
	}
	return reason, queueTable.Put(tx, q)
}

// addAttempt adds an attempt outside the queue, such as a test, to the log of a webhook.
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

// attempts returns a part of a webhook's log, newest first, and the number of entries in the whole
// log. It calls page with that number. page returns the part as a half-open range of indexes, in
// which index 0 is the newest entry.
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
	var queues []queue
	for q, err := range queueTable.All(tx, Forward) {
		if err != nil {
			return 0, err
		}
		queues = append(queues, q)
	}
	for _, q := range queues {
		for q.Waiting > 0 && !q.Gone {
			d, err := deliveryTable.Get(tx, pairKey(q.Webhook, q.first()))
			if err != nil {
				return 0, err
			}
			if !d.At.Before(limit) {
				break
			}
			discarded++
			err = errors.Join(q.leave(tx), q.log(tx, Attempt{Delivery: d.ID, Event: d.Event, At: now, Error: heldBack}))
			if err != nil {
				return 0, err
			}
		}
		if err := queueTable.Put(tx, q); err != nil {
			return 0, err
		}
	}
	return discarded, nil
}

// repeat queues the delivery of a log entry again, with the same id and bytes. entry is the number
// of the log entry. repeat returns ErrNotFound if there is no such entry, and ErrConflict if the
// entry has no body (see Attempt).
func repeat(tx *Tx, webhook, entry uint64, now time.Time) (delivery, error) {
	a, err := attemptTable.Get(tx, pairKey(webhook, entry))
	if errors.Is(err, ErrNotFound) {
		return delivery{}, ErrNotFound.With("The log of this webhook has no entry %d.", entry)
	}
	if err != nil {
		return delivery{}, err
	}
	if a.Body == nil {
		return delivery{}, ErrConflict.With("This entry cannot be sent again. It is not the last attempt at its delivery, or the body is larger than %d bytes.", maxReplay)
	}
	d := delivery{Webhook: webhook, ID: a.Delivery, Event: a.Event, Body: a.Body, At: now}
	return d, push(tx, d)
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

// SweepOutbox deletes the log entries older than keepLog and all records of deleted webhooks. now
// is the wall clock. It deletes at most 500 records in a transaction, so that other writes need not
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
