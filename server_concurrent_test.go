package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// chunked is the head of an upload that does not end by itself, with <path> and <key> to replace.
const chunked = "POST <path> HTTP/1.1\r\nHost: x\r\nX-API-Key: <key>\r\nTransfer-Encoding: chunked\r\n\r\n"

// handshake is a WebSocket handshake, with <path> and <key> to replace.
const handshake = "GET <path> HTTP/1.1\r\nHost: x\r\nX-API-Key: <key>\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"

// connect sends the text of a request and returns the connection.
func (g *guardedApp) connect(t *testing.T, text, path, key string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", g.door.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if _, err := io.WriteString(c, strings.NewReplacer("<path>", path, "<key>", key).Replace(text)); err != nil {
		t.Fatal(err)
	}
	return c
}

// status returns the first line of what a connection answers.
func status(t *testing.T, c net.Conn) string {
	t.Helper()
	b := make([]byte, 12)
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.ReadFull(c, b); err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// inFlight waits until the requests and streams in flight are these.
func (g *guardedApp) inFlight(t *testing.T, requests, streams int) {
	t.Helper()
	await(t, func() bool {
		n := g.Limiter.InFlight()
		return n[ConcurrentRequests] == requests && n[ConcurrentStreams] == streams
	})
}

// TestServer_InFlight_ends opens a request and ends it in every way. Whichever way that is, its place is
// free again.
func TestServer_InFlight_ends(t *testing.T) {
	for _, tt := range []struct {
		name, path, text  string
		requests, streams int // while it is open
		end               func(g *guardedApp, c net.Conn, id string)
	}{
		{"the upload is complete", "/up/upload", chunked, 1, 0, func(_ *guardedApp, c net.Conn, _ string) { _, _ = io.WriteString(c, "0\r\n\r\n") }},
		{"the upload is too large", "/small/upload", chunked, 1, 0, func(_ *guardedApp, c net.Conn, _ string) { _, _ = io.WriteString(c, "b\r\nhello world\r\n") }},
		{"the client hangs up", "/up/upload", chunked, 1, 0, func(_ *guardedApp, c net.Conn, _ string) { _ = c.Close() }},
		{"the client hangs up before the answer", "/up/wait", "GET <path> HTTP/1.1\r\nHost: x\r\nX-API-Key: <key>\r\n\r\n", 1, 0, func(_ *guardedApp, c net.Conn, _ string) { _ = c.Close() }},
		{"the client of an endpoint hangs up", "/api/v1/contacts/create", chunked, 1, 0, func(_ *guardedApp, c net.Conn, _ string) { _ = c.Close() }},
		{"the upstream breaks off", "/up/download", "GET <path> HTTP/1.1\r\nHost: x\r\nX-API-Key: <key>\r\n\r\n", 1, 0, func(g *guardedApp, _ net.Conn, _ string) { g.upstream.CloseClientConnections() }},
		{"the upstream breaks off an upload", "/up/upload", chunked, 1, 0, func(g *guardedApp, _ net.Conn, _ string) { g.upstream.CloseClientConnections() }},
		{"the key of a request is revoked", "/up/upload", chunked, 1, 0, func(g *guardedApp, _ net.Conn, id string) {
			g.operate(200, "POST", "/admin/v1/keys/"+id+"/revoke", "")
		}},
		{"the key of events is revoked", "/up/events", "GET <path> HTTP/1.1\r\nHost: x\r\nX-API-Key: <key>\r\n\r\n", 0, 1, func(g *guardedApp, _ net.Conn, id string) {
			g.operate(200, "POST", "/admin/v1/keys/"+id+"/revoke", "")
		}},
		{"the key of a WebSocket is revoked", "/up/ws", handshake, 0, 1, func(g *guardedApp, _ net.Conn, id string) {
			g.operate(200, "POST", "/admin/v1/keys/"+id+"/revoke", "")
		}},
		{"the client of events hangs up", "/up/events", "GET <path> HTTP/1.1\r\nHost: x\r\nX-API-Key: <key>\r\n\r\n", 0, 1, func(_ *guardedApp, c net.Conn, _ string) { _ = c.Close() }},
		{"the client of events by POST hangs up", "/up/events", "POST <path> HTTP/1.1\r\nHost: x\r\nX-API-Key: <key>\r\nContent-Length: 0\r\n\r\n", 0, 1, func(_ *guardedApp, c net.Conn, _ string) { _ = c.Close() }},
		{"the upstream of events breaks off", "/up/events", "GET <path> HTTP/1.1\r\nHost: x\r\nX-API-Key: <key>\r\n\r\n", 0, 1, func(g *guardedApp, _ net.Conn, _ string) { g.upstream.CloseClientConnections() }},
		{"the client of a WebSocket hangs up", "/up/ws", handshake, 0, 1, func(_ *guardedApp, c net.Conn, _ string) { _ = c.Close() }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var up streamServer
			g := newGuarded(t, up.ServeHTTP, func(c *Config, url string) {
				c.Routes = append(c.Routes, RouteRow{Path: "/small/*rest", Permission: []string{"can_use"}, Upstream: url, MaxBodyBytes: 8, Timeout: time.Minute})
			})
			id, key := g.testApp.key(`["can_use", "can_write_contacts", "can_read_contacts"]`)
			c := g.connect(t, tt.text, tt.path, key)
			if !strings.HasPrefix(tt.path, "/api/") {
				await(t, func() bool { return up.count(id, 0) == 1 || strings.HasPrefix(tt.path, "/small") })
			}
			g.inFlight(t, tt.requests, tt.streams)
			tt.end(g, c, id)
			g.inFlight(t, 0, 0)
		})
	}
}

