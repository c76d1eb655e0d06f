package main

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"maps"
	"slices"
	"sync"
	"time"
)

// The kinds of what a history is kept of: the service as a whole, each key by
// its id, each route by its pattern, and each reason for a refusal by its code.
const (
	ofService = 't'
	ofKey     = 'k'
	ofRoute   = 'r'
	ofCode    = 'c'
)

// subject is what a history is of.
type subject struct {
	Kind byte
	Name string // "" of the service
}

func (s subject) key() []byte { return append([]byte{s.Kind}, s.Name...) }

// History counts the requests of the API by key, route and reason of refusal,
// in hours and days. It counts in memory and stores with each Flush: a crash
// loses what was counted since the one before. It is safe for concurrent use.
type History struct {
	store    *Store
	seed     maphash.Seed
	shards   [64]tallies
	flushing sync.RWMutex // written with it while counts are on their way to disk
	swept    []byte       // where the next Sweep begins
}

// tallies are the counts of some keys since the last Flush, and of the routes
// and reasons of the requests that came with them.
type tallies struct {
	mu                  sync.Mutex
	keys, routes, codes map[string]*recent
	limited             map[string]time.Time // when a key was last refused for a limit
	_                   [24]byte             // a cache line each
}

func (t *tallies) clear() {
	t.keys, t.routes, t.codes = map[string]*recent{}, map[string]*recent{}, map[string]*recent{}
}

// recent is what one subject has had since the last Flush.
type recent struct {
	Slot         // of the hour that was counted last
	older []Slot // of hours before it, where it changed meanwhile
}

// NewHistory keeps the histories in a store.
func NewHistory(store *Store) *History {
	h := &History{store: store, seed: maphash.MakeSeed()}
	for i := range h.shards {
		h.shards[i].clear()
		h.shards[i].limited = map[string]time.Time{}
	}
	return h
}

// Note counts an answered request: whose key it had, "" for none, its route,
// and the code of the refusal, "" for none. It takes no memory but for the
// first of a subject since the last Flush.
func (h *History) Note(key, route, code string, status int, at time.Time) {
	spread := uint64(at.UnixNano()) >> 10 // without a key no shard is better than another
	if key != "" {
		spread = maphash.String(h.seed, key)
	}
	hour, outcome := stepHour.Number(at), classOf(status)
	s := &h.shards[spread%uint64(len(h.shards))]
	s.mu.Lock()
	if key != "" {
		count(s.keys, key, hour, outcome)
		if status == 429 {
			s.limited[key] = at
		}
	}
	count(s.routes, route, hour, outcome)
	if code != "" {
		count(s.codes, code, hour, outcome)
	}
	s.mu.Unlock()
}

func count(in map[string]*recent, name string, hour int64, outcome int) {
	r := in[name]
	if r == nil {
		r = &recent{Slot: Slot{At: hour}}
		in[name] = r
	}
	if r.At != hour {
		r.older = append(r.older, r.Slot)
		r.Slot = Slot{At: hour}
	}
	r.Tally[outcome]++
}

// collect adds up what is in memory of the subjects that want picks, and with
// take takes it away. The service is the sum of the routes.
func (h *History) collect(want func(subject) bool, take bool) map[subject][]Slot {
	all := map[subject][]Slot{}
	for i := range h.shards {
		s := &h.shards[i]
		s.mu.Lock()
		for kind, in := range map[byte]map[string]*recent{ofKey: s.keys, ofRoute: s.routes, ofCode: s.codes, ofService: s.routes} {
			for name, r := range in {
				subject := subject{kind, name}
				if kind == ofService {
					subject.Name = ""
				}
				if want(subject) {
					all[subject] = append(append(all[subject], r.older...), r.Slot)
				}
			}
		}
		if take && len(s.routes) > 0 {
			s.clear()
		}
		s.mu.Unlock()
	}
	return all
}

// usageBucket holds the rings by kind and name.
const usageBucket = "usage_history"

// flushPart is how many subjects one transaction stores: requests that store
// something wait for it.
const flushPart = 2000

