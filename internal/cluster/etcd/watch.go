package etcd

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"latchkey/internal/cluster"
)

// lookTime is how often to look whether the watch lacks an event that etcd is known to have. If it does twice, its server may have
// stopped without closing the connection, and the watch goes on with another one. The time is doubled then up to maxLookTime, for much
// history arrives late because it is much.
const (
	lookTime    = 500 * time.Millisecond
	maxLookTime = 30 * time.Second
)

// memberKinds are the beginnings of the keys that say which nodes run.
var memberKinds = []string{"node/", "ack/", "want/", "removed/"}

// Follow calls apply for each Set after a Head, see cluster.Engine. While it runs, the engine learns about the
// other nodes as well.
func (e *Engine) Follow(ctx context.Context, after cluster.Head, apply func(cluster.Head, *cluster.Set) error) error {
	ctx, cancel := e.until(ctx)
	q := queue{filled: make(chan struct{}, 1)}
	var watching sync.WaitGroup
	watching.Go(func() { q.end(e.watch(ctx, after, &q)) })
	defer watching.Wait()
	defer cancel()
	for {
		f, err := q.next(ctx)
		if err != nil {
			return err
		}
		if err := apply(f.head, f.set); err != nil {
			return err
		}
	}
}

// followed is a Set that the watch has reported.
type followed struct {
	head cluster.Head
	set  *cluster.Set
}

// queue has the Sets that the watch has reported and that are not applied yet, so that what the watch says about the other nodes
// does not wait for them.
type queue struct {
	mu     sync.Mutex
	list   []followed
	err    error // why the watch has ended
	filled chan struct{}
}

// add appends a Set.
func (q *queue) add(f followed) {
	q.mu.Lock()
	q.list = append(q.list, f)
	q.mu.Unlock()
	q.wake()
}

// end says that no more Sets follow.
func (q *queue) end(err error) {
	q.mu.Lock()
	q.err = err
	q.mu.Unlock()
	q.wake()
}

// wake lets next look again.
func (q *queue) wake() {
	select {
	case q.filled <- struct{}{}:
	default:
	}
}

// next waits for the next Set. After the last one it returns the error with which the watch has ended.
func (q *queue) next(ctx context.Context) (followed, error) {
	for {
		if ctx.Err() != nil {
			return followed{}, context.Cause(ctx)
		}
		q.mu.Lock()
		if len(q.list) > 0 {
			f := q.list[0]
			q.list[0] = followed{}
			q.list = q.list[1:]
			q.mu.Unlock()
			return f, nil
		}
		err := q.err
		q.mu.Unlock()
		if err != nil {
			return followed{}, err
		}
		select {
		case <-q.filled:
		case <-ctx.Done():
		}
	}
}

// position is how far a watch has come.
type position struct {
	head     cluster.Head  // last Set that was reported
	revision int64         // last revision of which everything was reported
	look     time.Duration // how often to look whether events are lacking
}

// watch reports the Sets after a Head until ctx ends or they are no longer kept.
func (e *Engine) watch(ctx context.Context, after cluster.Head, q *queue) error {
	var at position
	err := e.retry(ctx, time.Second, func(ctx context.Context) (err error) {
		at, err = e.find(ctx, after)
		return err
	})
	for err == nil {
		at.look = min(max(2*at.look, lookTime), maxLookTime)
		err = e.watchOnce(ctx, &at, q)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, rpctypes.ErrCompacted):
			err = e.retry(ctx, time.Second, func(ctx context.Context) error { return e.skip(ctx, &at) })
		case err == nil, errors.Is(err, cluster.ErrGap):
		case strings.Contains(err.Error(), "message larger than max"):
			err = gapError{"the changes since the state of this node are more than etcd sends at a time"}
		case explain(err) != nil:
			return explain(err)
		default:
			e.log.Debug("the watch of etcd goes on with another server", "reason", err.Error())
			err = nil
			sleep(ctx, 10*time.Millisecond)
		}
	}
	if gap := (gapError{}); errors.As(err, &gap) {
		e.log.Info("the records must be loaded", "reason", gap.reason)
	}
	return err
}

