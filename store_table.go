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

// Table defines how records of one type are stored as JSON, each under its key,
// with indexes that change together with them. A Table holds no state; its
// methods work on the transaction passed to them. The type of the records may
// gain fields but never lose one.
type Table[T any] struct {
	Name    string
	Key     func(T) []byte
	Indexes []Index[T]
	Audit   AuditPolicy
}

// Index finds records by something other than their key. Keys returns the index
// entries of a record as bytes to sort and search by. Table.Find iterates over
// them.
type Index[T any] struct {
	Name string
	Keys func(T) [][]byte
}

// IDKey returns the key of a record with a numeric id. Keys sort as the ids do.
func IDKey(id uint64) []byte { return binary.BigEndian.AppendUint64(nil, id) }

// NextID returns the next number of the table's own sequence, which begins at
// 1.
func (t Table[T]) NextID(tx *Tx) (uint64, error) {
	b, err := tx.Bolt.CreateBucketIfNotExists([]byte(t.Name))
	if err != nil {
		return 0, fmt.Errorf("create bucket %s: %w", t.Name, err)
	}
	tx.Writes++
	return b.NextSequence()
}

// Get returns the record with this key, or ErrNotFound if there is none.
func (t Table[T]) Get(tx *Tx, key []byte) (T, error) {
	var v T
	b := tx.Bolt.Bucket([]byte(t.Name))
	if b == nil {
		return v, ErrNotFound
	}
	raw := b.Get(key)
	if raw == nil {
		return v, ErrNotFound
	}
	return t.decode(key, raw)
}

func (t Table[T]) decode(key, raw []byte) (T, error) {
	var v T
	value, err := Unseal(t.Name, key, raw)
	if err != nil {
		return v, err
	}
	if err := json.Unmarshal(value, &v); err != nil {
		return v, fmt.Errorf("%s/%x: %w", t.Name, key, err)
	}
	return v, nil
}

// Put stores a new or changed record and updates its index entries, the count
// of the table and the audit trace.
func (t Table[T]) Put(tx *Tx, v T) error {
	key := t.Key(v)
	old, found, err := t.old(tx, key)
	if err != nil {
		return err
	}
	value, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s: %w", t.Name, err)
	}
	if err := tx.Put(t.Name, key, value); err != nil {
		return err
	}
	for _, ix := range t.Indexes {
		if err := t.reindex(tx, ix, key, old, found, &v); err != nil {
			return err
		}
	}
	if !found {
		if err := t.count(tx, 1); err != nil {
			return err
		}
	}
	t.mark(tx)
	return t.trace(tx, old, found, &v)
}

// Delete removes the record with this key and its index entries. It returns
// ErrNotFound if there is no such record.
func (t Table[T]) Delete(tx *Tx, key []byte) error {
	old, found, err := t.old(tx, key)
	if err != nil {
		return err
	}
	if !found {
		return ErrNotFound
	}
	if err := tx.Delete(t.Name, key); err != nil {
		return err
	}
	for _, ix := range t.Indexes {
		if err := t.reindex(tx, ix, key, old, true, nil); err != nil {
			return err
		}
	}
	t.mark(tx)
	if err := t.count(tx, -1); err != nil {
		return err
	}
	return t.trace(tx, old, true, nil)
}

// trace adds a change to the transaction's ChangeSet, if it has one.
func (t Table[T]) trace(tx *Tx, old T, found bool, v *T) error {
	if tx.Trace == nil || t.Audit.Object == "" {
		return nil
	}
	var before, after any
	if found {
		before = old
	}
	if v != nil {
		after = *v
	}
	return tx.Trace.Note(t.Audit, before, after)
}

func (t Table[T]) old(tx *Tx, key []byte) (v T, found bool, err error) {
	b := tx.Bolt.Bucket([]byte(t.Name))
	if b == nil {
		return v, false, nil
	}
	raw := b.Get(key)
	if raw == nil {
		return v, false, nil
	}
	v, err = t.decode(key, raw)
	return v, true, err
}

