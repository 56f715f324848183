package topology

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// Revision is a number that grows with each change of a tenant's configuration.
func Revision(ctx context.Context, db DB, tenant int64) (revision int64, err error) {
	err = db.QueryRow(ctx, `select coalesce((select revision from sluice.configuration where tenant_id = $1), 0)`, tenant).Scan(&revision)
	return revision, err
}

// PlacedNode is a node with the version that it is part of.
type PlacedNode struct {
	Topology string
	Version  int
	Node     Node
}

// PublishedNodes returns the nodes of a tenant's published versions, the newest first and at most so many. Retired
// versions and deleted topologies are among them: messages finish where they started.
func PublishedNodes(ctx context.Context, db DB, tenant int64, limit int) ([]PlacedNode, error) {
	rows, _ := db.Query(ctx, `
		select t.name as topology, v.number as version, n.node
		from sluice.topology_version v
		join sluice.topology t on t.tenant_id = v.tenant_id and t.id = v.topology_id
		cross join lateral jsonb_array_elements(v.graph -> 'nodes') n (node)
		where v.tenant_id = $1 and v.number is not null
		order by v.id desc limit $2`, tenant, limit)
	return pgx.CollectRows(rows, pgx.RowToStructByName[PlacedNode])
}
