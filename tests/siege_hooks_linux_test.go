package tests

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"time"
)

// siegeReceiver receives webhooks. What arrives at /good is answered.
type siegeReceiver struct {
	siege  *siege
	server *httptest.Server
	secret string
	ended  chan struct{} // closed when the receivers that hang go on

	mu   sync.Mutex
	seen map[string]int // deliveries by the uuid of the event
}

// newSiegeReceiver starts one.
func newSiegeReceiver(t interface{ Cleanup(func()) }, s *siege) *siegeReceiver {
	v := &siegeReceiver{siege: s, ended: make(chan struct{}), seen: map[string]int{}}
	v.server = httptest.NewServer(v)
	t.Cleanup(func() {
		v.release()
		v.server.Close()
	})
	return v
}

// release ends the receivers that hang.
func (v *siegeReceiver) release() {
	v.mu.Lock()
	defer v.mu.Unlock()
	select {
	case <-v.ended:
	default:
		close(v.ended)
	}
}

// subscribe makes the webhook of the quiet owner.
func (v *siegeReceiver) subscribe(key siegeKey) {
	v.siege.t.Helper()
	webhook := fmt.Sprintf(`{"name": "good", "url": %q, "subscribed_events": ["calendar.created"]}`, v.server.URL+"/good")
	r, err := http.NewRequest("POST", v.siege.URL+"/api/webhooks/create", strings.NewReader(webhook))
	if err != nil {
		v.siege.t.Fatal(err)
	}
	r.Header.Set("X-API-Key", key.Key)
	r.Header.Set("Content-Type", "application/json")
	a, err := v.siege.street.client.Do(r)
	if err != nil {
		v.siege.t.Fatal(err)
	}
	defer a.Body.Close()
	var made struct{ Secret string }
	if err := json.NewDecoder(a.Body).Decode(&made); err != nil || made.Secret == "" {
		v.siege.t.Fatalf("webhook: %d, %v", a.StatusCode, err)
	}
	v.secret = made.Secret
	v.siege.log.forbid(made.Secret)
}

// await waits until all events have been delivered.
func (v *siegeReceiver) await(events map[string]bool) {
	v.siege.t.Helper()
	missing, twice := 0, 0
	for deadline := time.Now().Add(8 * time.Minute); ; time.Sleep(100 * time.Millisecond) { // the second repetition of a delivery comes after 6 minutes
		missing, twice = 0, 0
		v.mu.Lock()
		for uuid := range events {
			if v.seen[uuid] == 0 {
				missing++
			}
			twice += max(0, v.seen[uuid]-1)
		}
		all := len(v.seen)
		v.mu.Unlock()
		if missing == 0 || time.Now().After(deadline) {
			if missing > 0 || all != len(events) {
				v.siege.t.Errorf("%d events of the quiet owner were not delivered, and %d of %d were", missing, all, len(events))
			}
			v.siege.t.Logf("all of %d events were delivered, %d times more than once", len(events), twice)
			return
		}
	}
}

// ServeHTTP answers as the path says.
func (v *siegeReceiver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	v.siege.count("webhook receivers", strings.TrimPrefix(r.URL.Path, "/"))
	hold := func(d time.Duration) bool {
		select {
		case <-r.Context().Done():
		case <-v.ended:
		case <-time.After(d):
			return true
		}
		return false
	}
	switch r.URL.Path {
	case "/good":
		var delivery struct {
			Event struct{ UUID string } `json:"calendar_event"`
		}
		if err != nil || json.Unmarshal(body, &delivery) != nil || r.Header.Get("X-Klen-Signature") != sign(v.secret, string(body)) {
			v.siege.fault("a delivery with a wrong signature, or broken: %.300q, %v", body, err)
		}
		v.mu.Lock()
		v.seen[delivery.Event.UUID]++
		v.mu.Unlock()
	case "/hang":
		hold(time.Hour)
	case "/drip":
		flush := http.NewResponseController(w).Flush
		for hold(200 * time.Millisecond) {
			if _, err := w.Write([]byte{'x'}); err != nil || flush() != nil {
				return
			}
		}
	case "/endless":
		for block := bytes.Repeat([]byte{'x'}, 64<<10); hold(time.Millisecond); {
			if _, err := w.Write(block); err != nil {
				return
			}
		}
	case "/reset":
		if c, _, err := http.NewResponseController(w).Hijack(); err == nil {
			abort(c)
		}
	default:
		w.WriteHeader(http.StatusInternalServerError)
	}
}
