package conns

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"latchkey/internal/lean"
)

// port is a listener whose connections come from dial. The peer of a connection is at address.
type port struct {
	arrived chan net.Conn
	failed  chan error
	closed  chan struct{}
}

// peerConn is one end of a pipe whose other end is at address.
type peerConn struct {
	net.Conn
	address string
}

func (c peerConn) RemoteAddr() net.Addr { return stringAddr(c.address) }

type stringAddr string

func (stringAddr) Network() string  { return "tcp" }
func (a stringAddr) String() string { return string(a) }

func (p *port) Accept() (net.Conn, error) {
	select {
	case conn := <-p.arrived:
		return conn, nil
	case err := <-p.failed:
		return nil, err
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *port) Close() error   { close(p.closed); return nil }
func (p *port) Addr() net.Addr { return stringAddr("192.0.2.1:80") }

// scene is a group with its listener, whose accepted connections are in got, in their order.
type scene struct {
	t     *testing.T
	set   *Set
	group *Group
	port  *port
	l     net.Listener
	got   chan *Conn
}

// open starts a group that knows the address of peers. The proxy is at 198.51.100.9.
func open(t *testing.T, o Options, limits Limits) *scene {
	t.Helper()
	o.Peer = func(conn net.Conn) (netip.Addr, bool) {
		address, err := netip.ParseAddr(conn.RemoteAddr().String())
		if err != nil {
			t.Error(err)
		}
		return address, address == netip.MustParseAddr("198.51.100.9")
	}
	s := &scene{t: t, set: NewSet(), port: &port{make(chan net.Conn, 10), make(chan error, 1), make(chan struct{})}, got: make(chan *Conn, 1000)}
	s.group = s.set.Add(o, limits)
	s.l = s.group.Listen(s.port)
	go func() {
		for {
			conn, err := s.l.Accept()
			if err != nil {
				return
			}
			s.got <- conn.(*Conn)
		}
	}()
	return s
}

// dial makes a connection from an address and returns it as soon as it was accepted. It returns nil
// if it was not.
func (s *scene) dial(address string) *Conn {
	s.t.Helper()
	client, server := net.Pipe()
	s.t.Cleanup(func() { _ = client.Close() })
	s.port.arrived <- peerConn{server, address}
	synctest.Wait()
	select {
	case c := <-s.got:
		return c
	default:
		return nil
	}
}

// answered makes a connection idle after a request, which had a valid key if keyed is true.
func answered(c *Conn, kind string) {
	Note(c, http.StateActive)
	if kind == "keyed" {
		MarkKeyed(Context(context.Background(), c))
	}
	Note(c, http.StateIdle)
}

// wantOpen wants exactly these connections among all to be open. all and want name them in order.
func wantOpen(t *testing.T, when string, all []*Conn, want ...int) {
	t.Helper()
	left := map[int]bool{}
	for _, i := range want {
		left[i] = true
	}
	for i, c := range all {
		if c.closed.Load() == left[i] {
			t.Errorf("%s: connection %d is closed: %v, want %v", when, i, c.closed.Load(), !left[i])
		}
	}
}

func TestGroup_Full(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, Options{}, Limits{Max: 6})
		defer s.l.Close()
		all := []*Conn{}
		dial := func() {
			c := s.dial("127.0.0.1")
			if c == nil {
				t.Fatal("a new connection was not accepted")
			}
			all = append(all, c)
			time.Sleep(2 * time.Second)
		}
		for range 6 {
			dial()
		}
		answered(all[0], "keyed")
		answered(all[1], "")
		Note(all[2], http.StateActive) // a request without a key, soon for too long
		Note(all[3], http.StateActive)
		MarkKeyed(Context(t.Context(), all[3]))
		Note(all[4], http.StateActive)
		Note(all[4], http.StateHijacked)
		time.Sleep(time.Second / 2)
		dial() // 5 has sent nothing for the longest time
		wantOpen(t, "one that has sent nothing", all, 0, 1, 2, 3, 4, 6)
		dial()
		wantOpen(t, "idle without a key", all, 0, 2, 3, 4, 6, 7)
		answered(all[6], "keyed")
		answered(all[7], "keyed")
		dial()
		wantOpen(t, "a request without a key that does not end", all, 0, 3, 4, 6, 7, 8)
		answered(all[8], "keyed")
		dial()
		wantOpen(t, "with a key, idle for the longest time", all, 3, 4, 6, 7, 8, 9)
		for _, i := range []int{6, 7, 8, 9} {
			Note(all[i], http.StateActive)
			MarkKeyed(Context(t.Context(), all[i]))
		}
		if s.dial("127.0.0.1") != nil {
			t.Error("all are in use: a new connection was accepted, want it to wait")
		}
		wantOpen(t, "all in use", all, 3, 4, 6, 7, 8, 9)
		Note(all[8], http.StateIdle)
		synctest.Wait()
		wantOpen(t, "one has become idle", all, 3, 4, 6, 7, 9)
		if len(s.got) != 1 {
			t.Errorf("got %d new connections, want the one that waited", len(s.got))
		}
		if u := s.set.Usage()[0]; u.Open != 6 || u.Closed[Full] != 5 {
			t.Errorf("got %+v; want 6 open and 5 closed because the group was full", u)
		}
	})
}

