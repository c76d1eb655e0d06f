package clock

import (
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// BootID returns the kernel's id of the current boot. It returns "" if the kernel reports none.
var BootID = sync.OnceValue(func() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
})

// ReadClocks returns the machine's clocks. Boot is 0 or BootID is "" if the kernel does not report
// it.
func ReadClocks() Reading {
	r := Reading{Wall: time.Now()}
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err == nil {
		r.Boot, r.BootID = time.Duration(ts.Nano()), BootID()
	}
	return r
}
