// Package upstream sends requests without a body to other HTTP servers, called upstreams, over
// HTTP/1.1 without TLS. It keeps the connections for reuse.
package upstream

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"slices"
	"sync"
	"syscall"
	"time"
)

// Pool sends requests without a body to upstreams and keeps idle connections. A connection
// serves one request at a time, and the goroutine of the request itself writes to the connection
// and reads from it. This is faster than http.Transport, whose two additional goroutines for each
// connection take more time than all of Latchkey's checks. Answers are parsed by net/http. The zero
// value is ready to use. It is safe for concurrent use.
type Pool struct {
	Hold Hold // is set before the first request

	mu     sync.Mutex
	idle   map[string][]*upstream // idle connections by host; the most recently used is last
	timer  *time.Timer            // calls drop; nil: no connection is idle
	closed bool                   // Close was called
}

// idleTime and maxIdle have the same values as the http.Transport in guard_proxy.go.
const (
	dialTime = 10 * time.Second      // timeout for a new connection, with its TLS handshake
	idleTime = 90 * time.Second      // how long an idle connection is kept
	lookTime = 10 * time.Second      // interval between checks of the idle connections
	maxIdle  = 1024                  // maximum number of idle connections per host
	briefly  = 20 * time.Millisecond // first, short deadline, within which most answers arrive
	maxHead  = 10 << 20              // maximum bytes of a header, including informational answers
)

// Hold makes room for a connection before it is opened, or returns an error if there is no room.
// The caller calls done once the connection is closed or could not be opened; another call of done
// has no effect. nil: there is always room.
type Hold func() (done func(), err error)

// dial opens a connection for which there is room.
func (h Hold) dial(ctx context.Context, network, address string) (net.Conn, error) {
	dialer := &net.Dialer{KeepAlive: 30 * time.Second}
	if h == nil {
		return dialer.DialContext(ctx, network, address)
	}
	done, err := h()
	if err != nil {
		return nil, err
	}
	conn, err := dialer.DialContext(ctx, network, address)
	if err != nil {
		done()
		return nil, err
	}
	return &heldConn{conn.(*net.TCPConn), done}, nil
}

const (
	dialTries = 3                     // most attempts of connect
	stalled   = 20 * time.Millisecond // a timeout that is noticed so late shows that this process did not run
)

// connect calls dial with a context that ends after dialTime. If that is noticed late, this process
// did not run at that time: it was stopped, or the machine was suspended. The upstream may have
// answered in time, so connect tries again.
func connect(ctx context.Context, dial func(context.Context) (net.Conn, error)) (net.Conn, error) {
	for try := 1; ; try++ {
		began := time.Now()
		attempt, cancel := context.WithTimeout(ctx, dialTime)
		conn, err := dial(attempt)
		cancel()
		timeout := net.Error(nil)
		if err == nil || try == dialTries || ctx.Err() != nil || !errors.As(err, &timeout) || !timeout.Timeout() || time.Since(began) < dialTime+stalled {
			return conn, err
		}
	}
}

// heldConn is a connection that calls done when it is closed.
type heldConn struct {
	*net.TCPConn
	done func()
}

// Close closes the connection.
func (c *heldConn) Close() error {
	err := c.TCPConn.Close()
	c.done()
	return err
}

// upstream is one connection. It serves one request at a time.
type upstream struct {
	net.Conn
	raw    syscall.RawConn
	talks  func(fd uintptr) bool // talk
	unsent []byte                // what the next Read sends first
	heard  []byte                // where talk reads to
	in     *bufio.Reader         // buffers Read
	left   int64                 // number of bytes that Read may still read
	failed error                 // error of the last Read
	asked  time.Time             // start of the last request
	until  time.Time             // deadline for the header; zero: no deadline
	slow   bool                  // wait was called for this request, which sets stop
	stop   func() bool           // see free; returns false if it is too late
	used   bool                  // the connection has served an earlier request
	odd    bool                  // an informational answer of this request had a length
	// context is Call.Context of this request. ends is the context that it returned, or nil if wait
	// was not called yet.
	context func() context.Context
	ends    context.Context
}

// unheard wraps an error that occurred before the first byte of an answer.
type unheard struct{ error }

func (e unheard) Unwrap() error { return e.error }

