package auth

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"sluice/migrations/pgtest"
	"sluice/queue/process"
)

// rowsOf makes one row in every table that belongs to a tenant; $1 is the tenant, $2 a process of it.
var rowsOf = []string{
	`insert into sluice.tenant (id, name) values ($1::bigint, 'tenant-' || $1::bigint)`,
	`insert into sluice.configuration (tenant_id, revision) values ($1, 1)`,
	`insert into sluice.api_key (tenant_id, name, public_id, hash, scopes, created_by) values ($1::bigint, 'a', 'id' || $1::bigint, '', '{ingest}', 'test')`,
	`insert into sluice.audit (tenant_id, actor, action, subject) values ($1, 'a', 'b', 'c')`,
	`insert into sluice.topology (tenant_id, name) values ($1, 'a')`,
	`insert into sluice.topology_version (tenant_id, topology_id, graph, source, created_by) select $1::bigint, id, '{}', '', 'test' from sluice.topology where tenant_id = $1`,
	`insert into sluice.edge (tenant_id, version_id, from_node, to_node) select $1::bigint, id, 'a', 'b' from sluice.topology_version where tenant_id = $1`,
	`insert into sluice.worker (tenant_id, name, url, secrets) values ($1, 'a', 'http://a', '{}')`,
	`insert into sluice.application_install (tenant_id, id, user_name, application) values ($1, repeat('a', 24), 'u', 'a')`,
	`insert into sluice.reported_call (tenant_id, node_id, user_name, application, url, status, duration_ms) values ($1, '', '', '', '', 200, 1)`,
	`insert into sluice.reported_line (tenant_id, node_id, level, message, trace) values ($1, '', '', '', '')`,
	`insert into sluice.webhook (tenant_id, id, name, user_name, application, topology, node, token, token_digest) values ($1, repeat('a', 24), '', 'u', 'a', '', '', '', '')`,
	`insert into sluice.declared_limit (tenant_id, application, user_name, worker, tried_at) values ($1, 'a', 'u', 'a', now())`,
	`insert into sluice.authorization_open (tenant_id, digest, worker, application, user_name, state, return_to, key_id, started_by, expires_at) values ($1::bigint, sha256($1::bigint::text::bytea), 'a', 'a', 'u', '', '', 1, '', now())`,
	`insert into sluice.operator (tenant_id, name, scopes, created_by) values ($1, 'a', '{admin}', 'test')`,
	`insert into sluice.operator_link (tenant_id, operator_id, digest, expires_at) select tenant_id, id, sha256(tenant_id::text::bytea), now() from sluice.operator where tenant_id = $1`,
	`insert into sluice.session (tenant_id, operator_id, digest, expires_at) select tenant_id, id, sha256(tenant_id::text::bytea), now() from sluice.operator where tenant_id = $1`,
	`insert into sluice.process (tenant_id, id, version_id, node, total, open) values ($1, $2, 1, 'a', 1, 1)`,
	`insert into sluice.message (tenant_id, process_id, id, edge_id, headers) values ($1, $2, 1, 1, '{}')`,
	`insert into sluice.attempt (tenant_id, process_id, message_id, edge_id, runner_id, attempt, page, outcome, duration_us) values ($1, $2, 1, 1, 1, 1, 0, 'done', 1)`,
	`insert into sluice.batch_cursor (tenant_id, process_id, message_id, page, cursor) values ($1, $2, 1, 1, '')`,
	`insert into sluice.entity_key (tenant_id, process_id, kind, value, message_id) values ($1, $2, 'order', 'a', 1)`,
	`insert into sluice.replay (tenant_id, process_id, source_process_id, replayed_by) values ($1, $2, $2, 'ann')`,
	`insert into sluice.trash (tenant_id, process_id, message_id, edge_id, attempt, reason) values ($1, $2, 1, 1, 1, '')`,
	`insert into sluice.decision (tenant_id, process_id, message_id, verdict, decided_by) values ($1, $2, 1, 'approve', 'test')`,
	`insert into sluice.idempotency_key (tenant_id, digest, body_digest, process_id) values ($1, '', '', $2)`,
	`insert into sluice.edge_count (tenant_id, edge_id, slot, arrived, departed, bytes) values ($1, 1, -1, 0, 0, 0)`,
	`insert into sluice.trash_retention (tenant_id, set_by) values ($1, 'test')`,
	`insert into sluice.bulk (tenant_id, action, state, filter, reason, created_by) values ($1, 'approve', 'preview', '{}', '', 'test')`,
	`insert into sluice.bulk_item (tenant_id, bulk_id, message_id, process_id, revision) values ($1, 1, 1, $2, 1)`,
	`insert into sluice.lane (tenant_id, edge_id, key) values ($1, 1, '')`,
	`insert into sluice.limiter_limit (tenant_id, application) values ($1, 'a')`,
	`insert into sluice.limiter_override (tenant_id, limit_id, user_name) select tenant_id, id, 'u' from sluice.limiter_limit where tenant_id = $1`,
	`insert into sluice.limiter_gate (tenant_id, limit_id) select tenant_id, id from sluice.limiter_limit where tenant_id = $1`,
	`insert into sluice.limiter_key (tenant_id, limit_id, user_name) select tenant_id, id, 'u' from sluice.limiter_limit where tenant_id = $1`,
	`insert into sluice.limiter_line (tenant_id, limit_id, user_name, edge_id, topology_id) select tenant_id, id, 'u', 1, 1 from sluice.limiter_limit where tenant_id = $1`,
	`insert into sluice.limiter_hold (tenant_id, edge_id, user_name, seq, limit_id, job_id) select tenant_id, 1, 'u', 1, id, 1 from sluice.limiter_limit where tenant_id = $1`,
	`insert into sluice.limiter_delta (tenant_id, limit_id, user_name, edge_id, topology_id, held, arrived) select tenant_id, id, 'u', 1, 1, 1, 1 from sluice.limiter_limit where tenant_id = $1`,
	`insert into sluice.lane_message (tenant_id, edge_id, key, place, process_id, message_id, via_id, attempts) values ($1, 1, '', 1, $2, 1, 1, 0)`,
	`insert into sluice.pull_call (tenant_id, worker, id, caller, deadline, method, path, headers, body) values ($1, 'a', $2, $2, now(), '', '', '{}', '')`,
	`insert into sluice.pull_presence (tenant_id, worker) values ($1, 'a')`,
	`insert into sluice.rollup (tenant_id, scope, step, at, subject) values ($1, 'edge', 1, now(), '1')`,
}

