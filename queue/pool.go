package queue

import (
	"context"
	"maps"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Open returns a pool for an engine: its sessions act for all tenants, and never read a whole table. The engine's
// statements find each row by an index, but their plans are made once, perhaps while a table is empty and reading it
// whole looks cheap (measured: 40 times slower once it has filled). Compiling them never pays. size is the most
// connections it opens; an engine that runs messages needs about 12: its committers, fetcher, listener, beat and
// housekeeping, and a few to spare.
func Open(ctx context.Context, url string, size int) (*pgxpool.Pool, error) {
	settings := map[string]string{"application_name": "sluice engine"}
	for _, s := range engineSettings {
		settings[s.name] = s.value
	}
	return open(ctx, url, size, settings)
}

// OpenPooled returns a pool of connections to a pooler that shares out sessions by transaction: no session is set up, and
// no statement stays prepared. It is for an engine with [Config.Pooled], and for what says in each transaction for whom it
// acts.
func OpenPooled(ctx context.Context, url string, size int) (*pgxpool.Pool, error) {
	config, err := configure(url, size, map[string]string{"application_name": "sluice"})
	if err != nil {
		return nil, err
	}
	if !strings.Contains(url, "default_query_exec_mode") { // who knows that the pooler keeps prepared statements may say so
		config.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	}
	return pgxpool.NewWithConfig(ctx, config)
}

// OpenForTenants returns a pool whose sessions see no tenant until a transaction says for whom it acts, as
// process.ForTenant does. It is small: what people look at must not slow what moves.
func OpenForTenants(ctx context.Context, url string, size int) (*pgxpool.Pool, error) {
	return open(ctx, url, size, map[string]string{"application_name": "sluice gateway"})
}

func open(ctx context.Context, url string, size int, settings map[string]string) (*pgxpool.Pool, error) {
	config, err := configure(url, size, settings)
	if err != nil {
		return nil, err
	}
	return pgxpool.NewWithConfig(ctx, config)
}

func configure(url string, size int, settings map[string]string) (*pgxpool.Config, error) {
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
	return config, nil
}
