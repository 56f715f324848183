package queue_test

import (
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"sluice/migrations/pgtest"
	"sluice/queue"
	"sluice/queue/topology"
	"sluice/queue/worker"
)

// A schedule is one order of events in a cluster, drawn from a seed. Its runners are engines without loops: each step of
// theirs, each statement, each commit and each answer of a worker comes when the dice say so, and any of them may be
// lost, come late, or meet a runner that was frozen or is dead. Time is the database's, and moved on by the dice. The
// same seed makes the same schedule again.

var scheduleSeed = flag.Uint64("sluice.seed", 0, "run the schedule of this seed alone, and print it")

// kinds of steps, with the weight that they usually have. Each schedule favours some and leaves out some of the faults.
var kinds = []struct {
	name   string
	weight int
	fault  bool
}{
	{"accept", 8, false}, {"fetch", 10, false}, {"call", 14, false}, {"hand off", 14, false}, {"beat", 1, false},
	{"take over", 3, false}, {"sweep", 1, false}, {"alarm", 3, false}, {"hear", 2, false}, {"reconcile", 2, false}, {"time", 2, false},
	{"send", 20, false}, {"commit", 20, false}, {"answer", 20, false}, {"check", 1, false},
	{"read", 14, false}, {"forget", 1, false},
	{"lose", 2, true}, {"haunt", 3, true}, {"freeze", 2, true}, {"thaw", 2, false}, {"kill", 1, true}, {"join", 1, false}, {"leave", 1, true},
}

// flows are the topologies of schedules. Their pauses have no jitter: a schedule has its own dice.
var flows = []string{`
topology: line
nodes:
  in: {kind: start, followers: [a]}
  a: {kind: custom, worker: demo, followers: [b], retry: {attempts: 1000, initial: 2m, factor: 1, jitter: 0}}
  b: {kind: custom, worker: demo, retry: {attempts: 1000, initial: 2m, factor: 1, jitter: 0}}
`, `
topology: fan
nodes:
  in: {kind: start, followers: [a, b]}
  a: {kind: custom, worker: demo, followers: [b, c], retry: {attempts: 1000, initial: 2m, factor: 1, jitter: 0}}
  b: {kind: custom, worker: demo, retry: {attempts: 1000, initial: 2m, factor: 1, jitter: 0}}
  c: {kind: custom, worker: demo, retry: {attempts: 1000, initial: 2m, factor: 1, jitter: 0}}
`, `
topology: pages
nodes:
  in: {kind: start, followers: [p]}
  p: {kind: batch, worker: demo, followers: [b], retry: {attempts: 1000, initial: 2m, factor: 1, jitter: 0}}
  b: {kind: custom, worker: demo, retry: {attempts: 1000, initial: 2m, factor: 1, jitter: 0}}
`, `
topology: keys
nodes:
  in: {kind: start, followers: [a]}
  a: {kind: custom, worker: demo, order_by: customer, followers: [b], retry: {attempts: 1000, initial: 2m, factor: 1, jitter: 0}}
  b: {kind: custom, worker: demo, concurrency: 1, retry: {attempts: 1000, initial: 2m, factor: 1, jitter: 0}}
`, `
topology: pagekeys
nodes:
  in: {kind: start, followers: [p, b]}
  p: {kind: batch, worker: demo, order_by: customer, followers: [b], retry: {attempts: 1000, initial: 2m, factor: 1, jitter: 0}}
  b: {kind: custom, worker: demo, order_by: customer, retry: {attempts: 1000, initial: 2m, factor: 1, jitter: 0}}
`, `
topology: limit
nodes:
  in: {kind: start, followers: [a]}
  a: {kind: custom, worker: demo, concurrency: 2, followers: [b], retry: {attempts: 1000, initial: 2m, factor: 1, jitter: 0}}
  b: {kind: custom, worker: demo, concurrency: 1, order_by: customer, retry: {attempts: 1000, initial: 2m, factor: 1, jitter: 0}}
`}

// limits are the nodes of which so many calls may be made at once, by all runners.
var limits = map[string]int{"keys b": 1, "limit a": 2, "limit b": 1}

// scheduled is what the workers of schedules do, in the end.
func scheduled(node, body string, page int) worker.Reply {
	reply := worker.Reply{Verdict: worker.Done, Messages: []worker.Message{{Body: fmt.Append(nil, body, ">", node)}}}
	switch {
	case page > 0:
		reply.Messages[0].Body = fmt.Append(reply.Messages[0].Body, page)
		if page < 3 {
			reply.Cursor = "more"
		}
	case strings.HasSuffix(body, "1>a") || body == "e2": // some go no further
		return worker.Reply{Verdict: worker.Stop}
	case node == "a" && body != "e0":
		reply.Messages[0] = worker.Message{SameBody: true}
	}
	return reply
}

