package process_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"sluice/migrations/pgtest"
	"sluice/queue/process"
)

const home = "0193a5b2-7f3c-7c11-9f3e-1b2c3d4e5f60"

// places is a process with messages in every place there is, numbered from 1: waiting, running, retrying twice, in the
// trash, done, filtered, replaced by 9, rejected, terminated, lost. Around
// them are 20,000 other messages, with as many jobs, attempts, entries and decisions as it takes for a plan to matter.
const places = `
insert into sluice.topology (tenant_id, id, name) overriding system value values (1, 1, 'flow');
insert into sluice.topology_version (tenant_id, id, topology_id, number, graph, source, created_by, published_at) overriding system value
values (1, 1, 1, 4, '{}', '', '', now());
insert into sluice.edge (tenant_id, id, version_id, from_node, to_node) overriding system value values (1, 7, 1, 'in', 'a'), (1, 8, 1, 'a', 'b');
insert into sluice.process (tenant_id, id, version_id, node, total, open, trashed, done, rejected, terminated)
values (1, '` + home + `', 1, 'in', 11, 4, 1, 3, 1, 1);
insert into sluice.message (tenant_id, process_id, id, edge_id, parent_id, payload_id, headers, body)
select 1, '` + home + `', n, case when n = 1 then 7 else 8 end, nullif(n / 2, 0), case when n % 2 = 0 then 1 end, '{"n": "1"}',
       case when n % 2 = 1 then '\x00ff'::bytea || repeat('x', n * 1000)::bytea end
from generate_series(1, 12) n where n <> 11;
insert into sluice.message (tenant_id, process_id, id, edge_id, headers, body)
select 1, gen_random_uuid(), n, 8, '{}', '' from generate_series(1001, 21000) n;
insert into river.river_job (id, state, attempt, attempted_at, args, kind, max_attempts, queue, scheduled_at)
select n, (array['available', 'running', 'retryable', 'scheduled'])[n]::river.river_job_state, n, now(), '{}', 'message', 99, 'e8', '2030-01-02 03:04:05Z'
from generate_series(1, 4) n;
insert into river.river_job (id, args, kind, max_attempts, queue) select n, '{}', 'message', 99, 'e8' from generate_series(1001, 21000) n;
insert into sluice.trash (tenant_id, process_id, message_id, edge_id, attempt, reason) values (1, '` + home + `', 5, 8, 3, 'refused');
insert into sluice.attempt (tenant_id, process_id, message_id, edge_id, runner_id, attempt, page, outcome, status, duration_us, at, reason)
values (1, '` + home + `', 6, 8, 1, 1, 0, 'retried', 500, 1500, now() - interval '3 s', 'broke'),
       (1, '` + home + `', 6, 8, 2, 2, 0, 'unavailable', null, 2000, now() - interval '2 s', 'refused'),
       (1, '` + home + `', 6, 8, 2, 3, 0, 'done', 200, 900, now() - interval '1 s', null),
       (1, '` + home + `', 7, 8, 1, 1, 0, 'filtered', 204, 900, now(), null),
       (1, '` + home + `', 8, 8, 1, 1, 0, 'failed', 400, 900, now(), 'refused');
insert into sluice.decision (tenant_id, process_id, message_id, verdict, decided_by, reason, replaced_by)
values (1, '` + home + `', 8, 'edit', 'ann', '', null), (1, '` + home + `', 8, 'replace', 'bob', 'mended', 9),
       (1, '` + home + `', 9, 'reject', 'ann', 'no use', null), (1, '` + home + `', 10, 'terminate', 'ann', '', null);
insert into sluice.attempt (tenant_id, process_id, message_id, edge_id, runner_id, attempt, page, outcome, duration_us)
select 1, process_id, id, 8, 1, 1, 0, 'done', 1 from sluice.message where id > 1000;
insert into sluice.trash (tenant_id, process_id, message_id, edge_id, attempt, reason)
select 1, process_id, id, 8, 1, '' from sluice.message where id between 1001 and 6000;
insert into sluice.decision (tenant_id, process_id, message_id, verdict, decided_by)
select 1, process_id, id, 'reject', 'ann' from sluice.message where id between 6001 and 11000;
analyze`

