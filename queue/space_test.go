package queue_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// Three models of the engine, small enough to look at every state that they can come to, whatever the order of steps. What
// the schedules of schedule_test.go try on the real statements by chance, these prove of the protocol; and without one of
// its rules they show the shortest way to where it fails.

// move is a step of a model.
type move[S comparable] struct {
	name  string // if asked for
	to    S
	fault bool   // it need not happen: what comes in the end must come without it
	wrong string // what it breaks, if anything
}

// mostStates is more than there may be.
const mostStates = 3_000_000

// explore looks at all states that can be reached, the nearest first. It returns how many there are and, if something is
// wrong, what, and the way there: to a move that breaks something, to a state that is not sound, or to one from which the
// end cannot be reached without further faults.
func explore[S comparable](start S, moves func(from S, named bool) []move[S], sound func(S) string, ended func(S) bool) (states int, way []string, wrong string) {
	type origin struct{ state, move int32 }
	all, number, from := []S{start}, map[S]int32{start: 0}, []origin{{}}
	before := [][]int32{nil} // by state: those that lead there without a fault
	trace := func(i int, last ...string) []string {
		for ; i > 0; i = int(from[i].state) {
			last = slices.Insert(last, 0, moves(all[from[i].state], true)[from[i].move].name)
		}
		return last
	}
	for i := 0; i < len(all); i++ {
		if len(all) > mostStates {
			return len(all), trace(i), "too many states"
		}
		if wrong := sound(all[i]); wrong != "" {
			return len(all), trace(i), wrong
		}
		for k, m := range moves(all[i], false) {
			if m.wrong != "" {
				return len(all), trace(i, moves(all[i], true)[k].name), m.wrong
			}
			n, known := number[m.to]
			if !known {
				n = int32(len(all))
				number[m.to] = n
				all, from, before = append(all, m.to), append(from, origin{int32(i), int32(k)}), append(before, nil)
			}
			if !m.fault {
				before[n] = append(before[n], int32(i))
			}
		}
	}
	ends := make([]bool, len(all))
	var next []int32
	for i, s := range all {
		if ended(s) {
			ends[i], next = true, append(next, int32(i))
		}
	}
	for len(next) > 0 {
		n := next[len(next)-1]
		next = next[:len(next)-1]
		for _, b := range before[n] {
			if !ends[b] {
				ends[b], next = true, append(next, b)
			}
		}
	}
	if i := slices.Index(ends, false); i >= 0 {
		return len(all), trace(i), "it never ends"
	}
	return len(all), nil, ""
}

// rules are what keeps an engine right, by where it is in the code. The zero value has them all.
type rules struct {
	noFence      bool // handOffSQL: state, attempt and claimant of the job are those of the result
	noTakeOver   bool // takeOverSQL
	noReconcile  bool // reconcile
	noLookUp     bool // addCommitted
	lateRegister bool // claimBirth: inFlight has a birth before it is sent
	noAttempt    bool // releaseSQL: the attempt of the job is that which was listed
	oneSnapshot  bool // lockLanesSQL, lockNodesSQL: locks are waited for in a statement before the one that looks
	noOrder      bool // workLane: the next call is made when the one before has succeeded
}

// claimSpace is the model of claims and hand-offs: two runners, and two messages, the second of which is born of the
// first. Each line of its moves says which part of the engine it stands for.
type claimSpace struct {
	jobs    [2]modelJob
	settled [2]modelClaim // what the attempt says that settled a message
	runners [2]modelRunner
	ghost   modelStatement // on its way, though its runner has heard that the line is broken
	over    [7]bool        // leases, by life
	begun   int8           // lives
	losses  int8           // lines that may still break
	expiry  int8           // leases of living runners that may still run out
	crashes int8
}

type modelJob struct {
	state    modelState
	by       modelClaim // while it is running
	attempts int8
}

type modelState int8

const (
	notBorn modelState = iota
	isAvailable
	isRunning
	isGone
)

// modelClaim is what stands in a running job: a runner's life, and the attempt.
type modelClaim struct{ life, attempt int8 }

