package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"

	"latchkey/internal/cluster"
)

// A store can be shared by several nodes. Each has its own file, the view. A batch of changes runs on the
// view in an open transaction; what it has written goes to the engine as a Set, which takes it only if the
// view had the last state. Then the transaction is committed; otherwise it is rolled back and the batch
// runs again on the newer state. A goroutine, the follower, applies the Sets of the other nodes.
//
// Only records go to the engine. What follows from them, see isDerived, each node makes itself.

// The names of buckets that are not shared as they are. localBucket has what is about this view
// alone. sequenceBucket exists only in Sets: its keys are names of buckets and its values their
// sequences, eight bytes each.
const (
	localBucket    = "local"
	sequenceBucket = "#sequences"
)

// appliedKey is the key in localBucket of the Head of the last Set in the view, eight bytes.
var appliedKey = []byte("applied")

// appliedHead returns the Head of the last Set in the view, or 0 if the database is no view.
func appliedHead(tx *Tx) (cluster.Head, error) {
	value, err := tx.Get(localBucket, appliedKey)
	if err != nil || value == nil {
		return 0, err
	}
	if len(value) != 8 {
		return 0, fmt.Errorf("%s/%s: the position has %d bytes instead of 8", localBucket, appliedKey, len(value))
	}
	return cluster.Head(binary.BigEndian.Uint64(value)), nil
}

// setApplied stores the Head of the last Set in the view.
func (tx *Tx) setApplied(head cluster.Head) error {
	return tx.Put(localBucket, appliedKey, IDKey(uint64(head)))
}

// isDerived reports whether the contents of a bucket follow from the records in others.
func isDerived(bucket string) bool {
	return strings.Contains(bucket, "/") || isListBucket(bucket) || bucket == "counts" || bucket == ownerBytesBucket
}

// isShared reports whether a record is the same on all nodes and is part of Sets.
func isShared(bucket string, key []byte) bool {
	switch bucket {
	case "meta":
		return !bytes.Equal(key, StampKey) && string(key) != "header" && !bytes.Equal(key, sealKey)
	case localBucket, rebuildBucket:
		return false
	}
	return !isDerived(bucket)
}

// writtenRecords are the shared records that a transaction has written, each once. A nil
// *writtenRecords remembers nothing.
type writtenRecords struct {
	order []recordPlace
	known map[recordPlace]bool
	bytes int         // size of what was written; a record that was written twice counts twice
	most  writtenMark // more does not fit into a Set
}

// writtenMark is a state of writtenRecords.
type writtenMark struct{ records, bytes int }

// note remembers a record.
func (w *writtenRecords) note(bucket string, key, value []byte) {
	if w == nil || !isShared(bucket, key) {
		return
	}
	if w.bytes += len(bucket) + len(key) + len(value); w.known == nil {
		w.known = map[recordPlace]bool{}
	}
	if at := (recordPlace{bucket, string(key)}); !w.known[at] {
		w.known[at] = true
		w.order = append(w.order, at)
	}
}

// mark returns the present state.
func (w *writtenRecords) mark() writtenMark {
	if w == nil {
		return writtenMark{}
	}
	return writtenMark{len(w.order), w.bytes}
}

// truncate forgets what was noted after a mark.
func (w *writtenRecords) truncate(m writtenMark) {
	if w == nil {
		return
	}
	for _, at := range w.order[m.records:] {
		delete(w.known, at)
	}
	w.order, w.bytes = w.order[:m.records], m.bytes
}

// full reports whether the batch should take no more changes.
func (w *writtenRecords) full() bool {
	return w != nil && (len(w.order) > w.most.records/2 || w.bytes > w.most.bytes/2)
}

// tooMany reports whether the records do not fit into a Set.
func (w *writtenRecords) tooMany() bool {
	return w != nil && (len(w.order) > w.most.records || w.bytes > w.most.bytes)
}

// fits returns the error for a change that began at a mark if its records do not fit into a Set.
func (w *writtenRecords) fits(first writtenMark) error {
	if w == nil || len(w.order)-first.records <= w.most.records && w.bytes-first.bytes <= w.most.bytes {
		return nil
	}
	return w.refusal()
}

