package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"latchkey/internal/certs/certstest"
	"latchkey/internal/conns"
)

func TestShareFiles(t *testing.T) {
	for _, tt := range []struct {
		limit int
		want  fileShares
	}{
		{64, fileShares{64, 8, 8, 8, 8}},
		{256, fileShares{256, 16, 8, 8, 192}},
		{1024, fileShares{1024, 64, 32, 32, 768}},
		{65536, fileShares{65536, 1024, 256, 256, 62976}},
		{0, fileShares{16384, 1024, 256, 256, 13824}},
	} {
		if got := shareFiles(tt.limit); got != tt.want {
			t.Errorf("%d: got %+v, want %+v", tt.limit, got, tt.want)
		}
	}
}

func TestConnections_Use(t *testing.T) {
	for _, tt := range []struct {
		files, most, each int
		api, admin        conns.Limits
		warned            bool
	}{
		{1024, 0, 0, conns.Limits{Max: 768, MaxPerNetwork: 192}, conns.Limits{Max: 64, MaxPerNetwork: 16}, false},
		{1024, 100, 0, conns.Limits{Max: 100, MaxPerNetwork: 25}, conns.Limits{Max: 64, MaxPerNetwork: 16}, false},
		{1024, 768, 500, conns.Limits{Max: 768, MaxPerNetwork: 500}, conns.Limits{Max: 64, MaxPerNetwork: 500}, false},
		{1024, 769, 0, conns.Limits{Max: 768, MaxPerNetwork: 192}, conns.Limits{Max: 64, MaxPerNetwork: 16}, true},
		{1 << 20, 0, 0, conns.Limits{Max: 32768, MaxPerNetwork: 8192}, conns.Limits{Max: 1024, MaxPerNetwork: 256}, false},
		{1 << 20, 100_000, 0, conns.Limits{Max: 100_000, MaxPerNetwork: 25_000}, conns.Limits{Max: 1024, MaxPerNetwork: 256}, false},
	} {
		log := &lockedBuffer{}
		c := NewConnections(ConnectionsOptions{Config: defaultConfig(), Files: tt.files, Log: slog.New(slog.NewTextHandler(log, nil))})
		config := defaultConfig()
		config.Server.MaxConnections, config.Server.MaxConnectionsPerAddress = tt.most, tt.each
		c.Use(config) // as a reload does
		listeners, _ := c.Usage()
		if got := []conns.Limits{listeners[0].Limits, listeners[1].Limits}; got[0] != tt.api || got[1] != tt.admin {
			t.Errorf("%+v: got %+v", tt, got)
		}
		if strings.Contains(log.String(), "max_connections") != tt.warned {
			t.Errorf("%+v: got log %q", tt, log)
		}
	}
}

// The log gets one line a minute, however many connections are closed.
func TestConnections_logClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &lockedBuffer{}
		c := NewConnections(ConnectionsOptions{Config: defaultConfig(), Log: slog.New(slog.NewTextHandler(log, nil))})
		c.socket.SetLimits(conns.Limits{Max: 1})
		l := c.socket.Listen(&pipes{})
		ctx, stop := context.WithCancel(t.Context())
		go c.tend(ctx)
		var last net.Conn
		for range 150 {
			last, _ = l.Accept()
			time.Sleep(time.Second)
		}
		synctest.Wait()
		if got := strings.Count(log.String(), "connections closed to make room"); got != 3 {
			t.Errorf("got %d lines in 150 seconds, want 3:\n%s", got, log)
		}
		stop()
		synctest.Wait()
		if !strings.Contains(log.String(), "socket_full=149") {
			t.Errorf("want the last ones at the end:\n%s", log)
		}
		_ = last.Close()
	})
}

// pipes is a listener that has a new connection whenever it is asked for one.
type pipes struct{ net.Listener }

func (p *pipes) Accept() (net.Conn, error) {
	conn, _ := net.Pipe()
	return conn, nil
}

// peers is a listener whose connections have these addresses.
type peers struct {
	net.Listener
	local, remote net.Addr
}

// peer is a connection of peers.
type peer struct {
	net.Conn
	peers
}

func (p peers) Accept() (net.Conn, error) {
	conn, _ := net.Pipe()
	return peer{conn, p}, nil
}

func (p peer) Close() error         { return p.Conn.Close() }
func (p peer) LocalAddr() net.Addr  { return p.local }
func (p peer) RemoteAddr() net.Addr { return p.remote }

