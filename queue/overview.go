package queue

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"sluice/queue/rollup"
	"sluice/queue/topology"
)

// Standing is how much there is of what at the moment.
type Standing struct {
	Open        int64 // messages on edges: waiting, running, held or retrying
	Held        int64
	Trashed     int64 // failed ones, countedMost at most
	Parked      int64 // at breakpoints, countedMost at most
	Topologies  int64 // that take events
	Workers     int64
	WorkersDown int64
}

// countedMost is how far entries of the trash are counted one by one.
const countedMost = 100_000

// StandingOf tells how much there is of what.
func StandingOf(ctx context.Context, db topology.DB, tenant int64) (Standing, error) {
	rows, _ := db.Query(ctx, `
		select (select coalesce(sum(arrived - departed), 0)::bigint from sluice.edge_count where tenant_id = $1) as open,
		       (select coalesce(sum(held), 0)::bigint from sluice.limiter_line where tenant_id = $1)
		       + (select coalesce(sum(held), 0)::bigint from sluice.limiter_delta where tenant_id = $1) as held,
		       (select count(*) from (select from sluice.trash where tenant_id = $1 and class is distinct from 'breakpoint' limit $2) t) as trashed,
		       (select count(*) from (select from sluice.trash where tenant_id = $1 and class = 'breakpoint' limit $2) t) as parked,
		       (select count(*) from sluice.topology where tenant_id = $1 and deleted_at is null and enabled_version_id is not null) as topologies,
		       w.workers, w.workers_down
		from (
		    select count(*) as workers, count(down_since) as workers_down from sluice.worker where tenant_id = $1 and removed_at is null
		) w`, tenant, countedMost)
	return pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Standing])
}

// HeldOf tells how many messages the limit of each application holds.
func HeldOf(ctx context.Context, db topology.DB, tenant int64) (map[string]int64, error) {
	rows, _ := db.Query(ctx, `
		select l.application, greatest(coalesce(g.held, 0) + coalesce((
		    select sum(d.held) from sluice.limiter_delta d where d.tenant_id = l.tenant_id and d.limit_id = l.id), 0), 0)::bigint
		from sluice.limiter_limit l
		left join sluice.limiter_gate g on g.tenant_id = l.tenant_id and g.limit_id = l.id
		where l.tenant_id = $1 and l.removed_at is null`, tenant)
	held := map[string]int64{}
	var application string
	var n int64
	_, err := pgx.ForEachRow(rows, []any{&application, &n}, func() error {
		held[application] = n
		return nil
	})
	return held, err
}

// IncidentKind is what is wrong.
type IncidentKind string

// The kinds of incidents.
const (
	NodeFailing     IncidentKind = "node_failing"     // a good part of its messages fail, or of its calls
	WorkerDown      IncidentKind = "worker_down"      // a runner cannot reach it
	ApplicationHeld IncidentKind = "application_held" // its limit holds messages for longer than a while, or it is paused
)

// Incident is something that is wrong now and has been for a while.
type Incident struct {
	Kind        IncidentKind
	Since       time.Time
	Topology    string // of a node
	Version     int
	Node        string
	Worker      string
	Application string
	Failed      int64          // messages of a node, since
	Share       float64        // of its calls in the last minutes that were counted
	Trashed     int64          // what lies in the trash of its edges, countedMost at most
	Waiting     int64          // messages for a worker
	Held        int64          // messages for an application
	Drain       *time.Duration // until nothing is held; nil: nobody can tell
	Paused      bool           // by a person
	Reason      string         // that was given last
}

const (
	lookBack     = 15 * time.Minute // in which a node has failed, to be an incident
	lookBackMost = 24 * time.Hour   // for when that began
	incidentsAt  = 20               // nodes that are told of at most
	longDrain    = 5 * time.Minute  // after which what is held is an incident
)

// failing tells whether a time was one of failure: a twentieth of the messages failed, or half of the calls.
func failing(c *rollup.Counts) bool {
	return c.Failed > 0 && 20*c.Failed >= c.Settled() || 2*c.Bad() > c.Calls()
}

