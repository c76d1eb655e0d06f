package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"latchkey/internal/boltcheck"
	"latchkey/tests/program"
)

// FuzzReadWindow: stored bytes become a window that says the same when it is
// stored again, has room for no more than it may, and takes memory in step.
func FuzzReadWindow(f *testing.F) {
	w := NewWindow(60, time.Minute)
	w.Add(epoch, 3)
	w.Add(epoch.Add(time.Second), 1)
	f.Add(w.Append(nil), uint16(60))
	large := NewWindow(5000, time.Hour)
	large.Add(epoch, 4000)
	f.Add(large.Append(nil), uint16(5000))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0x0f}, uint16(1))
	f.Add([]byte{2, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01, 1, 1, 1}, uint16(2000))
	f.Fuzz(func(t *testing.T, b []byte, limit uint16) {
		limit = max(limit, 1)
		w, rest, err := readWindow(b, int(limit), time.Minute)
		if err != nil {
			return
		}
		if len(rest) > len(b) || cap(w.marks) > 16+2*len(b) || w.used < 0 {
			t.Errorf("%x: %d bytes are left, %d marks, %d used", b, len(rest), cap(w.marks), w.used)
		}
		again, rest, err := readWindow(w.Append(nil), int(limit), time.Minute)
		if err != nil || len(rest) > 0 || again.used != w.used {
			t.Errorf("%x: got %d used, then %d, %v", b, w.used, again.used, err)
		}
		now := time.Unix(0, w.Last)
		if used := w.Used(now); used >= int(limit) && w.Wait(now, 1) <= 0 {
			t.Errorf("%x: %d of %d are used, and one more passes", b, used, limit)
		}
	})
}

// FuzzReadRecord: a record that was changed anywhere is no record, and what was
// stored by this program is read or refused, whatever is in it.
func FuzzReadRecord(f *testing.F) {
	key, err := json.Marshal(StoredKey{ID: "key_1", Name: "n", Permissions: 3, Limits: map[string]int{"x": 1}, CreatedAt: epoch})
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte("key_1"), key, uint16(9), byte(1))
	f.Add([]byte{}, []byte(`{"id": 5}`), uint16(0), byte(255))
	f.Add([]byte{0}, []byte("null"), uint16(4), byte(0))
	path := filepath.Join(f.TempDir(), "s.db")
	if err := CreateStore(path, "one", epoch); err != nil {
		f.Fatal(err)
	}
	file, err := OpenFile(path, ReadWrite)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = file.Close() })
	f.Fuzz(func(t *testing.T, name, value []byte, at uint16, by byte) {
		var raw []byte
		_ = file.Update(func(tx *Tx) error {
			if len(name) == 0 || len(name) > 1000 {
				name = []byte("x")
			}
			if err := tx.Put("fuzz", name, value); err != nil {
				t.Fatal(err)
			}
			raw = slices.Clone(tx.Bolt.Bucket([]byte("fuzz")).Get(name))
			return os.ErrClosed // rolled back: nothing is kept, and nothing synced
		})
		got, err := Unseal("fuzz", name, raw)
		if err != nil || !bytes.Equal(got, value) {
			t.Fatalf("%x: got %x, %v", value, got, err)
		}
		if _, err := Unseal("fuzz", append([]byte{1}, name...), raw); err == nil {
			t.Errorf("%x passes under another key", raw)
		}
		for _, decode := range []func() error{ // none may do worse than refuse
			func() error { _, err := TokenTable.decode(&Tx{}, name, raw); return err },
			func() error { _, err := OperatorTable.decode(&Tx{}, name, raw); return err },
			func() error { _, err := contactTable.decode(&Tx{}, name, raw); return err },
			func() error { _, err := sessionTable.decode(&Tx{}, name, raw); return err },
			func() error {
				l, err := auditTable.decode(&Tx{}, name, raw)
				for _, set := range auditTable.List.Sets {
					set.Keys(l)
				}
				return err
			},
		} {
			_ = decode()
		}
		if by != 0 {
			raw[int(at)%len(raw)] ^= by
			if got, err := Unseal("fuzz", name, raw); err == nil {
				t.Errorf("%x: changed at %d, and got %x", raw, int(at)%len(raw), got)
			}
		}
		if v, err := entryKey("fuzz", name, raw); err == nil && !bytes.HasSuffix(name, v) {
			t.Errorf("%x of an entry %x", v, name)
		}
	})
}

