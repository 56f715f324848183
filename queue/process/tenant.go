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
// transaction, so the pool may be shared by all tenants, also behind a pooler that shares out sessions by transaction.
func ForTenant(ctx context.Context, pool *pgxpool.Pool, tenantID int64, f func(pgx.Tx) error) error {
	begin := pgx.TxOptions{BeginQuery: "begin; set local sluice.tenant_id = '" + strconv.FormatInt(tenantID, 10) + "'"}
	return pgx.BeginTxFunc(ctx, pool, begin, f)
}
