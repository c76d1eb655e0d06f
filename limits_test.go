package main

import (
	"errors"
	"log/slog"
	"strconv"
	"strings"
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
	list, err := l.Statuses(charges("a", 0, perMinute, few), epoch)
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
			if _, err := l.SpendIn(tx, charges("a", 1, daily), now); err != nil {
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
	list, err := l.Statuses(charges("a", 0, daily), epoch.Add(24*time.Hour))
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
			n += len(l.shards[i].counters)
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
	into := make([]LimitStatus, 0, 2)
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
			if _, err := l.SpendIn(tx, charges("a", n, limit), epoch); err != nil {
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
		list, err := l.Statuses(charges("a", 0, limit), epoch)
		if err != nil || list[0].Used != step.used {
			t.Errorf("after %d units: got %d used, %v; want %d", step.n, list[0].Used, err, step.used)
		}
	}
}

// within fails the test when something has not ended after a minute.
func within(t *testing.T, what string, run func() error) error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- run() }()
	select {
	case err := <-done:
		return err
	case <-time.After(time.Minute):
		t.Fatalf("%s: goes on for ever", what)
		return nil
	}
}

// A store that is closing refuses what needs more reserve, and what is to be
// stored; nobody waits for it.
func TestLimiter_ClosingStore(t *testing.T) {
	few, day := Limit{"few", 1, time.Minute}, Limit{CallsPerDay, 5, 24 * time.Hour}
	for name, use := range map[string]func(l *Limiter, now time.Time) error{
		"one limit": func(l *Limiter, now time.Time) error { _, err := l.Spend("a", []Limit{few}, now, nil); return err },
		"two limits": func(l *Limiter, now time.Time) error {
			_, err := l.Spend("a", []Limit{few, perMinute}, now, nil)
			return err
		},
		"two ids": func(l *Limiter, now time.Time) error {
			_, err := l.SpendAll(append(charges("a", 1, few), charges("b", 1, few)...), now, nil)
			return err
		},
		"a long limit": func(l *Limiter, now time.Time) error {
			_, err := l.SpendAll(charges("a", 1, day), now, nil)
			return err
		},
		"a long limit in a transaction": func(l *Limiter, now time.Time) error {
			return l.store.Update(func(tx *Tx) error { _, err := l.SpendIn(tx, charges("a", 1, day), now); return err })
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := NewLimiter(newTestStore(t), epoch)
			if err := use(l, epoch); err != nil {
				t.Fatal(err)
			}
			refuseWrites(t, l.store)
			for range 2 {
				if err := within(t, "the request", func() error { return use(l, epoch.Add(time.Hour)) }); !errors.Is(err, ErrUnavailable) {
					t.Errorf("got %v, want ErrUnavailable", err)
				}
			}
			unlocked(t, l)
		})
	}
}

// With two limits the one that is full refuses, in whichever place it is, and a
// store that has failed refuses all, whatever there is in memory.
func TestLimiter_Refusals(t *testing.T) {
	few, day := Limit{"few", 1, time.Minute}, Limit{CallsPerDay, 5, 24 * time.Hour}
	for name, limits := range map[string][]Limit{"first": {few, perMinute}, "second": {perMinute, few}, "with a long one": {few, day}, "after a long one": {day, few}} {
		l := NewLimiter(newTestStore(t), epoch)
		ask := func() (err error) {
			if limits[0].Short() && limits[1].Short() {
				_, err = l.Spend("a", limits, epoch, nil)
				return err
			}
			_, err = l.SpendAll(charges("a", 1, limits...), epoch, nil)
			return err
		}
		for i, want := range []error{nil, ErrRateLimit, ErrRateLimit} {
			if err := ask(); !errors.Is(err, want) {
				t.Errorf("%s, request %d: got %v, want %v", name, i, err, want)
			}
		}
		l.store.fail(errors.New("disk gone"))
		if err := ask(); !errors.Is(err, ErrUnavailable) {
			t.Errorf("%s: got %v of a failed store, want ErrUnavailable", name, err)
		}
		if _, err := l.SpendAll(charges("a", 1, perMinute), epoch, nil); !errors.Is(err, ErrUnavailable) {
			t.Errorf("%s: got %v of a failed store for a counter in memory, want ErrUnavailable", name, err)
		}
		unlocked(t, l)
	}
}

