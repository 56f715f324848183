-- Who acts on what: entries that two people look at, are someone's, and go on in another version. Written by package trash.
--
-- A revision is changed with each change of an entry, and never comes again, so that nobody decides about what they have
-- not seen: not even about an entry that was sent again and has failed anew. What is there already has revision 0.
create sequence sluice.trash_revision_seq;
alter table sluice.trash add column revision bigint not null default 0;
alter table sluice.trash alter column revision set default nextval('sluice.trash_revision_seq');
alter table sluice.trash add column assigned_to text;

alter table sluice.decision add column detail jsonb;       -- what was changed
alter table sluice.decision add column version_id bigint;  -- of a replace in another version of the topology: that version
alter table sluice.decision drop constraint decision_verdict_check;
alter table sluice.decision add constraint decision_verdict_check
    check (verdict in ('approve', 'edit', 'replace', 'reject', 'terminate', 'trash', 'assign', 'comment')) not valid;
