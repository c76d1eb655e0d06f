package main

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestLimiter_SpendAll holds charges of several ids, limits and costs, short and long
// together, against a plain list of what was let through, over restarts and
// crashes.
func TestLimiter_SpendAll(t *testing.T) {
	s := newTestStore(t)
	runs := 0
	rapid.Check(t, func(rt *rapid.T) {
		runs++
		ids := []string{fmt.Sprint("key_", runs), fmt.Sprint("owner_", runs)}
		l := NewLimiter(s, epoch)
		limits := []Limit{
			{"a", rapid.SampledFrom([]int{1, 5, 60, 1000}).Draw(rt, "a"), time.Minute},
			{"b", rapid.SampledFrom([]int{3, 40}).Draw(rt, "b"), time.Minute / 2},
			{"c", rapid.SampledFrom([]int{2, 30}).Draw(rt, "c"), 2 * time.Hour},
		}
		type unit struct {
			at time.Time
			c  Charge
		}
		var passed []unit
		used := func(now time.Time, c Charge) (n int) {
			for _, u := range passed {
				if u.c.ID == c.ID && u.c.Limit == c.Limit && now.Sub(u.at) < c.Limit.Window {
					n += u.c.Cost
				}
			}
			return n
		}
		now, crashed := epoch, false
		for range rapid.IntRange(1, 30).Draw(rt, "steps") {
			now = now.Add(time.Duration(rapid.SampledFrom([]int{0, 1, 10, 29, 31, 61, 3600}).Draw(rt, "pass")) * time.Second)
			step := rapid.IntRange(0, 20).Draw(rt, "step")
			if step < 2 { // of a run that is over nothing may be on its way to the store
				if err := s.Update(func(*Tx) error { return nil }); err != nil {
					rt.Fatal(err)
				}
			}
			if step == 0 {
				if err := l.Close(); err != nil {
					rt.Fatal(err)
				}
				l = NewLimiter(s, now)
			} else if step == 1 {
				l, crashed = NewLimiter(s, now), true
			}
			var list []Charge
			for range rapid.IntRange(1, 4).Draw(rt, "charges") {
				list = append(list, Charge{
					ID:      rapid.SampledFrom(ids).Draw(rt, "id"),
					Limit:   rapid.SampledFrom(limits).Draw(rt, "limit"),
					Cost:    rapid.SampledFrom([]int{0, 1, 1, 2, 5, 60, 900}).Draw(rt, "cost"),
					Observe: rapid.IntRange(0, 5).Draw(rt, "observe") == 0,
				})
			}
			var paid []unit
			fits, cost := true, map[string]int{}
			for _, c := range list {
				of := c.ID + c.Limit.Name
				cost[of] += c.Cost
				room := c.Cost == 0 || used(now, c)+cost[of] <= c.Limit.Max
				fits = fits && (room || c.Observe)
				if room {
					paid = append(paid, unit{now, c})
				}
				if c.Observe && (!room || crashed) { // it is left out, and takes nothing from those after it; after a crash it may be
					cost[of] -= c.Cost
				}
			}
			got, err := l.SpendAll(list, now, nil)
			if err != nil && !errors.Is(err, ErrRateLimit) {
				rt.Fatal(err)
			}
			if err == nil && !fits || err != nil && fits && !crashed {
				rt.Fatalf("%+v: got %v, want room %v", list, err, fits)
			}
			if err == nil && !crashed {
				passed = append(passed, paid...)
			} else if err == nil {
				for _, u := range paid { // after a crash an observed limit may have had less room
					if !u.c.Observe {
						passed = append(passed, u)
					}
				}
			}
			if !crashed && err == nil {
				for _, s := range got {
					if s.Used > s.Limit.Max {
						rt.Fatalf("%s: got %d used of %d", s.Limit.Name, s.Used, s.Limit.Max)
					}
				}
			}
			for _, id := range ids {
				list, err := l.Statuses(charges(id, 0, limits...), now)
				if err != nil {
					rt.Fatal(err)
				}
				for i, limit := range limits {
					c := Charge{ID: id, Limit: limit}
					if got, want := list[i].Used, used(now, c); got < want || got > want && !crashed {
						rt.Fatalf("%s of %s: got %d used, want %d", limit.Name, id, got, want)
					}
				}
			}
		}
	})
}

