-- Workers that nobody can reach come and take their calls. A key may be bound to one of them.
alter table sluice.worker add column pull boolean not null default false;

-- Calls that wait to be taken, are worked, or have an answer that nobody has seen yet. Written by package queue/pull.
-- Unlogged, as a call is no message's ticket: what a crash takes is made again, under the same idempotency key.
create unlogged table sluice.pull_call (
    tenant_id     bigint      not null,
    worker        text        not null collate "C",
    id            uuid        not null,             -- grows with time
    caller        uuid        not null,             -- the process that waits for the answer
    deadline      timestamptz not null,
    method        text        not null,
    path          text        not null,
    headers       json        not null,
    body          bytea       not null,
    token         uuid,                             -- of who took it last
    lease_until   timestamptz,
    status        int,                              -- null: no answer yet
    reply_headers json,
    reply         bytea,
    primary key (tenant_id, worker, id)
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
alter table sluice.pull_call alter column body set storage external, alter column reply set storage external;
create index pull_call_caller_idx on sluice.pull_call (caller);
create index pull_call_answer_idx on sluice.pull_call (caller, id) where status is not null;

-- When somebody last asked for calls of a worker.
create unlogged table sluice.pull_presence (
    tenant_id bigint      not null,
    worker    text        not null collate "C",
    seen_at   timestamptz not null default now(),
    primary key (tenant_id, worker)
) with (fillfactor = 50);

do $$
declare
    name text;
begin
    foreach name in array array['pull_call', 'pull_presence'] loop
        execute format('alter table sluice.%I enable row level security', name);
        execute format('alter table sluice.%I force row level security', name);
        execute format($policy$
            create policy wall on sluice.%I using (
                (select current_setting('sluice.tenant_id', true)) = '*'
                or tenant_id = (select case when current_setting('sluice.tenant_id', true) ~ '^[0-9]{1,18}$'
                                            then current_setting('sluice.tenant_id', true)::bigint end))$policy$, name);
    end loop;
end $$;

alter table sluice.api_key add column worker text collate "C"; -- the only one whose calls it takes; null: any
alter table sluice.api_key drop constraint api_key_scopes_check;
alter table sluice.api_key add constraint api_key_scopes_check
    check (scopes <@ array['ingest', 'worker', 'pull', 'operate', 'admin'] and cardinality(scopes) > 0) not valid;
alter table sluice.api_key add constraint api_key_worker_check check (worker is null or scopes = '{pull}') not valid;
