package main

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"latchkey/internal/keytext"
)

// maxDrops is the largest number of deliveries that one new event drops from a queue, and of events
// that it drops from the queues of an owner. More are dropped only after a bound was lowered; then
// SweepOutbox drops the rest.
const maxDrops = 500

// outboxEvent is a published event. It is stored once for all webhooks that receive it. The queue of
// a webhook is a list of events that are linked by recipient.Next. The event and its body are
// deleted when nothing is pending and no log entry refers to the body.
type outboxEvent struct {
	ID uint64 `json:"id"`
	// Owner is the id of the owner for whom the bytes of the event count: the owner of the record
	// that it is about, if one of their webhooks receives it, otherwise 0 for the operator.
	Owner   uint64     `json:"owner,omitempty"`
	Type    string     `json:"type"`
	At      time.Time  `json:"at"`
	Size    int        `json:"size"`              // of the body, in bytes
	Seed    string     `json:"seed"`              // random; the delivery ids are derived from it
	Pending recipients `json:"pending,omitempty"` // in the order in which they were added
	Kept    int        `json:"kept,omitempty"`    // number of log entries that refer to the body
}

// recipient is a webhook that an event is still to be sent to. A webhook can appear in an event more
// than once, because the operator can send an event again.
type recipient struct {
	Webhook  uint64
	Owner    uint64    // owner of the webhook
	Next     uint64    // id of the event that follows in the queue; 0 if none does
	At       time.Time // time of the delivery; zero means outboxEvent.At
	Delivery string    // delivery id; "" means the one derived from outboxEvent.Seed
}

// recipients is stored in a compact form, because an event can have many.
type recipients []recipient

// storedRecipients is the stored form of recipients.
type storedRecipients struct {
	To  []uint64      `json:"to"`            // Webhook, Owner and Next of each recipient
	Own []ownDelivery `json:"own,omitempty"` // At and Delivery of the recipients that have any
}

// ownDelivery is what a recipient does not derive from its event.
type ownDelivery struct {
	Index    int       `json:"index"` // in recipients
	At       time.Time `json:"at,omitzero"`
	Delivery string    `json:"id,omitempty"`
}

// MarshalJSON returns the stored form.
func (l recipients) MarshalJSON() ([]byte, error) {
	s := storedRecipients{To: make([]uint64, 0, 3*len(l))}
	for i, r := range l {
		s.To = append(s.To, r.Webhook, r.Owner, r.Next)
		if !r.At.IsZero() || r.Delivery != "" {
			s.Own = append(s.Own, ownDelivery{i, r.At, r.Delivery})
		}
	}
	return json.Marshal(s)
}

// UnmarshalJSON reads the stored form.
func (l *recipients) UnmarshalJSON(text []byte) error {
	var s storedRecipients
	if err := json.Unmarshal(text, &s); err != nil {
		return err
	}
	*l = make(recipients, len(s.To)/3)
	for i := range *l {
		(*l)[i] = recipient{Webhook: s.To[3*i], Owner: s.To[3*i+1], Next: s.To[3*i+2]}
	}
	for _, own := range s.Own {
		if own.Index < 0 || own.Index >= len(*l) {
			return fmt.Errorf("there is no recipient %d", own.Index)
		}
		(*l)[own.Index].At, (*l)[own.Index].Delivery = own.At, own.Delivery
	}
	return nil
}

// outboxBody is the body of an event. It is stored apart from the event, because the event changes
// with every delivery and the body never does.
type outboxBody struct {
	Event uint64 `json:"event"`
	Owner uint64 `json:"owner,omitempty"` // see outboxEvent.Owner
	Body  []byte `json:"body"`
}

// ownerBacklog is what is pending for the webhooks of an owner. An event counts once, however many of
// the webhooks it is pending for. Owner 0 is the operator. There is no record if nothing is pending.
type ownerBacklog struct {
	Owner  uint64 `json:"owner"`
	Events int    `json:"events"`
	Bytes  int    `json:"bytes"` // sum of the sizes of the bodies
}

// eventsName is the name of the table of published events.
const eventsName = "webhook_events"

