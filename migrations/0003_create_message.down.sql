drop table sluice.idempotency_key, sluice.decision, sluice.trash, sluice.batch_cursor,
    sluice.attempt, sluice.message, sluice.process;
drop type sluice.outcome;
