package tests

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"latchkey/tests/program"
)

// password is the operator's.
const password = "correct horse battery"

// load is a mixed load on a server of the real program: each worker does one
// thing over and over, and an answer that none expects is a fault.
type load struct {
	*wire
	client *http.Client
	admin  string
	cookie *http.Cookie
	done   atomic.Int64
	mu     sync.Mutex
	faults []string
}

func (l *load) ask(want int, method, url, body string, fields ...string) {
	r, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		l.fault("%v", err)
		return
	}
	for _, f := range append(fields, "Sec-Fetch-Site: same-origin") {
		name, value, _ := strings.Cut(f, ": ")
		r.Header.Set(name, value)
	}
	if strings.HasPrefix(url, l.admin) {
		r.AddCookie(l.cookie)
	}
	a, err := l.client.Do(r)
	if err != nil {
		l.fault("%s %s: %v", method, url, err)
		return
	}
	defer a.Body.Close()
	_, _ = io.Copy(io.Discard, a.Body)
	if a.StatusCode != want && (want != 401 || a.StatusCode != 429) { // who sends many wrong keys is slowed down
		l.fault("%s %s: got %d, want %d", method, url, a.StatusCode, want)
	}
	l.done.Add(1)
}

func (l *load) fault(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.faults = append(l.faults, fmt.Sprintf(format, args...))
}

// churn makes a key, uses it, and ends it.
func (l *load) churn() {
	var made struct{ ID, Key string }
	if err := l.wire.client.Do(context.Background(), "POST", "/admin/v1/keys", json.RawMessage(`{"name": "soak", "permissions": ["can_read_agents"]}`), &made); err != nil {
		l.fault("make a key: %v", err)
		return
	}
	l.ask(200, "GET", l.URL+"/api/v1/agents", "", "X-API-Key: "+made.Key)
	if err := l.wire.client.Do(context.Background(), "POST", "/admin/v1/keys/"+made.ID+"/revoke", nil, nil); err != nil {
		l.fault("revoke: %v", err)
	}
	l.ask(401, "GET", l.URL+"/api/v1/agents", "", "X-API-Key: "+made.Key)
}

// backup reads a whole backup.
func (l *load) backup() {
	if err := l.wire.client.Copy(context.Background(), "/admin/v1/backup", io.Discard); err != nil {
		l.fault("backup: %v", err)
	}
}

// holding is what the process holds: its memory, and the size of the heap at
// which it collects garbage next, which goes by what was in use the last time.
type holding struct{ goroutines, files, kib, goal int }

// holds reads it.
func (l *load) holds(t *testing.T) (s holding) {
	t.Helper()
	r, err := http.NewRequest("GET", l.admin+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.AddCookie(l.cookie)
	a, err := l.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	text, err := io.ReadAll(a.Body)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if name != "go_goroutines" && name != "go_memstats_next_gc_bytes" {
			continue
		}
		n, err := strconv.ParseFloat(value, 64)
		if err != nil {
			t.Fatal(err)
		}
		if name == "go_goroutines" {
			s.goroutines = int(n)
		} else {
			s.goal = int(n) >> 10
		}
	}
	_, s.files = l.weight(t)
	if s.kib = l.memory(t, anonymous); s.goroutines == 0 || s.goal == 0 {
		t.Fatalf("got %+v", s)
	}
	return s
}

// anonymous is the memory without that of mapped files, which are the system's to
// take back.
const anonymous = "RssAnon:"

// chore is what a worker of a load does, and how often.
type chore struct {
	every time.Duration
	do    func()
}

// run does all chores for a time, and gives the median of the memory meanwhile,
// which goes up and down with the garbage.
func (l *load) run(t *testing.T, span time.Duration, work []chore) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), span)
	defer cancel()
	var wg sync.WaitGroup
	for _, one := range work {
		wg.Go(func() {
			tick := time.NewTicker(one.every)
			defer tick.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
					one.do()
				}
			}
		})
	}
	memory := []int{l.memory(t, anonymous)}
	for tick := time.Tick(time.Second); ctx.Err() == nil; {
		select {
		case <-tick:
			memory = append(memory, l.memory(t, anonymous))
		case <-ctx.Done():
		}
	}
	wg.Wait()
	l.client.CloseIdleConnections()
	slices.Sort(memory)
	return memory[len(memory)/2]
}

