// The store family is the only way to bbolt. Read store.go first (one committer,
// one sync for all that wait), then store_tx.go (a transaction and the set of its
// changes), store_table.go (JSON records with indexes, and their check) and
// store_file.go (the file, its header and its migrations). It knows no record of
// another family: tables are declared beside their types.

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// maxBatch bounds how many changes share one transaction, and so how long the
// first of them waits for the last.
const maxBatch = 2048

// Store is the only access to the database file of a running service; nothing
// outside the store family uses bbolt. Its methods are safe for concurrent use.
// One goroutine, the committer, runs all changes one after another. Changes
// queued during a commit share the next commit and its sync.
type Store struct {
	db   *bbolt.DB
	file *File
	path string
	id   string

	mu      sync.Mutex
	queue   []*change
	next    map[string]chan struct{} // table name -> closed at its next change
	closing bool
	wake    chan struct{} // holds one token while the queue has new changes
	done    chan struct{} // closed when the committer has ended

	commits atomic.Uint64
	changes atomic.Uint64
	observe atomic.Pointer[func(changes int, took time.Duration)]

	failed chan struct{} // closed at the first commit error
	cause  atomic.Pointer[error]

	generations sync.Map // table name -> *atomic.Uint64
	watched     sync.Map // table name -> chan struct{}
	stamp       func() []byte
}

// change is one queued function, its result and the callback for it.
type change struct {
	run     func(*Tx) error
	err     error
	spoiler bool // failed after writing; the next attempt leaves it out
	done    func(error)
}

// OpenStore opens an existing database file. A missing, empty or foreign file
// is an error, because a new file in its place would silently lose every key
// and count. stamp may be nil. If it is not, each commit stores the value that
// it returns, and Stamp reads that value back.
func OpenStore(path string, stamp func() []byte) (*Store, error) {
	f, err := OpenFile(path, false)
	if err != nil {
		return nil, err
	}
	s := &Store{
		db: f.DB, file: f, path: path, id: f.Header.StoreID, stamp: stamp,
		next: map[string]chan struct{}{}, wake: make(chan struct{}, 1), done: make(chan struct{}), failed: make(chan struct{}),
	}
	go s.commitAll()
	return s, nil
}

// Observe calls f after each commit with the number of changes that shared it
// and the time it took. f runs in the committer and must be quick. A later call
// replaces f.
func (s *Store) Observe(f func(changes int, took time.Duration)) { s.observe.Store(&f) }

func (s *Store) count(changes int, took time.Duration) {
	s.commits.Add(1)
	s.changes.Add(uint64(changes))
	if f := s.observe.Load(); f != nil {
		(*f)(changes, took)
	}
}

// Counts returns the numbers of commits and of committed changes since
// OpenStore.
func (s *Store) Counts() (commits, changes uint64) { return s.commits.Load(), s.changes.Load() }

// FreeBytes returns how many bytes of the file are free for new records.
func (s *Store) FreeBytes() int64 { return int64(s.db.Stats().FreeAlloc) }

// ID returns the store's id, which was set when the file was created.
func (s *Store) ID() string { return s.id }

