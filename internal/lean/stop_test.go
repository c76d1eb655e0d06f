package lean

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// start serves h over TCP. change may be nil.
func start(t testing.TB, h http.HandlerFunc, change func(*http.Server)) (s *Server, address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	web := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute, ReadTimeout: time.Minute, WriteTimeout: time.Minute, IdleTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0)}
	if change != nil {
		change(web)
	}
	s = New(web)
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }()
	t.Cleanup(func() {
		_ = l.Close()
		if err := <-ended; !errors.Is(err, net.ErrClosed) {
			t.Errorf("Serve: got %v", err)
		}
		if err := s.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		_ = web.Close()
	})
	return s, l.Addr().String()
}

// dial opens a connection that does not block the test for ever.
func dial(t testing.TB, address string) (net.Conn, *bufio.Reader) {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	return c, bufio.NewReader(c)
}

// send sends a text.
func send(t testing.TB, c net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
}

// receive reads an answer with its body.
func receive(t testing.TB, b *bufio.Reader) (*http.Response, string) {
	t.Helper()
	r, err := http.ReadResponse(b, nil)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r, string(body)
}

const one = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"

// The context of a request ends with its client, whether the handler waits for that or asks now and
// then, and when the handler returns.
func TestContext_End(t *testing.T) {
	for _, how := range []string{"Done", "Err", "WithTimeout"} {
		ended, began, after := make(chan error, 1), make(chan bool, 1), make(chan context.Context, 1)
		_, address := start(t, func(w http.ResponseWriter, r *http.Request) {
			if _, ok := w.(*response); !ok {
				t.Error("net/http served the request")
			}
			if r.URL.Path == "/short" {
				ctx, cancel := context.WithCancel(r.Context())
				t.Cleanup(cancel)
				after <- ctx
				return
			}
			began <- true
			ctx := r.Context()
			if how == "WithTimeout" {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, time.Minute)
				defer cancel()
			}
			if how == "Err" {
				for ctx.Err() == nil {
					time.Sleep(time.Millisecond)
				}
			} else {
				<-ctx.Done()
			}
			ended <- ctx.Err()
		}, nil)
		c, b := dial(t, address)
		for range 2 { // the connection is of use after a context has been watched
			send(t, c, "GET /short HTTP/1.1\r\nHost: x\r\n\r\n")
			receive(t, b)
			<-(<-after).Done()
		}
		send(t, c, one)
		<-began
		_ = c.Close()
		if err := <-ended; err != context.Canceled {
			t.Errorf("%s: got %v, want context.Canceled", how, err)
		}
	}
}

// A request whose first bytes have arrived is answered, however the server stops; a connection that
// waits is closed; no goroutine and no connection is left.
func TestServer_Shutdown(t *testing.T) {
	release := make(chan bool)
	var inside atomic.Int32
	s, address := start(t, func(w http.ResponseWriter, r *http.Request) {
		inside.Add(1)
		if r.URL.Path == "/slow" {
			<-release
		}
		_, _ = io.WriteString(w, "answer")
	}, nil)
	idle, idleReader := dial(t, address)
	send(t, idle, one)
	receive(t, idleReader)
	busy, busyReader := dial(t, address)
	send(t, busy, "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
	odd, oddReader := dial(t, address)
	send(t, odd, "GET /slow HTTP/1.1\nHost: x\n\n") // net/http serves it
	fresh, freshReader := dial(t, address)
	for inside.Load() < 3 {
		time.Sleep(time.Millisecond)
	}
	s.Drain()
	if n, err := idleReader.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("the connection that waited: got %d bytes, %v; want its end", n, err)
	}
	send(t, fresh, one)
	if r, body := receive(t, freshReader); body != "answer" || !r.Close {
		t.Errorf("a first request after Drain: got %q, close %v", body, r.Close)
	}
	_, silentReader := dial(t, address)
	close(release)
	for _, b := range []*bufio.Reader{busyReader, oddReader} {
		if r, body := receive(t, b); body != "answer" {
			t.Errorf("got %s %q, want the answer", r.Status, body)
		}
	}
	if err := s.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
	if n, err := silentReader.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("a connection without a request: got %d bytes, %v; want its end", n, err)
	}
	if len(s.conns) != 0 {
		t.Errorf("%d connections are left", len(s.conns))
	}
}

