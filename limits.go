// The limits family counts uses in exact sliding windows: an id, a limit, a time.
// Read limits.go first, then limits_window.go (the arithmetic, without a clock),
// limits_counter.go (one window in memory with its stored reserve) and
// limits_charge.go (several limits as one decision). limits_throttle.go slows down
// failures by network. Nothing here knows HTTP, keys or the names of limits.

package main

import (
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"sync"
	"time"
)

// Limiter counts how many units of its limits each id has used. In any span of
// a limit's Window it admits at most Max units, even across a crash. For this
// it stores a reserve before it admits units from it; after a crash the unused
// rest of the reserve counts as used. A Limiter is safe for concurrent use, and
// requests of different ids do not wait for each other.
type Limiter struct {
	// Observed counts the charges that limits in observe mode would have
	// refused.
	Observed *dryRunCounts

	store  *Store
	start  time.Time // service time at which this run began
	seed   maphash.Seed
	shards [64]shard
}

type shard struct {
	mu     sync.Mutex
	meters map[string]*counters
	_      [40]byte // padding: neighbours then rarely share a cache line
}

// NewLimiter returns a Limiter that stores its counts in store. start is the
// service time at which this run begins; all units of earlier runs were
// admitted before it.
func NewLimiter(store *Store, start time.Time) *Limiter {
	l := &Limiter{Observed: newDryRunCounts(store), store: store, start: start, seed: maphash.MakeSeed()}
	for i := range l.shards {
		l.shards[i].meters = map[string]*counters{}
	}
	return l
}

// Spend charges one unit of each of the limits of id at the service time now.
// All limits must be short. It charges all of them or none. If a limit is used
// up it charges nothing and returns ErrRateLimit with the time to wait. In both
// cases it appends the status of each limit to into. It returns ErrUnavailable
// if the store has failed or cannot cover the unit. It waits for the disk only
// if a reserve has run out.
func (l *Limiter) Spend(id string, limits []Limit, now time.Time, into []LimitStatus) ([]LimitStatus, error) {
	return l.SpendBy(nil, id, limits, now, into)
}

// SpendBy is Spend with a CounterRef of the id, which saves the look-up. h may
// be nil.
func (l *Limiter) SpendBy(h *CounterRef, id string, limits []Limit, now time.Time, into []LimitStatus) ([]LimitStatus, error) {
	for {
		if l.store.Failing() {
			return into, ErrUnavailable
		}
		m := h.Held()
		if m == nil {
			m = l.find(id)
			h.Keep(m)
		}
		if len(limits) == 1 {
			list, covered, err := l.spendOne(m, &limits[0], now, into)
			m.Unlock()
			if covered == nil {
				return list, err
			}
			if err := <-covered; err != nil {
				return into, ErrUnavailable
			}
			continue
		}
		var room [2]batchItem
		b := batch{Posts: room[:0]}
		for _, limit := range limits {
			g, err := l.gauge(nil, m, limit)
			if err != nil {
				m.Unlock()
				return into, err
			}
			b.Posts = append(b.Posts, batchItem{Panel: m, Gauge: g, Window: &g.Window, Charge: Charge{ID: id, Limit: limit, Cost: 1}})
		}
		now := b.Moment(now)
		full, wait := b.Full(now)
		if full != nil {
			err := full.Charge.Refused(wait)
			into = b.Statuses(now, into)
			m.Unlock()
			return into, err
		}
		dry := b.Dry(now)
		if dry == nil {
			l.commit(&b, now)
			into = b.Statuses(now, into)
			m.Unlock()
			return into, nil
		}
		covered := l.await(dry.Panel, dry.Gauge, now)
		m.Unlock()
		if err := <-covered; err != nil {
			return into, ErrUnavailable
		}
	}
}

// spendOne charges one limit without the cost of a batch; most requests have
// one limit. If the reserve has run out it charges nothing and returns a
// channel: the caller unlocks m, receives from the channel and tries again. m
// must be locked.
func (l *Limiter) spendOne(m *counters, limit *Limit, now time.Time, into []LimitStatus) ([]LimitStatus, <-chan error, error) {
	g, err := l.gauge(nil, m, *limit)
	if err != nil {
		return into, nil, err
	}
	if wait := g.Window.Wait(now, 1); wait > 0 {
		c := Charge{ID: m.ID, Limit: *limit, Cost: 1}
		return append(into, limitStatusOf(&g.Window, *limit, now)), nil, c.Refused(wait)
	}
	if g.Left(now) < 1 {
		return into, l.await(m, g, now), nil
	}
	if _, low := g.Use(1, now); low {
		l.renew(m, g, now)
	}
	return append(into, limitStatusOf(&g.Window, *limit, now)), nil, nil
}

