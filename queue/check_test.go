package queue_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"sluice/migrations/pgtest"
	"sluice/queue"
	"sluice/queue/process"
	"sluice/queue/worker"
)

const everywhere = `
topology: flow
nodes:
  in: {kind: start, followers: [a]}
  a: {kind: custom, worker: demo, followers: [b, slow, pages]}
  b: {kind: custom, worker: demo}
  slow: {kind: custom, worker: demo, concurrency: 2}
  pages: {kind: batch, worker: demo, followers: [b2]}
  b2: {kind: custom, worker: demo}
`

// scatter is a worker that leaves messages in all places, as their bodies say. What is held runs until its end.
func scatter(held <-chan struct{}) callerFunc {
	pass := func(followers ...string) (worker.Result, error) {
		return worker.Result{Reply: worker.Reply{Verdict: worker.Done, Messages: []worker.Message{{SameBody: true, Followers: followers}}}}, nil
	}
	hold := func(ctx context.Context) {
		select {
		case <-held:
		case <-ctx.Done():
		}
	}
	return func(ctx context.Context, r worker.Request) (worker.Result, error) {
		what := string(r.Body)
		switch {
		case r.Node == "a" && what == "hold":
			return pass("slow")
		case r.Node == "a" && what == "pages":
			return pass("pages")
		case r.Node == "a":
			return pass("b")
		case r.Node == "slow":
			hold(ctx)
		case r.Node == "pages" && r.Page == 1:
			result, err := pass("b2")
			result.Cursor = "2"
			return result, err
		case r.Node == "pages":
			hold(ctx)
			return worker.Result{Reply: worker.Reply{Verdict: worker.Done}}, nil
		case what == "fail":
			return worker.Result{}, &worker.Failure{Class: worker.Rejected, Reason: "no"}
		case what == "later":
			return worker.Result{Reply: worker.Reply{Verdict: worker.Repeat, After: time.Hour}}, nil
		case what == "stop":
			return worker.Result{Reply: worker.Reply{Verdict: worker.Stop}}, nil
		}
		return worker.Result{Reply: worker.Reply{Verdict: worker.Done}}, nil
	}
}

// scattered is a rig with messages in all places, which do not move any more: each is where its name says, and one is at
// the second page of a batch.
type scattered struct {
	*rig
	done, stopped, failed, replaced, terminated, retrying, running, waiting, paging process.MessageID
}

func newScattered(t *testing.T) *scattered {
	t.Helper()
	held := make(chan struct{})
	s := &scattered{rig: start(t, everywhere, scatter(held))}
	t.Cleanup(func() { close(held) })
	s.done = s.send("go", "done")
	s.stopped = s.send("stop", "filtered")
	s.failed = s.send("fail", "trash")
	s.retrying = s.send("later", "retrying")
	s.running = s.send("hold", "running")
	s.send("hold", "running")
	s.waiting = s.send("hold", "waiting")
	s.paging = s.send("pages", "running")
	s.wait(`select count(*) = 1 from sluice.message m join sluice.edge e on e.id = m.edge_id
	        join sluice.attempt a on a.message_id = m.id and a.outcome = 'done' where e.to_node = 'b2'`)

	s.terminated = s.send("fail", "trash")
	_, err := queue.Terminate(t.Context(), func(ctx context.Context, do func(pgx.Tx) error) error {
		return pgx.BeginFunc(ctx, s.pool, do)
	}, s.terminated.Process, tenant, "ann", "enough")
	ok(t, err)

	s.replaced = s.send("fail", "trash")
	ok(t, pgx.BeginFunc(t.Context(), s.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(t.Context(), `
			with edit as (insert into sluice.decision (tenant_id, process_id, message_id, verdict, decided_by, headers, body)
			              values ($1, $2, $3, 'edit', 'ann', '{}', 'go') returning id)
			update sluice.trash set edit_id = edit.id from edit where message_id = $3`, tenant, s.replaced.Process, s.replaced.Number); err != nil {
			return err
		}
		_, _, err := s.engine.Resend(t.Context(), tx, tenant, queue.Resending{Messages: []process.MessageID{s.replaced}, By: "ann", Reason: "mended"})
		return err
	}))
	s.finished(s.replaced.Process)
	return s
}

