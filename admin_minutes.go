package main

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"maps"
	"math"
	"slices"
	"sync/atomic"
	"time"

	"latchkey/internal/sorted"
)

// cellCount is what was asked of the limit per minute of a key in one cell.
type cellCount struct{ asked, refused uint32 }

func (c *cellCount) add(other cellCount) {
	c.asked, c.refused = addCapped(c.asked, uint64(other.asked)), addCapped(c.refused, uint64(other.refused))
}

// addCapped returns the sum, or the largest number if the sum is larger.
func addCapped(a uint32, b uint64) uint32 { return uint32(min(uint64(a)+b, math.MaxUint32)) }

// askedCell is a cellCount with the number of its cell, see CellOf.
type askedCell struct {
	at int64
	cellCount
}

// askedCells is what was asked of the limit per minute of a key since the last Flush.
type askedCells struct {
	askedCell             // the latest
	older     []askedCell // before it, almost in order
	left      uint64      // units that are in no cell, because there was no room
}

// maxCells is the largest number of cells in memory that are not stored yet, of all keys. They need
// 16 bytes each.
const maxCells = 1 << 20

// ask counts what was asked of the limit per minute of a key with these counts, whose lock the
// caller must hold.
func (h *History) ask(r *recent, asked Asked) {
	if asked.Units <= 0 {
		return
	}
	at := CellOf(asked.At)
	if r.asked == nil {
		r.asked = &askedCells{askedCell: askedCell{at: at}}
		h.cells.Add(1)
	}
	c := r.asked.find(at)
	if c == nil {
		if h.cells.Load() >= maxCells {
			r.asked.left += uint64(asked.Units)
			return
		}
		h.cells.Add(1)
		c = r.asked.open(at)
	}
	c.asked = addCapped(c.asked, uint64(asked.Units))
	c.refused = addCapped(c.refused, uint64(max(0, asked.Units-asked.Charged)))
}

// foundBack is how many cells find looks at. Requests are counted when they end, so those of several
// cells alternate.
const foundBack = 16

// find returns the cell with this number, or nil if it is not among the last ones.
func (c *askedCells) find(at int64) *cellCount {
	if c.at == at {
		return &c.cellCount
	}
	for i := len(c.older) - 1; i >= max(0, len(c.older)-foundBack); i-- {
		if c.older[i].at == at {
			return &c.older[i].cellCount
		}
	}
	return nil
}

// open adds a cell and returns it.
func (c *askedCells) open(at int64) *cellCount {
	if at > c.at {
		c.older, c.askedCell = append(c.older, c.askedCell), askedCell{at: at}
		return &c.cellCount
	}
	c.older = append(c.older, askedCell{at: at})
	return &c.older[len(c.older)-1].cellCount
}

// after returns the cells together with those of before, which may be nil.
func (c *askedCells) after(before *askedCells) *askedCells {
	if before == nil {
		return c
	}
	c.older = slices.Concat(before.older, []askedCell{before.askedCell}, c.older)
	c.left += before.left
	return c
}

// held returns the number of cells. c may be nil.
func (c *askedCells) held() int64 {
	if c == nil {
		return 0
	}
	return int64(len(c.older) + 1)
}

// minutesBucket has what was asked of the limits per minute of the keys. The key of a row is the
// number of a day, the id of a key, a zero byte and the hour of the day, in service time: the
// oldest day is first, and in each day the rows of a key are together. The row minutesRecord says
// how large all are.
const minutesBucket = "usage_minutes"

const (
	hourCells = int64(time.Hour / CellSpan)
	dayCells  = 24 * hourCells
)

// dayRows returns the beginning of the keys of the rows of a day.
func dayRows(day int64) []byte { return binary.BigEndian.AppendUint32(nil, uint32(day)) }

// keyRows returns the beginning of the keys of the rows of a key on a day.
func keyRows(day int64, id string) []byte { return append(append(dayRows(day), id...), 0) }

// minuteRow returns the key of the row with a cell of a key.
func minuteRow(cell int64, id string) []byte {
	return append(keyRows(cell/dayCells, id), byte(cell%dayCells/hourCells))
}