// Pay makes charges of several ids and limits, short and long, at the service
// time now. It makes all of them or none. If a limit has no room it writes
// nothing and returns ErrRateLimit with the time to wait. It appends the
// statuses of the limits that are not in observe mode to into, the short ones
// first. After a refusal it keeps the order of charges, and if a short limit
// refused, the long ones are missing. If a charge is of a long limit it waits
// for the disk. Do not call it inside a transaction.
func (l *Limiter) Pay(charges []Charge, now time.Time, into []LimitStatus) ([]LimitStatus, error) {
	long := slices.ContainsFunc(charges, func(c Charge) bool { return !c.Limit.Short() })
	for {
		if l.store.Failing() {
			return into, ErrUnavailable
		}
		b, err := l.open(nil, charges)
		if err != nil {
			return into, err
		}
		now := b.Moment(now)
		full, wait := b.Full(now)
		dry := b.Dry(now)
		switch {
		case full != nil:
			into = b.Statuses(now, into)
			l.unlock(b)
			return into, full.Charge.Refused(wait)
		case dry != nil:
			covered := l.await(dry.Panel, dry.Gauge, now)
			l.unlock(b)
			if err := <-covered; err != nil {
				return into, ErrUnavailable
			}
			continue
		case !long:
			l.commit(b, now)
			into = b.Statuses(now, into)
			l.unlock(b)
			l.note(b, now)
			return into, nil
		}
		l.unlock(b)
		list, err := l.payDurable(charges, now)
		if errors.Is(err, errDry) {
			continue
		}
		if errors.Is(err, ErrRateLimit) {
			counts := slices.DeleteFunc(slices.Clone(charges), func(c Charge) bool { return c.Observe })
			if list, fault := l.Statuses(counts, now); fault == nil {
				return append(into, list...), err
			}
		}
		return append(into, list...), err
	}
}

// errDry means that a reserve has run out since it was checked.
var errDry = errors.New("reserve ran out")

