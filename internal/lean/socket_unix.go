//go:build (linux && (race || 386 || s390x)) || darwin || freebsd || netbsd || openbsd || dragonfly

package lean

import "latchkey/internal/nowait"

// socketRead is empty on this system.
type socketRead struct{}

// countUnread returns false: this system does not say with a read how many bytes are left.
func countUnread(uintptr) bool { return false }

// read reads from a descriptor without waiting, see internal/nowait. drained is false, which means
// that it is not known.
func (*socketRead) read(fd uintptr, b []byte) (n int, again, drained bool, err error) {
	n, again, err = nowait.Read(fd, b)
	return n, again, false, err
}
