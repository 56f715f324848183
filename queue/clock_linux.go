package queue

import (
	"time"

	"golang.org/x/sys/unix"
)

// sinceBoot counts on while the machine sleeps. Go's monotonic clock does not, so a runner whose machine was suspended
// would believe in a lease that is long over.
func sinceBoot() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return time.Since(started)
	}
	return time.Duration(t.Nano())
}

var started = time.Now()
