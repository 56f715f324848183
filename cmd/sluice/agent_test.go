package main

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sluice/queue"
	"sluice/queue/worker"
)

// inside is a worker that nobody reaches but its agents, and what it has seen.
type inside struct {
	*httptest.Server
	calls atomic.Int64
	mu    sync.Mutex
	seen  map[string]int // by body and action
}

const insideTopology = `topology: inside
nodes:
  in: {kind: start, followers: [check]}
  check: {kind: custom, worker: inside, timeout: 20s, followers: [store], retry: {attempts: 1}}
  store: {kind: custom, worker: inside, timeout: 20s, retry: {attempts: 1}}
`

// startInside is a node with a worker that takes its calls itself, and the world of its agents.
func startInside(t *testing.T) (w, agents *world, in *inside) {
	t.Helper()
	w, _ = startServe(t)
	added := decode[workerView](w.run("worker", "add", "inside", "--pull", "--output", "json"))
	secret, err := worker.ParseSecret(added.Secret)
	if err != nil {
		t.Fatal(err)
	}
	in = &inside{seen: map[string]int{}}
	in.Server = httptest.NewServer(worker.Handler{Secrets: []worker.Secret{secret}, Func: func(_ context.Context, r *worker.Request) (worker.Reply, error) {
		in.calls.Add(1)
		in.mu.Lock()
		in.seen[string(r.Body)+r.Action]++
		in.mu.Unlock()
		if string(r.Body) == "bad" && r.Action == "store" {
			return worker.Reply{}, &worker.Failure{Class: worker.Rejected, Reason: "the store takes nothing bad"}
		}
		return worker.Pass(), nil
	}})
	t.Cleanup(in.Close)
	w.typing(insideTopology).run("topology", "apply", "-", "--enable").exits(exitOK)
	key := decode[keyView](w.run("key", "create", "inside-agent", "--scope", "pull", "--worker", "inside", "--output", "json"))
	return w, newWorld(t).with("SLUICE_API_KEY", key.Key).with("SLUICE_URL", w.env["SLUICE_URL"]), in
}

func (w *world) sendInside(bodies ...string) {
	w.t.Helper()
	for _, body := range bodies {
		w.run("send", "inside", "in", "--data", body).exits(exitOK)
	}
}

// counted is how many messages are open, and how many failed.
func counted(t *testing.T, w *world) (open, trashed int) {
	t.Helper()
	pool, err := queue.Open(t.Context(), w.env["TEST_DATABASE"], 1)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	if err := pool.QueryRow(t.Context(), `select coalesce(sum(open), 0)::int, coalesce(sum(trashed), 0)::int from sluice.process`).Scan(&open, &trashed); err != nil {
		t.Fatal(err)
	}
	return open, trashed
}

// A worker that cannot be reached works through an agent as any other does: what it refuses is refused, and while it is
// away its messages wait.
func TestAgent(t *testing.T) {
	t.Parallel()
	w, agents, in := startInside(t)
	agent := agents.start("agent", "--worker", in.URL)
	agent.until(agent.stderr, "Carrying calls")
	w.sendInside("good", "bad", "\xff\x00")
	eventually(t, "all are worked", func() bool { open, trashed := counted(t, w); return open == 0 && trashed == 1 })
	w.run("trash", "list").exits(exitOK).says("the store takes nothing bad")
	if code := agent.stop(); code != exitOK {
		t.Errorf("stopped with %d", code)
	}
	w.sendInside("later")
	calls := in.calls.Load()
	second := agents.start("agent", "--worker", in.URL, "--name", "inside")
	eventually(t, "the next agent goes on", func() bool { open, _ := counted(t, w); return open == 0 })
	if in.calls.Load() != calls+2 {
		t.Errorf("%d calls", in.calls.Load()-calls)
	}
	second.stop()

	away := httptest.NewServer(http.NotFoundHandler())
	away.Close()
	third := agents.start("agent", "--worker", away.URL)
	w.sendInside("waits")
	eventually(t, "the worker is known to be away", func() bool {
		return strings.Contains(w.run("worker", "show", "inside").ok(), "does not reach the worker")
	})
	third.stop()
	fourth := agents.start("agent", "--worker", in.URL)
	eventually(t, "what waited goes on", func() bool { open, trashed := counted(t, w); return open == 0 && trashed == 1 })
	fourth.stop()

	agents.run("agent").exits(exitUsage).complains("--worker")
	agents.run("agent", "--worker", "nowhere").exits(exitUsage).complains("no http or https URL")
	agents.run("agent", "--worker", in.URL, "--name", "other").exits(exitFailed).complains("Sluice says")
	agents.with("SLUICE_API_KEY", "sluice_x").run("agent", "--worker", in.URL).exits(exitFailed).complains("key is not valid")
	w.run("agent", "--worker", in.URL).exits(exitUsage).complains("--name")
}

// Two agents share the load, and a link that breaks for some seconds loses nothing.
func TestAgentsUnderFire(t *testing.T) {
	t.Parallel()
	w, agents, in := startInside(t)
	line := newWire(t, strings.TrimPrefix(w.env["SLUICE_URL"], "http://"))
	steady := agents.start("agent", "--worker", in.URL, "--calls", "8")
	shaky := agents.with("SLUICE_URL", "http://"+line.addr).start("agent", "--worker", in.URL, "--calls", "8")
	steady.until(steady.stderr, "Carrying calls")
	shaky.until(shaky.stderr, "Carrying calls")
	events := size(300, 20_000)
	var sent sync.WaitGroup
	sent.Go(func() {
		var lines strings.Builder
		for i := range events {
			fmt.Fprintf(&lines, "{\"body\":%d}\n", i)
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.env["SLUICE_URL"]+"/v1/topologies/inside/nodes/in/events/batch", strings.NewReader(lines.String()))
		if err != nil {
			t.Error(err)
			return
		}
		req.Header.Set("Authorization", "Bearer "+w.env["SLUICE_API_KEY"])
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Error(err)
			return
		}
		_ = resp.Body.Close()
	})
	eventually(t, "calls are carried", func() bool { return in.calls.Load() > int64(events/10) })
	line.add(toxic{Name: "dead", Type: "timeout", Stream: "upstream", Toxicity: 1, Attributes: map[string]int{"timeout": 0}},
		toxic{Name: "deaf", Type: "timeout", Stream: "downstream", Toxicity: 1, Attributes: map[string]int{"timeout": 0}})
	cut := time.Now()
	eventually(t, "the other one goes on meanwhile", func() bool {
		return time.Since(cut) > time.Duration(size(3, 30))*time.Second
	})
	line.heal()
	sent.Wait()
	within := time.Now().Add(time.Duration(size(60, 600)) * time.Second)
	for open, trashed := counted(t, w); open != 0; open, trashed = counted(t, w) {
		if trashed != 0 || time.Now().After(within) {
			t.Fatalf("%d open, %d in the trash", open, trashed)
		}
		time.Sleep(50 * time.Millisecond) //nolint:forbidigo // between looks at a fact, with a deadline
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	repeated := 0
	for _, n := range in.seen {
		repeated += n - 1
	}
	if len(in.seen) != 2*events {
		t.Errorf("%d effects, want %d", len(in.seen), 2*events)
	}
	t.Logf("%d events, %d calls, of which %d were asked for again", events, in.calls.Load(), repeated)
	w.run("check", "--database-url", w.env["TEST_DATABASE"]).exits(exitOK)
	steady.stop()
	shaky.stop()
}
