package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"latchkey/internal/cluster"
	"latchkey/internal/keytext"
	"latchkey/internal/sorted"
)

// Keyring finds keys by their secret and stores them. It keeps a limited number of recently found
// keys in memory and reads other keys from the store. It is safe for concurrent use.
type Keyring struct {
	store    *Store
	peppers  Peppers
	prefix   string
	rights   atomic.Pointer[Policy]
	memory   *keyCache
	imported atomic.Bool   // keys were imported, so a secret can have any form
	misses   atomic.Uint64 // see Cached
	rows     RowCache[keyFacts]
	// maxSorted is the number of selected keys up to which a list sorts them. A longer list uses an order
	// of all keys, which is kept.
	maxSorted int
	notes     noteRoom
	noticed   func(tx *Tx, id string, n KeyNotice) error // see KeyringOptions.Noticed; may be nil
	dirtyMu   sync.Mutex                                 // guards dirty and flushing
	dirty     []*CacheEntry                              // entries with uses to store at the next Flush
	flushing  []*CacheEntry                              // entries that a Flush is storing
}

// KeyringOptions are the options of NewKeyring.
type KeyringOptions struct {
	Peppers Peppers
	Prefix  string  // text with which new secrets begin
	Policy  *Policy // permissions and limits that keys can have
	Cache   int     // about how many secrets to keep in memory
	// Noticed is called for each KeyNotice of the key with this id, in the transaction that stores it. nil: none.
	Noticed func(tx *Tx, id string, n KeyNotice) error
}

// NewEmptyKeyring returns a Keyring without a store. Only Rights and Use may be called.
func NewEmptyKeyring(o KeyringOptions) *Keyring {
	k := &Keyring{peppers: o.Peppers, prefix: o.Prefix, noticed: o.Noticed, memory: newKeyCache(o.Cache), rows: RowCache[keyFacts]{Facts: readKeyRow}, maxSorted: maxSortedKeys}
	k.rights.Store(o.Policy)
	return k
}

// NewKeyring returns a Keyring for the keys in store.
func NewKeyring(store *Store, o KeyringOptions) (*Keyring, error) {
	k := NewEmptyKeyring(o)
	k.store = store
	err := store.View(func(tx *Tx) error {
		mark, err := tx.Get("meta", []byte("imported"))
		k.imported.Store(mark != nil)
		return err
	})
	return k, err
}

// Find returns the key with this secret, even if it is paused, expired or revoked. It also returns
// the key's cache entry, which Used needs. It returns ErrKey if there is no such key. The key is
// shared: Clone it before a change.
func (k *Keyring) Find(secret string) (*Key, *CacheEntry, error) {
	d := keytext.DigestOf(secret)
	if h := k.memory.Find(d); h != nil {
		return h.KeyFor(k.Rights()), h, nil
	}
	// The checksum keeps typing errors and scans away from the store. A key in
	// memory does not need it, so it is computed only now.
	if !keytext.WellFormed(secret, k.prefix) && !k.imported.Load() {
		return nil, nil, ErrKey
	}
	k.misses.Add(1)
	return k.fetch(d)
}

// Current returns the present state of the key that was found by the secret of h, also if h is no
// longer in memory. It returns ErrKey if the key no longer has the secret. last is an earlier state
// of the key, and since is the result of Changes before that state was read. Current returns last
// if it still applies and the key is not in memory, so that it rarely reads the store. The key is
// shared: Clone it before a change.
func (k *Keyring) Current(h *CacheEntry, last *Key, since uint64) (*Key, error) {
	if now := k.memory.Find(h.digest); now != nil {
		return now.KeyFor(k.Rights()), nil
	}
	if k.Changes() == since {
		return last.Fit(k.Rights()), nil
	}
	return k.read(h.digest)
}

// Changes returns a number that grows with every change of a key or an owner.
func (k *Keyring) Changes() uint64 { return k.memory.Changes() }

// Cached returns the number of secrets in memory, and how often Find had to read the store because
// a secret was not in memory.
func (k *Keyring) Cached() (secrets int, misses uint64) { return k.memory.Len(), k.misses.Load() }

// fetch reads a key from the store and adds it to the cache. If any key was changed meanwhile, the
// key that it has read may be out of date, so it reads again.
func (k *Keyring) fetch(d keytext.Digest) (*Key, *CacheEntry, error) {
	for {
		before := k.memory.Changes()
		key, err := k.read(d)
		if err != nil {
			return nil, nil, err
		}
		if h := k.memory.Keep(d, key, before); h != nil {
			return key, h, nil
		}
	}
}

