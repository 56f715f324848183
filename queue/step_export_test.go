package queue

import (
	"context"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
)

// What follows lets a test take the place of an engine's loops: it makes their steps one by one, in an order of its own,
// on an engine that was never started.

// Begin makes an engine a runner without loops.
func Begin(ctx context.Context, e *Engine) error {
	if err := e.beginLife(ctx); err != nil {
		return err
	}
	e.callCtx, e.cutCalls = context.WithCancel(ctx)
	e.startCtx, e.cutStarts = context.WithCancel(e.callCtx)
	e.dbCtx, e.cutDB = context.WithCancel(ctx)
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

// Beat, TakeOver, Reconcile, RingAlarm, Sweep and EndLife are what the loops do beside fetching.
func Beat(ctx context.Context, e *Engine) error      { return e.beat(ctx) }
func TakeOver(ctx context.Context, e *Engine) error  { return e.takeOver(ctx) }
func Reconcile(ctx context.Context, e *Engine) error { return e.reconcile(ctx) }
func RingAlarm(ctx context.Context, e *Engine) error { return e.ringAlarm(ctx, e.alarmIn) }
func Sweep(ctx context.Context, e *Engine) error     { return e.sweep(ctx, e.alarmIn) }
func EndLife(ctx context.Context, e *Engine) error   { return e.endLife(ctx) }

// Hear tells an engine that messages wait on queues, as others do.
func Hear(ctx context.Context, e *Engine, queues []string) error { return e.wakeQueues(ctx, queues) }

// AcceptAs takes events in, in one commit, as the given processes.
func AcceptAs(ctx context.Context, e *Engine, events []Event, processes []uuid.UUID) []error {
	errs := make([]error, len(events))
	var batch []*pendingEvent
	for i, ev := range events {
		p, err := e.prepare(ctx, ev)
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

// Claim is a message that an engine believes to have claimed.
type Claim struct {
	ID      int64
	Attempt int
	Page    int
}

// Claims are those that an engine remembers.
func Claims(e *Engine) []Claim {
	e.mu.Lock()
	defer e.mu.Unlock()
	var claims []Claim
	for _, d := range e.inFlight {
		claims = append(claims, d.claim())
	}
	return claims
}

func (d *delivery) claim() Claim { return Claim{d.id, d.attempt, d.page} }

// Settlement is a result that waits for its hand-off.
type Settlement struct {
	s *settlement
}

// Claim is the claim that the result was made under.
func (s Settlement) Claim() Claim { return s.s.d.claim() }

// NextSettled waits for a call's result.
func NextSettled(ctx context.Context, e *Engine) (Settlement, error) {
	select {
	case s := <-e.settled:
		return Settlement{s}, nil
	case <-ctx.Done():
		return Settlement{}, ctx.Err()
	}
}

// HandOff commits results together.
func HandOff(e *Engine, lane int16, results []Settlement) {
	batch := make([]*settlement, len(results))
	for i, r := range results {
		batch[i] = r.s
	}
	e.handOff(e.slot+committers+lane, batch)
}