// send posts an event and returns its last message, when that has come to its place.
func (s *scattered) send(body, place string) process.MessageID {
	s.t.Helper()
	id := s.accept("in", body)
	deadline := time.Now().Add(20 * time.Second)
	for time.Now().Before(deadline) {
		messages, err := process.Messages(s.t.Context(), s.pool, tenant, id, 0, 10)
		ok(s.t, err)
		if len(messages) > 1 && string(messages[1].Place) == place {
			return messages[1].ID
		}
		time.Sleep(5 * time.Millisecond) //nolint:forbidigo // between looks at a fact, with a deadline
	}
	s.t.Fatalf("%s never came to %s", body, place)
	return process.MessageID{}
}

// With messages in every place, the check counts each where it is and finds nothing wrong; and it finds whatever is
// then broken by hand, and names it.
func TestCheckFindsWhatIsBroken(t *testing.T) {
	t.Parallel()
	s := newScattered(t)
	r, err := queue.Check(t.Context(), s.pool)
	ok(t, err)
	want := queue.Places{Processes: 10, Total: 22, Waiting: 1, Running: 3, Retrying: 1, Trashed: 1, Done: 15, Terminated: 1}
	if !r.Clean() || len(r.Violations)+len(r.Warnings) > 0 || r.Places != want || r.Foreign != 0 {
		t.Fatalf("%+v, want %+v", r, want)
	}
	if len(r.Versions) != 1 || r.Versions[0] != (queue.VersionSums{Tenant: 1, Topology: "flow", Version: 1, Places: want}) {
		t.Errorf("versions %+v", r.Versions)
	}
	other := s.publish(strings.Replace(everywhere, "concurrency: 2", "concurrency: 3", 1))

	id := func(m process.MessageID) []any { return []any{m.Process, m.Number} }
	job := fmt.Sprintf(`insert into river.river_job (id, args, kind, max_attempts, queue)
		select $2, jsonb_build_object('process_id', $1::uuid), 'message', 99, 'e' || id from sluice.edge where version_id <> %d and to_node = 'b'`, other.ID)
	none := process.MessageID{Process: s.done.Process, Number: 1 << 40}
	for _, c := range []struct {
		name string
		sql  string
		args []any
		want []string // rules and ids, in order
	}{
		{"job gone", `delete from river.river_job where args @> jsonb_build_object('process_id', $1::uuid) and id = $2`, id(s.waiting),
			[]string{"message-lost " + s.waiting.String(), "counter-wrong " + s.waiting.Process.String(), "depth-wrong e3"}},
		{"entry gone", `delete from sluice.trash where process_id = $1 and message_id = $2`, id(s.failed),
			[]string{"message-lost " + s.failed.String(), "counter-wrong " + s.failed.Process.String()}},
		{"attempt gone", `delete from sluice.attempt where process_id = $1 and message_id = $2`, id(s.done),
			[]string{"message-lost " + s.done.String(), "counter-wrong " + s.done.Process.String()}},
		{"decision gone", `delete from sluice.decision where process_id = $1 and message_id = $2`, id(s.terminated),
			[]string{"message-lost " + s.terminated.String(), "counter-wrong " + s.terminated.Process.String()}},
		{"message gone", `delete from sluice.message where process_id = $1 and id = $2`, id(s.stopped),
			[]string{"message-missing " + s.stopped.String(), "counter-wrong " + s.stopped.Process.String()}},
		{"process gone", `with p as (delete from sluice.process where id = $1 and $2::bigint > 0) select`, id(s.done),
			[]string{"process-missing " + s.done.Process.String()}},
		{"job twice", job, id(s.done),
			[]string{"message-twice " + s.done.String(), "counter-wrong " + s.done.Process.String(), "depth-wrong e2"}},
		{"job and entry", `insert into sluice.trash (tenant_id, process_id, message_id, edge_id, attempt, reason)
			select 1, process_id, id, edge_id, 1, '' from sluice.message where process_id = $1 and id = $2`, id(s.retrying),
			[]string{"message-twice " + s.retrying.String(), "counter-wrong " + s.retrying.Process.String()}},
		{"settled twice", `insert into sluice.attempt select * from sluice.attempt where process_id = $1 and message_id = $2`, id(s.stopped),
			[]string{"message-twice " + s.stopped.String(), "counter-wrong " + s.stopped.Process.String()}},
		{"rejected and done", `insert into sluice.decision (tenant_id, process_id, message_id, verdict, decided_by) values (1, $1, $2, 'reject', '')`, id(s.done),
			[]string{"message-twice " + s.done.String(), "counter-wrong " + s.done.Process.String()}},
		{"job of no message", job, id(none), []string{"message-missing " + none.String(), "counter-wrong " + none.Process.String()}},
		{"entry of no message", `insert into sluice.trash (tenant_id, process_id, message_id, edge_id, attempt, reason) values (1, $1, $2, 1, 1, '')`, id(none),
			[]string{"message-missing " + none.String(), "counter-wrong " + none.Process.String()}},
		{"another edge's job", `update river.river_job set queue = (select 'e' || id from sluice.edge where to_node = 'b' limit 1)
			where args @> jsonb_build_object('process_id', $1::uuid) and id = $2`, id(s.waiting),
			[]string{"edge-differs " + s.waiting.String(), "depth-wrong e2", "depth-wrong e3"}},
		{"counters of an edge", `update sluice.edge_count set arrived = arrived + 1, bytes = bytes - 1
			where (edge_id, slot) in (select edge_id, min(slot) from sluice.edge_count where edge_id = 3 group by edge_id) and $1::uuid is not null and $2::bigint > 0`,
			id(s.waiting), []string{"depth-wrong e3"}},
		{"successor of one that waits", `update sluice.message set parent_id = $2 where process_id = $1 and id < $2`, id(s.waiting),
			[]string{"hand-off-torn " + s.waiting.String()}},
		{"successor of one that failed", `update sluice.message set parent_id = $2 where process_id = $1 and id < $2`, id(s.failed),
			[]string{"hand-off-torn " + s.failed.String()}},
		{"two replacements", `update sluice.message set parent_id = $2 where process_id = $1 and id < $2`, id(s.replaced),
			[]string{"hand-off-torn " + s.replaced.String()}},
		{"successor of nobody", `update sluice.message set parent_id = 1::bigint << 40 where process_id = $1 and id = $2`, id(s.done),
			[]string{"parent-missing " + none.String()}},
		{"another version's process", fmt.Sprintf(`update sluice.process set version_id = %d where id = $1 and $2::bigint > 0`, other.ID), id(s.done),
			[]string{"version-differs " + s.done.Process.String()}},
		{"unfinished", `update sluice.process set finished_at = null where id = $1 and $2::bigint > 0`, id(s.done), []string{"not-finished " + s.done.Process.String()}},
		{"finished", `update sluice.process set finished_at = now() where id = $1 and $2::bigint > 0`, id(s.failed), []string{"finished-early " + s.failed.Process.String()}},
		{"total", `update sluice.process set total = total + 1 where id = $1 and $2::bigint > 0`, id(s.done),
			[]string{"counter-wrong " + s.done.Process.String(), "conservation " + s.done.Process.String()}},
		{"open and done", `update sluice.process set open = open + 1, done = done - 1 where id = $1 and $2::bigint > 0`, id(s.running),
			[]string{"counter-wrong " + s.running.Process.String(), "counter-wrong " + s.running.Process.String()}},
		{"rejected and terminated", `update sluice.process set rejected = 1, terminated = 0 where id = $1 and $2::bigint > 0`, id(s.terminated),
			[]string{"counter-wrong " + s.terminated.Process.String(), "counter-wrong " + s.terminated.Process.String()}},
		{"key of no process", `insert into sluice.idempotency_key (tenant_id, digest, body_digest, process_id)
			select 1, '', '', overlay($1::uuid::text placing '0000' from 20 for 4)::uuid where $2::bigint > 0`, id(s.done),
			[]string{"key-without-process " + s.done.Process.String()[:19] + "0000" + s.done.Process.String()[23:]}},
		{"all clean", `select from sluice.process where id = $1 and $2::bigint > 0`, id(s.done), nil},
	} {
		r := s.checkAfter(t, c.sql, c.args...)
		var got []string
		for _, v := range r.Violations {
			got = append(got, v.Rule+" "+v.ID)
		}
		if !slices.Equal(got, c.want) || r.Broken != int64(len(c.want)) || r.Clean() != (len(c.want) == 0) {
			t.Errorf("%s: %d violations %+v, want %q", c.name, r.Broken, r.Violations, c.want)
		}
	}
}