// read returns the stored key whose secret has this digest. It returns ErrKey if there is none, or
// if a record that it needs is forged (see Authenticator).
func (k *Keyring) read(d keytext.Digest) (*Key, error) {
	var key *Key
	err := k.store.View(func(tx *Tx) error {
		for _, hash := range k.hashes(d) {
			id, err := tx.GetSigned("key_hashes", hash)
			if err != nil {
				return err
			}
			if id == nil {
				continue
			}
			if key, err = k.Get(tx, string(id)); err != nil {
				return err
			}
			if key = key.BySecret(hash); key == nil {
				return ErrKey
			}
			return nil
		}
		return ErrKey
	})
	if IsForged(err) { // of the key, of its hash or of its owner's limits
		err = ErrKey
	}
	return key, err
}

// Forget removes all keys from memory, so that they are read anew.
func (k *Keyring) Forget() error {
	k.memory.Clear()
	return k.store.View(func(tx *Tx) error {
		imported, err := tx.Get("meta", []byte("imported"))
		k.imported.Store(imported != nil)
		return err
	})
}

// Applied brings the keys in memory to the state of the store after a Set of another node. If a key
// cannot be read, it forgets all keys in memory, so that the next requests find out why.
func (k *Keyring) Applied(set *cluster.Set) {
	for _, w := range set.Writes {
		var err error
		switch {
		case w.Bucket == KeyTable.Name:
			var ready *Key
			err = k.store.View(func(tx *Tx) (err error) {
				ready, err = k.Get(tx, string(w.Key))
				return err
			})
			if err == nil {
				k.memory.Change(ready)
			}
		case w.Bucket == OwnerLimitTable.Name && len(w.Key) == 8:
			owner := binary.BigEndian.Uint64(w.Key)
			var limits map[string]int
			err = k.store.View(func(tx *Tx) (err error) {
				limits, err = LimitsOfOwner(tx, owner)
				return err
			})
			if err == nil {
				k.memory.ChangeOwner(owner, func(key *Key) { key.Resolve(k.Rights(), limits) })
			}
		case w.Bucket == "meta" && string(w.Key) == "imported":
			k.imported.Store(w.Value != nil)
		}
		if err != nil {
			k.memory.Clear()
		}
	}
}

// Get returns the stored key with this id. The caller may change it. It returns ErrNotFound if
// there is no such key.
func (k *Keyring) Get(tx *Tx, id string) (*Key, error) {
	stored, err := KeyTable.Get(tx, []byte(id))
	if err != nil {
		return nil, err
	}
	key := &Key{StoredKey: *stored}
	return key, k.ready(tx, key)
}

// ByRef returns the key that a file names with ref: the one with this ref, or else the one with this id
// that has no ref. The caller may change it. Revoked keys do not count, so their refs can be used again.
// ByRef returns ErrNotFound if there is no such key.
func (k *Keyring) ByRef(tx *Tx, ref string) (*Key, error) {
	stored, err := KeyTable.One(tx, "ref", []byte(ref))
	if err == nil {
		key := &Key{StoredKey: *stored}
		return key, k.ready(tx, key)
	}
	if !errors.Is(err, ErrNotFound) {
		return nil, err
	}
	key, err := k.Get(tx, ref)
	if err == nil && (key.Ref != "" || !key.RevokedAt.IsZero()) {
		err = ErrNotFound
	}
	return key, err
}

// ready resolves key in place with the current Policy, see Key.Resolve. No other goroutine may use
// the key.
func (k *Keyring) ready(tx *Tx, key *Key) error {
	limits, err := LimitsOfOwner(tx, key.Owner)
	key.Resolve(k.Rights(), limits)
	return err
}

// Create stores a new key and returns its secret. Only a hash of the secret is
// stored, so it cannot be read again.
func (k *Keyring) Create(tx *Tx, key *Key) (secret string, err error) {
	secret = k.newSecret(key)
	key.Hint = keytext.Hint(secret, k.prefix)
	return secret, k.add(tx, key, keytext.DigestOf(secret))
}

// newSecret returns a new secret for a key.
func (k *Keyring) newSecret(key *Key) string {
	if key.Sandbox() {
		return keytext.NewSecret(k.prefix + keytext.SandboxMark)
	}
	return keytext.NewSecret(k.prefix)
}

