package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"latchkey/internal/fold"
)

// anyTable is a Table without the type of its records. The functions on it exist once in the program;
// methods of Table exist once for each type of record, so they only call these functions. A record is
// passed as a pointer to its type.
type anyTable interface {
	settings() tableSettings
	blank() any                             // a pointer to a new, empty record
	value(record any) any                   // what the pointer points to
	key(record any) []byte                  // Table.Key
	indexName(index int) string             // name of the index with this number; after the indexes come the sets of the Listing
	entries(index int, record any) [][]byte // its Keys
	owner(record any) uint64                // Table.Owner
	columnName(column int) string           // name of the Column with this number
	number(column int, record any) uint64   // its value, or Listing.Order if column is the number of Columns
	texts(record any) []string              // Listing.Text
	row(record any) []byte                  // RowList.Row
	takesRights(c tableChange) bool         // Table.Secure
	rowValue(tx *Tx, key []byte) (uint64, error)
}

// tableSettings are the settings of a Table that do not depend on the type of its records.
type tableSettings struct {
	name                           string
	indexes, sets, columns         int // how many there are
	lists, ordered, searched, rows bool
	signed, owned, imposed, secure bool
	bounded                        string
	rowSource                      string // RowList.Source
	audit                          *AuditPolicy
}

func (t *Table[T]) settings() tableSettings {
	s := tableSettings{
		name: t.Name, indexes: len(t.Indexes), lists: t.List != nil, rows: t.Rows != nil,
		signed: t.Signed, owned: t.Owner != nil, imposed: t.Imposed, secure: t.Secure != nil, bounded: t.Bounded, audit: &t.Audit,
	}
	if t.Rows != nil {
		s.rowSource = t.Rows.Source
	}
	if t.List != nil {
		s.sets, s.columns, s.ordered, s.searched = len(t.List.Sets), len(t.List.Columns), t.List.Order != nil, t.List.Text != nil
	}
	return s
}

func (t *Table[T]) blank() any            { return new(T) }
func (t *Table[T]) value(record any) any  { return *record.(*T) }
func (t *Table[T]) key(record any) []byte { return t.Key(*record.(*T)) }
func (t *Table[T]) entries(index int, record any) [][]byte {
	return t.index(index).Keys(*record.(*T))
}
func (t *Table[T]) indexName(index int) string   { return t.index(index).Name }
func (t *Table[T]) columnName(column int) string { return t.List.Columns[column].Name }

func (t *Table[T]) index(index int) *Index[T] {
	if index < len(t.Indexes) {
		return &t.Indexes[index]
	}
	return &t.List.Sets[index-len(t.Indexes)]
}

func (t *Table[T]) number(column int, record any) uint64 {
	value := t.List.Order
	if column < len(t.List.Columns) {
		value = t.List.Columns[column].Value
	}
	return value(*record.(*T))
}

func (t *Table[T]) owner(record any) uint64   { return t.Owner(*record.(*T)) }
func (t *Table[T]) texts(record any) []string { return t.List.Text(*record.(*T)) }
func (t *Table[T]) row(record any) []byte     { return t.Rows.Row(*record.(*T)) }

func (t *Table[T]) takesRights(c tableChange) bool {
	before, _ := c.before.(*T)
	after, _ := c.after.(*T)
	return t.Secure(before, after)
}

func (t *Table[T]) rowValue(tx *Tx, key []byte) (uint64, error) { return t.Rows.Value(tx, key) }

// valuesOf returns the Keys of the set or index with this name; nil if there is none.
func valuesOf(t anyTable, set string, record any) [][]byte {
	s := t.settings()
	for i := range s.sets {
		if t.indexName(s.indexes+i) == set {
			return t.entries(s.indexes+i, record)
		}
	}
	return indexValues(t, set, record)
}

// numberOf returns the value of the Column with this name, or that of OrderColumn.
func numberOf(t anyTable, column string, record any) uint64 {
	i, columns := 0, t.settings().columns
	for i < columns && t.columnName(i) != column {
		i++
	}
	return t.number(i, record)
}

