drop table sluice.audit, sluice.configuration, sluice.api_key, sluice.tenant;
