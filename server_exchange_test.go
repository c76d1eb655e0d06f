package main

import (
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// lineSink is a sink that takes fields as lines, as the ResponseWriter of internal/lean does.
type lineSink struct {
	sink
	lines []byte
}

func (s *lineSink) FieldLines() []byte         { return s.lines[:0] }
func (s *lineSink) SetFieldLines(lines []byte) { s.lines = lines }

// A request with a key needs at most 3 allocations in the handler of the API, the access log
// included: its id, and two for the fields with the state of the limits. The lean loop takes these
// fields as lines, which need none.
func TestServer_Allocations(t *testing.T) {
	a := newTestApp(t)
	a.Server.spare.spoil = false
	a.Server.o.Access = &AccessWriter{Out: io.Discard, Level: slog.LevelInfo, Redact: func(s string) string { return s }}
	a.operate(201, "POST", "/admin/v1/agents", `{"name": "Front desk"}`)
	_, key := a.key(`["can_read_agents"]`, `"limits": {"requests_per_minute_limit": 1000000000}`)
	r, values := httptest.NewRequest("GET", "/api/v1/agents", nil), []string{key}
	plain, lines := &sink{header: http.Header{}}, &lineSink{sink: sink{header: http.Header{}}}
	for _, way := range []struct {
		w    http.ResponseWriter
		sink *sink
		most float64
	}{{plain, plain, 3}, {lines, &lines.sink, 1}} {
		ask := func() {
			clear(way.sink.header) // the request and the answer use their memory again, as in internal/lean
			r.Header["X-Api-Key"] = values
			a.api.ServeHTTP(way.w, r)
		}
		ask() // the first time stores a reserve
		if got := testing.AllocsPerRun(1000, ask); got > way.most && !raceDetector {
			t.Errorf("%T: got %v allocations, want at most %v", way.w, got, way.most)
		}
		if way.sink.status != http.StatusOK {
			t.Errorf("%T: got status %d, want 200", way.w, way.sink.status)
		}
	}
	if lines.sink.header["Vary"] != nil || !strings.Contains(string(lines.lines), "\r\nX-Ratelimit-Remaining: ") {
		t.Errorf("got the lines %q and the fields %v, want the limits as lines alone", lines.lines, lines.sink.header)
	}
}

// A verification of a key and the refusal of a call cost a bounded number of allocations, those of the test
// included.
func TestServer_BodyAllocations(t *testing.T) {
	if raceDetector {
		t.Skip("allocations cannot be counted with the race detector")
	}
	a := newTestApp(t)
	a.Server.spare.spoil = false
	a.Server.o.Access = &AccessWriter{Out: io.Discard, Level: slog.LevelInfo, Redact: func(s string) string { return s }}
	const limits = `"limits": {"requests_per_minute_limit": 1000000000}`
	_, key := a.key(`["can_verify_keys", "can_initiate_calls"]`, limits)
	_, other := a.key(`["can_read_agents"]`, limits)
	w := &lineSink{sink: sink{header: http.Header{}}}
	for _, tt := range []struct {
		path, body string
		status     int
		most       float64
	}{
		{"/api/v1/verify", `{"key": "` + other + `"}`, 200, 33},
		{"/api/v1/calls", `{"agent_id": "1", "phone_number": "+4930123456"}`, 404, 94},
	} {
		ask := func() {
			clear(w.sink.header)
			r := httptest.NewRequest("POST", tt.path, strings.NewReader(tt.body))
			r.Header["X-Api-Key"], r.Header["Content-Type"] = []string{key}, jsonType
			a.api.ServeHTTP(w, r)
		}
		ask() // the first time stores a reserve
		got := testing.AllocsPerRun(200, ask)
		if got > tt.most || w.sink.status != tt.status {
			t.Errorf("%s: got %v allocations and status %d, want at most %v and %d", tt.path, got, w.sink.status, tt.most, tt.status)
		}
	}
}

// deadlineSink is a lineSink with deadlines.
type deadlineSink struct{ lineSink }

func (*deadlineSink) SetReadDeadline(time.Time) error  { return nil }
func (*deadlineSink) SetWriteDeadline(time.Time) error { return nil }

// fixedUpstream returns the URL of an upstream that answers every request with the same bytes. It does
// not allocate for a request.
func fixedUpstream(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	answer := []byte("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\n\r\n{\"id\": 1}")
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for b := make([]byte, 4<<10); ; {
					if _, err := c.Read(b); err != nil {
						return
					}
					_, _ = c.Write(answer)
				}
			}()
		}
	}()
	return "http://" + l.Addr().String()
}

