package bench

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"sluice/queue"
	"sluice/queue/worker"
)

const (
	pipelineHops     = 5
	pipelineInFlight = 256
)

// startEcho starts a worker service over HTTP that answers with the body that it got, and tells answered when it has.
func startEcho(ctx context.Context, answered func(node string)) (url string, stop func(), err error) {
	return loopback(ctx, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
		if err != nil {
			return
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Write(body)
		answered(r.Header.Get("Sluice-Node"))
	}))
}

// measurePipeline moves events through five nodes that call a worker over HTTP. The baseline is the same client calling
// the same worker with the same parallelism and no engine.
func measurePipeline(ctx context.Context, r *run) (Result, error) {
	url, drop, err := r.database(ctx)
	if err != nil {
		return Result{}, err
	}
	defer drop()
	events := r.scaled(6_000)
	baseline, err := roundTrips(ctx, events*pipelineHops)
	if err != nil {
		return Result{}, err
	}
	pool, err := queue.Open(ctx, url, 16)
	if err != nil {
		return Result{}, err
	}
	defer pool.Close()
	rate, err := pipelineRate(ctx, pool, events)
	return Result{Rate: rate, Unit: "hops/s", Baseline: baseline, BaselineName: "raw HTTP round trips/s"}, err
}

// roundTrips is how many calls a second the client makes of the worker by itself.
func roundTrips(ctx context.Context, calls int) (float64, error) {
	echoURL, stopEcho, err := startEcho(ctx, func(string) {})
	if err != nil {
		return 0, err
	}
	defer stopEcho()
	client := worker.NewClient(worker.Config{})
	defer client.Close()
	target := worker.Target{Name: "bench", URL: echoURL, Secrets: []worker.Secret{worker.NewSecret()}}
	body := bytes.Repeat([]byte("x"), 1024)
	work := make(chan struct{}, calls)
	for range calls {
		work <- struct{}{}
	}
	close(work)
	var failed error
	var mu sync.Mutex
	var callers sync.WaitGroup
	start := time.Now()
	for range pipelineInFlight {
		callers.Go(func() {
			for range work {
				_, err := client.Call(ctx, target, worker.Request{
					Action: "n", MessageID: "m", CorrelationID: "c", Topology: line, Version: 1, Node: "n1", Attempt: 1,
					Body: body, Deadline: time.Now().Add(30 * time.Second),
				})
				if err != nil {
					mu.Lock()
					failed = err
					mu.Unlock()
					return
				}
			}
		})
	}
	callers.Wait()
	return float64(calls) / time.Since(start).Seconds(), failed
}

func pipelineRate(ctx context.Context, pool *pgxpool.Pool, events int) (rate float64, err error) {
	calls := newCountdown(events * pipelineHops)
	echoURL, stopEcho, err := startEcho(ctx, func(string) { calls.done() })
	if err != nil {
		return 0, err
	}
	defer stopEcho()
	if err := publish(ctx, pool, pipelineHops, pipelineInFlight, echoURL); err != nil {
		return 0, err
	}
	engine, err := queue.New(ctx, pool, queue.Config{Slots: pipelineInFlight})
	if err != nil {
		return 0, err
	}
	defer stop(ctx, engine, &err)
	if err := acceptAll(ctx, engine, events, bytes.Repeat([]byte("x"), 1024)); err != nil {
		return 0, err
	}
	took, err := drain(ctx, engine, pool, calls)
	if err != nil {
		return 0, err
	}
	return float64(events*pipelineHops) / took.Seconds(), nil
}

// acceptAll stores events without a runner, so that they wait when the clock starts.
func acceptAll(ctx context.Context, engine *queue.Engine, events int, body []byte) error {
	batch := make([]queue.Event, 1000)
	for i := range batch {
		batch[i] = queue.Event{Tenant: tenant, Topology: line, Node: "in", Body: body}
	}
	for left := events; left > 0; left -= len(batch) {
		_, errs := engine.AcceptMany(ctx, batch[:min(left, len(batch))])
		for _, err := range errs {
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// measureLatency sends one event at a time through five idle nodes over HTTP: from the call that accepts it to the
// answer of the fifth worker call.
func measureLatency(ctx context.Context, r *run) (result Result, err error) {
	url, drop, err := r.database(ctx)
	if err != nil {
		return Result{}, err
	}
	defer drop()
	pool, err := queue.Open(ctx, url, 16)
	if err != nil {
		return Result{}, err
	}
	defer pool.Close()
	arrived := make(chan time.Time, 1)
	echoURL, stopEcho, err := startEcho(ctx, func(node string) {
		if node == "n5" {
			arrived <- time.Now()
		}
	})
	if err != nil {
		return Result{}, err
	}
	defer stopEcho()
	if err := publish(ctx, pool, pipelineHops, pipelineInFlight, echoURL); err != nil {
		return Result{}, err
	}
	engine, err := queue.New(ctx, pool, queue.Config{})
	if err != nil {
		return Result{}, err
	}
	defer stop(ctx, engine, &err)
	if err := engine.Start(ctx); err != nil {
		return Result{}, err
	}
	const warmUp = 20
	var took []time.Duration
	begin := time.Now()
	for i := range r.scaled(300) + warmUp {
		start := time.Now()
		if _, err := engine.Accept(ctx, queue.Event{Tenant: tenant, Topology: line, Node: "in", Body: bytes.Repeat([]byte("x"), 1024)}); err != nil {
			return Result{}, err
		}
		select {
		case at := <-arrived:
			if i >= warmUp {
				took = append(took, at.Sub(start))
			}
		case <-time.After(30 * time.Second):
			return Result{}, context.DeadlineExceeded
		}
		time.Sleep(2 * time.Millisecond) //nolint:forbidigo // what is measured is an engine at rest
	}
	slices.Sort(took)
	return Result{Rate: float64(len(took)) / time.Since(begin).Seconds(), Unit: "events/s, one at a time", P50: percentile(took, 0.5), P99: percentile(took, 0.99)}, nil
}
