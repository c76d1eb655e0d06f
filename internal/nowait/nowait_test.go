//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package nowait

import (
	"io"
	"net"
	"syscall"
	"testing"
)

// TestNowait goes through what a socket can answer.
func TestNowait(t *testing.T) {
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
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	raw, err := server.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1<<16)
	want := func(when string, f func(uintptr, []byte) (int, bool, error), n int, again bool, err error) {
		t.Helper()
		if fault := raw.Control(func(fd uintptr) {
			gotN, gotAgain, gotErr := f(fd, b)
			if gotN != n || gotAgain != again || gotErr != err {
				t.Errorf("%s: got %d, %v, %v; want %d, %v, %v", when, gotN, gotAgain, gotErr, n, again, err)
			}
		}); fault != nil {
			t.Fatal(fault)
		}
	}
	arrived := func() {
		_ = raw.Read(func(fd uintptr) bool { _, again, _ := Peek(fd, b[:1]); return !again })
	}
	want("nothing", Read, 0, true, nil)
	want("nothing", Peek, 0, true, nil)
	_, _ = io.WriteString(client, "hello")
	arrived()
	want("five bytes", Peek, 5, false, nil)
	want("five bytes", Read, 5, false, nil)
	for full := false; !full; {
		if err := raw.Control(func(fd uintptr) { _, full, err = Write(fd, b) }); err != nil {
			t.Fatal(err)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	want("a full buffer", Write, 0, true, nil)
	_ = client.(*net.TCPConn).CloseWrite()
	arrived()
	want("the end", Peek, 0, false, io.EOF)
	want("the end", Read, 0, false, io.EOF)
}
