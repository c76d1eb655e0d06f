// The limits family counts how often each id uses a limit, in exact sliding windows. Read limits.go
// first, then limits_window.go (the arithmetic, without a clock), limits_counter.go (one window in
// memory with its stored reserve) and limits_charge.go (charges of several limits that are made
// together or not at all). limits_concurrent.go limits how many requests are in flight.
// limits_shared.go lets the nodes of a cluster count together. limits_throttle.go limits failed attempts by network.
// limits_whatif.go finds what a limit would have done in the past. Nothing here depends on HTTP or on keys.

package main

import (
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Limiter counts how many units of its limits each id has used. In any period as long as a limit's
// Window it admits at most Max units, even across a crash. For limits that it counts in memory it
// therefore stores a reserve, a number of units, before it admits them. After a crash the units of
// the reserve that were not admitted count as used. A Limiter is safe for concurrent use. Requests
// with different ids do not wait for each other.
type Limiter struct {
	// Observed counts the charges that limits in observe mode would have refused.
	Observed *dryRunCounts

	store    *Store
	start    atomic.Int64  // service time, in Unix nanoseconds, at which this run began
	shared   *nodeCounting // nil: a server alone
	seed     maphash.Seed
	shards   [64]shard
	refusals refusalCounts // by limits on requests in flight
}

type shard struct {
	mu       sync.Mutex
	counters map[string]*counters // by id
	_        [40]byte             // padding, so that neighbouring shards rarely share a cache line
}

// NewLimiter returns a Limiter that stores its counts in store. start is the service time at which
// this run of the program begins. All units of earlier runs were admitted before start.
func NewLimiter(store *Store, start time.Time) *Limiter {
	l := &Limiter{Observed: newDryRunCounts(store), store: store, seed: maphash.MakeSeed()}
	l.start.Store(start.UnixNano())
	for i := range l.shards {
		l.shards[i].counters = map[string]*counters{}
	}
	return l
}

// counterKey is counterKey for the counts of this node.
func (l *Limiter) counterKey(id, limit string) []byte {
	if l.shared == nil {
		return counterKey(id, limit)
	}
	return counterKey(id, limit+"\x00"+l.shared.node)
}

// Spend charges id one unit of each limit at the service time now. All limits must be short, see
// Limit. It makes all charges or none. If a limit is used up, it returns ErrRateLimit with the time
// to wait. In both cases it appends the status of each limit to list and returns the result. It
// returns ErrUnavailable if the store has failed, so that a unit cannot be covered by a stored
// reserve. It waits for the disk only if a reserve has run out.
func (l *Limiter) Spend(id string, limits []Limit, now time.Time, list []LimitStatus) ([]LimitStatus, error) {
	return l.SpendBy(CountedID{ID: id}, limits, now, list)
}

// CountedID is the id of a key or an owner, and where its counters are.
type CountedID struct {
	ID  string
	Ref *CounterRef // saves the look-up of the counters; may be nil
}

// SpendBy is like Spend for an id whose counters may already be known.
func (l *Limiter) SpendBy(by CountedID, limits []Limit, now time.Time, list []LimitStatus) ([]LimitStatus, error) {
	h, id := by.Ref, by.ID
	for {
		if l.store.Failing() {
			return list, ErrUnavailable
		}
		m := h.Held()
		if m == nil {
			m = l.find(id)
			h.Keep(m)
		}
		if len(limits) == 1 {
			after, covered, err := l.spendOne(m, &limits[0], now, list)
			m.Unlock()
			if covered == nil {
				return after, err
			}
			if err := <-covered; err != nil {
				return list, uncoveredError(err)
			}
			continue
		}
		var room [2]batchItem
		b := batch{Items: room[:0]}
		for _, limit := range limits {
			g, err := l.counter(nil, m, limit)
			if err != nil {
				m.Unlock()
				return list, err
			}
			b.Items = append(b.Items, batchItem{Counters: m, Counter: g, Window: &g.Window, Charge: Charge{ID: id, Limit: limit, Cost: 1}})
		}
		now = b.Latest(now)
		denied, wait := b.Denied(now)
		if denied != nil {
			err := denied.Charge.Refused(wait)
			list = b.Statuses(now, list)
			m.Unlock()
			return list, err
		}
		uncovered, needs := b.Uncovered(now)
		if uncovered == nil {
			l.commit(&b, now)
			list = b.Statuses(now, list)
			m.Unlock()
			return list, nil
		}
		covered := l.await(uncovered.Counters, uncovered.Counter, needs, now)
		m.Unlock()
		if err := <-covered; err != nil {
			return list, uncoveredError(err)
		}
	}
}

// spendOne charges one unit of one limit, like Spend. Most requests have only one limit, and this
// is faster than a batch. If the reserve has run out, it charges nothing and returns a channel. The
// caller then unlocks m, receives from the channel and tries again. m must be locked.
func (l *Limiter) spendOne(m *counters, limit *Limit, now time.Time, list []LimitStatus) ([]LimitStatus, <-chan error, error) {
	g, err := l.counter(nil, m, *limit)
	if err != nil {
		return list, nil, err
	}
	if wait := g.Wait(now, 1); wait > 0 {
		c := Charge{ID: m.ID, Limit: *limit, Cost: 1}
		return append(list, g.Status(*limit, now)), nil, c.Refused(wait)
	}
	if g.Left(now) < 1 {
		return list, l.await(m, g, 1, now), nil
	}
	if _, low := g.Use(1, now); low {
		l.renew(m, g, now)
	}
	return append(list, g.Status(*limit, now)), nil, nil
}

// SpendAll makes charges of several ids and limits, short or long (see Limit), at the service time
// now. It makes all charges or none. If a limit does not admit its charge, it returns ErrRateLimit
// with the time to wait. It appends the statuses of the limits that are not in observe mode to list
// and returns the result. After a success the short limits come first. If a short limit refused,
// the result has only short limits. If a long limit refused, the result is in the order of charges.
// It waits for the disk if one of the limits is long. Do not call it inside a transaction.
func (l *Limiter) SpendAll(charges []Charge, now time.Time, list []LimitStatus) ([]LimitStatus, error) {
	long := slices.ContainsFunc(charges, func(c Charge) bool { return !c.Limit.Short() })
	for {
		if l.store.Failing() {
			return list, ErrUnavailable
		}
		b, err := l.open(nil, charges)
		if err != nil {
			return list, err
		}
		now = b.Latest(now)
		denied, wait := b.Denied(now)
		uncovered, needs := b.Uncovered(now)
		switch {
		case denied != nil:
			list = b.Statuses(now, list)
			l.unlock(b)
			return list, denied.Charge.Refused(wait)
		case uncovered != nil:
			covered := l.await(uncovered.Counters, uncovered.Counter, needs, now)
			l.unlock(b)
			if err := <-covered; err != nil {
				return list, uncoveredError(err)
			}
			continue
		case !long:
			l.commit(b, now)
			list = b.Statuses(now, list)
			l.unlock(b)
			l.note(b, now)
			return list, nil
		}
		l.unlock(b)
		statuses, err := l.spendDurable(charges, now)
		if errors.Is(err, errDry) {
			continue
		}
		if errors.Is(err, ErrRateLimit) {
			enforced := slices.DeleteFunc(slices.Clone(charges), func(c Charge) bool { return c.Observe })
			if all, fault := l.Statuses(enforced, now); fault == nil {
				statuses = all
			}
		}
		return append(list, statuses...), err
	}
}

// errDry means that a reserve has run out since the check, so the charges must be tried again.
var errDry = errors.New("reserve ran out")

// spendDurable makes charges of which at least one is of a long limit. It also checks and charges
// the short limits inside the transaction, so that no other request is charged in between. It
// returns errDry if a reserve does not cover a short limit.
func (l *Limiter) spendDurable(charges []Charge, now time.Time) (list []LimitStatus, err error) {
	// Check in a read transaction first, so that a refusal does not delay writes.
	err = l.store.View(func(tx *Tx) error {
		b, err := l.readDurables(tx, charges)
		if denied, wait := b.Denied(now); err == nil && denied != nil {
			err = denied.Charge.Refused(wait)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	var paid *batch // set once the short limits are charged, because Update can run the function again
	err = l.store.UpdateBy(Writer{Owner: charges[0].Owner, Finishes: true}, func(tx *Tx) error {
		b, err := l.open(tx, charges)
		if err != nil {
			return err
		}
		defer l.unlock(b)
		now := b.Latest(now)
		denied, wait := b.Denied(now)
		uncovered, _ := b.Uncovered(now)
		switch {
		case paid != nil:
		case denied != nil:
			return denied.Charge.Refused(wait)
		case uncovered != nil:
			return errDry
		}
		long, err := l.spendDurables(tx, charges, now)
		if err != nil {
			if paid != nil {
				paid.Refund()
				paid = nil
			}
			return err
		}
		if paid == nil {
			l.commit(b, now)
			paid = b
		}
		list = long.Statuses(now, b.Statuses(now, nil))
		short := paid // not b: in a second run its windows already hold the charges
		tx.After(func() { l.note(short, now); l.note(long, now) })
		return nil
	})
	return list, err
}

// SpendIn makes the charges of long limits in the caller's transaction, so that the units and the
// change for which they are charged are stored together. It ignores charges of short limits. If a
// limit does not admit its charge, SpendIn writes nothing and returns ErrRateLimit with the time to
// wait. After another error the caller must abandon the transaction. Even with an error it returns
// the statuses of the long limits that are not in observe mode.
func (l *Limiter) SpendIn(tx *Tx, charges []Charge, now time.Time) ([]LimitStatus, error) {
	b, err := l.spendDurables(tx, charges, now)
	if err == nil {
		tx.After(func() { l.note(b, now) })
	}
	return b.Statuses(now, nil), err
}

// note records in Observed the items of a batch that would have been refused without observe mode.
func (l *Limiter) note(b *batch, now time.Time) {
	for i := range b.Items {
		if p := &b.Items[i]; p.Over {
			l.Observed.Note(p.Charge, now)
		}
	}
}

// open returns a batch of the charges of short limits, with their counters locked. It locks the
// counters in the order of the ids, so that two requests with the same ids cannot deadlock. The
// caller must call unlock. After an error nothing is locked. tx is the transaction in which the
// caller runs, or nil.
func (l *Limiter) open(tx *Tx, charges []Charge) (*batch, error) {
	b := &batch{}
	var ids []string
	for _, c := range charges {
		if c.Limit.Short() && !slices.Contains(ids, c.ID) {
			ids = append(ids, c.ID)
		}
	}
	slices.Sort(ids)
	var counters []*counters
	for _, id := range ids {
		counters = append(counters, l.find(id))
	}
	for _, c := range charges {
		if !c.Limit.Short() {
			continue
		}
		m := counters[slices.Index(ids, c.ID)]
		g, err := l.counter(tx, m, c.Limit)
		if err != nil {
			for _, m := range counters {
				m.Unlock()
			}
			return nil, err
		}
		b.Items = append(b.Items, batchItem{Counters: m, Counter: g, Window: &g.Window, Charge: c})
	}
	return b, nil
}

// unlock unlocks the counters that open has locked.
func (l *Limiter) unlock(b *batch) {
	for i := range b.Items {
		m := b.Items[i].Counters
		if !slices.ContainsFunc(b.Items[:i], func(p batchItem) bool { return p.Counters == m }) {
			m.Unlock()
		}
	}
}

// present locks and returns the counters of an id, or nil if they are not in memory.
func (l *Limiter) present(id string) *counters {
	s := l.shard(id)
	s.mu.Lock()
	m := s.counters[id]
	s.mu.Unlock()
	if m == nil {
		return nil
	}
	if m.Lock(); m.Swept {
		m.Unlock()
		return nil
	}
	return m
}

// shard returns the shard of an id.
func (l *Limiter) shard(id string) *shard {
	return &l.shards[maphash.String(l.seed, id)%uint64(len(l.shards))]
}

// find locks and returns the counters of an id. It creates them if they are not in memory. It does
// not hold the lock of the shard while it waits for the lock of the counters. Otherwise a goroutine
// that has locked the counters of one id could not find another id in the same shard.
func (l *Limiter) find(id string) *counters {
	s := l.shard(id)
	for {
		s.mu.Lock()
		m := s.counters[id]
		if m == nil {
			m = &counters{ID: id}
			s.counters[id] = m
		}
		s.mu.Unlock()
		m.Lock()
		if !m.Swept {
			return m
		}
		m.Unlock()
	}
}

// counter returns the counter of a limit, adapted to the limit's current Max and Window. It reads
// the counter from the store if it is not in memory. m must be locked. tx is the transaction in
// which the caller runs, or nil.
func (l *Limiter) counter(tx *Tx, m *counters, limit Limit) (*counter, error) {
	limit = l.counted(limit)
	if g := m.counter(limit); g != nil {
		return g, nil
	}
	var g *counter
	read := func(tx *Tx) (err error) {
		g, err = l.readCounter(tx, m.ID, limit)
		return err
	}
	var err error
	if tx != nil {
		err = read(tx)
	} else {
		err = l.store.View(read)
	}
	if err != nil {
		return nil, err
	}
	m.Gauges = append(m.Gauges, g)
	return g, nil
}

// readCounter reads the counter of a limit of an id from the store, see counted.
func (l *Limiter) readCounter(tx *Tx, id string, limit Limit) (g *counter, err error) {
	record, err := tx.Get("meters", l.counterKey(id, limit.Name))
	if err == nil {
		g, err = readGauge(record, limit, time.Unix(0, l.start.Load()))
	}
	if err != nil {
		return nil, fmt.Errorf("read limit %s of %s: %w", limit.Name, id, err)
	}
	if l.shared != nil {
		g.shared = &sharedCount{}
		err = l.learn(tx, id, g, limit)
	}
	return g, err
}

// commit makes the charges of a batch, and requests a larger reserve for each counter whose reserve
// is running low. The caller has checked with Denied and Uncovered that the charges are possible.
func (l *Limiter) commit(b *batch, now time.Time) {
	for i := range b.Items {
		if p := &b.Items[i]; p.Use(now) {
			l.renew(p.Counters, p.Counter, now)
		}
	}
}

// await requests a reserve of n units or more. It returns a channel that receives nil once the reserve is
// stored, or the error of the store. m must be locked.
func (l *Limiter) await(m *counters, g *counter, n int, now time.Time) <-chan error {
	if g.shared != nil {
		g.shared.want = max(g.shared.want, n)
	}
	covered := make(chan error, 1)
	g.Waiting = append(g.Waiting, covered)
	l.renew(m, g, now)
	return covered
}

// uncoveredError returns the error of a request whose reserve could not be stored because of err. A refusal of the store is
// ErrUnavailable, because it may speak of a change, which the request need not be.
func uncoveredError(err error) error {
	if refused := (*Error)(nil); errors.As(err, &refused) {
		return ErrUnavailable
	}
	return err
}

// renew queues the write of a record with a larger reserve. It does nothing if such a write is
// pending. m must be locked.
func (l *Limiter) renew(m *counters, g *counter, now time.Time) {
	if g.Pending {
		return
	}
	g.Pending = true
	if l.shared != nil {
		if wait := g.question(l.shared.now()); wait > 0 {
			time.AfterFunc(wait, func() { l.ask(m, g, now) })
			return
		}
	}
	l.ask(m, g, now)
}

// ask queues the write of a record with a larger reserve.
func (l *Limiter) ask(m *counters, g *counter, now time.Time) {
	l.store.QueueBy(Writer{Ahead: true}, func(tx *Tx) error {
		m.Lock()
		plan, record, err := l.grow(tx, m, g, now)
		m.Unlock()
		if err != nil {
			return err
		}
		tx.After(func() {
			m.Lock()
			g.Grown(plan)
			if plan.block > 0 {
				l.returnLater(m, g)
			}
			m.Unlock()
		})
		return tx.Put("meters", l.counterKey(m.ID, g.Name), record)
	}, func(err error) {
		// A store that is closed or has failed calls this function in the goroutine of renew, whose
		// caller holds the lock of m. Locking m in another goroutine avoids a deadlock.
		settle := func() {
			m.Lock()
			g.Pending = false
			waiting := g.Waiting
			g.Waiting = nil
			m.Unlock()
			for _, w := range waiting {
				w <- err
			}
		}
		if errors.Is(err, ErrUnavailable) {
			go settle()
			return
		}
		settle()
	})
}

// grow returns a plan for a larger reserve of a counter and the record to store for it, see counter.Grow. m must be locked.
func (l *Limiter) grow(tx *Tx, m *counters, g *counter, now time.Time) (p plan, record []byte, err error) {
	if l.shared != nil {
		// The other nodes may have reserved units since the request began. Grow moves the window to this time, so that no unit
		// counts before it was reserved.
		now = l.shared.now()
		g.shared.asked = now.UnixNano()
		if err = l.learn(tx, m.ID, g, Limit{g.Name, g.Window.Max, time.Duration(g.Window.Span)}); err != nil {
			return p, nil, err
		}
	}
	p, record = g.Grow(now)
	return p, record, nil
}

// Statuses returns the status at now of the limit of each charge, in the order of charges. It
// charges nothing. Do not call it inside a transaction.
func (l *Limiter) Statuses(charges []Charge, now time.Time) ([]LimitStatus, error) {
	var list []LimitStatus
	for _, c := range charges {
		if c.Limit.Concurrent() {
			m := l.find(c.ID)
			list = append(list, flightStatus(m.flight(c.Limit.Name), c.Limit))
			m.Unlock()
			continue
		}
		if c.Limit.Short() {
			b, err := l.open(nil, []Charge{c})
			if err != nil {
				return nil, err
			}
			g := b.Items[0].Counter
			if l.shared != nil {
				err = l.store.View(func(tx *Tx) error { return l.learn(tx, c.ID, g, l.counted(c.Limit)) })
			}
			list = append(list, g.Status(c.Limit, now))
			l.unlock(b)
			if err != nil {
				return nil, err
			}
			continue
		}
		err := l.store.View(func(tx *Tx) error {
			w, err := l.readDurable(tx, c.ID, c.Limit)
			list = append(list, limitStatusOf(&w, c.Limit, now))
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return list, nil
}

// StoredStatuses returns what Statuses returns, as far as the store knows it. Pass the result to
// UpdateStatuses after the transaction: together they read many keys in one transaction, and they add
// no counters of unused keys to the memory.
func (l *Limiter) StoredStatuses(tx *Tx, charges []Charge, now time.Time) ([]LimitStatus, error) {
	list := make([]LimitStatus, 0, len(charges))
	for i := range charges {
		c := &charges[i]
		s, err := LimitStatus{Limit: c.Limit}, error(nil)
		switch {
		case c.Limit.Concurrent(): // none are in flight
		case c.Limit.Short():
			var g *counter
			if g, err = l.readCounter(tx, c.ID, l.counted(c.Limit)); err == nil {
				s = g.Status(c.Limit, now)
			}
		default:
			var w Window
			if w, err = l.readDurable(tx, c.ID, c.Limit); err == nil {
				s = limitStatusOf(&w, c.Limit, now)
			}
		}
		if err != nil {
			return nil, err
		}
		list = append(list, s)
	}
	return list, nil
}

// UpdateStatuses replaces in list, a result of StoredStatuses for the same charges, the statuses of
// the limits that are counted in memory. A counter that is not in memory after the transaction of
// StoredStatuses is the same as its stored record. Do not call it inside a transaction.
func (l *Limiter) UpdateStatuses(list []LimitStatus, charges []Charge, now time.Time) {
	for i := range charges {
		c := &charges[i]
		if !c.Limit.Short() {
			continue
		}
		m := l.present(c.ID)
		if m == nil {
			continue
		}
		if c.Limit.Concurrent() {
			list[i] = flightStatus(m.flight(c.Limit.Name), c.Limit)
		} else if g := m.counter(l.counted(c.Limit)); g != nil {
			list[i] = g.Status(c.Limit, now)
		}
		m.Unlock()
	}
}

// Len returns the number of ids with counters in memory.
func (l *Limiter) Len() (n int) {
	for i := range l.shards {
		s := &l.shards[i]
		s.mu.Lock()
		n += len(s.counters)
		s.mu.Unlock()
	}
	return n
}

// Sweep removes from memory the counters that would be the same if they were read from the store
// again. It skips counters that are locked. Call it about once a minute, with the service time.
func (l *Limiter) Sweep(now time.Time) {
	for i := range l.shards {
		s := &l.shards[i]
		s.mu.Lock()
		for id, m := range s.counters {
			if !m.TryLock() {
				continue
			}
			if m.idle() && !slices.ContainsFunc(m.Gauges, func(g *counter) bool { return g.Busy(now) }) {
				delete(s.counters, id)
				m.Swept = true
			}
			m.Unlock()
		}
		s.mu.Unlock()
	}
}

// Close stores the exact counts without reserves, and the counts of Observed. No charges may be
// made during or after the call.
func (l *Limiter) Close() error {
	type entry struct{ key, record []byte }
	var entries []entry
	for i := range l.shards {
		s := &l.shards[i]
		s.mu.Lock()
		for id, m := range s.counters {
			m.Lock()
			for _, g := range m.Gauges {
				if record := g.Final(); record != nil {
					entries = append(entries, entry{l.counterKey(id, g.Name), record})
				}
			}
			m.Unlock()
		}
		s.mu.Unlock()
	}
	for part := range slices.Chunk(entries, 10_000) {
		// Ahead, so that it comes after the reserves that are still queued.
		_, err := l.store.UpdateEach(Writer{Ahead: true}, len(part), func(tx *Tx, i int) error {
			return tx.Put("meters", part[i].key, part[i].record)
		})
		if err != nil {
			return fmt.Errorf("store the limit counts: %w", err)
		}
	}
	return l.Observed.Flush(time.Unix(0, l.start.Load()))
}