type modelRunner struct {
	life    int8             // 0: it is dead
	known   [2]modelDelivery // inFlight
	old     [2]modelDelivery // those whose place in inFlight was taken by a new claim of the same runner
	fetcher modelStatement   // the fetcher claims and reconciles, one at a time
	commits modelStatement   // a committer's
}

type modelDelivery struct {
	claim modelClaim
	stage modelStage
}

type modelStage int8

const (
	unknownYet  modelStage = iota
	beingCalled            // or about to be
	hasResult
	handedOff // its result is with the committer
)

type modelStatement struct {
	kind     modelKind
	executed bool // its answer is on its way
	found    bool // the answer, of all but lists
	again    bool // an earlier try of the hand-off may have been executed
	message  int8
	claim    modelClaim
	birth    modelClaim // of the message that is born, which is registered until the answer comes; none: it is born available
	listed   [2]int8    // by message: the attempt of the claims that were listed, or are given back
}

type modelKind int8

const (
	noStatement modelKind = iota
	claiming              // claimSQL
	handingOff            // handOffSQL
	lookingUp             // addCommitted
	listing               // claimsOfSQL
	givingBack            // releaseSQL
)

func (k modelKind) String() string {
	return [...]string{"", "claim", "hand-off", "look-up", "list", "give-back"}[k]
}

func (q modelStatement) String() string {
	what := fmt.Sprintf("%s of life %d", q.kind, q.claim.life)
	if q.kind <= lookingUp {
		what = fmt.Sprintf("%s of message %d, life %d", q.kind, q.message, q.claim.life)
	}
	if q.kind == handingOff || q.kind == lookingUp {
		what += fmt.Sprintf(" attempt %d", q.claim.attempt)
	}
	if q.birth.life != 0 {
		what += ", with a claimed birth"
	}
	return what
}

// zombieClaims bounds how often a runner claims that does not know yet that its lease is over: each claim may be taken
// over at once.
const zombieClaims = 1

func newClaimSpace(losses, expiry, crashes int8) claimSpace {
	s := claimSpace{begun: 2, losses: losses, expiry: expiry, crashes: crashes}
	s.jobs[0].state = isAvailable
	s.runners[0].life, s.runners[1].life = 1, 2
	return s
}

// ended tells that both messages are settled and no runner remembers anything.
func (s claimSpace) ended() bool {
	for _, r := range s.runners {
		for m := range r.known {
			if r.known[m].stage != unknownYet || r.old[m].stage != unknownYet {
				return false
			}
		}
	}
	return s.jobs[0].state == isGone && s.jobs[1].state == isGone
}

// sound tells what is wrong with a state: a message is in one place, and is born when the first is settled.
func (s claimSpace) sound() string {
	for m, j := range s.jobs {
		if (j.state == isGone) != (s.settled[m] != modelClaim{}) {
			return fmt.Sprintf("message %d is in two places, or in none", m)
		}
	}
	if (s.jobs[1].state == notBorn) == (s.jobs[0].state == isGone) {
		return "the second message is born without the first being settled, or not born"
	}
	return ""
}

// claimMoves are the moves from a state.
type claimMoves struct {
	rules
	named bool
	from  claimSpace
	moves []move[claimSpace]
}

func (r rules) claimMoves(from claimSpace, named bool) []move[claimSpace] {
	m := &claimMoves{rules: r, named: named, from: from}
	for n, j := range from.jobs { // takeOverSQL
		if j.state == isRunning && from.over[j.by.life] && !m.noTakeOver {
			s := from
			s.jobs[n].state = isAvailable
			m.add(s, "message %d is taken over from life %d", n, j.by.life)
		}
	}
	for i := range from.runners {
		m.leases(i)
		m.works(i)
		m.goesOn(i, fetches)
		m.goesOn(i, commits)
	}
	if g := from.ghost; g.kind != noStatement { // a line was broken, and what was sent on it comes late or never
		s := from
		s.ghost = modelStatement{}
		m.add(s, "the late %v never comes", g)
		wrong := m.execute(&s, &g)
		m.add(s, "the late %v is executed", g)
		m.moves[len(m.moves)-1].wrong = wrong
	}
	return m.moves
}

