//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package lean

import "latchkey/internal/nowait"

// canPeek is whether read, write and peek work on this system.
const canPeek = true

func write(fd uintptr, b []byte) (n int, again bool, err error) { return nowait.Write(fd, b) }

// peek looks whether a stream has ended, without waiting and without taking bytes from it. again is
// true if neither bytes nor the end have arrived yet.
func peek(fd uintptr) (ended, again bool) {
	var b [1]byte
	_, again, err := nowait.Peek(fd, b[:])
	return err != nil, again
}
