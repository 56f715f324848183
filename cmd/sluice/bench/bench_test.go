package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"sluice/migrations/localpg"
	"sluice/queue"
)

// server is the one of all tests. Nothing of it is to be kept, so it may forget.
var server = sync.OnceValues(func() (*localpg.Server, error) {
	dir, err := os.MkdirTemp("", "sluice-bench-test-")
	if err != nil {
		return nil, err
	}
	serverDir = dir
	if err := os.Chmod(dir, 0o755); err != nil { // for the user whom root's server runs as
		return nil, err
	}
	ctx := context.Background()
	s, err := localpg.Start(ctx, localpg.Config{Dir: filepath.Join(dir, "postgres"), Durability: localpg.Ephemeral})
	if err != nil {
		return nil, err
	}
	conn, err := pgx.Connect(ctx, s.SuperURL("postgres"))
	if err != nil {
		return s, err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, "alter role "+localpg.Role+" createdb")
	return s, err
})

var serverDir string

func TestMain(m *testing.M) {
	// It comes to its end before what pgtest looks for: goroutines that are left over.
	code := m.Run()
	if serverDir != "" {
		if s, _ := server(); s != nil {
			_ = s.Stop(context.Background())
		}
		os.RemoveAll(serverDir)
	}
	if err := goleak.Find(); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// tiny is the smallest options with which all that scenarios do is done.
func tiny(t *testing.T) Options {
	t.Helper()
	s, err := server()
	if errors.Is(err, localpg.ErrNoBinaries) && os.Getenv("CI") != "true" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return Options{ServerURL: s.URL("postgres"), Private: true, Scale: 0.001, Rounds: 1, Progress: t.Output()}
}

// left lists the databases of benchmarks.
func left(t *testing.T, o Options) []string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), o.ServerURL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	rows, _ := conn.Query(t.Context(), `select datname from pg_database where datname like 'sluice\_bench\_%'`)
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// Not parallel: it looks at what databases are left over.
func TestScenarios(t *testing.T) {
	o := tiny(t)
	t.Run("all", func(t *testing.T) { // ends when the scenarios have, which run side by side
		for _, s := range scenarios {
			t.Run(s.name, func(t *testing.T) {
				t.Parallel()
				o := o
				o.Scenarios, o.Progress = []string{s.name}, t.Output()
				report, err := Run(t.Context(), o)
				if err != nil {
					t.Fatal(err)
				}
				if len(report.Scenarios) != len(s.rows) {
					t.Fatalf("%d results, want %d", len(report.Scenarios), len(s.rows))
				}
				for i, got := range report.Scenarios {
					if got.Name != s.rows[i].name {
						t.Errorf("result %d is of %s, want %s", i, got.Name, s.rows[i].name)
					}
					for _, g := range s.rows[i].goals {
						if got.figure(g.figure) == 0 {
							t.Errorf("%s: no %s was measured", got.Name, g.figure)
						}
					}
					if len(s.rows[i].goals) == 0 && len(got.Measures) == 0 {
						t.Errorf("%s: nothing was measured", got.Name)
					}
				}
			})
		}
	})
	if names := left(t, o); len(names) > 0 {
		t.Errorf("databases are left over: %v", names)
	}
}

// Not parallel: it looks at what databases there are.
func TestEndedEarly(t *testing.T) {
	o := tiny(t)
	o.Scale, o.Scenarios = 1, []string{"handoff"}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := Run(ctx, o)
		ended <- err
	}()
	deadline := time.Now().Add(time.Minute)
	for len(left(t, o)) < 2 {
		if time.Now().After(deadline) {
			t.Fatal("the benchmark does not begin")
		}
		time.Sleep(10 * time.Millisecond) //nolint:forbidigo // between looks
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v, want %v", err, context.Canceled)
	}
	if names := left(t, o); len(names) > 0 {
		t.Errorf("databases are left over: %v", names)
	}
}

