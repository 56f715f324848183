package trash_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"sluice/queue/process"
	"sluice/queue/worker"
	"sluice/trash"
)

// Nothing goes that nobody wanted to go. What does is old enough by the retention of what was decided in it, is gone with
// all that belongs to it, and leaves books that add up; what waits stays, however old it is.
func TestRetention(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	r := start(t, flow, func(q worker.Request) string {
		if strings.Contains(string(q.Body), "bad") {
			return "it is bad"
		}
		return ""
	})
	send := func(body string) process.MessageID {
		t.Helper()
		before := ids(r.entries(r.count(`sluice.trash`)))
		r.send(body)
		for _, e := range r.entries(len(before) + 1) {
			if !slices.Contains(before, e.ID) {
				return e.ID
			}
		}
		t.Fatal("it is not there")
		return process.MessageID{}
	}
	mend := trash.Content{Body: []byte("good")}
	reject := func(id process.MessageID) { r.ok(r.Reject(t.Context(), tenant, act("ann", "no", id))) }
	resolve := func(id process.MessageID) {
		r.ok(r.Edit(t.Context(), tenant, act("ann", "", id), mend))
		_, err := r.Approve(t.Context(), tenant, act("ann", "", id))
		r.ok(err)
		r.settles(id.Process, process.StateDone)
	}
	waiting := send("bad 1")
	_, err := r.Approve(t.Context(), tenant, act("ann", "", waiting)) // it fails again
	r.ok(err)
	r.until(func() bool {
		return r.count(`sluice.attempt where outcome = 'failed' and process_id = $1`, waiting.Process) == 2
	})
	rejected, fresh, resolved := send("bad 2"), send("bad 3"), send("bad 4")
	reject(rejected)
	reject(fresh)
	resolve(resolved)
	plain := r.send("good")[0]
	r.settles(plain, process.StateDone)

	// All but one were decided about 40 days ago.
	for _, sql := range []string{
		`update sluice.process set finished_at = finished_at - interval '40 days' where id <> $1`,
		`update sluice.decision set decided_at = decided_at - interval '40 days' where process_id <> $1`,
	} {
		_, err := r.pool.Exec(t.Context(), sql, fresh.Process)
		r.ok(err)
	}
	there := func(want ...uuid.UUID) {
		t.Helper()
		r.ok(trash.Prune(t.Context(), r.pool))
		for _, id := range []uuid.UUID{waiting.Process, rejected.Process, fresh.Process, resolved.Process, plain} {
			n := r.count(`sluice.process where id = $1`, id)
			if is := slices.Contains(want, id); is != (n == 1) {
				t.Errorf("%s is there: %v, want %v", id, n == 1, is)
			}
			for _, table := range []string{"message", "attempt", "decision"} {
				if n == 0 && r.count(`sluice.`+table+` where process_id = $1`, id) > 0 {
					t.Errorf("%s of %s is left", table, id)
				}
			}
		}
		r.conserved()
	}
	there(waiting.Process, rejected.Process, fresh.Process, resolved.Process, plain)
	none, err := r.Retention(t.Context(), tenant)
	r.ok(err)
	if none != (trash.Retention{}) {
		t.Errorf("%+v", none)
	}
	for _, short := range []time.Duration{time.Hour, -day, 200 * 365 * day} {
		if err := r.SetRetention(t.Context(), tenant, "ann", short, 0); !errors.Is(err, trash.ErrRetention) {
			t.Errorf("%v: %v", short, err)
		}
	}
	_, err = r.pool.Exec(t.Context(), `insert into sluice.tenant (id, name) overriding system value values (2, 'other')`)
	r.ok(err)
	r.ok(r.SetRetention(t.Context(), 2, "eve", day, day))
	r.ok(r.SetRetention(t.Context(), tenant, "ann", 50*day, 0))
	there(waiting.Process, rejected.Process, fresh.Process, resolved.Process, plain)
	r.ok(r.SetRetention(t.Context(), tenant, "ann", 30*day, 0))
	there(waiting.Process, fresh.Process, resolved.Process, plain)
	r.ok(r.SetRetention(t.Context(), tenant, "bob", 0, 30*day))
	there(waiting.Process, fresh.Process, plain)
	kept, err := r.Retention(t.Context(), tenant)
	r.ok(err)
	if kept.Rejected != 0 || kept.Resolved != 30*day || kept.SetBy != "bob" || kept.Deleted != 2 || kept.DeletedAt == nil {
		t.Errorf("%+v", kept)
	}
	if n := r.count(`sluice.audit where action = 'set-trash-retention' and subject = 'rejected for ever, resolved 30 days'`); n != 1 {
		t.Errorf("%d records of it", n)
	}
}

// More than one step's worth goes in several, and a process that alone is more goes in one.
func TestRetentionInSteps(t *testing.T) {
	t.Parallel()
	r := start(t, flow, never)
	_, err := r.pool.Exec(t.Context(), `
		with p as (
		    insert into sluice.process (tenant_id, id, version_id, node, total, open, rejected, started_at, finished_at)
		    select 1, overlay('01980000-0000-7000-8000-000000000000' placing lpad(n::text, 12, '0') from 25 for 12)::uuid,
		           (select max(id) from sluice.topology_version), 'in', m, 0, m, now() - interval '9 days', now() - interval '9 days'
		    from generate_series(1, 2500) n cross join lateral (select case when n = 7 then 6000 else 3 end as m) m
		    returning id, total
		), m as (
		    insert into sluice.message (tenant_id, process_id, id, edge_id, headers, body)
		    select 1, p.id, row_number() over () + 1000000, (select max(id) from sluice.edge), '{}', '' from p, generate_series(1, total)
		    returning process_id, id
		), k as (
		    insert into sluice.idempotency_key (tenant_id, digest, body_digest, process_id, created_at)
		    select 1, sha256(id::text::bytea), '', id, now() - interval '9 days' from p
		)
		insert into sluice.decision (tenant_id, process_id, message_id, verdict, decided_by, decided_at)
		select 1, process_id, id, 'reject', 'ann', now() - interval '9 days' from m`)
	r.ok(err)
	r.conserved()
	r.ok(r.SetRetention(t.Context(), tenant, "ann", 7*24*time.Hour, 0))
	done := make(chan error)
	for range 2 { // two servers at once
		go func() { done <- trash.Prune(t.Context(), r.pool) }()
	}
	r.ok(<-done)
	r.ok(<-done)
	for _, table := range []string{"process", "message", "decision", "idempotency_key"} {
		if n := r.count(`sluice.` + table); n != 0 {
			t.Errorf("%d rows of %s are left", n, table)
		}
	}
	kept, err := r.Retention(t.Context(), tenant)
	r.ok(err)
	if kept.Deleted != 2500 {
		t.Errorf("%+v", kept)
	}
	r.conserved()
}
