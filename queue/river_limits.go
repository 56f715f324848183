package queue

// This file has the statements of the limiter: messages for limited applications are held, and are no jobs until they are
// released. Like those of river.go they touch River's tables.
//
// Who holds messages only adds rows: the messages, and what the counts change by. Who releases locks the gates first, in
// order of tenant and limit, and passes by those that others have: all that is read and written under that lock is read in
// later statements, so it is as it is. Locks: gates, then nodes, then holds.

// heldKey is what a job's metadata keeps of its arrival, for when it is held again.
const heldKey = "arrival"

// withHolds makes a statement that stores births also hold those in state held. They are numbered as they come.
func withHolds(births string) string {
	return `, new_hold as (
    insert into sluice.limiter_hold (tenant_id, edge_id, user_name, seq, limit_id, process_id, job_id)
    select tenant_id, edge_id, user_name, nextval('sluice.limiter_seq'), limit_id, process_id, id
    from ` + births + ` where state = 'held' order by n
), new_held as (
    insert into sluice.limiter_delta (tenant_id, limit_id, user_name, edge_id, topology_id, held, arrived)
    select tenant_id, limit_id, user_name, edge_id, min(held_topology), count(*), count(*)
    from ` + births + ` where state = 'held' group by tenant_id, limit_id, user_name, edge_id
)`
}

// The statements of hand-off and accept for batches of which some are held.
var (
	acceptHeldSQL = acceptStored(`, $19::bigint[], $20::bigint[], $21::text[]`, heldNames) + withHolds("leg") + `
select ordinal from fresh`
	acceptLanesHeldSQL = acceptStored(`, $21::bigint[], $22::bigint[], $23::text[]`, heldNames) + withHolds("leg") + acceptLaned
	handOffHeldSQL     = handOffItems + bornArraysSQL + `, $33::bigint[], $34::bigint[], $35::text[]` + bornNamesSQL + heldNames + `, n)` +
		handOffWritten + withHolds("born") + `
select n from done`
	handOffLanesHeldSQL = handOffLaneItems + bornArraysSQL + bornLanesSQL + `, $40::bigint[], $41::bigint[], $42::text[]` + bornNamesSQL +
		`, lane, key` + heldNames + `, n)` + handOffWritten + withHolds("born") + handOffLaned
)

const heldNames = `, limit_id, held_topology, user_name`

// holdClaimsSQL holds claimed messages instead, each at the place that it had, or at the end. It returns those whose claims
// stood.
const holdClaimsSQL = `
with gone as (
    delete from river.river_job j
    using unnest($1::bigint[], $2::smallint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::text[]) with ordinality
        as i(id, attempt, tenant_id, edge_id, limit_id, topology_id, user_name, n)
    where j.id = i.id and (j.state = 'running') is true and j.attempt = i.attempt and j.attempted_by[array_upper(j.attempted_by, 1)] = $8::text
    returning i.*, j.kind, j.args, j.metadata,
              case when j.metadata->>'` + heldKey + `' ~ '^[0-9]{1,18}$' then (j.metadata->>'` + heldKey + `')::bigint end as seq
), new_hold as (
    insert into sluice.limiter_hold (tenant_id, edge_id, user_name, seq, limit_id, process_id, job_id, attempt, args, metadata)
    select tenant_id, edge_id, user_name, coalesce(seq, nextval('sluice.limiter_seq')), limit_id,
           case when kind = 'message' then (args->>'process_id')::uuid end, id, attempt,
           case when kind <> 'message' then args end, nullif(metadata - '` + heldKey + `', '{}')
    from gone order by n
), new_held as (
    insert into sluice.limiter_delta (tenant_id, limit_id, user_name, edge_id, topology_id, held, arrived)
    select tenant_id, limit_id, user_name, edge_id, min(topology_id), count(*), count(*) filter (where seq is null)
    from gone group by tenant_id, limit_id, user_name, edge_id
)
select id from gone`

// lockGatesSQL locks those of the given gates that nobody else has.
const lockGatesSQL = `
select g.tenant_id, g.limit_id from sluice.limiter_gate g
where (g.tenant_id, g.limit_id) in (select * from unnest($1::bigint[], $2::bigint[]))
order by g.tenant_id, g.limit_id
for update skip locked`

