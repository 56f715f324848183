package queue

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// A topology may bound what it has open: messages, or bytes of their bodies. Over its bound it takes no events, so that
// its producers slow down and not its neighbours or the database. What is open is known by the counters of its edges,
// which are looked at twice a second; in between an engine counts what it lets in itself. So a bound may be passed by
// what the other engines let in within half a second.

// FullError says that a topology has as much open as it may.
type FullError struct {
	Topology   string
	What       string // messages or bytes
	Holds      int64
	Bound      int64
	RetryAfter time.Duration // until there should be room again, by the rate at which messages leave; 1 s to 1 min
}

func (e *FullError) Error() string {
	return fmt.Sprintf("topology %s holds %d %s, and its bound is %d", e.Topology, e.Holds, e.What, e.Bound)
}

const (
	gaugeEvery   = 500 * time.Millisecond
	gaugeForget  = time.Minute // after the last event
	gaugesAtOnce = 500
)

// gauges know how much topologies with bounds have open.
type gauges struct {
	mu    sync.Mutex
	known map[topologyKey]*gauge
}

type topologyKey struct{ tenant, id int64 }

type gauge struct {
	messages, bytes int64 // open when it was looked at, and let in since or shortly before
	pending         int64 // messages let in of which it is not decided yet whether they are stored
	pendingBytes    int64
	departed        int64     // ever, when it was looked at
	rate            float64   // messages that leave a second
	lookedAt        time.Time // zero: never
	asked           time.Time // the last event
}

// admit says whether a topology takes an event, and counts it.
func (e *Engine) admit(ctx context.Context, p *pendingEvent) error {
	bounds := p.version.Graph.Bounds
	if bounds.Messages == 0 && bounds.Bytes == 0 {
		return nil
	}
	key := topologyKey{p.Tenant, p.version.TopologyID}
	if err := e.gaugeFirst(ctx, key); err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	e.gauges.mu.Lock()
	defer e.gauges.mu.Unlock()
	g := e.gauges.known[key]
	full := &FullError{Topology: p.version.Topology}
	switch {
	case bounds.Messages > 0 && g.messages >= bounds.Messages:
		full.What, full.Holds, full.Bound = "messages", g.messages, bounds.Messages
	case bounds.Bytes > 0 && g.bytes >= bounds.Bytes:
		full.What, full.Holds, full.Bound = "bytes", g.bytes, bounds.Bytes
	default:
		messages, bytes := p.weight()
		g.messages, g.bytes = g.messages+messages, g.bytes+bytes
		g.pending, g.pendingBytes = g.pending+messages, g.pendingBytes+bytes
		p.gauge = g
		return nil
	}
	full.RetryAfter = g.wait(float64(full.Holds-full.Bound) / float64(full.Bound))
	return full
}

// weight is what the event adds to its topology.
func (p *pendingEvent) weight() (messages, bytes int64) {
	return int64(len(p.legs)), int64(len(p.legs) * len(p.Body))
}

// decided notes that an event is stored or refused: from now on the counters of edges tell the truth about it.
func (e *Engine) decided(p *pendingEvent) {
	if p.gauge == nil {
		return
	}
	e.gauges.mu.Lock()
	defer e.gauges.mu.Unlock()
	messages, bytes := p.weight()
	p.gauge.pending, p.gauge.pendingBytes = p.gauge.pending-messages, p.gauge.pendingBytes-bytes
	p.gauge = nil
}

// wait is how long a topology needs to come down from above its bound, by share of it, to a twentieth below.
func (g *gauge) wait(above float64) time.Duration {
	if g.rate <= 0 {
		return 10 * time.Second
	}
	excess := float64(g.messages) * (1 - 0.95/(1+above))
	return min(max(time.Duration(excess/g.rate*float64(time.Second)), time.Second), time.Minute)
}

