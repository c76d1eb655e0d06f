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

// keyCache holds keys in memory, up to a number, each under the digests of the
// secrets that it was asked for by. It is safe for concurrent use, and those
// who look up different keys do not wait for each other.
type keyCache struct {
	room    int // holders per shard
	shards  [64]cacheShard
	changes atomic.Uint64            // counts changes of stored keys
	mu      sync.Mutex               // held to put a key in, change it or drop it
	byID    map[string]*cacheEntry   // the first of a key's holders
	gone    map[string][]*cacheEntry // of a key, that have left with a use that is not stored yet
}

type cacheShard struct {
	sync.RWMutex
	keys map[keytext.Digest]*cacheEntry
}

// cacheEntry is a key in memory as one of its secrets finds it, and the handle by
// which the use of that secret is noted. What a request needs of it changes at
// once for all when the stored key does.
type cacheEntry struct {
	// Meter is where the Limiter counts the key.
	Meter  CounterRef
	digest keytext.Digest
	key    atomic.Pointer[Key]
	next   *cacheEntry // of another secret of the same key; under keyCache.mu
	listed atomic.Bool // noted since the last Take
	mu     sync.Mutex
	use    LastUse
}

// The ways a key is sent (contract 2.1).
const (
	CarrierBearer = "bearer"
	CarrierHeader = "header"
	CarrierQuery  = "query"
)

// CarrierNames lists the ways a key is sent.
func CarrierNames() []string { return []string{CarrierBearer, CarrierHeader, CarrierQuery} }

// LastUse tells when and how a key was last used, and how often by each carrier.
type LastUse struct {
	At      time.Time  `json:"at"`
	IP      netip.Addr `json:"ip"`
	Carrier string     `json:"carrier"` // bearer, header, query, or verify
	Carriers
}

// Carriers counts the uses of a key by the way it was sent, and has the last one
// in a URL.
type Carriers struct {
	Bearer  uint64     `json:"bearer,omitempty"`
	Header  uint64     `json:"header,omitempty"`
	Query   uint64     `json:"query,omitempty"`
	QueryAt time.Time  `json:"query_at,omitzero"`
	QueryIP netip.Addr `json:"query_ip,omitzero"`
}

// Add adds what came beside or after u.
func (u *LastUse) Add(other LastUse) {
	if other.At.After(u.At) {
		u.At, u.IP, u.Carrier = other.At, other.IP, other.Carrier
	}
	u.Bearer, u.Header, u.Query = u.Bearer+other.Bearer, u.Header+other.Header, u.Query+other.Query
	if other.QueryAt.After(u.QueryAt) {
		u.QueryAt, u.QueryIP = other.QueryAt, other.QueryIP
	}
}

// Key is the key as it is now. It is shared: Clone it before a change.
func (h *cacheEntry) Key() *Key { return h.key.Load() }

// KeyFor is the key as it is now, made ready for these permissions and limits.
func (h *cacheEntry) KeyFor(r *Policy) *Key {
	for {
		key := h.key.Load()
		if key.Rights() == r {
			return key
		}
		if fit := key.Fit(r); h.key.CompareAndSwap(key, fit) { // else it has just been changed
			return fit
		}
	}
}

// Note keeps a use, and says whether it is the first since the last Take.
func (h *cacheEntry) Note(use LastUse) (first bool) {
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

// Noted is the last use that was noted, with the counts since the last Take.
func (h *cacheEntry) Noted() LastUse {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.use
}

// Take is Noted for who stores it: the counts begin anew, and the next Note is a
// first one.
func (h *cacheEntry) Take() LastUse {
	h.listed.Store(false)
	h.mu.Lock()
	defer h.mu.Unlock()
	use := h.use
	h.use.Carriers = Carriers{QueryAt: use.QueryAt, QueryIP: use.QueryIP}
	return use
}

// newKeyCache makes an empty cache for about so many holders.
func newKeyCache(room int) *keyCache {
	c := &keyCache{byID: map[string]*cacheEntry{}, gone: map[string][]*cacheEntry{}}
	c.room = max(1, room/len(c.shards))
	for i := range c.shards {
		c.shards[i].keys = map[keytext.Digest]*cacheEntry{}
	}
	return c
}

func (c *keyCache) shard(d keytext.Digest) *cacheShard { return &c.shards[d[0]%byte(len(c.shards))] }

// Find gives the holder of a secret, nil where none is in memory.
func (c *keyCache) Find(d keytext.Digest) *cacheEntry {
	s := c.shard(d)
	s.RLock()
	h := s.keys[d]
	s.RUnlock()
	return h
}

// Len is the number of holders in memory.
func (c *keyCache) Len() (n int) {
	for i := range c.shards {
		s := &c.shards[i]
		s.RLock()
		n += len(s.keys)
		s.RUnlock()
	}
	return n
}

// Changes counts the calls of Change.
func (c *keyCache) Changes() uint64 { return c.changes.Load() }

// Keep puts a key into memory that was read from the store when Changes gave
// since; in a full shard another one leaves it. It gives nil where keys have
// changed meanwhile: then what was read may be old.
func (c *keyCache) Keep(d keytext.Digest, key *Key, since uint64) *cacheEntry {
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
		for other, h := range s.keys { // any: a map's order is as good as random
			delete(s.keys, other)
			c.unlink(h)
			break
		}
	}
	h := &cacheEntry{digest: d, next: c.byID[key.ID]}
	h.key.Store(key)
	s.keys[d] = h
	c.byID[key.ID] = h
	return h
}

// unlink takes a holder out of those of its key. The mutex is held.
func (c *keyCache) unlink(h *cacheEntry) {
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

// Change gives the holders of a key its new state, for every request that
// starts after it; holders of secrets that the key has no longer are dropped.
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

// ChangeOwner gives the keys of an owner another state, for every request that
// starts after it. change gets copies.
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

// Each visits the holders of a key that are in memory, and those that have left
// it with a use that Settle was not told of yet. It must not use the cache
// meanwhile.
func (c *keyCache) Each(id string, visit func(*cacheEntry)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for h := c.byID[id]; h != nil; h = h.next {
		visit(h)
	}
	for _, h := range c.gone[id] {
		visit(h)
	}
}

// Settle forgets those that have left memory and whose use is stored: who has
// stored what Take gave calls it then.
func (c *keyCache) Settle() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, list := range c.gone {
		list = slices.DeleteFunc(list, func(h *cacheEntry) bool { return !h.listed.Load() })
		if c.gone[id] = list; len(list) == 0 {
			delete(c.gone, id)
		}
	}
}
