package lean

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	bufferSize = 16 << 10    // largest request, with its body, in bytes; net/http serves larger ones
	flushSize  = 16 << 10    // bytes of answers that are kept before they are written
	slack      = time.Second // by how much idle and write deadlines may be late
)

// past is a deadline that has passed.
var past = time.Unix(1, 0)

var (
	buffers = sync.Pool{New: func() any { return new(buffer) }}
	slots   = sync.Pool{New: func() any { return newSlot() }}
	outputs = sync.Pool{New: func() any { b := make([]byte, 0, 4<<10); return &b }}
)

// buffer is where a connection receives bytes.
type buffer struct {
	data   [bufferSize]byte
	socket socketRead
}

// conn is a connection that the lean loop serves. Only the goroutine of serve uses it, except where
// a field says otherwise.
type conn struct {
	server   *Server
	nc       net.Conn
	raw      syscall.RawConn
	base     context.Context // parent of the contexts of all requests
	remote   string
	turn     func(fd uintptr) bool // answerAll
	tryRead  func(fd uintptr) bool // readOnce
	tryWrite func(fd uintptr) bool // writeMore
	counted  bool                  // reads say whether more has arrived, see countUnread

	buf     *buffer // nil while the connection is idle
	r, w    int     // buf.data[r:w] has been received and not used
	got     int     // bytes that the last read has received
	rerr    error   // error of the last read
	drained bool    // the last read has left nothing behind, not even the end of the stream
	look    bool    // readOnce does not wait

	out  *[]byte // answers that have not been written; nil: none
	left []byte  // what writeMore has still to write
	open uintptr // descriptor of the socket while answerAll runs, which keeps it open; else 0
	werr error   // first error of writing

	waiting    atomic.Bool // the goroutine waits for bytes; read by Server.wake
	served     bool        // the connection has had a request
	servedSeen atomic.Bool // served, for Server.wake
	active     bool        // the hook has been told that a request is in progress
	lenient    int         // how many CR and LF are ignored before the next request, see skip
	skipped    int         // how many have been ignored
	closing    bool        // no more requests

	now        time.Time // when the latest answer was complete, or earlier in the same request
	readUntil  time.Time // the read deadline of nc; zero: not known or none
	writeUntil time.Time // the write deadline of nc; zero: not known or none
	headUntil  time.Time // deadline for the head that has begun; zero: none
	// Set when a deadline was changed by the handler or by another goroutine on its behalf, so that
	// readUntil or writeUntil is not true any more.
	readMoved, writeMoved atomic.Bool

	head string // the last head, to save an allocation if the next one is the same
	slot *slot  // memory for requests; nil while the connection is idle
}

// slot has what one request after the other uses. An idle connection has none: with many connections,
// each request would otherwise begin with memory that has left the caches of the processor.
type slot struct {
	request  http.Request
	plain    *http.Request // request without fields, with its context
	fields   head
	context  requestContext
	response response
	values   [maxFields]string
	header   http.Header
}

// serve answers the requests of the connection until it is closed or handed over.
func (c *conn) serve() {
	defer c.server.forget(c)
	for {
		if !c.wait() {
			c.end()
			return
		}
		for c.r < c.w && !c.closing {
			if !c.step() {
				return
			}
		}
		if !c.rest() {
			c.end()
			return
		}
	}
}

// rest prepares the connection for its next wait, after all requests in the buffer have been
// answered. It returns false if the connection must be closed instead.
func (c *conn) rest() bool {
	c.flushNow()
	c.flush()
	if c.closing || c.werr != nil {
		return false
	}
	c.release()
	c.idle()
	c.renewRead(c.server.idleTimeout())
	return true
}

