package main

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"latchkey/internal/sorted"
)

// The kinds of subjects whose requests are counted. They are part of database keys, so
// they must not change.
const (
	ofService = 't' // the whole service
	ofKey     = 'k' // a key
	ofRoute   = 'r' // a route
	ofCode    = 'c' // an error code
)

// subject identifies a thing whose requests are counted, such as a key.
type subject struct {
	Kind byte   // ofService, ofKey, ofRoute or ofCode
	Name string // id of the key, pattern of the route, or error code; "" for the service
}

// key returns the database key of the subject's history.
func (s subject) key() []byte { return append([]byte{s.Kind}, s.Name...) }

// History counts the requests to the API by key, route and error code, for each hour and
// each day. It counts in memory until Flush stores the counts. A crash loses the counts
// since the last Flush. History is safe for concurrent use.
type History struct {
	store    *Store
	seed     maphash.Seed
	shards   [64]tallies
	flushing sync.RWMutex           // write-locked while Flush moves counts to disk, so that readers miss no counts
	unstored map[subject][]Slot     // counts that a Flush could not store; guarded by flushing
	waiting  map[string]*askedCells // the same for what was asked of the limit per minute, by key
	cells    atomic.Int64           // number of cells in memory
	swept    []byte                 // database key at which the next Sweep begins; nil: the first key; for Sweep alone

	ranks  sync.Mutex             // guards ranked, together with flushing
	ranked map[byte]storedRanking // by kind, the latest period only
}

// tallies holds the counts of one shard since the last Flush. Each key belongs to one shard.
// Its requests are also counted there by route and by error code.
type tallies struct {
	mu                  sync.Mutex
	keys, routes, codes map[string]*recent
	limited             map[string]time.Time // when a limit last refused a key
	lastRoute           string               // route of the latest request
	last                *recent              // counts of lastRoute; nil: none
	era                 uint64               // how often clear was called
	_                   [56]byte             // padding, so that no two shards share a cache line
}

// clear resets the counts. It keeps limited.
func (t *tallies) clear() {
	t.keys, t.routes, t.codes = map[string]*recent{}, map[string]*recent{}, map[string]*recent{}
	t.last = nil
	t.era++
}

// keyTally is where the requests of a key are counted.
type keyTally struct {
	shard  *tallies
	era    uint64  // of shard when counts was found; guarded by its lock
	counts *recent // nil: not found yet; guarded by the lock of shard
}

// recent holds the counts of one subject since the last Flush.
type recent struct {
	Slot              // the hour of the latest request; At is 0 if there is none
	older []Slot      // counts before Slot; an hour may occur more than once
	asked *askedCells // of a key: what was asked of its limit per minute; nil: nothing
}

// NewHistory returns a History that stores its counts in store.
func NewHistory(store *Store) *History {
	h := &History{store: store, seed: maphash.MakeSeed()}
	for i := range h.shards {
		h.shards[i].clear()
		h.shards[i].limited = map[string]time.Time{}
	}
	return h
}

// CountedRequest is an answered request.
type CountedRequest struct {
	Key    string // id of the key; "": the request had no known key
	Route  string // pattern of the route; "": the request counts for its key alone
	Code   string // error code; "": the request was not refused
	Status int
	At     time.Time
}

// Note counts an answered request. It is called for every request, so it rarely allocates:
// only for the first request of a subject since the last Flush or in an hour, and for a
// request with status 429.
func (h *History) Note(r CountedRequest) { h.NoteBy(nil, r, Asked{}) }

// NoteBy is like Note. memo is where History remembers the counts of the key, to save looking them
// up. It must be the same one for no other key. It may be nil. asked is what the request has asked of
// the limit per minute of the key, see NoteAsked.
func (h *History) NoteBy(memo *atomic.Value, r CountedRequest, asked Asked) {
	key := r.Key
	hour, outcome := stepHour.Number(r.At), classOf(r.Status)
	// A request without a key may go to any shard.
	s, t := &h.shards[uint64(r.At.UnixNano())>>10%uint64(len(h.shards))], (*keyTally)(nil)
	if key != "" {
		s, t = h.tallyOf(memo, key)
	}
	s.mu.Lock()
	if key != "" {
		counts := s.ofKey(t, key)
		counts.add(hour, outcome)
		h.ask(counts, asked)
		if r.Status == 429 {
			s.limited[key] = r.At
		}
	}
	if r.Route != "" {
		if s.last == nil || s.lastRoute != r.Route {
			s.last, s.lastRoute = find(s.routes, r.Route), r.Route
		}
		s.last.add(hour, outcome)
		if r.Code != "" {
			find(s.codes, r.Code).add(hour, outcome)
		}
	}
	s.mu.Unlock()
}