func (m *claimMoves) add(to claimSpace, name string, args ...any) {
	m.moves = append(m.moves, move[claimSpace]{name: say(m.named, name, args), to: to})
}

func (m *claimMoves) addFault(to claimSpace, name string, args ...any) {
	m.moves = append(m.moves, move[claimSpace]{name: say(m.named, name, args), to: to, fault: true})
}

// say makes a name, if anybody wants to know.
func say(named bool, name string, args []any) string {
	if !named {
		return ""
	}
	return fmt.Sprintf(name, args...)
}

// leases moves what has to do with living and dying.
func (m *claimMoves) leases(i int) {
	s := m.from
	r := &s.runners[i]
	switch {
	case r.life != 0 && s.over[r.life], r.life == 0: // beat: a new life, with what calls are under way; or a new process
		s.begun++
		r.life = s.begun
		m.add(s, "runner %d begins life %d", i, r.life)
	case s.expiry > 0: // it is frozen, or cannot reach the database
		s.expiry--
		s.over[r.life] = true
		m.addFault(s, "the lease of life %d runs out", r.life)
	}
	if s = m.from; s.crashes == 0 || s.runners[i].life == 0 {
		return
	}
	r = &s.runners[i]
	s.crashes--
	s.over[r.life] = true // in the course of time
	sent := []modelStatement{{}, r.fetcher, r.commits}
	*r = modelRunner{}
	for _, q := range sent {
		if q.executed || q.kind == noStatement && q != sent[0] || q.kind != noStatement && s.ghost.kind != noStatement {
			continue
		}
		t := s
		if q.kind != noStatement {
			t.ghost = q
		}
		m.addFault(t, "runner %d crashes (%v on its way)", i, q)
	}
}

// works moves what a runner begins.
func (m *claimMoves) works(i int) {
	runner := m.from.runners[i]
	if runner.life == 0 {
		return
	}
	for n, j := range m.from.jobs {
		idle := runner.fetcher.kind == noStatement && j.state == isAvailable // else nothing would come of it
		twice := runner.knows(n) && runner.old[n].stage != unknownYet
		if idle && !twice && (!m.from.over[runner.life] || j.attempts < zombieClaims) {
			m.sends(i, fetches, modelStatement{kind: claiming, message: int8(n), claim: modelClaim{life: runner.life}})
		}
	}
	if runner.fetcher.kind == noStatement && !m.noReconcile && m.from.holds(runner.life) {
		m.sends(i, fetches, modelStatement{kind: listing, claim: modelClaim{life: runner.life}})
	}
	for n := range runner.known {
		m.delivers(i, n, func(r *modelRunner) *modelDelivery { return &r.known[n] })
		m.delivers(i, n, func(r *modelRunner) *modelDelivery { return &r.old[n] })
	}
}

// holds tells whether a life has claims, by the database.
func (s claimSpace) holds(life int8) bool {
	return slices.ContainsFunc(s.jobs[:], func(j modelJob) bool { return j.state == isRunning && j.by.life == life })
}

// delivers hands off the result of a delivery.
func (m *claimMoves) delivers(i, n int, of func(*modelRunner) *modelDelivery) {
	r := m.from.runners[i]
	d := of(&r)
	if d.stage != beingCalled || r.commits.kind != noStatement {
		return
	}
	d.stage = handedOff
	from := m.from
	m.from.runners[i] = r
	q := modelStatement{kind: handingOff, message: int8(n), claim: d.claim}
	m.sends(i, commits, q)
	if n == 0 { // claimBirth
		q.birth = modelClaim{r.life, 1}
		m.sends(i, commits, q)
	}
	m.from = from
}

