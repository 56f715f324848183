package bench

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"sluice/migrations"
	"sluice/queue"
	"sluice/queue/topology"
	"sluice/queue/worker"
)

// run is what all measurements of a run share.
type run struct {
	options  Options
	template string // the migrated database that others are copied from; empty: it is not there yet
}

func (r *run) scaled(n int) int { return max(1, int(float64(n)*r.options.Scale)) }

// scaledTime is for what is measured over a time. Less than a second tells nothing.
func (r *run) scaledTime(d time.Duration) time.Duration {
	return max(time.Duration(float64(d)*r.options.Scale), min(d, time.Second))
}

// lab is a migrated database with a pool for an engine.
type lab struct {
	url     string
	private bool // the server is ours
	pool    *pgxpool.Pool
	trips   atomic.Int64 // round trips to the database through the pool
	drop    func()
}

const poolSize = 16

// lab makes a database. The caller closes it.
func (r *run) lab(ctx context.Context) (*lab, error) {
	if r.template == "" {
		name, url, err := r.create(ctx, "")
		if err != nil {
			return nil, err
		}
		r.template = name
		if err := migrations.Up(ctx, url); err != nil {
			return nil, err
		}
	}
	name, url, err := r.create(ctx, " template "+r.template)
	if err != nil {
		return nil, err
	}
	l := &lab{url: url, private: r.options.Private, drop: func() { r.drop(ctx, name) }}
	if l.pool, err = queue.Open(ctx, l.url, poolSize); err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

// create makes a database.
func (r *run) create(ctx context.Context, how string) (name, url string, err error) {
	name = fmt.Sprintf("sluice_bench_%d", time.Now().UnixNano())
	config, err := pgx.ParseConfig(r.options.ServerURL)
	if err != nil {
		return "", "", err
	}
	// It is not broken off: whether there is something to drop would then be anyone's guess.
	err = r.patiently(func() error { return r.onServer(context.WithoutCancel(ctx), "create database "+name+how) })
	return name, withDatabase(r.options.ServerURL, config.Database, name), err
}

// end drops what all measurements shared.
func (r *run) end(ctx context.Context) {
	if r.template != "" {
		r.drop(ctx, r.template)
	}
}

// count puts in place of the pool one that counts its round trips.
func (l *lab) count(ctx context.Context) error {
	config := l.pool.Config()
	config.ConnConfig.Tracer = (*tripCounter)(&l.trips)
	l.pool.Close()
	var err error
	l.pool, err = pgxpool.NewWithConfig(ctx, config)
	return err
}

func (l *lab) close() {
	if l.pool != nil {
		l.pool.Close()
	}
	l.drop()
}

// settle lets nobody pay for what was written before the clock started. Not everyone may have that done; without it,
// all sides pay.
func (l *lab) settle(ctx context.Context) error {
	_, err := l.pool.Exec(ctx, `checkpoint`)
	if refused, ok := errors.AsType[*pgconn.PgError](err); ok && refused.Code == insufficientPrivilege {
		return nil
	}
	return err
}

const insufficientPrivilege = "42501"

// drop drops a database. By force would be quicker, and is not for every role.
func (r *run) drop(ctx context.Context, name string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	if err := r.patiently(func() error { return r.onServer(ctx, "drop database "+name) }); err != nil {
		slog.WarnContext(ctx, "Benchmark's database not dropped", "database", name, "err", err)
	}
}

// patiently does something to a database that nobody may be connected to: our sessions on it have ended, but the server
// may need a moment to see it.
func (r *run) patiently(do func() error) (err error) {
	for range 100 {
		err = do()
		if refused, ok := errors.AsType[*pgconn.PgError](err); !ok || refused.Code != objectInUse {
			return err
		}
		time.Sleep(100 * time.Millisecond) //nolint:forbidigo // between tries, of which there are 100
	}
	return err
}

// objectInUse is the SQLSTATE of a database that someone is connected to.
const objectInUse = "55006"

// withDatabase puts another database's name into a connection string, of either form.
func withDatabase(url, old, name string) string {
	if strings.Contains(url, "://") {
		head, rest, _ := strings.Cut(url, "://")
		authority, tail, _ := strings.Cut(rest, "/")
		tail = strings.TrimPrefix(tail, old)
		return head + "://" + authority + "/" + name + tail
	}
	return url + " dbname=" + name
}

func (r *run) onServer(ctx context.Context, sql string) error {
	conn, err := pgx.Connect(ctx, r.options.ServerURL)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	_, err = conn.Exec(ctx, sql)
	return err
}

// tripCounter counts round trips. A statement that is sent for the first time is prepared in one of its own.
type tripCounter atomic.Int64

func (c *tripCounter) add() { (*atomic.Int64)(c).Add(1) }

// TraceQueryStart implements pgx.QueryTracer.
func (c *tripCounter) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	c.add()
	return ctx
}

// TraceQueryEnd implements pgx.QueryTracer.
func (*tripCounter) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// TraceBatchStart implements pgx.BatchTracer.
func (c *tripCounter) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	c.add()
	return ctx
}

// TraceBatchQuery implements pgx.BatchTracer: the statements of a batch share its trip.
func (*tripCounter) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}

// TraceBatchEnd implements pgx.BatchTracer.
func (*tripCounter) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData) {}

