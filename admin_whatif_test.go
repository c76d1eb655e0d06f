package main

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"
)

// tried returns what limits would have done, once what is in memory is stored. body is the rest of
// the request.
func (a *testApp) tried(body string) map[string]any {
	a.t.Helper()
	if err := a.App.history.Flush(); err != nil {
		a.t.Fatal(err)
	}
	return a.operate(200, "POST", "/admin/v1/limits/what-if", body)
}

// trials returns the limits in an answer, each as a line, and their rows.
func trials(answer map[string]any) (lines []string, rows [][]map[string]any) {
	for _, v := range answer["limits"].([]any) {
		one := v.(map[string]any)
		line := fmt.Sprintf("%v %v: %v asked, %v refused then, %v to %v, %v refuses none, %v of %v", one["name"], one["limit"], one["asked"], one["refused_then"],
			one["refused_least"], one["refused_most"], one["refuses_none"], one["hit"], one["count"])
		var list []map[string]any
		for _, row := range one["most_refused"].([]any) {
			list = append(list, row.(map[string]any))
		}
		lines, rows = append(lines, line), append(rows, list)
	}
	return lines, rows
}

func wantTrials(t testing.TB, what string, got []string, want ...string) {
	t.Helper()
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("%s: got\n%s\nwant\n%s", what, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestWhatIf_Minute has keys of two owners ask in every way that uses their limit per minute, and
// in some that do not.
func TestWhatIf_Minute(t *testing.T) {
	a := newTestApp(t)
	first, one := a.key(`["can_read_calls"]`, `"owner": "ann"`, `"limits": {"requests_per_minute_limit": 4}`)
	second, two := a.key(`["can_read_agents"]`, `"owner": "ann"`)
	third, asker := a.key(`["can_verify_keys"]`, `"owner": "ben"`)
	for range 6 { // two are refused
		a.ask("GET", "/api/v1/calls", one, "")
	}
	for range 3 { // without the permission, which uses the limit too
		a.ask("GET", "/api/v1/calls", two, "")
	}
	a.ask("GET", "/api/v1/key", two, "") // uses no limit
	a.question(asker, `{"key": "`+two+`", "cost": 2}`)
	a.question(asker, `{"key": "`+two+`", "cost": 0}`)
	a.clocks.Pass(2 * time.Minute)
	a.ask("GET", "/api/v1/calls", one, "")
	a.operate(200, "POST", "/admin/v1/keys/"+second+"/pause", "")
	a.ask("GET", "/api/v1/calls", two, "") // a paused key uses nothing

	lines, rows := trials(a.tried(`{"limits": {"requests_per_minute_limit": 3}}`))
	wantTrials(t, "all keys", lines, "requests_per_minute_limit 3: 14 asked, 2 refused then, 5 to 5, 6 refuses none, 2 of 3")
	for i, want := range []string{
		first + " ann, limit 4: 7 asked, 2 refused then, 3 to 3, 6 refuses none", second + " ann, limit 60: 5 asked, 0 refused then, 2 to 2, 5 refuses none",
		third + " ben, limit 60: 2 asked, 0 refused then, 0 to 0, 2 refuses none",
	} {
		row := rows[0][i]
		got := fmt.Sprintf("%v %v, limit %v: %v asked, %v refused then, %v to %v, %v refuses none", row["id"], row["owner"], row["limit"], row["asked"], row["refused_then"],
			row["refused_least"], row["refused_most"], row["refuses_none"])
		if got != want {
			t.Errorf("row %d: got %s, want %s", i, got, want)
		}
	}
	lines, _ = trials(a.tried(`{"limits": {"requests_per_minute_limit": 1, "owner_requests_per_minute_limit": 8}, "owner": "ann"}`))
	wantTrials(t, "an owner", lines, "owner_requests_per_minute_limit 8: 12 asked, 2 refused then, 3 to 3, 11 refuses none, 1 of 1",
		"requests_per_minute_limit 1: 12 asked, 2 refused then, 9 to 9, 6 refuses none, 2 of 2")
	lines, rows = trials(a.tried(`{"limits": {"requests_per_minute_limit": 5, "owner_requests_per_minute_limit": 100}, "key": "` + second + `"}`))
	wantTrials(t, "a key", lines, "owner_requests_per_minute_limit 100: 12 asked, 2 refused then, 0 to 0, 11 refuses none, 0 of 1",
		"requests_per_minute_limit 5: 5 asked, 0 refused then, 0 to 0, 5 refuses none, 0 of 1")
	if rows[0][0]["id"] != nil || rows[0][0]["owner"] != "ann" || rows[0][0]["limit"] != 0.0 {
		t.Errorf("the row of an owner: got %v", rows[0][0])
	}
	sandbox, try := a.key(`["can_read_calls"]`, `"owner": "ann"`, `"sandbox": true`)
	for range 9 {
		a.ask("GET", "/api/v1/calls", try, "")
	}
	lines, _ = trials(a.tried(`{"limits": {"requests_per_minute_limit": 3, "owner_requests_per_minute_limit": 100}}`))
	wantTrials(t, "all keys but those of sandboxes", lines, "owner_requests_per_minute_limit 100: 14 asked, 2 refused then, 0 to 0, 11 refuses none, 0 of 2",
		"requests_per_minute_limit 3: 14 asked, 2 refused then, 5 to 5, 6 refuses none, 2 of 3")
	lines, _ = trials(a.tried(`{"limits": {"requests_per_minute_limit": 3}, "key": "` + sandbox + `"}`))
	wantTrials(t, "a sandbox key", lines, "requests_per_minute_limit 3: 9 asked, 0 refused then, 6 to 6, 9 refuses none, 1 of 1")
	a.clocks.Pass(2 * time.Minute)
	a.ask("GET", "/api/v1/calls", one, "")
	a.restart()
	since := a.clocks.Read().Wall.Add(-time.Minute).Format(time.RFC3339)
	answer := a.tried(`{"limits": {"requests_per_minute_limit": 1}, "since": "` + since + `"}`)
	lines, _ = trials(answer)
	wantTrials(t, "the last minute", lines, "requests_per_minute_limit 1: 1 asked, 0 refused then, 0 to 0, 1 refuses none, 0 of 1")
	if answer["from"] != since || answer["recorded_since"] != since || answer["left_out"] != 0.0 {
		t.Errorf("got %v", answer)
	}
}

// A request that finds no place among those in flight, or that the store could not serve, has asked
// for nothing.
func TestAskedOf(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want Asked
	}{{nil, Asked{epoch, 3, 3}}, {ErrRateLimit.With("full"), Asked{epoch, 3, 0}}, {ErrUnavailable, Asked{}}} {
		if got := AskedOf(epoch, 3, tt.err); got != tt.want {
			t.Errorf("%v: got %v, want %v", tt.err, got, tt.want)
		}
	}
}

// TestWhatIf_Day tries limits on calls and events. Those of the operator and those that were
// refused do not count.
func TestWhatIf_Day(t *testing.T) {
	a := newTestApp(t)
	agent := a.operate(201, "POST", "/admin/v1/agents", `{"name": "Ada", "owner": "ann", "phone_number": "+4930555001"}`)["id"]
	id, key := a.key(everyPermission, `"owner": "ann"`, `"limits": {"calls_per_day_limit": 3}`)
	_, other := a.key(everyPermission, `"owner": "ann"`)
	try := a.sandboxKey(`"owner": "ann"`)
	for range 4 {
		if w := a.ask("POST", "/api/v1/calls", try, fmt.Sprintf(`{"agent_id": %v, "phone_number": "+4930123456"}`, a.firstAgent(try))); w.Code != 201 {
			t.Fatalf("in the sandbox: got %d %s", w.Code, w.Body)
		}
	}
	call := func(key string, want int) {
		t.Helper()
		if w := a.ask("POST", "/api/v1/calls", key, fmt.Sprintf(`{"agent_id": %v, "phone_number": "+4930123456"}`, agent)); w.Code != want {
			t.Fatalf("got %d %s, want %d", w.Code, w.Body, want)
		}
	}
	call(key, 201)
	a.clocks.Pass(12 * time.Hour)
	call(key, 201)
	call(key, 201)
	call(key, 429)
	call(other, 201)
	a.operate(201, "POST", "/admin/v1/calls", fmt.Sprintf(`{"type": "inbound", "agent_id": %v, "phone_number": "+4930123456", "owner": "ann"}`, agent))
	a.clocks.Pass(12 * time.Hour) // the first no longer counts
	call(key, 201)
	event := a.ask("POST", "/api/v1/calendar/events/create", key, `{"title": "x", "start_time": "2026-03-01T09:00:00Z", "end_time": "2026-03-01T10:00:00Z", "event_type": "meeting"}`)
	if event.Code != 201 {
		t.Fatalf("got %d %s", event.Code, event.Body)
	}
	answer := a.tried(`{"limits": {"calls_per_day_limit": 2, "owner_calls_per_day_limit": 3, "calendar_events_per_day_limit": 1}}`)
	lines, rows := trials(answer)
	wantTrials(t, "a day", lines, "calendar_events_per_day_limit 1: 1 asked, <nil> refused then, 0 to 0, 1 refuses none, 0 of 1",
		"calls_per_day_limit 2: 5 asked, <nil> refused then, 1 to 1, 3 refuses none, 1 of 2",
		"owner_calls_per_day_limit 3: 5 asked, <nil> refused then, 1 to 1, 4 refuses none, 1 of 1")
	if row := rows[1][0]; row["id"] != id || row["limit"] != 3.0 || row["refused_most"] != 1.0 {
		t.Errorf("got %v", row)
	}
}

func TestWhatIf_Mistakes(t *testing.T) {
	a := newTestApp(t)
	id, _ := a.key(`["can_read_agents"]`, `"owner": "ann"`)
	for _, tt := range []struct {
		status     int
		body, want string
	}{
		{400, `{}`, "limits is missing"},
		{400, `{"limits": null}`, "limits is missing"},
		{400, `{"limits": {}}`, "limits has no member"},
		{400, `{"limits": []}`, "limits must be an object"},
		{400, `{"limits": {"requests_per_minute_limit": 0}}`, "limits.requests_per_minute_limit must be a whole number from 1"},
		{400, `{"limits": {"requests_per_minute_limit": null}}`, "limits.requests_per_minute_limit must be a whole number from 1"},
		{400, `{"limits": {"requests_per_minute_limit": "3"}}`, "limits.requests_per_minute_limit must be a whole number from 1"},
		{400, `{"limits": {"concurrent_requests": 3}}`, "Send one of requests_per_minute_limit, calls_per_day_limit"},
		{400, `{"limits": {"requests_per_minute_limit": 3}, "key": "` + id + `", "owner": "ann"}`, "cannot be used together"},
		{400, `{"limits": {"requests_per_minute_limit": 3}, "since": "2027-01-01T00:00:00Z"}`, "since must be in the past"},
		{400, `{"limits": {"requests_per_minute_limit": 3}, "since": "7d"}`, "since must be a time such as"},
		{404, `{"limits": {"requests_per_minute_limit": 3}, "key": "key_none"}`, ""},
		{404, `{"limits": {"requests_per_minute_limit": 3}, "owner": "nobody"}`, ""},
	} {
		if text := fmt.Sprint(a.operate(tt.status, "POST", "/admin/v1/limits/what-if", tt.body)["message"]); !strings.Contains(text, tt.want) {
			t.Errorf("%s: got %q, want %q", tt.body, text, tt.want)
		}
	}
	lines, _ := trials(a.tried(`{"limits": {"requests_per_minute_limit": 3}}`))
	wantTrials(t, "before any request", lines, "requests_per_minute_limit 3: 0 asked, 0 refused then, 0 to 0, 0 refuses none, 0 of 0")
}

// TestCommands_WhatIf tries limits by the command.
func TestCommands_WhatIf(t *testing.T) {
	w := &commandWalk{testApp: newTestApp(t), dir: t.TempDir()}
	id, key := w.key(`["can_read_agents"]`, `"owner": "ann"`, `"limits": {"requests_per_minute_limit": 4}`)
	for range 6 {
		w.ask("GET", "/api/v1/agents", key, "")
	}
	if err := w.App.history.Flush(); err != nil {
		t.Fatal(err)
	}
	run := func(exit int, want string, args ...string) {
		t.Helper()
		var out bytes.Buffer
		got, errs := w.run(&out, append([]string{"limits", "what-if"}, args...)...)
		if text := strings.Join(strings.Fields(out.String()+errs), " "); got != exit || !strings.Contains(text, want) {
			t.Errorf("%q: exit %d, got %s, want %q", args, got, text, want)
		}
	}
	run(0, "requests_per_minute_limit 3 1 of 1 6 2 3 6 requests_per_minute_limit KEY NAME OWNER NOW ASKED REFUSED THEN WOULD REFUSE REFUSES NONE "+id+" test ann 4 6 2 3 6",
		"--limit", "requests_per_minute_limit=3")
	run(0, "calls_per_day_limit 1 0 of 0 0 - 0 0 owner_requests_per_minute_limit 9 0 of 1 6 2 0 6", "--limit", "owner_requests_per_minute_limit=9", "--limit", "calls_per_day_limit=1", "--key", "test", "--since", "2026-02-03")
	run(0, `"refused_most": 5`, "--limit", "requests_per_minute_limit=1", "--owner", "ann", "--json")
	run(1, "limits.requests_per_minute_limit must be a whole number from 1 to 1000000000", "--limit", "requests_per_minute_limit=default")
	run(1, "since must be in the past", "--limit", "requests_per_minute_limit=1", "--since", "1h") // the clock of the test is in the past
	run(2, "--limit is needed")
	run(2, "--since must be a day such as", "--limit", "requests_per_minute_limit=1", "--since", "soon")
	run(2, "--owner has no effect with --key", "--limit", "requests_per_minute_limit=1", "--owner", "ann", "--key", "test")
}
