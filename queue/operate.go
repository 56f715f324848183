package queue

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"sluice/queue/process"
	"sluice/queue/topology"
)

// What people do to topologies and messages. Each function takes the caller's transaction, which acts for one tenant,
// and the actor's name for the record; Terminate takes a way to begin transactions, as it needs several.

// HoldsError says that something cannot go because it holds messages.
type HoldsError struct {
	What string
	Held Held
}

func (e *HoldsError) Error() string {
	return fmt.Sprintf("%s holds %d messages (%d waiting, %d running, %d held, %d retrying, %d in the trash)",
		e.What, e.Held.Total(), e.Held.Waiting, e.Held.Running, e.Held.Held, e.Held.Retrying, e.Held.Trashed)
}

// Held is how many messages edges hold, by place.
type Held struct {
	Waiting  int64 `json:"waiting"`
	Running  int64 `json:"running"`
	Held     int64 `json:"held"` // by a limit
	Retrying int64 `json:"retrying"`
	Trashed  int64 `json:"trashed"`
}

// Total is how many messages there are in all places.
func (h Held) Total() int64 { return h.Waiting + h.Running + h.Held + h.Retrying + h.Trashed }

// Publish freezes a topology's draft and makes each of its edges a River queue.
func Publish(ctx context.Context, tx pgx.Tx, tenant int64, name, by string) (topology.Version, error) {
	v, err := topology.Publish(ctx, tx, tenant, name, by)
	if err != nil {
		return v, err
	}
	ids := make([]int64, len(v.Edges))
	for i, e := range v.Edges {
		ids[i] = e.ID
	}
	_, err = tx.Exec(ctx, registerQueuesSQL, ids)
	return v, err
}

// HeldBy counts what the edges of a topology's version hold, or of all its versions if number is 0.
func HeldBy(ctx context.Context, db topology.DB, tenant int64, name string, number int) (Held, error) {
	edges, err := topology.EdgesOf(ctx, db, tenant, name, number)
	if err != nil {
		return Held{}, err
	}
	var h Held
	err = db.QueryRow(ctx, heldBySQL, tenant, edges).Scan(&h.Waiting, &h.Running, &h.Retrying, &h.Held, &h.Trashed)
	return h, err
}

// Leftover says what becomes of the messages of a topology that is deleted.
type Leftover string

// The choices. With Refuse, a topology that holds messages is not deleted.
const (
	Refuse Leftover = ""
	Drain  Leftover = "drain" // they finish where they are; the trash stays until someone decides
	Trash  Leftover = "trash" // what waits or retries goes to the trash; what is running finishes
)

// Delete takes a topology out of use, or one version of it if number is not 0. It returns what that held; if that
// forbids it, the error is a [HoldsError].
func Delete(ctx context.Context, tx pgx.Tx, tenant int64, name string, number int, left Leftover, by string) (Held, error) {
	held, err := HeldBy(ctx, tx, tenant, name, number)
	if err != nil {
		return held, err
	}
	what := name
	if number != 0 {
		what = fmt.Sprintf("%s v%d", name, number)
	}
	if held.Total() > 0 && left == Refuse {
		return held, &HoldsError{What: what, Held: held}
	}
	if left == Trash {
		edges, err := topology.EdgesOf(ctx, tx, tenant, name, number)
		if err != nil {
			return held, err
		}
		for moved := int64(1); moved > 0; {
			var locked int64
			if err := tx.QueryRow(ctx, lockEdgeLanesSQL, tenant, edges).Scan(&locked); err != nil {
				return held, err
			}
			reason := what + " was deleted"
			cause := process.HashOf(process.CauseOf(reason))
			if err := tx.QueryRow(ctx, trashOpenSQL, tenant, edges, reason, by, noSlot, process.ClassDeleted, cause).Scan(&moved); err != nil {
				return held, err
			}
		}
	}
	if number != 0 {
		return held, topology.Retire(ctx, tx, tenant, name, number, by)
	}
	return held, topology.Delete(ctx, tx, tenant, name, by)
}

// Resending is messages of the trash that are to be sent again, and by whom.
type Resending struct {
	Messages   []process.MessageID
	Onto       []int64 // the edge that each goes on at; nil, or 0: the one where it failed
	By, Reason string
	Detail     map[string]any // of the decision, for the record
}

// Resend sends messages of the trash again, at the node where they failed. It returns the message that now stands for
// each: the same one, or its replacement if it was edited or goes on at another edge; and the queues for [Engine.Woke]
// after the commit. Entries that have left the trash are not in the answer.
func (e *Engine) Resend(ctx context.Context, tx pgx.Tx, tenant int64, r Resending) (map[process.MessageID]process.MessageID, []string, error) {
	newIDs, err := e.ids.take(ctx, len(r.Messages))
	if err != nil {
		return nil, nil, err
	}
	if r.Onto == nil {
		r.Onto = make([]int64, len(r.Messages))
	}
	processes, numbers := make([][16]byte, len(r.Messages)), make([]int64, len(r.Messages))
	for i, m := range r.Messages {
		processes[i], numbers[i] = m.Process, m.Number
	}
	lanes, err := e.lanesOf(ctx, tx, tenant, r)
	if err != nil {
		return nil, nil, err
	}
	lane, key, come := make([]int64, len(r.Messages)), make([]string, len(r.Messages)), make([]laneName, 0, len(lanes))
	for i, m := range r.Messages {
		if l, ordered := lanes[m]; ordered {
			lane[i], key[i], come = l.edge, l.key, append(come, l)
		}
	}
	sent, edges := map[process.MessageID]process.MessageID{}, map[process.MessageID]int64{}
	var queues []string
	batch := &pgx.Batch{}
	queueLanes(batch, come, nil)
	batch.Queue(resendSQL, tenant, processes, numbers, newIDs, r.By, r.Reason, noSlot, lane, key, r.Onto, r.Detail).Query(func(rows pgx.Rows) error {
		var id uuid.UUID
		var from, to, edge int64
		_, err := pgx.ForEachRow(rows, []any{&id, &from, &to, &edge}, func() error {
			now := process.MessageID{Process: id, Number: to}
			sent[process.MessageID{Process: id, Number: from}], edges[now] = now, edge
			queues = append(queues, queueName(edge))
			return nil
		})
		return err
	})
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return nil, nil, err
	}
	return sent, queues, e.keepReplacedKeys(ctx, tx, tenant, sent, edges)
}

