//go:build !linux

package clock

import "time"

// ReadClocks returns the wall clock. Boot is 0 and BootID is "", because they are unknown on this
// system.
func ReadClocks() Reading { return Reading{Wall: time.Now()} }

// BootID returns "", because the id of the boot is unknown on this system.
func BootID() string { return "" }
