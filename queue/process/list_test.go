package process_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"sluice/migrations/pgtest"
	"sluice/queue/process"
)

const tenant = 1

// history fills a database with 36,000 processes of three days, most of them done, of two versions of flow; ten each are of
// rare, of gone, which was deleted, and 360 of another tenant's topology with the same name. 40 have failed, one of them
// with 10,000 entries in the trash; 30 have rejected messages, 20 were terminated. 309 run, ten of these from the first
// hour on. Each is about an order and a user, which some others are about, and a currency that all are about.
const history = `
do $$ begin
    for d in 1..3 loop
        execute format('create table sluice.process_2025010%s partition of sluice.process for values from (%L) to (%L)', d, day(d), day(d + 1));
        execute format('create table sluice.message_2025010%s partition of sluice.message for values from (%L) to (%L)', d, day(d), day(d + 1));
        execute format('create table sluice.attempt_2025010%s partition of sluice.attempt for values from (%L) to (%L)', d, day(d), day(d + 1));
        execute format('create table sluice.entity_key_2025010%s partition of sluice.entity_key for values from (%L) to (%L)', d, day(d), day(d + 1));
    end loop;
end $$;
insert into sluice.tenant (id, name) overriding system value values (2, 'other');
insert into sluice.topology (tenant_id, id, name, deleted_at) overriding system value
values (1, 1, 'flow', null), (1, 2, 'rare', null), (1, 3, 'gone', now()), (2, 4, 'flow', null);
insert into sluice.topology_version (tenant_id, id, topology_id, number, graph, source, created_by, published_at) overriding system value
values (1, 1, 1, 1, '{}', '', '', now()), (1, 2, 1, 2, '{}', '', '', now()), (1, 3, 2, 1, '{}', '', '', now()),
       (1, 4, 3, 1, '{}', '', '', now()), (2, 5, 4, 1, '{}', '', '', now()), (1, 6, 1, null, '{}', '', '', null);
insert into sluice.process (tenant_id, id, version_id, node, total, open, trashed, done, rejected, terminated)
select case when n % 100 = 99 then 2 else 1 end, at(1, n * 7000),
       case when n % 100 = 99 then 5 when n < 10 then 3 when n between 10 and 19 then 4 when n % 6 = 0 then 2 else 1 end, 'in', 3,
       (n > 35700 or n between 100 and 109)::int, (n % 900 = 50)::int, 1, (n % 1200 = 70)::int, (n % 1800 = 90)::int
from generate_series(0, 35999) n;
insert into sluice.trash (tenant_id, process_id, message_id, edge_id, attempt, reason)
select p.tenant_id, p.id, row_number() over (), 1, 1, 'refused' from sluice.process p
cross join lateral generate_series(1, case when p.id = at(1, 50 * 7000) then 10000 else p.trashed end) where p.trashed > 0;
insert into sluice.decision (tenant_id, process_id, message_id, verdict, decided_by)
select tenant_id, id, 1, case when rejected > 0 then 'reject' when terminated > 0 then 'terminate' else 'approve' end, 'ann'
from sluice.process where rejected + terminated > 0 or trashed > 0;
insert into sluice.entity_key (tenant_id, process_id, kind, value, message_id)
select tenant_id, id, k.kind, k.value || case when k.each then (row_number() over () / 5 / 4 % 9000)::text else '' end, 1 from sluice.process,
    (values ('order', 'o', true), ('user', 'o', true), ('currency', 'EUR', false), ('a', 'EUR', false)) k(kind, value, each);
analyze`

// clock makes ids of processes that began some milliseconds after a day of January 2025.
const clock = `
create function at(day int, ms bigint) returns uuid language sql immutable as $$
    select (lpad(to_hex((extract(epoch from timestamptz '2024-12-31 00:00Z') * 1000)::bigint + day * 86400000 + ms), 12, '0') || '70008000000000000001')::uuid
$$;
create function day(d int) returns uuid language sql immutable as $$
    select (left(replace(at(d, 0)::text, '-', ''), 12) || repeat('0', 20))::uuid
$$`

