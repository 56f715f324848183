drop table sluice.authorization_open;
