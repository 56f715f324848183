package queue

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Before a node that keeps order, messages wait in lanes, one for each key, and a lane is worked by one runner at a time:
// the one that holds its token. It reads messages ahead and calls the worker with one after the other. The next call is
// made as soon as the one before has succeeded, while that is still being committed; the results of a lane go to one
// committer at a time, so what is committed is always the lane's first. After a crash what was not committed is called
// again, in order.

const (
	firstRead     = 50                     // messages that are read of a lane at first and most; each time it was not enough, twice as many
	leastRead     = 4                      // ... and least, where runs end early
	mostRead      = 800                    // and most
	hotRead       = 4 * firstRead          // from which on they are read ahead of time
	readBytes     = 1 << 20                // of small bodies that are read of a lane at once, while there are few lanes
	mostOpen      = 1000                   // results of a lane that are not committed yet
	mostOpenBytes = flushBytes             // of them
	turn          = 100 * time.Millisecond // after which a lane gives its slot to others that wait
	lanesAtOnce   = 200                    // lanes that are read by one statement
	outcomeYield  = outcome("yield")       // gives a token back; no attempt
)

// laneName names a lane.
type laneName struct {
	tenant int64
	edge   int64 // the first of the edges that lead to the node
	key    string
}

// laneOf is the lane that a message comes to on an edge. The edge leads to a node that keeps order.
func (to *edge) laneOf(headers map[string]string, body []byte) laneName {
	name := laneName{tenant: to.tenant, edge: to.to.in[0].id}
	if !to.to.OrderBy.IsZero() {
		name.key = to.to.OrderBy.Key(headers, body)
	}
	return name
}

// run is a lane whose token this runner holds.
type run struct {
	lane  laneName
	token *delivery // the claim, and the slot that the run has
	began time.Time

	// Only the goroutine that works the lane touches these.
	read  []*delivery // and not called yet, in order
	place int64       // from which to read on
	most  int         // messages to read next time
	short bool        // the last time there were fewer
	ahead *laneRead   // is being read while calls are made
	calls int

	mu        sync.Mutex
	results   []*settlement // that no committer has taken
	open      int           // results that are not committed
	openBytes int           // of them
	taken     bool          // a committer is at it, or has been told
	lost      bool          // the token is someone else's, or nobody knows
	idle      bool          // nothing waits in the lane, and the token is gone
	waits     bool          // who works the lane waits for commits
	changed   chan struct{} // something was committed
}

func startRun(token *delivery, key string) {
	token.run = &run{
		lane:  laneName{tenant: token.edge.tenant, edge: token.edge.to.in[0].id, key: key},
		token: token, began: time.Now(), most: token.edge.to.readFirst(), changed: make(chan struct{}, 1),
	}
}

// readFirst is how many messages of a lane a run reads at first: where calls fail often, runs end early, and what they have
// read is read again by the next (measured with a fifth of the calls failing, in lanes of a thousand messages: of fifty that
// were read five were called, and reading was all that was done). The caller holds the engine's lock.
func (n *node) readFirst() int {
	if n.runCalls == 0 {
		return firstRead
	}
	return min(max(int(2*n.runCalls), leastRead), firstRead)
}

// learn notes how many calls a run has made that left messages which it had read. The caller holds the engine's lock.
func (n *node) learn(calls int) {
	if n.runCalls == 0 {
		n.runCalls = float64(calls)
	}
	n.runCalls += (float64(calls) - n.runCalls) / 16
}