// answerAll is the function for RawConn.Read that waits for requests and answers those which have
// arrived completely. It stays in the call of RawConn.Read from one request to the next: each such
// call forgets that bytes have arrived, so it would have to begin with a read that mostly finds
// nothing. It returns true if step must go on, or if the connection must be closed.
func (c *conn) answerAll(fd uintptr) bool {
	c.open = fd
	defer func() { c.open = 0 }()
	for {
		if !c.readOnce(fd) {
			return false
		}
		if c.rerr != nil {
			return true
		}
		c.waiting.Store(false)
		for c.r < c.w && !c.closing {
			if n, verdict := c.scan(); verdict != whole || !c.answerIf(n) {
				return true
			}
		}
		if !c.rest() {
			return true
		}
		c.got = 0
		if c.waiting.Store(true); c.leaving() {
			return true
		}
		if c.drained {
			return false
		}
	}
}

// scan reads the head of the next request in the buffer. It returns the length of the head. If
// nothing but ignored bytes is left, it returns 0 and empty.
func (c *conn) scan() (n int, verdict int) {
	if c.skip(); c.r == c.w {
		return 0, empty
	}
	if c.slot == nil {
		c.slot = slots.Get().(*slot)
		c.slot.serve(c)
	}
	return c.slot.fields.scan(c.buf.data[c.r:c.w], c.head)
}

// answerIf answers the request whose head has n bytes, if the buffer has its body.
func (c *conn) answerIf(n int) bool {
	body := c.slot.fields.length
	if c.w-c.r-n < body {
		return false
	}
	c.head = c.slot.fields.text
	c.answer(n, body)
	return true
}

// step answers the next request in the buffer, or reads more of it. It returns false if the
// connection has been closed or handed over.
func (c *conn) step() bool {
	n, verdict := c.scan()
	switch verdict {
	case empty:
		return true
	case partial:
		return c.more()
	case whole:
		if c.answerIf(n) {
			return true
		}
		if c.awaitBody(n + c.slot.fields.length) {
			return c.answerIf(n)
		}
		c.handOver(true)
		return false
	}
	c.handOver(n > 0)
	return false
}

// skip ignores up to four CR and LF after a POST, as net/http does for old clients.
func (c *conn) skip() {
	for c.lenient > 0 && c.r < c.w {
		if b := c.buf.data[c.r]; b != '\r' && b != '\n' {
			c.lenient = 0
			return
		}
		c.r++
		c.skipped++
		c.lenient--
	}
}

// leaving reports whether the connection must be closed instead of waiting for a request.
func (c *conn) leaving() bool {
	stage := c.server.stage.Load()
	return stage == stopping || stage == draining && c.servedSeen.Load()
}

// wait answers requests until there is something to do for step, or the connection must be closed.
// It returns false if there are no bytes. While it waits, the connection has no buffer.
func (c *conn) wait() bool { return c.receive(c.turn) }

// renewRead sets the read deadline to d after the latest answer. It is at most slack later, so that
// not every request has to set it.
func (c *conn) renewRead(d time.Duration) {
	if c.readMoved.Swap(false) {
		c.readUntil = past
	}
	if d <= 0 {
		if !c.readUntil.IsZero() {
			c.readUntil = time.Time{}
			_ = c.nc.SetReadDeadline(time.Time{})
		}
		return
	}
	if left := c.readUntil.Sub(c.now); left < d || left > d+slack {
		c.readUntil = c.now.Add(d + slack)
		_ = c.nc.SetReadDeadline(c.readUntil)
	}
}

// receive calls RawConn.Read with try and reports whether bytes were read. A server that stops
// interrupts it; it then takes only what has arrived already.
func (c *conn) receive(try func(fd uintptr) bool) bool {
	c.waiting.Store(true)
	defer c.waiting.Store(false)
	c.got, c.rerr, c.look = 0, nil, false
	if !c.leaving() {
		err := c.raw.Read(try)
		if err == nil {
			err = c.rerr
		}
		c.rerr = err
		switch {
		case err == nil && (c.got > 0 || c.closing || c.werr != nil):
			return true
		case err != nil && (!errors.Is(err, os.ErrDeadlineExceeded) || !c.leaving()):
			return false
		}
	}
	c.waiting.Store(false)
	c.readUntil, c.look, c.rerr = time.Time{}, true, nil
	_ = c.nc.SetReadDeadline(time.Time{})
	if err := c.raw.Read(c.tryRead); err != nil && c.rerr == nil {
		c.rerr = err
	}
	return c.got > 0
}

