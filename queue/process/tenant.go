package process

import (
	"context"
	"strconv"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// ForTenant runs f in a transaction that acts for one tenant: row-level security shows it that tenant's rows and no
// others, whatever its statements say. It commits when f returns nil and rolls back otherwise.
//
// To say for whom it acts costs nothing: that goes out with the begin, in one round trip. The setting ends with the
// transaction, so the pool may be shared by all tenants, also behind a pooler that shares out sessions by transaction. Its
// statements have 15 s each: what people look at must not slow what moves.
func ForTenant(ctx context.Context, pool *pgxpool.Pool, tenantID int64, f func(pgx.Tx) error) error {
	return as(ctx, pool, "begin"+settingsFor(strconv.FormatInt(tenantID, 10)), f)
}

// Look is ForTenant for what only reads: all statements of f see the database as of the first, so that their figures go
// together.
func Look(ctx context.Context, pool *pgxpool.Pool, tenantID int64, f func(pgx.Tx) error) error {
	return as(ctx, pool, "begin isolation level repeatable read read only"+settingsFor(strconv.FormatInt(tenantID, 10)), f)
}

// ForAllTenants is ForTenant for what must look before it knows a tenant.
func ForAllTenants(ctx context.Context, pool *pgxpool.Pool, f func(pgx.Tx) error) error {
	return as(ctx, pool, "begin"+settingsFor("*"), f)
}

func as(ctx context.Context, pool *pgxpool.Pool, begin string, f func(pgx.Tx) error) error {
	return pgx.BeginTxFunc(ctx, pool, pgx.TxOptions{BeginQuery: begin}, f)
}

func settingsFor(whom string) string {
	return "; set local sluice.tenant_id = '" + whom + "'; set local statement_timeout = '15s'"
}
