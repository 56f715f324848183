package pull

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Claimed is a call that was taken.
type Claimed struct {
	ID      uuid.UUID
	Token   uuid.UUID // by which it is answered
	Lease   time.Duration
	Left    time.Duration // until nobody waits for the answer any more
	Method  string
	Path    string // and query
	Headers map[string]string
	Body    []byte
}

// Wish is how many calls are wanted, and for how long.
type Wish struct {
	Most   int
	Lease  time.Duration   // 0: [Lease]
	Enough <-chan struct{} // closed when the wait is over
}

// Claim takes calls of a worker, in the order in which they were made. When there are none it waits for them; that there
// were none in this time is no error.
func (x *Exchange) Claim(ctx context.Context, w Worker, wish Wish) ([]Claimed, error) {
	if err := x.sign(ctx, w); err != nil {
		return nil, err
	}
	for {
		bell := x.wait(w)
		calls, err := x.take(ctx, w, wish)
		if err != nil || len(calls) > 0 {
			x.leave(w, bell)
			return calls, err
		}
		select {
		case <-bell:
		case <-wish.Enough:
			x.leave(w, bell)
			return nil, nil
		case <-ctx.Done():
			x.leave(w, bell)
			return nil, ctx.Err()
		}
	}
}

// The rows to change are found by the whole key, and nothing is said of them beside: the planner, who may know the table
// as empty, would else read all that the worker has for each of them (measured: 1.3 s for 100 of 10,000; 1.3 ms so).
const claimSQL = `
	with free as materialized (
		select tenant_id, worker, id, octet_length(body) as size from sluice.pull_call
		where tenant_id = $1 and worker = $2 and status is null and deadline > now() and (lease_until is null or lease_until <= now())
		order by id limit $3
		for update skip locked
	)
	update sluice.pull_call c set token = gen_random_uuid(), lease_until = now() + $4::interval
	from (select *, sum(size) over (order by id) - size as before from free) p
	where c.tenant_id = p.tenant_id and c.worker = p.worker and c.id = p.id and p.before < $5
	returning c.id, c.token, extract(epoch from c.deadline - now())::float8, c.method, c.path, c.headers::text, c.body`

// returnSQL offers calls again whose taker left before they were handed over.
const returnSQL = `
	update sluice.pull_call c set token = null, lease_until = null
	from (` + heldSQL + `) k
	where c.tenant_id = k.tenant_id and c.worker = k.worker and c.id = k.id`

// heldSQL locks the calls of a worker ($1, $2) that are still with whoever has their tokens ($3, $4), in the order of their
// ids: two who name the same ones must not wait for each other.
const heldSQL = `
	select l.tenant_id, l.worker, l.id
	from (select id, token from unnest($3::uuid[], $4::uuid[]) as h (id, token) order by id) h
	cross join lateral (
		select x.tenant_id, x.worker, x.id from sluice.pull_call x
		where x.tenant_id = $1 and x.worker = $2 and x.id = h.id and x.token = h.token
		limit 1 for update
	) l`

func (x *Exchange) take(caller context.Context, w Worker, wish Wish) ([]Claimed, error) {
	// Whoever leaves now must not take calls along.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(caller), statementTime)
	defer cancel()
	lease := cmp.Or(wish.Lease, Lease)
	rows, _ := x.db.Query(ctx, claimSQL, w.Tenant, w.Name, min(wish.Most, atOnce), lease, bytesAtOnce)
	calls, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (c Claimed, err error) {
		var headers string
		var body []byte
		var left float64
		if err = row.Scan(&c.ID, &c.Token, &left, &c.Method, &c.Path, &headers, &body); err == nil {
			c.Body, c.Lease, c.Left = bytes.Clone(body), lease, time.Duration(left*float64(time.Second))
			err = json.Unmarshal([]byte(headers), &c.Headers)
		}
		return c, err
	})
	if err == nil && caller.Err() != nil && len(calls) > 0 {
		held := make([]Held, len(calls))
		for i, c := range calls {
			held[i] = Held{c.ID, c.Token}
		}
		ids, tokens := columns(held)
		_, err = x.db.Exec(ctx, returnSQL, w.Tenant, w.Name, ids, tokens)
		return nil, errors.Join(caller.Err(), err)
	}
	slices.SortFunc(calls, func(a, b Claimed) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	return calls, err
}

