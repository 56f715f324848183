package queue_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"sluice/limiter"
	"sluice/migrations/pgtest"
	"sluice/queue"
	"sluice/queue/process"
	"sluice/queue/worker"
)

const limited = `
topology: flow
nodes:
  in: {kind: start, followers: [a]}
  a: {kind: custom, worker: demo, followers: [b], retry: {initial: 20ms}}
  b: {kind: connector, worker: demo, application: shop, retry: {initial: 20ms}}
`

// stopwatch notes when calls of a limited node begin.
type stopwatch struct {
	mu     sync.Mutex
	begun  []time.Time
	users  map[string][]time.Time
	bodies map[string][]string // of users
}

// call is a worker that passes on what comes, and notes the calls to node b.
func (s *stopwatch) call(_ context.Context, r worker.Request) (worker.Result, error) {
	if r.Application != "" {
		s.note(r)
	}
	return passOn(r), nil
}

func (s *stopwatch) note(r worker.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := time.Now()
	if s.users == nil {
		s.users, s.bodies = map[string][]time.Time{}, map[string][]string{}
	}
	user := r.Headers["user"]
	s.begun = append(s.begun, at)
	s.users[user], s.bodies[user] = append(s.users[user], at), append(s.bodies[user], string(r.Body))
}

// over tells by how many calls the busiest window has more than a limit allows.
func over(l limiter.Limit, begun []time.Time) (most float64) {
	slices.SortFunc(begun, time.Time.Compare)
	for i := range begun {
		for j := i; j < len(begun); j++ {
			most = max(most, float64(j-i+1)-l.Burst-l.Rate()*begun[j].Sub(begun[i]).Seconds())
		}
	}
	return most
}

func perSecond(amount, burst float64) limiter.Limit {
	return limiter.Limit{Amount: amount, Per: time.Second, Burst: burst}
}

// limit limits the application and returns when the engine, if there is one, knows.
func (r *rig) limit(l queue.Limit) {
	r.t.Helper()
	l.Application = "shop"
	ok(r.t, r.begin(func(tx tx) error { return queue.SetLimit(r.t.Context(), tx, tenant, l, "test") }))
	until(r.t, "the limit is known", func() bool { return r.engine == nil || queue.IsLimited(r.t.Context(), r.engine, tenant, l.Application) })
}

// Messages for a limited application are called with no faster than it allows, and with all that it allows.
func TestLimitIsKept(t *testing.T) {
	t.Parallel()
	for _, l := range []limiter.Limit{perSecond(100, 20), perSecond(50, 1), perSecond(1000, 250)} {
		t.Run(fmt.Sprintf("%v per second, burst %v", l.Amount, l.Burst), func(t *testing.T) {
			t.Parallel()
			var s stopwatch
			r := start(t, limited, s.call)
			r.limit(queue.Limit{User: l})
			n := int(l.Burst + 2*l.Amount)
			r.acceptMany(n, func(i int) string { return fmt.Sprint(i) })
			r.drained()
			if len(s.begun) != n {
				t.Fatalf("%d calls of %d", len(s.begun), n)
			}
			if o := over(l, s.begun); o > 0.5 {
				t.Errorf("%.2f calls too many in some window", o)
			}
			t.Logf("%d calls in %v, allowed are 2 s, %.2f above the limit", n, s.begun[n-1].Sub(s.begun[0]), over(l, s.begun))
		})
	}
}

// send posts events of a user.
func (r *rig) send(topology, user string, n int) {
	r.t.Helper()
	events := make([]queue.Event, n)
	for i := range events {
		events[i] = queue.Event{Tenant: tenant, Topology: topology, Node: "in", Headers: map[string]string{"user": user}, Body: fmt.Append(nil, i)}
	}
	_, errs := r.engine.AcceptMany(r.t.Context(), events)
	for _, err := range errs {
		ok(r.t, err)
	}
}

func (r *rig) limitState() queue.LimitState {
	r.t.Helper()
	s, err := queue.FindLimit(r.t.Context(), r.pool, tenant, "shop")
	ok(r.t, err)
	return s
}

// count is how many calls have begun.
func (s *stopwatch) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.begun)
}

