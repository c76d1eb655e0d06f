package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// storeFormat is the number of the layout this program writes, and the newest
// that it reads.
const storeFormat = 1

// maxBatch bounds how many changes share one transaction, and with it how long
// the first of them waits for the last.
const maxBatch = 2048

// Store is the one door to the database file; nothing else knows bbolt. Its
// methods are safe for concurrent use. All changes run one after another in
// one goroutine, and what is queued while a commit is under way shares the
// next one, with one sync for all.
type Store struct {
	db   *bbolt.DB
	path string
	id   string

	mu      sync.Mutex
	queue   []*change
	closing bool
	wake    chan struct{} // holds one token while queue has something new
	done    chan struct{} // closed when the committer has ended

	failed chan struct{} // closed at the first commit error
	cause  atomic.Pointer[error]

	generations sync.Map // table name -> *atomic.Uint64
	stamp       func() []byte
}

// change is one queued function and who waits for it.
type change struct {
	run     func(*Tx) error
	err     error
	spoiler bool // failed after writing, so it stays out of the next attempt
	done    func(error)
}

// header is the record that says what kind of file this is.
type header struct {
	Format    int       `json:"format"`
	StoreID   string    `json:"store_id"`
	ByteOrder string    `json:"byte_order"`
	CreatedAt time.Time `json:"created_at"`
}

// CreateStore makes a new, empty database file with the given id. It fails
// where a file of that name exists. A crash in between leaves no file of that
// name: it is made under another one, synced and renamed.
func CreateStore(path, id string, now time.Time) error {
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("create store %s: the file exists", path)
	}
	temp := path + ".new"
	if err := os.Remove(temp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("create store: %w", err)
	}
	db, err := bbolt.Open(temp, 0o600, &bbolt.Options{Timeout: time.Second})
	if err != nil {
		return fmt.Errorf("create store %s: %w", temp, err)
	}
	h := header{Format: storeFormat, StoreID: id, ByteOrder: nativeOrder(), CreatedAt: now.UTC()}
	err = db.Update(func(b *bbolt.Tx) error {
		value, err := json.Marshal(h)
		if err != nil {
			return err
		}
		return (&Tx{Bolt: b}).Put("meta", []byte("header"), value)
	})
	if err := errors.Join(err, db.Close()); err != nil {
		return fmt.Errorf("create store %s: %w", temp, err)
	}
	if err := os.Rename(temp, path); err != nil {
		return fmt.Errorf("create store: %w", err)
	}
	return SyncDir(filepath.Dir(path))
}

// OpenStore opens an existing database file. An empty, missing or foreign file
// is an error: starting afresh would drop every key and count without a word.
// stamp, if not nil, gives a value that each commit stores too (Stamp reads
// it back).
func OpenStore(path string, stamp func() []byte) (*Store, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("open store: %w; restore a backup to this place", err)
	}
	if info.Size() < int64(2*os.Getpagesize()) {
		return nil, fmt.Errorf("open store %s: the file has %d bytes, too few to be a store; restore a backup to this place", path, info.Size())
	}
	opts := &bbolt.Options{Timeout: time.Second, FreelistType: bbolt.FreelistMapType, NoStatistics: true}
	if runtime.GOOS == "linux" && is64 {
		opts.InitialMmapSize = 256 << 20 // growing past the map stalls all readers
	}
	db, err := openChecked(path, opts)
	if err != nil {
		return nil, err
	}
	s := &Store{
		db: db, path: path, stamp: stamp,
		wake: make(chan struct{}, 1), done: make(chan struct{}), failed: make(chan struct{}),
	}
	if err := s.readHeader(); err != nil {
		return nil, errors.Join(fmt.Errorf("open store %s: %w", path, err), db.Close())
	}
	go s.commitAll()
	return s, nil
}

// is64 says that there is address space to spare.
const is64 = ^uint(0)>>63 == 1

// openChecked turns what bbolt says, or panics with, on a damaged file into
// one clear error.
func openChecked(path string, opts *bbolt.Options) (db *bbolt.DB, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("open store %s: the file is damaged (%v); restore a backup to this place", path, p)
		}
	}()
	db, err = bbolt.Open(path, 0o600, opts)
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, fmt.Errorf("open store %s: another process holds the file", path)
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrChecksum), errors.Is(err, bolterrors.ErrVersionMismatch):
		return nil, fmt.Errorf("open store %s: the file is damaged or no store (%w); restore a backup to this place", path, err)
	case err != nil:
		return nil, fmt.Errorf("open store %s: %w", path, err)
	}
	return db, nil
}

// readHeader checks that this program can read the file.
func (s *Store) readHeader() error {
	return s.db.View(func(b *bbolt.Tx) error {
		value, err := (&Tx{Bolt: b}).Get("meta", []byte("header"))
		if err != nil {
			return err
		}
		if value == nil {
			return errors.New("the file has no header record, it is not a store of this program")
		}
		var h header
		if err := json.Unmarshal(value, &h); err != nil {
			return fmt.Errorf("header record: %w", err)
		}
		if h.Format > storeFormat {
			return fmt.Errorf("format %d is newer than %d, the newest this program reads; run the newer program", h.Format, storeFormat)
		}
		s.id = h.StoreID
		return nil
	})
}

// ID is the store's id, made once with the file.
func (s *Store) ID() string { return s.id }

