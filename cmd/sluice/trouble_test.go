package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"sluice/migrations/localpg"
)

// patientFile is crashFile with nodes that go on trying, and do not wait long for an answer.
var patientFile = strings.ReplaceAll(crashFile, "worker: sink", "worker: sink, timeout: 5s, retry: {attempts: 100, initial: 50ms, max: 1s}")

// answersWithin is how soon a producer hears that the database is away.
const answersWithin = 5 * time.Second // 2 s, and what a busy machine makes of it

// goroutines ends a process by having it write down all its goroutines, and counts them.
func (s *served) goroutines() int {
	s.t.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGQUIT); err != nil {
		s.t.Fatal(err)
	}
	<-s.gone
	n := 0
	for _, stack := range strings.Split(s.log.String(), "\ngoroutine ")[1:] {
		bounded := slices.ContainsFunc(bounded, func(f string) bool { return strings.Contains(stack, f) })
		if !bounded {
			n++
		}
	}
	return n
}

// bounded are goroutines whose number says nothing: those that rest until the next call, 256 at most, and those of calls'
// connections, each of which is a file that is open.
var bounded = []string{"sluice/queue.(*Engine).nextCall(", "net/http.(*Transport).dialConn "}

// files is how many files and connections a process has open.
func (s *served) files() int {
	all, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.cmd.Process.Pid))
	if err != nil {
		return 0 // not everywhere is this told
	}
	return len(all)
}

// All lines are troubled, one after the other and in every way: between the program and its database, between it and the
// worker, between it and its producers. Beside it another runner is frozen, calls under way, until its lease is long
// over. No promise is broken, nothing is lost or comes twice, the frozen one commits nothing when it wakes, and when all
// is well again the program has no more goroutines and connections than one that was never in trouble.
func TestTroubledLines(t *testing.T) {
	t.Parallel()
	moment, partition, frozen := 300*time.Millisecond, 3*time.Second, 13*time.Second
	if *full {
		moment, partition, frozen = 10*time.Second, 30*time.Second, 30*time.Second
	}
	r := startCrashRig(t)
	r.apply(patientFile)
	socket, config := bridge(t, r.url)
	database := newWire(t, socket)
	worker := newWire(t, r.worker)
	r.api.run("worker", "move", "sink", "http://"+worker.addr).ok()
	url := fmt.Sprintf("postgres://%s@%s/%s?sslmode=disable", config.User, database.addr, localpg.Database)
	s := r.serve(url, freeAddress(t), "--roles", "gateway")
	s.ready()
	runner := r.serve(url, freeAddress(t), "--roles", "runner")
	runner.ready()
	r.kill()
	door := newWire(t, s.address)
	f := r.feed(32, 60, door.addr)
	r.until("events flow", func() bool { return f.accepted.Load() > 60 })
	calm := runner.files()

	sleeper := r.serve(r.url, freeAddress(t), "--roles", "runner", "--name", "sleeper")
	sleeper.ready()
	var froze time.Time
	r.until("the other runner has calls under way", func() bool {
		var n int
		err := r.ask(`select count(*) from river.river_job j join sluice.runner u on u.id::text = j.attempted_by[1] where j.state = 'running' and u.name = 'sleeper'`, &n)
		return err == nil && n > 0
	})
	if err := sleeper.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	froze = time.Now()

	swallow := []toxic{{Name: "up", Type: "timeout", Stream: "upstream", Toxicity: 1}, {Name: "down", Type: "timeout", Stream: "downstream", Toxicity: 1}}
	for _, l := range []struct {
		name string
		wire *wire
	}{{"database", database}, {"worker", worker}, {"producers", door}} {
		for _, c := range []struct {
			name   string
			long   time.Duration
			repeat time.Duration // the dice are rolled again for each connection
			toxics []toxic
		}{
			{"50 ms latency", moment, moment, []toxic{{Name: "slow", Type: "latency", Stream: "downstream", Toxicity: 1, Attributes: map[string]int{"latency": 50}}}},
			{"500 ms latency", moment, moment, []toxic{{Name: "slow", Type: "latency", Stream: "downstream", Toxicity: 1, Attributes: map[string]int{"latency": 500}}}},
			{"resets", moment, moment / 10, []toxic{{Name: "reset", Type: "reset_peer", Stream: "downstream", Toxicity: 0.05}}},
			{"slow close", moment, moment, []toxic{{Name: "close", Type: "slow_close", Stream: "downstream", Toxicity: 1, Attributes: map[string]int{"delay": 500}}}},
			{"partition", partition, partition, swallow},
		} {
			before, busy, cut := f.accepted.Load(), f.busy.Load(), f.cut.Load()
			f.slowest.Store(0)
			for end := time.Now().Add(c.long); time.Now().Before(end); {
				l.wire.add(c.toxics...)
				time.Sleep(min(c.repeat, time.Until(end))) //nolint:forbidigo // how long the trouble lasts
				l.wire.heal()
			}
			healed := time.Now()
			within := f.accepted.Load() - before
			r.until("events after "+c.name, func() bool { return f.accepted.Load() > before+within+20 })
			t.Logf("%s: %s for %v: %d accepted meanwhile, %d told to come later, %d answers cut, slowest answer %v; flows again %v after it",
				l.name, c.name, c.long, within, f.busy.Load()-busy, f.cut.Load()-cut,
				time.Duration(f.slowest.Load()).Round(time.Millisecond), time.Since(healed).Round(time.Millisecond))
			if l.wire == database && time.Duration(f.slowest.Load()) > answersWithin {
				t.Errorf("a producer waited %v for an answer", time.Duration(f.slowest.Load()))
			}
			s.alive()
			runner.alive()
		}
	}
	time.Sleep(time.Until(froze.Add(frozen))) //nolint:forbidigo // the runner stays frozen for longer than its lease
	woke := time.Now()
	if err := sleeper.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	r.until("the woken runner starts anew", func() bool { return strings.Contains(sleeper.log.String(), "starting anew") })
	events := f.end()
	r.prove(events)
	f.promised()
	var late int
	if err := r.ask(fmt.Sprintf(`
		select count(*) from sluice.attempt a
		where a.runner_id = (select min(id) from sluice.runner where name = 'sleeper') and a.at > '%s'`,
		froze.Add(5*time.Second).UTC().Format(time.RFC3339Nano)), &late); err != nil {
		t.Fatal(err)
	}
	if late > 0 {
		t.Errorf("the frozen runner committed %d results without a claim", late)
	}
	if !strings.Contains(sleeper.log.String(), "Results came too late") {
		t.Error("the frozen runner had nothing to commit")
	}
	var connections int
	if err := r.ask(`select count(*) from pg_stat_activity where application_name like 'sluice %' and client_addr is null`, &connections); err != nil {
		t.Fatal(err)
	}
	t.Logf("%s; a runner was frozen for %v, 0 late commits; %d files open, before %d; %d connections", f, woke.Sub(froze).Round(time.Second), runner.files(), calm, connections)
	if connections > 3*(16+8)+keyConns {
		t.Errorf("%d connections to the database by three processes that may have 24 each, and a gateway's %d for keys", connections, keyConns)
	}
	sleeper.terminate()
	f.client.CloseIdleConnections()
	r.goroutinesAs(s, "gateway")
	r.goroutinesAs(runner, "runner")
}

