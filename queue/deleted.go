package queue

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// River's client and UI can delete a job that is not running. Of a message that is its only ticket: the message would be
// nowhere. It is put into the trash instead, for someone to decide.

// rescueDeleted looks at the edges that should hold more than there is, for the messages that are nowhere.
func (e *Engine) rescueDeleted(ctx context.Context) error {
	var edges []int64
	err := pgx.BeginFunc(ctx, e.pool, func(tx pgx.Tx) error {
		// All that waits is counted. That may take as long as it takes, on one core: the others are for what moves.
		if _, err := tx.Exec(ctx, `set local max_parallel_workers_per_gather = 0`); err != nil {
			return err
		}
		rows, _ := tx.Query(ctx, shortEdgesSQL)
		var err error
		edges, err = pgx.CollectRows(rows, pgx.RowTo[int64])
		return err
	})
	if err != nil || len(edges) == 0 {
		return err
	}
	for rescued := int64(1); rescued > 0; {
		err := pgx.BeginFunc(ctx, e.pool, func(tx pgx.Tx) error {
			// Messages are not indexed by edge: their tables are read from end to end, which this setting of ours forbids.
			if _, err := tx.Exec(ctx, `set local enable_seqscan = on; set local max_parallel_workers_per_gather = 0`); err != nil {
				return err
			}
			return tx.QueryRow(ctx, rescueDeletedSQL, edges, noSlot).Scan(&rescued)
		})
		if err != nil {
			return err
		}
		if rescued > 0 {
			e.log.WarnContext(ctx, "Messages whose jobs were deleted put into the trash", "count", rescued)
		}
	}
	return nil
}
