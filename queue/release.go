package queue

import (
	"cmp"
	"context"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"sluice/limiter"
)

// Messages that are held are released by whoever runs messages: it locks the gates to their applications, reads what their
// buckets hold and who waits, lets limiter.Gate decide, and writes that down, all in one transaction. What is released is
// claimed by it, and starts within the next moment.
//
// A gate is looked at when something came to it, and when its tokens allow more: who looked at it last knows when that is,
// and others stay away from it as long as it does so in time. A sweep finds those that nobody looks after.

const (
	gatesAtOnce     = 200                    // that are looked at in one transaction
	keysAtOnce      = 500                    // of a gate
	foldAtOnce      = 1000                   // of what has come to a gate and gone
	releasesAtOnce  = 1000                   // messages
	gateSweep       = 500 * time.Millisecond // between looks for gates that nobody looks after
	idleSweep       = 2 * time.Second        // ... as long as no limit is known
	overdue         = 150 * time.Millisecond // after which others look after a gate
	skippedAgain    = 5 * time.Millisecond   // until a gate is tried again that someone else has locked; twice as long each time ...
	skippedMost     = 80 * time.Millisecond  // ... up to this
	crowdedAgain    = 20 * time.Millisecond  // ... of whose messages there is no room for the next
	slotsAgain      = 100 * time.Millisecond // ... whose calls are all under way; each that ends is told
	releaseGap      = 5 * time.Millisecond   // between looks at a gate at least, if nothing came to it
	releaseIdleTime = "2s"                   // after which Postgres ends a release whose runner has frozen
)

// gates is what a runner knows of when to look at which gate.
type gates struct {
	mu      sync.Mutex
	hinted  map[gateKey]struct{} // to which something came
	alarms  map[gateKey]gateAlarm
	rests   map[gateKey]map[string]time.Time // users without a token, and when they get one: what comes to them waits for the alarm
	skipped map[gateKey]time.Duration        // how long to wait for one that others have locked
	words   map[gateKey]word                 // of applications
	wake    chan struct{}
}

// hints are gates to which something came, for whom: the users, or nil if that is not known.
type hints map[gateKey]map[string]struct{}

type gateAlarm struct {
	at    time.Time
	whole bool // nothing that comes can be released before
}

func newGates() *gates {
	return &gates{
		hinted: map[gateKey]struct{}{}, alarms: map[gateKey]gateAlarm{}, rests: map[gateKey]map[string]time.Time{},
		skipped: map[gateKey]time.Duration{}, words: map[gateKey]word{}, wake: make(chan struct{}, 1),
	}
}

// hint tells this runner, or if it is none the others, that something came to gates.
func (e *Engine) hint(keys hints) {
	if len(keys) == 0 {
		return
	}
	if e.lifeIfRunning() == nil {
		for k := range keys {
			e.herald.tell(k.name())
		}
		return
	}
	now := time.Now()
	e.gates.mu.Lock()
	defer e.gates.mu.Unlock()
	for k, users := range keys {
		if !e.gates.canWait(k, users, now) {
			e.gates.hinted[k] = struct{}{}
		}
	}
	if len(e.gates.hinted) > 0 {
		select {
		case e.gates.wake <- struct{}{}:
		default:
		}
	}
}

// canWait tells whether what came to a gate cannot be released before its alarm rings.
func (g *gates) canWait(key gateKey, users map[string]struct{}, now time.Time) bool {
	alarm := g.alarms[key]
	if !alarm.at.After(now) {
		return false
	}
	if alarm.whole {
		return true
	}
	rests := g.rests[key]
	for user := range users {
		if !rests[user].After(now) {
			return false
		}
	}
	return len(users) > 0
}

// skip sets the alarm of a gate that someone else has locked.
func (g *gates) skip(key gateKey) {
	g.mu.Lock()
	wait := max(g.skipped[key], skippedAgain)
	g.skipped[key] = min(2*wait, skippedMost)
	g.mu.Unlock()
	g.set(key, gateAlarm{at: time.Now().Add(wait/2 + rand.N(wait))})
}