// TestLimiter_RefusalWithoutWrite asks for more than a long limit has while another change is being written: the refusal does
// not wait for it.
func TestLimiter_RefusalWithoutWrite(t *testing.T) {
	day := Limit{CallsPerDay, 1, 24 * time.Hour}
	l := NewLimiter(newTestStore(t), epoch)
	if _, err := l.SpendAll(charges("a", 1, day), epoch, nil); err != nil {
		t.Fatal(err)
	}
	begun, release, stored := make(chan bool), make(chan bool), make(chan error)
	go func() {
		stored <- l.store.Update(func(*Tx) error {
			close(begun)
			<-release
			return nil
		})
	}()
	<-begun
	free := sync.OnceFunc(func() { close(release) })
	defer free()
	if err := within(t, "the refusal", func() error { _, err := l.SpendAll(charges("a", 1, day), epoch, nil); return err }); !errors.Is(err, ErrRateLimit) {
		t.Errorf("got %v, want ErrRateLimit", err)
	}
	free()
	if err := <-stored; err != nil {
		t.Error(err)
	}
}

// unlocked checks that nothing of a limiter is held any more.
func unlocked(t *testing.T, l *Limiter) {
	t.Helper()
	for i := range l.shards {
		for id, m := range l.shards[i].counters {
			if !m.TryLock() {
				t.Fatalf("the counters of %s are locked", id)
			}
			m.Unlock()
		}
	}
}

// A counter whose record cannot be read is an error each time, of everything
// that needs it, and leaves the others as they are.
func TestLimiter_DamagedRecords(t *testing.T) {
	short, other, day := Limit{"short", 10, time.Minute}, Limit{"other", 10, time.Minute}, Limit{CallsPerDay, 10, 24 * time.Hour}
	uses := map[string]struct {
		bucket string
		use    func(l *Limiter) error
	}{
		"one limit":  {"meters", func(l *Limiter) error { _, err := l.Spend("b", []Limit{short}, epoch, nil); return err }},
		"two limits": {"meters", func(l *Limiter) error { _, err := l.Spend("b", []Limit{other, short}, epoch, nil); return err }},
		"two ids": {"meters", func(l *Limiter) error {
			_, err := l.SpendAll(append(charges("a", 1, short), charges("b", 1, short)...), epoch, nil)
			return err
		}},
		"short and long": {"meters", func(l *Limiter) error { _, err := l.SpendAll(charges("b", 1, day, short), epoch, nil); return err }},
		"a look":         {"meters", func(l *Limiter) error { _, err := l.Statuses(charges("b", 0, short), epoch); return err }},
		"a long limit":   {"quotas", func(l *Limiter) error { _, err := l.SpendAll(charges("b", 1, day), epoch, nil); return err }},
		"long and short": {"quotas", func(l *Limiter) error { _, err := l.SpendAll(charges("b", 1, short, day), epoch, nil); return err }},
		"a long one in tx": {"quotas", func(l *Limiter) error {
			return l.store.Update(func(tx *Tx) error { _, err := l.SpendIn(tx, charges("b", 1, day), epoch); return err })
		}},
		"a look at a long one": {"quotas", func(l *Limiter) error { _, err := l.Statuses(charges("b", 0, day), epoch); return err }},
	}
	for name, tt := range uses {
		for what, record := range map[string][]byte{
			"no reserve": {}, "half a reserve": {0x80}, "no time": {1}, "half a time": {1, 0x80}, "no window": {1, 2}, "half a window": {1, 2, 1}, "a window without its mark": {1, 2, 1, 2},
		} {
			if tt.bucket == "quotas" && what != "no reserve" && what != "half a reserve" && what != "half a time" {
				continue // windows of their own, or whole ones
			}
			t.Run(name+", "+what, func(t *testing.T) {
				l := NewLimiter(newTestStore(t), epoch)
				limit := map[string]string{"meters": short.Name, "quotas": day.Name}[tt.bucket]
				if err := l.store.Update(func(tx *Tx) error { return tx.Put(tt.bucket, counterKey("b", limit), record) }); err != nil {
					t.Fatal(err)
				}
				for range 2 {
					if err := tt.use(l); !errors.Is(err, errWindow) {
						t.Fatalf("got %v, want ErrWindow", err)
					}
					unlocked(t, l)
				}
				list, err := l.Statuses(charges("a", 0, short, day), epoch)
				if err != nil || list[0].Used != 0 || list[1].Used != 0 {
					t.Errorf("got %+v, %v; want nothing charged", list, err)
				}
			})
		}
	}
}

