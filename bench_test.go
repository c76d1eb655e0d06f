package main

import (
	"net/http"
	"net/http/httptest"
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
	var requests []*http.Request
	for range 1000 {
		_, key := a.key(`["can_read_agents"]`, `"limits": {"requests_per_minute_limit": 1000000000}`)
		r := httptest.NewRequest("GET", "/api/v1/agents", nil)
		r.Header.Set("X-API-Key", key)
		requests = append(requests, r)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		w := &sink{header: http.Header{}}
		if a.api.ServeHTTP(w, requests[i%len(requests)]); w.status != 200 {
			b.Fatalf("got %d, want 200", w.status)
		}
	}
}

// BenchmarkLimiter spends a unit, with the reserve fetched as it is used.
func BenchmarkLimiter(b *testing.B) {
	l := NewLimiter(newTestStore(b), epoch)
	limits := []Limit{{"x", 1_000_000_000, time.Minute}}
	into := make([]Standing, 0, 1)
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