// sends moves a new statement. It is executed at once, or the line breaks and it comes late, or never: that it waits for a
// while makes no difference to anyone before.
func (m *claimMoves) sends(i int, of func(*modelRunner) *modelStatement, q modelStatement) {
	s := m.from
	sent := q
	wrong := m.execute(&s, &sent)
	sent.executed = true
	*of(&s.runners[i]) = sent
	m.add(s, "runner %d: %v is executed", i, q)
	m.moves[len(m.moves)-1].wrong = wrong
	if m.from.losses > 0 && m.from.ghost.kind == noStatement {
		s = m.from
		s.losses--
		s.ghost = q
		m.hearsNothing(&q)
		*of(&s.runners[i]) = q
		m.addFault(s, "runner %d: the line breaks after %v is sent", i, s.ghost)
	}
}

// fetches and commits are the two that send a runner's statements.
func fetches(r *modelRunner) *modelStatement { return &r.fetcher }
func commits(r *modelRunner) *modelStatement { return &r.commits }

// goesOn moves a statement that is under way.
func (m *claimMoves) goesOn(i int, of func(*modelRunner) *modelStatement) {
	s := m.from
	q := of(&s.runners[i])
	switch {
	case q.kind == noStatement:
		return
	case q.executed:
		m.hears(&s, i, q)
		m.add(s, "runner %d: the answer to %v comes", i, *of(&m.from.runners[i]))
	default:
		wrong := m.execute(&s, q)
		q.executed = true
		if q.kind != handingOff { // nothing happens before the answer that would make a difference
			m.hears(&s, i, q)
		}
		m.add(s, "runner %d: %v is executed", i, *of(&m.from.runners[i]))
		m.moves[len(m.moves)-1].wrong = wrong
	}
	if m.from.losses == 0 {
		return
	}
	s = m.from
	s.losses--
	q = of(&s.runners[i])
	before := *q
	m.hearsNothing(q)
	m.addFault(s, "runner %d: the line breaks before the answer to %v comes (executed: %v)", i, before, before.executed)
	if !before.executed && s.ghost.kind == noStatement {
		s.ghost = before
		m.addFault(s, "runner %d: the line breaks after %v is sent", i, before)
	}
}

// execute is what a statement does in the database.
func (m *claimMoves) execute(s *claimSpace, q *modelStatement) (wrong string) {
	j := &s.jobs[q.message]
	switch q.kind {
	case claiming:
		if q.found = j.state == isAvailable; q.found {
			j.attempts++
			q.claim.attempt = j.attempts
			j.state, j.by = isRunning, q.claim
		}
	case handingOff:
		if q.found = j.state == isRunning && (m.noFence || j.by == q.claim); !q.found {
			return ""
		}
		if j.by != q.claim {
			wrong = fmt.Sprintf("life %d commits message %d, whose claim is life %d's, attempt %d", q.claim.life, q.message, j.by.life, j.by.attempt)
		}
		j.state, j.by, s.settled[q.message] = isGone, modelClaim{}, q.claim
		if q.message == 0 {
			s.jobs[1] = modelJob{state: isAvailable}
			if q.birth.life != 0 {
				s.jobs[1] = modelJob{state: isRunning, by: q.birth, attempts: 1}
			}
		}
	case lookingUp:
		q.found = s.settled[q.message] == q.claim
	case listing:
		for n, j := range s.jobs {
			if j.state == isRunning && j.by.life == q.claim.life {
				q.listed[n] = j.by.attempt
			}
		}
	case givingBack:
		for n := range s.jobs {
			j := &s.jobs[n]
			if q.listed[n] == 0 || j.state != isRunning || j.by.life != q.claim.life || !m.noAttempt && j.by.attempt != q.listed[n] {
				continue
			}
			for _, r := range s.runners {
				if r.life == j.by.life && r.known[n].claim == j.by && r.known[n].stage != unknownYet {
					wrong = fmt.Sprintf("the claim of message %d, attempt %d, is given back while life %d works it", n, j.by.attempt, r.life)
				}
			}
			j.state = isAvailable
		}
	}
	return wrong
}

