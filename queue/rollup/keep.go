package rollup

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Kept is how long counts of each step are kept, in the order of the steps.
var Kept = []struct {
	Step int // minutes
	For  time.Duration
}{{1, 3 * 24 * time.Hour}, {15, 15 * 24 * time.Hour}, {60, 100 * 24 * time.Hour}, {1440, 5 * 366 * 24 * time.Hour}}

// prune forgets counts that are kept no longer, some thousands at a time.
func (l *Leader) prune(ctx context.Context) error {
	if time.Since(l.pruned) < pruneGap {
		return nil
	}
	for _, k := range Kept {
		for gone := int64(1); gone > 0; {
			if err := l.begin(ctx, func(tx pgx.Tx) error {
				tag, err := tx.Exec(ctx, `
					delete from sluice.rollup where ctid = any(array(
					    select r.ctid from sluice.tenant t
					    cross join unnest($4::text[]) as s(scope)
					    cross join lateral (
					        select r.ctid from sluice.rollup r
					        where r.tenant_id = t.id and r.scope = s.scope and r.step = $1 and r.at < now() - $2::interval
					        limit $3) r
					    limit $3))`, k.Step, k.For, pruneMost, scopes)
				gone = tag.RowsAffected()
				return err
			}); err != nil {
				return fmt.Errorf("forget counts of %d minutes: %w", k.Step, err)
			}
		}
	}
	l.pruned = time.Now()
	return nil
}

// ensureIndexes gives the indexes by which the records of a minute are found to partitions that were too large for the
// migration to do so.
func (l *Leader) ensureIndexes(ctx context.Context) error {
	rows, _ := l.pool.Query(ctx, `
		select p.relname as parent, c.relname as child, case p.relname when 'attempt' then 'at' else 'created_at' end as column
		from pg_inherits i join pg_class c on c.oid = i.inhrelid join pg_class p on p.oid = i.inhparent
		where p.oid in ('sluice.attempt'::regclass, 'sluice.message'::regclass) and not exists (
		    select from pg_inherits x join pg_index n on n.indexrelid = x.inhrelid
		    where n.indrelid = c.oid and x.inhparent = (case p.relname when 'attempt' then 'sluice.attempt_at_idx' else 'sluice.message_created_at_idx' end)::regclass)
		order by 1, 2`)
	type part struct{ Parent, Child, Column string }
	missing, err := pgx.CollectRows(rows, pgx.RowToStructByName[part])
	if err != nil {
		return err
	}
	for _, p := range missing {
		name := pgx.Identifier{"sluice", p.Child + "_" + p.Column + "_idx"}.Sanitize()
		for _, sql := range []string{
			`drop index concurrently if exists ` + name, // that was left half done
			fmt.Sprintf(`create index concurrently %s on %s using brin (%s) with (pages_per_range = 256, autosummarize = on)`,
				pgx.Identifier{p.Child + "_" + p.Column + "_idx"}.Sanitize(), pgx.Identifier{"sluice", p.Child}.Sanitize(), p.Column),
			fmt.Sprintf(`alter index %s attach partition %s`, pgx.Identifier{"sluice", p.Parent + "_" + p.Column + "_idx"}.Sanitize(), name),
		} {
			if _, err := l.pool.Exec(ctx, sql); err != nil {
				return fmt.Errorf("index %s by time: %w", p.Child, err)
			}
		}
	}
	return nil
}
