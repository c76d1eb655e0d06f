package upstream

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"strings"
	"sync/atomic"
)

// Framed sends requests through an http.Transport whose connections come from Dial and DialTLS. It
// names the request of each answer to its connection, which lets nothing through beyond the answer.
// http.Transport itself takes what follows an answer for the next one, if the next request is early
// enough.
type Framed struct{ *http.Transport }

// NewFramed sets the dial functions of t, which must not be in use yet, and returns it as Framed.
// hold makes room for each connection.
func NewFramed(t *http.Transport, hold Hold) Framed {
	t.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := connect(ctx, func(ctx context.Context) (net.Conn, error) { return hold.dial(ctx, network, address) })
		if err != nil {
			return nil, err
		}
		return newFramedConn(conn), nil
	}
	t.DialTLSContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		return connect(ctx, func(ctx context.Context) (net.Conn, error) {
			conn, err := hold.dial(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return secure(ctx, conn, t, address)
		})
	}
	return Framed{t}
}

// secure makes the TLS handshake of a connection to address with the configuration of t. It returns
// the TLS connection itself if the upstream speaks HTTP/2, which has frames of its own, and
// otherwise a framedConn. It closes conn if the handshake fails.
func secure(ctx context.Context, conn net.Conn, t *http.Transport, address string) (net.Conn, error) {
	config := &tls.Config{}
	if t.TLSClientConfig != nil {
		config = t.TLSClientConfig.Clone()
	}
	if host, _, err := net.SplitHostPort(address); err == nil && config.ServerName == "" {
		config.ServerName = host
	}
	if config.NextProtos == nil {
		config.NextProtos = []string{"h2", "http/1.1"}
	}
	secured := tls.Client(conn, config)
	if err := secured.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, err
	}
	if secured.ConnectionState().NegotiatedProtocol == "h2" {
		return secured, nil
	}
	return newFramedConn(secured), nil
}

// RoundTrip sends a request like http.Transport.
func (f Framed) RoundTrip(r *http.Request) (*http.Response, error) {
	method := r.Method
	trace := &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		if c, ok := info.Conn.(*framedConn); ok {
			c.begin(method)
		}
	}}
	return f.Transport.RoundTrip(r.WithContext(httptrace.WithClientTrace(r.Context(), trace)))
}

// framedConn is a connection to an upstream over HTTP/1.1. Its Read returns the bytes of one answer
// for each call of begin. It returns io.EOF with the last of them if the connection may not serve
// another request, so that http.Transport does not keep it. If the upstream sends anything while no
// answer is due, Read returns io.EOF in place of it. One goroutine may read while others call begin
// and Write.
type framedConn struct {
	net.Conn
	in     *bufio.Reader
	method atomic.Pointer[string] // of the request whose answer is due; nil: none is due
	state  func() error           // reads what comes next into ready, or sets left
	ready  []byte                 // bytes that Read returns next
	left   int64                  // bytes of the answer that Read returns after those in ready
	whole  bool                   // the answer ends when left is 0
	lines  bool                   // state reads one line, of chunks or of the trailer
	odd    bool                   // an informational answer had a length
	keep   bool                   // the connection may serve another request after this answer
	over   bool                   // Read returns nothing beyond ready and left
}

func newFramedConn(conn net.Conn) *framedConn {
	c := &framedConn{Conn: conn, in: bufio.NewReader(conn)}
	c.state = c.header
	return c
}

// begin prepares the connection for a request with this method, which is sent next.
func (c *framedConn) begin(method string) { c.method.Store(&method) }

