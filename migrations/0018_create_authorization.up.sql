-- Authorizations of applications that people are about to give, and limits that applications declare. Written by package
-- queue.

-- Who gave consent at a third party comes back with a state that only we know. It is kept by its digest, works once, and
-- leads to whose application it is for.
create table sluice.authorization_open (
    tenant_id   bigint      not null references sluice.tenant,
    digest      bytea       not null check (octet_length(digest) = 32), -- SHA-256 of the state
    worker      text        not null,
    application text        not null,
    user_name   text        not null collate "C",
    state       text        not null,      -- the worker's own
    return_to   text        not null,
    key_id      bigint      not null,      -- of the API key that began it
    started_by  text        not null,
    expires_at  timestamptz not null,
    primary key (tenant_id, digest)
);
-- Who comes back names no tenant.
create index authorization_open_digest_idx on sluice.authorization_open (digest);
-- The newest of a user's application is the one that counts.
create unique index authorization_open_user_idx on sluice.authorization_open (tenant_id, worker, application, user_name);

-- What an application of a user allows, as its worker said last. It stays when the worker does not say.
create table sluice.declared_limit (
    tenant_id    bigint      not null references sluice.tenant,
    application  text        not null collate "C",
    user_name    text        not null collate "C",
    worker       text        not null,
    tried_at     timestamptz not null,             -- when the worker was asked last
    asked_at     timestamptz,                      -- when it said; null: never
    error        text,                             -- why it did not say; null: it did
    amount       double precision check (amount > 0), -- calls of the user in each "per"; null: any number
    per          interval    check (per > interval '0'),
    total_amount double precision check (total_amount > 0), -- the same for all users together
    total_per    interval    check (total_per > interval '0'),
    primary key (tenant_id, application, user_name),
    check ((amount is null) = (per is null) and (total_amount is null) = (total_per is null))
);

-- A limit that a worker declared gives way to one that an operator sets.
alter table sluice.limiter_limit add column declared boolean not null default false;
alter table sluice.limiter_override add column declared boolean not null default false;

do $$
declare
    name text;
begin
    foreach name in array array['authorization_open', 'declared_limit'] loop
        execute format('alter table sluice.%I enable row level security', name);
        execute format('alter table sluice.%I force row level security', name);
        execute format($policy$
            create policy wall on sluice.%I using (
                (select current_setting('sluice.tenant_id', true)) = '*'
                or tenant_id = (select case when current_setting('sluice.tenant_id', true) ~ '^[0-9]{1,18}$'
                                            then current_setting('sluice.tenant_id', true)::bigint end))$policy$, name);
    end loop;
end $$;
