package topology

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// What the functions of this file return when the database does not hold what they need.
var (
	ErrNotFound    = errors.New("topology not found")           // no topology of that name, or no such version of it
	ErrNoDraft     = errors.New("topology has no draft")        // nothing to publish
	ErrNotEnabled  = errors.New("topology is not enabled")      // it takes no events now
	ErrNoneBefore  = errors.New("no version before this one")   // nothing to roll back to
	ErrUnpublished = errors.New("topology was never published") // nothing to enable
)

// DB is a pool or a transaction.
type DB interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Version is a topology's graph at one time. Once published it has a number and edges, and never changes.
type Version struct {
	TenantID    int64
	TopologyID  int64
	ID          int64
	Topology    string
	Number      int // 0: the draft
	Graph       Graph
	Source      string // the file as it was applied
	Enabled     bool   // new events go to it
	CreatedAt   time.Time
	CreatedBy   string
	PublishedAt *time.Time
	PublishedBy *string
	RetiredAt   *time.Time
	Edges       []Edge
}

// Edge leads from a node to another, in one version.
type Edge struct {
	ID   int64
	From string
	To   string
}

// State is where a version stands: draft, published, enabled or retired.
func (v Version) State() string {
	switch {
	case v.Number == 0:
		return "draft"
	case v.Enabled:
		return "enabled"
	case v.RetiredAt != nil:
		return "retired"
	}
	return "published"
}

// Label names the version for people: orders v3, or orders draft.
func (v Version) Label() string {
	if v.Number == 0 {
		return v.Topology + " draft"
	}
	return fmt.Sprintf("%s v%d", v.Topology, v.Number)
}

const versionColumns = `
    v.tenant_id, v.topology_id, v.id, t.name as topology, coalesce(v.number, 0) as number, v.graph, v.source,
    coalesce(t.enabled_version_id = v.id, false) as enabled, v.created_at, v.created_by, v.published_at, v.published_by, v.retired_at,
    coalesce((select jsonb_agg(jsonb_build_object('ID', e.id, 'From', e.from_node, 'To', e.to_node) order by e.id)
              from sluice.edge e where e.tenant_id = v.tenant_id and e.version_id = v.id), '[]') as edges
from sluice.topology_version v
join sluice.topology t on t.tenant_id = v.tenant_id and t.id = v.topology_id
`

func one(ctx context.Context, db DB, none error, sql string, args ...any) (Version, error) {
	rows, _ := db.Query(ctx, sql, args...)
	v, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Version])
	if errors.Is(err, pgx.ErrNoRows) {
		return v, none
	}
	return v, err
}

// Enabled returns the version of the named topology that takes new events.
func Enabled(ctx context.Context, db DB, tenant int64, name string) (Version, error) {
	v, err := one(ctx, db, ErrNotEnabled, `select`+versionColumns+`
		where t.tenant_id = $1 and t.name = $2 and t.deleted_at is null and v.id = t.enabled_version_id`, tenant, name)
	if !errors.Is(err, ErrNotEnabled) {
		return v, err
	}
	if missing := exists(ctx, db, tenant, name); missing != nil {
		return v, missing
	}
	return v, err
}

// Numbered returns a published version of the named topology.
func Numbered(ctx context.Context, db DB, tenant int64, name string, number int) (Version, error) {
	return one(ctx, db, ErrNotFound, `select`+versionColumns+`
		where t.tenant_id = $1 and t.name = $2 and t.deleted_at is null and v.number = $3`, tenant, name, number)
}

// Newest returns the version of the named topology that was published last.
func Newest(ctx context.Context, db DB, tenant int64, name string) (Version, error) {
	if err := exists(ctx, db, tenant, name); err != nil {
		return Version{}, err
	}
	return one(ctx, db, ErrNotFound, `select`+versionColumns+`
		where t.tenant_id = $1 and t.name = $2 and t.deleted_at is null and v.number is not null
		order by v.number desc limit 1`, tenant, name)
}

