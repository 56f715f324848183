package queue_test

import (
	"context"
	"fmt"
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

const point = `
topology: flow
nodes:
  in: {kind: start, followers: [a]}
  a: {kind: custom, worker: demo}
`

// statements are those of the engine, by a text that only they have.
var statements = []struct {
	name   string
	text   string
	passes int    // between two breaks
	with   string // another statement that breaks, so that this one is needed
}{
	{name: "accept", text: "ledger as ("},
	{name: "answer duplicates", text: "k.body_digest"},
	{name: "look for stored events", text: "from unnest($1::uuid[]) as w(id), sluice.process", with: "ledger as ("},
	{name: "claim", text: "cross join lateral", passes: 2},
	{name: "hand off", text: "gone as (", passes: 2},
	{name: "look for committed hand-offs", text: "join sluice.attempt a on", with: "gone as ("},
	{name: "take over", text: "orphan as ("},
	{name: "list claims", text: "select id from river.river_job", with: "cross join lateral"},
	{name: "give back", text: "mine as (", with: "cross join lateral"},
	{name: "alarm", text: "rung as (", passes: 2},
	{name: "take ids", text: "river_job_id_seq"},
	{name: "beat", text: "set lease_until"},
	{name: "find cancelled", text: "in ('cancelled', 'discarded') and j.finalized_at"},
	{name: "forget runners", text: "delete from sluice.runner where lease_until"},
	{name: "configuration", text: "from sluice.configuration where"},
}

// The line breaks at a statement of each kind, before it is executed or after, again and again. Whatever the engine does
// not know then, nothing is lost, done twice, or kept by a runner that has forgotten it.
func TestLostAnswers(t *testing.T) {
	t.Parallel()
	for _, c := range statements {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			pool, w := openWired(t, pgtest.New(t))
			r, s := newRig(t, pool), newSink(t, stormFlow)
			r.publish(storm)
			r.engine = newEngine(t, pool, queue.Config{Caller: callerFunc(s.call), Slots: 20})
			cuts := []*cut{w.cutSome(executed, c.text, c.passes, 6), w.cutSome(unsent, c.text, c.passes, 6)}
			if c.with != "" {
				cuts = append(cuts, w.cutSome(executed, c.with, 0, 6))
			}
			events := bySize(40, 1000)
			want := stormEffects(t, events)
			var group sync.WaitGroup
			for i := range 2 * events {
				group.Go(func() { r.insist(fmt.Sprint("key ", i/2), event(i/2)) })
			}
			group.Wait()
			progress(t, s, 1, len(want))
			until(t, "cut", func() bool { return cuts[0].count() > 0 })
			r.wait(`select not exists (select from river.river_job where kind = 'message')`)
			for _, c := range cuts {
				c.stop()
			}
			r.drained()
			s.prove(r, want)
		})
	}
}

// insist sends an event until it is accepted.
func (r *rig) insist(key, body string) { r.insistFor(patience, key, body) }

func (r *rig) insistFor(most time.Duration, key, body string) {
	for deadline := time.Now().Add(most); ; {
		_, err := r.engine.Accept(r.t.Context(), queue.Event{Tenant: tenant, Topology: "flow", Node: "in", Key: key, Body: []byte(body)})
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			r.t.Errorf("event never accepted: %v", err)
			return
		}
		time.Sleep(5 * time.Millisecond) //nolint:forbidigo // not all the time
	}
}

// A runner whose lease ran out while calls were under way starts anew, takes its own messages over and calls again. When
// both answers to a message come into one hand-off, the one without a claim must not count.
func TestZombieBesideItself(t *testing.T) {
	t.Parallel()
	w := newHolding()
	r := start(t, point, w.call)
	id := r.accept("in", "twice")
	w.called(t, "twice", 1)
	r.exec(`update sluice.runner set lease_until = clock_timestamp()`)
	w.called(t, "twice", 2)
	release := r.holdHandOffs(w)
	w.answer("twice", 1)
	w.answer("twice", 2)
	until(t, "answers", func() bool { return queue.Gathered(r.engine) == 2 })
	release()
	r.finished(id)
	r.drained()
	if n := one[int](r, `select count(*)::int from sluice.attempt where outcome = 'done' and process_id = $1`, id); n != 1 {
		t.Errorf("the message was settled %d times", n)
	}
}

