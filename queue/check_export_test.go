package queue

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// CheckIn is Check in a transaction that a test rolls back.
func CheckIn(ctx context.Context, tx pgx.Tx) (Report, error) { return check(ctx, tx) }
