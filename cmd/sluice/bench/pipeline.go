package bench

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"sluice/queue"
	"sluice/queue/worker"
)

const (
	pipelineHops     = 5
	pipelineInFlight = 1000 // as many as a runner has by itself
)

// measurePipeline moves events through five connectors that call a worker over HTTP. The baseline is the same client
// calling the same worker with the same parallelism and no engine.
func measurePipeline(ctx context.Context, r *run) ([]Result, error) {
	l, err := r.lab(ctx)
	if err != nil {
		return nil, err
	}
	defer l.close()
	events := r.scaled(15_000)
	var through speed
	baseline, err := between(
		func() (speed, error) { return l.roundTrips(ctx, events*2) },
		func() (err error) { through, err = l.pipelineSpeed(ctx, events); return err },
	)
	got := Result{Unit: "hops/s", BaselineName: "raw HTTP round trips/s"}
	got.compare(through, baseline)
	return []Result{got}, err
}

// roundTrips is how many calls a second the client makes of the worker by itself.
func (l *lab) roundTrips(ctx context.Context, calls int) (speed, error) {
	echoURL, stopEcho, err := loopback(ctx, echo(func(*http.Request, []byte) {}))
	if err != nil {
		return speed{}, err
	}
	defer stopEcho()
	client := worker.NewClient(worker.Config{})
	defer client.Close()
	target := worker.Target{Name: "bench", URL: echoURL, Secrets: []worker.Secret{worker.NewSecret()}}
	body := text(1024)
	work := make(chan struct{}, calls)
	for range calls {
		work <- struct{}{}
	}
	close(work)
	return l.timed(ctx, calls, func() error {
		errs := make([]error, pipelineInFlight)
		var callers sync.WaitGroup
		for c := range pipelineInFlight {
			callers.Go(func() {
				for range work {
					_, errs[c] = client.Call(ctx, target, worker.Request{
						Action: "n", MessageID: "m", CorrelationID: "c", Topology: "line", Version: 1, Node: "n1", Application: "bench",
						Attempt: 1, Body: body, Deadline: time.Now().Add(30 * time.Second),
					})
					if errs[c] != nil {
						return
					}
				}
			})
		}
		callers.Wait()
		return errors.Join(errs...)
	})
}

func (l *lab) pipelineSpeed(ctx context.Context, events int) (got speed, err error) {
	calls := newCountdown(events * pipelineHops)
	echoURL, stopEcho, err := loopback(ctx, echo(func(*http.Request, []byte) { calls.done() }))
	if err != nil {
		return got, err
	}
	defer stopEcho()
	if err := l.addWorker(ctx, "bench", echoURL); err != nil {
		return got, err
	}
	if err := l.publish(ctx, line{name: "line", hops: pipelineHops, worker: "bench"}); err != nil {
		return got, err
	}
	client := worker.NewClient(worker.Config{})
	defer client.Close()
	engine, err := queue.New(ctx, l.pool, queue.Config{Slots: pipelineInFlight, NodeSlots: pipelineInFlight, Caller: client})
	if err != nil {
		return got, err
	}
	defer stop(ctx, engine, &err)
	if err := (load{events: events}).accept(ctx, engine, "line"); err != nil {
		return got, err
	}
	if err := l.settle(ctx); err != nil {
		return got, err
	}
	return l.timed(ctx, events*pipelineHops, func() error { return l.drain(ctx, engine, "line", calls) })
}