// foldSQL adds to the counts of the locked gates what has come and gone, up to $3 changes of each, and returns the gates for
// which there may be more: to count a crowd as it comes takes longer than those may wait who have tokens now.
var foldSQL = `
with gone as (
    delete from sluice.limiter_delta where ctid = any(array(
        select d.ctid
        from unnest($1::bigint[], $2::bigint[]) as w(tenant_id, limit_id)
        cross join lateral (
            select ctid from sluice.limiter_delta n where n.tenant_id = w.tenant_id and n.limit_id = w.limit_id limit $3
        ) d
    )) returning *
), came as materialized (
    select tenant_id, limit_id, user_name, edge_id, max(topology_id) as topology_id, sum(held) as held, sum(arrived) as arrived, count(*) as changes
    from gone group by tenant_id, limit_id, user_name, edge_id
), lined as (
    insert into sluice.limiter_line as l (tenant_id, limit_id, user_name, edge_id, topology_id, held, rate_in, metered_at)
    select tenant_id, limit_id, user_name, edge_id, topology_id, held, arrived / ` + meterSeconds + `, clock_timestamp() from came
    on conflict (tenant_id, limit_id, user_name, edge_id) do update
    set held = l.held + excluded.held, rate_in = ` + decayed("l.rate_in", "l.metered_at") + ` + excluded.rate_in,
        rate_out = ` + decayed("l.rate_out", "l.metered_at") + `, metered_at = excluded.metered_at
), keyed as (
    insert into sluice.limiter_key as k (tenant_id, limit_id, user_name, held)
    select tenant_id, limit_id, user_name, sum(held) from came group by tenant_id, limit_id, user_name
    on conflict (tenant_id, limit_id, user_name) do update set held = k.held + excluded.held
)
update sluice.limiter_gate g
set held = g.held + c.held, rate_in = ` + decayed("g.rate_in", "g.metered_at") + ` + c.arrived / ` + meterSeconds + `,
    rate_out = ` + decayed("g.rate_out", "g.metered_at") + `, metered_at = clock_timestamp()
from (select tenant_id, limit_id, sum(held) as held, sum(arrived) as arrived, sum(changes) as changes from came group by tenant_id, limit_id) c
where g.tenant_id = c.tenant_id and g.limit_id = c.limit_id
returning g.tenant_id, g.limit_id, c.changes >= $3`

// meterSeconds is over how long the rates of messages are means: those of ten seconds ago count a third.
const meterSeconds = "10.0"

// decayed is a moving mean as it is now.
func decayed(rate, at string) string {
	return rate + ` * exp(-greatest(least(extract(epoch from clock_timestamp() - ` + at + `), 1000), 0)::double precision / ` + meterSeconds + `)`
}

// gatesSQL reads the locked gates with what their limits allow now.
const gatesSQL = `
select g.tenant_id, g.limit_id, l.application, g.tokens, g.at, g.vtime, g.closed_until, g.slow, g.slowed_at, g.owner, g.granted_until,
       g.owed_at, g.held, nullif(g.next_at, 'infinity') as next_at, clock_timestamp() as now,
       coalesce(l.amount, 0) as amount, coalesce(l.per, interval '0') as per, coalesce(l.burst, 0) as burst,
       coalesce(l.total_amount, 0) as total_amount, coalesce(l.total_per, interval '0') as total_per, coalesce(l.total_burst, 0) as total_burst,
       coalesce(l.parallel, 0) as parallel, l.weights, l.paused_at is not null as paused,
       case when l.raised_until > clock_timestamp() then l.raise else 1 end as raise, l.removed_at is not null as removed,
       case when l.parallel is not null then (` + runningOfLimit + `) else 0 end as running
from sluice.limiter_gate g
join sluice.limiter_limit l on l.tenant_id = g.tenant_id and l.id = g.limit_id
where (g.tenant_id, g.limit_id) in (select * from unnest($1::bigint[], $2::bigint[]))`

// runningOfLimit counts the calls of an application: the jobs that run on edges on which messages of it have ever been held.
// They are counted, not kept, so the number cannot drift. Edges are stepped through by their index, which is partial so that
// no other statement can be planned by it: for lines of a user it would walk those of all users, for each (measured with 17,000
// users: 4 ms a line).
const runningOfLimit = `
    with recursive edge as (
        (select edge_id from sluice.limiter_line where tenant_id = g.tenant_id and limit_id = g.limit_id and topology_id >= 0 order by edge_id limit 1)
        union all
        select (select n.edge_id from sluice.limiter_line n
                where n.tenant_id = g.tenant_id and n.limit_id = g.limit_id and n.topology_id >= 0 and n.edge_id > edge.edge_id order by n.edge_id limit 1)
        from edge where edge.edge_id is not null
    )
    select count(*) from river.river_job j
    where j.state = 'running' and j.queue = any(array(select 'e' || edge_id from edge where edge_id is not null))`