// seen notes what was seen of a gate: users without a token, or nil.
func (g *gates) seen(key gateKey, rests map[string]time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.skipped, key)
	if len(rests) == 0 {
		delete(g.rests, key)
		return
	}
	g.rests[key] = rests
}

// due takes the gates that are to be looked at now, and tells when the next is.
func (g *gates) due(now time.Time) (keys []gateKey, next time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	next = time.Hour
	for k := range g.hinted {
		if len(keys) == gatesAtOnce {
			return keys, 0
		}
		keys = append(keys, k)
		delete(g.hinted, k)
		delete(g.alarms, k)
	}
	for k, a := range g.alarms {
		switch {
		case a.at.After(now):
			next = min(next, a.at.Sub(now))
		case len(keys) == gatesAtOnce:
			return keys, 0
		default:
			keys = append(keys, k)
			delete(g.alarms, k)
		}
	}
	return keys, next
}

// set sets the alarm of a gate, unless it rings earlier anyway.
func (g *gates) set(key gateKey, a gateAlarm) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if known, is := g.alarms[key]; !is || a.at.Before(known.at) {
		g.alarms[key] = a
	}
}

// releaseLoop looks at gates.
func (e *Engine) releaseLoop(ctx context.Context) {
	sweeps := time.NewTimer(time.Duration(rand.Int64N(int64(gateSweep))))
	defer sweeps.Stop()
	alarm := time.NewTimer(time.Hour)
	defer alarm.Stop()
	for try := 0; ; {
		var err error
		select {
		case <-ctx.Done():
			return
		case <-e.gates.wake:
		case <-alarm.C:
		case <-sweeps.C:
			err = e.findOverdue(ctx)
			pause := min(gateSweep, e.config.Sweep)
			if !e.catalog.anyLimit() {
				pause = idleSweep
			}
			sweeps.Reset(pause*3/4 + time.Duration(rand.Int64N(int64(pause/2))))
		}
		if err == nil {
			err = e.closeGates(ctx)
		}
		var next time.Duration
		for err == nil {
			var keys []gateKey
			if keys, next = e.gates.due(time.Now()); len(keys) == 0 {
				break
			}
			if err = e.releaseHeld(ctx, keys); err != nil {
				for _, k := range keys {
					e.gates.set(k, gateAlarm{at: time.Now().Add(crowdedAgain)})
				}
			}
		}
		if err != nil {
			if ctx.Err() != nil {
				return
			}
			e.log.WarnContext(ctx, "Held messages not released, trying again", "err", err)
			e.askReconcile() // the release may have been committed all the same
			pause(ctx, try)
			try, next = try+1, 0
		} else {
			try = 0
		}
		alarm.Reset(max(next, time.Millisecond))
	}
}

// findOverdue hints at the gates that nobody looks after.
func (e *Engine) findOverdue(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	found := map[gateKey]struct{}{}
	rows, _ := e.pool.Query(ctx, overdueSQL, gatesAtOnce)
	var k gateKey
	if _, err := pgx.ForEachRow(rows, []any{&k.tenant, &k.limit}, func() error {
		found[k] = struct{}{}
		return nil
	}); err != nil {
		return err
	}
	e.gates.mu.Lock()
	defer e.gates.mu.Unlock()
	for k := range found {
		e.gates.hinted[k] = struct{}{}
	}
	return nil
}

// gateRow is a row of gatesSQL.
type gateRow struct {
	TenantID     int64
	LimitID      int64
	Application  string
	Tokens       float64
	At           time.Time
	VTime        float64 `db:"vtime"`
	ClosedUntil  time.Time
	Slow         float64
	SlowedAt     time.Time
	Owner        int64
	GrantedUntil time.Time
	OwedAt       time.Time
	Held         int64
	NextAt       *time.Time
	Now          time.Time
	Amount       float64
	Per          time.Duration
	Burst        float64
	TotalAmount  float64
	TotalPer     time.Duration
	TotalBurst   float64
	Parallel     int
	Weights      map[string]float64
	Paused       bool
	Raise        float64
	Removed      bool
	Running      int
}

