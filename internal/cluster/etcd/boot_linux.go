package etcd

import (
	"time"

	"golang.org/x/sys/unix"
)

// bootTime returns the time since the boot of the machine. It includes the time that the machine was
// suspended, unlike the monotonic clock of package time.
func bootTime() time.Duration {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) // Linux has it since 2.6.39
	return time.Duration(t.Nano())
}
