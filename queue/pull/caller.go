package pull

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// ErrNobody says that nobody takes the calls of a worker.
var ErrNobody = errors.New("nobody asks for its calls")

// errGone says that the database lost a call, as it may when it crashes.
var errGone = errors.New("the call was lost, and is to be made again")

// Transport returns the way of calls to a worker that takes them here, by when they end. A call ends with an answer, when
// its context does, or with [ErrNobody]. The trace in its context hears of a connection once it is known that somebody took
// the call: one that nobody took did not reach the worker.
func (x *Exchange) Transport(w Worker) func(deadline time.Time) http.RoundTripper {
	return func(deadline time.Time) http.RoundTripper { return transport{x, w, deadline} }
}

type transport struct {
	*Exchange
	worker Worker
	ends   time.Time
}

// call is one on its way.
type call struct {
	ctx     context.Context // of who waits for it
	id      uuid.UUID
	worker  Worker
	method  string
	path    string
	headers []byte
	body    []byte
	ends    time.Time
	done    chan end

	// Guarded by the exchange's lock.
	stored bool
	left   bool // nobody waits any more
}

// end is what became of a call.
type end struct {
	status  int
	headers map[string]string
	body    []byte
	taken   bool // by somebody who did not answer
	err     error
}

// busy is the end of a call that nobody has taken in time although there are some who take calls: the worker has more to
// do than it can. That says nothing about the message, nor that the worker is down.
var busy = end{status: http.StatusTooManyRequests, headers: map[string]string{"Retry-After": "1", "Content-Type": "text/plain"}, body: []byte("all who take its calls are at work")}

// margin is how long before its end a call that nobody has taken is withdrawn.
const margin = 250 * time.Millisecond

func (t transport) RoundTrip(r *http.Request) (*http.Response, error) {
	c, err := t.newCall(r)
	if err != nil {
		return nil, err
	}
	t.begin()
	select {
	case t.outbox <- c:
	case <-r.Context().Done():
		return nil, context.Cause(r.Context())
	case <-t.ctx.Done():
		return nil, t.ctx.Err()
	}
	withdraw := time.NewTimer(time.Until(c.ends) - margin)
	defer withdraw.Stop()
	for waits := true; waits; {
		select {
		case e := <-c.done:
			return e.response(r)
		case <-withdraw.C:
			t.withdraw(c)
		case <-r.Context().Done():
			waits = false
		}
	}
	if t.giveUp(c) && errors.Is(context.Cause(r.Context()), context.DeadlineExceeded) {
		t.learn(c, r)
	}
	return nil, context.Cause(r.Context())
}

// newCall reads what is asked.
func (t transport) newCall(r *http.Request) (*call, error) {
	var body []byte
	if r.Body != nil {
		defer r.Body.Close()
		var err error
		if body, err = io.ReadAll(r.Body); err != nil {
			return nil, err
		}
	}
	headers := make(map[string]string, len(r.Header))
	for name, values := range r.Header {
		headers[name] = strings.Join(values, ", ")
	}
	encoded, err := json.Marshal(headers)
	if err != nil {
		return nil, err
	}
	return &call{
		ctx: r.Context(), id: uuid.Must(uuid.NewV7()), worker: t.worker, method: r.Method, path: r.URL.RequestURI(), headers: encoded, body: body,
		ends: t.ends, done: make(chan end, 1),
	}, nil
}

// giveUp has a call removed that nobody waits for any more. It returns false when it never will be stored.
func (x *Exchange) giveUp(c *call) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.open[c.id] == nil {
		return false
	}
	delete(x.open, c.id)
	if c.left = true; c.stored { // else whoever stores it removes it then
		x.abandoned = append(x.abandoned, removal{call: c})
		poke(x.poll)
	}
	return true
}

// withdraw has a call removed if nobody has taken it.
func (x *Exchange) withdraw(c *call) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.open[c.id] != nil && c.stored {
		x.abandoned = append(x.abandoned, removal{call: c, untaken: true})
		poke(x.poll)
	}
}

