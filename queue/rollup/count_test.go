package rollup

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"sluice/migrations/pgtest"
)

// world is two tenants with a topology each, of two edges: one to a node that calls an application, and one to another.
const world = `
insert into sluice.tenant (id, name) overriding system value values (7, 'seven');
insert into sluice.topology (tenant_id, id, name) overriding system value values (1, 10, 'flow'), (7, 70, 'flow');
insert into sluice.topology_version (tenant_id, id, topology_id, number, graph, source, created_by, published_at) overriding system value
select t, t * 10, t * 10, 1, '{"nodes": [{"name": "in"}, {"name": "a", "worker": "w", "application": "shop"}, {"name": "b", "worker": "v"}]}', '', '', now()
from unnest(array[1, 7]) t;
insert into sluice.edge (tenant_id, id, version_id, from_node, to_node) overriding system value
values (1, 11, 10, 'in', 'a'), (1, 12, 10, 'a', 'b'), (7, 71, 70, 'in', 'a'), (7, 72, 70, 'a', 'b')`

// recount is what must have been counted of a scope, from the records: a line for each step, tenant and subject.
const recount = `
with labelled as (
    select e.id, e.tenant_id, case $1 when 'all' then '' when 'edge' then e.id::text when 'topology' then v.topology_id::text
                                  when 'application' then n->>'application' else n->>'worker' end as subject
    from sluice.edge e join sluice.topology_version v on v.id = e.version_id
    cross join lateral (select n from jsonb_array_elements(v.graph->'nodes') n where n->>'name' = e.to_node) n
), record as (
    select edge_id, at, 0 as events, 0 as arrived, outcome::text, duration_us from sluice.attempt
    union all
    select edge_id, created_at, (parent_id is null and payload_id is null)::int, 1, '', 0 from sluice.message
)
select string_agg(format('%s %s %s %s: %s %s %s %s %s %s %s %s', l.tenant_id, l.subject, $2::int, date_part, events, arrived, done, filtered, failed, retried, other, us), e'\n'
                  order by l.tenant_id, l.subject, date_part)
from (
    select l.tenant_id, l.subject, extract(epoch from date_bin($2::int * $3::interval, at, timestamptz 'epoch')) as date_part, sum(events) as events, sum(arrived) as arrived,
           count(*) filter (where outcome = 'done') as done, count(*) filter (where outcome = 'filtered') as filtered,
           count(*) filter (where outcome = 'failed') as failed, count(*) filter (where outcome = 'retried') as retried,
           count(*) filter (where outcome in ('parked', 'unavailable', 'page', 'repeat')) as other,
           coalesce(sum(duration_us) filter (where outcome not in ('parked', 'unavailable')), 0) as us
    from record r join labelled l on l.id = r.edge_id
    where l.subject is not null and at < date_bin($2::int * $3::interval, $4, timestamptz 'epoch')
    group by 1, 2, 3
) l`

const counted = `
select string_agg(format('%s %s %s %s: %s %s %s %s %s %s %s %s', tenant_id, subject, $2::int, extract(epoch from at), events, arrived, done, filtered, failed, retried,
                         parked + unavailable + pages + repeated, latency_us), e'\n' order by tenant_id, subject, at)
from sluice.rollup where scope = $1 and step = $2::int and at < date_bin($2::int * $3::interval, $4, timestamptz 'epoch')`

// reconcile compares what was counted with the records, step by step and scope by scope.
func reconcile(t *testing.T, l *Leader, until time.Time) {
	t.Helper()
	for _, step := range []int{1, 15, 60, 1440} {
		for _, scope := range scopes {
			var want, got *string
			ok(t, l.pool.QueryRow(t.Context(), recount, scope, step, l.minute, until).Scan(&want))
			ok(t, l.pool.QueryRow(t.Context(), counted, scope, step, l.minute, until).Scan(&got))
			if (want == nil) != (got == nil) || want != nil && *want != *got {
				t.Errorf("%s by %d: counted\n%s\nand the records say\n%s", scope, step, first(got), first(want))
			}
		}
	}
}

func first(s *string) string {
	if s == nil {
		return "nothing"
	}
	lines := strings.SplitN(*s, "\n", 20)
	return strings.Join(lines[:min(len(lines), 19)], "\n")
}

func newLeader(pool *pgxpool.Pool) *Leader { return NewLeader(pool, slog.New(slog.DiscardHandler)) }

