package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"latchkey/internal/upstream/upstreamtest"
)

// arrivals are the requests that a listener was sent.
type arrivals struct {
	mu   sync.Mutex
	list []string
}

// note notes where a request arrived and what it asked for.
func (a *arrivals) note(where string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.list = append(a.list, where+" "+r.Method+" "+r.RequestURI+" "+r.Host)
		if status := 0; r.URL.Query().Has("status") {
			_, _ = fmt.Sscan(r.URL.Query().Get("status"), &status)
			w.Header().Set("Location", "http://"+r.URL.Query().Get("to")+"/up/inside")
			w.WriteHeader(status)
		}
	}
}

// take gives what has arrived since it was asked last.
func (a *arrivals) take() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	defer func() { a.list = nil }()
	return strings.Join(a.list, ", ")
}

// TestProxy_NowhereElse sends the door all that a client could try to have it ask
// another host than the upstream of the route. A second listener stands for what
// is inside: nothing may arrive there, and what arrives at the upstream is the
// path of the route, under the upstream's own name.
func TestProxy_NowhereElse(t *testing.T) {
	var seen arrivals
	inside := httptest.NewServer(seen.note("inside"))
	defer inside.Close()
	trap := inside.Listener.Addr().String()
	for _, name := range []string{"HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"} {
		t.Setenv(name, inside.URL)
	}
	g := newGuarded(t, seen.note("up"), func(c *Config, url string) {
		c.Routes = append(c.Routes, RouteRow{Path: "/cut/*rest", Upstream: url, StripPrefix: "/cut", Timeout: time.Minute, Permission: []string{"can_use"}},
			RouteRow{Path: "/base/*rest", Upstream: url + "/v2/", StripPrefix: "/base", Timeout: time.Minute, Permission: []string{"can_use"}})
	})
	up := g.upstream.Listener.Addr().String()
	const none = ""
	for _, tt := range []struct{ line, fields, want string }{
		{"GET /up/x", "Host: x", "/up/x"},
		{"GET /up/x", "Host: TRAP", "/up/x"},
		{"GET /up/x", "Host: user@TRAP", none},
		{"GET /up/x", "Host: TRAP/other", none},
		{"GET /up/x", "Host: x\r\nHost: TRAP", none},
		{"GET /up/x", "Host: x\r\nX-Forwarded-Host: TRAP\r\nX-Forwarded-Server: TRAP\r\nX-Host: TRAP\r\nX-Forwarded-For: TRAP\r\nX-Real-IP: TRAP\r\nForwarded: host=TRAP;for=TRAP", "/up/x"},
		{"GET /up/x", "Host: x\r\nX-Original-URL: http://TRAP/\r\nX-Rewrite-URL: http://TRAP/\r\nX-Original-Host: TRAP\r\nX-Forwarded-Prefix: //TRAP", "/up/x"},
		{"GET /up/x", "Host: x\r\nProxy-Connection: keep-alive\r\nVia: 1.1 TRAP\r\nDestination: http://TRAP/\r\nReferer: http://TRAP/", "/up/x"},
		{"GET /up/x", "Host: x\r\nConnection: Host, close", "/up/x"},
		{"GET /up/x", "Host: TRAP\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "/up/x"},
		{"GET /up/x", "Host: TRAP\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA", "/up/x"},
		{"GET http://TRAP/up/x", "Host: TRAP", "/up/x"},
		{"GET http://TRAP/up/x", "Host: x", "/up/x"},
		{"GET https://TRAP/up/x", "Host: x", "/up/x"},
		{"GET http://user:word@TRAP/up/x", "Host: x", "/up/x"},
		{"GET ftp://TRAP/up/x", "Host: x", "/up/x"},
		{"GET http://TRAP", "Host: x", none},
		{"GET http://TRAP/", "Host: x", none},
		{"GET http:TRAP/up/x", "Host: x", none},
		{"GET //TRAP/up/x", "Host: x", none},
		{"GET ///TRAP/up/x", "Host: x", none},
		{"GET /\\TRAP/up/x", "Host: x", none},
		{"GET @TRAP/up/x", "Host: x", none},
		{"GET TRAP/up/x", "Host: x", none},
		{"GET /up/@TRAP/x", "Host: x", "/up/@TRAP/x"},
		{"GET /up/x?@TRAP/", "Host: x", "/up/x?@TRAP/"},
		{"GET /up/x?url=http://TRAP/", "Host: x", "/up/x?url=http://TRAP/"},
		{"GET /up/x#@TRAP/", "Host: x", none},
		{"GET /up/http://TRAP/x", "Host: x", none},
		{"GET /up/../../TRAP", "Host: x", none},
		{"GET /up/%2e%2e/TRAP", "Host: x", none},
		{"GET /up/%2F%2FTRAP/", "Host: x", none},
		{"GET /up/x%20HTTP/1.1%0d%0aHost:%20TRAP%0d%0a%0d%0a", "Host: x", none},
		{"GET /up/x%0aHost:TRAP", "Host: x", none},
		{"GET /up/x?a=%0d%0aHost:%20TRAP", "Host: x", "/up/x?a=%0d%0aHost:%20TRAP"},
		{"GET /up/x\rHost:TRAP", "Host: x", none},
		{"GET /up/x y", "Host: x", none},
		{"GET /cut/x", "Host: x", "/x"},
		{"GET /cut/@TRAP/x", "Host: x", "/@TRAP/x"},
		{"GET /cut/:80@TRAP/x", "Host: x", "/:80@TRAP/x"},
		{"GET /cut//TRAP/x", "Host: x", none},
		{"GET /cut/%2FTRAP/x", "Host: x", none},
		{"GET /cut/.TRAP/x", "Host: x", "/.TRAP/x"},
		{"GET /cut@TRAP/x", "Host: x", none},
		{"GET /cut", "Host: x", "/"},
		{"GET /base/@TRAP/x", "Host: x", "/v2/@TRAP/x"},
		{"GET /base/../x", "Host: x", none},
		{"CONNECT TRAP", "Host: TRAP", none},
		{"CONNECT /up/x", "Host: TRAP", none},
		{"OPTIONS /up/x", "Host: TRAP", "/up/x"},
		{"TRACE /up/x", "Host: TRAP\r\nMax-Forwards: 0", none},
		{"PROPFIND /up/x", "Host: TRAP", "/up/x"},
		{"POST /up/x", "Host: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /up/hidden HTTP/1.1\r\nHost: TRAP", "/up/x"},
		{"POST /up/x", "Host: x\r\nTransfer-Encoding: xchunked", none},
	} {
		real := strings.NewReplacer("TRAP", trap)
		for _, version := range []string{"1.1", "1.0"} {
			if version == "1.0" && strings.Contains(tt.fields, "Transfer-Encoding") {
				continue // its framing is another
			}
			line := g.exchanged(t, real.Replace(tt.line)+" HTTP/"+version+"\r\n"+strings.TrimSuffix("X-API-Key: "+g.key+"\r\n"+real.Replace(tt.fields), "\r\n")+"\r\n\r\n")
			method, _, _ := strings.Cut(tt.line, " ")
			want := "up " + method + " " + real.Replace(tt.want) + " " + up
			if tt.want == none {
				want = ""
			}
			if got := seen.take(); got != want {
				t.Errorf("%q with %q, HTTP/%s: got %q, want %q; the answer was %s", tt.line, tt.fields, version, got, want, line)
			}
			if refused := line[0] == '4' || line[0] == '5'; refused != (tt.want == none) {
				t.Errorf("%q with %q, HTTP/%s: got %s", tt.line, tt.fields, version, line)
			}
		}
	}
	for _, status := range []string{"300", "301", "302", "303", "305", "307", "308"} {
		for _, method := range []string{"GET", "POST"} {
			res := g.send(t, method, "/up/x?status="+status+"&to="+trap, nil)
			if res.Status[:3] != status || res.Header.Get("Location") != "http://"+trap+"/up/inside" {
				t.Errorf("%s: got %s to %q, want it passed on", status, res.Status, res.Header.Get("Location"))
			}
			if got, want := seen.take(), "up "+method+" /up/x?status="+status+"&to="+trap+" "+up; got != want {
				t.Errorf("%s: got %q, want %q", status, got, want)
			}
		}
	}
}

// TestProxy_NowhereElseOverHTTP2 does the same in the frames of HTTP/2, whose
// fields may hold what would end a line in the request to the upstream.
func TestProxy_NowhereElseOverHTTP2(t *testing.T) {
	var seen arrivals
	inside := httptest.NewServer(seen.note("inside"))
	defer inside.Close()
	trap := inside.Listener.Addr().String()
	g := newGuarded(t, seen.note("up"), nil)
	door := g.openHTTP2(t)
	up := g.upstream.Listener.Addr().String()
	const none = ""
	for _, tt := range []struct{ method, scheme, authority, path, fields, want string }{
		{"GET", "https", "x", "/up/x", "", "/up/x"},
		{"GET", "https", "TRAP", "/up/x", "", "/up/x"},
		{"GET", "https", "", "/up/x", "host: TRAP", "/up/x"},
		{"GET", "https", "x", "/up/x", "host: TRAP", "/up/x"},
		{"GET", "https", "x", "/up/x", "host: TRAP|host: x", "/up/x"},
		{"GET", "https", "x", "/up/x", "host: TRAP|te: trailers", "/up/x"},
		{"GET", "https", "user@TRAP", "/up/x", "", none},
		{"GET", "https", "TRAP/other", "/up/x", "", none},
		{"GET", "https", "x\r\nHost: TRAP", "/up/x", "", none},
		{"GET", "http", "TRAP", "/up/x", "", "/up/x"},
		{"GET", "http://TRAP", "x", "/up/x", "", none},
		{"GET", "https", "x", "http://TRAP/up/x", "", "/up/x"},
		{"GET", "https", "x", "//TRAP/up/x", "", none},
		{"GET", "https", "x", "TRAP/up/x", "", none},
		{"GET", "https", "x", "@TRAP/up/x", "", none},
		{"GET", "https", "x", "*", "", none},
		{"GET", "https", "x", "", "", none},
		{"GET", "https", "x", "/up/x|/up/TRAP", "", none},
		{"GET", "https", "x", "/up/x y", "", none},
		{"GET", "https", "x", "/up/x HTTP/1.1\r\nHost: TRAP\r\n\r\n", "", none},
		{"GET", "https", "x", "/up/x?a HTTP/1.1\r\nHost: TRAP\r\n\r\n", "", none},
		{"GET", "https", "x", "/up/x#@TRAP/", "", none},
		{"GET", "https", "x", "/up/../TRAP", "", none},
		{"GET /up/a HTTP/1.1\r\nHost: TRAP\r\n\r\nGET", "https", "x", "/up/x", "", none},
		{"CONNECT", "", "TRAP", "", "", none},
		{"CONNECT", "https", "TRAP", "/up/x", ":protocol: websocket", none},
		{"GET", "https", "x", "/up/x", "x-a: b\r\nHost: TRAP", none},
		{"GET", "https", "x", "/up/x", "x-a: b\nHost: TRAP", none},
		{"GET", "https", "x", "/up/x", "x-a\r\nhost: TRAP", none},
		{"GET", "https", "x", "/up/x", "x-a b: c", none},
		{"GET", "https", "x", "/up/x", "X-A: upper case", none},
		{"GET", "https", "x", "/up/x", "connection: host", none},
		{"GET", "https", "x", "/up/x", "upgrade: h2c", none},
		{"GET", "https", "x", "/up/x", "transfer-encoding: chunked", none},
		{"GET", "https", "x", "/up/x", "proxy-connection: keep-alive", none},
		{"GET", "https", "x", "/up/x", "te: trailers", "/up/x"},
		{"GET", "https", "x", "/up/x", "te: gzip", none},
		{"GET", "https", "x", "/up/x", "content-length: 5", "/up/x"},
		{"POST", "https", "x", "/up/x", "content-length: 5|content-length: 0", "/up/x"},
		{"GET", "https", "x", "/up/x", "x-forwarded-host: TRAP|forwarded: host=TRAP|x-original-url: http://TRAP/|x-auth-owner: TRAP", "/up/x"},
	} {
		real := strings.NewReplacer("TRAP", trap)
		status := ask2(t, door, g.key, [][2]string{{":method", real.Replace(tt.method)}, {":scheme", real.Replace(tt.scheme)}, {":authority", real.Replace(tt.authority)}, {":path", real.Replace(tt.path)}}, real.Replace(tt.fields))
		want := "up " + tt.method + " " + real.Replace(tt.want) + " " + up
		if tt.want == none {
			want = ""
		}
		if got := seen.take(); got != want {
			t.Errorf("%+v: got %q, want %q; the answer was %s", tt, got, want, status)
		}
		if refused := status[0] != '2'; refused != (tt.want == none) {
			t.Errorf("%+v: got %s", tt, status)
		}
	}
}

// ask2 sends a request in one frame and gives the status of the answer, or how
// the stream ended without one. Of the pseudo fields those with a value are
// sent, each with "|" as two; more fields are "name: value", separated by "|".
func ask2(t *testing.T, door *httptest.Server, key string, pseudo [][2]string, more string) string {
	t.Helper()
	config := door.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	config.NextProtos, config.ServerName = []string{"h2"}, "example.com"
	c, err := tls.Dial("tcp", door.Listener.Addr().String(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, field := range pseudo {
		for value := range strings.SplitSeq(field[1], "|") {
			if value != "" {
				_ = enc.WriteField(hpack.HeaderField{Name: field[0], Value: value})
			}
		}
	}
	for field := range strings.SplitSeq(more, "|") {
		if name, value, ok := strings.Cut(field, ": "); ok {
			_ = enc.WriteField(hpack.HeaderField{Name: name, Value: value})
		}
	}
	_ = enc.WriteField(hpack.HeaderField{Name: "x-api-key", Value: key})
	f := http2.NewFramer(c, c)
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	_, _ = io.WriteString(c, http2.ClientPreface)
	_ = f.WriteSettings()
	if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true}); err != nil {
		t.Fatal(err)
	}
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			return err.Error()
		}
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			return frame.PseudoValue("status")
		case *http2.RSTStreamFrame:
			return "stream " + frame.ErrCode.String()
		case *http2.GoAwayFrame:
			return "connection " + frame.ErrCode.String()
		}
	}
}