// The 10 seconds for a first request with a valid key apply to clients, also on this machine, but
// not to trusted proxies and unix sockets. The number for each address applies to clients elsewhere.
func TestConnections_Peers(t *testing.T) {
	at := func(text string) net.Addr { return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(text)) }
	socket := &net.UnixAddr{Name: "/run/api.sock", Net: "unix"}
	for _, tt := range []struct {
		name          string
		local, remote net.Addr
		timed         bool // the 10 seconds apply
		counted       bool // the number for each address applies
	}{
		{"client", at("192.0.2.1:80"), at("192.0.2.9:1000"), true, true},
		{"client over IPv6", at("[2001:db8::1]:80"), at("[2001:db8::9]:1000"), true, true},
		{"client over IPv4 at an IPv6 socket", at("[2001:db8::1]:80"), at("[::ffff:192.0.2.9]:1000"), true, true},
		{"this machine", at("127.0.0.1:80"), at("127.0.0.1:1000"), true, false},
		{"this machine over IPv6", at("[::1]:80"), at("[::1]:1000"), true, false},
		{"this machine, mapped", at("[::1]:80"), at("[::ffff:127.0.0.1]:1000"), true, false},
		{"proxy", at("192.0.2.1:80"), at("10.1.2.3:1000"), false, false},
		{"proxy, mapped", at("[2001:db8::1]:80"), at("[::ffff:10.1.2.3]:1000"), false, false},
		{"unix socket", socket, socket, false, false},
		{"unix socket of a client with a name like an address", socket, &net.UnixAddr{Name: "192.0.2.9:80", Net: "unix"}, false, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			config := defaultConfig()
			config.Server.TrustedProxies, config.Server.MaxConnectionsPerAddress = []string{"10.0.0.0/8"}, 1
			c := NewConnections(ConnectionsOptions{Config: config, Log: slog.New(slog.DiscardHandler)})
			for _, group := range []*conns.Group{c.api, c.admin} {
				l := group.Listen(peers{nil, tt.local, tt.remote})
				var all [2]net.Conn
				for i := range all {
					var err error
					if all[i], err = l.Accept(); err != nil {
						t.Fatal(err)
					}
				}
				isOpen := func(i int) bool { return all[i].SetDeadline(time.Time{}) == nil }
				if isOpen(0) == tt.counted {
					t.Errorf("%s: the first of two connections is open: %v, want %v", tt.name, isOpen(0), !tt.counted)
				}
				time.Sleep(11 * time.Second)
				c.set.Sweep()
				if isOpen(1) == tt.timed {
					t.Errorf("%s: the second connection is open after 11 seconds: %v, want %v", tt.name, isOpen(1), !tt.timed)
				}
			}
		})
	}
}

// roomScene is a set of listeners that may have 4 connections to the API, and 20 connections of
// clients that send nothing.
type roomScene struct {
	*Listeners
	connections *Connections
	upgraded    chan net.Conn // connections that have left net/http
}

// openRoom opens the listeners. The API marks a request for /key as one with a valid key, and takes
// over the connection of one for /upgrade.
func openRoom(t *testing.T, change func(*ListenerOptions)) *roomScene {
	t.Helper()
	s := &roomScene{upgraded: make(chan net.Conn, 10)}
	s.Listeners = openDoors(t, func(o *ListenerOptions) {
		o.Config.Server.MaxConnections = 4
		o.API = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/key":
				conns.MarkKeyed(r.Context())
			case "/upgrade":
				conns.MarkKeyed(r.Context())
				conn, _, err := http.NewResponseController(w).Hijack()
				if err != nil {
					t.Error(err)
					return
				}
				s.upgraded <- conn
				return
			}
			_, _ = io.WriteString(w, "api")
		})
		change(o)
		o.Connections = NewConnections(ConnectionsOptions{Config: o.Config, Files: 1024, Log: o.Log})
		s.connections = o.Connections
	})
	return s
}

// flood opens connections to an address that send a text and then nothing.
func flood(t *testing.T, address net.Addr, text string) {
	t.Helper()
	for range 20 {
		c, err := net.Dial(address.Network(), address.String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		_, _ = io.WriteString(c, text) // an error means that it was closed meanwhile
	}
}

// waitFlood waits until n connections to the API were closed to make room: a flood arrives late on a busy machine.
func (s *roomScene) waitFlood(t *testing.T, n int) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		listeners, _ := s.connections.Usage()
		if int(listeners[0].Closed[conns.Full]) >= n {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("got %+v, want %d closed to make room", listeners[0], n)
		}
	}
}

// wantUse wants at most 4 connections to the API to be open.
func (s *roomScene) wantUse(t *testing.T) {
	t.Helper()
	listeners, _ := s.connections.Usage()
	if listeners[0].Open > 4 || listeners[0].Closed[conns.Full] == 0 {
		t.Errorf("got %+v; want at most 4 connections, and some closed", listeners[0])
	}
}

