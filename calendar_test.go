package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	ical "github.com/emersion/go-ical"
)

const eventsPath = "/api/v1/calendar/events"

// event creates an event and returns the answer. more holds further fields of the
// body.
func (a *testApp) event(key, start, end string, more ...string) map[string]any {
	a.t.Helper()
	body := fmt.Sprintf(`{"title": "Fitting", "start_time": %q, "end_time": %q%s}`, start, end, strings.Join(append([]string{""}, more...), ", "))
	w := a.ask("POST", eventsPath+"/create", key, body)
	if w.Code != 201 {
		a.t.Fatalf("%s: got %d %s", body, w.Code, w.Body)
	}
	return object(a.t, w.Body.String())
}

func newCalendarApp(t testing.TB) (a *testApp, key string) {
	a = newHookApp(t)
	a.operate(201, "POST", "/admin/v1/agents", `{"name": "Front desk", "phone_number": "+4930555001"}`)
	a.operate(201, "POST", "/admin/v1/teams", `{"name": "Reception", "members": ["admin", "bob"]}`)
	a.operate(201, "POST", "/admin/v1/teams", `{"name": "Others", "members": ["eve"]}`)
	_, key = a.key(everyPermission, `"limits": {"requests_per_minute_limit": 100000, "calendar_events_per_day_limit": 100000}`)
	return a, key
}

