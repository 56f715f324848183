-- What happened, counted by the minute, quarter of an hour, hour and day. Written by package queue/rollup alone: one runner
-- at a time counts the minutes that are over, in which nothing can change any more.
create table sluice.rollup (
    tenant_id   bigint      not null,
    scope       text        not null check (scope in ('all', 'edge', 'topology', 'application', 'worker')),
    step        smallint    not null check (step in (1, 15, 60, 1440)),  -- minutes
    at          timestamptz not null,                                    -- when it begins
    subject     text        not null collate "C",                        -- id of the edge or topology, name of the application or worker; all: empty
    events      bigint      not null default 0,  -- messages that came with an event; of several legs, one counts
    arrived     bigint      not null default 0,  -- messages that were made
    done        bigint      not null default 0,  -- attempts, by outcome
    filtered    bigint      not null default 0,
    failed      bigint      not null default 0,
    parked      bigint      not null default 0,
    retried     bigint      not null default 0,
    repeated    bigint      not null default 0,
    unavailable bigint      not null default 0,
    pages       bigint      not null default 0,
    latency_us  bigint      not null default 0,  -- of all calls that were answered, together
    latency     int[]       not null default '{}', -- how many of them by bucket; the subscripts are the buckets
    primary key (tenant_id, scope, step, at, subject)
);
alter table sluice.rollup enable row level security;
alter table sluice.rollup force row level security;
create policy wall on sluice.rollup using (
    (select current_setting('sluice.tenant_id', true)) = '*'
    or tenant_id = (select case when current_setting('sluice.tenant_id', true) ~ '^[0-9]{1,18}$'
                                then current_setting('sluice.tenant_id', true)::bigint end));

-- How far that is: one row, whose lock makes a runner the one that counts.
create table sluice.rollup_mark (
    only_one      boolean     primary key default true check (only_one),
    counted_from  timestamptz not null,          -- nothing before is counted
    minutes_until timestamptz not null,          -- everything before is
    quarters_until timestamptz not null,
    hours_until   timestamptz not null,
    days_until    timestamptz not null
) with (fillfactor = 50);
insert into sluice.rollup_mark (counted_from, minutes_until, quarters_until, hours_until, days_until)
select m, m, to_timestamp(floor(extract(epoch from m) / 900) * 900), date_trunc('hour', m at time zone 'utc') at time zone 'utc', date_trunc('day', m at time zone 'utc') at time zone 'utc'
from date_trunc('minute', now()) m;

-- The records of a minute are found through these. They come in the order of time, so the indexes are a few pages and cost
-- an insert nothing that could be measured. A partition that is made later has them from its parent; of those that are
-- there, the small ones get them here, and a runner sees to the others without stopping anyone.
set local lock_timeout = '2s';
create index attempt_at_idx on only sluice.attempt using brin (at) with (pages_per_range = 256, autosummarize = on);
create index message_created_at_idx on only sluice.message using brin (created_at) with (pages_per_range = 256, autosummarize = on);
do $$
declare
    part record;
begin
    for part in
        select c.relname as child, p.relname as parent, case p.relname when 'attempt' then 'at' else 'created_at' end as col
        from pg_inherits i
        join pg_class c on c.oid = i.inhrelid join pg_class p on p.oid = i.inhparent
        where p.relnamespace = 'sluice'::regnamespace and p.relname in ('attempt', 'message') and pg_relation_size(c.oid) < 64 << 20
        order by 2, 1
    loop
        execute format('create index %I on sluice.%I using brin (%I) with (pages_per_range = 256, autosummarize = on)',
                       part.child || '_' || part.col || '_idx', part.child, part.col);
        execute format('alter index sluice.%I attach partition sluice.%I',
                       part.parent || '_' || part.col || '_idx', part.child || '_' || part.col || '_idx');
    end loop;
end $$;
