package trash_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"sluice/migrations/pgtest"
	"sluice/queue"
	"sluice/queue/process"
	"sluice/queue/topology"
	"sluice/queue/worker"
	"sluice/trash"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

const tenant = 1

const flow = `
topology: flow
nodes:
  in: {kind: start, followers: [a]}
  a: {kind: custom, worker: demo, followers: [b]}
  b: {kind: connector, worker: demo}
`

const paged = `
topology: flow
nodes:
  in: {kind: start, followers: [a]}
  a: {kind: batch, worker: demo, followers: [b]}
  b: {kind: custom, worker: demo}
`

// calls is a worker that notes the calls it gets, and refuses those of which refuse says why.
type calls struct {
	mu     sync.Mutex
	made   []worker.Request
	refuse func(worker.Request) string
}

func (c *calls) Call(_ context.Context, _ worker.Target, r worker.Request) (worker.Result, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.made = append(c.made, r)
	if why := c.refuse(r); why != "" {
		return worker.Result{}, &worker.Failure{Class: worker.Rejected, Status: 422, Reason: why}
	}
	reply := worker.Reply{Verdict: worker.Done, Messages: []worker.Message{{SameBody: true, Headers: r.Headers}}}
	if r.Page > 0 && r.Page < 4 {
		reply.Cursor = fmt.Sprint("after ", r.Page)
	}
	return worker.Result{Reply: reply, Status: 200}, nil
}

// accept stops refusing.
func (c *calls) accept() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refuse = func(worker.Request) string { return "" }
}

// of lists the calls that a node got.
func (c *calls) of(node string) (made []worker.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.made {
		if r.Node == node {
			made = append(made, r)
		}
	}
	return made
}

// rig is a trash on an engine whose calls go to calls.
type rig struct {
	*testing.T
	*trash.Trash
	*calls
	pool   *pgxpool.Pool
	engine *queue.Engine
}

func start(t *testing.T, file string, refuse func(worker.Request) string) *rig {
	t.Helper()
	c := &calls{refuse: refuse}
	r := startWith(t, file, c)
	r.calls = c
	return r
}

// startWith starts an engine whose calls go elsewhere.
func startWith(t *testing.T, file string, caller queue.Caller) *rig {
	t.Helper()
	db := pgtest.New(t)
	r := &rig{T: t, pool: db.Pool()}
	g, err := topology.Parse("flow.yaml", []byte(file))
	r.ok(err)
	r.ok(pgx.BeginFunc(t.Context(), r.pool, func(tx pgx.Tx) error {
		_, _, err1 := queue.AddWorker(t.Context(), tx, tenant, "demo", "http://127.0.0.1:9", "test")
		_, err2 := topology.SaveDraft(t.Context(), tx, tenant, g, file, "test")
		_, err3 := queue.Publish(t.Context(), tx, tenant, g.Name, "test")
		_, err4 := topology.Enable(t.Context(), tx, tenant, g.Name, 0, "test")
		return errors.Join(err1, err2, err3, err4)
	}))
	r.engine, err = queue.New(t.Context(), r.pool, queue.Config{Caller: caller, Sweep: 100 * time.Millisecond})
	r.ok(err)
	r.ok(r.engine.Start(t.Context()))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := r.engine.Stop(ctx); err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	r.Trash = trash.New(db.TenantPool(), r.engine)
	return r
}

// act is what somebody does about entries.
func act(by, reason string, ids ...process.MessageID) trash.Act {
	return trash.Act{By: by, Reason: reason, Entries: ids}
}

