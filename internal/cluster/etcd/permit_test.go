package etcd

import (
	"testing"
	"time"
)

// TestPermit passes time by each of the clocks.
func TestPermit(t *testing.T) {
	const start, lease = time.Hour, 6 * time.Second
	p := newPermit(start, time.Now(), lease)
	for _, tt := range []struct {
		name                  string
		monotonic, wall, boot time.Duration
		want                  bool
	}{
		{"at once", 0, 0, 0, true},
		{"near the end", 4899 * time.Millisecond, 4899 * time.Millisecond, 4899 * time.Millisecond, true},
		{"at the end", 4900 * time.Millisecond, 4900 * time.Millisecond, 4900 * time.Millisecond, false},
		{"suspended", time.Second, time.Minute, time.Minute, false},
		{"wall clock set forward", time.Second, time.Hour, time.Second, false},                      // until the next renewal; the machine may have been paused
		{"suspended for less than the lease", time.Second, 2 * time.Second, 2 * time.Second, false}, // until the service time is corrected
		{"wall clock set forward a little", time.Second, 2 * time.Second, time.Second, true},
		{"wall clock set back", time.Second, -time.Hour, time.Second, true},
		{"suspended, and wall clock set back", time.Second, -time.Hour, time.Minute, false},
		{"wall clock set back a little", time.Second, 950 * time.Millisecond, time.Second, true},
		{"wall clock stands still", 4999 * time.Millisecond, 0, 4999 * time.Millisecond, false},
	} {
		if got := p.holdsAfter(tt.monotonic, tt.wall, func() time.Duration { return start + tt.boot }); got != tt.want {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
	if !p.holds(bootTime) {
		t.Error("a new permit does not hold")
	}
}

// TestRenewals loses etcd just before a renewal of the usual lease. A node must go on until a new leader is elected.
func TestRenewals(t *testing.T) {
	const usual, election = 3 * time.Second, 1600 * time.Millisecond
	if left := newPermit(0, time.Time{}, usual).ends - usual/renewals; left < election {
		t.Errorf("a node goes on for %s without etcd, want %s", left, election)
	}
}
