package queue

// This file has every statement that touches River's tables. An edge is a River queue, and a message on it is a row of
// river_job in River's own format, so that River's UI, client and maintenance work on them; a test compares our rows
// with those of River's own insert. The rest of the package never names river_job: the statements of check.go read it
// through edgeJobs. (Package queue/process looks up by its number the job of a message that it shows.)
//
// Three facts shape the statements:
//   - A statement has one snapshot. What must be read after waiting for a lock is read in a later statement.
//   - A claim is a job in state running, with the attempt and the runner that claimed it. Whoever commits for a job
//     names all three; a runner that lost its claim finds no row, writes nothing, and does not disturb its neighbours.
//   - Locks are taken in one order everywhere: river_job by id, then process by id, then the rest.
//
// A job's max_attempts is 32767, the most that the column takes, which tells River that a message's fate is not its to
// decide.

import "strconv"

// jobKind is the kind of the jobs that carry messages.
const jobKind = "message"

// queueName is the River queue of an edge.
func queueName(edge int64) string { return "e" + strconv.FormatInt(edge, 10) }

// edgeOfQueue is the inverse of queueName.
func edgeOfQueue(queue string) (int64, bool) {
	if len(queue) < 2 || queue[0] != 'e' {
		return 0, false
	}
	id, err := strconv.ParseInt(queue[1:], 10, 64)
	return id, err == nil && id > 0
}

// addCounts ends the statements that count what came onto edges and what left them. Rows are taken in the order of their
// key, after all others: two transactions that count in the same slot wait, and do not deadlock.
const addCounts = `on conflict (tenant_id, edge_id, slot) do update set
        arrived = c.arrived + excluded.arrived, departed = c.departed + excluded.departed, bytes = c.bytes + excluded.bytes`

// sizeOf joins the size of a message's body as s.size.
func sizeOf(tenant, process, id string) string {
	return `cross join lateral (
        select coalesce(octet_length(coalesce(m.body, (
            select p.body from sluice.message p where p.tenant_id = m.tenant_id and p.process_id = m.process_id and p.id = m.payload_id
        ))), 0) as size
        from sluice.message m where m.tenant_id = ` + tenant + ` and m.process_id = ` + process + ` and m.id = ` + id + `
    ) s`
}

// noSlot is the slot in which is counted what is not done by the loops of an engine.
const noSlot = -1

// acceptSQL takes events in: ledger, process, messages and jobs. Legs are the edges that leave an event's start node;
// the first leg's message has the body, the others refer to it.
//
// Bodies come as one long argument, of which each is cut out where it is stored: carried along, it would be copied once a
// step, and large ones on disk; and of an array, Postgres finds an element by walking over all that are before it.
//
// It returns the ordinals of the events that are new. One that is missing was refused by the ledger: its key was used
// before. Keys are inserted in order, so that two flushes with the same keys wait for each other and do not deadlock.
var acceptSQL = acceptStored("", "") + `
select ordinal from fresh`

// acceptStored says of each leg in what state its job is born; one in state lane comes to a lane and is no job, and one in
// state held is held by the limiter. More columns of legs come as arrays with names.
func acceptStored(arrays, names string) string {
	return `
with event as materialized (
    select e.*, e.n - 1 as ordinal
    from unnest($1::int[], $2::bigint[], $3::uuid[], $4::bigint[], $5::text[], $6::bytea[], $7::bytea[], $8::int[], $9::text[], $10::int[])
        with ordinality as e(body_at, tenant_id, process_id, version_id, node, digest, body_digest, legs, headers, size, n)
), ledger as (
    insert into sluice.idempotency_key (tenant_id, digest, body_digest, process_id)
    select tenant_id, digest, body_digest, process_id from event where digest is not null order by tenant_id, digest
    on conflict do nothing
    returning process_id
), fresh as materialized (
    select * from event where digest is null or process_id in (select process_id from ledger)
), leg as materialized (
    select l.*, f.tenant_id, f.process_id, f.headers, f.body_at, f.size
    from unnest($11::int[], $12::bigint[], $13::bigint[], $14::bigint[], $15::text[]` + arrays + `)
        with ordinality as l(ordinal, id, payload_id, edge_id, state` + names + `, n)
    join fresh f using (ordinal)
), new_process as (
    insert into sluice.process (tenant_id, id, version_id, node, total, open)
    select tenant_id, process_id, version_id, node, legs, legs from fresh
), new_message as (
    insert into sluice.message (tenant_id, process_id, id, edge_id, payload_id, headers, body)
    select tenant_id, process_id, id, edge_id, nullif(payload_id, 0), headers::jsonb,
           case when payload_id = 0 then substr($18::bytea, body_at, size) end
    from leg
), new_job as (
    insert into river.river_job (id, state, attempt, attempted_at, attempted_by, args, kind, max_attempts, queue)
    select id, state::river.river_job_state, (state = 'running')::int,
           case when state = 'running' then now() end, case when state = 'running' then array[$16::text] end,
           jsonb_build_object('process_id', process_id), 'message', 32767, 'e' || edge_id
    from leg where state in ('available', 'running')
), counted as (
    insert into sluice.edge_count as c (tenant_id, edge_id, slot, arrived, departed, bytes)
    select tenant_id, edge_id, $17::smallint, count(*), 0, sum(size) from leg
    group by tenant_id, edge_id order by tenant_id, edge_id
    ` + addCounts + `
)`
}

// processOfJob is the process that a job names. Anyone may put a job on an edge with River's client, with any arguments: a
// plain cast would let one odd job stop all edges.
const processOfJob = `case when j.args->>'process_id' ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then (j.args->>'process_id')::uuid end`

// edgeOfJob is the edge whose queue a job is in, or null.
const edgeOfJob = `case when j.queue ~ '^e[0-9]{1,18}$' then substr(j.queue, 2)::bigint end`

