package main

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// undoItem is a record with an index, a sequence, a count and what lists need.
type undoItem struct {
	ID   uint64 `json:"id"`
	Tag  string `json:"tag"`
	Text string `json:"text"`
}

func undoTable(name string) Table[undoItem] {
	return Table[undoItem]{
		Name: name, Key: func(i undoItem) []byte { return IDKey(i.ID) },
		Indexes: []Index[undoItem]{{"tag", func(i undoItem) [][]byte { return [][]byte{[]byte(i.Tag)} }}},
		List: &Listing[undoItem]{
			Sets:  []Index[undoItem]{{"tag", func(i undoItem) [][]byte { return [][]byte{[]byte(i.Tag)} }}},
			Order: func(i undoItem) uint64 { return uint64(len(i.Text)) },
			Text:  func(i undoItem) []string { return []string{i.Tag, i.Text[:min(len(i.Text), 1)]} },
		},
		Rows: &RowList[undoItem]{
			Row:   func(i undoItem) []byte { return fmt.Append(nil, i.ID, i.Tag, len(i.Text)) },
			Value: func(_ *Tx, key []byte) (uint64, error) { return uint64(key[7]), nil },
		},
	}
}

// undoStep is a write of a change in TestStore_Undo.
type undoStep struct {
	kind  int
	table string
	id    uint64
	size  int
}

// do makes the write.
func (u undoStep) do(tx *Tx) error {
	table, key := undoTable(u.table), IDKey(u.id)
	switch u.kind {
	case 0:
		return table.Put(tx, undoItem{u.id, fmt.Sprint(u.size % 5), string(make([]byte, u.size))})
	case 1:
		if err := table.Delete(tx, key); err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		return nil
	case 2:
		id, err := table.NextID(tx)
		if err != nil {
			return err
		}
		return table.Put(tx, undoItem{id, "next", ""})
	case 3:
		return tx.PutRaw(u.table+"/raw", key, nil) // an empty value is not a missing one
	case 5: // a list, before which the changed data of lists is stored
		_, _, err := table.Page(tx, Query{}, func(n int) (int, int) { return 0, min(n, 2) })
		return err
	}
	return tx.Delete(u.table+"/raw", key)
}

// undoChange is a change in TestStore_Undo.
type undoChange struct {
	by     Writer
	steps  []undoStep
	fails  bool
	lost   bool // it also cannot be undone alone
	runs   int
	afters int
	err    error
}

var errFails = errors.New("fails as it should")

func (c *undoChange) run(tx *Tx) error {
	c.runs++
	tx.After(func() { c.afters++ })
	for _, step := range c.steps {
		if err := step.do(tx); err != nil {
			return err
		}
	}
	if c.lost {
		tx.undo.Lost = true
	}
	if c.fails {
		return errFails
	}
	return nil
}

