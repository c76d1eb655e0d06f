package main

import (
	"errors"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var perMinute = Limit{RequestsPerMinute, 60, time.Minute}

func spend(l *Limiter, id string, limits []Limit, now time.Time) (wait time.Duration, err error) {
	_, err = l.Spend(id, limits, now, nil)
	var e *Error
	if errors.As(err, &e) && errors.Is(err, ErrRateLimit) {
		return e.RetryAfter, nil
	}
	return 0, err
}

// charges are charges of one id, with a cost each.
func charges(id string, cost int, limits ...Limit) (list []Charge) {
	for _, limit := range limits {
		list = append(list, Charge{ID: id, Limit: limit, Cost: cost})
	}
	return list
}

func TestLimiter_Spend(t *testing.T) {
	l := NewLimiter(newTestStore(t), epoch)
	for i := range 60 {
		list, err := l.Spend("a", []Limit{perMinute}, epoch.Add(time.Duration(i)*time.Second), nil)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := list[0].Remaining(), 59-i; got != want {
			t.Errorf("request %d: got %d remaining, want %d", i, got, want)
		}
	}
	now := epoch.Add(59500 * time.Millisecond)
	for range 3 { // refusals cost nothing, so the wait stays as it is
		list, err := l.Spend("a", []Limit{perMinute}, now, nil)
		if !errors.Is(err, ErrRateLimit) || Public(err).RetryAfter != time.Second {
			t.Errorf("got %v, want ErrRateLimit and a wait rounded up to a second", err)
		}
		if list[0].Wait != 500*time.Millisecond || list[0].Remaining() != 0 {
			t.Errorf("got wait %s, %d remaining; want 500ms, 0", list[0].Wait, list[0].Remaining())
		}
	}
	if wait, err := spend(l, "b", []Limit{perMinute}, now); wait != 0 || err != nil {
		t.Errorf("another id: got %s, %v", wait, err)
	}
	if wait, err := spend(l, "a", []Limit{perMinute}, epoch.Add(time.Minute)); wait != 0 || err != nil {
		t.Errorf("after the wait: got %s, %v", wait, err)
	}
}

func TestLimiter_AllOrNothing(t *testing.T) {
	l := NewLimiter(newTestStore(t), epoch)
	few := Limit{"few", 2, time.Minute}
	for range 5 {
		_, _ = spend(l, "a", []Limit{perMinute, few}, epoch)
	}
	list, err := l.Standings(charges("a", 0, perMinute, few), epoch)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range list {
		if s.Used != 2 {
			t.Errorf("%s: got %d used, want 2", s.Limit.Name, s.Used)
		}
	}
}

func TestLimiter_Concurrent(t *testing.T) {
	l := NewLimiter(newTestStore(t), epoch)
	for round := range 20 {
		now := epoch.Add(time.Duration(round) * time.Hour)
		var passed atomic.Int64
		var wg sync.WaitGroup
		for range 200 {
			wg.Go(func() {
				if wait, err := spend(l, "a", []Limit{perMinute}, now); err == nil && wait == 0 {
					passed.Add(1)
				} else if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if got := passed.Load(); got != 60 {
			t.Fatalf("round %d: got %d admitted, want 60", round, got)
		}
	}
}

func TestLimiter_CleanRestart(t *testing.T) {
	store := newTestStore(t)
	l := NewLimiter(store, epoch)
	for i := range 40 {
		_, _ = spend(l, "a", []Limit{perMinute}, epoch.Add(time.Duration(i)*time.Second))
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	now := epoch.Add(40 * time.Second)
	l = NewLimiter(reopen(t, store), now)
	passed := 0
	for {
		wait, err := spend(l, "a", []Limit{perMinute}, now)
		if err != nil {
			t.Fatal(err)
		}
		if wait > 0 {
			if wait != 20*time.Second {
				t.Errorf("got a wait of %s, want 20s: the exact times are kept", wait)
			}
			break
		}
		passed++
	}
	if passed != 20 {
		t.Errorf("got %d more, want 20: the reserve is given back", passed)
	}
}

// TestLimiter_Crash drives a limiter and a plain count of what it admitted
// through random loads, pauses and crashes that lose everything in memory.
func TestLimiter_Crash(t *testing.T) {
	store := newTestStore(t)
	runs := 0
	rapid.Check(t, func(rt *rapid.T) {
		runs++
		id := strconv.Itoa(runs)
		limit := Limit{"x", rapid.SampledFrom([]int{1, 2, 5, 9, 60, 1200}).Draw(rt, "limit"), time.Minute}
		now := epoch
		l := NewLimiter(store, now)
		var admitted []time.Time
		lost := 0 // most that crashes may have made count though it was not used
		var crashed time.Time
		for range rapid.IntRange(1, 60).Draw(rt, "steps") {
			now = now.Add(time.Duration(rapid.Int64Range(0, int64(20*time.Second)).Draw(rt, "pause")))
			if rapid.IntRange(0, 8).Draw(rt, "crash") == 0 {
				// What was queued may or may not be on disk; wait for it here so
				// that the old limiter is silent from now on.
				_ = store.Update(func(*Tx) error { return nil })
				l = NewLimiter(store, now)
				lost, crashed = lost+2*max(1, limit.Max/8), now
			}
			if now.Sub(crashed) > 2*limit.Window {
				lost = 0 // all of it has aged out
			}
			for range rapid.IntRange(1, 12).Draw(rt, "burst") {
				used := countSince(admitted, now.Add(-limit.Window))
				wait, err := spend(l, id, []Limit{limit}, now)
				if err != nil {
					rt.Fatal(err)
				}
				if wait == 0 {
					if used >= limit.Max {
						rt.Fatalf("admitted number %d of %d in one span", used+1, limit.Max)
					}
					admitted = append(admitted, now)
				} else if limit.Max <= exactMax && used+lost < limit.Max {
					rt.Fatalf("refused with %d of %d used, %d lost", used, limit.Max, lost)
				}
			}
		}
	})
}

func TestLimiter_Charge(t *testing.T) {
	store := newTestStore(t)
	l := NewLimiter(store, epoch)
	daily := Limit{CallsPerDay, 3, 24 * time.Hour}
	boom := errors.New("boom")
	charge := func(now time.Time, fail error) error {
		return store.Update(func(tx *Tx) error {
			if _, err := l.PayIn(tx, charges("a", 1, daily), now); err != nil {
				return err
			}
			return fail
		})
	}
	for i, step := range []struct {
		at   time.Duration
		fail error
		want error
	}{
		{0, nil, nil}, {time.Hour, nil, nil}, {time.Hour, boom, boom}, {2 * time.Hour, nil, nil},
		{3 * time.Hour, nil, ErrRateLimit}, {24*time.Hour - 1, nil, ErrRateLimit}, {24 * time.Hour, nil, nil}, {24 * time.Hour, nil, ErrRateLimit},
	} {
		if err := charge(epoch.Add(step.at), step.fail); !errors.Is(err, step.want) {
			t.Errorf("step %d: got %v, want %v", i, err, step.want)
		}
	}
	l = NewLimiter(reopen(t, store), epoch)
	list, err := l.Standings(charges("a", 0, daily), epoch.Add(24*time.Hour))
	if err != nil || list[0].Used != 3 || list[0].Next != time.Hour {
		t.Errorf("after a restart: got %+v, %v; want 3 used and the next free in 1h", list, err)
	}
}

func TestLimiter_Sweep(t *testing.T) {
	l := NewLimiter(newTestStore(t), epoch)
	_, _ = spend(l, "a", []Limit{perMinute}, epoch)
	_ = l.store.Update(func(*Tx) error { return nil })
	held := func() (n int) {
		for i := range l.shards {
			n += len(l.shards[i].meters)
		}
		return n
	}
	l.Sweep(epoch.Add(90 * time.Second))
	if held() != 1 {
		t.Error("swept while the reserve on disk still counts")
	}
	l.Sweep(epoch.Add(3 * time.Minute))
	if held() != 0 {
		t.Error("not swept when nothing counts any more")
	}
}

func TestLimiter_StoreFailed(t *testing.T) {
	store := newTestStore(t)
	l := NewLimiter(store, epoch)
	_, _ = spend(l, "a", []Limit{perMinute}, epoch)
	store.fail(errors.New("disk gone"))
	for _, id := range []string{"a", "b"} {
		if _, err := spend(l, id, []Limit{perMinute}, epoch); !errors.Is(err, ErrUnavailable) {
			t.Errorf("id %s: got %v, want ErrUnavailable", id, err)
		}
	}
}

func TestLimiter_Allocations(t *testing.T) {
	l := NewLimiter(newTestStore(t), epoch)
	limits := []Limit{{"x", 1_000_000, time.Minute}}
	into := make([]Standing, 0, 2)
	if _, err := l.Spend("a", limits, epoch, into); err != nil {
		t.Fatal(err)
	}
	if got := testing.AllocsPerRun(1000, func() { _, _ = l.Spend("a", limits, epoch, into) }); got != 0 {
		t.Errorf("got %v allocations for a request, want 0", got)
	}
}

// TestLimiter_PayIn charges in a transaction that fails, and in others.
func TestLimiter_PayIn(t *testing.T) {
	s := newTestStore(t)
	l := NewLimiter(s, epoch)
	limit := Limit{CallsPerDay, 10, 24 * time.Hour}
	charge := func(n int, then error) error {
		return s.Update(func(tx *Tx) error {
			if _, err := l.PayIn(tx, charges("a", n, limit), epoch); err != nil {
				return err
			}
			return then
		})
	}
	broken := errors.New("broken")
	for _, step := range []struct {
		n    int
		then error
		want error
		used int
	}{{4, nil, nil, 4}, {7, nil, ErrRateLimit, 4}, {6, broken, broken, 4}, {6, nil, nil, 10}, {1, nil, ErrRateLimit, 10}} {
		if err := charge(step.n, step.then); !errors.Is(err, step.want) {
			t.Errorf("%d units: got %v, want %v", step.n, err, step.want)
		}
		list, err := l.Standings(charges("a", 0, limit), epoch)
		if err != nil || list[0].Used != step.used {
			t.Errorf("after %d units: got %d used, %v; want %d", step.n, list[0].Used, err, step.used)
		}
	}
}
