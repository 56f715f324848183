package queue_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"sluice/migrations/pgtest"
	"sluice/queue"
	"sluice/queue/worker"
)

// A topology whose worker hangs at all of its many nodes leaves slots for the others.
func TestHangingTopologyLeavesSlots(t *testing.T) {
	t.Parallel()
	const slots = 50
	held := make(chan struct{})
	var hanging atomic.Int64
	r := newRig(t, pgtest.New(t).Pool())
	r.engine = newEngine(t, r.pool, queue.Config{Slots: slots, NodeSlots: 10, Caller: callerFunc(func(ctx context.Context, q worker.Request) (worker.Result, error) {
		if q.Topology == "greedy" {
			hanging.Add(1)
			select {
			case <-held:
			case <-ctx.Done():
			}
		}
		return passOn(q), nil
	})})
	var greedy strings.Builder
	var names []string
	for i := range 10 {
		names = append(names, fmt.Sprint("n", i))
		fmt.Fprintf(&greedy, "  n%d: {kind: custom, worker: demo, timeout: 1m}\n", i)
	}
	r.publish("topology: greedy\nnodes:\n  in: {kind: start, followers: [" + strings.Join(names, ", ") + "]}\n" + greedy.String())
	r.publish(line)
	for range 20 {
		_, err := r.engine.Accept(t.Context(), queue.Event{Tenant: tenant, Topology: "greedy", Node: "in", Body: []byte("x")})
		ok(t, err)
	}
	until(t, "the greedy one has what it gets", func() bool { return hanging.Load() >= slots*3/5 })
	start := time.Now()
	for range 20 {
		r.finished(r.accept("in", "y"))
	}
	t.Logf("beside %d hanging calls of %d slots, 20 events took %v", hanging.Load(), slots, time.Since(start))
	if n := hanging.Load(); n > slots*4/5 {
		t.Errorf("%d calls of one topology, want at most %d of %d slots", n, slots*4/5, slots)
	}
	close(held)
	r.drained()
}

// A node of which every call fails is slowed down, so that it does not take from others what they could use; it flows as
// soon as it succeeds.
func TestFailingNodeIsHeldBack(t *testing.T) {
	t.Parallel()
	var broken atomic.Bool
	var failed atomic.Int64
	broken.Store(true)
	r := start(t, strings.Replace(line, "attempts: 3, initial: 20ms, max: 50ms", "attempts: 1000, initial: 1ms, max: 1ms", 1), func(_ context.Context, q worker.Request) (worker.Result, error) {
		if q.Node == "a" && broken.Load() {
			failed.Add(1)
			return worker.Result{}, &worker.Failure{Class: worker.Transient, Status: 500, Reason: "broken"}
		}
		return passOn(q), nil
	})
	r.acceptMany(500, func(i int) string { return fmt.Sprint(i) })
	until(t, "failures", func() bool { return failed.Load() > 150 })
	before, since := failed.Load(), time.Now()
	until(t, "more failures", func() bool { return failed.Load() > before+100 })
	rate := float64(failed.Load()-before) / time.Since(since).Seconds()
	t.Logf("%.0f failing calls a second", rate)
	if rate > 300 {
		t.Errorf("%.0f failing calls a second, want about a hundred", rate)
	}
	broken.Store(false)
	r.drained()
}
