package queue_test

import (
	"cmp"
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
	"unsafe"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"sluice/queue"
	"sluice/queue/worker"
)

// runner is a virtual one: an engine without loops, whose steps a schedule takes.
type runner struct {
	*schedule
	name    string
	gate    *gate
	pool    *pgxpool.Pool
	engine  *queue.Engine
	fetcher *queue.Fetcher
	frozen  bool
	left    bool // it leaves in order
	crashed bool
	ops     []*op
	ended   sync.WaitGroup // of all operations
	results []queue.Result // that wait for a hand-off
	wishes  []queue.Wish   // that wait to be read
	lanes   []queue.Wish   // the last of each lane that was worked, by claim of its token

	// Guarded by schedule.mu.
	calls  []*pendingCall
	bodies map[*byte]queue.Claim // that were read of a lane, under which token
}

// op is something that a runner does by statements.
type op struct {
	kind    string
	slot    int16
	results []queue.Result           // that are handed off
	wishes  []queue.Wish             // that are read
	births  map[queue.Claim]struct{} // claims that it has registered

	// Guarded by schedule.mu.
	over bool
	more []queue.Result // of lanes
}

// pendingCall is a call that the worker has not answered.
type pendingCall struct {
	worker.Request
	claim  queue.Claim
	token  queue.Claim // of its lane, if it is in one
	life   int64       // under which it is made
	answer chan workerAnswer
}

type workerAnswer struct {
	result worker.Result
	err    error
}

// lease is that of virtual runners. Half of it is real time that a beat may take at most.
const lease = 10 * time.Minute

// join adds a runner to the cluster.
func (s *schedule) join() *runner {
	s.born++
	r := &runner{schedule: s, name: fmt.Sprint("r", s.born), bodies: map[*byte]queue.Claim{}}
	if len(s.ports) < s.born {
		s.ports = append(s.ports, &gate{name: fmt.Sprint("port ", s.born), db: s.db, rewrite: s.rewrite})
	}
	r.gate = s.ports[s.born-1]
	r.gate.setStirred(s.stir)
	r.pool = r.gate.open(s.t)
	slots := []int{2, 20}[s.dice.IntN(2)]
	turn := []time.Duration{0, time.Hour}[s.dice.IntN(2)]
	var err error
	r.engine, err = queue.New(s.ctx, r.pool, queue.Config{Name: r.gate.name, Slots: slots, Lease: lease, Caller: r})
	s.check(err)
	s.check(queue.Begin(s.ctx, r.engine, turn))
	r.fetcher = &queue.Fetcher{Engine: r.engine}
	s.runners = append(s.runners, r)
	s.note("%s has %d slots and turns of %v", r.name, slots, turn)
	return r
}

// Call is how the engine calls workers.
func (r *runner) Call(ctx context.Context, _ worker.Target, q worker.Request) (worker.Result, error) {
	c := &pendingCall{Request: q, claim: queue.Claim{Attempt: q.Attempt, Page: q.Page}, answer: make(chan workerAnswer, 1)}
	fmt.Sscan(q.MessageID[len(uuid.UUID{}.String())+1:], &c.claim.ID)
	c.life = r.engine.Claimant()
	r.mu.Lock()
	c.token = r.bodies[unsafe.SliceData(q.Body)]
	if r.called[c.claim] && c.token == (queue.Claim{}) {
		r.twice = append(r.twice, c.claim)
	}
	r.called[c.claim] = true
	r.calls = append(r.calls, c)
	r.story = append(r.story, scene{message: c.claim.ID})
	r.mu.Unlock()
	r.stir()
	select {
	case a := <-c.answer:
		return a.result, a.err
	case <-ctx.Done():
		return worker.Result{}, &worker.Failure{Class: worker.Cancelled, Reason: "cut off"}
	}
}

// pending are the calls that wait for an answer, in the order of their claims.
func (r *runner) pending() []*pendingCall {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.SortedFunc(slices.Values(r.calls), func(a, b *pendingCall) int {
		return cmp.Or(compareClaims(a.claim, b.claim), compareClaims(a.token, b.token))
	})
}

// mood is how the worker answers a call now: as it does in the end, or with one of the failures that pass.
func (s *schedule) mood(c *pendingCall) workerAnswer {
	mood := 9
	if !s.drains {
		mood = s.dice.IntN(10)
	}
	class := worker.Transient
	switch {
	case mood < 2:
	case mood == 2:
		class = worker.Limited
	case mood == 3 && s.outages > 0: // more of them would open the circuit, whose time is real
		s.outages--
		class = worker.Unavailable
	case mood == 4:
		return workerAnswer{result: worker.Result{Reply: worker.Reply{Verdict: worker.Repeat, After: 2 * time.Minute}, Status: 200}}
	default:
		reply := scheduled(c.Node, string(c.Body), c.Page)
		for i := range reply.Messages {
			reply.Messages[i].Headers = c.Headers
		}
		return workerAnswer{result: worker.Result{Reply: reply, Status: 200}}
	}
	return workerAnswer{err: &worker.Failure{Class: class, Reason: "not yet"}}
}

