package queue

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"sluice/queue/topology"
)

// Errors of [Engine.Accept] beside those of package topology, and [*FullError].
var (
	ErrNoNode      = errors.New("topology has no such start node")
	ErrKeyReused   = errors.New("idempotency key was used with another body")
	ErrOverloaded  = errors.New("too many events wait to be stored")
	ErrUnavailable = errors.New("the database does not take events now")
	ErrRefused     = errors.New("the database refuses this event")
)

// Event is what a producer sends.
type Event struct {
	Tenant   int64
	Topology string
	Node     string // a start node
	Version  int    // a published version; 0: the enabled one

	// Key makes sending again harmless: the same key with the same body is accepted once. Empty: every call is an event.
	Key     string
	Headers map[string]string
	Body    []byte
}

// Accepted is the promise that an event is stored and will be worked.
type Accepted struct {
	Process   uuid.UUID // the correlation id
	Version   int       // the version that works it; 0 when Duplicate
	Duplicate bool      // the event was accepted before, with this key
}

// pendingEvent is an event on its way to the database.
type pendingEvent struct {
	Event
	version    *version
	process    uuid.UUID
	legs       []*edge // those that leave the start node
	headers    string  // as stored
	digest     []byte  // of the key and what it belongs to; nil without a key
	bodyDigest []byte
	gauge      *gauge // of a topology with bounds, while it is not decided whether the event is stored
	done       chan acceptResult
	hold       hold // what a large body takes while it waits
	keys       []topology.EntityKey
	replay     *Replay // of what it is one; nil: it is an event
}

type acceptResult struct {
	accepted Accepted
	err      error
}

// Accept stores an event and returns when it is durable. Concurrent calls share a commit: whatever gathered while the
// last one ran. When ctx ends first the event may be stored all the same; a key makes asking again safe.
func (e *Engine) Accept(ctx context.Context, ev Event) (Accepted, error) {
	p, err := e.prepare(ctx, ev, nil)
	if err != nil {
		return Accepted{}, err
	}
	if err := e.submit(ctx, p); err != nil {
		e.decided(p)
		return Accepted{}, err
	}
	return e.wait(ctx, sinceBoot(), p)
}

// AcceptMany stores events of one call and returns a result for each, in order. Events are independent: some may be
// refused while others are stored.
func (e *Engine) AcceptMany(ctx context.Context, events []Event) ([]Accepted, []error) {
	pending, errs := make([]*pendingEvent, len(events)), make([]error, len(events))
	var last *pendingEvent
	for i, ev := range events {
		if pending[i], errs[i] = e.prepare(ctx, ev, last); errs[i] == nil {
			last = pending[i]
		}
	}
	return e.acceptAll(ctx, pending, errs), errs
}

// acceptAll stores those of the events that no error has kept out yet, and notes in errs what does.
func (e *Engine) acceptAll(ctx context.Context, pending []*pendingEvent, errs []error) []Accepted {
	for i, p := range pending {
		if errs[i] != nil {
			continue
		}
		if errs[i] = e.submit(ctx, p); errs[i] != nil {
			e.decided(p)
		}
	}
	began := sinceBoot() // for all of them: they wait together
	accepted := make([]Accepted, len(pending))
	for i, p := range pending {
		if errs[i] == nil {
			accepted[i], errs[i] = e.wait(ctx, began, p)
		}
	}
	return accepted
}

