//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package upstream

import (
	"syscall"

	"latchkey/internal/nowait"
)

// SilentKnown reports whether silent works on this system. Pool can reuse connections only if
// it does.
const SilentKnown = true

// silent reports whether an idle connection is open and has no data to read.
func silent(raw syscall.RawConn) (silent bool) {
	// RawConn.Read would fail after the connection's deadline; Control ignores the deadline.
	err := raw.Control(func(fd uintptr) {
		var b [1]byte
		_, silent, _ = nowait.Peek(fd, b[:])
	})
	return err == nil && silent
}

// talk is the function for RawConn.Read that sends c.unsent, waits, and reads the first part of the
// answer into c.heard. A call of RawConn.Read forgets what has arrived before. Nothing has, as long
// as the request is not sent, so there is no need for a read that finds nothing.
func (c *upstream) talk(fd uintptr) bool {
	if len(c.unsent) > 0 {
		n, _, err := nowait.Write(fd, c.unsent)
		c.unsent, c.failed = c.unsent[n:], err
		return err != nil || len(c.unsent) > 0
	}
	n, again, err := nowait.Read(fd, c.heard)
	c.heard, c.failed = c.heard[:max(n, 0)], err
	if again {
		c.heard = c.heard[:cap(c.heard)]
	}
	return !again
}
