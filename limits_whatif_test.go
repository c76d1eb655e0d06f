package main

import (
	"errors"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// askedAt are times at which a unit is asked for, in order.
type askedAt []time.Time

// refused asks a Limiter for a unit at each of the times, and returns how many it refuses.
func (list askedAt) refused(t rapid.TB, l *Limiter, id string, limit Limit) (n uint64) {
	for _, at := range list {
		_, err := l.Spend(id, []Limit{limit}, at, nil)
		if err != nil && !errors.Is(err, ErrRateLimit) {
			t.Fatal(err)
		}
		if err != nil {
			n++
		}
	}
	return n
}

// replayed replays the cells of the times.
func (list askedAt) replayed(l *Limiter, limit Limit) *Replay {
	r := l.Replay(limit)
	for len(list) > 0 {
		n, cell := 1, CellOf(list[0])
		for n < len(list) && CellOf(list[n]) == cell {
			n++
		}
		r.AskCell(cell, n)
		list = list[n:]
	}
	return r
}

// drawArrivals draws traffic with bursts and pauses, for a limit of most units.
func drawArrivals(t *rapid.T, most int) (list askedAt) {
	at := epoch.Add(time.Duration(rapid.Int64Range(0, int64(time.Minute)).Draw(t, "begin")))
	gap := rapid.OneOf(rapid.Int64Range(0, int64(5*time.Second)), rapid.Int64Range(0, int64(70*time.Second)),
		rapid.SampledFrom([]int64{0, int64(CellSpan), int64(time.Minute), int64(time.Minute) - 1, int64(time.Minute - CellSpan)}))
	for range rapid.IntRange(1, 40).Draw(t, "bursts") {
		at = at.Add(time.Duration(gap.Draw(t, "gap")))
		for range rapid.IntRange(1, max(1, most*2/3)).Draw(t, "units") {
			list = append(list, at)
		}
	}
	return list
}

// TestReplay_Bounds compares what a Limiter refuses with what a Replay says about the same traffic,
// of which it knows only the number in each cell. The limit that refuses nobody does so.
func TestReplay_Bounds(t *testing.T) {
	store, round := newTestStore(t), 0
	l := NewLimiter(store, epoch)
	rapid.Check(t, func(rt *rapid.T) {
		most := rapid.OneOf(rapid.IntRange(1, 12), rapid.IntRange(13, 200), rapid.IntRange(exactMax+1, exactMax+60)).Draw(rt, "limit")
		list := drawArrivals(rt, most)
		limit := Limit{RequestsPerMinute, most, time.Minute}
		id := func() string { round++; return string(IDKey(uint64(round))) }
		r, truth := list.replayed(l, limit), list.refused(rt, l, id(), limit)
		if truth < r.Least || truth > r.Most || r.Asked != uint64(len(list)) {
			rt.Fatalf("limit %d refuses %d of %d; got %d to %d of %d", most, truth, len(list), r.Least, r.Most, r.Asked)
		}
		limit.Max = r.Enough()
		if n := list.refused(rt, l, id(), limit); n > 0 {
			rt.Fatalf("the limit %d, which is to refuse nobody, refuses %d", limit.Max, n)
		}
		if again := list.replayed(l, limit); again.Most > 0 {
			rt.Fatalf("a replay with %d refuses %d", limit.Max, again.Most)
		}
	})
}

// TestReplay_Exact replays units whose times are known: the bounds are what a Limiter refuses, and
// one less than the limit that refuses nobody refuses somebody.
func TestReplay_Exact(t *testing.T) {
	l := NewLimiter(newTestStore(t), epoch)
	rapid.Check(t, func(rt *rapid.T) {
		most := rapid.OneOf(rapid.IntRange(1, 12), rapid.IntRange(exactMax+1, exactMax+60)).Draw(rt, "limit")
		list := drawArrivals(rt, most)
		replay := func(most int) *Replay {
			r := l.Replay(Limit{CallsPerDay, most, time.Minute})
			for _, at := range list {
				r.Ask(at)
			}
			return r
		}
		w, truth := NewWindow(most, time.Minute), uint64(0)
		for _, at := range list {
			if ask(&w, at) > 0 {
				truth++
			}
		}
		r := replay(most)
		if r.Least != truth || r.Most != truth {
			rt.Fatalf("limit %d: got %d to %d, want %d", most, r.Least, r.Most, truth)
		}
		enough := r.Enough()
		if n := replay(enough).Most; n > 0 {
			rt.Fatalf("%d refuses %d", enough, n)
		}
		if enough > 1 && replay(enough-1).Most == 0 {
			rt.Fatalf("%d refuses nobody either", enough-1)
		}
	})
}

// TestReplay_Even has traffic without bursts. The bounds are at most a tenth of the requests apart.
func TestReplay_Even(t *testing.T) {
	l := NewLimiter(newTestStore(t), epoch)
	for _, perMinute := range []int{20, 60, 90, 600, 3000} {
		var list askedAt
		for i := range 10 * perMinute {
			list = append(list, epoch.Add(time.Duration(i)*time.Minute/time.Duration(perMinute)))
		}
		for _, share := range []float64{0.1, 0.5, 0.9, 1, 1.2} {
			limit := Limit{RequestsPerMinute, max(1, int(share*float64(perMinute))), time.Minute}
			r := list.replayed(l, limit)
			if apart := r.Most - r.Least; float64(apart) > 0.1*float64(r.Asked) {
				t.Errorf("%d a minute, limit %d: from %d to %d of %d", perMinute, limit.Max, r.Least, r.Most, r.Asked)
			}
			if share < 1 && r.Least == 0 || share > 1 && r.Least > 0 {
				t.Errorf("%d a minute, limit %d: got at least %d", perMinute, limit.Max, r.Least)
			}
		}
	}
}