// Held is a call as the one who claimed it knows it.
type Held struct {
	ID    uuid.UUID
	Token uuid.UUID
}

// Beat renews the leases of calls, for so long (0: [Lease]), and returns those that are lost: somebody else has them, or nobody waits for them.
func (x *Exchange) Beat(ctx context.Context, w Worker, held []Held, lease time.Duration) (lost []uuid.UUID, err error) {
	if err := x.sign(ctx, w); err != nil {
		return nil, err
	}
	ids, tokens := columns(held)
	rows, _ := x.db.Query(ctx, beatSQL, w.Tenant, w.Name, ids, tokens, cmp.Or(lease, Lease))
	kept, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return nil, err
	}
	return without(ids, kept), nil
}

const beatSQL = `
	update sluice.pull_call c set lease_until = now() + $5::interval
	from (` + heldSQL + `) k
	where c.tenant_id = k.tenant_id and c.worker = k.worker and c.id = k.id and c.status is null and c.deadline > now()
	returning c.id`

func columns(held []Held) (ids, tokens []uuid.UUID) {
	for _, h := range held {
		ids, tokens = append(ids, h.ID), append(tokens, h.Token)
	}
	return ids, tokens
}

// Answer is what a worker said to a call.
type Answer struct {
	Held
	Status  int
	Headers map[string]string // of HTTP, whose names and values are valid
	Body    []byte
}

// Answer gives the answers to calls to who waits for them, and returns those that came too late: somebody else has the
// call, or nobody waits for it. The same answer may come twice.
func (x *Exchange) Answer(ctx context.Context, w Worker, answers []Answer) (lost []uuid.UUID, err error) {
	if err := x.sign(ctx, w); err != nil {
		return nil, err
	}
	var ids, tokens []uuid.UUID
	var statuses []int32
	var headers []string
	var bodies [][]byte
	for _, a := range answers {
		encoded, err := json.Marshal(a.Headers)
		if err != nil {
			return nil, err
		}
		ids, tokens, statuses = append(ids, a.ID), append(tokens, a.Token), append(statuses, int32(a.Status))
		headers, bodies = append(headers, string(encoded)), append(bodies, orEmpty(a.Body))
	}
	rows, _ := x.db.Query(ctx, answerSQL, w.Tenant, w.Name, ids, tokens, statuses, headers, bodies)
	taken, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return nil, err
	}
	poke(x.poll)
	return without(ids, taken), nil
}

const answerSQL = `
	update sluice.pull_call c
	set status = coalesce(c.status, k.status), reply_headers = coalesce(c.reply_headers, k.headers::json), reply = coalesce(c.reply, k.body)
	from (
		select l.tenant_id, l.worker, l.id, h.status, h.headers, h.body
		from (
			select * from unnest($3::uuid[], $4::uuid[], $5::int[], $6::text[], $7::bytea[]) as h (id, token, status, headers, body) order by id
		) h
		cross join lateral (
			select x.tenant_id, x.worker, x.id from sluice.pull_call x
			where x.tenant_id = $1 and x.worker = $2 and x.id = h.id and x.token = h.token
			limit 1 for update
		) l
	) k
	where c.tenant_id = k.tenant_id and c.worker = k.worker and c.id = k.id
	returning c.id`

func without(all, some []uuid.UUID) []uuid.UUID {
	return slices.DeleteFunc(slices.Clone(all), func(id uuid.UUID) bool { return slices.Contains(some, id) })
}

const signSQL = `
	insert into sluice.pull_presence as s (tenant_id, worker)
	select tenant_id, worker from unnest($1::bigint[], $2::text[]) as w (tenant_id, worker) order by 1, 2
	on conflict (tenant_id, worker) do update set seen_at = now() where s.seen_at < now() - interval '1 second'`

// sign notes that somebody comes for the calls of a worker.
func (x *Exchange) sign(ctx context.Context, w Worker) error {
	x.mu.Lock()
	due := time.Since(x.signs[w]) >= signEvery
	if due {
		x.signs[w] = time.Now()
	}
	x.mu.Unlock()
	if !due {
		return nil
	}
	_, err := x.db.Exec(ctx, signSQL, []int64{w.Tenant}, []string{w.Name})
	return err
}

