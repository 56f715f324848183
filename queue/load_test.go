package queue_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sluice/queue"
	"sluice/queue/worker"
)

// counted is a topology of three nodes in a row for events that are numbers.
const counted = `
topology: flow
nodes:
  in: {kind: start, followers: [a]}
  a: {kind: custom, worker: demo, followers: [b]}
  b: {kind: custom, worker: demo, followers: [c]}
  c: {kind: custom, worker: demo}
`

// meter is the worker of numbered events: it knows when each was sent, when it came to its end, and how often each node
// was called for it.
type meter struct {
	began time.Time

	mu     sync.Mutex
	events []numbered
}

// numbered is what became of an event.
type numbered struct {
	sent, ended time.Duration // since began; 0: not
	calls       uint16        // at the last node
	end         chan struct{} // closed at the end; nil: nobody waits
}

func newMeter() *meter { return &meter{began: time.Now()} }

// add makes the next number, as sent now.
func (m *meter) add(waits bool) (n int, end chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := numbered{sent: time.Since(m.began)}
	if waits {
		e.end = make(chan struct{})
	}
	m.events = append(m.events, e)
	return len(m.events) - 1, e.end
}

func (m *meter) call(_ context.Context, q worker.Request) (worker.Result, error) {
	n, err := strconv.Atoi(string(q.Body))
	if err != nil {
		return worker.Result{}, &worker.Failure{Class: worker.Rejected, Reason: err.Error()}
	}
	if q.Node == "c" { // the last
		m.mu.Lock()
		e := &m.events[n]
		e.calls++
		if e.ended == 0 {
			e.ended = time.Since(m.began)
			if e.end != nil {
				close(e.end)
			}
		}
		m.mu.Unlock()
	}
	return passOn(q), nil
}

// now is a moment on the meter's clock.
func (m *meter) now() time.Duration { return time.Since(m.began) }

// window is what a meter saw of the events that were sent in a time.
type window struct {
	sent, ended   int
	p50, p95, p99 time.Duration
	rate          float64 // events that ended in that time, whenever they were sent, per second
}

func (w window) String() string {
	return fmt.Sprintf("%d sent, %.0f/s ended, p50 %v, p95 %v, p99 %v", w.sent, w.rate,
		w.p50.Round(100*time.Microsecond), w.p95.Round(100*time.Microsecond), w.p99.Round(100*time.Microsecond))
}

func (m *meter) between(from, to time.Duration) window {
	m.mu.Lock()
	defer m.mu.Unlock()
	var w window
	var took []time.Duration
	for _, e := range m.events {
		if e.ended >= from && e.ended < to && e.ended > 0 {
			w.rate++
		}
		if e.sent < from || e.sent >= to {
			continue
		}
		w.sent++
		if e.ended > 0 {
			w.ended++
			took = append(took, e.ended-e.sent)
		}
	}
	w.rate /= (to - from).Seconds()
	slices.Sort(took)
	if n := len(took); n > 0 {
		at := func(share float64) time.Duration { return took[min(n-1, int(math.Ceil(share*float64(n)))-1)] }
		w.p50, w.p95, w.p99 = at(0.50), at(0.95), at(0.99)
	}
	return w
}

// count is how many events were sent.
func (m *meter) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.events)
}

// open is how many events have not come to their end.
func (m *meter) open() (n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range m.events {
		if e.ended == 0 {
			n++
		}
	}
	return n
}

// settled waits until all events have come to their end, and proves that none did twice.
func (m *meter) settled(t *testing.T) {
	t.Helper()
	last, moved := -1, time.Now()
	for n := m.open(); n > 0; n = m.open() {
		if n != last {
			last, moved = n, time.Now()
		}
		if time.Since(moved) > 30*time.Second {
			t.Fatalf("stands still with %d events under way", n)
		}
		time.Sleep(5 * time.Millisecond) //nolint:forbidigo // between looks at a fact, with a deadline
	}
}

// repeated is how many calls were made at the last node beyond one for each event.
func (m *meter) repeated() (n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range m.events {
		n += max(0, int(e.calls)-1)
	}
	return n
}

