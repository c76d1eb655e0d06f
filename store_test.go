package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"latchkey/internal/durable"
)

// newTestStore gives an empty store that is closed with the test.
func newTestStore(t testing.TB) *Store {
	t.Helper()
	path := filepath.Join(t.TempDir(), "test.db")
	if err := CreateStore(path, "test", epoch); err != nil {
		t.Fatal(err)
	}
	s, err := OpenStore(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// reopen closes a store and opens its file again.
func reopen(t testing.TB, s *Store) *Store {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := OpenStore(s.path, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = again.Close() })
	return again
}

func TestStore_Reopen(t *testing.T) {
	s := newTestStore(t)
	err := s.Update(func(tx *Tx) error { return tx.Put("b", []byte("k"), []byte("value")) })
	if err != nil {
		t.Fatal(err)
	}
	s = reopen(t, s)
	_ = s.View(func(tx *Tx) error {
		got, err := tx.Get("b", []byte("k"))
		if err != nil || string(got) != "value" {
			t.Errorf("got %q, %v; want \"value\"", got, err)
		}
		return nil
	})
}

// TestStore_FailedChange checks that a change that fails leaves nothing, and
// that those who share its transaction do not suffer.
func TestStore_FailedChange(t *testing.T) {
	s := newTestStore(t)
	boom := errors.New("boom")
	hold := make(chan struct{})
	s.Queue(func(*Tx) error { <-hold; return nil }, func(error) {}) // so that the rest shares a batch
	var wg sync.WaitGroup
	results := make([]error, 20)
	after := make([]int, 20)
	for i := range results {
		wg.Add(1)
		s.Queue(func(tx *Tx) error {
			tx.After(func() { after[i]++ })
			if err := tx.Put("b", fmt.Append(nil, i), []byte("x")); err != nil {
				return err
			}
			if i%5 == 3 {
				return boom
			}
			return nil
		}, func(err error) { results[i] = err; wg.Done() })
	}
	close(hold)
	wg.Wait()
	_ = s.View(func(tx *Tx) error {
		for i, err := range results {
			got, _ := tx.Get("b", fmt.Append(nil, i))
			failed := i%5 == 3
			if errors.Is(err, boom) != failed || (got == nil) != failed || (after[i] == 0) != failed || after[i] > 1 {
				t.Errorf("change %d: error %v, stored %q, told %d times; want failed to be %v", i, err, got, after[i], failed)
			}
		}
		return nil
	})
}

func TestStore_Concurrent(t *testing.T) {
	s := newTestStore(t)
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			err := s.Update(func(tx *Tx) error { return tx.Put("b", IDKey(uint64(i)), []byte("x")) })
			if err != nil {
				t.Error(err)
			}
			_ = s.View(func(tx *Tx) error {
				if got, _ := tx.Get("b", IDKey(uint64(i))); got == nil {
					t.Errorf("change %d is not there after it was acknowledged", i)
				}
				return nil
			})
		})
	}
	wg.Wait()
}

func TestStore_CommitErrorPoisons(t *testing.T) {
	s := newTestStore(t)
	s.fail(errors.New("disk gone"))
	select {
	case <-s.Failed():
	default:
		t.Error("Failed is not closed after a commit error")
	}
	if err := s.Update(func(*Tx) error { return nil }); !errors.Is(err, ErrUnavailable) {
		t.Errorf("Update: got %v, want ErrUnavailable", err)
	}
	if err := s.View(func(*Tx) error { return nil }); !errors.Is(err, ErrUnavailable) {
		t.Errorf("View: got %v, want ErrUnavailable", err)
	}
	if !strings.Contains(s.Err().Error(), "disk gone") {
		t.Errorf("got %v, want the cause", s.Err())
	}
}

func TestStore_Closed(t *testing.T) {
	s := newTestStore(t)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Update(func(*Tx) error { return nil }); !errors.Is(err, ErrUnavailable) {
		t.Errorf("Update: got %v, want ErrUnavailable", err)
	}
	if err := s.View(func(*Tx) error { return nil }); !errors.Is(err, ErrUnavailable) {
		t.Errorf("View: got %v, want ErrUnavailable", err)
	}
}

