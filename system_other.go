//go:build !unix

package main

import "os"

// LockExclusive does nothing on this system. The database file has a lock of
// its own.
func LockExclusive(*os.File) error { return nil }

// DiskFree returns -1: the free space is not known on this system.
func DiskFree(string) int64 { return -1 }
