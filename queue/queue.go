// Package queue makes it happen: it turns each edge of a published version into a River queue and moves messages along
// them.
//
// An event is accepted in one transaction: ledger, process, messages, jobs. A runner claims the jobs of the edges that
// are awake and calls the worker of the node that the edge leads to. Many results are handed off in one statement: each
// message leaves its edge, its successors stand on the next, the counters of its process and the record of the attempt
// are written, or none of it. A successor that this runner has room for is claimed at its birth and worked at once;
// its row is there for the crash and for every other node.
//
// The package guarantees that a message is at every instant in one place, that a runner which lost its claim commits
// nothing, and that the work of a dead runner goes on within seconds. It must not know HTTP of the gateway's side, nor
// who may do what: callers say for which tenant they act.
//
// Read it in the order of the flow: accept.go, fetch.go, deliver.go, handoff.go, and river.go for the statements.
// lane.go is about order, lease.go about dying, catalog.go about what the engine remembers of the configuration.
package queue

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"sluice/limiter"
	"sluice/queue/pull"
	"sluice/queue/vault"
	"sluice/queue/worker"
)

// Config is what an Engine needs beside its database. The zero value works.
type Config struct {
	Logger *slog.Logger // default: discard

	// Name of this process in the list of runners. Default: host name and process id.
	Name string

	// Slots is how many calls a runner has under way at once. Default 1000. Too few leave workers idle that could take
	// more; too many cost memory, as each holds a payload.
	Slots int

	// NodeSlots is how many calls a runner makes at once for a node that does not set its concurrency. Default 100.
	// Too many let one slow worker take all slots.
	NodeSlots int

	// Lease is how long a silent runner keeps its claims. Default 10 s: taken over within 12 s. Shorter recovers faster
	// and makes every runner a zombie when the database stalls for that long. Beat is how often it renews; default a
	// fifth of Lease.
	Lease time.Duration
	Beat  time.Duration

	// Sweep is how often a runner looks for work that nobody told it about. Default 1 s, and 200 ms with PollOnly.
	Sweep time.Duration

	// PollOnly leaves LISTEN and NOTIFY alone, which not every database that speaks Postgres has: work that another engine
	// made is found by sweeps.
	PollOnly bool

	// Pooled says that the pool leads to a pooler that shares out sessions by transaction: see [OpenPooled]. PollOnly goes
	// with it.
	Pooled bool

	// Memory is how many bytes the bodies in flight take that are larger than 64 KiB: as much for those that are sent to
	// workers, again for what workers answer, and again for events that wait to be stored. One node, or worker, takes half
	// of it at most. Default 256 MiB. Too little and large messages wait for each other.
	Memory int64

	// KeyTTL is how long an idempotency key is remembered at least. Default 24 h.
	KeyTTL time.Duration

	// Vault opens the secrets of workers. Without its keys only those can be used that were stored as they are.
	Vault vault.Ring

	// Caller calls workers. Default: a [worker.Client] over HTTP, for those that speak Sluice's own protocol.
	Caller Caller
}

// Caller calls a worker and returns by the request's deadline; its errors are [*worker.Failure]. [Callers] are those in
// use. Benchmarks put another in its place, to see the engine alone.
type Caller interface {
	Call(ctx context.Context, target worker.Target, request worker.Request) (worker.Result, error)
}

const (
	committers       = 2  // loops that commit hand-offs, of which one helps, and events, of which one helps; and again for what is large
	largeSlots       = 64 // the latter count in slots behind those of all others: see sluice.edge_count_slot_seq
	largeBytes       = 256 << 10
	flushItems       = 1000 // most results, or events, in one statement
	flushBytes       = 8 << 20
	pollSweep        = 200 * time.Millisecond
	statementTimeout = 30 * time.Second // of one statement of the engine
	lastWord         = 5 * time.Second  // that a stop takes for the database when its time is up
	fetchAtOnce      = 500              // most messages claimed by one statement
	maxSuccessors    = 200_000          // of one result: more might never be committed within statementTimeout
	selfStopPart     = 0.8              // of the lease: a runner that could not renew for so long starts no call
)

