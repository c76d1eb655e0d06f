//go:build unix

package upstream

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"latchkey/internal/upstream/upstreamtest"
)

var sends, sendsLast = upstreamtest.Sends, upstreamtest.SendsLast

// askUpstream sends a request of a method and gives the body of the answer.
func askUpstream(t testing.TB, u *Pool, s *upstreamtest.Script, method string, wait time.Duration) (string, error) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.(*testing.T).Context(), method, "/", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := u.RoundTrip(r, Call{Host: s.Addr().String(), Head: []byte(method + " / HTTP/1.1\r\nHost: x\r\n\r\n"), Timeout: wait, Hint: func(*http.Response) {}})
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return string(b), err
}

func idleUpstreams(u *Pool) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	n := 0
	for _, list := range u.idle {
		n += len(list)
	}
	return n
}

const okAnswer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

// What the upstream sends beyond an answer, at once or later, reaches nobody:
// it would be taken for the answer to another's request.
func TestUpstreams_Unasked(t *testing.T) {
	const stolen = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstolen"
	sent := make(chan bool)
	for name, tt := range map[string]struct {
		method string
		first  func(net.Conn)
		want   string
	}{
		"with the answer":             {"GET", sends(okAnswer + stolen), "ok"},
		"after a body to HEAD":        {"HEAD", sends(okAnswer), ""},
		"after an answer without one": {"GET", sends("HTTP/1.1 204 No Content\r\n\r\n" + stolen), ""},
		"after the last chunk":        {"GET", sends("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n" + stolen), "ok"},
		"later": {"GET", func(c net.Conn) {
			sends(okAnswer)(c)
			go func() {
				<-sent
				sends(stolen)(c)
				sent <- true
			}()
		}, "ok"},
	} {
		t.Run(name, func(t *testing.T) {
			var u Pool
			defer u.Close()
			s := upstreamtest.NewScript(t, tt.first, sends(okAnswer))
			if got, err := askUpstream(t, &u, s, tt.method, time.Minute); got != tt.want || err != nil {
				t.Errorf("the first got %q, %v", got, err)
			}
			if name == "later" {
				if idleUpstreams(&u) != 1 {
					t.Fatal("the connection was not kept")
				}
				sent <- true
				<-sent
				arrived(t, &u)
			}
			if got, err := askUpstream(t, &u, s, "GET", time.Minute); got != "ok" || err != nil {
				t.Errorf("the second got %q, %v", got, err)
			}
		})
	}
}

// arrived waits until the idle connection has something to be read.
func arrived(t *testing.T, u *Pool) {
	t.Helper()
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, list := range u.idle {
		if err := list[0].raw.Read(func(fd uintptr) bool { return readable(fd) }); err != nil {
			t.Fatal(err)
		}
	}
}

// readable reports whether a connection has something to be read, or has ended.
func readable(fd uintptr) bool {
	n, _, err := unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK)
	return err != unix.EAGAIN && n >= 0
}

// A connection serves one request after the other; one that the upstream has
// closed meanwhile is no error, also if that is seen only after the request.
func TestUpstreams_Kept(t *testing.T) {
	var u Pool
	defer u.Close()
	s := upstreamtest.NewScript(t, sends(okAnswer), sends("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"), sends(okAnswer),
		sendsLast(""), sends(okAnswer), sendsLast("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nto the end"), sendsLast("HTTP/1.0 200 OK\r\n\r\nold"), sends(okAnswer))
	for i, want := range []string{"ok", "ok", "ok", "ok", "to the end", "old", "ok"} {
		if got, err := askUpstream(t, &u, s, "GET", time.Minute); got != want || err != nil {
			t.Errorf("%d: got %q, %v, want %q", i, got, err, want)
		}
		kept := 1
		if want == "to the end" || want == "old" {
			kept = 0
		}
		if n := idleUpstreams(&u); n != kept {
			t.Errorf("%d: %d connections are kept, want %d", i, n, kept)
		}
	}
	if n := len(s.Asked); n != 8 {
		t.Errorf("the upstream was asked %d times, want 8: once more for the connection that it closed", n)
	}
}

