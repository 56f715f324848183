// Package bench measures the engine against what it stands on.
//
// Every figure is a ratio to a baseline that is measured in the same run, on the same machine and database server: what
// a machine makes of a rate, a ratio mostly forgives. Baselines are measured before and after what stands beside them,
// because machines change their minds. Nothing is asserted here; the goals stand beside the figures.
//
// lab.go is where scenarios run and load.go what they are put under; each scenario has a file of its own. The package
// uses the engine as programs do, and must not need more of a server than the right to create databases.
package bench

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// Options says what to measure and where. The zero value measures everything at full size, which takes most of an hour.
type Options struct {
	ServerURL string    // of a Postgres server on which databases may be created; they are dropped at the end
	Private   bool      // the server runs on this machine for this run alone, so that its CPU time can be told
	Scenarios []string  // by name; empty: all
	Scale     float64   // of the amount of work; 0 is 1
	Rounds    int       // measurements of each figure, of which the median counts; 0 is 3
	Progress  io.Writer // what is going on, for people; nil: nobody listens
}

// Result is one figure with its baseline. What was not measured is 0.
type Result struct {
	Name         string    `json:"name"`
	Rate         float64   `json:"rate"`     // per second
	Unit         string    `json:"unit"`     // of what
	Baseline     float64   `json:"baseline"` // per second
	BaselineName string    `json:"baseline_name"`
	Ratio        float64   `json:"ratio"`
	P50          float64   `json:"p50_ms"`
	P99          float64   `json:"p99_ms"`
	Measures     []Measure `json:"measures"` // what else is worth knowing
	Goal         string    `json:"goal"`
	Met          bool      `json:"goal_met"` // also where there is no goal
}

// Measure is a further figure of a result.
type Measure struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
}

// Report is the results of a run.
type Report struct {
	Scenarios []Result `json:"scenarios"`
}

func (r *Result) add(name string, value float64, unit string) {
	r.Measures = append(r.Measures, Measure{name, value, unit})
}

// figure is a figure of the result by name.
func (r *Result) figure(name string) float64 {
	switch name {
	case "rate":
		return r.Rate
	case "ratio":
		return r.Ratio
	case "p50":
		return r.P50
	case "p99":
		return r.P99
	}
	for _, m := range r.Measures {
		if m.Name == name {
			return m.Value
		}
	}
	return 0
}

// goal is a bound on a figure.
type goal struct {
	figure string
	sign   string // ">=" or "<="
	bound  float64
	unit   string
}

func (g goal) String() string {
	return strings.TrimSpace(g.figure + " " + g.sign + " " + strconv.FormatFloat(g.bound, 'f', -1, 64) + " " + g.unit)
}

// met tells whether a result keeps the bound. A figure of 0 was not measured.
func (g goal) met(r *Result) bool {
	v := r.figure(g.figure)
	if g.sign == ">=" {
		return v >= g.bound
	}
	return v > 0 && v <= g.bound
}

// scenario measures something once. It gives a result for each of its rows, in their order.
type scenario struct {
	name    string
	rows    []row
	measure func(ctx context.Context, r *run) ([]Result, error)
}

// row is one line of the table.
type row struct {
	name  string
	goals []goal
}

var scenarios = []scenario{
	{"handoff", []row{{"handoff", []goal{{"ratio", ">=", 1.2, ""}}}}, measureHandOff},
	{"pipeline", []row{{"pipeline", []goal{{"ratio", ">=", 0.5, ""}}}}, measurePipeline},
	{"ingest", []row{
		{"ingest", []goal{{"ratio", ">=", 1.2, ""}, {"p99", "<=", 20, "ms"}}},
		{"ingest-16k", []goal{{"ratio", ">=", 1.2, ""}, {"p99", "<=", 20, "ms"}}},
		{"ingest-256k", []goal{{"ratio", ">=", 1.2, ""}, {"p99", "<=", 20, "ms"}}},
	}, measureIngest},
	{"ingest-batch", []row{{"ingest-batch", []goal{{"ratio", ">=", 0.3, ""}, {"rate", ">=", 40_000, ""}}}}, measureIngestBatch},
	{"latency", []row{
		{"latency", []goal{{"p50", "<=", 8, "ms"}}},
		{"latency-400", []goal{{"p99", "<=", 50, "ms"}}},
	}, measureLatencies},
	{"backlog", []row{
		{"backlog", []goal{{"ratio", ">=", 0.9, ""}}},
		{"backlog-drain", []goal{{"ratio", ">=", 0.9, ""}}},
	}, measureBacklog},
	{"idle", []row{{"idle", []goal{
		{"CPU", "<=", 1, "%"}, {"memory", "<=", 50, "MB"}, {"start", "<=", 2, "s"}, {"queries", "<=", 5, "/s"},
	}}}, measureIdle},
	{"neighbour", []row{{"neighbour", []goal{{"ratio", "<=", 1.2, ""}}}}, measureNeighbour},
	{"order", []row{
		{"order", []goal{{"ratio", ">=", 0.9, ""}}},
		{"order-hot", []goal{{"rate", ">=", 20_000, ""}}},
	}, measureOrder},
	{"limiter", []row{
		{"limiter", []goal{{"ratio", ">=", 0.3, ""}}},
		{"limiter-rate", []goal{{"ratio", ">=", 0.98, ""}}},
		{"limiter-keys", []goal{{"ratio", ">=", 0.98, ""}}},
	}, measureLimiter},
	{"cost", []row{{"cost", nil}}, measureCost},
}

