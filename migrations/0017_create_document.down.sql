select set_config('sluice.tenant_id', '*', true);
alter table sluice.api_key drop constraint api_key_scopes_check;
-- What only a worker's key could do is gone.
update sluice.api_key set revoked_at = coalesce(revoked_at, now()), scopes = '{ingest}' where scopes = '{worker}';
update sluice.api_key set scopes = array_remove(scopes, 'worker') where 'worker' = any (scopes);
alter table sluice.api_key add constraint api_key_scopes_check
    check (scopes <@ array['ingest', 'operate', 'admin'] and cardinality(scopes) > 0);
drop table sluice.reported_line;
drop table sluice.reported_call;
drop table sluice.webhook;
drop table sluice.application_install;
