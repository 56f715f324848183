package limiter

import (
	"math"
	"time"
)

// Limit is how many calls may be made: Amount in each Per, and after a rest up to Burst at once. In any window there are
// at most Burst + Rate * window of them. The zero value does not limit.
type Limit struct {
	Amount float64
	Per    time.Duration
	Burst  float64
}

// Lookahead is how far ahead of their time calls are released, and Grace how late one may begin at most. A call that is
// later than that is not made: its token is lost.
const (
	Lookahead = 200 * time.Millisecond
	Grace     = 200 * time.Millisecond
)

// spacing is between the starts that one release gives out, so that those of a burst can begin when it is their time.
const spacing = 40 * time.Microsecond

// strictRefill is the share of its rate at which a strict bucket fills, so that the clocks of a pacer and of a database need
// not agree to the microsecond.
const strictRefill = 0.99

// IsZero tells whether there is no limit.
func (l Limit) IsZero() bool { return l.Amount <= 0 || l.Per <= 0 }

// Rate is how many calls a second the limit allows.
func (l Limit) Rate() float64 {
	if l.IsZero() {
		return math.Inf(1)
	}
	return l.Amount / l.Per.Seconds()
}

// Normal is the limit with a burst: what it allows in a second, if none was chosen, and one call at least.
func (l Limit) Normal() Limit {
	if l.IsZero() {
		return Limit{}
	}
	if l.Burst <= 0 {
		l.Burst = min(l.Amount, l.Rate())
	}
	l.Burst = max(l.Burst, 1)
	return l
}

// Times is the limit with so many times its rate and, if that is more, its burst.
func (l Limit) Times(factor float64) Limit {
	l.Amount *= factor
	if factor > 1 {
		l.Burst *= factor
	}
	return l
}

// Strict tells whether the burst is too small to let calls begin a little late: they must be paced as they begin, by a
// [Pacer].
func (l Limit) Strict() bool { return !l.IsZero() && l.Burst < 1+l.Rate()/10 }

// Late is how late a call may begin that this limit applies to.
func (l Limit) Late() time.Duration {
	if l.IsZero() || l.Strict() {
		return Grace
	}
	return min(Grace, time.Duration(l.Burst/(5*l.Rate())*float64(time.Second)))
}

// capacity is how many tokens a bucket holds. Calls that begin late may meet those that are on time, so as many as come in
// that time are kept back.
func (l Limit) capacity() float64 {
	if l.Strict() {
		return l.Burst
	}
	return l.Burst - l.Rate()*l.Late().Seconds()
}

// refill is how many tokens a second a bucket gets.
func (l Limit) refill() float64 {
	if l.Strict() {
		return strictRefill * l.Rate()
	}
	return l.Rate()
}

// Bucket is what is left of a limit: Tokens at the time At, which may lie a [Lookahead] ahead. The zero value is full.
type Bucket struct {
	Tokens float64
	At     time.Time
}

// sane is the bucket as it may be: after a clock was set back there is no refill for the time that comes twice.
func (b Bucket) sane(now time.Time) Bucket {
	if b.At.After(now.Add(Lookahead + time.Second)) {
		b.At = now
	}
	return b
}

// Level is how many tokens there are.
func (b Bucket) Level(l Limit, now time.Time) float64 {
	if b = b.sane(now); b.At.IsZero() {
		return l.capacity()
	}
	return min(l.capacity(), b.Tokens+l.refill()*max(now.Sub(b.At), 0).Seconds())
}

// Next is the earliest time, at or after now, at which there is a token.
func (b Bucket) Next(l Limit, now time.Time) time.Time {
	if l.IsZero() {
		return now
	}
	if b = b.sane(now); b.At.After(now) {
		now = b.At
	}
	missing := 1 - b.Level(l, now)
	if missing <= 1e-9 {
		return now
	}
	wait := time.Duration(math.Ceil(missing/l.refill()*1e6)) * time.Microsecond // as precise as Postgres keeps it
	return now.Add(wait)
}

// Take takes a token at a time that [Bucket.Next] named.
func (b Bucket) Take(l Limit, at time.Time) Bucket {
	if l.IsZero() {
		return Bucket{}
	}
	return Bucket{Tokens: b.Level(l, at) - 1, At: at}
}

// Owed is the bucket of a strict limit as another runner may have left it: all that it released may have begun that much
// late.
func (b Bucket) Owed(l Limit) Bucket {
	if l.Strict() && !b.At.IsZero() {
		b.At = b.At.Add(Grace)
	}
	return b
}
