package queue

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// partitionDays is how many days ahead partitions exist. What comes later, should no engine have run for so long, goes
// to the default partition and is not lost.
const partitionDays = 7

// partitioned are the tables with a partition a day, with the settings of each partition. Counters are updated in
// place, so a process's page keeps room for it.
var partitioned = []struct{ table, with string }{
	{"process", " with (fillfactor = 70)"},
	{"message", ""},
	{"attempt", ""},
	{"entity_key", ""},
}

// ensurePartitions creates the partitions of today and the days to come. A partition is made as a table of its own and
// then attached, which does not stop those who use the parent. Any number of engines may call it at once.
func ensurePartitions(ctx context.Context, pool database) error {
	var today time.Time
	rows, _ := pool.Query(ctx, `
		select c.relname from pg_inherits i
		join pg_class c on c.oid = i.inhrelid join pg_class p on p.oid = i.inhparent
		join pg_namespace n on n.oid = p.relnamespace
		where n.nspname = 'sluice'`)
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	have := map[string]bool{}
	for _, n := range names {
		have[n] = true
	}
	if err := pool.QueryRow(ctx, `select date_trunc('day', now() at time zone 'utc')`).Scan(&today); err != nil {
		return err
	}
	for d := range partitionDays + 1 {
		day := today.AddDate(0, 0, d)
		for _, t := range partitioned {
			name := t.table + day.Format("_20060102")
			if have[name] {
				continue
			}
			err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
				return createPartition(ctx, tx, t.table, t.with, name, day)
			})
			state := sqlState(err)
			if state == duplicateTable || state == uniqueViolation {
				continue // another engine was first
			}
			if state == lockNotAvailable && d > 0 {
				continue // someone holds the table just now, and there are days left to try again
			}
			if state == checkViolation {
				continue // rows of that day lie in the default partition, where no engine had made one in time; they stay there
			}
			if err != nil {
				return fmt.Errorf("create partition %s: %w", name, err)
			}
		}
	}
	return nil
}

func createPartition(ctx context.Context, tx pgx.Tx, table, with, name string, day time.Time) error {
	for _, sql := range []string{
		`set local lock_timeout = '5s'`,
		fmt.Sprintf(`create table sluice.%s (like sluice.%s including all)%s`, name, table, with),
		fmt.Sprintf(`alter table sluice.%s enable row level security`, name),
		fmt.Sprintf(`alter table sluice.%s force row level security`, name),
		fmt.Sprintf(`alter table sluice.%s attach partition sluice.%s for values from ('%s') to ('%s')`,
			table, name, firstIDAt(day), firstIDAt(day.AddDate(0, 0, 1))),
	} {
		if _, err := tx.Exec(ctx, sql); err != nil {
			return err
		}
	}
	return nil
}