// hears is what a runner makes of an answer.
func (m *claimMoves) hears(s *claimSpace, i int, q *modelStatement) {
	r, was := &s.runners[i], *q
	*q = modelStatement{}
	switch was.kind {
	case claiming: // fetch
		if !was.found || was.claim.life != r.life { // awaitLease: it has begun another life meanwhile
			return
		}
		if r.known[was.message].stage != unknownYet {
			r.old[was.message] = r.known[was.message]
		}
		r.known[was.message] = modelDelivery{was.claim, beingCalled}
	case handingOff, lookingUp: // handOff, finish
		if was.kind == handingOff && was.again && !was.found && !m.noLookUp {
			*q = was
			q.kind, q.executed = lookingUp, false
			return
		}
		r.forget(was)
		if was.birth.life == 0 {
			return
		}
		if was.found && was.birth.life == r.life {
			r.known[1] = modelDelivery{was.birth, beingCalled}
		}
	case listing: // reconcile
		some := false
		for n := range was.listed {
			if r.knows(n) || !m.lateRegister && n == 1 && r.commits.birth.life != 0 && r.commits.claim == s.settled[0] {
				was.listed[n] = 0
			}
			some = some || was.listed[n] != 0
		}
		if some {
			*q = modelStatement{kind: givingBack, claim: was.claim, listed: was.listed}
		}
	}
}

// knows tells whether inFlight has a message.
func (r *modelRunner) knows(n int) bool { return r.known[n].stage != unknownYet }

// forget ends the delivery whose result was handed off.
func (r *modelRunner) forget(q modelStatement) {
	if d := &r.known[q.message]; d.claim == q.claim && d.stage == handedOff {
		*d = modelDelivery{}
	}
	if d := &r.old[q.message]; d.claim == q.claim && d.stage == handedOff {
		*d = modelDelivery{}
	}
}

// hearsNothing is what a runner does when the line breaks: hand-offs are sent again, the rest is left to reconcile.
func (m *claimMoves) hearsNothing(q *modelStatement) {
	if q.kind != handingOff && q.kind != lookingUp {
		*q = modelStatement{}
		return
	}
	*q = modelStatement{kind: handingOff, message: q.message, claim: q.claim, birth: q.birth, again: true}
}

// laneSpace is the model of a lane: two producers put messages into it, two runners work it, reading ahead.
type laneSpace struct {
	head, tail int8 // messages wait at the places from head on, before tail
	token      modelState
	number     int8 // of the token: a lane that was idle gets a new one
	by         modelClaim
	succeeded  int8 // calls have succeeded for all places before
	producers  [2]int8
	runners    [2]laneRunner
	over       [5]bool
	begun      int8
	losses     int8
	expiry     int8
}

type laneRunner struct {
	life    int8
	run     laneRun
	claimed bool // a claim was executed, and its answer is on its way
	commit  laneCommit
}

// laneRun is what a runner knows of the lane whose token it has claimed.
type laneRun struct {
	number int8
	claim  modelClaim
	read   int8 // up to which place it has read
	at     int8 // the place that it is at; those before have succeeded
	from   int8 // the first whose success is not committed
	failed bool // the call at this place has failed: it stays, and the token is given back
}

// laneCommit is a hand-off of the run's results.
type laneCommit struct {
	sent, executed bool
	from, to       int8
	gives          bool // it gives the token back
	saw            int8 // the tail, when the statement began
	held, idle     bool // the answer
}

func newLaneSpace(messages int8) laneSpace {
	s := laneSpace{head: 1, tail: 1, token: isGone, succeeded: 1, begun: 2, losses: 1, expiry: 1}
	s.producers = [2]int8{messages - 1, 1}
	s.runners[0].life, s.runners[1].life = 1, 2
	return s
}

func (s laneSpace) ended() bool {
	return s.producers == [2]int8{} && s.head == s.tail && s.runners[0].run.number+s.runners[1].run.number == 0
}

// sound tells what is wrong with a state: a lane has a token if messages wait in it, and only then.
func (s laneSpace) sound() string {
	switch waits := s.head < s.tail; {
	case waits && s.token == isGone:
		return "messages wait in the lane, and it has no token"
	case !waits && s.token != isGone:
		return "nothing waits in the lane, and it has a token"
	}
	return ""
}

type laneMoves struct {
	rules
	named bool
	from  laneSpace
	moves []move[laneSpace]
}

