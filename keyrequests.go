package main

import (
	"crypto/sha256"
	"errors"
	"time"
)

// requestSpan is how long a request that made a key is remembered.
const requestSpan = 24 * time.Hour

// KeyRequest is a request that made a key, by the name its sender gave it.
type KeyRequest struct {
	Hash  []byte    `json:"hash"` // SHA-256 of the name
	KeyID string    `json:"key_id"`
	At    time.Time `json:"at"`
}

// KeyRequestTable holds the requests of the last 24 hours.
var KeyRequestTable = Table[KeyRequest]{
	Name:    "key_requests",
	Key:     func(r KeyRequest) []byte { return r.Hash },
	Indexes: []Index[KeyRequest]{{"at", func(r KeyRequest) [][]byte { return [][]byte{IDKey(uint64(r.At.UnixNano()))} }}},
}

// CheckRequest is ErrConflict where a request of this name has made a key in
// the last 24 hours. The secret is not stored, so it cannot be answered again.
func CheckRequest(tx *Tx, name string, now time.Time) error {
	if name == "" {
		return nil
	}
	hash := sha256.Sum256([]byte(name))
	was, err := KeyRequestTable.Get(tx, hash[:])
	if errors.Is(err, ErrNotFound) || err == nil && now.Sub(was.At) >= requestSpan {
		return nil
	}
	if err != nil {
		return err
	}
	return ErrConflict.With("A request with this Idempotency-Key made the key %s. Its secret was shown then and is not stored: if it was lost, rotate the key, or revoke it.", was.KeyID).WithField("key_id", was.KeyID)
}

// NoteRequest remembers which key a request of a name has made.
func NoteRequest(tx *Tx, name, keyID string, now time.Time) error {
	if name == "" {
		return nil
	}
	hash := sha256.Sum256([]byte(name))
	return KeyRequestTable.Put(tx, KeyRequest{Hash: hash[:], KeyID: keyID, At: now})
}

// SweepRequests forgets requests that are older than a day, up to 1000 of them.
// It is to be called about once a minute.
func SweepRequests(store *Store, now time.Time) error {
	return Sweep(store, KeyRequestTable, "at", IDKey(uint64(now.Add(-requestSpan).UnixNano())), KeyRequestTable.Delete)
}
