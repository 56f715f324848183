package queue_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivertype"

	"sluice/migrations/pgtest"
	"sluice/queue"
	"sluice/queue/worker"
)

func (r *rig) until(what string, fact func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !fact(); {
		if time.Now().After(deadline) {
			r.t.Fatalf("not in time: %s", what)
		}
		time.Sleep(5 * time.Millisecond) //nolint:forbidigo // between looks at a fact, with a deadline
	}
}

func (r *rig) one(sql string, args ...any) string {
	r.t.Helper()
	var v string
	ok(r.t, r.pool.QueryRow(r.t.Context(), sql, args...).Scan(&v))
	return v
}

func failure(class worker.Class, reason string) error {
	return &worker.Failure{Class: class, Reason: reason}
}

func send(messages ...worker.Message) (worker.Result, error) {
	return worker.Result{Reply: worker.Send(messages...), Status: 200}, nil
}

// A failing node is tried as often as its policy says, each try is recorded, and then the message waits in the trash.
func TestRetriesThenTrash(t *testing.T) {
	t.Parallel()
	var tries atomic.Int32
	r := start(t, line, func(ctx context.Context, req worker.Request) (worker.Result, error) {
		if req.Node != "a" {
			return same(ctx, req)
		}
		if n := tries.Add(1); int(n) != req.Attempt {
			return worker.Result{}, failure(worker.Rejected, fmt.Sprintf("try %d says that it is attempt %d", n, req.Attempt))
		}
		return worker.Result{}, failure(worker.Transient, "boom")
	})
	id := r.accept("in", "x")
	r.wait(`select open = 0 and trashed = 1 from sluice.process where id = $1`, id)
	if got := r.one(`select string_agg(outcome::text || ' ' || attempt, ', ' order by at, attempt) from sluice.attempt where process_id = $1`, id); got != "retried 1, retried 2, failed 3" {
		t.Errorf("attempts: %s", got)
	}
	if got := r.one(`select reason from sluice.trash where process_id = $1`, id); got != "boom (after 3 attempts)" {
		t.Errorf("reason: %s", got)
	}
	r.clean()
}

// A worker that is down costs no message: they wait, it is asked only now and then, and when it is back all goes on at
// once. Another worker's messages do not notice.
func TestOutage(t *testing.T) {
	t.Parallel()
	var down atomic.Bool
	var refused atomic.Int32
	down.Store(true)
	r := start(t, `
topology: flow
nodes:
  in: {kind: start, followers: [a]}
  healthy: {kind: start, followers: [b]}
  a: {kind: custom, worker: demo, retry: {attempts: 2, initial: 1ms, max: 1ms}}
  b: {kind: custom, worker: other}
`, func(ctx context.Context, req worker.Request) (worker.Result, error) {
		if req.Node == "a" && down.Load() {
			refused.Add(1)
			return worker.Result{}, failure(worker.Unavailable, "connection refused")
		}
		return same(ctx, req)
	})
	r.addWorker("other")
	for range 200 {
		r.accept("in", "x")
	}
	r.wait(`select down_since is not null from sluice.worker where name = 'demo'`)
	began, before := time.Now(), refused.Load()
	for range 20 {
		r.finished(r.accept("healthy", "y"))
	}
	r.until("the worker was probed twice", func() bool { return refused.Load() >= before+2 })
	if probes, most := refused.Load()-before, int32(2+time.Since(began)/time.Second); probes > most {
		t.Errorf("%d calls of a worker that is down in %v, want at most %d", probes, time.Since(began), most)
	}
	if got := r.one(`select count(*)::text from sluice.trash`); got != "0" {
		t.Errorf("%s messages in the trash after an outage", got)
	}
	down.Store(false)
	r.wait(`select not exists (select from sluice.process where finished_at is null)`)
	r.wait(`select down_since is null from sluice.worker where name = 'demo'`)
	r.clean()
}

