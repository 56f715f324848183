-- What processes are about, as their topologies declare it: written by package queue in the transaction that makes the
-- message, read by queue/process and trash. One row a process, kind and value, partitioned with the process.
create table sluice.entity_key (
    tenant_id  bigint not null,
    process_id uuid   not null,
    kind       text   not null collate "C",
    value      text   not null collate "C",
    message_id bigint not null,                  -- the first that had it
    primary key (tenant_id, process_id, kind, value)
) partition by range (process_id);
-- By value, newest first; the kind comes behind it, so that the kinds of a value are found too.
create index entity_key_value_idx on sluice.entity_key (tenant_id, value, kind, process_id desc);
create table sluice.entity_key_default partition of sluice.entity_key default;
alter table sluice.entity_key enable row level security;
alter table sluice.entity_key force row level security;
create policy wall on sluice.entity_key using (
    (select current_setting('sluice.tenant_id', true)) = '*'
    or tenant_id = (select case when current_setting('sluice.tenant_id', true) ~ '^[0-9]{1,18}$'
                                then current_setting('sluice.tenant_id', true)::bigint end));
-- A partition asked for by its own name shows nothing to anyone: the policy is on the parent.
alter table sluice.entity_key_default enable row level security;
alter table sluice.entity_key_default force row level security;
