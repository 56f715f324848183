package trash_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"sluice/migrations/pgtest"
	"sluice/queue/process"
	"sluice/trash"
)

// many is 12,000 entries: of flow v1 and v2, at nodes a and b, and of a topology that was deleted, among the messages of
// 3,000 processes, and as many of another tenant.
const many = `
insert into sluice.tenant (id, name) overriding system value values (2, 'other');
insert into sluice.topology (tenant_id, id, name, deleted_at) overriding system value values (1, 1, 'flow', null), (1, 2, 'gone', now()), (2, 3, 'flow', null);
insert into sluice.topology_version (tenant_id, id, topology_id, number, graph, source, created_by, published_at) overriding system value
values (1, 1, 1, 1, '{}', '', '', now()), (1, 2, 1, 2, '{}', '', '', now()), (1, 3, 2, 1, '{}', '', '', now()), (2, 4, 3, 1, '{}', '', '', now());
insert into sluice.edge (tenant_id, id, version_id, from_node, to_node) overriding system value
values (1, 1, 1, 'in', 'a'), (1, 2, 1, 'a', 'b'), (1, 3, 2, 'in', 'a'), (1, 4, 2, 'a', 'b'), (1, 5, 3, 'in', 'a'), (2, 6, 4, 'in', 'a');
insert into sluice.message (tenant_id, process_id, id, edge_id, headers, body)
select case when n % 6 = 5 then 2 else 1 end, md5((n / 4)::text)::uuid, n, n % 6 + 1, '{}', 'body' from generate_series(1, 12000) n;
insert into sluice.trash (tenant_id, process_id, message_id, edge_id, attempt, reason)
select tenant_id, process_id, id, edge_id, 1, 'refused' from sluice.message order by md5(id::text);
analyze`

// The pages of a list together show each entry once, the oldest first, and none of another tenant's.
func TestListShowsAll(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	_, err := db.Pool().Exec(t.Context(), many)
	if err != nil {
		t.Fatal(err)
	}
	desk := trash.New(db.TenantPool(), nil)
	for _, c := range []struct {
		filter trash.Filter
		edges  []int64
	}{
		{trash.Filter{}, []int64{1, 2, 3, 4, 5}},
		{trash.Filter{Topology: "flow"}, []int64{1, 2, 3, 4}},
		{trash.Filter{Topology: "flow", Version: 2}, []int64{3, 4}},
		{trash.Filter{Topology: "flow", Version: 1, Node: "b"}, []int64{2}},
		{trash.Filter{Node: "a"}, []int64{1, 3, 5}},
		{trash.Filter{Topology: "gone"}, []int64{5}},
		{trash.Filter{Topology: "none"}, nil},
	} {
		var want, got []int64
		for n := int64(1); n <= 12000; n++ {
			if slices.Contains(c.edges, n%6+1) {
				want = append(want, n)
			}
		}
		f := c.filter
		f.Limit = 900
		for more := true; more; {
			page, err := desk.List(t.Context(), tenant, f)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range page {
				f.After = e.ID.Number
				got = append(got, f.After)
				if e.Size != 4 || e.Reason != "refused" || c.filter.Topology != "" && e.Topology != c.filter.Topology || c.filter.Node != "" && e.Node != c.filter.Node {
					t.Fatalf("%+v lists %+v", c.filter, e)
				}
			}
			more = len(page) == f.Limit
		}
		if !slices.Equal(got, want) {
			t.Errorf("%+v: %d entries, want %d", c.filter, len(got), len(want))
		}
	}
}

// A page is read along the index that was made for it, with and without knowing the arguments.
func TestListPlans(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	_, err := db.Pool().Exec(t.Context(), many)
	if err != nil {
		t.Fatal(err)
	}
	for _, mode := range []string{"force_custom_plan", "force_generic_plan"} {
		for _, c := range []struct{ index, sql, types, args string }{
			{"trash_message_idx", trash.OldestSQL, "bigint, bigint, int", "1, 500, 50"},
			{"trash_edge_idx", trash.OldestOfSQL, "bigint, bigint, int, bigint[]", "1, 500, 50, '{1,3}'"},
		} {
			var plan []string
			err := process.ForTenant(t.Context(), db.TenantPool(), tenant, func(tx pgx.Tx) error {
				if _, err := tx.Exec(t.Context(), fmt.Sprintf("set local plan_cache_mode = %s; prepare list(%s) as %s", mode, c.types, c.sql)); err != nil {
					return err
				}
				rows, _ := tx.Query(t.Context(), "explain (costs off) execute list("+c.args+")")
				var err error
				plan, err = pgx.CollectRows(rows, pgx.RowTo[string])
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			if text := strings.Join(plan, "\n"); !strings.Contains(text, c.index) || strings.Contains(text, "Seq Scan on trash") || strings.Contains(text, "Seq Scan on message_default") {
				t.Errorf("%s is not read along %s:\n%s", mode, c.index, text)
			}
		}
	}
}
