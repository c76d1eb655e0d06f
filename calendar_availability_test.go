package main

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"latchkey/internal/clock"
)

func TestAvailability(t *testing.T) {
	a, key := newCalendarApp(t)
	get := func(query string) map[string]any {
		t.Helper()
		w := a.ask("GET", "/api/v1/calendar/availability"+query, key, "")
		if w.Code != 200 {
			t.Fatalf("%s: got %d %s", query, w.Code, w.Body)
		}
		return object(t, w.Body.String())
	}
	slots := func(query string) string {
		t.Helper()
		var starts []string
		for _, s := range get(query)["available_slots"].([]any) {
			starts = append(starts, strings.TrimSuffix(s.(map[string]any)["start"].(string)[8:], ":00.000Z"))
		}
		return strings.Join(starts, " ")
	}
	v := get("?start_date=2026-03-02&end_date=2026-03-03&duration=45")
	if members(v) != "available_slots count duration_minutes end_date start_date user_id" || v["count"] != 20.0 || v["user_id"] != 1.0 || v["duration_minutes"] != 45.0 {
		t.Errorf("got %v", v)
	}
	if s := v["available_slots"].([]any)[0]; fmt.Sprint(s) != "map[duration_minutes:45 end:2026-03-02T09:45:00.000Z start:2026-03-02T09:00:00.000Z]" {
		t.Errorf("got %v", s)
	}
	if v := get(""); v["start_date"] != "2026-02-03" || v["end_date"] != "2026-02-10" || v["duration_minutes"] != 30.0 {
		t.Errorf("the default: got %v", v)
	}
	if got := slots("?start_date=2026-02-07&end_date=2026-02-08"); got != "" {
		t.Errorf("a weekend: got %s", got)
	}
	a.operate(201, "POST", "/admin/v1/schedules", `{"time_zone": "UTC", "windows": {"monday": ["09:00-12:00", "13:00-15:00"]}, "business_hours": {"monday": ["10:00-14:00"]}, "buffer_minutes": 15}`)
	const monday = "?start_date=2026-03-02&end_date=2026-03-02"
	for _, tt := range []struct{ name, do, want string }{
		{"windows cut with business hours", "", "02T10:00 02T10:30 02T11:00 02T11:30 02T13:00 02T13:30"},
		{"an event and the buffer around it", `"start_time": "2026-03-02T11:00:00Z", "end_time": "2026-03-02T11:15:00Z"`, "02T10:00 02T11:30 02T13:00 02T13:30"},
		{"a long one that began before", `"start_time": "2026-02-20T00:00:00Z", "end_time": "2026-03-02T10:00:00Z"`, "02T11:30 02T13:00 02T13:30"},
		{"one that ends the buffer before", `"start_time": "2026-03-02T12:30:00Z", "end_time": "2026-03-02T12:45:00Z"`, "02T11:30 02T13:00 02T13:30"},
		{"one that does not", `"start_time": "2026-03-02T12:30:00Z", "end_time": "2026-03-02T12:46:00Z"`, "02T11:30 02T13:30"},
	} {
		if tt.do != "" {
			if w := a.ask("POST", eventsPath+"/create", key, `{"title": "x", `+tt.do+`}`); w.Code != 201 {
				t.Fatalf("got %d %s", w.Code, w.Body)
			}
		}
		if got := slots(monday); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.name, got, tt.want)
		}
	}
	a.ask("PATCH", eventsPath+"/1/update", key, `{"status": "completed"}`)
	a.ask("POST", eventsPath+"/4/cancel", key, "")
	if got := slots(monday); got != "02T10:30 02T11:00 02T11:30 02T13:00 02T13:30" {
		t.Errorf("what is over or off is not busy: got %s", got)
	}
	a.operate(200, "PATCH", "/admin/v1/schedules/1", `{"notice_minutes": 120, "windows": {"tuesday": ["09:00-13:00"]}, "business_hours": null}`)
	if got := slots("?end_date=2026-02-03"); got != "03T11:00 03T11:30 03T12:00 03T12:30" { // now is Tuesday, 9:00
		t.Errorf("notice: got %s", got)
	}
	for query, want := range map[string]string{
		"?duration=0": "invalid_duration", "?duration=181": "invalid_duration", "?duration=abc": "invalid_duration", "?duration=30.5": "invalid_duration",
		"?start_date=2026-3-2": "invalid_parameter_format", "?start_date=2026-03-02&end_date=2026-03-01": "invalid_parameter_format",
		"?start_date=2026-01-01&end_date=2026-04-01": "invalid_parameter_format",
	} {
		if w := a.ask("GET", "/api/v1/calendar/availability"+query, key, ""); w.Code != 400 || code(w) != want {
			t.Errorf("%s: got %d %s, want %s", query, w.Code, w.Body, want)
		}
	}
	if got := get("?start_date=2026-01-01&end_date=2026-03-31")["end_date"]; got != "2026-03-31" {
		t.Errorf("90 days: got %v", got)
	}
}

