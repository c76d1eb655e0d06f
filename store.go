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

// maxBatch bounds how many changes share one transaction, and with it how long
// the first of them waits for the last.
const maxBatch = 2048

// Store is the one door to the database file; nothing else knows bbolt. Its
// methods are safe for concurrent use. All changes run one after another in
// one goroutine, and what is queued while a commit is under way shares the
// next one, with one sync for all.
type Store struct {
	db   *bbolt.DB
	file *File
	path string
	id   string

	mu      sync.Mutex
	queue   []*change
	next    map[string]chan struct{} // closed at the next change of a table
	closing bool
	wake    chan struct{} // holds one token while queue has something new
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

// change is one queued function and who waits for it.
type change struct {
	run     func(*Tx) error
	err     error
	spoiler bool // failed after writing, so it stays out of the next attempt
	done    func(error)
}

// OpenStore opens an existing database file. An empty, missing or foreign file
// is an error: starting afresh would drop every key and count without a word.
// stamp, if not nil, gives a value that each commit stores too (Stamp reads
// it back).
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

// Observe has a function told of each commit: how many changes shared it and how
// long it took. It runs in the committer and must be quick.
func (s *Store) Observe(f func(changes int, took time.Duration)) { s.observe.Store(&f) }

func (s *Store) count(changes int, took time.Duration) {
	s.commits.Add(1)
	s.changes.Add(uint64(changes))
	if f := s.observe.Load(); f != nil {
		(*f)(changes, took)
	}
}

// Counts is how many commits there were in this run, and how many changes.
func (s *Store) Counts() (commits, changes uint64) { return s.commits.Load(), s.changes.Load() }

// FreeBytes is how much of the file is free for new records.
func (s *Store) FreeBytes() int64 { return int64(s.db.Stats().FreeAlloc) }

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
// ErrUnavailable, or tells of a damaged page.
func (s *Store) View(run func(*Tx) error) error {
	if s.cause.Load() != nil {
		return ErrUnavailable
	}
	// A damaged page can lead out of the map of the file, which is a fault of memory.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	err := s.db.View(func(b *bbolt.Tx) error { return guarded(&Tx{Bolt: b, File: s.file.Handle}, run) })
	if errors.Is(err, bolterrors.ErrDatabaseNotOpen) {
		return ErrUnavailable
	}
	return err
}

// Guard fails the store where its file is no longer the one that its path leads
// to. Each commit looks too; this is for the time between them.
func (s *Store) CheckFile() {
	if err := s.file.InPlace(); err != nil {
		s.fail(err)
	}
}

// CopyTo writes the state of this moment, compacted, to a new file and returns
// once it is on disk. Reads and writes go on meanwhile; what they free is used
// again only after it.
func (s *Store) CopyTo(path string) error {
	if s.Failing() {
		return ErrUnavailable
	}
	return compact(s.db, path)
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

// Watch gives a channel that holds a token once a commit has changed a table.
// All who watch one table share it.
func (s *Store) Watch(table string) <-chan struct{} {
	c, _ := s.watched.LoadOrStore(table, make(chan struct{}, 1))
	return c.(chan struct{})
}

// Await waits until Generation of a table is another than since, and says
// whether it is; it is not where the context ended or the store failed first.
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

// announce wakes those who wait for a change of a table.
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

// commitAll is the committer: the one goroutine that writes. It has no
// recover: a panic here means a damaged file or a bug, and must end the
// process rather than one request.
func (s *Store) commitAll() {
	defer close(s.done)
	for range s.wake {
		for {
			// First everybody who is ready to run may queue a change. On one core
			// the first of them would else have a commit, and its sync, to itself.
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

// commit runs a batch in one transaction. A change that fails after it wrote
// something takes the transaction with it; the others then run again without it.
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

// attempt runs those of the batch that have not failed. spoiled says that one
// more has, after writing, and that nothing was committed. tx is nil where
// nothing was to be written.
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

// guarded runs a function and gives the damage it came upon as its error.
// Other panics go on.
func guarded(tx *Tx, run func(*Tx) error) (err error) {
	defer func() {
		switch p := recover().(type) {
		case nil:
		case damage:
			err = p.Err
		case interface{ Addr() uintptr }: // a fault of memory, see debug.SetPanicOnFault
			err = fmt.Errorf("the database is damaged (%v); restore a backup", p)
		default:
			panic(p)
		}
	}()
	return run(tx)
}

// fail poisons the store: no read or write is answered from now on.
func (s *Store) fail(err error) {
	if s.cause.CompareAndSwap(nil, &err) {
		close(s.failed)
	}
}
