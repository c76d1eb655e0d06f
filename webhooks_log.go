package main

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// Attempt is an entry in a webhook's log: one attempt at a delivery, or deliveries that were dropped
// unsent, one after the other for the same reason.
type Attempt struct {
	Webhook  uint64        `json:"webhook"`
	Number   uint64        `json:"number"`
	Delivery string        `json:"delivery"` // delivery.ID
	Event    string        `json:"event"`
	Attempt  int           `json:"attempt"`           // counted from 1; 0 if the delivery was dropped unsent
	Dropped  int           `json:"dropped,omitempty"` // number of deliveries dropped; the fields above are of the last one
	Status   int           `json:"status,omitempty"`  // HTTP status; 0 if there was no answer
	Error    string        `json:"error,omitempty"`   // why there was no answer, such as notReached, or ""
	Took     time.Duration `json:"took,omitempty"`
	At       time.Time     `json:"at"` // start of the attempt, on the wall clock
	// Kept is the id of the event whose body is kept so that it can be sent again. It is set only
	// with the attempt after which the delivery left the queue, and only for up to maxReplay bytes.
	// Otherwise it is 0. Older entries lose it if the log exceeds Bounds.WebhookLogBytes.
	Kept uint64 `json:"kept,omitempty"`
	// Again reports whether the delivery was queued again because of this entry.
	Again bool `json:"again,omitempty"`
	// Answer is the beginning of the body of the answer to a failed attempt, up to maxAnswer bytes. Body
	// is the body of a test, which has no event. Both are only in the log, not in queue.Last, which
	// is stored with each change of the queue.
	Answer string `json:"answer,omitempty"`
	Body   string `json:"body,omitempty"`
}

// brief returns the entry without the texts that are only in the log.
func (a Attempt) brief() Attempt {
	a.Answer, a.Body = "", ""
	return a
}

