package etcd

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"latchkey/internal/cluster"
	"latchkey/tests/program"
)

func TestMain(m *testing.M) { os.Exit(program.Main(m)) }

// options returns the Options of a node that uses an etcd cluster.
func options(c *program.Etcd, node string) Options {
	return Options{Endpoints: c.Endpoints, CAFile: c.Files.CA, CertFile: c.Files.Cert, KeyFile: c.Files.Key, Node: node, Lease: time.Second}
}

// open opens an engine for a store, until the test ends.
func open(t testing.TB, o Options, store string) *Engine {
	t.Helper()
	e, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	e.Use(store)
	return e
}

// within returns a context that ends with the test or after some time.
func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// node is an engine with a view, which has one record: a number.
type node struct {
	e  *Engine
	t  testing.TB
	mu sync.Mutex // a node makes one change at a time

	view    sync.Mutex
	changed chan struct{} // is closed when the view changes
	head    cluster.Head
	number  string
	sets    []string
	gate    chan struct{} // if not nil: the view does not move until it is closed
	ended   chan error    // how Follow and Keep have ended
	testTime
}

// testTime is the time of a node, without the methods of cluster.Local that are about its view.
type testTime struct {
	shift  atomic.Int64 // nanoseconds from the wall time
	joined atomic.Int64 // how often it has become that of the cluster
}

// Time implements cluster.Local.
func (o *testTime) Time() time.Time { return time.Now().Add(time.Duration(o.shift.Load())) }

// Shift implements cluster.Local.
func (o *testTime) Shift(d time.Duration) { o.shift.Add(int64(d)) }

// Joined implements cluster.Local.
func (o *testTime) Joined() { o.joined.Add(1) }

// anyHead is a node whose view has all changes.
type anyHead struct{ testTime }

// Reach implements cluster.Local.
func (*anyHead) Reach(context.Context, cluster.Head) error { return nil }

// reaching is a node with a function that waits for a head.
type reaching struct {
	testTime
	reach func(context.Context, cluster.Head) error
}

// Reach implements cluster.Local.
func (r *reaching) Reach(ctx context.Context, head cluster.Head) error { return r.reach(ctx, head) }

// start starts a node. It is a member once start returns, and ends with ctx, which the caller ends before the test.
func start(ctx context.Context, t testing.TB, o Options, store string) *node {
	t.Helper()
	n := prepare(ctx, t, o, store)
	if err := n.e.Join(ctx, cluster.Node{Host: "host-" + o.Node, Started: time.Now()}); err != nil {
		t.Fatal(err)
	}
	n.keep(ctx)
	n.serves(ctx)
	return n
}

// prepare starts a node that follows and is no member yet.
func prepare(ctx context.Context, t testing.TB, o Options, store string) *node {
	t.Helper()
	n := &node{e: open(t, o, store), t: t, changed: make(chan struct{}), number: "0", ended: make(chan error, 2)}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		n.ended <- n.e.Follow(ctx, 0, n.apply)
	}()
	t.Cleanup(func() { // before the engine is closed
		cancel()
		<-done
	})
	return n
}

// keep renews the lease until ctx ends.
func (n *node) keep(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		n.ended <- n.e.Keep(ctx, n)
	}()
	n.t.Cleanup(func() {
		cancel()
		<-done
	})
}

// serves waits until the node may answer requests.
func (n *node) serves(ctx context.Context) {
	n.t.Helper()
	for n.e.Serving() != nil {
		if !sleep(ctx, 5*time.Millisecond) {
			n.t.Fatalf("%s does not serve: %v", n.e.options.Node, n.e.Serving())
		}
	}
}

// pause lets the view stand still until the function that it returns is called.
func (n *node) pause() (resume func()) {
	gate := make(chan struct{})
	n.view.Lock()
	defer n.view.Unlock()
	n.gate = gate
	return sync.OnceFunc(func() { close(gate) })
}

// apply applies a Set to the view, and acknowledges it.
func (n *node) apply(head cluster.Head, set *cluster.Set) error {
	n.view.Lock()
	gate := n.gate
	n.view.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-n.t.Context().Done():
		}
	}
	n.view.Lock()
	if head <= n.head {
		n.t.Errorf("%s got %d after %d", n.e.options.Node, head, n.head)
	}
	n.head = head
	n.sets = append(n.sets, fmt.Sprint(set.Node, set.Nonce))
	for _, w := range set.Writes {
		n.number = string(w.Value)
	}
	close(n.changed)
	n.changed = make(chan struct{})
	n.view.Unlock()
	if set.Secure {
		go func() { _ = n.e.Acknowledge(n.t.Context(), head) }() // the next renewal does it otherwise
	}
	return nil
}