func (r *gateRow) key() gateKey { return gateKey{r.TenantID, r.LimitID} }

// factor is how many times its limit an application bears now.
func (r *gateRow) factor() float64 { return r.Raise * limiter.Slowed(r.Slow, r.Now.Sub(r.SlowedAt)) }

func (r *gateRow) total() limiter.Limit {
	if r.Removed {
		return limiter.Limit{}
	}
	return limiter.Limit{Amount: r.TotalAmount, Per: r.TotalPer, Burst: r.TotalBurst}.Times(r.factor())
}

func (r *gateRow) user() limiter.Limit {
	if r.Removed {
		return limiter.Limit{}
	}
	return limiter.Limit{Amount: r.Amount, Per: r.Per, Burst: r.Burst}.Times(r.factor())
}

// isMine tells whether a runner may release here. Where calls are paced as they begin, one runner does that, for another would
// have to count what it gave out as late: the one that did so last, unless it does not do so in time, or nothing is under way
// that it has released.
func (r *gateRow) isMine(me int64) bool {
	return !r.isStrict() || r.isLeftTo(me) || !r.GrantedUntil.Add(limiter.Grace).After(r.Now)
}

func (r *gateRow) isStrict() bool { return r.total().Strict() || r.user().Strict() }

// isLeftTo tells whether it is for this runner to look after the gate: it does so anyway, or nobody does so in time.
func (r *gateRow) isLeftTo(me int64) bool {
	return r.Owner == me || r.NextAt == nil || r.NextAt.Before(r.Now.Add(-overdue))
}

// heldRow is a row of linesSQL.
type heldRow struct {
	TenantID   int64
	LimitID    int64
	UserName   string
	Tokens     float64
	At         time.Time
	KeyTag     float64
	VTime      float64 `db:"vtime"`
	Ready      bool    // as it is stored
	Amount     float64
	Per        time.Duration
	Burst      float64
	Weight     float64
	EdgeID     int64
	TopologyID int64
	Topology   *string
	Tag        float64
	Held       int64
}

// releasing is one look at gates.
type releasing struct {
	engine *Engine
	life   *life
	sent   time.Time // before the gates were read, by this machine's clock, and after
	read   time.Time
	gates  []*gateLook
	edges  map[int64]*edge
	left   map[*node]int // calls that may still be made of nodes whose calls all runners count together
	taken  int           // messages
}

// gateLook is a gate as it is looked at.
type gateLook struct {
	gateRow
	plan    limiter.Gate
	ready   []bool        // whether its keys are stored as having a token
	full    bool          // there may be more keys that have tokens
	crowded bool          // more may have come that is not counted yet
	lead    time.Duration // until what is released can begin
	why     limiter.Blocked
	next    time.Time
	granted time.Time // the last start
	n       int       // messages released
}

// releaseHeld looks at gates: those of them that nobody else has locked.
func (e *Engine) releaseHeld(ctx context.Context, keys []gateKey) error {
	l := e.lifeIfRunning()
	if l == nil || !l.fresh() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	r := &releasing{engine: e, life: l}
	var launch []*delivery
	err := pgx.BeginFunc(ctx, e.pool, func(tx pgx.Tx) error {
		locked, err := r.lock(ctx, tx, keys)
		if err != nil || len(locked) == 0 {
			return err
		}
		if err := r.look(ctx, tx, locked); err != nil {
			return err
		}
		r.decide()
		launch, err = r.take(ctx, tx)
		if err != nil {
			return err
		}
		return r.write(ctx, tx)
	})
	if err != nil {
		e.abandonAll(launch)
		return err
	}
	var grants []*grant
	for _, d := range launch {
		grants = append(grants, d.grant)
	}
	if len(grants) > 0 {
		select {
		case e.grants <- grants:
		case <-ctx.Done():
		}
	}
	for _, d := range launch {
		e.launch(d)
	}
	if n := len(launch); n > 0 {
		e.reach.grow(n)
		e.lag.note(n, time.Since(r.read))
	}
	return nil
}

