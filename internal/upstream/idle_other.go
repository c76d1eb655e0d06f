//go:build !unix

package upstream

import "syscall"

// SilentKnown reports whether silent works on this system. It does not, so
// Upstreams would never reuse a connection and should not be used.
const SilentKnown = false

// silent returns false: it cannot check a connection here.
func silent(syscall.RawConn) bool { return false }
