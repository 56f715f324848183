package process

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Step is a message with all that was done with it, and when.
type Step struct {
	Message
	Kind        string // of its node
	Worker      string
	Application string
	Spans       []Span
	Attempts    []Attempt  // oldest first; the last stepAttempts of them
	Decisions   []Decision // oldest first
	EndedAt     *time.Time // when it was settled; nil: it is not
}

// Span is a time in which a message was at one place.
type Span struct {
	Kind    SpanKind
	From    time.Time
	To      *time.Time // nil: it still is
	Attempt int        // that was running, or that failed before a retry
}

// SpanKind is what a message did.
type SpanKind string

// The kinds of spans.
const (
	SpanWaiting SpanKind = "waiting" // until a runner took it
	SpanHeld    SpanKind = "held"    // until the limit of the application let it pass
	SpanRunning SpanKind = "running" // the worker was called
	SpanRetry   SpanKind = "retry"   // until the next attempt
	SpanTrash   SpanKind = "trash"   // until somebody decided
	SpanParked  SpanKind = "parked"  // at a breakpoint, until somebody decided
)

// stepAttempts bounds the attempts of a step, and its decisions.
const stepAttempts = 100

// Timeline lists the messages of a process in the order of their birth, from the one after the given number, each with what
// was done with it. What was recorded is told as it is; from when to when a message waited or ran follows from it: a call
// began so long before its record as it took.
func Timeline(ctx context.Context, db DB, tenant int64, process uuid.UUID, after int64, limit int) ([]Step, error) {
	messages, err := Messages(ctx, db, tenant, process, after, limit)
	if err != nil || len(messages) == 0 {
		return nil, err
	}
	steps, index, numbers := make([]Step, len(messages)), map[int64]int{}, make([]int64, len(messages))
	for i, m := range messages {
		steps[i].Message, index[m.ID.Number], numbers[i] = m, i, m.ID.Number
	}
	places := make([]placed, len(steps))
	rows, _ := db.Query(ctx, stepNodesSQL, tenant, process, numbers)
	var n int64
	var p placed
	if _, err := pgx.ForEachRow(rows, []any{&n, &p.kind, &p.worker, &p.application, &p.limited, &p.heldAt, &p.runningSince}, func() error {
		i := index[n]
		places[i] = p
		steps[i].Kind, steps[i].Worker, steps[i].Application = p.kind, p.worker, p.application
		return nil
	}); err != nil {
		return nil, err
	}
	rows, _ = db.Query(ctx, stepAttemptsSQL, tenant, process, numbers, stepAttempts)
	var a Attempt
	if _, err := pgx.ForEachRow(rows, []any{&n, &a.Number, &a.Page, &a.Outcome, &a.Status, &a.Duration, &a.At, &a.Reason, &a.Runner, &a.Response}, func() error {
		steps[index[n]].Attempts = append(steps[index[n]].Attempts, a)
		a = Attempt{}
		return nil
	}); err != nil {
		return nil, err
	}
	rows, _ = db.Query(ctx, stepDecisionsSQL, tenant, process, numbers, stepAttempts)
	var d Decision
	if _, err := pgx.ForEachRow(rows, []any{&n, &d.Verdict, &d.By, &d.At, &d.Reason, &d.Detail}, func() error {
		steps[index[n]].Decisions = append(steps[index[n]].Decisions, d)
		d = Decision{} // or the details of all would be those of all
		return nil
	}); err != nil {
		return nil, err
	}
	for i := range steps {
		steps[i].draw(places[i])
	}
	return steps, nil
}

