//go:build !unix

package main

import "os"

// LockExclusive does nothing here: the database file has a lock of its own.
func LockExclusive(*os.File) error { return nil }

// DiskFree is how many bytes the file system of a path has left, -1 where that
// is not known: on this system it never is.
func DiskFree(string) int64 { return -1 }
