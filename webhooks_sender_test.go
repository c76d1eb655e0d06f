package main

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"code.dny.dev/ssrf"
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
func (a *testApp) raise(e WebhookEvent, n int) {
	a.t.Helper()
	e.At, e.Body = a.clock.Now(), map[string]any{"n": n}
	if err := a.Store.Update(func(tx *Tx) error { return Publish(tx, e) }); err != nil {
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
		a.raise(WebhookEvent{Type: "call.ended", Owner: 1}, 7)
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
	a.raise(WebhookEvent{Type: "call.ended", Owner: 1}, 1)
	a.raise(WebhookEvent{Type: "call.ended", Owner: 1}, 2)
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
		a.raise(WebhookEvent{Type: "call.ended", Owner: 1}, n)
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
	a.raise(WebhookEvent{Type: "call.failed", Owner: 1}, 0) // by which it is known to be well
	a.send()
	<-arrived
	for owner := range 2 * maxSending {
		a.hook(fmt.Sprintf("%s/%d", slow.URL, owner), fmt.Sprintf("owner %d", owner), "call.ended")
	}
	a.Sender.Start()
	for owner := range 2 * maxSending {
		a.raise(WebhookEvent{Type: "call.ended", Owner: uint64(owner) + 1}, owner)
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
	a.raise(WebhookEvent{Type: "call.ended", Owner: 1}, 1)
	a.send()
	for id, want := range map[uint64]string{mute: "timed out no answer within 1s", drip: "<nil>", closed: "could not be reached dial tcp 127.0.0.1:1"} {
		last, _ := a.webhook(id)["last_attempt"].(map[string]any)
		if got := fmt.Sprint(last["error"], " ", a.failureDetail(id)); !strings.Contains(got, want) {
			t.Errorf("webhook %d: got %q, want %q", id, got, want)
		}
	}
}

// TestSender_Redirect checks that nobody is sent elsewhere.
func TestSender_Redirect(t *testing.T) {
	v := newReceiver(t, 307)
	a := newHookApp(t)
	id, _ := a.hook(v.URL, "", "call.ended")
	a.raise(WebhookEvent{Type: "call.ended", Owner: 1}, 1)
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
	a.raise(WebhookEvent{Type: "call.ended", Owner: 1}, 1)
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
		a.raise(WebhookEvent{Type: "call.ended", Owner: 1}, hours)
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
	a.raise(WebhookEvent{Type: "call.ended", Owner: 1}, 0)
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
	a.raise(WebhookEvent{Type: "call.ended", Owner: 1}, 1)
	a.restart() // a run that ended before it could send
	a.Sender.Start()
	if n := <-arrived; n != 1 {
		t.Errorf("got event %d, want what an earlier run left", n)
	}
	for n := range 5 {
		a.raise(WebhookEvent{Type: "call.ended", Owner: 1}, n+2)
		if got := <-arrived; got != n+2 {
			t.Errorf("got event %d, want %d", got, n+2)
		}
	}
	a.Sender.Close()
	a.raise(WebhookEvent{Type: "call.ended", Owner: 1}, 9)
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
	a.raise(WebhookEvent{Type: "call.ended", Owner: 1}, 1)
	a.raise(WebhookEvent{Type: "call.ended", Owner: 1}, 2)
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

func TestTargets_CheckURL(t *testing.T) {
	for _, tt := range []struct{ url, want string }{
		{"https://hooks.example.net/klen?x=1", ""},
		{"http://hooks.example.net:8080", ""},
		{"https://93.184.216.34/", ""},
		{"https://[2606:2800:220:1::1]/", ""},
		{"", "must be a URL"},
		{"hooks.example.net", "must be a URL"},
		{"https://", "must be a URL"},
		{"https:///path", "must be a URL"},
		{"https://hooks.example.net/" + strings.Repeat("a", 2048), "must be a URL"},
		{"file:///etc/passwd", "must be a URL"},
		{"gopher://hooks.example.net/", "must begin with https://"},
		{"https://good@hooks.example.net/", "user name"},
		{"http://good@127.0.0.1/", "user name"},
		{"https://hooks.example.net/#a", "#fragment"},
		{"http://hooks.example.net:22/", "port"},
		{"http://hooks.example.net:25/", "port"},
		{"http://hooks.example.net:99999/", "port"},
		{"http://127.0.0.1/", "private network"},
		{"http://0.0.0.0/", "private network"},
		{"http://10.1.2.3/", "private network"},
		{"http://172.16.0.1/", "private network"},
		{"http://192.168.1.1/", "private network"},
		{"http://100.64.0.1/", "private network"},
		{"http://198.18.0.1/", "private network"},
		{"http://224.0.0.1/", "private network"},
		{"http://169.254.169.254/latest/meta-data", "private network"},
		{"http://[::1]/", "private network"},
		{"http://[::]/", "private network"},
		{"http://[::ffff:127.0.0.1]/", "private network"},
		{"http://[64:ff9b::7f00:1]/", "private network"},
		{"http://[fe80::1%25eth0]/", "private network"},
		{"http://[fd00:ec2::254]/", "private network"},
		{"http://localhost/", "private network"},
		{"http://LocalHost./", "private network"},
		{"http://a.localhost/", "private network"},
		{"http://127.255.255.254/", "private network"},
		{"http://127.0.0.1./", "private network"},
		{"http://255.255.255.255/", "private network"},
		{"http://240.0.0.1/", "private network"},
		{"http://192.0.0.192/", "private network"},
		{"http://100.100.100.200/", "private network"},
		{"http://168.63.129.16/", "private network"},
		{"http://[::127.0.0.1]/", "private network"},
		{"http://[0:0:0:0:0:ffff:7f00:1]/", "private network"},
		{"http://[::ffff:169.254.169.254]/", "private network"},
		{"http://[64:ff9b:1::a00:1]/", "private network"},
		{"http://[2002:7f00:1::]/", "private network"},
		{"http://[2001:0:7f00:1::]/", "private network"},
		{"http://[2001:db8::1]/", "private network"},
		{"http://[fe80::1]/", "private network"},
		{"http://[fec0::1]/", "private network"},
		{"http://[fc00::1]/", "private network"},
		{"http://[ff02::1]/", "private network"},
		{"http://[::1%25lo]/", "private network"},
		{"http://127.1/", "an address in the form"},
		{"http://127.0.1/", "an address in the form"},
		{"http://2130706433/", "an address in the form"},
		{"http://017700000001/", "an address in the form"},
		{"http://0x7f000001/", "an address in the form"},
		{"http://0X7F.0.0.0x1/", "an address in the form"},
		{"http://0177.0.0.1/", "an address in the form"},
		{"http://127.0.0.01/", "an address in the form"},
		{"http://127.0.0.256/", "an address in the form"},
		{"http://0/", "an address in the form"},
		{"http://127.1./", "an address in the form"},
		{"http://0x/", "an address in the form"},
		{"http://hooks.example.net.:443/", ""},
		{"http://1.2.3.4.example.net/", ""},
		{"http://0xcafe.example.net/", ""},
		{"https://127.0.0.1:99999/", "private network"},
		{"http:127.0.0.1/", "must be a URL"},
		{"http:/127.0.0.1/", "must be a URL"},
		{"//127.0.0.1/", "must begin with https://"},
		{"ftp://127.0.0.1/", "must begin with https://"},
		{"dict://127.0.0.1:11211/", "must begin with https://"},
		{"ldap://127.0.0.1/", "must begin with https://"},
		{"unix://127.0.0.1/control.sock", "must begin with https://"},
		{"javascript:alert(1)", "must be a URL"},
		{"http://127.0.0.1:80@hooks.example.net/", "user name"},
		{"http://hooks.example.net:80@127.0.0.1/", "user name"},
		{"http://hooks.example.net\\@127.0.0.1/", "must be a URL"},
		{"http://hooks.example.net /", "must be a URL"},
		{"http://hooks.example.net/\r\nHost: x", "must be a URL"},
		{"http://[::1/", "must be a URL"},
		{"http://hooks.example.net:x/", "must be a URL"},
		{"http://hooks.example.net:0/", "port"},
		{"http://hooks.example.net:6379/", ""},
	} {
		err := NewTargetPolicy(PublicTargets).CheckURL(tt.url)
		if (err == nil) != (tt.want == "") || err != nil && (!errors.Is(err, ErrValidation) || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%q: got %v, want %q", tt.url, err, tt.want)
		}
		allowed := NewTargetPolicy(AllTargets).CheckURL(tt.url)
		if unsafe := tt.want == "private network" || tt.want == "port" || tt.want == ""; unsafe != (allowed == nil) {
			t.Errorf("%q with private targets allowed: got %v", tt.url, allowed)
		}
	}
}

// dnsAnswers is a name server in the other end of a pipe: it answers every
// question with the next of its list: the addresses there, separated by commas,
// as far as they are of the kind that was asked for.
type dnsAnswers struct {
	asked atomic.Int32
	list  []string
	names map[string]string // what these names are answered with instead; "": no address
}

func (d *dnsAnswers) dial(context.Context, string, string) (net.Conn, error) {
	here, there := net.Pipe()
	go d.serve(there)
	return here, nil
}

// serve speaks DNS over a stream (RFC 1035 section 4.2.2).
func (d *dnsAnswers) serve(c net.Conn) {
	defer c.Close()
	for {
		head := make([]byte, 2)
		if _, err := io.ReadFull(c, head); err != nil {
			return
		}
		q := make([]byte, binary.BigEndian.Uint16(head))
		if _, err := io.ReadFull(c, q); err != nil {
			return
		}
		end, name := 12, "" // of the header; the question's name follows
		for q[end] != 0 {
			name += string(q[end+1:end+1+int(q[end])]) + "."
			end += int(q[end]) + 1
		}
		end += 5 // the name's end, type, class
		kind := binary.BigEndian.Uint16(q[end-4:])
		answer := append([]byte{q[0], q[1], 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0}, q[12:end]...)
		texts, known := d.names[strings.TrimSuffix(name, ".")]
		if !known && len(d.list) > 0 {
			texts = d.list[int(d.asked.Load())%len(d.list)]
		}
		for text := range strings.SplitSeq(texts, ",") {
			if text == "" {
				continue
			}
			if ip := netip.MustParseAddr(text); kind == 1 && ip.Is4() || kind == 28 && ip.Is6() {
				answer[7]++
				answer = append(answer, 0xc0, 12, 0, byte(kind), 0, 1, 0, 0, 0, 0, 0, byte(ip.BitLen()/8))
				answer = append(answer, ip.AsSlice()...)
			}
		}
		if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...)); err != nil {
			return
		}
	}
}

// TestTargets_Connections makes real connections: to literal addresses, which a
// check of the URL has been kept from, and to names that resolve to them. No
// listener may see any.
func TestTargets_Connections(t *testing.T) {
	var seen atomic.Int32
	for _, at := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, err := net.Listen("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				seen.Add(1)
				_ = c.Close()
			}
		}()
		_, port, _ := net.SplitHostPort(l.Addr().String())
		for _, host := range []string{"127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "0.0.0.0", "[::]", "localhost", "169.254.169.254", "10.0.0.1", "[64:ff9b::7f00:1]",
			"[::127.0.0.1]", "[2002:7f00:1::]", "[::1%25lo]", "[fe80::1%25lo]", "\uff11\uff12\uff17.\uff10.\uff10.\uff11", "127\u30020\u30020\u30021", "168.63.129.16"} {
			refuseTarget(t, NewTargetPolicy(PublicTargets), "http://"+host+":"+port+"/")
		}
		// What Go takes for names and others for addresses, under a name server
		// that agrees with the others.
		for _, host := range []string{"127.0.0.1.", "localhost.", "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.1", "017700000001", "0177.0.0.1", "0", "127.0.0.1.nip.example"} {
			targets := NewTargetPolicy(PublicTargets)
			targets.resolver = &net.Resolver{PreferGo: true, Dial: (&dnsAnswers{list: []string{"127.0.0.1"}}).dial}
			var none *net.DNSError
			if err := askTarget(t, targets, "http://"+host+":"+port+"/"); !errors.Is(err, errTarget) && !errors.As(err, &none) {
				t.Errorf("%s: got %v, want it refused", host, err)
			}
		}
		for _, list := range [][]string{{"127.0.0.1"}, {"::1"}, {"::ffff:127.0.0.1"}, {"169.254.169.254"}, {"10.0.0.1"}, {"fd00:ec2::254"}, {"0.0.0.0"}, {"::"},
			{"fe80::1"}, {"64:ff9b::7f00:1"}, {"2002:7f00:1::"}, {"2001:0:7f00:1::"}, {"100.64.0.1"}, {"192.168.0.1"}, {"172.31.0.1"}, {"224.0.0.1"}, {"168.63.129.16"}} {
			names := &dnsAnswers{list: list}
			targets := NewTargetPolicy(PublicTargets)
			targets.resolver = &net.Resolver{PreferGo: true, Dial: names.dial}
			if err := targets.CheckURL("http://rebind.example.net:" + port + "/"); err != nil {
				t.Fatal(err)
			}
			refuseTarget(t, targets, "http://rebind.example.net:"+port+"/")
		}
	}
	refuseTarget(t, NewTargetPolicy(PublicTargets), "http://93.184.216.34:22/")
	if n := seen.Load(); n != 0 {
		t.Errorf("%d connections arrived, want none", n)
	}
}

