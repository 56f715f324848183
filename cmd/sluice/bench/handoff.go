package bench

import (
	"context"
	"errors"
	"slices"
	"strconv"
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
	var through speed
	baseline, err := between(
		func() (speed, error) { return river.riverNoOps(ctx, r.scaled(60_000)) },
		func() (err error) { through, err = l.handOffSpeed(ctx, "line", r.scaled(30_000)); return err },
	)
	got := Result{Unit: "hops/s", BaselineName: "River no-op jobs/s"}
	got.compare(through, baseline)
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

// handOffSpeed is how fast events go through five nodes of a new topology.
func (l *lab) handOffSpeed(ctx context.Context, topology string, events int) (speed, error) {
	return l.speed(ctx, line{name: topology, hops: handOffHops, worker: "bench"}, load{events: events})
}

// load is what is accepted by a topology.
type load struct {
	events int
	keys   int // among which they are dealt out, by the header "key", and "user"; 0: they have none
}

// speed publishes a topology and tells how many hops a second its events make, once they wait on its first edge. Their
// worker answers at once.
func (l *lab) speed(ctx context.Context, through line, of load) (got speed, err error) {
	if err := l.publish(ctx, through); err != nil {
		return got, err
	}
	hops := of.events * through.hops
	calls := newCountdown(hops)
	engine, err := queue.New(ctx, l.pool, queue.Config{Slots: handOffSlots, NodeSlots: handOffSlots, Caller: instant(through.name, calls.done)})
	if err != nil {
		return got, err
	}
	defer stop(ctx, engine, &err)
	if err := of.accept(ctx, engine, through.name); err != nil {
		return got, err
	}
	if err := l.settle(ctx); err != nil {
		return got, err
	}
	return l.timed(ctx, hops, func() error { return l.drain(ctx, engine, through.name, calls) })
}

// accept stores the events without a runner, so that they wait when the clock starts.
func (of load) accept(ctx context.Context, engine *queue.Engine, topology string) error {
	batch := slices.Repeat([]queue.Event{{Tenant: tenant, Topology: topology, Node: "in", Body: text(1024)}}, 1000)
	next := 0
	for left := of.events; left > 0; left -= len(batch) {
		if of.keys > 0 {
			for i := range batch {
				key := strconv.Itoa(next % of.keys)
				batch[i].Headers = map[string]string{"key": key, "user": key}
				next++
			}
		}
		_, errs := engine.AcceptMany(ctx, batch[:min(left, len(batch))])
		if err := errors.Join(errs...); err != nil {
			return err
		}
	}
	return nil
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
func (l *lab) riverNoOps(ctx context.Context, jobs int) (speed, error) {
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
		return speed{}, err
	}
	params := make([]river.InsertManyParams, 0, 5000)
	for i := range jobs {
		params = append(params, river.InsertManyParams{Args: noOp{N: i}, InsertOpts: &river.InsertOpts{Queue: "bench"}})
		if len(params) == cap(params) || i == jobs-1 {
			if _, err := client.InsertManyFast(ctx, params); err != nil {
				return speed{}, err
			}
			params = params[:0]
		}
	}
	if err := l.settle(ctx); err != nil {
		return speed{}, err
	}
	got, err := l.timed(ctx, jobs, func() error {
		if err := client.Start(ctx); err != nil {
			return err
		}
		if err := w.jobs.wait(ctx); err != nil {
			_ = client.StopAndCancel(context.WithoutCancel(ctx)) // the run is over
			return err
		}
		// The last completions are still on their way to the database; they belong to the work.
		return until(ctx, l.pool, `select not exists (select from river.river_job where queue = 'bench' and state <> 'completed')`)
	})
	if err != nil {
		return got, err
	}
	err = client.Stop(context.WithoutCancel(ctx))
	_, truncErr := l.pool.Exec(ctx, `truncate river.river_job`)
	return got, errors.Join(err, truncErr)
}
