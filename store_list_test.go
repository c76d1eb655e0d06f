package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"latchkey/internal/fold"

	"pgregory.net/rapid"
)

// item is a record with everything that lists can have.
type item struct {
	ID     uint64   `json:"id"`
	Owner  uint64   `json:"owner"`
	Tags   []string `json:"tags"`
	At     uint64   `json:"at"`
	Fields []string `json:"fields"`
}

var itemTable = Table[item]{
	Name: "items", Key: func(v item) []byte { return IDKey(v.ID) },
	Indexes: []Index[item]{{"at", func(v item) [][]byte { return [][]byte{IDKey(v.At)} }}},
	List: &Listing[item]{
		Sets: []Index[item]{
			{"owner", func(v item) [][]byte { return [][]byte{IDKey(v.Owner)} }},
			SandboxSet(func(v item) uint64 { return v.Owner | v.At&1*sandboxBit }),
			{"tag", func(v item) (keys [][]byte) {
				for _, tag := range v.Tags {
					keys = append(keys, []byte(tag))
				}
				return keys
			}},
		},
		Order: func(v item) uint64 { return v.At },
		Text:  func(v item) []string { return v.Fields },
	},
}

// itemIDs draws ids around the ends of chunks.
func itemIDs() *rapid.Generator[uint64] {
	return rapid.Custom(func(t *rapid.T) uint64 {
		return rapid.SampledFrom([]uint64{1, 60, 124, 4090, 4150, 1 << 33}).Draw(t, "near") + rapid.Uint64Range(0, 9).Draw(t, "more")
	})
}

func itemTags() *rapid.Generator[string] {
	return rapid.SampledFrom([]string{"", "a", "ab", "\x00", strings.Repeat("long", 100), strings.Repeat("long", 101)})
}

func items() *rapid.Generator[item] {
	words := rapid.SampledFrom([]string{"", "Mara", "Lind", "J\u00fcrgen", "jurgen", "x", "\n", strings.Repeat("words ", 200)})
	return rapid.Custom(func(t *rapid.T) item {
		return item{
			ID: itemIDs().Draw(t, "id"), Owner: rapid.Uint64Range(1, 3).Draw(t, "owner"), Tags: rapid.SliceOfN(itemTags(), 0, 3).Draw(t, "tags"),
			At: rapid.SampledFrom([]uint64{0, 1, 7, 8, 1 << 40, 1<<40 + 1, 1<<64 - 1}).Draw(t, "at"), Fields: rapid.SliceOfN(words, 0, 3).Draw(t, "fields"),
		}
	})
}

func itemQueries() *rapid.Generator[Query] {
	owner := rapid.Custom(func(t *rapid.T) Filter { return Filter{"owner", IDKey(rapid.Uint64Range(1, 4).Draw(t, "owner"))} })
	other := rapid.Custom(func(t *rapid.T) Filter {
		switch rapid.IntRange(0, 5).Draw(t, "by") {
		case 0, 1, 2:
			return Filter{"at", IDKey(rapid.SampledFrom([]uint64{0, 1, 7, 9}).Draw(t, "at"))}
		case 3:
			return Filter{IDSet, IDKey(itemIDs().Draw(t, "id"))}
		}
		return Filter{"tag", []byte(itemTags().Draw(t, "tag"))}
	})
	orders := rapid.SampledFrom([]uint64{0, 1, 6, 8, 1 << 40, 1<<64 - 1})
	span := rapid.Custom(func(t *rapid.T) Range {
		one, other := orders.Draw(t, "one end"), orders.Draw(t, "other end")
		return Range{OrderColumn, min(one, other), max(one, other)}
	})
	return rapid.Custom(func(t *rapid.T) Query {
		return Query{
			Ranges: rapid.SliceOfN(span, 0, 2).Draw(t, "ranges"), AnyOf: rapid.SliceOfN(rapid.SliceOfN(rapid.OneOf(owner, other), 1, 3), 0, 2).Draw(t, "any of"),
			Any: rapid.SliceOfN(owner, 0, 2).Draw(t, "any"), All: rapid.SliceOfN(other, 0, 2).Draw(t, "all"),
			Words: fold.Words(rapid.SampledFrom([]string{"", "", "ara", "LIND mar", "J\u00fcr", "rgen x", "words", "words mara", "no"}).Draw(t, "words")),
			ByID:  rapid.Bool().Draw(t, "by id"),
			Space: rapid.SampledFrom([]Space{bothSpaces, bothSpaces, LiveSpace, sandboxSpace}).Draw(t, "space"),
		}
	})
}

