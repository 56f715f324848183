-- What edges hold and how fast, without counting jobs: every statement that puts messages on edges or takes them off
-- adds to these rows, in its own transaction. They are sums over slots: each loop of an engine that commits writes to a
-- slot of its own, so that commits do not wait for each other's rows. Written by package queue.
create table sluice.edge_count (
    tenant_id bigint   not null,
    edge_id   bigint   not null,
    slot      smallint not null,
    arrived   bigint   not null,   -- messages that ever came onto the edge; an approved one comes again
    departed  bigint   not null,   -- that left it: settled, or to the trash
    bytes     bigint   not null,   -- of the bodies of those that are there; one that several share counts for each
    primary key (tenant_id, edge_id, slot)
) with (fillfactor = 50);

alter table sluice.edge_count enable row level security;
alter table sluice.edge_count force row level security;
create policy wall on sluice.edge_count using (
    (select current_setting('sluice.tenant_id', true)) = '*'
    or tenant_id = (select case when current_setting('sluice.tenant_id', true) ~ '^[0-9]{1,18}$'
                                then current_setting('sluice.tenant_id', true)::bigint end));

-- Engines take four slots each, from 0 on. The slot -1 is for what people do.
create sequence sluice.edge_count_slot_seq minvalue 0 maxvalue 15 cycle;

-- What is on the edges already. The tables are walled even from their owner, so it says for whom it acts.
select set_config('sluice.tenant_id', '*', true);
insert into sluice.edge_count (tenant_id, edge_id, slot, arrived, departed, bytes)
select e.tenant_id, e.id, -1, count(*), 0, coalesce(sum(octet_length(coalesce(m.body, p.body))), 0)
from river.river_job j
join sluice.edge e on e.id = case when j.queue ~ '^e[0-9]{1,18}$' then substr(j.queue, 2)::bigint end
join sluice.message m on m.tenant_id = e.tenant_id and m.id = j.id
    and m.process_id = case when j.args->>'process_id' ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then (j.args->>'process_id')::uuid end
left join sluice.message p on p.tenant_id = m.tenant_id and p.process_id = m.process_id and p.id = m.payload_id
where j.kind = 'message' and j.state <> 'completed'
group by e.tenant_id, e.id;
