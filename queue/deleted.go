package queue

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// River's client and UI can delete a job that is not running. Of a message that is its only ticket: the message would be
// nowhere. It is put into the trash instead, for someone to decide.

// rescueDeleted looks at the edges that should hold more than there is, for the messages that are nowhere.
func (e *Engine) rescueDeleted(ctx context.Context) error {
	rows, _ := e.pool.Query(ctx, shortEdgesSQL)
	edges, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil || len(edges) == 0 {
		return err
	}
	for rescued := int64(1); rescued > 0; {
		err := pgx.BeginFunc(ctx, e.pool, func(tx pgx.Tx) error {
			// Messages are not indexed by edge: their tables are read from end to end, which this setting of ours forbids.
			if _, err := tx.Exec(ctx, `set local enable_seqscan = on`); err != nil {
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
