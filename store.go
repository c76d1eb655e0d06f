// The store family reads and writes the bbolt database; no other family uses bbolt.
// Read store.go first: Store, whose committer gathers queued changes into one commit.
// Then read store_queue.go (the turns of the owners), store_undo.go (undoing a change that
// failed), store_tx.go (a transaction and the records it changed), store_table.go
// (JSON records with indexes, and the check of a whole store), store_list.go (what is kept
// for lists), store_query.go (lists that are filtered, sorted and searched), store_repair.go and
// store_rebuild.go (making anew what follows from the records), store_engine.go (a store that is shared by
// several nodes), store_view.go (the file of such a node), store_file.go (the database file,
// its header and its migrations) and store_progress.go (how much of long work is done). The family
// knows no record type of another family, because each table is declared beside its type.

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"latchkey/internal/boltcheck"
	"latchkey/internal/cluster"
)

// Store is the open database of a running service. Its methods are safe for
// concurrent use. One goroutine, the committer, runs all changes one after another.
// Changes that are queued during a commit share the next commit, so they also share
// its sync to disk. Owners take turns, see changeQueue: the changes of one owner are made
// in the order in which they were queued, those of different owners in any order.
type Store struct {
	db   *bbolt.DB
	file *File
	path string
	id   string

	mu      sync.Mutex               // guards queue, next and closing
	queue   changeQueue              // changes that wait for a commit
	next    map[string]chan struct{} // by table name; closed at the next change of the table
	closing bool                     // Close has been called
	wake    chan struct{}            // holds one token while the queue has new changes
	done    chan struct{}            // closed when the committer has ended

	commits atomic.Uint64
	changes atomic.Uint64
	observe atomic.Pointer[func(changes int, took time.Duration)] // set by Observe

	failed chan struct{}         // closed when the store fails
	cause  atomic.Pointer[error] // why the store has failed; nil if it has not

	copying sync.Mutex // held while a copy is made

	replica sharing // set by ShareStore; nil: the store is alone

	rowLog      rowLog
	generations sync.Map                    // by table name: the *atomic.Uint64 of Generation
	watched     sync.Map                    // by table name: the channel of Watch
	stamp       func() []byte               // the parameter of OpenStore; may be nil
	auth        *Authenticator              // set by Authenticate; nil: records are neither signed nor verified
	bounds      atomic.Pointer[Bounds]      // set by SetBounds
	mails       atomic.Pointer[[]string]    // set by SetMails
	log         atomic.Pointer[slog.Logger] // set by LogTo

	diskLow   atomic.Bool            // set by SetDiskLow
	grown     atomic.Int64           // bytes written since the last call of watchDisk
	watchDisk atomic.Pointer[func()] // set by WatchDisk
}

// sharing is the part of a shared store that speaks with the cluster, a *replica. It is an interface, so that a
// program that shares no store does not contain it.
type sharing interface {
	attempt(s *Store, b *commitBatch) (tx *Tx, again bool, err error)
	confirm(c *change)
	bounds() writtenMark // of a Set
	last() cluster.Head
	reach(ctx context.Context, s *Store, head cluster.Head) error
	close(s *Store) error
}

// Writer is on whose behalf a change is made. The zero Writer is the operator or the service itself,
// to whom no bound applies. A change of an owner that needs more storage than StorageLimit is refused
// with ErrStorageFull, and with ErrDiskLow if the disk is nearly full, unless the change finishes
// something.
type Writer struct {
	Owner    uint64 // the owner of the key that makes the change; 0: the operator or the service
	Finishes bool   // the change finishes or ends something, so full storage does not prevent it
	Key      string // the id of that key; "": the operator or the service. It is noted in what the change stores, see Authors
	Ahead    bool   // the change is small and requests of many owners wait for it, so it takes no turn but goes first
	// Noter adds what the key has changed to the activity of the key, in the same transaction. nil: it is not noted.
	Noter interface{ NoteWrites(tx *Tx) error }
}

