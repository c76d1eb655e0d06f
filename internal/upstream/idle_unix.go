//go:build unix

package upstream

import "syscall"

// SilentKnown reports whether silent works on this system. Upstreams needs it
// to reuse connections.
const SilentKnown = true

// silent reports whether an idle connection is open and has no data to read. It
// consumes a byte if there is one, so close the connection after false.
func silent(raw syscall.RawConn) bool {
	var room [1]byte
	var err error
	n := 0
	// RawConn.Read would obey the connection's deadline; Control does not.
	if raw.Control(func(fd uintptr) { n, err = syscall.Read(int(fd), room[:]) }) != nil {
		return false
	}
	return n < 0 && (err == syscall.EAGAIN || err == syscall.EWOULDBLOCK)
}
