package etcd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"latchkey/internal/cluster"
	"latchkey/tests/program"
)

// TestEngine_Lease renews a lease under a clock that the test sets: the node may answer for five sixths of the lease, and once it is over,
// another node goes on without it.
func TestEngine_Lease(t *testing.T) {
	t.Parallel()
	c := program.StartEtcd(t, 1)
	ctx := within(t, 30*time.Second)
	var clock, other atomic.Int64
	clock.Store(int64(time.Hour))
	o := options(c, "a")
	o.Lease, o.Boot = 6*time.Second, func() time.Duration { return time.Duration(clock.Load()) }
	a := open(t, o, "one")
	o.Node, o.Boot = "b", func() time.Duration { return time.Duration(other.Load()) }
	b := open(t, o, "one")
	says := func(want string) {
		t.Helper()
		if err := a.Serving(); want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	says("has not joined")
	if err := a.Join(ctx, cluster.Node{}); err != nil {
		t.Fatal(err)
	}
	says("has not joined")
	head, err := b.Commit(ctx, 0, &cluster.Set{Node: "b", Nonce: 1, Secure: true})
	if err != nil {
		t.Fatal(err)
	}
	behind, stop := context.WithCancel(ctx)
	err = a.renew(behind, &reaching{reach: func(ctx context.Context, got cluster.Head) error {
		if got != head {
			t.Errorf("got the head %d, want %d", got, head)
		}
		says("does not have the change")
		stop()
		return ctx.Err()
	}})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want that the lease is not renewed", err)
	}
	says("does not have the change")
	if err := a.renew(ctx, &reaching{reach: func(context.Context, cluster.Head) error { clock.Add(int64(time.Minute)); return nil }}); err != nil {
		t.Fatal(err)
	}
	says("")
	clock.Add(int64(5*time.Second) - 1)
	says("")
	clock.Add(1)
	says("the lease of this node has ended")
	if err := a.renew(ctx, &anyHead{}); err != nil {
		t.Fatal(err)
	}
	says("")

	// The node has acknowledged the first Set with its lease, and does not acknowledge the next one.
	if effect, err := b.Await(ctx, head); err != nil || effect.Of != 1 || effect.Nodes != 1 {
		t.Errorf("got %+v, %v; want one node of one", effect, err)
	}
	next, err := b.Commit(ctx, head, &cluster.Set{Node: "b", Nonce: 2, Secure: true})
	if err != nil {
		t.Fatal(err)
	}
	short, done := context.WithTimeout(ctx, 700*time.Millisecond)
	effect, err := b.Await(short, next)
	done()
	if !errors.Is(err, context.DeadlineExceeded) || effect.Nodes != 0 || effect.Of != 1 {
		t.Errorf("got %+v, %v before the end of the lease; want none of one", effect, err)
	}
	other.Add(int64(6*time.Second) - 1)
	short, done = context.WithTimeout(ctx, 300*time.Millisecond)
	if effect, err = b.Await(short, next); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %+v, %v just before the end of the lease", effect, err)
	}
	done()
	other.Add(1)
	if effect, err = b.Await(ctx, next); err != nil || effect.Of != 0 {
		t.Errorf("got %+v, %v after the end of the lease; want no node", effect, err)
	}
	if err := a.renew(ctx, &anyHead{}); !errors.Is(err, errEvicted) {
		t.Errorf("got %v, want that the node has to join again", err)
	}
	says("go on without it")
	if err := a.Acknowledge(ctx, next); err != nil {
		t.Error(err)
	}
	if err := a.Join(ctx, cluster.Node{}); err != nil {
		t.Fatal(err)
	}
	if effect, err = b.Await(ctx, next); err != nil || effect.Of != 0 {
		t.Errorf("got %+v, %v; want not to wait for a node that has registered later", effect, err)
	}
	if err := a.Leave(ctx); err != nil {
		t.Fatal(err)
	}
	says("has not joined")
}

