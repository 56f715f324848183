package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/pprof"
	"strings"

	"github.com/jackc/pgx/v5"

	"sluice/cmd/sluice/bench"
	"sluice/migrations/localpg"
)

type benchCmd struct {
	Scenarios []string `arg:"" optional:"" help:"What to measure: ${scenarios}. Default: all."`
	Server    string   `placeholder:"URL" help:"Postgres server to measure on, by a role that may create databases; they are dropped at the end. Default: a private server, durable as in production, that is thrown away."`
	Scale     float64  `default:"1" help:"Of the amount of work: 0.1 is a quick look."`
	Rounds    int      `default:"3" help:"Measurements of each figure; the median counts."`
	Profile   string   `placeholder:"FILE" help:"Write a CPU profile of this process while it measures, for go tool pprof."`
}

func (benchCmd) Help() string {
	return examples("Measures the engine, each figure beside a baseline that is measured in the same run on the same server. "+
		"Rates depend on the machine and on what else it does; ratios hardly do.",
		"sluice bench",
		"sluice bench handoff --rounds 1",
		"sluice bench --output json > bench.json")
}

func (c benchCmd) Run(ctx context.Context, p *program) error {
	if c.Scale <= 0 || c.Rounds <= 0 {
		return usagef("--scale and --rounds are more than 0")
	}
	p.collectLazily(defaultMemory)
	url, stop, err := c.server(ctx)
	if err != nil {
		return err
	}
	defer stop()
	endProfile, err := profile(c.Profile)
	if err != nil {
		return err
	}
	report, err := bench.Run(ctx, bench.Options{
		ServerURL: url, Private: c.Server == "", Scenarios: c.Scenarios, Scale: c.Scale, Rounds: c.Rounds, Progress: p.stderr,
	})
	if err := errors.Join(err, endProfile()); err != nil {
		return err
	}
	return p.print(report, func(w io.Writer) { writeBench(w, report) })
}

// profile writes a CPU profile to a file, if one is named, until the returned function is called.
func profile(file string) (end func() error, err error) {
	if file == "" {
		return func() error { return nil }, nil
	}
	f, err := os.Create(file)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		f.Close()
		return nil, err
	}
	return func() error {
		pprof.StopCPUProfile()
		return f.Close()
	}, nil
}

// server is where to measure: the one that was named, or a private one for the time being.
func (c benchCmd) server(ctx context.Context) (url string, stop func(), err error) {
	if c.Server != "" {
		return c.Server, func() {}, checkURL(c.Server)
	}
	dir, err := os.MkdirTemp("", "sluice-bench-")
	if err != nil {
		return "", nil, err
	}
	remove := func() { os.RemoveAll(dir) }
	if err := os.Chmod(dir, 0o711); err != nil { // for the user whom root's server runs as
		remove()
		return "", nil, err
	}
	server, err := localpg.Start(ctx, localpg.Config{Dir: filepath.Join(dir, "postgres")})
	if err != nil {
		remove()
		return "", nil, fmt.Errorf("start a Postgres to measure on: %w", err)
	}
	stop = func() {
		stopPostgres(ctx, server, slog.New(slog.DiscardHandler))
		remove()
	}
	// Not as superuser: row-level security is part of what is measured.
	if err := onServer(ctx, server.SuperURL("postgres"), "alter role "+localpg.Role+" createdb"); err != nil {
		stop()
		return "", nil, err
	}
	return server.URL("postgres"), stop, nil
}

func onServer(ctx context.Context, url, sql string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	_, err = conn.Exec(ctx, sql)
	return err
}

func writeBench(w io.Writer, r bench.Report) {
	var rows, more [][]string
	for _, s := range r.Scenarios {
		met := "no"
		if s.Met {
			met = "yes"
		}
		if s.Goal == "" {
			met = ""
		}
		rows = append(rows, []string{
			s.Name, known(s.Rate, "%.0f "+verbatim(s.Unit)), known(s.Baseline, "%.0f "+verbatim(s.BaselineName)),
			known(s.Ratio, "%.2f"), known(s.P50, "%.1f ms"), known(s.P99, "%.1f ms"), s.Goal, met,
		})
		for _, m := range s.Measures {
			more = append(more, []string{s.Name, m.Name, m.String()})
		}
	}
	table(w, "SCENARIO RATE BASELINE RATIO P50 P99 GOAL MET", rows...)
	if len(more) > 0 {
		fmt.Fprintln(w)
		table(w, "SCENARIO MEASURE VALUE", more...)
	}
}

// known is a figure, or nothing where it was not measured.
func known(v float64, format string) string {
	if v == 0 {
		return ""
	}
	return fmt.Sprintf(format, v)
}

// verbatim is a text as part of a format.
func verbatim(s string) string { return strings.ReplaceAll(s, "%", "%%") }
