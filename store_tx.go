package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"iter"
	"net/url"
	"reflect"
	"slices"

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
	Trace   *ChangeSet  // told of each changed record, nil for nobody
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

// sealEntry gives the value of an index entry that ends with a record's key of
// n bytes: that length, and a CRC-32C of the entry and it.
func sealEntry(entry []byte, n int) []byte {
	value := make([]byte, 5)
	value[0] = byte(n)
	binary.BigEndian.PutUint32(value[1:], checksum(entry, value[:1]))
	return value
}

// entryKey gives the record's key with which an index entry ends. The length
// alone, without a checksum, is how development versions wrote it.
func entryKey(bucket string, entry, value []byte) ([]byte, error) {
	if len(value) != 1 && len(value) != 5 || int(value[0]) > len(entry) {
		return nil, fmt.Errorf("%s/%x: not an index entry", bucket, entry)
	}
	if len(value) == 5 && binary.BigEndian.Uint32(value[1:]) != checksum(entry, value[:1]) {
		return nil, fmt.Errorf("%s/%x: checksum does not match, the index entry is damaged", bucket, entry)
	}
	return entry[len(entry)-int(value[0]):], nil
}

// damage is what a walk through an index panics with at a damaged entry, for it
// has no error to give. Store makes an error of it again.
type damage struct{ Err error }

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

// maxTraced is how many changed records a ChangeSet tells of one by one; an import
// can have any number. maxTracedValue is how many bytes of one value it keeps.
const (
	maxTraced      = 20
	maxTracedValue = 1024
)

// AuditPolicy says what the audit log tells of a table's records.
type AuditPolicy struct {
	Object string // what it calls a record, "" where it tells of none
	// Personal says that records are about people. The log names which of their
	// fields were changed and keeps no values: what nobody can change must not go
	// on holding what was deleted.
	Personal bool
	// Untold are fields, at any depth, that change all the time and tell nothing.
	Untold []string
}

// ChangeSet collects which records a transaction changes, for the audit log. It
// belongs to the goroutine of the transaction.
type ChangeSet struct {
	Changes []Change // the first of them
	Count   int      // all of them
	Idle    bool     // records were stored, but none was changed by it
}

// Change is what became of one record: the fields that differ, before and
// after, without secrets.
type Change struct {
	Object string         `json:"object"` // such as "key key_018c..."
	Did    string         `json:"did"`    // created, changed or deleted
	Fields []string       `json:"fields"` // names of those that differ
	Before map[string]any `json:"before,omitempty"`
	After  map[string]any `json:"after,omitempty"`
}

// Note adds a record: as it was, nil for a new one, and as it is, nil for one
// that is gone.
func (t *ChangeSet) Note(told AuditPolicy, before, after any) error {
	if t.Count >= maxTraced {
		t.Count++
		return nil
	}
	was, err := plainFields(before, told.Untold)
	if err != nil {
		return err
	}
	now, err := plainFields(after, told.Untold)
	if err != nil {
		return err
	}
	c := Change{Object: told.Object + " " + fieldID(was, now), Did: "changed", Fields: []string{}}
	switch {
	case before == nil:
		c.Did = "created"
	case after == nil:
		c.Did = "deleted"
	}
	for _, fields := range []map[string]any{was, now} {
		for name := range fields {
			if !reflect.DeepEqual(was[name], now[name]) && !slices.Contains(c.Fields, name) {
				c.Fields = append(c.Fields, name)
			}
		}
	}
	if slices.Sort(c.Fields); len(c.Fields) == 0 {
		t.Idle = t.Count == 0
		return nil
	}
	if !told.Personal {
		c.Before, c.After = tellFields(was, c.Fields), tellFields(now, c.Fields)
	}
	t.Changes = append(t.Changes, c)
	t.Count, t.Idle = t.Count+1, false
	return nil
}

// plainFields gives a record as the members of its JSON, less some.
func plainFields(record any, less []string) (map[string]any, error) {
	if record == nil {
		return nil, nil
	}
	data, err := json.Marshal(record)
	if err != nil {
		return nil, fmt.Errorf("trace a change: %w", err)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber() // an id is more exact than a float
	var fields map[string]any
	if err := d.Decode(&fields); err != nil {
		return nil, fmt.Errorf("trace a change: %w", err)
	}
	without(fields, less)
	return fields, nil
}

// without takes members out of an object, at any depth.
func without(fields map[string]any, less []string) {
	for name, value := range fields {
		if inner, ok := value.(map[string]any); ok {
			without(inner, less)
		}
		if slices.Contains(less, name) {
			delete(fields, name)
		}
	}
}

func fieldID(was, now map[string]any) string {
	if id, ok := now["id"]; ok {
		return fmt.Sprint(id)
	}
	return fmt.Sprint(was["id"])
}

// tellFields picks what may be told.
func tellFields(fields map[string]any, names []string) map[string]any {
	told := map[string]any{}
	for _, name := range names {
		value, ok := fields[name]
		if !ok {
			continue
		}
		if name == "url" { // paths and queries of addresses hold secrets often
			value = hostOf(value)
		}
		told[name] = hideSecrets(name, value)
		if data, err := json.Marshal(told[name]); err != nil || len(data) > maxTracedValue {
			told[name] = fmt.Sprintf("(%d bytes)", len(data))
		}
	}
	return told
}

func hostOf(value any) string {
	text, _ := value.(string)
	u, err := url.Parse(text)
	if err != nil {
		return hidden
	}
	return u.Scheme + "://" + u.Host + "/..."
}

// hidden stands for a value that differs and is not told.
const hidden = "(secret)"

// secretFields are the names under which records keep what nobody may see.
var secretFields = []string{"hash", "password", "secret", "token"}

// hideSecrets replaces secrets in a value at any depth.
func hideSecrets(name string, value any) any {
	if slices.Contains(secretFields, name) {
		return hidden
	}
	switch v := value.(type) {
	case map[string]any:
		told := map[string]any{}
		for name, inner := range v {
			told[name] = hideSecrets(name, inner)
		}
		return told
	case []any:
		told := []any{}
		for _, inner := range v {
			told = append(told, hideSecrets("", inner))
		}
		return told
	}
	return value
}
