package queue

import (
	"context"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// adopt makes a message of a job that someone put on an edge with River's own client: a process of its own, whose event
// is the job's arguments. The runner has claimed the job and works the message as it would any other.
func (e *Engine) adopt(ctx context.Context, d *delivery) {
	if d.edge.to.Ordered() {
		e.adoptToLane(ctx, d)
		return
	}
	process := e.clock.newProcessID()
	var headers string
	var body []byte
	var size int
	timed, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	err := pgx.BeginFunc(timed, e.pool, func(tx pgx.Tx) error {
		if err := tx.QueryRow(timed, adoptSQL, d.id, d.edge.tenant, process, d.edge.version.ID, d.edge.from(), d.edge.id, d.life.claimant, noSlot).
			Scan(&headers, &body, &size); err != nil {
			return err
		}
		if keys := d.adoptedKeys(process, body); keys.any() {
			_, err := tx.Exec(timed, entityKeysSQL, keys.args()...)
			return err
		}
		return nil
	})
	if err != nil {
		e.refuseAdoption(ctx, d, err)
		return
	}
	d.load(process, nil, headers, body, d.id)
	d.size = size
	e.launch(d)
}

func (e *Engine) refuseAdoption(ctx context.Context, d *delivery, err error) {
	e.log.WarnContext(ctx, "Job of another program not adopted, it stays on its edge", "job_id", d.id, "err", err)
	e.giveBack(d)
}

// adoptToLane adopts a job before a node that keeps order: its message waits in a lane for its turn, and the job goes.
func (e *Engine) adoptToLane(ctx context.Context, d *delivery) {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	var body []byte
	if err := e.pool.QueryRow(ctx, jobArgumentsSQL, d.id, d.life.claimant).Scan(&body); err != nil {
		e.refuseAdoption(ctx, d, err)
		return
	}
	process, lane := e.clock.newProcessID(), d.edge.laneOf(adoptedHeaders, body)
	var news laneNews
	batch := &pgx.Batch{}
	queueLanes(batch, []laneName{lane}, nil)
	batch.Queue(adoptLaneSQL, d.id, d.edge.tenant, process, d.edge.version.ID, d.edge.from(), d.edge.id, d.life.claimant,
		noSlot, body, lane.edge, lane.key).Query(func(rows pgx.Rows) error { return news.read(rows, func(int64) {}) })
	keys := d.adoptedKeys(process, body)
	keys.queue(batch)
	if err := e.pool.SendBatch(ctx, batch).Close(); err != nil {
		e.refuseAdoption(ctx, d, err)
		return
	}
	e.abandon(d)
	e.wake(news.woke)
}

// adoptedHeaders are those of a message that was adopted.
var adoptedHeaders = map[string]string{"content-type": "application/json"}

// adoptedKeys are what an adopted message is about.
func (d *delivery) adoptedKeys(process uuid.UUID, body []byte) (a entityArrays) {
	a.add(d.edge.tenant, process, d.id, d.edge.version.Graph.EntityKeys(adoptedHeaders, body))
	return a
}

// from is the node that an edge leaves.
func (to *edge) from() string {
	for _, s := range to.version.Edges {
		if s.ID == to.id {
			return s.From
		}
	}
	return ""
}
