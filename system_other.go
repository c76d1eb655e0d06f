//go:build !unix

package main

import "os"

// LockExclusive does nothing on this system and returns nil. bbolt locks the database
// file itself.
func LockExclusive(*os.File) error { return nil }

// Writable returns nil: whether a folder is writable shows when a file is created in it.
func Writable(string) error { return nil }

// DiskFree returns -1, which means that the free space is not known.
func DiskFree(string) int64 { return -1 }
