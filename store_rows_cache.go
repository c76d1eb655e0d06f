package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"math/bits"
	"slices"
	"sync"
	"sync/atomic"
)

// RowCache keeps the rows of a RowList in memory, and in which order lists have them. It is never older
// than the transaction that reads it: the rows are compared with those that are stored, unless
// nothing was committed since. The zero RowCache is empty. R is what a RowSort compares. A RowCache is
// safe for concurrent use.
type RowCache[R any] struct {
	mu    sync.Mutex
	kept  *CachedRows[R] // nil if nothing is kept
	large bool           // the rows exceed maxCachedRows
}

// maxCachedRows is the size in bytes up to which a RowCache keeps rows.
const maxCachedRows = 64 << 20

// CachedRows are the rows of all records, as one transaction sees them.
type CachedRows[R any] struct {
	Chunks []*RowChunk // ascending by Number
	Kept   bool        // the rows outlive the transaction, and so do the results of Sorted

	seen  atomic.Int64 // the id of a transaction that sees these rows
	mu    sync.Mutex   // guards sorts
	sorts map[string]sortedRows[R]
}

// RowChunk has RowsPerChunk rows or less. Do not change it.
type RowChunk struct {
	Number  uint64 // the row with the position i has the number Number*RowsPerChunk+i, see Table.EachRow
	Present uint64 // the positions that have rows, one bit each
	stored  []byte
	ends    [RowsPerChunk]uint32 // where the rows begin and end in stored
	begins  [RowsPerChunk]uint32
}

// RowSort defines an order of rows.
type RowSort[R any] struct {
	Of      func(row []byte) R // returns what Compare needs of a row
	Compare func(a, b R) int   // never 0 for two rows
}

// sortedRows are the places of all rows in an order. The place of a row is the index of its chunk
// times RowsPerChunk, plus its position there.
type sortedRows[R any] struct {
	RowSort[R]
	places []uint32
}

// Read returns the rows of a table. It ends with an error when ctx is done.
func (c *RowCache[R]) Read(ctx context.Context, tx *Tx, table string) (*CachedRows[R], error) {
	if err := tx.flushChunks(); err != nil {
		return nil, err
	}
	c.mu.Lock()
	before, large := c.kept, c.large
	c.mu.Unlock()
	id := int64(tx.Bolt.ID())
	if before == nil {
		before = &CachedRows[R]{}
	} else if !tx.Bolt.Writable() && before.seen.Load() == id {
		return before, nil
	}
	rows, err := before.reread(ctx, tx, rereading{table: table, keep: !large && !tx.Bolt.Writable()})
	if err != nil {
		return nil, err
	}
	if rows == before && !tx.Bolt.Writable() {
		rows.seen.Store(id)
	}
	if rows.seen.Load() != id {
		return rows, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.large = c.large || !rows.Kept; c.large {
		c.kept = nil
	} else if c.kept == nil || c.kept.seen.Load() < id {
		c.kept = rows
	}
	return rows, nil
}

// rereading is how rows are read.
type rereading struct {
	table string
	keep  bool // the rows must outlive the transaction
}

// reread returns the rows as the transaction sees them, or r itself if they have not changed.
func (r *CachedRows[R]) reread(ctx context.Context, tx *Tx, how rereading) (*CachedRows[R], error) {
	_, bucket, _ := rowBuckets(how.table)
	next := &CachedRows[R]{Kept: how.keep, Chunks: make([]*RowChunk, 0, len(r.Chunks))}
	changed, size := map[int]bool{}, 0
	for key, stored := range tx.Range(bucket, nil) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		i := len(next.Chunks)
		if i < len(r.Chunks) && bytes.Equal(IDKey(r.Chunks[i].Number), key) && bytes.Equal(r.Chunks[i].stored, stored) {
			next.Chunks = append(next.Chunks, r.Chunks[i])
			size += len(stored)
			continue
		}
		if size += len(stored); size > maxCachedRows {
			next.Kept = false
		}
		if next.Kept {
			stored = bytes.Clone(stored)
		}
		chunk, err := readStoredRows(bucket, key, stored)
		if err != nil {
			return nil, err
		}
		changed[i] = true
		next.Chunks = append(next.Chunks, chunk)
	}
	if r.Kept && next.Kept && len(changed) == 0 && len(next.Chunks) == len(r.Chunks) {
		return r, nil
	}
	if !tx.Bolt.Writable() {
		next.seen.Store(int64(tx.Bolt.ID()))
	}
	if next.Kept {
		next.inherit(r, changed)
	}
	return next, nil
}

