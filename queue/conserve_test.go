package queue_test

import (
	"context"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"sluice/queue"
	"sluice/queue/worker"
)

// ledger is a sink that believes nobody: it notes every call that it gets, to be compared by SQL afterwards.
type ledger struct {
	mu   sync.Mutex
	rows [][]any
}

func (l *ledger) call(_ context.Context, q worker.Request) (worker.Result, error) {
	n, err := strconv.Atoi(string(q.Body))
	if err != nil {
		return worker.Result{}, &worker.Failure{Class: worker.Rejected, Reason: err.Error()}
	}
	l.mu.Lock()
	l.rows = append(l.rows, []any{q.Node, n, q.IdempotencyKey()})
	l.mu.Unlock()
	return passOn(q), nil
}

func (l *ledger) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.rows)
}

// A great many events with numbers of their own go through three nodes. What came to the worker and what stands in the
// books is, as a set, what was sent: compared by SQL, nothing is lost, nothing unexpected, nothing there twice.
func TestConservation(t *testing.T) {
	t.Parallel()
	events := bySize(20_000, 1_000_000)
	r, _ := newSteady(t)
	l := &ledger{}
	r.work(l.call)
	began := time.Now()
	const batch = 500
	var senders sync.WaitGroup
	var next sync.Mutex
	from := 0
	for range 4 {
		senders.Go(func() {
			for {
				next.Lock()
				first := from
				from += batch
				next.Unlock()
				if first >= events {
					return
				}
				var all []queue.Event
				for n := first; n < min(first+batch, events); n++ {
					all = append(all, numberedEvent("flow", n))
				}
				r.acceptAll(all)
			}
		})
	}
	senders.Wait()
	accepted := time.Since(began)
	for last, moved := -1, time.Now(); l.count() < 3*events; {
		if n := l.count(); n != last {
			last, moved = n, time.Now()
		}
		if time.Since(moved) > 30*time.Second {
			t.Fatalf("stands still at %d of %d calls", last, 3*events)
		}
		time.Sleep(10 * time.Millisecond) //nolint:forbidigo // between looks at a fact, with a deadline
	}
	took := time.Since(began)
	r.drained()

	r.exec(`create table public.ledger (node text, n int, key text)`)
	_, err := r.pool.CopyFrom(t.Context(), pgx.Identifier{"public", "ledger"}, []string{"node", "n", "key"}, pgx.CopyFromRows(l.rows))
	ok(t, err)
	var lost, unexpected, keys, repeated int
	r.count(`
		with wanted as materialized (select node, n from unnest('{a,b,c}'::text[]) as node, generate_series(0, $1::int - 1) as n)
		select (select count(*) from (select node, n from wanted except select node, n from public.ledger) x),
		       (select count(*) from (select node, n from public.ledger except select node, n from wanted) x),
		       (select count(distinct key) from public.ledger), (select count(*) - count(distinct (node, n)) from public.ledger)`,
		[]any{events}, &lost, &unexpected, &keys, &repeated)
	if lost+unexpected > 0 || keys != 3*events {
		t.Errorf("worker: of %d effects %d lost, %d unexpected, under %d keys", 3*events, lost, unexpected, keys)
	}
	r.booksHold([]string{"a", "b", "c"}, events)
	t.Logf("%d events, %d hops: lost %d, unexpected %d, effects twice %d, calls repeated %d; accepted at %.0f/s, %.0f hops/s, %v in all",
		events, 3*events, lost, unexpected, 3*events-keys, repeated, float64(events)/accepted.Seconds(), 3*float64(events)/took.Seconds(), took.Round(time.Second))
}