// edgeJobs is a query for the jobs on edges, from one end of the table to the other, each with its edge's tenant.
// process_id is null for those that are no message's.
const edgeJobs = `
    select e.tenant_id, e.id as edge_id, j.id, j.state::text as state, j.attempted_by[array_upper(j.attempted_by, 1)] as claimant,
           case when j.kind = 'message' then ` + processOfJob + ` end as process_id
    from river.river_job j
    join sluice.edge e on 'e' || e.id = j.queue
    where j.state <> 'completed' and j.kind <> 'lane'
    union all
    select w.tenant_id, w.via_id, w.message_id,
           case when w.place = (select min(f.place) from sluice.lane_message f
                                where f.tenant_id = w.tenant_id and f.edge_id = w.edge_id and f.key = w.key)
                then t.state::text else 'available' end,
           t.attempted_by[array_upper(t.attempted_by, 1)], w.process_id
    from sluice.lane_message w
    left join sluice.lane l on l.tenant_id = w.tenant_id and l.edge_id = w.edge_id and l.key = w.key
    left join river.river_job t on t.id = l.token and t.kind = 'lane'
    union all
    select tenant_id, edge_id, job_id, 'held', null, process_id from sluice.limiter_hold where process_id is not null`

// claimSQL claims up to n messages from each of the given queues for a runner, and returns them with their payloads, but
// for large ones: see fill; of a token, its lane. It must be planned with index scans: see openFetcher.
var claimSQL = `
with wanted as (
    select * from unnest($1::text[], $2::bigint[], $3::int[]) as w(queue, tenant_id, n)` + claimWanted + `w.n` + claimTaken

// claimLimitedSQL is claimSQL for nodes that limit how many calls are made at once by all runners together. What the
// other runners have claimed is counted, so it cannot drift, and a crash is mended by the take-over. $5 are the queues
// of all edges that lead to the node, with commas between, and $6 is its limit. The edge by which nodes are told apart
// is locked by lockNodesSQL, a statement before in the same transaction: only so the count is true. A node may be there
// once.
var (
	lockNodesSQL    = `select id from sluice.edge where id = any($1::bigint[]) order by id for no key update`
	claimLimitedSQL = `
with wanted as (
    select * from unnest($1::text[], $2::bigint[], $3::int[], $5::text[], $6::int[]) as w(queue, tenant_id, n, queues, most)` + claimWanted + `(
            select greatest(least(w.n, w.most - count(*)), 0) from river.river_job r
            where r.state = 'running' and r.queue = any(string_to_array(w.queues, ','))
        )` + claimTaken
)

var (
	claimWanted = `
), picked as (
    select j.id, w.tenant_id
    from wanted w
    cross join lateral (
        select id from river.river_job
        where state = 'available' and queue = w.queue and scheduled_at <= now()
        order by priority, scheduled_at, id
        limit `
	claimTaken = `
        for update skip locked
    ) j
), claimed as (
    update river.river_job j
    set state = 'running', attempt = least(j.attempt + 1, 32767), attempted_at = now(), attempted_by = array[$4::text]
    from picked
    where j.id = picked.id
    returning j.id, j.queue, j.attempt, picked.tenant_id, ` + processOfJob + ` as process_id,
              case when j.kind = 'lane' and j.args->>'edge' ~ '^[0-9]{1,18}$' then (j.args->>'edge')::bigint end as lane_edge,
              case when j.kind = 'lane' then j.args->>'key' end as lane_key,
              (j.metadata @> '{"approved": true}') is true as approved,
              case when j.metadata->>'failures' ~ '^[0-9]{1,6}$' then (j.metadata->>'failures')::int else 0 end as failures
)
select ` + claimedContent
)

// claimedContent reads what claimed jobs carry.
var claimedContent = `c.id, c.queue, c.attempt, c.process_id, c.failures, c.approved, c.lane_key,
       c.lane_key is not null and exists (
           select from sluice.lane l
           where l.tenant_id = c.tenant_id and l.edge_id = c.lane_edge and l.key = c.lane_key and l.token = c.id) as token,
       m.headers::text as headers, coalesce(m.payload_id, m.id) as payload_id,
       case when octet_length(b.body) <= ` + maxClaimedBody + ` then b.body end as body, coalesce(octet_length(b.body), 0) as size,
       coalesce(k.page, 0) as page, coalesce(k.cursor, '') as cursor
from claimed c
left join sluice.message m on m.tenant_id = c.tenant_id and m.process_id = c.process_id and m.id = c.id
left join sluice.batch_cursor k on k.tenant_id = c.tenant_id and k.process_id = c.process_id and k.message_id = c.id
left join lateral (
    -- Joined, the payload could be planned to be found by reading all messages of the process for each.
    select coalesce(m.body, (
        select p.body from sluice.message p where p.tenant_id = c.tenant_id and p.process_id = c.process_id and p.id = m.payload_id
    )) as body
    offset 0
) b on true
order by c.id`

// maxClaimedBody is smallBody.
var maxClaimedBody = strconv.Itoa(smallBody)

// loadSQL reads the body of a message; of one that is a job and not in a lane, if the claim still stands.
const loadSQL = `
select coalesce(m.body, (
    select p.body from sluice.message p where p.tenant_id = m.tenant_id and p.process_id = m.process_id and p.id = m.payload_id
))
from sluice.message m
where m.tenant_id = $1 and m.process_id = $2 and m.id = $3
and ($6 or exists (
    select from river.river_job j
    where j.id = m.id and j.state = 'running' and j.attempt = $4 and j.attempted_by[array_upper(j.attempted_by, 1)] = $5::text))`

