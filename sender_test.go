package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// received is a delivery as it arrived.
type received struct {
	header http.Header
	body   string
}

// n gives the number that the tests put into an event.
func (r received) n() int {
	var v struct{ N int }
	_ = json.Unmarshal([]byte(r.body), &v)
	return v.N
}

// receiver is a subscriber's server. It answers with the given statuses in
// turn, then with 204.
type receiver struct {
	*httptest.Server
	mu       sync.Mutex
	got      []received
	statuses []int
}

func newReceiver(t testing.TB, statuses ...int) *receiver {
	v := &receiver{statuses: statuses}
	v.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		v.mu.Lock()
		defer v.mu.Unlock()
		v.got = append(v.got, received{r.Header.Clone(), string(body)})
		status := 204
		if len(v.statuses) > 0 {
			status, v.statuses = v.statuses[0], v.statuses[1:]
		}
		if status/100 == 3 {
			w.Header().Set("Location", "/elsewhere")
		}
		w.WriteHeader(status)
	}))
	t.Cleanup(v.Close)
	return v
}

func (v *receiver) all() []received {
	v.mu.Lock()
	defer v.mu.Unlock()
	return append([]received(nil), v.got...)
}

// answer sets what the next deliveries are answered with.
func (v *receiver) answer(statuses ...int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.statuses = statuses
}

func newHookApp(t testing.TB, change ...func(*Config)) *testApp {
	return newTestApp(t, append([]func(*Config){func(c *Config) { c.Webhooks.AllowPrivateTargets = true }}, change...)...)
}

// hook makes a webhook of the operator, or of an owner, and gives its id and
// secret.
func (a *testApp) hook(url, owner string, events ...string) (id uint64, secret string) {
	a.t.Helper()
	list, _ := json.Marshal(events)
	v := a.operate(201, "POST", "/admin/v1/webhooks", fmt.Sprintf(`{"name": "test", "url": %q, "owner": %q, "subscribed_events": %s}`, url, owner, list))
	return uint64(v["id"].(float64)), v["secret"].(string)
}

// raise tells of an event with a number.
func (a *testApp) raise(e Event, n int) {
	a.t.Helper()
	e.At, e.Body = a.clock.Now(), map[string]any{"n": n}
	if err := a.Store.Update(func(tx *Tx) error { return Raise(tx, e) }); err != nil {
		a.t.Fatal(err)
	}
}

// send makes every attempt that is due and waits until all have ended.
func (a *testApp) send() {
	a.t.Helper()
	for {
		started, err := a.Sender.scan()
		if err != nil {
			a.t.Fatal(err)
		}
		a.Sender.mu.Lock()
		idle := started == 0 && len(a.Sender.busy) == 0
		for len(a.Sender.busy) > 0 {
			a.Sender.freed.Wait()
		}
		a.Sender.mu.Unlock()
		if idle {
			return
		}
	}
}

func (a *testApp) webhook(id uint64) map[string]any {
	a.t.Helper()
	return a.operate(200, "GET", fmt.Sprintf("/admin/v1/webhooks/%d", id), "")
}

func (a *testApp) webhookLog(id uint64) []any {
	a.t.Helper()
	return a.operate(200, "GET", fmt.Sprintf("/admin/v1/webhooks/%d/logs?limit=100", id), "")["logs"].([]any)
}