// everything lists everything in a store: buckets, sequences, keys and values. It also
// has bbolt check its pages.
func everything(t interface{ Fatal(...any) }, s *Store) (list []string) {
	err := s.View(func(tx *Tx) error {
		for err := range tx.Bolt.Check() {
			return err
		}
		names := tx.Bolt.Cursor()
		for name, _ := names.First(); name != nil; name, _ = names.Next() {
			if first, _ := tx.Bolt.Bucket(name).Cursor().First(); string(name) == "header" || isListBucket(string(name)) && first == nil {
				continue // a change that is undone may leave an empty bucket for lists
			}
			list = append(list, fmt.Sprintf("%s: sequence %d", name, tx.Bolt.Bucket(name).Sequence()))
		}
		return tx.Walk(func(bucket string, key, stored []byte) error {
			if bucket != "header" {
				list = append(list, fmt.Sprintf("%s/%x = %x", bucket, key, stored))
			}
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// TestStore_Undo makes batches of random changes of which some fail after any number of
// writes. What is stored must be what the others alone store one by one. A change that
// fails has the others run no second time; one that cannot be undone alone has them run
// once more at most.
func TestStore_Undo(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s, want := newTestStore(t), newTestStore(t)
		step := rapid.Custom(func(rt *rapid.T) undoStep {
			return undoStep{rapid.IntRange(0, 5).Draw(rt, "kind"), rapid.SampledFrom([]string{"a", "b", "c"}).Draw(rt, "table"),
				rapid.Uint64Range(1, 6).Draw(rt, "id"), rapid.SampledFrom([]int{1, 40, 3000, 9000}).Draw(rt, "size")}
		})
		owner := rapid.Uint64Range(0, 3).Draw(rt, "owners")
		for range rapid.IntRange(1, 3).Draw(rt, "batches") {
			var changes []*undoChange
			for range rapid.IntRange(1, 12).Draw(rt, "changes") {
				c := &undoChange{by: Writer{Owner: owner}, steps: rapid.SliceOfN(step, 0, 12).Draw(rt, "steps"), fails: rapid.Bool().Draw(rt, "fails")}
				c.lost = c.fails && rapid.IntRange(0, 9).Draw(rt, "lost") == 0
				changes = append(changes, c)
			}
			var done sync.WaitGroup
			s.mu.Lock() // so that the committer finds them all
			for _, c := range changes {
				done.Add(1)
				s.queue.push(&change{by: c.by, run: c.run, done: func(err error) { c.err = err; done.Done() }})
			}
			s.mu.Unlock()
			s.wake <- struct{}{}
			done.Wait()
			lost := false
			for i, c := range changes {
				lost = lost || c.lost
				if c.fails != errors.Is(c.err, errFails) || !c.fails && c.err != nil {
					rt.Fatalf("change %d: got error %v, want failed to be %v", i, c.err, c.fails)
				}
				if c.runs < 1 || c.runs > 2 || c.runs > 1 && (!slices.ContainsFunc(changes[i:], func(c *undoChange) bool { return c.lost }) || c.lost) {
					rt.Fatalf("change %d ran %d times", i, c.runs)
				}
				if stored := !c.fails; stored != (c.afters == 1) || c.afters > 1 {
					rt.Fatalf("change %d, failed %v: After called %d times", i, c.fails, c.afters)
				}
				if !c.fails {
					alone := *c
					if err := want.Update(alone.run); err != nil {
						rt.Fatal(err)
					}
				}
			}
		}
		if got, want := everything(rt, s), everything(rt, want); !slices.Equal(got, want) {
			rt.Fatalf("got\n%q\nwant\n%q", got, want)
		}
	})
}

// TestStore_UndoMany has a change fail after more writes than an undoLog holds, and
// another one after fewer.
func TestStore_UndoMany(t *testing.T) {
	s := newTestStore(t)
	boom := errors.New("boom")
	runs := make([]int, 4)
	results := make([]error, 4)
	var done sync.WaitGroup
	s.mu.Lock()
	for i, writes := range []int{1, 10, maxUndo + 1, 1} {
		done.Add(1)
		s.queue.push(&change{run: func(tx *Tx) error {
			runs[i]++
			for n := range writes {
				if err := tx.PutRaw("b", IDKey(uint64(i*maxUndo+n)), []byte("x")); err != nil {
					return err
				}
			}
			if writes > 1 {
				return boom
			}
			return nil
		}, done: func(err error) { results[i] = err; done.Done() }})
	}
	s.mu.Unlock()
	s.wake <- struct{}{}
	done.Wait()
	count := 0
	_ = s.View(func(tx *Tx) error { count = tx.Count("b"); return nil })
	if fmt.Sprint(results) != "[<nil> boom boom <nil>]" || count != 2 {
		t.Errorf("got %v with %d records; want only the second and the third to fail and 2 records", results, count)
	}
	if runs[0] > 2 || runs[1] > 2 || runs[2] != 1 || runs[3] != 1 {
		t.Errorf("the changes ran %v times; want the first two at most twice and the others once", runs)
	}
}

// TestQueue_Model pushes changes of random owners and costs while batches are made, and
// compares with the rules: nothing is lost, the changes of an owner stay in order, no
// bound is exceeded by more than the last change, and those ahead are ahead.
func TestQueue_Model(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		q := &changeQueue{}
		waiting := map[Writer][]*change{}
		costs := map[*change]cost{}
		pushed, taken := 0, 0
		push := func() {
			by := Writer{Owner: rapid.Uint64Range(0, 4).Draw(rt, "owner")}
			if rapid.IntRange(0, 7).Draw(rt, "ahead") == 0 {
				by = Writer{Ahead: true}
			}
			c := &change{by: by}
			costs[c] = cost{1, rapid.SampledFrom([]int{10, 1000, 200 << 10, 3 << 20}).Draw(rt, "bytes"), rapid.SampledFrom([]time.Duration{1e3, 1e5, 3e6, 5e7}).Draw(rt, "took")}
			if by.Ahead {
				costs[c] = cost{1, 100, 1e4}
			}
			waiting[by] = append(waiting[by], c)
			q.push(c)
			pushed++
		}
		for step := 0; step < 60 || q.length > 0; step++ {
			for step < 60 && rapid.IntRange(0, 2).Draw(rt, "more") > 0 {
				push()
			}
			b := q.begin()
			if (b == nil) != (pushed == taken) {
				rt.Fatalf("batch %v with %d changes waiting", b, pushed-taken)
			}
			if b == nil {
				continue
			}
			used, turns := cost{}, map[uint64]cost{}
			for i := 0; i < len(b.changes); i++ {
				c := b.changes[i]
				if waiting[c.by][0] != c {
					rt.Fatalf("a change of %+v came before another one of its line", c.by)
				}
				if used.reached(batchBound) {
					rt.Fatalf("a batch with %+v takes more", used)
				}
				shared := len(turns) > 1 || b.alone != nil
				if !c.by.Ahead && (shared && turns[c.by.Owner].reached(turnBound) || len(waiting[Writer{Ahead: true}]) > 0) {
					rt.Fatalf("owner %d had %+v and gets another turn, %d are ahead", c.by.Owner, turns[c.by.Owner], len(waiting[Writer{Ahead: true}]))
				}
				waiting[c.by] = waiting[c.by][1:]
				taken++
				used = used.add(costs[c])
				if !c.by.Ahead {
					turns[c.by.Owner] = turns[c.by.Owner].add(costs[c])
				}
				if b.alone != nil && !c.by.Ahead && c.by.Owner != b.alone.owner {
					rt.Fatalf("owner %d shares the batch of the heavy owner %d", c.by.Owner, b.alone.owner)
				}
				if rapid.IntRange(0, 3).Draw(rt, "meanwhile") == 0 && step < 60 {
					push()
				}
				q.paid(b, costs[c])
				q.next(b)
			}
			b.closed = true
			if rapid.Bool().Draw(rt, "during the commit") && step < 60 {
				push()
			}
			q.end(b)
			if _, waits := q.oldest(); waits != (q.length > 0) || q.length != pushed-taken {
				rt.Fatalf("%d waiting, oldest %v; want %d", q.length, waits, pushed-taken)
			}
		}
		if taken != pushed {
			rt.Fatalf("%d of %d changes were made", taken, pushed)
		}
	})
}

// TestQueue_Turns has a quiet owner queue a change behind heavy owners with many. It
// must share one of the next two batches, however many heavy owners there are.
func TestQueue_Turns(t *testing.T) {
	for _, heavies := range []int{1, 2, 5} {
		q := &changeQueue{}
		slow := cost{1, 100, 50 * time.Millisecond}
		for range 20 {
			for owner := range heavies {
				q.push(&change{by: Writer{Owner: uint64(owner + 1)}})
			}
		}
		run := func() (owners map[uint64]int) {
			owners = map[uint64]int{}
			b := q.begin()
			for i := 0; i < len(b.changes); i++ {
				owners[b.changes[i].by.Owner]++
				c := cost{1, 100, time.Microsecond}
				if b.changes[i].by.Owner < 100 {
					c = slow
				}
				q.paid(b, c)
				q.next(b)
			}
			q.end(b)
			return owners
		}
		for range heavies {
			run() // now they are known to be heavy
		}
		for round := range 8 {
			q.push(&change{by: Writer{Owner: 100}})
			q.push(&change{by: Writer{Owner: 101}})
			first, second := run(), map[uint64]int{}
			if first[100] == 0 {
				second = run()
			}
			if light := max(first[100]+first[101], second[100]+second[101]); light != 2 {
				t.Fatalf("%d heavy owners, round %d: got batches %v and %v, want both changes of the quiet owners in one of them", heavies, round, first, second)
			}
			if len(first) > 2 || len(second) > 2 || first[100] > 0 && len(first) != 2 || second[100] > 0 && len(second) != 2 {
				t.Fatalf("%d heavy owners, round %d: got batches %v and %v, want no heavy change with the quiet ones", heavies, round, first, second)
			}
		}
		order := map[uint64]int{}
		for range heavies {
			for owner := range run() {
				order[owner]++
			}
		}
		if len(order) != heavies {
			t.Errorf("%d heavy owners: the next batches are of %v; want one of each", heavies, order)
		}
	}
}

// TestStore_Turns has one owner queue 200 changes of 300 KB and another one a small one
// last. That one must not wait for more than a few of the large ones, nor may a reserve.
func TestStore_Turns(t *testing.T) {
	s := newTestStore(t)
	var large, before, aheadBefore atomic.Int64
	var done sync.WaitGroup
	push := func(by Writer, size int, then func()) {
		done.Add(1)
		s.queue.push(&change{by: by, run: func(tx *Tx) error { return tx.PutRaw("b", IDKey(by.Owner), make([]byte, size)) }, done: func(err error) {
			if err != nil {
				t.Error(err)
			}
			then()
			done.Done()
		}})
	}
	s.mu.Lock() // so that the committer finds them all
	for range 200 {
		push(Writer{Owner: 1}, 300_000, func() { large.Add(1) })
	}
	push(Writer{Owner: 2}, 100, func() { before.Store(large.Load()) })
	push(Writer{Ahead: true}, 100, func() { aheadBefore.Store(large.Load()) })
	s.mu.Unlock()
	s.wake <- struct{}{}
	done.Wait()
	if before.Load() > 4 || aheadBefore.Load() > 0 { // 4 of them reach the bound of a turn, 1 MiB
		t.Errorf("the small change waited for %d large ones, the one ahead for %d; want at most 4 and 0", before.Load(), aheadBefore.Load())
	}
}

// TestLimiter_Lines checks in whose line the writes of limits wait: that of a long limit
// in the line of the key's owner, a reserve ahead of all turns.
func TestLimiter_Lines(t *testing.T) {
	s := newTestStore(t)
	l := NewLimiter(s, epoch)
	hold, held := make(chan bool), make(chan bool)
	go func() { _ = s.UpdateBy(Writer{Owner: 1}, func(*Tx) error { close(held); <-hold; return nil }) }()
	<-held
	var done sync.WaitGroup
	spend := func(limit Limit) {
		done.Go(func() {
			if _, err := l.SpendAll([]Charge{{ID: limit.Name, Limit: limit, Cost: 1, Owner: 7}}, epoch, nil); err != nil {
				t.Error(err)
			}
		})
	}
	spend(Limit{"long", 5, 24 * time.Hour})
	spend(Limit{"short", 5, time.Minute})
	owned, ahead := 0, 0
	for deadline := time.Now().Add(time.Minute); owned+ahead < 2 && time.Now().Before(deadline); runtime.Gosched() {
		s.mu.Lock()
		if ahead = len(s.queue.ahead.waiting); s.queue.lines[7] != nil {
			owned = len(s.queue.lines[7].waiting)
		}
		s.mu.Unlock()
	}
	if changes, longest := s.Waiting(); owned != 1 || ahead != 1 || changes != 2 || longest <= 0 {
		t.Errorf("%d changes wait in the line of the owner and %d ahead, Waiting returns %d, %s; want 1, 1, 2 and some time", owned, ahead, changes, longest)
	}
	close(hold)
	done.Wait()
}

// TestTx_Yield checks that a read transaction lets others run after each yieldBytes, and
// that a change, for which everybody waits, does not.
func TestTx_Yield(t *testing.T) {
	s := newTestStore(t)
	table := undoTable("y")
	read := func(tx *Tx) (highest int) {
		for _, err := range table.All(tx, Forward) {
			if err != nil {
				t.Fatal(err)
			}
			highest = max(highest, tx.decoded)
		}
		return highest
	}
	err := s.Update(func(tx *Tx) error {
		for id := range uint64(40) {
			if err := table.Put(tx, undoItem{id + 1, "a", strings.Repeat("x", 10_000)}); err != nil {
				return err
			}
		}
		if got := read(tx); got < 400_000 {
			t.Errorf("a change has decoded %d bytes without a pause, want all 400,000", got)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	_ = s.View(func(tx *Tx) error {
		if got := read(tx); got < 10_000 || got >= yieldBytes {
			t.Errorf("a read transaction has decoded up to %d bytes without a pause, want less than %d", got, yieldBytes)
		}
		return nil
	})
}

// TestQueue_Forgets ends batches of lines of every kind: those about which there is nothing to remember are forgotten.
func TestQueue_Forgets(t *testing.T) {
	heavy := cost{bytes: heavyBound.bytes, took: heavyBound.took}
	for _, tt := range []struct {
		line line
		kept bool
	}{
		{line{}, false}, {line{listed: true}, true}, {line{average: cost{bytes: heavy.bytes}}, true}, {line{average: cost{took: heavy.took}}, true},
		{line{average: cost{bytes: heavy.bytes / 16}}, true}, {line{average: cost{took: heavy.took / 16}}, true},
		{line{average: cost{bytes: heavy.bytes/16 - 1, took: heavy.took/16 - 1}}, false},
	} {
		tt.line.owner = 7
		q := changeQueue{lines: map[uint64]*line{7: &tt.line, 8: {owner: 8}}}
		q.end(&commitBatch{changes: []*change{{by: Writer{Owner: 7}}, {by: Writer{Owner: 9}}}})
		if _, kept := q.lines[7]; kept != tt.kept || q.lines[8] == nil {
			t.Errorf("%+v: kept %t, want %t", tt.line, kept, tt.kept)
		}
	}
}