// payDurable makes charges that include long limits. The short ones are checked
// and charged inside the same transaction, so that no other request is charged
// in between.
func (l *Limiter) payDurable(charges []Charge, now time.Time) (list []LimitStatus, err error) {
	// Check in a read transaction first, so that a refusal does not occupy the
	// committer.
	err = l.store.View(func(tx *Tx) error {
		b, err := readDurables(tx, charges)
		if full, wait := b.Full(now); err == nil && full != nil {
			err = full.Charge.Refused(wait)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	var paid *batch // set once the short limits are charged; Update can run the function again
	err = l.store.Update(func(tx *Tx) error {
		b, err := l.open(tx, charges)
		if err != nil {
			return err
		}
		defer l.unlock(b)
		now := b.Moment(now)
		full, wait := b.Full(now)
		switch {
		case paid != nil:
		case full != nil:
			return full.Charge.Refused(wait)
		case b.Dry(now) != nil:
			return errDry
		}
		long, err := payDurables(tx, charges, now)
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

// PayIn charges the long limits among charges in the caller's transaction, see
// payDurables. It returns the statuses of those that are not in observe mode,
// also with an error. It ignores charges of short limits.
func (l *Limiter) PayIn(tx *Tx, charges []Charge, now time.Time) ([]LimitStatus, error) {
	b, err := payDurables(tx, charges, now)
	if err == nil {
		tx.After(func() { l.note(b, now) })
	}
	return b.Statuses(now, nil), err
}

// note counts the items of a batch that were left out in observe mode.
func (l *Limiter) note(b *batch, now time.Time) {
	for i := range b.Posts {
		if p := &b.Posts[i]; p.Over {
			l.Observed.Note(p.Charge, now)
		}
	}
}

// open returns a batch of the charges of short limits and locks their counters,
// in the order of the ids, so that two requests with the same ids cannot
// deadlock. The caller calls unlock. After an error nothing is locked. tx is
// the transaction that the call runs in, nil if there is none.
func (l *Limiter) open(tx *Tx, charges []Charge) (*batch, error) {
	b := &batch{}
	var ids []string
	for _, c := range charges {
		if c.Limit.Short() && !slices.Contains(ids, c.ID) {
			ids = append(ids, c.ID)
		}
	}
	slices.Sort(ids)
	var meters []*counters
	for _, id := range ids {
		meters = append(meters, l.find(id))
	}
	for _, c := range charges {
		if !c.Limit.Short() {
			continue
		}
		m := meters[slices.Index(ids, c.ID)]
		g, err := l.gauge(tx, m, c.Limit)
		if err != nil {
			for _, m := range meters {
				m.Unlock()
			}
			return nil, err
		}
		b.Posts = append(b.Posts, batchItem{Panel: m, Gauge: g, Window: &g.Window, Charge: c})
	}
	return b, nil
}

// unlock unlocks the counters of a batch, each once.
func (l *Limiter) unlock(b *batch) {
	for i := range b.Posts {
		m := b.Posts[i].Panel
		if !slices.ContainsFunc(b.Posts[:i], func(p batchItem) bool { return p.Panel == m }) {
			m.Unlock()
		}
	}
}

// find returns the counters of an id, locked; it creates them if there are
// none. It does not hold the shard's lock while it waits for theirs, because a
// goroutine that holds the counters of one id may need those of another in the
// same shard.
func (l *Limiter) find(id string) *counters {
	s := &l.shards[maphash.String(l.seed, id)%uint64(len(l.shards))]
	for {
		s.mu.Lock()
		m := s.meters[id]
		if m == nil {
			m = &counters{ID: id}
			s.meters[id] = m
		}
		s.mu.Unlock()
		m.Lock()
		if !m.Swept {
			return m
		}
		m.Unlock()
	}
}

// gauge returns the counter of a limit and fits it to the limit's current Max
// and Window. If the counter is not in memory it is read from the store. m must
// be locked. tx is the transaction that the call runs in, nil if there is none.
func (l *Limiter) gauge(tx *Tx, m *counters, limit Limit) (*counter, error) {
	for _, g := range m.Gauges {
		if g.Name == limit.Name {
			g.Fit(limit)
			return g, nil
		}
	}
	var g *counter
	read := func(tx *Tx) error {
		record, err := tx.Get("meters", counterKey(m.ID, limit.Name))
		if err == nil {
			g, err = readGauge(record, limit, l.start)
		}
		return err
	}
	var err error
	if tx != nil {
		err = read(tx)
	} else {
		err = l.store.View(read)
	}
	if err != nil {
		return nil, fmt.Errorf("read limit %s of %s: %w", limit.Name, m.ID, err)
	}
	m.Gauges = append(m.Gauges, g)
	return g, nil
}

// commit makes the charges of a batch and requests more reserve for counters
// that run low. The caller has checked room (Full) and reserve (Dry).
func (l *Limiter) commit(b *batch, now time.Time) {
	for i := range b.Posts {
		if p := &b.Posts[i]; p.Use(now) {
			l.renew(p.Panel, p.Gauge, now)
		}
	}
}

// await requests more reserve. It returns a channel that receives nil once the
// reserve is stored, or the error of the store. m must be locked.
func (l *Limiter) await(m *counters, g *counter, now time.Time) <-chan error {
	covered := make(chan error, 1)
	g.Waiting = append(g.Waiting, covered)
	l.renew(m, g, now)
	return covered
}

// renew queues the write of a record with more reserve, unless one is pending.
// m must be locked.
func (l *Limiter) renew(m *counters, g *counter, now time.Time) {
	if g.Pending {
		return
	}
	g.Pending = true
	l.store.Queue(func(tx *Tx) error {
		m.Lock()
		plan, record := g.Grow(now)
		m.Unlock()
		tx.After(func() {
			m.Lock()
			g.Grown(plan)
			m.Unlock()
		})
		return tx.Put("meters", counterKey(m.ID, g.Name), record)
	}, func(err error) {
		// A store that is closed or has failed calls this back in the goroutine
		// of renew, whose caller holds the lock of m. Another goroutine avoids
		// the deadlock.
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

// Statuses returns the status of the limit of each charge, in that order, and
// charges nothing. Do not call it inside a transaction.
func (l *Limiter) Statuses(charges []Charge, now time.Time) ([]LimitStatus, error) {
	var list []LimitStatus
	for _, c := range charges {
		if c.Limit.Short() {
			b, err := l.open(nil, []Charge{c})
			if err != nil {
				return nil, err
			}
			list = append(list, limitStatusOf(&b.Posts[0].Gauge.Window, c.Limit, now))
			l.unlock(b)
			continue
		}
		err := l.store.View(func(tx *Tx) error {
			w, err := readDurable(tx, c.ID, c.Limit)
			list = append(list, limitStatusOf(&w, c.Limit, now))
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return list, nil
}

// Len returns the number of ids that are counted in memory.
func (l *Limiter) Len() (n int) {
	for i := range l.shards {
		s := &l.shards[i]
		s.mu.Lock()
		n += len(s.meters)
		s.mu.Unlock()
	}
	return n
}

// Sweep removes from memory the ids whose stored record says the same as their
// counters. It skips ids in use. Call it about once a minute.
func (l *Limiter) Sweep(now time.Time) {
	for i := range l.shards {
		s := &l.shards[i]
		s.mu.Lock()
		for id, m := range s.meters {
			if !m.TryLock() {
				continue
			}
			if !slices.ContainsFunc(m.Gauges, func(g *counter) bool { return g.Busy(now) }) {
				delete(s.meters, id)
				m.Swept = true
			}
			m.Unlock()
		}
		s.mu.Unlock()
	}
}

// Close stores the exact counts, without reserves, and the counts of Observed.
// Stop all charges before you call it.
func (l *Limiter) Close() error {
	type entry struct{ key, record []byte }
	var entries []entry
	for i := range l.shards {
		s := &l.shards[i]
		s.mu.Lock()
		for id, m := range s.meters {
			m.Lock()
			for _, g := range m.Gauges {
				if record := g.Final(); record != nil {
					entries = append(entries, entry{counterKey(id, g.Name), record})
				}
			}
			m.Unlock()
		}
		s.mu.Unlock()
	}
	for part := range slices.Chunk(entries, 10_000) {
		err := l.store.Update(func(tx *Tx) error {
			for _, e := range part {
				if err := tx.Put("meters", e.key, e.record); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("store the counts of limits: %w", err)
		}
	}
	return l.Observed.Flush(l.start)
}
