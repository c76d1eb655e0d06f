package main

import "time"

// cost is what changes have used of the committer.
type cost struct {
	changes int
	bytes   int           // keys and values written
	took    time.Duration // time in the functions of the changes, without the commit
}

// add returns the sum of two costs.
func (c cost) add(more cost) cost {
	return cost{c.changes + more.changes, c.bytes + more.bytes, c.took + more.took}
}

// reached reports whether any part of the cost is at its bound or above.
func (c cost) reached(bound cost) bool {
	return c.changes >= bound.changes || c.bytes >= bound.bytes || c.took >= bound.took
}

// The bounds of a batch, which is one transaction. They limit how long the first change of a batch
// waits for the last. A change is not cut, so a batch exceeds a bound by at most its last change.
// They are no settings, because no request is ever refused for them.
var (
	// batchBound is the bound of a whole batch. 4 MiB of records are about 20 ms of writing on a
	// common disk.
	batchBound = cost{changes: 2048, bytes: 4 << 20, took: 25 * time.Millisecond}
	// turnBound is the bound of the changes of one line in a batch that it shares with others, or
	// that it has to itself because it is heavy. It does not apply while no other line has joined
	// the batch: a change that comes meanwhile is the next one, and then ends the batch.
	turnBound = cost{changes: 2048, bytes: 1 << 20, took: 8 * time.Millisecond}
	// heavyBound is the average cost of a change from which the line counts as heavy. The number of
	// changes is not compared.
	heavyBound = cost{changes: 2, bytes: 128 << 10, took: 2 * time.Millisecond}
)

// line is the queue of one participant: an owner, or the operator together with the service. The
// changes of a line are made in the order in which they came.
type line struct {
	owner   uint64 // Writer.Owner; 0: the operator and the service
	waiting []*change
	listed  bool   // a list of the queue or a batch holds the line
	average cost   // moving average of the cost of a change
	batch   uint64 // the batch that used belongs to
	used    cost   // cost of the line's changes in that batch
}

// observe adds the cost of a change to the moving average, in which each change counts an eighth. So
// one slow change among many does not make a line heavy, and after a very slow one the line is
// heavy for some tens of changes.
func (l *line) observe(c cost) {
	l.average.bytes += (c.bytes - l.average.bytes) / 8
	l.average.took += (c.took - l.average.took) / 8
}

// forgettable reports whether nothing is lost if the line is made anew for its next change.
func (l *line) forgettable() bool {
	return !l.listed && l.average.bytes < heavyBound.bytes/16 && l.average.took < heavyBound.took/16
}

// heavy reports whether the line's changes are so expensive that others should not share a batch
// with them.
func (l *line) heavy() bool { return l.average.reached(heavyBound) }

// pop removes the first change from the line.
func (l *line) pop() *change {
	c := l.waiting[0]
	l.waiting[0] = nil
	l.waiting = l.waiting[1:]
	return c
}

// commitBatch is a number of changes that share a transaction.
type commitBatch struct {
	serial  uint64
	changes []*change
	used    cost
	last    *line   // the line of the latest change that is not ahead
	mixed   bool    // the batch has changes of more than one line
	alone   *line   // the only line of the batch, if it is heavy; nil: all lines that are not heavy
	resting []*line // lines that have had their turn in this batch
	closed  bool    // takes no more changes
}

// changeQueue holds the changes that wait for a commit and decides their order. Each owner has a line of
// its own; the operator and the service share one. The lines take turns: a batch takes one change
// of each line after the other until nothing waits or a bound is reached, and the next batch goes
// on where it ended. A line whose changes are heavy gets batches of its own, between which there is
// always one batch for all other lines. So a change of a quiet owner waits for the batch that runs
// when it comes, and not for the heavy changes that came before it, however many they are.
//
// Changes whose Writer is Ahead have a line that is not part of the turns: every batch begins with
// them.
//
// A changeQueue is not safe for concurrent use.
type changeQueue struct {
	lines     map[uint64]*line // by owner; lines with waiting changes, and those with an average
	ahead     line
	light     []*line // lines with waiting changes, in the order of their turns
	heavy     []*line // likewise, those that were heavy when they were queued here
	length    int     // number of waiting changes
	batches   uint64
	lastAlone bool // the last batch was that of a heavy line
}

