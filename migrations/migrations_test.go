package migrations_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5"

	"sluice/migrations"
	"sluice/migrations/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// Up, down and up again leads to the same schema, and everything down leaves a database as it was found.
func TestUpDownUp(t *testing.T) {
	t.Parallel()
	url := pgtest.NewEmpty(t).URL
	conn := connect(t, url)
	before := catalog(t, conn)
	began := time.Now()
	ok(t, migrations.Up(t.Context(), url))
	t.Logf("up took %v", time.Since(began))
	began = time.Now()
	ok(t, migrations.Up(t.Context(), url))
	t.Logf("up with nothing to do took %v", time.Since(began))
	full := catalog(t, conn)

	s := status(t, url)
	ok(t, s.Err())
	for steps := range s.Latest {
		ok(t, migrations.Down(t.Context(), url, 1))
		if now := status(t, url); now.Current != s.Latest-steps-1 || now.RiverCurrent != s.RiverLatest || now.Dirty {
			t.Fatalf("after %d steps down: %+v", steps+1, now)
		}
	}
	ok(t, migrations.Down(t.Context(), url, 1)) // there is nothing to undo
	ok(t, migrations.Up(t.Context(), url))
	same(t, "after down and up", full, catalog(t, conn))

	ok(t, migrations.Down(t.Context(), url, -1))
	same(t, "after everything down", before, catalog(t, conn))
	ok(t, migrations.Down(t.Context(), url, -1))
	ok(t, migrations.Up(t.Context(), url))
	same(t, "after everything down and up", full, catalog(t, conn))
	ok(t, migrations.Down(t.Context(), url, 2))
	ok(t, migrations.Up(t.Context(), url))
	same(t, "after two down and up", full, catalog(t, conn))

	if err := migrations.Down(t.Context(), url, 0); err == nil {
		t.Error("no steps down are no error")
	}
}

// What is not ours stays when all of ours goes.
func TestDownKeepsOthers(t *testing.T) {
	t.Parallel()
	url := pgtest.NewEmpty(t).URL
	ok(t, migrations.Up(t.Context(), url))
	conn := connect(t, url)
	exec(t, conn, "create table sluice.mine (); create table river.mine ()")
	ok(t, migrations.Down(t.Context(), url, -1))
	exec(t, conn, "select from sluice.mine, river.mine")
}

// Any number of processes may start at once on an empty database, also when a migration builds an index concurrently,
// which waits for every other session's snapshot.
func TestParallelUp(t *testing.T) {
	t.Parallel()
	url := pgtest.NewEmpty(t).URL
	files := fstest.MapFS{
		"0001_create_a.up.sql":   file("create table sluice.a (n int); insert into sluice.a select generate_series(1, 1000);"),
		"0002_index_a.up.sql":    file("-- Alone in its file.\ncreate index concurrently a_n_idx on sluice.a (n);"),
		"0003_create_b.up.sql":   file("create table sluice.b (id bigint references river.river_job)"),
		"0003_create_b.down.sql": file("drop table sluice.b"),
	}
	errs := make(chan error)
	for range 5 {
		go func() { errs <- migrations.UpFiles(t.Context(), url, files) }()
	}
	for range 5 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	var valid bool
	ok(t, connect(t, url).QueryRow(t.Context(), "select indisvalid from pg_index where indexrelid = 'sluice.a_n_idx'::regclass").Scan(&valid))
	if s := status(t, url); s.Current != 3 || s.Dirty || !valid {
		t.Errorf("%+v, index valid: %v", s, valid)
	}
}

// The real files, five processes at once.
func TestParallelUpOurs(t *testing.T) {
	t.Parallel()
	url := pgtest.NewEmpty(t).URL
	errs := make(chan error)
	for range 5 {
		go func() { errs <- migrations.Up(t.Context(), url) }()
	}
	for range 5 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	ok(t, status(t, url).Err())
}

