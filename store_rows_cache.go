package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"math/bits"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"unsafe"
)

// RowCache keeps the rows of a RowList in memory, what lists compare of them, and in which order
// lists have them. It is never older than the transaction that reads it. After a commit it reads only
// the chunks that the commit has changed. F holds what lists compare of a row; it should have no
// pointers, because there are many. A RowCache is safe for concurrent use.
type RowCache[F any] struct {
	Facts func(row []byte) (F, bool) // returns what lists compare of a row; false: it is not a row of the table

	mu    sync.Mutex
	kept  *CachedRows[F] // nil if nothing is kept
	large bool           // the rows exceed maxCachedRows
}

// maxCachedRows is the size in bytes up to which a RowCache keeps rows and their facts.
const maxCachedRows = 96 << 20

// CachedRows are the rows of all records, as one transaction sees them.
type CachedRows[F any] struct {
	Chunks []*RowChunk // ascending by Number
	Kept   bool        // the rows outlive the transaction, and so do the results of Sorted

	table  string
	read   func(row []byte) (F, bool)
	facts  []*[RowsPerChunk]F // of the chunks; nil unless Kept
	values []*rowValues       // by number, nil for a chunk of zeros; nil unless Kept
	seen   atomic.Int64       // the id of a transaction that sees these rows
	mu     sync.Mutex         // guards sorts
	sorts  map[string]sortedRows[F]
}

// RowChunk has RowsPerChunk rows or less. Do not change it.
type RowChunk struct {
	Number  uint64 // the row with the position i has the number Number*RowsPerChunk+i, see Table.EachRow
	Present uint64 // the positions that have rows, one bit each
	stored  []byte
	ends    [RowsPerChunk]uint32 // where the rows begin and end in stored
	begins  [RowsPerChunk]uint32
}

// CachedRow is a row with its facts. Do not change it.
type CachedRow[F any] struct {
	Facts F
	Row   []byte
}

// RowSort defines an order of rows. Two rows with the same result of Of are compared by Tie, which
// never returns 0 for two rows.
type RowSort[F any] struct {
	Name string
	Of   func(row CachedRow[F]) RowOrder
	Tie  func(a, b CachedRow[F]) int
}

// RowOrder is a number of 128 bits by which rows are sorted.
type RowOrder [2]uint64

// PlacedRow is the place of a row with its order. The place of a row is the index of its chunk times
// RowsPerChunk, plus its position there.
type PlacedRow struct {
	RowOrder
	Place uint32
}

// sortedRows are the places of all rows in an order.
type sortedRows[F any] struct {
	RowSort[F]
	places []uint32
}

