package queue_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"sluice/queue"
	"sluice/queue/worker"
)

// A topology takes events up to its bound, says when to come again, and takes more when there is room; others are not
// touched by that.
func TestBounds(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	r := start(t, `
topology: flow
bounds: {messages: 50}
nodes:
  in: {kind: start, followers: [a]}
  a: {kind: custom, worker: demo}
`, func(ctx context.Context, req worker.Request) (worker.Result, error) {
		select {
		case <-release:
		case <-ctx.Done():
		}
		return passOn(req), nil
	})
	post := func(body []byte) error {
		_, err := r.engine.Accept(t.Context(), queue.Event{Tenant: tenant, Topology: "flow", Node: "in", Body: body})
		return err
	}
	var full *queue.FullError
	accepted := 0
	for err := post([]byte("x")); ; err = post([]byte("x")) {
		if errors.As(err, &full) {
			break
		}
		ok(t, err)
		accepted++
	}
	// An event that was on its way while the counters were read may be counted twice until the next look.
	if accepted > 50 || accepted < 48 || full.What != "messages" || full.Holds < 50 || full.Bound != 50 || full.RetryAfter < time.Second {
		t.Fatalf("after %d: %+v", accepted, full)
	}
	close(release)
	r.drained()
	until(t, "room again", func() bool { return post([]byte("x")) == nil })
	r.drained()

	r.publish(`
topology: flow
bounds: {bytes: 10KiB}
nodes:
  in: {kind: start, followers: [a]}
  a: {kind: custom, worker: absent}
`)
	var depths []queue.EdgeDepth
	until(t, "the other version's bound", func() bool { // what went to the version before counts until it is seen to have left
		err := post(make([]byte, 4<<10))
		var errDepth error
		depths, errDepth = queue.DepthOf(t.Context(), r.pool, tenant, "flow", 2)
		ok(t, errDepth)
		return errors.As(err, &full) && full.What == "bytes" && full.Bound == 10<<10 && depths[0].Messages >= 3
	})
	if len(depths) != 1 || depths[0].Messages < 3 || depths[0].Bytes != depths[0].Messages*4<<10 || depths[0].From != "in" || depths[0].To != "a" {
		t.Errorf("%+v", depths)
	}
}
