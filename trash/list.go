package trash

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"sluice/queue/process"
)

// What one call of List reads at most. More would keep a screen waiting.
const (
	lookAtMost       = 10_000   // entries, of which some pass
	lookAtMostBodies = 1_000    // where the bodies are looked into
	searched         = 64 << 10 // bytes of a body
	firstLook        = 500      // entries, where not all of those that are looked at pass
)

// List returns a page of a tenant's entries. How much it reads is bounded: where few of the entries pass the filter, a
// page holds fewer than the limit, or none, and still has a next.
//
// Topology, version, node, application and worker together, a cause, a class and a process have indexes of their own, in
// the order of time; the most telling one is used, and what else the filter asks for is looked at in its entries. There
// is none for text: a window of time bounds the search for it.
func (t *Trash) List(ctx context.Context, tenant int64, f Filter, o Order, after *Mark, limit int) (page Page, err error) {
	err = process.ForTenant(ctx, t.pool, tenant, func(tx pgx.Tx) error {
		page, err = list(ctx, tx, tenant, f, o, after, max(limit, 1))
		return err
	})
	return page, err
}

func list(ctx context.Context, tx pgx.Tx, tenant int64, f Filter, o Order, after *Mark, limit int) (Page, error) {
	s, err := f.source(ctx, tx, tenant)
	if err != nil {
		return Page{}, err
	}
	start, end := f.window(o)
	if after != nil {
		start = *after
	}
	n, most := limit+1, lookAtMost
	if s.partly {
		n = max(n, firstLook)
	}
	if f.Text != "" {
		n, most = min(n, lookAtMostBodies), lookAtMostBodies
	}
	var page Page
	for looked := 0; looked < most; n = min(4*n, most-looked) {
		rows, _ := tx.Query(ctx, listSQL(s.from, o), append([]any{tenant, start.FailedAt, start.Message, end, n, limit + 1}, s.args...)...)
		found, err := pgx.CollectRows(rows, pgx.RowToStructByName[entryRow])
		if err != nil {
			return Page{}, err
		}
		candidates := 0
		for _, r := range found {
			candidates = r.Looked
			start = Mark{r.FailedAt, r.MessageID}
			if !r.Passes {
				continue
			}
			if len(page.Entries) == limit {
				last := page.Entries[limit-1]
				page.Next = &Mark{last.FailedAt, last.ID.Number}
				return page, nil
			}
			page.Entries = append(page.Entries, r.entry())
		}
		if candidates < n {
			return page, nil
		}
		looked += n
	}
	page.Next = &start
	return page, nil
}

// Times before and after all others.
var (
	longAgo = time.Unix(0, 0)
	never   = time.Date(9000, 1, 1, 0, 0, 0, 0, time.UTC)
)

// window is where a list begins, and the time where it ends.
func (f Filter) window(o Order) (start Mark, end time.Time) {
	from, until := f.From, f.Until
	if from.IsZero() {
		from = longAgo
	}
	if until.IsZero() {
		until = never
	}
	if o == Newest {
		return Mark{until, -1}, from
	}
	return Mark{from, -1}, until
}

// source is where candidates are looked for: all that pass are among them.
type source struct {
	from   string
	partly bool // some of the candidates may not pass
	args   []any
}

// The sources, as the part of a statement that reads along their index.
const (
	fromAll     = `where tenant_id = $1`
	fromClass   = `where tenant_id = $1 and class = $7`
	fromCause   = `where tenant_id = $1 and cause = $8`
	fromProcess = `where tenant_id = $1 and process_id = $9`
	fromEdges   = `where tenant_id = $1 and edge_id = e.id`
	fromEntity  = `where tenant_id = $1 and process_id = e.id`
)

// source picks the index that leads to the fewest candidates.
func (f Filter) source(ctx context.Context, tx pgx.Tx, tenant int64) (source, error) {
	edges, err := f.edges(ctx, tx, tenant)
	if err != nil {
		return source{}, err
	}
	asked := 0
	for _, is := range []bool{f.Class != "", f.Cause != nil, f.Process != uuid.Nil, edges != nil, f.Assigned != "", f.Text != "", f.Type == Failed, !f.DueBefore.IsZero()} {
		if is {
			asked++
		}
	}
	if f.Type == Parked && f.Class == "" {
		f.Class, asked = process.ClassBreakpoint, asked+1
	}
	about, everywhere, err := f.about(ctx, tx, tenant)
	if err != nil {
		return source{}, err
	}
	if !f.Entity.IsZero() {
		asked++
	}
	s := source{
		from: fromAll, partly: asked > 1 || f.Assigned != "" || f.Text != "" || f.Type == Failed || !f.DueBefore.IsZero() || !everywhere.IsZero(),
		args: []any{string(f.Class), f.Cause, f.Process, f.Text, likeText(f.Text), edges, f.Assigned, string(f.Type), f.dueBefore(), about, everywhere.Kind, everywhere.Value},
	}
	switch {
	case f.Process != uuid.Nil:
		s.from = fromProcess
	case about != nil:
		s.from = fromEntity
	case f.Cause != nil:
		s.from = fromCause
	case edges != nil:
		s.from = fromEdges
	case f.Class != "":
		s.from = fromClass
	}
	return s, nil
}