// Each message of a process is shown in the one place where it is, with what led there; nothing of it is shown to
// another tenant.
func TestMessages(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	_, err := db.Pool().Exec(t.Context(), places)
	ok(t, err)
	pool, id := db.TenantPool(), uuid.MustParse(home)
	ok(t, process.ForTenant(t.Context(), pool, tenant, func(tx pgx.Tx) error {
		var got []string
		for after := int64(0); ; {
			page, err := process.Messages(t.Context(), tx, tenant, id, after, 4)
			if err != nil || len(page) == 0 {
				break
			}
			for _, m := range page {
				after = m.ID.Number
				got = append(got, fmt.Sprintf("%d %s %d", after, m.Place, m.Size))
			}
		}
		if want := []string{
			"1 waiting 1002", "2 running 1002", "3 retrying 3002", "4 retrying 1002", "5 trash 5002", "6 done 1002",
			"7 filtered 7002", "8 replaced 1002", "9 rejected 9002", "10 terminated 1002", "12 lost 1002",
		}; !slices.Equal(got, want) {
			t.Errorf("messages %q, want %q", got, want)
		}

		d, err := process.FindMessage(t.Context(), tx, tenant, process.MessageID{Process: id, Number: 6})
		ok(t, err)
		if d.Topology != "flow" || d.Version != 4 || d.From != "a" || d.Node != "b" || d.Headers["n"] != "1" || d.Parent.Number != 3 || d.Tries != 3 {
			t.Errorf("found %+v", d)
		}
		var tries []string
		for _, a := range d.Attempts {
			status := 0
			if a.Status != nil {
				status = *a.Status
			}
			tries = append(tries, fmt.Sprintf("%d %s %d %v %s by %d", a.Number, a.Outcome, status, a.Duration, a.Reason, a.Runner))
		}
		if want := []string{"1 retried 500 1.5ms broke by 1", "2 unavailable 0 2ms refused by 2", "3 done 200 900µs  by 2"}; !slices.Equal(tries, want) {
			t.Errorf("attempts %q, want %q", tries, want)
		}

		d, err = process.FindMessage(t.Context(), tx, tenant, process.MessageID{Process: id, Number: 8})
		ok(t, err)
		if d.ReplacedBy == nil || d.ReplacedBy.Number != 9 || len(d.Decisions) != 2 || d.Decisions[1].Reason != "mended" || d.Decisions[1].By != "bob" {
			t.Errorf("found %+v", d)
		}

		first, err := process.Body(t.Context(), tx, tenant, process.MessageID{Process: id, Number: 1})
		ok(t, err)
		shared, err := process.Body(t.Context(), tx, tenant, process.MessageID{Process: id, Number: 10})
		ok(t, err)
		if want := "\x00\xff" + strings.Repeat("x", 1000); string(first) != want || string(shared) != want {
			t.Errorf("bodies of %d and %d bytes, want the same %d", len(first), len(shared), len(want))
		}

		p, err := process.Find(t.Context(), tx, tenant, id)
		ok(t, err)
		if p.State() != process.StateRunning || p.Topology != "flow" || p.Version != 4 || p.Node != "in" || p.Total != 11 {
			t.Errorf("process %+v", p)
		}
		return nil
	}))

	missing := process.MessageID{Process: id, Number: 11}
	for name, look := range map[string]func(process.DB, int64) error{
		"process": func(tx process.DB, tenant int64) error {
			_, err := process.Find(t.Context(), tx, tenant, uuid.Max)
			return err
		},
		"message": func(tx process.DB, tenant int64) error {
			_, err := process.FindMessage(t.Context(), tx, tenant, missing)
			return err
		},
		"body": func(tx process.DB, tenant int64) error {
			_, err := process.Body(t.Context(), tx, tenant, missing)
			return err
		},
		"another tenant's process": func(tx process.DB, _ int64) error {
			_, err := process.Find(t.Context(), tx, 2, id)
			return err
		},
		"another tenant's message": func(tx process.DB, _ int64) error {
			_, err := process.FindMessage(t.Context(), tx, 2, process.MessageID{Process: id, Number: 1})
			return err
		},
	} {
		ok(t, process.ForTenant(t.Context(), pool, tenant, func(tx pgx.Tx) error {
			if err := look(tx, tenant); !errors.Is(err, process.ErrNotFound) {
				t.Errorf("%s: %v", name, err)
			}
			return nil
		}))
	}
	ok(t, process.ForTenant(t.Context(), pool, 2, func(tx pgx.Tx) error {
		got, err := process.Messages(t.Context(), tx, tenant, id, 0, 50)
		if len(got) > 0 {
			t.Errorf("another tenant sees %d messages", len(got))
		}
		return err
	}))
}

// Where a page of messages is read from is found by keys, however many jobs and messages there are.
func TestMessagesPlan(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	_, err := db.Pool().Exec(t.Context(), places)
	ok(t, err)
	for _, mode := range []string{"force_custom_plan", "force_generic_plan"} {
		p := explain(t, db.TenantPool(), mode, process.MessagesSQL, "bigint, uuid, bigint, bigint, int", []any{tenant, home, 0, 1 << 40, 50})
		if !slices.Contains(p.indexes, "river_job_pkey") || !slices.Contains(p.indexes, "message_default_pkey") || p.rows > 120 {
			t.Errorf("%s: %.0f rows by %v\n%s", mode, p.rows, p.indexes, p.text)
		}
	}
}