// plainPage is Table.Page by the records alone.
func plainPage(all map[uint64]item, q Query, from, to int) (rows []item, count int) {
	for _, v := range all {
		passes := func(f Filter) bool {
			return f.Set == "owner" && string(IDKey(v.Owner)) == string(f.Value) || f.Set == "at" && string(IDKey(v.At)) == string(f.Value) ||
				f.Set == "tag" && slices.Contains(v.Tags, string(f.Value)) || f.Set == IDSet && string(IDKey(v.ID)) == string(f.Value)
		}
		fits := len(q.Any) == 0 || slices.ContainsFunc(q.Any, passes)
		for _, f := range q.All {
			fits = fits && passes(f)
		}
		fits = fits && (q.Space == bothSpaces || (q.Space == sandboxSpace) == (v.At&1 == 1))
		for _, list := range q.AnyOf {
			fits = fits && slices.ContainsFunc(list, passes)
		}
		for _, r := range q.Ranges {
			fits = fits && v.At >= r.Low && v.At <= r.High
		}
		for _, word := range q.Words {
			inWord := func(field string) bool { return strings.Contains(fold.Search(field), word) }
			fits = fits && slices.ContainsFunc(v.Fields, inWord)
		}
		if fits {
			rows = append(rows, v)
		}
	}
	slices.SortFunc(rows, func(a, b item) int {
		if q.ByID {
			return cmp.Compare(b.ID, a.ID)
		}
		return cmp.Or(cmp.Compare(b.At, a.At), cmp.Compare(b.ID, a.ID))
	})
	return rows[min(from, len(rows)):min(to, len(rows))], len(rows)
}

// itemsDesk is a store of items and what should be in it.
type itemsDesk struct {
	*Store
	all map[uint64]item
}

// change stores or deletes some items in one transaction, of which the last may fail.
func (d *itemsDesk) change(t *rapid.T) {
	puts, drops := rapid.SliceOfN(items(), 0, 20).Draw(t, "put"), rapid.SliceOfN(itemIDs(), 0, 10).Draw(t, "drop")
	fails := rapid.Bool().Draw(t, "fails")
	after := map[uint64]item{}
	err := d.Update(func(tx *Tx) error {
		for id, v := range d.all {
			after[id] = v
		}
		for _, v := range puts {
			if err := itemTable.Put(tx, v); err != nil {
				return err
			}
			after[v.ID] = v
		}
		for _, id := range drops {
			if err := itemTable.Delete(tx, IDKey(id)); err != nil && !errors.Is(err, ErrNotFound) {
				return err
			}
			delete(after, id)
		}
		d.compare(t, tx, after) // a transaction sees its own changes
		if fails {
			return errChange
		}
		return nil
	})
	if fails && errors.Is(err, errChange) {
		return
	}
	if d.all = after; err != nil {
		t.Fatal(err)
	}
}

var errChange = errors.New("the change fails")

// compare compares a page with what it should have.
func (d *itemsDesk) compare(t *rapid.T, tx *Tx, all map[uint64]item) {
	q := itemQueries().Draw(t, "query")
	from, n := rapid.IntRange(0, 5).Draw(t, "from"), rapid.IntRange(1, 30).Draw(t, "rows")
	rows, count, err := itemTable.Page(tx, q, func(count int) (int, int) { return min(from, count), min(from+n, count) })
	want, wantCount := plainPage(all, q, from, from+n)
	if err != nil || count != wantCount || itemsText(rows) != itemsText(want) {
		t.Errorf("%+v from %d: got %d, %v\n%s\nwant %d\n%s", q, from, count, err, itemsText(rows), wantCount, itemsText(want))
	}
}

func itemsText(list []item) string {
	var text strings.Builder
	for _, v := range list {
		fmt.Fprintf(&text, "%d@%d ", v.ID, v.At)
	}
	return text.String()
}

