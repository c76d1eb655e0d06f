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
		code string // of the last step, "" for success
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
	for range 2 { // the second time changes nothing
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