// change is one call of Queue.
type change struct {
	by      Writer
	queued  time.Time
	run     func(*Tx) error
	err     error       // the error that done receives; nil if the change succeeded
	spoiler bool        // run failed and could not be undone alone; the next attempt leaves it out
	secure  bool        // run has called Tx.Secure, see Effect
	later   bool        // the change does not fit into the Set of its batch, see replica; it gets a batch of its own
	effect  Effect      // set before done is called
	done    func(error) // receives the result
}

// OpenStore opens an existing database file. It returns an error if the file is
// missing, empty or not a database of this program. A new file in its place would
// silently lose every key and every count. stamp may be nil. If it is not, the store
// calls it at each commit and stores its result, which Stamp returns. Call Close to
// close the file.
func OpenStore(path string, stamp func() []byte) (*Store, error) {
	f, err := OpenFile(path, ReadWrite)
	if err != nil {
		return nil, err
	}
	s := &Store{
		db: f.DB, file: f, path: path, id: f.Header.StoreID, stamp: stamp,
		next: map[string]chan struct{}{}, wake: make(chan struct{}, 1), done: make(chan struct{}), failed: make(chan struct{}),
	}
	s.bounds.Store(new(Bounds))
	s.mails.Store(new([]string))
	s.log.Store(slog.New(slog.DiscardHandler))
	go s.commitAll()
	if shareOpened != nil {
		shareOpened(s)
	}
	return s, nil
}

// LogTo sets the log whose waiting lines are written if a change panics, see FlushLog.
func (s *Store) LogTo(log *slog.Logger) { s.log.Store(log) }

// SetBounds sets the bounds of transactions that begin from now on. Without it nothing is bounded.
func (s *Store) SetBounds(b Bounds) { s.bounds.Store(&b) }

// SetMails sets the types of events that Tx.Mails has in transactions that begin from now on.
func (s *Store) SetMails(types []string) { s.mails.Store(&types) }

// Bounds returns the bounds that SetBounds has set.
func (s *Store) Bounds() Bounds { return *s.bounds.Load() }

// SetDiskLow sets whether the disk is nearly full. If it is, changes of keys that do not finish
// anything are refused with ErrDiskLow once they write. Changes of the operator and of the service
// continue.
func (s *Store) SetDiskLow(low bool) { s.diskLow.Store(low) }

// watchedBytes is how many bytes may be written before the free disk space is read again.
const watchedBytes = 8 << 20

// WatchDisk sets a function that reads the free disk space and calls SetDiskLow. The store calls it
// after each 8 MiB that it has written, so that a burst of writes cannot fill the disk between two
// readings at fixed times. It runs in the committer's goroutine and must not use the store.
func (s *Store) WatchDisk(read func()) { s.watchDisk.Store(&read) }

// refusal returns the error of each write of a change, or nil if the change may write.
func (s *Store) refusal(by Writer) error {
	if by.Owner == 0 || by.Finishes || !s.diskLow.Load() {
		return nil
	}
	return ErrDiskLow
}

// wrote calls the function that WatchDisk has set if enough was written since its last call.
func (s *Store) wrote(bytes int64) {
	if read := s.watchDisk.Load(); read != nil && s.grown.Add(bytes) >= watchedBytes {
		s.grown.Store(0)
		(*read)()
	}
}

// Authenticate sets the keys under which records and backups are signed and verified, see
// NewAuthenticator. It returns the Authenticator. Call it before the first View or Update.
func (s *Store) Authenticate(keys [][]byte) *Authenticator {
	s.auth = NewAuthenticator(keys, s.id)
	return s.auth
}

// Forged returns the number of records without a valid MAC that were read so far.
func (s *Store) Forged() int {
	if s.auth == nil {
		return 0
	}
	return s.auth.Forged()
}

// Observe sets the function that is called after each commit. Its parameters are the
// number of changes in the commit and how long the commit took. It runs in the
// committer's goroutine and must return quickly. A later call of Observe replaces it.
func (s *Store) Observe(f func(changes int, took time.Duration)) { s.observe.Store(&f) }

// count adds a commit to Counts and reports it to the function that Observe has set.
func (s *Store) count(changes int, took time.Duration) {
	s.commits.Add(1)
	s.changes.Add(uint64(changes))
	if f := s.observe.Load(); f != nil {
		(*f)(changes, took)
	}
}

