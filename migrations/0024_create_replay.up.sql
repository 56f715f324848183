-- Processes that repeat what another process did: from its start, or from one of its messages. Written by package queue in
-- the transaction that accepts the replay; a process without a row here was set off by an event.
create table sluice.replay (
    tenant_id         bigint      not null,
    process_id        uuid        not null,          -- the replay
    source_process_id uuid        not null,
    source_message_id bigint,                        -- null: from the start
    replayed_by       text        not null,
    replayed_at       timestamptz not null default now(),
    reason            text        not null default '',
    primary key (tenant_id, process_id)
);
-- What has been replayed of a process.
create index replay_source_idx on sluice.replay (tenant_id, source_process_id, process_id);
alter table sluice.replay enable row level security;
alter table sluice.replay force row level security;
create policy wall on sluice.replay using (
    (select current_setting('sluice.tenant_id', true)) = '*'
    or tenant_id = (select case when current_setting('sluice.tenant_id', true) ~ '^[0-9]{1,18}$'
                                then current_setting('sluice.tenant_id', true)::bigint end));
