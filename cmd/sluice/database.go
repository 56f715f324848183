package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"sluice/migrations/localpg"
)

// databaseFlags say which database a command works on.
type databaseFlags struct {
	DatabaseURL string `from:"DATABASE_URL" secret:"" placeholder:"URL" help:"Postgres to use, 15 or newer. The PG* variables are known too."`
}

// url is the connection string; it may be empty where the PG* variables say everything.
func (f databaseFlags) url(p *program) (string, error) {
	if f.DatabaseURL == "" && p.getenv("PGHOST") == "" && p.getenv("PGDATABASE") == "" && p.getenv("PGSERVICE") == "" {
		return "", usagef("no database: give --database-url, or set DATABASE_URL")
	}
	return f.DatabaseURL, checkURL(f.DatabaseURL)
}

// checkURL finds out early whether a connection string is one, and shows nothing of it.
func checkURL(url string) error {
	_, err := pgx.ParseConfig(url)
	if _, ok := errors.AsType[*pgconn.ParseConfigError](err); ok {
		return usagef("--database-url is no connection string: want postgres://USER:PASSWORD@HOST/DATABASE")
	}
	return err
}

// dataFlags say where a dev keeps what it has.
type dataFlags struct {
	Data string `from:"SLUICE_DATA" type:"path" placeholder:"DIR" help:"Where dev keeps its Postgres and its API key. Default: sluice in the user's data directory."`
}

func (f dataFlags) dir(p *program) (string, error) {
	if f.Data != "" {
		return filepath.Abs(f.Data)
	}
	return defaultData(p)
}

// defaultData is the directory of a dev that was not told another.
func defaultData(p *program) (string, error) {
	if dir := p.getenv("SLUICE_DATA"); dir != "" {
		return filepath.Abs(dir)
	}
	if dir := p.getenv("XDG_DATA_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "sluice"), nil
	}
	if os.Geteuid() == 0 {
		return "/var/lib/sluice", nil // the server runs as another user, who may not enter root's home
	}
	if home := p.getenv("HOME"); home != "" {
		return filepath.Join(home, ".local", "share", "sluice"), nil
	}
	return "", usagef("no HOME: say with --data where to keep the data")
}

func postgresDir(data string) string { return filepath.Join(data, "postgres") }

// startPostgres starts the private server of a data directory: from the binaries that were fetched for it once, from
// those of this machine, or else from such as are fetched now.
func startPostgres(ctx context.Context, data, mirror string, log *slog.Logger) (*localpg.Server, error) {
	config := localpg.Config{Dir: postgresDir(data), Logger: log}
	if fetched, _ := filepath.Glob(filepath.Join(data, "bin", "postgres-*", "bin")); len(fetched) > 0 {
		config.Bin = fetched[len(fetched)-1]
	}
	server, err := localpg.Start(ctx, config)
	if errors.Is(err, localpg.ErrNoBinaries) {
		bin, fetchErr := localpg.Fetch(ctx, filepath.Join(data, "bin"), localpg.FetchOptions{Repository: mirror, Logger: log})
		if fetchErr != nil {
			log.WarnContext(ctx, "Postgres not fetched", "err", fetchErr)
			return nil, localpg.ErrNoBinaries
		}
		config.Bin = bin
		server, err = localpg.Start(ctx, config)
	}
	if errors.Is(err, localpg.ErrInUse) {
		return nil, fmt.Errorf("%s is in use by another sluice: stop that one, or choose another directory with --data: %w", data, err)
	}
	return server, err
}

// tellBypass warns when the database's role is above row-level security: then only the program's own where clauses
// stand between tenants.
func tellBypass(ctx context.Context, pool *pgxpool.Pool, log *slog.Logger) error {
	var role string
	var bypasses bool
	err := pool.QueryRow(ctx, `
		select rolname, rolsuper or rolbypassrls from pg_roles where rolname = current_user`).Scan(&role, &bypasses)
	if err != nil {
		return fmt.Errorf("look at the database's role: %w", err)
	}
	if bypasses {
		log.WarnContext(ctx, "Database role bypasses row-level security: use one that is neither superuser nor BYPASSRLS, see docs/operating.md", "role", role)
	}
	return nil
}

// connectError is what kept a command from its database, for people, without the connection string.
func connectError(err error) error {
	var connect *pgconn.ConnectError
	if !errors.As(err, &connect) {
		return err
	}
	if strings.HasPrefix(cause(err), "unsupported startup parameter") {
		return fmt.Errorf("the database at %s is behind a pooler (%s): serve with --pooled; other commands need a URL that leads to Postgres itself",
			address(connect.Config), cause(err))
	}
	return fmt.Errorf("cannot connect to the database at %s: %s: check --database-url, and that Postgres runs", address(connect.Config), cause(connect))
}

func address(c *pgconn.Config) string {
	if strings.HasPrefix(c.Host, "/") {
		return c.Host
	}
	return fmt.Sprintf("%s:%d", c.Host, c.Port)
}

// cause is what went wrong beneath all that was tried.
func cause(err error) string {
	if refused, ok := errors.AsType[*pgconn.PgError](err); ok {
		return refused.Message
	}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Err.Error()
	}
	tries := strings.Split(strings.TrimSpace(err.Error()), "\n")
	return strings.TrimSpace(tries[len(tries)-1])
}
