//go:build unix

package main

import (
	"os"

	"golang.org/x/sys/unix"
)

// LockExclusive takes the lock on a file, or fails at once. The system gives
// it back when the process ends, however it does.
func LockExclusive(f *os.File) error {
	return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
}
