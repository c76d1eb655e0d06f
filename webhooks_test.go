package main

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestHooks_Journey(t *testing.T) {
	v := newReceiver(t)
	a := newHookApp(t)
	_, key := a.key(everyPermission)
	_, other := a.key(everyPermission, `"owner": "bob"`)
	w := a.ask("POST", "/api/webhooks/create/", key, `{"name": "Booking sync", "url": "`+v.URL+`", "subscribed_events": ["call.ended", "calendar.created", "call.ended"]}`)
	made := object(t, w.Body.String())
	secret, _ := made["secret"].(string)
	if w.Code != 201 || !strings.HasPrefix(secret, "whsec_") || len(secret) < 38 || w.Header().Get("Cache-Control") != "no-store" {
		t.Fatalf("got %d %s", w.Code, w.Body)
	}
	for name, want := range map[string]string{
		"id": "1", "name": "Booking sync", "url": v.URL, "subscribed_events": "[call.ended calendar.created]", "is_active": "true", "created_at": "2026-02-03T09:00:00Z",
	} {
		if got := fmt.Sprint(made[name]); got != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}
	for _, step := range []struct {
		method, path, key, body string
		status                  int
		want, not               string
	}{
		{"GET", "/api/webhooks/", key, "", 200, `"count":1,`, ""},
		{"GET", "/api/webhooks", other, "", 200, `{"count":0,"webhooks":[]}`, ""},
		{"PATCH", "/api/webhooks/1/update/", key, `{"is_active": false}`, 200, `"is_active":false`, ""},
		{"PUT", "/api/webhooks/1/update/", key, `{"name": "n", "url": "` + v.URL + `/2", "subscribed_events": ["call.ended"]}`, 200, `"is_active":false`, "calendar"},
		{"PATCH", "/api/webhooks/1/update/", key, `{"is_active": true, "subscribed_events": ["call.ended", "calendar.updated"]}`, 200, `"is_active":true`, ""},
		{"POST", "/api/webhooks/1/test/", key, "", 200, `{"message":"Delivered.","status_code":204,"success":true}`, ""},
		{"POST", "/api/webhooks/1/test/", key, `{"event_type": "calendar.updated"}`, 200, `"success":true`, ""},
		{"POST", "/api/webhooks/1/test/", key, `{"event_type": "call.failed"}`, 400, "validation_error", ""},
		{"GET", "/api/webhooks/1/logs/", key, "", 200, `"attempt":1`, "redeliverable"},
		{"GET", "/api/webhooks/1/logs/?limit=1&page=2", key, "", 200, `"count":2,"limit":1,`, "calendar.updated"},
		{"GET", "/api/webhooks/1/logs/", other, "", 404, "not_found", ""},
		{"POST", "/api/webhooks/1/test/", other, "", 404, "not_found", ""},
		{"PATCH", "/api/webhooks/1/update/", other, `{"name": "mine"}`, 404, "not_found", ""},
		{"DELETE", "/api/webhooks/1/delete/", other, "", 404, "not_found", ""},
		{"GET", "/api/webhooks/0/logs/", key, "", 404, "not_found", ""},
		{"GET", "/api/webhooks/x/logs/", key, "", 404, "not_found", ""},
		{"DELETE", "/api/webhooks/1/delete/", key, "", 200, `{"message":"Deleted."}`, ""},
		{"DELETE", "/api/webhooks/1/delete/", key, "", 404, "not_found", ""},
		{"GET", "/api/webhooks/1/logs/", key, "", 404, "not_found", ""},
	} {
		w := a.ask(step.method, step.path, step.key, step.body)
		text := w.Body.String()
		if w.Code != step.status || !strings.Contains(text, step.want) || step.not != "" && strings.Contains(text, step.not) {
			t.Errorf("%s %s %s: got %d %s, want %d with %q and without %q", step.method, step.path, step.body, w.Code, text, step.status, step.want, step.not)
		}
		if strings.Contains(text, secret) || strings.Contains(text, "whsec_") {
			t.Errorf("%s %s shows the secret", step.method, step.path)
		}
	}
	got := v.all()
	if len(got) != 2 || !strings.Contains(got[0].body, `"test":true`) || !strings.Contains(got[0].body, `"klen_call_id"`) || !strings.Contains(got[1].body, `"calendar_event"`) {
		t.Fatalf("got samples %v", got)
	}
	for _, r := range got {
		if r.header.Get("X-Klen-Signature") != sign("hex", secret, []byte(r.body)) {
			t.Errorf("the sample %s is not signed", r.body)
		}
	}
}

