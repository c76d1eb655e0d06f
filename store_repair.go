package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"go.etcd.io/bbolt"

	"latchkey/internal/boltcheck"
)

// listScan makes the data of the lists of a table from its records. It needs memory for the chunks
// about setIDs ids.
type listScan struct {
	table  string
	emit   func(at recordPlace, contents []byte) // receives each chunk, those about higher ids later
	number uint64                                // of the present chunk of sets
	chunks map[recordPlace]chunk                 // what is known of its ids so far
}

// add adds a record. The ids must come in ascending order.
func (s *listScan) add(id uint64, l *listRecord) error {
	if id/setIDs != s.number {
		s.flush()
		s.number = id / setIDs
	}
	if s.chunks == nil {
		s.chunks = map[recordPlace]chunk{}
	}
	edit := func(at recordPlace, read func([]byte) (chunk, error)) (c chunk, err error) {
		c, ok := s.chunks[at]
		if !ok {
			c, err = read(nil)
			s.chunks[at] = c
		}
		return c, err
	}
	return listPlace{s.table, id}.change(edit, nil, l)
}

// flush emits the chunks in memory. Call it after the last record.
func (s *listScan) flush() {
	for at, c := range s.chunks {
		if contents := c.encode(); contents != nil {
			s.emit(at, contents)
		}
	}
	clear(s.chunks)
}

// listCheck compares the data of the lists of a table with the records.
type listCheck struct {
	listScan
	tx     *Tx
	report func(problem string)
	wanted map[string]int // number of chunks that should be stored, by bucket
}

func newListCheck(tx *Tx, table string, report func(string)) *listCheck {
	k := &listCheck{listScan{table: table}, tx, report, map[string]int{}}
	k.emit = k.compare
	return k
}

// compare compares a chunk with the stored one.
func (k *listCheck) compare(at recordPlace, want []byte) {
	k.wanted[at.bucket]++
	stored, err := k.tx.Get(at.bucket, []byte(at.key)) // CheckStore reports an error
	if err == nil && !bytes.Equal(stored, want) {
		k.report(fmt.Sprintf("%s/%x: the data of lists does not fit the records", at.bucket, at.key))
	}
}

// end completes the check: it looks for chunks about records that do not exist.
func (k *listCheck) end() {
	k.flush()
	for _, bucket := range bucketsWith(k.tx, listBucket(k.table, "")) {
		if found := k.tx.Count(bucket); found != k.wanted[bucket] {
			k.report(fmt.Sprintf("%s: there are %d parts of the data of lists, but the records require %d", bucket, found, k.wanted[bucket]))
		}
	}
}

// bucketsWith returns the names of the buckets that begin with prefix.
func bucketsWith(tx *Tx, prefix string) (names []string) {
	_ = tx.Bolt.ForEach(func(name []byte, _ *bbolt.Bucket) error { // the function returns no error
		if strings.HasPrefix(string(name), prefix) {
			names = append(names, string(name))
		}
		return nil
	})
	return names
}

// Repair makes what follows from the records of the tables anew, and the stored bytes of each owner. It
// returns an error and changes nothing if a page of the file or a record is damaged. It needs little
// memory, except for the rows of lists.
func (f *File) Repair(tables []Checked) error {
	err := f.View(func(tx *Tx) error {
		damaged := ""
		err := boltcheck.Check(tx.Bolt, tx.File, func(problem string) { damaged = problem }, func(done, total int64) error {
			return tx.Progress.Report("checking pages", done, total)
		})
		if err != nil {
			return err
		}
		if damaged != "" {
			return fmt.Errorf("pages of the file are damaged (%s); restore a backup", damaged)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := f.remake(tables); err != nil {
		return fmt.Errorf("repair: %w", err)
	}
	return nil
}

// remake is Repair without the check of the pages.
func (f *File) remake(tables []Checked) error {
	recounted := map[uint64]int64{}
	err := f.rebuild(func(tx *Tx, emit func(DerivedEntry) error) error {
		tx.checked = &recordCount{tx.Progress, "making indexes and lists", 0, tx.countRecords()}
		tx.recounted = recounted
		for _, t := range tables {
			if err := t.Derive(tx, emit); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	err = f.Update(func(tx *Tx) error {
		for _, t := range tables {
			if err := t.Adopt(tx); err != nil {
				return err
			}
		}
		return errors.Join(tx.dropRebuilt(), DropSeal(tx), tx.storeOwnerBytes(recounted))
	})
	if err != nil {
		return errors.Join(err, f.dropRebuilt())
	}
	return nil
}

// countRecords returns the number of records of all tables, by their stored counts.
func (tx *Tx) countRecords() (n int64) {
	for key, raw := range tx.Range("counts", nil) {
		if value, err := Unseal("counts", key, raw); err == nil && len(value) == 8 {
			n += int64(binary.BigEndian.Uint64(value))
		}
	}
	return n
}

// Derive calls emit for each entry of the indexes and of the data of lists, and adds up the bytes of
// each owner. It leaves out forged records, and returns an error if another record cannot be read.
func (t *Table[T]) Derive(tx *Tx, emit func(DerivedEntry) error) error {
	return deriveTable(tx, t, emit)
}

// Adopt replaces the indexes and the data of lists by those that were made anew. It makes the rows of
// lists and the stored count of the table anew.
func (t *Table[T]) Adopt(tx *Tx) error { return adoptTable(tx, t) }
