drop index river.river_job_alarm_idx;
alter table river.river_job reset (
    autovacuum_vacuum_scale_factor, autovacuum_vacuum_threshold,
    autovacuum_analyze_scale_factor, autovacuum_analyze_threshold,
    autovacuum_vacuum_insert_scale_factor, autovacuum_vacuum_cost_delay
);
drop table sluice.runner;
