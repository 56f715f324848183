package trash

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"sluice/queue/process"
	"sluice/queue/worker"
)

// Approve sends the messages again, each at the node where it failed, and says as what. All are sent, or none: then the
// error is a [GoneError].
func (t *Trash) Approve(ctx context.Context, tenant int64, by, reason string, ids ...process.MessageID) ([]Sent, error) {
	ids = distinct(ids)
	var as map[process.MessageID]process.MessageID
	var queues []string
	err := t.decide(ctx, tenant, func(tx pgx.Tx) error {
		err := lock(ctx, tx, tenant, ids)
		if err == nil {
			as, queues, err = t.engine.Resend(ctx, tx, tenant, ids, by, reason)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	t.engine.Woke(ctx, queues)
	sent := make([]Sent, len(ids))
	for i, id := range ids {
		sent[i] = Sent{ID: id, As: as[id]}
	}
	return sent, nil
}

// Reject gives the messages up: they count as settled, and are kept with who gave them up and why. All of them, or
// none: then the error is a [GoneError].
func (t *Trash) Reject(ctx context.Context, tenant int64, by, reason string, ids ...process.MessageID) error {
	ids = distinct(ids)
	return t.decide(ctx, tenant, func(tx pgx.Tx) error {
		if err := lock(ctx, tx, tenant, ids); err != nil {
			return err
		}
		processes, numbers := columns(ids)
		_, err := tx.Exec(ctx, `
			with entry as (
			    delete from sluice.trash t using unnest($2::uuid[], $3::bigint[]) as w(process_id, message_id)
			    where t.tenant_id = $1 and t.process_id = w.process_id and t.message_id = w.message_id
			    returning t.process_id, t.message_id
			), old_cursor as (
			    delete from sluice.batch_cursor c using entry e
			    where c.tenant_id = $1 and c.process_id = e.process_id and c.message_id = e.message_id
			), new_decision as (
			    insert into sluice.decision (tenant_id, process_id, message_id, verdict, decided_by, reason)
			    select $1, process_id, message_id, 'reject', $4, $5 from entry order by message_id
			), delta as (
			    select process_id, count(*)::int as n from entry group by process_id
			)
			update sluice.process p
			set trashed = p.trashed - d.n, rejected = p.rejected + d.n,
			    finished_at = case when p.open = 0 and p.trashed - d.n = 0 then now() end
			from delta d
			where p.tenant_id = $1 and p.id = d.process_id`, tenant, processes, numbers, by, reason)
		return err
	})
}

// Edit says what is to be sent instead when the entry is approved. The content that failed is kept; of several edits
// the last one counts. The content must be one that a worker can be called with: otherwise the error is [ErrContent].
func (t *Trash) Edit(ctx context.Context, tenant int64, by string, id process.MessageID, content Content) error {
	if err := worker.CheckHeaders(content.Headers); err != nil {
		return fmt.Errorf("%w: %w", ErrContent, err)
	}
	if content.Headers == nil {
		content.Headers = map[string]string{}
	}
	if content.Body == nil {
		content.Body = []byte{} // an empty body is a body
	}
	return t.decide(ctx, tenant, func(tx pgx.Tx) error {
		if err := lock(ctx, tx, tenant, []process.MessageID{id}); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `
			with edit as (
			    insert into sluice.decision (tenant_id, process_id, message_id, verdict, decided_by, headers, body)
			    values ($1, $2, $3, 'edit', $4, $5, $6)
			    returning id
			)
			update sluice.trash set edit_id = edit.id from edit
			where tenant_id = $1 and process_id = $2 and message_id = $3`,
			tenant, id.Process, id.Number, by, content.Headers, content.Body)
		return err
	})
}

// DiscardEdit takes an edit back: the entry is as it failed. That is kept as an edit without content. An entry that is
// not edited stays as it is.
func (t *Trash) DiscardEdit(ctx context.Context, tenant int64, by string, id process.MessageID) error {
	return t.decide(ctx, tenant, func(tx pgx.Tx) error {
		if err := lock(ctx, tx, tenant, []process.MessageID{id}); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `
			with discarded as (
			    update sluice.trash set edit_id = null
			    where tenant_id = $1 and process_id = $2 and message_id = $3 and edit_id is not null
			    returning tenant_id, process_id, message_id
			)
			insert into sluice.decision (tenant_id, process_id, message_id, verdict, decided_by, reason)
			select tenant_id, process_id, message_id, 'edit', $4, 'the edit was discarded' from discarded`,
			tenant, id.Process, id.Number, by)
		return err
	})
}

// decideTries bounds how often a decision is tried that was caught in a circle of waiting.
const decideTries = 5

// decide runs a decision in a transaction. Those made here never wait for each other in a circle, but the engine locks
// entries too, when it ends a process: when Postgres breaks such a circle, nothing was done, and it is done again.
func (t *Trash) decide(ctx context.Context, tenant int64, do func(pgx.Tx) error) (err error) {
	for range decideTries {
		err = process.ForTenant(ctx, t.pool, tenant, do)
		var pg *pgconn.PgError
		if !errors.As(err, &pg) || pg.Code != deadlockDetected {
			return err
		}
	}
	return err
}

const deadlockDetected = "40P01"

// lock makes sure that all entries are in the trash and stay there until the transaction ends: whoever decides about
// one of them at the same time waits, and then finds it gone. Entries are locked in order, then their processes, so
// that nobody waits in a circle. What follows runs in later statements, which see what was waited for.
func lock(ctx context.Context, tx pgx.Tx, tenant int64, ids []process.MessageID) error {
	processes, numbers := columns(ids)
	rows, _ := tx.Query(ctx, `
		select t.process_id as process, t.message_id as number
		from sluice.trash t
		where t.tenant_id = $1 and (t.process_id, t.message_id) in (select * from unnest($2::uuid[], $3::bigint[]))
		order by t.process_id, t.message_id
		for update`, tenant, processes, numbers)
	there, err := pgx.CollectRows(rows, pgx.RowToStructByName[process.MessageID])
	if err != nil {
		return err
	}
	if gone := without(ids, there); len(gone) > 0 {
		return &GoneError{Messages: gone}
	}
	_, err = tx.Exec(ctx, `
		select from sluice.process where tenant_id = $1 and id = any($2::uuid[]) order by id for update`, tenant, processes)
	return err
}

// columns is ids as arguments of a statement.
func columns(ids []process.MessageID) (processes []uuid.UUID, numbers []int64) {
	for _, id := range ids {
		processes, numbers = append(processes, id.Process), append(numbers, id.Number)
	}
	return processes, numbers
}

// distinct returns each id once, in order.
func distinct(ids []process.MessageID) []process.MessageID {
	ids = slices.Clone(ids)
	slices.SortFunc(ids, func(a, b process.MessageID) int {
		return cmp.Or(bytes.Compare(a.Process[:], b.Process[:]), cmp.Compare(a.Number, b.Number))
	})
	return slices.Compact(ids)
}

// without returns the ids that are not among the others.
func without(ids, others []process.MessageID) (rest []process.MessageID) {
	is := make(map[process.MessageID]bool, len(others))
	for _, id := range others {
		is[id] = true
	}
	for _, id := range ids {
		if !is[id] {
			rest = append(rest, id)
		}
	}
	return rest
}