// lab is a database for schedules, one after the other.
type lab struct {
	t       testing.TB
	db      *pgtest.DB
	control *pgxpool.Pool
	epoch   time.Time // when all schedules begin
	graphs  map[string]topology.Graph
	queues  map[string][]string     // of their edges
	mutate  func(sql string) string // changes the engine's statements, for a test that this is noticed
	without string                  // a kind of step that is never taken

	ports []*gate        // that runners of earlier schedules have had
	seen  map[string]int // what has happened how often: steps, and statements by name
}

// labSQL lets a test move time, and writes down who did what to which job: that a commit was made by the holder of the
// claim must show without asking the fence.
const labSQL = `
create schema lab;
create sequence lab.skew minvalue 0;
create table lab.life (id bigint, line text);
create table lab.job_log (xid text, line text, job bigint, old_state text, old_claimant text, old_attempt int, alive bool, new_state text);
create function lab.note_job() returns trigger language plpgsql as $$
begin
    insert into lab.job_log values (pg_current_xact_id()::text, current_setting('application_name'), old.id,
        old.state, old.attempted_by[array_upper(old.attempted_by, 1)], old.attempt,
        exists (select from sluice.runner r where r.id::text = old.attempted_by[array_upper(old.attempted_by, 1)]
                and r.lease_until > TIME),
        new.state);
    return null;
end $$;
create function lab.note_life() returns trigger language plpgsql as $$
begin
    insert into lab.life values (new.id, new.name);
    return null;
end $$;
create table lab.lane_log (xid text, edge bigint, key text, token bigint, state text, claimant text);
create function lab.note_lane() returns trigger language plpgsql as $$
begin
    insert into lab.lane_log
    select pg_current_xact_id()::text, old.edge_id, old.key, old.token, j.state, j.attempted_by[array_upper(j.attempted_by, 1)]
    from (select) one left join river.river_job j on j.id = old.token;
    return null;
end $$;
create trigger note after update on sluice.lane for each row execute function lab.note_lane();
create table lab.place_log (n bigint generated always as identity, xid text, came bool, edge bigint, key text, place bigint, message bigint);
create function lab.note_place() returns trigger language plpgsql as $$
declare
    r sluice.lane_message := coalesce(new, old);
begin
    insert into lab.place_log (xid, came, edge, key, place, message)
    values (pg_current_xact_id()::text, tg_op = 'INSERT', r.edge_id, r.key, r.place, r.message_id);
    return null;
end $$;
create trigger note after insert or delete on sluice.lane_message for each row execute function lab.note_place();
create trigger note after update or delete on river.river_job for each row execute function lab.note_job();
create trigger note after insert on sluice.runner for each row execute function lab.note_life();`

// tidySQL empties the database and lets it count from the start, so that a schedule's numbers are always the same.
const tidySQL = `
delete from river.river_job; delete from sluice.process; delete from sluice.message; delete from sluice.attempt;
delete from sluice.batch_cursor; delete from sluice.trash; delete from sluice.decision; delete from sluice.idempotency_key;
delete from sluice.runner; delete from sluice.edge_count; delete from sluice.lane; delete from sluice.lane_message;
delete from lab.job_log; delete from lab.life; delete from lab.lane_log; delete from lab.place_log;
select setval('lab.skew', 0), setval('river.river_job_id_seq', 1000, false), setval('sluice.edge_count_slot_seq', 0, false),
       setval(pg_get_serial_sequence('sluice.runner', 'id'), 1, false);`

func newLab(t testing.TB) *lab {
	t.Helper()
	db := pgtest.New(t)
	l := &lab{
		t: t, db: db, control: db.Pool(), epoch: time.Now().UTC().Add(time.Hour).Truncate(time.Second), graphs: map[string]topology.Graph{}, queues: map[string][]string{}, seen: map[string]int{},
		mutate: func(sql string) string { return sql },
	}
	_, err := l.control.Exec(t.Context(), strings.ReplaceAll(labSQL, "TIME", l.time()))
	l.must(err)
	l.begin(func(tx pgx.Tx) error {
		_, _, err := queue.AddWorker(t.Context(), tx, tenant, "demo", "http://127.0.0.1:9", "test")
		return err
	})
	for _, file := range flows {
		g, err := topology.Parse("test.yaml", []byte(file))
		l.must(err)
		l.graphs[g.Name] = g
		l.begin(func(tx pgx.Tx) error {
			if _, err := topology.SaveDraft(t.Context(), tx, tenant, g, file, "test"); err != nil {
				return err
			}
			if _, err := queue.Publish(t.Context(), tx, tenant, g.Name, "test"); err != nil {
				return err
			}
			v, err := topology.Enable(t.Context(), tx, tenant, g.Name, 0, "test")
			for _, e := range v.Edges {
				l.queues[g.Name] = append(l.queues[g.Name], fmt.Sprint("e", e.ID))
			}
			return err
		})
	}
	return l
}

