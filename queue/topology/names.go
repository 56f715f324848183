package topology

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// Named is a topology by its names: that of the database, and that of people.
type Named struct {
	ID      int64
	Name    string
	Enabled bool // it takes events
}

// Names returns all of a tenant's topologies, also those that were deleted: what happened keeps their names.
func Names(ctx context.Context, db DB, tenant int64) ([]Named, error) {
	rows, _ := db.Query(ctx, `
		select id, name, deleted_at is null and enabled_version_id is not null as enabled
		from sluice.topology where tenant_id = $1 order by name, id`, tenant)
	return pgx.CollectRows(rows, pgx.RowToStructByName[Named])
}

// Applications returns the applications that the nodes of a tenant's enabled versions talk to.
func Applications(ctx context.Context, db DB, tenant int64) ([]string, error) {
	rows, _ := db.Query(ctx, `
		select distinct n->>'application' from sluice.topology t
		join sluice.topology_version v on v.tenant_id = t.tenant_id and v.id = t.enabled_version_id
		cross join jsonb_array_elements(v.graph->'nodes') n
		where t.tenant_id = $1 and t.deleted_at is null and n->>'application' <> ''
		order by 1`, tenant)
	return pgx.CollectRows(rows, pgx.RowTo[string])
}
