// Package migrations holds the database schema and brings a database up to it.
//
// The schema is the numbered SQL files beside this one, which golang-migrate applies in the schema sluice, on top of
// River's own tables, which River's migrator makes in the schema river. Any number of processes may migrate one
// database at once: one works and the others wait. A file and the note that it was applied commit together, so that
// whatever goes wrong on the way leaves the database at one version or the next and a second try is always safe; only
// a file that builds an index concurrently, which Postgres allows in no transaction, can be left half done, and the
// error then says how to go on.
//
// It knows nothing of what the tables are for: each says in its file which package writes it.
package migrations

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"math/rand/v2"
	"time"

	"github.com/golang-migrate/migrate/v4"
	"github.com/golang-migrate/migrate/v4/database"
	"github.com/golang-migrate/migrate/v4/source/iofs"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

//go:embed *.sql
var files embed.FS

const (
	ourSchema   = "sluice"
	riverSchema = "river"

	// lockKey is the advisory lock that whoever migrates a database holds.
	lockKey = 0x736c75696365 // "sluice"

	// lockTimeout is how long a statement may wait for a lock. All traffic on the table queues up behind it meanwhile,
	// so it gives up soon, and is tried again.
	lockTimeout = "3s"
	lockTries   = 10
)

// Up brings the database at url to the schema that this binary knows: River's first, then ours, which builds on it. The
// url must lead to Postgres itself, not to a pooler that shares sessions out by transaction: the lock is the session's.
func Up(ctx context.Context, url string) error {
	if err := up(ctx, url, files); err != nil {
		return fmt.Errorf("migrate up: %w", err)
	}
	return nil
}

func up(ctx context.Context, url string, files fs.FS) error {
	return migrating(ctx, url, files, func(m *migrator) error {
		if _, err := m.pool.Exec(ctx, `create schema if not exists `+riverSchema); err != nil {
			return err
		}
		err := patiently(ctx, func() error {
			_, err := m.river.Migrate(ctx, rivermigrate.DirectionUp, nil)
			return err
		})
		if err != nil {
			return fmt.Errorf("river: %w", err)
		}
		return m.ours(ctx, +1, everything)
	})
}

// everything is a number of steps.
const everything = -1

// Down undoes as many of our migrations as steps says, the newest first, and with them their data. A negative steps
// undoes everything: all of ours, River's, and both schemas unless something of the user's own is in them.
func Down(ctx context.Context, url string, steps int) error {
	if err := down(ctx, url, files, steps); err != nil {
		return fmt.Errorf("migrate down: %w", err)
	}
	return nil
}

func down(ctx context.Context, url string, files fs.FS, steps int) error {
	if steps == 0 {
		return errors.New("say how many migrations to undo")
	}
	return migrating(ctx, url, files, func(m *migrator) error {
		if err := m.ours(ctx, -1, steps); err != nil || steps > 0 {
			return err
		}
		err := patiently(ctx, func() error {
			_, err := m.river.Migrate(ctx, rivermigrate.DirectionDown, &rivermigrate.MigrateOpts{TargetVersion: -1})
			return err
		})
		if err != nil {
			return fmt.Errorf("river: %w", err)
		}
		for _, statement := range []string{
			`drop table ` + table,
			`drop schema ` + ourSchema,
			`drop schema if exists ` + riverSchema,
		} {
			if _, err := m.pool.Exec(ctx, statement); err != nil && code(err) != dependentObjects {
				return err
			}
		}
		return nil
	})
}

// migrator has what both directions need, while the lock is held.
type migrator struct {
	pool  *pgxpool.Pool
	river *rivermigrate.Migrator[pgx.Tx]
	files fs.FS
}

// migrating calls f while this process is the only one that migrates the database.
func migrating(ctx context.Context, url string, files fs.FS, f func(*migrator) error) error {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return err
	}
	config.MaxConns = 2 // the lock's, and the one that works
	maps.Copy(config.ConnConfig.RuntimeParams, map[string]string{
		"application_name":                    "sluice migrate",
		"sluice.tenant_id":                    "*", // migrations of data see the rows of all tenants
		"search_path":                         "pg_catalog",
		"lock_timeout":                        lockTimeout,
		"statement_timeout":                   "0", // the database's defaults are for queries, not for building indexes
		"idle_in_transaction_session_timeout": "0",
	})
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return err
	}
	defer pool.Close()
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release() // the lock goes when the pool closes the connection
	if err := lock(ctx, conn.Conn()); err != nil {
		return err
	}
	// Only now: what another process was doing while we waited is done.
	s, err := status(ctx, pool, files)
	if err != nil {
		return err
	}
	if s.Dirty || s.newer() {
		return s.Err()
	}
	river, err := rivermigrate.New(riverpgxv5.New(pool), &rivermigrate.Config{
		Logger: slog.New(slog.DiscardHandler),
		Schema: riverSchema,
	})
	if err != nil {
		return err
	}
	return f(&migrator{pool: pool, river: river, files: files})
}

// lock waits for the lock by asking again and again. Waiting in pg_advisory_lock, as golang-migrate does, would hold a
// snapshot for as long, and CREATE INDEX CONCURRENTLY waits for every snapshot: so two processes that start together
// would wait for each other.
func lock(ctx context.Context, conn *pgx.Conn) error {
	for {
		var got bool
		if err := conn.QueryRow(ctx, `select pg_try_advisory_lock($1)`, int64(lockKey)).Scan(&got); err != nil {
			return err
		}
		if got {
			return nil
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return fmt.Errorf("wait for another process that migrates: %w", err)
		}
	}
}

// ours applies (+1) or undoes (-1) as many of our migrations as steps says, or as there are.
func (m *migrator) ours(ctx context.Context, direction, steps int) error {
	source, err := iofs.New(m.files, ".")
	if err != nil {
		return err
	}
	driver, err := newDriver(ctx, m.pool)
	if err != nil {
		return err
	}
	g, err := migrate.NewWithInstance("iofs", source, "sluice", driver)
	if err != nil {
		return err
	}
	end := database.NilVersion
	if direction > 0 {
		end = latest(m.files)
	}
	// Step by step: with more to do, golang-migrate reads ahead and leaves its readers behind when a step fails.
	for ; steps != 0; steps-- {
		version, _, err := driver.Version()
		if err != nil {
			return err
		}
		if version == end {
			return nil
		}
		if err := patiently(ctx, func() error { return g.Steps(direction) }); err != nil {
			return err
		}
	}
	return nil
}

// SQLSTATEs that something is made of.
const (
	lockNotAvailable = "55P03"
	dependentObjects = "2BP01"
)

// patiently calls f again when it gave up waiting for a lock.
func patiently(ctx context.Context, f func() error) error {
	for try := 1; ; try++ {
		err := f()
		if code(err) != lockNotAvailable || try == lockTries {
			return err
		}
		// Traffic that queued up behind the statement gets time to pass.
		if err := pause(ctx, time.Second+rand.N(time.Second)); err != nil {
			return err
		}
	}
}

// code is the SQLSTATE of an error, "" if it has none.
func code(err error) string {
	if refused, ok := errors.AsType[*pgconn.PgError](err); ok {
		return refused.Code
	}
	return ""
}

// pause waits for d, or until ctx is done.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}