func TestOpenStore_BadFiles(t *testing.T) {
	good := newTestStore(t)
	if err := good.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(good.path)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name    string
		content []byte
		want    string
	}{
		{"empty", nil, "too few for a database"},
		{"half a page", whole[:2000], "too few for a database"},
		{"half", whole[:len(whole)/2], "the file is damaged"},
		{"text", []byte(strings.Repeat("hello ", 10_000)), "damaged or not a database"},
		{"zeros", make([]byte, len(whole)), "damaged or not a database"},
	} {
		path := filepath.Join(t.TempDir(), "bad.db")
		if err := os.WriteFile(path, tt.content, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := OpenStore(path, nil)
		if err == nil {
			_ = s.Close()
		}
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
		if now, _ := os.ReadFile(path); len(now) != len(tt.content) {
			t.Errorf("%s: the file was changed from %d to %d bytes", tt.name, len(tt.content), len(now))
		}
	}
	if _, err := OpenStore(filepath.Join(t.TempDir(), "none.db"), nil); err == nil || !strings.Contains(err.Error(), "restore a backup") {
		t.Errorf("missing file: got %v, want the way out", err)
	}
}

func TestStore_NewerFormat(t *testing.T) {
	for _, tt := range []struct {
		header string
		wants  []string // nothing: it opens
	}{
		{`{"format":99,"min_reader":99,"writer":"v9.1.0"}`, []string{"format 99", "latchkey v9.1.0", fmt.Sprintf("up to format %d", StoreFormat), "this is latchkey " + ProgramVersion(), "restore a backup"}},
		{`{"format":99}`, []string{"format 99", "of a later version"}},
		{`{"format":99,"min_reader":1,"writer":"v9.1.0"}`, nil},
	} {
		s := newTestStore(t)
		_ = s.Update(func(tx *Tx) error { return tx.Put("meta", []byte("header"), []byte(tt.header)) })
		_ = s.Close()
		before, err := os.ReadFile(s.path)
		if err != nil {
			t.Fatal(err)
		}
		again, err := OpenStore(s.path, nil)
		if again != nil {
			_ = again.Close()
		}
		if (err == nil) != (tt.wants == nil) {
			t.Errorf("%s: got %v", tt.header, err)
		}
		for _, want := range tt.wants {
			if err != nil && !strings.Contains(err.Error(), want) {
				t.Errorf("%s: got %v, want %q", tt.header, err, want)
			}
		}
		if now, _ := os.ReadFile(s.path); !bytes.Equal(now, before) {
			t.Errorf("%s: the file was changed", tt.header)
		}
	}
}

func TestTx_DamagedRecord(t *testing.T) {
	s := newTestStore(t)
	err := s.Update(func(tx *Tx) error {
		return errors.Join(tx.Put("b", []byte("k"), []byte("value")), tx.PutRaw("b", []byte("short"), []byte{1, 2}))
	})
	if err != nil {
		t.Fatal(err)
	}
	_ = s.Update(func(tx *Tx) error {
		raw := append([]byte(nil), tx.Bolt.Bucket([]byte("b")).Get([]byte("k"))...)
		raw[len(raw)-1] ^= 1
		return errors.Join(tx.PutRaw("b", []byte("k"), raw), tx.PutRaw("b", []byte("moved"), raw))
	})
	_ = s.View(func(tx *Tx) error {
		for _, key := range []string{"k", "short", "moved"} {
			if got, err := tx.Get("b", []byte(key)); err == nil {
				t.Errorf("%s: got %q and no error", key, got)
			}
		}
		return nil
	})
}

type thing struct {
	ID   uint64
	Word string
	At   time.Time
}

var thingTable = Table[thing]{
	Name: "things",
	Key:  func(v thing) []byte { return IDKey(v.ID) },
	Indexes: []Index[thing]{
		{"word", func(v thing) [][]byte { return [][]byte{[]byte(v.Word)} }},
	},
}