// TestProgram_Soak loads a server with all it does at once, and wants what it
// holds to be afterwards what it was: goroutines, open files, and in the long
// form (LATCHKEY_TEST_SOAK=30m) memory.
func TestProgram_Soak(t *testing.T) {
	program.NotQuick(t)
	span, long := 8*time.Second, os.Getenv("LATCHKEY_TEST_SOAK")
	if long != "" {
		var err error
		if span, err = time.ParseDuration(long); err != nil {
			t.Fatal(err)
		}
	}
	hooked := atomic.Int64{}
	sink := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { hooked.Add(1) }))
	defer sink.Close()
	w := newWire(t, "LATCHKEY_WEBHOOKS_ALLOW_PRIVATE_TARGETS=true", "LATCHKEY_KEYS_CACHE=1000", "LATCHKEY_LOG_ACCESS=false")
	l := &load{wire: w, admin: "http://" + w.doors["admin"]}
	l.client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, Timeout: time.Minute}
	w.operate("POST", "/admin/v1/operators", `{"name": "Ann", "password": "`+password+`"}`, nil)
	r, _ := http.NewRequest("POST", l.admin+"/login", strings.NewReader(url.Values{"name": {"Ann"}, "password": {password}}.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	a, err := l.client.Do(r)
	if err != nil || len(a.Cookies()) != 2 {
		t.Fatalf("log in: %v, %v", a, err)
	}
	a.Body.Close()
	l.cookie = a.Cookies()[0]
	w.operate("POST", "/admin/v1/agents", `{"name": "Front desk", "phone_number": "+4930555001"}`, nil)
	w.operate("POST", "/admin/v1/webhooks", fmt.Sprintf(`{"name": "h", "url": %q, "subscribed_events": ["key.created", "key.revoked"]}`, sink.URL), nil)
	var made struct{ Key string }
	w.operate("POST", "/admin/v1/keys", `{"name": "all", "permissions": ["can_read_calls","can_initiate_calls","can_read_agents","can_read_calendar","can_write_calendar","can_use"],
		"limits": {"requests_per_minute_limit": 1000000, "calls_per_day_limit": 1000000, "calendar_events_per_day_limit": 1000000}}`, &made)
	key, kind := "X-API-Key: "+made.Key, "Content-Type: application/json"
	work := []chore{
		{20 * time.Millisecond, func() { l.ask(200, "GET", l.URL+"/api/v1/agents", "", key) }},
		{20 * time.Millisecond, func() { l.ask(200, "GET", l.URL+"/up/x?a=b", "", key) }},
		{20 * time.Millisecond, func() { l.ask(401, "GET", l.URL+"/api/v1/agents", "", "Cookie: a=b") }},
		{100 * time.Millisecond, func() { l.ask(200, "POST", l.URL+"/up/x", strings.Repeat("x", 100<<10), key) }},
		{200 * time.Millisecond, func() {
			l.ask(201, "POST", l.URL+"/api/v1/calls", `{"phone_number": "+4930555944", "agent_id": 1}`, key, kind)
		}},
		{200 * time.Millisecond, func() {
			l.ask(201, "POST", l.URL+"/api/v1/calendar/events/create", `{"title": "T", "start_time": "2026-03-02T09:00:00Z", "end_time": "2026-03-02T10:00:00Z"}`, key, kind)
		}},
		{100 * time.Millisecond, l.churn},
		{200 * time.Millisecond, func() { l.ask(200, "GET", l.admin+"/keys", "") }},
		{200 * time.Millisecond, func() { l.ask(200, "GET", l.admin+"/admin/v1/calls", "") }},
		{2 * time.Second, l.backup},
	}
	l.run(t, span/4, work) // to warm up: caches, pools, the file's first growth
	base := l.holds(t)
	var parts []holding
	for range 3 {
		median := l.run(t, span/4, work)
		parts = append(parts, l.holds(t))
		parts[len(parts)-1].kib = median
	}
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); { // what ends by itself
		l.client.CloseIdleConnections()
		if now := l.holds(t); now.goroutines <= base.goroutines+8 && now.files <= base.files+8 {
			break
		}
	}
	end := l.holds(t)
	if end.goroutines > base.goroutines+8 || end.files > base.files+8 {
		t.Errorf("got %+v, want no more than %+v", end, base)
	}
	if len(l.faults) > 0 {
		t.Errorf("%d faults, such as %q", len(l.faults), l.faults[:min(5, len(l.faults))])
	}
	growth := float64(parts[2].kib)/float64(parts[0].kib) - 1
	if long != "" && span >= 10*time.Minute && growth > 0.05 {
		t.Errorf("the memory grows: %+v", parts)
	}
	t.Logf("%d requests, %d webhooks in %s; after warm-up %+v, then %+v, at the end %+v; memory %+.2f %%", l.done.Load(), hooked.Load(), span, base, parts, end, 100*growth)
	if exit := w.Stop(t); exit != 0 {
		t.Errorf("exit %d", exit)
	}
	w.quiet(t)
}