func (l *lab) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) begin(f func(tx pgx.Tx) error) {
	l.t.Helper()
	l.must(pgx.BeginFunc(l.t.Context(), l.control, f))
}

// time is the lab's: it stands still but for schedules. It is later than the real one, which columns have by default.
func (l *lab) time() string {
	return fmt.Sprintf("('%s'::timestamptz + (select last_value from lab.skew) * interval '1 second')", l.epoch.Format(time.RFC3339))
}

// rewrite makes statements follow the lab's time.
func (l *lab) rewrite(sql string) string {
	return strings.NewReplacer(
		"clock_timestamp()", l.time(),
		"now()", l.time(),
		"generate_series(1, $1::int)", "generate_series(1, least($1::int, 100))", // who takes ids takes fewer, and faster
	).Replace(l.mutate(sql))
}

// schedule is what has become of a seed so far.
type schedule struct {
	*lab
	ctx     context.Context
	dice    *rand.Rand
	print   bool
	weights map[string]int
	trace   []string
	stirs   chan struct{}
	skew    time.Duration // that time was moved on

	runners []*runner // those that live
	dead    []*runner
	born    int // runners so far
	last    *op // the one that a step was taken of
	offers  []*offer
	tries   int // processes so far
	drains  bool
	outages int  // calls that may still find the worker unavailable
	crowded bool // many may wait for locks

	mu     sync.Mutex // guards what runners do beside the scheduler
	called map[queue.Claim]bool
	twice  []queue.Claim
	story  []scene
}

// scene is when a message was called, or when a call has succeeded.
type scene struct {
	message int64
	success bool
}

// offer is an event that producers want accepted.
type offer struct {
	queue.Event
	processes []uuid.UUID // that it may have become
	accepted  bool        // guarded by schedule.mu
}

// broken is what a schedule panics with when something is not as it must be.
type broken string

func (s *schedule) fail(format string, args ...any) { panic(broken(fmt.Sprintf(format, args...))) }

func (s *schedule) check(err error) {
	if err != nil {
		s.fail("%v", err)
	}
}

func (s *schedule) note(format string, args ...any) {
	s.trace = append(s.trace, fmt.Sprintf("%3d ", len(s.trace))+fmt.Sprintf(format, args...))
	if s.print {
		s.t.Log(s.trace[len(s.trace)-1])
	}
}

// run makes the schedule of a seed, and says what was wrong with it, "" if nothing.
func (l *lab) run(seed uint64) (trace []string, wrong string) { return l.tell(seed, (*schedule).play) }

// tell makes a schedule of a story.
func (l *lab) tell(seed uint64, story func(*schedule)) (trace []string, wrong string) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	_, err := l.control.Exec(ctx, tidySQL)
	l.must(err)
	s := &schedule{
		lab: l, ctx: ctx, dice: rand.New(rand.NewPCG(seed, 1)), print: *scheduleSeed != 0, weights: map[string]int{},
		stirs: make(chan struct{}, 1), outages: 3, crowded: seed%4 == 0, called: map[queue.Claim]bool{},
	}
	wrong = s.attempt(story)
	for _, r := range s.all() {
		r.end()
	}
	l.seen["schedules"]++
	l.seen["steps"] += len(s.trace)
	return s.trace, wrong
}