// copiedStore is a database as a backup is, and what it holds.
func copiedStore(t testing.TB) (whole []byte, holds map[string]string) {
	t.Helper()
	a := newTestApp(t)
	a.key(everyPermission)
	path := filepath.Join(t.TempDir(), "good.db")
	if err := a.Store.CopyTo(path); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return whole, records(t, path)
}

// FuzzOpenFile changes the pages that say what a database is, or cuts it off: it
// is refused, or its check tells of it, or nothing of it has changed. The other
// pages are those of TestDamage_Anywhere and TestCheckFile_Pages.
func FuzzOpenFile(f *testing.F) {
	whole, want := copiedStore(f)
	f.Add(uint32(0), []byte{0})
	f.Add(uint32(16), []byte("\xed\xda\x0c\xed"))
	f.Add(uint32(len(whole)-5), []byte{})
	path := filepath.Join(f.TempDir(), "bad.db")
	f.Fuzz(func(t *testing.T, at uint32, patch []byte) {
		bad := slices.Clone(whole)
		if from := int(at) % (2 * os.Getpagesize()); len(patch) > 0 {
			copy(bad[from:2*os.Getpagesize()], patch)
		} else {
			bad = bad[:int(at)%len(bad)]
		}
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		result, err := CheckFile(path, tables(), noPeppers, nil)
		if err != nil || len(result.Problems) > 0 {
			return
		}
		if got := records(t, path); !reflect.DeepEqual(got, want) {
			t.Errorf("the check finds nothing, and there is something else in it")
		}
	})
}

// TestCheckFile_Pages spoils the head of each page in turn: the check says so,
// and does not end in a panic.
func TestCheckFile_Pages(t *testing.T) {
	whole, want := copiedStore(t)
	path := filepath.Join(t.TempDir(), "bad.db")
	for page := 0; page < len(whole); page += os.Getpagesize() {
		bad := slices.Clone(whole)
		copy(bad[page:], bytes.Repeat([]byte{0xff}, 16))
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		result, err := CheckFile(path, tables(), noPeppers, nil)
		if err == nil && len(result.Problems) == 0 && !reflect.DeepEqual(records(t, path), want) {
			t.Errorf("page %d: the check finds nothing", page/os.Getpagesize())
		}
	}
}

// TestStore_FreeBytes deletes a large value: its pages are free for others.
func TestStore_FreeBytes(t *testing.T) {
	s := newTestApp(t).Store
	for _, size := range []int{1 << 20, 1} {
		if err := s.Update(func(tx *Tx) error { return tx.Put("meta", []byte("k"), make([]byte, size)) }); err != nil {
			t.Fatal(err)
		}
	}
	if size, err := s.Size(); err != nil || s.FreeBytes() < 1<<20 || s.FreeBytes() >= size {
		t.Errorf("got %d free bytes of %d, %v, want at least 1 MiB", s.FreeBytes(), size, err)
	}
}

// TestFile_CopyInterrupted interrupts copies after each report of their progress: the error is that of the report, and nothing
// is left of the copy.
func TestFile_CopyInterrupted(t *testing.T) {
	s := newTestStore(t)
	err := s.Update(func(tx *Tx) error {
		return errors.Join(thingTable.Put(tx, thing{ID: 1, Word: "a"}), thingTable.Put(tx, thing{ID: 2, Word: "b"}))
	})
	if err = errors.Join(err, s.Close()); err != nil {
		t.Fatal(err)
	}
	f, err := OpenFile(s.path, ReadOnly)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	interrupted, path := errors.New("interrupted"), s.path+".copy"
	for most := 0; ; most++ {
		reports := 0
		f.Progress = func(string, int64, int64) error {
			if reports++; reports > most {
				return interrupted
			}
			return nil
		}
		err := f.CopyTo(path)
		if reports <= most {
			if err != nil || most < 4 {
				t.Errorf("after %d reports: got %v", reports, err)
			}
			return
		}
		if !errors.Is(err, interrupted) {
			t.Errorf("interrupted at report %d: got %v", reports, err)
		}
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Fatalf("interrupted at report %d: the copy is still there, %v", reports, err)
		}
	}
}

