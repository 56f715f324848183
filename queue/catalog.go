package queue

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/singleflight"

	"sluice/limiter"
	"sluice/queue/pull"
	"sluice/queue/topology"
	"sluice/queue/vault"
	"sluice/queue/worker"
)

// version is a published version as the engine uses it. It never changes.
type version struct {
	topology.Version
	topology *topologyUse
	starts   map[string][]*edge // by start node: the edges that an event goes to
}

// edge is an edge as the engine uses it, with the node that it leads to.
type edge struct {
	id      int64
	tenant  int64
	queue   string
	version *version
	to      *node

	// Guarded by Engine.mu.
	paused  bool // through River
	backlog bool // messages wait here that the runner has not claimed: births must not overtake them
}

// node is a node that messages come to: one that calls a worker, or a breakpoint.
type node struct {
	topology.Node
	in     []*edge // those that lead to it; the first stands for the node
	next   []*edge
	byName map[string]*edge
	worker workerKey

	// Guarded by Engine.mu.
	calls    int     // under way in this runner
	runCalls float64 // that a run of a lane makes, a moving mean: see readFirst
	bodies   *share  // nil until a large one comes
	brake    limiter.Brake
}

// topologyUse is what all versions of a topology use of this runner.
type topologyUse struct {
	calls int // under way; guarded by Engine.mu
}

// workerKey names a worker.
type workerKey struct {
	tenant int64
	name   string
}

// catalog is what the engine remembers of the configuration. Versions and edges never change and are kept; what names
// lead to, and workers, is kept while the tenant's revision stays what it was, which is looked at every refreshEvery.
type catalog struct {
	pool   database
	vault  vault.Ring
	pull   *pull.Exchange
	clock  *databaseClock // set whenever the database is asked anyway
	flight singleflight.Group

	replies *memory // for replies of workers

	mu       sync.RWMutex
	versions map[int64]*version
	uses     map[topologyKey]*topologyUse
	edges    map[int64]*edge
	tenants  map[int64]*tenantConfig
}

type tenantConfig struct {
	revision int64
	lookedAt time.Time // at the revision
	routes   map[routeKey]*version
	workers  map[string]worker.Target
	limits   map[string]int64 // by application
}

type routeKey struct {
	topology string
	number   int // 0: the enabled version
}

// refreshEvery bounds how long a change goes unseen by a node: well within the second that enabling may take.
const refreshEvery = 400 * time.Millisecond

func newCatalog(pool database, clock *databaseClock) *catalog {
	return &catalog{pool: pool, clock: clock, versions: map[int64]*version{}, uses: map[topologyKey]*topologyUse{}, edges: map[int64]*edge{}, tenants: map[int64]*tenantConfig{}}
}

// shared runs a look-up once for all who ask at the same time. Whoever asked first may leave: the others still want it.
func (c *catalog) shared(ctx context.Context, key string, find func(context.Context) (any, error)) (any, error) {
	found := c.flight.DoChan(key, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), statementTimeout)
		defer cancel()
		return find(ctx)
	})
	r, err := await(ctx, c.clock, sinceBoot(), found) // the statement goes on for the others
	if err != nil {
		return nil, err
	}
	c.clock.hear()
	return r.Val, r.Err
}