// refusal returns the error for a change whose records do not fit into a Set.
func (w *writtenRecords) refusal() error {
	share := min(float64(w.most.records)/float64(len(w.order)), float64(w.most.bytes)/float64(w.bytes))
	return &Oversized{ErrImportTooLarge.With("A cluster takes at most %s records and %s bytes in one change; about %d %% of this one would fit. Send it in parts.",
		Figure(w.most.records), Figure(w.most.bytes), int(100*share)), share}
}

// Oversized is the error of a change that writes more than a shared store takes at once.
type Oversized struct {
	Refusal *Error  // the error for clients
	Share   float64 // how much of the change would fit, less than 1
}

// Error implements error.
func (e *Oversized) Error() string { return e.Refusal.Error() }

// Unwrap returns the error for clients.
func (e *Oversized) Unwrap() error { return e.Refusal }

// writes returns the present values of the records in ascending order of their places.
func (w *writtenRecords) writes(tx *Tx) []cluster.Write {
	slices.SortFunc(w.order, recordPlace.compare)
	all := make([]cluster.Write, 0, len(w.order))
	for _, at := range w.order {
		one := cluster.Write{Bucket: at.bucket, Key: []byte(at.key)}
		if at.bucket == sequenceBucket {
			b := tx.Bolt.Bucket([]byte(at.key))
			if b == nil {
				continue // the change that has created it was undone
			}
			one.Value = IDKey(b.Sequence())
		} else {
			one.Value = bytes.Clone(tx.stored(at.bucket, one.Key))
		}
		all = append(all, one)
	}
	return all
}

// ShareOptions are the options of ShareStore.
type ShareOptions struct {
	Engine  cluster.Engine
	Members cluster.Acknowledger // nil: secure changes wait for nobody
	Node    string               // name of this node
	Tables  []Checked            // all tables of the store
	// Applied is called for each Set of another node once it is in the view, before the node acknowledges it. Nobody
	// changes the view meanwhile. It may be nil.
	Applied func(*cluster.Set)
	// Closed is called when the store is closed, after the last commit. It may be nil.
	Closed func() error
	// Mark is the path of the file that shows that the view is in use, see OpenView. With it, the file of the view is
	// brought to the disk once a second instead of at each commit: everything in it is in the cluster as well.
	// "": it is brought to the disk at each commit.
	Mark string
	// MaxWrites and MaxBytes bound what one change may write; 0: as cluster.MaxWrites and cluster.MaxBytes.
	MaxWrites, MaxBytes int
}

// replica is the part of a shared store that speaks with the engine.
type replica struct {
	o      ShareOptions
	tables map[string]anyTable
	owned  map[string]bool // the buckets that are an OwnedBucket
	rows   map[string]anyTable
	most   writtenMark // the bounds of a Set

	turn      sync.Mutex // held while a Set is committed or applied; guards what follows
	head      cluster.Head
	moved     chan struct{} // closed when head changes, and then replaced
	present   atomic.Int64  // head, for those who do not hold turn
	unsure    *unsureSet    // a Set of this node that may still be committed
	committed cluster.Head  // the last Set of this node; for the committer alone

	acknowledged atomic.Int64  // the last Head that should be acknowledged
	acknowledge  chan struct{} // holds a token if acknowledged has changed
	ctx          context.Context
	stop         context.CancelFunc
	running      sync.WaitGroup
}

// unsureSet is a Set whose fate is not known. If the follower finds it among the committed Sets, it calls
// the functions that were passed to Tx.After.
type unsureSet struct {
	nonce uint64
	tx    *Tx
}

// shareOpened is called with each store that OpenStore has opened. It is nil, except in tests that share
// all stores.
var shareOpened func(*Store)

// ShareStore makes a store one of several that have the same records. The view must have the state that
// localBucket names, or that before the first Set. Call it before the methods of the store, but after Authenticate. It
// starts a goroutine that ends with Close.
func ShareStore(s *Store, o ShareOptions) error {
	r := &replica{
		o: o, tables: map[string]anyTable{}, owned: map[string]bool{}, rows: map[string]anyTable{},
		moved: make(chan struct{}), acknowledge: make(chan struct{}, 1),
	}
	for _, t := range o.Tables {
		switch t := t.(type) {
		case anyTable:
			set := t.settings()
			r.tables[set.name] = t
			if set.rows {
				r.rows[set.rowSource] = t
			}
		case OwnedBucket:
			r.owned[string(t)] = true
		}
	}
	err := s.View(func(tx *Tx) (err error) {
		r.head, err = appliedHead(tx)
		return err
	})
	if err != nil {
		return err
	}
	r.present.Store(int64(r.head))
	r.most = writtenMark{cmp.Or(o.MaxWrites, cluster.MaxWrites), cmp.Or(o.MaxBytes, cluster.MaxBytes)}
	r.ctx, r.stop = context.WithCancel(context.Background())
	s.replica = r
	if s.db.NoSync = o.Mark != ""; s.db.NoSync {
		r.running.Go(func() { r.syncAll(s) })
	}
	r.running.Go(func() { r.follow(s) })
	r.running.Go(r.acknowledgeAll)
	return nil
}