// addSteps adds what a runner could do.
func (r *runner) addSteps(add func(kind, what string, take func())) {
	if r.frozen {
		add("thaw", r.name, func() { r.frozen = false })
		return
	}
	if len(r.runners) > 1 {
		add("kill", r.name, r.kill)
	}
	add("freeze", r.name, func() {
		r.frozen = true
		if r.dice.IntN(2) == 0 { // for longer than its lease
			r.pass(lease + time.Minute)
		}
	})
	if r.left {
		return
	}
	if !r.busy("accept") {
		for _, o := range r.offers {
			if r.wanted(o) {
				add("accept", fmt.Sprintf("%s %s", r.name, o.Body), func() { r.accept(o) })
			}
		}
	}
	if !r.busy("fetch", "reconcile") { // the fetcher does both
		if queues := queue.Awake(r.engine); len(queues) > 0 {
			add("fetch", fmt.Sprint(r.name, " ", queues), func() { r.fetch(queues) })
		}
		add("reconcile", r.name, func() { r.start(&op{kind: "reconcile"}, queue.Reconcile) })
	}
	add("hear", r.name, func() {
		for _, o := range r.offers {
			r.check(queue.Hear(r.ctx, r.engine, r.queues[o.Topology]))
		}
	})
	if !r.busy("beat") {
		add("beat", r.name, func() { r.start(&op{kind: "beat"}, queue.Beat) })
	}
	if !r.busy("take over", "sweep", "alarm") { // the sentinel does all of them
		add("take over", r.name, func() { r.start(&op{kind: "take over"}, queue.TakeOver) })
		add("sweep", r.name, func() { r.start(&op{kind: "sweep"}, queue.Sweep) })
		add("alarm", r.name, func() { r.start(&op{kind: "alarm"}, queue.RingAlarm) })
	}
	calls := r.pending()
	for _, c := range calls {
		add("call", fmt.Sprintf("%s %s %+v", r.name, c.Node, c.claim), func() { r.answer(c, r.mood(c)) })
	}
	if len(r.results) > 0 && r.committers() < 2 {
		add("hand off", r.name, func() { r.handOff(1+r.dice.IntN(len(r.results)), []int{1, 2, 100}[r.dice.IntN(3)]) })
	}
	if len(r.wishes) > 0 && !r.busy("read") {
		add("read", r.name, func() { r.read(1 + r.dice.IntN(len(r.wishes))) })
	}
	add("forget", r.name, func() { r.start(&op{kind: "forget"}, queue.ForgetLanes) })
	if len(r.ops)+len(r.results)+len(r.wishes)+len(calls) == 0 && len(r.runners) > 1 {
		add("leave", r.name, func() {
			r.left = true
			r.start(&op{kind: "leave"}, queue.EndLife)
		})
	}
}

// addStatements adds what could become of a runner's statements. What a frozen one has sent goes on.
func (r *runner) addStatements(add func(kind, what string, take func())) {
	for _, h := range r.gate.statements() {
		name := fmt.Sprint(r.name, " ", h)
		switch h.at() {
		case waiting:
			if (!r.frozen || h.ghost || h.next > 0) && r.maySend(h) {
				add("send", name, h.send)
			}
			add("lose", name, func() { r.lose(h) })
		case uncommitted:
			if h.whole() {
				add("commit", name, func() { r.commit(h) })
			} else {
				add("send", name, h.send)
			}
			add("lose", name, func() { r.lose(h) })
		case committed:
			if !r.frozen {
				add("answer", name, func() {
					r.last = h.owner
					h.answer()
				})
			}
			add("lose", name, func() { r.lose(h) })
			continue
		case sent:
		}
		if !h.ghost {
			add("haunt", name, func() {
				r.last = h.owner
				h.haunt()
			})
		}
	}
}

// maySend tells whether a statement may be sent while others wait for locks. When a lock becomes free for two at once,
// which of them goes on first is up to Postgres: most schedules do without, so that they can be repeated exactly.
func (s *schedule) maySend(h *held) bool {
	return s.crowded || h.next > 0 || !slices.ContainsFunc(s.statements(), func(h *held) bool { return h.at() == sent })
}

func (r *runner) busy(kinds ...string) bool {
	return slices.ContainsFunc(r.ops, func(o *op) bool { return slices.Contains(kinds, o.kind) })
}

