package queue

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// The fetcher is one loop for all edges. It knows which edges are awake: told by this engine when a message is born that
// nobody claimed, by other engines through NOTIFY, and by a sweep in case nobody said anything.
// A published edge on which nothing happens costs a map entry.

// want is how many messages of an edge the fetcher asks for.
type want struct {
	edge *edge
	n    int
}

func (e *Engine) fetchLoop(ctx context.Context) {
	var conn sender
	drop := func() {
		if own, ok := conn.(*pgxpool.Conn); ok {
			own.Conn().Close(context.WithoutCancel(ctx)) // its settings must not go back to the pool
			own.Release()
		}
		conn = nil
	}
	defer drop()
	for try := 0; ctx.Err() == nil; {
		select {
		case <-ctx.Done():
			return
		case <-e.orphans:
			if err := e.reconcile(ctx); err != nil {
				e.log.WarnContext(ctx, "Claims not reconciled", "err", err)
			}
			continue
		case <-e.wakeFetch:
		}
		for ctx.Err() == nil {
			wants := e.reserveAwake()
			if len(wants) == 0 {
				break
			}
			var err error
			if conn == nil {
				conn, err = e.openFetcher(ctx)
			}
			if err == nil {
				err = e.fetch(ctx, conn, wants)
			} else {
				e.unreserveAll(wants)
			}
			if err != nil {
				if ctx.Err() != nil {
					return
				}
				e.log.WarnContext(ctx, "Fetch failed", "err", err)
				drop()
				e.askReconcile() // the claim may have been committed all the same
				pause(ctx, try)
				try++
				break
			}
			try = 0
		}
	}
}

// openFetcher takes a connection of its own and holds the planner to index scans. A claim prepared while the queue was
// empty is otherwise kept with a plan that reads the whole table (measured: 8,400 jobs/s against 28,200).
func (e *Engine) openFetcher(ctx context.Context) (sender, error) {
	if e.config.Pooled {
		return newPooled(e.conns, slices.Concat(engineSettings, fetcherSettings)...), nil
	}
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	conn, err := e.conns.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	for _, s := range fetcherSettings {
		if _, err := conn.Exec(ctx, `select set_config($1, $2, false)`, s.name, s.value); err != nil {
			conn.Release()
			return nil, err
		}
	}
	return conn, nil
}

// reserveAwake takes slots for the edges that are awake, a fair share each, and takes the edges out of the set: whoever
// wakes one from now on wakes it again. Edges without room, because their worker is down, say, have no share. Of a node
// whose calls all runners count together there is one edge at most.
func (e *Engine) reserveAwake() []want {
	e.mu.Lock()
	defer e.mu.Unlock()
	var wants []want
	now, left := time.Now(), min(e.slots, fetchAtOnce)
	if left <= 0 {
		return nil
	}
	var ready []*edge
	for to := range e.awake { // in random order, which is fair
		if e.room(to, now) > 0 {
			ready = append(ready, to)
		} else if wait := to.to.brake.Wait(); wait > 0 {
			e.pokeIn(wait)
		}
	}
	share := max(1, left/max(1, len(ready)))
	counted := map[*node]bool{}
	for _, to := range ready {
		if left == 0 {
			break
		}
		if counted[to.to] {
			continue
		}
		n := min(e.room(to, now), share, left) // asked again: of edges with the same worker that is down, one may probe
		if n == 0 {
			continue
		}
		counted[to.to] = to.to.limited()
		e.reserve(to, n)
		left -= n
		delete(e.awake, to)
		wants = append(wants, want{to, n})
	}
	return wants
}

// unreserveAll undoes reserveAwake.
func (e *Engine) unreserveAll(wants []want) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, w := range wants {
		e.awake[w.edge] = struct{}{}
		if b := e.breakers[w.edge.to.worker]; b != nil {
			b.Forget()
		}
		e.unneeded(w.edge, w.n)
	}
}

// claimedRow is a row of claimSQL. What a job of another program has no message for is null.
type claimedRow struct {
	ID        int64
	Queue     string
	Attempt   int
	ProcessID *uuid.UUID
	Failures  int
	Approved  bool
	Headers   *string
	Body      []byte // of a small one
	Size      int
	PayloadID *int64
	Page      int
	Cursor    string
	LaneKey   *string
	Token     bool // of the lane with that key, and no message
}

