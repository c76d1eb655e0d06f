package main

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// A limit that is only observed lets everything through, and counts what it
// would have refused.
func TestObservations(t *testing.T) {
	a := newCallApp(t, func(c *Config) {
		c.Observed = []string{RequestsPerMinute, OwnerCallsPerDay}
		c.Limit.OwnerCallsPerDay = 2
	})
	id, secret := a.key(everyPermission, `"limits": {"requests_per_minute_limit": 2}`)
	of := func() (minute, calls, all string) {
		usage := a.operate(200, "GET", "/admin/v1/keys/"+id+"/usage", "")["usage"].(map[string]any)
		for _, row := range a.operate(200, "GET", "/admin/v1/limits", "")["limits"].([]any) {
			l := row.(map[string]any)
			all += fmt.Sprint(l["would_refuse"], " ")
		}
		show := func(name string) string {
			u := usage[name].(map[string]any)
			return fmt.Sprint(u["observe"], u["used"], u["would_refuse"])
		}
		return show(RequestsPerMinute), show(OwnerCallsPerDay), all
	}
	for n := range 5 {
		w := a.ask("POST", "/api/v1/calls", secret, `{"phone_number": "+4930555044", "agent_id": 1}`)
		if w.Code != 201 || w.Header().Get("RateLimit-Policy") != `"calls_per_day";q=100;w=86400` || w.Header().Get("X-RateLimit-Limit") != "100" {
			t.Fatalf("request %d: got %d %s %v, want it let through and the header fields without what is observed", n, w.Code, w.Body, w.Header())
		}
	}
	const want = "true 2 3|true 2 3|3 0 0 0 3 0 "
	seen := func() string { m, c, all := of(); return m + "|" + c + "|" + all }
	if got := seen(); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := strings.Count(a.log.String(), `"limit":"requests_per_minute_limit"`); got != 1 {
		t.Errorf("got %d lines in the log, want 1", got)
	}
	a.restart()
	if got := seen(); got != want {
		t.Errorf("after a restart: got %s, want %s", got, want)
	}
	a.clocks.Pass(time.Minute)
	for range 3 {
		a.ask("GET", "/api/v1/agents", secret, "")
	}
	if m, _, _ := of(); m != "true 2 4" {
		t.Errorf("a minute later: got %s, want 4", m)
	}
	if got := strings.Count(a.log.String(), `"limit":"requests_per_minute_limit"`); got != 2 {
		t.Errorf("got %d lines in the log, want 2", got)
	}
}
