-- How long is kept what people have decided about, for each tenant: for ever, if it says nothing. Written by package trash.
create table sluice.trash_retention (
    tenant_id  bigint      primary key references sluice.tenant,
    rejected   interval    check (rejected >= interval '1 day'), -- since a process ended of which something was rejected; null: for ever
    resolved   interval    check (resolved >= interval '1 day'), -- since one ended of which something was sent again, and nothing rejected
    set_by     text        not null,
    set_at     timestamptz not null default now(),
    deleted    bigint      not null default 0,                   -- processes, since the tenant began
    deleted_at timestamptz                                       -- when some were deleted last
);
alter table sluice.trash_retention enable row level security;
alter table sluice.trash_retention force row level security;
create policy wall on sluice.trash_retention using (
    (select current_setting('sluice.tenant_id', true)) = '*'
    or tenant_id = (select case when current_setting('sluice.tenant_id', true) ~ '^[0-9]{1,18}$'
                                then current_setting('sluice.tenant_id', true)::bigint end));

-- Bulks say whose entries are, and remark, too.
alter table sluice.bulk add column assign_to text;
alter table sluice.bulk drop constraint bulk_action_check;
alter table sluice.bulk add constraint bulk_action_check check (action in ('approve', 'reject', 'edit', 'assign', 'comment')) not valid;
