package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"latchkey/internal/cluster"
	"latchkey/internal/cluster/fake"
)

// newShared returns an empty store that is shared over an engine.
func newShared(t testing.TB, o ShareOptions) *Store {
	t.Helper()
	path := filepath.Join(t.TempDir(), "view.db")
	if err := CreateStore(path, "test", epoch); err != nil {
		t.Fatal(err)
	}
	ownStores.Store(path, true) // no shadow
	s, err := OpenStore(path, nil)
	if err == nil {
		o.Tables = []Checked{&itemTable, &thingTable}
		err = ShareStore(s, o)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ownStores.Delete(path)
		_ = s.Close()
	})
	return s
}

// sameViews compares views, once all have the last state.
func sameViews(t *testing.T, log *fake.Log, stores ...*Store) {
	t.Helper()
	for _, s := range stores {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		err := s.Reach(ctx, log.Head())
		cancel()
		if err != nil {
			t.Fatal(errors.Join(err, s.Err()))
		}
		if s != stores[0] {
			compareViews(stores[0], s)
		}
	}
}

// TestOpenStore_Shared opens a store in a test that shares its stores, see shareOpened.
func TestOpenStore_Shared(t *testing.T) {
	t.Setenv("LATCHKEY_TEST_ENGINE", "fake")
	if s := newTestStore(t); s.replica == nil {
		t.Error("the store is not shared")
	}
}

