package queue_test

import (
	"context"
	"flag"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"sluice/migrations/pgtest"
	"sluice/queue"
	"sluice/queue/topology"
	"sluice/queue/worker"
)

// full runs the tests of crashes and faults at the sizes of a release, which take many minutes.
var full = flag.Bool("sluice.full", false, "run tests of crashes and faults at full size")

// bySize is a size of a test: the small one, or with -sluice.full the large one.
func bySize(small, large int) int {
	if *full {
		return large
	}
	return small
}

func TestMain(m *testing.M) {
	if os.Getenv(nodeEnv) != "" {
		os.Exit(runNode())
	}
	pgtest.Main(m)
}

const tenant = 1

// callerFunc is a worker in the same process.
type callerFunc func(ctx context.Context, r worker.Request) (worker.Result, error)

func (f callerFunc) Call(ctx context.Context, _ worker.Target, r worker.Request) (worker.Result, error) {
	return f(ctx, r)
}

// rig is an engine on a database of its own.
type rig struct {
	t      *testing.T
	pool   *pgxpool.Pool
	engine *queue.Engine
}

// start publishes and enables the topology file and starts an engine whose calls go to f.
func start(t *testing.T, file string, f callerFunc) *rig {
	t.Helper()
	r := newRig(t, pgtest.New(t).Pool())
	r.engine = newEngine(t, r.pool, queue.Config{Caller: f})
	r.publish(file)
	return r
}

// newRig is a rig without an engine, with a worker named demo that nobody reaches.
func newRig(t *testing.T, pool *pgxpool.Pool) *rig {
	t.Helper()
	r := &rig{t: t, pool: pool}
	r.addWorker("demo")
	if *full {
		r.vacuum()
	}
	return r
}

// vacuum does what autovacuum would: the server of tests has none, and a million rows that come and go drown in their own
// dead versions (measured: 300 calls a second after 300,000, where there were thousands at first).
func (r *rig) vacuum() {
	ctx, stop := context.WithCancel(r.t.Context())
	var vacuuming sync.WaitGroup
	r.t.Cleanup(func() { stop(); vacuuming.Wait() })
	vacuuming.Go(func() {
		for rest := time.NewTicker(5 * time.Second); ctx.Err() == nil; {
			_, _ = r.pool.Exec(ctx, `vacuum (skip_locked, analyze) river.river_job, sluice.lane, sluice.lane_message, sluice.edge_count, sluice.limiter_hold, sluice.limiter_line, sluice.limiter_key, sluice.limiter_delta, sluice.process`)
			select {
			case <-ctx.Done():
			case <-rest.C:
			}
		}
	})
}

func newEngine(t *testing.T, pool *pgxpool.Pool, c queue.Config) *queue.Engine {
	t.Helper()
	if c.Lease == 0 {
		c.Lease, c.Sweep = 2*time.Second, 100*time.Millisecond
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.NewTextHandler(testWriter{t}, nil))
	}
	e, err := queue.New(t.Context(), pool, c)
	ok(t, err)
	ok(t, e.Start(t.Context()))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := e.Stop(ctx); err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	return e
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

func (r *rig) addWorker(name string) { r.t.Helper(); r.addWorkerAt(name, "http://127.0.0.1:9") }

func (r *rig) addWorkerAt(name, url string) {
	r.t.Helper()
	ok(r.t, pgx.BeginFunc(r.t.Context(), r.pool, func(tx pgx.Tx) error {
		_, _, err := queue.AddWorker(r.t.Context(), tx, tenant, name, url, "test")
		return err
	}))
}

func (r *rig) publish(file string) topology.Version {
	r.t.Helper()
	g, err := topology.Parse("test.yaml", []byte(file))
	ok(r.t, err)
	var v topology.Version
	ok(r.t, pgx.BeginFunc(r.t.Context(), r.pool, func(tx pgx.Tx) error {
		if _, err := topology.SaveDraft(r.t.Context(), tx, tenant, g, file, "test"); err != nil {
			return err
		}
		if _, err := queue.Publish(r.t.Context(), tx, tenant, g.Name, "test"); err != nil {
			return err
		}
		v, err = topology.Enable(r.t.Context(), tx, tenant, g.Name, 0, "test")
		return err
	}))
	return v
}

func (r *rig) accept(node, body string) uuid.UUID {
	r.t.Helper()
	a, err := r.engine.Accept(r.t.Context(), queue.Event{Tenant: tenant, Topology: "flow", Node: node, Body: []byte(body)})
	ok(r.t, err)
	return a.Process
}

