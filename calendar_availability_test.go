package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
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
	a.operate(201, "POST", "/admin/v1/schedules", `{"windows": {"monday": ["09:00-12:00", "13:00-15:00"]}, "business_hours": {"monday": ["10:00-14:00"]}, "buffer_minutes": 15}`)
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
		"?duration=0": "invalid_duration", "?duration=181": "invalid_duration", "?duration=abc": "invalid_duration", "?duration=": "invalid_duration", "?duration=30.5": "invalid_duration",
		"?start_date=2026-3-2": "invalid_parameter_format", "?start_date=2026-03-02&end_date=2026-03-01": "invalid_parameter_format",
		"?start_date=2026-01-01&end_date=2026-04-02": "invalid_parameter_format",
	} {
		if w := a.ask("GET", "/api/v1/calendar/availability"+query, key, ""); w.Code != 400 || code(w) != want {
			t.Errorf("%s: got %d %s, want %s", query, w.Code, w.Body, want)
		}
	}
	if got := get("?start_date=2026-01-01&end_date=2026-04-01")["end_date"]; got != "2026-04-01" {
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
	a.refuse("POST", "/admin/v1/schedules", `{"owner": "bob"}`, 409, "conflict", "bob")
	a.refuse("PATCH", "/admin/v1/schedules/1", `{"owner": "eve"}`, 400, "validation_error", "owner")
	if v := a.operate(200, "GET", "/admin/v1/schedules?owner=bob", ""); v["count"] != 1.0 {
		t.Errorf("got %v", v)
	}
	a.operate(200, "DELETE", "/admin/v1/schedules/1", "")
}
