package trash

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// Prune deletes what tenants do not want to keep.
var Prune = prune

// GroupsSQL is the statement of groups, for a test that looks at its plan.
var GroupsSQL = groupsSQL

// StatementOf is the statement of a list with its arguments, for a test that looks at its plan.
func StatementOf(ctx context.Context, tx pgx.Tx, tenant int64, f Filter, o Order, limit int) (string, []any, error) {
	s, err := f.source(ctx, tx, tenant)
	start, end := f.window(o)
	return listSQL(s.from, o), append([]any{tenant, start.FailedAt, start.Message, end, limit + 1, limit + 1}, s.args...), err
}
