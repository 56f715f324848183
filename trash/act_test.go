package trash_test

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"sluice/queue"
	"sluice/queue/process"
	"sluice/queue/topology"
	"sluice/queue/worker"
	"sluice/trash"
)

// publish makes the file the enabled version of its topology.
func (r *rig) publish(file string) {
	r.Helper()
	g, err := topology.Parse("flow.yaml", []byte(file))
	r.ok(err)
	r.ok(pgx.BeginFunc(r.Context(), r.pool, func(tx pgx.Tx) error {
		_, err1 := topology.SaveDraft(r.Context(), tx, tenant, g, file, "test")
		_, err2 := queue.Publish(r.Context(), tx, tenant, g.Name, "test")
		_, err3 := topology.Enable(r.Context(), tx, tenant, g.Name, 0, "test")
		return errors.Join(err1, err2, err3)
	}))
}

// A message that failed in one version goes on in another, at the node of the same name, as a new message with the same
// content or the edited; also where that node keeps order. Everything still adds up, and who sent it there is known.
func TestApproveOnto(t *testing.T) {
	t.Parallel()
	for name, b := range map[string]string{"any order": "", "in order": ", order_by: $.key", "one by one": ", concurrency: 1"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := start(t, flow, func(req worker.Request) string {
				if req.Node == "b" && req.Version == 1 {
					return "version 1 cannot do that"
				}
				return ""
			})
			sent := r.send(`{"key": 1}`, `{"key": 2}`)
			entries := ids(r.entries(2))
			slices.SortFunc(entries, func(a, b process.MessageID) int { return strings.Compare(a.String(), b.String()) })
			r.publish(strings.ReplaceAll(flow, "{kind: connector, worker: demo}", "{kind: connector, worker: demo"+b+", followers: [c]}") + "  c: {kind: custom, worker: demo}\n")
			r.publish("topology: flow\nnodes:\n  in: {kind: start, followers: [z]}\n  z: {kind: custom, worker: demo}\n")
			r.ok(r.Edit(t.Context(), tenant, act("ann", "", entries[1]), trash.Content{Body: []byte(`{"key": 3}`)}))
			d, err := r.Find(t.Context(), tenant, entries[0])
			r.ok(err)
			if len(d.Where.Versions) != 1 || d.Where.Versions[0] != 2 || d.Where.From != "a" || d.Where.Node.Worker != "demo" || d.Failures != 1 || d.Process.ID != sent[0] {
				t.Errorf("where %+v, %d failures", d.Where, d.Failures)
			}
			for _, version := range []int{3, 4} {
				var none *trash.TargetError
				if _, err := r.ApproveOnto(t.Context(), tenant, act("ann", "", entries...), version); !errors.As(err, &none) || !errors.Is(err, trash.ErrTarget) || len(none.Messages) != 2 {
					t.Errorf("onto version %d: %v", version, err)
				}
			}
			again, err := r.ApproveOnto(t.Context(), tenant, act("ann", "mended", entries...), 2)
			r.ok(err)
			for i, s := range again {
				if s.ID != entries[i] || s.As == s.ID {
					t.Errorf("sent %+v", s)
				}
				p := r.settles(s.ID.Process, process.StateDone)
				if p.Version != 1 || p.Total != 4 || p.Done != 4 {
					t.Errorf("process %+v", p)
				}
				old, next := r.message(s.ID), r.message(s.As)
				last := old.Decisions[len(old.Decisions)-1]
				if old.Place != process.PlaceReplaced || next.Place != process.PlaceDone || next.Version != 2 || next.Node != "b" || *next.Parent != old.ID ||
					last.Verdict != "replace" || last.By != "ann" || last.Detail["version"] != 2.0 {
					t.Errorf("replaced %+v by %+v", old, next)
				}
			}
			bodies := map[string]bool{}
			for _, c := range r.of("b")[2:] {
				bodies[string(c.Body)] = true
				if c.Version != 2 {
					t.Errorf("call %+v", c)
				}
			}
			if !bodies[`{"key": 1}`] || !bodies[`{"key": 3}`] || len(bodies) != 2 {
				t.Errorf("bodies %v", bodies)
			}
			r.conserved()
			_, err = r.pool.Exec(t.Context(), `update sluice.decision set version_id = null`)
			r.ok(err)
			if report, err := queue.Check(t.Context(), r.pool); err != nil || report.Broken != 2 || report.Violations[0].Rule != "version-differs" {
				t.Errorf("%+v, %v", report.Violations, err)
			}
		})
	}
}

