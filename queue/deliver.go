package queue

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"sluice/limiter"
	"sluice/queue/process"
	"sluice/queue/topology"
	"sluice/queue/worker"
)

// outcome is how an attempt ended; the words are those of the type sluice.outcome.
type outcome string

const (
	outcomeDone        outcome = "done"
	outcomeFiltered    outcome = "filtered"
	outcomePage        outcome = "page"
	outcomeRepeat      outcome = "repeat"
	outcomeRetried     outcome = "retried"
	outcomeUnavailable outcome = "unavailable"
	outcomeFailed      outcome = "failed"
	outcomeParked      outcome = "parked"
)

// settlement is a delivery with its outcome: what the hand-off commits. One with nothing but a run tells a committer that
// the run has settlements for it.
type settlement struct {
	run        *run
	d          *delivery
	outcome    outcome
	status     int
	duration   time.Duration
	reason     string
	class      process.Class    // of failed and parked
	delay      time.Duration    // of repeat and retried, and until a parked message is due; 0: it is not
	failures   int              // attempts used up, for one that stays
	cursor     string           // of the next page; of repeat, if it takes the place of the delivery's
	response   *worker.Response // of a worker that did not take the message; nil: none came
	successors []successor
	entityKeys map[topology.EntityKey]bool // of the successors
	room       worker.Room                 // what the reply takes; nil: nothing
	refused    bool                        // it stands for one that Postgres refused
	committed  bool                        // of one under a token, when its run has been told; guarded by its lock until then
}

// drop gives back what a settlement takes of memories, when it is decided.
func (s *settlement) drop() {
	s.d.hold.Release()
	if s.room != nil {
		s.room.Release()
	}
}

// leaves tells whether the message leaves its edge.
func (s *settlement) leaves() bool {
	return s.outcome == outcomeDone || s.outcome == outcomeFiltered || s.outcome == outcomeFailed || s.outcome == outcomeParked
}

// nextPage is the delivery of a batch's next page. A large body is loaded again.
func (s *settlement) nextPage() *delivery {
	next := *s.d
	next.page, next.cursor, next.failures, next.grant = s.d.page+1, s.cursor, 0, nil
	if next.size > smallBody {
		next.body, next.hold = nil, hold{}
	}
	return &next
}

// successor is a message to be born.
type successor struct {
	edge    *edge
	headers map[string]string
	encoded string
	body    []byte
	shares  int                  // the body is stored with the successor that many places before this one; 0: see payload
	payload int64                // the message that the body is stored with; 0: this one
	keys    []topology.EntityKey // that no other of the settlement has
}

// size is what the settlement weighs in a flush.
func (s *settlement) size() int {
	n := 200 + len(s.d.body)
	for i := range s.successors {
		n += 200 + len(s.successors[i].body) + len(s.successors[i].encoded)
	}
	return n
}

func (n *node) isBatch() bool { return n.Kind == topology.Batch }

// deliver calls the worker with a message and gives the outcome to the hand-off. The message's slot is taken until the
// hand-off has room for it.
func (e *Engine) deliver(d *delivery) {
	switch s, lost := e.attempt(d); {
	case s != nil:
		e.settle(s)
	case lost:
		e.abandon(d)
		e.askReconcile() // when the runner stops, others need not wait for its end
	default:
		e.giveBack(d)
	}
}

