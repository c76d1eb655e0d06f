//go:build !unix

package main

import "os"

// LockExclusive does nothing here: the database file has a lock of its own.
func LockExclusive(*os.File) error { return nil }
