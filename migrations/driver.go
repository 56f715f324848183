package migrations

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"github.com/golang-migrate/migrate/v4/database"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// driver is how golang-migrate reaches the database. It keeps the version in the table that golang-migrate's own driver
// for Postgres keeps it in, and differs from that in two things.
//
// A file and its version are written in one transaction. The other marks the version dirty, runs the file and marks it
// clean, in three transactions, so that even a file that was refused for a busy lock, and so changed nothing, would
// leave a mark for a person to remove.
//
// And it does not lock: who uses it holds our lock, which is waited for in another way (see lock).
type driver struct {
	ctx  context.Context // the caller's; golang-migrate hands none down
	pool *pgxpool.Pool

	target int  // the version that the next file leads to
	noted  bool // its version is written
}

var _ database.Driver = (*driver)(nil)

const table = ourSchema + ".schema_migrations"

// newDriver makes the schema and the table of the version if they are missing.
func newDriver(ctx context.Context, pool *pgxpool.Pool) (*driver, error) {
	for _, sql := range []string{
		`create schema if not exists ` + ourSchema,
		`create table if not exists ` + table + ` (version bigint not null primary key, dirty boolean not null)`,
	} {
		if _, err := pool.Exec(ctx, sql); err != nil {
			return nil, err
		}
	}
	return &driver{ctx: ctx, pool: pool}, nil
}

// Version is the version that the schema is at.
func (d *driver) Version() (version int, dirty bool, err error) {
	err = d.pool.QueryRow(d.ctx, `select version, dirty from `+table).Scan(&version, &dirty)
	if errors.Is(err, pgx.ErrNoRows) {
		return database.NilVersion, false, nil
	}
	return version, dirty, err
}

// SetVersion is called with dirty before a file is run, and without after.
func (d *driver) SetVersion(version int, dirty bool) error {
	if dirty {
		d.target, d.noted = version, false
		return nil
	}
	if d.noted {
		return nil
	}
	return d.exec(note(version, false), "")
}

// Run runs a file and notes its version.
func (d *driver) Run(file io.Reader) error {
	b, err := io.ReadAll(file)
	if err != nil {
		return err
	}
	if concurrent(string(b)) {
		return d.runAlone(string(b))
	}
	if err := d.exec(string(b), note(d.target, false)); err != nil {
		return err
	}
	d.noted = true
	return nil
}

// runAlone runs a file that cannot be part of a transaction, and so may be left half done.
func (d *driver) runAlone(file string) error {
	if err := d.exec(note(d.target, true), ""); err != nil {
		return err
	}
	// It waits for transactions that use the table, and holds nobody up meanwhile.
	if err := d.exec("set lock_timeout = 0", ""); err != nil {
		return err
	}
	return errors.Join(d.exec(file, ""), d.exec("reset lock_timeout", ""))
}

// note is the statements that write a version, to follow those of a file.
func note(version int, dirty bool) string {
	sql := "\n;delete from " + table
	if version >= 0 || dirty {
		sql += fmt.Sprintf("; insert into %s (version, dirty) values (%d, %t)", table, version, dirty)
	}
	return sql
}

// exec sends a file, with what is to follow it, in one simple query, which Postgres runs in one transaction.
func (d *driver) exec(file, after string) error {
	conn, err := d.pool.Acquire(d.ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	_, err = conn.Conn().PgConn().Exec(d.ctx, file+after).ReadAll()
	if err == nil {
		return nil
	}
	where := "to version " + strconv.Itoa(d.target)
	var refused *pgconn.PgError
	if errors.As(err, &refused) && refused.Position > 0 {
		before := []rune(file)
		before = before[:min(int(refused.Position)-1, len(before))]
		where += ", line " + strconv.Itoa(1+strings.Count(string(before), "\n"))
	}
	return fmt.Errorf("%s: %w", where, err)
}

// Lock does nothing.
func (d *driver) Lock() error { return nil }

// Unlock does nothing.
func (d *driver) Unlock() error { return nil }

// Close does nothing: the pool is the caller's.
func (d *driver) Close() error { return nil }

// Open is not for this driver, which is made by newDriver.
func (d *driver) Open(string) (database.Driver, error) { return nil, errors.ErrUnsupported }

// Drop is not for this driver: Down undoes what Up did.
func (d *driver) Drop() error { return errors.ErrUnsupported }

var (
	comment      = regexp.MustCompile(`--[^\n]*`)
	concurrently = regexp.MustCompile(`(?i)\bconcurrently\b`)
)

// concurrent tells whether a file builds or drops an index in a way that no transaction allows.
func concurrent(file string) bool {
	return concurrently.MatchString(comment.ReplaceAllString(file, ""))
}