// What heals by itself, or is nobody's fault, is no violation.
func TestCheckWarns(t *testing.T) {
	t.Parallel()
	s := newScattered(t)
	for _, c := range []struct {
		name, sql string
		want      string
		foreign   int64
	}{
		{"silent runner", `update sluice.runner set lease_until = now() - interval '1 s'`, "[{silent-runner runner 1 3 messages are claimed by a runner whose lease is over, and will be taken over}]", 0},
		{"cancelled job", `update river.river_job set state = 'cancelled', finalized_at = now() where state = 'available' and kind = 'message'`,
			"[{cancelled-job e3 1 messages wait to be moved to the trash, because their jobs were cancelled through River}]", 0},
		{"foreign jobs", `insert into river.river_job (args, kind, max_attempts, queue)
			values ('{"order": 1}', 'message', 5, 'e1'), ('{"process_id": 1}', 'message', 5, 'e1'), ('{}', 'order', 5, 'e1'), ('{}', 'message', 5, 'e999'), ('{}', 'order', 5, 'default')`, "[]", 3},
		{"stray process", `
			with p as (insert into sluice.process (tenant_id, id, version_id, node, total, open, done, finished_at)
			           select 1, '00000000-0000-7000-8000-000000000000', id, 'in', 1, 0, 1, now() from sluice.topology_version returning *),
			m as (insert into sluice.message (tenant_id, process_id, id, edge_id, headers) select 1, p.id, 1, e.id, '{}' from p, sluice.edge e where e.to_node = 'b')
			insert into sluice.attempt (tenant_id, process_id, message_id, edge_id, runner_id, attempt, page, outcome, duration_us)
			select 1, p.id, 1, e.id, 1, 1, 0, 'done', 1 from p, sluice.edge e where e.to_node = 'b'`,
			"[{default-partition process_default 1 processes came when no partition was made for their day; they keep working, but history cannot be dropped by day there}]", 0},
		{"stray process of which one was rejected", `
			with p as (insert into sluice.process (tenant_id, id, version_id, node, total, open, rejected, finished_at)
			           select 1, '00000000-0000-7000-8000-000000000000', id, 'in', 1, 0, 1, now() from sluice.topology_version returning *),
			m as (insert into sluice.message (tenant_id, process_id, id, edge_id, headers) select 1, p.id, 1, e.id, '{}' from p, sluice.edge e where e.to_node = 'b')
			insert into sluice.decision (tenant_id, process_id, message_id, verdict, decided_by) select 1, p.id, 1, 'reject', 'ann' from p`,
			"[{default-partition process_default 1 processes came when no partition was made for their day; they keep working, but history cannot be dropped by day there}]", 0},
		{"dropped history", `insert into sluice.decision (tenant_id, process_id, message_id, verdict, decided_by)
			values (1, '00000000-0000-7000-8000-000000000000', 1, 'reject', '')`, "[]", 0},
	} {
		r := s.checkAfter(t, c.sql)
		if got := fmt.Sprint(r.Warnings); got != c.want || !r.Clean() || r.Foreign != c.foreign {
			t.Errorf("%s: warnings %s, %d foreign, violations %v, want %s, %d", c.name, got, r.Foreign, r.Violations, c.want, c.foreign)
		}
	}
	if _, err := queue.Check(t.Context(), pgtest.New(t).TenantPool()); err == nil {
		t.Error("a session that sees nothing finds nothing wrong")
	}
}

