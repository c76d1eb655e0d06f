package main

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// placeIn is a charge for one place in a limit of this many requests in flight.
func placeIn(id, name string, most int) Charge {
	return Charge{ID: id, Limit: Limit{Name: name, Max: most}, Cost: 1}
}

// standing returns how many places are taken in the limit of a charge.
func standing(t *testing.T, l *Limiter, c Charge) int {
	t.Helper()
	list, err := l.Statuses([]Charge{c}, epoch)
	if err != nil {
		t.Fatal(err)
	}
	return list[0].Used
}

func TestLimiter_TakePlaces(t *testing.T) {
	for _, most := range []int{1, 2, 64} {
		l := NewLimiter(newTestStore(t), epoch)
		c := placeIn("a", ConcurrentRequests, most)
		take := func() (p *Places, full LimitStatus, err error) {
			p = &Places{}
			full, err = l.TakePlaces(p, CountedID{ID: "a", Ref: &CounterRef{}}, []Charge{c}, epoch)
			return p, full, err
		}
		var held []*Places
		for i := range most {
			p, _, err := take()
			if err != nil {
				t.Fatalf("request %d of %d: %v", i+1, most, err)
			}
			held = append(held, p)
		}
		_, full, err := take()
		e := Public(err)
		if !errors.Is(err, ErrRateLimit) || e.RetryAfter != time.Second || !strings.Contains(e.Message, fmt.Sprintf("The limit concurrent_requests of %d requests in flight is reached", most)) {
			t.Errorf("request %d of %d: got %v", most+1, most, err)
		}
		if full.Used != most || full.Remaining() != 0 || full.Wait != time.Second || !full.ResetsAt(epoch).IsZero() {
			t.Errorf("got the status %+v", full)
		}
		l.Sweep(epoch.Add(time.Hour))
		if got := standing(t, l, c); got != most {
			t.Errorf("after a sweep: got %d places taken, want %d", got, most)
		}
		held[0].Release()
		held[0].Release() // a second call does nothing
		p, _, err := take()
		if err != nil {
			t.Errorf("after one has ended: %v", err)
		}
		for _, p := range append(held, p) {
			p.Release()
		}
		if got := standing(t, l, c); got != 0 {
			t.Errorf("after all have ended: got %d places taken", got)
		}
		if got := l.RefusedInFlight(); got[ConcurrentRequests] != 1 {
			t.Errorf("got the refusals %v, want 1", got)
		}
		if l.Sweep(epoch.Add(time.Hour)); l.Len() != 0 {
			t.Errorf("after a sweep: got %d ids in memory", l.Len())
		}
	}
}

// TestLimiter_TakePlaces_all takes places of a key and its owner. If one limit refuses, no place of the
// other is taken.
func TestLimiter_TakePlaces_all(t *testing.T) {
	l := NewLimiter(newTestStore(t), epoch)
	key, owner := placeIn("a", ConcurrentRequests, 2), placeIn("owner_1", OwnerConcurrentRequests, 1)
	owner.Shared = true
	for _, list := range [][]Charge{{key, owner}, {owner, key}} {
		var first, second Places
		if _, err := l.TakePlaces(&first, CountedID{ID: "a"}, list, epoch); err != nil {
			t.Fatal(err)
		}
		_, err := l.TakePlaces(&second, CountedID{ID: "a"}, list, epoch)
		if err == nil || !strings.Contains(Public(err).Message, "owner_concurrent_requests of 1 requests in flight, which all keys of its owner share, is reached") {
			t.Errorf("got %v, want the limit of the owner", err)
		}
		if k, o := standing(t, l, key), standing(t, l, owner); k != 1 || o != 1 {
			t.Errorf("after the refusal: got %d and %d places taken, want 1 and 1", k, o)
		}
		second.Release()
		first.Leave(OwnerConcurrentRequests)
		if k, o := standing(t, l, key), standing(t, l, owner); k != 1 || o != 0 {
			t.Errorf("after one was left: got %d and %d places taken, want 1 and 0", k, o)
		}
		first.Release()
		if k := standing(t, l, key); k != 0 {
			t.Errorf("at the end: got %d places taken", k)
		}
	}
}