// splitMinuteRow returns the parts of the key of a row. ok is false if it is damaged, or not a row
// of a key.
func splitMinuteRow(row []byte) (day int64, id string, hour int64, ok bool) {
	n := len(row)
	if n < 7 || row[n-2] != 0 || row[n-1] > 23 {
		return 0, "", 0, false
	}
	return int64(binary.BigEndian.Uint32(row)), string(row[4 : n-2]), int64(row[n-1]), true
}

// hourCounts are the cells of an hour.
type hourCounts [hourCells]cellCount

// errCells means that stored bytes are not the cells of an hour.
var errCells = errors.New("the stored counts of requests per minute are damaged")

// appendTo appends the cells that are not empty to b. A run of equal cells has a head, which is
// four times the number of empty cells before it, plus 1 if units were refused, plus 2 if the run
// has more than one cell. The units of each cell follow, then the refused ones, then the length of
// the run.
func (h *hourCounts) appendTo(b []byte) []byte {
	next := 0
	for i := 0; i < len(h); i++ {
		c := h[i]
		if c == (cellCount{}) {
			continue
		}
		run := 1
		for i+run < len(h) && h[i+run] == c {
			run++
		}
		head := uint64(i-next) << 2
		if c.refused > 0 {
			head |= 1
		}
		if run > 1 {
			head |= 2
		}
		b = binary.AppendUvarint(binary.AppendUvarint(b, head), uint64(c.asked))
		if c.refused > 0 {
			b = binary.AppendUvarint(b, uint64(c.refused))
		}
		if run > 1 {
			b = binary.AppendUvarint(b, uint64(run))
		}
		next = i + run
		i = next - 1
	}
	return b
}

// read adds the cells in b, which appendTo has written.
func (h *hourCounts) read(b []byte) error {
	bad := false
	number := func(most uint64) uint64 {
		n, k := binary.Uvarint(b)
		if k <= 0 || n > most {
			bad, b = true, nil
			return 0
		}
		b = b[k:]
		return n
	}
	for at := uint64(0); len(b) > 0; {
		head := number(4 * uint64(hourCells))
		c, run := cellCount{asked: uint32(number(math.MaxUint32))}, uint64(1)
		if head&1 != 0 {
			c.refused = uint32(number(math.MaxUint32))
		}
		if head&2 != 0 {
			run = number(uint64(hourCells))
		}
		if at += head >> 2; bad || run == 0 || at+run > uint64(hourCells) {
			return errCells
		}
		for range run {
			h[at].add(c)
			at++
		}
	}
	return nil
}

// minutesRecord is the row with what is known about all rows of minutesBucket.
type minutesRecord struct {
	bytes uint64           // of the keys and values of all other rows
	from  int64            // cell since which all is stored, except what left counts
	left  map[int64]uint64 // units that were left out, because there was no room, by day
}

// minutesRecordKey is before all other rows.
var minutesRecordKey = []byte{0}

// readMinutesRecord returns the record, or nil if nothing was stored yet.
func readMinutesRecord(tx *Tx) (*minutesRecord, error) {
	value, err := tx.Get(minutesBucket, minutesRecordKey)
	if err != nil || value == nil {
		return nil, err
	}
	var n []uint64
	for len(value) > 0 {
		one, k := binary.Uvarint(value)
		if k <= 0 {
			return nil, errCells
		}
		n, value = append(n, one), value[k:]
	}
	if len(n) < 2 || len(n)%2 != 0 {
		return nil, errCells
	}
	m := &minutesRecord{bytes: n[0], from: int64(n[1]), left: map[int64]uint64{}}
	for i := 2; i < len(n); i += 2 {
		m.left[int64(n[i])] = n[i+1]
	}
	return m, nil
}

// put stores the record.
func (m *minutesRecord) put(tx *Tx) error {
	b := binary.AppendUvarint(binary.AppendUvarint(nil, m.bytes), uint64(m.from))
	for day, n := range m.left {
		b = binary.AppendUvarint(binary.AppendUvarint(b, uint64(day)), n)
	}
	return tx.Put(minutesBucket, minutesRecordKey, b)
}

