package main

import (
	"fmt"
	"strings"
	"testing"
)

// TestEventPages goes through an event's life on the pages, in a time zone.
func TestEventPages(t *testing.T) {
	b := newDashboard(t)
	b.operate(201, "POST", "/admin/v1/schedules", `{"time_zone": "Europe/Berlin"}`)
	b.operate(201, "POST", "/admin/v1/agents", `{"name": "Front desk"}`)
	b.says(b.get("/calendar/events/new?start_time=2026-03-02T09:00"), 200, `value="2026-03-02T09:00"`, "time of Europe/Berlin", `name="zone" value="Europe/Berlin"`)
	form := []string{"zone", "Europe/Berlin", "title", evil, "start_time", "2026-03-02T09:00", "end_time", "2026-03-02T09:45", "event_type", "appointment", "status", "confirmed",
		"customer_name", evil, "video_conference_url", "javascript:alert(1)", "ai_agent_id", "1"}
	w := b.post("/calendar/events", append(append([]string{}, form[:6]...), "end_time", "2026-03-02T09:00", "event_type", "appointment", "status", "confirmed")...)
	b.says(w, 400, "End must be after start_time", `aria-invalid="true"`)
	b.tame("the form", w)
	at := b.sent(b.post("/calendar/events", form...), "/calendar/events/1?done=made&zone=Europe%2FBerlin")
	if v := b.operate(200, "GET", "/admin/v1/events/1", ""); v["start_time"] != "2026-03-02T08:00:00.000Z" || v["is_reminder_enabled"] != false || v["ai_agent"].(map[string]any)["id"] != 1.0 {
		t.Errorf("got %v", v)
	}
	page := b.get(at)
	b.says(page, 200, "2026-03-02 09:00", "Times of Europe/Berlin", "http://127.0.0.1:8080/calendar/event/", `href="/calendar?week=2026-03-02&amp;zone=Europe%2FBerlin"`)
	b.tame("the event", page)
	if strings.Contains(page.Body.String(), `href="javascript`) {
		t.Error("an address that is none of the web is a link")
	}
	b.says(b.get("/calendar/events/1?zone=UTC"), 200, "2026-03-02 08:00", `value="2026-03-02T08:00"`)
	b.says(b.saveForm("/calendar/events/1", "zone", "Europe/Berlin", "start_time", "yesterday"), 400, "Start must be a date and a time", `value="yesterday"`)
	b.sent(b.saveForm("/calendar/events/1", "zone", "Europe/Berlin", "end_time", "2026-03-02T10:30"), "/calendar/events/1?done=saved")
	if v := b.operate(200, "GET", "/admin/v1/events/1", ""); v["end_time"] != "2026-03-02T09:30:00.000Z" || v["status"] != "confirmed" {
		t.Errorf("got %v", v)
	}
	b.says(b.get("/calendar/events?start_date=2026-03-01&status=confirmed"), 200, "1 found", "2026-03-02 09:00", "/calendar/events/1?zone=Europe%2FBerlin")
	b.says(b.get("/calendar/events?start_date=x"), 400, "From must be a date")
	b.sent(b.post("/calendar/events/1/cancel", "reason", evil), "/calendar/events/1?done=cancelled")
	page = b.get("/calendar/events/1")
	b.says(page, 200, "Cancelled: ")
	b.tame("the cancelled event", page)
	if strings.Contains(page.Body.String(), "Cancel event") {
		t.Error("a cancelled event can be cancelled")
	}
	b.says(b.post("/calendar/events/7/cancel"), 404, "No such object")
}

func TestCalendarPages_Week(t *testing.T) {
	b := newDashboard(t) // it is a Tuesday, 3 February 2026, 9:00 UTC
	event := func(title, from, to string) {
		b.operate(201, "POST", "/admin/v1/events", fmt.Sprintf(`{"title": %q, "start_time": %q, "end_time": %q}`, title, from, to))
	}
	b.says(b.get("/calendar"), 200, "2 February to 8 February 2026, times of UTC", "0 events", `href="/calendar?week=2026-01-26&amp;zone=UTC"`, `href="/calendar?week=2026-02-09&amp;zone=UTC"`, `class="day today"`)
	event("Early", "2026-02-02T05:30:00Z", "2026-02-02T06:30:00Z")
	event("Beside", "2026-02-02T06:00:00Z", "2026-02-02T07:00:00Z")
	event("Fair", "2026-02-03T00:00:00Z", "2026-02-06T00:00:00Z")
	event("Night", "2026-02-08T23:00:00Z", "2026-02-09T01:00:00Z")
	event("Next week", "2026-02-10T10:00:00Z", "2026-02-10T11:00:00Z")
	event(evil, "2026-02-05T10:00:00Z", "2026-02-05T10:05:00Z")
	page := b.get("/calendar")
	// The grid begins at 5:00, one unit to a minute; two events stand side by side.
	b.says(page, 200, "5 events", `<foreignObject x="0.00%" y="30" width="50.00%" height="60">`, `<foreignObject x="50.00%" y="60" width="50.00%" height="60">`,
		`<foreignObject x="0.00%" y="300" width="100.00%" height="28">`, `>05:00<`, `>24:00<`, "05:30 to 06:30")
	b.tame("the week", page)
	if body := page.Body.String(); strings.Contains(body, "Next week") || strings.Count(body, `<foreignObject`) != 4 || strings.Count(body, ">Fair<") != 6 || strings.Count(body, ">Night<") != 2 {
		t.Errorf("got %d blocks, %d of the fair: %s", strings.Count(body, "<foreignObject"), strings.Count(body, ">Fair<"), body)
	}
	b.says(b.get("/calendar?zone=Europe%2FBerlin"), 200, "06:30 to 07:30", "4 events")
	b.says(b.get("/calendar?week=2026-02-09&zone=Europe%2FBerlin"), 200, "9 February to 15 February 2026", "Night", "Next week")
	b.says(b.get("/calendar?owner=nobody"), 200, "0 events")
	b.says(b.get("/calendar?week=soon"), 400, "week must be a date")
	b.says(b.get("/calendar?zone=Mars"), 200, "times of UTC")
}
