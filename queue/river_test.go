package queue_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivertype"

	"sluice/migrations/pgtest"
	"sluice/queue"
	"sluice/queue/process"
	"sluice/queue/worker"
)

// message is a job as ours are, and as other programs may make them.
type message struct {
	ProcessID string `json:"process_id"`
}

func (message) Kind() string { return "message" }

// order is a job of another program.
type order struct {
	Number int    `json:"number"`
	Odd    string `json:"process_id,omitempty"`
}

func (order) Kind() string { return "order" }

// river is a client of River's own, as another program would have.
func (r *rig) river() *river.Client[pgx.Tx] { return r.riverWith(&river.Config{}) }

func (r *rig) riverWith(c *river.Config) *river.Client[pgx.Tx] {
	r.t.Helper()
	c.Schema = "river"
	client, err := river.NewClient(riverpgxv5.New(r.pool), c)
	ok(r.t, err)
	return client
}

// queueOf is the River queue of the edge to a node.
func (r *rig) queueOf(node string) string {
	r.t.Helper()
	return one[string](r, `select 'e' || id from sluice.edge where to_node = $1`, node)
}

// row is a row of river_job by column, without those in which every job is another.
func (r *rig) row(where string, args ...any) map[string]string {
	r.t.Helper()
	var encoded []byte
	ok(r.t, r.pool.QueryRow(r.t.Context(), `select to_jsonb(j) from river.river_job j where `+where, args...).Scan(&encoded))
	var columns map[string]json.RawMessage
	ok(r.t, json.Unmarshal(encoded, &columns))
	row := map[string]string{}
	for name, value := range columns {
		switch name {
		case "id", "args":
		case "created_at", "scheduled_at", "attempted_at":
			row[name] = fmt.Sprint(string(value) != "null")
		default:
			row[name] = string(value)
		}
	}
	return row
}

func sameRow(t *testing.T, what string, got, want map[string]string) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if got[name] != want[name] {
			t.Errorf("%s: column %s is %s, River's %s", what, name, got[name], want[name])
		}
	}
}

// The rows that our statements write are those that River's client would write. When an upgrade of River changes its
// rows, this fails.
func TestRiverRows(t *testing.T) {
	t.Parallel()
	h := newHolding()
	r := newRig(t, pgtest.New(t).Pool())
	r.publish(line)
	a, b := r.queueOf("a"), r.queueOf("b")
	client := r.river()
	inserted, err := client.Insert(t.Context(), message{uuid.NewString()}, &river.InsertOpts{Queue: a, MaxAttempts: 32767})
	ok(t, err)
	available := r.row(`id = $1`, inserted.Job.ID)
	r.exec(`delete from river.river_job`)

	// What River's own fetching makes of a job, by a client that works it.
	fetched := make(chan struct{})
	hold := make(chan struct{})
	workers := river.NewWorkers()
	river.AddWorker(workers, river.WorkFunc(func(context.Context, *river.Job[message]) error {
		close(fetched)
		<-hold
		return nil
	}))
	working := r.riverWith(&river.Config{Workers: workers, Queues: map[string]river.QueueConfig{"other": {MaxWorkers: 1}}})
	ok(t, working.Start(t.Context()))
	inserted, err = client.Insert(t.Context(), message{uuid.NewString()}, &river.InsertOpts{Queue: "other", MaxAttempts: 32767})
	ok(t, err)
	<-fetched
	running := r.row(`id = $1`, inserted.Job.ID)
	close(hold)
	ok(t, working.Stop(t.Context()))
	r.exec(`delete from river.river_job`)
	delete(running, "attempted_by") // by whom is ours to say
	running["queue"] = fmt.Sprintf("%q", a)

	gateway, err := queue.New(t.Context(), r.pool, queue.Config{})
	ok(t, err)
	t.Cleanup(func() { ok(t, gateway.Stop(context.Background())) })
	_, err = gateway.Accept(t.Context(), queue.Event{Tenant: tenant, Topology: "flow", Node: "in", Body: []byte("x")})
	ok(t, err)
	sameRow(t, "accepted", r.row(`queue = $1`, a), available)

	r.engine = newEngine(t, r.pool, queue.Config{Caller: callerFunc(h.call), Slots: 1})
	h.called(t, "x", 1)
	sameRow(t, "fetched", r.row(`queue = $1`, a), running)
	ok(t, client.QueuePause(t.Context(), b, nil))
	until(t, "pause", func() bool { return queue.Paused(r.engine, b) })
	h.answer("x", 1)
	r.wait(`select count(*) = 1 from river.river_job where queue = $1`, b)
	available["queue"] = fmt.Sprintf("%q", b)
	sameRow(t, "handed off", r.row(`queue = $1`, b), available)
	h.forget("x", 1)
	ok(t, client.QueueResume(t.Context(), b, nil))
	h.called(t, "x", 1)

	// The next event finds room, so both of its messages are claimed at birth.
	h.answer("x", 1)
	r.drained()
	r.accept("in", "y")
	h.called(t, "y", 1)
	sameRow(t, "claimed when accepted", r.row(`queue = $1`, a), running)
	h.forgetAndAnswer("y", 1)
	h.called(t, "y", 1)
	running["queue"] = fmt.Sprintf("%q", b)
	sameRow(t, "claimed when handed off", r.row(`queue = $1`, b), running)
	h.reply = func(worker.Request) (worker.Result, error) {
		return worker.Result{}, &worker.Failure{Class: worker.Rejected, Reason: "no"}
	}
	h.answer("y", 1)
	r.wait(`select count(*) = 1 from sluice.trash`)
	ok(t, client.QueuePause(t.Context(), b, nil))
	until(t, "pause", func() bool { return queue.Paused(r.engine, b) })
	r.resend(r.trashed())
	approved := r.row(`queue = $1`, b)
	if approved["attempt"] != "1" {
		t.Errorf("approved: attempt %s, want 1", approved["attempt"])
	}
	approved["attempt"] = available["attempt"] // it counts on
	sameRow(t, "approved", approved, available)
	h.reply = func(q worker.Request) (worker.Result, error) { return passOn(q), nil }
	ok(t, client.QueueResume(t.Context(), b, nil))
	h.called(t, "y", 2)
	h.answer("y", 2)
	r.drained()
}

