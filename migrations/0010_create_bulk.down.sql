drop table sluice.bulk_item;
drop table sluice.bulk;
