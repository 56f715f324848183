package trash

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"sluice/queue/process"
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
