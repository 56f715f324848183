package queue

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"sluice/migrations/pgtest"
)

// Whatever becomes of a statement that goes out with its settings, the caller hears of it, the connection is given back,
// and the settings have ended.
func TestPooledStatements(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	pool, err := OpenPooled(ctx, pgtest.New(t).URL, 2)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	p := newPooled(pool, engineSettings...)
	const setting = `select current_setting('sluice.tenant_id', true)`
	see := func(from interface {
		QueryRow(context.Context, string, ...any) pgx.Row
	}) (s *string) {
		if err := from.QueryRow(ctx, setting).Scan(&s); err != nil {
			t.Fatal(err)
		}
		return s
	}
	free := func(after string) {
		t.Helper()
		if n := pool.Stat().AcquiredConns(); n != 0 {
			t.Fatalf("after %s %d connections are in use", after, n)
		}
		if s := see(pool); s != nil && *s != "" {
			t.Fatalf("after %s the setting %q is left behind", after, *s)
		}
	}
	for range 3 { // described, and then from the cache
		if s := see(p); s == nil || *s != "*" {
			t.Fatalf("the setting is %v", s)
		}
		free("a row")
	}

	rows, _ := p.Query(ctx, `select n, current_setting('sluice.tenant_id') from generate_series(1, $1::int) as n`, 1000)
	type row struct {
		N       int
		Setting string
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[row])
	if err != nil || len(all) != 1000 || all[999] != (row{1000, "*"}) {
		t.Errorf("%d rows, %v", len(all), err)
	}
	free("rows")

	rows, _ = p.Query(ctx, `select generate_series(1, 100000)`)
	if !rows.Next() {
		t.Error(rows.Err())
	}
	rows.Close()
	free("rows that nobody wanted")

	var n int
	if err := p.QueryRow(ctx, `select 1 where $1`, false).Scan(&n); !errors.Is(err, pgx.ErrNoRows) {
		t.Errorf("no row: %v", err)
	}
	free("no row")
	if err := p.QueryRow(ctx, `select 'a'::text`).Scan(&n); err == nil {
		t.Error("a text was read as a number")
	}
	free("a value that does not fit")
	if err := p.QueryRow(ctx, `select 1 / $1::int`, 0).Scan(&n); sqlState(err) != "22012" {
		t.Errorf("division by zero: %v", err)
	}
	free("an error")
	if err := p.QueryRow(ctx, `selec`).Scan(&n); !isMissing(err) {
		t.Errorf("no SQL: %v", err)
	}
	free("what is no SQL")
	if _, err := p.Exec(ctx, `select nothing from nowhere`); sqlState(err) != "42P01" {
		t.Errorf("no table: %v", err)
	}
	free("an error of Exec")

	for _, sql := range []string{
		`create table one (id int primary key deferrable initially deferred)`, `insert into one values (1)`,
	} {
		if tag, err := p.Exec(ctx, sql); err != nil || tag.RowsAffected() > 1 {
			t.Fatal(tag, err)
		}
	}
	if _, err := p.Exec(ctx, `insert into one values (1)`); sqlState(err) != uniqueViolation {
		t.Errorf("an error of the commit, from Exec: %v", err)
	}
	if err := p.QueryRow(ctx, `insert into one values ($1) returning id`, 1).Scan(&n); sqlState(err) != uniqueViolation {
		t.Errorf("an error of the commit, from QueryRow: %v", err)
	}
	rows, _ = p.Query(ctx, `insert into one values ($1) returning id`, 1)
	if _, err := pgx.CollectRows(rows, pgx.RowTo[int]); sqlState(err) != uniqueViolation {
		t.Errorf("an error of the commit, from Query: %v", err)
	}
	free("errors of the commit")

	// A batch is one transaction, and its functions get their own results.
	b := &pgx.Batch{}
	var one, two int
	b.Queue(`select 1`).QueryRow(func(r pgx.Row) error { return r.Scan(&one) })
	b.Queue(`insert into one values ($1)`, 2)
	b.Queue(`select max(id) from one`).QueryRow(func(r pgx.Row) error { return r.Scan(&two) })
	if err := p.SendBatch(ctx, b).Close(); err != nil || one != 1 || two != 2 {
		t.Errorf("batch: %d, %d, %v", one, two, err)
	}
	b = &pgx.Batch{}
	b.Queue(`insert into one values (3)`)
	b.Queue(`select 1 / $1::int`, 0)
	if err := p.SendBatch(ctx, b).Close(); sqlState(err) != "22012" {
		t.Errorf("batch with an error: %v", err)
	}
	if err := p.QueryRow(ctx, `select count(*)::int from one`).Scan(&n); err != nil || n != 2 {
		t.Errorf("%d rows, %v: a batch was not undone", n, err)
	}
	free("batches")

	if err := pgx.BeginFunc(ctx, p, func(tx pgx.Tx) error {
		if s := see(tx); s == nil || *s != "*" {
			t.Errorf("the setting in a transaction is %v", s)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	free("a transaction")

	timed, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	if _, err := p.Exec(timed, `select pg_sleep(60)`); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("deadline: %v", err)
	}
	for pool.Stat().AcquiredConns() > 0 { // the connection is closed behind our back
		time.Sleep(time.Millisecond) //nolint:forbidigo // between looks at a fact; the test has a deadline
	}
	free("a deadline")
}

// Many at once: none sees another's settings.
func TestPooledStatementsAtOnce(t *testing.T) {
	t.Parallel()
	pool, err := OpenPooled(t.Context(), pgtest.New(t).URL, 4)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	var clients sync.WaitGroup
	for i := range 16 {
		value := fmt.Sprint(i)
		p := newPooled(pool, setting{"sluice.tenant_id", value})
		clients.Go(func() {
			for range 50 {
				var s string
				if err := p.QueryRow(t.Context(), `select current_setting('sluice.tenant_id')`).Scan(&s); err != nil || s != value {
					t.Errorf("client %s sees %q, %v", value, s, err)
					return
				}
			}
		})
	}
	clients.Wait()
}
