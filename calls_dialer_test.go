package main

import (
	"fmt"
	"sync"
	"testing"
	"time"
)

func TestDialer_Claim(t *testing.T) {
	a := newCallApp(t)
	_, key := a.key(everyPermission)
	for range 3 {
		a.clocks.Pass(time.Second)
		a.ask("POST", "/api/v1/calls", key, `{"phone_number": "+4930555044", "agent_id": 1}`)
	}
	claim := func() (id any, token string) {
		t.Helper()
		v := a.operate(200, "POST", "/admin/v1/calls/claim", `{"lease_seconds": 30, "dialer": "d"}`)
		if v["call"] == nil {
			return nil, ""
		}
		call := v["call"].(map[string]any)
		if call["agent"].(map[string]any)["phone_number"] != "+4930555001" || call["status"] != "queued" {
			t.Errorf("got %v", call)
		}
		return call["id"], v["lease"].(map[string]any)["token"].(string)
	}
	var tokens []string
	for want := 1.0; want <= 3; want++ {
		id, token := claim()
		if id != want {
			t.Errorf("got call %v, want the oldest, %v", id, want)
		}
		tokens = append(tokens, token)
	}
	if id, _ := claim(); id != nil {
		t.Errorf("got call %v, want none: all are leased", id)
	}
	a.operate(200, "PATCH", "/admin/v1/calls/1", `{"status": "in-progress", "lease_token": "`+tokens[0]+`"}`)
	a.refuse("PATCH", "/admin/v1/calls/2", `{"status": "in-progress", "lease_token": "`+tokens[0]+`"}`, 409, "conflict", "lease")
	a.clocks.Pass(30 * time.Second)
	a.refuse("PATCH", "/admin/v1/calls/2", `{"status": "in-progress", "lease_token": "`+tokens[1]+`"}`, 409, "conflict", "lease")
	id, again := claim()
	if id != 2.0 {
		t.Errorf("got call %v, want 2, whose lease is over", id)
	}
	a.operate(200, "PATCH", "/admin/v1/calls/2", `{"status": "in-progress", "lease_token": "`+again+`"}`)
	a.refuse("POST", "/admin/v1/calls/claim", `{"lease_seconds": 1}`, 400, "validation_error", "lease_seconds")
}