// prepare finds out where an event goes. What is wrong with it shows here, before it waits for a commit. Of the events of
// one call, most have the headers of the last one.
func (e *Engine) prepare(ctx context.Context, ev Event, last *pendingEvent) (*pendingEvent, error) {
	v, err := e.catalog.route(ctx, ev.Tenant, ev.Topology, ev.Version)
	switch {
	case errors.Is(err, topology.ErrNotFound), errors.Is(err, topology.ErrNotEnabled):
		return nil, err
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	legs := v.starts[ev.Node]
	if len(legs) == 0 {
		return nil, fmt.Errorf("%w: %s has no start node %q", ErrNoNode, v.Label(), ev.Node)
	}
	var headers string
	if last != nil && maps.Equal(last.Headers, ev.Headers) {
		headers = last.headers
	} else if headers, err = marshalHeaders(ev.Headers); err != nil {
		return nil, err
	}
	if ev.Body == nil {
		ev.Body = []byte{} // an empty body is a body
	}
	p := &pendingEvent{
		Event: ev, version: v, process: e.clock.newProcessID(), legs: legs, headers: headers,
		done: make(chan acceptResult, 1), keys: v.Graph.EntityKeys(ev.Headers, ev.Body),
	}
	if ev.Key != "" {
		// The ledger is narrow: half a SHA-256 is as far from colliding as a random UUID.
		scope := sha256.Sum256(fmt.Appendf(nil, "%d\x00%s\x00%s", v.TopologyID, ev.Node, ev.Key))
		body := sha256.Sum256(ev.Body)
		p.digest, p.bodyDigest = scope[:16], body[:16]
	}
	return p, e.admit(ctx, p)
}

// submit queues an event for the next commit.
func (e *Engine) submit(ctx context.Context, p *pendingEvent) error {
	if err := e.weigh(ctx, p); err != nil {
		return err
	}
	select {
	case <-e.closing:
		p.hold.Release()
		return fmt.Errorf("%w: %w", ErrUnavailable, errClosing)
	default:
	}
	events := e.events
	if len(p.Body) > largeBytes {
		events = e.largeEvents
	}
	defer func() { e.acceptHelp.offer(len(e.events)) }()
	select {
	case events <- p:
		return nil
	default:
	}
	// Many wait already: the database is too slow for them all, or silent.
	began := sinceBoot()
	check := time.NewTicker(silence / 4)
	defer check.Stop()
	for {
		select {
		case events <- p:
			return nil
		case <-e.closing:
			p.hold.Release()
			return fmt.Errorf("%w: %w", ErrUnavailable, errClosing)
		case <-ctx.Done():
			p.hold.Release()
			return ErrOverloaded
		case <-check.C:
			e.clock.ask()
			if e.clock.patience(began) <= 0 {
				p.hold.Release()
				return fmt.Errorf("%w: %w", ErrUnavailable, errSilent)
			}
		}
	}
}

// answer tells the producer what has become of the event.
func (e *Engine) answer(p *pendingEvent, r acceptResult) {
	e.decided(p)
	p.done <- r
}

// wait waits until the event is stored or refused. When the database is silent it may be stored all the same.
func (e *Engine) wait(ctx context.Context, began time.Duration, p *pendingEvent) (Accepted, error) {
	r, err := await(ctx, e.clock, began, p.done)
	if err != nil {
		return Accepted{}, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return r.accepted, r.err
}

// acceptLoop commits what has gathered, then what gathered meanwhile. It counts in a slot of its own.
// Large events have loops of their own, so that small ones never wait for megabytes to be written.
func (e *Engine) acceptLoop(slot int16, events <-chan *pendingEvent, help *help) {
	for {
		var first *pendingEvent
		select {
		case first = <-events:
		case <-e.closing:
			select {
			case first = <-events:
			default:
				return
			}
		}
		help.during(func() { e.acceptFrom(slot, first, events) })
	}
}

// acceptHelpLoop commits events beside an acceptLoop.
func (e *Engine) acceptHelpLoop(slot int16) {
	for {
		select {
		case <-e.closing:
			return
		case <-e.acceptHelp.wanted:
		}
		select {
		case first := <-e.events:
			e.acceptFrom(slot, first, e.events)
		default:
		}
	}
}

// acceptFrom commits an event with those that wait.
func (e *Engine) acceptFrom(slot int16, first *pendingEvent, events <-chan *pendingEvent) {
	batch, size := []*pendingEvent{first}, len(first.Body)
gather:
	for len(batch) < flushItems && size < flushBytes {
		select {
		case p := <-events:
			batch, size = append(batch, p), size+len(p.Body)
		default:
			break gather
		}
	}
	e.acceptBatch(slot, batch)
	for _, p := range batch {
		p.hold.Release()
	}
}

// turnAway answers events that came in just as the door closed.
func (e *Engine) turnAway() {
	for {
		var p *pendingEvent
		select {
		case p = <-e.events:
		case p = <-e.largeEvents:
		default:
			return
		}
		p.hold.Release()
		e.answer(p, acceptResult{err: fmt.Errorf("%w: %w", ErrUnavailable, errClosing)})
	}
}

// acceptTries bounds how long a producer waits while the database is in trouble.
const acceptTries = 4

// acceptBatch stores the events, or answers each with the error that kept it out. An event that the database refuses by
// itself does not harm its neighbours: the batch is halved until it is alone.
func (e *Engine) acceptBatch(slot int16, batch []*pendingEvent) {
	ctx := context.Background()
	for try := range acceptTries {
		err := e.tryAccept(ctx, slot, batch, try > 0)
		if err == nil || sqlState(err) != "" {
			e.clock.hear()
		}
		switch {
		case err == nil:
			return
		case (isPassing(err) || isStored(err)) && try < acceptTries-1:
			pause(ctx, try)
		case isRefused(err) && len(batch) > 1:
			e.acceptBatch(slot, batch[:len(batch)/2])
			e.acceptBatch(slot, batch[len(batch)/2:])
			return
		case isRefused(err):
			for _, p := range batch {
				e.answer(p, acceptResult{err: fmt.Errorf("%w: %w", ErrRefused, err)})
			}
			return
		default:
			e.log.ErrorContext(ctx, "Events not stored", "count", len(batch), "err", err)
			for _, p := range batch {
				e.answer(p, acceptResult{err: fmt.Errorf("%w: %w", ErrUnavailable, err)})
			}
			return
		}
	}
}

// tryAccept stores the events in one statement, and answers them. again says that an earlier try may have committed:
// its processes are looked for first.
func (e *Engine) tryAccept(ctx context.Context, slot int16, batch []*pendingEvent, again bool) error {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	todo := batch
	if again {
		stored, err := e.storedProcesses(ctx, batch)
		if err != nil {
			return err
		}
		todo = nil
		for _, p := range batch {
			if !stored[p.process] {
				todo = append(todo, p)
			}
		}
	}
	fresh := make([]bool, len(todo))
	if len(todo) > 0 {
		if err := e.insertEvents(ctx, slot, todo, fresh); err != nil {
			return err
		}
	}
	if err := e.answerDuplicates(ctx, todo, fresh); err != nil {
		return err
	}
	refused := map[*pendingEvent]bool{}
	for i, p := range todo {
		refused[p] = !fresh[i]
	}
	for _, p := range batch {
		if !refused[p] {
			e.answer(p, acceptResult{accepted: Accepted{Process: p.process, Version: p.version.Number}})
		}
	}
	return nil
}

// insertEvents stores the events and notes in fresh which of them are new. Where this runner has room, their messages are
// claimed at birth and worked as soon as they are stored.
func (e *Engine) insertEvents(ctx context.Context, slot int16, batch []*pendingEvent, fresh []bool) error {
	type leg struct {
		event int
		edge  *edge
		claim *delivery
		lane  laneName
	}
	var legs []leg
	for i, p := range batch {
		for _, edge := range p.legs {
			legs = append(legs, leg{event: i, edge: edge})
		}
	}
	ids, err := e.ids.take(ctx, len(legs))
	if err != nil {
		return err
	}
	l := e.lifeIfRunning()
	size := 0
	for _, p := range batch {
		size += len(p.Body)
	}
	a := acceptArrays{bodies: make([]byte, 0, size)}
	for _, p := range batch {
		a.addEvent(p)
		a.replays.add(p)
	}
	var payload int64
	e.mu.Lock()
	for n := range legs {
		leg, p := &legs[n], batch[legs[n].event]
		if n == 0 || legs[n-1].event != leg.event {
			payload = 0 // the first leg of an event carries the body
			a.entities.add(p.Tenant, p.process, ids[n], p.keys)
		}
		leg.claim = e.claimBirth(l, leg.edge, ids[n], len(p.Body))
		if leg.claim != nil {
			leg.claim.load(p.process, p.Headers, p.headers, p.Body, cmp.Or(payload, ids[n]))
		}
		state, limit := bornWaiting, int64(0)
		switch {
		case leg.claim != nil:
			state = bornClaimed
		case leg.edge.to.Ordered():
			state, leg.lane = bornInLane, leg.edge.laneOf(p.Headers, p.Body)
			a.comes = append(a.comes, leg.lane)
		default:
			limit = e.catalog.limitOf(leg.edge)
		}
		if limit != 0 {
			state = bornHeld
		}
		a.held.add(leg.edge, limit, p.Headers)
		a.addLeg(leg.event, ids[n], payload, leg.edge.id, state, leg.lane)
		payload = cmp.Or(payload, ids[n])
	}
	e.mu.Unlock()
	news, err := e.sendEvents(ctx, slot, &a, l, fresh)
	for n, leg := range legs {
		switch {
		case leg.claim != nil && err == nil && fresh[leg.event]:
			e.launch(leg.claim)
		case leg.claim != nil:
			// If the commit stood and only its answer was lost, the claim is given back by reconcile.
			e.abandon(leg.claim)
		case err == nil && fresh[leg.event] && a.states[n] == bornWaiting:
			e.arrived(leg.edge)
		}
	}
	e.wake(news.woke)
	e.hint(a.held.gates)
	return err
}

// sendEvents runs the statement and notes in fresh which of the events are new.
func (e *Engine) sendEvents(ctx context.Context, slot int16, a *acceptArrays, l *life, fresh []bool) (news laneNews, err error) {
	args := append(a.args(l), slot, a.bodies)
	if len(a.comes) == 0 {
		sql := acceptSQL
		if a.held.any() {
			sql, args = acceptHeldSQL, append(args, a.held.args()...)
		}
		return news, queryWith(ctx, e.pool, statement{sql, args}, func(rows pgx.Rows) error {
			var ordinal int
			_, err := pgx.ForEachRow(rows, []any{&ordinal}, func() error {
				fresh[ordinal] = true
				return nil
			})
			return err
		}, &a.entities, &a.replays)
	}
	batch := &pgx.Batch{}
	queueLanes(batch, a.comes, nil)
	sql, args := acceptLanesSQL, append(args, a.lanes, a.keys)
	if a.held.any() {
		sql, args = acceptLanesHeldSQL, append(args, a.held.args()...)
	}
	batch.Queue(sql, args...).Query(func(rows pgx.Rows) error {
		return news.read(rows, func(ordinal int64) { fresh[ordinal] = true })
	})
	a.entities.queue(batch)
	a.replays.queue(batch)
	return news, e.pool.SendBatch(ctx, batch).Close()
}

// acceptArrays are the arguments of acceptSQL, a column each.
type acceptArrays struct {
	bodyAt                    []int32 // where its body is in bodies, from 1
	tenants, versions         []int64
	processes                 [][16]byte
	nodes, headers            []string
	digests, bodyDigests      [][]byte
	legs                      []int32
	sizes                     []int32
	bodies                    []byte
	legOrdinals               []int32
	legIDs, payloads, edgeIDs []int64
	states                    []string
	lanes                     []int64
	keys                      []string
	comes                     []laneName // lanes that messages come to
	held                      bornHold
	entities                  entityArrays
	replays                   replayArrays
}

func (a *acceptArrays) addEvent(p *pendingEvent) {
	a.bodyAt = append(a.bodyAt, int32(len(a.bodies)+1))
	a.tenants = append(a.tenants, p.Tenant)
	a.processes = append(a.processes, p.process)
	a.versions = append(a.versions, p.version.ID)
	a.nodes = append(a.nodes, p.Node)
	a.digests = append(a.digests, p.digest)
	a.bodyDigests = append(a.bodyDigests, p.bodyDigest)
	a.legs = append(a.legs, int32(len(p.legs)))
	a.headers = append(a.headers, p.headers)
	a.sizes, a.bodies = append(a.sizes, int32(len(p.Body))), append(a.bodies, p.Body...)
}

func (a *acceptArrays) addLeg(ordinal int, id, payload, edge int64, state string, lane laneName) {
	a.legOrdinals = append(a.legOrdinals, int32(ordinal))
	a.legIDs = append(a.legIDs, id)
	a.payloads = append(a.payloads, payload)
	a.edgeIDs = append(a.edgeIDs, edge)
	a.states = append(a.states, state)
	a.lanes, a.keys = append(a.lanes, lane.edge), append(a.keys, lane.key)
}

func (a *acceptArrays) args(l *life) []any {
	return []any{
		a.bodyAt, a.tenants, a.processes, a.versions, a.nodes, a.digests, a.bodyDigests, a.legs, a.headers, a.sizes,
		a.legOrdinals, a.legIDs, a.payloads, a.edgeIDs, a.states, l.name(),
	}
}

// storedProcesses tells which of the events an earlier try has stored.
func (e *Engine) storedProcesses(ctx context.Context, batch []*pendingEvent) (map[uuid.UUID]bool, error) {
	ids := make([][16]byte, len(batch))
	for i, p := range batch {
		ids[i] = p.process
	}
	rows, _ := e.pool.Query(ctx, `
		select p.id from unnest($1::uuid[]) as w(id), sluice.process p where p.id = w.id and p.tenant_id = any($2)`, ids, tenantsOf(batch))
	found, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	stored := map[uuid.UUID]bool{}
	for _, id := range found {
		stored[id] = true
	}
	return stored, err
}

func tenantsOf(batch []*pendingEvent) []int64 {
	var tenants []int64
	for _, p := range batch {
		if !slices.Contains(tenants, p.Tenant) {
			tenants = append(tenants, p.Tenant)
		}
	}
	return tenants
}

// answerDuplicates answers the events that the ledger refused: the promise that was given for their key, or, when the
// body is another, that the key is used. It is a statement of its own because the rows it reads may have been committed
// after the snapshot of the insert.
func (e *Engine) answerDuplicates(ctx context.Context, batch []*pendingEvent, fresh []bool) error {
	var refused []*pendingEvent
	var tenants []int64
	var digests [][]byte
	for i, p := range batch {
		if !fresh[i] {
			refused, tenants, digests = append(refused, p), append(tenants, p.Tenant), append(digests, p.digest)
		}
	}
	if len(refused) == 0 {
		return nil
	}
	rows, _ := e.pool.Query(ctx, `
		select w.n, k.process_id, k.body_digest
		from unnest($1::bigint[], $2::bytea[]) with ordinality as w(tenant_id, digest, n)
		join sluice.idempotency_key k on k.tenant_id = w.tenant_id and k.digest = w.digest`, tenants, digests)
	var n int
	var process uuid.UUID
	var bodyDigest []byte
	answers := make([]acceptResult, len(refused))
	for i := range answers { // holds if the key runs out between the two statements
		answers[i].err = fmt.Errorf("%w: the idempotency key has just expired", ErrUnavailable)
	}
	_, err := pgx.ForEachRow(rows, []any{&n, &process, &bodyDigest}, func() error {
		p, a := refused[n-1], &answers[n-1]
		switch {
		case process == p.process: // an earlier try of this very call
			*a = acceptResult{accepted: Accepted{Process: process, Version: p.version.Number}}
		case bytes.Equal(bodyDigest, p.bodyDigest):
			*a = acceptResult{accepted: Accepted{Process: process, Duplicate: true}}
		default:
			*a = acceptResult{err: ErrKeyReused}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for i, p := range refused {
		e.answer(p, answers[i])
	}
	return nil
}

// marshalHeaders makes the stored form of headers.
func marshalHeaders(headers map[string]string) (string, error) {
	if len(headers) == 0 {
		return "{}", nil
	}
	b, err := json.Marshal(headers)
	return string(b), err
}