// reuses sends a request and reports whether it was answered over a connection of before.
func reuses(t *testing.T, client *http.Client, url string) (reused bool) {
	t.Helper()
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { reused = i.Reused }})
	r, err := http.NewRequestWithContext(ctx, "GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if _, err := io.Copy(io.Discard, answer.Body); err != nil || answer.StatusCode != 200 {
		t.Fatalf("got %d, %v", answer.StatusCode, err)
	}
	return reused
}

// Handshakes that never finish take no room, and a client that has shown a key keeps its
// connection, over HTTP/1 and HTTP/2.
func TestConnections_TLS(t *testing.T) {
	dir := t.TempDir()
	ca := certstest.NewAuthority(t)
	s := openRoom(t, func(o *ListenerOptions) {
		o.Config.Server.TLSCertFile, o.Config.Server.TLSKeyFile = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
		o.Config.Server.ReadHeaderTimeout = time.Hour
		ca.Issue(o.Config.Server.TLSCertFile, o.Config.Server.TLSKeyFile, time.Now().Add(time.Hour))
	})
	url := "https://" + s.API().String()
	first := certstest.Client(t, ca.File, func(c *tls.Config) { c.NextProtos = []string{"http/1.1"} })
	first.Transport.(*http.Transport).ForceAttemptHTTP2 = false
	second, none := certstest.Client(t, ca.File, nil), certstest.Client(t, ca.File, nil)
	reuses(t, first, url+"/key")
	reuses(t, second, url+"/key")
	reuses(t, none, url+"/")
	flood(t, s.API(), "\x16\x03\x01\x02\x00\x01")
	s.waitFlood(t, 19) // of 23
	if !reuses(t, first, url+"/") || !reuses(t, second, url+"/") {
		t.Error("a client with a key has lost its connection")
	}
	if reuses(t, none, url+"/") {
		t.Error("a client without a key has kept its connection")
	}
	s.wantUse(t)
}

// A connection that has left net/http takes room until it is closed.
func TestConnections_Upgrades(t *testing.T) {
	s := openRoom(t, func(*ListenerOptions) {})
	for range 4 {
		c, err := net.Dial("tcp", s.API().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fmt.Fprint(c, "GET /upgrade HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
	}
	var all []net.Conn
	for range 4 {
		all = append(all, <-s.upgraded)
	}
	answered := make(chan error, 1)
	go func() {
		r, err := http.Get("http://" + s.API().String() + "/key")
		if err == nil {
			err = r.Body.Close()
		}
		answered <- err
	}()
	waiting, stop := time.After(200*time.Millisecond), false // far less than the timeouts, and enough to see a wrong answer
	for !stop {
		select {
		case err := <-answered:
			t.Fatalf("four connections are in use: got an answer, %v; want the client to wait", err)
		case <-waiting:
			stop = true
		}
	}
	for _, c := range all {
		_ = c.Close()
	}
	if err := <-answered; err != nil {
		t.Error(err)
	}
	if listeners, _ := s.connections.Usage(); listeners[0].Open > 1 {
		t.Errorf("got %d connections, want those that were closed not to count", listeners[0].Open)
	}
}

// The sockets of a service manager share the room of their listener, and the other listeners have
// their own.
func TestConnections_Sockets(t *testing.T) {
	var all []net.Listener
	for range 2 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, l)
	}
	var socket string
	s := openRoom(t, func(o *ListenerOptions) {
		o.Sockets = map[string][]net.Listener{"api": all}
		socket = o.Socket
	})
	for _, l := range all {
		flood(t, l.Addr(), "GET / HTTP/1.1\r\nHost: x\r\n")
	}
	s.waitFlood(t, 20*len(all)-4)
	for _, l := range all {
		reuses(t, &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}, "http://"+l.Addr().String())
	}
	s.wantUse(t)
	flood(t, s.Admin(), "")
	if _, body := fetch(t, http.DefaultClient, "http://"+s.Admin().String()); body != "admin" {
		t.Errorf("got %q, want the admin listener", body)
	}
	local := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	if _, body := fetch(t, local, "http://localhost"); body != "local" {
		t.Errorf("got %q, want the control socket", body)
	}
}

