package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// streamKinds are the requests that last: what a client sends to the API listener, with <key> in
// place of its key, and what it goes on sending. Each lasts until one side ends it.
var streamKinds = []struct{ name, request, drip string }{
	{"events by GET", "GET /up/events HTTP/1.1\r\nHost: x\r\n<key>\r\n", ""},
	{"events by POST", "POST /up/events HTTP/1.1\r\nHost: x\r\n<key>Content-Length: 0\r\n\r\n", ""},
	{"events over HTTP/1.0", "GET /up/events HTTP/1.0\r\nHost: x\r\n<key>\r\n", ""},
	{"a download by GET", "GET /up/download HTTP/1.1\r\nHost: x\r\n<key>\r\n", ""},
	{"a download by POST", "POST /up/download HTTP/1.1\r\nHost: x\r\n<key>Content-Length: 0\r\n\r\n", ""},
	{"a download that nobody reads", "GET /up/flood HTTP/1.1\r\nHost: x\r\n<key>\r\n", ""},
	{"no answer to GET", "GET /up/wait HTTP/1.1\r\nHost: x\r\n<key>\r\n", ""},
	{"no answer to GET, with a byte of the next request", "GET /up/wait HTTP/1.1\r\nHost: x\r\n<key>\r\nG", ""},
	{"no answer to POST", "POST /up/wait HTTP/1.1\r\nHost: x\r\n<key>Content-Length: 0\r\n\r\n", ""},
	{"an upload", "POST /up/upload HTTP/1.1\r\nHost: x\r\n<key>Transfer-Encoding: chunked\r\n\r\n", "1\r\nx\r\n"},
	{"a silent upload", "POST /up/upload HTTP/1.1\r\nHost: x\r\n<key>Content-Length: 9\r\n\r\n", ""},
	{"an upload with an answer", "POST /up/both HTTP/1.1\r\nHost: x\r\n<key>Transfer-Encoding: chunked\r\n\r\n", "1\r\nx\r\n"},
	{"a WebSocket", "GET /up/ws HTTP/1.1\r\nHost: x\r\n<key>Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", "x"},
	{"a silent WebSocket", "GET /up/ws HTTP/1.1\r\nHost: x\r\n<key>Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", ""},
	{"the body of an endpoint", "POST /api/v1/contacts/create HTTP/1.1\r\nHost: x\r\n<key>Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\n \r\n"},
}

// streamServer is an upstream whose answers last. It counts its open requests by key id.
type streamServer struct {
	mu   sync.Mutex
	open map[string]int
}

// count adds n to the open requests of a key and returns their number.
func (s *streamServer) count(key string, n int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == nil {
		s.open = map[string]int{}
	}
	s.open[key] += n
	return s.open[key]
}

