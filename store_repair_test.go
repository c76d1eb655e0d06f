package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	bolterrors "go.etcd.io/bbolt/errors"

	"latchkey/cli"

	"pgregory.net/rapid"
)

// derivedData returns all index entries, data of lists and counts of a file as text, but not those of
// a RowList, because a repair numbers the records in another order.
func derivedData(t *testing.T, path string) string {
	t.Helper()
	var all strings.Builder
	f, err := OpenFile(path, ReadOnly)
	if err == nil {
		err = f.View(func(tx *Tx) error {
			return tx.Walk(func(bucket string, key, stored []byte) error {
				if strings.ContainsAny(bucket, "/~") && !strings.Contains(bucket, "_list~") || bucket == "counts" {
					fmt.Fprintf(&all, "%s %x %x\n", bucket, key, stored)
				}
				return nil
			})
		})
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}

// alterFile changes a file in a transaction.
func alterFile(t *testing.T, path string, change func(*Tx) error) {
	t.Helper()
	f, err := OpenFile(path, ReadWrite)
	if err == nil {
		err = errors.Join(f.Update(change), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestRepair deletes everything that is derived from the records of a full store and adds what does
// not belong there: "check --repair" makes it as it was.
func TestRepair(t *testing.T) {
	a, _, _ := filledStore(t)
	path := storePath(a.config.Server.Data)
	before := derivedData(t, path)
	run := func(want int, args ...string) string {
		t.Helper()
		var out bytes.Buffer
		args = slices.Concat([]string{"latchkey"}, args)
		env := environment(nil, nil)
		env.Stdin, env.Stdout, env.Stderr = strings.NewReader(""), &out, &out
		if exit := cli.Run(context.Background(), args, env); exit != want {
			t.Fatalf("%q: got exit code %d, want %d: %s", args, exit, want, &out)
		}
		return out.String()
	}
	data := []string{"--data", a.config.Server.Data}
	for _, harm := range []func(*Tx) error{
		func(*Tx) error { return nil },
		func(tx *Tx) (err error) {
			for _, bucket := range bucketsWith(tx, "") {
				if strings.ContainsAny(bucket, "/~") {
					err = errors.Join(err, tx.Bolt.DeleteBucket([]byte(bucket)))
				}
			}
			return err
		},
		func(tx *Tx) error {
			return errors.Join(tx.Put("counts", []byte("calls"), IDKey(99)), tx.PutRaw("calls/queue", []byte{1}, []byte{7}),
				tx.Put("contacts~stage", setKey([]byte("lead"), 4), []byte{0, 1}), tx.Delete("owners/name", append([]byte("ann"), IDKey(1)...)),
				tx.PutRaw("agents~all", setKey(nil, 0), []byte("damaged")))
		},
	} {
		alterFile(t, path, harm)
		if out := run(0, append(data, "check", "--repair")...); !strings.Contains(out, " 0 problems") {
			t.Errorf("got %s", out)
		}
		if got := derivedData(t, path); got != before {
			t.Errorf("got\n%s\nwant\n%s", got, before)
		}
	}
	if out := run(2, append(data, "check", "--repair", path)...); !strings.Contains(out, "--repair has no effect with a FILE") {
		t.Errorf("with a file: got %s", out)
	}
	alterFile(t, path, func(tx *Tx) error {
		raw := slices.Clone(tx.Bolt.Bucket([]byte("calls")).Get(IDKey(1)))
		raw[len(raw)-2] ^= 1
		return errors.Join(tx.PutRaw("calls", IDKey(1), raw), tx.Bolt.DeleteBucket([]byte("calls~all")))
	})
	harmed := derivedData(t, path)
	if out := run(1, append(data, "check", "--repair")...); !strings.Contains(out, "calls/0000000000000001: checksum does not match") || !strings.Contains(out, "has not been changed") {
		t.Errorf("a damaged record: got %s", out)
	}
	if derivedData(t, path) != harmed {
		t.Error("a damaged record: the file was changed")
	}
}

// TestRepair_Refused does not repair a store in use, of an earlier format, or none.
func TestRepair_Refused(t *testing.T) {
	a := newTestApp(t)
	_, old := readFixture(t, 2)
	for _, tt := range []struct{ data, want string }{
		{a.config.Server.Data, "in use"}, {old, "format 2 of an earlier version"}, {filepath.Join(t.TempDir(), "none"), "no data folder"},
	} {
		if _, err := RepairFolder(tt.data, tables(), noPeppers, nil); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.data, err, tt.want)
		}
	}
	if _, err := os.Stat(filepath.Join(filepath.Dir(old), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want no new folder", err)
	}
}

// TestAddLists stores records of every table with lists, takes their lists away and migrates: the
// lists are those that the tables keep.
func TestAddLists(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := newTestStore(t)
		defer s.Close()
		words := rapid.SampledFrom([]string{"", "Mara", "J\u00fcrgen Lind", "m@example.net", strings.Repeat("long ", 300)})
		number := rapid.Uint64Range(0, 3)
		at := rapid.Custom(func(t *rapid.T) time.Time {
			return rapid.SampledFrom([]time.Time{{}, epoch, epoch.Add(time.Hour), time.Unix(-5, 0), time.Date(2600, 1, 1, 0, 0, 0, 0, time.UTC)}).Draw(t, "at")
		})
		word, n := func() string { return words.Draw(rt, "word") }, func() uint64 { return number.Draw(rt, "number") }
		err := s.Update(func(tx *Tx) error {
			var errs []error
			for range rapid.IntRange(0, 5).Draw(rt, "records") {
				id := itemIDs().Draw(rt, "id")
				errs = append(errs,
					agentTable.Put(tx, Agent{ID: id, Name: word(), Owner: n(), TeamID: n()}),
					callTable.Put(tx, call{ID: id, Owner: n(), TeamID: n(), Status: word(), Type: word(), Agent: callAgent{ID: n(), AssistantID: word()}, CreatedAt: at.Draw(rt, "c"), StartedAt: at.Draw(rt, "s")}),
					contactTable.Put(tx, contact{ID: id, Owner: n(), TeamID: n(), FirstName: word(), LastName: word(), Email: word(), Stage: word(), Status: word(), Tags: []string{word(), word()}}),
					blockedTable.Put(tx, blocked{ID: id, Phone: word(), Reason: word()}), ownerTable.Put(tx, owner{ID: id, Name: word()}),
					scheduleTable.Put(tx, Schedule{ID: id}), teamTable.Put(tx, team{ID: id}), webhookTable.Put(tx, webhook{ID: id}),
					variableTable.Put(tx, Variable{ID: id, Owner: n(), Name: word(), Context: word()}))
			}
			return errors.Join(errs...)
		})
		if err != nil {
			rt.Fatal(err)
		}
		err = s.Update(func(tx *Tx) error {
			for _, bucket := range bucketsWith(tx, "") {
				if isListBucket(bucket) {
					if err := tx.Bolt.DeleteBucket([]byte(bucket)); err != nil {
						return err
					}
				}
			}
			for _, bucket := range []string{"calls/scope", "call_tallies"} {
				if err := tx.PutRaw(bucket, []byte("x"), nil); err != nil {
					return err
				}
			}
			var entries []DerivedEntry
			if err := deriveLists(tx, func(e DerivedEntry) error { entries = append(entries, e); return nil }); err != nil {
				return err
			}
			return errors.Join(addLists(tx), putDerived(tx, entries))
		})
		if err != nil {
			rt.Fatal(err)
		}
		_ = s.View(func(tx *Tx) error {
			result, err := CheckStore(tx, slices.Concat(AgentTables(), CallTables(), ContactTables(), DoNotCallTables(), OwnerTables(), ScheduleTables(), TeamTables(), WebhookTables(), VariableTables()))
			if err != nil || len(result.Problems) > 0 {
				rt.Errorf("got %q, %v", result.Problems, err)
			}
			if old := slices.Concat(bucketsWith(tx, "calls/scope"), bucketsWith(tx, "call_tallies")); len(old) > 0 {
				rt.Errorf("got %q, want them deleted", old)
			}
			return nil
		})
	})
}

// repairInside returns a change that makes what follows from the records of a table anew, in a running
// store.
func repairInside(table Checked) func(*Tx) error {
	return func(tx *Tx) error {
		var entries []DerivedEntry
		if err := table.Derive(tx, func(e DerivedEntry) error { entries = append(entries, e); return nil }); err != nil {
			return err
		}
		return errors.Join(table.Adopt(tx), putDerived(tx, entries))
	}
}

// putDerived stores entries.
func putDerived(tx *Tx, entries []DerivedEntry) (err error) {
	for _, e := range entries {
		err = errors.Join(err, tx.PutRaw(e.bucket, e.key, e.value))
	}
	return err
}

// TestEntrySorter compares the order of an entrySorter with that of a sorted list.
func TestEntrySorter(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		path := filepath.Join(t.TempDir(), "sorted")
		s, err := newEntrySorter(path)
		if err != nil {
			rt.Fatal(err)
		}
		var want []DerivedEntry
		for range rapid.IntRange(0, 60).Draw(rt, "entries") {
			text := rapid.SliceOfN(rapid.ByteRange(0, 3), 0, 3)
			e := DerivedEntry{rapid.SampledFrom([]string{"a", "b/x", "b~y"}).Draw(rt, "bucket"), text.Draw(rt, "key"), text.Draw(rt, "value")}
			if slices.ContainsFunc(want, func(other DerivedEntry) bool { return e.compare(other) == 0 }) {
				continue
			}
			want = append(want, e)
			if err := s.add(e); err != nil {
				rt.Fatal(err)
			}
			if rapid.IntRange(0, 9).Draw(rt, "full") == 0 {
				if err := s.write(); err != nil {
					rt.Fatal(err)
				}
			}
		}
		slices.SortFunc(want, DerivedEntry.compare)
		n := 0
		err = s.each(func(e DerivedEntry) error {
			if n >= len(want) || e.compare(want[n]) != 0 || !bytes.Equal(e.value, want[n].value) {
				rt.Errorf("entry %d: got %+v", n, e)
			}
			n++
			return nil
		})
		if err = errors.Join(err, s.close()); err != nil || n != len(want) || s.count != int64(n) {
			rt.Errorf("got %d entries, %v; want %d", n, err, len(want))
		}
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			rt.Errorf("the file is still there (%v)", err)
		}
	})
}

