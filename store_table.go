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

// Table keeps records of one kind as JSON under a key of their own, with
// indexes that change together with them. A Table holds no state: its methods
// work on the transaction they are given. Records only ever gain fields.
type Table[T any] struct {
	Name    string
	Key     func(T) []byte
	Indexes []Index[T]
	Audit   AuditPolicy
}

// Index finds records by something other than their key. Keys gives the
// entries of a record: the bytes to sort and look up by. What an entry finds is
// read back in order with Table.Find.
type Index[T any] struct {
	Name string
	Keys func(T) [][]byte
}

// IDKey is the key of a record with a number for an id; it sorts as the
// numbers do.
func IDKey(id uint64) []byte { return binary.BigEndian.AppendUint64(nil, id) }

// NextID gives the next number of the table's own sequence, from 1.
func (t Table[T]) NextID(tx *Tx) (uint64, error) {
	b, err := tx.Bolt.CreateBucketIfNotExists([]byte(t.Name))
	if err != nil {
		return 0, fmt.Errorf("create bucket %s: %w", t.Name, err)
	}
	tx.Writes++
	return b.NextSequence()
}

// Get reads the record of a key; ErrNotFound where there is none.
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

// Put stores a record, new or changed, and its index entries.
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

// Delete removes the record of a key and its index entries; ErrNotFound where
// there is none.
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

// trace tells of a change to who listens.
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

// reindex replaces the entries of one index; v nil takes them all away.
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

// Count gives the number of records, without reading them.
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

// entry notes that the table has changed, for Store.Generation.
func (t Table[T]) mark(tx *Tx) {
	if !slices.Contains(tx.Changed, t.Name) {
		tx.Changed = append(tx.Changed, t.Name)
	}
}

// All goes through the records in the order of their keys, or backwards. The
// table must not be changed meanwhile. It ends after the first error.
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

// Find goes through the entries of an index that begin with prefix, in their
// order or backwards, and gives each entry after the prefix and the key of its
// record. Both are valid only until the next step. The table must not be
// changed meanwhile. A damaged entry ends the transaction with an error.
func (t Table[T]) Find(tx *Tx, index string, prefix []byte, backwards bool) iter.Seq2[[]byte, []byte] {
	return func(yield func(entry, key []byte) bool) {
		for w := t.Walk(tx, index, prefix, backwards); w.Entry != nil; w.Next() {
			if !yield(w.Entry, w.Key) {
				return
			}
		}
	}
}

// Walker goes through entries as Find does, for those who go through several
// indexes at once. Entry is nil when there are no more.
type Walker struct {
	Entry, Key []byte
	bucket     string
	prefix     []byte
	step       func() ([]byte, []byte)
}

// Walk stands on the first entry that Find would give.
func (t Table[T]) Walk(tx *Tx, index string, prefix []byte, backwards bool) *Walker {
	w := &Walker{bucket: t.Name + "/" + index, prefix: prefix}
	if b := tx.Bolt.Bucket([]byte(w.bucket)); b != nil {
		var entry, value []byte
		entry, value, w.step = seek(b.Cursor(), prefix, backwards)
		w.take(entry, value)
	}
	return w
}

// Next goes on to the next entry.
func (w *Walker) Next() { w.take(w.step()) }

func (w *Walker) take(entry, value []byte) {
	if entry == nil || !bytes.HasPrefix(entry, w.prefix) {
		w.Entry, w.Key = nil, nil
		return
	}
	w.Entry, w.Key = split(w.bucket, w.prefix, entry, value)
}

// split parts an entry into what follows the prefix and the record's key.
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

// From is Find forwards for the entries that are not before prefix and first.
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

// seek puts a cursor on the first or the last entry with a prefix.
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

// One gives the record that an index finds under exactly this entry;
// ErrNotFound where there is none.
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
// not read the record: what is taken stays taken when the record is damaged.
func (t Table[T]) Has(tx *Tx, index string, entry []byte) bool {
	for rest := range t.Find(tx, index, entry, false) {
		if len(rest) == 0 {
			return true
		}
	}
	return false
}

// Checked is a table whose records and indexes can be held against each other.
type Checked interface {
	// Check reports what does not fit; the error is for a store that cannot be
	// read.
	Check(tx *Tx, report func(problem string)) error
}

// CheckResult says what a check went through.
type CheckResult struct {
	Records  int      `json:"records"`
	Entries  int      `json:"index_entries"`
	Problems []string `json:"problems"`
}

// maxProblems is how many problems a check lists: a damaged file can have more
// than anyone reads.
const maxProblems = 100

// CheckStore goes through the whole store in one transaction: the pages of the
// file, the checksum of every record, every index entry, and the tables.
func CheckStore(tx *Tx, tables []Checked) (CheckResult, error) {
	result := CheckResult{Problems: []string{}}
	report := func(problem string) {
		if len(result.Problems) < maxProblems {
			result.Problems = append(result.Problems, problem)
		}
	}
	boltcheck.Check(tx.Bolt, tx.File, report)
	if len(result.Problems) > 0 {
		return result, nil // what hangs from bad pages cannot be walked
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

// checkEntry holds an index entry against the record it ends with.
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

// Check reports records that cannot be read or stand under another key than
// theirs, and indexes that lack an entry or have one too many.
func (t Table[T]) Check(tx *Tx, report func(problem string)) error {
	wanted := make([]int, len(t.Indexes))
	for v, err := range t.All(tx, false) {
		if err != nil {
			report(err.Error())
			return nil // the walk ends there
		}
		key := t.Key(v)
		if !tx.Has(t.Name, key) {
			report(fmt.Sprintf("%s/%x: stands under another key", t.Name, key))
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
