package main

import (
	"bufio"
	"bytes"
	"container/heap"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	bolterrors "go.etcd.io/bbolt/errors"

	"latchkey/internal/durable"
)

// rebuildBucket is the bucket in which File.rebuild makes buckets. They take the places of others when
// they are complete, see Tx.adopt. The store has no other bucket in a bucket. If the program ends
// before, the next one that can change the file deletes it.
const rebuildBucket = "rebuild"

// The sizes in bytes of what rebuild keeps in memory: entries to be sorted, and those of a transaction.
const (
	sortedBytes  = 32 << 20
	rebuildBytes = 8 << 20
)

// DerivedEntry is an entry of a bucket whose contents follow from records. value is as it is stored.
type DerivedEntry struct {
	bucket     string
	key, value []byte
}

// chunkEntry returns the entry of a chunk of the data of lists.
func chunkEntry(at recordPlace, contents []byte) DerivedEntry {
	return DerivedEntry{at.bucket, []byte(at.key), sealRecord(recordVersion, []byte(at.key), contents)}
}

// indexEntry returns an index entry that ends with a key of n bytes.
func indexEntry(bucket string, entry []byte, n int) DerivedEntry {
	return DerivedEntry{bucket, entry, sealEntry(entry, n)}
}

func (e DerivedEntry) compare(other DerivedEntry) int {
	if order := strings.Compare(e.bucket, other.bucket); order != 0 {
		return order
	}
	return bytes.Compare(e.key, other.key)
}

// size returns about how many bytes of memory the entry needs.
func (e DerivedEntry) size() int { return 96 + len(e.key) + len(e.value) }

// deriver calls emit for each entry of some buckets, in any order. It stops at the first error of emit.
type deriver func(tx *Tx, emit func(DerivedEntry) error) error

// rebuild makes buckets in rebuildBucket, with the entries that derive finds. It sorts them in a
// temporary file: bbolt moves the keys of a bucket again and again if they come in any other order.
// It stores them in several transactions, because one keeps all that it has written in memory.
func (f *File) rebuild(derive deriver) (err error) {
	if err := f.dropRebuilt(); err != nil {
		return err
	}
	s, err := newEntrySorter(f.path + ".rebuild")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if err := f.View(func(tx *Tx) error { return derive(tx, s.add) }); err != nil {
		return err
	}
	var part []DerivedEntry
	size, done := 0, int64(0)
	store := func() error {
		err := f.Update(func(tx *Tx) error { return storeRebuilt(tx, part) })
		done += int64(len(part))
		part, size = part[:0], 0
		return errors.Join(err, f.Progress.Report("storing indexes and lists", done, s.count))
	}
	err = s.each(func(e DerivedEntry) error {
		part = append(part, e)
		if size += e.size(); size < rebuildBytes {
			return nil
		}
		return store()
	})
	if err == nil {
		err = store()
	}
	if err != nil {
		return errors.Join(err, f.dropRebuilt())
	}
	return nil
}

// inOrder prepares a bucket for a transaction that stores records in the order of their keys. bbolt then fills its pages, while
// it otherwise leaves half of each free for keys in between. A transaction has all pages that it writes in memory.
func (tx *Tx) inOrder(bucket string) error {
	b, err := tx.bucket(bucket)
	if err == nil {
		b.FillPercent = 0.9
	}
	return err
}

// storeRebuilt stores entries in rebuildBucket. They must be sorted, and come after those before.
func storeRebuilt(tx *Tx, entries []DerivedEntry) error {
	root, err := tx.Bolt.CreateBucketIfNotExists([]byte(rebuildBucket))
	if err != nil {
		return fmt.Errorf("create bucket %s: %w", rebuildBucket, err)
	}
	for _, e := range entries {
		b, err := root.CreateBucketIfNotExists([]byte(e.bucket))
		if err != nil {
			return fmt.Errorf("create bucket %s: %w", e.bucket, err)
		}
		b.FillPercent = 0.9 // the keys are in order, so no page is divided later
		if err := b.Put(e.key, e.value); err != nil {
			return fmt.Errorf("%s/%x: %w", e.bucket, e.key, err)
		}
	}
	return nil
}

// dropRebuilt deletes rebuildBucket.
func (f *File) dropRebuilt() error {
	left := false
	err := f.View(func(tx *Tx) error {
		left = tx.Bolt.Bucket([]byte(rebuildBucket)) != nil
		return nil
	})
	if err != nil || !left {
		return err
	}
	return f.Update((*Tx).dropRebuilt)
}

// dropRebuilt deletes rebuildBucket.
func (tx *Tx) dropRebuilt() error {
	if err := tx.Bolt.DeleteBucket([]byte(rebuildBucket)); err != nil && !errors.Is(err, bolterrors.ErrBucketNotFound) {
		return fmt.Errorf("delete bucket %s: %w", rebuildBucket, err)
	}
	return nil
}

