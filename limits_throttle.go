package main

import (
	"net/netip"
	"sync"
	"time"
)

// throttleTable is how many of whom a Throttle remembers.
const throttleTable = 10_000

// Throttle counts failures by address, of IPv6 by /64, which is what one user
// has, or by another key. It is safe for concurrent use.
type Throttle struct {
	most  int
	span  time.Duration
	mu    sync.Mutex
	seen  map[string]*Window
	swept time.Time
}

// NewThrottle makes one that lets most failures in any span pass.
func NewThrottle(most int, span time.Duration) *Throttle {
	return &Throttle{most: most, span: span, seen: map[string]*Window{}}
}

// Fail notes a failure from an address, and gives how long the address has to
// wait when it had too many before; then this one is not noted.
func (t *Throttle) Fail(from netip.Addr, now time.Time) (wait time.Duration) {
	return t.FailKey(NetworkOf(from), now)
}

// NetworkOf is what an address is counted by, "" for none.
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

// FailKey is Fail for what is counted by another key; "" is not counted.
func (t *Throttle) FailKey(key string, now time.Time) (wait time.Duration) {
	_, wait = t.Try(key, now)
	return wait
}

// Try is FailKey for what has yet to be found out, so that many who come at once
// have no more tries than one after the other. undo, which is never nil, takes
// the failure back.
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

// sweep makes room: first by what is over, then by anything, because a table
// without a bound is a way to fill the memory.
func (t *Throttle) sweep(now time.Time) {
	due := t.span
	if len(t.seen) >= throttleTable {
		due = time.Second // a look at all for every stranger would be work that anybody may have done
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
