package bench

import (
	"context"
	"fmt"
)

const orderKeys = 1000

// measureOrder works messages at one node that keeps order, 1,000 of each of 1,000 keys; then those of one key alone. The
// baseline works as many at a node that does not.
func measureOrder(ctx context.Context, r *run) ([]Result, error) {
	l, err := r.lab(ctx)
	if err != nil {
		return nil, err
	}
	defer l.close()
	if err := l.addWorker(ctx, "bench", nowhere); err != nil {
		return nil, err
	}
	var many, hot speed
	free := 0
	baseline, err := between(func() (speed, error) {
		free++
		return l.speed(ctx, line{name: fmt.Sprintf("free-%d", free), hops: 1, worker: "bench"}, load{events: r.scaled(200_000), keys: orderKeys})
	}, func() (err error) {
		ordered := line{name: "keys", hops: 1, worker: "bench", orderBy: "key"}
		if many, err = l.speed(ctx, ordered, load{events: r.scaled(1000) * orderKeys, keys: orderKeys}); err != nil {
			return err
		}
		ordered.name = "hot"
		hot, err = l.speed(ctx, ordered, load{events: r.scaled(200_000), keys: 1})
		return err
	})
	results := make([]Result, 2)
	for i, of := range []speed{many, hot} {
		results[i].Unit, results[i].BaselineName = "hops/s", "hops/s without order"
		results[i].compare(of, baseline)
	}
	return results, err
}