// attempt calls the worker with a message. There is no result if the lease is lost, or the runner stops: then whoever
// gets the message works it; or if there was no call, or it was cut off: then the claim is still good, and is to be given
// back.
func (e *Engine) attempt(d *delivery) (_ *settlement, lost bool) {
	if d.headers == nil && d.encoded != "{}" {
		if err := json.Unmarshal([]byte(d.encoded), &d.headers); err != nil {
			return &settlement{d: d, outcome: outcomeFailed, class: process.ClassStorage, reason: "its stored headers cannot be read: " + err.Error()}, false
		}
	}
	if !e.mayCall(d) {
		return nil, false
	}
	if !e.fill(d) || !e.awaitLease(d) {
		return nil, true
	}
	n := d.edge.to
	if n.Kind == topology.Breakpoint {
		return park(d), false
	}
	target, err := e.catalog.worker(e.callCtx, n.worker)
	if err != nil {
		return e.missWorker(d, err), false
	}
	if !e.awaitStart(d) {
		return nil, false
	}
	timeout := time.Duration(n.Timeout)
	start := time.Now()
	v := d.edge.version
	result, err := e.config.Caller.Call(e.callCtx, target, worker.Request{
		Action:        n.Action,
		MessageID:     d.messageID(),
		CorrelationID: d.process.String(),
		Topology:      v.Topology,
		Version:       v.Number,
		Node:          n.Name,
		Kind:          string(n.Kind),
		Followers:     n.Followers,
		Application:   n.Application,
		Attempt:       d.attempt,
		Page:          d.page,
		Cursor:        d.cursor,
		Headers:       d.headers,
		Body:          d.body,
		Deadline:      start.Add(timeout),
	})
	s := &settlement{d: d, status: result.Status, duration: time.Since(start), room: result.Room}
	var failure *worker.Failure
	switch {
	case err == nil:
		e.reached(n, false)
		e.hear(d, result.Rates, false)
		s.read(result)
	case !errors.As(err, &failure):
		failure = &worker.Failure{Class: worker.Transient, Reason: err.Error()}
		fallthrough
	default:
		if failure.Class == worker.Cancelled {
			return nil, false
		}
		e.noteFailure(n, failure)
		e.hear(d, failure.Rates, failure.Class == worker.Limited)
		s.status, s.response = failure.Status, failure.Response
		s.fail(failure)
	}
	return s, false
}

// settle waits until the hand-off takes the settlement.
func (e *Engine) settle(s *settlement) {
	if s.d != nil && s.d.run == nil && s.size() > largeBytes {
		e.largeSettled <- s
		return
	}
	e.settled <- s
	e.handOffHelp.offer(len(e.settled))
}

// awaitLease waits until the lease is surely valid. It returns false if the lease is lost or calls are cut off.
func (e *Engine) awaitLease(d *delivery) bool {
	for !d.life.fresh() {
		if d.life.dead.Load() || e.callCtx.Err() != nil {
			return false
		}
		pause(e.callCtx, 3)
	}
	return true
}

// missWorker treats a worker that is not registered like one that is down: the message waits for it. When the registry
// itself cannot be read, that says nothing about the worker, and there is no result.
func (e *Engine) missWorker(d *delivery, err error) *settlement {
	reason := fmt.Sprintf("no worker named %s is registered", d.edge.to.Worker)
	switch {
	case isSecretTrouble(err):
		reason = worker.Clean(err.Error())
	case !errors.Is(err, ErrNoWorker):
		pause(e.callCtx, 5)
		return nil
	}
	f := &worker.Failure{Class: worker.Unavailable, Reason: reason}
	e.noteFailure(d.edge.to, f)
	s := &settlement{d: d}
	s.fail(f)
	return s
}

// read turns a worker's reply into an outcome.
func (s *settlement) read(r worker.Result) {
	n := s.d.edge.to
	s.failures = s.d.failures // a wait uses up no attempt, and gives none back
	switch r.Verdict {
	case worker.Stop:
		s.outcome, s.reason = outcomeFiltered, r.Reason
		return
	case worker.Repeat:
		s.outcome, s.reason, s.delay, s.cursor = outcomeRepeat, r.Reason, r.After, r.Cursor
		return
	}
	s.outcome, s.reason = outcomeDone, r.Reason
	if n.isBatch() && r.Cursor != "" {
		s.outcome, s.cursor, s.failures = outcomePage, r.Cursor, 0
	}
	for _, m := range r.Messages {
		targets := n.next
		if m.Followers != nil {
			targets = targets[:0:0]
			for _, name := range m.Followers {
				to := n.byName[name]
				if to == nil {
					known := slices.Sorted(maps.Keys(n.byName))
					s.giveUp("worker %s sent a message to %q, which is no follower of node %s (followers: %v)", n.Worker, name, n.Name, known)
					return
				}
				if !slices.Contains(targets, to) {
					targets = append(targets, to)
				}
			}
		}
		if s.addSuccessors(m, targets); len(s.successors) > maxSuccessors {
			s.giveUp("worker %s made more than %d messages of one, counted by follower", n.Worker, maxSuccessors)
			return
		}
	}
}

// giveUp fails a message whose result cannot be used.
func (s *settlement) giveUp(reason string, args ...any) {
	s.outcome, s.class, s.successors, s.cursor = outcomeFailed, process.ClassReply, nil, ""
	s.reason = fmt.Sprintf(reason, args...)
}

