package rollup

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Mismatch is a count that is not what it should be.
type Mismatch struct {
	Tenant  int64
	Scope   Scope
	Subject string
	Step    int
	At      time.Time
	Says    string // attempts, messages and microseconds
	Is      string
}

// String names what was counted wrong.
func (m Mismatch) String() string {
	return fmt.Sprintf("%s %s, %d minutes from %s", m.Scope, m.Subject, m.Step, m.At.UTC().Format(time.RFC3339))
}

// Records says how much of the history there is to compare with.
type Records int

// What is said of records.
const (
	AllKept  Records = iota // nothing that was counted is missing
	SomeGone                // history was dropped; what was counted of it is not missed
)

// Audit compares what was counted with the records, as far back as counts by the hour are kept, and longer steps with
// shorter ones, in the snapshot of the transaction. It reads all records.
func Audit(ctx context.Context, tx pgx.Tx, r Records) ([]Mismatch, error) {
	rows, _ := tx.Query(ctx, auditRecordsSQL, Kept[0].For, Kept[2].For, r == SomeGone)
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Mismatch])
	if err != nil {
		return nil, err
	}
	for i, k := range Kept[:len(Kept)-1] {
		rows, _ = tx.Query(ctx, auditStepsSQL, k.Step, Kept[i+1].Step, k.For)
		more, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Mismatch])
		if err != nil {
			return nil, err
		}
		found = append(found, more...)
	}
	rows, _ = tx.Query(ctx, auditScopesSQL, Kept[0].For)
	more, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Mismatch])
	return append(found, more...), err
}

// auditRecordsSQL compares the counts of edges with records: by the minute while those are kept, and before that by the hour.
const auditRecordsSQL = `
with mark as materialized (
    select minutes_until, date_bin('1 hour', now() - $1::interval, 'epoch') + interval '1 hour' as minutes_from,
           hours_until, greatest(date_bin('1 hour', counted_from - interval '1 microsecond', 'epoch') + interval '1 hour', date_bin('1 hour', now() - $2::interval, 'epoch') + interval '1 hour') as hours_from,
           counted_from
    from sluice.rollup_mark
), record as (
    select tenant_id, edge_id, at, 1 as attempts, 0 as messages, case when outcome in ('parked', 'unavailable') then 0 else duration_us end as us from sluice.attempt
    union all
    select tenant_id, edge_id, created_at, 0, 1, 0 from sluice.message
), fact as materialized (
    select tenant_id, edge_id::text collate "C" as subject, 1 as step, date_bin('1 minute', at, 'epoch') as at, sum(attempts) as attempts, sum(messages) as messages, sum(us) as us
    from record, mark where at >= greatest(minutes_from, counted_from) and at < minutes_until
    group by 1, 2, 4
    union all
    select tenant_id, edge_id::text, 60, date_bin('1 hour', at, 'epoch'), sum(attempts), sum(messages), sum(us)
    from record, mark where at >= hours_from and at < least(minutes_from, hours_until)
    group by 1, 2, 4
), told as materialized (
    select tenant_id, subject, step::int, at, done + filtered + failed + parked + retried + repeated + unavailable + pages as attempts, arrived as messages, latency_us as us
    from sluice.rollup, mark
    where scope = 'edge' and (step = 1 and at >= minutes_from or step = 60 and at >= hours_from and at < minutes_from)
)
select tenant_id, 'edge', subject, step, at, format('%s %s %s', s.attempts, s.messages, s.us), format('%s %s %s', i.attempts, i.messages, i.us)
from fact i full join told s using (tenant_id, subject, step, at)
where (coalesce(i.attempts, 0), coalesce(i.messages, 0), coalesce(i.us, 0)) <> (coalesce(s.attempts, 0), coalesce(s.messages, 0), coalesce(s.us, 0))
and (not $3 or coalesce(i.attempts, 0) > coalesce(s.attempts, 0) or coalesce(i.messages, 0) > coalesce(s.messages, 0))
order by at, tenant_id, subject limit 1000`

const auditSums = `sum(done + filtered + failed + parked + retried + repeated + unavailable + pages) as attempts, sum(arrived) as messages, sum(latency_us) as us`

const auditDiffer = `
from fact i full join told s using (tenant_id, scope, subject, step, at)
where (coalesce(i.attempts, 0), coalesce(i.messages, 0), coalesce(i.us, 0)) <> (coalesce(s.attempts, 0), coalesce(s.messages, 0), coalesce(s.us, 0))
order by at, tenant_id, scope, subject limit 1000`

// auditStepsSQL compares the counts of a step, $2, with those of the shorter one that they were made from, $1.
const auditStepsSQL = `
with span as materialized (
    select date_bin($2 * interval '1 minute', now() - $3::interval, 'epoch') + $2 * interval '1 minute' as since,
           case $2 when 15 then quarters_until when 60 then hours_until else days_until end as until
    from sluice.rollup_mark
), fact as materialized (
    select tenant_id, scope, subject, $2 as step, date_bin($2 * interval '1 minute', at, 'epoch') as at, ` + auditSums + `
    from sluice.rollup, span where step = $1 and at >= since and at < until
    group by 1, 2, 3, 5
), told as materialized (
    select tenant_id, scope, subject, $2 as step, at, ` + auditSums + `
    from sluice.rollup, span where step = $2 and at >= since
    group by 1, 2, 3, 5
)
select tenant_id, scope, subject, step, at, format('%s %s %s', s.attempts, s.messages, s.us), format('%s %s %s', i.attempts, i.messages, i.us)` + auditDiffer

// auditScopesSQL compares what was counted together, and of topologies, applications and workers with what was counted of their edges.
const auditScopesSQL = `
with span as materialized (
    select now() - $1::interval + interval '1 minute' as since
), label as materialized (
    select e.tenant_id, e.id::text collate "C" as edge, s.scope, s.subject
    from sluice.edge e
    join sluice.topology_version v on v.tenant_id = e.tenant_id and v.id = e.version_id
    left join lateral (select n from jsonb_array_elements(v.graph->'nodes') n where n->>'name' = e.to_node limit 1) n on true
    cross join lateral (values ('all', ''), ('topology', v.topology_id::text), ('application', n->>'application'), ('worker', n->>'worker')) as s(scope, subject)
    where s.subject <> '' or s.scope = 'all'
), fact as materialized (
    select r.tenant_id, l.scope, l.subject collate "C" as subject, 1 as step, r.at, ` + auditSums + `
    from span, sluice.rollup r join label l on l.tenant_id = r.tenant_id and l.edge = r.subject
    where r.scope = 'edge' and r.step = 1 and r.at >= since
    group by 1, 2, 3, 5
), told as materialized (
    select tenant_id, scope, subject, 1 as step, at, ` + auditSums + `
    from span, sluice.rollup where scope <> 'edge' and step = 1 and at >= since
    group by 1, 2, 3, 5
)
select tenant_id, scope, subject, step, at, format('%s %s %s', s.attempts, s.messages, s.us), format('%s %s %s', i.attempts, i.messages, i.us)` + auditDiffer