// hashFor returns the hash under which the secret of a key is stored.
func (k *Keyring) hashFor(key *Key, d keytext.Digest) []byte {
	hash := k.peppers.Hash(d)
	if key.Sandbox() {
		return sandboxHash(hash)
	}
	return hash
}

// hashes returns the hashes under which a secret may be stored: of a sandbox key and of any other, under each pepper.
func (k *Keyring) hashes(d keytext.Digest) (all [][]byte) {
	for _, hash := range k.peppers.Hashes(d) {
		all = append(all, hash, sandboxHash(hash))
	}
	return all
}

// Import stores a new key whose secret was made by another program. d is the SHA-256 of that
// secret. It returns ErrConflict if another key already has the secret, see Holding.
func (k *Keyring) Import(tx *Tx, key *Key, d keytext.Digest) error {
	if key.Hint == "" {
		key.Hint = "imported"
	}
	if err := tx.Put("meta", []byte("imported"), []byte{1}); err != nil {
		return err
	}
	tx.After(func() { k.imported.Store(true) })
	return k.add(tx, key, d)
}

// Holding returns the id of the key whose current secret or stored previous secret has this
// digest. It returns "" if there is no such key.
func (k *Keyring) Holding(tx *Tx, d keytext.Digest) (id string, err error) {
	for _, hash := range k.hashes(d) {
		id, err := tx.GetSigned("key_hashes", hash)
		if err != nil || id != nil {
			return string(id), err
		}
	}
	return "", nil
}

// Order returns the indexes of digests, sorted by the hashes under which the digests are stored.
// A large import is faster if it writes its keys in this order.
func (k *Keyring) Order(digests []keytext.Digest) []int {
	hashes, order := make([][]byte, len(digests)), make([]int, len(digests))
	for i, d := range digests {
		hashes[i], order[i] = k.peppers.Hash(d), i
	}
	slices.SortFunc(order, func(a, b int) int { return bytes.Compare(hashes[a], hashes[b]) })
	return order
}

// add stores a new key whose secret has this digest. If a stored key has the same id, the new key
// gets another id. It returns ErrConflict if another key already has the secret.
func (k *Keyring) add(tx *Tx, key *Key, d keytext.Digest) error {
	id, err := k.Holding(tx, d)
	if err == nil && id != "" {
		err = ErrConflict.With("This secret belongs to the key %s already.", id)
	}
	// A large import creates many ids in the same millisecond, and two of them can be equal. The
	// later key must not overwrite the earlier one.
	for err == nil {
		if _, err = KeyTable.Get(tx, []byte(key.ID)); err == nil {
			key.ID = NewKeyID(key.CreatedAt)
		}
	}
	if !errors.Is(err, ErrNotFound) {
		return err
	}
	key.Hash = k.hashFor(key, d)
	if err := tx.PutSigned("key_hashes", key.Hash, []byte(key.ID)); err != nil {
		return err
	}
	return k.Save(tx, key)
}

// Save stores a changed key and does not keep it. Every request that starts after the commit sees
// the change.
func (k *Keyring) Save(tx *Tx, key *Key) error {
	if err := KeyTable.Put(tx, &key.StoredKey); err != nil {
		return err
	}
	ready, err := k.Resolved(tx, key)
	if err != nil {
		return err
	}
	tx.After(func() { k.memory.Change(ready) })
	return nil
}

// Resolved returns a copy of a key, resolved with the current Policy, see Key.Resolve.
func (k *Keyring) Resolved(tx *Tx, key *Key) (*Key, error) {
	ready := key.Clone()
	return ready, k.ready(tx, ready)
}

// LimitOwner replaces the stored limits of an owner. limits holds the values that differ from the
// default, by limit name. They apply to every request with a key of this owner that starts after
// the commit.
func (k *Keyring) LimitOwner(tx *Tx, owner uint64, limits map[string]int) error {
	if err := OwnerLimitTable.Put(tx, ownerLimits{owner, limits}); err != nil {
		return err
	}
	limits = maps.Clone(limits)
	tx.After(func() { k.memory.ChangeOwner(owner, func(key *Key) { key.Resolve(k.Rights(), limits) }) })
	return nil
}

// Count returns the number of keys in all states.
func (k *Keyring) Count(tx *Tx) (int, error) { return KeyTable.Count(tx) }

