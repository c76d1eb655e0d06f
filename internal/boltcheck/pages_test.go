package boltcheck

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// problems returns what Check reports of a file.
func problems(t testing.TB, path string) (list []string) {
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
		_ = Check(b, f, func(problem string) { list = append(list, problem) }, nil)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// compareFree compares FreeBytes with what bbolt says after a change.
func compareFree(t *testing.T, db *bbolt.DB) {
	t.Helper()
	f, err := os.Open(db.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	err = db.View(func(b *bbolt.Tx) error {
		free, err := FreeBytes(b, f)
		if want := int64(db.Stats().FreeAlloc); err != nil || free != want {
			t.Errorf("got %d free bytes, %v, want %d", free, err, want)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestCheck_Sound writes and deletes at random, small values and such as
// need many pages, and compares with bbolt's own check after each commit.
func TestCheck_Sound(t *testing.T) {
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
		compareFree(t, db)
		err = db.View(func(b *bbolt.Tx) error {
			for err := range b.Check() {
				t.Errorf("round %d: bbolt itself finds %v", round, err)
			}
			return nil
		})
		if err := errors.Join(err, db.Close()); err != nil {
			t.Fatal(err)
		}
		if got := problems(t, path); got != nil {
			t.Fatalf("round %d: got %q of a sound file", round, got)
		}
	}
}

// TestCheck_Free has more free pages than the header of their list can
// count.
func TestCheck_Free(t *testing.T) {
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
	compareFree(t, db)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if got := problems(t, path); got != nil {
		t.Errorf("got %q", got)
	}
}

// TestCheck_Harm has each kind of damage told by its name.
func TestCheck_Harm(t *testing.T) {
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
		{"a page out of the file", "is outside the file", func(b []byte) { put(b[branch+nodeHeader+8:], 1<<40) }},
		{"a ring", "has two uses", func(b []byte) { put(b[branch+nodeHeader+8:], uint64(branch/1024)) }},
		{"a child twice", "has two uses", func(b []byte) { put(b[branch+nodeHeader+8:], uint64(child(1)/1024)) }},
		{"a used page in the list of free ones", "has two uses", func(b []byte) { put(b[list+nodeHeader:], uint64(branch/1024)) }},
		{"another number", "has the number of page 99 in its header", func(b []byte) { put(b[child(0):], 99) }},
		{"no list", "not the list of free pages", func(b []byte) { b[list+8] = leafNode }},
		{"a list too long", "more than it has space for", func(b []byte) { b[list+11] = 0x7f }},
		{"a free page less", "is neither in use nor free", func(b []byte) { b[list+10]-- }},
		{"another kind", "not a node of the tree", func(b []byte) { b[child(0)+8] = 0x44 }},
		{"too many elements", "has no space for", func(b []byte) { b[child(0)+11] = 0x7f }},
		{"too many pages", "its node of 8323072 pages is", func(b []byte) { b[child(0)+14] = 0x7f }},
		{"an offset out of the file", "is damaged: element 0 begins at byte", func(b []byte) { b[child(0)+nodeHeader+7] = 0x7f }},
		{"an offset of a branch", "is damaged: element 0 begins at byte", func(b []byte) { b[branch+nodeHeader+3] = 0x7f }},
		{"a value out of the file", "of 1024", func(b []byte) { b[child(0)+nodeHeader+15] = 0x7f }},
		{"no key", "has no key", func(b []byte) { put(b[child(0)+nodeHeader+8:], 0) }},
		{"keys out of order", "not after the previous key", func(b []byte) { swapKeys(b[child(0):], 3, 4) }},
		{"keys of another branch", "before the range of its place", func(b []byte) { copy(nodeKey(b[child(1):], 0), "kez 0000"); copy(nodeKey(b[branch:], 1), "kez 0000") }},
	} {
		bad := bytes.Clone(whole)
		tt.harm(bad)
		if tt.name == "keys of another branch" {
			copy(nodeKey(bad[child(1):], 0), "aaa 0000")
		}
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(problems(t, path), "\n"); !strings.Contains(got, tt.want) {
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
