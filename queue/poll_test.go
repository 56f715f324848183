package queue_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"sluice/migrations/pgtest"
	"sluice/queue"
)

// Nobody can say a word to anybody: LISTEN fails, and notifications do not come through, as behind a pooler and on
// databases that have none. What a gateway stores, runners find by looking, and what one runner has no room for another
// finds. Everything is worked, and not late.
func TestPollingAlone(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	pool, w := openWired(t, db)
	listens, tells := w.cutSome(unsent, "listen sluice", 0, 1<<30), w.cutSome(unsent, "select pg_notify($1, $2)", 0, 1<<30)
	r, s := newRig(t, pool), newSink(t, stormFlow)
	r.publish(storm)
	gateway, err := queue.New(t.Context(), pool, queue.Config{})
	ok(t, err)
	t.Cleanup(func() { ok(t, gateway.Stop(context.Background())) })
	for range 2 {
		newEngine(t, pool, queue.Config{Caller: callerFunc(s.call), Slots: 50, Lease: 10 * time.Second, Sweep: 200 * time.Millisecond})
	}
	r.engine = gateway
	until(t, "an attempt to listen", func() bool { return listens.count() >= 2 })
	events := bySize(300, 20_000)
	want := stormEffects(t, events)
	var senders sync.WaitGroup
	for k := range 8 {
		senders.Go(func() {
			for i := k; i < events; i += 8 {
				r.insist(fmt.Sprint("key ", i), event(i))
			}
		})
	}
	senders.Wait()
	progress(t, s, 1, len(want))
	r.engine = nil
	r.drained()
	s.prove(r, want)
	var slowest, usual time.Duration
	ok(t, pool.QueryRow(t.Context(), `
		select max(d), percentile_disc(0.5) within group (order by d) from (
			select min(a.at - make_interval(secs => a.duration_us / 1e6)) - m.created_at as d
			from sluice.message m join sluice.attempt a on a.process_id = m.process_id and a.message_id = m.id
			where m.parent_id is null group by m.id, m.created_at) first`).Scan(&slowest, &usual))
	t.Logf("%d listens and %d notifications lost; from an event's commit to its first call: usually %v, at most %v",
		listens.count(), tells.count(), usual.Round(time.Millisecond), slowest.Round(time.Millisecond))
}