// TestTargets_NameChangesItsMind has a name that is public when it is checked
// and of this machine when it is connected to.
func TestTargets_NameChangesItsMind(t *testing.T) {
	names := &dnsAnswers{list: []string{"93.184.216.34", "127.0.0.1"}}
	targets := NewTargetPolicy(PublicTargets)
	targets.resolver = &net.Resolver{PreferGo: true, Dial: names.dial}
	ips, err := targets.resolver.LookupHost(context.Background(), "rebind.example.net")
	if err != nil || ips[0] != "93.184.216.34" {
		t.Fatalf("got %v, %v", ips, err)
	}
	names.asked.Add(1)
	refuseTarget(t, targets, "http://rebind.example.net:8080/")
}

// TestTargets_SeveralAddresses has a name that stands for an allowed address and
// for another one too: whichever comes first, only the allowed one is connected
// to, and where nobody listens there the request does not go on to the other.
func TestTargets_SeveralAddresses(t *testing.T) {
	inside, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var seen atomic.Int32
	within := &http.Server{ConnState: func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			seen.Add(1)
		}
	}}
	go func() { _ = within.Serve(inside) }()
	defer within.Close()
	_, port, _ := net.SplitHostPort(inside.Addr().String())
	at := "http://both.example.net:" + port + "/"
	for _, list := range []string{"127.0.0.2,127.0.0.1", "127.0.0.1,127.0.0.2", "::1,127.0.0.2,127.0.0.1", "127.0.0.1,10.0.0.1,127.0.0.2"} {
		targets := NewTargetPolicy(PublicTargets)
		targets.guardian = ssrf.New(ssrf.WithAnyPort(), ssrf.WithAllowedV4Prefixes(netip.MustParsePrefix("127.0.0.2/32"))) // stands for a public one
		targets.resolver = &net.Resolver{PreferGo: true, Dial: (&dnsAnswers{list: []string{list}}).dial}
		if err := askTarget(t, targets, at); !errors.Is(err, errTarget) && !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%s: got %v", list, err)
		}
		outside, err := net.Listen("tcp", "127.0.0.2:"+port)
		if err != nil {
			t.Skip("127.0.0.2 is no address of this machine: ", err)
		}
		public := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) })}
		go func() { _ = public.Serve(outside) }()
		client := targets.Client()
		res, err := client.Post(at, "", nil)
		if err != nil || res.StatusCode != 204 {
			t.Fatalf("%s: got %v, %v, want the answer of the allowed address", list, res, err)
		}
		_ = res.Body.Close()
		client.CloseIdleConnections()
		_ = public.Close()
	}
	if n := seen.Load(); n != 0 {
		t.Errorf("%d connections arrived inside, want none", n)
	}
}