// push adds a change to the line of its Writer.
func (q *changeQueue) push(c *change) {
	q.length++
	if c.by.Ahead {
		q.ahead.waiting = append(q.ahead.waiting, c)
		return
	}
	l := q.lines[c.by.Owner]
	if l == nil {
		l = &line{owner: c.by.Owner}
		if q.lines == nil {
			q.lines = map[uint64]*line{}
		}
		q.lines[l.owner] = l
	}
	if l.waiting = append(l.waiting, c); !l.listed {
		q.enter(l)
	}
}

// enter adds a line to the end of the lines that wait for their turn, if it has waiting changes.
func (q *changeQueue) enter(l *line) {
	if l.listed = len(l.waiting) > 0; !l.listed {
		return
	}
	if l.heavy() {
		q.heavy = append(q.heavy, l)
	} else {
		q.light = append(q.light, l)
	}
}

// begin returns a new batch with its first change, or nil if nothing waits.
func (q *changeQueue) begin() *commitBatch {
	if q.length == 0 {
		return nil
	}
	q.batches++
	b := &commitBatch{serial: q.batches}
	others := len(q.light) > 0 || len(q.ahead.waiting) > 0
	if len(q.heavy) > 0 && (!others || !q.lastAlone) {
		b.alone, q.heavy = q.heavy[0], q.heavy[1:]
	}
	q.lastAlone = b.alone != nil
	q.next(b)
	return b
}

// next adds the next change to a batch. It returns false if no change may be added.
func (q *changeQueue) next(b *commitBatch) bool {
	l := q.turn(b)
	if l == nil {
		return false
	}
	b.changes = append(b.changes, l.pop())
	q.length--
	if l != &q.ahead {
		b.mixed = b.mixed || b.last != nil && b.last != l
		b.last = l
	}
	if l != &q.ahead && l != b.alone {
		q.enter(l) // its next turn comes after that of all others
	}
	return true
}

// turn returns the line from which a batch takes its next change, or nil.
func (q *changeQueue) turn(b *commitBatch) *line {
	if b.closed || b.used.reached(batchBound) {
		return nil
	}
	if len(q.ahead.waiting) > 0 {
		return &q.ahead
	}
	if l := b.alone; l != nil {
		if len(l.waiting) == 0 || l.batch == b.serial && l.used.reached(turnBound) {
			return nil
		}
		return l
	}
	for len(q.light) > 0 {
		l := q.light[0]
		q.light = q.light[1:]
		switch {
		case l.heavy(): // it has become heavy since it was queued here
			q.heavy = append(q.heavy, l)
		case b.mixed && l.batch == b.serial && l.used.reached(turnBound):
			b.resting = append(b.resting, l)
		default:
			return l
		}
	}
	return nil
}

// paid adds what the change that was added last to a batch has used.
func (q *changeQueue) paid(b *commitBatch, c cost) {
	b.used = b.used.add(c)
	by := b.changes[len(b.changes)-1].by
	if by.Ahead {
		return
	}
	l := q.lines[by.Owner]
	if l.batch != b.serial {
		l.batch, l.used = b.serial, cost{}
	}
	l.used = l.used.add(c)
	l.observe(c)
}

// end puts the lines of a batch that still have waiting changes back into the order of turns, and
// forgets lines about which there is nothing to remember.
func (q *changeQueue) end(b *commitBatch) {
	if b.alone != nil {
		q.enter(b.alone)
	}
	for _, l := range b.resting {
		q.enter(l)
	}
	for _, c := range b.changes {
		if l := q.lines[c.by.Owner]; l != nil && l.forgettable() {
			delete(q.lines, l.owner)
		}
	}
}

// oldest returns when the change that waits longest was queued, and false if none waits.
func (q *changeQueue) oldest() (at time.Time, waits bool) {
	look := func(l *line) {
		if len(l.waiting) > 0 && (!waits || l.waiting[0].queued.Before(at)) {
			at, waits = l.waiting[0].queued, true
		}
	}
	look(&q.ahead)
	for _, l := range q.lines {
		look(l)
	}
	return at, waits
}
