package queue_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"sluice/migrations/pgtest"
	"sluice/queue"
	"sluice/queue/worker"
)

// One result that Postgres refuses comes with five hundred that are good. It goes to the trash with Postgres's reason;
// the others do not notice.
func TestPoisonedResult(t *testing.T) {
	t.Parallel()
	reply := func(r worker.Reply) func() (worker.Result, error) {
		return func() (worker.Result, error) { return worker.Result{Reply: r, Status: 200}, nil }
	}
	nul := map[string]string{"x": "a\x00b"}
	for _, c := range []struct {
		name, file string
		poison     func() (worker.Result, error)
	}{
		{"header", line, reply(worker.Send(worker.Message{SameBody: true, Headers: nul}))},
		{"one header of many messages", line, reply(worker.Send(
			worker.Message{Body: []byte("1")}, worker.Message{Body: []byte("2"), Headers: nul}, worker.Message{Body: []byte("3")}))},
		{"reason to stop", line, reply(worker.Reply{Verdict: worker.Stop, Reason: "\x00"})},
		{"reason that is no text", line, reply(worker.Reply{Verdict: worker.Repeat, Reason: "\xff"})},
		{"reason to fail later", line, func() (worker.Result, error) {
			return worker.Result{}, &worker.Failure{Class: worker.Transient, Reason: "\x00"}
		}},
		{"header on a page", pages, reply(worker.Reply{Verdict: worker.Done, Cursor: "2", Messages: []worker.Message{{SameBody: true, Headers: nul}}})},
		{"cursor", pages, reply(worker.Reply{Verdict: worker.Done, Cursor: "\x00"})},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			const good = 500
			var gathered sync.WaitGroup
			gathered.Add(good + 1)
			r := newRig(t, pgtest.New(t).Pool())
			r.publish(c.file)
			r.engine = newEngine(t, r.pool, queue.Config{NodeSlots: good + 1, Caller: callerFunc(func(_ context.Context, q worker.Request) (worker.Result, error) {
				if q.Node == "b" {
					return passOn(q), nil
				}
				gathered.Done()
				gathered.Wait()
				if string(q.Body) == "poison" {
					return c.poison()
				}
				return passOn(q), nil
			})})
			r.acceptMany(good+1, func(i int) string {
				if i == good/3 {
					return "poison"
				}
				return "good"
			})
			r.wait(`select count(*) = $1 from sluice.process where finished_at is not null`, good)
			r.drained()
			var body, reason string
			ok(t, r.pool.QueryRow(t.Context(), `
				select convert_from(m.body, 'UTF8'), t.reason
				from sluice.trash t join sluice.message m on m.process_id = t.process_id and m.id = t.message_id`).Scan(&body, &reason))
			if body != "poison" || !strings.Contains(reason, "Postgres refuses") {
				t.Errorf("in the trash is %q because %q", body, reason)
			}
			if n := one[int](r, `select count(*)::int from sluice.attempt where outcome = 'done'`); n != 2*good {
				t.Errorf("%d messages done, want %d", n, 2*good)
			}
		})
	}
}

// An event that Postgres refuses is refused alone.
func TestPoisonedEvent(t *testing.T) {
	t.Parallel()
	r := start(t, point, same)
	events := make([]queue.Event, 500)
	for i := range events {
		events[i] = queue.Event{Tenant: tenant, Topology: "flow", Node: "in", Key: fmt.Sprint(i), Body: []byte("x")}
	}
	const bad = 123
	events[bad].Headers = map[string]string{"x": "\x00"}
	_, errs := r.engine.AcceptMany(t.Context(), events)
	for i, err := range errs {
		if i == bad && !errors.Is(err, queue.ErrRefused) || i != bad && err != nil {
			t.Errorf("event %d: %v", i, err)
		}
	}
	r.wait(`select count(*) = $1 from sluice.process where finished_at is not null`, len(events)-1)
	r.drained()
}

// A worker whose failure cannot be written down as it says it is failed all the same, and not called for ever.
func TestPoisonedFailure(t *testing.T) {
	t.Parallel()
	var calls record
	r := start(t, point, func(_ context.Context, q worker.Request) (worker.Result, error) {
		calls.add("call")
		return worker.Result{}, &worker.Failure{Class: worker.Rejected, Reason: "no\x00"}
	})
	id := r.accept("in", "x")
	r.wait(`select trashed = 1 from sluice.process where id = $1`, id)
	r.drained()
	if n := len(calls.sorted()); n != 1 {
		t.Errorf("called %d times", n)
	}
}

// A fault of ours is no fault of a message: while the tables do not take what the engine writes, because an upgrade went
// wrong, say, messages wait. They neither go to the trash nor are their workers called again and again.
func TestTablesRefuseEverything(t *testing.T) {
	t.Parallel()
	var calls record
	h := newHolding()
	r := start(t, line, func(ctx context.Context, q worker.Request) (worker.Result, error) {
		calls.add(q.Node)
		return h.call(ctx, q)
	})
	id := r.accept("in", "x")
	h.called(t, "x", 1)
	r.exec(`alter table sluice.message rename column headers to heads`)
	h.forgetAndAnswer("x", 1)
	until(t, "refused hand-offs", func() bool {
		return one[int](r, `select xact_rollback::int from pg_stat_database where datname = current_database()`) > 5
	})
	r.exec(`alter table sluice.message rename column heads to headers`)
	h.called(t, "x", 1)
	h.answer("x", 1)
	r.finished(id)
	r.drained()
	if got := calls.sorted(); len(got) != 2 {
		t.Errorf("calls %q, want one of each node", got)
	}
}
