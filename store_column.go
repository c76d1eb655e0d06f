package main

import (
	"math/bits"
	"slices"
)

// Column is a number of each record by which Query.Ranges selects. Listing.Order is such a column
// too, called OrderColumn.
type Column[T any] struct {
	Name  string // unique among the columns and sets of the table; not "all", "order" or "text"
	Value func(T) uint64
}

// Range is passed by the records whose value of a column is from Low to High, both included.
type Range struct {
	Column    string
	Low, High uint64
}

// OrderColumn is the Range.Column for Listing.Order.
const OrderColumn = orderBucket

// listColumn is the value of a record in a column.
type listColumn struct {
	name  string
	value uint64
}

// setColumns stores the values of the record in the columns. It has no value in a column that only
// before has.
func (p listPlace) setColumns(edit chunkEditor, before, after []listColumn) error {
	if slices.Equal(before, after) {
		return nil
	}
	for _, c := range before {
		if slices.ContainsFunc(after, func(other listColumn) bool { return other.name == c.name }) {
			continue
		}
		if err := p.number(edit, c, false); err != nil {
			return err
		}
	}
	for _, c := range after {
		if err := p.number(edit, c, true); err != nil {
			return err
		}
	}
	return nil
}

// number stores the value of the record in a column, or removes it if the record is not present.
func (p listPlace) number(edit chunkEditor, column listColumn, present bool) error {
	c, err := edit(recordPlace{listBucket(p.table, column.name), string(IDKey(p.id / orderIDs))}, readOrders)
	if err != nil {
		return err
	}
	o, i := c.(*orders), p.id%orderIDs
	o.order[i] = column.value
	if o.present[i/64] |= 1 << (i % 64); !present {
		o.present[i/64] &^= 1 << (i % 64)
		o.order[i] = 0
	}
	b, err := edit(recordPlace{boundsBucket(p.table, column.name), string(IDKey(p.id / setIDs))}, readColumnBounds)
	if err == nil {
		b.(*columnBounds).set(int(p.id%setIDs/orderIDs), o)
	}
	return err
}

// rangeReader removes the ids whose values are not in a range. It reads the values in ascending order
// of the ids.
type rangeReader struct {
	Range
	bounds, values chunkCursor
}

// openRange returns a reader that is at the first values.
func openRange(tx *Tx, table string, r Range) *rangeReader {
	return &rangeReader{r, openChunks(tx, boundsBucket(table, r.Column)), openChunks(tx, listBucket(table, r.Column))}
}

// narrow removes ids from a chunk of a selection. The chunks must come in ascending order.
func (r *rangeReader) narrow(c *selectedChunk) error {
	if c.bits == (setBits{}) {
		return nil
	}
	bounds, err := readBounds(&r.bounds, c.number)
	if err != nil {
		return err
	}
	wanted := valueRange{r.Low, r.High}
	for part := range columnParts {
		ids := c.part(part)
		if countIDs(ids) == 0 {
			continue
		}
		stored := bounds.of(part)
		if stored.within(wanted) {
			continue
		}
		if !stored.overlaps(wanted) {
			clear(ids)
			continue
		}
		values, err := readColumn(&r.values, c.number*columnParts+uint64(part), ids)
		if err != nil {
			return err
		}
		for w := range ids {
			for left := ids[w]; left != 0; left &= left - 1 {
				bit := bits.TrailingZeros64(left)
				if n := values.at(64*w + bit); n < r.Low || n > r.High {
					ids[w] &^= 1 << bit
				}
			}
		}
	}
	return nil
}
