package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math"
	"math/bits"
	"slices"

	"latchkey/internal/fold"
)

// Query selects records of a table with lists. The zero Query selects all records.
type Query struct {
	Context context.Context // the selection ends with an error when it is done; nil: it runs to its end
	Any     []Filter        // a record must pass one of these, unless there are none
	All     []Filter        // and each of these
	AnyOf   [][]Filter      // and one of each of these lists
	FirstID uint64          // and have at least this id
	LastID  uint64          // and at most this id; 0: any
	Ranges  []Range         // and be in each of these
	Words   []string        // and its text must contain each of these, which are a result of fold.Words
	ByID    bool            // the largest id comes first, whatever the Listing says
	Space   Space           // and be live or in a sandbox
	// Ascending reverses the list: the smallest order comes first, then the smallest id.
	Ascending bool
}

// Filter is passed by the records for which the Keys of a set return Value. Set may also be the name
// of an index, or IDSet.
type Filter struct {
	Set   string
	Value []byte
}

// IDSet is the Filter.Set by which one record passes: the one whose key is the value, an IDKey.
const IDSet = "id"

// Page returns a part of the records that a query selects, and the number of all of them. bounds
// returns the part as a half-open range of positions, for that number. The records are in the order
// of Listing.Order, or the newest first. Page returns an error if the data of lists does not fit the
// records.
func (t *Table[T]) Page(tx *Tx, q Query, bounds func(count int) (from, to int)) (rows []T, count int, err error) {
	count, err = pageOf(tx, t, q, bounds, func(record any) { rows = append(rows, *record.(*T)) })
	return rows, count, err
}

// pageOf calls add for each record of a page and returns the number of all records, see Table.Page.
func pageOf(tx *Tx, t anyTable, q Query, bounds func(count int) (from, to int), add func(record any)) (count int, err error) {
	table := t.settings()
	s, err := selectRecords(tx, t, q)
	if err != nil {
		return 0, err
	}
	from, to := bounds(s.count)
	if q.Ascending {
		from, to = s.count-to, s.count-from
	}
	ids := s.newest(from, to)
	if table.ordered && !q.ByID && from < to {
		if ids, err = s.inOrder(tx, table.name, positions{from, to}); err != nil {
			return 0, err
		}
	}
	if q.Ascending {
		slices.Reverse(ids)
	}
	for _, id := range ids {
		record := t.blank()
		err := getRecord(tx, t, IDKey(id), record)
		if errors.Is(err, ErrNotFound) || err == nil && !q.selects(t, record) {
			err = fmt.Errorf("%s/%x: the lists do not fit the record; stop the server and run latchkey check --repair", table.name, IDKey(id))
		}
		if err != nil {
			return 0, err
		}
		add(record)
	}
	return s.count, nil
}

// IDs returns the ids of all records that a query selects, in ascending order.
func (t *Table[T]) IDs(tx *Tx, q Query) ([]uint64, error) {
	return idsOf(tx, t, q)
}

func idsOf(tx *Tx, t anyTable, q Query) ([]uint64, error) {
	s, err := selectRecords(tx, t, q)
	if err != nil {
		return nil, err
	}
	ids := s.newest(0, s.count)
	slices.Reverse(ids)
	return ids, nil
}

// DeleteSome deletes up to most records that a query selects from each of those tables with lists that have records of owners. It
// returns how many it has deleted.
func DeleteSome(tx *Tx, tables []Checked, q Query, most int) (n int, err error) {
	for _, one := range tables {
		t, ok := one.(anyTable)
		if !ok || !t.settings().owned || !t.settings().lists {
			continue
		}
		s, err := selectRecords(tx, t, q)
		if err != nil {
			return n, err
		}
		for _, id := range s.newest(0, min(s.count, most)) {
			if err := deleteRecord(tx, t, IDKey(id)); err != nil {
				return n, err
			}
			n++
		}
	}
	return n, nil
}