// Who decides about an entry that somebody has changed meanwhile learns so, and nothing is done; also when it left and
// came again.
func TestRevisions(t *testing.T) {
	t.Parallel()
	r := start(t, flow, refuseAtB("bad"))
	r.send("1", "2")
	entries := r.entries(2)
	e := entries[0]
	seen := func(by string, revision int64) trash.Act {
		a := act(by, "", e.ID)
		a.Seen = []int64{revision}
		return a
	}
	changed := func(err error) bool {
		var c *trash.ChangedError
		return errors.As(err, &c) && errors.Is(err, trash.ErrChanged) && len(c.Messages) == 1 && c.Messages[0] == e.ID
	}
	revision := e.Revision
	for name, change := range map[string]func(a trash.Act) error{
		"edit":    func(a trash.Act) error { return r.Edit(t.Context(), tenant, a, trash.Content{Body: []byte("x")}) },
		"assign":  func(a trash.Act) error { return r.Assign(t.Context(), tenant, a, "bob") },
		"comment": func(a trash.Act) error { return r.Comment(t.Context(), tenant, a) },
	} {
		stale := revision
		r.ok(change(seen("ann", revision)))
		d, err := r.Find(t.Context(), tenant, e.ID)
		r.ok(err)
		if revision = d.Revision; revision == stale {
			t.Errorf("after %s the revision is the same", name)
		}
		for other, act := range map[string]func(a trash.Act) error{
			"approve": func(a trash.Act) error { _, err := r.Approve(t.Context(), tenant, a); return err },
			"onto":    func(a trash.Act) error { _, err := r.ApproveOnto(t.Context(), tenant, a, 1); return err },
			"reject":  func(a trash.Act) error { return r.Reject(t.Context(), tenant, a) },
			"edit":    func(a trash.Act) error { return r.Edit(t.Context(), tenant, a, trash.Content{}) },
			"discard": func(a trash.Act) error { return r.DiscardEdit(t.Context(), tenant, a) },
			"assign":  func(a trash.Act) error { return r.Assign(t.Context(), tenant, a, "") },
			"comment": func(a trash.Act) error { return r.Comment(t.Context(), tenant, a) },
		} {
			if err := act(seen("bob", stale)); !changed(err) {
				t.Errorf("%s by who has not seen %s: %v", other, name, err)
			}
		}
	}
	d, err := r.Find(t.Context(), tenant, e.ID)
	r.ok(err)
	if d.Assigned != "bob" || !d.Edited || len(d.Decisions) != 3 {
		t.Errorf("%+v", d)
	}
	page, err := r.List(t.Context(), tenant, trash.Filter{Assigned: "bob"}, trash.Oldest, nil, 10)
	r.ok(err)
	if len(page.Entries) != 1 || page.Entries[0].ID != e.ID {
		t.Errorf("bob has %+v", page)
	}
	r.ok(r.DiscardEdit(t.Context(), tenant, seen("ann", revision)))
	d, err = r.Find(t.Context(), tenant, e.ID)
	r.ok(err)
	_, err = r.Approve(t.Context(), tenant, seen("ann", d.Revision))
	r.ok(err)
	r.entries(2) // it has come again
	if _, err := r.Approve(t.Context(), tenant, seen("bob", d.Revision)); !changed(err) && !gone(err, e.ID) {
		t.Errorf("approved as it was before it came again: %v", err)
	}

	// Two who have seen the same act at once: one does it.
	e = entries[1]
	var first, second error
	var both sync.WaitGroup
	both.Go(func() { first = r.Comment(t.Context(), tenant, seen("ann", e.Revision)) })
	both.Go(func() { second = r.Reject(t.Context(), tenant, seen("bob", e.Revision)) })
	both.Wait()
	if !(first == nil && changed(second)) && !(second == nil && gone(first, e.ID)) {
		t.Errorf("%v, %v", first, second)
	}
	r.conserved()
}