// Engine accepts events and, once started, runs messages. Any number of engines may share a database.
type Engine struct {
	pool    database
	conns   *pgxpool.Pool // beneath it
	config  Config
	log     *slog.Logger
	catalog *catalog
	ids     *idBlock
	gauges  gauges
	clock   *databaseClock
	slot    int16         // the first of those that its loops count in
	turn    time.Duration // of a lane

	bodies  *memory       // of messages that are sent to workers
	waiting *share        // of the memory of events that wait for their commit
	loading chan struct{} // taken by those who load a body

	events  chan *pendingEvent
	closing chan struct{}    // closed when no more events are taken
	settled chan *settlement // on their way to a hand-off
	reads   chan *laneRead   // wishes of runs
	gates   *gates           // of limited applications
	grants  chan []*grant    // released calls
	missed  chan *delivery   // released calls that did not begin in time
	lag     lag              // of releases
	reach   reach            // of a release
	pacers  pacers
	pull    *pull.Exchange // where workers take their calls that cannot be reached

	largeEvents  chan *pendingEvent // those with loops of their own
	largeSettled chan *settlement

	acceptHelp  *help // of who commits events
	handOffHelp *help

	mu       sync.Mutex // guards what follows
	running  bool       // claims may be made
	inFlight map[int64]*delivery
	slots    int // free ones
	awake    map[*edge]struct{}
	breakers map[workerKey]*limiter.Breaker // this runner's circuits to workers
	paused   []*edge                        // through River
	poking   bool                           // the fetcher will be poked in a moment
	current  *life                          // nil before Start

	callsOver chan struct{} // closed when all calls have been made

	wakeFetch chan struct{}
	wakeAlarm chan time.Duration
	orphans   chan struct{} // asks the fetcher to reconcile
	sweepPace chan time.Duration
	herald    *herald
	tasks     *housekeeping

	stopFetch context.CancelFunc
	startCtx  context.Context // of what comes before a call; ends when the runner stops
	cutStarts context.CancelFunc
	callCtx   context.Context // of all calls; stored because calls outlive whoever started them
	cutCalls  context.CancelFunc
	dbCtx     context.Context // of what must reach the database after calls
	cutDB     context.CancelFunc
	loops     sync.WaitGroup // fetcher, beat, sentinel, listener
	calls     sync.WaitGroup
	commits   sync.WaitGroup
	accepts   sync.WaitGroup
}

// New returns an engine on a pool whose sessions act for all tenants (sluice.tenant_id = '*'); [Open] makes one. The
// engine accepts events at once, and runs messages after [Engine.Start]. [Engine.Stop] ends both.
func New(ctx context.Context, conns *pgxpool.Pool, c Config) (*Engine, error) {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Name == "" {
		host, _ := os.Hostname()
		c.Name = fmt.Sprintf("%s/%d", host, os.Getpid())
	}
	c.Slots = orDefault(c.Slots, 1000)
	c.NodeSlots = orDefault(c.NodeSlots, 100)
	c.Lease = orDefault(c.Lease, 10*time.Second)
	c.Beat = orDefault(c.Beat, c.Lease/5)
	c.PollOnly = c.PollOnly || c.Pooled
	if c.PollOnly {
		c.Sweep = orDefault(c.Sweep, pollSweep)
	}
	c.Sweep = orDefault(c.Sweep, time.Second)
	c.Memory = orDefault(c.Memory, 256<<20)
	c.KeyTTL = orDefault(c.KeyTTL, 24*time.Hour)
	if c.Caller == nil {
		c.Caller = worker.NewClient(worker.Config{})
	}
	var pool database = conns
	if c.Pooled {
		pool = newPooled(conns, engineSettings...)
	}
	e := &Engine{
		pool: pool, conns: conns, config: c, log: c.Logger,
		clock:        &databaseClock{},
		turn:         turn,
		ids:          &idBlock{pool: pool},
		gauges:       gauges{known: map[topologyKey]*gauge{}},
		bodies:       newMemory(c.Memory),
		waiting:      newMemory(c.Memory).whole(),
		loading:      make(chan struct{}, loaders),
		events:       make(chan *pendingEvent, 2*flushItems),
		closing:      make(chan struct{}),
		settled:      make(chan *settlement, flushItems),
		largeEvents:  make(chan *pendingEvent, 2*flushItems),
		largeSettled: make(chan *settlement, flushItems),
		callsOver:    make(chan struct{}),
		acceptHelp:   newHelp(),
		handOffHelp:  newHelp(),
		reads:        make(chan *laneRead, lanesAtOnce),
		gates:        newGates(),
		grants:       make(chan []*grant, 16),
		missed:       make(chan *delivery, flushItems),
		inFlight:     map[int64]*delivery{},
		awake:        map[*edge]struct{}{},
		breakers:     map[workerKey]*limiter.Breaker{},
		wakeFetch:    make(chan struct{}, 1),
		wakeAlarm:    make(chan time.Duration, 64),
		orphans:      make(chan struct{}, 1),
		sweepPace:    make(chan time.Duration, 1),
	}
	e.catalog = newCatalog(pool, e.clock)
	e.pull = pull.New(pool, c.Logger)
	e.catalog.vault, e.catalog.pull = c.Vault, e.pull
	e.catalog.replies = newMemory(c.Memory)
	e.clock.probe = func(ctx context.Context) { _ = e.clock.read(ctx, pool) } // no answer is what it is about
	if err := e.clock.read(ctx, pool); err != nil {
		return nil, fmt.Errorf("read the database's clock: %w", err)
	}
	if err := seesAll(ctx, pool); err != nil {
		return nil, err
	}
	if err := ensurePartitions(ctx, pool); err != nil {
		return nil, fmt.Errorf("create partitions: %w", err)
	}
	if err := pool.QueryRow(ctx, `select $1 * nextval('sluice.edge_count_slot_seq')`, 2*committers).Scan(&e.slot); err != nil {
		return nil, fmt.Errorf("take slots to count in: %w", err)
	}
	e.herald = newHerald(e)
	e.accepts.Go(func() { e.acceptLoop(e.slot, e.events, e.acceptHelp) })
	e.accepts.Go(func() { e.acceptHelpLoop(e.slot + 1) })
	for i := range int16(committers) {
		e.accepts.Go(func() { e.acceptLoop(e.slot+largeSlots+i, e.largeEvents, nil) })
	}
	e.accepts.Go(e.gaugeLoop)
	return e, nil
}