// gateArrays are gates as arguments of a statement, a column each.
func gateArrays(keys []gateKey) (tenants, limits []int64) {
	for _, k := range keys {
		tenants, limits = append(tenants, k.tenant), append(limits, k.limit)
	}
	return tenants, limits
}

// lock locks gates. Those that others have are tried again.
func (r *releasing) lock(ctx context.Context, tx pgx.Tx, keys []gateKey) (locked []gateKey, err error) {
	tenants, limits := gateArrays(keys)
	batch := &pgx.Batch{}
	batch.Queue(`set local idle_in_transaction_session_timeout = '` + releaseIdleTime + `'`)
	batch.Queue(lockGatesSQL, tenants, limits).Query(func(rows pgx.Rows) error {
		var k gateKey
		_, err := pgx.ForEachRow(rows, []any{&k.tenant, &k.limit}, func() error {
			locked = append(locked, k)
			return nil
		})
		return err
	})
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return nil, err
	}
	for _, k := range keys {
		if !slices.Contains(locked, k) {
			r.engine.gates.skip(k)
		}
	}
	return locked, nil
}

// look reads the gates and who is held there.
func (r *releasing) look(ctx context.Context, tx pgx.Tx, locked []gateKey) error {
	tenants, limits := gateArrays(locked)
	var rows []gateRow
	var lines []heldRow
	crowded := map[gateKey]bool{}
	batch := &pgx.Batch{}
	batch.Queue(foldSQL, tenants, limits, foldAtOnce).Query(func(found pgx.Rows) error {
		var k gateKey
		var more bool
		_, err := pgx.ForEachRow(found, []any{&k.tenant, &k.limit, &more}, func() error {
			crowded[k] = more
			return nil
		})
		return err
	})
	batch.Queue(gatesSQL, tenants, limits).Query(func(found pgx.Rows) (err error) {
		rows, err = pgx.CollectRows(found, pgx.RowToStructByName[gateRow])
		return err
	})
	batch.Queue(linesSQL, tenants, limits, keysAtOnce).Query(func(found pgx.Rows) (err error) {
		lines, err = pgx.CollectRows(found, pgx.RowToStructByName[heldRow])
		return err
	})
	r.sent = time.Now()
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return err
	}
	r.read = time.Now()
	if r.read.Sub(r.sent) > smallLag {
		if err := r.tellTime(ctx, tx, rows); err != nil {
			return err
		}
	}
	byKey := map[gateKey]*gateLook{}
	for _, row := range rows {
		g := &gateLook{gateRow: row, crowded: crowded[gateKey{row.TenantID, row.LimitID}]}
		if !g.isMine(r.life.id) {
			r.engine.gates.set(g.key(), gateAlarm{at: r.read.Add(max(g.GrantedUntil.Add(limiter.Grace).Sub(g.Now), releaseGap)), whole: true})
			continue
		}
		g.open(r.life.id)
		byKey[g.key()] = g
		r.gates = append(r.gates, g)
	}
	var queues []string
	for _, row := range lines {
		if g := byKey[gateKey{row.TenantID, row.LimitID}]; g != nil {
			g.add(row)
			queues = append(queues, queueName(row.EdgeID))
		}
	}
	for _, g := range r.gates {
		g.weigh()
	}
	edges, err := r.engine.catalog.edgesOf(ctx, queues)
	r.edges = map[int64]*edge{}
	for _, to := range edges {
		r.edges[to.id] = to
	}
	if err != nil {
		return err
	}
	return r.count(ctx, tx)
}

// tellTime asks what time it is after a slow look: what the database's clock said in the middle of it tells too little of
// when a call may begin by this machine's.
func (r *releasing) tellTime(ctx context.Context, tx pgx.Tx, rows []gateRow) error {
	var now time.Time
	r.sent = time.Now()
	if err := tx.QueryRow(ctx, `select clock_timestamp()`).Scan(&now); err != nil {
		return err
	}
	r.read = time.Now()
	for i := range rows {
		rows[i].Now = now
	}
	return nil
}