// A revocation binds every request that starts after its answer, whatever is
// under way at that moment. So do a pause and a rotation without overlap.
// LATCHKEY_CRASH_REVOCATIONS sets the number of rounds.
func TestProgram_RevocationRace(t *testing.T) {
	const clients = 64
	data := filepath.Join(t.TempDir(), "data")
	p := program.Serve(t, data, "LATCHKEY_LOG_ACCESS=false")
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: clients}, Timeout: time.Minute}
	get := func(key string) int {
		r, err := http.NewRequest("GET", p.URL+"/api/v1/agents", nil)
		if err != nil {
			t.Error(err)
			return 0
		}
		r.Header.Set("X-API-Key", key)
		w, err := client.Do(r)
		if err != nil {
			t.Error(err)
			return 0
		}
		defer w.Body.Close()
		_, _ = io.Copy(io.Discard, w.Body)
		return w.StatusCode
	}
	post := func(path string, body, into any) {
		t.Helper()
		if err := p.Socket().Do(context.Background(), "POST", path, body, into); err != nil {
			t.Fatal(err)
		}
	}
	rounds := program.Long(t, "LATCHKEY_CRASH_REVOCATIONS", 100)
	var served, late atomic.Int64
	for round := range rounds {
		var made struct{ ID, Key string }
		post("/admin/v1/keys", map[string]any{"name": "race", "permissions": []string{"can_read_agents"}, "limits": map[string]int{"requests_per_minute_limit": 10_000_000}}, &made)
		var done atomic.Bool // set after the answer
		var under atomic.Int64
		var wg sync.WaitGroup
		for range clients {
			wg.Go(func() {
				for {
					after := done.Load() // read before the request begins
					status := get(made.Key)
					under.Add(1)
					if status == 200 {
						served.Add(1)
					}
					if after && status == 200 {
						late.Add(1)
					}
					if status != 200 {
						if !after && status != 401 && status != 429 {
							t.Errorf("got %d", status)
						}
						return
					}
				}
			})
		}
		for under.Load() < int64(clients+rand.IntN(3*clients)) { // the crowd is at it
			time.Sleep(time.Millisecond)
		}
		path, body := "/revoke", any(nil)
		switch round % 4 {
		case 1:
			path = "/pause"
		case 2:
			path, body = "/rotate", map[string]any{"overlap_seconds": 0}
		}
		post("/admin/v1/keys/"+made.ID+path, body, nil)
		done.Store(true)
		if status := get(made.Key); status == 200 {
			t.Errorf("round %d: a request after the answer got 200", round)
		}
		wg.Wait()
		if t.Failed() || late.Load() > 0 {
			t.Fatalf("round %d: %d requests that began after the answer to %s got 200", round, late.Load(), path)
		}
	}
	if served.Load() < int64(rounds*clients) {
		t.Errorf("%d requests were served in %d rounds, too few to show anything", served.Load(), rounds)
	}
	t.Logf("%d rounds with %d clients, %d requests served, %d after an answer", rounds, clients, served.Load(), late.Load())
}
