package queue

// This file has the statements of lanes: the messages before a node that keeps order, one lane for each key. Like those
// of river.go they touch River's tables, as a lane in which messages wait has one job, its token.
//
// Whoever touches a lane locks its row first, in a statement of its own, in the order of the key, before any job: the
// next statement then sees what the lane has become. The token says who works the lane, and is fenced as every claim;
// the row says where its messages stand. Both statements go in one round trip, as one transaction.

// laneKind is the kind of the jobs that are tokens.
const laneKind = "lane"

// ensureLanesSQL makes the lanes that messages are about to come to.
const ensureLanesSQL = `
insert into sluice.lane (tenant_id, edge_id, key)
select l.tenant_id, l.edge_id, l.key from unnest($1::bigint[], $2::bigint[], $3::text[]) as l(tenant_id, edge_id, key)
order by l.tenant_id, l.edge_id, l.key
on conflict do nothing`

// lockLanesSQL locks lanes. $4 of them, those that messages come to, must be there: one that was idle may have been
// forgotten since it was ensured.
const lockLanesSQL = `
select case when count(*) filter (where must) < $5::int then sluice.try_again('a lane was forgotten as a message came to it') end
from (
    select w.must
    from unnest($1::bigint[], $2::bigint[], $3::text[], $4::bool[]) as w(tenant_id, edge_id, key, must)
    join sluice.lane l on l.tenant_id = w.tenant_id and l.edge_id = w.edge_id and l.key = w.key
    order by l.tenant_id, l.edge_id, l.key
    for update of l
) locked`

// laneMoves is what happens to lanes in a transaction that has locked them. It follows two CTEs:
//
//	arriving(n, tenant_id, lane, key, edge_id, process_id, id, attempts): messages that come to lanes, in the order of n
//	ended(tenant_id, lane, key, token, claim, head, stays, failures, delay_us): tokens with what was done
//	under their claim: head is the place after the last message that left (null: none did), stays why the work ends
//	there (null: it goes on)
//
// A lane that was idle gets a token; one that falls idle loses it; one whose work ends there gives it back to the queue of
// the edge that the next message is on.
const laneMoves = `
), placed as materialized (
    select a.*, l.tail + row_number() over (partition by a.tenant_id, a.lane, a.key order by a.n) - 1 as place
    from arriving a
    cross join lateral ( -- by its key for each: joined as a table that was small when this was planned, all lanes would meet all messages
        select l.tail from sluice.lane l where l.tenant_id = a.tenant_id and l.edge_id = a.lane and l.key = a.key limit 1
    ) l
), new_lane_message as (
    insert into sluice.lane_message (tenant_id, edge_id, key, place, process_id, message_id, via_id, attempts)
    select tenant_id, lane, key, place, process_id, id, edge_id, attempts from placed
), touched as materialized (
    select tenant_id, lane, key, e.token, e.claim, e.head, e.stays, e.failures, e.delay_us,
           coalesce(p.came, 0) as came, p.first_edge
    from ended e
    full join (
        select tenant_id, lane, key, count(*) as came, (array_agg(edge_id order by place))[1] as first_edge
        from placed group by tenant_id, lane, key
    ) p using (tenant_id, lane, key)
), moved_lane as materialized (
    select t.*, l.token is null as was_idle, coalesce(next.via_id, t.first_edge) as next_edge,
           case when l.token is null then nextval('river.river_job_id_seq') end as new_token
    from touched t
    join sluice.lane l on l.tenant_id = t.tenant_id and l.edge_id = t.lane and l.key = t.key
    left join lateral (
        -- What waited before this statement and still does: those that leave are at places before the head.
        select w.via_id from sluice.lane_message w
        where w.tenant_id = t.tenant_id and w.edge_id = t.lane and w.key = t.key and w.place >= case when t.head is null then l.head else t.head end
        order by w.place limit 1
    ) next on true
), laned as (
    update sluice.lane l
    set head = coalesce(m.head, l.head), tail = l.tail + m.came,
        token = case when m.next_edge is null then null when m.was_idle then m.new_token else l.token end,
        before = case when m.was_idle then 0 when m.head is not null then m.claim - 1 else l.before end,
        failures = case when m.stays <> 'yield' then m.failures when m.head is not null then 0 else l.failures end,
        idle_since = case when m.next_edge is null then now() end
    from moved_lane m
    where l.tenant_id = m.tenant_id and l.edge_id = m.lane and l.key = m.key
), dropped as (
    delete from river.river_job j using moved_lane m where j.id = m.token and m.next_edge is null
    returning j.id
), returned as (
    update river.river_job j
    set state = (case m.stays when 'repeat' then 'scheduled' when 'retried' then 'retryable' else 'available' end)::river.river_job_state,
        scheduled_at = case m.stays when 'yield' then now() when 'unavailable' then j.scheduled_at
                                    else now() + m.delay_us * interval '1 microsecond' end,
        queue = 'e' || m.next_edge
    from moved_lane m
    where j.id = m.token and m.next_edge is not null and m.stays <> 'page'
), new_token as (
    insert into river.river_job (id, state, args, kind, max_attempts, queue)
    select new_token, 'available', jsonb_build_object('edge', lane, 'key', key), 'lane', 32767, 'e' || next_edge
    from moved_lane where new_token is not null
)`

