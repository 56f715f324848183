package gateway

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/jackc/pgx/v5"

	"sluice/gateway/auth"
	"sluice/openapi"
	"sluice/queue"
	"sluice/queue/rollup"
	"sluice/queue/topology"
)

// liveMinutes are those that rates and latencies are of.
const liveMinutes = 5

type liveView struct {
	At           time.Time         `json:"at" doc:"Now, by the database's clock"`
	CountedUntil time.Time         `json:"counted_until" doc:"Rates and latencies are of the five minutes before"`
	Version      int               `json:"version"`
	Enabled      bool              `json:"enabled" doc:"It takes events"`
	Versions     []liveVersionView `json:"versions" doc:"Those that are published, and retired ones that still hold something; the newest first"`
	Nodes        []liveNodeView    `json:"nodes" doc:"In the order of the graph; what is said of a node is the sum of the edges that lead to it"`
	Edges        []liveEdgeView    `json:"edges" doc:"In the order of the graph"`
}

type liveVersionView struct {
	Version  int   `json:"version"`
	Enabled  bool  `json:"enabled"`
	Retired  bool  `json:"retired"`
	InFlight int64 `json:"in_flight" doc:"Messages on its edges"`
	Trashed  int64 `json:"trashed" doc:"In the trash: failed, or parked"`
}

// LiveView is what is there now and what went on lately. Messages balance: arrived is departed and waiting, running, held
// and retrying together.
type LiveView struct {
	Rate     float64  `json:"rate_per_second" doc:"Messages that left, well or not"`
	Calls    float64  `json:"calls_per_second" doc:"Calls that were answered"`
	Failed   float64  `json:"failed_share" doc:"Of these calls, how many failed: 0 to 1"`
	P50      *float64 `json:"p50_ms,omitempty" doc:"What half of the calls took at most; absent: there were none"`
	P95      *float64 `json:"p95_ms,omitempty"`
	P99      *float64 `json:"p99_ms,omitempty"`
	Waiting  int64    `json:"waiting"`
	Running  int64    `json:"running"`
	Held     int64    `json:"held"`
	Retrying int64    `json:"retrying"`
	Trashed  int64    `json:"trashed" doc:"In the trash: failed, or parked"`
	Arrived  int64    `json:"arrived" doc:"Messages that ever came"`
	Departed int64    `json:"departed" doc:"Messages that ever left"`
}

type liveNodeView struct {
	Name        string `json:"name"`
	Kind        string `json:"kind"`
	Worker      string `json:"worker,omitempty"`
	Application string `json:"application,omitempty"`
	LiveView
}

type liveEdgeView struct {
	From string `json:"from"`
	To   string `json:"to"`
	LiveView
	Oldest *time.Time `json:"oldest,omitempty" doc:"Since when the message that has waited longest could be worked; absent: none waits"`
	Age    *float64   `json:"age_seconds,omitempty" doc:"How long that is"`
}

func (g *gateway) addLive() {
	register(g, huma.Operation{
		OperationID: "get-topology-live", Method: http.MethodGet, Path: topologyPath + "/live", Tags: []string{"topologies"}, Security: openapi.Scope("operate"),
		Summary: "Tell what goes on in a topology", Description: "By node and edge of a version: what is there now, and how fast it went in the last five minutes that were counted.",
	}, g.getLive)
}

func (g *gateway) getLive(ctx context.Context, in *struct {
	TopologyPath
	Version int `query:"version" minimum:"1" maximum:"2147483647" doc:"Which version. Default: the enabled one, or else the newest"`
}) (*answer[liveView], error) {
	var out answer[liveView]
	err := g.asTenant(ctx, func(tx pgx.Tx, by auth.Principal) error {
		v, enabled, err := shownVersion(ctx, tx, by.TenantID, in.Topology, in.Version)
		if err != nil {
			return err
		}
		depths, err := queue.DepthOf(ctx, tx, by.TenantID, in.Topology, 0)
		if err != nil {
			return err
		}
		m, err := rollup.MarkOf(ctx, tx)
		if err != nil {
			return err
		}
		edges := make([]string, len(v.Edges))
		for i, e := range v.Edges {
			edges[i] = strconv.FormatInt(e.ID, 10)
		}
		w := rollup.Until(m.MinutesUntil.Add(-time.Minute), liveMinutes, time.Minute)
		lately, err := rollup.Series(ctx, tx, by.TenantID, rollup.Edge, w, m, edges...)
		out.Body = viewOfLive(v, enabled, inUse(depths), lately)
		out.Body.At, out.Body.CountedUntil = m.Now.UTC(), m.MinutesUntil.UTC()
		return err
	})
	return &out, err
}

