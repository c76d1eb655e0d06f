package main

import (
	"cmp"
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
	OfService = 't'
	OfKey     = 'k'
	OfRoute   = 'r'
	OfCode    = 'c'
)

// Subject is what a history is of.
type Subject struct {
	Kind byte
	Name string // "" of the service
}

func (s Subject) key() []byte { return append([]byte{s.Kind}, s.Name...) }

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
	hour, outcome := StepHour.Number(at), OutcomeOf(status)
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
func (h *History) collect(want func(Subject) bool, take bool) map[Subject][]Slot {
	all := map[Subject][]Slot{}
	for i := range h.shards {
		s := &h.shards[i]
		s.mu.Lock()
		for kind, in := range map[byte]map[string]*recent{OfKey: s.keys, OfRoute: s.routes, OfCode: s.codes, OfService: s.routes} {
			for name, r := range in {
				subject := Subject{kind, name}
				if kind == OfService {
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
	counts := h.collect(func(Subject) bool { return true }, true)
	subjects := make([]Subject, 0, len(counts))
	for s := range counts {
		subjects = append(subjects, s)
	}
	slices.SortFunc(subjects, func(a, b Subject) int { return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name)) })
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
func (h *History) stored(tx *Tx, s Subject) (Ring, error) {
	value, err := tx.Get(usageBucket, s.key())
	if err != nil || value == nil {
		return Ring{}, err
	}
	r, err := ReadRing(value)
	if err != nil {
		return Ring{}, fmt.Errorf("usage of %q: %w", s.key(), err)
	}
	return r, nil
}

// Of gives the buckets of a subject in a span that have anything, oldest
// first, up to the last request. It must not be called inside a transaction.
func (h *History) Of(s Subject, span Period) ([]Bucket, error) {
	h.flushing.RLock()
	defer h.flushing.RUnlock()
	var r Ring
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
// not in LimitedSpan, or not in this run of the program.
func (h *History) LimitedAt(key string) time.Time {
	t := &h.shards[maphash.String(h.seed, key)%uint64(len(h.shards))]
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.limited[key]
}

// LimitedSpan is how long it is known that a limit refused a key.
const LimitedSpan = 5 * time.Minute

// forget drops what LimitedAt need not know any more.
func (h *History) forget(now time.Time) {
	for i := range h.shards {
		t := &h.shards[i]
		t.mu.Lock()
		maps.DeleteFunc(t.limited, func(_ string, at time.Time) bool { return now.Sub(at) > LimitedSpan })
		t.mu.Unlock()
	}
}

// recently gives what is in memory of one subject.
func (h *History) recently(s Subject) []Slot {
	if s.Kind != OfKey {
		return h.collect(func(other Subject) bool { return other == s }, false)[s]
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
func (h *History) All(kind byte, span Period, visit func(name string, list []Bucket) error) error {
	h.flushing.RLock()
	defer h.flushing.RUnlock()
	recent := h.collect(func(s Subject) bool { return s.Kind == kind }, false)
	only := []string{} // in memory alone, so far
	for s := range recent {
		only = append(only, s.Name)
	}
	slices.Sort(only)
	one := func(name string, r Ring) error {
		for _, slot := range recent[Subject{kind, name}] {
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
				if err := one(only[0], Ring{}); err != nil {
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
			r, err := ReadRing(value)
			if err == nil {
				err = one(name, r)
			}
			if err != nil {
				return err
			}
		}
		for _, name := range only {
			if err := one(name, Ring{}); err != nil {
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
			r, err := ReadRing(value)
			if err == nil && len(r.Within(Period{StepHour, StepHour.Kept(), now}))+len(r.Within(Period{StepDay, StepDay.Kept(), now})) == 0 {
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
