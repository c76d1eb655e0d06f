package main

import (
	"cmp"
	"encoding/binary"
	"errors"
	"slices"
	"time"
)

// Tally counts requests by their outcome, in the order of Outcomes.
type Tally [6]uint64

// Outcomes names what a Tally counts: answers under 400, 4xx other than the
// next three, 401, 403, 429, and 5xx.
func Outcomes() []string {
	return []string{"ok", "client_error", "unauthorized", "forbidden", "rate_limited", "server_error"}
}

// OutcomeOf gives the place in a Tally of an answer with a status.
func OutcomeOf(status int) int {
	switch {
	case status < 400:
		return 0
	case status == 401:
		return 2
	case status == 403:
		return 3
	case status == 429:
		return 4
	case status >= 500:
		return 5
	}
	return 1
}

// Total counts all requests.
func (t Tally) Total() (n uint64) {
	for _, count := range t {
		n += count
	}
	return n
}

// Refused counts the requests that a check stopped: 401, 403 and 429.
func (t Tally) Refused() uint64 { return t[2] + t[3] + t[4] }

// Add adds another tally.
func (t *Tally) Add(other Tally) {
	for i, n := range other {
		t[i] += n
	}
}

// Step is how long the parts of a history are, in seconds.
type Step int64

// The steps, in UTC: hours are kept for a week, days for 90 days.
const (
	StepHour Step = 60 * 60
	StepDay  Step = 24 * 60 * 60
)

// Kept is how many steps are kept.
func (s Step) Kept() int {
	if s == StepDay {
		return 90
	}
	return 7 * 24
}

// Number gives the step that a time is in, counted from 1970.
func (s Step) Number(at time.Time) int64 { return at.Unix() / int64(s) }

// Bucket is what was counted in one step.
type Bucket struct {
	Start time.Time
	Tally Tally
}

// Period is a part of a history: a number of steps up to the one that a time is
// in.
type Period struct {
	Step Step
	Last int
	Now  time.Time
}

// From is when the period begins.
func (s Period) From() time.Time { return s.start(s.Step.Number(s.Now) - int64(s.Last) + 1) }

// To is when it ends, which is after Now.
func (s Period) To() time.Time { return s.start(s.Step.Number(s.Now) + 1) }

func (s Period) start(n int64) time.Time { return time.Unix(n*int64(s.Step), 0).UTC() }

// Slot is a bucket by its number.
type Slot struct {
	At    int64
	Tally Tally
}

// Ring is what is stored of a subject: its last hours and days. Each number
// has one place, so that there are never more than are kept, and a wall clock
// that steps far ahead and back takes the place of what it hits alone.
type Ring struct{ hours, days []Slot }

func (r *Ring) slots(step Step) *[]Slot {
	if step == StepDay {
		return &r.days
	}
	return &r.hours
}

// Add counts what happened in an hour.
func (r *Ring) Add(s Slot) {
	const hours = int64(StepDay / StepHour)
	r.place(StepHour, s)
	r.place(StepDay, Slot{s.At / hours, s.Tally})
}

func (r *Ring) place(step Step, s Slot) {
	list, kept := r.slots(step), int64(step.Kept())
	i, found := slices.BinarySearchFunc(*list, s.At, func(a Slot, at int64) int { return cmp.Compare(a.At, at) })
	if found {
		(*list)[i].Tally.Add(s.Tally)
		return
	}
	if old := slices.IndexFunc(*list, func(a Slot) bool { return a.At%kept == s.At%kept }); old >= 0 {
		*list = slices.Delete(*list, old, old+1)
		if old < i {
			i--
		}
	}
	*list = slices.Insert(*list, i, s)
}

// Within gives the buckets of a span that have anything.
func (r *Ring) Within(span Period) []Bucket {
	last := span.Step.Number(span.Now)
	list := []Bucket{}
	for _, s := range *r.slots(span.Step) {
		if s.At > last-int64(span.Last) && s.At <= last {
			list = append(list, Bucket{span.start(s.At), s.Tally})
		}
	}
	return list
}

// ringVersion opens a stored ring.
const ringVersion = 1

// Append writes the ring: for each slot the distance to the one before, the
// outcomes that have anything as bits, and their counts.
func (r *Ring) Append(b []byte) []byte {
	b = append(b, ringVersion)
	for _, list := range [][]Slot{r.hours, r.days} {
		b = binary.AppendUvarint(b, uint64(len(list)))
		before := int64(0)
		for _, s := range list {
			b = binary.AppendVarint(b, s.At-before)
			before = s.At
			mask := len(b)
			b = append(b, 0)
			for i, n := range s.Tally {
				if n > 0 {
					b[mask] |= 1 << i
					b = binary.AppendUvarint(b, n)
				}
			}
		}
	}
	return b
}

var errRing = errors.New("the usage history is not readable")

// ReadRing reads what Append writes; it is an error where it cannot.
func ReadRing(b []byte) (r Ring, err error) {
	if len(b) == 0 || b[0] != ringVersion {
		return r, errRing
	}
	b = b[1:]
	number := func() (n uint64) {
		n, k := binary.Uvarint(b)
		if k <= 0 {
			err, k = errRing, 0
		}
		b = b[k:]
		return n
	}
	for _, step := range []Step{StepHour, StepDay} {
		count, at := number(), int64(0)
		if count > uint64(step.Kept()) {
			return Ring{}, errRing
		}
		for range count {
			n := number()
			at += int64(n>>1) ^ -int64(n&1) // zigzag, as AppendVarint writes it
			s := Slot{At: at}
			if err != nil || len(b) == 0 {
				return Ring{}, errRing
			}
			mask := b[0]
			b = b[1:]
			for i := range s.Tally {
				if mask&(1<<i) != 0 {
					s.Tally[i] = number()
				}
			}
			*r.slots(step) = append(*r.slots(step), s)
		}
	}
	return r, err
}
