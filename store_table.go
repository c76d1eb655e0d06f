package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"iter"
	"strings"

	"go.etcd.io/bbolt"

	"latchkey/internal/boltcheck"
)

// Table defines how records of type T are stored. Each record is stored as JSON under
// its key. Indexes are updated in the same transaction as the record. A Table has no
// state of its own; its methods work on the transaction that is passed to them. New
// versions of the program may add fields to T but must not remove any. What the methods do is in
// store_records.go, without the type.
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
	// Secure reports whether a change of a record takes rights away, see Tx.Secure. before is nil for a new record, and
	// after for one that is deleted. nil: no change does.
	Secure func(before, after *T) bool
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
func (t *Table[T]) NextID(tx *Tx) (uint64, error) { return nextID(tx, t.Name) }

func nextID(tx *Tx, table string) (uint64, error) {
	if tx.Refusal != nil {
		return 0, tx.Refusal
	}
	b, err := tx.bucket(table)
	if err != nil {
		return 0, err
	}
	tx.rememberSequence(table)
	tx.written.note(sequenceBucket, []byte(table), nil)
	tx.Writes++
	return b.NextSequence()
}

// Get returns the record with this key. It returns ErrNotFound if there is no such
// record or if it is forged (see Authenticator), and another error if it is damaged.
func (t *Table[T]) Get(tx *Tx, key []byte) (T, error) {
	var v T
	err := getRecord(tx, t, key, &v)
	return v, err
}

// Shared is like Get for a record to which many records of a list refer, such as their owner: a read
// transaction remembers the record. It is shared, so do not change what its fields refer to.
func (t *Table[T]) Shared(tx *Tx, key []byte) (T, error) {
	v, err := getShared(tx, t, key)
	return *v.(*T), err
}

// getShared returns a pointer to a record, see Table.Shared. The record is empty if there is an error.
func getShared(tx *Tx, t anyTable, key []byte) (any, error) {
	place := sharedRecord{t.settings().name, string(key)}
	if v, ok := tx.shared[place]; ok {
		return v, nil
	}
	v := t.blank()
	if err := getRecord(tx, t, key, v); err != nil {
		return t.blank(), err
	}
	if !tx.Bolt.Writable() && len(tx.shared) < maxShared {
		if tx.shared == nil {
			tx.shared = map[sharedRecord]any{}
		}
		tx.shared[place] = v
	}
	return v, nil
}

// sharedRecord is the table and the key of a record that Table.Shared has returned.
type sharedRecord struct{ table, key string }

// maxShared is the number of records that a transaction remembers.
const maxShared = 1000

// decode checks and decodes a stored record. It returns an error if the record is
// damaged or forged.
func (t *Table[T]) decode(tx *Tx, key, raw []byte) (T, error) {
	var v T
	err := decodeRecord(tx, t, storedRecord{key, raw}, &v)
	return v, err
}

// Put stores a record under its key and replaces the old record with that key, if any.
// It also updates the index entries of the record, the number that Count returns, and
// the transaction's ChangeSet. It returns ErrValidation if the record is too large, see Bounded.
func (t *Table[T]) Put(tx *Tx, v T) error { return putRecord(tx, t, &v) }

// Delete removes the record with this key and its index entries. It returns
// ErrNotFound if there is no such record.
func (t *Table[T]) Delete(tx *Tx, key []byte) error { return deleteRecord(tx, t, key) }

// Count returns the number of records in the table. It is fast, because the number is
// stored.
func (t *Table[T]) Count(tx *Tx) (int, error) { return countOf(tx, t.Name) }

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
func (t *Table[T]) All(tx *Tx, order Direction) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		eachRecord(tx, t, order, func(record any, err error) bool { return yield(*record.(*T), err) })
	}
}

// Find iterates over the entries of an index that begin with prefix. It yields the part
// of each entry between the prefix and the record's key, and that key. Both slices are
// valid only until the next step. Do not change the table during the iteration. If an
// entry is damaged, Find panics, and the View or Update around it returns an error.
func (t *Table[T]) Find(tx *Tx, index string, prefix []byte, order Direction) iter.Seq2[[]byte, []byte] {
	return findEntries(tx, t.Name+"/"+index, prefix, order)
}

func findEntries(tx *Tx, bucket string, prefix []byte, order Direction) iter.Seq2[[]byte, []byte] {
	return func(yield func(entry, key []byte) bool) {
		for w := walkEntries(tx, bucket, prefix, order); w.Entry != nil; w.Next() {
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
func (t *Table[T]) Walk(tx *Tx, index string, prefix []byte, order Direction) *Walker {
	return walkEntries(tx, t.Name+"/"+index, prefix, order)
}

func walkEntries(tx *Tx, bucket string, prefix []byte, order Direction) *Walker {
	w := &Walker{tx: tx, bucket: bucket, prefix: prefix}
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
func (t *Table[T]) From(tx *Tx, index string, prefix, first []byte) iter.Seq2[[]byte, []byte] {
	return indexFrom(tx, t.Name+"/"+index, prefix, first)
}

func indexFrom(tx *Tx, bucket string, prefix, first []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func(entry, key []byte) bool) {
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
func (t *Table[T]) One(tx *Tx, index string, value []byte) (T, error) {
	var v T
	err := findRecord(tx, t, Filter{index, value}, &v)
	return v, err
}

// Has reports whether there is a record for which the Keys of an index returned value.
// It does not read the record. So a unique name stays in use even if its record is
// damaged.
func (t *Table[T]) Has(tx *Tx, index string, value []byte) bool {
	return hasEntry(tx, t.Name+"/"+index, value)
}

func hasEntry(tx *Tx, bucket string, value []byte) bool {
	for rest := range findEntries(tx, bucket, value, Forward) {
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
	// Naming returns how the audit log finds the names of the records, or nil if they have none.
	Naming() *Naming
}

// Naming finds the names of the records of a table.
type Naming struct {
	Kind string // what the audit log calls the records, such as "team"
	// Of returns the present name of the record that the audit log calls object, such as "team 3". The
	// name is "" for a record without one, and for a personal one. Of returns false if the table has no such
	// record.
	Of func(tx *Tx, object string) (name string, exists bool)
	// Find returns the records that have a name now, as the audit log calls them. Case and accents do not
	// matter. It looks at no more than MaxNamed records whose texts have the words of the name.
	Find func(ctx context.Context, tx *Tx, name string) (objects []string, err error)
}

// MaxNamed is the number of records with a similar name that Naming.Find looks at.
const MaxNamed = 200

// Naming returns how the names of the records are found.
func (t *Table[T]) Naming() *Naming {
	if t.Audit.Object == "" {
		return nil
	}
	return namingOf(t)
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
// checksum and MAC of each record, each index entry, and then each of tables with the bytes of the
// owners; tables is nil for a store of an earlier format. If a page is damaged, it checks only the pages. Problems are part of the result. The error is not
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
	if len(result.Problems) == 0 && len(tables) > 0 { // otherwise there may be records that were not counted
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
func (t *Table[T]) Check(tx *Tx, report func(problem string)) error { return checkTable(tx, t, report) }
