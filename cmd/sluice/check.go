package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"sluice/migrations"
	"sluice/migrations/localpg"
	"sluice/queue"
)

type checkCmd struct {
	DatabaseURL string `placeholder:"URL" from:"DATABASE_URL" secret:"" help:"Database to check."`
	Data        string `type:"path" placeholder:"DIR" help:"Data directory of a dev to check. Default, without a database: that of the dev of this machine."`
}

func (checkCmd) Help() string {
	return examples("Reads one snapshot of a live database and proves that every message is in exactly one place, and that hand-offs were whole. "+
		"Exits with 3 when it finds anything else, and names it.",
		"sluice check",
		"sluice check --database-url postgres://sluice@db/sluice",
		"sluice check --data ./data --output json")
}

func (c checkCmd) Run(ctx context.Context, p *program) error {
	url, stop, err := c.database(ctx, p)
	if err != nil {
		return err
	}
	defer stop()
	pool, err := queue.Open(ctx, url, 2)
	if err != nil {
		return err
	}
	defer pool.Close()
	if err := migrations.Check(ctx, pool); err != nil {
		return connectError(err)
	}
	done := p.during(2*time.Second, func(elapsed time.Duration) string { return fmt.Sprintf("Still checking after %s.", elapsed) })
	report, err := queue.Check(ctx, pool)
	done()
	if err != nil {
		return err
	}
	if err := p.print(report, func(w io.Writer) { writeReport(w, report) }); err != nil {
		return err
	}
	if !report.Clean() {
		return &toldError{exitFound}
	}
	return nil
}

// database finds the database to check. That of a dev which is not running is started for as long as it takes.
func (c checkCmd) database(ctx context.Context, p *program) (url string, stop func(), err error) {
	if c.Data == "" && c.DatabaseURL != "" {
		return c.DatabaseURL, func() {}, checkURL(c.DatabaseURL)
	}
	dir, err := dataFlags{c.Data}.dir(p)
	if err != nil {
		return "", nil, err
	}
	url, err = localpg.Locate(postgresDir(dir), localpg.Database)
	if err == nil {
		return url, func() {}, nil
	}
	if !errors.Is(err, localpg.ErrNotRunning) {
		return "", nil, err
	}
	if _, err := os.Stat(filepath.Join(postgresDir(dir), "data")); err != nil {
		return "", nil, fmt.Errorf("no data of a dev in %s: say what to check with --database-url or --data", dir)
	}
	server, err := startPostgres(ctx, dir, "", slog.New(slog.DiscardHandler))
	if err != nil {
		return "", nil, err
	}
	return server.URL(localpg.Database), func() { stopPostgres(ctx, server, slog.New(slog.DiscardHandler)) }, nil
}

func writeReport(w io.Writer, r queue.Report) {
	var all [][]string
	for _, v := range r.Versions {
		all = append(all, append([]string{fmt.Sprintf("%s v%d", v.Topology, v.Version)}, placesRow(v.Places)...))
	}
	if len(all) > 1 {
		all = append(all, append([]string{"all"}, placesRow(r.Places)...))
	}
	if len(all) > 0 {
		table(w, "TOPOLOGY PROCESSES MESSAGES WAITING RUNNING HELD RETRYING TRASH DONE REJECTED TERMINATED", all...)
		fmt.Fprintln(w)
	}
	for _, v := range r.Violations {
		fmt.Fprintf(w, "violation: %s: %s: %s\n", line(v.Rule), line(v.ID), line(v.Detail))
	}
	if more := r.Broken - int64(len(r.Violations)); more > 0 {
		fmt.Fprintf(w, "and %d more\n", more)
	}
	for _, v := range r.Warnings {
		fmt.Fprintf(w, "warning: %s: %s: %s\n", line(v.Rule), line(v.ID), line(v.Detail))
	}
	if r.Foreign > 0 {
		fmt.Fprintf(w, "%s of other programs on edges, not taken up yet\n", count(r.Foreign, "job"))
	}
	if !r.Clean() {
		fmt.Fprintf(w, "NOT CLEAN: %s among %s\n", count(r.Broken, "violation"), count(r.Places.Total, "message"))
		return
	}
	fmt.Fprintf(w, "Clean: each of %s is in exactly one place (one snapshot, %.1f s).\n", count(r.Places.Total, "message"), r.Seconds)
}

func placesRow(p queue.Places) []string {
	row := []string{}
	for _, n := range []int64{p.Processes, p.Total, p.Waiting, p.Running, p.Held, p.Retrying, p.Trashed, p.Done, p.Rejected, p.Terminated} {
		row = append(row, strconv.FormatInt(n, 10))
	}
	return row
}