// workLane works a lane until nothing waits there, its head cannot be worked now, or others should have their turn.
func (e *Engine) workLane(r *run) {
	defer e.endRun(r)
	for {
		if !e.mayGoOn(r) {
			e.yield(r)
			return
		}
		d, ok := e.nextOf(r)
		if !ok {
			return
		}
		if !e.lendGrant(r, d) {
			e.holdToken(r, d)
			return
		}
		r.calls++
		s, lost := e.attempt(d)
		if s == nil {
			d.hold.Release()
		}
		switch {
		case lost:
			return
		case s == nil:
			e.yield(r)
			return
		}
		r.push(e, s)
		if s.leaves() {
			r.await(func() bool { return r.open < mostOpen && r.openBytes < mostOpenBytes })
		} else {
			r.await(func() bool { return r.open == 0 })
		}
		if r.isLost() {
			return
		}
		if s.leaves() || !s.committed { // one that was taken out of the lane meanwhile is not ours any more
			continue
		}
		if s.outcome != outcomePage {
			return
		}
		next := s.nextPage()
		r.read = slices.Insert(r.read, 0, next)
	}
}

// mayGoOn tells whether the run may make another call now.
func (e *Engine) mayGoOn(r *run) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.running || r.token.edge.paused {
		return false
	}
	if len(r.read) > 0 && r.read[0].edge.paused {
		return false
	}
	if r.calls == 0 || time.Since(r.began) < e.turn { // who had to wait long for its start makes a call all the same
		return true
	}
	if e.slots == 0 && len(e.awake) > 0 {
		return false
	}
	for _, in := range r.token.edge.to.in {
		if _, waits := e.awake[in]; waits {
			return false
		}
	}
	return true
}

// nextOf is the next message of the lane. There is none when the lane has fallen idle, or the token is lost.
func (e *Engine) nextOf(r *run) (*delivery, bool) {
	for try := 0; len(r.read) == 0; try++ {
		if r.short { // the lane was read to its end: it may be idle when all is committed
			r.await(func() bool { return r.open == 0 })
			if r.isOver() {
				return nil, false
			}
		}
		if try == 2 { // what the token was kept for has been taken out of the lane
			e.yield(r)
			return nil, false
		}
		if !e.readOn(r) {
			return nil, false
		}
	}
	d := r.read[0]
	r.read = r.read[1:]
	e.readAhead(r)
	return d, true
}

// readAhead has the next messages of a lane read before it runs out of them, if it has shown that it has many and the
// reader is free.
func (e *Engine) readAhead(r *run) {
	if r.ahead != nil || r.short || r.most < hotRead || len(r.read) > r.most/4 {
		return
	}
	wish := &laneRead{run: r, done: make(chan struct{})}
	select {
	case e.reads <- wish:
		r.ahead = wish
	default:
	}
}

// isOver tells whether the token is gone.
func (r *run) isOver() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lost || r.idle
}

func (r *run) isLost() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lost
}

// push gives a result to a committer.
func (r *run) push(e *Engine, s *settlement) {
	r.mu.Lock()
	r.results = append(r.results, s)
	r.open++
	r.openBytes += s.size()
	tell := !r.taken
	r.taken = true
	r.mu.Unlock()
	if tell {
		e.settle(&settlement{run: r})
	}
}

// take gives a committer what is to be committed, oldest first: so many results and bytes at most, and at least one.
func (r *run) take(most, bytes int) []*settlement {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	most = min(most, mostOpen/2) // calls go on while these are committed
	for size := 0; n < len(r.results) && (n == 0 || n < most && size < bytes); n++ {
		size += r.results[n].size()
	}
	taken := r.results[:n:n]
	r.results = r.results[n:]
	return taken
}

// release ends a committer's turn, unless there is more to commit.
func (r *run) release() (more bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.taken = len(r.results) > 0
	return r.taken
}