// SetValues iterates over the values in a set of the Listing. It leaves out values of 255 bytes or
// more, which are stored as hashes.
func (t *Table[T]) SetValues(tx *Tx, set string) iter.Seq2[[]byte, error] {
	return t.SetValuesFrom(tx, set, nil)
}

// SetValuesFrom iterates over the values that begin with prefix, the shortest first, and reads no others. It
// leaves out the same values as SetValues.
func (t *Table[T]) SetValuesFrom(tx *Tx, set string, prefix []byte) iter.Seq2[[]byte, error] {
	return setValues(tx, listBucket(t.Name, set), prefix)
}

func setValues(tx *Tx, set string, prefix []byte) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		if err := tx.flushChunks(); err != nil {
			yield(nil, err)
			return
		}
		bucket := tx.open(set)
		if bucket == nil {
			return
		}
		c := bucket.Cursor()
		from := func(length int) []byte { return append([]byte{byte(length)}, prefix...) } // where the values of a length begin
		key, _ := c.Seek(from(len(prefix)))
		for key != nil {
			n := 1 + int(key[0])
			if len(key) != n+8 {
				return // hashed values are last
			}
			switch order := bytes.Compare(key[1:min(n, 1+len(prefix))], prefix); {
			case order < 0:
				key, _ = c.Seek(from(n - 1))
				continue
			case order > 0:
				key, _ = c.Seek(from(n))
				continue
			}
			if !yield(key[1:n], nil) {
				return
			}
			last := binary.BigEndian.AppendUint64(bytes.Clone(key[:n]), math.MaxUint64)
			if key, _ = c.Seek(last); bytes.Equal(key, last) {
				key, _ = c.Next()
			}
		}
	}
}

// selects reports whether a query selects a record. Lists are not signed, and a record must never
// be shown to an owner to whom it does not belong.
func (q Query) selects(t anyTable, record any) bool {
	passes := func(f Filter) bool {
		if f.Set == IDSet {
			return bytes.Equal(t.key(record), f.Value)
		}
		return slices.ContainsFunc(valuesOf(t, f.Set, record), func(k []byte) bool { return bytes.Equal(k, f.Value) })
	}
	within := func(r Range) bool {
		n := numberOf(t, r.Column, record)
		return n >= r.Low && n <= r.High
	}
	return (len(q.Any) == 0 || slices.ContainsFunc(q.Any, passes)) &&
		!slices.ContainsFunc(q.All, func(f Filter) bool { return !passes(f) }) && (q.Space == bothSpaces || passes(sandboxed) == (q.Space == sandboxSpace)) &&
		!slices.ContainsFunc(q.AnyOf, func(list []Filter) bool { return !slices.ContainsFunc(list, passes) }) &&
		!slices.ContainsFunc(q.Ranges, func(r Range) bool { return !within(r) }) &&
		(len(q.Words) == 0 || fold.Match(q.Words, t.texts(record)...))
}

// chunkReader reads the chunks of a filter in ascending order. seek moves to the first chunk at or
// after a number and returns its number; ok is false if there is none. join adds its ids to into.
type chunkReader interface {
	seek(number uint64) (found uint64, ok bool)
	join(into *setBits) error
}

// readFilter returns the chunkReader of a filter.
func readFilter(tx *Tx, t anyTable, f Filter) chunkReader {
	if f.Set == IDSet {
		return &idList{binary.BigEndian.Uint64(f.Value)}
	}
	s := t.settings()
	indexed := false
	for i := range s.indexes {
		indexed = indexed || t.indexName(i) == f.Set
	}
	if !indexed {
		return openSet(tx, listBucket(s.name, f.Set), f.Value)
	}
	ids := idList{}
	for rest, key := range findEntries(tx, s.name+"/"+f.Set, f.Value, Forward) {
		if len(rest) == 0 && len(key) == 8 {
			ids = append(ids, binary.BigEndian.Uint64(key))
		}
	}
	return &ids
}

// selection is the set of records that a query selects.
type selection struct {
	chunks []selectedChunk // in ascending order
	count  int
}

