delete from sluice.authorization_open where key_id is null; -- they last ten minutes
alter table sluice.authorization_open drop column operator_id, alter column key_id set not null;
drop table sluice.session;
drop table sluice.operator_link;
drop table sluice.operator;