// A result that Postgres refuses does not harm its neighbours in the hand-off: its message alone goes to the trash.
func TestPoison(t *testing.T) {
	t.Parallel()
	r := start(t, line, func(ctx context.Context, req worker.Request) (worker.Result, error) {
		if req.Node == "a" && string(req.Body) == "poison" {
			return send(worker.Message{Body: []byte("p"), Headers: map[string]string{"bad": "nul \x00 is no text"}})
		}
		return same(ctx, req)
	})
	var events []queue.Event
	for i := range 300 {
		body := "fine"
		if i == 150 {
			body = "poison"
		}
		events = append(events, queue.Event{Tenant: tenant, Topology: "flow", Node: "in", Body: []byte(body)})
	}
	_, errs := r.engine.AcceptMany(t.Context(), events)
	ok(t, errors.Join(errs...))
	r.wait(`select count(*) filter (where finished_at is not null) = 299 and count(*) filter (where trashed = 1 and open = 0) = 1 from sluice.process`)
	if got := r.one(`select reason from sluice.trash`); !strings.Contains(got, "Postgres refuses") {
		t.Errorf("reason: %s", got)
	}
	r.clean()
}

// A batch node is called page after page; a failing page is tried again by itself, and no page comes twice.
func TestBatchPages(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var pages []string
	failed := false
	r := start(t, `
topology: flow
nodes:
  in: {kind: start, followers: [pages]}
  pages: {kind: batch, worker: demo, followers: [sink], retry: {attempts: 3, initial: 10ms, max: 10ms}}
  sink: {kind: custom, worker: demo}
`, func(ctx context.Context, req worker.Request) (worker.Result, error) {
		if req.Node == "sink" {
			return same(ctx, req)
		}
		mu.Lock()
		defer mu.Unlock()
		pages = append(pages, fmt.Sprintf("%d %q %s", req.Page, req.Cursor, strings.TrimPrefix(req.IdempotencyKey(), req.MessageID)))
		if req.Page == 3 && !failed {
			failed = true
			return worker.Result{}, failure(worker.Transient, "hiccup")
		}
		result, err := send(worker.Message{Body: fmt.Appendf(nil, "item %d.1", req.Page)}, worker.Message{Body: fmt.Appendf(nil, "item %d.2", req.Page)})
		switch {
		case req.Page == 2:
			result.Messages = nil // a page may be empty
			fallthrough
		case req.Page < 4:
			result.Cursor = fmt.Sprintf("after %d", req.Page)
		}
		return result, err
	})
	id := r.accept("in", "go")
	r.finished(id)
	want := []string{`1 "" `, `2 "after 1" -p2`, `3 "after 2" -p3`, `3 "after 2" -p3`, `4 "after 3" -p4`}
	mu.Lock()
	if !slices.Equal(pages, want) {
		t.Errorf("pages %q, want %q", pages, want)
	}
	mu.Unlock()
	if got := r.one(`select string_agg(convert_from(body, 'UTF8'), ', ' order by id) from sluice.message where process_id = $1 and parent_id is not null`, id); got != "item 1.1, item 1.2, item 3.1, item 3.2, item 4.1, item 4.2" {
		t.Errorf("items: %s", got)
	}
	if got := r.one(`select count(*)::text from sluice.batch_cursor`); got != "0" {
		t.Errorf("%s cursors are left", got)
	}
	r.clean()
}

