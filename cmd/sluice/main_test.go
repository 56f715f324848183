package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"sluice/migrations/localpg"
	"sluice/migrations/pgtest"
)

// asProgram makes the test program run main, so that tests can start it as a process of its own, as another user too.
const asProgram = "SLUICE_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
	}
	pgtest.Main(m)
}

// world is the environment of the commands of a test.
type world struct {
	t     *testing.T
	env   map[string]string
	stdin string
}

// newWorld has no home, no keys and no database: what a test needs it says.
func newWorld(t *testing.T) *world {
	t.Helper()
	return &world{t: t, env: map[string]string{}}
}

// with is the same world with another variable.
func (w *world) with(name, value string) *world {
	other := &world{t: w.t, env: map[string]string{name: value}, stdin: w.stdin}
	for n, v := range w.env {
		if n != name {
			other.env[n] = v
		}
	}
	return other
}

// typing is the same world with something on standard input.
func (w *world) typing(text string) *world {
	return &world{t: w.t, env: w.env, stdin: text}
}

// result is how a command ended.
type result struct {
	t           *testing.T
	args        string
	code        int
	out, errors string
}

// run runs a command to its end.
func (w *world) run(args ...string) result {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var stdout, stderr bytes.Buffer
	code := run(ctx, args, w.getenv, strings.NewReader(w.stdin), &stdout, &stderr)
	return result{t: w.t, args: strings.Join(args, " "), code: code, out: stdout.String(), errors: stderr.String()}
}

func (w *world) getenv(name string) string { return w.env[name] }

// ok expects success, and returns the output.
func (r result) ok() string {
	r.t.Helper()
	return r.exits(exitOK).out
}

// exits expects an exit code.
func (r result) exits(code int) result {
	r.t.Helper()
	if r.code != code {
		r.t.Fatalf("sluice %s: exit code %d, want %d\n%s%s", r.args, r.code, code, r.out, r.errors)
	}
	return r
}

// says expects words in the output.
func (r result) says(words ...string) result {
	r.t.Helper()
	for _, word := range words {
		if !strings.Contains(r.out, word) {
			r.t.Errorf("sluice %s: %q is not in the output:\n%s%s", r.args, word, r.out, r.errors)
		}
	}
	return r
}

// complains expects words on standard error.
func (r result) complains(words ...string) result {
	r.t.Helper()
	for _, word := range words {
		if !strings.Contains(r.errors, word) {
			r.t.Errorf("sluice %s: %q is not in the error:\n%s", r.args, word, r.errors)
		}
	}
	return r
}

// decode reads the output as JSON.
func decode[T any](r result) T {
	r.t.Helper()
	var v T
	if err := json.Unmarshal([]byte(r.ok()), &v); err != nil {
		r.t.Fatalf("sluice %s: %v:\n%s", r.args, err, r.out)
	}
	return v
}

// running is a command that runs until it is told to stop.
type running struct {
	t      *testing.T
	cancel context.CancelFunc
	stdout *watched
	stderr *watched
	ended  chan int
}

// start runs a command in the background. It is stopped at the end of the test at the latest.
func (w *world) start(args ...string) *running {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{t: w.t, cancel: cancel, stdout: &watched{}, stderr: &watched{}, ended: make(chan int, 1)}
	go func() { r.ended <- run(ctx, args, w.getenv, strings.NewReader(w.stdin), r.stdout, r.stderr) }()
	w.t.Cleanup(func() { r.stop() })
	return r
}

// stop is Ctrl-C. It returns the exit code.
func (r *running) stop() int {
	r.t.Helper()
	r.cancel()
	select {
	case code := <-r.ended:
		r.ended <- code
		return code
	case <-time.After(time.Minute):
		r.t.Errorf("the command did not stop:\n%s", r.stderr)
		return -1
	}
}

// until waits for words on a stream, or the end of the command.
func (r *running) until(stream *watched, words string) string {
	r.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; {
		if text := stream.String(); strings.Contains(text, words) {
			return text
		}
		select {
		case code := <-r.ended:
			r.t.Fatalf("the command ended with %d:\n%s%s", code, r.stdout, r.stderr)
		case <-time.After(2 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("%q was not said:\n%s%s", words, r.stdout, r.stderr)
		}
	}
}

// watched is a stream that can be read while it is written.
type watched struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (w *watched) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.Write(p)
}

func (w *watched) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.String()
}

// eventually waits until a fact holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !holds(); {
		if time.Now().After(deadline) {
			t.Fatalf("not so after a minute: %s", what)
		}
		time.Sleep(5 * time.Millisecond) //nolint:forbidigo // a pause between two looks at the fact
	}
}

// dataDir is a directory that the user whom a private Postgres runs as may enter, too, which t.TempDir is not. Without
// binaries of Postgres the test is skipped.
func dataDir(t *testing.T) string {
	t.Helper()
	if _, err := localpg.Find(); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	dir, err := os.MkdirTemp("", "sluice-dev-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := localpg.Remove(context.Background(), postgresDir(dir)); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// writeFile writes a file of the test.
func writeFile(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