// attempt goes through a story, then drains what is left and proves what must be true.
func (s *schedule) attempt(story func(*schedule)) (wrong string) {
	defer func() {
		switch p := recover().(type) {
		case nil:
		case broken:
			wrong = string(p)
		default:
			wrong = fmt.Sprintf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	story(s)
	s.drain()
	s.prove()
	return ""
}

// play is the story that the dice make.
func (s *schedule) play() {
	for _, k := range kinds {
		w := 4 * k.weight
		switch {
		case k.name == s.without, k.fault && s.dice.IntN(2) == 0:
			w = 0
		case s.dice.IntN(3) == 0:
			w /= 4
		}
		s.weights[k.name] = w
	}
	names := [][]string{{"line"}, {"fan"}, {"pages"}, {"line", "fan", "pages"}, {"keys"}, {"pagekeys"}, {"limit"}}[s.dice.IntN(7)]
	for i := range 2 + s.dice.IntN(4) {
		name := names[s.dice.IntN(len(names))]
		o := &offer{Event: queue.Event{Tenant: tenant, Topology: name, Node: "in", Body: fmt.Append(nil, "e", i)}}
		o.Headers = map[string]string{"customer": []string{"x", "y"}[s.dice.IntN(2)]}
		if s.dice.IntN(2) == 0 {
			o.Key = string(o.Body)
		}
		s.offers = append(s.offers, o)
	}
	for range 2 + s.dice.IntN(2) {
		s.join()
	}
	for range 40 + s.dice.IntN(120) {
		s.step()
	}
}

// choice is a step that could be taken now.
type choice struct {
	kind, what string
	take       func()
}

// step takes one of the steps that could be taken.
func (s *schedule) step() {
	var choices []choice
	total := 0
	add := func(kind, what string, take func()) {
		if w := s.weights[kind]; w > 0 {
			choices = append(choices, choice{kind, what, take})
			total += w
		}
	}
	for _, r := range s.runners {
		r.addSteps(add)
	}
	for _, r := range s.all() {
		r.addStatements(add)
	}
	if len(s.runners) < 3 {
		add("join", "", func() { s.join() })
	}
	add("time", "", func() { s.pass(time.Duration(1+s.dice.IntN(5)) * time.Minute) })
	add("check", "", s.checkBooks)
	n, rush := s.dice.IntN(total), s.dice.IntN(2) == 0
	for _, c := range choices {
		if n -= s.weights[c.kind]; n < 0 {
			s.note("%s %s", c.kind, c.what)
			s.last = nil
			c.take()
			s.quiet()
			if rush {
				s.rush()
			}
			return
		}
	}
}

// rush lets the operation that was begun last go on until it is over, or waits for a lock.
func (s *schedule) rush() {
	for {
		i := slices.IndexFunc(s.statements(), func(h *held) bool { return h.owner == s.last && !h.ghost && h.at() != sent })
		if i < 0 {
			return
		}
		s.advance(s.statements()[i])
		s.quiet()
	}
}

// statements are all that are at gates.
func (s *schedule) statements() (all []*held) {
	for _, r := range s.all() {
		all = append(all, r.gate.statements()...)
	}
	return all
}

// pass moves time on.
func (s *schedule) pass(d time.Duration) {
	s.skew += d
	_, err := s.control.Exec(s.ctx, `select setval('lab.skew', $1)`, s.skew/time.Second)
	s.check(err)
}

// commit ends a statement's transaction.
func (s *schedule) commit(h *held) {
	if h.failed != "" {
		s.note("%s failed: %s", h, h.failed)
	}
	switch {
	case h.failed == "":
	case h.failed == uniqueViolation && slices.Contains(h.names, "accept"): // the row of an earlier try, which was late
	case h.failed == serializationFailure && slices.Contains(h.names, "lock lanes"): // a lane was forgotten
	default:
		s.fail("%s failed with SQLSTATE %s", h, h.failed)
	}
	s.check(h.commit())
	if h.ghost {
		s.check(h.lose())
	}
}

const (
	uniqueViolation      = "23505"
	serializationFailure = "40001"
)

func (s *schedule) stir() {
	select {
	case s.stirs <- struct{}{}:
	default:
	}
}

// quiet waits until nothing moves any more: each operation is over, or its statement is at the gate or waits for a lock,
// and each claim that a runner remembers is accounted for.
func (s *schedule) quiet() {
	deadline, looked := time.Now().Add(patience), time.Now()
	for {
		for _, r := range s.runners {
			r.gather()
		}
		moving, sends := s.moving()
		if moving == "" && (len(sends) == 0 || time.Since(looked) > 300*time.Microsecond && s.blocked(sends)) {
			break
		}
		select {
		case <-s.stirs:
			looked = time.Now()
		case <-time.After(200 * time.Microsecond):
			if time.Now().After(deadline) {
				s.fail("never quiet: %s", moving)
			}
		}
	}
	for _, r := range s.runners {
		r.gather()
		for _, h := range r.gate.statements() {
			if h.owner == nil {
				h.owner = s.last
				for _, name := range h.names {
					s.seen[name]++
				}
			}
		}
		r.ops = slices.DeleteFunc(r.ops, func(o *op) bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			if o.over {
				r.results = append(r.results, o.more...)
			}
			return o.over
		})
		r.sort()
	}
	s.checkLimits()
	for _, r := range slices.Clone(s.runners) {
		if r.left && len(r.ops) == 0 {
			r.die()
		}
	}
}

// all are the runners that live, and those that live no more but may have statements under way.
func (s *schedule) all() []*runner { return slices.Concat(s.runners, s.dead) }

func (s *schedule) over(o *op) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return o.over
}

// moving says what moves, beside the statements that are being executed.
func (s *schedule) moving() (what string, sends []*held) {
	for _, r := range s.all() {
		live := 0
		for _, h := range r.gate.statements() {
			if !h.ghost {
				live++
			}
			if h.at() == sent {
				sends = append(sends, h)
			}
		}
		if r.crashed {
			continue
		}
		var busy []*op
		for _, o := range r.ops {
			if !s.over(o) {
				busy = append(busy, o)
			}
		}
		if live != len(busy) {
			return fmt.Sprintf("%s has %d operations under way and %d statements", r.name, len(busy), live), nil
		}
		if c, ok := r.accounted(busy); !ok {
			return fmt.Sprintf("%s has claim %+v and does nothing with it", r.name, c), nil
		}
	}
	return "", sends
}

