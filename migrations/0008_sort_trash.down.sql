create index trash_message_idx on sluice.trash (tenant_id, message_id);
create index trash_edge_idx on sluice.trash (tenant_id, edge_id, message_id);
drop index sluice.trash_unsorted_idx;
drop index sluice.trash_class_idx;
drop index sluice.trash_cause_idx;
drop index sluice.trash_edge_failed_idx;
drop index sluice.trash_failed_idx;
alter table sluice.trash drop column cause;
alter table sluice.trash drop column class;
