package queue

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"sluice/queue/process"
)

// handOffLoop commits the settlements that have gathered, then those that gathered meanwhile: at rest a hand-off waits
// for nobody, under load it is shared by hundreds. It counts in a slot of its own.
func (e *Engine) handOffLoop(slot int16) {
	for first := range e.settled {
		e.handOffHelp.during(func() { e.commitFrom(slot, first, e.settled) })
	}
}

// helpLoop commits beside a handOffLoop.
func (e *Engine) helpLoop(slot int16) {
	for {
		select {
		case <-e.callsOver:
			return
		case <-e.handOffHelp.wanted:
		}
		select {
		case first, ok := <-e.settled:
			if ok {
				e.commitFrom(slot, first, e.settled)
			}
		default:
		}
	}
}

// largeLoop is handOffLoop for large settlements, which have loops of their own so that small ones never wait for megabytes
// to be written.
func (e *Engine) largeLoop(slot int16) {
	for first := range e.largeSettled {
		e.commitFrom(slot, first, e.largeSettled)
	}
}

// commitFrom commits a settlement with those that wait, and then the rest of the runs among them.
func (e *Engine) commitFrom(slot int16, first *settlement, settled <-chan *settlement) {
	g := gathering{}
	g.add(first)
	for {
	gather:
		for len(g.batch) < flushItems && g.size < flushBytes {
			select {
			case s, ok := <-settled:
				if !ok {
					break gather
				}
				g.add(s)
			default:
				break gather
			}
		}
		if len(g.batch) > 0 {
			e.handOff(slot, g.batch)
		}
		next := gathering{}
		for _, r := range g.runs {
			if r.release() { // it had more for this committer than it took
				next.addRun(r)
			}
		}
		if len(next.runs) == 0 {
			return
		}
		g = next
	}
}

// gathering is what is to be committed together.
type gathering struct {
	batch []*settlement
	size  int
	runs  []*run // whose results are among it
}

func (g *gathering) add(s *settlement) {
	if s.run != nil {
		g.addRun(s.run)
		return
	}
	g.batch, g.size = append(g.batch, s), g.size+s.size()
}

func (g *gathering) addRun(r *run) {
	g.runs = append(g.runs, r)
	for _, s := range r.take(flushItems-len(g.batch), flushBytes-g.size) {
		g.batch, g.size = append(g.batch, s), g.size+s.size()
	}
}

// handOff commits a batch until it is decided. The births are registered once and keep their ids through all tries, so
// that a try whose answer was lost is recognised. A settlement that Postgres refuses is found by halving, and goes to
// the trash alone.
func (e *Engine) handOff(slot int16, batch []*settlement) {
	ctx := e.dbCtx
	f, err := e.newFlush(ctx, batch)
	for try := 0; err != nil; try++ { // ids could not be taken: nothing was sent
		if ctx.Err() != nil {
			e.leave(batch)
			return
		}
		pause(ctx, try)
		f, err = e.newFlush(ctx, batch)
	}
	for try := 0; ; try++ {
		done, news, err := e.send(ctx, slot, f)
		if err == nil && try > 0 && slices.Contains(done, false) {
			err = e.addCommitted(ctx, f, done)
			news.woke = append(news.woke, f.born.edges...) // nobody knows which: look at all
		}
		if err == nil {
			e.finish(f, done, news)
			return
		}
		if ctx.Err() != nil {
			e.abandonAll(f.claims)
			e.leave(batch)
			return
		}
		if !isRefused(err) {
			e.log.WarnContext(ctx, "Hand-off not committed, trying again", "count", len(batch), "try", try+1, "err", err)
			pause(ctx, try)
			continue
		}
		e.abandonAll(f.claims)
		if len(batch) > 1 {
			e.handOff(slot, batch[:len(batch)/2])
			e.handOff(slot, batch[len(batch)/2:])
			return
		}
		e.refuse(slot, batch[0], err)
		return
	}
}

