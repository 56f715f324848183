package queue_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"sluice/queue"
	"sluice/queue/topology"
	"sluice/queue/worker"
)

// entityKey is a row of a process's keys.
type entityKey struct {
	process     uuid.UUID
	kind, value string
}

// proveEntityKeys reads all messages and proves that the keys of each process are exactly those that its messages have
// by what their version declares, and that the message that is named as the first has it.
func (r *rig) proveEntityKeys() {
	r.t.Helper()
	type at struct {
		entityKey
		message int64
	}
	want, by := map[entityKey]bool{}, map[at]bool{}
	graphs := map[int64]topology.Graph{}
	var edge int64
	var graph []byte
	rows, err := r.pool.Query(r.t.Context(), `
		select e.id, v.graph from sluice.edge e join sluice.topology_version v on v.id = e.version_id where v.graph ? 'entities'`)
	ok(r.t, err)
	_, err = pgx.ForEachRow(rows, []any{&edge, &graph}, func() error {
		var g topology.Graph
		err := json.Unmarshal(graph, &g)
		graphs[edge] = g
		return err
	})
	ok(r.t, err)
	if len(graphs) > 0 {
		rows, err = r.pool.Query(r.t.Context(), `
			select m.process_id, m.id, m.edge_id, m.headers, coalesce(m.body, p.body) from sluice.message m
			left join sluice.message p on p.process_id = m.process_id and p.id = m.payload_id`)
		ok(r.t, err)
		var id uuid.UUID
		var message int64
		var headers map[string]string
		var body []byte
		_, err = pgx.ForEachRow(rows, []any{&id, &message, &edge, &headers, &body}, func() error {
			for _, k := range graphs[edge].EntityKeys(headers, body) {
				key := entityKey{id, k.Kind, k.Value}
				want[key], by[at{key, message}] = true, true
			}
			headers = nil
			return nil
		})
		ok(r.t, err)
	}
	rows, err = r.pool.Query(r.t.Context(), `select process_id, kind, value, message_id from sluice.entity_key`)
	ok(r.t, err)
	var got at
	_, err = pgx.ForEachRow(rows, []any{&got.process, &got.kind, &got.value, &got.message}, func() error {
		if !by[got] {
			r.t.Errorf("process %s has the key %s:%s, said to be of message %d", got.process, got.kind, got.value, got.message)
		}
		delete(want, got.entityKey)
		return nil
	})
	ok(r.t, err)
	for key := range want {
		r.t.Errorf("process %s lacks the key %s:%s", key.process, key.kind, key.value)
	}
}

// aboutOrders splits and changes what messages are about; its node last keeps order.
const aboutOrders = `
topology: flow
entities:
  order: [$.order.id, X-Order]
  user: $.user
  line: $.lines[-1].sku
nodes:
  in: {kind: start, followers: [same, turn]}
  same: {kind: custom, worker: demo, followers: [last]}
  turn: {kind: custom, worker: demo, followers: [pages, last]}
  pages: {kind: batch, worker: demo, followers: [last]}
  last: {kind: custom, worker: demo, order_by: $.user}
`

// Whatever messages hold and whatever nodes make of them, a process has the keys of all its messages, each once; what an
// event that came twice would have is not there, nor what the hand-off did not take.
func TestEntityKeys(t *testing.T) {
	t.Parallel()
	r := start(t, aboutOrders, func(_ context.Context, q worker.Request) (worker.Result, error) {
		switch q.Node {
		case "turn":
			return worker.Result{Reply: worker.Send(worker.Message{Headers: map[string]string{"x-order": "t" + q.Headers["x-order"]}, SameBody: true}), Status: 200}, nil
		case "pages":
			reply := worker.Send(
				worker.Message{Body: fmt.Appendf(nil, `{"order":{"id":%d},"user":"p"}`, q.Page)},
				worker.Message{Body: fmt.Appendf(nil, `{"order":{"id":%d},"user":"p"}`, q.Page)})
			if q.Page < 3 {
				reply.Cursor = fmt.Sprint(q.Page)
			}
			return worker.Result{Reply: reply, Status: 200}, nil
		case "last":
			if strings.Contains(string(q.Body), `"lines":[]`) {
				return worker.Result{}, &worker.Failure{Class: worker.Rejected, Reason: "no lines"}
			}
		}
		return passOn(q), nil
	})
	value := rapid.OneOf(rapid.StringN(0, 6, -1).AsAny(), rapid.Int64().AsAny(), rapid.SampledFrom([]any{
		nil, true, []any{1}, map[string]any{}, "a\x00b", strings.Repeat("long", 60), json.RawMessage("123456789012345678901234567890.10"),
	}))
	sends := 0
	rapid.Check(t, func(t *rapid.T) {
		if sends++; sends > bySize(40, 1000) {
			return
		}
		body, err := json.Marshal(map[string]any{"order": map[string]any{"id": value.Draw(t, "id")}, "user": value.Draw(t, "user"), "lines": rapid.SampledFrom([]any{
			nil, []any{}, []any{map[string]any{"sku": "a"}, map[string]any{"sku": value.Draw(t, "sku")}},
		}).Draw(t, "lines")})
		ok(r.t, err)
		ev := queue.Event{Tenant: tenant, Topology: "flow", Node: "in", Key: fmt.Sprint(sends), Body: body}
		if order := rapid.SampledFrom([]string{"", "A-1", "B 2"}).Draw(t, "header"); order != "" {
			ev.Headers = map[string]string{"x-order": order}
		}
		first, err := r.engine.Accept(r.t.Context(), ev)
		ok(r.t, err)
		again, err := r.engine.Accept(r.t.Context(), ev)
		ok(r.t, err)
		if !again.Duplicate || again.Process != first.Process {
			t.Fatalf("%+v, then %+v", first, again)
		}
		ev.Body = []byte(`{"order":{"id":"never"}}`)
		if _, err := r.engine.Accept(r.t.Context(), ev); !errors.Is(err, queue.ErrKeyReused) {
			t.Fatal(err)
		}
	})
	r.drained()
	if n := one[int](r, `select count(*)::int from sluice.entity_key where value = 'never'`); n != 0 {
		t.Errorf("%d keys of events that were not taken", n)
	}
	if n := one[int](r, `select count(distinct kind)::int from sluice.entity_key`); n != 3 {
		t.Errorf("keys of %d kinds", n)
	}
	if n := one[int](r, `select count(*)::int from sluice.trash`); n == 0 {
		t.Error("nothing failed")
	}
}
