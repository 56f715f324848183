package queue_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime/metrics"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"sluice/migrations/pgtest"
	"sluice/queue"
	"sluice/queue/topology"
	"sluice/queue/worker"
)

const mebi = 1 << 20

// heap is what a process has in its memory.
type heap struct {
	Live    uint64 // was in use when rubbish was last collected
	Objects uint64 // with the rubbish since then
}

// showHeap answers with the heap of this process.
func showHeap(w http.ResponseWriter, _ *http.Request) {
	samples := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(samples)
	_ = json.NewEncoder(w).Encode(heap{samples[0].Value.Uint64(), samples[1].Value.Uint64()})
}

// peakOf looks at a node's heap until the test is over.
func peakOf(t *testing.T, n *node) (peak func() heap) {
	t.Helper()
	var most heap
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			resp, err := http.Get(n.addr + "/heap")
			if err != nil {
				continue // it drains
			}
			var now heap
			if json.NewDecoder(resp.Body).Decode(&now) == nil {
				most.Live, most.Objects = max(most.Live, now.Live), max(most.Objects, now.Objects)
			}
			resp.Body.Close()
			select {
			case <-ctx.Done():
			case <-time.After(5 * time.Millisecond):
			}
		}
	}()
	peak = func() heap {
		cancel()
		<-done
		return most
	}
	t.Cleanup(func() { peak() })
	return peak
}

// large is a line of two nodes, of which the first makes a new body, and a topology of its own beside it.
const (
	large = `
topology: flow
nodes:
  in: {kind: start, followers: [a]}
  a: {kind: custom, worker: demo, followers: [b], retry: {attempts: 1}}
  b: {kind: custom, worker: demo, retry: {attempts: 1}}
`
	beside = `
topology: beside
nodes:
  in: {kind: start, followers: [a]}
  a: {kind: custom, worker: demo, followers: [b], retry: {attempts: 1}}
  b: {kind: custom, worker: demo, retry: {attempts: 1}}
`
)

