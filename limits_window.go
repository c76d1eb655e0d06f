package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"
)

// exactMax is the largest Max for which a Window remembers the exact time of each unit. For a larger
// Max it divides time into parts and counts the units of each part.
const exactMax = 1000

// parts is the number of parts in a window with a Max above exactMax. A unit counts until its whole
// part has left the window. So it counts up to 1/1024 of the window too long, but never too short,
// and any period as long as the window still has at most Max units.
const parts = 1024

// Window counts the units that were admitted in the last Span. With it a limiter can ensure that any
// period of that length has at most Max units. All times are service time. A Window is not safe for
// concurrent use. Create one with NewWindow; the zero Window is not usable.
type Window struct {
	Max   int
	Span  int64   // nanoseconds
	width int64   // length of a part in nanoseconds; 0 if there are no parts
	marks []entry // oldest first
	first int     // index of the oldest entry in marks that still counts
	used  int     // units that still count
	Last  int64   // latest time passed to a method, in Unix nanoseconds; it never decreases
}

// entry is a number of units at one time, or in one part of the window.
type entry struct {
	at int64 // Unix nanoseconds; the last nanosecond of a part
	n  int   // units
}

// NewWindow returns an empty window with Max limit and this span.
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

// Resize returns a window with this limit and span that has the same units as w.
func (w *Window) Resize(limit int, span time.Duration) Window {
	n := NewWindow(limit, span)
	for _, m := range w.marks[w.first:] {
		n.insert(m.at, m.n)
	}
	n.Last = w.Last
	return n
}

// Used returns the number of units that count at now.
func (w *Window) Used(now time.Time) int {
	w.expire(now.UnixNano())
	return w.used
}

// Add counts n units at now, or at Last if that is later. It does not check Max. It returns the time
// under which the units count, in Unix nanoseconds, for Remove.
func (w *Window) Add(now time.Time, n int) (at int64) { return w.add(now.UnixNano(), n) }

// add is Add with a time in Unix nanoseconds.
func (w *Window) add(at int64, n int) int64 {
	if n <= 0 {
		return at
	}
	w.expire(at)
	return w.insert(w.Last, n)
}

// insert counts n units at the time at, in Unix nanoseconds, and returns the time under which they
// count. With parts this is the end of the part, which can be in the future. Therefore insert does
// not change Last: otherwise older units would leave the window too early.
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

// Remove takes back n units. at is the time that Add returned for them. It does nothing if the units
// have left the window.
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

// expire sets Last to now, in Unix nanoseconds, unless now is earlier. It removes the units that
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
		// Without this the slice would grow forever. It moves fewer entries than were removed since
		// the last time, so it is cheap.
		n := copy(w.marks, w.marks[w.first:])
		w.marks, w.first = w.marks[:n], 0
	}
}

// Wait returns how long after now n more units can be admitted, if no others are admitted before. It
// returns 0 if they can be admitted now. If n is more than Max they can never be admitted, and Wait
// returns the whole span.
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

// Next returns how long after now the oldest unit leaves the window. It returns 0 if the window is
// empty.
func (w *Window) Next(now time.Time) time.Duration {
	t := now.UnixNano()
	w.expire(t)
	if w.used == 0 {
		return 0
	}
	return time.Duration(w.marks[w.first].at + w.Span - t)
}

// Append appends the units of the window to b, in the form that readWindow reads, and returns the
// result. It does not include Max and Span.
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

// errWindow means that stored bytes are not a window as Append writes it.
var errWindow = errors.New("the stored count is damaged")

// readWindow decodes a window that Append has written at the beginning of b. limit and span may
// differ from those of the written window. It returns the bytes after the window too. It returns
// errWindow if b is damaged.
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
		if total += n; j <= 0 || n == 0 || n > math.MaxInt32 || total > math.MaxInt32 { // insert can add all units to one entry, which must not overflow
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

// Limit allows Max units in any period as long as Window. If Window is 0, it allows Max requests in
// flight instead (see Concurrent). A limit with a Window under an hour is
// called short, any other limit long. The units of a short limit are counted in memory and covered
// by a stored reserve (see counter). Each unit of a long limit is stored in the transaction of the
// change for which it is charged.
type Limit struct {
	Name   string
	Max    int
	Window time.Duration
}

// MaxLimit is the largest allowed Limit.Max.
const MaxLimit = 1_000_000_000

// Short reports whether the limit is counted in memory, which is so if its Window is under an hour.
func (l Limit) Short() bool { return l.Window < time.Hour }

// Concurrent reports whether the limit counts requests in flight, from their start to their end,
// and not units in a window.
func (l Limit) Concurrent() bool { return l.Window == 0 }

// Kind returns "concurrent" for a limit on requests in flight, and "window" for any other limit.
func (l Limit) Kind() string {
	if l.Concurrent() {
		return "concurrent"
	}
	return "window"
}

// LimitStatus is the state of a limit after a check.
type LimitStatus struct {
	Limit Limit
	Used  int           // units that count now
	Next  time.Duration // until the oldest unit no longer counts; 0 if none is used
	Wait  time.Duration // until one more unit can be admitted; 0 if this is possible now
}

// ResetsAt returns the time at which the first used units become free again, in whole seconds
// rounded up. now is the time of the status. It returns the zero time if no unit is used, and for a
// limit on requests in flight, because nobody knows when a request ends.
func (s LimitStatus) ResetsAt(now time.Time) time.Time {
	if s.Used == 0 || s.Limit.Concurrent() {
		return time.Time{}
	}
	return now.Add(s.Next + time.Second - 1)
}

// Remaining returns how many more units can be admitted now.
func (s LimitStatus) Remaining() int { return max(0, s.Limit.Max-s.Used) }

// limitStatusOf returns the status at now of a limit whose units w counts.
func limitStatusOf(w *Window, limit Limit, now time.Time) LimitStatus {
	return LimitStatus{Limit: limit, Used: w.Used(now), Next: w.Next(now), Wait: w.Wait(now, 1)}
}

// readDurable returns the stored window of a long limit, or an empty window if none is stored.
func (l *Limiter) readDurable(tx *Tx, id string, limit Limit) (Window, error) {
	value, err := tx.Get("quotas", counterKey(id, limit.Name))
	limit = l.counted(limit)
	if err != nil || value == nil {
		return NewWindow(limit.Max, limit.Window), err
	}
	w, _, err := readWindow(value, limit.Max, limit.Window)
	if err != nil {
		return w, fmt.Errorf("read limit %s of %s: %w", limit.Name, id, err)
	}
	return w, nil
}

// counterKey returns the store key for the count of the limit with this name for an id.
func counterKey(id, limit string) []byte { return []byte(id + "\x00" + limit) }
