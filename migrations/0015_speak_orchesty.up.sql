-- What a worker speaks, and what one that can be asked said that it has. Written by package queue.
alter table sluice.worker add column protocol text not null default 'sluice' check (protocol in ('sluice', 'orchesty'));
alter table sluice.worker add column dialect text check (dialect in ('a', 'b'));
alter table sluice.worker add check ((protocol = 'orchesty') = (dialect is not null));
alter table sluice.worker add column listing jsonb;          -- its nodes and applications, when it was last asked with success
alter table sluice.worker add column listed_at timestamptz;  -- when that was
alter table sluice.worker add column listing_error text;     -- why it could not be asked since; null: it could
