package main

import (
	"crypto/subtle"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"latchkey/internal/keytext"
)

// keyCache keeps a limited number of keys in memory. It has an entry for each secret that was used
// to find a key, under the digest of the secret. It is safe for concurrent use. Lookups of
// different secrets rarely wait for each other.
type keyCache struct {
	perShard int // maximum number of entries in a shard
	shards   [64]cacheShard
	changes  atomic.Uint64            // result of the method Changes
	mu       sync.Mutex               // held to add, change or remove an entry
	byID     map[string]*CacheEntry   // first entry of each key; the others follow by next
	gone     map[string][]*CacheEntry // by key id: evicted entries with uses that are not stored yet
}

type cacheShard struct {
	sync.RWMutex
	keys map[keytext.Digest]*CacheEntry
}

// CacheEntry holds a key in memory that was found by one of its secrets. It also records the uses
// of that secret. A request that starts after a change of the key is committed sees the change
// here. A CacheEntry is safe for concurrent use.
type CacheEntry struct {
	// Meter saves the Limiter the look-up of the key's counters.
	Meter CounterRef
	// Tally is memory for who counts the requests of the key; see Outcome.Tally.
	Tally  atomic.Value
	warned atomic.Pointer[[]limitWarned] // see Warn
	digest keytext.Digest
	key    atomic.Pointer[Key]
	next   *CacheEntry // entry of another secret of the same key; guarded by keyCache.mu
	listed atomic.Bool // a use was recorded since the last Take
	mu     sync.Mutex
	use    LastUse
	notes  *keyNotes // for the activity of the key; nil: nothing was noted since the last Take
	placed int64     // the day of the latest use whose place was noted, since 1970; 0: none was
}

// The ways in which a key can be sent (docs/contract.md, section 2.1).
const (
	CarrierBearer = "bearer"
	CarrierHeader = "header"
	CarrierQuery  = "query"
)

// CarrierNames returns the names of the ways in which a key can be sent.
func CarrierNames() []string { return []string{CarrierBearer, CarrierHeader, CarrierQuery} }

// LastUse describes the last use of a key or of one of its secrets, and counts all uses by the way
// in which the key was sent.
type LastUse struct {
	At      time.Time  `json:"at"`
	IP      netip.Addr `json:"ip"`      // of the client
	Carrier string     `json:"carrier"` // bearer, header, query, or verify
	Carriers
}

// Carriers counts the uses of a key by the way in which it was sent. QueryAt and QueryIP are the
// time and the client address of the last use as ?api_key=.
type Carriers struct {
	Bearer  uint64     `json:"bearer,omitempty"`
	Header  uint64     `json:"header,omitempty"`
	Query   uint64     `json:"query,omitempty"`
	QueryAt time.Time  `json:"query_at,omitzero"`
	QueryIP netip.Addr `json:"query_ip,omitzero"`
}

// Add merges other into u. It adds the counts, and keeps the time, address and carrier of the
// later use.
func (u *LastUse) Add(other LastUse) {
	if other.At.After(u.At) {
		u.At, u.IP, u.Carrier = other.At, other.IP, other.Carrier
	}
	u.Bearer, u.Header, u.Query = u.Bearer+other.Bearer, u.Header+other.Header, u.Query+other.Query
	if other.QueryAt.After(u.QueryAt) {
		u.QueryAt, u.QueryIP = other.QueryAt, other.QueryIP
	}
}

// Key returns the current state of the key. It is shared: Clone it before a
// change.
func (h *CacheEntry) Key() *Key { return h.key.Load() }

// KeyFor returns the current state of the key, resolved with policy. It is shared: Clone it before
// a change.
func (h *CacheEntry) KeyFor(policy *Policy) *Key {
	for {
		key := h.key.Load()
		if key.Rights() == policy {
			return key
		}
		if fit := key.Fit(policy); h.key.CompareAndSwap(key, fit) { // if another goroutine has changed the key, try again
			return fit
		}
	}
}

