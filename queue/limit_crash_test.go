package queue_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"sort"
	"sync"
	"syscall"
	"testing"
	"time"

	"sluice/limiter"
	"sluice/migrations/pgtest"
	"sluice/queue"
	"sluice/queue/worker"
)

// Several processes share a limit, and are killed and frozen, the one that has it at the moment too: in no window do more
// calls begin than it allows, and nothing is lost. When a call began is told by its deadline, to the millisecond.
func TestLimitSurvives(t *testing.T) {
	t.Parallel()
	for _, l := range []limiter.Limit{perSecond(50, 50), perSecond(50, 1)} {
		t.Run(fmt.Sprintf("burst %v", l.Burst), func(t *testing.T) {
			t.Parallel()
			crashLimit(t, l, time.Duration(bySize(12, 600))*time.Second, bySize(3, 8))
		})
	}
}

func crashLimit(t *testing.T, l limiter.Limit, during time.Duration, processes int) {
	db := pgtest.New(t)
	var mu sync.Mutex
	var begun []time.Time
	done := map[string]bool{}
	server := httptest.NewServer(worker.Handler{Func: func(_ context.Context, r *worker.Request) (worker.Reply, error) {
		mu.Lock()
		defer mu.Unlock()
		begun, done[r.MessageID] = append(begun, r.Deadline.Add(-30*time.Second)), true
		return worker.Reply{Verdict: worker.Done}, nil
	}})
	t.Cleanup(server.Close)
	r := newRig(t, db.Pool())
	r.moveWorker(server.URL)
	r.publish(direct)
	r.limit(queue.Limit{User: l})
	var running []*node
	for range processes {
		running = append(running, startNode(t, db.URL, 2*time.Second))
	}
	n := int(l.Burst + l.Rate()*during.Seconds())
	for i := range n {
		resp, err := http.Post(running[i%processes].addr+"/flow", "text/plain", nil)
		ok(t, err)
		ok(t, resp.Body.Close())
	}
	count := func() int { mu.Lock(); defer mu.Unlock(); return len(done) }
	frozen := 0
	began := time.Now()
	for end := began.Add(during * 3 / 4); time.Now().Before(end) && count() < n; {
		pause := time.NewTimer(during / 12)
		<-pause.C
		victim := rand.IntN(len(running))
		if owner := one[string](r, `select coalesce((select r.name from sluice.limiter_gate g join sluice.runner r on r.id = g.owner), '')`); rand.IntN(2) == 0 {
			if i := slices.IndexFunc(running, func(n *node) bool { return n.name == owner }); i >= 0 {
				victim = i
			}
		}
		if rand.IntN(3) == 0 { // frozen for longer than others wait
			frozen++
			ok(t, running[victim].cmd.Process.Signal(syscall.SIGSTOP))
			thaw := time.NewTimer(time.Second)
			<-thaw.C
			ok(t, running[victim].cmd.Process.Signal(syscall.SIGCONT))
			continue
		}
		running[victim].kill()
		running[victim] = startNode(t, db.URL, 2*time.Second)
	}
	for count() < n { // it takes its time: no call comes before it may
		if time.Since(began) > 2*during+patience {
			t.Fatalf("%d of %d messages are done", count(), n)
		}
		again := time.NewTimer(100 * time.Millisecond)
		<-again.C
	}
	r.wait(`select not exists (select from sluice.process where open <> 0)`)
	r.clean()
	mu.Lock()
	defer mu.Unlock()
	slices.SortFunc(begun, time.Time.Compare)
	took := begun[len(begun)-1].Sub(begun[0])
	worst := over(l, begun)
	// There was a backlog from when all had come until a quarter was left.
	first, last := sort.Search(n, func(i int) bool { return !begun[i].Before(began) }), n*3/4
	used := float64(last-first) / (l.Rate() * begun[last].Sub(began).Seconds())
	t.Logf("%d calls of %d messages in %v, %.1f %% of what is allowed while there was a backlog; at worst %.2f above", len(begun), n, took, 100*used, worst)
	if worst > float64(1+frozen) { // one of each process may have frozen between its time and its beginning
		t.Errorf("%.2f calls too many", worst)
	}
}
