package main

import (
	"encoding/binary"
	"errors"
	"time"
)

// UnusedKey is an active key that was not used for a while.
type UnusedKey struct {
	*Key           // the caller may change it
	Used time.Time // its last use; zero: never
	// Since is the latest of its last use, its creation and the end of its last pause.
	Since time.Time
}

// maxUnused is the number of keys that one call of Keyring.UnusedIDs looks at.
const maxUnused = 2000

// UnusedIDs looks at the keys that follow the key with the id after, and returns the ids of those for which due returns
// true. next is the id after which the next call goes on; "" means that it begins again with the first key.
// A key for which due returns an error is left out, and err is about one of them.
func (k *Keyring) UnusedIDs(tx *Tx, after string, due func(id string) (bool, error)) (ids []string, next string, err error) {
	var all []string
	for id := range tx.RangeFrom(KeyTable.Name, append([]byte(after), 0)) {
		if all = append(all, string(id)); len(all) == maxUnused {
			next = string(id)
			break
		}
	}
	for _, id := range all {
		yes, bad := due(id)
		if bad != nil {
			err = bad
		} else if yes {
			ids = append(ids, id)
		}
	}
	return ids, next, err
}

// Unused returns the key with this id if it is neither paused nor revoked and is unused since before. Otherwise the Key of u
// is nil.
func (k *Keyring) Unused(tx *Tx, id string, before time.Time) (u UnusedKey, err error) {
	key, err := k.Get(tx, id)
	if errors.Is(err, ErrNotFound) {
		return u, nil
	}
	if err != nil || key.CreatedAt.After(before) || key.Paused || !key.RevokedAt.IsZero() {
		return u, err
	}
	use, err := k.LastUse(tx, id)
	if err != nil {
		return u, err
	}
	since := later(later(key.CreatedAt, key.ResumedAt), use.At)
	if since.After(before) {
		return u, nil
	}
	return UnusedKey{key.Clone(), use.At, since}, nil
}

// Noted reports whether NoteUnused was called since the last use of the key.
func (u UnusedKey) Noted(tx *Tx) (bool, error) {
	noted, err := tx.Get(placesBucket, placeRow(u.ID, placeUnused, ""))
	return len(noted) == 8 && binary.BigEndian.Uint64(noted) == uint64(u.Since.UnixNano()), err
}

// NoteUnused stores that there was a notice of an unused key. The next one is due only after another use.
func (u UnusedKey) NoteUnused(tx *Tx) error {
	return tx.Put(placesBucket, placeRow(u.ID, placeUnused, ""), IDKey(uint64(u.Since.UnixNano())))
}