// A file that fails leaves nothing behind, says where it failed, and is tried again when it is mended.
func TestFailedFile(t *testing.T) {
	t.Parallel()
	url := pgtest.NewEmpty(t).URL
	files := fstest.MapFS{
		"0001_create_a.up.sql": file("create table sluice.a ();"),
		"0002_create_b.up.sql": file("create table sluice.b ();\n\ncreate table sluice.c (n sometype);"),
		"0003_create_d.up.sql": file("create table sluice.d ();"),
	}
	err := migrations.UpFiles(t.Context(), url, files)
	if err == nil || !strings.Contains(err.Error(), "to version 2, line 3:") {
		t.Errorf("got %v", err)
	}
	if s := status(t, url); s.Current != 1 || s.Dirty {
		t.Errorf("%+v", s)
	}
	files["0002_create_b.up.sql"] = file("create table sluice.b ();")
	ok(t, migrations.UpFiles(t.Context(), url, files))
	if s := status(t, url); s.Current != 3 || s.Dirty {
		t.Errorf("%+v", s)
	}
}

// Names without a schema are refused, rather than put wherever the user's search path leads.
func TestUnqualifiedName(t *testing.T) {
	t.Parallel()
	url := pgtest.NewEmpty(t).URL
	err := migrations.UpFiles(t.Context(), url, fstest.MapFS{"0001_create_a.up.sql": file("create table a ();")})
	if err == nil {
		t.Error("a table without a schema was made")
	}
}

// A migration that changes data sees the rows of all tenants, walls or not.
func TestDataOfAllTenants(t *testing.T) {
	t.Parallel()
	url := pgtest.NewEmpty(t).URL
	files := fstest.MapFS{
		"0001_create_a.up.sql": file(`
			create table sluice.a (tenant_id bigint, n int);
			insert into sluice.a values (1, 0), (2, 0);
			alter table sluice.a enable row level security;
			alter table sluice.a force row level security;
			create policy wall on sluice.a using (current_setting('sluice.tenant_id', true) in ('*', tenant_id::text));`),
		"0002_change_a.up.sql": file("update sluice.a set n = 1; do $$ begin assert (select count(*) from sluice.a where n = 1) = 2; end $$;"),
	}
	ok(t, migrations.UpFiles(t.Context(), url, files))
}

// A migration does not queue up in front of the traffic for long, and is tried again when it got out of the way.
func TestBusyTable(t *testing.T) {
	t.Parallel()
	url := pgtest.NewEmpty(t).URL
	files := fstest.MapFS{"0001_create_a.up.sql": file("create table sluice.a ();")}
	ok(t, migrations.UpFiles(t.Context(), url, files))
	reader := connect(t, url)
	exec(t, reader, "begin; select from sluice.a")
	files["0002_alter_a.up.sql"] = file("alter table sluice.a add column n int")
	done := make(chan error)
	go func() { done <- migrations.UpFiles(t.Context(), url, files) }()

	watcher := connect(t, url)
	waiting := func() (n int) {
		ok(t, watcher.QueryRow(t.Context(), "select count(*) from pg_locks where relation = 'sluice.a'::regclass and not granted").Scan(&n))
		return n
	}
	waitFor(t, "the migration to wait for the reader", func() bool { return waiting() == 1 })
	waitFor(t, "the migration to get out of the way", func() bool { return waiting() == 0 })
	exec(t, reader, "commit")
	ok(t, <-done)
	if s := status(t, url); s.Current != 2 || s.Dirty {
		t.Errorf("%+v", s)
	}
}

