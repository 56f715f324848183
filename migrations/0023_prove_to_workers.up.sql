-- What Sluice shows a worker to prove who calls, beside the signature. Written by package queue.
set local lock_timeout = '2s';
alter table sluice.worker add column bearer_token text;       -- sealed, where there is a key to seal with
alter table sluice.worker add column client_certificate text; -- with its chain, as PEM
alter table sluice.worker add column client_key text;         -- of the certificate; sealed as the token is
alter table sluice.worker add column server_ca text;          -- who vouches for the worker's own certificate, as PEM; null: the system's roots
alter table sluice.worker add constraint worker_client_key_check check ((client_certificate is null) = (client_key is null));
alter table sluice.worker add constraint worker_tls_check check (coalesce(client_certificate, server_ca) is null or pull or url ilike 'https://%');