// Slots on days of 23 and 25 hours are right, also at times that the clock skips or
// shows twice.
func TestFreeSlots_SummerTime(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	lordHowe, err := time.LoadLocation("Australia/Lord_Howe") // its clocks change by half an hour
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, date string
		zone       *time.Location
		window     window24
		minutes    int
		want       string
	}{
		{"an hour is skipped", "2026-03-29", berlin, window24{60, 240}, 60, "00:00 01:00"},
		{"a window begins in it", "2026-03-29", berlin, window24{150, 240}, 30, "01:00 01:30"},
		{"a window ends in it", "2026-03-29", berlin, window24{60, 150}, 30, "00:00 00:30"},
		{"a window within it", "2026-03-29", berlin, window24{120, 180}, 30, ""},
		{"an hour comes twice", "2026-10-25", berlin, window24{60, 240}, 60, "23:00 00:00 01:00 02:00"},
		{"a window of that hour", "2026-10-25", berlin, window24{120, 180}, 30, "00:00 00:30 01:00 01:30"},
		{"the whole day of 23 hours", "2026-03-29", berlin, window24{0, 1440}, 180, "23:00 02:00 05:00 08:00 11:00 14:00 17:00"},
		{"the whole day of 25 hours", "2026-10-25", berlin, window24{0, 1440}, 180, "22:00 01:00 04:00 07:00 10:00 13:00 16:00 19:00"},
		{"a usual day", "2026-06-01", berlin, window24{540, 600}, 30, "07:00 07:30"},
		{"half an hour is skipped", "2026-10-04", lordHowe, window24{90, 180}, 30, "15:00 15:30"},
	} {
		day, err := time.Parse(time.DateOnly, tt.date)
		if err != nil {
			t.Fatal(err)
		}
		s := Schedule{}
		s.Windows[day.Weekday()] = []window24{tt.window}
		var got []string
		q := slotQuery{Schedule: s, Dates: dateRange{day, day, tt.zone}, Length: time.Duration(tt.minutes) * time.Minute, Now: day.AddDate(0, 0, -7)}
		for _, at := range freeSlots(q) {
			got = append(got, at.UTC().Format("15:04"))
		}
		if strings.Join(got, " ") != tt.want {
			t.Errorf("%s: got %v, want %s", tt.name, got, tt.want)
		}
	}
}

