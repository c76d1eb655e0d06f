package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"latchkey/internal/keytext"
)

// guardedApp is the service with routes to a real upstream, at a real door.
type guardedApp struct {
	*testApp
	upstream *httptest.Server
	door     *httptest.Server
	key      string
}

// newGuarded puts routes of the paths to an upstream; change has the rows.
func newGuarded(t testing.TB, upstream http.HandlerFunc, change func(c *Config, url string)) *guardedApp {
	t.Helper()
	g := &guardedApp{upstream: httptest.NewServer(upstream)}
	t.Cleanup(g.upstream.Close)
	g.testApp = newTestApp(t, func(c *Config) {
		c.Permissions = []permissionRow{{Name: "can_use", Description: "Use it."}}
		c.Routes = []RouteRow{{Path: "/up/*rest", Permission: []string{"can_use"}, Upstream: g.upstream.URL, Timeout: time.Minute, WebSocket: true}}
		if change != nil {
			change(c, g.upstream.URL)
		}
	})
	id, secret := g.testApp.key(`["can_use"]`, `"limits": {"requests_per_minute_limit": 100000}`)
	g.operate(200, "PATCH", "/admin/v1/keys/"+id, `{"name": "gr\u00fcn %"}`)
	g.key = secret
	g.open(t)
	return g
}

// open puts the API listener on a port, with the times of a door.
func (g *guardedApp) open(t testing.TB) {
	t.Helper()
	g.door = httptest.NewUnstartedServer(g.api)
	g.door.Config.ReadTimeout, g.door.Config.WriteTimeout = g.config.Server.ReadTimeout, g.config.Server.WriteTimeout
	g.door.Start()
	t.Cleanup(g.door.Close)
}

// openHTTP2 puts the API listener on a further port, where it speaks HTTP/2 over TLS.
func (g *guardedApp) openHTTP2(t testing.TB) *httptest.Server {
	door := httptest.NewUnstartedServer(g.api)
	door.EnableHTTP2 = true
	door.StartTLS()
	t.Cleanup(door.Close)
	return door
}

// send asks the door, with the key; fields are "Name: value".
func (g *guardedApp) send(t *testing.T, method, path string, body io.Reader, fields ...string) *http.Response {
	t.Helper()
	r, err := http.NewRequest(method, g.door.URL+path, body)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-API-Key", g.key)
	for _, f := range fields {
		name, value, _ := strings.Cut(f, ": ")
		r.Header[name] = append(r.Header[name], value)
	}
	res, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = res.Body.Close() })
	return res
}

