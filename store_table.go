package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"iter"
	"slices"
	"strings"

	"go.etcd.io/bbolt"

	"latchkey/internal/boltcheck"
)

// Table defines how records of type T are stored. Each record is stored as JSON under
// its key. Indexes are updated in the same transaction as the record. A Table has no
// state of its own; its methods work on the transaction that is passed to them. New
// versions of the program may add fields to T but must not remove any.
type Table[T any] struct {
	Name    string         // the bucket of the records
	Key     func(T) []byte // returns the key of a record
	Indexes []Index[T]
	List    *Listing[T] // how lists of the records are made; nil: there are none, or they read every record
	Rows    *RowList[T] // a short form of each record, for other lists; nil: there are none
	Audit   AuditPolicy
	Signed  bool // records have a MAC, see Authenticator; signedRecords must list the table
	// Bounded is what messages call a record, such as "contact". If it is not "", a Writer with an
	// owner cannot store a record that is larger than Bounds.RecordBytes, see Tx.CheckSize.
	Bounded string
	// Owner returns the id of the owner for whom the bytes of a record count, or 0 if they count for
	// nobody. nil: no record counts, see StorageLimit.
	Owner func(T) uint64
	// Imposed means that changes of other owners add records for an owner, such as events for a
	// webhook. The change of another owner is not refused if the owner's storage is full.
	Imposed bool
}

// Index defines how to find records by something other than their key. An index entry
// consists of one of the values that Keys returns, followed by the key of the record.
type Index[T any] struct {
	Name string           // unique in the table; the bucket is the table's name, "/" and Name
	Keys func(T) [][]byte // returns the values under which a record is found; may be empty
}

// IDKey returns the key of a record with a numeric id: eight bytes, in big-endian order,
// so that keys sort in the order of their ids.
func IDKey(id uint64) []byte { return binary.BigEndian.AppendUint64(nil, id) }

// NextID returns a new id for a record of the table. The first id is 1, and each further
// id is larger by 1.
func (t Table[T]) NextID(tx *Tx) (uint64, error) {
	if tx.Refusal != nil {
		return 0, tx.Refusal
	}
	b, err := tx.bucket(t.Name)
	if err != nil {
		return 0, err
	}
	tx.rememberSequence(t.Name)
	tx.Writes++
	return b.NextSequence()
}

// Get returns the record with this key. It returns ErrNotFound if there is no such
// record or if it is forged (see Authenticator), and another error if it is damaged.
func (t Table[T]) Get(tx *Tx, key []byte) (T, error) {
	var v T
	raw := tx.stored(t.Name, key)
	if raw == nil {
		return v, ErrNotFound
	}
	return t.decode(tx, key, raw)
}

// Shared is like Get for a record to which many records of a list refer, such as their owner: a read
// transaction remembers the record. It is shared, so do not change what its fields refer to.
func (t Table[T]) Shared(tx *Tx, key []byte) (T, error) {
	if tx.Bolt.Writable() {
		return t.Get(tx, key)
	}
	if v, ok := tx.shared[sharedRecord{t.Name, string(key)}].(T); ok {
		return v, nil
	}
	v, err := t.Get(tx, key)
	if err == nil && len(tx.shared) < maxShared {
		if tx.shared == nil {
			tx.shared = map[sharedRecord]any{}
		}
		tx.shared[sharedRecord{t.Name, string(key)}] = v
	}
	return v, err
}

// sharedRecord is the table and the key of a record that Table.Shared has returned.
type sharedRecord struct{ table, key string }

// maxShared is the number of records that a transaction remembers.
const maxShared = 1000

// decode checks and decodes a stored record. It returns an error if the record is
// damaged or forged.
func (t Table[T]) decode(tx *Tx, key, raw []byte) (T, error) {
	var v T
	if err := tx.ended(1 + len(raw)/64); err != nil {
		return v, err
	}
	read := Unseal
	if t.Signed {
		read = tx.verified
	}
	value, err := read(t.Name, key, raw)
	if err != nil {
		return v, err
	}
	if err := json.Unmarshal(value, &v); err != nil {
		return v, fmt.Errorf("%s/%x: %w", t.Name, key, err)
	}
	tx.Yield(len(raw))
	return v, nil
}

