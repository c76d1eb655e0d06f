package main

import (
	"sort"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var epoch = time.Date(2026, 2, 3, 9, 0, 0, 0, time.UTC)

// ask is what a limiter does with a window.
func ask(w *Window, now time.Time) (wait time.Duration) {
	if wait = w.Wait(now, 1); wait == 0 {
		w.Add(now, 1)
	}
	return wait
}

func TestWindow_Wait(t *testing.T) {
	w := NewWindow(2, time.Minute)
	for i, step := range []struct {
		at   time.Duration
		want time.Duration
	}{
		{0, 0},
		{10 * time.Second, 0},
		{20 * time.Second, 40 * time.Second},
		{60*time.Second - 1, 1},
		{60 * time.Second, 0},
		{60 * time.Second, 10 * time.Second},
		{30 * time.Second, 40 * time.Second}, // the clock went back: nothing is freed
		{70 * time.Second, 0},
		{200 * time.Second, 0},
	} {
		if got := ask(&w, epoch.Add(step.at)); got != step.want {
			t.Errorf("step %d at %s: got %s, want %s", i, step.at, got, step.want)
		}
	}
}

// TestWindow_RestartInAPart reads a window back in the middle of one of its parts:
// units of the part's last instant, a span before, must count as long as before.
func TestWindow_RestartInAPart(t *testing.T) {
	const limit, span = 1500, 1024 * time.Second // parts of a second
	at := func(d time.Duration) time.Time { return time.Unix(1_000_000, 0).Add(d) }
	for name, again := range map[string]func(w Window) Window{
		"read back": func(w Window) Window {
			w, _, err := readWindow(w.Append(nil), limit, span)
			if err != nil {
				t.Fatal(err)
			}
			return w
		},
		"resized": func(w Window) Window { return w.Resize(limit, span) },
	} {
		w := NewWindow(limit, span)
		w.Add(at(time.Second-1), limit-1) // the last instant of a part
		w.Add(at(span), 1)                // the first of another; they leave a nanosecond before that ends
		w = again(w)
		if used := w.Used(at(span)); used != limit {
			t.Errorf("%s: got %d units at the end of the span, want %d", name, used, limit)
		}
	}
}

// TestWindow_Oracle holds the window against a plain list of everything that
// was ever admitted.
func TestWindow_Oracle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.SampledFrom([]int{1, 2, 3, 7, 60, 1001, 1500}).Draw(t, "limit")
		span := rapid.SampledFrom([]time.Duration{1024, 1000, time.Minute, 7 * time.Second}).Draw(t, "span")
		w := NewWindow(limit, span)
		exact := limit <= exactMax
		slack := (span + parts - 1) / parts // how late a unit may come back above exactMax
		now := epoch
		var admitted []time.Time
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.Int64Range(0, int64(span)/4).Draw(t, "pause")))
			if rapid.IntRange(0, 30).Draw(t, "restart") == 0 {
				again, rest, err := readWindow(w.Append(nil), limit, span)
				if err != nil || len(rest) != 0 {
					t.Fatalf("read back: %v, %d bytes over", err, len(rest))
				}
				w = again
			}
			for range rapid.IntRange(1, limit+1).Draw(t, "burst") {
				inSpan := countSince(admitted, now.Add(-span))
				wait := ask(&w, now)
				if wait == 0 {
					admitted = append(admitted, now)
				}
				if wait == 0 && inSpan >= limit {
					t.Fatalf("admitted number %d of %d in one span", inSpan+1, limit)
				}
				if wait > 0 && inSpan < limit && exact {
					t.Fatalf("refused with %d of %d used", inSpan, limit)
				}
				if wait > 0 && countSince(admitted, now.Add(-span-slack)) < limit {
					t.Fatalf("refused longer than a part of the window after the unit had left it")
				}
			}
		}
	})
}

// countSince counts what of a list, the earliest first, is after a moment.
func countSince(list []time.Time, since time.Time) int {
	return len(list) - sort.Search(len(list), func(i int) bool { return list[i].After(since) })
}

// TestWindow_WaitIsFirstInstant checks that the wait is neither too long nor
// too short by a nanosecond.
func TestWindow_WaitIsFirstInstant(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.SampledFrom([]int{1, 5, 60, 1200}).Draw(t, "limit")
		w := NewWindow(limit, time.Minute)
		now := epoch
		for range limit * 2 {
			now = now.Add(time.Duration(rapid.Int64Range(0, int64(time.Second)).Draw(t, "pause")))
			wait := ask(&w, now)
			if wait == 0 {
				continue
			}
			before, after := w, w
			before.marks = append([]entry(nil), w.marks...)
			after.marks = append([]entry(nil), w.marks...)
			if before.Wait(now.Add(wait-1), 1) == 0 {
				t.Fatalf("it would have passed before the wait of %s", wait)
			}
			if after.Wait(now.Add(wait), 1) != 0 {
				t.Fatalf("it did not pass after the wait of %s", wait)
			}
		}
	})
}

func TestWindow_Resize(t *testing.T) {
	w := NewWindow(60, time.Minute)
	for i := range 60 {
		w.Add(epoch.Add(time.Duration(i)*time.Second), 1)
	}
	now := epoch.Add(59 * time.Second)
	for _, limit := range []int{10, 60, 100, 5000, 60} {
		w = w.Resize(limit, time.Minute)
		if got := w.Used(now); got != 60 {
			t.Errorf("limit %d: got %d used, want 60", limit, got)
		}
		if got, want := w.Wait(now, 1) > 0, limit <= 60; got != want {
			t.Errorf("limit %d: refused is %v, want %v", limit, got, want)
		}
	}
}

func TestWindow_MemoryIsBounded(t *testing.T) {
	for _, limit := range []int{60, 1_000_000} {
		w := NewWindow(limit, time.Minute)
		for i := range 300_000 {
			ask(&w, epoch.Add(time.Duration(i)*3*time.Millisecond))
		}
		if got := cap(w.marks); got > 8*parts {
			t.Errorf("limit %d: room for %d marks, want no more than %d", limit, got, 8*parts)
		}
	}
}

func TestReadWindow_Damaged(t *testing.T) {
	w := NewWindow(60, time.Minute)
	w.Add(epoch, 3)
	good := w.Append(nil)
	for n := range len(good) {
		if _, _, err := readWindow(good[:n], 60, time.Minute); err == nil {
			t.Errorf("the first %d of %d bytes: got no error", n, len(good))
		}
	}
}
