//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package lean

import (
	"errors"
	"syscall"
)

// canPeek is whether read, write and peek work on this system.
const canPeek = true

// peek looks whether a stream has ended, without waiting and without taking bytes from it. again is
// true if neither bytes nor the end have arrived yet.
func peek(fd uintptr) (ended, again bool) {
	var b [1]byte
	for {
		n, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK)
		switch {
		case errors.Is(err, syscall.EINTR):
		case errors.Is(err, syscall.EAGAIN):
			return false, true
		default:
			return err != nil || n == 0, false
		}
	}
}
