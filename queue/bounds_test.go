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
	// An event that was on its way while the counters were read may be counted twice until they are read again, so some may
	// be refused shortly before the bound. None is let in beyond it.
	until(t, "the bound", func() bool {
		err := post([]byte("x"))
		if err == nil {
			accepted++
		} else if !errors.As(err, &full) {
			t.Fatal(err)
		}
		return accepted == 50
	})
	for range 3 {
		if err := post([]byte("x")); !errors.As(err, &full) || full.What != "messages" || full.Holds < 50 || full.Bound != 50 || full.RetryAfter < time.Second {
			t.Fatalf("beyond the bound: %v, %+v", err, full)
		}
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
