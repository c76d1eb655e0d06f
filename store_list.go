package main

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"strings"

	"go.etcd.io/bbolt"
	"latchkey/internal/fold"
)

// Listing defines by what the records of a table can be filtered, sorted and searched, see
// Table.Page. The table's Key must return an IDKey. What lists need is kept in chunks, each about a
// range of ids, in buckets of their own: the name of the table, "~" and what the bucket holds.
//
// A set holds one bit for each record, so 1,000,000 records are 125 KB of a filter, and lists
// combine filters 64 records at a time. The searched texts are kept together and are read from the
// first to the last: 100,000 names and addresses are 4 MB, which takes 5 ms. An index of trigrams
// would need about 50 entries for each record, each on a page of its own in a change.
type Listing[T any] struct {
	Sets  []Index[T]       // Keys returns the values of a record in this set, such as its status
	Order func(T) uint64   // lists begin with the largest number, then the largest id; nil: the largest id
	Text  func(T) []string // the fields in which a search looks; nil: there is no search
	// Columns are numbers of each record by which Query.Ranges selects.
	Columns []Column[T]
}

// The sizes of chunks, in ids. They divide each other, so that all chunks about the ids of a chunk
// of a set can be compared together.
const (
	setIDs   = 4096
	orderIDs = 128
	textIDs  = 64
)

// allRecords is the name of the set that has all records. The other names are those of the buckets
// with the order and the texts.
const (
	allRecords  = "all"
	orderBucket = "order"
	textBucket  = "text"
)

// maxShortText is the length of a text in bytes up to which it is kept in the chunk. A longer one
// has an entry of its own, so that a chunk never grows beyond 64 KiB.
const maxShortText = 1000

// maxPending is the number of changed chunks that a transaction keeps in memory.
const maxPending = 4096

// chunk is a part of the data of lists. encode returns its contents as they are stored, or nil if
// the chunk is empty and must not be stored. Equal chunks have equal contents.
type chunk interface{ encode() []byte }

// chunkEditor returns the chunk at a place, for a change. read decodes stored contents; nil contents
// are an empty chunk.
type chunkEditor func(at recordPlace, read func(contents []byte) (chunk, error)) (chunk, error)

// editChunk is the chunkEditor of a transaction. The changed chunks are in memory until
// flushChunks, because the changes of a commit mostly concern the same chunks.
func (tx *Tx) editChunk(at recordPlace, read func([]byte) (chunk, error)) (chunk, error) {
	if c, ok := tx.chunks[at]; ok {
		return c, nil
	}
	if len(tx.chunks) >= maxPending {
		if err := tx.flushChunks(); err != nil {
			return nil, err
		}
	}
	contents, err := tx.Get(at.bucket, []byte(at.key))
	if err != nil {
		return nil, err
	}
	c, err := read(contents)
	if err != nil {
		return nil, fmt.Errorf("%s/%x: %w", at.bucket, at.key, err)
	}
	if tx.chunks == nil {
		tx.chunks = map[recordPlace]chunk{}
	}
	tx.chunks[at] = c
	return c, nil
}

// flushChunks stores the chunks that the transaction has changed. It must be called before they are
// read and before the commit.
func (tx *Tx) flushChunks() error {
	// The chunks also hold data of changes before the present one. So they are written even if the
	// present change fails later; undoing it then edits the chunks again.
	undo, refusal := tx.undo, tx.Refusal
	tx.undo, tx.Refusal = nil, nil
	defer func() { tx.undo, tx.Refusal = undo, refusal }()
	places := make([]recordPlace, 0, len(tx.chunks))
	for at := range tx.chunks {
		places = append(places, at)
	}
	slices.SortFunc(places, recordPlace.compare)
	for _, at := range places {
		var err error
		if contents := tx.chunks[at].encode(); contents != nil {
			err = tx.Put(at.bucket, []byte(at.key), contents)
		} else {
			err = tx.Delete(at.bucket, []byte(at.key))
		}
		if err != nil {
			return err
		}
	}
	tx.chunks = nil
	return nil
}

// listBucket returns the name of a bucket with data of lists. name is that of a set, orderBucket or
// textBucket.
func listBucket(table, name string) string { return table + "~" + name }

// isListBucket reports whether a bucket has data of lists.
func isListBucket(bucket string) bool { return strings.Contains(bucket, "~") }

// setMember is a value of a record in a set.
type setMember struct {
	set   string
	value []byte
}

// listRecord is what the lists know of a record.
type listRecord struct {
	sets    []setMember
	columns []listColumn // the order is one too
	text    string       // in the form of fold.Search; the fields are on lines of their own
}