// Close tells that the counts could not be stored: those of limits, and those of
// limits that are only observed.
func TestLimiter_CloseFails(t *testing.T) {
	observed := charges("a", 1, Limit{"few", 1, time.Minute})
	observed[0].Observe = true
	for name, use := range map[string]func(l *Limiter) error{
		"counts": func(l *Limiter) error { _, err := spend(l, "a", []Limit{perMinute}, epoch); return err },
		"observations": func(l *Limiter) error {
			l.Observed.Note(observed[0], epoch)
			return nil
		},
	} {
		l := NewLimiter(newTestStore(t), epoch)
		if err := use(l); err != nil {
			t.Fatal(err)
		}
		refuseWrites(t, l.store)
		if err := l.Close(); !errors.Is(err, ErrUnavailable) {
			t.Errorf("%s: got %v, want ErrUnavailable", name, err)
		}
	}
}

// TestLimiter_SpanBounds uses a limit up at once: the unit is back after the
// span and not before, whichever way the limit is counted.
func TestLimiter_SpanBounds(t *testing.T) {
	for _, span := range []time.Duration{time.Second, time.Hour - 1, time.Hour, 24 * time.Hour} {
		limit := Limit{"x", 2, span}
		if short := limit.Short(); short != (span < time.Hour) {
			t.Errorf("%s: got short %t", span, short)
		}
		l := NewLimiter(newTestStore(t), epoch)
		for _, step := range []struct {
			cost int
			at   time.Duration
			want error
			wait time.Duration
		}{
			{3, 0, ErrRateLimit, 0}, {2, 0, nil, 0}, {0, 0, nil, 0}, {1, 0, ErrRateLimit, span}, {2, 1, ErrRateLimit, max(time.Second, span-1)},
			{1, span - 1, ErrRateLimit, time.Second}, {2, span, nil, 0}, {1, span, ErrRateLimit, span},
		} {
			_, err := l.SpendAll(charges("a", step.cost, limit), epoch.Add(step.at), nil)
			if !errors.Is(err, step.want) || step.want != nil && Public(err).RetryAfter != step.wait {
				t.Errorf("%s: %d after %s: got %v, want %v and a wait of %s", span, step.cost, step.at, err, step.want, step.wait)
			}
		}
	}
}

// The log tells of an observed limit once in a minute for each id.
func TestObservations_LogBounds(t *testing.T) {
	o, log := newDryRunCounts(newTestStore(t)), &lockedBuffer{}
	o.LogTo(slog.New(slog.NewTextHandler(log, nil)))
	c := Charge{ID: "a", Limit: Limit{"few", 1, time.Minute}, Cost: 1, Observe: true}
	for i, step := range []struct {
		at    time.Duration
		lines int
	}{{0, 1}, {observedAgain - 1, 1}, {observedAgain, 2}, {2*observedAgain - 1, 2}, {2 * observedAgain, 3}} {
		o.Note(c, epoch.Add(step.at))
		if got := strings.Count(log.String(), "\n"); got != step.lines {
			t.Errorf("step %d: got %d lines, want %d", i, got, step.lines)
		}
		if err := o.Flush(epoch.Add(step.at)); err != nil { // forgets the lines that are old enough
			t.Fatal(err)
		}
	}
	if n, err := o.Count("a", "few"); n != 5 || err != nil {
		t.Errorf("got %d, %v; want 5", n, err)
	}
}

