-- Written by package queue; what people decide about the trash also by package trash. Read by queue/process too.
--
-- Everything that one event set off lies in one day: process, message and attempt are partitioned by the process's id,
-- a UUIDv7 made from the database's clock, so that a whole day of history goes by dropping three partitions, and a look-up
-- by process touches one. No foreign keys: the hand-off writes these rows in the statement that moves the job.
--
-- process is the one row that changes as messages move: counters only, none of them indexed, in pages with room, so
-- that updates stay HOT.
create table sluice.process (
    tenant_id   bigint      not null,
    id          uuid        not null,            -- the correlation id
    version_id  bigint      not null,
    node        text        not null,            -- the start node that the event came to
    total       int         not null,            -- messages accepted and produced
    open        int         not null,            -- on an edge: waiting, running, held or retrying
    trashed     int         not null default 0,  -- in the trash
    done        int         not null default 0,  -- finished, filtered, or replaced by an edit
    rejected    int         not null default 0,
    terminated  int         not null default 0,
    started_at  timestamptz not null default now(),
    finished_at timestamptz,                     -- set once, when nothing is open and nothing in the trash
    primary key (tenant_id, id)
) partition by range (id);
create index process_version_idx on sluice.process (tenant_id, version_id, id);
create table sluice.process_default partition of sluice.process default;

-- A message's row is its birth certificate: written once, never changed. Where the message is now is told by its one
-- ticket: its job in river.river_job (on its edge), its row in trash (failed), or neither (settled, as its last attempt
-- or a decision says). The job and the message have the same number.
create table sluice.message (
    tenant_id  bigint      not null,
    process_id uuid        not null,
    id         bigint      not null,             -- from river.river_job_id_seq
    edge_id    bigint      not null,
    parent_id  bigint,                           -- the message whose node made it; null: it came with the event
    payload_id bigint,                           -- the message of this process that has the same body; null: this one has it
    created_at timestamptz not null default now(),
    headers    jsonb       not null,
    body       bytea,
    primary key (tenant_id, process_id, id)
) partition by range (process_id);
-- Large bodies are compressed; lz4 costs a tenth of the default's time where the server was built with it.
do $$
begin
    alter table sluice.message alter column body set compression lz4;
exception when feature_not_supported then null;
end $$;
create table sluice.message_default partition of sluice.message default;

create type sluice.outcome as enum (
    'done', 'filtered',        -- settled
    'page',                    -- a page of a batch; the message goes on with the next
    'repeat',                  -- the worker asked to be called again later
    'retried',                 -- failed, and is tried again
    'unavailable',             -- the worker could not be reached; does not use up an attempt
    'failed'                   -- gave up: in the trash
);

create table sluice.attempt (
    tenant_id   bigint         not null,
    process_id  uuid           not null,
    message_id  bigint         not null,
    edge_id     bigint         not null,
    runner_id   bigint         not null,
    attempt     int            not null,
    page        int            not null,         -- of a batch, from 1; 0 at other nodes
    outcome     sluice.outcome not null,
    status      int,                             -- HTTP status, where there was one
    duration_us int            not null,         -- of the call, by the runner's monotonic clock
    at          timestamptz    not null default now(),   -- of the commit
    reason      text
) partition by range (process_id);
create index attempt_message_idx on sluice.attempt (tenant_id, process_id, message_id);
create table sluice.attempt_default partition of sluice.attempt default;

-- Where a batch node goes on: committed with the page before.
create table sluice.batch_cursor (
    tenant_id  bigint not null,
    process_id uuid   not null,
    message_id bigint not null,
    page       int    not null,                  -- the next page's number; page 1 needs no row
    cursor     text   not null,
    primary key (tenant_id, process_id, message_id)
);

-- The ticket of a message that failed. It stays until someone decides.
create table sluice.trash (
    tenant_id   bigint      not null,
    process_id  uuid        not null,
    message_id  bigint      not null,
    edge_id     bigint      not null,
    attempt     int         not null,            -- attempts so far; an approved message counts on from here
    reason      text        not null,
    failed_at   timestamptz not null default now(),
    edit_id     bigint,                          -- the decision that holds the edited headers and body
    primary key (tenant_id, process_id, message_id)
);
create index trash_message_idx on sluice.trash (tenant_id, message_id);
create index trash_edge_idx on sluice.trash (tenant_id, edge_id, message_id);

-- What people decided about messages. Rows are added, never changed.
create table sluice.decision (
    tenant_id   bigint      not null,
    id          bigint      generated always as identity,
    process_id  uuid        not null,
    message_id  bigint      not null,
    verdict     text        not null check (verdict in ('approve', 'edit', 'replace', 'reject', 'terminate', 'trash')),
    decided_by  text        not null,
    decided_at  timestamptz not null default now(),
    reason      text        not null default '',
    replaced_by bigint,                          -- of a replace: the message that goes on with the edited content
    headers     jsonb,                           -- of an edit
    body        bytea,                           -- of an edit
    primary key (tenant_id, id)
);
create index decision_message_idx on sluice.decision (tenant_id, process_id, message_id);

-- The idempotency ledger: narrow, and not partitioned, because a unique index that must contain a partition key does
-- not deduplicate.
create table sluice.idempotency_key (
    tenant_id   bigint      not null,
    digest      bytea       not null,            -- of topology, node and key
    body_digest bytea       not null,
    process_id  uuid        not null,
    created_at  timestamptz not null default now(),
    primary key (tenant_id, digest)
);
-- Rows come in the order of time, so this index costs an insert nothing that could be measured.
create index idempotency_key_created_at_idx on sluice.idempotency_key using brin (created_at);
