package main

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestRowChunk_MayContain compares the search in the rows of a chunk with a search in each row: it finds all rows with the
// word, and beyond those only rows whose stored form, with the length before it, has the word.
func TestRowChunk_MayContain(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	text := func(most int) []byte {
		b := make([]byte, 1+random.IntN(most))
		for i := range b {
			b[i] = "ab\x00\x01"[random.IntN(4)]
		}
		return b
	}
	key := IDKey(5)
	for range 3000 {
		c, rare := &rowChunk{}, random.IntN(8)
		for i := range c {
			if random.IntN(8) <= rare || i == 0 && rare == 0 {
				c[i] = text(12)
			}
		}
		stored := sealRecord(recordVersion, key, c.encode())
		rows, err := readStoredRows("rows", key, stored)
		if err != nil {
			t.Fatal(err)
		}
		for range 20 {
			word, wanted := text(3), random.Uint64()
			found, begin := rows.MayContain(word, wanted), 0
			for i, row := range c {
				bit := found>>i&1 == 1
				if row == nil {
					if bit {
						t.Fatalf("%q: row %d is found, which does not exist", word, i)
					}
					continue
				}
				if !bytes.Equal(rows.Row(i), row) {
					t.Fatalf("row %d: got %q, want %q", i, rows.Row(i), row)
				}
				end := int(rows.ends[i])
				begins := false
				for ; begin < end; begin++ {
					begins = begins || bytes.HasPrefix(stored[begin:], word)
				}
				has, asked := bytes.Contains(row, word), wanted>>i&1 == 1
				if has && asked && !bit || bit && (!asked || !begins) {
					t.Fatalf("%q in %q, row %d, which is wanted %t: got %t", word, row, i, asked, bit)
				}
			}
		}
	}
}

// rowTable is a table with a RowList. The first byte of a row is its order.
var rowTable = Table[thing]{
	Name: "rowed", Key: func(v thing) []byte { return IDKey(v.ID) },
	Rows: &RowList[thing]{
		Row: func(v thing) []byte { return fmt.Appendf(nil, "%s %d", v.Word, v.ID) },
		Value: func(tx *Tx, key []byte) (uint64, error) {
			value, err := tx.Get("rowed_values", key)
			if err != nil || value == nil {
				return 0, err
			}
			return binary.BigEndian.Uint64(value), nil
		},
		Source: "rowed_values",
	},
}

