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
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"latchkey/internal/upstream/upstreamtest"
)

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

// switching is an upstream that takes every offer of another protocol. What is
// said in it goes to the address, or back where that is "". offers are the
// Upgrade, HTTP2-Settings and Connection fields of the requests that it gets.
func switching(t *testing.T, address string, offers chan<- string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		offers <- fmt.Sprint(r.Header["Upgrade"], r.Header["Http2-Settings"], r.Header["Connection"])
		if r.Header["Upgrade"] == nil {
			_, _ = io.Copy(w, r.Body)
			return
		}
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		to, _, _ := strings.Cut(r.Header.Get("Upgrade"), ",")
		_, _ = fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", to)
		if address == "" {
			_, _ = io.Copy(c, rw)
			return
		}
		other, err := net.Dial("tcp", address)
		if err != nil {
			t.Error(err)
			return
		}
		defer other.Close()
		go func() { _, _ = io.Copy(other, rw) }()
		_, _ = io.Copy(c, other)
	}
}

// offered returns the offer of the request that has just been answered.
func offered(offers <-chan string) string {
	select {
	case offer := <-offers:
		return offer
	default:
		return "nothing, for it was not asked"
	}
}

// TestProxy_NoHTTP2Tunnel has an upstream that switches to HTTP/2 in the way of
// RFC 7540, section 3.2. Asked directly it does, and serves any request there;
// asked through a guarded route by a key for one method and path it never does.
func TestProxy_NoHTTP2Tunnel(t *testing.T) {
	var seen arrivals
	inside := httptest.NewUnstartedServer(seen.note("inside"))
	inside.Config.Protocols = new(http.Protocols)
	inside.Config.Protocols.SetUnencryptedHTTP2(true)
	inside.Start()
	defer inside.Close()
	offers := make(chan string, 10)
	g := newGuarded(t, switching(t, inside.Listener.Addr().String(), offers), nil)
	for _, tt := range []struct {
		address string
		tunnel  bool
	}{{g.upstream.Listener.Addr().String(), true}, {g.door.Listener.Addr().String(), false}} {
		for _, method := range []string{"GET", "HEAD", "POST", "OPTIONS"} {
			status, err := overHTTP2(t, tt.address, method+" /up/x HTTP/1.1\r\nHost: x\r\nX-API-Key: "+g.key+
				"\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n\r\n")
			got, want := seen.take(), ""
			if tt.tunnel {
				want = "inside DELETE /secret tunnel"
			}
			if got != want || (status == http.StatusSwitchingProtocols) != tt.tunnel || (err == nil) != tt.tunnel {
				t.Errorf("%s at %s: got %d, %v, and %q arrived, want %q", method, tt.address, status, err, got, want)
			}
			if offer := offered(offers); !tt.tunnel && offer != "[] [] []" {
				t.Errorf("%s: the upstream was offered %s", method, offer)
			}
		}
	}
}

// overHTTP2 sends a request and, whatever the answer, one over HTTP/2 on the same
// connection. It returns the status of the first and the error of the second.
func overHTTP2(t *testing.T, address, request string) (int, error) {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	method, _, _ := strings.Cut(request, " ")
	res, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
	if err != nil {
		t.Fatal(err)
	}
	status := res.StatusCode
	within := http.Transport{Protocols: new(http.Protocols), DialContext: func(context.Context, string, string) (net.Conn, error) { return c, nil }}
	within.Protocols.SetUnencryptedHTTP2(true)
	defer within.CloseIdleConnections()
	r, err := http.NewRequest("DELETE", "http://tunnel/secret", nil)
	if err != nil {
		t.Fatal(err)
	}
	if res, err = within.RoundTrip(r); err == nil {
		_ = res.Body.Close()
	}
	return status, err
}