func TestHooks_Refusals(t *testing.T) {
	a := newTestApp(t)
	_, all := a.key(everyPermission)
	_, calls := a.key(`["can_read_calls"]`)
	_, calendar := a.key(`["can_read_calendar", "can_initiate_calls"]`)
	body := func(name, url, events string) string {
		return fmt.Sprintf(`{"name": %s, "url": %s, "subscribed_events": %s}`, name, url, events)
	}
	const url = `"https://hooks.example.net/klen"`
	for _, tt := range []struct {
		key, body  string
		status     int
		code, text string
	}{
		{all, `{`, 400, "invalid_json", ""},
		{all, `[]`, 400, "invalid_json", ""},
		{all, `{}`, 400, "missing_parameter", "name"},
		{all, `{"name": "x"}`, 400, "missing_parameter", "url"},
		{all, `{"name": "x", "url": ` + url + `}`, 400, "missing_parameter", "subscribed_events"},
		{all, body(`null`, url, `["call.ended"]`), 400, "missing_parameter", "name"},
		{all, body(`" "`, url, `["call.ended"]`), 400, "validation_error", "name"},
		{all, body(`5`, url, `["call.ended"]`), 400, "validation_error", "name"},
		{all, body(`"x"`, `"ftp://hooks.example.net"`, `["call.ended"]`), 400, "validation_error", "url"},
		{all, body(`"x"`, `"http://127.0.0.1:9/"`, `["call.ended"]`), 400, "validation_error", "allow_private_targets"},
		{all, body(`"x"`, url, `[]`), 400, "validation_error", "subscribed_events"},
		{all, body(`"x"`, url, `"call.ended"`), 400, "validation_error", "subscribed_events"},
		{all, body(`"x"`, url, `["call"]`), 400, "validation_error", "call.started"},
		{all, body(`"x"`, url, `["key.created"]`), 400, "validation_error", "key.created"},
		{all, body(`"x"`, url, `["call.queued"]`), 400, "validation_error", "call.queued"},
		{calls, body(`"x"`, url, `["call.ended", "calendar.created"]`), 403, "permission_denied", "can_read_calendar"},
		{calendar, body(`"x"`, url, `["calendar.created", "call.ended"]`), 403, "permission_denied", "can_read_calls"},
	} {
		w := a.ask("POST", "/api/webhooks/create", tt.key, tt.body)
		if w.Code != tt.status || code(w) != tt.code || !strings.Contains(w.Body.String(), tt.text) {
			t.Errorf("%s: got %d %s, want %d %s with %q", tt.body, w.Code, w.Body, tt.status, tt.code, tt.text)
		}
	}
	if got := a.operate(200, "GET", "/admin/v1/webhooks", ""); got["count"] != 0.0 {
		t.Errorf("got %v webhooks, want none stored", got["count"])
	}
	if w := a.ask("POST", "/api/webhooks/create", calls, body(`"x"`, url, `["call.ended"]`)); w.Code != 201 {
		t.Fatalf("got %d %s", w.Code, w.Body)
	}
	for _, tt := range []struct {
		method, key, body string
		status            int
		code              string
	}{
		// Else this key could have calls sent to itself that it may not read.
		{"PATCH", calendar, `{"url": "https://elsewhere.example.net/"}`, 403, "permission_denied"},
		{"PATCH", calls, `{"subscribed_events": ["calendar.created"]}`, 403, "permission_denied"},
		{"PATCH", calls, `{"url": "https://u:p@elsewhere.example.net/"}`, 400, "validation_error"},
		{"PATCH", calls, `{"url": null}`, 400, "missing_parameter"},
		{"PATCH", calls, `{"is_active": "no"}`, 400, "validation_error"},
		{"PUT", calls, `{"name": "x"}`, 400, "missing_parameter"},
	} {
		if w := a.ask(tt.method, "/api/webhooks/1/update", tt.key, tt.body); w.Code != tt.status || code(w) != tt.code {
			t.Errorf("%s %s: got %d %s, want %d %s", tt.method, tt.body, w.Code, w.Body, tt.status, tt.code)
		}
	}
	if text := a.ask("GET", "/api/webhooks", calls, "").Body.String(); !strings.Contains(text, "https://hooks.example.net/klen") || !strings.Contains(text, `["call.ended"]`) {
		t.Errorf("got %s, want the webhook as it was", text)
	}
}

