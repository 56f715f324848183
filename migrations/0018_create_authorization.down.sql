alter table sluice.limiter_override drop column declared;
alter table sluice.limiter_limit drop column declared;
drop table sluice.declared_limit;
drop table sluice.authorization_open;