const (
	ours   = int64(101)
	theirs = int64(102)
)

// walled returns the tables of the schema that have a tenant's rows, each with the column that names the tenant.
// Partitions are among them: whoever knows the name of one must not get round the wall.
func walled(t *testing.T, db DB) map[string]string {
	t.Helper()
	rows, err := db.Query(t.Context(), `
		select c.relname, a.attname
		from pg_class c join pg_attribute a on a.attrelid = c.oid
		where c.relnamespace = 'sluice'::regnamespace and c.relkind in ('r', 'p') and not a.attisdropped
		  and (a.attname = 'tenant_id' or c.relname = 'tenant' and a.attname = 'id')`)
	ok(t, err)
	tables := map[string]string{}
	var table, column string
	_, err = pgx.ForEachRow(rows, []any{&table, &column}, func() error { tables[table] = column; return nil })
	ok(t, err)
	if len(tables) < len(rowsOf) {
		t.Fatalf("only %d tables found", len(tables))
	}
	return tables
}

// exempt are the tables of no tenant, with the reason.
var exempt = map[string]string{
	"runner":            "belongs to the installation; who works what is in no tenant's API",
	"rollup_mark":       "belongs to the installation; it says up to when is counted",
	"schema_migrations": "belongs to golang-migrate",
}