// Size is the length of the file in bytes.
func (s *Store) Size() (int64, error) {
	info, err := os.Stat(s.path)
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// Stamp gives the value stored with the last commit, nil where there is none.
func (s *Store) Stamp() ([]byte, error) {
	var value []byte
	err := s.View(func(tx *Tx) (err error) {
		value, err = tx.Get("meta", []byte("stamp"))
		return err
	})
	return value, err
}

// Failed is closed when a commit has gone wrong. The store then refuses
// everything, since bbolt may or may not have written that commit, and the
// process should end.
func (s *Store) Failed() <-chan struct{} { return s.failed }

// Err says why the store has failed, nil while it has not.
func (s *Store) Err() error {
	if p := s.cause.Load(); p != nil {
		return *p
	}
	return nil
}

// Failing says whether the store has failed.
func (s *Store) Failing() bool { return s.cause.Load() != nil }

// View runs a function on an unchanging state. Nothing of the transaction may
// be used after it returns. The error is the function's own, or
// ErrUnavailable.
func (s *Store) View(run func(*Tx) error) error {
	if s.cause.Load() != nil {
		return ErrUnavailable
	}
	err := s.db.View(func(b *bbolt.Tx) error { return run(&Tx{Bolt: b}) })
	if errors.Is(err, bolterrors.ErrDatabaseNotOpen) {
		return ErrUnavailable
	}
	return err
}

// Update runs a function that changes the store and returns once its changes
// are on disk. An error of the function leaves nothing of it behind and is
// returned as it is. The function may run more than once, so it changes
// memory only through Tx.After. It returns ErrUnavailable when the store is
// closed or has failed; then the change may or may not have happened.
func (s *Store) Update(run func(*Tx) error) error {
	done := make(chan error, 1)
	s.Queue(run, func(err error) { done <- err })
	return <-done
}

// Queue is Update without the waiting: done gets its result, in the
// committer's goroutine, and must not block.
func (s *Store) Queue(run func(*Tx) error, done func(error)) {
	s.mu.Lock()
	if s.closing || s.cause.Load() != nil {
		s.mu.Unlock()
		done(ErrUnavailable)
		return
	}
	s.queue = append(s.queue, &change{run: run, done: done})
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Close writes what is queued, refuses anything new and closes the file.
func (s *Store) Close() error {
	s.mu.Lock()
	already := s.closing
	s.closing = true
	s.mu.Unlock()
	if already {
		return nil
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
	<-s.done
	return s.db.Close()
}

// Generation counts the commits that changed a table. Who keeps a copy of a
// table's contents reads it before the table, and drops the copy when it has
// moved.
func (s *Store) Generation(table string) *atomic.Uint64 {
	if g, ok := s.generations.Load(table); ok {
		return g.(*atomic.Uint64)
	}
	g, _ := s.generations.LoadOrStore(table, new(atomic.Uint64))
	return g.(*atomic.Uint64)
}

// commitAll is the committer: the one goroutine that writes. It has no
// recover: a panic here means a damaged file or a bug, and must end the
// process rather than one request.
func (s *Store) commitAll() {
	defer close(s.done)
	for range s.wake {
		for {
			s.mu.Lock()
			n := min(len(s.queue), maxBatch)
			batch := s.queue[:n:n]
			s.queue = s.queue[n:]
			closing := s.closing
			s.mu.Unlock()
			if n == 0 && closing {
				return
			}
			if n == 0 {
				break
			}
			s.commit(batch)
		}
	}
}

// commit runs a batch in one transaction. A change that fails after it wrote
// something takes the transaction with it; the others then run again without it.
func (s *Store) commit(batch []*change) {
	for {
		tx, spoiled, err := s.attempt(batch)
		if spoiled && err == nil {
			continue
		}
		if err != nil {
			s.fail(err)
		} else if tx != nil {
			for _, table := range tx.Changed {
				s.Generation(table).Add(1)
			}
			for _, after := range tx.after {
				after()
			}
		}
		for _, c := range batch {
			if c.err == nil && err != nil {
				c.err = ErrUnavailable
			}
			c.done(c.err)
		}
		return
	}
}

// attempt runs those of the batch that have not failed. spoiled says that one
// more has, after writing, and that nothing was committed. tx is nil where
// nothing was to be written.
func (s *Store) attempt(batch []*change) (tx *Tx, spoiled bool, err error) {
	if s.cause.Load() != nil {
		return nil, false, ErrUnavailable
	}
	b, err := s.db.Begin(true)
	if err != nil {
		return nil, false, err
	}
	tx = &Tx{Bolt: b}
	for _, c := range batch {
		if c.spoiler {
			continue
		}
		writes, after := tx.Writes, len(tx.after)
		if c.err = c.run(tx); c.err == nil {
			continue
		}
		tx.after = tx.after[:after]
		if tx.Writes != writes {
			c.spoiler = true
			return nil, true, b.Rollback()
		}
	}
	if tx.Writes == 0 {
		return tx, false, b.Rollback()
	}
	if s.stamp != nil {
		if err := tx.Put("meta", []byte("stamp"), s.stamp()); err != nil {
			return nil, false, errors.Join(err, b.Rollback())
		}
	}
	return tx, false, b.Commit()
}

// fail poisons the store: no read or write is answered from now on.
func (s *Store) fail(err error) {
	err = fmt.Errorf("commit to %s: %w", s.path, err)
	if s.cause.CompareAndSwap(nil, &err) {
		close(s.failed)
	}
}

// Tx is a transaction: a consistent view, and in Update a set of changes that
// happen together. It is valid only inside the function that got it.
type Tx struct {
	Bolt    *bbolt.Tx // for tables alone
	Writes  int       // how much was written
	Changed []string  // the tables that were
	after   []func()
}

// After has a function called once the transaction is on disk, before anybody
// who waits for it goes on. It runs in the committer and must not block.
func (tx *Tx) After(f func()) { tx.after = append(tx.after, f) }

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

func nativeOrder() string {
	if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 {
		return "big"
	}
	return "little"
}

// SyncDir makes a rename in a folder last over a power cut.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && runtime.GOOS != "windows" {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return nil
}
