// Package pull carries calls to workers that nobody can reach: they come and take them.
//
// A caller's [http.RoundTripper] stores a call and waits; whoever works for the worker claims calls, for as long as a lease
// lasts, and gives back what the worker answered. So to the caller it is an HTTP exchange like any other, with whatever
// protocol in it.
//
// A call is claimed by one at a time, and only who claimed it last can answer it. One whose lease is over is offered again
// until its deadline. Nothing here is durable, and nothing needs to be: a call that is lost is made again by the caller,
// under the same idempotency key. However many wait, on either side, each process asks the database once for all of them,
// and only while somebody waits.
//
// The package must not know messages, nor what is in a call. Read caller.go first, then claim.go.
package pull

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// DB is a pool whose sessions act for all tenants.
type DB interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

const (
	// Lease is how long a claim lasts without a heartbeat.
	Lease = 30 * time.Second
	// absent is after how long without a sign of anybody a worker counts as out of reach.
	absent = 10 * time.Second
	// signEvery is how often a sign is written down.
	signEvery = 2 * time.Second

	pollSoonest   = 20 * time.Millisecond // between looks for answers, while calls are open
	pollLatest    = 100 * time.Millisecond
	lookEvery     = 100 * time.Millisecond // for calls, while somebody waits for them
	checkEvery    = time.Second            // for what is out of reach
	tidyEvery     = time.Minute
	statementTime = 10 * time.Second
	atOnce        = 500     // most calls, or answers, in one statement
	bytesAtOnce   = 8 << 20 // of their bodies, but for one that is larger
)

// Exchange is where the calls of a process go, and where those who work for workers come to this process.
type Exchange struct {
	db   DB
	log  *slog.Logger
	self uuid.UUID

	ctx   context.Context // of the loops
	stop  context.CancelFunc
	loops sync.WaitGroup

	outbox chan *call
	poll   chan struct{} // a look for answers is worth while
	look   chan struct{} // a look for calls is worth while

	mu        sync.Mutex
	calling   bool                // the loops of callers run
	waiting   bool                // and that of those who wait for calls
	open      map[uuid.UUID]*call // stored, or about to be
	abandoned []removal
	waiters   map[Worker][]chan struct{}
	signs     map[Worker]time.Time // when last written down
}

// Worker is whose calls they are.
type Worker struct {
	Tenant int64
	Name   string
}

// New returns an exchange on a database. It does nothing until it is used; Stop ends what it does.
func New(db DB, log *slog.Logger) *Exchange {
	x := &Exchange{
		db: db, log: log, self: uuid.New(),
		outbox: make(chan *call, atOnce), poll: make(chan struct{}, 1), look: make(chan struct{}, 1),
		open: map[uuid.UUID]*call{}, waiters: map[Worker][]chan struct{}{}, signs: map[Worker]time.Time{},
	}
	x.ctx, x.stop = context.WithCancel(context.Background())
	return x
}

// Stop ends the loops, and takes back the calls that are still on offer: whoever makes them again must not make them
// twice. Who still waits for an answer waits until its deadline.
func (x *Exchange) Stop(ctx context.Context) error {
	x.stop()
	x.mu.Lock()
	called := x.calling
	x.calling, x.waiting = true, true // nothing starts any more
	x.mu.Unlock()
	x.loops.Wait()
	if !called {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), statementTime)
	defer cancel()
	_, err := x.db.Exec(ctx, `delete from sluice.pull_call where caller = $1`, x.self)
	return err
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// rest waits for so long, or until it is poked. It returns false when the loops end.
func (x *Exchange) rest(d time.Duration, poked <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-x.ctx.Done():
		return false
	case <-poked:
	case <-timer.C:
	}
	return true
}
