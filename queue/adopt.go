package queue

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// adopt makes a message of a job that someone put on an edge with River's own client: a process of its own, whose event
// is the job's arguments. The runner has claimed the job and works the message as it would any other.
func (e *Engine) adopt(ctx context.Context, d *delivery) {
	process := e.clock.newProcessID()
	var headers string
	var body []byte
	timed, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	err := pgx.BeginFunc(timed, e.pool, func(tx pgx.Tx) error {
		return tx.QueryRow(timed, adoptSQL, d.id, d.edge.tenant, process, d.edge.version.ID, d.edge.from(), d.edge.id, d.life.claimant, noSlot).
			Scan(&headers, &body)
	})
	if err != nil {
		e.log.WarnContext(ctx, "Job of another program not adopted, it stays on its edge", "job_id", d.id, "err", err)
		e.giveBack(d)
		return
	}
	d.load(process, nil, headers, body, d.id)
	e.launch(d)
}

// from is the node that an edge leaves.
func (e *edge) from() string {
	for _, s := range e.version.Edges {
		if s.ID == e.id {
			return s.From
		}
	}
	return ""
}
