package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"iter"

	"go.etcd.io/bbolt"
)

// Tx is a transaction: a consistent view, and in Update a set of changes that
// happen together. It is valid only inside the function that got it.
type Tx struct {
	Bolt    *bbolt.Tx   // for tables alone
	File    io.ReaderAt // the file as it is on disk, in View alone
	Writes  int         // how much was written
	Changed []string    // the tables that were
	Afters  []func()    // what After was given
	Trace   *Trace      // told of each changed record, nil for nobody
}

// After has a function called once the transaction is on disk, before anybody
// who waits for it goes on. It runs in the committer and must not block.
func (tx *Tx) After(f func()) { tx.Afters = append(tx.Afters, f) }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// recordVersion opens every stored value; five bytes of version and CRC-32C
// stand before its contents, because bbolt itself checks only its meta pages.
const recordVersion = 1

// Get gives a copy of the value stored in a bucket under a key, nil where
// there is none. A value that does not match its checksum is an error.
func (tx *Tx) Get(bucket string, key []byte) ([]byte, error) {
	b := tx.Bolt.Bucket([]byte(bucket))
	if b == nil {
		return nil, nil
	}
	raw := b.Get(key)
	if raw == nil {
		return nil, nil
	}
	value, err := Unseal(bucket, key, raw)
	return bytes.Clone(value), err
}

// Has says whether a bucket holds a key.
func (tx *Tx) Has(bucket string, key []byte) bool {
	b := tx.Bolt.Bucket([]byte(bucket))
	return b != nil && b.Get(key) != nil
}

// Range goes through the keys of a bucket that begin with prefix, in their
// order, with the values as they are stored. Both are valid only until the
// next step; the bucket must not be changed meanwhile.
func (tx *Tx) Range(bucket string, prefix []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func(key, stored []byte) bool) {
		b := tx.Bolt.Bucket([]byte(bucket))
		if b == nil {
			return
		}
		c := b.Cursor()
		for key, stored := c.Seek(prefix); key != nil && bytes.HasPrefix(key, prefix); key, stored = c.Next() {
			if !yield(key, stored) {
				return
			}
		}
	}
}

// RangeFrom is Range for all keys of a bucket that are not before one.
func (tx *Tx) RangeFrom(bucket string, from []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func(key, stored []byte) bool) {
		b := tx.Bolt.Bucket([]byte(bucket))
		if b == nil {
			return
		}
		c := b.Cursor()
		for key, stored := c.Seek(from); key != nil; key, stored = c.Next() {
			if !yield(key, stored) {
				return
			}
		}
	}
}

// Count counts the keys of a bucket by going through them.
func (tx *Tx) Count(bucket string) (n int) {
	b := tx.Bolt.Bucket([]byte(bucket))
	if b == nil {
		return 0
	}
	c := b.Cursor()
	for key, _ := c.First(); key != nil; key, _ = c.Next() {
		n++
	}
	return n
}

// Walk visits every key of every bucket with its value as it is stored. They are valid only until the next step. It ends with the first
// error of a visit, and gives it.
func (tx *Tx) Walk(visit func(bucket string, key, stored []byte) error) error {
	return tx.Bolt.ForEach(func(name []byte, b *bbolt.Bucket) error {
		return b.ForEach(func(key, stored []byte) error { return visit(string(name), key, stored) })
	})
}

// Put stores a value in a bucket under a key.
func (tx *Tx) Put(bucket string, key, value []byte) error {
	sealed := make([]byte, 5+len(value))
	sealed[0] = recordVersion
	binary.BigEndian.PutUint32(sealed[1:], checksum(key, value))
	copy(sealed[5:], value)
	return tx.PutRaw(bucket, key, sealed)
}

// Delete removes a key from a bucket; a key that is not there is no error.
func (tx *Tx) Delete(bucket string, key []byte) error {
	b := tx.Bolt.Bucket([]byte(bucket))
	if b == nil {
		return nil
	}
	tx.Writes++
	return b.Delete(key)
}

// PutRaw stores a value without its checksum: for index entries, whose
// contents are in their key.
func (tx *Tx) PutRaw(bucket string, key, value []byte) error {
	b := tx.Bolt.Bucket([]byte(bucket))
	if b == nil {
		var err error
		if b, err = tx.Bolt.CreateBucket([]byte(bucket)); err != nil {
			return fmt.Errorf("create bucket %s: %w", bucket, err)
		}
	}
	tx.Writes++
	return b.Put(key, value)
}

// SealEntry gives the value of an index entry that ends with a record's key of
// n bytes: that length, and a CRC-32C of the entry and it.
func SealEntry(entry []byte, n int) []byte {
	value := make([]byte, 5)
	value[0] = byte(n)
	binary.BigEndian.PutUint32(value[1:], checksum(entry, value[:1]))
	return value
}

// EntryKey gives the record's key with which an index entry ends. The length
// alone, without a checksum, is how development versions wrote it.
func EntryKey(bucket string, entry, value []byte) ([]byte, error) {
	if len(value) != 1 && len(value) != 5 || int(value[0]) > len(entry) {
		return nil, fmt.Errorf("%s/%x: not an index entry", bucket, entry)
	}
	if len(value) == 5 && binary.BigEndian.Uint32(value[1:]) != checksum(entry, value[:1]) {
		return nil, fmt.Errorf("%s/%x: checksum does not match, the index entry is damaged", bucket, entry)
	}
	return entry[len(entry)-int(value[0]):], nil
}

// Damage is what a walk through an index panics with at a damaged entry, for it
// has no error to give. Store makes an error of it again.
type Damage struct{ Err error }

// checksum covers the key too, so that a value found under another key is seen.
func checksum(key, value []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, value)
}

// Unseal checks a stored value and gives its contents, which are valid as long
// as the transaction is.
func Unseal(bucket string, key, raw []byte) ([]byte, error) {
	if len(raw) < 5 || raw[0] != recordVersion {
		return nil, fmt.Errorf("%s/%x: not a record of this program", bucket, key)
	}
	if binary.BigEndian.Uint32(raw[1:]) != checksum(key, raw[5:]) {
		return nil, fmt.Errorf("%s/%x: checksum does not match, the record is damaged", bucket, key)
	}
	return raw[5:], nil
}