// TestProxy_OnlyHandshakes offers other protocols in every shape. A whole
// WebSocket handshake is passed on; of anything else the upstream sees an
// ordinary request, by both ways to it. A route with websocket = false refuses
// whole handshakes and takes the rest for the same ordinary requests.
func TestProxy_OnlyHandshakes(t *testing.T) {
	offers := make(chan string, 10)
	g := newGuarded(t, switching(t, "", offers), func(c *Config, url string) {
		c.Routes = append(c.Routes, RouteRow{Path: "/plain/*rest", Permission: []string{"can_use"}, Upstream: url, Timeout: time.Minute, WebSocket: false})
	})
	const whole = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
	changed := func(from, to string) string {
		if !strings.Contains(whole, from) {
			t.Fatalf("no %q in the handshake", from)
		}
		return strings.Replace(whole, from, to, 1)
	}
	for _, tt := range []struct {
		name, line, fields string
		passes             bool
	}{
		{"whole", "GET 1.1", whole, true},
		{"in other cases", "GET 1.1", strings.ToLower(changed("websocket", "WebSocket")[:40]) + whole[40:], true},
		{"protocol in capitals", "GET 1.1", changed("websocket", "WEBSOCKET"), true},
		{"token in a list", "GET 1.1", changed("Connection: Upgrade", "Connection: keep-alive, upgrade"), true},
		{"token in a second line", "GET 1.1", "Connection: keep-alive\r\n" + whole, true},
		{"with HTTP2-Settings", "GET 1.1", whole + "HTTP2-Settings: AAMAAABk\r\n", true},
		{"with a length of 0", "GET 1.1", whole + "Content-Length: 0\r\n", true},
		{"another method", "POST 1.1", whole, false},
		{"HEAD", "HEAD 1.1", whole, false},
		{"OPTIONS", "OPTIONS 1.1", whole, false},
		{"HTTP/1.0", "GET 1.0", whole, false},
		{"a body", "GET 1.1", whole + "Content-Length: 2\r\n", false},
		{"chunks", "GET 1.1", whole + "Transfer-Encoding: chunked\r\n", false},
		{"no Connection", "GET 1.1", changed("Connection: Upgrade\r\n", ""), false},
		{"no token in Connection", "GET 1.1", changed("Connection: Upgrade", "Connection: keep-alive"), false},
		{"half a token in Connection", "GET 1.1", changed("Connection: Upgrade", "Connection: Upgrade-Insecure"), false},
		{"no Upgrade", "GET 1.1", changed("Upgrade: websocket\r\n", ""), false},
		{"Upgrade without a value", "GET 1.1", changed("Upgrade: websocket", "Upgrade:"), false},
		{"with a version", "GET 1.1", changed("websocket", "websocket/13"), false},
		{"with a comma", "GET 1.1", changed("websocket", "websocket,"), false},
		{"with more behind", "GET 1.1", changed("websocket", "websocket h2c"), false},
		{"with h2c behind", "GET 1.1", changed("websocket", "websocket, h2c"), false},
		{"with h2c before", "GET 1.1", changed("websocket", "h2c, websocket"), false},
		{"with h2c in a line behind", "GET 1.1", whole + "Upgrade: h2c\r\n", false},
		{"with h2c in a line before", "GET 1.1", "Upgrade: h2c\r\n" + whole, false},
		{"twice", "GET 1.1", whole + "Upgrade: websocket\r\n", false},
		{"a letter that folds to k", "GET 1.1", changed("websocket", "websoc\u212aet"), false},
		{"no version", "GET 1.1", changed("Sec-WebSocket-Version: 13\r\n", ""), false},
		{"an earlier version", "GET 1.1", changed("13", "8"), false},
		{"two versions", "GET 1.1", changed("13", "13, 8"), false},
		{"two lines of version", "GET 1.1", whole + "Sec-WebSocket-Version: 13\r\n", false},
		{"no key", "GET 1.1", changed("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", ""), false},
		{"an empty key", "GET 1.1", changed("dGhlIHNhbXBsZSBub25jZQ==", ""), false},
		{"a short key", "GET 1.1", changed("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25j"), false},
		{"a long key", "GET 1.1", changed("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZWQ="), false},
		{"a key that is not base64", "GET 1.1", changed("dGhlIHNhbXBsZSBub25jZQ==", "the-sample-nonce-is-here"), false},
		{"two keys", "GET 1.1", whole + "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", false},
		{"the key named in Connection", "GET 1.1", changed("Connection: Upgrade", "Connection: Upgrade, sec-websocket-key"), false},
		{"the version named in Connection", "GET 1.1", changed("Connection: Upgrade", "Connection: Upgrade, Sec-WebSocket-Version"), false},
		{"h2c", "GET 1.1", "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n", false},
		{"h2c with a handshake's fields", "GET 1.1", changed("websocket", "h2c"), false},
		{"h2c, not in Connection", "GET 1.1", "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n", false},
		{"h2c by POST", "POST 1.1", "Connection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n", false},
		{"h2c by a method of no standard", "BREW 1.1", "Connection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n", false},
		{"only HTTP2-Settings", "GET 1.1", "HTTP2-Settings: AAMAAABk\r\n", false},
		{"only HTTP2-Settings, by POST", "POST 1.1", "HTTP2-Settings: AAMAAABk\r\n", false},
		{"TLS", "GET 1.1", "Connection: Upgrade\r\nUpgrade: TLS/1.0\r\n", false},
		{"TLS by OPTIONS", "OPTIONS 1.1", "Connection: Upgrade\r\nUpgrade: TLS/1.0, HTTP/1.1\r\n", false},
		{"connect-udp", "GET 1.1", "Connection: Upgrade\r\nUpgrade: connect-udp\r\nCapsule-Protocol: ?1\r\n", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			method, version, _ := strings.Cut(tt.line, " ")
			body := ""
			if strings.Contains(tt.fields, "Content-Length: 2") {
				body = "ok"
			} else if strings.Contains(tt.fields, "chunked") {
				body = "2\r\nok\r\n0\r\n\r\n"
			}
			through := g.tunnelled(t, method+" /up/ws HTTP/"+version+"\r\nHost: x\r\nX-API-Key: "+g.key+"\r\n"+tt.fields+"\r\n"+body)
			if through != tt.passes {
				t.Errorf("tunnelled: %v, want %v", through, tt.passes)
			}
			want := "[] [] []"
			if tt.passes {
				want = "[websocket] [] [Upgrade]"
			}
			if offer := offered(offers); !strings.EqualFold(offer, want) {
				t.Errorf("the upstream was offered %s, want %s", offer, want)
			}
			status, want := " 200 ", "[] [] []"
			if tt.passes {
				status, want = " 400 ", "nothing, for it was not asked"
			}
			line := g.raw(t, method+" /plain/ws HTTP/"+version+"\r\nHost: x\r\nX-API-Key: "+g.key+"\r\n"+tt.fields+"\r\n"+body)
			if offer := offered(offers); !strings.Contains(line, status) || offer != want {
				t.Errorf("without WebSockets: got %s, and the upstream was offered %s; want %s and %s", line, offer, status, want)
			}
		})
	}
	if ask2(t, g.openHTTP2(t), g.key, [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", "x"}, {":path", "/up/x"}}, "http2-settings: AAMAAABk") != "200" {
		t.Error("not passed on over HTTP/2")
	}
	if offer := offered(offers); offer != "[] [] []" {
		t.Errorf("over HTTP/2 the upstream was offered %s", offer)
	}
}