// handOffSQL is the heart: it completes many messages at their nodes and puts their successors on the next edges, in
// one statement. done is what was really handed off, and everything else is written for those only. Results are told
// apart by their place in the batch, not by their message: a runner that lost its claim on a message and has claimed it
// again may bring both results at once.
//
// It relies on being planned with index scans of river_job and process (see [Open]): the planner, who guesses ten items,
// would otherwise read a table that was small when the plan was made. The state of a claim is written so that no index
// can use it: once the table has been analysed while nothing ran, the planner would walk all that runs for each item
// (measured beside a backlog of 200,000: a tenth of the rate).
//
// The job of a settled or failed message goes; that of one that stays (retried, unavailable, repeat, page) is put back,
// or kept by the runner for the next page. A page leaves the claim as it is, so its job says which page is next: sent
// twice, the statement finds the job changed. A successor is born available, or claimed by the runner that made it.
//
// handOffDoneSQL is the same for results that are all successes of single calls, with nothing to say: most batches are.
// What a statement could do costs as much as what it does when it is started for few.
const (
	handOffSQL = handOffItems + bornArraysSQL + bornNamesSQL + `, n)` + handOffWritten + `
select n from done`
	handOffDoneSQL = itemArraysSQL + itemNamesSQL + `, n)` + handOffGone + `
), done as materialized (
    select i.*, 0 as page, '' as reason, '' as response from item i join gone using (n)` +
		bornArraysSQL + bornNamesSQL + `, n)` + handOffBorn + handOffCounted + `
select n from done`
)

const handOffItems = itemArraysSQL + itemMoreSQL + itemNamesSQL + itemMoreNamesSQL + `, n)` + handOffGone + handOffKept + `
), done as materialized (
    select i.*, null::text as lane_key from item i join (select n from gone union all select n from kept) d using (n)`

// The arguments of a hand-off, a row each. What belongs to lanes comes as further columns of the same rows, never as rows of
// its own: the planner, who guesses ten, would compare each with each.
const (
	itemArraysSQL = `
with item as materialized (
    select * from unnest($1::bigint[], $2::smallint[], $3::text[], $4::bigint[], $5::uuid[], $6::bigint[], $7::text[],
                         $8::int[], $9::int[], $10::int[], $11::int[]`
	itemMoreSQL  = `, $25::text[], $26::int[], $27::bigint[], $28::int[], $29::text[], $30::text[], $31::bigint[], $32::text[]`
	itemNamesSQL = `) with ordinality
        as i(id, attempt, runner, tenant_id, process_id, edge_id, outcome, status, duration_us, made, size`
	itemMoreNamesSQL = `, reason, page, delay_us, failures, cursor, class, cause, response`
	bornArraysSQL    = `
), born as materialized (
    select b.*, d.tenant_id, d.process_id, d.id as parent_id
    from unnest($12::bigint[], $13::bigint[], $14::bigint[], $15::bigint[], $16::text[], $17::text[], $18::int[], $19::int[]`
	bornNamesSQL = `) with ordinality
        as b(parent, id, edge_id, payload_id, state, headers, body_at, size`
)

// handOffGone and handOffKept take messages off their edges or put them back, and handOffWritten writes what has become of
// those that were taken. Of a birth it is said in what state its job is; one in state lane comes to a lane and is no job.
const (
	handOffGone = `
), gone as (
    delete from river.river_job j using item i
    where j.id = i.id and i.outcome in ('done', 'filtered', 'failed', 'parked')
    and (j.state = 'running') is true and j.attempt = i.attempt and j.attempted_by[array_upper(j.attempted_by, 1)] = i.runner
    returning i.n`
	handOffKept = `
), kept as (
    update river.river_job j
    set state = (case i.outcome when 'page' then 'running' when 'unavailable' then 'available'
                                when 'repeat' then 'scheduled' else 'retryable' end)::river.river_job_state,
        attempted_at = case i.outcome when 'page' then now() else j.attempted_at end,
        scheduled_at = case when i.outcome in ('repeat', 'retried') then now() + i.delay_us * interval '1 microsecond'
                            else j.scheduled_at end,
        metadata = (j.metadata - 'failures' - 'page') || jsonb_strip_nulls(jsonb_build_object(
            'failures', nullif(i.failures, 0),
            'page', nullif(greatest(i.page, 1) + (i.outcome = 'page')::int, 1)))
    from item i
    where j.id = i.id and i.outcome in ('page', 'unavailable', 'repeat', 'retried')
    and (j.state = 'running') is true and j.attempt = i.attempt and j.attempted_by[array_upper(j.attempted_by, 1)] = i.runner
    and coalesce((j.metadata->>'page')::int, 1) = greatest(i.page, 1)
    returning i.n`
	handOffWritten = handOffBorn + handOffUnusual + handOffCounted
	handOffBorn    = `
    join done d on d.n = b.parent
), new_message as (
    insert into sluice.message (tenant_id, process_id, id, edge_id, parent_id, payload_id, headers, body)
    select tenant_id, process_id, id, edge_id, parent_id, nullif(payload_id, 0), headers::jsonb,
           case when payload_id = 0 then substr($24::bytea, body_at, size) end -- see acceptSQL
    from born
), new_job as (
    insert into river.river_job (id, state, attempt, attempted_at, attempted_by, args, kind, max_attempts, queue)
    select id, state::river.river_job_state, (state = 'running')::int,
           case when state = 'running' then now() end, case when state = 'running' then array[$20::text] end,
           jsonb_build_object('process_id', process_id), 'message', 32767, 'e' || edge_id
    from born where state in ('available', 'running')
), new_attempt as (
    insert into sluice.attempt (tenant_id, process_id, message_id, edge_id, runner_id, attempt, page, outcome, status, duration_us, reason, response)
    select tenant_id, process_id, id, edge_id, runner::bigint, attempt, page, outcome::sluice.outcome,
           nullif(status, 0), duration_us, nullif(reason, ''),
           nullif(response, '')::jsonb
    from done`
	handOffUnusual = `
), new_trash as (
    insert into sluice.trash (tenant_id, process_id, message_id, edge_id, attempt, reason, class, cause, lane_key, due_at)
    select tenant_id, process_id, id, edge_id, attempt, reason, class, cause, lane_key,
           case when outcome = 'parked' and delay_us > 0 then now() + delay_us * interval '1 microsecond' end
    from done where outcome in ('failed', 'parked')
), new_cursor as (
    insert into sluice.batch_cursor (tenant_id, process_id, message_id, page, cursor)
    select tenant_id, process_id, id, greatest(page, 1) + (outcome = 'page')::int, cursor
    from done where outcome = 'page' or outcome = 'repeat' and cursor <> ''
    on conflict (tenant_id, process_id, message_id) do update set page = excluded.page, cursor = excluded.cursor
), old_cursor as (
    delete from sluice.batch_cursor c using done d
    where (d.page > 1 and d.outcome in ('done', 'filtered') or d.page <= 1 and d.cursor <> '' and d.outcome in ('done', 'filtered', 'failed'))
    and c.tenant_id = d.tenant_id and c.process_id = d.process_id and c.message_id = d.id`
	handOffCounted = `
), delta as materialized (
    select tenant_id, process_id, sum(made)::int as made,
           (count(*) filter (where outcome in ('done', 'filtered')))::int as settled,
           (count(*) filter (where outcome in ('failed', 'parked')))::int as failed
    from done
    group by tenant_id, process_id
    having sum(made) > 0 or count(*) filter (where outcome in ('done', 'filtered', 'failed', 'parked')) > 0
    order by tenant_id, process_id
), counted as (
    update sluice.process p
    set total = p.total + d.made,
        open = p.open + d.made - d.settled - d.failed,
        done = p.done + d.settled,
        trashed = p.trashed + d.failed,
        finished_at = case when p.open + d.made - d.settled - d.failed = 0 and p.trashed + d.failed = 0 then now() end
    from delta d
    where p.tenant_id = d.tenant_id and p.id = d.process_id
    and p.id between $22::uuid and $23::uuid -- of all: the partitions of other days are left out when the statement starts
), moved as (
    select tenant_id, edge_id, 1 as arrived, 0 as departed, size as bytes from born
    union all
    select tenant_id, edge_id, 0, 1, -size from done where outcome in ('done', 'filtered', 'failed', 'parked')
), counted_edges as (
    insert into sluice.edge_count as c (tenant_id, edge_id, slot, arrived, departed, bytes)
    select tenant_id, edge_id, $21::smallint, sum(arrived), sum(departed), sum(bytes) from moved
    group by tenant_id, edge_id order by tenant_id, edge_id
    ` + addCounts + `
)`
)