// What a worker may say: split, choose followers, stop, come back later, name a follower that there is not.
func TestVerdicts(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var repeated bool
	seen := map[string]int{}
	r := start(t, `
topology: flow
nodes:
  in: {kind: start, followers: [a]}
  a: {kind: custom, worker: demo, followers: [left, right]}
  left: {kind: custom, worker: demo}
  right: {kind: custom, worker: demo}
`, func(ctx context.Context, req worker.Request) (worker.Result, error) {
		mu.Lock()
		defer mu.Unlock()
		if req.Node != "a" {
			seen[req.Node+" "+string(req.Body)]++
			return same(ctx, req)
		}
		switch string(req.Body) {
		case "split":
			return send(worker.Message{Body: []byte("1")}, worker.Message{Body: []byte("2"), Followers: []string{"left"}})
		case "stop":
			return worker.Result{Reply: worker.Reply{Verdict: worker.Stop, Reason: "not wanted"}}, nil
		case "repeat":
			if !repeated {
				repeated = true
				return worker.Result{Reply: worker.Reply{Verdict: worker.Repeat, After: 30 * time.Millisecond}}, nil
			}
			return worker.Result{Reply: worker.Pass("right")}, nil
		}
		return send(worker.Message{SameBody: true, Followers: []string{"nowhere"}})
	})
	split, stop, repeat, wrong := r.accept("in", "split"), r.accept("in", "stop"), r.accept("in", "repeat"), r.accept("in", "wrong")
	r.finished(split)
	r.finished(stop)
	r.finished(repeat)
	r.wait(`select trashed = 1 and open = 0 from sluice.process where id = $1`, wrong)
	mu.Lock()
	if got, want := fmt.Sprint(seen), fmt.Sprint(map[string]int{"left 1": 1, "right 1": 1, "left 2": 1, "right repeat": 1}); got != want {
		t.Errorf("seen %s, want %s", got, want)
	}
	mu.Unlock()
	if got := r.one(`select string_agg(outcome::text, ', ' order by at) from sluice.attempt where process_id = $1`, repeat); got != "repeat, done, done" {
		t.Errorf("attempts: %s", got)
	}
	if got := r.one(`select reason from sluice.trash where process_id = $1`, wrong); !strings.Contains(got, `"nowhere"`) {
		t.Errorf("reason: %s", got)
	}
	r.clean()
}

// A runner whose lease is over while its calls are under way is replaced. What it then wants to commit is refused, even
// while the other runner is still at it: the work is in the books once, by the runner that holds the claim.
func TestLostClaimCommitsNothing(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t).Pool()
	runner := func(says string) (caller callerFunc, calls *atomic.Int32, release chan struct{}) {
		calls, release = new(atomic.Int32), make(chan struct{})
		return func(ctx context.Context, req worker.Request) (worker.Result, error) {
			if req.Node == "a" {
				calls.Add(1)
				select {
				case <-release:
				case <-ctx.Done():
					return worker.Result{}, failure(worker.Cancelled, "cut off")
				}
			}
			return send(worker.Message{Body: []byte(says)})
		}, calls, release
	}
	const events = 20
	short := 1500 * time.Millisecond
	frozenCaller, frozenCalls, thaw := runner("frozen")
	frozen := newEngine(t, pool, queue.Config{Caller: frozenCaller, Lease: short, Beat: time.Hour, Sweep: 50 * time.Millisecond})
	r := &rig{t: t, pool: pool, engine: frozen}
	r.addWorker("demo")
	r.publish(line)
	for range events {
		r.accept("in", "x")
	}
	r.until("the first runner is at work", func() bool { return frozenCalls.Load() == events })
	id := frozen.Claimant()
	livingCaller, livingCalls, finish := runner("living")
	living := newEngine(t, pool, queue.Config{Caller: livingCaller, Lease: short, Sweep: 50 * time.Millisecond})
	r.until("the second runner has taken all over", func() bool { return livingCalls.Load() == events })
	close(thaw)
	r.until("the first runner has given up", func() bool { _, n := frozen.Slots(); return n == 0 })
	if got := r.one(`select (select count(*) from sluice.message where body = 'frozen') || ' ' || (select count(*) from sluice.attempt)`); got != "0 0" {
		t.Errorf("messages and attempts of a runner that had lost its claims: %s", got)
	}
	close(finish)
	r.wait(`select not exists (select from sluice.process where finished_at is null)`)
	if got := r.one(fmt.Sprintf(`select count(*)::text from sluice.attempt where runner_id = %d`, id)); got != "0" {
		t.Errorf("%s attempts of a runner that had lost its claims", got)
	}
	r.engine = living
	r.clean()
}