// gaugeFirst looks at a topology that was not looked at yet.
func (e *Engine) gaugeFirst(ctx context.Context, key topologyKey) error {
	e.gauges.mu.Lock()
	known := e.gauges.known[key]
	if known != nil {
		known.asked = time.Now() // so that it is not forgotten meanwhile
	}
	e.gauges.mu.Unlock()
	if known != nil {
		return nil
	}
	_, err := e.catalog.shared(ctx, fmt.Sprintf("gauge %d %d", key.tenant, key.id), func(ctx context.Context) (any, error) {
		return nil, e.look(ctx, []topologyKey{key})
	})
	return err
}

// gaugeLoop keeps the gauges true.
func (e *Engine) gaugeLoop() {
	ticks := time.NewTicker(gaugeEvery)
	defer ticks.Stop()
	for {
		select {
		case <-e.closing:
			return
		case <-ticks.C:
		}
		keys := e.gauges.wanted(time.Now())
		for len(keys) > 0 {
			n := min(len(keys), gaugesAtOnce)
			ctx, cancel := context.WithTimeout(context.Background(), statementTimeout)
			err := e.look(ctx, keys[:n])
			cancel()
			if err != nil {
				e.log.Warn("Bounds of topologies not looked at", "err", err)
				break
			}
			keys = keys[n:]
		}
	}
}

// wanted are the topologies that events came to lately. The others are forgotten.
func (g *gauges) wanted(now time.Time) []topologyKey {
	g.mu.Lock()
	defer g.mu.Unlock()
	var keys []topologyKey
	for k, known := range g.known {
		if now.Sub(known.asked) > gaugeForget {
			delete(g.known, k)
			continue
		}
		keys = append(keys, k)
	}
	return keys
}

// look reads what topologies have open.
func (e *Engine) look(ctx context.Context, keys []topologyKey) error {
	tenants, ids := make([]int64, len(keys)), make([]int64, len(keys))
	for i, k := range keys {
		tenants[i], ids[i] = k.tenant, k.id
	}
	// What is let in while the counters are read, and what is on its way to the database, may be in them or not: it is
	// counted on top, which errs on the safe side until the next look.
	before := e.gauges.letIn(keys)
	rows, _ := e.pool.Query(ctx, gaugeSQL, tenants, ids)
	type sums struct{ N, Messages, Bytes, Departed int64 }
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[sums])
	if err != nil {
		return err
	}
	if len(found) != len(keys) {
		return errors.New("the counters of edges are not to be seen")
	}
	now := time.Now()
	e.gauges.mu.Lock()
	defer e.gauges.mu.Unlock()
	for _, s := range found {
		g := e.gauges.known[keys[s.N-1]]
		if g == nil {
			g = &gauge{asked: now}
			e.gauges.known[keys[s.N-1]] = g
		}
		since := before[keys[s.N-1]]
		if !g.lookedAt.IsZero() {
			g.rate = float64(s.Departed-g.departed) / now.Sub(g.lookedAt).Seconds()
		}
		g.messages, g.bytes = s.Messages+since.pending+g.messages-since.messages, s.Bytes+since.pendingBytes+g.bytes-since.bytes
		g.departed, g.lookedAt = s.Departed, now
	}
	return nil
}

// letIn are the gauges as they stand.
func (g *gauges) letIn(keys []topologyKey) map[topologyKey]gauge {
	g.mu.Lock()
	defer g.mu.Unlock()
	stand := map[topologyKey]gauge{}
	for _, k := range keys {
		if known := g.known[k]; known != nil {
			stand[k] = *known
		}
	}
	return stand
}

// gaugeSQL sums up the counters of topologies' edges.
const gaugeSQL = `
select w.n, coalesce(sum(c.arrived - c.departed), 0)::bigint, coalesce(sum(c.bytes), 0)::bigint, coalesce(sum(c.departed), 0)::bigint
from unnest($1::bigint[], $2::bigint[]) with ordinality as w(tenant_id, topology_id, n)
left join sluice.topology_version v on v.tenant_id = w.tenant_id and v.topology_id = w.topology_id and v.number is not null
left join sluice.edge e on e.tenant_id = v.tenant_id and e.version_id = v.id
left join sluice.edge_count c on c.tenant_id = e.tenant_id and c.edge_id = e.id
group by w.n`