// TestRowCache_Model changes a table at random, a few records at a time or many: the rows that are kept in memory, their
// values and their orders are those of the records, and those of before stay as they were.
func TestRowCache_Model(t *testing.T) {
	s := newTestStore(t)
	cache := &RowCache[byte]{Facts: func(row []byte) (byte, bool) { return row[0], true }}
	tie := func(a, b CachedRow[byte]) int { return bytes.Compare(a.Row, b.Row) }
	sorts := []RowSort[byte]{
		{"first", func(r CachedRow[byte]) RowOrder { return RowOrder{uint64(r.Facts)} }, tie},
		{"second", func(r CachedRow[byte]) RowOrder { return RowOrder{uint64(r.Facts) % 2, 255 - uint64(r.Facts)} }, tie},
	}
	random := rand.New(rand.NewPCG(1, 2))
	records, values, inherited := map[uint64]thing{}, map[uint64]uint64{}, 0
	listed := func(rows *CachedRows[byte], sort RowSort[byte]) (list []string) {
		for _, place := range rows.Sorted(sort) {
			list = append(list, string(rows.Row(place).Row))
		}
		return list
	}
	var before *CachedRows[byte]
	var beforeRows []string
	for step := range 300 {
		few := 1 + random.IntN(5)
		if step%50 == 0 {
			few = 300
		}
		type edit struct {
			record thing
			value  uint64
			kind   int // 0: delete, 1: set the value, 2: store
		}
		var edits []edit
		for range few {
			e := edit{thing{ID: 1 + random.Uint64N(700), Word: string(rune('a' + random.IntN(6)))}, random.Uint64(), random.IntN(4)}
			switch _, has := records[e.record.ID]; {
			case has && e.kind == 0:
				delete(records, e.record.ID)
				delete(values, e.record.ID)
			case has && e.kind == 1:
				values[e.record.ID] = e.value
			default:
				e.kind = 2
				records[e.record.ID] = e.record
			}
			edits = append(edits, e)
		}
		err := s.Update(func(tx *Tx) error {
			for _, e := range edits {
				key := IDKey(e.record.ID)
				var err error
				switch e.kind {
				case 0:
					err = errors.Join(rowTable.Delete(tx, key), tx.Delete("rowed_values", key))
				case 1:
					err = errors.Join(rowTable.SetValue(tx, key, e.value), tx.Put("rowed_values", key, IDKey(e.value)))
				default:
					err = rowTable.Put(tx, e.record)
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		err = s.View(func(tx *Tx) error {
			rows, err := cache.Read(t.Context(), tx, rowTable.Name)
			if err != nil {
				return err
			}
			if len(rows.sorts) > 0 {
				inherited++
			}
			for _, sort := range sorts {
				var want []CachedRow[byte]
				for _, v := range records {
					row := rowTable.Rows.Row(v)
					want = append(want, CachedRow[byte]{row[0], row})
				}
				slices.SortFunc(want, func(a, b CachedRow[byte]) int {
					one, other := sort.Of(a), sort.Of(b)
					return cmp.Or(cmp.Compare(one[0], other[0]), cmp.Compare(one[1], other[1]), tie(a, b))
				})
				got := listed(rows, sort)
				if !slices.EqualFunc(got, want, func(a string, b CachedRow[byte]) bool { return a == string(b.Row) }) {
					t.Fatalf("step %d, %s: got %d rows, want %d, or they are in another order", step, sort.Name, len(got), len(want))
				}
			}
			stored, err := rows.Values(tx)
			for _, place := range rows.Sorted(sorts[0]) {
				_, text, _ := strings.Cut(string(rows.Row(place).Row), " ")
				id, _ := strconv.ParseUint(text, 10, 64)
				if got := stored.At(rows.Number(place)); got != values[id] {
					t.Fatalf("step %d: got the value %d of record %d, want %d", step, got, id, values[id])
				}
			}
			if before != nil && !slices.Equal(listed(before, sorts[0]), beforeRows) {
				t.Errorf("step %d: the rows of before have changed", step)
			}
			before, beforeRows = rows, listed(rows, sorts[0])
			if step%10 == 0 {
				result, checkErr := CheckStore(tx, []Checked{&rowTable})
				if err = errors.Join(err, checkErr); len(result.Problems) > 0 {
					t.Errorf("step %d: the check reports %q", step, result.Problems)
				}
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if inherited < 100 {
		t.Errorf("%d of 300 times the orders were made from those of before, want most", inherited)
	}
}

// TestRowLog_Bound adds more changes than are remembered: those of the earliest transaction are forgotten.
func TestRowLog_Bound(t *testing.T) {
	l, places := &rowLog{}, make([]recordPlace, maxRowChanges)
	l.add(1, places)
	if len(l.changes) != maxRowChanges || l.since != 0 {
		t.Errorf("got %d changes since %d, want %d since 0", len(l.changes), l.since, maxRowChanges)
	}
	l.add(2, places[:1])
	if len(l.changes) != maxRowChanges || l.since != 1 {
		t.Errorf("got %d changes since %d, want %d since 1", len(l.changes), l.since, maxRowChanges)
	}
	for _, tt := range []struct {
		a, b int64
		ok   bool
	}{{0, 2, false}, {2, 0, false}, {1, 2, true}, {2, 2, true}} {
		if _, ok := l.between(tt.a, tt.b); ok != tt.ok {
			t.Errorf("from %d to %d: known %t, want %t", tt.a, tt.b, ok, tt.ok)
		}
	}
}

// TestRowValues_Set changes a copy of values, in chunks that it has and that it does not have: the others stay as they were.
func TestRowValues_Set(t *testing.T) {
	numbers := []uint64{0, 1, valuesPerChunk - 1, valuesPerChunk, 3*valuesPerChunk + 2}
	before := RowValues{chunks: make([]*rowValues, 1)}
	for _, n := range numbers[:4] {
		before.Set(n, n+10)
	}
	after := RowValues{chunks: slices.Clone(before.chunks)}
	for round := range uint64(2) {
		for _, n := range numbers {
			after.Set(n, n+20+round)
			if got := after.At(n); got != n+20+round {
				t.Errorf("value %d: got %d, want %d", n, got, n+20+round)
			}
		}
	}
	for i, n := range numbers {
		want := n + 10
		if i == 4 {
			want = 0
		}
		if got := before.At(n); got != want {
			t.Errorf("value %d of before: got %d, want %d", n, got, want)
		}
	}
}

// TestTable_SetValue stores a value in a change that writes nothing else, and takes it back with a change that fails.
func TestTable_SetValue(t *testing.T) {
	s := newTestStore(t)
	key := IDKey(1)
	value := func() (n uint64) {
		t.Helper()
		err := s.View(func(tx *Tx) error {
			rows, err := (&RowCache[byte]{Facts: func(row []byte) (byte, bool) { return row[0], true }}).Read(t.Context(), tx, rowTable.Name)
			if err != nil {
				return err
			}
			values, err := rows.Values(tx)
			n = values.At(rows.Number(0) - rows.Number(0)%RowsPerChunk + 1)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if err := s.Update(func(tx *Tx) error { return rowTable.Put(tx, thing{ID: 1, Word: "a"}) }); err != nil {
		t.Fatal(err)
	}
	for i, want := range []uint64{7, 8, 0, 9} {
		if err := s.Update(func(tx *Tx) error { return rowTable.SetValue(tx, key, want) }); err != nil {
			t.Fatal(err)
		}
		if got := value(); got != want {
			t.Errorf("step %d: got %d, want %d", i+1, got, want)
		}
		err := s.Update(func(tx *Tx) error {
			return errors.Join(errChange, rowTable.SetValue(tx, key, 99), rowTable.SetValue(tx, IDKey(2), 5))
		})
		if got := value(); got != want || !errors.Is(err, errChange) {
			t.Errorf("step %d, after a change that failed: got %d, %v; want %d", i+1, got, err, want)
		}
	}
}
