package gateway

import (
	"context"
	"errors"
	"math"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/jackc/pgx/v5"

	"sluice/gateway/auth"
	"sluice/openapi"
	"sluice/queue"
	"sluice/queue/topology"
)

const (
	edgesPath        = topologyPath + "/edges"
	versionEdgesPath = versionPath + "/edges"
)

// depthsView is what edges hold. It has no pages: a version has at most so many edges, and they are looked at together.
type depthsView struct {
	Messages int64            `json:"messages" doc:"What these edges have open together: messages that wait, run, are held or are to be retried"`
	Bytes    int64            `json:"bytes" doc:"The bodies of these messages; one that goes to several nodes counts for each"`
	Bounds   *topology.Bounds `json:"bounds,omitempty" doc:"The most that may be open before events are refused with 429: of the enabled version, and it holds for all versions together. Absent: there is none, or the edges are those of one version"`
	Items    []depthView      `json:"items" doc:"The edges, in the order of versions and of the graph"`
}

type depthView struct {
	Version  int        `json:"version" minimum:"1"`
	From     string     `json:"from"`
	To       string     `json:"to"`
	Messages int64      `json:"messages" doc:"Open: waiting, running, held or retrying"`
	Bytes    int64      `json:"bytes" doc:"The bodies of these"`
	Waiting  int64      `json:"waiting"`
	Running  int64      `json:"running"`
	Held     int64      `json:"held" doc:"By the limit of an application"`
	Retrying int64      `json:"retrying"`
	Trashed  int64      `json:"trashed"`
	Arrived  int64      `json:"arrived" doc:"Messages that ever came onto the edge; it only grows"`
	Departed int64      `json:"departed" doc:"Messages that ever left it; it only grows. Two answers make a rate"`
	Oldest   *time.Time `json:"oldest,omitempty" doc:"Since when the message that has waited longest could be worked; absent: none waits"`
	Age      *float64   `json:"age_seconds,omitempty" minimum:"0" doc:"How long that is, by the database's clock"`
}

func (g *gateway) addEdges() {
	tags, look := []string{"topologies"}, openapi.Scope("operate")
	register(g, huma.Operation{
		OperationID: "get-edges", Method: http.MethodGet, Path: edgesPath, Tags: tags, Security: look,
		Summary: "Tell what the edges of a topology hold", Description: "Of its published versions, and of retired ones that still hold something.",
	}, g.getEdges)
	register(g, huma.Operation{
		OperationID: "get-version-edges", Method: http.MethodGet, Path: versionEdgesPath, Tags: tags, Security: look,
		Summary: "Tell what the edges of a version hold", Description: "A draft has no edges yet.",
	}, g.getVersionEdges)
}

func (g *gateway) getEdges(ctx context.Context, in *TopologyPath) (*answer[depthsView], error) {
	var out answer[depthsView]
	err := g.look(ctx, func(tx pgx.Tx, by auth.Principal) error {
		depths, err := queue.DepthOf(ctx, tx, by.TenantID, in.Topology, 0)
		if err != nil {
			return err
		}
		out.Body = viewOfDepths(inUse(depths))
		enabled, err := topology.Enabled(ctx, tx, by.TenantID, in.Topology)
		switch {
		case errors.Is(err, topology.ErrNotEnabled):
			return nil
		case err == nil && enabled.Graph.Bounds != topology.Bounds{}:
			out.Body.Bounds = &enabled.Graph.Bounds
		}
		return err
	})
	return &out, err
}

// inUse leaves out the edges of retired versions that hold nothing.
func inUse(depths []queue.EdgeDepth) []queue.EdgeDepth {
	holds := map[int]bool{}
	for _, d := range depths {
		holds[d.Version] = holds[d.Version] || !d.Retired || d.Messages+d.Trashed > 0
	}
	var used []queue.EdgeDepth
	for _, d := range depths {
		if holds[d.Version] {
			used = append(used, d)
		}
	}
	return used
}

func (g *gateway) getVersionEdges(ctx context.Context, in *versionInput) (*answer[depthsView], error) {
	out := answer[depthsView]{viewOfDepths(nil)}
	err := g.look(ctx, func(tx pgx.Tx, by auth.Principal) error {
		v, err := findVersion(ctx, tx, by.TenantID, in.Topology, in.Version)
		if err != nil || v.Number == 0 {
			return err
		}
		depths, err := queue.DepthOf(ctx, tx, by.TenantID, in.Topology, v.Number)
		out.Body = viewOfDepths(depths)
		return err
	})
	return &out, err
}

func viewOfDepths(depths []queue.EdgeDepth) depthsView {
	view := depthsView{Items: make([]depthView, len(depths))}
	for i, d := range depths {
		view.Messages += d.Messages
		view.Bytes += d.Bytes
		view.Items[i] = depthView{
			Version: d.Version, From: d.From, To: d.To, Messages: d.Messages, Bytes: d.Bytes,
			Waiting: d.Waiting, Running: d.Running, Held: d.Held, Retrying: d.Retrying, Trashed: d.Trashed,
			Arrived: d.Arrived, Departed: d.Departed, Oldest: utc(d.Oldest),
		}
		if d.Oldest != nil {
			age := math.Round(d.Age.Seconds()*1000) / 1000
			view.Items[i].Age = &age
		}
	}
	return view
}
