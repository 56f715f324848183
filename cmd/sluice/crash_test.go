package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"sluice/migrations/localpg"
	"sluice/migrations/pgtest"
	"sluice/queue"
)

var full = flag.Bool("sluice.full", false, "run crash tests at their full size: minutes, not seconds")

// size is the usual size of a test, or its full one.
func size(usual, whole int) int {
	if *full {
		return whole
	}
	return usual
}

// crashFile is a diamond: each event comes to five messages, at four nodes.
const crashFile = `
topology: flow
nodes:
  in: {kind: start, followers: [a]}
  a: {kind: custom, worker: sink, followers: [b, c]}
  b: {kind: custom, worker: sink, followers: [d]}
  c: {kind: custom, worker: sink, followers: [d]}
  d: {kind: connector, worker: sink}
`

const messagesPerEvent = 5

// sink is a worker that remembers the keys of the effects that it was asked for: an effect asked for again is none.
type sink struct {
	mu    sync.Mutex
	calls map[string]int
	total int
}

func (s *sink) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	s.mu.Lock()
	s.calls[r.Header.Get("Sluice-Node")+" "+string(body)+" "+r.Header.Get("Idempotency-Key")]++
	s.total++
	s.mu.Unlock()
	time.Sleep(time.Duration(rand.IntN(100)) * time.Millisecond) //nolint:forbidigo // what a call takes, so that crashes find some under way
	w.Header().Set("Content-Type", "text/plain")
	w.Write(body)
}

// crashRig is a real program as a process of its own, on a durable Postgres of its own, and producers that go on until
// each of their events is accepted.
type crashRig struct {
	pause   time.Duration // of a producer before it tries again; 0: 50 ms
	t       *testing.T
	server  *localpg.Server
	url     string // of the database
	address string
	key     string
	sink    *sink
	worker  string // the sink's address
	api     *world // its commands are answered by the program
	program *exec.Cmd
	retries atomic.Int64
}

func startCrashRig(t *testing.T) *crashRig {
	t.Helper()
	r := &crashRig{t: t, server: pgtest.Server(t), sink: &sink{calls: map[string]int{}}}
	r.url = r.server.URL(localpg.Database)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.address = l.Addr().String()
	l.Close()
	worker := httptest.NewServer(r.sink)
	t.Cleanup(worker.Close)
	w := newWorld(t).with("DATABASE_URL", r.url)
	r.key = decode[struct{ Key string }](w.run("key", "create", "crash", "--scope", "admin", "--output", "json")).Key
	r.launch()
	t.Cleanup(r.kill)
	r.worker = strings.TrimPrefix(worker.URL, "http://")
	r.api = w.with("SLUICE_URL", "http://"+r.address).with("SLUICE_API_KEY", r.key)
	r.until("the API answers", func() bool { return r.api.run("topology", "list").code == exitOK })
	r.api.run("worker", "add", "sink", worker.URL).ok()
	r.apply(crashFile)
	return r
}

// apply puts a topology to work.
func (r *crashRig) apply(file string) {
	r.t.Helper()
	path := filepath.Join(r.t.TempDir(), "flow.yaml")
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		r.t.Fatal(err)
	}
	r.api.run("topology", "apply", path, "--publish", "--enable").ok()
}

func (r *crashRig) launch() {
	r.t.Helper()
	r.program = exec.Command(os.Args[0], "serve", "--listen", r.address, "--database-url", r.url)
	r.program.Env = append(os.Environ(), asProgram+"=1")
	if err := r.program.Start(); err != nil {
		r.t.Fatal(err)
	}
}

func (r *crashRig) kill() {
	if err := r.program.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		r.t.Errorf("kill: %v", err)
	}
	r.program.Wait()
}

// produce sends events, spread over the given time, and returns a function that waits until all are accepted.
func (r *crashRig) produce(events int, over time.Duration) (wait func()) {
	var next atomic.Int64
	var producers sync.WaitGroup
	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 16}}
	began, deadline := time.Now(), time.Now().Add(over+2*time.Minute)
	for range 16 {
		producers.Go(func() {
			for {
				n := int(next.Add(1)) - 1
				if n >= events {
					return
				}
				time.Sleep(time.Until(began.Add(over * time.Duration(n) / time.Duration(events)))) //nolint:forbidigo // the pace of the load, not a wait for anything
				for !r.post(client, n) {
					if time.Now().After(deadline) {
						r.t.Errorf("event %d was not accepted in time", n)
						return
					}
					r.retries.Add(1)
					time.Sleep(50 * time.Millisecond) //nolint:forbidigo // a producer's pause before it tries again, with a deadline
				}
			}
		})
	}
	return func() {
		producers.Wait()
		client.CloseIdleConnections()
	}
}

