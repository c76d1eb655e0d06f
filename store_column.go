package main

import (
	"encoding/binary"
	"fmt"
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
	c, err := edit(chunkPlace{listBucket(p.table, column.name), string(IDKey(p.id / orderIDs))}, readOrders)
	if err != nil {
		return err
	}
	o, i := c.(*orders), p.id%orderIDs
	o.order[i] = column.value
	if o.present[i/64] |= 1 << (i % 64); !present {
		o.present[i/64] &^= 1 << (i % 64)
		o.order[i] = 0
	}
	return nil
}

// inRanges reports whether a record passes all ranges of a query.
func (t Table[T]) inRanges(q Query, v T) bool {
	for _, r := range q.Ranges {
		value := t.List.Order
		for _, c := range t.List.Columns {
			if c.Name == r.Column {
				value = c.Value
			}
		}
		if n := value(v); n < r.Low || n > r.High {
			return false
		}
	}
	return true
}

// rangeReader removes the ids whose values are not in a range. It reads the values in ascending order
// of the ids.
type rangeReader struct {
	Range
	chunkCursor
}

// openRange returns a reader that is at the first values.
func openRange(tx *Tx, table string, r Range) *rangeReader {
	return &rangeReader{r, openChunks(tx, listBucket(table, r.Column))}
}

// narrow removes ids from a chunk of a selection. The chunks must come in ascending order.
func (r *rangeReader) narrow(c *selectedChunk) error {
	const parts, words = setIDs / orderIDs, orderIDs / 64
	for part := range parts {
		wanted := c.bits[words*part : words*(part+1)]
		if !slices.ContainsFunc(wanted, func(word uint64) bool { return word != 0 }) {
			continue
		}
		if number := c.number*parts + uint64(part); !r.seek(number) {
			return missingOrder(r.bucket, IDKey(number)) // each selected record has a value
		}
		if err := r.keep(wanted); err != nil {
			return err
		}
	}
	return nil
}

// keep removes the ids from wanted whose values in the present chunk are not in the range.
func (r *rangeReader) keep(wanted []uint64) error {
	contents, err := r.contents()
	if err != nil {
		return err
	}
	if len(contents) != ordersSize {
		return fmt.Errorf("%s/%x: %w", r.bucket, r.key, errListData)
	}
	smallest, largest := binary.BigEndian.Uint64(contents), binary.BigEndian.Uint64(contents[8:])
	switch {
	case smallest >= r.Low && largest <= r.High:
		return nil
	case largest < r.Low || smallest > r.High:
		clear(wanted)
		return nil
	}
	for w := range wanted {
		for left := wanted[w]; left != 0; left &= left - 1 {
			bit := bits.TrailingZeros64(left)
			if n := binary.BigEndian.Uint64(contents[ordersBits+8*(64*w+bit):]); n < r.Low || n > r.High {
				wanted[w] &^= 1 << bit
			}
		}
	}
	return nil
}
