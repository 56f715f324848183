package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"sluice/queue/topology"
	"sluice/queue/vault"
	"sluice/queue/worker"
)

// The secrets that sign calls are sealed where the operator has given a key to seal them with. Those that were stored
// before that are read as they are, until [ResealWorkers] has been over them.

func placeOf(key workerKey) vault.Place {
	return vault.Place{Tenant: key.tenant, Purpose: "worker", Name: key.name}
}

// storedSecret is how a secret is kept in the database.
func storedSecret(keys vault.Ring, key workerKey, secret worker.Secret) (string, error) {
	if keys.IsZero() {
		return secret.Reveal(), nil
	}
	return keys.Seal(placeOf(key), secret.Reveal())
}

// openSecrets reads secrets as they are kept in the database.
func openSecrets(keys vault.Ring, key workerKey, texts []string) ([]worker.Secret, error) {
	secrets := make([]worker.Secret, len(texts))
	for i, text := range texts {
		var err error
		if vault.IsSealed(text) {
			if text, err = keys.Open(placeOf(key), text); err != nil {
				return nil, fmt.Errorf("secret of worker %s: %w", key.name, err)
			}
		}
		if secrets[i], err = worker.ParseSecret(text); err != nil {
			return nil, fmt.Errorf("secret of worker %s: %w", key.name, err)
		}
	}
	return secrets, nil
}

// WorkerSecrets returns the secrets that sign the calls to a worker, or [ErrNoWorker].
func WorkerSecrets(ctx context.Context, db topology.DB, keys vault.Ring, tenant int64, name string) ([]worker.Secret, error) {
	target, _, err := findWorker(ctx, db, keys, workerKey{tenant, name})
	return target.Secrets, err
}

// keptSecrets are the secrets of a worker as they are kept in the database.
type keptSecrets struct {
	signing    []string
	token, key *string
}

func (k keptSecrets) equal(to keptSecrets) bool {
	same := func(a, b *string) bool { return a == b || a != nil && b != nil && *a == *b }
	return slices.Equal(k.signing, to.signing) && same(k.token, to.token) && same(k.key, to.key)
}

// resealed are the same secrets, sealed with the first key.
func (k keptSecrets) resealed(keys vault.Ring, of workerKey) (keptSecrets, error) {
	var again keptSecrets
	secrets, err := openSecrets(keys, of, k.signing)
	for i := 0; err == nil && i < len(secrets); i++ {
		var sealed string
		sealed, err = storedSecret(keys, of, secrets[i])
		again.signing = append(again.signing, sealed)
	}
	for _, text := range []struct {
		at   vault.Place
		from *string
		to   **string
	}{{tokenPlace(of), k.token, &again.token}, {clientKeyPlace(of), k.key, &again.key}} {
		if err != nil || text.from == nil {
			continue
		}
		var opened string
		if opened, err = openText(keys, text.at, text.from); err == nil {
			*text.to, err = storedText(keys, text.at, &opened)
		}
	}
	return again, err
}

// ResealWorkers seals with the first key the secrets of workers that are stored as they are, or were sealed with another
// key, and returns of how many workers those were. db sees all tenants.
func ResealWorkers(ctx context.Context, db topology.DB, keys vault.Ring) (int64, error) {
	if keys.IsZero() {
		return 0, vault.ErrNoKey
	}
	type row struct {
		key  workerKey
		id   int64
		kept keptSecrets
	}
	var done, tenant, id int64
	for {
		// Workers that were removed are among them: their secrets are secrets, too.
		rows, _ := db.Query(ctx, `
			select tenant_id, id, name, secrets, bearer_token, client_key from sluice.worker
			where (tenant_id, id) > ($1, $2) and exists (
				select from unnest(secrets || array[bearer_token, client_key]) s where not starts_with(s, $3))
			order by tenant_id, id limit 500`, tenant, id, keys.Prefix())
		found, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (w row, err error) {
			err = r.Scan(&w.key.tenant, &w.id, &w.key.name, &w.kept.signing, &w.kept.token, &w.kept.key)
			return w, err
		})
		if err != nil || len(found) == 0 {
			return done, err
		}
		for _, w := range found {
			tenant, id = w.key.tenant, w.id
			again, err := w.kept.resealed(keys, w.key)
			if err != nil {
				return done, err
			}
			if again.equal(w.kept) {
				continue
			}
			// One that was written meanwhile was sealed by that.
			tag, err := db.Exec(ctx, `
				update sluice.worker set secrets = $6, bearer_token = $7, client_key = $8
				where tenant_id = $1 and id = $2 and secrets = $3 and bearer_token is not distinct from $4 and client_key is not distinct from $5`,
				tenant, id, w.kept.signing, w.kept.token, w.kept.key, again.signing, again.token, again.key)
			if err != nil {
				return done, err
			}
			done += tag.RowsAffected()
		}
	}
}

// isSecretTrouble tells whether a worker cannot be called because its secrets cannot be opened.
func isSecretTrouble(err error) bool {
	return errors.Is(err, vault.ErrNoKey) || errors.Is(err, vault.ErrSealed)
}
