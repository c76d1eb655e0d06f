//go:build unix

package upstream

import "syscall"

// SilentKnown says that silent can tell, without which no connection is kept for
// Upstreams.
const SilentKnown = true

// silent reports whether an idle connection is open and has nothing to be read.
func silent(raw syscall.RawConn) bool {
	var room [1]byte
	var err error
	n := 0
	// Control rather than Read, which minds the connection's deadline.
	if raw.Control(func(fd uintptr) { n, err = syscall.Read(int(fd), room[:]) }) != nil {
		return false
	}
	return n < 0 && (err == syscall.EAGAIN || err == syscall.EWOULDBLOCK)
}