// TestRebuild_Interrupted leaves what an interrupted repair leaves: the check and a copy ignore it, and the
// next program that can change the file deletes it.
func TestRebuild_Interrupted(t *testing.T) {
	f := newTestFile(t)
	err := f.rebuild(func(_ *Tx, emit func(DerivedEntry) error) error {
		return emit(indexEntry("calls/x", []byte("entry"), 1))
	})
	if err = errors.Join(err, f.CopyTo(f.path+".copy"), f.Close()); err != nil {
		t.Fatal(err)
	}
	has := func(path string, access Access) (left bool) {
		f, err := OpenFile(path, access)
		if err != nil {
			t.Fatal(err)
		}
		err = f.View(func(tx *Tx) error {
			left = tx.Bolt.Bucket([]byte(rebuildBucket)) != nil
			return tx.Walk(func(bucket string, key, _ []byte) error {
				if bucket == rebuildBucket {
					t.Errorf("Walk visits %s/%x", bucket, key)
				}
				return nil
			})
		})
		if err = errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
		return left
	}
	if has(f.path+".copy", ReadOnly) || !has(f.path, ReadOnly) || has(f.path, ReadWrite) {
		t.Error("the unfinished buckets are in a copy, or were not deleted")
	}
}

// newTestFile returns the open file of a new store. Close it.
func newTestFile(t *testing.T) *File {
	t.Helper()
	s := newTestStore(t)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := OpenFile(s.path, ReadWrite)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestRebuild_Progress counts what a rebuild says of its last step: all entries, and no more.
func TestRebuild_Progress(t *testing.T) {
	f := newTestFile(t)
	defer f.Close()
	const entries, size = 20, rebuildBytes / 8
	var got []int64
	f.Progress = func(step string, done, total int64) error {
		if step == "storing indexes and lists" {
			if got = append(got, done); total != entries {
				t.Errorf("got a total of %d, want %d", total, entries)
			}
		}
		return nil
	}
	err := f.rebuild(func(_ *Tx, emit func(DerivedEntry) error) error {
		for i := range entries {
			if err := emit(DerivedEntry{"items~x", IDKey(uint64(i)), make([]byte, size)}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil || !slices.IsSorted(got) || len(got) < 3 || got[len(got)-1] != entries || got[0] > 8 {
		t.Errorf("got %v, %v; want several numbers up to %d", got, err, entries)
	}
}

// TestFormat3_LongAction migrates entries of the audit log with long actions: their set is named by the first 200 bytes, by
// which the audit log looks for them.
func TestFormat3_LongAction(t *testing.T) {
	for _, n := range []int{0, 199, 200, 201, 300} {
		r := recordFormat2{}
		r.Entry.Action = strings.Repeat("a", n)
		if set := r.entry().sets[0]; set.set != "action" || len(set.value) != min(n, 200) {
			t.Errorf("an action of %d bytes: got the set %s of %d bytes", n, set.set, len(set.value))
		}
	}
}

// TestFormat4_AdoptsAll adopts the data of the new sets of every table.
func TestFormat4_AdoptsAll(t *testing.T) {
	f := newTestFile(t)
	defer f.Close()
	err := f.rebuild(func(_ *Tx, emit func(DerivedEntry) error) (err error) {
		for _, set := range setsFormat4 {
			err = errors.Join(err, emit(indexEntry(listBucket(set.table, set.set), []byte("entry"), 1)))
		}
		return err
	})
	if err == nil {
		err = f.Update(format4)
	}
	if err != nil {
		t.Fatal(err)
	}
	err = f.View(func(tx *Tx) error {
		for _, set := range setsFormat4 {
			if tx.stored(listBucket(set.table, set.set), []byte("entry")) == nil {
				t.Errorf("the set %s of %s is not adopted", set.set, set.table)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestRebuild_NotDeleted wants the error if a bucket cannot be deleted, as in a transaction that may not write.
func TestRebuild_NotDeleted(t *testing.T) {
	s := newTestStore(t)
	err := s.Update(func(tx *Tx) error {
		return errors.Join(tx.Put(rebuildBucket, []byte("x"), nil), tx.Put("items~all", []byte("x"), nil))
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, run := range map[string]func(tx *Tx) error{"dropRebuilt": (*Tx).dropRebuilt, "adopt": func(tx *Tx) error { return tx.adopt("items~") }} {
		if err := s.View(run); !errors.Is(err, bolterrors.ErrTxNotWritable) {
			t.Errorf("%s: got %v, want ErrTxNotWritable", name, err)
		}
	}
	for range 2 { // also if there is none left
		if err := s.Update((*Tx).dropRebuilt); err != nil {
			t.Error(err)
		}
	}
}