// What was JSON stays JSON, unless an edit says that it is something else.
func TestEditJSON(t *testing.T) {
	t.Parallel()
	r := start(t, flow, refuseAtB("bad"))
	for _, c := range []struct {
		kind, body      string
		newKind, edited string
		refused         bool
	}{
		{"application/json", `{"a":1}`, "application/json", `{"a":`, true},
		{"application/json", `{"a":1}`, "application/json", `{"a":1e400}`, false},
		{"application/problem+json; charset=utf-8", `[]`, "application/json", ``, true},
		{"application/json", `{"a":1}`, "text/plain", `a`, false},
		{"application/json", `{"a":`, "application/json", `{"a":1`, false},
		{"text/plain", `{"a":1}`, "text/plain", `{`, false},
		{"", `{"a":1}`, "", `oops`, true},
		{"", `a`, "", `{`, false},
	} {
		headers := func(kind string) map[string]string {
			if kind == "" {
				return nil
			}
			return map[string]string{"content-type": kind}
		}
		a, err := r.engine.Accept(t.Context(), queue.Event{Tenant: tenant, Topology: "flow", Node: "in", Body: []byte(c.body), Headers: headers(c.kind)})
		r.ok(err)
		e := r.entries(1)[0]
		if err := r.Edit(t.Context(), tenant, act("ann", "", e.ID), trash.Content{Headers: headers(c.newKind), Body: []byte(c.edited)}); errors.Is(err, trash.ErrContent) != c.refused || err != nil && !c.refused {
			t.Errorf("%+v: %v", c, err)
		}
		r.ok(r.Reject(t.Context(), tenant, act("ann", "", e.ID)))
		r.settles(a.Process, process.StateRejected)
	}
}

func TestDiff(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("same\n", 20)
	for _, c := range []struct{ before, after, want, omitted string }{
		{"a", "a", "", ""},
		{"a\nb\nc\n", "a\nx\nc\n", "@@ -1,3 +1,3 @@\n a\n-b\n+x\n c\n", ""},
		{`{"n":1.10,"b":[1,2]}`, `{"n":1.1,"b":[1,2,3]}`, "@@ -1,7 +1,8 @@\n {\n-  \"n\": 1.10,\n+  \"n\": 1.1,\n   \"b\": [\n     1,\n-    2\n+    2,\n+    3\n   ]\n }\n", ""},
		{`{"a":1}`, `{ "a": 1 }`, "", "only spaces or line ends differ"},
		{"a\n" + long + "b", "x\n" + long + "y", "@@ -1,4 +1,4 @@\n-a\n+x\n same\n same\n same\n@@ -19,4 +19,4 @@\n same\n same\n same\n-b\n+y\n", ""},
		{"", "a", "@@ -1,1 +1,1 @@\n-\n+a\n", ""},
		{"\xff", "a", "", "not text"},
		{"", strings.Repeat("a", 300<<10), "", "too large"},
		{"", strings.Repeat("a\n", 3000), "", "too long"},
	} {
		d := trash.DiffOf(trash.Content{Body: []byte(c.before)}, trash.Content{Body: []byte(c.after)})
		if d.Body != c.want || d.Omitted != c.omitted {
			t.Errorf("%.40q to %.40q:\n%s(%s), want\n%s(%s)", c.before, c.after, d.Body, d.Omitted, c.want, c.omitted)
		}
	}
	d := trash.DiffOf(trash.Content{Headers: map[string]string{"a": "1", "b": "2", "c": ""}}, trash.Content{Headers: map[string]string{"a": "1", "c": "3", "d": ""}})
	if len(d.Headers) != 3 || d.Headers[0].Name != "b" || d.Headers[0].To != nil || *d.Headers[1].From != "" || *d.Headers[1].To != "3" || d.Headers[2].From != nil {
		t.Errorf("%+v", d.Headers)
	}
}
