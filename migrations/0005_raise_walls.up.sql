-- A wall around each tenant's rows: row-level security, forced, so that it holds for the owner of the tables too.
-- A session says for whom it acts with the setting sluice.tenant_id: a tenant's id, or * for the engine, which moves
-- the messages of all tenants in one statement. A session that says nothing sees nothing.
do $$
declare
    name text;
    key  text;
begin
    foreach name in array array[
        'tenant', 'api_key', 'configuration', 'audit',
        'topology', 'topology_version', 'edge', 'worker',
        'process', 'message', 'attempt', 'batch_cursor', 'trash', 'decision', 'idempotency_key'
    ] loop
        key := case name when 'tenant' then 'id' else 'tenant_id' end;
        execute format('alter table sluice.%I enable row level security', name);
        execute format('alter table sluice.%I force row level security', name);
        -- The setting is read in sub-selects, so that a statement reads it once and not once a row.
        execute format($policy$
            create policy wall on sluice.%I using (
                (select current_setting('sluice.tenant_id', true)) = '*'
                or %I = (select case when current_setting('sluice.tenant_id', true) ~ '^[0-9]{1,18}$'
                                     then current_setting('sluice.tenant_id', true)::bigint end))$policy$, name, key);
    end loop;
    -- A partition asked for by its own name shows nothing to anyone: the policy is on the parent.
    foreach name in array array['process_default', 'message_default', 'attempt_default'] loop
        execute format('alter table sluice.%I enable row level security', name);
        execute format('alter table sluice.%I force row level security', name);
    end loop;
end $$;
