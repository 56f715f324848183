package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/singleflight"

	"sluice/queue/process"
	"sluice/queue/topology"
	"sluice/queue/worker/orchesty"
)

// nodeIndex knows what the ids stand for that workers are told of nodes. They are made of names, which cannot be read
// back, so it has all of a tenant's, as fresh as nodesFresh.
type nodeIndex struct {
	flight singleflight.Group

	mu      sync.Mutex
	tenants map[int64]*tenantNodes
}

type tenantNodes struct {
	revision int64
	lookedAt time.Time
	nodes    map[string]topology.PlacedNode
}

const (
	nodesFresh = time.Second
	maxNodes   = 50_000 // of a tenant; older versions have none
	maxIndexed = 100    // tenants; beyond it all are read again
)

// nodesOf returns a tenant's nodes by their ids.
func (g *gateway) nodesOf(ctx context.Context, tenant int64) (map[string]topology.PlacedNode, error) {
	x := &g.nodes
	x.mu.Lock()
	known := x.tenants[tenant]
	x.mu.Unlock()
	if known != nil && time.Since(known.lookedAt) < nodesFresh {
		return known.nodes, nil
	}
	// Whoever asked first may leave: the others still want it.
	found := x.flight.DoChan(fmt.Sprint(tenant), func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), g.config.RequestTime)
		defer cancel()
		return g.readNodes(ctx, tenant, known)
	})
	select {
	case r := <-found:
		if r.Err != nil {
			return nil, r.Err
		}
		return r.Val.(*tenantNodes).nodes, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (g *gateway) readNodes(ctx context.Context, tenant int64, known *tenantNodes) (*tenantNodes, error) {
	fresh := &tenantNodes{lookedAt: time.Now()}
	err := process.ForTenant(ctx, g.config.TenantPool, tenant, func(tx pgx.Tx) (err error) {
		// The number before the nodes: what changes in between is read again next time.
		if fresh.revision, err = topology.Revision(ctx, tx, tenant); err != nil {
			return err
		}
		if known != nil && known.revision == fresh.revision {
			fresh.nodes = known.nodes
			return nil
		}
		placed, err := topology.PublishedNodes(ctx, tx, tenant, maxNodes)
		fresh.nodes = make(map[string]topology.PlacedNode, len(placed))
		for _, n := range placed {
			id := orchesty.NodeID(n.Topology, n.Version, n.Node.Name)
			if _, newer := fresh.nodes[id]; !newer { // the topology was deleted once, and made again
				fresh.nodes[id] = n
			}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	x := &g.nodes
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.tenants == nil || len(x.tenants) >= maxIndexed {
		x.tenants = map[int64]*tenantNodes{}
	}
	x.tenants[tenant] = fresh
	return fresh, nil
}

// wireNode is a node as workers know it.
type wireNode struct {
	ID            string `json:"_id"`
	Name          string `json:"name"`
	Topology      string `json:"topology"`
	Type          string `json:"type"`
	Handler       string `json:"handler"`
	Enabled       bool   `json:"enabled"`
	Application   string `json:"application,omitempty"`
	SystemConfigs string `json:"systemConfigs"` // JSON, as text
}

// findNodes answers what nodes are set to do, which is what a worker looks at before it asks to be called again.
func (g *gateway) findNodes(ctx context.Context, tenant int64, ids []string) (any, error) {
	nodes, err := g.nodesOf(ctx, tenant)
	if err != nil {
		return nil, err
	}
	found := []wireNode{}
	for _, id := range ids {
		if n, known := nodes[id]; known {
			found = append(found, viewOfNode(id, n))
		}
	}
	return found, nil
}

func viewOfNode(id string, n topology.PlacedNode) wireNode {
	w := wireNode{
		ID: id, Name: n.Node.Name, Topology: orchesty.TopologyID(n.Topology, n.Version), Type: string(n.Node.Kind), Handler: "action", Enabled: true,
		Application: n.Node.Application, SystemConfigs: systemConfigs(n.Node),
	}
	if n.Node.Kind == topology.Start {
		w.Handler = "event"
	}
	return w
}

// systemConfigs are the settings of a node in Orchesty's words. What its file says about retries stands above what the
// worker's code says; of a node whose file says nothing, the code's holds.
func systemConfigs(n topology.Node) string {
	type repeater struct {
		Enabled  bool `json:"enabled"`
		Hops     int  `json:"hops"`
		Interval int  `json:"interval"`
	}
	var c struct {
		Bridge struct {
			Host    string `json:"host"`
			Timeout int    `json:"timeout"`
		} `json:"bridge"`
		Rabbit struct {
			Prefetch int `json:"prefetch"`
		} `json:"rabbit"`
		Repeater repeater `json:"repeater"`
		SDK      struct {
			Host string `json:"host"`
		} `json:"sdk"`
	}
	c.Bridge.Timeout = wholeSeconds(n.Timeout)
	c.Rabbit.Prefetch = max(n.Concurrency, 1)
	if n.Kind.CallsWorker() && !n.Retry.IsStandard() {
		// The SDK breaks over an enabled one with less than one of each.
		c.Repeater = repeater{true, max(n.Retry.Attempts, 1), max(wholeSeconds(n.Retry.Initial), 1)}
	}
	text, _ := json.Marshal(c) // texts and numbers always can
	return string(text)
}

func wholeSeconds(d topology.Duration) int { return int(math.Ceil(time.Duration(d).Seconds())) }