// records are attempts and messages of two days, some of processes of days before, in minutes that do not follow each
// other.
const records = `
insert into sluice.attempt (tenant_id, process_id, message_id, edge_id, runner_id, attempt, page, outcome, duration_us, at)
select (array[1, 7])[1 + n % 2], gen_random_uuid(), n, (array[11, 72, 12, 71])[1 + n % 4], 1, 1, 0,
       (array['done', 'done', 'done', 'filtered', 'failed', 'retried', 'page', 'repeat', 'unavailable', 'parked'])[1 + n * 7 % 10]::sluice.outcome,
       n * n % 100000, $1::timestamptz + n * interval '61.7 seconds'
from generate_series(0, 2700) n;
insert into sluice.message (tenant_id, process_id, id, edge_id, parent_id, payload_id, headers, created_at)
select (array[1, 7])[1 + n % 2], gen_random_uuid(), n, (array[11, 72, 12, 71])[1 + n % 4], nullif(n % 3, 0), nullif(n % 5, 0), '{}', $1::timestamptz + n * interval '59.3 seconds'
from generate_series(0, 2700) n`

// After a pause everything since is counted, once, whoever counts and however often they look; and the counts of longer
// steps are those of the shorter ones.
func TestCatchUp(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t).Pool()
	start := time.Now().UTC().Truncate(24*time.Hour).AddDate(0, 0, -2)
	for _, sql := range []string{world, strings.ReplaceAll(records, "$1", "'"+start.Format(time.RFC3339)+"'"), `
		update sluice.rollup_mark set counted_from = '` + start.Format(time.RFC3339) + `'`, `
		update sluice.rollup_mark set minutes_until = counted_from, quarters_until = counted_from, hours_until = counted_from, days_until = counted_from`} {
		_, err := pool.Exec(t.Context(), sql)
		ok(t, err)
	}
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			l, deadline := newLeader(pool), time.Now().Add(30*time.Second)
			for time.Since(until(t, pool)) > 3*time.Minute {
				if time.Now().After(deadline) {
					t.Errorf("counted until %v only", until(t, pool))
					return
				}
				if _, err := l.Round(t.Context()); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	l := newLeader(pool)
	reconcile(t, l, until(t, pool))

	// What is kept no longer is forgotten, and nothing else.
	_, err := pool.Exec(t.Context(), `insert into sluice.rollup (tenant_id, scope, step, at, subject)
		select 7, 'edge', 1, now() - interval '3 days' - n * interval '1 minute', 'old' from generate_series(1, 6000) n`)
	ok(t, err)
	ok(t, l.prune(t.Context()))
	var old, others int
	ok(t, pool.QueryRow(t.Context(), `select count(*) filter (where step = 1 and at < now() - interval '3 days'), count(*) filter (where step > 1) from sluice.rollup`).Scan(&old, &others))
	if old != 0 || others == 0 {
		t.Errorf("%d old rows are left, and %d of longer steps", old, others)
	}
}

func until(t *testing.T, pool *pgxpool.Pool) (at time.Time) {
	t.Helper()
	ok(t, pool.QueryRow(t.Context(), `select minutes_until from sluice.rollup_mark`).Scan(&at))
	return at
}

// Records whose transactions commit late and in any order are counted once, while two leaders count as fast as they can.
// A minute takes 40 ms here.
func TestCommitsOutOfOrder(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t).Pool()
	_, err := pool.Exec(t.Context(), world)
	ok(t, err)
	_, err = pool.Exec(t.Context(), `
		update sluice.rollup_mark set minutes_until = date_bin('57.6 s', now(), 'epoch'), quarters_until = date_bin('57.6 s', now(), 'epoch'),
		       hours_until = date_bin('57.6 s', now(), 'epoch'), days_until = date_bin('57.6 s', now(), 'epoch')`)
	ok(t, err)
	ctx, stop := context.WithCancel(t.Context())
	var writers, leaders sync.WaitGroup
	newShort := func() *Leader {
		l := newLeader(pool)
		l.minute, l.margin, l.span = 40*time.Millisecond, 10*time.Millisecond, 40*time.Millisecond
		return l
	}
	for range 2 {
		leaders.Go(func() {
			for l := newShort(); ctx.Err() == nil; {
				if _, err := l.Round(ctx); err != nil && ctx.Err() == nil {
					t.Error(err)
					return
				}
			}
		})
	}
	rolledBack := errors.New("rolled back")
	for w := range 6 {
		writers.Go(func() {
			for n := range 40 {
				if err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
					delay := rand.IntN(90)
					if w == 0 {
						delay = 100 + rand.IntN(500) // over many minutes
					}
					_, err := tx.Exec(t.Context(), fmt.Sprintf(`
						with slow as materialized (select pg_sleep(%f)), new_message as (
						    insert into sluice.message (tenant_id, process_id, id, edge_id, headers) select 1, $1, $2, 11, '{}' from slow)
						insert into sluice.attempt (tenant_id, process_id, message_id, edge_id, runner_id, attempt, page, outcome, duration_us)
						values (1, $1, $2, 11, 1, 1, 0, 'done', 700), (7, $1, $2, 72, 1, 1, 0, 'failed', 900)`, float64(delay)/1000), uuid.New(), n)
					if err == nil && n%7 == 3 {
						err = rolledBack
					}
					return err
				}); err != nil && !errors.Is(err, rolledBack) {
					t.Error(err)
				}
				if w == 0 && n > 10 {
					return
				}
			}
		})
	}
	writers.Wait()
	l := newShort()
	var last time.Time
	ok(t, pool.QueryRow(t.Context(), `select max(at) from sluice.attempt`).Scan(&last))
	for deadline := time.Now().Add(30 * time.Second); !until(t, pool).After(last); {
		if time.Now().After(deadline) {
			t.Fatalf("counted until %v, and never beyond %v", until(t, pool), last)
		}
		_, err := l.Round(t.Context())
		ok(t, err)
	}
	stop()
	leaders.Wait()
	reconcile(t, l, until(t, pool))
}