// TestSender_Signature checks a delivery as a receiver would, by nothing but
// what docs/webhooks.md says.
func TestSender_Signature(t *testing.T) {
	for _, tt := range []struct{ header, scheme, prefix string }{{"X-Klen-Signature", "hex", ""}, {"X-Hub-Signature-256", "sha256=hex", "sha256="}} {
		v := newReceiver(t, 500)
		a := newHookApp(t, func(c *Config) { c.Webhooks.SignatureHeader, c.Webhooks.Signature = tt.header, tt.scheme })
		_, secret := a.hook(v.URL+"/in?token=hunter2", "", "call.ended")
		a.raise(Event{Type: "call.ended", Owner: 1}, 7)
		a.send()
		a.clocks.Pass(2 * time.Minute)
		a.send()
		got := v.all()
		if len(got) != 2 {
			t.Fatalf("got %d deliveries, want one and its repetition", len(got))
		}
		mac := hmac.New(sha256.New, []byte(secret))
		mac.Write([]byte(got[0].body))
		if sent := got[0].header.Get(tt.header); sent != tt.prefix+hex.EncodeToString(mac.Sum(nil)) {
			t.Errorf("%s: got %q, which is not the HMAC of the body", tt.header, sent)
		}
		if want := `{"event_type":"call.ended","n":7,"timestamp":"2026-02-03T09:00:00Z"}`; got[0].body != want {
			t.Errorf("got body %s, want %s", got[0].body, want)
		}
		if got[1].body != got[0].body || fmt.Sprint(got[1].header) != fmt.Sprint(got[0].header) {
			t.Errorf("the repetition differs: %v, first %v", got[1], got[0])
		}
		if id := got[0].header.Get("X-Klen-Delivery"); !strings.HasPrefix(id, "whd_") || got[0].header.Get("Content-Type") != "application/json" {
			t.Errorf("got header %v, want a delivery id and JSON", got[0].header)
		}
		if text := a.log.String(); strings.Contains(text, "hunter2") || strings.Contains(text, secret) || !strings.Contains(text, "the receiver answered 500") {
			t.Errorf("got log %s, want the failure without the query and the secret", text)
		}
	}
}

// TestSender_Schedule walks the retries, with a restart before each, and asks
// just before each is due.
func TestSender_Schedule(t *testing.T) {
	v := newReceiver(t, 500, 404, 302, 429, 503, 400)
	a := newHookApp(t)
	id, _ := a.hook(v.URL, "", "call.ended")
	a.raise(Event{Type: "call.ended", Owner: 1}, 1)
	a.raise(Event{Type: "call.ended", Owner: 1}, 2)
	a.send()
	for i, wait := range []time.Duration{time.Minute, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 6 * time.Hour} {
		step := time.Duration(1-2*(i%2)) * 48 * time.Hour
		a.clocks.Wall = a.clocks.Wall.Add(step) // the wall clock is set meanwhile: no reason to be early or late
		a.restart()
		a.clocks.Pass(wait - time.Second)
		a.send()
		if n := len(v.all()); n != i+1 {
			t.Fatalf("%s after attempt %d: got %d attempts, want no more", wait-time.Second, i+1, n)
		}
		a.clocks.Pass(wait/20 + time.Second)
		a.send()
		if got := v.all(); len(got) < i+2 || got[i+1].n() != 1 {
			t.Fatalf("%s after attempt %d: got %d attempts, want one more of the first event", wait, i+1, len(got))
		}
	}
	got := v.all()
	if len(got) != 7 || got[6].n() != 2 {
		t.Fatalf("got %d attempts, want the second event once the first has failed for good", len(got))
	}
	var text []string
	for _, row := range a.webhookLog(id) {
		e := row.(map[string]any)
		text = append(text, fmt.Sprint(e["attempt"], " ", e["status_code"], " ", e["success"], " ", e["redeliverable"]))
	}
	want := "1 204 true true; 6 400 false true; 5 503 false false; 4 429 false false; 3 302 false false; 2 404 false false; 1 500 false false"
	if strings.Join(text, "; ") != want {
		t.Errorf("got log %s\nwant %s", strings.Join(text, "; "), want)
	}
	if hook := a.webhook(id); hook["waiting"] != 0.0 || hook["failing_since"] != nil || hook["is_active"] != true {
		t.Errorf("got %v, want nothing waiting", hook)
	}
}

func TestSender_OrderAndOtherReceivers(t *testing.T) {
	dead, well := newReceiver(t, 500), newReceiver(t)
	a := newHookApp(t)
	a.hook(dead.URL, "", "call.ended")
	a.hook(well.URL, "", "call.ended", "call.failed")
	for n := range 100 {
		a.raise(Event{Type: "call.ended", Owner: 1}, n)
	}
	a.send()
	check := func(name string, got []received, from int) {
		t.Helper()
		for i, r := range got {
			if r.n() != from+i {
				t.Fatalf("%s: delivery %d is event %d, want %d", name, i, r.n(), from+i)
			}
		}
	}
	if got := well.all(); len(got) != 100 {
		t.Errorf("got %d deliveries while another receiver fails, want 100", len(got))
	}
	check("well", well.all(), 0)
	if n := len(dead.all()); n != 1 {
		t.Errorf("got %d attempts at the failing receiver, want 1: the next waits for the first", n)
	}
	a.clocks.Pass(2 * time.Minute)
	a.send()
	if got := dead.all(); len(got) != 101 {
		t.Errorf("got %d attempts after recovery, want 101", len(got))
	}
	check("recovered", dead.all()[1:], 0)
}

