package process

import (
	"context"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Entity is something that processes are about, such as an order, as their topologies declare it. Without a kind it is any
// kind with that value.
type Entity struct {
	Kind  string
	Value string
}

// IsZero tells that nothing is named.
func (e Entity) IsZero() bool { return e.Value == "" }

// entitiesShown is how many entities of a process are told. Few have more than the kinds of their topology.
const entitiesShown = 100

// Entities tells what a process is about.
func Entities(ctx context.Context, db DB, tenant int64, id uuid.UUID) ([]Entity, error) {
	rows, _ := db.Query(ctx, `
		select kind, value from sluice.entity_key where tenant_id = $1 and process_id = $2 order by kind, value limit $3`,
		tenant, id, entitiesShown)
	return pgx.CollectRows(rows, pgx.RowToStructByName[Entity])
}

// About returns the newest processes that are about an entity, n at most.
func About(ctx context.Context, db DB, tenant int64, e Entity, n int) ([]uuid.UUID, error) {
	rows, _ := db.Query(ctx, aboutSQL+`select process_id from about`, tenant, e.Kind, e.Value, uuid.Max, n)
	return pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
}

// isAbout tells whether a process is about an entity.
func isAbout(ctx context.Context, db DB, tenant int64, id uuid.UUID, e Entity) (is bool, err error) {
	err = db.QueryRow(ctx, `
		select exists (select from sluice.entity_key where tenant_id = $1 and process_id = $2 and ($3 = '' or kind = $3) and value = $4)`,
		tenant, id, e.Kind, e.Value).Scan(&is)
	return is, err
}

// aboutKindsSQL finds the kinds that an entity is of.
const aboutKindsSQL = `
with recursive kinds as (
    (select kind from sluice.entity_key where tenant_id = $1 and value = $3 and ($2 = '' or kind = $2) order by kind limit 1)
    union all
    select (select e.kind from sluice.entity_key e where e.tenant_id = $1 and e.value = $3 and e.kind > kinds.kind order by e.kind limit 1)
    from kinds where kinds.kind is not null and $2 = ''
)`

// aboutSQL names the next $5 processes before $4 that are about an entity: of its kind, or of each kind that has the value,
// which are found by stepping through the index. Many processes of one kind do not hide few of another.
const aboutSQL = aboutKindsSQL + `, about as materialized (
    select distinct k.process_id from kinds
    cross join lateral (
        select process_id from sluice.entity_key
        where tenant_id = $1 and value = $3 and kind = kinds.kind and process_id < $4
        order by process_id desc limit $5
    ) k
    where kinds.kind is not null
    order by k.process_id desc limit $5
)
`

// aboutListSQL lists the processes that are about an entity.
const aboutListSQL = aboutSQL + `
select` + processColumns + `
from about
join sluice.process p on p.tenant_id = $1 and p.id = about.process_id` + processNames + `
order by p.id desc`