// Counts returns the number of commits since OpenStore, and how many changes were
// part of them. A change that failed in a batch with others is counted as well.
func (s *Store) Counts() (commits, changes uint64) { return s.commits.Load(), s.changes.Load() }

// Waiting returns the number of changes that wait for a commit, and how long the oldest of them has
// waited. Changes of the commit that runs now are not counted.
func (s *Store) Waiting() (changes int, longest time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at, waits := s.queue.oldest(); waits {
		longest = time.Since(at)
	}
	return s.queue.length, longest
}

// FreeBytes returns the size of the free pages of the file, in bytes, or 0 if their list cannot be read. New
// records use these pages before the file grows.
func (s *Store) FreeBytes() int64 {
	// bbolt knows the number only while it collects statistics, which takes a lock in each transaction.
	var free int64
	_ = s.View(func(tx *Tx) (err error) {
		free, err = boltcheck.FreeBytes(tx.Bolt, tx.File)
		return err
	})
	return free
}

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

// Unallocated returns how many bytes of the file need no disk space yet, because the store has not
// written to them.
func (s *Store) Unallocated() int64 { return Unallocated(s.path) }

// StampKey is the key of the stamp in the bucket meta. It is that of this machine.
var StampKey = []byte("stamp")

// Stamp returns the stamp that the last commit stored, see OpenStore. It returns nil
// if no commit has stored one.
func (s *Store) Stamp() ([]byte, error) {
	var value []byte
	err := s.View(func(tx *Tx) (err error) {
		value, err = tx.Get("meta", StampKey)
		return err
	})
	return value, err
}

// Responds returns nil if the committer works. Whether the cluster of a shared store can be reached does not
// matter.
func (s *Store) Responds() error {
	err := s.Update(func(*Tx) error { return nil })
	if s.replica != nil && !s.Failing() {
		return nil
	}
	return err
}

// Failed returns a channel that is closed when the store fails: a commit has failed,
// or the file is no longer at its path. After that the store refuses all reads and
// writes, because it is unknown whether the last commit is on disk. The process
// should end.
func (s *Store) Failed() <-chan struct{} { return s.failed }

// Err returns the reason why the store has failed, or nil if it has not failed.
func (s *Store) Err() error {
	if p := s.cause.Load(); p != nil {
		return *p
	}
	return nil
}

// Failing reports whether the store has failed.
func (s *Store) Failing() bool { return s.cause.Load() != nil }

// View calls run with a read transaction, which sees one consistent state of the
// store. Do not use the transaction or anything read from it by reference after run
// returns. View returns the error of run, or ErrUnavailable if the store is closed or
// has failed, or an error that names the damage if a page or index entry is damaged.
func (s *Store) View(run func(*Tx) error) error { return s.view(&Tx{}, run) }

// ViewFor is like View, but it ends when ctx does: reading then fails with ErrBroken. It looks at ctx
// at every few hundred records or index entries.
func (s *Store) ViewFor(ctx context.Context, run func(*Tx) error) error {
	return s.view(&Tx{ctx: ctx}, run)
}

// view is View with a new transaction, of which it sets the fields that belong to the store.
func (s *Store) view(tx *Tx, run func(*Tx) error) error {
	if s.cause.Load() != nil {
		return ErrUnavailable
	}
	// A damaged page can refer to an address outside the mapped file. Reading it is
	// a memory fault. This setting makes the fault a panic, which guarded recovers.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	err := s.db.View(func(b *bbolt.Tx) error {
		tx.Bolt, tx.File, tx.Auth, tx.Bounds, tx.Mails, tx.rowLog = b, s.file.Handle, s.auth, *s.bounds.Load(), *s.mails.Load(), &s.rowLog
		return guarded(tx, run)
	})
	if errors.Is(err, bolterrors.ErrDatabaseNotOpen) {
		return ErrUnavailable
	}
	return err
}

// CheckFile makes the store fail if its file was moved, removed or replaced. Each
// commit makes the same check, so call CheckFile only to notice it between commits.
func (s *Store) CheckFile() {
	if err := s.file.InPlace(); err != nil {
		s.fail(err)
	}
}