// Put stores a record under its key and replaces the old record with that key, if any.
// It also updates the index entries of the record, the number that Count returns, and
// the transaction's ChangeSet. It returns ErrValidation if the record is too large, see Bounded.
func (t Table[T]) Put(tx *Tx, v T) error {
	key := t.Key(v)
	old, err := t.old(tx, key)
	if err != nil {
		return err
	}
	value, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s: %w", t.Name, err)
	}
	if t.Bounded != "" {
		if err := tx.CheckSize(t.Bounded, t.Name, key, value); err != nil {
			return err
		}
	}
	put := tx.Put
	if t.Signed {
		put = tx.PutSigned
	}
	had := t.size(tx, key)
	if err := put(t.Name, key, value); err != nil {
		return err
	}
	t.grew(tx, key, had, tableChange[T]{before: old, after: &v})
	for _, ix := range t.Indexes {
		if err := t.reindex(tx, ix, key, tableChange[T]{before: old, after: &v}); err != nil {
			return err
		}
	}
	if err := t.relist(tx, key, tableChange[T]{before: old, after: &v}); err != nil {
		return err
	}
	if err := t.rerow(tx, key, tableChange[T]{before: old, after: &v}); err != nil {
		return err
	}
	if old == nil {
		if err := t.count(tx, 1); err != nil {
			return err
		}
	}
	t.mark(tx)
	return t.trace(tx, tableChange[T]{before: old, after: &v})
}

// Delete removes the record with this key and its index entries. It returns
// ErrNotFound if there is no such record.
func (t Table[T]) Delete(tx *Tx, key []byte) error {
	old, err := t.old(tx, key)
	if err != nil {
		return err
	}
	if old == nil {
		return ErrNotFound
	}
	had := t.size(tx, key)
	if err := tx.Delete(t.Name, key); err != nil {
		return err
	}
	t.grew(tx, key, had, tableChange[T]{before: old})
	for _, ix := range t.Indexes {
		if err := t.reindex(tx, ix, key, tableChange[T]{before: old}); err != nil {
			return err
		}
	}
	if err := t.relist(tx, key, tableChange[T]{before: old}); err != nil {
		return err
	}
	if err := t.rerow(tx, key, tableChange[T]{before: old}); err != nil {
		return err
	}
	t.mark(tx)
	if err := t.count(tx, -1); err != nil {
		return err
	}
	return t.trace(tx, tableChange[T]{before: old})
}

// tableChange is a change of one record. before is nil if the record is new; after is nil
// if the record was deleted.
type tableChange[T any] struct{ before, after *T }

// trace adds a change to the transaction's ChangeSet, if it has one and the table is
// logged.
func (t Table[T]) trace(tx *Tx, c tableChange[T]) error {
	if tx.Trace == nil || t.Audit.Object == "" {
		return nil
	}
	var before, after any
	if c.before != nil {
		before = *c.before
	}
	if c.after != nil {
		after = *c.after
	}
	return tx.Trace.Note(t.Audit, before, after)
}

// old returns the stored record with this key, or nil if there is none.
func (t Table[T]) old(tx *Tx, key []byte) (*T, error) {
	raw := tx.stored(t.Name, key)
	if raw == nil {
		return nil, nil
	}
	v, err := t.decode(tx, key, raw)
	return &v, err
}

// reindex updates the entries in one index for a change of the record with this key.
func (t Table[T]) reindex(tx *Tx, ix Index[T], key []byte, c tableChange[T]) error {
	var before, now [][]byte
	if c.before != nil {
		before = ix.Keys(*c.before)
	}
	if c.after != nil {
		now = ix.Keys(*c.after)
	}
	bucket := t.Name + "/" + ix.Name
	same := func(k []byte) func([]byte) bool { return func(o []byte) bool { return bytes.Equal(k, o) } }
	for _, k := range before {
		if slices.ContainsFunc(now, same(k)) {
			continue
		}
		if err := tx.Delete(bucket, append(slices.Clip(k), key...)); err != nil {
			return err
		}
	}
	for _, k := range now {
		if slices.ContainsFunc(before, same(k)) {
			continue
		}
		entry := append(slices.Clip(k), key...)
		if err := tx.PutRaw(bucket, entry, sealEntry(entry, len(key))); err != nil {
			return err
		}
	}
	return nil
}

// Count returns the number of records in the table. It is fast, because the number is
// stored.
func (t Table[T]) Count(tx *Tx) (int, error) {
	value, err := tx.Get("counts", []byte(t.Name))
	if err != nil || value == nil {
		return 0, err
	}
	return int(binary.BigEndian.Uint64(value)), nil
}

