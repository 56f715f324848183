do $$
declare
    name text;
begin
    foreach name in array array[
        'tenant', 'api_key', 'configuration', 'audit',
        'topology', 'topology_version', 'edge', 'worker',
        'process', 'message', 'attempt', 'batch_cursor', 'trash', 'decision', 'idempotency_key'
    ] loop
        execute format('drop policy wall on sluice.%I', name);
        execute format('alter table sluice.%I no force row level security', name);
        execute format('alter table sluice.%I disable row level security', name);
    end loop;
    foreach name in array array['process_default', 'message_default', 'attempt_default'] loop
        execute format('alter table sluice.%I no force row level security', name);
        execute format('alter table sluice.%I disable row level security', name);
    end loop;
end $$;
