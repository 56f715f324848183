package rollup

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

// DB is a pool or a transaction that sees the rows of a tenant.
type DB interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Mark is how far has been counted.
type Mark struct {
	CountedFrom   time.Time // nothing before is counted
	MinutesUntil  time.Time // everything before is
	QuartersUntil time.Time // in quarters of an hour, and so on
	HoursUntil    time.Time
	DaysUntil     time.Time
	Now           time.Time // by the database's clock
}

// MarkOf tells how far has been counted.
func MarkOf(ctx context.Context, db DB) (Mark, error) {
	rows, _ := db.Query(ctx, `
		select counted_from, minutes_until, quarters_until, hours_until, days_until, clock_timestamp() as now from sluice.rollup_mark`)
	return pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Mark])
}

// Window is a time in slots of the same length, each of whole minutes. From is the beginning of a slot.
type Window struct {
	From, To time.Time
	Step     time.Duration
}

// Until is the window of so many slots that ends with the one that a time lies in.
func Until(at time.Time, slots int, step time.Duration) Window {
	to := at.Truncate(step).Add(step)
	return Window{From: to.Add(-time.Duration(slots) * step), To: to, Step: step}
}

// Slots is how many there are.
func (w Window) Slots() int { return int(w.To.Sub(w.From) / w.Step) }

// ranges say of which steps a window is read: of the longest that its slots are made of, and of shorter ones what has not
// been folded into longer ones yet.
func (w Window) ranges(m Mark) (steps []int32, sinces, untils []time.Time) {
	at := w.From
	for i, k := range slices.Backward(Kept) {
		step := k.Step
		if w.Step%(time.Duration(step)*time.Minute) != 0 {
			continue
		}
		until := []time.Time{m.MinutesUntil, m.QuartersUntil, m.HoursUntil, m.DaysUntil}[i]
		if until.After(w.To) {
			until = w.To
		}
		if until.After(at) {
			steps, sinces, untils = append(steps, int32(step)), append(sinces, at), append(untils, until)
			at = until
		}
	}
	return steps, sinces, untils
}

// Slot is what happened to a subject in a slot of a window. Heat leaves the latencies out.
type Slot struct {
	Subject string
	Slot    int
	Counts
}

// Heat reads what happened in each slot, by subject; of all subjects, if none is named. Slots in which nothing happened are
// not there.
func Heat(ctx context.Context, db DB, tenant int64, scope Scope, w Window, m Mark, subjects ...string) ([]Slot, error) {
	steps, sinces, untils := w.ranges(m)
	rows, _ := db.Query(ctx, heatSQL, tenant, string(scope), steps, sinces, untils, w.From, w.Step.Seconds(), subjects)
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (s Slot, err error) {
		err = row.Scan(&s.Subject, &s.Slot, &s.Events, &s.Arrived, &s.Done, &s.Filtered, &s.Failed, &s.Parked, &s.Retried, &s.Repeated, &s.Unavailable, &s.Pages)
		return s, err
	})
}

// The rows of one range lie beside each other.
const rangesSQL = `
from unnest($3::int[], $4::timestamptz[], $5::timestamptz[]) as w(step, since, until)
cross join lateral (
    select * from sluice.rollup r
    where r.tenant_id = $1 and r.scope = $2 and r.step = w.step::smallint and r.at >= w.since and r.at < w.until
    and ($8::text[] is null or r.subject = any($8))
    offset 0
) r`

// Sums of floats are a third of the price of those of bigints, which are numeric, and exact far beyond what is counted.
const heatSQL = `
select r.subject, floor(date_part('epoch', r.at - $6::timestamptz) / $7::float8)::int as slot,
       sum(r.events::float8)::bigint, sum(r.arrived::float8)::bigint, sum(r.done::float8)::bigint, sum(r.filtered::float8)::bigint, sum(r.failed::float8)::bigint,
       sum(r.parked::float8)::bigint, sum(r.retried::float8)::bigint, sum(r.repeated::float8)::bigint, sum(r.unavailable::float8)::bigint, sum(r.pages::float8)::bigint` + rangesSQL + `
group by 1, 2
order by 1, 2`

// Series is Heat with latencies, which take longer to read: for few subjects, or few slots.
func Series(ctx context.Context, db DB, tenant int64, scope Scope, w Window, m Mark, subjects ...string) ([]Slot, error) {
	steps, sinces, untils := w.ranges(m)
	rows, _ := db.Query(ctx, seriesSQL, tenant, string(scope), steps, sinces, untils, w.From, w.Step.Seconds(), subjects)
	var slots []Slot
	var s Slot
	var latency pgtype.Array[int64]
	_, err := pgx.ForEachRow(rows, append([]any{&s.Subject, &s.Slot}, s.columns(&latency)...), func() error {
		s.Latency = histogramOf(latency)
		if n := len(slots); n > 0 && slots[n-1].Subject == s.Subject && slots[n-1].Slot == s.Slot {
			slots[n-1].Add(&s.Counts)
		} else {
			slots = append(slots, s)
		}
		return nil
	})
	return slots, err
}

const seriesSQL = `
select r.subject, floor(date_part('epoch', r.at - $6::timestamptz) / $7::float8)::int as slot, ` + countColumns + rangesSQL + `
order by 1, 2`