func (m *laneMoves) add(to laneSpace, wrong, name string, args ...any) {
	m.moves = append(m.moves, move[laneSpace]{name: say(m.named, name, args), to: to, wrong: wrong})
}

func (m *laneMoves) addFault(to laneSpace, name string, args ...any) {
	m.moves = append(m.moves, move[laneSpace]{name: say(m.named, name, args), to: to, fault: true})
}

func (r rules) laneMoves(from laneSpace, named bool) []move[laneSpace] {
	m := &laneMoves{rules: r, named: named, from: from}
	for i, left := range from.producers { // laneMoves of acceptLanesSQL, under the lock of the lane
		if left == 0 {
			continue
		}
		s := from
		s.producers[i]--
		s.tail++
		if s.token == isGone {
			s.token = isAvailable
			s.number++
		}
		m.add(s, "", "producer %d puts a message at place %d", i, from.tail)
	}
	if from.token == isRunning && from.over[from.by.life] && !r.noTakeOver { // takeOverSQL
		s := from
		s.token, s.by = isAvailable, modelClaim{}
		m.add(s, "", "the token is taken over from life %d", from.by.life)
	}
	for i := range from.runners {
		m.lives(i)
		m.claims(i)
		m.works(i)
		m.commits(i)
	}
	return m.moves
}

// lives: beat, and what keeps it from renewing the lease.
func (m *laneMoves) lives(i int) {
	s := m.from
	switch r := &s.runners[i]; {
	case s.over[r.life]:
		s.begun++
		r.life = s.begun
		m.add(s, "", "runner %d begins life %d", i, r.life)
	case s.expiry > 0:
		s.expiry--
		s.over[r.life] = true
		m.addFault(s, "the lease of life %d runs out", r.life)
	}
}

// claims: claimSQL, and reconcile.
func (m *laneMoves) claims(i int) {
	s := m.from
	r := &s.runners[i]
	switch {
	case r.claimed: // fetch: newRun
		r.claimed = false
		if s.by.life == r.life && s.token == isRunning {
			r.run = laneRun{number: s.number, claim: s.by}
		}
		m.add(s, "", "runner %d has its claim of the token", i)
		if s = m.from; s.losses > 0 {
			s.losses--
			s.runners[i].claimed = false
			m.addFault(s, "the answer to the claim of runner %d is lost", i)
		}
	case r.run.number == 0 && s.token == isAvailable:
		attempt := int8(1) // one that nobody remembers: attempts count on, but which they are does not matter
		for slices.ContainsFunc(s.runners[:], func(o laneRunner) bool { return o.run.number == s.number && o.run.claim.attempt == attempt }) {
			attempt++
		}
		s.token, s.by, r.claimed = isRunning, modelClaim{r.life, attempt}, true
		m.add(s, "", "the token is claimed for life %d", r.life)
	case s.token == isRunning && s.by.life == r.life && r.run.number == 0 && !m.noReconcile:
		s.token, s.by = isAvailable, modelClaim{}
		m.add(s, "", "runner %d gives back a claim that it does not know", i)
	}
}

// works: workLane.
func (m *laneMoves) works(i int) {
	s := m.from
	r := &s.runners[i]
	run := &r.run
	switch {
	case run.number == 0 || run.failed || r.commit.gives:
	case run.at < run.read: // attempt: however long the call takes
		var wrong string
		if run.at > s.succeeded {
			wrong = fmt.Sprintf("place %d is called before place %d has succeeded", run.at, s.succeeded)
		}
		run.failed = true
		m.add(s, wrong, "the call of life %d for place %d fails", run.claim.life, run.at)
		run.failed = false
		run.at++
		if m.noOrder {
			m.add(s, wrong, "life %d does not wait for its call for place %d", run.claim.life, run.at-1)
		}
		s.succeeded = max(s.succeeded, run.at)
		m.add(s, wrong, "the call of life %d for place %d succeeds", run.claim.life, run.at-1)
	case s.number == run.number: // readOn: readLanesSQL asks that the lane still has this token
		run.at = max(run.at, s.head)
		run.read = s.tail
		if run.from == 0 {
			run.from = run.at
		}
		if s != m.from {
			m.add(s, "", "life %d reads the lane from place %d, before %d", run.claim.life, run.at, run.read)
		}
	}
}

