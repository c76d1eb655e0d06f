// Package lean serves plain HTTP/1.1 requests with less work than net/http. It reads a request only
// if the request follows a strict grammar, fits into one buffer with its body, arrives without a
// pause and asks for nothing special. At the first byte of anything else it hands the connection to
// net/http, with the bytes that it has read so far, and net/http serves the connection to its end.
// So net/http alone decides what is an error, and no request is read in two ways. Requests that
// arrive together are answered one after the other, so a slow handler delays those behind its own,
// as in net/http.
//
// The handler is the same http.Handler, and cannot tell which of the two serves it. One rule is
// stricter than in net/http: a goroutine that a handler leaves behind may use the request or its
// context only if the handler, or that goroutine before the handler returned, has called Done of
// the context or has flushed the answer. Only requests with the field Upgrade can be hijacked; they
// are handed over. Closing a connection waits for the handler of its request. If a handler panics after it has
// written more than 2,048 bytes of a body, the client gets all of these bytes, while net/http drops the
// last ones if they are still in its buffer. Both close the connection.
//
// Read lean.go first (accepting and stopping), then conn.go (one connection), head.go (the
// grammar), response.go (the answer), context.go (the end of the client) and rest.go (handing
// over).
package lean

import (
	"context"
	"errors"
	"log"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// The stages of a Server, in their order.
const (
	serving  = iota
	draining // see Server.Drain
	stopping // see Server.Shutdown
)

// Server serves connections with the handler, the timeouts and the hooks of an http.Server. It is
// safe for concurrent use.
type Server struct {
	http  *http.Server
	rest  *rest
	start sync.Once // starts http on rest
	stage atomic.Int32
	date  atomic.Pointer[dateLine]

	restWait time.Duration // how long to wait for the rest of a request before net/http does

	mu    sync.Mutex
	conns map[*conn]struct{} // those that have not been handed over
}

// New returns a Server for h, which must not serve TLS. The caller may use h as usual, but must
// call Drain and Shutdown of the Server before h.Shutdown.
func New(h *http.Server) *Server {
	return &Server{http: h, rest: newRest(), conns: map[*conn]struct{}{}, restWait: 20 * time.Millisecond}
}

// Serve accepts connections from l until that fails, and returns the error. It may be called for
// several listeners. Connections that have been accepted are served to their end. l must have
// connections with a method SyscallConn; net/http serves others.
func (s *Server) Serve(l net.Listener) error {
	s.start.Do(func() { go func() { _ = s.http.Serve(s.rest) }() })
	var delay time.Duration
	for {
		nc, err := l.Accept()
		if err != nil {
			if delay = nextDelay(delay, err); delay == 0 {
				return err
			}
			s.logf("http: Accept error: %v; retrying in %v", err, delay)
			time.Sleep(delay)
			continue
		}
		delay = 0
		if c := s.newConn(nc); c != nil {
			go c.serve()
		} else {
			go s.rest.give(nc)
		}
	}
}

// nextDelay returns how long to wait after err before accepting again, as net/http does. It returns
// 0 if accepting again is of no use.
func nextDelay(delay time.Duration, err error) time.Duration {
	var passing interface{ Temporary() bool }
	if !errors.As(err, &passing) || !passing.Temporary() {
		return 0
	}
	return min(max(2*delay, 5*time.Millisecond), time.Second)
}

// newConn returns a conn for nc, or nil if nc cannot be watched without reading from it.
func (s *Server) newConn(nc net.Conn) *conn {
	if !canPeek {
		return nil
	}
	source, ok := nc.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := source.SyscallConn()
	if err != nil {
		return nil
	}
	ctx := context.WithValue(context.Background(), http.ServerContextKey, s.http)
	ctx = context.WithValue(ctx, http.LocalAddrContextKey, nc.LocalAddr())
	if s.http.ConnContext != nil { // last, because its values are found first
		ctx = s.http.ConnContext(ctx, nc)
	}
	c := &conn{server: s, nc: nc, raw: raw, base: ctx}
	if addr := nc.RemoteAddr(); addr != nil {
		c.remote = addr.String()
	}
	c.turn, c.tryRead, c.tryWrite = c.answerAll, c.readOnce, c.writeMore
	_ = raw.Control(func(fd uintptr) { c.counted = countUnread(fd) })
	if d := s.headTimeout(); d > 0 {
		c.readUntil = time.Now().Add(d)
		c.headUntil = c.readUntil
		_ = nc.SetReadDeadline(c.readUntil)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns[c] = struct{}{}
	return c
}

// forget removes c from the connections of s.
func (s *Server) forget(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

// headTimeout returns how long a client may take for the head of a request; 0: any time.
func (s *Server) headTimeout() time.Duration {
	if s.http.ReadHeaderTimeout != 0 {
		return s.http.ReadHeaderTimeout
	}
	return s.http.ReadTimeout
}

// idleTimeout returns how long a connection may wait for its next request; 0: any time.
func (s *Server) idleTimeout() time.Duration {
	if s.http.IdleTimeout != 0 {
		return s.http.IdleTimeout
	}
	return s.http.ReadTimeout
}

// Drain closes the connections that wait for their next request, and those with a request in
// progress once that is answered. Connections that have not had a request stay open.
func (s *Server) Drain() {
	s.stage.CompareAndSwap(serving, draining)
	s.wake()
}

// Shutdown is like Drain, but it also closes connections that have not had a request, and returns
// when no connection is left or when ctx ends. In the second case it closes those that are left,
// and returns the error of ctx. A request of which a connection has received all bytes is answered
// first. Close the listeners before the call.
func (s *Server) Shutdown(ctx context.Context) error {
	s.stage.Store(stopping)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if s.wake() == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			s.closeAll()
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// wake interrupts the connections that wait for a request, so that they look at the stage. It
// returns how many connections there are.
func (s *Server) wake() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		if c.waiting.Load() && c.leaving() {
			_ = c.nc.SetReadDeadline(past)
		}
	}
	return len(s.conns)
}

// closeAll closes all connections.
func (s *Server) closeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		go func() { _ = c.nc.Close() }() // which waits for a handler that runs
	}
}

// note calls the ConnState hook.
func (s *Server) note(nc net.Conn, state http.ConnState) {
	if s.http.ConnState != nil {
		s.http.ConnState(nc, state)
	}
}

// logf logs a message as net/http does.
func (s *Server) logf(format string, args ...any) {
	if s.http.ErrorLog != nil {
		s.http.ErrorLog.Printf(format, args...)
	} else {
		log.Printf(format, args...)
	}
}

// dateLine is the field Date of all answers of one second.
type dateLine struct {
	second int64
	text   string
}

// dateField returns the line with the field Date for now.
func (s *Server) dateField(now time.Time) string {
	d := s.date.Load()
	if d == nil || d.second != now.Unix() {
		d = &dateLine{now.Unix(), "Date: " + now.UTC().Format(http.TimeFormat) + "\r\n"}
		s.date.Store(d)
	}
	return d.text
}
