package trash

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"sluice/queue/process"
	"sluice/queue/topology"
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
	row, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[entryRow])
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
	d := Detail{Entry: row.entry(), Headers: message.Headers, Attempts: message.Attempts, Decisions: message.Decisions}
	if d.Body, err = process.Body(ctx, tx, tenant, id); err != nil {
		return Detail{}, err
	}
	if d.Edit, err = findEdit(ctx, tx, tenant, id); err != nil {
		return Detail{}, err
	}
	if d.Process, err = process.Find(ctx, tx, tenant, id.Process); err != nil {
		return Detail{}, err
	}
	if err := tx.QueryRow(ctx, `
		select count(*) from sluice.attempt
		where tenant_id = $1 and process_id = $2 and message_id = $3 and outcome = 'failed'`,
		tenant, id.Process, id.Number).Scan(&d.Failures); err != nil {
		return Detail{}, err
	}
	d.Where, err = findWhere(ctx, tx, tenant, id)
	return d, err
}

// findWhere tells where in its topology an entry stopped.
func findWhere(ctx context.Context, tx pgx.Tx, tenant int64, id process.MessageID) (w Where, err error) {
	var graph topology.Graph
	var node string
	if err := tx.QueryRow(ctx, `
		select v.graph, e.from_node, e.to_node, array(
		    select o.number from sluice.topology_version o
		    where o.tenant_id = v.tenant_id and o.topology_id = v.topology_id and o.id <> v.id and o.number is not null and o.retired_at is null
		    and exists (select from sluice.edge oe where oe.tenant_id = o.tenant_id and oe.version_id = o.id and oe.to_node = e.to_node)
		    order by o.number)
		from sluice.trash r
		join sluice.edge e on e.tenant_id = r.tenant_id and e.id = r.edge_id
		join sluice.topology_version v on v.tenant_id = e.tenant_id and v.id = e.version_id
		where r.tenant_id = $1 and r.process_id = $2 and r.message_id = $3`,
		tenant, id.Process, id.Number).Scan(&graph, &w.From, &node, &w.Versions); err != nil {
		return w, err
	}
	w.Node, _ = graph.Node(node)
	w.Node.Name = node
	return w, nil
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
