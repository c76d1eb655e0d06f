package main

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"slices"
	"sync"

	"go.etcd.io/bbolt"
)

// Authenticator computes and verifies message authentication codes (HMAC-SHA-256, RFC
// 2104). A signed record has one over the store id, its bucket, its key and its value,
// and a backup has one over its whole contents. A checksum finds damage; a MAC also finds
// a change by somebody who can write to the file but does not have the pepper. It does
// not find an older valid record or backup that was put back. An Authenticator is safe
// for concurrent use.
type Authenticator struct {
	keys    [][]byte // one for each pepper, the current pepper first
	storeID string
	states  []sync.Pool // of *macState, one for each of keys

	mu     sync.Mutex
	forged map[string]bool                 // the records that were reported, at most maxForged
	report func(bucket string, key []byte) // see OnForged; nil: none
}

// macSize is the size of a MAC in bytes.
const macSize = sha256.Size

// maxForged is the number of forged records that an Authenticator remembers, so that it
// reports each of them once. Further ones are not reported.
const maxForged = 1000

// NewAuthenticator returns an Authenticator for the store with this id. It signs with the
// first of keys and accepts a MAC under any of them. It returns nil if keys is empty.
func NewAuthenticator(keys [][]byte, storeID string) *Authenticator {
	if len(keys) == 0 {
		return nil
	}
	return &Authenticator{keys: keys, storeID: storeID, states: make([]sync.Pool, len(keys)), forged: map[string]bool{}}
}

// OnForged sets the function that is called when a record that is read has no valid MAC,
// once for each record. It runs in the goroutine of the reader and must not block or use
// the store. Call OnForged before the first read.
func (a *Authenticator) OnForged(report func(bucket string, key []byte)) { a.report = report }

// Forged returns the number of records without a valid MAC that were read so far. It
// counts each record once, and at most maxForged.
func (a *Authenticator) Forged() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.forged)
}

// note reports a forged record if it was not reported before.
func (a *Authenticator) note(bucket string, key []byte) {
	name := bucket + "/" + string(key)
	a.mu.Lock()
	known := a.forged[name] || len(a.forged) == maxForged
	if !known {
		a.forged[name] = true
	}
	a.mu.Unlock()
	if !known && a.report != nil {
		a.report(bucket, key)
	}
}

// sign returns the MAC of a record under the current pepper.
func (a *Authenticator) sign(bucket string, key, value []byte) (mac []byte) {
	a.withMAC(0, record{bucket, key, value}, func(sum []byte) { mac = bytes.Clone(sum) })
	return mac
}

// record is a record of which a MAC is computed.
type record struct {
	bucket     string
	key, value []byte
}

// macState is the memory that the computation of a MAC needs. It is used again, because a list of
// keys verifies many records.
type macState struct {
	hash hash.Hash
	head []byte // what is hashed before the value
	sum  []byte
}

// withMAC calls use with the MAC of a record under the key with an index. use must not keep the MAC.
func (a *Authenticator) withMAC(index int, r record, use func(sum []byte)) {
	s, _ := a.states[index].Get().(*macState)
	if s == nil {
		s = &macState{hash: hmac.New(sha256.New, a.keys[index])}
	}
	s.hash.Reset()
	s.head = appendPart(appendPart(s.head[:0], "record"), a.storeID)
	s.head = appendPart(appendPart(s.head, r.bucket), r.key)
	s.head = binary.BigEndian.AppendUint32(s.head, uint32(len(r.value)))
	s.hash.Write(s.head)
	s.hash.Write(r.value)
	s.sum = s.hash.Sum(s.sum[:0])
	use(s.sum)
	a.states[index].Put(s)
}

// appendPart appends what writePart writes.
func appendPart[T string | []byte](b []byte, part T) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(part))), part...)
}

// writePart writes the length of part and part itself, so that different lists of parts
// never lead to the same bytes.
func writePart(h hash.Hash, part []byte) {
	var size [4]byte
	binary.BigEndian.PutUint32(size[:], uint32(len(part)))
	h.Write(size[:])
	h.Write(part)
}

// valid reports whether mac is the MAC of a record under one of the peppers.
func (a *Authenticator) valid(bucket string, key, value, mac []byte) bool {
	for i := range a.keys {
		same := false
		if a.withMAC(i, record{bucket, key, value}, func(sum []byte) { same = hmac.Equal(mac, sum) }); same {
			return true
		}
	}
	return false
}

// forgedError is the error for a signed record without a valid MAC. It wraps ErrNotFound,
// so that every caller treats the record as if it did not exist: a forged key, token or
// session opens nothing.
type forgedError struct {
	bucket string
	key    []byte
}

// Error names the record.
func (e *forgedError) Error() string {
	return fmt.Sprintf("%s/%x: the record has no valid MAC; it was changed without the pepper, or was signed under a pepper that is not configured", e.bucket, e.key)
}

// IsForged reports whether err is the error for a signed record without a valid MAC.
func IsForged(err error) bool { return err != nil && errors.As(err, new(*forgedError)) }

// Unwrap returns ErrNotFound.
func (e *forgedError) Unwrap() error { return ErrNotFound }

// verify checks the MAC of a stored record and returns its contents. Without an
// Authenticator it checks only the checksum.
func (tx *Tx) verify(bucket string, key, raw []byte) ([]byte, error) {
	value, mac, err := unseal(bucket, key, raw)
	if err != nil || tx.Auth == nil || tx.Auth.valid(bucket, key, value, mac) {
		return value, err
	}
	return nil, &forgedError{bucket, bytes.Clone(key)}
}