// fetch claims messages and starts their calls.
func (e *Engine) fetch(ctx context.Context, conn sender, wants []want) error {
	l := e.life()
	byQueue := make(map[string]*want, len(wants))
	for i := range wants {
		byQueue[wants[i].edge.queue] = &wants[i]
	}
	timed, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	claimed, err := claim(timed, conn, l, wants)
	if err != nil {
		e.unreserveAll(wants)
		return err
	}
	var foreign, held []*delivery
	e.mu.Lock()
	launch := make([]*delivery, 0, len(claimed))
	got := make(map[*want]int, len(wants))
	for _, row := range claimed {
		w := byQueue[row.Queue]
		got[w]++
		d := &delivery{life: l, id: row.ID, attempt: row.Attempt, failures: row.Failures, approved: row.Approved, edge: w.edge, cursor: row.Cursor}
		if w.edge.to.isBatch() {
			d.page = max(row.Page, 1)
		}
		e.inFlight[row.ID] = d
		if row.Token {
			startRun(d, *row.LaneKey)
			launch = append(launch, d)
			continue
		}
		if row.ProcessID == nil || row.Headers == nil || row.PayloadID == nil {
			foreign = append(foreign, d)
			continue
		}
		d.load(*row.ProcessID, nil, *row.Headers, row.Body, *row.PayloadID)
		d.size = row.Size
		if e.catalog.limitOf(w.edge) != 0 {
			held = append(held, d)
			continue
		}
		launch = append(launch, d)
	}
	for i := range wants {
		w := &wants[i]
		w.edge.backlog = got[w] == w.n
		if w.edge.backlog {
			e.awake[w.edge] = struct{}{}
		}
		if got[w] < w.n {
			if got[w] == 0 {
				if b := e.breakers[w.edge.to.worker]; b != nil {
					b.Forget()
				}
			}
			e.unneeded(w.edge, w.n-got[w])
		}
	}
	e.mu.Unlock()
	for _, d := range launch {
		e.launch(d)
	}
	if len(held) > 0 {
		e.holdBack(ctx, l, held)
	}
	for _, d := range foreign {
		e.adopt(ctx, d)
	}
	return nil
}

// claim runs the statements that claim messages: one for the nodes that this runner alone limits, and one for those whose
// calls all runners count together, if there are any.
func claim(ctx context.Context, conn sender, l *life, wants []want) (claimed []claimedRow, err error) {
	var own, limited wantArrays
	for _, w := range wants {
		if w.edge.to.limited() {
			limited.add(w)
		} else {
			own.add(w)
		}
	}
	batch := &pgx.Batch{}
	collect := func(rows pgx.Rows) error {
		got, err := pgx.CollectRows(rows, pgx.RowToStructByName[claimedRow])
		claimed = append(claimed, got...)
		return err
	}
	if len(own.queues) > 0 {
		batch.Queue(claimSQL, own.queues, own.tenants, own.ns, l.claimant).Query(collect)
	}
	if len(limited.queues) > 0 {
		batch.Queue(lockNodesSQL, limited.nodes)
		batch.Queue(claimLimitedSQL, limited.queues, limited.tenants, limited.ns, l.claimant, limited.all, limited.most).Query(collect)
	}
	return claimed, conn.SendBatch(ctx, batch).Close()
}

// wantArrays are the arguments of the statements that claim, a column each.
type wantArrays struct {
	queues  []string
	tenants []int64
	ns      []int32
	nodes   []int64  // by their first edge
	all     []string // queues of the node
	most    []int32  // calls of the node at once
}

func (a *wantArrays) add(w want) {
	n := w.edge.to
	all := make([]string, len(n.in))
	for i, in := range n.in {
		all[i] = in.queue
	}
	a.queues, a.tenants, a.ns = append(a.queues, w.edge.queue), append(a.tenants, w.edge.tenant), append(a.ns, int32(w.n))
	a.nodes, a.all, a.most = append(a.nodes, n.in[0].id), append(a.all, strings.Join(all, ",")), append(a.most, int32(n.Concurrency))
}

// wakeQueues wakes the edges of the named queues.
func (e *Engine) wakeQueues(ctx context.Context, queues []string) error {
	if len(queues) == 0 {
		return nil
	}
	edges, err := e.catalog.edgesOf(ctx, queues)
	if err != nil {
		return fmt.Errorf("find the edges of queues: %w", err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, to := range edges {
		e.awake[to] = struct{}{}
	}
	e.pokeFetcher()
	return nil
}

// askReconcile lets the fetcher reconcile before it claims again.
func (e *Engine) askReconcile() {
	select {
	case e.orphans <- struct{}{}:
	default:
	}
}