// Flush stores what was counted since the one before. A stored history that
// cannot be read is begun anew, and told of as an error.
func (h *History) Flush() error {
	h.flushing.Lock()
	defer h.flushing.Unlock()
	counts := h.collect(func(subject) bool { return true }, true)
	subjects := make([]subject, 0, len(counts))
	for s := range counts {
		subjects = append(subjects, s)
	}
	slices.SortFunc(subjects, func(a, b subject) int { return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name)) })
	var damaged error
	for part := range slices.Chunk(subjects, flushPart) {
		var bad error
		err := h.store.Update(func(tx *Tx) error {
			bad = nil
			for _, s := range part {
				r, err := h.stored(tx, s)
				bad = errors.Join(bad, err)
				for _, slot := range counts[s] {
					r.Add(slot)
				}
				if err := tx.Put(usageBucket, s.key(), r.Append(nil)); err != nil {
					return err
				}
			}
			return nil
		})
		if damaged = errors.Join(damaged, bad); err != nil {
			return errors.Join(damaged, err)
		}
	}
	return damaged
}

// stored reads the ring of a subject, an empty one where there is none or it
// cannot be read.
func (h *History) stored(tx *Tx, s subject) (ring, error) {
	value, err := tx.Get(usageBucket, s.key())
	if err != nil || value == nil {
		return ring{}, err
	}
	r, err := readRing(value)
	if err != nil {
		return ring{}, fmt.Errorf("usage of %q: %w", s.key(), err)
	}
	return r, nil
}

