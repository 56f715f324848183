package bench

import (
	"bytes"
	"context"
	"io"
	"net"
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

// echo is a worker service over HTTP on loopback that answers with the body that it got, and tells answered when it has.
type echo struct {
	url    string
	server *http.Server
}

func startEcho(ctx context.Context, answered func(node string)) (*echo, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	e := &echo{url: "http://" + l.Addr().String()}
	e.server = &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
		if err != nil {
			return
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Write(body)
		answered(r.Header.Get("Sluice-Node"))
	})}
	go e.server.Serve(l)
	return e, nil
}

func (e *echo) stop() { e.server.Close() }

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
	e, err := startEcho(ctx, func(string) {})
	if err != nil {
		return 0, err
	}
	defer e.stop()
	client := worker.NewClient(worker.Config{})
	defer client.Close()
	target := worker.Target{Name: "bench", URL: e.url, Secrets: []worker.Secret{worker.NewSecret()}}
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
					Action: "n", MessageID: "m", CorrelationID: "c", Topology: "line", Version: 1, Node: "n1", Attempt: 1,
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

func pipelineRate(ctx context.Context, pool *pgxpool.Pool, events int) (float64, error) {
	calls := newCountdown(events * pipelineHops)
	e, err := startEcho(ctx, func(string) { calls.done() })
	if err != nil {
		return 0, err
	}
	defer e.stop()
	if err := publish(ctx, pool, "line", pipelineHops, pipelineInFlight, e.url); err != nil {
		return 0, err
	}
	engine, err := queue.New(ctx, pool, queue.Config{Slots: pipelineInFlight})
	if err != nil {
		return 0, err
	}
	defer engine.Stop(context.WithoutCancel(ctx))
	if err := acceptAll(ctx, engine, events, bytes.Repeat([]byte("x"), 1024)); err != nil {
		return 0, err
	}
	start := time.Now()
	if err := engine.Start(ctx); err != nil {
		return 0, err
	}
	if err := calls.wait(ctx); err != nil {
		return 0, err
	}
	if err := until(ctx, pool, noneOpen); err != nil {
		return 0, err
	}
	return float64(events*pipelineHops) / time.Since(start).Seconds(), nil
}

// acceptAll stores events without a runner, so that they wait when the clock starts.
func acceptAll(ctx context.Context, engine *queue.Engine, events int, body []byte) error {
	batch := make([]queue.Event, 1000)
	for i := range batch {
		batch[i] = queue.Event{Tenant: tenant, Topology: "line", Node: "in", Body: body}
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
func measureLatency(ctx context.Context, r *run) (Result, error) {
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
	e, err := startEcho(ctx, func(node string) {
		if node == "n5" {
			arrived <- time.Now()
		}
	})
	if err != nil {
		return Result{}, err
	}
	defer e.stop()
	if err := publish(ctx, pool, "line", pipelineHops, pipelineInFlight, e.url); err != nil {
		return Result{}, err
	}
	engine, err := queue.New(ctx, pool, queue.Config{})
	if err != nil {
		return Result{}, err
	}
	defer engine.Stop(context.WithoutCancel(ctx))
	if err := engine.Start(ctx); err != nil {
		return Result{}, err
	}
	const warmUp = 20
	var took []time.Duration
	begin := time.Now()
	for i := range r.scaled(300) + warmUp {
		start := time.Now()
		if _, err := engine.Accept(ctx, queue.Event{Tenant: tenant, Topology: "line", Node: "in", Body: bytes.Repeat([]byte("x"), 1024)}); err != nil {
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
		time.Sleep(2 * time.Millisecond) // at rest in between
	}
	slices.Sort(took)
	return Result{Rate: float64(len(took)) / time.Since(begin).Seconds(), Unit: "events/s, one at a time", P50: percentile(took, 0.5), P99: percentile(took, 0.99)}, nil
}