// commits: handOffLanesSQL, and yield.
func (m *laneMoves) commits(i int) {
	s := m.from
	r := &s.runners[i]
	run, c := &r.run, &r.commit
	switch {
	case !c.sent && run.number != 0:
		*c = laneCommit{sent: true, from: run.from, to: run.at, gives: run.failed || run.at == run.read}
		name := fmt.Sprintf("life %d hands off its results before place %d", run.claim.life, c.to)
		var wrong string
		if m.oneSnapshot {
			c.saw = s.tail
		} else {
			wrong = m.execute(&s, run, c)
		}
		m.add(s, wrong, "%s (token given back: %v, claim held: %v)", name, c.gives, c.held)
	case c.sent && !c.executed: // it had to wait for the lock
		wrong := m.execute(&s, run, c)
		m.add(s, wrong, "the hand-off of life %d has the lock (claim held: %v)", run.claim.life, c.held)
	case c.executed:
		answer := *c
		*c = laneCommit{}
		if run.from = answer.to; !answer.held || answer.idle || answer.gives { // endRun
			*run = laneRun{}
		}
		m.add(s, "", "runner %d hears of its hand-off (claim held: %v, lane idle: %v)", i, answer.held, answer.idle)
		if s = m.from; s.losses > 0 { // addCommitted: what was committed is known, and the claim is not: reconcile
			s.losses--
			s.runners[i].commit, s.runners[i].run = laneCommit{}, laneRun{}
			m.addFault(s, "runner %d hears nothing of its hand-off", i)
		}
	}
}

func (m *laneMoves) execute(s *laneSpace, run *laneRun, c *laneCommit) (wrong string) {
	c.executed = true
	c.held = s.token == isRunning && s.number == run.number && (m.noFence || s.by == run.claim)
	if !c.held {
		return ""
	}
	if s.by != run.claim && c.from < c.to {
		wrong = fmt.Sprintf("life %d commits without the claim", run.claim.life)
	}
	tail := s.tail
	if m.oneSnapshot {
		tail = c.saw
	}
	if c.to > c.from && c.from != s.head {
		wrong = fmt.Sprintf("place %d leaves before place %d", c.from, s.head)
	}
	s.head = max(s.head, c.to)
	switch c.idle = s.head >= tail; {
	case c.idle:
		s.token, s.by = isGone, modelClaim{}
	case c.gives:
		s.token, s.by = isAvailable, modelClaim{}
	}
	return wrong
}

// limitSpace is the model of a node that is called twice at once at most, by three runners that claim.
type limitSpace struct {
	calls   int8
	left    int8 // messages that wait
	runners [3]limitRunner
}

type limitRunner struct {
	asks, calls bool
	saw         int8 // calls, when its statement began
}

const modelLimit = 2

func (r rules) limitMoves(from limitSpace, _ bool) (moves []move[limitSpace]) {
	for i, runner := range from.runners {
		s := from
		r2 := &s.runners[i]
		name := fmt.Sprintf("runner %d ", i)
		switch {
		case runner.calls:
			*r2 = limitRunner{}
			s.calls--
			name += "has its answer"
		case runner.asks: // lockNodesSQL has the lock now; claimLimitedSQL counts
			counted := s.calls
			if r.oneSnapshot {
				counted = runner.saw
			}
			*r2 = limitRunner{}
			if counted < modelLimit && s.left > 0 {
				s.left--
				s.calls++
				r2.calls = true
			}
			name += fmt.Sprintf("has the lock, and counts %d", counted)
		case s.left > 0:
			*r2 = limitRunner{asks: true, saw: s.calls}
			name += "sends a claim"
		default:
			continue
		}
		moves = append(moves, move[limitSpace]{name: name, to: s})
	}
	return moves
}

func (s limitSpace) sound() string {
	if s.calls > modelLimit {
		return fmt.Sprintf("%d calls at once", s.calls)
	}
	return ""
}