// gapError is an ErrGap with its reason for the log.
type gapError struct{ reason string }

func (g gapError) Error() string { return cluster.ErrGap.Error() + ": " + g.reason }

// Is makes it an ErrGap.
func (g gapError) Is(target error) bool { return target == cluster.ErrGap }

// find takes a snapshot of the members and returns from where to watch for the Sets after a Head.
func (e *Engine) find(ctx context.Context, after cluster.Head) (position, error) {
	r, err := e.snapshot(ctx)
	if err != nil {
		return position{}, err
	}
	last := headOf(r)
	at := position{head: after, revision: int64(after)}
	switch {
	case last == after:
		at.revision = r.Header.Revision // also if etcd has removed the history since then
	case last < after:
		return at, gapError{"etcd has fewer changes than this node, as after a restore of etcd from a backup"}
	case after > 0:
		r, err := e.client.Get(ctx, e.key("head"), clientv3.WithRev(int64(after)), clientv3.WithKeysOnly())
		if err != nil {
			if errors.Is(rpctypes.Error(err), rpctypes.ErrCompacted) {
				return at, nil // the watch finds the same, and skips what it may
			}
			return at, err
		}
		if len(r.Kvs) == 0 || r.Kvs[0].ModRevision != int64(after) {
			return at, gapError{"etcd does not know the last change of this node, as after a restore of etcd from a backup"}
		}
	}
	return at, nil
}

// headOf returns the Head in the answer to a snapshot.
func headOf(r *clientv3.TxnResponse) cluster.Head {
	if kvs := r.Responses[0].GetResponseRange().Kvs; len(kvs) > 0 {
		return cluster.Head(kvs[0].ModRevision)
	}
	return 0
}

// snapshot reads the head and all keys of the members at one revision, and takes them over into the state.
func (e *Engine) snapshot(ctx context.Context) (*clientv3.TxnResponse, error) {
	ops := []clientv3.Op{clientv3.OpGet(e.key("head"))}
	for _, kind := range memberKinds {
		ops = append(ops, clientv3.OpGet(e.key(kind), clientv3.WithPrefix()))
	}
	r, err := e.client.Txn(ctx).Then(ops...).Commit()
	if err != nil {
		return nil, err
	}
	var pairs []*mvccpb.KeyValue
	for _, one := range r.Responses[1:] {
		pairs = append(pairs, one.GetResponseRange().Kvs...)
	}
	e.state.snapshot(r.Header.Revision, e.prefix, pairs)
	return r, nil
}

// skip moves a position over history that etcd has removed, if no Set was in it.
func (e *Engine) skip(ctx context.Context, at *position) error {
	snapshot, err := e.snapshot(ctx)
	if err != nil {
		return err
	}
	if headOf(snapshot) == at.head {
		at.revision = snapshot.Header.Revision
		return nil
	}
	// The oldest revision that is kept tells whether the last Set at that time is the one that this node has.
	oldest, err := e.oldest(ctx, at.revision+1)
	if err != nil {
		return err
	}
	r, err := e.client.Get(ctx, e.key("head"), clientv3.WithRev(oldest), clientv3.WithKeysOnly())
	if err != nil {
		return err
	}
	if len(r.Kvs) == 0 && at.head == 0 || len(r.Kvs) > 0 && r.Kvs[0].ModRevision == int64(at.head) {
		at.revision = oldest
		return nil
	}
	return gapError{"etcd has removed the history since the last change of this node"}
}

// oldest returns the oldest revision that etcd still has, given one that it no longer has.
func (e *Engine) oldest(ctx context.Context, removed int64) (int64, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r, ok := <-e.client.Watch(ctx, e.key("head"), clientv3.WithRev(removed))
	switch {
	case !ok:
		return 0, fmt.Errorf("the watch has ended: %w", context.Cause(ctx))
	case r.CompactRevision > 0:
		return r.CompactRevision, nil
	default:
		return removed, r.Err()
	}
}

