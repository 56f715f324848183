package queue

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
)

// What follows lets a test take the place of an engine's loops: it makes their steps one by one, in an order of its own,
// on an engine that was never started.

// Begin makes an engine a runner without loops, whose lanes have turns of the given length.
func Begin(ctx context.Context, e *Engine, turn time.Duration) error {
	if err := e.beginLife(ctx); err != nil {
		return err
	}
	e.callCtx, e.cutCalls = context.WithCancel(ctx)
	e.startCtx, e.cutStarts = context.WithCancel(e.callCtx)
	e.dbCtx, e.cutDB = context.WithCancel(ctx)
	e.turn = turn
	e.mu.Lock()
	defer e.mu.Unlock()
	e.running, e.slots = true, e.config.Slots
	return nil
}

// Crash ends such a runner as a crash would: nothing of it reaches the database any more.
func Crash(e *Engine) {
	e.mu.Lock()
	e.running = false
	e.mu.Unlock()
	e.cutDB()
	e.cutCalls()
}

// Beat, TakeOver, Reconcile, RingAlarm, Sweep, EndLife and ForgetLanes are what the loops do beside fetching.
func Beat(ctx context.Context, e *Engine) error      { return e.beat(ctx) }
func TakeOver(ctx context.Context, e *Engine) error  { return e.takeOver(ctx) }
func Reconcile(ctx context.Context, e *Engine) error { return e.reconcile(ctx) }
func RingAlarm(ctx context.Context, e *Engine) error { return e.ringAlarm(ctx, e.alarmIn) }
func Sweep(ctx context.Context, e *Engine) error     { return e.sweep(ctx, e.alarmIn) }
func EndLife(ctx context.Context, e *Engine) error   { return e.endLife(ctx) }
func ForgetLanes(ctx context.Context, e *Engine) error {
	rows, err := e.pool.Query(ctx, forgetLanesSQL) // Exec would send it in a way that does not stop at the gate
	rows.Close()
	return cmp.Or(err, rows.Err())
}

// ForgetConfiguration lets an engine read again what names lead to.
func ForgetConfiguration(e *Engine) {
	e.catalog.mu.Lock()
	defer e.catalog.mu.Unlock()
	clear(e.catalog.tenants)
}

// Hear tells an engine that messages wait on queues, as others do.
func Hear(ctx context.Context, e *Engine, queues []string) error { return e.wakeQueues(ctx, queues) }

// AcceptAs takes events in, in one commit, as the given processes.
func AcceptAs(ctx context.Context, e *Engine, events []Event, processes []uuid.UUID) []error {
	errs := make([]error, len(events))
	var batch []*pendingEvent
	for i, ev := range events {
		p, err := e.prepare(ctx, ev, nil)
		if errs[i] = err; err != nil {
			return errs
		}
		p.process = processes[i]
		batch = append(batch, p)
	}
	e.acceptBatch(e.slot, batch)
	for i, p := range batch {
		errs[i] = (<-p.done).err
	}
	return errs
}

// Awake lists the queues that an engine would look at.
func Awake(e *Engine) []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var queues []string
	for to := range e.awake {
		queues = append(queues, to.queue)
	}
	slices.Sort(queues)
	return queues
}

// Fetcher claims messages as an engine's loop does.
type Fetcher struct {
	Engine *Engine
	conn   sender
}

// Fetch claims messages of some of the queues that are awake, looking at them in the given order.
func (f *Fetcher) Fetch(ctx context.Context, queues []string) error {
	e := f.Engine
	var wants []want
	for _, q := range queues {
		e.mu.Lock()
		all := e.awake
		e.awake = map[*edge]struct{}{}
		for to := range all {
			if to.queue == q {
				e.awake[to] = struct{}{}
			}
		}
		e.mu.Unlock()
		wants = append(wants, e.reserveAwake()...)
		e.mu.Lock()
		for to := range all {
			if to.queue != q {
				e.awake[to] = struct{}{}
			}
		}
		e.mu.Unlock()
	}
	if len(wants) == 0 {
		return nil
	}
	var err error
	if f.conn == nil {
		f.conn, err = e.openFetcher(ctx)
	}
	if err == nil {
		err = e.fetch(ctx, f.conn, wants)
	} else {
		e.unreserveAll(wants)
	}
	if err != nil {
		f.Close()
	}
	return err
}