func TestCalendar_CreateRefuses(t *testing.T) {
	a, key := newCalendarApp(t)
	const times = `"start_time": "2026-03-02T09:00:00Z", "end_time": "2026-03-02T09:45:00Z"`
	for _, tt := range []struct {
		body   string
		status int
		code   string
		want   string
	}{
		{``, 400, "invalid_json", ""},
		{`{"title"`, 400, "invalid_json", ""},
		{`{` + times + `}`, 400, "missing_parameter", "title"},
		{`{"title": "", ` + times + `}`, 400, "missing_parameter", "title"},
		{`{"title": "x", "end_time": "2026-03-02T09:45:00Z"}`, 400, "missing_parameter", "start_time"},
		{`{"title": "x", "start_time": "2026-03-02T09:00:00Z", "end_time": null}`, 400, "missing_parameter", "end_time"},
		{`{"title": "x", "start_time": "tomorrow", "end_time": "2026-03-02T09:45:00Z"}`, 400, "invalid_datetime_format", "start_time"},
		{`{"title": "x", "start_time": "2026-03-02", "end_time": "2026-03-02T09:45:00Z"}`, 400, "invalid_datetime_format", "start_time"},
		{`{"title": "x", "start_time": "2026-12-03 09:00:00", "end_time": "2026-03-02T09:45:00Z"}`, 400, "invalid_datetime_format", `with a T between them, such as 2026-03-02T09:00:00Z; got \"2026-12-03 09:00:00\".`},
		{`{"title": "x", "start_time": "2026-03-02T09:00:00Z", "end_time": 7}`, 400, "invalid_datetime_format", "end_time"},
		{`{"title": "x", "start_time": "2026-03-02T09:00:00Z", "end_time": "2026-03-02T09:00:00Z"}`, 400, "validation_error", "end_time"},
		{`{"title": "x", "start_time": "2026-03-02T10:00:00+01:00", "end_time": "2026-03-02T09:00:00Z"}`, 400, "validation_error", "end_time"},
		{`{"title": "x", ` + times + `, "status": "completed"}`, 400, "validation_error", "status"},
		{`{"title": "x", ` + times + `, "event_type": "party"}`, 400, "validation_error", "event_type"},
		{`{"title": "x", ` + times + `, "remind_before_minutes": -1}`, 400, "validation_error", "remind_before_minutes"},
		{`{"title": "x", ` + times + `, "is_reminder_enabled": "yes"}`, 400, "validation_error", "is_reminder_enabled"},
		{`{"title": 7, ` + times + `}`, 400, "validation_error", "title"},
		{`{"title": "x", ` + times + `, "ai_agent_id": 99}`, 404, "agent_not_found", ""},
		{`{"title": "x", ` + times + `, "team_id": 99}`, 404, "team_not_found", ""},
		{`{"title": "x", ` + times + `, "team_id": 2}`, 403, "team_access_denied", ""},
	} {
		w := a.ask("POST", eventsPath+"/create", key, tt.body)
		if w.Code != tt.status || code(w) != tt.code || !strings.Contains(w.Body.String(), tt.want) {
			t.Errorf("%s: got %d %s, want %d %s with %q", tt.body, w.Code, w.Body, tt.status, tt.code, tt.want)
		}
	}
	for range 20 { // of two mistakes always the same one is named
		if w := a.ask("POST", eventsPath+"/create", key, `{"title": "x", "end_time": "late", "start_time": "soon"}`); !strings.Contains(w.Body.String(), `"message":"start_time `) {
			t.Fatalf("got %s, want start_time", w.Body)
		}
		a.refuse("POST", "/admin/v1/keys", `{"name": "x", "permissions": ["can_read_calls"], "limits": {"two": 5, "one": 5}}`, 400, "validation_error", `"one\"`)
		a.refuse("PATCH", "/admin/v1/owners/1", `{"limits": {"two": 5, "one": 5}}`, 400, "validation_error", `"one\"`)
		a.refuse("POST", "/admin/v1/teams/import?skip_duplicates=true&update_by=email", `[]`, 400, "validation_error", "update_by cannot be used for teams")
	}
	if v := object(t, a.ask("GET", eventsPath+"?start_date=2026-03-01", key, "").Body.String()); v["count"] != 0.0 {
		t.Errorf("got %v events after refusals, want none", v["count"])
	}
	_, reader := a.key(`["can_read_calendar"]`)
	if w := a.ask("POST", eventsPath+"/create", reader, `{}`); code(w) != "permission_denied" || !strings.Contains(w.Body.String(), "can_write_calendar") {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
}

// TestCalendar_Shapes compares the answers with the examples in contract 7.
func TestCalendar_Shapes(t *testing.T) {
	a, key := newCalendarApp(t)
	made := a.event(key, "2026-03-02T09:00:00Z", "2026-03-02T10:45:00+01:00", `"event_type": "appointment"`, `"status": "confirmed"`, `"location": "Room 2"`,
		`"description": "Second fitting"`, `"created_by_ai_agent": true`, `"ai_agent_id": 1`, `"team_id": 1`, `"customer_name": "Mara Lind"`, `"customer_phone": "+4930555010"`)
	if members(made) != "end_time ics_url id message start_time status title uuid" || made["end_time"] != "2026-03-02T09:45:00.000Z" || made["status"] != "confirmed" ||
		made["ics_url"] != "/calendar/event/"+made["uuid"].(string)+"/calendar.ics" {
		t.Errorf("got %v", made)
	}
	list := object(t, a.ask("GET", eventsPath+"?start_date=2026-03-02&end_date=2026-03-02", key, "").Body.String())
	row := list["events"].([]any)[0].(map[string]any)
	if members(list) != "count events limit page pages" || list["limit"] != 10.0 ||
		members(row) != "ai_agent created_by_ai_agent customer duration_minutes end_time event_type has_video_conference id location start_time status title uuid video_conference_url" ||
		members(row["customer"]) != "email name phone" || members(row["ai_agent"]) != "assistant_id id name" || row["duration_minutes"] != 45.0 {
		t.Errorf("got %v", list)
	}
	for _, ref := range []string{"1", made["uuid"].(string), strings.ToUpper(made["uuid"].(string))} {
		one := object(t, a.ask("GET", eventsPath+"/"+ref, key, "").Body.String())
		if got := members(one); got != "ai_agent created_at created_by_ai_agent customer description duration_minutes end_time event_type event_type_display external_calendars has_video_conference ics_url id is_reminder_enabled location remind_before_minutes start_time status status_display team title updated_at uuid video_conference_provider video_conference_url" {
			t.Errorf("got %s", got)
		}
		if one["event_type_display"] != "Appointment" || one["remind_before_minutes"] != 60.0 || members(one["team"]) != "id name" ||
			members(one["external_calendars"]) != "gohighlevel google outlook" || one["created_at"] != "2026-02-03T09:00:00.000Z" || members(one["customer"]) != "email name notes phone" {
			t.Errorf("got %v", one)
		}
	}
	_, bob := a.key(everyPermission, `"owner": "bob"`)
	_, eve := a.key(everyPermission, `"owner": "eve"`)
	if w := a.ask("GET", eventsPath+"/1", bob, ""); w.Code != 200 {
		t.Errorf("of the team: got %d %s", w.Code, w.Body)
	}
	for _, path := range []string{"/1", "/99", "/nothing", "/0c9d2b1e-6a55-4f0e-9d0b-1f2a3b4c5d6e"} {
		if w := a.ask("GET", eventsPath+path, eve, ""); w.Code != 404 || code(w) != "not_found" {
			t.Errorf("%s: got %d %s", path, w.Code, w.Body)
		}
	}
}

func TestCalendar_List(t *testing.T) {
	a, key := newCalendarApp(t)
	a.event(key, "2026-02-03T23:30:00Z", "2026-02-04T00:30:00Z")                          // 1: over midnight
	a.event(key, "2026-02-01T00:00:00Z", "2026-02-20T00:00:00Z", `"event_type": "busy"`)  // 2: long, begins before
	a.event(key, "2026-02-04T09:00:00Z", "2026-02-04T10:00:00Z", `"status": "confirmed"`) // 3
	a.event(key, "2026-03-05T00:00:00Z", "2026-03-05T01:00:00Z")                          // 4: the last day of the default range
	a.event(key, "2026-03-06T00:00:00Z", "2026-03-06T01:00:00Z")                          // 5: after it
	a.event(key, "2026-02-03T22:00:00Z", "2026-02-04T00:00:00Z", `"team_id": 1`)          // 6: ends as the 4th begins
	a.ask("POST", eventsPath+"/3/cancel", key, "")
	for _, tt := range []struct{ query, want string }{
		{"", "[2 6 1 3 4]"},
		{"?start_date=2026-02-04&end_date=2026-02-04", "[2 1 3]"},
		{"?start_date=2026-02-03&end_date=2026-02-03", "[2 6 1]"},
		{"?start_date=2026-02-20", "[4 5]"},
		{"?start_date=2026-02-19&end_date=2026-02-19", "[2]"},
		{"?start_date=2026-03-06", "[5]"},
		{"?status=cancelled", "[3]"}, {"?status=no_show", "[]"},
		{"?limit=2&page=2", "[1 3]"}, {"?page=9", "[]"},
	} {
		v := object(t, a.ask("GET", eventsPath+tt.query, key, "").Body.String())
		ids := []any{}
		for _, row := range v["events"].([]any) {
			ids = append(ids, row.(map[string]any)["id"])
		}
		if fmt.Sprint(ids) != tt.want {
			t.Errorf("%s: got %v of %v, want %s", tt.query, ids, v["count"], tt.want)
		}
	}
	for query, want := range map[string]string{
		"?start_date=4.2.2026": "invalid_parameter_format", "?end_date=2026-02-30": "invalid_parameter_format", "?start_date=2026-02-05&end_date=2026-02-04": "invalid_parameter_format",
		"?status=lost": "validation_error", "?page=0": "validation_error", "?limit=x": "validation_error",
	} {
		if w := a.ask("GET", eventsPath+query, key, ""); w.Code != 400 || code(w) != want {
			t.Errorf("%s: got %d %s, want %s", query, w.Code, w.Body, want)
		}
	}
	// In the owner's zone the 4th begins an hour earlier, so 6 is of both days.
	a.operate(201, "POST", "/admin/v1/schedules", `{"time_zone": "Europe/Berlin"}`)
	if v := object(t, a.ask("GET", eventsPath+"?start_date=2026-02-04&end_date=2026-02-04", key, "").Body.String()); v["count"] != 4.0 {
		t.Errorf("got %v, want 4", v["count"])
	}
}

func TestCalendar_Update(t *testing.T) {
	v := newReceiver(t)
	a, key := newCalendarApp(t)
	a.hook(v.URL, "", "calendar.created", "calendar.updated", "calendar.cancelled", "calendar.completed")
	a.event(key, "2026-03-02T09:00:00Z", "2026-03-02T09:45:00Z", `"location": "Room 2"`, `"created_by_ai_agent": true`, `"customer_notes": "Careful."`)
	for _, tt := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"PATCH", "/1/update", `{"start_time": "2026-03-02T10:00:00", "end_time": "2026-03-02T10:45:00"}`, 200, `"start_time":"2026-03-02T10:00:00.000Z"`},
		{"PATCH", "/1/update", `{"title": "Other", "status": "no_show"}`, 200, `"status":"no_show"`},
		{"PATCH", "/1/update", `{"end_time": "2026-03-02T09:00:00Z"}`, 400, "validation_error"},
		{"PATCH", "/1/update", `{"status": "lost"}`, 400, "validation_error"},
		{"PATCH", "/1/update", `{"start_time": "soon"}`, 400, "invalid_datetime_format"},
		{"PATCH", "/1/update", `{"team_id": 2}`, 403, "team_access_denied"},
		{"PATCH", "/1/update", `{"ai_agent_id": 99}`, 404, "agent_not_found"},
		{"PUT", "/1/update", `{"title": "x"}`, 400, "missing_parameter"},
		{"PATCH", "/9/update", `{}`, 404, "not_found"},
		{"PATCH", "/1/update", `{`, 400, "invalid_json"},
		{"PUT", "/1/update", `{"title": "New", "start_time": "2026-03-02T10:00:00Z", "end_time": "2026-03-02T10:45:00Z"}`, 200, `"status":"scheduled"`},
		{"PATCH", "/1/update", `{"status": "completed"}`, 200, `"message":"Updated."`},
		{"PATCH", "/1/update", `{"status": "scheduled", "customer_notes": "Careful."}`, 200, ""},
		{"POST", "/1/cancel", `{"reason": 7}`, 400, "validation_error"},
		{"POST", "/1/cancel", `{"reason": "Snow"}`, 200, `"message":"Cancelled."`},
		{"POST", "/1/cancel", ``, 200, `"status":"cancelled"`},
		{"POST", "/9/cancel", ``, 404, "not_found"},
	} {
		if w := a.ask(tt.method, eventsPath+tt.path, key, tt.body); w.Code != tt.status || !strings.Contains(w.Body.String(), tt.want) {
			t.Errorf("%s %s: got %d %s, want %d %s", tt.method, tt.body, w.Code, w.Body, tt.status, tt.want)
		}
	}
	one := object(t, a.ask("GET", eventsPath+"/1", key, "").Body.String())
	if one["location"] != nil || one["created_by_ai_agent"] != true || one["customer"].(map[string]any)["notes"] != "Careful.\nCancelled: Snow" {
		t.Errorf("got %v: PUT clears what it leaves out, but for who made the event", one)
	}
	a.send()
	var events []string
	for _, r := range v.all() {
		p := object(t, r.body)
		e := p["calendar_event"].(map[string]any)
		events = append(events, fmt.Sprint(p["event_type"], " ", e["time_changed"], " ", e["previous_start"], " ", e["cancellation_reason"]))
		if !strings.HasSuffix(p["timestamp"].(string), ".000Z") || e["ics_url"] == nil {
			t.Errorf("got %v", p)
		}
	}
	want := []string{
		"calendar.created <nil> <nil> <nil>", "calendar.updated true 2026-03-02T09:00:00.000Z <nil>", "calendar.updated false <nil> <nil>", "calendar.updated false <nil> <nil>",
		"calendar.completed <nil> <nil> <nil>", "calendar.updated false <nil> <nil>", "calendar.cancelled <nil> <nil> Snow",
	}
	if !slices.Equal(events, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(events, "\n"), strings.Join(want, "\n"))
	}
}

