package tests

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"latchkey/internal/certs/certstest"
)

// quiet is what must be right all the time: the requests of the quiet owner and of the operator, limits, and revoked keys.
type quiet struct {
	*siege
	client, revoker *http.Client
	key             siegeKey
	agents          string // the list of agents of the quiet owner
	callers         atomic.Int64

	mu       sync.Mutex
	took     map[string][]latency
	contacts atomic.Int64 // that were created
	asked    atomic.Int64 // contacts that were asked for
	calls    map[string]bool
	events   map[string]bool
	fewCalls int // calls of the key with a small daily limit
	revoked  []string
	passed   map[string][]deed // admitted requests of the keys with short limits
	served   atomic.Int64      // of the route for two requests at once
}

// latency is how long an answer took: all of it, and without the time for which the process was stopped.
type latency struct{ gross, net time.Duration }

// shortLimit is a limit that is held against what passed.
type shortLimit struct {
	name, limits, path string
	most               int
	span               time.Duration
}

// shortLimits lists them.
var shortLimits = []shortLimit{
	{"one a minute", `"requests_per_minute_limit": 1`, "/api/v1/agents", 1, time.Minute},
	{"five a minute", `"requests_per_minute_limit": 5`, "/api/v1/contacts?limit=1", 5, time.Minute},
	{"sixty a minute", `"requests_per_minute_limit": 60`, "/up/echo", 60, time.Minute},
	{"five in two seconds", `"requests_per_minute_limit": 1000000`, "/two/x", 5, 2 * time.Second},
	{"twenty in ten seconds", `"requests_per_minute_limit": 1000000`, "/ten/x", 20, 10 * time.Second},
}

// fewCalls is the daily limit of a key that is used up.
const fewCalls = 7

// quietBound is the longest time that an answer to the quiet owner may take: the process is stopped for up to 10 seconds now and
// then, and the machine may have much else to do.
const quietBound = 2 * time.Minute

// newQuiet makes the keys and records.
func newQuiet(s *siege) *quiet {
	from := func(address string) *http.Client {
		c := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 32, DialContext: dialFrom(address)}, Timeout: quietBound}
		s.t.Cleanup(c.CloseIdleConnections)
		return c
	}
	q := &quiet{
		siege: s, client: from("127.0.0.1"), revoker: from("127.0.0.4"), took: map[string][]latency{}, calls: map[string]bool{}, events: map[string]bool{},
		passed: map[string][]deed{},
	}
	q.key = s.newKey("quiet", `"requests_per_minute_limit": 1000000, "concurrent_requests": 1000`)
	s.operate("POST", "/admin/v1/agents", `{"name": "Front desk", "phone_number": "+4930555001", "owner": "quiet"}`, nil)
	s.hooks.subscribe(q.key)
	_, body, err := q.ask(q.key.Key, "GET", "/api/v1/agents", "")
	if err != nil || !strings.Contains(body, "Front desk") {
		s.t.Fatalf("agents: %s, %v", body, err)
	}
	q.agents = body
	for _, limit := range shortLimits {
		s.keys[limit.name] = s.newKey("limited", limit.limits)
	}
	s.keys["twice"] = s.newKey("limited", `"requests_per_minute_limit": 1000000`)
	s.keys["few"] = s.newKey("limited", fmt.Sprintf(`"requests_per_minute_limit": 1000000, "calls_per_day_limit": %d`, fewCalls))
	s.operate("POST", "/admin/v1/agents", `{"name": "Few", "phone_number": "+4930555002", "owner": "limited"}`, nil)
	q.client.CloseIdleConnections()
	return q
}

// ask sends a request with a key.
func (q *quiet) ask(key, method, path, body string) (status int, answer string, err error) {
	return q.askBy(q.client, key, method, q.URL+path, body)
}

