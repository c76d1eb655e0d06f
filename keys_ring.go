package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"latchkey/internal/keytext"
)

// Keyring finds keys by their secret and keeps them. It holds the keys in use
// in memory, up to a number, and reads the others from the store when they are
// asked for. It is safe for concurrent use.
type Keyring struct {
	store    *Store
	peppers  Peppers
	prefix   string
	rights   atomic.Pointer[Policy]
	memory   *keyCache
	imported atomic.Bool // some keys are not of our making, so of any shape
	misses   atomic.Uint64
	dirtyMu  sync.Mutex
	dirty    []*cacheEntry
}

// NewKeyring finds keys with a prefix in a store; cache is the most keys that
// it holds in memory.
func NewKeyring(store *Store, peppers Peppers, prefix string, rights *Policy, cache int) (*Keyring, error) {
	k := &Keyring{store: store, peppers: peppers, prefix: prefix, memory: newKeyCache(cache)}
	k.rights.Store(rights)
	err := store.View(func(tx *Tx) error {
		mark, err := tx.Get("meta", []byte("imported"))
		k.imported.Store(mark != nil)
		return err
	})
	return k, err
}

// Find gives the key of a secret, in whatever state it is, and a handle for
// Used. It is ErrKey where there is none.
func (k *Keyring) Find(secret string) (*Key, *cacheEntry, error) {
	d := keytext.DigestOf(secret)
	if h := k.memory.Find(d); h != nil {
		return h.KeyFor(k.Rights()), h, nil
	}
	// After the memory, since the checksum of a key that is held need not be
	// made anew: it keeps typing errors and scans from the store.
	if !keytext.WellFormed(secret, k.prefix) && !k.imported.Load() {
		return nil, nil, ErrKey
	}
	k.misses.Add(1)
	return k.fetch(d)
}

// Cached is how many secrets are in memory, and how many look-ups found theirs
// there not, so that the store was read.
func (k *Keyring) Cached() (held int, misses uint64) { return k.memory.Len(), k.misses.Load() }