// A request to a guarded route, and the question of a proxy whether it may pass on a request, cost a
// bounded number of allocations, those of the test included.
func TestServer_GuardAllocations(t *testing.T) {
	if raceDetector {
		t.Skip("allocations cannot be counted with the race detector")
	}
	upstream := fixedUpstream(t)
	a := newTestApp(t, func(c *Config) {
		c.Permissions = []permissionRow{{Name: "can_use", Description: "Use it."}}
		c.Routes = []RouteRow{{Path: "/up/*rest", Permission: []string{"can_use"}, Upstream: upstream, Timeout: time.Minute}}
	})
	a.Server.spare.spoil = false
	a.Server.o.Access = &AccessWriter{Out: io.Discard, Level: slog.LevelInfo, Redact: func(s string) string { return s }}
	_, key := a.key(`["can_use"]`, `"limits": {"requests_per_minute_limit": 1000000000}`)
	w := &deadlineSink{lineSink{sink: sink{header: http.Header{}}}}
	values := map[string][]string{"X-Api-Key": {key}}
	for _, name := range []string{"X-Original-Method", "X-Forwarded-Method"} {
		values[name] = []string{"GET"}
	}
	for _, name := range []string{"X-Original-Uri", "X-Forwarded-Uri"} {
		values[name] = []string{"/up/1"}
	}
	for _, tt := range []struct {
		path   string
		fields []string
		most   float64
	}{
		{"/up/1", []string{"X-Api-Key"}, 27},
		{"/authz/nginx", []string{"X-Api-Key", "X-Original-Method", "X-Original-Uri"}, 10},
		{"/authz/forward", []string{"X-Api-Key", "X-Forwarded-Method", "X-Forwarded-Uri"}, 10},
		{"/authz/envoy/up/1", []string{"X-Api-Key"}, 10},
	} {
		r := httptest.NewRequest("GET", tt.path, nil)
		r.RemoteAddr = "127.0.0.1:1000"
		ask := func() {
			clear(w.header)
			clear(r.Header)
			for _, name := range tt.fields {
				r.Header[name] = values[name]
			}
			a.api.ServeHTTP(w, r)
		}
		ask() // the first time stores a reserve and connects to the upstream
		got := testing.AllocsPerRun(500, ask)
		if got > tt.most || w.status != 200 {
			t.Errorf("%s: got %v allocations and status %d, want at most %v and 200", tt.path, got, w.status, tt.most)
		}
	}
}

// The request of a handler is empty once it has been answered. In the tests its memory is not used
// again, so a handler that leaves something behind which uses the request fails.
func TestServer_RequestIsEmptied(t *testing.T) {
	a := newTestApp(t)
	var kept *Request
	var answer error
	serve := a.Server.open(Route{Method: "GET", Path: "/kept", Handle: func(w http.ResponseWriter, r *Request) error {
		kept = r
		return answer
	}})
	serve(httptest.NewRecorder(), httptest.NewRequest("GET", "/kept", nil), nil)
	if kept.Request != nil || kept.ID != "" || kept.Client.IsValid() {
		t.Errorf("got request %q of %v, want an empty one", kept.ID, kept.Client)
	}
	answer = ErrNotFound // Server.Reached may keep the limits of a request that has failed
	serve(httptest.NewRecorder(), httptest.NewRequest("GET", "/kept", nil), nil)
	if kept.Request == nil || kept.ID == "" {
		t.Error("the request was emptied although it has failed")
	}
}
