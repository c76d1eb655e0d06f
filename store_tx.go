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

// Tx is a transaction: a consistent view of the store and, in Update, a set of
// changes that are committed together. It is valid only inside the function
// that receives it, and not safe for concurrent use.
type Tx struct {
	Bolt    *bbolt.Tx   // only for the store family
	File    io.ReaderAt // the file as it is on disk; nil in Update
	Writes  int         // number of writes so far
	Changed []string    // names of the changed tables
	Afters  []func()    // the functions passed to After
	Trace   *ChangeSet  // records each changed record; may be nil
}

// After calls f once the transaction has succeeded and is on disk, before
// Update returns. f runs in the committer and must not block.
func (tx *Tx) After(f func()) { tx.Afters = append(tx.Afters, f) }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// recordVersion is the first byte of every stored value. A CRC-32C of four
// bytes follows, then the contents. The checksum is needed because bbolt checks
// only its meta pages.
const recordVersion = 1

// Get returns a copy of the value stored in a bucket under key, nil if there is
// none. It returns an error if the value does not match its checksum.
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

// Has reports whether a bucket holds key.
func (tx *Tx) Has(bucket string, key []byte) bool {
	b := tx.Bolt.Bucket([]byte(bucket))
	return b != nil && b.Get(key) != nil
}

// Range iterates over the keys of a bucket that begin with prefix, in byte
// order, and their values in stored form (see Unseal). Both slices are valid
// only until the next step. Do not change the bucket during the iteration.
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

// RangeFrom is Range for all keys of a bucket from the key from onwards.
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

// Count returns the number of keys of a bucket. It reads all of them.
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

// Walk calls visit for every key of every bucket, with the value in stored
// form. Both slices are valid only during the call. Walk stops at the first
// error of visit and returns it.
func (tx *Tx) Walk(visit func(bucket string, key, stored []byte) error) error {
	return tx.Bolt.ForEach(func(name []byte, b *bbolt.Bucket) error {
		return b.ForEach(func(key, stored []byte) error { return visit(string(name), key, stored) })
	})
}

// Put stores value in a bucket under key, with a checksum. It creates the
// bucket if there is none.
func (tx *Tx) Put(bucket string, key, value []byte) error {
	sealed := make([]byte, 5+len(value))
	sealed[0] = recordVersion
	binary.BigEndian.PutUint32(sealed[1:], checksum(key, value))
	copy(sealed[5:], value)
	return tx.PutRaw(bucket, key, sealed)
}

// Delete removes key from a bucket. It is no error if the key does not exist.
func (tx *Tx) Delete(bucket string, key []byte) error {
	b := tx.Bolt.Bucket([]byte(bucket))
	if b == nil {
		return nil
	}
	tx.Writes++
	return b.Delete(key)
}

// PutRaw stores a value without a checksum. It is for index entries, whose data
// is in the key.
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

// sealEntry returns the value of an index entry that ends with a record key of
// n bytes: n, then a CRC-32C of the entry and n.
func sealEntry(entry []byte, n int) []byte {
	value := make([]byte, 5)
	value[0] = byte(n)
	binary.BigEndian.PutUint32(value[1:], checksum(entry, value[:1]))
	return value
}

// entryKey returns the record key at the end of an index entry. A value of one
// byte, without a checksum, is from development versions.
func entryKey(bucket string, entry, value []byte) ([]byte, error) {
	if len(value) != 1 && len(value) != 5 || int(value[0]) > len(entry) {
		return nil, fmt.Errorf("%s/%x: not an index entry", bucket, entry)
	}
	if len(value) == 5 && binary.BigEndian.Uint32(value[1:]) != checksum(entry, value[:1]) {
		return nil, fmt.Errorf("%s/%x: checksum does not match, the index entry is damaged", bucket, entry)
	}
	return entry[len(entry)-int(value[0]):], nil
}

// damage is the panic value for a damaged index entry. Iterators have no error
// to return, so they panic, and Store and File turn the panic into an error.
type damage struct{ Err error }

// checksum covers the key too, so that a value under a wrong key is detected.
func checksum(key, value []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, value)
}

// Unseal checks a stored value and returns its contents, which are valid as
// long as raw.
func Unseal(bucket string, key, raw []byte) ([]byte, error) {
	if len(raw) < 5 || raw[0] != recordVersion {
		return nil, fmt.Errorf("%s/%x: not a record of this program", bucket, key)
	}
	if binary.BigEndian.Uint32(raw[1:]) != checksum(key, raw[5:]) {
		return nil, fmt.Errorf("%s/%x: checksum does not match, the record is damaged", bucket, key)
	}
	return raw[5:], nil
}

// maxTraced is how many changed records a ChangeSet lists one by one, because
// an import can change any number. maxTracedValue is how many bytes of JSON one
// listed value may have.
const (
	maxTraced      = 20
	maxTracedValue = 1024
)

// AuditPolicy defines what the audit log records about changes of a table.
type AuditPolicy struct {
	Object string // the log's word for a record; if "", changes are not logged
	// Personal means that the records are about people. The log then names the
	// changed fields without their values. Nobody can change the log, so it
	// must not keep personal data that was deleted elsewhere.
	Personal bool
	// Untold names fields, at any depth, that are not logged because they
	// change all the time and are of no interest.
	Untold []string
}

// ChangeSet collects the records that a transaction changes, for the audit log.
// It is not safe for concurrent use.
type ChangeSet struct {
	Changes []Change // at most maxTraced
	Count   int      // of all changed records
	Idle    bool     // records were stored, but none differs from before
}

// Change describes how one record changed: the fields that differ, before and
// after, without secrets.
type Change struct {
	Object string         `json:"object"` // such as "key key_018c..."
	Did    string         `json:"did"`    // created, changed or deleted
	Fields []string       `json:"fields"` // names of the fields that differ, sorted
	Before map[string]any `json:"before,omitempty"`
	After  map[string]any `json:"after,omitempty"`
}

// Note adds a changed record. before is nil if the record is new, after is nil
// if it was deleted. A record whose logged fields do not differ is not added.
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

// plainFields returns the members of a record's JSON, except those named in
// less. It returns nil for a nil record.
func plainFields(record any, less []string) (map[string]any, error) {
	if record == nil {
		return nil, nil
	}
	data, err := json.Marshal(record)
	if err != nil {
		return nil, fmt.Errorf("trace a change: %w", err)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber() // a float64 would round large ids
	var fields map[string]any
	if err := d.Decode(&fields); err != nil {
		return nil, fmt.Errorf("trace a change: %w", err)
	}
	without(fields, less)
	return fields, nil
}

// without deletes the members named in less from an object, at any depth.
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

// tellFields returns the named fields that exist, in a form fit for the log: no
// secrets, only scheme and host of a URL, and only the size of a long value.
func tellFields(fields map[string]any, names []string) map[string]any {
	told := map[string]any{}
	for _, name := range names {
		value, ok := fields[name]
		if !ok {
			continue
		}
		if name == "url" { // the path or query of a URL often holds a secret
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

// hidden replaces a secret value in the log.
const hidden = "(secret)"

// secretFields names the fields in which records keep secrets.
var secretFields = []string{"hash", "password", "secret", "token"}

// hideSecrets returns value with every secret replaced by hidden, at any depth.
// name is the field that holds value, "" if it is in an array.
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