// Clients pay a short and a long limit of a key of their own and of an owner at
// once; of what is counted nothing may be missing and nothing too much.
func TestLimiter_SpendAllConcurrently(t *testing.T) {
	s := newTestStore(t)
	l := NewLimiter(s, epoch)
	short, long := Limit{"short", 40, time.Minute}, Limit{"long", 25, 24 * time.Hour}
	var passed, asked atomic.Int64
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			key := fmt.Sprint("key_", worker%4)
			for n := range 10 {
				list := []Charge{{ID: "owner_1", Limit: short, Cost: 1}, {ID: key, Limit: short, Cost: 1}}
				if n%2 == 0 { // those of the other order too
					list = []Charge{{ID: key, Limit: long, Cost: 1}, {ID: "owner_1", Limit: long, Cost: 1}, list[1], list[0]}
				}
				_, err := l.SpendAll(list, epoch, nil)
				if err == nil {
					passed.Add(1)
				} else if !errors.Is(err, ErrRateLimit) {
					t.Error(err)
				}
				asked.Add(1)
			}
		})
	}
	wg.Wait()
	list, err := l.Statuses(append(charges("owner_1", 0, short, long), charges("key_0", 0, short)...), epoch)
	if err != nil {
		t.Fatal(err)
	}
	if passed.Load() != 40 || list[0].Used != 40 || list[1].Used > 25 {
		t.Errorf("of %d got %d through, %d and %d used; want 40, 40 and at most 25", asked.Load(), passed.Load(), list[0].Used, list[1].Used)
	}
}

// TestLimiter_OneMoment has a request that read the time before others did and is
// charged after them: all its units count from one moment.
func TestLimiter_OneMoment(t *testing.T) {
	own := Limit{"own", 5, time.Minute}
	for _, tt := range []struct {
		name string
		pay  func(l *Limiter, id string, now time.Time) error
	}{
		{"Pay", func(l *Limiter, id string, now time.Time) error {
			_, err := l.SpendAll([]Charge{{ID: id, Limit: own, Cost: 1}, {ID: "owner", Limit: own, Cost: 1}}, now, nil)
			return err
		}},
		{"Pay with a long limit", func(l *Limiter, id string, now time.Time) error {
			_, err := l.SpendAll([]Charge{{ID: id, Limit: own, Cost: 1}, {ID: "owner", Limit: own, Cost: 1}, {ID: id, Limit: Limit{"long", 5, 24 * time.Hour}, Cost: 1}}, now, nil)
			return err
		}},
		{"Spend", func(l *Limiter, id string, now time.Time) error {
			limits := []Limit{own, {"owner", 5, time.Minute}}
			if id == "late" {
				if _, err := l.Spend(id, limits[1:], epoch.Add(58*time.Second), nil); err != nil {
					return err
				}
			}
			_, err := l.Spend(id, limits, now, nil)
			return err
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := NewLimiter(newTestStore(t), epoch)
			if err := tt.pay(l, "early", epoch.Add(58*time.Second)); err != nil {
				t.Fatal(err)
			}
			if err := tt.pay(l, "late", epoch); err != nil {
				t.Fatal(err)
			}
			list, err := l.Statuses([]Charge{{ID: "late", Limit: own}}, epoch.Add(61*time.Second))
			if err != nil || list[0].Remaining() != 4 {
				t.Errorf("got %+v, %v, want the unit to count as long as the other of its request", list, err)
			}
		})
	}
}

// TestLimiter_SpendAllAgain has the transaction of a payment run twice, because
// another change in it fails after it wrote something. By then somebody else has
// the room for whom there was none before, or nobody.
func TestLimiter_SpendAllAgain(t *testing.T) {
	for _, tt := range []struct {
		name     string
		rival    bool
		want     error
		used, of int
	}{
		{"there is room again", false, nil, 2, 2},
		{"a rival has it", true, ErrRateLimit, 1, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newTestStore(t)
			l := NewLimiter(s, epoch)
			short, long := Limit{"short", 100, time.Minute}, Limit{"long", 2, 24 * time.Hour}
			if _, err := l.SpendAll(charges("a", 1, short, long), epoch, nil); err != nil {
				t.Fatal(err)
			}
			hold, held := make(chan bool), make(chan bool)
			holds := sync.OnceFunc(func() { close(held) }) // it may run twice, like the others
			go func() { _ = s.Update(func(*Tx) error { holds(); <-hold; return nil }) }()
			<-held // what is queued from here on shares the next transaction
			tries := 0
			s.Queue(func(tx *Tx) error {
				if tries++; tt.rival && tries > 1 {
					_, err := l.SpendIn(tx, charges("a", 1, long), epoch)
					return err
				}
				return nil
			}, func(error) {})
			var got error
			paid := make(chan bool)
			go func() {
				_, got = l.SpendAll(charges("a", 1, short, long), epoch, nil)
				close(paid)
			}()
			for queued := 0; queued < 2; runtime.Gosched() {
				s.mu.Lock()
				queued = s.queue.length
				s.mu.Unlock()
			}
			s.Queue(func(tx *Tx) error {
				for range maxUndo + 1 { // too many to undo, so that the others run again
					if err := tx.PutRaw("x", []byte("x"), []byte("x")); err != nil {
						return err
					}
				}
				return errors.New("boom")
			}, func(error) {})
			close(hold)
			<-paid
			if !errors.Is(got, tt.want) || tries != 2 {
				t.Errorf("got %v in %d tries, want %v in 2", got, tries, tt.want)
			}
			list, err := l.Statuses(charges("a", 0, short, long), epoch)
			if err != nil || list[0].Used != tt.used || list[1].Used != tt.of {
				t.Errorf("got %d and %d used, %v; want %d and %d", list[0].Used, list[1].Used, err, tt.used, tt.of)
			}
		})
	}
}

