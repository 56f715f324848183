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
	return as(ctx, pool, strconv.FormatInt(tenantID, 10), f)
}

// ForAllTenants is ForTenant for what must look before it knows a tenant.
func ForAllTenants(ctx context.Context, pool *pgxpool.Pool, f func(pgx.Tx) error) error {
	return as(ctx, pool, "*", f)
}

func as(ctx context.Context, pool *pgxpool.Pool, whom string, f func(pgx.Tx) error) error {
	begin := pgx.TxOptions{BeginQuery: "begin; set local sluice.tenant_id = '" + whom + "'; set local statement_timeout = '15s'"}
	return pgx.BeginTxFunc(ctx, pool, begin, f)
}
