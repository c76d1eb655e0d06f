package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"iter"
	"net/url"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"go.etcd.io/bbolt"

	"latchkey/internal/strictjson"
)

// Tx is a transaction. It sees one consistent state of the store. In Update it also
// collects changes, which are committed together or not at all. Use it only inside the
// function that receives it. It is not safe for concurrent use.
type Tx struct {
	Bolt    *bbolt.Tx   // for use in the store family only
	File    io.ReaderAt // the database file as it is on disk; nil in Update
	Writes  int         // number of writes so far
	Bytes   int         // size of the keys and values written so far
	Changed []string    // names of the tables changed so far
	Afters  []func()    // the functions passed to After
	Trace   *ChangeSet  // collects the changed records for the audit log; may be nil
	Touched []Touched   // the first records that the key of the Writer has changed in the present change, see Touch
	// TouchedMore is the number of further records that it has changed.
	TouchedMore int
	Auth        *Authenticator // signs and verifies records; nil: they have no MAC, and it is not verified
	Writer      Writer         // on whose behalf the present change is made
	Bounds      Bounds         // the bounds that apply to changes by a Writer with an owner
	Mails       []string       // the types of events of which the operators get mails, see Store.SetMails
	// Progress receives how much of a check of the store or of a MAC is done; nil: nobody wants to know.
	Progress Progress
	checked  *recordCount // counts the records whose indexes were checked; nil: they are not counted

	Refusal   error                  // the error of each write of the present change; nil: it may write
	growth    map[uint64]ownerGrowth // what the present change adds to the bytes of owners
	recounted map[uint64]int64       // the bytes of each owner that a check has found

	buckets []openBucket         // those that a read transaction has opened
	shared  map[sharedRecord]any // see Table.Shared

	chunks map[recordPlace]chunk // the changed data of lists, until flushChunks
	rowLog *rowLog               // the changes of rows of the last commits; nil: they are not known
	rows   []recordPlace         // the chunks of rows and of their values that the transaction has written

	decoded int      // size of the records decoded since the last call of Yield that let others run
	undo    *undoLog // what the present change has overwritten; nil if it is not undone alone

	written *writtenRecords // what the transaction has written, for other nodes; nil: nobody wants to know
	secure  bool            // Secure was called in the present change
	first   writtenMark     // what other changes had written when the present one began

	ctx  context.Context // see Store.ViewFor; nil: the transaction ends only by itself
	work int             // units of reading since the last look at ctx
}

// workBetween is the number of units of reading between two looks at the context of a transaction. An
// index entry is one unit, and a record one for every 64 bytes.
const workBetween = 256

// ended returns ErrBroken if the context of the transaction has ended. units is the reading that the
// caller is about to do. ended looks at the context only once for every workBetween units.
func (tx *Tx) ended(units int) error {
	if tx.ctx == nil {
		return nil
	}
	if tx.work += units; tx.work < workBetween {
		return nil
	}
	tx.work = 0
	if tx.ctx.Err() != nil {
		return ErrBroken
	}
	return nil
}

// step is ended for an iterator over keys, which cannot return an error: it panics, see damage.
func (tx *Tx) step() {
	if err := tx.ended(1); err != nil {
		panic(damage{err})
	}
}

// Secure says that the present change takes rights away: a key may do less than before, or a person
// can no longer log in. If the store is shared, the change is acknowledged only once no node
// answers from a state before it.
func (tx *Tx) Secure() { tx.secure = true }

// Full reports whether a change that can be divided should leave the rest to another transaction, because a shared store takes
// only so much at once, see cluster.MaxWrites. It is false if the store is not shared.
func (tx *Tx) Full() bool { return tx.written.full() }

// Fits returns an *Oversized error if a shared store cannot take all that the present change has written, see
// cluster.MaxWrites. The store refuses such a change anyway; a change that is only tried asks before it is undone.
func (tx *Tx) Fits() error { return tx.written.fits(tx.first) }

// After registers a function that is called once the transaction is on disk, before
// Update returns. It is not called if the transaction fails. It runs in the
// committer's goroutine and must not block.
func (tx *Tx) After(f func()) { tx.Afters = append(tx.Afters, f) }

// yieldBytes is how much a read transaction decodes, in about a millisecond, before it lets other
// goroutines run.
const yieldBytes = 64 << 10

