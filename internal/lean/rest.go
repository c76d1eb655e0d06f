package lean

import (
	"io"
	"net"
	"sync"
	"time"
)

// rest is the listener from which net/http takes the connections that are handed over.
type rest struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newRest() *rest { return &rest{conns: make(chan net.Conn), done: make(chan struct{})} }

// give hands nc over to net/http, or closes it if net/http has stopped.
func (r *rest) give(nc net.Conn) {
	select {
	case r.conns <- nc:
	case <-r.done:
		_ = nc.Close()
	}
}

// Accept returns the next connection that is handed over.
func (r *rest) Accept() (net.Conn, error) {
	select {
	case nc := <-r.conns:
		return nc, nil
	case <-r.done:
		return nil, net.ErrClosed
	}
}

// Close ends Accept.
func (r *rest) Close() error {
	r.once.Do(func() { close(r.done) })
	return nil
}

// Addr returns an address that net/http has for its log alone.
func (r *rest) Addr() net.Addr { return &net.UnixAddr{Name: "lean", Net: "unix"} }

// handedOver is a connection that begins with bytes that have been read already.
type handedOver struct {
	net.Conn
	head  []byte
	until time.Time // the deadline of the request that has begun; zero: none, or net/http has set it
}

// Read returns the bytes that have been read already, then those of the connection.
func (h *handedOver) Read(b []byte) (int, error) {
	if len(h.head) == 0 {
		return h.Conn.Read(b)
	}
	n := copy(b, h.head)
	if h.head = h.head[n:]; len(h.head) == 0 {
		h.head = nil
	}
	return n, nil
}

// SetReadDeadline sets the deadline. The first one, for the head of the request that has begun, is
// not later than it was before the connection was handed over.
func (h *handedOver) SetReadDeadline(t time.Time) error {
	if !h.until.IsZero() && !t.IsZero() && h.until.Before(t) {
		t = h.until
	}
	h.until = time.Time{}
	return h.Conn.SetReadDeadline(t)
}

// NetConn returns the connection itself.
func (h *handedOver) NetConn() net.Conn { return h.Conn }

// CloseWrite ends the stream of bytes to the client. net/http calls it before it closes a
// connection whose last request was not read to its end.
func (h *handedOver) CloseWrite() error {
	if half, ok := h.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// ReadFrom copies r to the connection. The system copies files itself (sendfile(2)).
func (h *handedOver) ReadFrom(r io.Reader) (int64, error) {
	if from, ok := h.Conn.(io.ReaderFrom); ok {
		return from.ReadFrom(r)
	}
	return io.Copy(struct{ io.Writer }{h.Conn}, r)
}
