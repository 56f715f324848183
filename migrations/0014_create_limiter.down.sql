-- Messages that are held become jobs again.
select set_config('sluice.tenant_id', '*', true);
insert into river.river_job (id, attempt, args, kind, max_attempts, metadata, queue)
select job_id, least(attempt, 32766), coalesce(args, jsonb_build_object('process_id', process_id)),
       case when process_id is null then 'lane' else 'message' end, 32767, coalesce(metadata, '{}') - 'seq', 'e' || edge_id
from sluice.limiter_hold;
drop table sluice.limiter_delta, sluice.limiter_hold, sluice.limiter_line, sluice.limiter_key, sluice.limiter_gate,
    sluice.limiter_override, sluice.limiter_limit;
drop sequence sluice.limiter_seq;
