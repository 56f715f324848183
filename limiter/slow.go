package limiter

import "time"

// What an application that refuses calls bears is a share of its limit: less after each refusal, and more as time passes
// without one.
const (
	slowTo      = 0.7
	slowFloor   = 0.02
	slowRest    = 5 * time.Second // after a refusal, before it recovers
	slowRecover = 0.01            // of the limit, a second
)

// Slowed is the share now, of what it was when it was slowed last.
func Slowed(share float64, since time.Duration) float64 {
	return min(share+slowRecover*max(since-slowRest, 0).Seconds(), 1)
}

// Slower is the share after another refusal.
func Slower(share float64) float64 { return max(share*slowTo, slowFloor) }