// leave gives results up that could not be committed before the engine had to stop. Their claims stay behind, and their
// messages are worked again when the lease is out.
func (e *Engine) leave(batch []*settlement) {
	e.log.Warn("Results not committed before the stop, their messages will be worked again", "count", len(batch))
	for _, s := range batch {
		if s.d.run != nil {
			s.d.run.conclude(s, false, false, false)
			continue
		}
		e.abandon(s.d)
		s.drop()
	}
}

// refuse sends a settlement that Postgres does not take to the trash: without its successors, and with a reason made of
// Postgres's words.
func (e *Engine) refuse(slot int16, s *settlement, err error) {
	if s.refused { // this is the refusal: give the message back, and say so
		e.log.Error("Message cannot be settled", "message_id", s.d.messageID(), "err", err)
		if r := s.d.run; r != nil {
			e.giveBack(r.token)
			r.conclude(s, false, false, false)
			return
		}
		s.drop()
		e.giveBack(s.d)
		return
	}
	said := err.Error()
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		said = pg.Message
	}
	e.handOff(slot, []*settlement{{
		d: s.d, outcome: outcomeFailed, status: s.status, duration: s.duration, class: process.ClassStorage, refused: true, room: s.room,
		reason: fmt.Sprintf("worker %s gave a result that Postgres refuses: %q", s.d.edge.to.Worker, said),
	}})
}

// flush is the arguments of one hand-off, and the deliveries that its births become.
type flush struct {
	batch  []*settlement
	claims []*delivery // by birth; nil: not claimed
	births []*edge
	parent []int // by birth: index in batch
	life   *life
	items  itemArrays
	born   bornArrays

	ordered bool       // some of it is about lanes
	worked  []laneName // lanes that results are of
	comes   []laneName // lanes that births come to
	spots   spotArrays
	held    bornHold
	keys    entityArrays
}

// itemArrays and bornArrays are the arguments of handOffSQL, a column each.
type itemArrays struct {
	ids       []int64
	attempts  []int16
	runners   []string
	tenants   []int64
	processes [][16]byte
	edges     []int64
	outcomes  []string
	statuses  []int32
	durations []int32
	reasons   []string
	pages     []int32
	delays    []int64
	failures  []int32
	cursors   []string
	made      []int32
	sizes     []int32
	classes   []string
	causes    []int64
	responses []string
}

type bornArrays struct {
	parents, ids, edges, payloads []int64
	states                        []string
	headers                       []string
	bodyAt                        []int32 // where its own body is in bodies, from 1
	bodies                        []byte
	sizes                         []int32
}

// spotArrays say for each item and birth where in which lane it is.
type spotArrays struct {
	lanes  []int64
	keys   []string
	places []int64
	tokens []int64
	claims []int16

	bornLanes []int64
	bornKeys  []string
}

// The states in which a message is born.
const (
	bornWaiting = "available"
	bornClaimed = "running"
	bornInLane  = "lane"
)