func (r *rig) ok(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

// send posts events and returns their processes.
func (r *rig) send(bodies ...string) (ids []uuid.UUID) {
	r.Helper()
	for _, body := range bodies {
		a, err := r.engine.Accept(r.Context(), queue.Event{
			Tenant: tenant, Topology: "flow", Node: "in", Body: []byte(body), Headers: map[string]string{"content-type": "text/plain", "shop": "7"}})
		r.ok(err)
		ids = append(ids, a.Process)
	}
	return ids
}

// entries waits until there are n of them.
func (r *rig) entries(n int) []trash.Entry {
	r.Helper()
	var got []trash.Entry
	r.until(func() bool {
		page, err := r.List(r.Context(), tenant, trash.Filter{}, trash.Oldest, nil, n+1)
		r.ok(err)
		got = page.Entries
		return len(got) == n
	})
	return got
}

// settles waits until the process is in the state.
func (r *rig) settles(id uuid.UUID, want process.State) process.Process {
	r.Helper()
	var p process.Process
	r.until(func() bool {
		var err error
		p, err = process.Find(r.Context(), r.pool, tenant, id)
		r.ok(err)
		return p.State() == want
	})
	return p
}

// until waits for a fact.
func (r *rig) until(is func() bool) {
	r.Helper()
	for deadline := time.Now().Add(20 * time.Second); !is(); {
		if time.Now().After(deadline) {
			r.Fatal("never came true")
		}
		time.Sleep(5 * time.Millisecond) //nolint:forbidigo // between looks at a fact, with a deadline
	}
}

// conserved checks that no message was lost or is in two places.
func (r *rig) conserved() {
	r.Helper()
	report, err := queue.Check(r.Context(), r.pool)
	r.ok(err)
	if !report.Clean() {
		r.Errorf("%d violations: %+v", report.Broken, report.Violations)
	}
}

func (r *rig) message(id process.MessageID) process.Detail {
	r.Helper()
	d, err := process.FindMessage(r.Context(), r.pool, tenant, id)
	r.ok(err)
	return d
}

// gone tells that err names exactly these entries.
func gone(err error, ids ...process.MessageID) bool {
	var g *trash.GoneError
	return errors.As(err, &g) && errors.Is(err, trash.ErrGone) && slices.Equal(g.Messages, ids) && strings.Contains(err.Error(), ids[0].String())
}

func ids(entries []trash.Entry) (list []process.MessageID) {
	for _, e := range entries {
		list = append(list, e.ID)
	}
	return list
}

func refuseAtB(why string) func(worker.Request) string {
	return func(r worker.Request) string {
		if r.Node == "b" {
			return why
		}
		return ""
	}
}

// A message that a worker refuses waits in the trash with everything that is known of it; approved, the same message
// is sent again to the same node, and its attempts are counted on.
func TestApprove(t *testing.T) {
	t.Parallel()
	r := start(t, flow, refuseAtB("no such customer"))
	id := r.send("order 1")[0]
	e := r.entries(1)[0]
	if e.ID.Process != id || e.Topology != "flow" || e.Version != 1 || e.Node != "b" || e.Attempt != 1 || e.Size != 7 || e.Edited ||
		e.Class != process.ClassRejected || e.Cause == nil || *e.Cause != process.HashOf(process.CauseOf(e.Reason)) ||
		!strings.Contains(e.Reason, "no such customer") {
		t.Errorf("entry %+v", e)
	}
	d, err := r.Find(t.Context(), tenant, e.ID)
	r.ok(err)
	if string(d.Body) != "order 1" || d.Headers["shop"] != "7" || d.Edit != nil || len(d.Attempts) != 1 || *d.Attempts[0].Status != 422 || !reflect.DeepEqual(d.Entry, e) {
		t.Errorf("detail %+v", d)
	}
	if m := r.message(e.ID); m.Place != process.PlaceTrash {
		t.Errorf("message is %s", m.Place)
	}
	p := r.settles(id, process.StateFailed)
	if p.FinishedAt != nil || p.Trashed != 1 {
		t.Errorf("process %+v", p)
	}

	r.accept()
	sent, err := r.Approve(t.Context(), tenant, act("ann", "customer made", e.ID, e.ID))
	r.ok(err)
	if !slices.Equal(sent, []trash.Sent{{ID: e.ID, As: e.ID}}) {
		t.Errorf("sent %v", sent)
	}
	p = r.settles(id, process.StateDone)
	if p.Total != 2 || p.Done != 2 || p.FinishedAt == nil {
		t.Errorf("process %+v", p)
	}
	calls := r.of("b")
	if len(calls) != 2 || calls[1].IdempotencyKey() != calls[0].IdempotencyKey() || calls[1].Attempt != 2 || string(calls[1].Body) != "order 1" {
		t.Errorf("calls %+v", calls)
	}
	m := r.message(e.ID)
	if m.Place != process.PlaceDone || len(m.Attempts) != 2 || len(m.Decisions) != 1 || m.Decisions[0].Verdict != "approve" ||
		m.Decisions[0].By != "ann" || m.Decisions[0].Reason != "customer made" {
		t.Errorf("message %+v", m)
	}
	if _, err := r.Approve(t.Context(), tenant, act("ann", "", e.ID)); !gone(err, e.ID) {
		t.Errorf("approved twice: %v", err)
	}
	if _, err := r.Find(t.Context(), tenant, e.ID); !gone(err, e.ID) {
		t.Errorf("found after it left: %v", err)
	}
	r.conserved()
}

// Edited content goes on as a new message with a key of its own; what failed is kept as it was. The last edit counts,
// and an edit can be taken back.
func TestEdit(t *testing.T) {
	t.Parallel()
	r := start(t, flow, func(req worker.Request) string {
		if req.Node == "b" && string(req.Body) != "mended" {
			return "bad"
		}
		return ""
	})
	id := r.send("broken")[0]
	e := r.entries(1)[0]
	edit := func(by, body string) {
		t.Helper()
		r.ok(r.Edit(t.Context(), tenant, act(by, "", e.ID), trash.Content{Headers: map[string]string{"content-type": "text/plain", "by": by}, Body: []byte(body)}))
	}
	look := func() trash.Detail {
		t.Helper()
		d, err := r.Find(t.Context(), tenant, e.ID)
		r.ok(err)
		if string(d.Body) != "broken" || d.Headers["shop"] != "7" || d.Edited != (d.Edit != nil) {
			t.Errorf("the original is %+v", d)
		}
		return d
	}
	edit("ann", "still broken")
	if d := look(); string(d.Edit.Body) != "still broken" || d.Edit.By != "ann" || d.Edit.Headers["by"] != "ann" || d.Edit.At.IsZero() {
		t.Errorf("edit %+v", d.Edit)
	}
	r.ok(r.DiscardEdit(t.Context(), tenant, act("bob", "", e.ID)))
	r.ok(r.DiscardEdit(t.Context(), tenant, act("bob", "", e.ID)))
	if d := look(); d.Edit != nil {
		t.Errorf("discarded edit %+v", d.Edit)
	}
	edit("ann", "broken again")
	edit("bob", "mended")
	if d := look(); string(d.Edit.Body) != "mended" || len(d.Decisions) != 4 {
		t.Errorf("edit %+v, decisions %+v", d.Edit, d.Decisions)
	}

	sent, err := r.Approve(t.Context(), tenant, act("ann", "", e.ID))
	r.ok(err)
	p := r.settles(id, process.StateDone)
	if p.Total != 3 || p.Done != 3 {
		t.Errorf("process %+v", p)
	}
	calls := r.of("b")
	if len(sent) != 1 || sent[0].As == e.ID || len(calls) != 2 || calls[1].IdempotencyKey() != sent[0].As.String() || calls[1].Attempt != 1 ||
		string(calls[1].Body) != "mended" || !maps.Equal(calls[1].Headers, map[string]string{"content-type": "text/plain", "by": "bob"}) {
		t.Errorf("sent %v, calls %+v", sent, calls)
	}
	old, next := r.message(e.ID), r.message(sent[0].As)
	if old.Place != process.PlaceReplaced || *old.ReplacedBy != next.ID || next.Place != process.PlaceDone || *next.Parent != old.ID || next.Node != "b" {
		t.Errorf("replaced %+v by %+v", old, next)
	}
	body, err := process.Body(t.Context(), r.pool, tenant, e.ID)
	r.ok(err)
	if string(body) != "broken" {
		t.Errorf("the original has become %q", body)
	}
	content := trash.Content{Body: []byte("late")}
	if err := r.Edit(t.Context(), tenant, act("ann", "", e.ID), content); !gone(err, e.ID) {
		t.Errorf("edited after it left: %v", err)
	}
	if err := r.DiscardEdit(t.Context(), tenant, act("ann", "", e.ID)); !gone(err, e.ID) {
		t.Errorf("discarded after it left: %v", err)
	}
	content.Headers = map[string]string{"bad name": ""}
	if err := r.Edit(t.Context(), tenant, act("ann", "", e.ID), content); !errors.Is(err, trash.ErrContent) {
		t.Errorf("edited to what no worker can be sent: %v", err)
	}
	r.conserved()
}

// Rejected messages are settled: their processes finish, and who gave them up and why is kept. If one of several has
// left the trash, nothing is done, and it is named.
func TestReject(t *testing.T) {
	t.Parallel()
	r := start(t, flow, refuseAtB("bad"))
	sent := r.send("1", "2", "3")
	entries := r.entries(3)
	first, rest := entries[0].ID, ids(entries[1:])
	r.ok(r.Reject(t.Context(), tenant, act("ann", "a test order", first)))
	if p := r.settles(first.Process, process.StateRejected); p.Rejected != 1 || p.Done != 1 || p.Total != 2 || p.FinishedAt == nil {
		t.Errorf("process %+v", p)
	}
	m := r.message(first)
	if m.Place != process.PlaceRejected || m.Decisions[0].Verdict != "reject" || m.Decisions[0].By != "ann" || m.Decisions[0].Reason != "a test order" {
		t.Errorf("message %+v", m)
	}
	none := process.MessageID{Process: sent[0], Number: 1 << 50}
	if err := r.Reject(t.Context(), tenant, act("ann", "", append(rest, first, none)...)); !errors.Is(err, trash.ErrGone) ||
		strings.Contains(err.Error(), rest[0].String()) || !strings.Contains(err.Error(), first.String()) || !strings.Contains(err.Error(), none.String()) {
		t.Errorf("rejected one that has left: %v", err)
	}
	if _, err := r.Approve(t.Context(), tenant, act("ann", "", append(rest, first)...)); !gone(err, first) {
		t.Errorf("approved one that has left: %v", err)
	}
	r.entries(2)
	r.ok(r.Reject(t.Context(), tenant, act("ann", "", rest...)))
	r.entries(0)
	for _, id := range sent {
		r.settles(id, process.StateRejected)
	}
	r.ok(r.Reject(t.Context(), tenant, act("ann", "")))
	r.conserved()
}

// Another tenant's entries are not there.
func TestWall(t *testing.T) {
	t.Parallel()
	r := start(t, flow, refuseAtB("bad"))
	r.send("1")
	e := r.entries(1)[0]
	const other = 2
	if got, err := r.List(t.Context(), other, trash.Filter{}, trash.Oldest, nil, 10); err != nil || len(got.Entries) > 0 {
		t.Errorf("listed %v, %v", got, err)
	}
	for name, act := range map[string]func() error{
		"find":    func() error { _, err := r.Find(t.Context(), other, e.ID); return err },
		"approve": func() error { _, err := r.Approve(t.Context(), other, act("eve", "", e.ID)); return err },
		"reject":  func() error { return r.Reject(t.Context(), other, act("eve", "", e.ID)) },
		"edit":    func() error { return r.Edit(t.Context(), other, act("eve", "", e.ID), trash.Content{}) },
		"discard": func() error { return r.DiscardEdit(t.Context(), other, act("eve", "", e.ID)) },
	} {
		if err := act(); !gone(err, e.ID) {
			t.Errorf("%s: %v", name, err)
		}
	}
	r.entries(1)
	r.conserved()
}

// An approved batch message goes on with the page at which it failed; an edited one begins anew.
func TestApproveBatch(t *testing.T) {
	t.Parallel()
	r := start(t, paged, func(req worker.Request) string {
		if req.Page == 3 {
			return "page 3 is bad"
		}
		return ""
	})
	sent := r.send("old", "new")
	entries := r.entries(2)
	for _, e := range entries {
		if e.ID.Process == sent[1] {
			r.ok(r.Edit(t.Context(), tenant, act("ann", "", e.ID), trash.Content{Body: []byte("newer")}))
		}
	}
	r.accept()
	_, err := r.Approve(t.Context(), tenant, act("ann", "", ids(entries)...))
	r.ok(err)
	for _, id := range sent {
		r.settles(id, process.StateDone)
	}
	pages := map[string][]string{}
	for _, c := range r.of("a") {
		pages[string(c.Body)] = append(pages[string(c.Body)], fmt.Sprintf("%d %s", c.Page, c.Cursor))
	}
	head := []string{"1 ", "2 after 1", "3 after 2"}
	if !slices.Equal(pages["old"], append(head[:3:3], "3 after 2", "4 after 3")) || !slices.Equal(pages["new"], head) ||
		!slices.Equal(pages["newer"], append(head[:3:3], "4 after 3")) {
		t.Errorf("pages %v", pages)
	}
	if n := len(r.of("b")); n != 4+2+4 {
		t.Errorf("%d messages came out, want 10", n)
	}
	r.conserved()
}

// Two operators decide about the same entries at once, each in an order of their own: exactly one of them does it, the
// other learns that they have left.
func TestTwoOperators(t *testing.T) {
	t.Parallel()
	var deciding sync.Mutex // while it is held, nothing that was approved fails again
	r := start(t, flow, func(req worker.Request) string {
		if req.Node != "b" {
			return ""
		}
		deciding.Lock()
		defer deciding.Unlock()
		return "bad"
	})
	approved := 0
	for range 20 {
		sent := r.send("1", "2", "3", "4", "5", "6")
		entries := ids(r.entries(6))
		backwards := slices.Clone(entries)
		slices.Reverse(backwards)
		var first, second error
		deciding.Lock()
		var both sync.WaitGroup
		both.Go(func() { _, first = r.Approve(t.Context(), tenant, act("ann", "", entries...)) })
		both.Go(func() { second = r.Reject(t.Context(), tenant, act("bob", "", backwards...)) })
		both.Wait()
		deciding.Unlock()
		switch {
		case first == nil && errors.Is(second, trash.ErrGone): // and then they fail again
			approved++
			r.ok(r.Reject(t.Context(), tenant, act("bob", "", ids(r.entries(6))...)))
		case second == nil && errors.Is(first, trash.ErrGone):
		default:
			t.Fatalf("approve: %v, reject: %v", first, second)
		}
		for _, id := range sent {
			r.settles(id, process.StateRejected)
		}
	}
	t.Logf("%d of 20 were approved first", approved)
	r.conserved()
}
