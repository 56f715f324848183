-- The outcome parked stays: values of a type cannot be dropped, and attempts may have it.
alter table sluice.trash drop column due_at;
