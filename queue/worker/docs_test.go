package worker_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"sluice/queue/worker"
)

// The workers in the documentation run, as they stand there.
func TestDocumentedWorkers(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/worker-protocol.md")
	ok(t, err)
	blocks := make(map[string][]string)
	for _, m := range regexp.MustCompile("(?s)```(\\w+)\n(.*?)```").FindAllSubmatch(page, -1) {
		blocks[string(m[1])] = append(blocks[string(m[1])], string(m[2]))
	}
	if len(blocks["python"]) != 1 || len(blocks["js"]) != 1 || len(blocks["go"]) != 2 {
		t.Fatalf("the page has %d Python, %d JavaScript and %d Go workers", len(blocks["python"]), len(blocks["js"]), len(blocks["go"]))
	}
	t.Run("python", func(t *testing.T) {
		t.Parallel()
		file := program(t, "worker.py", blocks["python"][0])
		tryWorker(t, interpreter(t, "python3", "-c", "pass"), file)
	})
	t.Run("node", func(t *testing.T) {
		t.Parallel()
		file := program(t, "worker.js", blocks["js"][0])
		tryWorker(t, interpreter(t, "node", "-e", "0"), file)
	})
	for i, source := range blocks["go"] {
		t.Run(fmt.Sprint("go", i), func(t *testing.T) {
			t.Parallel()
			file := program(t, "worker.go", source)
			binary := filepath.Join(filepath.Dir(file), "worker")
			build := exec.CommandContext(t.Context(), interpreter(t, "go", "version"), "build", "-o", binary, file)
			if out, err := build.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			tryWorker(t, binary)
		})
	}
	for _, doc := range blocks["json"] {
		r := request()
		if _, err := worker.Read(r, map[string][]string{"Content-Type": {worker.ResultType}}, []byte(doc)); err != nil && !worker.IsRejection(err) {
			t.Errorf("%v: %s", err, doc)
		}
	}
}

func program(t *testing.T, name, source string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	ok(t, os.WriteFile(file, []byte(source), 0o600))
	return file
}

// interpreter finds a program, and skips the test on machines where it is not
// there or does not run.
func interpreter(t *testing.T, name string, probe ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err == nil {
		err = exec.CommandContext(t.Context(), path, probe...).Run()
	}
	if err != nil {
		t.Skipf("%s: %v", name, err)
	}
	return path
}

// tryWorker runs a worker of the documentation and calls it.
func tryWorker(t *testing.T, program string, args ...string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ok(t, err)
	_, port, _ := net.SplitHostPort(l.Addr().String())
	l.Close()
	secret := worker.NewSecret()
	ctx, cancel := context.WithCancel(t.Context())
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), "PORT="+port, "SLUICE_SECRET="+secret.Reveal())
	ok(t, cmd.Start())
	defer cmd.Wait()
	defer cancel()

	c := newClient(t, worker.Config{})
	target := worker.Target{Name: "documented", URL: "http://127.0.0.1:" + port, Secrets: []worker.Secret{worker.NewSecret(), secret}}
	r := request()
	r.Action, r.Body, r.Deadline = "total", []byte(`{"lines": [{"price": 2}, {"price": 3.5}]}`), time.Now().Add(30*time.Second)
	result, err := c.Call(t.Context(), target, r)
	for time.Now().Before(r.Deadline) {
		f, failed := errors.AsType[*worker.Failure](err)
		if !failed || f.Class != worker.Unavailable {
			break
		}
		time.Sleep(20 * time.Millisecond) //nolint:forbidigo // between two looks whether it listens, with a deadline
		result, err = c.Call(t.Context(), target, r)
	}
	ok(t, err)
	var order struct {
		Lines []struct{ Price float64 }
		Total float64
	}
	ok(t, json.Unmarshal(result.Messages[0].Body, &order))
	equal(t, "total", order.Total, 5.5)
	equal(t, "lines", len(order.Lines), 2)
	equal(t, "type", result.Messages[0].Headers["content-type"], "application/json")
	equal(t, "source", result.Messages[0].Headers["x-source"], "shop")

	target.Secrets = target.Secrets[:1]
	f := fails(t, t.Context(), c, target, r)
	equal(t, "status with another's secret", f.Status, 401)
	equal(t, "class", f.Class, worker.Rejected)
	target.Secrets = nil
	equal(t, "status unsigned", fails(t, t.Context(), c, target, r).Status, 401)
	target.Secrets, r.Body = []worker.Secret{secret}, []byte("{")
	if f := fails(t, t.Context(), c, target, r); f.Class == worker.Unavailable {
		t.Errorf("a broken body is an outage: %v", f)
	}
}
