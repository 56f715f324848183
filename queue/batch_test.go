package queue_test

import (
	"context"
	"fmt"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"sluice/migrations/pgtest"
	"sluice/queue"
	"sluice/queue/process"
	"sluice/queue/worker"
)

// pager is a batch worker with five pages, the third and the last of which are empty. It notes each call: page, attempt,
// cursor and idempotency key.
type pager struct {
	record
	before func(worker.Request) error // what to do before a page is given
}

func (p *pager) call(_ context.Context, q worker.Request) (worker.Result, error) {
	if q.Node != "p" {
		p.add("b " + string(q.Body))
		return passOn(q), nil
	}
	_, key, _ := strings.Cut(q.IdempotencyKey(), q.MessageID)
	p.add(fmt.Sprintf("p page %d attempt %d cursor %q key %q", q.Page, q.Attempt, q.Cursor, key))
	if p.before != nil {
		if err := p.before(q); err != nil {
			return worker.Result{}, err
		}
	}
	reply := worker.Send(worker.Message{Body: fmt.Appendf(nil, "%d.1", q.Page)}, worker.Message{Body: fmt.Appendf(nil, "%d.2", q.Page)})
	if q.Page == 3 || q.Page == 5 {
		reply = worker.Send()
	}
	if q.Page < 5 {
		reply.Cursor = fmt.Sprint("after ", q.Page)
	}
	return worker.Result{Reply: reply, Status: 200}, nil
}

// paged is the calls of a pager without any trouble, but for the attempts.
func paged(attempts ...int) []string {
	want := []string{"b 1.1", "b 1.2", "b 2.1", "b 2.2", "b 4.1", "b 4.2"}
	for i, attempt := range attempts {
		cursor, key := fmt.Sprint("after ", i), fmt.Sprint("-p", i+1)
		if i == 0 {
			cursor, key = "", ""
		}
		want = append(want, fmt.Sprintf("p page %d attempt %d cursor %q key %q", i+1, attempt, cursor, key))
	}
	return want
}

