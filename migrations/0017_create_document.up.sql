-- What workers on Orchesty's SDK keep with their engine. Written by package queue/document.
--
-- settings and token are sealed by package queue/vault: who has the database does not have them.
create table sluice.application_install (
    tenant_id   bigint      not null references sluice.tenant,
    id          text        not null collate "C" check (id ~ '^[0-9a-f]{24}$'),
    user_name   text        not null collate "C" check (octet_length(user_name) <= 500),
    application text        not null collate "C" check (octet_length(application) <= 500),
    sdk         text        not null default '' collate "C" check (octet_length(sdk) <= 500), -- of dialect b
    enabled     boolean     not null default false,
    deleted_at  timestamptz,
    created_at  timestamptz not null default now(),
    updated_at  timestamptz not null default now(),
    settings    text        not null default '',
    plain       jsonb       not null default '{}',  -- the settings that are no secrets
    expires     text,                               -- as the worker wrote it
    expires_at  timestamptz,                        -- what that means
    primary key (tenant_id, id)
);
-- A user has an application once, whatever a worker tries.
create unique index application_install_user_idx on sluice.application_install (tenant_id, user_name, application, sdk) where deleted_at is null;
create index application_install_application_idx on sluice.application_install (tenant_id, application) where deleted_at is null;
create index application_install_expires_idx on sluice.application_install (tenant_id, expires_at) where deleted_at is null and expires_at is not null;

create table sluice.webhook (
    tenant_id          bigint      not null references sluice.tenant,
    id                 text        not null collate "C" check (id ~ '^[0-9a-f]{24}$'),
    name               text        not null collate "C",
    user_name          text        not null collate "C" check (octet_length(user_name) <= 500),
    application        text        not null collate "C" check (octet_length(application) <= 500),
    sdk                text        not null default '' collate "C",
    topology           text        not null collate "C",
    node               text        not null collate "C",
    token              text        not null,
    token_digest       bytea       not null,      -- half a SHA-256 of it, to find it by
    webhook_id         text        not null default '', -- that the application gave it
    unsubscribe_failed boolean     not null default false,
    deleted_at         timestamptz,
    created_at         timestamptz not null default now(),
    updated_at         timestamptz not null default now(),
    primary key (tenant_id, id)
);
create index webhook_user_idx on sluice.webhook (tenant_id, application, user_name) where deleted_at is null;
-- Who calls a webhook names no tenant.
create index webhook_token_idx on sluice.webhook (token_digest) where deleted_at is null;

-- What workers report of what they do: calls of applications, and lines for people. Written by package queue/report, which
-- removes them after some days.
create table sluice.reported_call (
    tenant_id   bigint      not null,
    at          timestamptz not null default now(),
    process_id  uuid,                          -- null: of none
    node_id     text        not null,          -- as workers know it
    user_name   text        not null,
    application text        not null,
    url         text        not null,
    status      int         not null,          -- 0: none
    duration_ms int         not null
);
create index reported_call_process_idx on sluice.reported_call (tenant_id, process_id) where process_id is not null;
create index reported_call_at_idx on sluice.reported_call (at);

create table sluice.reported_line (
    tenant_id  bigint      not null,
    at         timestamptz not null default now(),
    process_id uuid,
    node_id    text        not null,
    level      text        not null,
    message    text        not null,
    trace      text        not null
);
create index reported_line_process_idx on sluice.reported_line (tenant_id, process_id) where process_id is not null;
create index reported_line_at_idx on sluice.reported_line (at);

do $$
declare
    name text;
begin
    foreach name in array array['application_install', 'webhook', 'reported_call', 'reported_line'] loop
        execute format('alter table sluice.%I enable row level security', name);
        execute format('alter table sluice.%I force row level security', name);
        execute format($policy$
            create policy wall on sluice.%I using (
                (select current_setting('sluice.tenant_id', true)) = '*'
                or tenant_id = (select case when current_setting('sluice.tenant_id', true) ~ '^[0-9]{1,18}$'
                                            then current_setting('sluice.tenant_id', true)::bigint end))$policy$, name);
    end loop;
end $$;

-- A key of a worker may do what the SDK does, and nothing else.
alter table sluice.api_key drop constraint api_key_scopes_check;
alter table sluice.api_key add constraint api_key_scopes_check
    check (scopes <@ array['ingest', 'worker', 'operate', 'admin'] and cardinality(scopes) > 0) not valid;
