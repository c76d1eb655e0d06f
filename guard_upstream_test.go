package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"latchkey/internal/upstream/upstreamtest"
)

var sends, sendsLast = upstreamtest.Sends, upstreamtest.SendsLast

// upstreamAnswers are the answers that an upstream may have.
var upstreamAnswers = map[string]func(net.Conn){
	"a length":         sends("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: text/plain\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nServer: it\r\nDate: then\r\n\r\nok"),
	"no type":          sends("HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n<html>hi</html"),
	"nothing":          sends("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
	"chunks":           sends("HTTP/1.1 200 Fine\r\nTransfer-Encoding: chunked\r\nContent-Encoding: gzip\r\n\r\n2\r\nok\r\n3\r\nyes\r\n0\r\n\r\n"),
	"trailers":         sends("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum, X-None\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 7\r\n\r\n"),
	"other trailers":   sends("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 7\r\nX-More: 8\r\n\r\n"),
	"to the end":       sendsLast("HTTP/1.1 200 OK\r\n\r\nto the end"),
	"an old one":       sendsLast("HTTP/1.0 200 OK\r\nX-A: b\r\n\r\nold"),
	"no content":       sends("HTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n"),
	"not modified":     sends("HTTP/1.1 304 Not Modified\r\nEtag: \"x\"\r\nContent-Length: 9\r\n\r\n"),
	"elsewhere":        sends("HTTP/1.1 302 Found\r\nLocation: http://other.example/\r\nContent-Length: 0\r\n\r\n"),
	"hints":            sends("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
	"one connection's": sends("HTTP/1.1 200 OK\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: x\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\nok"),
	"our fields":       sends("HTTP/1.1 200 OK\r\nX-RateLimit-Limit: 7\r\nRateLimit: x\r\nVary: Cookie\r\nCache-Control: public\r\nContent-Length: 2\r\n\r\nok"),
	"both lengths":     sends("HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
	"two lengths":      sends("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok"),
	"a folded field":   sends("HTTP/1.1 200 OK\r\nX-A: b\r\n c\r\nContent-Length: 2\r\n\r\nok"),
	"a broken field":   sends("HTTP/1.1 200 OK\r\nX A: b\r\nContent-Length: 2\r\n\r\nok"),
	"half a body":      sendsLast("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"),
	"half of chunks":   sendsLast("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n"),
	"no HTTP":          sendsLast("hello\r\n\r\n"),
	"the end":          sendsLast(""),
	"switched":         sendsLast("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n"),
	"switched to none": sendsLast("HTTP/1.1 101 Switching Protocols\r\n\r\n"),
	"no status":        sends("HTTP/1.1 007 Bond\r\nContent-Length: 2\r\n\r\nok"),
	"an odd status":    sends("HTTP/1.1 799 Odd\r\nContent-Length: 2\r\n\r\nok"),
}

// An answer over the direct way is the answer over that of the standard
// library, and the upstream is asked the same.
func TestProxy_BothWays(t *testing.T) {
	s := upstreamtest.NewScript(t)
	g := newGuarded(t, func(http.ResponseWriter, *http.Request) {}, func(c *Config, _ string) {
		c.Routes = append(c.Routes, RouteRow{Path: "/raw/*rest", Upstream: "http://" + s.Addr().String() + "/base", StripPrefix: "/raw", Timeout: time.Minute})
	})
	for name, answer := range upstreamAnswers {
		for _, request := range []string{
			"GET /raw/x HTTP/1.1\r\nHost: a.example\r\nUser-Agent: it\r\nCookie: a=b\r\nAccept: a\r\nAccept: b\r\nX-Real-Ip: 6.6.6.6\r\nX-Api-Key: <key>\r\n",
			"HEAD /raw/a%20b/%41?b=%20&&c HTTP/1.1\r\nHost: a.example\r\nForwarded: for=x\r\nX-API-Key: <key>\r\nX-Empty:\r\nContent-Length: 0\r\nKeep-Alive: 5\r\n",
			"GET /raw?api_key=<key>&q HTTP/1.1\r\nHost: a.example\r\nAuthorization: Basic azE6\r\nRange: bytes=0-1\r\n",
		} {
			t.Run(name+" to "+request[:9], func(t *testing.T) {
				var got [2]string
				for i, way := range []string{"Connection: close\r\n\r\n", "Connection: close, X-No-Such\r\n\r\n"} {
					g.proxy.Close() // on a connection that was kept the upstream might be asked twice, or not at all
					s.Lines <- answer
					got[i] = g.exchange(t, strings.ReplaceAll(request, "<key>", g.key)+way) + "\n" + told(<-s.Asked)
					if len(s.Asked) > 0 {
						t.Errorf("the upstream was asked again: %s", <-s.Asked)
					}
				}
				if name == "no type" && strings.Contains(got[0], "Content-Type") {
					t.Errorf("the type is guessed: %s", got[0])
				}
				if got[0] != got[1] {
					t.Errorf("the direct way:\n%s\nthe other:\n%s", got[0], got[1])
				}
			})
		}
	}
}

// So it is for clients that speak HTTP/2, where a client that takes trailers
// goes by the standard library.
func TestProxy_BothWaysOverHTTP2(t *testing.T) {
	s := upstreamtest.NewScript(t)
	g := newGuarded(t, func(http.ResponseWriter, *http.Request) {}, func(c *Config, _ string) {
		c.Routes = append(c.Routes, RouteRow{Path: "/raw/*rest", Upstream: "http://" + s.Addr().String(), Timeout: time.Minute})
	})
	door := g.openHTTP2(t)
	ask := func(answer func(net.Conn), method, te string) string {
		g.proxy.Close()
		s.Lines <- answer
		r, err := http.NewRequest(method, door.URL+"/raw/a%20b?q", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header = http.Header{"X-Api-Key": {g.key}, "Cookie": {"a=b", "c=d"}, "Accept": {"a", "b"}, "Range": {"bytes=0-1"}, "X-Forwarded-For": {"6.6.6.6"}}
		if te != "" {
			r.Header["Te"] = []string{te}
		}
		asked := func() string { return strings.ReplaceAll(told(<-s.Asked), "Te: trailers\n", "") }
		res, err := door.Client().Transport.RoundTrip(r)
		if err != nil {
			return asked() + "\nno answer"
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		var head strings.Builder
		_ = res.Header.Write(&head)
		return fmt.Sprintf("%s\n%s %d\n%s\n%q %v %v %v", asked(), res.Proto, res.StatusCode, told("\r\n"+head.String()), withoutID(body), err == nil, res.ContentLength >= 0, res.Trailer)
	}
	for name, answer := range upstreamAnswers {
		for _, method := range []string{"GET", "HEAD"} {
			if one, other := ask(answer, method, ""), ask(answer, method, "trailers"); one != other {
				t.Errorf("%s to %s: the direct way:\n%s\nthe other:\n%s", name, method, one, other)
			}
		}
	}
}

// exchange sends a request on a connection of its own and gives all that comes
// back, the fields in order and without what differs from one to the next.
func (g *guardedApp) exchange(t *testing.T, request string) string {
	t.Helper()
	c, err := net.Dial("tcp", g.door.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	all, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	head, body, _ := bytes.Cut(all, []byte("\r\n\r\n"))
	if bytes.HasPrefix(all, []byte("HTTP/1.1 103")) {
		more, rest, _ := bytes.Cut(body, []byte("\r\n\r\n"))
		return told(string(head)) + "\n" + told(string(more)) + "\n" + string(rest)
	}
	return fmt.Sprintf("%s\n%q", told(string(head)), withoutID(body))
}

// withoutID gives the body of an error as far as the id of its request.
func withoutID(body []byte) []byte {
	said, _, _ := bytes.Cut(body, []byte(`"request_id"`))
	return said
}

// told gives a head with its fields in order and without what differs.
func told(head string) string {
	head = strings.ReplaceAll(head, "X-Sum, X-None", "X-None, X-Sum")
	lines := strings.Split(strings.TrimRight(head, "\r\n"), "\r\n")
	fields := slices.DeleteFunc(lines[1:], func(line string) bool {
		name, value, _ := strings.Cut(line, ":")
		switch strings.ToLower(name) {
		case "date":
			return value != " then"
		case "ratelimit", "x-ratelimit-remaining", "x-ratelimit-reset", "x-request-id":
			return true
		case "content-length": // of our errors: the id of the request that they hold may have grown by a digit
			return strings.Contains(head, "Link: </errors/")
		}
		return false
	})
	slices.Sort(fields)
	return lines[0] + "\n" + strings.Join(fields, "\n")
}

// Once its answer has begun, be it by one byte, a request is not sent to the
// upstream again: the caller gets 502.
func TestProxy_BegunAnswerIsBadGateway(t *testing.T) {
	s := upstreamtest.NewScript(t, upstreamtest.Sends("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"), upstreamtest.SendsLast("H"), upstreamtest.Sends("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"))
	g := newGuarded(t, nil, func(c *Config, _ string) {
		c.Routes = append(c.Routes, RouteRow{Path: "/short", Upstream: "http://" + s.Addr().String()})
	})
	for i, want := range []string{"200 ok", "502"} {
		res := g.send(t, "GET", "/short", nil)
		text := readText(t, res.Body)
		if got := fmt.Sprintf("%d %s", res.StatusCode, text); got[:len(want)] != want {
			t.Errorf("request %d: got %s, want %s", i, got, want)
		}
	}
	if n := len(s.Asked); n != 2 {
		t.Errorf("the upstream was asked %d times, want 2", n)
	}
}