// acceptMany stores n events whose bodies f makes.
func (r *rig) acceptMany(n int, f func(int) string) {
	r.t.Helper()
	events := make([]queue.Event, n)
	for i := range events {
		events[i] = queue.Event{Tenant: tenant, Topology: "flow", Node: "in", Body: []byte(f(i))}
	}
	_, errs := r.engine.AcceptMany(r.t.Context(), events)
	for _, err := range errs {
		ok(r.t, err)
	}
}

// line is two nodes, one after the other.
const line = `
topology: flow
nodes:
  in: {kind: start, followers: [a]}
  a: {kind: custom, worker: demo, followers: [b], retry: {attempts: 3, initial: 20ms, max: 50ms}}
  b: {kind: custom, worker: demo}
`

// patience is how long tests wait for what should come soon.
const patience = 20 * time.Second

// until waits until f says true.
func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !f(); {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
		time.Sleep(2 * time.Millisecond) //nolint:forbidigo // between looks at a fact, with a deadline
	}
}

// wait waits until a query says true.
func (r *rig) wait(sql string, args ...any) {
	r.t.Helper()
	until(r.t, sql, func() bool { return one[bool](r, sql, args...) })
}

// one is the answer to a query for one value.
func one[T any](r *rig, sql string, args ...any) T {
	r.t.Helper()
	var v T
	err := r.pool.QueryRow(r.t.Context(), sql, args...).Scan(&v)
	if err != nil { // perhaps the connection was one that the test has broken
		err = r.pool.QueryRow(r.t.Context(), sql, args...).Scan(&v)
	}
	ok(r.t, err)
	return v
}

func (r *rig) exec(sql string) {
	r.t.Helper()
	_, err := r.pool.Exec(r.t.Context(), sql)
	ok(r.t, err)
}

func (r *rig) finished(id uuid.UUID) {
	r.t.Helper()
	r.wait(`select finished_at is not null from sluice.process where id = $1`, id)
}

// drained waits until nothing is on an edge any more, and proves that nothing was lost, done twice or kept in use.
func (r *rig) drained() {
	r.t.Helper()
	r.wait(`select not exists (select from river.river_job where kind in ('message', 'lane')) and not exists (select from sluice.process where open <> 0)`)
	r.clean()
}

// clean proves the invariants, and that an engine without calls has all its slots.
func (r *rig) clean() {
	r.t.Helper()
	report, err := queue.Check(r.t.Context(), r.pool)
	ok(r.t, err)
	for _, v := range report.Violations {
		r.t.Errorf("%s: %s: %s", v.Rule, v.ID, v.Detail)
	}
	r.proveEntityKeys()
	if r.engine != nil && report.Places.Waiting+report.Places.Running+report.Places.Retrying == 0 {
		free(r.t, r.engine)
	}
}

// free proves that an engine has nothing in use.
func free(t *testing.T, e *queue.Engine) {
	t.Helper()
	var u queue.Usage
	deadline := time.Now().Add(patience)
	for {
		if u = queue.UsageOf(e); u == (queue.Usage{}) {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("in use though nothing is to do: %+v", u)
			return
		}
		time.Sleep(2 * time.Millisecond) //nolint:forbidigo // between looks at a fact, with a deadline
	}
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// passOn is a worker's answer that passes on what came.
func passOn(r worker.Request) worker.Result {
	return worker.Result{Reply: worker.Reply{Verdict: worker.Done, Messages: []worker.Message{{SameBody: true, Headers: r.Headers}}}, Status: 200}
}

func same(_ context.Context, r worker.Request) (worker.Result, error) { return passOn(r), nil }

type tx = pgx.Tx

func (r *rig) begin(do func(tx) error) error { return pgx.BeginFunc(r.t.Context(), r.pool, do) }

// moveWorker gives the worker demo another address.
func (r *rig) moveWorker(url string) {
	r.t.Helper()
	ok(r.t, r.begin(func(tx tx) error { return queue.SetWorkerURL(r.t.Context(), tx, tenant, "demo", url, "test") }))
}

// removeWorker takes the topology that uses a worker out of use, and then the worker.
func (r *rig) removeWorker(name string) {
	r.t.Helper()
	ok(r.t, r.begin(func(tx tx) error {
		if err := topology.Disable(r.t.Context(), tx, tenant, "flow", "test"); err != nil {
			return err
		}
		return queue.RemoveWorker(r.t.Context(), tx, tenant, name, "test")
	}))
}