func readText(t *testing.T, r io.Reader) string {
	t.Helper()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// raw sends bytes to the door and gives the first line of the answer.
func (g *guardedApp) raw(t *testing.T, request string) string {
	t.Helper()
	c, line := g.first(t, request)
	_ = c.Close()
	return line
}

// first is raw for a test that goes on with the connection.
func (g *guardedApp) first(t *testing.T, request string) (net.Conn, string) {
	t.Helper()
	c, err := net.Dial("tcp", g.door.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if _, err := io.WriteString(c, strings.ReplaceAll(request, "<key>", g.key)); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return c, strings.TrimSpace(line)
}

// What a client says of itself, in whatever spelling, never arrives; what we
// say of it always does.
func TestProxy_Identity(t *testing.T) {
	seen := make(chan *http.Request, 1)
	g := newGuarded(t, func(w http.ResponseWriter, r *http.Request) { seen <- r }, nil)
	request := "GET /up/x?a=%zz&api%5Fkey=<key>&b=1;2&c=%20+&=&&d HTTP/1.1\r\nHost: api.example\r\nAuthorization: Bearer <key>\r\nX-API-Key: <key>\r\n" +
		"X-Auth-Key-Id: key_forged\r\nX-Auth-Key-Id: key_again\r\nX_Auth_Key_Id: key_forged\r\nX.Auth.Owner: forged\r\nx-auth-environment: forged\r\nX-AUTH_PERMISSIONS: forged\r\n" +
		"X-Request-Id: forged\r\nX-Forwarded-For: 6.6.6.6\r\nX_Forwarded_For: 6.6.6.6\r\nX-Forwarded-Host: forged\r\nX-Forwarded-Proto: forged\r\nX-Forwarded-Prefix: /forged\r\nForwarded: for=6.6.6.6\r\n" +
		"X-Real-Ip: 6.6.6.6\r\nX-Original-URL: /forged\r\nX-HTTP-Method-Override: DELETE\r\nX_API_KEY: <key>\r\n" +
		"Connection: close, X-Auth-Key-Id, X-Auth-Owner, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\nProxy-Authorization: Basic x\r\nX-Kept: yes\r\nCookie: a=b\r\n\r\n"
	if line := g.raw(t, request); line != "HTTP/1.1 200 OK" {
		t.Fatalf("got %s", line)
	}
	r := <-seen
	keyID := r.Header.Get("X-Auth-Key-Id")
	for name, want := range map[string][]string{
		"X-Auth-Key-Id": {keyID}, "X-Auth-Key-Name": {"gr%C3%BCn %25"}, "X-Auth-Owner": {"admin"}, "X-Auth-Permissions": {"can_use"}, "X-Auth-Environment": {""}, "X-Auth-Sandbox": {"false"},
		"X-Forwarded-For": {"127.0.0.1"}, "X-Forwarded-Host": {"api.example"}, "X-Forwarded-Proto": {"http"}, "X-Kept": {"yes"}, "Cookie": {"a=b"},
		"Authorization": nil, "X-Api-Key": nil, "X-Hop": nil, "Keep-Alive": nil, "Proxy-Authorization": nil, "Forwarded": nil, "X-Real-Ip": nil,
		"X-Original-Url": nil, "X-Http-Method-Override": nil, "X-Forwarded-Prefix": nil,
	} {
		if got := r.Header[name]; !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	if !strings.HasPrefix(keyID, "key_") || len(r.Header["X-Request-Id"]) != 1 || r.Header.Get("X-Request-Id") == "forged" {
		t.Errorf("got id %q, request %q", keyID, r.Header["X-Request-Id"])
	}
	var all bytes.Buffer
	if err := r.Header.Write(&all); err != nil {
		t.Fatal(err)
	}
	if left := all.String() + r.RequestURI; strings.Contains(left, "forged") || strings.Contains(left, "6.6.6.6") || strings.Contains(left, g.key) {
		t.Errorf("the upstream got %s", left)
	}
	if want := "/up/x?a=%zz&b=1;2&c=%20+&=&&d"; r.RequestURI != want {
		t.Errorf("got %s, want %s", r.RequestURI, want)
	}
	if r.Host != g.upstream.Listener.Addr().String() {
		t.Errorf("got host %s", r.Host)
	}
}

// Another scheme of Authorization is for the upstream.
func TestProxy_OtherAuthorization(t *testing.T) {
	g := newGuarded(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Header.Get("Authorization"))
	}, nil)
	if got := readText(t, g.send(t, "GET", "/up/x", nil, "Authorization: Basic azE6").Body); got != "Basic azE6" {
		t.Errorf("got %q", got)
	}
}

func TestProxy_DeclaredProxy(t *testing.T) {
	g := newGuarded(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(w, "%s|%s|%s", r.Header["X-Forwarded-For"], r.Header["X-Forwarded-Host"], r.Header["X-Forwarded-Proto"])
	}, func(c *Config, _ string) { c.Server.TrustedProxies = []string{"127.0.0.1", "10.0.0.0/8"} })
	res := g.send(t, "GET", "/up/x", nil, "X-Forwarded-For: 6.6.6.6, 192.0.2.9, 10.0.0.7", "X-Forwarded-Host: shop.example", "X-Forwarded-Proto: https")
	if got, want := readText(t, res.Body), "[192.0.2.9, 10.0.0.7, 127.0.0.1]|[shop.example]|[https]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// The path and the answer pass as they are; what a checker could misread does not.
func TestProxy_Paths(t *testing.T) {
	g := newGuarded(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Vary", "Accept-Encoding")
		w.Header().Set("X-RateLimit-Limit", "7")
		w.WriteHeader(http.StatusTeapot)
		_, _ = io.WriteString(w, r.RequestURI)
	}, func(c *Config, url string) {
		c.Routes = append(c.Routes, RouteRow{Path: "/shop/v2/*rest", Upstream: url + "/base/", StripPrefix: "/shop/v2", Timeout: time.Minute},
			RouteRow{Path: "/only", Methods: []string{"GET", "PUT"}, Upstream: url}, RouteRow{Path: "/elsewhere"})
	})
	for path, want := range map[string]string{
		"/up/x":                  "/up/x",
		"/up/x/":                 "/up/x/",
		"/up":                    "/up",
		"/up/a%20b/%C3%A9?":      "/up/a%20b/%C3%A9?",
		"/up/a+b@:,!~*'()&=$":    "/up/a+b@:,!~*'()&=$",
		"/up/%41/%c3%a9":         "/up/%41/%c3%a9",
		"/shop/v2/cart/1?q=a":    "/base/cart/1?q=a",
		"/shop/v2":               "/base/",
		"/sho%70/v2/%63art":      "/base/%63art",
		"/only":                  "/only",
		"/only/":                 "/only/",
		"/only?api_key=<key>&a=": "/only?a=",
	} {
		res := g.send(t, "GET", strings.ReplaceAll(path, "<key>", g.key), nil)
		if got := readText(t, res.Body); got != want || res.StatusCode != http.StatusTeapot {
			t.Errorf("%s: got %d %s, want %s", path, res.StatusCode, got, want)
		}
		if vary := strings.Join(res.Header["Vary"], ", "); !strings.Contains(vary, "Accept-Encoding") || !strings.Contains(vary, "X-API-Key") {
			t.Errorf("%s: got Vary %q", path, vary)
		}
		if got := res.Header["X-Ratelimit-Limit"]; len(got) != 1 || got[0] != "100000" {
			t.Errorf("%s: got X-RateLimit-Limit %q", path, got)
		}
	}
	for path, want := range map[string]int{
		"/up/a%2Fb": 400, "/up/a%5Cb": 400, "/up/../x": 400, "/up/%2e%2e/x": 400, "//up/x": 400, "/up//x": 400, "/up/a%00": 400, "/up/a;b": 400, "/up/a\\b": 400,
		"/up/%252e%252e/x": 400, "/u%70/x": 400, "*": 400, "/unmapped": 404, "/elsewhere": 404, "/upper": 404, "/only/more": 404, "/healthz": 200, "/api/v1/none": 404,
	} {
		line := g.raw(t, "GET "+path+" HTTP/1.1\r\nHost: x\r\nX-API-Key: <key>\r\n\r\n")
		if !strings.HasPrefix(line, "HTTP/1.1 "+strconv.Itoa(want)+" ") {
			t.Errorf("%s: got %s, want %d", path, line, want)
		}
	}
	res := g.send(t, "DELETE", "/only", nil)
	if res.StatusCode != 405 || res.Header.Get("Allow") != "GET, PUT" {
		t.Errorf("got %d, Allow %q", res.StatusCode, res.Header.Get("Allow"))
	}
	if res := g.send(t, "TRACE", "/up/x", nil); res.StatusCode != 405 {
		t.Errorf("TRACE: got %d", res.StatusCode)
	}
}

