package gateway

import (
	"context"
	"fmt"
	"maps"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/jackc/pgx/v5"

	"sluice/gateway/auth"
	"sluice/openapi"
	"sluice/queue"
	"sluice/queue/rollup"
	"sluice/queue/topology"
)

// mostLabels bounds the values of a label; what goes beyond is counted together as "other".
const mostLabels = 1000

// metrics remembers counters, which change once a minute, and are summed up over all that was ever counted.
type metrics struct {
	mu       sync.Mutex
	byTenant map[int64]*counters
}

// counters are the sums of a tenant, as of a time.
type counters struct {
	until        time.Time
	topologies   map[string]*rollup.Counts
	applications map[string]*rollup.Counts
	workers      map[string]*rollup.Counts
	lately       rollup.Counts // all, in the last minutes
}

func (g *gateway) addMetrics() {
	m := &metrics{byTenant: map[int64]*counters{}}
	register(g, huma.Operation{
		OperationID: "get-metrics", Method: http.MethodGet, Path: "/metrics", Tags: []string{"overview"}, Security: openapi.Scope("operate"),
		Summary: "Tell figures in the format of Prometheus", Description: "Those of the key's tenant. Counters come from roll-ups, so they grow once a minute; they are the same on every node: scrape one.",
		Responses: map[string]*huma.Response{"200": {Description: "The figures", Content: map[string]*huma.MediaType{
			"text/plain": {Schema: &huma.Schema{Type: huma.TypeString, Examples: []any{"sluice_events_total{topology=\"orders\"} 42\n"}}},
		}}},
	}, func(ctx context.Context, _ *struct{}) (*textOutput, error) {
		out := textOutput{ContentType: "text/plain; version=0.0.4; charset=utf-8"}
		err := g.asTenant(ctx, func(tx pgx.Tx, by auth.Principal) error {
			c, err := m.counters(ctx, tx, by.TenantID)
			if err != nil {
				return err
			}
			standing, err := queue.StandingOf(ctx, tx, by.TenantID)
			if err != nil {
				return err
			}
			limits, err := queue.HeldOf(ctx, tx, by.TenantID)
			if err != nil {
				return err
			}
			workers, err := queue.ListWorkers(ctx, tx, by.TenantID, "", mostLabels)
			out.Body = c.exposition(standing, limits, workers)
			return err
		})
		return &out, err
	})
}

type textOutput struct {
	ContentType string `header:"Content-Type"`
	Body        []byte
}

// counters sums up, if something was counted since it was done last.
func (m *metrics) counters(ctx context.Context, tx pgx.Tx, tenant int64) (*counters, error) {
	mark, err := rollup.MarkOf(ctx, tx)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	known := m.byTenant[tenant]
	m.mu.Unlock()
	if known != nil && known.until.Equal(mark.MinutesUntil) {
		return known, nil
	}
	c := &counters{until: mark.MinutesUntil}
	const day = 24 * time.Hour
	from := mark.CountedFrom.Truncate(day)
	ever := rollup.Window{From: from, To: mark.MinutesUntil.Truncate(day).Add(day)}
	ever.Step = ever.To.Sub(from)
	named := map[string]string{}
	all, err := topology.Names(ctx, tx, tenant)
	if err != nil {
		return nil, err
	}
	for _, t := range all {
		named[strconv.FormatInt(t.ID, 10)] = t.Name
	}
	for _, of := range []struct {
		scope rollup.Scope
		into  *map[string]*rollup.Counts
	}{{rollup.Topology, &c.topologies}, {rollup.Application, &c.applications}, {rollup.Worker, &c.workers}} {
		*of.into = map[string]*rollup.Counts{}
		found, err := rollup.Heat(ctx, tx, tenant, of.scope, ever, mark)
		if err != nil {
			return nil, err
		}
		for _, s := range found {
			name := s.Subject
			if of.scope == rollup.Topology {
				name = named[name]
			}
			if (*of.into)[name] == nil {
				if len(*of.into) >= mostLabels {
					name = "other"
				}
				if (*of.into)[name] == nil {
					(*of.into)[name] = &rollup.Counts{}
				}
			}
			(*of.into)[name].Add(&s.Counts)
		}
	}
	lately, err := rollup.Series(ctx, tx, tenant, rollup.All, rollup.Until(mark.MinutesUntil.Add(-time.Minute), liveMinutes, time.Minute), mark)
	for _, s := range lately {
		c.lately.Add(&s.Counts)
	}
	m.mu.Lock()
	m.byTenant[tenant] = c
	m.mu.Unlock()
	return c, err
}

