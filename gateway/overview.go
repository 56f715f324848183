package gateway

import (
	"context"
	"maps"
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
	"sluice/trash"
)

const (
	overviewPath           = "/v1/overview"
	topologyHeatmapPath    = "/v1/heatmaps/topologies"
	applicationHeatmapPath = "/v1/heatmaps/applications"

	causesShown = 10
	mostSlots   = 200
	countedText = "Counts come from roll-ups: they are complete up to `counted_until`, which follows each minute by some seconds."
)

// RangeQuery is how far back something is looked at.
type RangeQuery struct {
	Range string `query:"range" enum:"1h,24h,7d,30d" default:"24h" doc:"How far back"`
}

// slots are what a range is divided into: many for a heatmap, few for a line.
type slots struct {
	heat, line         int
	heatStep, lineStep time.Duration
}

var ranges = map[string]slots{
	"1h":  {60, 20, time.Minute, 3 * time.Minute},
	"24h": {96, 24, 15 * time.Minute, time.Hour},
	"7d":  {84, 28, 2 * time.Hour, 6 * time.Hour},
	"30d": {30, 30, 24 * time.Hour, 24 * time.Hour},
}

// WindowView is the time that counts are of.
type WindowView struct {
	At           time.Time `json:"at" doc:"Now, by the database's clock"`
	CountedUntil time.Time `json:"counted_until" doc:"Counts are complete up to here"`
	CountedFrom  time.Time `json:"counted_from" doc:"Nothing before is counted"`
	From         time.Time `json:"from"`
	To           time.Time `json:"to"`
	Step         int       `json:"step_seconds" doc:"Length of a slot"`
	Slots        int       `json:"slots" doc:"How many there are"`
}

func viewOfWindow(w rollup.Window, m rollup.Mark) WindowView {
	return WindowView{
		At: m.Now.UTC(), CountedUntil: m.MinutesUntil.UTC(), CountedFrom: m.CountedFrom.UTC(), From: w.From.UTC(), To: w.To.UTC(),
		Step: int(w.Step.Seconds()), Slots: w.Slots(),
	}
}

type overviewView struct {
	WindowView
	Figures   figuresView    `json:"figures"`
	Incidents []incidentView `json:"incidents" doc:"What is wrong now: workers that are down, then nodes that fail, by how much, then applications that hold messages back"`
	Causes    []causeView    `json:"causes" doc:"Of what lies in the trash, the most frequent first"`
}

type figuresView struct {
	Events   figureView   `json:"events" doc:"That came in"`
	Messages figureView   `json:"messages" doc:"That left a node, well or not"`
	Failed   figureView   `json:"failed" doc:"That went to the trash"`
	P95      quantileView `json:"p95_ms" doc:"What 95 % of the calls took at most"`

	Open        int64 `json:"open" doc:"Messages on edges now"`
	Held        int64 `json:"held" doc:"Of them, those that limits hold"`
	Trashed     int64 `json:"trashed" doc:"Messages that failed and wait for a person; 100,000 stands for more"`
	Parked      int64 `json:"parked" doc:"Messages at breakpoints; 100,000 stands for more"`
	Topologies  int64 `json:"topologies" doc:"That take events"`
	Workers     int64 `json:"workers"`
	WorkersDown int64 `json:"workers_down"`
}

type figureView struct {
	Total  int64   `json:"total"`
	Points []int64 `json:"points" doc:"By slot"`
}

type quantileView struct {
	Total  *float64   `json:"total,omitempty" doc:"Absent: there were no calls"`
	Points []*float64 `json:"points" doc:"By slot; null: there were no calls"`
}

