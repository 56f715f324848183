package bench

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
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
	noisySlices   = 8
)

// measureNeighbour lets 99 topologies have their share of events, steadily, and looks at how long theirs take from when
// they were due to the answer of the worker. Beside them a hundredth has ten times its share, a worker that fails every
// call, and a large backlog. Two databases, one with the noisy one and one without, take turns of a few seconds, and the
// ratio is of the medians of the turns' p95: one stall of a shared machine (a second of it is more than a twentieth of a
// longer turn's events) would decide over either side.
func measureNeighbour(ctx context.Context, r *run) (results []Result, err error) {
	turns := min(max(r.scaled(noisySlices), 1), noisySlices)
	period := r.scaledTime(4 * time.Second)
	neighbours := min(max(r.scaled(1000), 9), 99) // fewer only where next to nothing is measured
	alone, err := r.street(ctx, neighbours, 0)
	if err != nil {
		return nil, err
	}
	defer alone.close()
	beside, err := r.street(ctx, neighbours, r.scaled(noisyBacklog))
	if err != nil {
		return nil, err
	}
	defer beside.close()
	for range turns {
		for _, s := range []*street{alone, beside} {
			if err := s.live(ctx, period); err != nil {
				return nil, err
			}
		}
	}
	got := Result{
		Rate: float64(neighbours * neighbourRate), Unit: "events/s of the others", Ratio: beside.percentile(0.95) / alone.percentile(0.95),
		P50: beside.percentile(0.5), P99: beside.percentile(0.99),
	}
	got.add("p95", beside.percentile(0.95), "ms")
	got.add("p95 alone", alone.percentile(0.95), "ms")
	got.add("p50 alone", alone.percentile(0.5), "ms")
	got.add("p99 alone", alone.percentile(0.99), "ms")
	got.add("p95 of all turns", beside.overall(0.95), "ms")
	got.add("p95 of all turns alone", alone.overall(0.95), "ms")
	got.add("failing calls", float64(beside.failed.Load())/beside.lived.Seconds(), "/s")
	return []Result{got}, nil
}

// street is where the topologies live. It remembers all that it has seen.
type street struct {
	*lab
	neighbours int
	noisy      bool

	watch       atomic.Pointer[stopwatch] // of the others' events, in this turn
	client      *worker.Client
	stopWorkers func()

	took   [][]time.Duration // of the others' events, by turn, sorted
	failed atomic.Int64      // calls
	lived  time.Duration
}

// street builds one in a database of its own. The caller closes it.
func (r *run) street(ctx context.Context, neighbours, backlog int) (_ *street, err error) {
	s := &street{neighbours: neighbours, noisy: backlog > 0, client: worker.NewClient(worker.Config{})}
	if s.lab, err = r.lab(ctx); err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("/good/", echo(func(_ *http.Request, body []byte) {
		if watch := s.watch.Load(); watch != nil {
			watch.arrived(body)
		}
	}))
	mux.HandleFunc("/bad/", func(w http.ResponseWriter, _ *http.Request) {
		s.failed.Add(1)
		http.Error(w, "failed", http.StatusInternalServerError)
	})
	url, stopWorkers, err := loopback(ctx, mux)
	if err != nil {
		s.lab.close()
		return nil, err
	}
	s.stopWorkers = stopWorkers
	if err := s.build(ctx, neighbours, url, backlog); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *street) close() {
	s.client.Close()
	s.stopWorkers()
	s.lab.close()
}

// percentile is the median of those of each turn.
func (s *street) percentile(p float64) float64 {
	of := make([]float64, len(s.took))
	for i, took := range s.took {
		of[i] = percentile(took, p)
	}
	slices.Sort(of)
	return (of[(len(of)-1)/2] + of[len(of)/2]) / 2
}

// overall is the percentile of the events of all turns, stalls of the machine included.
func (s *street) overall(p float64) float64 {
	all := slices.Concat(s.took...)
	slices.Sort(all)
	return percentile(all, p)
}

// live is a turn: the topologies have their events for a time, and the noisy one, where it lives, has its own.
func (s *street) live(ctx context.Context, period time.Duration) (err error) {
	engine, err := queue.New(ctx, s.pool, queue.Config{Caller: s.client})
	if err != nil {
		return err
	}
	defer stop(ctx, engine, &err)
	rate := s.neighbours * neighbourRate
	warmUp := rate // a second
	watch := newStopwatch(int(period.Seconds()*float64(rate)) + warmUp)
	s.watch.Store(watch)
	start := time.Now()
	if err := engine.Start(ctx); err != nil {
		return err
	}
	accept := func(ctx context.Context, topology string, body []byte) error {
		_, err := engine.Accept(ctx, queue.Event{Tenant: tenant, Topology: topology, Node: "in", Body: body})
		return err
	}
	var noisy sync.WaitGroup
	var noisyErr error
	if s.noisy {
		noisy.Go(func() {
			events := newStopwatch(len(watch.due) * noise / s.neighbours)
			noisyErr = events.steadily(ctx, noise*neighbourRate, func(ctx context.Context, n int) error { return accept(ctx, "noisy", events.message(n)) })
		})
	}
	err = watch.steadily(ctx, rate, func(ctx context.Context, n int) error {
		return accept(ctx, neighbour(n%s.neighbours), watch.message(n))
	})
	noisy.Wait()
	if err := errors.Join(err, noisyErr); err != nil {
		return err
	}
	took, err := watch.sorted(ctx, warmUp)
	s.took, s.lived = append(s.took, took), s.lived+time.Since(start)
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