func withHistory(t *testing.T) (all, tenants *pgxpool.Pool) {
	t.Helper()
	db := pgtest.New(t)
	all = db.Pool()
	for _, sql := range []string{clock, history} {
		_, err := all.Exec(t.Context(), ``+sql)
		ok(t, err)
	}
	return all, db.TenantPool()
}

// Whatever a list is asked for, its pages together show each process once, newest first, and none of another tenant's,
// also where what it is asked for is so rare that pages are empty.
func TestListShowsAll(t *testing.T) {
	t.Parallel()
	all, tenants := withHistory(t)
	for _, f := range []process.Filter{
		{Limit: 5000},
		{Topology: "flow", Limit: 5000},
		{Topology: "flow", Version: 2, Limit: 1000},
		{Topology: "rare", Limit: 3},
		{Topology: "gone"},
		{Topology: "flow", Version: 9, Limit: 50},
		{Topology: "none", Limit: 50},
		{State: process.StateRunning, Limit: 50},
		{State: process.StateRunning, Topology: "flow", Version: 2, Limit: 50},
		{State: process.StateFailed, Limit: 7},
		{State: process.StateFailed, Topology: "flow", Limit: 50},
		{State: process.StateFailed, Topology: "rare", Limit: 50},
		{State: process.StateRejected, Limit: 50},
		{State: process.StateTerminated, Topology: "flow", Version: 1, Limit: 1},
		{State: process.StateDone, Limit: 5000},
		{Entity: process.Entity{Kind: "order", Value: "o77"}, Limit: 3},
		{Entity: process.Entity{Value: "o77"}, Limit: 2},
		{Entity: process.Entity{Value: "o77"}, Topology: "flow", Version: 2, Limit: 50},
		{Entity: process.Entity{Kind: "user", Value: "EUR"}, Limit: 50},
		{Entity: process.Entity{Kind: "currency", Value: "EUR"}, State: process.StateFailed, Limit: 50},
		{Entity: process.Entity{Value: "EUR"}, Limit: 5000},
	} {
		t.Run(fmt.Sprintf("%+v", f), func(t *testing.T) {
			t.Parallel()
			rows, _ := all.Query(t.Context(), `
				select p.id from sluice.process p
				join sluice.topology_version v on v.id = p.version_id join sluice.topology t on t.id = v.topology_id
				where p.tenant_id = 1 and ($1 = '' or t.name = $1) and ($2 = 0 or v.number = $2)
				and ($3 = '' or $3 = case when open > 0 then 'running' when trashed > 0 then 'failed' when terminated > 0 then 'terminated'
				                          when rejected > 0 then 'rejected' else 'done' end)
				and ($5 = '' or exists (select from sluice.entity_key k where k.tenant_id = 1 and k.process_id = p.id and ($4 = '' or k.kind = $4) and k.value = $5))
				order by p.id desc`, f.Topology, f.Version, f.State, f.Entity.Kind, f.Entity.Value)
			want, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
			ok(t, err)
			var got []uuid.UUID
			for pages := 0; pages == 0 || f.After != uuid.Nil; pages++ {
				if pages > 100 {
					t.Fatal("the list has no end")
				}
				var page process.Page
				ok(t, process.ForTenant(t.Context(), tenants, tenant, func(tx pgx.Tx) (err error) {
					page, err = process.List(t.Context(), tx, tenant, f)
					return err
				}))
				if len(page.Processes) > max(f.Limit, 1) {
					t.Fatalf("%d processes on a page of %d", len(page.Processes), f.Limit)
				}
				for _, p := range page.Processes {
					got = append(got, p.ID)
					if f.State != "" && p.State() != f.State || f.Topology != "" && p.Topology != f.Topology {
						t.Errorf("%+v is listed", p)
					}
				}
				f.After = page.Next
			}
			if !slices.Equal(got, want) {
				t.Errorf("%d processes listed, want %d", len(got), len(want))
			}
			t.Logf("%d processes", len(got))
		})
	}
}