// open begins the plan of a gate.
func (g *gateLook) open(me int64) {
	if g.Owner != me && (g.isStrict() || g.isLeftTo(me)) {
		g.Owner, g.OwedAt = me, g.GrantedUntil
	}
	g.plan = limiter.Gate{Total: g.total(), Slots: -1, ClosedUntil: g.ClosedUntil, VTime: g.VTime}
	g.plan.Bucket = g.bucket(g.plan.Total, g.Tokens, g.At)
	if g.Parallel > 0 && !g.Removed {
		g.plan.Slots = max(g.Parallel-g.Running, 0)
	}
}

// bucket is a bucket of the gate as it stands, or as another runner may have left it.
func (g *gateLook) bucket(l limiter.Limit, tokens float64, at time.Time) limiter.Bucket {
	if at.Unix() <= 0 {
		return limiter.Bucket{}
	}
	b := limiter.Bucket{Tokens: tokens, At: at}
	if !at.After(g.OwedAt) {
		b = b.Owed(l)
	}
	return b
}

// add adds a line to the gate's plan. Those of a key come one after the other.
func (g *gateLook) add(row heldRow) {
	if n := len(g.plan.Keys); n == 0 || g.plan.Keys[n-1].User != row.UserName {
		k := &limiter.Key{User: row.UserName, Weight: row.Weight, Tag: row.KeyTag, VTime: row.VTime}
		k.Limit = g.user()
		if row.Amount > 0 && !g.Removed {
			k.Limit = limiter.Limit{Amount: row.Amount, Per: row.Per, Burst: row.Burst}.Times(g.factor())
		}
		k.Bucket = g.bucket(k.Limit, row.Tokens, row.At)
		g.plan.Keys, g.ready = append(g.plan.Keys, k), append(g.ready, row.Ready)
	}
	k := g.plan.Keys[len(g.plan.Keys)-1]
	weight := 1.0
	if row.Topology != nil && g.Weights[*row.Topology] > 0 {
		weight = g.Weights[*row.Topology]
	}
	k.Lines = append(k.Lines, &limiter.Line{Edge: row.EdgeID, Topology: row.TopologyID, Weight: weight, Tag: row.Tag, Held: row.Held})
}

// weigh shares a topology's weight among its edges.
func (g *gateLook) weigh() {
	g.full = len(g.plan.Keys) >= keysAtOnce
	for _, k := range g.plan.Keys {
		edges := map[int64]float64{}
		for _, l := range k.Lines {
			edges[l.Topology]++
		}
		for _, l := range k.Lines {
			l.Weight /= edges[l.Topology]
		}
	}
}

// count finds out how many calls may be made of nodes whose calls all runners count together.
func (r *releasing) count(ctx context.Context, tx pgx.Tx) error {
	var counted []*node
	for _, to := range r.edges {
		if to.to.limited() && !slices.Contains(counted, to.to) {
			counted = append(counted, to.to)
		}
	}
	if len(counted) == 0 {
		return nil
	}
	first, queues := make([]int64, len(counted)), make([]string, len(counted))
	for i, n := range counted {
		all := make([]string, len(n.in))
		for k, in := range n.in {
			all[k] = in.queue
		}
		first[i], queues[i] = n.in[0].id, strings.Join(all, ",")
	}
	var running []int
	batch := &pgx.Batch{}
	batch.Queue(lockNodesSQL, first)
	batch.Queue(countNodesSQL, queues).Query(func(rows pgx.Rows) (err error) {
		running, err = pgx.CollectRows(rows, pgx.RowTo[int])
		return err
	})
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return err
	}
	r.left = map[*node]int{}
	for i, n := range counted {
		r.left[n] = n.Concurrency - running[i]
	}
	return nil
}

