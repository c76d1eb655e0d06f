// Package upstream sends requests without a body to upstreams over HTTP/1.1
// without TLS, and keeps the connections for reuse.
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

// Upstreams sends requests without a body over HTTP/1.1 without TLS. It keeps
// idle connections. A connection serves one request at a time, and the
// goroutine of the request writes and reads it. http.Transport runs two
// goroutines per connection; handing over to them costs more than all our
// checks. net/http parses the answers. The zero value is ready to use, and safe
// for concurrent use.
type Upstreams struct {
	mu     sync.Mutex
	idle   map[string][]*upstream // by host; the most recently used is last
	timer  *time.Timer            // nil if no connection is idle
	closed bool
}

// dialTime, idleTime and idleMost are those of the http.Transport in guard_proxy.go.
const (
	dialTime = 10 * time.Second
	idleTime = 90 * time.Second
	lookTime = 10 * time.Second      // between checks of the idle connections
	idleMost = 1024                  // idle connections per host
	briefly  = 20 * time.Millisecond // most answers arrive within this time
	headMost = 10 << 20              // bytes of an answer's header, with early answers included
)

// upstream is one connection. It serves one request at a time.
type upstream struct {
	net.Conn
	raw    syscall.RawConn
	in     *bufio.Reader
	room   int64       // number of bytes that may still be read
	failed error       // error of the last Read
	asked  time.Time   // start of its last request
	until  time.Time   // deadline for the header; zero: no deadline
	slow   bool        // wait was called for this request, so stop is set
	stop   func() bool // stops the context from closing the connection; false if it is too late
	used   bool        // it has served an earlier request
}

// unheard is an error that occurred before the first byte of an answer.
type unheard struct{ error }

func (e unheard) Unwrap() error { return e.error }