// TestHooks_MinuteLimit counts what each endpoint costs.
func TestHooks_MinuteLimit(t *testing.T) {
	a := newTestApp(t)
	_, key := a.key(everyPermission, `"limits": {"requests_per_minute_limit": 2}`)
	for i, want := range []int{200, 400, 429} {
		method, path := "GET", "/api/webhooks"
		if i > 0 {
			method, path = "POST", "/api/webhooks/create"
		}
		if w := a.ask(method, path, key, "{}"); w.Code != want {
			t.Errorf("request %d: got %d, want %d", i, w.Code, want)
		}
	}
}

// maxWebhooks is how many webhooks an owner can have by default.
var maxWebhooks = defaultConfig().Bounds.Webhooks

func TestHooks_TooMany(t *testing.T) {
	a := newHookApp(t)
	for range maxWebhooks {
		a.hook("http://127.0.0.1:1/", "ann", "call.ended")
	}
	a.refuse("POST", "/admin/v1/webhooks", `{"name": "x", "url": "http://127.0.0.1:1/", "owner": "ann", "subscribed_events": ["call.ended"]}`, 400, "validation_error", "the maximum")
	a.hook("http://127.0.0.1:1/", "bob", "call.ended")
}

// TestHooks_SecretStaysSealed looks for the secret wherever it must not be.
func TestHooks_SecretStaysSealed(t *testing.T) {
	v := newReceiver(t, 500)
	a := newHookApp(t)
	id, secret := a.hook(v.URL, "", "call.ended")
	path := fmt.Sprintf("/admin/v1/webhooks/%d", id)
	a.raise(WebhookEvent{Type: "call.ended", Owner: 1}, 1)
	a.send()
	a.operate(200, "PATCH", path, `{"name": "renamed"}`)
	shown := ""
	for _, p := range []string{"/admin/v1/webhooks", path, path + "/logs"} {
		text, _ := json.Marshal(a.operate(200, "GET", p, ""))
		shown += string(text)
	}
	files := []string{a.log.String(), shown}
	err := filepath.WalkDir(a.config.Server.Data, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.Type().IsDir() || d.Type()&os.ModeSocket != 0 {
			return err
		}
		data, err := os.ReadFile(path)
		files = append(files, string(data))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains([]byte(strings.Join(files, "")), []byte("renamed")) {
		t.Error("the webhook is not in the files that were searched")
	}
	for i, text := range files {
		for cut := 0; cut+12 <= len(secret); cut++ {
			if part := secret[cut : cut+12]; cut >= len(secretPrefix) && strings.Contains(text, part) {
				t.Fatalf("text %d holds %q, a part of the secret", i, part)
			}
		}
	}
	// Sealed for one webhook, it opens for no other.
	hook := webhook{ID: id}
	err = a.Store.View(func(tx *Tx) (err error) {
		hook, err = findWebhook(tx, id)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := a.Sender.o.Peppers.Decrypt(secretPurpose, hook.Bound(), hook.Secret); got != secret || err != nil {
		t.Errorf("got %q, %v; want the secret", got, err)
	}
	if got, err := a.Sender.o.Peppers.Decrypt(secretPurpose, IDKey(id+1), hook.Secret); err == nil {
		t.Errorf("opened for another webhook: %q", got)
	}
	if got, err := a.Sender.o.Peppers.Decrypt("other", hook.Bound(), hook.Secret); err == nil {
		t.Errorf("opened for another purpose: %q", got)
	}
}

func TestHooks_Operator(t *testing.T) {
	v := newReceiver(t, 503, 503, 503, 503, 503, 503)
	a := newHookApp(t)
	id, _ := a.hook(v.URL, "", OperatorEventTypes()...)
	path := fmt.Sprintf("/admin/v1/webhooks/%d", id)
	if got := a.webhook(id); got["owner"] != nil || len(got["subscribed_events"].([]any)) != len(OperatorEventTypes()) {
		t.Errorf("got %v, want the operator's, with all events", got)
	}
	a.raise(WebhookEvent{Type: "call.queued", Operator: true}, 1)
	for range 6 {
		a.send()
		a.clocks.Pass(7 * time.Hour)
	}
	entry := a.webhookLog(id)[0].(map[string]any)
	if entry["attempt"] != 6.0 || entry["redeliverable"] != true {
		t.Fatalf("got %v, want the last attempt", entry)
	}
	for _, tt := range []struct {
		body   string
		status int
		code   string
	}{
		{`{}`, 400, "missing_parameter"}, {`{"log_id": "1"}`, 400, "validation_error"}, {`{"log_id": 99}`, 404, "not_found"}, {`{"log_id": 1}`, 409, "conflict"},
	} {
		a.refuse("POST", path+"/redeliver", tt.body, tt.status, tt.code, "")
	}
	a.operate(200, "POST", path+"/redeliver", fmt.Sprintf(`{"log_id": %v}`, entry["id"]))
	a.send()
	got := v.all()
	if len(got) != 7 || got[6].body != got[0].body || got[6].header.Get("X-Klen-Delivery") != got[0].header.Get("X-Klen-Delivery") {
		t.Errorf("got %d deliveries, want the same once more", len(got))
	}
	a.operate(200, "DELETE", path, "")
	a.refuse("GET", path, "", 404, "not_found", "")
}

// TestHooks_Retry tries a pending delivery now, looks at what was sent and answered, and sends all again
// that has failed for good.
func TestHooks_Retry(t *testing.T) {
	var got atomic.Int64
	status := atomic.Int64{}
	status.Store(503)
	answer := "<script>" + strings.Repeat("x", maxAnswer-len("<script>")-1) + "\u00fc\x00\xff and more"
	v := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got.Add(1)
		w.WriteHeader(int(status.Load()))
		_, _ = io.WriteString(w, answer)
	}))
	t.Cleanup(v.Close)
	a := newHookApp(t)
	id, _ := a.hook(v.URL, "", "call.queued")
	path := fmt.Sprintf("/admin/v1/webhooks/%d", id)
	log := func() map[string]any { t.Helper(); return a.webhookLog(id)[0].(map[string]any) }
	failed := func(want float64) {
		t.Helper()
		if n := a.operate(200, "GET", path+"/logs?failed=true&limit=1", "")["count"]; n != want {
			t.Errorf("got %v failed deliveries, want %v", n, want)
		}
	}
	a.raise(WebhookEvent{Type: "call.queued", Operator: true}, 1)
	a.send()
	first := log()
	if first["retryable"] != true || first["redeliverable"] != false || first["queued_again"] != false {
		t.Errorf("the first attempt: got %v, want that it can be retried", first)
	}
	if full := a.operate(200, "GET", path+"/logs/1", ""); !strings.Contains(fmt.Sprint(full["request_body"]), `"n":1`) || full["answer_body"] != "<script>"+strings.Repeat("x", maxAnswer-len("<script>")-1) {
		t.Errorf("got %v", full)
	}
	a.operate(200, "PATCH", path, `{"is_active": false}`)
	a.refuse("POST", path+"/redeliver", `{"log_id": 1}`, 409, "conflict", "not active")
	a.operate(200, "PATCH", path, `{"is_active": true}`)
	a.send()
	a.send() // nothing is due
	before := got.Load()
	a.operate(200, "POST", path+"/redeliver", fmt.Sprintf(`{"log_id": %v}`, log()["id"]))
	a.send()
	if n := got.Load(); n != before+1 {
		t.Errorf("got %d attempts, want one more than %d", n, before)
	}
	failed(0)
	a.refuse("POST", path+"/redeliver", `{"log_id": 99}`, 404, "not_found", "no entry 99")
	a.raise(WebhookEvent{Type: "call.queued", Operator: true}, 2)
	for range 14 {
		a.clocks.Pass(7 * time.Hour)
		a.send()
	}
	failed(2)
	if last := log(); last["retryable"] != true || last["redeliverable"] != true {
		t.Errorf("the last attempt: got %v", last)
	}
	if waiting := a.webhook(id)["waiting"]; waiting != 0.0 {
		t.Errorf("got %v waiting, want none", waiting)
	}
	if n := a.operate(200, "POST", path+"/retry-failed", "")["count"]; n != 2.0 {
		t.Errorf("got %v, want both queued again", n)
	}
	failed(0)
	if n := a.operate(200, "POST", path+"/retry-failed", "")["count"]; n != 0.0 {
		t.Errorf("a second time: got %v, want none", n)
	}
	if last := log(); last["queued_again"] != true || last["retryable"] != false {
		t.Errorf("got %v, want that it was queued again", last)
	}
	status.Store(200)
	a.send()
	if last := log(); last["success"] != true || a.operate(200, "GET", path+fmt.Sprintf("/logs/%v", last["id"]), "")["answer_body"] != nil {
		t.Errorf("got %v, want it delivered, without the answer", last)
	}
	test := a.operate(200, "POST", path+"/test", "")
	if full := a.operate(200, "GET", path+fmt.Sprintf("/logs/%v", log()["id"]), ""); test["success"] != true || !strings.Contains(fmt.Sprint(full["request_body"]), `"test":true`) {
		t.Errorf("got %v, want what the test has sent", full)
	}
	a.refuse("GET", path+"/logs/99", "", 404, "not_found", "no entry 99")
	a.refuse("GET", path+"/logs?failed=maybe", "", 400, "validation_error", "failed must be")
	err := a.Store.View(func(tx *Tx) error {
		q, err := findQueue(tx, id)
		if q.Last.Answer+q.Last.Body != "" {
			t.Error("the queue, which is stored with each event, holds texts of the log")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if p := a.operate(200, "POST", "/admin/v1/check", "")["problems"]; fmt.Sprint(p) != "[]" {
		t.Errorf("got %v", p)
	}
}

// TestAnswerText cuts and cleans the bodies of answers.
func TestAnswerText(t *testing.T) {
	long := strings.Repeat("x", maxAnswer-1)
	for _, tt := range []struct{ body, want string }{
		{"", ""}, {"good", "good"}, {"a\x00b\xff", "a\uFFFDb\uFFFD"}, {long + "yz", long + "y"}, {long + "\u00fc", long}, {long + "\U0001F600 ", long}, {long[2:] + "\U0001F600 ", long[2:]},
	} {
		if got := answerText([]byte(tt.body)); got != tt.want {
			t.Errorf("%q: got %q, want %q", tt.body, got, tt.want)
		}
	}
}

// hostileReceiver takes connections and does with each what the path of its
// request says. It counts what it could send.
type hostileReceiver struct {
	net.Listener
	inside string       // where its redirects lead
	sent   atomic.Int64 // bytes
	gone   chan struct{}
}

func newHostileReceiver(t *testing.T, inside string) *hostileReceiver {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &hostileReceiver{Listener: l, inside: inside, gone: make(chan struct{})}
	t.Cleanup(func() {
		close(h.gone)
		_ = l.Close()
	})
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go h.talk(c)
		}
	}()
	return h
}

// talk reads the first line of a request and answers as it pleases.
func (h *hostileReceiver) talk(c net.Conn) {
	defer c.Close()
	buf := make([]byte, 4<<10)
	n, err := c.Read(buf)
	if err != nil {
		return
	}
	_, path, _ := strings.Cut(string(buf[:n]), " /")
	path, _, _ = strings.Cut(path, " ")
	say := func(text string) bool {
		n, err := io.WriteString(c, text)
		h.sent.Add(int64(n))
		return err == nil
	}
	each := func(pause time.Duration, text string) {
		for say(text) {
			select {
			case <-h.gone:
				return
			case <-time.After(pause):
			}
		}
	}
	const ok, drip = "HTTP/1.1 200 OK\r\n", 20 * time.Millisecond
	big := strings.Repeat("a", 64<<10)
	switch path {
	case "mute":
		<-h.gone
	case "dripped-status":
		each(drip, "H")
	case "dripped-header":
		_ = say(ok+"X: ") && func() bool { each(drip, "a"); return true }()
	case "dripped-fields":
		_ = say(ok) && func() bool { each(drip, "X: a\r\n"); return true }()
	case "dripped-body":
		_ = say(ok+"Content-Length: 1000000\r\n\r\n") && func() bool { each(drip, "a"); return true }()
	case "dripped-chunks":
		_ = say(ok+"Transfer-Encoding: chunked\r\n\r\n") && func() bool { each(drip, "1\r\na\r\n"); return true }()
	case "endless-body":
		_ = say(ok+"\r\n") && func() bool { each(0, big); return true }()
	case "packed-body": // says that it is packed and would be huge
		_ = say(ok+"Content-Encoding: gzip\r\n\r\n") && func() bool { each(0, big); return true }()
	case "endless-header":
		_ = say(ok+"X: ") && func() bool { each(0, big); return true }()
	case "endless-fields":
		_ = say(ok) && func() bool { each(0, "X: "+big[:1000]+"\r\n"); return true }()
	case "endless-chunk-size":
		_ = say(ok+"Transfer-Encoding: chunked\r\n\r\n") && func() bool { each(0, big[:1000]); return true }()
	case "endless-trailer":
		_ = say(ok+"Transfer-Encoding: chunked\r\n\r\n0\r\n") && func() bool { each(0, "X: "+big[:1000]+"\r\n"); return true }()
	case "endless-early":
		each(0, "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
	case "endless-continue":
		each(0, "HTTP/1.1 100 Continue\r\n\r\n")
	case "switched": // to a protocol that nobody asked for, and then silence
		_ = say("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		<-h.gone
	case "reset":
		_ = c.(*net.TCPConn).SetLinger(0)
	case "reset-later":
		_ = say(ok + "Content-Length: 10\r\n\r\nhalf")
		_ = c.(*net.TCPConn).SetLinger(0)
	case "two-lengths":
		_ = say(ok + "Content-Length: 1\r\nContent-Length: 2\r\n\r\nab")
	case "mail":
		_ = say("220 mail.example.net ESMTP\r\n")
	default: // a status: an answer that leads elsewhere
		_ = say("HTTP/1.1 " + path + " Elsewhere\r\nLocation: " + h.inside + "\r\nRefresh: 0; url=" + h.inside + "\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
	}
}

// TestSender_HostileReceivers sends to receivers that do all they can to hold it
// up or to have it go elsewhere. All of them end with the time of one attempt,
// next to no memory is taken, and one that is well has its delivery.
func TestSender_HostileReceivers(t *testing.T) {
	const timeout = 3 * time.Second // drips last for it, and a busy machine gets an answer in it
	var entered atomic.Int32
	inside := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { entered.Add(1) }))
	defer inside.Close()
	h := newHostileReceiver(t, inside.URL)
	v := newReceiver(t)
	a := newHookApp(t, func(c *Config) { c.Webhooks.Timeout = timeout })
	hooks := map[uint64][2]string{}
	for path, want := range map[string]string{
		"mute": "no answer within", "dripped-status": "no answer within", "dripped-header": "no answer within", "dripped-fields": "no answer within",
		"dripped-body": "200", "dripped-chunks": "200", "endless-body": "200", "packed-body": "200", "endless-chunk-size": "200", "endless-trailer": "200",
		"endless-header": "exceeded", "endless-fields": "exceeded", "endless-early": "exceeded", "endless-continue": "exceeded", "switched": "101",
		"reset": "reset", "reset-later": "200", "two-lengths": "Content-Length", "mail": "malformed HTTP",
		"301": "301", "302": "302", "303": "303", "307": "307", "308": "308", "300": "300",
	} {
		id, _ := a.hook("http://"+h.Addr().String()+"/"+path, "", "call.ended")
		hooks[id] = [2]string{path, want}
	}
	a.hook(v.URL, "", "call.ended")
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	a.raise(WebhookEvent{Type: "call.ended", Owner: 1}, 1)
	a.send()
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 64<<20 {
		t.Errorf("%d bytes were allocated", n)
	}
	for id, hook := range hooks {
		last, _ := a.webhook(id)["last_attempt"].(map[string]any)
		got := fmt.Sprint(last["status_code"], " ", a.failureDetail(id))
		late := hook[1] == "exceeded" && strings.Contains(got, "no answer within") // before there was too much
		if !late && !strings.Contains(got, hook[1]) || last["success"] != (hook[1] == "200") {
			t.Errorf("%s: got %v, want %s", hook[0], last, hook[1])
		}
		if took, _ := last["duration_ms"].(float64); took > 10*float64(timeout/time.Millisecond) {
			t.Errorf("%s: took %v ms", hook[0], took)
		}
	}
	if n := len(v.all()); n != 1 {
		t.Errorf("got %d deliveries to the one that is well, want 1", n)
	}
	if n := entered.Load(); n != 0 {
		t.Errorf("%d requests went where an answer led, want none", n)
	}
	t.Logf("%d receivers, %d bytes sent by them", len(hooks), h.sent.Load())
}

// TestSender_BadTLS sends to receivers whose TLS proves nothing, or is none.
func TestSender_BadTLS(t *testing.T) {
	var asked atomic.Int32
	handler := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) })
	quiet := func() *httptest.Server {
		s := httptest.NewUnstartedServer(handler)
		s.Config.ErrorLog = log.New(io.Discard, "", 0)
		t.Cleanup(s.Close)
		return s
	}
	unknown, old, plain := quiet(), quiet(), quiet()
	unknown.StartTLS() // by a certificate that nobody vouches for
	old.TLS = &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}
	old.StartTLS()
	plain.Start()
	h := newHostileReceiver(t, "")
	a := newHookApp(t, func(c *Config) { c.Webhooks.Timeout = time.Second })
	want := map[uint64]string{}
	for url, text := range map[string]string{
		unknown.URL: "certificate", old.URL: "protocol version", strings.Replace(plain.URL, "http:", "https:", 1): "server gave HTTP response to HTTPS client",
		"https://" + h.Addr().String() + "/": "HTTPS client", strings.Replace(unknown.URL, "https:", "http:", 1): "400",
	} {
		id, _ := a.hook(url, "", "call.ended")
		want[id] = text
	}
	a.raise(WebhookEvent{Type: "call.ended", Owner: 1}, 1)
	a.send()
	for id, text := range want {
		last, _ := a.webhook(id)["last_attempt"].(map[string]any)
		if got := fmt.Sprint(last["status_code"], " ", a.failureDetail(id)); !strings.Contains(got, text) || last["success"] != false {
			t.Errorf("webhook %d: got %v, want %s", id, last, text)
		}
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("%d deliveries arrived, want none", n)
	}
}

// The longest name and URL of a webhook, and the texts that are a character longer.
func TestHooks_Lengths(t *testing.T) {
	a := newTestApp(t)
	const url = "https://hooks.example.net/"
	for _, tt := range []struct{ name, url, want int }{{1, 100, 201}, {200, 100, 201}, {201, 100, 400}, {1, 2048, 201}, {1, 2049, 400}} {
		body := fmt.Sprintf(`{"name": %q, "url": %q, "subscribed_events": ["call.ended"]}`, strings.Repeat("n", tt.name), url+strings.Repeat("u", tt.url-len(url)))
		if w := a.control("POST", "/admin/v1/webhooks", body); w.Code != tt.want {
			t.Errorf("a name of %d characters and a URL of %d: got %d %s, want %d", tt.name, tt.url, w.Code, w.Body, tt.want)
		}
	}
}