// trashed is the one message in the trash.
func (r *rig) trashed() (id process.MessageID) {
	r.t.Helper()
	ok(r.t, r.pool.QueryRow(r.t.Context(), `select process_id, message_id from sluice.trash`).Scan(&id.Process, &id.Number))
	return id
}

// River's client lists the messages of an edge, and the edges.
func TestRiverLists(t *testing.T) {
	t.Parallel()
	h := newHolding()
	r := start(t, point, h.call)
	id := r.accept("in", "x")
	h.called(t, "x", 1)
	client, edge := r.river(), r.queueOf("a")
	jobs, err := client.JobList(t.Context(), river.NewJobListParams().Queues(edge))
	ok(t, err)
	if len(jobs.Jobs) != 1 || !strings.Contains(string(jobs.Jobs[0].EncodedArgs), id.String()) || jobs.Jobs[0].State != "running" {
		t.Errorf("jobs %+v", jobs.Jobs)
	}
	queues, err := client.QueueList(t.Context(), river.NewQueueListParams())
	ok(t, err)
	if !slices.ContainsFunc(queues.Queues, func(q *rivertype.Queue) bool { return q.Name == edge }) {
		t.Errorf("River does not list %s", edge)
	}
	h.answer("x", 1)
	r.drained()
}

// An edge that is paused through River stands still, whichever way messages come to it, and goes on when it is resumed.
func TestRiverPauses(t *testing.T) {
	t.Parallel()
	var calls record
	r := start(t, line, func(_ context.Context, q worker.Request) (worker.Result, error) {
		calls.add(q.Node)
		return passOn(q), nil
	})
	client, b := r.river(), r.queueOf("b")
	ok(t, client.QueuePause(t.Context(), b, nil))
	asked := time.Now()
	until(t, "pause", func() bool { return queue.Paused(r.engine, b) })
	if took := time.Since(asked); took > 2*time.Second {
		t.Errorf("paused after %v", took)
	}
	const events = 50
	r.acceptMany(events, func(int) string { return "x" })
	r.wait(`select count(*) = $2 from river.river_job where queue = $1 and state = 'available'`, b, events)

	// Neither a runner that starts meanwhile, nor one that ends and leaves its claims, moves what is paused.
	second := newEngine(t, r.pool, queue.Config{Lease: time.Second, Sweep: 50 * time.Millisecond, Caller: callerFunc(func(_ context.Context, q worker.Request) (worker.Result, error) {
		calls.add(q.Node)
		return passOn(q), nil
	})})
	until(t, "pause", func() bool { return queue.Paused(second, b) })
	r.acceptMany(events, func(int) string { return "x" })
	r.wait(`select count(*) = $2 from river.river_job where queue = $1 and state = 'available'`, b, 2*events)
	if n := count(&calls, "b"); n > 0 {
		t.Errorf("%d messages worked on a paused edge", n)
	}
	ok(t, client.QueueResume(t.Context(), b, nil))
	r.drained()
	if n := count(&calls, "b"); n != 2*events {
		t.Errorf("%d messages worked after the pause, want %d", n, 2*events)
	}
}