// verified is like verify, and reports a forged record to the function of OnForged.
func (tx *Tx) verified(bucket string, key, raw []byte) ([]byte, error) {
	value, err := tx.verify(bucket, key, raw)
	if IsForged(err) {
		tx.Auth.note(bucket, key)
	}
	return value, err
}

// PutSigned is like Put, and adds a MAC. Without an Authenticator it is Put.
func (tx *Tx) PutSigned(bucket string, key, value []byte) error {
	if tx.Auth == nil {
		return tx.Put(bucket, key, value)
	}
	return tx.PutRaw(bucket, key, sealRecord(signedVersion, key, append(bytes.Clone(value), tx.Auth.sign(bucket, key, value)...)))
}

// GetSigned is like Get for a record that PutSigned has stored. It returns an error that
// wraps ErrNotFound if the record has no valid MAC.
func (tx *Tx) GetSigned(bucket string, key []byte) ([]byte, error) {
	return tx.get(bucket, key, tx.verified)
}

// sealKey is the key in the bucket meta under which a backup stores its MAC. A database in use has
// no such record.
var sealKey = []byte("backup_mac")

// signBackup stores the MAC of the whole contents of a new backup in it.
func (a *Authenticator) signBackup(db *bbolt.DB, progress Progress) error {
	return db.Update(func(b *bbolt.Tx) error {
		mac, err := a.contents(&Tx{Bolt: b, Progress: progress}, a.keys[0])
		if err != nil {
			return err
		}
		return (&Tx{Bolt: b}).Put("meta", sealKey, mac)
	})
}

// contents returns the MAC under one of the keys of all buckets and records that a
// transaction sees, except of the record that stores this MAC.
func (a *Authenticator) contents(tx *Tx, macKey []byte) ([]byte, error) {
	seen := tx.count("computing the MAC")
	h := hmac.New(sha256.New, macKey)
	writePart(h, []byte("backup"))
	writePart(h, []byte(a.storeID))
	err := tx.Bolt.ForEach(func(name []byte, bucket *bbolt.Bucket) error {
		writePart(h, []byte("bucket"))
		writePart(h, name)
		writePart(h, binary.BigEndian.AppendUint64(nil, bucket.Sequence()))
		return bucket.ForEach(func(key, value []byte) error {
			if string(name) != "meta" || !bytes.Equal(key, sealKey) {
				writePart(h, key)
				writePart(h, value)
			}
			return seen.next()
		})
	})
	return h.Sum(nil), err
}

// DropSeal deletes the MAC of a backup from a database that is used from now on. Somebody may have put a backup in the place
// of the database without a restore.
func DropSeal(tx *Tx) error {
	if !tx.Has("meta", sealKey) {
		return nil
	}
	return tx.Delete("meta", sealKey)
}

// BackupSeal is what is known about the MAC of a backup.
type BackupSeal int

const (
	SealMissing BackupSeal = iota // the file has no MAC; it is no backup, or one of an older version
	SealInvalid                   // the file was changed, or was made under a pepper that is not configured
	SealValid
)

// VerifyBackup compares the contents of a backup with its MAC. The backup may have an
// older format.
func (a *Authenticator) VerifyBackup(tx *Tx) (BackupSeal, error) {
	mac, err := tx.Get("meta", sealKey)
	if err != nil || mac == nil {
		return SealMissing, err
	}
	for _, k := range a.keys {
		want, err := a.contents(tx, k)
		if err != nil {
			return SealInvalid, err
		}
		if hmac.Equal(mac, want) {
			return SealValid, nil
		}
	}
	return SealInvalid, nil
}

// signedRecords lists the records that a store of format 2 signs, by bucket: every record
// of the bucket, or only those with the keys, if there are any.
var signedRecords = map[string][][]byte{
	"keys": nil, "key_hashes": nil, "owner_limits": nil, "admin_tokens": nil, "operators": nil, "sessions": nil, "factors": nil,
	"meta": {[]byte("audit"), []byte("setup")}, // the head of the audit log and the set-up link
}

// isSigned reports whether a record of a bucket is signed.
func isSigned(bucket string, key []byte) bool {
	only, ok := signedRecords[bucket]
	return ok && (only == nil || slices.ContainsFunc(only, func(k []byte) bool { return bytes.Equal(k, key) }))
}

// signBatch is the number of records that signRecords reads before it writes them.
const signBatch = 1000

// signRecords adds a MAC to every record of signedRecords. It is the migration from
// format 1 to format 2.
func signRecords(tx *Tx) error {
	for bucket, only := range signedRecords {
		for _, key := range only {
			value, err := tx.Get(bucket, key)
			if err == nil && value != nil {
				err = tx.PutSigned(bucket, key, value)
			}
			if err != nil {
				return err
			}
		}
		if only == nil {
			if err := signBucket(tx, bucket); err != nil {
				return err
			}
		}
	}
	return nil
}

// signBucket adds a MAC to every record of a bucket. It writes in batches, because a
// bucket must not change during an iteration over it.
func signBucket(tx *Tx, bucket string) error {
	type record struct{ key, value []byte }
	for from := []byte{}; ; {
		var batch []record
		for key, stored := range tx.RangeFrom(bucket, from) {
			if len(batch) == signBatch {
				break
			}
			value, _, err := unseal(bucket, key, stored)
			if err != nil {
				return err
			}
			batch = append(batch, record{bytes.Clone(key), bytes.Clone(value)})
		}
		for _, r := range batch {
			if err := errors.Join(tx.PutSigned(bucket, r.key, r.value), tx.changing()); err != nil {
				return err
			}
		}
		if len(batch) < signBatch {
			return nil
		}
		from = append(batch[len(batch)-1].key, 0)
	}
}
