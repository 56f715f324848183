package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"sluice/migrations"
	"sluice/migrations/localpg"
	"sluice/queue/topology"
	"sluice/queue/worker"
)

// startDev starts a dev on a data directory and returns how to reach it once it is ready.
func startDev(t *testing.T, data string, args ...string) (*running, devAccess) {
	t.Helper()
	began := time.Now()
	r := newWorld(t).start(append([]string{"dev", "--data", data, "--listen", "127.0.0.1:0"}, args...)...)
	text := r.until(r.stdout, "curl ")
	t.Logf("dev was ready after %s", time.Since(began).Round(time.Millisecond))
	return r, parseAccess(t, text)
}

// printed is all that a dev prints: the URL, the key, a link to the screens, and one line to paste.
var printed = regexp.MustCompile(`^URL      (http://127\.0\.0\.1:\d+)\nAPI key  (sluice_\w+)\nScreens  (http://127\.0\.0\.1:\d+/ui/link#\w+)\n\n(curl [^\n]+)\n$`)

func parseAccess(t *testing.T, text string) devAccess {
	t.Helper()
	m := printed.FindStringSubmatch(text)
	if m == nil {
		t.Fatalf("not what dev should print:\n%s", text)
	}
	return devAccess{URL: m[1], Key: m[2], Link: m[3], Curl: m[4]}
}

// at is a world whose commands talk to a dev.
func at(t *testing.T, a devAccess) *world {
	return newWorld(t).with("SLUICE_URL", a.URL).with("SLUICE_API_KEY", a.Key)
}

// paste runs the line that dev prints, in a shell where there is one with curl, and returns the answer.
func paste(t *testing.T, a devAccess) acceptedView {
	t.Helper()
	var body []byte
	if _, err := exec.LookPath("curl"); err == nil {
		cmd := exec.CommandContext(t.Context(), "sh", "-c", a.Curl)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		if body, err = cmd.Output(); err != nil {
			t.Fatalf("%s: %v: %s", a.Curl, err, &stderr)
		}
	} else {
		t.Log("there is no curl here: the same by our own means")
		request, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, a.URL+"/v1/topologies/demo/nodes/inbox/events", strings.NewReader(demoEvent))
		request.Header.Set("Authorization", "Bearer "+a.Key)
		request.Header.Set("Content-Type", "application/json")
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		body, _ = io.ReadAll(response.Body)
	}
	var accepted acceptedView
	if err := json.Unmarshal(body, &accepted); err != nil || accepted.CorrelationID == "" {
		t.Fatalf("%v: %s", err, body)
	}
	return accepted
}

// finished waits until a process has ended, and returns it.
func finished(w *world, id string) processView {
	w.t.Helper()
	var p processView
	eventually(w.t, "process "+id+" has ended", func() bool {
		p = decode[processView](w.run("process", "show", id, "--output", "json"))
		return p.State != "running"
	})
	return p
}

func TestDev(t *testing.T) {
	t.Parallel()
	data := dataDir(t)
	began := time.Now()
	dev, access := startDev(t, data)
	accepted := paste(t, access)
	w := at(t, access)
	p := finished(w, accepted.CorrelationID)
	t.Logf("the first process had finished after %s", time.Since(began).Round(time.Millisecond))
	// 1 order, 3 items, of which 2 go on twice.
	if p.State != "done" || p.Total != 8 || p.Done != 8 {
		t.Errorf("the demo made of its order: %+v", p)
	}

	t.Run("keeps its key to itself", func(t *testing.T) {
		fi, err := os.Stat(filepath.Join(data, accessFile))
		if err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("%v, %v", fi.Mode(), err)
		}
	})
	t.Run("is found by other commands", func(t *testing.T) {
		w := newWorld(t).with("SLUICE_DATA", data)
		w.run("topology", "list").exits(exitOK).says("demo")
		w.run("topology", "list", "--url", "http://127.0.0.1:1").exits(exitFailed).complains("no API key")
	})
	t.Run("refuses a second one on its data", func(t *testing.T) {
		newWorld(t).run("dev", "--data", data, "--listen", "127.0.0.1:0").exits(exitFailed).complains(data, "in use", "--data")
	})
	t.Run("refuses an address in use before it starts anything", func(t *testing.T) {
		elsewhere := filepath.Join(data, "elsewhere")
		address := strings.TrimPrefix(access.URL, "http://")
		newWorld(t).run("dev", "--data", elsewhere, "--listen", address).exits(exitFailed).complains(address+" is in use", "--listen")
		if _, err := os.Stat(elsewhere); err == nil {
			t.Error("it made its data directory all the same")
		}
	})
	t.Run("can be checked while it runs", func(t *testing.T) {
		newWorld(t).run("check", "--data", data).exits(exitOK).says("demo v1", "Clean: each of 8 messages")
		newWorld(t).with("DATABASE_URL", "postgres://127.0.0.1:1/x").run("check", "--data", data).exits(exitOK)
	})
	if code := dev.stop(); code != exitOK {
		t.Errorf("Ctrl-C ended it with %d:\n%s", code, dev.stderr)
	}
	if log := dev.stderr.String(); !strings.Contains(log, "Draining") || !strings.Contains(log, "Postgres stopped") || strings.Contains(log, `"ERROR"`) {
		t.Errorf("it did not drain in order:\n%s", log)
	}
	newWorld(t).run("check", "--data", data, "--output", "json").exits(exitOK).says(`"broken": 0`)

	again, second := startDev(t, data)
	defer again.stop()
	if second.Key != access.Key {
		t.Error("a second start made another key")
	}
	versions := decode[topologyView](at(t, second).run("topology", "show", "demo", "--output", "json"))
	_ = versions
	finished(at(t, second), paste(t, second).CorrelationID)
}

