package queue_test

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sluice/migrations/localpg"
	"sluice/migrations/pgtest"
	"sluice/queue"
)

// Environment of a node: the test program that runs an engine instead of tests, to be killed.
const (
	nodeEnv      = "SLUICE_TEST_NODE" // database
	nodeNameEnv  = "SLUICE_TEST_NODE_NAME"
	nodeLeaseEnv = "SLUICE_TEST_NODE_LEASE"
	nodeMemory   = "SLUICE_TEST_NODE_MEMORY" // bytes
	nodePooled   = "SLUICE_TEST_NODE_POOLED" // anything: there is a pooler before the database
)

// runNode serves events and runs messages until its standard input ends, as it does when the parent dies.
func runNode() int {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := serveNode(log); err != nil {
		log.Error("Node failed", "err", err)
		return 1
	}
	return 0
}

func serveNode(log *slog.Logger) error {
	ctx := context.Background()
	lease, err := time.ParseDuration(os.Getenv(nodeLeaseEnv))
	if err != nil {
		return err
	}
	memory, _ := strconv.ParseInt(os.Getenv(nodeMemory), 10, 64) // none: the default
	open, pooled := queue.Open, os.Getenv(nodePooled) != ""
	if pooled {
		open = queue.OpenPooled
	}
	pool, err := open(ctx, os.Getenv(nodeEnv), 12)
	if err != nil {
		return err
	}
	engine, err := queue.New(ctx, pool, queue.Config{
		Logger: log, Name: os.Getenv(nodeNameEnv), Lease: lease, Memory: memory, Pooled: pooled,
	})
	if err != nil {
		return err
	}
	if err := engine.Start(ctx); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /", func(w http.ResponseWriter, r *http.Request) { acceptEvent(engine, w, r) })
	mux.HandleFunc("GET /heap", showHeap)
	server := &http.Server{Handler: mux}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	fmt.Println("http://" + listener.Addr().String())
	io.Copy(io.Discard, os.Stdin)
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err = errors.Join(server.Shutdown(ctx), engine.Stop(ctx))
	if end := <-served; !errors.Is(end, http.ErrServerClosed) {
		err = errors.Join(err, end)
	}
	pool.Close()
	return err
}

func acceptEvent(engine *queue.Engine, w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	a, err := engine.Accept(r.Context(), queue.Event{
		Tenant: tenant, Topology: cmp.Or(strings.Trim(r.URL.Path, "/"), "flow"), Node: "in", Key: r.Header.Get("Idempotency-Key"), Body: body,
	})
	switch {
	case errors.Is(err, queue.ErrUnavailable), errors.Is(err, queue.ErrOverloaded):
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
	case err != nil:
		http.Error(w, err.Error(), http.StatusBadRequest)
	default:
		w.WriteHeader(http.StatusAccepted)
		io.WriteString(w, a.Process.String())
	}
}