// readOnce is the function for RawConn.Read. It returns false to be called again when there is
// something to read, and then keeps no buffer if that is empty.
func (c *conn) readOnce(fd uintptr) bool {
	if c.buf == nil {
		c.buf = buffers.Get().(*buffer)
		c.r, c.w = 0, 0
	}
	n, again, drained, err := c.buf.socket.read(fd, c.buf.data[c.w:])
	if again {
		if c.w == 0 {
			c.drop()
		}
		return c.look
	}
	c.got, c.rerr, c.drained = n, err, drained && c.counted
	c.w += n
	return true
}

// drop returns the buffer to the pool.
func (c *conn) drop() {
	if c.buf != nil {
		buffers.Put(c.buf)
		c.buf = nil
	}
	c.r, c.w = 0, 0
}

// release returns the memory to its pools before the connection waits for the next request.
func (c *conn) release() {
	c.drop()
	if c.slot != nil {
		c.slot.serve(nil)
		slots.Put(c.slot)
		c.slot = nil
	}
	if c.out != nil {
		putOutput(c.out)
		c.out = nil
	}
}

// putOutput returns a buffer for answers to the pool, unless it is unusually large.
func putOutput(b *[]byte) {
	if cap(*b) <= 2*flushSize {
		*b = (*b)[:0]
		outputs.Put(b)
	}
}

// more reads more of a head of which only a part has arrived. It does not wait long, so that slow
// clients do not hold buffers. It returns false if the connection has been closed or handed over.
func (c *conn) more() bool {
	if c.flush(); c.werr != nil {
		c.end()
		return false
	}
	c.idle()
	if c.r > 0 {
		c.w = copy(c.buf.data[:], c.buf.data[c.r:c.w])
		c.r = 0
	}
	if c.w == bufferSize {
		c.handOver(false)
		return false
	}
	now := time.Now()
	if d := c.server.headTimeout(); d > 0 && c.headUntil.IsZero() {
		c.headUntil = now.Add(d)
	}
	c.readUntil = now.Add(c.server.restWait)
	if !c.headUntil.IsZero() && c.headUntil.Before(c.readUntil) {
		c.readUntil = c.headUntil // a client that sends byte after byte has no more time than others
	}
	_ = c.nc.SetReadDeadline(c.readUntil)
	if c.receive(c.tryRead) {
		return true
	}
	late := errors.Is(c.rerr, os.ErrDeadlineExceeded)
	if late || c.rerr == io.EOF && (!c.served || c.w-c.r+c.skipped >= 4) {
		c.handOver(false) // net/http waits on, or says what is wrong with a request that ends too early
		return false
	}
	c.end()
	return false
}

// awaitBody waits for the rest of a request that has n bytes, because many clients send the head
// and the body in two packets. It returns false if the rest does not arrive soon, or is too large.
func (c *conn) awaitBody(n int) bool {
	if c.flush(); c.werr != nil || n > bufferSize {
		return false
	}
	c.begin()
	if c.r > 0 {
		c.w = copy(c.buf.data[:], c.buf.data[c.r:c.w])
		c.r = 0
	}
	c.readUntil = time.Now().Add(c.server.restWait)
	_ = c.nc.SetReadDeadline(c.readUntil)
	for c.w < n {
		if !c.receive(c.tryRead) {
			return false
		}
	}
	return true
}

// begin tells the hook that a request is in progress.
func (c *conn) begin() {
	if !c.active {
		c.active = true
		c.server.note(c.nc, http.StateActive)
	}
}

