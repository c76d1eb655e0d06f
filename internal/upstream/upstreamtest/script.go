// Package upstreamtest simulates upstreams for tests.
package upstreamtest

import (
	"bufio"
	"io"
	"net"
	"strings"
	"testing"
)

// Script is an upstream for tests that sends prepared answers. It uses one answer for each request,
// in order, over all connections. When no answer is left, it closes the connection.
type Script struct {
	net.Listener
	Asked chan string           // receives the head of each request; its buffer holds 100
	Lines chan func(c net.Conn) // the answers that are not yet used
}

// NewScript starts an upstream on a free local port that sends answers. There may be at most 100 of
// them; send later ones to Lines. The listener is closed when the test t ends.
func NewScript(t testing.TB, answers ...func(c net.Conn)) *Script {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	s := &Script{Listener: l, Asked: make(chan string, 100), Lines: make(chan func(net.Conn), 100)}
	for _, answer := range answers {
		s.Lines <- answer
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go s.serve(c)
		}
	}()
	return s
}

// serve answers the requests on one connection.
func (s *Script) serve(c net.Conn) {
	defer c.Close() // usually closed already, by the other side or an answer
	in := bufio.NewReader(c)
	for {
		head := ""
		for !strings.HasSuffix(head, "\r\n\r\n") {
			line, err := in.ReadString('\n')
			if head += line; err != nil {
				return
			}
		}
		s.Asked <- head
		select {
		case answer := <-s.Lines:
			answer(c)
		default:
			_ = c.Close()
		}
	}
}

// Sends returns an answer that writes s.
func Sends(s string) func(net.Conn) { return func(c net.Conn) { _, _ = io.WriteString(c, s) } }

// SendsLast returns an answer that writes s and closes the connection.
func SendsLast(s string) func(net.Conn) {
	return func(c net.Conn) {
		_, _ = io.WriteString(c, s)
		_ = c.Close()
	}
}