// find returns the counts of name in the map in. It adds them if there are none.
func find(in map[string]*recent, name string) *recent {
	r := in[name]
	if r == nil {
		r = &recent{}
		in[name] = r
	}
	return r
}

// add adds one request. outcome is an index in Counts.
func (r *recent) add(hour int64, outcome int) {
	if r.At == 0 {
		r.At = hour
	}
	if r.At != hour {
		r.older = append(r.older, r.Slot)
		r.Slot = Slot{At: hour}
	}
	r.Tally[outcome]++
}

// collect returns the counts in memory of every subject for which want returns true. An
// hour may occur in several slots of a subject. The counts of the service are the counts
// of all routes. The caller must hold flushing, at least for reading.
func (h *History) collect(want func(subject) bool) map[subject][]Slot {
	all := map[subject][]Slot{}
	for i := range h.shards {
		s := &h.shards[i]
		s.mu.Lock()
		s.addTo(all, want)
		s.mu.Unlock()
	}
	for s, slots := range h.unstored {
		if want(s) {
			all[s] = append(all[s], slots...)
		}
	}
	return all
}

// takeAll is like collect for all subjects, but it also resets their counts. It also takes what was
// asked of the limits per minute of the keys. The caller must hold the write lock of flushing.
func (h *History) takeAll() (all map[subject][]Slot, asked map[string]*askedCells) {
	all, asked = h.unstored, h.waiting
	h.unstored, h.waiting = nil, nil
	if all == nil {
		all, asked = map[subject][]Slot{}, map[string]*askedCells{}
	}
	for i := range h.shards {
		s := &h.shards[i]
		s.mu.Lock()
		s.addTo(all, func(subject) bool { return true })
		for key, r := range s.keys {
			if r.asked != nil {
				asked[key] = r.asked.after(asked[key])
			}
		}
		if len(s.routes) > 0 || len(s.keys) > 0 {
			s.clear()
		}
		s.mu.Unlock()
	}
	return all, asked
}

// addTo appends to all the counts of every subject for which want returns true. The caller
// must hold the lock.
func (t *tallies) addTo(all map[subject][]Slot, want func(subject) bool) {
	for kind, in := range map[byte]map[string]*recent{ofKey: t.keys, ofRoute: t.routes, ofCode: t.codes, ofService: t.routes} {
		for name, r := range in {
			subject := subject{kind, name}
			if kind == ofService {
				subject.Name = ""
			}
			if r.At != 0 && want(subject) {
				all[subject] = append(append(all[subject], r.older...), r.Slot)
			}
		}
	}
}

// usageBucket is the database bucket with the stored histories. A key in it consists of the
// kind and the name of a subject.
const usageBucket = "usage_history"

// flushPart is the maximum number of subjects that Flush stores in one transaction. It
// limits how long other writes wait. In a cluster a transaction may have less, see Tx.Full.
const flushPart = 2000

// Flush stores the counts since the last Flush. If a stored history cannot be read, Flush
// replaces it with an empty history, stores all other counts and returns an error. If a
// transaction fails, the next Flush stores the counts that are not stored yet.
func (h *History) Flush() error {
	h.flushing.Lock()
	defer h.flushing.Unlock()
	counts, asked := h.takeAll()
	h.changed()
	subjects := make([]subject, 0, len(counts))
	for s := range counts {
		subjects = append(subjects, s)
	}
	for key := range asked {
		if s := (subject{ofKey, key}); counts[s] == nil {
			subjects = append(subjects, s)
		}
	}
	sorted.Func(subjects, func(a, b subject) int { return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name)) })
	var damaged error
	for part := range slices.Chunk(subjects, flushPart) {
		done, err := h.store.UpdateEach(Writer{}, len(part), func(tx *Tx, i int) error {
			var lost error
			if s := part[i]; s.Kind == ofKey && asked[s.Name] != nil {
				bad, err := asked[s.Name].store(tx, s.Name)
				if err != nil {
					return err
				}
				lost = bad
			}
			bad, err := h.add(tx, part[i], counts[part[i]])
			if lost = errors.Join(lost, bad); lost != nil {
				tx.After(func() { damaged = errors.Join(damaged, lost) })
			}
			return err
		})
		for _, s := range part[:done] {
			delete(counts, s)
			if s.Kind == ofKey {
				h.cells.Add(-asked[s.Name].held())
				delete(asked, s.Name)
			}
		}
		if err != nil {
			h.unstored, h.waiting = counts, asked
			return errors.Join(damaged, err)
		}
	}
	return damaged
}

