package main

import (
	"encoding/json"
	"errors"
	"time"
)

// The kinds of factors.
const factorPasskey = "passkey"

// factor is the stored record of something with which an operator logs in besides a password.
type factor struct {
	ID         uint64          `json:"id"`
	Operator   uint64          `json:"operator"`
	Kind       string          `json:"kind"`
	Name       string          `json:"name"`
	CreatedAt  time.Time       `json:"created_at"`
	LastUsedAt time.Time       `json:"last_used_at,omitzero"`
	Secret     []byte          `json:"secret,omitempty"`
	Step       int64           `json:"step,omitempty"`
	Credential json.RawMessage `json:"credential,omitempty"`
}

var factorTable = Table[factor]{
	Name: "factors", Signed: true, Audit: AuditPolicy{Object: "factor", Untold: []string{"last_used_at", "credential"}},
	Key:     func(f factor) []byte { return IDKey(f.ID) },
	Indexes: []Index[factor]{{"operator", func(f factor) [][]byte { return [][]byte{IDKey(f.Operator)} }}},
}

// factorsOf returns the factors of an operator, the oldest first.
func factorsOf(tx *Tx, operator uint64) (list []factor, err error) {
	for _, key := range factorTable.Find(tx, "operator", IDKey(operator), Forward) {
		f, err := factorTable.Get(tx, key)
		if err != nil {
			return nil, err
		}
		list = append(list, f)
	}
	return list, nil
}

// putFactor stores a factor. A new one has the id 0, and gets one.
func putFactor(tx *Tx, f *factor) (err error) {
	if f.ID == 0 {
		if f.ID, err = factorTable.NextID(tx); err != nil {
			return err
		}
	}
	return factorTable.Put(tx, *f)
}

// removeFactor deletes a factor.
func removeFactor(tx *Tx, id uint64) error { return errors.Join(factorTable.Delete(tx, IDKey(id))) }
