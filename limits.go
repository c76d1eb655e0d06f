package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Limiter counts what ids use of their limits. It never lets more than a
// limit's Max through in any span of its Window, also over a crash: it stores
// a reserve ahead of what it admits, and after a crash what was left of the
// reserve counts as used. It is safe for concurrent use; requests of different
// ids do not wait for each other.
type Limiter struct {
	store  *Store
	start  time.Time // service time at which this run began
	seed   maphash.Seed
	shards [64]shard
}

type shard struct {
	mu     sync.Mutex
	meters map[string]*meter
	_      [40]byte // a cache line each
}

// meter holds the short windows of one id.
type meter struct {
	mu     sync.Mutex
	id     string
	swept  bool // no longer in its shard; another one counts for the id
	gauges []*gauge
}

// Handle spares a frequent id its look-up: kept with the id and given to
// Spend, it remembers where the id is counted. The zero Handle is ready, and
// belongs to one id. It is safe for concurrent use.
type Handle struct{ meter atomic.Pointer[meter] }

// gauge is one window and its reserve. Whatever is on disk for it lists the
// units up to some moment and covers those after it with a reserve; a unit is
// admitted only when the stored reserve covers it.
type gauge struct {
	name    string
	window  Window
	reserve int   // units that the stored record still covers
	granted int   // what reserve was when it was stored
	expires int64 // service time up to which the reserve may be used
	stale   bool  // units were admitted since the record was stored
	waiting []chan error
	pending bool // a record with more reserve is on its way to disk
}

// maxBlock is the most units that are reserved at once: enough that the
// busiest key asks the disk a few times a second, and little enough that some
// crashes in a row do not use up a large limit.
const maxBlock = 8192

// NewLimiter counts in a store. start is the service time at which this run
// begins: everything an earlier run admitted was before it.
func NewLimiter(store *Store, start time.Time) *Limiter {
	l := &Limiter{store: store, start: start, seed: maphash.MakeSeed()}
	for i := range l.shards {
		l.shards[i].meters = map[string]*meter{}
	}
	return l
}

// Spend asks for one unit of each of an id's short limits at the given service
// time, and appends how each stands to into. Either all of them are charged or
// none: with one exhausted the error is ErrRateLimit with the time to wait,
// and the request costs nothing. ErrUnavailable means that the store cannot
// cover the unit. It waits for the disk only when a reserve has run out.
func (l *Limiter) Spend(id string, limits []Limit, now time.Time, into []Standing) ([]Standing, error) {
	return l.SpendBy(nil, id, limits, now, into)
}

// SpendBy is Spend for an id that has a Handle, or nil.
func (l *Limiter) SpendBy(h *Handle, id string, limits []Limit, now time.Time, into []Standing) ([]Standing, error) {
	return l.spend(h, id, limits, 1, now, into)
}

// SpendMany is Spend for n units of each limit at once: all of them or none. It
// may wait for the disk several times, where n is more than a reserve.
func (l *Limiter) SpendMany(id string, limits []Limit, n int, now time.Time, into []Standing) ([]Standing, error) {
	return l.spend(nil, id, limits, n, now, into)
}

func (l *Limiter) spend(h *Handle, id string, limits []Limit, n int, now time.Time, into []Standing) ([]Standing, error) {
	for {
		if l.store.Failing() {
			return into, ErrUnavailable
		}
		m, err := l.lock(h, id, limits)
		if err != nil {
			return into, err
		}
		if wait, full := m.wait(limits, n, now); wait > 0 {
			into = m.standings(limits, now, into)
			m.mu.Unlock()
			return into, refused(full, n, wait)
		}
		dry := m.uncovered(limits, n, now)
		if dry == nil {
			l.charge(m, limits, n, now)
			into = m.standings(limits, now, into)
			m.mu.Unlock()
			return into, nil
		}
		covered := make(chan error, 1)
		dry.waiting = append(dry.waiting, covered)
		l.renew(m, dry, now)
		m.mu.Unlock()
		if err := <-covered; err != nil {
			return into, ErrUnavailable
		}
	}
}

func refused(limit string, n int, wait time.Duration) error {
	if n > 1 {
		return ErrRateLimit.With("The limit %s has no room for %d more. Wait for the time in Retry-After.", limit, n).After(wait)
	}
	return ErrRateLimit.With("The limit %s is reached. Wait for the time in Retry-After.", limit).After(wait)
}