// blocked tells whether all these statements wait for locks. Who holds those does nothing, so that stays.
func (s *schedule) blocked(sends []*held) bool {
	var pids []int32
	for _, h := range sends {
		pids = append(pids, int32(h.backend.pid))
	}
	var n int
	s.check(s.control.QueryRow(s.ctx, `select count(distinct pid) from pg_locks where not granted and locktype in ('transactionid', 'tuple') and pid = any($1)`, pids).Scan(&n))
	for _, h := range sends {
		if h.at() != sent {
			return false
		}
	}
	if n == len(sends) {
		s.seen["lock waits"]++
	}
	return n == len(sends)
}

// drain lets everything that is under way come to its end, and then the runners that live do what they do, without
// faults: soon nothing is left to do.
func (s *schedule) drain() {
	s.note("drain")
	s.drains = true
	for _, r := range s.runners {
		r.frozen = false
	}
	s.flush()
	if len(s.runners) == 0 {
		s.join()
	}
	for round := 0; s.jobs() > 0 || s.open(); round++ {
		if round == drainRounds {
			s.fail("does not drain: %s", s.leftovers())
		}
		s.pass(3 * time.Minute)
		for i, r := range s.runners {
			r.round(i == 0, round%3 == 0)
		}
	}
}

// drainRounds is more than it takes: in each, three minutes pass, and each message makes at least one step.
const drainRounds = 20

// flush lets all statements that are under way come to their end.
func (s *schedule) flush() {
	for {
		s.quiet()
		all := s.statements()
		i := slices.IndexFunc(all, func(h *held) bool { return h.at() != sent })
		if i < 0 {
			break
		}
		s.advance(all[i])
	}
	for _, r := range s.runners {
		if n := len(r.gate.statements()); n > 0 {
			s.fail("%s has %d statements that wait for locks for ever", r.name, n)
		}
	}
}

// advance lets a statement make its next move.
func (s *schedule) advance(h *held) {
	s.note("%s %s", h.at(), h)
	switch {
	case h.at() == committed:
		s.last = h.owner
		h.answer()
	case h.whole():
		s.commit(h)
	default:
		h.send()
	}
}

func (s *schedule) jobs() (n int) {
	s.check(s.control.QueryRow(s.ctx, `select count(*) from river.river_job where queue like 'e%'`).Scan(&n))
	return n
}

// open tells whether a producer still wants an event accepted.
func (s *schedule) open() bool { return slices.ContainsFunc(s.offers, s.wanted) }

// wanted tells whether a producer would offer an event (again): without a key, it does so once.
func (s *schedule) wanted(o *offer) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !o.accepted && (o.Key != "" || len(o.processes) == 0)
}

func (s *schedule) leftovers() string {
	rows, _ := s.control.Query(s.ctx, `select format('job %s %s %s of %s', id, kind, state, attempted_by) from river.river_job where queue like 'e%' order by id`)
	jobs, err := pgx.CollectRows(rows, pgx.RowTo[string])
	s.check(err)
	return strings.Join(jobs, "; ")
}

// proofs are questions that must have no answer.
var proofs = []string{
	// Every result was committed by the holder of the claim, at that very moment: on the message's job, or on the token of
	// its lane, which changes with the result or stays.
	`select format('runner %s committed outcome %s for message %s, attempt %s, without the claim', a.runner_id, a.outcome, a.message_id, a.attempt)
	from sluice.attempt a
	where not exists (
	    select from lab.job_log l
	    where l.xid = a.xmin::text and l.job = a.message_id and l.old_state = 'running'
	    and l.old_claimant = a.runner_id::text and l.old_attempt = a.attempt)
	and not exists (
	    select from lab.place_log p
	    join lab.lane_log l on l.edge = p.edge and l.key = p.key
	    left join lab.job_log t on t.xid = l.xid and t.job = l.token
	    where p.message = a.message_id and l.xid = a.xmin::text
	    and coalesce(t.old_state, l.state) = 'running' and coalesce(t.old_claimant, l.claimant) = a.runner_id::text)`,
	// Messages leave a lane in the order in which they came. Places do not tell: a lane that was forgotten begins anew.
	`select format('a message left lane %s when one that came after it had left', key)
	from (
	    select c.edge, c.key, min(c.n) as first, lag(max(c.n)) over (partition by c.edge, c.key order by min(l.n)) as before
	    from lab.place_log l
	    join lab.place_log c on c.message = l.message and c.edge = l.edge and c.key = l.key and c.came
	    where not l.came group by c.edge, c.key, l.xid
	) x
	where first < before`,
	// Nobody touches a claim of a runner that is alive but itself.
	`select format('the claim of runner %s on job %s was touched by %s (now %s)', l.old_claimant, l.job, l.line, coalesce(l.new_state, 'gone'))
	from lab.job_log l
	where l.old_state = 'running' and l.alive
	and not exists (select from lab.life x where x.id::text = l.old_claimant and x.line = l.line)`,
	`select format('message %s was settled %s times', message_id, count(*))
	from sluice.attempt where outcome in ('done', 'filtered', 'failed') group by message_id having count(*) > 1`,
	`select format('page %s of message %s was committed %s times', page, message_id, count(*))
	from sluice.attempt where outcome = 'page' group by message_id, page having count(*) > 1`,
}

