package conns

import (
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Options are the options of a Group.
type Options struct {
	Name string // names the group to operators

	// Trusted makes all connections count as connections with a valid key.
	Trusted bool

	// KeyTime is how long a connection may stay idle without a request with a valid key, counted
	// from its beginning; 0: any time. It does not apply to Proxy.
	KeyTime time.Duration

	// Peer returns the address of the peer of a connection, or the zero Addr if it has none, and
	// reports whether the peer is a proxy, which has the requests of many clients. nil: Peer is not
	// known.
	Peer func(net.Conn) (address netip.Addr, proxy bool)
}

// Limits are the bounds of a Group. 0 means no bound.
type Limits struct {
	Max           int // most open connections
	MaxPerNetwork int // most open connections of one IPv4 address or one IPv6 /64; not for loopback addresses and proxies
}

// Group is a set of listeners that share their limits. It is safe for concurrent use.
type Group struct {
	o             Options
	set           *Set
	max           atomic.Int64
	maxPerNetwork atomic.Int64

	open   atomic.Int64
	shards [16]shard // spread the connections, so that they rarely wait for each other when they are closed
	closed [reasons]atomic.Uint64

	entry   sync.Mutex // held from making room for a connection until that is counted, so that two listeners do not fill one place
	victims victims    // the next connections to close if the group is full

	// abandoned is the number of connections that do not count any more, but have their file descriptor until their
	// handler returns.
	abandoned atomic.Int64

	mu       sync.Mutex
	networks map[netip.Prefix]*network
}

// shard has some of the connections of a Group.
type shard struct {
	sync.Mutex
	conns map[*Conn]struct{}
	_     [40]byte // keeps two shards out of one cache line
}

// network has what a Group knows about one IPv4 address or one IPv6 /64.
type network struct {
	open    int // guarded by Group.mu
	victims victims
}

// Add adds a group. Add all groups before the first connection is accepted.
func (s *Set) Add(o Options, l Limits) *Group {
	g := &Group{o: o, set: s, networks: map[netip.Prefix]*network{}}
	for i := range g.shards {
		g.shards[i].conns = map[*Conn]struct{}{}
	}
	g.SetLimits(l)
	s.groups = append(s.groups, g)
	return g
}

// SetLimits changes the limits. Connections above a new limit stay open until they are idle and
// room is needed.
func (g *Group) SetLimits(l Limits) {
	g.max.Store(int64(l.Max))
	g.maxPerNetwork.Store(int64(l.MaxPerNetwork))
	g.set.wake()
}

// Listen returns a listener that accepts the connections of l for the group.
func (g *Group) Listen(l net.Listener) net.Listener {
	return &listener{Listener: l, group: g, done: make(chan struct{})}
}

// listener accepts connections for a group.
type listener struct {
	net.Listener
	group *Group
	once  sync.Once
	done  chan struct{} // closed by Close
}

// Close closes the listener. Connections that it has accepted stay open.
func (l *listener) Close() error {
	l.once.Do(func() { close(l.done) })
	return l.Listener.Close()
}

// Accept waits for the next connection. If the group is full, it closes an idle connection in
// exchange. If none is idle, it waits until one is; further connections then wait in the queue of
// the system (listen(2)).
func (l *listener) Accept() (net.Conn, error) {
	g := l.group
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			if isNoDescriptor(err) && g.set.closeAny() {
				continue
			}
			return nil, err
		}
		c := g.newConn(conn)
		if !g.enter(c) {
			g.closed[AddressBusy].Add(1)
			_ = conn.Close()
			continue
		}
		g.entry.Lock()
		l.makeRoom()
		g.add(c)
		g.entry.Unlock()
		return c, nil
	}
}

// isNoDescriptor reports whether err means that this process or the machine has no file descriptor
// left.
func isNoDescriptor(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}

// makeRoom returns when the group has room for another connection, or when the listener is closed:
// a connection that was accepted before is then served in any case.
func (l *listener) makeRoom() {
	g := l.group
	if g.makeRoom() {
		return
	}
	changed, stop := g.set.wait()
	defer stop()
	tick := time.NewTicker(settled / 4) // a request that lasts too long is no change
	defer tick.Stop()
	for !g.makeRoom() {
		select {
		case <-l.done:
			return
		case <-tick.C:
		case <-changed:
		}
	}
}

// newConn returns a Conn that is in no list.
func (g *Group) newConn(conn net.Conn) *Conn {
	c := &Conn{Conn: conn, group: g, shard: &g.shards[rand.IntN(len(g.shards))]}
	c.keyed.Store(g.o.Trusted)
	if g.o.Peer == nil {
		return c
	}
	var address netip.Addr
	address, c.proxy = g.o.Peer(conn)
	c.peer = address
	if address.IsValid() && !address.IsLoopback() && !c.proxy {
		bits := 32
		if address.Is6() {
			bits = 64 // one client usually has a whole /64
		}
		c.network = netip.PrefixFrom(address, bits).Masked()
	}
	return c
}

// enter counts c for its network. If the network has its most connections already, enter closes an
// idle one of them. It returns false, and does not count c, if none of them is idle.
func (g *Group) enter(c *Conn) bool {
	if !c.network.IsValid() {
		return true
	}
	g.mu.Lock()
	n := g.networks[c.network]
	if n == nil {
		n = &network{}
		g.networks[c.network] = n
	}
	n.open++
	most := int(g.maxPerNetwork.Load())
	full := most > 0 && n.open > most
	g.mu.Unlock()
	if !full {
		return true
	}
	if g.closeIdle(&n.victims, func(other *Conn) bool { return other.network == c.network }) {
		g.closed[Address].Add(1)
		return true
	}
	g.leave(c)
	return false
}

// leave ends the count of c for its network.
func (g *Group) leave(c *Conn) {
	if !c.network.IsValid() {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	n := g.networks[c.network]
	if n.open--; n.open == 0 {
		delete(g.networks, c.network)
	}
}

// add adds c to the connections of the group. It is idle from now on.
func (g *Group) add(c *Conn) {
	c.opened = g.set.now()
	c.state.Store(c.opened)
	g.open.Add(1)
	c.shard.Lock()
	defer c.shard.Unlock()
	c.shard.conns[c] = struct{}{}
}

// remove removes c after it was closed.
func (g *Group) remove(c *Conn) {
	c.shard.Lock()
	delete(c.shard.conns, c)
	c.shard.Unlock()
	g.open.Add(-1)
	g.leave(c)
	g.set.wake()
}

// all yields the connections of the group. It must not be called while a shard is locked, and
// yield must not close a connection.
func (g *Group) all(yield func(*Conn) bool) {
	for i := range g.shards {
		if !g.shards[i].each(yield) {
			return
		}
	}
}

// each calls yield for the connections of the shard until that returns false. It reports whether
// yield has returned true for all of them.
func (s *shard) each(yield func(*Conn) bool) bool {
	s.Lock()
	defer s.Unlock()
	for c := range s.conns {
		if !yield(c) {
			return false
		}
	}
	return true
}