// add adds counts to the stored history of a subject. damage is set if that cannot be read.
func (h *History) add(tx *Tx, s subject, counts []Slot) (damage, err error) {
	if len(counts) == 0 {
		return nil, nil
	}
	r, damage := h.stored(tx, s)
	for _, slot := range counts {
		r.Add(slot)
	}
	return damage, tx.Put(usageBucket, s.key(), r.Append(nil))
}

// stored returns the stored history of a subject. It returns an empty ring if no history is
// stored, or if there is an error.
func (h *History) stored(tx *Tx, s subject) (ring, error) {
	value, err := tx.Get(usageBucket, s.key())
	if err != nil || value == nil {
		return ring{}, err
	}
	r, err := readRing(value)
	if err != nil {
		return ring{}, fmt.Errorf("usage history %q: %w", s.key(), err)
	}
	return r, nil
}

// Of returns the buckets of a subject in a period, oldest first. They include the requests
// that are not stored yet. Empty buckets are left out. Do not call Of inside a transaction.
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

// LimitedAt returns when a limit last refused a request with this key. It returns the zero
// time if that did not happen in this run of the program, or if it happened more than
// limitedSpan ago and Forget has run since.
func (h *History) LimitedAt(key string) time.Time {
	t := &h.shards[maphash.String(h.seed, key)%uint64(len(h.shards))]
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.limited[key]
}

// Limited returns the ids of the keys that a limit has refused within limitedSpan before now.
func (h *History) Limited(now time.Time) map[string]bool {
	ids := map[string]bool{}
	for i := range h.shards {
		t := &h.shards[i]
		t.mu.Lock()
		for id, at := range t.limited {
			if now.Sub(at) <= limitedSpan {
				ids[id] = true
			}
		}
		t.mu.Unlock()
	}
	return ids
}

// limitedSpan is how long History remembers that a limit refused a key.
const limitedSpan = 5 * time.Minute

// Forget deletes the times for LimitedAt that are older than limitedSpan. Call it about once a minute.
func (h *History) Forget(now time.Time) {
	for i := range h.shards {
		t := &h.shards[i]
		t.mu.Lock()
		maps.DeleteFunc(t.limited, func(_ string, at time.Time) bool { return now.Sub(at) > limitedSpan })
		t.mu.Unlock()
	}
}

// recently returns the counts in memory of one subject. The caller may change the slice.
func (h *History) recently(s subject) []Slot {
	if s.Kind != ofKey {
		return h.collect(func(other subject) bool { return other == s })[s]
	}
	t := &h.shards[maphash.String(h.seed, s.Name)%uint64(len(h.shards))]
	t.mu.Lock()
	defer t.mu.Unlock()
	list := slices.Clone(h.unstored[s])
	if r := t.keys[s.Name]; r != nil && r.At != 0 {
		list = append(append(list, r.older...), r.Slot)
	}
	return list
}

// historyPart is the number of subjects that All reads at once.
const historyPart = 500

// subjectHistory is the buckets of a subject in a period.
type subjectHistory struct {
	name    string
	buckets []bucket
}

