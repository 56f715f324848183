package trash

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"sluice/queue"
	"sluice/queue/process"
	"sluice/queue/worker"
)

// Act is what someone does about entries: to all of them, or to none.
type Act struct {
	By      string
	Reason  string
	Entries []process.MessageID
	Seen    []int64        // the revision of each as By has seen it; nil, or 0: whatever it is
	Detail  map[string]any // for the record
}

// Approve sends the messages again, each at the node where it failed, and says as what. All are sent, or none: then the
// error is a [GoneError] or a [ChangedError].
func (t *Trash) Approve(ctx context.Context, tenant int64, act Act) ([]Sent, error) {
	return t.approve(ctx, tenant, act, 0)
}

// ApproveOnto sends the messages again in another version of their topologies, each at the node of the same name as the
// one where it failed, on the edge from the same node as it came from if there is one. A message belongs to the version that it is on, so a new
// one goes on in its place, with the same content, or the edited, and a key of its own; its process stays that of the
// version where it began. The error may be a [TargetError], too.
func (t *Trash) ApproveOnto(ctx context.Context, tenant int64, act Act, version int) ([]Sent, error) {
	return t.approve(ctx, tenant, act, version)
}

func (t *Trash) approve(ctx context.Context, tenant int64, act Act, version int) ([]Sent, error) {
	act = act.distinct()
	var as map[process.MessageID]process.MessageID
	var queues []string
	err := t.decide(ctx, tenant, func(tx pgx.Tx) error {
		if err := claim(ctx, tx, tenant, act); err != nil {
			return err
		}
		var err error
		as, queues, err = t.resend(ctx, tx, tenant, act, version)
		return err
	})
	if err != nil {
		return nil, err
	}
	t.engine.Woke(ctx, queues)
	sent := make([]Sent, len(act.Entries))
	for i, id := range act.Entries {
		sent[i] = Sent{ID: id, As: as[id]}
	}
	return sent, nil
}

// resend sends entries that are locked.
func (t *Trash) resend(ctx context.Context, tx pgx.Tx, tenant int64, act Act, version int) (map[process.MessageID]process.MessageID, []string, error) {
	r := queue.Resending{Messages: act.Entries, By: act.By, Reason: act.Reason, Detail: act.Detail}
	if version != 0 {
		onto, err := targets(ctx, tx, tenant, act.Entries, version)
		if err != nil {
			return nil, nil, err
		}
		r.Onto = onto
		r.Detail = with(act.Detail, "version", version)
	}
	return t.engine.Resend(ctx, tx, tenant, r)
}

// with is a detail with something more in it.
func with(detail map[string]any, name string, value any) map[string]any {
	more := maps.Clone(detail)
	if more == nil {
		more = map[string]any{}
	}
	more[name] = value
	return more
}

// targets finds the edges of another version at which entries go on.
func targets(ctx context.Context, tx pgx.Tx, tenant int64, ids []process.MessageID, version int) ([]int64, error) {
	processes, numbers := columns(ids)
	rows, _ := tx.Query(ctx, `
		select coalesce(other.id, 0)
		from unnest($2::uuid[], $3::bigint[]) with ordinality as w(process_id, message_id, n)
		join sluice.trash r on r.tenant_id = $1 and r.process_id = w.process_id and r.message_id = w.message_id
		join sluice.edge e on e.tenant_id = r.tenant_id and e.id = r.edge_id
		join sluice.topology_version v on v.tenant_id = e.tenant_id and v.id = e.version_id
		left join lateral (
		    select o.id from sluice.topology_version ov
		    join sluice.edge o on o.tenant_id = ov.tenant_id and o.version_id = ov.id and o.to_node = e.to_node
		    where ov.tenant_id = v.tenant_id and ov.topology_id = v.topology_id and ov.number = $4 and (ov.retired_at is null or ov.id = v.id)
		    order by o.id <> e.id, o.from_node <> e.from_node, o.id limit 1
		) other on true
		order by w.n`, tenant, processes, numbers, version)
	edges, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return nil, err
	}
	var none []process.MessageID
	for i, edge := range edges {
		if edge == 0 {
			none = append(none, ids[i])
		}
	}
	if none != nil {
		return nil, &TargetError{Version: version, Messages: none}
	}
	return edges, nil
}

