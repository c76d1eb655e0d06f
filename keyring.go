package main

import (
	"crypto/subtle"
	"encoding/json"
	"errors"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

var keyTable = Table[*Key]{
	Name: "keys",
	Key:  func(k *Key) []byte { return []byte(k.ID) },
	Indexes: []Index[*Key]{
		{"owner", func(k *Key) [][]byte { return [][]byte{IDKey(k.Owner)} }},
	},
}

// Keyring finds keys by their secret and keeps them. It holds the keys in use
// in memory, up to a number, and reads the others from the store when they are
// asked for. It is safe for concurrent use.
type Keyring struct {
	store    *Store
	peppers  Peppers
	prefix   string
	defaults []Limit
	room     int // keys per shard

	shards   [64]ringShard
	changes  atomic.Uint64 // counts changes of stored keys
	mu       sync.Mutex    // held to put a key into memory, change it there or drop it
	byID     map[string]*Holder
	imported atomic.Bool // some keys are not of our making, so of any shape
	dirtyMu  sync.Mutex
	dirty    []*Holder
}

type ringShard struct {
	sync.RWMutex
	keys map[Digest]*Holder
}

// Holder is a key in memory, and the handle by which its use is noted. What a request needs of it changes at once for
// all when the stored key does.
type Holder struct {
	// Meter is where the Limiter counts the key.
	Meter  Handle
	digest Digest
	key    atomic.Pointer[Key]
	listed atomic.Bool // in the list of keys used since the last flush
	mu     sync.Mutex
	use    Use
}

// Use tells when and how a key was last used.
type Use struct {
	At      time.Time  `json:"at"`
	IP      netip.Addr `json:"ip"`
	Carrier string     `json:"carrier"` // bearer, header or query
}

// NewKeyring finds keys with a prefix in a store; cache is the most keys that
// it holds in memory.
func NewKeyring(store *Store, peppers Peppers, prefix string, defaults []Limit, cache int) (*Keyring, error) {
	k := &Keyring{store: store, peppers: peppers, prefix: prefix, defaults: defaults, byID: map[string]*Holder{}}
	k.room = max(1, cache/len(k.shards))
	for i := range k.shards {
		k.shards[i].keys = map[Digest]*Holder{}
	}
	err := store.View(func(tx *Tx) error {
		mark, err := tx.Get("meta", []byte("imported"))
		k.imported.Store(mark != nil)
		return err
	})
	return k, err
}

// Find gives the key of a secret, in whatever state it is, and a handle for
// Used. It is ErrKey where there is none.
func (k *Keyring) Find(secret string) (*Key, *Holder, error) {
	d := DigestOf(secret)
	s := &k.shards[d[0]%byte(len(k.shards))]
	s.RLock()
	h := s.keys[d]
	s.RUnlock()
	if h != nil {
		return h.key.Load(), h, nil
	}
	// After the memory, since the checksum of a key that is held need not be
	// made anew: it keeps typing errors and scans from the store.
	if !WellFormed(secret, k.prefix) && !k.imported.Load() {
		return nil, nil, ErrKey
	}
	return k.fetch(d)
}

// fetch reads a key from the store and keeps it in memory, unless keys have
// changed meanwhile: then what was read may be old, and it is read again.
func (k *Keyring) fetch(d Digest) (*Key, *Holder, error) {
	for {
		before := k.changes.Load()
		key, err := k.read(d)
		if err != nil {
			return nil, nil, err
		}
		k.mu.Lock()
		if k.changes.Load() != before {
			k.mu.Unlock()
			continue
		}
		h := k.keep(d, key)
		k.mu.Unlock()
		return key, h, nil
	}
}

func (k *Keyring) read(d Digest) (*Key, error) {
	var key *Key
	err := k.store.View(func(tx *Tx) error {
		for _, hash := range k.peppers.Hashes(d) {
			id, err := tx.Get("key_hashes", hash)
			if err != nil {
				return err
			}
			if id == nil {
				continue
			}
			key, err = k.Get(tx, string(id))
			return err
		}
		return ErrKey
	})
	return key, err
}

// keep puts a key into memory; in a full shard another one leaves it. The
// mutex is held.
func (k *Keyring) keep(d Digest, key *Key) *Holder {
	s := &k.shards[d[0]%byte(len(k.shards))]
	s.Lock()
	defer s.Unlock()
	if h := s.keys[d]; h != nil && subtle.ConstantTimeCompare(h.digest[:], d[:]) == 1 {
		return h
	}
	if len(s.keys) >= k.room {
		for other, h := range s.keys { // any: a map's order is as good as random
			delete(s.keys, other)
			delete(k.byID, h.key.Load().ID)
			break
		}
	}
	h := &Holder{digest: d}
	h.key.Store(key)
	s.keys[d] = h
	k.byID[key.ID] = h
	return h
}

// Get reads a key by its id; ErrNotFound where there is none.
func (k *Keyring) Get(tx *Tx, id string) (*Key, error) {
	key, err := keyTable.Get(tx, []byte(id))
	if err != nil {
		return nil, err
	}
	key.Ready(k.defaults)
	return key, nil
}

// Create stores a new key and gives its secret, which is nowhere to be had
// again.
func (k *Keyring) Create(tx *Tx, key *Key) (secret string, err error) {
	secret = NewSecret(k.prefix)
	key.Hint = Hint(secret, k.prefix)
	return secret, k.add(tx, key, DigestOf(secret))
}

// Import stores a key by the SHA-256 of a secret that exists elsewhere;
// ErrConflict where it is here already.
func (k *Keyring) Import(tx *Tx, key *Key, d Digest) error {
	if key.Hint == "" {
		key.Hint = "imported"
	}
	if err := tx.Put("meta", []byte("imported"), []byte{1}); err != nil {
		return err
	}
	tx.After(func() { k.imported.Store(true) })
	return k.add(tx, key, d)
}

func (k *Keyring) add(tx *Tx, key *Key, d Digest) error {
	for _, hash := range k.peppers.Hashes(d) {
		id, err := tx.Get("key_hashes", hash)
		if err != nil {
			return err
		}
		if id != nil {
			return ErrConflict.With("This secret belongs to the key %s already.", id)
		}
	}
	if err := tx.Put("key_hashes", k.peppers.Hash(d), []byte(key.ID)); err != nil {
		return err
	}
	return k.Save(tx, key)
}

// Save stores a changed key. Every request that starts once the transaction
// is on disk sees the change.
func (k *Keyring) Save(tx *Tx, key *Key) error {
	if err := keyTable.Put(tx, key); err != nil {
		return err
	}
	ready := key.Clone()
	ready.Ready(k.defaults)
	tx.After(func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.changes.Add(1)
		if h := k.byID[key.ID]; h != nil {
			h.key.Store(ready)
		}
	})
	return nil
}

