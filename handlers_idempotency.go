package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"iter"
	"net/http"
	"time"
)

// replaySpan is how long the answer to a request with an Idempotency-Key is stored.
const replaySpan = 24 * time.Hour

// replay is the stored answer to a request with an Idempotency-Key.
type replay struct {
	Hash   []byte    `json:"hash"` // SHA-256 of the key's id, Creation.Purpose and the Idempotency-Key
	Body   []byte    `json:"body"` // SHA-256 of the request body
	Status int       `json:"status"`
	Answer []byte    `json:"answer"`
	At     time.Time `json:"at"`              // upper bound of the time, so that a wrong clock does not shorten replaySpan
	Owner  uint64    `json:"owner,omitempty"` // of the key; 0 in records of earlier versions
}

// replayTable stores the replays of the last 24 hours.
var replayTable = Table[replay]{
	Name:    "replays",
	Bounded: "answer that is stored for Idempotency-Key",
	Owner:   func(r replay) uint64 { return r.Owner },
	Key:     func(r replay) []byte { return r.Hash },
	Indexes: []Index[replay]{{"at", func(r replay) [][]byte { return [][]byte{IDKey(uint64(r.At.UnixNano()))} }}},
}

// IdempotencyTables returns the tables of this file, so that the store can check their consistency.
func IdempotencyTables() []Checked { return []Checked{&keyRequestTable, &replayTable} }

// RequestName returns the value of Idempotency-Key, or "" if the header has no such field. It
// returns ErrValidation if the field is repeated, empty or longer than 255 bytes.
func RequestName(h http.Header) (string, error) {
	values := h.Values("Idempotency-Key")
	if len(values) == 0 {
		return "", nil
	}
	if len(values) > 1 || values[0] == "" || len(values[0]) > 255 {
		return "", ErrValidation.With("Idempotency-Key must be sent only once and have 1 to 255 characters, such as a UUID.")
	}
	return values[0], nil
}

// Creation describes the object that a call of Once creates.
type Creation struct {
	Store   *Store
	Purpose string // the kind of object; equal Idempotency-Keys for different kinds are independent
	Status  int    // status of the answer if create succeeds
	Body    *Body  // body of the request; a repeated request must have an equal body
	// Refer returns the error of a request that refers to objects which do not exist for the key. A key whose Resources
	// have changed since the first request must not see its answer again. It is needed only for a key with Resources.
	Refer func(*Tx) error
}

// Once runs create in a transaction and answers with c.Status and the result as JSON. If the same
// API key has sent the same Idempotency-Key for the same purpose within the last 24 hours, Once
// does not run create. It sends the first answer again, with the header field Idempotency-Replayed
// (draft-ietf-httpapi-idempotency-key-header-07, section 2). It returns ErrReplay if the first
// request had another body. The same transaction stores the answer, so after a crash either both
// the object and its answer are stored or neither is. create may run more than once.
func Once(w http.ResponseWriter, r *Request, c Creation, create func(*Tx) (any, error)) error {
	name, err := RequestName(r.Header)
	if err != nil {
		return err
	}
	var hash, sum [sha256.Size]byte
	if name != "" {
		hash = sha256.Sum256([]byte(r.Key.ID + "\x00" + c.Purpose + "\x00" + name))
		sum = sha256.Sum256(c.Body.Bytes())
	}
	var answer []byte
	status, replayed := c.Status, false
	err = r.Update(c.Store, func(tx *Tx) error {
		if replayed = false; name != "" {
			was, err := replayTable.Get(tx, hash[:])
			switch {
			case err == nil && r.Earliest.Sub(was.At) < replaySpan:
				if !bytes.Equal(was.Body, sum[:]) {
					return ErrReplay
				}
				status, answer, replayed = was.Status, was.Answer, true
				if r.Key.Resources != nil {
					return c.Refer(tx)
				}
				return nil
			case err != nil && !errors.Is(err, ErrNotFound):
				return err
			}
		}
		made, err := create(tx)
		if err != nil {
			return err
		}
		if answer, err = EncodeJSON(made); err != nil || name == "" {
			return err
		}
		return replayTable.Put(tx, replay{Hash: hash[:], Body: sum[:], Status: status, Answer: answer, At: r.Latest, Owner: r.Key.Owner})
	})
	if err != nil {
		return err
	}
	if replayed {
		w.Header().Set("Idempotency-Replayed", "true")
	}
	return WriteBody(w, status, answer)
}