// TestSender_SlowReceivers has more receivers that never answer than are waited
// for at once, and one that is well.
func TestSender_SlowReceivers(t *testing.T) {
	release := make(chan struct{})
	hung := make(chan string, 1000)
	slow := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hung <- r.URL.Path
		<-release
	}))
	defer slow.Close()
	defer close(release)
	arrived := make(chan struct{}, 1000)
	well := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { arrived <- struct{}{} }))
	defer well.Close()
	a := newHookApp(t, func(c *Config) { c.Webhooks.Timeout = 20 * time.Second })
	a.hook(well.URL, "", "call.failed", "call.ended")
	a.raise(Event{Type: "call.failed", Owner: 1}, 0) // by which it is known to be well
	a.send()
	<-arrived
	for owner := range 2 * maxSending {
		a.hook(fmt.Sprintf("%s/%d", slow.URL, owner), fmt.Sprintf("owner %d", owner), "call.ended")
	}
	a.Sender.Start()
	for owner := range 2 * maxSending {
		a.raise(Event{Type: "call.ended", Owner: uint64(owner) + 1}, owner)
	}
	seen := map[string]bool{}
	for range maxSending / 2 {
		path := <-hung
		if seen[path] {
			t.Errorf("%s is sent to twice at once", path)
		}
		seen[path] = true
	}
	for range 2 * maxSending { // it got all of them, behind none of the others
		<-arrived
	}
	select {
	case path := <-hung:
		t.Errorf("%s is waited for too, want half of the room left to others", path)
	default:
	}
	start := time.Now()
	a.Sender.cancel() // as Close does after its grace
	a.Sender.Close()
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("Close took %s", took)
	}
	for id := range 2 * maxSending {
		if hook := a.webhook(uint64(id + 2)); hook["waiting"] != 1.0 || hook["last_attempt"] != nil {
			t.Fatalf("got %v, want what was broken off to wait as if never tried", hook)
		}
	}
}

// TestSender_Timeout has a receiver that does not answer in time, and one that
// drips an endless answer.
func TestSender_Timeout(t *testing.T) {
	release := make(chan struct{})
	slow := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/drip" {
			w.WriteHeader(200)
			for http.NewResponseController(w).Flush() == nil && r.Context().Err() == nil {
				_, _ = w.Write(make([]byte, 32<<10))
			}
			return
		}
		<-release
	}))
	defer slow.Close()
	defer close(release)
	a := newHookApp(t, func(c *Config) { c.Webhooks.Timeout = time.Second })
	mute, _ := a.hook(slow.URL, "", "call.ended")
	drip, _ := a.hook(slow.URL+"/drip", "", "call.ended")
	closed, _ := a.hook("http://127.0.0.1:1/", "", "call.ended")
	a.raise(Event{Type: "call.ended", Owner: 1}, 1)
	a.send()
	for id, want := range map[uint64]string{mute: "no answer within 1s", drip: "<nil>", closed: "connection refused"} {
		last, _ := a.webhook(id)["last_attempt"].(map[string]any)
		if got := fmt.Sprint(last["error"]); !strings.Contains(got, want) {
			t.Errorf("webhook %d: got %q, want %q", id, got, want)
		}
	}
}

// TestSender_Redirect checks that nobody is sent elsewhere.
func TestSender_Redirect(t *testing.T) {
	v := newReceiver(t, 307)
	a := newHookApp(t)
	id, _ := a.hook(v.URL, "", "call.ended")
	a.raise(Event{Type: "call.ended", Owner: 1}, 1)
	a.send()
	if n := len(v.all()); n != 1 {
		t.Errorf("got %d requests, want 1", n)
	}
	if last := a.webhook(id)["last_attempt"].(map[string]any); last["success"] != false || last["status_code"] != 307.0 {
		t.Errorf("got %v, want a failure with 307", last)
	}
}