// listText returns the searched fields of a record as they are kept.
func listText(fields []string) string {
	return strings.TrimSuffix(fold.Search(strings.Join(fields, "\n")), "\n")
}

// listPlace is the table and the id of a record.
type listPlace struct {
	table string
	id    uint64
}

// change updates the chunks for a change of a record from before to after. before is nil if the
// record is new, and after is nil if it was deleted.
func (p listPlace) change(edit chunkEditor, before, after *listRecord) error {
	none := listRecord{}
	before, after = cmp.Or(before, &none), cmp.Or(after, &none)
	for _, m := range before.sets {
		if err := p.move(edit, m, after.sets, (*setBits).remove); err != nil {
			return err
		}
	}
	for _, m := range after.sets {
		if err := p.move(edit, m, before.sets, (*setBits).add); err != nil {
			return err
		}
	}
	if err := p.setColumns(edit, before.columns, after.columns); err != nil {
		return err
	}
	if before.text != after.text {
		return p.write(edit, before.text, after.text)
	}
	return nil
}

// move adds the record to a set or removes it, unless others, the members on the other side of the
// change, have the same value.
func (p listPlace) move(edit chunkEditor, m setMember, others []setMember, change func(*setBits, uint64)) error {
	for _, other := range others {
		if other.set == m.set && bytes.Equal(other.value, m.value) {
			return nil
		}
	}
	at := recordPlace{listBucket(p.table, m.set), string(setKey(m.value, p.id/setIDs))}
	c, err := edit(at, readSetBits)
	if err == nil {
		change(c.(*setBits), p.id%setIDs)
	}
	return err
}

// write stores the text of the record.
func (p listPlace) write(edit chunkEditor, before, after string) error {
	bucket := listBucket(p.table, textBucket)
	c, err := edit(recordPlace{bucket, string(IDKey(p.id / textIDs))}, readTexts)
	if err != nil {
		return err
	}
	t, i := c.(*texts), p.id%textIDs
	if t.short[i], t.long = after, t.long&^(1<<i); len(after) > maxShortText {
		t.short[i], t.long = "", t.long|1<<i
	}
	if len(before) <= maxShortText && len(after) <= maxShortText {
		return nil
	}
	own, err := edit(recordPlace{bucket, string(longTextKey(p.id))}, readLongText)
	if err != nil {
		return err
	}
	if *own.(*longText) = ""; len(after) > maxShortText {
		*own.(*longText) = longText(after)
	}
	return nil
}

// setKey returns the key of a chunk of the set of the records with this value.
func setKey(value []byte, number uint64) []byte {
	return binary.BigEndian.AppendUint64(setPrefix(value), number)
}

// setPrefix returns how the keys of the chunks of a set begin. No prefix is the beginning of
// another. A long value is replaced by its SHA-256.
func setPrefix(value []byte) []byte {
	const hashed = 255
	if len(value) < hashed {
		return append([]byte{byte(len(value))}, value...)
	}
	sum := sha256.Sum256(value)
	return append([]byte{hashed}, sum[:]...)
}

// setBits is a chunk of a set: one bit for each of setIDs ids. It is stored as numbers of two bytes,
// in ascending order, or as the bits if they are shorter.
type setBits [setIDs / 64]uint64

func (s *setBits) add(i uint64)    { s[i/64] |= 1 << (i % 64) }
func (s *setBits) remove(i uint64) { s[i/64] &^= 1 << (i % 64) }

// count returns the number of ids in the chunk.
func (s *setBits) count() (n int) {
	for _, word := range s {
		n += bits.OnesCount64(word)
	}
	return n
}

func (s *setBits) encode() []byte {
	n := s.count()
	if n == 0 {
		return nil
	}
	if 2*n >= 8*len(s) {
		contents := make([]byte, 0, 8*len(s))
		for _, word := range s {
			contents = binary.BigEndian.AppendUint64(contents, word)
		}
		return contents
	}
	contents := make([]byte, 0, 2*n)
	for i, word := range s {
		for ; word != 0; word &= word - 1 {
			contents = binary.BigEndian.AppendUint16(contents, uint16(64*i+bits.TrailingZeros64(word)))
		}
	}
	return contents
}

// errListData is the error for contents of a chunk that no program has written.
var errListData = errors.New("this is not data of a list; stop the server and run latchkey check --repair")

func readSetBits(contents []byte) (chunk, error) {
	s := &setBits{}
	return s, s.join(contents)
}

