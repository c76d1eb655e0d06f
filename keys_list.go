package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"latchkey/internal/fold"
)

// KeyFilter selects and sorts keys. A key must pass all filters. The zero value of a field other
// than Now is no filter.
type KeyFilter struct {
	Now                time.Time     // from Clock.Latest
	Status             string        // one of KeyStates, or StatusLive
	Words              []string      // a result of fold.Words; each must be in one of the fields of searchedFields
	Environment, Owner string        // Owner is a name
	Permission         Permission    // the key must have one of these
	Unused             time.Duration // the key was neither used nor created within this time
	NeverUsed          bool
	ExpiresBefore      time.Time       // the key expires before this time
	Only               map[string]bool // ids of the keys that pass; nil is no filter
	Sort               string          // "created", "name", "last_used" or "expires"; "" is "created"
	Ascending          bool
}

// StatusLive is the filter for keys with every status except revoked.
const StatusLive = "live"

// searchedFields returns the fields in which a search looks. The name is the first.
func (k *StoredKey) searchedFields() []string {
	return []string{k.Name, k.ID, k.Hint, k.OwnerName, k.Environment, k.Metadata["note"]}
}

// keyRow holds what lists need of a key. The parts share the memory of the stored row.
type keyRow struct {
	stateFacts
	permissions Permission // built-in ones
	created     time.Time
	id          []byte
	environment []byte
	owner       []byte // name
	own         []byte // names of permissions of the configuration, separated by line breaks
	text        []byte // searchedFields in the form of fold.Search, each on a line
}

// The flags in the first byte of a stored row. Then follow the permissions, two times of twelve
// bytes, and the texts, each after its length.
const (
	rowPaused = 1 << iota
	rowRevoked
)

const keyRowHead = 1 + 8 + 2*12

// keyRowOf returns the stored row of a key.
func keyRowOf(k *StoredKey) []byte {
	flags := byte(0)
	if k.Paused {
		flags |= rowPaused
	}
	if !k.RevokedAt.IsZero() {
		flags |= rowRevoked
	}
	row := binary.BigEndian.AppendUint64([]byte{flags}, uint64(k.Permissions.Builtin())) // the bits of others depend on the configuration
	for _, t := range []time.Time{k.ExpiresAt, k.CreatedAt} {
		row = binary.BigEndian.AppendUint64(row, uint64(t.Unix()))
		row = binary.BigEndian.AppendUint32(row, uint32(t.Nanosecond()))
	}
	for _, text := range []string{k.ID, k.Environment, k.OwnerName, strings.Join(k.OwnPermissions, "\n"), fold.Search(strings.Join(k.searchedFields(), "\n"))} {
		row = append(binary.AppendUvarint(row, uint64(len(text))), text...)
	}
	return row
}

// readKeyRow returns the contents of a stored row. ok is false if keyRowOf has not made it.
func readKeyRow(row []byte) (r keyRow, ok bool) {
	if len(row) < keyRowHead {
		return r, false
	}
	r.paused, r.revoked = row[0]&rowPaused != 0, row[0]&rowRevoked != 0
	r.permissions = Permission(binary.BigEndian.Uint64(row[1:])).Builtin()
	r.expires, r.created = rowTime(row[9:]), rowTime(row[21:])
	row = row[keyRowHead:]
	for _, text := range []*[]byte{&r.id, &r.environment, &r.owner, &r.own, &r.text} {
		n, size := uint64(0), 1
		if len(row) > 0 && row[0] < 0x80 {
			n = uint64(row[0])
		} else {
			n, size = binary.Uvarint(row)
		}
		if size <= 0 || uint64(len(row)-size) < n {
			return r, false
		}
		*text, row = row[size:size+int(n)], row[size+int(n):]
	}
	return r, len(row) == 0
}

// rowTime returns a time of a stored row.
func rowTime(row []byte) time.Time {
	return time.Unix(int64(binary.BigEndian.Uint64(row)), int64(binary.BigEndian.Uint32(row[8:])))
}

// name returns the name in the form of fold.Search.
func (r keyRow) name() []byte {
	name, _, _ := bytes.Cut(r.text, []byte("\n"))
	return name
}

// keyUseValue returns the time of the last stored use of a key, in Unix nanoseconds, or 0 if it was
// never used.
func keyUseValue(tx *Tx, id []byte) (uint64, error) {
	use, err := storedUse(tx, id)
	return use.value(), err
}

// value returns the time of the use as a RowList keeps it.
func (u LastUse) value() uint64 {
	if u.At.IsZero() {
		return 0
	}
	return uint64(u.At.UnixNano())
}