type incidentView struct {
	Kind        string    `json:"kind" enum:"worker_down,node_failing,application_held"`
	Since       time.Time `json:"since"`
	Topology    string    `json:"topology,omitempty"`
	Version     int       `json:"version,omitempty"`
	Node        string    `json:"node,omitempty"`
	Worker      string    `json:"worker,omitempty"`
	Application string    `json:"application,omitempty"`
	Failed      int64     `json:"failed,omitempty" doc:"Messages of the node that went to the trash since"`
	Share       float64   `json:"share,omitempty" doc:"Of the node's calls in the last quarter of an hour, how many failed: 0 to 1"`
	Trashed     int64     `json:"trashed,omitempty" doc:"Messages of the node that lie in the trash"`
	Waiting     int64     `json:"waiting,omitempty" doc:"Messages for the worker's nodes"`
	Held        int64     `json:"held,omitempty" doc:"Messages that the application's limit holds"`
	Drain       *float64  `json:"drain_seconds,omitempty" doc:"How long until none is held, if no more comes; absent: nobody can tell"`
	Paused      bool      `json:"paused,omitempty" doc:"A person has paused the application"`
	Reason      string    `json:"reason,omitempty" doc:"That was given last"`
}

type causeView struct {
	Cause     string    `json:"cause" doc:"For the filter of the trash"`
	Class     string    `json:"class,omitempty"`
	Text      string    `json:"text" doc:"The reason without what differs from entry to entry"`
	Reason    string    `json:"reason" doc:"Of the last entry"`
	Count     int64     `json:"count" doc:"Entries, among the newest 100,000 of the trash"`
	FirstSeen time.Time `json:"first_seen"`
	LastSeen  time.Time `json:"last_seen"`
	Points    []int64   `json:"points" doc:"Entries of the last three hours, in slots of five minutes, the oldest first"`
}

type heatmapView struct {
	WindowView
	Items []heatRowView `json:"items" doc:"By name; what is in use is there even if nothing happened"`
}

type heatRowView struct {
	Name        string  `json:"name"`
	Messages    []int64 `json:"messages" doc:"By slot: messages that left a node of the topology, well or not; calls of the application"`
	Failed      []int64 `json:"failed" doc:"By slot: of them, those that went to the trash; calls that failed, for good or not"`
	Total       int64   `json:"total"`
	TotalFailed int64   `json:"total_failed"`
}

// HeatmapQuery is the time of a heatmap: a range that ends now, or from here to there.
type HeatmapQuery struct {
	RangeQuery
	From time.Time `query:"from" doc:"When it begins, instead of a range; it is rounded down to a step"`
	To   time.Time `query:"to" doc:"When it ends; without it, now"`
	Step string    `query:"step" enum:"1m,5m,15m,30m,1h,2h,6h,12h,1d" doc:"Length of a slot, with from. Default: the shortest that makes at most 100 slots. What is looked at by minutes is kept for 3 days, by quarters of an hour for 15, by hours for 100"`
}

var steps = []struct {
	name string
	step time.Duration
}{
	{"1m", time.Minute}, {"5m", 5 * time.Minute}, {"15m", 15 * time.Minute}, {"30m", 30 * time.Minute}, {"1h", time.Hour},
	{"2h", 2 * time.Hour}, {"6h", 6 * time.Hour}, {"12h", 12 * time.Hour}, {"1d", 24 * time.Hour},
}

func (q HeatmapQuery) window(m rollup.Mark) (rollup.Window, error) {
	if q.From.IsZero() {
		r := ranges[q.Range]
		return rollup.Until(m.Now, r.heat, r.heatStep), nil
	}
	if q.To.IsZero() {
		q.To = m.Now
	}
	if !q.To.After(q.From) {
		return rollup.Window{}, openapi.ValidationFailed.Because("the time ends before it begins").With(openapi.Detail{Detail: "is not after from", Location: "query.to"})
	}
	for i, s := range steps {
		from := q.From.Truncate(s.step)
		n := int((q.To.Sub(from) + s.step - 1) / s.step)
		switch {
		case q.Step == s.name && n > mostSlots:
			return rollup.Window{}, openapi.ValidationFailed.Because("there would be more than %d slots: ask for a longer step or a shorter time", mostSlots).
				With(openapi.Detail{Detail: "is too short", Location: "query.step"})
		case q.Step == s.name, q.Step == "" && (n <= mostSlots/2 || i == len(steps)-1):
			return rollup.Window{From: from, To: from.Add(time.Duration(min(n, mostSlots)) * s.step), Step: s.step}, nil
		}
	}
	return rollup.Window{}, nil // the schema lets no other step through
}