// TracePrepareStart implements pgx.PrepareTracer.
func (c *tripCounter) TracePrepareStart(ctx context.Context, _ *pgx.Conn, _ pgx.TracePrepareStartData) context.Context {
	c.add()
	return ctx
}

// TracePrepareEnd implements pgx.PrepareTracer.
func (*tripCounter) TracePrepareEnd(context.Context, *pgx.Conn, pgx.TracePrepareEndData) {}

const tenant = 1

// line is a topology of nodes one after the other: the start node "in", then n1, n2 and so on.
type line struct {
	name    string
	hops    int
	worker  string // that all nodes call
	orderBy string // header by which the first node keeps order; empty: it does not
}

func (s line) graph() (topology.Graph, error) {
	var order topology.OrderBy
	if s.orderBy != "" {
		var err error
		if order, err = topology.ParseOrderBy(s.orderBy); err != nil {
			return topology.Graph{}, err
		}
	}
	g := topology.Graph{Name: s.name, Nodes: []topology.Node{{Name: "in", Kind: topology.Start, Followers: []string{"n1"}}}}
	for i := 1; i <= s.hops; i++ {
		n := topology.Node{
			Name: fmt.Sprintf("n%d", i), Kind: topology.Connector, Worker: s.worker, Application: "bench", Action: "n",
			Timeout: topology.Duration(30 * time.Second),
			Retry:   topology.Retry{Attempts: 10, Initial: topology.Duration(time.Second), Factor: 2, Max: topology.Duration(time.Minute)},
		}
		if i < s.hops {
			n.Followers = []string{fmt.Sprintf("n%d", i+1)}
		}
		if i == 1 {
			n.OrderBy = order
		}
		g.Nodes = append(g.Nodes, n)
	}
	return g, nil
}

// nowhere is the URL of a worker that no call goes to.
const nowhere = "http://127.0.0.1:9"

func (l *lab) addWorker(ctx context.Context, name, url string) error {
	return pgx.BeginFunc(ctx, l.pool, func(tx pgx.Tx) error {
		_, _, err := queue.AddWorker(ctx, tx, tenant, name, url, "bench")
		return err
	})
}

// publish enables a line, whose worker is registered.
func (l *lab) publish(ctx context.Context, s line) error {
	g, err := s.graph()
	if err != nil {
		return err
	}
	return pgx.BeginFunc(ctx, l.pool, func(tx pgx.Tx) error {
		if _, err := topology.SaveDraft(ctx, tx, tenant, g, "", "bench"); err != nil {
			return err
		}
		if _, err := queue.Publish(ctx, tx, tenant, s.name, "bench"); err != nil {
			return err
		}
		_, err := topology.Enable(ctx, tx, tenant, s.name, 0, "bench")
		return err
	})
}

// callerFunc is a worker without a wire.
type callerFunc func(ctx context.Context, r worker.Request) (worker.Result, error)

func (f callerFunc) Call(ctx context.Context, _ worker.Target, r worker.Request) (worker.Result, error) {
	return f(ctx, r)
}

// loopback serves the handler until stop is called.
func loopback(ctx context.Context, handler http.Handler) (url string, stop func(), err error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(l) }() // it ends with Close; a server that breaks shows in the calls
	return "http://" + l.Addr().String(), func() { server.Close() }, nil
}

// stop ends the engine. An engine that does not stop as it should makes the measurement fail.
func stop(ctx context.Context, engine *queue.Engine, err *error) {
	*err = errors.Join(*err, engine.Stop(context.WithoutCancel(ctx)))
}

// drain starts the engine, and returns when the calls are made and nothing is left on the edges of a topology.
func (l *lab) drain(ctx context.Context, engine *queue.Engine, topology string, calls *countdown) error {
	if err := engine.Start(ctx); err != nil {
		return err
	}
	if err := calls.wait(ctx); err != nil {
		return err
	}
	// The last hand-offs may still be on their way. The counters tell it without a look at the jobs of others.
	return until(ctx, l.pool, `
		select coalesce(sum(c.arrived - c.departed), 0) = 0
		from sluice.topology t
		join sluice.edge e on e.tenant_id = t.tenant_id and e.version_id = t.enabled_version_id
		join sluice.edge_count c on c.tenant_id = e.tenant_id and c.edge_id = e.id
		where t.tenant_id = $1 and t.name = $2`, tenant, topology)
}

// until waits for a query to say true.
func until(ctx context.Context, pool *pgxpool.Pool, sql string, args ...any) error {
	for {
		var done bool
		if err := pool.QueryRow(ctx, sql, args...).Scan(&done); err != nil || done {
			return err
		}
		if err := wait(ctx, 5*time.Millisecond); err != nil {
			return err
		}
	}
}

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// countdown closes zero when done was called as often as was said.
type countdown struct {
	left atomic.Int64
	zero chan struct{}
}

func newCountdown(n int) *countdown {
	c := &countdown{zero: make(chan struct{})}
	c.left.Store(int64(n))
	return c
}

func (c *countdown) done() {
	if c.left.Add(-1) == 0 {
		close(c.zero)
	}
}

func (c *countdown) wait(ctx context.Context) error {
	select {
	case <-c.zero:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// silent is for libraries whose news is not ours.
var silent = slog.New(slog.DiscardHandler)