// CopyTo writes a compacted copy of the store to a new file at path, with a MAC. It returns once
// the copy is on disk. It returns an error if path already exists. Reads and writes
// continue during the copy. Pages that they free can be reused only after the copy,
// so the store's own file may grow meanwhile.
func (s *Store) CopyTo(path string) error { return s.CopyWatched(path, nil) }

// CopyWatched is like CopyTo and reports its progress. After an error of progress there is no file
// at path. One copy is made at a time, because each needs some 15 MB of memory.
func (s *Store) CopyWatched(path string, progress Progress) error {
	s.copying.Lock()
	defer s.copying.Unlock()
	if s.Failing() {
		return ErrUnavailable
	}
	return compact(s.db, path, s.auth, progress)
}

// Update calls run, which changes the store, and returns once the changes are on
// disk. If run returns an error, Update discards the changes and returns that error.
// run may be called more than once. Changes that run makes in memory therefore belong
// in a function passed to Tx.After. Update returns ErrUnavailable if the store is
// closed or has failed. After a failure during the commit, the changes may or may not
// be on disk. Do not call Update inside a transaction.
func (s *Store) Update(run func(*Tx) error) error { return s.UpdateBy(Writer{}, run) }

// UpdateEach calls run for each number from 0 to n-1 in as few transactions as the store takes them in. It returns how many were
// stored: with an error those before it are. run may be called more than once, as in Update.
func (s *Store) UpdateEach(by Writer, n int, run func(tx *Tx, i int) error) (done int, err error) {
	for done < n && err == nil {
		next := done
		err = s.UpdateBy(by, func(tx *Tx) error {
			for next = done; next < n && (next == done || !tx.Full()); next++ {
				if err := run(tx, next); err != nil {
					return err
				}
			}
			return nil
		})
		if err == nil {
			done = next
		}
	}
	return done, err
}

// UpdateBy is like Update, for a change on behalf of a Writer. The bounds on what an owner may store
// apply to the change.
func (s *Store) UpdateBy(by Writer, run func(*Tx) error) error {
	_, err := s.UpdateWith(by, run)
	return err
}

// UpdateWith is like UpdateBy. It also returns which nodes have applied the change, if the store is
// shared and the change is secure.
func (s *Store) UpdateWith(by Writer, run func(*Tx) error) (Effect, error) {
	done := make(chan error, 1)
	c := &change{by: by, run: run, done: func(err error) { done <- err }}
	s.queueChange(c)
	err := <-done
	return c.effect, err
}

// Queue is like Update, but it returns without waiting for the commit. done is called
// with the result that Update would return. done runs in the committer's goroutine and
// must not block. If the store is closed or has failed, Queue itself calls done.
func (s *Store) Queue(run func(*Tx) error, done func(error)) {
	s.QueueBy(Writer{}, run, done)
}

// QueueBy is like Queue, for a change on behalf of a Writer.
func (s *Store) QueueBy(by Writer, run func(*Tx) error, done func(error)) {
	s.queueChange(&change{by: by, run: run, done: done})
}

// queueChange adds a change to the queue, see Queue.
func (s *Store) queueChange(c *change) {
	s.mu.Lock()
	if s.closing || s.cause.Load() != nil {
		s.mu.Unlock()
		c.done(ErrUnavailable)
		return
	}
	c.queued = time.Now()
	s.queue.push(c)
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Close refuses new changes, commits those in the queue and closes the file. A second
// call does nothing and does not wait for the first.
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
	if s.replica != nil {
		return s.replica.close(s)
	}
	return s.db.Close()
}

// Generation returns a counter of the commits that have changed a table since
// OpenStore. Do not write to it. To cache data from a table, load the counter first
// and read the table second. Discard the cached data once the counter has changed.
func (s *Store) Generation(table string) *atomic.Uint64 {
	if g, ok := s.generations.Load(table); ok {
		return g.(*atomic.Uint64)
	}
	g, _ := s.generations.LoadOrStore(table, new(atomic.Uint64))
	return g.(*atomic.Uint64)
}

