package queue_test

import (
	"context"
	"fmt"
	"log/slog"
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

func TestMain(m *testing.M) { pgtest.Main(m) }

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
	pool := pgtest.New(t).Pool()
	r := &rig{t: t, pool: pool, engine: newEngine(t, pool, queue.Config{Caller: f})}
	r.addWorker("demo")
	r.publish(file)
	return r
}

func newEngine(t *testing.T, pool *pgxpool.Pool, c queue.Config) *queue.Engine {
	t.Helper()
	if c.Lease == 0 {
		c.Lease, c.Sweep = 2*time.Second, 100*time.Millisecond
	}
	c.Logger = slog.New(slog.NewTextHandler(testWriter{t}, nil))
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

func (r *rig) addWorker(name string) {
	r.t.Helper()
	ok(r.t, pgx.BeginFunc(r.t.Context(), r.pool, func(tx pgx.Tx) error {
		_, _, err := queue.AddWorker(r.t.Context(), tx, tenant, name, "http://127.0.0.1:9", "test")
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

// wait waits until a query says true.
func (r *rig) wait(sql string, args ...any) {
	r.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		var done bool
		ok(r.t, r.pool.QueryRow(r.t.Context(), sql, args...).Scan(&done))
		if done {
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("never true: %s %v", sql, args)
		}
		time.Sleep(5 * time.Millisecond) //nolint:forbidigo // between looks at a fact, with a deadline
	}
}

func (r *rig) finished(id uuid.UUID) {
	r.t.Helper()
	r.wait(`select finished_at is not null from sluice.process where id = $1`, id)
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func same(_ context.Context, r worker.Request) (worker.Result, error) {
	return worker.Result{Reply: worker.Reply{Verdict: worker.Done, Messages: []worker.Message{{SameBody: true, Headers: r.Headers}}}, Status: 200}, nil
}

const diamond = `
topology: flow
nodes:
  in: {kind: start, followers: [a]}
  a: {kind: custom, worker: demo, followers: [b, c]}
  b: {kind: custom, worker: demo, followers: [d]}
  c: {kind: custom, worker: demo, followers: [d]}
  d: {kind: connector, worker: demo}
`

// An event goes through a diamond: every node sees the bytes that came, once on each way, and the process finishes once.
func TestEventToFinish(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	seen := map[string]int{}
	r := start(t, diamond, func(ctx context.Context, req worker.Request) (worker.Result, error) {
		mu.Lock()
		defer mu.Unlock()
		seen[req.Node+" "+string(req.Body)]++
		return same(ctx, req)
	})
	body := "{ \"n\": 12345678901234567890 }\n"
	id := r.accept("in", body)
	r.finished(id)
	mu.Lock()
	defer mu.Unlock()
	if got, want := fmt.Sprint(seen), fmt.Sprint(map[string]int{"a " + body: 1, "b " + body: 1, "c " + body: 1, "d " + body: 2}); got != want {
		t.Errorf("calls %s, want %s", got, want)
	}
	var total, open, done, jobs, attempts, bodies int
	ok(t, r.pool.QueryRow(t.Context(), `
		select total, open, done, (select count(*) from river.river_job where kind = 'message'),
		       (select count(*) from sluice.attempt where process_id = p.id),
		       (select count(body) from sluice.message where process_id = p.id)
		from sluice.process p where id = $1`, id).Scan(&total, &open, &done, &jobs, &attempts, &bodies))
	if total != 5 || open != 0 || done != 5 || jobs != 0 || attempts != 5 || bodies != 1 {
		t.Errorf("total %d open %d done %d jobs %d attempts %d bodies %d, want 5 0 5 0 5 1", total, open, done, jobs, attempts, bodies)
	}
}