// TestFreeSlots_Rules compares the slots for random schedules and events with the
// rules, applied minute by minute.
func TestFreeSlots_Rules(t *testing.T) {
	zones := []string{"UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Pacific/Apia"}
	rapid.Check(t, func(t *rapid.T) {
		zone, err := time.LoadLocation(rapid.SampledFrom(zones).Draw(t, "zone"))
		if err != nil {
			t.Fatal(err)
		}
		first := time.Date(2026, time.Month(rapid.IntRange(1, 12).Draw(t, "month")), rapid.IntRange(1, 28).Draw(t, "day"), 0, 0, 0, 0, time.UTC)
		dates := dateRange{first, first.AddDate(0, 0, rapid.IntRange(0, 2).Draw(t, "days")), zone}
		s := Schedule{Buffer: rapid.IntRange(0, 40).Draw(t, "buffer"), Notice: rapid.IntRange(0, 600).Draw(t, "notice")}
		for day := range s.Windows {
			at := 0
			for range rapid.IntRange(0, 3).Draw(t, "windows") {
				from := at + rapid.IntRange(0, 300).Draw(t, "from")
				to := from + rapid.IntRange(1, 300).Draw(t, "to")
				if to > 1440 {
					break
				}
				s.Windows[day], at = append(s.Windows[day], window24{from, to}), to
			}
		}
		length := time.Duration(rapid.IntRange(5, 180).Draw(t, "length")) * time.Minute
		var busy []span
		at := first.Add(-24 * time.Hour)
		for range rapid.IntRange(0, 8).Draw(t, "events") {
			at = at.Add(time.Duration(rapid.IntRange(0, 900).Draw(t, "gap")) * time.Minute)
			busy = append(busy, span{Start: at, End: at.Add(time.Duration(rapid.IntRange(1, 600).Draw(t, "minutes")) * time.Minute)})
		}
		now := first.Add(time.Duration(rapid.IntRange(-1000, 1000).Draw(t, "now")) * time.Minute)
		last := time.Time{}
		for _, start := range freeSlots(slotQuery{s, dates, length, busy, now}) {
			if start.Before(now.Add(time.Duration(s.Notice) * time.Minute)) {
				t.Fatalf("%v begins before now and the notice", start)
			}
			if start.Before(last) {
				t.Fatalf("%v begins before the slot in front of it ends", start)
			}
			last = start.Add(length)
			for m := start; m.Before(last); m = m.Add(time.Minute) {
				local := m.In(zone)
				minute, inside := local.Hour()*60+local.Minute(), false
				for _, w := range s.Windows[local.Weekday()] {
					inside = inside || minute >= w.From && minute < w.To
				}
				if !inside {
					t.Fatalf("%v is outside the windows %v", local, s.Windows[local.Weekday()])
				}
			}
			buffer := time.Duration(s.Buffer) * time.Minute
			for _, e := range busy {
				if e.Start.Before(last.Add(buffer)) && e.End.After(start.Add(-buffer)) {
					t.Fatalf("%v is closer than the buffer to %v", start, e)
				}
			}
		}
	})
}

func TestSchedules(t *testing.T) {
	a, _ := newCalendarApp(t)
	for _, tt := range []struct{ body, want string }{
		{`{"time_zone": "Berlin"}`, "time_zone"}, {`{"time_zone": ""}`, "time_zone"}, {`{"time_zone": "Local"}`, "time_zone"}, {`{"buffer_minutes": -1}`, "buffer_minutes"},
		{`{"windows": []}`, "windows"}, {`{"windows": {"funday": []}}`, "funday"}, {`{"windows": {"monday": "09:00-17:00"}}`, "monday"},
		{`{"windows": {"monday": ["9-17"]}}`, "09:00-17:00"}, {`{"windows": {"monday": ["17:00-09:00"]}}`, "monday"}, {`{"windows": {"monday": ["09:00-12:00", "11:00-13:00"]}}`, "overlap"},
		{`{"windows": {"monday": ["09:00-25:00"]}}`, "monday"}, {`{"business_hours": {"x": []}}`, "business_hours"},
	} {
		a.refuse("POST", "/admin/v1/schedules", tt.body, 400, "validation_error", tt.want)
	}
	made := a.operate(201, "POST", "/admin/v1/schedules", `{"owner": "bob", "time_zone": "Europe/Berlin", "windows": {"monday": ["09:00-12:00", "13:00-24:00"]}, "notice_minutes": 60}`)
	if made["owner"] != "bob" || fmt.Sprint(made["windows"].(map[string]any)["monday"]) != "[09:00-12:00 13:00-24:00]" || fmt.Sprint(made["windows"].(map[string]any)["tuesday"]) != "[]" {
		t.Errorf("got %v", made)
	}
	a.refuse("POST", "/admin/v1/schedules", `{"owner": "bob", "time_zone": "UTC"}`, 409, "conflict", "bob")
	a.refuse("PATCH", "/admin/v1/schedules/1", `{"owner": "eve"}`, 400, "validation_error", "owner")
	if v := a.operate(200, "GET", "/admin/v1/schedules?owner=bob", ""); v["count"] != 1.0 {
		t.Errorf("got %v", v)
	}
	a.operate(200, "DELETE", "/admin/v1/schedules/1", "")
}

