//go:build unix

package main

import "golang.org/x/sys/unix"

// DiskFree is how many bytes the file system of a path has left for this
// program, -1 where that is not known.
func DiskFree(path string) int64 {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return -1
	}
	return int64(s.Bavail) * int64(s.Bsize)
}