func (s limitSpace) ended() bool { return s.left == 0 && s.calls == 0 }

// spaceCase is a space without some rules, and what then goes wrong, by words of it.
type spaceCase struct {
	name  string
	rules rules
	wrong string // "": nothing
}

// prove explores the spaces that begin with the given states, until something is wrong.
func prove[S comparable](t *testing.T, c spaceCase, moves func(S, bool) []move[S], sound func(S) string, ended func(S) bool, starts ...S) {
	t.Helper()
	var wrong string
	for _, from := range starts {
		began := time.Now()
		states, way, found := explore(from, moves, sound, ended)
		t.Logf("%d states in %v", states, time.Since(began).Round(time.Millisecond))
		if wrong = found; wrong != "" {
			t.Logf("%s:\n  %s", wrong, strings.Join(way, "\n  "))
			break
		}
	}
	if (wrong == "") != (c.wrong == "") || !strings.Contains(wrong, c.wrong) {
		t.Errorf("wrong is %q, want %q", wrong, c.wrong)
	}
}

// Whatever two runners do and whatever is lost between them and the database, each message is settled once, by the holder
// of its claim, and in the end all are; without one of the rules there is a way in which that is not so.
func TestClaimSpace(t *testing.T) {
	t.Parallel()
	for _, c := range []spaceCase{
		{name: "all rules"},
		{name: "no look-up of what was committed", rules: rules{noLookUp: true}}, // a detour: see reconcile
		{name: "no fence", rules: rules{noFence: true}, wrong: "commits message"},
		{name: "no take-over", rules: rules{noTakeOver: true}, wrong: "never ends"},
		{name: "no reconcile", rules: rules{noReconcile: true}, wrong: "never ends"},
		{name: "births registered late", rules: rules{lateRegister: true}, wrong: "given back while"},
		{name: "claims given back by number alone", rules: rules{noAttempt: true}, wrong: "given back while"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			faults := []claimSpace{newClaimSpace(2, 0, 0), newClaimSpace(0, 0, 1), newClaimSpace(1, 1, 0)} // enough to show what a rule is for
			switch {
			case c.wrong == "" && *full:
				faults = []claimSpace{newClaimSpace(1, 1, 1), newClaimSpace(2, 1, 0), newClaimSpace(0, 2, 1), newClaimSpace(3, 0, 1)}
			case c.rules == rules{}:
				faults = []claimSpace{newClaimSpace(1, 1, 0), newClaimSpace(0, 1, 1), newClaimSpace(2, 0, 1)}
			}
			prove(t, c, c.rules.claimMoves, claimSpace.sound, claimSpace.ended, faults...)
		})
	}
}

// A lane that two producers fill and two runners work has a token whenever messages wait in it, its messages are called
// in order and leave in order, and in the end all have left.
func TestLaneSpace(t *testing.T) {
	t.Parallel()
	for _, c := range []spaceCase{
		{name: "all rules"},
		{name: "no fence", rules: rules{noFence: true}, wrong: "commits without the claim"},
		{name: "no take-over", rules: rules{noTakeOver: true}, wrong: "never ends"},
		{name: "no reconcile", rules: rules{noReconcile: true}, wrong: "never ends"},
		{name: "lock and look in one statement", rules: rules{oneSnapshot: true}, wrong: "it has no token"},
		{name: "calls without waiting for the one before", rules: rules{noOrder: true}, wrong: "is called before"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			prove(t, c, c.rules.laneMoves, laneSpace.sound, laneSpace.ended, newLaneSpace(int8(bySize(2, 3))))
		})
	}
}

// The calls of a node are counted right if they are counted after its lock was waited for.
func TestLimitSpace(t *testing.T) {
	t.Parallel()
	for _, c := range []spaceCase{
		{name: "all rules"},
		{name: "lock and count in one statement", rules: rules{oneSnapshot: true}, wrong: "3 calls at once"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			prove(t, c, c.rules.limitMoves, limitSpace.sound, limitSpace.ended, limitSpace{left: 4})
		})
	}
}