// TestServer_InFlight_refusals makes requests that each check after the limit on requests in flight
// refuses, or that panic. None of them keeps its place.
func TestServer_InFlight_refusals(t *testing.T) {
	var up streamServer
	g := newGuarded(t, up.ServeHTTP, nil)
	_, key := g.testApp.key(`["can_read_calls"]`, `"limits": {"requests_per_minute_limit": 3}`)
	for _, tt := range []struct {
		path string
		want int
	}{{"/up/x", 403}, {"/api/v1/calls?page=1&page=2", 400}, {"/api/v1/calls/1", 404}, {"/api/v1/calls", 429}} {
		if w := g.ask("GET", tt.path, key, ""); w.Code != tt.want {
			t.Errorf("%s: got %d %s, want %d", tt.path, w.Code, w.Body, tt.want)
		}
		g.inFlight(t, 0, 0)
	}
	routes := g.routes
	routes.Keyed = append(routes.Keyed, Route{Method: "GET", Path: "/api/v1/panics", Handle: func(http.ResponseWriter, *Request) error { panic("on purpose") }},
		Route{Method: "GET", Path: "/api/v1/aborts", Handle: func(http.ResponseWriter, *Request) error { panic(http.ErrAbortHandler) }})
	o := g.Server.o
	o.Routes = routes
	api, err := NewServer(o).API()
	if err != nil {
		t.Fatal(err)
	}
	_, key = g.testApp.key(`["can_use"]`)
	for path, want := range map[string]string{"/api/v1/panics": "<nil>", "/api/v1/aborts": http.ErrAbortHandler.Error()} {
		func() {
			defer func() {
				if p := recover(); fmt.Sprint(p) != want {
					t.Errorf("%s: got the panic %v, want %v", path, p, want)
				}
			}()
			r, _ := http.NewRequest("GET", path, nil)
			r.Header.Set("X-API-Key", key)
			api.ServeHTTP(discard{http.Header{}}, r)
		}()
		g.inFlight(t, 0, 0)
	}
}

// discard is a ResponseWriter that keeps nothing.
type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) Write(b []byte) (int, error) { return len(b), nil }
func (d discard) WriteHeader(int)             {}

