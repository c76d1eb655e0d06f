package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"latchkey/internal/upstream"
	"latchkey/internal/upstream/upstreamtest"
)

// newScripted returns a service with the route /raw to an upstream that sends prepared answers.
func newScripted(t *testing.T) (*guardedApp, *upstreamtest.Script) {
	t.Helper()
	s := upstreamtest.NewScript(t)
	g := newGuarded(t, func(http.ResponseWriter, *http.Request) {}, func(c *Config, _ string) {
		c.Routes = append(c.Routes, RouteRow{Path: "/raw", Upstream: "http://" + s.Addr().String(), Timeout: time.Minute})
	})
	return g, s
}

// answers sends a request to /raw, which must end the connection, and returns all answers.
func (g *guardedApp) answers(t *testing.T, request string) string {
	t.Helper()
	c, err := net.Dial("tcp", g.door.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	if _, err := io.WriteString(c, strings.ReplaceAll(request, "<key>", g.key)); err != nil {
		t.Fatal(err)
	}
	return readText(t, c)
}

// TestProxy_InformationalByVersion has an upstream send informational answers, by both ways to it.
// A client of HTTP/1.0 gets none of them. One of HTTP/1.1 gets each but 100, without the fields of
// the upstream's connection.
func TestProxy_InformationalByVersion(t *testing.T) {
	g, s := newScripted(t)
	const hints = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n" +
		"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\n\r\nHTTP/1.1 199 Odd\r\n\r\n"
	for _, version := range []string{"1.0", "1.1"} {
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"} {
			s.Lines <- upstreamtest.Sends(hints + "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
			got := g.answers(t, method+" /raw HTTP/"+version+"\r\nHost: x\r\nX-API-Key: <key>\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
			var lines []string
			for line := range strings.SplitSeq(got, "\r\n") {
				if strings.HasPrefix(line, "HTTP/") {
					lines = append(lines, line[9:12])
				}
			}
			want := []string{"200"}
			if version == "1.1" {
				want = []string{"102", "103", "199", "200"}
			}
			if !slices.Equal(lines, want) || strings.Contains(got, "Link: </a>") != (version == "1.1") {
				t.Errorf("%s over HTTP/%s: got %v, want %v:\n%s", method, version, lines, want, got)
			}
			if strings.Contains(got, "X-Hop") || strings.Contains(got, "Keep-Alive") {
				t.Errorf("%s over HTTP/%s: got fields of the upstream's connection:\n%s", method, version, got)
			}
		}
	}
}

// A client that expects 100 gets it once, before it sends its body, whether the upstream sends one
// or not.
func TestProxy_Continue(t *testing.T) {
	g, s := newScripted(t)
	for _, first := range []string{"", "HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"} {
		s.Lines <- func(c net.Conn) {
			upstreamtest.Sends(first)(c)
			b := make([]byte, 2)
			_, _ = io.ReadFull(c, b)
			upstreamtest.Sends("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n" + string(b))(c)
		}
		c, line := g.first(t, "POST /raw HTTP/1.1\r\nHost: x\r\nX-API-Key: <key>\r\nExpect: 100-continue\r\nConnection: close\r\nContent-Length: 2\r\n\r\n")
		_, _ = io.WriteString(c, "ok")
		rest := readText(t, c)
		if line != "HTTP/1.1 100 Continue" || strings.Contains(rest, "100 Continue") || !strings.HasSuffix(rest, "ok") {
			t.Errorf("the upstream sends %q: got %q, then %q", first, line, rest)
		}
	}
}

// Each part of an answer that is not complete arrives before the upstream makes the next, by both
// ways to it, and so does the header, whatever the answer says of its type and length.
func TestProxy_Trickle(t *testing.T) {
	g, s := newScripted(t)
	for _, fields := range []string{
		"Content-Type: text/event-stream\r\nContent-Length: 10", "Content-Type: Text/Event-Stream; charset=utf-8\r\nContent-Length: 10",
		"Content-Type: text/event-stream;;bad\r\nContent-Length: 10", "Content-Type: text/event-stream",
		"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked", "Content-Type: text/plain\r\nContent-Length: 10", "Content-Length: 10",
		"Content-Type: text/plain", "Transfer-Encoding: chunked\r\nTrailer: X-Sum",
	} {
		for _, method := range []string{"GET", "POST", "OPTIONS"} {
			for _, version := range []string{"1.0", "1.1"} {
				t.Run(fmt.Sprintf("%s/%s/%.70q", method, version, fields), func(t *testing.T) {
					next := make(chan bool, 5)
					s.Lines <- func(c net.Conn) {
						defer c.Close()
						// The upstream closes the connection after the answer, and says so: it must not be used again.
						parts := []string{"HTTP/1.1 200 OK\r\nConnection: close\r\n" + fields + "\r\n\r\n", "part1", "part2"}
						if strings.Contains(fields, "chunked") {
							parts = []string{parts[0], "5\r\npart1\r\n", "5\r\npart2\r\n0\r\n\r\n"}
						}
						for _, part := range parts {
							if <-next {
								upstreamtest.Sends(part)(c)
							}
						}
					}
					next <- true
					c, line := g.first(t, method+" /raw HTTP/"+version+"\r\nHost: x\r\nX-API-Key: <key>\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
					defer c.Close()
					defer func() { next <- false; next <- false }() // do not leave the upstream waiting
					if !strings.HasSuffix(line, "200 OK") {
						t.Fatalf("got %s", line)
					}
					in := bufio.NewReader(c)
					for _, part := range []string{"part1", "part2"} {
						next <- true
						_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
						got := ""
						for !strings.Contains(got, part) {
							b, err := in.ReadByte()
							if err != nil {
								t.Fatalf("got %q, %v, and no %s", got, err, part)
							}
							got += string(b)
						}
					}
				})
			}
		}
	}
}

// TestProxy_LateAnswer has an upstream send a body after an answer that has none. By both ways no
// later request gets it.
func TestProxy_LateAnswer(t *testing.T) {
	g, s := newScripted(t)
	const own = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
	_, other := g.testApp.key(`["can_use"]`, `"limits": {"requests_per_minute_limit": 100000}`)
	for _, method := range []string{"GET", "HEAD", "POST", "DELETE"} {
		for _, status := range []string{"200 OK", "204 No Content", "304 Not Modified"} {
			if status == "200 OK" && method != "HEAD" {
				continue // has a body
			}
			for _, late := range []time.Duration{0, time.Millisecond, 50 * time.Millisecond} {
				s.Lines <- func(c net.Conn) {
					upstreamtest.Sends("HTTP/1.1 " + status + "\r\nContent-Length: 45\r\n\r\n")(c)
					time.AfterFunc(late, func() { upstreamtest.Sends("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstolen")(c) })
				}
				if res := g.send(t, method, "/raw", nil); !strings.HasPrefix(res.Status, status[:3]) {
					t.Fatalf("%s: got %s, want %s", method, res.Status, status)
				}
				for len(s.Asked) > 0 { // its buffer is bounded
					<-s.Asked
				}
				for _, next := range []string{"GET", "POST", "GET", "POST"} {
					s.Lines <- upstreamtest.Sends(own)
					r, err := http.NewRequest(next, g.door.URL+"/raw", nil)
					if err != nil {
						t.Fatal(err)
					}
					r.Header.Set("X-API-Key", other)
					res, err := http.DefaultTransport.RoundTrip(r)
					if err != nil {
						t.Fatal(err)
					}
					if got := readText(t, res.Body); got != "ok" {
						t.Errorf("after %s with %s and a body %v late: %s got %d %q", method, status, late, next, res.StatusCode, got)
					}
					_ = res.Body.Close()
				}
			}
		}
	}
}

// TestProxy_LastAnswer has the server end the client's connection after a request, whatever the upstream says of its own, and
// also if it says nothing, by both ways to it. Only the answer says so, not the hint before it.
func TestProxy_LastAnswer(t *testing.T) {
	g, s := newScripted(t)
	for _, last := range []bool{true, false} {
		door := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if last {
				w.Header().Set("Connection", "close")
			}
			g.api.ServeHTTP(w, r)
		}))
		t.Cleanup(door.Close)
		for _, method := range []string{"GET", "HEAD", "POST", "OPTIONS"} {
			for _, field := range []string{"", "Connection: keep-alive\r\n", "Connection: X-Hop\r\nX-Hop: 1\r\n", "nothing"} {
				answer := upstreamtest.Sends("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n" + field + "Content-Length: 0\r\n\r\n")
				if field == "nothing" {
					answer = upstreamtest.Sends("no answer\r\n\r\n")
				}
				s.Lines <- answer
				c, err := net.Dial("tcp", door.Listener.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(time.Minute))
				if _, err := io.WriteString(c, method+" /raw HTTP/1.1\r\nHost: x\r\nX-API-Key: "+g.key+"\r\nContent-Length: 0\r\n\r\n"); err != nil {
					t.Fatal(err)
				}
				in := bufio.NewReader(c)
				want := []int{103, 200}
				if field == "nothing" {
					want = []int{502}
				}
				for _, status := range want {
					res, err := http.ReadResponse(in, &http.Request{Method: method})
					if err != nil {
						t.Fatal(err)
					}
					if ends := res.Close || res.Header["Connection"] != nil; res.StatusCode != status || ends != (last && status != 103) || res.Header["X-Hop"] != nil {
						t.Errorf("%s, the last one %t, %q: got %d, the end of the connection %t, %v", method, last, field, res.StatusCode, ends, res.Header)
					}
				}
			}
		}
	}
}

// TestProxy_Head wants that upstream.Pool gets only requests to upstreams whose name is sent as it is.
func TestProxy_Head(t *testing.T) {
	if !upstream.SilentKnown {
		t.Skip("all requests go through httputil.ReverseProxy here")
	}
	for host, want := range map[string]bool{
		"api.example": true, "api.example:8080": true, "127.0.0.1:80": true, "[::1]:80": true, "[fe80::1%eth0]:80": false, "[fe80::1%25eth0]": false,
		"api.example:": false, "b\u00fccher.example": false, "api example": false, "api\x7f": false,
	} {
		r := &Request{Request: httptest.NewRequest("GET", "/x?y=1", nil), Key: &Key{}}
		r.Key.Resolve(defaultConfig().Rights(), nil)
		x := &proxyExchange{request: r, guard: &proxyRoute{Path: "/x", Upstream: &url.URL{Scheme: "http", Host: host}}, proxy: &Proxy{}}
		head, ok := x.head()
		if ok != want || ok && !strings.HasPrefix(string(head), "GET /x?y=1 HTTP/1.1\r\nHost: "+host+"\r\n") {
			t.Errorf("%s: got %t, %q", host, ok, head)
		}
	}
}
