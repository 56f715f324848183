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

do $$
begin
    execute 'alter table sluice.authorization_open enable row level security';
    execute 'alter table sluice.authorization_open force row level security';
    execute $policy$
        create policy wall on sluice.authorization_open using (
            (select current_setting('sluice.tenant_id', true)) = '*'
            or tenant_id = (select case when current_setting('sluice.tenant_id', true) ~ '^[0-9]{1,18}$'
                                        then current_setting('sluice.tenant_id', true)::bigint end))$policy$;
end $$;
