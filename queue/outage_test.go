package queue_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"sluice/migrations/pgtest"
	"sluice/queue"
	"sluice/queue/worker"
)

// phone connects to workers, and counts how often it is tried. A worker that is down refuses.
type phone struct {
	down  sync.Map // address -> true
	dials sync.Map // address -> *atomic.Int64
}

func (p *phone) dial(ctx context.Context, network, address string) (net.Conn, error) {
	n, _ := p.dials.LoadOrStore(address, new(atomic.Int64))
	n.(*atomic.Int64).Add(1)
	if down, _ := p.down.Load(address); down == true {
		return nil, &net.OpError{Op: "dial", Net: network, Err: syscall.ECONNREFUSED}
	}
	return new(net.Dialer).DialContext(ctx, network, address)
}

func (p *phone) count(address string) int64 {
	n, _ := p.dials.LoadOrStore(address, new(atomic.Int64))
	return n.(*atomic.Int64).Load()
}

func (p *phone) client(t *testing.T) *worker.Client {
	t.Helper()
	c := worker.NewClient(worker.Config{Dial: p.dial})
	t.Cleanup(c.Close)
	return c
}

const (
	downFlow = `
topology: down
nodes:
  in: {kind: start, followers: [a, b, c]}
  a: {kind: custom, worker: dead}
  b: {kind: custom, worker: dead}
  c: {kind: custom, worker: dead}
`
	upFlow = `
topology: flow
nodes:
  in: {kind: start, followers: [a]}
  a: {kind: custom, worker: demo}
`
)

// A worker is down while hundreds of messages wait for it on several edges. It is tried now and then, nothing goes to the
// trash and no attempt is used up; others are not disturbed. When it is back, everything is worked.
func TestWorkerDown(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(worker.Handler{Func: func(context.Context, *worker.Request) (worker.Reply, error) {
		return worker.Pass(), nil
	}})
	t.Cleanup(server.Close)
	other := httptest.NewServer(server.Config.Handler)
	t.Cleanup(other.Close)
	var p phone
	address := strings.TrimPrefix(server.URL, "http://")
	p.down.Store(address, true)
	r := newRig(t, pgtest.New(t).Pool())
	r.addWorkerAt("dead", server.URL)
	r.moveWorker(other.URL)
	r.publish(downFlow)
	r.publish(upFlow)
	const slots, events = 50, 300
	r.engine = newEngine(t, r.pool, queue.Config{Slots: slots, Caller: p.client(t)})
	alone := r.latency()

	for range events {
		_, err := r.engine.Accept(t.Context(), queue.Event{Tenant: tenant, Topology: "down", Node: "in", Body: []byte("x")})
		ok(t, err)
	}
	r.wait(`select down_since is not null from sluice.worker where name = 'dead'`)
	until(t, "calls under way end", func() bool { return queue.UsageOf(r.engine).Slots <= 1 })
	before := p.count(address)
	if before > 2*slots {
		t.Errorf("%d calls before the worker was left alone", before)
	}
	watch := time.Now()
	beside := r.latency()
	until(t, "some probes", func() bool { return p.count(address) >= before+3 })
	watched := time.Since(watch)
	if watched < 5*time.Second { // pauses of 1, 2 and 4 s, of which the first had begun
		t.Errorf("3 probes in %v", watched)
	}
	t.Logf("%d calls at first, then 3 probes in %v; other topology: %v alone, %v beside it", before, watched.Round(time.Millisecond), alone, beside)
	if n := one[int](r, `select count(*)::int from sluice.trash`); n > 0 {
		t.Errorf("%d messages in the trash", n)
	}
	p.down.Delete(address)
	back := time.Now()
	r.wait(`select down_since is null from sluice.worker where name = 'dead'`)
	probed := time.Since(back)
	r.wait(`select not exists (select from river.river_job where kind = 'message')`)
	t.Logf("worker back: seen after %v, backlog of %d worked %v later", probed.Round(time.Millisecond), 3*events, (time.Since(back) - probed).Round(time.Millisecond))
	r.drained()
	if n := one[int](r, `select count(*)::int from sluice.attempt where outcome not in ('done', 'filtered', 'unavailable')`); n > 0 {
		t.Errorf("%d attempts used up", n)
	}
}

