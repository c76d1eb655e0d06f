package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"
)

// exactMax is the largest Max for which a Window remembers each unit by itself.
// For larger limits it counts units in parts of the window.
const exactMax = 1000

// parts is the number of parts of a window with Max above exactMax. A unit
// counts until its whole part has left the window. So it can be released up to
// 1/1024 of the window late, never early: any span still holds at most Max
// units.
const parts = 1024

// Window counts the units admitted in the last Span, so that any period of that
// length has at most Max of them. A Window is not safe for concurrent use.
// Create one with NewWindow; the zero Window is not usable.
type Window struct {
	Max   int
	Span  int64 // nanoseconds
	width int64 // nanoseconds of a part; 0 if each unit is remembered by itself
	marks []entry
	first int // index of the oldest in marks that still counts
	used  int
	Last  int64 // latest time seen, in Unix nanoseconds; it never goes back
}

// entry is a number of units at one time, or in one part of the window.
type entry struct {
	at int64 // Unix nanoseconds; for a part, its last one
	n  int
}

// NewWindow returns an empty window that admits limit units in any span.
func NewWindow(limit int, span time.Duration) Window {
	w := Window{Max: limit, Span: int64(span)}
	if limit > exactMax {
		w.width = max(1, (w.Span+parts-1)/parts)
	}
	return w
}

// Fits reports whether the window has this limit and span.
func (w *Window) Fits(limit int, span time.Duration) bool {
	return w.Max == limit && w.Span == int64(span)
}

// Resize returns a window with another limit or span that holds the same units.
func (w *Window) Resize(limit int, span time.Duration) Window {
	n := NewWindow(limit, span)
	for _, m := range w.marks[w.first:] {
		n.insert(m.at, m.n)
	}
	n.Last = w.Last
	return n
}

// Used returns the number of units that are in the window at now.
func (w *Window) Used(now time.Time) int {
	w.expire(now.UnixNano())
	return w.used
}

// Add counts n units at now, even beyond Max. A now before Last counts as Last.
// It returns the time, in Unix nanoseconds, that Remove needs to take the units
// back.
func (w *Window) Add(now time.Time, n int) (at int64) { return w.add(now.UnixNano(), n) }

func (w *Window) add(at int64, n int) int64 {
	if n <= 0 {
		return at
	}
	w.expire(at)
	return w.insert(w.Last, n)
}

// insert counts n units at the time at, in Unix nanoseconds, and does not
// change Last. With parts, at is moved to the end of its part, which can be in
// the future: if Last moved there, older units would leave too early. It
// returns the time under which the units count.
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

// Remove takes back n units. at is the time that Add returned for them. It does
// nothing if they have left the window.
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

// expire moves Last to now, unless that is earlier, and drops the units that
// have left the window.
func (w *Window) expire(now int64) {
	w.Last = max(w.Last, now)
	for w.first < len(w.marks) && w.Last-w.marks[w.first].at >= w.Span {
		w.used -= w.marks[w.first].n
		w.first++
	}
	if w.first == len(w.marks) {
		w.marks, w.first = w.marks[:0], 0
	} else if w.first > 16 && w.first*2 > len(w.marks) {
		// This moves fewer marks than were dropped, so it is cheap. It keeps
		// the slice from growing forever.
		n := copy(w.marks, w.marks[w.first:])
		w.marks, w.first = w.marks[:n], 0
	}
}

// Wait returns the time from now until n more units fit if no others are
// admitted until then, 0 if they fit now. If n is more than Max they never fit,
// and Wait returns the whole span.
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

// Next returns the time from now until the oldest unit leaves the window, 0 if
// the window is empty.
func (w *Window) Next(now time.Time) time.Duration {
	t := now.UnixNano()
	w.expire(t)
	if w.used == 0 {
		return 0
	}
	return time.Duration(w.marks[w.first].at + w.Span - t)
}

// Append appends the units of the window to b, in the form that readWindow
// reads. Max and Span are not included.
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

// errWindow means that stored bytes are not a window.
var errWindow = errors.New("not a window")

// readWindow reads what Append has written. It returns a window with the limit
// and span passed in, which may differ from those at the time of writing, and
// the bytes that follow. It returns errWindow if b is damaged.
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
		if total += n; j <= 0 || n == 0 || n > math.MaxInt32 || total > math.MaxInt32 { // insert can add all to one mark, which must not overflow
			return w, nil, errWindow
		}
		at += delta
		w.insert(max(0, at), int(n))
		b = b[k+j:]
	}
	return w, b, nil
}

// The names of the limits of one key (docs/contract.md, section 1.6).
const (
	RequestsPerMinute = "requests_per_minute_limit"
	CallsPerDay       = "calls_per_day_limit"
	EventsPerDay      = "calendar_events_per_day_limit"
)

// The names of the limits that all keys of an owner share.
const (
	OwnerRequestsPerMinute = "owner_" + RequestsPerMinute
	OwnerCallsPerDay       = "owner_" + CallsPerDay
	OwnerEventsPerDay      = "owner_" + EventsPerDay
)

// Limit allows Max units in any span of length Window. A limit with a Window
// under an hour is short: it is counted in memory, and a stored reserve covers
// the units. A longer one is stored in the transaction of the change that the
// units pay for.
type Limit struct {
	Name   string
	Max    int
	Window time.Duration
}

// MaxLimit is the largest allowed Limit.Max.
const MaxLimit = 1_000_000_000

// Short reports whether the limit is counted in memory.
func (l Limit) Short() bool { return l.Window < time.Hour }

// LimitStatus is the state of a limit after a check.
type LimitStatus struct {
	Limit Limit
	Used  int
	Next  time.Duration // until the oldest unit no longer counts, 0 if none is used
	Wait  time.Duration // until one more unit fits, 0 if one fits now
}

// Remaining returns how many more units fit now.
func (s LimitStatus) Remaining() int { return max(0, s.Limit.Max-s.Used) }

// limitStatusOf returns the status at now of a limit that is counted in w.
func limitStatusOf(w *Window, limit Limit, now time.Time) LimitStatus {
	return LimitStatus{Limit: limit, Used: w.Used(now), Next: w.Next(now), Wait: w.Wait(now, 1)}
}

// readDurable returns the stored window of a long limit, an empty one if none
// is stored.
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

// counterKey returns the key under which a limit of an id is stored.
func counterKey(id, limit string) []byte { return []byte(id + "\x00" + limit) }
