package tests

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"latchkey/tests/program"
)

// attack is something that one owner does to harm the others.
type attack struct {
	name    string
	workers int
	times   int    // requests of each worker; 0: until the quiet owner is done
	method  string // of a request; %d in path and body stands for a number that grows
	path    string
	body    func(n int64) string
	success int
}

// attacks lists the worst that one owner can do. The contact 1 is made to grow, the
// contact 2 is large, and 50 webhooks get each change of the event 1.
var attacks = []attack{
	{name: "a contact grows", workers: 1, times: 6, method: "PATCH", path: "/api/v1/contacts/1/update", body: manyValues, success: 200},
	{name: "changes of a large contact", workers: 4, method: "PATCH", path: "/api/v1/contacts/2/update", body: func(n int64) string { return fmt.Sprintf(`{"tags": ["t%d"]}`, n) }, success: 200},
	{name: "an event for 50 webhooks", workers: 4, method: "PATCH", path: "/api/v1/calendar/events/1/update", body: func(n int64) string { return fmt.Sprintf(`{"title": "t%d"}`, n) }, success: 200},
	{name: "a flood of contacts", workers: 4, method: "POST", path: "/api/v1/contacts/create", body: func(n int64) string { return fmt.Sprintf(`{"first_name": "n%d"}`, n) }, success: 201},
	{name: "searches", workers: 2, method: "GET", path: "/api/v1/contacts?search=none", success: 200},
}

// manyValues is a body with 900 values that no body before had.
func manyValues(n int64) string {
	var values []string
	for i := range 900 {
		values = append(values, fmt.Sprintf(`"number_%d_%d": "a value of some length for the record %d"`, n, i, i))
	}
	return `{"custom_context": {` + strings.Join(values, ",") + `}}`
}

// refusals are the statuses with which the program may refuse an attack: too much for a
// field, a body or a record, too many requests, no storage left. Nothing else is one.
var refusals = []int{400, 413, 429, 507}

// street is a server with a quiet owner and an attacker.
type street struct {
	*wire
	client *http.Client
	serial atomic.Int64
}

// send returns the status of the answer to a request, or 0 and the error.
func (s *street) send(key, method, path, body string) (int, error) {
	r, err := http.NewRequest(method, s.URL+path, strings.NewReader(body))
	if err != nil {
		return 0, err
	}
	r.Header.Set("X-API-Key", key)
	r.Header.Set("Content-Type", "application/json")
	a, err := s.client.Do(r)
	if err != nil {
		return 0, err
	}
	defer a.Body.Close()
	_, err = io.Copy(io.Discard, a.Body)
	return a.StatusCode, err
}

// must sends a request for which only one status is right.
func (s *street) must(key string, want int, method, path, body string) {
	s.t.Helper()
	if status, err := s.send(key, method, path, body); err != nil || status != want {
		s.t.Fatalf("%s %s: got %d, %v; want %d", method, path, status, err, want)
	}
}

// owner makes a key with all permissions for a new owner.
func (s *street) owner(name string) string {
	s.t.Helper()
	var made struct{ Key string }
	s.operate("POST", "/admin/v1/keys", fmt.Sprintf(`{"name": %q, "owner": %q, "permissions": ["can_read_agents","can_read_contacts","can_write_contacts","can_read_calendar","can_write_calendar"],
		"limits": {"requests_per_minute_limit": 1000000, "calendar_events_per_day_limit": 1000000}}`, name, name), &made)
	return made.Key
}

// run makes an attack until stop is closed, and returns how often each status came.
func (s *street) run(a attack, key string, stop <-chan struct{}) map[int]int {
	var workers sync.WaitGroup
	var mu sync.Mutex
	statuses := map[int]int{}
	for range a.workers {
		workers.Go(func() {
			for i := 0; a.times == 0 || i < a.times; i++ {
				select {
				case <-stop:
					return
				default:
				}
				body := ""
				if a.body != nil {
					body = a.body(s.serial.Add(1))
				}
				status, err := s.send(key, a.method, a.path, body)
				if err != nil {
					s.t.Errorf("%s: %v", a.name, err)
					return
				}
				mu.Lock()
				statuses[status]++
				mu.Unlock()
			}
		})
	}
	workers.Wait()
	return statuses
}