// askBy sends a request by a client. The Idempotency-Key of a POST lets net/http repeat it if the server has closed a connection
// that was used before. A new connection, on which the server has not seen a valid key, may be closed for others, and its request is
// then not executed: askBy sends it again.
func (q *quiet) askBy(client *http.Client, key, method, url, body string) (status int, answer string, err error) {
	once := fmt.Sprint("once-", q.callers.Add(1))
	for deadline := time.Now().Add(quietBound / 2); ; {
		var reused bool
		trace := &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { reused = i.Reused }}
		r, err := http.NewRequestWithContext(httptrace.WithClientTrace(context.Background(), trace), method, url, strings.NewReader(body))
		if err != nil {
			return 0, "", err
		}
		r.Header.Set("X-API-Key", key)
		if method == "POST" {
			r.Header.Set("Idempotency-Key", once)
		}
		if body != "" {
			r.Header.Set("Content-Type", "application/json")
		}
		a, err := client.Do(r)
		if err != nil && !reused && (errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, io.EOF)) && time.Now().Before(deadline) {
			kind := "requests sent again, of others"
			if key == q.key.Key {
				kind = "requests sent again, of the quiet owner"
			}
			q.count(kind, broken(err))
			continue
		}
		if err != nil {
			return 0, "", fmt.Errorf("%w (by a connection that was used before: %t)", err, reused)
		}
		data, err := io.ReadAll(a.Body)
		_ = a.Body.Close()
		return a.StatusCode, string(data), err
	}
}

// note records how long an answer took.
func (q *quiet) note(kind string, began time.Time) {
	ended := time.Now()
	l := latency{gross: ended.Sub(began)}
	l.net = max(0, l.gross-q.stopped(began, ended))
	q.mu.Lock()
	defer q.mu.Unlock()
	q.took[kind] = append(q.took[kind], l)
}

// want sends a request of the quiet owner, of which only one answer is right.
func (q *quiet) want(status int, method, path, body string, right func(answer string) error) {
	began := time.Now()
	got, answer, err := q.ask(q.key.Key, method, path, body)
	q.note("quiet owner", began)
	if err == nil && got != status {
		err = fmt.Errorf("want %d", status)
	}
	if err == nil {
		err = right(answer)
	}
	if err != nil {
		q.fault("quiet owner, %s %s: got %d %.300q after %s, %v", method, path, got, answer, time.Since(began), err)
	}
}

// exactly wants a body.
func exactly(want string) func(string) error {
	return func(got string) error {
		if got != want {
			return fmt.Errorf("want %.300q", want)
		}
		return nil
	}
}

// begin begins to ask until ctx ends.
func (q *quiet) begin(ctx context.Context, running *sync.WaitGroup) {
	often := func(pause time.Duration, do func(i int)) {
		running.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				do(i)
				sleep(ctx, time.Duration(rand.Int64N(int64(2*pause))))
			}
		})
	}
	for worker := range 3 {
		often(100*time.Millisecond, func(i int) { q.round(fmt.Sprintf("w%d-%d", worker, i)) })
	}
	often(time.Second, q.stream)
	often(100*time.Millisecond, q.operator)
	often(300*time.Millisecond, q.churn)
	often(50*time.Millisecond, func(int) { q.askRevoked() })
	secured := certstest.Client(q.t, q.ca, func(c *tls.Config) { c.Time = func() time.Time { return q.began } })
	secured.Transport.(*http.Transport).DisableKeepAlives = true
	often(500*time.Millisecond, func(int) { q.overTLS(secured) })
	for _, limit := range shortLimits {
		for range 2 {
			often(limit.span/time.Duration(10*limit.most)+20*time.Millisecond, func(int) { q.useLimit(limit) })
		}
	}
	for range 4 {
		often(100*time.Millisecond, func(int) { q.useTwice() })
	}
	often(500*time.Millisecond, func(int) { q.useFew() })
}