// tenant returns what is known of a tenant's configuration, as fresh as refreshEvery.
func (c *catalog) tenant(ctx context.Context, id int64) (*tenantConfig, error) {
	c.mu.RLock()
	known := c.tenants[id]
	c.mu.RUnlock()
	if known != nil && time.Since(known.lookedAt) < refreshEvery {
		return known, nil
	}
	v, err := c.shared(ctx, fmt.Sprintf("tenant %d", id), func(ctx context.Context) (any, error) {
		asked := time.Now()
		var revision int64
		var now time.Time
		if err := c.pool.QueryRow(ctx, `
			select coalesce((select revision from sluice.configuration where tenant_id = $1), 0), clock_timestamp()`, id).Scan(&revision, &now); err != nil {
			return nil, err
		}
		c.clock.set(now, asked)
		limits, err := c.limitsAt(ctx, id, revision)
		if err != nil {
			return nil, err
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		fresh := &tenantConfig{revision: revision, lookedAt: asked, routes: map[routeKey]*version{}, workers: map[string]worker.Target{}, limits: limits}
		if old := c.tenants[id]; old != nil && old.revision == revision {
			fresh.routes, fresh.workers = old.routes, old.workers
		}
		c.tenants[id] = fresh
		return fresh, nil
	})
	if err != nil {
		return nil, err
	}
	return v.(*tenantConfig), nil
}

// limitsAt are the limits of a tenant as of a revision of its configuration.
func (c *catalog) limitsAt(ctx context.Context, tenant, revision int64) (map[string]int64, error) {
	c.mu.RLock()
	known := c.tenants[tenant]
	c.mu.RUnlock()
	if known != nil && known.revision == revision {
		return known.limits, nil
	}
	return limitsOf(ctx, c.pool, tenant)
}

// limitOf is the limit of the application that the node of an edge talks to, as far as it is known, or 0.
func (c *catalog) limitOf(to *edge) int64 {
	if to.to.Application == "" {
		return 0
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	known := c.tenants[to.tenant]
	if known == nil {
		return 0
	}
	return known.limits[to.to.Application]
}

// anyLimit tells whether any tenant has a limit, as far as it is known.
func (c *catalog) anyLimit() bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for _, known := range c.tenants {
		if len(known.limits) > 0 {
			return true
		}
	}
	return false
}

// route finds the version that an event goes to: the given number, or the enabled one if it is 0.
func (c *catalog) route(ctx context.Context, tenant int64, name string, number int) (*version, error) {
	config, err := c.tenant(ctx, tenant)
	if err != nil {
		return nil, err
	}
	key := routeKey{name, number}
	c.mu.RLock()
	v := config.routes[key]
	c.mu.RUnlock()
	if v != nil {
		return v, nil
	}
	found, err := c.shared(ctx, fmt.Sprintf("route %d %d %s %d", tenant, config.revision, name, number), func(ctx context.Context) (any, error) {
		var stored topology.Version
		var err error
		if number == 0 {
			stored, err = topology.Enabled(ctx, c.pool, tenant, name)
		} else {
			stored, err = topology.Numbered(ctx, c.pool, tenant, name, number)
			if err == nil && stored.RetiredAt != nil {
				err = topology.ErrNotEnabled
			}
		}
		if err != nil {
			return nil, err
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		v := c.keep(stored)
		config.routes[key] = v
		return v, nil
	})
	if err != nil {
		return nil, err
	}
	return found.(*version), nil
}

// worker finds a worker by name.
func (c *catalog) worker(ctx context.Context, key workerKey) (worker.Target, error) {
	config, err := c.tenant(ctx, key.tenant)
	if err != nil {
		return worker.Target{}, err
	}
	c.mu.RLock()
	target, ok := config.workers[key.name]
	c.mu.RUnlock()
	if ok {
		return target, nil
	}
	found, err := c.shared(ctx, fmt.Sprintf("worker %d %d %s", key.tenant, config.revision, key.name), func(ctx context.Context) (any, error) {
		w, pulls, err := findWorker(ctx, c.pool, c.vault, key)
		if pulls {
			w.URL, w.Via = pullURL, c.pull.Transport(pull.Worker{Tenant: key.tenant, Name: key.name})
		}
		if err != nil {
			return nil, err
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		w.Room = c.replies.roomForReplies()
		config.workers[key.name] = w
		return w, nil
	})
	if err != nil {
		return worker.Target{}, err
	}
	return found.(worker.Target), nil
}

// edge returns an edge that this engine has had to do with before, or nil.
func (c *catalog) edge(id int64) *edge {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.edges[id]
}

// edgesOf returns the edges of queues, from memory where it can. A queue that is no edge's is left out.
func (c *catalog) edgesOf(ctx context.Context, queues []string) ([]*edge, error) {
	var known []*edge
	var unknown []int64
	c.mu.RLock()
	for _, q := range queues {
		id, ok := edgeOfQueue(q)
		if !ok {
			continue
		}
		if e := c.edges[id]; e != nil {
			known = append(known, e)
		} else {
			unknown = append(unknown, id)
		}
	}
	c.mu.RUnlock()
	if len(unknown) == 0 {
		return known, nil
	}
	stored, err := topology.OfEdges(ctx, c.pool, unknown)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range stored {
		c.keep(s)
	}
	for _, id := range unknown {
		if e := c.edges[id]; e != nil {
			known = append(known, e)
		}
	}
	return known, nil
}

// keep remembers a published version. The caller holds the lock.
func (c *catalog) keep(stored topology.Version) *version {
	if v := c.versions[stored.ID]; v != nil {
		return v
	}
	key := topologyKey{stored.TenantID, stored.TopologyID}
	use := c.uses[key]
	if use == nil {
		use = &topologyUse{}
		c.uses[key] = use
	}
	v := &version{Version: stored, topology: use, starts: map[string][]*edge{}}
	nodes := map[string]*node{}
	for _, n := range stored.Graph.Nodes {
		nodes[n.Name] = &node{Node: n, byName: map[string]*edge{}, worker: workerKey{stored.TenantID, n.Worker}}
	}
	for _, s := range stored.Edges {
		e := &edge{id: s.ID, tenant: stored.TenantID, queue: queueName(s.ID), version: v, to: nodes[s.To]}
		c.edges[s.ID] = e
		e.to.in = append(e.to.in, e)
		from := nodes[s.From]
		from.next = append(from.next, e)
		from.byName[s.To] = e
		if from.Kind == topology.Start {
			v.starts[s.From] = append(v.starts[s.From], e)
		}
	}
	c.versions[stored.ID] = v
	return v
}

// pullURL is where workers listen that are not reached by it: their paths begin at its root.
const pullURL = "http://worker.invalid"

// findWorker reads a worker with its secrets, and whether it takes its calls itself, or returns [ErrNoWorker].
func findWorker(ctx context.Context, db topology.DB, keys vault.Ring, key workerKey) (target worker.Target, pulls bool, err error) {
	target.Name = key.name
	var texts []string
	var shown storedCredentials
	err = db.QueryRow(ctx, `
		select url, secrets, protocol, coalesce(dialect, ''), pull, bearer_token, client_certificate, client_key, server_ca from sluice.worker
		where tenant_id = $1 and name = $2 and removed_at is null`, key.tenant, key.name).Scan(
		&target.URL, &texts, &target.Protocol, &target.Dialect, &pulls, &shown.token, &shown.certificate, &shown.key, &shown.ca)
	if errors.Is(err, pgx.ErrNoRows) {
		return worker.Target{}, false, ErrNoWorker
	}
	if err != nil {
		return worker.Target{}, false, err
	}
	if target.Secrets, err = openSecrets(keys, key, texts); err != nil || pulls { // nobody is let in where nobody comes
		return target, pulls, err
	}
	target.Credentials, err = shown.open(keys, key)
	return target, pulls, err
}