// wait returns a bell that rings when there may be a call of a worker. It is for one ring.
func (x *Exchange) wait(w Worker) chan struct{} {
	bell := make(chan struct{}, 1)
	x.mu.Lock()
	defer x.mu.Unlock()
	x.waiters[w] = append(x.waiters[w], bell)
	if !x.waiting {
		x.waiting = true
		x.loops.Go(x.lookLoop)
	}
	poke(x.look)
	return bell
}

// leave takes a bell away. One that rang for nothing rings for the next.
func (x *Exchange) leave(w Worker, bell chan struct{}) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.waiters[w] = slices.DeleteFunc(x.waiters[w], func(b chan struct{}) bool { return b == bell })
	if len(x.waiters[w]) == 0 {
		delete(x.waiters, w)
	}
	select {
	case <-bell:
		x.ring(w, 1)
	default:
	}
}

// ring rings for as many as wait for a worker, those first who have waited longest. The caller holds the lock.
func (x *Exchange) ring(w Worker, most int) {
	waiters := x.waiters[w]
	n := min(most, len(waiters))
	for _, bell := range waiters[:n] {
		poke(bell)
	}
	if x.waiters[w] = waiters[n:]; n == len(waiters) {
		delete(x.waiters, w)
	}
}

// wakeFor rings for calls that were stored by this process.
func (x *Exchange) wakeFor(calls []*call) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, c := range calls {
		x.ring(c.worker, 1)
	}
}

const lookSQL = `
	select w.tenant_id, w.worker, n.calls
	from unnest($1::bigint[], $2::text[]) as w (tenant_id, worker)
	cross join lateral (
		select count(*) as calls from (
			select from sluice.pull_call c
			where c.tenant_id = w.tenant_id and c.worker = w.worker and c.status is null and c.deadline > now() and (c.lease_until is null or c.lease_until <= now())
			limit 100
		) free
	) n
	where n.calls > 0`

// lookLoop looks for calls for all who wait for some, with one statement. It asks nothing while nobody waits.
func (x *Exchange) lookLoop() {
	for {
		tenants, names := x.awaited()
		if len(names) == 0 {
			select {
			case <-x.ctx.Done():
				return
			case <-x.look:
			}
			continue
		}
		if !x.rest(lookEvery, nil) {
			return
		}
		if err := x.lookOnce(tenants, names); err != nil && x.ctx.Err() == nil {
			x.log.WarnContext(x.ctx, "Calls for workers that pull not looked for", "err", err)
			if !x.rest(checkEvery, nil) {
				return
			}
		}
	}
}

func (x *Exchange) lookOnce(tenants []int64, names []string) error {
	ctx, cancel := context.WithTimeout(x.ctx, statementTime)
	defer cancel()
	if err := x.signAll(ctx, tenants, names); err != nil {
		return err
	}
	rows, _ := x.db.Query(ctx, lookSQL, tenants, names)
	var w Worker
	var calls int
	_, err := pgx.ForEachRow(rows, []any{&w.Tenant, &w.Name, &calls}, func() error {
		x.mu.Lock()
		defer x.mu.Unlock()
		x.ring(w, calls)
		return nil
	})
	return err
}

// awaited is whose calls somebody waits for.
func (x *Exchange) awaited() (tenants []int64, names []string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for w := range x.waiters {
		tenants, names = append(tenants, w.Tenant), append(names, w.Name)
	}
	return tenants, names
}

// signAll notes that somebody waits for the calls of workers, for those of which that was not noted for a while.
func (x *Exchange) signAll(ctx context.Context, tenants []int64, names []string) error {
	var dueTenants []int64
	var dueNames []string
	x.mu.Lock()
	for i, name := range names {
		w := Worker{tenants[i], name}
		if time.Since(x.signs[w]) < signEvery {
			continue
		}
		x.signs[w] = time.Now()
		dueTenants, dueNames = append(dueTenants, w.Tenant), append(dueNames, w.Name)
	}
	x.mu.Unlock()
	if len(dueNames) == 0 {
		return nil
	}
	_, err := x.db.Exec(ctx, signSQL, dueTenants, dueNames)
	return err
}
