package main

import (
	"net/netip"
	"sync"
	"time"
)

const (
	throttleMax   = 60          // wrong keys from one address in a minute
	throttleSpan  = time.Minute // the window they are counted in
	throttleTable = 10_000      // addresses remembered
)

// Throttle counts failures by address: of IPv6 by /64, which is what one user
// has. It is safe for concurrent use.
type Throttle struct {
	mu    sync.Mutex
	seen  map[netip.Prefix]*Window
	swept time.Time
}

// NewThrottle makes one that has seen nothing.
func NewThrottle() *Throttle { return &Throttle{seen: map[netip.Prefix]*Window{}} }

// Fail notes a failure from an address, and gives how long the address has to
// wait when it had too many before; then this one is not noted.
func (t *Throttle) Fail(from netip.Addr, now time.Time) (wait time.Duration) {
	bits := 32
	if from.Is6() {
		bits = 64
	}
	network, err := from.Prefix(bits)
	if err != nil {
		return 0
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	w := t.seen[network]
	if w == nil {
		t.sweep(now)
		fresh := NewWindow(throttleMax, throttleSpan)
		w = &fresh
		t.seen[network] = w
	}
	if wait = w.Wait(now, 1); wait == 0 {
		w.Add(now, 1)
	}
	return wait
}

// sweep makes room: first by what is over, then by anything, because a table
// without a bound is a way to fill the memory.
func (t *Throttle) sweep(now time.Time) {
	if len(t.seen) < throttleTable && now.Sub(t.swept) < throttleSpan {
		return
	}
	t.swept = now
	for network, w := range t.seen {
		if w.Used(now) == 0 {
			delete(t.seen, network)
		}
	}
	for network := range t.seen {
		if len(t.seen) < throttleTable {
			return
		}
		delete(t.seen, network)
	}
}