// watchOnce watches from a position until the watch ends, and moves the position on.
func (e *Engine) watchOnce(ctx context.Context, at *position, q *queue) error {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	// Without fragments: etcd 3.4 takes seconds to divide a large response.
	responses := e.client.Watch(ctx, e.prefix, clientv3.WithPrefix(), clientv3.WithRev(at.revision+1))
	look := time.NewTicker(at.look)
	defer look.Stop()
	late := false
	for {
		select {
		case r, ok := <-responses:
			if !ok {
				return errors.New("the watch was closed")
			}
			if err := r.Err(); err != nil {
				return err
			}
			if err := e.report(at, r.Events, q); err != nil {
				return err
			}
			late, at.look = false, 0 // the next watch begins with the shortest time
		case <-look.C:
			behind := e.state.behind(at.revision)
			if behind && late {
				return errors.New("it lacks events")
			}
			late = behind
		}
	}
}

// report takes over the events of a response: into the state what is about members, into the queue the Sets.
// etcd reports all events of a revision in one response.
func (e *Engine) report(at *position, events []*clientv3.Event, q *queue) error {
	for len(events) > 0 {
		revision := events[0].Kv.ModRevision
		end := slices.IndexFunc(events, func(ev *clientv3.Event) bool { return ev.Kv.ModRevision != revision })
		if end < 0 {
			end = len(events)
		}
		set, err := e.reportRevision(revision, events[:end])
		if err != nil {
			return err
		}
		at.revision = revision
		if set != nil {
			at.head = cluster.Head(revision)
			q.add(followed{at.head, set})
		}
		events = events[end:]
	}
	return nil
}

// reportRevision takes over the events of one revision and returns its Set, or nil if it has none.
func (e *Engine) reportRevision(revision int64, events []*clientv3.Event) (*cluster.Set, error) {
	var head *header
	var writes []cluster.Write
	var about []event
	for _, ev := range events {
		rest := strings.TrimPrefix(string(ev.Kv.Key), e.prefix)
		record, isRecord := strings.CutPrefix(rest, "r/")
		switch {
		case isRecord:
			w, err := writeOf(record, ev)
			if err != nil {
				return nil, err
			}
			writes = append(writes, w)
		case rest == "head" && ev.Type == mvccpb.PUT:
			head = new(header)
			if err := json.Unmarshal(ev.Kv.Value, head); err != nil {
				return nil, gapError{"somebody has changed the key head in etcd"}
			}
		default:
			about = append(about, event{rest, ev.Kv, ev.Type == mvccpb.DELETE})
		}
	}
	if len(writes) > 0 && head == nil {
		return nil, gapError{"records were written to etcd that belong to no change"} // by the creation of the store, or by hand
	}
	e.state.apply(revision, about, head)
	if head == nil {
		return nil, nil
	}
	slices.SortFunc(writes, func(a, b cluster.Write) int {
		return cmp.Or(cmp.Compare(a.Bucket, b.Bucket), bytes.Compare(a.Key, b.Key))
	})
	return &cluster.Set{Node: head.Node, Nonce: head.Nonce, Secure: head.Secure, Writes: writes}, nil
}

// writeOf returns the Write of an event. record is its key after "r/".
func writeOf(record string, ev *clientv3.Event) (cluster.Write, error) {
	bucket, key, ok := strings.Cut(record, "\x00")
	if !ok {
		return cluster.Write{}, gapError{"etcd has a record without a bucket"}
	}
	w := cluster.Write{Bucket: bucket, Key: []byte(key)}
	if ev.Type == mvccpb.PUT {
		w.Value = valueOf(ev.Kv)
	}
	return w, nil
}

// valueOf returns the value of a pair. It is not nil if it is empty: nil would mean that the record is deleted.
func valueOf(kv *mvccpb.KeyValue) []byte {
	if kv.Value == nil {
		return []byte{}
	}
	return kv.Value
}
