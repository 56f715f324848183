// Package bench measures the engine against what it stands on.
//
// Every figure is a ratio to a baseline that is measured in the same run, on the same machine and database server: what
// a machine makes of a rate, a ratio mostly forgives. Nothing is asserted here; the goals stand beside the figures.
package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"sluice/migrations"
	"sluice/queue"
	"sluice/queue/topology"
	"sluice/queue/worker"
)

// Options says what to measure and where. The zero value measures everything at a size that takes about two minutes.
type Options struct {
	ServerURL string    // of a Postgres server on which databases may be created; they are dropped at the end
	Scenarios []string  // by name; empty: all
	Scale     float64   // of the amount of work; 0 is 1
	Rounds    int       // measurements of each figure, of which the median counts; 0 is 3
	Progress  io.Writer // what is going on, for people; nil: nobody listens
}

// Result is one figure with its baseline.
type Result struct {
	Name         string  `json:"name"`
	Rate         float64 `json:"rate"`     // per second
	Unit         string  `json:"unit"`     // of what
	Baseline     float64 `json:"baseline"` // per second
	BaselineName string  `json:"baseline_name"`
	Ratio        float64 `json:"ratio"`
	P50          float64 `json:"p50_ms"`
	P99          float64 `json:"p99_ms"`
	Goal         string  `json:"goal"`
}

// Report is the results of a run.
type Report struct {
	Scenarios []Result `json:"scenarios"`
}

// scenario measures one figure once.
type scenario struct {
	name    string
	goal    string
	measure func(ctx context.Context, r *run) (Result, error)
}

var scenarios = []scenario{
	{"handoff", "ratio >= 0.75", measureHandOff},
	{"ingest", "ratio >= 1.0", measureIngest},
	{"pipeline", "ratio >= 0.35", measurePipeline},
	{"latency", "p50 <= 13 ms", measureLatency},
}

// Names lists the scenarios.
func Names() []string {
	names := make([]string, len(scenarios))
	for i, s := range scenarios {
		names[i] = s.name
	}
	return names
}

// Run measures the scenarios, each Rounds times in turn, and reports the round with the median ratio.
func Run(ctx context.Context, o Options) (Report, error) {
	if o.Scale == 0 {
		o.Scale = 1
	}
	if o.Rounds == 0 {
		o.Rounds = 3
	}
	if o.Progress == nil {
		o.Progress = io.Discard
	}
	for _, name := range o.Scenarios {
		if !slices.Contains(Names(), name) {
			return Report{}, fmt.Errorf("no scenario named %q: there are %s", name, strings.Join(Names(), ", "))
		}
	}
	var report Report
	for _, s := range scenarios {
		if len(o.Scenarios) > 0 && !slices.Contains(o.Scenarios, s.name) {
			continue
		}
		var rounds []Result
		for i := range o.Rounds {
			r := &run{options: o}
			got, err := s.measure(ctx, r)
			if err != nil {
				return report, fmt.Errorf("%s: %w", s.name, err)
			}
			got.Name, got.Goal = s.name, s.goal
			if got.Baseline > 0 {
				got.Ratio = got.Rate / got.Baseline
			}
			fmt.Fprintf(o.Progress, "%s, round %d of %d: %.0f %s, baseline %.0f, ratio %.2f, p50 %.1f ms, p99 %.1f ms\n",
				s.name, i+1, o.Rounds, got.Rate, got.Unit, got.Baseline, got.Ratio, got.P50, got.P99)
			rounds = append(rounds, got)
		}
		slices.SortFunc(rounds, func(a, b Result) int {
			if a.Baseline > 0 {
				return cmp.Compare(a.Ratio, b.Ratio)
			}
			return cmp.Compare(a.P50, b.P50)
		})
		report.Scenarios = append(report.Scenarios, rounds[len(rounds)/2])
	}
	return report, nil
}

// run is one measurement.
type run struct {
	options Options
}

func (r *run) scaled(n int) int { return max(1, int(float64(n)*r.options.Scale)) }