// everyZone returns the time zones of the database, each set of zones with the same changes once.
func everyZone(t *testing.T, from, to time.Time) (zones []*time.Location) {
	t.Helper()
	seen := map[string]bool{}
	for _, name := range clock.Zones() {
		zone, err := clock.Zone(name)
		if err != nil {
			t.Fatal(err)
		}
		changes := ""
		for at := from; !at.IsZero() && at.Before(to); _, at = at.In(zone).ZoneBounds() {
			_, offset := at.In(zone).Zone()
			changes += fmt.Sprint(at.Unix(), offset, " ")
		}
		if !seen[changes] {
			seen[changes], zones = true, append(zones, zone)
		}
	}
	return zones
}

// wantedSlots returns the slots in a window of a day by asking the wall clock at each step. step
// must divide the window, the length, and each time at which the clocks change.
func wantedSlots(day time.Time, w window24, zone *time.Location, length, step time.Duration) (starts []time.Time) {
	var run time.Time // start of the slot that is being filled; zero outside the window
	for at := day.Add(-27 * time.Hour); at.Before(day.Add(51 * time.Hour)); at = at.Add(step) {
		local := at.In(zone)
		minute := local.Hour()*60 + local.Minute()
		if local.Year() != day.Year() || local.YearDay() != day.YearDay() || minute < w.From || minute >= w.To {
			run = time.Time{}
			continue
		}
		if run.IsZero() {
			run = at
		}
		if at.Add(step).Sub(run) == length {
			starts, run = append(starts, run), time.Time{}
		}
	}
	return starts
}

