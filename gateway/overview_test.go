package gateway_test

import (
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"sluice/queue/rollup"
)

// countAll makes all that happened so far of an hour ago, and counts it.
func (d *door) countAll() {
	d.t.Helper()
	_, err := d.pool.Exec(d.t.Context(), strings.Join([]string{
		`begin`, `select from sluice.rollup_mark for update`,
		`update sluice.attempt set at = at - interval '5 minutes'`,
		`update sluice.message set created_at = created_at - interval '5 minutes'`,
		`delete from sluice.rollup`,
		`update sluice.rollup_mark set counted_from = date_bin('1 day', now() - interval '1 day', 'epoch')`,
		`update sluice.rollup_mark set minutes_until = counted_from, quarters_until = counted_from, hours_until = counted_from, days_until = counted_from`,
		`commit`}, ";"))
	ok(d.t, err)
	l := rollup.NewLeader(d.pool, slog.New(slog.DiscardHandler))
	d.until("everything is counted", func() bool {
		_, err := l.Round(d.t.Context())
		ok(d.t, err)
		m, err := rollup.MarkOf(d.t.Context(), d.pool)
		ok(d.t, err)
		return m.Now.Sub(m.MinutesUntil) < 3*time.Minute
	})
}

const shop = `
topology: flow
nodes:
  in: {kind: start, followers: [work]}
  work: {kind: custom, worker: demo, followers: [last]}
  last: {kind: connector, worker: demo, application: shop}
`

type heatmap struct {
	Slots int
	Step  int `json:"step_seconds"`
	Items []struct {
		Name             string
		Messages, Failed []int64
		Total            int64
		TotalFailed      int64 `json:"total_failed"`
	}
}

func sum(numbers []int64) (n int64) {
	for _, m := range numbers {
		n += m
	}
	return n
}