// A list reads about as many rows as it shows, from the index that was made for it, however much there is; with and
// without knowing the arguments, and under row-level security.
func TestListPlans(t *testing.T) {
	t.Parallel()
	_, tenants := withHistory(t)
	last := uuid.MustParse("ffffffff-ffff-ffff-ffff-ffffffffffff")
	for _, c := range []struct {
		name, sql, types string
		args             []any
		index            string
		rows             float64
	}{
		{"newest", process.NewestSQL, "bigint, uuid, int", []any{1, last, 50}, "process_20250103_pkey", 500},
		{"newest of versions", process.NewestOfSQL, "bigint, bigint[], uuid, int", []any{1, "{1,2}", last, 50}, "process_20250103_tenant_id_version_id_id_idx", 800},
		{"failed", process.EvidenceSQL("trash"), "bigint, uuid, int", []any{1, last, 50}, "trash_pkey", 800},
		{"about an entity", process.AboutListSQL, "bigint, text, text, uuid, int", []any{1, "order", "o77", last, 50}, "entity_key_20250103_tenant_id_value_kind_process_id_idx", 100},
		{"about one of any kind", process.AboutListSQL, "bigint, text, text, uuid, int", []any{1, "", "o77", last, 50}, "entity_key_20250103_tenant_id_value_kind_process_id_idx", 150},
		{"traced", process.TraceProcessesSQL, "bigint, text, text, uuid, int", []any{1, "", "EUR", uuid.Nil, 50}, "entity_key_20250101_tenant_id_value_kind_process_id_idx", 900},
		{"about what all are", process.AboutListSQL, "bigint, text, text, uuid, int", []any{1, "", "EUR", last, 50}, "entity_key_20250103_tenant_id_value_kind_process_id_idx", 900},
		{"decided", process.EvidenceSQL("decision"), "bigint, uuid, int", []any{1, last, 50}, "decision_message_idx", 800},
	} {
		for _, mode := range []string{"force_custom_plan", "force_generic_plan"} {
			p := explain(t, tenants, mode, c.sql, c.types, c.args)
			if !slices.Contains(p.indexes, c.index) || p.rows > c.rows {
				t.Errorf("%s, %s: %.0f rows by %v, want at most %.0f by %s\n%s", c.name, mode, p.rows, p.indexes, c.rows, c.index, p.text)
			}
		}
	}
}

// plan is what running a statement showed.
type plan struct {
	indexes []string
	rows    float64 // read from tables, also those that were then left out
	text    string
}

// explain runs a statement, planned with its arguments or without, for a tenant.
func explain(t *testing.T, pool *pgxpool.Pool, mode, sql, types string, args []any) plan {
	t.Helper()
	var p plan
	ok(t, process.ForTenant(t.Context(), pool, tenant, func(tx pgx.Tx) error {
		list := ""
		for i, a := range args {
			if i > 0 {
				list += ", "
			}
			list += fmt.Sprintf("'%v'", a)
		}
		if _, err := tx.Exec(t.Context(), "set local plan_cache_mode = "+mode+"; prepare looked("+types+") as "+sql); err != nil {
			return err
		}
		var plans []struct{ Plan map[string]any }
		var text string
		if err := tx.QueryRow(t.Context(), "explain (analyze, format json) execute looked("+list+")").Scan(&text); err != nil {
			return err
		}
		p.text = text
		if err := json.Unmarshal([]byte(text), &plans); err != nil {
			return err
		}
		p.add(plans[0].Plan)
		_, err := tx.Exec(t.Context(), "deallocate looked")
		return err
	}))
	return p
}

func (p *plan) add(node map[string]any) {
	number := func(name string) float64 { n, _ := node[name].(float64); return n }
	if index, is := node["Index Name"].(string); is && number("Actual Loops") > 0 {
		p.indexes = append(p.indexes, index)
	}
	if _, reads := node["Relation Name"]; reads {
		p.rows += number("Actual Loops") * (number("Actual Rows") + number("Rows Removed by Filter") + number("Rows Removed by Index Recheck"))
	}
	children, _ := node["Plans"].([]any)
	for _, c := range children {
		p.add(c.(map[string]any))
	}
}
