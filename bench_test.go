package main

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// sink is a ResponseWriter that keeps no more than the status.
type sink struct {
	header http.Header
	status int
}

func (s *sink) Header() http.Header         { return s.header }
func (s *sink) Write(b []byte) (int, error) { return len(b), nil }
func (s *sink) WriteHeader(status int)      { s.status = status }

// BenchmarkServer asks for the agents through the whole chain: key, limits,
// permission, answer. A thousand keys take turns, as in life they would.
func BenchmarkServer(b *testing.B) {
	a := newTestApp(b, func(c *Config) { c.Log.Access = false })
	a.operate(201, "POST", "/admin/v1/agents", `{"name": "Front desk"}`)
	var keys [][]string
	r := httptest.NewRequest("GET", "/api/v1/agents", nil)
	ask := func(key []string) {
		r.Header["X-Api-Key"] = key // each time: the server takes it out
		w := &sink{header: http.Header{}}
		if a.api.ServeHTTP(w, r); w.status != 200 {
			b.Fatalf("got %d, want 200", w.status)
		}
	}
	for range 1000 {
		_, key := a.key(`["can_read_agents"]`, `"limits": {"requests_per_minute_limit": 1000000000}`)
		keys = append(keys, []string{key})
		ask(keys[len(keys)-1]) // the first time stores a reserve
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		ask(keys[i%len(keys)])
	}
}