// sleep waits for a time or until ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// round is one round of requests of the quiet owner. No other round has the name.
func (q *quiet) round(name string) {
	q.want(200, "GET", "/api/v1/agents", "", exactly(q.agents))
	var contact struct {
		ID      uint64
		Company string
	}
	text := strings.Repeat(name+" ", 10)
	q.asked.Add(1)
	q.want(201, "POST", "/api/v1/contacts/create", fmt.Sprintf(`{"first_name": %q, "company": %q}`, name, text), func(answer string) error {
		q.contacts.Add(1)
		if err := json.Unmarshal([]byte(answer), &contact); err != nil || contact.Company != text || contact.ID == 0 {
			return fmt.Errorf("want the contact, %v", err)
		}
		return nil
	})
	same := func(first string) func(string) error {
		return func(answer string) error {
			for _, part := range []string{fmt.Sprintf(`"id":%d,`, contact.ID), fmt.Sprintf(`"first_name":%q`, first), fmt.Sprintf(`"company":%q`, text)} {
				if !strings.Contains(answer, part) {
					return fmt.Errorf("want %s", part)
				}
			}
			return nil
		}
	}
	at := fmt.Sprintf("/api/v1/contacts/%d", contact.ID)
	q.want(200, "GET", at, "", same(name))
	q.want(200, "PATCH", at+"/update", `{"first_name": "changed"}`, same("changed"))
	q.want(200, "GET", at, "", same("changed"))
	q.want(404, "GET", "/api/v1/contacts/1", "", func(string) error { return nil }) // of another owner
	q.want(200, "GET", "/up/echo?"+name, "", exactly("GET /up/echo?"+name+" 0"))
	body := strings.Repeat("x", rand.IntN(200<<10))
	q.want(200, "POST", "/up/echo?"+name, body, exactly(fmt.Sprintf("POST /up/echo?%s %d", name, len(body))))
	q.want(201, "POST", "/api/v1/calls", `{"phone_number": "+4930555944", "agent_id": `+q.agent()+`}`, func(answer string) error {
		var call struct {
			Call string `json:"call_id"`
		}
		err := json.Unmarshal([]byte(answer), &call)
		q.mu.Lock()
		defer q.mu.Unlock()
		if err != nil || call.Call == "" || q.calls[call.Call] {
			return fmt.Errorf("want a new call, %v", err)
		}
		q.calls[call.Call] = true
		return nil
	})
	visit := fmt.Sprintf(`{"title": %q, "start_time": "2030-03-02T09:00:00Z", "end_time": "2030-03-02T10:00:00Z"}`, name)
	q.want(201, "POST", "/api/v1/calendar/events/create", visit, func(answer string) error {
		var event struct{ UUID, Title string }
		err := json.Unmarshal([]byte(answer), &event)
		q.mu.Lock()
		defer q.mu.Unlock()
		if err != nil || event.Title != name || q.events[event.UUID] {
			return fmt.Errorf("want a new event, %v", err)
		}
		q.events[event.UUID] = true
		return nil
	})
}

// agent returns the id of the agent of the quiet owner.
func (q *quiet) agent() string {
	_, rest, _ := strings.Cut(q.agents, `"id":`)
	id, _, _ := strings.Cut(rest, ",")
	return id
}

// stream reads a stream of events to its end.
func (q *quiet) stream(i int) {
	n := 1 + rand.IntN(100)
	if q.long {
		n *= 4 // up to 20 seconds
	}
	name := fmt.Sprint("stream-", i)
	began := time.Now()
	status, body, err := q.ask(q.key.Key, "GET", fmt.Sprintf("/up/events?n=%d&name=%s", n, name), "")
	if want := sseText(name, n); err != nil || status != 200 || body != want {
		q.fault("stream of %d events: got %d with %d of %d bytes after %s, %v", n, status, len(body), len(want), time.Since(began), err)
	}
	q.count("streams of events of the quiet owner", fmt.Sprint(status))
}

// control sends a request of the operator over the control socket.
func (q *quiet) control(method, path, body string, into any) error {
	began := time.Now()
	answer, err := q.socket(method, path, body)
	q.note("operator", began)
	if err == nil && into != nil {
		err = json.Unmarshal(answer, into)
	}
	if err != nil {
		q.fault("operator, %s %s: %v after %s", method, path, err, time.Since(began))
	}
	return err
}

