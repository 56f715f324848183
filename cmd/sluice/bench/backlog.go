package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"sluice/queue"
)

const backlogBody = 256 // bytes

// measureBacklog lets messages pile up on one edge because its worker is down. First: does that slow others? The same
// events as in handoff go through another topology, beside the pile and, as the baseline, before it was there. Then the
// worker is back: is the pile drained as fast as a small one, which is the baseline?
func measureBacklog(ctx context.Context, r *run) ([]Result, error) {
	l, err := r.lab(ctx)
	if err != nil {
		return nil, err
	}
	defer l.close()
	for _, name := range []string{"bench", "down"} {
		if err := l.addWorker(ctx, name, nowhere); err != nil {
			return nil, err
		}
	}
	waiting, events, sample := r.scaled(2_000_000), r.scaled(30_000), r.scaled(200_000)
	// A first run makes the caches and the catalog warm, for it is the same server from here on.
	if _, err := l.handOffSpeed(ctx, "warm-up", max(events/10, 1)); err != nil {
		return nil, err
	}
	without, err := l.handOffSpeed(ctx, "before", events)
	if err != nil {
		return nil, err
	}
	small, err := l.drainSpeed(ctx, "small", sample, sample)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	if err := l.publish(ctx, line{name: "pile", hops: 1, worker: "down"}); err != nil {
		return nil, err
	}
	if err := l.fill(ctx, "pile", waiting); err != nil {
		return nil, err
	}
	filled := time.Since(start)
	with, err := l.handOffSpeed(ctx, "beside", events)
	if err != nil {
		return nil, err
	}
	large, err := l.drainPile(ctx, "pile", sample)
	beside := Result{Unit: "hops/s", BaselineName: "hops/s without a backlog"}
	beside.compare(with, without)
	beside.add("backlog", float64(waiting), "messages")
	beside.add("filled in", filled.Seconds(), "s")
	drained := Result{Unit: "messages/s", BaselineName: "messages/s of a small backlog"}
	drained.compare(large, small)
	return []Result{beside, drained}, err
}

// drainSpeed fills the edge of a new topology and drains a sample of it.
func (l *lab) drainSpeed(ctx context.Context, name string, waiting, sample int) (speed, error) {
	if err := l.publish(ctx, line{name: name, hops: 1, worker: "down"}); err != nil {
		return speed{}, err
	}
	if err := l.fill(ctx, name, waiting); err != nil {
		return speed{}, err
	}
	return l.drainPile(ctx, name, sample)
}

// drainPile tells how many messages a second leave the edge of a topology, by the first so many that do. Messages of
// other topologies are not worked.
func (l *lab) drainPile(ctx context.Context, name string, sample int) (got speed, err error) {
	calls := newCountdown(sample)
	engine, err := queue.New(ctx, l.pool, queue.Config{Slots: handOffSlots, NodeSlots: handOffSlots, Caller: instant(name, calls.done)})
	if err != nil {
		return got, err
	}
	defer stop(ctx, engine, &err)
	return l.timed(ctx, sample, func() error {
		if err := engine.Start(ctx); err != nil {
			return err
		}
		return calls.wait(ctx)
	})
}

// newProcessID makes a process's id in SQL as the engine makes it: a UUIDv7.
const newProcessID = `
	(lpad(to_hex((extract(epoch from clock_timestamp()) * 1000)::bigint), 12, '0') || '7' || substr(replace(gen_random_uuid()::text, '-', ''), 14))::uuid`

// fill puts messages on the first edge of a topology as the engine would, which would take its time for millions: all
// that is written for an accepted event, so that a check of the database finds nothing wrong.
func (l *lab) fill(ctx context.Context, topology string, messages int) error {
	const (
		connections = 2
		chunk       = 20_000
	)
	body := text(backlogBody)
	var left atomic.Int64
	left.Store(int64(messages))
	errs := make([]error, connections)
	var fillers sync.WaitGroup
	for c := range connections {
		fillers.Go(func() {
			for errs[c] == nil {
				after := left.Add(-chunk)
				n := min(chunk, after+chunk)
				if n <= 0 {
					return
				}
				_, errs[c] = l.pool.Exec(ctx, fillSQL, tenant, topology, n, body)
			}
		})
	}
	fillers.Wait()
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("fill %s: %w", topology, err)
	}
	// What has been waiting for long has long been vacuumed.
	for _, table := range []string{"river.river_job", "sluice.process", "sluice.message"} {
		if _, err := l.pool.Exec(ctx, "vacuum (analyze) "+table); err != nil {
			return err
		}
	}
	return l.settle(ctx)
}

const fillSQL = `
with to_edge as (
    select e.tenant_id, e.id, e.version_id
    from sluice.topology t
    join sluice.edge e on e.tenant_id = t.tenant_id and e.version_id = t.enabled_version_id and e.from_node = 'in'
    where t.tenant_id = $1 and t.name = $2
), event as materialized (
    select e.tenant_id, e.id as edge_id, e.version_id, n, nextval('river.river_job_id_seq') as id, ` + newProcessID + ` as process_id
    from to_edge e, generate_series(1, $3::int) as n
), new_process as (
    insert into sluice.process (tenant_id, id, version_id, node, total, open)
    select tenant_id, process_id, version_id, 'in', 1, 1 from event
), new_message as (
    insert into sluice.message (tenant_id, process_id, id, edge_id, headers, body)
    select tenant_id, process_id, id, edge_id, '{}', $4::bytea from event
), new_job as (
    insert into river.river_job (id, args, kind, max_attempts, queue)
    select id, jsonb_build_object('process_id', process_id), 'message', 32767, 'e' || edge_id from event
)
insert into sluice.edge_count as c (tenant_id, edge_id, slot, arrived, departed, bytes)
select tenant_id, edge_id, -1, count(*), 0, sum(octet_length($4::bytea)) from event group by tenant_id, edge_id
on conflict (tenant_id, edge_id, slot) do update set arrived = c.arrived + excluded.arrived, bytes = c.bytes + excluded.bytes`