// newFlush gives the successors their ids and claims those that there is room for. The calls of the batch are over, so
// their slots are free; successors take them before the fetcher can, so that a process that has begun goes on before the
// next begins.
func (e *Engine) newFlush(ctx context.Context, batch []*settlement) (*flush, error) {
	total, size := 0, 0
	for _, s := range batch {
		total += len(s.successors)
		for k := range s.successors {
			if next := &s.successors[k]; next.payload == 0 && next.shares == 0 {
				size += len(next.body)
			}
		}
	}
	ids, err := e.ids.take(ctx, total)
	if err != nil {
		return nil, err
	}
	f := &flush{batch: batch, life: e.lifeIfRunning(), claims: make([]*delivery, 0, total), births: make([]*edge, 0, total), parent: make([]int, 0, total)}
	f.born.bodies = make([]byte, 0, size)
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, s := range batch {
		if s.outcome != outcomePage { // the batch message keeps its slot for the next page
			e.release(s.d)
		}
	}
	for i, s := range batch {
		f.items.add(s)
		f.addSpot(s.d)
		first := len(f.born.ids)
		for k := range s.successors {
			next := &s.successors[k]
			id := ids[len(f.born.ids)]
			payload, body := next.payload, next.body
			if next.shares > 0 {
				payload = f.born.ids[first+k-next.shares]
			}
			if payload != 0 {
				body = nil
			}
			d := e.claimBirth(f.life, next.edge, id, len(next.body))
			state, limit := bornWaiting, int64(0)
			switch {
			case d != nil:
				d.load(s.d.process, next.headers, next.encoded, next.body, cmp.Or(payload, id))
				state = bornClaimed
			case next.edge.to.Ordered():
				state = bornInLane
			default:
				limit = e.catalog.limitOf(next.edge)
			}
			if limit != 0 {
				state = bornHeld
			}
			f.held.add(next.edge, limit, next.headers)
			f.addBirthSpot(next)
			f.keys.add(s.d.edge.tenant, s.d.process, id, next.keys)
			f.claims = append(f.claims, d)
			f.births = append(f.births, next.edge)
			f.parent = append(f.parent, i)
			f.born.add(i, id, payload, state, next, body)
		}
	}
	return f, nil
}

func (a *itemArrays) add(s *settlement) {
	d := s.d
	a.ids = append(a.ids, d.id)
	a.attempts = append(a.attempts, int16(d.attempt))
	a.runners = append(a.runners, d.life.claimant)
	a.tenants = append(a.tenants, d.edge.tenant)
	a.processes = append(a.processes, d.process)
	a.edges = append(a.edges, d.edge.id)
	a.outcomes = append(a.outcomes, string(s.outcome))
	a.statuses = append(a.statuses, int32(s.status))
	a.durations = append(a.durations, int32(min(s.duration.Microseconds(), 1<<31-1)))
	a.reasons = append(a.reasons, s.reason)
	a.pages = append(a.pages, int32(d.page))
	a.delays = append(a.delays, s.delay.Microseconds())
	a.failures = append(a.failures, int32(s.failures))
	cursor := s.cursor
	if s.leaves() {
		cursor = d.cursor // which is over
	}
	a.cursors = append(a.cursors, cursor)
	a.made = append(a.made, int32(len(s.successors)))
	a.sizes = append(a.sizes, int32(d.size))
	var cause int64
	switch s.outcome {
	case outcomeFailed:
		cause = process.HashOf(process.CauseOf(s.reason))
	case outcomeParked: // titles differ in more than numbers
		cause = process.HashOf(process.CauseOf(parkedReason(d.edge.to)))
	}
	a.classes, a.causes, a.responses = append(a.classes, string(s.class)), append(a.causes, cause), append(a.responses, s.evidence())
}

// evidence is what the worker answered to a message that it did not take, as JSON; "": nothing is kept.
func (s *settlement) evidence() string {
	if s.response == nil {
		return ""
	}
	text, err := json.Marshal(s.response)
	if err != nil { // of texts and bytes, which always encode
		return ""
	}
	return string(text)
}

func (a *bornArrays) add(parent int, id, payload int64, state string, next *successor, body []byte) {
	a.parents = append(a.parents, int64(parent)+1) // Postgres counts from 1
	a.ids = append(a.ids, id)
	a.edges = append(a.edges, next.edge.id)
	a.payloads = append(a.payloads, payload)
	a.states = append(a.states, state)
	a.headers = append(a.headers, next.encoded)
	a.bodyAt, a.bodies = append(a.bodyAt, int32(len(a.bodies)+1)), append(a.bodies, body...)
	a.sizes = append(a.sizes, int32(len(next.body)))
}

// addSpot says where in its lane an item is.
func (f *flush) addSpot(d *delivery) {
	s, lane := &f.spots, laneName{}
	var token int64
	var claim int16
	if r := d.run; r != nil {
		f.ordered, lane, token, claim = true, r.lane, r.token.id, int16(r.token.attempt)
		f.worked = append(f.worked, lane)
	}
	s.lanes, s.keys, s.places = append(s.lanes, lane.edge), append(s.keys, lane.key), append(s.places, d.place)
	s.tokens, s.claims = append(s.tokens, token), append(s.claims, claim)
}

