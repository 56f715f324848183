// Package pgtest gives each test a Postgres database of its own, with the schema in it.
//
// The tests of a package share one server, which lives as long as the test program: it is started by the first test
// that asks, keeps nothing, and leaves neither process nor file behind, however the program ends. One template is
// migrated; each test gets a copy of it, in a few hundredths of a second. TEST_DATABASE_URL names a server to use
// instead, on which the user must be allowed to create databases.
//
// Where there is no Postgres at all, tests are skipped with a line that says how to install one; with CI=true they fail.
// It knows nothing of what the tests test, and is imported by nothing but tests.
package pgtest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/goleak"

	"sluice/migrations"
	"sluice/migrations/localpg"
)

// Bounds for what is done before and after tests, on a machine that has better things to do.
const (
	startTime = 2 * time.Minute
	tidyTime  = time.Minute
)

// dirPrefix is how the directories of our servers are called, among the temporary files.
const dirPrefix = "sluice-test-"

// leftByToxiproxy passes over a goroutine of that library: one that still has bytes to hand on when the toxics of its line
// change, as it does in tests that cut it, waits for ever.
var leftByToxiproxy = goleak.IgnoreAnyFunction("github.com/Shopify/toxiproxy/v2/toxics.(*NoopToxic).Pipe")

// Main runs the tests of a package. When they have passed it fails the package for each goroutine that is left over.
//
//	func TestMain(m *testing.M) { pgtest.Main(m) }
func Main(m *testing.M) {
	code := m.Run()
	if err := tidy(); err != nil {
		fmt.Fprintln(os.Stderr, "pgtest:", err)
		code = max(code, 1)
	}
	if code == 0 {
		// Connections that the standard client keeps for later are nobody's leak.
		http.DefaultClient.CloseIdleConnections()
		if err := goleak.Find(leftByToxiproxy); err != nil {
			fmt.Fprintln(os.Stderr, "pgtest:", err)
			code = 1
		}
	}
	os.Exit(code)
}

// DB is the database of one test.
type DB struct {
	// URL connects as the owner of the database, who is subject to row-level security and has chosen no tenant.
	URL string

	t testing.TB
}

// New makes a database with the present schema, which is dropped after the test.
func New(t testing.TB) *DB {
	t.Helper()
	s := server(t)
	template, err := s.template()
	if err != nil {
		t.Fatalf("pgtest: migrate the template: %v", err)
	}
	return s.database(t, template)
}

// NewEmpty makes a database with nothing in it, which is dropped after the test.
func NewEmpty(t testing.TB) *DB {
	t.Helper()
	return server(t).database(t, "template1")
}

// Pool is a new pool of connections as the engine's are: they see the rows of all tenants. It is closed after the test.
func (d *DB) Pool() *pgxpool.Pool {
	d.t.Helper()
	return d.pool(map[string]string{"sluice.tenant_id": "*"})
}

// TenantPool is a new pool of connections as the gateway's are: they see nothing until they say for which tenant they
// act. It is closed after the test.
func (d *DB) TenantPool() *pgxpool.Pool {
	d.t.Helper()
	return d.pool(nil)
}

func (d *DB) pool(params map[string]string) *pgxpool.Pool {
	d.t.Helper()
	config, err := pgxpool.ParseConfig(d.URL)
	if err != nil {
		d.t.Fatalf("pgtest: %v", err)
	}
	config.MaxConns = 10
	maps.Copy(config.ConnConfig.RuntimeParams, params)
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		d.t.Fatalf("pgtest: %v", err)
	}
	d.t.Cleanup(func() {
		closed := make(chan struct{})
		go func() { pool.Close(); close(closed) }()
		select {
		case <-closed:
		case <-time.After(tidyTime):
			d.t.Errorf("pgtest: %d connections were taken from the pool and not given back", pool.Stat().AcquiredConns())
		}
	})
	return pool
}

// Explain is the plan of a statement, for a test that it uses the index that was made for it. The planner is told to
// avoid reading whole tables, which it would rightly prefer in a test's small ones.
func Explain(t testing.TB, pool *pgxpool.Pool, sql string, args ...any) string {
	t.Helper()
	var lines []string
	err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(t.Context(), `set local enable_seqscan = off`); err != nil {
			return err
		}
		rows, err := tx.Query(t.Context(), `explain (costs off) `+sql, args...)
		if err != nil {
			return err
		}
		lines, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	if err != nil {
		t.Fatalf("pgtest: explain: %v", err)
	}
	return strings.Join(lines, "\n")
}