// listedOf returns what the lists know of a record.
func listedOf(t anyTable, record any) *listRecord {
	s, l := t.settings(), &listRecord{sets: []setMember{{allRecords, nil}}}
	for i := range s.sets {
		name := t.indexName(s.indexes + i)
		for _, value := range t.entries(s.indexes+i, record) {
			l.sets = append(l.sets, setMember{name, value})
		}
	}
	if s.ordered {
		l.columns = append(l.columns, listColumn{orderBucket, t.number(s.columns, record)})
	}
	for i := range s.columns {
		l.columns = append(l.columns, listColumn{t.columnName(i), t.number(i, record)})
	}
	if s.searched {
		l.text = listText(t.texts(record))
	}
	return l
}

// tableChange is a change of one record. before is nil if the record is new; after is nil if the record
// was deleted. Otherwise they are pointers to records.
type tableChange struct {
	key           []byte
	before, after any
}

// storedRecord is a record as it is stored.
type storedRecord struct{ key, raw []byte }

// getRecord reads a record, see Table.Get.
func getRecord(tx *Tx, t anyTable, key []byte, into any) error {
	raw := tx.stored(t.settings().name, key)
	if raw == nil {
		return ErrNotFound
	}
	return decodeRecord(tx, t, storedRecord{key, raw}, into)
}

// decodeRecord checks and decodes a stored record, see Table.decode.
func decodeRecord(tx *Tx, t anyTable, r storedRecord, into any) error {
	if err := tx.ended(1 + len(r.raw)/64); err != nil {
		return err
	}
	s := t.settings()
	read := Unseal
	if s.signed {
		read = tx.verified
	}
	value, err := read(s.name, r.key, r.raw)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(value, into); err != nil {
		return fmt.Errorf("%s/%x: %w", s.name, r.key, err)
	}
	tx.Yield(len(r.raw))
	return nil
}

// putRecord stores a record, see Table.Put.
func putRecord(tx *Tx, t anyTable, record any) error {
	s, key := t.settings(), t.key(record)
	old, err := oldRecord(tx, t, key)
	if err != nil {
		return err
	}
	tx.sign(old, record)
	value, err := json.Marshal(record)
	if err != nil {
		return fmt.Errorf("encode %s: %w", s.name, err)
	}
	if s.bounded != "" {
		if err := tx.CheckSize(s.bounded, s.name, key, value); err != nil {
			return err
		}
	}
	put := tx.Put
	if s.signed {
		put = tx.PutSigned
	}
	had := storedSize(tx, s.name, key)
	if err := put(s.name, key, value); err != nil {
		return err
	}
	return noteChange(tx, t, tableChange{key, old, record}, had)
}

// deleteRecord removes a record, see Table.Delete.
func deleteRecord(tx *Tx, t anyTable, key []byte) error {
	s := t.settings()
	old, err := oldRecord(tx, t, key)
	if err != nil {
		return err
	}
	if old == nil {
		return ErrNotFound
	}
	had := storedSize(tx, s.name, key)
	if err := tx.Delete(s.name, key); err != nil {
		return err
	}
	return noteChange(tx, t, tableChange{key: key, before: old}, had)
}

// oldRecord returns the stored record with this key, or nil if there is none.
func oldRecord(tx *Tx, t anyTable, key []byte) (any, error) {
	raw := tx.stored(t.settings().name, key)
	if raw == nil {
		return nil, nil
	}
	old := t.blank()
	return old, decodeRecord(tx, t, storedRecord{key, raw}, old)
}

// noteChange updates all that follows from a record which was stored or deleted. had is the result of
// storedSize before.
func noteChange(tx *Tx, t anyTable, c tableChange, had int64) error {
	s := t.settings()
	noteSize(tx, t, c, had)
	if s.secure && t.takesRights(c) {
		tx.Secure()
	}
	for i := range s.indexes {
		if err := reindex(tx, t, i, c); err != nil {
			return err
		}
	}
	if err := relist(tx, t, c); err != nil {
		return err
	}
	if err := rerow(tx, t, c); err != nil {
		return err
	}
	by := 0
	switch {
	case c.before == nil:
		by = 1
	case c.after == nil:
		by = -1
	}
	if by != 0 {
		n, err := countOf(tx, s.name)
		if err == nil {
			err = tx.Put("counts", []byte(s.name), IDKey(uint64(n+by)))
		}
		if err != nil {
			return err
		}
	}
	if !slices.Contains(tx.Changed, s.name) { // the commit increments Store.Generation for them
		tx.Changed = append(tx.Changed, s.name)
	}
	tx.touchRecord(s.audit.Object, c)
	if tx.Trace == nil || s.audit.Object == "" {
		return nil
	}
	var before, after any
	if c.before != nil {
		before = t.value(c.before)
	}
	if c.after != nil {
		after = t.value(c.after)
	}
	return tx.Trace.Note(*s.audit, before, after)
}