func (s *streamServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id := r.Header.Get("X-Auth-Key-Id")
	s.count(id, 1)
	defer s.count(id, -1)
	control := http.NewResponseController(w)
	switch r.URL.Path {
	case "/up/upload":
		_, _ = io.Copy(io.Discard, r.Body)
	case "/up/wait":
		<-r.Context().Done()
	case "/up/ws":
		c, rw, err := control.Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
		_, _ = io.Copy(c, rw)
	case "/up/flood":
		_, _ = io.Copy(w, zeros{})
	default:
		if r.URL.Path == "/up/download" {
			w.Header().Set("Content-Length", "1000000")
		} else {
			w.Header().Set("Content-Type", "text/event-stream")
		}
		if r.URL.Path == "/up/both" {
			_ = control.EnableFullDuplex()
		}
		for {
			if _, err := io.WriteString(w, "data: 1\n\n"); err != nil || control.Flush() != nil {
				return
			}
			select {
			case <-r.Context().Done():
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
}

// stream opens a request of one kind. It returns a channel that is closed when the client sees the
// end of its connection. It sends drip again and again.
func (g *guardedApp) stream(t *testing.T, request, drip string) <-chan struct{} {
	t.Helper()
	c, err := net.Dial("tcp", g.door.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if strings.Contains(request, "/up/flood") { // full buffers, until the connection is reset
			for one := []byte("x"); err == nil; <-time.After(10 * time.Millisecond) {
				_, err = c.Write(one)
			}
			return
		}
		_, _ = io.Copy(io.Discard, c)
	}()
	go func() {
		for drip != "" {
			select {
			case <-ended:
				return
			case <-time.After(20 * time.Millisecond):
				if _, err := io.WriteString(c, drip); err != nil {
					return
				}
			}
		}
	}()
	return ended
}

// isOpen reports whether a stream has not ended.
func isOpen(ended <-chan struct{}) bool {
	select {
	case <-ended:
		return false
	default:
		return true
	}
}

// TestServer_StreamsEndWithKey opens a request of each lasting kind, then makes the key unusable in
// each way. Within a second the clients and the upstream see the end, and requests with another key
// go on.
func TestServer_StreamsEndWithKey(t *testing.T) {
	const v1 = "/admin/v1/keys/"
	for name, do := range map[string]func(t *testing.T, g *guardedApp, id, secret string){
		"revoke":        func(t *testing.T, g *guardedApp, id, _ string) { g.operate(200, "POST", v1+id+"/revoke", "") },
		"pause":         func(t *testing.T, g *guardedApp, id, _ string) { g.operate(200, "POST", v1+id+"/pause", "") },
		"revoke itself": func(t *testing.T, g *guardedApp, _, secret string) { g.ask("DELETE", "/api/v1/key", secret, "") },
		"rotate without overlap": func(t *testing.T, g *guardedApp, id, _ string) {
			g.operate(200, "POST", v1+id+"/rotate", `{"overlap_seconds": 0}`)
		},
		"rotate, then finish": func(t *testing.T, g *guardedApp, id, _ string) {
			g.operate(200, "POST", v1+id+"/rotate", `{"overlap_seconds": 3600}`)
			g.operate(200, "POST", v1+id+"/rotate/finish", "")
		},
		"rotate, then the overlap ends": func(t *testing.T, g *guardedApp, id, _ string) {
			g.operate(200, "POST", v1+id+"/rotate", `{"overlap_seconds": 3600}`)
			g.clocks.Pass(time.Hour)
		},
		"expiry": func(t *testing.T, g *guardedApp, id, _ string) {
			g.operate(200, "PATCH", v1+id, fmt.Sprintf(`{"expires_at": %q}`, g.clocks.Read().Wall.Add(time.Hour).UTC().Format(time.RFC3339)))
			g.clocks.Pass(time.Hour + time.Second)
		},
		"expiry, of a key that is no longer in memory": func(t *testing.T, g *guardedApp, id, _ string) {
			g.operate(200, "PATCH", v1+id, fmt.Sprintf(`{"expires_at": %q}`, g.clocks.Read().Wall.Add(time.Hour).UTC().Format(time.RFC3339)))
			g.evict()
			g.clocks.Pass(time.Hour + time.Second)
		},
		"revoke of a key that is no longer in memory": func(t *testing.T, g *guardedApp, id, _ string) {
			g.evict()
			g.operate(200, "POST", v1+id+"/revoke", "")
		},
		"other addresses": func(t *testing.T, g *guardedApp, id, _ string) {
			g.operate(200, "PATCH", v1+id, `{"allowed_ips": ["192.0.2.1"]}`)
		},
		"no permissions": func(t *testing.T, g *guardedApp, id, _ string) {
			g.operate(200, "PATCH", v1+id, `{"permissions": ["can_read_calls"]}`)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var up streamServer
			g := newGuarded(t, up.ServeHTTP, nil)
			id, secret := g.testApp.key(`["can_use", "can_write_contacts", "can_read_contacts"]`)
			otherID, other := g.testApp.key(`["can_use", "can_write_contacts", "can_read_contacts"]`)
			ends, others := map[string]<-chan struct{}{}, map[string]<-chan struct{}{}
			for _, kind := range streamKinds {
				ends[kind.name] = g.stream(t, strings.Replace(kind.request, "<key>", "X-API-Key: "+secret+"\r\n", 1), kind.drip)
				others[kind.name] = g.stream(t, strings.Replace(kind.request, "<key>", "X-API-Key: "+other+"\r\n", 1), kind.drip)
			}
			const own = 1 // the body of an endpoint does not reach the upstream
			await(t, func() bool {
				return up.count(id, 0) == len(streamKinds)-own && up.count(otherID, 0) == len(streamKinds)-own
			})
			<-time.After(2 * EndTime)
			for kind, ended := range ends {
				if !isOpen(ended) {
					t.Fatalf("%s ended too early", kind)
				}
			}
			do(t, g, id, secret)
			until := time.After(5 * time.Second) // a second, on a machine that does nothing else
			for kind, ended := range ends {
				select {
				case <-ended:
				case <-until:
					t.Errorf("%s goes on", kind)
				}
			}
			await(t, func() bool { return up.count(id, 0) == 0 })
			for kind, ended := range others {
				if !isOpen(ended) {
					t.Errorf("%s with another key has ended", kind)
				}
			}
			if n := strings.Count(g.log.String(), "request ended early"); n != len(streamKinds) {
				t.Errorf("the log has %d requests that ended early, want %d", n, len(streamKinds))
			}
		})
	}
}

// TestServer_StreamsEndWithRoute reloads the routes while requests are open. One that needs another
// permission ends the requests of keys without it, and one that is gone ends all of its requests. A
// route that stays the same, or has another upstream, ends none.
func TestServer_StreamsEndWithRoute(t *testing.T) {
	var up streamServer
	g := newGuarded(t, up.ServeHTTP, nil)
	_, other := g.testApp.key(`["can_use", "can_read_agents"]`)
	open := func(key string) (ends []<-chan struct{}) {
		for _, kind := range streamKinds {
			if strings.Contains(kind.request, " /up/") {
				ends = append(ends, g.stream(t, strings.Replace(kind.request, "<key>", "X-API-Key: "+key+"\r\n", 1), kind.drip))
			}
		}
		return ends
	}
	use := func(rows ...RouteRow) {
		list, problems := ReadProxyRoutes(rows, g.Keyring.Rights())
		set, err := g.guards.Make(list, g.Keyring.Rights())
		if err != nil || problems != nil {
			t.Fatal(err, problems)
		}
		g.guards.Use(set)
	}
	without, with := open(g.key), open(other)
	<-time.After(2 * EndTime)
	row := g.config.Routes[0]
	use(row)
	row.Upstream = "http://127.0.0.1:1"
	use(row)
	<-time.After(2 * EndTime)
	for i := range with {
		if !isOpen(without[i]) || !isOpen(with[i]) {
			t.Errorf("%s has ended, but its route remains", streamKinds[i].name)
		}
	}
	row.Permission = []string{"can_read_agents"}
	use(row)
	for _, ended := range without {
		<-ended
	}
	for i := range with {
		if !isOpen(with[i]) {
			t.Errorf("%s has ended, but its key has the permission", streamKinds[i].name)
		}
	}
	use()
	for _, ended := range with {
		<-ended
	}
}

// TestServer_EndRequests_HTTP2 ends one of two requests on a connection. The client sees that the
// answer is not complete, and the other request goes on.
func TestServer_EndRequests_HTTP2(t *testing.T) {
	var up streamServer
	g := newGuarded(t, up.ServeHTTP, nil)
	door := g.openHTTP2(t)
	open := func(key string) *http.Response {
		r, err := http.NewRequest("GET", door.URL+"/up/events", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("X-API-Key", key)
		res, err := door.Client().Do(r)
		if err != nil || res.ProtoMajor != 2 {
			t.Fatal(res, err)
		}
		t.Cleanup(func() { _ = res.Body.Close() })
		return res
	}
	id, secret := g.testApp.key(`["can_use"]`)
	mine, others := open(secret), open(g.key)
	g.operate(200, "POST", "/admin/v1/keys/"+id+"/revoke", "")
	if _, err := io.Copy(io.Discard, mine.Body); err == nil {
		t.Error("the stream ended as if it were complete")
	}
	if _, err := io.ReadFull(others.Body, make([]byte, 100)); err != nil {
		t.Errorf("another stream of the same connection: %v", err)
	}
}

// await waits until ok returns true.
func await(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); <-time.After(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("waited for too long")
		}
	}
}

// evict removes all keys from memory.
func (a *testApp) evict() {
	m := a.Keyring.memory
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range m.shards {
		s := &m.shards[i]
		s.Lock()
		for d, h := range s.keys {
			delete(s.keys, d)
			m.unlink(h)
		}
		s.Unlock()
	}
}

// deadlineWriter is a writer whose deadlines cannot be set.
type deadlineWriter struct {
	http.ResponseWriter
	set []time.Time
	err error
}

func (w *deadlineWriter) SetReadDeadline(t time.Time) error  { return w.SetWriteDeadline(t) }
func (w *deadlineWriter) SetWriteDeadline(t time.Time) error { w.set = append(w.set, t); return w.err }

// TestExchange_Deadlines sets deadlines of exchanges: the error of the writer is returned, and once EndRequests has ended
// the exchange, no deadline in the future remains.
func TestExchange_Deadlines(t *testing.T) {
	failed, later := errors.New("no deadlines"), time.Now().Add(time.Hour)
	for name, set := range map[string]func(x *exchange) error{
		"read":  func(x *exchange) error { return x.SetReadDeadline(later) },
		"write": func(x *exchange) error { return x.SetWriteDeadline(later) },
	} {
		for _, want := range []error{nil, failed} {
			for _, over := range []bool{false, true} {
				w := &deadlineWriter{err: want}
				x := &exchange{ResponseWriter: w}
				x.open.over.Store(over)
				if err := set(x); err != want {
					t.Errorf("%s, ended %t: got %v, want %v", name, over, err, want)
				}
				if last := w.set[len(w.set)-1]; last.Equal(later) == over || last.After(time.Now()) == over {
					t.Errorf("%s, ended %t: got the deadline %v", name, over, last)
				}
			}
		}
	}
}