// The daily limit is charged for a stored event, but not for a refused one.
func TestCalendar_DailyLimit(t *testing.T) {
	a, _ := newCalendarApp(t)
	_, key := a.key(everyPermission, `"limits": {"calendar_events_per_day_limit": 2}`)
	const body = `{"title": "x", "start_time": "2026-03-02T09:00:00Z", "end_time": "2026-03-02T09:45:00Z"}`
	for i, want := range []int{201, 400, 201, 429, 429} {
		send := body
		if want == 400 {
			send = `{}`
		}
		w := a.ask("POST", eventsPath+"/create", key, send)
		if w.Code != want || want == 429 && (code(w) != "rate_limit_exceeded" || w.Header().Get("Retry-After") != "86400") {
			t.Errorf("%d: got %d %s %v, want %d", i, w.Code, w.Body, w.Header(), want)
		}
	}
	if v := object(t, a.ask("GET", eventsPath, key, "").Body.String()); v["count"] != 2.0 {
		t.Errorf("got %v events, want 2", v["count"])
	}
}

func TestICS(t *testing.T) {
	a, key := newCalendarApp(t)
	title := "Fitting; with, signs \\ and " + strings.Repeat("a long tail \u00e4\u00f6\u00fc ", 12)
	made := a.event(key, "2026-03-02T09:00:00Z", "2026-03-02T09:45:00Z", `"description": "First line\nsecond"`, `"location": "Room 2"`, `"video_conference_url": "https://meet.example.net/x"`,
		`"customer_name": "Mara Lind"`, `"customer_notes": "Secret note"`, `"customer_email": "mara@example.net"`, `"remind_before_minutes": 15`)
	a.ask("PATCH", eventsPath+"/1/update", key, fmt.Sprintf(`{"title": %q}`, title))
	path := made["ics_url"].(string)
	w := a.ask("GET", path, "", "")
	if w.Code != 200 || w.Header().Get("Content-Type") != "text/calendar; charset=utf-8" {
		t.Fatalf("got %d %v", w.Code, w.Header())
	}
	text := w.Body.String()
	for _, hidden := range []string{"Mara", "Secret", "mara@"} {
		if strings.Contains(text, hidden) {
			t.Errorf("the file tells of the customer: %s", text)
		}
	}
	for line := range strings.SplitSeq(strings.TrimSuffix(text, "\r\n"), "\r\n") {
		if len(line) > 75 || strings.Contains(line, "\n") { // RFC 5545 section 3.1
			t.Errorf("the line %q is %d bytes long", line, len(line))
		}
	}
	read := func() *ical.Component {
		t.Helper()
		dec := ical.NewDecoder(strings.NewReader(a.ask("GET", path, "", "").Body.String()))
		c, err := dec.Decode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := dec.Decode(); err != io.EOF {
			t.Errorf("more than one calendar: %v", err)
		}
		events := c.Events()
		if len(events) != 1 {
			t.Fatalf("got %d events", len(events))
		}
		return events[0].Component
	}
	e := read()
	for name, want := range map[string]string{"UID": made["uuid"].(string), "SUMMARY": strings.TrimSpace(title), "DESCRIPTION": "First line\nsecond", "LOCATION": "Room 2", "STATUS": "TENTATIVE"} {
		if got, err := e.Props.Text(name); err != nil || strings.TrimSpace(got) != want {
			t.Errorf("%s: got %q, %v; want %q", name, got, err, want)
		}
	}
	for name, want := range map[string]string{"DTSTART": "20260302T090000Z", "DTEND": "20260302T094500Z", "DTSTAMP": "20260203T090000Z", "URL": "https://meet.example.net/x"} {
		if got := e.Props.Get(name); got == nil || got.Value != want {
			t.Errorf("%s: got %v, want %s", name, got, want)
		}
	}
	if len(e.Children) != 1 || e.Children[0].Name != "VALARM" || e.Children[0].Props.Get("TRIGGER").Value != "-PT15M" {
		t.Errorf("got alarms %v", e.Children)
	}
	for status, want := range map[string]string{"confirmed": "CONFIRMED", "cancelled": "CANCELLED"} {
		a.ask("PATCH", eventsPath+"/1/update", key, fmt.Sprintf(`{"status": %q, "is_reminder_enabled": false}`, status))
		if e := read(); e.Props.Get("STATUS").Value != want || len(e.Children) != 0 {
			t.Errorf("%s: got %v", status, e)
		}
	}
	for _, bad := range []string{"1", strings.Repeat("0", 35) + "1", "0c9d2b1e-6a55-4f0e-9d0b-1f2a3b4c5d6e"} {
		if w := a.ask("GET", "/calendar/event/"+bad+"/calendar.ics", "", ""); w.Code != 404 || code(w) != "not_found" {
			t.Errorf("%s: got %d %s", bad, w.Code, w.Body)
		}
	}
}