// shownVersion is a published version, the given one, or the enabled, or the newest; and the number of the one that is
// enabled, 0 if none is.
func shownVersion(ctx context.Context, tx pgx.Tx, tenant int64, name string, number int) (v topology.Version, enabled int, err error) {
	v, err = topology.Enabled(ctx, tx, tenant, name)
	enabled = v.Number
	switch {
	case err != nil && !errors.Is(err, topology.ErrNotEnabled):
	case number != 0 && number != enabled:
		v, err = topology.Numbered(ctx, tx, tenant, name, number)
	case enabled == 0:
		v, err = topology.Newest(ctx, tx, tenant, name)
	}
	return v, enabled, err
}

func viewOfLive(v topology.Version, enabled int, depths []queue.EdgeDepth, lately []rollup.Slot) liveView {
	view := liveView{Version: v.Number, Enabled: v.Enabled, Nodes: make([]liveNodeView, len(v.Graph.Nodes)), Edges: make([]liveEdgeView, len(v.Edges))}
	counts := map[string]*rollup.Counts{}
	for _, s := range lately {
		if counts[s.Subject] == nil {
			counts[s.Subject] = &rollup.Counts{}
		}
		counts[s.Subject].Add(&s.Counts)
	}
	type ends struct{ from, to string }
	held := map[ends]queue.EdgeDepth{}
	for _, d := range slices.Backward(depths) { // they are in the order of versions
		if n := len(view.Versions); n == 0 || view.Versions[n-1].Version != d.Version {
			view.Versions = append(view.Versions, liveVersionView{Version: d.Version, Retired: d.Retired, Enabled: d.Version == enabled})
		}
		last := &view.Versions[len(view.Versions)-1]
		last.InFlight += d.Messages
		last.Trashed += d.Trashed
		if d.Version == v.Number {
			held[ends{d.From, d.To}] = d
		}
	}
	byNode, ofNode := map[string]*LiveView{}, map[string]*rollup.Counts{}
	for i, n := range v.Graph.Nodes {
		view.Nodes[i] = liveNodeView{Name: n.Name, Kind: string(n.Kind), Worker: n.Worker, Application: n.Application}
		byNode[n.Name], ofNode[n.Name] = &view.Nodes[i].LiveView, &rollup.Counts{}
	}
	for i, e := range v.Edges {
		d := held[ends{e.From, e.To}]
		edge := liveEdgeView{From: e.From, To: e.To, Oldest: utc(d.Oldest)}
		if d.Oldest != nil {
			age := rounded(d.Age.Seconds())
			edge.Age = &age
		}
		edge.addDepth(d)
		if c := counts[strconv.FormatInt(e.ID, 10)]; c != nil {
			edge.setPace(c)
			ofNode[e.To].Add(c)
		}
		byNode[e.To].addDepth(d)
		view.Edges[i] = edge
	}
	for name, c := range ofNode {
		byNode[name].setPace(c)
	}
	return view
}

func (v *LiveView) addDepth(d queue.EdgeDepth) {
	v.Waiting += d.Waiting
	v.Running += d.Running
	v.Held += d.Held
	v.Retrying += d.Retrying
	v.Trashed += d.Trashed
	v.Arrived += d.Arrived
	v.Departed += d.Departed
}

func (v *LiveView) setPace(c *rollup.Counts) {
	const seconds = 60 * liveMinutes
	v.Rate, v.Calls = rounded(float64(c.Settled())/seconds), rounded(float64(c.Calls())/seconds)
	if c.Calls() > 0 {
		v.Failed = rounded(float64(c.Bad()) / float64(c.Calls()))
	}
	v.P50, v.P95, v.P99 = quantile(c.Latency, 0.5), quantile(c.Latency, 0.95), quantile(c.Latency, 0.99)
}