// Draft returns the draft of the named topology.
func Draft(ctx context.Context, db DB, tenant int64, name string) (Version, error) {
	if err := exists(ctx, db, tenant, name); err != nil {
		return Version{}, err
	}
	return one(ctx, db, ErrNoDraft, `select`+versionColumns+`
		where t.tenant_id = $1 and t.name = $2 and t.deleted_at is null and v.number is null`, tenant, name)
}

// OfEdges returns the versions that the given edges belong to, of all tenants and also of deleted topologies: messages
// finish where they started.
func OfEdges(ctx context.Context, db DB, edges []int64) ([]Version, error) {
	rows, _ := db.Query(ctx, `select`+versionColumns+`
		where (v.tenant_id, v.id) in (select tenant_id, version_id from sluice.edge where id = any($1))
		order by v.id`, edges)
	return pgx.CollectRows(rows, pgx.RowToStructByName[Version])
}

// Versions lists the versions of a topology, the draft first and then the newest, at most limit of those with a number
// below the given one (0: from the newest).
func Versions(ctx context.Context, db DB, tenant int64, name string, below, limit int) ([]Version, error) {
	if err := exists(ctx, db, tenant, name); err != nil {
		return nil, err
	}
	rows, _ := db.Query(ctx, `select`+versionColumns+`
		where t.tenant_id = $1 and t.name = $2 and t.deleted_at is null
		and ($3 = 0 or v.number < $3)
		order by v.number desc nulls first limit $4`, tenant, name, below, limit)
	return pgx.CollectRows(rows, pgx.RowToStructByName[Version])
}

// Topology is an entry of a list.
type Topology struct {
	ID        int64
	Name      string
	Enabled   int  // number of the enabled version; 0: disabled
	Latest    int  // number of the newest published version; 0: none
	Draft     bool // it has a draft
	CreatedAt time.Time
}

// List returns a tenant's topologies in order of their names, from the one after the given name.
func List(ctx context.Context, db DB, tenant int64, after string, limit int) ([]Topology, error) {
	rows, _ := db.Query(ctx, `
		select t.id, t.name, t.created_at,
		       coalesce((select number from sluice.topology_version v where v.tenant_id = t.tenant_id and v.id = t.enabled_version_id), 0) as enabled,
		       coalesce((select max(number) from sluice.topology_version v where v.tenant_id = t.tenant_id and v.topology_id = t.id), 0) as latest,
		       exists (select from sluice.topology_version v where v.tenant_id = t.tenant_id and v.topology_id = t.id and v.number is null) as draft
		from sluice.topology t
		where t.tenant_id = $1 and t.deleted_at is null and t.name > $2
		order by t.name limit $3`, tenant, after, limit)
	return pgx.CollectRows(rows, pgx.RowToStructByName[Topology])
}

// SaveDraft makes graph the draft of the topology of its name, creating the topology if need be. The draft before is
// replaced.
func SaveDraft(ctx context.Context, tx pgx.Tx, tenant int64, g Graph, source, by string) (Version, error) {
	if _, err := tx.Exec(ctx, `
		insert into sluice.topology (tenant_id, name) values ($1, $2)
		on conflict (tenant_id, name) where deleted_at is null do nothing`, tenant, g.Name); err != nil {
		return Version{}, err
	}
	id, err := lock(ctx, tx, tenant, g.Name)
	if err != nil {
		return Version{}, err
	}
	if _, err := tx.Exec(ctx, `
		insert into sluice.topology_version (tenant_id, topology_id, graph, source, created_by) values ($1, $2, $3, $4, $5)
		on conflict (tenant_id, topology_id) where number is null
		do update set graph = excluded.graph, source = excluded.source, created_by = excluded.created_by, created_at = now()`,
		tenant, id, g, source, by); err != nil {
		return Version{}, err
	}
	if err := NoteChange(ctx, tx, tenant, by, "apply-topology", g.Name); err != nil {
		return Version{}, err
	}
	return Draft(ctx, tx, tenant, g.Name)
}

