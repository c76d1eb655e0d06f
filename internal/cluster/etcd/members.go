package etcd

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"latchkey/internal/cluster"
)

// The lease of a node is not a lease of etcd. etcd ends its leases by the clock of its leader, and a leader that was paused may end a
// lease that its successor has renewed. Here a node renews its lease by a write to node/NODE. It may answer requests until the
// time at which it has sent the last successful renewal, and five sixths of the lease. Another node that has not seen a renewal for a whole lease
// deletes the registration, if it still is at the renewal that it has seen last. Without the registration no renewal succeeds. So a node that finds no
// registration knows that the node has stopped, if clocks run at rates within a sixth of each other.

// The reasons why a node does not answer requests.
var (
	errNotJoined = errors.New("this node has not joined the cluster yet")
	errEnded     = errors.New("the lease of this node has ended, as after a pause of the machine; it is being renewed")
	errEvicted   = errors.New("the lease of this node has ended, and the other nodes go on without it; it joins again")
	// ErrRemoved means that the node may no longer be part of the cluster.
	ErrRemoved = errors.New("this node was removed from the cluster; to join again it needs a new name in cluster.name")
)

// renewals is how often a node renews its lease in the time of one. What is left of the usual lease, at the latest before a renewal, must be
// longer than etcd needs to replace a leader that was killed, with the times that it has without settings: 1.0 to 1.6 seconds.
const renewals = 6

// self is this node as a member.
type self struct {
	since  atomic.Int64           // revision of the registration; 0 if there is none
	permit atomic.Pointer[permit] // nil: the node may not answer requests
	due    chan struct{}          // gets a value if a request could not be answered, so that the lease is renewed at once
	acking sync.Mutex             // is held while acknowledgements are written, so that an older one does not follow a newer one

	mu     sync.Mutex
	node   registration
	reason error        // why the node does not answer requests once the lease has ended
	failed time.Time    // since when etcd cannot be reached; zero if it can
	acked  cluster.Head // the last Head that etcd has
	asked  cluster.Head // the last Head to acknowledge
}

// registered returns the revision of the registration of this node, or 0.
func (s *self) registered() int64 { return s.since.Load() }

// registration returns what this node tells the others about itself.
func (s *self) registration() cluster.Node {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.node.Node
}

// stop ends the permission to answer requests.
func (s *self) stop(reason error) {
	s.permit.Store(nil)
	s.since.Store(0)
	s.because(reason)
}

// because records why the node does not answer requests once its lease has ended.
func (s *self) because(reason error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reason = reason
}

// isRegistered compares the registration of this node with one at a revision.
func (e *Engine) isRegistered(since int64) clientv3.Cmp {
	return clientv3.Compare(clientv3.CreateRevision(e.key("node/", e.options.Node)), "=", since)
}

// notRemoved compares that this node was not removed.
func (e *Engine) notRemoved() clientv3.Cmp {
	return clientv3.Compare(clientv3.CreateRevision(e.key("removed/", e.options.Node)), "=", 0)
}

// lease returns the lease of this node.
func (e *Engine) lease() time.Duration { return e.options.Lease }

// step returns the timeout of an attempt to renew the lease.
func (e *Engine) step() time.Duration { return min(attemptTime, e.lease()/6) }

// Join registers this node, see cluster.Members.
func (e *Engine) Join(ctx context.Context, node cluster.Node) error {
	run := rand.Text()
	node.Name, node.Running = e.options.Node, true
	e.self.mu.Lock()
	e.self.node, e.self.acked = registration{Node: node, Lease: e.lease(), Run: run}, 0
	e.self.mu.Unlock()
	e.self.permit.Store(nil) // Keep sets it, after it has looked
	e.state.forgetTime(run)
	ctx, cancel := e.until(ctx)
	defer cancel()
	var other occupant
	for {
		since, kv, err := e.register(ctx, run)
		if err != nil {
			return err
		}
		if since != 0 {
			e.self.since.Store(since)
			e.self.because(errNotJoined) // until Keep has renewed the lease
			return nil
		}
		ended, err := other.observe(kv, e.options.Boot())
		if err != nil {
			return err
		}
		if ended {
			if err := e.evict(ctx, e.options.Node, other.mod); err != nil {
				return err
			}
			continue
		}
		if !sleep(ctx, other.Lease/20) {
			return context.Cause(ctx)
		}
	}
}

