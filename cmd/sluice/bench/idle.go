package bench

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"

	"sluice/queue"
	"sluice/queue/worker"
)

const (
	idleHops = 20
	idleTime = 15 * time.Second
)

// rest is what an engine with nothing to do needs.
type rest struct {
	start   time.Duration
	cpu     float64 // of a core, in per cent
	memory  float64 // in MB
	queries float64 // a second
}

// measureIdle publishes 10,000 edges that have been used once and on which nothing happens, and looks at what an engine
// needs that stands ready for them. It is beside an engine in the same process on a database without edges.
func measureIdle(ctx context.Context, r *run) ([]Result, error) {
	without, err := r.rest(ctx, 0)
	if err != nil {
		return nil, err
	}
	topologies := max(r.scaled(10_000)/idleHops, 1)
	with, err := r.rest(ctx, topologies)
	if err != nil {
		return nil, err
	}
	got := Result{}
	got.add("edges", float64(topologies*idleHops), "")
	got.add("CPU", with.cpu, "%")
	got.add("CPU without edges", without.cpu, "%")
	got.add("memory", max(with.memory-without.memory, 0.001), "MB")
	got.add("start", with.start.Seconds(), "s")
	got.add("start without edges", without.start.Seconds(), "s")
	got.add("queries", with.queries, "/s")
	got.add("queries without edges", without.queries, "/s")
	return []Result{got}, nil
}

func (r *run) rest(ctx context.Context, topologies int) (of rest, err error) {
	l, err := r.lab(ctx)
	if err != nil {
		return of, err
	}
	defer l.close()
	if err := l.addWorker(ctx, "bench", nowhere); err != nil {
		return of, err
	}
	for i := range topologies {
		if err := l.publish(ctx, line{name: fmt.Sprintf("line-%d", i), hops: idleHops, worker: "bench"}); err != nil {
			return of, err
		}
	}
	if err := l.count(ctx); err != nil {
		return of, err
	}
	calls := newCountdown(max(topologies*idleHops, 1))
	start := time.Now()
	engine, err := queue.New(ctx, l.pool, queue.Config{Caller: callerFunc(func(context.Context, worker.Request) (worker.Result, error) {
		calls.done()
		return worker.Result{Reply: worker.Pass(), Status: 204}, nil
	})})
	if err != nil {
		return of, err
	}
	defer stop(ctx, engine, &err)
	if err := engine.Start(ctx); err != nil {
		return of, err
	}
	of.start = time.Since(start)
	// Each edge is used once, so that the engine knows it.
	for i := range topologies {
		if _, err := engine.Accept(ctx, queue.Event{Tenant: tenant, Topology: fmt.Sprintf("line-%d", i), Node: "in"}); err != nil {
			return of, err
		}
	}
	if topologies > 0 {
		if err := calls.wait(ctx); err != nil {
			return of, err
		}
	}
	if err := wait(ctx, r.scaledTime(3*time.Second)); err != nil { // what a start brings with it is over
		return of, err
	}
	debug.FreeOSMemory()
	of.memory = residentMB()
	cpu, trips, start := cpuTime(), l.trips.Load(), time.Now()
	if err := wait(ctx, r.scaledTime(idleTime)); err != nil {
		return of, err
	}
	took := time.Since(start)
	of.cpu = 100 * (cpuTime() - cpu).Seconds() / took.Seconds()
	of.queries = float64(l.trips.Load()-trips) / took.Seconds()
	return of, nil
}

// cpuTime is what this process has used.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// residentMB is the memory of this process; where the system does not tell, what Go has in use.
func residentMB() float64 {
	if statm, err := os.ReadFile("/proc/self/statm"); err == nil {
		if fields := strings.Fields(string(statm)); len(fields) > 1 {
			if pages, err := strconv.Atoi(fields[1]); err == nil {
				return float64(pages*os.Getpagesize()) / 1e6
			}
		}
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.Sys-m.HeapReleased) / 1e6
}
