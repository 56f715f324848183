package queue

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"sluice/queue/process"
	"sluice/queue/topology"
)

// What has happened can be made to happen again: a replay is a new process that begins where another one was, with what
// that one had there. What it repeats stays as it is. A replay is accepted as an event is, so bounds, limits and order hold
// for it, and a key makes asking again harmless.

// ReplayHeader is the header of all messages of a replay that nobody drops: the message, or the process, that is repeated.
const ReplayHeader = "replay-of"

// ErrNoTarget says that a version has no place for a replay.
var ErrNoTarget = errors.New("the version has no such node, or is retired")

// Replay says what is to be repeated, and who wants that.
type Replay struct {
	Process uuid.UUID
	Message int64  // 0: the process, from its start
	Version int    // by which version of its topology; 0: the one that it was worked by
	Key     string // makes asking again harmless; empty: every call is a replay
	By      string
	Reason  string
}

func (r Replay) source() string {
	if r.Message == 0 {
		return r.Process.String()
	}
	return process.MessageID{Process: r.Process, Number: r.Message}.String()
}

// ReplaysAtOnce is how many replays one call of [Engine.Replay] takes.
const ReplaysAtOnce = 50

// replaySQL reads what is to be repeated: a message, or the first of a process; of many only the first, whose bodies come to
// $5 bytes, and at least one. target is the edge at which it goes on in
// the version that is asked for; null: there is none.
const replaySQL = `
select n, node, topology, headers, edge, target, coalesce(body, '') as body
from (
    select w.n, p.node, t.name as topology, m.headers, m.edge_id as edge, target.id as target, content.body,
           sum(octet_length(content.body)) over (order by w.n) - octet_length(content.body) as before
    from unnest($2::uuid[], $3::bigint[], $4::int[]) with ordinality as w(process_id, message_id, version, n)
    cross join lateral (
        select * from sluice.message m
        where m.tenant_id = $1 and m.process_id = w.process_id and m.id >= w.message_id -- a probe of the key, and not all of a process
        order by m.id limit 1
    ) m
    cross join lateral (
        select coalesce(m.body, (
            select b.body from sluice.message b where b.tenant_id = $1 and b.process_id = m.process_id and b.id = m.payload_id
        )) as body
        offset 0
    ) content
    join sluice.process p on p.tenant_id = $1 and p.id = m.process_id
    join sluice.edge e on e.tenant_id = $1 and e.id = m.edge_id
    join sluice.topology_version v on v.tenant_id = $1 and v.id = e.version_id
    join sluice.topology t on t.tenant_id = $1 and t.id = v.topology_id
    left join lateral (
        select o.id from sluice.topology_version ov
        join sluice.edge o on o.tenant_id = ov.tenant_id and o.version_id = ov.id and o.to_node = e.to_node
        where ov.tenant_id = $1 and ov.topology_id = v.topology_id
        and case when w.version = 0 then ov.id = v.id else ov.number = w.version and ov.retired_at is null end
        order by o.id <> e.id, o.from_node <> e.from_node, o.id limit 1
    ) target on true
    where w.message_id in (0, m.id)
) found
where before is null or before < $5
order by n`

// replayed is a row of replaySQL.
type replayed struct {
	N        int
	Node     string
	Topology string
	Headers  map[string]string
	Edge     int64
	Target   *int64
	Body     []byte
}

// Replay repeats up to [ReplaysAtOnce] messages or processes of a tenant and returns a result for each, in order. They are
// independent. Errors are those of [Engine.Accept], [process.ErrNotFound], and [ErrNoTarget].
func (e *Engine) Replay(ctx context.Context, tenant int64, replays []Replay) ([]Accepted, []error) {
	accepted, errs := make([]Accepted, 0, len(replays)), make([]error, 0, len(replays))
	for len(replays) > 0 {
		pending, failed, err := e.prepareReplays(ctx, tenant, replays)
		if err != nil {
			for range replays {
				accepted, errs = append(accepted, Accepted{}), append(errs, fmt.Errorf("%w: %w", ErrUnavailable, err))
			}
			break
		}
		accepted, errs = append(accepted, e.acceptAll(ctx, pending, failed)...), append(errs, failed...)
		replays = replays[len(pending):]
	}
	return accepted, errs
}