// Each calls visit for every key, newest first, until visit returns false. visit may change the
// key that it gets.
func (k *Keyring) Each(tx *Tx, visit func(*Key) (more bool)) error {
	for stored, err := range KeyTable.All(tx, Backward) {
		if err != nil {
			return err
		}
		key := &Key{StoredKey: *stored}
		if err := k.ready(tx, key); err != nil {
			return err
		}
		if !visit(key) {
			return nil
		}
	}
	return nil
}

// Expiring returns the keys that expire at or before deadline and for which no notice of this
// expiry was published (see Key.ExpiryNoticed). The key that expires first comes first. It
// leaves out revoked keys and returns at most limit keys. The caller may change them.
func (k *Keyring) Expiring(tx *Tx, deadline time.Time, limit int) (keys []*Key, err error) {
	for entry, id := range KeyTable.Find(tx, "expiring", nil, Forward) {
		if len(keys) == limit || len(entry) != 8 || binary.BigEndian.Uint64(entry) > uint64(deadline.UnixNano()) {
			break
		}
		key, err := k.Get(tx, string(id))
		if err != nil {
			return nil, err
		}
		if key.ExpiresAt.After(deadline) {
			continue // nanoseconds of a year after 2554 do not fit into the entry, so it is in a wrong place
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// Used records a use of the key in entry h. The record is kept in memory until the next Flush
// stores it.
func (k *Keyring) Used(h *CacheEntry, use LastUse) {
	if h.Note(use, &k.notes) {
		k.list(h)
	}
}

// list has the next Flush store what was noted in entry h.
func (k *Keyring) list(h *CacheEntry) {
	k.dirtyMu.Lock()
	k.dirty = append(k.dirty, h)
	k.dirtyMu.Unlock()
}

// Lookup returns the stored key whose secret has this digest. Unlike Find it neither uses nor
// changes the cache. It returns ErrKey if there is no such key.
func (k *Keyring) Lookup(d keytext.Digest) (*Key, error) { return k.read(d) }

// Rights returns the current Policy: the permissions and limits that keys can have.
func (k *Keyring) Rights() *Policy { return k.rights.Load() }

// Use replaces the Policy. The change applies to every later Find and Get. Units of limits that
// were already counted stay counted.
func (k *Keyring) Use(policy *Policy) { k.rights.Store(policy) }

// Prefix returns the text with which new secrets begin.
func (k *Keyring) Prefix() string { return k.prefix }

// CountLive returns the number of an owner's keys that are not revoked. It stops counting at limit
// and then returns limit.
func (k *Keyring) CountLive(tx *Tx, owner uint64, limit int) int {
	n := 0
	for range KeyTable.Find(tx, "owner_live", IDKey(owner), Forward) {
		if n++; n == limit {
			break
		}
	}
	return n
}

// MaxPreviousSecrets is the maximum number of previous secrets of a key, or of an admin token, that
// are valid at the same time.
const MaxPreviousSecrets = 3

// Rotate creates a new secret for a key, saves the key and returns the secret. Only a hash of it is
// stored, so it cannot be read again. The secret that was current stays valid until ends, and
// previous secrets stay valid until their own EndsAt. If ends is not after now, all of these
// secrets become invalid with the commit. now is from Clock.Latest. Rotate changes key, which must
// not be shared. It returns ErrConflict if MaxPreviousSecrets are still valid, or if the key has no
// stored Hash.
func (k *Keyring) Rotate(tx *Tx, key *Key, now, ends time.Time) (secret string, err error) {
	if key.Hash == nil {
		return "", ErrConflict.With("This key was stored by an early version and cannot be rotated. Create a new key.")
	}
	overlap := ends.After(now)
	if err := k.Drop(tx, key, func(a PreviousSecret) bool { return !overlap || !now.Before(a.EndsAt) }); err != nil {
		return "", err
	}
	if len(key.Aliases) >= MaxPreviousSecrets {
		return "", ErrConflict.With("%d earlier secrets of this key are still valid. End them first (rotate/finish), or rotate without an overlap.", MaxPreviousSecrets)
	}
	if overlap {
		key.Aliases = append(key.Aliases, PreviousSecret{Serial: key.Serial, Hash: key.Hash, Hint: key.Hint, EndsAt: ends})
		err = k.splitUse(tx, key)
	} else {
		err = k.forget(tx, key.ID, PreviousSecret{Serial: key.Serial, Hash: key.Hash})
	}
	if err != nil {
		return "", err
	}
	secret = k.newSecret(key)
	key.Hash, key.Hint = k.hashFor(key, keytext.DigestOf(secret)), keytext.Hint(secret, k.prefix)
	key.Serial, key.RotatedAt = key.Serial+1, now
	if err := tx.PutSigned("key_hashes", key.Hash, []byte(key.ID)); err != nil {
		return "", err
	}
	return secret, k.Save(tx, key)
}

// Drop removes the previous secrets of a key for which remove returns true. It changes key, which
// must not be shared. The caller must save the key afterwards.
func (k *Keyring) Drop(tx *Tx, key *Key, remove func(PreviousSecret) bool) error {
	var rest []PreviousSecret
	for _, a := range key.Aliases {
		if !remove(a) {
			rest = append(rest, a)
			continue
		}
		if err := k.forget(tx, key.ID, a); err != nil {
			return err
		}
	}
	key.Aliases = rest
	return nil
}

// forget deletes the hash and the last use of a secret from the store.
func (k *Keyring) forget(tx *Tx, id string, a PreviousSecret) error {
	return errors.Join(tx.Delete("key_hashes", a.Hash), tx.Delete(keyUsesBucket, useKey(id, a.Serial)))
}

// maxSweep is the maximum number of keys that one Sweep changes. Other writes wait for a Sweep, so
// it must be short.
const maxSweep = 1000

// Sweep deletes previous secrets that are no longer valid. Call it about once a minute. now is
// from Clock.Earliest. Sweep only saves space, because Key.Check refuses such a secret anyway.
func (k *Keyring) Sweep(now time.Time) error {
	by := AuditContext{Actor: ActorSelf, Action: "end earlier secrets", Now: now}
	return by.Update(k.store, func(tx *Tx) error {
		over := map[string]bool{}
		for end, id := range KeyTable.Find(tx, "alias_end", nil, Forward) {
			if len(over) == maxSweep || bytes.Compare(end, IDKey(uint64(now.UnixNano()))) > 0 {
				break
			}
			over[string(id)] = true
		}
		for id := range over {
			key, err := k.Get(tx, id)
			if err == nil {
				err = k.Drop(tx, key, func(a PreviousSecret) bool { return !now.Before(a.EndsAt) })
			}
			if err == nil {
				err = k.Save(tx, key)
			}
			if err != nil || tx.Full() {
				return err
			}
		}
		return nil
	})
}

// useKey returns the store key of the last use of one secret. The last use of the whole key is
// stored under the key's id; a key that was never rotated has only this entry.
func useKey(id string, serial int) []byte { return []byte(id + "/" + strconv.Itoa(serial)) }

// splitUse copies the last use of a key to an entry for its first secret. It is called before each
// rotation, and does nothing except before the first.
func (k *Keyring) splitUse(tx *Tx, key *Key) error {
	if key.Serial > 0 {
		return nil
	}
	value, err := tx.Get(keyUsesBucket, []byte(key.ID))
	if err != nil || value == nil {
		return err
	}
	return tx.Put(keyUsesBucket, useKey(key.ID, 0), value)
}

// LastUse returns the last use of a key by any of its secrets, including uses that are not stored
// yet. It returns the zero LastUse if the key was never used.
func (k *Keyring) LastUse(tx *Tx, id string) (LastUse, error) {
	return k.lastUse(tx, id, []byte(id), func(*Key) bool { return true })
}

// SecretUse returns the last use of the key's secret with this serial, like LastUse.
func (k *Keyring) SecretUse(tx *Tx, key *Key, serial int) (LastUse, error) {
	if key.Serial == 0 {
		return k.LastUse(tx, key.ID)
	}
	return k.lastUse(tx, key.ID, useKey(key.ID, serial), func(view *Key) bool { return view.SecretSerial() == serial })
}

// lastUse merges the use under storeKey with the uses in memory of the key with this id. It skips
// cache entries for whose key include returns false.
func (k *Keyring) lastUse(tx *Tx, id string, storeKey []byte, include func(*Key) bool) (LastUse, error) {
	use, err := storedUse(tx, storeKey)
	k.memory.Each(id, func(h *CacheEntry) {
		if include(h.Key()) {
			use.Add(h.Noted())
		}
	})
	return use, err
}

// storedUse returns the use under storeKey. It returns the zero LastUse if none is stored.
func storedUse(tx *Tx, storeKey []byte) (use LastUse, err error) {
	value, err := tx.Get(keyUsesBucket, storeKey)
	if err == nil && value != nil {
		err = json.Unmarshal(value, &use)
	}
	return use, err
}

// usesOfKey are the uses of a key that a Flush has taken from its entries.
type usesOfKey struct {
	id      string
	sum     LastUse
	entries []takenUse
}

// takenUse are the uses of one secret that a Flush has taken from its entry.
type takenUse struct {
	entry *CacheEntry
	key   *Key // state of the key when they were taken
	use   LastUse
	notes *keyNotes // nil: none
}

// Flush adds the uses that were recorded since the last Flush to those in the store. If it returns an
// error, the counts of these uses may be lost.
func (k *Keyring) Flush() error {
	k.dirtyMu.Lock()
	dirty := k.dirty
	k.dirty, k.flushing = nil, dirty
	k.dirtyMu.Unlock()
	if len(dirty) == 0 {
		return nil
	}
	taken := takeUses(dirty)
	var damaged error
	done, err := k.store.UpdateEach(Writer{}, len(taken), func(tx *Tx, i int) error {
		if bad := taken[i].add(tx); bad != nil {
			tx.After(func() { damaged = errors.Join(damaged, bad) })
		}
		return nil
	})
	k.giveBack(taken[done:])
	damaged = errors.Join(damaged, k.storeNotes(taken[:done]))
	k.dirtyMu.Lock()
	k.flushing = nil
	k.dirtyMu.Unlock()
	if err == nil {
		k.memory.Settle()
	}
	return errors.Join(damaged, err)
}

// takeUses takes the uses from entries. It returns them by key, in the order of the ids.
func takeUses(entries []*CacheEntry) []*usesOfKey {
	byID, list := map[string]*usesOfKey{}, make([]*usesOfKey, 0, len(entries))
	for _, h := range entries {
		use, notes := h.Take()
		key := h.Key()
		u := byID[key.ID]
		if u == nil {
			u = &usesOfKey{id: key.ID}
			byID[key.ID], list = u, append(list, u)
		}
		u.sum.Add(use)
		u.entries = append(u.entries, takenUse{h, key, use, notes})
	}
	sorted.Func(list, func(a, b *usesOfKey) int { return strings.Compare(a.id, b.id) })
	return list
}

// add merges the uses into those in the store.
func (u *usesOfKey) add(tx *Tx) (err error) {
	for _, t := range u.entries {
		if t.key.Serial == 0 || t.use.At.IsZero() {
			continue
		}
		now, bad := KeyTable.Get(tx, []byte(u.id))
		if bad == nil && now.HasSecret(t.key.SecretSerial()) {
			bad = addUse(tx, useKey(u.id, t.key.SecretSerial()), t.use)
		}
		err = errors.Join(err, bad)
	}
	if u.sum.At.IsZero() { // every request with the key was refused
		return err
	}
	return errors.Join(err, addKeyUse(tx, u.id, u.sum))
}

// giveBack has the next Flush store uses that were taken, in the same order.
func (k *Keyring) giveBack(taken []*usesOfKey) {
	for _, u := range taken {
		for _, t := range u.entries {
			if t.entry.Return(t.use, t.notes) {
				k.list(t.entry)
			}
		}
	}
}

// AddUse stores uses of a key by its secret with this serial, which did not happen in this run of the
// program.
func (k *Keyring) AddUse(tx *Tx, key *Key, serial int, use LastUse) error {
	if key.Serial > 0 {
		if err := addUse(tx, useKey(key.ID, serial), use); err != nil {
			return err
		}
	}
	return addKeyUse(tx, key.ID, use)
}

// addKeyUse merges a use into the last use of the whole key with this id.
func addKeyUse(tx *Tx, id string, use LastUse) error {
	if err := addUse(tx, []byte(id), use); err != nil {
		return err
	}
	value, err := keyUseValue(tx, []byte(id))
	return errors.Join(err, KeyTable.SetValue(tx, []byte(id), value))
}

// keyUsesBucket has the last use of each key by its id, and of each of its secrets, see useKey.
const keyUsesBucket = "key_uses"

// addUse merges a use into the use under storeKey.
func addUse(tx *Tx, storeKey []byte, use LastUse) error {
	sum, err := storedUse(tx, storeKey)
	if err != nil {
		return err
	}
	sum.Add(use)
	value, err := json.Marshal(sum)
	if err != nil {
		return err
	}
	return tx.Put(keyUsesBucket, storeKey, value)
}
