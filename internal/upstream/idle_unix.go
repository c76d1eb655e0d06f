//go:build unix

package upstream

import "syscall"

// SilentKnown reports whether silent works on this system. Pool can reuse connections only if
// it does.
const SilentKnown = true

// silent reports whether an idle connection is open and has no data to read. If there is data,
// silent reads one byte of it and returns false, so the caller must then close the connection.
func silent(raw syscall.RawConn) bool {
	var buf [1]byte
	var err error
	n := 0
	// RawConn.Read would fail after the connection's deadline; Control ignores the deadline.
	if raw.Control(func(fd uintptr) { n, err = syscall.Read(int(fd), buf[:]) }) != nil {
		return false
	}
	return n < 0 && (err == syscall.EAGAIN || err == syscall.EWOULDBLOCK)
}