// TestLimiter_TakePlaces_observe refuses nothing and counts what it would have refused.
func TestLimiter_TakePlaces_observe(t *testing.T) {
	l := NewLimiter(newTestStore(t), epoch)
	c := placeIn("a", "exports", 1)
	c.Observe = true
	var p Places
	for range 3 {
		if _, err := l.TakePlaces(&p, CountedID{ID: "a"}, []Charge{c}, epoch); err != nil {
			t.Fatal(err)
		}
	}
	n, err := l.Observed.Count("a", "exports")
	if err != nil || n != 2 || standing(t, l, c) != 3 || len(l.RefusedInFlight()) != 0 {
		t.Errorf("got %d observed, %v, %d in flight, refused %v; want 2, 3 and none", n, err, standing(t, l, c), l.RefusedInFlight())
	}
	c.Observe, c.Limit.Max = false, 3 // a reload while they run
	if _, err := l.TakePlaces(&Places{}, CountedID{ID: "a"}, []Charge{c}, epoch); err == nil {
		t.Error("got a fourth place of three")
	}
	p.releaseFrom(2)
	if _, err := l.TakePlaces(&p, CountedID{ID: "a"}, []Charge{c}, epoch); err != nil {
		t.Errorf("after one has ended: %v", err)
	}
	if p.Release(); standing(t, l, c) != 0 {
		t.Errorf("at the end: got %d in flight", standing(t, l, c))
	}
}

// TestLimiter_TakePlaces_concurrent has many requests at the same time, while counters are swept and
// limits are charged. There are never more than Max in flight, and none at the end.
func TestLimiter_TakePlaces_concurrent(t *testing.T) {
	const most = 5
	l := NewLimiter(newTestStore(t), epoch)
	owner := placeIn("owner_1", OwnerConcurrentRequests, 2*most)
	ids := []string{"a", "b", "c"}
	var running [3]atomic.Int64
	var together atomic.Int64
	var group sync.WaitGroup
	for n := range 24 {
		i := n % len(ids)
		by, list := CountedID{ID: ids[i], Ref: &CounterRef{}}, []Charge{placeIn(ids[i], ConcurrentRequests, most), owner}
		group.Go(func() {
			for range 300 {
				var p Places
				if _, err := l.TakePlaces(&p, by, list, epoch); err != nil {
					continue
				}
				if mine, all := running[i].Add(1), together.Add(1); mine > most || all > 2*most {
					t.Errorf("got %d of a key and %d of the owner in flight, want at most %d and %d", mine, all, most, 2*most)
				}
				_, _ = l.SpendBy(by, []Limit{{RequestsPerMinute, 1_000_000, time.Minute}}, epoch, nil)
				running[i].Add(-1)
				together.Add(-1)
				p.Release()
			}
		})
	}
	swept := make(chan struct{})
	go func() {
		defer close(swept)
		for range 200 {
			l.Sweep(epoch.Add(time.Hour))
			l.InFlight()
		}
	}()
	group.Wait()
	<-swept
	for name, n := range l.InFlight() {
		if n != 0 {
			t.Errorf("%s: got %d in flight at the end", name, n)
		}
	}
}

// TestLimiter_TakePlaces_allocates holds the places of ordinary requests to no allocation.
func TestLimiter_TakePlaces_allocates(t *testing.T) {
	l := NewLimiter(newTestStore(t), epoch)
	by := CountedID{ID: "a", Ref: &CounterRef{}}
	list := []Charge{placeIn("a", ConcurrentRequests, 64), placeIn("owner_1", OwnerConcurrentRequests, 64)}
	var p Places
	if n := testing.AllocsPerRun(1000, func() {
		if _, err := l.TakePlaces(&p, by, list, epoch); err != nil {
			t.Fatal(err)
		}
		p.Release()
	}); n != 0 {
		t.Errorf("got %v allocations, want none", n)
	}
}
