package queue_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/google/uuid"

	"sluice/queue"
	"sluice/queue/process"
	"sluice/queue/worker"
)

// journal is what a worker was called with: node, body, and of what the message says that it is a replay.
type journal struct {
	mu    sync.Mutex
	calls []string
}

func (j *journal) call(_ context.Context, q worker.Request) (worker.Result, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.calls = append(j.calls, fmt.Sprintf("%s %s %s", q.Node, q.Body, q.Headers[queue.ReplayHeader]))
	result := passOn(q)
	result.Messages[0].SameBody, result.Messages[0].Body = false, append([]byte(q.Node+"<"), q.Body...)
	return result, nil
}

func (j *journal) take() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	calls := slices.Sorted(slices.Values(j.calls))
	j.calls = nil
	return calls
}

const twoSteps = `
topology: flow
entities: {order: [$.order]}
nodes:
  in: {kind: start, followers: [a, c]}
  a: {kind: custom, worker: demo, followers: [b]}
  b: {kind: custom, worker: demo}
  c: {kind: custom, worker: demo, concurrency: 1}
`

// A replay begins where it is told to, with what was there, and leaves alone what it repeats.
func TestReplay(t *testing.T) {
	t.Parallel()
	j := &journal{}
	r := start(t, twoSteps, j.call)
	source, err := r.engine.Accept(t.Context(), queue.Event{
		Tenant: tenant, Topology: "flow", Node: "in", Headers: map[string]string{"x": "1"}, Body: []byte(`{"order":"A"}`),
	})
	ok(t, err)
	r.drained()
	j.take()
	step := one[int64](r, `select m.id from sluice.message m join sluice.edge e on e.id = m.edge_id where e.to_node = 'b'`)
	before := one[string](r, `select p::text from sluice.process p where id = $1`, source.Process)

	replay := func(want error, of queue.Replay) queue.Accepted {
		t.Helper()
		of.By = "ann"
		got, errs := r.engine.Replay(t.Context(), tenant, []queue.Replay{of})
		if !errors.Is(errs[0], want) {
			t.Fatalf("replay %+v: got error %v, want %v", of, errs[0], want)
		}
		return got[0]
	}
	whole := replay(nil, queue.Replay{Process: source.Process, Reason: "again"})
	r.drained()
	id := source.Process.String()
	want := []string{`a {"order":"A"} ` + id, `b a<{"order":"A"} ` + id, `c {"order":"A"} ` + id}
	if got := j.take(); !slices.Equal(got, want) {
		t.Errorf("the replay of a process made the calls %q, want %q", got, want)
	}
	message := process.MessageID{Process: source.Process, Number: step}
	part := replay(nil, queue.Replay{Process: message.Process, Message: message.Number, Key: "k"})
	if again := replay(nil, queue.Replay{Process: message.Process, Message: message.Number, Key: "k"}); !again.Duplicate || again.Process != part.Process {
		t.Errorf("asked again with the same key, got %+v, want a duplicate of %v", again, part.Process)
	}
	r.drained()
	if got, want := j.take(), []string{`b a<{"order":"A"} ` + message.String()}; !slices.Equal(got, want) {
		t.Errorf("the replay of a message made the calls %q, want %q", got, want)
	}
	replay(process.ErrNotFound, queue.Replay{Process: uuid.Must(uuid.NewV7())})
	replay(process.ErrNotFound, queue.Replay{Process: source.Process, Message: 1 << 50})
	replay(queue.ErrNoTarget, queue.Replay{Process: source.Process, Version: 7})
	replay(queue.ErrNoTarget, queue.Replay{Process: source.Process, Message: step, Version: 7})

	if after := one[string](r, `select p::text from sluice.process p where id = $1`, source.Process); after != before {
		t.Errorf("the process that was repeated is %s, and was %s", after, before)
	}
	marks := one[string](r, `select string_agg(concat_ws(' ', process_id, source_process_id, source_message_id, replayed_by, reason), '; ' order by process_id) from sluice.replay`)
	if want := fmt.Sprintf("%s %s ann again; %s %s %d ann ", whole.Process, id, part.Process, id, step); marks != want {
		t.Errorf("marked as replays are %q, want %q", marks, want)
	}
}

// Onto another version, a message goes on at the node of the same name.
func TestReplayOntoVersion(t *testing.T) {
	t.Parallel()
	j := &journal{}
	r := start(t, twoSteps, j.call)
	source, err := r.engine.Accept(t.Context(), queue.Event{Tenant: tenant, Topology: "flow", Node: "in", Body: []byte(`1`)})
	ok(t, err)
	r.drained()
	r.publish(`
topology: flow
nodes:
  in: {kind: start, followers: [b]}
  b: {kind: custom, worker: demo, followers: [d]}
  d: {kind: custom, worker: demo}
`)
	j.take()
	step := func(node string) int64 {
		return one[int64](r, `select m.id from sluice.message m join sluice.edge e on e.id = m.edge_id where m.process_id = $1 and e.to_node = $2`, source.Process, node)
	}
	got, errs := r.engine.Replay(t.Context(), tenant, []queue.Replay{
		{Process: source.Process, Message: step("b"), Version: 2},
		{Process: source.Process, Message: step("a"), Version: 2},
		{Process: source.Process, Version: 2},
	})
	ok(t, errs[0])
	ok(t, errs[2])
	if !errors.Is(errs[1], queue.ErrNoTarget) || got[0].Version != 2 {
		t.Errorf("got %+v and %v, want version 2, and for the node that is gone %v", got, errs, queue.ErrNoTarget)
	}
	r.drained()
	id, b := source.Process.String(), process.MessageID{Process: source.Process, Number: step("b")}.String()
	want := []string{"b 1 " + id, "b a<1 " + b, "d b<1 " + id, "d b<a<1 " + b}
	if calls := j.take(); !slices.Equal(calls, want) {
		t.Errorf("got the calls %q, want %q", calls, want)
	}
}

// Of many with large bodies some are read at a time; each has its result all the same.
func TestReplayLarge(t *testing.T) {
	t.Parallel()
	j := &journal{}
	r := start(t, `
topology: flow
nodes:
  in: {kind: start, followers: [a]}
  a: {kind: custom, worker: demo}
`, j.call)
	var replays []queue.Replay
	for i := range 3 {
		source, err := r.engine.Accept(t.Context(), queue.Event{Tenant: tenant, Topology: "flow", Node: "in", Body: slices.Repeat([]byte{byte('a' + i)}, 5<<20)})
		ok(t, err)
		replays = append(replays, queue.Replay{Process: source.Process}, queue.Replay{Process: uuid.Must(uuid.NewV7())})
	}
	r.drained()
	j.take()
	got, errs := r.engine.Replay(t.Context(), tenant, replays)
	for i, err := range errs {
		if i%2 == 0 && (err != nil || got[i].Process == uuid.Nil) || i%2 == 1 && !errors.Is(err, process.ErrNotFound) {
			t.Errorf("replay %d: %+v, %v", i, got[i], err)
		}
	}
	r.drained()
	calls := j.take()
	for i, call := range calls {
		if want := "a " + string(slices.Repeat([]byte{byte('a' + i)}, 5<<20)) + " "; len(calls) != 3 || call[:len(want)] != want {
			t.Errorf("%d calls, number %d is %.20s… of %d bytes", len(calls), i, call, len(call))
		}
	}
}
