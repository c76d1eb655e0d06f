//go:build unix

package upstream

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"latchkey/internal/upstream/upstreamtest"
)

// framedAsk returns a way to send requests through a Framed and the Framed.
func newTestFramed(t *testing.T) Framed {
	f := NewFramed(&http.Transport{MaxIdleConnsPerHost: 10}, nil)
	t.Cleanup(f.CloseIdleConnections)
	return f
}

// roundTrip sends a request and returns the body of the answer.
func roundTrip(t *testing.T, f Framed, method string, s *upstreamtest.Script) (string, error) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "http://"+s.Addr().String()+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := f.RoundTrip(r)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return string(b), err
}

// What an upstream sends beyond an answer reaches nobody, by either way, however late it comes.
// After an answer without a body the next request may follow at once; after others it follows once
// the excess has arrived, because earlier nobody can tell the two apart.
func TestUpstreams_Excess(t *testing.T) {
	const stolen = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstolen"
	ways := map[string]func(t *testing.T, s *upstreamtest.Script) func(method string) (string, error){
		"Pool": func(t *testing.T, s *upstreamtest.Script) func(string) (string, error) {
			u := &Pool{}
			t.Cleanup(u.Close)
			return func(method string) (string, error) { return askUpstream(t, u, s, method, time.Minute) }
		},
		"Framed": func(t *testing.T, s *upstreamtest.Script) func(string) (string, error) {
			f := newTestFramed(t)
			return func(method string) (string, error) { return roundTrip(t, f, method, s) }
		},
	}
	for name, tt := range map[string]struct {
		method, answer, want string
		atOnce               bool // the connection is not kept, so the next request may follow at once
	}{
		"HEAD":                    {"HEAD", okAnswer[:len(okAnswer)-2], "", true},
		"HEAD, chunked":           {"HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "", true},
		"HEAD, no length":         {"HEAD", "HTTP/1.1 200 OK\r\n\r\n", "", true},
		"204":                     {"GET", "HTTP/1.1 204 No Content\r\n\r\n", "", true},
		"204 with a length":       {"GET", "HTTP/1.1 204 No Content\r\nContent-Length: 45\r\n\r\n", "", true},
		"204, chunked":            {"GET", "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", "", true},
		"205":                     {"GET", "HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n", "", true},
		"304":                     {"GET", "HTTP/1.1 304 Not Modified\r\n\r\n", "", true},
		"304 with a length":       {"GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 45\r\n\r\n", "", true},
		"304, chunked":            {"GET", "HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", "", true},
		"304 to OPTIONS":          {"OPTIONS", "HTTP/1.1 304 Not Modified\r\n\r\n", "", true},
		"HTTP/1.0":                {"GET", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok", "ok", true},
		"Connection: close":       {"GET", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", "ok", true},
		"after 103 with a length": {"GET", "HTTP/1.1 103 Early Hints\r\nContent-Length: 45\r\n\r\n" + okAnswer, "ok", true},
		"a length":                {"GET", okAnswer, "ok", false},
		"a length of 0":           {"GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "", false},
		"chunked":                 {"GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", "ok", false},
		"chunked with a trailer":  {"GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x\r\nok\r\n0\r\nA: b\r\n\r\n", "ok", false},
		"after 103":               {"GET", "HTTP/1.1 103 Early Hints\r\n\r\n" + okAnswer, "ok", false},
	} {
		for way, open := range ways {
			for _, late := range []time.Duration{0, time.Millisecond, 50 * time.Millisecond, 500 * time.Millisecond} {
				t.Run(fmt.Sprint(name, "/", way, "/", late), func(t *testing.T) {
					t.Parallel()
					answer := tt.answer
					if late == 0 { // in one segment with the answer
						answer += stolen
					}
					sent := make(chan bool, 1)
					s := upstreamtest.NewScript(t, func(c net.Conn) {
						upstreamtest.Sends(answer)(c)
						time.AfterFunc(late, func() {
							if late > 0 {
								upstreamtest.Sends(stolen)(c)
							}
							sent <- true
						})
					}, upstreamtest.Sends(okAnswer), upstreamtest.Sends(okAnswer), upstreamtest.Sends(okAnswer))
					ask := open(t, s)
					if got, err := ask(tt.method); got != tt.want || err != nil {
						t.Fatalf("the first got %q, %v; want %q", got, err, tt.want)
					}
					if !tt.atOnce {
						<-sent
						<-time.After(20 * time.Millisecond) // until it has arrived
					}
					for range 2 {
						if got, err := ask("GET"); got != "ok" || err != nil {
							t.Errorf("the next got %q, %v", got, err)
						}
					}
				})
			}
		}
	}
}

// A connection of Framed serves one request after the other if its answers say where they end.
func TestFramed_Reuse(t *testing.T) {
	for name, answer := range map[string]string{
		"a length":      okAnswer,
		"a length of 0": "HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n",
		"chunked":       "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
		"early hints":   "HTTP/1.1 103 Early Hints\r\n\r\n" + okAnswer,
		"large":         "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + strings.Repeat("x", 100000),
		"large chunks":  "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("y", 10000) + "\r\nTransfer-Encoding: chunked\r\n\r\n4e20\r\n" + strings.Repeat("x", 20000) + "\r\n0\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			var conns []net.Conn
			note := func(c net.Conn) {
				conns = append(conns, c)
				upstreamtest.Sends(answer)(c)
			}
			s := upstreamtest.NewScript(t, note, note, note)
			f := newTestFramed(t)
			for range 3 {
				got, err := roundTrip(t, f, "OPTIONS", s)
				if err != nil || len(got) != len(strings.Trim(got, "\r\n")) || strings.Contains(answer, "ok") && got != "ok" {
					t.Fatalf("got %d bytes %.20q, %v", len(got), got, err)
				}
			}
			if len(slices.Compact(conns)) != 1 {
				t.Errorf("got %d connections, want 1", len(conns))
			}
		})
	}
}

// Over TLS, Framed speaks HTTP/2 or HTTP/1.1, as the upstream wants.
func TestFramed_TLS(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		up := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			_, _ = fmt.Fprint(w, r.ProtoMajor, " ", string(b))
		}))
		up.EnableHTTP2 = http2
		up.StartTLS()
		defer up.Close()
		f := NewFramed(&http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: up.Client().Transport.(*http.Transport).TLSClientConfig.Clone()}, nil)
		defer f.CloseIdleConnections()
		for range 3 {
			r, err := http.NewRequest("POST", up.URL, strings.NewReader("body"))
			if err != nil {
				t.Fatal(err)
			}
			res, err := f.RoundTrip(r)
			if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(res.Body)
			_ = res.Body.Close()
			if want := map[bool]string{false: "1 body", true: "2 body"}[http2]; string(b) != want || err != nil {
				t.Errorf("got %q, %v; want %q", b, err, want)
			}
		}
	}
}