func (r *crashRig) post(client *http.Client, n int) (accepted bool) {
	req, err := http.NewRequest(http.MethodPost, "http://"+r.address+"/v1/topologies/flow/nodes/in/events", strings.NewReader(fmt.Sprintf("event %d", n)))
	if err != nil {
		return false
	}
	req.Header.Set("Authorization", "Bearer "+r.key)
	req.Header.Set("Idempotency-Key", fmt.Sprintf("event-%d", n))
	resp, err := client.Do(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	io.Copy(io.Discard, resp.Body)
	if resp.StatusCode != http.StatusAccepted && resp.StatusCode != http.StatusServiceUnavailable {
		r.t.Errorf("event %d: %s", n, resp.Status)
	}
	return resp.StatusCode == http.StatusAccepted
}

// until waits for a fact.
func (r *crashRig) until(what string, fact func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !fact(); {
		if time.Now().After(deadline) {
			r.t.Fatalf("not in time: %s", what)
		}
		time.Sleep(50 * time.Millisecond) //nolint:forbidigo // between looks at a fact, with a deadline
	}
}

// ask asks the database one thing. While it is down, there is no answer.
func (r *crashRig) ask(sql string, to ...any) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	config, err := pgx.ParseConfig(r.url)
	if err != nil {
		return err
	}
	config.RuntimeParams["sluice.tenant_id"] = "*"
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	return conn.QueryRow(ctx, sql).Scan(to...)
}

// prove waits until all is done, and holds the books and the sink against what was sent.
func (r *crashRig) prove(events int) {
	t := r.t
	t.Helper()
	r.until("all processes finish", func() bool {
		var open int
		err := r.ask(`select count(*) from sluice.process where finished_at is null`, &open)
		return err == nil && open == 0
	})
	var processes, done, messages, trashed int
	if err := r.ask(`
		select count(*), coalesce(sum(done), 0), (select count(*) from sluice.message), (select count(*) from sluice.trash)
		from sluice.process`, &processes, &done, &messages, &trashed); err != nil {
		t.Fatal(err)
	}
	if want := messagesPerEvent * events; processes != events || done != want || messages != want || trashed != 0 {
		t.Errorf("%d processes, %d messages, %d done, %d in the trash; want %d, %d, %d, 0", processes, messages, done, trashed, events, want, want)
	}
	r.sink.mu.Lock()
	effects, repeated := map[string]int{}, 0
	for call, n := range r.sink.calls {
		node, rest, _ := strings.Cut(call, " ")
		effects[node+" "+rest[:strings.LastIndex(rest, " ")]]++
		if n > 1 {
			repeated++
		}
	}
	total := r.sink.total
	r.sink.mu.Unlock()
	for n := range events {
		for node, want := range map[string]int{"a": 1, "b": 1, "c": 1, "d": 2} {
			if got := effects[fmt.Sprintf("%s event %d", node, n)]; got != want {
				t.Errorf("event %d had %d effects at node %s, want %d", n, got, node, want)
			}
		}
	}
	pool, err := queue.Open(t.Context(), r.url, 2)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	report, err := queue.Check(t.Context(), pool)
	if err != nil {
		t.Fatal(err)
	}
	if !report.Clean() {
		t.Errorf("check: %d violations: %v", report.Broken, report.Violations)
	}
	t.Logf("%d events, %d messages, each effect once; %d calls, of which %d effects were asked for again; producers tried again %d times",
		events, messages, total, repeated, r.retries.Load())
}

// The program is killed with kill -9 again and again while events flow, and started again. Nothing is lost, no effect
// comes twice, and each time the work of the dead goes on within 15 seconds.
func TestKilledAgainAndAgain(t *testing.T) {
	t.Parallel()
	kills, events := size(3, 30), size(600, 20_000)
	r := startCrashRig(t)
	wait := r.produce(events, time.Duration(kills)*3*time.Second)
	var worst time.Duration
	for range kills {
		time.Sleep(time.Duration(1500+rand.IntN(3000)) * time.Millisecond) //nolint:forbidigo // when the crash comes is up to chance
		r.kill()
		died := time.Now()
		var dead string
		if err := r.ask(`select coalesce(string_agg(id::text, ','), '') from sluice.runner`, &dead); err != nil {
			t.Fatal(err)
		}
		r.launch()
		r.until("the work of the dead is taken over", func() bool {
			var left int
			err := r.ask(`select count(*) from river.river_job where state = 'running' and attempted_by[1] = any(string_to_array('`+dead+`', ','))`, &left)
			return err == nil && left == 0
		})
		worst = max(worst, time.Since(died))
	}
	wait()
	r.prove(events)
	t.Logf("%d kills, work taken over after %v at most", kills, worst.Round(100*time.Millisecond))
	if worst > 15*time.Second {
		t.Errorf("work was taken over after %v, promised are 15 s", worst)
	}
}

// Postgres crashes again and again while events flow. The program lives through it, and nothing is lost or comes twice.
func TestPostgresCrashesAgainAndAgain(t *testing.T) {
	t.Parallel()
	crashes, events := size(2, 10), size(600, 20_000)
	r := startCrashRig(t)
	pid := r.program.Process.Pid
	wait := r.produce(events, time.Duration(crashes)*4*time.Second)
	for range crashes {
		time.Sleep(time.Duration(1500+rand.IntN(3000)) * time.Millisecond) //nolint:forbidigo // when the crash comes is up to chance
		if err := r.server.Restart(t.Context(), localpg.Immediate); err != nil {
			t.Fatal(err)
		}
	}
	wait()
	r.prove(events)
	if err := r.program.Process.Signal(os.Interrupt); err != nil {
		t.Errorf("program %d did not live through it: %v", pid, err)
	}
	if err := r.program.Wait(); err != nil {
		t.Errorf("program did not drain: %v", err)
	}
}