// holding is a worker whose calls wait until the test answers them, by body and attempt.
type holding struct {
	mu    sync.Mutex
	calls map[string]chan struct{}
	reply func(worker.Request) (worker.Result, error)
}

func newHolding() *holding {
	return &holding{calls: map[string]chan struct{}{}, reply: func(q worker.Request) (worker.Result, error) { return passOn(q), nil }}
}

func callName(body string, attempt int) string { return fmt.Sprint(body, " ", attempt) }

func (h *holding) call(ctx context.Context, q worker.Request) (worker.Result, error) {
	answer := make(chan struct{})
	h.mu.Lock()
	h.calls[callName(string(q.Body), q.Attempt)] = answer
	h.mu.Unlock()
	select {
	case <-answer:
		return h.reply(q)
	case <-ctx.Done():
		return worker.Result{}, &worker.Failure{Class: worker.Cancelled, Reason: "given up"}
	}
}

// called waits until a call is made.
func (h *holding) called(t *testing.T, body string, attempt int) {
	t.Helper()
	until(t, callName(body, attempt)+" is called", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.calls[callName(body, attempt)] != nil
	})
}

// answer lets a call return.
func (h *holding) answer(body string, attempt int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	close(h.calls[callName(body, attempt)])
}

// forget makes called wait for a call of that name again.
func (h *holding) forget(body string, attempt int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.calls, callName(body, attempt))
}

// forgetAndAnswer lets a call return when the next of its name may already come.
func (h *holding) forgetAndAnswer(body string, attempt int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	close(h.calls[callName(body, attempt)])
	delete(h.calls, callName(body, attempt))
}

// holdInserts makes statements that insert messages wait in the middle of their execution.
func (r *rig) holdInserts() (release func()) {
	t := r.t
	t.Helper()
	r.exec(`create function hold_insert() returns trigger language plpgsql as $$ begin perform pg_advisory_xact_lock_shared(1); return new; end $$`)
	r.exec(`create trigger hold before insert on sluice.message for each row execute function hold_insert()`)
	lock, err := r.pool.Begin(t.Context())
	ok(t, err)
	t.Cleanup(func() { _ = lock.Rollback(context.Background()) }) // the test may have done so
	_, err = lock.Exec(t.Context(), `select pg_advisory_xact_lock(1)`)
	ok(t, err)
	return func() { ok(t, lock.Rollback(t.Context())) }
}

// holdHandOffs keeps both committers of the engine waiting for a lock. The first to go on takes with it all that
// gathered meanwhile.
func (r *rig) holdHandOffs(h *holding) (release func()) {
	t := r.t
	t.Helper()
	var ends []func()
	for _, body := range []string{"hold one", "hold two"} {
		id := r.accept("in", body)
		h.called(t, body, 1)
		lock, err := r.pool.Begin(t.Context())
		ok(t, err)
		t.Cleanup(func() { _ = lock.Rollback(context.Background()) }) // the test may have done so
		_, err = lock.Exec(t.Context(), `select from sluice.process where id = $1 for update`, id)
		ok(t, err)
		ends = append(ends, func() { ok(t, lock.Rollback(t.Context())) })
		h.answer(body, 1)
		r.wait(`select count(*) = $1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`, len(ends))
	}
	return func() {
		ends[0]()
		until(t, "hand-off", func() bool { return queue.Gathered(r.engine) == 0 })
		ends[1]()
	}
}

