package main

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
)

// A request with a key needs at most 3 allocations in the handler of the API, the access log
// included: its id, and two for the fields with the state of the limits.
func TestServer_Allocations(t *testing.T) {
	a := newTestApp(t)
	a.Server.spare.spoil = false
	a.Server.o.Access = &AccessWriter{Out: io.Discard, Level: slog.LevelInfo, Redact: func(s string) string { return s }}
	a.operate(201, "POST", "/admin/v1/agents", `{"name": "Front desk"}`)
	_, key := a.key(`["can_read_agents"]`, `"limits": {"requests_per_minute_limit": 1000000000}`)
	r, values, w := httptest.NewRequest("GET", "/api/v1/agents", nil), []string{key}, &sink{header: http.Header{}}
	ask := func() {
		clear(w.header) // the request and the answer use their memory again, as in internal/lean
		r.Header["X-Api-Key"] = values
		a.api.ServeHTTP(w, r)
	}
	ask() // the first time stores a reserve
	if got := testing.AllocsPerRun(1000, ask); got > 3 && !raceDetector {
		t.Errorf("got %v allocations, want at most 3", got)
	}
	if w.status != http.StatusOK {
		t.Errorf("got status %d, want 200", w.status)
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