// TestProgram_WorstNeighbour has one owner do its worst in all ways at once, beside 200
// connections of a stranger who says nothing. Every request of another owner must be
// answered as if it was alone; the attacker gets successes or documented refusals.
func TestProgram_WorstNeighbour(t *testing.T) {
	s := &street{wire: newWire(t, "LATCHKEY_LOG_ACCESS=false"), client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}, Timeout: 2 * time.Minute}}
	defer s.client.CloseIdleConnections()
	quiet, worst := s.owner("quiet"), s.owner("worst")
	const event = `{"title": "Visit", "description": %q, "start_time": "2030-01-01T10:00:00Z", "end_time": "2030-01-01T11:00:00Z"}`
	s.must(worst, 201, "POST", "/api/v1/contacts/create", `{"first_name": "Grows"}`)
	s.must(worst, 201, "POST", "/api/v1/contacts/create", `{"first_name": "Large", "custom_context": {"text": "`+strings.Repeat("x", 10_000)+`"}}`)
	s.must(worst, 201, "POST", "/api/v1/calendar/events/create", fmt.Sprintf(event, strings.Repeat("x", 2000)))
	for i := range 50 {
		s.must(worst, 201, "POST", "/api/webhooks/create", fmt.Sprintf(`{"name": "w%d", "url": "https://hooks.example.net/%d", "subscribed_events": ["calendar.updated"]}`, i, i))
	}
	for range 200 {
		if c, err := net.Dial("tcp", s.doors["api"]); err == nil { // a server at its bound may close it
			defer c.Close()
		}
	}
	const rounds = 8
	stop := make(chan struct{})
	answers := make([]map[int]int, len(attacks))
	var all sync.WaitGroup
	for i, a := range attacks {
		all.Go(func() { answers[i] = s.run(a, worst, stop) })
	}
	for i := range rounds {
		for _, r := range []struct {
			want               int
			method, path, body string
		}{
			{200, "GET", "/api/v1/agents", ""},
			{201, "POST", "/api/v1/calendar/events/create", fmt.Sprintf(event, fmt.Sprint(i))},
			{201, "POST", "/api/v1/contacts/create", `{"first_name": "Mara"}`},
			{200, "GET", "/api/v1/contacts", ""},
		} {
			if status, err := s.send(quiet, r.method, r.path, r.body); err != nil || status != r.want {
				t.Errorf("round %d, %s %s of the quiet owner: got %d, %v; want %d", i, r.method, r.path, status, err, r.want)
			}
		}
		s.operate("GET", "/admin/v1/status", "", nil) // the operator is served too
	}
	close(stop)
	all.Wait()
	for i, a := range attacks {
		if answers[i][a.success] == 0 {
			t.Errorf("%s: got %v, want some %d", a.name, answers[i], a.success)
		}
		for status, n := range answers[i] {
			if status != a.success && !slices.Contains(refusals, status) {
				t.Errorf("%s: %d times %d, which is neither success nor a documented refusal", a.name, n, status)
			}
		}
	}
	var list struct{ Count int }
	s.operate("GET", "/admin/v1/contacts?owner=quiet", "", &list)
	if list.Count != rounds {
		t.Errorf("%d contacts of the quiet owner are stored, want %d", list.Count, rounds)
	}
	t.Logf("answers to the attacks: %v", answers)
	if exit := s.Stop(t); exit != 0 {
		t.Errorf("exit %d: %s", exit, s.Out.Tail())
	}
	s.quiet(t)
	if out, errs, exit := program.Run(t, "check", "--data", s.Data); exit != 0 {
		t.Errorf("check: exit %d: %s%s", exit, out, errs)
	}
}
