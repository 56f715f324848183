package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"sluice/limiter"
	"sluice/queue"
)

// limitedKeys is among how many users the calls of one application are shared.
const limitedKeys = 100_000

// measureLimiter works messages at one node whose application has a limit. First one that lets everything pass, to tell what
// it costs to hold a message and to release it: the baseline has none. Then one of 5,000 calls a second, and one of 3,000 that
// 100,000 users share, each with a limit of their own: what share of it is used while there is a backlog?
func measureLimiter(ctx context.Context, r *run) ([]Result, error) {
	l, err := r.lab(ctx)
	if err != nil {
		return nil, err
	}
	defer l.close()
	if err := l.addWorker(ctx, "bench", nowhere); err != nil {
		return nil, err
	}
	var held speed
	free := 0
	baseline, err := between(func() (speed, error) {
		free++
		return l.speed(ctx, line{name: fmt.Sprintf("free-%d", free), hops: 1, worker: "bench"}, load{events: r.scaled(100_000)})
	}, func() (err error) {
		held, err = l.limited(ctx, "held", queue.Limit{User: perSecond(1e9, 1e9)}, load{events: r.scaled(100_000)})
		return err
	})
	if err != nil {
		return nil, err
	}
	cost := Result{Unit: "messages/s", BaselineName: "messages/s without a limit"}
	cost.compare(held, baseline)
	// Seconds: its beginning, until the first call, counts too.
	one, err := l.used(ctx, "paced", queue.Limit{User: perSecond(5000, 1000)}, load{events: 5000 * r.scaled(40)})
	if err != nil {
		return nil, err
	}
	many, err := l.used(ctx, "shared", queue.Limit{User: perSecond(10, 10), Total: perSecond(3000, 1000)},
		load{events: 3000 * r.scaled(40), keys: limitedKeys})
	return []Result{cost, one, many}, err
}

func perSecond(amount, burst float64) limiter.Limit {
	return limiter.Limit{Amount: amount, Per: time.Second, Burst: burst}
}

// used compares how fast messages pass with what a limit allows.
func (l *lab) used(ctx context.Context, name string, limit queue.Limit, of load) (Result, error) {
	got, err := l.limited(ctx, name, limit, of)
	allowed := limit.Total
	if allowed.IsZero() {
		allowed = limit.User
	}
	used := Result{Unit: "messages/s", BaselineName: "messages/s that are allowed"}
	used.compare(got, speed{rate: allowed.Rate() + allowed.Burst*got.rate/float64(of.events)})
	return used, err
}

// limited is the speed of messages at one node whose application has a limit.
func (l *lab) limited(ctx context.Context, name string, limit queue.Limit, of load) (got speed, err error) {
	limit.Application = "bench"
	begin := func(do func(tx pgx.Tx) error) error { return pgx.BeginFunc(ctx, l.pool, do) }
	if err := begin(func(tx pgx.Tx) error { return queue.SetLimit(ctx, tx, tenant, limit, "bench") }); err != nil {
		return got, err
	}
	if got, err = l.speed(ctx, line{name: name, hops: 1, worker: "bench"}, of); err != nil {
		return got, err
	}
	return got, begin(func(tx pgx.Tx) error { return queue.RemoveLimit(ctx, tx, tenant, "bench", "bench") })
}
