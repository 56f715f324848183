package bench

import (
	"context"
	"net/http"
	"slices"
	"time"

	"sluice/queue"
	"sluice/queue/worker"
)

func measureLatencies(ctx context.Context, r *run) ([]Result, error) {
	idle, err := r.latencyAtIdle(ctx)
	if err != nil {
		return nil, err
	}
	steady, err := r.latencyAtSteadyRate(ctx)
	return []Result{idle, steady}, err
}

// latencyAtIdle sends one event at a time through five idle nodes over HTTP: from the call that accepts it to the answer
// of the fifth worker call.
func (r *run) latencyAtIdle(ctx context.Context) (result Result, err error) {
	l, err := r.lab(ctx)
	if err != nil {
		return Result{}, err
	}
	defer l.close()
	arrived := make(chan time.Time, 1)
	engine, stopAll, err := l.engineWithWorker(ctx, pipelineHops, func(r *http.Request, _ []byte) {
		if r.Header.Get("Sluice-Node") == "n5" {
			arrived <- time.Now()
		}
	})
	if err != nil {
		return Result{}, err
	}
	defer stopAll(&err)
	const warmUp = 20
	body := text(1024)
	var took []time.Duration
	begin := time.Now()
	for i := range r.scaled(300) + warmUp {
		start := time.Now()
		if _, err := engine.Accept(ctx, queue.Event{Tenant: tenant, Topology: "line", Node: "in", Body: body}); err != nil {
			return Result{}, err
		}
		select {
		case at := <-arrived:
			if i >= warmUp {
				took = append(took, at.Sub(start))
			}
		case <-ctx.Done():
			return Result{}, ctx.Err()
		case <-time.After(30 * time.Second):
			return Result{}, context.DeadlineExceeded
		}
		if err := wait(ctx, 2*time.Millisecond); err != nil { // what is measured is an engine at rest
			return Result{}, err
		}
	}
	slices.Sort(took)
	return Result{
		Rate: float64(len(took)) / time.Since(begin).Seconds(), Unit: "events/s, one at a time",
		P50: percentile(took, 0.5), P99: percentile(took, 0.99),
	}, nil
}

const steadyRate = 400 // events a second

// latencyAtSteadyRate sends 400 events a second through one node over HTTP, whatever becomes of those before: from the
// moment when an event was due to the answer of its worker call.
func (r *run) latencyAtSteadyRate(ctx context.Context) (result Result, err error) {
	l, err := r.lab(ctx)
	if err != nil {
		return Result{}, err
	}
	defer l.close()
	const warmUp = steadyRate / 2
	watch := newStopwatch(int(r.scaledTime(15*time.Second).Seconds()*steadyRate) + warmUp)
	engine, stopAll, err := l.engineWithWorker(ctx, 1, func(_ *http.Request, body []byte) { watch.arrived(body) })
	if err != nil {
		return Result{}, err
	}
	defer stopAll(&err)
	start := time.Now()
	err = watch.steadily(ctx, steadyRate, func(ctx context.Context, n int) error {
		_, err := engine.Accept(ctx, queue.Event{Tenant: tenant, Topology: "line", Node: "in", Body: watch.message(n)})
		return err
	})
	if err != nil {
		return Result{}, err
	}
	took, err := watch.sorted(ctx, warmUp)
	return Result{
		Rate: float64(len(watch.due)) / time.Since(start).Seconds(), Unit: "events/s, steadily",
		P50: percentile(took, 0.5), P99: percentile(took, 0.99),
	}, err
}

// engineWithWorker publishes a line and starts an engine that runs it, with a worker over HTTP.
func (l *lab) engineWithWorker(ctx context.Context, hops int, answered func(*http.Request, []byte)) (engine *queue.Engine, stopAll func(*error), err error) {
	echoURL, stopEcho, err := loopback(ctx, echo(answered))
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			stopEcho()
		}
	}()
	if err := l.addWorker(ctx, "bench", echoURL); err != nil {
		return nil, nil, err
	}
	if err := l.publish(ctx, line{name: "line", hops: hops, worker: "bench"}); err != nil {
		return nil, nil, err
	}
	client := worker.NewClient(worker.Config{})
	if engine, err = queue.New(ctx, l.pool, queue.Config{Caller: client}); err != nil {
		return nil, nil, err
	}
	stopAll = func(err *error) {
		stop(ctx, engine, err)
		client.Close()
		stopEcho()
	}
	if err := engine.Start(ctx); err != nil {
		stopAll(&err)
		return nil, nil, err
	}
	return engine, stopAll, nil
}