// takeIDsSQL takes ids for jobs, and so for messages, from River's sequence.
const takeIDsSQL = `select array_agg(nextval('river.river_job_id_seq')) from generate_series(1, $1::int)`

// takeOverSQL makes the jobs of runners whose lease is over available to everyone. The scan is bounded by what is in
// flight, not by what waits. A claimant that is a number is a runner; River's own clients have other names.
const takeOverSQL = `
with orphan as (
    select j.id from river.river_job j
    where j.state = 'running' and j.attempted_by[array_upper(j.attempted_by, 1)] ~ '^[0-9]+$'
    and not exists (
        select from sluice.runner r
        where r.id::text = j.attempted_by[array_upper(j.attempted_by, 1)] and r.lease_until > clock_timestamp())
    order by j.id
    limit 5000
    for update skip locked
), freed as (
    update river.river_job j set state = 'available' from orphan where j.id = orphan.id returning j.queue
)
select queue, count(*) from freed group by queue`

// claimsOfSQL lists the jobs that a runner has claimed, and under which attempt.
const claimsOfSQL = `
select id, attempt from river.river_job
where state = 'running' and attempted_by[array_upper(attempted_by, 1)] = $1::text`

// releaseSQL gives claimed jobs back: those in $2 under the attempts in $3, or all of the runner's when $2 is null. The same
// runner may have claimed a job anew before a statement that was thought lost arrives: that claim is another.
const releaseSQL = `
with mine as (
    select id from river.river_job
    where state = 'running' and attempted_by[array_upper(attempted_by, 1)] = $1::text
    and ($2::bigint[] is null or (id, attempt) in (select * from unnest($2::bigint[], $3::smallint[])))
    order by id
    for update
), freed as (
    update river.river_job j set state = 'available' from mine where j.id = mine.id returning j.queue
)
select queue, count(*) from freed group by queue`

// alarmSQL makes the retries that are due available, and alarmNextSQL says how many microseconds from now the next is.
const (
	alarmSQL = `
with due as (
    select id from river.river_job
    where state in ('retryable', 'scheduled') and scheduled_at <= now() and kind in ('message', 'lane')
    order by scheduled_at
    limit 5000
    for update skip locked
), rung as (
    update river.river_job j set state = 'available' from due where j.id = due.id returning j.queue
)
select distinct queue from rung`
	alarmNextSQL = `
select (extract(epoch from min(scheduled_at) - now()) * 1e6)::bigint
from river.river_job where state in ('retryable', 'scheduled') and scheduled_at > now()`
)

// sweepSQL lists the queues that have available jobs by stepping from queue to queue through River's fetching index:
// one probe a queue, however many jobs wait.
const sweepSQL = `
with recursive awake as (
    (select queue from river.river_job where state = 'available' order by queue limit 1)
    union all
    select (select j.queue from river.river_job j where j.state = 'available' and j.queue > awake.queue order by j.queue limit 1)
    from awake where awake.queue is not null
)
select queue from awake where queue is not null`

// pausedSQL lists the queues that someone paused through River.
const pausedSQL = `select name from river.river_queue where paused_at is not null`

// registerQueuesSQL makes the queues of a version's edges known to River, so that its client and UI can list and pause
// them. River forgets queues that nobody reports for a day, so housekeeping says it again.
const registerQueuesSQL = `
insert into river.river_queue (name, updated_at)
select 'e' || id, now() from unnest($1::bigint[]) as id order by id
on conflict (name) do update set updated_at = excluded.updated_at`

