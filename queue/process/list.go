package process

import (
	"context"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Filter says which processes a list shows. The zero value of a field lets all pass.
type Filter struct {
	Topology string    // also one that was deleted: its processes keep its name
	Version  int       // of Topology
	State    State     //
	After    uuid.UUID // Next of the page before
	Limit    int       // how many at most
}

// Page is part of a list of processes.
type Page struct {
	Processes []Process
	Next      uuid.UUID // where to go on; [uuid.Nil] on the last page
}

// List returns a tenant's processes, newest first. How much it reads is bounded: where few processes have the state
// asked for, a page may hold fewer than the limit, or none, and still have a next.
func List(ctx context.Context, db DB, tenant int64, f Filter) (Page, error) {
	after := f.After
	if after == uuid.Nil {
		after = uuid.Max
	}
	rows, _ := db.Query(ctx, `select`+processColumns+` from sluice.process p`+processNames+`
		where p.tenant_id = $1 and p.id < $2 and ($3 = '' or t.name = $3) and ($4 = 0 or v.number = $4)
		and ($5 = '' or $5 = case when p.open > 0 then 'running' when p.trashed > 0 then 'failed' when p.terminated > 0 then 'terminated'
		                          when p.rejected > 0 then 'rejected' else 'done' end)
		order by p.id desc limit $6 + 1`, tenant, after, f.Topology, f.Version, f.State, f.Limit)
	found, err := pgx.CollectRows(rows, pgx.RowToStructByName[Process])
	page := Page{Processes: found}
	if len(found) > f.Limit {
		page.Processes = found[:f.Limit]
		page.Next = page.Processes[f.Limit-1].ID
	}
	return page, err
}