// direct has the limited node first.
const direct = `
topology: flow
nodes:
  in: {kind: start, followers: [b]}
  b: {kind: connector, worker: demo, application: shop, retry: {initial: 20ms}}
`

// Each user has a bucket, one has another; who is out of tokens keeps nobody waiting, and messages of a user go in order.
func TestLimitPerUser(t *testing.T) {
	t.Parallel()
	var s stopwatch
	r := start(t, direct, s.call)
	r.limit(queue.Limit{User: perSecond(20, 2)})
	ok(t, r.begin(func(tx tx) error {
		return queue.SetOverride(t.Context(), tx, tenant, "shop", queue.Override{User: "fast", Limit: perSecond(200, 50)}, "test")
	}))
	for i := range 20 { // one after the other: only so they have an order
		_, err := r.engine.Accept(t.Context(), queue.Event{Tenant: tenant, Topology: "flow", Node: "in", Headers: map[string]string{"user": "slow"}, Body: fmt.Appendf(nil, "first %d", i)})
		ok(t, err)
	}
	r.send("flow", "slow", 180)
	until(t, "slow is at it", func() bool { return s.count() > 3 })
	began := time.Now()
	r.send("flow", "fast", 60)
	r.send("flow", "", 2)
	until(t, "others are done", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.users["fast"]) == 60 && len(s.users[""]) == 2
	})
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("others waited %v for one without tokens", took)
	}
	s.mu.Lock()
	slow := slices.Clone(s.bodies["slow"])
	for user, l := range map[string]limiter.Limit{"slow": perSecond(20, 2), "fast": perSecond(200, 50)} {
		if o := over(l, s.users[user]); o > 0.5 {
			t.Errorf("user %s: %.2f calls too many", user, o)
		}
	}
	s.mu.Unlock()
	for i, body := range slow[:min(len(slow), 10)] { // but for those that this machine was too slow for: they went back
		n, err := strconv.Atoi(strings.TrimPrefix(body, "first "))
		if err != nil || n > i+5 || !strings.HasPrefix(body, "first ") {
			t.Fatalf("out of order: %v", slow)
		}
	}
	r.clean()
	k, err := queue.FindLimitKey(t.Context(), r.pool, tenant, "shop", "slow")
	ok(t, err)
	state := r.limitState()
	// They are read one after the other, and some are released meanwhile.
	if k.Held == 0 || k.Held < state.Held || k.Drain == nil || len(state.Topologies) != 1 || state.Topologies[0].Held > state.Held || state.Topologies[0].Held == 0 {
		t.Errorf("slow: %+v of %+v", k, state)
	}
	r.limit(queue.Limit{User: perSecond(2000, 1000)})
	changed := time.Now()
	r.drained()
	if took := time.Since(changed); took > 3*time.Second {
		t.Errorf("a change took %v to be seen and done", took)
	}
}

// A pause holds everything, wherever it is asked about; what is held goes on after it, or when the limit is removed, within a
// second.
func TestLimitPause(t *testing.T) {
	t.Parallel()
	var s stopwatch
	r := start(t, limited, s.call)
	r.limit(queue.Limit{Total: perSecond(1000, 100)})
	do := func(f func(context.Context, tx, int64, string, string) error) {
		t.Helper()
		ok(t, r.begin(func(tx tx) error { return f(t.Context(), tx, tenant, "shop", "ann") }))
	}
	do(queue.PauseLimit)
	id := r.accept("in", "one")
	r.send("flow", "ann", 9)
	held := func() bool { return r.limitState().Held == 10 }
	until(t, "all are held", held)
	messages, err := process.Messages(t.Context(), r.pool, tenant, id, 0, 10)
	ok(t, err)
	if len(messages) != 2 || messages[1].Place != process.PlaceHeld {
		t.Errorf("messages %+v", messages)
	}
	by, err := queue.HeldBy(t.Context(), r.pool, tenant, "flow", 0)
	ok(t, err)
	if by != (queue.Held{Held: 10}) {
		t.Errorf("edges hold %+v", by)
	}
	depths, err := queue.DepthOf(t.Context(), r.pool, tenant, "flow", 0)
	ok(t, err)
	if d := depths[1]; d.Held != 10 || d.Waiting != 0 || d.Messages != 10 {
		t.Errorf("depth %+v", d)
	}
	report, err := queue.Check(t.Context(), r.pool)
	ok(t, err)
	if !report.Clean() || report.Places.Held != 10 {
		t.Errorf("check: %+v", report)
	}
	if state := r.limitState(); state.PausedBy != "ann" || state.Drain != nil {
		t.Errorf("paused: %+v", state)
	}
	ok(t, queue.RescueDeleted(t.Context(), r.engine))
	do(queue.ResumeLimit)
	resumed := time.Now()
	r.drained()
	if took := time.Since(resumed); took > 3*time.Second {
		t.Errorf("resumed after %v", took)
	}
	do(queue.PauseLimit)
	r.send("flow", "", 5)
	until(t, "five are held", func() bool { return r.limitState().Held == 5 })
	do(queue.RemoveLimit)
	r.drained()
	r.send("flow", "", 5) // nothing limits any more
	r.drained()
	if n := s.count(); n != 20 {
		t.Errorf("%d calls, want 20", n)
	}
}

