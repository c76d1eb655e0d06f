package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
)

// An event arrives before the next is made, and the door's times cut off
// neither a long stream nor a long upload.
func TestProxy_Streams(t *testing.T) {
	next := make(chan struct{})
	g := newGuarded(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "POST" {
			n, err := io.Copy(io.Discard, r.Body)
			_, _ = fmt.Fprintf(w, "%d %v", n, err)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 3 {
			_, _ = fmt.Fprintf(w, "data: %d\n\n", i)
			_ = http.NewResponseController(w).Flush()
			<-next
		}
	}, func(c *Config, _ string) {
		c.Server.ReadTimeout, c.Server.WriteTimeout = 300*time.Millisecond, 300*time.Millisecond
	})
	res := g.send(t, "GET", "/up/events", nil)
	lines := bufio.NewReader(res.Body)
	for i := range 3 {
		if line, err := lines.ReadString('\n'); err != nil || line != fmt.Sprintf("data: %d\n", i) {
			t.Fatalf("got %q, %v", line, err)
		}
		if _, err := lines.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		if i == 1 { // longer than the door has for a whole answer
			<-time.After(700 * time.Millisecond)
		}
		next <- struct{}{}
	}
	if rest, err := io.ReadAll(lines); err != nil || len(rest) > 0 {
		t.Errorf("the end: got %q, %v", rest, err)
	}
	body, writer := io.Pipe()
	go func() {
		for range 8 {
			_, _ = writer.Write(make([]byte, 1000))
			<-time.After(100 * time.Millisecond)
		}
		_ = writer.Close()
	}()
	if got := readText(t, g.send(t, "POST", "/up/slow", body).Body); got != "8000 <nil>" {
		t.Errorf("a slow upload: got %s", got)
	}
}

// A client that falls silent in its body is cut off.
func TestProxy_SilentClient(t *testing.T) {
	g := newGuarded(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }, func(c *Config, _ string) {
		c.Server.ReadTimeout = 200 * time.Millisecond
	})
	if line := g.raw(t, "POST /up/x HTTP/1.1\r\nHost: x\r\nX-API-Key: <key>\r\nContent-Length: 10\r\n\r\nabc"); !strings.HasPrefix(line, "HTTP/1.1 408 ") {
		t.Errorf("got %s, want 408", line)
	}
}

// zeros is a body without end.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func TestProxy_LargeBodies(t *testing.T) {
	const size = 100 << 20
	var most uint64
	g := newGuarded(t, func(w http.ResponseWriter, r *http.Request) {
		buf, total := make([]byte, 64<<10), int64(0)
		for n, err := 0, error(nil); err == nil; total += int64(n) {
			n, err = r.Body.Read(buf)
			if total>>20 != (total+int64(n))>>20 && (total>>20)%10 == 0 {
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				most = max(most, m.HeapAlloc)
			}
		}
		w.Header().Set("Content-Length", strconv.Itoa(size))
		_, _ = io.CopyN(w, zeros{}, total)
	}, func(c *Config, url string) {
		c.Routes = append(c.Routes, RouteRow{Path: "/small", Upstream: url, MaxBodyBytes: 1000})
	})
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	res := g.send(t, "PUT", "/up/x", io.LimitReader(zeros{}, size))
	if n, err := io.Copy(io.Discard, res.Body); n != size || err != nil {
		t.Errorf("got %d bytes, %v; want %d", n, err, size)
	}
	if most > m.HeapAlloc+32<<20 {
		t.Errorf("the heap went from %d to %d MB", m.HeapAlloc>>20, most>>20)
	}
	for _, body := range []io.Reader{strings.NewReader(strings.Repeat("x", 1001)), io.LimitReader(zeros{}, 100_000)} { // of a known length and not
		res := g.send(t, "PUT", "/small", body)
		if b := readText(t, res.Body); res.StatusCode != 413 || !strings.Contains(b, "1000 bytes") {
			t.Errorf("got %d %s, want 413", res.StatusCode, b)
		}
	}
}

func TestProxy_Trailers(t *testing.T) {
	g := newGuarded(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Trailer", "X-Sum")
		_, _ = fmt.Fprintf(w, "%s|%s|%s", r.Trailer.Get("X-Digest"), r.Trailer.Get("X-Auth-Key-Id"), r.Header.Get("X-Auth-Key-Id")[:4])
		w.Header().Set("X-Sum", "42")
	}, nil)
	r, err := http.NewRequest("POST", g.door.URL+"/up/x", io.LimitReader(zeros{}, 10_000))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-API-Key", g.key)
	r.Trailer = http.Header{"X-Digest": {"abc"}, "X-Auth-Key-Id": {"key_forged"}}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if got := readText(t, res.Body); got != "abc||key_" {
		t.Errorf("the upstream got %s", got)
	}
	if res.Trailer.Get("X-Sum") != "42" {
		t.Errorf("the client got the trailer %v", res.Trailer)
	}
}

// TestProxy_WebSocket upgrades a connection (RFC 6455) and talks over it.
func TestProxy_WebSocket(t *testing.T) {
	g := newGuarded(t, func(w http.ResponseWriter, r *http.Request) {
		sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		_, _ = fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\nX-Saw: %s\r\n\r\n",
			base64.StdEncoding.EncodeToString(sum[:]), r.Header.Get("X-Auth-Permissions"))
		_, _ = io.Copy(c, rw) // an echo
	}, func(c *Config, _ string) {
		c.Server.ReadTimeout, c.Server.WriteTimeout = 200*time.Millisecond, 200*time.Millisecond
	})
	c, err := net.Dial("tcp", g.door.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = fmt.Fprintf(c, "GET /up/ws HTTP/1.1\r\nHost: x\r\nX-API-Key: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", g.key)
	in := bufio.NewReader(c)
	res, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != 101 || res.Header.Get("Sec-WebSocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" || res.Header.Get("X-Saw") != "can_use" {
		t.Fatalf("got %d %v", res.StatusCode, res.Header)
	}
	for i := range 3 {
		frame := []byte{0x81, 0x82, 1, 2, 3, 4, 'h' ^ 1, 'i' ^ 2}
		if _, err := c.Write(frame); err != nil {
			t.Fatal(err)
		}
		back := make([]byte, len(frame))
		if _, err := io.ReadFull(in, back); err != nil || !bytes.Equal(back, frame) {
			t.Fatalf("message %d: got %v, %v", i, back, err)
		}
		if i == 1 {
			<-time.After(500 * time.Millisecond) // longer than the door's times
		}
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); !strings.Contains(g.log.String(), `"status":101`); <-time.After(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the log has no line for it: %s", g.log)
		}
	}
}

// A client that goes away ends the upstream's work.
func TestProxy_Cancel(t *testing.T) {
	began, ended := make(chan struct{}), make(chan struct{})
	g := newGuarded(t, func(w http.ResponseWriter, r *http.Request) {
		close(began)
		<-r.Context().Done()
		close(ended)
	}, nil)
	ctx, cancel := context.WithCancel(context.Background())
	r, err := http.NewRequestWithContext(ctx, "GET", g.door.URL+"/up/x", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-API-Key", g.key)
	go func() {
		<-began
		cancel()
	}()
	if _, err := http.DefaultClient.Do(r); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	<-ended
}
