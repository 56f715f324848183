package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/jackc/pgx/v5/pgxpool"

	"sluice/migrations"
	"sluice/queue"
	"sluice/queue/document"
	"sluice/queue/vault"
)

type secretsCmd struct {
	NewKey secretsNewKeyCmd `cmd:"" help:"Make a key that seals secrets, and print it."`
	Seal   secretsSealCmd   `cmd:"" help:"Seal with the first key what is there and was not."`
}

func (secretsCmd) Help() string {
	return examples("The secrets of workers, what they are shown of who calls, the settings that workers on Orchesty's SDK keep and the tokens of their webhooks are sealed in the database with a key that is not in it. "+
		"Give the same keys to every node. To change the key, add the new one at the end on all of them, then move it to the front, seal, and drop the old one.",
		"sluice secrets new-key > /run/secrets/sluice-keys",
		"SLUICE_SECRET_KEYS_FILE=/run/secrets/sluice-keys sluice serve",
		"SLUICE_SECRET_KEYS_FILE=/run/secrets/sluice-keys sluice secrets seal")
}

type secretsNewKeyCmd struct{}

func (secretsNewKeyCmd) Help() string {
	return examples("Keep it where the database is not: without it, what it sealed is lost.", "sluice secrets new-key")
}

func (secretsNewKeyCmd) Run(p *program) error {
	made := struct {
		Key string `json:"key"`
	}{vault.NewKey()}
	return p.print(made, func(w io.Writer) { fmt.Fprintln(w, made.Key) })
}

type secretsSealCmd struct {
	databaseFlags
	SecretKeys string `from:"SLUICE_SECRET_KEYS" secret:"" placeholder:"KEY,..." help:"Keys: the first one seals, each of them opens."`
}

func (secretsSealCmd) Help() string {
	return examples("Do it once all nodes have the key: one without it cannot call a worker whose secret is sealed. It can be done again, and while nodes run.",
		"SLUICE_SECRET_KEYS_FILE=/run/secrets/sluice-keys sluice secrets seal --database-url postgres://sluice@db/sluice")
}

func (c secretsSealCmd) Run(ctx context.Context, p *program) error {
	url, err := c.url(p)
	if err != nil {
		return err
	}
	keys, err := parseKeys(c.SecretKeys)
	if err != nil {
		return err
	}
	if keys.IsZero() {
		return usagef("no key: give --secret-keys, or set SLUICE_SECRET_KEYS: sluice secrets new-key makes one")
	}
	pool, err := queue.Open(ctx, url, 1)
	if err != nil {
		return err
	}
	defer pool.Close()
	if err := migrations.Check(ctx, pool); err != nil {
		return connectError(err)
	}
	var done struct {
		Sealed int64 `json:"sealed"`
	}
	if done.Sealed, err = sealAll(ctx, pool, keys); err != nil {
		return err
	}
	return p.print(done, func(w io.Writer) { fmt.Fprintf(w, "Sealed %d with the first key.\n", done.Sealed) })
}

// sealAll seals with the first key what is in the database and was not.
func sealAll(ctx context.Context, pool *pgxpool.Pool, keys vault.Ring) (int64, error) {
	workers, err := queue.ResealWorkers(ctx, pool, keys)
	if err != nil {
		return workers, fmt.Errorf("seal the secrets of workers: %w", err)
	}
	documents, err := document.New(keys).Reseal(ctx, pool)
	return workers + documents, err
}

func parseKeys(text string) (vault.Ring, error) {
	keys, err := vault.Parse(text)
	if err != nil {
		return keys, usagef("--secret-keys: %s: sluice secrets new-key makes one", err)
	}
	return keys, nil
}

// keyFile is where a dev keeps the key of its secrets.
const keyFile = "secret.key"

// devKeys reads the key of a dev, or makes one where there is none.
func devKeys(dir string) (vault.Ring, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return vault.Ring{}, err
	}
	path := filepath.Join(dir, keyFile)
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		text = []byte(vault.NewKey() + "\n")
		err = os.WriteFile(path, text, 0o600)
	}
	if err != nil {
		return vault.Ring{}, err
	}
	keys, err := vault.Parse(string(text))
	if err == nil && keys.IsZero() {
		err = vault.ErrBadKey
	}
	if err != nil {
		return keys, fmt.Errorf("%s: %w", path, err)
	}
	return keys, nil
}
