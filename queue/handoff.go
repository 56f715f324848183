package queue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// handOffLoop commits the settlements that have gathered, then those that gathered meanwhile: at rest a hand-off waits
// for nobody, under load it is shared by hundreds. It counts in a slot of its own.
func (e *Engine) handOffLoop(slot int16) {
	for first := range e.settled {
		batch, size := []*settlement{first}, first.size()
	gather:
		for len(batch) < flushItems && size < flushBytes {
			select {
			case s, ok := <-e.settled:
				if !ok {
					break gather
				}
				batch, size = append(batch, s), size+s.size()
			default:
				break gather
			}
		}
		e.handOff(slot, batch)
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
		done, err := e.send(ctx, slot, f)
		if err == nil && try > 0 && slices.Contains(done, false) {
			err = e.addCommitted(ctx, f, done)
		}
		if err == nil {
			e.finish(f, done)
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
		e.abandon(s.d)
	}
}

// refuse sends a settlement that Postgres does not take to the trash: without its successors, and with a reason made of
// Postgres's words.
func (e *Engine) refuse(slot int16, s *settlement, err error) {
	if s.refused { // this is the refusal: give the message back, and say so
		e.log.Error("Message cannot be settled", "message_id", s.d.messageID(), "err", err)
		e.giveBack(s.d)
		return
	}
	said := err.Error()
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		said = pg.Message
	}
	e.handOff(slot, []*settlement{{
		d: s.d, outcome: outcomeFailed, status: s.status, duration: s.duration, refused: true,
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
}

type bornArrays struct {
	parents, ids, edges, payloads []int64
	claimed                       []bool
	headers                       []string
	bodies                        [][]byte
	sizes                         []int32
}

// newFlush gives the successors their ids and claims those that there is room for. The calls of the batch are over, so
// their slots are free; successors take them before the fetcher can, so that a process that has begun goes on before the
// next begins.
func (e *Engine) newFlush(ctx context.Context, batch []*settlement) (*flush, error) {
	total := 0
	for _, s := range batch {
		total += len(s.successors)
	}
	ids, err := e.ids.take(ctx, total)
	if err != nil {
		return nil, err
	}
	f := &flush{batch: batch, life: e.lifeIfRunning(), claims: make([]*delivery, 0, total), births: make([]*edge, 0, total), parent: make([]int, 0, total)}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, s := range batch {
		if s.outcome != outcomePage { // the batch message keeps its slot for the next page
			e.release(s.d)
		}
	}
	for i, s := range batch {
		f.items.add(s)
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
			d := e.claimBirth(f.life, next.edge, id)
			if d != nil {
				d.load(s.d.process, next.headers, next.encoded, next.body, cmp.Or(payload, id))
			}
			f.claims = append(f.claims, d)
			f.births = append(f.births, next.edge)
			f.parent = append(f.parent, i)
			f.born.add(i, id, payload, d != nil, next, body)
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
	a.cursors = append(a.cursors, s.cursor)
	a.made = append(a.made, int32(len(s.successors)))
	a.sizes = append(a.sizes, int32(len(d.body)))
}

func (a *bornArrays) add(parent int, id, payload int64, claimed bool, next *successor, body []byte) {
	a.parents = append(a.parents, int64(parent)+1) // Postgres counts from 1
	a.ids = append(a.ids, id)
	a.edges = append(a.edges, next.edge.id)
	a.payloads = append(a.payloads, payload)
	a.claimed = append(a.claimed, claimed)
	a.headers = append(a.headers, next.encoded)
	a.bodies = append(a.bodies, body)
	a.sizes = append(a.sizes, int32(len(next.body)))
}

// send runs the statement and tells which of the batch were handed off.
func (e *Engine) send(ctx context.Context, slot int16, f *flush) (done []bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	i, b := &f.items, &f.born
	rows, _ := e.pool.Query(ctx, handOffSQL,
		i.ids, i.attempts, i.runners, i.tenants, i.processes, i.edges, i.outcomes, i.statuses, i.durations, i.reasons,
		i.pages, i.delays, i.failures, i.cursors, i.made, i.sizes,
		b.parents, b.ids, b.edges, b.payloads, b.claimed, b.headers, b.bodies, b.sizes, f.life.name(), slot)
	done = make([]bool, len(f.batch))
	return done, noteDone(rows, done)
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
func (e *Engine) finish(f *flush, done []bool) {
	lost := 0
	for i, s := range f.batch {
		if !done[i] {
			lost++
		}
		e.conclude(s, done[i])
	}
	for k, d := range f.claims {
		committed := done[f.parent[k]]
		switch {
		case d != nil && committed:
			e.launch(d)
		case d != nil:
			e.abandon(d)
		case committed:
			e.arrived(f.births[k])
		}
	}
	if lost > 0 {
		e.log.Warn("Results came too late: their claims were lost", "count", lost)
		e.askReconcile()
	}
}

// conclude ends a settlement's delivery, or goes on with the next page of a batch.
func (e *Engine) conclude(s *settlement, committed bool) {
	d := s.d
	if s.outcome == outcomePage && committed {
		next := &delivery{
			life: d.life, id: d.id, attempt: d.attempt, edge: d.edge, process: d.process, headers: d.headers,
			encoded: d.encoded, body: d.body, payload: d.payload, page: d.page + 1, cursor: s.cursor,
		}
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
	e.mu.Unlock()
	if !committed {
		return
	}
	switch s.outcome {
	case outcomeRetried, outcomeRepeat:
		e.alarmIn(s.delay)
	case outcomeUnavailable:
		e.arrived(d.edge)
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
	if _, err := e.wakeCounted(ctx, releaseSQL, d.life.claimant, []int64{d.id}); err != nil {
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
