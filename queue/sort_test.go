package queue_test

import (
	"slices"
	"strings"
	"testing"

	"sluice/migrations/pgtest"
	"sluice/queue"
	"sluice/queue/process"
)

// Entries of the trash that were there before they had a class and a cause get both, from their reasons.
func TestSortingTheTrash(t *testing.T) {
	t.Parallel()
	r := newRig(t, pgtest.New(t).Pool())
	reasons := map[string]process.Class{
		"worker demo answered 422 Unprocessable Entity: no":            process.ClassRejected,
		"boom (after 3 attempts)":                                      process.ClassExhausted,
		"orders v3 was deleted":                                        process.ClassDeleted,
		"its job was deleted through River":                            process.ClassCancelled,
		"its job was cancelled through River":                          process.ClassCancelled,
		`worker demo gave a result that Postgres refuses: "no"`:        process.ClassStorage,
		`worker a sent a message to "b", which is no follower of node`: process.ClassReply,
	}
	for reason := range reasons {
		_, err := r.pool.Exec(t.Context(), `
			insert into sluice.trash (tenant_id, process_id, message_id, edge_id, attempt, reason)
			select 1, gen_random_uuid(), n, 1, 1, $1 from generate_series(1, 1000) n`, reason)
		ok(t, err)
	}
	newEngine(t, r.pool, queue.Config{})
	r.wait(`select not exists (select from sluice.trash where class is null)`)
	for reason, class := range reasons {
		cause := process.HashOf(process.CauseOf(reason))
		if n := one[int](r, `select count(*)::int from sluice.trash where reason = $1 and class = $2 and cause = $3`, reason, class, cause); n != 1000 {
			t.Errorf("%d entries because %q are %s", n, reason, class)
		}
	}
	plan := pgtest.Explain(t, r.pool, `select tenant_id, process_id, message_id, reason from sluice.trash where class is null order by tenant_id, process_id, message_id limit 2000`)
	if !slices.Contains(strings.Fields(plan), "trash_unsorted_idx") {
		t.Errorf("those that are not sorted are not found by their index:\n%s", plan)
	}
}