// prove holds what has become of the events against what should have.
func (s *schedule) prove() {
	s.checkBooks()
	for _, sql := range proofs {
		rows, _ := s.control.Query(s.ctx, sql)
		wrong, err := pgx.CollectRows(rows, pgx.RowTo[string])
		s.check(err)
		if len(wrong) > 0 {
			s.fail("%s", strings.Join(wrong, "; "))
		}
	}
	var want []string
	for _, o := range s.offers {
		var stored int
		s.check(s.control.QueryRow(s.ctx, `select count(*) from sluice.process where id = any($1)`, o.processes).Scan(&stored))
		s.mu.Lock()
		accepted := o.accepted
		s.mu.Unlock()
		if stored > 1 || stored == 0 && accepted {
			s.fail("event %s is stored %d times, accepted: %v", o.Body, stored, accepted)
		}
		if stored == 0 {
			continue
		}
		for _, x := range flow(scheduled).effectsOf(s.graphs[o.Topology], string(o.Body)) {
			if x.page < 2 {
				want = append(want, x.node+" "+x.body)
			}
		}
	}
	rows, _ := s.control.Query(s.ctx, `
		select e.to_node || ' ' || convert_from(coalesce(m.body, p.body), 'UTF8')
		from sluice.message m
		join sluice.edge e on e.id = m.edge_id
		left join sluice.message p on p.process_id = m.process_id and p.id = m.payload_id`)
	got, err := pgx.CollectRows(rows, pgx.RowTo[string])
	s.check(err)
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		s.fail("messages %q, want %q", got, want)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.twice) > 0 {
		s.fail("called twice under the same claim: %+v", s.twice)
	}
	s.checkOrder()
	for _, r := range s.runners {
		if u := queue.UsageOf(r.engine); u != (queue.Usage{}) {
			s.fail("%s has in use though nothing is to do: %+v", r.name, u)
		}
	}
}

// checkBooks checks what must be true at any time.
func (s *schedule) checkBooks() {
	report, err := queue.Check(s.ctx, s.control)
	s.check(err)
	for _, v := range report.Violations {
		s.fail("%s: %s: %s", v.Rule, v.ID, v.Detail)
	}
}

// checkOrder proves that no message of a lane was called before all that came before it had succeeded.
func (s *schedule) checkOrder() {
	rows, _ := s.control.Query(s.ctx, `select array_agg(message order by n) from lab.place_log where came group by edge, key`)
	lanes, err := pgx.CollectRows(rows, pgx.RowTo[[]int64])
	s.check(err)
	for _, lane := range lanes {
		succeeded := 0 // so many from the head
		for _, m := range s.story {
			place := slices.Index(lane, m.message)
			if place > succeeded {
				s.fail("message %d was called or worked before message %d had succeeded", m.message, lane[succeeded])
			}
			if m.success && place == succeeded {
				succeeded++
			}
		}
	}
}

// checkLimits proves that no more calls of a node are made at once than it allows, but for those of runners that have
// lost their leases.
func (s *schedule) checkLimits() {
	lives := map[string][]int64{}
	for _, r := range s.runners {
		for _, c := range r.pending() {
			node := c.Topology + " " + c.Node
			lives[node] = append(lives[node], c.life)
		}
	}
	for node, calls := range lives {
		if most := limits[node]; most == 0 || len(calls) <= most {
			continue
		}
		var n int
		s.check(s.control.QueryRow(s.ctx, `
			select count(*) from unnest($1::bigint[]) as id join sluice.runner r using (id) where r.lease_until > `+s.time(), calls).Scan(&n))
		if n > limits[node] {
			s.fail("%d calls at once of node %s, by %v", n, node, calls)
		}
	}
}

// newProcess makes process ids that are in the order in which they were made.
func (s *schedule) newProcess() uuid.UUID {
	s.tries++
	var id uuid.UUID
	binary.BigEndian.PutUint64(id[:], uint64(s.epoch.UnixMilli())<<16|7<<12)
	binary.BigEndian.PutUint64(id[8:], 1<<63|uint64(s.tries))
	return id
}

