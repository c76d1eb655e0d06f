package main

import (
	"strings"
	"testing"
)

func TestSchedulePages(t *testing.T) {
	b := newDashboard(t)
	stored := func() string { return b.control("GET", "/admin/v1/schedules/1", "").Body.String() }
	b.says(b.get("/schedules/new"), 200, `name="windows.monday" type="text" value="09:00-17:00"`, `name="windows.sunday" type="text" value=""`)
	form := []string{"owner", evil, "time_zone", "Europe/Berlin", "windows.monday", "09:00-12:00, 13:00-17:00", "buffer_minutes", "15"}
	b.says(b.post("/schedules", append([]string{"windows.tuesday", "17:00-09:00"}, form...)...), 400, "Tuesday must have windows such as", `value="17:00-09:00"`, `aria-invalid="true"`)
	b.says(b.post("/schedules", append(form[:2:2], "time_zone", "Mars")...), 400, "Time zone must be a name")
	b.sent(b.post("/schedules", form...), "/schedules/1?done=made")
	if got := stored(); !strings.Contains(got, `"monday":["09:00-12:00","13:00-17:00"]`) || !strings.Contains(got, `"tuesday":[]`) || !strings.Contains(got, `"business_hours":null`) {
		t.Errorf("got %s", got)
	}
	b.says(b.post("/schedules", form...), 409, "has a schedule already")
	page := b.get("/schedules/1")
	b.says(page, 200, `value="09:00-12:00, 13:00-17:00"`, "Monday to Friday, 9 to 17, UTC")
	b.tame("the schedule", page)
	b.tame("the list", b.get("/schedules"))
	b.sent(b.saveForm("/schedules/1", "windows.friday", "10:00-12:00", "business_hours.monday", "10:00-16:00"), "/schedules/1?done=saved")
	if got := stored(); !strings.Contains(got, `"friday":["10:00-12:00"]`) || !strings.Contains(got, `"monday":["09:00-12:00","13:00-17:00"]`) || !strings.Contains(got, `"business_hours":{"friday":[]`) {
		t.Errorf("got %s", got)
	}
	b.sent(b.saveForm("/schedules/1", "business_hours.monday", " "), "/schedules/1?done=saved")
	if got := stored(); !strings.Contains(got, `"business_hours":null`) {
		t.Errorf("got %s, want the business hours gone", got)
	}
	b.sent(b.post("/schedules/1/delete"), "/schedules?done=deleted")
	b.operate(404, "GET", "/admin/v1/schedules/1", "")
}