// ErrSettingsLost says that an engine's sessions do not see the rows of all tenants.
var ErrSettingsLost = errors.New("the sessions do not act for all tenants, as settings that they began with were lost: if a pooler stands between, say so")

func seesAll(ctx context.Context, pool database) error {
	var all bool
	err := pool.QueryRow(ctx, `select coalesce(current_setting('sluice.tenant_id', true), '') = '*'`).Scan(&all)
	if err == nil && !all {
		err = ErrSettingsLost
	}
	return err
}

func orDefault[T int | int64 | time.Duration](v, byDefault T) T {
	if v <= 0 {
		return byDefault
	}
	return v
}

// Start makes the engine a runner: it claims messages until Stop.
func (e *Engine) Start(ctx context.Context) error {
	if err := e.beginLife(ctx); err != nil {
		return fmt.Errorf("begin a runner's life: %w", err)
	}
	if !e.config.PollOnly && !e.canListen(ctx) {
		e.config.PollOnly, e.config.Sweep = true, min(e.config.Sweep, pollSweep)
	}
	// Before anything is claimed: the first sweep would tell it too, but somebody may wake us to a paused edge before.
	if err := e.learnPauses(ctx); err != nil {
		return fmt.Errorf("look for paused edges: %w", err)
	}
	tasks, err := startHousekeeping(ctx, e)
	if err != nil {
		return fmt.Errorf("start housekeeping: %w", err)
	}
	e.tasks = tasks
	loopCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
	e.stopFetch = stop
	e.callCtx, e.cutCalls = context.WithCancel(context.WithoutCancel(ctx))
	e.startCtx, e.cutStarts = context.WithCancel(e.callCtx)
	e.dbCtx, e.cutDB = context.WithCancel(context.WithoutCancel(ctx))
	e.mu.Lock()
	e.running, e.slots = true, e.config.Slots
	e.mu.Unlock()
	e.commits.Go(func() { e.handOffLoop(e.slot + committers) })
	e.commits.Go(func() { e.helpLoop(e.slot + committers + 1) })
	for i := range int16(committers) {
		e.commits.Go(func() { e.largeLoop(e.slot + largeSlots + committers + i) })
	}
	e.loops.Go(func() { e.fetchLoop(loopCtx) })
	e.loops.Go(func() { e.readLoop(loopCtx) })
	e.loops.Go(func() { e.releaseLoop(loopCtx) })
	e.loops.Go(func() { e.paceLoop(loopCtx) })
	e.loops.Go(func() { e.returnLoop(loopCtx) })
	e.loops.Go(func() { e.beatLoop(loopCtx) })
	e.loops.Go(func() { e.sentinelLoop(loopCtx) })
	e.loops.Go(func() { e.rollUpLoop(loopCtx) })
	if !e.config.PollOnly {
		e.loops.Go(func() { e.listenLoop(loopCtx) })
	}
	return nil
}

// Stop drains: it takes no more events, claims nothing more, waits for the calls under way, commits their results, and
// gives back what it still holds. When ctx ends first, calls are cut off and their messages go back to their edges. It
// is called once.
func (e *Engine) Stop(ctx context.Context) error {
	close(e.closing)
	e.accepts.Wait()
	e.turnAway()
	var errs []error
	if e.stopFetch != nil {
		errs = append(errs, e.stopRunner(ctx))
	}
	e.herald.stop()
	return errors.Join(append(errs, e.pull.Stop(ctx))...)
}

func (e *Engine) stopRunner(ctx context.Context) error {
	e.mu.Lock()
	e.running = false
	e.mu.Unlock()
	e.cutStarts()
	// When the time is up, calls are cut off and their messages given back. What cannot reach the database is cut off a
	// little later, and leaves claims behind that others take over when the lease is out.
	defer context.AfterFunc(ctx, func() {
		e.cutCalls()
		time.AfterFunc(lastWord, e.cutDB)
	})()
	defer e.cutDB()
	defer e.cutCalls()
	e.calls.Wait()
	close(e.callsOver)
	close(e.settled)
	close(e.largeSettled)
	e.commits.Wait()
	e.stopFetch()
	e.loops.Wait()
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWord)
	defer cancel()
	return errors.Join(e.tasks.stop(last), e.endLife(last))
}