// lock gives the meter of an id, locked, with a gauge for each limit.
func (l *Limiter) lock(h *Handle, id string, limits []Limit) (*meter, error) {
	m := h.held()
	if m == nil {
		m = l.find(id)
		if h != nil {
			h.meter.Store(m)
		}
	}
	for _, limit := range limits {
		if err := l.fit(m, limit); err != nil {
			m.mu.Unlock()
			return nil, err
		}
	}
	return m, nil
}

// held gives the meter that the handle remembers, locked, nil for none.
func (h *Handle) held() *meter {
	if h == nil {
		return nil
	}
	m := h.meter.Load()
	if m == nil {
		return nil
	}
	m.mu.Lock()
	if m.swept {
		m.mu.Unlock()
		return nil
	}
	return m
}

// find gives the meter of an id, locked, a new one where there is none.
func (l *Limiter) find(id string) *meter {
	s := &l.shards[maphash.String(l.seed, id)%uint64(len(l.shards))]
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.meters[id]
	if m == nil {
		m = &meter{id: id}
		s.meters[id] = m
	}
	// Taken while the shard is held, so that Sweep cannot remove it between.
	m.mu.Lock()
	return m
}

// fit makes sure that the meter has a gauge of the limit's present size.
func (l *Limiter) fit(m *meter, limit Limit) error {
	if g := m.gauge(limit.Name); g != nil {
		if !g.window.Fits(limit.Max, limit.Window) {
			g.window = g.window.Resize(limit.Max, limit.Window)
		}
		return nil
	}
	g, err := l.load(m.id, limit)
	if err != nil {
		return err
	}
	m.gauges = append(m.gauges, g)
	return nil
}

func (m *meter) gauge(name string) *gauge {
	for _, g := range m.gauges {
		if g.name == name {
			return g
		}
	}
	return nil
}

// wait is how long until every limit has room for n more units, and the limit
// that takes longest.
func (m *meter) wait(limits []Limit, n int, now time.Time) (wait time.Duration, full string) {
	for _, limit := range limits {
		if w := m.gauge(limit.Name).window.Wait(now, n); w > wait {
			wait, full = w, limit.Name
		}
	}
	return wait, full
}

func (m *meter) standings(limits []Limit, now time.Time, into []Standing) []Standing {
	for _, limit := range limits {
		w := &m.gauge(limit.Name).window
		into = append(into, StandingOf(w, limit, now))
	}
	return into
}

// uncovered gives a gauge whose reserve does not cover n more units, nil when
// all do.
func (m *meter) uncovered(limits []Limit, n int, now time.Time) *gauge {
	for _, limit := range limits {
		if g := m.gauge(limit.Name); g.left(now) < n {
			return g
		}
	}
	return nil
}

// left is what may still be used of the reserve.
func (g *gauge) left(now time.Time) int {
	if max(now.UnixNano(), g.window.Last) > g.expires {
		return 0
	}
	return g.reserve
}

// charge admits n units of each limit, and fetches more reserve where half is
// used or half of its time is over.
func (l *Limiter) charge(m *meter, limits []Limit, n int, now time.Time) {
	for _, limit := range limits {
		g := m.gauge(limit.Name)
		g.window.Add(now, n)
		g.reserve -= n
		g.stale = true
		low := g.reserve <= g.granted/2 || g.window.Last > g.expires-int64(limit.Window)/2
		if low && !g.pending && g.window.Wait(now, 1) == 0 {
			l.renew(m, g, now)
		}
	}
}

