package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// newCallApp returns an app with records of the default owner: agent 1 with a phone
// number, agent 2 without one, contact 1, and contact 2, who must not be called.
func newCallApp(t testing.TB, change ...func(*Config)) *testApp {
	a := newTestApp(t, change...)
	a.operate(201, "POST", "/admin/v1/agents", `{"name": "Front desk", "phone_number": "+4930555001"}`)
	a.operate(201, "POST", "/admin/v1/agents", `{"name": "Mute"}`)
	a.operate(201, "POST", "/admin/v1/contacts", `{"first_name": "Mara", "last_name": "Lind", "email": "mara@example.net", "company": "Lind KG", "phone_numbers": [{"phone_number": "+4930555010"}]}`)
	a.operate(201, "POST", "/admin/v1/contacts", `{"first_name": "No", "phone_numbers": [{"phone_number": "+4930555666", "do_not_call": true}]}`)
	return a
}

// object returns the decoded body of an answer.
func object(t testing.TB, body string) map[string]any {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal([]byte(body), &v); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	return v
}

// members returns the names of the fields in an object.
func members(v any) string {
	var names []string
	o, _ := v.(map[string]any)
	for name := range o {
		names = append(names, name)
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

// TestCalls_StartRefuses checks the errors in the order of contract 3.3. Each body
// also has the mistakes that are checked later.
func TestCalls_StartRefuses(t *testing.T) {
	a := newCallApp(t)
	a.operate(201, "POST", "/admin/v1/do-not-call", `{"phone_number": "+4930555999"}`)
	a.operate(200, "PATCH", "/admin/v1/owners/1", `{"balance": 0.1, "rate": 0.4}`)
	_, key := a.key(everyPermission)
	for _, tt := range []struct {
		body   string
		status int
		code   string
	}{
		{``, 400, "invalid_json"},
		{`{"phone_number": `, 400, "invalid_json"},
		{`{}`, 400, "missing_phone_number"},
		{`{"phone_number": null, "agent_id": 1}`, 400, "missing_phone_number"},
		{`{"phone_number": "", "agent_id": 1}`, 400, "missing_phone_number"},
		{`{"phone_number": "12"}`, 400, "missing_agent_id"},
		{`{"phone_number": "12", "agent_id": ""}`, 400, "missing_agent_id"},
		{`{"phone_number": 12, "agent_id": 9}`, 400, "validation_error"},
		{`{"phone_number": "12", "agent_id": []}`, 400, "validation_error"},
		{`{"phone_number": "12", "agent_id": 1.5}`, 400, "validation_error"},
		{`{"phone_number": "12", "agent_id": 9, "contact_id": "x"}`, 400, "invalid_phone_number"},
		{`{"phone_number": "030555044", "agent_id": 9}`, 400, "invalid_phone_number"},
		{`{"phone_number": "+4930555999", "agent_id": 9, "contact_id": "x"}`, 400, "validation_error"},
		{`{"phone_number": "+4930555999", "agent_id": 9, "variables": []}`, 400, "validation_error"},
		{`{"phone_number": "+4930555999", "agent_id": 9, "contact_id": 99}`, 403, "do_not_call"},
		{`{"phone_number": "+4930555666", "agent_id": 9, "contact_id": 99}`, 403, "do_not_call"},
		{`{"phone_number": "+4930555044", "agent_id": 9, "contact_id": 99}`, 404, "agent_not_found"},
		{`{"phone_number": "+4930555044", "agent_id": "assistant_none", "contact_id": 99}`, 404, "agent_not_found"},
		{`{"phone_number": "+4930555044", "agent_id": 2, "contact_id": 99}`, 404, "no_phone_number"},
		{`{"phone_number": "+4930555044", "agent_id": 1, "contact_id": 99}`, 404, "not_found"},
		{`{"phone_number": "+4930555044", "agent_id": 1, "contact_id": 1}`, 402, "insufficient_funds"},
	} {
		w := a.ask("POST", "/api/v1/calls", key, tt.body)
		if w.Code != tt.status || code(w) != tt.code {
			t.Errorf("%s: got %d %s, want %d %s", tt.body, w.Code, w.Body, tt.status, tt.code)
		}
		if v := object(t, w.Body.String()); w.Code == 402 && (v["current_balance"] != 0.1 || v["required_rate"] != 0.4) {
			t.Errorf("402: got %v", v)
		}
	}
	if got := a.operate(200, "GET", "/admin/v1/calls", "")["count"]; got != 0.0 {
		t.Errorf("got %v calls, want none stored", got)
	}
	usage := object(t, a.ask("GET", "/api/v1/key", key, "").Body.String())["usage"].(map[string]any)[CallsPerDay].(map[string]any)
	if usage["used"] != 0.0 {
		t.Errorf("got %v, want nothing charged", usage)
	}
}

func TestCalls_Start(t *testing.T) {
	a := newCallApp(t)
	_, key := a.key(everyPermission)
	w := a.ask("POST", "/api/v1/calls/", key, `{"phone_number": "+4930555044", "agent_id": "1", "contact_id": 1, "variables": {"a": {"b": [1, 12345678901234567890]}}}`)
	v := object(t, w.Body.String())
	if w.Code != 201 || members(v) != "agent call_id created_at estimated_start id phone_number status type" || members(v["agent"]) != "assistant_id id name" {
		t.Fatalf("got %d %s", w.Code, w.Body)
	}
	if v["id"] != 1.0 || v["status"] != "queued" || v["type"] != "outbound" || v["created_at"] != "2026-02-03T09:00:00Z" || v["estimated_start"] != "2026-02-03T09:00:05Z" {
		t.Errorf("got %s", w.Body)
	}
	if got := w.Header().Get("Ratelimit"); got != `"requests_per_minute";r=59;t=60, "calls_per_day";r=99;t=86400` {
		t.Errorf("got RateLimit %s", got)
	}
	admin := a.operate(200, "GET", "/admin/v1/calls/1", "")
	if text, _ := json.Marshal(admin["variables"]); !strings.HasPrefix(string(text), `{"a":{"b":[1,1234567890123456`) {
		t.Errorf("got variables %s", text)
	}
}

func TestCalls_DailyLimit(t *testing.T) {
	a := newCallApp(t)
	_, key := a.key(everyPermission, `"limits": {"calls_per_day_limit": 3}`)
	const body = `{"phone_number": "+4930555044", "agent_id": 1}`
	start := func(want int) string {
		t.Helper()
		w := a.ask("POST", "/api/v1/calls", key, body)
		if w.Code != want {
			t.Errorf("got %d %s, want %d", w.Code, w.Body, want)
		}
		return w.Header().Get("Retry-After")
	}
	for range 3 {
		start(201)
		a.clocks.Pass(time.Hour)
	}
	if got := start(429); got != fmt.Sprint(21*3600) {
		t.Errorf("got Retry-After %s, want 21 hours", got)
	}
	a.restart()
	start(429)
	if got := a.operate(200, "GET", "/admin/v1/calls", "")["count"]; got != 3.0 {
		t.Errorf("got %v calls, want 3", got)
	}
	a.clocks.Pass(21 * time.Hour)
	start(201)
	start(429)
}

func TestCalls_Shapes(t *testing.T) {
	a := newCallApp(t)
	_, key := a.key(everyPermission)
	a.operate(201, "POST", "/admin/v1/calls", `{"agent_id": 1, "phone_number": "+4930555010", "contact_id": 1, "status": "completed", "started_at": "2026-02-03T08:15:00Z", "ended_at": "2026-02-03T08:17:10Z",
		"summary": "Moved.", "transcript": "Hello", "recording_url": "https://files.example.net/1.mp3"}`)
	list := object(t, a.ask("GET", "/api/v1/calls", key, "").Body.String())
	row := list["calls"].([]any)[0].(map[string]any)
	if members(list) != "calls count limit page pages" || list["limit"] != 10.0 {
		t.Errorf("got list %v", list)
	}
	if got := members(row); got != "agent_id agent_name contact duration_seconds ended_at id phone_number recording_url started_at status summary type" {
		t.Errorf("got row %s", got)
	}
	if row["duration_seconds"] != 130.0 || members(row["contact"]) != "company email id name" || !strings.HasPrefix(row["id"].(string), "call_") || !strings.HasPrefix(row["agent_id"].(string), "assistant_") {
		t.Errorf("got row %v", row)
	}
	for _, ref := range []string{"1", row["id"].(string)} {
		one := object(t, a.ask("GET", "/api/v1/calls/"+ref, key, "").Body.String())
		if got := members(one); got != "agent billing call_id contact duration_seconds ended_at id phone_number recording_url started_at status summary team transcript type" {
			t.Errorf("got call %s", got)
		}
		if one["id"] != 1.0 || one["call_id"] != row["id"] || members(one["contact"]) != "company email id last_call_date name stage status" || members(one["billing"]) != "final_charge initial_charge status total_charge" {
			t.Errorf("got call %v", one)
		}
	}
}

// callPages returns the ids on all pages of a list. Each page must have the same
// count.
func (a *testApp) callPages(key, query string, count float64) map[string]bool {
	a.t.Helper()
	seen := map[string]bool{}
	for page := 1; ; page++ {
		v := object(a.t, a.ask("GET", fmt.Sprintf("/api/v1/calls?page=%d&limit=7%s", page, strings.Replace(query, "?", "&", 1)), key, "").Body.String())
		if v["count"] != count {
			a.t.Fatalf("%s: got count %v, want %v", query, v["count"], count)
		}
		rows := v["calls"].([]any)
		for _, row := range rows {
			seen[row.(map[string]any)["id"].(string)] = true
		}
		if len(rows) == 0 {
			return seen
		}
	}
}

func TestCalls_ListFilters(t *testing.T) {
	a := newCallApp(t)
	a.operate(201, "POST", "/admin/v1/teams", `{"name": "T", "members": ["admin", "bob"]}`)
	a.operate(201, "POST", "/admin/v1/agents", `{"name": "Shared", "phone_number": "+4930555003", "team_id": 1}`)
	_, key := a.key(everyPermission, `"limits": {"requests_per_minute_limit": 1000}`)
	_, bob := a.key(everyPermission, `"owner": "bob"`)
	_, eve := a.key(everyPermission, `"owner": "eve"`)
	for i := range 30 {
		a.clocks.Pass(time.Second)
		agent := 1 + 2*(i%2)
		if w := a.ask("POST", "/api/v1/calls", key, fmt.Sprintf(`{"phone_number": "+4930555044", "agent_id": %d}`, agent)); w.Code != 201 {
			t.Fatalf("got %d %s", w.Code, w.Body)
		}
	}
	for id := 1; id <= 10; id++ {
		a.operate(200, "PATCH", fmt.Sprintf("/admin/v1/calls/%d", id), `{"status": "in-progress"}`)
	}
	a.operate(200, "PATCH", "/admin/v1/calls/1", `{"status": "completed"}`)
	a.operate(200, "PATCH", "/admin/v1/calls/30", `{"status": "failed", "error_reason": "busy"}`)
	a.operate(201, "POST", "/admin/v1/calls", `{"agent_id": 1, "phone_number": "+4930555010"}`)
	for _, tt := range []struct {
		key, query string
		count      float64
	}{
		{key, "", 31}, {key, "?status=queued", 19}, {key, "?status=in-progress", 10}, {key, "?status=completed", 1}, {key, "?status=failed", 1}, {key, "?type=inbound", 1},
		{key, "?agent_id=3", 15}, {key, "?agent_id=3&status=queued", 9}, {key, "?agent_id=77", 0}, {bob, "", 15}, {bob, "?status=queued", 9}, {eve, "", 0},
	} {
		seen := a.callPages(tt.key, tt.query, tt.count)
		if float64(len(seen)) != tt.count {
			t.Errorf("%s: the pages have %d calls, want %v", tt.query, len(seen), tt.count)
		}
	}
	for _, query := range []string{"?status=lost", "?type=x"} {
		if w := a.ask("GET", "/api/v1/calls"+query, key, ""); w.Code != 400 || code(w) != "validation_error" {
			t.Errorf("%s: got %d %s", query, w.Code, w.Body)
		}
	}
	for who, want := range map[string]int{key: 200, bob: 404, eve: 404} {
		if w := a.ask("GET", "/api/v1/calls/1", who, ""); w.Code != want {
			t.Errorf("a call of an agent in no team: got %d, want %d", w.Code, want)
		}
	}
	if w := a.ask("GET", "/api/v1/calls/2", bob, ""); w.Code != 200 {
		t.Errorf("a call of the team's agent: got %d, want 200", w.Code)
	}
}

// A lease is valid before its end, but not at its end. The call lapses at that
// moment.
func TestLease_Bounds(t *testing.T) {
	a := newCallApp(t)
	_, key := a.key(everyPermission)
	if w := a.ask("POST", "/api/v1/calls", key, `{"phone_number": "+4930555044", "agent_id": 1}`); w.Code != 201 {
		t.Fatalf("got %d %s", w.Code, w.Body)
	}
	lease := a.operate(200, "POST", "/admin/v1/calls/claim", `{"lease_seconds": 60}`)["lease"].(map[string]any)
	text, _ := json.Marshal(map[string]any{"lease_token": lease["token"]})
	_ = a.Store.View(func(tx *Tx) error {
		c, err := findCall(tx, "1")
		if err != nil {
			t.Fatal(err)
		}
		for after, holds := range map[time.Duration]bool{-time.Nanosecond: true, 0: false, time.Nanosecond: false} {
			body, err := ParseBody(text)
			if err != nil {
				t.Fatal(err)
			}
			now := c.Lease.Until.Add(after)
			if err := c.CheckLease(body, now); (err == nil) != holds {
				t.Errorf("%s after the end: got %v, want that it holds: %v", after, err, holds)
			}
			if calls, err := lapsedCalls(tx, now, 10); (len(calls) == 0) != holds || err != nil {
				t.Errorf("%s after the end: %d calls have lapsed, %v; want that it holds: %v", after, len(calls), err, holds)
			}
		}
		return nil
	})
}

// A call may end at the moment at which it starts, but not before.
func TestMove_EndAndStart(t *testing.T) {
	a := newCallApp(t)
	for after, ok := range map[time.Duration]bool{-time.Nanosecond: false, 0: true, time.Nanosecond: true} {
		err := a.Store.Update(func(tx *Tx) error {
			c := call{Owner: 1, Status: callInProgress, StartedAt: epoch, EndedAt: epoch.Add(after)}
			return changeStatus(tx, &c, callCompleted, epoch)
		})
		if (err == nil) != ok || err != nil && !errors.Is(err, ErrValidation) {
			t.Errorf("ends %s after its start: got %v, want ok %v", after, err, ok)
		}
	}
}

// If a dialer stops reporting, the call ends when its lease ends, but never before
// the call started.
func TestLapse_EndsWithTheLease(t *testing.T) {
	a := newCallApp(t)
	for after, want := range map[time.Duration]time.Duration{-time.Second: 0, 0: 0, time.Second: time.Second} {
		err := a.Store.Update(func(tx *Tx) error {
			c, err := saveCall(tx, call{Owner: 1, Status: callInProgress, Type: callTypes()[0], CreatedAt: epoch, StartedAt: epoch, Lease: lease{Until: epoch.Add(after)}})
			if err != nil {
				return err
			}
			if problems, err := lapse(tx, epoch.Add(time.Minute)); err != nil || problems != nil {
				return errors.Join(err, problems)
			}
			if c, err = callTable.Get(tx, IDKey(c.ID)); c.Status != callFailed || !c.EndedAt.Equal(epoch.Add(want)) {
				t.Errorf("a lease that ends %s after the start: got %s at %s, want it failed %s after", after, c.Status, c.EndedAt, want)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// A call whose contact is damaged cannot be billed. It is reported and stays as it
// is. Neither the other calls nor the dialers wait for it.
func TestDialer_LapseBesideDamage(t *testing.T) {
	a := newCallApp(t)
	ids := map[bool]uint64{}
	err := a.Store.Update(func(tx *Tx) error {
		id, err := contactTable.NextID(tx)
		if err == nil {
			err = SaveContact(tx, contact{ID: id, Owner: 1})
		}
		for _, damaged := range []bool{true, false} {
			if err != nil {
				return err
			}
			var c call
			c, err = saveCall(tx, call{Owner: 1, Status: callInProgress, Type: callTypes()[0], CreatedAt: epoch, StartedAt: epoch, Billing: billing{Status: billingPending}, Lease: lease{Until: epoch}})
			if damaged && err == nil {
				c.ContactID = id
				c, err = saveCall(tx, c)
			}
			ids[damaged] = c.ID
		}
		return errors.Join(err, damageBucket(tx, contactTable.Name))
	})
	if err != nil {
		t.Fatal(err)
	}
	later := epoch.Add(time.Minute)
	if err := a.dialer.Lapse(later); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("bill call %d: ", ids[true])) {
		t.Errorf("got %v, want the call that cannot be billed", err)
	}
	err = a.Store.View(func(tx *Tx) error {
		for damaged, want := range map[bool]string{true: callInProgress, false: callFailed} {
			if c, err := callTable.Get(tx, IDKey(ids[damaged])); err != nil || c.Status != want {
				t.Errorf("damaged %t: got %s, %v; want %s", damaged, c.Status, err, want)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	claim := func() any {
		got, _ := a.operate(200, "POST", "/admin/v1/calls/claim", `{"dialer": "d"}`)["call"].(map[string]any)
		return got["id"]
	}
	if got := claim(); got != nil {
		t.Errorf("claim: got %v, want no call", got)
	}
	err = a.Store.Update(func(tx *Tx) error { // queued, the first with the damaged contact
		for damaged := range 2 {
			c := call{Owner: 1, Status: callQueued, Type: callTypes()[1], CreatedAt: epoch, PhoneNumber: "+4930555044", Billing: billing{Status: billingPending}}
			if damaged == 0 {
				c.ContactID = 1
			}
			c, err := saveCall(tx, c)
			if err != nil {
				return err
			}
			ids[damaged == 0] = c.ID
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := claim(); got != float64(ids[false]) {
		t.Errorf("claim: got call %v, want %d", got, ids[false])
	}
	if w := a.control("POST", "/admin/v1/calls/claim", `{"dialer": "d"}`); w.Code != 500 {
		t.Errorf("claim with only a damaged call left: got %d, want 500", w.Code)
	}
}