// Names lists the scenarios.
func Names() []string {
	names := make([]string, len(scenarios))
	for i, s := range scenarios {
		names[i] = s.name
	}
	return names
}

// Run measures the scenarios, each Rounds times in turn, and reports of each row the round with the median ratio, or
// with the median p50 where there is no ratio. What has been measured is in the report also when an error ends the run.
func Run(ctx context.Context, o Options) (Report, error) {
	if o.Scale == 0 {
		o.Scale = 1
	}
	if o.Rounds == 0 {
		o.Rounds = 3
	}
	if o.Progress == nil {
		o.Progress = io.Discard
	}
	for _, name := range o.Scenarios {
		if !slices.Contains(Names(), name) {
			return Report{}, fmt.Errorf("no scenario named %q: there are %s", name, strings.Join(Names(), ", "))
		}
	}
	r := &run{options: o}
	defer r.end(ctx)
	report := Report{Scenarios: []Result{}}
	for _, s := range scenarios {
		if len(o.Scenarios) > 0 && !slices.Contains(o.Scenarios, s.name) {
			continue
		}
		rounds := make([][]Result, len(s.rows))
		for i := range o.Rounds {
			got, err := s.measure(ctx, r)
			if err != nil {
				return report, fmt.Errorf("%s: %w", s.name, err)
			}
			for k, g := range got {
				g.complete(s.rows[k])
				fmt.Fprintf(o.Progress, "%s, round %d of %d: %s\n", g.Name, i+1, o.Rounds, &g)
				rounds[k] = append(rounds[k], g)
			}
		}
		for _, of := range rounds {
			report.Scenarios = append(report.Scenarios, median(of))
		}
	}
	return report, nil
}

// complete fills in what follows from the rest.
func (r *Result) complete(of row) {
	r.Name, r.Met = of.name, true
	if r.Ratio == 0 && r.Baseline > 0 {
		r.Ratio = r.Rate / r.Baseline
	}
	if r.Measures == nil {
		r.Measures = []Measure{}
	}
	texts := make([]string, len(of.goals))
	for i, g := range of.goals {
		texts[i] = g.String()
		r.Met = r.Met && g.met(r)
	}
	r.Goal = strings.Join(texts, ", ")
}

func median(rounds []Result) Result {
	slices.SortStableFunc(rounds, func(a, b Result) int {
		return cmp.Or(cmp.Compare(a.Ratio, b.Ratio), cmp.Compare(a.P50, b.P50))
	})
	return rounds[len(rounds)/2]
}

// String tells the figures in one line.
func (r *Result) String() string {
	var parts []string
	add := func(v float64, format string, args ...any) {
		if v != 0 {
			parts = append(parts, fmt.Sprintf(format, append([]any{v}, args...)...))
		}
	}
	add(r.Rate, "%.0f %s", r.Unit)
	add(r.Baseline, "baseline %.0f")
	add(r.Ratio, "ratio %.2f")
	add(r.P50, "p50 %.1f ms")
	add(r.P99, "p99 %.1f ms")
	for _, m := range r.Measures {
		parts = append(parts, m.Name+" "+m.String())
	}
	return strings.Join(parts, ", ")
}

// String tells the value with its unit, as exactly as makes sense.
func (m Measure) String() string {
	digits := 0
	switch v := m.Value; {
	case v < 0.1 && v > -0.1:
		digits = 3
	case v < 100 && v > -100:
		digits = 1
	}
	return strings.TrimSpace(strconv.FormatFloat(m.Value, 'f', digits, 64) + " " + m.Unit)
}
