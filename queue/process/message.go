package process

import (
	"context"
	"math"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Place is where a message is. Every message is in one place at a time.
type Place string

// The places of a message.
const (
	PlaceWaiting    Place = "waiting"    // on its edge, until a runner takes it
	PlaceRunning    Place = "running"    // a runner calls the worker with it
	PlaceHeld       Place = "held"       // on its edge, until its application's limit lets it pass
	PlaceRetrying   Place = "retrying"   // on its edge, until the time of the next attempt
	PlaceTrash      Place = "trash"      // failed, until someone decides
	PlaceParked     Place = "parked"     // at a breakpoint, until someone decides
	PlaceDone       Place = "done"       // settled: the worker has taken it
	PlaceFiltered   Place = "filtered"   // settled: the worker let nothing go on
	PlaceReplaced   Place = "replaced"   // settled: an edited message goes on in its place
	PlaceRejected   Place = "rejected"   // settled: someone gave it up
	PlaceTerminated Place = "terminated" // settled: someone ended its process
	PlaceLost       Place = "lost"       // nowhere: must not be; the check of package queue names it
)

// Message is a datum on an edge, and where it is now.
type Message struct {
	ID         MessageID
	Parent     *MessageID // the message whose node made it; nil: it came with the event
	ReplacedBy *MessageID // the edited message that goes on in its place
	Topology   string
	Version    int
	From       string // the node that its edge leaves
	Node       string // the node that it is for
	Place      Place
	DueAt      *time.Time // when the next attempt is, of one that is retrying
	Tries      int        // attempts recorded so far; the pages of a batch count too
	Size       int64      // of the body
	CreatedAt  time.Time
}

// Detail is a message with what happened to it.
type Detail struct {
	Message
	Headers   map[string]string
	Attempts  []Attempt  // oldest first; the last attemptsShown of them
	Decisions []Decision // oldest first
}

// attemptsShown bounds the attempts in a Detail: a worker that is down for days leaves thousands.
const attemptsShown = 500

// Attempt is one try of a node at a message.
type Attempt struct {
	Number   int // from 1; one that found no worker counts too
	Page     int // of a batch, from 1; 0 at other nodes
	Outcome  string
	Status   *int          // HTTP status, where there was one
	Duration time.Duration // of the call
	At       time.Time
	Reason   string
	Runner   int64
	Response *Response // of the worker, where it did not take the message and answered
}

// Response is what a worker answered: headers without secrets, and the start of the body.
type Response struct {
	Headers map[string]string `json:"headers"`
	Body    []byte            `json:"body"`
	Cut     bool              `json:"cut"` // there was more of the body
}

// Decision is what someone decided about a message.
type Decision struct {
	Verdict string // approve, edit, replace, reject, terminate, trash, assign, comment
	By      string
	At      time.Time
	Reason  string
	Detail  map[string]any // what was changed
}

// Messages lists the messages of a process in the order of their birth, from the one after the given number. A process
// that does not exist has none.
func Messages(ctx context.Context, db DB, tenant int64, process uuid.UUID, after int64, limit int) ([]Message, error) {
	rows, _ := db.Query(ctx, messagesSQL, tenant, process, after, int64(math.MaxInt64), limit)
	return pgx.CollectRows(rows, toMessage)
}

// FindMessage returns a message with what happened to it, or [ErrNotFound].
func FindMessage(ctx context.Context, db DB, tenant int64, id MessageID) (d Detail, err error) {
	rows, _ := db.Query(ctx, messagesSQL, tenant, id.Process, id.Number-1, id.Number, 1)
	if d.Message, err = pgx.CollectExactlyOneRow(rows, toMessage); err != nil {
		return Detail{}, found(err)
	}
	if d.Headers, err = Headers(ctx, db, tenant, id); err != nil {
		return Detail{}, err
	}
	if d.Attempts, err = Attempts(ctx, db, tenant, id); err != nil {
		return Detail{}, err
	}
	d.Decisions, err = Decisions(ctx, db, tenant, id)
	return d, err
}

// Attempts returns the last attempts at a message, oldest first.
func Attempts(ctx context.Context, db DB, tenant int64, id MessageID) ([]Attempt, error) {
	rows, _ := db.Query(ctx, `
		select * from (
			select attempt as number, page, outcome::text as outcome, status, duration_us * interval '1 microsecond' as duration,
			       at, coalesce(reason, '') as reason, runner_id as runner, response
			from sluice.attempt
			where tenant_id = $1 and process_id = $2 and message_id = $3
			order by at desc, attempt desc, page desc limit $4) a
		order by at, number, page`, tenant, id.Process, id.Number, attemptsShown)
	return pgx.CollectRows(rows, pgx.RowToStructByName[Attempt])
}

// Decisions returns what people decided about a message, oldest first.
func Decisions(ctx context.Context, db DB, tenant int64, id MessageID) ([]Decision, error) {
	rows, _ := db.Query(ctx, `
		select verdict, decided_by as by, decided_at as at, reason, coalesce(detail, '{}') as detail from sluice.decision
		where tenant_id = $1 and process_id = $2 and message_id = $3 order by id`, tenant, id.Process, id.Number)
	return pgx.CollectRows(rows, pgx.RowToStructByName[Decision])
}

// Headers returns the headers of a message, or [ErrNotFound].
func Headers(ctx context.Context, db DB, tenant int64, id MessageID) (headers map[string]string, err error) {
	err = db.QueryRow(ctx, `
		select headers from sluice.message where tenant_id = $1 and process_id = $2 and id = $3`,
		tenant, id.Process, id.Number).Scan(&headers)
	return headers, found(err)
}

// Body returns the exact bytes of a message, or [ErrNotFound].
func Body(ctx context.Context, db DB, tenant int64, id MessageID) ([]byte, error) {
	var body []byte
	err := db.QueryRow(ctx, `
		select coalesce(m.body, p.body, '') from sluice.message m
		left join sluice.message p on p.tenant_id = m.tenant_id and p.process_id = m.process_id and p.id = m.payload_id
		where m.tenant_id = $1 and m.process_id = $2 and m.id = $3`, tenant, id.Process, id.Number).Scan(&body)
	return body, found(err)
}

// messagesSQL finds out where messages are: by the job of the same number, the lane, the entry in the trash, the decision that
// settled it, or its last attempt. All of it is one statement, so one snapshot. The limits in the laterals keep each a
// probe by key, whatever the planner thinks of the tables: above all river_job is never read through.
const messagesSQL = `
select m.process_id, m.id, m.parent_id, d.replaced_by, t.name as topology, v.number as version, e.from_node as from, e.to_node as node,
       case when j.state = 'running' then 'running'
            when j.state in ('retryable', 'scheduled') then 'retrying'
            when h.job_id is not null then 'held'
            when j.state is not null or w.place is not null then 'waiting'
            when r.class = 'breakpoint' then 'parked'
            when r.message_id is not null then 'trash'
            when d.verdict = 'replace' then 'replaced'
            when d.verdict = 'reject' then 'rejected'
            when d.verdict = 'terminate' then 'terminated'
            else coalesce(a.settled, 'lost') end as place,
       case when j.state in ('retryable', 'scheduled') then j.scheduled_at end as due_at,
       a.tries, coalesce(octet_length(m.body), octet_length(p.body), 0)::bigint as size, m.created_at
from (
    select * from sluice.message
    where tenant_id = $1 and process_id = $2 and id > $3 and id <= $4
    order by id limit $5
) m
join sluice.edge e on e.tenant_id = m.tenant_id and e.id = m.edge_id
join sluice.topology_version v on v.tenant_id = e.tenant_id and v.id = e.version_id
join sluice.topology t on t.tenant_id = v.tenant_id and t.id = v.topology_id
left join lateral (
    select p.body from sluice.message p
    where p.tenant_id = m.tenant_id and p.process_id = m.process_id and p.id = m.payload_id
    limit 1
) p on true
left join lateral (
    -- Before a node that keeps order it waits in a lane instead, and the lane's token stands for the one at the head.
    select w.place, case when not exists (
               select from sluice.lane_message f
               where f.tenant_id = w.tenant_id and f.edge_id = w.edge_id and f.key = w.key and f.place < w.place
           ) then l.token end as token
    from sluice.lane_message w
    join sluice.lane l on l.tenant_id = w.tenant_id and l.edge_id = w.edge_id and l.key = w.key
    where w.tenant_id = m.tenant_id and w.process_id = m.process_id and w.message_id = m.id
    limit 1
) w on true
left join lateral (
    select j.state, j.scheduled_at from river.river_job j where j.id = coalesce(w.token, case when w.place is null then m.id end) limit 1
) j on true
left join lateral (
    select h.job_id from sluice.limiter_hold h
    where h.tenant_id = m.tenant_id and h.process_id = m.process_id and h.job_id = m.id
    limit 1
) h on true
left join lateral (
    select r.message_id, r.class from sluice.trash r
    where r.tenant_id = m.tenant_id and r.process_id = m.process_id and r.message_id = m.id
    limit 1
) r on true
left join lateral (
    select d.verdict, d.replaced_by from sluice.decision d
    where d.tenant_id = m.tenant_id and d.process_id = m.process_id and d.message_id = m.id
    and d.verdict in ('replace', 'reject', 'terminate')
    limit 1
) d on true
cross join lateral (
    select count(*)::int as tries, min(a.outcome) filter (where a.outcome in ('done', 'filtered'))::text as settled
    from sluice.attempt a
    where a.tenant_id = m.tenant_id and a.process_id = m.process_id and a.message_id = m.id
) a
order by m.id`

// messageRow is a row of messagesSQL.
type messageRow struct {
	ProcessID  uuid.UUID
	ID         int64
	ParentID   *int64
	ReplacedBy *int64
	Topology   string
	Version    int
	From       string
	Node       string
	Place      Place
	DueAt      *time.Time
	Tries      int
	Size       int64
	CreatedAt  time.Time
}

func toMessage(row pgx.CollectableRow) (Message, error) {
	r, err := pgx.RowToStructByName[messageRow](row)
	return Message{
		ID:         MessageID{Process: r.ProcessID, Number: r.ID},
		Parent:     sibling(r.ProcessID, r.ParentID),
		ReplacedBy: sibling(r.ProcessID, r.ReplacedBy),
		Topology:   r.Topology,
		Version:    r.Version,
		From:       r.From,
		Node:       r.Node,
		Place:      r.Place,
		DueAt:      r.DueAt,
		Tries:      r.Tries,
		Size:       r.Size,
		CreatedAt:  r.CreatedAt,
	}, err
}

// sibling is the public id of another message of the process.
func sibling(process uuid.UUID, number *int64) *MessageID {
	if number == nil {
		return nil
	}
	return &MessageID{Process: process, Number: *number}
}
