package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// pageProblems is what CheckPages says of a file.
func pageProblems(t testing.TB, path string) (list []string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	err = db.View(func(b *bbolt.Tx) error {
		CheckPages(b, f, func(problem string) { list = append(list, problem) })
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// TestCheckPages_Sound writes and deletes at random, small values and such as
// need many pages, and compares with bbolt's own check after each commit.
func TestCheckPages_Sound(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	random := rand.New(rand.NewPCG(7, 8))
	for round := range 40 {
		db, err := bbolt.Open(path, 0o600, &bbolt.Options{NoSync: true, PageSize: 1024})
		if err != nil {
			t.Fatal(err)
		}
		err = db.Update(func(b *bbolt.Tx) error {
			for range random.IntN(200) {
				bucket, err := b.CreateBucketIfNotExists([]byte{'a' + byte(random.IntN(6))})
				if err != nil {
					return err
				}
				key := fmt.Appendf(nil, "%x", random.Uint64()>>(64-1-random.IntN(11)))
				if random.IntN(3) == 0 {
					err = bucket.Delete(key)
				} else {
					err = bucket.Put(key, make([]byte, random.IntN(1<<random.IntN(14))))
				}
				if err != nil {
					return err
				}
			}
			if random.IntN(9) == 0 {
				err := b.DeleteBucket([]byte("a"))
				if errors.Is(err, bolterrors.ErrBucketNotFound) {
					return nil
				}
				return err
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		err = db.View(func(b *bbolt.Tx) error {
			for err := range b.Check() {
				t.Errorf("round %d: bbolt itself finds %v", round, err)
			}
			return nil
		})
		if err := errors.Join(err, db.Close()); err != nil {
			t.Fatal(err)
		}
		if got := pageProblems(t, path); got != nil {
			t.Fatalf("round %d: got %q of a sound file", round, got)
		}
	}
}

// TestCheckPages_Free has more free pages than the header of their list can
// count.
func TestCheckPages_Free(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{NoSync: true, PageSize: 512})
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{70000 * 512, 1, 1} {
		err := db.Update(func(b *bbolt.Tx) error {
			bucket, err := b.CreateBucketIfNotExists([]byte("b"))
			if err != nil {
				return err
			}
			return bucket.Put([]byte("k"), make([]byte, size))
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if free := db.Stats().FreePageN; free < 1<<16 {
		t.Fatalf("%d free pages are too few to show anything", free)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if got := pageProblems(t, path); got != nil {
		t.Errorf("got %q", got)
	}
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
	if _, _, err := CompactStore(a.config.Server.Data, epoch); err != nil {
		t.Fatal(err)
	}
	return a, f
}

// structure lists the bytes of a compacted file that say what stands where: the
// headers of its nodes and their tables, also of the buckets that stand in one.
func structure(whole []byte) (list []int) {
	size := os.Getpagesize()
	add := func(from, to int) {
		for i := from; i < to; i++ {
			list = append(list, i)
		}
	}
	var node func(at, skip int)
	node = func(at, skip int) {
		b := whole[at:]
		add(at+skip, at+12)
		add(at+nodeHeader, at+nodeHeader+nodeElement*nodeCount(b))
		for i := range nodeCount(b) {
			if flags := binary.NativeEndian.Uint32(b[nodeHeader+nodeElement*i:]); nodeKind(b) == leafNode && flags == bucketFlag {
				_, value, end := nodeSpans(b, i)
				add(at+int(value), at+int(value)+8)
				if end-value > 16 {
					node(at+int(value)+16, 8) // its number is of no use
				}
			}
		}
	}
	free, end := freeList(whole, size)
	for page := 2 * size; page < end; page += size {
		if page != free && !listed(whole, free, page, size) {
			node(page, 0)
		}
	}
	return list
}

// TestCheckPages_Flips turns over bits of what says where things stand, of which
// each must be found.
func TestCheckPages_Flips(t *testing.T) {
	a, _ := treeStore(t)
	path := filepath.Join(memoryDir(t), "copy.db")
	whole, err := os.ReadFile(StorePath(a.config.Server.Data))
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[int]bool{}
	for page := 2 * os.Getpagesize(); page < len(whole); page += os.Getpagesize() {
		kinds[nodeKind(whole[page:])] = true
	}
	if !kinds[branchNode] || !kinds[leafNode] {
		t.Fatalf("the file has the kinds %v, too few to show anything", slices.Collect(maps.Keys(kinds)))
	}
	spots := structure(whole)
	random := rand.New(rand.NewPCG(9, 10))
	for range long("LATCHKEY_DAMAGE_PAGES", 100) {
		at, bit := spots[random.IntN(len(spots))], byte(1)<<random.IntN(8)
		damaged := bytes.Clone(whole)
		damaged[at] ^= bit
		overwrite(t, filepath.Dir(path), "copy.db", string(damaged))
		if result, err := CheckStoreFile(path); err == nil && len(result.Problems) == 0 {
			t.Errorf("byte %d of page %d, bit %08b: the check finds nothing", at%os.Getpagesize(), at/os.Getpagesize(), bit)
		}
	}
}

// TestCheckPages_Harm has each kind of damage told by its name.
func TestCheckPages_Harm(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{NoSync: true, PageSize: 1024})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{300, 290} { // the second frees pages
		err := db.Update(func(b *bbolt.Tx) error {
			bucket, err := b.CreateBucketIfNotExists([]byte("b"))
			for i := range n {
				err = errors.Join(err, bucket.Put(fmt.Appendf(nil, "key %04d", i), []byte("value")))
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	branch := 2048
	list, _ := freeList(whole, 1024)
	for nodeKind(whole[branch:]) != branchNode || number(whole[branch:]) != uint64(branch/1024) || listed(whole, list, branch, 1024) {
		branch += 1024
	}
	child := func(i int) int { return 1024 * int(number(whole[branch+nodeHeader+nodeElement*i+8:])) }
	put := binary.NativeEndian.PutUint64
	for _, tt := range []struct {
		name, want string
		harm       func(b []byte)
	}{
		{"a page out of the file", "is not one of the file's", func(b []byte) { put(b[branch+nodeHeader+8:], 1<<40) }},
		{"a ring", "has two uses", func(b []byte) { put(b[branch+nodeHeader+8:], uint64(branch/1024)) }},
		{"a child twice", "has two uses", func(b []byte) { put(b[branch+nodeHeader+8:], uint64(child(1)/1024)) }},
		{"a used page in the list of free ones", "has two uses", func(b []byte) { put(b[list+nodeHeader:], uint64(branch/1024)) }},
		{"another number", "says that it is page", func(b []byte) { put(b[child(0):], 99) }},
		{"no list", "not the list of the free pages", func(b []byte) { b[list+8] = leafNode }},
		{"a list too long", "do not fit in", func(b []byte) { b[list+11] = 0x7f }},
		{"a free page less", "is neither in use nor free", func(b []byte) { b[list+10]-- }},
		{"another kind", "not a node of the tree", func(b []byte) { b[child(0)+8] = 0x44 }},
		{"too many elements", "do not fit in", func(b []byte) { b[child(0)+11] = 0x7f }},
		{"too many pages", "of its node are not", func(b []byte) { b[child(0)+14] = 0x7f }},
		{"an offset out of the file", "is damaged: element 0 begins at byte", func(b []byte) { b[child(0)+nodeHeader+7] = 0x7f }},
		{"an offset of a branch", "is damaged: element 0 begins at byte", func(b []byte) { b[branch+nodeHeader+3] = 0x7f }},
		{"a value out of the file", "of 1024", func(b []byte) { b[child(0)+nodeHeader+15] = 0x7f }},
		{"no key", "has no key", func(b []byte) { put(b[child(0)+nodeHeader+8:], 0) }},
		{"keys out of order", "not after the one before", func(b []byte) { swapKeys(b[child(0):], 3, 4) }},
		{"keys of another branch", "before those that lead to it", func(b []byte) { copy(nodeKey(b[child(1):], 0), "kez 0000"); copy(nodeKey(b[branch:], 1), "kez 0000") }},
	} {
		bad := bytes.Clone(whole)
		tt.harm(bad)
		if tt.name == "keys of another branch" {
			copy(nodeKey(bad[child(1):], 0), "aaa 0000")
		}
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(pageProblems(t, path), "\n"); !strings.Contains(got, tt.want) {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

// freeList says where the list of the free pages is and where the last page ends,
// by the newer of the two first pages.
func freeList(whole []byte, size int) (list, end int) {
	meta := whole
	if number(whole[size+64:]) > number(whole[64:]) {
		meta = whole[size:]
	}
	return int(number(meta[metaFree:])) * size, int(number(meta[metaEnd:])) * size
}

// listed says whether a page is in the list of the free pages.
func listed(whole []byte, list, page, size int) bool {
	for i := range nodeCount(whole[list:]) {
		if number(whole[list+nodeHeader+8*i:]) == uint64(page/size) {
			return true
		}
	}
	return false
}

func swapKeys(node []byte, i, j int) {
	one := bytes.Clone(nodeKey(node, i))
	copy(nodeKey(node, i), nodeKey(node, j))
	copy(nodeKey(node, j), one)
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
			CheckPages(tx.Bolt, tx.File, func(problem string) { problems = append(problems, problem) })
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
	offMap(t, StorePath(data), "contacts")
	sound := func(what, stderr string) {
		t.Helper()
		if strings.Contains(stderr, "goroutine ") || strings.Contains(stderr, "fault address") {
			t.Errorf("%s: died of it: %.2000s", what, stderr)
		}
	}
	const want = "is damaged: element 0 begins at byte"
	stdout, stderr, exit := run(t, "check", StorePath(data))
	if sound("check FILE", stderr); exit != 1 || !strings.Contains(stdout, want) || !strings.Contains(stderr, "restore a backup") {
		t.Errorf("check FILE: got %d %s %s", exit, stdout, stderr)
	}
	for _, args := range [][]string{
		{"restore", StorePath(data), "--data", copyFolder(t, a.config.Server.Data)},
		{"compact", "--data", data},
	} {
		_, stderr, exit := run(t, args...)
		if sound(args[0], stderr); exit != 1 || !strings.Contains(stderr, "damaged") {
			t.Errorf("%s: got %d %s", args[0], exit, stderr)
		}
	}
	p := serveReal(t, data)
	stdout, stderr, exit = run(t, "check", "--data", data)
	if exit != 1 || !strings.Contains(stdout, want) {
		t.Errorf("check of the server: got %d %s %s", exit, stdout, stderr)
	}
	if err := p.socket().Do(context.Background(), "GET", "/admin/v1/contacts/1", nil, nil); err == nil {
		t.Error("the damaged record is shown")
	}
	backup := filepath.Join(t.TempDir(), "backup.db")
	if _, stderr, exit := run(t, "backup", backup, "--data", data); exit != 1 {
		t.Errorf("backup: got %d %s", exit, stderr)
	}
	if _, err := os.Lstat(backup); err == nil {
		t.Error("there is a backup of what cannot be read")
	}
	if code, _ := p.get(t, "/api/v1/agents", f.Key); code != 200 {
		t.Errorf("what is not damaged: got %d, want 200", code)
	}
	if code := p.stop(t); code != 0 {
		t.Errorf("got exit code %d", code)
	}
	sound("serve", p.out.String())
}