func (g *gateway) addOverview() {
	tags, look := []string{"overview"}, openapi.Scope("operate")
	register(g, huma.Operation{
		OperationID: "get-overview", Method: http.MethodGet, Path: overviewPath, Tags: tags, Security: look,
		Summary: "Tell how things stand", Description: "What came in and left, what is wrong since when, and why messages failed. " + countedText,
	}, g.getOverview)
	register(g, huma.Operation{
		OperationID: "get-topology-heatmap", Method: http.MethodGet, Path: topologyHeatmapPath, Tags: tags, Security: look,
		Summary: "Count messages by topology and time", Description: countedText,
	}, g.getTopologyHeatmap)
	register(g, huma.Operation{
		OperationID: "get-application-heatmap", Method: http.MethodGet, Path: applicationHeatmapPath, Tags: tags, Security: look,
		Summary: "Count calls by application and time", Description: countedText,
	}, g.getApplicationHeatmap)
}

func (g *gateway) getOverview(ctx context.Context, in *RangeQuery) (*answer[overviewView], error) {
	var out answer[overviewView]
	err := g.asTenant(ctx, func(tx pgx.Tx, by auth.Principal) error {
		m, err := rollup.MarkOf(ctx, tx)
		if err != nil {
			return err
		}
		r := ranges[in.Range]
		w := rollup.Until(m.Now, r.line, r.lineStep)
		all, err := rollup.Series(ctx, tx, by.TenantID, rollup.All, w, m)
		if err != nil {
			return err
		}
		standing, err := queue.StandingOf(ctx, tx, by.TenantID)
		if err != nil {
			return err
		}
		incidents, err := queue.Incidents(ctx, tx, by.TenantID)
		if err != nil {
			return err
		}
		causes, err := trash.Causes(ctx, tx, by.TenantID, causesShown)
		out.Body = overviewView{
			WindowView: viewOfWindow(w, m), Figures: viewOfFigures(all, w.Slots(), standing),
			Incidents: make([]incidentView, len(incidents)), Causes: make([]causeView, len(causes)),
		}
		for i, n := range incidents {
			out.Body.Incidents[i] = incidentView{
				Kind: string(n.Kind), Since: n.Since.UTC(), Topology: n.Topology, Version: n.Version, Node: n.Node, Worker: n.Worker, Application: n.Application,
				Failed: n.Failed, Share: rounded(n.Share), Trashed: n.Trashed, Waiting: n.Waiting, Held: n.Held, Drain: seconds(n.Drain), Paused: n.Paused, Reason: n.Reason,
			}
		}
		for i, c := range causes {
			out.Body.Causes[i] = causeView{
				Cause: causeText(c.Cause), Class: classText(c.Class), Text: c.Text, Reason: c.Reason, Count: c.Count,
				FirstSeen: c.FirstSeen.UTC(), LastSeen: c.LastSeen.UTC(), Points: c.Points,
			}
		}
		return err
	})
	return &out, err
}

func viewOfFigures(all []rollup.Slot, n int, s queue.Standing) figuresView {
	line := func() figureView { return figureView{Points: make([]int64, n)} }
	v := figuresView{
		Events: line(), Messages: line(), Failed: line(), P95: quantileView{Points: make([]*float64, n)},
		Open: s.Open, Held: s.Held, Trashed: s.Trashed, Parked: s.Parked, Topologies: s.Topologies, Workers: s.Workers, WorkersDown: s.WorkersDown,
	}
	var total rollup.Counts
	for _, c := range all {
		total.Add(&c.Counts)
		v.Events.Points[c.Slot], v.Messages.Points[c.Slot], v.Failed.Points[c.Slot] = c.Events, c.Settled(), c.Failed
		v.P95.Points[c.Slot] = quantile(c.Latency, 0.95)
	}
	v.Events.Total, v.Messages.Total, v.Failed.Total, v.P95.Total = total.Events, total.Settled(), total.Failed, quantile(total.Latency, 0.95)
	return v
}