// TestAuthz_WebSocket asks with fields of a handshake, of which the proxy may have removed some, for
// each family.
func TestAuthz_WebSocket(t *testing.T) {
	a := newAuthz(t, func(c *Config) {
		c.Routes = []RouteRow{{Path: "/ws", WebSocket: true}, {Path: "/plain", WebSocket: false}}
	})
	_, secret := a.key(`["can_read_calls"]`, `"limits": {"requests_per_minute_limit": 1000}`)
	for _, tt := range []struct {
		fields  string
		refused bool
	}{
		{"Connection: Upgrade|Upgrade: websocket|Sec-Websocket-Version: 13|Sec-Websocket-Key: dGhlIHNhbXBsZSBub25jZQ==", true},
		{"Sec-Websocket-Version: 13|Sec-Websocket-Key: dGhlIHNhbXBsZSBub25jZQ==", true},
		{"Sec-Websocket-Key: dGhlIHNhbXBsZSBub25jZQ==", true},
		{"Sec-Websocket-Version: 8", true},
		{"Upgrade: websocket", true},
		{"Upgrade: WebSocket", true},
		{"Upgrade: h2c, websocket", true},
		{"Upgrade: h2c|Upgrade: websocket", true},
		{"Upgrade: h2c", false},
		{"Connection: Upgrade", false},
		{"Sec-Websocket-Protocol: chat", false},
		{"Accept: websocket", false},
	} {
		for _, family := range families {
			for _, method := range []string{"GET", "POST"} {
				fields := append(strings.Split(tt.fields, "|"), "X-Api-Key: "+secret)
				if w := a.put(proxyQuestion{family: family, method: method, address: "/ws", fields: fields}); w.Code != 200 {
					t.Errorf("%s, %s %s: got %d %s, want 200", family, method, tt.fields, w.Code, w.Body)
				}
				w := a.put(proxyQuestion{family: family, method: method, address: "/plain", fields: fields})
				status, code := refusalTo(t, family, w)
				if tt.refused && (status != 400 || code != "validation_error" || !strings.Contains(w.Body.String(), "websocket = false")) || !tt.refused && status != 200 {
					t.Errorf("%s, %s %s: got %d %s, want it to be refused: %v", family, method, tt.fields, status, w.Body, tt.refused)
				}
			}
		}
	}
}