// List returns a part of the keys that a filter selects, and the number of all of them. bounds
// returns the part as a half-open range of positions, for that number. List ends with an error when
// ctx is done. It leaves out forged keys of that part, see Authenticator. The caller may change the
// keys.
func (k *Keyring) List(ctx context.Context, tx *Tx, f KeyFilter, bounds func(count int) (from, to int)) (keys []*Key, count int, err error) {
	s := keySelection{filter: f, policy: k.Rights(), own: map[string]Permission{}, maxSorted: k.maxSorted}
	for _, word := range f.Words {
		s.words = append(s.words, []byte(word))
	}
	if f.Unused > 0 || f.NeverUsed || f.Sort == "last_used" {
		if s.stored, err = KeyTable.RowValues(tx); err != nil {
			return nil, 0, err
		}
		s.unstored = k.unstoredUses()
	}
	if s.rows, err = k.rows.Read(ctx, tx, KeyTable.Name); err != nil {
		return nil, 0, err
	}
	if count, err = s.choose(ctx); err != nil {
		return nil, 0, err
	}
	from, to := bounds(count)
	for _, id := range s.ids(from, to) {
		key, err := k.Get(tx, string(id))
		if IsForged(err) {
			continue
		}
		if errors.Is(err, ErrNotFound) || err == nil && !f.selects(key) {
			err = fmt.Errorf("keys/%s: the list does not fit the record; stop the server and run latchkey check --repair", id)
		}
		if err != nil {
			return nil, 0, err
		}
		keys = append(keys, key)
	}
	return keys, count, nil
}