// mostAbout is how many processes of an entity are looked into one by one.
const mostAbout = 1000

// about are the processes that are about the entity that the filter names, if they are few; nil if it names none. Of an
// entity of many, what else the filter finds is looked through everywhere.
func (f Filter) about(ctx context.Context, tx pgx.Tx, tenant int64) (about []uuid.UUID, everywhere process.Entity, err error) {
	if f.Entity.IsZero() {
		return nil, process.Entity{}, nil
	}
	about, err = process.About(ctx, tx, tenant, f.Entity, mostAbout+1)
	if len(about) > mostAbout {
		return nil, f.Entity, err
	}
	if about == nil {
		about = []uuid.UUID{} // there are none
	}
	return about, process.Entity{}, err
}

// edges are those that the filter names, nil if it names none.
func (f Filter) edges(ctx context.Context, tx pgx.Tx, tenant int64) ([]int64, error) {
	if f.Topology == "" && f.Version == 0 && f.Node == "" && f.Application == "" && f.Worker == "" {
		return nil, nil
	}
	rows, _ := tx.Query(ctx, `
		select e.id from sluice.topology t
		join sluice.topology_version v on v.tenant_id = t.tenant_id and v.topology_id = t.id
		join sluice.edge e on e.tenant_id = v.tenant_id and e.version_id = v.id
		where t.tenant_id = $1 and ($2 = '' or t.name = $2) and ($3 = 0 or v.number = $3) and ($4 = '' or e.to_node = $4)
		and ($5 = '' and $6 = '' or e.to_node in (
		    select n->>'name' from jsonb_array_elements(v.graph->'nodes') n
		    where ($5 = '' or n->>'application' = $5) and ($6 = '' or n->>'worker' = $6)))
		order by e.id`,
		tenant, f.Topology, f.Version, f.Node, f.Application, f.Worker)
	edges, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if edges == nil {
		edges = []int64{} // it names some that are not there
	}
	return edges, err
}

// dueBefore is a time, or nothing.
func (f Filter) dueBefore() *time.Time {
	if f.DueBefore.IsZero() {
		return nil
	}
	return &f.DueBefore
}