// tunnelled sends a request and reports whether the upstream switches and gives
// back what is then said.
func (g *guardedApp) tunnelled(t *testing.T, request string) bool {
	t.Helper()
	c, err := net.Dial("tcp", g.door.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(c)
	res, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != http.StatusSwitchingProtocols {
		if res.StatusCode != http.StatusOK {
			t.Errorf("got %s, want 200", res.Status)
		}
		return false
	}
	back := make([]byte, 5)
	if _, err := io.WriteString(c, "hello"); err != nil {
		t.Fatal(err)
	}
	_, err = io.ReadFull(in, back)
	return err == nil && string(back) == "hello"
}

// TestProxy_WrongSwitch has an upstream answer 101 where that was not asked for,
// or otherwise than a handshake is answered: 502, and nothing of what the client
// says next arrives.
func TestProxy_WrongSwitch(t *testing.T) {
	const right, wrong = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n", "Sec-WebSocket-Accept: HSmrc0sMlYUkAGmm5OPpG2HaGWk=\r\n"
	const handshake = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
	arrived := make(chan string)
	s := upstreamtest.NewScript(t)
	g := newGuarded(t, func(http.ResponseWriter, *http.Request) {}, func(c *Config, _ string) {
		c.Routes = append(c.Routes, RouteRow{Path: "/raw", Upstream: "http://" + s.Addr().String(), Timeout: time.Minute, WebSocket: true})
	})
	for _, tt := range []struct {
		name, answer string
		passes       bool // if a handshake asked for it
	}{
		{"no protocol", "", false},
		{"no protocol, but Connection", "Connection: Upgrade\r\n", false},
		{"no Connection", "Upgrade: websocket\r\n" + right, false},
		{"h2c", "Connection: Upgrade\r\nUpgrade: h2c\r\n" + right, false},
		{"two protocols", "Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n" + right, false},
		{"two lines", "Connection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n" + right, false},
		{"for another request", "Connection: Upgrade\r\nUpgrade: websocket\r\n" + wrong, false},
		{"for two requests", "Connection: Upgrade\r\nUpgrade: websocket\r\n" + right + wrong, false},
		{"right", "Connection: Upgrade\r\nUpgrade: websocket\r\n" + right, true},
		{"without Sec-WebSocket-Accept", "Connection: upgrade\r\nUpgrade: WebSocket\r\n", true},
	} {
		for _, asked := range []string{"GET " + handshake, "GET ", "GET Connection: X-No-Such\r\n", "POST ", "GET Connection: Upgrade\r\nUpgrade: h2c\r\n"} {
			method, fields, _ := strings.Cut(asked, " ")
			s.Lines <- func(c net.Conn) {
				_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\n"+tt.answer+"\r\n")
				_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
				b := make([]byte, 5)
				n, err := io.ReadFull(c, b)
				_ = c.Close()
				if arrived <- string(b[:n]); errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("%s to %s: the connection to the upstream is left open", tt.name, asked)
				}
			}
			c, status := g.first(t, method+" /raw HTTP/1.1\r\nHost: x\r\nX-API-Key: <key>\r\n"+fields+"\r\n")
			_, _ = io.WriteString(c, "hello")
			if len(s.Asked) == 0 {
				t.Fatalf("%s to %s: got %s, and the upstream was not asked", tt.name, asked, status)
			}
			<-s.Asked
			got := <-arrived
			_ = c.Close()
			if tt.passes && fields == handshake {
				if !strings.HasPrefix(status, "HTTP/1.1 101 ") || got != "hello" {
					t.Errorf("%s: got %s, and %q arrived", tt.name, status, got)
				}
			} else if !strings.HasPrefix(status, "HTTP/1.1 502 ") || got != "" {
				t.Errorf("%s to %s: got %s, and %q arrived, want 502 and nothing", tt.name, asked, status, got)
			}
		}
	}
}

// HTTP/2 has no 101; an upstream that sends it there has not answered.
func TestProxy_WrongSwitchOverHTTP2(t *testing.T) {
	up := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusSwitchingProtocols)
		_, _ = io.WriteString(w, r.Proto)
	}))
	up.EnableHTTP2 = true
	up.StartTLS()
	defer up.Close()
	g := newGuarded(t, func(http.ResponseWriter, *http.Request) {}, func(c *Config, _ string) {
		c.Routes = append(c.Routes, RouteRow{Path: "/tls", Upstream: up.URL, Timeout: time.Minute})
	})
	g.proxy.transport(time.Minute).TLSClientConfig = up.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	for _, method := range []string{"GET", "POST"} {
		if line := g.raw(t, method+" /tls HTTP/1.1\r\nHost: x\r\nX-API-Key: <key>\r\n\r\n"); !strings.HasPrefix(line, "HTTP/1.1 502 ") {
			t.Errorf("%s: got %s, want 502", method, line)
		}
	}
}