// In HTTP/2 a query may hold what would end the line of a request in HTTP/1.1.
func TestProxy_QueryOverHTTP2(t *testing.T) {
	g := newGuarded(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.RequestURI) }, nil)
	door := g.openHTTP2(t)
	for query, want := range map[string]string{"a=%20&b=\u00fc": "/up/x?a=%20&b=\u00fc", "a=1 HTTP/1.1": "", "a b": ""} {
		r, err := http.NewRequest("GET", door.URL+"/up/x", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.URL.RawQuery = query
		r.Header.Set("X-API-Key", g.key)
		res, err := door.Client().Transport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b := readText(t, res.Body)
		if res.ProtoMajor != 2 || want != "" && b != want || want == "" && (res.StatusCode != 400 || !strings.Contains(b, "validation_error")) {
			t.Errorf("%q: got %d %s %s, want %s", query, res.StatusCode, res.Proto, b, want)
		}
	}
}

// Every check of an endpoint of ours stands before a route too, in its order.
func TestProxy_Checks(t *testing.T) {
	asked := 0
	g := newGuarded(t, func(w http.ResponseWriter, r *http.Request) { asked++ }, func(c *Config, url string) {
		c.Limits = []limitRow{{Name: "reports_per_hour", Window: time.Hour, Default: 10, Scope: "key"}, {Name: "bursts", Window: 10 * time.Second, Default: 5, Scope: "key"}}
		c.Routes = append(c.Routes, RouteRow{Path: "/free", Upstream: url, Cost: 1}, RouteRow{Path: "/report", Upstream: url, Limits: []string{"reports_per_hour", "bursts"}, Cost: 3, Permission: []string{"can_use", "can_read_calls"}},
			RouteRow{Path: "/cheap", Upstream: url, Limits: []string{"reports_per_hour"}, Cost: 0})
	})
	_, none := g.testApp.key(`["can_read_agents"]`, `"limits": {"requests_per_minute_limit": 4}`)
	_, other := g.testApp.key(`["can_read_calls"]`)
	for i, tt := range []struct {
		path, key string
		want      int
		code      string
	}{
		{"/up/x", "", 401, "authentication_required"},
		{"/up/x", keytext.NewSecret("klen_"), 401, "invalid_key"},
		{"/up/x", none, 403, "permission_denied"},
		{"/free", none, 200, ""},
		{"/up/x", other, 403, "permission_denied"},
		{"/report", other, 200, ""},
		{"/report", other, 429, "rate_limit_exceeded"}, // 3 of the 5 bursts are gone
		{"/report", none, 403, "permission_denied"},
		{"/cheap", other, 200, ""},
		{"/up/x", none, 403, "permission_denied"},
		{"/free", none, 429, "rate_limit_exceeded"}, // the minute limit goes before the permission
		{"/up/x", none, 429, "rate_limit_exceeded"},
	} {
		before := asked
		w := g.ask("GET", tt.path, tt.key, "")
		if w.Code != tt.want || tt.code != "" && code(w) != tt.code {
			t.Errorf("step %d, %s: got %d %s, want %d %s", i+1, tt.path, w.Code, w.Body, tt.want, tt.code)
		}
		if (asked > before) != (tt.want == 200) {
			t.Errorf("step %d: the upstream was asked %d times", i+1, asked-before)
		}
	}
	w := g.ask("GET", "/cheap", other, "")
	if got := w.Header().Get("Ratelimit"); got != `"requests_per_minute";r=56;t=60` {
		t.Errorf("got RateLimit %s", got)
	}
	g.clocks.Pass(10 * time.Second)
	for i, want := range []int{200, 429} { // what was refused has cost nothing: 10 less twice 3 is room for one more
		if w := g.ask("GET", "/report", other, ""); w.Code != want {
			t.Errorf("report %d: got %d %s, want %d", i+1, w.Code, w.Body, want)
		}
	}
}