// store adds the cells to the stored rows of the key with this id. What has no room within
// Bounds.MinutesBytes is counted as left out. damage is set if a row or the record cannot be read.
// It is then replaced.
func (c *askedCells) store(tx *Tx, id string) (damage, err error) {
	cells := append(slices.Clone(c.older), c.askedCell)
	sorted.Func(cells, func(a, b askedCell) int { return cmp.Compare(a.at, b.at) })
	m, damage := readMinutesRecord(tx)
	if m == nil {
		m = &minutesRecord{from: cells[0].at, left: map[int64]uint64{}}
		if damage != nil {
			m.from, m.bytes = c.at, sizeOfMinutes(tx)
		}
	}
	if c.left > 0 {
		m.left[c.at/dayCells] += c.left
	}
	for len(cells) > 0 {
		n := 1
		for n < len(cells) && cells[n].at/hourCells == cells[0].at/hourCells {
			n++
		}
		bad, err := m.add(tx, id, cells[:n])
		if damage = errors.Join(damage, bad); err != nil {
			return damage, err
		}
		cells = cells[n:]
	}
	return damage, m.put(tx)
}

// sealedBytes is how much longer a row is as it is stored: its version and its checksum.
const sealedBytes = 5

// sizeOfMinutes returns what minutesRecord.bytes must be.
func sizeOfMinutes(tx *Tx) (n uint64) {
	for row, raw := range tx.RangeFrom(minutesBucket, dayRows(0)) {
		n += uint64(len(row) + len(raw))
	}
	return n
}

// add adds cells of one hour to the row of a key.
func (m *minutesRecord) add(tx *Tx, id string, cells []askedCell) (damage, err error) {
	row := minuteRow(cells[0].at, id)
	var h hourCounts
	value, damage := tx.Get(minutesBucket, row)
	if damage == nil {
		damage = h.read(value)
	}
	if damage != nil {
		damage = fmt.Errorf("requests per minute %q: %w", row, damage)
		h = hourCounts{}
	}
	for _, c := range cells {
		h[c.at%hourCells].add(c.cellCount)
	}
	packed := h.appendTo(nil)
	after := m.bytes + uint64(len(row)+sealedBytes+len(packed))
	if value != nil {
		after -= min(after, uint64(len(row)+sealedBytes+len(value)))
	}
	if most := uint64(tx.Bounds.MinutesBytes); most > 0 && after > most && after > m.bytes {
		for _, c := range cells {
			m.left[c.at/dayCells] += uint64(c.asked)
		}
		return damage, nil
	}
	m.bytes = after
	return damage, tx.Put(minutesBucket, row, packed)
}

// minuteDays returns the days with stored rows, the oldest first.
func minuteDays(tx *Tx) (days []int64) {
	for from := dayRows(0); from != nil; {
		next := []byte(nil)
		for row := range tx.RangeFrom(minutesBucket, from) {
			if len(row) >= 4 {
				day := int64(binary.BigEndian.Uint32(row))
				days, next = append(days, day), dayRows(day+1)
			}
			break
		}
		from = next
	}
	return days
}

// minuteKeys returns the ids of the keys with stored rows on one of these days, sorted.
func minuteKeys(tx *Tx, days []int64) []string {
	known := map[string]bool{}
	for _, day := range days {
		for from := dayRows(day); from != nil; {
			next := []byte(nil)
			for row := range tx.RangeFrom(minutesBucket, from) {
				if at, id, _, ok := splitMinuteRow(row); ok && at == day {
					known[id], next = true, append(keyRows(day, id), 255)
				}
				break
			}
			from = next
		}
	}
	return slices.Sorted(maps.Keys(known))
}

