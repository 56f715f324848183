package process

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Call is one crossing of the boundary in the history of an entity: an event that came in, or a message for a node that
// talks to a third party, with what has become of it.
type Call struct {
	Process     Process
	Message     *MessageID // nil: the event itself
	Topology    string     // of the message; an operator may have sent it on to another version than its process's
	Version     int
	Kind        string // event, or that of the node
	Node        string
	Worker      string
	Application string
	Badge       Badge
	Tries       int    // attempts that are on record
	Status      *int   // of the last of them
	Reason      string // of the last of them
	At          time.Time
	EndedAt     *time.Time // of the last record; nil: there is none
}

// Badge says in a word how a delivery stands.
type Badge string

// The badges.
const (
	BadgeReceived  Badge = "received"  // an event: it is stored
	BadgeDelivered Badge = "delivered" // the node's worker took it
	BadgeRefused   Badge = "refused"   // it lies in the trash, or somebody gave it up
	BadgeWaiting   Badge = "waiting"   // it was not tried yet, or waits for a person at a breakpoint
	BadgeRunning   Badge = "running"   // the call is under way
	BadgeRetried   Badge = "retried"   // tried, and to be tried again
	BadgeUnknown   Badge = "unknown"   // a runner took it and left no record: the call may have been made; it will be made again, with the same idempotency key
	BadgeEnded     Badge = "ended"     // somebody ended its process, or sent another message in its place
)

// Mark is a place in a trace: behind a message of a process, or behind its event (0).
type Mark struct {
	Process uuid.UUID
	Message int64
}

// tracedAtMost is how many messages one call of Trace looks at. More would keep a screen waiting.
const tracedAtMost = 5000

// Trace returns the history of an entity over all topologies and versions: the next n crossings of the boundary, process
// after process as they came in, and within a process as its messages were born. How much it reads is bounded: where few
// messages cross, a page holds fewer, or none, and still has a next. On the last page next is nil.
func Trace(ctx context.Context, db DB, tenant int64, e Entity, after Mark, n int) (calls []Call, next *Mark, err error) {
	rows, _ := db.Query(ctx, traceProcessesSQL, tenant, e.Kind, e.Value, after.Process, n+2)
	processes, err := pgx.CollectRows(rows, pgx.RowToStructByName[Process])
	if err != nil || len(processes) == 0 {
		return nil, nil, err
	}
	processes, more := traceable(processes, n+1)
	ids := make([]uuid.UUID, len(processes))
	for i, p := range processes {
		ids[i] = p.ID
	}
	rows, _ = db.Query(ctx, tracedMessagesSQL, tenant, ids, after.Process, after.Message, tracedAtMost)
	messages, err := pgx.CollectRows(rows, pgx.RowToStructByName[tracedMessage])
	if err != nil {
		return nil, nil, err
	}
	nodes, err := nodesOf(ctx, db, tenant, messages)
	if err != nil {
		return nil, nil, err
	}
	at := 0
	for _, p := range processes {
		if p.ID != after.Process {
			if len(calls) == n {
				return finish(ctx, db, tenant, calls, &after)
			}
			calls = append(calls, Call{Process: p, Topology: p.Topology, Version: p.Version, Kind: "event", Node: p.Node, Badge: BadgeReceived, At: p.StartedAt})
			after = Mark{Process: p.ID}
		}
		for ; at < len(messages) && messages[at].ProcessID == p.ID; at++ {
			m := messages[at]
			node := nodes[m.EdgeID]
			if node.crosses() {
				if len(calls) == n {
					return finish(ctx, db, tenant, calls, &after)
				}
				calls = append(calls, node.call(p, m))
			}
			after.Message = m.ID
		}
		if at == len(messages) && at == tracedAtMost { // there may be more of this process
			return finish(ctx, db, tenant, calls, &after)
		}
	}
	if more {
		return finish(ctx, db, tenant, calls, &after)
	}
	return finish(ctx, db, tenant, calls, nil)
}

// traceable are as many of the processes as can be looked at in one go, and whether that leaves some. The first may be one
// of which all was seen, so there are two at least if there are two.
func traceable(processes []Process, most int) (some []Process, more bool) {
	messages := 0
	for i, p := range processes {
		messages += p.Total
		if i == most || i > 1 && messages > tracedAtMost {
			return processes[:i], true
		}
	}
	return processes, false
}

// traceProcessesSQL lists the next $5 processes from $4 on that are about an entity, the oldest first.
const traceProcessesSQL = aboutKindsSQL + `, about as materialized (
    select distinct k.process_id from kinds
    cross join lateral (
        select process_id from sluice.entity_key
        where tenant_id = $1 and value = $3 and kind = kinds.kind and process_id >= $4
        order by process_id limit $5
    ) k
    where kinds.kind is not null
    order by k.process_id limit $5
)
select` + processColumns + `
from about
join sluice.process p on p.tenant_id = $1 and p.id = about.process_id` + processNames + `
order by p.id`

// tracedMessagesSQL lists the messages of processes, from the one after a mark on.
const tracedMessagesSQL = `
select m.process_id, m.id, m.edge_id, m.created_at
from unnest($2::uuid[]) with ordinality as w(id, n)
cross join lateral (
    select process_id, id, edge_id, created_at from sluice.message
    where tenant_id = $1 and process_id = w.id and id > case when w.id = $3 then $4::bigint else 0 end
    order by id limit $5
) m
order by w.n, m.id limit $5`

type tracedMessage struct {
	ProcessID uuid.UUID
	ID        int64
	EdgeID    int64
	CreatedAt time.Time
}

