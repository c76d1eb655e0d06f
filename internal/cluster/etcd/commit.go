package etcd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"latchkey/internal/cluster"
)

// header is the value of the key "head": the last Set without its writes.
type header struct {
	Node   string `json:"node"` // "" for the records with which the store was created
	Nonce  uint64 `json:"nonce"`
	Secure bool   `json:"secure,omitempty"`
	Pen    string `json:"pen,omitempty"`  // node whose turn it is to commit; "" if none waits
	Time   int64  `json:"time,omitempty"` // of the cluster, in Unix nanoseconds, as the node had it
}

// Commit adds a Set, see cluster.Engine. Commits of one engine run one after the other.
func (e *Engine) Commit(ctx context.Context, base cluster.Head, set *cluster.Set) (cluster.Head, error) {
	ctx, cancel := e.until(ctx)
	defer cancel()
	select {
	case e.commits <- struct{}{}:
		defer func() { <-e.commits }()
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
	c, err := e.change(base, set)
	if err != nil {
		return 0, err
	}
	var unsure error // of an attempt whose transaction may yet be executed
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, 200*time.Millisecond) {
		head, err := e.attempt(ctx, c)
		if err == nil || errors.Is(err, cluster.ErrMoved) {
			return head, err
		}
		if refused := explain(err); refused != nil {
			if unsure != nil {
				return 0, fmt.Errorf("%w: %w", cluster.ErrUnsure, refused)
			}
			return 0, refused
		}
		unsure = err
		if ctx.Err() != nil || !sleep(ctx, wait) {
			return 0, fmt.Errorf("%w: %w", cluster.ErrUnsure, unreachable(unsure))
		}
	}
}

// change is the transaction of a Set.
type change struct {
	nonce  string
	pen    string
	wanted bool // it deletes want/NODE
	base   clientv3.Cmp
	then   []clientv3.Op
	orElse []clientv3.Op // reads the last nonce of the node and the head
}

// change returns the transaction that adds a Set after base.
func (e *Engine) change(base cluster.Head, set *cluster.Set) (*change, error) {
	c := &change{nonce: strconv.FormatUint(set.Nonce, 10), pen: e.state.waiting(), wanted: e.wanted.Load()}
	head, err := json.Marshal(header{Node: set.Node, Nonce: set.Nonce, Secure: set.Secure, Pen: c.pen, Time: e.state.time.now()})
	if err != nil {
		return nil, err
	}
	last := e.key("last/", set.Node)
	c.base = clientv3.Compare(clientv3.ModRevision(e.key("head")), "=", int64(base))
	c.orElse = []clientv3.Op{clientv3.OpGet(last), clientv3.OpGet(e.key("head"), clientv3.WithKeysOnly())}
	c.then = make([]clientv3.Op, 0, len(set.Writes)+3)
	for _, w := range set.Writes {
		c.then = append(c.then, e.operation(w))
	}
	c.then = append(c.then, clientv3.OpPut(e.key("head"), string(head)), clientv3.OpPut(last, c.nonce))
	if c.wanted {
		c.then = append(c.then, clientv3.OpDelete(e.key("want/", e.options.Node)))
	}
	return c, nil
}

// operation returns what a Write does in etcd.
func (e *Engine) operation(w cluster.Write) clientv3.Op {
	if w.Value == nil {
		return clientv3.OpDelete(e.recordKey(w.Bucket, w.Key))
	}
	return clientv3.OpPut(e.recordKey(w.Bucket, w.Key), string(w.Value))
}

// attempt sends a transaction once. If it fails for another reason than ErrMoved, it may yet be executed, also later.
// A second attempt does no harm then: the head that both compare with is there only once.
func (e *Engine) attempt(ctx context.Context, c *change) (cluster.Head, error) {
	attempt, done := context.WithTimeout(ctx, attemptTime)
	r, err := e.client.Txn(attempt).If(c.base, e.notRemoved()).Then(c.then...).Else(c.orElse...).Commit()
	done()
	if err != nil {
		return 0, rpctypes.Error(err)
	}
	head := cluster.Head(r.Header.Revision)
	if !r.Succeeded {
		last := r.Responses[0].GetResponseRange().Kvs
		if len(last) == 0 || string(last[0].Value) != c.nonce {
			for _, kv := range r.Responses[1].GetResponseRange().Kvs {
				e.state.expect(kv.ModRevision)
			}
			e.ask(ctx)
			return 0, cluster.ErrMoved
		}
		head = cluster.Head(last[0].ModRevision) // an attempt before this one has succeeded
	}
	if c.wanted {
		e.wanted.Store(false)
	}
	e.state.committed(head, c.pen)
	e.compact(r.Header.Revision)
	return head, nil
}

// ask tells the other nodes that this node waits for its turn. It does nothing if they know, or if this node is no member.
func (e *Engine) ask(ctx context.Context) {
	if e.wanted.Load() && e.state.waits() {
		return
	}
	registered := e.self.registered()
	if registered == 0 {
		return
	}
	e.wanted.Store(true) // before the request, which may succeed without an answer
	attempt, done := context.WithTimeout(ctx, attemptTime)
	defer done()
	_, _ = e.client.Txn(attempt).If(e.isRegistered(registered)).Then(clientv3.OpPut(e.key("want/", e.options.Node), "1")).Commit() // only a hint
}

// Turn waits while it is the turn of another node, see cluster.Engine.
func (e *Engine) Turn(ctx context.Context) {
	ctx, cancel := e.until(ctx)
	defer cancel()
	for ctx.Err() == nil {
		left, changed := e.state.turn()
		if left <= 0 {
			return
		}
		timer := time.NewTimer(left)
		select {
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// Barrier returns the current Head, see cluster.Engine.
func (e *Engine) Barrier(ctx context.Context) (cluster.Head, error) {
	var head cluster.Head
	err := e.retry(ctx, attemptTime, func(ctx context.Context) error {
		r, err := e.client.Get(ctx, e.key("head"), clientv3.WithKeysOnly())
		if err != nil {
			return err
		}
		head = 0
		if len(r.Kvs) > 0 {
			head = cluster.Head(r.Kvs[0].ModRevision)
		}
		return nil
	})
	if err == nil {
		e.state.expect(int64(head))
	}
	return head, err
}

// marks are revisions of etcd at known times.
type marks struct {
	mu   sync.Mutex
	list []mark // the oldest first
}

// mark is a revision that etcd had at a time.
type mark struct {
	at       time.Time
	revision int64
}

// reached records that etcd has a revision at a time. It returns the revision up to which etcd's history is no longer needed, or 0
// if it is not time to remove it.
func (m *marks) reached(revision int64, now time.Time) (unneeded int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.list) > 0 && now.Sub(m.list[len(m.list)-1].at) < markTime {
		return 0
	}
	m.list = append(m.list, mark{now, revision})
	for len(m.list) > 0 && now.Sub(m.list[0].at) >= keptTime {
		unneeded = m.list[0].revision
		m.list = m.list[1:]
	}
	return unneeded
}

// compact removes the part of etcd's history that is no longer needed, from time to time. revision is etcd's current one.
func (e *Engine) compact(revision int64) {
	unneeded := e.marks.reached(revision, time.Now())
	if unneeded == 0 {
		return
	}
	e.running.Go(func() {
		ctx, done := context.WithTimeout(e.closing, time.Minute)
		defer done()
		_, err := e.client.Compact(ctx, unneeded)
		if err != nil && !errors.Is(rpctypes.Error(err), rpctypes.ErrCompacted) && e.closing.Err() == nil { // another node may have done it
			e.log.Warn("etcd's history was not compacted", "error", err.Error())
		}
	})
}
