package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

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
	a.raise(Event{Type: "call.ended", Owner: 1}, 1)
	a.send()
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 64<<20 {
		t.Errorf("%d bytes were allocated", n)
	}
	for id, hook := range hooks {
		last, _ := a.webhook(id)["last_attempt"].(map[string]any)
		got := fmt.Sprint(last["status_code"], " ", last["error"])
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
	a.raise(Event{Type: "call.ended", Owner: 1}, 1)
	a.send()
	for id, text := range want {
		last, _ := a.webhook(id)["last_attempt"].(map[string]any)
		if got := fmt.Sprint(last["status_code"], " ", last["error"]); !strings.Contains(got, text) || last["success"] != false {
			t.Errorf("webhook %d: got %v, want %s", id, last, text)
		}
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("%d deliveries arrived, want none", n)
	}
}