// readStoredRows returns a chunk of rows. It shares the memory of stored.
func readStoredRows(bucket string, key, stored []byte) (*RowChunk, error) {
	contents, err := Unseal(bucket, key, stored)
	if err != nil {
		return nil, err
	}
	c := &RowChunk{stored: stored}
	end := len(stored) - len(contents) + 8
	read := len(key) == 8 && eachStoredRow(contents, func(i int, row []byte) {
		c.Present |= 1 << i
		c.begins[i] = uint32(end + 4)
		end += 4 + len(row)
		c.ends[i] = uint32(end)
	})
	if !read {
		return nil, fmt.Errorf("%s/%x: %w", bucket, key, errListData)
	}
	c.Number = binary.BigEndian.Uint64(key)
	return c, nil
}

// Row returns the row with this position, which must be present.
func (c *RowChunk) Row(i int) []byte { return c.stored[c.begins[i]:c.ends[i]] }

// MayContain returns which of the wanted rows contain word, and perhaps some that do not.
func (c *RowChunk) MayContain(word []byte, wanted uint64) (found uint64) {
	begin := 0
	for left := c.Present; left != 0; {
		at := bytes.Index(c.stored[begin:], word)
		if at < 0 {
			break
		}
		for at += begin; left != 0 && int(c.ends[bits.TrailingZeros64(left)]) <= at; {
			left &= left - 1
		}
		if left == 0 {
			break
		}
		found |= left & -left
		begin = int(c.ends[bits.TrailingZeros64(left)])
		left &= left - 1
	}
	return found & wanted
}

// Row returns the row at a place of Sorted.
func (r *CachedRows[R]) Row(place uint32) []byte {
	return r.Chunks[place/RowsPerChunk].Row(int(place % RowsPerChunk))
}

// Sorted returns the places of all rows in an order, which has a name. The place of a row is the index
// of its chunk times RowsPerChunk, plus its position there. Do not change the result.
func (r *CachedRows[R]) Sorted(name string, order RowSort[R]) []uint32 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s, ok := r.sorts[name]; ok {
		return s.places
	}
	all := map[int]bool{}
	for i := range r.Chunks {
		all[i] = true
	}
	if r.sorts == nil {
		r.sorts = map[string]sortedRows[R]{}
	}
	s := sortedRows[R]{order, r.sortChunks(order, all)}
	r.sorts[name] = s
	return s.places
}

// sortChunks returns the places of the rows of some chunks in an order.
func (r *CachedRows[R]) sortChunks(order RowSort[R], chunks map[int]bool) []uint32 {
	type placedRow struct {
		row   R
		place uint32
	}
	var rows []placedRow
	for i := range chunks {
		for left := r.Chunks[i].Present; left != 0; left &= left - 1 {
			place := uint32(i*RowsPerChunk + bits.TrailingZeros64(left))
			rows = append(rows, placedRow{order.Of(r.Row(place)), place})
		}
	}
	slices.SortFunc(rows, func(a, b placedRow) int { return order.Compare(a.row, b.row) })
	places := make([]uint32, len(rows))
	for i, row := range rows {
		places[i] = row.place
	}
	return places
}

// inherit makes the orders that the rows had before, by sorting only the rows of changed chunks.
func (r *CachedRows[R]) inherit(before *CachedRows[R], changed map[int]bool) {
	if len(r.Chunks) < len(before.Chunks) || 8*len(changed) > len(r.Chunks) {
		return // the places are others, or it is not worth while
	}
	before.mu.Lock()
	sorts := maps.Clone(before.sorts)
	before.mu.Unlock()
	for name, s := range sorts {
		same := make([]uint32, 0, len(s.places))
		for _, place := range s.places {
			if !changed[int(place/RowsPerChunk)] {
				same = append(same, place)
			}
		}
		s.places = r.merge(s.RowSort, same, r.sortChunks(s.RowSort, changed))
		sorts[name] = s
	}
	r.sorts = sorts
}

// merge returns the places of two lists, both in the same order, as one list. The second is short.
func (r *CachedRows[R]) merge(order RowSort[R], long, short []uint32) []uint32 {
	merged := make([]uint32, 0, len(long)+len(short))
	for _, place := range short {
		row := order.Of(r.Row(place))
		at, _ := slices.BinarySearchFunc(long, row, func(other uint32, row R) int { return order.Compare(order.Of(r.Row(other)), row) })
		merged = append(append(merged, long[:at]...), place)
		long = long[at:]
	}
	return append(merged, long...)
}