// Clients that send one request after the other while the server stops lose none: each request is
// answered, or its connection has ended after an answer that said so.
func TestServer_ShutdownUnderLoad(t *testing.T) {
	s, address := start(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "answer") }, nil)
	var all sync.WaitGroup
	var answered atomic.Int64
	for range 8 {
		c, b := dial(t, address)
		all.Go(func() {
			for {
				if _, err := io.WriteString(c, one+one+one); err != nil {
					return
				}
				for i := range 3 {
					r, err := http.ReadResponse(b, nil)
					if err != nil {
						if i > 0 {
							t.Errorf("after %d of three answers that did not say close: %v", i, err)
						}
						return
					}
					_, _ = io.Copy(io.Discard, r.Body)
					answered.Add(1)
					if r.Close {
						return
					}
				}
			}
		})
	}
	for answered.Load() < 200 {
		time.Sleep(time.Millisecond)
	}
	s.Drain()
	if err := s.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
	all.Wait()
}

// Shutdown does not wait longer than its context.
func TestServer_ShutdownEnds(t *testing.T) {
	began := make(chan bool)
	s, address := start(t, func(w http.ResponseWriter, r *http.Request) {
		began <- true
		<-r.Context().Done()
	}, nil)
	c, _ := dial(t, address)
	send(t, c, one)
	<-began
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := s.Shutdown(ctx); err != context.DeadlineExceeded {
		t.Errorf("got %v", err)
	}
}

// Clients that are too slow lose their connection, and those that do not read do not hold the
// handler for ever.
func TestServer_Deadlines(t *testing.T) {
	wrote := make(chan error, 1)
	_, address := start(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/endless" {
			return
		}
		for {
			if _, err := w.Write(make([]byte, 1<<16)); err != nil {
				wrote <- err
				return
			}
		}
	}, func(s *http.Server) {
		s.ReadHeaderTimeout, s.IdleTimeout, s.WriteTimeout = 50*time.Millisecond, 50*time.Millisecond, 50*time.Millisecond
	})
	for _, text := range []string{"", "GET", "GET / HTTP/1.1\r\nHo", one, one + "GE", one + "GET / HTTP/1.1\r\nHost: x\r\n"} {
		c, b := dial(t, address)
		send(t, c, text)
		if _, err := io.Copy(io.Discard, b); err != nil {
			t.Errorf("%q: got %v, want the end of the connection", text, err)
		}
	}
	c, _ := dial(t, address)
	send(t, c, "GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")
	if err := <-wrote; err == nil {
		t.Error("want an error of Write")
	}
}

// A client that sends its head byte after byte has no more time than others.
func TestServer_Drip(t *testing.T) {
	_, address := start(t, func(http.ResponseWriter, *http.Request) { t.Error("the request was served") }, func(s *http.Server) { s.ReadHeaderTimeout = 100 * time.Millisecond })
	c, b := dial(t, address)
	ended := make(chan bool)
	go func() {
		defer close(ended)
		_, _ = io.Copy(io.Discard, b)
	}()
	for sent := 0; ; sent++ {
		select {
		case <-ended:
			return
		case <-time.After(time.Millisecond):
			if sent > bufferSize/2 {
				t.Fatalf("the server has taken %d bytes, want the end after 100 ms", sent)
			}
			_, _ = io.WriteString(c, "G") // a method of any length
		}
	}
}

// A request that no other protocol follows cannot be hijacked.
func TestResponse_Hijack(t *testing.T) {
	_, address := start(t, func(w http.ResponseWriter, r *http.Request) {
		if _, _, err := http.NewResponseController(w).Hijack(); !errors.Is(err, http.ErrNotSupported) {
			t.Errorf("got %v, want http.ErrNotSupported", err)
		}
	}, nil)
	c, b := dial(t, address)
	send(t, c, one)
	receive(t, b)
}

// A panic is logged as net/http does, answers before it are sent, and the connection is closed.
func TestServer_Panic(t *testing.T) {
	var text bytes.Buffer
	_, address := start(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/panic" {
			_, _ = io.WriteString(w, "half")
			panic("on purpose")
		}
	}, func(s *http.Server) { s.ErrorLog = log.New(&text, "", 0) })
	c, b := dial(t, address)
	send(t, c, one+"GET /panic HTTP/1.1\r\nHost: x\r\n\r\n"+one)
	receive(t, b)
	if rest, err := io.ReadAll(b); len(rest) != 0 || err != nil {
		t.Errorf("got %q, %v; want the end of the connection", rest, err)
	}
	if !strings.Contains(text.String(), "http: panic serving "+c.LocalAddr().String()+": on purpose\n") {
		t.Errorf("got log %q", text.String())
	}
}

// Answers to requests that were sent ahead leave in one write, and in order.
func TestServer_Pipelining(t *testing.T) {
	_, address := start(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.URL.RawQuery) }, nil)
	c, b := dial(t, address)
	var text strings.Builder
	for i := range 100 {
		text.WriteString("GET /?" + strings.Repeat("x", i) + " HTTP/1.1\r\nHost: x\r\n\r\n")
	}
	send(t, c, text.String())
	for i := range 100 {
		if _, body := receive(t, b); body != strings.Repeat("x", i) {
			t.Fatalf("answer %d: got %q", i, body)
		}
	}
}