// A raised limit lets more pass, and only for its time; the time to drain is what then happens.
func TestLimitRaiseAndDrain(t *testing.T) {
	t.Parallel()
	var s stopwatch
	r := start(t, direct, s.call)
	r.limit(queue.Limit{User: perSecond(100, 10)})
	r.send("flow", "", 400)
	until(t, "some are through", func() bool { return s.count() > 30 })
	ok(t, r.begin(func(tx tx) error { return queue.RaiseLimit(t.Context(), tx, tenant, "shop", 2, time.Hour, "ann") }))
	n := s.count()
	until(t, "it is seen", func() bool { return s.count() > n+40 })
	state := r.limitState()
	asked := time.Now()
	if state.Raise != 2 || state.RaisedUntil == nil || state.Drain == nil {
		t.Fatalf("raised: %+v", state)
	}
	until(t, "nothing is held", func() bool { return r.limitState().Held == 0 })
	took := time.Since(asked)
	if d := state.Drain.Seconds(); took.Seconds() < 0.8*d-0.3 || took.Seconds() > 1.1*d+0.3 {
		t.Errorf("%d held were to take %v, took %v", state.Held, state.Drain, took)
	}
	t.Logf("%d held: said %v, took %v", state.Held, state.Drain, took)
	r.drained()
	if o := over(perSecond(200, 20), s.begun); o > 0.5 {
		t.Errorf("%.2f above twice the limit", o)
	}
}

// An application that refuses a call is left alone for as long as it says; then calls go on, slower.
func TestLimitHears(t *testing.T) {
	t.Parallel()
	var s stopwatch
	var refusedAt time.Time
	refused := false
	r := start(t, direct, func(ctx context.Context, q worker.Request) (worker.Result, error) {
		s.note(q)
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.begun) >= 20 && !refused {
			refused, refusedAt = true, time.Now()
			return worker.Result{}, &worker.Failure{Class: worker.Limited, Status: 429, RetryAfter: 2 * time.Second, Rates: http.Header{"Retry-After": {"2"}}}
		}
		return passOn(q), nil
	})
	r.limit(queue.Limit{User: perSecond(100, 10)})
	r.send("flow", "", 100)
	r.drained()
	late := 0
	for _, at := range s.begun {
		if at.After(refusedAt.Add(20*time.Millisecond)) && at.Before(refusedAt.Add(1950*time.Millisecond)) {
			late++
		}
	}
	if late > 0 {
		t.Errorf("%d calls while it was to be left alone", late)
	}
	if len(s.begun) != 101 {
		t.Errorf("%d calls, want 101", len(s.begun))
	}
	if state := r.limitState(); state.Share > 0.8 {
		t.Errorf("it bears %v of its limit", state.Share)
	}
}