var (
	eventTable = Table[outboxEvent]{
		Name: eventsName, Key: func(e outboxEvent) []byte { return IDKey(e.ID) },
		Owner: func(e outboxEvent) uint64 { return e.Owner }, Imposed: true,
	}
	bodyTable = Table[outboxBody]{
		Name: "webhook_bodies", Key: func(b outboxBody) []byte { return IDKey(b.Event) },
		Owner: func(b outboxBody) uint64 { return b.Owner }, Imposed: true,
	}
	backlogTable = Table[ownerBacklog]{Name: "webhook_backlogs", Key: func(o ownerBacklog) []byte { return IDKey(o.Owner) }}
)

// droppedKey is the key in the bucket meta of the number that DroppedDeliveries returns.
var droppedKey = []byte("webhooks_dropped")

// DroppedDeliveries returns how many deliveries were dropped unsent because of a bound, since the
// store was created.
func DroppedDeliveries(tx *Tx) (uint64, error) {
	value, err := tx.Get("meta", droppedKey)
	if err != nil || len(value) != 8 {
		return 0, err
	}
	return binary.BigEndian.Uint64(value), nil
}

// deliveryTo returns the id and the time of the delivery to a recipient.
func (e *outboxEvent) deliveryTo(r recipient) (id string, at time.Time) {
	if id, at = r.Delivery, r.At; id == "" {
		id = derivedID(e.Seed, r.Webhook)
	}
	if at.IsZero() {
		at = e.At
	}
	return id, at
}

// derivedID returns the id of the delivery of an event to a webhook. It has the form of newDeliveryID
// and is just as unpredictable, because seed is random. It need not be stored for each webhook.
func derivedID(seed string, webhook uint64) string {
	sum := sha256.Sum256(append([]byte(seed), IDKey(webhook)...))
	return "whd_" + hex.EncodeToString(sum[:16])
}

// pendingFor returns the index of the first delivery to a webhook that is pending, or -1.
func (e *outboxEvent) pendingFor(webhook uint64) int {
	return slices.IndexFunc(e.Pending, func(r recipient) bool { return r.Webhook == webhook })
}

// heldBy reports whether the event is pending for any webhook of an owner.
func (e *outboxEvent) heldBy(owner uint64) bool {
	return slices.ContainsFunc(e.Pending, func(r recipient) bool { return r.Owner == owner })
}

// findOutboxEvent returns an event that a queue or a log entry refers to. If it is missing, that is
// an error other than ErrNotFound.
func findOutboxEvent(tx *Tx, id uint64) (outboxEvent, error) {
	e, err := eventTable.Get(tx, IDKey(id))
	if errors.Is(err, ErrNotFound) {
		err = fmt.Errorf("%s/%x: the event is missing, although a webhook refers to it; restore a backup", eventsName, IDKey(id))
	}
	return e, err
}

// findBody returns the body of an event. If it is missing, that is an error other than ErrNotFound.
func findBody(tx *Tx, event uint64) ([]byte, error) {
	b, err := bodyTable.Get(tx, IDKey(event))
	if errors.Is(err, ErrNotFound) {
		err = fmt.Errorf("%s/%x: the body of an event is missing; restore a backup", bodyTable.Name, IDKey(event))
	}
	return b.Body, err
}

// outbox changes queues, logs and events in one transaction. It reads each record once. flush stores
// the changed records; without flush nothing changes but the logs.
type outbox struct {
	tx      *Tx
	queues  map[uint64]*queue
	before  map[uint64]queue // the queues as they are stored
	events  map[uint64]*outboxEvent
	bodies  map[uint64][]byte // of new events
	owners  map[uint64]*ownerBacklog
	relog   map[uint64]bool // queues whose newest log entry has changed
	dropped uint64          // deliveries dropped because of a bound
}

func openOutbox(tx *Tx) *outbox {
	return &outbox{
		tx: tx, queues: map[uint64]*queue{}, before: map[uint64]queue{}, events: map[uint64]*outboxEvent{}, bodies: map[uint64][]byte{},
		owners: map[uint64]*ownerBacklog{}, relog: map[uint64]bool{},
	}
}

// queue returns the queue of a webhook for changing.
func (b *outbox) queue(webhook uint64) (*queue, error) {
	if q := b.queues[webhook]; q != nil {
		return q, nil
	}
	q, err := findQueue(b.tx, webhook)
	if err != nil {
		return nil, err
	}
	b.queues[webhook], b.before[webhook] = &q, q
	return &q, nil
}

// event returns an event for changing.
func (b *outbox) event(id uint64) (*outboxEvent, error) {
	if e := b.events[id]; e != nil {
		return e, nil
	}
	e, err := findOutboxEvent(b.tx, id)
	if err != nil {
		return nil, err
	}
	b.events[id] = &e
	return &e, nil
}