// prepareReplays finds out what is repeated where, of the first of many: as many as there is room for their bodies. What
// cannot be is nil, and errs says why.
func (e *Engine) prepareReplays(ctx context.Context, tenant int64, replays []Replay) (pending []*pendingEvent, errs []error, err error) {
	processes, messages, versions := make([]uuid.UUID, len(replays)), make([]int64, len(replays)), make([]int32, len(replays))
	for i, r := range replays {
		processes[i], messages[i], versions[i] = r.Process, r.Message, int32(r.Version)
	}
	rows, _ := e.pool.Query(ctx, replaySQL, tenant, processes, messages, versions, flushBytes)
	found, err := pgx.CollectRows(rows, pgx.RowToStructByName[replayed])
	if err != nil {
		return nil, nil, err
	}
	var queues []string
	for _, f := range found {
		queues = append(queues, queueName(f.Edge))
		if f.Target != nil {
			queues = append(queues, queueName(*f.Target))
		}
	}
	if _, err := e.catalog.edgesOf(ctx, queues); err != nil {
		return nil, nil, err
	}
	n := len(replays) // none of them is there
	if len(found) > 0 {
		n = found[len(found)-1].N // those behind were not read, or are not there
	}
	pending, errs = make([]*pendingEvent, n), make([]error, n)
	for i := range errs {
		errs[i] = process.ErrNotFound
	}
	for _, f := range found {
		i := f.N - 1
		pending[i], errs[i] = e.prepareReplay(ctx, tenant, replays[i], f)
	}
	return pending, errs, nil
}

func (e *Engine) prepareReplay(ctx context.Context, tenant int64, r Replay, f replayed) (*pendingEvent, error) {
	v, legs, err := e.replayTo(ctx, tenant, r, f)
	if err != nil {
		return nil, err
	}
	headers := maps.Clone(f.Headers)
	if headers == nil {
		headers = map[string]string{}
	}
	headers[ReplayHeader] = r.source()
	p := &pendingEvent{
		Event:   Event{Tenant: tenant, Topology: f.Topology, Node: f.Node, Version: v.Number, Key: r.Key, Headers: headers, Body: f.Body},
		version: v, process: e.clock.newProcessID(), legs: legs, replay: &r,
		done: make(chan acceptResult, 1), keys: v.Graph.EntityKeys(headers, f.Body),
	}
	if p.headers, err = marshalHeaders(headers); err != nil {
		return nil, err
	}
	if r.Key != "" {
		// No producer's key can be the same: theirs have no byte zero.
		scope := sha256.Sum256(fmt.Appendf(nil, "%d\x00replay\x00%s\x00%s", v.TopologyID, r.source(), r.Key))
		p.digest, p.bodyDigest = scope[:16], scope[16:]
	}
	return p, e.admit(ctx, p)
}

// replayTo finds the edges at which a replay begins: those of the start node, or that of the message.
func (e *Engine) replayTo(ctx context.Context, tenant int64, r Replay, f replayed) (*version, []*edge, error) {
	if r.Message != 0 {
		if f.Target == nil {
			return nil, nil, ErrNoTarget
		}
		to := e.catalog.edge(*f.Target)
		if to == nil {
			return nil, nil, ErrNoTarget
		}
		return to.version, []*edge{to}, nil
	}
	first := e.catalog.edge(f.Edge)
	if first == nil {
		return nil, nil, ErrNoTarget
	}
	v := first.version
	if r.Version != 0 && r.Version != v.Number {
		var err error
		v, err = e.catalog.route(ctx, tenant, f.Topology, r.Version)
		switch {
		case errors.Is(err, topology.ErrNotFound), errors.Is(err, topology.ErrNotEnabled):
			return nil, nil, ErrNoTarget
		case err != nil:
			return nil, nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
	}
	if len(v.starts[f.Node]) == 0 {
		return nil, nil, ErrNoTarget
	}
	return v, v.starts[f.Node], nil
}

// replayArrays are the arguments of markReplaysSQL, a column each: processes that are about to be made.
type replayArrays struct {
	tenants            []int64
	processes, sources [][16]byte
	messages           []int64
	bys, reasons       []string
}

func (a *replayArrays) add(p *pendingEvent) {
	if r := p.replay; r != nil {
		a.tenants, a.processes = append(a.tenants, p.Tenant), append(a.processes, p.process)
		a.sources, a.messages = append(a.sources, r.Process), append(a.messages, r.Message)
		a.bys, a.reasons = append(a.bys, r.By), append(a.reasons, r.Reason)
	}
}

// queue adds the statement to a batch, behind the one that makes the processes, if there is anything to write.
func (a *replayArrays) queue(b *pgx.Batch) {
	if len(a.tenants) > 0 {
		b.Queue(markReplaysSQL, a.tenants, a.processes, a.sources, a.messages, a.bys, a.reasons)
	}
}

// markReplaysSQL marks those of the processes that exist: what the ledger refused does not.
const markReplaysSQL = `
insert into sluice.replay (tenant_id, process_id, source_process_id, source_message_id, replayed_by, reason)
select w.tenant_id, w.process_id, w.source_process_id, nullif(w.source_message_id, 0), w.replayed_by, w.reason
from unnest($1::bigint[], $2::uuid[], $3::uuid[], $4::bigint[], $5::text[], $6::text[])
    as w(tenant_id, process_id, source_process_id, source_message_id, replayed_by, reason)
cross join lateral (select from sluice.process p where p.tenant_id = w.tenant_id and p.id = w.process_id limit 1) p
order by w.tenant_id, w.process_id
on conflict do nothing`
