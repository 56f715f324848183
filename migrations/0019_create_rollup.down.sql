drop index sluice.message_created_at_idx;
drop index sluice.attempt_at_idx;
drop table sluice.rollup_mark;
drop table sluice.rollup;
