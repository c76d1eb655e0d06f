package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"latchkey/internal/cluster/fake"
)

// storedCells returns the stored cells of keys since a cell.
func storedCells(t rapid.TB, s *Store, from int64, ids ...string) (list []askedCell) {
	t.Helper()
	err := s.View(func(tx *Tx) error {
		list = nil
		return eachCell(tx, minuteDays(tx), ids, from, func(at int64, c cellCount) { list = append(list, askedCell{at, c}) })
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// minutesNow returns the record of all rows, which must say how large they are.
func minutesNow(t rapid.TB, s *Store) (m *minutesRecord) {
	t.Helper()
	err := s.View(func(tx *Tx) (err error) {
		if m, err = readMinutesRecord(tx); err == nil && m != nil && m.bytes != sizeOfMinutes(tx) {
			t.Errorf("the record says %d bytes, the rows have %d", m.bytes, sizeOfMinutes(tx))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestHourCounts writes cells and reads them back, also twice, which adds them up.
func TestHourCounts(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var h, twice hourCounts
		for range rapid.IntRange(0, 30).Draw(rt, "runs") {
			at, run := rapid.IntRange(0, int(hourCells)-1).Draw(rt, "at"), rapid.SampledFrom([]int{1, 1, 2, 40}).Draw(rt, "run")
			c := cellCount{rapid.SampledFrom([]uint32{1, 1, 5, 300, 1 << 31}).Draw(rt, "asked"), rapid.SampledFrom([]uint32{0, 0, 1, 1 << 31}).Draw(rt, "refused")}
			for i := at; i < min(at+run, len(h)); i++ {
				h[i] = c
			}
		}
		packed := h.appendTo(nil)
		var back hourCounts
		if err := back.read(packed); err != nil || back != h {
			rt.Fatalf("got other cells back, %v", err)
		}
		for range 2 {
			if err := twice.read(packed); err != nil {
				rt.Fatal(err)
			}
		}
		for i := range h {
			if want := addCapped(h[i].asked, uint64(h[i].asked)); twice[i].asked != want {
				rt.Fatalf("cell %d: got %d, want %d", i, twice[i].asked, want)
			}
		}
		if len(packed) > 0 {
			if err := new(hourCounts).read(packed[:len(packed)-1]); err == nil {
				rt.Fatal("a cut row was read")
			}
		}
	})
	for _, bad := range []string{"\xff", "\x00", "\x02\x01\x00", "\x02\x01\xc1\x07", "\x80\x1e\x01", "\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01\x01"} {
		if err := new(hourCounts).read([]byte(bad)); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

// TestMinutes_Random notes what keys ask for, stores it by turns and opens the store again. All is
// there once.
func TestMinutes_Random(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		store := newTestStore(t)
		h, now := NewHistory(store), epoch
		want := map[string]map[int64]cellCount{}
		for range rapid.IntRange(1, 40).Draw(rt, "steps") {
			switch rapid.SampledFrom([]string{"ask", "ask", "ask", "flush", "restart"}).Draw(rt, "step") {
			case "ask":
				now = now.Add(time.Duration(rapid.SampledFrom([]int64{0, int64(time.Second), int64(time.Minute), int64(5 * time.Hour), int64(26 * time.Hour)}).Draw(rt, "wait")))
				key := rapid.SampledFrom([]string{"key_a", "key_ab", "key_b"}).Draw(rt, "key")
				asked := Asked{now, rapid.IntRange(0, 3).Draw(rt, "units"), 0}
				asked.Charged = rapid.IntRange(0, asked.Units).Draw(rt, "charged")
				if rapid.Bool().Draw(rt, "with a request") {
					h.NoteBy(nil, CountedRequest{key, "/x", "", 200, now}, asked)
				} else {
					h.NoteAsked(nil, key, asked)
				}
				if asked.Units > 0 {
					if want[key] == nil {
						want[key] = map[int64]cellCount{}
					}
					c := want[key][CellOf(now)]
					c.add(cellCount{uint32(asked.Units), uint32(asked.Units - asked.Charged)})
					want[key][CellOf(now)] = c
				}
			case "restart":
				if err := h.Flush(); err != nil {
					rt.Fatal(err)
				}
				store = reopen(t, store)
				h = NewHistory(store)
			default:
				if err := h.Flush(); err != nil {
					rt.Fatal(err)
				}
			}
		}
		if err := h.Flush(); err != nil || h.cells.Load() != 0 {
			rt.Fatalf("%d cells are in memory, %v", h.cells.Load(), err)
		}
		together := map[int64]cellCount{}
		for key, cells := range want {
			got := storedCells(rt, store, 0, key)
			if !slices.IsSortedFunc(got, func(a, b askedCell) int { return int(a.at - b.at) }) || len(got) != len(cells) {
				rt.Fatalf("%s: got %v, want %v", key, got, cells)
			}
			for _, c := range got {
				if cells[c.at] != c.cellCount {
					rt.Fatalf("%s: got %v, want %v", key, c, cells[c.at])
				}
				sum := together[c.at]
				sum.add(c.cellCount)
				together[c.at] = sum
			}
		}
		for _, c := range storedCells(rt, store, 0, slices.Collect(maps.Keys(want))...) {
			if together[c.at] != c.cellCount {
				rt.Fatalf("together: got %v, want %v", c, together[c.at])
			}
			delete(together, c.at)
		}
		if len(together) > 0 {
			rt.Fatalf("%v are missing", together)
		}
		minutesNow(rt, store)
		_ = store.View(func(tx *Tx) error {
			if got := minuteKeys(tx, minuteDays(tx)); !slices.Equal(got, slices.Sorted(maps.Keys(want))) {
				rt.Fatalf("got the keys %v", got)
			}
			return nil
		})
	})
}

// TestMinutes_Bound stores more than there is room for. The rows never need more, what is left out
// is counted, and a sweep makes room by deleting the oldest day.
func TestMinutes_Bound(t *testing.T) {
	s := newTestStore(t)
	const most = 4000
	s.SetBounds(Bounds{MinutesBytes: most, MinutesKeep: 7 * 24 * time.Hour})
	h, asked := NewHistory(s), uint64(0)
	hour := func(at time.Time, keys int) {
		t.Helper()
		for i := range 120 {
			for k := range keys {
				h.NoteAsked(nil, fmt.Sprint("key_", k), Asked{at.Add(time.Duration(i) * 8 * time.Second), 1 + i%7, 1})
				asked += uint64(1 + i%7)
			}
		}
		if err := h.Flush(); err != nil {
			t.Fatal(err)
		}
		if m := minutesNow(t, s); m.bytes > most {
			t.Errorf("the rows have %d bytes, more than %d", m.bytes, most)
		}
	}
	hour(epoch, 5)
	hour(epoch.Add(24*time.Hour), 3)
	if m := minutesNow(t, s); len(m.left) != 0 || m.from != CellOf(epoch) {
		t.Fatalf("left out before the bound: %v", m)
	}
	hour(epoch.Add(48*time.Hour), 12)
	m, kept := minutesNow(t, s), uint64(0)
	for k := range 12 {
		for _, c := range storedCells(t, s, 0, fmt.Sprint("key_", k)) {
			kept += uint64(c.asked)
		}
	}
	if left := m.leftSince(0); left == 0 || kept+left != asked {
		t.Errorf("%d are stored and %d left out of %d", kept, left, asked)
	}
	now := epoch.Add(48 * time.Hour)
	if err := h.SweepMinutes(now); err != nil {
		t.Fatal(err)
	}
	m = minutesNow(t, s)
	if m.bytes > most-most/8 || m.from <= CellOf(epoch.Add(time.Hour)) || m.from > CellOf(now) || m.leftSince(0) == 0 {
		t.Errorf("after a sweep: got %+v", m)
	}
	if err := h.SweepMinutes(epoch.Add(30 * 24 * time.Hour)); err != nil {
		t.Fatal(err)
	}
	if m := minutesNow(t, s); m.bytes != 0 || m.leftSince(0) != 0 || len(storedCells(t, s, 0, "key_0")) != 0 {
		t.Errorf("after a month: got %+v", m)
	}
}

// TestMinutes_Memory has no room for more cells in memory. What is asked for then is counted as
// left out.
func TestMinutes_Memory(t *testing.T) {
	s := newTestStore(t)
	h := NewHistory(s)
	h.NoteAsked(nil, "key_a", Asked{epoch, 2, 2})
	h.cells.Add(maxCells)
	h.NoteAsked(nil, "key_a", Asked{epoch.Add(time.Minute), 3, 3})
	h.cells.Add(-maxCells)
	if err := h.Flush(); err != nil {
		t.Fatal(err)
	}
	if got := storedCells(t, s, 0, "key_a"); len(got) != 1 || got[0].asked != 2 || minutesNow(t, s).leftSince(0) != 3 {
		t.Errorf("got %v and %d left out", got, minutesNow(t, s).leftSince(0))
	}
}

// TestMinutes_Alternating has requests that end in another order than they began. Each cell is in
// memory once.
func TestMinutes_Alternating(t *testing.T) {
	s := newTestStore(t)
	h := NewHistory(s)
	for i := range 1000 {
		h.NoteAsked(nil, "key_a", Asked{epoch.Add(time.Duration(5-i%6) * CellSpan), 1, 1})
	}
	if n := h.cells.Load(); n != 6 {
		t.Errorf("%d cells are in memory, want 6", n)
	}
	if err := h.Flush(); err != nil {
		t.Fatal(err)
	}
	got := storedCells(t, s, 0, "key_a")
	if len(got) != 6 || got[0].asked != 166 || got[5].asked != 167 || minutesNow(t, s).from != CellOf(epoch) {
		t.Errorf("got %v", got)
	}
}

// A row or a record that cannot be read is replaced, and the others stay.
func TestMinutes_Damaged(t *testing.T) {
	s := newTestStore(t)
	h := NewHistory(s)
	note := func() {
		for _, key := range []string{"key_bad", "key_good"} {
			h.NoteAsked(nil, key, Asked{epoch, 1, 1})
		}
	}
	for i, row := range [][]byte{minuteRow(CellOf(epoch), "key_bad"), minutesRecordKey} {
		note()
		if err := h.Flush(); err != nil {
			t.Fatal(err)
		}
		if err := s.Update(func(tx *Tx) error { return tx.Put(minutesBucket, row, []byte{255}) }); err != nil {
			t.Fatal(err)
		}
		note()
		if err := h.Flush(); err == nil || !strings.Contains(err.Error(), "damaged") {
			t.Errorf("got %v", err)
		}
		if got := storedCells(t, s, 0, "key_good"); len(got) != 1 || int(got[0].asked) != 2*i+2 {
			t.Errorf("got %v", got)
		}
		if i == 1 {
			minutesNow(t, s)
		}
	}
}

// Two nodes store what the same key has asked for in the same cells. Both count.
func TestMinutes_Cluster(t *testing.T) {
	log := fake.New(1, 0)
	faults := fake.Faults{Moved: 0.1, Unsure: 0.1, Gap: 0.02}
	n := []*testNode{newTestNode(t, log, "a", faults), newTestNode(t, log, "b", faults)}
	for round := range 5 {
		for _, one := range n {
			one.history.NoteAsked(nil, "key_a", Asked{epoch.Add(time.Duration(round) * time.Second), 2, 1})
		}
		for _, one := range n {
			if err := one.history.Flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	sameViews(t, log, n[0].Store, n[1].Store)
	sum := cellCount{}
	for _, c := range storedCells(t, n[0].Store, 0, "key_a") {
		sum.add(c.cellCount)
	}
	if sum != (cellCount{20, 10}) {
		t.Errorf("got %v", sum)
	}
	minutesNow(t, n[0].Store)
}