// All calls visit for each subject of a kind that has requests in a period. The subjects are
// sorted by the bytes of their names. All stops at the first error of visit and returns it.
// It reads historyPart subjects at once and runs visit outside of a transaction, so that a slow
// client keeps neither a transaction nor a Flush waiting. Do not call All inside a transaction.
func (h *History) All(kind byte, span period, visit func(name string, list []bucket) error) error {
	p := historyReader{history: h, kind: kind, span: span, from: []byte{kind}, fresh: h.freshNames(kind)}
	for p.from != nil {
		part, err := p.next()
		for _, s := range part {
			if err := visit(s.name, s.buckets); err != nil {
				return err
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// freshNames returns the sorted names of the subjects of a kind that have counts in memory.
func (h *History) freshNames(kind byte) (names []string) {
	h.flushing.RLock()
	defer h.flushing.RUnlock()
	for s := range h.collect(func(s subject) bool { return s.Kind == kind }) {
		names = append(names, s.Name)
	}
	slices.Sort(names)
	return names
}

// historyReader reads the histories of a kind in parts.
type historyReader struct {
	history *History
	kind    byte
	span    period
	from    []byte   // where the next part begins in usageBucket; nil after the last part
	fresh   []string // names with counts in memory that were not reached; some may be stored meanwhile
	part    []subjectHistory
	read    int // number of subjects that were read for the part
}

// next returns the next part. With an error it returns what comes before it.
func (p *historyReader) next() ([]subjectHistory, error) {
	p.history.flushing.RLock()
	defer p.history.flushing.RUnlock()
	p.part, p.read = nil, 0
	err := p.history.store.View(p.fill)
	return p.part, err
}

// fill reads a part.
func (p *historyReader) fill(tx *Tx) error {
	for key, raw := range tx.RangeFrom(usageBucket, p.from) {
		if key[0] != p.kind {
			break
		}
		name := string(key[1:])
		p.addFresh(func(fresh string) bool { return fresh < name })
		if p.read >= historyPart {
			p.from = bytes.Clone(key)
			return nil
		}
		if len(p.fresh) > 0 && p.fresh[0] == name {
			p.fresh = p.fresh[1:]
		}
		value, err := Unseal(usageBucket, key, raw)
		if err != nil {
			return err
		}
		r, err := readRing(value)
		if err != nil {
			return err
		}
		p.add(name, r)
	}
	p.addFresh(func(string) bool { return true })
	if p.from = nil; len(p.fresh) > 0 {
		p.from = []byte{p.kind + 1} // after all that are stored
	}
	return nil
}

// addFresh adds the next subjects that are only in memory while before returns true for their names.
func (p *historyReader) addFresh(before func(name string) bool) {
	for len(p.fresh) > 0 && p.read < historyPart && before(p.fresh[0]) {
		p.add(p.fresh[0], ring{})
		p.fresh = p.fresh[1:]
	}
}

// add adds a subject to the part. r is what is stored of it.
func (p *historyReader) add(name string, r ring) {
	p.read++
	for _, slot := range p.history.recently(subject{p.kind, name}) {
		r.Add(slot)
	}
	if list := r.Within(p.span); len(list) > 0 {
		p.part = append(p.part, subjectHistory{name, list})
	}
}

// used holds the sum of the requests of one subject in a period.
type used struct {
	name string // the Name of the subject
	sum  Counts
}

// byRequests compares subjects. Those with the most requests are first.
func byRequests(a, b used) int {
	return cmp.Or(cmp.Compare(b.sum.Total(), a.sum.Total()), cmp.Compare(a.name, b.name))
}

// ranking is the subjects of a kind that have requests in a period. Those with the most requests are
// first.
type ranking struct {
	Count  int             // number of the subjects
	stored []used          // as they are stored; do not change it
	recent []used          // those with counts in memory
	again  map[string]bool // names in both; they do not count in stored
}

// Part returns the subjects at some positions.
func (r ranking) Part(from, to int) (part []used) {
	stored, recent := r.stored, r.recent
	for i := 0; i < to; i++ {
		for len(stored) > 0 && len(r.again) > 0 && r.again[stored[0].name] {
			stored = stored[1:]
		}
		next := &stored
		if len(stored) == 0 || len(recent) > 0 && byRequests(recent[0], stored[0]) < 0 {
			next = &recent
		}
		if i >= from {
			part = append(part, (*next)[0])
		}
		*next = (*next)[1:]
	}
	return part
}

// storedRanking is the stored part of a ranking.
type storedRanking struct {
	span period // its Now is the end of the period
	at   uint64 // Store.Generation of usageBucket: other nodes of a cluster write to it as well
	list []used
}

// Ranked returns the subjects of a kind that have requests in a period. What is stored is read only
// once between two calls of Flush or Sweep, on any node of a cluster, for the same period. Do not call Ranked inside a
// transaction.
func (h *History) Ranked(kind byte, span period) (r ranking, err error) {
	h.flushing.RLock()
	defer h.flushing.RUnlock()
	recent := h.collect(func(s subject) bool { return s.Kind == kind })
	r.again = map[string]bool{}
	err = h.store.View(func(tx *Tx) error {
		if r.stored, err = h.rankStored(tx, kind, span); err != nil {
			return err
		}
		for s, slots := range recent {
			all, err := h.stored(tx, s)
			if err != nil {
				return err
			}
			r.again[s.Name] = len(all.Within(span)) > 0
			for _, slot := range slots {
				all.Add(slot)
			}
			if list := all.Within(span); len(list) > 0 {
				r.recent = append(r.recent, used{s.Name, sumOf(list)})
			}
		}
		return nil
	})
	maps.DeleteFunc(r.again, func(_ string, stored bool) bool { return !stored })
	sorted.Func(r.recent, byRequests)
	r.Count = len(r.stored) - len(r.again) + len(r.recent)
	return r, err
}

// rankStored returns the stored sums of the subjects of a kind that have requests in a period. The
// caller must hold flushing for reading, and must not change the result.
func (h *History) rankStored(tx *Tx, kind byte, span period) (list []used, err error) {
	h.ranks.Lock()
	defer h.ranks.Unlock()
	span.Now = span.To()
	at := h.store.Generation(usageBucket).Load()
	if r, ok := h.ranked[kind]; ok && r.span == span && r.at == at {
		return r.list, nil
	}
	within := span
	within.Now = span.Now.Add(-time.Second)
	for key, raw := range tx.Range(usageBucket, []byte{kind}) {
		value, err := Unseal(usageBucket, key, raw)
		if err != nil {
			return nil, err
		}
		sum, some, err := sumRing(value, within)
		if err != nil {
			return nil, err
		}
		if some {
			list = append(list, used{string(key[1:]), sum})
		}
		tx.Yield(len(raw))
	}
	sorted.Func(list, byRequests)
	if h.ranked == nil {
		h.ranked = map[byte]storedRanking{}
	}
	h.ranked[kind] = storedRanking{span, at, list}
	return list, nil
}

// changed forgets what rankStored keeps. The caller must hold flushing for writing.
func (h *History) changed() { h.ranked = nil }

// Sweep deletes each stored history whose requests are all older than the kept hours and
// days. One call reads up to maxSwept histories, and the next call continues after them.
// Call it about once a minute.
func (h *History) Sweep(now time.Time) error {
	var over [][]byte
	seen, from := 0, h.swept
	h.swept = nil
	err := h.store.View(func(tx *Tx) error {
		for key, raw := range tx.RangeFrom(usageBucket, from) {
			if seen++; seen > maxSwept {
				h.swept = bytes.Clone(key)
				return nil
			}
			value, err := Unseal(usageBucket, key, raw)
			if err != nil {
				return err
			}
			if r, err := readRing(value); err == nil && r.over(now) {
				over = append(over, bytes.Clone(key))
			}
		}
		return nil
	})
	if err != nil || len(over) == 0 {
		return err
	}
	h.flushing.Lock()
	defer h.flushing.Unlock()
	h.changed()
	return h.store.Update(func(tx *Tx) error {
		for _, key := range over {
			// This node or another one may have added to the history since it was read.
			r, err := h.stored(tx, subject{key[0], string(key[1:])})
			if err == nil && r.over(now) {
				err = tx.Delete(usageBucket, key)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// maxSwept is the maximum number of histories that one Sweep reads.
const maxSwept = 1000

// Counts holds the number of requests for each class of status. The index is the index in
// StatusClasses.
type Counts [6]uint64

// StatusClasses returns the names of the classes of status, in the order of Counts. The
// classes are: below 400, 4xx without the next three classes, 401, 403, 429, and 500 or
// above.
func StatusClasses() []string {
	return []string{"ok", "client_error", "unauthorized", "forbidden", "rate_limited", "server_error"}
}

// classOf returns the index in Counts for an HTTP status.
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

// Total returns the sum of all numbers.
func (t Counts) Total() (n uint64) {
	for _, count := range t {
		n += count
	}
	return n
}

// Refused returns the number of requests with status 401, 403 or 429.
func (t Counts) Refused() uint64 { return t[2] + t[3] + t[4] }

// Add adds the numbers of other to t.
func (t *Counts) Add(other Counts) {
	for i, n := range other {
		t[i] += n
	}
}

// Step is the length of one bucket of a history, in seconds.
type Step int64

// The lengths of buckets. Steps begin at full hours and days in UTC. Hours are kept for a
// week, days for 90 days.
const (
	stepHour Step = 60 * 60
	StepDay  Step = 24 * 60 * 60
)

// Kept returns how many buckets of this length are kept.
func (s Step) Kept() int {
	if s == StepDay {
		return 90
	}
	return 7 * 24
}

// Number returns the number of the step that contains a time. Step 0 begins at the start of
// 1970.
func (s Step) Number(at time.Time) int64 { return at.Unix() / int64(s) }

// bucket holds the counts of one hour or one day.
type bucket struct {
	Start time.Time // UTC
	Tally Counts
}

// period is a span of time that ends with the step which contains Now.
type period struct {
	Step Step
	Last int // length of the period, in steps
	Now  time.Time
}

// From returns the time at which the period begins.
func (s period) From() time.Time { return s.start(s.Step.Number(s.Now) - int64(s.Last) + 1) }

// To returns the time at which the period ends. It is after Now.
func (s period) To() time.Time { return s.start(s.Step.Number(s.Now) + 1) }

// start returns the time at which step n begins.
func (s period) start(n int64) time.Time { return time.Unix(n*int64(s.Step), 0).UTC() }

// Slot holds the counts of one hour or one day.
type Slot struct {
	At    int64 // number of the step; see Step.Number
	Tally Counts
}

// ring is the stored history of a key or a route: its counts in each of the last hours and days.
// It is a ring buffer: the counts of an hour or a day overwrite the oldest ones. If the wall clock
// jumps far ahead and back, only the counts that were overwritten in the meantime are lost.
type ring struct{ hours, days []Slot } // each sorted by At

func (r *ring) slots(step Step) *[]Slot {
	if step == StepDay {
		return &r.days
	}
	return &r.hours
}

// Add adds the counts of one hour to the ring: to the hour and to the day that contains it.
func (r *ring) Add(s Slot) {
	const hours = int64(StepDay / stepHour)
	r.place(stepHour, s)
	r.place(StepDay, Slot{s.At / hours, s.Tally})
}

// place adds s to the hours or the days. It deletes another step at the same place.
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

// over reports whether all requests are older than the kept hours and days.
func (r *ring) over(now time.Time) bool {
	return len(r.Within(period{stepHour, stepHour.Kept(), now}))+len(r.Within(period{StepDay, StepDay.Kept(), now})) == 0
}

// Within returns the buckets in a period, oldest first. Empty buckets are left out.
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

// ringVersion is the first byte of a stored ring. It identifies the format.
const ringVersion = 1

// Append appends the stored form of the ring to b and returns the result. The form is
// ringVersion, then the hours, then the days, each with the number of slots in front. A
// slot is the difference between its number and the previous number, a byte with a bit for
// each count that is not 0, and these counts.
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

var errRing = errors.New("the stored usage history cannot be decoded")

// readRing decodes a ring that Append has encoded. It returns errRing if b cannot be
// decoded.
func readRing(b []byte) (r ring, err error) {
	err = eachSlot(b, func(step Step, s Slot) { *r.slots(step) = append(*r.slots(step), s) })
	if err != nil {
		return ring{}, err
	}
	return r, nil
}

// sumRing returns the sum of what Within returns for the ring that Append has encoded. some reports
// whether that is anything.
func sumRing(b []byte, span period) (sum Counts, some bool, err error) {
	last := span.Step.Number(span.Now)
	err = eachSlot(b, func(step Step, s Slot) {
		if step == span.Step && s.At > last-int64(span.Last) && s.At <= last {
			sum.Add(s.Tally)
			some = true
		}
	})
	return sum, some, err
}

// eachSlot calls visit for each slot of a ring that Append has encoded. It returns errRing if b cannot
// be decoded.
func eachSlot(b []byte, visit func(Step, Slot)) (err error) {
	if len(b) == 0 || b[0] != ringVersion {
		return errRing
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
			return errRing
		}
		for range count {
			n := number()
			at += int64(n>>1) ^ -int64(n&1) // zigzag, as AppendVarint writes it
			s := Slot{At: at}
			if err != nil || len(b) == 0 {
				return errRing
			}
			mask := b[0]
			b = b[1:]
			for i := range s.Tally {
				if mask&(1<<i) != 0 {
					s.Tally[i] = number()
				}
			}
			visit(step, s)
		}
	}
	return err
}