// A flood takes no more than the limit, and in its order.
func TestGroup_Flood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, Options{}, Limits{Max: 100})
		defer s.l.Close()
		client := s.dial("127.0.0.1")
		answered(client, "keyed")
		var all []*Conn
		for range 500 {
			all = append(all, s.dial("127.0.0.1"))
			time.Sleep(time.Millisecond)
		}
		for i, c := range all {
			if c.closed.Load() != (i < 401) {
				t.Fatalf("connection %d is closed: %v", i, c.closed.Load())
			}
		}
		if client.closed.Load() || s.group.open.Load() != 100 {
			t.Errorf("the client with a key is closed: %v; %d are open, want 100", client.closed.Load(), s.group.open.Load())
		}
	})
}

// A listener that waits for room ends with its connection when it is closed.
func TestListener_Close(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, Options{Trusted: true}, Limits{Max: 1})
		Note(s.dial("127.0.0.1"), http.StateActive)
		if s.dial("127.0.0.1") != nil {
			t.Error("got a second connection, want it to wait")
		}
		_ = s.l.Close()
		synctest.Wait()
		if len(s.got) != 1 {
			t.Error("the connection that waited was lost, want it served")
		}
	})
}

func TestGroup_Network(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, Options{}, Limits{MaxPerNetwork: 2})
		defer s.l.Close()
		for _, free := range []string{"127.0.0.1", "::1", "198.51.100.9"} {
			for i := range 5 {
				if c := s.dial(free); c == nil {
					t.Errorf("%s: connection %d was refused", free, i)
				}
			}
		}
		for _, tt := range []struct{ one, other, stranger string }{
			{"192.0.2.1", "192.0.2.1", "192.0.2.2"},
			{"2001:db8::1", "2001:db8::ffff:1", "2001:db8:0:1::1"},
		} {
			all := []*Conn{s.dial(tt.one), s.dial(tt.other), s.dial(tt.stranger)}
			answered(all[0], "keyed")
			time.Sleep(2 * time.Second)
			all = append(all, s.dial(tt.one))
			wantOpen(t, tt.one, all, 0, 2, 3)
			Note(all[3], http.StateActive)
			all = append(all, s.dial(tt.one))
			wantOpen(t, tt.one+" with a key", all, 2, 3, 4)
			Note(all[4], http.StateActive)
			if s.dial(tt.other) != nil {
				t.Errorf("%s: a third connection was accepted while two were in use", tt.one)
			}
			if s.dial(tt.stranger) == nil {
				t.Errorf("%s was refused because of its neighbour", tt.stranger)
			}
			_ = all[3].Close()
			if s.dial(tt.other) == nil {
				t.Errorf("%s was refused after another connection had ended", tt.other)
			}
		}
		if u := s.set.Usage()[0]; u.Closed[Address] != 4 || u.Closed[AddressBusy] != 2 || u.Closed[Full] != 0 {
			t.Errorf("got %+v; want 4 closed and 2 refused", u)
		}
	})
}