func TestTable(t *testing.T) {
	s := newTestStore(t)
	put := func(id uint64, word string) {
		t.Helper()
		if err := s.Update(func(tx *Tx) error { return thingTable.Put(tx, thing{ID: id, Word: word}) }); err != nil {
			t.Fatal(err)
		}
	}
	for i, word := range []string{"one", "two", "two", "three", "twofold"} {
		put(uint64(i+1), word)
	}
	put(4, "two")
	generation := s.Generation("things").Load()
	if err := s.Update(func(tx *Tx) error { return thingTable.Delete(tx, IDKey(2)) }); err != nil {
		t.Fatal(err)
	}
	if got := s.Generation("things").Load(); got != generation+1 {
		t.Errorf("generation: got %d, want %d", got, generation+1)
	}
	_ = s.View(func(tx *Tx) error {
		if n, err := thingTable.Count(tx); n != 4 || err != nil {
			t.Errorf("count: got %d, %v; want 4", n, err)
		}
		for _, order := range []Direction{Forward, Backward} {
			var ids, all []uint64
			for rest, key := range thingTable.Find(tx, "word", []byte("two"), order) {
				v, err := thingTable.Get(tx, key)
				if err != nil || v.Word != "two"+string(rest) {
					t.Errorf("got %v, %v for the entry two%s", v, err, rest)
				}
				ids = append(ids, v.ID)
			}
			for v, err := range thingTable.All(tx, order) {
				if err != nil {
					t.Error(err)
				}
				all = append(all, v.ID)
			}
			want, wantAll := "[3 4 5]", "[1 3 4 5]"
			if order == Backward {
				want, wantAll = "[5 4 3]", "[5 4 3 1]"
			}
			if fmt.Sprint(ids) != want || fmt.Sprint(all) != wantAll {
				t.Errorf("order %v: got %v and %v, want %s and %s", order, ids, all, want, wantAll)
			}
		}
		if _, err := thingTable.One(tx, "word", []byte("tw")); !errors.Is(err, ErrNotFound) {
			t.Errorf("a beginning is no match: got %v, want ErrNotFound", err)
		}
		if v, err := thingTable.One(tx, "word", []byte("one")); v.ID != 1 || err != nil {
			t.Errorf("got %v, %v; want number 1", v, err)
		}
		for word, want := range map[string]bool{"one": true, "two": true, "tw": false, "twofolds": false, "": false} {
			if thingTable.Has(tx, "word", []byte(word)) != want {
				t.Errorf("Has does not return %t for %q", want, word)
			}
		}
		return nil
	})
	if err := s.Update(func(tx *Tx) error { return thingTable.Delete(tx, IDKey(2)) }); !errors.Is(err, ErrNotFound) {
		t.Errorf("delete twice: got %v, want ErrNotFound", err)
	}
}

// TestTable_Naming asks a table that the audit log knows, and one that it does not know, for the names of its records.
func TestTable_Naming(t *testing.T) {
	unknown, known := thingTable, thingTable
	known.Audit.Object = "thing"
	if n := unknown.Naming(); n != nil {
		t.Errorf("a table that the audit log does not know: got %+v", n)
	}
	if n := known.Naming(); n == nil || n.Kind != "thing" || n.Of == nil || n.Find == nil {
		t.Errorf("got %+v", n)
	}
}