// Of gives the buckets of a subject in a span that have anything, oldest
// first, up to the last request. It must not be called inside a transaction.
func (h *History) Of(s subject, span period) ([]bucket, error) {
	h.flushing.RLock()
	defer h.flushing.RUnlock()
	var r ring
	err := h.store.View(func(tx *Tx) (err error) {
		r, err = h.stored(tx, s)
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, slot := range h.recently(s) {
		r.Add(slot)
	}
	return r.Within(span), nil
}

// LimitedAt tells when a key was last refused for a limit, the zero time for
// not in limitedSpan, or not in this run of the program.
func (h *History) LimitedAt(key string) time.Time {
	t := &h.shards[maphash.String(h.seed, key)%uint64(len(h.shards))]
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.limited[key]
}

// limitedSpan is how long it is known that a limit refused a key.
const limitedSpan = 5 * time.Minute

// forget drops what LimitedAt need not know any more.
func (h *History) forget(now time.Time) {
	for i := range h.shards {
		t := &h.shards[i]
		t.mu.Lock()
		maps.DeleteFunc(t.limited, func(_ string, at time.Time) bool { return now.Sub(at) > limitedSpan })
		t.mu.Unlock()
	}
}

// recently gives what is in memory of one subject.
func (h *History) recently(s subject) []Slot {
	if s.Kind != ofKey {
		return h.collect(func(other subject) bool { return other == s }, false)[s]
	}
	t := &h.shards[maphash.String(h.seed, s.Name)%uint64(len(h.shards))]
	t.mu.Lock()
	defer t.mu.Unlock()
	if r := t.keys[s.Name]; r != nil {
		return append(slices.Clone(r.older), r.Slot)
	}
	return nil
}

// All visits the subjects of a kind that have anything in a span, in the order
// of their names, until visit gives an error, and gives that one. It must not
// be called inside a transaction.
func (h *History) All(kind byte, span period, visit func(name string, list []bucket) error) error {
	h.flushing.RLock()
	defer h.flushing.RUnlock()
	recent := h.collect(func(s subject) bool { return s.Kind == kind }, false)
	only := []string{} // in memory alone, so far
	for s := range recent {
		only = append(only, s.Name)
	}
	slices.Sort(only)
	one := func(name string, r ring) error {
		for _, slot := range recent[subject{kind, name}] {
			r.Add(slot)
		}
		if list := r.Within(span); len(list) > 0 {
			return visit(name, list)
		}
		return nil
	}
	return h.store.View(func(tx *Tx) error {
		for key, raw := range tx.Range(usageBucket, []byte{kind}) {
			name := string(key[1:])
			for len(only) > 0 && only[0] < name {
				if err := one(only[0], ring{}); err != nil {
					return err
				}
				only = only[1:]
			}
			if len(only) > 0 && only[0] == name {
				only = only[1:]
			}
			value, err := Unseal(usageBucket, key, raw)
			if err != nil {
				return err
			}
			r, err := readRing(value)
			if err == nil {
				err = one(name, r)
			}
			if err != nil {
				return err
			}
		}
		for _, name := range only {
			if err := one(name, ring{}); err != nil {
				return err
			}
		}
		return nil
	})
}

// Sweep forgets histories in which nothing is left that Of would give, of
// revoked keys among them. It looks at 1000 of them, and is to be called about
// once a minute.
func (h *History) Sweep(now time.Time) error {
	h.forget(now)
	h.flushing.Lock() // none may be stored between the look and the end
	defer h.flushing.Unlock()
	var over [][]byte
	seen, from := 0, h.swept
	h.swept = nil
	err := h.store.View(func(tx *Tx) error {
		for key, raw := range tx.RangeFrom(usageBucket, from) {
			if seen++; seen > maxSwept {
				h.swept = append([]byte(nil), key...)
				return nil
			}
			value, err := Unseal(usageBucket, key, raw)
			if err != nil {
				return err
			}
			r, err := readRing(value)
			if err == nil && len(r.Within(period{stepHour, stepHour.Kept(), now}))+len(r.Within(period{StepDay, StepDay.Kept(), now})) == 0 {
				over = append(over, append([]byte(nil), key...))
			}
		}
		return nil
	})
	if err != nil || len(over) == 0 {
		return err
	}
	return h.store.Update(func(tx *Tx) error {
		for _, key := range over {
			if err := tx.Delete(usageBucket, key); err != nil {
				return err
			}
		}
		return nil
	})
}

const maxSwept = 1000

// Counts counts requests by their outcome, in the order of StatusClasses.
type Counts [6]uint64

// StatusClasses names what a Counts counts: answers under 400, 4xx other than the
// next three, 401, 403, 429, and 5xx.
func StatusClasses() []string {
	return []string{"ok", "client_error", "unauthorized", "forbidden", "rate_limited", "server_error"}
}

// classOf gives the place in a Counts of an answer with a status.
func classOf(status int) int {
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
func (t Counts) Total() (n uint64) {
	for _, count := range t {
		n += count
	}
	return n
}

// Refused counts the requests that a check stopped: 401, 403 and 429.
func (t Counts) Refused() uint64 { return t[2] + t[3] + t[4] }

// Add adds another tally.
func (t *Counts) Add(other Counts) {
	for i, n := range other {
		t[i] += n
	}
}

// Step is how long the parts of a history are, in seconds.
type Step int64

// The steps, in UTC: hours are kept for a week, days for 90 days.
const (
	stepHour Step = 60 * 60
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

// bucket is what was counted in one step.
type bucket struct {
	Start time.Time
	Tally Counts
}

// period is a part of a history: a number of steps up to the one that a time is
// in.
type period struct {
	Step Step
	Last int
	Now  time.Time
}

// From is when the period begins.
func (s period) From() time.Time { return s.start(s.Step.Number(s.Now) - int64(s.Last) + 1) }

// To is when it ends, which is after Now.
func (s period) To() time.Time { return s.start(s.Step.Number(s.Now) + 1) }

func (s period) start(n int64) time.Time { return time.Unix(n*int64(s.Step), 0).UTC() }

// Slot is a bucket by its number.
type Slot struct {
	At    int64
	Tally Counts
}

// ring is what is stored of a subject: its last hours and days. Each number
// has one place, so that there are never more than are kept, and a wall clock
// that steps far ahead and back takes the place of what it hits alone.
type ring struct{ hours, days []Slot }

func (r *ring) slots(step Step) *[]Slot {
	if step == StepDay {
		return &r.days
	}
	return &r.hours
}

// Add counts what happened in an hour.
func (r *ring) Add(s Slot) {
	const hours = int64(StepDay / stepHour)
	r.place(stepHour, s)
	r.place(StepDay, Slot{s.At / hours, s.Tally})
}

func (r *ring) place(step Step, s Slot) {
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
func (r *ring) Within(span period) []bucket {
	last := span.Step.Number(span.Now)
	list := []bucket{}
	for _, s := range *r.slots(span.Step) {
		if s.At > last-int64(span.Last) && s.At <= last {
			list = append(list, bucket{span.start(s.At), s.Tally})
		}
	}
	return list
}

// ringVersion opens a stored ring.
const ringVersion = 1

// Append writes the ring: for each slot the distance to the one before, the
// outcomes that have anything as bits, and their counts.
func (r *ring) Append(b []byte) []byte {
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

// readRing reads what Append writes; it is an error where it cannot.
func readRing(b []byte) (r ring, err error) {
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
	for _, step := range []Step{stepHour, StepDay} {
		count, at := number(), int64(0)
		if count > uint64(step.Kept()) {
			return ring{}, errRing
		}
		for range count {
			n := number()
			at += int64(n>>1) ^ -int64(n&1) // zigzag, as AppendVarint writes it
			s := Slot{At: at}
			if err != nil || len(b) == 0 {
				return ring{}, errRing
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