// frames is a client that sends requests over one HTTP/2 connection.
type frames struct {
	*http2.Framer
	block bytes.Buffer
	enc   *hpack.Encoder
	last  uint32 // id of the last stream
}

// newFrames connects to a listener from openHTTP2.
func newFrames(t *testing.T, door *httptest.Server) *frames {
	t.Helper()
	config := door.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	config.NextProtos, config.ServerName = []string{"h2"}, "example.com"
	c, err := tls.Dial("tcp", door.Listener.Addr().String(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	f := &frames{Framer: http2.NewFramer(c, c)}
	f.enc, f.ReadMetaHeaders = hpack.NewEncoder(&f.block), hpack.NewDecoder(4096, nil)
	_, _ = io.WriteString(c, http2.ClientPreface)
	_ = f.WriteSettings()
	_ = f.WriteWindowUpdate(0, 1<<30)
	return f
}

// ask sends a request and returns the status of the answer, or how the stream ended without one.
func (f *frames) ask(t *testing.T, method, target, key string) string {
	t.Helper()
	f.block.Reset()
	for _, field := range [][2]string{{":method", method}, {":scheme", "https"}, {":authority", "x"}, {":path", target}, {"x-api-key", key}} {
		_ = f.enc.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]})
	}
	f.last += 2
	id := f.last - 1
	if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: f.block.Bytes(), EndStream: true, EndHeaders: true}); err != nil {
		t.Fatal(err)
	}
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			t.Fatalf("%s %q: %v", method, target, err)
		}
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			if frame.StreamID == id {
				return frame.PseudoValue("status")
			}
		case *http2.RSTStreamFrame:
			if frame.StreamID == id {
				return "stream " + frame.ErrCode.String()
			}
		}
	}
}

