package etcd

import (
	"context"
	"crypto/tls"
	"net"
	"sync"
	"time"
)

const (
	silence   = time.Second // a server that does not answer for this long is asked whether it is there
	greetTime = time.Second // timeout for its answer
	sentence  = 60          // a write of at least as many bytes is not just an acknowledgement, so that the server answers
)

// conn is a connection to a server. It is closed if the server does not answer and does not accept a new connection either, as one
// that is paused or cut off. gRPC would take twelve seconds to notice that.
type conn struct {
	net.Conn
	alive func() bool

	mu      sync.Mutex
	waiting bool        // for bytes of the server
	timer   *time.Timer // ends once the server has been silent for too long
	closed  bool
}

// dialer returns a function that opens connections. They are looked after until ctx ends.
func dialer(ctx context.Context, config *tls.Config) func(context.Context, string) (net.Conn, error) {
	return func(dial context.Context, address string) (net.Conn, error) {
		to, err := (&net.Dialer{}).DialContext(dial, "tcp", address)
		if err != nil {
			return nil, err
		}
		c := &conn{Conn: to, alive: func() bool {
			ctx, cancel := context.WithTimeout(ctx, greetTime)
			defer cancel()
			return greet(ctx, address, config) == nil
		}}
		c.timer = time.AfterFunc(time.Hour, c.check)
		c.timer.Stop()
		return c, nil
	}
}

// Write writes to the server.
func (c *conn) Write(p []byte) (int, error) {
	if len(p) >= sentence {
		c.mu.Lock()
		if !c.waiting && !c.closed {
			c.waiting = true
			c.timer.Reset(silence)
		}
		c.mu.Unlock()
	}
	return c.Conn.Write(p)
}

// Read reads from the server.
func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.heard()
	}
	return n, err
}

// heard records that the server is there.
func (c *conn) heard() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waiting {
		c.waiting = false
		c.timer.Stop()
	}
}

// check closes the connection if the server has been silent and is not there.
func (c *conn) check() {
	if c.alive() {
		c.heard()
		return
	}
	c.mu.Lock()
	waiting := c.waiting
	c.mu.Unlock()
	if waiting {
		_ = c.Close()
	}
}

// Close closes the connection.
func (c *conn) Close() error {
	c.mu.Lock()
	c.closed, c.waiting = true, false
	c.timer.Stop()
	c.mu.Unlock()
	return c.Conn.Close()
}