// Publish freezes the draft as the next numbered version, with its edges. It takes no events until it is enabled.
func Publish(ctx context.Context, tx pgx.Tx, tenant int64, name, by string) (Version, error) {
	id, err := lock(ctx, tx, tenant, name)
	if err != nil {
		return Version{}, err
	}
	var version int64
	var number int
	var graph Graph
	err = tx.QueryRow(ctx, `
		update sluice.topology_version v
		set number = 1 + coalesce((select max(number) from sluice.topology_version o where o.tenant_id = $1 and o.topology_id = $2), 0),
		    published_at = now(), published_by = $3
		where v.tenant_id = $1 and v.topology_id = $2 and v.number is null
		returning v.id, v.number, v.graph`, tenant, id, by).Scan(&version, &number, &graph)
	if errors.Is(err, pgx.ErrNoRows) {
		return Version{}, ErrNoDraft
	}
	if err != nil {
		return Version{}, err
	}
	var from, to []string
	for _, n := range graph.Nodes {
		for _, f := range n.Followers {
			from, to = append(from, n.Name), append(to, f)
		}
	}
	if _, err := tx.Exec(ctx, `
		insert into sluice.edge (tenant_id, version_id, from_node, to_node)
		select $1, $2, e.f, e.t from unnest($3::text[], $4::text[]) with ordinality as e(f, t, n) order by n`,
		tenant, version, from, to); err != nil {
		return Version{}, err
	}
	if err := NoteChange(ctx, tx, tenant, by, "publish-topology", fmt.Sprintf("%s v%d", name, number)); err != nil {
		return Version{}, err
	}
	return Numbered(ctx, tx, tenant, name, number)
}

// Enable sends new events to a published version: the given one, or the newest if number is 0. The version enabled
// before finishes what it has.
func Enable(ctx context.Context, tx pgx.Tx, tenant int64, name string, number int, by string) (Version, error) {
	id, err := lock(ctx, tx, tenant, name)
	if err != nil {
		return Version{}, err
	}
	if number == 0 {
		if err := tx.QueryRow(ctx, `
			select coalesce(max(number), 0) from sluice.topology_version where tenant_id = $1 and topology_id = $2`,
			tenant, id).Scan(&number); err != nil {
			return Version{}, err
		}
		if number == 0 {
			return Version{}, ErrUnpublished
		}
	}
	return enable(ctx, tx, tenant, name, number, by, "enable-topology")
}

// Rollback enables the version before the enabled one.
func Rollback(ctx context.Context, tx pgx.Tx, tenant int64, name, by string) (Version, error) {
	id, err := lock(ctx, tx, tenant, name)
	if err != nil {
		return Version{}, err
	}
	now, err := Enabled(ctx, tx, tenant, name)
	if err != nil {
		return Version{}, err
	}
	var before int
	if err := tx.QueryRow(ctx, `
		select coalesce(max(number), 0) from sluice.topology_version
		where tenant_id = $1 and topology_id = $2 and number < $3 and retired_at is null`, tenant, id, now.Number).Scan(&before); err != nil {
		return Version{}, err
	}
	if before == 0 {
		return Version{}, ErrNoneBefore
	}
	return enable(ctx, tx, tenant, name, before, by, "rollback-topology")
}

func enable(ctx context.Context, tx pgx.Tx, tenant int64, name string, number int, by, action string) (Version, error) {
	v, err := Numbered(ctx, tx, tenant, name, number)
	if err != nil {
		return v, err
	}
	// A retired version that is enabled again is no longer retired.
	if _, err := tx.Exec(ctx, `update sluice.topology_version set retired_at = null where tenant_id = $1 and id = $2 and retired_at is not null`, tenant, v.ID); err != nil {
		return v, err
	}
	if _, err := tx.Exec(ctx, `update sluice.topology set enabled_version_id = $3 where tenant_id = $1 and id = $2`, tenant, v.TopologyID, v.ID); err != nil {
		return v, err
	}
	v.Enabled, v.RetiredAt = true, nil
	return v, NoteChange(ctx, tx, tenant, by, action, v.Label())
}