// reindex replaces the entries of one index. A nil v removes them all.
func (t Table[T]) reindex(tx *Tx, ix Index[T], key []byte, old T, found bool, v *T) error {
	var before, now [][]byte
	if found {
		before = ix.Keys(old)
	}
	if v != nil {
		now = ix.Keys(*v)
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

// Count returns the number of records. It reads a stored number, not the
// records.
func (t Table[T]) Count(tx *Tx) (int, error) {
	value, err := tx.Get("counts", []byte(t.Name))
	if err != nil || value == nil {
		return 0, err
	}
	return int(binary.BigEndian.Uint64(value)), nil
}

func (t Table[T]) count(tx *Tx, by int) error {
	n, err := t.Count(tx)
	if err != nil {
		return err
	}
	return tx.Put("counts", []byte(t.Name), IDKey(uint64(n+by)))
}

// mark adds the table to the changed ones of the transaction, for
// Store.Generation.
func (t Table[T]) mark(tx *Tx) {
	if !slices.Contains(tx.Changed, t.Name) {
		tx.Changed = append(tx.Changed, t.Name)
	}
}

// All iterates over the records in the order of their keys, or in reverse
// order. Do not change the table during the iteration. It ends after the first
// error.
func (t Table[T]) All(tx *Tx, backwards bool) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		b := tx.Bolt.Bucket([]byte(t.Name))
		if b == nil {
			return
		}
		c := b.Cursor()
		start, step := c.First, c.Next
		if backwards {
			start, step = c.Last, c.Prev
		}
		for key, raw := start(); key != nil; key, raw = step() {
			v, err := t.decode(key, raw)
			if !yield(v, err) || err != nil {
				return
			}
		}
	}
}

// Find iterates over the entries of an index that begin with prefix, in byte
// order or in reverse. It yields the part of each entry after the prefix, and
// the key of the record. Both slices are valid only until the next step. Do not
// change the table during the iteration. A damaged entry ends the transaction
// with an error.
func (t Table[T]) Find(tx *Tx, index string, prefix []byte, backwards bool) iter.Seq2[[]byte, []byte] {
	return func(yield func(entry, key []byte) bool) {
		for w := t.Walk(tx, index, prefix, backwards); w.Entry != nil; w.Next() {
			if !yield(w.Entry, w.Key) {
				return
			}
		}
	}
}

// Walker iterates over the same entries as Find, step by step, so that a caller
// can merge several indexes. Entry is nil after the last entry.
type Walker struct {
	Entry, Key []byte
	bucket     string
	prefix     []byte
	step       func() ([]byte, []byte)
}

// Walk returns a Walker at the first entry that Find would yield.
func (t Table[T]) Walk(tx *Tx, index string, prefix []byte, backwards bool) *Walker {
	w := &Walker{bucket: t.Name + "/" + index, prefix: prefix}
	if b := tx.Bolt.Bucket([]byte(w.bucket)); b != nil {
		var entry, value []byte
		entry, value, w.step = seek(b.Cursor(), prefix, backwards)
		w.take(entry, value)
	}
	return w
}

// Next moves to the next entry. Do not call it when Entry is nil.
func (w *Walker) Next() { w.take(w.step()) }

func (w *Walker) take(entry, value []byte) {
	if entry == nil || !bytes.HasPrefix(entry, w.prefix) {
		w.Entry, w.Key = nil, nil
		return
	}
	w.Entry, w.Key = split(w.bucket, w.prefix, entry, value)
}

// split returns the part of an index entry after the prefix, and the record key
// at its end. It panics with damage if the entry is damaged.
func split(bucket string, prefix, entry, value []byte) (rest, key []byte) {
	key, err := entryKey(bucket, entry, value)
	if err == nil && len(prefix)+len(key) > len(entry) {
		err = fmt.Errorf("%s/%x: not an entry of the prefix %x", bucket, entry, prefix)
	}
	if err != nil {
		panic(damage{err})
	}
	return entry[len(prefix) : len(entry)-len(key)], key
}

// From is Find, forwards, for the entries with prefix that sort at or after
// prefix followed by first.
func (t Table[T]) From(tx *Tx, index string, prefix, first []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func(entry, key []byte) bool) {
		bucket := t.Name + "/" + index
		b := tx.Bolt.Bucket([]byte(bucket))
		if b == nil {
			return
		}
		c := b.Cursor()
		for entry, value := c.Seek(append(bytes.Clone(prefix), first...)); entry != nil && bytes.HasPrefix(entry, prefix); entry, value = c.Next() {
			if !yield(split(bucket, prefix, entry, value)) {
				return
			}
		}
	}
}