// CloseWrite ends the stream of bytes to the upstream, if the connection supports this.
func (c *framedConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// Read reads the next part of an answer, as far as it can without waiting again.
func (c *framedConn) Read(p []byte) (int, error) {
	n, err := c.part(p)
	for err == nil && n < len(p) && c.there() {
		var more int
		more, err = c.part(p[n:])
		n += more
	}
	return n, err
}

// there reports whether part would return more of the answer without waiting for the upstream.
func (c *framedConn) there() bool {
	buffered, _ := c.in.Peek(c.in.Buffered())
	switch {
	case len(c.ready) > 0:
		return true
	case c.left > 0:
		return len(buffered) > 0
	}
	return c.lines && bytes.IndexByte(buffered, '\n') >= 0
}

// part is Read for bytes that belong together, such as a line or a part of a chunk.
func (c *framedConn) part(p []byte) (int, error) {
	for len(c.ready) == 0 && c.left == 0 {
		if c.over {
			return 0, io.EOF
		}
		if err := c.state(); err != nil {
			c.over = true
			return 0, err
		}
	}
	if len(c.ready) > 0 {
		n := copy(p, c.ready)
		c.ready = c.ready[n:]
		return n, c.last()
	}
	n, err := c.in.Read(p[:min(int64(len(p)), c.left)])
	if c.left < math.MaxInt64 {
		c.left -= int64(n)
	}
	if c.left == 0 && c.whole {
		c.end()
	}
	if err != nil {
		return n, err
	}
	return n, c.last()
}

// last returns io.EOF if Read has returned all that it may return.
func (c *framedConn) last() error {
	if c.over && len(c.ready) == 0 && c.left == 0 {
		return io.EOF
	}
	return nil
}

// header reads the header of an answer into ready. If no answer is due, it returns io.EOF for
// whatever the upstream sends.
func (c *framedConn) header() error {
	_, err := c.in.Peek(1)
	method := c.method.Load()
	if err != nil {
		return err
	}
	if method == nil {
		return io.EOF
	}
	var head []byte
	for !endsHeader(head) {
		line, err := c.in.ReadSlice('\n')
		if head = append(head, line...); err != nil && err != bufio.ErrBufferFull || len(head) > maxHead {
			c.ready, c.over = head, true // net/http says what is wrong with it
			return nil
		}
	}
	c.ready = head
	res, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(head)), &http.Request{Method: *method})
	switch {
	case err != nil:
		c.over = true
	case res.StatusCode < 200 && res.StatusCode != http.StatusSwitchingProtocols:
		c.odd = c.odd || res.Header["Content-Length"] != nil || len(res.TransferEncoding) > 0
	default:
		c.body(res, *method)
	}
	return nil
}

// endsHeader reports whether head is a header with its empty line at the end.
func endsHeader(head []byte) bool {
	return bytes.HasSuffix(head, []byte("\n\r\n")) || bytes.HasSuffix(head, []byte("\n\n"))
}

// body prepares for the body of an answer with the header of res.
func (c *framedConn) body(res *http.Response, method string) {
	res.Request = &http.Request{Method: method}
	c.keep = mayReuse(res) && !c.odd
	chunked := len(res.TransferEncoding) > 0
	bodyless := method == http.MethodHead || res.StatusCode == http.StatusNoContent || res.StatusCode == http.StatusNotModified
	switch {
	case res.StatusCode == http.StatusSwitchingProtocols:
		c.left = math.MaxInt64
	case bodyless, res.ContentLength == 0 && !chunked:
		c.end()
	case chunked:
		c.state, c.lines = c.chunk, true
	case res.ContentLength > 0:
		c.left, c.whole = res.ContentLength, true
	default: // to the end of the connection
		c.left = math.MaxInt64
	}
}

// chunk reads the size line of a chunk into ready and lets Read pass on the chunk with its line
// end. After the last chunk it reads the trailer.
func (c *framedConn) chunk() error {
	line, err := c.line()
	if err != nil {
		return err
	}
	text, _, _ := strings.Cut(string(line), ";")
	size, err := strconv.ParseUint(strings.Trim(text, " \t\r\n"), 16, 62)
	if err != nil {
		c.over = true // net/http says what is wrong with it
		return nil
	}
	if size > 0 {
		c.left = int64(size) + int64(len("\r\n"))
	} else {
		c.state = c.trailer
	}
	return nil
}

// trailer reads the lines after the last chunk into ready.
func (c *framedConn) trailer() error {
	line, err := c.line()
	if err == nil && len(bytes.TrimRight(line, "\r\n")) == 0 {
		c.end()
	}
	return err
}

// line reads a line into ready and returns it. The line is valid until the next call of Read.
func (c *framedConn) line() ([]byte, error) {
	line, err := c.in.ReadSlice('\n')
	c.ready = line
	if len(line) > 0 && err != nil { // the line is too long or the connection has ended
		c.over, err = true, nil
	}
	return line, err
}

// end ends the answer. The connection may serve another request if keep is true and nothing follows
// the answer.
func (c *framedConn) end() {
	c.method.Store(nil)
	c.state, c.whole, c.lines = c.header, false, false
	c.over = !c.keep || c.in.Buffered() > 0
}
