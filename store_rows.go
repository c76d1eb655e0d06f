package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"

	bolterrors "go.etcd.io/bbolt/errors"
)

// RowList keeps a short form of each record of a table, for lists that filter and sort by more than
// a Listing can. The keys of the table can be any bytes. Rows are kept together, RowsPerChunk in a
// value of the store, and a list reads all of them, see RowCache.
type RowList[T any] struct {
	Row func(T) []byte // returns the short form of a record; it must not be empty
	// Value returns a number of the record with this key that changes more often than the record.
	// Only Table.SetValue stores it.
	Value func(tx *Tx, key []byte) (uint64, error)
	// Source is the bucket from which Value reads, under the same key.
	Source string
}

// RowsPerChunk is the number of rows in a value of the store, see RowChunk.
const RowsPerChunk = 64

const valuesPerChunk = 512

// rowBuckets returns the names of the buckets of a table's RowList. Each record has a number, which
// is its place in the other two; slots has the number by the key of the record.
func rowBuckets(table string) (slots, rows, values string) {
	return table + "_list~slots", table + "_list~rows", table + "_list~values"
}

// rowRecord is what a RowList has of a record. An empty row means that there is no record.
type rowRecord struct {
	key, row []byte
	value    func() (uint64, error)
}

// store replaces what the RowList of a table has of the record.
func (r rowRecord) store(tx *Tx, table string) error {
	slots, rows, _ := rowBuckets(table)
	slot, err := RowNumber(tx, table, r.key)
	if err != nil {
		return err
	}
	if slot == 0 && len(r.row) > 0 {
		if slot, err = r.allocate(tx, table); err != nil {
			return err
		}
	}
	if len(r.row) == 0 {
		if err := errors.Join(tx.Delete(slots, r.key), setRowValue(tx, table, slot, 0)); err != nil {
			return err
		}
	}
	return setRow(tx, rows, slot, r.row)
}

// setRow stores the row with this number in the bucket of rows.
func setRow(tx *Tx, bucket string, slot uint64, row []byte) error {
	c, err := tx.editChunk(recordPlace{bucket, string(IDKey(slot / RowsPerChunk))}, readRowChunk)
	if err != nil {
		return err
	}
	place := &c.(*rowChunk)[slot%RowsPerChunk]
	before := *place
	tx.rememberChunk(func() error { return setRow(tx, bucket, slot, before) })
	*place = row
	return nil
}

// allocate chooses a number for the record.
func (r rowRecord) allocate(tx *Tx, table string) (slot uint64, err error) {
	slots, rows, _ := rowBuckets(table)
	b, err := tx.bucket(rows)
	if err != nil {
		return 0, err
	}
	tx.rememberSequence(rows)
	if slot, err = b.NextSequence(); err != nil {
		return 0, err
	}
	value, err := r.value()
	if err != nil {
		return 0, err
	}
	return slot, errors.Join(tx.Put(slots, r.key, IDKey(slot)), setRowValue(tx, table, slot, value))
}

// RowNumber returns the number of the record with this key in the RowList of a table, or 0 if there is
// none.
func RowNumber(tx *Tx, table string, key []byte) (uint64, error) {
	slots, _, _ := rowBuckets(table)
	value, err := tx.Get(slots, key)
	if err != nil || value == nil {
		return 0, err
	}
	if len(value) != 8 {
		return 0, fmt.Errorf("%s/%x: %w", slots, key, errListData)
	}
	return binary.BigEndian.Uint64(value), nil
}

// SetValue stores the value of the record with this key. It does nothing if there is no such record.
func (t *Table[T]) SetValue(tx *Tx, key []byte, value uint64) error {
	return setValueOf(tx, t.Name, key, value)
}

func setValueOf(tx *Tx, table string, key []byte, value uint64) error {
	slot, err := RowNumber(tx, table, key)
	if err != nil || slot == 0 {
		return err
	}
	tx.Writes++ // the value is stored with the chunk, but this must count for the change
	return setRowValue(tx, table, slot, value)
}

func setRowValue(tx *Tx, table string, slot, value uint64) error {
	_, _, values := rowBuckets(table)
	c, err := tx.editChunk(recordPlace{values, string(IDKey(slot / valuesPerChunk))}, readRowValues)
	if err != nil {
		return err
	}
	place := &c.(*rowValues)[slot%valuesPerChunk]
	before := *place
	tx.rememberChunk(func() error { return setRowValue(tx, table, slot, before) })
	*place = value
	return nil
}

// EachRow calls visit for the row of each record, in no particular order. The row is valid until the
// end of the transaction. number is that of the record's value in RowValues.
func (t *Table[T]) EachRow(ctx context.Context, tx *Tx, visit func(number uint64, row []byte)) error {
	return eachRow(ctx, tx, t.Name, visit)
}

func eachRow(ctx context.Context, tx *Tx, table string, visit func(number uint64, row []byte)) error {
	if err := tx.flushChunks(); err != nil {
		return err
	}
	_, rows, _ := rowBuckets(table)
	for key, stored := range tx.Range(rows, nil) {
		if err := ctx.Err(); err != nil {
			return err
		}
		contents, err := Unseal(rows, key, stored)
		if err != nil {
			return err
		}
		if len(key) != 8 || !eachStoredRow(contents, func(i int, row []byte) { visit(binary.BigEndian.Uint64(key)*RowsPerChunk+uint64(i), row) }) {
			return fmt.Errorf("%s/%x: %w", rows, key, errListData)
		}
	}
	return nil
}