func (r *runner) committers() int {
	n := 0
	for _, o := range r.ops {
		if o.kind == "hand off" {
			n++
		}
	}
	return n
}

// accounted tells whether each claim that the engine remembers is being called, has a result, or was registered by an
// operation under way, for a message that is about to be born.
func (r *runner) accounted(busy []*op) (queue.Claim, bool) {
	known := map[queue.Claim]struct{}{}
	for _, c := range r.pending() {
		known[c.claim], known[c.token] = struct{}{}, struct{}{}
	}
	for _, w := range r.wishes {
		known[w.Token()] = struct{}{}
	}
	results := r.results
	for _, o := range busy {
		results = append(slices.Clip(results), o.results...)
		for _, w := range o.wishes {
			known[w.Token()] = struct{}{}
		}
		for c := range o.births {
			known[c] = struct{}{}
		}
	}
	for _, x := range results {
		if !x.OfLane() { // the work on a lane goes on after a result
			known[x.Claim()] = struct{}{}
		}
	}
	claims := queue.Claims(r.engine)
	for _, w := range r.lanes {
		if w.Moves(r.engine) {
			claims = append(claims, w.Token())
		}
	}
	for _, c := range claims {
		if _, ok := known[c]; ok {
			continue
		}
		if !slices.Contains(busy, r.last) {
			return c, false
		}
		r.last.births[c] = struct{}{}
	}
	return queue.Claim{}, true
}

// start begins an operation.
func (r *runner) start(o *op, do func(context.Context, *queue.Engine) error) {
	o.births = map[queue.Claim]struct{}{}
	r.ops = append(r.ops, o)
	r.last = o
	r.ended.Go(func() {
		_ = do(r.ctx, r.engine) // the engine's loops would try again
		r.mu.Lock()
		o.over = true
		r.mu.Unlock()
		r.stir()
	})
}

// accept offers an event to a runner, perhaps with others.
func (r *runner) accept(first *offer) {
	offers := []*offer{first}
	for _, o := range r.offers {
		if o != first && r.wanted(o) && r.dice.IntN(3) == 0 {
			offers = append(offers, o)
		}
	}
	var events []queue.Event
	var processes []uuid.UUID
	for _, o := range offers {
		id := r.newProcess()
		o.processes = append(o.processes, id)
		events, processes = append(events, o.Event), append(processes, id)
	}
	r.start(&op{kind: "accept"}, func(ctx context.Context, e *queue.Engine) error {
		for i, err := range queue.AcceptAs(ctx, e, events, processes) {
			r.mu.Lock()
			offers[i].accepted = offers[i].accepted || err == nil
			r.mu.Unlock()
		}
		return nil
	})
}

// fetch lets a runner look at some of the edges that are awake.
func (r *runner) fetch(queues []string) {
	r.dice.Shuffle(len(queues), func(i, j int) { queues[i], queues[j] = queues[j], queues[i] })
	queues = queues[:1+r.dice.IntN(len(queues))]
	r.start(&op{kind: "fetch"}, func(ctx context.Context, _ *queue.Engine) error { return r.fetcher.Fetch(ctx, queues) })
}

// answer lets the worker answer, and waits for what the runner makes of it.
func (r *runner) answer(c *pendingCall, a workerAnswer) {
	r.mu.Lock()
	r.calls = slices.DeleteFunc(r.calls, func(x *pendingCall) bool { return x == c })
	if a.err == nil && a.result.Verdict != worker.Repeat && a.result.Cursor == "" {
		r.story = append(r.story, scene{message: c.claim.ID, success: true})
	}
	r.mu.Unlock()
	c.answer <- a
	if c.token != (queue.Claim{}) {
		return // quiet waits for the lane
	}
	came := func(x queue.Result) bool { return !x.OfLane() && x.Claim() == c.claim }
	for deadline := time.Now().Add(patience); !slices.ContainsFunc(r.results, came); r.gather() {
		if time.Now().After(deadline) {
			r.fail("no result of call %+v", c.claim)
		}
		runtime.Gosched()
	}
}

// handOff lets a committer take some of the results.
func (r *runner) handOff(n, ofLane int) {
	r.dice.Shuffle(len(r.results), func(i, j int) { r.results[i], r.results[j] = r.results[j], r.results[i] })
	o := &op{kind: "hand off", results: slices.Clone(r.results[:n])}
	r.results = slices.Delete(r.results, 0, n)
	for _, other := range r.ops {
		if other.kind == o.kind && other.slot == 0 {
			o.slot = 1
		}
	}
	r.start(o, func(_ context.Context, e *queue.Engine) error {
		more := queue.HandOff(e, o.slot, o.results, ofLane)
		r.mu.Lock()
		defer r.mu.Unlock()
		o.more = more
		return nil
	})
}