// register creates the registration unless another process has one. It returns its revision, or 0 and the other one.
func (e *Engine) register(ctx context.Context, run string) (since int64, other *mvccpb.KeyValue, err error) {
	name := e.options.Node
	err = e.retry(ctx, attemptTime, func(ctx context.Context) error {
		since, other = 0, nil
		value, _, err := e.registrationNow()
		if err != nil {
			return final("%w", err)
		}
		r, err := e.client.Txn(ctx).If(e.isRegistered(0), e.notRemoved()).
			Then(clientv3.OpPut(e.key("node/", name), value), clientv3.OpPut(e.key("known/", name), value)).
			Else(clientv3.OpGet(e.key("node/", name)), clientv3.OpGet(e.key("removed/", name))).Commit()
		switch {
		case err != nil:
			return err
		case r.Succeeded:
			since = r.Header.Revision
			return nil
		case len(r.Responses[1].GetResponseRange().Kvs) > 0:
			e.self.stop(ErrRemoved)
			return finalError{ErrRemoved}
		}
		other = r.Responses[0].GetResponseRange().Kvs[0]
		if registrationOf(other.Value).Run == run {
			since = other.CreateRevision // an attempt before this one has succeeded
		}
		return nil
	})
	return since, other, err
}

// registrationNow returns the registration of this node as it is to be sent now, and whether it has the time of the cluster.
func (e *Engine) registrationNow() (value string, timed bool, err error) {
	note := e.state.noteTime()
	e.self.mu.Lock()
	r := e.self.node
	e.self.mu.Unlock()
	r.timeNote = note
	b, err := json.Marshal(r)
	return string(b), note.Time != 0, err
}

// occupant is the registration of another process with the name of this node.
type occupant struct {
	registration
	mod   int64         // revision of the last renewal
	first time.Duration // boot time at which it was first observed
	seen  time.Duration // boot time at which mod was first observed
}

// observe reports whether the lease of the other process has ended. It returns an error if the other process runs: if it still
// renews its lease after two leases. A renewal that a killed process has sent can arrive late.
func (o *occupant) observe(kv *mvccpb.KeyValue, boot time.Duration) (ended bool, err error) {
	there := registrationOf(kv.Value)
	switch {
	case there.Run != o.Run:
		*o = occupant{there, kv.ModRevision, boot, boot}
	case kv.ModRevision == o.mod:
	case boot-o.first >= 2*o.Lease:
		return false, fmt.Errorf("another process with the name %q runs on the machine %s since %s: each node needs a name of its own in cluster.name",
			there.Name, there.Host, there.Started.Format(time.RFC3339))
	default:
		o.mod, o.seen = kv.ModRevision, boot
	}
	return boot-o.seen >= o.Lease, nil
}

// Keep renews the lease, see cluster.Members.
func (e *Engine) Keep(ctx context.Context, local cluster.Local) error {
	ctx, cancel := e.until(ctx)
	defer cancel()
	for {
		began := e.options.Boot()
		err := e.renew(ctx, local)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, ErrRemoved):
			return err
		case errors.Is(err, errEvicted):
			e.log.Warn("joining the cluster again", "reason", err.Error())
			if err := e.Join(ctx, e.self.registration()); err != nil {
				return err
			}
			continue
		case errors.Is(err, errNoTime):
			e.log.Debug("asking for the time again", "reason", err.Error())
			continue
		case err != nil:
			e.log.Debug("the lease was not renewed", "reason", err.Error())
		}
		for _, l := range e.state.expired() {
			attempt, done := context.WithTimeout(ctx, e.step())
			_ = e.evict(attempt, l.name, l.mod) // a change that waits for the node does it again
			done()
		}
		if err := e.rest(ctx, e.lease()/renewals-(e.options.Boot()-began)); err != nil {
			return err
		}
	}
}

