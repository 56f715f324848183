package queue

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// wakeChannel carries the names of queues on which messages wait, joined by commas. Nothing depends on it: sweeps find what a lost
// notification announced.
const wakeChannel = "sluice_wake"

// herald tells other engines about edges that woke, after the commit and in statements of its own: a NOTIFY inside the
// hand-off would make commits wait for each other. What gathers while one is sent goes with the next.
type herald struct {
	pool *pgxpool.Pool
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

func newHerald(pool *pgxpool.Pool, log *slog.Logger) *herald {
	ctx, cancel := context.WithCancel(context.Background())
	h := &herald{pool: pool, log: log, queues: map[string]struct{}{}, wake: make(chan struct{}, 1), done: make(chan struct{}), cancel: cancel}
	go h.loop(ctx)
	return h
}

func (h *herald) tell(queue string) {
	h.mu.Lock()
	h.queues[queue] = struct{}{}
	h.mu.Unlock()
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

func (h *herald) stop() {
	h.cancel()
	<-h.done
}

func (h *herald) loop(ctx context.Context) {
	defer close(h.done)
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
			if err != nil && ctx.Err() == nil {
				h.log.WarnContext(ctx, "Other engines not notified, they will find out by themselves", "err", err)
			}
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

// listenLoop hears what other engines' heralds tell. Where LISTEN is not to be had, the sweep does alone.
func (e *Engine) listenLoop(ctx context.Context) {
	for try := 0; ctx.Err() == nil; try++ {
		if err := e.listen(ctx, func() { try = 0 }); err != nil && ctx.Err() == nil {
			e.log.WarnContext(ctx, "Not listening, sweeping only", "err", err)
		}
		pause(ctx, try)
	}
}

func (e *Engine) listen(ctx context.Context, heard func()) error {
	pooled, err := e.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	conn := pooled.Hijack() // a listening session must not serve others
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, "listen "+wakeChannel); err != nil {
		return err
	}
	for {
		n, err := conn.WaitForNotification(ctx)
		if err != nil {
			return err
		}
		heard()
		if err := e.wakeQueues(ctx, strings.Split(n.Payload, ",")); err != nil {
			return err
		}
	}
}
