package main

import (
	"net/netip"
	"sync"
	"time"
)

// throttleTable is the maximum number of networks or other keys that a Throttle remembers.
const throttleTable = 10_000

// Throttle counts failures by network or by another key, such as a name. It counts a whole IPv6 /64
// as one network, because one user usually has a /64, and each IPv4 address by itself. A Throttle is
// safe for concurrent use.
type Throttle struct {
	limit int
	span  time.Duration
	mu    sync.Mutex
	seen  map[string]*Window // by network or other key
	swept time.Time          // last time at which sweep looked at all entries
}

// NewThrottle returns a Throttle that allows each network limit failures in any period as long as
// span.
func NewThrottle(limit int, span time.Duration) *Throttle {
	return &Throttle{limit: limit, span: span, seen: map[string]*Window{}}
}

// Fail counts a failure of a client at the service time now and returns 0. If the client's network
// already has too many failures, it counts nothing and returns the time to wait.
func (t *Throttle) Fail(client netip.Addr, now time.Time) (wait time.Duration) {
	return t.FailKey(NetworkOf(client), now)
}

// NetworkOf returns the network under which a Throttle counts an address, such as "192.0.2.1/32" or
// "2001:db8::/64". It returns "unknown" for the zero Addr, so that a Throttle counts all clients with
// an unknown address together. They can then keep each other from further wrong attempts, but a
// client cannot avoid the limit by hiding its address.
func NetworkOf(a netip.Addr) string {
	bits := 32
	if a.Is6() {
		bits = 64
	}
	network, err := a.Prefix(bits)
	if err != nil {
		return "unknown"
	}
	return network.String()
}

// FailKey is like Fail, but counts by key instead of by network. It ignores the key "" and returns
// 0 for it.
func (t *Throttle) FailKey(key string, now time.Time) (wait time.Duration) {
	_, wait = t.Try(key, now)
	return wait
}

// Try is like FailKey for an attempt whose result is not known yet. It counts the attempt as a
// failure. Call undo if the attempt succeeds; it is never nil. So attempts at the same time are
// limited like attempts one after the other.
func (t *Throttle) Try(key string, now time.Time) (undo func(), wait time.Duration) {
	none := func() {}
	if key == "" {
		return none, 0
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	w := t.seen[key]
	if w == nil {
		t.sweep(now)
		window := NewWindow(t.limit, t.span)
		w = &window
		t.seen[key] = w
	}
	if wait = w.Wait(now, 1); wait > 0 {
		return none, wait
	}
	at := w.Add(now, 1)
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		w.Remove(at, 1)
	}, 0
}

// sweep makes room for a new key. It removes keys without recent failures. If the table is still
// full, it removes other keys as well, because failures must not fill the memory.
func (t *Throttle) sweep(now time.Time) {
	due := t.span
	if len(t.seen) >= throttleTable {
		due = time.Second // not every new network may cause a walk through the full table
	}
	if now.Sub(t.swept) >= due {
		t.swept = now
		for network, w := range t.seen {
			if w.Used(now) == 0 {
				delete(t.seen, network)
			}
		}
	}
	for network := range t.seen {
		if len(t.seen) < throttleTable {
			return
		}
		delete(t.seen, network)
	}
}
