package program

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"
)

// Link is a TCP proxy in front of a server, as a network that fails on request. Its methods are safe for
// concurrent use.
type Link struct {
	Address string // where it listens, as host:port

	target   string
	listener net.Listener
	running  sync.WaitGroup

	mu      sync.Mutex
	state   LinkState
	closed  bool
	changed chan struct{} // closed when state or closed changes, and then replaced
	conns   map[net.Conn]bool
}

// LinkState is what a Link does. What it holds back arrives once it no longer does so, as after a network has lost
// packets.
type LinkState struct {
	HoldRequests bool          // what clients send does not arrive
	HoldAnswers  bool          // what the server sends does not arrive
	Delay        time.Duration // of each piece of data
}

// NewLink starts a Link in front of the server at an address. It ends with the test.
func NewLink(t testing.TB, target string) *Link {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &Link{Address: listener.Addr().String(), target: target, listener: listener, changed: make(chan struct{}), conns: map[net.Conn]bool{}}
	l.running.Go(l.accept)
	t.Cleanup(func() {
		_ = listener.Close()
		l.mu.Lock()
		l.closed = true
		l.announce()
		l.mu.Unlock()
		l.Reset()
		l.running.Wait()
	})
	return l
}

// Set changes the state.
func (l *Link) Set(state LinkState) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.state = state
	l.announce()
}

// Reset closes all connections.
func (l *Link) Reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for conn := range l.conns {
		_ = conn.Close()
	}
}

// announce wakes those who wait for a change. mu must be locked.
func (l *Link) announce() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// accept connects clients with the server.
func (l *Link) accept() {
	for {
		client, err := l.listener.Accept()
		if err != nil {
			return
		}
		l.running.Go(func() {
			server, err := (&net.Dialer{Timeout: time.Second}).DialContext(context.Background(), "tcp", l.target)
			if err != nil {
				_ = client.Close()
				return
			}
			if !l.add(client, server) {
				return
			}
			defer l.remove(client, server)
			var both sync.WaitGroup
			both.Go(func() { l.carry(server, client, func(s LinkState) bool { return s.HoldRequests }) })
			both.Go(func() { l.carry(client, server, func(s LinkState) bool { return s.HoldAnswers }) })
			both.Wait()
		})
	}
}

// add remembers the two ends of a connection. It closes them and returns false if the Link is closed.
func (l *Link) add(client, server net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		_ = client.Close()
		_ = server.Close()
		return false
	}
	l.conns[client], l.conns[server] = true, true
	return true
}

// remove forgets the two ends of a connection.
func (l *Link) remove(client, server net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, client)
	delete(l.conns, server)
}

// carry copies data until one of the connections ends, then it closes both. held tells whether data is held back.
func (l *Link) carry(to, from net.Conn, held func(LinkState) bool) {
	defer func() {
		_ = from.Close()
		_ = to.Close()
	}()
	data := make([]byte, 32<<10)
	for {
		n, err := from.Read(data)
		if !l.pass(held) {
			return
		}
		if _, writeErr := to.Write(data[:n]); err != nil || writeErr != nil {
			return
		}
	}
}

// pass waits while data is held back. It returns false if the Link was closed.
func (l *Link) pass(held func(LinkState) bool) bool {
	for {
		l.mu.Lock()
		state, closed, changed := l.state, l.closed, l.changed
		l.mu.Unlock()
		if closed {
			return false
		}
		if !held(state) {
			time.Sleep(state.Delay)
			return true
		}
		<-changed
	}
}