// What is filled in by SQL must be what the engine would have written.
func TestFill(t *testing.T) {
	r := &run{options: tiny(t)}
	defer r.end(t.Context())
	l, err := r.lab(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	if err := l.addWorker(t.Context(), "bench", nowhere); err != nil {
		t.Fatal(err)
	}
	const messages = 50
	calls := newCountdown(messages)
	engine, err := queue.New(t.Context(), l.pool, queue.Config{Caller: instant("pile", calls.done)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if stop(t.Context(), engine, &err); err != nil {
			t.Error(err)
		}
	}()
	if err := l.publish(t.Context(), line{name: "pile", hops: 1, worker: "bench"}); err != nil {
		t.Fatal(err)
	}
	if err := l.fill(t.Context(), "pile", messages); err != nil {
		t.Fatal(err)
	}
	clean(t, l, queue.Places{Processes: messages, Total: messages, Waiting: messages})
	if err := l.drain(t.Context(), engine, "pile", calls); err != nil {
		t.Fatal(err)
	}
	clean(t, l, queue.Places{Processes: messages, Total: messages, Done: messages})
}

func clean(t *testing.T, l *lab, want queue.Places) {
	t.Helper()
	report, err := queue.Check(t.Context(), l.pool)
	if err != nil {
		t.Fatal(err)
	}
	if !report.Clean() || len(report.Warnings) > 0 {
		t.Errorf("check found %v, %v", report.Violations, report.Warnings)
	}
	if report.Places != want {
		t.Errorf("messages are at %+v, want %+v", report.Places, want)
	}
}

func TestUnknownScenario(t *testing.T) {
	t.Parallel()
	_, err := Run(t.Context(), Options{Scenarios: []string{"handof"}})
	if err == nil || !strings.Contains(err.Error(), "handoff, ") {
		t.Errorf("got %v, want an error that lists the scenarios", err)
	}
}

func TestGoals(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		goal goal
		with Result
		met  bool
		text string
	}{
		{goal{"ratio", ">=", 1.2, ""}, Result{Ratio: 1.2}, true, "ratio >= 1.2"},
		{goal{"ratio", ">=", 1.2, ""}, Result{Ratio: 1.1}, false, "ratio >= 1.2"},
		{goal{"p99", "<=", 20, "ms"}, Result{P99: 20}, true, "p99 <= 20 ms"},
		{goal{"p99", "<=", 20, "ms"}, Result{P99: 21}, false, "p99 <= 20 ms"},
		{goal{"p99", "<=", 20, "ms"}, Result{}, false, "p99 <= 20 ms"}, // not measured
		{goal{"queries", "<=", 5, "/s"}, Result{Measures: []Measure{{"queries", 4, "/s"}}}, true, "queries <= 5 /s"},
	} {
		if met := test.goal.met(&test.with); met != test.met {
			t.Errorf("%s with %+v: met is %t", test.goal, test.with, met)
		}
		if text := test.goal.String(); text != test.text {
			t.Errorf("got %q, want %q", text, test.text)
		}
	}
}

func TestMedian(t *testing.T) {
	t.Parallel()
	got := median([]Result{{Ratio: 3, P50: 1}, {Ratio: 1, P50: 2}, {Ratio: 2, P50: 3}})
	if got.Ratio != 2 {
		t.Errorf("median ratio is %v, want 2", got.Ratio)
	}
	got = median([]Result{{P50: 3}, {P50: 1}, {P50: 2}})
	if got.P50 != 2 {
		t.Errorf("median p50 is %v, want 2", got.P50)
	}
}

func TestNamesAreUnique(t *testing.T) {
	t.Parallel()
	var rows []string
	for _, s := range scenarios {
		for _, r := range s.rows {
			rows = append(rows, r.name)
		}
	}
	slices.Sort(rows)
	if len(slices.Compact(slices.Clone(rows))) != len(rows) {
		t.Errorf("rows have the same names: %v", rows)
	}
}