// TestShare_Views lets three nodes change the same records at once, over an engine that makes mistakes. Each change is made
// once, and all views are equal.
func TestShare_Views(t *testing.T) {
	log := fake.New(1, 0)
	var stores []*Store
	for _, name := range []string{"a", "b", "c"} {
		stores = append(stores, newShared(t, ShareOptions{Engine: log.Engine(fake.Faults{Moved: 0.1, Unsure: 0.1, Gap: 0.02, Delay: 0.1}), Node: name}))
	}
	const each = 40
	counter := []byte("sum")
	var running sync.WaitGroup
	for _, s := range stores {
		for range 4 {
			running.Go(func() {
				for i := range each {
					err := s.Update(func(tx *Tx) error {
						id, err := itemTable.NextID(tx)
						if err != nil {
							return err
						}
						value, err := tx.Get("sums", counter)
						if err != nil {
							return err
						}
						sum := uint64(0)
						if value != nil {
							sum = binary.BigEndian.Uint64(value)
						}
						return errors.Join(tx.Put("sums", counter, IDKey(sum+1)), itemTable.Put(tx, item{ID: id, Fields: []string{fmt.Sprint("item ", i)}}))
					})
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	running.Wait()
	sameViews(t, log, stores...)
	err := stores[1].View(func(tx *Tx) error {
		value, err := tx.Get("sums", counter)
		n, countErr := itemTable.Count(tx)
		if want := 3 * 4 * each; err == nil && (binary.BigEndian.Uint64(value) != uint64(want) || n != want) {
			t.Errorf("got %d changes and %d records, want %d", binary.BigEndian.Uint64(value), n, want)
		}
		return errors.Join(err, countErr)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// deaf is an Engine whose Commit returns an error, after it has made the change or not.
type deaf struct {
	cluster.Engine
	err  error
	made bool
}

// Commit implements cluster.Engine.
func (e *deaf) Commit(ctx context.Context, base cluster.Head, set *cluster.Set) (cluster.Head, error) {
	if e.err == nil {
		return e.Engine.Commit(ctx, base, set)
	}
	if e.made {
		if _, err := e.Engine.Commit(ctx, base, set); err != nil {
			return 0, err
		}
	}
	return 0, e.err
}

// TestShare_Errors has an engine that refuses changes, or does not say whether it has made them. The store goes on
// afterwards, and has a change exactly if the engine has.
func TestShare_Errors(t *testing.T) {
	log := fake.New(1, 0)
	engine := &deaf{Engine: log.Engine(fake.Faults{})}
	s := newShared(t, ShareOptions{Engine: engine, Node: "a"})
	put := func(id uint64) error {
		return s.Update(func(tx *Tx) error { return itemTable.Put(tx, item{ID: id, Fields: []string{"x"}}) })
	}
	if err := put(1); err != nil {
		t.Fatal(err)
	}
	engine.err = errors.New("etcd has no space left")
	if err := put(2); Public(err).Code != ErrUnavailable.Code || !strings.Contains(err.Error(), "was not made") {
		t.Errorf("a refused change: got %v", err)
	}
	engine.err = nil
	if err := put(3); err != nil {
		t.Errorf("a change after a refused one: %v", err)
	}
	err := s.View(func(tx *Tx) error {
		for id, want := range map[uint64]bool{1: true, 2: false, 3: true} {
			if _, err := itemTable.Get(tx, IDKey(id)); (err == nil) != want {
				t.Errorf("record %d: got %v, want it to exist: %t", id, err, want)
			}
		}
		return nil
	})
	if err != nil || s.Failing() {
		t.Fatal(err, s.Err())
	}
}

// TestShare_Oversized has changes that write more than a Set can hold. One is refused, and the others of its batch
// are made.
func TestShare_Oversized(t *testing.T) {
	log := fake.New(1, 0)
	s := newShared(t, ShareOptions{Engine: log.Engine(fake.Faults{}), Node: "a", MaxWrites: 10})
	var results []chan error
	for _, n := range []int{1, 8, 20, 1, 9, 3} {
		done := make(chan error, 1)
		results = append(results, done)
		s.Queue(func(tx *Tx) error {
			for range n {
				id, err := itemTable.NextID(tx)
				if err == nil {
					err = itemTable.Put(tx, item{ID: id, Fields: []string{"x"}})
				}
				if err != nil {
					return err
				}
			}
			return nil
		}, func(err error) { done <- err })
	}
	for i, done := range results {
		err := <-done
		var large *Oversized
		if is := errors.As(err, &large); is != (i == 2) {
			t.Errorf("change %d: got %v", i, err)
		}
		if large != nil && (large.Share < 0.4 || large.Share > 0.5) {
			t.Errorf("got the share %v, want nearly half", large.Share)
		}
	}
	err := s.View(func(tx *Tx) error {
		if n, err := itemTable.Count(tx); n != 1+8+1+9+3 || err != nil {
			t.Errorf("got %d records, %v; want %d", n, err, 1+8+1+9+3)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestOpenView loads views, and finds out which of those that exist can be used.
func TestOpenView(t *testing.T) {
	log := fake.New(1, 0)
	s := newShared(t, ShareOptions{Engine: log.Engine(fake.Faults{}), Node: "a"})
	for i := range uint64(300) {
		err := s.Update(func(tx *Tx) error {
			id, err := itemTable.NextID(tx)
			return errors.Join(err, itemTable.Put(tx, item{ID: id, Fields: []string{fmt.Sprint("item ", i)}}))
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(t.TempDir(), "view.db")
	reason, boot, created := "", "one", epoch
	steps := map[string]bool{} // of which progress was reported
	open := func(id string) (kept string, err error) {
		reason = ""
		return OpenView(t.Context(), path, ViewOptions{
			Engine: log.Engine(fake.Faults{}), StoreID: id, CreatedAt: created, Boot: boot, Tables: []Checked{&itemTable, &thingTable},
			Fits: func(*File) error { return nil }, Now: epoch, Loading: func(why string) { reason = why },
			Progress: func(step string, _, _ int64) error { steps[step] = true; return nil },
		})
	}
	want := func(what, because string, keeps bool) {
		t.Helper()
		kept, err := open("test")
		if err != nil || !strings.Contains(reason, because) || because == "" && reason != "" || (kept != "") != keeps {
			t.Fatalf("%s: got %q, kept %q, %v; want %q", what, reason, kept, err, because)
		}
		ownStores.Store(path, true)
		defer ownStores.Delete(path)
		view, err := OpenStore(path, nil)
		if err == nil {
			err = ShareStore(view, ShareOptions{Engine: log.Engine(fake.Faults{}), Node: "b", Tables: []Checked{&itemTable, &thingTable}, Mark: ViewMark(path)})
		}
		if err != nil {
			t.Fatal(err)
		}
		sameViews(t, log, s, view)
		if err := view.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(ViewMark(path)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: the mark is left after a clean end: %v", what, err)
		}
	}
	want("no file", "no records yet", false)
	if !steps["making indexes and lists"] || !steps["storing indexes and lists"] {
		t.Errorf("got progress of %v, want all steps that take long", slices.Collect(maps.Keys(steps)))
	}
	want("after a clean end", "", false)
	if err := markView(ViewMark(path), "one"); err != nil {
		t.Fatal(err)
	}
	want("the process has crashed", "", false)
	if err := markView(ViewMark(path), "zero"); err != nil {
		t.Fatal(err)
	}
	want("the machine has crashed", "has stopped", false)
	created = epoch.Add(time.Second)
	want("the view of a cluster before this one", "made anew", false)
	if err := os.WriteFile(path, []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	want("a damaged file", "cannot be read", true)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := CreateStore(path, "test", epoch); err != nil {
		t.Fatal(err)
	}
	want("a database of a server that was alone", "before the cluster", true)
	if _, err := open("another"); err == nil || !strings.Contains(err.Error(), "another store") {
		t.Errorf("the view of another store: got %v", err)
	}
}

// badLoad is an engine with a record that no file can have.
type badLoad struct {
	cluster.Engine
	write cluster.Write
}

func (e badLoad) Load(_ context.Context, put func(cluster.Write) error) (cluster.Head, error) {
	return 1, put(e.write)
}

// TestOpenView_Refused loads records that cannot be stored: this is an error, and no file is left.
func TestOpenView_Refused(t *testing.T) {
	for name, w := range map[string]cluster.Write{
		"no bucket":            {Bucket: "", Key: []byte("k"), Value: []byte("v")},
		"no key":               {Bucket: "b", Value: []byte("v")},
		"a key that is long":   {Bucket: "b", Key: make([]byte, 1<<16), Value: []byte("v")},
		"a sequence of no one": {Bucket: sequenceBucket, Value: make([]byte, 8)},
		"no sequence":          {Bucket: sequenceBucket, Key: []byte("b"), Value: []byte("v")},
	} {
		path := filepath.Join(t.TempDir(), "view.db")
		_, err := OpenView(t.Context(), path, ViewOptions{
			Engine: badLoad{fake.New(1, 0).Engine(fake.Faults{}), w}, StoreID: "test", CreatedAt: epoch, Boot: "one", Tables: []Checked{&itemTable},
			Fits: func(*File) error { return nil }, Now: epoch, Loading: func(string) {},
		})
		if err == nil {
			t.Errorf("%s: got no error", name)
		}
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: a file is left: %v", name, err)
		}
	}
}

// TestOpenView_NotMarked cannot mark the view as in use: this is an error, and the view does not come into use.
func TestOpenView_NotMarked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "view.db")
	_, err := OpenView(t.Context(), path, ViewOptions{
		Engine: fake.New(1, 0).Engine(fake.Faults{}), StoreID: "test", CreatedAt: epoch, Boot: "one", Tables: []Checked{&itemTable},
		Fits: func(*File) error { return os.Mkdir(ViewMark(path), 0o700) }, Now: epoch, Loading: func(string) {},
	})
	if err == nil {
		t.Error("got no error")
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got a view: %v", err)
	}
}

// BenchmarkOpenView loads a view with 200,000 records, each with an index entry, sets and a searched text. The
// records come from memory, so it measures what the node does with them.
func BenchmarkOpenView(b *testing.B) {
	const records = 200_000
	log := fake.New(1, 0)
	s := newShared(b, ShareOptions{Engine: log.Engine(fake.Faults{}), Node: "a", MaxWrites: 1 << 20, MaxBytes: 1 << 30})
	for first := range uint64(records / 10_000) {
		err := s.Update(func(tx *Tx) error {
			for i := range uint64(10_000) {
				id := first*10_000 + i + 1
				if err := itemTable.Put(tx, item{ID: id, Owner: id % 100, Tags: []string{"a"}, At: id, Fields: []string{"Mara Lind", "mara@example.com"}}); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		path := filepath.Join(b.TempDir(), "view.db")
		_, err := OpenView(b.Context(), path, ViewOptions{
			Engine: log.Engine(fake.Faults{}), StoreID: "test", CreatedAt: epoch, Boot: "one", Tables: []Checked{&itemTable}, Fits: func(*File) error { return nil }, Now: epoch,
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(records*float64(b.N)/b.Elapsed().Seconds(), "records/s")
}

// TestShare_CloseFails closes views whose last step fails: the error is returned, and the mark stays, so that the next start
// does not trust the file.
func TestShare_CloseFails(t *testing.T) {
	failed := errors.New("not ended")
	for name, harm := range map[string]func(s *Store){
		"Closed": func(s *Store) { s.replica.(*replica).o.Closed = func() error { return failed } },
		"sync":   func(s *Store) { _ = s.db.Close() },
		"both":   func(s *Store) { s.replica.(*replica).o.Closed = func() error { return failed }; _ = s.db.Close() },
		"none":   func(*Store) {},
	} {
		mark := filepath.Join(t.TempDir(), "mark")
		if err := markView(mark, "boot"); err != nil {
			t.Fatal(err)
		}
		s := newShared(t, ShareOptions{Engine: fake.New(1, 0).Engine(fake.Faults{}), Node: "a", Mark: mark})
		harm(s)
		err := s.Close()
		if (err != nil) != (name != "none") || (name == "Closed" || name == "both") != errors.Is(err, failed) {
			t.Errorf("%s: got %v", name, err)
		}
		if _, err := os.Stat(mark); errors.Is(err, os.ErrNotExist) != (name == "none") {
			t.Errorf("%s: the mark: got %v", name, err)
		}
	}
}

// TestWrittenRecords_Full fills a Set: a batch takes no more changes once more than half of it is used.
func TestWrittenRecords_Full(t *testing.T) {
	value := func(n int) []byte { return make([]byte, n-len("x")-8) } // with its bucket and key n bytes
	w := &writtenRecords{most: writtenMark{4, 200}}
	for i, step := range []struct {
		bytes         int
		full, tooMany bool
	}{{50, false, false}, {50, false, false}, {50, true, false}, {50, true, false}, {50, true, true}} {
		w.note("x", IDKey(uint64(i)), value(step.bytes))
		if w.full() != step.full || w.tooMany() != step.tooMany {
			t.Errorf("after %d records: got %t, %t; want %t, %t", i+1, w.full(), w.tooMany(), step.full, step.tooMany)
		}
	}
	w = &writtenRecords{most: writtenMark{4, 200}}
	if w.note("x", IDKey(1), value(100)); w.full() {
		t.Error("half of the bytes are full")
	}
	if w.note("x", IDKey(1), value(9)); !w.full() || w.tooMany() {
		t.Error("more than half of the bytes are not full")
	}
}

// TestAppliedHead_Damaged starts a view whose position cannot be read: this is an error, and not the position 0.
func TestAppliedHead_Damaged(t *testing.T) {
	s := newTestStore(t)
	for what, stored := range map[string][]byte{"damaged": []byte("damaged"), "short": sealRecord(recordVersion, appliedKey, []byte{1})} {
		if err := s.Update(func(tx *Tx) error { return tx.PutRaw(localBucket, appliedKey, stored) }); err != nil {
			t.Fatal(err)
		}
		err := s.View(func(tx *Tx) error {
			if head, err := appliedHead(tx); err == nil {
				t.Errorf("%s: got %d without an error", what, head)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := ShareStore(s, ShareOptions{Engine: fake.New(1, 0).Engine(fake.Faults{}), Node: "a"}); err == nil {
			t.Fatalf("%s: the store is shared", what)
		}
	}
}

// TestTakeRecord takes what another node has written: a record that is in no table is announced, the value of a row follows
// from a record elsewhere, and a stored record that cannot be read is an error.
func TestTakeRecord(t *testing.T) {
	s, key := newTestStore(t), IDKey(1)
	sealed := func(n uint64) []byte { return sealRecord(recordVersion, key, IDKey(n)) }
	r := &replica{owned: map[string]bool{}}
	err := s.Update(func(tx *Tx) error {
		tx.Changed = nil
		for range 2 {
			if err := r.takeOther(tx, cluster.Write{Bucket: "x", Key: key, Value: sealed(1)}); err != nil {
				return err
			}
		}
		if !slices.Equal(tx.Changed, []string{"x"}) {
			t.Errorf("got the changed buckets %q, want x", tx.Changed)
		}
		return rowTable.Put(tx, thing{ID: 1, Word: "a"})
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []uint64{5, 6, 0} {
		w := cluster.Write{Bucket: "rowed_values", Key: key, Value: sealed(want)}
		if want == 0 {
			w.Value = nil
		}
		err := s.Update(func(tx *Tx) error {
			return errors.Join(r.takeOther(tx, w), takeRowValue(tx, &rowTable, key), takeRowValue(tx, &rowTable, IDKey(2)))
		})
		if err != nil {
			t.Fatal(err)
		}
		err = s.View(func(tx *Tx) error {
			rows, err := (&RowCache[byte]{Facts: func(row []byte) (byte, bool) { return row[0], true }}).Read(t.Context(), tx, rowTable.Name)
			if err != nil {
				return err
			}
			values, err := rows.Values(tx)
			slot, slotErr := RowNumber(tx, rowTable.Name, key)
			if got := values.At(slot); got != want {
				t.Errorf("got the value %d, want %d", got, want)
			}
			return errors.Join(err, slotErr)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	err = s.Update(func(tx *Tx) error {
		good := bytes.Clone(tx.stored(rowTable.Name, key))
		if err := tx.PutRaw(rowTable.Name, key, []byte("damaged")); err != nil {
			return err
		}
		if err := takeRecord(tx, &rowTable, cluster.Write{Bucket: rowTable.Name, Key: key, Value: good}); err == nil {
			t.Error("a record in place of a damaged one is taken, though what follows from that is not known")
		}
		if err := takeRecord(tx, &rowTable, cluster.Write{Bucket: rowTable.Name, Value: good}); err == nil {
			t.Error("a record that cannot be stored is taken")
		}
		return errChange
	})
	if !errors.Is(err, errChange) {
		t.Error(err)
	}
}

// unconfirmed is a cluster.Acknowledger that returns an error.
type unconfirmed struct{ err error }

// Acknowledge implements cluster.Acknowledger.
func (u unconfirmed) Acknowledge(context.Context, cluster.Head) error { return u.err }

// Await implements cluster.Acknowledger.
func (u unconfirmed) Await(context.Context, cluster.Head) (cluster.Effect, error) {
	return cluster.Effect{}, u.err
}

// TestReplica_Confirm makes changes of which the other nodes do not say that they have them: a secure one is not confirmed.
func TestReplica_Confirm(t *testing.T) {
	for _, secure := range []bool{false, true} {
		for _, answer := range []error{nil, errors.New("no answer")} {
			r := &replica{o: ShareOptions{Members: unconfirmed{answer}}, ctx: t.Context(), committed: 7}
			var got error
			c := &change{secure: secure, done: func(err error) { got = err }}
			r.confirm(c)
			r.running.Wait()
			if want := secure && answer != nil; errors.Is(got, errNotConfirmed) != want || (got != nil) != want || c.effect.Head != 7 {
				t.Errorf("secure %t, %v: got %v at %d", secure, answer, got, c.effect.Head)
			}
		}
	}
}