// addSuccessors puts one message on each of the target edges. Its body is stored once: with the first, or not at all
// when it is the body that came.
func (s *settlement) addSuccessors(m worker.Message, targets []*edge) {
	encoded, changed := s.d.encoded, !sameMap(m.Headers, s.d.headers)
	if len(m.Headers) == 0 {
		encoded = "{}"
	} else if changed {
		encoded, _ = marshalHeaders(m.Headers) // a map of strings always encodes
	}
	for i, to := range targets {
		next := successor{edge: to, headers: m.Headers, encoded: encoded, body: m.Body}
		switch {
		case m.SameBody:
			next.body, next.payload = s.d.body, s.d.payload
		case i > 0:
			next.shares = i
		case next.body == nil:
			next.body = []byte{}
		}
		if i == 0 && (changed || !m.SameBody) { // as it is, it has the keys that came
			next.keys = s.newEntityKeys(m.Headers, next.body)
		}
		s.successors = append(s.successors, next)
	}
}

func sameMap(a, b map[string]string) bool { return len(a) == len(b) && maps.Equal(a, b) }

// fail decides what a failed call comes to: another attempt, a wait for the worker, or the trash.
func (s *settlement) fail(f *worker.Failure) {
	n := s.d.edge.to
	s.reason = f.Reason
	var asked time.Duration // how long the worker asked to be left alone
	if n.Retry.RetryAfter != topology.RetryAfterIgnore {
		asked = f.RetryAfter
	}
	waits := n.Retry.Outage != topology.OutageCount
	switch {
	case f.Class == worker.Rejected:
		s.outcome, s.class = outcomeFailed, process.ClassRejected
	case f.Class == worker.Unavailable && waits && asked == 0:
		// Back to its place on the edge: the circuit to the worker decides when the next call is made.
		s.outcome, s.failures = outcomeUnavailable, s.d.failures
	case (f.Class == worker.Unavailable || f.Class == worker.Limited) && waits:
		s.outcome, s.failures = outcomeRetried, s.d.failures
		s.delay = max(backoff(n.Retry, 1), asked)
	case s.d.failures+1 < n.Retry.Attempts:
		s.outcome, s.failures = outcomeRetried, s.d.failures+1
		s.delay = max(backoff(n.Retry, s.failures), asked)
	default:
		s.outcome, s.class = outcomeFailed, process.ClassExhausted
		if errors.Is(f, worker.ErrProtocol) {
			s.class = process.ClassReply
		}
		if n.Retry.Attempts > 1 {
			s.reason = fmt.Sprintf("%s (after %d attempts)", f.Reason, n.Retry.Attempts)
		}
	}
}

func backoff(r topology.Retry, failures int) time.Duration {
	b := limiter.Backoff{Initial: time.Duration(r.Initial), Factor: r.Factor, Max: time.Duration(r.Max), Jitter: r.Jitter}
	return b.After(failures, 2*rand.Float64()-1)
}

// reached notes that a node's worker answers, and how. When that closes its circuit, the edges that waited for it are
// looked at again.
func (e *Engine) reached(n *node, failed bool) {
	key := n.worker
	e.mu.Lock()
	n.brake.Note(failed)
	b := e.breakers[key]
	if b == nil {
		e.mu.Unlock()
		return
	}
	closed := b.Reached()
	if closed {
		delete(e.breakers, key)
		e.pokeFetcher()
	}
	e.mu.Unlock()
	if closed {
		e.log.Info("Worker answers again", "worker", key.name, "tenant_id", key.tenant)
		e.markWorker(key, "")
	}
}

// noteFailure tells a worker's circuit how a call failed. Any failure but an unavailable worker's shows that it was
// reached, and closes the circuit.
func (e *Engine) noteFailure(n *node, f *worker.Failure) {
	if f.Class != worker.Unavailable {
		e.reached(n, f.Class != worker.Rejected) // one that rejects a message has worked it
		return
	}
	key := n.worker
	e.mu.Lock()
	b := e.breakers[key]
	if b == nil {
		b = &limiter.Breaker{}
		e.breakers[key] = b
	}
	opened := b.Unreached(time.Now(), f.RetryAfter)
	e.mu.Unlock()
	if opened {
		e.log.Warn("Worker unavailable, its messages wait", "worker", key.name, "tenant_id", key.tenant, "err", f.Reason)
		e.markWorker(key, f.Reason)
	}
}
