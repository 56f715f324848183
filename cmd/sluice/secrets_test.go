package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sluice/queue/vault"
)

// Secrets that were stored as they are, or sealed with another key, are sealed while nodes run, and calls go on.
func TestSecretsCommands(t *testing.T) {
	t.Parallel()
	w, _ := startServe(t)
	w.run("worker", "add", "shop", shopWorker(t)).exits(exitOK)
	w.run("secrets", "seal", "--database-url", w.getenv("TEST_DATABASE")).exits(exitUsage).complains("sluice secrets new-key")
	w.run("secrets", "seal", "--secret-keys", "x", "--database-url", w.getenv("TEST_DATABASE")).exits(exitUsage).complains("slk_")
	key := decode[struct{ Key string }](w.run("secrets", "new-key", "--output", "json").exits(exitOK)).Key
	if _, err := vault.Parse(key); err != nil {
		t.Error(err)
	}
	for _, want := range []string{"Sealed 1 with", "Sealed 0 with"} {
		w.with("SLUICE_SECRET_KEYS", key).run("secrets", "seal", "--database-url", w.getenv("TEST_DATABASE")).exits(exitOK).says(want)
	}
}

// A dev keeps its key where only its user can read it, and finds it again.
func TestDevKeys(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "new")
	keys, err := devKeys(dir)
	if err != nil || keys.IsZero() {
		t.Fatal(err)
	}
	again, err := devKeys(dir)
	if err != nil || again.Prefix() != keys.Prefix() {
		t.Errorf("another key the second time: %v", err)
	}
	path := filepath.Join(dir, keyFile)
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", fi, err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := devKeys(dir); err == nil || !strings.Contains(err.Error(), keyFile) {
		t.Errorf("an empty file: %v", err)
	}
}