// Server starts a durable server for one test, to be restarted and killed. Its database localpg.Database has the
// present schema. It is stopped and removed after the test.
func Server(t testing.TB) *localpg.Server {
	t.Helper()
	s, err := localpg.Start(t.Context(), localpg.Config{Dir: Dir(t)})
	if err != nil {
		without(t, err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), tidyTime)
		defer cancel()
		if err := s.Stop(ctx); err != nil {
			t.Errorf("pgtest: %v", err)
		}
	})
	if err := migrations.Up(t.Context(), s.URL(localpg.Database)); err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	return s
}

// Dir makes a directory that a server can use: unlike t.TempDir, it may be entered by the user whom a server of root's
// runs as. It is removed after the test.
func Dir(t testing.TB) string {
	t.Helper()
	dir, err := makeDir()
	if err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("pgtest: %v", err)
		}
	})
	return dir
}

func makeDir() (string, error) {
	dir, err := os.MkdirTemp("", dirPrefix+strconv.Itoa(os.Getpid())+"-")
	if err != nil {
		return "", err
	}
	return dir, os.Chmod(dir, 0o755)
}

// without ends a test for which there is no server.
func without(t testing.TB, err error) {
	t.Helper()
	if errors.Is(err, localpg.ErrNoBinaries) && os.Getenv("CI") != "true" {
		t.Skipf("pgtest: %v", err)
	}
	t.Fatalf("pgtest: %v", err)
}

// shared is the server of this test program.
type shared struct {
	admin string // connects as one who may create databases
	url   func(database string) string
	owner string // whom databases are to belong to
	how   string // to copy databases
	stop  func(context.Context) error

	admins   *pgxpool.Pool
	template func() (string, error) // makes the template, once, and returns its name
	made     string                 // the template, once it is there
	last     atomic.Int64           // number of the last database
}

var start = sync.OnceValues(startShared)

// started tells tidy whether there is anything to do.
var started atomic.Bool

func server(t testing.TB) *shared {
	t.Helper()
	started.Store(true)
	s, err := start()
	if err != nil {
		without(t, err)
	}
	return s
}

func startShared() (*shared, error) {
	ctx, cancel := context.WithTimeout(context.Background(), startTime)
	defer cancel()
	var s *shared
	var err error
	if given := os.Getenv("TEST_DATABASE_URL"); given != "" {
		s, err = external(ctx, given)
	} else {
		s, err = private(ctx)
	}
	if err != nil {
		return nil, err
	}
	config, err := pgxpool.ParseConfig(s.admin)
	if err != nil {
		return nil, errors.Join(err, s.stop(ctx))
	}
	config.MaxConns = 8
	if s.admins, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		return nil, errors.Join(err, s.stop(ctx))
	}
	s.template = sync.OnceValues(s.makeTemplate)
	return s, nil
}

// private starts a server of our own.
func private(ctx context.Context) (*shared, error) {
	sweep(ctx)
	dir, err := makeDir()
	if err != nil {
		return nil, err
	}
	local, err := localpg.Start(ctx, localpg.Config{Dir: dir, Durability: localpg.Ephemeral})
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return &shared{
		admin: local.SuperURL("postgres"),
		url:   local.URL,
		owner: localpg.Role,
		how:   " strategy file_copy", // faster than through the log, where nothing is synced
		stop:  func(ctx context.Context) error { return errors.Join(local.Stop(ctx), os.RemoveAll(dir)) },
	}, nil
}

// sweep removes what test programs left behind that were killed. A directory's name says whose it is.
func sweep(ctx context.Context) {
	dirs, _ := filepath.Glob(filepath.Join(os.TempDir(), dirPrefix+"*"))
	for _, dir := range dirs {
		number, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), dirPrefix), "-")
		pid, err := strconv.Atoi(number)
		if err == nil && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			_ = localpg.Remove(ctx, dir) // refused where it is another user's
		}
	}
}