// selectedChunk is the part of a selection with the ids from number*setIDs.
type selectedChunk struct {
	number uint64
	bits   setBits
	count  int
}

// selectRecords returns the records that a query selects. It reads neither records nor their order.
func selectRecords(tx *Tx, t anyTable, q Query) (s selection, err error) {
	table := t.settings().name
	if err := tx.flushChunks(); err != nil {
		return s, err
	}
	var some, every, none []chunkReader
	for _, f := range q.Any {
		some = append(some, readFilter(tx, t, f))
	}
	if len(some) == 0 {
		some = append(some, readFilter(tx, t, Filter{Set: allRecords}))
	}
	for _, f := range q.All {
		every = append(every, readFilter(tx, t, f))
	}
	for _, list := range q.AnyOf {
		one := &anyReader{}
		for _, f := range list {
			one.readers = append(one.readers, readFilter(tx, t, f))
		}
		every = append(every, one)
	}
	switch q.Space {
	case LiveSpace:
		none = append(none, readFilter(tx, t, sandboxed))
	case sandboxSpace:
		every = append(every, readFilter(tx, t, sandboxed))
	}
	var ranges []*rangeReader
	for _, r := range q.Ranges {
		ranges = append(ranges, openRange(tx, table, r))
	}
	words := textSearch{}
	words.open(tx, listBucket(table, textBucket), q.Words)
	for number, more := nextChunk(some, every, q.FirstID/setIDs); more && (q.LastID == 0 || number <= q.LastID/setIDs); number, more = nextChunk(some, every, number+1) {
		if q.Context != nil && q.Context.Err() != nil {
			return s, q.Context.Err()
		}
		c := selectedChunk{number: number}
		if err := errors.Join(c.fill(some, every), c.without(none)); err != nil {
			return s, err
		}
		q.cut(&c)
		for _, r := range ranges {
			if err := r.narrow(&c); err != nil {
				return s, err
			}
		}
		if err := words.narrow(&c); err != nil {
			return s, err
		}
		if c.count = c.bits.count(); c.count > 0 {
			s.chunks, s.count = append(s.chunks, c), s.count+c.count
		}
	}
	return s, nil
}

// cut removes the ids of a chunk that are before FirstID or after LastID.
func (q Query) cut(c *selectedChunk) {
	first, last := c.number*setIDs, c.number*setIDs+setIDs-1
	if first >= q.FirstID && (q.LastID == 0 || last <= q.LastID) {
		return
	}
	for i := range uint64(setIDs) {
		if id := first + i; id < q.FirstID || q.LastID > 0 && id > q.LastID {
			c.bits[i/64] &^= 1 << (i % 64)
		}
	}
}

// anyReader is a chunkReader of the ids that pass one of several filters.
type anyReader struct {
	readers []chunkReader
	number  uint64 // of the present chunk
}

func (a *anyReader) seek(number uint64) (found uint64, ok bool) {
	for _, r := range a.readers {
		if n, more := r.seek(number); more && (!ok || n < found) {
			found, ok = n, true
		}
	}
	a.number = found
	return found, ok
}

func (a *anyReader) join(into *setBits) error {
	for _, r := range a.readers {
		if n, more := r.seek(a.number); !more || n != a.number {
			continue
		}
		if err := r.join(into); err != nil {
			return err
		}
	}
	return nil
}

// nextChunk returns the number of the first chunk at or after number in which one of some and each of
// every have ids.
func nextChunk(some, every []chunkReader, number uint64) (next uint64, more bool) {
	for {
		first, found := uint64(0), false
		for _, r := range some {
			if n, ok := r.seek(number); ok && (!found || n < first) {
				first, found = n, true
			}
		}
		if !found {
			return 0, false
		}
		number = first
		for _, r := range every {
			n, ok := r.seek(number)
			if !ok {
				return 0, false
			}
			number = n
		}
		if number == first {
			return number, true
		}
	}
}