// removal is a call to be removed.
type removal struct {
	*call
	untaken bool // only if nobody has taken it
}

// learnFor is how long a call whose time is up waits to learn whether anybody took it.
const learnFor = time.Second

// learn tells the trace of a call whose time is up whether anybody took it.
func (x *Exchange) learn(c *call, r *http.Request) {
	timer := time.NewTimer(learnFor)
	defer timer.Stop()
	select {
	case e := <-c.done:
		e.trace(r)
	case <-timer.C:
	}
}

func (e end) trace(r *http.Request) {
	if trace := httptrace.ContextClientTrace(r.Context()); trace != nil && trace.GotConn != nil && (e.taken || e.status != 0) {
		trace.GotConn(httptrace.GotConnInfo{})
	}
}

func (e end) response(r *http.Request) (*http.Response, error) {
	e.trace(r)
	if e.err != nil {
		return nil, e.err
	}
	header := make(http.Header, len(e.headers))
	for name, value := range e.headers {
		header.Set(name, value)
	}
	return &http.Response{
		Status: fmt.Sprintf("%d %s", e.status, http.StatusText(e.status)), StatusCode: e.status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: header, Body: io.NopCloser(bytes.NewReader(e.body)), ContentLength: int64(len(e.body)), Request: r,
	}, nil
}

// begin starts the loops of callers with the first call.
func (x *Exchange) begin() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.calling {
		x.calling = true
		x.loops.Go(x.storeLoop)
		x.loops.Go(x.answerLoop)
	}
}

// storeLoop stores calls; those that gather meanwhile go with the next statement.
func (x *Exchange) storeLoop() {
	for {
		var calls []*call
		select {
		case <-x.ctx.Done():
			return
		case c := <-x.outbox:
			calls = x.gather(c)
		}
		if err := x.store(calls); err != nil {
			x.log.WarnContext(x.ctx, "Calls for workers that pull not stored", "calls", len(calls), "err", err)
			for _, c := range calls {
				x.finish(c.id, end{err: err})
			}
			continue
		}
		x.wakeFor(calls)
	}
}

func (x *Exchange) gather(first *call) []*call {
	calls, size := []*call{first}, len(first.body)
	for len(calls) < atOnce && size < bytesAtOnce {
		select {
		case c := <-x.outbox:
			calls, size = append(calls, c), size+len(c.body)
		default:
			return calls
		}
	}
	return calls
}

const storeSQL = `
	insert into sluice.pull_call (tenant_id, worker, id, caller, deadline, method, path, headers, body)
	select c.tenant_id, c.worker, c.id, $1, now() + c.ms * interval '1 millisecond', c.method, c.path, c.headers::json, c.body
	from unnest($2::bigint[], $3::text[], $4::uuid[], $5::bigint[], $6::text[], $7::text[], $8::text[], $9::bytea[])
		as c (tenant_id, worker, id, ms, method, path, headers, body)`

func (x *Exchange) store(calls []*call) error {
	var (
		tenants, left                   []int64
		workers, methods, paths, header []string
		ids                             []uuid.UUID
		bodies                          [][]byte
	)
	x.mu.Lock()
	for _, c := range calls {
		if c.ctx.Err() != nil {
			continue
		}
		x.open[c.id] = c
		tenants, workers, ids = append(tenants, c.worker.Tenant), append(workers, c.worker.Name), append(ids, c.id)
		left = append(left, max(time.Until(c.ends).Milliseconds(), 0))
		methods, paths, header, bodies = append(methods, c.method), append(paths, c.path), append(header, string(c.headers)), append(bodies, orEmpty(c.body))
	}
	x.mu.Unlock()
	if len(ids) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(x.ctx, statementTime)
	defer cancel()
	if _, err := x.db.Exec(ctx, storeSQL, x.self, tenants, workers, ids, left, methods, paths, header, bodies); err != nil {
		return err
	}
	x.mu.Lock()
	for _, c := range calls {
		if c.stored = true; c.left {
			x.abandoned = append(x.abandoned, removal{call: c})
		}
	}
	x.mu.Unlock()
	poke(x.poll)
	return nil
}

