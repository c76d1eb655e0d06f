package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"go.etcd.io/bbolt"

	"latchkey/internal/boltcheck"
	"latchkey/tests/program"
)

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
	if _, _, err := CompactStore(a.config.Server.Data, epoch); err != nil {
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
		if result, err := CheckStoreFile(path); err == nil && len(result.Problems) == 0 {
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
			boltcheck.Check(tx.Bolt, tx.File, func(problem string) { problems = append(problems, problem) })
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
	f, err := OpenFile(path, true)
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