// The table of networks does not grow with the clients that have been here.
func TestGroup_NetworkEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, Options{}, Limits{MaxPerNetwork: 2})
		defer s.l.Close()
		c := s.dial("192.0.2.1")
		if len(s.group.networks) != 1 {
			t.Errorf("got %d networks, want 1", len(s.group.networks))
		}
		_, _ = c.Close(), c.Close() // a second time, as net/http does
		if len(s.group.networks) != 0 || s.group.open.Load() != 0 {
			t.Errorf("got %d networks and %d connections after the end, want none", len(s.group.networks), s.group.open.Load())
		}
	})
}

func TestSet_Sweep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, Options{KeyTime: 10 * time.Second}, Limits{})
		defer s.l.Close()
		all := []*Conn{s.dial("192.0.2.1"), s.dial("192.0.2.2"), s.dial("192.0.2.3"), s.dial("198.51.100.9"), s.dial("127.0.0.1")}
		answered(all[1], "keyed")
		Note(all[2], http.StateActive) // a slow client
		time.Sleep(10*time.Second - 1)
		s.set.Sweep()
		wantOpen(t, "before", all, 0, 1, 2, 3, 4)
		answered(all[4], "")
		time.Sleep(time.Nanosecond)
		s.set.Sweep()
		wantOpen(t, "after 10 seconds", all, 1, 2, 3, 4)
		time.Sleep(time.Second)
		s.set.Sweep()
		wantOpen(t, "a second later, the last one is idle", all, 1, 2, 3)
		Note(all[2], http.StateIdle)
		time.Sleep(time.Second)
		s.set.Sweep()
		wantOpen(t, "after the request", all, 1, 3)
		if u := s.set.Usage()[0]; u.Closed[NoKey] != 3 {
			t.Errorf("got %+v; want 3 closed", u)
		}
	})
}

func TestSet_Hold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, Options{}, Limits{Max: 10})
		defer s.l.Close()
		var idle []func()
		s.set.Share(s.group, 4, func() {
			for _, done := range idle {
				done()
			}
			idle = nil
		})
		all := []*Conn{s.dial("127.0.0.1")}
		time.Sleep(time.Millisecond)
		all = append(all, s.dial("127.0.0.1"))
		hold := func() func() {
			t.Helper()
			done, err := s.set.Hold()
			if err != nil {
				t.Fatal(err)
			}
			return done
		}
		done := hold()
		idle = append(idle, hold())
		wantOpen(t, "there is room", all, 0, 1)
		idle = append(idle, hold())
		wantOpen(t, "no room", all, 1)
		Note(all[1], http.StateActive)
		MarkKeyed(Context(t.Context(), all[1]))
		hold() // ends the idle ones
		if len(idle) != 0 || s.set.Held() != 2 {
			t.Errorf("got %d held, want the idle ones to be closed", s.set.Held())
		}
		hold()
		if _, err := s.set.Hold(); err != ErrNoRoom {
			t.Errorf("got %v, want ErrNoRoom", err)
		}
		if s.dial("127.0.0.1") != nil {
			t.Error("a connection was accepted, want it to wait")
		}
		done()
		done() // again, without effect
		synctest.Wait()
		if len(s.got) != 1 || s.set.Held() != 2 {
			t.Errorf("got %d connections and %d held; want the one that waited, and 2", len(s.got), s.set.Held())
		}
	})
}

// Strangers whose requests have just begun fill the group. Hold waits until the first of them lasts for too long.
func TestSet_HoldWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, Options{}, Limits{Max: 10})
		defer s.l.Close()
		s.set.Share(s.group, 2, func() {})
		var all []*Conn
		for range 2 {
			all = append(all, s.dial("127.0.0.1"))
			time.Sleep(time.Millisecond)
			Note(all[len(all)-1], http.StateActive)
		}
		began := time.Now()
		done, err := s.set.Hold()
		if took := time.Since(began); err != nil || took > holdTime {
			t.Fatalf("got %v after %s, want room", err, took)
		}
		wantOpen(t, "room was made", all, 1)
		done()
	})
}

