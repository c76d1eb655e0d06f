//go:build unix

package lean

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"syscall"
	"testing"
)

// BenchmarkTLS compares net/http with the loop of this package over connections with TLS on which the
// client has chosen HTTP/1.1, and without TLS. The server does not use the loop with TLS:
// docs/benchmarks.md has the figures and the reasons.
func BenchmarkTLS(b *testing.B) {
	answer := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["Content-Type"] = []string{"application/json"}
		w.Header()["X-Ratelimit-Limit"] = []string{"60"}
		_, _ = io.WriteString(w, `{"agents":[{"id":1,"name":"Front desk","phone_number":"+4930555001"}]}`)
	})
	for _, secure := range []string{"plain", "TLS"} {
		for _, server := range []string{"net/http", "lean"} {
			b.Run(secure+"/"+server, func(b *testing.B) {
				client, accepted := ends(b, secure == "TLS")
				web := &http.Server{Handler: answer}
				s := New(web)
				if server == "net/http" {
					go func() { _ = web.Serve(s.rest) }()
					go s.rest.give(accepted)
				} else {
					go serveOver(s, accepted)
				}
				b.Cleanup(func() { _ = web.Close() })
				ask(b, client)
			})
		}
	}
}

// ask sends one request after the other, and reports the CPU time of both ends, which depends less on
// what else the machine does.
func ask(b *testing.B, client net.Conn) {
	request := []byte("GET /api/v1/agents HTTP/1.1\r\nHost: localhost\r\nX-API-Key: klen_0123456789abcdef0123456789abcdef0123\r\n\r\n")
	in := bufio.NewReader(client)
	b.ReportAllocs()
	before := spent(b)
	for b.Loop() {
		if _, err := client.Write(request); err != nil {
			b.Fatal(err)
		}
		r, err := http.ReadResponse(in, nil)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(spent(b)-before)/float64(b.N), "cpu-ns/op")
}

// spent returns the CPU time of this process in nanoseconds.
func spent(b *testing.B) int64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return u.Utime.Nano() + u.Stime.Nano()
}

// ends returns both ends of a connection.
func ends(b *testing.B, secure bool) (client, accepted net.Conn) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	if client, err = net.Dial("tcp", l.Addr().String()); err != nil {
		b.Fatal(err)
	}
	if accepted, err = l.Accept(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _, _ = client.Close(), accepted.Close() })
	if !secure {
		return client, accepted
	}
	issuer := httptest.NewTLSServer(nil)
	defer issuer.Close()
	server := tls.Server(accepted, &tls.Config{Certificates: issuer.TLS.Certificates, NextProtos: []string{"http/1.1"}})
	trusting := issuer.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	trusting.ServerName, trusting.NextProtos = "example.com", []string{"http/1.1"}
	over := tls.Client(client, trusting)
	ended := make(chan error, 1)
	go func() { ended <- server.Handshake() }()
	if err := over.Handshake(); err != nil {
		b.Fatal(err)
	}
	if err := <-ended; err != nil {
		b.Fatal(err)
	}
	return over, server
}

// serveOver serves a connection in the loop, also one with TLS. That cannot be watched without reading
// from it, so the loop waits in Read, with a buffer.
func serveOver(s *Server, accepted net.Conn) {
	secure, ok := accepted.(*tls.Conn)
	if !ok {
		s.newConn(accepted).serve()
		return
	}
	c := s.newConn(waitingConn{secure})
	c.tryRead = func(uintptr) bool {
		if c.buf == nil {
			c.buf = buffers.Get().(*buffer)
			c.r, c.w = 0, 0
		}
		c.got, c.rerr = secure.Read(c.buf.data[c.w:])
		c.w += c.got
		return true
	}
	c.turn = c.tryRead
	c.tryWrite = func(uintptr) bool {
		_, c.werr = secure.Write(c.left)
		return true
	}
	c.serve()
}

// waitingConn is a connection whose SyscallConn waits in the function that it calls.
type waitingConn struct{ *tls.Conn }

func (w waitingConn) SyscallConn() (syscall.RawConn, error) { return waitingRaw{}, nil }

type waitingRaw struct{}

func (waitingRaw) Control(f func(uintptr)) error    { f(0); return nil }
func (waitingRaw) Read(f func(uintptr) bool) error  { f(0); return nil }
func (waitingRaw) Write(f func(uintptr) bool) error { f(0); return nil }