// node is a process with an engine.
type node struct {
	t      *testing.T
	name   string
	addr   string
	cmd    *exec.Cmd
	stdin  io.Closer
	log    lockedBuffer
	waited chan struct{}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

var nodes atomic.Int64

// startNode starts a process with an engine, with more variables in its environment.
func startNode(t *testing.T, database string, lease time.Duration, env ...string) *node {
	t.Helper()
	n := &node{t: t, name: fmt.Sprint("node-", nodes.Add(1)), waited: make(chan struct{})}
	program, err := os.Executable()
	ok(t, err)
	n.cmd = exec.Command(program)
	n.cmd.Env = append(os.Environ(), nodeEnv+"="+database, nodeNameEnv+"="+n.name, nodeLeaseEnv+"="+lease.String())
	n.cmd.Env = append(n.cmd.Env, env...)
	n.cmd.Stderr = &n.log
	n.stdin, err = n.cmd.StdinPipe()
	ok(t, err)
	out, err := n.cmd.StdoutPipe()
	ok(t, err)
	ok(t, n.cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	go func() { n.cmd.Wait(); close(n.waited) }()
	t.Cleanup(func() {
		if log := n.log.String(); t.Failed() {
			t.Logf("%s says at last:\n%s", n.name, log[max(0, len(log)-20_000):])
		}
	})
	t.Cleanup(n.stop)
	if err != nil {
		t.Fatalf("%s did not start: %v\n%s", n.name, err, n.log.String())
	}
	n.addr = strings.TrimSpace(line)
	return n
}

// kill ends the process at once.
func (n *node) kill() {
	ok(n.t, n.cmd.Process.Kill())
	<-n.waited
	n.judge()
}

// stop drains the process. It may have been killed before.
func (n *node) stop() {
	n.stdin.Close()
	select {
	case <-n.waited:
	case <-time.After(2 * patience):
		n.t.Errorf("%s does not end", n.name)
		n.kill()
		return
	}
	if s := n.cmd.ProcessState; s.Exited() && s.ExitCode() != 0 {
		n.t.Errorf("%s: %s", n.name, s)
	}
	n.judge()
}

// judge looks for what must not be in the log.
func (n *node) judge() {
	log := n.log.String()
	for _, bad := range []string{"DATA RACE", "panic:", "fatal error:", "Message cannot be settled"} {
		if strings.Contains(log, bad) {
			n.t.Errorf("%s: %s\n%s", n.name, bad, log)
		}
	}
}

// producers send the events of a storm, each with a key, again and again until one of the gateways has said that it is
// stored. The promise for a key must always be the same.
type producers struct {
	t        *testing.T
	gateways atomic.Pointer[[]string]
	next     atomic.Int64
	most     atomic.Int64
	sent     atomic.Int64
	done     chan struct{}
	stop     context.CancelFunc
}

// end lets producers begin no more events, and returns how many were sent when all of these are stored.
func (p *producers) end() int {
	p.most.Store(p.next.Load())
	<-p.done
	return int(p.most.Load())
}

func produce(t *testing.T, n int, gateways ...string) *producers {
	t.Helper()
	return produceEvery(t, 0, n, gateways...)
}

// produceEvery lets at least so much time pass between events.
func produceEvery(t *testing.T, every time.Duration, n int, gateways ...string) *producers {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	p := &producers{t: t, done: make(chan struct{}), stop: cancel}
	p.gateways.Store(&gateways)
	p.most.Store(int64(n))
	var group sync.WaitGroup
	began := time.Now()
	client := &http.Client{Timeout: 15 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 16}}
	for range 8 {
		group.Go(func() {
			for i := p.next.Add(1) - 1; i < p.most.Load() && ctx.Err() == nil; i = p.next.Add(1) - 1 {
				time.Sleep(time.Until(began.Add(time.Duration(i) * every))) //nolint:forbidigo // the pace of the load
				p.send(ctx, client, int(i))
			}
		})
	}
	go func() { group.Wait(); client.CloseIdleConnections(); close(p.done) }()
	t.Cleanup(func() { cancel(); <-p.done })
	return p
}

func (p *producers) send(ctx context.Context, client *http.Client, i int) {
	promise, asked := "", 0
	for try := 0; ctx.Err() == nil; try++ {
		gateways := *p.gateways.Load()
		to := gateways[(i+try)%len(gateways)]
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, to, strings.NewReader(event(i)))
		if err != nil {
			p.t.Error(err)
			return
		}
		req.Header.Set("Idempotency-Key", fmt.Sprint("key ", i))
		resp, err := client.Do(req)
		if err == nil && resp.StatusCode == http.StatusAccepted {
			said, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err == nil && promise != "" && promise != string(said) {
				p.t.Errorf("event %d: promised %s, then %s", i, promise, said)
			}
			if err == nil {
				promise, asked = string(said), asked+1
			}
			if asked > 1 || err == nil && i%5 != 0 { // some ask twice, to be sure
				p.sent.Add(1)
				return
			}
			continue
		}
		if err == nil {
			said, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if resp.StatusCode != http.StatusServiceUnavailable {
				p.t.Errorf("event %d: %s: %s", i, resp.Status, said)
				return
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// progress waits until that share of the effects has been made.
func progress(t *testing.T, s *sink, share float64, of int) {
	t.Helper()
	progressIn(t, s, share, of, 30*time.Second)
}

// progressIn is progress that may stand still for that long.
func progressIn(t *testing.T, s *sink, share float64, of int, still time.Duration) {
	t.Helper()
	want, last, moved := int(share*float64(of)), -1, time.Now()
	for {
		n := s.count()
		if n >= want {
			return
		}
		if n != last {
			last, moved = n, time.Now()
		}
		if time.Since(moved) > still {
			t.Fatalf("stands still at %d of %d effects", n, of)
		}
		time.Sleep(5 * time.Millisecond) //nolint:forbidigo // between looks at a fact, with a deadline
	}
}

// resumeWithin is how soon the work of a dead runner must go on.
const resumeWithin = 15 * time.Second

// Nodes are killed while events flow: one of two, or both at once. Nothing is lost and nothing has an effect twice; the
// work of the dead goes on within seconds.
func TestKill(t *testing.T) {
	events, kills := bySize(3000, 20_000), bySize(6, 30)
	db := pgtest.New(t)
	r := newRig(t, db.Pool())
	s := newSink(t, stormFlow)
	r.moveWorker(s.url)
	r.publish(storm)
	want := stormEffects(t, events)

	lease := func(kill int) time.Duration {
		if kill == 1 {
			return 10 * time.Second // as it is by default
		}
		return 2 * time.Second
	}
	running := []*node{startNode(t, db.URL, lease(0)), startNode(t, db.URL, lease(0))}
	p := produce(t, events, running[0].addr, running[1].addr)
	var took []time.Duration
	for k := range kills {
		progress(t, s, float64(k+1)/float64(kills+2), len(want))
		dead := []string{running[k%2].name}
		running[k%2].kill()
		if k%3 == 2 {
			dead = append(dead, running[1-k%2].name)
			running[1-k%2].kill()
			running[1-k%2] = startNode(t, db.URL, lease(k+1))
		}
		killed, before := time.Now(), s.count()
		running[k%2] = startNode(t, db.URL, lease(k+1))
		p.gateways.Store(&[]string{running[0].addr, running[1].addr})
		held := r.takenOver(dead, killed)
		until(t, "effects after a kill", func() bool { return s.count() > before })
		if held > 0 {
			took = append(took, time.Since(killed))
		}
		t.Logf("kill %d of %v: %d claims taken over after %v", k+1, dead, held, time.Since(killed).Round(10*time.Millisecond))
	}
	<-p.done
	progress(t, s, 1, len(want))
	r.drained()
	s.prove(r, want)
	if len(took) == 0 {
		t.Error("no kill hit a claim")
	}
}

// A runner is killed after a time that nobody chose, again and again, while events flow steadily; another is started at
// once. Nothing is lost, nothing has an effect twice, and what the dead had under way goes on soon.
func TestKillAtRandom(t *testing.T) {
	t.Parallel()
	kills, rate := bySize(3, 200), 62 // events a second: of eight messages each, on average
	db := pgtest.New(t)
	pool, err := queue.Open(t.Context(), db.URL, 12)
	ok(t, err)
	t.Cleanup(pool.Close)
	r := newRig(t, pool)
	s := newSink(t, stormFlow)
	r.moveWorker(s.url)
	r.publish(storm)
	gateway, err := queue.New(t.Context(), pool, queue.Config{}) // it is not killed here
	ok(t, err)
	t.Cleanup(func() { ok(t, gateway.Stop(context.Background())) })
	const lease = 2 * time.Second
	running := []*node{startNode(t, db.URL, lease), startNode(t, db.URL, lease)}

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var sent int
	var senders sync.WaitGroup
	senders.Go(func() {
		began := time.Now()
		for ; ctx.Err() == nil; sent++ {
			event := queue.Event{Tenant: tenant, Topology: "flow", Node: "in", Key: fmt.Sprint("key ", sent), Body: []byte(event(sent))}
			senders.Go(func() {
				if _, err := gateway.Accept(context.WithoutCancel(ctx), event); err != nil {
					t.Errorf("%s: %v", event.Body, err)
				}
			})
			time.Sleep(time.Until(began.Add(time.Duration(sent) * time.Second / time.Duration(rate)))) //nolint:forbidigo // the pace of the load
		}
	})
	var mu sync.Mutex
	var took []time.Duration
	hit := 0
	var watchers sync.WaitGroup
	for k := range kills {
		time.Sleep(200*time.Millisecond + rand.N(2800*time.Millisecond)) //nolint:forbidigo // when the kill comes is up to chance
		dead := running[k%2]
		dead.kill()
		killed := time.Now()
		running[k%2] = startNode(t, db.URL, lease)
		watchers.Go(func() {
			if held := r.takenOver([]string{dead.name}, killed); held > 0 {
				mu.Lock()
				defer mu.Unlock()
				hit += held
				took = append(took, time.Since(killed))
			}
		})
	}
	stop()
	senders.Wait()
	watchers.Wait()
	want := stormEffects(t, sent)
	progress(t, s, 1, len(want))
	r.drained()
	s.prove(r, want)
	slices.Sort(took)
	if len(took) == 0 {
		t.Fatal("no kill hit a claim")
	}
	t.Logf("%d kills while %d events flowed, %d claims of the dead; taken over after p50 %v, p99 %v, max %v", kills, sent, hit,
		took[len(took)/2].Round(10*time.Millisecond), took[len(took)*99/100].Round(10*time.Millisecond), took[len(took)-1].Round(10*time.Millisecond))
}

// takenOver waits until no message is claimed by dead nodes, and returns how many were at first.
func (r *rig) takenOver(names []string, died time.Time) int {
	r.t.Helper()
	const claimed = `
		select count(*)::int from river.river_job j
		join sluice.runner r on r.id::text = j.attempted_by[array_upper(j.attempted_by, 1)]
		where j.state = 'running' and r.name = any($1)`
	held := one[int](r, claimed, names)
	for one[int](r, claimed, names) > 0 {
		if time.Since(died) > resumeWithin {
			r.t.Fatalf("%d messages of %v not taken over within %v", held, names, resumeWithin)
		}
		time.Sleep(5 * time.Millisecond) //nolint:forbidigo // between looks at a fact, with a deadline
	}
	return held
}

// The database crashes again and again while events flow, and recovers. Engines survive it, and soon go on.
func TestDatabaseCrash(t *testing.T) {
	crashes, most, least := bySize(3, 10), span(1500*time.Millisecond, 40*time.Second), span(500*time.Millisecond, 5*time.Second)
	server := pgtest.Server(t)
	url := server.URL(localpg.Database)
	pool, err := queue.Open(t.Context(), url, 4)
	ok(t, err)
	t.Cleanup(pool.Close)
	r := newRig(t, pool)
	s := newSink(t, stormFlow)
	r.moveWorker(s.url)
	r.publish(storm)
	running := []*node{startNode(t, url, 2*time.Second), startNode(t, url, 10*time.Second)}
	p := produceEvery(t, 18*time.Millisecond, 1<<30, running[0].addr, running[1].addr) // some 450 messages a second
	until(t, "events", func() bool { return p.sent.Load() > 20 })
	var down, worst time.Duration
	for k := range crashes {
		time.Sleep(least + rand.N(most-least)) //nolint:forbidigo // when the crash comes is up to chance
		crashed := time.Now()
		ok(t, server.Restart(t.Context(), localpg.Immediate))
		back := time.Now()
		pool.Reset() // its connections died with the database
		const committed = `select count(*)::int from sluice.attempt where at > now() - interval '1 minute'`
		before := one[int](r, committed)
		until(t, "hand-offs after a crash", func() bool { return one[int](r, committed) > before })
		went := time.Since(back)
		down, worst = max(down, back.Sub(crashed)), max(worst, went)
		t.Logf("crash %d: database back after %v, hand-offs again %v later", k+1, back.Sub(crashed).Round(time.Millisecond), went.Round(time.Millisecond))
		if went > resumeWithin { // 5 s, and what a busy machine makes of it
			t.Errorf("work went on only after %v", went)
		}
	}
	sent := p.end()
	want := stormEffects(t, sent)
	progress(t, s, 1, len(want))
	r.drained()
	s.prove(r, want)
	t.Logf("%d crashes while %d events were worked; the database was away for %v at most, and work went on %v after it was back at most",
		crashes, sent, down.Round(time.Millisecond), worst.Round(time.Millisecond))
	for _, n := range running {
		select {
		case <-n.waited:
			t.Errorf("%s did not survive:\n%s", n.name, n.log.String())
		default:
		}
	}
}