func TestUpstreams_Errors(t *testing.T) {
	silence := func(net.Conn) {}
	for name, tt := range map[string]struct {
		answer func(net.Conn)
		want   string
	}{
		"nothing, on a new connection": {sendsLast(""), "EOF"},
		"no HTTP":                      {sendsLast("SMTP says hello\r\n\r\n"), "malformed HTTP"},
		"silence":                      {silence, "i/o timeout"},
		"silence within the header":    {sends("HTTP/1.1 200 OK\r\nContent-"), "i/o timeout"},
		"silence after early hints":    {sends("HTTP/1.1 103 Early Hints\r\n\r\n"), "i/o timeout"},
		"the end within the header":    {sendsLast("HTTP/1.1 200 OK\r\nContent-"), "unexpected EOF"},
		"the end within the body":      {sendsLast("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok"), "unexpected EOF"},
		"the end within the chunks":    {sendsLast("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n"), "unexpected EOF"},
		"another protocol":             {sends("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"), "status 101"},
		"no status":                    {sends("HTTP/1.1 007 Bond\r\n\r\n"), "status 7"},
		"two lengths":                  {sends("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok"), "Content-Length"},
		"endless hints": {func(c net.Conn) {
			hint := "HTTP/1.1 103 Early Hints\r\nLink: " + strings.Repeat("x", 60_000) + "\r\n\r\n"
			for range 200 {
				sends(hint)(c)
			}
		}, "larger than 10485760 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			var u Pool
			defer u.Close()
			s := upstreamtest.NewScript(t, tt.answer)
			wait := time.Minute
			if strings.HasPrefix(name, "silence") {
				wait = 50 * time.Millisecond
			}
			got, err := askUpstream(t, &u, s, "GET", wait)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %q, %v, want %s", got, err, tt.want)
			}
			if n := len(s.Asked); n != 1 {
				t.Errorf("the upstream was asked %d times", n)
			}
			if idleUpstreams(&u) != 0 {
				t.Error("the connection is kept")
			}
		})
	}
}

// The end of a request ends the wait for its answer and for its body.
func TestUpstreams_Cancel(t *testing.T) {
	for name, answer := range map[string]string{"no answer": "", "half a header": "HTTP/1.1 200 OK\r\n", "half a body": "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"} {
		t.Run(name, func(t *testing.T) {
			var u Pool
			defer u.Close()
			gone := make(chan error)
			s := upstreamtest.NewScript(t, func(c net.Conn) {
				sends(answer)(c)
				_, err := c.Read(make([]byte, 1))
				gone <- err
			})
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			r, err := http.NewRequestWithContext(ctx, "GET", "/", nil)
			if err != nil {
				t.Fatal(err)
			}
			go func() {
				<-s.Asked
				<-time.After(3 * briefly) // by then it waits for longer
				cancel()
			}()
			res, err := u.RoundTrip(r, Call{Host: s.Addr().String(), Head: []byte("GET / HTTP/1.1\r\n\r\n")})
			if name == "half a body" {
				if err != nil {
					t.Fatal(err)
				}
				defer res.Body.Close()
				if _, err := io.ReadAll(res.Body); err == nil {
					t.Error("half a body was taken for the whole")
				}
			} else if !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
			if err := <-gone; err == nil {
				t.Error("the upstream still has its connection")
			}
			if idleUpstreams(&u) != 0 {
				t.Error("the connection is kept")
			}
		})
	}
}

// Idle connections are let go of by age, by the upstream's end, and by Close,
// which also ends those that come back later.
func TestUpstreams_Idle(t *testing.T) {
	var u Pool
	conns := make(chan net.Conn, 3)
	keep := func(c net.Conn) {
		sends(okAnswer)(c)
		conns <- c
	}
	s := upstreamtest.NewScript(t, keep, keep, keep)
	ask := func() net.Conn {
		t.Helper()
		if got, err := askUpstream(t, &u, s, "GET", time.Minute); got != "ok" || err != nil {
			t.Fatalf("got %q, %v", got, err)
		}
		return <-conns
	}
	c := ask()
	u.drop(time.Now().Add(-idleTime))
	if n := idleUpstreams(&u); n != 1 || u.timer == nil {
		t.Fatalf("%d are kept, timer %v", n, u.timer)
	}
	_ = c.Close()
	arrived(t, &u)
	u.drop(time.Now().Add(-idleTime))
	if n := idleUpstreams(&u); n != 0 || u.timer != nil {
		t.Fatalf("closed by the upstream: %d are kept, timer %v", n, u.timer)
	}
	ask()
	u.drop(time.Now())
	if n := idleUpstreams(&u); n != 0 {
		t.Fatalf("after its time: %d are kept", n)
	}
	u.Close()
	ask()
	if n := idleUpstreams(&u); n != 0 {
		t.Errorf("after Close: %d are kept", n)
	}
}

