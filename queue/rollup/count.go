package rollup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	margin    = 5 * time.Second // after which Postgres shows a transaction that has begun, however busy it is
	again     = 5 * time.Second // between looks, while a minute is over and cannot be counted yet
	longSpan  = time.Hour       // counted in one transaction, when there is little in it
	longRound = time.Second     // for one transaction; what takes longer counts less the next time
	pruneGap  = time.Hour       // between looks for counts that are kept no longer
	pruneMost = 5000            // rows that one statement forgets
)

// Leader counts, when it is its turn. Any number of them may try at once.
type Leader struct {
	pool   *pgxpool.Pool
	log    *slog.Logger
	minute time.Duration // shorter in tests
	margin time.Duration
	labels map[int64]label // of edges, which never change
	span   time.Duration   // counted in one transaction
	pruned time.Time
}

// NewLeader returns a leader on a pool of an engine.
func NewLeader(pool *pgxpool.Pool, log *slog.Logger) *Leader {
	return &Leader{pool: pool, log: log, minute: time.Minute, margin: margin, labels: map[int64]label{}, span: time.Minute}
}

// Run counts until ctx ends: each minute some seconds after it is over, and after a pause everything since, leaving most
// of the time to others.
func (l *Leader) Run(ctx context.Context) {
	if err := l.ensureIndexes(ctx); err != nil && ctx.Err() == nil {
		l.log.WarnContext(ctx, "Roll-ups are slow: indexes on records not made", "err", err)
	}
	for {
		wait, err := l.Round(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			l.log.WarnContext(ctx, "Roll-ups not counted, trying again", "err", err)
			wait = again
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

// Round counts what can be counted in one transaction, and tells how long to wait before the next.
func (l *Leader) Round(ctx context.Context) (wait time.Duration, err error) {
	began := time.Now()
	var m mark
	err = l.begin(ctx, func(tx pgx.Tx) error {
		if m, err = seal(ctx, tx); err != nil {
			return err
		}
		m.bound = m.Decided.Add(-l.margin).Truncate(l.minute)
		until := m.bound
		if most := m.MinutesUntil.Add(l.span); until.After(most) {
			until = most
		}
		if !until.After(m.MinutesUntil) {
			return nil
		}
		return l.count(ctx, tx, &m, until)
	})
	took := time.Since(began)
	switch {
	case errors.Is(err, errNotOurTurn):
		return again, nil
	case err != nil:
		l.span = l.minute
		return 0, err
	case took > longRound:
		l.span = max(l.span/2, l.minute).Truncate(l.minute)
	case l.span < longSpan:
		l.span *= 2
	}
	if m.MinutesUntil.Before(m.bound) {
		return 4 * took, nil
	}
	if err := l.prune(ctx); err != nil {
		return 0, err
	}
	return max(m.MinutesUntil.Add(l.minute+l.margin).Sub(m.Now), min(again, l.minute)), nil
}

// begin runs f in a transaction that sees all tenants and what others have committed before each of its statements. It
// is ended long before the counting could hold anyone up, and takes one core: the others are for what moves.
func (l *Leader) begin(ctx context.Context, f func(pgx.Tx) error) error {
	return pgx.BeginTxFunc(ctx, l.pool, pgx.TxOptions{BeginQuery: `
		begin isolation level read committed; set local sluice.tenant_id = '*'; set local statement_timeout = '60s';
		set local enable_seqscan = off; set local jit = off; set local work_mem = '32MB';
		set local max_parallel_workers_per_gather = 0`}, f)
}

var errNotOurTurn = errors.New("someone else is counting")

// mark is how far counting has come, and how far it may go.
type mark struct {
	MinutesUntil  time.Time
	QuartersUntil time.Time
	HoursUntil    time.Time
	DaysUntil     time.Time
	Now           time.Time
	Decided       time.Time

	bound time.Time // the last minute that ends before Decided
}

// seal takes the turn, and finds the time up to which everything has been decided: every transaction that began before it
// is over, so no record of an earlier time can come any more.
//
// A record's time is when its transaction began. Postgres shows the transactions that are under way with that time, from a
// moment after they began, which the margin allows for, until they can be seen by all: what is not shown was there before the
// next statement's snapshot, or will never be. Those that began more than a minute ago count only if they have a lock for
// writing records: the engine ends its statements after 30 s, and a long look at the database must not stop the counting.
// Of sessions of another role Postgres shows their locks alone; one that is writing records is taken to have begun a
// minute ago.
func seal(ctx context.Context, tx pgx.Tx) (mark, error) {
	rows, _ := tx.Query(ctx, `
		with turn as materialized (
		    select minutes_until, quarters_until, hours_until, days_until from sluice.rollup_mark for update skip locked
		), writer as materialized (
		    select l.pid from pg_locks l
		    where l.locktype = 'relation' and l.mode = 'RowExclusiveLock' and l.pid <> pg_backend_pid()
		    and l.database = (select oid from pg_database where datname = current_database())
		    and l.relation in ('sluice.attempt'::regclass, 'sluice.message'::regclass)
		), busy as (
		    select coalesce(a.xact_start, clock_timestamp() - interval '1 minute') as since
		    from pg_stat_activity a
		    where a.datname = current_database() and a.pid <> pg_backend_pid() and a.backend_type = 'client backend'
		    and case when a.xact_start > clock_timestamp() - interval '1 minute' then true else a.pid in (select pid from writer) end
		)
		select turn.*, clock_timestamp() as now,
		       least(clock_timestamp(), (select min(since) from busy)) as decided
		from turn`)
	m, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByNameLax[mark])
	if errors.Is(err, pgx.ErrNoRows) {
		err = errNotOurTurn
	}
	return m, err
}

// place is where something is counted.
type place struct {
	tenant  int64
	scope   Scope
	subject string
	at      int64 // microseconds
}

// cells are counts by place.
type cells map[place]*Counts

func (c cells) at(p place) *Counts {
	found := c[p]
	if found == nil {
		found = &Counts{}
		c[p] = found
	}
	return found
}

// count counts the minutes up to a time, and what is over of longer steps, and moves the mark.
func (l *Leader) count(ctx context.Context, tx pgx.Tx, m *mark, until time.Time) error {
	edges, err := l.readRecords(ctx, tx, m.MinutesUntil, until)
	if err != nil {
		return err
	}
	if err := l.learn(ctx, tx, edges); err != nil {
		return err
	}
	all := cells{}
	for e, counted := range edges {
		for _, s := range l.labels[e.edge].subjects(e.edge) {
			all.at(place{e.tenant, s.scope, s.subject, e.at}).Add(counted)
		}
	}
	if err := write(ctx, tx, 1, all); err != nil {
		return err
	}
	m.MinutesUntil = until
	for _, f := range []struct {
		from, into int
		done       *time.Time
		ready      *time.Time
	}{{1, 15, &m.QuartersUntil, &m.MinutesUntil}, {15, 60, &m.HoursUntil, &m.QuartersUntil}, {60, 1440, &m.DaysUntil, &m.HoursUntil}} {
		length := time.Duration(f.into) * l.minute
		for next := f.done.Add(length); !next.After(*f.ready); next = next.Add(length) {
			if err := fold(ctx, tx, f.from, f.into, *f.done, next); err != nil {
				return err
			}
			*f.done = next
		}
	}
	_, err = tx.Exec(ctx, `update sluice.rollup_mark set minutes_until = $1, quarters_until = $2, hours_until = $3, days_until = $4`,
		m.MinutesUntil, m.QuartersUntil, m.HoursUntil, m.DaysUntil)
	return err
}

// edgeMinute is a minute of an edge.
type edgeMinute struct {
	tenant, edge, at int64
}

// readRecords counts the records of a time by edge and minute.
func (l *Leader) readRecords(ctx context.Context, tx pgx.Tx, from, until time.Time) (map[edgeMinute]*Counts, error) {
	found := map[edgeMinute]*Counts{}
	at := func(e edgeMinute) *Counts {
		c := found[e]
		if c == nil {
			c = &Counts{}
			found[e] = c
		}
		return c
	}
	var (
		e         edgeMinute
		outcome   string
		bucket    int
		n, us     int64
		came, all int64
	)
	rows, _ := tx.Query(ctx, `
		select tenant_id, edge_id, (extract(epoch from minute) * 1e6)::bigint, outcome::text, bucket, n, us
		from (
			select tenant_id, edge_id, date_bin($4, at, timestamptz 'epoch') as minute, outcome, width_bucket(duration_us, $3::int[]) as bucket,
			       count(*) as n, sum(duration_us)::bigint as us
			from sluice.attempt where at >= $1 and at < $2
			group by 1, 2, 3, 4, 5
		) counted`, from, until, bounds, l.minute)
	if _, err := pgx.ForEachRow(rows, []any{&e.tenant, &e.edge, &e.at, &outcome, &bucket, &n, &us}, func() error {
		at(e).record(outcome, bucket, n, us)
		return nil
	}); err != nil {
		return nil, fmt.Errorf("count attempts: %w", err)
	}
	rows, _ = tx.Query(ctx, `
		select tenant_id, edge_id, (extract(epoch from minute) * 1e6)::bigint, events, arrived
		from (
			select tenant_id, edge_id, date_bin($3, created_at, timestamptz 'epoch') as minute,
			       count(*) filter (where parent_id is null and payload_id is null) as events, count(*) as arrived
			from sluice.message where created_at >= $1 and created_at < $2
			group by 1, 2, 3
		) counted`, from, until, l.minute)
	if _, err := pgx.ForEachRow(rows, []any{&e.tenant, &e.edge, &e.at, &came, &all}, func() error {
		c := at(e)
		c.Events += came
		c.Arrived += all
		return nil
	}); err != nil {
		return nil, fmt.Errorf("count messages: %w", err)
	}
	return found, nil
}

// label is what an edge belongs to.
type label struct {
	topology            int64
	application, worker string
}

type subject struct {
	scope   Scope
	subject string
}

// subjects are what is counted with an edge.
func (l label) subjects(edge int64) []subject {
	of := []subject{{All, ""}, {Edge, strconv.FormatInt(edge, 10)}}
	if l.topology != 0 {
		of = append(of, subject{Topology, strconv.FormatInt(l.topology, 10)})
	}
	if l.application != "" {
		of = append(of, subject{Application, l.application})
	}
	if l.worker != "" {
		of = append(of, subject{Worker, l.worker})
	}
	return of
}

// learn reads what edges belong to that are not known yet.
func (l *Leader) learn(ctx context.Context, tx pgx.Tx, edges map[edgeMinute]*Counts) error {
	unknown := map[int64]struct{}{}
	for e := range edges {
		if _, known := l.labels[e.edge]; !known {
			unknown[e.edge] = struct{}{}
		}
	}
	if len(unknown) == 0 {
		return nil
	}
	var edge int64
	var of label
	rows, _ := tx.Query(ctx, `
		select e.id, v.topology_id, coalesce(n->>'application', ''), coalesce(n->>'worker', '')
		from unnest($1::bigint[]) as w(id)
		join sluice.edge e on e.id = w.id
		join sluice.topology_version v on v.tenant_id = e.tenant_id and v.id = e.version_id
		left join lateral (select n from jsonb_array_elements(v.graph->'nodes') n where n->>'name' = e.to_node limit 1) n on true`,
		slices.Sorted(maps.Keys(unknown)))
	if _, err := pgx.ForEachRow(rows, []any{&edge, &of.topology, &of.application, &of.worker}, func() error {
		l.labels[edge] = of
		return nil
	}); err != nil {
		return fmt.Errorf("read what edges belong to: %w", err)
	}
	return nil
}

// fold makes counts of one step from those of a shorter one.
func fold(ctx context.Context, tx pgx.Tx, from, into int, since, until time.Time) error {
	all := cells{}
	rows, _ := tx.Query(ctx, `
		select r.tenant_id, r.scope, r.subject, `+countColumns+`
		from sluice.tenant t
		cross join unnest($4::text[]) as s(scope)
		join sluice.rollup r on r.tenant_id = t.id and r.scope = s.scope and r.step = $1 and r.at >= $2 and r.at < $3`,
		from, since, until, scopes)
	p := place{at: since.UnixMicro()}
	var c Counts
	var latency pgtype.Array[int64]
	if _, err := pgx.ForEachRow(rows, append([]any{&p.tenant, &p.scope, &p.subject}, c.columns(&latency)...), func() error {
		c.Latency = histogramOf(latency)
		all.at(p).Add(&c)
		return nil
	}); err != nil {
		return fmt.Errorf("fold %d into %d minutes: %w", from, into, err)
	}
	return write(ctx, tx, into, all)
}

// countColumns are read into what columns returns.
const countColumns = `r.events, r.arrived, r.done, r.filtered, r.failed, r.parked, r.retried, r.repeated, r.unavailable, r.pages, r.latency_us, r.latency`

func (c *Counts) columns(latency *pgtype.Array[int64]) []any {
	return []any{
		&c.Events, &c.Arrived, &c.Done, &c.Filtered, &c.Failed, &c.Parked, &c.Retried, &c.Repeated, &c.Unavailable, &c.Pages, &c.LatencyUS, latency,
	}
}

// write adds rows. That one is there already is an error: nothing is counted twice.
func write(ctx context.Context, tx pgx.Tx, step int, all cells) error {
	if len(all) == 0 {
		return nil
	}
	places := slices.SortedFunc(maps.Keys(all), place.compare) // beside each other lies what is read together
	tenants, scopes, subjects, ats, latencies := make([]int64, len(places)), make([]string, len(places)), make([]string, len(places)), make([]int64, len(places)), make([]string, len(places))
	sums := make([][]int64, 11)
	for i, p := range places {
		c := all[p]
		tenants[i], scopes[i], subjects[i], ats[i], latencies[i] = p.tenant, string(p.scope), p.subject, p.at, c.Latency.text()
		for k, n := range []int64{c.Events, c.Arrived, c.Done, c.Filtered, c.Failed, c.Parked, c.Retried, c.Repeated, c.Unavailable, c.Pages, c.LatencyUS} {
			sums[k] = append(sums[k], n)
		}
	}
	args := []any{step, tenants, scopes, subjects, ats, latencies}
	for _, s := range sums {
		args = append(args, s)
	}
	_, err := tx.Exec(ctx, `
		insert into sluice.rollup (tenant_id, scope, step, at, subject, events, arrived, done, filtered, failed, parked, retried, repeated,
		                           unavailable, pages, latency_us, latency)
		select tenant_id, scope, $1, timestamptz 'epoch' + at * interval '1 microsecond', subject, events, arrived, done, filtered, failed, parked, retried, repeated,
		       unavailable, pages, latency_us, latency::int[]
		from unnest($2::bigint[], $3::text[], $4::text[], $5::bigint[], $6::text[], $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[],
		            $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[], $15::bigint[], $16::bigint[], $17::bigint[])
		    as c(tenant_id, scope, subject, at, latency, events, arrived, done, filtered, failed, parked, retried, repeated,
		         unavailable, pages, latency_us)`, args...)
	if err != nil {
		return fmt.Errorf("write counts of %d minutes: %w", step, err)
	}
	return nil
}

func (p place) compare(o place) int {
	return cmp.Or(cmp.Compare(p.at, o.at), cmp.Compare(p.tenant, o.tenant), cmp.Compare(p.scope, o.scope), cmp.Compare(p.subject, o.subject))
}