// acceptLanesSQL is acceptSQL for events of which some come to lanes. It also tells on which edges tokens wait now.
var acceptLanesSQL = acceptStored("", "") + acceptLaned

const acceptLaned = `, arriving as (
    select l.n, l.tenant_id, s.lane, s.key, l.edge_id, l.process_id, l.id, 0 as attempts
    from unnest($19::bigint[], $20::text[]) with ordinality as s(lane, key, n)
    join leg l using (n)
    where l.state = 'lane'
), ended as (` + nothingEnded + laneMoves + `
select 'done', ordinal::bigint from fresh
union all
select 'woke', next_edge from moved_lane where new_token is not null`

// handOffLanesSQL is handOffSQL for results of which some were made under the claim of a token, or put messages on lanes.
//
// A message of a lane leaves it, or stays at its head, if the claim of the token holds and nobody else has taken it out
// meanwhile. Without a message, outcome yield gives a token back. It tells which results are done, for which the claim of
// the token held, which lanes fell idle, and on which edges tokens wait now.
//
// One batch may have results made under two claims of the same token: of a runner whose lease ran out, and of its next
// life. Only those made under the claim that holds now count, so each is asked by its claim, not by its token alone.
//
// That a token is held is asked with "in ... is true", which is looked up in a hash; a join would be planned for ten items.
const handOffLanesSQL = handOffLaneItems + bornArraysSQL + bornLanesSQL + bornNamesSQL + `, lane, key, n)` + handOffWritten + handOffLaned

const handOffLaneItems = itemArraysSQL + itemMoreSQL + `, $33::bigint[], $34::text[], $35::bigint[], $36::bigint[], $37::smallint[]` +
	itemNamesSQL + itemMoreNamesSQL + `, lane, key, place, token, claim, n)` + handOffGone + handOffKept + `
), token as materialized (
    select j.id, t.claim, t.runner
    from river.river_job j
    join (select distinct token, claim, runner from item where token <> 0) t on t.token = j.id
    where (j.state = 'running') is true and j.attempt = t.claim and j.attempted_by[array_upper(j.attempted_by, 1)] = t.runner
    order by j.id
    for update of j
), held as materialized (
    select * from item where ((token, claim, runner) in (select id, claim, runner from token)) is true
), worked as (
    delete from sluice.lane_message w using held h
    where h.outcome in ('done', 'filtered', 'failed')
    and w.tenant_id = h.tenant_id and w.edge_id = h.lane and w.key = h.key and w.place = h.place
    and w.process_id = h.process_id and w.message_id = h.id
    returning h.n
), stayed as (
    select h.n
    from held h
    join sluice.lane_message w on w.tenant_id = h.tenant_id and w.edge_id = h.lane and w.key = h.key and w.place = h.place
        and w.process_id = h.process_id and w.message_id = h.id
    left join sluice.batch_cursor c on c.tenant_id = h.tenant_id and c.process_id = h.process_id and c.message_id = h.id
    where h.outcome in ('page', 'unavailable', 'repeat', 'retried') and coalesce(c.page, 1) = greatest(h.page, 1)
), yielded as (
    select n, tenant_id, lane, key, token, claim from held where outcome = 'yield'
), done as materialized (
    select i.*, case when i.token <> 0 then i.key end as lane_key
    from item i
    join (select n from gone union all select n from kept union all select n from worked union all select n from stayed) d using (n)`

