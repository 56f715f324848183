package trash_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"sluice/queue/process"
	"sluice/queue/worker"
	"sluice/trash"
)

const checked = `
topology: flow
nodes:
  in: {kind: start, followers: [a]}
  a: {kind: custom, worker: demo, followers: [check]}
  check: {kind: breakpoint, title: "Order {$.id} of shop {shop}", due: 48h, followers: [b, c]}
  b: {kind: custom, worker: demo}
  c: {kind: custom, worker: demo}
`

func never(worker.Request) string { return "" }

// parked waits until n messages wait at breakpoints.
func (r *rig) parked(n int) []trash.Entry {
	r.Helper()
	var got []trash.Entry
	r.until(func() bool {
		page, err := r.List(r.Context(), tenant, trash.Filter{Type: trash.Parked}, trash.Oldest, nil, n+1)
		r.ok(err)
		got = page.Entries
		return len(got) == n
	})
	return got
}

// outcomes are those of the attempts at a message, in order.
func (r *rig) outcomes(id process.MessageID) (all []string) {
	r.Helper()
	for _, a := range r.message(id).Attempts {
		all = append(all, a.Outcome)
	}
	return all
}

// A breakpoint parks what comes, without a call and without a failure; approved, it goes on to all that follow, rejected it
// is at its end.
func TestBreakpoint(t *testing.T) {
	t.Parallel()
	r := start(t, checked, never)
	r.send(`{"id": 1}`)
	entries := r.parked(1)
	r.send(`{"id": 2}`)
	entries = append(entries, r.parked(2)[1])
	ids := []uuid.UUID{entries[0].ID.Process, entries[1].ID.Process}
	first, second := entries[0], entries[1]
	for i, e := range entries {
		p := r.settles(ids[i], process.StateParked)
		if p.Trashed != 1 || p.Open != 0 || p.FinishedAt != nil {
			t.Errorf("%+v", p)
		}
		if m := r.message(e.ID); m.Place != process.PlaceParked {
			t.Errorf("it is in %s", m.Place)
		}
	}
	if first.Reason != "Order 1 of shop 7" || first.Type() != trash.Parked || first.Class != process.ClassBreakpoint || first.Node != "check" || first.DueAt == nil ||
		first.DueAt.Sub(first.FailedAt) != 48*time.Hour || first.Cause == nil || *first.Cause != *second.Cause {
		t.Errorf("%+v", first)
	}
	d, err := r.Find(t.Context(), tenant, first.ID)
	r.ok(err)
	if d.Failures != 0 || string(d.Body) != `{"id": 1}` || d.Where.Node.Kind != "breakpoint" || !slices.Equal(d.Where.Node.Followers, []string{"b", "c"}) {
		t.Errorf("%+v", d)
	}
	if got := r.outcomes(first.ID); !slices.Equal(got, []string{"parked"}) || len(r.of("check"))+len(r.of("b")) != 0 {
		t.Errorf("attempts %v, %d calls", got, len(r.made))
	}
	r.conserved()

	_, err = r.Approve(t.Context(), tenant, act("ann", "fine", first.ID))
	r.ok(err)
	r.ok(r.Reject(t.Context(), tenant, act("ann", "too dear", second.ID)))
	if p := r.settles(ids[1], process.StateRejected); p.FinishedAt == nil {
		t.Error("a rejected message keeps its process open")
	}
	r.settles(ids[0], process.StateDone)
	for _, node := range []string{"b", "c"} {
		if calls := r.of(node); len(calls) != 1 || string(calls[0].Body) != `{"id": 1}` || calls[0].Headers["shop"] != "7" {
			t.Errorf("%s was called with %+v", node, calls)
		}
	}
	if got := r.outcomes(first.ID); !slices.Equal(got, []string{"parked", "done"}) {
		t.Errorf("attempts %v", got)
	}
	if err := r.Reject(t.Context(), tenant, act("bob", "too late", first.ID)); !errors.Is(err, trash.ErrGone) {
		t.Errorf("acting twice: %v", err)
	}
	r.conserved()
}

// What a person edits at a breakpoint goes on instead, and is not parked again; so does what goes on in another version.
func TestBreakpointEditedAndOnto(t *testing.T) {
	t.Parallel()
	r := start(t, checked, never)
	r.send(`{"id": 1}`)
	entries := r.parked(1)
	r.send(`{"id": 2}`)
	entries = append(entries, r.parked(2)[1])
	ids := []uuid.UUID{entries[0].ID.Process, entries[1].ID.Process}
	r.ok(r.Edit(t.Context(), tenant, act("ann", "", entries[0].ID), trash.Content{Body: []byte(`{"id": 10}`)}))
	_, err := r.Approve(t.Context(), tenant, act("ann", "", entries[0].ID))
	r.ok(err)
	p := r.settles(ids[0], process.StateDone)
	if calls := r.of("b"); len(calls) != 1 || string(calls[0].Body) != `{"id": 10}` || p.Total != 5 {
		t.Errorf("b was called with %+v, %+v", calls, p)
	}

	r.publish(strings.Replace(strings.Replace(checked, "followers: [b, c]", "followers: [c]", 1), "  b: {kind: custom, worker: demo}\n", "", 1))
	_, err = r.ApproveOnto(t.Context(), tenant, act("ann", "", entries[1].ID), 2)
	r.ok(err)
	r.settles(ids[1], process.StateDone)
	if len(r.of("b")) != 1 || len(r.of("c")) != 2 {
		t.Errorf("%d calls of b, %d of c", len(r.of("b")), len(r.of("c")))
	}
	r.conserved()
}

