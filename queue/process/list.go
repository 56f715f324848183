package process

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Filter says which processes a list shows. The zero value of a field lets all pass.
type Filter struct {
	Topology string // also one that was deleted: its processes keep its name
	Version  int    // of Topology
	State    State
	ID       uuid.UUID // only this one
	Entity   Entity    // only what is about it
	From     time.Time // when it came in, as its id says: then or later, and before Until; to the millisecond
	Until    time.Time
	After    uuid.UUID // Next of the page before
	Limit    int       // how many at most; less than 1 counts as 1
}

func (f Filter) passes(p Process) bool {
	return (f.ID == uuid.Nil || p.ID == f.ID) && (f.Topology == "" || p.Topology == f.Topology) &&
		(f.Version == 0 || p.Version == f.Version) &&
		(f.State == "" || p.State() == f.State)
}

// Page is part of a list of processes.
type Page struct {
	Processes []Process
	Next      uuid.UUID // where to go on; [uuid.Nil] on the last page
}

// lookAtMost is how many candidates one call of List looks at. More would keep a screen waiting.
const lookAtMost = 5000

// List returns a tenant's processes, newest first. How much it reads is bounded: where few of the newest processes have
// the state asked for, a page holds fewer than the limit, or none, and still has a next.
func List(ctx context.Context, db DB, tenant int64, f Filter) (Page, error) {
	f.Limit = max(f.Limit, 1)
	if f.ID != uuid.Nil {
		return f.only(ctx, db, tenant)
	}
	s, err := f.source(ctx, db, tenant)
	if err != nil {
		return Page{}, err
	}
	page, after, first := Page{}, f.After, uuid.Nil
	if after == uuid.Nil {
		after = uuid.Max
	}
	if !f.From.IsZero() {
		first = firstAt(f.From)
	}
	if last := firstAt(f.Until); !f.Until.IsZero() && isBefore(last, after) {
		after = last
	}
	for looked, n := 0, f.Limit+1; looked < lookAtMost; n = min(4*n, lookAtMost-looked) {
		candidates, err := s.after(ctx, db, after, n)
		if err != nil {
			return Page{}, err
		}
		for _, p := range candidates {
			after = p.ID
			if isBefore(p.ID, first) {
				return page, nil
			}
			if !f.passes(p) {
				continue
			}
			if len(page.Processes) == f.Limit {
				page.Next = page.Processes[f.Limit-1].ID
				return page, nil
			}
			page.Processes = append(page.Processes, p)
		}
		if len(candidates) < n {
			return page, nil
		}
		looked += n
	}
	page.Next = after
	return page, nil
}

// only is the list of the one process that is asked for, if the rest of the filter lets it pass.
func (f Filter) only(ctx context.Context, db DB, tenant int64) (Page, error) {
	p, err := Find(ctx, db, tenant, f.ID)
	switch {
	case errors.Is(err, ErrNotFound):
		return Page{}, nil
	case err != nil:
		return Page{}, err
	}
	if !f.Entity.IsZero() {
		if is, err := isAbout(ctx, db, tenant, f.ID, f.Entity); err != nil || !is {
			return Page{}, err
		}
	}
	if !f.passes(p) || !f.From.IsZero() && isBefore(p.ID, firstAt(f.From)) || !f.Until.IsZero() && !isBefore(p.ID, firstAt(f.Until)) || f.After != uuid.Nil {
		return Page{}, nil
	}
	return Page{Processes: []Process{p}}, nil
}

// firstAt is smaller than every id that was made at a time or later: ids begin with their milliseconds.
func firstAt(at time.Time) (id uuid.UUID) {
	ms := uint64(max(at.UnixMilli(), 0))
	for i := range 6 {
		id[i] = byte(ms >> (8 * (5 - i)))
	}
	return id
}

func isBefore(a, b uuid.UUID) bool { return bytes.Compare(a[:], b[:]) < 0 }

// source is where candidates for a list are looked for, newest first: all that the list must show are among them.
type source struct {
	sql  string
	args []any // before the place to go on from and the number of rows
}

func (s source) after(ctx context.Context, db DB, id uuid.UUID, n int) ([]Process, error) {
	rows, _ := db.Query(ctx, s.sql, append(slices.Clip(s.args), id, n)...)
	return pgx.CollectRows(rows, pgx.RowToStructByName[Process])
}

// source picks the index that leads to the fewest candidates. Processes that failed, and those about which somebody
// decided, are rare, and each has left evidence that is found without looking at the others.
func (f Filter) source(ctx context.Context, db DB, tenant int64) (source, error) {
	switch {
	case !f.Entity.IsZero():
		return source{aboutListSQL, []any{tenant, f.Entity.Kind, f.Entity.Value}}, nil
	case f.State == StateFailed, f.State == StateParked:
		return source{evidenceSQL("trash"), []any{tenant}}, nil
	case f.State == StateRejected, f.State == StateTerminated:
		return source{evidenceSQL("decision"), []any{tenant}}, nil
	case f.Topology == "":
		return source{newestSQL, []any{tenant}}, nil
	}
	rows, _ := db.Query(ctx, `
		select v.id from sluice.topology t
		join sluice.topology_version v on v.tenant_id = t.tenant_id and v.topology_id = t.id
		where t.tenant_id = $1 and t.name = $2 and v.number is not null and ($3 = 0 or v.number = $3)`,
		tenant, f.Topology, f.Version)
	versions, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	return source{newestOfSQL, []any{tenant, versions}}, err
}

// newestSQL lists a tenant's processes by the primary key.
const newestSQL = `
select` + processColumns + `
from (
    select * from sluice.process
    where tenant_id = $1 and id < $2
    order by id desc limit $3
) p` + processNames + `
order by p.id desc`

// newestOfSQL lists the processes of some versions: the newest of each, of which the newest are taken.
const newestOfSQL = `
select` + processColumns + `
from (
    select p.* from unnest($2::bigint[]) as v(id)
    cross join lateral (
        select * from sluice.process
        where tenant_id = $1 and version_id = v.id and id < $3
        order by id desc limit $4
    ) p
    order by p.id desc limit $4
) p` + processNames + `
order by p.id desc`

// evidenceSQL lists the processes that have rows in a table, by stepping from process to process through the table's
// index: one probe a process, however many rows it has.
func evidenceSQL(table string) string {
	return `
with recursive step as (
    (select process_id, 1 as n from sluice.` + table + `
     where tenant_id = $1 and process_id < $2 order by process_id desc limit 1)
    union all
    select (select e.process_id from sluice.` + table + ` e
            where e.tenant_id = $1 and e.process_id < step.process_id order by e.process_id desc limit 1), n + 1
    from step where step.process_id is not null and n < $3
)
select` + processColumns + `
from step
join sluice.process p on p.tenant_id = $1 and p.id = step.process_id` + processNames + `
order by p.id desc`
}