// operator looks at one thing.
func (q *quiet) operator(i int) {
	switch i % 6 {
	case 0:
		var list struct{ Count int64 }
		least := q.contacts.Load()
		if err := q.control("GET", "/admin/v1/contacts?owner=quiet&limit=1", "", &list); err == nil {
			if most := q.asked.Load(); list.Count < least || list.Count > most {
				q.fault("the quiet owner has %d contacts, want %d to %d", list.Count, least, most)
			}
		}
	case 1:
		_ = q.control("GET", "/admin/v1/status", "", nil)
	case 2:
		_ = q.control("GET", "/admin/v1/keys?limit=10", "", nil)
	case 3:
		_ = q.control("GET", "/admin/v1/audit?limit=10", "", nil)
	case 4:
		_ = q.control("GET", "/admin/v1/usage", "", nil)
	case 5:
		_ = q.control("GET", "/admin/v1/requests?limit=10", "", nil)
	}
}

// churn makes a key, uses it and revokes it.
func (q *quiet) churn(int) {
	var made siegeKey
	if q.control("POST", "/admin/v1/keys", `{"name": "churn", "owner": "limited", "permissions": ["can_read_agents"]}`, &made) != nil {
		return
	}
	if status, body, err := q.ask(made.Key, "GET", "/api/v1/agents", ""); err != nil || status != 200 {
		q.fault("a new key: got %d %s, %v; want 200", status, body, err)
	}
	if q.control("POST", "/admin/v1/keys/"+made.ID+"/revoke", "", nil) != nil {
		return
	}
	q.mu.Lock()
	q.revoked = append(q.revoked, made.Key)
	q.mu.Unlock()
	q.refused(made.Key, "/api/v1/agents")
}

// askRevoked asks with a key that was revoked at some time.
func (q *quiet) askRevoked() {
	q.mu.Lock()
	key := ""
	if n := len(q.revoked); n > 0 {
		key = q.revoked[rand.IntN(n)]
	}
	q.mu.Unlock()
	if key == "" {
		return
	}
	path := []string{"/api/v1/agents", "/up/echo", "/api/v1/key"}[rand.IntN(3)]
	q.refused(key, path)
}

// refused asks with a key that was revoked. The server may slow down an address that sends many wrong keys, and close a connection
// without a valid key for another one.
func (q *quiet) refused(key, path string) {
	status, body, err := q.askBy(q.revoker, key, "GET", q.URL+path, "")
	if err == nil && status != 401 && status != 429 {
		q.fault("a key that was revoked, %s: got %d %.300q; want 401", path, status, body)
	}
	q.count("revoked keys", result(status))
}

// overTLS asks the admin listener by a new connection. While strangers fill the listener, a connection can be closed before its
// first request has arrived; then the request is sent again.
func (q *quiet) overTLS(client *http.Client) {
	for deadline := time.Now().Add(2 * quietBound); ; sleep(context.Background(), 100*time.Millisecond) {
		r, err := http.NewRequest("GET", "https://"+q.Admin+"/admin/v1/status", nil)
		if err != nil {
			q.fault("%v", err)
			return
		}
		r.Header.Set("Authorization", "Bearer "+q.token)
		began := time.Now()
		a, err := client.Do(r)
		if err == nil {
			_, err = io.Copy(io.Discard, a.Body)
			_ = a.Body.Close()
		}
		if err == nil {
			if q.note("operator over TLS", began); a.StatusCode != 200 {
				q.fault("operator over TLS: got %d", a.StatusCode)
			}
			return
		}
		q.count("operator over TLS, connection closed", broken(err))
		if time.Now().After(deadline) {
			q.fault("operator over TLS: %v", err)
			return
		}
	}
}

// broken says in a word how a connection was broken.
func broken(err error) string {
	for _, known := range []error{syscall.ECONNRESET, syscall.EPIPE, syscall.EADDRNOTAVAIL, os.ErrDeadlineExceeded, io.ErrUnexpectedEOF, io.EOF} {
		if errors.Is(err, known) {
			return known.Error()
		}
	}
	if timeout := net.Error(nil); errors.As(err, &timeout) && timeout.Timeout() {
		return "timeout"
	}
	return err.Error()
}