// addBirthSpot says to which lane a birth comes.
func (f *flush) addBirthSpot(next *successor) {
	lane := laneName{}
	if next.edge.to.Ordered() {
		lane = next.edge.laneOf(next.headers, next.body)
		f.ordered, f.comes = true, append(f.comes, lane)
	}
	f.spots.bornLanes, f.spots.bornKeys = append(f.spots.bornLanes, lane.edge), append(f.spots.bornKeys, lane.key)
}

// send runs the statement and tells which of the batch were handed off, and what became of lanes.
func (e *Engine) send(ctx context.Context, slot int16, f *flush) (done []bool, news laneNews, err error) {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	i, b := &f.items, &f.born
	order := func(a, b [16]byte) int { return bytes.Compare(a[:], b[:]) }
	args := []any{
		i.ids, i.attempts, i.runners, i.tenants, i.processes, i.edges, i.outcomes, i.statuses, i.durations, i.made, i.sizes,
		b.parents, b.ids, b.edges, b.payloads, b.states, b.headers, b.bodyAt, b.sizes,
		f.life.name(), slot, slices.MinFunc(i.processes, order), slices.MaxFunc(i.processes, order), b.bodies,
	}
	done = make([]bool, len(f.batch))
	if f.plain() {
		return done, news, queryWith(ctx, e.pool, statement{handOffDoneSQL, args}, func(rows pgx.Rows) error { return noteDone(rows, done) }, &f.keys)
	}
	args = append(args, i.reasons, i.pages, i.delays, i.failures, i.cursors, i.classes, i.causes, i.responses)
	if !f.ordered {
		sql := handOffSQL
		if f.held.any() {
			sql, args = handOffHeldSQL, append(args, f.held.args()...)
		}
		return done, news, queryWith(ctx, e.pool, statement{sql, args}, func(rows pgx.Rows) error { return noteDone(rows, done) }, &f.keys)
	}
	s := &f.spots
	batch := &pgx.Batch{}
	queueLanes(batch, f.comes, f.worked)
	sql := handOffLanesSQL
	args = append(args, s.lanes, s.keys, s.places, s.tokens, s.claims, s.bornLanes, s.bornKeys)
	if f.held.any() {
		sql, args = handOffLanesHeldSQL, append(args, f.held.args()...)
	}
	batch.Queue(sql, args...).
		Query(func(rows pgx.Rows) error { return news.read(rows, func(n int64) { done[n-1] = true }) })
	f.keys.queue(batch)
	return done, news, e.pool.SendBatch(ctx, batch).Close()
}

// plain tells whether the batch is of successes that have nothing to say: see handOffDoneSQL.
func (f *flush) plain() bool {
	return !f.ordered && !f.held.any() && !slices.ContainsFunc(f.batch, func(s *settlement) bool {
		return s.outcome != outcomeDone && s.outcome != outcomeFiltered || s.d.page != 0 || s.d.cursor != "" || s.reason != ""
	})
}

// addCommitted adds the settlements that an earlier try of the same flush has committed: their attempts are recorded
// under this runner's claim.
func (e *Engine) addCommitted(ctx context.Context, f *flush, done []bool) error {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	i := &f.items
	rows, _ := e.pool.Query(ctx, `
		select w.n
		from unnest($1::bigint[], $2::uuid[], $3::bigint[], $4::int[], $5::int[], $6::text[])
		    with ordinality as w(tenant_id, process_id, message_id, attempt, page, runner, n)
		join sluice.attempt a on a.tenant_id = w.tenant_id and a.process_id = w.process_id and a.message_id = w.message_id
		where a.attempt = w.attempt and a.page = w.page and a.runner_id = w.runner::bigint`,
		i.tenants, i.processes, i.ids, i.attempts, i.pages, i.runners)
	return noteDone(rows, done)
}