// storedSize returns the bytes that the record with this key counts for its owner, or 0 if there is none.
func storedSize(tx *Tx, table string, key []byte) int64 {
	raw := tx.stored(table, key)
	if raw == nil {
		return 0
	}
	return int64(len(key) + len(raw))
}

// noteSize notes a change of a record for the counters of its owner before and after the change. had is
// the size before it.
func noteSize(tx *Tx, t anyTable, c tableChange, had int64) {
	s := t.settings()
	if !s.owned {
		return
	}
	refused := func(owner uint64) bool { return !s.imposed || owner == tx.Writer.Owner }
	if c.before != nil {
		owner := t.owner(c.before)
		tx.grew(owner, ownerGrowth{-had, refused(owner), -1})
	}
	if c.after != nil {
		owner := t.owner(c.after)
		tx.grew(owner, ownerGrowth{storedSize(tx, s.name, c.key), refused(owner), 1})
	}
}

// reindex updates the entries in the index with this number.
func reindex(tx *Tx, t anyTable, index int, c tableChange) error {
	var before, now [][]byte
	if c.before != nil {
		before = t.entries(index, c.before)
	}
	if c.after != nil {
		now = t.entries(index, c.after)
	}
	bucket := t.settings().name + "/" + t.indexName(index)
	same := func(k []byte) func([]byte) bool { return func(o []byte) bool { return bytes.Equal(k, o) } }
	for _, k := range before {
		if slices.ContainsFunc(now, same(k)) {
			continue
		}
		if err := tx.Delete(bucket, append(slices.Clip(k), c.key...)); err != nil {
			return err
		}
	}
	for _, k := range now {
		if slices.ContainsFunc(before, same(k)) {
			continue
		}
		entry := append(slices.Clip(k), c.key...)
		if err := tx.PutRaw(bucket, entry, sealEntry(entry, len(c.key))); err != nil {
			return err
		}
	}
	return nil
}

// relist updates the data of lists.
func relist(tx *Tx, t anyTable, c tableChange) error {
	s := t.settings()
	if !s.lists {
		return nil
	}
	if len(c.key) != 8 {
		return fmt.Errorf("%s/%x: a table with lists needs numeric ids", s.name, c.key)
	}
	at := listPlace{s.name, binary.BigEndian.Uint64(c.key)}
	var before, after *listRecord
	if c.before != nil {
		before = listedOf(t, c.before)
	}
	if c.after != nil {
		after = listedOf(t, c.after)
	}
	tx.rememberChunk(func() error { return at.change(tx.editChunk, after, before) })
	return at.change(tx.editChunk, before, after)
}

// rerow updates the RowList.
func rerow(tx *Tx, t anyTable, c tableChange) error {
	s := t.settings()
	if !s.rows {
		return nil
	}
	r := rowRecord{key: c.key, value: func() (uint64, error) { return t.rowValue(tx, c.key) }}
	if c.after != nil {
		r.row = t.row(c.after)
	}
	if c.before != nil && c.after != nil && bytes.Equal(r.row, t.row(c.before)) {
		return nil
	}
	return r.store(tx, s.name)
}

// countOf returns the stored number of records of a table.
func countOf(tx *Tx, table string) (int, error) {
	value, err := tx.Get("counts", []byte(table))
	if err != nil || value == nil {
		return 0, err
	}
	return int(binary.BigEndian.Uint64(value)), nil
}