// answer calls the handler for a request whose head has n bytes and whose body has body bytes.
func (c *conn) answer(n, body int) {
	s := c.slot
	c.begin()
	if !c.served {
		c.served = true
		c.servedSeen.Store(true)
	}
	if d := c.server.http.WriteTimeout; d > 0 {
		if c.writeMoved.Swap(false) {
			c.writeUntil = time.Time{}
		}
		if now := time.Now(); c.writeUntil.Sub(now) < d {
			c.writeUntil = now.Add(d + slack)
			_ = c.nc.SetWriteDeadline(c.writeUntil)
		}
	}
	c.headUntil, c.skipped, c.lenient = time.Time{}, 0, 0
	if s.request.Method == http.MethodPost {
		c.lenient = 4
	}
	s.context.begin()
	s.response.begin()
	s.request.RemoteAddr = c.remote
	if body > 0 {
		s.request.Body = newBody(c.buf.data[c.r+n : c.r+n+body])
	}
	c.r += n + body
	completed := c.call()
	if completed {
		completed = s.response.finish()
	}
	s.context.end()
	if !completed {
		c.closing = true
	}
	if s.context.used || s.response.flushed {
		c.slot = nil // somebody may still look at the request, so its memory is not used again
	}
}

// call calls the handler. It returns false if the handler has panicked.
func (c *conn) call() (ok bool) {
	defer func() {
		if p := recover(); p != nil {
			c.slot.response.abort()
			if p != http.ErrAbortHandler {
				c.server.logf("http: panic serving %v: %v\n%s", c.remote, p, debug.Stack())
			}
		}
	}()
	c.server.http.Handler.ServeHTTP(&c.slot.response, &c.slot.request)
	return true
}

// idle tells the hook that no request is in progress.
func (c *conn) idle() {
	if c.active {
		c.active = false
		c.server.note(c.nc, http.StateIdle)
	}
}

// output returns the buffer for answers.
func (c *conn) output() *[]byte {
	if c.out == nil {
		c.out = outputs.Get().(*[]byte)
	}
	return c.out
}

// flush writes the answers that have been kept.
func (c *conn) flush() {
	if c.out == nil || len(*c.out) == 0 {
		return
	}
	c.write(*c.out)
	*c.out = (*c.out)[:0]
}

// flushNow writes what the system takes of the answers without waiting, if that needs no look at
// the write deadline. It saves most of what RawConn.Write costs besides the call of the system.
func (c *conn) flushNow() {
	if c.open == 0 || c.out == nil || c.werr != nil || c.writeMoved.Load() || !c.writeUntil.IsZero() && !c.now.Before(c.writeUntil) {
		return
	}
	c.left = *c.out
	c.writeMore(c.open)
	*c.out = (*c.out)[:copy(*c.out, c.left)]
	c.left = nil
}

// write writes b to the connection. After an error it does nothing.
func (c *conn) write(b []byte) {
	if c.werr != nil {
		return
	}
	c.left = b
	if err := c.raw.Write(c.tryWrite); err != nil {
		c.werr = err
	}
	if c.left = nil; c.werr != nil && c.slot != nil {
		c.slot.context.lost()
	}
}

// writeMore is the function for RawConn.Write. It returns false to be called again when there is
// room.
func (c *conn) writeMore(fd uintptr) bool {
	for len(c.left) > 0 && c.werr == nil {
		n, again, err := write(fd, c.left)
		if again {
			return false
		}
		c.left, c.werr = c.left[n:], err
	}
	return true
}

// end closes the connection. What has been kept is written first.
func (c *conn) end() {
	c.flush()
	_ = c.nc.Close()
	c.release()
}

// handOver passes the connection to net/http, with the bytes that have not been used. arrived is
// whether they have the whole head of a request, so that a request is in progress.
func (c *conn) handOver(arrived bool) {
	if c.flush(); c.werr != nil {
		c.end()
		return
	}
	if arrived {
		c.begin()
	} else {
		c.idle()
	}
	h := &handedOver{Conn: c.nc, head: bytes.Clone(c.buf.data[c.r:c.w]), until: c.headUntil}
	c.release()
	c.server.forget(c) // from now on, wake does not set a deadline
	_ = c.nc.SetDeadline(time.Time{})
	c.server.rest.give(h)
}
