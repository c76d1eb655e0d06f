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

// keyCache holds up to a fixed number of keys in memory, each under the digests
// of the secrets by which it was found. It is safe for concurrent use; lookups
// of different keys rarely wait for each other.
type keyCache struct {
	room    int // entries per shard
	shards  [64]cacheShard
	changes atomic.Uint64            // see Changes
	mu      sync.Mutex               // held to add, change or remove an entry
	byID    map[string]*CacheEntry   // first entry of each key; the others follow by next
	gone    map[string][]*CacheEntry // by key id: evicted entries whose use is not stored yet
}

type cacheShard struct {
	sync.RWMutex
	keys map[keytext.Digest]*CacheEntry
}

// CacheEntry is a key in memory as seen through one of its secrets. It also
// records the use of that secret. When the stored key changes, all requests
// that start later see the change.
type CacheEntry struct {
	// Meter is where the Limiter counts the key.
	Meter  CounterRef
	digest keytext.Digest
	key    atomic.Pointer[Key]
	next   *CacheEntry // entry of another secret of the same key; guarded by keyCache.mu
	listed atomic.Bool // used since the last Take
	mu     sync.Mutex
	use    LastUse
}

// The ways a key is sent (contract 2.1).
const (
	CarrierBearer = "bearer"
	CarrierHeader = "header"
	CarrierQuery  = "query"
)

// CarrierNames returns the ways in which a key can be sent.
func CarrierNames() []string { return []string{CarrierBearer, CarrierHeader, CarrierQuery} }

// LastUse is when and how a key was last used, and how often it was sent in
// each way.
type LastUse struct {
	At      time.Time  `json:"at"`
	IP      netip.Addr `json:"ip"`
	Carrier string     `json:"carrier"` // bearer, header, query, or verify
	Carriers
}

// Carriers counts the uses of a key by the way it was sent. It also has the
// time and address of the last use in a URL.
type Carriers struct {
	Bearer  uint64     `json:"bearer,omitempty"`
	Header  uint64     `json:"header,omitempty"`
	Query   uint64     `json:"query,omitempty"`
	QueryAt time.Time  `json:"query_at,omitzero"`
	QueryIP netip.Addr `json:"query_ip,omitzero"`
}

// Add merges other into u: it adds the counts and keeps the later use.
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

// KeyFor returns the current state of the key, resolved for r. It is shared:
// Clone it before a change.
func (h *CacheEntry) KeyFor(r *Policy) *Key {
	for {
		key := h.key.Load()
		if key.Rights() == r {
			return key
		}
		if fit := key.Fit(r); h.key.CompareAndSwap(key, fit) { // else another goroutine has changed the key: try again
			return fit
		}
	}
}

// Note records a use and reports whether it is the first since the last Take.
func (h *CacheEntry) Note(use LastUse) (first bool) {
	h.mu.Lock()
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

// Noted returns the last recorded use, with the counts since the last Take.
func (h *CacheEntry) Noted() LastUse {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.use
}

// Take returns the recorded uses and resets their counts. The caller stores the
// result.
func (h *CacheEntry) Take() LastUse {
	h.listed.Store(false)
	h.mu.Lock()
	defer h.mu.Unlock()
	use := h.use
	h.use.Carriers = Carriers{QueryAt: use.QueryAt, QueryIP: use.QueryIP}
	return use
}

// newKeyCache returns an empty cache that holds about as many entries as room says.
func newKeyCache(room int) *keyCache {
	c := &keyCache{byID: map[string]*CacheEntry{}, gone: map[string][]*CacheEntry{}}
	c.room = max(1, room/len(c.shards))
	for i := range c.shards {
		c.shards[i].keys = map[keytext.Digest]*CacheEntry{}
	}
	return c
}

func (c *keyCache) shard(d keytext.Digest) *cacheShard { return &c.shards[d[0]%byte(len(c.shards))] }

// Find returns the entry of a secret, or nil if it is not in memory.
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

// Changes returns how often Change and ChangeOwner were called.
func (c *keyCache) Changes() uint64 { return c.changes.Load() }

// Keep adds a key that was read from the store and returns its entry. since is
// the value of Changes before that read. If keys have changed since, the key
// may be out of date: Keep adds nothing and returns nil. A full shard evicts
// another entry.
func (c *keyCache) Keep(d keytext.Digest, key *Key, since uint64) *CacheEntry {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.changes.Load() != since {
		return nil
	}
	s := c.shard(d)
	s.Lock()
	defer s.Unlock()
	if h := s.keys[d]; h != nil && subtle.ConstantTimeCompare(h.digest[:], d[:]) == 1 {
		return h
	}
	if len(s.keys) >= c.room {
		for other, h := range s.keys { // the first one: the order of a map is random enough
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

// unlink removes an entry from the list of its key, and keeps it in gone if its
// use is not stored yet. The caller must hold c.mu.
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

// Change updates the entries of a key to its new state, for every request that
// starts later. It removes the entries of secrets that the key no longer has.
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

// ChangeOwner applies change to a copy of each key of an owner in memory. Every
// request that starts later sees the copy.
func (c *keyCache) ChangeOwner(owner uint64, change func(*Key)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changes.Add(1)
	for _, h := range c.byID {
		for ; h != nil && h.Key().Owner == owner; h = h.next {
			now := h.Key().Clone()
			change(now)
			h.key.Store(now)
		}
	}
}

// Each calls visit for the entries of a key, including evicted ones whose use
// is not stored yet. visit must not use the cache, because its lock is held.
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

// Settle discards the evicted entries whose use is stored. Call it after
// storing what Take returned.
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
