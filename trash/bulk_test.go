package trash_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"sluice/migrations/pgtest"
	"sluice/queue"
	"sluice/queue/process"
	"sluice/trash"
)

// heap is a trash of so many messages, each the only one of its process, at a node of flow. The even ones are JSON, the
// odd ones are not. Nothing runs.
func heap(t *testing.T, n int) (*rig, *pgtest.DB) {
	t.Helper()
	db := pgtest.New(t)
	r := &rig{T: t, pool: db.Pool(), calls: &calls{}}
	r.ok(withWorker(r))
	r.publish(flow)
	var err error
	r.engine, err = queue.New(t.Context(), r.pool, queue.Config{})
	r.ok(err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := r.engine.Stop(ctx); err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	r.fill(1, n)
	r.Trash = trash.New(db.TenantPool(), r.engine)
	return r, db
}

// fill adds messages to the heap.
func (r *rig) fill(from, to int) {
	r.Helper()
	_, err := r.pool.Exec(r.Context(), `
		with n as materialized (
		    select n, nextval('river.river_job_id_seq') as id,
		           (lpad(to_hex((extract(epoch from now()) * 1000)::bigint), 12, '0') || '70008000' || lpad(to_hex(n), 12, '0'))::uuid as process
		    from generate_series($1::int, $2::int) n
		), edge as (
		    select id, version_id from sluice.edge where to_node = 'a' order by id limit 1
		), p as (
		    insert into sluice.process (tenant_id, id, version_id, node, total, open, trashed)
		    select 1, process, version_id, 'in', 1, 0, 1 from n, edge
		), m as (
		    insert into sluice.message (tenant_id, process_id, id, edge_id, headers, body)
		    select 1, process, n.id, edge.id, '{"old": "1"}', convert_to(case when n % 2 = 0 then '{"n": ' || n || ', "x": 1.10}' else 'odd ' || n end, 'UTF8') from n, edge
		)
		insert into sluice.trash (tenant_id, process_id, message_id, edge_id, attempt, reason, class, cause, failed_at)
		select 1, process, n.id, edge.id, 1, 'refused', 'rejected', 1, clock_timestamp() from n, edge`, from, to)
	r.ok(err)
}

// withWorker registers the worker that the flow names.
func withWorker(r *rig) error {
	return process.ForTenant(r.Context(), r.pool, tenant, func(tx pgx.Tx) error {
		_, _, err := queue.AddWorker(r.Context(), tx, tenant, "demo", "http://127.0.0.1:9", "test")
		return err
	})
}

// work runs bulks until the test ends.
func (r *rig) work(pool *pgxpool.Pool) {
	ctx, cancel := context.WithCancel(context.Background())
	var works sync.WaitGroup
	works.Go(func() { r.Trash.Run(ctx, pool, slog.New(slog.DiscardHandler)) })
	r.Cleanup(func() { cancel(); works.Wait() })
}

// preview chooses entries.
func (r *rig) preview(plan trash.Plan) (trash.Bulk, []trash.Sample) {
	r.Helper()
	b, sample, err := r.Preview(r.Context(), tenant, "ann", plan)
	r.ok(err)
	return b, sample
}

// take takes a step with a bulk.
func (r *rig) take(b trash.Bulk, step trash.Step) trash.Bulk {
	r.Helper()
	b, err := r.Take(r.Context(), tenant, "ann", b.ID, step)
	r.ok(err)
	return b
}

// ends waits until a bulk is done.
func (r *rig) ends(b trash.Bulk) trash.Bulk {
	r.Helper()
	for deadline := time.Now().Add(5 * time.Minute); b.State != trash.BulkDone; {
		if time.Now().After(deadline) {
			r.Fatalf("not done: %+v", b)
		}
		time.Sleep(10 * time.Millisecond) //nolint:forbidigo // between looks at a fact, with a deadline
		b = r.bulk(b)
	}
	return b
}

func (r *rig) bulk(b trash.Bulk) trash.Bulk {
	r.Helper()
	b, err := r.FindBulk(r.Context(), tenant, b.ID)
	r.ok(err)
	return b
}

func (r *rig) count(sql string, args ...any) (n int) {
	r.Helper()
	r.ok(r.pool.QueryRow(r.Context(), `select count(*)::int from `+sql, args...).Scan(&n))
	return n
}

// A bulk is about exactly what was previewed: not what fails later, nor what was changed or left meanwhile, which it
// says. It is done once, however often it is started, and shows in the history of each message.
func TestBulk(t *testing.T) {
	t.Parallel()
	r, db := heap(t, 1000)
	page, err := r.List(t.Context(), tenant, trash.Filter{}, trash.Oldest, nil, 500)
	r.ok(err)
	b, sample := r.preview(trash.Plan{Action: trash.Approving, Filter: trash.Filter{Topology: "flow", Node: "a", Class: process.ClassRejected}, Reason: "mended", Asked: map[string]string{"node": "a"}})
	if b.Total != 1000 || b.State != trash.BulkPreview || b.More || len(sample) != 10 || sample[0].Diff != nil || sample[0].Entry.Node != "a" || string(b.Filter) != `{"node": "a"}` {
		t.Fatalf("%+v, %+v", b, sample)
	}
	r.fill(1001, 1100)
	changed, left := page.Entries[17].ID, page.Entries[300].ID
	r.ok(r.Comment(t.Context(), tenant, act("bob", "wait", changed)))
	r.ok(r.Reject(t.Context(), tenant, act("bob", "no", left)))
	r.work(db.Pool())
	r.work(db.Pool()) // and another node
	for range 2 {
		if b := r.take(b, trash.StartBulk); b.State != trash.BulkRunning && b.State != trash.BulkDone {
			t.Errorf("%+v", b)
		}
	}
	b = r.ends(b)
	if b.Done != 998 || b.Failed != 2 || b.StartedBy == nil || *b.StartedBy != "ann" || b.FinishedAt == nil {
		t.Errorf("%+v", b)
	}
	failures, err := r.Failures(t.Context(), tenant, b.ID, 0, 10)
	r.ok(err)
	if len(failures) != 2 || failures[0].ID != changed || !strings.Contains(failures[0].Error, "changed") || failures[1].ID != left || !strings.Contains(failures[1].Error, "left") {
		t.Errorf("failures %+v", failures)
	}
	if n := r.count(`sluice.decision where verdict = 'approve' and decided_by = 'ann' and reason = 'mended' and detail->>'bulk' = $1`, fmt.Sprint(b.ID)); n != 998 {
		t.Errorf("%d approvals", n)
	}
	if n := r.count(`river.river_job where kind = 'message'`); n != 998 {
		t.Errorf("%d jobs", n)
	}
	r.entries(101)
	if _, err := r.Take(t.Context(), tenant, "ann", b.ID, trash.PauseBulk); !errors.Is(err, trash.ErrBulkState) {
		t.Errorf("paused when it was done: %v", err)
	}
	const other = 2
	if _, err := r.FindBulk(t.Context(), other, b.ID); !errors.Is(err, trash.ErrNoBulk) {
		t.Errorf("found by another tenant: %v", err)
	}
	if _, err := r.Take(t.Context(), other, "eve", b.ID, trash.CancelBulk); !errors.Is(err, trash.ErrNoBulk) {
		t.Errorf("cancelled by another tenant: %v", err)
	}
	bulks, err := r.Bulks(t.Context(), tenant, 0, 10)
	r.ok(err)
	if len(bulks) != 1 {
		t.Errorf("bulks %+v", bulks)
	}
	r.conserved()
}

// A bulk goes no faster than it may, stands still while it is paused, goes on where it was, and leaves the rest as it is
// when it is cancelled.
func TestBulkSteps(t *testing.T) {
	t.Parallel()
	r, db := heap(t, 300)
	r.work(db.Pool())
	b, _ := r.preview(trash.Plan{Action: trash.Rejecting, Reason: "too old", Rate: 100})
	if _, err := r.Take(t.Context(), tenant, "ann", b.ID, trash.ResumeBulk); !errors.Is(err, trash.ErrBulkState) {
		t.Errorf("resumed before it was started: %v", err)
	}
	began := time.Now()
	r.take(b, trash.StartBulk)
	r.until(func() bool { return r.bulk(b).Done >= 40 })
	paused := r.take(b, trash.PauseBulk)
	if most := 100*time.Since(began).Seconds() + 121; float64(paused.Done) > most {
		t.Errorf("%d done, at most %f might", paused.Done, most)
	}
	r.take(b, trash.PauseBulk)
	other, _ := r.preview(trash.Plan{Action: trash.Editing, Change: trash.Change{Set: map[string]string{"x": "y"}}}) // and meanwhile another is done
	r.take(other, trash.StartBulk)
	if other = r.ends(other); other.Failed != 0 || other.Done != 300-paused.Done {
		t.Errorf("%+v", other)
	}
	if now := r.bulk(b); now.Done != paused.Done {
		t.Errorf("%d done while it was paused at %d", now.Done, paused.Done)
	}
	r.take(b, trash.ResumeBulk)
	r.until(func() bool { return r.bulk(b).Failed > 0 }) // they were edited
	b = r.take(b, trash.CancelBulk)
	r.take(b, trash.CancelBulk)
	if b.Done != paused.Done || b.Done+b.Failed >= 300 || b.FinishedAt == nil {
		t.Errorf("%+v", b)
	}
	if n := r.count(`sluice.trash`); n != 300-b.Done {
		t.Errorf("%d left", n)
	}
	if n := r.count(`sluice.process where rejected = 1 and finished_at is not null`); n != b.Done {
		t.Errorf("%d finished", n)
	}
	if n := r.count(`sluice.audit where action in ('start-bulk', 'pause-bulk', 'resume-bulk', 'cancel-bulk')`); n != 5 {
		t.Errorf("%d steps in the audit", n)
	}
	r.conserved()
}

// A bulk edits by a patch and by headers: the preview shows what becomes of some, what cannot be patched is left alone and
// named, and the rest of each body is as it was.
func TestBulkEdit(t *testing.T) {
	t.Parallel()
	r, db := heap(t, 400)
	r.work(db.Pool())
	change := trash.Change{
		Patch: []trash.PatchStep{{Op: "test", Path: "/x", Value: json.RawMessage(`1.10`)}, {Op: "add", Path: "/y", Value: json.RawMessage(`"<&>"`)}},
		Set:   map[string]string{"new": "2"}, Drop: []string{"old"},
	}
	b, sample := r.preview(trash.Plan{Action: trash.Approving, Change: change, Reason: "mended"})
	fine := 0
	for _, s := range sample {
		switch {
		case s.Error == "" && strings.Contains(s.Diff.Body, `+  "y": "<&>"`) && len(s.Diff.Headers) == 2:
			fine++
		case !strings.Contains(s.Error, "no JSON"):
			t.Errorf("sample %+v", s)
		}
	}
	if fine != 5 || b.Total != 400 {
		t.Errorf("%d of the sample are fine; %+v", fine, b)
	}
	r.take(b, trash.StartBulk)
	if b = r.ends(b); b.Done != 200 || b.Failed != 200 {
		t.Errorf("%+v", b)
	}
	if n := r.count(`sluice.message where parent_id is not null and body = convert_to('{"n":' || ('x' || right(process_id::text, 8))::bit(32)::int || ',"x":1.10,"y":"<&>"}', 'UTF8') and headers = '{"new": "2"}'`); n != 200 {
		t.Errorf("%d messages are as they should be", n)
	}
	if n := r.count(`sluice.trash`); n != 200 {
		t.Errorf("%d left", n)
	}
	failures, err := r.Failures(t.Context(), tenant, b.ID, 0, 500)
	r.ok(err)
	if len(failures) != 200 || !strings.Contains(failures[0].Error, "no JSON") {
		t.Errorf("%d failures", len(failures))
	}
	for name, plan := range map[string]trash.Plan{
		"an edit of nothing":          {Action: trash.Editing},
		"a rejection without reason":  {Action: trash.Rejecting},
		"a rejection with a change":   {Action: trash.Rejecting, Reason: "a", Change: change},
		"an edit in a version":        {Action: trash.Editing, Change: change, Version: 2},
		"a patch without a value":     {Action: trash.Editing, Change: trash.Change{Patch: []trash.PatchStep{{Op: "add", Path: "/a"}}}},
		"a patch of an odd operation": {Action: trash.Editing, Change: trash.Change{Patch: []trash.PatchStep{{Op: "multiply", Path: "/a"}}}},
		"a patch of an odd path":      {Action: trash.Editing, Change: trash.Change{Patch: []trash.PatchStep{{Op: "remove", Path: "a"}}}},
		"a move from nowhere":         {Action: trash.Editing, Change: trash.Change{Patch: []trash.PatchStep{{Op: "move", Path: "/a"}}}},
	} {
		if _, _, err := r.Preview(t.Context(), tenant, "ann", plan); !errors.Is(err, trash.ErrBulk) && !errors.Is(err, trash.ErrContent) {
			t.Errorf("%s: %v", name, err)
		}
	}
	r.conserved()
}

// A bulk says whose entries are, and remarks; they stay in the trash, and their histories have it.
func TestBulkAssignAndComment(t *testing.T) {
	t.Parallel()
	r, db := heap(t, 300)
	r.work(db.Pool())
	b, _ := r.preview(trash.Plan{Action: trash.Assigning, To: "bob", Reason: "he knows"})
	r.take(b, trash.StartBulk)
	if b = r.ends(b); b.Done != 300 || b.Failed != 0 || *b.AssignTo != "bob" {
		t.Errorf("%+v", b)
	}
	for _, plan := range []trash.Plan{
		{Action: trash.Commenting, Filter: trash.Filter{Assigned: "bob"}, Reason: "ticket 4711"},
		{Action: trash.Assigning, Filter: trash.Filter{Assigned: "bob"}},
	} {
		b, _ := r.preview(plan)
		r.take(b, trash.StartBulk)
		if b = r.ends(b); b.Done != 300 {
			t.Errorf("%+v", b)
		}
	}
	id := r.entries(300)[7].ID
	d := r.message(id).Decisions
	if len(d) != 3 || d[0].Verdict != "assign" || d[0].Detail["to"] != "bob" || d[0].Detail["from"] != "" || d[0].Detail["bulk"] != float64(b.ID) ||
		d[1].Verdict != "comment" || d[1].Reason != "ticket 4711" || d[1].Detail["bulk"] == nil || d[2].Detail["to"] != "" || d[2].Detail["from"] != "bob" {
		t.Errorf("%+v", d)
	}
	if n := r.count(`sluice.trash where assigned_to is null`); n != 300 {
		t.Errorf("%d are nobody's", n)
	}
	r.conserved()
}

// Of a bulk onto another version those fail alone that cannot go there, and order is kept where the node keeps it.
func TestBulkOnto(t *testing.T) {
	t.Parallel()
	r, db := heap(t, 100)
	r.publish(strings.Replace(flow, "a: {kind: custom, worker: demo", "a: {kind: custom, worker: demo, concurrency: 1", 1))
	r.work(db.Pool())
	b, sample := r.preview(trash.Plan{Action: trash.Approving, Version: 2})
	none, failing := r.preview(trash.Plan{Action: trash.Approving, Version: 9})
	if sample[0].Error != "" || !strings.Contains(failing[0].Error, "version 9") {
		t.Errorf("samples %+v, %+v", sample[0], failing[0])
	}
	r.take(none, trash.StartBulk)
	if none = r.ends(none); none.Done != 0 || none.Failed != 100 {
		t.Errorf("%+v", none)
	}
	r.take(b, trash.StartBulk)
	if b = r.ends(b); b.Done != 100 {
		t.Errorf("%+v", b)
	}
	if n := r.count(`(select message_id, lag(parent_id) over (order by place) as before, parent_id
		from sluice.lane_message l join sluice.message m on m.id = l.message_id) o where before > parent_id`); n != 0 {
		t.Errorf("%d stand in the lane before who came before them", n)
	}
	if n := r.count(`sluice.lane_message`); n != 100 {
		t.Errorf("%d messages in the lane", n)
	}
	r.conserved()
}

// workerURL names, to this test program run by TestBulkKilled, the database whose bulks it is to work.
const workerURL = "SLUICE_TEST_BULKS"

// A bulk's process is killed again and again, in the midst of it, while more fails: each of the messages that were
// previewed is approved once, and no other.
func TestBulkKilled(t *testing.T) {
	t.Parallel()
	n := 3000
	if *full {
		n = 100_000
	}
	r, db := heap(t, n)
	b, _ := r.preview(trash.Plan{Action: trash.Approving, Rate: float64(n) / 6})
	r.take(b, trash.StartBulk)
	kills := 0
	for ; r.bulk(b).State != trash.BulkDone; kills++ {
		before := r.bulk(b).Done
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestWorkBulks$")
		cmd.Env = append(os.Environ(), workerURL+"="+db.URL)
		r.ok(cmd.Start())
		r.fill(n+100*kills+1, n+100*kills+100)
		if kills < 4 {
			r.until(func() bool { return r.bulk(b).Done > before })
		} else {
			r.ends(b)
		}
		r.ok(cmd.Process.Kill())
		_ = cmd.Wait() // it was killed
	}
	b = r.bulk(b)
	if b.Done != n || b.Failed != 0 {
		t.Errorf("%+v", b)
	}
	if got := r.count(`sluice.decision where verdict = 'approve'`); got != n {
		t.Errorf("%d approvals, want %d", got, n)
	}
	if got := r.count(`river.river_job where kind = 'message'`); got != n {
		t.Errorf("%d jobs, want %d", got, n)
	}
	if got := r.count(`sluice.trash`); got != 100*kills {
		t.Errorf("%d in the trash, want the %d that came meanwhile", got, 100*kills)
	}
	r.conserved()
	t.Logf("%d of them, killed %d times: %v", n, kills, b.FinishedAt.Sub(*b.StartedAt))
}

// TestWorkBulks is the process that TestBulkKilled kills.
func TestWorkBulks(t *testing.T) {
	url := os.Getenv(workerURL)
	if url == "" {
		t.Skip("TestBulkKilled runs it")
	}
	pool, err := queue.Open(t.Context(), url, 4)
	if err != nil {
		t.Fatal(err)
	}
	engine, err := queue.New(t.Context(), pool, queue.Config{})
	if err != nil {
		t.Fatal(err)
	}
	trash.New(pool, engine).Run(t.Context(), pool, slog.Default())
}
