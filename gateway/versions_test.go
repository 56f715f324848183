package gateway_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"sluice/gateway"
	"sluice/gateway/auth"
	"sluice/migrations/pgtest"
	"sluice/queue"
	"sluice/queue/worker"
	"sluice/trash"
)

// cluster is nodes of Sluice on one database and a worker service, all of them real servers. A test talks to it as
// anyone does: by HTTP, with a key.
type cluster struct {
	t       *testing.T
	pool    *pgxpool.Pool // of the check alone
	nodes   []string      // where each answers
	key     string
	client  *http.Client
	service string // where the worker answers
	handler atomic.Pointer[http.Handler]
}

// newCluster starts nodes, and a worker that is registered later: see work.
func newCluster(t *testing.T, nodes int) *cluster {
	t.Helper()
	db := pgtest.New(t)
	c := &cluster{t: t, pool: openPool(t, queue.Open, db.URL, 4), client: &http.Client{
		Transport: &http.Transport{MaxIdleConnsPerHost: 100}, Timeout: time.Minute,
	}}
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { (*c.handler.Load()).ServeHTTP(w, r) }))
	t.Cleanup(service.Close) // after the nodes, which are stopped first
	c.service = service.URL
	_, key, err := auth.CreateKey(t.Context(), c.pool, 1, "test", auth.Scopes{auth.Admin}, "test")
	must(t, err)
	c.key = key
	for range nodes {
		c.addNode(db.URL)
	}
	t.Cleanup(c.client.CloseIdleConnections)
	return c
}

func openPool(t *testing.T, open func(context.Context, string, int) (*pgxpool.Pool, error), url string, size int) *pgxpool.Pool {
	t.Helper()
	pool, err := open(t.Context(), url, size)
	must(t, err)
	t.Cleanup(pool.Close)
	return pool
}