// Call describes how RoundTrip sends a request.
type Call struct {
	Host    string               // host of the upstream, with or without a port
	Head    []byte               // the complete request, as it is sent
	Timeout time.Duration        // longest wait for the header of the answer; 0: no timeout
	Hint    func(*http.Response) // receives each informational answer, such as early hints
	// Context returns a context whose end aborts the request. It is called at most once for each
	// connection, and only if the request lasts longer than a few milliseconds. nil: the context
	// of the request.
	Context func() context.Context
}

// RoundTrip sends a request to call.Host and returns its answer, whose body is not yet read. r must be a
// GET or HEAD request, and call.Head must be its bytes. If the context of r is done, RoundTrip returns
// the context's error. If the upstream has closed an idle connection, RoundTrip repeats the request on
// another one, because GET and HEAD may be repeated (RFC 9110, section 9.2.2). The caller must
// close the body. The connection is reused only if the body was read to its end, and only after an
// answer for which mayReuse returns true.
func (u *Pool) RoundTrip(r *http.Request, call Call) (*http.Response, error) {
	for {
		c, err := u.take(r.Context(), call.Host)
		if err != nil {
			return nil, cause(r, err)
		}
		c.asked, c.until, c.slow, c.odd, c.context, c.ends = time.Now(), time.Time{}, false, false, call.Context, nil
		if call.Timeout > 0 {
			c.until = c.asked.Add(call.Timeout)
		}
		res, err := c.ask(r, call.Head, call.Hint)
		if err == nil {
			u.lend(c, res, call.Host)
			return res, nil
		}
		c.end()
		if c.ends != nil && c.ends.Err() != nil {
			return nil, c.ends.Err()
		}
		again := c.used && errors.As(err, new(unheard)) && !isLate(err)
		if !again || r.Context().Err() != nil {
			return nil, cause(r, err)
		}
	}
}

// isLate reports whether err is a timeout.
func isLate(err error) bool {
	var late net.Error
	return errors.As(err, &late) && late.Timeout()
}

// cause returns the error of the context of r if that context is done, and otherwise err.
func cause(r *http.Request, err error) error {
	if end := r.Context().Err(); end != nil {
		return end
	}
	return err
}

// take returns a usable idle connection to host, or a new connection.
func (u *Pool) take(ctx context.Context, host string) (*upstream, error) {
	for {
		c := u.kept(host)
		if c == nil {
			return u.connect(ctx, host)
		}
		if silent(c.raw) {
			return c, nil
		}
		_ = c.Conn.Close() // the upstream has closed it, or has sent data that would be taken for the answer
	}
}

// kept removes the most recently used idle connection to host from u and returns it. It returns nil
// if there is none.
func (u *Pool) kept(host string) *upstream {
	u.mu.Lock()
	defer u.mu.Unlock()
	list := u.idle[host]
	if len(list) == 0 {
		return nil
	}
	c := list[len(list)-1]
	list[len(list)-1] = nil
	u.idle[host] = list[:len(list)-1]
	return c
}

// connect returns a new connection to host, which may include a port. The default port is 80.
func (u *Pool) connect(ctx context.Context, host string) (*upstream, error) {
	address := host
	if _, _, err := net.SplitHostPort(host); err != nil {
		address += ":80"
	}
	conn, err := connect(ctx, func(ctx context.Context) (net.Conn, error) { return u.Hold.dial(ctx, "tcp", address) })
	if err != nil {
		return nil, err
	}
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	c := &upstream{Conn: conn, raw: raw}
	c.in, c.talks = bufio.NewReader(c), c.talk
	return c, nil
}

// Read reads from the connection, but at most c.left bytes. If c.left is 0, it returns the error
// for too large a header. It stores its error in c.failed.
func (c *upstream) Read(b []byte) (int, error) {
	if c.left <= 0 {
		c.failed = fmt.Errorf("the header of the answer is larger than %d bytes", maxHead)
		return 0, c.failed
	}
	b = b[:min(int64(len(b)), c.left)]
	var n int
	var err error
	if len(c.unsent) > 0 {
		n, err = c.sendAndRead(b)
	} else {
		n, err = c.Conn.Read(b)
	}
	c.left -= int64(n)
	c.failed = err
	return n, err
}