// If the process has no file descriptor left, an idle connection is closed for the new one.
func TestListener_Descriptors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, Options{}, Limits{})
		defer s.l.Close()
		c := s.dial("127.0.0.1")
		s.port.failed <- &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", syscall.EMFILE)}
		synctest.Wait()
		if !c.closed.Load() || s.dial("127.0.0.1") == nil || s.set.Usage()[0].Closed[Descriptors] != 1 {
			t.Error("want the idle connection closed, and the next one accepted")
		}
	})
}

func TestSet_Wait(t *testing.T) {
	for _, tt := range []struct {
		name string
		do   func(c [3]*Conn)
		want time.Duration // that it waits
	}{
		{"none", func(c [3]*Conn) { closeAll(c[:]) }, 0},
		{"idle ones", func(c [3]*Conn) {
			closeAll(c[1:])
			answered(c[0], "")
		}, 0},
		{"one that says nothing", func([3]*Conn) {}, patience},
		{"one that left net/http", func(c [3]*Conn) {
			closeAll(c[1:])
			Note(c[0], http.StateActive)
			Note(c[0], http.StateHijacked)
		}, 0},
		{"one whose request takes longer", func(c [3]*Conn) {
			closeAll(c[2:])
			Note(c[1], http.StateActive)
			time.AfterFunc(time.Second, func() { Note(c[0], http.StateActive) })
			time.AfterFunc(5*time.Second, func() { _ = c[0].Close() })
			time.AfterFunc(4*time.Second, func() { Note(c[1], http.StateIdle) })
		}, 5 * time.Second},
		{"one that never ends", func(c [3]*Conn) { Note(c[2], http.StateActive) }, 10 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := open(t, Options{}, Limits{})
			tt.do([3]*Conn{s.dial("127.0.0.1"), s.dial("127.0.0.1"), s.dial("127.0.0.1")})
			_ = s.l.Close()
			began := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			s.set.Wait(ctx)
			if got := time.Since(began); got != tt.want {
				t.Errorf("%s: waited %v, want %v", tt.name, got, tt.want)
			}
		})
	}
}

func closeAll(list []*Conn) {
	for _, c := range list {
		_ = c.Close()
	}
}

// Connections that no listener of a Set has accepted have no effect, as in tests of handlers.
func TestNote_foreign(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	Note(a, http.StateActive)
	MarkKeyed(Context(t.Context(), a))
	MarkKeyed(t.Context())
}

// The way of a request allocates nothing and takes no lock.
func TestNote_allocates(t *testing.T) {
	s := NewSet()
	g := s.Add(Options{}, Limits{})
	a, b := net.Pipe()
	defer b.Close()
	c := g.newConn(a)
	g.add(c)
	defer c.Close()
	ctx := Context(t.Context(), c)
	for i := range g.shards {
		g.shards[i].Lock() // Note would wait for ever
	}
	g.mu.Lock()
	s.mu.Lock()
	if n := testing.AllocsPerRun(100, func() {
		Note(c, http.StateActive)
		MarkKeyed(ctx)
		Note(c, http.StateIdle)
	}); n != 0 {
		t.Errorf("got %v allocations, want none", n)
	}
	s.mu.Unlock()
	g.mu.Unlock()
	for i := range g.shards {
		g.shards[i].Unlock()
	}
}

// A request that arrives on a connection while that is being closed for another one is not served,
// so that a client may repeat it.
func TestGuard(t *testing.T) {
	s := NewSet()
	g := s.Add(Options{}, Limits{})
	a, b := net.Pipe()
	defer b.Close()
	c := g.newConn(a)
	g.add(c)
	served := false
	h := Guard(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { served = true }))
	r, err := http.NewRequestWithContext(Context(t.Context(), c), "POST", "/", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	Note(c, http.StateActive)
	if h.ServeHTTP(nil, r); !served {
		t.Error("a request on an open connection was not served")
	}
	Note(c, http.StateIdle)
	if !g.closeFor(Full) {
		t.Fatal("the connection was not closed")
	}
	Note(c, http.StateActive)
	served = false
	defer func() {
		if p := recover(); p != http.ErrAbortHandler || served {
			t.Errorf("got panic %v, served %v; want the request aborted", p, served)
		}
	}()
	h.ServeHTTP(nil, r)
}