// count adds by to the number that Count returns. by may be negative.
func (t Table[T]) count(tx *Tx, by int) error {
	n, err := t.Count(tx)
	if err != nil {
		return err
	}
	return tx.Put("counts", []byte(t.Name), IDKey(uint64(n+by)))
}

// mark adds the table to the tables that the transaction has changed, so that the
// commit increments its Store.Generation.
func (t Table[T]) mark(tx *Tx) {
	if !slices.Contains(tx.Changed, t.Name) {
		tx.Changed = append(tx.Changed, t.Name)
	}
}

// Direction is the order in which an iterator yields records or index entries.
type Direction int

const (
	Forward  Direction = iota // ascending, in byte order
	Backward                  // descending
)

// All iterates over the records of the table in the order of their keys. The second
// value is an error if the record is damaged; the iteration ends after the first error. It
// leaves out forged records, see Authenticator.
// Do not change the table during the iteration.
func (t Table[T]) All(tx *Tx, order Direction) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		b := tx.open(t.Name)
		if b == nil {
			return
		}
		c := b.Cursor()
		start, step := c.First, c.Next
		if order == Backward {
			start, step = c.Last, c.Prev
		}
		for key, raw := start(); key != nil; key, raw = step() {
			v, err := t.decode(tx, key, raw)
			if IsForged(err) {
				continue
			}
			if !yield(v, err) || err != nil {
				return
			}
		}
	}
}

// Find iterates over the entries of an index that begin with prefix. It yields the part
// of each entry between the prefix and the record's key, and that key. Both slices are
// valid only until the next step. Do not change the table during the iteration. If an
// entry is damaged, Find panics, and the View or Update around it returns an error.
func (t Table[T]) Find(tx *Tx, index string, prefix []byte, order Direction) iter.Seq2[[]byte, []byte] {
	return func(yield func(entry, key []byte) bool) {
		for w := t.Walk(tx, index, prefix, order); w.Entry != nil; w.Next() {
			if !yield(w.Entry, w.Key) {
				return
			}
		}
	}
}

// Walker iterates over the same entries as Find, one step at a time, so that a caller
// can merge several indexes.
type Walker struct {
	Entry  []byte // the part of the present entry after the prefix; nil after the last entry
	Key    []byte // the key of the present entry's record
	tx     *Tx
	bucket string
	prefix []byte
	step   func() (entry, value []byte) // moves the cursor
}

// Walk returns a Walker that is at the first entry that Find would yield. Its Entry is
// nil if there is none.
func (t Table[T]) Walk(tx *Tx, index string, prefix []byte, order Direction) *Walker {
	w := &Walker{tx: tx, bucket: t.Name + "/" + index, prefix: prefix}
	if b := tx.open(w.bucket); b != nil {
		var entry, value []byte
		entry, value, w.step = seek(b.Cursor(), prefix, order)
		w.set(entry, value)
	}
	return w
}

// Next moves to the next entry, in the direction of Walk. Do not call it when Entry is
// nil.
func (w *Walker) Next() { w.set(w.step()) }

// set sets Entry and Key from an index entry and its value. It sets both to nil if the
// entry is nil or does not have the prefix.
func (w *Walker) set(entry, value []byte) {
	if entry == nil || !bytes.HasPrefix(entry, w.prefix) {
		w.Entry, w.Key = nil, nil
		return
	}
	w.tx.step()
	w.Entry, w.Key = split(w.bucket, w.prefix, entry, value)
}

// split returns the part of an index entry between prefix and the record's key, and
// that key. The key is at the end of the entry. split panics with a damage value if the
// entry is damaged.
func split(bucket string, prefix, entry, value []byte) (rest, key []byte) {
	key, err := entryKey(bucket, entry, value)
	if err == nil && len(prefix)+len(key) > len(entry) {
		err = fmt.Errorf("%s/%x: the index entry is too short for the prefix %x", bucket, entry, prefix)
	}
	if err != nil {
		panic(damage{err})
	}
	return entry[len(prefix) : len(entry)-len(key)], key
}