// Disable takes no new events any more. What is in flight finishes.
func Disable(ctx context.Context, tx pgx.Tx, tenant int64, name, by string) error {
	id, err := lock(ctx, tx, tenant, name)
	if err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `update sluice.topology set enabled_version_id = null where tenant_id = $1 and id = $2`, tenant, id); err != nil {
		return err
	}
	return NoteChange(ctx, tx, tenant, by, "disable-topology", name)
}

// Delete removes a topology with all its versions from sight. The rows stay, so that what is in flight finishes and
// history keeps its names; the name is free again. Whether it may go is for the caller to find out first.
func Delete(ctx context.Context, tx pgx.Tx, tenant int64, name, by string) error {
	id, err := lock(ctx, tx, tenant, name)
	if err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `
		update sluice.topology_version set retired_at = now() where tenant_id = $1 and topology_id = $2 and retired_at is null and number is not null`,
		tenant, id); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `
		update sluice.topology set deleted_at = now(), enabled_version_id = null where tenant_id = $1 and id = $2`, tenant, id); err != nil {
		return err
	}
	return NoteChange(ctx, tx, tenant, by, "delete-topology", name)
}

// Retire takes one published version out of use: it cannot be rolled back to. An enabled version is disabled first.
func Retire(ctx context.Context, tx pgx.Tx, tenant int64, name string, number int, by string) error {
	id, err := lock(ctx, tx, tenant, name)
	if err != nil {
		return err
	}
	v, err := Numbered(ctx, tx, tenant, name, number)
	if err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `
		update sluice.topology set enabled_version_id = null where tenant_id = $1 and id = $2 and enabled_version_id = $3`,
		tenant, id, v.ID); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `
		update sluice.topology_version set retired_at = now() where tenant_id = $1 and id = $2 and retired_at is null`, tenant, v.ID); err != nil {
		return err
	}
	return NoteChange(ctx, tx, tenant, by, "retire-topology", v.Label())
}

// EdgesOf returns the ids of the edges of a topology's version, or of all its versions if number is 0.
func EdgesOf(ctx context.Context, db DB, tenant int64, name string, number int) ([]int64, error) {
	if err := exists(ctx, db, tenant, name); err != nil {
		return nil, err
	}
	rows, _ := db.Query(ctx, `
		select e.id
		from sluice.topology t
		join sluice.topology_version v on v.tenant_id = t.tenant_id and v.topology_id = t.id
		join sluice.edge e on e.tenant_id = v.tenant_id and e.version_id = v.id
		where t.tenant_id = $1 and t.name = $2 and t.deleted_at is null and ($3 = 0 or v.number = $3)
		order by e.id`, tenant, name, number)
	return pgx.CollectRows(rows, pgx.RowTo[int64])
}

// exists returns nil for a topology that is there, and [ErrNotFound] for another.
func exists(ctx context.Context, db DB, tenant int64, name string) error {
	var is bool
	err := db.QueryRow(ctx, `
		select exists (select from sluice.topology where tenant_id = $1 and name = $2 and deleted_at is null)`, tenant, name).Scan(&is)
	if err == nil && !is {
		return ErrNotFound
	}
	return err
}

// lock makes changes of one topology wait for each other.
func lock(ctx context.Context, tx pgx.Tx, tenant int64, name string) (id int64, err error) {
	err = tx.QueryRow(ctx, `
		select id from sluice.topology where tenant_id = $1 and name = $2 and deleted_at is null for update`, tenant, name).Scan(&id)
	if errors.Is(err, pgx.ErrNoRows) {
		err = ErrNotFound
	}
	return id, err
}

// NoteChange notes who changed what of a tenant's configuration, of topologies or anything else, and tells every node
// that it is no longer what it remembers.
func NoteChange(ctx context.Context, tx DB, tenant int64, by, action, subject string) error {
	if _, err := tx.Exec(ctx, `
		insert into sluice.audit (tenant_id, actor, action, subject) values ($1, $2, $3, $4)`, tenant, by, action, subject); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `
		insert into sluice.configuration (tenant_id, revision) values ($1, 1)
		on conflict (tenant_id) do update set revision = sluice.configuration.revision + 1`, tenant)
	return err
}
