package dashboard

import (
	"testing"
	"time"
)

func zoneNamed(t *testing.T, name string) *time.Location {
	t.Helper()
	zone, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return zone
}

func TestWeek_Of(t *testing.T) {
	berlin, auckland := zoneNamed(t, "Europe/Berlin"), zoneNamed(t, "Pacific/Auckland")
	for _, tt := range []struct {
		at   string
		zone *time.Location
		want string
	}{
		{"2026-03-02T00:00:00Z", time.UTC, "2026-03-02"}, {"2026-03-08T23:59:59Z", time.UTC, "2026-03-02"}, {"2026-03-08T23:30:00Z", berlin, "2026-03-09"},
		{"2026-03-01T10:59:00Z", auckland, "2026-02-23"}, {"2026-03-01T11:00:00Z", auckland, "2026-03-02"}, {"2027-01-01T12:00:00Z", time.UTC, "2026-12-28"},
	} {
		at, _ := time.Parse(time.RFC3339, tt.at)
		if got := weekOf(at, tt.zone).Monday.Format(time.DateOnly); got != tt.want {
			t.Errorf("%s in %s: got %s, want %s", tt.at, tt.zone, got, tt.want)
		}
	}
}

func TestWeek_PartOn(t *testing.T) {
	berlin := zoneNamed(t, "Europe/Berlin")
	for _, tt := range []struct {
		monday string
		day    int
		from   string
		to     string
		want   dayPart
		ok     bool
	}{
		{"2026-03-02", 0, "2026-03-02T09:00:00+01:00", "2026-03-02T10:30:00+01:00", dayPart{From: 540, To: 630}, true},
		{"2026-03-02", 1, "2026-03-02T09:00:00+01:00", "2026-03-02T10:30:00+01:00", dayPart{}, false},
		{"2026-03-02", 1, "2026-03-02T22:00:00+01:00", "2026-03-03T00:00:00+01:00", dayPart{}, false}, // it ends at midnight
		{"2026-03-02", 0, "2026-03-02T22:00:00+01:00", "2026-03-03T02:00:00+01:00", dayPart{From: 1320, To: 1440, After: true}, true},
		{"2026-03-02", 1, "2026-03-02T22:00:00+01:00", "2026-03-03T02:00:00+01:00", dayPart{To: 120, Before: true}, true},
		{"2026-03-02", 1, "2026-03-02T22:00:00+01:00", "2026-03-05T02:00:00+01:00", dayPart{To: 1440, Before: true, After: true}, true},
		// The clocks go from 2 to 3, and back, on these Sundays.
		{"2026-03-23", 6, "2026-03-29T01:30:00+01:00", "2026-03-29T03:30:00+02:00", dayPart{From: 90, To: 210}, true},
		{"2026-10-19", 6, "2026-10-25T02:30:00+02:00", "2026-10-25T02:30:00+01:00", dayPart{From: 150, To: 150}, true},
		{"2026-10-19", 6, "2026-10-25T23:00:00+01:00", "2026-10-26T00:00:00+01:00", dayPart{From: 1380, To: 1440}, true},
	} {
		monday, _ := time.Parse(time.DateOnly, tt.monday)
		from, _ := time.Parse(time.RFC3339, tt.from)
		to, _ := time.Parse(time.RFC3339, tt.to)
		if got, ok := (calendarWeek{monday, berlin}).partOn(tt.day, from, to); got != tt.want || ok != tt.ok {
			t.Errorf("%s to %s on day %d: got %+v %v, want %+v %v", tt.from, tt.to, tt.day, got, ok, tt.want, tt.ok)
		}
	}
}

func TestSideBySide(t *testing.T) {
	parts := []dayPart{
		{From: 600, To: 660, Index: 0}, {From: 540, To: 720, Index: 1}, {From: 660, To: 700, Index: 2}, {From: 610, To: 650, Index: 3}, // a group of three lanes
		{From: 720, To: 780, Index: 4},                                 // alone
		{From: 800, To: 801, Index: 5}, {From: 815, To: 900, Index: 6}, // apart, but too short to be seen apart
	}
	sideBySide(parts, 20)
	want := map[int][2]int{1: {0, 3}, 0: {1, 3}, 3: {2, 3}, 2: {1, 3}, 4: {0, 1}, 5: {0, 2}, 6: {1, 2}}
	for _, p := range parts {
		if got := [2]int{p.Lane, p.Lanes}; got != want[p.Index] {
			t.Errorf("part %d: got lane and lanes %v, want %v", p.Index, got, want[p.Index])
		}
	}
	for i, a := range parts { // none hides another
		for _, b := range parts[i+1:] {
			if a.Lane == b.Lane && a.From < b.To && b.From < a.To && a.Lanes == b.Lanes {
				t.Errorf("%+v and %+v stand in the same place", a, b)
			}
		}
	}
	sideBySide(nil, 20)
}