// Watch returns a channel that receives a value after a commit has changed the table.
// The channel holds one value at most. All callers for a table share it, so only one
// of them receives each value.
func (s *Store) Watch(table string) <-chan struct{} {
	c, _ := s.watched.LoadOrStore(table, make(chan struct{}, 1))
	return c.(chan struct{})
}

// Await waits until the counter of Generation for the table differs from since, and
// then returns true. It returns false if ctx ends or the store fails first.
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

// announce increments the generation of a table and wakes the goroutines that wait in
// Await or at the channel of Watch.
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

// commitAll is the committer, the only goroutine that writes. It ends once Close has
// been called and the queue is empty. A panic in a change ends the process, because
// it is a bug that may have damaged more than one request. The exception is a panic
// about damage in the file, see guarded.
func (s *Store) commitAll() {
	defer close(s.done)
	defer func() {
		if p := recover(); p != nil {
			FlushLog(s.log.Load())
			panic(p)
		}
	}()
	for range s.wake {
		for {
			// Let all goroutines that are ready queue their changes first. Without
			// this, on one core, the first change would get a commit of its own and
			// the others would wait for its sync.
			runtime.Gosched()
			s.mu.Lock()
			b, closing := s.queue.begin(), s.closing
			s.mu.Unlock()
			if b == nil && closing {
				return
			}
			if b == nil {
				break
			}
			s.commit(b)
		}
	}
}

// commit runs a batch of changes in one transaction and calls their done functions. A change that
// fails is undone, and the others stay. If it cannot be undone alone, commit rolls the transaction
// back and runs the changes before it again; those that have not run yet are left to the next
// batch. So no change of a store that is not shared runs more than twice because of others. An error
// of the commit itself makes the store fail.
func (s *Store) commit(b *commitBatch) {
	began := time.Now()
	tx, again, err := s.attempt(b)
	for again && err == nil {
		tx, again, err = s.attempt(b)
	}
	s.mu.Lock()
	s.queue.end(b)
	s.mu.Unlock()
	if err != nil {
		s.abandon(b, err)
		return
	}
	if s.replica == nil {
		s.settle(tx)
	}
	s.finish(b, nil)
	if tx.Writes > 0 {
		s.wrote(int64(tx.Bytes))
		s.count(len(b.changes), time.Since(began))
	}
}

// abandon ends a batch that was not committed. The store has failed, unless err is an *Error: that is the answer of
// a cluster that has not taken the changes.
func (s *Store) abandon(b *commitBatch, err error) {
	var refused *Error
	if !errors.As(err, &refused) {
		s.fail(err)
		refused = ErrUnavailable
	}
	s.finish(b, refused)
}

// settle makes a transaction that is on disk known: it announces the changed tables and calls the functions
// passed to Tx.After.
func (s *Store) settle(tx *Tx) {
	for _, table := range tx.Changed {
		s.announce(table)
	}
	for _, after := range tx.Afters {
		after()
	}
}

// finish calls the done functions of the changes of a batch. failed is the error of those that have
// none of their own.
func (s *Store) finish(b *commitBatch, failed error) {
	for _, c := range b.changes {
		if c.later && failed == nil {
			c.later = false
			s.commit(&commitBatch{changes: []*change{c}, closed: true})
			continue
		}
		if c.err == nil && failed != nil {
			c.err = failed
		}
		if c.err == nil && s.replica != nil {
			s.replica.confirm(c)
			continue
		}
		c.done(c.err)
	}
}

// attempt runs a batch in one transaction and commits it, see run. If no change has written
// anything, nothing is committed. tx is nil if again is true or err is not nil.
func (s *Store) attempt(b *commitBatch) (tx *Tx, again bool, err error) {
	if s.replica != nil {
		return s.replica.attempt(s, b)
	}
	tx, again, err = s.run(b)
	if tx == nil {
		return nil, again, err
	}
	if tx.Writes == 0 {
		return tx, false, tx.Bolt.Rollback()
	}
	if err := s.store(tx); err != nil {
		return nil, false, err
	}
	return tx, false, nil
}