const bornLanesSQL = `, $38::bigint[], $39::text[]`

const handOffLaned = `, arriving as (
    select n, tenant_id, lane, key, edge_id, process_id, id, 0 as attempts from born where state = 'lane'
), ended as (
    select tenant_id, lane, lane_key as key, token, max(claim) as claim, max(place) filter (where stays is null) + 1 as head,
           max(stays) as stays, max(failures) as failures, max(delay_us) as delay_us
    from (
        select tenant_id, lane, lane_key, token, claim, place, null as stays, null::int as failures, null::bigint as delay_us
        from done where token <> 0 and outcome in ('done', 'filtered', 'failed')
        union all
        select tenant_id, lane, lane_key, token, claim, place, outcome, failures, delay_us
        from done where token <> 0 and outcome not in ('done', 'filtered', 'failed')
        union all
        select tenant_id, lane, key, token, claim, null, 'yield', null, null from yielded
    ) e
    group by tenant_id, lane, lane_key, token` + laneMoves + `
select 'done', n from done
union all
select 'done', n from yielded
union all
select 'held', n from held
union all
select 'idle', id from dropped
union all
select 'woke', next_edge from moved_lane where next_edge is not null and (new_token is not null or stays in ('yield', 'unavailable'))`

// readLanesSQL reads lanes from where their holders have read to: up to $6 messages of each, fewer where bodies come to
// $7 bytes, and at least one. It tells what is true of the one at the head. Bodies that are large are loaded later: see
// fill.
var readLanesSQL = `
select w.n, x.place, x.process_id, x.message_id, x.via_id,
       case when x.place = l.head then l.before end as before, case when x.place = l.head then l.failures else 0 end as failures,
       x.attempts, x.headers, x.payload_id, x.body, x.size, coalesce(b.page, 1) as page, coalesce(b.cursor, '') as cursor
from unnest($1::bigint[], $2::bigint[], $3::text[], $4::bigint[], $5::bigint[], $6::int[])
    with ordinality as w(tenant_id, edge_id, key, token, place, most, n)
join sluice.lane l on l.tenant_id = w.tenant_id and l.edge_id = w.edge_id and l.key = w.key and l.token = w.token
cross join lateral (
    select s.*, sum(octet_length(s.body)) over (order by s.place) as read
    from (
        select r.place, r.process_id, r.message_id, r.via_id, r.attempts, r.headers, r.payload_id,
               octet_length(r.body) as size, case when octet_length(r.body) <= ` + maxClaimedBody + ` then r.body end as body
        from (
            select m.place, m.process_id, m.message_id, m.via_id, m.attempts, c.headers::text as headers, coalesce(c.payload_id, c.id) as payload_id,
                   coalesce(c.body, (
                       select p.body from sluice.message p where p.tenant_id = c.tenant_id and p.process_id = c.process_id and p.id = c.payload_id
                   )) as body
            from sluice.lane_message m
            cross join lateral (
                select * from sluice.message c
                where c.tenant_id = m.tenant_id and c.process_id = m.process_id and c.id = m.message_id limit 1
            ) c
            where m.tenant_id = w.tenant_id and m.edge_id = w.edge_id and m.key = w.key and m.place >= case when w.place > l.head then w.place else l.head end
            order by m.place
            limit w.most
        ) r
    ) s
) x
left join sluice.batch_cursor b on b.tenant_id = w.tenant_id and b.process_id = x.process_id and b.message_id = x.message_id
where coalesce(x.read - coalesce(octet_length(x.body), 0), 0) < $7
order by w.n, x.place`