// decide lets each gate plan, as far as this runner has room.
func (r *releasing) decide() {
	r.engine.mu.Lock()
	defer r.engine.mu.Unlock()
	for _, g := range r.gates {
		if g.Paused && !g.Removed {
			g.why = limiter.ByNothing
			continue
		}
		g.lead = r.lead(g)
		g.why, g.next = g.plan.Plan(g.Now.Add(g.lead), r.takeRoom)
		for _, k := range g.plan.Keys {
			for _, l := range k.Lines {
				g.n += len(l.Starts)
				if n := len(l.Starts); n > 0 && l.Starts[n-1].After(g.granted) {
					g.granted = l.Starts[n-1]
				}
			}
		}
	}
}

// lead is how long it will take until what a gate releases can begin.
func (r *releasing) lead(g *gateLook) time.Duration {
	most := float64(min(max(g.Held, 0), releasesAtOnce))
	if !g.plan.Total.IsZero() {
		most = min(most, max(g.plan.Bucket.Level(g.plan.Total, g.Now), 1))
	} else if len(g.plan.Keys) == 1 && !g.plan.Keys[0].Limit.IsZero() {
		most = min(most, max(g.plan.Keys[0].Bucket.Level(g.plan.Keys[0].Limit, g.Now), 1))
	}
	return r.engine.lag.of(int(most))
}

// takeRoom takes a slot for a call to an edge, if there is one.
func (r *releasing) takeRoom(id int64) bool {
	e, to := r.engine, r.edges[id]
	if to == nil || r.taken >= e.reach.most() || r.life != e.current || e.room(to, time.Now()) == 0 {
		return false
	}
	if left, counted := r.left[to.to]; counted {
		if left <= 0 {
			return false
		}
		r.left[to.to] = left - 1
	}
	e.reserve(to, 1)
	r.taken++
	return true
}

// releasedRow is a row of takeHeldSQL.
type releasedRow struct {
	Line int64
	Seq  int64
	claimedRow
}

// take makes jobs of what is released, and deliveries of those. When it fails there are none, and no slot is taken.
func (r *releasing) take(ctx context.Context, tx pgx.Tx) (launch []*delivery, err error) {
	e := r.engine
	var tenants, edges []int64
	var users []string
	var most []int32
	type release struct {
		gate *gateLook
		key  *limiter.Key
		line *limiter.Line
	}
	var lines []release
	for _, g := range r.gates {
		for _, k := range g.plan.Keys {
			for _, l := range k.Lines {
				if n := len(l.Starts); n > 0 {
					lines = append(lines, release{g, k, l})
					tenants, edges, users, most = append(tenants, g.TenantID), append(edges, l.Edge), append(users, k.User), append(most, int32(n))
				}
			}
		}
	}
	if len(lines) == 0 {
		return nil, nil
	}
	rows, _ := tx.Query(ctx, takeHeldSQL, tenants, edges, users, r.life.claimant, most)
	released, err := pgx.CollectRows(rows, pgx.RowToStructByName[releasedRow])
	slices.SortFunc(released, func(a, b releasedRow) int { return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Seq, b.Seq)) })
	got := make([]int, len(lines))
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, row := range released {
		of := lines[row.Line-1]
		to := r.edges[of.line.Edge]
		d := &delivery{life: r.life, id: row.ID, attempt: row.Attempt, failures: row.Failures, edge: to, page: row.Page, cursor: row.Cursor}
		d.grant = r.grantOf(of.gate, of.key, of.line.Starts[got[row.Line-1]])
		got[row.Line-1]++
		if to.to.isBatch() && d.page == 0 {
			d.page = 1
		}
		if row.Token {
			startRun(d, *row.LaneKey)
		} else if row.ProcessID != nil && row.Headers != nil && row.PayloadID != nil {
			d.load(*row.ProcessID, nil, *row.Headers, row.Body, *row.PayloadID)
			d.size = row.Size
		}
		e.inFlight[row.ID] = d
		launch = append(launch, d)
	}
	for i, of := range lines {
		// What was ended meanwhile is not there any more; its token is lost.
		e.unneeded(r.edges[of.line.Edge], len(of.line.Starts)-got[i])
		of.gate.n -= len(of.line.Starts) - got[i]
		of.line.Starts = of.line.Starts[:got[i]]
	}
	slices.SortStableFunc(launch, func(a, b *delivery) int { return a.grant.start.Compare(b.grant.start) })
	return launch, err
}