// run runs a batch in one transaction, which it leaves open. While the batch takes more, run adds
// the changes that wait. It leaves out the changes marked as spoilers. If another change fails and
// cannot be undone alone, run marks it as a spoiler, closes the batch, rolls the transaction
// back and returns again. tx is nil if again is true or err is not nil.
func (s *Store) run(b *commitBatch) (tx *Tx, again bool, err error) {
	if s.cause.Load() != nil {
		return nil, false, ErrUnavailable
	}
	bolt, err := s.db.Begin(true)
	if err != nil {
		return nil, false, fmt.Errorf("commit to %s: %w", s.path, err)
	}
	tx = &Tx{Bolt: bolt, Auth: s.auth, Bounds: *s.bounds.Load(), Mails: *s.mails.Load(), undo: &undoLog{}}
	if s.replica != nil {
		tx.written = &writtenRecords{most: s.replica.bounds()}
	}
	for i := 0; i < len(b.changes); i++ {
		c := b.changes[i]
		if c.spoiler || c.later {
			continue
		}
		began, written := time.Now(), tx.Bytes
		if err := runOne(tx, c, s.refusal(c.by)); err != nil {
			c.spoiler, b.closed = !c.later, true
			return nil, true, bolt.Rollback()
		}
		b.closed = b.closed || c.later || tx.written.full()
		if !b.closed && i == len(b.changes)-1 {
			s.takeNext(b, cost{1, tx.Bytes - written, time.Since(began)})
		}
	}
	b.closed = true
	tx.undo = nil
	if tx.Writes == 0 {
		return tx, false, nil
	}
	tx.Writer, tx.Refusal = Writer{}, nil
	if err := guarded(tx, (*Tx).flushChunks); err != nil {
		return nil, false, errors.Join(err, bolt.Rollback())
	}
	if s.stamp != nil {
		if err := tx.Put("meta", StampKey, s.stamp()); err != nil {
			return nil, false, errors.Join(err, bolt.Rollback())
		}
	}
	if err := s.file.InPlace(); err != nil {
		return nil, false, errors.Join(err, bolt.Rollback())
	}
	return tx, false, nil
}

// store commits an open transaction.
func (s *Store) store(tx *Tx) error {
	s.rowLog.add(int64(tx.Bolt.ID()), tx.rows)
	if err := tx.Bolt.Commit(); err != nil {
		return fmt.Errorf("commit to %s: %w", s.path, err)
	}
	return nil
}

// takeNext adds the next change to a batch, if there is one, after the last one has used c.
func (s *Store) takeNext(b *commitBatch, c cost) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue.paid(b, c)
	s.queue.next(b)
}

// runOne runs a change in a transaction and sets its err. It undoes the change if it fails. It
// returns an error if that is not possible, so that the transaction must be rolled back.
func runOne(tx *Tx, c *change, refusal error) error {
	mark := tx.begin(c.by)
	tx.Refusal = refusal
	if c.err = guarded(tx, counting(c.by, c.run)); c.err == nil {
		c.secure = tx.secure
		if !tx.written.tooMany() {
			return nil
		}
		if c.later = mark.written.records > 0; !c.later {
			c.err = tx.written.refusal()
		}
	}
	return guarded(tx, func(*Tx) error { return tx.revert(mark) })
}

// guarded calls run and returns its error. If run panics because the file is damaged,
// guarded returns an error instead. Other panics continue. After a memory fault in a change that
// has written, the change cannot be undone alone.
func guarded(tx *Tx, run func(*Tx) error) (err error) {
	defer func() {
		switch p := recover().(type) {
		case nil:
		case damage:
			err = p.Err
		case interface{ Addr() uintptr }: // memory fault, see debug.SetPanicOnFault
			err = fmt.Errorf("the database is damaged (%v); restore a backup", p)
			if tx.undo != nil && len(tx.undo.entries) > 0 {
				tx.undo.Lost = true
			}
		default:
			panic(p)
		}
	}()
	return run(tx)
}

// fail marks the store as failed. From then on it refuses every read and write. err is
// the cause that Err returns; later calls of fail do not replace it.
func (s *Store) fail(err error) {
	if s.cause.CompareAndSwap(nil, &err) {
		close(s.failed)
	}
}
