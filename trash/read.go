package trash

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"sluice/queue/process"
)

// List returns a tenant's entries, the oldest messages first.
func (t *Trash) List(ctx context.Context, tenant int64, f Filter) (entries []Entry, err error) {
	err = process.ForTenant(ctx, t.pool, tenant, func(tx pgx.Tx) error {
		rows, err := query(ctx, tx, tenant, f)
		if err == nil {
			entries, err = pgx.CollectRows(rows, toEntry)
		}
		return err
	})
	return entries, err
}

// query reads along the index that the filter asks for: of all entries, or of those of some edges.
func query(ctx context.Context, tx pgx.Tx, tenant int64, f Filter) (pgx.Rows, error) {
	if f.Topology == "" && f.Version == 0 && f.Node == "" {
		return tx.Query(ctx, oldestSQL, tenant, f.After, f.Limit)
	}
	rows, _ := tx.Query(ctx, `
		select e.id from sluice.topology t
		join sluice.topology_version v on v.tenant_id = t.tenant_id and v.topology_id = t.id
		join sluice.edge e on e.tenant_id = v.tenant_id and e.version_id = v.id
		where t.tenant_id = $1 and ($2 = '' or t.name = $2) and ($3 = 0 or v.number = $3) and ($4 = '' or e.to_node = $4)`,
		tenant, f.Topology, f.Version, f.Node)
	edges, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return nil, err
	}
	return tx.Query(ctx, oldestOfSQL, tenant, f.After, f.Limit, edges)
}

const (
	oldestSQL = entryColumns + `
from (
    select * from sluice.trash
    where tenant_id = $1 and message_id > $2
    order by message_id limit $3
) r` + entryNames + `
order by r.message_id`

	// oldestOfSQL takes the oldest of the oldest of each edge.
	oldestOfSQL = entryColumns + `
from (
    select r.* from unnest($4::bigint[]) as e(id)
    cross join lateral (
        select * from sluice.trash
        where tenant_id = $1 and edge_id = e.id and message_id > $2
        order by message_id limit $3
    ) r
    order by r.message_id limit $3
) r` + entryNames + `
order by r.message_id`

	entrySQL = entryColumns + `
from (
    select * from sluice.trash
    where tenant_id = $1 and process_id = $2 and message_id = $3
) r` + entryNames

	entryColumns = `
select r.process_id, r.message_id, t.name as topology, v.number as version, e.to_node as node, r.reason, r.attempt, r.failed_at,
       r.edit_id is not null as edited, coalesce(octet_length(m.body), octet_length(p.body), 0)::bigint as size`

	entryNames = `
join sluice.edge e on e.tenant_id = r.tenant_id and e.id = r.edge_id
join sluice.topology_version v on v.tenant_id = e.tenant_id and v.id = e.version_id
join sluice.topology t on t.tenant_id = v.tenant_id and t.id = v.topology_id
cross join lateral (
    select m.payload_id, m.body from sluice.message m
    where m.tenant_id = r.tenant_id and m.process_id = r.process_id and m.id = r.message_id
    limit 1
) m
left join lateral (
    select p.body from sluice.message p
    where p.tenant_id = r.tenant_id and p.process_id = r.process_id and p.id = m.payload_id
    limit 1
) p on true`
)

// Find returns an entry with its content, or a [GoneError].
func (t *Trash) Find(ctx context.Context, tenant int64, id process.MessageID) (d Detail, err error) {
	err = process.ForTenant(ctx, t.pool, tenant, func(tx pgx.Tx) error {
		d, err = find(ctx, tx, tenant, id)
		return err
	})
	return d, err
}

func find(ctx context.Context, tx pgx.Tx, tenant int64, id process.MessageID) (Detail, error) {
	rows, _ := tx.Query(ctx, entrySQL, tenant, id.Process, id.Number)
	entry, err := pgx.CollectExactlyOneRow(rows, toEntry)
	if errors.Is(err, pgx.ErrNoRows) {
		return Detail{}, &GoneError{Messages: []process.MessageID{id}}
	}
	if err != nil {
		return Detail{}, err
	}
	message, err := process.FindMessage(ctx, tx, tenant, id)
	if err != nil {
		return Detail{}, err
	}
	d := Detail{Entry: entry, Headers: message.Headers, Attempts: message.Attempts, Decisions: message.Decisions}
	if d.Body, err = process.Body(ctx, tx, tenant, id); err != nil {
		return Detail{}, err
	}
	d.Edit, err = findEdit(ctx, tx, tenant, id)
	return d, err
}

// findEdit returns the edit of an entry that counts, if there is one.
func findEdit(ctx context.Context, tx pgx.Tx, tenant int64, id process.MessageID) (*Edit, error) {
	var e Edit
	err := tx.QueryRow(ctx, `
		select d.headers, d.body, d.decided_by, d.decided_at
		from sluice.trash r
		join sluice.decision d on d.tenant_id = r.tenant_id and d.id = r.edit_id
		where r.tenant_id = $1 and r.process_id = $2 and r.message_id = $3`,
		tenant, id.Process, id.Number).Scan(&e.Headers, &e.Body, &e.By, &e.At)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	return &e, err
}

// entryRow is a row of entrySQL.
type entryRow struct {
	ProcessID uuid.UUID
	MessageID int64
	Topology  string
	Version   int
	Node      string
	Reason    string
	Attempt   int
	FailedAt  time.Time
	Edited    bool
	Size      int64
}

func toEntry(row pgx.CollectableRow) (Entry, error) {
	r, err := pgx.RowToStructByName[entryRow](row)
	return Entry{
		ID:       process.MessageID{Process: r.ProcessID, Number: r.MessageID},
		Topology: r.Topology,
		Version:  r.Version,
		Node:     r.Node,
		Reason:   r.Reason,
		Attempt:  r.Attempt,
		FailedAt: r.FailedAt,
		Edited:   r.Edited,
		Size:     r.Size,
	}, err
}
