select set_config('sluice.tenant_id', '*', true);
delete from sluice.decision where verdict in ('assign', 'comment');
alter table sluice.decision drop constraint decision_verdict_check;
alter table sluice.decision add constraint decision_verdict_check
    check (verdict in ('approve', 'edit', 'replace', 'reject', 'terminate', 'trash'));
alter table sluice.decision drop column version_id;
alter table sluice.decision drop column detail;
alter table sluice.trash drop column assigned_to;
alter table sluice.trash drop column revision;
drop sequence sluice.trash_revision_seq;
