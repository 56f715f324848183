package queue_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"sluice/migrations/pgtest"
	"sluice/queue"
	"sluice/queue/process"
	"sluice/queue/worker"
)

// orderly is a worker that watches the order of calls: by node and key, a message is called only after all before it
// have succeeded. A body is KEY N, and per key they come as 1, 2, 3...
type orderly struct {
	t     *testing.T
	fails int // share of the calls that fail, of 100
	takes func() time.Duration
	loose map[string]bool // nodes to which messages come in any order

	mu         sync.Mutex
	done       map[string]int // by node and key: the last that succeeded
	busy       map[string]int // by node: calls under way
	most       map[string]int
	calls      int
	inversions int
	repeats    int
}

func newOrderly(t *testing.T, fails int) *orderly {
	return &orderly{t: t, fails: fails, done: map[string]int{}, busy: map[string]int{}, most: map[string]int{}, loose: map[string]bool{"five": true}}
}

func (o *orderly) Call(_ context.Context, _ worker.Target, r worker.Request) (worker.Result, error) {
	key, number, _ := strings.Cut(string(r.Body), " ")
	n, _ := strconv.Atoi(number)
	lane := r.Node + " " + key
	o.mu.Lock()
	o.calls++
	o.busy[r.Node]++
	o.most[r.Node] = max(o.most[r.Node], o.busy[r.Node])
	switch last := o.done[lane]; {
	case o.loose[r.Node]:
	case n > last+1:
		o.inversions++
		o.t.Errorf("at %s, %s %d was called when %d was the last to succeed", r.Node, key, n, last)
	case n <= last:
		o.repeats++
	}
	o.mu.Unlock()
	if o.takes != nil {
		time.Sleep(o.takes()) //nolint:forbidigo // a worker's work
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.busy[r.Node]--
	if rand.IntN(100) < o.fails {
		return worker.Result{Status: 500}, &worker.Failure{Class: worker.Transient, Status: 500, Reason: "not now"}
	}
	o.done[lane] = max(o.done[lane], n)
	return passOn(r), nil
}

// work is the worker behind HTTP.
func (o *orderly) work(ctx context.Context, r *worker.Request) (worker.Reply, error) {
	result, err := o.Call(ctx, worker.Target{}, *r)
	return result.Reply, err
}

// feed posts n events of each key, in order by key.
func (r *rig) feed(keys, n int) {
	r.t.Helper()
	for i := range n {
		events := make([]queue.Event, keys)
		for k := range events {
			events[k] = queue.Event{
				Tenant: tenant, Topology: "flow", Node: "in", Headers: map[string]string{"customer": fmt.Sprint("k", k)},
				Body: fmt.Appendf(nil, "k%d %d", k, i+1),
			}
		}
		_, errs := r.engine.AcceptMany(r.t.Context(), events)
		for _, err := range errs {
			ok(r.t, err)
		}
	}
}

const ordered = `
topology: flow
nodes:
  in: {kind: start, followers: [a]}
  a: {kind: custom, worker: demo, followers: [b], order_by: customer, retry: {attempts: 30, initial: 5ms, max: 20ms}}
  b: {kind: custom, worker: demo, order_by: customer, retry: {attempts: 30, initial: 5ms, max: 20ms}}
`

// The messages of a key are worked in order at both nodes, whatever fails.
func TestOrderByKey(t *testing.T) {
	t.Parallel()
	o := newOrderly(t, 20)
	r := newRig(t, pgtest.New(t).Pool())
	r.engine = newEngine(t, r.pool, queue.Config{Caller: o})
	r.publish(ordered)
	keys, n := bySize(50, 1000), bySize(20, 1000)
	start := time.Now()
	r.feed(keys, n)
	drainedIn(t, r, time.Duration(bySize(20, 1200))*time.Second)
	r.drained()
	t.Logf("%d keys x %d: %d calls in %v, %d inversions, %d repeats", keys, n, o.calls, time.Since(start), o.inversions, o.repeats)
	for k := range keys {
		for _, node := range []string{"a", "b"} {
			if got := o.done[fmt.Sprintf("%s k%d", node, k)]; got != n {
				t.Errorf("%s k%d: %d succeeded, want %d", node, k, got, n)
			}
		}
	}
}

// A node's concurrency holds over all runners together, whatever dies.
func TestConcurrencyOverRunners(t *testing.T) {
	t.Parallel()
	o := newOrderly(t, 10)
	o.takes = func() time.Duration { return time.Duration(rand.IntN(4)) * time.Millisecond }
	r := newRig(t, pgtest.New(t).Pool())
	r.engine = newEngine(t, r.pool, queue.Config{Caller: o})
	newEngine(t, r.pool, queue.Config{Caller: o})
	newEngine(t, r.pool, queue.Config{Caller: o})
	r.publish(`
topology: flow
nodes:
  in: {kind: start, followers: [five, one, keyed]}
  five: {kind: custom, worker: demo, concurrency: 5, retry: {attempts: 30, initial: 5ms, max: 20ms}}
  one: {kind: custom, worker: demo, concurrency: 1, retry: {attempts: 30, initial: 5ms, max: 20ms}}
  keyed: {kind: custom, worker: demo, order_by: customer, concurrency: 3, retry: {attempts: 30, initial: 5ms, max: 20ms}}
`)
	// Each event is the next of its key at all three nodes; five keeps no order.
	n := bySize(300, 3000)
	for i := range n {
		_, err := r.engine.Accept(t.Context(), queue.Event{
			Tenant: tenant, Topology: "flow", Node: "in", Headers: map[string]string{"customer": fmt.Sprint(i % 7)},
			Body: fmt.Appendf(nil, "k%d %d", i%7, 1+i/7),
		})
		ok(t, err)
	}
	r.drained()
	t.Logf("%d events, %d calls, most at once: %v", n, o.calls, o.most)
	for node, most := range map[string]int{"five": 5, "one": 1, "keyed": 3} {
		if o.most[node] > most || o.most[node] == 0 {
			t.Errorf("%d calls of %s at once, want %d at most", o.most[node], node, most)
		}
	}
}

// laned is a topology whose node works one message after the other.
const laned = `
topology: flow
nodes:
  in: {kind: start, followers: [a]}
  a: {kind: custom, worker: demo, concurrency: 1, retry: {attempts: 2, initial: 5ms, max: 5ms}}
`

// What people do to messages in a lane keeps the lane going: it is terminated from the head, the middle and as it is
// called; what failed comes back to the end; the topology is emptied.
func TestLaneIsTouched(t *testing.T) {
	t.Parallel()
	gate := make(chan struct{})
	var mu sync.Mutex
	var got []string
	var atTheGate atomic.Int32
	broken := true
	r := start(t, laned, func(ctx context.Context, q worker.Request) (worker.Result, error) {
		body := string(q.Body)
		if body == "gate" {
			atTheGate.Add(1)
			select {
			case <-gate:
			case <-ctx.Done():
			}
		}
		mu.Lock()
		defer mu.Unlock()
		if body == "fail" && broken {
			return worker.Result{}, &worker.Failure{Class: worker.Rejected, Reason: "no"}
		}
		got = append(got, body)
		return passOn(q), nil
	})
	ended := func(id uuid.UUID) {
		t.Helper()
		_, err := queue.Terminate(t.Context(), func(_ context.Context, do func(pgx.Tx) error) error { return r.begin(do) }, id, tenant, "ann", "")
		ok(t, err)
	}
	atGate := r.accept("in", "gate")
	until(t, "a call", func() bool { return atTheGate.Load() == 1 }) // so what comes now is not read together with it
	one := r.accept("in", "1")
	failing := r.accept("in", "fail")
	two := r.accept("in", "2")
	three := r.accept("in", "3")
	r.clean()
	messages, err := process.Messages(t.Context(), r.pool, tenant, one, 0, 5)
	ok(t, err)
	if len(messages) != 1 || messages[0].Place != process.PlaceWaiting {
		t.Errorf("behind the gate: %+v", messages)
	}
	if messages, err = process.Messages(t.Context(), r.pool, tenant, atGate, 0, 5); err != nil || messages[0].Place != process.PlaceRunning {
		t.Errorf("at the gate: %+v, %v", messages, err)
	}
	held, err := queue.HeldBy(t.Context(), r.pool, tenant, "flow", 0)
	if want := (queue.Held{Waiting: 4, Running: 1}); err != nil || held != want {
		t.Errorf("held %+v, %v, want %+v", held, err, want)
	}
	ended(two)
	ended(atGate) // while it is called: what it returns is not wanted
	close(gate)
	r.wait(`select exists (select from sluice.trash where lane_key = '')`)
	r.finished(three)
	r.drained()
	broken = false
	resend(t, r, failing)
	r.finished(failing)
	r.drained()
	mu.Lock()
	if order := fmt.Sprint(got); order != "[gate 1 3 fail]" {
		t.Errorf("worked %s", order)
	}
	mu.Unlock()

	gate = make(chan struct{})
	held = queue.Held{}
	for range 5 {
		r.accept("in", "gate")
	}
	until(t, "another call", func() bool { return atTheGate.Load() == 2 })
	ok(t, r.begin(func(tx tx) error {
		held, err = queue.Delete(t.Context(), tx, tenant, "flow", 0, queue.Trash, "ann")
		return err
	}))
	if n := one64(r, `select count(*) from sluice.trash`); n != 4 || held.Total() != 5 {
		t.Errorf("%d in the trash, %+v held", n, held)
	}
	close(gate)
	r.drained()
}

func one64(r *rig, sql string) int64 { return one[int64](r, sql) }

// resend approves what a process has in the trash.
func resend(t *testing.T, r *rig, id uuid.UUID) {
	t.Helper()
	number := one[int64](r, `select message_id from sluice.trash where process_id = $1`, id)
	var queues []string
	ok(t, r.begin(func(tx tx) (err error) {
		_, queues, err = r.engine.Resend(t.Context(), tx, tenant, queue.Resending{Messages: []process.MessageID{{Process: id, Number: number}}, By: "ann", Reason: ""})
		return err
	}))
	r.engine.Woke(t.Context(), queues)
}

// A batch before which order is kept turns its pages before the next message is called, and goes on at its page after it
// was in the trash.
func TestBatchInLane(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var got []string
	var failed bool
	r := start(t, `
topology: flow
nodes:
  in: {kind: start, followers: [a]}
  a: {kind: batch, worker: demo, concurrency: 1, followers: [b], retry: {attempts: 3, initial: 5ms, max: 5ms}}
  b: {kind: custom, worker: demo}
`, func(_ context.Context, q worker.Request) (worker.Result, error) {
		if q.Node == "b" {
			return passOn(q), nil
		}
		mu.Lock()
		defer mu.Unlock()
		if string(q.Body) == "1" && q.Page == 3 && !failed {
			failed = true
			return worker.Result{}, &worker.Failure{Class: worker.Rejected, Reason: "no"}
		}
		got = append(got, fmt.Sprintf("%s/%d%s", q.Body, q.Page, q.Cursor))
		result := passOn(q)
		if q.Page < 4 {
			result.Cursor = fmt.Sprint("-", q.Page+1)
		}
		return result, nil
	})
	first := r.accept("in", "1")
	r.wait(`select exists (select from sluice.trash)`)
	second := r.accept("in", "2")
	r.finished(second)
	resend(t, r, first)
	r.finished(first)
	r.drained()
	if order := fmt.Sprint(got); order != "[1/1 1/2-2 2/1 2/2-2 2/3-3 2/4-4 1/3-3 1/4-4]" {
		t.Errorf("pages %s", order)
	}
}

// River's client sees a lane as one job. A queue that it pauses stands still; a token that it cancels or deletes comes
// back; what it inserts waits its turn.
func TestLaneAndRiver(t *testing.T) {
	t.Parallel()
	o := newOrderly(t, 0)
	r := newRig(t, pgtest.New(t).Pool())
	r.engine = newEngine(t, r.pool, queue.Config{Caller: o})
	r.publish(laned)
	r.exec(`update river.river_queue set paused_at = now() where name = 'e1'`)
	until(t, "the pause", func() bool { return queue.Paused(r.engine, "e1") })
	for i := range 5 {
		r.accept("in", fmt.Sprint("k ", i+1))
	}
	if n := one64(r, `select count(*) from river.river_job where kind in ('lane', 'message')`); n != 1 {
		t.Errorf("%d jobs, want the token", n)
	}
	r.exec(`update river.river_job set state = 'cancelled', finalized_at = now() where kind = 'lane'`)
	r.wait(`select exists (select from river.river_job where kind = 'lane' and state = 'available')`)
	r.exec(`insert into river.river_job (args, kind, max_attempts, queue) values ('{"order": 1}', 'order', 5, 'e1')`)
	r.exec(`delete from river.river_job where kind = 'lane'`)
	r.exec(queue.RestoreTokensSQL)
	r.exec(`update river.river_queue set paused_at = null where name = 'e1'`)
	r.drained()
	if o.done["a k"] != 5 || o.calls != 6 {
		t.Errorf("%d calls, %v", o.calls, o.done)
	}
}