// exposition writes everything in the order of names, so that two answers can be compared.
func (c *counters) exposition(now queue.Standing, limits map[string]int64, workers []queue.Worker) []byte {
	var b strings.Builder
	family := func(name, kind, help string) {
		fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
	}
	family("sluice_events_total", "counter", "Events that came in.")
	each(c.topologies, func(name string, n *rollup.Counts) {
		fmt.Fprintf(&b, "sluice_events_total{topology=%s} %d\n", labelOf(name), n.Events)
	})
	family("sluice_messages_total", "counter", "Messages that left a node, by how.")
	each(c.topologies, func(name string, n *rollup.Counts) {
		fmt.Fprintf(&b, "sluice_messages_total{topology=%s,outcome=\"done\"} %d\n", labelOf(name), n.Done)
		fmt.Fprintf(&b, "sluice_messages_total{topology=%s,outcome=\"filtered\"} %d\n", labelOf(name), n.Filtered)
		fmt.Fprintf(&b, "sluice_messages_total{topology=%s,outcome=\"failed\"} %d\n", labelOf(name), n.Failed)
	})
	family("sluice_application_calls_total", "counter", "Calls of nodes for an application, by how they ended.")
	writeCalls(&b, "sluice_application_calls_total", "application", c.applications)
	family("sluice_worker_calls_total", "counter", "Calls of a worker, by how they ended.")
	writeCalls(&b, "sluice_worker_calls_total", "worker", c.workers)
	family("sluice_call_seconds", "gauge", "How long calls took at most, of the share of all in the last five minutes that were counted.")
	for _, q := range []float64{0.5, 0.95, 0.99} {
		seconds := math.NaN()
		if d, some := c.lately.Latency.Quantile(q); some {
			seconds = d.Seconds()
		}
		fmt.Fprintf(&b, "sluice_call_seconds{quantile=\"%g\"} %g\n", q, seconds)
	}
	family("sluice_messages_open", "gauge", "Messages on edges.")
	fmt.Fprintf(&b, "sluice_messages_open %d\n", now.Open)
	family("sluice_messages_held", "gauge", "Messages that the limit of an application holds.")
	each(limits, func(name string, n int64) {
		fmt.Fprintf(&b, "sluice_messages_held{application=%s} %d\n", labelOf(name), n)
	})
	family("sluice_messages_trashed", "gauge", "Messages in the trash, by why; 100000 stands for more.")
	fmt.Fprintf(&b, "sluice_messages_trashed{type=\"failure\"} %d\nsluice_messages_trashed{type=\"breakpoint\"} %d\n", now.Trashed, now.Parked)
	family("sluice_worker_up", "gauge", "Whether a worker can be reached, as far as is known.")
	for _, w := range workers {
		up := 1
		if w.DownSince != nil {
			up = 0
		}
		fmt.Fprintf(&b, "sluice_worker_up{worker=%s} %d\n", labelOf(w.Name), up)
	}
	family("sluice_counted_until_seconds", "gauge", "Up to when counters are complete, in seconds of Unix.")
	fmt.Fprintf(&b, "sluice_counted_until_seconds %d\n", c.until.Unix())
	return []byte(b.String())
}

func writeCalls(b *strings.Builder, metric, label string, of map[string]*rollup.Counts) {
	each(of, func(name string, n *rollup.Counts) {
		fmt.Fprintf(b, "%s{%s=%s,outcome=\"ok\"} %d\n", metric, label, labelOf(name), n.Calls()-n.Bad())
		fmt.Fprintf(b, "%s{%s=%s,outcome=\"failed\"} %d\n", metric, label, labelOf(name), n.Bad())
		fmt.Fprintf(b, "%s{%s=%s,outcome=\"unavailable\"} %d\n", metric, label, labelOf(name), n.Unavailable)
	})
}

// each goes through a map in the order of names.
func each[T any](of map[string]T, do func(name string, value T)) {
	for _, name := range slices.Sorted(maps.Keys(of)) {
		do(name, of[name])
	}
}

// labelOf quotes the value of a label.
func labelOf(name string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(name) + `"`
}