// syncTime is how often the file of a view is brought to the disk.
const syncTime = time.Second

// syncAll brings the file of the view to the disk now and then, until the store is closed.
func (r *replica) syncAll(s *Store) {
	tick := time.NewTicker(syncTime)
	defer tick.Stop()
	for last := cluster.Head(0); ; {
		select {
		case <-tick.C:
		case <-r.ctx.Done():
			return
		}
		head := s.Head()
		if head == last {
			continue
		}
		if err := s.db.Sync(); err != nil {
			s.fail(fmt.Errorf("sync %s: %w", s.path, err))
			return
		}
		last = head
	}
}

// Head returns the position of the last Set in the view, or 0 if the store is not shared.
func (s *Store) Head() cluster.Head {
	if s.replica == nil {
		return 0
	}
	return s.replica.last()
}

// Reach waits until the view has the state at a Head. It returns the error of ctx, or that of the store if it has
// failed.
func (s *Store) Reach(ctx context.Context, head cluster.Head) error {
	return s.replica.reach(ctx, s, head)
}

func (r *replica) last() cluster.Head { return cluster.Head(r.present.Load()) }

func (r *replica) bounds() writtenMark { return r.most }

func (r *replica) reach(ctx context.Context, s *Store, head cluster.Head) error {
	for {
		r.turn.Lock()
		reached, moved := r.head >= head, r.moved
		r.turn.Unlock()
		if reached {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		case <-r.ctx.Done():
			return ErrUnavailable
		case <-s.failed:
			return ErrUnavailable
		}
	}
}

// close ends the follower, and closes the file.
func (r *replica) close(s *Store) error {
	r.stop()
	r.running.Wait()
	var err error
	if r.o.Closed != nil {
		err = r.o.Closed()
	}
	if r.o.Mark == "" || s.Failing() {
		return errors.Join(err, s.db.Close())
	}
	if err := errors.Join(err, s.db.Sync(), s.db.Close()); err != nil {
		return err
	}
	return os.Remove(r.o.Mark)
}

// The times that a commit waits for the cluster.
const (
	// commitTime is how long the transaction of a batch stays open. Meanwhile no Set of another
	// node is applied.
	commitTime = 500 * time.Millisecond
	// unsureTime is how long a node tries to find out whether a Set was committed.
	unsureTime = 10 * time.Second
)

// The answers if the cluster has not taken a change.
var (
	errNoMajority = ErrUnavailable.With("The change was not made: the cluster cannot be reached. Try again shortly.")
	errMayBe      = ErrUnavailable.With("The cluster could not be reached for %d seconds, so it is not known whether the change was made: it may have happened. "+
		"Look before you repeat it, or repeat it with the same Idempotency-Key.", int(unsureTime/time.Second))
	errRefused      = ErrUnavailable.With("The change was not made: the cluster has refused it. The log of the server has the reason.")
	errNotConfirmed = ErrUnavailable.With("The change was made, but it is not known whether all nodes of the cluster follow it already. Repeat the request to be sure.")
)