// Read returns the rows of a table. It ends with an error when ctx is done.
func (c *RowCache[F]) Read(ctx context.Context, tx *Tx, table string) (*CachedRows[F], error) {
	if err := tx.flushChunks(); err != nil {
		return nil, err
	}
	c.mu.Lock()
	before, large := c.kept, c.large
	c.mu.Unlock()
	id := int64(tx.Bolt.ID())
	if before == nil {
		before = &CachedRows[F]{}
	} else if !tx.Bolt.Writable() && before.seen.Load() == id {
		return before, nil
	}
	reading := rowReading[F]{tx: tx, table: table, facts: c.Facts, keep: !large && !tx.Bolt.Writable()}
	rows, err := reading.rows(ctx, before)
	if err != nil || tx.Bolt.Writable() {
		return rows, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	rows.seen.Store(max(rows.seen.Load(), id))
	if c.large = c.large || !rows.Kept; c.large {
		c.kept = nil
	} else if c.kept == nil || c.kept.seen.Load() < id {
		c.kept = rows
	}
	return rows, nil
}

// rowReading is how rows are read.
type rowReading[F any] struct {
	tx    *Tx
	table string
	facts func(row []byte) (F, bool)
	keep  bool // the rows must outlive the transaction
}

// rows returns the rows as the transaction sees them, or before itself if they have not changed.
func (r rowReading[F]) rows(ctx context.Context, before *CachedRows[F]) (*CachedRows[F], error) {
	_, rows, values := rowBuckets(r.table)
	next := &CachedRows[F]{table: r.table, read: r.facts, Kept: r.keep}
	var numbers map[string][]uint64
	known := false
	if before.Kept && r.keep && r.tx.rowLog != nil {
		numbers, known = r.tx.rowLog.between(before.seen.Load(), int64(r.tx.Bolt.ID()), rows, values)
	}
	if known && len(numbers) == 0 {
		return before, nil
	}
	var err error
	if known {
		err = r.mend(before, next, numbers)
	} else {
		err = r.all(ctx, before, next)
	}
	if err != nil {
		return nil, err
	}
	size := 0
	for _, c := range next.Chunks {
		size += len(c.stored) + int(unsafe.Sizeof(RowChunk{})+unsafe.Sizeof([RowsPerChunk]F{}))
	}
	if size > maxCachedRows {
		next.Kept = false
	}
	if !next.Kept {
		return next, nil
	}
	if err := next.resolve(before); err != nil {
		return nil, err
	}
	next.inherit(before)
	return next, nil
}

// mend makes next from before by reading only the chunks with these numbers.
func (r rowReading[F]) mend(before, next *CachedRows[F], numbers map[string][]uint64) error {
	_, rows, values := rowBuckets(r.table)
	next.Chunks, next.values = slices.Clone(before.Chunks), slices.Clone(before.values)
	for _, number := range numbers[rows] {
		chunk, err := r.chunk(rows, number)
		if err != nil {
			return err
		}
		at, had := slices.BinarySearchFunc(next.Chunks, number, func(c *RowChunk, n uint64) int { return cmp.Compare(c.Number, n) })
		switch {
		case chunk == nil && had:
			next.Chunks = slices.Delete(next.Chunks, at, at+1)
		case chunk == nil:
		case !had:
			next.Chunks = slices.Insert(next.Chunks, at, chunk)
		case !bytes.Equal(chunk.stored, next.Chunks[at].stored):
			next.Chunks[at] = chunk
		}
	}
	for _, number := range numbers[values] {
		stored, err := r.tx.Get(values, IDKey(number))
		if err == nil {
			err = next.setValues(IDKey(number), stored)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// chunk returns the chunk of rows with this number, or nil if there is none.
func (r rowReading[F]) chunk(bucket string, number uint64) (*RowChunk, error) {
	b := r.tx.open(bucket)
	if b == nil {
		return nil, nil
	}
	stored := b.Get(IDKey(number))
	if stored == nil {
		return nil, nil
	}
	return readStoredRows(bucket, IDKey(number), bytes.Clone(stored))
}

// all makes next by reading everything. Chunks that are as before are those of before.
func (r rowReading[F]) all(ctx context.Context, before, next *CachedRows[F]) error {
	_, rows, _ := rowBuckets(r.table)
	next.Chunks = make([]*RowChunk, 0, len(before.Chunks))
	size := 0
	for key, stored := range r.tx.Range(rows, nil) {
		if err := ctx.Err(); err != nil {
			return err
		}
		i := len(next.Chunks)
		if i < len(before.Chunks) && bytes.Equal(IDKey(before.Chunks[i].Number), key) && bytes.Equal(before.Chunks[i].stored, stored) {
			next.Chunks = append(next.Chunks, before.Chunks[i])
			continue
		}
		if size += len(stored); size > maxCachedRows {
			next.Kept = false
		}
		if next.Kept {
			stored = bytes.Clone(stored)
		}
		chunk, err := readStoredRows(rows, key, stored)
		if err != nil {
			return err
		}
		next.Chunks = append(next.Chunks, chunk)
	}
	if !next.Kept {
		return nil
	}
	return next.readValues(r.tx)
}

// readValues reads the values of all records.
func (r *CachedRows[F]) readValues(tx *Tx) error {
	_, _, values := rowBuckets(r.table)
	for key, stored := range tx.Range(values, nil) {
		contents, err := Unseal(values, key, stored)
		if err == nil {
			err = r.setValues(key, contents)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// setValues sets the values of a chunk with its stored contents, nil if there is none.
func (r *CachedRows[F]) setValues(key, contents []byte) error {
	c, err := readRowValues(contents)
	if err != nil || len(key) != 8 || binary.BigEndian.Uint64(key) > maxValueChunks {
		_, _, values := rowBuckets(r.table)
		return fmt.Errorf("%s/%x: %w", values, key, errListData)
	}
	number := binary.BigEndian.Uint64(key)
	for uint64(len(r.values)) <= number {
		r.values = append(r.values, nil)
	}
	r.values[number] = c.(*rowValues)
	return nil
}

// maxValueChunks is the largest number that a chunk of values can have, because the place of a row is
// an uint32.
const maxValueChunks = 1 << 32 / valuesPerChunk

// resolve sets the facts of the rows. Those of the chunks of before are known.
func (r *CachedRows[F]) resolve(before *CachedRows[F]) error {
	facts := make([]*[RowsPerChunk]F, len(r.Chunks))
	old := 0
	for i, c := range r.Chunks {
		for old < len(before.Chunks) && before.Chunks[old].Number < c.Number {
			old++
		}
		if before.Kept && old < len(before.Chunks) && before.Chunks[old] == c {
			facts[i] = before.facts[old]
			continue
		}
		var err error
		if facts[i], err = r.ChunkFacts(i, new([RowsPerChunk]F)); err != nil {
			return err
		}
	}
	r.facts = facts
	return nil
}

// ChunkFacts returns the facts of the rows of the chunk with this index, by their positions. It may
// store them in space. Do not change them.
func (r *CachedRows[F]) ChunkFacts(chunk int, space *[RowsPerChunk]F) (*[RowsPerChunk]F, error) {
	if r.facts != nil {
		return r.facts[chunk], nil
	}
	c := r.Chunks[chunk]
	for left := c.Present; left != 0; left &= left - 1 {
		i, ok := bits.TrailingZeros64(left), false
		if space[i], ok = r.read(c.Row(i)); !ok {
			_, rows, _ := rowBuckets(r.table)
			return nil, fmt.Errorf("%s/%x, row %d: %w", rows, IDKey(c.Number), i, errListData)
		}
	}
	return space, nil
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
		for at += begin; int(c.ends[bits.TrailingZeros64(left)]) <= at; { // stored ends with the last row
			left &= left - 1
		}
		found |= left & -left
		begin = int(c.ends[bits.TrailingZeros64(left)])
		left &= left - 1
	}
	return found & wanted
}

// Row returns the row at a place.
func (r *CachedRows[F]) Row(place uint32) (row CachedRow[F]) {
	chunk, i := place/RowsPerChunk, place%RowsPerChunk
	if row.Row = r.Chunks[chunk].Row(int(i)); r.facts != nil {
		row.Facts = r.facts[chunk][i]
	} else {
		row.Facts, _ = r.read(row.Row)
	}
	return row
}

// Number returns the number of the row at a place, see Table.EachRow.
func (r *CachedRows[F]) Number(place uint32) uint64 {
	return r.Chunks[place/RowsPerChunk].Number*RowsPerChunk + uint64(place%RowsPerChunk)
}

// Values returns the values of the records.
func (r *CachedRows[F]) Values(tx *Tx) (v RowValues, err error) {
	if !r.Kept {
		r = &CachedRows[F]{table: r.table}
		err = r.readValues(tx)
	}
	return RowValues{chunks: slices.Clone(r.values)}, err
}

// RowValues has the value of each record by the number of its row. It is not safe for concurrent use.
type RowValues struct {
	chunks []*rowValues
	own    map[uint64]bool // the chunks that Set has copied
}

// At returns the value of a record.
func (v *RowValues) At(number uint64) uint64 {
	if chunk := number / valuesPerChunk; chunk < uint64(len(v.chunks)) && v.chunks[chunk] != nil {
		return v.chunks[chunk][number%valuesPerChunk]
	}
	return 0
}

// Set replaces the value of a record, here and nowhere else.
func (v *RowValues) Set(number, value uint64) {
	chunk := number / valuesPerChunk
	for uint64(len(v.chunks)) <= chunk {
		v.chunks = append(v.chunks, nil)
	}
	if !v.own[chunk] {
		values := rowValues{}
		if v.chunks[chunk] != nil {
			values = *v.chunks[chunk]
		}
		v.chunks[chunk] = &values
		if v.own == nil {
			v.own = map[uint64]bool{}
		}
		v.own[chunk] = true
	}
	v.chunks[chunk][number%valuesPerChunk] = value
}

// compare returns the order of two rows.
func (s RowSort[F]) compare(r *CachedRows[F], a, b PlacedRow) int {
	if a.RowOrder != b.RowOrder {
		return cmp.Or(cmp.Compare(a.RowOrder[0], b.RowOrder[0]), cmp.Compare(a.RowOrder[1], b.RowOrder[1]))
	}
	if a.Place == b.Place {
		return 0
	}
	return s.Tie(r.Row(a.Place), r.Row(b.Place))
}

// Sorted returns the places of all rows in an order. Do not change the result.
func (r *CachedRows[F]) Sorted(order RowSort[F]) []uint32 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s, ok := r.sorts[order.Name]; ok {
		return s.places
	}
	var rows []PlacedRow
	for i, c := range r.Chunks {
		for left := c.Present; left != 0; left &= left - 1 {
			place := uint32(i*RowsPerChunk + bits.TrailingZeros64(left))
			rows = append(rows, PlacedRow{order.Of(r.Row(place)), place})
		}
	}
	slices.SortFunc(rows, func(a, b PlacedRow) int { return order.compare(r, a, b) })
	s := sortedRows[F]{order, make([]uint32, len(rows))}
	for i, row := range rows {
		s.places[i] = row.Place
	}
	if r.sorts == nil {
		r.sorts = map[string]sortedRows[F]{}
	}
	r.sorts[order.Name] = s
	return s.places
}

// SortPart puts the rows that belong to the positions from from to to there, in their order. The other
// rows are before or after them, in any order. So a page of a long list costs little more than
// reading the list.
func (r *CachedRows[F]) SortPart(order RowSort[F], rows []PlacedRow, from, to int) {
	const short = 24
	for len(rows) > short && from < to {
		pivot := rows[rand.IntN(len(rows))]
		low, high := 0, len(rows)-1
		for low <= high {
			switch c := order.compare(r, rows[low], pivot); {
			case c < 0:
				low++
			case order.compare(r, rows[high], pivot) > 0:
				high--
			default:
				rows[low], rows[high] = rows[high], rows[low]
				low++
				high--
			}
		}
		// rows[:high+1] are at most the pivot, rows[low:] are at least the pivot, and what is
		// between them is the pivot.
		r.SortPart(order, rows[:high+1], from, min(to, high+1))
		rows, from, to = rows[low:], max(from-low, 0), to-low
	}
	if from < to {
		slices.SortFunc(rows, func(a, b PlacedRow) int { return order.compare(r, a, b) })
	}
}

// rowDifference is how rows differ from those before. The chunks have the same places.
type rowDifference struct {
	gone  []uint32 // places of rows that are no longer there, or others
	added []uint32 // places of rows that were not there, or others
}

// differ returns how the rows differ from those before. ok is false if that is not worth knowing.
func (r *CachedRows[F]) differ(before *CachedRows[F]) (d rowDifference, ok bool) {
	if !before.Kept || len(r.Chunks) < len(before.Chunks) {
		return d, false
	}
	for i, c := range r.Chunks {
		old := &RowChunk{Number: c.Number}
		if i < len(before.Chunks) {
			old = before.Chunks[i]
		}
		if old == c {
			continue
		}
		if old.Number != c.Number || 8*len(d.added) > RowsPerChunk*len(r.Chunks) {
			return d, false
		}
		for bit := range RowsPerChunk {
			was, is := old.Present>>bit&1 == 1, c.Present>>bit&1 == 1
			if was && is && bytes.Equal(old.Row(bit), c.Row(bit)) {
				continue
			}
			place := uint32(i*RowsPerChunk + bit)
			if was {
				d.gone = append(d.gone, place)
			}
			if is {
				d.added = append(d.added, place)
			}
		}
	}
	return d, true
}

// inherit makes the orders that the rows had before, by moving only the rows that differ.
func (r *CachedRows[F]) inherit(before *CachedRows[F]) {
	before.mu.Lock()
	sorts := maps.Clone(before.sorts)
	before.mu.Unlock()
	if len(sorts) == 0 {
		return
	}
	d, ok := r.differ(before)
	if !ok {
		return // sorting anew costs less
	}
	for name, s := range sorts {
		s.places = r.moved(s, before, d)
		sorts[name] = s
	}
	r.sorts = sorts
}

// moved returns the places of the rows in an order, from those of the rows before.
func (r *CachedRows[F]) moved(s sortedRows[F], before *CachedRows[F], d rowDifference) []uint32 {
	type edit struct {
		at    int // index in the order before
		gone  bool
		place PlacedRow
	}
	var edits []edit
	index := func(row CachedRow[F]) int {
		at, _ := slices.BinarySearchFunc(s.places, PlacedRow{RowOrder: s.Of(row)}, func(place uint32, wanted PlacedRow) int {
			other := before.Row(place)
			if order := s.Of(other); order != wanted.RowOrder {
				return cmp.Or(cmp.Compare(order[0], wanted.RowOrder[0]), cmp.Compare(order[1], wanted.RowOrder[1]))
			}
			return s.Tie(other, row)
		})
		return at
	}
	for _, place := range d.gone {
		edits = append(edits, edit{at: index(before.Row(place)), gone: true})
	}
	for _, place := range d.added {
		row := r.Row(place)
		edits = append(edits, edit{index(row), false, PlacedRow{s.Of(row), place}})
	}
	slices.SortFunc(edits, func(a, b edit) int {
		switch {
		case a.at != b.at:
			return a.at - b.at
		case a.gone != b.gone && b.gone: // what is added at an index comes before the row there
			return -1
		case a.gone != b.gone:
			return 1
		}
		return s.compare(r, a.place, b.place)
	})
	places, done := make([]uint32, 0, len(s.places)+len(d.added)-len(d.gone)), 0
	for _, e := range edits {
		places = append(places, s.places[done:e.at]...)
		if done = e.at; e.gone {
			done++
		} else {
			places = append(places, e.place.Place)
		}
	}
	return append(places, s.places[done:]...)
}

// rowLog knows which chunks of rows and of values the last commits have changed, so that a RowCache
// need not read the others again. It is safe for concurrent use.
type rowLog struct {
	mu      sync.Mutex
	since   int64 // all changes of later transactions are known
	changes []rowChange
}

// rowChange is a change of a chunk. If at.key is "", any chunk of the bucket may have changed.
type rowChange struct {
	transaction int64
	at          recordPlace
}

// maxRowChanges is the number of changes that a rowLog remembers.
const maxRowChanges = 1 << 14

// isRowBucket reports whether a bucket has rows of a RowList or their values.
func isRowBucket(bucket string) bool {
	return strings.HasSuffix(bucket, "_list~rows") || strings.HasSuffix(bucket, "_list~values")
}

// noteRows notes that the transaction changes a chunk of rows or of values. If key is nil, it changes
// the whole bucket.
func (tx *Tx) noteRows(bucket string, key []byte) {
	if isRowBucket(bucket) {
		tx.rows = append(tx.rows, recordPlace{bucket, string(key)})
	}
}

// add remembers the changes of a transaction. Call it before the commit.
func (l *rowLog) add(transaction int64, places []recordPlace) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, at := range places {
		l.changes = append(l.changes, rowChange{transaction, at})
	}
	if surplus := len(l.changes) - maxRowChanges; surplus > 0 {
		l.since = l.changes[surplus-1].transaction
		l.changes = slices.Clone(l.changes[surplus:])
	}
}

// between returns the numbers of the chunks that may differ between what two transactions see, by
// bucket. ok is false if they are not known.
func (l *rowLog) between(a, b int64, buckets ...string) (numbers map[string][]uint64, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	first, last := min(a, b), max(a, b)
	if first < l.since {
		return nil, false
	}
	numbers = map[string][]uint64{}
	for _, c := range slices.Backward(l.changes) {
		if c.transaction <= first {
			break
		}
		if c.transaction > last || !slices.Contains(buckets, c.at.bucket) {
			continue
		}
		if len(c.at.key) != 8 {
			return nil, false
		}
		numbers[c.at.bucket] = append(numbers[c.at.bucket], binary.BigEndian.Uint64([]byte(c.at.key)))
	}
	for bucket, list := range numbers {
		slices.Sort(list)
		numbers[bucket] = slices.Compact(list)
	}
	return numbers, true
}
