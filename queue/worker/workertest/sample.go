package workertest

import (
	"bytes"
	"context"
	"embed"
	"io/fs"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"sluice/queue/worker"
)

// sample is a worker on the published Orchesty Node SDK with one of everything.
//
//go:embed all:sample
var sample embed.FS

// Engine is what an Orchesty worker is told of its engine.
type Engine struct {
	URL        string // of all that it calls there
	APIKey     string
	ThirdParty string // URL of the API that the sample's connectors talk to
}

// OrchestySample runs the sample worker, which needs node and npm, for as long as
// t lives, and returns where to call it. It comes up with the environment that
// Orchesty's own documentation asks for.
func OrchestySample(t testing.TB, engine Engine) worker.Target {
	t.Helper()
	files, err := fs.Sub(sample, "sample")
	must(t, err)
	dir := Installed(t, "orchesty-sample", files)
	node, err := exec.LookPath("node")
	must(t, err)
	port := freePort(t)
	ctx, stop := context.WithCancel(context.Background())
	run := exec.CommandContext(ctx, node, filepath.Join(dir, "worker.js"))
	run.Dir, run.WaitDelay = dir, time.Second
	run.Env = append(run.Environ(),
		"APP_PORT="+port, "CRYPT_SECRET=a-secret-of-the-sample-worker-000", "ORCHESTY_API_KEY="+engine.APIKey,
		"BACKEND_URL="+engine.URL, "STARTING_POINT_URL="+engine.URL, "WORKER_API_HOST="+engine.URL, "EXT_URL="+engine.ThirdParty)
	var said output
	run.Stdout, run.Stderr = &said, &said
	must(t, run.Start())
	done := make(chan struct{})
	go func() { defer close(done); _ = run.Wait() }()
	t.Cleanup(func() {
		stop()
		<-done
		if t.Failed() {
			t.Logf("the sample worker said at the end:\n%s", said.last())
		}
	})
	target := worker.Target{Name: "sample", URL: "http://" + net.JoinHostPort("127.0.0.1", port), Protocol: worker.Orchesty, Dialect: "a"}
	awaitWorker(t, target.URL+"/connector/list", done)
	return target
}

// awaitWorker waits until a worker answers.
func awaitWorker(t testing.TB, url string, died <-chan struct{}) {
	t.Helper()
	client := &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for deadline := time.Now().Add(time.Minute); ; {
		if resp, err := client.Get(url); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
		}
		select {
		case <-died:
			t.Fatal("the worker ended before it answered")
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatal("the worker does not answer")
		}
	}
}

func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
}

// output keeps the end of what a program says.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

const keptOutput = 1 << 10

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.text.Write(p); o.text.Len() > 2*keptOutput {
		o.text.Next(o.text.Len() - keptOutput)
	}
	return len(p), nil
}

func (o *output) last() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