// An interrupted migration that could not be part of a transaction is not built upon, and the error leads out.
func TestDirty(t *testing.T) {
	t.Parallel()
	db := pgtest.NewEmpty(t)
	url := db.URL
	files := fstest.MapFS{
		"0001_create_a.up.sql": file("create table sluice.a (n int); insert into sluice.a values (1), (1);"),
		"0002_index_a.up.sql":  file("create unique index concurrently a_n_idx on sluice.a (n)"),
	}
	if err := migrations.UpFiles(t.Context(), url, files); err == nil {
		t.Fatal("an index over duplicates was made")
	}
	if s := status(t, url); s.Current != 2 || !s.Dirty || !errors.Is(s.Err(), migrations.ErrDirty) {
		t.Errorf("%+v: %v", s, s.Err())
	}
	for what, err := range map[string]error{
		"up":    migrations.UpFiles(t.Context(), url, files),
		"down":  migrations.DownFiles(t.Context(), url, files, 1),
		"check": migrations.Check(t.Context(), db.Pool()),
	} {
		if !errors.Is(err, migrations.ErrDirty) || !strings.Contains(err.Error(), "update sluice.schema_migrations set version") {
			t.Errorf("%s says %v", what, err)
		}
	}
	conn := connect(t, url)
	exec(t, conn, "drop index sluice.a_n_idx")
	exec(t, conn, "delete from sluice.a")
	exec(t, conn, "update sluice.schema_migrations set version = 1, dirty = false")
	ok(t, migrations.UpFiles(t.Context(), url, files))
}

// Who serves on another schema than it knows is stopped, with both numbers and the way on.
func TestCheck(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	p := db.Pool()
	ok(t, migrations.Check(t.Context(), p))
	known := status(t, db.URL).Latest

	ok(t, migrations.Down(t.Context(), db.URL, 1))
	err := migrations.Check(t.Context(), p)
	for _, want := range []string{fmt.Sprintf("at %d ", known-1), fmt.Sprintf("needs %d ", known), "`sluice migrate up`"} {
		if !errors.Is(err, migrations.ErrVersion) || !strings.Contains(err.Error(), want) {
			t.Errorf("an old schema: %v lacks %q", err, want)
		}
	}

	ok(t, migrations.Up(t.Context(), db.URL))
	exec(t, connect(t, db.URL), fmt.Sprintf("update sluice.schema_migrations set version = %d", known+1))
	for what, err := range map[string]error{
		"check": migrations.Check(t.Context(), p),
		"up":    migrations.Up(t.Context(), db.URL),
		"down":  migrations.Down(t.Context(), db.URL, 1),
	} {
		if !errors.Is(err, migrations.ErrVersion) || !strings.Contains(err.Error(), "newer") {
			t.Errorf("a newer schema: %s says %v", what, err)
		}
	}

	err = migrations.Check(t.Context(), pgtest.NewEmpty(t).Pool())
	if !errors.Is(err, migrations.ErrVersion) || !strings.Contains(err.Error(), "at 0 (River 0)") {
		t.Errorf("no schema: %v", err)
	}
}

// Who gives up waiting for another's migration says so.
func TestCancelled(t *testing.T) {
	t.Parallel()
	url := pgtest.NewEmpty(t).URL
	exec(t, connect(t, url), fmt.Sprintf("select pg_advisory_lock(%d)", 0x736c75696365))
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second) // on a busy machine it must come to its wait
	defer cancel()
	err := migrations.Up(ctx, url)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "another process") {
		t.Errorf("got %v", err)
	}
}

