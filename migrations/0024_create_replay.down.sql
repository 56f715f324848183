drop table sluice.replay;
