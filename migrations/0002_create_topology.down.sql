alter table sluice.topology drop constraint topology_tenant_id_enabled_version_id_fkey;
drop table sluice.worker, sluice.edge, sluice.topology_version, sluice.topology;