// attempt is like Store.attempt for a shared store. An error that is an *Error does not make the
// store fail.
func (r *replica) attempt(s *Store, b *commitBatch) (tx *Tx, again bool, err error) {
	r.o.Engine.Turn(r.ctx)
	r.turn.Lock()
	base := r.head
	tx, again, err = s.run(b)
	if tx == nil {
		r.turn.Unlock()
		return nil, again, err
	}
	set := &cluster.Set{Node: r.o.Node, Nonce: rand.Uint64(), Writes: tx.written.writes(tx), Secure: slices.ContainsFunc(b.changes, func(c *change) bool { return c.secure && c.err == nil })}
	if len(set.Writes) == 0 && tx.Writes > 0 { // the change is about this view alone
		defer r.turn.Unlock()
		if err := s.store(tx); err != nil {
			return nil, false, err
		}
		s.settle(tx)
		return tx, false, nil
	}
	if len(set.Writes) == 0 {
		err := tx.Bolt.Rollback()
		r.turn.Unlock()
		if err != nil {
			return nil, false, err
		}
		return r.confirmed(s, base, tx)
	}
	ctx, cancel := context.WithTimeout(r.ctx, commitTime)
	defer cancel()
	head, err := r.o.Engine.Commit(ctx, base, set)
	if err == nil {
		defer r.turn.Unlock()
		return tx, false, r.commit(s, tx, head)
	}
	rolled := tx.Bolt.Rollback()
	tx.Bolt = nil
	if errors.Is(err, cluster.ErrUnsure) {
		r.unsure = &unsureSet{set.Nonce, tx}
	}
	r.turn.Unlock()
	if rolled != nil {
		return nil, false, rolled
	}
	if errors.Is(err, cluster.ErrUnsure) {
		ctx, cancel := context.WithTimeout(r.ctx, unsureTime)
		defer cancel()
		head, err = r.o.Engine.Commit(ctx, base, set)
		if err == nil {
			err = s.Reach(ctx, head) // the follower has settled tx, unless it has compared all records, see catchUp
		}
		r.turn.Lock()
		if r.unsure != nil && err == nil {
			s.settle(tx)
		}
		r.unsure = nil
		r.turn.Unlock()
	}
	switch {
	case err == nil:
		r.committed = head
		return tx, false, nil
	case errors.Is(err, cluster.ErrMoved):
		return nil, true, r.wait(s, base)
	case errors.Is(err, cluster.ErrUnsure), r.ctx.Err() != nil:
		return nil, false, r.lost(s, errMayBe)
	}
	s.log.Load().Error("the cluster has refused a change", "error", err)
	return nil, false, r.lost(s, errRefused)
}

// lost returns refusal, or the reason why the store has ended.
func (r *replica) lost(s *Store, refusal *Error) error {
	if s.Failing() {
		return ErrUnavailable
	}
	return refusal
}

// confirmed returns the transaction of a batch that has written nothing if the view had the last state
// of the cluster. Otherwise the batch runs again, so that no answer is from an old state.
func (r *replica) confirmed(s *Store, base cluster.Head, tx *Tx) (*Tx, bool, error) {
	ctx, cancel := context.WithTimeout(r.ctx, unsureTime)
	defer cancel()
	head, err := r.o.Engine.Barrier(ctx)
	if err == nil && head > base {
		return nil, true, r.wait(s, base)
	}
	if err != nil {
		return nil, false, r.lost(s, errNoMajority)
	}
	r.turn.Lock()
	defer r.turn.Unlock()
	s.settle(tx)
	return tx, false, nil
}

// wait waits until the view has a later state than base.
func (r *replica) wait(s *Store, base cluster.Head) error {
	ctx, cancel := context.WithTimeout(r.ctx, unsureTime)
	defer cancel()
	if s.Reach(ctx, base+1) != nil {
		return r.lost(s, errNoMajority)
	}
	return nil
}

// commit commits the transaction of a Set that was added at head. turn must be locked.
func (r *replica) commit(s *Store, tx *Tx, head cluster.Head) error {
	if err := tx.setApplied(head); err != nil {
		return errors.Join(err, tx.Bolt.Rollback())
	}
	if err := s.store(tx); err != nil {
		return err
	}
	r.committed = head
	s.settle(tx)
	r.advance(head)
	return nil
}

// advance sets the head. turn must be locked.
func (r *replica) advance(head cluster.Head) {
	r.head = head
	r.present.Store(int64(head))
	close(r.moved)
	r.moved = make(chan struct{})
}

// Effect is which nodes of a cluster had applied a secure change when it was acknowledged.
type Effect = cluster.Effect