// cancelledReason is the reason of cancelledSQL, and its own cause.
const cancelledReason = "its job was cancelled through River"

// cancelledSQL moves the messages whose jobs someone cancelled or discarded through River to the trash: River would
// delete the jobs after a day, and with them the only ticket.
var cancelledSQL = `
with gone as (
    delete from river.river_job
    where id in (
        select j.id from river.river_job j
        join sluice.edge e on e.id = ` + edgeOfJob + `
        join sluice.message m on m.tenant_id = e.tenant_id and m.process_id = ` + processOfJob + ` and m.id = j.id
        where j.state in ('cancelled', 'discarded') and j.finalized_at is not null and j.kind = 'message'
        order by j.id limit 1000 for update of j skip locked)
    returning id, queue, attempt, (args->>'process_id')::uuid as process_id
), ticket as materialized (
    select e.tenant_id, g.process_id, g.id, e.id as edge_id, g.attempt
    from gone g join sluice.edge e on e.id = substr(g.queue, 2)::bigint
), new_trash as (
    insert into sluice.trash (tenant_id, process_id, message_id, edge_id, attempt, reason, class, cause)
    select tenant_id, process_id, id, edge_id, attempt, $2, $3, $4 from ticket
), delta as materialized (
    select tenant_id, process_id, count(*)::int as n from ticket group by tenant_id, process_id
), locked as materialized (
    select p.id from sluice.process p join delta d on d.tenant_id = p.tenant_id and d.process_id = p.id order by p.id for update of p
), counted_edges as (
    insert into sluice.edge_count as c (tenant_id, edge_id, slot, arrived, departed, bytes)
    select t.tenant_id, t.edge_id, $1::smallint, 0, count(*), -sum(s.size)
    from ticket t ` + sizeOf("t.tenant_id", "t.process_id", "t.id") + `
    group by t.tenant_id, t.edge_id order by t.tenant_id, t.edge_id
    ` + addCounts + `
)
update sluice.process p set open = p.open - d.n, trashed = p.trashed + d.n
from delta d where p.tenant_id = d.tenant_id and p.id = d.process_id and (select count(*) from locked) >= 0`

// resendSQL gives messages of the trash their jobs back: the same message at the same node, attempts counted on. One
// with an edit is replaced: a new message, child of the failed one, goes on with the edited content and with a key of
// its own, because a third party that saw the first content under the old key would refuse another. So is one that goes on
// at another edge, that of another version: a message's row says on which edge it is, and never changes. Of a message
// before a node that keeps order, the lane is given, which is locked: it goes to the end of it. entriesSQL tells before
// what the lanes are told by. Of a message that a breakpoint has parked, the job says that it is approved.
const entriesSQL = `
select t.process_id, t.message_id, coalesce(nullif(w.onto, 0), t.edge_id) as edge_id, t.lane_key,
       w.onto not in (0, t.edge_id) as moved, t.edit_id is not null as edited, coalesce(d.headers, '{}') as headers, d.body
from unnest($2::uuid[], $3::bigint[], $4::bigint[]) as w(process_id, message_id, onto)
join sluice.trash t on t.tenant_id = $1 and t.process_id = w.process_id and t.message_id = w.message_id
left join sluice.decision d on d.tenant_id = t.tenant_id and d.id = t.edit_id`

var resendSQL = `
with entry as materialized (
    delete from sluice.trash t
    using unnest($2::uuid[], $3::bigint[], $4::bigint[], $8::bigint[], $9::text[], $10::bigint[]) with ordinality
        as w(process_id, message_id, new_id, lane, key, onto, n)
    where t.tenant_id = $1 and t.process_id = w.process_id and t.message_id = w.message_id
    returning t.tenant_id, t.process_id, t.message_id, t.attempt, t.edit_id, w.new_id, w.lane, w.key, w.n, t.class = 'breakpoint' as parked,
              coalesce(nullif(w.onto, 0), t.edge_id) as edge_id, w.onto not in (0, t.edge_id) as moved,
              t.edit_id is not null or w.onto not in (0, t.edge_id) as anew
), replacement as materialized (
    select e.*, coalesce(d.headers, m.headers) as headers, d.body,
           case when e.edit_id is null then coalesce(m.payload_id, e.message_id) end as payload_id
    from entry e
    cross join lateral (
        select m.headers, m.payload_id from sluice.message m
        where m.tenant_id = e.tenant_id and m.process_id = e.process_id and m.id = e.message_id limit 1
    ) m
    left join sluice.decision d on d.tenant_id = e.tenant_id and d.id = e.edit_id
    where e.anew
), new_message as (
    insert into sluice.message (tenant_id, process_id, id, edge_id, parent_id, payload_id, headers, body)
    select tenant_id, process_id, new_id, edge_id, message_id, payload_id, headers, body from replacement
), new_job as (
    insert into river.river_job (id, state, attempt, args, kind, max_attempts, metadata, queue)
    select case when anew then new_id else message_id end, 'available',
           case when anew then 0 else least(attempt, 32766) end,
           jsonb_build_object('process_id', process_id), 'message', 32767,
           case when parked then '{"approved": true}'
                when not anew and c.page > 1 then jsonb_build_object('page', c.page) else '{}' end, 'e' || edge_id
    from entry left join sluice.batch_cursor c using (tenant_id, process_id, message_id)
    where lane = 0
), old_cursor as (
    -- A batch message that is replaced starts from its first page: its cursor belongs to what was before.
    delete from sluice.batch_cursor c using replacement e
    where c.tenant_id = e.tenant_id and c.process_id = e.process_id and c.message_id = e.message_id
), new_decision as (
    insert into sluice.decision (tenant_id, process_id, message_id, verdict, decided_by, reason, detail, replaced_by, version_id)
    select e.tenant_id, e.process_id, e.message_id, case when anew then 'replace' else 'approve' end, $5, $6, $11::jsonb,
           case when anew then new_id end, case when moved then v.version_id end
    from entry e left join sluice.edge v on v.tenant_id = e.tenant_id and v.id = e.edge_id
), delta as materialized (
    select tenant_id, process_id, count(*)::int as n, (count(*) filter (where anew))::int as replaced
    from entry group by tenant_id, process_id
), locked as materialized (
    select p.id from sluice.process p join delta d on d.tenant_id = p.tenant_id and d.process_id = p.id order by p.id for update of p
), counted as (
    update sluice.process p
    set open = p.open + d.n, trashed = p.trashed - d.n, done = p.done + d.replaced, total = p.total + d.replaced
    from delta d where p.tenant_id = d.tenant_id and p.id = d.process_id and (select count(*) from locked) >= 0
), counted_edges as (
    insert into sluice.edge_count as c (tenant_id, edge_id, slot, arrived, departed, bytes)
    select t.tenant_id, t.edge_id, $7::smallint, count(*), 0, sum(coalesce(octet_length(t.body), s.size))
    from (
        select e.tenant_id, e.edge_id, e.process_id, e.message_id, r.body
        from entry e left join replacement r using (tenant_id, process_id, message_id)
    ) t ` + sizeOf("t.tenant_id", "t.process_id", "t.message_id") + `
    group by t.tenant_id, t.edge_id order by t.tenant_id, t.edge_id
    ` + addCounts + `
), arriving as (
    select n, tenant_id, lane, key, edge_id, process_id, case when anew then new_id else message_id end as id,
           case when anew then 0 else attempt end as attempts
    from entry where lane <> 0
), ended as (` + nothingEnded + laneMoves + `
select process_id, message_id, case when anew then new_id else message_id end as sent_id, edge_id from entry`

