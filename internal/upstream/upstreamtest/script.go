// Package upstreamtest plays upstreams for tests.
package upstreamtest

import (
	"bufio"
	"io"
	"net"
	"strings"
	"testing"
)

// Script is an upstream that answers each request of a connection with the
// bytes for its number, over all connections, and closes where there is no more.
type Script struct {
	net.Listener
	Asked chan string // the heads that came
	Lines chan func(c net.Conn)
}

// NewScript plays the answers, one for each request.
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

func (s *Script) serve(c net.Conn) {
	defer c.Close() // by then the other side has
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

// Sends answers with some bytes.
func Sends(s string) func(net.Conn) { return func(c net.Conn) { _, _ = io.WriteString(c, s) } }

// SendsLast answers with some bytes and closes.
func SendsLast(s string) func(net.Conn) {
	return func(c net.Conn) {
		_, _ = io.WriteString(c, s)
		_ = c.Close()
	}
}