// Yield lets other goroutines run if the transaction has decoded yieldBytes since it last did. The
// scheduler itself interrupts a long scan only after 10 ms, so several scans would keep short
// requests waiting for as many times 10 ms on each step of their way. Update does not yield, because
// everybody waits for it. size is the size of a record that was just decoded.
func (tx *Tx) Yield(size int) {
	if tx.decoded += size; tx.decoded < yieldBytes || tx.Bolt.Writable() {
		return
	}
	tx.decoded = 0
	runtime.Gosched()
}

// castagnoli is the table for CRC-32C.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// The versions of stored records. A record begins with its version and a CRC-32C of
// everything that follows; then come the contents. A signed record ends with a MAC, see
// Authenticator. The checksum is needed because bbolt has checksums only for its meta
// pages.
const (
	recordVersion = 1
	signedVersion = 2
)

// Get returns a copy of the contents stored in a bucket under key. It returns nil
// without an error if the bucket or the key does not exist. It returns an error if
// the stored record is damaged.
func (tx *Tx) Get(bucket string, key []byte) ([]byte, error) { return tx.get(bucket, key, Unseal) }

// get is Get, with the function that checks the stored record and returns its contents.
func (tx *Tx) get(bucket string, key []byte, check func(bucket string, key, raw []byte) ([]byte, error)) ([]byte, error) {
	raw := tx.stored(bucket, key)
	if raw == nil {
		return nil, nil
	}
	value, err := check(bucket, key, raw)
	return bytes.Clone(value), err
}

// Has reports whether key exists in a bucket. It does not check the value.
func (tx *Tx) Has(bucket string, key []byte) bool { return tx.stored(bucket, key) != nil }

// recordPlace is where a record is stored, or a chunk of the data of lists.
type recordPlace struct{ bucket, key string }

// compare orders places by bucket, then by key.
func (p recordPlace) compare(other recordPlace) int {
	return cmp.Or(strings.Compare(p.bucket, other.bucket), strings.Compare(p.key, other.key))
}

// openBucket is a bucket that a read transaction has opened.
type openBucket struct {
	name   string
	bucket *bbolt.Bucket // nil: the bucket does not exist
	cursor *bbolt.Cursor // of Tx.stored; nil until its first call
}

// opened returns the bucket with this name. It remembers what it has found: bbolt would search its
// list of buckets each time.
func (tx *Tx) opened(name string) *openBucket {
	for i := range tx.buckets {
		if tx.buckets[i].name == name {
			return &tx.buckets[i]
		}
	}
	tx.buckets = append(tx.buckets, openBucket{name: name, bucket: tx.Bolt.Bucket([]byte(name))})
	return &tx.buckets[len(tx.buckets)-1]
}

// open returns a bucket, or nil if it does not exist.
func (tx *Tx) open(name string) *bbolt.Bucket {
	if tx.Bolt.Writable() {
		return tx.Bolt.Bucket([]byte(name)) // it may be created or deleted later
	}
	return tx.opened(name).bucket
}

// stored returns the record as it is stored under key, or nil if there is none. The memory is that of
// the transaction.
func (tx *Tx) stored(bucket string, key []byte) []byte {
	if tx.Bolt.Writable() {
		if b := tx.open(bucket); b != nil {
			return b.Get(key)
		}
		return nil
	}
	b := tx.opened(bucket)
	if b.bucket == nil {
		return nil
	}
	if b.cursor == nil {
		b.cursor = b.bucket.Cursor() // Bucket.Get would make one for each key
	}
	if found, value := b.cursor.Seek(key); bytes.Equal(found, key) {
		return value
	}
	return nil
}

// Range iterates over the keys of a bucket that begin with prefix, in byte order. The
// second value is the record as it is stored; pass it to Unseal to get the contents.
// Both slices are valid only until the next step. Do not change the bucket during the
// iteration.
func (tx *Tx) Range(bucket string, prefix []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func(key, stored []byte) bool) {
		b := tx.open(bucket)
		if b == nil {
			return
		}
		c := b.Cursor()
		for key, stored := c.Seek(prefix); key != nil && bytes.HasPrefix(key, prefix); key, stored = c.Next() {
			if tx.step(); !yield(key, stored) {
				return
			}
		}
	}
}

// RangeFrom is like Range, but it iterates over all keys of a bucket that are equal to
// from or sort after it.
func (tx *Tx) RangeFrom(bucket string, from []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func(key, stored []byte) bool) {
		b := tx.open(bucket)
		if b == nil {
			return
		}
		c := b.Cursor()
		for key, stored := c.Seek(from); key != nil; key, stored = c.Next() {
			if tx.step(); !yield(key, stored) {
				return
			}
		}
	}
}

