package trash_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"sluice/queue"
	"sluice/queue/process"
	"sluice/queue/topology"
	"sluice/queue/worker"
	"sluice/trash"
)

// What an edit is about, and what another version looks for, is found from then on; what was there before stays.
func TestEntitiesOfReplacements(t *testing.T) {
	t.Parallel()
	const file = `
topology: flow
entities: {order: $.order}
nodes:
  in: {kind: start, followers: [a]}
  a: {kind: custom, worker: demo}
`
	r := start(t, file, func(q worker.Request) string {
		if strings.Contains(string(q.Body), "bad") {
			return "no"
		}
		return ""
	})
	p := r.send(`{"order":"bad-1","user":"u"}`)[0]
	e := r.entries(1)[0].ID
	abouts := func() string {
		about, err := process.Entities(t.Context(), r.pool, tenant, p)
		r.ok(err)
		return fmt.Sprint(about)
	}
	if got := abouts(); got != "[{order bad-1}]" {
		t.Errorf("about %s", got)
	}
	r.ok(r.Edit(t.Context(), tenant, act("ann", "typo", e), trash.Content{Headers: map[string]string{}, Body: []byte(`{"order":"A-2","user":"bad"}`)}))
	_, err := r.Approve(t.Context(), tenant, act("ann", "", e))
	r.ok(err)
	if got := abouts(); got != "[{order A-2} {order bad-1}]" {
		t.Errorf("after an edit: about %s", got)
	}
	second := strings.Replace(file, "{order: $.order}", "{order: $.order, user: $.user}", 1)
	g, err := topology.Parse("flow.yaml", []byte(second))
	r.ok(err)
	r.ok(pgx.BeginFunc(t.Context(), r.pool, func(tx pgx.Tx) error {
		if _, err := topology.SaveDraft(t.Context(), tx, tenant, g, second, "test"); err != nil {
			return err
		}
		_, err := queue.Publish(t.Context(), tx, tenant, "flow", "test")
		return err
	}))
	e = r.entries(1)[0].ID // it is bad still
	_, err = r.ApproveOnto(t.Context(), tenant, act("ann", "", e), 2)
	r.ok(err)
	if got := abouts(); got != "[{order A-2} {order bad-1} {user bad}]" {
		t.Errorf("onto another version: about %s", got)
	}
	r.entries(1)
	for entity, want := range map[process.Entity]int{{Kind: "order", Value: "A-2"}: 1, {Value: "bad-1"}: 1, {Kind: "user", Value: "bad"}: 1, {Kind: "order", Value: "bad"}: 0} {
		page, err := r.List(t.Context(), tenant, trash.Filter{Entity: entity}, trash.Oldest, nil, 10)
		r.ok(err)
		if len(page.Entries) != want {
			t.Errorf("%v: %d entries, want %d", entity, len(page.Entries), want)
		}
	}
	r.conserved()
	// A bulk is about what its filter finds.
	b, _, err := r.Preview(t.Context(), tenant, "ann", trash.Plan{Action: trash.Rejecting, Reason: "no", Filter: trash.Filter{Entity: process.Entity{Value: "A-2"}}})
	r.ok(err)
	none, _, err := r.Preview(t.Context(), tenant, "ann", trash.Plan{Action: trash.Rejecting, Reason: "no", Filter: trash.Filter{Entity: process.Entity{Value: "A-3"}}})
	r.ok(err)
	if !slices.Equal([]int{b.Total, none.Total}, []int{1, 0}) {
		t.Errorf("bulks of %d and %d", b.Total, none.Total)
	}
}