// owner returns the backlog of an owner for changing.
func (b *outbox) owner(id uint64) (*ownerBacklog, error) {
	if o := b.owners[id]; o != nil {
		return o, nil
	}
	o, err := backlogTable.Get(b.tx, IDKey(id))
	if err != nil && !errors.Is(err, ErrNotFound) {
		return nil, err
	}
	o.Owner = id
	b.owners[id] = &o
	return &o, nil
}

// addEvent adds an event that is not stored yet. It sets its ID, Seed and Size.
func (b *outbox) addEvent(e *outboxEvent, body []byte) (err error) {
	if e.ID, err = eventTable.NextID(b.tx); err != nil {
		return err
	}
	e.Seed, e.Size = keytext.RandomHex(16), len(body)
	b.events[e.ID], b.bodies[e.ID] = e, body
	return nil
}

// add appends a delivery of e to the queue of r.Webhook.
func (b *outbox) add(e *outboxEvent, r recipient) error {
	q, err := b.queue(r.Webhook)
	if err != nil {
		return err
	}
	if q.Waiting == 0 {
		q.Head = e.ID
	} else if err := b.link(q, e.ID); err != nil {
		return err
	}
	q.Tail = e.ID
	q.Next++
	q.Waiting++
	q.Bytes += e.Size
	r.Owner, r.Next = q.Owner, 0
	o, err := b.owner(r.Owner)
	if err != nil {
		return err
	}
	if !e.heldBy(r.Owner) {
		o.Events++
		o.Bytes += e.Size
	}
	e.Pending = append(e.Pending, r)
	return nil
}

// link makes next the event that follows the last one of a queue.
func (b *outbox) link(q *queue, next uint64) error {
	tail, err := b.event(q.Tail)
	if err != nil {
		return err
	}
	for i := len(tail.Pending) - 1; i >= 0; i-- {
		if r := &tail.Pending[i]; r.Webhook == q.Webhook {
			r.Next = next
			return nil
		}
	}
	return brokenQueue(q, tail)
}

func brokenQueue(q *queue, e *outboxEvent) error {
	return fmt.Errorf("%s/%x: the event is not pending for webhook %d, although it is in its queue; restore a backup", eventsName, IDKey(e.ID), q.Webhook)
}

// leave removes the first pending delivery of a queue. It returns its event and its recipient.
func (b *outbox) leave(q *queue) (*outboxEvent, recipient, error) {
	e, err := b.event(q.Head)
	if err != nil {
		return nil, recipient{}, err
	}
	i := e.pendingFor(q.Webhook)
	if i < 0 {
		return nil, recipient{}, brokenQueue(q, e)
	}
	r := e.Pending[i]
	e.Pending = slices.Delete(e.Pending, i, i+1)
	q.Head = r.Next
	q.Waiting--
	q.Bytes -= e.Size
	q.Tries = 0
	if q.Waiting == 0 {
		q.Head, q.Tail = 0, 0
	}
	o, err := b.owner(r.Owner)
	if err != nil {
		return nil, recipient{}, err
	}
	if !e.heldBy(r.Owner) {
		o.Events--
		o.Bytes -= e.Size
	}
	return e, r, nil
}

// discard removes the first pending delivery of a queue unsent. The log has cause as the reason.
func (b *outbox) discard(q *queue, cause string, now time.Time) error {
	e, r, err := b.leave(q)
	if err != nil || q.Gone {
		return err
	}
	id, _ := e.deliveryTo(r)
	return b.logUnsent(q, Attempt{Delivery: id, Event: e.Type, At: now, Error: cause})
}

// drop is discard because of a bound.
func (b *outbox) drop(q *queue, cause string, now time.Time) error {
	b.countDropped(q)
	return b.discard(q, cause, now)
}

func (b *outbox) countDropped(q *queue) {
	if !q.Gone {
		q.Dropped++
		b.dropped++
	}
}

// makeRoom drops the oldest deliveries, so that a delivery of e to a queue does not exceed a bound.
// If e alone exceeds a bound, makeRoom drops nothing and returns the reason, otherwise "".
func (b *outbox) makeRoom(q *queue, e *outboxEvent) (refused string, err error) {
	bounds := b.tx.Bounds
	if refused = tooLarge(bounds, e.Size); refused != "" {
		return refused, nil
	}
	for range maxDrops {
		cause := q.full(bounds, queueLoad{Waiting: 1, Bytes: e.Size})
		if cause == "" {
			break
		}
		if err := b.drop(q, cause, e.At); err != nil {
			return "", err
		}
	}
	if e.heldBy(q.Owner) {
		return "", nil
	}
	return "", b.makeOwnerRoom(q.Owner, e.Size, e.At)
}

