package queue

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"sluice/queue/topology"
	"sluice/queue/vault"
	"sluice/queue/worker"
)

// What a worker wants to be shown of who calls it is kept beside the secrets that sign, and sealed as they are: the token
// and the key, each for a place of its own. The certificates are no secrets.

// CredentialChange says what a worker is shown from now on. What is nil stays, and what is empty is shown no more.
type CredentialChange struct {
	BearerToken                  *string
	ClientCertificate, ClientKey *string // PEM; both or neither
	ServerCA                     *string // PEM
	Vault                        vault.Ring
}

// texts are the credentials that the change gives.
func (c CredentialChange) texts() (t worker.CredentialTexts) {
	for from, to := range map[*string]*string{
		c.BearerToken: &t.BearerToken, c.ClientCertificate: &t.ClientCertificate, c.ClientKey: &t.ClientKey, c.ServerCA: &t.ServerCA,
	} {
		if from != nil {
			*to = *from
		}
	}
	return t
}

// Credentials tells what a worker is shown, but for the secrets.
type Credentials struct {
	HasToken          bool
	ClientCertificate *string // PEM
	ServerCA          *string // PEM
}

// credentialColumns are those of [Credentials].
const credentialColumns = `bearer_token is not null as has_token, client_certificate, server_ca`

// SetCredentials says what a worker is shown from now on, to prove who calls. It holds for all nodes within a second,
// and for calls that begin after that. It fails with [ErrBadWorker] or [ErrNoWorker].
func SetCredentials(ctx context.Context, tx pgx.Tx, tenant int64, name string, change CredentialChange, by string) error {
	if (change.ClientCertificate == nil) != (change.ClientKey == nil) {
		return fmt.Errorf("%w: a client certificate goes with its key", ErrBadWorker)
	}
	if _, err := worker.ParseCredentials(change.texts()); err != nil {
		return fmt.Errorf("%w: %w", ErrBadWorker, err)
	}
	key := workerKey{tenant, name}
	token, err := storedText(change.Vault, tokenPlace(key), change.BearerToken)
	if err != nil {
		return err
	}
	secret, err := storedText(change.Vault, clientKeyPlace(key), change.ClientKey)
	if err != nil {
		return err
	}
	var pulls bool
	err = tx.QueryRow(ctx, `
		update sluice.worker set
			bearer_token       = case when $3::text is null then bearer_token       else nullif($3, '') end,
			client_certificate = case when $4::text is null then client_certificate else nullif($4, '') end,
			client_key         = case when $5::text is null then client_key         else nullif($5, '') end,
			server_ca          = case when $6::text is null then server_ca          else nullif($6, '') end
		where tenant_id = $1 and name = $2 and removed_at is null
		returning pull`, tenant, name, token, change.ClientCertificate, secret, change.ServerCA).Scan(&pulls)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return ErrNoWorker
	case sqlState(err) == checkViolation:
		return errNotTLS
	case err != nil:
		return err
	case pulls && change.texts() != worker.CredentialTexts{}:
		return fmt.Errorf("%w: it takes its calls itself, so nobody is let in there", ErrBadWorker)
	}
	return topology.NoteChange(ctx, tx, tenant, by, "set-worker-credentials", name)
}

// errNotTLS says that certificates are of no use.
var errNotTLS = fmt.Errorf("%w: a client certificate, or the CA of its own, goes with an https URL", ErrBadWorker)

func tokenPlace(key workerKey) vault.Place {
	return vault.Place{Tenant: key.tenant, Purpose: "bearer token of worker", Name: key.name}
}

func clientKeyPlace(key workerKey) vault.Place {
	return vault.Place{Tenant: key.tenant, Purpose: "client key of worker", Name: key.name}
}

// storedText is how a secret text is kept in the database; nil and the empty one stay what they are.
func storedText(keys vault.Ring, at vault.Place, text *string) (*string, error) {
	if text == nil || *text == "" || keys.IsZero() {
		return text, nil
	}
	sealed, err := keys.Seal(at, *text)
	return &sealed, err
}

// openText reads a text as it is kept in the database; nil is the empty one.
func openText(keys vault.Ring, at vault.Place, text *string) (string, error) {
	switch {
	case text == nil:
		return "", nil
	case !vault.IsSealed(*text):
		return *text, nil
	}
	opened, err := keys.Open(at, *text)
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", at.Purpose, at.Name, err)
	}
	return opened, nil
}

// storedCredentials are what a worker is shown, as it is kept in the database.
type storedCredentials struct {
	token, certificate, key, ca *string
}

func (s storedCredentials) open(keys vault.Ring, of workerKey) (worker.Credentials, error) {
	token, err := openText(keys, tokenPlace(of), s.token)
	if err != nil {
		return worker.Credentials{}, err
	}
	key, err := openText(keys, clientKeyPlace(of), s.key)
	if err != nil {
		return worker.Credentials{}, err
	}
	texts := worker.CredentialTexts{BearerToken: token, ClientKey: key}
	if s.certificate != nil {
		texts.ClientCertificate = *s.certificate
	}
	if s.ca != nil {
		texts.ServerCA = *s.ca
	}
	c, err := worker.ParseCredentials(texts)
	if err != nil {
		return c, fmt.Errorf("worker %s: %w", of.name, err)
	}
	return c, nil
}