// Reject gives the messages up: they count as settled, and are kept with who gave them up and why. All of them, or
// none: then the error is a [GoneError] or a [ChangedError].
func (t *Trash) Reject(ctx context.Context, tenant int64, act Act) error {
	act = act.distinct()
	return t.decide(ctx, tenant, func(tx pgx.Tx) error {
		if err := claim(ctx, tx, tenant, act); err != nil {
			return err
		}
		return reject(ctx, tx, tenant, act)
	})
}

// reject gives up entries that are locked.
func reject(ctx context.Context, tx pgx.Tx, tenant int64, act Act) error {
	processes, numbers := columns(act.Entries)
	_, err := tx.Exec(ctx, `
		with entry as (
		    delete from sluice.trash t using unnest($2::uuid[], $3::bigint[]) as w(process_id, message_id)
		    where t.tenant_id = $1 and t.process_id = w.process_id and t.message_id = w.message_id
		    returning t.process_id, t.message_id
		), old_cursor as (
		    delete from sluice.batch_cursor c using entry e
		    where c.tenant_id = $1 and c.process_id = e.process_id and c.message_id = e.message_id
		), new_decision as (
		    insert into sluice.decision (tenant_id, process_id, message_id, verdict, decided_by, reason, detail)
		    select $1, process_id, message_id, 'reject', $4, $5, $6::jsonb from entry order by message_id
		), delta as (
		    select process_id, count(*)::int as n from entry group by process_id
		)
		update sluice.process p
		set trashed = p.trashed - d.n, rejected = p.rejected + d.n,
		    finished_at = case when p.open = 0 and p.trashed - d.n = 0 then now() end
		from delta d
		where p.tenant_id = $1 and p.id = d.process_id`, tenant, processes, numbers, act.By, act.Reason, act.Detail)
	return err
}

// Assign says whose the entries are; "" makes them nobody's.
func (t *Trash) Assign(ctx context.Context, tenant int64, act Act, to string) error {
	act = act.distinct()
	return t.decide(ctx, tenant, func(tx pgx.Tx) error {
		if err := lock(ctx, tx, tenant, act); err != nil {
			return err
		}
		return assign(ctx, tx, tenant, act, to)
	})
}

// assign says whose entries are that are locked.
func assign(ctx context.Context, tx pgx.Tx, tenant int64, act Act, to string) error {
	processes, numbers := columns(act.Entries)
	_, err := tx.Exec(ctx, `
		with was as (
		    select t.process_id, t.message_id, coalesce(t.assigned_to, '') as assigned_to
		    from sluice.trash t join unnest($2::uuid[], $3::bigint[]) as w(process_id, message_id) using (process_id, message_id)
		    where t.tenant_id = $1
		), new_decision as (
		    insert into sluice.decision (tenant_id, process_id, message_id, verdict, decided_by, reason, detail)
		    select $1, process_id, message_id, 'assign', $4, $5, $7::jsonb || jsonb_build_object('from', assigned_to)
		    from was order by message_id
		)
		update sluice.trash t set assigned_to = nullif($6, ''), revision = nextval('sluice.trash_revision_seq')
		from was w
		where t.tenant_id = $1 and t.process_id = w.process_id and t.message_id = w.message_id`,
		tenant, processes, numbers, act.By, act.Reason, to, with(act.Detail, "to", to))
	return err
}

// Comment adds a remark to the history of entries: the act's reason.
func (t *Trash) Comment(ctx context.Context, tenant int64, act Act) error {
	act = act.distinct()
	return t.decide(ctx, tenant, func(tx pgx.Tx) error {
		if err := lock(ctx, tx, tenant, act); err != nil {
			return err
		}
		return comment(ctx, tx, tenant, act)
	})
}

