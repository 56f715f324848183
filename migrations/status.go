package migrations

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

var (
	// ErrVersion says that the schema is older or newer than this binary.
	ErrVersion = errors.New("schema version")
	// ErrDirty says that a migration was interrupted that could not be part of a transaction.
	ErrDirty = errors.New("schema half migrated")
)

// Status is how far a database is migrated, and how far this binary would bring it.
type Status struct {
	Current int  // version of our schema; 0: none
	Latest  int  // that this binary knows
	Dirty   bool // the migration to Current, or from it, was interrupted

	RiverCurrent int // version of River's schema; 0: none
	RiverLatest  int // that this binary knows
}

// Err is nil when the database has the schema that this binary knows, and otherwise says what to do: it is an ErrVersion
// or an ErrDirty.
func (s Status) Err() error {
	switch {
	case s.Dirty:
		return fmt.Errorf("%w: the migration to version %d was interrupted; see in its file what may be left of it (an index that was "+
			"being built is there, but invalid: drop it), undo that, then run `update %s set version = N, dirty = false`, where N is "+
			"the version that the schema now has, and `sluice migrate up`", ErrDirty, s.Current, table)
	case s.newer():
		return fmt.Errorf("%w: the database is at %d (River %d), newer than this binary, which knows %d (River %d): run the sluice that migrated it, or a newer one",
			ErrVersion, s.Current, s.RiverCurrent, s.Latest, s.RiverLatest)
	case s.Current != s.Latest || s.RiverCurrent != s.RiverLatest:
		return fmt.Errorf("%w: the database is at %d (River %d), this binary needs %d (River %d): run `sluice migrate up`",
			ErrVersion, s.Current, s.RiverCurrent, s.Latest, s.RiverLatest)
	default:
		return nil
	}
}

func (s Status) newer() bool { return s.Current > s.Latest || s.RiverCurrent > s.RiverLatest }

// GetStatus looks at the database at url and changes nothing.
func GetStatus(ctx context.Context, url string) (Status, error) {
	config, err := pgx.ParseConfig(url)
	if err != nil {
		return Status{}, fmt.Errorf("migration status: %w", err)
	}
	config.DefaultQueryExecMode = pgx.QueryExecModeExec // leaves nothing in a session that a pooler gives to others
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return Status{}, fmt.Errorf("migration status: %w", err)
	}
	defer conn.Close(ctx)
	s, err := status(ctx, conn, files)
	if err != nil {
		return Status{}, fmt.Errorf("migration status: %w", err)
	}
	return s, nil
}

// Check is for programs that serve: it is an error, that says what to do, when the database does not have the schema
// that this binary knows.
func Check(ctx context.Context, pool *pgxpool.Pool) error {
	s, err := status(ctx, pool, files)
	if err != nil {
		return fmt.Errorf("check schema: %w", err)
	}
	return s.Err()
}

type queryer interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

func status(ctx context.Context, db queryer, files fs.FS) (Status, error) {
	s := Status{Latest: latest(files), RiverLatest: riverLatest()}
	var ours, rivers bool
	err := db.QueryRow(ctx, `select to_regclass($1) is not null, to_regclass($2) is not null`,
		table, riverSchema+".river_migration").Scan(&ours, &rivers)
	if err != nil {
		return s, err
	}
	if ours {
		err := db.QueryRow(ctx, `select version, dirty from `+table).Scan(&s.Current, &s.Dirty)
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return s, err
		}
		s.Current = max(s.Current, 0) // -1 is how golang-migrate says none
	}
	if rivers {
		if err := db.QueryRow(ctx, `select coalesce(max(version), 0) from `+riverSchema+`.river_migration`).Scan(&s.RiverCurrent); err != nil {
			return s, err
		}
	}
	return s, nil
}

// latest is the number of the last of our files.
func latest(files fs.FS) (version int) {
	names, _ := fs.Glob(files, "*.up.sql")
	for _, name := range names {
		if n, err := strconv.Atoi(name[:min(4, len(name))]); err == nil {
			version = max(version, n)
		}
	}
	return version
}

// riverLatest is the version of River's schema that the River in this binary works with.
func riverLatest() int {
	m, err := rivermigrate.New(riverpgxv5.New(nil), &rivermigrate.Config{Schema: riverSchema})
	if err != nil {
		panic(err) // it looks at nothing but its own embedded files
	}
	all := m.AllVersions()
	return all[len(all)-1].Version
}
