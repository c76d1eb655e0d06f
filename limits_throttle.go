package main

import (
	"net/netip"
	"sync"
	"time"
)

// throttleTable is the most networks or keys that a Throttle remembers.
const throttleTable = 10_000

// Throttle counts failures by network or by another key, such as a name. An
// IPv6 network is a /64, because one user has a whole /64; an IPv4 network is
// one address. A Throttle is safe for concurrent use.
type Throttle struct {
	most  int
	span  time.Duration
	mu    sync.Mutex
	seen  map[string]*Window
	swept time.Time
}

// NewThrottle returns a Throttle that allows most failures in any span.
func NewThrottle(most int, span time.Duration) *Throttle {
	return &Throttle{most: most, span: span, seen: map[string]*Window{}}
}

// Fail counts a failure from an address and returns 0. If the address already
// had too many, it counts nothing and returns the time to wait.
func (t *Throttle) Fail(from netip.Addr, now time.Time) (wait time.Duration) {
	return t.FailKey(NetworkOf(from), now)
}

// NetworkOf returns the network that an address is counted by, such as
// "192.0.2.1/32" or "2001:db8::/64". All invalid addresses count as one
// network, "invalid Prefix".
func NetworkOf(a netip.Addr) string {
	bits := 32
	if a.Is6() {
		bits = 64
	}
	network, err := a.Prefix(bits)
	if err != nil {
		return ""
	}
	return network.String()
}

// FailKey is Fail with another key than a network. It does not count the key
// "".
func (t *Throttle) FailKey(key string, now time.Time) (wait time.Duration) {
	_, wait = t.Try(key, now)
	return wait
}

// Try is FailKey for a try whose outcome is not known yet: it counts the try as
// a failure, and undo takes that back. So many tries at the same time are
// limited like tries one after the other. undo is never nil.
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
		fresh := NewWindow(t.most, t.span)
		w = &fresh
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

// sweep makes room for a new key. It removes keys without recent failures, and
// then, if the table is still full, any others: without a bound, failures could
// fill the memory.
func (t *Throttle) sweep(now time.Time) {
	due := t.span
	if len(t.seen) >= throttleTable {
		due = time.Second // else every new network would cause a walk through the full table
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