// TestReminders checks that each reminder is sent once, at its time, also after a
// restart, a move or a cancellation.
func TestReminders(t *testing.T) {
	v := newReceiver(t)
	a, key := newCalendarApp(t)
	a.hook(v.URL, "", "calendar.reminder")
	a.event(key, "2026-02-03T11:00:00Z", "2026-02-03T12:00:00Z")                                 // 1: due at 10:00
	a.event(key, "2026-02-03T11:00:00Z", "2026-02-03T12:00:00Z", `"is_reminder_enabled": false`) // 2: never
	a.event(key, "2026-02-03T11:30:00Z", "2026-02-03T12:00:00Z", `"remind_before_minutes": 0`)   // 3: due when the event begins, which is too late
	a.event(key, "2026-02-03T12:30:00Z", "2026-02-03T13:00:00Z")                                 // 4: cancelled
	a.event(key, "2026-02-03T13:00:00Z", "2026-02-03T14:00:00Z")                                 // 5: missed while the server was down
	a.event(key, "2026-02-03T15:00:00Z", "2026-02-03T16:00:00Z")                                 // 6: due while the server was down, but not begun yet
	a.ask("POST", eventsPath+"/4/cancel", key, "")
	told := func(want string) {
		t.Helper()
		if err := FireReminders(a.Store, a.clock.Now()); err != nil {
			t.Fatal(err)
		}
		a.send()
		var ids []any
		for _, r := range v.all() {
			ids = append(ids, object(t, r.body)["calendar_event"].(map[string]any)["id"])
		}
		if fmt.Sprint(ids) != want {
			t.Errorf("at %v: got %v, want %s", a.clock.Now(), ids, want)
		}
	}
	a.clocks.Pass(time.Hour - time.Second)
	told("[]")
	a.clocks.Pass(time.Second)
	told("[1]")
	told("[1]")
	a.restart()
	a.clocks.Pass(2 * time.Hour)
	told("[1 5]") // at 12:00: 5 is due now, 3 began without a reminder
	a.ask("PATCH", eventsPath+"/5/update", key, `{"start_time": "2026-02-03T13:30:00Z"}`)
	told("[1 5]")
	a.clocks.Pass(30 * time.Minute)
	told("[1 5 5]")
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	a.clocks.Pass(2 * time.Hour) // 14:30
	a.start()
	told("[1 5 5 6]")
}

