package rollup

import (
	"strings"
	"testing"
	"time"

	"sluice/migrations/pgtest"
)

// The audit finds nothing where counts are right, and every kind of wrong one.
func TestAudit(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t).Pool()
	start := time.Now().UTC().Truncate(24*time.Hour).AddDate(0, 0, -4).Format(time.RFC3339)
	for _, sql := range []string{world, strings.ReplaceAll(records, "$1", "'"+start+"'"), `
		update sluice.rollup_mark set counted_from = '` + start + `'`, `
		update sluice.rollup_mark set minutes_until = counted_from, quarters_until = counted_from, hours_until = counted_from, days_until = counted_from`} {
		_, err := pool.Exec(t.Context(), sql)
		ok(t, err)
	}
	l := newLeader(pool)
	for l.pruned.IsZero() {
		l.span = 12 * time.Hour
		_, err := l.Round(t.Context())
		ok(t, err)
	}
	audit := func(sql string, r Records) (found []Mismatch) {
		tx, err := pool.Begin(t.Context())
		ok(t, err)
		defer tx.Rollback(t.Context()) //nolint:errcheck // it is undone by the end of the connection too
		tag, err := tx.Exec(t.Context(), sql)
		ok(t, err)
		if !strings.HasPrefix(sql, "select") && tag.RowsAffected() == 0 {
			t.Errorf("changed nothing: %s", sql)
		}
		found, err = Audit(t.Context(), tx, r)
		ok(t, err)
		return found
	}
	if found := audit(`select 1`, AllKept); len(found) > 0 {
		t.Fatalf("%d mismatches where there are none: %+v", len(found), found[0])
	}
	const one = ` where ctid = (select ctid from sluice.rollup where `
	for sql, want := range map[string]struct {
		scope Scope
		step  int
	}{
		`update sluice.rollup set done = done + 1` + one + `scope = 'edge' and step = 1 order by at desc limit 1)`:                                                                                   {Edge, 1},
		`update sluice.rollup set latency_us = latency_us + 1` + one + `scope = 'edge' and step = 1 order by at desc limit 1)`:                                                                       {Edge, 1},
		`delete from sluice.rollup` + one + `scope = 'edge' and step = 60 order by at limit 1)`:                                                                                                      {Edge, 60},
		`delete from sluice.attempt where message_id = 7`:                                                                                                                                            {Edge, 60},
		`update sluice.rollup set failed = failed + 1` + one + `scope = 'application' and step = 15 order by at desc limit 1)`:                                                                       {Application, 15},
		`delete from sluice.rollup` + one + `scope = 'topology' and step = 1 order by at desc limit 1)`:                                                                                              {Topology, 1},
		`update sluice.rollup set arrived = arrived + 1` + one + `scope = 'worker' and step = 1440 limit 1)`:                                                                                         {Worker, 1440},
		`insert into sluice.message (tenant_id, process_id, id, edge_id, headers, created_at) select 1, gen_random_uuid(), 1, 11, '{}', minutes_until - interval '1 second' from sluice.rollup_mark`: {Edge, 1},
	} {
		found := audit(sql, AllKept)
		is := false
		for _, m := range found {
			is = is || m.Scope == want.scope && m.Step == want.step
		}
		if !is {
			t.Errorf("not found: %s: %+v", sql, found)
		}
	}
	if found := audit(`delete from sluice.attempt where message_id < 100`, SomeGone); len(found) > 0 {
		t.Errorf("history that was dropped is missed: %+v", found[0])
	}
}
