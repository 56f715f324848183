-- People who sign in at the screens, and the sessions in which they act. Written by package gateway/auth.

create table sluice.operator (
    tenant_id   bigint      not null references sluice.tenant,
    id          bigint      generated always as identity,
    name        text        not null check (length(name) between 1 and 200),
    password    text,                          -- argon2id with its parameters and salt; null: enters by a link only
    scopes      text[]      not null check (scopes <@ array['operate', 'admin'] and cardinality(scopes) > 0),
    created_at  timestamptz not null default now(),
    created_by  text        not null,
    disabled_at timestamptz,
    primary key (tenant_id, id)
);
create unique index operator_name_idx on sluice.operator (tenant_id, name);

-- A link that lets an operator in once, kept by its digest. An operator has one at most: a new one ends the one before.
create table sluice.operator_link (
    tenant_id   bigint      not null references sluice.tenant,
    operator_id bigint      not null,
    digest      bytea       not null check (octet_length(digest) = 32), -- SHA-256 of what the link carries
    expires_at  timestamptz not null,
    primary key (tenant_id, operator_id),
    foreign key (tenant_id, operator_id) references sluice.operator (tenant_id, id)
);
-- Who comes by a link names no tenant.
create index operator_link_digest_idx on sluice.operator_link (digest);

-- What a browser holds is kept by its digest too, so that who reads the database can be nobody.
create table sluice.session (
    tenant_id   bigint      not null references sluice.tenant,
    digest      bytea       not null check (octet_length(digest) = 32), -- SHA-256 of the cookie
    operator_id bigint      not null,
    by_link     boolean     not null default false, -- who came by a link may set a password without the one before
    created_at  timestamptz not null default now(),
    expires_at  timestamptz not null,
    primary key (tenant_id, digest),
    foreign key (tenant_id, operator_id) references sluice.operator (tenant_id, id)
);
create index session_digest_idx on sluice.session (digest);
create index session_operator_idx on sluice.session (tenant_id, operator_id);

do $$
declare
    name text;
begin
    foreach name in array array['operator', 'operator_link', 'session'] loop
        execute format('alter table sluice.%I enable row level security', name);
        execute format('alter table sluice.%I force row level security', name);
        execute format($policy$
            create policy wall on sluice.%I using (
                (select current_setting('sluice.tenant_id', true)) = '*'
                or tenant_id = (select case when current_setting('sluice.tenant_id', true) ~ '^[0-9]{1,18}$'
                                            then current_setting('sluice.tenant_id', true)::bigint end))$policy$, name);
    end loop;
end $$;

-- An authorization is begun by a program or by an operator, who must still be good when it ends.
alter table sluice.authorization_open alter column key_id drop not null, add column operator_id bigint;
