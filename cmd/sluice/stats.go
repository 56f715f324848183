package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

type statsCmd struct {
	apiFlags
	Range string `enum:"1h,24h,7d,30d" default:"24h" help:"How far back: 1h, 24h, 7d or 30d."`
}

func (statsCmd) Help() string {
	return examples("What came in and left, by topology and application, what is wrong since when, and why messages failed.",
		"sluice stats", "sluice stats --range 1h", "sluice stats --output json | jq '.overview.incidents'")
}

type statsOverview struct {
	CountedUntil *time.Time `json:"counted_until"`
	Figures      struct {
		Events, Messages, Failed struct{ Total int64 }
		P95                      struct{ Total *float64 } `json:"p95_ms"`
		Open, Held, Trashed      int64
	}
	Incidents []statsIncident
	Causes    []struct {
		Text     string
		Count    int64
		LastSeen *time.Time `json:"last_seen"`
	}
}

type statsIncident struct {
	Kind, Topology, Node, Worker, Application, Reason string
	Since                                             *time.Time
	Version                                           int
	Failed, Trashed, Waiting, Held                    int64
	Share                                             float64
	Drain                                             *float64 `json:"drain_seconds"`
}

// sentence says what is wrong, since when, and what it costs.
func (i statsIncident) sentence() string {
	since := "since " + when(i.Since)
	switch i.Kind {
	case "worker_down":
		return fmt.Sprintf("Worker %s is down %s: %s. %s wait for it.", i.Worker, since, strings.TrimSuffix(i.Reason, "."), count(i.Waiting, "message"))
	case "node_failing":
		return fmt.Sprintf("Node %s of %s v%d fails %s: %.0f %% of its calls, %s failed, %d in the trash. Last: %s",
			i.Node, i.Topology, i.Version, since, 100*i.Share, count(i.Failed, "message"), i.Trashed, i.Reason)
	}
	drain := "nobody can tell until when"
	if i.Drain != nil {
		drain = "none is held in " + time.Duration(*i.Drain*float64(time.Second)).Round(time.Second).String() + " if no more comes"
	}
	return fmt.Sprintf("Application %s holds %s %s: %s.", i.Application, count(i.Held, "message"), since, drain)
}

type statsHeatmap struct {
	Items []struct {
		Name        string
		Total       int64
		TotalFailed int64 `json:"total_failed"`
	}
}

func (c statsCmd) Run(ctx context.Context, p *program, api *client) error {
	query := queryOf("range", c.Range)
	overview, err := ask[statsOverview](ctx, api, request{method: http.MethodGet, path: "/overview", query: query})
	if err != nil {
		return err
	}
	topologies, err := ask[statsHeatmap](ctx, api, request{method: http.MethodGet, path: "/heatmaps/topologies", query: query})
	if err != nil {
		return err
	}
	applications, err := ask[statsHeatmap](ctx, api, request{method: http.MethodGet, path: "/heatmaps/applications", query: query})
	if err != nil {
		return err
	}
	whole := map[string]any{"overview": overview.raw, "topologies": topologies.raw, "applications": applications.raw}
	return p.print(whole, func(w io.Writer) {
		o := overview.Shown
		p95 := "no calls"
		if o.Figures.P95.Total != nil {
			p95 = fmt.Sprintf("95 %% of the calls took %.0f ms at most", *o.Figures.P95.Total)
		}
		facts(w,
			"Came in", count(o.Figures.Events.Total, "event"),
			"Left nodes", fmt.Sprintf("%s, %d of them failed; %s", count(o.Figures.Messages.Total, "message"), o.Figures.Failed.Total, p95),
			"Now", fmt.Sprintf("%d on their way, %d of them held; %d in the trash", o.Figures.Open, o.Figures.Held, o.Figures.Trashed),
			"Counted until", when(o.CountedUntil),
		)
		for _, i := range o.Incidents {
			fmt.Fprintf(w, "\n%s", line(i.sentence()))
		}
		if len(o.Incidents) > 0 {
			fmt.Fprintln(w)
		}
		for head, of := range []statsHeatmap{topologies.Shown, applications.Shown} {
			var rows [][]string
			for _, r := range of.Items {
				rows = append(rows, []string{r.Name, strconv.FormatInt(r.Total, 10), strconv.FormatInt(r.TotalFailed, 10)})
			}
			if len(rows) > 0 {
				fmt.Fprintln(w)
				table(w, []string{"TOPOLOGY MESSAGES FAILED", "APPLICATION CALLS FAILED"}[head], rows...)
			}
		}
		var rows [][]string
		for _, cause := range o.Causes {
			rows = append(rows, []string{strconv.FormatInt(cause.Count, 10), when(cause.LastSeen), cause.Text})
		}
		if len(rows) > 0 {
			fmt.Fprintln(w)
			table(w, "IN-TRASH LAST CAUSE", rows...)
		}
	})
}
