//go:build !unix

package main

import "os"

// LockExclusive does nothing on this system and returns nil. bbolt locks the database
// file itself.
func LockExclusive(*os.File) error { return nil }

// Writable always returns nil on this system. If a folder is not writable, creating a file in it fails.
func Writable(string) error { return nil }

// UsableByOwner returns true, because it is not known here what another user can use.
func UsableByOwner(os.FileInfo, string, bool) bool { return true }

// DiskFree returns -1, which means that the free space is not known.
func DiskFree(string) int64 { return -1 }

// OpenFileLimit returns 0, which means that the limit of open files is not known.
func OpenFileLimit() int { return 0 }

// DiskSize returns -1, which means that the size is not known.
func DiskSize(string) int64 { return -1 }

// Unallocated returns 0, because it is not known which parts of a file need no disk space yet.
func Unallocated(string) int64 { return 0 }