// records reads what a database file holds.
func records(t testing.TB, path string) map[string]string {
	t.Helper()
	file, err := OpenFile(path, ReadOnly)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	all := map[string]string{}
	err = file.View(func(tx *Tx) error {
		return tx.Walk(func(bucket string, key, stored []byte) error {
			all[strings.Join([]string{bucket, string(key)}, "\x00")] = string(stored)
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// treeStore is filledStore with so many contacts that their tree has branches.
func treeStore(t *testing.T) (*testApp, fixture) {
	t.Helper()
	a, f, _ := filledStore(t)
	a.start()
	for range 40 {
		a.operate(201, "POST", "/admin/v1/contacts", `{"owner": "ann", "first_name": "`+strings.Repeat("n", 100)+`"}`)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	a.App = nil
	if _, _, err := CompactStore(a.config.Server.Data, epoch, nil); err != nil {
		t.Fatal(err)
	}
	return a, f
}

// structure lists the bytes of a compacted file that say what stands where: the
// headers of its nodes and their tables, also of the buckets that stand in one.
// kinds are those of its pages. It reads the layout of bbolt's pages by itself:
// a node has 16 bytes of header and for each element 16 bytes.
func structure(t *testing.T, path string, whole []byte) (list []int, kinds map[string]bool) {
	t.Helper()
	add := func(from, to int) {
		for i := from; i < to; i++ {
			list = append(list, i)
		}
	}
	word := func(at int) int { return int(binary.NativeEndian.Uint32(whole[at:])) }
	var node func(at, skip int)
	node = func(at, skip int) {
		leaf, end := binary.NativeEndian.Uint16(whole[at+8:]) == 2, at+16+16*int(binary.NativeEndian.Uint16(whole[at+10:]))
		add(at+skip, at+12)
		add(at+16, end)
		for e := at + 16; e < end; e += 16 {
			if leaf && word(e) == 1 { // a bucket: flags, offset, lengths of key and value
				value := e + word(e+4) + word(e+8)
				add(value, value+8)
				if word(e+12) > 16 {
					node(value+16, 8) // its number is of no use
				}
			}
		}
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, PreLoadFreelist: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	kinds = map[string]bool{}
	err = db.View(func(b *bbolt.Tx) error {
		for n := 2; ; n++ {
			page, err := b.Page(n)
			if err != nil || page == nil {
				return err
			}
			kinds[page.Type] = true
			if page.Type == "branch" || page.Type == "leaf" {
				node(n*db.Info().PageSize, 0)
				n += page.OverflowCount
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return list, kinds
}

// TestCheckPages_Flips turns over bits of what says where things stand, of which
// each must be found.
func TestCheckPages_Flips(t *testing.T) {
	a, _ := treeStore(t)
	path := filepath.Join(memoryDir(t), "copy.db")
	whole, err := os.ReadFile(storePath(a.config.Server.Data))
	if err != nil {
		t.Fatal(err)
	}
	spots, kinds := structure(t, storePath(a.config.Server.Data), whole)
	if !kinds["branch"] || !kinds["leaf"] {
		t.Fatalf("the file has the kinds %v, too few to show anything", kinds)
	}
	random := rand.New(rand.NewPCG(9, 10))
	for range program.Long(t, "LATCHKEY_DAMAGE_PAGES", 100) {
		at, bit := spots[random.IntN(len(spots))], byte(1)<<random.IntN(8)
		damaged := bytes.Clone(whole)
		damaged[at] ^= bit
		overwrite(t, filepath.Dir(path), "copy.db", string(damaged))
		if result, err := CheckStoreFile(path, Config{}, "", nil); err == nil && len(result.Problems) == 0 {
			t.Errorf("byte %d of page %d, bit %08b: the check finds nothing", at%os.Getpagesize(), at/os.Getpagesize(), bit)
		}
	}
}

// TestCheckPages_Busy checks while others write: what they change meanwhile is
// no damage of the state that is looked at.
func TestCheckPages_Busy(t *testing.T) {
	s := newTestStore(t)
	var wait sync.WaitGroup
	stop := make(chan struct{})
	for writer := range 3 {
		wait.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				key := fmt.Appendf(nil, "%d/%d", writer, i%50)
				if err := s.Update(func(tx *Tx) error { return tx.Put("b", key, make([]byte, 50*(i%100))) }); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for commits := uint64(0); commits < 60; commits, _ = s.Counts() {
		var problems []string
		err := s.View(func(tx *Tx) error {
			_ = boltcheck.Check(tx.Bolt, tx.File, func(problem string) { problems = append(problems, problem) }, nil)
			return nil
		})
		if err != nil || problems != nil {
			t.Errorf("got %q, %v", problems, err)
			break
		}
	}
	close(stop)
	wait.Wait()
}

// offMap damages the offset of a table's first record in a file, so that it
// leads out of what the process has in memory.
func offMap(t *testing.T, path, table string) {
	t.Helper()
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := OpenFile(path, ReadOnly)
	if err != nil {
		t.Fatal(err)
	}
	var key, pair []byte
	err = f.View(func(tx *Tx) error {
		for k, stored := range tx.Range(table, nil) {
			key, pair = bytes.Clone(k), append(bytes.Clone(k), stored...)
			break
		}
		return nil
	})
	if err := errors.Join(err, f.Close()); err != nil || key == nil {
		t.Fatalf("%v, key %x", err, key)
	}
	begins := bytes.Index(whole, pair)
	for at := begins &^ 3; at > begins-os.Getpagesize(); at -= 4 {
		word := func(n int) int { return int(binary.NativeEndian.Uint32(whole[at+4*n:])) }
		if word(0) == 0 && word(1) == begins-at && word(2) == len(key) && word(3) == len(pair)-len(key) {
			binary.NativeEndian.PutUint32(whole[at+4:], 0x7fff0000)
			overwrite(t, filepath.Dir(path), filepath.Base(path), string(whole))
			return
		}
	}
	t.Fatalf("found no element for the record of %s at %d", table, begins)
}

// TestProgram_CheckOffMap has an offset in the file that leads out of the map of
// it in memory. Whoever follows it dies by a fault. The check, of a file and of
// the server that has it open, must tell of it and go on, and so must all else
// that comes upon the record.
func TestProgram_CheckOffMap(t *testing.T) {
	a, f := treeStore(t)
	data := copyFolder(t, a.config.Server.Data)
	offMap(t, storePath(data), "contacts")
	sound := func(what, stderr string) {
		t.Helper()
		if strings.Contains(stderr, "goroutine ") || strings.Contains(stderr, "fault address") {
			t.Errorf("%s: died of it: %.2000s", what, stderr)
		}
	}
	const want = "is damaged: element 0 begins at byte"
	stdout, stderr, exit := program.Run(t, "check", storePath(data))
	if sound("check FILE", stderr); exit != 1 || !strings.Contains(stdout, want) || !strings.Contains(stderr, "restore a backup") {
		t.Errorf("check FILE: got %d %s %s", exit, stdout, stderr)
	}
	for _, args := range [][]string{
		{"restore", storePath(data), "--data", copyFolder(t, a.config.Server.Data)},
		{"compact", "--data", data},
	} {
		_, stderr, exit := program.Run(t, args...)
		if sound(args[0], stderr); exit != 1 || !strings.Contains(stderr, "damaged") {
			t.Errorf("%s: got %d %s", args[0], exit, stderr)
		}
	}
	p := program.Serve(t, data)
	stdout, stderr, exit = program.Run(t, "check", "--data", data)
	if exit != 1 || !strings.Contains(stdout, want) {
		t.Errorf("check of the server: got %d %s %s", exit, stdout, stderr)
	}
	if err := p.Socket().Do(context.Background(), "GET", "/admin/v1/contacts/1", nil, nil); err == nil {
		t.Error("the damaged record is shown")
	}
	backup := filepath.Join(t.TempDir(), "backup.db")
	if _, stderr, exit := program.Run(t, "backup", backup, "--data", data); exit != 1 {
		t.Errorf("backup: got %d %s", exit, stderr)
	}
	if _, err := os.Lstat(backup); err == nil {
		t.Error("there is a backup of what cannot be read")
	}
	if code, _ := p.Get(t, "/api/v1/agents", f.Key); code != 200 {
		t.Errorf("what is not damaged: got %d, want 200", code)
	}
	if code := p.Stop(t); code != 0 {
		t.Errorf("got exit code %d", code)
	}
	sound("serve", p.Out.String())
}

// noPeppers is a CheckFile parameter for a check without a pepper.
func noPeppers() (Peppers, error) { return Peppers{}, errors.New("no pepper") }

// TestCopyName wants that a copy of a store is beside it, whatever its id is.
func TestCopyName(t *testing.T) {
	for c := range rune(0x300) {
		want := "/data/latchkey.db.format-3-ab"
		if c >= '0' && c <= '9' || c >= 'a' && c <= 'z' {
			want = "/data/latchkey.db.format-3-a" + string(c) + "b"
		}
		if got := copyName("/data/latchkey.db", header{Format: 3, StoreID: "a" + string(c) + "b"}); got != want {
			t.Errorf("%q: got %s, want %s", c, got, want)
		}
	}
	if got := copyName("x", header{Format: 12, StoreID: "0123456789"}); got != "x.format-12-01234567" {
		t.Errorf("got %s", got)
	}
}