// TestEngine_Secure awaits changes while a node is cut off, while its view does not move, and while a server of etcd pauses. Once
// Await has returned, no node answers requests from a state before the change.
func TestEngine_Secure(t *testing.T) {
	t.Parallel()
	c := program.StartEtcd(t, 3)
	ctx := within(t, 60*time.Second)
	a := start(ctx, t, options(c, "a"), "one")
	p := newProxy(t, c.Endpoints[0])
	o := options(c, "b")
	o.Endpoints = []string{p.URL}
	b := start(ctx, t, o, "one")
	o = options(c, "c")
	third := start(ctx, t, o, "one")
	change := func(t *testing.T, want int) {
		t.Helper()
		head, err := a.increment(ctx, true)
		if err != nil {
			t.Fatal(err)
		}
		effect, err := a.e.Await(ctx, head)
		for _, n := range []*node{b, third} {
			n.view.Lock()
			if n.e.Serving() == nil && n.head < head {
				t.Errorf("%s answers from %d, after the change %d was acknowledged", n.e.options.Node, n.head, head)
			}
			n.view.Unlock()
		}
		if err != nil || effect.Nodes != effect.Of || want != 0 && effect.Of != want {
			t.Errorf("got %+v, %v; want %d nodes", effect, err, want)
		}
	}
	all := func(t *testing.T) {
		t.Helper()
		b.serves(ctx)
		third.serves(ctx)
		change(t, 3)
	}
	t.Run("all run", all)
	t.Run("requests held", func(t *testing.T) {
		p.holds(requests)
		change(t, 2)
		p.holds()
		all(t)
	})
	t.Run("answers held", func(t *testing.T) {
		p.holds(answers)
		change(t, 0)
		p.holds()
		all(t)
	})
	t.Run("cut off", func(t *testing.T) {
		p.refuse(true)
		change(t, 2)
		change(t, 2)
		if err := b.e.Serving(); err == nil || !strings.Contains(err.Error(), "cannot reach the cluster since") {
			t.Errorf("got %v from a node that is cut off", err)
		}
		p.refuse(false)
		all(t)
	})
	t.Run("view does not move", func(t *testing.T) {
		resume := b.pause()
		defer resume()
		change(t, 2)
		if err := b.e.Serving(); err == nil || !strings.Contains(err.Error(), "does not have the change") {
			t.Errorf("got %v from a node with an old view", err)
		}
		resume()
		all(t)
	})
	t.Run("leader paused", func(t *testing.T) {
		leader := c.Leader()
		c.Stop(leader)
		for range 3 {
			change(t, 0)
		}
		c.Continue(leader)
		for range 20 {
			change(t, 0)
		}
		all(t)
	})
}