// Hundreds of edges wait for a worker that is down. They have no part in the share that other edges get.
func TestWorkerDownOnManyEdges(t *testing.T) {
	t.Parallel()
	const edges, backlog = 300, 2000
	names := make([]string, edges)
	var nodes strings.Builder
	for i := range names {
		names[i] = fmt.Sprint("n", i)
		fmt.Fprintf(&nodes, "  n%d: {kind: custom, worker: dead}\n", i)
	}
	pool, w := openWired(t, pgtest.New(t))
	r := newRig(t, pool)
	r.addWorker("dead")
	r.publish(fmt.Sprintf("topology: down\nnodes:\n  in: {kind: start, followers: [%s]}\n%s", strings.Join(names, ", "), nodes.String()))
	r.publish(point)
	gateway, err := queue.New(t.Context(), pool, queue.Config{})
	ok(t, err)
	t.Cleanup(func() { ok(t, gateway.Stop(context.Background())) })
	accept := func(topology string, n int) {
		events := make([]queue.Event, n)
		for i := range events {
			events[i] = queue.Event{Tenant: tenant, Topology: topology, Node: "in", Body: []byte("x")}
		}
		_, errs := gateway.AcceptMany(t.Context(), events)
		ok(t, errors.Join(errs...))
	}
	accept("down", 3)
	r.engine = newEngine(t, pool, queue.Config{Caller: callerFunc(func(_ context.Context, q worker.Request) (worker.Result, error) {
		if q.Topology == "down" {
			return worker.Result{}, &worker.Failure{Class: worker.Unavailable, Reason: "down"}
		}
		return passOn(q), nil
	})})
	r.wait(`select down_since is not null from sluice.worker where name = 'dead'`)
	claims := w.sees("cross join lateral")
	accept("flow", backlog)
	r.wait(`select count(*) = $1 from sluice.process where finished_at is not null`, backlog)
	t.Logf("%d messages were claimed by %d statements", backlog, claims.seen())
	if claims.seen() > backlog/4 {
		t.Errorf("%d statements for %d messages: the edges that wait take the others' share", claims.seen(), backlog)
	}
	r.clean()
}

// latency is the median time from an event to its finish, of some events sent one after the other.
func (r *rig) latency() time.Duration {
	var times []time.Duration
	for range 21 {
		sent := time.Now()
		id := r.accept("in", "x")
		r.finished(id)
		times = append(times, time.Since(sent))
	}
	slices.Sort(times)
	return times[len(times)/2].Round(100 * time.Microsecond)
}

// server is a worker of which a test says how it answers each call.
func (r *rig) server(answer func(call int, w http.ResponseWriter)) *calls {
	c := &calls{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { answer(c.add(), w) }))
	r.t.Cleanup(s.Close)
	r.moveWorker(s.URL)
	return c
}

// calls is when calls came.
type calls struct {
	mu sync.Mutex
	at []time.Time
}

func (c *calls) add() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = append(c.at, time.Now())
	return len(c.at)
}

// gaps is how long the calls were apart.
func (c *calls) gaps() []time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	var gaps []time.Duration
	for i := 1; i < len(c.at); i++ {
		gaps = append(gaps, c.at[i].Sub(c.at[i-1]))
	}
	return gaps
}

// A worker that asks to be left alone for two seconds is, whatever the status with which it says so.
func TestRetryAfter(t *testing.T) {
	t.Parallel()
	for _, status := range []int{429, 500, 503} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			t.Parallel()
			var p phone
			r := newRig(t, pgtest.New(t).Pool())
			calls := r.server(func(call int, w http.ResponseWriter) {
				if call == 1 {
					w.Header().Set("Retry-After", "2")
					w.WriteHeader(status)
					return
				}
				w.WriteHeader(http.StatusNoContent)
			})
			r.publish(point)
			r.engine = newEngine(t, r.pool, queue.Config{Caller: p.client(t)})
			r.finished(r.accept("in", "x"))
			gaps := calls.gaps()
			if len(gaps) != 1 || gaps[0] < 2*time.Second || gaps[0] > 6*time.Second {
				t.Errorf("called again after %v, asked for 2s", gaps)
			}
			r.drained()
		})
	}
}

// Failures use up attempts, with growing pauses, and then the message is in the trash with all of them recorded.
func TestAttemptsUsedUp(t *testing.T) {
	t.Parallel()
	const file = `
topology: flow
nodes:
  in: {kind: start, followers: [a]}
  a: {kind: custom, worker: demo, retry: {attempts: 4, initial: 100ms, factor: 3, max: 500ms, jitter: 0, outage: %s}}
`
	for _, c := range []struct {
		name, outage string
		answer       func(http.ResponseWriter)
		reason       string
	}{
		{"500", "wait", func(w http.ResponseWriter) { http.Error(w, "out of luck", 500) }, "worker demo answered 500 Internal Server Error: out of luck (after 4 attempts)"},
		{"503 counts", "count", func(w http.ResponseWriter) { w.WriteHeader(503) }, "worker demo answered 503 Service Unavailable (after 4 attempts)"},
		{"429 counts", "count", func(w http.ResponseWriter) { w.WriteHeader(429) }, "worker demo answered 429 Too Many Requests (after 4 attempts)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var p phone
			r := newRig(t, pgtest.New(t).Pool())
			calls := r.server(func(_ int, w http.ResponseWriter) { c.answer(w) })
			r.publish(fmt.Sprintf(file, c.outage))
			r.engine = newEngine(t, r.pool, queue.Config{Caller: p.client(t)})
			id := r.accept("in", "x")
			r.wait(`select trashed = 1 from sluice.process where id = $1`, id)
			r.drained()
			gaps, least := calls.gaps(), []time.Duration{100 * time.Millisecond, 300 * time.Millisecond, 500 * time.Millisecond}
			if len(gaps) != len(least) {
				t.Fatalf("pauses %v, want %v", gaps, least)
			}
			for i := range gaps {
				if gaps[i] < least[i] || gaps[i] > least[i]+time.Second {
					t.Errorf("pauses %v, want %v", gaps, least)
				}
			}
			reason := one[string](r, `select reason from sluice.trash`)
			outcomes := one[[]string](r, `select array_agg(outcome::text || ' ' || attempt order by attempt) from sluice.attempt`)
			if reason != c.reason || !slices.Equal(outcomes, []string{"retried 1", "retried 2", "retried 3", "failed 4"}) {
				t.Errorf("outcomes %q, reason %q", outcomes, reason)
			}
		})
	}
}