// TestSender_Proxy checks that variables of the environment send nothing
// through a proxy.
func TestSender_Proxy(t *testing.T) {
	v := newReceiver(t)
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	t.Setenv("http_proxy", "http://127.0.0.1:1")
	a := newHookApp(t)
	if p := a.Sender.client.Transport.(*http.Transport).Proxy; p != nil {
		t.Error("the transport asks for a proxy")
	}
	a.hook(v.URL, "", "call.ended")
	a.raise(Event{Type: "call.ended", Owner: 1}, 1)
	a.send()
	if n := len(v.all()); n != 1 {
		t.Errorf("got %d requests, want 1", n)
	}
}

// TestSender_SwitchesOff fails for five days, and then is switched on again.
func TestSender_SwitchesOff(t *testing.T) {
	v := newReceiver(t)
	a := newHookApp(t)
	id, _ := a.hook(v.URL, "", "call.ended", "call.failed")
	fail := make([]int, 1000)
	for i := range fail {
		fail[i] = 503
	}
	v.answer(fail...)
	hours := 0
	for ; a.webhook(id)["is_active"] == true && hours < 24*10; hours++ {
		a.raise(Event{Type: "call.ended", Owner: 1}, hours)
		a.send()
		a.clocks.Pass(time.Hour)
	}
	if days := hours / 24; days != 5 {
		t.Errorf("switched off after %d hours, want some more than five days", hours)
	}
	hook := a.webhook(id)
	if reason, _ := hook["disabled_reason"].(string); !strings.Contains(reason, "5 days") || !strings.Contains(reason, "answered 503") {
		t.Errorf("got reason %q", reason)
	}
	if !strings.Contains(a.log.String(), "webhook switched off") {
		t.Error("the log does not tell of it")
	}
	waiting := hook["waiting"].(float64)
	a.raise(Event{Type: "call.ended", Owner: 1}, 0)
	a.send()
	if hook := a.webhook(id); hook["waiting"] != waiting || hook["next_attempt_at"] != nil {
		t.Errorf("got %v, want no new event for what is switched off", hook)
	}
	before := len(v.all())
	v.answer()
	hook = a.operate(200, "PATCH", fmt.Sprintf("/admin/v1/webhooks/%d", id), `{"is_active": true}`)
	if hook["disabled_reason"] != nil || hook["failing_since"] != nil {
		t.Errorf("got %v, want a new start", hook)
	}
	a.send()
	if got := len(v.all()) - before; float64(got) != waiting {
		t.Errorf("got %d deliveries after it was switched on, want the %v that waited", got, waiting)
	}
}

// TestSender_Background goes the way of a running service: nobody calls scan.
func TestSender_Background(t *testing.T) {
	arrived := make(chan int, 10)
	v := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		arrived <- received{nil, string(body)}.n()
	}))
	defer v.Close()
	a := newHookApp(t)
	a.hook(v.URL, "", "call.ended")
	a.raise(Event{Type: "call.ended", Owner: 1}, 1)
	a.restart() // a run that ended before it could send
	a.Sender.Start()
	if n := <-arrived; n != 1 {
		t.Errorf("got event %d, want what an earlier run left", n)
	}
	for n := range 5 {
		a.raise(Event{Type: "call.ended", Owner: 1}, n+2)
		if got := <-arrived; got != n+2 {
			t.Errorf("got event %d, want %d", got, n+2)
		}
	}
	a.Sender.Close()
	a.raise(Event{Type: "call.ended", Owner: 1}, 9)
	if started, err := a.Sender.scan(); started != 0 || err != nil {
		t.Errorf("after Close: got %d started, %v; want none", started, err)
	}
}

// TestSender_CloseWaits closes while a receiver has a delivery in hand.
func TestSender_CloseWaits(t *testing.T) {
	here, release := make(chan struct{}), make(chan struct{})
	v := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		here <- struct{}{}
		<-release
	}))
	defer v.Close()
	a := newHookApp(t)
	id, _ := a.hook(v.URL, "", "call.ended")
	a.Sender.Start()
	a.raise(Event{Type: "call.ended", Owner: 1}, 1)
	a.raise(Event{Type: "call.ended", Owner: 1}, 2)
	<-here
	closed := make(chan struct{})
	go func() {
		a.Sender.Close()
		close(closed)
	}()
	<-a.Sender.stop // from here on nothing new begins
	close(release)
	<-closed
	if hook := a.webhook(id); hook["waiting"] != 1.0 || hook["last_attempt"].(map[string]any)["success"] != true {
		t.Errorf("got %v, want the first delivered and the second to wait", hook)
	}
}
