package main

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"
)

// columnParts is the number of chunks of a column that have the values of the ids of one chunk of a
// set.
const columnParts = setIDs / orderIDs

// columnBounds is a chunk with the smallest and the largest value in each chunk of a column. Ids mostly
// grow with time, and so do the values. So a list finds its part by the bounds, and reads few of the
// values.
type columnBounds struct {
	present uint32 // the chunks with values, one bit each
	low     [columnParts]uint64
	high    [columnParts]uint64
}

// boundsHead is the size in bytes of present, with which the contents of a columnBounds begin. Then
// come low and high of each chunk, 0 for those without values.
const (
	boundsHead = columnParts / 8
	boundsSize = boundsHead + 16*columnParts
)

// boundsBucket returns the name of the bucket with the bounds of a column.
func boundsBucket(table, column string) string { return listBucket(table, column+"-bounds") }

// set stores the bounds of one chunk of the column.
func (b *columnBounds) set(part int, o *orders) {
	low, high, any := ^uint64(0), uint64(0), false
	for w, word := range o.present {
		for ; word != 0; word &= word - 1 {
			value := o.order[64*w+bits.TrailingZeros64(word)]
			low, high, any = min(low, value), max(high, value), true
		}
	}
	if b.present |= 1 << part; !any {
		b.present &^= 1 << part
		low, high = 0, 0
	}
	b.low[part], b.high[part] = low, high
}

func (b *columnBounds) encode() []byte {
	if b.present == 0 {
		return nil
	}
	contents := binary.BigEndian.AppendUint32(make([]byte, 0, boundsSize), b.present)
	for part := range columnParts {
		contents = binary.BigEndian.AppendUint64(contents, b.low[part])
		contents = binary.BigEndian.AppendUint64(contents, b.high[part])
	}
	return contents
}

func readColumnBounds(contents []byte) (chunk, error) {
	b := &columnBounds{}
	if contents == nil {
		return b, nil
	}
	if len(contents) != boundsSize {
		return nil, errListData
	}
	b.present = binary.BigEndian.Uint32(contents)
	for part := range columnParts {
		stored := storedBounds(contents).of(part)
		b.low[part], b.high[part] = stored.low, stored.high
	}
	return b, nil
}

// valueRange is a range of values of a column, with both ends.
type valueRange struct{ low, high uint64 }

func (r valueRange) overlaps(other valueRange) bool {
	return r.low <= other.high && other.low <= r.high
}
func (r valueRange) within(other valueRange) bool { return r.low >= other.low && r.high <= other.high }
func (r valueRange) contains(value uint64) bool   { return r.low <= value && value <= r.high }

// storedBounds are the contents of a columnBounds.
type storedBounds []byte

// of returns the bounds of a chunk that has values.
func (b storedBounds) of(part int) valueRange {
	at := b[boundsHead+16*part:]
	return valueRange{binary.BigEndian.Uint64(at), binary.BigEndian.Uint64(at[8:])}
}

// readBounds returns the bounds for the ids of the chunk of a set with this number. The cursor is that
// of a bucket with bounds.
func readBounds(c *chunkCursor, number uint64) (storedBounds, error) {
	if c.cursor == nil || !c.seek(number) {
		return nil, missingOrder(c.bucket, IDKey(number)) // each selected record has a value
	}
	contents, err := c.contents()
	if err == nil && len(contents) != boundsSize {
		err = fmt.Errorf("%s/%x: %w", c.bucket, c.key, errListData)
	}
	return contents, err
}

// columnValues are the values of a chunk of a column as they are stored.
type columnValues []byte

func (v columnValues) at(i int) uint64 { return binary.BigEndian.Uint64(v[8*i:]) }

// readColumn returns the values of the chunk of a column with this number. It must have values of the
// ids.
func readColumn(c *chunkCursor, number uint64, ids []uint64) (columnValues, error) {
	if c.cursor == nil || !c.seek(number) {
		return nil, missingOrder(c.bucket, IDKey(number))
	}
	contents, err := c.contents()
	if err != nil {
		return nil, err
	}
	if len(contents) != ordersSize {
		return nil, fmt.Errorf("%s/%x: %w", c.bucket, c.key, errListData)
	}
	for w, word := range ids {
		if word&^binary.BigEndian.Uint64(contents[8*w:]) != 0 {
			return nil, missingOrder(c.bucket, c.key)
		}
	}
	return contents[ordersHead:], nil
}

