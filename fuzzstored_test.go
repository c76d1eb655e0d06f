package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
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
		w, rest, err := ReadWindow(b, int(limit), time.Minute)
		if err != nil {
			return
		}
		if len(rest) > len(b) || cap(w.marks) > 16+2*len(b) || w.used < 0 {
			t.Errorf("%x: %d bytes are left, %d marks, %d used", b, len(rest), cap(w.marks), w.used)
		}
		again, rest, err := ReadWindow(w.Append(nil), int(limit), time.Minute)
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
	key, err := json.Marshal(Key{ID: "key_1", Name: "n", Permissions: 3, Limits: map[string]int{"x": 1}, CreatedAt: epoch})
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
	file, err := OpenFile(path, false)
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
			func() error { _, err := tokenTable.decode(name, raw); return err },
			func() error { _, err := operatorTable.decode(name, raw); return err },
			func() error { _, err := contactTable.decode(name, raw); return err },
			func() error { _, err := sessionTable.decode(name, raw); return err },
			func() error { l, err := auditTable.decode(name, raw); auditTable.Indexes[0].Keys(l); return err },
		} {
			_ = decode()
		}
		if by != 0 {
			raw[int(at)%len(raw)] ^= by
			if got, err := Unseal("fuzz", name, raw); err == nil {
				t.Errorf("%x: changed at %d, and got %x", raw, int(at)%len(raw), got)
			}
		}
		if v, err := EntryKey("fuzz", name, raw); err == nil && !bytes.HasSuffix(name, v) {
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
		result, err := CheckFile(path, tables())
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
		result, err := CheckFile(path, tables())
		if err == nil && len(result.Problems) == 0 && !reflect.DeepEqual(records(t, path), want) {
			t.Errorf("page %d: the check finds nothing", page/os.Getpagesize())
		}
	}
}

// records reads what a database file holds.
func records(t testing.TB, path string) map[string]string {
	t.Helper()
	file, err := OpenFile(path, true)
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
