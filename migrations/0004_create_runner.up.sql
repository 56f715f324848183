-- Written by package queue.
--
-- A runner works messages while its lease lasts. Every life of a runner has a new id, which stands in the jobs that it
-- has claimed; when the lease is over, anyone may take those over. A runner belongs to no tenant.
create table sluice.runner (
    id          bigint      generated always as identity primary key,
    name        text        not null,            -- host and process, for people
    started_at  timestamptz not null default clock_timestamp(),
    lease_until timestamptz not null
) with (fillfactor = 50);

-- The table that everything runs through is small and hot: vacuum it by count, not by share, and never wait long.
alter table river.river_job set (
    autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 2000,
    autovacuum_analyze_scale_factor = 0.05, autovacuum_analyze_threshold = 2000,
    autovacuum_vacuum_insert_scale_factor = 0.2,
    autovacuum_vacuum_cost_delay = 1
);

-- The alarm: which retries are due next. Only rows that wait for a time are in it.
create index river_job_alarm_idx on river.river_job (scheduled_at) where state in ('retryable', 'scheduled');