// Reach implements cluster.Local.
func (n *node) Reach(ctx context.Context, head cluster.Head) error { return n.reached(ctx, head) }

// reached waits until the view has reached a head.
func (n *node) reached(ctx context.Context, head cluster.Head) error {
	for {
		n.view.Lock()
		now, changed := n.head, n.changed
		n.view.Unlock()
		if now >= head {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("the view is at %d and has not reached %d: %w", now, head, ctx.Err())
		}
	}
}

// seen returns the Sets that the view has.
func (n *node) seen() []string {
	n.view.Lock()
	defer n.view.Unlock()
	return slices.Clone(n.sets)
}

// value returns the number.
func (n *node) value() string {
	n.view.Lock()
	defer n.view.Unlock()
	return n.number
}

// increment adds 1 to the number.
func (n *node) increment(ctx context.Context, secure bool) (cluster.Head, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for {
		n.e.Turn(ctx)
		n.view.Lock()
		base, number := n.head, n.number
		n.view.Unlock()
		value, err := strconv.Atoi(number)
		if err != nil {
			return 0, err
		}
		set := &cluster.Set{Node: n.e.options.Node, Nonce: rand.Uint64(), Secure: secure,
			Writes: []cluster.Write{{Bucket: "numbers", Key: []byte("one"), Value: []byte(strconv.Itoa(value + 1))}}}
		head, err := n.commit(ctx, base, set)
		if err == nil {
			return head, n.reached(ctx, head)
		}
		if !errors.Is(err, cluster.ErrMoved) {
			return 0, err
		}
		if err := n.reached(ctx, base+1); err != nil {
			return 0, err
		}
	}
}

// commit commits a Set, however long it takes to find out whether it was.
func (n *node) commit(ctx context.Context, base cluster.Head, set *cluster.Set) (cluster.Head, error) {
	for {
		head, err := n.e.Commit(ctx, base, set)
		if !errors.Is(err, cluster.ErrUnsure) || ctx.Err() != nil {
			return head, err
		}
	}
}

// proxy passes connections on to an etcd server, and can hold what is sent or end them.
type proxy struct {
	t        testing.TB
	URL      string
	listener net.Listener
	target   string
	running  sync.WaitGroup

	mu    sync.Mutex
	cond  sync.Cond
	hold  map[direction]bool
	conns map[net.Conn]bool
	down  bool // new connections are closed
}

// direction is one of the two directions of a connection.
type direction int

const (
	requests direction = iota
	answers
)

// newProxy returns a proxy for an etcd server, until the test ends.
func newProxy(t testing.TB, endpoint string) *proxy {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{t: t, URL: "https://" + l.Addr().String(), listener: l, target: host(endpoint), hold: map[direction]bool{}, conns: map[net.Conn]bool{}}
	p.cond.L = &p.mu
	p.running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			p.running.Go(func() { p.serve(conn) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		p.cut()
		p.running.Wait()
	})
	return p
}

// serve passes a connection on.
func (p *proxy) serve(client net.Conn) {
	defer func() { _ = client.Close() }()
	server, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", p.target)
	if err != nil {
		return
	}
	defer func() { _ = server.Close() }()
	p.mu.Lock()
	if p.down {
		p.mu.Unlock()
		return
	}
	p.conns[client], p.conns[server] = true, true
	p.mu.Unlock()
	var copying sync.WaitGroup
	copying.Go(func() { p.copy(server, client, requests) })
	copying.Go(func() { p.copy(client, server, answers) })
	copying.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, client)
	delete(p.conns, server)
}

// copy passes on one direction.
func (p *proxy) copy(to, from net.Conn, d direction) {
	defer func() { _, _ = to.Close(), from.Close() }()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		p.mu.Lock()
		for p.hold[d] && p.conns[from] {
			p.cond.Wait()
		}
		open := p.conns[from]
		p.mu.Unlock()
		if !open {
			return
		}
		if _, failed := to.Write(buf[:n]); failed != nil || err != nil {
			return
		}
	}
}

// holds holds what is sent in the given directions, and lets the others pass.
func (p *proxy) holds(list ...direction) {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.hold)
	for _, d := range list {
		p.hold[d] = true
	}
	p.cond.Broadcast()
}

// cut ends all connections. What is held is lost.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for conn := range p.conns {
		_ = conn.Close()
		delete(p.conns, conn)
	}
	p.cond.Broadcast()
}

// refuse ends all connections, and new ones while on is true.
func (p *proxy) refuse(on bool) {
	p.mu.Lock()
	p.down = on
	p.mu.Unlock()
	if on {
		p.cut()
	}
}
