package main

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"go.etcd.io/bbolt"
)

// listCheck compares the data of the lists of a table with the records. It needs memory for the
// chunks about setIDs ids.
type listCheck struct {
	tx     *Tx
	table  string
	report func(problem string)
	number uint64               // of the present chunk of sets
	chunks map[chunkPlace]chunk // what should be stored about its ids
	wanted map[string]int       // number of chunks that should be stored, by bucket
}

func newListCheck(tx *Tx, table string, report func(string)) *listCheck {
	return &listCheck{tx: tx, table: table, report: report, chunks: map[chunkPlace]chunk{}, wanted: map[string]int{}}
}

// add adds a record. The ids must come in ascending order.
func (k *listCheck) add(id uint64, l *listRecord) {
	if id/setIDs != k.number {
		k.compare()
		k.number = id / setIDs
	}
	edit := func(at chunkPlace, read func([]byte) (chunk, error)) (c chunk, err error) {
		c, ok := k.chunks[at]
		if !ok {
			c, err = read(nil)
			k.chunks[at] = c
		}
		return c, err
	}
	if err := (listPlace{k.table, id}).change(edit, nil, l); err != nil {
		k.report(err.Error())
	}
}

// compare compares the chunks in memory with those in the store and forgets them.
func (k *listCheck) compare() {
	for at, c := range k.chunks {
		want := c.encode()
		if want == nil {
			continue
		}
		k.wanted[at.bucket]++
		stored, err := k.tx.Get(at.bucket, []byte(at.key)) // CheckStore reports an error
		if err == nil && !bytes.Equal(stored, want) {
			k.report(fmt.Sprintf("%s/%x: the data of lists does not fit the records", at.bucket, at.key))
		}
	}
	clear(k.chunks)
}

// end completes the check: it looks for chunks about records that do not exist.
func (k *listCheck) end() {
	k.compare()
	for _, bucket := range listBuckets(k.tx, k.table) {
		if found := k.tx.Count(bucket); found != k.wanted[bucket] {
			k.report(fmt.Sprintf("%s: there are %d parts of the data of lists, but the records require %d", bucket, found, k.wanted[bucket]))
		}
		delete(k.wanted, bucket)
	}
	for bucket, wanted := range k.wanted {
		k.report(fmt.Sprintf("%s: there are 0 parts of the data of lists, but the records require %d", bucket, wanted))
	}
}

// listBuckets returns the names of the buckets with data of the lists of a table.
func listBuckets(tx *Tx, table string) []string {
	return bucketsWith(tx, listBucket(table, ""))
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

// Repair makes the indexes, the data of lists and the stored count of the table anew from its
// records. It changes no record. It leaves out forged records, and returns an error if another
// record cannot be read.
func (t Table[T]) Repair(tx *Tx) error {
	tx.chunks = nil
	for _, bucket := range slices.Concat(bucketsWith(tx, t.Name+"/"), listBuckets(tx, t.Name)) {
		if err := tx.Bolt.DeleteBucket([]byte(bucket)); err != nil {
			return fmt.Errorf("delete bucket %s: %w", bucket, err)
		}
		tx.Writes++
	}
	records := tx.Count(t.Name)
	for v, err := range t.All(tx, Forward) {
		if err != nil {
			return err
		}
		key := t.Key(v)
		c := tableChange[T]{after: &v}
		for _, ix := range t.Indexes {
			if err := t.reindex(tx, ix, key, c); err != nil {
				return err
			}
		}
		if err := t.relist(tx, key, c); err != nil {
			return err
		}
	}
	if records == 0 && !tx.Has("counts", []byte(t.Name)) {
		return nil
	}
	return tx.Put("counts", []byte(t.Name), IDKey(uint64(records)))
}
