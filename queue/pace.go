package queue

import (
	"container/heap"
	"context"
	"sync"
	"time"

	"sluice/limiter"
)

// A released message has a time at which its call begins, a little ahead. One pacer starts them in order; timers of their own
// would mix them up. A call that could not begin in time is not made: its token is lost, and its message is held again.

// grant is the leave to make one call.
type grant struct {
	gate  gateKey
	slots bool          // the end of the call lets another begin
	start time.Time     // by this machine's monotonic clock
	until time.Time     // when it is too late
	due   chan struct{} // closed when it is time
	paces []pace

	// Calls of a strict limit begin one after the other, not as their goroutines wake.
	before *grant
	over   chan struct{} // closed when the call has begun, or will not
}

// pace is a strict limit that the call has to keep as it begins.
type pace struct {
	pacer *pacer
	limit limiter.Limit
}

// pacer is that of a bucket.
type pacer struct {
	limiter.Pacer
	last *grant // that was told that it is time; only the pace loop knows
}

// paceKey names a bucket.
type paceKey struct {
	gateKey
	user  string
	total bool
}

// pacers are those of strict limits.
type pacers struct {
	mu     sync.Mutex
	known  map[paceKey]*pacer
	closed map[gateKey]time.Time // gates that the application itself has closed, as this runner knows
}

// most pacers that are kept; when there are more, those that rest are forgotten.
const mostPacers = 10_000

// of is the pacer of a bucket.
func (p *pacers) of(key paceKey) *pacer {
	p.mu.Lock()
	defer p.mu.Unlock()
	if known := p.known[key]; known != nil {
		return known
	}
	if len(p.known) >= mostPacers {
		now := time.Now()
		for k, known := range p.known {
			if known.Rests(now) {
				delete(p.known, k)
			}
		}
	}
	if p.known == nil {
		p.known = map[paceKey]*pacer{}
	}
	made := &pacer{}
	p.known[key] = made
	return made
}

// close notes that a gate is closed until then.
func (p *pacers) close(gate gateKey, until time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed == nil {
		p.closed = map[gateKey]time.Time{}
	}
	if until.After(p.closed[gate]) {
		p.closed[gate] = until
	}
}

func (p *pacers) isClosed(gate gateKey, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	until, known := p.closed[gate]
	if known && !until.After(now) {
		delete(p.closed, gate)
	}
	return until.After(now)
}

// awaitStart waits until a released call may begin. It returns false if it must not begin any more.
func (e *Engine) awaitStart(d *delivery) bool {
	g := d.grant
	if g == nil {
		return true
	}
	select {
	case <-g.due:
	case <-e.startCtx.Done():
		return false
	}
	defer g.end()
	g.awaitBefore(e.startCtx)
	for _, p := range g.paces {
		for {
			wait := p.pacer.Begin(p.limit, time.Now())
			if wait == 0 {
				break
			}
			if time.Now().Add(wait).After(g.until) {
				return false
			}
			pauseFor(e.startCtx, wait)
		}
	}
	now := time.Now()
	return now.Before(g.until) && !e.pacers.isClosed(g.gate, now) && e.startCtx.Err() == nil && d.life.fresh()
}

// follow places a grant after the one before it of the same strict limit. The pace loop calls it, in the order of starts.
func (g *grant) follow() {
	if len(g.paces) == 0 {
		return
	}
	p := g.paces[0].pacer
	g.before, g.over = p.last, make(chan struct{})
	p.last = g
}

// awaitBefore waits until the call before has begun, or cannot begin any more.
func (g *grant) awaitBefore(ctx context.Context) {
	if g.before == nil {
		return
	}
	ended := time.NewTimer(time.Until(g.before.until))
	defer ended.Stop()
	select {
	case <-g.before.over:
	case <-ended.C: // its message was given up before it came to its call
	case <-ctx.Done():
	}
	g.before = nil // and so on: they would all be kept
}

// end lets the next call begin.
func (g *grant) end() {
	if g.over != nil {
		close(g.over)
	}
}

// paceLoop lets released calls begin, each at its time.
func (e *Engine) paceLoop(ctx context.Context) {
	var waiting byStart
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case released := <-e.grants:
			for _, g := range released {
				heap.Push(&waiting, g)
			}
		case <-timer.C:
		}
		for len(waiting) > 0 && !waiting[0].start.After(time.Now()) {
			g := heap.Pop(&waiting).(*grant)
			g.follow()
			close(g.due)
		}
		if len(waiting) > 0 {
			timer.Reset(time.Until(waiting[0].start))
		}
	}
}

type byStart []*grant

func (h byStart) Len() int           { return len(h) }
func (h byStart) Less(i, j int) bool { return h[i].start.Before(h[j].start) }
func (h byStart) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *byStart) Push(g any)        { *h = append(*h, g.(*grant)) }
func (h *byStart) Pop() any {
	last := len(*h) - 1
	g := (*h)[last]
	*h = (*h)[:last]
	return g
}

// reach is how many messages this runner releases at once. One that is too busy to begin their calls in time would lose the
// tokens of them all, again and again: it releases half as many, and more again as long as it is in time.
type reach struct {
	mu   sync.Mutex
	less int // than releasesAtOnce
	cut  time.Time
}

const (
	leastReach = 50
	reachAgain = 500 * time.Millisecond // after calls that were not in time, until it grows
	reachGap   = 200 * time.Millisecond
)

func (r *reach) most() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return releasesAtOnce - r.less
}

// shrink notes that calls were not in time.
func (r *reach) shrink() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Since(r.cut) < reachGap { // these were released before it was cut
		return
	}
	r.cut = time.Now()
	r.less = releasesAtOnce - max((releasesAtOnce-r.less)/2, leastReach)
}

// grow notes a release of n messages.
func (r *reach) grow(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := releasesAtOnce - r.less; n >= now && time.Since(r.cut) > reachAgain {
		r.less = max(r.less-now/2, 0)
	}
}

// lag is how long it takes from the moment that a gate is read until what it releases can begin: as long as starts are later
// than that, no token is lost, however slow the database is.
type lag struct {
	mu   sync.Mutex
	base time.Duration // of a release
	each time.Duration // more, for each message
}

const (
	smallLag = 20 * time.Millisecond  // not worth to begin later for
	mostLag  = 700 * time.Millisecond // the tokens of so long are lost with a runner
)

// note notes how long a release of n messages took. It is believed quickly that it takes longer, and slowly that it does not.
func (l *lag) note(n int, took time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n >= 100 {
		l.each += (max(took-l.base, 0)/time.Duration(n) - l.each) / 4
		return
	}
	if more := took - time.Duration(n)*l.each - l.base; more > 0 {
		l.base += more / 2
	} else {
		l.base = max(l.base+more/16, 0)
	}
}

// late notes that a call came so long after its time that it could not begin.
func (l *lag) late(by time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.base = max(l.base, min(by, mostLag))
}

// of is the lag of a release of n messages.
func (l *lag) of(n int) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if lag := l.base + time.Duration(n)*l.each; lag > smallLag {
		return min(lag, mostLag)
	}
	return 0
}