// seek moves a cursor to the first entry with a prefix, or backwards to the
// last. The caller checks that the entry found has the prefix. step moves on.
func seek(c *bbolt.Cursor, prefix []byte, backwards bool) (key, value []byte, step func() ([]byte, []byte)) {
	if !backwards {
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

// One returns the record under exactly this index entry, or ErrNotFound if
// there is none.
func (t Table[T]) One(tx *Tx, index string, entry []byte) (T, error) {
	for rest, key := range t.Find(tx, index, entry, false) {
		if len(rest) == 0 {
			return t.Get(tx, key)
		}
	}
	var none T
	return none, ErrNotFound
}

// Has reports whether an index has a record under exactly this entry. It does
// not read the record, so a name stays taken even if its record is damaged.
func (t Table[T]) Has(tx *Tx, index string, entry []byte) bool {
	for rest := range t.Find(tx, index, entry, false) {
		if len(rest) == 0 {
			return true
		}
	}
	return false
}

// Checked is a table, or other stored data, that can be checked for
// consistency.
type Checked interface {
	// Check calls report for each problem. It returns an error if the store
	// cannot be read.
	Check(tx *Tx, report func(problem string)) error
}

// CheckResult is the result of CheckStore. Problems has at most maxProblems
// items.
type CheckResult struct {
	Records  int      `json:"records"`
	Entries  int      `json:"index_entries"`
	Problems []string `json:"problems"`
}

// maxProblems is how many problems a check lists. A damaged file can have more
// than anybody reads.
const maxProblems = 100

// CheckStore checks the whole store in one transaction: the pages of the file,
// the checksum of every record, every index entry, and the tables. If pages are
// damaged it checks nothing else.
func CheckStore(tx *Tx, tables []Checked) (CheckResult, error) {
	result := CheckResult{Problems: []string{}}
	report := func(problem string) {
		if len(result.Problems) < maxProblems {
			result.Problems = append(result.Problems, problem)
		}
	}
	boltcheck.Check(tx.Bolt, tx.File, report)
	if len(result.Problems) > 0 {
		return result, nil // buckets with damaged pages cannot be read safely
	}
	counts := map[string]int{}
	err := tx.Walk(func(bucket string, key, stored []byte) error {
		if table, _, index := strings.Cut(bucket, "/"); index {
			result.Entries++
			checkEntry(tx, bucket, table, key, stored, report)
			return nil
		}
		result.Records++
		counts[bucket]++
		value, err := Unseal(bucket, key, stored)
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
	for name, said := range counts {
		if table, ok := strings.CutPrefix(name, "\x00"); ok && counts[table] != said {
			report(fmt.Sprintf("%s: holds %d records, its count says %d", table, counts[table], said))
		}
	}
	for _, t := range tables {
		if err := t.Check(tx, report); err != nil {
			return result, err
		}
	}
	return result, nil
}

// checkEntry checks that an index entry is undamaged and that its record
// exists.
func checkEntry(tx *Tx, bucket, table string, entry, value []byte, report func(string)) {
	key, err := entryKey(bucket, entry, value)
	if err != nil {
		report(err.Error())
		return
	}
	if !tx.Has(table, key) {
		report(fmt.Sprintf("%s/%x: leads to no record", bucket, entry))
	}
}

// Check reports records that cannot be read or are stored under a wrong key,
// and indexes with missing or extra entries. It ends at the first record that
// cannot be read.
func (t Table[T]) Check(tx *Tx, report func(problem string)) error {
	wanted := make([]int, len(t.Indexes))
	for v, err := range t.All(tx, false) {
		if err != nil {
			report(err.Error())
			return nil // the iteration ends at an error
		}
		key := t.Key(v)
		if !tx.Has(t.Name, key) {
			report(fmt.Sprintf("%s/%x: is stored under another key", t.Name, key))
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
					report(fmt.Sprintf("%s/%x: lacks its entry in the index %s", t.Name, key, ix.Name))
				}
			}
		}
	}
	for i, ix := range t.Indexes {
		if found := tx.Count(t.Name + "/" + ix.Name); found != wanted[i] {
			report(fmt.Sprintf("%s: the index %s has %d entries, the records make %d", t.Name, ix.Name, found, wanted[i]))
		}
	}
	return nil
}