// TestFreeSlots_EveryZone compares the slots with the wall clock, on the days around each change of
// the clocks in each zone for ten years. With LATCHKEY_TEST_ZONES=1 it does so for every day.
func TestFreeSlots_EveryZone(t *testing.T) {
	const step = 15 * time.Minute
	from, to := time.Date(2022, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2032, 1, 1, 0, 0, 0, 0, time.UTC)
	days := func(zone *time.Location) (list []time.Time) {
		if os.Getenv("LATCHKEY_TEST_ZONES") != "" {
			for day := from; day.Before(to); day = day.AddDate(0, 0, 1) {
				list = append(list, day)
			}
			return list
		}
		for _, at := from.In(zone).ZoneBounds(); !at.IsZero() && at.Before(to); _, at = at.ZoneBounds() {
			local := at.In(zone)
			day := time.Date(local.Year(), local.Month(), local.Day(), 0, 0, 0, 0, time.UTC)
			list = append(list, day.AddDate(0, 0, -1), day, day.AddDate(0, 0, 1))
		}
		return append(list, from)
	}
	checked := 0
	check := func(day time.Time, zone *time.Location) {
		checked++
		windows := []window24{{0, 1440}, {0, 60}, {0, 150}, {150, 600}, {105, 165}, {9 * 60, 17 * 60}, {1380, 1440}}
		w := windows[checked%len(windows)]
		for _, w := range []window24{w, {0, 1440}} {
			length := []time.Duration{15, 30, 45, 60, 180}[checked%5] * time.Minute
			s := Schedule{}
			for i := range s.Windows { // also the days beside, so that a slot can fall into a wrong one
				s.Windows[i] = []window24{w}
			}
			got := freeSlots(slotQuery{Schedule: s, Dates: dateRange{day, day, zone}, Length: length, Now: day.AddDate(-1, 0, 0)})
			want := wantedSlots(day, w, zone, length, step)
			if !slices.EqualFunc(got, want, time.Time.Equal) {
				t.Errorf("%s in %s, from %d to %d, %s: got %v, want %v", day.Format(time.DateOnly), zone, w.From, w.To, length, got, want)
			}
		}
	}
	for _, zone := range everyZone(t, from, to) {
		for _, day := range days(zone) {
			check(day, zone)
		}
	}
	for _, tt := range []struct{ zone, day string }{
		{"Pacific/Apia", "2011-12-29"}, {"Pacific/Apia", "2011-12-30"}, {"Pacific/Apia", "2011-12-31"}, {"Pacific/Kwajalein", "1993-08-21"}, {"America/Sao_Paulo", "2018-11-04"}, {"America/Sao_Paulo", "2018-02-17"},
		{"Asia/Beirut", "2020-03-29"}, {"Africa/Cairo", "2010-08-11"}, {"America/Asuncion", "2020-10-04"}, {"America/Asuncion", "2020-03-21"}, {"Asia/Pyongyang", "2015-08-15"},
		{"America/Caracas", "2007-12-09"}, {"Asia/Kathmandu", "1986-01-01"}, {"Antarctica/Troll", "2021-03-28"}, {"Africa/Casablanca", "2021-04-11"},
	} {
		zone, err := clock.Zone(tt.zone)
		if err != nil {
			t.Fatal(err)
		}
		day, err := clock.ParseDate(tt.day)
		if err != nil {
			t.Fatal(err)
		}
		for range 7 { // each window
			check(day, zone)
		}
	}
	if checked < 1000 {
		t.Errorf("only %d days were checked", checked)
	}
}

// No answer has a time outside the years 1 to 9999, and a slot at the ends is on its day.
func TestAvailability_Ends(t *testing.T) {
	a, key := newCalendarApp(t)
	for _, tt := range []struct{ zone, query, first, last string }{
		{"UTC", "start_date=9999-12-31", "9999-12-31T00:00:00.000Z", "9999-12-31T21:00:00.000Z"}, {"UTC", "start_date=9999-12-25", "9999-12-25T00:00:00.000Z", "9999-12-31T21:00:00.000Z"},
		{"Pacific/Kiritimati", "start_date=9999-12-31", "9999-12-30T10:00:00.000Z", "9999-12-31T08:30:00.000Z"}, {"America/New_York", "start_date=9999-12-30", "9999-12-30T05:00:00.000Z", "9999-12-31T21:30:00.000Z"},
	} {
		windows := map[string][]string{}
		for _, day := range dayNames() {
			windows[day] = []string{"00:00-24:00"}
		}
		body, _ := json.Marshal(map[string]any{"time_zone": tt.zone, "windows": windows})
		a.operate(201, "POST", "/admin/v1/schedules", string(body))
		w := a.ask("GET", "/api/v1/calendar/availability?duration=90&"+tt.query, key, "")
		v := object(t, w.Body.String())
		list, _ := v["available_slots"].([]any)
		if w.Code != 200 || len(list) == 0 || strings.Contains(w.Body.String(), "10000") {
			t.Fatalf("%s in %s: got %d %s", tt.query, tt.zone, w.Code, w.Body)
		}
		first, last := list[0].(map[string]any)["start"], list[len(list)-1].(map[string]any)["start"]
		if first != tt.first || last != tt.last {
			t.Errorf("%s in %s: got slots from %v to %v, want %s to %s", tt.query, tt.zone, first, last, tt.first, tt.last)
		}
		a.operate(200, "DELETE", "/admin/v1/schedules/"+fmt.Sprint(a.operate(200, "GET", "/admin/v1/schedules", "")["schedules"].([]any)[0].(map[string]any)["id"]), "")
	}
}