// grantOf is the leave for a call that may begin at a time by the database's clock.
func (r *releasing) grantOf(g *gateLook, k *limiter.Key, start time.Time) *grant {
	late := min(g.plan.Total.Late(), k.Limit.Late())
	out := &grant{gate: g.key(), slots: g.Parallel > 0, start: r.read.Add(start.Sub(g.Now)), until: r.sent.Add(start.Sub(g.Now) + late), due: make(chan struct{})}
	if g.plan.Total.Strict() {
		out.paces = append(out.paces, pace{r.engine.pacers.of(paceKey{gateKey: out.gate, total: true}), g.plan.Total})
	}
	if k.Limit.Strict() {
		out.paces = append(out.paces, pace{r.engine.pacers.of(paceKey{gateKey: out.gate, user: k.User}), k.Limit})
	}
	return out
}

// write writes down what has become of lines, keys and gates, and sets the alarms.
func (r *releasing) write(ctx context.Context, tx pgx.Tx) error {
	var line lineArrays
	var key keyArrays
	var gate gateStates
	for _, g := range r.gates {
		for i, k := range g.plan.Keys {
			key.add(g, i)
			for _, l := range k.Lines {
				if len(l.Starts) > 0 {
					line.add(g, k, l)
				}
			}
		}
		gate.add(g)
	}
	batch := &pgx.Batch{}
	if len(line.tenants) > 0 {
		batch.Queue(movedLinesSQL, line.tenants, line.limits, line.users, line.edges, line.ns, line.tags)
	}
	if len(key.tenants) > 0 {
		batch.Queue(movedKeysSQL, key.tenants, key.limits, key.users, key.ns, key.tokens, key.ats, key.tags, key.vtimes, key.readies)
	}
	if len(gate.tenants) > 0 {
		batch.Queue(movedGatesSQL, gate.tenants, gate.limits, gate.ns, gate.tokens, gate.ats, gate.vtimes, gate.owners, gate.granted,
			gate.owed, gate.nexts, gate.wholes).Query(r.setAlarms)
	}
	return tx.SendBatch(ctx, batch).Close()
}

// setAlarms reads the rows of movedGatesSQL.
func (r *releasing) setAlarms(rows pgx.Rows) error {
	var k gateKey
	var at *time.Time
	_, err := pgx.ForEachRow(rows, []any{&k.tenant, &k.limit, &at}, func() error {
		i := slices.IndexFunc(r.gates, func(g *gateLook) bool { return g.key() == k })
		g := r.gates[i]
		switch {
		case g.crowded:
			r.engine.gates.set(k, gateAlarm{at: r.read.Add(releaseGap)})
		case at == nil:
		case g.why == limiter.ByRoom && g.n == 0: // calls are slow, or their worker is down
			r.engine.gates.set(k, gateAlarm{at: r.read.Add(slotsAgain)})
		case g.why == limiter.ByRoom:
			r.engine.gates.set(k, gateAlarm{at: r.read.Add(crowdedAgain)})
		default:
			wait := max(at.Sub(g.Now), releaseGap)
			if g.Owner != r.life.id { // who looks after it is there first
				wait += overdue + rand.N(overdue)
			}
			r.engine.gates.set(k, gateAlarm{at: r.read.Add(wait), whole: g.isWhole()})
		}
		r.engine.gates.seen(k, g.rests(r.read))
		return nil
	})
	return err
}

// rests tells when users without a token get one, by this machine's clock.
func (g *gateLook) rests(read time.Time) map[string]time.Time {
	var rests map[string]time.Time
	for _, k := range g.plan.Keys {
		if ready := k.Bucket.Next(k.Limit, g.Now).Add(-limiter.Lookahead); ready.After(g.Now) {
			if rests == nil {
				rests = map[string]time.Time{}
			}
			rests[k.User] = read.Add(ready.Sub(g.Now))
		}
	}
	return rests
}