// Count gives the number of keys, whatever their state.
func (k *Keyring) Count(tx *Tx) (int, error) { return keyTable.Count(tx) }

// Each goes through the keys, newest first, until visit says to stop.
func (k *Keyring) Each(tx *Tx, visit func(*Key) (more bool)) error {
	for key, err := range keyTable.All(tx, true) {
		if err != nil {
			return err
		}
		key.Ready(k.defaults)
		if !visit(key) {
			return nil
		}
	}
	return nil
}

// Used notes that a key was used. It is stored with the next Flush.
func (k *Keyring) Used(h *Holder, use Use) {
	h.mu.Lock()
	h.use = use
	h.mu.Unlock()
	if h.listed.Load() || h.listed.Swap(true) {
		return
	}
	k.dirtyMu.Lock()
	k.dirty = append(k.dirty, h)
	k.dirtyMu.Unlock()
}

// LastUse tells when a key was last used, the zero Use for never.
func (k *Keyring) LastUse(tx *Tx, id string) (Use, error) {
	k.mu.Lock()
	h := k.byID[id]
	k.mu.Unlock()
	if h != nil {
		h.mu.Lock()
		use := h.use
		h.mu.Unlock()
		if !use.At.IsZero() {
			return use, nil
		}
	}
	var use Use
	value, err := tx.Get("key_uses", []byte(id))
	if err != nil || value == nil {
		return use, err
	}
	return use, json.Unmarshal(value, &use)
}

// Flush stores the last uses noted since the one before. On an error they are
// noted still.
func (k *Keyring) Flush() error {
	k.dirtyMu.Lock()
	dirty := k.dirty
	k.dirty = nil
	k.dirtyMu.Unlock()
	if len(dirty) == 0 {
		return nil
	}
	err := k.store.Update(func(tx *Tx) error {
		var errs error
		for _, h := range dirty {
			h.listed.Store(false)
			h.mu.Lock()
			use := h.use
			h.mu.Unlock()
			value, err := json.Marshal(use)
			errs = errors.Join(errs, err, tx.Put("key_uses", []byte(h.key.Load().ID), value))
		}
		return errs
	})
	return err
}