// errUnsent means that the system has not taken the whole request at once.
var errUnsent = errors.New("the request is not sent yet")

// sendAndRead sends c.unsent and reads the first part of the answer. If the system does not take the
// whole request at once, it returns errUnsent, and c.unsent is the rest.
func (c *upstream) sendAndRead(b []byte) (int, error) {
	c.heard, c.failed = b[:len(b):len(b)], nil
	err := c.raw.Read(c.talks)
	n := len(c.heard)
	switch {
	case err != nil || c.failed != nil:
		n = 0
	case len(c.unsent) > 0:
		n, err = 0, errUnsent
	}
	c.heard = nil
	return n, cmp.Or(err, c.failed)
}

// ask sends a request and reads the header of its answer. It first sets the short deadline briefly,
// because most answers arrive within it and then need no call of wait.
func (c *upstream) ask(r *http.Request, head []byte, hint func(*http.Response)) (*http.Response, error) {
	c.left = maxHead
	if err := c.SetDeadline(c.asked.Add(briefly)); err != nil {
		return nil, unheard{err}
	}
	c.unsent = head
	_, err := c.in.Peek(1)
	if len(c.unsent) > 0 && (err == errUnsent || isLate(err)) {
		err = c.send(r)
	}
	c.unsent = nil
	if err != nil && isLate(err) && !c.slow {
		if err = c.wait(r, c.until); err == nil {
			_, err = c.in.Peek(1)
		}
	}
	if err != nil {
		return nil, unheard{err}
	}
	return c.header(r, hint)
}

// send sends the rest of the request and waits for the first byte of the answer.
func (c *upstream) send(r *http.Request) error {
	rest := c.unsent
	c.unsent = nil
	n, err := c.Write(rest)
	if err != nil && isLate(err) {
		if err = c.wait(r, c.until); err == nil {
			_, err = c.Write(rest[n:])
		}
	}
	if err == nil {
		_, err = c.in.Peek(1)
	}
	return err
}

// header reads answers until the final answer and returns it with its body unread. It passes
// informational answers to hint.
func (c *upstream) header(r *http.Request, hint func(*http.Response)) (*http.Response, error) {
	for {
		if there, _ := c.in.Peek(c.in.Buffered()); !c.slow && !bytes.Contains(there, []byte("\r\n\r\n")) {
			if err := c.wait(r, c.until); err != nil {
				return nil, err
			}
		}
		res, err := http.ReadResponse(c.in, r)
		switch {
		case err != nil && c.failed == io.EOF:
			return nil, io.ErrUnexpectedEOF
		case err != nil:
			return nil, cmp.Or(c.failed, err) // if reading failed, err is only a result of that
		case res.StatusCode < 100 || res.StatusCode == http.StatusSwitchingProtocols:
			return nil, fmt.Errorf("the upstream answered with the unexpected status %d", res.StatusCode)
		case res.StatusCode < 200:
			c.odd = c.odd || res.Header["Content-Length"] != nil || len(res.TransferEncoding) > 0
			hint(res)
			continue
		}
		c.left = math.MaxInt64
		if res.Body != http.NoBody && (res.ContentLength < 0 || res.ContentLength > int64(c.in.Buffered())) {
			err = c.wait(r, time.Time{})
		}
		return res, err
	}
}

// wait prepares the connection for a long wait. It sets the deadline until, or none if until is
// zero, and makes the end of the context close the connection, see Call.Context. Requests that are answered
// quickly do not need it, so they avoid its cost.
func (c *upstream) wait(r *http.Request, until time.Time) error {
	if !c.slow {
		c.slow = true
		c.ends = r.Context()
		if c.context != nil {
			c.ends = c.context()
		}
		c.stop = context.AfterFunc(c.ends, func() { _ = c.Conn.Close() })
	}
	return c.SetDeadline(until)
}

// free keeps the context of the request from closing the connection. It reports false if it was too
// late for that.
func (c *upstream) free() bool { return !c.slow || c.stop() }

// end closes the connection.
func (c *upstream) end() {
	c.free()
	_ = c.Conn.Close()
}

