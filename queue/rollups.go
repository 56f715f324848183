package queue

import (
	"context"

	"github.com/jackc/pgx/v5"

	"sluice/queue/rollup"
)

// rollUpLoop counts what happened, when it is this runner's turn. It is no job of River's: a minute is to be counted as soon
// as it is over, and who counts is told by the lock on the mark, in the transaction that counts.
func (e *Engine) rollUpLoop(ctx context.Context) {
	rollup.NewLeader(e.conns, e.log).Run(ctx)
}

// checkRollups compares what was counted with the records.
func (c *checker) checkRollups(ctx context.Context, tx pgx.Tx) error {
	records := rollup.AllKept
	var dropped bool
	if err := tx.QueryRow(ctx, `select coalesce($1::timestamptz > counted_from, false) from sluice.rollup_mark`, c.firstDay).Scan(&dropped); err != nil {
		return err
	}
	if dropped {
		records = rollup.SomeGone
	}
	found, err := rollup.Audit(ctx, tx, records)
	for _, m := range found {
		c.violation("rollup-wrong", m.String(), "counted attempts, messages and microseconds are %q, the records say %q", m.Says, m.Is)
	}
	return err
}