// BenchmarkProxy asks an upstream through a bare reverse proxy and through a
// guarded route, over sockets: what the second costs more is ours. The client
// and the upstream are counted too.
func BenchmarkProxy(b *testing.B) {
	g := newGuarded(b, func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte(`{"id": 1}`)) }, func(c *Config, _ string) { c.Log.Access = false })
	_, key := g.testApp.key(`["can_use"]`, `"limits": {"requests_per_minute_limit": 1000000000}`)
	upstream, err := url.Parse(g.upstream.URL)
	if err != nil {
		b.Fatal(err)
	}
	transport := &http.Transport{MaxIdleConnsPerHost: 1024, DisableCompression: true}
	defer transport.CloseIdleConnections()
	bare := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(upstream) }, Transport: transport, BufferPool: &buffers{}})
	defer bare.Close()
	for name, door := range map[string]*httptest.Server{"bare": bare, "guarded": g.door} {
		b.Run(name, func(b *testing.B) {
			c, err := net.Dial("tcp", door.Listener.Addr().String())
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close()
			request, answers := []byte("GET /up/1 HTTP/1.1\r\nHost: x\r\nX-API-Key: "+key+"\r\n\r\n"), bufio.NewReader(c)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.Write(request); err != nil {
					b.Fatal(err)
				}
				res, err := http.ReadResponse(answers, nil)
				if err != nil || res.StatusCode != 200 {
					b.Fatalf("got %v %v, want 200", res, err)
				}
				if _, err := io.Copy(io.Discard, res.Body); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkLimiter spends a unit, with the reserve fetched as it is used.
func BenchmarkLimiter(b *testing.B) {
	l := NewLimiter(newTestStore(b), epoch)
	limits := []Limit{{"x", 1_000_000_000, time.Minute}}
	into := make([]LimitStatus, 0, 1)
	now := epoch
	b.ReportAllocs()
	for b.Loop() {
		now = now.Add(time.Microsecond)
		if _, err := l.Spend("a", limits, now, into); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkKeyring finds a key that is in memory.
func BenchmarkKeyring(b *testing.B) {
	a := newTestApp(b)
	_, key := a.key(`["can_read_agents"]`)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := a.Keyring.Find(key); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkCalls starts calls, 64 at a time, each on disk before its answer.
func BenchmarkCalls(b *testing.B) {
	a := newCallApp(b)
	_, key := a.key(everyPermission, `"limits": {"requests_per_minute_limit": 1000000000, "calls_per_day_limit": 1000000000}`)
	b.SetParallelism(32)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			r := httptest.NewRequest("POST", "/api/v1/calls", strings.NewReader(`{"phone_number": "+4930555044", "agent_id": 1}`))
			r.Header.Set("X-API-Key", key)
			w := &sink{header: http.Header{}}
			if a.api.ServeHTTP(w, r); w.status != 201 {
				b.Errorf("got %d, want 201", w.status)
			}
		}
	})
}

// worst calls a request until the benchmark is over and reports the time that
// 99 of 100 stay under, in milliseconds.
func worst(b *testing.B, a *testApp, key string, paths ...string) {
	b.Helper()
	var times []time.Duration
	for i := 0; b.Loop(); i++ {
		r := httptest.NewRequest("GET", paths[i%len(paths)], nil)
		r.Header.Set("X-API-Key", key)
		w := &sink{header: http.Header{}}
		began := time.Now()
		if a.api.ServeHTTP(w, r); w.status != 200 {
			b.Fatalf("%s: got %d, want 200", paths[i%len(paths)], w.status)
		}
		times = append(times, time.Since(began))
	}
	slices.Sort(times)
	b.ReportMetric(float64(times[len(times)*99/100].Microseconds())/1000, "p99-ms")
}

// BenchmarkLists asks for lists in a store of 50,000 calls, of five agents, one
// of which is a team's, and 10,000 events in half a year.
func BenchmarkLists(b *testing.B) {
	a := newTestApp(b, func(c *Config) { c.Log.Access = false })
	a.operate(201, "POST", "/admin/v1/teams", `{"name": "T", "members": ["admin"]}`)
	for range 5 {
		a.operate(201, "POST", "/admin/v1/agents", `{"name": "A", "phone_number": "+4930555001"}`)
	}
	_, key := a.key(everyPermission, `"limits": {"requests_per_minute_limit": 1000000000}`)
	for part := range 50 {
		err := a.Store.Update(func(tx *Tx) error {
			for i := range 1000 {
				n := part*1000 + i
				at := epoch.Add(time.Duration(n-50_000) * time.Minute)
				c := call{
					Owner: 1, Agent: callAgent{ID: uint64(n%5 + 1), Name: "A"}, Status: callStates()[min(3, n%40)], Type: callTypes()[n%2],
					PhoneNumber: "+4930555044", CreatedAt: at, StartedAt: at, Billing: billing{Status: billingPending},
				}
				if n%5 == 0 {
					c.TeamID = 1
				}
				if _, err := saveCall(tx, c); err != nil {
					return err
				}
				if i%5 != 0 {
					continue
				}
				start := epoch.Add(time.Duration(part*200+i/5) * 26 * time.Minute)
				e := event{Owner: 1, Title: "E", Kind: "meeting", Status: eventScheduled, Start: start, End: start.Add(20 * time.Minute), CreatedAt: at, UpdatedAt: at}
				if _, err := saveEvent(tx, e); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	for _, bb := range []struct {
		name  string
		paths []string
	}{
		{"calls", []string{"/api/v1/calls", "/api/v1/calls?page=3&limit=100"}},
		{"calls filtered", []string{"/api/v1/calls?status=completed", "/api/v1/calls?status=queued&type=inbound", "/api/v1/calls?agent_id=3", "/api/v1/calls?agent_id=1&status=in-progress"}},
		{"calls deep", []string{"/api/v1/calls?page=4990", "/api/v1/calls?agent_id=2&page=990"}},
		{"events", []string{"/api/v1/calendar/events", "/api/v1/calendar/events?start_date=2026-02-10&end_date=2026-05-10&limit=100", "/api/v1/calendar/events?status=confirmed&end_date=2026-08-01"}},
		{"availability", []string{"/api/v1/calendar/availability", "/api/v1/calendar/availability?start_date=2026-02-10&end_date=2026-02-24&duration=15"}},
	} {
		b.Run(bb.name, func(b *testing.B) { worst(b, a, key, bb.paths...) })
	}
}

// BenchmarkScopes asks for lists with limited keys, in a store of 1,000,000 calls with 1,000 agents and 100,000 contacts,
// or a part of that, as LATCHKEY_BENCH_SCALE says.
func BenchmarkScopes(b *testing.B) {
	scale, err := strconv.ParseFloat(cmp.Or(os.Getenv("LATCHKEY_BENCH_SCALE"), "0.02"), 64)
	if err != nil {
		b.Fatal(err)
	}
	f := &filler{TB: b, owners: 1, scale: scale, contacts: uint64(100_000 * scale), random: rand.New(rand.NewPCG(1, 2))}
	f.app = newTestApp(b, func(c *Config) { c.Log.Access = false })
	f.now = f.app.clock.Now()
	err = f.app.Store.Update(func(tx *Tx) error {
		_, err := EnsureOwner(tx, DefaultOwner, f.now)
		for i := range uint64(1000) {
			err = errors.Join(err, agentTable.Put(tx, Agent{ID: i + 1, Name: "A", AssistantID: fmt.Sprintf("assistant_%d", i+1), Role: roleInbound, Owner: 1, CreatedAt: f.now}))
		}
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	f.each("contacts", 100_000, f.contact)
	f.each("calls", 1_000_000, f.call)
	f.each("events", 100_000, f.event)
	var hundred []string
	for i := range MaxObjects {
		hundred = append(hundred, strconv.Itoa(1+i*7))
	}
	all := strings.Join(hundred, ",")
	for _, resources := range []string{`null`, `{"agents": [8]}`, `{"contacts": [8]}`, `{"agents": [8], "contacts": [8]}`, `{"agents": [` + all + `]}`, `{"contacts": [` + all + `]}`, `{"agents": [` + all + `], "contacts": [` + all + `]}`} {
		_, key := f.app.key(everyPermission, `"limits": {"requests_per_minute_limit": 1000000000}`, `"resources": `+resources)
		for _, path := range []string{"/api/v1/calls", "/api/v1/contacts?search=mara", "/api/v1/calendar/events", "/api/v1/agents"} {
			b.Run(strings.ReplaceAll(resources, all, "100")+path, func(b *testing.B) { worst(b, f.app, key, path) })
		}
	}
}

// BenchmarkHistory counts requests of a thousand keys.
func BenchmarkHistory(b *testing.B) {
	h := NewHistory(newTestStore(b))
	var keys []string
	for i := range 1000 {
		keys = append(keys, NewKeyID(epoch.Add(time.Duration(i))))
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		h.Note(CountedRequest{keys[i%len(keys)], "/api/v1/agents", "", 200, epoch})
	}
}

// BenchmarkKeyRows updates the rows that a screen shows of a list of 10,000 keys, as an open page does
// whenever there are new requests.
func BenchmarkKeyRows(b *testing.B) {
	d := newDashboard(b, func(c *Config) { c.Log.Access = false })
	d.operate(201, "POST", "/admin/v1/keys/import", importMany(b, 10_000))
	var ids []string
	for _, row := range d.operate(200, "GET", "/admin/v1/keys?limit=25", "")["keys"].([]any) {
		id := row.(map[string]any)["id"].(string)
		ids = append(ids, id)
		for hour := range 24 {
			for n := range 3 + hour%5 {
				d.App.history.Note(CountedRequest{id, "/api/v1/calls", "", []int{200, 200, 404, 429, 500}[n%5], d.clock.Now().Add(-time.Duration(hour) * time.Hour)})
			}
		}
	}
	if err := d.App.history.Flush(); err != nil {
		b.Fatal(err)
	}
	path := "/keys/rows?ids=" + strings.Join(ids, ",")
	var times []time.Duration
	for b.Loop() {
		r, w := d.request("GET", path), httptest.NewRecorder()
		r.AddCookie(d.sessionCookie())
		began := time.Now()
		if d.door.ServeHTTP(w, r); w.Code != 200 || strings.Count(w.Body.String(), "<tr ") != len(ids) {
			b.Fatalf("got %d %s", w.Code, w.Body)
		}
		times = append(times, time.Since(began))
	}
	slices.Sort(times)
	b.ReportMetric(float64(times[len(times)/2].Microseconds())/1000, "p50-ms")
}