// TestServer_InFlight_HTTP2 resets a request. Its place is free, and that of the other one on the
// connection is not.
func TestServer_InFlight_HTTP2(t *testing.T) {
	var up streamServer
	g := newGuarded(t, up.ServeHTTP, nil)
	door := g.openHTTP2(t)
	open := func(path string) (cancel func()) {
		ctx, cancel := context.WithCancel(t.Context())
		r, err := http.NewRequestWithContext(ctx, "GET", door.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("X-API-Key", g.key)
		go func() {
			if res, err := door.Client().Do(r); err == nil {
				_, _ = io.Copy(io.Discard, res.Body)
				_ = res.Body.Close()
			}
		}()
		return cancel
	}
	wait, events, other := open("/up/wait"), open("/up/events"), open("/up/events")
	g.inFlight(t, 1, 2)
	wait()
	g.inFlight(t, 0, 2)
	events()
	g.inFlight(t, 0, 1)
	other()
	g.inFlight(t, 0, 0)
}

// TestServer_InFlight_bounds fills the two limits of a key. What is over a limit is refused, costs no
// unit of another limit, and passes once there is a place again.
func TestServer_InFlight_bounds(t *testing.T) {
	var up streamServer
	g := newGuarded(t, up.ServeHTTP, nil)
	id, key := g.testApp.key(`["can_use"]`, `"limits": {"concurrent_requests": 2, "concurrent_streams": 1}`)
	usage := func(name string) map[string]any {
		t.Helper()
		return g.operate(200, "GET", "/admin/v1/keys/"+id, "")["usage"].(map[string]any)[name].(map[string]any)
	}
	first, _ := g.connect(t, chunked, "/up/upload", key), g.connect(t, chunked, "/up/upload", key)
	await(t, func() bool { return up.count(id, 0) == 2 })
	g.inFlight(t, 2, 0)
	for range 2 {
		w := g.ask("GET", "/up/none", key, "")
		if w.Code != 429 || w.Header().Get("Retry-After") != "1" || !strings.Contains(w.Body.String(), "The limit concurrent_requests of 2 requests in flight is reached") {
			t.Fatalf("over the limit: got %d %v %s", w.Code, w.Header(), w.Body)
		}
		if w.Header().Get("X-RateLimit-Limit") != "60" || w.Header().Get("X-RateLimit-Remaining") != "58" || strings.Contains(fmt.Sprint(w.Header()), "concurrent") {
			t.Errorf("got the fields %v, want those of the limit per minute, of which the refused request took nothing", w.Header())
		}
	}
	if u := usage(ConcurrentRequests); fmt.Sprintln(u["used"], u["remaining"], u["limit"], u["resets_at"], u["window_seconds"], u["kind"]) != "2 0 2 <nil> 0 concurrent\n" {
		t.Errorf("got the usage %v", u)
	}
	if u := usage(RequestsPerMinute); u["used"] != 2.0 {
		t.Errorf("got %v requests in the minute, want the 2 that passed", u["used"])
	}
	got := g.operate(200, "GET", "/admin/v1/refusals?key="+id, "")["refusals"].([]any)[0].(map[string]any)
	if text := fmt.Sprint(got["limits"]); got["refused_by"] != "limit" || !strings.Contains(text, "kind:concurrent max:2 name:concurrent_requests remaining:0 retry_after:1 used:2") {
		t.Errorf("got the refusal %v", got)
	}
	steps := g.operate(200, "POST", "/admin/v1/keys/"+id+"/explain", `{"method": "GET", "path": "/up/x"}`)
	if steps["refused_by"] != "limit concurrent_requests" || steps["allowed"] != false {
		t.Errorf("got the explanation %v", steps)
	}
	wantLines(t, scraped(g), `latchkey_in_flight{limit="concurrent_requests"} 2`, `latchkey_in_flight_refused_total{limit="concurrent_requests"} 2`)

	_, _ = io.WriteString(first, "0\r\n\r\n")
	if got := status(t, first); got != "HTTP/1.1 200" {
		t.Errorf("the first upload: got %q", got)
	}
	g.inFlight(t, 1, 0)
	stream := g.connect(t, handshake, "/up/ws", key)
	if got := status(t, stream); got != "HTTP/1.1 101" {
		t.Fatalf("a WebSocket: got %q", got)
	}
	g.inFlight(t, 1, 1)
	for name, text := range map[string]string{"a second WebSocket": handshake, "events": "GET <path> HTTP/1.1\r\nHost: x\r\nX-API-Key: <key>\r\n\r\n",
		"events by POST": "POST <path> HTTP/1.1\r\nHost: x\r\nX-API-Key: <key>\r\nContent-Length: 0\r\n\r\n"} {
		path := "/up/events"
		if text == handshake {
			path = "/up/ws"
		}
		c := g.connect(t, text, path, key)
		if got := status(t, c); got != "HTTP/1.1 429" {
			t.Errorf("%s: got %q", name, got)
		}
		rest := make([]byte, 2000)
		n, _ := io.ReadAtLeast(c, rest, 400)
		if text := string(rest[:n]); !strings.Contains(text, "Retry-After: 1\r\n") || strings.Contains(text, "event-stream") {
			t.Errorf("%s: got %q", name, text)
		}
		g.inFlight(t, 1, 1)
	}
	await(t, func() bool { return up.count(id, 0) == 2 }) // the upstream sees the end of the refused ones
	_ = stream.Close()
	g.inFlight(t, 1, 0)
	g.connect(t, handshake, "/up/ws", key)
	g.inFlight(t, 1, 1)
}

// scraped returns the metrics.
func scraped(g *guardedApp) string {
	_, text := g.scrape(g.token())
	return text
}

// TestServer_InFlight_owner counts the requests of several keys of one owner together.
func TestServer_InFlight_owner(t *testing.T) {
	var up streamServer
	g := newGuarded(t, up.ServeHTTP, nil)
	g.limitOwner("ann", OwnerConcurrentRequests, 2)
	g.limitOwner("ann", OwnerConcurrentStreams, 1)
	var keys []string
	for range 3 {
		_, key := g.testApp.key(`["can_use"]`, `"owner": "ann"`)
		keys = append(keys, key)
	}
	upload := g.connect(t, chunked, "/up/upload", keys[0])
	g.connect(t, chunked, "/up/upload", keys[1])
	g.inFlight(t, 2, 0)
	w := g.ask("GET", "/up/none", keys[2], "")
	if w.Code != 429 || !strings.Contains(w.Body.String(), "The limit owner_concurrent_requests of 2 requests in flight, which all keys of its owner share, is reached") {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	g.inFlight(t, 2, 0)
	_ = upload.Close()
	g.inFlight(t, 1, 0)
	g.connect(t, handshake, "/up/ws", keys[2])
	g.inFlight(t, 1, 1)
	if got := status(t, g.connect(t, handshake, "/up/ws", keys[0])); got != "HTTP/1.1 429" {
		t.Errorf("a second WebSocket of the owner: got %q", got)
	}
	g.limitOwner("ann", OwnerConcurrentStreams, 0)
	if got := status(t, g.connect(t, handshake, "/up/ws", keys[0])); got != "HTTP/1.1 101" {
		t.Errorf("without a limit: got %q", got)
	}
}

// TestServer_InFlight_reload changes the limits of a configuration while requests are in flight. They
// count under the new limits, and a limit of one's own counts the requests of the routes that name it.
func TestServer_InFlight_reload(t *testing.T) {
	const own = `[[permission]]
name = "can_use"
description = "Use it."
[[limit]]
name = "exports_at_once"
kind = "concurrent"
default = 1
[[route]]
path = "/export/*rest"
permission = "can_use"
upstream = "UP"
limits = ["exports_at_once"]
[[route]]
path = "/up/*rest"
permission = "can_use"
upstream = "UP"
`
	a, file, up := reloading(t, own)
	g := &guardedApp{testApp: a}
	g.open(t)
	_, key := a.key(`["can_use"]`)
	use := func(old, now string) {
		t.Helper()
		writeConfig(t, file, strings.ReplaceAll(strings.Replace(own, old, now, 1), "UP", up))
		a.operate(200, "POST", "/admin/v1/reload", "")
	}
	ask := func(path string, want int) {
		t.Helper()
		if w := a.ask("GET", path, key, ""); w.Code != want {
			t.Errorf("%s: got %d %s, want %d", path, w.Code, w.Body, want)
		}
	}
	g.connect(t, "POST <path> HTTP/1.1\r\nHost: x\r\nX-API-Key: <key>\r\nContent-Length: 5\r\n\r\n", "/export/a", key)
	await(t, func() bool { n := a.Limiter.InFlight(); return n["exports_at_once"] == 1 && n[ConcurrentRequests] == 1 })
	ask("/export/b", 429)
	ask("/up/b", 200)
	use("default = 1", "default = 2")
	ask("/export/b", 200)
	use("default = 1", "default = 1\nobserve = true")
	ask("/export/b", 200)
	if n, err := a.Limiter.Observed.Count("", "exports_at_once"); n != 1 || err != nil {
		t.Errorf("got %d observed, %v; want 1", n, err)
	}
	use("default = 1", "default = 0")
	ask("/export/b", 200)
	use("[[route]]", "[[limit]]\nname = \"concurrent_requests\"\ndefault = 1\n[[route]]")
	ask("/up/b", 429)
	use("", "")
	ask("/up/b", 200)
	ask("/export/b", 429)
}

// TestServer_InFlight_authz answers the proxies of a route whose key has no place left: the end of the
// client's request is not seen at /authz, so that no place is taken.
func TestServer_InFlight_authz(t *testing.T) {
	a := newAuthz(t, func(c *Config) {
		c.Concurrent = []concurrentRow{{Name: "at_once", Default: 1, Scope: "key"}}
		c.Routes = append(c.Routes, RouteRow{Path: "/both", Permission: []string{"can_use"}, Upstream: "http://127.0.0.1:1", Limits: []string{"at_once"}})
	})
	id, key := a.key(`["can_use"]`, `"limits": {"concurrent_requests": 1}`)
	for _, path := range []string{"/up/x", "/up/x", "/both", "/both"} {
		if w := a.put(proxyQuestion{family: "nginx", method: "GET", address: path, fields: []string{"X-Api-Key: " + key}}); w.Code != 200 {
			t.Errorf("%s: got %d %s", path, w.Code, w.Body)
		}
	}
	for name, n := range a.Limiter.InFlight() {
		if n != 0 {
			t.Errorf("%s: got %d in flight", name, n)
		}
	}
	steps := fmt.Sprint(a.operate(200, "POST", "/admin/v1/keys/"+id+"/explain", `{"method": "GET", "path": "/up/x"}`)["checks"])
	if strings.Contains(steps, "concurrent") || !strings.Contains(steps, RequestsPerMinute) {
		t.Errorf("got the steps %s", steps)
	}
}

// TestKeys_limitsInFlight sets the limits on requests in flight in each way in which a key gets limits.
func TestKeys_limitsInFlight(t *testing.T) {
	b := newDashboard(t)
	id, secret := b.key(everyPermission, `"limits": {"concurrent_requests": 0, "concurrent_streams": 3}`)
	limits := func() string {
		t.Helper()
		got := b.operate(200, "GET", "/admin/v1/keys/"+id, "")
		l, u := got["limits"].(map[string]any), got["usage"].(map[string]any)
		return fmt.Sprint(l[ConcurrentRequests], l[ConcurrentStreams], u[ConcurrentRequests] != nil, u[ConcurrentStreams] != nil)
	}
	if got := limits(); got != "0 3 false true" {
		t.Errorf("created: got %s", got)
	}
	page := b.get("/keys/" + id).Body.String()
	for _, want := range []string{"Concurrent streams: 0 of 3", "none in flight", `name="limit.concurrent_requests" type="number" min="0"`, `name="limit.calls_per_day_limit" type="number" min="1"`} {
		if !strings.Contains(page, want) {
			t.Errorf("the page of the key has no %q", want)
		}
	}
	if exit, _, text := b.run("", "keys", "update", id, "--limit", "concurrent_requests=7", "--limit", "concurrent_streams=0"); exit != 0 || limits() != "7 0 true false" {
		t.Errorf("by the command: got %d %s, %s", exit, text, limits())
	}
	if _, text, _ := b.run("", "keys", "show", id); !strings.Contains(text, "0 of 7 in flight now") {
		t.Errorf("the command shows %s", text)
	}
	b.operate(200, "PATCH", "/admin/v1/keys/"+id, `{"limits": {"concurrent_requests": null, "concurrent_streams": null}}`)
	if got := limits(); got != "64 1000 true true" {
		t.Errorf("the defaults: got %s", got)
	}
	for _, value := range []string{"-1", "1.5", `"3"`, "1000000001"} {
		b.refuse("PATCH", "/admin/v1/keys/"+id, `{"limits": {"concurrent_requests": `+value+`}}`, 400, "validation_error", "limits.concurrent_requests must be a whole number from 0 (no limit) to 1000000000")
	}
	b.refuse("PATCH", "/admin/v1/keys/"+id, `{"limits": {"owner_concurrent_requests": 3}}`, 400, "validation_error", "Set it for the owner")
	if w := b.ask("GET", "/api/v1/key", secret, ""); !strings.Contains(w.Body.String(), `"concurrent_requests":{"kind":"concurrent","limit":64,"observe":false,"remaining":64,"resets_at":null`) {
		t.Errorf("the key sees %s", w.Body)
	}
	_, asker := b.key(`["can_verify_keys"]`)
	for _, body := range []string{`"limit": "concurrent_requests"`, `"limits": {"concurrent_streams": 0}`} {
		w := b.ask("POST", "/api/v1/verify", asker, fmt.Sprintf(`{"key": %q, %s}`, secret, body))
		if w.Code != 400 || !strings.Contains(w.Body.String(), "limits requests in flight") {
			t.Errorf("verify %s: got %d %s", body, w.Code, w.Body)
		}
	}
	w := b.load("text/csv", "name,sha256,owner,permissions,concurrent_streams\nfrom csv,"+sha("sk-csv")+",ann,can_read_calls,12\n")
	if w.Code != 201 || !strings.Contains(fmt.Sprint(b.operate(200, "GET", "/admin/v1/keys?search=from+csv", "")), "concurrent_streams:12") {
		t.Errorf("by CSV: got %d %s", w.Code, w.Body)
	}
}