func count(r *record, line string) (n int) {
	for _, l := range r.sorted() {
		if l == line {
			n++
		}
	}
	return n
}

// A job that another program inserts on an edge becomes a message, whatever it carries; what it carries does not stop
// the others.
func TestRiverInserts(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		args river.JobArgs
		opts river.InsertOpts
	}{
		{"a job", order{Number: 7}, river.InsertOpts{}},
		{"later", order{Number: 7}, river.InsertOpts{ScheduledAt: time.Now().Add(time.Second)}},
		{"last", order{Number: 7}, river.InsertOpts{Priority: 4, Tags: []string{"red"}}},
		{"unique", order{Number: 7}, river.InsertOpts{UniqueOpts: river.UniqueOpts{ByArgs: true}}},
		{"one attempt", order{Number: 7}, river.InsertOpts{MaxAttempts: 1}},
		{"kind of ours", message{}, river.InsertOpts{}},
		{"process of its own making", message{uuid.NewString()}, river.InsertOpts{}},
		{"no process id", order{Odd: "A-17"}, river.InsertOpts{}},
		{"kind of ours, no process id", message{"A-17"}, river.InsertOpts{}},
		{"odd failures", order{Number: 7}, river.InsertOpts{Metadata: []byte(`{"failures": "many"}`)}},
		{"odd page", order{Number: 7}, river.InsertOpts{Metadata: []byte(`{"page": "last"}`)}},
		{"other page", order{Number: 7}, river.InsertOpts{Metadata: []byte(`{"page": 3}`)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var bodies record
			r := start(t, line, func(_ context.Context, q worker.Request) (worker.Result, error) {
				bodies.add(q.Node + " " + string(q.Body))
				if q.Node == "a" && q.Attempt == 1 {
					return worker.Result{}, &worker.Failure{Class: worker.Limited, Reason: "later"}
				}
				return passOn(q), nil
			})
			args, err := json.Marshal(c.args)
			ok(t, err)
			c.opts.Queue = r.queueOf("a")
			_, err = r.river().Insert(t.Context(), c.args, &c.opts)
			ok(t, err)
			r.finished(r.accept("in", "ours")) // beside it
			r.wait(`select count(*) = 2 and bool_and(finished_at is not null) from sluice.process`)
			r.drained()
			said := strings.Join(bodies.sorted(), "\n")
			body := one[string](r, `select $1::jsonb::text`, string(args)) // jsonb has an order and spaces of its own
			if want := strings.Join([]string{"a ours", "a ours", "a " + body, "a " + body, "b ours", "b " + body}, "\n"); said != sortedLines(want) {
				t.Errorf("calls\n%s\nwant\n%s", said, sortedLines(want))
			}
		})
	}
}