// Ask sends head, the complete bytes of the GET or HEAD request r, to host and
// returns the answer after its header. The caller must close the body; the
// connection is reused only if the body was read to the end. Ask calls early
// for each informational answer, such as early hints. wait is the longest time
// until the header; 0 means no timeout. If the context of r is done, the error
// is that of the context. If the upstream has closed a kept connection, Ask
// tries another one, because GET and HEAD may be sent again (RFC 9110, section
// 9.2.2).
func (u *Upstreams) Ask(r *http.Request, host string, head []byte, wait time.Duration, early func(*http.Response)) (*http.Response, error) {
	for {
		c, err := u.take(r.Context(), host)
		if err != nil {
			return nil, cause(r, err)
		}
		c.asked, c.until, c.slow = time.Now(), time.Time{}, false
		if wait > 0 {
			c.until = c.asked.Add(wait)
		}
		res, err := c.ask(r, head, early)
		if err == nil {
			u.lend(c, res, host)
			return res, nil
		}
		c.end()
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

// cause returns the error of the context of r if it is done, otherwise err.
func cause(r *http.Request, err error) error {
	if end := r.Context().Err(); end != nil {
		return end
	}
	return err
}

// take returns an idle connection to host, or a new one.
func (u *Upstreams) take(ctx context.Context, host string) (*upstream, error) {
	for {
		c := u.kept(host)
		if c == nil {
			return connect(ctx, host)
		}
		if silent(c.raw) {
			return c, nil
		}
		_ = c.Conn.Close() // closed by the upstream, or its data would be read as the answer
	}
}

// kept removes the most recently used idle connection to host and returns it,
// or nil if there is none.
func (u *Upstreams) kept(host string) *upstream {
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

// connect returns a new connection to host. The default port is 80.
func connect(ctx context.Context, host string) (*upstream, error) {
	address := host
	if _, _, err := net.SplitHostPort(host); err != nil {
		address += ":80"
	}
	conn, err := (&net.Dialer{Timeout: dialTime, KeepAlive: 30 * time.Second}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	c := &upstream{Conn: conn, raw: raw}
	c.in = bufio.NewReader(c)
	return c, nil
}

// Read reads at most room bytes. It returns an error if there is no room left.
func (c *upstream) Read(b []byte) (int, error) {
	if c.room <= 0 {
		c.failed = fmt.Errorf("the header is larger than %d bytes", headMost)
		return 0, c.failed
	}
	n, err := c.Conn.Read(b[:min(int64(len(b)), c.room)])
	c.room -= int64(n)
	c.failed = err
	return n, err
}

// ask sends a request and reads the header of its answer.
func (c *upstream) ask(r *http.Request, head []byte, early func(*http.Response)) (*http.Response, error) {
	c.room = headMost
	if err := c.SetDeadline(c.asked.Add(briefly)); err != nil {
		return nil, unheard{err}
	}
	n, err := c.Write(head)
	if err != nil && isLate(err) {
		if err = c.wait(r, c.until); err == nil {
			_, err = c.Write(head[n:])
		}
	}
	if err == nil {
		_, err = c.in.Peek(1)
	}
	if err != nil && isLate(err) && !c.slow {
		if err = c.wait(r, c.until); err == nil {
			_, err = c.in.Peek(1)
		}
	}
	if err != nil {
		return nil, unheard{err}
	}
	return c.header(r, early)
}

// header reads answers until the final one, whose header it returns. It passes
// the informational ones to early.
func (c *upstream) header(r *http.Request, early func(*http.Response)) (*http.Response, error) {
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
			return nil, cmp.Or(c.failed, err) // a parse error only follows from the failed read
		case res.StatusCode < 100 || res.StatusCode == http.StatusSwitchingProtocols:
			return nil, fmt.Errorf("an answer with status %d, which was not asked for", res.StatusCode)
		case res.StatusCode < 200:
			early(res)
			continue
		}
		c.room = math.MaxInt64
		if res.Body != http.NoBody && (res.ContentLength < 0 || res.ContentLength > int64(c.in.Buffered())) {
			err = c.wait(r, time.Time{})
		}
		return res, err
	}
}

// wait prepares the connection for a long wait: it sets the deadline, zero for
// none, and lets the end of the request close the connection. Requests that are
// answered soon avoid this cost.
func (c *upstream) wait(r *http.Request, until time.Time) error {
	if !c.slow {
		c.slow = true
		c.stop = context.AfterFunc(r.Context(), func() { _ = c.Conn.Close() })
	}
	return c.SetDeadline(until)
}

// free stops the context of the request from closing the connection. It reports
// whether it was in time.
func (c *upstream) free() bool { return !c.slow || c.stop() }

// end closes the connection.
func (c *upstream) end() {
	c.free()
	_ = c.Conn.Close()
}

// lend ties the connection to the body of its answer. At the end of the body
// the connection is stored in u again.
func (u *Upstreams) lend(c *upstream, res *http.Response, host string) {
	b := &lentBody{ReadCloser: res.Body, from: u, host: host, conn: c, keep: !res.Close}
	if res.Body == http.NoBody {
		b.give(b.keep)
		return
	}
	res.Body = b
}

// lentBody is the body of an answer.
type lentBody struct {
	io.ReadCloser
	from *Upstreams
	host string
	conn *upstream // nil after give
	keep bool
}

// Read reads the next part. At the end of the body it stores the connection for
// reuse; after an error it closes it.
func (b *lentBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.give(b.keep && err == io.EOF)
	}
	return n, err
}

// Close closes the connection unless the body was read to the end.
func (b *lentBody) Close() error {
	b.give(false)
	return nil
}

// give stores the connection for reuse if keep is true and it is safe;
// otherwise it closes it. Only the first call has an effect.
func (b *lentBody) give(keep bool) {
	c := b.conn
	if b.conn = nil; c == nil {
		return
	}
	// Data after the answer belongs to no request, so the connection is not safe to reuse.
	if !c.free() || !keep || c.in.Buffered() > 0 || !b.from.keep(b.host, c) {
		_ = c.Conn.Close()
	}
}

// keep stores an idle connection for the next request. It returns false if
// there is no room or if u is closed.
func (u *Upstreams) keep(host string, c *upstream) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed || len(u.idle[host]) >= idleMost {
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

// drop closes the idle connections that were last used before since, and those
// that the upstream has closed. It runs again after lookTime while connections
// remain.
func (u *Upstreams) drop(since time.Time) {
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

// Close closes the idle connections. A connection in use is closed when
// its answer is complete.
func (u *Upstreams) Close() {
	u.mu.Lock()
	u.closed = true
	u.mu.Unlock()
	u.drop(time.Now())
}