// Close gives up the fetcher's connection.
func (f *Fetcher) Close() {
	if own, ok := f.conn.(*pgxpool.Conn); ok {
		own.Conn().Close(context.Background())
		own.Release()
	}
	f.conn = nil
}

// Claim is a message that an engine believes to have claimed, or a token.
type Claim struct {
	ID      int64
	Attempt int
	Page    int
}

func (d *delivery) claim() Claim { return Claim{d.id, d.attempt, d.page} }

// Claims are those that an engine remembers and that do something: nobody waits for the commit of what was done in the lane.
func Claims(e *Engine) []Claim {
	e.mu.Lock()
	defer e.mu.Unlock()
	var claims []Claim
	for _, d := range e.inFlight {
		if d.run == nil || !d.run.isWaiting() {
			claims = append(claims, d.claim())
		}
	}
	return claims
}

func (r *run) isWaiting() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.waits
}

// Result is what a committer is given: the result of a call, or the news that there are results of a lane.
type Result struct {
	s *settlement
}

// OfLane tells whether it is news of a lane.
func (r Result) OfLane() bool { return r.s.run != nil }

// Claim is the claim that the result was made under; of a lane's, of its token.
func (r Result) Claim() Claim {
	if r.s.run != nil {
		return r.s.run.token.claim()
	}
	return r.s.d.claim()
}

// Results takes what was given to committers.
func Results(e *Engine) (results []Result) {
	for {
		select {
		case s := <-e.settled:
			results = append(results, Result{s})
		default:
			return results
		}
	}
}

// HandOff commits results together, as one of two committers does, and of each lane's as many as are given. It returns
// lanes that have more.
func HandOff(e *Engine, committer int16, results []Result, ofLane int) (more []Result) {
	var batch []*settlement
	for _, r := range results {
		if r.s.run != nil {
			batch = append(batch, r.s.run.take(ofLane, flushBytes)...)
		} else {
			batch = append(batch, r.s)
		}
	}
	if len(batch) > 0 {
		e.handOff(e.slot+committers+committer, batch)
	}
	for _, r := range results {
		if r.s.run != nil && r.s.run.release() {
			more = append(more, r)
		}
	}
	return more
}

// Wish is someone's to read on in a lane.
type Wish struct {
	w *laneRead
}

// Token is the claim of the lane's token.
func (w Wish) Token() Claim { return w.w.run.token.claim() }

// Moves tells whether the lane is being worked, and nobody waits there for a commit. An engine may work a lane whose token
// it has lost and claimed anew: then it remembers only the new claim.
func (w Wish) Moves(e *Engine) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return !w.w.run.token.released && !w.w.run.isWaiting()
}

// Wishes takes those that there are.
func Wishes(e *Engine) (wishes []Wish) {
	for {
		select {
		case w := <-e.reads:
			wishes = append(wishes, Wish{w})
		default:
			return wishes
		}
	}
}

// Read reads lanes together. It tells of the bodies that it has read under which token that was, before anybody has them.
func Read(ctx context.Context, e *Engine, wishes []Wish, tell func(body []byte, token Claim)) {
	batch := make([]*laneRead, len(wishes))
	for i, w := range wishes {
		batch[i] = w.w
	}
	err := e.readLanes(ctx, batch)
	for _, w := range batch {
		for _, row := range w.rows {
			tell(row.Body, w.run.token.claim())
		}
		w.err = err
		close(w.done)
	}
}

// Bury ends what still goes on in an engine after a crash: results are not committed, lanes not read.
func Bury(ctx context.Context, e *Engine, results []Result, wishes []Wish) error {
	over := make(chan struct{})
	go func() {
		e.calls.Wait()
		close(over)
	}()
	for {
		for _, r := range append(results, Results(e)...) {
			if r.s.run == nil {
				e.leave([]*settlement{r.s})
				continue
			}
			for more := true; more; more = r.s.run.release() {
				e.leave(r.s.run.take(flushItems, flushBytes))
			}
		}
		for _, w := range append(wishes, Wishes(e)...) {
			w.w.err = context.Canceled
			close(w.w.done)
		}
		results, wishes = nil, nil
		select {
		case <-over:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Millisecond):
		}
	}
}
