package etcd

import (
	"context"
	"slices"
	"testing"
	"time"

	"latchkey/tests/program"
)

// TestServers asks three etcd servers for their state, while all work and after one was killed.
func TestServers(t *testing.T) {
	c := program.StartEtcd(t, 3, "--quota-backend-bytes=123456789")
	n := start(t.Context(), t, options(c, "a"), "s")
	for until := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		list, members := n.e.Servers(within(t, 5*time.Second))
		leaders := 0
		good := members == 3 && len(list) == 3
		for i, s := range list {
			if s.Leader {
				leaders++
			}
			good = good && s.Err == nil && s.Led && s.URL == c.Endpoints[i] && s.Version != "" && s.Bytes > 0 && s.Quota == 123456789 && len(s.Alarms) == 0
		}
		if good && leaders == 1 {
			break
		}
		if time.Now().After(until) {
			t.Fatalf("got %+v, %d", list, members)
		}
	}
	if left := n.e.Left(); left <= 0 || left > time.Second {
		t.Errorf("got %s left of a lease of a second", left)
	}
	head, err := n.increment(within(t, 30*time.Second), false)
	if err != nil {
		t.Fatal(err)
	}
	if known := n.e.Known(); known < head {
		t.Errorf("got %d, want at least %d", known, head)
	}
	c.Kill(1)
	for until := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		list, members := n.e.Servers(ctx)
		cancel()
		if members == 3 && list[1].Err != nil && list[0].Err == nil && list[0].Led && list[2].Err == nil && list[2].Led && slices.Contains([]bool{list[0].Leader, list[2].Leader}, true) {
			break
		}
		if time.Now().After(until) {
			t.Fatalf("got %+v, %d", list, members)
		}
	}
}
