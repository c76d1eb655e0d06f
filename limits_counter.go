package main

import (
	"encoding/binary"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// counters holds the counters of one id, one for each of its short limits and of its limits on
// requests in flight. Its lock guards its fields and the counters.
type counters struct {
	sync.Mutex
	ID      string
	Swept   bool // no longer in the Limiter; look the id up again
	Gauges  []*counter
	Flights []*flight // one for each limit on requests in flight that the id has used
}

// counter returns the counter of a limit, adapted to the limit's current Max and Window, or nil if it
// is not in memory. m must be locked.
func (m *counters) counter(limit Limit) *counter {
	for _, g := range m.Gauges {
		if g.Name == limit.Name {
			g.Fit(limit)
			return g
		}
	}
	return nil
}

// counter is the window of one short limit and its reserve. The stored record lists the units that
// were admitted before it was written. Its reserve is a number of units that may be admitted after
// that. A unit is admitted only if the stored reserve covers it. A counter is not safe for
// concurrent use. Hold the lock of its counters.
type counter struct {
	Name    string
	Window  Window
	Waiting []chan error // each receives the result of the pending write
	Pending bool         // a record with a larger reserve is queued or being written

	reserve int          // units of the stored reserve that were not admitted yet
	granted int          // value of reserve when the counter was last stored
	expires int64        // service time, in Unix nanoseconds, until which the reserve may be used
	stale   bool         // units were admitted or taken back since the record was stored
	shared  *sharedCount // what is needed to count with other nodes; nil without a cluster
}

// maxBlock is the maximum number of units that one record adds to a reserve. It is large enough that
// even a very busy key writes to the disk only a few times a second. It is small enough that several
// crashes in a row do not use up a large limit.
const maxBlock = 8192

// readGauge returns the counter of a limit from its stored record, or an empty counter if record is
// nil. A record with a reserve was left by a run of the program that did not end cleanly. Its
// reserve then counts as used at the latest moment at which that run can have used it: when the
// reserve expired, or at start if that is earlier. start is the service time at which the current
// run began. It returns errWindow if the record is damaged.
func readGauge(record []byte, limit Limit, start time.Time) (*counter, error) {
	g := &counter{Name: limit.Name, Window: NewWindow(limit.Max, limit.Window)}
	if record == nil {
		return g, nil
	}
	r, err := readReserve(record, limit)
	if err != nil {
		return nil, err
	}
	r.window.Add(time.Unix(0, min(r.expires, start.UnixNano())), r.units)
	g.Window = r.window
	return g, nil
}

// reserved is a decoded record of a counter.
type reserved struct {
	units   int   // of the reserve
	expires int64 // service time, in Unix nanoseconds, until which they may be used
	window  Window
}

// readReserve decodes the record of a counter.
func readReserve(record []byte, limit Limit) (r reserved, err error) {
	units, k := binary.Uvarint(record)
	if k <= 0 || units > math.MaxInt32 {
		return r, errWindow
	}
	expires, j := binary.Varint(record[k:])
	if j <= 0 {
		return r, errWindow
	}
	w, _, err := readWindow(record[k+j:], limit.Max, limit.Window)
	return reserved{int(units), expires, w}, err
}

// Fit adapts the window to the current Max and Window of its limit.
func (g *counter) Fit(limit Limit) {
	if !g.Window.Fits(limit.Max, limit.Window) {
		if g.shared != nil {
			g.shared.retry = 0 // there may be room again
			g.reserve = 0      // or less than the reserve, with what the other nodes have used
		}
		g.Window = g.Window.Resize(limit.Max, limit.Window)
	}
}

// Left returns how many units of the reserve can be admitted at now. It returns 0 after the reserve
// has expired.
func (g *counter) Left(now time.Time) int {
	if max(now.UnixNano(), g.Window.Last) > g.expires {
		return 0
	}
	return g.reserve
}

// Use admits n units. The caller has checked that the reserve covers them. It returns the time under
// which the units count, for Refund. low reports whether to request a larger reserve. This is so if
// half of its units or half of its time is used, the limit still admits a unit, and no record is
// pending.
func (g *counter) Use(n int, now time.Time) (at int64, low bool) {
	at = g.Window.Add(now, n)
	g.reserve -= n
	g.stale = true
	low = (g.reserve <= g.granted/2 || g.Window.Last > g.expires-g.life()/2) && !g.Pending && g.Window.Wait(now, 1) == 0
	return at, low && (g.shared == nil || g.asksAhead(now))
}

// life returns for how long a reserve may be used.
func (g *counter) life() int64 {
	if g.shared != nil {
		return g.Window.Span / 4
	}
	return g.Window.Span
}

// Wait returns how long after now the limit can admit n units. It returns 0 if it can now, or if the reserve must be larger first.
func (g *counter) Wait(now time.Time, n int) time.Duration {
	wait := g.Window.Wait(now, n)
	if g.shared != nil && g.Left(now) < n {
		wait = max(wait, g.refusal(now, n))
	}
	return wait
}

// Status returns the status at now of the limit.
func (g *counter) Status(limit Limit, now time.Time) LimitStatus {
	s := limitStatusOf(&g.Window, limit, now)
	if g.shared != nil {
		g.addOthers(&s, now)
	}
	return s
}

// Refund takes back n units that Use has admitted. at is the time that Use returned. The units are
// not returned to the reserve, because the record on disk may count them already.
func (g *counter) Refund(n int, at int64) {
	g.Window.Remove(at, n)
	g.stale = true
}

// Grow returns a plan for a larger reserve and the record to store for it. Pass p to Grown once the
// record is on disk. Until then only the old reserve may be used.
func (g *counter) Grow(now time.Time) (p plan, record []byte) {
	left := g.Left(now)
	g.reserve = left
	if g.shared != nil {
		p = sharedPlan(g, g.Window.Used(now)+left, g.Window.Last)
		g.stale = false
		return p, g.record(p.granted, p.expires)
	}
	// Add an eighth of the limit, but not more than is free, and at least one unit. With a larger
	// reserve, more valid requests would be refused after a crash.
	free := g.Window.Max - g.Window.Used(now) - left
	p.block = min(max(1, g.Window.Max/8), max(1, free), maxBlock)
	p.granted = left + p.block
	p.expires = g.Window.Last + g.Window.Span
	record = g.record(p.granted, p.expires)
	g.stale = false
	return p, record
}

// plan is a larger reserve whose record is not on disk yet.
type plan struct {
	block   int   // units that it adds to the reserve
	granted int   // the whole reserve in its record
	expires int64 // service time, in Unix nanoseconds, until which the reserve may be used
	retry   int64 // service time, in Unix nanoseconds, until which it is of no use to ask for more
	most    int   // Max of the limit; only in a cluster
}

// Grown lets the units of a plan's reserve be admitted. The record of the plan must be on disk.
func (g *counter) Grown(p plan) {
	if g.shared == nil || p.most == g.Window.Max { // otherwise the limit has changed meanwhile
		g.reserve += p.block
	}
	if g.granted, g.expires = p.granted, p.expires; g.shared != nil {
		g.shared.retry, g.shared.want, g.shared.returns = p.retry, 0, false
	}
}

// record returns the stored form of a counter: the reserve, the time until which the reserve may be
// used, and the window.
func (g *counter) record(reserve int, expires int64) []byte {
	b := binary.AppendUvarint(nil, uint64(reserve))
	b = binary.AppendVarint(b, expires)
	return g.Window.Append(b)
}

// Final drops the reserve and returns a record with the exact count. It returns nil if the record on
// disk is already exact.
func (g *counter) Final() []byte {
	if g.reserve <= 0 && !g.stale {
		return nil
	}
	g.reserve = 0
	return g.record(0, 0)
}

// Busy reports whether readGauge could return a different counter from the stored record at now.
// Only a counter that is not busy may be removed from memory. Requests wait only while a write is pending.
func (g *counter) Busy(now time.Time) bool {
	return g.Pending || g.Window.Used(now) > 0 || now.UnixNano() < g.expires+g.Window.Span
}

// CounterRef remembers the counters of one id, so that the Limiter need not look them up. Keep one
// for each id that is used often. The zero CounterRef is ready to use. It is safe for concurrent
// use.
type CounterRef struct{ meter atomic.Pointer[counters] }

// Held locks and returns the remembered counters. It returns nil if there are none, if they were
// removed from memory, or if h is nil.
func (h *CounterRef) Held() *counters {
	if h == nil {
		return nil
	}
	m := h.meter.Load()
	if m == nil {
		return nil
	}
	m.Lock()
	if m.Swept {
		m.Unlock()
		return nil
	}
	return m
}

// Keep remembers m. It does nothing if h is nil.
func (h *CounterRef) Keep(m *counters) {
	if h != nil {
		h.meter.Store(m)
	}
}