// eachRecord calls visit for each record of a table until it returns false, see Table.All.
func eachRecord(tx *Tx, t anyTable, order Direction, visit func(record any, err error) bool) {
	b := tx.open(t.settings().name)
	if b == nil {
		return
	}
	c := b.Cursor()
	start, step := c.First, c.Next
	if order == Backward {
		start, step = c.Last, c.Prev
	}
	for key, raw := start(); key != nil; key, raw = step() {
		record := t.blank()
		err := decodeRecord(tx, t, storedRecord{key, raw}, record)
		if IsForged(err) {
			continue
		}
		if !visit(record, err) || err != nil {
			return
		}
	}
}

// findRecord reads the first record with a value in an index, see Table.One.
func findRecord(tx *Tx, t anyTable, f Filter, into any) error {
	s := t.settings()
	for rest, key := range findEntries(tx, s.name+"/"+f.Set, f.Value, Forward) {
		if len(rest) != 0 {
			continue
		}
		if err := getRecord(tx, t, key, into); err != nil {
			return err
		}
		if !slices.ContainsFunc(indexValues(t, f.Set, into), func(k []byte) bool { return bytes.Equal(k, f.Value) }) {
			return fmt.Errorf("%s/%s/%x: the index entry does not belong to its record", s.name, f.Set, f.Value)
		}
		return nil
	}
	return ErrNotFound
}

// indexValues returns the values of a record in the index with this name.
func indexValues(t anyTable, index string, record any) [][]byte {
	for i := range t.settings().indexes {
		if t.indexName(i) == index {
			return t.entries(i, record)
		}
	}
	return nil
}

// checkTable checks the records of a table and what follows from them, see Table.Check.
func checkTable(tx *Tx, t anyTable, report func(problem string)) error {
	s := t.settings()
	lists := newListCheck(tx, s.name, report)
	wanted := make([]int, s.indexes)
	forged := false
	for stored, raw := range tx.Range(s.name, nil) {
		if err := tx.checked.next(); err != nil {
			return err
		}
		record := t.blank()
		err := decodeRecord(tx, t, storedRecord{stored, raw}, record)
		if IsForged(err) {
			forged = true // CheckStore reports it
			continue
		}
		if err != nil {
			report(err.Error())
			return nil
		}
		key := t.key(record)
		recount(tx, t, record, int64(len(stored)+len(raw)))
		if !tx.Has(s.name, key) {
			report(fmt.Sprintf("%s/%x: the record is stored under another key", s.name, key))
		}
		if s.lists && len(key) == 8 {
			if err := lists.add(binary.BigEndian.Uint64(key), listedOf(t, record)); err != nil {
				return err
			}
		}
		for i := range wanted {
			wanted[i] += checkEntries(tx, t, i, record, report)
		}
	}
	if forged { // what lists and indexes have of a forged record is not known
		return nil
	}
	lists.end()
	checkRows(tx, t, report)
	for i := range wanted {
		if found := tx.Count(s.name + "/" + t.indexName(i)); found != wanted[i] {
			report(fmt.Sprintf("%s: the index %s has %d entries, but the records require %d", s.name, t.indexName(i), found, wanted[i]))
		}
	}
	return nil
}

// recount adds the size of a record to the bytes of its owner that a check counts.
func recount(tx *Tx, t anyTable, record any, size int64) {
	if t.settings().owned && tx.recounted != nil && t.owner(record) != 0 {
		tx.recounted[t.owner(record)] += size
	}
}

// checkEntries reports missing entries of a record in the index with this number. It returns the number
// of entries that the record requires.
func checkEntries(tx *Tx, t anyTable, index int, record any, report func(problem string)) int {
	s, key := t.settings(), t.key(record)
	bucket := s.name + "/" + t.indexName(index)
	seen := map[string]bool{}
	for _, k := range t.entries(index, record) {
		entry := append(bytes.Clone(k), key...)
		if seen[string(entry)] {
			continue
		}
		seen[string(entry)] = true
		if !tx.Has(bucket, entry) {
			report(fmt.Sprintf("%s/%x: the record has no entry in the index %s", s.name, key, t.indexName(index)))
		}
	}
	return len(seen)
}