// A request is not sent again once its answer has begun, be it by one byte: the
// upstream has read it.
func TestUpstreams_BegunAnswerIsFinal(t *testing.T) {
	for name, last := range map[string]func(net.Conn){
		"at once": upstreamtest.SendsLast("H"),
		"late": func(c net.Conn) {
			<-time.After(3 * briefly) // so that the request waits for longer
			upstreamtest.SendsLast("H")(c)
		},
	} {
		t.Run(name, func(t *testing.T) {
			var u Pool
			defer u.Close()
			s := upstreamtest.NewScript(t, upstreamtest.Sends(okAnswer), last, upstreamtest.Sends(okAnswer))
			if got, err := askUpstream(t, &u, s, "GET", time.Minute); got != "ok" || err != nil {
				t.Fatalf("the first got %q, %v", got, err)
			}
			if got, err := askUpstream(t, &u, s, "GET", time.Minute); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("got %q, %v; want %v", got, err, io.ErrUnexpectedEOF)
			}
			if n := len(s.Asked); n != 2 {
				t.Errorf("the upstream was asked %d times, want 2", n)
			}
		})
	}
}

// A request is sent as a whole although the system takes only a part of it at once, and although the
// first deadline has passed before.
func TestPool_SendsAll(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				in := bufio.NewReaderSize(conn, 1<<20)
				for {
					n, line := 0, ""
					for line != "\r\n" {
						if line, err = in.ReadString('\n'); err != nil {
							return
						}
						n += len(line)
					}
					text := strconv.Itoa(n)
					_, _ = fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(text), text)
				}
			}()
		}
	}()
	var p Pool
	defer p.Close()
	r := httptest.NewRequest("GET", "/", nil)
	small := "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
	large := "GET / HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 16<<20) + "\r\n\r\n"
	for _, late := range []bool{false, true} {
		for _, head := range []string{small, large, small} {
			c, err := p.take(t.Context(), l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			if c.asked = time.Now(); late {
				c.asked = c.asked.Add(-time.Minute)
			}
			c.until, c.slow, c.context, c.ends = time.Now().Add(time.Minute), false, nil, nil
			res, err := c.ask(r, []byte(head), nil)
			if err != nil {
				t.Fatalf("late %v, %d bytes: %v", late, len(head), err)
			}
			p.lend(c, res, l.Addr().String())
			body, err := io.ReadAll(res.Body)
			if string(body) != strconv.Itoa(len(head)) || err != nil {
				t.Errorf("late %v: got %q, %v; want %d", late, body, err, len(head))
			}
		}
	}
}

// A connection whose time has passed while the process did not run is tried again, and no other. So is a TLS handshake.
func TestConnect_Stopped(t *testing.T) {
	timeout := &net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded}
	refused := &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	for _, tt := range []struct {
		name  string
		took  time.Duration // of each attempt
		errs  []error       // of the attempts; the last one is the result
		tries int
	}{
		{"in time", dialTime, []error{timeout}, 1},
		{"noticed late", dialTime + 4*time.Second, []error{timeout, timeout, timeout}, 3},
		{"noticed late, then opened", dialTime + 4*time.Second, []error{timeout, nil}, 2},
		{"handshake", dialTime + 4*time.Second, []error{context.DeadlineExceeded, nil}, 2},
		{"refused late", dialTime + 4*time.Second, []error{refused}, 1},
		{"opened late", dialTime + 4*time.Second, []error{nil}, 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			tries := 0
			_, err := connect(t.Context(), func(context.Context) (net.Conn, error) {
				time.Sleep(tt.took)
				tries++
				return nil, tt.errs[tries-1]
			})
			if err != tt.errs[tt.tries-1] || tries != tt.tries {
				t.Errorf("%s: got %v after %d attempts, want %d", tt.name, err, tries, tt.tries)
			}
		})
	}
}
