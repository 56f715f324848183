package queue

import "context"

// Slots tells how many slots are free and how many messages are in flight: at rest, all and none.
func (e *Engine) Slots() (free, inFlight int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.slots, len(e.inFlight)
}

// Claimant is the id under which the runner claims now.
func (e *Engine) Claimant() int64 { return e.life().id }

// IsLimited tells whether an engine knows of a limit of an application, and looks if it has not done so lately.
func IsLimited(ctx context.Context, e *Engine, tenant int64, application string) bool {
	known, err := e.catalog.tenant(ctx, tenant)
	return err == nil && known.limits[application] != 0
}

// Usage is what an engine has in use. An engine with nothing to do has all of it free.
type Usage struct {
	Slots      int // taken
	Deliveries int // claims that it remembers
	Calls      int // counted against nodes
	Memories   int // that are not all free
}

// UsageOf looks into an engine.
func UsageOf(e *Engine) Usage {
	e.catalog.mu.RLock()
	nodes := map[*node]struct{}{}
	for _, to := range e.catalog.edges {
		nodes[to.to] = struct{}{}
	}
	e.catalog.mu.RUnlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	u := Usage{Slots: e.config.Slots - e.slots, Deliveries: len(e.inFlight)}
	for n := range nodes {
		u.Calls += n.calls
		if n.bodies != nil && !n.bodies.isFree() {
			u.Memories++
		}
	}
	for _, m := range []*memory{e.bodies, e.waiting.of, e.catalog.replies} {
		if !m.whole().isFree() {
			u.Memories++
		}
	}
	return u
}

// isFree tells whether nothing is taken of a share, or of the memory.
func (s *share) isFree() bool {
	if !s.try(s.size, s.of.size) {
		return false
	}
	s.free.Release(s.size)
	s.of.free.Release(s.of.size)
	return true
}

// Gathered is how many results wait for a hand-off.
func Gathered(e *Engine) int { return len(e.settled) }

// Stopping tells whether an engine claims nothing any more.
func Stopping(e *Engine) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return !e.running
}

// Paused tells whether an engine knows that an edge's queue was paused.
func Paused(e *Engine, queue string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, to := range e.paused {
		if to.queue == queue {
			return to.paused
		}
	}
	return false
}

// RestoreTokensSQL puts tokens back that were deleted.
const RestoreTokensSQL = restoreTokensSQL

// RescueDeleted is what housekeeping does about jobs that were deleted.
func RescueDeleted(ctx context.Context, e *Engine) error { return e.rescueDeleted(ctx) }

// ForgetUsers is what housekeeping does about users of limits who are idle.
func ForgetUsers(ctx context.Context, e *Engine) error { return e.forgetUsers(ctx) }