// Size returns the length of the file in bytes.
func (s *Store) Size() (int64, error) {
	info, err := os.Stat(s.path)
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// Stamp returns the value that the last commit with a stamp stored, nil if
// there is none.
func (s *Store) Stamp() ([]byte, error) {
	var value []byte
	err := s.View(func(tx *Tx) (err error) {
		value, err = tx.Get("meta", []byte("stamp"))
		return err
	})
	return value, err
}

// Failed returns a channel that is closed when a commit fails. The store then
// refuses all reads and writes, because bbolt may or may not have written that
// commit. The process should end.
func (s *Store) Failed() <-chan struct{} { return s.failed }

// Err returns the cause of the store's failure, nil if it has not failed.
func (s *Store) Err() error {
	if p := s.cause.Load(); p != nil {
		return *p
	}
	return nil
}

// Failing reports whether the store has failed.
func (s *Store) Failing() bool { return s.cause.Load() != nil }

// View calls run with a consistent state of the store. Nothing of the
// transaction may be used after View returns. It returns the error of run,
// ErrUnavailable if the store is closed or has failed, or an error about a
// damaged page.
func (s *Store) View(run func(*Tx) error) error {
	if s.cause.Load() != nil {
		return ErrUnavailable
	}
	// A damaged page can lead outside the mapped file. The access is then a
	// memory fault, which this turns into a panic.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	err := s.db.View(func(b *bbolt.Tx) error { return guarded(&Tx{Bolt: b, File: s.file.Handle}, run) })
	if errors.Is(err, bolterrors.ErrDatabaseNotOpen) {
		return ErrUnavailable
	}
	return err
}

// CheckFile fails the store if its path no longer leads to the open file. Each
// commit checks this too; CheckFile is for the time between commits.
func (s *Store) CheckFile() {
	if err := s.file.InPlace(); err != nil {
		s.fail(err)
	}
}

// CopyTo writes the current state of the store, compacted, to a new file and
// returns once the file is on disk. It fails if the file exists. Reads and
// writes continue during the copy. Pages that they free are reused only after
// it, so the store's file can grow.
func (s *Store) CopyTo(path string) error {
	if s.Failing() {
		return ErrUnavailable
	}
	return compact(s.db, path)
}

// Update calls run, which changes the store, and returns once the changes are
// on disk. If run returns an error, Update discards its changes and returns the
// error unchanged. run may be called more than once, so it must change memory
// only through Tx.After. Update returns ErrUnavailable if the store is closed
// or has failed; the change may still be on disk then. Do not call it inside a
// transaction.
func (s *Store) Update(run func(*Tx) error) error {
	done := make(chan error, 1)
	s.Queue(run, func(err error) { done <- err })
	return <-done
}

// Queue is Update without the wait. done receives the result in the committer's
// goroutine and must not block. If the store is closed or has failed, Queue
// calls done itself before it returns.
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

// Close commits the queued changes, refuses new ones and closes the file. A
// second call does nothing.
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

// Generation returns the counter of the commits that changed a table since
// OpenStore; only the store adds to it. To cache a table, read its generation
// before the table, and drop the cache once the generation differs.
func (s *Store) Generation(table string) *atomic.Uint64 {
	if g, ok := s.generations.Load(table); ok {
		return g.(*atomic.Uint64)
	}
	g, _ := s.generations.LoadOrStore(table, new(atomic.Uint64))
	return g.(*atomic.Uint64)
}

// Watch returns a channel that holds one token after a commit has changed the
// table. All callers for one table share the channel, so one of them receives
// the token.
func (s *Store) Watch(table string) <-chan struct{} {
	c, _ := s.watched.LoadOrStore(table, make(chan struct{}, 1))
	return c.(chan struct{})
}

// Await waits until Generation of the table differs from since, and reports
// whether it does. It returns false if ctx ends or the store fails first.
func (s *Store) Await(ctx context.Context, table string, since uint64) bool {
	for {
		s.mu.Lock()
		next := s.next[table]
		if next == nil {
			next = make(chan struct{})
			s.next[table] = next
		}
		s.mu.Unlock()
		if s.Generation(table).Load() != since {
			return true
		}
		select {
		case <-next:
		case <-ctx.Done():
			return false
		case <-s.failed:
			return false
		}
	}
}

// announce counts a commit that changed a table and wakes the callers of Watch
// and Await.
func (s *Store) announce(table string) {
	s.Generation(table).Add(1)
	if c, ok := s.watched.Load(table); ok {
		select {
		case c.(chan struct{}) <- struct{}{}:
		default:
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if next := s.next[table]; next != nil {
		close(next)
		delete(s.next, table)
	}
}

// commitAll is the committer, the only goroutine that writes. It recovers no
// panic except of damaged pages and index entries, see guarded: any other is a
// bug and must end the process, not just one request.
func (s *Store) commitAll() {
	defer close(s.done)
	for range s.wake {
		for {
			// Let every goroutine that is ready queue its change first.
			// Otherwise, on one core, the first of them would get a commit and
			// its sync for itself.
			runtime.Gosched()
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

// commit runs a batch in one transaction. If a change fails after it wrote
// something, the transaction is rolled back and the others run again without
// it.
func (s *Store) commit(batch []*change) {
	began := time.Now()
	for {
		tx, spoiled, err := s.attempt(batch)
		if spoiled && err == nil {
			continue
		}
		if err != nil {
			s.fail(err)
		} else if tx != nil {
			for _, table := range tx.Changed {
				s.announce(table)
			}
			for _, after := range tx.Afters {
				after()
			}
		}
		for _, c := range batch {
			if c.err == nil && err != nil {
				c.err = ErrUnavailable
			}
			c.done(c.err)
		}
		if tx != nil && tx.Writes > 0 {
			s.count(len(batch), time.Since(began))
		}
		return
	}
}

// attempt runs the changes of the batch that have not failed after writing, in
// one transaction. If another change fails so, nothing is committed and spoiled
// is true. tx is nil if spoiled is true or err is not nil. If nothing was
// written there is no commit.
func (s *Store) attempt(batch []*change) (tx *Tx, spoiled bool, err error) {
	if s.cause.Load() != nil {
		return nil, false, ErrUnavailable
	}
	b, err := s.db.Begin(true)
	if err != nil {
		return nil, false, fmt.Errorf("commit to %s: %w", s.path, err)
	}
	tx = &Tx{Bolt: b}
	for _, c := range batch {
		if c.spoiler {
			continue
		}
		writes, after := tx.Writes, len(tx.Afters)
		if c.err = guarded(tx, c.run); c.err == nil {
			continue
		}
		tx.Afters = tx.Afters[:after]
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
	if err := s.file.InPlace(); err != nil {
		return nil, false, errors.Join(err, b.Rollback())
	}
	if err := b.Commit(); err != nil {
		return nil, false, fmt.Errorf("commit to %s: %w", s.path, err)
	}
	return tx, false, nil
}

// guarded calls run and returns an error if run panics because of damage to the
// file. Other panics continue.
func guarded(tx *Tx, run func(*Tx) error) (err error) {
	defer func() {
		switch p := recover().(type) {
		case nil:
		case damage:
			err = p.Err
		case interface{ Addr() uintptr }: // memory fault, see debug.SetPanicOnFault
			err = fmt.Errorf("the database is damaged (%v); restore a backup", p)
		default:
			panic(p)
		}
	}()
	return run(tx)
}

// fail marks the store as failed: from now on it refuses every read and write.
// Only the first cause is kept.
func (s *Store) fail(err error) {
	if s.cause.CompareAndSwap(nil, &err) {
		close(s.failed)
	}
}