// Scan is like Range, but in either order. It ends once visit returns false.
func (tx *Tx) Scan(bucket string, prefix []byte, order Direction, visit func(key, stored []byte) (more bool)) {
	b := tx.open(bucket)
	if b == nil {
		return
	}
	key, stored, step := seek(b.Cursor(), prefix, order)
	for ; key != nil && bytes.HasPrefix(key, prefix); key, stored = step() {
		if tx.step(); !visit(key, stored) {
			return
		}
	}
}

// Count returns the number of keys in a bucket, or 0 if there is no such bucket. It
// reads every key, so it is slow for a large bucket.
func (tx *Tx) Count(bucket string) (n int) {
	b := tx.open(bucket)
	if b == nil {
		return 0
	}
	c := b.Cursor()
	for key, _ := c.First(); key != nil; key, _ = c.Next() {
		tx.step()
		n++
	}
	return n
}

// Walk calls visit for every key of every bucket. stored is the record as it is stored,
// with its checksum, or an index entry's value. Both slices are valid only during the
// call. Walk stops at the first error of visit and returns that error.
func (tx *Tx) Walk(visit func(bucket string, key, stored []byte) error) error {
	return tx.Bolt.ForEach(func(name []byte, b *bbolt.Bucket) error {
		if string(name) == rebuildBucket || string(name) == localBucket {
			return nil
		}
		return b.ForEach(func(key, stored []byte) error { return visit(string(name), key, stored) })
	})
}

// Put stores value in a bucket under key, with a checksum. It replaces the old value,
// if any. It creates the bucket if it does not exist.
func (tx *Tx) Put(bucket string, key, value []byte) error {
	return tx.PutRaw(bucket, key, sealRecord(recordVersion, key, value))
}

// CheckSize returns ErrValidation if the Writer must not store value under key in a bucket, because it
// is larger than Bounds.RecordBytes. record is what the message calls it. A record that is larger
// already may be stored if it does not grow. The operator, the service and changes that finish
// something may store records of any size.
func (tx *Tx) CheckSize(record, bucket string, key, value []byte) error {
	most := tx.Bounds.RecordBytes
	if tx.Writer.Owner == 0 || tx.Writer.Finishes || most == 0 || len(value) <= most {
		return nil
	}
	before, err := tx.Get(bucket, key)
	if err != nil || len(value) <= len(before) {
		return err
	}
	return ErrValidation.With("The %s would be %s bytes; at most %s (record_bytes) are stored. Remove values, or shorten texts.",
		record, Figure(len(value)), Figure(most))
}

// sealRecord returns a record as it is stored. contents is the value, in a signed record
// followed by the MAC.
func sealRecord(version byte, key, contents []byte) []byte {
	sealed := make([]byte, 5+len(contents))
	sealed[0] = version
	binary.BigEndian.PutUint32(sealed[1:], checksum(key, contents))
	copy(sealed[5:], contents)
	return sealed
}

// Delete removes key from a bucket. It returns no error if the bucket or the key does
// not exist.
func (tx *Tx) Delete(bucket string, key []byte) error {
	b := tx.open(bucket)
	if b == nil {
		return nil
	}
	if tx.Refusal != nil {
		return tx.Refusal
	}
	tx.remember(bucket, key)
	tx.noteRows(bucket, key)
	tx.written.note(bucket, key, nil)
	tx.Writes++
	tx.Bytes += len(key)
	return b.Delete(key)
}

// PutRaw stores value as it is, without adding a checksum. It is for index entries,
// whose data is in the key. It creates the bucket if it does not exist.
func (tx *Tx) PutRaw(bucket string, key, value []byte) error {
	if tx.Refusal != nil {
		return tx.Refusal
	}
	b, err := tx.bucket(bucket)
	if err != nil {
		return err
	}
	tx.remember(bucket, key)
	tx.noteRows(bucket, key)
	tx.written.note(bucket, key, value)
	tx.Writes++
	tx.Bytes += len(key) + len(value)
	return b.Put(key, value)
}

// bucket returns a bucket. It creates the bucket if it does not exist.
func (tx *Tx) bucket(name string) (*bbolt.Bucket, error) {
	if b := tx.open(name); b != nil {
		return b, nil
	}
	tx.rememberBucket(name)
	tx.Writes++
	b, err := tx.Bolt.CreateBucket([]byte(name))
	if err != nil {
		return nil, fmt.Errorf("create bucket %s: %w", name, err)
	}
	return b, nil
}

