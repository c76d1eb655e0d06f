//go:build !linux

package clock

import "time"

// ReadClocks reads the machine's clocks; here only the wall clock is known to
// go on over a restart.
func ReadClocks() Reading { return Reading{Wall: time.Now()} }