// goroutinesAs compares a process that has been in trouble with one that has just started.
func (r *crashRig) goroutinesAs(troubled *served, role string) {
	t := r.t
	t.Helper()
	fresh := r.serve(r.url, freeAddress(t), "--roles", role)
	fresh.ready()
	// Calls keep their connections for a while; the pool keeps those that it has opened.
	for deadline := time.Now().Add(30 * time.Second); troubled.files() > fresh.files()+16+8; {
		if time.Now().After(deadline) {
			t.Errorf("%s: %d files open, a process that has just started has %d", role, troubled.files(), fresh.files())
			break
		}
		time.Sleep(50 * time.Millisecond) //nolint:forbidigo // between looks at a fact, with a deadline
	}
	n, usual := troubled.goroutines(), fresh.goroutines()
	t.Logf("%s: %d goroutines, a process that has just started has %d", role, n, usual)
	if n > usual+16 { // one that leads River's maintenance has a dozen more
		t.Errorf("%d goroutines are left over:\n%s", n-usual, troubled.log.String())
	}
}

// Others take all connections that the database has. A program that has its own goes on as before; one whose connections
// are gone says so to its producers at once, and goes on by itself when there is room again.
func TestNoConnections(t *testing.T) {
	t.Parallel()
	span := time.Second
	if *full {
		span = 30 * time.Second
	}
	r := startCrashRig(t)
	f := r.feed(8, 1e9, r.address)
	rate := func() float64 {
		before, began := f.accepted.Load(), time.Now()
		time.Sleep(span) //nolint:forbidigo // the length of a measurement
		return float64(f.accepted.Load()-before) / time.Since(began).Seconds()
	}
	r.until("events flow", func() bool { return f.accepted.Load() > 200 })
	alone := rate()
	var foreign []*pgx.Conn
	hold := func() {
		for {
			conn, err := pgx.Connect(context.Background(), r.url)
			if err != nil {
				return
			}
			foreign = append(foreign, conn)
		}
	}
	release := func() {
		for _, conn := range foreign {
			_ = conn.Close(context.Background())
		}
		foreign = nil
	}
	t.Cleanup(release)
	hold()
	idle := len(foreign)
	beside := rate()
	again := func() float64 { release(); return rate() }()
	t.Logf("%.0f events/s alone, %.0f/s beside %d idle connections (%.2f), %.0f/s after", alone, beside, idle, 2*beside/(alone+again), again)
	if beside < alone/2 {
		t.Errorf("%.0f events/s beside idle connections, %.0f/s without", beside, alone)
	}

	// Now its own are ended, and others are faster.
	hold()
	super, err := pgx.Connect(context.Background(), r.server.SuperURL(localpg.Database))
	if err != nil {
		t.Fatal(err)
	}
	defer super.Close(context.Background())
	busy := f.busy.Load()
	f.slowest.Store(0)
	for deadline := time.Now().Add(time.Minute); f.busy.Load() < busy+50; {
		if _, err := super.Exec(context.Background(), `select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'sluice %'`); err != nil {
			t.Fatal(err)
		}
		hold()
		if time.Now().After(deadline) {
			t.Fatal("nobody was told that the database has no room")
		}
	}
	slowest := time.Duration(f.slowest.Load())
	before := f.accepted.Load()
	release()
	freed := time.Now()
	r.until("events after others have gone", func() bool { return f.accepted.Load() > before+100 })
	t.Logf("no connection to be had: %d answers said to come later, the slowest after %v; flows %v after there was room",
		f.busy.Load()-busy, slowest.Round(time.Millisecond), time.Since(freed).Round(time.Millisecond))
	if slowest > answersWithin {
		t.Errorf("a producer waited %v for an answer", slowest)
	}
	events := f.end()
	t.Log(f)
	r.prove(events)
	f.promised()
}