// deriveTable computes what follows from the records of a table, see Table.Derive.
func deriveTable(tx *Tx, t anyTable, emit func(DerivedEntry) error) (failed error) {
	s := t.settings()
	lists := listScan{table: s.name, emit: func(at recordPlace, contents []byte) {
		if failed == nil {
			failed = emit(chunkEntry(at, contents))
		}
	}}
	eachRecord(tx, t, Forward, func(record any, err error) bool {
		if failed = errors.Join(err, failed); failed == nil {
			failed = deriveRecord(tx, t, record, derivation{emit, &lists})
		}
		return failed == nil
	})
	if failed == nil {
		lists.flush()
	}
	return failed
}

// derivation takes what follows from records.
type derivation struct {
	emit  func(DerivedEntry) error
	lists *listScan
}

// deriveRecord computes what follows from one record.
func deriveRecord(tx *Tx, t anyTable, record any, d derivation) error {
	if err := tx.checked.next(); err != nil {
		return err
	}
	s, key := t.settings(), t.key(record)
	recount(tx, t, record, storedSize(tx, s.name, key))
	for i := range s.indexes {
		for _, value := range t.entries(i, record) {
			if err := d.emit(indexEntry(s.name+"/"+t.indexName(i), append(bytes.Clone(value), key...), len(key))); err != nil {
				return err
			}
		}
	}
	if !s.lists {
		return nil
	}
	return d.lists.add(binary.BigEndian.Uint64(key), listedOf(t, record))
}

// adoptTable replaces what follows from the records of a table, see Table.Adopt.
func adoptTable(tx *Tx, t anyTable) error {
	name := t.settings().name
	tx.chunks = nil
	err := errors.Join(tx.adopt(name+"/"), tx.adopt(listBucket(name, "")))
	if err == nil {
		err = repairRows(tx, t)
	}
	if err != nil {
		return err
	}
	records := tx.Count(name)
	if records == 0 && !tx.Has("counts", []byte(name)) {
		return nil
	}
	return tx.Put("counts", []byte(name), IDKey(uint64(records)))
}

// namingOf returns how the names of the records of a table are found.
func namingOf(t anyTable) *Naming {
	return &Naming{
		Kind: t.settings().audit.Object,
		Of:   func(tx *Tx, object string) (string, bool) { return nameIn(tx, t, object) },
		Find: func(ctx context.Context, tx *Tx, name string) ([]string, error) {
			return namedIn(tx, t, Query{Context: ctx}, name)
		},
	}
}

// nameIn is Naming.Of.
func nameIn(tx *Tx, t anyTable, object string) (name string, exists bool) {
	audit := t.settings().audit
	kind, id, _ := strings.Cut(object, " ")
	if kind != audit.Object {
		return "", false
	}
	key := []byte(id)
	if n, err := strconv.ParseUint(id, 10, 64); err == nil {
		key = IDKey(n)
	}
	record := t.blank()
	if getRecord(tx, t, key, record) != nil {
		return "", false
	}
	if audit.Personal {
		return "", true
	}
	fields, err := plainFields(t.value(record), nil)
	return nameOf(fields), err == nil
}

// namedIn is Naming.Find. A table that only Rows can search has a search of its own.
func namedIn(tx *Tx, t anyTable, q Query, name string) (objects []string, err error) {
	s := t.settings()
	add := func(record any) error {
		fields, err := plainFields(t.value(record), nil)
		if fold.Search(nameOf(fields)) == fold.Search(name) {
			objects = append(objects, s.audit.Object+" "+fieldID(fields, nil))
		}
		return err
	}
	if s.rows {
		return nil, nil
	}
	if s.searched {
		q.Words, q.ByID = fold.Words(name), true
		var failed error
		_, err := pageOf(tx, t, q, func(count int) (int, int) { return 0, min(count, MaxNamed) }, func(record any) { failed = errors.Join(failed, add(record)) })
		return objects, errors.Join(err, failed)
	}
	seen := 0
	eachRecord(tx, t, Backward, func(record any, bad error) bool {
		if seen++; bad == nil && seen <= MaxNamed {
			bad = add(record)
		}
		err = bad
		return err == nil && seen <= MaxNamed
	})
	return objects, err
}