// TestProxy_ByteForByte sends each byte, as it is and escaped, in paths and queries: it reaches the
// upstream as it was sent or the request is refused, in the same way for both ways to the upstream and
// for both versions of HTTP.
func TestProxy_ByteForByte(t *testing.T) {
	var seen arrivals
	g := newGuarded(t, seen.note("up"), func(c *Config, url string) {
		c.Routes = append(c.Routes, RouteRow{Path: "/cut/*rest", Upstream: url + "/v2/{x}|\u00e9/", StripPrefix: "/cut", Timeout: time.Minute, Permission: []string{"can_use"}})
	})
	second := newFrames(t, g.openHTTP2(t))
	up := g.upstream.Listener.Addr().String()
	ways := map[string]func(method, target string) string{
		"HTTP/1.1": func(method, target string) string {
			line := g.raw(t, method+" "+target+" HTTP/1.1\r\nHost: x\r\nX-API-Key: <key>\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
			return strings.Split(line, " ")[1]
		},
		"HTTP/2": func(method, target string) string { return second.ask(t, method, target, g.key) },
	}
	try := func(target string, served bool) {
		t.Helper()
		for way, ask := range ways {
			for from, to := range map[string]string{"/up": "/up", "/cut": "/v2/%7Bx%7D%7C%C3%A9"} {
				for _, method := range []string{"GET", "POST"} {
					status := ask(method, from+target)
					got, want := seen.take(), ""
					if served {
						want = "up " + method + " " + to + target + " " + up
					}
					if got != want || (status == "200") != served {
						t.Errorf("%s, %s %q: got %s, and %q arrived; want %q", way, method, from+target, status, got, want)
					}
				}
			}
		}
	}
	for i := range 256 {
		raw, printable := string([]byte{byte(i)}), i > ' ' && i < 0x7f
		try("/a"+raw+"z", printable && !strings.Contains(`#;\%`, raw))
		try("/a?b"+raw+"z", (printable || i > 0x7f) && raw != "#")
		for _, form := range []string{"%%%02x", "%%%02X"} {
			escaped := fmt.Sprintf(form, i)
			try("/a"+escaped+"z", i >= ' ' && i < 0x7f && raw != "/" && raw != `\`)
			try("/a?b"+escaped+"z", true)
		}
	}
	for _, target := range []string{"/x?", "/x??", "/x?&&=%&a=1;2", "/x/", "/%7e~%7E+", "/caf\u00e9", "/caf%c3%A9/\u00e9?\u00e9", "/a%2520b", "/[x]:@!$&'()*+,=", "/?", "/?/x//y"} {
		try(target, true)
	}
}

// exchanged sends bytes to the door and gives the status line of the answer, once
// all of that has come, and where the connection ends with it once it has.
func (g *guardedApp) exchanged(t *testing.T, request string) string {
	t.Helper()
	c, err := net.Dial("tcp", g.door.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(c)
	res, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatalf("%q: %v", request, err)
	}
	defer res.Body.Close()
	_, _ = io.Copy(io.Discard, res.Body)
	if res.Close {
		_, _ = io.Copy(io.Discard, in)
	}
	return res.Status
}

// other names fields that send a request by the standard library anyway, make
// it another one, or are less than they were there: User-Agent, of which it
// passes on one that is not empty.
var other = regexp.MustCompile(`(?im)^(connection|content-length|transfer-encoding|te|trailer|expect|proxy-auth[a-z]*|x-api-key|authorization|user-agent)[ \t]*:`)

// FuzzUpstreams sends a request with any path and fields by both ways to an
// upstream that answers with any bytes: it is asked the same, and what the client
// gets of its answer is the same, or as little.
func FuzzUpstreams(f *testing.F) {
	f.Add("x?a=%20&b", "Accept: a\r\nAccept: b\r\nX_Auth_Owner: me\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	f.Add("a%20b/%41", "Cookie: a=b\r\nRange: bytes=0-1\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 7\r\nX-More: 8\r\n\r\n")
	f.Add("?", "Keep-Alive: 5\r\nForwarded: for=x\r\n", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.0 404 None\r\nConnection: X-A\r\nX-A: b\r\nX-Empty:\r\n\r\nto the end")
	f.Add("", "", "HTTP/1.1 304 Not Modified\r\nEtag: \"x\"\r\nContent-Length: 9\r\n\r\n")
	f.Add("0", "", "HTTP/1.1 200 \n\n")
	f.Add("", "X-Empty:\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nContent-Encoding: gzip\r\n\r\nhalf")
	f.Add("", "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nUpgrade: websocket\r\n", "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
	s := upstreamtest.NewScript(f)
	g := newGuarded(f, func(http.ResponseWriter, *http.Request) {}, func(c *Config, _ string) {
		c.Routes = append(c.Routes, RouteRow{Path: "/raw/*rest", Upstream: "http://" + s.Addr().String() + "/base", StripPrefix: "/raw", Timeout: time.Minute})
	})
	f.Fuzz(func(t *testing.T, path, fields, answer string) {
		if fields != "" && !strings.HasSuffix(fields, "\n") || strings.Contains(strings.ReplaceAll("\n"+fields, "\r", ""), "\n\n") || other.MatchString(fields) {
			t.Skip()
		}
		var got [2]string
		for i, way := range []string{"close", "close, X-No-Such"} {
			g.proxy.Close()
			s.Lines <- sendsLast(answer)
			got[i] = heard(t, g, "GET /raw/"+path+" HTTP/1.1\r\nHost: a.example\r\nX-API-Key: "+g.key+"\r\n"+fields+"Connection: "+way+"\r\n\r\n")
			select {
			case head := <-s.Asked:
				got[i] += "\n" + told(head)
			default:
				<-s.Lines
			}
		}
		if got[0] != got[1] {
			t.Errorf("the direct way:\n%s\nthe other:\n%s", got[0], got[1])
		}
	})
}

// heard sends a request on a connection of its own and tells of what a client
// makes of the answers, without what differs from one to the next.
func heard(t *testing.T, g *guardedApp, request string) string {
	t.Helper()
	c, err := net.Dial("tcp", g.door.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	said := ""
	for in := bufio.NewReader(c); ; {
		res, err := http.ReadResponse(in, nil)
		var body []byte
		if err == nil {
			body, err = io.ReadAll(res.Body)
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("the connection has no end: %v", err)
		}
		if err != nil { // how much has come by then is by chance
			return said + "broken off"
		}
		if strings.HasPrefix(res.Header.Get("Link"), "</errors/") {
			body = withoutID(body)
		}
		var head strings.Builder
		if res.StatusCode < 200 { // the library passes on there what is for one connection
			res.Header = http.Header{"Link": res.Header["Link"]}
		}
		if res.StatusCode != http.StatusNotModified {
			res.Header.Del("Content-Length") // by chunks or by length; the body is compared
		}
		_ = res.Header.Write(&head)
		if said += fmt.Sprintf("%s\n%s\n%q %v\n", res.Status, told("\r\n"+head.String()), body, res.Trailer); res.StatusCode >= 200 {
			return said
		}
	}
}

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