// A limit that is only observed lets everything through, and counts what it
// would have refused.
func TestObservations(t *testing.T) {
	a := newCallApp(t, func(c *Config) {
		c.Observed = []string{RequestsPerMinute, OwnerCallsPerDay}
		c.Limit.OwnerCallsPerDay = 2
	})
	id, secret := a.key(everyPermission, `"limits": {"requests_per_minute_limit": 2}`)
	of := func() (minute, calls, all string) {
		usage := a.operate(200, "GET", "/admin/v1/keys/"+id+"/usage", "")["usage"].(map[string]any)
		for _, row := range a.operate(200, "GET", "/admin/v1/limits", "")["limits"].([]any) {
			l := row.(map[string]any)
			all += fmt.Sprint(l["would_refuse"], " ")
		}
		show := func(name string) string {
			u := usage[name].(map[string]any)
			return fmt.Sprint(u["observe"], u["used"], u["would_refuse"])
		}
		return show(RequestsPerMinute), show(OwnerCallsPerDay), all
	}
	for n := range 5 {
		w := a.ask("POST", "/api/v1/calls", secret, `{"phone_number": "+4930555044", "agent_id": 1}`)
		if w.Code != 201 || w.Header().Get("RateLimit-Policy") != `"calls_per_day";q=100;w=86400` || w.Header().Get("X-RateLimit-Limit") != "100" {
			t.Fatalf("request %d: got %d %s %v, want it let through and the header fields without what is observed", n, w.Code, w.Body, w.Header())
		}
	}
	const want = "true 2 3|true 2 3|3 0 0 0 3 0 0 0 0 0 "
	seen := func() string { m, c, all := of(); return m + "|" + c + "|" + all }
	if got := seen(); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := strings.Count(a.log.String(), `"limit":"requests_per_minute_limit"`); got != 1 {
		t.Errorf("got %d lines in the log, want 1", got)
	}
	a.restart()
	if got := seen(); got != want {
		t.Errorf("after a restart: got %s, want %s", got, want)
	}
	a.clocks.Pass(time.Minute)
	for range 3 {
		a.ask("GET", "/api/v1/agents", secret, "")
	}
	if m, _, _ := of(); m != "true 2 4" {
		t.Errorf("a minute later: got %s, want 4", m)
	}
	if got := strings.Count(a.log.String(), `"limit":"requests_per_minute_limit"`); got != 2 {
		t.Errorf("got %d lines in the log, want 2", got)
	}
}

// TestObservations_NotStored has the write of a count fail: Flush returns the error, and the next one stores what has been
// counted.
func TestObservations_NotStored(t *testing.T) {
	c := Charge{ID: "a", Limit: Limit{"few", 1, time.Minute}, Cost: 1, Observe: true}
	for _, id := range []string{"a", ""} {
		key := string(counterKey(id, "few"))
		o := newDryRunCounts(newTestStore(t))
		if err := o.store.Update(func(tx *Tx) error {
			return errors.Join(blockKey(tx, "observed", key), tx.Put("other", []byte("x"), nil))
		}); err != nil {
			t.Fatal(err)
		}
		want := func(when string, n uint64) {
			t.Helper()
			for _, of := range []string{"a", ""} {
				if got, err := o.Count(of, "few"); got != n || err != nil {
					t.Errorf("%q cannot be written, %s: got the count %d of %q, %v; want %d", id, when, got, of, err, n)
				}
			}
		}
		for n := range uint64(2) {
			o.Note(c, epoch)
			if err := o.Flush(epoch); err == nil {
				t.Errorf("%q cannot be written: Flush gives no error", id)
			}
			want("after a Flush", n+1)
		}
		if err := o.store.Update(func(tx *Tx) error {
			return errors.Join(tx.Bolt.Bucket([]byte("observed")).DeleteBucket([]byte(key)), tx.Put("other", []byte("x"), nil))
		}); err != nil {
			t.Fatal(err)
		}
		if err := o.Flush(epoch); err != nil {
			t.Fatal(err)
		}
		o = newDryRunCounts(o.store)
		want("when it can be again", 2)
	}
}
