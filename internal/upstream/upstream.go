// Package upstream sends requests for reads to upstreams over HTTP/1.1 without
// TLS, and keeps the connections.
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

// Upstreams sends requests without a body over HTTP/1.1 without TLS, and keeps
// the connections. Each request has one to itself, and writes and reads in its
// own goroutine: the two more that http.Transport has for a connection, and the
// words between them, cost more than all checks of a request together. Answers
// are read by net/http. It is safe for concurrent use.
type Upstreams struct {
	mu     sync.Mutex
	idle   map[string][]*upstream // by host; the one used last stands last
	timer  *time.Timer            // nil while none is idle
	closed bool
}

// As http.Transport has them here or by default.
const (
	dialTime = 10 * time.Second
	idleTime = 90 * time.Second
	lookTime = 10 * time.Second      // between looks at those idle
	idleMost = 1024                  // connections of a host
	briefly  = 20 * time.Millisecond // most answers come by then
	headMost = 10 << 20              // bytes of an answer before its body, with all that is said before it
)

// upstream is one connection. It serves one request at a time.
type upstream struct {
	net.Conn
	raw    syscall.RawConn
	in     *bufio.Reader
	room   int64       // bytes that may still be read
	failed error       // of the last reading
	asked  time.Time   // when it began with its last request
	until  time.Time   // when the header has to be there, zero for any time
	slow   bool        // the request has waited, and stop is set
	stop   func() bool // has the end of the request leave the connection alone
	used   bool        // it has served a request before
}

// unheard is an error before the first byte of an answer.
type unheard struct{ error }

func (e unheard) Unwrap() error { return e.error }

// Ask sends head, the whole of a GET or HEAD request r, to a host, and gives the
// answer once its header is there. Reading its body to the end gives back the
// connection; it has to be closed in any case. Answers before it, like early
// hints, are for early. wait is for how long the upstream may keep silent until
// then, 0 for any time. The error is that of the request's context once it is
// done. A kept connection that the upstream has closed is no error: such
// requests may be sent again (RFC 9110, section 9.2.2).
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

func isLate(err error) bool {
	var late net.Error
	return errors.As(err, &late) && late.Timeout()
}

// cause gives the reason of an error, where that is the end of the request.
func cause(r *http.Request, err error) error {
	if end := r.Context().Err(); end != nil {
		return end
	}
	return err
}

// take gives a connection that is kept for a host, or makes one.
func (u *Upstreams) take(ctx context.Context, host string) (*upstream, error) {
	for {
		c := u.kept(host)
		if c == nil {
			return connect(ctx, host)
		}
		if silent(c.raw) {
			return c, nil
		}
		_ = c.Conn.Close() // or what is there already would be taken for the answer
	}
}

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

// Read reads as much as there is room for.
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

// header reads until the header of the last answer.
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
			return nil, cmp.Or(c.failed, err) // half a line is no reason of its own
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

// wait has the connection end with the request or at a time, zero for never.
// What comes soon is spared that.
func (c *upstream) wait(r *http.Request, until time.Time) error {
	if !c.slow {
		c.slow = true
		c.stop = context.AfterFunc(r.Context(), func() { _ = c.Conn.Close() })
	}
	return c.SetDeadline(until)
}

// free has the end of the request leave the connection alone, and says whether
// it has.
func (c *upstream) free() bool { return !c.slow || c.stop() }

// end lets go of the connection.
func (c *upstream) end() {
	c.free()
	_ = c.Conn.Close()
}

// lend ties the connection to the body of its answer.
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
	conn *upstream // nil once it is given back
	keep bool
}

// Read gives the next part; at the end the connection goes back.
func (b *lentBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.give(b.keep && err == io.EOF)
	}
	return n, err
}

// Close ends the reading. What is left of the body goes with the connection.
func (b *lentBody) Close() error {
	b.give(false)
	return nil
}

// give gives the connection back, or ends it.
func (b *lentBody) give(keep bool) {
	c := b.conn
	if b.conn = nil; c == nil {
		return
	}
	// More than was asked for has no request that it could belong to.
	if !c.free() || !keep || c.in.Buffered() > 0 || !b.from.keep(b.host, c) {
		_ = c.Conn.Close()
	}
}

// keep keeps a connection for the next request, if there is room.
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

// drop closes the idle connections that have not been used after a time, and
// those that the upstream has closed. It comes back for the others.
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

// Close lets go of the connections that are idle, and of each other with its
// answer.
func (u *Upstreams) Close() {
	u.mu.Lock()
	u.closed = true
	u.mu.Unlock()
	u.drop(time.Now())
}
