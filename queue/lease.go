package queue

import (
	"context"
	"errors"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
)

// A life is one life of a runner: an id that stands in the jobs it claims, and a lease that it must renew. Lives are
// never resumed: a runner that finds its lease over begins a new one, with empty hands.
type life struct {
	id       int64
	claimant string       // the id as it stands in a job
	lastBeat atomic.Int64 // sinceBoot, before the last good renewal was sent
	dead     atomic.Bool
	silence  time.Duration // after which it starts no call
}

func newLife(id int64, silence, beat time.Duration) *life {
	l := &life{id: id, claimant: strconv.FormatInt(id, 10), silence: silence}
	l.lastBeat.Store(int64(beat))
	return l
}

// fresh tells whether the lease surely still runs, by a margin that leaves time for a late commit.
func (l *life) fresh() bool {
	return !l.dead.Load() && sinceBoot()-time.Duration(l.lastBeat.Load()) < l.silence
}

// name is what stands in the jobs that are born claimed. Without a life there are none, and the name is nobody's.
func (l *life) name() string {
	if l == nil {
		return "0"
	}
	return l.claimant
}

// beginLife takes a new id and lease.
func (e *Engine) beginLife(ctx context.Context) error {
	beat := sinceBoot()
	var id int64
	if err := e.pool.QueryRow(ctx, `
		insert into sluice.runner (name, lease_until) values ($1, clock_timestamp() + $2) returning id`,
		e.config.Name, e.config.Lease).Scan(&id); err != nil {
		return err
	}
	l := newLife(id, time.Duration(selfStopPart*float64(e.config.Lease)), beat)
	e.mu.Lock()
	e.current = l
	e.mu.Unlock()
	e.log.InfoContext(ctx, "Runner started", "runner", id)
	return nil
}

// endLife gives back whatever is still claimed and ends the lease, so that others need not wait for that.
func (e *Engine) endLife(ctx context.Context) error {
	l := e.life()
	if _, err := e.pool.Exec(ctx, releaseSQL, l.claimant, nil, nil); err != nil {
		return err
	}
	_, err := e.pool.Exec(ctx, `delete from sluice.runner where id = $1`, l.id)
	e.log.InfoContext(ctx, "Runner stopped", "runner", l.id)
	return err
}

// life is the present life, nil before the first.
func (e *Engine) life() *life {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.current
}

// beat renews the lease. A lease that is over is never renewed, as the jobs may be someone else's by now: a new life
// begins.
func (e *Engine) beat(ctx context.Context) error {
	l := e.life()
	sent, sentAt := sinceBoot(), time.Now()
	ctx, cancel := context.WithTimeout(ctx, e.config.Lease/2)
	defer cancel()
	var now time.Time
	err := e.pool.QueryRow(ctx, `
		update sluice.runner set lease_until = clock_timestamp() + $2
		where id = $1 and lease_until > clock_timestamp()
		returning clock_timestamp()`, l.id, e.config.Lease).Scan(&now)
	switch {
	case err == nil:
		l.lastBeat.Store(int64(sent))
		e.clock.set(now, sentAt)
		return nil
	case !errors.Is(err, pgx.ErrNoRows):
		return err
	}
	l.dead.Store(true)
	e.log.WarnContext(ctx, "Lease lost, starting anew with empty hands", "runner", l.id)
	return e.beginLife(ctx)
}

// takeOver frees the jobs of dead runners.
func (e *Engine) takeOver(ctx context.Context) error {
	freed, err := e.wakeCounted(ctx, takeOverSQL)
	if err != nil {
		return err
	}
	if freed > 0 {
		e.log.WarnContext(ctx, "Messages of a dead runner taken over", "count", freed)
	}
	return nil
}

// forgetRunners forgets runners that have been dead for a day.
func (e *Engine) forgetRunners(ctx context.Context) error {
	_, err := e.pool.Exec(ctx, `delete from sluice.runner where lease_until < clock_timestamp() - interval '1 day'`)
	return err
}

// reconcile frees jobs that the database says are this runner's and that it knows nothing of: a commit may have stood
// although its answer was lost. It runs in the fetcher, so that no claim is under way; births are registered before
// they are sent, so a job that is not registered is nobody's work.
func (e *Engine) reconcile(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	l := e.life()
	rows, _ := e.pool.Query(ctx, claimsOfSQL, l.claimant)
	type claim struct {
		ID      int64
		Attempt int16
	}
	claimed, err := pgx.CollectRows(rows, pgx.RowToStructByName[claim])
	if err != nil {
		return err
	}
	var lost []int64
	var attempts []int16
	e.mu.Lock()
	for _, c := range claimed {
		if e.inFlight[c.ID] == nil {
			lost, attempts = append(lost, c.ID), append(attempts, c.Attempt)
		}
	}
	e.mu.Unlock()
	if len(lost) == 0 {
		return nil
	}
	freed, err := e.wakeCounted(ctx, releaseSQL, l.claimant, lost, attempts)
	if freed > 0 {
		e.log.WarnContext(ctx, "Claims without an owner given back", "count", freed)
	}
	return err
}

// wakeCounted runs a statement that returns queues with counts, and wakes these queues.
func (e *Engine) wakeCounted(ctx context.Context, sql string, args ...any) (total int64, err error) {
	rows, _ := e.pool.Query(ctx, sql, args...)
	var queue string
	var n int64
	var queues []string
	_, err = pgx.ForEachRow(rows, []any{&queue, &n}, func() error {
		queues = append(queues, queue)
		total += n
		return nil
	})
	if err != nil {
		return 0, err
	}
	return total, e.wakeQueues(ctx, queues)
}
