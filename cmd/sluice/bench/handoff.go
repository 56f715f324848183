package bench

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"

	"sluice/queue"
	"sluice/queue/worker"
)

const (
	handOffHops  = 5
	handOffSlots = 2500 // as many as River gets workers
)

// measureHandOff moves events through five nodes whose worker answers at once with a new body of 1 KB: what remains is
// the engine. Each hop writes a message with its payload, a record of the attempt, and the process's counters. The
// baseline is River's own no-op jobs, which hand nothing on and record nothing.
func measureHandOff(ctx context.Context, r *run) (Result, error) {
	url, drop, err := r.database(ctx)
	if err != nil {
		return Result{}, err
	}
	defer drop()
	baseline, err := riverNoOps(ctx, url, r.scaled(100_000))
	if err != nil {
		return Result{}, err
	}
	pool, err := queue.Open(ctx, url, 16)
	if err != nil {
		return Result{}, err
	}
	defer pool.Close()
	rate, err := handOffRate(ctx, pool, r.scaled(30_000))
	return Result{Rate: rate, Unit: "hops/s", Baseline: baseline, BaselineName: "River no-op jobs/s"}, err
}

func handOffRate(ctx context.Context, pool *pgxpool.Pool, events int) (rate float64, err error) {
	if err := publish(ctx, pool, handOffHops, handOffSlots, "http://127.0.0.1:9"); err != nil {
		return 0, err
	}
	body := bytes.Repeat([]byte("x"), 1024)
	calls := newCountdown(events * handOffHops)
	engine, err := queue.New(ctx, pool, queue.Config{
		Slots: handOffSlots,
		Caller: callerFunc(func(_ context.Context, r worker.Request) (worker.Result, error) {
			calls.done()
			return worker.Result{Reply: worker.Reply{Verdict: worker.Done, Messages: []worker.Message{{Body: body, Headers: r.Headers}}}, Status: 200}, nil
		}),
	})
	if err != nil {
		return 0, err
	}
	defer stop(ctx, engine, &err)
	if err := acceptAll(ctx, engine, events, body); err != nil {
		return 0, err
	}
	if err := settleDatabase(ctx, pool); err != nil {
		return 0, err
	}
	took, err := drain(ctx, engine, pool, calls)
	if err != nil {
		return 0, err
	}
	return float64(events*handOffHops) / took.Seconds(), nil
}

// settleDatabase lets neither side pay for what was written before its clock started. Not everyone may have that done;
// without it, both sides pay.
func settleDatabase(ctx context.Context, pool *pgxpool.Pool) error {
	_, err := pool.Exec(ctx, `checkpoint`)
	if refused, ok := errors.AsType[*pgconn.PgError](err); ok && refused.Code == insufficientPrivilege {
		return nil
	}
	return err
}

const insufficientPrivilege = "42501"

// silent is for libraries whose news is not ours.
var silent = slog.New(slog.DiscardHandler)

// countdown waits for a number of events without asking the database for them.
type countdown struct {
	left atomic.Int64
	zero chan struct{}
}

func newCountdown(n int) *countdown {
	c := &countdown{zero: make(chan struct{})}
	c.left.Store(int64(n))
	return c
}

func (c *countdown) done() {
	if c.left.Add(-1) == 0 {
		close(c.zero)
	}
}

func (c *countdown) wait(ctx context.Context) error {
	select {
	case <-c.zero:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

type noOp struct {
	N int `json:"n"`
}

func (noOp) Kind() string { return "bench_noop" }

type noOpWorker struct {
	river.WorkerDefaults[noOp]
	jobs *countdown
}

func (w *noOpWorker) Work(context.Context, *river.Job[noOp]) error {
	w.jobs.done()
	return nil
}

// riverNoOps is how many jobs that do nothing River works in a second, tuned for it: many workers, a short cooldown.
func riverNoOps(ctx context.Context, url string, jobs int) (float64, error) {
	pool, err := queue.Open(ctx, url, 16)
	if err != nil {
		return 0, err
	}
	defer pool.Close()
	w := &noOpWorker{jobs: newCountdown(jobs)}
	workers := river.NewWorkers()
	river.AddWorker(workers, w)
	client, err := river.NewClient(riverpgxv5.New(pool), &river.Config{
		FetchCooldown: time.Millisecond,
		Queues:        map[string]river.QueueConfig{"bench": {MaxWorkers: handOffSlots}},
		Schema:        "river",
		Workers:       workers,
		Logger:        silent,
	})
	if err != nil {
		return 0, err
	}
	params := make([]river.InsertManyParams, 0, 5000)
	for i := range jobs {
		params = append(params, river.InsertManyParams{Args: noOp{N: i}, InsertOpts: &river.InsertOpts{Queue: "bench"}})
		if len(params) == cap(params) || i == jobs-1 {
			if _, err := client.InsertManyFast(ctx, params); err != nil {
				return 0, err
			}
			params = params[:0]
		}
	}
	if err := settleDatabase(ctx, pool); err != nil {
		return 0, err
	}
	start := time.Now()
	if err := client.Start(ctx); err != nil {
		return 0, err
	}
	if err := w.jobs.wait(ctx); err != nil {
		return 0, err
	}
	// The last completions are still on their way to the database; they belong to the work.
	if err := until(ctx, pool, `select not exists (select from river.river_job where queue = 'bench' and state <> 'completed')`); err != nil {
		return 0, err
	}
	took := time.Since(start)
	err = client.Stop(context.WithoutCancel(ctx))
	_, truncErr := pool.Exec(ctx, `truncate river.river_job`)
	if err == nil {
		err = truncErr
	}
	return float64(jobs) / took.Seconds(), err
}