// linesSQL reads the keys of the locked gates whose turn it may be, up to $3 that have tokens and as many that get one soon,
// with their lines.
const linesSQL = `
select k.tenant_id, k.limit_id, k.user_name, k.tokens, k.at, k.tag as key_tag, k.vtime, k.ready_at = 'epoch' as ready,
       coalesce(o.amount, 0) as amount, coalesce(o.per, interval '0') as per, coalesce(o.burst, 0) as burst, coalesce(o.weight, 1) as weight,
       l.edge_id, l.topology_id, t.name as topology, l.tag, l.held
from unnest($1::bigint[], $2::bigint[]) as w(tenant_id, limit_id)
cross join lateral (
    (select * from sluice.limiter_key r
     where r.tenant_id = w.tenant_id and r.limit_id = w.limit_id and r.held > 0 and r.ready_at = 'epoch'
     order by r.tag limit $3)
    union all
    (select * from sluice.limiter_key b
     where b.tenant_id = w.tenant_id and b.limit_id = w.limit_id and b.held > 0 and b.ready_at > 'epoch'
     and b.ready_at <= statement_timestamp() + interval '200 milliseconds'
     order by b.ready_at limit $3)
) k
join sluice.limiter_line l on l.tenant_id = k.tenant_id and l.limit_id = k.limit_id and l.user_name = k.user_name and l.held > 0
left join sluice.limiter_override o on o.tenant_id = k.tenant_id and o.limit_id = k.limit_id and o.user_name = k.user_name
left join sluice.topology t on t.tenant_id = l.tenant_id and t.id = l.topology_id`

// countNodesSQL counts the calls of nodes whose calls all runners count together. $1 are the queues of all edges that lead to
// each, with commas between. The nodes are locked before, by lockNodesSQL.
const countNodesSQL = `
select (select count(*) from river.river_job r where r.state = 'running' and r.queue = any(string_to_array(w.queues, ',')))::int
from unnest($1::text[]) with ordinality as w(queues, n)
order by w.n`

// takeHeldSQL releases the first messages of lines: they become jobs, claimed by a runner.
var takeHeldSQL = `
with picked as materialized (
    select w.n as line, h.tenant_id, h.edge_id, h.user_name, h.seq
    from unnest($1::bigint[], $2::bigint[], $3::text[], $5::int[]) with ordinality as w(tenant_id, edge_id, user_name, most, n)
    cross join lateral (
        select * from sluice.limiter_hold h
        where h.tenant_id = w.tenant_id and h.edge_id = w.edge_id and h.user_name = w.user_name
        order by h.seq limit w.most
    ) h
), taken as materialized (
    delete from sluice.limiter_hold h using picked p
    where h.tenant_id = p.tenant_id and h.edge_id = p.edge_id and h.user_name = p.user_name and h.seq = p.seq
    returning p.line, h.*
), new_job as (
    insert into river.river_job (id, state, attempt, attempted_at, attempted_by, args, kind, max_attempts, metadata, queue)
    select job_id, 'running', least(attempt + 1, 32767), now(), array[$4::text],
           coalesce(args, jsonb_build_object('process_id', process_id)), case when process_id is null then 'lane' else 'message' end, 32767,
           coalesce(metadata, '{}') || jsonb_build_object('` + heldKey + `', seq), 'e' || edge_id
    from taken
), claimed as materialized (
    select t.line, t.seq, t.job_id as id, 'e' || t.edge_id as queue, least(t.attempt + 1, 32767) as attempt, t.tenant_id, t.process_id,
           (t.args->>'edge')::bigint as lane_edge, t.args->>'key' as lane_key, false as approved,
           case when t.metadata->>'failures' ~ '^[0-9]{1,6}$' then (t.metadata->>'failures')::int else 0 end as failures
    from taken t
)
select c.line, c.seq, ` + claimedContent