// What is wrong with our database is not the worker's fault: it uses up no attempt, and the worker is not called down.
func TestLookUpFails(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	pool, w := openWired(t, db)
	r := newRig(t, pool)
	r.publish(strings.Replace(point, "worker: demo", "worker: demo, retry: {attempts: 1, outage: count}", 1))
	r.engine = newEngine(t, pool, queue.Config{Caller: callerFunc(same)})
	gateway, err := queue.New(t.Context(), db.Pool(), queue.Config{})
	ok(t, err)
	t.Cleanup(func() { ok(t, gateway.Stop(context.Background())) })
	for range 3 {
		lost := w.cutSome(unsent, "from sluice.configuration where", 0, 2)
		until(t, "look-ups that fail", func() bool {
			_, err := gateway.Accept(t.Context(), queue.Event{Tenant: tenant, Topology: "flow", Node: "in", Body: []byte("x")})
			ok(t, err)
			return lost.count() == 2
		})
	}
	r.drained()
	if reasons := one[[]string](r, `select coalesce(array_agg(distinct reason), '{}') from sluice.trash`); len(reasons) > 0 {
		t.Errorf("in the trash because %q", reasons)
	}
	if reasons := one[[]string](r, `select coalesce(array_agg(distinct reason), '{}') from sluice.attempt where outcome = 'unavailable'`); len(reasons) > 0 {
		t.Errorf("said to be the worker's: %q", reasons)
	}
}

// A worker is removed while messages wait for it, and comes back under another address.
func TestWorkerRemoved(t *testing.T) {
	t.Parallel()
	var p phone
	r := newRig(t, pgtest.New(t).Pool())
	var busy atomic.Bool
	busy.Store(true)
	r.server(func(_ int, w http.ResponseWriter) {
		if busy.Load() {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(429)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	r.publish(point)
	r.engine = newEngine(t, r.pool, queue.Config{Caller: p.client(t)})
	const events = 50
	r.acceptMany(events, func(int) string { return "x" })
	r.wait(`select count(*) > 0 from sluice.attempt where outcome = 'retried'`)
	r.removeWorker("demo")
	r.wait(`select count(*) > 0 from sluice.attempt where outcome = 'unavailable' and reason = 'no worker named demo is registered'`)
	until(t, "no call under way", func() bool { return queue.UsageOf(r.engine).Slots == 0 })
	r.addWorker("demo")
	busy.Store(false)
	r.server(func(_ int, w http.ResponseWriter) { w.WriteHeader(http.StatusNoContent) })
	back := time.Now()
	r.wait(`select count(*) = $1 from sluice.process where finished_at is not null`, events)
	t.Logf("worked %v after the worker was back", time.Since(back).Round(time.Millisecond))
	r.drained()
	if n := one[int](r, `select count(*)::int from sluice.trash`); n > 0 {
		t.Errorf("%d messages in the trash", n)
	}
}

// A producer who has no more time hears so, whatever the engine waits for: here, to be told where its events go.
func TestAcceptInTime(t *testing.T) {
	t.Parallel()
	pool, w := openWired(t, pgtest.New(t))
	r := newRig(t, pool)
	r.publish(point)
	e, err := queue.New(t.Context(), pool, queue.Config{})
	ok(t, err)
	t.Cleanup(func() { w.hangUp("sluice.configuration"); ok(t, e.Stop(context.Background())) })
	w.cutSome(deaf, "from sluice.configuration where", 0, 1<<30)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	asked := time.Now()
	_, err = e.Accept(ctx, queue.Event{Tenant: tenant, Topology: "flow", Node: "in", Body: []byte("x")})
	if took := time.Since(asked); !errors.Is(err, queue.ErrUnavailable) || took > 5*time.Second {
		t.Errorf("%v after %v", err, took)
	}
}
