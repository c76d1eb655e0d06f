//go:build !(linux || darwin || freebsd || netbsd || openbsd || dragonfly)

package lean

import "errors"

// canPeek is false: net/http serves all connections on this system.
const canPeek = false

type socketRead struct{}

func countUnread(uintptr) bool { return false }

func (*socketRead) read(uintptr, []byte) (n int, again, drained bool, err error) {
	return 0, false, false, errors.ErrUnsupported
}

func write(uintptr, []byte) (int, bool, error) { return 0, false, errors.ErrUnsupported }

func peek(uintptr) (ended, again bool) { return false, false }
