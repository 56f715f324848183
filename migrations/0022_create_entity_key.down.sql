drop table sluice.entity_key;
