package queue_test

import (
	"context"
	"fmt"
	"hash/fnv"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"sluice/migrations/pgtest"
	"sluice/queue"
	"sluice/queue/topology"
	"sluice/queue/worker"
)

// A plan says what the worker of a property test does: by node and body, which is the way that a message has come.
type plan struct {
	graph topology.Graph
	seed  int64

	mu    sync.Mutex
	tries map[string]int // calls before, by node, body and page
}

// behaviour is what the worker does for one page of one message.
type behaviour struct {
	before []worker.Class // failures before it, one a call; 0: it asks to be called again
	kind   string         // done, stop, fail, stray
	sends  int            // messages
	to     string         // a follower; "": to all
	more   bool           // another page comes
}

const planAttempts = 3

// behaviour follows from the seed, so that worker and model agree.
func (p *plan) behaviour(n topology.Node, body string, page int) behaviour {
	h := fnv.New64a()
	fmt.Fprint(h, p.seed, n.Name, body, page)
	dice := h.Sum64()
	roll := func(sides uint64) int {
		v := dice % sides
		dice /= sides
		return int(v)
	}
	b := behaviour{kind: "done", sends: 1}
	classes := []worker.Class{0, worker.Transient, worker.Limited, worker.Transient, worker.Unavailable}
	if roll(3) == 0 {
		for range 1 + roll(4) {
			b.before = append(b.before, classes[roll(uint64(len(classes)))])
		}
	}
	switch roll(12) {
	case 0:
		b.kind, b.sends = "stop", 0
	case 1:
		b.kind, b.sends = "fail", 0
	case 2:
		b.kind = "stray"
	case 3, 4:
		b.sends = 2 + roll(3)
	}
	if len(n.Followers) > 0 && roll(3) == 0 {
		b.to = n.Followers[roll(uint64(len(n.Followers)))]
	}
	b.more = n.Kind == topology.Batch && b.kind == "done" && page < 4 && roll(3) > 0
	if n.Kind == topology.Batch && roll(4) == 0 && b.kind == "done" {
		b.sends = 0
	}
	return b
}

func (b behaviour) reply(n topology.Node, body string, page int) (worker.Result, error) {
	if b.kind == "fail" {
		return worker.Result{}, &worker.Failure{Class: worker.Rejected, Reason: "no"}
	}
	reply := worker.Reply{Verdict: worker.Done}
	for i := range b.sends {
		m := worker.Message{Body: fmt.Appendf(nil, "%s/%s%d.%d", body, n.Name, page, i)}
		if b.to != "" {
			m.Followers = []string{b.to}
		}
		if b.kind == "stray" {
			m.Followers = []string{"nowhere"}
		}
		reply.Messages = append(reply.Messages, m)
	}
	if b.sends == 0 && n.Kind != topology.Batch || b.kind == "stop" {
		reply.Verdict = worker.Stop
	}
	if b.more {
		reply.Cursor = fmt.Sprint(page)
	}
	return worker.Result{Reply: reply, Status: 200}, nil
}

func (p *plan) call(_ context.Context, q worker.Request) (worker.Result, error) {
	n, _ := p.graph.Node(q.Node)
	b := p.behaviour(n, string(q.Body), q.Page)
	key := fmt.Sprint(q.Node, " ", string(q.Body), " ", q.Page)
	p.mu.Lock()
	try := p.tries[key]
	p.tries[key]++
	p.mu.Unlock()
	switch {
	case try >= len(b.before):
		return b.reply(n, string(q.Body), q.Page)
	case b.before[try] == 0:
		return worker.Result{Reply: worker.Reply{Verdict: worker.Repeat, After: time.Millisecond}, Status: 200}, nil
	}
	return worker.Result{}, &worker.Failure{Class: b.before[try], Reason: "not yet"}
}

// counters are what a process, or all of a topology, comes to.
type counters struct{ total, done, trashed, attempts int }