// Every table with a tenant's rows has its wall, for its owner too, and every unique index in it starts with the tenant,
// so that no tenant can find out by a conflict what another has. A new table fails here until it has both.
func TestEveryTableHasItsWall(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t).Pool()
	tables := walled(t, pool)

	rows, err := pool.Query(t.Context(), `
		select c.relname, c.relrowsecurity and c.relforcerowsecurity, c.relispartition,
			(select count(*) from pg_policy p where p.polrelid = c.oid and p.polpermissive and p.polcmd = '*' and p.polroles = '{0}'),
			(select count(*) from pg_policy p where p.polrelid = c.oid)
		from pg_class c
		where c.relnamespace = 'sluice'::regnamespace and c.relkind in ('r', 'p')`)
	ok(t, err)
	var (
		table             string
		forced, partition bool
		walls, policies   int
	)
	_, err = pgx.ForEachRow(rows, []any{&table, &forced, &partition, &walls, &policies}, func() error {
		switch {
		case tables[table] == "" && exempt[table] == "":
			t.Errorf("%s has no tenant_id, and no reason for that is given here", table)
		case exempt[table] != "":
		case !forced:
			t.Errorf("row-level security of %s is not forced", table)
		case partition && policies != 0:
			t.Errorf("the partition %s has a policy of its own; only its parent should", table)
		case !partition && (walls != 1 || policies != 1):
			t.Errorf("%s has %d policies, %d of them a wall; it needs one wall", table, policies, walls)
		}
		return nil
	})
	ok(t, err)

	rows, err = pool.Query(t.Context(), `
		select c.relname, i.relname, coalesce(a.attname, '')
		from pg_index x join pg_class c on c.oid = x.indrelid join pg_class i on i.oid = x.indexrelid
		left join pg_attribute a on a.attrelid = c.oid and a.attnum = x.indkey[0]
		where c.relnamespace = 'sluice'::regnamespace and x.indisunique`)
	ok(t, err)
	explained := map[string]string{
		"api_key_public_id_idx": "a key is looked up before its tenant is known; the id is random, so no conflict tells anything",
		"edge_id_idx":           "a queue is named after its edge, whose tenant is not known yet; the id is generated",
		"tenant_name_key":       "tenants are made by the installation, not by tenants",
	}
	var index, column string
	_, err = pgx.ForEachRow(rows, []any{&table, &index, &column}, func() error {
		if exempt[table] == "" && column != tables[table] && explained[index] == "" {
			t.Errorf("the unique index %s of %s starts with %s, not with the tenant", index, table, column)
		}
		return nil
	})
	ok(t, err)

	if one[bool](t, pool, `select rolsuper or rolbypassrls from pg_roles where rolname = current_user`) {
		t.Error("the tests run as a role that no wall holds")
	}
}

// visible counts, in every table, the rows that a session sees of any tenant but one.
func visible(t *testing.T, db DB, tables map[string]string, except int64) map[string]int {
	t.Helper()
	seen := map[string]int{}
	for table, column := range tables {
		seen[table] = one[int](t, db, fmt.Sprintf(`select count(*) from sluice.%s where %s <> $1`, table, column), except)
	}
	return seen
}

// A session that acts for a tenant sees all of its rows and nothing of another's, whatever it asks for; one that acts
// for nobody sees nothing.
func TestTheWallHolds(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	system, tenants := db.Pool(), db.TenantPool()
	ours7, theirs7 := "01980000-0000-7000-8000-000000000001", "01980000-0000-7000-8000-000000000002"
	for _, sql := range rowsOf {
		for tenant, id := range map[int64]string{ours: ours7, theirs: theirs7} {
			args := []any{tenant, id}
			if !strings.Contains(sql, "$2") {
				args = args[:1]
			}
			_, err := system.Exec(t.Context(), sql, args...)
			ok(t, err)
		}
	}
	tables := walled(t, system)
	partition := map[string]bool{}
	for table, column := range tables {
		partition[table] = one[bool](t, system, `select relispartition from pg_class where oid = ('sluice.' || $1)::regclass`, table)
		n := one[int](t, system, fmt.Sprintf(`select count(*) from sluice.%s where %s in (101, 102)`, table, column))
		if !partition[table] && n != 2 {
			t.Errorf("%s has %d rows to try the wall with; give it one for each tenant", table, n)
		}
	}

	ok(t, process.ForTenant(t.Context(), tenants, ours, func(tx pgx.Tx) error {
		for table, n := range visible(t, tx, tables, ours) {
			if n != 0 {
				t.Errorf("sees %d rows of others in %s", n, table)
			}
		}
		for table, column := range tables {
			mine := one[int](t, tx, `select count(*) from sluice.`+table)
			if want := map[bool]int{false: 1, true: 0}[partition[table]]; mine != want {
				t.Errorf("sees %d rows in %s without asking for any, want its own %d", mine, table, want)
			}
			if n := one[int](t, tx, fmt.Sprintf(`select count(*) from sluice.%s where %s = $1`, table, column), theirs); n != 0 {
				t.Errorf("sees %d rows in %s when it asks for another's", n, table)
			}
		}
		return nil
	}))

	for table, n := range visible(t, tenants, tables, 0) {
		if n != 0 {
			t.Errorf("a session that acts for nobody sees %d rows in %s", n, table)
		}
	}
	for _, setting := range []string{"", "0", "-1", "ours", "101 ", "101;102", "1e2", strings.Repeat("9", 30), "**"} {
		conn, err := tenants.Acquire(t.Context())
		ok(t, err)
		_, err = conn.Exec(t.Context(), `select set_config('sluice.tenant_id', $1, false)`, setting)
		ok(t, err)
		for table, n := range visible(t, conn, tables, 0) {
			if n != 0 {
				t.Errorf("the setting %q sees %d rows in %s", setting, n, table)
			}
		}
		ok(t, conn.Conn().Close(t.Context()))
		conn.Release()
	}
}

