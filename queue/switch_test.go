package queue_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"sluice/migrations/pgtest"
	"sluice/queue"
	"sluice/queue/topology"
	"sluice/queue/worker"
)

// versionsModel is what a topology's versions are, as plainly as it can be said.
type versionsModel struct {
	published []bool // by number, from 1: not retired
	enabled   int    // 0: none
}

// takes says which version an event goes to: of the given number, or 0.
func (m *versionsModel) takes(number int) (int, error) {
	switch {
	case number == 0 && m.enabled == 0:
		return 0, topology.ErrNotEnabled
	case number == 0:
		return m.enabled, nil
	case number > len(m.published):
		return 0, topology.ErrNotFound
	case !m.published[number-1]:
		return 0, topology.ErrNotEnabled
	}
	return number, nil
}

// Versions are published, enabled, rolled back, disabled and retired in any order while events come: each event goes to
// the version that is enabled, or to the one that it names, and is worked by that version to its end, whatever becomes
// of it meanwhile.
func TestVersionSwitch(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	went := map[uuid.UUID][]string{} // by process: versions and nodes that were called
	r := newRig(t, pgtest.New(t).Pool())
	r.engine = newEngine(t, r.pool, queue.Config{Caller: callerFunc(func(_ context.Context, q worker.Request) (worker.Result, error) {
		mu.Lock()
		defer mu.Unlock()
		id := uuid.MustParse(q.CorrelationID)
		went[id] = append(went[id], fmt.Sprintf("v%d %s", q.Version, q.Node))
		return passOn(q), nil
	})})
	flows := 0
	rapid.Check(t, func(t *rapid.T) {
		flows++
		name := fmt.Sprint("flow", flows)
		m, want := versionsModel{}, map[uuid.UUID]int{}
		for range rapid.IntRange(2, 12).Draw(t, "steps") {
			number := rapid.IntRange(0, len(m.published)+1).Draw(t, "version")
			known := number > 0 && number <= len(m.published)
			switch step := rapid.SampledFrom([]string{"publish", "enable", "enable", "rollback", "disable", "retire", "event", "event", "event"}).Draw(t, "step"); step {
			case "publish":
				r.publishVersion(name, len(m.published)+1)
				m.published = append(m.published, true)
			case "enable":
				if !known {
					continue
				}
				ok(r.t, r.begin(func(tx tx) error {
					_, err := topology.Enable(r.t.Context(), tx, tenant, name, number, "test")
					return err
				}))
				m.enabled, m.published[number-1] = number, true
			case "rollback":
				before := 0
				for i := range max(m.enabled-1, 0) {
					if m.published[i] {
						before = i + 1
					}
				}
				err := r.begin(func(tx tx) error { _, err := topology.Rollback(r.t.Context(), tx, tenant, name, "test"); return err })
				if (err == nil) != (before > 0) {
					t.Fatalf("rollback from v%d, before which is v%d: %v", m.enabled, before, err)
				}
				if before > 0 {
					m.enabled = before
				}
			case "disable":
				if len(m.published) == 0 {
					continue
				}
				ok(r.t, r.begin(func(tx tx) error { return topology.Disable(r.t.Context(), tx, tenant, name, "test") }))
				m.enabled = 0
			case "retire":
				if !known {
					continue
				}
				ok(r.t, r.begin(func(tx tx) error {
					_, err := queue.Delete(r.t.Context(), tx, tenant, name, number, queue.Drain, "test")
					return err
				}))
				m.published[number-1] = false
				if m.enabled == number {
					m.enabled = 0
				}
			case "event":
				if len(m.published) == 0 {
					continue
				}
				queue.ForgetConfiguration(r.engine) // as it would by itself, in less than half a second
				version, expected := m.takes(number)
				a, err := r.engine.Accept(r.t.Context(), queue.Event{Tenant: tenant, Topology: name, Node: "in", Version: number, Body: []byte("x")})
				if !errors.Is(err, expected) || a.Version != version {
					t.Fatalf("event for version %d of %+v: accepted by %d, %v; want %d, %v", number, m, a.Version, err, version, expected)
				}
				if err == nil {
					want[a.Process] = version
				}
			}
		}
		for id, version := range want {
			const finished = `select finished_at is not null from sluice.process where id = $1`
			for deadline := time.Now().Add(patience); !one[bool](r, finished, id); time.Sleep(time.Millisecond) { //nolint:forbidigo // between looks at a fact
				if time.Now().After(deadline) {
					t.Fatalf("a process of version %d never finishes", version)
				}
			}
			mu.Lock()
			got := went[id]
			mu.Unlock()
			if nodes := []string{fmt.Sprintf("v%d a%d", version, version), fmt.Sprintf("v%d b%d", version, version)}; !slices.Equal(got, nodes) {
				t.Fatalf("a process of version %d went to %q, want %q", version, got, nodes)
			}
		}
	})
}

// publishVersion publishes a version whose nodes are called after its number.
func (r *rig) publishVersion(name string, number int) {
	r.t.Helper()
	file := fmt.Sprintf(`
topology: %s
nodes:
  in: {kind: start, followers: [a%d]}
  a%[2]d: {kind: custom, worker: demo, followers: [b%[2]d]}
  b%[2]d: {kind: custom, worker: demo}
`, name, number)
	g, err := topology.Parse("test.yaml", []byte(file))
	ok(r.t, err)
	ok(r.t, r.begin(func(tx tx) error {
		if _, err := topology.SaveDraft(r.t.Context(), tx, tenant, g, file, "test"); err != nil {
			return err
		}
		v, err := queue.Publish(r.t.Context(), tx, tenant, name, "test")
		if err == nil && v.Number != number {
			err = fmt.Errorf("published as v%d, want v%d", v.Number, number)
		}
		return err
	}))
}