// Connections are cut at random while messages flow, so that commits are made whose answers never arrive. Nothing is
// lost, nothing comes twice, and no claim stays without an owner.
func TestConnectionsCut(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := &rig{t: t, pool: db.Pool(), engine: newEngine(t, db.Pool(), queue.Config{Caller: callerFunc(same)})} // the test asks on connections of its own
	r.addWorker("demo")
	r.publish(diamond)
	stop := make(chan struct{})
	var cutter sync.WaitGroup
	cuts := 0
	cutter.Go(func() {
		for cuts < 40 {
			select {
			case <-stop:
				return
			case <-time.After(100 * time.Millisecond):
			}
			// Whichever session is at work on messages: its answer is lost, its commit may stand.
			tag, err := r.pool.Exec(t.Context(), `
				select pg_terminate_backend(pid) from pg_stat_activity
				where datname = current_database() and pid <> pg_backend_pid() and state = 'active' and query ~ '^\s*with (item|event|wanted)'
				order by random() limit 1`)
			if err == nil {
				cuts += int(tag.RowsAffected())
			}
		}
	})
	const events = 3000
	var producers sync.WaitGroup
	var next atomic.Int64
	for range 16 {
		producers.Go(func() {
			for n := next.Add(1); n <= events; n = next.Add(1) {
				for {
					_, err := r.engine.Accept(t.Context(), queue.Event{Tenant: tenant, Topology: "flow", Node: "in", Key: fmt.Sprint(n), Body: fmt.Append(nil, n)})
					if err == nil {
						break
					}
					if !errors.Is(err, queue.ErrUnavailable) {
						t.Errorf("event %d: %v", n, err)
						return
					}
				}
			}
		})
	}
	producers.Wait()
	r.wait(`select count(*) = 3000 and sum(done) = 15000 and bool_and(finished_at is not null) from sluice.process`)
	close(stop)
	cutter.Wait()
	t.Logf("%d connections were cut", cuts)
	r.clean()
}

// A stop waits for the calls under way; what it has no time for goes back to its edge, and counts as no attempt.
func TestStopGivesBack(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t).Pool()
	started := make(chan struct{}, 100)
	e, err := queue.New(t.Context(), pool, queue.Config{Caller: callerFunc(func(ctx context.Context, _ worker.Request) (worker.Result, error) {
		started <- struct{}{}
		<-ctx.Done()
		return worker.Result{}, failure(worker.Cancelled, "cut off")
	})})
	ok(t, err)
	ok(t, e.Start(t.Context()))
	r := &rig{t: t, pool: pool, engine: e}
	r.addWorker("demo")
	r.publish(line)
	for range 10 {
		r.accept("in", "x")
	}
	for range 10 {
		<-started
	}
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	ok(t, e.Stop(short))
	if got := r.one(`select string_agg(distinct state::text, ',') || count(*) from river.river_job where kind = 'message'`); got != "available10" {
		t.Errorf("jobs after the stop: %s, want 10 available", got)
	}
	if got := r.one(`select (select count(*) from sluice.attempt) || ' ' || (select count(*) from sluice.runner)`); got != "0 0" {
		t.Errorf("attempts and runners after the stop: %s", got)
	}
	if _, err := e.Accept(t.Context(), queue.Event{Tenant: tenant, Topology: "flow", Node: "in"}); !errors.Is(err, queue.ErrUnavailable) {
		t.Errorf("a stopped engine answers %v to an event", err)
	}
	r.engine = newEngine(t, pool, queue.Config{Caller: callerFunc(same)})
	r.wait(`select bool_and(finished_at is not null) from sluice.process`)
	r.clean()
}

type otherArgs struct {
	Name string `json:"name"`
}

func (otherArgs) Kind() string { return "message" }

