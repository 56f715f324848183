drop table sluice.edge_count;
drop sequence sluice.edge_count_slot_seq;