// noteDone reads places in the batch, which Postgres counts from 1.
func noteDone(rows pgx.Rows, done []bool) error {
	var n int64
	_, err := pgx.ForEachRow(rows, []any{&n}, func() error {
		done[n-1] = true
		return nil
	})
	return err
}

// finish acts on what was committed: claimed births are worked, others announced, what was refused by the fence is
// dropped.
func (e *Engine) finish(f *flush, done []bool, news laneNews) {
	lost := 0
	for i, s := range f.batch {
		r := s.d.run
		held := r != nil && (done[i] || news.held[int64(i+1)])
		if !done[i] && !held && s.outcome != outcomeYield {
			lost++
		}
		if r == nil {
			e.conclude(s, done[i])
			continue
		}
		if done[i] {
			e.announce(s)
		}
		r.conclude(s, done[i], held, news.idle[r.token.id])
	}
	for k, d := range f.claims {
		committed := done[f.parent[k]]
		switch {
		case d != nil && committed:
			e.launch(d)
		case d != nil:
			e.abandon(d)
		case committed && f.born.states[k] == bornWaiting:
			e.arrived(f.births[k])
		}
	}
	e.wake(news.woke)
	e.hint(f.held.gates)
	e.hintEnded(f.batch)
	if lost > 0 {
		e.log.Warn("Results came too late: their claims were lost", "count", lost)
		e.askReconcile()
	}
}

// conclude ends a settlement's delivery, or goes on with the next page of a batch.
func (e *Engine) conclude(s *settlement, committed bool) {
	d := s.d
	s.drop()
	if s.outcome == outcomePage && committed {
		next := s.nextPage()
		e.mu.Lock()
		stopping := !e.running
		d.released = true // its slot is the next page's
		e.inFlight[d.id] = next
		e.mu.Unlock()
		if stopping { // the next page is another runner's
			e.giveBack(next)
			return
		}
		e.launch(next)
		return
	}
	e.mu.Lock()
	e.forget(d)
	e.release(d)
	e.wakeLimited(d.edge.to)
	e.mu.Unlock()
	if committed {
		e.announce(s)
	}
}

// announce tells those who wait for it what has become of a message.
func (e *Engine) announce(s *settlement) {
	d := s.d
	switch s.outcome {
	case outcomeRetried, outcomeRepeat:
		e.alarmIn(s.delay)
	case outcomeUnavailable:
		if d.run == nil { // a token's edge is told by the statement
			e.arrived(d.edge)
		}
	case outcomeFailed:
		e.log.Info("Message failed", "topology", d.edge.version.Topology, "version", d.edge.version.Number,
			"node", d.edge.to.Name, "message_id", d.messageID(), "reason", s.reason)
	}
}

// giveBack returns a claimed message to its edge with nothing recorded: its call was cut off by a stop, or nothing can
// be recorded.
func (e *Engine) giveBack(d *delivery) {
	ctx, cancel := context.WithTimeout(e.dbCtx, statementTimeout)
	defer cancel()
	e.abandon(d)
	if d.run == nil && d.grant != nil {
		select {
		case e.missed <- d: // with others
			return
		default:
		}
	}
	if d.run == nil && e.isHeldBack(d) {
		if err := e.holdClaims(ctx, d.life, []*delivery{d}); err != nil {
			e.log.Warn("Message not held, its lease will run out", "job_id", d.id, "err", err)
		}
		return
	}
	if _, err := e.wakeCounted(ctx, releaseSQL, d.life.claimant, []int64{d.id}, []int16{int16(d.attempt)}); err != nil {
		e.log.Warn("Claim not given back, its lease will run out", "job_id", d.id, "err", err)
	}
}

// abandonAll gives up the births of a flush that came to nothing.
func (e *Engine) abandonAll(claims []*delivery) {
	for _, d := range claims {
		if d != nil {
			e.abandon(d)
		}
	}
}