// join adds the ids of a stored chunk. contents may be nil.
func (s *setBits) join(contents []byte) error {
	if len(contents) == 8*len(s) {
		for i := range s {
			s[i] |= binary.BigEndian.Uint64(contents[8*i:])
		}
		return nil
	}
	if len(contents) > 8*len(s) || len(contents)%2 != 0 {
		return errListData
	}
	for ; len(contents) > 0; contents = contents[2:] {
		i := uint64(binary.BigEndian.Uint16(contents))
		if i >= setIDs {
			return errListData
		}
		s.add(i)
	}
	return nil
}

// orders is a chunk with the order of each record.
type orders struct {
	present [orderIDs / 64]uint64
	order   [orderIDs]uint64 // 0 for an id without a record
}

// ordersHead is the size in bytes of present, with which the contents of a chunk begin. Then comes
// order.
const (
	ordersHead = orderIDs / 8
	ordersSize = ordersHead + 8*orderIDs
)

func (o *orders) encode() []byte {
	if o.present == [orderIDs / 64]uint64{} {
		return nil
	}
	contents := make([]byte, 0, ordersSize)
	for _, word := range o.present {
		contents = binary.BigEndian.AppendUint64(contents, word)
	}
	for i, order := range o.order {
		if o.present[i/64]>>(i%64)&1 == 0 {
			order = 0
		}
		contents = binary.BigEndian.AppendUint64(contents, order)
	}
	return contents
}

func readOrders(contents []byte) (chunk, error) {
	o := &orders{}
	if contents == nil {
		return o, nil
	}
	if len(contents) != ordersSize {
		return nil, errListData
	}
	for i := range o.present {
		o.present[i] = binary.BigEndian.Uint64(contents[8*i:])
	}
	for i := range o.order {
		o.order[i] = binary.BigEndian.Uint64(contents[ordersHead+8*i:])
	}
	return o, nil
}

// texts is a chunk with the searched text of each record.
type texts struct {
	short [textIDs]string // "" for a record without text, and for one with a longText
	long  uint64          // the records whose text is a longText, one bit each
}

// textsHead is the size in bytes of the two numbers with which the contents of a chunk begin: which
// records have a short text, and which a long one. Then come the ends of the short texts, two bytes
// each, and the texts, each followed by a line break.
const textsHead = 16

func (t *texts) encode() []byte {
	var present uint64
	var ends, all []byte
	for i, text := range t.short {
		if text == "" {
			continue
		}
		present |= 1 << i
		all = append(append(all, text...), '\n')
		ends = binary.BigEndian.AppendUint16(ends, uint16(len(all)))
	}
	if present == 0 && t.long == 0 {
		return nil
	}
	contents := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, present), t.long)
	return append(append(contents, ends...), all...)
}

func readTexts(contents []byte) (chunk, error) {
	t := &texts{}
	if contents == nil {
		return t, nil
	}
	c, err := openTexts(contents)
	if err != nil {
		return nil, err
	}
	t.long = c.long
	begin, all, n := 0, string(c.text), 0
	for present := c.present; present != 0; present &= present - 1 {
		end := c.end(n)
		t.short[bits.TrailingZeros64(present)] = all[begin : end-1]
		begin = end
		n++
	}
	return t, nil
}

// storedTexts are the parts of the contents of a chunk of texts.
type storedTexts struct {
	present, long uint64
	ends          []byte
	text          []byte
}

// openTexts returns the parts of the contents of a chunk of texts. The parts share its memory.
func openTexts(contents []byte) (t storedTexts, err error) {
	if len(contents) < textsHead {
		return t, errListData
	}
	t.present, t.long = binary.BigEndian.Uint64(contents), binary.BigEndian.Uint64(contents[8:])
	n := bits.OnesCount64(t.present)
	if len(contents) < textsHead+2*n {
		return t, errListData
	}
	t.ends, t.text = contents[textsHead:textsHead+2*n], contents[textsHead+2*n:]
	begin := 0
	for i := range n {
		end := t.end(i)
		if end < begin+2 || end > len(t.text) {
			return t, errListData
		}
		begin = end
	}
	return t, nil
}

// end returns the end of the short text with the position n among those that are present.
func (t storedTexts) end(n int) int { return int(binary.BigEndian.Uint16(t.ends[2*n:])) }