// fill sets the ids of the chunk to those in one of some and in each of every.
func (c *selectedChunk) fill(some, every []chunkReader) error {
	for _, r := range some {
		if n, ok := r.seek(c.number); ok && n == c.number {
			if err := r.join(&c.bits); err != nil {
				return err
			}
		}
	}
	for _, r := range every {
		var set setBits
		if err := r.join(&set); err != nil {
			return err
		}
		for i := range c.bits {
			c.bits[i] &= set[i]
		}
	}
	return nil
}

// without removes the ids of the chunk that are in one of none.
func (c *selectedChunk) without(none []chunkReader) error {
	for _, r := range none {
		if n, ok := r.seek(c.number); !ok || n != c.number {
			continue
		}
		var set setBits
		if err := r.join(&set); err != nil {
			return err
		}
		for i := range c.bits {
			c.bits[i] &^= set[i]
		}
	}
	return nil
}

// textSearch looks for words in the texts of records.
type textSearch struct {
	chunkCursor
	words [][]byte // empty: every record matches
}

func (s *textSearch) open(tx *Tx, bucket string, words []string) {
	for _, word := range words {
		s.words = append(s.words, []byte(word))
	}
	if len(words) > 0 {
		s.chunkCursor = openChunks(tx, bucket)
	}
}

// narrow removes the ids of records without the words. The chunks must come in ascending order.
func (s *textSearch) narrow(c *selectedChunk) error {
	if len(s.words) == 0 {
		return nil
	}
	for i, wanted := range c.bits {
		if wanted == 0 {
			continue
		}
		var err error
		if c.bits[i], err = s.find(c.number*(setIDs/textIDs)+uint64(i), wanted); err != nil {
			return err
		}
	}
	return nil
}

// find returns which of the wanted records of a chunk of texts contain the words.
func (s *textSearch) find(number, wanted uint64) (uint64, error) {
	if !s.seek(number) {
		return 0, nil
	}
	t, err := s.read()
	if err != nil {
		return 0, err
	}
	short := wanted & t.present
	for _, word := range s.words {
		if short != 0 {
			short = t.find(word, short)
		}
	}
	long := wanted & t.long
	for left := long; left != 0; left &= left - 1 {
		id := number*textIDs + uint64(bits.TrailingZeros64(left))
		if ok, err := s.findLong(id); err != nil || !ok {
			if long &^= left & -left; err != nil {
				return 0, err
			}
		}
	}
	return short | long, nil
}

// read returns the present chunk.
func (s *textSearch) read() (t storedTexts, err error) {
	contents, err := Unseal(s.bucket, s.key, s.stored)
	if err != nil {
		return t, err
	}
	if t, err = openTexts(contents); err != nil {
		return t, fmt.Errorf("%s/%x: %w", s.bucket, s.key, err)
	}
	return t, nil
}

// findLong reports whether the long text of a record contains the words.
func (s *textSearch) findLong(id uint64) (bool, error) {
	if s.key, s.stored = s.cursor.Seek(longTextKey(id)); !bytes.Equal(s.key, longTextKey(id)) {
		return false, nil
	}
	text, err := Unseal(s.bucket, s.key, s.stored)
	for _, word := range s.words {
		if !bytes.Contains(text, word) {
			return false, err
		}
	}
	return err == nil, err
}

// newest returns the ids at the positions from from to to, in descending order of the ids.
func (s selection) newest(from, to int) (ids []uint64) {
	for _, c := range slices.Backward(s.chunks) {
		if from >= to {
			break
		}
		if from >= c.count {
			from, to = from-c.count, to-c.count
			continue
		}
		for i := len(c.bits) - 1; i >= 0 && from < to; i-- {
			word := c.bits[i]
			if n := bits.OnesCount64(word); from >= n {
				from, to = from-n, to-n
				continue
			}
			for ; word != 0 && from < to; from, to = max(from-1, 0), to-1 {
				top := 63 - bits.LeadingZeros64(word)
				if word &^= 1 << top; from == 0 {
					ids = append(ids, c.number*setIDs+uint64(64*i+top))
				}
			}
		}
	}
	return ids
}
