package queue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"sluice/limiter"
	"sluice/queue/topology"
)

// limitsOf reads the limits of a tenant's applications.
func limitsOf(ctx context.Context, db topology.DB, tenant int64) (map[string]int64, error) {
	rows, _ := db.Query(ctx, `select application, id from sluice.limiter_limit where tenant_id = $1 and removed_at is null`, tenant)
	limits := map[string]int64{}
	var application string
	var id int64
	_, err := pgx.ForEachRow(rows, []any{&application, &id}, func() error {
		limits[application] = id
		return nil
	})
	return limits, err
}

// Limit is what an application allows.
type Limit struct {
	Application string
	User        limiter.Limit      // of each user
	Total       limiter.Limit      // of all users together
	Parallel    int                // calls at the same time; 0: any number
	Weights     map[string]float64 // of topologies that share a key, by name; those that are not named have 1
}

// ErrBadLimit says that a limit cannot be.
var ErrBadLimit = errors.New("limit cannot be set")

// SetLimit says what an application allows. It holds for messages that are held already, too.
func SetLimit(ctx context.Context, tx pgx.Tx, tenant int64, l Limit, by string) error {
	if err := l.check(); err != nil {
		return err
	}
	if l.Weights == nil {
		l.Weights = map[string]float64{}
	}
	user, total := l.User.Normal(), l.Total.Normal()
	var id int64
	if err := tx.QueryRow(ctx, `
		insert into sluice.limiter_limit (tenant_id, application, amount, per, burst, total_amount, total_per, total_burst, parallel, weights)
		values ($1, $2, nullif($3::double precision, 0), nullif($4::interval, interval '0'), nullif($5::double precision, 0),
		        nullif($6::double precision, 0), nullif($7::interval, interval '0'), nullif($8::double precision, 0), nullif($9::int, 0), $10)
		on conflict (tenant_id, application) do update
		set amount = excluded.amount, per = excluded.per, burst = excluded.burst, total_amount = excluded.total_amount,
		    total_per = excluded.total_per, total_burst = excluded.total_burst, parallel = excluded.parallel, weights = excluded.weights,
		    removed_at = null
		returning id`, tenant, l.Application, user.Amount, user.Per, user.Burst, total.Amount, total.Per, total.Burst, l.Parallel, l.Weights).Scan(&id); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `
		insert into sluice.limiter_gate (tenant_id, limit_id) values ($1, $2) on conflict do nothing`, tenant, id); err != nil {
		return err
	}
	return noteLimit(ctx, tx, tenant, id, by, "set-limit", l.Application)
}

// check tells what is wrong with a limit.
func (l Limit) check() error {
	switch {
	case l.Application == "" || len(l.Application) > 200:
		return fmt.Errorf("%w: an application's name has 1 to 200 characters", ErrBadLimit)
	case l.User.IsZero() && l.Total.IsZero() && l.Parallel == 0:
		return fmt.Errorf("%w: it allows everything; remove it instead", ErrBadLimit)
	}
	for _, part := range []limiter.Limit{l.User, l.Total} {
		if err := checkAmounts(part); err != nil {
			return err
		}
	}
	for topology, w := range l.Weights {
		if !(w >= 0.01 && w <= 1000) {
			return fmt.Errorf("%w: the weight of topology %s is not from 0.01 to 1000", ErrBadLimit, topology)
		}
	}
	if l.Parallel < 0 {
		return fmt.Errorf("%w: %d calls at the same time", ErrBadLimit, l.Parallel)
	}
	return nil
}

func checkAmounts(l limiter.Limit) error {
	switch {
	case l == limiter.Limit{}:
		return nil
	case !(l.Amount > 0 && l.Amount <= 1e9):
		return fmt.Errorf("%w: an amount is above 0 and at most a billion", ErrBadLimit)
	case l.Per < 10*time.Millisecond || l.Per > 366*24*time.Hour:
		return fmt.Errorf("%w: a limit is per 10 ms at least, and per year at most", ErrBadLimit)
	case l.Burst != 0 && !(l.Burst >= 1 && l.Burst <= 1e9):
		return fmt.Errorf("%w: a burst is of one call at least, and of a billion at most", ErrBadLimit)
	}
	return nil
}

// noteLimit notes that something about a limit has changed: whoever releases looks at it again.
func noteLimit(ctx context.Context, tx pgx.Tx, tenant, id int64, by, action, application string) error {
	if _, err := tx.Exec(ctx, `
		update sluice.limiter_gate set next_at = case when next_at < clock_timestamp() then next_at else clock_timestamp() - interval '150 milliseconds' end
		where tenant_id = $1 and limit_id = $2`, tenant, id); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `
		update sluice.limiter_key set ready_at = 'epoch' where tenant_id = $1 and limit_id = $2 and held > 0 and ready_at > 'epoch'`, tenant, id); err != nil {
		return err
	}
	return topology.NoteChange(ctx, tx, tenant, by, action, application)
}