// Note records a use of the secret. It returns true for the first use since the last Take. room bounds the
// notes for the activity of all keys.
func (h *CacheEntry) Note(use LastUse, room *noteRoom) (first bool) {
	h.mu.Lock()
	if use.IP != h.use.IP || use.Carrier != h.use.Carrier || h.placed == 0 {
		h.notePlace(use, room)
	}
	h.use.At, h.use.IP, h.use.Carrier = use.At, use.IP, use.Carrier
	switch use.Carrier {
	case CarrierBearer:
		h.use.Bearer++
	case CarrierHeader:
		h.use.Header++
	case CarrierQuery:
		h.use.Query++
		h.use.QueryAt, h.use.QueryIP = use.At, use.IP
	}
	h.mu.Unlock()
	return !h.listed.Load() && !h.listed.Swap(true)
}

// Noted returns the last recorded use. Its counts are of the uses since the last Take.
func (h *CacheEntry) Noted() LastUse {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.use
}

// Take returns what Noted returns, and what was noted for the activity of the key, which may be nil. It resets
// the counts and the notes. The caller must store the results.
func (h *CacheEntry) Take() (LastUse, *keyNotes) {
	h.listed.Store(false)
	h.mu.Lock()
	defer h.mu.Unlock()
	use, notes := h.use, h.notes
	h.use.Carriers = Carriers{QueryAt: use.QueryAt, QueryIP: use.QueryIP}
	if h.notes = nil; h.placed != dayOf(use.At) {
		h.placed = 0 // so that the place of a use is noted once a day
	}
	return use, notes
}

// Return adds the results of Take again, because they were not stored. It returns true if the entry must
// be listed for the next Flush, as after the first use since Take.
func (h *CacheEntry) Return(use LastUse, notes *keyNotes) (first bool) {
	h.mu.Lock()
	h.use.Add(use)
	h.notes = notes.with(h.notes)
	h.mu.Unlock()
	return !h.listed.Load() && !h.listed.Swap(true)
}

// limitWarned is a limit about which there was a warning.
type limitWarned struct {
	limit string
	most  int       // Limit.Max at that time
	until time.Time // on the service clock; there is no other warning before
}

// Warn reports whether a warning about a limit is due at moment, a time on the service clock. If so, it notes that the
// next one is due at until. It waits for no other goroutine.
func (h *CacheEntry) Warn(limit *Limit, moment, until time.Time) (due bool) {
	list := h.warned.Load()
	if list != nil {
		for _, w := range *list {
			if w.limit == limit.Name && w.most == limit.Max && moment.Before(w.until) {
				return false
			}
		}
	}
	return h.noteWarning(list, limitWarned{limit.Name, limit.Max, until})
}

// WarnedUntil notes that no warning about a limit is due before until.
func (h *CacheEntry) WarnedUntil(limit *Limit, until time.Time) {
	for !h.noteWarning(h.warned.Load(), limitWarned{limit.Name, limit.Max, until}) {
	}
}

// noteWarning adds w to a list that is the noted one. It returns false if that has changed meanwhile.
func (h *CacheEntry) noteWarning(list *[]limitWarned, w limitWarned) bool {
	noted := []limitWarned{w}
	if list != nil {
		for _, other := range *list {
			if other.limit != w.limit {
				noted = append(noted, other)
			}
		}
	}
	return h.warned.CompareAndSwap(list, &noted)
}

// newKeyCache returns an empty cache for about size entries.
func newKeyCache(size int) *keyCache {
	c := &keyCache{byID: map[string]*CacheEntry{}, gone: map[string][]*CacheEntry{}}
	c.perShard = max(1, size/len(c.shards))
	for i := range c.shards {
		c.shards[i].keys = map[keytext.Digest]*CacheEntry{}
	}
	return c
}

func (c *keyCache) shard(d keytext.Digest) *cacheShard { return &c.shards[d[0]%byte(len(c.shards))] }

// Find returns the entry of the secret with this digest. It returns nil if there is none.
func (c *keyCache) Find(d keytext.Digest) *CacheEntry {
	s := c.shard(d)
	s.RLock()
	h := s.keys[d]
	s.RUnlock()
	return h
}

