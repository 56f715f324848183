package bench

import (
	"context"
	"time"

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
func measureHandOff(ctx context.Context, r *run) ([]Result, error) {
	river, err := r.lab(ctx)
	if err != nil {
		return nil, err
	}
	defer river.close()
	l, err := r.lab(ctx)
	if err != nil {
		return nil, err
	}
	defer l.close()
	if err := l.addWorker(ctx, "bench", nowhere); err != nil {
		return nil, err
	}
	got := Result{Unit: "hops/s", BaselineName: "River no-op jobs/s"}
	got.Baseline, err = between(
		func() (float64, error) { return river.riverNoOps(ctx, r.scaled(60_000)) },
		func() (err error) { got.Rate, err = l.handOffRate(ctx, "line", r.scaled(30_000)); return err },
	)
	return []Result{got}, err
}

// instant answers every call for a topology at once with a new body, after it has told done. For others it is down.
func instant(topology string, done func()) queue.Caller {
	body := text(1024)
	return callerFunc(func(_ context.Context, r worker.Request) (worker.Result, error) {
		if r.Topology != topology {
			return worker.Result{}, &worker.Failure{Class: worker.Unavailable, Reason: "down"}
		}
		done()
		return worker.Result{Reply: worker.Send(worker.Message{Body: body, Headers: r.Headers}), Status: 200}, nil
	})
}

// handOffRate publishes a topology and tells how many hops a second its events make, once they wait on its first edge.
func (l *lab) handOffRate(ctx context.Context, topology string, events int) (rate float64, err error) {
	if err := l.publish(ctx, line{name: topology, hops: handOffHops, worker: "bench"}); err != nil {
		return 0, err
	}
	calls := newCountdown(events * handOffHops)
	engine, err := queue.New(ctx, l.pool, queue.Config{Slots: handOffSlots, NodeSlots: handOffSlots, Caller: instant(topology, calls.done)})
	if err != nil {
		return 0, err
	}
	defer stop(ctx, engine, &err)
	if err := acceptAll(ctx, engine, topology, events); err != nil {
		return 0, err
	}
	if err := l.settle(ctx); err != nil {
		return 0, err
	}
	took, err := l.drain(ctx, engine, topology, calls)
	if err != nil {
		return 0, err
	}
	return float64(events*handOffHops) / took.Seconds(), nil
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
func (l *lab) riverNoOps(ctx context.Context, jobs int) (float64, error) {
	w := &noOpWorker{jobs: newCountdown(jobs)}
	workers := river.NewWorkers()
	river.AddWorker(workers, w)
	client, err := river.NewClient(riverpgxv5.New(l.pool), &river.Config{
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
	if err := l.settle(ctx); err != nil {
		return 0, err
	}
	start := time.Now()
	if err := client.Start(ctx); err != nil {
		return 0, err
	}
	if err := w.jobs.wait(ctx); err != nil {
		_ = client.StopAndCancel(context.WithoutCancel(ctx)) // the run is over
		return 0, err
	}
	// The last completions are still on their way to the database; they belong to the work.
	if err := until(ctx, l.pool, `select not exists (select from river.river_job where queue = 'bench' and state <> 'completed')`); err != nil {
		return 0, err
	}
	took := time.Since(start)
	err = client.Stop(context.WithoutCancel(ctx))
	_, truncErr := l.pool.Exec(ctx, `truncate river.river_job`)
	if err == nil {
		err = truncErr
	}
	return float64(jobs) / took.Seconds(), err
}