func TestProxy_BadUpstreams(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "SMTP says hello\r\n\r\n")
			_ = c.Close()
		}
	}()
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := gone.Close(); err != nil {
		t.Fatal(err)
	}
	release := make(chan struct{})
	g := newGuarded(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/broken") {
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, "half")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}
		<-release
	}, func(c *Config, up string) {
		c.Routes = append(c.Routes, RouteRow{Path: "/gone", Upstream: "http://" + gone.Addr().String()}, RouteRow{Path: "/strange", Upstream: "http://" + l.Addr().String()},
			RouteRow{Path: "/late", Upstream: up, Timeout: 50 * time.Millisecond})
	})
	defer close(release)
	for path, want := range map[string]string{"/gone": "502 bad_gateway", "/strange": "502 bad_gateway", "/late": "504 gateway_timeout"} {
		res := g.send(t, "GET", path, nil)
		b := readText(t, res.Body)
		status, name, _ := strings.Cut(want, " ")
		if strconv.Itoa(res.StatusCode) != status || !strings.Contains(b, `"error":"`+name+`"`) || !strings.Contains(b, `"request_id"`) || res.Header.Get("X-RateLimit-Limit") == "" {
			t.Errorf("%s: got %d %s, want %s", path, res.StatusCode, b, want)
		}
		if strings.Contains(b, "127.0.0.1") {
			t.Errorf("%s tells where the upstream is: %s", path, b)
		}
	}
	if !strings.Contains(g.log.String(), "upstream failed") {
		t.Error("the log does not tell why")
	}
	r, err := http.NewRequest("GET", g.door.URL+"/up/broken?api_key="+g.key, nil)
	if err != nil {
		t.Fatal(err)
	}
	if res, err := http.DefaultTransport.RoundTrip(r); err == nil { // else it broke off before its header was sent
		defer res.Body.Close()
		if b, err := io.ReadAll(res.Body); err == nil {
			t.Errorf("an answer that broke off arrived as a whole: %q", b)
		}
	}
	g.door.Close()
	if !strings.Contains(g.log.String(), `"route":"/up/*rest","status":200`) {
		t.Errorf("the log has no line for the answer that broke off")
	}
}