// TestStore_SharesCommits has many clients change the store over connections,
// on one core: those whose requests are there must share commits, rather than
// that each has one and its sync to itself.
func TestStore_SharesCommits(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	s := newTestStore(t)
	const clients, each = 32, 30
	var wg sync.WaitGroup
	for client := range clients {
		here, there := net.Pipe()
		wg.Go(func() { // the server's side of a connection
			b := make([]byte, 1)
			for i := range each {
				if _, err := here.Read(b); err != nil {
					t.Error(err)
				}
				if err := s.Update(func(tx *Tx) error { return thingTable.Put(tx, thing{ID: uint64(client*each + i + 1), Word: "x"}) }); err != nil {
					t.Error(err)
				}
				if _, err := here.Write(b); err != nil {
					t.Error(err)
				}
			}
		})
		wg.Go(func() {
			b := make([]byte, 1)
			for range each {
				if _, err := there.Write(b); err != nil {
					t.Error(err)
				}
				if _, err := there.Read(b); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	commits := s.Generation("things").Load()
	t.Logf("%d changes in %d commits", clients*each, commits)
	if commits > clients*each/8 {
		t.Errorf("%d changes took %d commits, want at least 8 to share one", clients*each, commits)
	}
}

// A file that was moved away fails the store also while nothing is written.
func TestStore_Guard(t *testing.T) {
	s := newTestStore(t)
	if s.CheckFile(); s.Err() != nil {
		t.Fatalf("got %v for a file in its place", s.Err())
	}
	if err := os.Rename(s.path, s.path+".away"); err != nil {
		t.Fatal(err)
	}
	if s.CheckFile(); s.Err() == nil || !strings.Contains(s.Err().Error(), "was moved or removed") {
		t.Errorf("got %v, want that the file was moved", s.Err())
	}
	if err := s.View(func(*Tx) error { return nil }); !errors.Is(err, ErrUnavailable) {
		t.Errorf("a read: got %v, want ErrUnavailable", err)
	}
}

// An empty value is a value: it is there, and not the same as none.
func TestTx_EmptyValue(t *testing.T) {
	s := newTestStore(t)
	for _, value := range [][]byte{nil, {}} {
		if err := s.Update(func(tx *Tx) error { return tx.Put("b", []byte("k"), value) }); err != nil {
			t.Fatal(err)
		}
		_ = s.View(func(tx *Tx) error {
			if got, err := tx.Get("b", []byte("k")); got == nil || len(got) > 0 || err != nil {
				t.Errorf("got %v, %v; want an empty value", got, err)
			}
			if got, err := tx.Get("b", []byte("other")); got != nil || err != nil {
				t.Errorf("another key: got %v, %v; want nil", got, err)
			}
			return nil
		})
	}
}

// A transaction that writes nothing is no commit and changes no figure.
func TestStore_CountsOnlyWrites(t *testing.T) {
	s := newTestStore(t)
	observed := 0
	s.Observe(func(int, time.Duration) { observed++ })
	for _, run := range []func(*Tx) error{
		func(*Tx) error { return nil },
		func(tx *Tx) error { return tx.Put("b", []byte("k"), []byte("value")) },
		func(tx *Tx) error { _, err := tx.Get("b", []byte("k")); return err },
		func(tx *Tx) error { return tx.Delete("none", []byte("k")) },
		func(*Tx) error { return nil }, // the figures of those before are complete once this one runs
	} {
		if err := s.Update(run); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil { // ends the committer
		t.Fatal(err)
	}
	if commits, changes := s.Counts(); commits != 1 || changes != 1 || observed != 1 {
		t.Errorf("got %d commits of %d changes, %d observed; want one of each", commits, changes, observed)
	}
}

// TestStore_CopyUnderWrites copies a store while each of its records is written
// over again and again: a copy has all of them as they were at one moment.
func TestStore_CopyUnderWrites(t *testing.T) {
	const records = 500
	dir := memoryDir(t)
	if err := CreateStore(filepath.Join(dir, "test.db"), "test", epoch); err != nil {
		t.Fatal(err)
	}
	s, err := OpenStore(filepath.Join(dir, "test.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	name := func(i int) []byte { return fmt.Appendf(nil, "%04d", i) }
	write := func(round uint64) error {
		value := bytes.Repeat(binary.BigEndian.AppendUint64(nil, round), 100)
		return s.Update(func(tx *Tx) error {
			for i := range records {
				if err := tx.Put("x", name(i), value); err != nil {
					return err
				}
			}
			_, err := tx.Bolt.Bucket([]byte("x")).NextSequence()
			return err
		})
	}
	if err := write(1); err != nil {
		t.Fatal(err)
	}
	stop, over := make(chan struct{}), make(chan error)
	go func() {
		for round := uint64(2); ; round++ {
			select {
			case <-stop:
				over <- nil
				return
			default:
			}
			if err := write(round); err != nil {
				over <- err
				return
			}
		}
	}()
	last := uint64(0)
	for i := range 20 {
		path := filepath.Join(dir, fmt.Sprint("copy", i))
		if err := s.CopyTo(path); err != nil {
			t.Fatal(err)
		}
		last = wholeCopy(t, path, records, name, last)
	}
	close(stop)
	if err := <-over; err != nil {
		t.Error(err)
	}
}

// TestStore_CopiesInTurn asks for a second copy while one is made. The second begins after the first has ended.
func TestStore_CopiesInTurn(t *testing.T) {
	dir, s := t.TempDir(), newTestStore(t)
	began, ended := make(chan struct{}), make(chan error, 1)
	second := func() {
		ended <- s.CopyWatched(filepath.Join(dir, "second"), func(_ string, done, _ int64) error {
			if done == 1 {
				close(began)
			}
			return nil
		})
	}
	err := s.CopyWatched(filepath.Join(dir, "first"), func(_ string, done, _ int64) error {
		if done > 1 {
			return nil
		}
		go second()
		select {
		case <-began:
			t.Error("the second copy has begun")
		case <-time.After(100 * time.Millisecond):
		}
		return nil
	})
	if err := errors.Join(err, <-ended); err != nil {
		t.Error(err)
	}
}

// wholeCopy wants all records of a copy to be of one round, not before last, and
// gives that.
func wholeCopy(t *testing.T, path string, records int, name func(int) []byte, last uint64) (round uint64) {
	t.Helper()
	f, err := OpenFile(path, ReadOnly)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	err = f.View(func(tx *Tx) error {
		if round = tx.Bolt.Bucket([]byte("x")).Sequence(); round < last {
			t.Errorf("got round %d, want no earlier one than %d", round, last)
		}
		for i := range records {
			value, err := tx.Get("x", name(i))
			if err != nil {
				return err
			}
			if want := bytes.Repeat(binary.BigEndian.AppendUint64(nil, round), 100); !bytes.Equal(value, want) {
				t.Errorf("record %d: got %x..., want that of round %d", i, value[:min(8, len(value))], round)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	return round
}

// TestStoreFile_Refusals is about files in places where they cannot be written or
// read: what is there stays as it is, and nothing half-made is left.
func TestStoreFile_Refusals(t *testing.T) {
	dir := t.TempDir()
	file, none := filepath.Join(dir, "file"), filepath.Join(dir, "none", "file")
	if err := os.WriteFile(file, []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := newTestStore(t)
	for name, tt := range map[string]struct {
		run  func() error
		want string
	}{
		"create over a file":        {func() error { return CreateStore(file, "x", epoch) }, "the file exists"},
		"create in no folder":       {func() error { return CreateStore(none, "x", epoch) }, "create store"},
		"copy over a file":          {func() error { return s.CopyTo(file) }, "the file exists"},
		"copy into no folder":       {func() error { return s.CopyTo(none) }, "write " + none},
		"copy into a closed file":   {func() error { return transfer(closedFile(t), s.db, nil) }, bolterrors.ErrDatabaseNotOpen.Error()},
		"pepper over a file":        {func() error { return CreatePepper(file) }, os.ErrExist.Error()},
		"pepper in no folder":       {func() error { return CreatePepper(none) }, "create pepper"},
		"write into no folder":      {func() error { return durable.WriteFile(none, "x") }, "no such file"},
		"write over a folder":       {func() error { return durable.WriteFile(dir, "x") }, ""},
		"sync no folder":            {func() error { return durable.SyncDir(filepath.Dir(none)) }, "no such file"},
		"read a folder":             {func() error { _, err := ReadSmall(dir); return err }, "not a regular file"},
		"read no file":              {func() error { _, err := ReadSmall(none); return err }, "no such file"},
		"open a folder":             {func() error { _, err := OpenFile(dir, ReadOnly); return err }, "not a regular file"},
		"open no file":              {func() error { _, err := OpenFile(none, ReadOnly); return err }, "restore a backup"},
		"open what is in use":       {func() error { _, err := OpenFile(s.path, ReadWrite); return err }, "another process has the file open"},
		"the size of a store":       {func() error { _, err := (&Store{path: none}).Size(); return err }, "no such file"},
		"a copy of a failed store":  {func() error { return failedStore(t).CopyTo(filepath.Join(dir, "copy")) }, ErrUnavailable.Error()},
		"a stamp of a failed store": {func() error { _, err := failedStore(t).Stamp(); return err }, ErrUnavailable.Error()},
	} {
		if err := tt.run(); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", name, err, tt.want)
		}
	}
	if text, err := os.ReadFile(file); string(text) != "kept" || err != nil {
		t.Errorf("got %q, %v; want the file as it was", text, err)
	}
	if left, err := os.ReadDir(dir); len(left) != 1 || err != nil {
		t.Errorf("got %v, %v; want nothing else in the folder", left, err)
	}
}

// closedFile returns a database that has been closed.
func closedFile(t *testing.T) *bbolt.DB {
	db, err := bbolt.Open(filepath.Join(t.TempDir(), "closed"), 0o600, nil)
	if err == nil {
		err = db.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return db
}

// TestTx_CheckSize checks records at both sides of the bound, and beside larger ones from before.
func TestTx_CheckSize(t *testing.T) {
	s := newTestStore(t)
	s.SetBounds(Bounds{RecordBytes: 100})
	for _, tt := range []struct {
		before, size int
		by           Writer
		refused      bool
	}{
		{-1, 99, Writer{Owner: 1}, false}, {-1, 100, Writer{Owner: 1}, false}, {-1, 101, Writer{Owner: 1}, true}, {0, 100, Writer{Owner: 1}, false}, {99, 100, Writer{Owner: 1}, false},
		{100, 101, Writer{Owner: 1}, true}, {101, 101, Writer{Owner: 1}, false}, {102, 101, Writer{Owner: 1}, false}, {101, 102, Writer{Owner: 1}, true},
		{-1, 101, Writer{}, false}, {-1, 101, Writer{Owner: 1, Finishes: true}, false},
	} {
		err := s.UpdateBy(tt.by, func(tx *Tx) error {
			if tt.before >= 0 {
				if err := tx.Put("x", []byte("k"), make([]byte, tt.before)); err != nil {
					return err
				}
			}
			return errors.Join(tx.CheckSize("record", "x", []byte("k"), make([]byte, tt.size)), tx.Delete("x", []byte("k")))
		})
		if errors.Is(err, ErrValidation) != tt.refused || err != nil && !tt.refused {
			t.Errorf("%+v: got %v", tt, err)
		}
	}
}

// TestChangeSet_Note notes more records than are listed: the rest is counted, and nothing of it is encoded.
func TestChangeSet_Note(t *testing.T) {
	set, policy := ChangeSet{}, AuditPolicy{Object: "thing"}
	for n := range maxTraced + 3 {
		if err := set.Note(policy, thing{ID: 1, Word: "a"}, thing{ID: 1, Word: "b"}); err != nil {
			t.Fatal(err)
		}
		if want := min(n+1, maxTraced); len(set.Changes) != want || set.Count != n+1 || set.Idle {
			t.Fatalf("after %d records: got %d listed of %d, idle %t", n+1, len(set.Changes), set.Count, set.Idle)
		}
	}
	if err := set.Note(policy, nil, func() {}); err != nil || set.Count != maxTraced+4 {
		t.Errorf("got %v and %d records, want one more that is only counted", err, set.Count)
	}
}

// TestChangeSet_Untold notes records with members that are not logged: they are in no change, at any depth, and one of which
// only they differ is none.
func TestChangeSet_Untold(t *testing.T) {
	type object = map[string]any
	record := func(word, hidden string) object {
		return object{"id": 1, "word": word, "step": hidden, "inner": object{"word": word, "step": hidden, "deeper": object{"step": hidden}}}
	}
	policy := AuditPolicy{Object: "thing", Untold: []string{"step", "other"}}
	for _, tt := range []struct {
		before, after any
		want          string // the names of the fields
	}{
		{record("a", "hidden 1"), record("a", "hidden 2"), "[]"}, {record("a", "hidden 1"), record("b", "hidden 2"), "[inner word]"},
		{nil, record("a", "hidden 1"), "[id inner word]"}, {record("a", "hidden 1"), nil, "[id inner word]"},
	} {
		var set ChangeSet
		if err := set.Note(policy, tt.before, tt.after); err != nil {
			t.Fatal(err)
		}
		fields, text := []string{}, fmt.Sprintf("%+v", set)
		for _, c := range set.Changes {
			fields = append(fields, c.Fields...)
		}
		if fmt.Sprint(fields) != tt.want || strings.Contains(text, "hidden") || strings.Contains(text, "step") {
			t.Errorf("from %v to %v: got %s, want the fields %s", tt.before, tt.after, text, tt.want)
		}
	}
}

// TestTx_Ended reads for a request that has ended: this is noticed at the unit with the number workBetween, not before.
func TestTx_Ended(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, step := range []int{1, 2, workBetween / 2, workBetween, 3 * workBetween} {
		tx := &Tx{ctx: ctx}
		for range 3 {
			units := 0
			for err := error(nil); err == nil; units += step {
				err = tx.ended(step)
			}
			if want := max(step, workBetween); units != want {
				t.Errorf("%d units at a time: noticed after %d, want %d", step, units, want)
			}
		}
	}
	if tx := (&Tx{}); tx.ended(2*workBetween) != nil {
		t.Error("a transaction without a context has ended")
	}
}

// TestWalk_ShortEntry meets an index entry that has the prefix only because its key begins like it: this is an error.
func TestWalk_ShortEntry(t *testing.T) {
	s := newTestStore(t)
	entry := []byte("ab\x00\x00\x00\x00\x00\x00\x00\x07")
	if err := s.Update(func(tx *Tx) error { return tx.PutRaw("things/word", entry, sealEntry(entry, 8)) }); err != nil {
		t.Fatal(err)
	}
	for n := range len(entry) {
		err := s.View(func(tx *Tx) error {
			w := thingTable.Walk(tx, "word", entry[:n], Forward)
			if string(w.Entry) != "ab"[n:] || len(w.Key) != 8 {
				t.Errorf("a prefix of %d bytes: got %q and the key %x", n, w.Entry, w.Key)
			}
			return nil
		})
		if (err != nil) != (n > 2) || err != nil && !strings.Contains(err.Error(), "too short for the prefix") {
			t.Errorf("a prefix of %d bytes: got %v", n, err)
		}
	}
}

func failedStore(t *testing.T) *Store {
	s := newTestStore(t)
	s.fail(errors.New("disk gone"))
	return s
}

// TestOpenFile_Headers opens files whose pages are good and whose header is none.
func TestOpenFile_Headers(t *testing.T) {
	for name, tt := range map[string]struct {
		harm func(tx *Tx) error
		want string
	}{
		"none":    {func(tx *Tx) error { return tx.Delete("meta", []byte("header")) }, "not a database of latchkey"},
		"no JSON": {func(tx *Tx) error { return tx.Put("meta", []byte("header"), []byte("{")) }, "header record"},
		"damaged": {func(tx *Tx) error { return damageBucket(tx, "meta") }, "checksum does not match"},
	} {
		s := newTestStore(t)
		if err := errors.Join(s.Update(tt.harm), s.Close()); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenStore(s.path, nil); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", name, err, tt.want)
		}
	}
}

// TestStore_ViewFor ends the context in the middle of each way to read many records. The read ends
// within workBetween units, with ErrBroken.
func TestStore_ViewFor(t *testing.T) {
	const rows = 3 * workBetween
	type row struct {
		ID    uint64
		Group string
	}
	table := Table[row]{Name: "rows", Key: func(r row) []byte { return IDKey(r.ID) },
		Indexes: []Index[row]{{"group", func(r row) [][]byte { return [][]byte{[]byte(r.Group)} }}}}
	s := newTestStore(t)
	err := s.Update(func(tx *Tx) error {
		for id := range uint64(rows) {
			if err := table.Put(tx, row{id, "g"}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, read := range map[string]func(tx *Tx, seen func()) error{
		"All": func(tx *Tx, seen func()) error {
			for _, err := range table.All(tx, Backward) {
				if err != nil {
					return err
				}
				seen()
			}
			return nil
		},
		"Get": func(tx *Tx, seen func()) error {
			for id := range uint64(rows) {
				if _, err := table.Get(tx, IDKey(id)); err != nil {
					return err
				}
				seen()
			}
			return nil
		},
		"Find": func(tx *Tx, seen func()) error {
			for range table.Find(tx, "group", []byte("g"), Forward) {
				seen()
			}
			return nil
		},
		"Walk": func(tx *Tx, seen func()) error {
			for w := table.Walk(tx, "group", []byte("g"), Forward); w.Entry != nil; w.Next() {
				seen()
			}
			return nil
		},
		"From": func(tx *Tx, seen func()) error {
			for range table.From(tx, "group", []byte("g"), nil) {
				seen()
			}
			return nil
		},
		"Range": func(tx *Tx, seen func()) error {
			for range tx.Range("rows", nil) {
				seen()
			}
			return nil
		},
		"RangeFrom": func(tx *Tx, seen func()) error {
			for range tx.RangeFrom("rows", IDKey(1)) {
				seen()
			}
			return nil
		},
	} {
		for _, at := range []int{0, workBetween + 1, rows + 1} {
			ctx, cancel := context.WithCancel(t.Context())
			if at == 0 {
				cancel()
			}
			n := 0
			err := s.ViewFor(ctx, func(tx *Tx) error {
				return read(tx, func() {
					if n++; n == at {
						cancel()
					}
				})
			})
			cancel()
			if at > rows {
				if err != nil || n < rows-1 {
					t.Errorf("%s: got %d rows, %v", name, n, err)
				}
			} else if !errors.Is(err, ErrBroken) || n > at+workBetween {
				t.Errorf("%s: the client left after %d rows: got %d rows, %v; want ErrBroken", name, at, n, err)
			}
		}
	}
}
