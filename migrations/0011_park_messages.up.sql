-- Messages that wait for a person at a breakpoint. They lie in the trash, with the class breakpoint; that a message was parked
-- is the attempt of its node.
alter type sluice.outcome add value if not exists 'parked';
alter table sluice.trash add column due_at timestamptz; -- until when somebody should have decided