// refuseTarget wants a request to be refused before a connection is made.
func refuseTarget(t *testing.T, targets *TargetPolicy, url string) {
	t.Helper()
	if err := askTarget(t, targets, url); !errors.Is(err, errTarget) {
		t.Errorf("%s: got %v, want it refused", url, err)
	}
}

// askTarget makes a request that must fail, and gives why it did.
func askTarget(t *testing.T, targets *TargetPolicy, url string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, "POST", url, strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	answer, err := targets.Client().Do(r)
	if err == nil {
		_ = answer.Body.Close()
		t.Fatalf("%s: got an answer", url)
	}
	return err
}

// Of the ports below 1024 only those of HTTP may be targets.
func TestTargets_Ports(t *testing.T) {
	for port, want := range map[int]bool{
		0: false, 1: false, 79: false, 80: true, 81: false, 442: false, 443: true, 444: false,
		1023: false, 1024: true, 1025: true, 65535: true, 65536: false,
	} {
		err := NewTargetPolicy(PublicTargets).CheckURL(fmt.Sprintf("https://hooks.example.net:%d/", port))
		if (err == nil) != want {
			t.Errorf("%d: got %v, want allowed %v", port, err, want)
		}
	}
}

// However many webhooks are due, no more than maxSending are sent to at once.
func TestSender_AtOnce(t *testing.T) {
	var hold atomic.Bool
	release := make(chan struct{})
	v := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		if hold.Load() {
			<-release
		}
	}))
	defer v.Close()
	a := newHookApp(t)
	for n := range maxSending + 1 {
		a.hook(v.URL, fmt.Sprintf("owner %d", n/maxWebhooks), "call.ended")
	}
	raise := func(n int) {
		for owner := range maxSending/maxWebhooks + 1 {
			a.raise(WebhookEvent{Type: "call.ended", Owner: uint64(owner + 1)}, n)
		}
	}
	raise(1)
	a.send() // so that none of them counts as slow
	hold.Store(true)
	raise(2)
	for i, want := range []int{maxSending, 0} {
		if started, err := a.Sender.scan(); started != want || err != nil {
			t.Errorf("scan %d: started %d, %v; want %d", i, started, err, want)
		}
	}
	close(release)
	a.send()
	for id := range maxSending + 1 {
		if hook := a.webhook(uint64(id + 1)); hook["waiting"] != 0.0 || hook["last_attempt"].(map[string]any)["success"] != true {
			t.Errorf("got %v, want everything delivered in the end", hook)
		}
	}
}
