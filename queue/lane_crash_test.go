package queue_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http/httptest"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"sluice/migrations/pgtest"
	"sluice/queue"
	"sluice/queue/worker"
)

// Nodes are killed and frozen beyond their lease while events of many keys flow through two nodes that keep order and one
// that does not; a fifth of the calls fail. The messages of a key are called in order, each until it has succeeded; the
// node with a limit is never called more often at once, but for the calls of a node that was frozen.
func TestOrderUnderFire(t *testing.T) {
	t.Parallel()
	faults, keys := bySize(4, 40), bySize(40, 300)
	db := pgtest.New(t)
	pool, err := queue.Open(t.Context(), db.URL, 12)
	ok(t, err)
	t.Cleanup(pool.Close)
	r := newRig(t, pool)
	o := newOrderly(t, 20)
	o.takes = func() time.Duration { return time.Duration(rand.IntN(8)) * time.Millisecond }
	server := httptest.NewServer(worker.Handler{Func: o.work})
	t.Cleanup(server.Close)
	r.moveWorker(server.URL)
	r.publish(`
topology: flow
entities: {customer: Customer}
nodes:
  in: {kind: start, followers: [a]}
  a: {kind: custom, worker: demo, order_by: customer, followers: [five], retry: {attempts: 1000, initial: 5ms, max: 20ms}}
  five: {kind: custom, worker: demo, concurrency: 5, followers: [b], retry: {attempts: 1000, initial: 5ms, max: 20ms}}
  b: {kind: custom, worker: demo, order_by: customer, retry: {attempts: 1000, initial: 5ms, max: 20ms}}
`)
	o.loose["b"] = true // as five keeps no order, b can only keep the order in which they come to it
	gateway, err := queue.New(t.Context(), pool, queue.Config{})
	ok(t, err)
	t.Cleanup(func() { ok(t, gateway.Stop(context.Background())) })
	r.engine = nil // its nodes are other processes

	const lease = 2 * time.Second
	running := []*node{startNode(t, db.URL, lease), startNode(t, db.URL, lease), startNode(t, db.URL, lease)}
	var rounds atomic.Int64
	ctx, stop := context.WithCancel(t.Context())
	fed := make(chan struct{})
	go func() {
		defer close(fed)
		for n := 1; ctx.Err() == nil; n++ {
			events := make([]queue.Event, keys)
			for k := range events {
				events[k] = queue.Event{Tenant: tenant, Topology: "flow", Node: "in", Headers: map[string]string{"customer": fmt.Sprint("k", k)}, Body: fmt.Appendf(nil, "k%d %d", k, n)}
			}
			_, errs := gateway.AcceptMany(context.WithoutCancel(ctx), events)
			for _, err := range errs {
				if err != nil {
					t.Error(err)
				}
			}
			rounds.Store(int64(n))
			pauseBetween(ctx, 150*time.Millisecond)
		}
	}()
	for i := range faults {
		time.Sleep(200*time.Millisecond + rand.N(time.Second)) //nolint:forbidigo // when the fault comes is up to chance
		victim := rand.IntN(len(running))
		if i%3 == 2 { // frozen for longer than its lease, and woken with calls that are somebody else's by now
			ok(t, running[victim].cmd.Process.Signal(syscall.SIGSTOP))
			time.Sleep(2 * lease) //nolint:forbidigo // the length of the freeze
			ok(t, running[victim].cmd.Process.Signal(syscall.SIGCONT))
			continue
		}
		running[victim].kill()
		running[victim] = startNode(t, db.URL, lease)
	}
	stop()
	<-fed
	n := int(rounds.Load())
	drainedIn(t, r, time.Duration(bySize(60, 1200))*time.Second)
	o.mu.Lock()
	defer o.mu.Unlock()
	t.Logf("%d faults, %d keys x %d, %d calls, %d again after they had succeeded, %d inversions, most at once at the limited node: %d",
		faults, keys, n, o.calls, o.repeats, o.inversions, o.most["five"])
	for k := range keys {
		if got := o.done[fmt.Sprintf("a k%d", k)]; got != n {
			t.Errorf("k%d: %d succeeded, want %d", k, got, n)
		}
	}
	if o.most["five"] > 10 { // a frozen node's calls, and their replacements
		t.Errorf("%d calls at once, want 5, or 10 beside a frozen node", o.most["five"])
	}
	r.clean()
}

func pauseBetween(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// drainedIn waits until nothing is on an edge any more.
func drainedIn(t *testing.T, r *rig, most time.Duration) {
	t.Helper()
	for deadline := time.Now().Add(most); ; {
		if one[bool](r, `select not exists (select from river.river_job where kind in ('message', 'lane')) and not exists (select from sluice.process where open <> 0)`) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not drained within %v", most)
		}
		time.Sleep(20 * time.Millisecond) //nolint:forbidigo // between looks at a fact, with a deadline
	}
}
