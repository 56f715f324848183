alter table sluice.attempt drop column response;
