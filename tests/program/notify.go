package program

import (
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Notices is the socket at which a service manager gets a process's notices.
type Notices struct {
	Path string // for NOTIFY_SOCKET
	t    testing.TB
	conn *net.UnixConn
}

// ListenForNotices opens one, until the test ends.
func ListenForNotices(t testing.TB) *Notices {
	t.Helper()
	dir, err := os.MkdirTemp("", "n") // not t.TempDir, whose path is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &Notices{path, t, conn}
}

// Next waits for a notice and returns it.
func (n *Notices) Next() string {
	n.t.Helper()
	if err := n.conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		n.t.Fatal(err)
	}
	buf := make([]byte, 4096)
	size, err := n.conn.Read(buf)
	if err != nil {
		n.t.Fatal(err)
	}
	return string(buf[:size])
}

// After returns the first notice that differs from skip.
func (n *Notices) After(skip string) string {
	n.t.Helper()
	for {
		if got := n.Next(); got != skip {
			return got
		}
	}
}