// useLimit asks with a key that has a short limit.
func (q *quiet) useLimit(limit shortLimit) {
	key := q.keys[limit.name].Key
	sent := time.Now()
	status, body, err := q.ask(key, "GET", limit.path, "")
	got := time.Now()
	switch {
	case err == nil && status == 200:
		d := q.admitted(limit.name, sent, got)
		q.mu.Lock()
		q.passed[limit.name] = append(q.passed[limit.name], d)
		q.mu.Unlock()
	case err != nil || status != 429:
		q.fault("limit %s: got %d %.300q, %v", limit.name, status, body, err)
	}
	q.count("limit "+limit.name, fmt.Sprint(status))
}

// useTwice asks for the route at which two requests of a key may be at once.
func (q *quiet) useTwice() {
	status, body, err := q.ask(q.keys["twice"].Key, "GET", "/twice/x", "")
	if err != nil || status != 200 && status != 429 || status == 200 && body != "twice" {
		q.fault("two at once: got %d %.300q, %v", status, body, err)
	}
	if status == 200 {
		q.served.Add(1)
	}
	q.count("two at once", fmt.Sprint(status))
}

// useFew starts calls until the limit of the day refuses them.
func (q *quiet) useFew() {
	status, body, err := q.ask(q.keys["few"].Key, "POST", "/api/v1/calls", `{"phone_number": "+4930555944", "agent_id": 2}`)
	if err != nil || status != 201 && status != 429 {
		q.fault("few calls a day: got %d %.300q, %v", status, body, err)
	}
	if status == 201 {
		q.mu.Lock()
		q.fewCalls++
		q.mu.Unlock()
	}
	q.count("few calls a day", fmt.Sprint(status))
}

// complete holds everything that was answered against what is there in the end.
func (q *quiet) complete() {
	q.t.Helper()
	defer q.client.CloseIdleConnections()
	defer q.revoker.CloseIdleConnections()
	for _, limit := range shortLimits {
		for _, problem := range checkWindows(q.passed[limit.name], limit.most, limit.span) {
			q.t.Error(problem)
		}
		if len(q.passed[limit.name]) == 0 {
			q.t.Errorf("no request passed with the limit %s", limit.name)
		}
	}
	if most := q.most.Load(); most > 2 || q.served.Load() == 0 {
		q.t.Errorf("%d requests were at the upstream at once, want no more than 2; %d were served", most, q.served.Load())
	}
	if q.fewCalls > fewCalls || q.fewCalls == 0 {
		q.t.Errorf("%d calls passed with a limit of %d", q.fewCalls, fewCalls)
	}
	used := func(key siegeKey, limit string) int {
		var shown struct{ Usage map[string]struct{ Used int } }
		q.operate("GET", "/admin/v1/keys/"+key.ID, "", &shown)
		return shown.Usage[limit].Used
	}
	stored := func(path string) int {
		var list struct{ Count int }
		q.operate("GET", path, "", &list)
		return list.Count
	}
	for _, tt := range []struct {
		what      string
		got, want int
	}{
		{"calls in the daily count of the quiet owner", used(q.key, "calls_per_day_limit"), len(q.calls)},
		{"events in the daily count of the quiet owner", used(q.key, "calendar_events_per_day_limit"), len(q.events)},
		{"calls in the daily count of the other key", used(q.keys["few"], "calls_per_day_limit"), q.fewCalls},
		{"calls of the quiet owner", stored("/admin/v1/calls?owner=quiet&limit=1"), len(q.calls)},
		{"contacts of the quiet owner", stored("/admin/v1/contacts?owner=quiet&limit=1"), int(q.contacts.Load())},
	} {
		if tt.got != tt.want {
			q.t.Errorf("%d %s, want %d", tt.got, tt.what, tt.want)
		}
	}
	for _, key := range q.revoked[max(0, len(q.revoked)-100):] {
		q.refused(key, "/api/v1/agents")
	}
	q.hooks.await(q.events)
	q.t.Logf("%d contacts, %d calls, %d events of the quiet owner; %d keys were created and revoked", q.contacts.Load(), len(q.calls), len(q.events), len(q.revoked))
}
