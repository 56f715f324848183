-- What someone does about many entries of the trash at once. Written by package trash.
--
-- The entries are chosen once, when a bulk is previewed, and worked in the order of their messages. How far it has come is
-- written in the transaction that decides about the entries, so that each is decided about once, whoever stops when.
create table sluice.bulk (
    tenant_id     bigint      not null references sluice.tenant,
    id            bigint      generated always as identity,
    action        text        not null check (action in ('approve', 'reject', 'edit')),
    state         text        not null check (state in ('preview', 'running', 'paused', 'cancelled', 'done')),
    filter        jsonb       not null,              -- by which the entries were chosen, for the record
    change        jsonb       not null default '{}', -- of the content
    version       int,                               -- in which approved messages go on
    reason        text        not null,
    rate          double precision check (rate > 0), -- entries a second; null: as fast as it goes
    total         int         not null default 0,    -- entries that were chosen
    more          boolean     not null default false, -- there were more than one bulk takes
    done          int         not null default 0,
    failed        int         not null default 0,    -- about which nothing could be decided: their items say why
    position      bigint      not null default 0,    -- items up to this message are decided
    next_at       timestamptz,                       -- of one that is running: not before then
    created_by    text        not null,
    created_at    timestamptz not null default now(),
    started_by    text,
    started_at    timestamptz,
    finished_at   timestamptz,
    items_dropped boolean     not null default false, -- those that went well
    primary key (tenant_id, id)
);
create index bulk_next_idx on sluice.bulk (next_at) where state = 'running';
create index bulk_left_idx on sluice.bulk (created_at) where not items_dropped and state in ('preview', 'cancelled', 'done');

create table sluice.bulk_item (
    tenant_id  bigint not null,
    bulk_id    bigint not null,
    message_id bigint not null,
    process_id uuid   not null,
    revision   bigint not null,   -- of the entry that was previewed: another is left alone
    error      text,              -- why nothing was decided
    primary key (tenant_id, bulk_id, message_id)
);
create index bulk_item_error_idx on sluice.bulk_item (tenant_id, bulk_id, message_id) where error is not null;

do $$
declare
    name text;
begin
    foreach name in array array['bulk', 'bulk_item'] loop
        execute format('alter table sluice.%I enable row level security', name);
        execute format('alter table sluice.%I force row level security', name);
        execute format($policy$
            create policy wall on sluice.%I using (
                (select current_setting('sluice.tenant_id', true)) = '*'
                or tenant_id = (select case when current_setting('sluice.tenant_id', true) ~ '^[0-9]{1,18}$'
                                            then current_setting('sluice.tenant_id', true)::bigint end))$policy$, name);
    end loop;
end $$;