func orEmpty(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

// finish tells who waits for a call what became of it.
func (x *Exchange) finish(id uuid.UUID, e end) {
	x.mu.Lock()
	c := x.open[id]
	delete(x.open, id)
	x.mu.Unlock()
	if c != nil { // and so it is told once
		c.done <- e
	}
}

// answerLoop looks for answers for all who wait, and for calls that will have none. It asks nothing while nobody waits.
func (x *Exchange) answerLoop() {
	pace := pollSoonest
	var checked, tidied time.Time
	for {
		if x.idle() {
			select {
			case <-x.ctx.Done():
				return
			case <-x.poll:
			}
		}
		found, err := x.turn()
		if err == nil && time.Since(checked) >= checkEvery {
			checked = time.Now()
			err = x.check()
		}
		if err == nil && time.Since(tidied) >= tidyEvery {
			tidied = time.Now()
			err = x.tidy()
		}
		switch {
		case err != nil:
			pace = checkEvery
			if x.ctx.Err() == nil {
				x.log.WarnContext(x.ctx, "Answers of workers that pull not read", "err", err)
			}
		case found:
			pace = pollSoonest
		default:
			pace = min(2*pace, pollLatest)
		}
		if !x.rest(pace, x.poll) {
			return
		}
	}
}

func (x *Exchange) idle() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return len(x.open) == 0 && len(x.abandoned) == 0
}

// turn takes what has been answered, and removes what was given up.
func (x *Exchange) turn() (found bool, err error) {
	if err := x.remove(); err != nil {
		return false, err
	}
	return x.takeAnswers()
}

// answersSQL reads along pull_call_answer_idx, which has only what has been answered.
const answersSQL = `
	delete from sluice.pull_call p
	using (
		select tenant_id, worker, id, sum(octet_length(reply)) over (order by id) - octet_length(reply) as before
		from sluice.pull_call where caller = $1 and status is not null
		order by id limit $2
	) a
	where p.tenant_id = a.tenant_id and p.worker = a.worker and p.id = a.id and a.before < $3
	returning p.id, p.status, p.reply_headers::text, p.reply`

func (x *Exchange) takeAnswers() (found bool, err error) {
	ctx, cancel := context.WithTimeout(x.ctx, statementTime)
	defer cancel()
	rows, _ := x.db.Query(ctx, answersSQL, x.self, atOnce, bytesAtOnce)
	var (
		id      uuid.UUID
		status  int
		headers string
		body    []byte
	)
	_, err = pgx.ForEachRow(rows, []any{&id, &status, &headers, &body}, func() error {
		e := end{status: status, body: bytes.Clone(body)}
		if err := json.Unmarshal([]byte(headers), &e.headers); err != nil {
			e = end{taken: true, err: err}
		}
		x.finish(id, e)
		found = true
		return nil
	})
	return found, err
}

const removeSQL = `
	delete from sluice.pull_call p
	using (
		select l.*, exists (
			select from sluice.pull_presence s where s.tenant_id = l.tenant_id and s.worker = l.worker and s.seen_at > now() - $5::interval
		) or exists (
			select from sluice.pull_call o where o.tenant_id = l.tenant_id and o.worker = l.worker and o.status is null and o.lease_until > now()
		) as attended
		from (select * from unnest($1::bigint[], $2::text[], $3::uuid[], $4::boolean[]) as c (tenant_id, worker, id, untaken) order by 1, 2, 3) c
		cross join lateral (
			select x.tenant_id, x.worker, x.id from sluice.pull_call x
			where x.tenant_id = c.tenant_id and x.worker = c.worker and x.id = c.id and (x.token is null or not c.untaken)
			limit 1 for update
		) l
	) k
	where p.tenant_id = k.tenant_id and p.worker = k.worker and p.id = k.id
	returning p.id, p.token is not null, k.attended`

