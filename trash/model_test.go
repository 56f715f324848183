package trash_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"sluice/queue/process"
	"sluice/queue/worker"
	"sluice/trash"
)

const branches = `
topology: flow
nodes:
  in: {kind: start, followers: [x, y, check]}
  x: {kind: custom, worker: demo, followers: [z]}
  y: {kind: custom, worker: demo}
  z: {kind: custom, worker: demo}
  check: {kind: breakpoint, followers: [z]}
`

// modelled is an entry as the model has it.
type modelled struct {
	node  string
	body  string // that would be sent
	fails int    // how often the message has failed
	edit  bool
}

// modelledProcess is a process as the model has it: what waits, and what was settled.
type modelledProcess struct {
	entries               map[process.MessageID]*modelled
	total, done, rejected int
}

// work is what becomes of a message that comes to a node: a letter of the body says at which nodes it fails.
func (m *modelledProcess) work(node, body string) (waits bool) {
	if node != "check" && strings.Contains(body, node) {
		return true
	}
	m.done++
	if node == "x" || node == "check" {
		m.total++
		return m.work("z", body)
	}
	return false
}

func (m *modelledProcess) state() process.State {
	failed := 0
	for _, e := range m.entries {
		if e.node != "check" {
			failed++
		}
	}
	switch {
	case failed > 0:
		return process.StateFailed
	case len(m.entries) > 0:
		return process.StateParked
	case m.rejected > 0:
		return process.StateRejected
	}
	return process.StateDone
}

// Whatever people do in whatever order, right after each action the process is in the state and has the counters that a
// model has, each message that failed again is there again, and acting on what has left does nothing.
func TestActionsModel(t *testing.T) {
	t.Parallel()
	r := start(t, branches, func(q worker.Request) string {
		if strings.Contains(string(q.Body), q.Node) {
			return "the letter of " + q.Node
		}
		return ""
	})
	rapid.Check(t, func(rt *rapid.T) {
		letters := rapid.SampledFrom([]string{"", "x", "y", "z", "xy", "xz", "yz", "xyz"})
		body := "b " + letters.Draw(rt, "fails at")
		id := r.send(body)[0]
		m := &modelledProcess{entries: map[process.MessageID]*modelled{}, total: 3}
		var gone []process.MessageID
		settle := func(node, body string) (waiting string) {
			if !m.work(node, body) {
				return ""
			}
			if node == "y" || strings.Contains(body, node) && node != "check" {
				return node
			}
			return "z"
		}
		look := func() {
			t.Helper()
			var p process.Process
			r.until(func() bool {
				var err error
				p, err = process.Find(t.Context(), r.pool, tenant, id)
				r.ok(err)
				return p.Open == 0
			})
			page, err := r.List(t.Context(), tenant, trash.Filter{Process: id}, trash.Oldest, nil, 50)
			r.ok(err)
			if p.State() != m.state() || p.Total != m.total || p.Done != m.done || p.Rejected != m.rejected || p.Trashed != len(m.entries) || len(page.Entries) != len(m.entries) ||
				(p.FinishedAt != nil) != (len(m.entries) == 0) {
				rt.Fatalf("process %+v, %d entries; model %+v of %d, %s", p, len(page.Entries), m, len(m.entries), m.state())
			}
			for _, e := range page.Entries {
				d, err := r.Find(t.Context(), tenant, e.ID)
				r.ok(err)
				known := m.entries[e.ID]
				if known == nil || known.node != e.Node || known.edit != e.Edited || known.fails != d.Failures {
					rt.Fatalf("entry %+v, failed %d times; model %+v", e, d.Failures, known)
				}
			}
		}
		// come notes what comes to wait, which is found by its node: the model knows where, not under which number.
		come := func(waiting []string, body string) {
			t.Helper()
			page, err := r.List(t.Context(), tenant, trash.Filter{Process: id}, trash.Oldest, nil, 50)
			r.ok(err)
			for _, node := range waiting {
				for _, e := range page.Entries {
					if m.entries[e.ID] == nil && e.Node == node {
						fails := 1
						if node == "check" {
							fails = 0
						}
						m.entries[e.ID] = &modelled{node: node, body: body, fails: fails}
						break
					}
				}
			}
		}
		rest := func() {
			r.until(func() bool {
				p, err := process.Find(t.Context(), r.pool, tenant, id)
				r.ok(err)
				return p.Open == 0
			})
		}
		rest()
		waiting := []string{"check"}
		for _, node := range []string{"x", "y"} {
			if w := settle(node, body); w != "" {
				waiting = append(waiting, w)
			}
		}
		come(waiting, body)
		look()
		for range rapid.IntRange(1, 8).Draw(rt, "actions") {
			if len(m.entries) == 0 {
				break
			}
			page, err := r.List(t.Context(), tenant, trash.Filter{Process: id}, trash.Oldest, nil, 50)
			r.ok(err)
			entry := page.Entries[rapid.IntRange(0, len(page.Entries)-1).Draw(rt, "entry")].ID
			e := m.entries[entry]
			switch action := rapid.SampledFrom([]string{"approve", "approve", "approve", "reject", "edit", "edit", "discard", "comment", "assign", "late"}).Draw(rt, "action"); action {
			case "approve":
				sent, err := r.Approve(t.Context(), tenant, act("ann", "", entry))
				r.ok(err)
				rest()
				delete(m.entries, entry)
				as := sent[0].As
				if e.edit {
					m.total, m.done = m.total+1, m.done+1 // the old one is replaced
				}
				switch w := settle(e.node, e.body); {
				case w == e.node: // it has failed again
					fails := e.fails + 1
					if e.edit {
						fails = 1
					}
					m.entries[as] = &modelled{node: w, body: e.body, fails: fails}
				case w != "":
					come([]string{w}, e.body)
				}
				if m.entries[entry] == nil {
					gone = append(gone, entry)
				}
			case "reject":
				r.ok(r.Reject(t.Context(), tenant, act("ann", "no", entry)))
				delete(m.entries, entry)
				m.rejected++
				gone = append(gone, entry)
			case "edit":
				e.body, e.edit = "e "+letters.Draw(rt, "then fails at"), true
				r.ok(r.Edit(t.Context(), tenant, act("ann", "", entry), trash.Content{Body: []byte(e.body)}))
			case "discard":
				r.ok(r.DiscardEdit(t.Context(), tenant, act("ann", "", entry)))
				if e.edit {
					d, err := r.Find(t.Context(), tenant, entry)
					r.ok(err)
					e.body, e.edit = string(d.Body), false
				}
			case "comment":
				r.ok(r.Comment(t.Context(), tenant, act("ann", "look", entry)))
			case "assign":
				r.ok(r.Assign(t.Context(), tenant, act("ann", "", entry), fmt.Sprint("who ", len(gone))))
			case "late":
				for _, id := range gone {
					if err := r.Reject(t.Context(), tenant, act("bob", "late", id, entry)); !errors.Is(err, trash.ErrGone) {
						rt.Fatalf("acted on what has left: %v", err)
					}
				}
			}
			look()
		}
	})
	r.conserved()
}
