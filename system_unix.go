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

// DiskFree is how many bytes the file system of a path has left for this
// program, -1 where that is not known.
func DiskFree(path string) int64 {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return -1
	}
	return int64(s.Bavail) * int64(s.Bsize)
}
