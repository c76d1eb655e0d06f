//go:build unix

package upstream

import "golang.org/x/sys/unix"

// readable says whether a connection has something to be read, or has ended.
func readable(fd uintptr) bool {
	n, _, err := unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK)
	return err != unix.EAGAIN && n >= 0
}
