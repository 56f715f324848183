package trash

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"sluice/queue/process"
)

// Cause is a group of entries with what has come lately.
type Cause struct {
	Group
	Points []int64 // entries that failed in each of causeSlots, oldest first
}

const (
	causeSlots = 36
	causeSlot  = 5 * time.Minute
	causesFrom = 100_000 // the newest entries
)

// Causes sorts a tenant's newest entries by cause, the most frequent first, with what has come in the last three hours. How
// many it looks at is bounded; those at breakpoints have no cause.
func Causes(ctx context.Context, tx pgx.Tx, tenant int64, limit int) ([]Cause, error) {
	rows, _ := tx.Query(ctx, causesSQL, tenant, causesFrom, limit)
	byCause := map[int64]*Cause{}
	causes, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (c Cause, err error) {
		err = row.Scan(&c.Cause, &c.Class, &c.Reason, &c.Count, &c.FirstSeen, &c.LastSeen)
		c.Text, c.Points = process.CauseOf(c.Reason), make([]int64, causeSlots)
		return c, err
	})
	if err != nil {
		return nil, err
	}
	var wanted []int64
	for i := range causes {
		byCause[*causes[i].Cause] = &causes[i]
		wanted = append(wanted, *causes[i].Cause)
	}
	var cause, n int64
	var ago int
	rows, _ = tx.Query(ctx, lateCausesSQL, tenant, causesFrom, wanted, causeSlots*causeSlot, causeSlot)
	_, err = pgx.ForEachRow(rows, []any{&cause, &ago, &n}, func() error {
		byCause[cause].Points[causeSlots-1-min(max(ago, 0), causeSlots-1)] += n
		return nil
	})
	return causes, err
}

const (
	causesSQL = `
select g.cause, coalesce(g.class, ''), coalesce(last.reason, ''), g.n, g.first_seen, g.last_seen
from (
    select cause, min(class) as class, count(*) as n, min(failed_at) as first_seen, max(failed_at) as last_seen
    from (
        select cause, class, failed_at from sluice.trash where tenant_id = $1
        order by failed_at desc, message_id desc limit $2
    ) r
    where cause is not null and class is distinct from 'breakpoint'
    group by cause
    order by n desc, cause limit $3
) g
left join lateral (
    select r.reason from sluice.trash r
    where r.tenant_id = $1 and r.cause = g.cause
    order by r.failed_at desc, r.message_id desc limit 1
) last on true
order by g.n desc, g.cause`

	lateCausesSQL = `
select cause, floor(extract(epoch from now() - failed_at) / extract(epoch from $5::interval))::int, count(*)
from (
    select cause, failed_at from sluice.trash
    where tenant_id = $1 and failed_at > now() - $4::interval
    order by failed_at desc limit $2
) r
where cause = any($3::bigint[])
group by 1, 2`
)
