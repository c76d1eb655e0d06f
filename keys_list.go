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
	Sandbox            *bool             // whether the key is a sandbox key
	WithoutEnd         bool              // the key never expires
	ExpiresBefore      time.Time         // the key expires before this time
	Only               map[string]bool   // ids of the keys that pass; nil is no filter
	Sort               string            // "created", "name", "last_used", "expires" or SortCounts; "" is "created"
	Counts             map[string]uint64 // for SortCounts: a number for each id; 0 for the ids that it lacks
	Ascending          bool
}

// NamedAs returns the keys with a name, as the audit log calls them. Case and accents do not matter. It
// looks at no more than MaxNamed keys that have the words of the name.
func (k *Keyring) NamedAs(ctx context.Context, tx *Tx, name string) (objects []string, err error) {
	keys, _, err := k.List(ctx, tx, KeyFilter{Words: fold.Words(name)}, func(count int) (from, to int) { return 0, min(count, MaxNamed) })
	for _, key := range keys {
		if fold.Search(key.Name) == fold.Search(name) {
			objects = append(objects, KeyTable.Audit.Object+" "+key.ID)
		}
	}
	return objects, err
}

// StatusLive is the filter for keys with every status except revoked.
const StatusLive = "live"

// SortCounts is the KeyFilter.Sort for a list that is sorted by KeyFilter.Counts.
const SortCounts = "counts"

// searchedFields returns the fields in which a search looks. The name is the first.
func (k *StoredKey) searchedFields() []string {
	return []string{k.Name, k.ID, k.Hint, k.OwnerName, k.Environment, k.Metadata["note"]}
}

// keyFacts holds what lists need of a key. It has no pointers, because there is one for each key in
// memory. The spans are in the stored row.
type keyFacts struct {
	newer            uint64     // a result of idOrder
	permissions      Permission // built-in ones
	expires, created rowTime
	flags            byte
	id, environment  rowSpan
	owner            rowSpan // name
	own              rowSpan // names of permissions of the configuration, separated by line breaks
	text             rowSpan // searchedFields in the form of fold.Search, each on a line
}

// rowTime is a time of a stored row.
type rowTime struct {
	seconds     int64 // Unix time
	nanoseconds uint32
}

func (t rowTime) time() time.Time { return time.Unix(t.seconds, int64(t.nanoseconds)) }

// rowSpan is where a text begins and ends.
type rowSpan struct{ from, to uint32 }

func (s rowSpan) of(row []byte) []byte { return row[s.from:s.to] }