// trouble lets a database take no more writes for a while, in the way of cause and cure. Producers are told to come later,
// within a moment, nothing is lost, and all goes on without anybody's help.
func (r *crashRig) trouble(cause, cure func()) {
	t := r.t
	t.Helper()
	f := r.feed(8, 100, r.address)
	r.until("events flow", func() bool { return f.accepted.Load() > 50 })
	cause()
	r.until("producers are told to come later", func() bool { return f.busy.Load() > 20 })
	stored := f.accepted.Load()
	r.until("nothing is taken", func() bool {
		before := f.busy.Load()
		r.until("answers", func() bool { return f.busy.Load() > before+20 })
		now := f.accepted.Load()
		defer func() { stored = now }()
		return now == stored
	})
	slowest := time.Duration(f.slowest.Load())
	cure()
	cured, before := time.Now(), f.accepted.Load()
	r.until("events flow again", func() bool { return f.accepted.Load() > before+50 })
	t.Logf("slowest answer %v; flows again %v after the cure", slowest.Round(time.Millisecond), time.Since(cured).Round(time.Millisecond))
	if slowest > answersWithin {
		t.Errorf("a producer waited %v for an answer", slowest)
	}
	if err := r.program.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the program did not live through it: %v", err)
	}
	events := f.end()
	t.Log(f)
	r.prove(events)
	f.promised()
}

// super runs statements as the database's superuser.
func (r *crashRig) super(statements ...string) {
	r.t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, r.server.SuperURL(localpg.Database))
	if err != nil {
		r.t.Fatal(err)
	}
	defer conn.Close(ctx)
	for _, s := range statements {
		if _, err := conn.Exec(ctx, s); err != nil {
			r.t.Fatalf("%s: %v", s, err)
		}
	}
}

// The database becomes read-only, as a standby is before it is promoted.
func TestReadOnlyDatabase(t *testing.T) {
	t.Parallel()
	r := startCrashRig(t)
	const end = `select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'sluice %'`
	r.trouble(
		func() { r.super(`alter database sluice set default_transaction_read_only = on`, end) },
		func() {
			r.super(`set default_transaction_read_only = off`, `alter database sluice reset default_transaction_read_only`, end)
		})
}
