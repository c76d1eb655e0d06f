package main

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
)

// The store counts the bytes of the records of each owner, so that one owner cannot fill the disk. A
// record counts its key and its contents as they are stored. Index entries do not count, because
// they belong to the form of the database and change with it.

// DefaultOwner is the name of the owner who gets a record if the request that
// creates it names no owner.
const DefaultOwner = "admin"

// sandboxBit is set in the id of a sandbox. The other bits are the id of the owner whose sandbox it is. Ids of owners
// are counted from 1 and never get so large; a JSON number of this size is exact.
const sandboxBit = 1 << 40

// SandboxOf returns the id of the sandbox of an owner. A sandbox is an owner of its own wherever records and limits
// belong to an owner, so all rules that keep owners apart keep it apart from the owner's live records.
func SandboxOf(owner uint64) uint64 { return owner | sandboxBit }

// IsSandbox reports whether an owner id is that of a sandbox.
func IsSandbox(owner uint64) bool { return owner&sandboxBit != 0 }

// LiveOwner returns the id of the owner whose sandbox this is. For the id of an owner it returns the same id.
func LiveOwner(owner uint64) uint64 { return owner &^ sandboxBit }

// SameSpace returns the id of an owner, or of that owner's sandbox if like is the id of a sandbox.
func SameSpace(owner, like uint64) uint64 { return owner | like&sandboxBit }

// Space selects the records in a list of the operator.
type Space uint8

// The spaces.
const (
	bothSpaces   Space = iota
	LiveSpace          // the records that are in no sandbox
	sandboxSpace       // those in sandboxes
)

// SpaceWith returns the space with sandboxes, or the live one.
func SpaceWith(sandboxes bool) Space {
	if sandboxes {
		return sandboxSpace
	}
	return LiveSpace
}

// SandboxSet returns the set of a Listing that has the records in sandboxes, by which Query.Space selects.
// owner returns the owner of a record.
func SandboxSet[T any](owner func(T) uint64) Index[T] {
	return Index[T]{"sandbox", func(v T) [][]byte {
		if !IsSandbox(owner(v)) {
			return nil
		}
		return [][]byte{sandboxed.Value}
	}}
}

// sandboxed is the filter of the records in sandboxes, for tables with a SandboxSet.
var sandboxed = Filter{"sandbox", []byte{1}}

// ownerBytesBucket is the bucket with the bytes of each owner, by the owner's id.
const ownerBytesBucket = "owner_bytes"

// storageLimit is the stored limit of an owner who does not have the default,
// Bounds.OwnerBytes.
type storageLimit struct {
	Owner uint64 `json:"id"`
	Bytes int64  `json:"storage_bytes"` // 0 means no limit
}

var storageLimitTable = Table[storageLimit]{
	Name: "owner_storage", Audit: AuditPolicy{Object: "owner"},
	Key: func(l storageLimit) []byte { return IDKey(l.Owner) },
}

// StorageTables returns the table of storage limits, for store checks.
func StorageTables() []Checked { return []Checked{&storageLimitTable} }

// ownerGrowth is how much a change adds to the bytes of an owner.
type ownerGrowth struct {
	bytes   int64 // may be negative
	refused bool  // the change is refused if the owner has no space for it
	records int   // records added, less those deleted
}

// grew notes that a record of owner now needs more bytes than before. records is 1 for a new
// record, -1 for a deleted one and 0 otherwise. It does nothing for owner 0.
func (tx *Tx) grew(owner uint64, g ownerGrowth) {
	if owner == 0 {
		return
	}
	if tx.growth == nil {
		tx.growth = map[uint64]ownerGrowth{}
	}
	sum := tx.growth[owner]
	tx.growth[owner] = ownerGrowth{sum.bytes + g.bytes, sum.refused || g.refused, sum.records + g.records}
}

// counting returns a function that calls run and the Noter of a Writer, and then adds the bytes of the records that run has
// changed to the counters of their owners. It returns ErrStorageFull if an owner has no space for
// the change, see Writer.
func counting(by Writer, run func(*Tx) error) func(*Tx) error {
	return func(tx *Tx) error {
		clear(tx.growth)
		if err := run(tx); err != nil {
			return err
		}
		if by.Noter != nil && len(tx.Touched) > 0 {
			if err := by.Noter.NoteWrites(tx); err != nil {
				return err
			}
		}
		for owner, g := range tx.growth {
			if err := tx.addBytes(owner, g); err != nil {
				return err
			}
		}
		return nil
	}
}

// addBytes adds g to the counter of an owner.
func (tx *Tx) addBytes(owner uint64, g ownerGrowth) error {
	if g.bytes == 0 {
		return nil
	}
	had, err := OwnerBytes(tx, owner)
	if err != nil {
		return err
	}
	now := max(0, had+g.bytes)
	if g.bytes > 0 && g.refused && tx.Writer.Owner != 0 && !tx.Writer.Finishes {
		limit, _, err := StorageLimit(tx, owner)
		if err != nil {
			return err
		}
		if limit > 0 && now > limit && !g.small(now, limit) {
			return ErrStorageFull.With("This change needs %s more bytes, but %s of the %s bytes that the owner may store are used. "+
				"Delete what is no longer needed, or ask the operator for more storage.", Figure(int(g.bytes)), Figure(int(had)), Figure(int(limit)))
		}
	}
	return tx.Put(ownerBytesBucket, IDKey(owner), IDKey(uint64(now)))
}