// lend replaces the body of res with one that owns the connection c. When the body has been read to
// its end, it returns the connection to u.
func (u *Pool) lend(c *upstream, res *http.Response, host string) {
	b := &lentBody{ReadCloser: res.Body, from: u, host: host, conn: c, keep: mayReuse(res) && !c.odd}
	if res.Body == http.NoBody {
		b.reuse()
		return
	}
	res.Body = b
}

// mayReuse reports whether the connection of an answer may serve another request. It may not after
// an answer that never has a body, which some servers append one to: sooner or later the body would
// be taken for the answer to the next request. Nor may it after an answer over HTTP/1.0, or if the
// upstream closes the connection.
func mayReuse(res *http.Response) bool {
	switch res.StatusCode {
	case http.StatusNoContent, http.StatusResetContent, http.StatusNotModified:
		return false
	}
	return !res.Close && res.ProtoAtLeast(1, 1) && res.Request.Method != http.MethodHead
}

// lentBody is the body of an answer. It owns the connection until the body is closed or read to its
// end.
type lentBody struct {
	io.ReadCloser
	from *Pool // where the connection is kept for reuse
	host string
	conn *upstream // nil: already stored or closed
	keep bool      // the upstream keeps the connection open after the answer
}

// Read reads the next part. At the end of the body it stores the connection for reuse. After an
// error it closes the connection.
func (b *lentBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	switch err {
	case nil:
	case io.EOF:
		b.reuse()
	default:
		b.discard()
	}
	return n, err
}

// Soon reports whether a part of the body, its end or an error can be read now or within a few
// milliseconds.
func (b *lentBody) Soon() bool {
	c := b.conn
	if c == nil || c.in.Buffered() > 0 {
		return true
	}
	if c.SetReadDeadline(time.Now().Add(briefly)) != nil {
		return true
	}
	_, err := c.in.Peek(1)
	_ = c.SetReadDeadline(time.Time{}) // there is no deadline for bodies
	return err == nil || !isLate(err)
}

// Close closes the connection, unless the body was read to its end. It always returns nil.
func (b *lentBody) Close() error {
	b.discard()
	return nil
}

// reuse stores the connection for reuse if it is usable and otherwise closes it. It does nothing
// if the body no longer owns the connection.
func (b *lentBody) reuse() {
	c := b.conn
	if b.conn = nil; c == nil {
		return
	}
	// Data after the answer would be taken for the next answer, so the connection must not be reused.
	if !c.free() || !b.keep || c.in.Buffered() > 0 || !b.from.keep(b.host, c) {
		_ = c.Conn.Close()
	}
}

// discard closes the connection, unless the body no longer owns it.
func (b *lentBody) discard() {
	if b.conn != nil {
		b.conn.end()
		b.conn = nil
	}
}

// keep stores an idle connection for the next request to host. It returns false, and does not store
// the connection, if host has maxIdle idle connections or if u is closed.
func (u *Pool) keep(host string, c *upstream) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed || len(u.idle[host]) >= maxIdle {
		return false
	}
	if u.idle == nil {
		u.idle = map[string][]*upstream{}
	}
	c.used = true
	u.idle[host] = append(u.idle[host], c)
	if u.timer == nil {
		u.timer = time.AfterFunc(lookTime, func() { u.drop(time.Now().Add(-idleTime)) })
	}
	return true
}

// drop closes the idle connections whose last request started at since or earlier, and those that
// the upstream has closed. While idle connections remain, a timer calls drop every lookTime.
func (u *Pool) drop(since time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for host, list := range u.idle {
		list = slices.DeleteFunc(list, func(c *upstream) bool {
			over := !c.asked.After(since) || !silent(c.raw)
			if over {
				_ = c.Conn.Close()
			}
			return over
		})
		if u.idle[host] = list; len(list) == 0 {
			delete(u.idle, host)
		}
	}
	if u.timer != nil && len(u.idle) == 0 {
		u.timer.Stop()
		u.timer = nil
	}
	if u.timer != nil {
		u.timer.Reset(lookTime)
	}
}

// CloseIdle closes the idle connections.
func (u *Pool) CloseIdle() { u.drop(time.Now()) }

// Close closes the idle connections. A connection in use is closed when its answer is complete.
func (u *Pool) Close() {
	u.mu.Lock()
	u.closed = true
	u.mu.Unlock()
	u.drop(time.Now())
}