// From is like Find in the order Forward, but it begins at the first entry that is
// equal to prefix + first or sorts after it. It yields entries that begin with prefix.
func (t Table[T]) From(tx *Tx, index string, prefix, first []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func(entry, key []byte) bool) {
		bucket := t.Name + "/" + index
		b := tx.open(bucket)
		if b == nil {
			return
		}
		c := b.Cursor()
		for entry, value := c.Seek(append(bytes.Clone(prefix), first...)); entry != nil && bytes.HasPrefix(entry, prefix); entry, value = c.Next() {
			if tx.step(); !yield(split(bucket, prefix, entry, value)) {
				return
			}
		}
	}
}

// seek moves a cursor to the first entry with a prefix, or to the last one if order is
// Backward. It returns that entry and the function that moves the cursor to the next. The
// caller must check that the entry has the prefix, because there may be none.
func seek(c *bbolt.Cursor, prefix []byte, order Direction) (key, value []byte, step func() ([]byte, []byte)) {
	if order == Forward {
		key, value = c.Seek(prefix)
		return key, value, c.Next
	}
	end := bytes.Clone(prefix)
	for len(end) > 0 && end[len(end)-1] == 0xff {
		end = end[:len(end)-1]
	}
	if len(end) == 0 {
		key, value = c.Last()
		return key, value, c.Prev
	}
	end[len(end)-1]++
	if key, _ = c.Seek(end); key == nil {
		key, value = c.Last()
	} else {
		key, value = c.Prev()
	}
	return key, value, c.Prev
}

// One returns the first record for which the Keys of an index returned value. It
// returns ErrNotFound if there is no such record. It checks that the record that it
// finds has this value, because an index entry has no MAC.
func (t Table[T]) One(tx *Tx, index string, value []byte) (T, error) {
	for rest, key := range t.Find(tx, index, value, Forward) {
		if len(rest) != 0 {
			continue
		}
		v, err := t.Get(tx, key)
		if err == nil && !t.has(v, index, value) {
			err = fmt.Errorf("%s/%s/%x: the index entry does not belong to its record", t.Name, index, value)
		}
		return v, err
	}
	var none T
	return none, ErrNotFound
}

// has reports whether the Keys of an index return value for a record.
func (t Table[T]) has(v T, index string, value []byte) bool {
	for _, ix := range t.Indexes {
		if ix.Name == index {
			return slices.ContainsFunc(ix.Keys(v), func(k []byte) bool { return bytes.Equal(k, value) })
		}
	}
	return false
}

// Has reports whether there is a record for which the Keys of an index returned value.
// It does not read the record. So a unique name stays in use even if its record is
// damaged.
func (t Table[T]) Has(tx *Tx, index string, value []byte) bool {
	for rest := range t.Find(tx, index, value, Forward) {
		if len(rest) == 0 {
			return true
		}
	}
	return false
}

// Checked is a table, or other stored data, whose consistency can be checked.
type Checked interface {
	// Check calls report for each problem that it finds. It returns an error only if
	// the check cannot continue.
	Check(tx *Tx, report func(problem string)) error
	// Derive calls emit for each entry of the buckets that follow from other records, such as indexes.
	// It returns an error if a record that it needs cannot be read, or that of emit.
	Derive(tx *Tx, emit func(DerivedEntry) error) error
	// Adopt replaces these buckets by those that were made with the results of Derive, see Tx.adopt.
	Adopt(tx *Tx) error
}

// CheckResult is the result of CheckStore.
type CheckResult struct {
	Records  int      `json:"records"`       // number of records that were checked
	Entries  int      `json:"index_entries"` // number of index entries that were checked
	Problems []string `json:"problems"`      // at most maxProblems; empty if there are none
	// NotVerified is why the MACs were not verified, or "" if they were.
	NotVerified string `json:"not_verified,omitempty"`
}

// maxProblems is the largest number of problems that a check lists. A damaged file can
// have very many.
const maxProblems = 100