// Early hints go through, and what the door says stays in the last answer.
func TestProxy_Informational(t *testing.T) {
	g := newGuarded(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</a.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Set("Cache-Control", "public, max-age=60")
		_, _ = io.WriteString(w, "ok")
	}, nil)
	res, err := http.Get(g.door.URL + "/up/x?api_key=" + url.QueryEscape(g.key))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if readText(t, res.Body) != "ok" || res.StatusCode != 200 || res.Header.Get("X-RateLimit-Limit") == "" {
		t.Errorf("got %d %v", res.StatusCode, res.Header)
	}
	if got := res.Header["Cache-Control"]; len(got) != 1 || strings.Contains(got[0], "public") {
		t.Errorf("an answer to a key in the URL: got Cache-Control %q", got)
	}
}

func TestHeaderText(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "Front desk 7": "Front desk 7", " a ": "%20a%20", "100%": "100%25", "gr\u00fcn": "gr%C3%BCn", "a\r\nX: y": "a%0D%0AX: y", "\u65e5": "%E6%97%A5", "~!": "~!", " ": "%20",
	} {
		got := headerText(in)
		back, err := url.PathUnescape(got)
		if got != want || err != nil || back != in {
			t.Errorf("%q: got %q, back %q; want %q", in, got, back, want)
		}
	}
}

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

// An upstream is told whether the client came over TLS.
func TestProxy_ForwardedProto(t *testing.T) {
	g := newGuarded(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Header.Get("X-Forwarded-Proto"))
	}, nil)
	tls := httptest.NewUnstartedServer(g.api)
	tls.StartTLS()
	t.Cleanup(tls.Close)
	for _, tt := range []struct {
		door *httptest.Server
		want string
	}{{g.door, "http"}, {tls, "https"}, {g.openHTTP2(t), "https"}} {
		r, err := http.NewRequest("GET", tt.door.URL+"/up/x", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("X-API-Key", g.key)
		r.Header.Set("X-Forwarded-Proto", "gopher") // of nobody who may say so
		res, err := tt.door.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		if got := readText(t, res.Body); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.door.URL, got, tt.want)
		}
		_ = res.Body.Close()
	}
}