// external uses a server that is there.
func external(ctx context.Context, given string) (*shared, error) {
	u, err := url.Parse(given)
	if err != nil || u.Scheme == "" {
		return nil, errors.New("TEST_DATABASE_URL is not a URL")
	}
	conn, err := pgx.Connect(ctx, given)
	if err != nil {
		return nil, fmt.Errorf("TEST_DATABASE_URL: %w", err)
	}
	defer conn.Close(ctx)
	s := &shared{admin: given, stop: func(context.Context) error { return nil }}
	var walled bool
	err = conn.QueryRow(ctx, `select rolname, not (rolsuper or rolbypassrls) from pg_roles where rolname = current_user`).Scan(&s.owner, &walled)
	if err != nil {
		return nil, fmt.Errorf("TEST_DATABASE_URL: %w", err)
	}
	params := u.Query()
	if !walled {
		// Row-level security does not hold for this user, so tests get a role for which it does.
		s.owner = "sluice_test"
		var exists bool
		if err := conn.QueryRow(ctx, `select exists (select from pg_roles where rolname = $1)`, s.owner).Scan(&exists); err != nil {
			return nil, fmt.Errorf("TEST_DATABASE_URL: %w", err)
		}
		if !exists {
			// Another test program may be faster.
			_, err := conn.Exec(ctx, `create role `+s.owner)
			if c := code(err); err != nil && c != duplicateObject && c != uniqueViolation {
				return nil, fmt.Errorf("TEST_DATABASE_URL: %w", err)
			}
		}
		params.Set("role", s.owner)
	}
	s.url = func(database string) string {
		to := *u
		to.Path, to.RawQuery = "/"+database, params.Encode()
		return to.String()
	}
	return s, nil
}

// makeTemplate makes the database that others are copied from. Nobody may be connected to a database while it is
// copied, and nobody is: the migrators are gone when Up returns, and tests connect to copies.
func (s *shared) makeTemplate() (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), startTime)
	defer cancel()
	name := s.name("template")
	if err := s.create(ctx, name, "template1"); err != nil {
		return "", err
	}
	s.made = name
	return name, migrations.Up(ctx, s.url(name))
}

// database makes a copy of a database for a test.
func (s *shared) database(t testing.TB, template string) *DB {
	t.Helper()
	name := s.name("db")
	if err := s.create(t.Context(), name, template); err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), tidyTime)
		defer cancel()
		if err := s.drop(ctx, name); err != nil {
			t.Errorf("pgtest: %v", err)
		}
	})
	return &DB{URL: s.url(name), t: t}
}

// name is a name for a database that no other test program has: on a server that is not ours there may be others.
func (s *shared) name(kind string) string {
	return fmt.Sprintf("sluice_test_%s_%d_%d_%d", kind, programStart.Unix(), os.Getpid(), s.last.Add(1))
}

var programStart = time.Now()

// create makes a database. It may be refused for a moment, while a session that has just ended on the template has not
// quite gone.
func (s *shared) create(ctx context.Context, name, template string) error {
	sql := `create database ` + name + ` owner ` + pgx.Identifier{s.owner}.Sanitize() + ` template ` + template + s.how
	for deadline := time.Now().Add(startTime); ; {
		_, err := s.admins.Exec(ctx, sql)
		if code(err) != objectInUse || time.Now().After(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (s *shared) drop(ctx context.Context, name string) error {
	_, err := s.admins.Exec(ctx, `drop database if exists `+name+` with (force)`)
	return err
}

// tidy ends what start began.
func tidy() error {
	if !started.Load() {
		return nil
	}
	s, err := start()
	if err != nil {
		return nil // the tests have said so
	}
	ctx, cancel := context.WithTimeout(context.Background(), tidyTime)
	defer cancel()
	if s.made != "" {
		err = s.drop(ctx, s.made)
	}
	s.admins.Close()
	return errors.Join(err, s.stop(ctx))
}

// SQLSTATEs that something is made of.
const (
	duplicateObject = "42710"
	uniqueViolation = "23505"
	objectInUse     = "55006"
)

// code is the SQLSTATE of an error, "" if it has none.
func code(err error) string {
	if refused, ok := errors.AsType[*pgconn.PgError](err); ok {
		return refused.Code
	}
	return ""
}