// isWhole tells whether nothing can be released before the gate is looked at next.
func (g *gateLook) isWhole() bool {
	if g.why != limiter.ByTokens {
		return false
	}
	return g.ClosedUntil.After(g.Now) || !g.plan.Total.IsZero() && !g.plan.Bucket.Next(g.plan.Total, g.Now).Before(g.next)
}

// nextAt is when to look at the gate next; nil: when something comes.
func (g *gateLook) nextAt() *time.Time {
	var at time.Time
	switch {
	case g.why == limiter.ByTokens && g.ClosedUntil.After(g.Now):
		at = g.next
	case g.why == limiter.ByTokens:
		at = g.next.Add(-limiter.Lookahead/2 - g.lead)
	case g.why == limiter.BySlots:
		at = g.Now.Add(slotsAgain)
	case g.why == limiter.ByRoom && !g.isStrict():
		at = g.Now.Add(-overdue) // others may have room
	case g.why == limiter.ByRoom:
		at = g.Now
	case g.full:
		at = g.Now
	default:
		return nil
	}
	return &at
}

type lineArrays struct {
	tenants, limits []int64
	users           []string
	edges           []int64
	ns              []int32
	tags            []float64
}

func (a *lineArrays) add(g *gateLook, k *limiter.Key, l *limiter.Line) {
	a.tenants, a.limits, a.users = append(a.tenants, g.TenantID), append(a.limits, g.LimitID), append(a.users, k.User)
	a.edges, a.ns, a.tags = append(a.edges, l.Edge), append(a.ns, int32(len(l.Starts))), append(a.tags, l.Tag)
}

type keyArrays struct {
	tenants, limits      []int64
	users                []string
	ns                   []int32
	tokens, tags, vtimes []float64
	ats, readies         []time.Time
}

// add adds the i-th key of a gate, if anything is new about it: of the hundreds that are looked at, few get their turn, and
// what their buckets hold is told by the time.
func (a *keyArrays) add(g *gateLook, i int) {
	k, n := g.plan.Keys[i], 0
	for _, l := range k.Lines {
		n += len(l.Starts)
	}
	ready := k.Bucket.Next(k.Limit, g.Now)
	isReady := !ready.After(g.Now.Add(limiter.Lookahead))
	if n == 0 && isReady && g.ready[i] { // one that waits is written: when it gets a token may have changed
		return
	}
	if isReady {
		ready = time.Unix(0, 0)
	}
	a.tenants, a.limits, a.users = append(a.tenants, g.TenantID), append(a.limits, g.LimitID), append(a.users, k.User)
	a.ns, a.tags, a.vtimes = append(a.ns, int32(n)), append(a.tags, k.Tag), append(a.vtimes, k.VTime)
	a.tokens, a.ats, a.readies = append(a.tokens, k.Bucket.Tokens), append(a.ats, stored(k.Bucket.At)), append(a.readies, ready)
}

type gateStates struct {
	tenants, limits, owners []int64
	ns                      []int32
	tokens, vtimes          []float64
	ats, granted, owed      []time.Time
	nexts                   []*time.Time
	wholes                  []bool
}

func (a *gateStates) add(g *gateLook) {
	granted := g.GrantedUntil
	if g.granted.After(granted) {
		granted = g.granted
	}
	a.tenants, a.limits, a.owners = append(a.tenants, g.TenantID), append(a.limits, g.LimitID), append(a.owners, g.Owner)
	a.ns, a.tokens, a.vtimes = append(a.ns, int32(g.n)), append(a.tokens, g.plan.Bucket.Tokens), append(a.vtimes, g.plan.VTime)
	a.ats, a.granted, a.owed = append(a.ats, stored(g.plan.Bucket.At)), append(a.granted, granted), append(a.owed, g.OwedAt)
	a.nexts, a.wholes = append(a.nexts, g.nextAt()), append(a.wholes, g.isWhole() || g.Paused && !g.Removed)
}

// stored is a time as it is stored; that of a full bucket is the beginning of time.
func stored(at time.Time) time.Time {
	if at.IsZero() {
		return time.Unix(0, 0)
	}
	return at
}