// checkAfter checks what a statement leaves, and undoes it.
func (s *scattered) checkAfter(t *testing.T, sql string, args ...any) (r queue.Report) {
	t.Helper()
	undo := errors.New("undo")
	err := pgx.BeginFunc(t.Context(), s.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(t.Context(), sql, args...); err != nil {
			return fmt.Errorf("%s: %w", sql, err)
		}
		var err error
		if r, err = queue.CheckIn(t.Context(), tx); err != nil {
			return err
		}
		return undo
	})
	if !errors.Is(err, undo) {
		t.Fatal(err)
	}
	return r
}

// While events rush through an engine, each look finds every message in exactly one place.
func TestCheckWhileRunning(t *testing.T) {
	t.Parallel()
	const events, atOnce, perBatch = 6000, 400, 100
	left := make(chan struct{}, 2*events) // one for each message that has come to the last node
	r := start(t, diamond, func(ctx context.Context, req worker.Request) (worker.Result, error) {
		if req.Node != "d" {
			return same(ctx, req)
		}
		left <- struct{}{}
		if string(req.Body) == "fail" {
			return worker.Result{}, &worker.Failure{Class: worker.Rejected, Reason: "no"}
		}
		return same(ctx, req)
	})
	sent := make(chan error, 1)
	go func() {
		batch := make([]queue.Event, perBatch)
		var all []error
		for n := 0; n < events; n += perBatch {
			for range 2 * perBatch {
				if n < atOnce {
					break
				}
				select {
				case <-left:
				case <-t.Context().Done():
					return
				}
			}
			for i := range batch {
				batch[i] = queue.Event{Tenant: tenant, Topology: "flow", Node: "in", Key: uuid.NewString(), Body: []byte("go")}
			}
			batch[0].Body = []byte("fail")
			_, errs := r.engine.AcceptMany(t.Context(), batch)
			all = append(all, errs...)
		}
		sent <- errors.Join(all...)
	}()
	moving := 0
	for range 20 {
		report, err := queue.Check(t.Context(), r.pool)
		ok(t, err)
		if !report.Clean() {
			t.Errorf("%d violations: %+v", report.Broken, report.Violations)
		}
		if report.Places.Waiting+report.Places.Running > 0 {
			moving++
		}
	}
	ok(t, <-sent)
	r.wait(`select count(*) = $1 from sluice.process where open = 0`, events)
	report, err := queue.Check(t.Context(), r.pool)
	ok(t, err)
	const failed = 2 * events / perBatch
	want := queue.Places{Processes: events, Total: 5 * events, Trashed: failed, Done: 5*events - failed}
	if !report.Clean() || report.Places != want {
		t.Errorf("%+v, want %+v, violations %v", report.Places, want, report.Violations)
	}
	if moving < 5 {
		t.Errorf("only %d of 20 looks saw messages on their way", moving)
	}
	t.Logf("%d of 20 looks saw messages on their way", moving)
}