// Whatever the order of events and whatever is lost on the way: everything drains, each result is committed by the holder
// of its claim, once, the books are right at any time, and no claim stays behind.
func TestSchedules(t *testing.T) {
	t.Parallel()
	if *scheduleSeed != 0 {
		if _, wrong := newLab(t).run(*scheduleSeed); wrong != "" {
			t.Error(wrong)
		}
		return
	}
	const labs = 2
	began, seeds := time.Now(), bySize(100, 10_000)
	for n := range labs {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			for seed := uint64(n + 1); seed <= uint64(seeds) && time.Since(began) < 15*time.Minute; seed += labs {
				if trace, wrong := l.run(seed); wrong != "" {
					t.Fatalf("%s\nThis is seed %d: -run 'TestSchedules$' -sluice.seed %[2]d repeats it.\n%s", wrong, seed, strings.Join(trace, "\n"))
				}
			}
			for _, g := range gated {
				if l.seen[g.name] == 0 {
					t.Errorf("no statement was seen that is known as %q: has its text changed?", g.name)
				}
			}
			t.Log(l.seen, time.Since(began).Round(time.Second))
		})
	}
}

// A seed makes the same schedule again.
func TestSchedulesRepeat(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	for seed := range uint64(bySize(8, 500)) {
		first, wrong := l.run(4*seed + 1) // every fourth is crowded
		again, _ := l.run(4*seed + 1)
		if wrong != "" || !slices.Equal(first, again) {
			t.Fatalf("seed %d: %s\n%s\n\n%s", seed+1, wrong, strings.Join(first, "\n"), strings.Join(again, "\n"))
		}
	}
}

const holds = " and j.attempt = i.attempt and j.attempted_by[array_upper(j.attempted_by, 1)] = i.runner"

const holdsToken = " and j.attempt = t.claim and j.attempted_by[array_upper(j.attempted_by, 1)] = t.runner"

// Schedules find engines that lack what keeps them right. Without the fence, the books stay in order all the same, as a
// job can be deleted once only: what shows it is who committed.
func TestSchedulesFindWhatIsBroken(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		old, new string          // in statements
		without  string          // a step
		story    func(*schedule) // that shows it; nil: schedules do
		want     string
		seed     uint64 // of a schedule that showed it: the search begins there
		rare     bool   // few schedules show it
	}{
		{name: "no fence", old: holds, want: "without the claim", seed: 16},
		{name: "no attempt in the fence", old: " and j.attempt = i.attempt", want: "without the claim", rare: true},
		{name: "no page in the fence", old: "\n    and coalesce((j.metadata->>'page')::int, 1) = greatest(i.page, 1)", seed: 38},
		{name: "no reconcile", without: "reconcile", want: "does not drain", seed: 22},
		{name: "no take-over", without: "take over", want: "does not drain"},
		{name: "leases of the dead last", old: " and r.lease_until > clock_timestamp())", new: ")", want: "does not drain"},
		{name: "leases of the living are over", old: "r.lease_until > clock_timestamp())", new: "r.lease_until < clock_timestamp())", want: "was touched by"},
		{name: "claims without locks", old: "\n        for update skip locked\n    ) j", new: "\n    ) j", want: "was touched by", seed: 76},
		{name: "lanes are read backwards", old: "order by w.n, x.place", new: "order by w.n, x.place desc", want: "there is no token"},
		{name: "no fence of lanes", old: holdsToken, story: (*schedule).twoLives, want: "without the claim"},
		{name: "a fence of lanes by token alone", old: "(token, claim, runner) in (select id, claim, runner from token)", new: "token in (select id from token)", story: (*schedule).twoLives, want: "without the claim"},
		{name: "lanes are not locked", old: "\n    for update of l\n", new: "\n", story: (*schedule).lastAndNext, want: "there is no token"},
		{name: "claims given back by number alone", old: "(id, attempt) in (select * from unnest($2::bigint[], $3::smallint[]))", new: "(id, true) in (select *, $3::smallint[] is not null from unnest($2::bigint[]))", story: (*schedule).lateGiveBack, want: "while it is worked"},
		{name: "nodes are not locked", old: " for no key update", new: " -- for no key update", story: (*schedule).twoClaims, want: "calls at once"},
		{name: "no alarm", old: "where state in ('retryable', 'scheduled') and scheduled_at <= now()", new: "where false", want: "does not drain"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if c.rare && !*full {
				t.Skip("takes many schedules: see -sluice.full")
			}
			l, changed := newLab(t), false
			l.without = c.without
			l.mutate = func(sql string) string {
				if c.old == "" || !strings.Contains(sql, c.old) {
					return sql
				}
				changed = true
				return strings.ReplaceAll(sql, c.old, c.new)
			}
			found := 0
			seeds, story := bySize(200, 1000), (*schedule).play
			if c.story != nil {
				seeds, story = 1, c.story
			}
			first := max(c.seed, 1)
			for seed := first; seed < first+uint64(seeds) && (found == 0 || *full); seed++ {
				trace, wrong := l.tell(seed, story)
				if wrong == "" {
					continue
				}
				if found++; found == 1 {
					t.Logf("seed %d, %d steps: %s", seed, len(trace), wrong)
					if !strings.Contains(wrong, c.want) {
						t.Errorf("want something about %q", c.want)
					}
				}
			}
			if found == 0 {
				t.Errorf("not noticed (statement found: %v)", changed)
			}
			t.Logf("noticed by %d of %d schedules", found, l.seen["schedules"])
		})
	}
}