// TestEngine_Names has two processes with the name of one node, and nodes leave and be removed.
func TestEngine_Names(t *testing.T) {
	t.Parallel()
	c := program.StartEtcd(t, 1)
	ctx := within(t, 60*time.Second)
	a := start(ctx, t, options(c, "a"), "one")
	names := func(want string) {
		t.Helper()
		nodes, err := open(t, options(c, "cli"), "one").Nodes(ctx)
		got := ""
		for _, n := range nodes {
			got += n.Name
			if n.Running {
				got += "+"
			}
			got += " "
		}
		if err != nil || got != want {
			t.Errorf("got the nodes %q, %v; want %q", got, err, want)
		}
	}
	names("a+ ")
	second := open(t, options(c, "a"), "one")
	err := second.Join(ctx, cluster.Node{Host: "elsewhere"})
	if err == nil || !strings.Contains(err.Error(), `"a" runs on the machine host-a since`) {
		t.Errorf("got %v from a second process, want where the first one runs", err)
	}
	if err := second.Serving(); err == nil {
		t.Error("the second process answers requests")
	}

	crashed, began := open(t, options(c, "b"), "one"), time.Now() // it joins, and nobody renews its lease
	if err := crashed.Join(ctx, cluster.Node{}); err != nil {
		t.Fatal(err)
	}
	again := open(t, options(c, "b"), "one")
	if err := again.Join(ctx, cluster.Node{}); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < time.Second {
		t.Errorf("the second run of a node has joined after %s, want it to wait for the end of the lease", took)
	}
	if err := crashed.renew(ctx, &anyHead{}); !errors.Is(err, errEvicted) {
		t.Errorf("got %v from the first run, want that it has lost its lease", err)
	}
	names("a+ b ") // again renews no lease either
	if err := again.Leave(ctx); err != nil {
		t.Error(err)
	}

	b := start(ctx, t, options(c, "c"), "one")
	names("a+ b c+ ")
	if err := a.e.Remove(ctx, "c"); err != nil {
		t.Fatal(err)
	}
	if err := b.e.Serving(); err == nil || !strings.Contains(err.Error(), "was removed") {
		t.Errorf("got %v from a removed node", err)
	}
	if err := <-b.ended; !errors.Is(err, ErrRemoved) {
		t.Errorf("Keep of a removed node has ended with %v", err)
	}
	if err := b.e.Join(ctx, cluster.Node{}); !errors.Is(err, ErrRemoved) {
		t.Errorf("got %v when a removed node joins", err)
	}
	if err := a.e.Remove(ctx, "c"); err != nil {
		t.Errorf("got %v when a node is removed twice", err)
	}
	if err := a.e.Remove(ctx, "d"); err == nil || !strings.Contains(err.Error(), `no node with the name "d"`) {
		t.Errorf("got %v when a node is removed that is none", err)
	}
	began = time.Now()
	if err := crashed.Join(ctx, cluster.Node{}); err != nil { // it runs no more
		t.Fatal(err)
	}
	if err := a.e.Remove(ctx, "b"); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < 800*time.Millisecond {
		t.Errorf("removed a node after %s, want the end of its lease", took)
	}
	names("a+ ")
}

// TestEngine_ServingAllocations asks whether the node may answer: that allocates nothing.
func TestEngine_ServingAllocations(t *testing.T) {
	e := &Engine{options: Options{Boot: bootTime}}
	e.self.permit.Store(newPermit(bootTime(), time.Now(), time.Hour))
	if n := testing.AllocsPerRun(100, func() {
		if e.Serving() != nil {
			t.Error("it may not")
		}
	}); n != 0 {
		t.Errorf("got %v allocations, want 0", n)
	}
}

// BenchmarkEngine_Serving measures what every request pays.
func BenchmarkEngine_Serving(b *testing.B) {
	e := &Engine{options: Options{Boot: bootTime}}
	e.self.permit.Store(newPermit(bootTime(), time.Now(), time.Hour))
	for b.Loop() {
		if e.Serving() != nil {
			b.Fatal("it may not answer")
		}
	}
}

// TestOccupant_Observe tells a process that was killed, and whose last renewals arrive late, from one that runs.
func TestOccupant_Observe(t *testing.T) {
	const lease = 3 * time.Second
	kv := func(run string, mod int64) *mvccpb.KeyValue {
		return &mvccpb.KeyValue{Value: fmt.Appendf(nil, `{"name": "a", "lease_ns": %d, "run": %q}`, lease, run), ModRevision: mod}
	}
	var killed occupant
	for _, tt := range []struct {
		at    time.Duration
		mod   int64
		ended bool
	}{{0, 5, false}, {lease - 1, 6, false}, {lease + 1, 8, false}, {2*lease - 1, 8, false}, {2*lease + 1, 8, true}} {
		if ended, err := killed.observe(kv("x", tt.mod), time.Hour+tt.at); ended != tt.ended || err != nil {
			t.Errorf("after %v: got %v, %v, want %v", tt.at, ended, err, tt.ended)
		}
	}
	if ended, err := killed.observe(kv("y", 9), time.Hour+3*lease); ended || err != nil {
		t.Errorf("got %v, %v for a third process, want its lease to be awaited", ended, err)
	}
	var running occupant
	var err error
	for n := int64(0); err == nil; n++ {
		if n > 20 {
			t.Fatal("a process that renews its lease three times a lease is not noticed within seven leases")
		}
		_, err = running.observe(kv("x", 5+n), time.Hour+time.Duration(n)*lease/3)
	}
	if !strings.Contains(err.Error(), `another process with the name "a" runs`) {
		t.Errorf("got %v", err)
	}
}