// A lane that is not as it must be is named.
func TestCheckLanes(t *testing.T) {
	t.Parallel()
	held := make(chan struct{})
	r := start(t, strings.Replace(laned, "concurrency: 1", "concurrency: 1, timeout: 1m", 1), func(ctx context.Context, q worker.Request) (worker.Result, error) {
		select {
		case <-held:
		case <-ctx.Done():
		}
		return passOn(q), nil
	})
	t.Cleanup(func() { close(held) })
	s := &scattered{rig: r}
	for range 3 {
		r.accept("in", "x")
	}
	r.wait(`select exists (select from river.river_job where kind = 'lane' and state = 'running')`)
	for _, c := range []struct {
		name, sql string
		want      string
	}{
		{"as it is", `select`, "[]"},
		{"no token", `update sluice.lane set token = null`, "[lane-stuck token-stray]"},
		{"no lane", `delete from sluice.lane`, "[lane-missing token-stray]"},
		{"out of its bounds", `update sluice.lane set head = 2`, "[lane-torn]"},
		{"two tokens", `insert into river.river_job (args, kind, max_attempts, queue) values ('{"edge": 1, "key": ""}', 'lane', 5, 'e1')`, "[token-stray]"},
		{"message gone", `delete from sluice.lane_message where place = 3`, "[message-lost counter-wrong depth-wrong]"},
	} {
		var rules []string
		for _, v := range s.checkAfter(t, c.sql).Violations {
			rules = append(rules, v.Rule)
		}
		if got := fmt.Sprint(rules); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}
