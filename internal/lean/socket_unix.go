//go:build (linux && race) || darwin || freebsd || netbsd || openbsd || dragonfly

package lean

import (
	"errors"
	"io"
	"syscall"
)

// With the race detector Linux has these too, because it learns the order of two goroutines from the
// calls of package syscall.

// read reads from a descriptor without waiting. again is true if there is nothing to read yet. At
// the end of the stream it returns io.EOF.
func read(fd uintptr, b []byte) (n int, again bool, err error) {
	for {
		n, err = syscall.Read(int(fd), b)
		switch {
		case err == nil && n > 0:
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

// write writes to a descriptor without waiting. again is true if there is no room yet.
func write(fd uintptr, b []byte) (n int, again bool, err error) {
	for {
		n, err = syscall.Write(int(fd), b)
		switch {
		case err == nil:
			return n, false, nil
		case errors.Is(err, syscall.EAGAIN):
			return 0, true, nil
		case errors.Is(err, syscall.EINTR):
		default:
			return 0, false, err
		}
	}
}
