package main

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"sync"
	"time"
)

// patience is how long the end of a server waits for the first request of
// connections that were taken. Their clients send it at once, as a rule.
const patience = 2 * time.Second

// Connections are those of a server that have a request under way or are about
// to send their first. http.Server.Shutdown drops the latter without an answer:
// it closes what has been accepted and not read yet. It is safe for concurrent
// use.
type Connections struct {
	mu      sync.Mutex
	fresh   map[net.Conn]bool // before their first request
	active  map[net.Conn]bool // by HTTP/1
	changed chan struct{}
}

// NewConnections is empty.
func NewConnections() *Connections {
	return &Connections{fresh: map[net.Conn]bool{}, active: map[net.Conn]bool{}, changed: make(chan struct{}, 1)}
}

// Note is for http.Server.ConnState.
func (c *Connections) Note(conn net.Conn, state http.ConnState) {
	c.mu.Lock()
	delete(c.fresh, conn)
	delete(c.active, conn)
	switch state {
	case http.StateNew:
		c.fresh[conn] = true
	case http.StateActive:
		// Over HTTP/2 requests may follow each other without a gap, and the end
		// of a server is told to the client in its own way.
		if t, ok := conn.(*tls.Conn); !ok || t.ConnectionState().NegotiatedProtocol != "h2" {
			c.active[conn] = true
		}
	}
	c.mu.Unlock()
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

// Wait returns when all have their answers, or when the context ends. No more
// may be accepted by then. It waits only for so long for a first request.
func (c *Connections) Wait(ctx context.Context) {
	enough := time.NewTimer(patience)
	defer enough.Stop()
	patient := true
	for c.busy(patient) {
		select {
		case <-ctx.Done():
			return
		case <-enough.C:
			patient = false
		case <-c.changed:
		}
	}
}

func (c *Connections) busy(patient bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.active) > 0 || patient && len(c.fresh) > 0
}
