package queue

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// wakeChannel carries the names of queues on which messages wait, and of gates where some are held, joined by commas. Nothing depends on it: sweeps find what a lost
// notification announced.
const wakeChannel = "sluice_wake"

// herald tells other engines about edges that woke, after the commit and in statements of its own: a NOTIFY inside the
// hand-off would make commits wait for each other. What gathers while one is sent goes with the next. The zero value tells
// nobody.
type herald struct {
	pool database
	log  *slog.Logger

	mu     sync.Mutex
	queues map[string]struct{}
	wake   chan struct{}
	done   chan struct{}
	cancel context.CancelFunc
}

const (
	heraldSpacing = 5 * time.Millisecond // between notifications
	heraldMost    = 300                  // queue names that surely fit into a notification's 8000 bytes
)

func newHerald(e *Engine) *herald {
	if e.config.PollOnly {
		return &herald{}
	}
	ctx, cancel := context.WithCancel(context.Background())
	h := &herald{
		pool: e.pool, log: e.log, queues: map[string]struct{}{}, wake: make(chan struct{}, 1), done: make(chan struct{}), cancel: cancel,
	}
	go h.loop(ctx)
	return h
}

func (h *herald) tell(queue string) {
	if h.done == nil {
		return
	}
	h.mu.Lock()
	h.queues[queue] = struct{}{}
	h.mu.Unlock()
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

func (h *herald) stop() {
	if h.done == nil {
		return
	}
	h.cancel()
	<-h.done
}

func (h *herald) loop(ctx context.Context) {
	defer close(h.done)
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-h.wake:
		}
		for names := h.take(); len(names) > 0; names = h.take() {
			timed, cancel := context.WithTimeout(ctx, statementTimeout)
			_, err := h.pool.Exec(timed, `select pg_notify($1, $2)`, wakeChannel, strings.Join(names, ","))
			cancel()
			if err != nil && ctx.Err() == nil && !failing {
				h.log.WarnContext(ctx, "Other engines not notified, they will find out by themselves", "err", err)
			}
			failing = err != nil
		}
		pauseFor(ctx, heraldSpacing)
	}
}

func (h *herald) take() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var names []string
	for q := range h.queues {
		if len(names) == heraldMost {
			break
		}
		names = append(names, q)
		delete(h.queues, q)
	}
	return names
}

const (
	hearOneself = 5 * time.Second // within which a listener hears what it says itself
	listenAnew  = time.Minute     // after which one that did not tries again
)

var errDeaf = errors.New("a notification was not heard")

// listenLoop hears what other engines' heralds tell. While it does not, be it that the database is away or that it has no
// LISTEN, the sweep does alone, and more often; that is said once.
func (e *Engine) listenLoop(ctx context.Context) {
	said := false
	for try := 0; ctx.Err() == nil; try++ {
		err := e.listen(ctx, func() {
			if said {
				e.log.InfoContext(ctx, "Listening again")
			}
			said, try = false, 0
			e.sweepEvery(e.config.Sweep)
		})
		if ctx.Err() != nil {
			return
		}
		if !said {
			said = true
			e.sweepEvery(min(e.config.Sweep, pollSweep))
			e.log.WarnContext(ctx, "Not listening, looking for work more often instead", "err", err)
		}
		if errors.Is(err, errDeaf) {
			pauseFor(ctx, listenAnew)
		} else {
			pause(ctx, try)
		}
	}
}

// listen hears others until the connection breaks. heard is called once it has heard itself: there are databases, and
// poolers, that take a LISTEN and never deliver anything.
func (e *Engine) listen(ctx context.Context, heard func()) error {
	acquired, err := e.conns.Acquire(ctx)
	if err != nil {
		return err
	}
	conn := acquired.Hijack() // a listening session must not serve others
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, "listen "+wakeChannel); err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, "notify "+wakeChannel); err != nil {
		return err
	}
	first, cancel := context.WithTimeout(ctx, hearOneself)
	defer cancel()
	n, err := conn.WaitForNotification(first)
	if ctx.Err() == nil && first.Err() != nil {
		return errDeaf
	}
	if err == nil {
		heard()
	}
	for err == nil {
		names := strings.Split(n.Payload, ",")
		e.hint(gatesNamed(names))
		if err = e.wakeQueues(ctx, names); err == nil {
			n, err = conn.WaitForNotification(ctx)
		}
	}
	return err
}

// canListen tells whether the database has LISTEN at all.
func (e *Engine) canListen(ctx context.Context) bool {
	_, err := e.conns.Exec(ctx, "listen "+wakeChannel+"; unlisten *")
	if isMissing(err) {
		e.log.WarnContext(ctx, "No LISTEN to be had, looking for work more often instead", "err", err)
		return false
	}
	return true
}

// sweepEvery changes how often is swept.
func (e *Engine) sweepEvery(d time.Duration) {
	select {
	case <-e.sweepPace:
	default:
	}
	e.sweepPace <- d // there is one who says so, and room for one
}
