package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"
)

// other names fields that send a request by the standard library anyway, make
// it another one, or are less than they were there: User-Agent, of which it
// passes on one that is not empty.
var other = regexp.MustCompile(`(?im)^(connection|content-length|transfer-encoding|te|trailer|upgrade|expect|proxy-auth[a-z]*|x-api-key|authorization|user-agent)[ \t]*:`)

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
	s := newScript(f)
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
			s.lines <- sendsLast(answer)
			got[i] = heard(t, g, "GET /raw/"+path+" HTTP/1.1\r\nHost: a.example\r\nX-API-Key: "+g.key+"\r\n"+fields+"Connection: "+way+"\r\n\r\n")
			select {
			case head := <-s.asked:
				got[i] += "\n" + told(head)
			default:
				<-s.lines
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
		if isLate(err) {
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