// missingOrder returns the error for a record without an order.
func missingOrder(bucket string, key []byte) error {
	return fmt.Errorf("%s/%x: the order of a record is missing; stop the server and run latchkey check --repair", bucket, key)
}

// positions is a half-open range of positions in a list.
type positions struct{ from, to int }

// part returns the ids that one chunk of a column is about. They share the memory of the selection.
func (c *selectedChunk) part(i int) []uint64 {
	const words = orderIDs / 64
	return c.bits[words*i : words*(i+1)]
}

// countIDs returns the number of ids in a part of a selection.
func countIDs(part []uint64) (n int) {
	for _, word := range part {
		n += bits.OnesCount64(word)
	}
	return n
}

// ordering is a selection with the order of its records.
type ordering struct {
	tx     *Tx
	bucket string // with the orders
	chunks []orderedChunk
}

// orderedChunk is a chunk of a selection with the order of its records. The orders share the memory of
// the transaction.
type orderedChunk struct {
	*selectedChunk
	bounds storedBounds
	values valueRange                 // of all records of the chunk
	orders *[columnParts]columnValues // nil, and nil values, until they are needed
}

// inOrder returns the ids at some positions, in the order of the records of a table.
func (s selection) inOrder(tx *Tx, table string, at positions) ([]uint64, error) {
	o, all, err := s.withOrder(tx, table)
	if err != nil || len(o.chunks) == 0 {
		return nil, err
	}
	return o.pick(all, at)
}

// withOrder returns the selection with the order of its records, and bounds of all orders.
func (s selection) withOrder(tx *Tx, table string) (o ordering, all valueRange, err error) {
	o = ordering{tx, listBucket(table, orderBucket), make([]orderedChunk, 0, len(s.chunks))}
	all = valueRange{^uint64(0), 0}
	cursor := openChunks(tx, boundsBucket(table, orderBucket))
	for i := range s.chunks {
		c := orderedChunk{selectedChunk: &s.chunks[i], values: valueRange{^uint64(0), 0}}
		if c.bounds, err = readBounds(&cursor, c.number); err != nil {
			return o, all, err
		}
		for part := range columnParts {
			if countIDs(c.part(part)) > 0 {
				bounds := c.bounds.of(part)
				c.values = valueRange{min(c.values.low, bounds.low), max(c.values.high, bounds.high)}
			}
		}
		all = valueRange{min(all.low, c.values.low), max(all.high, c.values.high)}
		o.chunks = append(o.chunks, c)
	}
	return o, all, nil
}

// orderedIDs are selected records that one chunk of orders is about.
type orderedIDs struct {
	values valueRange // bounds of their orders
	count  int
}

// each calls visit for each record whose order is in a range, in ascending order of the ids. It leaves
// out those of which skip reports that they need not be read.
func (o *ordering) each(r valueRange, skip func(orderedIDs) bool, visit func(order, id uint64)) error {
	cursor := openChunks(o.tx, o.bucket)
	for i := range o.chunks {
		c := &o.chunks[i]
		if !c.values.overlaps(r) {
			continue
		}
		for part := range columnParts {
			ids, bounds := c.part(part), c.bounds.of(part)
			count := countIDs(ids)
			if count == 0 || !bounds.overlaps(r) || skip(orderedIDs{bounds, count}) {
				continue
			}
			values, err := c.read(&cursor, part)
			if err != nil {
				return err
			}
			first := c.number*setIDs + uint64(part*orderIDs)
			for w, word := range ids {
				for ; word != 0; word &= word - 1 {
					bit := 64*w + bits.TrailingZeros64(word)
					if order := values.at(bit); r.contains(order) {
						visit(order, first+uint64(bit))
					}
				}
			}
		}
	}
	return nil
}

// read returns the orders of the records of a part of the chunk.
func (c *orderedChunk) read(cursor *chunkCursor, part int) (columnValues, error) {
	if c.orders == nil {
		c.orders = new([columnParts]columnValues)
	}
	if c.orders[part] != nil {
		return c.orders[part], nil
	}
	ids, bounds := c.part(part), c.bounds.of(part)
	values, err := readColumn(cursor, c.number*columnParts+uint64(part), ids)
	if err != nil {
		return nil, err
	}
	for w, word := range ids {
		for ; word != 0; word &= word - 1 {
			if !bounds.contains(values.at(64*w + bits.TrailingZeros64(word))) {
				return nil, fmt.Errorf("%s/%x: the order of a record is not within its bounds; stop the server and run latchkey check --repair", cursor.bucket, cursor.key)
			}
		}
	}
	c.orders[part] = values
	return values, nil
}