// The statements that write what has become of lines, keys and gates. n is how many messages were released. A gate that is
// not blocked as a whole is also looked at when the next of its keys gets a token; it tells when that is.
var (
	movedLinesSQL = `
update sluice.limiter_line l
set held = l.held - w.n, tag = w.tag, rate_in = ` + decayed("l.rate_in", "l.metered_at") + `,
    rate_out = ` + decayed("l.rate_out", "l.metered_at") + ` + w.n / ` + meterSeconds + `, metered_at = clock_timestamp()
from unnest($1::bigint[], $2::bigint[], $3::text[], $4::bigint[], $5::int[], $6::double precision[])
    as w(tenant_id, limit_id, user_name, edge_id, n, tag)
where l.tenant_id = w.tenant_id and l.limit_id = w.limit_id and l.user_name = w.user_name and l.edge_id = w.edge_id`
	movedKeysSQL = `
update sluice.limiter_key k
set held = k.held - w.n, tokens = w.tokens, at = w.at, tag = w.tag, vtime = w.vtime, ready_at = w.ready_at
from unnest($1::bigint[], $2::bigint[], $3::text[], $4::int[], $5::double precision[], $6::timestamptz[], $7::double precision[],
            $8::double precision[], $9::timestamptz[])
    as w(tenant_id, limit_id, user_name, n, tokens, at, tag, vtime, ready_at)
where k.tenant_id = w.tenant_id and k.limit_id = w.limit_id and k.user_name = w.user_name`
	movedGatesSQL = `
update sluice.limiter_gate g
set held = g.held - w.n, tokens = w.tokens, at = w.at, vtime = w.vtime, owner = w.owner, granted_until = w.granted_until, owed_at = w.owed_at,
    next_at = coalesce(case when w.whole then w.next_at else least(w.next_at, (
        select b.ready_at - interval '100 milliseconds' from sluice.limiter_key b
        where b.tenant_id = w.tenant_id and b.limit_id = w.limit_id and b.held > 0 and b.ready_at > 'epoch'
        order by b.ready_at limit 1)) end, 'infinity'),
    rate_in = ` + decayed("g.rate_in", "g.metered_at") + `,
    rate_out = ` + decayed("g.rate_out", "g.metered_at") + ` + w.n / ` + meterSeconds + `, metered_at = clock_timestamp()
from unnest($1::bigint[], $2::bigint[], $3::int[], $4::double precision[], $5::timestamptz[], $6::double precision[], $7::bigint[],
            $8::timestamptz[], $9::timestamptz[], $10::timestamptz[], $11::bool[])
    as w(tenant_id, limit_id, n, tokens, at, vtime, owner, granted_until, owed_at, next_at, whole)
where g.tenant_id = w.tenant_id and g.limit_id = w.limit_id
returning g.tenant_id, g.limit_id, nullif(g.next_at, 'infinity')`
)

// overdueSQL finds the gates that nobody looks after: that should have been looked at a while ago, or to which something has
// come that nobody has counted.
const overdueSQL = `
(select tenant_id, limit_id from sluice.limiter_gate
 where next_at < 'infinity' and next_at <= now() - interval '150 milliseconds' order by next_at limit $1)
union
(select distinct tenant_id, limit_id from sluice.limiter_delta limit $1)`

// closeGateSQL closes a gate for as long as the application asked for, and slows it down if it refused a call. slowSQL tells,
// before, how slow it is.
const (
	closeGateSQL = `
update sluice.limiter_gate
set closed_until = greatest(closed_until, clock_timestamp() + $3 * interval '1 microsecond'),
    slow = case when $4 then $5 else slow end, slowed_at = case when $4 then clock_timestamp() else slowed_at end
where tenant_id = $1 and limit_id = $2`
	slowSQL = `
select slow, clock_timestamp() - slowed_at from sluice.limiter_gate where tenant_id = $1 and limit_id = $2 for update`
)

// terminateHeldSQL settles held messages as terminated, some thousands at once: those on edges $3 that came up to $5, of one
// user if $4 is not null; terminateHeldOfSQL only those of processes $9.
var (
	terminateHeldSQL   = terminateHeldWhere("")
	terminateHeldOfSQL = terminateHeldWhere(" and h.process_id = any($9::uuid[])")
)