// adopt replaces all buckets whose names have the prefix by those in rebuildBucket.
func (tx *Tx) adopt(prefix string) error {
	for _, bucket := range bucketsWith(tx, prefix) {
		if err := tx.Bolt.DeleteBucket([]byte(bucket)); err != nil {
			return fmt.Errorf("delete bucket %s: %w", bucket, err)
		}
		tx.Writes++
	}
	root := tx.Bolt.Bucket([]byte(rebuildBucket))
	if root == nil {
		return nil
	}
	var names [][]byte
	c := root.Cursor()
	for name, _ := c.Seek([]byte(prefix)); bytes.HasPrefix(name, []byte(prefix)); name, _ = c.Next() {
		names = append(names, bytes.Clone(name))
	}
	for _, name := range names {
		if err := tx.Bolt.MoveBucket(name, root, nil); err != nil {
			return fmt.Errorf("move bucket %s: %w", name, err)
		}
		tx.Writes++
	}
	return nil
}

// entrySorter sorts entries in a temporary file.
type entrySorter struct {
	file    *os.File
	end     int64
	runs    []*io.SectionReader // sorted entries, each part by itself
	entries []DerivedEntry      // not yet in the file
	size    int                 // of entries
	count   int64               // number of all entries
}

// newEntrySorter returns an entrySorter with a new file at path, which it replaces. Call close to
// remove it.
func newEntrySorter(path string) (*entrySorter, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	file, err := durable.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	return &entrySorter{file: file}, err
}

// add adds an entry. It keeps its key and value.
func (s *entrySorter) add(e DerivedEntry) error {
	s.entries = append(s.entries, e)
	s.count++
	if s.size += e.size(); s.size < sortedBytes {
		return nil
	}
	return s.write()
}

// write moves the entries to the file.
func (s *entrySorter) write() error {
	slices.SortFunc(s.entries, DerivedEntry.compare)
	begin, w := s.end, bufio.NewWriterSize(io.NewOffsetWriter(s.file, s.end), 1<<16)
	var head []byte
	for _, e := range s.entries {
		head = binary.AppendUvarint(binary.AppendUvarint(binary.AppendUvarint(head[:0], uint64(len(e.bucket))), uint64(len(e.key))), uint64(len(e.value)))
		for _, part := range [][]byte{head, []byte(e.bucket), e.key, e.value} {
			n, err := w.Write(part)
			if s.end += int64(n); err != nil {
				return fmt.Errorf("write %s: %w", s.file.Name(), err)
			}
		}
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("write %s: %w", s.file.Name(), err)
	}
	s.runs = append(s.runs, io.NewSectionReader(s.file, begin, s.end-begin))
	clear(s.entries)
	s.entries, s.size = s.entries[:0], 0
	return nil
}

// each calls visit for all entries in their order. visit may keep them.
func (s *entrySorter) each(visit func(DerivedEntry) error) error {
	if err := s.write(); err != nil {
		return err
	}
	s.entries = nil
	var runs sortedRuns
	for _, part := range s.runs {
		r := &sortedRun{from: bufio.NewReaderSize(part, 1<<16)}
		if err := r.next(); err != nil {
			return fmt.Errorf("read %s: %w", s.file.Name(), err)
		}
		if !r.ended {
			runs = append(runs, r)
		}
	}
	heap.Init(&runs)
	for len(runs) > 0 {
		r := runs[0]
		if err := visit(r.entry); err != nil {
			return err
		}
		if err := r.next(); err != nil {
			return fmt.Errorf("read %s: %w", s.file.Name(), err)
		}
		if r.ended {
			heap.Pop(&runs)
		} else {
			heap.Fix(&runs, 0)
		}
	}
	return nil
}

// close removes the file.
func (s *entrySorter) close() error { return errors.Join(s.file.Close(), os.Remove(s.file.Name())) }

// sortedRun reads entries that are sorted.
type sortedRun struct {
	from  *bufio.Reader
	entry DerivedEntry // the present one
	ended bool         // there was none left
}

// next moves to the next entry.
func (r *sortedRun) next() error {
	var sizes [3]uint64
	for i := range sizes {
		n, err := binary.ReadUvarint(r.from)
		if r.ended = i == 0 && errors.Is(err, io.EOF); r.ended {
			return nil
		}
		if err != nil {
			return err
		}
		sizes[i] = n
	}
	data := make([]byte, sizes[0]+sizes[1]+sizes[2])
	_, err := io.ReadFull(r.from, data)
	name, rest := data[:sizes[0]], data[sizes[0]:]
	if string(name) != r.entry.bucket {
		r.entry.bucket = string(name)
	}
	r.entry.key, r.entry.value = rest[:sizes[1]], rest[sizes[1]:]
	return err
}

// sortedRuns is a heap of what is left of several runs.
type sortedRuns []*sortedRun

func (r sortedRuns) Len() int           { return len(r) }
func (r sortedRuns) Less(i, j int) bool { return r[i].entry.compare(r[j].entry) < 0 }
func (r sortedRuns) Swap(i, j int)      { r[i], r[j] = r[j], r[i] }

// Push is part of heap.Interface.
func (r *sortedRuns) Push(run any) { *r = append(*r, run.(*sortedRun)) }

// Pop is part of heap.Interface.
func (r *sortedRuns) Pop() any {
	last := (*r)[len(*r)-1]
	*r = (*r)[:len(*r)-1]
	return last
}