func TestEventDesk(t *testing.T) {
	a := newTestApp(t)
	a.operate(201, "POST", "/admin/v1/agents", `{"name": "Front desk"}`)
	a.operate(201, "POST", "/admin/v1/teams", `{"name": "Reception", "members": ["ann"]}`)
	a.operate(201, "POST", "/admin/v1/webhooks", `{"name": "W", "url": "https://hooks.example.invalid/x", "subscribed_events": ["calendar.created", "calendar.updated", "calendar.cancelled"]}`)
	waiting := func() float64 {
		return a.operate(200, "GET", "/admin/v1/webhooks/1", "")["waiting"].(float64)
	}
	for body, want := range map[string]string{
		`{"title": "Fitting"}`: "missing_parameter",
		`{"title": "Fitting", "start_time": "x", "end_time": "2026-03-02T10:00:00Z"}`:                                      "invalid_datetime_format",
		`{"title": "Fitting", "start_time": "2026-03-02T10:00:00Z", "end_time": "2026-03-02T10:00:00Z"}`:                   "validation_error",
		`{"title": "Fitting", "start_time": "2026-03-02T09:00:00Z", "end_time": "2026-03-02T10:00:00Z", "ai_agent_id": 7}`: "agent_not_found",
		`{"title": "Fitting", "start_time": "2026-03-02T09:00:00Z", "end_time": "2026-03-02T10:00:00Z", "team_id": 1}`:     "team_access_denied",
		`{"title": "Fitting", "start_time": "2026-03-02T09:00:00Z", "end_time": "2026-03-02T10:00:00Z", "owner": 5}`:       "validation_error",
	} {
		if w := a.control("POST", "/admin/v1/events", body); code(w) != want {
			t.Errorf("%s: got %d %s, want %s", body, w.Code, w.Body, want)
		}
	}
	made := a.operate(201, "POST", "/admin/v1/events", `{"title": "Fitting", "start_time": "2026-03-02T22:30:00Z", "end_time": "2026-03-02T23:30:00Z", "owner": "ann", "team_id": 1}`)
	if made["owner"] != "ann" || made["status"] != "scheduled" || waiting() != 1 {
		t.Errorf("got %v with %v waiting", made, waiting())
	}
	a.operate(201, "POST", "/admin/v1/events", `{"title": "Other", "start_time": "2026-03-04T09:00:00Z", "end_time": "2026-03-04T10:00:00Z", "ai_agent_id": 1}`)
	for query, want := range map[string]string{
		"start_date=2026-03-02&end_date=2026-03-08": "Fitting Other", "start_date=2026-03-03&end_date=2026-03-03": "", "start_date=2026-03-03&end_date=2026-03-03&time_zone=Europe/Berlin": "Fitting",
		"start_date=2026-03-01&owner=ann": "Fitting", "start_date=2026-03-01&owner=nobody": "", "start_date=2026-03-01&status=cancelled": "", "start_date=2026-03-01&limit=1&page=2": "Other",
	} {
		rows, _ := a.operate(200, "GET", "/admin/v1/events?"+query, "")["events"].([]any)
		var titles []string
		for _, row := range rows {
			titles = append(titles, row.(map[string]any)["title"].(string))
		}
		if got := strings.Join(titles, " "); got != want {
			t.Errorf("%s: got %q, want %q", query, got, want)
		}
	}
	for query, want := range map[string]string{"time_zone=Mars": "invalid_parameter_format", "start_date=x": "invalid_parameter_format", "status=odd": "validation_error", "page=0": "validation_error"} {
		if w := a.control("GET", "/admin/v1/events?"+query, ""); code(w) != want {
			t.Errorf("%s: got %d %s, want %s", query, w.Code, w.Body, want)
		}
	}
	uuid := made["uuid"].(string)
	if v := a.operate(200, "PATCH", "/admin/v1/events/"+uuid, `{"title": "Second fitting"}`); v["title"] != "Second fitting" || v["start_time"] != "2026-03-02T22:30:00.000Z" || waiting() != 3 {
		t.Errorf("got %v with %v waiting", v, waiting())
	}
	if w := a.control("PATCH", "/admin/v1/events/1", `{"ai_agent_id": 1}`); code(w) != "agent_not_found" {
		t.Errorf("another owner's agent: got %d %s", w.Code, w.Body)
	}
	for range 2 {
		v := a.operate(200, "POST", "/admin/v1/events/1/cancel", `{"reason": "ill"}`)
		if notes := v["customer"].(map[string]any)["notes"]; v["status"] != "cancelled" || notes != "Cancelled: ill" || waiting() != 4 {
			t.Errorf("got %v, notes %v, %v waiting", v["status"], notes, waiting())
		}
	}
	a.operate(404, "GET", "/admin/v1/events/9", "")
	a.operate(404, "POST", "/admin/v1/events/9/cancel", "")
	// An event of the operator uses no unit of a key's limit. The owner's key sees it.
	_, key := a.key(`["can_read_calendar"]`, `"owner": "ann"`)
	if w := a.ask("GET", "/api/v1/calendar/events/1", key, ""); w.Code != 200 {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
}

func TestVariables_Desk(t *testing.T) {
	a := newTestApp(t)
	for body, want := range map[string]string{
		`{"name": "Visits"}`: "missing_parameter",
		`{"name": "Visits", "display_name": "Visits", "variable_type": "number", "context_type": "contact"}`: "validation_error",
		`{"name": "visits", "display_name": "Visits", "variable_type": "odd", "context_type": "contact"}`:    "validation_error",
		`{"name": "kind", "display_name": "Kind", "variable_type": "select", "context_type": "contact"}`:     "missing_parameter",
	} {
		if w := a.control("POST", "/admin/v1/variables", body); code(w) != want {
			t.Errorf("%s: got %d %s, want %s", body, w.Code, w.Body, want)
		}
	}
	made := a.operate(201, "POST", "/admin/v1/variables", `{"name": "visits", "display_name": "Visits", "variable_type": "number", "context_type": "business", "owner": "ann"}`)
	if made["owner"] != "ann" || made["id"] != 3.0 { // after the two built-in definitions
		t.Errorf("got %v", made)
	}
	if w := a.control("POST", "/admin/v1/variables", `{"name": "visits", "display_name": "Visits", "variable_type": "number", "context_type": "business", "owner": "ann"}`); code(w) != "duplicate_variable" {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	for query, want := range map[string]float64{"": 3, "?owner=ann": 3, "?owner=bob": 0, "?context_type=business": 2, "?search=VIS": 1} {
		if v := a.operate(200, "GET", "/admin/v1/variables"+query, ""); v["count"] != want {
			t.Errorf("%s: got %v, want %v", query, v["count"], want)
		}
	}
	if v := a.operate(200, "PATCH", "/admin/v1/variables/3", `{"display_name": "Times", "name": "other"}`); v["display_name"] != "Times" || v["name"] != "visits" {
		t.Errorf("got %v", v)
	}
	if w := a.control("DELETE", "/admin/v1/variables/1", ""); code(w) != "delete_not_allowed" {
		t.Errorf("a built-in one: got %d %s", w.Code, w.Body)
	}
	if v := a.operate(200, "PATCH", "/admin/v1/business-context", `{"owner": "ann", "variables": {"visits": 3, "company_name": "Lind KG"}}`); v["variables"].(map[string]any)["visits"] != 3.0 {
		t.Errorf("got %v", v)
	}
	told := a.operate(200, "GET", "/admin/v1/audit?action=business-context", "")["entries"].([]any)[0].(map[string]any)["detail"]
	if got := fmt.Sprint(told); got != "map[owner:ann variables:[company_name visits]]" {
		t.Errorf("the audit log: got %s", got)
	}
	for body, want := range map[string]string{
		`{"owner": "ann"}`: "missing_parameter", `{"owner": "ann", "variables": {"visits": "many"}}`: "invalid_value", `{"variables": {"unknown": 1}}`: "undefined_variable",
	} {
		if w := a.control("PATCH", "/admin/v1/business-context", body); code(w) != want {
			t.Errorf("%s: got %d %s, want %s", body, w.Code, w.Body, want)
		}
	}
	a.operate(200, "PATCH", "/admin/v1/business-context", `{"variables": {"own": true}, "auto_create_variables": true}`)
	if v := a.operate(200, "GET", "/admin/v1/business-context?owner=ann", ""); v["variables"].(map[string]any)["company_name"] != "Lind KG" {
		t.Errorf("got %v", v)
	}
	a.operate(200, "DELETE", "/admin/v1/variables/3", "")
	a.operate(404, "GET", "/admin/v1/variables/3", "")
}

// Events that only touch a range are not in it. This holds for both indexes: long
// events are found by their end.
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
				_, err := saveEvent(tx, event{ID: 1, UUID: "x", Owner: 1, Status: eventScheduled, Start: tt.start, End: tt.start.Add(length)})
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

// A reminder is due at its time, not before.
func TestDueReminders_Bounds(t *testing.T) {
	s := newTestStore(t)
	err := s.Update(func(tx *Tx) error {
		_, err := saveEvent(tx, event{Owner: 1, Status: eventScheduled, Start: epoch.Add(time.Hour), End: epoch.Add(2 * time.Hour), Remind: true, RemindBefore: 30})
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
		to             int // end of the window that begins at 9:00
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
		for _, slot := range freeSlots(slotQuery{s, dateRange{day, day, time.UTC}, 30 * time.Minute, busy, tt.now}) {
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
		"start_date=2026-03-01&end_date=2026-05-29": 200, "start_date=2026-03-01&end_date=2026-05-30": 400,
	} {
		if w := a.ask("GET", "/api/v1/calendar/availability?"+query, key, ""); w.Code != want {
			t.Errorf("%s: got %d %s, want %d", query, w.Code, w.Body, want)
		}
	}
}

// Windows of a day may touch, but must not be empty. If business hours only touch a
// window, nothing of the window is left.
func TestSchedules_Bounds(t *testing.T) {
	a := newTestApp(t)
	for i, tt := range []struct {
		windows string
		want    int
	}{
		{`"09:00-09:00"`, 400}, {`"09:00-09:01"`, 201}, {`"09:00-12:00", "12:00-13:00"`, 201}, {`"09:00-12:00", "11:59-13:00"`, 400},
		{`"00:00-24:00"`, 201}, {`"23:59-24:00"`, 201}, {`"24:00-24:00"`, 400}, {`"09:00-24:01"`, 400},
	} {
		body := fmt.Sprintf(`{"owner": "o%d", "time_zone": "UTC", "windows": {"monday": [%s]}}`, i, tt.windows)
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

// If the schedule of an owner cannot be read, no second schedule is created.
func TestSchedules_DamagedIsNotMissing(t *testing.T) {
	a := newTestApp(t)
	const body = `{"owner": "ann", "time_zone": "Europe/Berlin"}`
	a.operate(201, "POST", "/admin/v1/schedules", body)
	for bucket, want := range map[string]int{"schedules": 409, "schedules/owner": 500} { // the index records which owner has a schedule
		change := func() { // calling it twice restores the record
			t.Helper()
			if err := a.Store.Update(func(tx *Tx) error { return damageBucket(tx, bucket) }); err != nil {
				t.Fatal(err)
			}
		}
		change()
		if w := a.control("POST", "/admin/v1/schedules", body); w.Code != want {
			t.Errorf("%s: got %d %s, want %d", bucket, w.Code, w.Body, want)
		}
		change()
	}
	a.refuse("POST", "/admin/v1/schedules", body, 409, "conflict", "already has a schedule")
}