const (
	stepNodesSQL = `
select m.id, coalesce(n->>'kind', ''), coalesce(n->>'worker', ''), coalesce(n->>'application', ''), l.id is not null, h.held_at,
       case when j.state = 'running' then j.attempted_at end
from unnest($3::bigint[]) as w(id)
join sluice.message m on m.tenant_id = $1 and m.process_id = $2 and m.id = w.id
join sluice.edge e on e.tenant_id = m.tenant_id and e.id = m.edge_id
join sluice.topology_version v on v.tenant_id = e.tenant_id and v.id = e.version_id
left join lateral (select n from jsonb_array_elements(v.graph->'nodes') n where n->>'name' = e.to_node limit 1) n on true
left join lateral (
    select l.id from sluice.limiter_limit l where l.tenant_id = m.tenant_id and l.application = n->>'application' and l.removed_at is null limit 1
) l on true
left join lateral (
    select h.held_at from sluice.limiter_hold h where h.tenant_id = m.tenant_id and h.process_id = m.process_id and h.job_id = m.id limit 1
) h on true
left join lateral (select j.state, j.attempted_at from river.river_job j where j.id = m.id limit 1) j on true`

	stepAttemptsSQL = `
select message_id, attempt, page, outcome::text, status, duration_us * interval '1 microsecond', at, coalesce(reason, ''), runner_id, response
from (
    select a.*, row_number() over (partition by message_id order by at desc, attempt desc, page desc) as back
    from sluice.attempt a where tenant_id = $1 and process_id = $2 and message_id = any($3)
) a
where back <= $4
order by message_id, at, attempt, page`

	stepDecisionsSQL = `
select message_id, verdict, decided_by, decided_at, reason, coalesce(detail, '{}')
from (
    select d.*, row_number() over (partition by message_id order by id desc) as back
    from sluice.decision d where tenant_id = $1 and process_id = $2 and message_id = any($3)
) d
where back <= $4
order by message_id, id`
)

// placed is what is known of a message's node, and where it is now.
type placed struct {
	kind, worker, application string
	limited                   bool // the application has a limit
	heldAt, runningSince      *time.Time
}

// draw tells from when to when the message was where.
func (s *Step) draw(p placed) {
	waits := SpanWaiting
	if p.limited { // before such a node every message is held, if only for a moment
		waits = SpanHeld
	}
	l := line{at: s.CreatedAt, kind: waits}
	decisions := s.Decisions
	for _, a := range s.Attempts {
		for len(decisions) > 0 && decisions[0].At.Before(a.At.Add(-a.Duration)) {
			l.decide(decisions[0], waits)
			decisions = decisions[1:]
		}
		if a.Outcome != "parked" {
			l.until(a.At.Add(-a.Duration))
			l.kind, l.attempt = SpanRunning, a.Number
		}
		l.until(a.At)
		l.over = false
		switch a.Outcome {
		case "done", "filtered":
			l.over = true
		case "failed":
			l.kind = SpanTrash
		case "parked":
			l.kind = SpanParked
		case "retried", "repeat":
			l.kind = SpanRetry
		default:
			l.kind, l.attempt = waits, 0
		}
	}
	for _, d := range decisions {
		l.decide(d, waits)
	}
	switch s.Place {
	case PlaceDone, PlaceFiltered, PlaceReplaced, PlaceRejected, PlaceTerminated, PlaceLost:
		s.Spans = l.spans
		if l.over {
			s.EndedAt = &l.at
		}
		return
	case PlaceRunning:
		if p.runningSince != nil {
			l.until(*p.runningSince)
		}
		l.kind, l.attempt = SpanRunning, 0
	case PlaceHeld:
		if p.heldAt != nil && l.kind != SpanHeld {
			l.until(*p.heldAt)
		}
		l.kind = SpanHeld
	case PlaceWaiting:
		l.kind, l.attempt = SpanWaiting, 0
	case PlaceRetrying:
		l.kind = SpanRetry
	case PlaceTrash:
		l.kind = SpanTrash
	case PlaceParked:
		l.kind = SpanParked
	}
	s.Spans = append(l.spans, Span{Kind: l.kind, From: l.at, Attempt: l.attempt})
}

// line is a line of spans while it is drawn.
type line struct {
	spans   []Span
	at      time.Time
	kind    SpanKind
	attempt int
	over    bool
}

// until ends what is going on.
func (l *line) until(at time.Time) {
	if !at.After(l.at) || l.over {
		return
	}
	l.spans = append(l.spans, Span{Kind: l.kind, From: l.at, To: &at, Attempt: l.attempt})
	l.at = at
}

func (l *line) decide(d Decision, waits SpanKind) {
	switch d.Verdict {
	case "approve":
		l.until(d.At)
		l.kind, l.attempt, l.over = waits, 0, false
	case "trash":
		l.until(d.At)
		l.kind = SpanTrash
	case "replace", "reject", "terminate":
		l.until(d.At)
		l.over = true
	}
}