// A commit whose answer was lost is recognised: what it gave birth to is worked by the runner that claimed it, once and
// at once, and nobody's claim waits for its lease to run out.
func TestLostHandOffGoesOn(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, file, text string
		reply            func(worker.Request) (worker.Result, error)
		want             []string // calls: node, attempt, page
	}{
		{
			name: "births", file: line, text: "gone as (",
			want: []string{"a 1 0", "b 1 0"},
		},
		{
			name: "page", file: pages, text: "gone as (",
			reply: func(q worker.Request) (worker.Result, error) {
				result := passOn(q)
				if q.Page > 0 && q.Page < 3 {
					result.Cursor = "next"
				}
				return result, nil
			},
			want: []string{"b 1 0", "b 1 0", "b 1 0", "p 1 1", "p 1 2", "p 1 3"},
		},
		{
			name: "retry", file: point, text: "gone as (",
			reply: func(q worker.Request) (worker.Result, error) {
				if q.Attempt == 1 {
					return worker.Result{}, &worker.Failure{Class: worker.Transient, Reason: "not yet"}
				}
				return passOn(q), nil
			},
			want: []string{"a 1 0", "a 2 0"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			pool, w := openWired(t, pgtest.New(t))
			r := newRig(t, pool)
			r.publish(c.file)
			var calls record
			r.engine = newEngine(t, pool, queue.Config{Lease: time.Minute, Sweep: 100 * time.Millisecond, Caller: callerFunc(func(_ context.Context, q worker.Request) (worker.Result, error) {
				calls.add(fmt.Sprint(q.Node, " ", q.Attempt, " ", q.Page))
				if c.reply == nil {
					return passOn(q), nil
				}
				return c.reply(q)
			})})
			lost := w.cutSome(executed, c.text, 0, 2) // and once more
			id := r.accept("in", "x")
			r.finished(id)
			if lost.count() != 2 {
				t.Errorf("the line was cut %d times", lost.count())
			}
			if got := calls.sorted(); !slices.Equal(got, c.want) {
				t.Errorf("calls %q, want %q", got, c.want)
			}
			r.drained()
		})
	}
}

// record is what was said, by anyone.
type record struct {
	mu    sync.Mutex
	lines []string
}

func (r *record) add(line string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, line)
}

func (r *record) sorted() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Sorted(slices.Values(r.lines))
}

const pages = `
topology: flow
nodes:
  in: {kind: start, followers: [p]}
  p: {kind: batch, worker: demo, followers: [b]}
  b: {kind: custom, worker: demo}
`

// An event whose commit was executed and not heard of is accepted once, with a key and without one.
func TestLostAccept(t *testing.T) {
	t.Parallel()
	for _, key := range []string{"", "key"} {
		t.Run("key "+key, func(t *testing.T) {
			t.Parallel()
			pool, w := openWired(t, pgtest.New(t))
			r := newRig(t, pool)
			r.publish(point)
			r.engine = newEngine(t, pool, queue.Config{Caller: callerFunc(same)})
			lost := w.cut(executed, "ledger as (")
			e := queue.Event{Tenant: tenant, Topology: "flow", Node: "in", Key: key, Body: []byte("x")}
			a, err := r.engine.Accept(t.Context(), e)
			ok(t, err)
			if a.Duplicate || a.Version != 1 || lost.count() != 1 {
				t.Errorf("accepted %+v, line cut %d times", a, lost.count())
			}
			if key != "" {
				b, err := r.engine.Accept(t.Context(), e)
				ok(t, err)
				if !b.Duplicate || b.Process != a.Process {
					t.Errorf("accepted again as %+v, first as %+v", b, a)
				}
			}
			r.finished(a.Process)
			r.drained()
			if n := one[int](r, `select count(*)::int from sluice.process`); n != 1 {
				t.Errorf("%d processes", n)
			}
		})
	}
}

// The client has gone, but its statement still waits for a lock, and commits after the next try has looked for what it
// did. The event is accepted once, and its producer hears so.
func TestLateCommit(t *testing.T) {
	t.Parallel()
	for _, key := range []string{"", "key"} {
		t.Run("key "+key, func(t *testing.T) {
			t.Parallel()
			pool, w := openWired(t, pgtest.New(t))
			r := newRig(t, pool)
			r.publish(point)
			r.engine = newEngine(t, pool, queue.Config{Caller: callerFunc(same)})
			release := r.holdInserts()
			accepted := make(chan error, 1)
			go func() {
				_, err := r.engine.Accept(t.Context(), queue.Event{Tenant: tenant, Topology: "flow", Node: "in", Key: key, Body: []byte("x")})
				accepted <- err
			}()
			waiting := func(n int) func() bool {
				return func() bool {
					return one[int](r, `select count(*)::int from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock' and query like '%ledger as%'`) == n
				}
			}
			until(t, "first try", waiting(1))
			w.hangUp("ledger as (")
			until(t, "second try", waiting(2))
			release()
			if err := <-accepted; err != nil {
				t.Errorf("accept: %v", err)
			}
			r.drained()
			if n := one[int](r, `select count(*)::int from sluice.process`); n != 1 {
				t.Errorf("%d processes", n)
			}
		})
	}
}