// database makes a migrated database that is dropped by the returned function.
func (r *run) database(ctx context.Context) (url string, drop func(), err error) {
	name := fmt.Sprintf("sluice_bench_%d", time.Now().UnixNano())
	if err := r.onServer(ctx, "create database "+name); err != nil {
		return "", nil, err
	}
	drop = func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		// All our sessions have ended, but the server may need a moment to see it. By force would be quicker, and is not
		// for every role.
		var err error
		for range 50 {
			if err = r.onServer(ctx, "drop database "+name); err == nil {
				return
			}
			time.Sleep(200 * time.Millisecond) //nolint:forbidigo // between tries, of which there are 50
		}
		slog.WarnContext(ctx, "Benchmark's database not dropped", "database", name, "err", err)
	}
	config, err := pgx.ParseConfig(r.options.ServerURL)
	if err != nil {
		return "", drop, err
	}
	url = withDatabase(r.options.ServerURL, config.Database, name)
	if err := migrations.Up(ctx, url); err != nil {
		return "", drop, err
	}
	return url, drop, nil
}

// withDatabase puts another database's name into a connection string, of either form.
func withDatabase(url, old, name string) string {
	if strings.Contains(url, "://") {
		head, rest, _ := strings.Cut(url, "://")
		authority, tail, _ := strings.Cut(rest, "/")
		tail = strings.TrimPrefix(tail, old)
		return head + "://" + authority + "/" + name + tail
	}
	return url + " dbname=" + name
}

func (r *run) onServer(ctx context.Context, sql string) error {
	conn, err := pgx.Connect(ctx, r.options.ServerURL)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	_, err = conn.Exec(ctx, sql)
	return err
}

const (
	tenant = 1
	line   = "line" // the topology of every scenario
)

// publish enables a line of hops custom nodes after the start node "in", all at the worker named bench.
func publish(ctx context.Context, pool *pgxpool.Pool, hops, concurrency int, workerURL string) error {
	g := topology.Graph{Name: line, Nodes: []topology.Node{{Name: "in", Kind: topology.Start, Followers: []string{"n1"}}}}
	for i := 1; i <= hops; i++ {
		n := topology.Node{
			Name: fmt.Sprintf("n%d", i), Kind: topology.Custom, Worker: "bench", Action: "n", Timeout: topology.Duration(30 * time.Second),
			Concurrency: concurrency, Retry: topology.Retry{Attempts: 10, Initial: topology.Duration(time.Second), Factor: 2, Max: topology.Duration(time.Minute)},
		}
		if i < hops {
			n.Followers = []string{fmt.Sprintf("n%d", i+1)}
		}
		g.Nodes = append(g.Nodes, n)
	}
	return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		if _, _, err := queue.AddWorker(ctx, tx, tenant, "bench", workerURL, "bench"); err != nil {
			return err
		}
		if _, err := topology.SaveDraft(ctx, tx, tenant, g, "", "bench"); err != nil {
			return err
		}
		if _, err := queue.Publish(ctx, tx, tenant, line, "bench"); err != nil {
			return err
		}
		_, err := topology.Enable(ctx, tx, tenant, line, 0, "bench")
		return err
	})
}

// callerFunc is a worker without a wire.
type callerFunc func(ctx context.Context, r worker.Request) (worker.Result, error)

func (f callerFunc) Call(ctx context.Context, _ worker.Target, r worker.Request) (worker.Result, error) {
	return f(ctx, r)
}

// loopback serves the handler until stop is called.
func loopback(ctx context.Context, handler http.Handler) (url string, stop func(), err error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(l) }() // it ends with Close; a server that breaks shows in the calls
	return "http://" + l.Addr().String(), func() { server.Close() }, nil
}

// stop ends the engine. An engine that does not stop as it should makes the measurement fail.
func stop(ctx context.Context, engine *queue.Engine, err *error) {
	*err = errors.Join(*err, engine.Stop(context.WithoutCancel(ctx)))
}

// drain starts the engine and returns how long it takes until the calls are made and nothing is left on any edge.
func drain(ctx context.Context, engine *queue.Engine, pool *pgxpool.Pool, calls *countdown) (time.Duration, error) {
	start := time.Now()
	if err := engine.Start(ctx); err != nil {
		return 0, err
	}
	if err := calls.wait(ctx); err != nil {
		return 0, err
	}
	// The last hand-offs may still be on their way.
	err := until(ctx, pool, `select not exists (select from river.river_job where kind = 'message')`)
	return time.Since(start), err
}

// until waits for a query to say true.
func until(ctx context.Context, pool *pgxpool.Pool, sql string, args ...any) error {
	for {
		var done bool
		if err := pool.QueryRow(ctx, sql, args...).Scan(&done); err != nil || done {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// percentile of a sorted sample, in milliseconds.
func percentile(sorted []time.Duration, p float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	i := min(int(p*float64(len(sorted))), len(sorted)-1)
	return float64(sorted[i]) / float64(time.Millisecond)
}
