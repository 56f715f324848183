package queue

import (
	"fmt"
	"time"
)

// FullError says that a topology has as much open as its bounds allow, so that it takes no event now.
type FullError struct {
	Topology   string
	What       string // messages or bytes
	Holds      int64  // how much of that is open
	Bound      int64
	RetryAfter time.Duration // when there may be room again
}

func (e *FullError) Error() string {
	return fmt.Sprintf("topology %s holds %d %s, and its bound is %d", e.Topology, e.Holds, e.What, e.Bound)
}
