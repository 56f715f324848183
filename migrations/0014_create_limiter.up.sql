-- Limits of applications, and the messages that they hold. Written by package queue.
--
-- A message for a limited application that has no token yet has no job: it is a row of limiter_hold, inserted and deleted and
-- never changed, and becomes a job, claimed at its birth, when it is released. Whoever holds a message only adds rows
-- (the message and a change of the counts), so hand-offs never wait for the limiter. Whoever releases locks the gate: all
-- that is about one application's tokens is read and written under that lock.

-- What is allowed. A limit is never deleted, as messages may be held by it: without amounts it lets everything pass.
create table sluice.limiter_limit (
    tenant_id     bigint           not null references sluice.tenant,
    id            bigint           generated always as identity,
    application   text             not null check (length(application) between 1 and 200),
    amount        double precision check (amount > 0),    -- calls of one user in each "per"; null: any number
    per           interval         check (per > interval '0'),
    burst         double precision check (burst >= 1),    -- at once, after a rest
    total_amount  double precision check (total_amount > 0), -- the same for all users together
    total_per     interval         check (total_per > interval '0'),
    total_burst   double precision check (total_burst >= 1),
    parallel      int              check (parallel > 0),  -- calls at the same time; null: any number
    weights       jsonb            not null default '{}', -- of topologies, by name, among those that share a key
    paused_at     timestamptz,
    paused_by     text,
    raise         double precision not null default 1 check (raise > 0), -- times as much ...
    raised_until  timestamptz,                            -- ... until then
    removed_at    timestamptz,
    primary key (tenant_id, id),
    check ((amount is null) = (per is null) and (amount is null) = (burst is null)),
    check ((total_amount is null) = (total_per is null) and (total_amount is null) = (total_burst is null))
);
create unique index limiter_limit_application_idx on sluice.limiter_limit (tenant_id, application);

-- What is other for one user.
create table sluice.limiter_override (
    tenant_id bigint           not null,
    limit_id  bigint           not null,
    user_name text             not null collate "C",
    amount    double precision check (amount > 0),
    per       interval         check (per > interval '0'),
    burst     double precision check (burst >= 1),
    weight    double precision not null default 1 check (weight > 0), -- among the users, when there is not enough for all
    primary key (tenant_id, limit_id, user_name),
    foreign key (tenant_id, limit_id) references sluice.limiter_limit,
    check ((amount is null) = (per is null) and (amount is null) = (burst is null))
);

-- The fence of an application, and its bucket for all users together.
create table sluice.limiter_gate (
    tenant_id     bigint           not null,
    limit_id      bigint           not null,
    tokens        double precision not null default 0,
    at            timestamptz      not null default 'epoch',  -- of the tokens; epoch: the bucket is full
    vtime         double precision not null default 0,
    closed_until  timestamptz      not null default 'epoch',  -- by the word of the application
    slow          double precision not null default 1 check (slow > 0), -- the share of the limit that it bears now
    slowed_at     timestamptz      not null default 'epoch',
    owner         bigint           not null default 0,        -- the runner that is to look next
    granted_until timestamptz      not null default 'epoch',  -- up to when starts have been given out
    owed_at       timestamptz      not null default 'epoch',  -- what was given out until then was given out by another runner
    held          bigint           not null default 0,        -- without what deltas say
    next_at       timestamptz      not null default 'infinity', -- when to look next
    rate_in       double precision not null default 0,        -- messages a second, a moving mean at metered_at
    rate_out      double precision not null default 0,
    metered_at    timestamptz      not null default 'epoch',
    primary key (tenant_id, limit_id),
    foreign key (tenant_id, limit_id) references sluice.limiter_limit
) with (fillfactor = 50);
create index limiter_gate_next_at_idx on sluice.limiter_gate (next_at) where next_at < 'infinity';

-- A user's bucket. It is made when the first of its messages is held.
create table sluice.limiter_key (
    tenant_id bigint           not null,
    limit_id  bigint           not null,
    user_name text             not null collate "C",
    tokens    double precision not null default 0,
    at        timestamptz      not null default 'epoch',
    tag       double precision not null default 0,            -- the virtual time at which it is its turn
    vtime     double precision not null default 0,            -- of its lines
    held      bigint           not null default 0,
    ready_at  timestamptz      not null default 'epoch',      -- when it has a token; epoch: now
    primary key (tenant_id, limit_id, user_name)
) with (fillfactor = 50);
create index limiter_key_ready_idx on sluice.limiter_key (tenant_id, limit_id, tag) where held > 0 and ready_at = 'epoch';
create index limiter_key_blocked_idx on sluice.limiter_key (tenant_id, limit_id, ready_at) where held > 0 and ready_at > 'epoch';

-- The messages of a key on one edge.
create table sluice.limiter_line (
    tenant_id   bigint           not null,
    limit_id    bigint           not null,
    user_name   text             not null collate "C",
    edge_id     bigint           not null,
    topology_id bigint           not null,
    tag         double precision not null default 0,
    held        bigint           not null default 0,
    rate_in     double precision not null default 0,
    rate_out    double precision not null default 0,
    metered_at  timestamptz      not null default 'epoch',
    primary key (tenant_id, limit_id, user_name, edge_id)
) with (fillfactor = 50);

-- Only for those who say so: what looks for the lines of a user must not be planned by it.
create index limiter_line_edge_idx on sluice.limiter_line (tenant_id, limit_id, edge_id) where topology_id >= 0;

create sequence sluice.limiter_seq;

create table sluice.limiter_hold (
    tenant_id  bigint      not null,
    edge_id    bigint      not null,
    user_name  text        not null collate "C",
    seq        bigint      not null,          -- the order of arrival; a message that comes back has the one that it had
    limit_id   bigint      not null,
    process_id uuid,                          -- null: it is the token of a lane
    job_id     bigint      not null,          -- the message's number
    attempt    int         not null default 0, -- that its job had
    args       jsonb,                         -- of a token
    metadata   jsonb,                         -- of the job; null: {}
    held_at    timestamptz not null default now(),
    primary key (tenant_id, edge_id, user_name, seq)
);
create index limiter_hold_process_idx on sluice.limiter_hold (tenant_id, process_id, job_id);

-- What has come to lines and gone from them without the gate's lock: whoever holds that folds it in.
create table sluice.limiter_delta (
    tenant_id   bigint not null,
    limit_id    bigint not null,
    user_name   text   not null collate "C",
    edge_id     bigint not null,
    topology_id bigint not null,
    held        int    not null,
    arrived     int    not null
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_insert_threshold = 500, autovacuum_vacuum_cost_delay = 0);
create index limiter_delta_limit_idx on sluice.limiter_delta (tenant_id, limit_id);

do $$
declare
    name text;
begin
    foreach name in array array['limiter_limit', 'limiter_override', 'limiter_gate', 'limiter_key', 'limiter_line', 'limiter_hold', 'limiter_delta'] loop
        execute format('alter table sluice.%I enable row level security', name);
        execute format('alter table sluice.%I force row level security', name);
        execute format($policy$
            create policy wall on sluice.%I using (
                (select current_setting('sluice.tenant_id', true)) = '*'
                or tenant_id = (select case when current_setting('sluice.tenant_id', true) ~ '^[0-9]{1,18}$'
                                            then current_setting('sluice.tenant_id', true)::bigint end))$policy$, name);
    end loop;
end $$;
