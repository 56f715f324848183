package queue

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"sluice/queue/process"
)

// The sentinel sees what nobody told the runner: leases that are over, retries that are due, edges that woke elsewhere,
// queues that were paused or jobs that were cancelled through River.

// beatLoop does nothing but renew the lease, so that nothing slow can cost it.
func (e *Engine) beatLoop(ctx context.Context) {
	beats := time.NewTicker(e.config.Beat)
	defer beats.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-beats.C:
			if err := e.beat(ctx); err != nil && ctx.Err() == nil {
				e.log.WarnContext(ctx, "Lease not renewed", "err", err)
				if errors.Is(err, context.DeadlineExceeded) {
					e.pool.Reset() // perhaps nobody is at the other end of the connections any more: each would cost a time-out
				}
			}
		}
	}
}

// alarmGap is the least time from one alarm to the next, so that thousands of retries, each due at a moment of its own, are
// put back dozens at a time.
const alarmGap = 20 * time.Millisecond

func (e *Engine) sentinelLoop(ctx context.Context) {
	watches := time.NewTicker(e.config.Beat)
	defer watches.Stop()
	sweeps := time.NewTicker(e.config.Sweep)
	defer sweeps.Stop()
	sweepNow := make(chan struct{}, 1)
	sweepNow <- struct{}{} // a runner that starts looks at once
	alarm := time.NewTimer(time.Hour)
	defer alarm.Stop()
	var rings time.Time // when the alarm is set for; zero: not at all
	var rang time.Time
	set := func(in time.Duration) {
		in = max(in, time.Until(rang.Add(alarmGap)))
		if at := time.Now().Add(in); rings.IsZero() || at.Before(rings) {
			rings = at
			alarm.Reset(in)
		}
	}
	for {
		var err error
		select {
		case <-ctx.Done():
			return
		case in := <-e.wakeAlarm:
			set(in)
		case <-alarm.C:
			rings, rang = time.Time{}, time.Now()
			err = e.ringAlarm(ctx, set)
		case <-watches.C:
			err = e.keepWatch(ctx)
		case d := <-e.sweepPace:
			sweeps.Reset(d)
		case <-sweepNow:
			err = e.sweep(ctx, set)
		case <-sweeps.C:
			err = e.sweep(ctx, set)
		}
		if err != nil && ctx.Err() == nil {
			e.log.WarnContext(ctx, "Sentinel's round failed", "err", err)
		}
	}
}

// keepWatch looks for the work of dead runners, for claims of this one that it knows nothing of, and for jobs that were
// cancelled through River: once a beat, at a moment of its own so that runners do not do it all at once.
func (e *Engine) keepWatch(ctx context.Context) error {
	pauseFor(ctx, time.Duration(rand.Int64N(int64(e.config.Beat/8)+1)))
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	if err := e.takeOver(ctx); err != nil {
		return err
	}
	e.askReconcile()
	e.pokeFetcherAnyway()
	batch := &pgx.Batch{} // both pass over what others have locked
	batch.Queue(cancelledSQL, noSlot, cancelledReason, process.ClassCancelled, process.HashOf(cancelledReason))
	batch.Queue(reviveTokensSQL)
	return e.pool.SendBatch(ctx, batch).Close()
}

// alarmIn asks for the alarm to ring when a retry is due.
func (e *Engine) alarmIn(d time.Duration) {
	select {
	case e.wakeAlarm <- max(d, 0):
	default: // the sentinel is busy; the sweep sees it
	}
}

// ringAlarm puts the due retries back on their edges, and sets the alarm for the next.
func (e *Engine) ringAlarm(ctx context.Context, set func(time.Duration)) error {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	batch := &pgx.Batch{}
	var queues []string
	queueAlarm(batch, &queues, set)
	if err := e.pool.SendBatch(ctx, batch).Close(); err != nil {
		return err
	}
	return e.wakeQueues(ctx, queues)
}

// queueAlarm adds the alarm's two statements to a batch, whose answers fill queues and set the alarm.
func queueAlarm(batch *pgx.Batch, queues *[]string, set func(time.Duration)) {
	batch.Queue(alarmSQL).Query(func(rows pgx.Rows) (err error) {
		*queues, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	batch.Queue(alarmNextSQL).QueryRow(func(row pgx.Row) error {
		var micros *int64
		err := row.Scan(&micros)
		if micros != nil {
			set(max(time.Duration(*micros)*time.Microsecond, time.Millisecond))
		}
		return err
	})
}

// sweep looks at everything once, in one round trip: retries that are due, edges with available messages, pauses.
func (e *Engine) sweep(ctx context.Context, set func(time.Duration)) error {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	var due, awake, paused []string
	batch := &pgx.Batch{}
	queueAlarm(batch, &due, set)
	batch.Queue(sweepSQL).Query(func(rows pgx.Rows) (err error) {
		awake, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	batch.Queue(pausedSQL).Query(func(rows pgx.Rows) (err error) {
		paused, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	if err := e.pool.SendBatch(ctx, batch).Close(); err != nil {
		return err
	}
	if err := e.notePaused(ctx, paused); err != nil {
		return err
	}
	return e.wakeQueues(ctx, slices.Concat(due, awake))
}

// learnPauses looks which edges are paused.
func (e *Engine) learnPauses(ctx context.Context) error {
	rows, _ := e.pool.Query(ctx, pausedSQL)
	paused, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	return e.notePaused(ctx, paused)
}

// notePaused stops and restarts edges as their queues were paused and resumed through River.
func (e *Engine) notePaused(ctx context.Context, queues []string) error {
	edges, err := e.catalog.edgesOf(ctx, queues)
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, to := range e.paused {
		to.paused = slices.Contains(edges, to)
	}
	for _, to := range edges {
		to.paused = true
	}
	e.paused = edges
	return nil
}

// pokeFetcherAnyway lets the fetcher look at edges that it could not serve before: a circuit may be ready for a probe.
func (e *Engine) pokeFetcherAnyway() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.awake) > 0 {
		e.pokeFetcher()
	}
}

// pokeIn lets the fetcher look in a moment at edges whose calls are held back. The caller holds the lock.
func (e *Engine) pokeIn(wait time.Duration) {
	if e.poking {
		return
	}
	e.poking = true
	time.AfterFunc(wait, func() {
		e.mu.Lock()
		e.poking = false
		e.mu.Unlock()
		e.pokeFetcherAnyway()
	})
}