// read lets a runner read on in some of its lanes.
func (r *runner) read(n int) {
	o := &op{kind: "read", wishes: slices.Clone(r.wishes[:n])}
	r.wishes = slices.Delete(r.wishes, 0, n)
	r.start(o, func(ctx context.Context, e *queue.Engine) error {
		queue.Read(ctx, e, o.wishes, func(body []byte, token queue.Claim) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.bodies[unsafe.SliceData(body)] = token
		})
		return nil
	})
}

// gather takes what the engine has for its committers and its reader.
func (r *runner) gather() {
	r.results = append(r.results, queue.Results(r.engine)...)
	for _, w := range queue.Wishes(r.engine) {
		r.wishes = append(r.wishes, w)
		r.lanes = append(slices.DeleteFunc(r.lanes, func(x queue.Wish) bool { return x.Token() == w.Token() }), w)
	}
}

// sort puts into an order what came at the same time.
func (r *runner) sort() {
	slices.SortFunc(r.results, func(a, b queue.Result) int { return compareClaims(a.Claim(), b.Claim()) })
	slices.SortFunc(r.wishes, func(a, b queue.Wish) int { return compareClaims(a.Token(), b.Token()) })
}

func compareClaims(a, b queue.Claim) int {
	return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.Attempt, b.Attempt), cmp.Compare(a.Page, b.Page))
}

// kill ends a runner as kill -9 does. What it has sent may still arrive.
func (r *runner) kill() {
	r.gate.close()
	queue.Crash(r.engine)
	for _, h := range r.gate.statements() {
		switch {
		case h.ghost:
		case h.at() == sent || h.at() != committed && r.dice.IntN(2) == 0:
			h.haunt()
		default:
			r.lose(h)
		}
	}
	r.die()
}

// lose breaks the line at a statement.
func (s *schedule) lose(h *held) {
	s.last = h.owner
	s.check(h.lose())
}

// die makes a runner unable to do anything any more.
func (r *runner) die() {
	r.gate.close()
	queue.Crash(r.engine)
	r.frozen, r.crashed = true, true
	r.runners = slices.DeleteFunc(r.runners, func(x *runner) bool { return x == r })
	r.dead = append(r.dead, r)
}

// round is what the loops of a runner do in the course of time, and the workers that it calls.
func (r *runner) round(watches, reconciles bool) {
	r.through("beat", queue.Beat)
	if watches {
		r.through("take over", queue.TakeOver)
		r.through("sweep", queue.Sweep)
	}
	if reconciles {
		r.through("reconcile", queue.Reconcile)
	}
	for _, o := range r.offers {
		if r.wanted(o) {
			r.accept(o)
			r.flush()
		}
	}
	for range 10 * drainRounds {
		queues, calls := queue.Awake(r.engine), r.pending()
		if len(queues)+len(calls)+len(r.results)+len(r.wishes) == 0 {
			return
		}
		if len(queues) > 0 {
			r.fetch(queues)
			r.flush()
		}
		for _, c := range r.pending() {
			r.answer(c, r.mood(c))
			r.quiet()
		}
		if n := len(r.results); n > 0 {
			r.handOff(n, 100)
			r.flush()
		}
		if n := len(r.wishes); n > 0 {
			r.read(n)
			r.flush()
		}
	}
}

// through does something from its beginning to its end.
func (r *runner) through(kind string, do func(context.Context, *queue.Engine) error) {
	if kind == r.without {
		return
	}
	r.note("%s %s", r.name, kind)
	r.start(&op{kind: kind}, do)
	r.flush()
}

// end frees what a runner has, when its schedule is over.
func (r *runner) end() {
	r.gate.close()
	queue.Crash(r.engine)
	for _, h := range r.gate.statements() {
		_ = h.lose() // of a schedule that was broken off
	}
	r.ended.Wait()
	r.fetcher.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, o := range r.ops {
		r.results = append(r.results, o.more...)
	}
	if err := queue.Bury(ctx, r.engine, r.results, r.wishes); err != nil {
		r.t.Errorf("%s never ends: %v", r.name, err)
	}
	if err := r.engine.Stop(ctx); err != nil {
		r.t.Errorf("stop: %v", err)
	}
	r.pool.Close()
}

func (p phase) String() string { return [...]string{"send", "wait for", "commit", "answer"}[p] }

func (h *held) String() string {
	s := strings.Join(h.names, ", ")
	if h.next < len(h.names) && len(h.names) > 1 {
		s = fmt.Sprintf("%s (of %s)", h.names[h.next], s)
	}
	if h.ghost {
		s += " (ghost)"
	}
	return s
}
