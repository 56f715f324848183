package queue

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"sluice/queue/topology"
)

// EdgeDepth is what an edge holds.
type EdgeDepth struct {
	Version  int
	Retired  bool // the version is out of use
	From, To string
	Messages int64 // open: waiting, running, held or retrying
	Bytes    int64 // of their bodies
	Waiting  int64
	Running  int64
	Held     int64 // by a limit
	Retrying int64
	Trashed  int64
	Arrived  int64         // messages that ever came onto the edge; an approved one comes again
	Departed int64         // that left it: settled, or to the trash
	Oldest   *time.Time    // since when the one that has waited longest could be worked; nil: none waits
	Age      time.Duration // how long that is, by the database's clock
}

// DepthOf returns the edges of a topology's version, or of all its versions if number is 0, in the order of version and
// graph. What an edge holds is known by its counters; only what is running or retrying is counted.
func DepthOf(ctx context.Context, db topology.DB, tenant int64, name string, number int) ([]EdgeDepth, error) {
	edges, err := topology.EdgesOf(ctx, db, tenant, name, number)
	if err != nil {
		return nil, err
	}
	rows, _ := db.Query(ctx, depthSQL, tenant, edges)
	return pgx.CollectRows(rows, pgx.RowToStructByName[EdgeDepth])
}
