package main

import (
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"
)

// counters holds the gauges of one id. Who uses them holds its lock.
type counters struct {
	sync.Mutex
	ID     string
	Swept  bool // forgotten; another one counts for the id
	Gauges []*counter
}

// counter is one short window and its reserve. Whatever is on disk for it lists
// the units up to some moment and covers those after it with a reserve; a unit
// is admitted only when the stored reserve covers it. It is not safe for
// concurrent use: the Limiter locks it.
type counter struct {
	Name    string
	Window  Window
	Waiting []chan error // who waits for more reserve
	Pending bool         // a record with more reserve is on its way to disk

	reserve int   // units that the stored record still covers
	granted int   // what reserve was when it was stored
	expires int64 // service time up to which the reserve may be used
	stale   bool  // units were admitted since the record was stored
}

// maxBlock is the most units that are reserved at once: enough that the
// busiest key asks the disk a few times a second, and little enough that some
// crashes in a row do not use up a large limit.
const maxBlock = 8192

// readGauge makes the gauge of a limit out of its stored record, nil for none.
// The reserve of a run that did not end cleanly counts as used at the latest
// moment at which it can have been: when it expired, or at start, when this run
// began.
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

// Fit makes the window one of the limit's present size.
func (g *counter) Fit(limit Limit) {
	if !g.Window.Fits(limit.Max, limit.Window) {
		g.Window = g.Window.Resize(limit.Max, limit.Window)
	}
}

// Left is what may still be used of the reserve.
func (g *counter) Left(now time.Time) int {
	if max(now.UnixNano(), g.Window.Last) > g.expires {
		return 0
	}
	return g.reserve
}

// LastUse admits n units, which the reserve covers. It gives the time at which they
// count, and says whether more reserve is to be fetched: where half is used or
// half of its time is over.
func (g *counter) Use(n int, now time.Time) (at int64, low bool) {
	at = g.Window.Add(now, n)
	g.reserve -= n
	g.stale = true
	return at, (g.reserve <= g.granted/2 || g.Window.Last > g.expires-g.Window.Span/2) && !g.Pending && g.Window.Wait(now, 1) == 0
}

// Refund takes back n units that LastUse has admitted at what it gave. Their reserve
// stays used: the record on disk may count them by now.
func (g *counter) Refund(n int, at int64) {
	g.Window.Remove(at, n)
	g.stale = true
}

// Grow plans a record with more reserve, which holds once the record is on
// disk: then the plan is given to Grown.
func (g *counter) Grow(now time.Time) (p plan, record []byte) {
	left := g.Left(now)
	g.reserve = left
	// About an eighth of the limit, and no more than is free: after a crash what
	// is left of it refuses requests that would have passed.
	free := g.Window.Max - g.Window.Used(now) - left
	p.block = min(max(1, g.Window.Max/8), max(1, free), maxBlock)
	p.granted = left + p.block
	p.expires = g.Window.Last + g.Window.Span
	record = g.record(p.granted, p.expires)
	g.stale = false
	return p, record
}

// plan is more reserve on its way to disk.
type plan struct {
	block, granted int
	expires        int64
}

// Grown takes the reserve of a plan whose record is on disk.
func (g *counter) Grown(p plan) {
	g.reserve += p.block
	g.granted, g.expires = p.granted, p.expires
}

// record is what is stored of a gauge: the reserve, until when it may be used,
// and the window.
func (g *counter) record(reserve int, expires int64) []byte {
	b := binary.AppendUvarint(nil, uint64(reserve))
	b = binary.AppendVarint(b, expires)
	return g.Window.Append(b)
}

// Final gives up the reserve and gives the record with the exact count, nil
// where the one on disk says the same.
func (g *counter) Final() []byte {
	if g.reserve <= 0 && !g.stale {
		return nil
	}
	g.reserve = 0
	return g.record(0, 0)
}

// Busy says whether the stored record, read again, could say something else
// than the gauge does.
func (g *counter) Busy(now time.Time) bool {
	return g.Pending || len(g.Waiting) > 0 || g.Window.Used(now) > 0 || now.UnixNano() < g.expires+g.Window.Span
}

// CounterRef spares a frequent id its look-up: kept with the id and given to
// Limiter.SpendBy, it remembers where the id is counted. The zero CounterRef is
// ready, and belongs to one id. It is safe for concurrent use.
type CounterRef struct{ meter atomic.Pointer[counters] }

// Held gives the meter that the handle remembers, locked, nil for none. The
// handle may be nil.
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

// Keep has the handle, unless it is nil, remember a meter.
func (h *CounterRef) Keep(m *counters) {
	if h != nil {
		h.meter.Store(m)
	}
}
