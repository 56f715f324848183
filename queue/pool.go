package queue

import (
	"context"
	"maps"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Open returns a pool for an engine: its sessions act for all tenants, and never read a whole table. The engine's
// statements find each row by an index, but their plans are made once, perhaps while a table is empty and reading it
// whole looks cheap (measured: 40 times slower once it has filled). Compiling them never pays. size is the most
// connections it opens; an engine that runs messages needs about 12: its committers, fetcher, listener, beat and
// housekeeping, and a few to spare.
func Open(ctx context.Context, url string, size int) (*pgxpool.Pool, error) {
	return open(ctx, url, size, map[string]string{
		"sluice.tenant_id": "*", "enable_seqscan": "off", "jit": "off", "application_name": "sluice engine",
	})
}

// OpenForTenants returns a pool whose sessions see no tenant until a transaction says for whom it acts. It is small and
// its statements are short: what people look at must not slow what moves.
func OpenForTenants(ctx context.Context, url string, size int) (*pgxpool.Pool, error) {
	return open(ctx, url, size, map[string]string{"statement_timeout": "15s", "application_name": "sluice gateway"})
}

func open(ctx context.Context, url string, size int, settings map[string]string) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	config.MaxConns = int32(size)
	maps.Copy(config.ConnConfig.RuntimeParams, settings)
	// A session that was opened while the database was read-only, during a fail-over say, stays so for as long as it lives.
	whether := config.ConnConfig.OnPgError
	config.ConnConfig.OnPgError = func(conn *pgconn.PgConn, err *pgconn.PgError) (keep bool) {
		return err.Code != readOnly && whether(conn, err)
	}
	return pgxpool.NewWithConfig(ctx, config)
}
