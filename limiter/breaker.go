// Package limiter decides when a message may pass.
//
// It holds the pure rules, with the clock as an argument, and knows neither messages nor workers nor the database: a
// [Breaker] keeps a runner from hammering a worker that cannot be reached, and a [Backoff] says how long a failed
// message rests. Who asks, and what happens to a message that may not pass, is the queue's business.
package limiter

import "time"

// A Breaker stands between a runner and one worker. Closed, it lets every call pass. After Threshold calls in a row that
// did not reach the worker it opens: nothing passes for a pause, then one call at a time as a probe. A probe that
// reaches the worker closes the breaker; one that does not doubles the pause, up to MaxPause.
//
// The zero value is a closed breaker with the default limits. A Breaker is not safe for concurrent use.
type Breaker struct {
	Threshold int           // unreached calls in a row that open it; default 5
	Pause     time.Duration // the first pause; default 1 s
	MaxPause  time.Duration // default 30 s

	unreached int
	pause     time.Duration
	openUntil time.Time
	probing   bool
}

// Room is how many calls may start at now: at most want, 1 for a probe, 0 while the breaker is open.
func (b *Breaker) Room(now time.Time, want int) int {
	switch {
	case b.pause == 0:
		return want
	case b.probing || now.Before(b.openUntil):
		return 0
	}
	return min(want, 1)
}

// Start notes that a call starts. While the breaker is open, that call is the probe.
func (b *Breaker) Start() {
	if b.pause > 0 {
		b.probing = true
	}
}

// Forget notes that a started call was never made, or ended with nothing learned about the worker.
func (b *Breaker) Forget() { b.probing = false }

// Reached notes that a call got an answer, and reports whether that closed the breaker.
func (b *Breaker) Reached() (closed bool) {
	closed = b.pause > 0
	b.unreached, b.pause, b.probing, b.openUntil = 0, 0, false, time.Time{}
	return closed
}

// Unreached notes that a call did not get through at now, and reports whether that opened the breaker. retryAfter, the
// worker's own word if there was one, lengthens the pause.
func (b *Breaker) Unreached(now time.Time, retryAfter time.Duration) (opened bool) {
	b.unreached++
	threshold, first, most := b.Threshold, b.Pause, b.MaxPause
	if threshold == 0 {
		threshold = 5
	}
	if first == 0 {
		first = time.Second
	}
	if most == 0 {
		most = 30 * time.Second
	}
	switch {
	case b.pause > 0 && b.probing: // the probe failed
		b.pause = min(2*b.pause, most)
	case b.pause > 0: // a call that started before the breaker opened
		return false
	case b.unreached >= threshold:
		b.pause, opened = first, true
	default:
		return false
	}
	b.probing = false
	b.openUntil = now.Add(max(b.pause, min(retryAfter, most)))
	return opened
}

// OpenUntil is when the next probe may start; zero while the breaker is closed.
func (b *Breaker) OpenUntil() time.Time { return b.openUntil }