// What happened is told by topology, application, node and time, with what is wrong and why; in numbers that are those of
// the records, and to the tenant alone whose they are.
func TestOverview(t *testing.T) {
	t.Parallel()
	d := open(t)
	d.serve(failing)
	d.enable("flow", shop)
	for i := range 6 {
		what := "x"
		if i >= 4 {
			what = "fail"
		}
		a := d.post(inbox, []byte(what))
		d.becomes(a.CorrelationID, map[string]string{"x": "done", "fail": "failed"}[what])
	}
	d.countAll()
	_, err := d.pool.Exec(t.Context(), `update sluice.worker set down_since = now() - interval '3 minutes', down_reason = 'refused'`)
	ok(t, err)

	for path, want := range map[string][2]int64{"/v1/heatmaps/topologies": {10, 2}, "/v1/heatmaps/applications": {4, 0}} {
		for query, slots := range map[string]int{"": 96, "?range=1h": 60, "?range=7d": 84, "?range=30d": 30, "?from=" + time.Now().UTC().Add(-5*time.Hour).Format(time.RFC3339) + "&step=15m": 21} {
			var h heatmap
			d.do(http.StatusOK, "GET", path+query, nil, &h)
			if len(h.Items) != 1 || h.Slots != slots && h.Slots != slots-1 || len(h.Items[0].Messages) != h.Slots {
				t.Fatalf("%s%s: %+v", path, query, h)
			}
			if i := h.Items[0]; i.Total != want[0] || i.TotalFailed != want[1] || sum(i.Messages) != want[0] || sum(i.Failed) != want[1] {
				t.Errorf("%s%s: %+v, want %v", path, query, i, want)
			}
		}
		d.refused(422, "validation-failed", "GET", path+"?from=2026-01-01T00:00:00Z&to=2025-01-01T00:00:00Z", "")
		d.refused(422, "validation-failed", "GET", path+"?from=2026-01-01T00:00:00Z&to=2026-02-01T00:00:00Z&step=1m", "")
	}

	type figure struct {
		Total  int64
		Points []int64
	}
	var o struct {
		Figures struct {
			Events, Messages, Failed   figure
			P95                        struct{ Total *float64 } `json:"p95_ms"`
			Open, Trashed, WorkersDown int64
		}
		Incidents []struct {
			Kind, Topology, Node, Worker, Reason string
			Failed, Trashed                      int64
			Share                                float64
			Since                                time.Time
		}
		Causes []struct {
			Text   string
			Count  int64
			Points []int64
		}
	}
	d.do(http.StatusOK, "GET", "/v1/overview?range=1h", nil, &o)
	f := o.Figures
	if f.Events.Total != 6 || f.Messages.Total != 10 || f.Failed.Total != 2 || sum(f.Messages.Points) != 10 || len(f.Events.Points) != 20 || f.P95.Total == nil || *f.P95.Total <= 0 ||
		f.Open != 0 || f.Trashed != 2 {
		t.Errorf("figures %+v", f)
	}
	if len(o.Incidents) != 2 || o.Incidents[0].Kind != "worker_down" || o.Incidents[0].Worker != "demo" || o.Incidents[1].Kind != "node_failing" || o.Incidents[1].Node != "work" ||
		o.Incidents[1].Failed != 2 || o.Incidents[1].Trashed != 2 || time.Since(o.Incidents[1].Since) > 10*time.Minute || !strings.Contains(o.Incidents[1].Reason, "it says fail") {
		t.Errorf("incidents %+v", o.Incidents)
	}
	if len(o.Causes) != 1 || o.Causes[0].Count != 2 || sum(o.Causes[0].Points) != 2 || len(o.Causes[0].Points) != 36 {
		t.Errorf("causes %+v", o.Causes)
	}

	_, text := d.send(d.operate, "GET", "/metrics", nil)
	for _, line := range []string{
		`sluice_events_total{topology="flow"} 6`, `sluice_messages_total{topology="flow",outcome="done"} 8`, `sluice_messages_total{topology="flow",outcome="failed"} 2`,
		`sluice_application_calls_total{application="shop",outcome="ok"} 4`, `sluice_worker_calls_total{worker="demo",outcome="failed"} 2`,
		`sluice_worker_up{worker="demo"} 0`, `sluice_messages_trashed{type="failure"} 2`, `sluice_messages_open 0`,
	} {
		if !strings.Contains(string(text), "\n"+line+"\n") {
			t.Errorf("metrics lack %s:\n%s", line, text)
		}
	}

	type pace struct {
		Name, From, To, Kind, Application string
		Rate                              float64  `json:"rate_per_second"`
		Share                             float64  `json:"failed_share"`
		P95                               *float64 `json:"p95_ms"`
		Arrived, Departed, Trashed        int64
	}
	var live struct {
		Version      int
		Enabled      bool
		Versions     []struct{ Version, Trashed int }
		Nodes, Edges []pace
	}
	// The last five minutes that were counted may end a minute after what was counted.
	d.until("the pace is told", func() bool {
		d.do(http.StatusOK, "GET", "/v1/topologies/flow/live", nil, &live)
		return live.Version == 1 && live.Enabled
	})
	nodes := slices.Collect(func(yield func(string) bool) {
		for _, n := range live.Nodes {
			if !yield(fmt.Sprintf("%s %s %d %d %d", n.Name, n.Application, n.Arrived, n.Departed, n.Trashed)) {
				return
			}
		}
	})
	if want := []string{"in  0 0 0", "work  6 6 2", "last shop 4 4 0"}; !slices.Equal(nodes, want) || len(live.Edges) != 2 || live.Edges[1].To != "last" || live.Edges[1].Arrived != 4 {
		t.Errorf("live %q, %+v", nodes, live.Edges)
	}
	if len(live.Versions) != 1 || live.Versions[0].Trashed != 2 {
		t.Errorf("versions %+v", live.Versions)
	}
	d.refused(404, "not-found", "GET", "/v1/topologies/flow/live?version=9", "")

	for _, path := range []string{"/v1/heatmaps/topologies", "/v1/heatmaps/applications", "/v1/overview"} {
		resp, body := d.send(d.other, "GET", path, nil)
		if resp.StatusCode != 200 || strings.Contains(string(body), "flow") || strings.Contains(string(body), "shop") || strings.Contains(string(body), `"total":10`) {
			t.Errorf("%s shows another tenant %d %s", path, resp.StatusCode, body)
		}
	}
}
