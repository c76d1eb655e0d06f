//go:build (linux && (race || 386 || s390x)) || darwin || freebsd || netbsd || openbsd || dragonfly

package nowait

import (
	"errors"
	"io"
	"syscall"
)

// With the race detector Linux uses these, because it learns the order of two goroutines from the
// calls of package syscall.

// Read reads from a socket. again is true if there is nothing to read yet. At the end of the stream
// it returns io.EOF.
func Read(fd uintptr, b []byte) (n int, again bool, err error) {
	return retry(func() (int, error) { return syscall.Read(int(fd), b) })
}

// Peek is like Read, but what it reads stays there to be read.
func Peek(fd uintptr, b []byte) (n int, again bool, err error) {
	return retry(func() (int, error) {
		n, _, err := syscall.Recvfrom(int(fd), b, syscall.MSG_PEEK)
		return n, err
	})
}

// retry calls receive until it is not interrupted.
func retry(receive func() (int, error)) (n int, again bool, err error) {
	for {
		n, err = receive()
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

// Write writes to a socket. again is true if there is no room yet.
func Write(fd uintptr, b []byte) (n int, again bool, err error) {
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
