package main

import (
	"errors"
	"fmt"
)

// outboxReferences checks that the queues, the logs and the backlogs of owners agree with the stored
// events: every reference has its event and its body, no event is stored without a reference, and
// every sum is right.
type outboxReferences struct{}

// eventUse is what the queues and logs refer to of an event.
type eventUse struct{ pending, kept int }

// referenceCheck is the state of a check.
type referenceCheck struct {
	tx     *Tx
	report func(problem string)
	events map[uint64]outboxEvent
	used   map[uint64]*eventUse
}

// Check reports what does not agree. It ends at the first record that cannot be read.
func (outboxReferences) Check(tx *Tx, report func(problem string)) error {
	c := referenceCheck{tx, report, map[uint64]outboxEvent{}, map[uint64]*eventUse{}}
	if err := errors.Join(c.readEvents(), c.checkQueues(), c.checkEvents(), c.checkBacklogs()); err != nil {
		report(err.Error())
	}
	return nil
}

// readEvents reads all events and checks their bodies.
func (c referenceCheck) readEvents() error {
	for e, err := range eventTable.All(c.tx, Forward) {
		if err != nil {
			return err
		}
		c.events[e.ID], c.used[e.ID] = e, &eventUse{}
		if body, err := findBody(c.tx, e.ID); err != nil {
			c.report(err.Error())
		} else if len(body) != e.Size {
			c.report(fmt.Sprintf("%s/%x: the body has %d bytes, but the event requires %d", bodyTable.Name, IDKey(e.ID), len(body), e.Size))
		}
	}
	for b, err := range bodyTable.All(c.tx, Forward) {
		if err != nil {
			return err
		}
		if e, ok := c.events[b.Event]; !ok || e.Owner != b.Owner {
			c.report(fmt.Sprintf("%s/%x: the body has no event of the same owner", bodyTable.Name, IDKey(b.Event)))
		}
	}
	return nil
}

// checkQueues follows each queue from its first event to its last, and reads each log.
func (c referenceCheck) checkQueues() error {
	for q, err := range queueTable.All(c.tx, Forward) {
		if err != nil {
			return err
		}
		at := fmt.Sprintf("%s/%x", queueTable.Name, IDKey(q.Webhook))
		if found := c.follow(q); found != (queueSums{q.Waiting, q.Bytes, q.Tail}) {
			c.report(fmt.Sprintf("%s: the queue has %d deliveries of %d bytes up to event %d, but its counters say %d of %d bytes up to %d",
				at, found.waiting, found.bytes, found.tail, q.Waiting, q.Bytes, q.Tail))
		}
		size := 0
		for number := q.FirstLog; number < q.NextLog; number++ {
			a, err := attemptTable.Get(c.tx, pairKey(q.Webhook, number))
			if err != nil {
				return fmt.Errorf("%s: log entry %d: %w", at, number, err)
			}
			if a.Kept == 0 {
				continue
			}
			e, ok := c.events[a.Kept]
			if !ok {
				c.report(fmt.Sprintf("%s: log entry %d refers to event %d, which is missing", at, number, a.Kept))
				continue
			}
			size += e.Size
			c.used[e.ID].kept++
			if number < q.FirstKept {
				c.report(fmt.Sprintf("%s: log entry %d has a body, although it is before the first that has one", at, number))
			}
		}
		if size != q.LogBytes {
			c.report(fmt.Sprintf("%s: the log keeps bodies of %d bytes, but its counter says %d", at, size, q.LogBytes))
		}
	}
	return nil
}

// queueSums is what a queue has: its deliveries, the bytes of their bodies, and its last event.
type queueSums struct {
	waiting, bytes int
	tail           uint64
}

// follow returns what the events say of a queue. It ends at a missing event, which the sums then show.
func (c referenceCheck) follow(q queue) (sums queueSums) {
	seen := map[uint64]int{} // how many deliveries of each event the queue had so far
	for id := q.Head; id != 0; {
		e := c.events[id]
		i := e.delivery(q.Webhook, seen[id])
		if i < 0 {
			return sums
		}
		seen[id]++
		c.used[id].pending++
		r := e.Pending[i]
		sums = queueSums{sums.waiting + 1, sums.bytes + e.Size, id}
		if r.Owner != q.Owner {
			c.report(fmt.Sprintf("%s/%x: webhook %d has owner %d, but its queue has owner %d", eventsName, IDKey(id), q.Webhook, r.Owner, q.Owner))
		}
		id = r.Next
	}
	return sums
}

// delivery returns the index of a pending delivery to a webhook after the first skipped ones, or -1.
func (e outboxEvent) delivery(webhook uint64, skipped int) int {
	for i, r := range e.Pending {
		if r.Webhook != webhook {
			continue
		}
		if skipped == 0 {
			return i
		}
		skipped--
	}
	return -1
}

// checkEvents compares what each event says of its use with what refers to it.
func (c referenceCheck) checkEvents() error {
	for id, e := range c.events {
		use := *c.used[id]
		if use != (eventUse{len(e.Pending), e.Kept}) || use == (eventUse{}) {
			c.report(fmt.Sprintf("%s/%x: the event is in queues %d times and in logs %d times, but its record says %d and %d",
				eventsName, IDKey(id), use.pending, use.kept, len(e.Pending), e.Kept))
		}
	}
	return nil
}

// checkBacklogs compares the backlog of each owner with the events that are pending for them.
func (c referenceCheck) checkBacklogs() error {
	wanted := map[uint64]ownerBacklog{}
	for _, e := range c.events {
		counted := map[uint64]bool{}
		for _, r := range e.Pending {
			if !counted[r.Owner] {
				o := wanted[r.Owner]
				wanted[r.Owner] = ownerBacklog{r.Owner, o.Events + 1, o.Bytes + e.Size}
			}
			counted[r.Owner] = true
		}
	}
	for o, err := range backlogTable.All(c.tx, Forward) {
		if err != nil {
			return err
		}
		if o != wanted[o.Owner] {
			w := wanted[o.Owner]
			c.report(fmt.Sprintf("%s/%x: %d events of %d bytes are pending for the owner, but the record says %d of %d bytes",
				backlogTable.Name, IDKey(o.Owner), w.Events, w.Bytes, o.Events, o.Bytes))
		}
		delete(wanted, o.Owner)
	}
	for owner, o := range wanted {
		c.report(fmt.Sprintf("%s/%x: %d events are pending for the owner, but there is no record of them", backlogTable.Name, IDKey(owner), o.Events))
	}
	return nil
}

// Derive does nothing, because the references cannot be made from other records.
func (outboxReferences) Derive(*Tx, func(DerivedEntry) error) error { return nil }

// Adopt does nothing, like Derive.
func (outboxReferences) Adopt(*Tx) error { return nil }

// Naming returns nil, because these are no records with names.
func (outboxReferences) Naming() *Naming { return nil }
