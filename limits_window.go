package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"
)

// exactMax is the largest limit whose admissions are all remembered one by
// one. Above it they are counted in parts of the window.
const exactMax = 1000

// parts is how many parts a window above exactMax is cut into. A unit counts
// until its whole part has left the window, so it may come back up to
// 1/1024 of the window late, and never early: at most max units in any span.
const parts = 1024

// Window counts the units admitted in the last span of time, so that any span
// of that length has at most Max of them. It is not safe for concurrent use.
// The zero Window is not ready; NewWindow makes one.
type Window struct {
	Max   int
	Span  int64 // nanoseconds
	width int64 // of a part; 0 where every unit is remembered
	marks []entry
	first int // index of the oldest in marks that still counts
	used  int
	Last  int64 // the latest time seen; time never goes back in here
}

// entry is a number of units at one time, or in one part of the window.
type entry struct {
	at int64 // nanoseconds; of a part its last
	n  int
}

// NewWindow makes an empty window.
func NewWindow(limit int, span time.Duration) Window {
	w := Window{Max: limit, Span: int64(span)}
	if limit > exactMax {
		w.width = max(1, (w.Span+parts-1)/parts)
	}
	return w
}

// Fits says whether the window is made for this limit.
func (w *Window) Fits(limit int, span time.Duration) bool {
	return w.Max == limit && w.Span == int64(span)
}

// Resize gives a window for another limit that remembers what this one does.
func (w *Window) Resize(limit int, span time.Duration) Window {
	n := NewWindow(limit, span)
	for _, m := range w.marks[w.first:] {
		n.insert(m.at, m.n)
	}
	n.Last = w.Last
	return n
}

// Used gives the units that count at a time.
func (w *Window) Used(now time.Time) int {
	w.expire(now.UnixNano())
	return w.used
}

// Add counts n units at a time, whether or not there is room. A time before
// the latest one seen is taken as that one. It gives the time at which they count.
func (w *Window) Add(now time.Time, n int) (at int64) { return w.add(now.UnixNano(), n) }

func (w *Window) add(at int64, n int) int64 {
	if n <= 0 {
		return at
	}
	w.expire(at)
	return w.insert(w.Last, n)
}

// recall counts units of an earlier time without taking that for the time that it
// is now: of a part it is the last instant, which may be still to come, and what
// is older would leave the window as if it had.
func (w *Window) insert(at int64, n int) int64 {
	if w.width > 0 && at <= math.MaxInt64-w.width {
		at += w.width - 1 - at%w.width
	}
	if i := len(w.marks) - 1; i >= w.first && w.marks[i].at >= at {
		w.marks[i].n += n
	} else {
		w.marks = append(w.marks, entry{at, n})
	}
	w.used += n
	return w.marks[len(w.marks)-1].at
}

// Remove takes back n units that Add has counted at what it gave; where they are
// not found any more it leaves all as it is.
func (w *Window) Remove(at int64, n int) {
	for i := w.first; i < len(w.marks); i++ {
		if m := &w.marks[i]; m.at == at && m.n >= n {
			m.n -= n
			w.used -= n
			if m.n == 0 {
				w.marks = slices.Delete(w.marks, i, i+1)
			}
			return
		}
	}
}

// forget drops what has left the window.
func (w *Window) expire(now int64) {
	w.Last = max(w.Last, now)
	for w.first < len(w.marks) && w.Last-w.marks[w.first].at >= w.Span {
		w.used -= w.marks[w.first].n
		w.first++
	}
	if w.first == len(w.marks) {
		w.marks, w.first = w.marks[:0], 0
	} else if w.first > 16 && w.first*2 > len(w.marks) {
		// Moving at most as many as were dropped keeps this cheap, and the
		// slice from growing without end.
		n := copy(w.marks, w.marks[w.first:])
		w.marks, w.first = w.marks[:n], 0
	}
}

// Wait gives the time until n more units fit, 0 when they do now. It is the
// first instant at which they would, if nothing else is admitted until then.
// More units than the limit never fit: the wait is a whole span.
func (w *Window) Wait(now time.Time, n int) time.Duration {
	t := now.UnixNano()
	w.expire(t)
	over := w.used + n - w.Max
	if over <= 0 {
		return 0
	}
	for _, m := range w.marks[w.first:] {
		if over -= m.n; over <= 0 {
			return time.Duration(m.at + w.Span - t)
		}
	}
	return time.Duration(w.Span)
}