// Named returns the keys with these ids, in the same order. It leaves out ids that no key has. The
// caller may change the keys.
func (k *Keyring) Named(tx *Tx, ids []string) (keys []*Key, err error) {
	for _, id := range ids {
		key, err := k.Get(tx, id)
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// Rotating returns the ids of the keys that have a previous secret which is valid at now.
func (k *Keyring) Rotating(tx *Tx, now time.Time) map[string]bool {
	ids, from := map[string]bool{}, IDKey(uint64(now.UnixNano()))
	for end, id := range KeyTable.Find(tx, "alias_end", nil, Forward) {
		if bytes.Compare(end, from) > 0 {
			ids[string(id)] = true
		}
	}
	return ids
}

// SentInURL returns the ids of the keys that were sent in a URL since they were created or last
// rotated. Until they are rotated, a log may have their secret.
func (k *Keyring) SentInURL(tx *Tx) (ids map[string]bool, err error) {
	found := map[string]bool{}
	for id, use := range tx.Range("key_uses", []byte("key_")) {
		if bytes.Contains(use, []byte(`"query_at":`)) && !bytes.Contains(id, []byte("/")) {
			found[string(id)] = true
		}
	}
	k.dirtyMu.Lock()
	entries := slices.Concat(k.dirty, k.flushing)
	k.dirtyMu.Unlock()
	for _, h := range entries {
		if !h.Noted().QueryAt.IsZero() {
			found[h.Key().ID] = true
		}
	}
	ids = map[string]bool{}
	for id := range found {
		key, err := k.Get(tx, id)
		if errors.Is(err, ErrNotFound) || IsForged(err) {
			continue
		}
		var use LastUse
		if err == nil {
			use, err = k.LastUse(tx, id)
		}
		if err != nil {
			return nil, err
		}
		if use.QueryAt.After(key.RotatedAt) {
			ids[id] = true
		}
	}
	return ids, nil
}

// Empty reports whether the filter selects all keys and sorts them newest first.
func (f KeyFilter) Empty() bool {
	return f.Status == "" && len(f.Words) == 0 && f.Environment == "" && f.Owner == "" && f.Permission == 0 && f.Unused == 0 && !f.NeverUsed &&
		f.ExpiresBefore.IsZero() && f.Only == nil && f.Sort == "" && !f.Ascending
}

// selectionBuffers keeps the memory of lists for the next list.
var selectionBuffers = sync.Pool{New: func() any { return new([]selectedKey) }}

// selects reports whether a key passes all filters except Unused, which a use since the selection
// may have changed.
func (f KeyFilter) selects(k *Key) bool {
	return f.passes(k.Status(f.Now)) && (f.Environment == "" || k.Environment == f.Environment) && (f.Owner == "" || k.OwnerName == f.Owner) &&
		(f.Permission == 0 || k.Has(f.Permission)) && fold.Match(f.Words, k.searchedFields()...)
}

// passes reports whether a status passes the filter.
func (f KeyFilter) passes(status string) bool {
	return f.Status == "" || f.Status == status || f.Status == StatusLive && status != StatusRevoked
}

// selectedKey is a key that passes a filter, with the value by which it is sorted.
type selectedKey struct {
	order uint64 // if two are equal, name decides
	newer uint64 // a result of idOrder
	id    []byte
	name  []byte // nil unless the list is sorted by it
}

// compare returns the order of two keys in a list. Keys that are equal in it are sorted newest first.
func (f *KeyFilter) compare(a, b selectedKey) int {
	order := cmp.Compare(a.order, b.order)
	if order == 0 {
		order = bytes.Compare(a.name, b.name)
	}
	if order == 0 && f.byCreation() {
		order = bytes.Compare(a.id, b.id)
	}
	if !f.Ascending {
		order = -order
	}
	if order == 0 {
		order = cmp.Compare(b.newer, a.newer)
	}
	if order == 0 {
		order = bytes.Compare(b.id, a.id)
	}
	return order
}

func (f *KeyFilter) byCreation() bool { return f.Sort == "" || f.Sort == "created" }

// keySelection is the keys that a filter selects.
type keySelection struct {
	filter   KeyFilter
	policy   *Policy
	words    [][]byte              // those of the filter
	own      map[string]Permission // the bits of keyRow.own
	stored   []uint64              // see Table.RowValues
	unstored map[string]time.Time  // see Keyring.unstoredUses
	rows     *CachedRows[selectedKey]
	// maxSorted is that of the Keyring.
	maxSorted int
	chosen    []uint64 // for each chunk of rows, one bit for each selected one
	count     int
}

// choose selects keys and returns their number.
func (s *keySelection) choose(ctx context.Context) (count int, err error) {
	s.chosen = make([]uint64, len(s.rows.Chunks))
	for i, chunk := range s.rows.Chunks {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		if s.chosen[i], err = s.chooseOf(chunk); err != nil {
			return 0, err
		}
		s.count += bits.OnesCount64(s.chosen[i])
	}
	return s.count, nil
}

// chooseOf returns which rows of a chunk the filter selects.
func (s *keySelection) chooseOf(chunk *RowChunk) (chosen uint64, err error) {
	chosen = chunk.Present
	for _, word := range s.words {
		if chosen != 0 {
			chosen = chunk.MayContain(word, chosen)
		}
	}
	if s.filter.everyRow() {
		return chosen, nil
	}
	for left := chosen; left != 0; left &= left - 1 {
		i := bits.TrailingZeros64(left)
		number := chunk.Number*RowsPerChunk + uint64(i)
		r, ok := readKeyRow(chunk.Row(i))
		if !ok {
			return 0, fmt.Errorf("key list, row %d: this is not a row of a key; stop the server and run latchkey check --repair", number)
		}
		if !s.selects(number, &r) {
			chosen &^= left & -left
		}
	}
	return chosen, nil
}

// everyRow reports whether the filter selects all keys.
func (f KeyFilter) everyRow() bool {
	f.Sort, f.Ascending = "", false
	return f.Empty()
}

// selects reports whether the filter selects the key with this row.
func (s *keySelection) selects(number uint64, r *keyRow) bool {
	f := &s.filter
	if f.Environment != "" && string(r.environment) != f.Environment || f.Owner != "" && string(r.owner) != f.Owner || f.Status != "" && !f.passes(r.at(f.Now)) {
		return false
	}
	if !f.tagged(r.id, r.expires) || f.NeverUsed && !s.lastUse(number, r.id).IsZero() {
		return false
	}
	if f.Permission != 0 && (r.permissions|s.configured(r.own))&f.Permission == 0 {
		return false
	}
	for _, word := range s.words {
		if !bytes.Contains(r.text, word) {
			return false
		}
	}
	return f.Unused == 0 || f.Now.Sub(latest(s.lastUse(number, r.id), r.created)) >= f.Unused
}

// tagged reports whether the key with this id and expiry passes the filters Only and ExpiresBefore.
func (f *KeyFilter) tagged(id []byte, expires time.Time) bool {
	return (f.Only == nil || f.Only[string(id)]) && (f.ExpiresBefore.IsZero() || !expires.IsZero() && expires.Before(f.ExpiresBefore))
}

// maxSortedKeys is the usual Keyring.maxSorted.
const maxSortedKeys = 1000

// ids returns the ids at some positions of the list.
func (s *keySelection) ids(from, to int) (ids [][]byte) {
	if !s.rows.Kept || s.filter.Sort == "last_used" || s.count <= s.maxSorted {
		return s.sortedIDs(from, to)
	}
	for _, place := range s.rows.Sorted(fmt.Sprint(s.filter.Sort, s.filter.Ascending), s.filter.order()) {
		if from >= to {
			break
		}
		if s.chosen[place/RowsPerChunk]>>(place%RowsPerChunk)&1 == 0 {
			continue
		}
		if from > 0 {
			from, to = from-1, to-1
			continue
		}
		r, _ := readKeyRow(s.rows.Row(place))
		ids = append(ids, r.id)
		to--
	}
	return ids
}

// sortedIDs is ids by sorting the selected keys.
func (s *keySelection) sortedIDs(from, to int) (ids [][]byte) {
	if from >= to {
		return nil
	}
	buffer := selectionBuffers.Get().(*[]selectedKey)
	defer selectionBuffers.Put(buffer)
	rows := slices.Grow((*buffer)[:0], s.count)
	for i, chunk := range s.rows.Chunks {
		for left := s.chosen[i]; left != 0; left &= left - 1 {
			bit := bits.TrailingZeros64(left)
			row := s.filter.orderOf(chunk.Row(bit))
			if s.filter.Sort == "last_used" {
				row.order = sortableTime(s.lastUse(chunk.Number*RowsPerChunk+uint64(bit), row.id)) // the zero time, for never, sorts first
			}
			rows = append(rows, row)
		}
	}
	*buffer = rows
	defer clear(rows) // they may share memory of the transaction
	sortPart(rows, from, to, s.filter.compare)
	for _, row := range rows[from:to] {
		ids = append(ids, row.id)
	}
	return ids
}

// order returns the order of the list, unless it is sorted by the last use.
func (f KeyFilter) order() RowSort[selectedKey] {
	sorting := KeyFilter{Sort: f.Sort, Ascending: f.Ascending}
	return RowSort[selectedKey]{sorting.orderOf, sorting.compare}
}

// orderOf returns by what a key is sorted, except for its last use.
func (f *KeyFilter) orderOf(stored []byte) selectedKey {
	r, _ := readKeyRow(stored)
	row := selectedKey{id: r.id, newer: idOrder(r.id)}
	switch f.Sort {
	case "", "created":
		row.order = row.newer
	case "name":
		row.name = r.name()
		var first [8]byte
		copy(first[:], row.name)
		row.order = binary.BigEndian.Uint64(first[:])
	case "expires":
		if row.order = sortableTime(r.expires); r.expires.IsZero() {
			row.order = 1<<64 - 1 // a key that never expires sorts last
		}
	}
	return row
}

// idOrder returns a number that grows with the id of a key, as NewKeyID makes them: the first eight
// bytes of its digits. It saves most comparisons of ids.
func idOrder(id []byte) (order uint64) {
	var first [8]byte
	digits := bytes.TrimPrefix(id, []byte("key_"))
	if _, err := hex.Decode(first[:], digits[:min(len(digits), 2*len(first))]); err != nil {
		return 0
	}
	return binary.BigEndian.Uint64(first[:])
}

// sortableTime returns a number that grows with the time, in milliseconds.
func sortableTime(t time.Time) uint64 { return uint64(t.UnixMilli()) + 1<<63 }

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// configured returns the permissions that the configuration defines and that have these names.
func (s *keySelection) configured(own []byte) Permission {
	if len(own) == 0 {
		return 0
	}
	set, known := s.own[string(own)]
	if !known {
		set, _ = s.policy.OfOwn(strings.Split(string(own), "\n"))
		s.own[string(own)] = set
	}
	return set
}

// lastUse returns the time of the last use of a key, or the zero time if it was never used.
func (s *keySelection) lastUse(number uint64, id []byte) (at time.Time) {
	if number < uint64(len(s.stored)) && s.stored[number] != 0 {
		at = time.Unix(0, int64(s.stored[number]))
	}
	return latest(s.unstored[string(id)], at)
}

// unstoredUses returns the times of the uses that Flush has not stored yet, by the id of the key.
func (k *Keyring) unstoredUses() map[string]time.Time {
	k.dirtyMu.Lock()
	entries := slices.Concat(k.dirty, k.flushing)
	k.dirtyMu.Unlock()
	uses := make(map[string]time.Time, len(entries))
	for _, h := range entries {
		id := h.Key().ID
		uses[id] = latest(uses[id], h.Noted().At)
	}
	return uses
}

// sortPart puts the rows that belong to the positions from from to to there, in their order. The other
// rows are before or after them, in any order. So a page of a long list costs little more than
// reading the list.
func sortPart(rows []selectedKey, from, to int, compare func(a, b selectedKey) int) {
	const short = 24
	for len(rows) > short && from < to {
		pivot := rows[rand.IntN(len(rows))]
		low, high := 0, len(rows)-1
		for low <= high {
			switch {
			case compare(rows[low], pivot) < 0:
				low++
			case compare(rows[high], pivot) > 0:
				high--
			default:
				rows[low], rows[high] = rows[high], rows[low]
				low++
				high--
			}
		}
		// rows[:high+1] are at most the pivot, rows[low:] are at least the pivot, and what is
		// between them is the pivot.
		sortPart(rows[:high+1], from, min(to, high+1), compare)
		rows, from, to = rows[low:], max(from-low, 0), to-low
	}
	if from < to {
		slices.SortFunc(rows, compare)
	}
}
