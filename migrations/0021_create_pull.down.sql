select set_config('sluice.tenant_id', '*', true);
alter table sluice.api_key drop constraint api_key_worker_check;
alter table sluice.api_key drop constraint api_key_scopes_check;
-- What a key may do is not widened: one that may only take calls is worthless.
update sluice.api_key set revoked_at = coalesce(revoked_at, now()), scopes = '{ingest}' where scopes = '{pull}';
update sluice.api_key set scopes = array_remove(scopes, 'pull') where 'pull' = any (scopes);
alter table sluice.api_key add constraint api_key_scopes_check
    check (scopes <@ array['ingest', 'worker', 'operate', 'admin'] and cardinality(scopes) > 0) not valid;
alter table sluice.api_key drop column worker;

drop table sluice.pull_presence;
drop table sluice.pull_call;

alter table sluice.worker drop column pull;