func TestDialer_ClaimConcurrently(t *testing.T) {
	a := newCallApp(t)
	_, key := a.key(everyPermission)
	for range 20 {
		a.ask("POST", "/api/v1/calls", key, `{"phone_number": "+4930555044", "agent_id": 1}`)
	}
	var mu sync.Mutex
	seen := map[any]int{}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 6 {
				v := a.operate(200, "POST", "/admin/v1/calls/claim", ``)
				if call, ok := v["call"].(map[string]any); ok {
					mu.Lock()
					seen[call["id"]]++
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	if len(seen) != 20 {
		t.Errorf("got %d calls claimed, want 20", len(seen))
	}
	for id, n := range seen {
		if n != 1 {
			t.Errorf("call %v was claimed %d times", id, n)
		}
	}
}

func TestDialer_Transitions(t *testing.T) {
	for _, tt := range []struct {
		path []string
		code string // error code of the last step, "" if it succeeds
	}{
		{[]string{"in-progress", "completed"}, ""}, {[]string{"in-progress", "failed"}, ""}, {[]string{"completed"}, ""}, {[]string{"failed"}, ""},
		{[]string{"completed", "completed"}, ""}, {[]string{"completed", "failed"}, "conflict"}, {[]string{"failed", "queued"}, "conflict"},
		{[]string{"in-progress", "queued"}, "conflict"}, {[]string{"ringing"}, "validation_error"},
	} {
		a := newCallApp(t)
		_, key := a.key(everyPermission)
		a.ask("POST", "/api/v1/calls", key, `{"phone_number": "+4930555044", "agent_id": 1}`)
		for i, status := range tt.path {
			body := `{"status": "` + status + `"}`
			if i < len(tt.path)-1 || tt.code == "" {
				a.operate(200, "PATCH", "/admin/v1/calls/1", body)
				continue
			}
			want := 409
			if tt.code == "validation_error" {
				want = 400
			}
			a.refuse("PATCH", "/admin/v1/calls/1", body, want, tt.code, "")
		}
	}
}

func TestDialer_Billing(t *testing.T) {
	a := newCallApp(t)
	a.operate(200, "PATCH", "/admin/v1/owners/1", `{"balance": 10, "rate": 0.3}`)
	_, key := a.key(everyPermission)
	a.ask("POST", "/api/v1/calls", key, `{"phone_number": "+4930555010", "agent_id": 1, "contact_id": 1}`)
	a.ask("POST", "/api/v1/calls", key, `{"phone_number": "+4930555010", "agent_id": 1}`)
	billing := func(id int) string {
		b := a.operate(200, "GET", fmt.Sprintf("/admin/v1/calls/%d", id), "")["billing"].(map[string]any)
		return fmt.Sprint(b["status"], b["final_charge"], b["total_charge"])
	}
	if got := billing(1); got != "pending0 0" {
		t.Errorf("queued: got %s", got)
	}
	a.operate(200, "PATCH", "/admin/v1/calls/1", `{"status": "in-progress"}`)
	a.clocks.Pass(130 * time.Second)
	for range 2 { // the second report changes nothing
		a.operate(200, "PATCH", "/admin/v1/calls/1", `{"status": "completed", "summary": "Done."}`)
	}
	a.operate(200, "PATCH", "/admin/v1/calls/2", `{"status": "failed", "error_reason": "no-answer"}`)
	if got := billing(1); got != "billed0.651 0.651" {
		t.Errorf("completed: got %s", got)
	}
	if got := billing(2); got != "not_billed0 0" {
		t.Errorf("never connected: got %s", got)
	}
	if got := a.operate(200, "GET", "/admin/v1/owners/1", "")["balance"]; got != 9.349 {
		t.Errorf("got balance %v, want 9.349", got)
	}
	agent := a.operate(200, "GET", "/admin/v1/agents/1", "")
	if agent["total_calls"] != 1.0 || agent["minutes_used"] != 2.17 {
		t.Errorf("got %v calls, %v minutes", agent["total_calls"], agent["minutes_used"])
	}
	if got := a.operate(200, "GET", "/admin/v1/contacts/1", "")["last_call_date"]; got != "2026-02-03T09:02:10Z" {
		t.Errorf("got last_call_date %v", got)
	}
	for _, body := range []string{
		`{"ended_at": "2020-01-01T00:00:00Z"}`, `{"error_reason": "tired"}`, `{"started_at": "yesterday"}`, `{"summary": 5}`,
	} {
		a.refuse("PATCH", "/admin/v1/calls/1", body, 400, "validation_error", "")
	}
	a.refuse("PATCH", "/admin/v1/calls/99", `{}`, 404, "not_found", "")
	a.refuse("POST", "/admin/v1/calls", `{"agent_id": 1, "phone_number": "+4930555010", "type": "outbound"}`, 400, "validation_error", "type")
}

// lease claims the next call and returns its path and the lease token.
func (a *testApp) lease(body string) (path, token string) {
	a.t.Helper()
	v := a.operate(200, "POST", "/admin/v1/calls/claim", body)
	call, ok := v["call"].(map[string]any)
	if !ok {
		a.t.Fatalf("got %v, want a call", v)
	}
	return fmt.Sprintf("/admin/v1/calls/%v", call["id"]), v["lease"].(map[string]any)["token"].(string)
}

// TestDialer_Life follows a call to its end. It checks the bill, the agent's totals,
// the contact's last call date, and the order of the webhook events.
func TestDialer_Life(t *testing.T) {
	v := newReceiver(t)
	a := newHookApp(t)
	a.hook(v.URL, "", "call.queued", "call.started", "call.ended", "call.failed", "call.transcript", "call.recording", "call.summary")
	a.operate(201, "POST", "/admin/v1/agents", `{"name": "Front desk", "phone_number": "+4930555001"}`)
	a.operate(201, "POST", "/admin/v1/contacts", `{"first_name": "Mara", "last_name": "Lind", "phone_numbers": [{"phone_number": "+4930555044"}]}`)
	a.operate(200, "PATCH", "/admin/v1/owners/1", `{"balance": 10, "rate": 0.4}`)
	_, key := a.key(everyPermission)
	if w := a.ask("POST", "/api/v1/calls", key, `{"phone_number": "+4930555044", "agent_id": 1, "contact_id": 1, "variables": {"order": 7}}`); w.Code != 201 {
		t.Fatalf("got %d %s", w.Code, w.Body)
	}
	path, token := a.lease(`{"dialer": "d1", "lease_seconds": 30}`)
	with := func(more string) string { return `{"lease_token": "` + token + `"` + more + `}` }
	a.refuse("POST", path+"/heartbeat", `{}`, 400, "missing_parameter", "lease_token")
	a.refuse("POST", path+"/heartbeat", `{"lease_token": "x"}`, 409, "conflict", "lease")
	a.clocks.Pass(20 * time.Second)
	a.operate(200, "POST", path+"/heartbeat", with(`, "lease_seconds": 30`))
	a.clocks.Pass(20 * time.Second) // after the end of the first lease, before the end of the second
	if got := a.operate(200, "POST", path+"/start", with("")); got["status"] != "in-progress" || got["started_at"] != "2026-02-03T09:00:40Z" {
		t.Errorf("got %v", got)
	}
	a.clocks.Pass(50 * time.Second)
	a.operate(200, "POST", path+"/heartbeat", with(""))
	a.clocks.Pass(40 * time.Second)
	done := a.operate(200, "POST", path+"/complete", with(`, "summary": "Done.", "transcript": "Agent: Hi", "recording_url": "https://files.example.net/1.mp3"`))
	if done["status"] != "completed" || done["duration_seconds"] != 90.0 || fmt.Sprint(done["billing"]) != "map[final_charge:0.6 initial_charge:0 status:billed total_charge:0.6]" {
		t.Errorf("got %v", done)
	}
	if again := a.operate(200, "POST", path+"/complete", with(`, "summary": "Other."`)); again["summary"] != "Done." {
		t.Errorf("said again: got %v", again["summary"])
	}
	a.refuse("POST", path+"/fail", with(""), 409, "conflict", "completed")
	a.refuse("POST", path+"/heartbeat", with(""), 409, "conflict", "completed")
	agent := a.operate(200, "GET", "/admin/v1/agents/1", "")
	if agent["minutes_used"] != 1.5 || agent["total_calls"] != 1.0 {
		t.Errorf("got agent %v", agent)
	}
	if contact := a.operate(200, "GET", "/admin/v1/contacts/1", ""); contact["last_call_date"] != "2026-02-03T09:02:10Z" {
		t.Errorf("got %v", contact["last_call_date"])
	}
	a.send()
	var events []string
	for _, r := range v.all() {
		p := object(t, r.body)
		call := p["call"].(map[string]any)
		events = append(events, p["event_type"].(string))
		for name, want := range map[string]map[string]any{
			"call.queued":     {"prompt_variables": map[string]any{"order": 7.0}},
			"call.started":    {"assistant_id": call["assistant_id"], "agent_id": 1.0, "klen_call_id": call["klen_call_id"]},
			"call.ended":      {"duration": 90.0, "duration_seconds": 90.0, "summary": "Done.", "status": "completed", "agent_name": "Front desk"},
			"call.transcript": {"transcript": "Agent: Hi"},
			"call.recording":  {"recording_url": "https://files.example.net/1.mp3"},
			"call.summary":    {"summary": "Done.", "phone_number": "+4930555044", "type": "outbound"},
		}[p["event_type"].(string)] {
			if want == nil || fmt.Sprint(call[name]) != fmt.Sprint(want) {
				t.Errorf("%s: %s is %v, want %v", p["event_type"], name, call[name], want)
			}
		}
		if p["event_type"] != "call.queued" && members(call["contact"]) != "company email id name" {
			t.Errorf("%s: got contact %v", p["event_type"], call["contact"])
		}
	}
	if got := fmt.Sprint(events); got != "[call.queued call.started call.ended call.transcript call.summary call.recording]" {
		t.Errorf("got %s", got)
	}
}

// If a lease expires unused, the call returns to the queue. The second time it
// fails. A restart in between changes nothing.
func TestDialer_Lapse(t *testing.T) {
	v := newReceiver(t)
	a := newHookApp(t)
	a.hook(v.URL, "", "call.failed", "call.queued")
	a.operate(201, "POST", "/admin/v1/agents", `{"name": "Front desk", "phone_number": "+4930555001"}`)
	_, key := a.key(everyPermission)
	for range 2 {
		if w := a.ask("POST", "/api/v1/calls", key, `{"phone_number": "+4930555044", "agent_id": 1}`); w.Code != 201 {
			t.Fatalf("got %d %s", w.Code, w.Body)
		}
	}
	status := func(id int) string {
		c := a.operate(200, "GET", fmt.Sprintf("/admin/v1/calls/%d", id), "")
		return fmt.Sprint(c["status"], " ", c["error_reason"])
	}
	pass := func(d time.Duration) {
		t.Helper()
		a.clocks.Pass(d)
		if err := a.dialer.Lapse(a.clock.Now()); err != nil {
			t.Fatal(err)
		}
	}
	_, first := a.lease(`{"lease_seconds": 30}`)
	running, second := a.lease(`{"lease_seconds": 30}`)
	a.operate(200, "POST", running+"/start", `{"lease_token": "`+second+`", "lease_seconds": 60}`)
	a.restart()
	pass(29 * time.Second)
	if got := status(1); got != "queued " {
		t.Errorf("before its end: got %q", got)
	}
	if v := a.operate(200, "POST", "/admin/v1/calls/claim", ""); v["call"] != nil {
		t.Errorf("got %v, want none: both are taken", v)
	}
	pass(time.Second)
	a.refuse("POST", "/admin/v1/calls/1/start", `{"lease_token": "`+first+`"}`, 409, "conflict", "lease")
	path, _ := a.lease(`{"lease_seconds": 30}`)
	if path != "/admin/v1/calls/1" {
		t.Errorf("got %s, want the call that came back", path)
	}
	pass(30 * time.Second)
	if got := status(1); got != "failed failed" {
		t.Errorf("the second time: got %q", got)
	}
	if got := status(2); got != "failed disconnected" {
		t.Errorf("a call that was under way: got %q", got)
	}
	a.send()
	kinds := map[any]int{}
	for _, r := range v.all() {
		kinds[object(t, r.body)["event_type"]]++
	}
	if kinds["call.queued"] != 3 || kinds["call.failed"] != 2 { // two calls, one of which returned to the queue
		t.Errorf("got %v", kinds)
	}
}

func TestDialer_Fail(t *testing.T) {
	a := newCallApp(t)
	_, key := a.key(everyPermission)
	for range 2 {
		a.ask("POST", "/api/v1/calls", key, `{"phone_number": "+4930555044", "agent_id": 1}`)
	}
	path, token := a.lease("")
	a.refuse("POST", path+"/fail", `{"lease_token": "`+token+`", "error_reason": "tired"}`, 400, "validation_error", "error_reason")
	got := a.operate(200, "POST", path+"/fail", `{"lease_token": "`+token+`", "error_reason": "no-answer"}`)
	if got["status"] != "failed" || got["error_reason"] != "no-answer" || got["billing"].(map[string]any)["status"] != "not_billed" {
		t.Errorf("got %v", got)
	}
	a.operate(200, "POST", path+"/fail", `{"lease_token": "`+token+`"}`)
	a.refuse("POST", path+"/start", `{"lease_token": "`+token+`"}`, 409, "conflict", "failed")
}

// A waiting claim is answered when a call is queued, not before. All waiting claims
// end when the server stops.
func TestDialer_ClaimWaits(t *testing.T) {
	a := newCallApp(t)
	_, key := a.key(everyPermission)
	answers := make(chan map[string]any)
	wait := func() {
		answers <- object(t, a.control("POST", "/admin/v1/calls/claim", `{"wait_seconds": 20}`).Body.String())
	}
	for range 3 {
		go wait()
	}
	for range 2 {
		a.ask("POST", "/api/v1/calls", key, `{"phone_number": "+4930555044", "agent_id": 1}`)
	}
	ids := map[any]bool{}
	for range 2 {
		if v := <-answers; v["call"] != nil {
			ids[v["call"].(map[string]any)["id"]] = true
		}
	}
	if len(ids) != 2 {
		t.Errorf("got calls %v, want both", ids)
	}
	a.dialer.Close()
	if v := <-answers; v["call"] != nil {
		t.Errorf("got %v, want none", v)
	}
}

// The contact of a call may belong to another team than its agent. The end of the
// call updates the contact all the same.
func TestDialer_ContactOfAnotherTeam(t *testing.T) {
	a := newTestApp(t)
	a.operate(201, "POST", "/admin/v1/teams", `{"name": "One", "members": ["admin", "bob"]}`)
	a.operate(201, "POST", "/admin/v1/agents", `{"name": "Front desk", "phone_number": "+4930555001"}`)
	a.operate(201, "POST", "/admin/v1/contacts", `{"first_name": "Mara", "owner": "bob", "team_id": 1, "phone_numbers": [{"phone_number": "+4930555044"}]}`)
	_, key := a.key(everyPermission)
	if w := a.ask("POST", "/api/v1/calls", key, `{"phone_number": "+4930555044", "agent_id": 1, "contact_id": 1}`); w.Code != 201 {
		t.Fatalf("got %d %s", w.Code, w.Body)
	}
	path, token := a.lease("")
	if c := a.operate(200, "GET", path, ""); members(c["contact"]) == "" {
		t.Errorf("the operator sees no contact: %v", c)
	}
	a.operate(200, "POST", path+"/complete", `{"lease_token": "`+token+`"}`)
	if c := a.operate(200, "GET", "/admin/v1/contacts/1", ""); c["last_call_date"] == nil {
		t.Errorf("got no last_call_date: %v", c)
	}
}