// The statements of terminate run in one transaction: the first locks what can be terminated, so that the second, with
// a snapshot of its own, sees what the locked rows have become. A message that a runner is calling a worker for loses
// its job too; the runner's commit then finds no claim and writes nothing.
var (
	terminateLockSQL = `
select j.id from river.river_job j
where j.args @> jsonb_build_object('process_id', $2::uuid) and j.kind = 'message'
and exists (select from sluice.message m where m.tenant_id = $1 and m.process_id = $2 and m.id = j.id)
order by j.id for update`
	terminateSQL = `
with job as (
    delete from river.river_job where id = any($3::bigint[]) and args @> jsonb_build_object('process_id', $2::uuid) returning id
), waiting as materialized (
    delete from sluice.lane_message where tenant_id = $1 and process_id = $2 returning *
), headless as materialized (
    -- Lanes whose first message goes: the next is at its first attempt, and need not wait for what that waited for.
    select w.tenant_id, w.edge_id, w.key from waiting w
    where not exists (
        select from sluice.lane_message f
        where f.tenant_id = w.tenant_id and f.edge_id = w.edge_id and f.key = w.key and f.place < w.place)
), laned as (
    update sluice.lane l set failures = 0 from headless h
    where l.tenant_id = h.tenant_id and l.edge_id = h.edge_id and l.key = h.key
    returning l.token
), woken as (
    update river.river_job j set state = 'available', scheduled_at = now() from laned l
    where j.id = l.token and j.state in ('retryable', 'scheduled')
), released as materialized (
    delete from sluice.limiter_hold where tenant_id = $1 and process_id = $2 returning *
), released_count as (
    insert into sluice.limiter_delta (tenant_id, limit_id, user_name, edge_id, topology_id, held, arrived)
    select tenant_id, limit_id, user_name, edge_id, 0, -count(*), 0 from released group by tenant_id, limit_id, user_name, edge_id
), open as materialized (
    select id from job union all select message_id from waiting union all select job_id from released
), entry as materialized (
    select message_id from sluice.trash where tenant_id = $1 and process_id = $2 order by message_id for update
), trashed as (
    delete from sluice.trash where tenant_id = $1 and process_id = $2 and message_id in (select message_id from entry) returning message_id
), new_decision as (
    insert into sluice.decision (tenant_id, process_id, message_id, verdict, decided_by, reason)
    select $1, $2, id, 'terminate', $4, $5 from (select id from open union all select message_id from trashed) gone
), old_cursor as (
    delete from sluice.batch_cursor where tenant_id = $1 and process_id = $2
), counted_edges as (
    insert into sluice.edge_count as c (tenant_id, edge_id, slot, arrived, departed, bytes)
    select $1, m.edge_id, $6::smallint, 0, count(*), -sum(s.size)
    from open o
    join sluice.message m on m.tenant_id = $1 and m.process_id = $2 and m.id = o.id ` + sizeOf("$1", "$2", "o.id") + `
    group by m.edge_id order by m.edge_id
    ` + addCounts + `
)
update sluice.process p
set open = p.open - o.n, trashed = p.trashed - t.n, terminated = p.terminated + o.n + t.n,
    finished_at = case when p.open - o.n = 0 and p.trashed - t.n = 0 then coalesce(p.finished_at, now()) end
from (select count(*)::int as n from open) o, (select count(*)::int as n from trashed) t
where p.tenant_id = $1 and p.id = $2
returning o.n + t.n`
)

// heldBySQL counts what a set of edges holds, by place. A token that runs or retries stands for the message at the head of
// its lane.
const heldBySQL = `
select coalesce(sum(n) filter (where state = 'available' and kind <> 'lane'), 0)::bigint
       + (select count(*) from sluice.lane_message where tenant_id = $1 and via_id = any($2::bigint[]) and edge_id = any($2::bigint[]))
       - coalesce(sum(n) filter (where state <> 'available' and kind = 'lane'), 0)::bigint,
       coalesce(sum(n) filter (where state = 'running'), 0)::bigint,
       coalesce(sum(n) filter (where state in ('retryable', 'scheduled')), 0)::bigint,
       (select count(*) from sluice.limiter_hold where tenant_id = $1 and edge_id = any($2::bigint[]) and process_id is not null),
       (select count(*) from sluice.trash where tenant_id = $1 and edge_id = any($2::bigint[]))
from (
    select state, kind, count(*) as n from river.river_job
    where state in ('available', 'running', 'retryable', 'scheduled') and queue = any(select 'e' || id from unnest($2::bigint[]) as id)
    group by state, kind
) place`

