package queue_test

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"sluice/queue/topology"
	"sluice/queue/worker"
)

// A flow is what the worker of a test does: it depends on node, body and page alone, so that a test can tell what must
// come of an event. Bodies say the way that a message has come, so no two messages of a node have the same.
type flow func(node, body string, page int) worker.Reply

// effect is something that a worker does for one call. Each must happen once.
type effect struct {
	node, body string
	page       int // 0 but for batch nodes
}

// effectsOf is what must come of an event with that body at node in.
func (f flow) effectsOf(g topology.Graph, body string) []effect {
	var all []effect
	var visit func(name, body string)
	visit = func(name, body string) {
		n, _ := g.Node(name)
		page := 0
		if n.Kind == topology.Batch {
			page = 1
		}
		for more := true; more; page++ {
			all = append(all, effect{name, body, page})
			reply := f(name, body, page)
			for _, m := range reply.Messages {
				to, next := n.Followers, body
				if m.Followers != nil {
					to = m.Followers
				}
				if !m.SameBody {
					next = string(m.Body)
				}
				for _, follower := range to {
					visit(follower, next)
				}
			}
			more = reply.Cursor != ""
		}
	}
	start, _ := g.Node("in")
	for _, follower := range start.Followers {
		visit(follower, body)
	}
	return all
}

// sink is a worker behind HTTP, in this process, that does what a flow says once for each idempotency key, as a good
// worker does, and remembers all calls. It is slow enough to have calls under way at any time, and fails some at first.
type sink struct {
	flow flow
	url  string

	mu       sync.Mutex
	effects  map[string]effect // by idempotency key
	failed   map[string]bool   // keys that were failed once
	calls    int
	repeated int // calls for an effect that had been made before
	wrong    []string
}

func newSink(t *testing.T, f flow) *sink {
	t.Helper()
	s := &sink{flow: f, effects: map[string]effect{}, failed: map[string]bool{}}
	server := httptest.NewServer(worker.Handler{Func: s.work})
	s.url = server.URL
	t.Cleanup(server.Close)
	return s
}

func (s *sink) work(ctx context.Context, r *worker.Request) (worker.Reply, error) {
	key, e := r.IdempotencyKey(), effect{r.Node, string(r.Body), r.Page}
	s.mu.Lock()
	s.calls++
	before, known := s.effects[key]
	switch {
	case known && before != e:
		s.wrong = append(s.wrong, fmt.Sprintf("key %s was used for %v and for %v", key, before, e))
	case known:
		s.repeated++
	case len(s.failed) < s.calls/20 && !s.failed[key]:
		s.failed[key] = true
		s.mu.Unlock()
		return worker.Reply{}, &worker.Failure{Class: worker.Transient, Reason: "not this time"}
	default:
		s.effects[key] = e
	}
	n := s.calls
	s.mu.Unlock()
	select { // a call takes a while, and the effect is made before the answer is lost
	case <-time.After(time.Duration(n%10) * time.Millisecond):
	case <-ctx.Done():
	}
	return s.flow(r.Node, string(r.Body), r.Page), nil
}

// call is the sink as the worker of an engine in this process, without HTTP.
func (s *sink) call(ctx context.Context, r worker.Request) (worker.Result, error) {
	ctx, cancel := context.WithDeadline(ctx, r.Deadline)
	defer cancel()
	reply, err := s.work(ctx, &r)
	return worker.Result{Reply: reply, Status: http.StatusOK}, err
}

// count is how many effects there are.
func (s *sink) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.effects)
}

