-- Order. The messages before a node that keeps order wait in lanes, one for each key, and are no jobs: a lane in which
-- messages wait has exactly one job, its token, and whoever holds the token works the lane from its head. So a queue
-- holds at most one runnable job a key, and a key that is blocked costs the others nothing. Written by package queue.
--
-- Places in a lane are given under the lock of its row, so they are in the order of commits. Job numbers are not: runners
-- take them in blocks. None of the columns that change is indexed, and pages have room, so that updates stay HOT.
create table sluice.lane (
    tenant_id  bigint      not null,
    edge_id    bigint      not null,             -- the first of the edges that lead to the node: it stands for the node
    key        text        not null,
    head       bigint      not null default 1,   -- nobody waits at a place before it
    tail       bigint      not null default 1,   -- the place of the next that comes
    token      bigint,                           -- the job that stands for the lane; null: nothing waits
    before     int         not null default 0,   -- claims of the token that were not for the message at the head
    failures   int         not null default 0,   -- attempts that the message at the head has used up
    idle_since timestamptz          default now(),   -- null while messages wait; a lane that is idle for long is forgotten
    primary key (tenant_id, edge_id, key)
) with (fillfactor = 50);

create table sluice.lane_message (
    tenant_id  bigint not null,
    edge_id    bigint not null,                  -- of the lane
    key        text   not null,
    place      bigint not null,
    process_id uuid   not null,
    message_id bigint not null,
    via_id     bigint not null,                  -- the edge that the message is on
    attempts   int    not null,                  -- that it had before it came here: one that was approved counts on
    primary key (tenant_id, edge_id, key, place)
);
create index lane_message_process_idx on sluice.lane_message (tenant_id, process_id, message_id);

-- What a message needs to go back to its lane when it is approved.
alter table sluice.trash add column lane_key text;

-- A statement that finds that the ground has moved under it calls this: the sender tries again.
create function sluice.try_again(why text) returns bigint language plpgsql as $$
begin
    raise exception using errcode = 'serialization_failure', message = why;
end $$;

do $$
declare
    name text;
begin
    foreach name in array array['lane', 'lane_message'] loop
        execute format('alter table sluice.%I enable row level security', name);
        execute format('alter table sluice.%I force row level security', name);
        execute format($policy$
            create policy wall on sluice.%I using (
                (select current_setting('sluice.tenant_id', true)) = '*'
                or tenant_id = (select case when current_setting('sluice.tenant_id', true) ~ '^[0-9]{1,18}$'
                                            then current_setting('sluice.tenant_id', true)::bigint end))$policy$, name);
    end loop;
end $$;