// A request with the same head as the one before needs no memory of its own.
func TestServer_Memory(t *testing.T) {
	most := 0.0
	if raceDetector {
		most = 4 // a sync.Pool then drops some of its buffers
	}
	question, answer, buffer := []byte(one), []byte("answer"), make([]byte, 4096)
	_, address := start(t, func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write(answer) }, nil)
	c, _ := dial(t, address)
	if n := testing.AllocsPerRun(1000, func() {
		if _, err := c.Write(question); err != nil {
			t.Fatal(err)
		}
		if n, err := c.Read(buffer); n == 0 || err != nil {
			t.Fatal(err)
		}
	}); n > most {
		t.Errorf("got %v allocations for a request, want at most %v", n, most)
	}
}

// Connections use the same memory in turn, and each request has what belongs to its connection. An idle
// connection has no memory for requests.
func TestServer_SharedMemory(t *testing.T) {
	type key struct{}
	s, address := start(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		_, _ = fmt.Fprintf(w, "%v %s %s %q %d", r.Context().Value(key{}), r.RemoteAddr, r.Header.Get("X-One"), body, len(r.Header))
	}, func(h *http.Server) {
		h.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, key{}, c.RemoteAddr())
		}
	})
	var conns []net.Conn
	var buffers []*bufio.Reader
	for range 10 {
		c, b := dial(t, address)
		conns, buffers = append(conns, c), append(buffers, b)
	}
	for round := range 10 {
		for i, c := range conns {
			own := c.LocalAddr().String()
			question, want := "GET / HTTP/1.1\r\nHost: x\r\nX-One: "+own+"\r\n\r\n", fmt.Sprintf("%s %s %s \"\" 1", own, own, own)
			if (round+i)%3 == 0 {
				question, want = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", own+" "+own+"  \"abc\" 1"
			}
			send(t, c, question)
			if _, got := receive(t, buffers[i]); got != want {
				t.Fatalf("got %q, want %q", got, want)
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		for !c.waiting.Load() {
			runtime.Gosched()
		}
		if c.slot != nil || c.out != nil {
			t.Error("an idle connection has memory for requests")
		}
	}
}

// Whatever arrives while a request is read or answered is noticed: the next request, and the end of
// the stream. No read finds nothing, so nothing but the poller reports it.
func TestServer_ArrivesMeanwhile(t *testing.T) {
	began, release := make(chan bool), make(chan bool)
	_, address := start(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			began <- true
			<-release
		}
		_, _ = io.WriteString(w, "answer")
	}, nil)
	end := func(c net.Conn) { _ = c.(*net.TCPConn).CloseWrite() }
	wantEnd := func(b *bufio.Reader, when string) {
		t.Helper()
		if n, err := b.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Fatalf("%s: got %d bytes, %v; want the end of the connection", when, n, err)
		}
	}
	for range 100 {
		c, b := dial(t, address)
		send(t, c, one)
		end(c)
		receive(t, b)
		wantEnd(b, "the end behind a request")
		c, b = dial(t, address)
		send(t, c, one)
		receive(t, b)
		end(c)
		wantEnd(b, "the end behind an answer")
		for _, when := range []string{"a request", "the end"} {
			c, b = dial(t, address)
			send(t, c, "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
			<-began
			if when == "a request" {
				send(t, c, one)
			} else {
				end(c)
			}
			release <- true
			receive(t, b)
			if when == "a request" {
				receive(t, b)
				end(c)
			}
			wantEnd(b, when+" while the handler runs")
		}
	}
}

// Lines of fields are sent with their answer alone.
func TestResponse_FieldLines(t *testing.T) {
	_, address := start(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/lines" {
			lines := w.(*response)
			lines.SetFieldLines(append(lines.FieldLines(), "X-One: 1\r\nX-Two: 2\r\n"...))
		}
		w.Header().Set("X-Three", "3")
	}, nil)
	c, b := dial(t, address)
	for _, path := range []string{"/lines", "/", "/lines"} {
		send(t, c, "GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\n")
		r, _ := receive(t, b)
		want := ""
		if path == "/lines" {
			want = "12"
		}
		if got := r.Header.Get("X-One") + r.Header.Get("X-Two"); got != want || r.Header.Get("X-Three") != "3" || r.Header.Get("Date") == "" {
			t.Errorf("%s: got %v, want %q", path, r.Header, want)
		}
	}
}