// small reports whether a change is accepted although the owner then has more bytes than limit. It
// is one that adds no record and only a few bytes, such as those of a longer timestamp, so that
// records can still be changed and shortened. These few bytes cannot add up to much.
func (g ownerGrowth) small(now, limit int64) bool {
	const fewBytes = 64
	return g.records <= 0 && g.bytes <= fewBytes && now <= limit+limit/16
}

// OwnerBytes returns how many bytes the records of an owner need.
func OwnerBytes(tx *Tx, owner uint64) (int64, error) {
	value, err := tx.Get(ownerBytesBucket, IDKey(owner))
	if err != nil || value == nil {
		return 0, err
	}
	if len(value) != 8 {
		return 0, fmt.Errorf("%s/%x: the counter has %d bytes instead of 8", ownerBytesBucket, IDKey(owner), len(value))
	}
	return int64(binary.BigEndian.Uint64(value)), nil
}

// countedOwners iterates over the ids of the owners whose bytes are counted, in ascending order.
func countedOwners(tx *Tx) iter.Seq[uint64] {
	return func(yield func(uint64) bool) {
		for key := range tx.Range(ownerBytesBucket, nil) {
			if len(key) == 8 && !yield(binary.BigEndian.Uint64(key)) {
				return
			}
		}
	}
}

// StorageLimit returns how many bytes the records of an owner may need; 0 means no limit. own is
// false if the owner has the default, Bounds.OwnerBytes.
func StorageLimit(tx *Tx, owner uint64) (limit int64, own bool, err error) {
	l, err := storageLimitTable.Get(tx, IDKey(owner))
	if errors.Is(err, ErrNotFound) {
		return tx.Bounds.OwnerBytes, false, nil
	}
	return l.Bytes, true, err
}

// OwnerStorage is how much an owner stores.
type OwnerStorage struct {
	Owner        uint64
	Bytes, Limit int64 // Limit is 0 if there is none
	Own          bool  // Limit is the owner's own, not Bounds.OwnerBytes
}

// StorageOf returns how much an owner stores.
func StorageOf(tx *Tx, owner uint64) (OwnerStorage, error) {
	bytes, err := OwnerBytes(tx, owner)
	if err != nil {
		return OwnerStorage{}, err
	}
	limit, own, err := StorageLimit(tx, owner)
	return OwnerStorage{owner, bytes, limit, own}, err
}

// OwnersStorage iterates over the storage of the owners whose bytes are counted, by ascending id. After
// an error it ends.
func OwnersStorage(tx *Tx) iter.Seq2[OwnerStorage, error] {
	return func(yield func(OwnerStorage, error) bool) {
		limits := openChunks(tx, storageLimitTable.Name)
		for key, stored := range tx.Range(ownerBytesBucket, nil) {
			value, err := Unseal(ownerBytesBucket, key, stored)
			if err == nil && (len(key) != 8 || len(value) != 8) {
				err = fmt.Errorf("%s/%x: this is not a counter of bytes", ownerBytesBucket, key)
			}
			if err != nil {
				yield(OwnerStorage{}, err)
				return
			}
			s := OwnerStorage{Owner: binary.BigEndian.Uint64(key), Bytes: int64(binary.BigEndian.Uint64(value)), Limit: tx.Bounds.OwnerBytes}
			if limits.cursor != nil && limits.seek(s.Owner) {
				s.Limit, s.Own, err = StorageLimit(tx, s.Owner)
			}
			if !yield(s, err) || err != nil {
				return
			}
		}
	}
}

// warnPercent is the used part of a limit from which on an owner's storage is reported.
const warnPercent = 80

// FullOwners returns the owners whose storage is at least 80 % full, by ascending id. It leaves out sandboxes, which anybody
// concerned can empty.
func FullOwners(tx *Tx) (list []OwnerStorage, err error) {
	for s, err := range OwnersStorage(tx) {
		if err != nil {
			return nil, err
		}
		if s.Filling(warnPercent) && !IsSandbox(s.Owner) {
			list = append(list, s)
		}
	}
	return list, nil
}

// Filling reports whether at least percent of the limit is used.
func (s OwnerStorage) Filling(percent int64) bool {
	return s.Limit > 0 && s.Bytes >= s.Limit/100*percent+s.Limit%100*percent/100
}

// LimitStorage sets how many bytes the records of an owner may need; 0 means no limit.
func LimitStorage(tx *Tx, owner uint64, limit int64) error {
	return storageLimitTable.Put(tx, storageLimit{Owner: owner, Bytes: limit})
}

// DefaultStorage restores the default limit of an owner, Bounds.OwnerBytes.
func DefaultStorage(tx *Tx, owner uint64) error {
	if err := storageLimitTable.Delete(tx, IDKey(owner)); !errors.Is(err, ErrNotFound) {
		return err
	}
	return nil
}