// fetch reads a key from the store and keeps it in memory, unless keys have
// changed meanwhile: then what was read may be old, and it is read again.
func (k *Keyring) fetch(d keytext.Digest) (*Key, *cacheEntry, error) {
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

func (k *Keyring) read(d keytext.Digest) (*Key, error) {
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
	return key, err
}

// Get reads a key by its id; ErrNotFound where there is none.
func (k *Keyring) Get(tx *Tx, id string) (*Key, error) {
	key, err := KeyTable.Get(tx, []byte(id))
	if err != nil {
		return nil, err
	}
	return key, k.ready(tx, key)
}

// ready gives a key of the caller's own what follows from it.
func (k *Keyring) ready(tx *Tx, key *Key) error {
	limits, err := LimitsOfOwner(tx, key.Owner)
	key.Resolve(k.Rights(), limits)
	return err
}

// Create stores a new key and gives its secret, which is nowhere to be had
// again.
func (k *Keyring) Create(tx *Tx, key *Key) (secret string, err error) {
	secret = keytext.NewSecret(k.prefix)
	key.Hint = keytext.Hint(secret, k.prefix)
	return secret, k.add(tx, key, keytext.DigestOf(secret))
}

// Import stores a key by the SHA-256 of a secret that exists elsewhere;
// ErrConflict where it is here already.
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

// Holding gives the id of the key that has or had a secret, "" where none has.
func (k *Keyring) Holding(tx *Tx, d keytext.Digest) (id string, err error) {
	for _, hash := range k.peppers.Hashes(d) {
		id, err := tx.Get("key_hashes", hash)
		if err != nil || id != nil {
			return string(id), err
		}
	}
	return "", nil
}

// Order gives the places of secrets in a list in the order in which they are
// stored.
func (k *Keyring) Order(list []keytext.Digest) []int {
	hashes, order := make([][]byte, len(list)), make([]int, len(list))
	for i, d := range list {
		hashes[i], order[i] = k.peppers.Hash(d), i
	}
	slices.SortFunc(order, func(a, b int) int { return bytes.Compare(hashes[a], hashes[b]) })
	return order
}

func (k *Keyring) add(tx *Tx, key *Key, d keytext.Digest) error {
	id, err := k.Holding(tx, d)
	if err == nil && id != "" {
		err = ErrConflict.With("This secret belongs to the key %s already.", id)
	}
	// Of the ids of a large import, all made in one millisecond, two can be the
	// same: then the later key would take the place of the earlier.
	for err == nil {
		if _, err = KeyTable.Get(tx, []byte(key.ID)); err == nil {
			key.ID = NewKeyID(key.CreatedAt)
		}
	}
	if !errors.Is(err, ErrNotFound) {
		return err
	}
	key.Hash = k.peppers.Hash(d)
	if err := tx.Put("key_hashes", key.Hash, []byte(key.ID)); err != nil {
		return err
	}
	return k.Save(tx, key)
}

// Save stores a changed key. Every request that starts once the transaction
// is on disk sees the change.
func (k *Keyring) Save(tx *Tx, key *Key) error {
	if err := KeyTable.Put(tx, key); err != nil {
		return err
	}
	ready, err := k.Resolved(tx, key)
	if err != nil {
		return err
	}
	tx.After(func() { k.memory.Change(ready) })
	return nil
}

// Readied gives a copy of a key of the caller's own with what follows from it.
func (k *Keyring) Resolved(tx *Tx, key *Key) (*Key, error) {
	ready := key.Clone()
	return ready, k.ready(tx, ready)
}

// LimitOwner stores the numbers of an owner. Every request that starts once the
// transaction is on disk is counted by them, whichever key of the owner it has.
func (k *Keyring) LimitOwner(tx *Tx, owner uint64, limits map[string]int) error {
	if err := OwnerLimitTable.Put(tx, ownerLimits{owner, limits}); err != nil {
		return err
	}
	limits = maps.Clone(limits)
	tx.After(func() { k.memory.ChangeOwner(owner, func(key *Key) { key.Resolve(k.Rights(), limits) }) })
	return nil
}

// Count gives the number of keys, whatever their state.
func (k *Keyring) Count(tx *Tx) (int, error) { return KeyTable.Count(tx) }

// Each goes through the keys, newest first, until visit says to stop.
func (k *Keyring) Each(tx *Tx, visit func(*Key) (more bool)) error {
	for key, err := range KeyTable.All(tx, true) {
		if err != nil {
			return err
		}
		if err := k.ready(tx, key); err != nil {
			return err
		}
		if !visit(key) {
			return nil
		}
	}
	return nil
}

// Expiring gives copies of up to most keys that expire by a time and whose
// ExpiryNoticed is another, the first to expire first.
func (k *Keyring) Expiring(tx *Tx, by time.Time, most int) (keys []*Key, err error) {
	for entry, id := range KeyTable.Find(tx, "expiring", nil, false) {
		if len(keys) == most || len(entry) != 8 || binary.BigEndian.Uint64(entry) > uint64(by.UnixNano()) {
			break
		}
		key, err := k.Get(tx, string(id))
		if err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// Used notes that a key was used. It is stored with the next Flush.
func (k *Keyring) Used(h *cacheEntry, use LastUse) {
	if !h.Note(use) {
		return
	}
	k.dirtyMu.Lock()
	k.dirty = append(k.dirty, h)
	k.dirtyMu.Unlock()
}

// Lookup gives the key of a digest without keeping it in memory; ErrKey where
// there is none.
func (k *Keyring) Lookup(d keytext.Digest) (*Key, error) { return k.read(d) }

// Policy are the permissions and limits that the keys can have.
func (k *Keyring) Rights() *Policy { return k.rights.Load() }

// LastUse puts other permissions and limits in the place of those, for every key at
// once. What keys have used stays counted.
func (k *Keyring) Use(r *Policy) { k.rights.Store(r) }

// Prefix is how the keys begin that the keyring makes.
func (k *Keyring) Prefix() string { return k.prefix }

// CountLive counts the keys of an owner that are not revoked, up to most.
func (k *Keyring) CountLive(tx *Tx, owner uint64, most int) int {
	n := 0
	for range KeyTable.Find(tx, "owner_live", IDKey(owner), false) {
		if n++; n == most {
			break
		}
	}
	return n
}

// maxAliases bounds how many earlier secrets of a key hold at once.
const maxAliases = 3

// Rotate gives a key of the caller's own another secret, which is nowhere to be
// had again. The one until now, and those before it, hold until ends; where
// that is not in the future, none of them holds once the transaction is on
// disk. ErrConflict: too many of them hold still. now is of Clock.Latest.
func (k *Keyring) Rotate(tx *Tx, key *Key, now, ends time.Time) (secret string, err error) {
	if key.Hash == nil {
		return "", ErrConflict.With("This key was stored by a version that did not note where its secret is. Create a new key.")
	}
	overlap := ends.After(now)
	if err := k.Drop(tx, key, func(a PreviousSecret) bool { return !overlap || !now.Before(a.EndsAt) }); err != nil {
		return "", err
	}
	if len(key.Aliases) >= maxAliases {
		return "", ErrConflict.With("%d earlier secrets of this key hold still. End them first (rotate/finish), or rotate without an overlap.", maxAliases)
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
	secret = keytext.NewSecret(k.prefix)
	key.Hash, key.Hint = k.peppers.Hash(keytext.DigestOf(secret)), keytext.Hint(secret, k.prefix)
	key.Serial, key.RotatedAt = key.Serial+1, now
	if err := tx.Put("key_hashes", key.Hash, []byte(key.ID)); err != nil {
		return "", err
	}
	return secret, k.Save(tx, key)
}

// Drop ends those of a key's earlier secrets that which picks. The key is the
// caller's own, and to be saved.
func (k *Keyring) Drop(tx *Tx, key *Key, which func(PreviousSecret) bool) error {
	var rest []PreviousSecret
	for _, a := range key.Aliases {
		if !which(a) {
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

// forget takes a secret out of the store.
func (k *Keyring) forget(tx *Tx, id string, a PreviousSecret) error {
	return errors.Join(tx.Delete("key_hashes", a.Hash), tx.Delete("key_uses", useKey(id, a.Serial)))
}

// maxSweep bounds how many keys one Sweep changes, so that requests do not
// wait for it.
const maxSweep = 1000

// Sweep takes earlier secrets out of the store whose time is over. It is to be
// called about once a minute; that they end does not depend on it. now is of
// Clock.Earliest.
func (k *Keyring) Sweep(now time.Time) error {
	by := AuditContext{Actor: ActorSelf, Action: "end earlier secrets", Now: now}
	return by.Update(k.store, func(tx *Tx) error {
		over := map[string]bool{}
		for end, id := range KeyTable.Find(tx, "alias_end", nil, false) {
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
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// useKey is where the last use of one secret is stored. It is kept apart from
// that of the key once the key has been rotated.
func useKey(id string, serial int) []byte { return []byte(id + "/" + strconv.Itoa(serial)) }

// splitUse keeps the last use of a secret that was the only one until now.
func (k *Keyring) splitUse(tx *Tx, key *Key) error {
	if key.Serial > 0 {
		return nil
	}
	value, err := tx.Get("key_uses", []byte(key.ID))
	if err != nil || value == nil {
		return err
	}
	return tx.Put("key_uses", useKey(key.ID, 0), value)
}

// LastUse tells when a key was last used, by whichever secret; the zero LastUse for
// never.
func (k *Keyring) LastUse(tx *Tx, id string) (LastUse, error) {
	return k.lastUse(tx, id, []byte(id), func(*Key) bool { return true })
}

// SecretUse tells when one secret of a key was last used.
func (k *Keyring) SecretUse(tx *Tx, key *Key, serial int) (LastUse, error) {
	if key.Serial == 0 {
		return k.LastUse(tx, key.ID)
	}
	return k.lastUse(tx, key.ID, useKey(key.ID, serial), func(view *Key) bool { return view.SecretSerial() == serial })
}

// lastUse is the later of what is stored and of what is noted in memory.
func (k *Keyring) lastUse(tx *Tx, id string, stored []byte, counts func(*Key) bool) (LastUse, error) {
	use, err := storedUse(tx, stored)
	k.memory.Each(id, func(h *cacheEntry) {
		if counts(h.Key()) {
			use.Add(h.Noted())
		}
	})
	return use, err
}

func storedUse(tx *Tx, at []byte) (use LastUse, err error) {
	value, err := tx.Get("key_uses", at)
	if err == nil && value != nil {
		err = json.Unmarshal(value, &use)
	}
	return use, err
}

// Flush stores the last uses noted since the one before.
func (k *Keyring) Flush() error {
	k.dirtyMu.Lock()
	dirty := k.dirty
	k.dirty = nil
	k.dirtyMu.Unlock()
	if len(dirty) == 0 {
		return nil
	}
	keys, secrets := map[string]LastUse{}, map[*Key]LastUse{} // taken once: the function below may run twice
	for _, h := range dirty {
		use, key := h.Take(), h.Key()
		sum := keys[key.ID]
		sum.Add(use)
		keys[key.ID] = sum
		if key.Serial > 0 {
			secrets[key] = use
		}
	}
	err := k.store.Update(func(tx *Tx) error {
		for key, use := range secrets {
			now, err := KeyTable.Get(tx, []byte(key.ID))
			if err == nil && now.HasSecret(key.SecretSerial()) {
				err = addUse(tx, useKey(key.ID, key.SecretSerial()), use)
			}
			if err != nil {
				return err
			}
		}
		for id, use := range keys {
			if err := addUse(tx, []byte(id), use); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		k.memory.Settle()
	}
	return err
}

// addUse adds a use to the one that is stored.
func addUse(tx *Tx, at []byte, use LastUse) error {
	sum, err := storedUse(tx, at)
	if err != nil {
		return err
	}
	sum.Add(use)
	value, err := json.Marshal(sum)
	if err != nil {
		return err
	}
	return tx.Put("key_uses", at, value)
}
