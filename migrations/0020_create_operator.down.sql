drop table sluice.session;
drop table sluice.operator_link;
drop table sluice.operator;
