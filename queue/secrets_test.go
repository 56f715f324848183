package queue_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"sluice/migrations/pgtest"
	"sluice/queue"
	"sluice/queue/vault"
	"sluice/queue/worker"
)

// The secret of a worker is sealed where there is a key, at once or later, and opens as the one that it was.
func TestSecretsOfWorkers(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t).Pool()
	ring := func(keys ...string) vault.Ring {
		r, err := vault.Parse(strings.Join(keys, ","))
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	first, second := vault.NewKey(), vault.NewKey()
	secrets := map[string]worker.Secret{}
	for name, keys := range map[string]vault.Ring{"plain": {}, "sealed": ring(first)} {
		if err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) (err error) {
			_, secrets[name], err = queue.RegisterWorker(t.Context(), tx, 1, queue.NewWorker{Name: name, URL: "http://a", Vault: keys}, "test")
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	token := "let-me-in"
	if err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		return queue.SetCredentials(t.Context(), tx, 1, "sealed", queue.CredentialChange{BearerToken: &token, Vault: ring(first)}, "test")
	}); err != nil {
		t.Fatal(err)
	}
	storedToken := func() (text string) {
		if err := pool.QueryRow(t.Context(), `select bearer_token from sluice.worker where name = 'sealed'`).Scan(&text); err != nil {
			t.Fatal(err)
		}
		return text
	}
	if !strings.HasPrefix(storedToken(), ring(first).Prefix()) {
		t.Error("the token is not sealed")
	}
	opens := func(name string, keys vault.Ring) error {
		found, err := queue.WorkerSecrets(t.Context(), pool, keys, 1, name)
		if err == nil && (len(found) != 1 || found[0].Reveal() != secrets[name].Reveal()) {
			t.Errorf("%s has another secret", name)
		}
		return err
	}
	stored := func(name string) (text string) {
		if err := pool.QueryRow(t.Context(), `select secrets[1] from sluice.worker where name = $1`, name).Scan(&text); err != nil {
			t.Fatal(err)
		}
		return text
	}
	if stored("plain") != secrets["plain"].Reveal() || !strings.HasPrefix(stored("sealed"), ring(first).Prefix()) {
		t.Error("not stored as they should be")
	}
	if err := errors.Join(opens("plain", vault.Ring{}), opens("plain", ring(first)), opens("sealed", ring(second, first))); err != nil {
		t.Error(err)
	}
	if err := opens("sealed", vault.Ring{}); !errors.Is(err, vault.ErrNoKey) {
		t.Errorf("without a key: %v", err)
	}
	if err := opens("sealed", ring(second)); !errors.Is(err, vault.ErrSealed) {
		t.Errorf("with another key: %v", err)
	}
	for want := int64(2); want >= 0; want -= 2 {
		if n, err := queue.ResealWorkers(t.Context(), pool, ring(second, first)); err != nil || n != want {
			t.Errorf("%d sealed, want %d: %v", n, want, err)
		}
	}
	if !strings.HasPrefix(storedToken(), ring(second).Prefix()) {
		t.Error("the token is not sealed anew")
	}
	if err := errors.Join(opens("plain", ring(second)), opens("sealed", ring(second))); err != nil {
		t.Error(err)
	}
	if _, err := pool.Exec(t.Context(), `update sluice.worker w set secrets = v.secrets from sluice.worker v where w.name = 'plain' and v.name = 'sealed'`); err != nil {
		t.Fatal(err)
	}
	if err := opens("plain", ring(second)); !errors.Is(err, vault.ErrSealed) {
		t.Errorf("another's secret: %v", err)
	}
	if _, err := queue.ResealWorkers(t.Context(), pool, vault.Ring{}); !errors.Is(err, vault.ErrNoKey) {
		t.Errorf("without a key: %v", err)
	}
}
