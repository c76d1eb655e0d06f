package main

import (
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"
)

// counters holds the counters of one id for its short limits, which are kept in
// memory. Hold its lock to use a field or a counter.
type counters struct {
	sync.Mutex
	ID     string
	Swept  bool // removed from memory; look the id up again
	Gauges []*counter
}

// counter is the window of one short limit and its reserve. The record on disk
// lists the units up to some moment, and a reserve in it covers the units after
// that. A unit is admitted only if the stored reserve covers it. A counter is
// not safe for concurrent use: lock the counters that hold it.
type counter struct {
	Name    string
	Window  Window
	Waiting []chan error // receive the result of the pending record
	Pending bool         // a record with more reserve is being written

	reserve int   // units that the stored record still covers
	granted int   // value of reserve when it was stored
	expires int64 // service time, in Unix nanoseconds, until which the reserve may be used
	stale   bool  // units were admitted or taken back since the record was stored
}

// maxBlock is the most units that are reserved at once. It is large enough that
// the busiest key writes to disk only a few times a second, and small enough
// that several crashes in a row do not use up a large limit.
const maxBlock = 8192

// readGauge returns the counter of a limit from its stored record; record is
// nil if there is none. A reserve in the record means that its run did not end
// cleanly. The reserve then counts as used at the latest possible moment: when
// it expired, or at start if that is earlier. start is the time at which this
// run began. It returns errWindow if the record is damaged.
func readGauge(record []byte, limit Limit, start time.Time) (*counter, error) {
	g := &counter{Name: limit.Name, Window: NewWindow(limit.Max, limit.Window)}
	if record == nil {
		return g, nil
	}
	reserve, k := binary.Uvarint(record)
	if k <= 0 {
		return nil, errWindow
	}
	expires, j := binary.Varint(record[k:])
	if j <= 0 {
		return nil, errWindow
	}
	w, _, err := readWindow(record[k+j:], limit.Max, limit.Window)
	if err != nil {
		return nil, err
	}
	w.Add(time.Unix(0, min(expires, start.UnixNano())), int(reserve))
	g.Window = w
	return g, nil
}

// Fit adapts the window to the current Max and Window of its limit.
func (g *counter) Fit(limit Limit) {
	if !g.Window.Fits(limit.Max, limit.Window) {
		g.Window = g.Window.Resize(limit.Max, limit.Window)
	}
}

// Left returns how many units of the reserve can still be used, 0 after it has
// expired.
func (g *counter) Left(now time.Time) int {
	if max(now.UnixNano(), g.Window.Last) > g.expires {
		return 0
	}
	return g.reserve
}

// Use admits n units; the caller has checked that the reserve covers them. It
// returns the time under which they count, for Refund. low reports whether to
// request more reserve: half of its units or half of its time is used, the
// limit has room, and no record is pending.
func (g *counter) Use(n int, now time.Time) (at int64, low bool) {
	at = g.Window.Add(now, n)
	g.reserve -= n
	g.stale = true
	return at, (g.reserve <= g.granted/2 || g.Window.Last > g.expires-g.Window.Span/2) && !g.Pending && g.Window.Wait(now, 1) == 0
}

// Refund takes back n units that Use has admitted; at is the time that Use
// returned. Their reserve stays used, because the record on disk may count them
// already.
func (g *counter) Refund(n int, at int64) {
	g.Window.Remove(at, n)
	g.stale = true
}

// Grow returns a plan for a larger reserve and the record to store for it. Once
// the record is on disk, pass p to Grown; until then only the old reserve may
// be used.
func (g *counter) Grow(now time.Time) (p plan, record []byte) {
	left := g.Left(now)
	g.reserve = left
	// About an eighth of the limit, and not more than is free, but at least one
	// unit. A larger reserve would refuse more valid requests after a crash.
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
	block, granted int
	expires        int64
}

// Grown makes the reserve of a plan usable. The record of the plan must be on
// disk.
func (g *counter) Grown(p plan) {
	g.reserve += p.block
	g.granted, g.expires = p.granted, p.expires
}

// record returns the stored form of a counter: the reserve, the time until
// which it may be used, and the window.
func (g *counter) record(reserve int, expires int64) []byte {
	b := binary.AppendUvarint(nil, uint64(reserve))
	b = binary.AppendVarint(b, expires)
	return g.Window.Append(b)
}

// Final drops the reserve and returns a record with the exact count, nil if the
// record on disk is exact already.
func (g *counter) Final() []byte {
	if g.reserve <= 0 && !g.stale {
		return nil
	}
	g.reserve = 0
	return g.record(0, 0)
}

// Busy reports whether the counter may differ from its stored record as it
// would be read now. Only a counter that is not busy can be removed from
// memory.
func (g *counter) Busy(now time.Time) bool {
	return g.Pending || len(g.Waiting) > 0 || g.Window.Used(now) > 0 || now.UnixNano() < g.expires+g.Window.Span
}

// CounterRef remembers the counters of one id, so that Limiter.SpendBy need not
// look them up. Keep one beside each id that is used often. The zero CounterRef
// is ready to use. It is safe for concurrent use.
type CounterRef struct{ meter atomic.Pointer[counters] }

// Held returns the remembered counters, locked, or nil if there are none or
// they were removed from memory. h may be nil.
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

// Keep remembers m, unless h is nil.
func (h *CounterRef) Keep(m *counters) {
	if h != nil {
		h.meter.Store(m)
	}
}