// failedForGood reports whether the delivery has failed, can be sent again, and was not queued again
// since.
func (a Attempt) failedForGood() bool {
	return a.Attempt > 0 && !a.Success() && a.Kept != 0 && !a.Again
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

// log appends an entry to the log of a queue. If the log is full, it deletes the oldest entry.
func (b *outbox) log(q *queue, a Attempt) error {
	if b.relog[q.Webhook] {
		if err := attemptTable.Put(b.tx, q.Last); err != nil {
			return err
		}
		delete(b.relog, q.Webhook)
	}
	a.Webhook, a.Number = q.Webhook, q.NextLog
	if err := b.keepBody(q, &a); err != nil {
		return err
	}
	if err := attemptTable.Put(b.tx, a); err != nil {
		return err
	}
	q.NextLog++
	q.Last = a.brief()
	if q.NextLog-q.FirstLog > maxAttempts {
		if err := b.forget(q); err != nil {
			return err
		}
	}
	return b.trimLog(q)
}

// logUnsent adds a delivery that was removed unsent to the log of a queue. If the newest entry has the
// same reason, it only counts in that entry, so that it does not displace the others.
func (b *outbox) logUnsent(q *queue, a Attempt) error {
	if q.NextLog == q.FirstLog || q.Last.Attempt != 0 || q.Last.Error != a.Error {
		a.Dropped = 1
		return b.log(q, a)
	}
	last := q.Last
	a.Webhook, a.Number, a.Dropped = last.Webhook, last.Number, max(last.Dropped, 1)+1
	q.Last, b.relog[q.Webhook] = a, true
	return nil
}

// keepBody counts the reference of a new log entry to its event. It removes the reference if the body
// is too large to be kept.
func (b *outbox) keepBody(q *queue, a *Attempt) error {
	if a.Kept == 0 {
		return nil
	}
	e, err := b.event(a.Kept)
	if err != nil {
		return err
	}
	if e.Size > maxReplay {
		a.Kept = 0
		return nil
	}
	e.Kept++
	q.LogBytes += e.Size
	return nil
}

// loseBody removes the reference of a log entry to its event. The caller stores or deletes a.
func (b *outbox) loseBody(q *queue, a *Attempt) error {
	if a.Kept == 0 {
		return nil
	}
	e, err := b.event(a.Kept)
	if err != nil {
		return err
	}
	a.Kept = 0
	e.Kept--
	q.LogBytes -= e.Size
	return nil
}

// trimLog removes the bodies of the oldest log entries until the log does not exceed its bound.
func (b *outbox) trimLog(q *queue) error {
	limit := b.tx.Bounds.WebhookLogBytes
	for q.FirstKept = max(q.FirstKept, q.FirstLog); limit > 0 && q.LogBytes > limit && q.FirstKept < q.NextLog; q.FirstKept++ {
		a, err := attemptTable.Get(b.tx, pairKey(q.Webhook, q.FirstKept))
		if err != nil {
			return err
		}
		if a.Kept == 0 {
			continue
		}
		if err := errors.Join(b.loseBody(q, &a), attemptTable.Put(b.tx, a)); err != nil {
			return err
		}
		if q.Last.Number == a.Number {
			q.Last = a.brief()
		}
	}
	return nil
}

// forget deletes the oldest log entry of a queue.
func (b *outbox) forget(q *queue) error {
	key := pairKey(q.Webhook, q.FirstLog)
	a, err := attemptTable.Get(b.tx, key)
	if err == nil {
		err = b.loseBody(q, &a)
	}
	if err != nil {
		return err
	}
	q.FirstLog++
	return attemptTable.Delete(b.tx, key)
}

// addAttempt adds an attempt outside the queue, such as a test, to the log of a webhook.
func addAttempt(tx *Tx, webhook uint64, a Attempt) error {
	b := openOutbox(tx)
	q, err := b.queue(webhook)
	if err != nil {
		return err
	}
	if err := b.log(q, a); err != nil {
		return err
	}
	return b.flush()
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

// findAttempt returns an entry of a webhook's log. It returns ErrNotFound if there is no such entry.
func findAttempt(tx *Tx, webhook, entry uint64) (Attempt, error) {
	a, err := attemptTable.Get(tx, pairKey(webhook, entry))
	if errors.Is(err, ErrNotFound) {
		err = ErrNotFound.With("The log of this webhook has no entry %d.", entry)
	}
	return a, err
}

// failedAttempts returns the entries of a webhook's log whose deliveries have failed for good, newest
// first.
func failedAttempts(tx *Tx, webhook uint64) (failed []Attempt, err error) {
	all, _, err := attempts(tx, webhook, func(count int) (from, to int) { return 0, count })
	return slices.DeleteFunc(all, func(a Attempt) bool { return !a.failedForGood() }), err
}

// bodyOf returns what an entry of the log has sent. ok is false if that is not kept.
func bodyOf(tx *Tx, a Attempt) (body string, ok bool, err error) {
	event := a.Kept
	if event == 0 && a.Body != "" {
		return a.Body, true, nil
	}
	if event == 0 { // it may be pending
		d, _, err := headOf(tx, a.Webhook)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return "", false, err
		}
		if err != nil || d.ID != a.Delivery {
			return "", false, nil
		}
		event = d.EventID
	}
	data, err := findBody(tx, event)
	return string(data), err == nil, err
}

// repeat queues the delivery of a log entry again, with the same id and bytes. entry is the number
// of the log entry. If the delivery is the first pending one, repeat makes it due now instead. It
// returns ErrNotFound if there is no such entry, and ErrConflict if the entry has no body (see
// Attempt).
func repeat(tx *Tx, webhook, entry uint64, now time.Time) (delivery, error) {
	a, err := findAttempt(tx, webhook, entry)
	if err != nil {
		return delivery{}, err
	}
	if a.Kept == 0 {
		return hurry(tx, a)
	}
	b := openOutbox(tx)
	q, err := b.queue(webhook)
	if err != nil {
		return delivery{}, err
	}
	e, err := b.event(a.Kept)
	if err != nil {
		return delivery{}, err
	}
	refused, err := b.makeRoom(q, e)
	if err != nil {
		return delivery{}, err
	}
	if refused != "" {
		return delivery{}, ErrConflict.With("This entry cannot be sent again. The event has %d bytes, which is more than the bytes that can be pending "+
			"(webhook_waiting_bytes and webhook_owner_bytes under [bounds]).", e.Size)
	}
	d := delivery{Webhook: webhook, EventID: e.ID, ID: a.Delivery, Event: e.Type, At: now}
	err = errors.Join(b.add(e, recipient{Webhook: webhook, At: now, Delivery: a.Delivery}), b.flush())
	if err != nil || a.Again {
		return d, err
	}
	if a, err = attemptTable.Get(tx, pairKey(webhook, entry)); err != nil { // making room may have changed it
		return d, err
	}
	a.Again = true
	return d, attemptTable.Put(tx, a)
}

// hurry makes the delivery of a log entry due now, if it is the first pending one. Otherwise it
// returns ErrConflict.
func hurry(tx *Tx, a Attempt) (delivery, error) {
	d, _, err := headOf(tx, a.Webhook)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return d, err
	}
	if err != nil || d.ID != a.Delivery {
		return d, ErrConflict.With("This entry cannot be sent again. It is not the last attempt at its delivery, the body is larger than %d bytes, "+
			"or newer entries needed its space (webhook_log_bytes).", maxReplay)
	}
	q, err := findQueue(tx, a.Webhook)
	if err != nil {
		return d, err
	}
	if q.Stopped {
		return d, ErrConflict.With("The webhook is not active, so nothing is sent to it. Switch it on first.")
	}
	q.Due = time.Time{}
	return d, queueTable.Put(tx, q)
}

// repeatFailed queues all deliveries again that have failed for good, oldest first. left is the number
// of those for which there is no room.
func repeatFailed(tx *Tx, webhook uint64, now time.Time) (queued, left int, err error) {
	failed, err := failedAttempts(tx, webhook)
	for _, a := range slices.Backward(failed) {
		if err != nil {
			return queued, left, err
		}
		if _, err = repeat(tx, webhook, a.Number, now); errors.Is(err, ErrConflict) {
			left++
			err = nil
		} else {
			queued++
		}
	}
	return queued, left, err
}
