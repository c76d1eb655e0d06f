//go:build !unix

package upstream

import "syscall"

// SilentKnown says that Silent cannot tell on this system, so that nothing goes
// by Upstreams.
const SilentKnown = false

// Silent cannot tell.
func Silent(syscall.RawConn) bool { return false }