// sendAt sends events at a steady rate, whatever becomes of them, until the returned function is called, which waits for
// the answers. Events that find the database in trouble are sent again with the same key.
func (m *meter) sendAt(r *rig, rate int, topology string) (stop func()) {
	ctx, cancel := context.WithCancel(r.t.Context())
	var group sync.WaitGroup
	group.Go(func() {
		ticks := time.NewTicker(10 * time.Millisecond)
		defer ticks.Stop()
		began, sent := time.Now(), 0
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticks.C:
			}
			due := int(time.Since(began).Seconds()*float64(rate)) - sent
			sent += due
			var events []queue.Event
			for range due {
				n, _ := m.add(false)
				events = append(events, numberedEvent(topology, n))
			}
			if due > 0 {
				group.Go(func() { r.acceptAll(events) })
			}
		}
	})
	return func() { cancel(); group.Wait() }
}

func numberedEvent(topology string, n int) queue.Event {
	text := strconv.Itoa(n)
	return queue.Event{Tenant: tenant, Topology: topology, Node: "in", Key: text, Body: []byte(text)}
}

// acceptAll sends events until all are accepted.
func (r *rig) acceptAll(events []queue.Event) {
	for deadline := time.Now().Add(time.Minute); len(events) > 0; {
		_, errs := r.engine.AcceptMany(context.WithoutCancel(r.t.Context()), events)
		var left []queue.Event
		for i, err := range errs {
			switch {
			case err == nil:
			case !errors.Is(err, queue.ErrUnavailable) && !errors.Is(err, queue.ErrOverloaded), time.Now().After(deadline):
				r.t.Errorf("event %s: %v", events[i].Body, err)
			default:
				left = append(left, events[i])
			}
		}
		if events = left; len(left) > 0 {
			time.Sleep(20 * time.Millisecond) //nolint:forbidigo // a producer's pause before it tries again
		}
	}
}

// cycle keeps so many events under way: each producer sends the next when its last has come to its end. stop waits for
// those under way.
func (m *meter) cycle(r *rig, producers int) (stop func()) {
	var group sync.WaitGroup
	var over atomic.Bool
	for range producers {
		group.Go(func() {
			for !over.Load() && !r.t.Failed() {
				n, end := m.add(true)
				r.acceptAll([]queue.Event{numberedEvent("flow", n)})
				select {
				case <-end:
				case <-time.After(time.Minute):
					r.t.Errorf("event %d did not come to its end within a minute", n)
				}
			}
		})
	}
	return func() { over.Store(true); group.Wait() }
}

// during lets time pass while something goes on, and returns what the meter saw of it.
func (m *meter) during(t *testing.T, d time.Duration) window {
	t.Helper()
	from := m.now()
	select {
	case <-time.After(d): // the length of a measurement, not a wait for anything
	case <-t.Context().Done():
	}
	return m.between(from, m.now())
}

// booksHold proves by SQL that the books have each event once, and at each node once.
func (r *rig) booksHold(nodes []string, events int) {
	t := r.t
	t.Helper()
	for _, node := range nodes {
		var lost, unexpected, twice int
		r.count(`
			with booked as materialized (
			    select convert_from(coalesce(m.body, p.body), 'UTF8')::int as n
			    from sluice.message m
			    join sluice.edge e on e.tenant_id = m.tenant_id and e.id = m.edge_id
			    left join sluice.message p on p.tenant_id = m.tenant_id and p.process_id = m.process_id and p.id = m.payload_id
			    where e.to_node = $1
			), wanted as materialized (select n from generate_series(0, $2::int - 1) as n)
			select (select count(*) from (select n from wanted except select n from booked) x),
			       (select count(*) from (select n from booked except select n from wanted) x),
			       (select count(*) - count(distinct n) from booked)`, []any{node, events}, &lost, &unexpected, &twice)
		if lost+unexpected+twice > 0 {
			t.Errorf("books of node %s: of %d events %d lost, %d unexpected, %d twice", node, events, lost, unexpected, twice)
		}
	}
}

// count asks a question of whole tables, which the planner knows little about.
func (r *rig) count(sql string, args []any, to ...any) {
	r.t.Helper()
	ok(r.t, r.begin(func(tx tx) error {
		if _, err := tx.Exec(r.t.Context(), `set local enable_nestloop = off; set local enable_seqscan = on; set local work_mem = '256MB'`); err != nil {
			return err
		}
		return tx.QueryRow(r.t.Context(), sql, args...).Scan(to...)
	}))
}