// sealEntry returns the value to store for an index entry. The last n bytes of the
// entry are the key of its record. The value consists of one byte with n and a CRC-32C
// over the entry and that byte. n must be less than 256.
func sealEntry(entry []byte, n int) []byte {
	value := make([]byte, 5)
	value[0] = byte(n)
	binary.BigEndian.PutUint32(value[1:], checksum(entry, value[:1]))
	return value
}

// entryKey returns the record key at the end of an index entry. It returns an error if
// value is not the value of this entry. It accepts a value of one byte without a
// checksum, because development versions wrote such values.
func entryKey(bucket string, entry, value []byte) ([]byte, error) {
	if len(value) != 1 && len(value) != 5 || int(value[0]) > len(entry) {
		return nil, fmt.Errorf("%s/%x: this is not an index entry", bucket, entry)
	}
	if len(value) == 5 && binary.BigEndian.Uint32(value[1:]) != checksum(entry, value[:1]) {
		return nil, fmt.Errorf("%s/%x: checksum does not match, the index entry is damaged", bucket, entry)
	}
	return entry[len(entry)-int(value[0]):], nil
}

// damage is the value of a panic about a damaged index entry, or about a client that has
// disconnected (see Tx.step). The iterators over an
// index cannot return an error, so they panic. Store and File recover the panic and
// return Err.
type damage struct{ Err error }

// checksum returns the CRC-32C of key followed by value. It covers the key so that a
// value stored under a wrong key is detected.
func checksum(key, value []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, value)
}

// Unseal checks the version and the checksum of a stored record and returns its
// contents. It does not verify a MAC. bucket and key are where the record is stored. The
// contents share the memory of raw.
func Unseal(bucket string, key, raw []byte) ([]byte, error) {
	value, _, err := unseal(bucket, key, raw)
	return value, err
}

// unseal is like Unseal, and also returns the MAC of a signed record. mac is nil if the
// record is not signed.
func unseal(bucket string, key, raw []byte) (value, mac []byte, err error) {
	if len(raw) < 5 || raw[0] != recordVersion && raw[0] != signedVersion || raw[0] == signedVersion && len(raw) < 5+macSize {
		return nil, nil, fmt.Errorf("%s/%x: the record does not have the format of this program", bucket, key)
	}
	if binary.BigEndian.Uint32(raw[1:]) != checksum(key, raw[5:]) {
		return nil, nil, fmt.Errorf("%s/%x: checksum does not match, the record is damaged", bucket, key)
	}
	if raw[0] == recordVersion {
		return raw[5:], nil, nil
	}
	end := len(raw) - macSize
	return raw[5:end:end], raw[end:], nil
}

const (
	maxTraced      = 20   // largest number of changes that a ChangeSet lists
	maxTracedValue = 1024 // largest size of one listed value, in bytes of JSON
)

// AuditPolicy defines what the audit log records about changes of a table.
type AuditPolicy struct {
	Object string // what the log calls a record, such as "key"; if "", changes are not logged
	// Personal means that the records are about people. The log then has the names
	// of the changed fields, but not their values. The log cannot be edited, so it
	// must not keep personal data that was deleted elsewhere.
	Personal bool
	// Untold lists the names of fields, at any depth, that are not logged because
	// they change often and nobody needs their history.
	Untold []string
}

// ChangeSet collects the records that a transaction has changed, for the audit log.
// It is not safe for concurrent use.
type ChangeSet struct {
	Changes []Change // the first changes, at most maxTraced
	Count   int      // number of all changed records
	Idle    bool     // records were stored, but no logged field has changed
}

// Change describes how one record changed. It contains no secrets.
type Change struct {
	Object string         `json:"object"`           // such as "key key_018c..."
	Name   string         `json:"name,omitempty"`   // of the record before the change; "" for personal records, and for those without a name
	Did    string         `json:"did"`              // created, changed or deleted
	Fields []string       `json:"fields"`           // names of the fields that differ, sorted
	Before map[string]any `json:"before,omitempty"` // old values of Fields; nil for personal records
	After  map[string]any `json:"after,omitempty"`  // new values of Fields; nil for personal records
}