// Len returns the number of entries in memory.
func (c *keyCache) Len() (n int) {
	for i := range c.shards {
		s := &c.shards[i]
		s.RLock()
		n += len(s.keys)
		s.RUnlock()
	}
	return n
}

// Changes returns how often Change and ChangeOwner were called. It is meant for Keep.
func (c *keyCache) Changes() uint64 { return c.changes.Load() }

// Keep adds a key that was read from the store by the secret with this digest, and returns its
// entry. changes is the result of Changes before that read. If it differs now, the key may be out
// of date, so Keep adds nothing and returns nil. If the cache is full, Keep evicts another entry.
func (c *keyCache) Keep(d keytext.Digest, key *Key, changes uint64) *CacheEntry {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.changes.Load() != changes {
		return nil
	}
	s := c.shard(d)
	s.Lock()
	defer s.Unlock()
	if h := s.keys[d]; h != nil && subtle.ConstantTimeCompare(h.digest[:], d[:]) == 1 {
		return h
	}
	if len(s.keys) >= c.perShard {
		for other, h := range s.keys { // any entry will do: the order of a map is random enough
			delete(s.keys, other)
			c.unlink(h)
			break
		}
	}
	h := &CacheEntry{digest: d, next: c.byID[key.ID]}
	h.key.Store(key)
	s.keys[d] = h
	c.byID[key.ID] = h
	return h
}

// unlink removes an entry from the list of its key. It keeps the entry in gone if uses of it are
// not stored yet. The caller must hold c.mu.
func (c *keyCache) unlink(h *CacheEntry) {
	id := h.Key().ID
	if h.listed.Load() {
		c.gone[id] = append(c.gone[id], h)
	}
	if first := c.byID[id]; first == h && h.next == nil {
		delete(c.byID, id)
	} else if first == h {
		c.byID[id] = h.next
	} else {
		for ; first != nil; first = first.next {
			if first.next == h {
				first.next = h.next
			}
		}
	}
}

// Change replaces the key in all its entries with its new state. Every request that starts later
// sees the new state. Change removes the entries of secrets that the key no longer has.
func (c *keyCache) Change(key *Key) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changes.Add(1)
	for h := c.byID[key.ID]; h != nil; h = h.next {
		if now := key.Refreshed(h.Key()); now != nil {
			h.key.Store(now)
			continue
		}
		s := c.shard(h.digest)
		s.Lock()
		delete(s.keys, h.digest)
		s.Unlock()
		c.unlink(h)
	}
}

// Clear removes all entries. Uses that are not stored yet are kept, as for evicted entries.
func (c *keyCache) Clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changes.Add(1)
	for i := range c.shards {
		s := &c.shards[i]
		s.Lock()
		for d, h := range s.keys {
			delete(s.keys, d)
			c.unlink(h)
		}
		s.Unlock()
	}
}

// ChangeOwner replaces each key of an owner in memory, also a sandbox key, with a copy to which it has applied change.
// Every request that starts later sees the copy.
func (c *keyCache) ChangeOwner(owner uint64, change func(*Key)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changes.Add(1)
	for _, h := range c.byID {
		for ; h != nil && LiveOwner(h.Key().Owner) == owner; h = h.next {
			now := h.Key().Clone()
			change(now)
			h.key.Store(now)
		}
	}
}

// Each calls visit for each entry of a key, including evicted entries with uses that are not
// stored yet. visit must not call methods of the cache, because the cache is locked.
func (c *keyCache) Each(id string, visit func(*CacheEntry)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for h := c.byID[id]; h != nil; h = h.next {
		visit(h)
	}
	for _, h := range c.gone[id] {
		visit(h)
	}
}

// Settle forgets the evicted entries whose uses are all stored. Call it after the results of Take
// have been stored.
func (c *keyCache) Settle() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, list := range c.gone {
		list = slices.DeleteFunc(list, func(h *CacheEntry) bool { return !h.listed.Load() })
		if c.gone[id] = list; len(list) == 0 {
			delete(c.gone, id)
		}
	}
}
