package trash_test

import (
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"sluice/migrations/pgtest"
	"sluice/queue/process"
	"sluice/trash"
)

var full = flag.Bool("sluice.full", false, "look at a million entries")

// many is a trash with entries of flow v1 and v2, at nodes a and b, and of a topology that was deleted, among the messages
// of processes of four, and as many of another tenant. They failed in another order than they came, some at the same time,
// for three reasons of three classes, of which the third is rare; some have not been sorted. Few are about an order, all about a
// currency.
const many = `
insert into sluice.tenant (id, name) overriding system value values (2, 'other');
insert into sluice.topology (tenant_id, id, name, deleted_at) overriding system value values (1, 1, 'flow', null), (1, 2, 'gone', now()), (2, 3, 'flow', null);
insert into sluice.topology_version (tenant_id, id, topology_id, number, graph, source, created_by, published_at) overriding system value
select t.tenant, t.id, t.topology, t.number, '{"name": "flow", "nodes": [
    {"name": "in", "kind": "start"}, {"name": "a", "kind": "custom", "worker": "demo"}, {"name": "b", "kind": "connector", "worker": "other", "application": "crm"}]}', '', '', now()
from (values (1, 1, 1, 1), (1, 2, 1, 2), (1, 3, 2, 1), (2, 4, 3, 1)) t(tenant, id, topology, number);
insert into sluice.edge (tenant_id, id, version_id, from_node, to_node) overriding system value
values (1, 1, 1, 'in', 'a'), (1, 2, 1, 'a', 'b'), (1, 3, 2, 'in', 'a'), (1, 4, 2, 'a', 'b'), (1, 5, 3, 'in', 'a'), (2, 6, 4, 'in', 'a');
insert into sluice.message (tenant_id, process_id, id, edge_id, payload_id, headers, body)
select case when n % 6 = 5 then 2 else 1 end, md5((n / 4)::text)::uuid, n, n % 6 + 1, nullif(n - n % 4, n), '{}',
       case when n % 4 = 0 then convert_to('body ' || n || ' with 100%', 'UTF8') end from generate_series(1, {n}) n;
insert into sluice.trash (tenant_id, process_id, message_id, edge_id, attempt, reason, failed_at, class, cause)
select tenant_id, process_id, id, edge_id, 1, case when id % 7 = 0 then 'order ' || id || ' is late' else 'refused' end,
       timestamptz '2025-01-01 00:00Z' + (id * 7919 % {n}) / 2 * interval '1 second',
       case when id % 5000 = 1 then 'cancelled' when id % 7 = 0 then 'exhausted' when id % 7 = 1 then null else 'rejected' end,
       case when id % 7 = 0 then 17 when id % 7 = 1 then null else -18 end
from sluice.message;
insert into sluice.entity_key (tenant_id, process_id, kind, value, message_id)
select t.id, md5(p::text)::uuid, k.kind, k.value, 1
from generate_series(0, {n} / 4) p, (values (1), (2)) t(id), (values ('order', 'few', 3), ('user', 'few', 4), ('currency', 'EUR', null)) k(kind, value, which)
where which is null or p % 500 = which;
`