// Nor can a session write what it cannot see: it changes and deletes nothing of another's, and adds nothing to it.
func TestTheWallHoldsAgainstWriting(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	system, tenants := db.Pool(), db.TenantPool()
	id := "01980000-0000-7000-8000-000000000002"
	for _, sql := range rowsOf {
		args := []any{theirs, id}
		if !strings.Contains(sql, "$2") {
			args = args[:1]
		}
		// First as somebody else, who is refused, or finds nothing to select from; then as who may.
		err := process.ForTenant(t.Context(), tenants, ours, func(tx pgx.Tx) error {
			tag, err := tx.Exec(t.Context(), sql, args...)
			if err == nil && tag.RowsAffected() != 0 {
				t.Errorf("adds a row to another tenant: %s", sql)
			}
			return err
		})
		if err != nil && !hasCode(err, "42501") {
			t.Errorf("%v: %s", err, sql)
		}
		_, err = system.Exec(t.Context(), sql, args...)
		ok(t, err)
	}
	tables := walled(t, system)
	before := contents(t, system, tables)
	for _, table := range slices.Sorted(maps.Keys(tables)) {
		for _, sql := range []string{`delete from sluice.` + table, fmt.Sprintf(`update sluice.%s set %s = %[2]s`, table, tables[table])} {
			err := process.ForTenant(t.Context(), tenants, ours, func(tx pgx.Tx) error {
				tag, err := tx.Exec(t.Context(), sql)
				if tag.RowsAffected() != 0 {
					t.Errorf("%s: %d rows", sql, tag.RowsAffected())
				}
				return err
			})
			// An id that is always generated cannot be set, whoever tries.
			if err != nil && !hasCode(err, "428C9") {
				t.Errorf("%s: %v", sql, err)
			}
		}
	}
	if after := contents(t, system, tables); !maps.Equal(before, after) {
		t.Errorf("rows before %v, after %v", before, after)
	}
}

func contents(t *testing.T, pool *pgxpool.Pool, tables map[string]string) map[string]int {
	t.Helper()
	return visible(t, pool, tables, 0)
}

// ForTenant commits what f did, or nothing, and what it says ends with the transaction.
func TestForTenant(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t).TenantPool()
	setting := func(db DB) string {
		return one[string](t, db, `select coalesce(current_setting('sluice.tenant_id', true), '')`)
	}
	ok(t, process.ForTenant(t.Context(), pool, 1, func(tx pgx.Tx) error {
		if s := setting(tx); s != "1" {
			t.Errorf("acts for %q", s)
		}
		_, err := tx.Exec(t.Context(), `insert into sluice.audit (tenant_id, actor, action, subject) values (1, 'a', 'kept', 'c')`)
		return err
	}))
	stop := fmt.Errorf("stop")
	if err := process.ForTenant(t.Context(), pool, 1, func(tx pgx.Tx) error {
		_, err := tx.Exec(t.Context(), `insert into sluice.audit (tenant_id, actor, action, subject) values (1, 'a', 'lost', 'c')`)
		ok(t, err)
		return stop
	}); err != stop { //nolint:errorlint // it comes back as it is
		t.Error(err)
	}
	if s := setting(pool); s != "" {
		t.Errorf("the setting stays: %q", s)
	}
	ok(t, process.ForTenant(t.Context(), pool, 1, func(tx pgx.Tx) error {
		if actions := one[string](t, tx, `select string_agg(action, ' ') from sluice.audit`); actions != "kept" {
			t.Errorf("noted %q", actions)
		}
		return nil
	}))
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := process.ForTenant(gone, pool, 1, func(pgx.Tx) error { t.Error("began"); return nil }); err == nil {
		t.Error("no error")
	}
}