// likeText is a pattern for what has the text in it.
func likeText(s string) string {
	return "%" + strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`).Replace(s) + "%"
}

// listSQL returns the entries that pass among the next $5 of a source, $6 at most, and the last of them whether it
// passes or not.
func listSQL(from string, o Order) string {
	beyond, direction, back, within := ">", "asc", "desc", "failed_at < $4"
	if o == Newest {
		beyond, direction, back, within = "<", "desc", "asc", "failed_at >= $4"
	}
	return `
with looked as materialized (` + entriesSQL(from, beyond, within, direction) + `
), judged as (
    select l.*, coalesce(` + passes + `, false) as passes, (select count(*)::int from looked) as looked,
           (failed_at, message_id) = (select failed_at, message_id from looked order by failed_at ` + back + `, message_id ` + back + ` limit 1) as last
    from looked l
)` + entryColumns + `, r.passes, r.looked
from (
    select * from judged where passes or last order by failed_at ` + direction + `, message_id ` + direction + ` limit $6 + 1
) r` + entryNames + `
order by r.failed_at ` + direction + `, r.message_id ` + direction
}

// entriesSQL reads the next $5 entries of a source: where it has several parts, the next of the next of each.
func entriesSQL(from, beyond, within, direction string) string {
	next := `
    select * from sluice.trash
    ` + from + ` and (failed_at, message_id) ` + beyond + ` ($2, $3) and ` + within + `
    order by failed_at ` + direction + `, message_id ` + direction + ` limit $5`
	parts, several := map[string]string{fromEdges: `$12::bigint[]`, fromEntity: `$16::uuid[]`}[from]
	if !several {
		return next
	}
	return `
    select r.* from unnest(` + parts + `) as e(id) cross join lateral (` + next + `) r
    order by r.failed_at ` + direction + `, r.message_id ` + direction + ` limit $5`
}

// What an entry must be to pass, and what it looks like. A body that several messages share lies with one of them.
var (
	passes = `($7 = '' or class = $7) and ($8::bigint is null or cause = $8) and ($9 = '` + uuid.Nil.String() + `'::uuid or process_id = $9)
        and ($12::bigint[] is null or edge_id = any($12)) and ($16::uuid[] is null or process_id = any($16))
        and ($18 = '' or exists (
            select from sluice.entity_key k
            where k.tenant_id = l.tenant_id and k.process_id = l.process_id and ($17 = '' or k.kind = $17) and k.value = $18))
        and ($14 = '' or (coalesce(class, '') = 'breakpoint') = ($14 = 'breakpoint')) and ($15::timestamptz is null or due_at < $15)
        and ($13 = '' or assigned_to = $13) and ($10 = '' or reason ilike $11 or exists (
            select from sluice.message m
            where m.tenant_id = l.tenant_id and m.process_id = l.process_id and m.id = l.message_id
            and position(convert_to($10, 'UTF8') in substring(coalesce(m.body, (
                select p.body from sluice.message p where p.tenant_id = m.tenant_id and p.process_id = m.process_id and p.id = m.payload_id
            )) from 1 for ` + fmt.Sprint(searched) + `)) > 0))`

	entrySQL = entryColumns + `, true as passes, 1 as looked
from (
    select * from sluice.trash
    where tenant_id = $1 and process_id = $2 and message_id = $3
) r` + entryNames
)

const (
	entryColumns = `
select r.process_id, r.message_id, t.name as topology, v.number as version, e.to_node as node, r.reason,
       coalesce(r.class, '') as class, r.cause, r.attempt, r.failed_at,
       r.edit_id is not null as edited, coalesce(octet_length(m.body), octet_length(p.body), 0)::bigint as size,
       r.revision, coalesce(r.assigned_to, '') as assigned, r.due_at`

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

// entryRow is a row of listSQL and entrySQL.
type entryRow struct {
	ProcessID uuid.UUID
	MessageID int64
	Topology  string
	Version   int
	Node      string
	Reason    string
	Class     process.Class
	Cause     *int64
	Attempt   int
	FailedAt  time.Time
	Edited    bool
	Size      int64
	Revision  int64
	Assigned  string
	DueAt     *time.Time
	Passes    bool
	Looked    int
}

func (r entryRow) entry() Entry {
	return Entry{
		ID:       process.MessageID{Process: r.ProcessID, Number: r.MessageID},
		Topology: r.Topology,
		Version:  r.Version,
		Node:     r.Node,
		Reason:   r.Reason,
		Class:    r.Class,
		Cause:    r.Cause,
		Attempt:  r.Attempt,
		FailedAt: r.FailedAt,
		Edited:   r.Edited,
		Size:     r.Size,
		Revision: r.Revision,
		Assigned: r.Assigned,
		DueAt:    r.DueAt,
	}
}

// Groups sorts a tenant's entries by cause. It counts all of them, so it takes longer the more there are (a million: a
// second or so); the text of a filter does not count here.
func (t *Trash) Groups(ctx context.Context, tenant int64, f Filter, limit int) (g Groups, err error) {
	err = process.ForTenant(ctx, t.pool, tenant, func(tx pgx.Tx) error {
		edges, err := f.edges(ctx, tx, tenant)
		if err != nil {
			return err
		}
		about, everywhere, err := f.about(ctx, tx, tenant)
		if err != nil {
			return err
		}
		start, end := f.window(Oldest)
		rows, _ := tx.Query(ctx, groupsSQL, tenant, start.FailedAt, end, string(f.Class), f.Cause, f.Process, edges, limit, f.Assigned, string(f.Type), f.dueBefore(), about, everywhere.Kind, everywhere.Value)
		var group Group
		_, err = pgx.ForEachRow(rows, []any{
			&group.Cause, &group.Class, &group.Reason, &group.Count, &group.FirstSeen, &group.LastSeen, &g.Causes, &g.Entries,
		}, func() error {
			group.Text = process.CauseOf(group.Reason)
			g.Groups = append(g.Groups, group)
			return nil
		})
		return err
	})
	return g, err
}

var groupsSQL = `
select g.cause, coalesce(g.class, ''), coalesce(r.reason, ''), g.n, g.first_seen, g.last_seen, g.causes, g.entries
from (
    select cause, class, count(*) as n, min(failed_at) as first_seen, max(failed_at) as last_seen,
           count(*) over () as causes, (sum(count(*)) over ())::bigint as entries
    from sluice.trash l
    where tenant_id = $1 and failed_at >= $2 and failed_at < $3 and ($4 = '' or class = $4) and ($5::bigint is null or cause = $5)
    and ($6 = '` + uuid.Nil.String() + `'::uuid or process_id = $6) and ($7::bigint[] is null or edge_id = any($7)) and ($9 = '' or assigned_to = $9)
    and ($10 = '' or (coalesce(class, '') = 'breakpoint') = ($10 = 'breakpoint')) and ($11::timestamptz is null or due_at < $11)
    and ($12::uuid[] is null or process_id = any($12)) and ($14 = '' or exists (
        select from sluice.entity_key k
        where k.tenant_id = l.tenant_id and k.process_id = l.process_id and ($13 = '' or k.kind = $13) and k.value = $14))
    group by cause, class
    order by n desc, cause limit $8
) g
left join lateral (
    select reason from sluice.trash r
    where r.tenant_id = $1 and r.cause = g.cause
    order by r.failed_at desc, r.message_id desc limit 1
) r on true
order by g.n desc, g.cause`
