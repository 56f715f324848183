-- The trash as a list that can be sorted and searched, however long it is: by the time of failure, and by cause. Written
-- by package queue, which also fills the entries that were there before, some thousands at a time.
alter table sluice.trash add column class text;   -- what kind of failure; null: not sorted yet
alter table sluice.trash add column cause bigint; -- of the reason without what differs from message to message: its hash

create index trash_failed_idx on sluice.trash (tenant_id, failed_at, message_id);
create index trash_edge_failed_idx on sluice.trash (tenant_id, edge_id, failed_at, message_id);
create index trash_cause_idx on sluice.trash (tenant_id, cause, failed_at, message_id);
create index trash_class_idx on sluice.trash (tenant_id, class, failed_at, message_id);
create index trash_unsorted_idx on sluice.trash (tenant_id, process_id, message_id) where class is null;

-- Lists went by the number of the message.
drop index sluice.trash_edge_idx;
drop index sluice.trash_message_idx;