// confirm calls the done function of a change. It calls that of a secure change only once no node answers from a state before it,
// but does not wait for that.
func (r *replica) confirm(c *change) {
	c.effect.Head = r.committed
	if r.o.Members == nil || !c.secure {
		c.done(nil)
		return
	}
	head, began := r.committed, time.Now()
	r.running.Go(func() {
		ctx, cancel := context.WithTimeout(r.ctx, 2*unsureTime)
		defer cancel()
		effect, err := r.o.Members.Await(ctx, head)
		effect.Head, effect.Took = head, time.Since(began)
		if c.effect = effect; err != nil {
			c.done(errNotConfirmed)
			return
		}
		c.done(nil)
	})
}

// acknowledgeAll tells the other nodes which secure Sets the view has, until the store is closed.
func (r *replica) acknowledgeAll() {
	for {
		select {
		case <-r.acknowledge:
		case <-r.ctx.Done():
			return
		}
		for r.ctx.Err() == nil {
			head := cluster.Head(r.acknowledged.Load())
			ctx, cancel := context.WithTimeout(r.ctx, commitTime)
			err := r.o.Members.Acknowledge(ctx, head)
			cancel()
			if err == nil {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
}

// follow applies the Sets of the other nodes until the store is closed. It makes the store fail if the
// view cannot follow.
func (r *replica) follow(s *Store) {
	for r.ctx.Err() == nil {
		err := r.o.Engine.Follow(r.ctx, s.Head(), func(head cluster.Head, set *cluster.Set) error { return r.apply(s, head, set) })
		if errors.Is(err, cluster.ErrGap) {
			err = r.catchUp(s)
		}
		if err != nil && r.ctx.Err() == nil {
			if r.o.Mark != "" {
				err = errors.Join(err, markView(r.o.Mark, "damaged"))
			}
			s.fail(fmt.Errorf("the view of the cluster in %s cannot follow the changes; the next start loads it anew: %w", s.path, err))
			return
		}
	}
}

// apply takes a Set into the view.
func (r *replica) apply(s *Store, head cluster.Head, set *cluster.Set) error {
	r.turn.Lock()
	defer r.turn.Unlock()
	if head <= r.head {
		return nil // a Set of this node
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true)) // see Store.view
	bolt, err := s.db.Begin(true)
	if err != nil {
		return err
	}
	tx := &Tx{Bolt: bolt, Auth: s.auth}
	if err := guarded(tx, func(tx *Tx) error { return r.take(tx, head, set) }); err != nil {
		return errors.Join(err, bolt.Rollback())
	}
	if err := s.store(tx); err != nil {
		return err
	}
	if r.o.Applied != nil {
		r.o.Applied(set)
	}
	if u := r.unsure; u != nil && u.nonce == set.Nonce && set.Node == r.o.Node {
		s.settle(u.tx)
		r.unsure = nil
	}
	s.settle(tx)
	r.advance(head)
	if set.Secure && r.o.Members != nil {
		r.acknowledged.Store(int64(head))
		select {
		case r.acknowledge <- struct{}{}:
		default:
		}
	}
	return nil
}

// take writes a Set and all that follows from it.
func (r *replica) take(tx *Tx, head cluster.Head, set *cluster.Set) error {
	return counting(Writer{}, func(tx *Tx) error {
		for _, w := range set.Writes {
			if r.tables[w.Bucket] == nil {
				if err := r.takeOther(tx, w); err != nil {
					return err
				}
			}
		}
		for _, w := range set.Writes {
			if t := r.tables[w.Bucket]; t != nil {
				if err := takeRecord(tx, t, w); err != nil {
					return err
				}
			}
		}
		for _, w := range set.Writes {
			if t := r.rows[w.Bucket]; t != nil {
				if err := takeRowValue(tx, t, w.Key); err != nil {
					return err
				}
			}
		}
		return errors.Join(tx.flushChunks(), tx.setApplied(head))
	})(tx)
}

// takeOther writes a record that is in no table, or a sequence.
func (r *replica) takeOther(tx *Tx, w cluster.Write) error {
	if w.Bucket == sequenceBucket {
		b, err := tx.bucket(string(w.Key))
		if err != nil {
			return err
		}
		return setSequence(b, w)
	}
	had := storedSize(tx, w.Bucket, w.Key)
	if err := tx.setRaw(w); err != nil {
		return err
	}
	if !slices.Contains(tx.Changed, w.Bucket) { // no table announces it
		tx.Changed = append(tx.Changed, w.Bucket)
	}
	if r.owned[w.Bucket] && len(w.Key) == 8 {
		tx.grew(binary.BigEndian.Uint64(w.Key), ownerGrowth{storedSize(tx, w.Bucket, w.Key) - had, false, 0})
	}
	return nil
}

// setSequence sets the sequence of a bucket to that of a Write in sequenceBucket.
func setSequence(b *bbolt.Bucket, w cluster.Write) error {
	if len(w.Value) != 8 {
		return fmt.Errorf("%s/%s: the sequence has %d bytes instead of 8", w.Bucket, w.Key, len(w.Value))
	}
	return b.SetSequence(binary.BigEndian.Uint64(w.Value))
}

// setRaw stores or deletes a record as it is.
func (tx *Tx) setRaw(w cluster.Write) error {
	if w.Value == nil {
		return tx.Delete(w.Bucket, w.Key)
	}
	return tx.PutRaw(w.Bucket, w.Key, w.Value)
}

// takeRecord writes a record of a table and what follows from it. A record that is forged counts as
// none, as in all reads.
func takeRecord(tx *Tx, t anyTable, w cluster.Write) error {
	before, err := oldRecord(tx, t, w.Key)
	if err != nil && !IsForged(err) {
		return err
	}
	had := storedSize(tx, w.Bucket, w.Key)
	if err := tx.setRaw(w); err != nil {
		return err
	}
	after, err := oldRecord(tx, t, w.Key)
	if err != nil && !IsForged(err) {
		return err
	}
	if before == nil && after == nil {
		return nil
	}
	return noteChange(tx, t, tableChange{w.Key, before, after}, had)
}

// takeRowValue updates the value of a record in the RowList of its table.
func takeRowValue(tx *Tx, t anyTable, key []byte) error {
	name := t.settings().name
	slot, err := RowNumber(tx, name, key)
	if err != nil || slot == 0 {
		return err
	}
	value, err := t.rowValue(tx, key)
	return errors.Join(err, setRowValue(tx, name, slot, value))
}

// catchUp brings the view to the present state of the cluster by comparing all records.
func (r *replica) catchUp(s *Store) error {
	base, set := s.Head(), &cluster.Set{Secure: true}
	head := cluster.Head(0)
	err := s.View(func(tx *Tx) error {
		next, stop := iter.Pull2(sharedRecords(tx))
		defer stop()
		at, value, more := next()
		surplus := func(until recordPlace, all bool) { // what the cluster does not have
			for more && (all || at.compare(until) < 0) {
				set.Writes = append(set.Writes, cluster.Write{Bucket: at.bucket, Key: []byte(at.key)})
				at, value, more = next()
			}
		}
		var err error
		head, err = r.o.Engine.Load(r.ctx, func(w cluster.Write) error {
			place := recordPlace{w.Bucket, string(w.Key)}
			surplus(place, false)
			if more && at == place {
				same := bytes.Equal(value, w.Value)
				at, value, more = next()
				if same {
					return nil
				}
			}
			set.Writes = append(set.Writes, cluster.Write{Bucket: w.Bucket, Key: bytes.Clone(w.Key), Value: bytes.Clone(w.Value)})
			return nil
		})
		surplus(recordPlace{}, err == nil)
		return err
	})
	if err != nil {
		return err
	}
	set.Writes = slices.DeleteFunc(set.Writes, func(w cluster.Write) bool { return w.Bucket == sequenceBucket && w.Value == nil })
	if s.Head() != base {
		return nil // this node has committed meanwhile: its view follows
	}
	return r.apply(s, head, set)
}

// sharedRecords iterates over the shared records of the store as they are stored, and the sequences, in
// the order of Engine.Load. The values are valid until the next step.
func sharedRecords(tx *Tx) iter.Seq2[recordPlace, []byte] {
	return func(yield func(recordPlace, []byte) bool) {
		names := bucketsWith(tx, "")
		for _, name := range names {
			if b := tx.Bolt.Bucket([]byte(name)); b != nil && b.Sequence() > 0 && !isDerived(name) {
				if !yield(recordPlace{sequenceBucket, name}, IDKey(b.Sequence())) {
					return
				}
			}
		}
		for _, name := range names {
			if isDerived(name) || name == localBucket || name == rebuildBucket {
				continue
			}
			for key, stored := range tx.Range(name, nil) {
				if isShared(name, key) && !yield(recordPlace{name, string(key)}, stored) {
					return
				}
			}
		}
	}
}
