package main

import (
	"strings"
	"testing"
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