// OwnedBucket is the name of a bucket with one record for each owner, under the owner's id. The bytes
// of the record count for the owner.
type OwnedBucket string

// Put stores the record of an owner.
func (b OwnedBucket) Put(tx *Tx, owner uint64, value []byte) error {
	key := IDKey(owner)
	had := storedSize(tx, string(b), key)
	if err := tx.Put(string(b), key, value); err != nil {
		return err
	}
	if had > 0 {
		tx.grew(owner, ownerGrowth{-had, true, -1})
	}
	tx.grew(owner, ownerGrowth{storedSize(tx, string(b), key), true, 1})
	return b.sign(tx, owner, had == 0)
}

// Check adds up the bytes of the records for the check of the counters. CheckStore checks the
// records themselves.
func (b OwnedBucket) Check(tx *Tx, report func(problem string)) error {
	for key, raw := range tx.Range(string(b), nil) {
		if len(key) != 8 {
			report(fmt.Sprintf("%s/%x: the key is not the id of an owner", string(b), key))
			continue
		}
		if tx.recounted != nil {
			tx.recounted[binary.BigEndian.Uint64(key)] += int64(len(key) + len(raw))
		}
	}
	return nil
}

// Derive adds up the bytes of the records, like Check.
func (b OwnedBucket) Derive(tx *Tx, _ func(DerivedEntry) error) error {
	return b.Check(tx, func(string) {})
}

// Adopt does nothing, because no bucket follows from the records.
func (b OwnedBucket) Adopt(*Tx) error { return nil }

// storeOwnerBytes replaces the counters of all owners.
func (tx *Tx) storeOwnerBytes(sums map[uint64]int64) error {
	for owner := range countedOwners(tx) {
		if _, found := sums[owner]; !found {
			sums[owner] = 0
		}
	}
	return tx.putOwnerBytes(sums)
}

// putOwnerBytes stores the counters of owners. It does so by their ids: in any other order bbolt moves the keys that it has
// already stored in this transaction again and again.
func (tx *Tx) putOwnerBytes(sums map[uint64]int64) error {
	for _, owner := range slices.Sorted(maps.Keys(sums)) {
		if err := tx.Put(ownerBytesBucket, IDKey(owner), IDKey(uint64(sums[owner]))); err != nil {
			return err
		}
	}
	return nil
}

// checkOwnerBytes reports each owner whose counter differs from wanted.
func checkOwnerBytes(tx *Tx, wanted map[uint64]int64, report func(problem string)) {
	owners := map[uint64]bool{}
	for owner := range wanted {
		owners[owner] = true
	}
	for owner := range countedOwners(tx) {
		owners[owner] = true
	}
	for owner := range owners {
		stored, err := OwnerBytes(tx, owner)
		if err != nil {
			report(err.Error())
		} else if stored != wanted[owner] {
			report(fmt.Sprintf("%s: the records of owner %d need %d bytes, but the stored number is %d", ownerBytesBucket, owner, wanted[owner], stored))
		}
	}
}

// ownedTables lists the tables of format 3 whose records count for an owner. The id of the owner is
// the member "owner" of a record.
var ownedTables = []string{"agents", "calls", "contacts", "events", "schedules", "variables", "webhooks", "webhook_bodies", "webhook_events"}

// countOwners is a step of format3. It counts the bytes of each owner. The owners of an older store
// have no limit, so that nothing that worked before the upgrade is refused after it.
func countOwners(tx *Tx) error {
	sums := map[uint64]int64{}
	for _, table := range ownedTables {
		for key, raw := range tx.Range(table, nil) {
			value, err := Unseal(table, key, raw)
			if err = errors.Join(err, tx.changing()); err != nil {
				return err
			}
			var record struct {
				Owner uint64 `json:"owner"`
			}
			if err := json.Unmarshal(value, &record); err != nil {
				return fmt.Errorf("%s/%x: %w", table, key, err)
			}
			if record.Owner != 0 {
				sums[record.Owner] += int64(len(key) + len(raw))
			}
		}
	}
	for key, raw := range tx.Range("business_context", nil) {
		sums[binary.BigEndian.Uint64(key)] += int64(len(key) + len(raw))
	}
	if err := tx.putOwnerBytes(sums); err != nil {
		return err
	}
	return keepOwnersUnlimited(tx)
}

// keepOwnersUnlimited stores for each owner that there is no limit.
func keepOwnersUnlimited(tx *Tx) error {
	var owners [][]byte
	for key := range tx.Range("owners", nil) {
		owners = append(owners, slices.Clone(key))
	}
	for _, key := range owners {
		value := fmt.Appendf(nil, `{"id":%d,"storage_bytes":0}`, binary.BigEndian.Uint64(key))
		if err := tx.Put("owner_storage", key, value); err != nil {
			return err
		}
	}
	if len(owners) == 0 {
		return nil
	}
	return tx.Put("counts", []byte("owner_storage"), IDKey(uint64(len(owners))))
}

// Naming returns nil, because these are no records with names.
func (OwnedBucket) Naming() *Naming { return nil }
