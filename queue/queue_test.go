package queue_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"sluice/queue/worker"
)

const diamond = `
topology: flow
nodes:
  in: {kind: start, followers: [a]}
  a: {kind: custom, worker: demo, followers: [b, c]}
  b: {kind: custom, worker: demo, followers: [d]}
  c: {kind: custom, worker: demo, followers: [d]}
  d: {kind: connector, worker: demo}
`

// An event goes through a diamond: every node sees the bytes that came, once on each way, and the process finishes once.
func TestEventToFinish(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	seen := map[string]int{}
	r := start(t, diamond, func(ctx context.Context, req worker.Request) (worker.Result, error) {
		mu.Lock()
		defer mu.Unlock()
		seen[req.Node+" "+string(req.Body)]++
		return same(ctx, req)
	})
	body := "{ \"n\": 12345678901234567890 }\n"
	id := r.accept("in", body)
	r.finished(id)
	mu.Lock()
	defer mu.Unlock()
	if got, want := fmt.Sprint(seen), fmt.Sprint(map[string]int{"a " + body: 1, "b " + body: 1, "c " + body: 1, "d " + body: 2}); got != want {
		t.Errorf("calls %s, want %s", got, want)
	}
	var total, open, done, jobs, attempts, bodies int
	ok(t, r.pool.QueryRow(t.Context(), `
		select total, open, done, (select count(*) from river.river_job where kind = 'message'),
		       (select count(*) from sluice.attempt where process_id = p.id),
		       (select count(body) from sluice.message where process_id = p.id)
		from sluice.process p where id = $1`, id).Scan(&total, &open, &done, &jobs, &attempts, &bodies))
	if total != 5 || open != 0 || done != 5 || jobs != 0 || attempts != 5 || bodies != 1 {
		t.Errorf("total %d open %d done %d jobs %d attempts %d bodies %d, want 5 0 5 0 5 1", total, open, done, jobs, attempts, bodies)
	}
}
