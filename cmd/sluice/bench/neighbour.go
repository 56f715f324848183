package bench

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"sluice/queue"
	"sluice/queue/worker"
)

const (
	neighbourRate = 4  // events a second of each
	noise         = 10 // times as many, of the noisy one
	noisyBacklog  = 1_000_000
)

// measureNeighbour lets 99 topologies have their share of events, steadily, and looks at how long theirs take from when
// they were due to the answer of the worker. Beside them a hundredth has ten times its share, a worker that fails every
// call, and a large backlog. The ratio is of the others' p95 beside it and alone, which is measured before and after.
func measureNeighbour(ctx context.Context, r *run) ([]Result, error) {
	period := r.scaledTime(15 * time.Second)
	neighbours := min(max(r.scaled(1000), 9), 99) // fewer only where next to nothing is measured
	alone, beside := street{neighbours: neighbours}, street{neighbours: neighbours}
	_, err := between(
		func() (speed, error) { return speed{}, alone.live(ctx, r, period, 0) },
		func() error { return beside.live(ctx, r, period, r.scaled(noisyBacklog)) },
	)
	if err != nil {
		return nil, err
	}
	got := Result{
		Rate: float64(neighbours * neighbourRate), Unit: "events/s of the others", Ratio: beside.percentile(0.95) / alone.percentile(0.95),
		P50: beside.percentile(0.5), P99: beside.percentile(0.99),
	}
	got.add("p95", beside.percentile(0.95), "ms")
	got.add("p95 alone", alone.percentile(0.95), "ms")
	got.add("p50 alone", alone.percentile(0.5), "ms")
	got.add("p99 alone", alone.percentile(0.99), "ms")
	got.add("failing calls", float64(beside.failed.Load())/beside.lived.Seconds(), "/s")
	return []Result{got}, nil
}

// street is where the topologies live. It remembers all that it has seen.
type street struct {
	neighbours int

	took   []time.Duration // of the others' events, sorted; of each time
	times  int
	failed atomic.Int64 // calls
	lived  time.Duration
}

// percentile is the mean of those of each time.
func (s *street) percentile(p float64) float64 {
	per := len(s.took) / s.times
	sum := 0.0
	for i := range s.times {
		sum += percentile(s.took[i*per:(i+1)*per], p)
	}
	return sum / float64(s.times)
}

// live lets the topologies have their events for a time; with a backlog, the noisy one is there.
func (s *street) live(ctx context.Context, r *run, period time.Duration, backlog int) (err error) {
	l, err := r.lab(ctx)
	if err != nil {
		return err
	}
	defer l.close()
	rate := s.neighbours * neighbourRate
	warmUp := rate // a second
	watch := newStopwatch(int(period.Seconds()*float64(rate)) + warmUp)
	mux := http.NewServeMux()
	mux.Handle("/good/", echo(func(_ *http.Request, body []byte) { watch.arrived(body) }))
	mux.HandleFunc("/bad/", func(w http.ResponseWriter, _ *http.Request) {
		s.failed.Add(1)
		http.Error(w, "failed", http.StatusInternalServerError)
	})
	url, stopWorkers, err := loopback(ctx, mux)
	if err != nil {
		return err
	}
	defer stopWorkers()
	client := worker.NewClient(worker.Config{})
	defer client.Close()
	engine, err := queue.New(ctx, l.pool, queue.Config{Caller: client})
	if err != nil {
		return err
	}
	defer stop(ctx, engine, &err)
	if err := l.build(ctx, s.neighbours, url, backlog); err != nil {
		return err
	}
	start := time.Now()
	if err := engine.Start(ctx); err != nil {
		return err
	}
	accept := func(topology string, watch *stopwatch) func(context.Context, int) error {
		return func(ctx context.Context, n int) error {
			name := topology
			if name == "" {
				name = neighbour(n % s.neighbours)
			}
			_, err := engine.Accept(ctx, queue.Event{Tenant: tenant, Topology: name, Node: "in", Body: watch.message(n)})
			return err
		}
	}
	var noisy sync.WaitGroup
	var noisyErr error
	if backlog > 0 {
		noisy.Go(func() {
			events := newStopwatch(len(watch.due) * noise / s.neighbours)
			noisyErr = events.steadily(ctx, noise*neighbourRate, accept("noisy", events))
		})
	}
	err = watch.steadily(ctx, rate, accept("", watch))
	noisy.Wait()
	if err := errors.Join(err, noisyErr); err != nil {
		return err
	}
	took, err := watch.sorted(ctx, warmUp)
	s.took, s.times, s.lived = append(s.took, took...), s.times+1, time.Since(start)
	return err
}

// build publishes the topologies, the noisy one with its backlog.
func (l *lab) build(ctx context.Context, neighbours int, workers string, backlog int) error {
	for name, path := range map[string]string{"good": "/good", "bad": "/bad"} {
		if err := l.addWorker(ctx, name, workers+path); err != nil {
			return err
		}
	}
	for i := range neighbours {
		if err := l.publish(ctx, line{name: neighbour(i), hops: 1, worker: "good"}); err != nil {
			return err
		}
	}
	if backlog == 0 {
		return l.settle(ctx)
	}
	if err := l.publish(ctx, line{name: "noisy", hops: 1, worker: "bad"}); err != nil {
		return err
	}
	return l.fill(ctx, "noisy", backlog)
}

func neighbour(n int) string { return fmt.Sprintf("other-%d", n) }
