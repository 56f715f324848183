package limiter

import (
	"math"
	"time"
)

// Backoff is how long a failed message rests before its next attempt: exponential, with a cap and jitter.
type Backoff struct {
	Initial time.Duration // after the first failure
	Factor  float64       // by which each further failure lengthens it; at least 1
	Max     time.Duration // cap, before jitter
	Jitter  float64       // share by which the pause may be shorter or longer, 0 to 1
}

// After is the pause after the given number of failures, 1 or more:
//
//	min(Initial * Factor^(failures-1), Max) * (1 + Jitter*r)
//
// where r is random in [-1, 1). The caller gives r, so that the rule stays pure.
func (b Backoff) After(failures int, r float64) time.Duration {
	pause := float64(b.Initial) * math.Pow(max(b.Factor, 1), float64(max(failures, 1)-1))
	pause = min(pause, float64(b.Max))
	return time.Duration(pause * (1 + b.Jitter*r))
}
