package main

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestDisplay_Choices chooses a theme, a time zone and a form of dates, which only the operator sees.
func TestDisplay_Choices(t *testing.T) {
	b := newDashboard(t)
	id, key := b.key(`["can_read_agents"]`)
	b.ask("GET", "/api/v1/agents", key, "")
	b.tells("/activity", `<html lang="en">`, `<h2>Tuesday, 2026-02-03</h2>`, ">09:00:00</time>", `data-zone="UTC" data-dates="">Times are in <a href="/account">UTC</a>`)
	b.sent(b.post("/account/preferences", "theme", "dark", "time_zone", "Asia/Tokyo", "dates", "en-US"), "/account?done=saved")
	page := b.tells("/account", `<html lang="en" data-theme="dark">`, `value="Asia/Tokyo"`, `<option value="dark" selected>`, `<option value="en-US" selected>`)
	if strings.Contains(page, "2026-02-03 09") {
		t.Error("the account still has a time in the old form")
	}
	b.tells("/activity", `<h2>Tuesday, 02/03/2026</h2>`, ">6:00:00 PM</time>", `data-zone="Asia/Tokyo" data-dates="en-US">Times are in <a href="/account">Asia/Tokyo</a>`)
	b.tells("/keys/"+id, "02/03/2026, 6:00 PM")
	b.tells("/requests", "02/03/2026, 6:00:00 PM")
	b.tells("/", "As of 6:00:00 PM.")
	for path, want := range map[string]string{"theme=pink&time_zone=&dates=": "Choose a theme", "theme=&time_zone=Mars&dates=": "The time zone must be", "theme=&time_zone=&dates=xx": "Choose a form of dates"} {
		pairs := strings.FieldsFunc(path, func(r rune) bool { return r == '&' })
		form := []string{}
		for _, pair := range pairs {
			name, value, _ := strings.Cut(pair, "=")
			form = append(form, name, value)
		}
		b.says(b.post("/account/preferences", form...), 400, want)
	}
	b.tells("/account", `data-theme="dark"`)

	other := newBrowser(b.testApp)
	other.operate(201, "POST", "/admin/v1/operators", `{"name": "Ben", "password": "`+operatorPassword+`"}`)
	other.post("/login", "name", "ben", "password", operatorPassword)
	other.tells("/activity", `<html lang="en">`, `<h2>Tuesday, 2026-02-03</h2>`)

	again := newBrowser(b.testApp)
	again.tells("/login", `<html lang="en">`)
	again.post("/login", "name", "ann", "password", operatorPassword)
	again.tells("/activity", `data-theme="dark"`, "6:00:00 PM")
}

// TestDisplay_NoMarks opens all pages without a parameter: no time is left as a mark.
func TestDisplay_NoMarks(t *testing.T) {
	b := newDashboard(t)
	b.key(`["can_read_agents"]`)
	for _, pattern := range pagePatterns(t) {
		path, is := strings.CutPrefix(pattern, "GET ")
		if !is || strings.Contains(path, "{id}") {
			continue
		}
		if body := b.get(strings.TrimSuffix(path, "{$}")).Body.String(); strings.ContainsAny(body, "\x02\x03") {
			t.Errorf("%s has the mark of a time", path)
		}
	}
}

// TestDisplay_Days filters the activity by a day, and lets a key expire on one, in the time zone of the operator.
func TestDisplay_Days(t *testing.T) {
	b := newDashboard(t) // at 2026-02-03 09:00 UTC
	b.sent(b.post("/account/preferences", "theme", "", "time_zone", "Pacific/Kiritimati", "dates", ""), "/account?done=saved")
	b.clocks.Pass(3 * time.Hour) // in Kiritimati, 14 hours ahead, it is the next day now
	id, _ := b.key(`["can_read_agents"]`)
	for query, want := range map[string]string{"from=2026-02-04": "1 found", "to=2026-02-03": "3 found", "from=2026-02-03&to=2026-02-04": "4 found", "from=2026-02-05": "0 found"} {
		b.tells("/activity?"+query, want, "day in Pacific/Kiritimati", `value="2026-02-0`)
	}
	page := b.tells("/activity?from=2026-02-04", `href="/admin/v1/audit?format=csv&amp;from=2026-02-03T10%3A00%3A00Z"`)
	if strings.Contains(page, "changed own preferences") {
		t.Error("the page has an entry of the day before")
	}
	for _, day := range []string{"2026-02-10", "2026-02-11"} {
		b.sent(b.post("/keys/"+id+"/edit", "expires", day, "was.expires", b.mark("/keys/"+id, "expires")), "/keys/"+id+"?done=saved")
		b.tells("/keys/"+id, day+" 23:59", `value="`+day+`"`)
	}
	if at := b.operate(200, "GET", "/admin/v1/keys/"+id, "")["expires_at"]; at != "2026-02-11T09:59:59Z" {
		t.Errorf("got expiry %v", at)
	}
}

// TestDisplay_Presets saves the form of a new key as a preset, uses it and removes it. Nobody else sees it.
func TestDisplay_Presets(t *testing.T) {
	b := newDashboard(t)
	b.tells("/keys/new", "Save as preset")
	b.says(b.post("/keys/presets", "name", "", "permission", "can_read_calls"), 400, "Type a name")
	b.says(b.post("/keys/presets", "name", "Booking site", "note", "vault", "permission", "can_read_calls", "permission", "can_read_agents", "expiry", "30d", "limit.requests_per_minute_limit", "7", "ips", "192.0.2.0/24"),
		200, "Saved as the preset Booking site", `name="own" value="Booking site"`, `value="vault"`)
	b.sent(b.post("/account/preferences", "theme", "dark", "time_zone", "", "dates", ""), "/account?done=saved")
	page := b.tells("/keys/new?own=Booking+site&name=typed&permission=can_write_calendar", `value="typed"`, `value="7"`, `value="192.0.2.0/24"`, `<option value="30d" selected>`)
	if strings.Contains(page, "vault") || !regexp.MustCompile(`value="can_read_agents"[^>]* checked`).MatchString(page) || regexp.MustCompile(`value="can_write_calendar"[^>]* checked`).MatchString(page) {
		t.Errorf("the form does not have the permissions of the preset: %s", page)
	}
	other := newBrowser(b.testApp)
	other.operate(201, "POST", "/admin/v1/operators", `{"name": "Ben", "password": "`+operatorPassword+`"}`)
	other.post("/login", "name", "ben", "password", operatorPassword)
	if page := other.tells("/keys/new?own=Booking+site"); strings.Contains(page, `name="own"`) {
		t.Error("another operator sees the preset")
	}
	for i := range 9 {
		b.says(b.post("/keys/presets", "name", fmt.Sprint("p", i), "permission", "can_read_calls"), 200, "Saved as the preset")
	}
	b.says(b.post("/keys/presets", "name", "p10", "permission", "can_read_calls"), 400, "There can be 10 presets")
	b.says(b.post("/keys/presets", "name", "Booking site", "permission", "can_read_calls"), 200, "Saved as the preset")
	b.says(b.post("/keys/presets", "name", "typed", "remove", "Booking site"), 200, "Preset Booking site removed.", `value="typed"`)
	if page := b.tells("/keys/new"); strings.Contains(page, "Booking site") {
		t.Error("the preset is still there")
	}
}