// No more calls are made at the same time than an application allows, whatever the runners.
func TestLimitParallel(t *testing.T) {
	t.Parallel()
	var now, most atomic.Int32
	work := func(_ context.Context, q worker.Request) (worker.Result, error) {
		n := now.Add(1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		time.Sleep(20 * time.Millisecond) //nolint:forbidigo // a worker's work
		now.Add(-1)
		return passOn(q), nil
	}
	r := start(t, direct, work)
	newEngine(t, r.pool, queue.Config{Caller: callerFunc(work)})
	r.limit(queue.Limit{Parallel: 3})
	began := time.Now()
	r.send("flow", "", 100)
	r.drained()
	if m := most.Load(); m != 3 {
		t.Errorf("%d calls at the same time, want 3", m)
	}
	t.Logf("100 calls of 20 ms, three at a time, took %v", time.Since(began))
}

// Users and topologies that share what an application allows share it fairly, whoever came first with how much.
func TestLimitFairness(t *testing.T) {
	t.Parallel()
	var s stopwatch
	byTopology := map[string]int{}
	r := start(t, direct, func(ctx context.Context, q worker.Request) (worker.Result, error) {
		s.note(q)
		s.mu.Lock()
		byTopology[q.Topology]++
		s.mu.Unlock()
		return passOn(q), nil
	})
	r.publish(strings.Replace(direct, "flow", "other", 1))
	r.limit(queue.Limit{Total: perSecond(200, 20), Weights: map[string]float64{"other": 2}})
	ok(t, r.begin(func(tx tx) error {
		return queue.SetOverride(t.Context(), tx, tenant, "shop", queue.Override{User: "heavy", Weight: 3}, "test")
	}))
	r.send("flow", "greedy", 2000)
	for _, user := range []string{"a", "heavy"} {
		r.send("flow", user, 500)
	}
	r.send("other", "a", 500)
	until(t, "some have passed", func() bool { return s.count() > 100 })
	s.mu.Lock()
	clear(s.users)
	clear(byTopology)
	s.begun = nil
	s.mu.Unlock()
	until(t, "more have passed", func() bool { return s.count() > 300 })
	s.mu.Lock()
	a, heavy, greedy, other := len(s.users["a"]), len(s.users["heavy"]), len(s.users["greedy"]), byTopology["other"]
	s.mu.Unlock()
	if heavy < 2*a || heavy > 4*a || greedy < a*7/10 || greedy > a*13/10 || other < a/2 || other > a*8/10 {
		t.Errorf("a %d (of which other %d), heavy %d, greedy %d", a, other, heavy, greedy)
	}
	ok(t, r.begin(func(tx tx) error { return queue.RemoveLimit(t.Context(), tx, tenant, "shop", "test") }))
	r.drained()
}

// What is held can be ended: of a user, of a topology, of chosen processes, with its process, or with its topology; what was counted, and no more.
func TestLimitTerminate(t *testing.T) {
	t.Parallel()
	r := start(t, limited, same)
	r.publish(strings.Replace(direct, "flow", "other", 1))
	r.limit(queue.Limit{User: limiter.Limit{Amount: 1, Per: time.Hour, Burst: 1}})
	r.send("flow", "ann", 21)
	r.send("flow", "bob", 11)
	r.send("other", "bob", 10)
	until(t, "the rest is held", func() bool { return r.limitState().Held == 40 })
	begin := func(ctx context.Context, do func(pgx.Tx) error) error { return pgx.BeginFunc(ctx, r.pool, do) }
	end := func(f queue.HeldFilter) int64 {
		t.Helper()
		f.Application = "shop"
		c, err := queue.CountHeld(t.Context(), r.pool, tenant, f)
		ok(t, err)
		n, err := queue.TerminateHeld(t.Context(), begin, tenant, f, c.UpTo, "ann", "too many")
		ok(t, err)
		if n != c.Count {
			t.Errorf("%v: %d ended of %d", f, n, c.Count)
		}
		r.clean()
		return n
	}
	bob := "bob"
	// One of bob's has passed, of either topology.
	of, rest := end(queue.HeldFilter{User: &bob, Topology: "other"}), end(queue.HeldFilter{User: &bob})
	if of < 9 || of+rest != 20 {
		t.Errorf("%d and %d of bob's ended, want 20 in all", of, rest)
	}
	ids, err := pgx.CollectRows(must(r.pool.Query(t.Context(), `select process_id from sluice.limiter_hold order by seq limit 3`)), pgx.RowTo[uuid.UUID])
	ok(t, err)
	if n := end(queue.HeldFilter{Processes: ids[1:]}); n != 2 {
		t.Errorf("%d of two processes ended", n)
	}
	n, err := queue.Terminate(t.Context(), begin, ids[0], tenant, "ann", "enough")
	ok(t, err)
	if n != 1 {
		t.Errorf("%d messages of a process ended", n)
	}
	r.clean()
	ok(t, r.begin(func(tx tx) error {
		held, err := queue.Delete(t.Context(), tx, tenant, "flow", 0, queue.Trash, "ann")
		if held.Held != 17 {
			t.Errorf("deleted with %+v", held)
		}
		return err
	}))
	r.clean()
	if n := one[int](r, `select count(*)::int from sluice.trash`); n != 17 {
		t.Errorf("%d in the trash, want 17", n)
	}
	until(t, "nothing is held", func() bool { return r.limitState().Held == 0 })
}

// Users who have had nothing held for a day are forgotten, once their buckets are full; others stay, and so does what is held.
func TestLimitForgetsUsers(t *testing.T) {
	t.Parallel()
	r := start(t, direct, same)
	r.limit(queue.Limit{User: limiter.Limit{Amount: 1, Per: 30 * time.Hour, Burst: 2}})
	do := func(sql string, args ...any) {
		t.Helper()
		_, err := r.pool.Exec(t.Context(), sql, args...)
		ok(t, err)
	}
	for _, user := range []string{"idle", "owing", "lately", "held"} {
		r.send("flow", user, 1)
	}
	r.send("flow", "held", 3)
	until(t, "all but two are done", func() bool {
		return r.limitState().Held == 2 && one[int](r, `select count(*)::int from sluice.limiter_delta`) == 0 && one[bool](r, `select not exists (select from river.river_job where kind = 'message')`)
	})
	do(`update sluice.limiter_line set metered_at = now() - interval '25 hours' where user_name <> 'lately'`)
	do(`update sluice.limiter_key set at = now() - case when user_name = 'owing' then interval '80 hours' else interval '90 hours' end`)
	users := func() string {
		return one[string](r, `select (select coalesce(string_agg(user_name, ' ' order by user_name), '') from sluice.limiter_line)
			|| ' / ' || (select coalesce(string_agg(user_name, ' ' order by user_name), '') from sluice.limiter_key)`)
	}
	// The gate is being looked at: nothing is forgotten, and nobody waits.
	ok(t, r.begin(func(tx tx) error {
		if _, err := tx.Exec(t.Context(), `select from sluice.limiter_gate for update`); err != nil {
			return err
		}
		if err := queue.ForgetUsers(t.Context(), r.engine); err != nil {
			return err
		}
		if got := users(); got != "held idle lately owing / held idle lately owing" {
			t.Errorf("while the gate is locked: %s", got)
		}
		return nil
	}))
	ok(t, queue.ForgetUsers(t.Context(), r.engine))
	if got := users(); got != "held lately / held lately owing" {
		t.Errorf("left: %s", got)
	}
	r.clean()
}

func must(rows pgx.Rows, _ error) pgx.Rows { return rows }

const manifold = `
topology: flow
nodes:
  in: {kind: start, followers: [a, o, p, c]}
  a: {kind: connector, worker: demo, application: shop, retry: {attempts: 30, initial: 5ms, max: 20ms}}
  o: {kind: connector, worker: demo, application: shop, order_by: customer, retry: {attempts: 30, initial: 5ms, max: 20ms}, followers: [z]}
  p: {kind: batch, worker: demo, application: shop, followers: [z], retry: {attempts: 30, initial: 5ms}}
  c: {kind: connector, worker: demo, application: shop, concurrency: 2, retry: {attempts: 30, initial: 5ms}}
  z: {kind: custom, worker: demo, retry: {attempts: 30, initial: 5ms}}
`

// Every call is counted: of nodes that keep order, of pages of a batch, of nodes whose calls are limited too, and of tries
// after a failure. Order is kept, and in the end all is done.
func TestLimitOfAllNodes(t *testing.T) {
	t.Parallel()
	var s stopwatch
	o := newOrderly(t, 0)
	var busy, most atomic.Int32
	var calls atomic.Int64
	r := start(t, manifold, func(ctx context.Context, q worker.Request) (worker.Result, error) {
		if q.Application != "" {
			s.note(q)
			if calls.Add(1)%7 == 0 {
				return worker.Result{}, &worker.Failure{Class: worker.Transient, Status: 500, Reason: "not now"}
			}
		}
		switch q.Node {
		case "o":
			return o.Call(ctx, worker.Target{}, q)
		case "c":
			if n := busy.Add(1); n > most.Load() {
				most.Store(n)
			}
			time.Sleep(5 * time.Millisecond) //nolint:forbidigo // a worker's work
			busy.Add(-1)
		case "p":
			result := passOn(q)
			if q.Page < 3 {
				result.Cursor = fmt.Sprint(q.Page + 1)
			}
			return result, nil
		}
		return passOn(q), nil
	})
	l := perSecond(300, 50)
	r.limit(queue.Limit{User: l})
	r.feed(5, 10)
	r.drained()
	if got := over(l, s.begun); got > 0.5 {
		t.Errorf("%.2f calls too many", got)
	}
	if m := most.Load(); m > 2 {
		t.Errorf("%d calls at once of a node that may have two", m)
	}
	if n := s.count(); n < 50*6 {
		t.Errorf("%d calls, want 300 at least", n)
	}
}

// A limit that is set while messages wait, run and retry takes hold of them, and messages approved from the trash.
func TestLimitTakesHoldOfJobs(t *testing.T) {
	t.Parallel()
	var s stopwatch
	var open atomic.Bool
	r := start(t, direct, func(ctx context.Context, q worker.Request) (worker.Result, error) {
		if !open.Load() {
			return worker.Result{}, &worker.Failure{Class: worker.Transient, Status: 500, Reason: "not yet"}
		}
		s.note(q)
		return passOn(q), nil
	})
	r.send("flow", "", 30)
	r.wait(`select count(*) >= 20 from sluice.attempt`)
	l := perSecond(50, 5)
	r.limit(queue.Limit{User: l})
	until(t, "runners know", func() bool { return r.limitState().Held > 0 })
	open.Store(true)
	r.drained()
	if got := over(l, s.begun); got > 0.5 {
		t.Errorf("%.2f calls too many", got)
	}
}

// A gateway that runs nothing tells runners what it holds, and where nobody can be told they find it; behind a pooler, too.
func TestLimitFromGateway(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]queue.Config{"told": {}, "polling": {PollOnly: true}, "pooled": {Pooled: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			pool := db.Pool()
			if c.Pooled {
				var err error
				pool, err = queue.OpenPooled(t.Context(), startPooler(t, db, ""), 16)
				ok(t, err)
				t.Cleanup(pool.Close)
			}
			var s stopwatch
			r := newRig(t, db.Pool())
			r.publish(direct)
			l := perSecond(100, 20)
			r.limit(queue.Limit{User: l})
			gateway, err := queue.New(t.Context(), pool, c)
			ok(t, err)
			t.Cleanup(func() { ok(t, gateway.Stop(context.Background())) })
			c.Caller = callerFunc(s.call)
			newEngine(t, pool, c)
			newEngine(t, pool, c)
			r.engine = gateway
			r.send("flow", "ann", 150)
			r.send("flow", "bob", 150)
			r.engine = nil
			r.drained()
			s.mu.Lock()
			defer s.mu.Unlock()
			for user, begun := range s.users {
				if o := over(l, begun); o > 0.5 || len(begun) != 150 {
					t.Errorf("%s: %d calls, %.2f too many", user, len(begun), o)
				}
			}
			k, err := queue.FindLimitKey(t.Context(), r.pool, tenant, "shop", "ann")
			ok(t, err)
			if k.Held != 0 {
				t.Errorf("%+v", k)
			}
		})
	}
}