// Incidents tells what is wrong, the worst first: workers that are down, then nodes by what has failed, then applications.
func Incidents(ctx context.Context, db topology.DB, tenant int64) ([]Incident, error) {
	m, err := rollup.MarkOf(ctx, db)
	if err != nil {
		return nil, err
	}
	all, err := workersDown(ctx, db, tenant)
	if err != nil {
		return nil, err
	}
	nodes, err := nodesFailing(ctx, db, tenant, m)
	if err != nil {
		return nil, err
	}
	held, err := applicationsHeld(ctx, db, tenant)
	return slices.Concat(all, nodes, held), err
}

func workersDown(ctx context.Context, db topology.DB, tenant int64) ([]Incident, error) {
	rows, _ := db.Query(ctx, `
		select w.name, w.down_since, coalesce(w.down_reason, ''), coalesce((
		    select sum(c.arrived - c.departed)::bigint
		    from sluice.topology_version v
		    cross join jsonb_array_elements(v.graph->'nodes') n
		    join sluice.edge e on e.tenant_id = v.tenant_id and e.version_id = v.id and e.to_node = n->>'name'
		    join sluice.edge_count c on c.tenant_id = e.tenant_id and c.edge_id = e.id
		    where v.tenant_id = w.tenant_id and v.number is not null and n->>'worker' = w.name), 0)
		from sluice.worker w
		where w.tenant_id = $1 and w.removed_at is null and w.down_since is not null
		order by w.down_since, w.name limit $2`, tenant, incidentsAt)
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (Incident, error) {
		i := Incident{Kind: WorkerDown}
		err := row.Scan(&i.Worker, &i.Since, &i.Reason, &i.Waiting)
		return i, err
	})
}

// bySubject sorts slots by what they are of.
func bySubject(slots []rollup.Slot) map[string][]rollup.Slot {
	by := map[string][]rollup.Slot{}
	for _, s := range slots {
		by[s.Subject] = append(by[s.Subject], s)
	}
	return by
}

func nodesFailing(ctx context.Context, db topology.DB, tenant int64, m rollup.Mark) ([]Incident, error) {
	recent := rollup.Until(m.MinutesUntil.Add(-time.Minute), int(lookBack/time.Minute), time.Minute)
	slots, err := rollup.Heat(ctx, db, tenant, rollup.Edge, recent, m)
	if err != nil {
		return nil, err
	}
	type node struct {
		edge   string
		counts rollup.Counts
	}
	var bad []node
	for edge, of := range bySubject(slots) {
		n := node{edge: edge}
		last := false // whether it failed when it was last called
		for _, s := range of {
			n.counts.Add(&s.Counts)
			if s.Calls() > 0 {
				last = failing(&s.Counts)
			}
		}
		if last {
			bad = append(bad, n)
		}
	}
	slices.SortFunc(bad, func(a, b node) int {
		return cmp.Or(cmp.Compare(b.counts.Failed, a.counts.Failed), cmp.Compare(b.counts.Bad(), a.counts.Bad()), cmp.Compare(a.edge, b.edge))
	})
	bad = bad[:min(len(bad), incidentsAt)]
	var incidents []Incident
	for _, n := range bad {
		i, err := describeNode(ctx, db, tenant, n.edge)
		if err != nil {
			return nil, err
		}
		i.Share = float64(n.counts.Bad()) / float64(n.counts.Calls())
		if i.Since, i.Failed, err = failingSince(ctx, db, tenant, n.edge, m); err != nil {
			return nil, err
		}
		incidents = append(incidents, i)
	}
	return incidents, nil
}