func sortedLines(s string) string {
	lines := strings.Split(s, "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// A job of another program is not stuck when its adoption fails, or when the runner that claimed it dies before.
func TestRiverInsertSurvives(t *testing.T) {
	t.Parallel()
	t.Run("failed adoption", func(t *testing.T) {
		t.Parallel()
		r := start(t, point, same)
		r.exec(`create sequence tries`)
		r.exec(`
			create function refuse() returns trigger language plpgsql as $$
			begin
			    if nextval('tries') <= 2 then raise exception 'not now' using errcode = '57000'; end if;
			    return new;
			end $$`)
		r.exec(`create trigger refuse before insert on sluice.message for each row execute function refuse()`)
		_, err := r.river().Insert(t.Context(), order{Number: 7}, &river.InsertOpts{Queue: r.queueOf("a")})
		ok(t, err)
		r.wait(`select count(*) = 1 and bool_and(finished_at is not null) from sluice.process`)
		r.drained()
	})
	t.Run("dead runner", func(t *testing.T) {
		t.Parallel()
		r := start(t, point, same)
		client := r.river()
		ok(t, pgx.BeginFunc(t.Context(), r.pool, func(tx pgx.Tx) error {
			inserted, err := client.InsertTx(t.Context(), tx, order{Number: 7}, &river.InsertOpts{Queue: r.queueOf("a")})
			if err != nil {
				return err
			}
			// As a runner leaves it that claimed it and was killed.
			_, err = tx.Exec(t.Context(), `
				update river.river_job set state = 'running', attempt = 1, attempted_at = now(), attempted_by = '{999999}' where id = $1`, inserted.Job.ID)
			return err
		}))
		r.wait(`select count(*) = 1 and bool_and(finished_at is not null) from sluice.process`)
		r.drained()
	})
}

// A message whose job is cancelled through River is in the trash, and goes on from there.
func TestRiverCancels(t *testing.T) {
	t.Parallel()
	r := start(t, point, func(_ context.Context, q worker.Request) (worker.Result, error) {
		if q.Attempt == 1 {
			return worker.Result{Reply: worker.Reply{Verdict: worker.Repeat, After: time.Hour}}, nil
		}
		return passOn(q), nil
	})
	id := r.accept("in", "x")
	r.wait(`select count(*) = 1 from river.river_job where state = 'scheduled' and kind = 'message'`)
	client := r.river()
	_, err := client.JobCancel(t.Context(), one[int64](r, `select id from river.river_job where kind = 'message'`))
	ok(t, err)
	r.wait(`select trashed = 1 and open = 0 from sluice.process where id = $1`, id)
	r.clean()
	if reason := one[string](r, `select reason from sluice.trash`); reason != "its job was cancelled through River" {
		t.Errorf("in the trash because %q", reason)
	}
	r.resend(r.trashed())
	r.finished(id)
	r.drained()
}

// Another program has jobs in River that look a little like ours. We leave them alone, and they do not disturb us.
func TestRiverOtherJobs(t *testing.T) {
	t.Parallel()
	r := start(t, point, func(_ context.Context, q worker.Request) (worker.Result, error) {
		if q.Attempt == 1 {
			return worker.Result{Reply: worker.Reply{Verdict: worker.Repeat, After: time.Hour}}, nil
		}
		return passOn(q), nil
	})
	began, hold := make(chan int, 10), make(chan struct{})
	workers := river.NewWorkers()
	river.AddWorker(workers, river.WorkFunc(func(_ context.Context, job *river.Job[message]) error {
		began <- job.Attempt
		<-hold
		return nil
	}))
	client := r.riverWith(&river.Config{Workers: workers, Queues: map[string]river.QueueConfig{"theirs": {MaxWorkers: 5}}})
	ok(t, client.Start(t.Context()))
	release := sync.OnceFunc(func() { close(hold) })
	t.Cleanup(func() { release(); ok(t, client.Stop(context.Background())) })
	worked, err := client.Insert(t.Context(), message{"A-17"}, &river.InsertOpts{Queue: "theirs"})
	ok(t, err)
	cancelled, err := client.Insert(t.Context(), message{"A-18"}, &river.InsertOpts{Queue: "theirs", ScheduledAt: time.Now().Add(time.Hour)})
	ok(t, err)
	<-began
	_, err = client.JobCancel(t.Context(), cancelled.Job.ID)
	ok(t, err)

	// Ours is cancelled after theirs.
	id := r.accept("in", "x")
	r.wait(`select count(*) = 1 from river.river_job where state = 'scheduled' and queue = $1`, r.queueOf("a"))
	_, err = client.JobCancel(t.Context(), one[int64](r, `select id from river.river_job where queue = $1`, r.queueOf("a")))
	ok(t, err)
	r.wait(`select trashed = 1 from sluice.process where id = $1`, id)

	for _, job := range []struct {
		id    int64
		state string
	}{{worked.Job.ID, "running"}, {cancelled.Job.ID, "cancelled"}} {
		row, err := client.JobGet(t.Context(), job.id)
		ok(t, err)
		if string(row.State) != job.state {
			t.Errorf("their job is %s, should be %s", row.State, job.state)
		}
	}
	release()
	until(t, "their job", func() bool {
		row, err := client.JobGet(t.Context(), worked.Job.ID)
		return err == nil && row.State == "completed"
	})
	if n := len(began); n > 0 {
		t.Errorf("their job was begun %d times more", n)
	}
}

// River's own maintenance tidies up jobs that are stuck or over. It does so with others, and leaves our messages alone.
func TestRiverMaintenance(t *testing.T) {
	t.Parallel()
	h := newHolding()
	r := start(t, point, h.call)
	id := r.accept("in", "x")
	h.called(t, "x", 1)
	r.exec(`update river.river_job set attempted_at = now() - interval '2 hours' where kind = 'message'`)
	r.exec(`insert into river.river_job (state, attempt, attempted_at, attempted_by, args, kind, max_attempts, queue)
		values ('running', 1, now() - interval '2 hours', '{someone}', '{}', 'stuck', 1, 'theirs')`)
	r.exec(`insert into river.river_job (state, attempt, attempted_at, attempted_by, args, kind, max_attempts, queue, finalized_at)
		values ('completed', 1, now() - interval '2 days', '{someone}', '{}', 'over', 1, 'theirs', now() - interval '2 days')`)
	r.exec(`delete from river.river_leader`) // whoever leads next looks at everything at once
	r.wait(`select not exists (select from river.river_job where kind = 'over') and (select state = 'discarded' from river.river_job where kind = 'stuck')`)
	if state := one[string](r, `select state::text from river.river_job where kind = 'message'`); state != "running" {
		t.Errorf("the message's job is %s", state)
	}
	h.answer("x", 1)
	r.finished(id)
	r.drained()
}

// A runner that stops lets calls end, hands off what came of them, and leaves nothing behind: no claim, no runner.
func TestStopDrains(t *testing.T) {
	t.Parallel()
	h := newHolding()
	r := newRig(t, pgtest.New(t).Pool())
	r.publish(line)
	e, err := queue.New(t.Context(), r.pool, queue.Config{Caller: callerFunc(h.call), Lease: time.Minute})
	ok(t, err)
	ok(t, e.Start(t.Context()))
	r.engine = e
	id := r.accept("in", "x")
	h.called(t, "x", 1)
	stopped := make(chan error, 1)
	go func() { stopped <- e.Stop(t.Context()) }()
	until(t, "stopping", func() bool { return queue.Stopping(e) })
	if _, err := e.Accept(t.Context(), queue.Event{Tenant: tenant, Topology: "flow", Node: "in", Body: []byte("late")}); err == nil {
		t.Error("an event was accepted while stopping")
	}
	h.answer("x", 1)
	ok(t, <-stopped)
	if got := one[string](r, `select string_agg(queue || ' ' || state, ', ') from river.river_job where kind = 'message'`); got != r.queueOf("b")+" available" {
		t.Errorf("left behind: %s", got)
	}
	if n := one[int](r, `select count(*)::int from sluice.runner`); n != 0 {
		t.Errorf("%d runners left", n)
	}
	r.clean()
	r.engine = newEngine(t, r.pool, queue.Config{Caller: callerFunc(same)})
	r.finished(id)
	r.drained()
}

// A runner that must stop at once cuts its calls off. Their messages are back on their edges, and no attempt was used up.
func TestStopCutsOff(t *testing.T) {
	t.Parallel()
	h := newHolding()
	r := newRig(t, pgtest.New(t).Pool())
	r.publish(strings.Replace(point, "worker: demo", "worker: demo, retry: {attempts: 1}", 1))
	e, err := queue.New(t.Context(), r.pool, queue.Config{Caller: callerFunc(h.call), Lease: time.Minute})
	ok(t, err)
	ok(t, e.Start(t.Context()))
	r.engine = e
	const events = 200
	r.acceptMany(events, func(i int) string { return fmt.Sprint(i) })
	until(t, "calls", func() bool { return queue.UsageOf(e).Slots == 100 }) // a node's
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	began := time.Now()
	ok(t, e.Stop(ctx))
	t.Logf("stopped after %v", time.Since(began).Round(time.Millisecond))
	if got := one[string](r, `select string_agg(n || ' ' || state, ', ') from (select count(*) as n, state from river.river_job where kind = 'message' group by state) s`); got != fmt.Sprint(events, " available") {
		t.Errorf("left behind: %s", got)
	}
	if n := one[int](r, `select count(*)::int from sluice.attempt`); n != 0 {
		t.Errorf("%d attempts recorded", n)
	}
	r.clean()
	r.engine = newEngine(t, r.pool, queue.Config{Caller: callerFunc(same)})
	r.wait(`select count(*) = $1 from sluice.process where finished_at is not null`, events)
	r.drained()
}
