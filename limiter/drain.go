package limiter

import "time"

// Drain is how long it takes until as many messages as are held have passed a bucket that has so much left, if no more come.
// factor tells how many times its limit is allowed in a while from now.
func Drain(l Limit, b Bucket, held int64, now time.Time, factor func(in time.Duration) float64) time.Duration {
	var took time.Duration
	level := b.Level(l.Times(factor(0)), now)
	if b = b.sane(now); b.At.After(now) {
		took = b.At.Sub(now)
	}
	left := float64(held) - level
	// The factor changes over minutes; from an hour on it does not.
	for step := time.Second; left > 0; took += step {
		rate := l.Times(factor(took)).refill()
		if need := time.Duration(left / rate * float64(time.Second)); need < step || took > time.Hour {
			return took + need
		}
		left -= rate * step.Seconds()
	}
	return took
}
