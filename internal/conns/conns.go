// Package conns keeps the number of open connections of a server within bounds. A listener that has
// its most connections closes an idle one for each new one, first those that have not shown a valid
// key. Read conns.go first (a connection and its state), then listener.go (accepting one) and
// room.go (which one is closed).
package conns

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// patience is how long Set.Wait waits for the first request on connections that have been accepted.
// Clients usually send it immediately.
const patience = 2 * time.Second

// The state of a connection is a number, so that it can be compared and changed in one step. A
// positive number is the time since when the connection is idle, by Set.now. activeSince returns
// the number for a connection that has a request in progress.
const (
	hijacked = -1 // the connection has left net/http, for example for a WebSocket
	taken    = -2 // the connection is being closed for another one
)

// activeSince returns the state of a connection whose request began at now.
func activeSince(now int64) (state int64) { return taken - now }

// sinceOf returns the time since when a connection is in a state, and whether a request is in
// progress. ok is false if the state has no time.
func sinceOf(state int64) (since int64, active, ok bool) {
	if state < taken {
		return taken - state, true, true
	}
	return state, false, state > 0
}

// Conn is a connection that a Listener has accepted. Its state is changed without a lock, so
// connections do not wait for each other. It is safe for concurrent use.
type Conn struct {
	net.Conn
	group   *Group
	shard   *shard
	network netip.Prefix // counted for MaxPerNetwork; the zero value: not counted
	peer    netip.Addr   // see Options.Peer; the zero Addr: not known
	proxy   bool         // see Options.Peer
	opened  int64        // when the connection was accepted, by Set.now

	state  atomic.Int64 // see sinceOf
	begun  atomic.Bool  // a first request has begun
	keyed  atomic.Bool  // a request had a valid key
	proto  atomic.Int32 // 0: not known yet, 1: HTTP/1, 2: HTTP/2
	closed atomic.Bool
}

// Close closes the connection. Closing it again has no effect.
func (c *Conn) Close() error {
	if !c.closed.CompareAndSwap(false, true) {
		return net.ErrClosed
	}
	err := c.Conn.Close()
	c.group.remove(c)
	return err
}

// abandon closes a connection whose request is in progress. Close would wait for the handler: as long
// as that runs, internal/lean uses the connection, and its file descriptor is open.
func (c *Conn) abandon() {
	if !c.closed.CompareAndSwap(false, true) {
		return
	}
	c.group.abandoned.Add(1)
	_ = c.SetDeadline(past)
	go func() {
		_ = c.Conn.Close()
		c.group.abandoned.Add(-1)
		c.group.set.wake()
	}()
	c.group.remove(c)
}

// past is a deadline that has passed.
var past = time.Unix(1, 0)

// CloseWrite ends the stream of bytes to the client, if the connection supports this. net/http
// calls it before it closes a connection whose last request was not read to its end.
func (c *Conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// ReadFrom copies r to the connection. The system copies files itself (sendfile(2)).
func (c *Conn) ReadFrom(r io.Reader) (int64, error) {
	if from, ok := c.Conn.(io.ReaderFrom); ok {
		return from.ReadFrom(r)
	}
	return io.Copy(struct{ io.Writer }{c.Conn}, r)
}

// of returns the Conn of a connection that net/http has. It returns nil for a connection that no
// Listener has accepted.
func of(conn net.Conn) *Conn {
	for {
		if c, ok := conn.(*Conn); ok {
			return c
		}
		around, ok := conn.(interface{ NetConn() net.Conn }) // such as a tls.Conn
		if !ok {
			return nil
		}
		conn = around.NetConn()
	}
}

// SyscallConn returns access to the descriptor of the connection, if the connection has one.
func (c *Conn) SyscallConn() (syscall.RawConn, error) {
	if inner, ok := c.Conn.(syscall.Conn); ok {
		return inner.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}

type contextKey struct{}

// Context returns a context for the requests of a connection. Use it as http.Server.ConnContext.
func Context(ctx context.Context, conn net.Conn) context.Context {
	return context.WithValue(ctx, contextKey{}, of(conn))
}

// MarkKeyed records that a request with this context had a valid key. It does nothing for the
// request of a connection that no Listener has accepted.
func MarkKeyed(ctx context.Context) {
	if c, _ := ctx.Value(contextKey{}).(*Conn); c != nil && !c.keyed.Load() {
		c.keyed.Store(true)
	}
}

// Peer returns the address that Options.Peer has returned for the connection of the requests with this
// context. It returns the zero Addr if there is none, and for a connection that no Listener has
// accepted.
func Peer(ctx context.Context) netip.Addr {
	if c, _ := ctx.Value(contextKey{}).(*Conn); c != nil {
		return c.peer
	}
	return netip.Addr{}
}

// Guard returns a handler that calls h, but not for a request that has arrived on a connection
// while that was being closed for another one: the client could not receive the answer, and may
// repeat the request.
func Guard(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c, _ := r.Context().Value(contextKey{}).(*Conn); c != nil && c.state.Load() == taken {
			panic(http.ErrAbortHandler)
		}
		h.ServeHTTP(w, r)
	})
}