// comment adds a remark to the history of entries that are locked.
func comment(ctx context.Context, tx pgx.Tx, tenant int64, act Act) error {
	processes, numbers := columns(act.Entries)
	_, err := tx.Exec(ctx, `
		with commented as (
		    update sluice.trash t set revision = nextval('sluice.trash_revision_seq')
		    from unnest($2::uuid[], $3::bigint[]) as w(process_id, message_id)
		    where t.tenant_id = $1 and t.process_id = w.process_id and t.message_id = w.message_id
		    returning t.process_id, t.message_id
		)
		insert into sluice.decision (tenant_id, process_id, message_id, verdict, decided_by, reason, detail)
		select $1, process_id, message_id, 'comment', $4, $5, $6::jsonb from commented order by message_id`,
		tenant, processes, numbers, act.By, act.Reason, act.Detail)
	return err
}

// Edit says what is to be sent instead when the entry is approved. The content that failed is kept; of several edits
// the last one counts. The content must be one that a worker can be called with, and JSON if it was JSON and still says
// that it is: otherwise the error is [ErrContent].
func (t *Trash) Edit(ctx context.Context, tenant int64, act Act, content Content) error {
	if err := worker.CheckHeaders(content.Headers); err != nil {
		return fmt.Errorf("%w: %w", ErrContent, err)
	}
	return t.decide(ctx, tenant, func(tx pgx.Tx) error {
		if err := claim(ctx, tx, tenant, act); err != nil {
			return err
		}
		for _, id := range act.Entries {
			before, err := original(ctx, tx, tenant, id)
			if err != nil {
				return err
			}
			if err := edit(ctx, tx, tenant, act, id, before, content); err != nil {
				return err
			}
		}
		return nil
	})
}

// original is the content that failed.
func original(ctx context.Context, tx pgx.Tx, tenant int64, id process.MessageID) (c Content, err error) {
	if c.Headers, err = process.Headers(ctx, tx, tenant, id); err != nil {
		return c, err
	}
	c.Body, err = process.Body(ctx, tx, tenant, id)
	return c, err
}

// sendable refuses content that may not stand for another.
func sendable(before, content Content) error {
	if err := worker.CheckHeaders(content.Headers); err != nil {
		return fmt.Errorf("%w: %w", ErrContent, err)
	}
	return stillJSON(before, content)
}

// edit stores other content for an entry that is locked.
func edit(ctx context.Context, tx pgx.Tx, tenant int64, act Act, id process.MessageID, before, content Content) error {
	if err := sendable(before, content); err != nil {
		return err
	}
	if content.Headers == nil {
		content.Headers = map[string]string{}
	}
	if content.Body == nil {
		content.Body = []byte{} // an empty body is a body
	}
	detail := with(act.Detail, "bytes", len(content.Body))
	detail["body_changed"] = !bytes.Equal(before.Body, content.Body)
	var changed []string
	for _, h := range headersDiffer(before.Headers, content.Headers) {
		changed = append(changed, h.Name)
	}
	if changed != nil {
		detail["headers_changed"] = changed
	}
	_, err := tx.Exec(ctx, `
		with edit as (
		    insert into sluice.decision (tenant_id, process_id, message_id, verdict, decided_by, reason, headers, body, detail)
		    values ($1, $2, $3, 'edit', $4, $5, $6, $7, $8)
		    returning id
		)
		update sluice.trash set edit_id = edit.id, revision = nextval('sluice.trash_revision_seq') from edit
		where tenant_id = $1 and process_id = $2 and message_id = $3`,
		tenant, id.Process, id.Number, act.By, act.Reason, content.Headers, content.Body, detail)
	return err
}