func newRiver(t *testing.T, pool *pgxpool.Pool) *river.Client[pgx.Tx] {
	t.Helper()
	c, err := river.NewClient(riverpgxv5.New(pool), &river.Config{Schema: "river"})
	ok(t, err)
	return c
}

// A job that the engine inserts is what River's own client would have inserted, column by column, but for what makes it
// ours. A River that changes its rows fails here.
func TestJobsAreRiversJobs(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t).Pool()
	e, err := queue.New(t.Context(), pool, queue.Config{})
	ok(t, err)
	t.Cleanup(func() { ok(t, e.Stop(context.Background())) })
	r := &rig{t: t, pool: pool, engine: e}
	r.addWorker("demo")
	r.publish(line)
	r.accept("in", "x")
	queueName := r.one(`select queue from river.river_job`)
	_, err = newRiver(t, pool).Insert(t.Context(), otherArgs{Name: "x"}, &river.InsertOpts{Queue: queueName, MaxAttempts: 32767})
	ok(t, err)
	rows, _ := pool.Query(t.Context(), `
		select key, array_agg(coalesce(value::text, 'null') order by id)
		from (select id, (jsonb_each(to_jsonb(j))).* from river.river_job j) f
		where key not in ('id', 'args', 'created_at', 'scheduled_at')
		group by key having count(distinct coalesce(value::text, 'null')) > 1 or count(*) <> 2`)
	for rows.Next() {
		var column string
		var values []string
		ok(t, rows.Scan(&column, &values))
		t.Errorf("column %s: ours %s, River's %s", column, values[0], values[1])
	}
	ok(t, rows.Err())
	if got := r.one(`select count(*)::text from river.river_job where created_at <= now() and scheduled_at <= now() and jsonb_typeof(args) = 'object'`); got != "2" {
		t.Errorf("%s of 2 jobs are due", got)
	}
}

// River's own client lists the jobs, pauses an edge and resumes it, puts a job on it and cancels one; its maintenance
// leaves messages alone.
func TestRiversClient(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var bodies [][]byte
	r := start(t, line, func(ctx context.Context, req worker.Request) (worker.Result, error) {
		mu.Lock()
		defer mu.Unlock()
		bodies = append(bodies, req.Body)
		return same(ctx, req)
	})
	ctx := t.Context()
	client := newRiver(t, r.pool)
	edges := r.one(`select string_agg('e' || id, ' ' order by id) from sluice.edge`)
	first, _, _ := strings.Cut(edges, " ")
	ok(t, client.QueuePause(ctx, first, nil))
	r.wait(`select pg_sleep(0.3) is not null`) // three sweeps
	id := r.accept("in", "waits")
	listed, err := client.JobList(ctx, river.NewJobListParams().Queues(first))
	ok(t, err)
	if len(listed.Jobs) != 1 || listed.Jobs[0].State != rivertype.JobStateAvailable {
		t.Fatalf("a paused edge holds %d jobs, want one that is available", len(listed.Jobs))
	}
	if _, err := client.JobCancel(ctx, listed.Jobs[0].ID); err != nil {
		t.Fatal(err)
	}
	r.wait(`select trashed = 1 and open = 0 from sluice.process where id = $1`, id)
	if got := r.one(`select reason from sluice.trash`); !strings.Contains(got, "cancelled through River") {
		t.Errorf("reason: %s", got)
	}
	_, err = client.Insert(ctx, otherArgs{Name: "from elsewhere"}, &river.InsertOpts{Queue: first})
	ok(t, err)
	ok(t, client.QueueResume(ctx, first, nil))
	r.wait(`select count(*) = 1 from sluice.process where finished_at is not null`)
	mu.Lock()
	defer mu.Unlock()
	if len(bodies) != 2 || !bytes.Contains(bodies[0], []byte("from elsewhere")) {
		t.Errorf("%d calls, the first with %q; want 2 with the arguments of the other program's job", len(bodies), bodies)
	}
	r.clean()
}
