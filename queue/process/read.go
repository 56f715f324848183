package process

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Process is everything that one event set off.
type Process struct {
	ID       uuid.UUID // the correlation id
	Topology string
	Version  int
	Node     string // the start node that the event came to

	// Each message counts in Total and in one of the others.
	Total      int
	Open       int // on an edge: waiting, running or retrying
	Trashed    int // in the trash: failed, or parked
	Done       int // finished, filtered, or replaced by an edited one
	Rejected   int
	Terminated int

	StartedAt  time.Time
	FinishedAt *time.Time // nil while anything is open or in the trash

	Parked bool // all that is in the trash waits at breakpoints

	// Of a replay: what it repeats, and who wanted that.
	ReplayOf        *uuid.UUID // the process; nil: it is none
	ReplayOfMessage *int64     // of that; nil: from its start
	ReplayedBy      *string
	ReplayReason    *string
}

// State is how a process stands. It follows from the counters.
type State string

// The states of a process. A finished one is named after the strongest thing that happened to it.
const (
	StateRunning    State = "running"    // something is on an edge
	StateFailed     State = "failed"     // nothing moves any more, and something waits in the trash
	StateParked     State = "parked"     // nothing moves any more, and only at breakpoints messages wait for a person
	StateTerminated State = "terminated" // finished; someone ended it
	StateRejected   State = "rejected"   // finished; someone gave up some of it
	StateDone       State = "done"       // finished
)

// States are all of them.
var States = []State{StateRunning, StateFailed, StateParked, StateTerminated, StateRejected, StateDone}

// State is how the process stands.
func (p Process) State() State {
	switch {
	case p.Open > 0:
		return StateRunning
	case p.Trashed > 0 && p.Parked:
		return StateParked
	case p.Trashed > 0:
		return StateFailed
	case p.Terminated > 0:
		return StateTerminated
	case p.Rejected > 0:
		return StateRejected
	}
	return StateDone
}

const processColumns = `
    p.id, t.name as topology, v.number as version, p.node, p.total, p.open, p.trashed, p.done, p.rejected, p.terminated,
    p.started_at, p.finished_at,
    -- One that failed is found at once; nearly no process has anything in the trash.
    p.trashed > 0 and not exists (
        select from sluice.trash r
        where r.tenant_id = p.tenant_id and r.process_id = p.id and r.class is distinct from 'breakpoint') as parked,
    again.source_process_id as replay_of, again.source_message_id as replay_of_message, again.replayed_by, again.reason as replay_reason`

const processNames = `
join sluice.topology_version v on v.tenant_id = p.tenant_id and v.id = p.version_id
join sluice.topology t on t.tenant_id = v.tenant_id and t.id = v.topology_id
left join sluice.replay again on again.tenant_id = p.tenant_id and again.process_id = p.id`

// Find returns a process, or [ErrNotFound].
func Find(ctx context.Context, db DB, tenant int64, id uuid.UUID) (Process, error) {
	rows, _ := db.Query(ctx, `select`+processColumns+` from sluice.process p`+processNames+`
		where p.tenant_id = $1 and p.id = $2`, tenant, id)
	p, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Process])
	return p, found(err)
}

func found(err error) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return ErrNotFound
	}
	return err
}