// adoptLaneSQL is adoptSQL for a job on an edge to a node that keeps order: its message comes to a lane, and the job goes.
// jobArgumentsSQL says before what the lane is told by.
const (
	jobArgumentsSQL = `
select convert_to(args::text, 'UTF8') from river.river_job
where id = $1 and state = 'running' and attempted_by[array_upper(attempted_by, 1)] = $2::text`
	adoptLaneSQL = `
with job as (
    delete from river.river_job
    where id = $1 and state = 'running' and attempted_by[array_upper(attempted_by, 1)] = $7::text
    returning id
), new_process as (
    insert into sluice.process (tenant_id, id, version_id, node, total, open) select $2, $3, $4, $5, 1, 1 from job
), new_message as (
    insert into sluice.message (tenant_id, process_id, id, edge_id, headers, body)
    select $2, $3, id, $6, '{"content-type": "application/json"}', $9::bytea from job
), counted_edges as (
    insert into sluice.edge_count as c (tenant_id, edge_id, slot, arrived, departed, bytes)
    select $2::bigint, $6::bigint, $8::smallint, 1, 0, octet_length($9::bytea) from job
    ` + addCounts + `
), arriving as (
    select 1 as n, $2::bigint as tenant_id, $10::bigint as lane, $11::text as key, $6::bigint as edge_id, $3::uuid as process_id, id, 0 as attempts
    from job
), ended as (` + nothingEnded + laneMoves + `
select 'done', id from job
union all
select 'woke', next_edge from moved_lane where new_token is not null`
)

// nothingEnded stands for ended where no token's claim is ended.
const nothingEnded = `
    select 0::bigint as tenant_id, 0::bigint as lane, '' as key, 0::bigint as token, 0 as claim, 0::bigint as head, '' as stays,
           0 as failures, 0::bigint as delay_us
    where false`

// lockProcessLanesSQL locks the lanes in which messages of a process wait, and lockEdgeLanesSQL those of edges, before
// messages are taken out of them.
const (
	lockProcessLanesSQL = `
select l.key from sluice.lane l
where (l.tenant_id, l.edge_id, l.key) in (select w.tenant_id, w.edge_id, w.key from sluice.lane_message w where w.tenant_id = $1 and w.process_id = $2)
order by l.tenant_id, l.edge_id, l.key for update`
	lockEdgeLanesSQL = `
select count(*) from (
    select from sluice.lane where tenant_id = $1 and edge_id = any($2::bigint[]) and token is not null
    order by tenant_id, edge_id, key for update
) locked`
)

// reviveTokensSQL makes tokens that someone cancelled through River available again: a message can be ended, the order of
// a lane cannot. restoreTokensSQL puts those back that someone deleted there.
const (
	reviveTokensSQL = `
update river.river_job set state = 'available', finalized_at = null
where id in (
    select id from river.river_job
    where state in ('cancelled', 'discarded', 'completed') and finalized_at is not null and kind = 'lane'
    order by id limit 1000 for update skip locked)`
	restoreTokensSQL = `
insert into river.river_job (id, args, kind, max_attempts, queue)
select l.token, jsonb_build_object('edge', l.edge_id, 'key', l.key), 'lane', 32767, 'e' || l.edge_id
from sluice.lane l
where l.token is not null and not exists (select from river.river_job j where j.id = l.token)
and not exists (select from sluice.limiter_hold h where h.tenant_id = l.tenant_id and h.process_id is null and h.job_id = l.token)
limit 1000
on conflict do nothing`
)

// laneJobs is a query for the jobs that are tokens, with the lanes that they name.
const laneJobs = `
    select id, case when args->>'edge' ~ '^[0-9]{1,18}$' then (args->>'edge')::bigint else 0 end as edge_id, coalesce(args->>'key', '') as key
    from river.river_job where kind = 'lane' and state not in ('cancelled', 'discarded', 'completed')`

// forgetLanesSQL deletes lanes that have been idle for a while.
const forgetLanesSQL = `
delete from sluice.lane where (tenant_id, edge_id, key) in (
    select tenant_id, edge_id, key from sluice.lane
    where token is null and idle_since < now() - interval '1 minute'
    order by tenant_id, edge_id, key limit 5000 for update skip locked)`