// The flags in the first byte of a stored row. Then follow the permissions, two times of twelve
// bytes, and the texts, each after its length.
const (
	rowPaused = 1 << iota
	rowRevoked
	rowSandbox
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
	if k.Sandbox() {
		flags |= rowSandbox
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

// readKeyRow returns what lists need of a stored row. ok is false if keyRowOf has not made it.
func readKeyRow(row []byte) (f keyFacts, ok bool) {
	if len(row) < keyRowHead {
		return f, false
	}
	f.flags = row[0]
	f.permissions = Permission(binary.BigEndian.Uint64(row[1:])).Builtin()
	f.expires, f.created = readRowTime(row[9:]), readRowTime(row[21:])
	at := uint64(keyRowHead)
	for _, span := range []*rowSpan{&f.id, &f.environment, &f.owner, &f.own, &f.text} {
		n, size := binary.Uvarint(row[at:])
		if size <= 0 || uint64(len(row))-at-uint64(size) < n {
			return f, false
		}
		begin := at + uint64(size)
		at = begin + n
		*span = rowSpan{uint32(begin), uint32(at)}
	}
	f.newer = idOrder(f.id.of(row))
	return f, at == uint64(len(row))
}

func readRowTime(row []byte) rowTime {
	return rowTime{int64(binary.BigEndian.Uint64(row)), binary.BigEndian.Uint32(row[8:])}
}

// state returns the status of the key at now.
func (f *keyFacts) state(now time.Time) string {
	facts := stateFacts{paused: f.flags&rowPaused != 0, revoked: f.flags&rowRevoked != 0}
	if !facts.revoked {
		facts.expires = f.expires.time()
	}
	return facts.at(now)
}

// name returns the name in the form of fold.Search.
func (f *keyFacts) name(row []byte) []byte {
	name, _, _ := bytes.Cut(f.text.of(row), []byte("\n"))
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
	if s.rows, err = k.rows.Read(ctx, tx, KeyTable.Name); err != nil {
		return nil, 0, err
	}
	if f.Unused > 0 || f.NeverUsed || f.Sort == "last_used" {
		if err := s.readUses(tx, k.unstoredUses()); err != nil {
			return nil, 0, err
		}
	}
	if count, err = s.choose(ctx); err != nil {
		return nil, 0, err
	}
	ids, err := s.ids(bounds(count))
	if err != nil {
		return nil, 0, err
	}
	for _, id := range ids {
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

// CountStates returns the number of keys in each state at now, a time from Clock.Latest. Forged keys
// are counted.
func (k *Keyring) CountStates(tx *Tx, now time.Time) (map[string]int, error) {
	rows, err := k.rows.Read(context.Background(), tx, KeyTable.Name)
	if err != nil {
		return nil, err
	}
	counts, space := map[string]int{}, &[RowsPerChunk]keyFacts{}
	for i, chunk := range rows.Chunks {
		facts, err := rows.ChunkFacts(i, space)
		if err != nil {
			return nil, err
		}
		for left := chunk.Present; left != 0; left &= left - 1 {
			counts[facts[bits.TrailingZeros64(left)].state(now)]++
		}
	}
	return counts, nil
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
	for id, use := range tx.Range(keyUsesBucket, []byte("key_")) {
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
		!f.WithoutEnd && f.ExpiresBefore.IsZero() && f.Only == nil && f.Sandbox == nil && f.Sort == "" && !f.Ascending
}

// selectionBuffers keeps the memory of lists for the next list.
var selectionBuffers = sync.Pool{New: func() any { return new([]PlacedRow) }}

// selects reports whether a key passes all filters except Unused, which a use since the selection
// may have changed.
func (f KeyFilter) selects(k *Key) bool {
	return f.passes(k.Status(f.Now)) && (f.Environment == "" || k.Environment == f.Environment) && (f.Owner == "" || k.OwnerName == f.Owner) &&
		(f.Permission == 0 || k.Has(f.Permission)) && (f.Sandbox == nil || k.Sandbox() == *f.Sandbox) && fold.Match(f.Words, k.searchedFields()...)
}

// passes reports whether a status passes the filter.
func (f KeyFilter) passes(status string) bool {
	return f.Status == "" || f.Status == status || f.Status == StatusLive && status != StatusRevoked
}

// keySelection is the keys that a filter selects.
type keySelection struct {
	filter KeyFilter
	policy *Policy
	words  [][]byte              // those of the filter
	own    map[string]Permission // the bits of keyFacts.own
	uses   RowValues             // see readUses
	rows   *CachedRows[keyFacts]
	// maxSorted is that of the Keyring.
	maxSorted int
	chosen    []uint64 // for each chunk of rows, one bit for each selected one
	count     int
}

// choose selects keys and returns their number.
func (s *keySelection) choose(ctx context.Context) (count int, err error) {
	s.chosen = make([]uint64, len(s.rows.Chunks))
	space := &[RowsPerChunk]keyFacts{}
	for i := range s.rows.Chunks {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		if s.chosen[i], err = s.chooseOf(i, space); err != nil {
			return 0, err
		}
		s.count += bits.OnesCount64(s.chosen[i])
	}
	return s.count, nil
}

// chooseOf returns which rows of a chunk the filter selects.
func (s *keySelection) chooseOf(index int, space *[RowsPerChunk]keyFacts) (chosen uint64, err error) {
	chunk := s.rows.Chunks[index]
	chosen = chunk.Present
	for _, word := range s.words {
		if chosen != 0 {
			chosen = chunk.MayContain(word, chosen)
		}
	}
	if s.filter.everyRow() || chosen == 0 {
		return chosen, nil
	}
	facts, err := s.rows.ChunkFacts(index, space)
	if err != nil {
		return 0, err
	}
	for left := chosen; left != 0; left &= left - 1 {
		i := bits.TrailingZeros64(left)
		if !s.selects(&facts[i], chunk.Row(i)) || !s.unused(&facts[i], chunk.Number*RowsPerChunk+uint64(i)) {
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

// selects reports whether a key passes all filters except Unused and NeverUsed.
func (s *keySelection) selects(k *keyFacts, row []byte) bool {
	f := &s.filter
	if f.Status != "" && !f.passes(k.state(f.Now)) || f.Sandbox != nil && *f.Sandbox != (k.flags&rowSandbox != 0) {
		return false
	}
	if f.Environment != "" && string(k.environment.of(row)) != f.Environment || f.Owner != "" && string(k.owner.of(row)) != f.Owner {
		return false
	}
	if !f.tagged(k.id.of(row), k.expires.time()) {
		return false
	}
	if f.Permission != 0 && (k.permissions|s.configured(k.own.of(row)))&f.Permission == 0 {
		return false
	}
	for _, word := range s.words {
		if !bytes.Contains(k.text.of(row), word) {
			return false
		}
	}
	return true
}

// unused reports whether the key with this number passes the filters Unused and NeverUsed.
func (s *keySelection) unused(k *keyFacts, number uint64) bool {
	f := &s.filter
	if f.Unused == 0 && !f.NeverUsed {
		return true
	}
	since, use := k.created.time(), int64(s.uses.At(number))
	if f.NeverUsed && use != 0 {
		return false
	}
	if use != 0 {
		since = latest(time.Unix(0, use), since)
	}
	return f.Now.Sub(since) >= f.Unused
}

// manyUses is the number of uses from which on readUses looks at all keys, instead of looking for the
// used ones.
const manyUses = 1000

// readUses sets uses to the time of the last use of each key, in Unix nanoseconds, or 0 if it was never
// used. The unstored uses are those of unstoredUses.
func (s *keySelection) readUses(tx *Tx, unstored map[string]time.Time) (err error) {
	if s.uses, err = s.rows.Values(tx); err != nil {
		return err
	}
	add := func(number uint64, at time.Time) {
		if stored := int64(s.uses.At(number)); stored == 0 || at.After(time.Unix(0, stored)) {
			s.uses.Set(number, LastUse{At: at}.value())
		}
	}
	if len(unstored) < manyUses {
		for id, at := range unstored {
			slot, err := RowNumber(tx, KeyTable.Name, []byte(id))
			if err != nil {
				return err
			}
			if slot != 0 {
				add(slot, at)
			}
		}
		return nil
	}
	space := &[RowsPerChunk]keyFacts{}
	for i, chunk := range s.rows.Chunks {
		facts, err := s.rows.ChunkFacts(i, space)
		if err != nil {
			return err
		}
		for left := chunk.Present; left != 0; left &= left - 1 {
			bit := bits.TrailingZeros64(left)
			if at, ok := unstored[string(facts[bit].id.of(chunk.Row(bit)))]; ok {
				add(chunk.Number*RowsPerChunk+uint64(bit), at)
			}
		}
	}
	return nil
}

// tagged reports whether the key with this id and expiry passes the filters Only, WithoutEnd and ExpiresBefore.
func (f *KeyFilter) tagged(id []byte, expires time.Time) bool {
	if f.WithoutEnd && !expires.IsZero() {
		return false
	}
	return (f.Only == nil || f.Only[string(id)]) && (f.ExpiresBefore.IsZero() || !expires.IsZero() && expires.Before(f.ExpiresBefore))
}

// maxSortedKeys is the usual Keyring.maxSorted.
const maxSortedKeys = 1000

// ids returns the ids at some positions of the list.
func (s *keySelection) ids(from, to int) (ids [][]byte, err error) {
	if !s.rows.Kept || s.filter.Sort == "last_used" || s.filter.Sort == SortCounts || s.count <= s.maxSorted {
		return s.sortedIDs(from, to)
	}
	for _, place := range s.rows.Sorted(s.order()) {
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
		row := s.rows.Row(place)
		ids = append(ids, row.Facts.id.of(row.Row))
		to--
	}
	return ids, nil
}

// sortedIDs is ids by sorting the selected keys.
func (s *keySelection) sortedIDs(from, to int) (ids [][]byte, err error) {
	if from >= to {
		return nil, nil
	}
	buffer := selectionBuffers.Get().(*[]PlacedRow)
	defer selectionBuffers.Put(buffer)
	rows, order := slices.Grow((*buffer)[:0], s.count), s.order()
	space := &[RowsPerChunk]keyFacts{}
	for i, chosen := range s.chosen {
		if chosen == 0 {
			continue
		}
		facts, err := s.rows.ChunkFacts(i, space)
		if err != nil {
			return nil, err
		}
		first := s.rows.Chunks[i].Number * RowsPerChunk
		for left := chosen; left != 0; left &= left - 1 {
			bit := bits.TrailingZeros64(left)
			row := PlacedRow{Place: uint32(i*RowsPerChunk + bit)}
			switch s.filter.Sort {
			case "last_used":
				row.RowOrder = RowOrder{s.useOrder(first + uint64(bit)), ^facts[bit].newer}
			case SortCounts:
				count := s.filter.Counts[string(facts[bit].id.of(s.rows.Chunks[i].Row(bit)))]
				row.RowOrder = RowOrder{directed(count, s.filter.Ascending), ^facts[bit].newer}
			default:
				row.RowOrder = order.Of(s.rows.Row(row.Place))
			}
			rows = append(rows, row)
		}
	}
	*buffer = rows
	s.rows.SortPart(order, rows, from, to)
	for _, place := range rows[from:to] {
		row := s.rows.Row(place.Place)
		ids = append(ids, row.Facts.id.of(row.Row))
	}
	return ids, nil
}

// useOrder returns the order of the key with this number in a list that is sorted by the last use. Keys
// that were never used come first.
func (s *keySelection) useOrder(number uint64) uint64 {
	at := time.Time{}
	if use := int64(s.uses.At(number)); use != 0 {
		at = time.Unix(0, use)
	}
	return directed(sortableTime(at), s.filter.Ascending)
}

// directed returns a number that sorts like order, or in the other direction.
func directed(order uint64, ascending bool) uint64 {
	if ascending {
		return order
	}
	return ^order
}

// order returns the order of the list. By last uses and counts it has only Tie, because sortedIDs makes the rest. Keys that
// are equal otherwise are sorted newest first.
func (s *keySelection) order() RowSort[keyFacts] {
	sort, ascending := s.filter.Sort, s.filter.Ascending
	byID := func(a, b CachedRow[keyFacts], ascending bool) int {
		order := bytes.Compare(a.Facts.id.of(a.Row), b.Facts.id.of(b.Row))
		if !ascending {
			order = -order
		}
		return order
	}
	order := RowSort[keyFacts]{
		Name: fmt.Sprint(sort, ascending),
		Tie:  func(a, b CachedRow[keyFacts]) int { return byID(a, b, false) },
	}
	switch sort {
	case "", "created":
		order.Of = func(row CachedRow[keyFacts]) RowOrder { return RowOrder{directed(row.Facts.newer, ascending), 0} }
		order.Tie = func(a, b CachedRow[keyFacts]) int { return byID(a, b, ascending) }
	case "name":
		order.Of = func(row CachedRow[keyFacts]) RowOrder {
			var first [16]byte
			copy(first[:], row.Facts.name(row.Row))
			return RowOrder{directed(binary.BigEndian.Uint64(first[:]), ascending), directed(binary.BigEndian.Uint64(first[8:]), ascending)}
		}
		order.Tie = func(a, b CachedRow[keyFacts]) int {
			names := bytes.Compare(a.Facts.name(a.Row), b.Facts.name(b.Row))
			if !ascending {
				names = -names
			}
			return cmp.Or(names, cmp.Compare(b.Facts.newer, a.Facts.newer), byID(a, b, false))
		}
	case "expires":
		order.Of = func(row CachedRow[keyFacts]) RowOrder {
			expires := uint64(1<<64 - 1) // a key that never expires sorts last
			if at := row.Facts.expires.time(); !at.IsZero() {
				expires = sortableTime(at)
			}
			return RowOrder{directed(expires, ascending), ^row.Facts.newer}
		}
	}
	return order
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