// eachCell calls visit for each stored cell of the keys with these ids, together, since the cell
// from, in the order of time.
func eachCell(tx *Tx, days []int64, ids []string, from int64, visit func(cell int64, c cellCount)) error {
	var hours [24]*hourCounts // kept for the next day
	var filled [24]bool
	for _, day := range days {
		if (day+1)*dayCells <= from {
			continue
		}
		for _, id := range ids {
			for row, raw := range tx.Range(minutesBucket, keyRows(day, id)) {
				_, _, hour, ok := splitMinuteRow(row)
				value, err := Unseal(minutesBucket, row, raw)
				if err == nil && ok {
					if hours[hour] == nil {
						hours[hour] = &hourCounts{}
					}
					filled[hour] = true
					err = hours[hour].read(value)
				}
				if err != nil {
					return fmt.Errorf("requests per minute %q: %w", row, err)
				}
				tx.Yield(len(raw))
			}
		}
		for hour, h := range hours {
			if !filled[hour] {
				continue
			}
			for i, c := range h {
				if cell := day*dayCells + int64(hour)*hourCells + int64(i); c.asked > 0 && cell >= from {
					visit(cell, c)
				}
			}
			*h, filled[hour] = hourCounts{}, false
		}
	}
	return nil
}

// sweptRows is the largest number of rows that one transaction of SweepMinutes deletes.
const sweptRows = 1000

// SweepMinutes deletes days that are older than Bounds.MinutesKeep, and then the oldest days until
// an eighth of Bounds.MinutesBytes is free. It keeps the present day. Call it about once a minute.
// now is the service time.
func (h *History) SweepMinutes(now time.Time) error {
	today := CellOf(now) / dayCells
	for more := true; more; {
		err := h.store.Update(func(tx *Tx) (err error) {
			more, err = sweepMinutes(tx, today)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// sweepMinutes deletes up to sweptRows rows of the oldest day, if that is to be deleted. It reports
// whether it has deleted any.
func sweepMinutes(tx *Tx, today int64) (more bool, err error) {
	m, err := readMinutesRecord(tx)
	if m == nil || err != nil {
		return false, err
	}
	var old [][]byte
	day, size := int64(0), uint64(0)
	for row, raw := range tx.RangeFrom(minutesBucket, dayRows(0)) {
		if len(old) == 0 && len(row) >= 4 {
			day = int64(binary.BigEndian.Uint32(row))
			keep, most := int64(tx.Bounds.MinutesKeep/(24*time.Hour)), uint64(tx.Bounds.MinutesBytes)
			if day >= today || (keep == 0 || day >= today-keep) && (most == 0 || m.bytes <= most-most/8) {
				return false, nil
			}
		}
		if len(old) == sweptRows || !bytes.HasPrefix(row, dayRows(day)) {
			break
		}
		old, size = append(old, bytes.Clone(row)), size+uint64(len(row)+len(raw))
	}
	if len(old) == 0 {
		return false, nil
	}
	m.bytes -= min(size, m.bytes)
	m.from = max(m.from, (day+1)*dayCells)
	for at := range m.left {
		if at <= day {
			delete(m.left, at)
		}
	}
	for _, row := range old {
		if err := tx.Delete(minutesBucket, row); err != nil {
			return false, err
		}
	}
	return true, m.put(tx)
}

// NoteAsked counts what was asked of the limit per minute of a key, without a request with that key.
// memo is that of NoteBy.
func (h *History) NoteAsked(memo *atomic.Value, key string, asked Asked) {
	s, t := h.tallyOf(memo, key)
	s.mu.Lock()
	h.ask(s.ofKey(t, key), asked)
	s.mu.Unlock()
}

// tallyOf returns the shard of a key, and where memo remembers its counts, or nil if memo is nil.
func (h *History) tallyOf(memo *atomic.Value, key string) (s *tallies, t *keyTally) {
	if memo != nil {
		t, _ = memo.Load().(*keyTally)
	}
	if t != nil {
		return t.shard, t
	}
	s = &h.shards[maphash.String(h.seed, key)%uint64(len(h.shards))]
	if memo != nil {
		t = &keyTally{shard: s}
		memo.Store(t)
	}
	return s, t
}

// ofKey returns the counts of a key, which memo remembers unless it is nil. The caller must hold
// the lock.
func (t *tallies) ofKey(memo *keyTally, key string) *recent {
	if memo == nil {
		return find(t.keys, key)
	}
	if memo.counts == nil || memo.era != t.era {
		memo.counts, memo.era = find(t.keys, key), t.era
	}
	return memo.counts
}

// leftSince returns how many units were left out since a day.
func (m *minutesRecord) leftSince(day int64) (n uint64) {
	for at, left := range m.left {
		if at >= day {
			n += left
		}
	}
	return n
}