func TestConn_passesOn(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l = NewSet().Add(Options{}, Limits{}).Listen(l)
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	text := io.LimitReader(constant{}, 1000)
	if n, err := conn.(io.ReaderFrom).ReadFrom(text); n != 1000 || err != nil {
		t.Errorf("ReadFrom: got %d, %v", n, err)
	}
	if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Error(err)
	}
	if got, err := io.ReadAll(client); len(got) != 1000 || err != nil {
		t.Errorf("got %d bytes, %v; want 1000 and the end", len(got), err)
	}
}

// constant reads the same byte for ever.
type constant struct{}

func (constant) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = 'x'
	}
	return len(b), nil
}

// around is a connection around another one, such as a tls.Conn.
type around struct{ net.Conn }

func (a around) NetConn() net.Conn { return a.Conn }

// A connection is found in those around it, and its descriptor is that of the one in it.
func TestConn_around(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	c := NewSet().Add(Options{}, Limits{}).newConn(a)
	if Note(around{around{c}}, http.StateActive); !c.begun.Load() {
		t.Error("want the state of the connection inside to change")
	}
	if _, err := c.SyscallConn(); err != errors.ErrUnsupported {
		t.Errorf("a pipe: got %v, want ErrUnsupported", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	raw, err := NewSet().Add(Options{}, Limits{}).newConn(client).SyscallConn()
	if err != nil || raw == nil {
		t.Errorf("TCP: got %v, %v", raw, err)
	}
}

// Two listeners of a group that accept at once do not both take the last place. They do it often, because it
// takes a moment in which neither has counted its connection.
func TestGroup_TwoListeners(t *testing.T) {
	for range 2000 {
		g := NewSet().Add(Options{}, Limits{Max: 1})
		start := make(chan bool)
		var accepting sync.WaitGroup
		for range 2 {
			p := &port{make(chan net.Conn, 1), make(chan error, 1), make(chan struct{})}
			client, server := net.Pipe()
			defer client.Close()
			p.arrived <- peerConn{server, "192.0.2.1"}
			l := g.Listen(p)
			accepting.Go(func() {
				defer l.Close()
				<-start
				if _, err := l.Accept(); err != nil {
					t.Error(err)
				}
			})
		}
		close(start)
		accepting.Wait()
		if n := g.open.Load(); n != 1 {
			t.Fatalf("%d connections count, want 1", n)
		}
	}
}

// A connection that is closed for another one makes room although its handler still runs. It has its file descriptor until
// then, so there are only some of them: further connections wait.
func TestGroup_FullOfHandlers(t *testing.T) {
	const room = 20
	g := NewSet().Add(Options{}, Limits{Max: room})
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := g.Listen(inner)
	began, release := make(chan bool, room+maxAbandoned+1), make(chan bool)
	free := sync.OnceFunc(func() { close(release) })
	web := &http.Server{ConnState: Note, ConnContext: Context, ErrorLog: log.New(io.Discard, "", 0), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began <- true
		<-release
	})}
	s := lean.New(web)
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }()
	defer func() {
		free()
		_ = l.Close()
		<-ended
		if err := s.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		_ = web.Close()
	}()
	ask := func() {
		t.Helper()
		c, err := net.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	}
	begins := func() {
		t.Helper()
		select {
		case <-began:
		case <-time.After(20 * time.Second):
			t.Fatalf("a request does not begin: %d connections count, %d wait for their handlers", g.open.Load(), g.abandoned.Load())
		}
	}
	for range room + maxAbandoned {
		ask()
		begins()
	}
	ask()
	select {
	case <-began:
		t.Errorf("more than %d connections wait for their handlers", maxAbandoned)
	case <-time.After(2 * settled):
	}
	if n := g.abandoned.Load(); n != maxAbandoned {
		t.Errorf("%d connections wait for their handlers, want %d", n, maxAbandoned)
	}
	free()
	begins()
	for deadline := time.Now().Add(10 * time.Second); g.abandoned.Load() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("connections wait for handlers that have returned")
		}
	}
}