// newEcho is a worker that answers at a with what it was sent, one time with its length and one time without, and takes
// it at b.
func newEcho(t *testing.T) (url string) {
	t.Helper()
	var calls atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || r.URL.Path == "/b" {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		if calls.Add(1)%2 == 0 {
			w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		}
		w.Write(body)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// store puts messages of that size on an edge that nobody works yet.
func (r *rig) store(n, size int) {
	r.t.Helper()
	e, err := queue.New(r.t.Context(), r.pool, queue.Config{Memory: 32 * mebi})
	ok(r.t, err)
	defer func() { ok(r.t, e.Stop(context.Background())) }()
	body := make([]byte, size)
	rand.Read(body)
	name := uuid.NewString()
	for i := range n {
		ev := queue.Event{Tenant: tenant, Topology: "flow", Node: "in", Key: fmt.Sprint(name, i), Body: body}
		until(r.t, "an event is stored", func() bool { // a busy database may be silent for too long
			_, err := e.Accept(r.t.Context(), ev)
			return err == nil
		})
	}
}

// The heap of a node is bounded, however many large messages wait, go to slow workers and come back; all of them get
// through, and small messages on other edges do not wait for them.
func TestBacklogOfLargeMessages(t *testing.T) {
	t.Parallel()
	messages, memory := bySize(24, 300), bySize(16, 64)*mebi
	const size = 5 * mebi
	db := pgtest.New(t)
	r := newRig(t, db.Pool())
	r.moveWorker(newEcho(t))
	r.publish(large)
	r.publish(beside)
	r.store(messages, size)
	n := startNode(t, db.URL, 10*time.Second, nodeMemory+"="+strconv.Itoa(memory))
	peak := peakOf(t, n)
	var slowest time.Duration
	for began := time.Now(); !one[bool](r, `select not exists (select from river.river_job where kind = 'message')`); {
		if time.Since(began) > time.Minute+time.Duration(messages)*time.Second {
			t.Fatalf("not drained:\n%s", n.log.String())
		}
		sent := time.Now()
		e := queue.Event{Topology: "beside", Body: []byte("small")}
		resp, err := http.Post(n.addr+"/"+e.Topology, "text/plain", bytes.NewReader(e.Body))
		ok(t, err)
		id, err := io.ReadAll(resp.Body)
		ok(t, err)
		resp.Body.Close()
		if resp.StatusCode != http.StatusAccepted { // the database was silent for too long
			continue
		}
		r.wait(`select finished_at is not null from sluice.process where id = $1`, string(id))
		slowest = max(slowest, time.Since(sent))
	}
	most := peak()
	r.drained()
	if n := one[int](r, `select count(*)::int from sluice.message where octet_length(body) = $1 or payload_id is not null`, size); n != 2*messages {
		t.Errorf("%d large messages in the books, want %d", n, 2*messages)
	}
	// The memory of messages and of replies, and what statements are made of.
	if bound := uint64(2*memory + 80*mebi); most.Live > bound {
		t.Errorf("%d MiB live, want at most %d", most.Live/mebi, bound/mebi)
	}
	if bound := uint64(4*memory + 160*mebi); most.Objects > bound {
		t.Errorf("%d MiB on the heap, want at most %d", most.Objects/mebi, bound/mebi)
	}
	t.Logf("peak of %d MiB live and %d MiB with rubbish for %d MiB of messages; slowest small process %v",
		most.Live/mebi, most.Objects/mebi, messages*size/mebi, slowest)
}

// With next to no memory one large message goes at a time, and all of them go.
func TestNextToNoMemory(t *testing.T) {
	t.Parallel()
	r := newRig(t, pgtest.New(t).Pool())
	r.publish(line)
	r.store(20, 100<<10)
	var calls, most atomic.Int64
	r.engine = newEngine(t, r.pool, queue.Config{Memory: 1, Caller: callerFunc(func(_ context.Context, req worker.Request) (worker.Result, error) {
		most.Store(max(most.Load(), calls.Add(1)))
		defer calls.Add(-1)
		if len(req.Body) != 100<<10 {
			return worker.Result{}, &worker.Failure{Class: worker.Rejected, Reason: fmt.Sprintf("%d bytes came", len(req.Body))}
		}
		return passOn(req), nil
	})})
	r.drained()
	if most.Load() != 1 {
		t.Errorf("%d calls at once, want 1", most.Load())
	}
	if n := one[int](r, `select count(*)::int from sluice.trash`); n > 0 {
		t.Errorf("%d messages in the trash", n)
	}
}

// Large messages go all the ways that messages go: split, paged, tried again, to several followers, put on an edge
// through River. Each call has the body that belongs to it, and all memory is free in the end.
func TestLargeMessagesGoAllWays(t *testing.T) {
	t.Parallel()
	r := newRig(t, pgtest.New(t).Pool())
	pad := strings.Repeat(" ", 100<<10)
	s := newSink(t, func(node, body string, page int) worker.Reply {
		reply := stormFlow(node, strings.TrimRight(body, " "), page)
		for i := range reply.Messages {
			reply.Messages[i].Body = append(reply.Messages[i].Body, pad...)
		}
		return reply
	})
	r.moveWorker(s.url)
	r.publish(storm)
	r.engine = newEngine(t, r.pool, queue.Config{Memory: 500 << 10})
	events := bySize(10, 300)
	var want []effect
	g, err := topology.Parse("storm.yaml", []byte(storm))
	ok(t, err)
	for i := range events {
		want = append(want, s.flow.effectsOf(g, event(i)+pad)...)
	}
	r.acceptMany(events, func(i int) string { return event(i) + pad })
	r.drained()
	s.prove(r, want)
}

// In lanes large messages keep their order, beside small ones, with retries and pages and next to no memory.
func TestLargeMessagesKeepOrder(t *testing.T) {
	t.Parallel()
	pad := strings.Repeat(" ", 100<<10)
	o := newOrderly(t, 20)
	r := newRig(t, pgtest.New(t).Pool())
	r.engine = newEngine(t, r.pool, queue.Config{Memory: 300 << 10, Caller: callerFunc(func(ctx context.Context, req worker.Request) (worker.Result, error) {
		page := req.Page
		if req.Page == 1 { // of two, of which the second is called with the large body again
			result := passOn(req)
			result.Cursor = "more"
			return result, nil
		}
		req.Body = bytes.TrimRight(req.Body, " ")
		result, err := o.Call(ctx, worker.Target{}, req)
		if page == 2 {
			result.Messages = nil
		}
		return result, err
	})})
	r.publish(`
topology: flow
nodes:
  in: {kind: start, followers: [a]}
  a: {kind: batch, worker: demo, followers: [b], order_by: customer, retry: {attempts: 30, initial: 5ms, max: 20ms}}
  b: {kind: custom, worker: demo, order_by: customer, retry: {attempts: 30, initial: 5ms, max: 20ms}}
`)
	const keys, n = 5, 10
	for i := range n {
		for k := range keys {
			body := fmt.Sprintf("k%d %d", k, i+1)
			if (i+k)%3 > 0 {
				body += " " + pad
			}
			_, err := r.engine.Accept(t.Context(), queue.Event{
				Tenant: tenant, Topology: "flow", Node: "in", Headers: map[string]string{"customer": fmt.Sprint("k", k)}, Body: []byte(body),
			})
			ok(t, err)
		}
	}
	r.drained()
	for k := range keys {
		for _, node := range []string{"a", "b"} {
			if got := o.done[fmt.Sprintf("%s k%d", node, k)]; got != n {
				t.Errorf("%s k%d: %d succeeded, want %d", node, k, got, n)
			}
		}
	}
}

// What waits for memory is not held by what it waits for: a message can be terminated, and a stop gives back what has not
// begun.
func TestStopWaitingForMemory(t *testing.T) {
	t.Parallel()
	r := newRig(t, pgtest.New(t).Pool())
	r.publish(line)
	r.store(3, 100<<10)
	called, goOn := make(chan string, 10), make(chan struct{})
	e, err := queue.New(t.Context(), r.pool, queue.Config{Memory: 1, Caller: callerFunc(func(_ context.Context, req worker.Request) (worker.Result, error) {
		called <- req.CorrelationID
		<-goOn
		return worker.Result{Reply: worker.Reply{Verdict: worker.Stop}}, nil
	})})
	ok(t, err)
	ok(t, e.Start(t.Context()))
	first := <-called
	r.wait(`select count(*) = 3 from river.river_job where state = 'running'`)

	// Of the two that wait, one is terminated: it is not called when its turn comes.
	terminated := one[uuid.UUID](r, `select id from sluice.process where id <> $1 order by id limit 1`, first)
	_, err = queue.Terminate(t.Context(), func(_ context.Context, do func(pgx.Tx) error) error { return r.begin(do) }, terminated, tenant, "test", "")
	ok(t, err)
	goOn <- struct{}{}
	second := <-called
	if second == terminated.String() {
		t.Error("a message was called for that had been terminated while it waited for memory")
	}
	// One more waits when the engine stops: it is given back at once, though the call before it goes on.
	r.store(1, 100<<10)
	r.wait(`select count(*) = 2 from river.river_job where state = 'running'`)
	stopped := make(chan error)
	go func() { stopped <- e.Stop(context.Background()) }()
	r.wait(`select count(*) = 1 from river.river_job where state = 'available'`)
	goOn <- struct{}{}
	ok(t, <-stopped)
	if _, inFlight := e.Slots(); inFlight != 0 || len(called) > 0 {
		t.Errorf("%d messages in flight and %d calls after the stop", inFlight, len(called))
	}
	r.engine = nil
	r.clean()
}

// While the database takes nothing, large events wait within the memory for them, and no longer than their producers. Once
// it takes events again, so does the engine.
func TestLargeEventsWait(t *testing.T) {
	t.Parallel()
	r := newRig(t, pgtest.New(t).Pool())
	r.publish(line)
	r.engine = newEngine(t, r.pool, queue.Config{Memory: 250 << 10, Caller: callerFunc(same)})
	body := strings.Repeat("x", 100<<10)
	r.accept("in", body)
	stalled, goOn := make(chan struct{}), make(chan struct{})
	over := make(chan error)
	go func() {
		over <- r.begin(func(tx tx) error {
			_, err := tx.Exec(context.Background(), `lock table sluice.process in share mode`)
			close(stalled)
			<-goOn
			return err
		})
	}()
	<-stalled
	send := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		_, err := r.engine.Accept(ctx, queue.Event{Tenant: tenant, Topology: "flow", Node: "in", Body: []byte(body)})
		return err
	}
	for range 2 {
		if err := send(); !errors.Is(err, queue.ErrUnavailable) {
			t.Errorf("an event that there was room for: %v", err)
		}
	}
	if err := send(); !errors.Is(err, queue.ErrOverloaded) {
		t.Errorf("an event that there was no room for: %v", err)
	}
	close(goOn)
	ok(t, <-over)
	r.accept("in", body)
	r.drained()
	if n := one[int](r, `select count(*)::int from sluice.process`); n != 4 {
		t.Errorf("%d processes, want the first, the two that waited, and the last", n)
	}
}