// A connection on which a client or an operator has shown a valid key, token or login keeps its
// place when there is no room for more. Each way in is walked, and each failed attempt.
func TestConnections_Keyed(t *testing.T) {
	b := newDashboard(t, func(c *Config) {
		c.Routes = []RouteRow{{Path: "/up/*rest", Permission: []string{"can_read_agents"}}}
	})
	id, secret := b.key(`["can_read_agents"]`)
	paused, pausedSecret := b.key(`["can_read_agents"]`)
	_, elsewhere := b.key(`["can_read_agents"]`, `"allowed_ips": ["203.0.113.7"]`)
	b.operate(200, "POST", "/admin/v1/keys/"+paused+"/pause", "")
	token := b.token()
	bearer := func(secret string) http.Header { return http.Header{"Authorization": {"Bearer " + secret}} }
	session := b.sessionCookie().String()
	for _, tt := range []struct {
		name   string
		door   http.Handler
		path   string
		header http.Header
		status int
		want   bool
	}{
		{"key", b.api, "/api/v1/agents", bearer(secret), 200, true},
		{"key in another field", b.api, "/api/v1/agents", http.Header{"X-Api-Key": {secret}}, 200, true},
		{"key in the query", b.api, "/api/v1/agents?api_key=" + secret, nil, 200, true},
		{"key without the permission", b.api, "/api/v1/contacts", bearer(secret), 403, true},
		{"key at its own endpoint", b.api, "/api/v1/key", bearer(secret), 200, true},
		{"key asked about by a proxy", b.api, "/authz/envoy/up/x", bearer(secret), 200, true},
		{"no key", b.api, "/api/v1/agents", nil, 401, false},
		{"wrong key", b.api, "/api/v1/agents", bearer(secret[:len(secret)-1] + "!"), 401, false},
		{"paused key", b.api, "/api/v1/agents", bearer(pausedSecret), 401, false},
		{"key from another address", b.api, "/api/v1/agents", bearer(elsewhere), 403, false},
		{"wrong key asked about by a proxy", b.api, "/authz/envoy/up/x", bearer("no"), 401, false},
		{"endpoint without a key", b.api, "/healthz", bearer(secret), 200, false},
		{"no such endpoint", b.api, "/nowhere", bearer(secret), 404, false},
		{"token", b.door, "/admin/v1/keys/" + id, bearer(token), 200, true},
		{"token for the metrics", b.door, "/metrics", bearer(token), 200, true},
		{"no token", b.door, "/admin/v1/keys", nil, 401, false},
		{"wrong token", b.door, "/admin/v1/keys", bearer(token + "x"), 401, false},
		{"login at a page", b.door, "/keys", http.Header{"Cookie": {session}}, 200, true},
		{"login at the endpoint", b.door, "/admin/v1/keys", http.Header{"Cookie": {session}}, 200, true},
		{"login page", b.door, "/login", nil, 200, false},
		{"page without a login", b.door, "/keys", nil, 303, false},
		{"page with a wrong login", b.door, "/keys", http.Header{"Cookie": {b.plainCookie() + "=x"}}, 303, false},
	} {
		g := conns.NewSet().Add(conns.Options{}, conns.Limits{Max: 2})
		l := g.Listen(&pipes{})
		var all []net.Conn
		accept := func() {
			conn, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, conn)
		}
		accept()
		accept()
		r := httptest.NewRequest("GET", "http://127.0.0.1:8081"+tt.path, nil)
		r.RemoteAddr = "127.0.0.1:1234"
		if tt.header != nil {
			r.Header = tt.header
		}
		w := httptest.NewRecorder()
		if tt.door.ServeHTTP(w, r.WithContext(conns.Context(r.Context(), all[0]))); w.Code != tt.status {
			t.Errorf("%s: got %d %s, want %d", tt.name, w.Code, w.Body, tt.status)
		}
		accept() // closes the first one, which is older, unless it has shown a key
		if kept := all[0].SetDeadline(time.Time{}) == nil; kept != tt.want {
			t.Errorf("%s: the connection was kept: %v, want %v", tt.name, kept, tt.want)
		}
	}
}

// Connections to upstreams take room too. Without room, the idle ones are closed for a new one, and
// if all are in use, the request is refused and nothing that was kept back is used.
func TestConnections_Upstreams(t *testing.T) {
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) }))
	defer upstream.Close()
	a := newTestApp(t, func(c *Config) {
		c.Routes = []RouteRow{{Path: "/up", Methods: []string{"*"}, Upstream: upstream.URL}}
	})
	_, secret := a.key(`["can_read_agents"]`)
	a.connections.set.Share(a.connections.api, 1, a.proxy.CloseIdle)
	held := func() int {
		_, upstreams := a.connections.Usage()
		return upstreams
	}
	for _, method := range []string{"GET", "POST"} { // without and with a body, which go different ways
		done, err := a.connections.Hold()
		if err != nil {
			t.Fatal(err)
		}
		if w := a.ask(method, "/up", secret, "x"); w.Code != 502 || code(w) != "bad_gateway" {
			t.Errorf("%s without room: got %d %s, want 502", method, w.Code, w.Body)
		}
		done()
		if w := a.ask(method, "/up", secret, "x"); w.Code != 200 || held() != 1 {
			t.Errorf("%s with room: got %d %s, and %d connections; want 200 and 1", method, w.Code, w.Body, held())
		}
	}
	a.proxy.CloseIdle()
	if held() != 0 {
		t.Errorf("got %d connections after the idle ones were closed, want none", held())
	}
}