// SweepReplays deletes up to 1000 stored answers that are at least 24 hours old. Call it about once
// a minute. now must be from Clock.Earliest.
func SweepReplays(store *Store, now time.Time) error {
	return Sweep(store, &replayTable, "at", IDKey(uint64(now.Add(-replaySpan).UnixNano())))
}

// sweptTable is a Table with records of any type.
type sweptTable interface {
	Find(tx *Tx, index string, prefix []byte, order Direction) iter.Seq2[[]byte, []byte]
	Delete(tx *Tx, key []byte) error
}

// Sweep deletes up to 1000 records of table whose entry in the index is at most bound. It deletes
// them in one write transaction. If there are no such records, it starts no write transaction.
func Sweep(store *Store, table sweptTable, index string, bound []byte) error {
	due := func(tx *Tx) (keys [][]byte) {
		for at, key := range table.Find(tx, index, nil, Forward) {
			if len(keys) == 1000 || bytes.Compare(at, bound) > 0 {
				break
			}
			keys = append(keys, bytes.Clone(key))
		}
		return keys
	}
	some := false
	err := store.View(func(tx *Tx) error {
		some = len(due(tx)) > 0
		return nil
	})
	if err != nil || !some {
		return err
	}
	return store.Update(func(tx *Tx) error {
		for _, key := range due(tx) {
			if err := table.Delete(tx, key); err != nil {
				return err
			}
		}
		return nil
	})
}

// requestSpan is how long the store remembers a request that created or rotated a key.
const requestSpan = 24 * time.Hour

// keyRequest records that a request with an Idempotency-Key created or rotated a key.
type keyRequest struct {
	Hash  []byte    `json:"hash"` // SHA-256 of the Idempotency-Key
	KeyID string    `json:"key_id"`
	At    time.Time `json:"at"`
}

// keyRequestTable stores the keyRequests of the last 24 hours.
var keyRequestTable = Table[keyRequest]{
	Name:    "key_requests",
	Key:     func(r keyRequest) []byte { return r.Hash },
	Indexes: []Index[keyRequest]{{"at", func(r keyRequest) [][]byte { return [][]byte{IDKey(uint64(r.At.UnixNano()))} }}},
}

// CheckRequest returns ErrConflict if a request with this Idempotency-Key created or rotated a key
// within the last 24 hours. The first answer cannot be sent again, because the secret in it is not stored.
// CheckRequest returns nil if name is "". earliest is Request.Earliest.
func CheckRequest(tx *Tx, name string, earliest time.Time) error {
	if name == "" {
		return nil
	}
	hash := sha256.Sum256([]byte(name))
	was, err := keyRequestTable.Get(tx, hash[:])
	if errors.Is(err, ErrNotFound) || err == nil && earliest.Sub(was.At) >= requestSpan {
		return nil
	}
	if err != nil {
		return err
	}
	return ErrConflict.With("An earlier request with this Idempotency-Key created the key %s or gave it a new secret. The secret was shown only in that answer and is not stored. If it was lost, rotate or revoke the key.", was.KeyID).WithField("key_id", was.KeyID)
}

// NoteRequest stores that a request with this Idempotency-Key created or rotated the key keyID. It does
// nothing if name is "". latest is Request.Latest.
func NoteRequest(tx *Tx, name, keyID string, latest time.Time) error {
	if name == "" {
		return nil
	}
	hash := sha256.Sum256([]byte(name))
	return keyRequestTable.Put(tx, keyRequest{Hash: hash[:], KeyID: keyID, At: latest})
}

// SweepRequests deletes up to 1000 stored keyRequests that are at least 24 hours old. Call it about
// once a minute. now must be from Clock.Earliest.
func SweepRequests(store *Store, now time.Time) error {
	return Sweep(store, &keyRequestTable, "at", IDKey(uint64(now.Add(-requestSpan).UnixNano())))
}