// find returns which of the records in wanted have a short text that contains word.
func (t storedTexts) find(word []byte, wanted uint64) (found uint64) {
	left, n, begin := t.present, 0, 0
	for left != 0 && begin <= len(t.text) {
		at := bytes.Index(t.text[begin:], word)
		if at < 0 {
			break
		}
		for at += begin; left != 0 && t.end(n) <= at; n++ {
			left &= left - 1
		}
		if left == 0 {
			break
		}
		found |= left & -left
		begin = t.end(n)
		left &= left - 1
		n++
	}
	return found & wanted
}

// longText is the text of one record, if it is longer than maxShortText.
type longText string

func longTextKey(id uint64) []byte { return append(IDKey(id/textIDs), byte(id%textIDs)) }

func (l *longText) encode() []byte {
	if *l == "" {
		return nil
	}
	return []byte(*l)
}

func readLongText(contents []byte) (chunk, error) {
	l := longText(contents)
	return &l, nil
}

// chunkCursor reads the chunks of a bucket with a column or with texts, in ascending order of their
// numbers.
type chunkCursor struct {
	bucket      string
	cursor      *bbolt.Cursor // nil if there is no such bucket
	key, stored []byte        // the present chunk, or what follows it
}

// openChunks returns a chunkCursor that is at the first chunk.
func openChunks(tx *Tx, bucket string) chunkCursor {
	c := chunkCursor{bucket: bucket}
	if b := tx.open(bucket); b != nil {
		c.cursor = b.Cursor()
		c.key, c.stored = c.cursor.First()
	}
	return c
}

// seek moves to the chunk with this number and reports whether there is one. The number must not be
// less than that of the call before. The next chunk is tried first, because that is the usual one.
func (c *chunkCursor) seek(number uint64) bool {
	key := IDKey(number)
	if c.key != nil && bytes.Compare(c.key, key) < 0 {
		c.key, c.stored = c.cursor.Next()
	}
	if c.key != nil && bytes.Compare(c.key, key) < 0 {
		c.key, c.stored = c.cursor.Seek(key)
	}
	return bytes.Equal(c.key, key)
}

// contents returns the contents of the present chunk.
func (c *chunkCursor) contents() ([]byte, error) { return Unseal(c.bucket, c.key, c.stored) }

// setCursor reads the chunks of one set, in ascending order.
type setCursor struct {
	bucket   string
	prefix   []byte
	cursor   *bbolt.Cursor // nil if there is no such set
	number   uint64        // of the present chunk
	key      []byte        // of the present chunk; nil after the last one
	contents []byte        // of the present chunk, as they are stored
}

// openSet returns a setCursor that is at the first chunk of the set of the records with a value.
func openSet(tx *Tx, bucket string, value []byte) *setCursor {
	s := &setCursor{bucket: bucket, prefix: setPrefix(value)}
	if b := tx.open(bucket); b != nil {
		s.cursor = b.Cursor()
		s.set(s.cursor.Seek(s.prefix))
	}
	return s
}

// set makes key and contents those of the present chunk.
func (s *setCursor) set(key, contents []byte) {
	if !bytes.HasPrefix(key, s.prefix) || len(key) != len(s.prefix)+8 {
		s.key = nil
		return
	}
	s.key, s.contents, s.number = key, contents, binary.BigEndian.Uint64(key[len(s.prefix):])
}

// seek moves to the chunk with this number or the first one after it. The number must not be less
// than that of the present chunk.
func (s *setCursor) seek(number uint64) (found uint64, ok bool) {
	if s.key != nil && s.number < number {
		s.set(s.cursor.Next())
	}
	if s.key != nil && s.number < number {
		s.set(s.cursor.Seek(binary.BigEndian.AppendUint64(bytes.Clone(s.prefix), number)))
	}
	return s.number, s.key != nil
}

// join adds the ids of the present chunk to those of into.
func (s *setCursor) join(into *setBits) error {
	contents, err := Unseal(s.bucket, s.key, s.contents)
	if err != nil {
		return err
	}
	if err := into.join(contents); err != nil {
		return fmt.Errorf("%s/%x: %w", s.bucket, s.key, err)
	}
	return nil
}

// idList is a list of ids in ascending order, to be read in chunks like a setCursor.
type idList []uint64

func (l *idList) seek(number uint64) (found uint64, ok bool) {
	for len(*l) > 0 && (*l)[0]/setIDs < number {
		*l = (*l)[1:]
	}
	if len(*l) == 0 {
		return 0, false
	}
	return (*l)[0] / setIDs, true
}

func (l *idList) join(into *setBits) error {
	for _, id := range *l {
		if id/setIDs != (*l)[0]/setIDs {
			break
		}
		into.add(id % setIDs)
	}
	return nil
}
