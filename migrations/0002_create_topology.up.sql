-- Written by package queue/topology; worker by package queue.
create table sluice.topology (
    tenant_id          bigint      not null references sluice.tenant,
    id                 bigint      generated always as identity,
    name               text        not null,
    enabled_version_id bigint,              -- the one version that new events go to; null: disabled
    created_at         timestamptz not null default now(),
    deleted_at         timestamptz,         -- its versions stay: messages in flight finish, evidence keeps its names
    primary key (tenant_id, id)
);
create unique index topology_name_idx on sluice.topology (tenant_id, name) where deleted_at is null;

create table sluice.topology_version (
    tenant_id    bigint      not null,
    id           bigint      generated always as identity,
    topology_id  bigint      not null,
    number       int,                       -- given when the version is published; the draft, of which there is one, has none
    graph        jsonb       not null,
    source       text        not null,      -- the file as it was applied
    created_at   timestamptz not null default now(),
    created_by   text        not null,
    published_at timestamptz,
    published_by text,
    retired_at   timestamptz,               -- takes no new events any more; what is in flight finishes
    primary key (tenant_id, id),
    foreign key (tenant_id, topology_id) references sluice.topology,
    check ((number is null) = (published_at is null))
);
create unique index topology_version_number_idx on sluice.topology_version (tenant_id, topology_id, number);
create unique index topology_version_draft_idx on sluice.topology_version (tenant_id, topology_id) where number is null;

alter table sluice.topology add foreign key (tenant_id, enabled_version_id) references sluice.topology_version;

create table sluice.edge (
    tenant_id  bigint not null,
    id         bigint generated always as identity,   -- its River queue is named e<id>
    version_id bigint not null,
    from_node  text   not null,
    to_node    text   not null,
    primary key (tenant_id, id),
    foreign key (tenant_id, version_id) references sluice.topology_version,
    unique (tenant_id, version_id, from_node, to_node)
);
-- A queue's name leads to its edge, whose tenant is not known yet.
create unique index edge_id_idx on sluice.edge (id);

create table sluice.worker (
    tenant_id  bigint      not null references sluice.tenant,
    id         bigint      generated always as identity,
    name       text        not null check (name ~ '^[a-z0-9]+(-[a-z0-9]+)*$' and length(name) <= 63),
    url        text        not null check (length(url) <= 2000),
    secrets    text[]      not null,        -- signing secrets, newest first; every one signs
    created_at timestamptz not null default now(),
    removed_at timestamptz,                 -- kept while versions name it
    down_since timestamptz,                 -- set while a runner's circuit to it is open
    down_reason text,
    primary key (tenant_id, id)
);
create unique index worker_name_idx on sluice.worker (tenant_id, name) where removed_at is null;