// check returns the problems that CheckStore finds.
func (d *itemsDesk) check(t interface{ Fatal(...any) }) (problems []string) {
	err := d.View(func(tx *Tx) error {
		result, err := CheckStore(tx, []Checked{&itemTable})
		problems = result.Problems
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return problems
}

// TestPage_Model changes a store at random: each list has what a look at every record finds, and the
// check finds nothing.
func TestPage_Model(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		d := &itemsDesk{newTestStore(t), map[uint64]item{}}
		defer d.Close()
		for range rapid.IntRange(1, 6).Draw(rt, "changes") {
			d.change(rt)
			if err := d.View(func(tx *Tx) error { d.compare(rt, tx, d.all); return nil }); err != nil {
				rt.Fatal(err)
			}
		}
		if problems := d.check(rt); len(problems) > 0 {
			rt.Errorf("got %q", problems)
		}
		if err := d.Update(func(tx *Tx) error { return errors.Join(spoilLists(rt, tx), repairInside(&itemTable)(tx)) }); err != nil {
			rt.Fatal(err)
		}
		if problems := d.check(rt); len(problems) > 0 {
			rt.Errorf("after the repair: got %q", problems)
		}
		if err := d.View(func(tx *Tx) error { d.compare(rt, tx, d.all); return nil }); err != nil {
			rt.Fatal(err)
		}
	})
}

// spoilLists deletes and adds data of indexes and lists.
func spoilLists(t *rapid.T, tx *Tx) error {
	buckets := bucketsWith(tx, "items~")
	if len(buckets) == 0 {
		return nil
	}
	bucket := rapid.SampledFrom(buckets).Draw(t, "bucket")
	var first []byte
	for key := range tx.Range(bucket, nil) {
		first = slices.Clone(key)
		break
	}
	return errors.Join(tx.Delete(bucket, first), tx.Put("items~more", []byte{1}, []byte{2}), tx.PutRaw("items/at", []byte{1}, []byte{3}))
}

