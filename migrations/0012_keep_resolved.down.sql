select set_config('sluice.tenant_id', '*', true);
delete from sluice.bulk_item where (tenant_id, bulk_id) in (select tenant_id, id from sluice.bulk where action in ('assign', 'comment'));
delete from sluice.bulk where action in ('assign', 'comment');
alter table sluice.bulk drop constraint bulk_action_check;
alter table sluice.bulk add constraint bulk_action_check check (action in ('approve', 'reject', 'edit'));
alter table sluice.bulk drop column assign_to;
drop table sluice.trash_retention;
