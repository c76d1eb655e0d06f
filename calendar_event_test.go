package main

import (
	"fmt"
	"testing"
	"time"
)

// Events that only touch a range are not in it, whichever of the two indexes has
// them: the longer ones are found by their end.
func TestEventsBetween_Bounds(t *testing.T) {
	s := newTestStore(t)
	from, to := epoch, epoch.Add(48*time.Hour)
	for _, length := range []time.Duration{time.Hour, longEvent - time.Millisecond, longEvent, longEvent + time.Millisecond, 3 * longEvent} {
		for _, tt := range []struct {
			name  string
			start time.Time
			want  int
		}{
			{"ends at the beginning", from.Add(-length), 0},
			{"ends just after the beginning", from.Add(-length + time.Millisecond), 1},
			{"begins just before the end", to.Add(-time.Millisecond), 1},
			{"begins at the end", to, 0},
		} {
			err := s.Update(func(tx *Tx) error {
				_, err := saveEvent(tx, appointment{ID: 1, UUID: "x", Owner: 1, Status: eventScheduled, Start: tt.start, End: tt.start.Add(length)})
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			_ = s.View(func(tx *Tx) error {
				if got := eventsBetween(tx, ScopeKeys(1, 0), from, to); len(got) != tt.want {
					t.Errorf("%s long, %s: got %v, want %d", length, tt.name, got, tt.want)
				}
				return nil
			})
		}
	}
}

// A reminder is due at its time, not before it.
func TestDueReminders_Bounds(t *testing.T) {
	s := newTestStore(t)
	err := s.Update(func(tx *Tx) error {
		_, err := saveEvent(tx, appointment{Owner: 1, Status: eventScheduled, Start: epoch.Add(time.Hour), End: epoch.Add(2 * time.Hour), Remind: true, RemindBefore: 30})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for after, want := range map[time.Duration]int{30*time.Minute - time.Millisecond: 0, 30 * time.Minute: 1, 30*time.Minute + time.Millisecond: 1} {
		_ = s.View(func(tx *Tx) error {
			if got, err := dueReminders(tx, epoch.Add(after), 10); len(got) != want || err != nil {
				t.Errorf("after %s: got %v, %v; want %d", after, got, err, want)
			}
			return nil
		})
	}
}

// A slot may touch the end of its window, the notice and the buffer of an event.
func TestFreeSlots_Bounds(t *testing.T) {
	day := time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC) // a Monday
	at := func(minutes int) time.Time { return day.Add(time.Duration(minutes) * time.Minute) }
	for _, tt := range []struct {
		name           string
		to             int // of the window from 9:00 on
		buffer, notice int
		busy           [2]int // minutes after midnight
		now            time.Time
		want           string
	}{
		{"the window holds two", 10 * 60, 0, 0, [2]int{}, day, "09:00 09:30"},
		{"a minute is missing for the second", 10*60 - 1, 0, 0, [2]int{}, day, "09:00"},
		{"an event that ends as the second begins", 10 * 60, 0, 0, [2]int{540, 570}, day, "09:30"},
		{"an event that ends a minute later", 10 * 60, 0, 0, [2]int{540, 571}, day, ""},
		{"an event that begins as the first ends", 10 * 60, 0, 0, [2]int{570, 600}, day, "09:00"},
		{"an event that begins a minute earlier", 10 * 60, 0, 0, [2]int{569, 600}, day, ""},
		{"the buffer fits", 10 * 60, 15, 0, [2]int{510, 525}, day, "09:00 09:30"},
		{"the buffer lacks a minute", 10 * 60, 15, 0, [2]int{510, 526}, day, "09:30"},
		{"the buffer after the slot fits", 10 * 60, 15, 0, [2]int{615, 630}, day, "09:00 09:30"},
		{"the buffer after the slot lacks a minute", 10 * 60, 15, 0, [2]int{614, 630}, day, "09:00"},
		{"the notice ends as the first begins", 10 * 60, 0, 60, [2]int{}, at(480), "09:00 09:30"},
		{"the notice ends a minute later", 10 * 60, 0, 60, [2]int{}, at(481), "09:30"},
	} {
		s := Schedule{TimeZone: "UTC", Buffer: tt.buffer, Notice: tt.notice}
		s.Windows[time.Monday] = []window24{{9 * 60, tt.to}}
		var busy []span
		if tt.busy[1] > 0 {
			busy = []span{{ID: 1, Start: at(tt.busy[0]), End: at(tt.busy[1])}}
		}
		got := ""
		for _, slot := range freeSlots(s, dateRange{day, day, time.UTC}, 30*time.Minute, busy, tt.now) {
			got += " " + slot.Format("15:04")
		}
		if got != "" {
			got = got[1:]
		}
		if got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestAvailability_Bounds(t *testing.T) {
	a, key := newCalendarApp(t)
	for query, want := range map[string]int{
		"duration=0": 400, "duration=1": 200, "duration=180": 200, "duration=181": 400,
		"start_date=2026-03-01&end_date=2026-05-30": 200, "start_date=2026-03-01&end_date=2026-05-31": 400,
	} {
		if w := a.ask("GET", "/api/v1/calendar/availability?"+query, key, ""); w.Code != want {
			t.Errorf("%s: got %d %s, want %d", query, w.Code, w.Body, want)
		}
	}
}

// Windows of a day may touch, but none is empty, and business hours that only
// touch a window leave nothing of it.
func TestSchedules_Bounds(t *testing.T) {
	a := newTestApp(t)
	for i, tt := range []struct {
		windows string
		want    int
	}{
		{`"09:00-09:00"`, 400}, {`"09:00-09:01"`, 201}, {`"09:00-12:00", "12:00-13:00"`, 201}, {`"09:00-12:00", "11:59-13:00"`, 400},
		{`"00:00-24:00"`, 201}, {`"23:59-24:00"`, 201}, {`"24:00-24:00"`, 400}, {`"09:00-24:01"`, 400},
	} {
		body := fmt.Sprintf(`{"owner": "o%d", "windows": {"monday": [%s]}}`, i, tt.windows)
		if w := a.control("POST", "/admin/v1/schedules", body); w.Code != tt.want {
			t.Errorf("%s: got %d %s, want %d", tt.windows, w.Code, w.Body, tt.want)
		}
	}
	for to, want := range map[int]int{9 * 60: 0, 9*60 + 1: 1} {
		s := Schedule{Business: &hours{}}
		s.Windows[time.Monday], s.Business[time.Monday] = []window24{{9 * 60, 17 * 60}}, []window24{{8 * 60, to}}
		if got := s.Day(time.Monday); len(got) != want {
			t.Errorf("business hours up to %d: got %v, want %d windows", to, got, want)
		}
	}
}

// An owner whose schedule cannot be read gets no second one.
func TestSchedules_DamagedIsNotMissing(t *testing.T) {
	a := newTestApp(t)
	const body = `{"owner": "ann", "time_zone": "Europe/Berlin"}`
	a.operate(201, "POST", "/admin/v1/schedules", body)
	for _, bucket := range []string{"schedules", "schedules/owner"} {
		change := func() { // twice is as it was
			t.Helper()
			if err := a.Store.Update(func(tx *Tx) error { return damageBucket(tx, bucket) }); err != nil {
				t.Fatal(err)
			}
		}
		change()
		if w := a.control("POST", "/admin/v1/schedules", body); w.Code != 500 {
			t.Errorf("%s: got %d %s, want 500", bucket, w.Code, w.Body)
		}
		change()
	}
	a.refuse("POST", "/admin/v1/schedules", body, 409, "conflict", "has a schedule already")
}
