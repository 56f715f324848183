package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"sluice/queue"
)

// usage is what this process, a server and the way to it have been used for, so far.
type usage struct {
	own   time.Duration // CPU time of this process
	cpu   time.Duration // and of the server; 0: not known
	wal   int64         // bytes
	trips int64
}

// speed is how fast something went, and what one of it cost.
type speed struct {
	rate float64 // a second
	cpu  float64 // microseconds of this process, and of the server if it is known
}

// timed runs something that is done n times.
func (l *lab) timed(ctx context.Context, n int, do func() error) (speed, error) {
	from, err := l.usage(ctx)
	if err != nil {
		return speed{}, err
	}
	start := time.Now()
	if err := do(); err != nil {
		return speed{}, err
	}
	took := time.Since(start)
	to, err := l.usage(ctx)
	return speed{
		rate: float64(n) / took.Seconds(),
		cpu:  float64((to.own - from.own + to.cpu - from.cpu).Microseconds()) / float64(n),
	}, err
}

// between measures a baseline before and after what stands beside it, and returns the mean: what else the machine does
// changes by the minute.
func between(baseline func() (speed, error), measure func() error) (speed, error) {
	before, err := baseline()
	if err != nil {
		return speed{}, fmt.Errorf("baseline: %w", err)
	}
	if err := measure(); err != nil {
		return speed{}, err
	}
	after, err := baseline()
	if err != nil {
		return speed{}, fmt.Errorf("baseline: %w", err)
	}
	return speed{(before.rate + after.rate) / 2, (before.cpu + after.cpu) / 2}, nil
}

// compare sets a result's rate and baseline. CPU time is about the same on a machine that is busy.
func (r *Result) compare(got, baseline speed) {
	r.Rate, r.Baseline = got.rate, baseline.rate
	if got.cpu > 0 {
		r.add("CPU", got.cpu, "µs")
		r.add("baseline's CPU", baseline.cpu, "µs")
	}
}

// measureCost tells what a hop costs the server, and what accepting an event does: the events of handoff go through five
// nodes, from the first to the last commit.
func measureCost(ctx context.Context, r *run) ([]Result, error) {
	l, err := r.lab(ctx)
	if err != nil {
		return nil, err
	}
	defer l.close()
	if err := l.addWorker(ctx, "bench", nowhere); err != nil {
		return nil, err
	}
	if err := l.publish(ctx, line{name: "line", hops: handOffHops, worker: "bench"}); err != nil {
		return nil, err
	}
	if err := l.count(ctx); err != nil {
		return nil, err
	}
	var got Result
	err = l.costOfHops(ctx, r.scaled(30_000), &got)
	return []Result{got}, err
}

func (l *lab) costOfHops(ctx context.Context, events int, got *Result) (err error) {
	hops := events * handOffHops
	calls := newCountdown(hops)
	engine, err := queue.New(ctx, l.pool, queue.Config{Slots: handOffSlots, NodeSlots: handOffSlots, Caller: instant("line", calls.done)})
	if err != nil {
		return err
	}
	defer stop(ctx, engine, &err)
	if err := l.settle(ctx); err != nil {
		return err
	}
	first, err := l.usage(ctx)
	if err != nil {
		return err
	}
	if err := (load{events: events}).accept(ctx, engine, "line"); err != nil {
		return err
	}
	second, err := l.usage(ctx)
	if err != nil {
		return err
	}
	took, err := l.timed(ctx, hops, func() error { return l.drain(ctx, engine, "line", calls) })
	if err != nil {
		return err
	}
	third, err := l.usage(ctx)
	if err != nil {
		return err
	}
	got.Rate, got.Unit = took.rate, "hops/s"
	got.addCost("hop", second, third, hops)
	got.addCost("event", first, second, events)
	return nil
}

func (r *Result) addCost(of string, from, to usage, n int) {
	if from.cpu > 0 {
		r.add("CPU of Postgres/"+of, float64((to.cpu-from.cpu).Microseconds())/float64(n), "µs")
	}
	r.add("CPU here/"+of, float64((to.own-from.own).Microseconds())/float64(n), "µs")
	r.add("WAL/"+of, float64(to.wal-from.wal)/float64(n), "bytes")
	r.add("round trips/"+of, float64(to.trips-from.trips)/float64(n), "")
}

// usage reads what has been used. The server's CPU time is known of a private server only.
func (l *lab) usage(ctx context.Context) (u usage, err error) {
	u.own, u.trips = cpuTime(), l.trips.Load()
	var backend int
	if err := l.pool.QueryRow(ctx, `select (pg_current_wal_lsn() - '0/0')::bigint, pg_backend_pid()`).Scan(&u.wal, &backend); err != nil {
		return u, err
	}
	if l.private {
		u.cpu, err = serverTime(backend)
		if errors.Is(err, os.ErrNotExist) { // there is no /proc here
			return u, nil
		}
	}
	return u, err
}

// processStat is a process in /proc: its parent, and the CPU time of it and of its children that have ended.
type processStat struct {
	parent int
	own    time.Duration
	ended  time.Duration
}

// serverTime is the CPU time that the server of a backend has used: its main process, and all children of that.
func serverTime(backend int) (time.Duration, error) {
	of, err := readStat(fmt.Sprintf("/proc/%d/stat", backend))
	if err != nil {
		return 0, err
	}
	main, err := readStat(fmt.Sprintf("/proc/%d/stat", of.parent))
	if err != nil {
		return 0, err
	}
	total := main.own + main.ended
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return 0, err
	}
	for _, file := range files {
		if p, err := readStat(file); err == nil && p.parent == of.parent { // one that has just gone counts with main.ended next time
			total += p.own
		}
	}
	return total, nil
}

func readStat(file string) (processStat, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return processStat{}, err
	}
	// The name of the program is in parentheses and may hold anything; the fields after it are numbers.
	_, rest, _ := strings.Cut(string(b[strings.LastIndexByte(string(b), ')')+1:]), " ")
	fields := strings.Fields(rest)
	if len(fields) < 15 {
		return processStat{}, fmt.Errorf("%s: %d fields", file, len(fields))
	}
	number := func(i int) int { n, _ := strconv.Atoi(fields[i]); return n }
	const tick = 10 * time.Millisecond // of Linux's clock for user space, on all platforms that Go runs on
	return processStat{
		parent: number(1),
		own:    time.Duration(number(11)+number(12)) * tick,
		ended:  time.Duration(number(13)+number(14)) * tick,
	}, nil
}
