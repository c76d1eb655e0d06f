package main

import (
	"reflect"
	"testing"
	"time"
)

func one(outcome int, n uint64) (t Tally) {
	t[outcome] = n
	return t
}

// TestRing goes through what a wall clock can do.
func TestRing(t *testing.T) {
	hour := StepHour.Number(epoch)
	var r Ring
	steps := []struct {
		name  string
		at    int64 // hours after epoch
		hours int   // how many hours of the last seven days have anything, as of then
		days  int   // how many days
	}{
		{"first", 0, 1, 1},
		{"same hour", 0, 1, 1},
		{"next hour", 1, 2, 1},
		{"after a gap", 50, 3, 2},
		{"back an hour", 49, 3, 2}, // 50 is not yet
		{"the last of the week", 167, 5, 3},
		{"the first is too old", 168, 5, 3},
		{"a month on", 900, 1, 4},
		{"the year after", 10_000, 1, 1},
		{"the clock is put right", 901, 2, 4},
	}
	for _, s := range steps {
		r.Add(Slot{hour + s.at, one(0, 2)})
		now := epoch.Add(time.Duration(s.at) * time.Hour)
		hours := r.Within(Period{StepHour, StepHour.Kept(), now})
		days := r.Within(Period{StepDay, StepDay.Kept(), now})
		if len(hours) != s.hours || len(days) != s.days {
			t.Errorf("%s: got %d hours and %d days, want %d and %d", s.name, len(hours), len(days), s.hours, s.days)
		}
		if last := hours[len(hours)-1]; !last.Start.Equal(now.Truncate(time.Hour)) {
			t.Errorf("%s: the last hour is %s, want that of %s", s.name, last.Start, now)
		}
		again, err := ReadRing(r.Append(nil))
		if err != nil || !reflect.DeepEqual(again, r) {
			t.Fatalf("%s: stored and read again: got %+v %v, want %+v", s.name, again, err, r)
		}
	}
}

// However long it is used, and however the clock jumps, it has its places and
// no more.
func TestRing_Bounded(t *testing.T) {
	var r Ring
	at := StepHour.Number(epoch)
	for i := range int64(5000) {
		at += []int64{1, 1, 1, 37, -30, 1, 24 * 400, -24 * 400}[i%8]
		r.Add(Slot{at, one(int(i%6), 1<<40)})
	}
	if len(r.hours) > StepHour.Kept() || len(r.days) > StepDay.Kept() {
		t.Errorf("got %d hours and %d days", len(r.hours), len(r.days))
	}
	for i := 1; i < len(r.hours); i++ {
		if r.hours[i-1].At >= r.hours[i].At {
			t.Fatalf("the hours are out of order: %d, %d", r.hours[i-1].At, r.hours[i].At)
		}
	}
	var busy Ring
	for i := range int64(24 * 100) {
		busy.Add(Slot{at + i, one(0, 5000)})
	}
	if size := len(busy.Append(nil)); size > 2048 {
		t.Errorf("a key that is always in use takes %d bytes, want at most 2048", size)
	}
}

func FuzzReadRing(f *testing.F) {
	var r Ring
	r.Add(Slot{StepHour.Number(epoch), Tally{1, 2, 3, 4, 5, 6}})
	f.Add(r.Append(nil))
	f.Add([]byte{ringVersion, 0xff, 0xff, 0xff})
	f.Add([]byte{ringVersion, 1, 2})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ReadRing(b)
		if err == nil && (len(r.hours) > StepHour.Kept() || len(r.days) > StepDay.Kept()) {
			t.Errorf("got %d hours and %d days", len(r.hours), len(r.days))
		}
	})
}