// conclude notes that one of the results is decided.
func (r *run) conclude(s *settlement, committed, held, idle bool) {
	s.drop()
	r.mu.Lock()
	s.committed = committed
	r.open--
	r.openBytes -= s.size()
	r.idle = r.idle || idle
	r.lost = r.lost || !held
	r.waits = false
	r.mu.Unlock()
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

// await waits until a condition on what is guarded holds, or the token is lost. All that was pushed is decided sooner or
// later, so it ends.
func (r *run) await(holds func() bool) {
	for {
		r.mu.Lock()
		over := holds() || r.lost && r.open == 0
		r.waits = !over
		r.mu.Unlock()
		if over {
			return
		}
		<-r.changed
	}
}

// yield gives the token back, after all that was done under it is committed.
func (e *Engine) yield(r *run) {
	r.await(func() bool { return r.open == 0 })
	if r.isOver() {
		return
	}
	r.push(e, &settlement{d: r.token, outcome: outcomeYield})
	r.await(func() bool { return r.open == 0 })
}

// endRun frees the run's slot, when all its results are decided.
func (e *Engine) endRun(r *run) {
	r.await(func() bool { return r.open == 0 })
	if r.calls == 0 {
		e.abandon(r.token)
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(r.read) > 0 {
		r.token.edge.to.learn(r.calls)
	}
	e.forget(r.token)
	e.release(r.token)
	e.wakeLimited(r.token.edge.to)
}

// laneRead is a wish to read on in a lane.
type laneRead struct {
	run  *run
	rows []laneRow
	err  error
	done chan struct{}
}

// laneRow is a row of readLanesSQL.
type laneRow struct {
	N         int64
	Place     int64
	ProcessID uuid.UUID
	MessageID int64
	ViaID     int64
	Before    *int
	Failures  int
	Page      int
	Attempts  int
	Headers   string
	PayloadID int64
	Body      []byte // of a small one
	Size      int
	Cursor    string
}

// readOn reads the next messages of a lane. It tries until it succeeds or the run has to end.
func (e *Engine) readOn(r *run) bool {
	for try := 0; ; try++ {
		wish := r.ahead
		r.ahead = nil
		if wish == nil {
			wish = &laneRead{run: r, done: make(chan struct{})}
			e.reads <- wish
		}
		<-wish.done
		if wish.err == nil {
			r.load(e, wish.rows)
			return true
		}
		e.log.Warn("Lane not read, trying again", "edge", r.lane.edge, "err", wish.err)
		pause(e.callCtx, try)
		if e.callCtx.Err() != nil || r.token.life.dead.Load() {
			return false
		}
	}
}

// load makes deliveries of the rows that were read.
func (r *run) load(e *Engine, rows []laneRow) {
	r.short = len(rows) < r.most
	if !r.short {
		r.most = min(2*r.most, mostRead)
	}
	for _, row := range rows {
		d := &delivery{
			life: r.token.life, id: row.MessageID, attempt: row.Attempts + 1, failures: row.Failures, edge: e.catalog.edge(row.ViaID),
			run: r, place: row.Place, released: true, cursor: row.Cursor,
		}
		if row.Before != nil { // it is at the head: claims of the token for it count, whether they came to a call or not
			d.attempt = row.Attempts + max(r.token.attempt-*row.Before, 1)
		}
		if r.token.edge.to.isBatch() {
			d.page = row.Page
		}
		d.load(row.ProcessID, nil, row.Headers, row.Body, row.PayloadID)
		d.size = row.Size
		r.read = append(r.read, d)
		r.place = row.Place + 1
	}
}

// readLoop reads lanes for their runs, many at once.
func (e *Engine) readLoop(ctx context.Context) {
	for {
		var first *laneRead
		select {
		case <-ctx.Done():
			return
		case first = <-e.reads:
		}
		wishes := []*laneRead{first}
	gather:
		for len(wishes) < lanesAtOnce {
			select {
			case w := <-e.reads:
				wishes = append(wishes, w)
			default:
				break gather
			}
		}
		err := e.readLanes(ctx, wishes)
		for _, w := range wishes {
			w.err = err
			close(w.done)
		}
	}
}

func (e *Engine) readLanes(ctx context.Context, wishes []*laneRead) error {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	var tenants, edges, tokens, places []int64
	var keys []string
	var most []int32
	for _, w := range wishes {
		r := w.run
		tenants, edges, keys = append(tenants, r.lane.tenant), append(edges, r.lane.edge), append(keys, r.lane.key)
		tokens, places, most = append(tokens, r.token.id), append(places, r.place), append(most, int32(r.most))
	}
	rows, _ := e.pool.Query(ctx, readLanesSQL, tenants, edges, keys, tokens, places, most, e.readBytes())
	read, err := pgx.CollectRows(rows, pgx.RowToStructByName[laneRow])
	for _, row := range read {
		w := wishes[row.N-1]
		w.rows = append(w.rows, row)
	}
	return err
}

// readBytes is how much is read of a lane at once, so that all that are worked do not take more than there is memory.
func (e *Engine) readBytes() int64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return min(readBytes, e.config.Memory/int64(max(e.config.Slots-e.slots, 1)))
}

// laneArrays are lanes as arguments of a statement, a column each.
type laneArrays struct {
	tenants, edges []int64
	keys           []string
	must           []bool // messages come to it
	count          int    // of those
}

// distinctLanes makes the arguments of the statements that ensure and lock lanes: those that messages come to, and those
// that are only worked.
func distinctLanes(come, worked []laneName) (ensure, lock laneArrays) {
	comes := map[laneName]bool{}
	for _, l := range worked {
		comes[l] = false
	}
	for _, l := range come {
		comes[l] = true
	}
	for l, must := range comes {
		lock.add(l, must)
		if must {
			ensure.add(l, must)
		}
	}
	return ensure, lock
}

func (a *laneArrays) add(l laneName, must bool) {
	a.tenants, a.edges, a.keys, a.must = append(a.tenants, l.tenant), append(a.edges, l.edge), append(a.keys, l.key), append(a.must, must)
	if must {
		a.count++
	}
}

// queueLanes adds to a batch what comes before a statement with laneMoves.
func queueLanes(b *pgx.Batch, come, worked []laneName) {
	ensure, lock := distinctLanes(come, worked)
	if len(ensure.edges) > 0 {
		b.Queue(ensureLanesSQL, ensure.tenants, ensure.edges, ensure.keys)
	}
	b.Queue(lockLanesSQL, lock.tenants, lock.edges, lock.keys, lock.must, lock.count)
}

// laneNews is what a statement with laneMoves told.
type laneNews struct {
	held map[int64]bool // results, by place in the batch, counted from 1
	idle map[int64]bool // tokens
	woke []int64        // edges
}

// read reads the rows of such a statement. done is called with what is done.
func (n *laneNews) read(rows pgx.Rows, done func(int64)) error {
	n.held, n.idle = map[int64]bool{}, map[int64]bool{}
	var what string
	var id int64
	_, err := pgx.ForEachRow(rows, []any{&what, &id}, func() error {
		switch what {
		case "done":
			done(id)
		case "held":
			n.held[id] = true
		case "idle":
			n.idle[id] = true
		case "woke":
			n.woke = append(n.woke, id)
		}
		return nil
	})
	return err
}

// wake wakes the edges on which tokens wait now.
func (e *Engine) wake(edges []int64) {
	slices.Sort(edges)
	for _, id := range slices.Compact(edges) {
		if to := e.catalog.edge(id); to != nil {
			e.arrived(to)
		}
	}
}

// wakeLimited looks again at the edges of a node whose calls are limited over all runners: one of its calls is over. The
// caller holds the lock.
func (e *Engine) wakeLimited(n *node) {
	if !n.limited() || !e.running {
		return
	}
	for _, in := range n.in {
		e.awake[in] = struct{}{}
	}
	e.pokeFetcher()
}

// limited tells whether the node's calls are counted over all runners. In the one lane of a node without a key they need
// not be: its token is one.
func (n *node) limited() bool {
	return n.Concurrency > 1 || n.Concurrency == 1 && !n.OrderBy.IsZero()
}

// mostAtOnce is how many calls of the node a runner makes at once.
func (n *node) mostAtOnce(byDefault int) int { return cmp.Or(n.Concurrency, byDefault) }
