alter table sluice.worker drop constraint if exists worker_check;
alter table sluice.worker
    drop column protocol, drop column dialect, drop column listing, drop column listed_at, drop column listing_error;
