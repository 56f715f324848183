-- What a worker answered when an attempt failed: its headers, and the start of its body.
alter table sluice.attempt add column response jsonb;