// addNode starts what `sluice serve` starts: an engine that runs messages, and the door before it.
func (c *cluster) addNode(database string) {
	t := c.t
	t.Helper()
	pool, tenants := openPool(t, queue.Open, database, 12), openPool(t, queue.OpenForTenants, database, 4)
	log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	caller := worker.NewClient(worker.Config{})
	t.Cleanup(caller.Close)
	engine, err := queue.New(t.Context(), pool, queue.Config{Name: fmt.Sprintf("node %d", len(c.nodes)), Logger: log, Caller: caller})
	must(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := engine.Stop(ctx); err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	must(t, engine.Start(t.Context()))
	door := httptest.NewServer(gateway.New(gateway.Config{
		Engine: engine, TenantPool: tenants, Keys: auth.New(pool), Sessions: auth.NewSessions(tenants), Trash: trash.New(tenants, engine), Logger: log,
	}))
	t.Cleanup(door.Close)
	c.nodes = append(c.nodes, door.URL)
}

// work registers the worker under a name and gives it its function, wrapped in what stands before it.
func (c *cluster) work(name string, f worker.Func, before func(http.Handler) http.Handler) {
	c.t.Helper()
	var registered struct{ Secret string }
	c.want(http.StatusCreated, "POST", "/v1/workers", map[string]string{"name": name, "url": c.service}, &registered)
	secret, err := worker.ParseSecret(registered.Secret)
	must(c.t, err)
	var h http.Handler = worker.Handler{Func: f, Secrets: []worker.Secret{secret}}
	if before != nil {
		h = before(h)
	}
	c.handler.Store(&h)
}

// enable applies and publishes a topology file, and enables what came of it.
func (c *cluster) enable(name, file string) {
	c.t.Helper()
	c.apply(name, file)
	c.want(http.StatusOK, "POST", "/v1/topologies/"+name+"/enable", struct{}{}, nil)
}

func (c *cluster) apply(name, file string) {
	c.t.Helper()
	c.want(http.StatusOK, "PUT", "/v1/topologies/"+name+"/draft", []byte(file), nil)
	c.want(http.StatusCreated, "POST", "/v1/topologies/"+name+"/publish", nil, nil)
}

// want calls the first node and expects a status. The body is sent as it is if it is bytes, else as JSON; the answer is
// read into what is given.
func (c *cluster) want(status int, method, path string, body, into any) {
	c.t.Helper()
	header := http.Header{}
	var sent []byte
	switch b := body.(type) {
	case nil:
	case []byte:
		sent = b
		header.Set("Content-Type", "application/yaml")
	default:
		var err error
		sent, err = json.Marshal(b)
		must(c.t, err)
		header.Set("Content-Type", "application/json")
	}
	got, answer, err := c.call(0, method, path, header, sent)
	must(c.t, err)
	if got != status {
		c.t.Fatalf("%s %s: status %d, want %d: %s", method, path, got, status, answer)
	}
	if into != nil {
		must(c.t, json.Unmarshal(answer, into))
	}
}

// call makes one request of a node.
func (c *cluster) call(node int, method, path string, header http.Header, body []byte) (int, []byte, error) {
	r, err := http.NewRequestWithContext(c.t.Context(), method, c.nodes[node]+path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	r.Header = header
	r.Header.Set("Authorization", "Bearer "+c.key)
	resp, err := c.client.Do(r)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	return resp.StatusCode, answer, err
}

// acceptedEvent is the promise that a node gave.
type acceptedEvent struct {
	CorrelationID string `json:"correlation_id"`
	Duplicate     bool
	Version       int
}

// post sends an event to a node and expects that promise.
func (c *cluster) post(node int, path string, header http.Header, body []byte) (acceptedEvent, error) {
	var a acceptedEvent
	status, answer, err := c.call(node, "POST", path, header, body)
	switch {
	case err != nil:
		return a, err
	case status != http.StatusAccepted:
		return a, fmt.Errorf("POST %s: status %d: %s", path, status, answer)
	}
	return a, json.Unmarshal(answer, &a)
}

// processItem is a process in a list.
type processItem struct {
	CorrelationID string `json:"correlation_id"`
	Version       int
	State         string
}

// trashItem is an entry of the trash in a list.
type trashItem struct {
	MessageID string `json:"message_id"`
	Node      string
	Reason    string
}

// list reads all pages of a list.
func list[T any](c *cluster, path string) []T {
	c.t.Helper()
	var items []T
	for after := ""; ; {
		var page struct {
			Items []T
			Next  string
		}
		c.want(http.StatusOK, "GET", path+"&limit=500"+after, nil, &page)
		items = append(items, page.Items...)
		if page.Next == "" {
			return items
		}
		after = "&after=" + page.Next
	}
}

// heldBy is how many messages a version holds, by place.
type heldBy struct{ Waiting, Running, Retrying, Trashed int }

// version is what the API says of a version of orders.
type version struct {
	State string
	Held  heldBy
}

func (c *cluster) version(number int) version {
	c.t.Helper()
	var v version
	c.want(http.StatusOK, "GET", fmt.Sprintf("/v1/topologies/orders/versions/%d", number), nil, &v)
	return v
}

// until waits for a fact.
func (c *cluster) until(what string, within time.Duration, is func() bool) {
	c.t.Helper()
	for deadline := time.Now().Add(within); !is(); {
		if time.Now().After(deadline) {
			c.t.Fatalf("not within %s: %s", within, what)
		}
		time.Sleep(50 * time.Millisecond) //nolint:forbidigo // between looks at a fact, with a deadline
	}
}

// allDone waits until every process has finished, and returns them.
func (c *cluster) allDone(topology string, within time.Duration) []processItem {
	c.t.Helper()
	c.until("no process runs", within, func() bool {
		var running struct{ Items []processItem }
		c.want(http.StatusOK, "GET", "/v1/processes?state=running&limit=1&topology="+topology, nil, &running)
		return len(running.Items) == 0
	})
	for _, e := range list[trashItem](c, "/v1/trash?topology="+topology) {
		c.t.Errorf("in the trash, of node %s: %s", e.Node, e.Reason)
	}
	processes := list[processItem](c, "/v1/processes?topology="+topology)
	for _, p := range processes {
		if p.State != "done" {
			c.t.Errorf("process %s is %s", p.CorrelationID, p.State)
		}
	}
	return processes
}

// clean runs the check.
func (c *cluster) clean() queue.Report {
	c.t.Helper()
	report, err := queue.Check(c.t.Context(), c.pool)
	must(c.t, err)
	for _, v := range report.Violations {
		c.t.Errorf("check: %s %s: %s", v.Rule, v.ID, v.Detail)
	}
	return report
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Two versions that have no node in common but the one where events come in. An action says to the worker which version
// it belongs to, so that the worker need not believe what Sluice says.
const (
	ordersV1 = `
topology: orders
nodes:
  inbox: {kind: start, followers: [check]}
  check: {kind: custom, worker: shop, action: v1/check, followers: [price]}
  price: {kind: custom, worker: shop, action: v1/price, timeout: 2m, followers: [store]}
  store: {kind: connector, worker: shop, action: v1/store}
`
	ordersV2 = `
topology: orders
nodes:
  inbox: {kind: start, followers: [verify]}
  verify: {kind: custom, worker: shop, action: v2/verify, followers: [tax, audit]}
  tax: {kind: custom, worker: shop, action: v2/tax, followers: [ship]}
  audit: {kind: connector, worker: shop, action: v2/audit}
  ship: {kind: connector, worker: shop, action: v2/ship}
`
)

// waysOf has, by version, what each action is called with. The worker adds the action's name to what passes it.
var waysOf = map[int][]string{
	1: {"v1/check: %s", "v1/price: %s v1/check", "v1/store: %s v1/check v1/price"},
	2: {"v2/audit: %s v2/verify", "v2/ship: %s v2/verify v2/tax", "v2/tax: %s v2/verify", "v2/verify: %s"},
}

// ledger is what a worker saw, by process.
type ledger struct {
	mu    sync.Mutex
	calls map[string]map[string]string // by correlation id, then by idempotency key
	gate  chan struct{}                // what is held waits for it
}

// work stamps what comes with the action's name. An event that says hold is held at v1/price.
func (l *ledger) work(ctx context.Context, r *worker.Request) (worker.Reply, error) {
	if v, _, _ := strings.Cut(r.Action, "/"); v != fmt.Sprintf("v%d", r.Version) {
		return worker.Reply{}, &worker.Failure{Class: worker.Rejected, Reason: fmt.Sprintf("action %s was called for version %d", r.Action, r.Version)}
	}
	if r.Action == "v1/price" && bytes.HasPrefix(r.Body, []byte("hold")) {
		select {
		case <-l.gate:
		case <-ctx.Done():
			return worker.Reply{}, ctx.Err()
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.calls[r.CorrelationID] == nil {
		l.calls[r.CorrelationID] = map[string]string{}
	}
	l.calls[r.CorrelationID][r.IdempotencyKey()] = fmt.Sprintf("%s: %s", r.Action, r.Body)
	return worker.Send(worker.Message{Body: fmt.Appendf(nil, "%s %s", r.Body, r.Action)}), nil
}

// sentEvent is an event that was posted, and what came back.
type sentEvent struct {
	node     int
	body     string
	at, back time.Time
	accepted acceptedEvent
	err      error
}

// producers post events to all nodes in turn until they are stopped.
type producers struct {
	mu   sync.Mutex
	sent []sentEvent
	stop func()
}

const (
	ordersPath  = "/v1/topologies/orders/nodes/inbox/events"
	connections = 16
)

// produce posts as many events a second as there are connections times 40, or as many as the machine can.
func produce(c *cluster, most int) *producers {
	p, numbers, stopped := &producers{}, make(chan int), make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		defer close(numbers)
		pace := time.NewTicker(time.Second / (40 * connections))
		defer pace.Stop()
		for n := range most {
			select {
			case <-stopped:
				return
			case <-pace.C:
			}
			select {
			case <-stopped:
				return
			case numbers <- n:
			}
		}
	})
	for range connections {
		running.Go(func() {
			for n := range numbers {
				p.post(c, n%len(c.nodes), fmt.Sprintf("order-%d", n))
			}
		})
	}
	p.stop = sync.OnceFunc(func() { close(stopped); running.Wait() })
	c.t.Cleanup(p.stop)
	return p
}

func (p *producers) post(c *cluster, node int, body string) {
	s := sentEvent{node: node, body: body, at: time.Now()}
	s.accepted, s.err = c.post(node, ordersPath, http.Header{"Content-Type": {"text/plain"}}, []byte(body))
	s.back = time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sent = append(p.sent, s)
}

// count is how many events a node promised to work by a version, of those sent after a time.
func (p *producers) count(node, version int, after time.Time) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, s := range p.sent {
		if s.err == nil && s.node == node && s.accepted.Version == version && s.at.After(after) {
			n++
		}
	}
	return n
}

// change is a moment at which another version was enabled: the call began, and returned.
type change struct {
	from, to      int
	began, enable time.Time
}

// lag is how long after the change a node still promised the former version to an event that was sent later, and when
// the first promise of the new one was back. An event that was under way during the next change may go either way.
func (p *producers) lag(node int, c change, next time.Time) (last, first time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	first = -1
	for _, s := range p.sent {
		switch {
		case s.err != nil || s.node != node || s.at.Before(c.began) || s.back.After(next):
		case s.accepted.Version == c.from:
			last = max(last, s.at.Sub(c.enable))
		case s.accepted.Version == c.to && (first < 0 || s.back.Sub(c.enable) < first):
			first = s.back.Sub(c.enable)
		}
	}
	return last, first
}

// While events pour in at two nodes, a second version is published and enabled, and later rolled back: every event is
// accepted and runs on one version from beginning to end, what the first version held finishes on it, and soon after
// the change each node follows it.
func TestVersionsUnderLoad(t *testing.T) {
	t.Parallel()
	begin := time.Now()
	c := newCluster(t, 2)
	l := &ledger{calls: map[string]map[string]string{}, gate: make(chan struct{})}
	c.work("shop", l.work, nil)
	c.enable("orders", ordersV1)

	const (
		most  = 20_000 // the machine would have to be very slow
		phase = 350    // events of each node
		held  = 20
	)
	p := produce(c, most)
	for n := range held {
		p.post(c, n%len(c.nodes), fmt.Sprintf("hold-%d", n))
	}
	until := func(version int, after time.Time) {
		t.Helper()
		for node := range c.nodes {
			c.until(fmt.Sprintf("node %d works events by version %d", node, version), time.Minute, func() bool {
				return p.count(node, version, after) >= phase
			})
		}
	}
	until(1, time.Time{})

	up := change{from: 1, to: 2, began: time.Now()}
	c.enable("orders", ordersV2)
	up.enable = time.Now()
	until(2, up.enable)
	c.until("the first version has nothing but what is held", 30*time.Second, func() bool { return c.version(1).Held == heldBy{Running: held} })
	close(l.gate)

	down := change{from: 2, to: 1, began: time.Now()}
	c.want(http.StatusOK, "POST", "/v1/topologies/orders/rollback", nil, nil)
	down.enable = time.Now()
	until(1, down.enable)
	p.stop()

	for _, ch := range []struct {
		change
		next time.Time
	}{{up, down.began}, {down, time.Now()}} {
		for node := range c.nodes {
			last, first := p.lag(node, ch.change, ch.next)
			t.Logf("v%d to v%d, node %d: the last event for v%d was sent %s after the change, the first promise of v%d was back %s after it",
				ch.from, ch.to, node, ch.from, last.Round(time.Millisecond), ch.to, first.Round(time.Millisecond))
			if last > 3*time.Second { // a second is promised; the machine may be busy
				t.Errorf("node %d took events for v%d %s after v%d was enabled", node, ch.from, last, ch.to)
			}
		}
	}
	processes := c.allDone("orders", time.Minute)
	c.verifyOrders(p.sent, processes, l)
	for v := range waysOf {
		if h := c.version(v).Held; h != (heldBy{}) {
			t.Errorf("v%d still holds %+v", v, h)
		}
	}
	report := c.clean()
	t.Logf("%d events, %d messages, %.1f s", len(p.sent), report.Places.Total, time.Since(begin).Seconds())
}

// verifyOrders holds what was promised against what the processes say and what the worker saw.
func (c *cluster) verifyOrders(sent []sentEvent, processes []processItem, l *ledger) {
	t := c.t
	t.Helper()
	versions := map[string]int{}
	for _, p := range processes {
		versions[p.CorrelationID] = p.Version
	}
	if len(sent) != len(versions) {
		t.Errorf("%d events were sent, there are %d processes", len(sent), len(versions))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range sent {
		id := s.accepted.CorrelationID
		switch {
		case s.err != nil:
			t.Errorf("%s: %v", s.body, s.err)
			continue
		case s.accepted.Version != versions[id]:
			t.Errorf("%s was promised to version %d, its process says version %d", s.body, s.accepted.Version, versions[id])
		}
		var saw, want []string
		for _, call := range l.calls[id] {
			saw = append(saw, call)
		}
		for _, way := range waysOf[versions[id]] {
			want = append(want, fmt.Sprintf(way, s.body))
		}
		slices.Sort(saw)
		if !slices.Equal(saw, want) {
			t.Errorf("%s of version %d: the worker saw %q, want %q", s.body, versions[id], saw, want)
		}
	}
}

// A version that holds messages goes only when it is said what becomes of them.
func TestDeleteVersionThatHolds(t *testing.T) {
	t.Parallel()
	const events = 10
	const held = `{"held":{"waiting":9,"running":1,"held":0,"retrying":0,"trashed":0}}`
	setup := func(t *testing.T) (*cluster, *ledger) {
		t.Helper()
		t.Parallel()
		c := newCluster(t, 1)
		l := &ledger{calls: map[string]map[string]string{}, gate: make(chan struct{})}
		c.work("shop", l.work, nil)
		c.enable("orders", `
topology: orders
nodes:
  inbox: {kind: start, followers: [price]}
  price: {kind: custom, worker: shop, action: v1/price, timeout: 2m, concurrency: 1, followers: [store]}
  store: {kind: connector, worker: shop, action: v1/store}
`)
		for n := range events {
			_, err := c.post(0, ordersPath, http.Header{}, fmt.Appendf(nil, "hold-%d", n))
			must(t, err)
		}
		c.until("one is worked, the others wait", 20*time.Second, func() bool {
			return c.version(1).Held == heldBy{Waiting: events - 1, Running: 1}
		})
		c.enable("orders", ordersV2)
		for _, path := range []string{"/v1/topologies/orders/versions/1", "/v1/topologies/orders"} {
			var problem struct {
				Code     string
				Messages int
			}
			c.want(http.StatusConflict, "DELETE", path, nil, &problem)
			if problem.Code != "holds-messages" || problem.Messages != events {
				t.Errorf("DELETE %s: %+v, want holds-messages with %d messages", path, problem, events)
			}
		}
		if s := c.version(1).State; s != "published" {
			t.Errorf("after the refusals the version is %s", s)
		}
		return c, l
	}
	remove := func(t *testing.T, c *cluster, messages string) {
		t.Helper()
		var deleted json.RawMessage
		c.want(http.StatusOK, "DELETE", "/v1/topologies/orders/versions/1?messages="+messages, nil, &deleted)
		var compact bytes.Buffer
		must(t, json.Compact(&compact, deleted))
		if compact.String() != held {
			t.Errorf("deleted %s, want %s", &compact, held)
		}
		if s := c.version(1).State; s != "retired" {
			t.Errorf("after it was deleted the version is %s", s)
		}
	}
	// The node may not have heard of it for a moment; what it takes until then finishes like the rest.
	refuses := func(t *testing.T, c *cluster) {
		t.Helper()
		c.until("no more events are taken for the version", 5*time.Second, func() bool {
			status, _, err := c.call(0, "POST", "/v1/topologies/orders/versions/1/nodes/inbox/events", http.Header{}, []byte("late"))
			must(t, err)
			return status == http.StatusConflict
		})
		c.allDone("orders", 20*time.Second)
		c.clean()
	}

	t.Run("drain", func(t *testing.T) {
		c, l := setup(t)
		remove(t, c, "drain")
		close(l.gate)
		for _, p := range c.allDone("orders", 20*time.Second) {
			if p.Version != 1 {
				t.Errorf("process %s ran on version %d", p.CorrelationID, p.Version)
			}
		}
		refuses(t, c)
	})
	t.Run("trash", func(t *testing.T) {
		c, l := setup(t)
		remove(t, c, "trash")
		entries := list[trashItem](c, "/v1/trash?topology=orders")
		if len(entries) != events-1 {
			t.Fatalf("%d messages are in the trash, want the %d that waited", len(entries), events-1)
		}
		var ids []string
		for _, e := range entries {
			ids = append(ids, e.MessageID)
			if e.Node != "price" || !strings.Contains(e.Reason, "deleted") {
				t.Errorf("in the trash: %+v, want it at price, because its version was deleted", e)
			}
		}
		close(l.gate)
		c.until("the one that was worked has finished", 20*time.Second, func() bool { return c.version(1).Held == heldBy{Trashed: events - 1} })
		c.clean()

		// What a person sends again goes on where it failed, on the version where it started.
		c.want(http.StatusOK, "POST", "/v1/trash/approve", map[string]any{"message_ids": ids, "reason": "still wanted"}, nil)
		for _, p := range c.allDone("orders", 20*time.Second) {
			if p.Version != 1 {
				t.Errorf("process %s ran on version %d", p.CorrelationID, p.Version)
			}
		}
		if len(l.calls) != events {
			t.Errorf("the worker saw %d processes, want %d", len(l.calls), events)
		}
		refuses(t, c)
	})
}