// makeOwnerRoom drops the oldest events that are pending for an owner, so that size more bytes do not
// exceed the bound of the owner.
func (b *outbox) makeOwnerRoom(owner uint64, size int, now time.Time) error {
	o, err := b.owner(owner)
	if err != nil {
		return err
	}
	limit := b.tx.Bounds.OwnerWaitingBytes
	for range maxDrops {
		if limit == 0 || o.Events == 0 || o.Bytes+size <= limit {
			return nil
		}
		if err := b.dropOldest(owner, fmt.Sprintf(ownerFull, limit), now); err != nil {
			return err
		}
	}
	return nil
}

// dropOldest drops the oldest event of those that are first in the queues of an owner from all
// queues in which it is first. Queues of deleted webhooks come before all others.
func (b *outbox) dropOldest(owner uint64, cause string, now time.Time) error {
	var oldest uint64
	var list []*queue
	for rest, key := range queueTable.Find(b.tx, "owner", IDKey(owner), Forward) {
		if len(rest) > 0 {
			continue
		}
		q, err := b.queue(binary.BigEndian.Uint64(key))
		if err != nil {
			return err
		}
		head := q.Head
		if q.Gone {
			head = 0
		}
		switch {
		case q.Waiting == 0 || len(list) > 0 && head > oldest:
		case len(list) > 0 && head == oldest:
			list = append(list, q)
		default:
			oldest, list = head, []*queue{q}
		}
	}
	if len(list) == 0 {
		return fmt.Errorf("%s/%x: deliveries are pending for the owner, but they are in no queue; restore a backup", backlogTable.Name, IDKey(owner))
	}
	for _, q := range list {
		if err := b.drop(q, cause, now); err != nil {
			return err
		}
	}
	return nil
}

// flush stores what has changed. It deletes the events that nothing refers to any more.
func (b *outbox) flush() error {
	for _, id := range slices.Sorted(maps.Keys(b.events)) {
		if err := b.storeEvent(b.events[id]); err != nil {
			return err
		}
	}
	for _, id := range slices.Sorted(maps.Keys(b.owners)) {
		if err := b.storeOwner(*b.owners[id]); err != nil {
			return err
		}
	}
	for _, id := range slices.Sorted(maps.Keys(b.queues)) {
		q := b.queues[id]
		if b.relog[id] {
			if err := attemptTable.Put(b.tx, q.Last); err != nil {
				return err
			}
		}
		if *q == b.before[id] {
			continue
		}
		if err := queueTable.Put(b.tx, *q); err != nil {
			return err
		}
	}
	if b.dropped == 0 {
		return nil
	}
	n, err := DroppedDeliveries(b.tx)
	return errors.Join(err, b.tx.Put("meta", droppedKey, IDKey(n+b.dropped)))
}

func (b *outbox) storeEvent(e *outboxEvent) error {
	body, fresh := b.bodies[e.ID]
	switch used := len(e.Pending) > 0 || e.Kept > 0; {
	case used && fresh:
		return errors.Join(eventTable.Put(b.tx, *e), bodyTable.Put(b.tx, outboxBody{e.ID, e.Owner, body}))
	case used:
		return eventTable.Put(b.tx, *e)
	case fresh: // dropped before it was stored
		return nil
	}
	return errors.Join(deleteExisting(b.tx, &eventTable, e.ID), deleteExisting(b.tx, &bodyTable, e.ID))
}

func (b *outbox) storeOwner(o ownerBacklog) error {
	if o.Events > 0 {
		return backlogTable.Put(b.tx, o)
	}
	if err := backlogTable.Delete(b.tx, IDKey(o.Owner)); !errors.Is(err, ErrNotFound) {
		return err
	}
	return nil
}

// deleteExisting deletes a record that must exist.
func deleteExisting[T any](tx *Tx, t *Table[T], id uint64) error {
	err := t.Delete(tx, IDKey(id))
	if errors.Is(err, ErrNotFound) {
		err = fmt.Errorf("%s/%x: the record is missing; restore a backup", t.Name, IDKey(id))
	}
	return err
}