func terminateHeldWhere(more string) string {
	return `
with gone as materialized (
    delete from sluice.limiter_hold
    where (tenant_id, edge_id, user_name, seq) in (
        select h.tenant_id, h.edge_id, h.user_name, h.seq from sluice.limiter_hold h
        where h.tenant_id = $1 and h.limit_id = $2 and h.edge_id = any($3::bigint[]) and h.process_id is not null
        and ($4::text is null or h.user_name = $4) and h.seq <= $5` + more + `
        order by h.edge_id, h.user_name, h.seq limit 5000 for update skip locked)
    returning *
), released_count as (
    insert into sluice.limiter_delta (tenant_id, limit_id, user_name, edge_id, topology_id, held, arrived)
    select tenant_id, limit_id, user_name, edge_id, 0, -count(*), 0 from gone group by tenant_id, limit_id, user_name, edge_id
), new_decision as (
    insert into sluice.decision (tenant_id, process_id, message_id, verdict, decided_by, reason)
    select tenant_id, process_id, job_id, 'terminate', $6, $7 from gone
), old_cursor as (
    delete from sluice.batch_cursor c using gone g where c.tenant_id = g.tenant_id and c.process_id = g.process_id and c.message_id = g.job_id
), delta as materialized (
    select process_id, count(*)::int as n from gone group by process_id
), locked as materialized (
    select p.id from sluice.process p join delta d on p.tenant_id = $1 and d.process_id = p.id order by p.id for update of p
), counted as (
    update sluice.process p
    set open = p.open - d.n, terminated = p.terminated + d.n,
        finished_at = case when p.open - d.n = 0 and p.trashed = 0 then coalesce(p.finished_at, now()) end
    from delta d where p.tenant_id = $1 and p.id = d.process_id and (select count(*) from locked) >= 0
), counted_edges as (
    insert into sluice.edge_count as c (tenant_id, edge_id, slot, arrived, departed, bytes)
    select $1, g.edge_id, $8::smallint, 0, count(*), -sum(s.size)
    from gone g ` + sizeOf("$1", "g.process_id", "g.job_id") + `
    group by g.edge_id order by g.edge_id
    ` + addCounts + `
)
select count(*) from gone`
}

// forgetLinesSQL and forgetKeysSQL forget users who have had nothing held for a day, some thousands at once: their lines, but
// for edges on which calls are under way (see runningOfLimit), and then their buckets, once they are full again,
// as they would be if they came anew. Gates that are being looked at keep theirs until next time.
var (
	forgetLinesSQL = `
with idle as materialized (
    select l.tenant_id, l.limit_id, l.user_name, l.edge_id from sluice.limiter_line l
    where l.held = 0 and l.metered_at < now() - interval '1 day'
    and not exists (select from river.river_job j where j.state = 'running' and j.queue = 'e' || l.edge_id)
    limit 5000
), ` + lockedGates + `
delete from sluice.limiter_line l
where (l.tenant_id, l.limit_id, l.user_name, l.edge_id) in (select * from idle)
and (l.tenant_id, l.limit_id) in (select * from gate) and l.held = 0 and l.metered_at < now() - interval '1 day'`
	forgetKeysSQL = `
with idle as materialized (
    select k.tenant_id, k.limit_id, k.user_name
    from sluice.limiter_key k
    join sluice.limiter_limit m on m.tenant_id = k.tenant_id and m.id = k.limit_id
    left join sluice.limiter_override o on o.tenant_id = k.tenant_id and o.limit_id = k.limit_id and o.user_name = k.user_name
    where k.held = 0
    and k.at < now() - interval '1 day' - coalesce(1.02 * case when o.amount is null then m.burst * m.per / m.amount else o.burst * o.per / o.amount end, interval '0')
    and (m.raise >= 1 or m.raised_until is null or m.raised_until < now())
    and not exists (select from sluice.limiter_line l where l.tenant_id = k.tenant_id and l.limit_id = k.limit_id and l.user_name = k.user_name)
    limit 5000
), ` + lockedGates + `
delete from sluice.limiter_key k
where (k.tenant_id, k.limit_id, k.user_name) in (select * from idle)
and (k.tenant_id, k.limit_id) in (select * from gate) and k.held = 0 and k.at < now() - interval '1 day'`
	lockedGates = `gate as materialized (
    select g.tenant_id, g.limit_id from sluice.limiter_gate g
    where (g.tenant_id, g.limit_id) in (select tenant_id, limit_id from idle)
    order by g.tenant_id, g.limit_id for update skip locked
)`
)

