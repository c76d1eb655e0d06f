//go:build !unix

package upstream

import "syscall"

// SilentKnown says that silent cannot tell on this system, so that nothing goes
// by Upstreams.
const SilentKnown = false

// silent cannot tell.
func silent(syscall.RawConn) bool { return false }