// expect plays a message through the graph.
func (p *plan) expect(c *counters, name, body string) {
	n, _ := p.graph.Node(name)
	c.total++
	page := 0
	if n.Kind == topology.Batch {
		page = 1
	}
	for failures := 0; ; page, failures = page+1, 0 {
		b := p.behaviour(n, body, page)
		for _, class := range b.before {
			c.attempts++
			if class == worker.Transient {
				if failures++; failures == planAttempts {
					c.trashed++
					return
				}
			}
		}
		c.attempts++
		if b.kind == "fail" || b.kind == "stray" && b.sends > 0 {
			c.trashed++
			return
		}
		result, _ := b.reply(n, body, page)
		for _, m := range result.Messages {
			to := n.Followers
			if m.Followers != nil {
				to = m.Followers
			}
			for _, follower := range to {
				p.expect(c, follower, string(m.Body))
			}
		}
		if !b.more {
			c.done++
			return
		}
	}
}

// drawTopology draws a small graph in which each node leads to later ones.
func drawTopology(t *rapid.T, name string) string {
	var b strings.Builder
	nodes := rapid.IntRange(1, 5).Draw(t, "nodes")
	followers := func(i int) string {
		var to []string
		for j := i + 1; j <= nodes; j++ {
			// Each node is reached from the one before it, so that the graph is sound.
			if j == i+1 || rapid.IntRange(0, 2).Draw(t, fmt.Sprint("edge ", i, " ", j)) == 0 {
				to = append(to, fmt.Sprint("n", j))
			}
		}
		return strings.Join(to, ", ")
	}
	fmt.Fprintf(&b, "topology: %s\nnodes:\n  in: {kind: start, followers: [%s]}\n", name, followers(0))
	for i := 1; i <= nodes; i++ {
		kind := rapid.SampledFrom([]string{"custom", "custom", "batch"}).Draw(t, fmt.Sprint("kind ", i))
		fmt.Fprintf(&b, "  n%d: {kind: %s, worker: demo, followers: [%s], retry: {attempts: %d, initial: 1ms, max: 2ms}}\n", i, kind, followers(i), planAttempts)
	}
	return b.String()
}

// Whatever a topology looks like and whatever its workers do, each process ends with the counters that it should have,
// and nothing is lost, in two places or kept in use.
func TestModel(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	plans := map[string]*plan{}
	r := newRig(t, pgtest.New(t).Pool())
	r.engine = newEngine(t, r.pool, queue.Config{Slots: 20, Caller: callerFunc(func(ctx context.Context, q worker.Request) (worker.Result, error) {
		mu.Lock()
		p := plans[q.Topology]
		mu.Unlock()
		return p.call(ctx, q)
	})})
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		name := fmt.Sprint("flow", n)
		v := r.publish(drawTopology(t, name))
		p := &plan{graph: v.Graph, seed: rapid.Int64().Draw(t, "seed"), tries: map[string]int{}}
		mu.Lock()
		plans[name] = p
		mu.Unlock()
		var want counters
		events := rapid.IntRange(1, 4).Draw(t, "events")
		for i := range events {
			body := fmt.Sprint("e", i)
			_, err := r.engine.Accept(r.t.Context(), queue.Event{Tenant: tenant, Topology: name, Node: "in", Body: []byte(body)})
			ok(r.t, err)
			start, _ := v.Graph.Node("in")
			for _, follower := range start.Followers {
				p.expect(&want, follower, body)
			}
		}
		const over = `select bool_and(open = 0) from sluice.process where version_id = $1`
		for deadline := time.Now().Add(patience); !one[bool](r, over, v.ID); time.Sleep(2 * time.Millisecond) { //nolint:forbidigo // between looks at a fact
			if time.Now().After(deadline) {
				t.Fatalf("%s never ends", name)
			}
		}
		var got counters
		ok(r.t, r.pool.QueryRow(r.t.Context(), `
			select sum(total)::int, sum(done)::int, sum(trashed)::int, (select count(*)::int from sluice.attempt a join sluice.edge e on e.id = a.edge_id where e.version_id = $1)
			from sluice.process where version_id = $1`, v.ID).Scan(&got.total, &got.done, &got.trashed, &got.attempts))
		if got != want {
			t.Fatalf("counters %+v, want %+v", got, want)
		}
	})
	r.drained()
}