// CheckStore checks the whole store in one transaction: the pages of the file, the
// checksum and MAC of each record, each index entry, and then each of tables. If a page is
// damaged, it checks only the pages. Problems are part of the result. The error is not
// nil if the check could not be completed.
func CheckStore(tx *Tx, tables []Checked) (CheckResult, error) {
	result := CheckResult{Problems: []string{}}
	report := func(problem string) {
		if len(result.Problems) < maxProblems {
			result.Problems = append(result.Problems, problem)
		}
	}
	err := boltcheck.Check(tx.Bolt, tx.File, report, func(done, total int64) error { return tx.Progress.Report("checking pages", done, total) })
	if err != nil || len(result.Problems) > 0 {
		return result, err // buckets with damaged pages cannot be read safely
	}
	counts := map[string]int{}
	seen := tx.count("checking records")
	err = tx.Walk(func(bucket string, key, stored []byte) error {
		if err := seen.next(); err != nil {
			return err
		}
		if strings.Contains(bucket, "/") { // the bucket of an index
			result.Entries++
			if err := checkEntry(tx, bucket, key, stored); err != nil {
				report(err.Error())
			}
			return nil
		}
		if isListBucket(bucket) {
			result.Entries++
			if _, err := Unseal(bucket, key, stored); err != nil {
				report(err.Error())
			}
			return nil
		}
		result.Records++
		counts[bucket]++
		read := Unseal
		if isSigned(bucket, key) {
			read = tx.verify
		}
		value, err := read(bucket, key, stored)
		if err != nil {
			report(err.Error())
		}
		if bucket == "counts" && err == nil && len(value) == 8 {
			counts["\x00"+string(key)] = int(binary.BigEndian.Uint64(value))
		}
		return nil
	})
	if err != nil {
		return result, err
	}
	for name, stored := range counts {
		if table, ok := strings.CutPrefix(name, "\x00"); ok && counts[table] != stored {
			report(fmt.Sprintf("%s: the table has %d records, but its stored count is %d", table, counts[table], stored))
		}
	}
	tx.checked = &recordCount{tx.Progress, "checking indexes", 0, int64(result.Records)}
	tx.recounted = map[uint64]int64{}
	for _, t := range tables {
		if err := t.Check(tx, report); err != nil {
			return result, err
		}
	}
	if len(result.Problems) == 0 { // otherwise there may be records that were not counted
		checkOwnerBytes(tx, tx.recounted, report)
	}
	return result, nil
}

// checkEntry returns an error if an index entry is damaged or its record does not exist.
// bucket is the bucket of the index.
func checkEntry(tx *Tx, bucket string, entry, value []byte) error {
	key, err := entryKey(bucket, entry, value)
	if err != nil {
		return err
	}
	if table, _, _ := strings.Cut(bucket, "/"); !tx.Has(table, key) {
		return fmt.Errorf("%s/%x: the index entry has no record", bucket, entry)
	}
	return nil
}

// Check reports records that cannot be read, records that are stored under a wrong key,
// and indexes with missing or extra entries. It ends at the first record that cannot be
// read, and leaves out forged records. It returns the error of tx.Progress or nil.
func (t Table[T]) Check(tx *Tx, report func(problem string)) error {
	lists := newListCheck(tx, t.Name, report)
	wanted := make([]int, len(t.Indexes))
	forged := false
	for stored, raw := range tx.Range(t.Name, nil) {
		if err := tx.checked.next(); err != nil {
			return err
		}
		v, err := t.decode(tx, stored, raw)
		if IsForged(err) {
			forged = true // CheckStore reports it
			continue
		}
		if err != nil {
			report(err.Error())
			return nil
		}
		key := t.Key(v)
		if t.Owner != nil && tx.recounted != nil && t.Owner(v) != 0 {
			tx.recounted[t.Owner(v)] += int64(len(stored) + len(raw))
		}
		if !tx.Has(t.Name, key) {
			report(fmt.Sprintf("%s/%x: the record is stored under another key", t.Name, key))
		}
		if t.List != nil && len(key) == 8 {
			if err := lists.add(binary.BigEndian.Uint64(key), t.listed(&v)); err != nil {
				return err
			}
		}
		for i, ix := range t.Indexes {
			bucket := t.Name + "/" + ix.Name
			seen := map[string]bool{}
			for _, k := range ix.Keys(v) {
				entry := append(bytes.Clone(k), key...)
				if seen[string(entry)] {
					continue
				}
				seen[string(entry)] = true
				wanted[i]++
				if !tx.Has(bucket, entry) {
					report(fmt.Sprintf("%s/%x: the record has no entry in the index %s", t.Name, key, ix.Name))
				}
			}
		}
	}
	if !forged { // what the lists have of a forged record is not known
		lists.end()
		t.checkRows(tx, report)
	}
	for i, ix := range t.Indexes {
		if forged {
			break // the number of entries of a forged record is not known
		}
		if found := tx.Count(t.Name + "/" + ix.Name); found != wanted[i] {
			report(fmt.Sprintf("%s: the index %s has %d entries, but the records require %d", t.Name, ix.Name, found, wanted[i]))
		}
	}
	return nil
}