// TestPage_LongTexts changes texts to every length around the one up to which they are kept in the chunk.
func TestPage_LongTexts(t *testing.T) {
	d := &itemsDesk{newTestStore(t), map[uint64]item{}}
	lengths := []int{0, 1, maxShortText - 1, maxShortText, maxShortText + 1, maxShortText + 2, 3 * maxShortText}
	for _, before := range lengths {
		for _, after := range lengths {
			for _, n := range []int{before, after} {
				v := item{ID: 7, Fields: []string{strings.Repeat("x", n)}}
				if err := d.Update(func(tx *Tx) error { return itemTable.Put(tx, v) }); err != nil {
					t.Fatal(err)
				}
				if problems := d.check(t); len(problems) > 0 {
					t.Fatalf("from %d to %d bytes, at %d: got %q", before, after, n, problems)
				}
			}
			err := d.View(func(tx *Tx) error {
				for _, n := range []int{1, after, after + 1} {
					list, count, err := itemTable.Page(tx, Query{Words: []string{strings.Repeat("x", max(1, n))}}, func(count int) (int, int) { return 0, count })
					if want := max(1, n) <= after; err != nil || count != len(list) || (count == 1) != want {
						t.Errorf("from %d to %d bytes: got %d records with %d, %v; want it %t", before, after, count, n, err, want)
					}
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestIDList reads lists of ids in chunks: each id comes with its chunk.
func TestIDList(t *testing.T) {
	for _, ids := range [][]uint64{{}, {0}, {setIDs - 1}, {setIDs}, {1, setIDs - 1, setIDs, setIDs + 1, 2*setIDs - 1, 2 * setIDs, 2*setIDs + 1, 3*setIDs - 1, 7*setIDs + 5}} {
		l, got := idList(slices.Clone(ids)), []uint64{}
		for number, more := l.seek(0); more; number, more = l.seek(number + 1) {
			var chunk setBits
			if err := l.join(&chunk); err != nil {
				t.Fatal(err)
			}
			for i := range uint64(setIDs) {
				if chunk[i/64]>>(i%64)&1 == 1 {
					got = append(got, number*setIDs+i)
				}
			}
		}
		if !slices.Equal(got, ids) {
			t.Errorf("got %v, want %v", got, ids)
		}
	}
}

// TestQuery_Cut cuts full chunks to ranges of ids that begin and end at every place around the ends of chunks.
func TestQuery_Cut(t *testing.T) {
	var places []uint64
	for _, at := range []uint64{setIDs, 2 * setIDs, 3 * setIDs} {
		places = append(places, at-2, at-1, at, at+1)
	}
	for _, first := range append(places, 0, 1) {
		for _, last := range append(places, 0) {
			for number := range uint64(4) {
				c, n := selectedChunk{number: number}, 0
				for i := range c.bits {
					c.bits[i] = 1<<64 - 1
				}
				Query{FirstID: first, LastID: last}.cut(&c)
				for i := range uint64(setIDs) {
					if id := number*setIDs + i; id >= first && (last == 0 || id <= last) {
						if n++; c.bits[i/64]>>(i%64)&1 == 0 {
							t.Fatalf("from %d to %d: %d is cut", first, last, id)
						}
					}
				}
				if c.bits.count() != n {
					t.Errorf("from %d to %d, chunk %d: got %d ids, want %d", first, last, number, c.bits.count(), n)
				}
			}
		}
	}
}

// TestTable_DamagedList stores a record whose data of lists cannot be read or stored: the change fails, rather than leaving
// the list without the record.
func TestTable_DamagedList(t *testing.T) {
	s := newTestStore(t)
	put := func(tx *Tx, at uint64) error {
		return itemTable.Put(tx, item{ID: 7, Owner: 1, At: at, Tags: []string{"a"}})
	}
	if err := s.Update(func(tx *Tx) error { return put(tx, 1) }); err != nil {
		t.Fatal(err)
	}
	damage := func(tx *Tx) error { return tx.PutRaw("items~owner", setKey(IDKey(2), 0), []byte("damaged")) }
	err := s.Update(func(tx *Tx) error {
		return errors.Join(damage(tx), itemTable.Put(tx, item{ID: 8, Owner: 2}))
	})
	if err == nil || !strings.Contains(err.Error(), "items~owner") {
		t.Errorf("a set that is damaged: got %v", err)
	}
	err = s.Update(func(tx *Tx) error {
		if _, err := tx.editChunk(recordPlace{"items~owner", ""}, readSetBits); err != nil {
			return err
		}
		tx.chunks[recordPlace{"items~owner", ""}].(*setBits).add(1) // bbolt refuses the empty key
		_, _, err := itemTable.Page(tx, Query{}, func(count int) (int, int) { return 0, count })
		return err
	})
	if err == nil || !strings.Contains(err.Error(), "key") {
		t.Errorf("a page while a set cannot be stored: got %v", err)
	}
	err = s.Update(func(tx *Tx) error {
		log, own := &undoLog{}, tx.undo
		tx.undo = log
		err := itemTable.Put(tx, item{ID: 9, Owner: 3})
		tx.undo, own.Lost = own, true // what follows is undone as a whole
		if err != nil || len(log.chunks) == 0 {
			return fmt.Errorf("got %d chunks to undo, %w", len(log.chunks), err)
		}
		if err := errors.Join(tx.flushChunks(), tx.PutRaw("items~owner", setKey(IDKey(3), 0), []byte("damaged"))); err != nil {
			return err
		}
		for _, undo := range log.chunks {
			if err := undo(); err == nil || !strings.Contains(err.Error(), "items~owner") {
				t.Errorf("a set that cannot be undone: got %v", err)
			}
		}
		return errChange
	})
	if !errors.Is(err, errChange) {
		t.Error(err)
	}
}

// TestPage_Damage spoils the data of lists: the check names it, a list that needs it fails and names
// the command that repairs it, and the command repairs it.
func TestPage_Damage(t *testing.T) {
	status := func(tx *Tx, value string) []byte { return setKey([]byte(value), 0) }
	for _, tt := range []struct {
		name, problem, failure string
		query                  Query
		harm                   func(tx *Tx) error
	}{
		{"a bit too many", "does not fit the records", "do not fit the record", Query{All: []Filter{{"tag", []byte("a")}}},
			func(tx *Tx) error { return tx.Put("items~tag", status(tx, "a"), []byte{0, 1, 0, 2, 0, 3}) }},
		{"a record too many", "does not fit the records", "missing", Query{},
			func(tx *Tx) error { return tx.Put("items~all", setKey(nil, 0), []byte{0, 1, 0, 2, 0, 3, 0, 9}) }},
		{"a record too many by id", "does not fit the records", "do not fit the record", Query{ByID: true},
			func(tx *Tx) error { return tx.Put("items~all", setKey(nil, 0), []byte{0, 1, 0, 2, 0, 3, 0, 9}) }},
		{"a bit too few", "does not fit the records", "", Query{All: []Filter{{"tag", []byte("a")}}},
			func(tx *Tx) error { return tx.Put("items~tag", status(tx, "a"), []byte{0, 2}) }},
		{"a chunk too many", "parts of the data", "", Query{},
			func(tx *Tx) error { return tx.Put("items~tag", status(tx, "z"), []byte{0, 2}) }},
		{"a chunk too few", "does not fit the records", "", Query{},
			func(tx *Tx) error { return tx.Delete("items~tag", status(tx, "a")) }},
		{"no order", "does not fit the records", "missing", Query{}, func(tx *Tx) error { return tx.Delete("items~order", IDKey(0)) }},
		{"no bucket of orders", "does not fit the records", "missing", Query{}, func(tx *Tx) error {
			return errors.Join(tx.Put("other", []byte("x"), nil), tx.Bolt.DeleteBucket([]byte("items~order")))
		}},
		{"another order", "does not fit the records", "not within its bounds", Query{}, func(tx *Tx) error {
			c := &orders{present: [2]uint64{0b1110}}
			return tx.Put("items~order", IDKey(0), c.encode())
		}},
		{"not an order", "does not fit the records", "not data of a list", Query{}, func(tx *Tx) error { return tx.Put("items~order", IDKey(0), []byte("x")) }},
		{"no bounds", "does not fit the records", "missing", Query{}, func(tx *Tx) error { return tx.Delete("items~order-bounds", IDKey(0)) }},
		{"no bounds of a range", "does not fit the records", "missing", Query{ByID: true, Ranges: []Range{{OrderColumn, 4, 5}}},
			func(tx *Tx) error { return tx.Delete("items~order-bounds", IDKey(0)) }},
		{"no bounds of records that the filters leave out", "does not fit the records", "", Query{ByID: true, All: []Filter{{"tag", []byte("a")}, {"tag", []byte("b")}}, Ranges: []Range{{OrderColumn, 4, 5}}},
			func(tx *Tx) error { return tx.Delete("items~order-bounds", IDKey(0)) }},
		{"not bounds", "does not fit the records", "not data of a list", Query{}, func(tx *Tx) error { return tx.Put("items~order-bounds", IDKey(0), []byte("x")) }},
		{"other bounds", "does not fit the records", "not within its bounds", Query{}, func(tx *Tx) error {
			return tx.Put("items~order-bounds", IDKey(0), (&columnBounds{present: 1, low: [columnParts]uint64{4}, high: [columnParts]uint64{5}}).encode())
		}},
		{"not a set", "does not fit the records", "not data of a list", Query{}, func(tx *Tx) error { return tx.Put("items~all", setKey(nil, 0), []byte("x")) }},
		{"not a text", "does not fit the records", "not data of a list", Query{Words: []string{"mara"}},
			func(tx *Tx) error { return tx.Put("items~text", IDKey(0), []byte("0123456789abcdefg")) }},
		{"the text of another", "does not fit the records", "do not fit the record", Query{Words: []string{"nobody"}}, func(tx *Tx) error {
			c := &texts{short: [textIDs]string{1: "nobody", 2: "b", 3: "c"}}
			return tx.Put("items~text", IDKey(0), c.encode())
		}},
		{"a flipped bit", "checksum", "checksum", Query{}, func(tx *Tx) error {
			raw := slices.Clone(tx.Bolt.Bucket([]byte("items~all")).Get(setKey(nil, 0)))
			raw[len(raw)-1] ^= 1
			return tx.PutRaw("items~all", setKey(nil, 0), raw)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := &itemsDesk{newTestStore(t), nil}
			err := d.Update(func(tx *Tx) error {
				return errors.Join(
					itemTable.Put(tx, item{ID: 1, Tags: []string{"a"}, At: 5, Fields: []string{"Mara"}}),
					itemTable.Put(tx, item{ID: 2, Tags: []string{"a"}, At: 4, Fields: []string{"Lind"}}),
					itemTable.Put(tx, item{ID: 3, Tags: []string{"b"}, At: 3, Fields: []string{"Mara Lind"}}))
			})
			if err = errors.Join(err, d.Update(tt.harm)); err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(d.check(t), "\n"); !strings.Contains(got, tt.problem) {
				t.Errorf("check: got %q, want %q", got, tt.problem)
			}
			all := func(count int) (int, int) { return 0, count }
			err = d.View(func(tx *Tx) error { _, _, err := itemTable.Page(tx, tt.query, all); return err })
			if (err != nil) != (tt.failure != "") || err != nil && !strings.Contains(err.Error(), tt.failure) {
				t.Errorf("list: got %v, want %q", err, tt.failure)
			}
			if err := d.Update(repairInside(&itemTable)); err != nil {
				t.Fatal(err)
			}
			if got := d.check(t); len(got) > 0 {
				t.Errorf("after the repair: got %q", got)
			}
		})
	}
}

// TestDeleteSome deletes the records that a query selects, some at a time, from tables of which only one has what it needs.
func TestDeleteSome(t *testing.T) {
	owned := itemTable
	owned.Name, owned.Owner = "owned_items", func(v item) uint64 { return v.Owner }
	tables := []Checked{&itemTable, &owned, &ownedTable}
	s := newTestStore(t)
	err := s.Update(func(tx *Tx) error {
		for id := range uint64(20) {
			v := item{ID: id + 1, Owner: 1 + id%2, At: id}
			if err := errors.Join(itemTable.Put(tx, v), owned.Put(tx, v), ownedTable.Put(tx, ownedThing{ID: id + 1, Owner: v.Owner})); err != nil {
				return err
			}
		}
		for i, want := range []int{4, 4, 2, 0} {
			n, err := DeleteSome(tx, tables, Query{Any: []Filter{{"owner", IDKey(1)}}}, 4)
			if err != nil || n != want {
				t.Errorf("turn %d: got %d, %v; want %d deleted records", i+1, n, err, want)
			}
		}
		for _, bucket := range []string{owned.Name, owned.Name + "~owner"} {
			if err := damageBucket(tx, bucket); err != nil {
				return err
			}
			if n, err := DeleteSome(tx, tables, Query{Any: []Filter{{"owner", IDKey(2)}}}, 4); err == nil || n > 0 {
				t.Errorf("with damage in %s: got %d, %v", bucket, n, err)
			}
		}
		for _, left := range []struct{ name, want string }{{itemTable.Name, "20"}, {owned.Name, "10"}, {ownedTable.Name, "20"}} {
			if got := fmt.Sprint(tx.Count(left.name)); got != left.want {
				t.Errorf("%s: got %s records, want %s", left.name, got, left.want)
			}
		}
		return errChange
	})
	if !errors.Is(err, errChange) {
		t.Fatal(err)
	}
}

// TestPage_DamageBits turns over a bit in each value of each bucket of a list: the queries that need it name the damage.
func TestPage_DamageBits(t *testing.T) {
	s := newTestStore(t)
	err := s.Update(func(tx *Tx) error {
		for id := range uint64(9) {
			if err := itemTable.Put(tx, item{ID: id + 1, Owner: 1, Tags: []string{"a"}, At: id, Fields: []string{"Mara", strings.Repeat("words ", 200)}}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	queries := map[string]Query{
		"all": {}, "by id": {ByID: true}, "a tag": {ByID: true, All: []Filter{{"tag", []byte("a")}}}, "any owner": {ByID: true, Any: []Filter{{"owner", IDKey(1)}}},
		"an id": {ByID: true, All: []Filter{{IDSet, IDKey(3)}}}, "an index": {ByID: true, All: []Filter{{"at", IDKey(3)}}}, "words": {ByID: true, Words: []string{"mara"}}, "a range": {ByID: true, Ranges: []Range{{OrderColumn, 4, 5}}},
	}
	needs := map[string]string{
		"items~all": "all, by id, a range, words, a tag, an id, an index", "items~order": "all, a range", "items~order-bounds": "all, a range", "items~text": "words",
		"items~tag": "a tag", "items~owner": "any owner", "items/at": "an index",
	}
	for bucket, queried := range needs {
		repair := damageRecords(t, s, bucket)
		for name, q := range queries {
			err := s.View(func(tx *Tx) error {
				_, _, err := itemTable.Page(tx, q, func(count int) (int, int) { return 0, count })
				return err
			})
			if needed := slices.Contains(strings.Split(queried, ", "), name); needed != (err != nil) || needed && !strings.Contains(err.Error(), "checksum") {
				t.Errorf("%s, with damage in %s: got %v", name, bucket, err)
			}
		}
		repair()
	}
}

// TestPage_ManyEqual lists more records with one order than are sorted together, between two others.
func TestPage_ManyEqual(t *testing.T) {
	s := newTestStore(t)
	const equal = maxPicked + 4000
	err := s.Update(func(tx *Tx) error {
		for id := uint64(1); id <= equal+2; id++ {
			at := uint64(1 << 50)
			switch id {
			case 7:
				at = 1<<64 - 1
			case 3000:
				at = 0
			}
			if err := itemTable.Put(tx, item{ID: id, At: at}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		from, to int
		want     string
	}{
		{0, 3, fmt.Sprint([]uint64{7, equal + 2, equal + 1})}, {1, 2, fmt.Sprint([]uint64{equal + 2})}, {equal - 1, equal + 2, "[2 1 3000]"}, {equal + 1, equal + 2, "[3000]"},
		{equal - 2999, equal - 2996, "[3002 3001 2999]"},
	} {
		_ = s.View(func(tx *Tx) error {
			rows, count, err := itemTable.Page(tx, Query{}, func(int) (int, int) { return tt.from, tt.to })
			var ids []uint64
			for _, v := range rows {
				ids = append(ids, v.ID)
			}
			if fmt.Sprint(ids) != tt.want || count != equal+2 || err != nil {
				t.Errorf("%d to %d: got %v of %d, %v; want %s", tt.from, tt.to, ids, count, err, tt.want)
			}
			return nil
		})
	}
}

// TestPage_Ordering lists many records whose order grows with the id, or nearly, or not at all, and
// of which many are equal. It compares pages of each list with plain ones, and counts how many parts
// of the order they read.
func TestPage_Ordering(t *testing.T) {
	const n = 3 * setIDs
	random := rand.New(rand.NewPCG(1, 2))
	for name, order := range map[string]func(id uint64) uint64{
		"growing": func(id uint64) uint64 { return 1<<63 + 3*id },
		"nearly":  func(id uint64) uint64 { return 1<<63 + 3*id + random.Uint64N(1000) },
		"random":  func(uint64) uint64 { return random.Uint64() },
		"equal":   func(id uint64) uint64 { return id / 3000 },
		"extreme": func(id uint64) uint64 { return []uint64{0, 1<<64 - 1}[id%2] },
	} {
		t.Run(name, func(t *testing.T) {
			d := &itemsDesk{newTestStore(t), map[uint64]item{}}
			err := d.Update(func(tx *Tx) error {
				for id := uint64(1); id <= n; id++ {
					v := item{ID: id, At: order(id), Tags: []string{fmt.Sprint("tag", id%5)}}
					if err := itemTable.Put(tx, v); err != nil {
						return err
					}
					d.all[id] = v
				}
				for id := uint64(1); id <= n; id += 7 {
					if err := itemTable.Delete(tx, IDKey(id)); err != nil {
						return err
					}
					delete(d.all, id)
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			all := slices.Collect(maps.Values(d.all))
			low, high := all[0].At, all[1].At
			for _, q := range []Query{{}, {All: []Filter{{"tag", []byte("tag3")}}}, {Ranges: []Range{{OrderColumn, min(low, high), max(low, high)}}}, {All: []Filter{{"tag", []byte("tag9")}}}} {
				for _, from := range []int{0, 10, 2000, 9000} {
					_ = d.View(func(tx *Tx) error {
						rows, count, err := itemTable.Page(tx, q, func(count int) (int, int) { return min(from, count), min(from+30, count) })
						want, wantCount := plainPage(d.all, q, from, from+30)
						if err != nil || count != wantCount || itemsText(rows) != itemsText(want) {
							t.Errorf("%+v from %d: got %d, %v\n%s\nwant %d\n%s", q, from, count, err, itemsText(rows), wantCount, itemsText(want))
						}
						return nil
					})
				}
			}
			if got := d.check(t); len(got) > 0 {
				t.Errorf("check: got %q", got)
			}
		})
	}
}

// TestOrdering_ReadsFew counts the parts of the order that a page of a list reads.
func TestOrdering_ReadsFew(t *testing.T) {
	const n = 4 * setIDs
	s := newTestStore(t)
	err := s.Update(func(tx *Tx) error {
		for id := uint64(1); id < n; id++ {
			if err := itemTable.Put(tx, item{ID: id, At: 10 * id}); err != nil {
				return err
			}
		}
		return tx.flushChunks()
	})
	if err != nil {
		t.Fatal(err)
	}
	_ = s.View(func(tx *Tx) error {
		chosen, err := selectRecords(tx, &itemTable, Query{})
		if err != nil {
			t.Fatal(err)
		}
		o, all, err := chosen.withOrder(tx, itemTable.Name)
		if err != nil {
			t.Fatal(err)
		}
		ids, err := o.pick(all, positions{5000, 5010})
		if err != nil || len(ids) != 10 || ids[0] != n-1-5000 {
			t.Fatalf("got %v, %v", ids, err)
		}
		read := 0
		for _, c := range o.chunks {
			for part := range columnParts {
				if c.orders != nil && c.orders[part] != nil {
					read++
				}
			}
		}
		if parts := len(o.chunks) * columnParts; read > parts/2 {
			t.Errorf("read %d of %d parts", read, parts)
		}
		return nil
	})
}

// TestPage_Ends ends a list with its request.
func TestPage_Ends(t *testing.T) {
	s := newTestStore(t)
	if err := s.Update(func(tx *Tx) error { return itemTable.Put(tx, item{ID: 1}) }); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	err := s.View(func(tx *Tx) error {
		_, _, err := itemTable.Page(tx, Query{Context: ctx}, func(count int) (int, int) { return 0, count })
		return err
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}

// TestListing_Memory stores more chunks in a transaction than it keeps in memory.
func TestListing_Memory(t *testing.T) {
	d := &itemsDesk{newTestStore(t), nil}
	err := d.Update(func(tx *Tx) error {
		for id := range uint64(3 * maxPending / 2) {
			if err := itemTable.Put(tx, item{ID: id + 1, Tags: []string{fmt.Sprint(id)}}); err != nil {
				return err
			}
			if len(tx.chunks) > maxPending {
				return fmt.Errorf("%d chunks are in memory", len(tx.chunks))
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if problems := d.check(t); len(problems) > 0 {
		t.Errorf("got %q", problems)
	}
}

// TestTable_SetValuesFrom compares the values that begin with a prefix with a plain search.
func TestTable_SetValuesFrom(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := newTestStore(t)
		tags := rapid.SliceOfDistinct(rapid.StringOfN(rapid.SampledFrom([]rune("ab\x00")), 0, 6, -1), func(tag string) string { return tag }).Draw(rt, "tags")
		tags = append(tags, strings.Repeat("a", 254), strings.Repeat("a", 300))
		err := s.Update(func(tx *Tx) error { return itemTable.Put(tx, item{ID: 1, Owner: 1, Tags: tags}) })
		if err != nil {
			rt.Fatal(err)
		}
		prefix := rapid.StringOfN(rapid.SampledFrom([]rune("ab\x00")), 0, 3, -1).Draw(rt, "prefix")
		var want, got []string
		for _, tag := range tags {
			if strings.HasPrefix(tag, prefix) && len(tag) < 255 {
				want = append(want, tag)
			}
		}
		slices.SortFunc(want, func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) })
		err = s.View(func(tx *Tx) error {
			for value, err := range itemTable.SetValuesFrom(tx, "tag", []byte(prefix)) {
				if err != nil {
					return err
				}
				got = append(got, string(value))
			}
			return nil
		})
		if err != nil || !slices.Equal(got, want) {
			rt.Errorf("values of %q that begin with %q: got %q, %v, want %q", tags, prefix, got, err, want)
		}
	})
}