// A node is frozen with calls under way until its lease is long over. Another does the work; when the frozen one wakes
// up, its results are refused, and it works on under a new name.
func TestFrozenNode(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := newRig(t, db.Pool())
	h := newHolding()
	server := httptest.NewServer(worker.Handler{Func: func(ctx context.Context, q *worker.Request) (worker.Reply, error) {
		if q.Attempt > 1 || strings.HasPrefix(string(q.Body), "after") {
			return passOn(*q).Reply, nil
		}
		result, err := h.call(ctx, *q)
		return result.Reply, err
	}})
	t.Cleanup(server.Close)
	r.moveWorker(server.URL)
	r.publish(point)
	frozen := startNode(t, db.URL, time.Second)
	const events = 20
	p := produce(t, events, frozen.addr)
	for i := range events {
		h.called(t, event(i), 1)
	}
	<-p.done
	ok(t, frozen.cmd.Process.Signal(syscall.SIGSTOP))
	stopped := time.Now()
	other := startNode(t, db.URL, time.Second)
	r.takenOver([]string{frozen.name}, stopped)
	t.Logf("taken over after %v", time.Since(stopped).Round(time.Millisecond))
	r.wait(`select count(*) = $1 from sluice.process where finished_at is not null`, events)
	for i := range events {
		h.answer(event(i), 1)
	}
	ok(t, frozen.cmd.Process.Signal(syscall.SIGCONT))
	until(t, "the frozen node's refused results", func() bool { return strings.Contains(frozen.log.String(), "claims were lost") })
	until(t, "the frozen node's new life", func() bool { return strings.Contains(frozen.log.String(), "starting anew") })
	r.wait(`select count(*) = 2 from sluice.runner where name = $1`, frozen.name)
	if n := one[int](r, `
		select count(*)::int from sluice.attempt a join sluice.runner u on u.id = a.runner_id
		where a.outcome = 'done' and a.attempt = 2 and u.name = $1`, other.name); n != events {
		t.Errorf("%d messages were done by the node that held their claims, want %d", n, events)
	}
	if n := one[int](r, `select count(*)::int from sluice.attempt`); n != events {
		t.Errorf("%d attempts recorded, want %d", n, events)
	}
	other.stop()
	for i := range events {
		r.postTo(frozen, fmt.Sprint("after ", i))
	}
	r.wait(`select count(*) = $1 from sluice.process where finished_at is not null`, 2*events)
	if n := one[int](r, `
		select count(distinct a.runner_id)::int from sluice.attempt a join sluice.runner u on u.id = a.runner_id
		where u.name = $1 and u.id > (select min(id) from sluice.runner where name = $1)`, frozen.name); n != 1 {
		t.Errorf("the woken node worked under %d new names, want 1", n)
	}
	r.drained()
}

// postTo sends an event to a node.
func (r *rig) postTo(n *node, body string) {
	r.t.Helper()
	resp, err := http.Post(n.addr, "text/plain", strings.NewReader(body))
	ok(r.t, err)
	resp.Body.Close()
	if resp.StatusCode != http.StatusAccepted {
		r.t.Fatalf("%s: %s", n.name, resp.Status)
	}
}

// Sessions of the engine are ended at random while events flow.
func TestSessionsEnded(t *testing.T) {
	t.Parallel()
	events := bySize(500, 10_000)
	db := pgtest.New(t)
	pool, err := queue.Open(t.Context(), db.URL, 12)
	ok(t, err)
	t.Cleanup(pool.Close)
	r, s := newRig(t, db.Pool()), newSink(t, stormFlow)
	r.moveWorker(s.url)
	r.publish(storm)
	r.engine = newEngine(t, pool, queue.Config{})
	want := stormEffects(t, events)
	var senders sync.WaitGroup
	for k := range 8 {
		senders.Go(func() {
			for i := k; i < events; i += 8 {
				r.insist(fmt.Sprint("key ", i), event(i))
			}
		})
	}
	ended := 0
	for s.count() < len(want) {
		ended += one[int](r, `
			select count(pg_terminate_backend(pid))::int from (
				select pid from pg_stat_activity
				where datname = current_database() and pid <> pg_backend_pid() and application_name = 'sluice engine'
				order by (state = 'active') desc, random() limit 1) victim`)
		time.Sleep(100 * time.Millisecond) //nolint:forbidigo // or nothing would ever be done
	}
	senders.Wait()
	t.Logf("%d sessions ended", ended)
	r.drained()
	s.prove(r, want)
}