// Next gives the time until the oldest unit leaves the window, 0 when it is
// empty.
func (w *Window) Next(now time.Time) time.Duration {
	t := now.UnixNano()
	w.expire(t)
	if w.used == 0 {
		return 0
	}
	return time.Duration(w.marks[w.first].at + w.Span - t)
}

// Append writes the window in the form that readWindow reads.
func (w *Window) Append(b []byte) []byte {
	live := w.marks[w.first:]
	b = binary.AppendUvarint(b, uint64(len(live)))
	at := int64(0)
	for _, m := range live {
		b = binary.AppendVarint(b, m.at-at)
		b = binary.AppendUvarint(b, uint64(m.n))
		at = m.at
	}
	return b
}

// errWindow says that stored bytes are no window.
var errWindow = errors.New("not a window")

// readWindow reads what Append has written and gives the window for a limit,
// which may be another one than at that time, and the bytes that follow.
func readWindow(b []byte, limit int, span time.Duration) (Window, []byte, error) {
	w := NewWindow(limit, span)
	count, k := binary.Uvarint(b)
	if k <= 0 || count > uint64(len(b)) {
		return w, nil, errWindow
	}
	b = b[k:]
	at, total := int64(0), uint64(0)
	for range count {
		delta, k := binary.Varint(b)
		if k <= 0 {
			return w, nil, errWindow
		}
		n, j := binary.Uvarint(b[k:])
		if total += n; j <= 0 || n == 0 || n > math.MaxInt32 || total > math.MaxInt32 { // marks that share a part add up
			return w, nil, errWindow
		}
		at += delta
		w.insert(max(0, at), int(n))
		b = b[k+j:]
	}
	return w, b, nil
}

// The limits of the contract (1.6).
const (
	RequestsPerMinute = "requests_per_minute_limit"
	CallsPerDay       = "calls_per_day_limit"
	EventsPerDay      = "calendar_events_per_day_limit"
)

// The limits beside them that all keys of an owner share.
const (
	OwnerRequestsPerMinute = "owner_" + RequestsPerMinute
	OwnerCallsPerDay       = "owner_" + CallsPerDay
	OwnerEventsPerDay      = "owner_" + EventsPerDay
)

// Limit allows Max units in any span of length Window. Windows under an hour
// are counted in memory, ahead of which a reserve is stored; longer ones in
// the transaction that stores what was paid for.
type Limit struct {
	Name   string
	Max    int
	Window time.Duration
}

// MaxLimit is the largest limit that there may be.
const MaxLimit = 1_000_000_000

// Short says whether the limit is counted in memory.
func (l Limit) Short() bool { return l.Window < time.Hour }

// LimitStatus tells how a limit stands after a check.
type LimitStatus struct {
	Limit Limit
	Used  int
	Next  time.Duration // until the oldest unit comes back, 0 when none is used
	Wait  time.Duration // until one more unit passes, 0 when one does now
}

// Remaining is how many more units pass now.
func (s LimitStatus) Remaining() int { return max(0, s.Limit.Max-s.Used) }

// limitStatusOf tells how a limit stands that is counted in a window.
func limitStatusOf(w *Window, limit Limit, now time.Time) LimitStatus {
	return LimitStatus{Limit: limit, Used: w.Used(now), Next: w.Next(now), Wait: w.Wait(now, 1)}
}

// readDurable reads the window of a long limit.
func readDurable(tx *Tx, id string, limit Limit) (Window, error) {
	value, err := tx.Get("quotas", counterKey(id, limit.Name))
	if err != nil || value == nil {
		return NewWindow(limit.Max, limit.Window), err
	}
	w, _, err := readWindow(value, limit.Max, limit.Window)
	if err != nil {
		return w, fmt.Errorf("read limit %s of %s: %w", limit.Name, id, err)
	}
	return w, nil
}

// counterKey is the key under which a limit of an id is stored.
func counterKey(id, limit string) []byte { return []byte(id + "\x00" + limit) }
