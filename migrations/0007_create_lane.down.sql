-- Messages that wait in lanes become jobs again, in whatever order.
select set_config('sluice.tenant_id', '*', true);
delete from river.river_job where kind = 'lane';
insert into river.river_job (id, args, kind, max_attempts, queue)
select message_id, jsonb_build_object('process_id', process_id), 'message', 32767, 'e' || via_id from sluice.lane_message;
alter table sluice.trash drop column lane_key;
drop table sluice.lane_message;
drop table sluice.lane;
drop function sluice.try_again;
