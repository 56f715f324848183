set local lock_timeout = '2s';
alter table sluice.worker drop column bearer_token, drop column client_certificate, drop column client_key, drop column server_ca;