// renew has a record with more reserve stored. The meter is locked.
func (l *Limiter) renew(m *meter, g *gauge, now time.Time) {
	if g.pending {
		return
	}
	g.pending = true
	var block, granted int
	var expires int64
	l.store.Queue(func(tx *Tx) error {
		m.mu.Lock()
		left := g.left(now)
		g.reserve = left
		// About an eighth of the limit, and no more than is free: after a
		// crash what is left of it refuses requests that would have passed.
		free := g.window.Max - g.window.Used(now) - left
		block = min(max(1, g.window.Max/8), max(1, free), maxBlock)
		granted = left + block
		expires = g.window.Last + g.window.Span
		record := g.record(granted, expires)
		g.stale = false
		m.mu.Unlock()
		tx.After(func() {
			m.mu.Lock()
			g.reserve += block
			g.granted, g.expires = granted, expires
			m.mu.Unlock()
		})
		return tx.Put("meters", MeterKey(m.id, g.name), record)
	}, func(err error) {
		// In a goroutine of its own where the store refuses at once, because
		// the caller then still holds the meter.
		settle := func() {
			m.mu.Lock()
			g.pending = false
			waiting := g.waiting
			g.waiting = nil
			m.mu.Unlock()
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

// record is what is stored of a gauge: the reserve, until when it may be used,
// and the window.
func (g *gauge) record(reserve int, expires int64) []byte {
	b := binary.AppendUvarint(nil, uint64(reserve))
	b = binary.AppendVarint(b, expires)
	return g.window.Append(b)
}

// load reads a gauge. The reserve of a run that did not end cleanly counts as
// used at the latest moment at which it can have been: when it expired, or
// when this run began.
func (l *Limiter) load(id string, limit Limit) (*gauge, error) {
	g := &gauge{name: limit.Name, window: NewWindow(limit.Max, limit.Window)}
	err := l.store.View(func(tx *Tx) error {
		value, err := tx.Get("meters", MeterKey(id, limit.Name))
		if err != nil || value == nil {
			return err
		}
		reserve, k := binary.Uvarint(value)
		if k <= 0 {
			return ErrWindow
		}
		expires, j := binary.Varint(value[k:])
		if j <= 0 {
			return ErrWindow
		}
		g.window, _, err = ReadWindow(value[k+j:], limit.Max, limit.Window)
		g.window.Add(time.Unix(0, min(expires, l.start.UnixNano())), int(reserve))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read limit %s of %s: %w", limit.Name, id, err)
	}
	return g, nil
}

// Standings tells how limits of an id stand and spends nothing. It must not be
// called inside a transaction.
func (l *Limiter) Standings(id string, limits []Limit, now time.Time) ([]Standing, error) {
	var list []Standing
	for _, limit := range limits {
		s, err := l.look(id, limit, now)
		if err != nil {
			return nil, err
		}
		list = append(list, s)
	}
	return list, nil
}

func (l *Limiter) look(id string, limit Limit, now time.Time) (Standing, error) {
	if limit.Short() {
		limits := [1]Limit{limit}
		m, err := l.lock(nil, id, limits[:])
		if err != nil {
			return Standing{}, err
		}
		defer m.mu.Unlock()
		return StandingOf(&m.gauge(limit.Name).window, limit, now), nil
	}
	var w Window
	err := l.store.View(func(tx *Tx) (err error) {
		w, err = ReadQuota(tx, id, limit)
		return err
	})
	if err != nil {
		return Standing{}, err
	}
	return StandingOf(&w, limit, now), nil
}

// Charge spends one unit of a long limit in the caller's transaction, as
// ChargeQuota does.
func (l *Limiter) Charge(tx *Tx, id string, limit Limit, now time.Time) (Standing, error) {
	return ChargeQuota(tx, id, limit, 1, now)
}

// Sweep forgets the ids that have used nothing for so long that what is stored
// of them says the same. It is to be called about once a minute.
func (l *Limiter) Sweep(now time.Time) {
	for i := range l.shards {
		s := &l.shards[i]
		s.mu.Lock()
		for id, m := range s.meters {
			if !m.mu.TryLock() {
				continue
			}
			if !slices.ContainsFunc(m.gauges, func(g *gauge) bool { return g.busy(now) }) {
				delete(s.meters, id)
				m.swept = true
			}
			m.mu.Unlock()
		}
		s.mu.Unlock()
	}
}

// busy says whether the stored record, read again, could say something else
// than the gauge does.
func (g *gauge) busy(now time.Time) bool {
	return g.pending || len(g.waiting) > 0 || g.window.Used(now) > 0 || now.UnixNano() < g.expires+g.window.Span
}

// Close stores the exact counts and gives back what is left of the reserves.
// Nothing may be spent any more when it is called.
func (l *Limiter) Close() error {
	type entry struct{ key, record []byte }
	var entries []entry
	for i := range l.shards {
		s := &l.shards[i]
		s.mu.Lock()
		for id, m := range s.meters {
			m.mu.Lock()
			for _, g := range m.gauges {
				if g.reserve > 0 || g.stale {
					entries = append(entries, entry{MeterKey(id, g.name), g.record(0, 0)})
				}
				g.reserve = 0
			}
			m.mu.Unlock()
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
	return nil
}