// Stories that schedules come to seldom go right.
func TestScheduledStories(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	for name, story := range map[string]func(*schedule){"two lives": (*schedule).twoLives, "last and next": (*schedule).lastAndNext, "two claims": (*schedule).twoClaims, "late give-back": (*schedule).lateGiveBack} {
		if trace, wrong := l.tell(1, story); wrong != "" {
			t.Errorf("%s: %s\n%s", name, wrong, strings.Join(trace, "\n"))
		}
	}
}

// twoLives is of a runner whose lease runs out while it has a result of a lane. It claims the lane anew, and hands off
// the results of both lives together.
func (s *schedule) twoLives() {
	r := s.join()
	r.accept(s.offer("keys"))
	s.flush()
	r.pursue()
	s.pass(lease + time.Minute)
	r.through("beat", queue.Beat)
	r.through("take over", queue.TakeOver)
	r.pursue()
	r.handOff(2, 100)
	s.flush()
}

// lastAndNext is of a runner that hands off the last message of a lane while the next comes.
func (s *schedule) lastAndNext() {
	r, producer := s.join(), s.join()
	r.accept(s.offer("keys"))
	s.flush()
	r.pursue()
	producer.accept(s.offer("keys"))
	s.quiet()
	s.advance(producer.gate.statements()[0]) // the lane is there
	s.quiet()
	r.handOff(1, 100)
	r.execute()
	producer.execute()
	s.flush()
}

// twoClaims is of two runners that claim messages of a node that is called twice at once at most.
func (s *schedule) twoClaims() {
	first, second := s.join(), s.join()
	for range 4 {
		first.accept(s.offer("limit"))
		s.flush()
	}
	for _, r := range []*runner{first, second} {
		s.check(queue.Hear(s.ctx, r.engine, s.queues["limit"]))
		r.fetch(s.queues["limit"][:1])
		r.execute()
	}
	s.flush()
}

// lateGiveBack is of a runner that gives back a claim whose answer it never had, in a statement that arrives when it has
// given it back by another, and claimed the message anew.
func (s *schedule) lateGiveBack() {
	r := s.join()
	r.accept(s.offer("limit")) // whose events are not claimed at birth
	s.flush()
	r.fetch(queue.Awake(r.engine))
	r.execute()
	claim := r.gate.statements()[0]
	s.commit(claim)
	s.lose(claim)
	s.quiet()

	r.start(&op{kind: "reconcile"}, queue.Reconcile)
	r.execute()
	list := r.gate.statements()[0]
	s.commit(list)
	s.advance(list)
	s.quiet()
	late := r.gate.statements()[0]
	late.haunt()
	s.quiet()

	r.start(&op{kind: "reconcile"}, queue.Reconcile)
	s.quiet()
	s.rush()
	r.fetch(queue.Awake(r.engine))
	s.quiet()
	s.rush()
	s.advance(late)
	s.quiet()
	s.commit(late)
	var running bool
	s.check(s.control.QueryRow(s.ctx, `select bool_or(state = 'running') from river.river_job where queue like 'e%'`).Scan(&running))
	if len(r.pending()) != 1 || !running {
		s.fail("a claim was given back while it is worked (%d calls)", len(r.pending()))
	}
}

// offer is an event that a producer wants accepted. All have the same key of a lane.
func (s *schedule) offer(topology string) *offer {
	o := &offer{Event: queue.Event{Tenant: tenant, Topology: topology, Node: "in", Body: fmt.Append(nil, "e", len(s.offers))}}
	o.Key, o.Headers = string(o.Body), map[string]string{"customer": "x"}
	s.offers = append(s.offers, o)
	return o
}

// pursue claims a runner's only lane, reads it, and calls the worker once.
func (r *runner) pursue() {
	r.fetch(queue.Awake(r.engine))
	r.flush()
	r.read(len(r.wishes))
	r.flush()
	for _, c := range r.pending() {
		r.answer(c, workerAnswer{result: worker.Result{Reply: scheduled(c.Node, string(c.Body), c.Page), Status: 200}})
	}
	r.quiet()
}

// execute lets a runner's statement be executed, as far as locks allow, and not committed.
func (r *runner) execute() {
	r.quiet()
	for {
		all := r.gate.statements()
		if len(all) == 0 || all[0].at() != waiting {
			return
		}
		r.advance(all[0])
		r.quiet()
	}
}