// remove deletes the calls that were given up or are to be withdrawn, and tells of each whether anybody had taken it.
func (x *Exchange) remove() error {
	x.mu.Lock()
	calls := x.abandoned
	x.abandoned = nil
	x.mu.Unlock()
	if len(calls) == 0 {
		return nil
	}
	var tenants []int64
	var workers []string
	var ids []uuid.UUID
	var untaken []bool
	byID := make(map[uuid.UUID]removal, len(calls))
	for _, c := range calls {
		byID[c.id] = c
		tenants, workers, ids, untaken = append(tenants, c.worker.Tenant), append(workers, c.worker.Name), append(ids, c.id), append(untaken, c.untaken)
	}
	ctx, cancel := context.WithTimeout(x.ctx, statementTime)
	defer cancel()
	rows, _ := x.db.Query(ctx, removeSQL, tenants, workers, ids, untaken, absent)
	var id uuid.UUID
	var taken, attended bool
	_, err := pgx.ForEachRow(rows, []any{&id, &taken, &attended}, func() error {
		switch c := byID[id]; {
		case !c.untaken:
			select {
			case c.done <- end{taken: taken}:
			default: // it was told before, by a look that broke off
			}
		case attended:
			x.finish(id, busy)
		default:
			x.finish(id, end{err: ErrNobody})
		}
		return nil
	})
	if err != nil { // they must not be offered to anybody for nothing
		x.mu.Lock()
		x.abandoned = append(x.abandoned, calls...)
		x.mu.Unlock()
	}
	return err
}

// absentSQL removes the calls of workers for which nobody came for some time and nobody works.
const absentSQL = `
	with mine as materialized (
		select distinct tenant_id, worker from sluice.pull_call where caller = $1 and status is null
	), deserted as materialized (
		select tenant_id, worker from mine m
		where not exists (select from sluice.pull_presence s where s.tenant_id = m.tenant_id and s.worker = m.worker and s.seen_at > now() - $2::interval)
		  and not exists (select from sluice.pull_call c where c.tenant_id = m.tenant_id and c.worker = m.worker and c.status is null and c.lease_until > now())
	)
	delete from sluice.pull_call p using deserted d
	where p.caller = $1 and p.tenant_id = d.tenant_id and p.worker = d.worker and p.status is null
	returning p.id, p.token is not null`

const goneSQL = `select id from unnest($2::uuid[]) as id where not exists (select from sluice.pull_call c where c.caller = $1 and c.id = id.id)`

// check ends the calls that nobody will answer.
func (x *Exchange) check() error {
	ctx, cancel := context.WithTimeout(x.ctx, statementTime)
	defer cancel()
	rows, _ := x.db.Query(ctx, absentSQL, x.self, absent)
	var id uuid.UUID
	var taken bool
	if _, err := pgx.ForEachRow(rows, []any{&id, &taken}, func() error {
		x.finish(id, end{taken: taken, err: ErrNobody})
		return nil
	}); err != nil {
		return err
	}
	stored := x.stored()
	if len(stored) == 0 {
		return nil
	}
	rows, _ = x.db.Query(ctx, goneSQL, x.self, stored)
	_, err := pgx.ForEachRow(rows, []any{&id}, func() error {
		x.finish(id, end{err: errGone})
		return nil
	})
	return err
}

func (x *Exchange) stored() []uuid.UUID {
	x.mu.Lock()
	defer x.mu.Unlock()
	ids := make([]uuid.UUID, 0, len(x.open))
	for id, c := range x.open {
		if c.stored {
			ids = append(ids, id)
		}
	}
	return ids
}

// tidy removes what callers left behind that died.
func (x *Exchange) tidy() error {
	ctx, cancel := context.WithTimeout(x.ctx, statementTime)
	defer cancel()
	_, err := x.db.Exec(ctx, `delete from sluice.pull_call where deadline < now() - interval '1 minute'`)
	return err
}