// Note records the new state of a connection. Use it as http.Server.ConnState.
func Note(conn net.Conn, state http.ConnState) {
	c := of(conn)
	if c == nil {
		return
	}
	switch state {
	case http.StateActive:
		if c.proto.Load() == 0 {
			c.proto.Store(protocol(conn))
		}
		c.change(activeSince(c.group.set.now()))
		c.begun.Store(true)
	case http.StateIdle:
		c.change(c.group.set.now())
		c.group.set.wake()
	case http.StateHijacked:
		c.change(hijacked)
		c.group.set.wake()
	}
}

// protocol returns 2 for an HTTP/2 connection and otherwise 1.
func protocol(conn net.Conn) int32 {
	if t, ok := conn.(*tls.Conn); ok && t.ConnectionState().NegotiatedProtocol == "h2" {
		return 2
	}
	return 1
}

// change sets the state, unless the connection is being closed for another one.
func (c *Conn) change(to int64) {
	for {
		was := c.state.Load()
		if was == taken || c.state.CompareAndSwap(was, to) {
			return
		}
	}
}

// Set has the connections of all listeners of a server. It is safe for concurrent use.
type Set struct {
	started time.Time
	groups  []*Group

	shared  *Group       // the group that shares its room with Hold; nil: none does
	room    int          // most connections of shared and those of Hold together; 0: no bound
	held    atomic.Int64 // number of connections of Hold
	release func()       // closes the idle connections of Hold; nil: there are none

	waiting atomic.Int32 // number of elements of waiters, to be read without a lock
	mu      sync.Mutex
	waiters map[chan struct{}]bool // each receives a value after a change
}

// NewSet returns a Set without groups.
func NewSet() *Set { return &Set{started: time.Now(), waiters: map[chan struct{}]bool{}} }

// now returns the time since the Set was created in nanoseconds. It is always positive.
func (s *Set) now() int64 { return int64(time.Since(s.started)) + 1 }

// wait returns a channel that receives a value after each change of a connection, and a function
// that ends this.
func (s *Set) wait() (changed chan struct{}, stop func()) {
	changed = make(chan struct{}, 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiters[changed] = true
	s.waiting.Add(1)
	return changed, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.waiting.Add(-1)
		delete(s.waiters, changed)
	}
}

// wake sends a value to the channels of wait. There are none unless a listener is full or the
// server is stopping.
func (s *Set) wake() {
	if s.waiting.Load() == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for changed := range s.waiters {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
}

// Wait returns when no request is in progress and no connection has yet to send its first request,
// or when ctx ends. It waits at most 2 seconds for first requests. http.Server.Shutdown may close a
// connection although its first request has arrived and is not read yet, so call Wait first. The
// listeners must be closed before the call.
//
// An HTTP/2 connection may never become idle, so Wait does not wait for it. Shutdown can end such a
// connection without losing requests, by a GOAWAY frame (RFC 9113, section 6.8). Nor does it wait
// for a connection that has left net/http.
func (s *Set) Wait(ctx context.Context) {
	enough := time.NewTimer(patience)
	defer enough.Stop()
	changed, stop := s.wait()
	defer stop()
	patient := true
	for {
		working, fresh := s.count()
		if working == 0 && (fresh == 0 || !patient) {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-enough.C:
			patient = false
		case <-changed:
		}
	}
}

// count returns the number of HTTP/1 connections with a request in progress, and the number of
// connections that have not sent their first request.
func (s *Set) count() (working, fresh int) {
	for _, g := range s.groups {
		for c := range g.all {
			_, active, ok := sinceOf(c.state.Load())
			switch {
			case active && c.proto.Load() != 2:
				working++
			case ok && !active && !c.begun.Load():
				fresh++
			}
		}
	}
	return working, fresh
}