// maxPicked is the number of records that pick sorts together. It bounds the memory of a page.
const maxPicked = 1 << 10

// pick returns the ids at some positions among the records whose order is in the range: the
// largest order first, and among equal ones the largest id. It counts how many records are in each of
// 64 parts of the range, mostly by their bounds, and then looks only at the parts with these
// positions. So it neither reads nor sorts the whole list.
func (o *ordering) pick(r valueRange, at positions) (ids []uint64, err error) {
	shift := max(0, bits.Len64(r.high-r.low)-6)
	counts, err := o.histogram(r, shift)
	if err != nil {
		return nil, err
	}
	part := func(i int) valueRange {
		low := r.low + uint64(i)<<shift
		return valueRange{low, min(r.high-low, 1<<shift-1) + low}
	}
	for top := len(counts) - 1; top >= 0 && at.from < at.to; {
		if at.from >= counts[top] {
			at.from, at.to = at.from-counts[top], at.to-counts[top]
			top--
			continue
		}
		bottom, count := top, counts[top]
		for bottom > 0 && count < at.to && count+counts[bottom-1] <= maxPicked {
			bottom--
			count += counts[bottom]
		}
		picked, err := o.among(countedRange{valueRange{part(bottom).low, part(top).high}, count}, positions{at.from, min(at.to, count)})
		if err != nil {
			return nil, err
		}
		ids = append(ids, picked...)
		at.from, at.to = 0, at.to-count
		top = bottom - 1
	}
	return ids, nil
}

// countedRange is a range of orders and the number of records in it.
type countedRange struct {
	valueRange
	count int
}

// among returns the ids at some positions among the records in a range.
func (o *ordering) among(r countedRange, at positions) ([]uint64, error) {
	switch {
	case r.count <= maxPicked:
		ids, err := o.sorted(r)
		if err != nil {
			return nil, err
		}
		return ids[at.from:at.to], nil
	case r.low == r.high:
		return o.equal(r, at)
	default:
		return o.pick(r.valueRange, at)
	}
}

// histogram returns how many records have their order in each part of a range. Each part has
// 1<<shift values; there are at most 64 parts.
func (o *ordering) histogram(r valueRange, shift int) ([]int, error) {
	counts := make([]int, (r.high-r.low)>>shift+1)
	err := o.each(r, func(ids orderedIDs) bool {
		inOnePart := ids.values.within(r) && (ids.values.low-r.low)>>shift == (ids.values.high-r.low)>>shift
		if inOnePart {
			counts[(ids.values.low-r.low)>>shift] += ids.count
		}
		return inOnePart
	}, func(order, _ uint64) { counts[(order-r.low)>>shift]++ })
	return counts, err
}

// sorted returns the ids of the records whose order is in a range, the largest order first.
func (o *ordering) sorted(r countedRange) ([]uint64, error) {
	type row struct{ order, id uint64 }
	rows := make([]row, 0, r.count)
	err := o.each(r.valueRange, func(orderedIDs) bool { return false }, func(order, id uint64) { rows = append(rows, row{order, id}) })
	slices.SortFunc(rows, func(a, b row) int { return cmp.Or(cmp.Compare(b.order, a.order), cmp.Compare(b.id, a.id)) })
	ids := make([]uint64, len(rows))
	for i, row := range rows {
		ids[i] = row.id
	}
	return ids, err
}

// equal returns the ids at some positions among the records of a range of one order, the largest id
// first.
func (o *ordering) equal(r countedRange, at positions) (ids []uint64, err error) {
	next, end := r.count-at.to, r.count-at.from // positions in ascending order of the ids, from the present record on
	err = o.each(r.valueRange, func(part orderedIDs) bool {
		outside := part.values.within(r.valueRange) && (end <= 0 || next >= part.count)
		if outside {
			next, end = next-part.count, end-part.count
		}
		return outside
	}, func(_, id uint64) {
		if next <= 0 && end > 0 {
			ids = append(ids, id)
		}
		next, end = next-1, end-1
	})
	slices.Reverse(ids)
	return ids, err
}
