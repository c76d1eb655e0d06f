//go:build (linux && (race || 386 || s390x)) || darwin || freebsd || netbsd || openbsd || dragonfly

package lean

import (
	"errors"
	"io"
	"syscall"
)

// With the race detector Linux uses these, because it learns the order of two goroutines from the
// calls of package syscall.

// socketRead is empty on this system.
type socketRead struct{}

// countUnread returns false: this system does not say with a read how many bytes are left.
func countUnread(uintptr) bool { return false }

// read reads from a descriptor without waiting. again is true if there is nothing to read yet. At
// the end of the stream it returns io.EOF. drained is false, which means that it is not known.
func (*socketRead) read(fd uintptr, b []byte) (n int, again, drained bool, err error) {
	for {
		n, err = syscall.Read(int(fd), b)
		switch {
		case err == nil && n > 0:
			return n, false, false, nil
		case errors.Is(err, syscall.EAGAIN):
			return 0, true, false, nil
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return 0, false, false, err
		default:
			return 0, false, false, io.EOF
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