// depthSQL tells what each of the given edges holds. Counters say how much; the head of the queue, one probe of River's
// fetching index, says since when.
const depthSQL = `
with edge as (
    select e.tenant_id, e.id, e.from_node, e.to_node, v.number, v.retired_at is not null as retired, 'e' || e.id as queue
    from unnest($2::bigint[]) as w(id)
    join sluice.edge e on e.tenant_id = $1 and e.id = w.id
    join sluice.topology_version v on v.tenant_id = e.tenant_id and v.id = e.version_id
), counter as (
    select c.edge_id, sum(c.arrived)::bigint as arrived, sum(c.departed)::bigint as departed, sum(c.bytes)::bigint as bytes
    from sluice.edge_count c where c.tenant_id = $1 and c.edge_id = any($2::bigint[])
    group by c.edge_id
), place as (
    select queue, count(*) filter (where state = 'running') as running, count(*) filter (where state <> 'running') as retrying
    from river.river_job
    where state in ('running', 'retryable', 'scheduled') and queue = any(select queue from edge)
    group by queue
), held as (
    select edge_id, sum(held) as n from (
        select edge_id, held from sluice.limiter_line where tenant_id = $1 and edge_id = any($2::bigint[])
        union all
        select edge_id, held from sluice.limiter_delta where tenant_id = $1 and edge_id = any($2::bigint[])
    ) l group by edge_id
), trashed as (
    select edge_id, count(*) as n from sluice.trash where tenant_id = $1 and edge_id = any($2::bigint[]) group by edge_id
)
select e.number as version, e.retired, e.from_node as from, e.to_node as to,
       coalesce(c.arrived - c.departed, 0) as messages, coalesce(c.bytes, 0) as bytes,
       greatest(coalesce(c.arrived - c.departed, 0) - coalesce(p.running, 0) - coalesce(p.retrying, 0) - coalesce(h.n, 0), 0)::bigint as waiting,
       coalesce(p.running, 0) as running, coalesce(h.n, 0)::bigint as held, coalesce(p.retrying, 0) as retrying, coalesce(t.n, 0) as trashed,
       coalesce(c.arrived, 0) as arrived, coalesce(c.departed, 0) as departed, head.scheduled_at as oldest,
       greatest(coalesce(now() - head.scheduled_at, interval '0'), interval '0') as age
from edge e
left join counter c on c.edge_id = e.id
left join place p using (queue)
left join held h on h.edge_id = e.id
left join trashed t on t.edge_id = e.id
left join lateral (
    select j.scheduled_at from river.river_job j
    where j.state = 'available' and j.queue = e.queue
    order by j.priority, j.scheduled_at, j.id limit 1
) head on true
order by e.number, e.id`

// trashOpenSQL moves what waits or retries on the given edges to the trash. What is running is left to finish; of a lane
// that is worked, that is the message at its head. Lanes are locked before.
var trashOpenSQL = `
with job as (
    delete from river.river_job
    where id in (
        select j.id from river.river_job j
        where j.state in ('available', 'retryable', 'scheduled') and j.kind = 'message'
        and j.queue = any(select 'e' || id from unnest($2::bigint[]) as id) and exists (
            select from sluice.message m where m.tenant_id = $1 and m.process_id = ` + processOfJob + ` and m.id = j.id)
        order by j.id limit 10000 for update skip locked)
    returning id, queue, attempt, (args->>'process_id')::uuid as process_id
), waiting as (
    delete from sluice.lane_message
    where (tenant_id, edge_id, key, place) in (
        select w.tenant_id, w.edge_id, w.key, w.place
        from sluice.lane_message w
        join sluice.lane l on l.tenant_id = w.tenant_id and l.edge_id = w.edge_id and l.key = w.key
        where w.tenant_id = $1 and w.edge_id = any($2::bigint[]) and w.via_id = any($2::bigint[])
        and (exists (
            select from sluice.lane_message f
            where f.tenant_id = w.tenant_id and f.edge_id = w.edge_id and f.key = w.key and f.place < w.place
        ) or not exists (select from river.river_job t where t.id = l.token and t.state = 'running'))
        order by w.edge_id, w.key, w.place limit 10000)
    returning message_id, via_id, key, attempts, process_id
), released as materialized (
    delete from sluice.limiter_hold
    where (tenant_id, edge_id, user_name, seq) in (
        select h.tenant_id, h.edge_id, h.user_name, h.seq from sluice.limiter_hold h
        where h.tenant_id = $1 and h.edge_id = any($2::bigint[]) and h.process_id is not null
        order by h.edge_id, h.user_name, h.seq limit 10000)
    returning *
), released_count as (
    insert into sluice.limiter_delta (tenant_id, limit_id, user_name, edge_id, topology_id, held, arrived)
    select tenant_id, limit_id, user_name, edge_id, 0, -count(*), 0 from released group by tenant_id, limit_id, user_name, edge_id
), gone as materialized (
    select id, substr(queue, 2)::bigint as edge_id, null as lane_key, attempt::int as attempt, process_id from job
    union all
    select message_id, via_id, key, attempts, process_id from waiting
    union all
    select job_id, edge_id, null, attempt, process_id from released
), new_trash as (
    insert into sluice.trash (tenant_id, process_id, message_id, edge_id, attempt, reason, class, cause, lane_key)
    select $1, process_id, id, edge_id, attempt, $3, $6, $7, lane_key from gone
), new_decision as (
    insert into sluice.decision (tenant_id, process_id, message_id, verdict, decided_by, reason)
    select $1, process_id, id, 'trash', $4, $3 from gone
), delta as materialized (
    select process_id, count(*)::int as n from gone group by process_id
), locked as materialized (
    select p.id from sluice.process p join delta d on p.tenant_id = $1 and d.process_id = p.id order by p.id for update of p
), counted as (
    update sluice.process p set open = p.open - d.n, trashed = p.trashed + d.n
    from delta d where p.tenant_id = $1 and p.id = d.process_id and (select count(*) from locked) >= 0
), counted_edges as (
    insert into sluice.edge_count as c (tenant_id, edge_id, slot, arrived, departed, bytes)
    select $1, g.edge_id, $5::smallint, 0, count(*), -sum(s.size)
    from gone g ` + sizeOf("$1", "g.process_id", "g.id") + `
    group by g.edge_id order by g.edge_id
    ` + addCounts + `
)
select count(*) from gone`