// prove proves that each effect was made, and under one key; and that the books have each message once, done once.
func (s *sink) prove(r *rig, want []effect) {
	t := r.t
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.wrong {
		t.Error(w)
	}
	made := map[effect]int{}
	for _, e := range s.effects {
		made[e]++
	}
	compare(t, "worker's effects", made, want)

	booked := map[effect]int{}
	rows, err := r.pool.Query(t.Context(), `
		select e.to_node, convert_from(coalesce(m.body, p.body), 'UTF8'), a.page
		from sluice.message m
		join sluice.edge e on e.id = m.edge_id
		left join sluice.message p on p.process_id = m.process_id and p.id = m.payload_id
		left join sluice.attempt a on a.process_id = m.process_id and a.message_id = m.id and a.outcome in ('done', 'filtered', 'page')`)
	ok(t, err)
	defer rows.Close()
	for rows.Next() {
		var e effect
		var page *int
		ok(t, rows.Scan(&e.node, &e.body, &page))
		if page == nil {
			t.Errorf("message at %s with %q was never settled", e.node, e.body)
			continue
		}
		e.page = *page
		booked[e]++
	}
	ok(t, rows.Err())
	compare(t, "books", booked, want)
	t.Logf("%d effects by %d calls: %d failed on purpose, %d repeated (%.2f %%)", len(s.effects), s.calls, len(s.failed),
		s.repeated, 100*float64(s.repeated)/float64(max(s.calls, 1)))
}

func compare(t *testing.T, where string, got map[effect]int, want []effect) {
	t.Helper()
	lost, twice := 0, 0
	for _, e := range want {
		switch n := got[e]; {
		case n == 0:
			if lost++; lost < 10 {
				t.Errorf("%s: lost %+v", where, e)
			}
		case n > 1:
			if twice++; twice < 10 {
				t.Errorf("%s: %d times %+v", where, n, e)
			}
		}
		delete(got, e)
	}
	for i, e := range slices.Collect(maps.Keys(got)) {
		if i < 10 {
			t.Errorf("%s: unexpected %+v", where, e)
		}
	}
	if lost+twice+len(got) > 0 {
		t.Errorf("%s: of %d effects %d lost, %d twice, %d unexpected", where, len(want), lost, twice, len(got))
	}
}

// storm has all that a topology can have: ways that part and meet, splitting, filtering, a batch, keys of entities.
const storm = `
topology: flow
entities: {event: event-id, part: [step, nothing]}
nodes:
  in: {kind: start, followers: [a]}
  a: {kind: custom, worker: demo, followers: [b, c], retry: {initial: 50ms}}
  b: {kind: custom, worker: demo, followers: [d], retry: {initial: 50ms}}
  c: {kind: custom, worker: demo, followers: [d, p], retry: {initial: 50ms}}
  d: {kind: connector, worker: demo, retry: {initial: 50ms}}
  p: {kind: batch, worker: demo, followers: [z], retry: {initial: 50ms}}
  z: {kind: connector, worker: demo, retry: {initial: 50ms}}
`

// stormFlow makes eight effects of an event, on average: b splits, c stops every other event, p has three pages of which
// the second is empty.
func stormFlow(node, body string, page int) worker.Reply {
	send := func(texts ...string) worker.Reply {
		var messages []worker.Message
		for _, text := range texts {
			id, _, _ := strings.Cut(body, "|")
			messages = append(messages, worker.Message{Headers: map[string]string{"event-id": id, "step": text}, Body: []byte(body + "|" + text)})
		}
		return worker.Send(messages...)
	}
	switch {
	case node == "b":
		return send("b1", "b2")
	case node == "c" && strings.ContainsAny(body[strings.Index(body, "|")-1:][:1], "13579"):
		return worker.Reply{Verdict: worker.Stop, Reason: "not wanted"}
	case node == "p":
		reply := send(fmt.Sprint("p", page))
		if page == 2 {
			reply.Messages = nil
		}
		if page < 3 {
			reply.Cursor = fmt.Sprint("after ", page)
		}
		return reply
	case node == "d", node == "z":
		return worker.Reply{Verdict: worker.Stop}
	}
	return send(node)
}

// stormEffects is what must come of the first n events of a storm.
func stormEffects(t *testing.T, n int) []effect {
	t.Helper()
	g, err := topology.Parse("storm.yaml", []byte(storm))
	ok(t, err)
	var all []effect
	for i := range n {
		all = append(all, flow(stormFlow).effectsOf(g, event(i))...)
	}
	return all
}

// event is the body of an event of a storm.
func event(i int) string { return fmt.Sprint("event ", i) }