// rest waits until it is time for the next renewal, or this node was removed.
func (e *Engine) rest(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(max(d, e.lease()/100))
	defer timer.Stop()
	for {
		removed, changed := e.state.wasRemoved()
		if removed {
			return nil
		}
		select {
		case <-timer.C:
			return nil
		case <-e.self.due:
			if p := e.self.permit.Load(); p != nil && !p.holds(e.options.Boot) {
				return nil
			}
		case <-e.state.asked:
			return nil
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// renew renews the lease once the view has reached the current Head and this node has the time of the cluster.
func (e *Engine) renew(ctx context.Context, local cluster.Local) error {
	e.state.time.local.Store(&local)
	since := e.self.registered()
	if since == 0 {
		return errEvicted
	}
	look, done := context.WithTimeout(ctx, e.lease()/3)
	head, err := e.Barrier(look)
	done()
	if err != nil {
		return e.lost(err)
	}
	e.self.because(fmt.Errorf("this node does not have the change %d of the cluster yet", head))
	if err := local.Reach(ctx, head); err != nil {
		return err
	}
	e.self.because(errEnded)
	if !e.state.time.settled.Load() {
		e.state.settleTime() // the nodes may have answered the question of the registration
	}
	renewal, err := e.send(ctx, since, head)
	if err == nil && !renewal.timed {
		e.self.because(errNoTime)
		if err := e.awaitTime(ctx); err != nil {
			return err
		}
		e.self.because(errEnded)
		renewal, err = e.send(ctx, since, head)
	}
	switch {
	case errors.Is(err, ErrRemoved):
		e.self.stop(ErrRemoved)
		return errors.Join(ErrRemoved, e.withdraw(ctx, since))
	case errors.Is(err, errEvicted):
		e.self.stop(errEvicted)
		return err
	case err != nil:
		return e.lost(err)
	}
	e.self.mu.Lock()
	e.self.failed = time.Time{}
	e.self.mu.Unlock()
	if renewal.timed {
		e.self.permit.Store(newPermit(renewal.sent, renewal.at, e.lease()))
	}
	return nil
}

// renewal is a renewal that etcd has confirmed.
type renewal struct {
	sent  time.Duration // boot time before it was sent
	at    time.Time     // the same by the other clocks
	timed bool          // it had the time of the cluster
}

// send sends the renewal of the lease, with the acknowledgement of a Head, until etcd confirms or refuses it.
func (e *Engine) send(ctx context.Context, since int64, head cluster.Head) (r renewal, err error) {
	e.self.acking.Lock()
	defer e.self.acking.Unlock()
	ctx, done := context.WithTimeout(ctx, e.lease()/2)
	defer done()
	err = e.retry(ctx, e.step(), func(ctx context.Context) error {
		r.at, r.sent = e.readTime(), e.options.Boot()
		r.timed, err = e.extend(ctx, since, head)
		return err
	})
	return r, err
}

// readTime returns the time for a permit. It is zero if the boot clock is not the machine's.
func (e *Engine) readTime() time.Time {
	if e.fakeBoot {
		return time.Time{}
	}
	return time.Now()
}

// lost records since when etcd cannot be reached.
func (e *Engine) lost(err error) error {
	e.self.mu.Lock()
	defer e.self.mu.Unlock()
	if e.self.failed.IsZero() {
		e.self.failed = time.Now()
	}
	e.self.reason = fmt.Errorf("this node cannot reach the cluster since %s: %w", e.self.failed.UTC().Format(time.RFC3339), err)
	return err
}

// extend sends the renewal of the lease once, with the acknowledgement of a Head. It returns whether the renewal had the time of the
// cluster. The caller holds acking.
func (e *Engine) extend(ctx context.Context, since int64, head cluster.Head) (timed bool, err error) {
	value, timed, err := e.registrationNow()
	if err != nil {
		return false, final("%w", err)
	}
	e.self.mu.Lock()
	acked := max(head, e.self.acked)
	then := []clientv3.Op{clientv3.OpPut(e.key("node/", e.options.Node), value)}
	if acked > e.self.acked {
		then = append(then, e.acknowledgement(acked))
	}
	e.self.mu.Unlock()
	r, err := e.client.Txn(ctx).If(e.isRegistered(since), e.notRemoved()).Then(then...).Else(clientv3.OpGet(e.key("removed/", e.options.Node))).Commit()
	switch {
	case err != nil:
		return false, err
	case r.Succeeded:
		e.self.mu.Lock()
		e.self.acked = acked
		e.self.mu.Unlock()
		e.compact(r.Header.Revision)
		return timed, nil
	case len(r.Responses[0].GetResponseRange().Kvs) > 0:
		return false, finalError{ErrRemoved}
	default:
		return false, finalError{errEvicted}
	}
}

// acknowledgement returns the operation that acknowledges a Head.
func (e *Engine) acknowledgement(head cluster.Head) clientv3.Op {
	return clientv3.OpPut(e.key("ack/", e.options.Node), strconv.FormatInt(int64(head), 10))
}

// Serving returns nil while this node may answer requests, see cluster.Members.
func (e *Engine) Serving() error {
	p := e.self.permit.Load() // before the clock is read: this goroutine may be paused in between
	if p != nil && p.holds(e.options.Boot) {
		return nil
	}
	select {
	case e.self.due <- struct{}{}: // timers stand still while the machine is suspended
	default:
	}
	e.self.mu.Lock()
	defer e.self.mu.Unlock()
	return e.self.reason
}

// First reports whether this node does what one node does for all, see cluster.Members.
func (e *Engine) First() bool { return e.Serving() == nil && e.state.first() }

// Acknowledge tells the other nodes that the view has reached a Head, see cluster.Members. Of calls that wait for
// each other only the last Head is written.
func (e *Engine) Acknowledge(ctx context.Context, head cluster.Head) error {
	e.self.mu.Lock()
	e.self.asked = max(e.self.asked, head)
	e.self.mu.Unlock()
	e.self.acking.Lock()
	defer e.self.acking.Unlock()
	since := e.self.registered()
	e.self.mu.Lock()
	asked, acked := e.self.asked, e.self.acked
	e.self.mu.Unlock()
	if acked >= head || int64(head) < since || since == 0 { // nobody waits for a node that has registered later
		return nil
	}
	return e.retry(ctx, e.step(), func(ctx context.Context) error {
		r, err := e.client.Txn(ctx).If(e.isRegistered(since)).Then(e.acknowledgement(asked)).Commit()
		if err == nil && r.Succeeded {
			e.self.mu.Lock()
			e.self.acked = max(e.self.acked, asked)
			e.self.mu.Unlock()
		}
		return err // if the registration is gone, nobody waits, and Keep joins again
	})
}

// Await waits until each running node has acknowledged a Head, see cluster.Members. It does not wait for this node,
// whose view must have the Head when the caller asks.
func (e *Engine) Await(ctx context.Context, head cluster.Head) (cluster.Effect, error) {
	ctx, cancel := e.until(ctx)
	defer cancel()
	began := time.Now()
	for {
		p := e.state.pending(head)
		effect := cluster.Effect{Nodes: p.have, Of: p.have + len(p.lack), Took: time.Since(began)}
		if p.current && len(p.lack) == 0 {
			return effect, nil
		}
		if err := e.settle(ctx, p.lack, p.changed); err != nil {
			return effect, err
		}
	}
}

// settle waits for a change of the state. It ends the registrations of those in the list whose leases have ended. If nothing changes for
// a while, it looks itself, since the watch may be at a server that has stopped.
func (e *Engine) settle(ctx context.Context, list []lacking, changed <-chan struct{}) error {
	wait := lookTime
	for _, l := range list {
		wait = min(wait, max(l.ends-e.options.Boot(), 0))
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-changed:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
	}
	for _, l := range list {
		if e.options.Boot() >= l.ends {
			if err := e.evict(ctx, l.name, l.mod); err != nil {
				return err
			}
		}
	}
	return e.look(ctx)
}

// look takes a snapshot of the members.
func (e *Engine) look(ctx context.Context) error {
	return e.retry(ctx, attemptTime, func(ctx context.Context) error {
		_, err := e.snapshot(ctx)
		return err
	})
}

// evict deletes the registration of a node whose lease has ended, unless it has renewed it since a revision.
func (e *Engine) evict(ctx context.Context, name string, mod int64) error {
	return e.retry(ctx, attemptTime, func(ctx context.Context) error {
		_, err := e.client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(e.key("node/", name)), "=", mod)).Then(e.absent(name)...).Commit()
		return err
	})
}

// absent returns the operations that delete what is known about a running node.
func (e *Engine) absent(name string) []clientv3.Op {
	return []clientv3.Op{clientv3.OpDelete(e.key("node/", name)), clientv3.OpDelete(e.key("ack/", name)), clientv3.OpDelete(e.key("want/", name))}
}

// withdraw deletes the registration of this node.
func (e *Engine) withdraw(ctx context.Context, since int64) error {
	return e.retry(ctx, attemptTime, func(ctx context.Context) error {
		_, err := e.client.Txn(ctx).If(e.isRegistered(since)).Then(e.absent(e.options.Node)...).Commit()
		return err
	})
}

// Nodes returns the nodes, see cluster.Members. If the engine does not follow, it may take as long as a lease until it is known which of them run.
func (e *Engine) Nodes(ctx context.Context) ([]cluster.Node, error) {
	nodes := map[string]cluster.Node{}
	err := e.retry(ctx, attemptTime, func(ctx context.Context) error {
		r, err := e.client.Get(ctx, e.key("known/"), clientv3.WithPrefix())
		if err != nil {
			return err
		}
		for _, kv := range r.Kvs {
			var there registration
			if err := json.Unmarshal(kv.Value, &there); err != nil {
				return final("the key %s in etcd is damaged: %w", kv.Key, err)
			}
			nodes[there.Name] = there.Node
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	running, err := e.observe(ctx)
	if err != nil {
		return nil, err
	}
	list := make([]cluster.Node, 0, len(nodes))
	for _, name := range slices.Sorted(maps.Keys(nodes)) {
		node := nodes[name]
		node.Running = false
		if m, ok := running[name]; ok {
			node, node.Acked, node.Running = m.Node, m.acked, true
		}
		list = append(list, node)
	}
	return list, nil
}

// observe returns the running nodes, once it is known for all which have a lease.
func (e *Engine) observe(ctx context.Context) (map[string]member, error) {
	for {
		if err := e.look(ctx); err != nil {
			return nil, err
		}
		running, known, changed := e.state.running()
		if known {
			return running, nil
		}
		select {
		case <-changed:
		case <-time.After(e.lease() / 20):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Remove ends the membership of a node, see cluster.Members. It takes as long as the lease of the node if that runs and does not answer.
func (e *Engine) Remove(ctx context.Context, name string) error {
	ctx, cancel := e.until(ctx)
	defer cancel()
	err := e.retry(ctx, attemptTime, func(ctx context.Context) error {
		r, err := e.client.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(e.key("known/", name)), ">", 0)).
			Then(clientv3.OpPut(e.key("removed/", name), time.Now().UTC().Format(time.RFC3339)), clientv3.OpDelete(e.key("known/", name))).
			Else(clientv3.OpGet(e.key("removed/", name))).Commit()
		if err == nil && !r.Succeeded && len(r.Responses[0].GetResponseRange().Kvs) == 0 {
			return final("the cluster has no node with the name %q", name)
		}
		return err
	})
	if err != nil {
		return err
	}
	for err = e.look(ctx); err == nil; {
		there, ok, changed := e.state.member(name)
		if !ok {
			return nil
		}
		err = e.settle(ctx, []lacking{there}, changed)
	}
	return err
}

// Leave ends the lease, see cluster.Members. Keep has ended before.
func (e *Engine) Leave(ctx context.Context) error {
	since := e.self.registered()
	e.self.stop(errNotJoined)
	if since == 0 {
		return nil
	}
	return e.withdraw(ctx, since)
}
