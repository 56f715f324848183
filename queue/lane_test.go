package queue_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"sluice/migrations/pgtest"
	"sluice/queue"
	"sluice/queue/worker"
)

// orderly is a worker that watches the order of calls: by node and key, a message is called only after all before it
// have succeeded. A body is KEY N, and per key they come as 1, 2, 3...
type orderly struct {
	t     *testing.T
	fails int // share of the calls that fail, of 100
	takes func() time.Duration

	mu         sync.Mutex
	done       map[string]int // by node and key: the last that succeeded
	busy       map[string]int // by node: calls under way
	most       map[string]int
	calls      int
	inversions int
	repeats    int
}

func newOrderly(t *testing.T, fails int) *orderly {
	return &orderly{t: t, fails: fails, done: map[string]int{}, busy: map[string]int{}, most: map[string]int{}}
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
	case r.Node == "five": // keeps no order
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
