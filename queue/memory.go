package queue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/semaphore"

	"sluice/queue/worker"
)

// What a process holds in memory is bounded, however much waits in the database and however large it is. Of small bodies
// there are as many as there are slots. Larger ones are weighed: a message's body is loaded when there is room for it, a
// reply is read when there is room for it, and an event waits at the door. The three have a memory each, so that they
// cannot wait for each other in a circle: a reply's is given back by the hand-off, which waits for none.

// smallBody is up to what size a body is not weighed, and comes with the claim.
const smallBody = worker.SmallReply

// memory is what large bodies of one sort take together.
type memory struct {
	size    int64
	free    *semaphore.Weighted
	reserve *semaphore.Weighted // one: see hold.Grow
}

func newMemory(size int64) *memory {
	return &memory{size: size, free: semaphore.NewWeighted(size), reserve: semaphore.NewWeighted(1)}
}

// share is what one of those who use a memory may take of it: bodies larger than that take all of it.
type share struct {
	of   *memory
	size int64
	free *semaphore.Weighted
}

// half is a share that leaves others room, however long it is held.
func (m *memory) half() *share { return m.share(max(1, m.size/2)) }

func (m *memory) whole() *share { return m.share(m.size) }

func (m *memory) share(size int64) *share {
	return &share{of: m, size: size, free: semaphore.NewWeighted(size)}
}

// hold is what one body takes. The zero value takes nothing. It is not for concurrent use.
type hold struct {
	share    *share
	size     int64
	reserved bool
}

// more is by how much both semaphores are taken when a hold grows.
func (h *hold) more(size int64) (ofShare, ofAll int64) {
	return min(size, h.share.size) - min(h.size, h.share.size), min(size, h.share.of.size) - min(h.size, h.share.of.size)
}

// Grow waits until the body may take so many bytes in all. Who grows a second time must not wait while he holds what
// others wait for. If there is no room at once he takes the reserve, with which he may grow as he likes: so of those who
// do not know their size beforehand, one at a time goes on when memory is used up.
func (h *hold) Grow(ctx context.Context, size int64) error {
	if h.reserved || size <= h.size {
		return nil
	}
	ofShare, ofAll := h.more(size)
	switch {
	case h.size == 0:
		if err := h.share.free.Acquire(ctx, ofShare); err != nil {
			return err
		}
		if err := h.share.of.free.Acquire(ctx, ofAll); err != nil {
			h.share.free.Release(ofShare)
			return err
		}
	case !h.share.try(ofShare, ofAll):
		if err := h.share.of.reserve.Acquire(ctx, 1); err != nil {
			return err
		}
		h.reserved = true
		return nil
	}
	h.size = size
	return nil
}

// try is Grow of a hold that takes nothing yet, if there is room at once.
func (h *hold) try(size int64) bool {
	ofShare, ofAll := h.more(size)
	if !h.share.try(ofShare, ofAll) {
		return false
	}
	h.size = size
	return true
}

func (s *share) try(ofShare, ofAll int64) bool {
	if !take(s.free, ofShare) {
		return false
	}
	if !take(s.of.free, ofAll) {
		s.free.Release(ofShare)
		return false
	}
	return true
}

// take takes n if nobody waits. To take nothing always works.
func take(s *semaphore.Weighted, n int64) bool { return n == 0 || s.TryAcquire(n) }

// Release gives all back.
func (h *hold) Release() {
	if h.size > 0 {
		h.share.free.Release(min(h.size, h.share.size))
		h.share.of.free.Release(min(h.size, h.share.of.size))
		h.size = 0
	}
	if h.reserved {
		h.share.of.reserve.Release(1)
		h.reserved = false
	}
}

// bodiesOf is what bodies of messages that are for a node may take: a share, so that a slow node with large messages
// leaves others room. The caller holds the lock.
func (e *Engine) bodiesOf(n *node) *share {
	if n.bodies == nil {
		n.bodies = e.bodies.half()
	}
	return n.bodies
}

// fill loads the body of a delivery that was claimed without it, once there is room. It waits in the order of coming, and
// holds nothing but its slot meanwhile. It returns false if the message is not to be worked by this claim: the runner
// stops or has lost its lease, or the claim is gone.
func (e *Engine) fill(d *delivery) bool {
	if len(d.body) == d.size {
		return true
	}
	e.mu.Lock()
	d.hold.share = e.bodiesOf(d.edge.to)
	e.mu.Unlock()
	if d.hold.Grow(e.startCtx, int64(d.size)) != nil {
		return false
	}
	for try := 0; e.awaitLease(d); try++ {
		err := e.loadBody(d)
		switch {
		case err == nil:
			return true
		case errors.Is(err, pgx.ErrNoRows), e.startCtx.Err() != nil:
			return false
		}
		e.log.Warn("Body not loaded, trying again", "message_id", d.messageID(), "err", err)
		pause(e.startCtx, try)
	}
	return false
}

// loaders is how many bodies are loaded at once: enough to keep up, and few enough to leave connections to hand-offs.
const loaders = 2

func (e *Engine) loadBody(d *delivery) error {
	select {
	case e.loading <- struct{}{}:
		defer func() { <-e.loading }()
	case <-e.startCtx.Done():
		return e.startCtx.Err()
	}
	ctx, cancel := context.WithTimeout(e.startCtx, statementTimeout)
	defer cancel()
	return e.pool.QueryRow(ctx, loadSQL, d.edge.tenant, d.process, d.id, d.attempt, d.life.claimant, d.run != nil).Scan(&d.body)
}

// weigh waits until there is room for an event that is about to wait for its commit, as long as its producer does.
func (e *Engine) weigh(ctx context.Context, p *pendingEvent) error {
	size := int64(len(p.Body))
	if size <= smallBody {
		return nil
	}
	if p.hold.share = e.waiting; p.hold.try(size) {
		return nil
	}
	waiting, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		began := sinceBoot()
		check := time.NewTicker(silence / 4)
		defer check.Stop()
		for waiting.Err() == nil {
			select {
			case <-waiting.Done():
			case <-e.closing:
				cancel(errClosing)
			case <-check.C:
				if e.clock.patience(began) <= 0 {
					cancel(errSilent)
				}
			}
		}
	}()
	if p.hold.Grow(waiting, size) == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ErrOverloaded
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, context.Cause(waiting))
}

var errClosing = errors.New("this node is shutting down")

// roomForReplies is what replies of one worker may take.
func (m *memory) roomForReplies() func() worker.Room {
	s := m.half()
	return func() worker.Room { return &hold{share: s} }
}