// rowChunk is a chunk with the rows of RowsPerChunk records. It is stored as eight bytes with a bit
// for each row that is present, and then each row after its length in four bytes.
type rowChunk [RowsPerChunk][]byte

func (c *rowChunk) encode() []byte {
	present, size := uint64(0), 8
	for i, row := range c {
		if len(row) > 0 {
			present |= 1 << i
			size += 4 + len(row)
		}
	}
	if present == 0 {
		return nil
	}
	contents := binary.BigEndian.AppendUint64(make([]byte, 0, size), present)
	for _, row := range c {
		if len(row) > 0 {
			contents = append(binary.BigEndian.AppendUint32(contents, uint32(len(row))), row...)
		}
	}
	return contents
}

func readRowChunk(contents []byte) (chunk, error) {
	c := &rowChunk{}
	if contents == nil {
		return c, nil
	}
	if !eachStoredRow(bytes.Clone(contents), func(i int, row []byte) { c[i] = row }) {
		return nil, errListData
	}
	return c, nil
}

// eachStoredRow calls visit for each row of the contents of a rowChunk, with its position. It returns
// false if these are not such contents.
func eachStoredRow(contents []byte, visit func(i int, row []byte)) bool {
	if len(contents) < 8 {
		return false
	}
	present, rest := binary.BigEndian.Uint64(contents), contents[8:]
	for ; present != 0; present &= present - 1 {
		if len(rest) < 4 || uint64(len(rest)-4) < uint64(binary.BigEndian.Uint32(rest)) {
			return false
		}
		end := 4 + int(binary.BigEndian.Uint32(rest))
		visit(bits.TrailingZeros64(present), rest[4:end:end])
		rest = rest[end:]
	}
	return len(rest) == 0
}

// rowValues is a chunk with the values of valuesPerChunk records, eight bytes each.
type rowValues [valuesPerChunk]uint64

func (v *rowValues) encode() []byte {
	if *v == (rowValues{}) {
		return nil
	}
	contents := make([]byte, 0, 8*len(v))
	for _, value := range v {
		contents = binary.BigEndian.AppendUint64(contents, value)
	}
	return contents
}

func readRowValues(contents []byte) (chunk, error) {
	v := &rowValues{}
	if contents == nil {
		return v, nil
	}
	if len(contents) != 8*len(v) {
		return nil, errListData
	}
	for i := range v {
		v[i] = binary.BigEndian.Uint64(contents[8*i:])
	}
	return v, nil
}

// checkRows reports each difference between the RowList and the records.
func checkRows(tx *Tx, t anyTable, report func(problem string)) {
	name := t.settings().name
	if !t.settings().rows {
		return
	}
	slots, rows, values := rowBuckets(name)
	say := func(bucket string, key []byte, problem string) {
		report(fmt.Sprintf("%s/%x: %s; stop the server and run latchkey check --repair", bucket, key, problem))
	}
	stored := map[uint64][32]byte{}
	err := eachRow(context.Background(), tx, name, func(number uint64, row []byte) { stored[number] = sha256.Sum256(row) })
	all := CachedRows[struct{}]{table: name}
	valuesErr := all.readValues(tx)
	list := RowValues{chunks: all.values}
	if err = errors.Join(err, valuesErr); err != nil {
		report(err.Error())
		return
	}
	for key, raw := range tx.Range(name, nil) {
		slot, err := RowNumber(tx, name, key)
		if err != nil {
			report(err.Error())
			continue
		}
		record := t.blank()
		err = decodeRecord(tx, t, storedRecord{key, raw}, record)
		if err == nil && stored[slot] != sha256.Sum256(t.row(record)) {
			say(rows, key, "the row of the list does not fit the record")
		}
		delete(stored, slot)
		value, err := t.rowValue(tx, key)
		if err == nil && list.At(slot) != value {
			say(values, key, "the value in the list does not fit the record")
		}
		if list.At(slot) != 0 {
			list.Set(slot, 0)
		}
	}
	for slot := range stored {
		say(rows, IDKey(slot), "the list has a row without a record")
	}
	for slot := range uint64(len(list.chunks)) * valuesPerChunk {
		if list.At(slot) != 0 {
			say(values, IDKey(slot), "the list has a value without a record")
		}
	}
	if found, wanted := tx.Count(slots), tx.Count(name); found != wanted {
		report(fmt.Sprintf("%s: there are %d numbers of records, but %d records", slots, found, wanted))
	}
}

// repairRows makes the RowList anew from the records.
func repairRows(tx *Tx, t anyTable) error {
	if !t.settings().rows {
		return nil
	}
	slots, rows, values := rowBuckets(t.settings().name)
	for _, bucket := range []string{slots, rows, values} {
		tx.noteRows(bucket, nil)
		if err := tx.Bolt.DeleteBucket([]byte(bucket)); err != nil && !errors.Is(err, bolterrors.ErrBucketNotFound) {
			return fmt.Errorf("delete bucket %s: %w", bucket, err)
		}
	}
	var failed error
	eachRecord(tx, t, Forward, func(record any, err error) bool {
		if failed = err; failed == nil {
			failed = rerow(tx, t, tableChange{key: t.key(record), after: record})
		}
		return failed == nil
	})
	if failed != nil {
		return failed
	}
	return tx.flushChunks()
}