// adoptSQL gives a claimed job that another program inserted its process and message. The arguments as text are the
// body; the job's own then name the process, as every message's do.
var adoptSQL = `
with job as (
    update river.river_job
    set args = jsonb_build_object('process_id', $3::uuid), kind = 'message', max_attempts = 32767, metadata = metadata - 'failures' - 'page'
    where id = $1 and state = 'running' and attempted_by[array_upper(attempted_by, 1)] = $7::text
    returning id
), new_process as (
    insert into sluice.process (tenant_id, id, version_id, node, total, open) select $2, $3, $4, $5, 1, 1 from job
), arguments as materialized (
    select j.id, convert_to(j.args::text, 'UTF8') as body from river.river_job j join job using (id)
), counted_edges as (
    insert into sluice.edge_count as c (tenant_id, edge_id, slot, arrived, departed, bytes)
    select $2::bigint, $6::bigint, $8::smallint, 1, 0, octet_length(body) from arguments
    ` + addCounts + `
)
insert into sluice.message (tenant_id, process_id, id, edge_id, headers, body)
select $2, $3, id, $6, '{"content-type": "application/json"}', body from arguments
returning headers::text, case when octet_length(body) <= ` + maxClaimedBody + ` then body end, octet_length(body)`

// shortEdgesSQL lists the edges that hold less than their counters say, in one snapshot.
const shortEdgesSQL = `
with counter as (
    select edge_id, sum(arrived - departed) as n from sluice.edge_count group by edge_id having sum(arrived - departed) > 0
), job as (
    select ` + edgeOfJob + ` as edge_id, count(*) as n
    from river.river_job j where j.kind = 'message' and j.state <> 'completed' group by 1
), lane as (
    select via_id as edge_id, count(*) as n from sluice.lane_message group by via_id
), held as (
    select edge_id, count(*) as n from sluice.limiter_hold where process_id is not null group by edge_id
)
select c.edge_id from counter c
left join job j using (edge_id)
left join lane l using (edge_id)
left join held h using (edge_id)
where c.n > coalesce(j.n, 0) + coalesce(l.n, 0) + coalesce(h.n, 0)
order by c.edge_id`

// rescueDeletedSQL puts messages on the given edges that have no place into the trash. Nothing else can move a message
// that has no ticket.
var rescueDeletedSQL = `
with lost as materialized (
    select m.tenant_id, m.process_id, m.id, m.edge_id
    from sluice.message m
    where m.edge_id = any($1::bigint[])
    and not exists (select from river.river_job j where j.id = m.id)
    and not exists (select from sluice.lane_message w where w.tenant_id = m.tenant_id and w.process_id = m.process_id and w.message_id = m.id)
    and not exists (select from sluice.limiter_hold h where h.tenant_id = m.tenant_id and h.process_id = m.process_id and h.job_id = m.id)
    and not exists (select from sluice.trash t where t.tenant_id = m.tenant_id and t.process_id = m.process_id and t.message_id = m.id)
    and not exists (select from sluice.attempt a where a.tenant_id = m.tenant_id and a.process_id = m.process_id and a.message_id = m.id
                    and a.outcome in ('done', 'filtered'))
    and not exists (select from sluice.decision d where d.tenant_id = m.tenant_id and d.process_id = m.process_id and d.message_id = m.id
                    and d.verdict in ('replace', 'reject', 'terminate'))
    limit 1000
), entry as materialized (
    insert into sluice.trash (tenant_id, process_id, message_id, edge_id, attempt, reason)
    select l.tenant_id, l.process_id, l.id, l.edge_id,
           (select coalesce(max(a.attempt), 0) from sluice.attempt a
            where a.tenant_id = l.tenant_id and a.process_id = l.process_id and a.message_id = l.id),
           'its job was deleted through River'
    from lost l order by l.tenant_id, l.process_id, l.id
    on conflict do nothing
    returning tenant_id, process_id, message_id, edge_id
), delta as materialized (
    select tenant_id, process_id, count(*)::int as n from entry group by tenant_id, process_id
), locked as materialized (
    select p.id from sluice.process p join delta d on d.tenant_id = p.tenant_id and d.process_id = p.id order by p.id for update of p
), counted as (
    update sluice.process p set open = p.open - d.n, trashed = p.trashed + d.n
    from delta d where p.tenant_id = d.tenant_id and p.id = d.process_id and (select count(*) from locked) >= 0
), counted_edges as (
    insert into sluice.edge_count as c (tenant_id, edge_id, slot, arrived, departed, bytes)
    select t.tenant_id, t.edge_id, $2::smallint, 0, count(*), -sum(s.size)
    from entry t ` + sizeOf("t.tenant_id", "t.process_id", "t.message_id") + `
    group by t.tenant_id, t.edge_id order by t.tenant_id, t.edge_id
    ` + addCounts + `
)
select count(*) from entry`
