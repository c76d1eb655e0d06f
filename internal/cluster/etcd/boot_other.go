//go:build !linux

package etcd

import "time"

// started is when the program started.
var started = time.Now()

// bootTime returns the time since the start of the program. Whether it includes the time that the machine
// was suspended depends on the system.
func bootTime() time.Duration { return time.Since(started) }
