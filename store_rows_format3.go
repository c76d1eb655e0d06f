package main

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"latchkey/internal/fold"
)

// keyFormat2 has the members of keys of format 2 that the list of keys of format 3 needs.
type keyFormat2 struct {
	ID             string            `json:"id"`
	Name           string            `json:"name"`
	Hint           string            `json:"hint"`
	Permissions    []string          `json:"permissions"`
	OwnPermissions []string          `json:"own_permissions"`
	Environment    string            `json:"environment"`
	OwnerName      string            `json:"owner_name"`
	Metadata       map[string]string `json:"metadata"`
	Paused         bool              `json:"paused"`
	CreatedAt      time.Time         `json:"created_at"`
	ExpiresAt      time.Time         `json:"expires_at"`
	RevokedAt      time.Time         `json:"revoked_at"`
}

// permissionsFormat3 has the bits of the permissions in rows of format 3.
var permissionsFormat3 = map[string]uint64{
	"can_read_calls": 1, "can_initiate_calls": 1 << 1, "can_read_agents": 1 << 2, "can_read_contacts": 1 << 3, "can_read_calendar": 1 << 4,
	"can_write_calendar": 1 << 5, "can_write_contacts": 1 << 6, "can_verify_keys": 1 << 63,
}

// row returns the row of the key in format 3.
func (k keyFormat2) row() []byte {
	const paused, revoked = 1, 2
	row := []byte{0}
	if k.Paused {
		row[0] |= paused
	}
	if !k.RevokedAt.IsZero() {
		row[0] |= revoked
	}
	var permissions uint64
	for _, name := range k.Permissions {
		permissions |= permissionsFormat3[name]
	}
	row = binary.BigEndian.AppendUint64(row, permissions)
	for _, t := range []time.Time{k.ExpiresAt, k.CreatedAt} {
		row = binary.BigEndian.AppendUint64(row, uint64(t.Unix()))
		row = binary.BigEndian.AppendUint32(row, uint32(t.Nanosecond()))
	}
	searched := fold.Search(strings.Join([]string{k.Name, k.ID, k.Hint, k.OwnerName, k.Environment, k.Metadata["note"]}, "\n"))
	for _, text := range []string{k.ID, k.Environment, k.OwnerName, strings.Join(k.OwnPermissions, "\n"), searched} {
		row = append(binary.AppendUvarint(row, uint64(len(text))), text...)
	}
	return row
}

// addKeyRows makes the list of keys of format 3 from the keys of format 2 and their last uses. It is
// a step of the migration to format 3.
func addKeyRows(tx *Tx) error {
	for key, stored := range tx.Range("keys", nil) {
		var k keyFormat2
		value, err := Unseal("keys", key, stored)
		if err == nil {
			err = json.Unmarshal(value, &k)
		}
		if err != nil {
			return fmt.Errorf("keys/%s: %w", key, err)
		}
		r := rowRecord{key: key, row: k.row(), value: func() (uint64, error) { return useFormat2(tx, key) }}
		if err := errors.Join(r.store(tx, "keys"), tx.changing()); err != nil {
			return err
		}
	}
	return nil
}

// useFormat2 returns the time of the last use of a key in Unix nanoseconds, or 0 if it was never used.
func useFormat2(tx *Tx, key []byte) (uint64, error) {
	var use struct {
		At time.Time `json:"at"`
	}
	value, err := tx.Get("key_uses", key)
	if err == nil && value != nil {
		err = json.Unmarshal(value, &use)
	}
	if err != nil || use.At.IsZero() {
		return 0, err
	}
	return uint64(use.At.UnixNano()), nil
}