func TestDevOnADatabase(t *testing.T) {
	t.Parallel()
	data := dataDir(t)
	first, _ := startDev(t, data)
	defer first.stop()
	// The same database, said by its URL, from another directory: a second node.
	other := t.TempDir()
	url, err := localpg.Locate(postgresDir(data), localpg.Database)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := os.ReadFile(filepath.Join(data, keyFile)) // its secrets are sealed with them
	if err != nil {
		t.Fatal(err)
	}
	second, access := startDev(t, other, "--database-url", url, "--secret-keys", string(keys))
	if p := finished(at(t, access), paste(t, access).CorrelationID); p.State != "done" {
		t.Errorf("%+v", p)
	}
	if _, err := os.Stat(postgresDir(other)); err == nil {
		t.Error("it started a Postgres of its own")
	}
	if code := second.stop(); code != exitOK {
		t.Errorf("exit code %d:\n%s", code, second.stderr)
	}
}

// slowWorker does not answer before it is let.
type slowWorker struct {
	*httptest.Server
	calls  atomic.Int64
	called chan struct{}
	let    chan struct{}
}

func newSlowWorker(t *testing.T) *slowWorker {
	s := &slowWorker{called: make(chan struct{}, 100), let: make(chan struct{})}
	s.Server = httptest.NewServer(worker.Handler{Func: func(ctx context.Context, r *worker.Request) (worker.Reply, error) {
		s.calls.Add(1)
		s.called <- struct{}{}
		select {
		case <-s.let:
			return worker.Pass(), nil
		case <-ctx.Done():
			return worker.Reply{}, ctx.Err()
		}
	}})
	t.Cleanup(s.Close)
	return s
}

const slowTopology = `topology: slow
nodes:
  in: {kind: start, followers: [wait]}
  wait: {kind: custom, worker: slow}
`

func TestDevGoesOnWhereItStopped(t *testing.T) {
	t.Parallel()
	data := dataDir(t)
	slow := newSlowWorker(t)
	dev, access := startDev(t, data, "--grace", "200ms")
	w := at(t, access)
	w.run("worker", "add", "slow", slow.URL).exits(exitOK)
	w.typing(slowTopology).run("topology", "apply", "-", "--enable").exits(exitOK).says("slow: v1 enabled")
	id := strings.TrimSpace(w.run("send", "slow", "in", "--data", "{}").ok())
	<-slow.called // it is in flight now
	if code := dev.stop(); code != exitOK {
		t.Fatalf("exit code %d:\n%s", code, dev.stderr)
	}
	close(slow.let)
	_, access = startDev(t, data)
	if p := finished(at(t, access), id); p.State != "done" || slow.calls.Load() != 2 {
		t.Errorf("after %d calls: %+v", slow.calls.Load(), p)
	}
	newWorld(t).run("check", "--data", data).exits(exitOK).says("Clean")
}

func TestDemoFileIsValid(t *testing.T) {
	t.Parallel()
	graph, err := topology.Parse("demo.yaml", demoFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := graph.CheckWorkers([]string{demoName}); err != nil {
		t.Error(err)
	}
}

func TestAddressInUse(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	newWorld(t).run("serve", "--database-url", "postgres://127.0.0.1:1/x", "--listen", l.Addr().String()).exits(exitFailed).complains("in use", "--listen")
	newWorld(t).run("serve", "--database-url", "postgres://127.0.0.1:1/x", "--listen", "127.0.0.1:0").exits(exitFailed).
		complains("cannot connect to the database at 127.0.0.1:1: connect: connection refused: check")
}

// startedPostgres is a server of the test's own, for what a shared one cannot show.
func startedPostgres(t *testing.T, data string) *localpg.Server {
	t.Helper()
	server, err := startPostgres(t.Context(), data, "", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stopPostgres(context.Background(), server, slog.New(slog.DiscardHandler)) })
	return server
}

func TestServeWarnsOfARoleAboveTheWalls(t *testing.T) {
	t.Parallel()
	server := startedPostgres(t, dataDir(t))
	if err := migrations.Up(t.Context(), server.SuperURL("postgres")); err != nil {
		t.Fatal(err)
	}
	node := newWorld(t).start("serve", "--database-url", server.SuperURL("postgres"), "--listen", "127.0.0.1:0")
	if log := node.until(node.stderr, `"msg":"Started"`); !strings.Contains(log, "bypasses row-level security") {
		t.Errorf("no warning:\n%s", log)
	}
	if code := node.stop(); code != exitOK {
		t.Errorf("exit code %d:\n%s", code, node.stderr)
	}
}

// What was fetched for a data directory is used from then on, whatever else is installed.
func TestFetchedPostgresIsUsed(t *testing.T) {
	t.Parallel()
	data := dataDir(t)
	installed, err := localpg.Find()
	if err != nil {
		t.Fatal(err)
	}
	fetched := filepath.Join(data, "bin", "postgres-1.2.3")
	if err := os.MkdirAll(fetched, 0o755); err != nil {
		t.Fatal(err)
	}
	// One that cannot be run: so that it is this one that is tried.
	if err := os.Symlink(filepath.Join(installed, "nothing"), filepath.Join(fetched, "bin")); err != nil {
		t.Fatal(err)
	}
	if _, err := startPostgres(t.Context(), data, "", slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "no Postgres that runs") {
		t.Errorf("%v", err)
	}
	if err := os.Remove(filepath.Join(fetched, "bin")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(installed, filepath.Join(fetched, "bin")); err != nil {
		t.Fatal(err)
	}
	startedPostgres(t, data)
}