// quantile is in milliseconds; nil: there were no calls.
func quantile(h rollup.Histogram, q float64) *float64 {
	d, some := h.Quantile(q)
	if !some {
		return nil
	}
	ms := rounded(milliseconds(d))
	return &ms
}

func (g *gateway) getTopologyHeatmap(ctx context.Context, in *HeatmapQuery) (*answer[heatmapView], error) {
	h := heat{scope: rollup.Topology, count: func(c *rollup.Counts) (int64, int64) { return c.Settled(), c.Failed }}
	h.subjects = func(tx pgx.Tx, tenant int64) (named map[string]string, inUse []string, err error) {
		all, err := topology.Names(ctx, tx, tenant)
		named = map[string]string{}
		for _, t := range all {
			named[strconv.FormatInt(t.ID, 10)] = t.Name
			if t.Enabled {
				inUse = append(inUse, t.Name)
			}
		}
		return named, inUse, err
	}
	return g.heatmap(ctx, *in, h)
}

func (g *gateway) getApplicationHeatmap(ctx context.Context, in *HeatmapQuery) (*answer[heatmapView], error) {
	h := heat{scope: rollup.Application, count: func(c *rollup.Counts) (int64, int64) { return c.Calls(), c.Bad() }}
	h.subjects = func(tx pgx.Tx, tenant int64) (_ map[string]string, inUse []string, err error) {
		inUse, err = topology.Applications(ctx, tx, tenant)
		return nil, inUse, err
	}
	return g.heatmap(ctx, *in, h)
}

// heat says what a heatmap shows.
type heat struct {
	scope    rollup.Scope
	count    func(*rollup.Counts) (all, failed int64)
	subjects func(pgx.Tx, int64) (named map[string]string, inUse []string, err error) // names of subjects, where they are others
}

func (g *gateway) heatmap(ctx context.Context, q HeatmapQuery, h heat) (*answer[heatmapView], error) {
	var out answer[heatmapView]
	err := g.asTenant(ctx, func(tx pgx.Tx, by auth.Principal) error {
		m, err := rollup.MarkOf(ctx, tx)
		if err != nil {
			return err
		}
		w, err := q.window(m)
		if err != nil {
			return err
		}
		found, err := rollup.Heat(ctx, tx, by.TenantID, h.scope, w, m)
		if err != nil {
			return err
		}
		named, inUse, err := h.subjects(tx, by.TenantID)
		if err != nil {
			return err
		}
		rows := map[string]*heatRowView{}
		row := func(name string) *heatRowView {
			r := rows[name]
			if r == nil {
				r = &heatRowView{Name: name, Messages: make([]int64, w.Slots()), Failed: make([]int64, w.Slots())}
				rows[name] = r
			}
			return r
		}
		for _, name := range inUse {
			row(name)
		}
		for _, s := range found {
			name, is := named[s.Subject]
			if !is {
				name = s.Subject
			}
			all, failed := h.count(&s.Counts)
			r := row(name)
			r.Messages[s.Slot] += all
			r.Failed[s.Slot] += failed
			r.Total += all
			r.TotalFailed += failed
		}
		out.Body = heatmapView{WindowView: viewOfWindow(w, m), Items: make([]heatRowView, 0, len(rows))}
		for _, name := range slices.Sorted(maps.Keys(rows)) {
			out.Body.Items = append(out.Body.Items, *rows[name])
		}
		return nil
	})
	return &out, err
}
