//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package lean

import (
	"errors"
	"io"
	"syscall"
)

// canPeek is whether read and peek work on this system.
const canPeek = true

// read reads from a descriptor without waiting. again is true if there is nothing to read yet. At
// the end of the stream it returns io.EOF.
func read(fd uintptr, b []byte) (n int, again bool, err error) {
	for {
		n, err = syscall.Read(int(fd), b)
		switch {
		case err == nil && n > 0: // the usual case is looked at first
			return n, false, nil
		case errors.Is(err, syscall.EAGAIN):
			return 0, true, nil
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return 0, false, err
		default:
			return 0, false, io.EOF
		}
	}
}

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
