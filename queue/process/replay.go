package process

import (
	"context"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Replay is what has repeated a process, or one of its messages.
type Replay struct {
	ID      uuid.UUID // the process that it is
	Message int64     // that it began with; 0: it began at the start
	By      string
	At      time.Time
	Reason  string
}

// replaysShown is how many replays of a process are told of.
const replaysShown = 100

// Replays returns the last replays of a process, newest first.
func Replays(ctx context.Context, db DB, tenant int64, id uuid.UUID) ([]Replay, error) {
	rows, _ := db.Query(ctx, `
		select process_id as id, coalesce(source_message_id, 0) as message, replayed_by as by, replayed_at as at, reason
		from sluice.replay where tenant_id = $1 and source_process_id = $2
		order by process_id desc limit $3`, tenant, id, replaysShown)
	return pgx.CollectRows(rows, pgx.RowToStructByName[Replay])
}

// Steps are messages of processes.
type Steps struct {
	Of    []uuid.UUID // newest first
	Node  string      // that came to this node; "": the processes themselves, as their starts, which have no number
	After MessageID   // only what comes after this one; zero: all
	Limit int
}

// StepsOf returns messages in the order of their processes and of their birth.
func StepsOf(ctx context.Context, db DB, tenant int64, s Steps) ([]MessageID, error) {
	if s.After.Process != uuid.Nil {
		s.Of = slices.DeleteFunc(slices.Clone(s.Of), func(id uuid.UUID) bool { return isBefore(s.After.Process, id) })
	}
	if s.Node == "" {
		steps := make([]MessageID, 0, len(s.Of))
		for _, id := range s.Of {
			if id != s.After.Process && len(steps) < s.Limit {
				steps = append(steps, MessageID{Process: id})
			}
		}
		return steps, nil
	}
	rows, _ := db.Query(ctx, `
		select m.process_id as process, m.id as number
		from unnest($2::uuid[]) with ordinality as w(id, n)
		cross join lateral (
		    select m.process_id, m.id from sluice.message m
		    join sluice.edge e on e.tenant_id = m.tenant_id and e.id = m.edge_id
		    where m.tenant_id = $1 and m.process_id = w.id and e.to_node = $3 and m.id > case when w.id = $4 then $5 else 0 end
		    order by m.id limit $6
		) m
		order by w.n, m.id limit $6`, tenant, s.Of, s.Node, s.After.Process, s.After.Number, s.Limit)
	return pgx.CollectRows(rows, pgx.RowToStructByName[MessageID])
}