// A stored number that is damaged is an error, and is not counted anew from 0.
func TestObservations_Damaged(t *testing.T) {
	o := newDryRunCounts(newTestStore(t))
	c := Charge{ID: "a", Limit: Limit{"few", 1, time.Minute}, Cost: 1, Observe: true}
	for _, damaged := range []bool{false, true} {
		err := o.store.Update(func(tx *Tx) error { return tx.Put("observed", counterKey("a", "few"), []byte{0x80}) })
		if err != nil {
			t.Fatal(err)
		}
		if damaged {
			damageRecords(t, o.store, "observed")
		}
		if n, err := o.Count("a", "few"); err == nil {
			t.Errorf("Count gives %d, want an error", n)
		}
		o.Note(c, epoch)
		if err := o.Flush(epoch); err == nil {
			t.Error("Flush gives no error")
		}
	}
}

// TestGauge_Bounds looks at a reserve at both sides of what it is good for.
func TestGauge_Bounds(t *testing.T) {
	const span = time.Minute
	fresh := func() *counter {
		g, err := readGauge(nil, Limit{"x", 80, span}, epoch)
		if err != nil {
			t.Fatal(err)
		}
		if g.Final() != nil || g.Left(epoch) != 0 {
			t.Errorf("unused: got a record to store, or %d units of reserve", g.Left(epoch))
		}
		plan, _ := g.Grow(epoch)
		g.Grown(plan)
		return g
	}
	g := fresh()
	for at, want := range map[time.Duration]int{0: 10, span: 10, span + 1: 0} {
		if got := g.Left(epoch.Add(at)); got != want {
			t.Errorf("after %s: got %d units of reserve, want %d", at, got, want)
		}
	}
	for at, want := range map[time.Duration]bool{2*span - 1: true, 2 * span: false} {
		if got := fresh().Busy(epoch.Add(at)); got != want {
			t.Errorf("after %s: got busy %t, want %t", at, got, want)
		}
	}
	for units, want := range map[int]bool{4: false, 5: true} {
		if _, low := fresh().Use(units, epoch); low != want {
			t.Errorf("%d of 10 used: got low %t, want %t", units, low, want)
		}
	}
	for at, want := range map[time.Duration]bool{span / 2: false, span/2 + 1: true} {
		if _, low := fresh().Use(1, epoch.Add(at)); low != want {
			t.Errorf("used after %s: got low %t, want %t", at, low, want)
		}
	}
	for most := 1; most <= 40; most++ { // up to the last unit, a larger reserve is requested in time
		g, err := readGauge(nil, Limit{"x", most, span}, epoch)
		if err != nil {
			t.Fatal(err)
		}
		for used := 1; used <= most; used++ {
			if g.Left(epoch) == 0 {
				plan, _ := g.Grow(epoch)
				g.Grown(plan)
			}
			if _, low := g.Use(1, epoch); low != (used < most && g.reserve <= g.granted/2) {
				t.Errorf("%d of %d used, a reserve of %d of %d: got low %t", used, most, g.reserve, g.granted, low)
			}
		}
	}
	if g.Final() == nil || g.Final() != nil {
		t.Error("want a record that gives the reserve up, once")
	}
	if g.Use(1, epoch); g.Final() == nil {
		t.Error("want a record of what was used since")
	}
}

// A refusal names what is asked for, and a time only when waiting helps.
func TestCharge_Refused(t *testing.T) {
	for _, tt := range []struct {
		cost   int
		shared bool
		says   string
		wait   time.Duration
	}{
		{1, false, "The limit few of 5 is reached. Wait for the time in Retry-After.", time.Minute},
		{1, true, "The limit few of 5, which all keys of its owner share, is reached. Wait for the time in Retry-After.", time.Minute},
		{2, false, "The limit few of 5 does not admit 2 more now. Wait for the time in Retry-After.", time.Minute},
		{5, true, "The limit few of 5, which all keys of its owner share, does not admit 5 more now. Wait for the time in Retry-After.", time.Minute},
		{6, false, "The cost of 6 is more than the limit few of 5, so it is never admitted. Use a lower cost.", 0},
	} {
		c := Charge{ID: "a", Limit: Limit{"few", 5, time.Minute}, Cost: tt.cost, Shared: tt.shared}
		if e := Public(c.Refused(time.Minute)); e.Code != ErrRateLimit.Code || e.Message != tt.says || e.RetryAfter != tt.wait {
			t.Errorf("a cost of %d: got %v and a wait of %s, want %q and %s", tt.cost, e, e.RetryAfter, tt.says, tt.wait)
		}
	}
}
