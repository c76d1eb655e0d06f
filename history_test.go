package main

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

// totals sums up a history.
func totals(t testing.TB, h *History, s Subject, p Period) (hours []Bucket, sum Tally) {
	t.Helper()
	list, err := h.Of(s, p)
	if err != nil {
		t.Fatal(err)
	}
	return list, sumOf(list)
}

func TestHistory_Outcomes(t *testing.T) {
	h := NewHistory(newTestStore(t))
	for status, want := range map[int]int{200: 0, 201: 0, 304: 0, 400: 1, 401: 2, 402: 1, 403: 3, 404: 1, 429: 4, 500: 5, 503: 5} {
		key := fmt.Sprint("key_", status)
		h.Note(key, "/x", "", status, epoch)
		if _, sum := totals(t, h, Subject{OfKey, key}, Period{StepHour, 1, epoch}); sum != one(want, 1) {
			t.Errorf("%d: got %v, want one at %d", status, sum, want)
		}
	}
}

// TestHistory_Restart counts, stores, goes on and opens the store again: no
// request is told of twice or not at all.
func TestHistory_Restart(t *testing.T) {
	store := newTestStore(t)
	h := NewHistory(store)
	key, now := Subject{OfKey, "key_a"}, epoch.Add(59*time.Minute)
	h.Note("key_a", "/x", "", 200, now)
	now = now.Add(time.Minute) // the next hour
	h.Note("key_a", "/x", "rate_limit_exceeded", 429, now)
	h.Note("", "/x", "invalid_key", 401, now)
	check := func(when string, want Tally) {
		t.Helper()
		hours, sum := totals(t, h, key, Period{StepHour, 24, now})
		days, daily := totals(t, h, key, Period{StepDay, 90, now})
		if len(hours) != 2 || len(days) != 1 || sum != want || daily != want {
			t.Errorf("%s: got %v and %v, want %v in two hours and a day", when, hours, days, want)
		}
		service := want
		service[2]++
		if _, sum := totals(t, h, Subject{Kind: OfService}, Period{StepDay, 1, now}); sum != service {
			t.Errorf("%s: the service: got %v, want %v", when, sum, service)
		}
		if _, sum := totals(t, h, Subject{OfRoute, "/x"}, Period{StepDay, 1, now}); sum != service {
			t.Errorf("%s: the route: got %v, want %v", when, sum, service)
		}
		if _, sum := totals(t, h, Subject{OfCode, "invalid_key"}, Period{StepHour, 1, now}); sum != one(2, 1) {
			t.Errorf("%s: the code: got %v", when, sum)
		}
	}
	check("in memory", Tally{1, 0, 0, 0, 1, 0})
	for range 2 { // the second has nothing to store
		if err := h.Flush(); err != nil {
			t.Fatal(err)
		}
		check("stored", Tally{1, 0, 0, 0, 1, 0})
	}
	h.Note("key_a", "/x", "", 200, now)
	check("stored and in memory", Tally{2, 0, 0, 0, 1, 0})
	h.Note("key_a", "/x", "", 200, now.Add(-time.Hour)) // the clock went back
	if err := h.Flush(); err != nil {
		t.Fatal(err)
	}
	h = NewHistory(reopen(t, store))
	check("opened again", Tally{3, 0, 0, 0, 1, 0})
	names := []string{}
	err := h.All(OfKey, Period{StepHour, 24, now}, func(name string, _ []Bucket) error {
		names = append(names, name)
		return nil
	})
	if err != nil || fmt.Sprint(names) != "[key_a]" {
		t.Errorf("got %v %v", names, err)
	}
}