// withMany makes a database with a trash of so many entries.
func withMany(t *testing.T, n int) (all, tenants *pgxpool.Pool) {
	t.Helper()
	db := pgtest.New(t)
	all = db.Pool()
	for _, sql := range []string{strings.ReplaceAll(many, "{n}", fmt.Sprint(n)), `vacuum analyze sluice.trash`, `analyze`} {
		if _, err := all.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	return all, db.TenantPool()
}

// second is a time of the entries.
func second(n int) time.Time { return time.Date(2025, 1, 1, 0, 0, n, 0, time.UTC) }

// pages reads a list to its end.
func pages(t *testing.T, desk *trash.Trash, f trash.Filter, o trash.Order, limit int) (got []int64) {
	t.Helper()
	var after *trash.Mark
	for n := 0; n == 0 || after != nil; n++ {
		page, err := desk.List(t.Context(), tenant, f, o, after, limit)
		if err != nil {
			t.Fatal(err)
		}
		if len(page.Entries) > limit || n > 1000 {
			t.Fatalf("page %d of %+v has %d entries", n, f, len(page.Entries))
		}
		for _, e := range page.Entries {
			got = append(got, e.ID.Number)
		}
		after = page.Next
	}
	return got
}

// Whatever a list is asked for, its pages together show each entry once, in the order of failure, and none of another
// tenant's.
func TestListShowsAll(t *testing.T) {
	t.Parallel()
	all, tenants := withMany(t, 12000)
	desk := trash.New(tenants, nil)
	late, refused, unknown := int64(17), int64(-18), int64(99)
	for _, c := range []struct {
		filter trash.Filter
		where  string // over trash r and edge e
	}{
		{trash.Filter{}, `true`},
		{trash.Filter{Topology: "flow"}, `e.id < 5`},
		{trash.Filter{Topology: "flow", Version: 2}, `e.id in (3, 4)`},
		{trash.Filter{Topology: "flow", Version: 1, Node: "b"}, `e.id = 2`},
		{trash.Filter{Node: "a"}, `e.id in (1, 3, 5)`},
		{trash.Filter{Topology: "gone"}, `e.id = 5`},
		{trash.Filter{Topology: "none"}, `false`},
		{trash.Filter{Application: "crm"}, `e.id in (2, 4)`},
		{trash.Filter{Worker: "demo", Version: 1, Topology: "flow"}, `e.id = 1`},
		{trash.Filter{Worker: "nobody"}, `false`},
		{trash.Filter{Class: process.ClassExhausted}, `class = 'exhausted'`},
		{trash.Filter{Class: process.ClassCancelled}, `class = 'cancelled'`},
		{trash.Filter{Class: process.ClassCancelled, Topology: "flow"}, `class = 'cancelled' and e.id < 5`},
		{trash.Filter{Cause: &late}, `cause = 17`},
		{trash.Filter{Cause: &refused, Node: "b"}, `cause = -18 and e.id in (2, 4)`},
		{trash.Filter{Cause: &unknown}, `false`},
		{trash.Filter{Process: uuid.MustParse("c4ca4238-a0b9-2382-0dcc-509a6f75849b")}, `process_id = 'c4ca4238-a0b9-2382-0dcc-509a6f75849b'`},
		{trash.Filter{From: second(100), Until: second(200)}, `failed_at >= '2025-01-01 00:01:40Z' and failed_at < '2025-01-01 00:03:20Z'`},
		{trash.Filter{From: second(100), Until: second(300), Class: process.ClassExhausted}, `failed_at >= '2025-01-01 00:01:40Z' and failed_at < '2025-01-01 00:05Z' and class = 'exhausted'`},
		{trash.Filter{From: second(9000)}, `false`},
		{trash.Filter{Type: trash.Failed}, `true`},
		{trash.Filter{Type: trash.Failed, Class: process.ClassExhausted}, `class = 'exhausted'`},
		{trash.Filter{Type: trash.Parked}, `false`},
		{trash.Filter{Type: trash.Parked, Class: process.ClassExhausted}, `false`},
		{trash.Filter{DueBefore: second(100)}, `false`},
		{trash.Filter{Entity: process.Entity{Kind: "order", Value: "few"}}, about("order")},
		{trash.Filter{Entity: process.Entity{Kind: "order", Value: "few"}, Class: process.ClassExhausted, Topology: "flow"}, about("order") + ` and class = 'exhausted' and e.id < 5`},
		{trash.Filter{Entity: process.Entity{Value: "few"}}, `(` + about("order") + ` or ` + about("user") + `)`},
		{trash.Filter{Entity: process.Entity{Kind: "currency", Value: "EUR"}}, `true`},
		{trash.Filter{Entity: process.Entity{Kind: "currency", Value: "EUR"}, Node: "b"}, `e.id in (2, 4)`},
		{trash.Filter{Entity: process.Entity{Kind: "order", Value: "EUR"}}, `false`},
		{trash.Filter{Entity: process.Entity{Value: "none"}, Node: "a"}, `false`},
		{trash.Filter{Text: "LATE"}, `cause = 17`},
		{trash.Filter{Text: "with 100%"}, `r.message_id > 3`}, // the first three have no body
		{trash.Filter{Text: "with 1__%"}, `false`},
		{trash.Filter{Text: "body 400 "}, `r.message_id between 400 and 403`},
	} {
		for _, o := range []trash.Order{trash.Oldest, trash.Newest} {
			direction := map[trash.Order]string{trash.Oldest: "asc", trash.Newest: "desc"}[o]
			rows, _ := all.Query(t.Context(), `
				select r.message_id from sluice.trash r join sluice.edge e on e.id = r.edge_id
				where r.tenant_id = 1 and `+c.where+` order by r.failed_at `+direction+`, r.message_id `+direction)
			want, err := pgx.CollectRows(rows, pgx.RowTo[int64])
			if err != nil {
				t.Fatal(err)
			}
			if got := pages(t, desk, c.filter, o, 900); !slices.Equal(got, want) {
				t.Errorf("%+v, %s: %d entries, want %d", c.filter, o, len(got), len(want))
			}
			if g, err := desk.Groups(t.Context(), tenant, c.filter, 10); c.filter.Text == "" && (err != nil || g.Entries != int64(len(want))) {
				t.Errorf("%+v: groups of %d entries, want %d (%v)", c.filter, g.Entries, len(want), err)
			}
		}
	}
}

// about tells of an entry r whether its process is about the one of a kind that few are about.
func about(kind string) string {
	return fmt.Sprintf(`r.process_id in (select process_id from sluice.entity_key where tenant_id = 1 and kind = '%s' and value = 'few')`, kind)
}

// Groups count each entry once, by its cause, and say when it was first and last seen.
func TestGroups(t *testing.T) {
	t.Parallel()
	_, tenants := withMany(t, 12000)
	desk := trash.New(tenants, nil)
	g, err := desk.Groups(t.Context(), tenant, trash.Filter{}, 10)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, c := range g.Groups {
		if c.FirstSeen.Before(second(0)) || c.LastSeen.After(c.FirstSeen) != (c.Count > 1) || c.LastSeen.After(second(6000)) {
			t.Errorf("%+v", c)
		}
		cause := "none"
		if c.Cause != nil {
			cause = fmt.Sprint(*c.Cause)
		}
		lines = append(lines, fmt.Sprintf("%s %s %q %d", cause, c.Class, c.Text, c.Count))
	}
	if want := []string{
		`-18 rejected "refused" 7141`, `17 exhausted "order # is late" 1429`, `none  "" 1428`, `-18 cancelled "refused" 1`, `none cancelled "" 1`,
	}; !slices.Equal(lines, want) ||
		g.Entries != 10000 || g.Causes != 5 {
		t.Errorf("groups %q of %d causes of %d entries, want %q", lines, g.Causes, g.Entries, want)
	}
	few, err := desk.Groups(t.Context(), tenant, trash.Filter{Topology: "flow", Node: "b", Class: process.ClassExhausted, From: second(0), Until: second(3000)}, 1)
	if err != nil || len(few.Groups) != 1 || few.Entries == 0 || few.Entries >= 1429 {
		t.Errorf("%+v, %v", few, err)
	}
}

// A page is read along the index that was made for it, with and without knowing the arguments.
func TestListPlans(t *testing.T) {
	t.Parallel()
	_, tenants := withMany(t, 12000)
	late := int64(17)
	for _, mode := range []string{"force_custom_plan", "force_generic_plan"} {
		for _, c := range []struct {
			index  string
			filter trash.Filter
		}{
			{"trash_failed_idx", trash.Filter{}},
			{"trash_failed_idx", trash.Filter{From: second(100), Text: "late"}},
			{"trash_edge_failed_idx", trash.Filter{Topology: "flow", Node: "b"}},
			{"trash_cause_idx", trash.Filter{Cause: &late, Node: "b"}},
			{"trash_class_idx", trash.Filter{Class: process.ClassCancelled}},
			{"trash_class_idx", trash.Filter{Type: trash.Parked}},
			{"trash_failed_idx", trash.Filter{Type: trash.Failed}},
			{"trash_pkey", trash.Filter{Process: uuid.New()}},
			{"trash_pkey", trash.Filter{Entity: process.Entity{Value: "few"}, Node: "b"}},
			{"trash_failed_idx", trash.Filter{Entity: process.Entity{Kind: "currency", Value: "EUR"}}},
		} {
			for _, o := range []trash.Order{trash.Oldest, trash.Newest} {
				var plan []string
				err := process.ForTenant(t.Context(), tenants, tenant, func(tx pgx.Tx) error {
					if _, err := tx.Exec(t.Context(), "set local plan_cache_mode = "+mode); err != nil {
						return err
					}
					sql, args, err := trash.StatementOf(t.Context(), tx, tenant, c.filter, o, 50)
					if err != nil {
						return err
					}
					rows, _ := tx.Query(t.Context(), "explain (costs off) "+sql, args...)
					plan, err = pgx.CollectRows(rows, pgx.RowTo[string])
					return err
				})
				if err != nil {
					t.Fatal(err)
				}
				text := strings.Join(plan, "\n")
				if !strings.Contains(text, c.index) || strings.Contains(text, "Seq Scan on trash") || strings.Contains(text, "Seq Scan on message_default") {
					t.Errorf("%+v is not read along %s:\n%s", c.filter, c.index, text)
				}
			}
		}
	}
	if plan := pgtest.Explain(t, tenants, trash.GroupsSQL, 1, second(0), second(1), "", nil, uuid.Nil, nil, 10, "", "", nil, nil, "", ""); !strings.Contains(plan, "trash_") {
		t.Errorf("groups:\n%s", plan)
	}
}

// In a trash of a million a page takes no time, wherever in it, whatever it is asked for.
func TestMillion(t *testing.T) {
	t.Parallel()
	if !*full {
		t.Skip("-sluice.full runs it")
	}
	_, tenants := withMany(t, 1_200_000)
	desk := trash.New(tenants, nil)
	late := int64(17)
	for _, f := range []trash.Filter{
		{}, {From: second(300_000)}, {Topology: "flow"}, {Application: "crm"}, {Worker: "demo", From: second(300_000)}, {Cause: &late}, {Cause: &late, Node: "b"},
		{Class: process.ClassCancelled}, {Class: process.ClassCancelled, Node: "b"}, {Process: uuid.MustParse("c4ca4238-a0b9-2382-0dcc-509a6f75849b")},
		{Type: trash.Parked}, {Type: trash.Failed}, {DueBefore: second(500_000)}, {Text: "nowhere"}, {Text: "late", From: second(500_000)},
		{Entity: process.Entity{Kind: "order", Value: "few"}}, {Entity: process.Entity{Value: "EUR"}}, {Entity: process.Entity{Value: "EUR"}, Class: process.ClassCancelled},
	} {
		for _, o := range []trash.Order{trash.Oldest, trash.Newest} {
			best := time.Hour
			for range 5 {
				began := time.Now()
				if _, err := desk.List(t.Context(), tenant, f, o, nil, 50); err != nil {
					t.Fatal(err)
				}
				best = min(best, time.Since(began))
			}
			t.Logf("%+v, %s: %v", f, o, best)
			if best > 100*time.Millisecond {
				t.Errorf("%+v, %s: %v", f, o, best)
			}
		}
	}
	began := time.Now()
	g, err := desk.Groups(t.Context(), tenant, trash.Filter{}, 50)
	t.Logf("groups of %d: %v, %v", g.Entries, time.Since(began), err)
}
