package queue_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"sluice/limiter"
	"sluice/queue"
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
	bodies []string
	users  map[string][]time.Time
	now    int
	most   int
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
	s.begun, s.bodies = append(s.begun, at), append(s.bodies, string(r.Body))
	if s.users == nil {
		s.users = map[string][]time.Time{}
	}
	s.users[r.Headers["user"]] = append(s.users[r.Headers["user"]], at)
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

func (r *rig) limit(l queue.Limit) {
	r.t.Helper()
	l.Application = "shop"
	ok(r.t, r.begin(func(tx tx) error { return queue.SetLimit(r.t.Context(), tx, tenant, l, "test") }))
}

// Messages for a limited application are called with no faster than it allows, and with all that it allows.
func TestLimitIsKept(t *testing.T) {
	t.Parallel()
	for _, l := range []limiter.Limit{perSecond(100, 20), perSecond(50, 1), perSecond(2000, 500)} {
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
			took := s.begun[n-1].Sub(s.begun[0])
			if took > 2600*time.Millisecond {
				t.Errorf("took %v, allowed are 2 s", took)
			}
			t.Logf("%d calls in %v, %.2f above the limit", n, took, over(l, s.begun))
		})
	}
}