func describeNode(ctx context.Context, db topology.DB, tenant int64, edge string) (Incident, error) {
	id, err := strconv.ParseInt(edge, 10, 64)
	if err != nil {
		return Incident{}, err
	}
	i := Incident{Kind: NodeFailing}
	err = db.QueryRow(ctx, `
		select t.name, v.number, e.to_node, coalesce(n->>'worker', ''), coalesce(n->>'application', ''), coalesce(last.reason, ''),
		       (select count(*) from (
		           select from sluice.trash r where r.tenant_id = e.tenant_id and r.edge_id = e.id and r.class is distinct from 'breakpoint' limit $3) r)
		from sluice.edge e
		join sluice.topology_version v on v.tenant_id = e.tenant_id and v.id = e.version_id
		join sluice.topology t on t.tenant_id = v.tenant_id and t.id = v.topology_id
		left join lateral (select n from jsonb_array_elements(v.graph->'nodes') n where n->>'name' = e.to_node limit 1) n on true
		left join lateral (
		    select r.reason from sluice.trash r where r.tenant_id = e.tenant_id and r.edge_id = e.id
		    order by r.failed_at desc, r.message_id desc limit 1
		) last on true
		where e.tenant_id = $1 and e.id = $2`, tenant, id, countedMost).
		Scan(&i.Topology, &i.Version, &i.Node, &i.Worker, &i.Application, &i.Reason, &i.Trashed)
	return i, err
}

// failingSince tells since when an edge's node fails, and how many messages failed since: it looks for the last quarter of an
// hour that was well, and from there on for the last minute that was.
func failingSince(ctx context.Context, db topology.DB, tenant int64, edge string, m rollup.Mark) (since time.Time, failed int64, err error) {
	day := rollup.Until(m.MinutesUntil.Add(-time.Minute), int(lookBackMost/lookBack), lookBack)
	quarters, err := rollup.Heat(ctx, db, tenant, rollup.Edge, day, m, edge)
	if err != nil {
		return since, 0, err
	}
	closer := rollup.Window{From: day.From, To: day.To, Step: time.Minute}
	for _, q := range slices.Backward(quarters) {
		begin := day.From.Add(time.Duration(q.Slot) * lookBack)
		if q.Calls() == 0 {
			continue
		}
		if !failing(&q.Counts) {
			closer.From = begin
			break
		}
		closer.From, closer.To = begin, begin.Add(lookBack)
	}
	minutes, err := rollup.Heat(ctx, db, tenant, rollup.Edge, closer, m, edge)
	if err != nil {
		return since, 0, err
	}
	for _, s := range minutes {
		switch {
		case s.Calls() == 0:
		case !failing(&s.Counts):
			since, failed = time.Time{}, 0
		default:
			if since.IsZero() {
				since = closer.From.Add(time.Duration(s.Slot) * time.Minute)
			}
			failed += s.Failed
		}
	}
	if since.IsZero() { // the quarter failed as a whole, and ended well
		since = closer.From
	}
	for _, q := range quarters {
		if !day.From.Add(time.Duration(q.Slot) * lookBack).Before(closer.To) {
			failed += q.Failed
		}
	}
	return since, failed, nil
}

func applicationsHeld(ctx context.Context, db topology.DB, tenant int64) ([]Incident, error) {
	limits, err := Limits(ctx, db, tenant, "", incidentsAt*10)
	if err != nil {
		return nil, err
	}
	var incidents []Incident
	for _, l := range limits {
		if l.Held == 0 || l.PausedAt == nil && l.Drain != nil && *l.Drain < longDrain {
			continue
		}
		i := Incident{Kind: ApplicationHeld, Application: l.Application, Held: l.Held, Drain: l.Drain, Paused: l.PausedAt != nil}
		// The first of each line has waited longest there.
		if err := db.QueryRow(ctx, `
			select coalesce(min(h.held_at), now()) from (
			    select * from sluice.limiter_line where tenant_id = $1 and limit_id = $2 and held > 0 order by user_name, edge_id limit 500
			) l
			cross join lateral (
			    select h.held_at from sluice.limiter_hold h
			    where h.tenant_id = l.tenant_id and h.edge_id = l.edge_id and h.user_name = l.user_name
			    order by h.seq limit 1
			) h`, tenant, l.ID).Scan(&i.Since); err != nil {
			return nil, err
		}
		incidents = append(incidents, i)
	}
	slices.SortStableFunc(incidents, func(a, b Incident) int { return cmp.Compare(b.Held, a.Held) })
	return incidents, nil
}