// DiscardEdit takes an edit back: the entry is as it failed. That is kept as an edit without content. An entry that is
// not edited stays as it is.
func (t *Trash) DiscardEdit(ctx context.Context, tenant int64, act Act) error {
	act = act.distinct()
	return t.decide(ctx, tenant, func(tx pgx.Tx) error {
		if err := claim(ctx, tx, tenant, act); err != nil {
			return err
		}
		processes, numbers := columns(act.Entries)
		_, err := tx.Exec(ctx, `
			with discarded as (
			    update sluice.trash t set edit_id = null, revision = nextval('sluice.trash_revision_seq')
			    from unnest($2::uuid[], $3::bigint[]) as w(process_id, message_id)
			    where t.tenant_id = $1 and t.process_id = w.process_id and t.message_id = w.message_id and t.edit_id is not null
			    returning t.process_id, t.message_id
			)
			insert into sluice.decision (tenant_id, process_id, message_id, verdict, decided_by, reason)
			select $1, process_id, message_id, 'edit', $4, 'the edit was discarded' from discarded order by message_id`,
			tenant, processes, numbers, act.By)
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

// lock makes sure that all entries are in the trash, are what was seen, and stay there until the transaction ends: whoever
// decides about one of them at the same time waits, and then finds it gone. Entries are locked in order, then their
// processes, so that nobody waits in a circle. What follows runs in later statements, which see what was waited for.
func lock(ctx context.Context, tx pgx.Tx, tenant int64, act Act) error {
	there, err := lockEntries(ctx, tx, tenant, act.Entries)
	if err != nil {
		return err
	}
	var gone, changed []process.MessageID
	for i, id := range act.Entries {
		revision, is := there[id]
		switch {
		case !is:
			gone = append(gone, id)
		case act.Seen != nil && act.Seen[i] != 0 && act.Seen[i] != revision:
			changed = append(changed, id)
		}
	}
	switch {
	case gone != nil:
		return &GoneError{Messages: gone}
	case changed != nil:
		return &ChangedError{Messages: changed}
	}
	return nil
}

// claim locks entries that are decided about, or edited, by someone who may.
func claim(ctx context.Context, tx pgx.Tx, tenant int64, act Act) error {
	if err := lock(ctx, tx, tenant, act); err != nil {
		return err
	}
	denied, err := notAllowed(ctx, tx, tenant, act)
	if err != nil || len(denied) == 0 {
		return err
	}
	refused := &NotAllowedError{}
	for _, id := range act.Entries {
		if mayAct, is := denied[id]; is {
			refused.Messages = append(refused.Messages, id)
			if refused.MayAct == nil {
				refused.MayAct = mayAct
			}
		}
	}
	return refused
}

// lockEntries locks those entries that are in the trash, and their processes, and returns their revisions.
func lockEntries(ctx context.Context, tx pgx.Tx, tenant int64, ids []process.MessageID) (map[process.MessageID]int64, error) {
	processes, numbers := columns(ids)
	there := make(map[process.MessageID]int64, len(ids))
	rows, _ := tx.Query(ctx, `
		select t.process_id, t.message_id, t.revision
		from sluice.trash t
		where t.tenant_id = $1 and (t.process_id, t.message_id) in (select * from unnest($2::uuid[], $3::bigint[]))
		order by t.process_id, t.message_id
		for update`, tenant, processes, numbers)
	var id process.MessageID
	var revision int64
	if _, err := pgx.ForEachRow(rows, []any{&id.Process, &id.Number, &revision}, func() error {
		there[id] = revision
		return nil
	}); err != nil {
		return nil, err
	}
	_, err := tx.Exec(ctx, `
		select from sluice.process where tenant_id = $1 and id = any($2::uuid[]) order by id for update`, tenant, processes)
	return there, err
}

// columns is ids as arguments of a statement.
func columns(ids []process.MessageID) (processes []uuid.UUID, numbers []int64) {
	for _, id := range ids {
		processes, numbers = append(processes, id.Process), append(numbers, id.Number)
	}
	return processes, numbers
}

// distinct is the act with each entry once, in order.
func (a Act) distinct() Act {
	if len(a.Entries) == 0 {
		return a
	}
	order := make([]int, len(a.Entries))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(i, j int) int {
		x, y := a.Entries[i], a.Entries[j]
		return cmp.Or(bytes.Compare(x.Process[:], y.Process[:]), cmp.Compare(x.Number, y.Number))
	})
	once := a
	once.Entries, once.Seen = nil, nil
	for n, i := range order {
		if n > 0 && a.Entries[order[n-1]] == a.Entries[i] {
			continue
		}
		once.Entries = append(once.Entries, a.Entries[i])
		if a.Seen != nil {
			once.Seen = append(once.Seen, a.Seen[i])
		}
	}
	return once
}
