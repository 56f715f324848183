-- What was decided, by when: for the retention. Alone in its file, as an index that is built beside traffic must be.
create index concurrently decision_verdict_idx on sluice.decision (tenant_id, verdict, decided_at, id);
