package rollup

import (
	"context"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"sluice/migrations/pgtest"
)

// asTenant runs f as the gateway does.
func asTenant(t *testing.T, pool *pgxpool.Pool, tenant int64, f func(ctx context.Context, tx pgx.Tx)) {
	t.Helper()
	begin := pgx.TxOptions{BeginQuery: "begin; set local sluice.tenant_id = '" + strconv.FormatInt(tenant, 10) + "'"}
	ok(t, pgx.BeginTxFunc(t.Context(), pool, begin, func(tx pgx.Tx) error {
		f(t.Context(), tx)
		return nil
	}))
}

// A window reads each time once, of the longest step that its slots are made of, and what is not folded yet of shorter
// ones; whatever the slots, they add up to what was counted.
func TestHeat(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	pool := db.Pool()
	start := time.Now().UTC().Truncate(24*time.Hour).AddDate(0, 0, -2)
	text := "'" + start.Format(time.RFC3339) + "'"
	for _, sql := range []string{world, strings.ReplaceAll(records, "$1", text), `update sluice.rollup_mark set counted_from = ` + text,
		`update sluice.rollup_mark set minutes_until = counted_from, quarters_until = counted_from, hours_until = counted_from, days_until = counted_from`} {
		_, err := pool.Exec(t.Context(), sql)
		ok(t, err)
	}
	l := newLeader(pool)
	for l.pruned.IsZero() {
		l.span = 12 * time.Hour
		_, err := l.Round(t.Context())
		ok(t, err)
	}
	var attempts, us int64
	ok(t, pool.QueryRow(t.Context(), `
		select count(*), sum(duration_us) from sluice.attempt a, sluice.rollup_mark m
		where tenant_id = 1 and edge_id in (11, 12) and outcome not in ('parked', 'unavailable') and a.at < m.minutes_until`).Scan(&attempts, &us))
	asTenant(t, db.TenantPool(), 1, func(ctx context.Context, tx pgx.Tx) {
		m, err := MarkOf(ctx, tx)
		ok(t, err)
		for _, step := range []time.Duration{time.Minute, 5 * time.Minute, 15 * time.Minute, time.Hour, 2 * time.Hour, 12 * time.Hour, 24 * time.Hour, 72 * time.Hour} {
			w := Window{From: start, To: start.Add(72 * time.Hour), Step: step}
			slots, err := Heat(ctx, tx, 1, Topology, w, m)
			ok(t, err)
			series, err := Series(ctx, tx, 1, All, w, m)
			ok(t, err)
			var calls, inSeries, latency int64
			for _, s := range slots {
				calls += s.Calls()
				if s.Subject != "10" || s.Slot < 0 || s.Slot >= w.Slots() {
					t.Fatalf("%v: slot %+v", step, s)
				}
			}
			seen := map[int]bool{}
			for _, s := range series {
				inSeries += s.Latency.Total()
				latency += s.LatencyUS
				if seen[s.Slot] {
					t.Errorf("%v: slot %d is there twice", step, s.Slot)
				}
				seen[s.Slot] = true
			}
			if calls != attempts || inSeries != attempts || latency != us {
				t.Errorf("%v: %d calls, %d with latencies of %d us; the records say %d of %d", step, calls, inSeries, latency, attempts, us)
			}
		}
		one, err := Heat(ctx, tx, 1, Worker, Window{From: start, To: start.Add(72 * time.Hour), Step: 72 * time.Hour}, m, "w", "x")
		ok(t, err)
		if len(one) != 1 || one[0].Subject != "w" {
			t.Errorf("of one worker: %+v", one)
		}
		none, err := Heat(ctx, tx, 7, Topology, Window{From: start, To: start.Add(72 * time.Hour), Step: 72 * time.Hour}, m)
		ok(t, err)
		if len(none) != 0 {
			t.Errorf("another tenant's: %+v", none)
		}
	})
}

// Thirty days of 200 topologies are read along the index, beside the counts of their edges; how long it takes is told only, for
// that is the machine's matter.
func TestHeatAlongIndex(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	_, err := db.Pool().Exec(t.Context(), `
		insert into sluice.rollup (tenant_id, scope, step, at, subject, arrived, done, failed, latency_us, latency)
		select 1, s.scope, s.step, date_bin('1 day', now(), 'epoch') - n * s.step * interval '1 minute', subject::text, 100, 99, n % 2, 1000000, '[30:41]={1,2,3,4,5,6,7,8,9,10,11,12}'
		from (values ('edge', 60, 720), ('topology', 60, 720), ('edge', 1440, 30), ('topology', 1440, 30)) as s(scope, step, many),
		     generate_series(1, many) n, generate_series(1, 200) subject;
		insert into sluice.rollup (tenant_id, scope, step, at, subject, done)
		select 1, 'topology', 1, date_bin('1 day', now(), 'epoch') + m * interval '1 minute', n::text, 1 from generate_series(0, 14) m, generate_series(1, 200) n;
		update sluice.rollup_mark set minutes_until = date_bin('1 day', now(), 'epoch') + interval '15 minutes', quarters_until = date_bin('1 day', now(), 'epoch'),
		       hours_until = date_bin('1 day', now(), 'epoch'), days_until = date_bin('1 day', now(), 'epoch')`)
	ok(t, err)
	_, err = db.Pool().Exec(t.Context(), `analyze sluice.rollup`)
	ok(t, err)
	asTenant(t, db.TenantPool(), 1, func(ctx context.Context, tx pgx.Tx) {
		m, err := MarkOf(ctx, tx)
		ok(t, err)
		for _, step := range []time.Duration{24 * time.Hour, 12 * time.Hour} { // the latter reads 24 times as much
			w := Until(m.Now, int(30*24*time.Hour/step), step)
			best := time.Hour
			for range 5 {
				began := time.Now()
				slots, err := Heat(ctx, tx, 1, Topology, w, m)
				best = min(best, time.Since(began))
				ok(t, err)
				if len(slots) < 200*w.Slots()-200 {
					t.Fatalf("%d slots", len(slots))
				}
			}
			steps, sinces, untils := w.ranges(m)
			rows, _ := tx.Query(ctx, `explain analyze `+heatSQL, 1, string(Topology), steps, sinces, untils, w.From, w.Step.Seconds(), []string(nil))
			plan, err := pgx.CollectRows(rows, pgx.RowTo[string])
			ok(t, err)
			text := strings.Join(plan, "\n")
			t.Logf("in slots of %v: the best of five took %v\n%s", step, best, text)
			if !strings.Contains(text, "rollup_pkey") || strings.Contains(text, "Seq Scan on rollup") {
				t.Error("not read along the index")
			}
		}
	})
}