// lanesOf tells to which lanes messages of the trash go: those of them that are before nodes that keep order. An edit may
// lead to another lane than the one that the message came from, and another version may tell lanes in another way.
func (e *Engine) lanesOf(ctx context.Context, tx pgx.Tx, tenant int64, r Resending) (map[process.MessageID]laneName, error) {
	processes, numbers := make([][16]byte, len(r.Messages)), make([]int64, len(r.Messages))
	for i, m := range r.Messages {
		processes[i], numbers[i] = m.Process, m.Number
	}
	type entry struct {
		ProcessID uuid.UUID
		MessageID int64
		EdgeID    int64
		LaneKey   *string
		Moved     bool
		Edited    bool
		Headers   map[string]string
		Body      []byte
	}
	rows, _ := tx.Query(ctx, entriesSQL, tenant, processes, numbers, r.Onto)
	entries, err := pgx.CollectRows(rows, pgx.RowToStructByName[entry])
	if err != nil {
		return nil, err
	}
	var queues []string
	for _, t := range entries {
		queues = append(queues, queueName(t.EdgeID))
	}
	if _, err := e.catalog.edgesOf(ctx, queues); err != nil {
		return nil, err
	}
	lanes := map[process.MessageID]laneName{}
	for _, t := range entries {
		to := e.catalog.edge(t.EdgeID)
		if to == nil || !to.to.Ordered() {
			continue
		}
		id := process.MessageID{Process: t.ProcessID, Number: t.MessageID}
		lane := laneName{tenant: tenant, edge: to.to.in[0].id}
		switch {
		case t.Edited:
			lane = to.laneOf(t.Headers, t.Body)
		case t.Moved:
			headers, err := process.Headers(ctx, tx, tenant, id)
			if err != nil {
				return nil, err
			}
			body, err := process.Body(ctx, tx, tenant, id)
			if err != nil {
				return nil, err
			}
			lane = to.laneOf(headers, body)
		case t.LaneKey != nil:
			lane.key = *t.LaneKey
		}
		lanes[id] = lane
	}
	return lanes, nil
}

// Woke tells runners, after the commit, that messages wait on these queues.
func (e *Engine) Woke(ctx context.Context, queues []string) {
	if e.lifeIfRunning() != nil {
		if err := e.wakeQueues(ctx, queues); err != nil {
			e.log.WarnContext(ctx, "Edges not woken, the sweep will find them", "err", err)
		}
	}
	for _, q := range queues {
		e.herald.tell(q)
	}
}

// maxTerminatePasses bounds how often Terminate looks again for messages that were born while it worked.
const maxTerminatePasses = 20

// ErrFinished is returned for a process that has nothing left to terminate.
var ErrFinished = errors.New("process has finished")

// Terminate ends a process: everything that it still has on its edges and in the trash is settled as terminated. A call
// that is under way is not cut off, but what it returns is no longer wanted. It returns how many messages it ended.
func Terminate(ctx context.Context, begin Beginner, id uuid.UUID, tenant int64, by, reason string) (int, error) {
	total := 0
	for range maxTerminatePasses {
		n, open, err := terminatePass(ctx, begin, id, tenant, by, reason)
		total += n
		if err != nil {
			return total, err
		}
		if open == 0 {
			if total == 0 {
				return 0, ErrFinished
			}
			return total, nil
		}
	}
	return total, fmt.Errorf("process %s makes messages faster than they can be ended: disable its topology first", id)
}

// Beginner runs a function in a transaction that acts for one tenant.
type Beginner func(ctx context.Context, do func(pgx.Tx) error) error

// terminatePass ends what there is of a process now, and returns how much that was and how much there is then.
func terminatePass(ctx context.Context, begin Beginner, id uuid.UUID, tenant int64, by, reason string) (ended, open int, err error) {
	err = begin(ctx, func(tx pgx.Tx) error {
		var before int
		err := tx.QueryRow(ctx, `select open + trashed from sluice.process where tenant_id = $1 and id = $2`, tenant, id).Scan(&before)
		if errors.Is(err, pgx.ErrNoRows) {
			return process.ErrNotFound
		}
		if err != nil || before == 0 {
			return err
		}
		if _, err := tx.Exec(ctx, lockProcessLanesSQL, tenant, id); err != nil {
			return err
		}
		rows, _ := tx.Query(ctx, terminateLockSQL, tenant, id)
		jobs, err := pgx.CollectRows(rows, pgx.RowTo[int64])
		if err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, terminateSQL, tenant, id, jobs, by, reason, noSlot).Scan(&ended); err != nil {
			return err
		}
		return tx.QueryRow(ctx, `select open + trashed from sluice.process where tenant_id = $1 and id = $2`, tenant, id).Scan(&open)
	})
	return ended, open, err
}
