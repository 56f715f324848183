package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"sluice/limiter"
	"sluice/queue"
)

// measureLimiter works messages at one node whose application has a limit. First one that lets everything pass, to tell what
// it costs to hold a message and to release it: the baseline has none. Then one of 5,000 calls a second: what share of it
// is used while there is a backlog?
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
		held, err = l.limited(ctx, "held", limiter.Limit{Amount: 1e9, Per: time.Second, Burst: 1e9}, r.scaled(100_000))
		return err
	})
	if err != nil {
		return nil, err
	}
	cost := Result{Unit: "messages/s", BaselineName: "messages/s without a limit"}
	cost.compare(held, baseline)
	const rate, burst = 5000, 1000
	n := rate * r.scaled(40) // seconds: its beginning, until the first call, counts too
	got, err := l.limited(ctx, "paced", limiter.Limit{Amount: rate, Per: time.Second, Burst: burst}, n)
	used := Result{Unit: "messages/s", BaselineName: "messages/s that are allowed"}
	used.compare(got, speed{rate: rate + burst*got.rate/float64(n)})
	return []Result{cost, used}, err
}

// limited is the speed of messages at one node whose application has a limit.
func (l *lab) limited(ctx context.Context, name string, limit limiter.Limit, events int) (got speed, err error) {
	begin := func(do func(tx pgx.Tx) error) error { return pgx.BeginFunc(ctx, l.pool, do) }
	if err := begin(func(tx pgx.Tx) error {
		return queue.SetLimit(ctx, tx, tenant, queue.Limit{Application: "bench", User: limit}, "bench")
	}); err != nil {
		return got, err
	}
	if got, err = l.speed(ctx, line{name: name, hops: 1, worker: "bench"}, load{events: events}); err != nil {
		return got, err
	}
	return got, begin(func(tx pgx.Tx) error { return queue.RemoveLimit(ctx, tx, tenant, "bench", "bench") })
}