// TestHistory_Many has more keys than one transaction stores, and forgets them
// when their time is over.
func TestHistory_Many(t *testing.T) {
	h := NewHistory(newTestStore(t))
	const many = flushPart + 500
	for i := range many {
		h.Note(fmt.Sprintf("key_%05d", i), "/x", "", 200, epoch)
	}
	if err := h.Flush(); err != nil {
		t.Fatal(err)
	}
	h.Note("key_0", "/x", "", 200, epoch) // before all others, and in memory alone
	h.Note("key_9", "/x", "", 200, epoch) // after them
	before, count := "", 0
	all := func(now time.Time) {
		before, count = "", 0
		err := h.All(OfKey, Period{StepDay, 90, now}, func(name string, list []Bucket) error {
			if count++; name <= before || len(list) != 1 {
				t.Errorf("%q comes after %q with %v", name, before, list)
			}
			before = name
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if all(epoch); count != many+2 {
		t.Errorf("got %d keys, want %d", count, many+2)
	}
	if err := h.Flush(); err != nil {
		t.Fatal(err)
	}
	sweep := func(now time.Time) (left int) {
		for range many/maxSwept + 2 {
			if err := h.Sweep(now); err != nil {
				t.Fatal(err)
			}
		}
		if err := h.store.View(func(tx *Tx) error { left = tx.Count(usageBucket); return nil }); err != nil {
			t.Fatal(err)
		}
		return left
	}
	if left := sweep(epoch.Add(89 * 24 * time.Hour)); left != many+4 {
		t.Errorf("after 89 days: got %d, want all", left)
	}
	late := epoch.Add(91 * 24 * time.Hour)
	h.Note("key_00007", "/x", "", 200, late)
	if err := h.Flush(); err != nil {
		t.Fatal(err)
	}
	if left := sweep(late); left != 3 {
		t.Errorf("after 91 days: got %d, want the one key, its route and the service", left)
	}
}

// A history that cannot be read is begun anew, and the others are stored.
func TestHistory_Damaged(t *testing.T) {
	h := NewHistory(newTestStore(t))
	bad := Subject{OfKey, "key_bad"}
	if err := h.store.Update(func(tx *Tx) error { return tx.Put(usageBucket, bad.key(), []byte{9}) }); err != nil {
		t.Fatal(err)
	}
	h.Note("key_bad", "/x", "", 200, epoch)
	h.Note("key_good", "/x", "", 200, epoch)
	if err := h.Flush(); err == nil || !strings.Contains(err.Error(), "key_bad") {
		t.Errorf("got %v, want it named", err)
	}
	for _, key := range []string{"key_bad", "key_good"} {
		if _, sum := totals(t, h, Subject{OfKey, key}, Period{StepHour, 1, epoch}); sum.Total() != 1 {
			t.Errorf("%s: got %v", key, sum)
		}
	}
}

// Counting, storing and reading at once loses nothing.
func TestHistory_Concurrent(t *testing.T) {
	h := NewHistory(newTestStore(t))
	var counting sync.WaitGroup
	for g := range 4 {
		counting.Go(func() {
			for i := range 500 {
				h.Note(fmt.Sprintf("key_%d", g%2), "/x", "", 200, epoch)
				if i%100 == 0 {
					if err := h.Flush(); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	last := uint64(0)
	for range 50 {
		_, sum := totals(t, h, Subject{Kind: OfService}, Period{StepHour, 1, epoch})
		if sum.Total() < last {
			t.Errorf("got %d after %d", sum.Total(), last)
		}
		last = sum.Total()
	}
	counting.Wait()
	if _, sum := totals(t, h, Subject{OfKey, "key_1"}, Period{StepHour, 1, epoch}); sum.Total() != 1000 {
		t.Errorf("got %d, want 1000", sum.Total())
	}
}

// Counting takes no memory of its own.
func TestHistory_Allocations(t *testing.T) {
	h := NewHistory(newTestStore(t))
	key := fmt.Sprint("key_", 1)
	if n := testing.AllocsPerRun(1000, func() { h.Note(key, "/x", "not_found", 404, epoch) }); n > 0 {
		t.Errorf("got %v allocations, want none", n)
	}
}
