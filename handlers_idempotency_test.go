package main

import (
	"fmt"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// retry asks for a call under an Idempotency-Key.
func (a *testApp) retry(key, name, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("POST", "/api/v1/calls", strings.NewReader(body))
	r.Header.Set("X-API-Key", key)
	r.Header.Set("Idempotency-Key", name)
	w := httptest.NewRecorder()
	a.api.ServeHTTP(w, r)
	return w
}

func TestOnce(t *testing.T) {
	a := newCallApp(t)
	id, key := a.key(everyPermission, `"limits": {"calls_per_day_limit": 3}`)
	_, other := a.key(everyPermission)
	const body = `{"phone_number": "+4930555044", "agent_id": 1}`
	first := a.retry(key, "order-1", body)
	if first.Code != 201 || first.Header().Get("Idempotency-Replayed") != "" {
		t.Fatalf("got %d %s %v", first.Code, first.Body, first.Header())
	}
	a.restart()
	again := a.retry(key, "order-1", body)
	if again.Code != 201 || again.Body.String() != first.Body.String() || again.Header().Get("Idempotency-Replayed") != "true" {
		t.Errorf("again: got %d %s %v, want the first answer", again.Code, again.Body, again.Header())
	}
	if w := a.retry(key, "order-1", `{"phone_number": "+4930555045", "agent_id": 1}`); w.Code != 422 || code(w) != "idempotency_key_reused" {
		t.Errorf("another body: got %d %s", w.Code, w.Body)
	}
	if w := a.retry(other, "order-1", body); w.Code != 201 || w.Header().Get("Idempotency-Replayed") != "" {
		t.Errorf("another key: got %d %s", w.Code, w.Body)
	}
	if w := a.retry(key, strings.Repeat("x", 256), body); w.Code != 400 {
		t.Errorf("a long one: got %d %s", w.Code, w.Body)
	}
	// A refusal is not an answer to keep: it may pass later.
	if w := a.retry(key, "order-2", `{"phone_number": "+4930555666", "agent_id": 1}`); w.Code != 403 {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	if w := a.retry(key, "order-2", body); w.Code != 201 {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	usage := a.operate(200, "GET", "/admin/v1/keys/"+id+"/usage", "")["usage"].(map[string]any)["calls_per_day_limit"].(map[string]any)
	if usage["used"] != 2.0 {
		t.Errorf("got %v used, want 2", usage["used"])
	}
	a.clocks.Pass(24 * time.Hour)
	if w := a.retry(key, "order-1", body); w.Code != 201 || w.Header().Get("Idempotency-Replayed") != "" {
		t.Errorf("a day later: got %d %s, want a new call", w.Code, w.Body)
	}
	if err := SweepReplays(a.Store, a.clock.Now()); err != nil {
		t.Fatal(err)
	}
	left := 0
	_ = a.Store.View(func(tx *Tx) error {
		left = tx.Count("replays")
		return nil
	})
	if left != 1 {
		t.Errorf("got %d answers after the sweep, want the one of today", left)
	}
}

// The same request from many at once makes one call.
func TestOnce_Concurrently(t *testing.T) {
	a := newCallApp(t)
	_, key := a.key(everyPermission)
	var mu sync.Mutex
	bodies, replayed := map[string]int{}, 0
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			w := a.retry(key, "same", `{"phone_number": "+4930555044", "agent_id": 1}`)
			mu.Lock()
			defer mu.Unlock()
			bodies[fmt.Sprint(w.Code, w.Body)]++
			if w.Header().Get("Idempotency-Replayed") != "" {
				replayed++
			}
		})
	}
	wg.Wait()
	if len(bodies) != 1 || replayed != 19 {
		t.Errorf("got %v, %d replayed; want one answer for all, 19 replayed", bodies, replayed)
	}
	if v := a.operate(200, "GET", "/admin/v1/calls", ""); v["count"] != 1.0 {
		t.Errorf("got %v calls, want 1", v["count"])
	}
}