func (p *pager) prove(t *testing.T, want []string) {
	t.Helper()
	if got := p.sorted(); !slices.Equal(got, want) {
		t.Errorf("calls\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// A batch gives page after page, empty ones too, each under a key of its own.
func TestBatch(t *testing.T) {
	t.Parallel()
	var p pager
	r := start(t, pages, p.call)
	r.finished(r.accept("in", "go"))
	r.drained()
	p.prove(t, paged(1, 1, 1, 1, 1))
	if got := one[[]string](r, `select array_agg(outcome || ' ' || page order by page) from sluice.attempt where page > 0`); !slices.Equal(got, []string{"page 1", "page 2", "page 3", "page 4", "done 5"}) {
		t.Errorf("attempts %q", got)
	}
	if n := one[int](r, `select count(*)::int from sluice.batch_cursor`); n != 0 {
		t.Errorf("%d cursors left", n)
	}
}

// A page that fails is tried again, with the cursor of the page before; each page has all attempts of the node.
func TestBatchPageFails(t *testing.T) {
	t.Parallel()
	failed := map[int]int{}
	var mu sync.Mutex
	p := pager{before: func(q worker.Request) error {
		mu.Lock()
		defer mu.Unlock()
		if failed[q.Page]++; failed[q.Page] < 3 && q.Page%2 == 0 {
			return &worker.Failure{Class: worker.Transient, Reason: "not yet"}
		}
		return nil
	}}
	r := start(t, strings.Replace(pages, "batch, worker: demo", "batch, worker: demo, retry: {attempts: 3, initial: 20ms}", 1), p.call)
	r.finished(r.accept("in", "go"))
	r.drained()
	p.prove(t, slices.Sorted(slices.Values(append(paged(1, 3, 3, 5, 5),
		`p page 2 attempt 1 cursor "after 1" key "-p2"`, `p page 2 attempt 2 cursor "after 1" key "-p2"`,
		`p page 4 attempt 3 cursor "after 3" key "-p4"`, `p page 4 attempt 4 cursor "after 3" key "-p4"`))))
}

// A page that gives up is in the trash. Approved, the batch goes on with that page.
func TestBatchApproved(t *testing.T) {
	t.Parallel()
	var mended sync.Once
	p := pager{}
	p.before = func(q worker.Request) (err error) {
		if q.Page == 4 {
			mended.Do(func() { err = &worker.Failure{Class: worker.Rejected, Reason: "no"} })
		}
		return err
	}
	r := start(t, pages, p.call)
	id := r.accept("in", "go")
	r.wait(`select trashed = 1 and open = 0 from sluice.process where id = $1`, id)
	r.clean()
	failed := process.MessageID{Process: id, Number: one[int64](r, `select message_id from sluice.trash`)}
	r.resend(failed)
	r.finished(id)
	r.drained()
	p.prove(t, slices.Sorted(slices.Values(append(paged(1, 1, 1, 2, 2), `p page 4 attempt 1 cursor "after 3" key "-p4"`))))
}

// resend approves a message of the trash.
func (r *rig) resend(id process.MessageID) {
	r.t.Helper()
	var queues []string
	ok(r.t, r.begin(func(tx pgx.Tx) (err error) {
		_, queues, err = r.engine.Resend(r.t.Context(), tx, tenant, queue.Resending{Messages: []process.MessageID{id}, By: "ann", Reason: ""})
		return err
	}))
	r.engine.Woke(r.t.Context(), queues)
}

// A node is killed in the middle of a batch. Another goes on with the page after the last one that was committed.
func TestBatchKill(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := newRig(t, db.Pool())
	reached := make(chan struct{})
	p := pager{before: func(q worker.Request) error {
		if q.Page == 3 && q.Attempt == 1 {
			close(reached)
			return &worker.Failure{Class: worker.Transient, Reason: "nobody hears this"}
		}
		return nil
	}}
	dead := make(chan *node, 1)
	server := httptest.NewServer(worker.Handler{Func: func(ctx context.Context, q *worker.Request) (worker.Reply, error) {
		result, err := p.call(ctx, *q)
		if q.Page == 3 && q.Attempt == 1 {
			n := <-dead
			<-n.waited // the answer comes too late
		}
		return result.Reply, err
	}})
	t.Cleanup(server.Close)
	r.moveWorker(server.URL)
	r.publish(pages)
	first := startNode(t, db.URL, time.Second)
	r.postTo(first, "go")
	<-reached
	r.wait(`select count(*) = 4 from sluice.attempt where outcome = 'done'`) // or their calls would be repeated, too
	first.kill()
	dead <- first
	startNode(t, db.URL, time.Second)
	r.wait(`select count(*) = 1 from sluice.process where finished_at is not null`)
	r.drained()
	p.prove(t, slices.Sorted(slices.Values(append(paged(1, 1, 2, 2, 2), `p page 3 attempt 1 cursor "after 2" key "-p3"`))))
}

const fork = `
topology: flow
nodes:
  in: {kind: start, followers: [a]}
  a: {kind: custom, worker: demo, followers: [b, c]}
  b: {kind: custom, worker: demo}
  c: {kind: custom, worker: demo}
`

// What a worker can say, and what comes of it.
func TestReplies(t *testing.T) {
	t.Parallel()
	text := func(body string, followers ...string) worker.Message {
		return worker.Message{Body: []byte(body), Followers: followers}
	}
	many := make([]worker.Message, 1000)
	for i := range many {
		many[i] = text("m", "b")
	}
	for _, c := range []struct {
		name   string
		reply  worker.Reply
		nodes  map[string]int // messages by node
		reason string         // in the trash
	}{
		{name: "all followers", reply: worker.Send(text("x")), nodes: map[string]int{"a": 1, "b": 1, "c": 1}},
		{name: "one follower", reply: worker.Send(text("x", "c")), nodes: map[string]int{"a": 1, "c": 1}},
		{name: "a follower twice", reply: worker.Send(text("x", "c", "c")), nodes: map[string]int{"a": 1, "c": 1}},
		{name: "split", reply: worker.Send(text("1", "b"), text("2", "b", "c"), text("3")), nodes: map[string]int{"a": 1, "b": 3, "c": 2}},
		{name: "a thousand", reply: worker.Send(many...), nodes: map[string]int{"a": 1, "b": 1000}},
		{name: "filter", reply: worker.Reply{Verdict: worker.Stop, Reason: "old"}, nodes: map[string]int{"a": 1}},
		{name: "unknown follower", reply: worker.Send(text("x"), text("y", "d")), nodes: map[string]int{"a": 1},
			reason: `worker demo sent a message to "d", which is no follower of node a (followers: [b c])`},
		{name: "itself", reply: worker.Send(text("x", "a")), nodes: map[string]int{"a": 1},
			reason: `worker demo sent a message to "a", which is no follower of node a (followers: [b c])`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := start(t, fork, func(_ context.Context, q worker.Request) (worker.Result, error) {
				if q.Node == "a" {
					return worker.Result{Reply: c.reply, Status: 200}, nil
				}
				return passOn(q), nil
			})
			r.accept("in", "x")
			r.drained()
			nodes := map[string]int{}
			rows, err := r.pool.Query(t.Context(), `
				select e.to_node, count(*) from sluice.message m join sluice.edge e on e.id = m.edge_id group by e.to_node`)
			ok(t, err)
			var node string
			var n int
			_, err = pgx.ForEachRow(rows, []any{&node, &n}, func() error { nodes[node] = n; return nil })
			ok(t, err)
			if fmt.Sprint(nodes) != fmt.Sprint(c.nodes) {
				t.Errorf("messages by node %v, want %v", nodes, c.nodes)
			}
			if reason := one[string](r, `select coalesce(string_agg(reason, '; '), '') from sluice.trash`); reason != c.reason {
				t.Errorf("in the trash because %q, want %q", reason, c.reason)
			}
		})
	}
}

// A worker that asks to be called again later is, as often as it asks, and that uses up no attempt.
func TestRepeat(t *testing.T) {
	t.Parallel()
	var calls calls
	r := start(t, strings.Replace(point, "worker: demo", "worker: demo, retry: {attempts: 2, initial: 10ms}", 1), func(_ context.Context, q worker.Request) (worker.Result, error) {
		switch calls.add() {
		case 1, 3, 4:
			return worker.Result{Reply: worker.Reply{Verdict: worker.Repeat, After: 300 * time.Millisecond, Reason: "not ready"}, Status: 200}, nil
		case 2:
			return worker.Result{}, &worker.Failure{Class: worker.Transient, Reason: "oops"}
		}
		return passOn(q), nil
	})
	r.finished(r.accept("in", "x"))
	r.drained()
	for i, gap := range calls.gaps() {
		if i != 1 && gap < 300*time.Millisecond {
			t.Errorf("called again after %v", gap)
		}
	}
	if got := one[[]string](r, `select array_agg(outcome::text order by attempt) from sluice.attempt`); !slices.Equal(got, []string{"repeat", "retried", "repeat", "repeat", "done"}) {
		t.Errorf("attempts %q", got)
	}
}

// A runner that stops in the middle of a batch gives it back; the next goes on with the next page.
func TestBatchStop(t *testing.T) {
	t.Parallel()
	p := pager{}
	r := newRig(t, pgtest.New(t).Pool())
	r.publish(pages)
	stopping := make(chan struct{})
	p.before = func(q worker.Request) error {
		if q.Page == 2 {
			<-stopping
		}
		return nil
	}
	e, err := queue.New(t.Context(), r.pool, queue.Config{Caller: callerFunc(p.call), Lease: time.Minute})
	ok(t, err)
	ok(t, e.Start(t.Context()))
	r.engine = e
	id := r.accept("in", "go")
	until(t, "second page", func() bool {
		return slices.ContainsFunc(p.sorted(), func(s string) bool { return strings.HasPrefix(s, "p page 2") })
	})
	stopped := make(chan error, 1)
	go func() { stopped <- e.Stop(t.Context()) }()
	until(t, "stopping", func() bool { return queue.Stopping(e) })
	close(stopping)
	ok(t, <-stopped)
	r.wait(`select count(*) = 1 from sluice.batch_cursor where page = 3`)
	r.engine = newEngine(t, r.pool, queue.Config{Caller: callerFunc(p.call)})
	r.finished(id)
	r.drained()
	p.prove(t, paged(1, 1, 2, 2, 2))
}

// A process may have tens of thousands of messages; to claim one does not take longer then.
func TestLargeProcess(t *testing.T) {
	t.Parallel()
	many := make([]worker.Message, 10_000)
	for i := range many {
		many[i] = worker.Message{Body: []byte("x")}
	}
	r := start(t, `
topology: flow
nodes:
  in: {kind: start, followers: [a]}
  a: {kind: custom, worker: demo, followers: [b, c, d]}
  b: {kind: custom, worker: demo}
  c: {kind: custom, worker: demo}
  d: {kind: custom, worker: demo}
`, func(_ context.Context, q worker.Request) (worker.Result, error) {
		if q.Node == "a" {
			return worker.Result{Reply: worker.Send(many...), Status: 200}, nil
		}
		return passOn(q), nil
	})
	began := time.Now()
	r.finished(r.accept("in", "x"))
	t.Logf("30,001 messages of one process in %v", time.Since(began).Round(time.Millisecond))
	r.drained()
}

// A message is failed that a worker makes so many of that they might never be committed.
func TestTooManySuccessors(t *testing.T) {
	t.Parallel()
	const followers = 21
	names := make([]string, followers)
	var nodes strings.Builder
	for i := range names {
		names[i] = fmt.Sprint("n", i)
		fmt.Fprintf(&nodes, "  n%d: {kind: custom, worker: demo}\n", i)
	}
	r := start(t, fmt.Sprintf("topology: flow\nnodes:\n  in: {kind: start, followers: [a]}\n  a: {kind: custom, worker: demo, followers: [%s]}\n%s",
		strings.Join(names, ", "), nodes.String()), func(_ context.Context, q worker.Request) (worker.Result, error) {
		many := make([]worker.Message, 10_000)
		for i := range many {
			many[i] = worker.Message{SameBody: true}
		}
		return worker.Result{Reply: worker.Send(many...), Status: 200}, nil
	})
	id := r.accept("in", "x")
	r.wait(`select trashed = 1 and total = 1 from sluice.process where id = $1`, id)
	if got, want := one[string](r, `select reason from sluice.trash`), "worker demo made more than 200000 messages of one, counted by follower"; got != want {
		t.Errorf("in the trash because %q, want %q", got, want)
	}
	r.drained()
}