// Note adds a changed record. before and after are the record's old and new contents.
// before is nil if the record is new; after is nil if the record was deleted. A record
// whose logged fields have not changed is not added. Beyond maxTraced changes, Note
// only counts. It returns an error if a record cannot be encoded as JSON.
func (t *ChangeSet) Note(policy AuditPolicy, before, after any) error {
	if t.Count >= maxTraced {
		t.Count++
		return nil
	}
	was, err := plainFields(before, policy.Untold)
	if err != nil {
		return err
	}
	now, err := plainFields(after, policy.Untold)
	if err != nil {
		return err
	}
	c := Change{Object: policy.Object + " " + fieldID(was, now), Did: "changed", Fields: []string{}}
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
	if !policy.Personal {
		c.Name = cmp.Or(nameOf(was), nameOf(now))
		c.Before, c.After = loggedFields(was, c.Fields), loggedFields(now, c.Fields)
	}
	t.Changes = append(t.Changes, c)
	t.Count, t.Idle = t.Count+1, false
	return nil
}

// plainFields encodes a record as JSON and returns the members of that object. It
// leaves out, at any depth, the members whose names are in omitted. It returns nil if
// record is nil.
func plainFields(record any, omitted []string) (map[string]any, error) {
	if record == nil {
		return nil, nil
	}
	data, err := json.Marshal(record)
	if err != nil {
		return nil, fmt.Errorf("trace a change: %w", err)
	}
	var fields map[string]any
	if err := strictjson.Decode(data, &fields); err != nil {
		return nil, fmt.Errorf("trace a change: %w", err)
	}
	deleteMembers(fields, omitted)
	tellSandbox(fields)
	return fields, nil
}

// tellSandbox replaces the owner of a record in a sandbox by the owner whose sandbox it is.
func tellSandbox(fields map[string]any) {
	id, _ := fields["owner"].(json.Number)
	if owner, err := strconv.ParseUint(string(id), 10, 64); err == nil && IsSandbox(owner) {
		fields["owner"], fields["sandbox"] = LiveOwner(owner), true
	}
}

// deleteMembers deletes from an object, at any depth of nested objects, the members
// with these names.
func deleteMembers(fields map[string]any, names []string) {
	for name, value := range fields {
		if inner, ok := value.(map[string]any); ok {
			deleteMembers(inner, names)
		}
		if slices.Contains(names, name) {
			delete(fields, name)
		}
	}
}

// nameOf returns the name of a record with these fields, or "" if it has none.
func nameOf(fields map[string]any) string {
	text := func(name string) string {
		value, _ := hideSecrets(name, fields[name]).(string)
		return value
	}
	person := strings.TrimSpace(text("first_name") + " " + text("last_name"))
	return cmp.Or(text("name"), text("title"), person, text("phone_number"))
}

// fieldID returns the id of a changed record as text. was and now are its old and new
// fields; one of them may be nil.
func fieldID(was, now map[string]any) string {
	if id, ok := now["id"]; ok {
		return fmt.Sprint(id)
	}
	return fmt.Sprint(was["id"])
}

// loggedFields returns the named fields that exist, as the audit log may contain them.
// It hides secrets. It shortens the field "url" to its scheme and host, and replaces a
// value longer than maxTracedValue by its size.
func loggedFields(fields map[string]any, names []string) map[string]any {
	logged := map[string]any{}
	for _, name := range names {
		value, ok := fields[name]
		if !ok {
			continue
		}
		if name == "url" { // the path or query of a URL often holds a secret
			value = hostOf(value)
		}
		logged[name] = hideSecrets(name, value)
		if data, err := json.Marshal(logged[name]); err != nil || len(data) > maxTracedValue {
			logged[name] = fmt.Sprintf("(%d bytes)", len(data))
		}
	}
	return logged
}

// hostOf returns the scheme and host of a URL, followed by "/...". It returns hidden if
// the URL is not valid.
func hostOf(value any) string {
	text, _ := value.(string)
	u, err := url.Parse(text)
	if err != nil {
		return hidden
	}
	return u.Scheme + "://" + u.Host + "/..."
}

// hidden is the text that replaces a secret in the audit log.
const hidden = "(secret)"

// secretFields lists the names of the fields that contain secrets, in records of any
// table.
var secretFields = []string{"hash", "password", "secret", "session", "token"}

// hideSecrets returns a copy of value in which every secret is replaced by hidden, at
// any depth. name is the name of the field with this value, or "" if the value is an
// element of an array.
func hideSecrets(name string, value any) any {
	if slices.Contains(secretFields, name) {
		return hidden
	}
	switch v := value.(type) {
	case map[string]any:
		object := map[string]any{}
		for name, inner := range v {
			object[name] = hideSecrets(name, inner)
		}
		return object
	case []any:
		array := []any{}
		for _, inner := range v {
			array = append(array, hideSecrets("", inner))
		}
		return array
	}
	return value
}