// What is open is not decided: neither a transaction that has written, nor one that may yet.
func TestSealWaitsForWhatIsOpen(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t).Pool()
	decided := func() (m mark) {
		ok(t, newLeader(pool).begin(t.Context(), func(tx pgx.Tx) (err error) {
			m, err = seal(t.Context(), tx)
			return err
		}))
		return m
	}
	for name, sql := range map[string]string{
		"has written": `insert into sluice.attempt (tenant_id, process_id, message_id, edge_id, runner_id, attempt, page, outcome, duration_us) values (1, gen_random_uuid(), 1, 1, 1, 1, 0, 'done', 1)`,
		"may write":   `select 1`,
	} {
		tx, err := pool.Begin(t.Context())
		ok(t, err)
		var began time.Time
		_, err = tx.Exec(t.Context(), sql)
		ok(t, err)
		ok(t, tx.QueryRow(t.Context(), `select now()`).Scan(&began))
		if m := decided(); m.Decided.After(began) {
			t.Errorf("decided until %v with one open since %v that %s", m.Decided, began, name)
		}
		ok(t, tx.Commit(t.Context()))
		if m := decided(); !m.Decided.After(began) {
			t.Errorf("decided until %v after one that %s and is over", m.Decided, name)
		}
	}
}

// The records of a minute are found by their time, on partitions that are made later too.
func TestRecordsPlan(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t).Pool()
	_, err := pool.Exec(t.Context(), `
		create table sluice.attempt_later (like sluice.attempt including all);
		create table sluice.message_later (like sluice.message including all);
		alter table sluice.attempt attach partition sluice.attempt_later for values from ('01980000-0000-7000-8000-000000000000') to ('01990000-0000-7000-8000-000000000000');
		alter table sluice.message attach partition sluice.message_later for values from ('01980000-0000-7000-8000-000000000000') to ('01990000-0000-7000-8000-000000000000')`)
	ok(t, err)
	for table, column := range map[string]string{"attempt": "at", "message": "created_at"} {
		plan := pgtest.Explain(t, pool, `select count(*) from sluice.`+table+` where `+column+` >= now() - interval '1 minute' and `+column+` < now()`)
		if strings.Count(plan, "Bitmap Index Scan") != 2 || strings.Contains(plan, "Seq Scan") {
			t.Errorf("%s\n%s", table, plan)
		}
	}
	var broken int
	ok(t, pool.QueryRow(t.Context(), `select count(*) from pg_index where indexrelid in ('sluice.attempt_at_idx'::regclass, 'sluice.message_created_at_idx'::regclass) and not indisvalid`).Scan(&broken))
	if broken != 0 {
		t.Error("an index of records is not whole")
	}
	// Partitions that the migration left out get theirs from whoever counts.
	_, err = pool.Exec(t.Context(), `
		alter table sluice.attempt detach partition sluice.attempt_later;
		drop index sluice.attempt_later_at_idx;
		drop index sluice.attempt_at_idx;
		create index attempt_at_idx on only sluice.attempt using brin (at) with (pages_per_range = 256, autosummarize = on)`)
	ok(t, err)
	l := newLeader(pool)
	ok(t, l.ensureIndexes(t.Context()))
	ok(t, l.ensureIndexes(t.Context()))
	var whole bool
	ok(t, pool.QueryRow(t.Context(), `select indisvalid from pg_index where indexrelid = 'sluice.attempt_at_idx'::regclass`).Scan(&whole))
	if !whole {
		t.Error("the index of attempts is not whole")
	}
}