// The database's machine goes and another takes its address: what was sent on the old connections is lost without a
// word, new connections work. The engine goes on within the time that it gives a statement, whichever it was.
func TestDeafConnections(t *testing.T) {
	if !*full {
		t.Skip("waits for time-outs; -sluice.full runs it")
	}
	t.Parallel()
	for _, c := range statements {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			pool, w := openWired(t, pgtest.New(t))
			r, s := newRig(t, pool), newSink(t, stormFlow)
			r.publish(storm)
			r.engine = newEngine(t, pool, queue.Config{Caller: callerFunc(s.call)})
			if c.with != "" {
				w.cutSome(executed, c.with, 0, 3)
			}
			gone := w.cut(deaf, c.text)
			const events = 50
			want := stormEffects(t, events)
			var senders sync.WaitGroup
			for i := range 2 * events {
				senders.Go(func() { r.insistFor(2*time.Minute, fmt.Sprint("key ", i/2), event(i/2)) })
			}
			began := time.Now()
			until(t, "silence", func() bool { return gone.count() > 0 })
			w.deafen()
			senders.Wait()
			progressIn(t, s, 1, len(want), time.Minute)
			t.Logf("all done %v after the connections went deaf", time.Since(began).Round(time.Second))
			r.drained()
			s.prove(r, want)
		})
	}
}

// An engine can be stopped while there is no database: what it could not commit is another runner's when its lease is over.
func TestStopWithoutDatabase(t *testing.T) {
	t.Parallel()
	pool, w := openWired(t, pgtest.New(t))
	r, h := newRig(t, pool), newHolding()
	r.publish(point)
	e, err := queue.New(t.Context(), pool, queue.Config{Caller: callerFunc(h.call), Lease: 2 * time.Second, Sweep: 100 * time.Millisecond})
	ok(t, err)
	ok(t, e.Start(t.Context()))
	r.engine = e
	id := r.accept("in", "x")
	h.called(t, "x", 1)
	outage := w.cutSome(unsent, "", 0, 1<<30)
	h.answer("x", 1)
	until(t, "a hand-off that fails", func() bool { return outage.count() > 3 })
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	stopped := make(chan error, 1)
	began := time.Now()
	go func() { stopped <- e.Stop(ctx) }()
	select {
	case err := <-stopped:
		t.Logf("stopped after %v: %v", time.Since(began).Round(time.Millisecond), err)
		if err == nil {
			t.Error("stopped without an error, though the result is not committed")
		}
	case <-time.After(patience):
		t.Errorf("not stopped %v after its time was over", patience)
	}
	outage.stop()
	r.engine = newEngine(t, pool, queue.Config{Caller: callerFunc(same)})
	r.finished(id)
	r.drained()
}

// Whoever sends an event while the engine stops has an answer, and what was accepted is stored.
func TestStopAnswersAll(t *testing.T) {
	t.Parallel()
	r := newRig(t, pgtest.New(t).Pool())
	r.publish(point)
	accepted := 0
	for range 5 {
		e, err := queue.New(t.Context(), r.pool, queue.Config{Caller: callerFunc(same)})
		ok(t, err)
		ok(t, e.Start(t.Context()))
		var senders sync.WaitGroup
		var sent atomic.Int64
		for range 50 {
			senders.Go(func() {
				for {
					if _, err := e.Accept(context.WithoutCancel(t.Context()), queue.Event{Tenant: tenant, Topology: "flow", Node: "in", Body: []byte("x")}); err != nil {
						return
					}
					sent.Add(1)
				}
			})
		}
		until(t, "events", func() bool { return sent.Load() > 200 })
		ok(t, e.Stop(t.Context()))
		answered := make(chan struct{})
		go func() { senders.Wait(); close(answered) }()
		select {
		case <-answered:
		case <-time.After(patience):
			t.Fatal("some wait for an answer for ever")
		}
		accepted += int(sent.Load())
	}
	if n := one[int](r, `select count(*)::int from sluice.process`); n != accepted {
		t.Errorf("%d events stored, %d accepted", n, accepted)
	}
	r.engine = newEngine(t, r.pool, queue.Config{Caller: callerFunc(same)})
	r.drained()
}
