//go:build !unix

package durable

import "os"

// noFollow has no effect on this system.
const noFollow = 0

// give does nothing on this system.
func give(*os.File) error { return nil }