// The files are numbered without gaps, each with its way back, and fit to be run in one transaction.
func TestFiles(t *testing.T) {
	t.Parallel()
	ups, err := fs.Glob(migrations.Files, "*.up.sql")
	ok(t, err)
	all, err := fs.Glob(migrations.Files, "*")
	ok(t, err)
	if len(ups) == 0 || len(all) != 2*len(ups) {
		t.Errorf("%d files, of which %d go up", len(all), len(ups))
	}
	name := regexp.MustCompile(`^[0-9]{4}_[a-z]+(_[a-z0-9]+)+\.up\.sql$`)
	ends := regexp.MustCompile(`(?im)^\s*(begin|commit|rollback|start transaction)\s*;`)
	slices.Sort(ups)
	for i, up := range ups {
		if !name.MatchString(up) || !strings.HasPrefix(up, fmt.Sprintf("%04d_", i+1)) {
			t.Errorf("%s is not called %04d_verb_thing.up.sql", up, i+1)
		}
		for _, f := range []string{up, strings.TrimSuffix(up, ".up.sql") + ".down.sql"} {
			b, err := fs.ReadFile(migrations.Files, f)
			if err != nil {
				t.Error(err)
			}
			if ends.Match(b) {
				t.Errorf("%s ends the transaction that it is run in", f)
			}
			if migrations.Concurrent(string(b)) && strings.Count(string(b), ";") > 1 {
				t.Errorf("%s is run outside a transaction, so it must be one statement", f)
			}
		}
	}
}

// catalog is what there is in a database.
func catalog(t *testing.T, conn *pgx.Conn) []string {
	t.Helper()
	rows, err := conn.Query(t.Context(), `
		select 'column ' || attrelid::regclass || '.' || attname || ' ' || format_type(atttypid, atttypmod) || ' ' || attnotnull
			|| ' ' || coalesce(pg_get_expr(adbin, adrelid), '') || ' ' || attcompression::text
		from pg_attribute left join pg_attrdef on adrelid = attrelid and adnum = attnum
		where attnum > 0 and not attisdropped and attrelid >= 16384
			and attrelid not in (select oid from pg_class where relnamespace = 'pg_toast'::regnamespace)
		union all
		select 'relation ' || oid::regclass || ' ' || relkind::text || relrowsecurity || relforcerowsecurity || coalesce(reloptions::text, '')
		from pg_class where oid >= 16384 and relkind <> 't' and relnamespace <> 'pg_toast'::regnamespace
		union all
		select 'index ' || pg_get_indexdef(indexrelid) from pg_index where indrelid >= 16384
			and indrelid not in (select oid from pg_class where relkind = 't')
		union all
		select 'constraint ' || conrelid::regclass || ' ' || pg_get_constraintdef(oid) from pg_constraint where conrelid >= 16384
		union all
		select 'policy ' || polrelid::regclass || ' ' || polname || ' ' || pg_get_expr(polqual, polrelid) from pg_policy
		union all
		select 'function ' || oid::regprocedure || md5(prosrc) from pg_proc where oid >= 16384
		union all
		select 'type ' || t.oid::regtype || coalesce((select string_agg(enumlabel, ',' order by enumsortorder) from pg_enum where enumtypid = t.oid), '')
		from pg_type t where t.oid >= 16384 and typrelid = 0
		union all
		select 'schema ' || nspname from pg_namespace where oid >= 16384 and nspname !~ '^pg_'
		order by 1`)
	ok(t, err)
	all, err := pgx.CollectRows(rows, pgx.RowTo[string])
	ok(t, err)
	return all
}

func same(t *testing.T, when string, want, got []string) {
	t.Helper()
	for _, line := range want {
		if !slices.Contains(got, line) {
			t.Errorf("%s: gone: %s", when, line)
		}
	}
	for _, line := range got {
		if !slices.Contains(want, line) {
			t.Errorf("%s: new: %s", when, line)
		}
	}
}

func status(t *testing.T, url string) migrations.Status {
	t.Helper()
	s, err := migrations.GetStatus(t.Context(), url)
	ok(t, err)
	return s
}

func file(sql string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(sql)} }

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	ok(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// exec runs statements in one simple query.
func exec(t *testing.T, conn *pgx.Conn, sql string) {
	t.Helper()
	_, err := conn.PgConn().Exec(t.Context(), sql).ReadAll()
	ok(t, err)
}

func waitFor(t *testing.T, what string, fact func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !fact(); time.Sleep(5 * time.Millisecond) { //nolint:forbidigo // between two looks at a fact, with a deadline
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
