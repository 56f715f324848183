package limiter

import "time"

// A Brake holds back the calls of a node of which nearly all fail: tried at full speed they would take from others what
// others could use, and help nobody. While more than nine in ten of the last calls have failed, a hundred a second may
// pass; that they succeed again is seen within two tenths of a second.
//
// Failed is a moving mean, share = share + (outcome - share) / 50, so some hundred failures in a row engage the brake, and
// some ten successes release it; a node that fails now and then never feels it.
//
// The zero value is a released brake. A Brake is not safe for concurrent use.
type Brake struct {
	share   float64 // of the last calls that failed
	engaged bool
	tokens  float64
	at      time.Time // of the tokens
}

const (
	brakeWindow  = 50
	brakeAbove   = 0.9
	brakeBelow   = 0.8
	brakeRate    = 100.0 // calls a second
	brakeAtOnce  = 20.0
	brakeGranule = 100 * time.Millisecond // for which calls are gathered, whoever asks in between: ten claims and commits a second, not a hundred
)

// Note tells how a call ended.
func (b *Brake) Note(failed bool) {
	outcome := 0.0
	if failed {
		outcome = 1
	}
	b.share += (outcome - b.share) / brakeWindow
	switch {
	case !b.engaged && b.share > brakeAbove:
		b.engaged, b.tokens, b.at = true, 0, time.Time{}
	case b.share < brakeBelow:
		b.engaged = false
	}
}

// Room is how many of the calls that someone wants to make may start at now.
func (b *Brake) Room(now time.Time, want int) int {
	if !b.engaged {
		return want
	}
	if b.at.IsZero() {
		b.at = now
	}
	if passed := now.Sub(b.at); passed >= brakeGranule {
		b.tokens, b.at = min(b.tokens+passed.Seconds()*brakeRate, brakeAtOnce), now
	}
	return min(want, int(b.tokens))
}

// Take notes that calls start for which there was room, and Give that they were not made after all.
func (b *Brake) Take(n int) { b.tokens -= float64(n) }

// Give undoes Take.
func (b *Brake) Give(n int) { b.tokens += float64(n) }

// Wait is how long it is worth waiting before asking again; 0: the brake is released.
func (b *Brake) Wait() time.Duration {
	if !b.engaged {
		return 0
	}
	return brakeGranule
}
