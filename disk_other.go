//go:build !unix

package main

// DiskFree is how many bytes the file system of a path has left, -1 where that
// is not known: on this system it never is.
func DiskFree(string) int64 { return -1 }