// tracedNode is what an edge leads to.
type tracedNode struct {
	ID          int64
	Topology    string
	Version     int
	Node        string
	Kind        string
	Worker      string
	Application string
}

// crosses tells whether the node talks to a third party.
func (n tracedNode) crosses() bool {
	return n.Kind == "connector" || n.Kind == "batch" || n.Application != ""
}

func (n tracedNode) call(p Process, m tracedMessage) Call {
	return Call{
		Process: p, Message: &MessageID{Process: p.ID, Number: m.ID}, Topology: n.Topology, Version: n.Version,
		Kind: n.Kind, Node: n.Node, Worker: n.Worker, Application: n.Application, At: m.CreatedAt,
	}
}

// nodesOf finds the nodes that messages are for, by edge.
func nodesOf(ctx context.Context, db DB, tenant int64, messages []tracedMessage) (map[int64]tracedNode, error) {
	nodes := map[int64]tracedNode{}
	for _, m := range messages {
		nodes[m.EdgeID] = tracedNode{}
	}
	edges := make([]int64, 0, len(nodes))
	for id := range nodes {
		edges = append(edges, id)
	}
	rows, _ := db.Query(ctx, `
		select e.id, t.name as topology, v.number as version, e.to_node as node,
		       coalesce(n->>'kind', '') as kind, coalesce(n->>'worker', '') as worker, coalesce(n->>'application', '') as application
		from sluice.edge e
		join sluice.topology_version v on v.tenant_id = e.tenant_id and v.id = e.version_id
		join sluice.topology t on t.tenant_id = v.tenant_id and t.id = v.topology_id
		left join lateral (select n from jsonb_array_elements(v.graph->'nodes') n where n->>'name' = e.to_node limit 1) n on true
		where e.tenant_id = $1 and e.id = any($2)`, tenant, edges)
	found, err := pgx.CollectRows(rows, pgx.RowToStructByName[tracedNode])
	for _, n := range found {
		nodes[n.ID] = n
	}
	return nodes, err
}

// finish gives calls their badges.
func finish(ctx context.Context, db DB, tenant int64, calls []Call, next *Mark) ([]Call, *Mark, error) {
	var processes []uuid.UUID
	var numbers []int64
	var index []int
	for i, c := range calls {
		if c.Message != nil {
			processes, numbers, index = append(processes, c.Process.ID), append(numbers, c.Message.Number), append(index, i)
		}
	}
	if len(index) == 0 {
		return calls, next, nil
	}
	rows, _ := db.Query(ctx, deliveriesSQL, tenant, processes, numbers)
	var n int
	var d delivery
	_, err := pgx.ForEachRow(rows, []any{
		&n, &d.tries, &d.claims, &d.settled, &d.outcome, &d.status, &d.reason, &d.at, &d.verdict, &d.decidedAt, &d.class, &d.state, &d.claimed,
	}, func() error {
		c := &calls[index[n-1]]
		c.Badge, c.Tries, c.Status, c.Reason, c.EndedAt = d.badge(), d.tries, d.status, d.reason, d.at
		if d.decidedAt != nil {
			c.EndedAt = d.decidedAt
		}
		d = delivery{}
		return nil
	})
	return calls, next, err
}

// delivery is what is on record of a message.
type delivery struct {
	tries, claims int // attempts, and the number of the last of them
	settled       bool
	outcome       string // of the last attempt
	status        *int
	reason        string
	at            *time.Time
	verdict       string // that ended it
	decidedAt     *time.Time
	class         *string // of its entry in the trash; nil: there is none
	state         string  // of its job; empty: there is none
	claimed       int     // how often its job was
}

func (d delivery) badge() Badge {
	switch {
	case d.settled:
		return BadgeDelivered
	case d.verdict == "reject", d.class != nil && *d.class != string(ClassBreakpoint):
		return BadgeRefused
	case d.verdict != "":
		return BadgeEnded
	case d.state == "running":
		return BadgeRunning
	case d.outcome == "retried", d.outcome == "repeat", d.outcome == "unavailable":
		return BadgeRetried
	case d.state == "available" && d.claimed > d.claims:
		return BadgeUnknown
	}
	return BadgeWaiting
}

const deliveriesSQL = `
select w.n::int, a.tries, a.claims, coalesce(a.settled, false), coalesce(a.outcome, ''), a.status, coalesce(a.reason, ''), a.at,
       coalesce(d.verdict, ''), d.decided_at, r.class, coalesce(j.state::text, ''), coalesce(j.attempt, 0)::int
from unnest($2::uuid[], $3::bigint[]) with ordinality as w(process_id, id, n)
cross join lateral (
    select count(*)::int as tries, coalesce(max(attempt), 0)::int as claims, bool_or(outcome in ('done', 'filtered')) as settled, max(at) as at,
           (array_agg(outcome::text order by at desc, attempt desc, page desc))[1] as outcome,
           (array_agg(status order by at desc, attempt desc, page desc))[1] as status,
           (array_agg(reason order by at desc, attempt desc, page desc))[1] as reason
    from sluice.attempt
    where tenant_id = $1 and process_id = w.process_id and message_id = w.id
) a
left join lateral (
    select verdict, decided_at from sluice.decision
    where tenant_id = $1 and process_id = w.process_id and message_id = w.id and verdict in ('replace', 'reject', 'terminate') limit 1
) d on true
left join lateral (
    select coalesce(class, '') as class from sluice.trash where tenant_id = $1 and process_id = w.process_id and message_id = w.id limit 1
) r on true
left join lateral (
    -- In a lane a message has no job; neither has one that is held.
    select state, attempt from river.river_job where id = w.id and kind = 'message' limit 1
) j on true`