// The views of operators.
var (
	limitColumns = `
select l.application, l.id as limit_id, coalesce(l.amount, 0) as amount, coalesce(l.per, interval '0') as per, coalesce(l.burst, 0) as burst,
       coalesce(l.total_amount, 0) as total_amount, coalesce(l.total_per, interval '0') as total_per, coalesce(l.total_burst, 0) as total_burst,
       coalesce(l.parallel, 0) as parallel, l.weights, l.paused_at, coalesce(l.paused_by, '') as paused_by,
       case when l.raised_until > clock_timestamp() then l.raise else 1 end as raise,
       case when l.raised_until > clock_timestamp() then l.raised_until end as raised_until,
       g.tokens, g.at, g.closed_until, g.slow, clock_timestamp() - g.slowed_at as slowed_ago, clock_timestamp() as now,
       (g.held + coalesce((select sum(d.held) from sluice.limiter_delta d where d.tenant_id = g.tenant_id and d.limit_id = g.limit_id), 0))::bigint as held,
       ` + decayed("g.rate_in", "g.metered_at") + ` as rate_in, ` + decayed("g.rate_out", "g.metered_at") + ` as rate_out,
       (` + runningOfLimit + `)::int as running
from sluice.limiter_limit l
join sluice.limiter_gate g on g.tenant_id = l.tenant_id and g.limit_id = l.id
where l.tenant_id = $1 and l.removed_at is null`
	listLimitsSQL      = limitColumns + ` and l.application > $2 order by l.application limit $3`
	oneLimitSQL        = limitColumns + ` and l.application = $2`
	limitTopologiesSQL = `
select coalesce(t.name, '') as topology, sum(s.held)::bigint as held, sum(s.rate_in) as rate_in, sum(s.rate_out) as rate_out
from (
    select l.topology_id, l.held, ` + decayed("l.rate_in", "l.metered_at") + ` as rate_in, ` + decayed("l.rate_out", "l.metered_at") + ` as rate_out
    from sluice.limiter_line l where l.tenant_id = $1 and l.limit_id = $2
    union all
    select l.topology_id, d.held, 0, 0
    from (select edge_id, user_name, sum(held) as held, max(topology_id) as topology_id from sluice.limiter_delta
          where tenant_id = $1 and limit_id = $2 group by edge_id, user_name) d
    cross join lateral (
        select coalesce((select n.topology_id from sluice.limiter_line n
                         where n.tenant_id = $1 and n.limit_id = $2 and n.edge_id = d.edge_id limit 1), d.topology_id) as topology_id
    ) l
) s
left join sluice.topology t on t.tenant_id = $1 and t.id = s.topology_id
group by t.name having sum(s.held) > 0 or sum(s.rate_in) + sum(s.rate_out) > 0.001
order by sum(s.held) desc, t.name`
	limitKeysSQL = `
select k.user_name as user, k.tokens, k.at,
       coalesce(o.amount, 0) as amount, coalesce(o.per, interval '0') as per, coalesce(o.burst, 0) as burst,
       coalesce(o.weight, 1) as weight, o.user_name is not null as overridden, (k.held + coalesce(d.held, 0))::bigint as held,
       coalesce(r.rate_in, 0) as rate_in, coalesce(r.rate_out, 0) as rate_out
from (
    select user_name, tokens, at, held from sluice.limiter_key where tenant_id = $1 and limit_id = $2
    union all
    select o.user_name, 0, 'epoch', 0 from sluice.limiter_override o
    where o.tenant_id = $1 and o.limit_id = $2 and not exists (
        select from sluice.limiter_key n where n.tenant_id = $1 and n.limit_id = $2 and n.user_name = o.user_name)
) k
left join sluice.limiter_override o on o.tenant_id = $1 and o.limit_id = $2 and o.user_name = k.user_name
left join lateral (
    select sum(d.held) as held from sluice.limiter_delta d where d.tenant_id = $1 and d.limit_id = $2 and d.user_name = k.user_name
) d on true
left join lateral (
    select sum(` + decayed("l.rate_in", "l.metered_at") + `) as rate_in, sum(` + decayed("l.rate_out", "l.metered_at") + `) as rate_out
    from sluice.limiter_line l where l.tenant_id = $1 and l.limit_id = $2 and l.user_name = k.user_name
) r on true
`
	listKeysSQL    = limitKeysSQL + `where k.user_name > $3 order by k.user_name limit $4`
	oneKeySQL      = limitKeysSQL + `where k.user_name = $3`
	busiestKeysSQL = limitKeysSQL + `order by k.held desc, k.user_name limit $3`
)

// heldSQL counts held messages, and tells the last of them to arrive: on edges $3, of one user if $4 is not null; heldOfSQL
// only those of processes $5.
const (
	heldSQL = `
select count(*), coalesce(max(seq), 0) from sluice.limiter_hold
where tenant_id = $1 and limit_id = $2 and edge_id = any($3::bigint[]) and process_id is not null and ($4::text is null or user_name = $4)`
	heldOfSQL = heldSQL + ` and process_id = any($5::uuid[])`
)