// While something is under way the process runs, and a failure weighs more than a message that waits for a person.
func TestBreakpointBesideFailure(t *testing.T) {
	t.Parallel()
	r := start(t, `
topology: flow
nodes:
  in: {kind: start, followers: [a, check]}
  a: {kind: custom, worker: demo}
  check: {kind: breakpoint}
`, func(worker.Request) string { return "no" })
	id := r.send("x")[0]
	r.entries(2)
	r.settles(id, process.StateFailed)
	failed, err := r.List(t.Context(), tenant, trash.Filter{Type: trash.Failed}, trash.Newest, nil, 10)
	r.ok(err)
	waiting := r.parked(1)
	if len(failed.Entries) != 1 || failed.Entries[0].Node != "a" || waiting[0].Reason != "waits at breakpoint check" || waiting[0].DueAt != nil {
		t.Errorf("%+v, %+v", failed.Entries, waiting)
	}
	for want, f := range map[int64]trash.Filter{2: {}, 1: {Type: trash.Failed}, 0: {Type: trash.Parked, DueBefore: time.Now()}} {
		g, err := r.Groups(t.Context(), tenant, f, 10)
		r.ok(err)
		if g.Entries != want {
			t.Errorf("%+v: %d entries, want %d", f, g.Entries, want)
		}
	}
	r.ok(r.Reject(t.Context(), tenant, act("ann", "", failed.Entries[0].ID)))
	r.settles(id, process.StateParked) // what was rejected does not wait, and the rest does
	list, err := process.List(t.Context(), r.pool, tenant, process.Filter{State: process.StateParked, Limit: 5})
	r.ok(err)
	if len(list.Processes) != 1 || list.Processes[0].ID != id {
		t.Errorf("%+v", list)
	}
	_, err = r.Approve(t.Context(), tenant, act("ann", "", waiting[0].ID)) // nothing follows
	r.ok(err)
	r.settles(id, process.StateRejected)
	r.conserved()
}

// Where a breakpoint says who may act, nobody else does, alone or in bulk; anybody may remark and say whose it is.
func TestMayAct(t *testing.T) {
	t.Parallel()
	r := start(t, strings.Replace(checked, "due: 48h", "due: 1s, may_act: [ann]", 1), never)
	r.send(`{"id": 1}`)
	entries := r.parked(1)
	r.send(`{"id": 2}`)
	entries = append(entries, r.parked(2)[1])
	ids := []uuid.UUID{entries[0].ID.Process, entries[1].ID.Process}
	both := []process.MessageID{entries[0].ID, entries[1].ID}
	var refused *trash.NotAllowedError
	for what, do := range map[string]func(trash.Act) error{
		"approve": func(a trash.Act) error { _, err := r.Approve(t.Context(), tenant, a); return err },
		"reject":  func(a trash.Act) error { return r.Reject(t.Context(), tenant, a) },
		"edit":    func(a trash.Act) error { return r.Edit(t.Context(), tenant, a, trash.Content{Body: []byte(`{}`)}) },
		"discard": func(a trash.Act) error { return r.DiscardEdit(t.Context(), tenant, a) },
	} {
		for _, by := range []string{"bob (key 3)", "bob", "ann (key 7) (key 3)", ""} {
			if err := do(act(by, "", both...)); !errors.As(err, &refused) || len(refused.Messages) != 2 || !slices.Equal(refused.MayAct, []string{"ann"}) {
				t.Errorf("%s by %s: %v", what, by, err)
			}
		}
	}
	r.ok(r.Assign(t.Context(), tenant, act("bob (key 3)", "", both...), "ann"))
	r.ok(r.Comment(t.Context(), tenant, act("bob (key 3)", "look at this", both...)))

	bulk, _, err := r.Preview(t.Context(), tenant, "bob (key 3)", trash.Plan{Action: trash.Approving, Filter: trash.Filter{Type: trash.Parked}})
	r.ok(err)
	if bulk.Total != 2 {
		t.Fatalf("%+v", bulk)
	}
	_, err = r.Take(t.Context(), tenant, "bob (key 3)", bulk.ID, trash.StartBulk)
	r.ok(err)
	r.work(r.pool)
	r.ends(bulk)
	failures, err := r.Failures(t.Context(), tenant, bulk.ID, 0, 10)
	r.ok(err)
	if len(failures) != 2 || failures[0].Error != "only ann may act on it" {
		t.Errorf("%+v", failures)
	}
	r.until(func() bool {
		overdue, err := r.List(t.Context(), tenant, trash.Filter{DueBefore: time.Now()}, trash.Oldest, nil, 10)
		r.ok(err)
		return len(overdue.Entries) == 2
	})
	_, err = r.Approve(t.Context(), tenant, act("ann (key 7)", "", both...))
	r.ok(err)
	r.settles(ids[1], process.StateDone)
	r.settles(ids[0], process.StateDone)
	r.conserved()
}
