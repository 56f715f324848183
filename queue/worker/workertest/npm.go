package workertest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// Installed has npm install what the package-lock.json among files asks for, once
// for each version of the files and into a directory of the user's cache, and
// returns where they are, with node_modules beside them. Where that cannot be
// done, the test is skipped; in CI it fails.
func Installed(t testing.TB, name string, files fs.FS) string {
	t.Helper()
	dir, err := installed.find(name, files)
	switch {
	case err != nil && os.Getenv("CI") == "true":
		t.Fatalf("%s cannot be installed: %v", name, err)
	case err != nil:
		t.Skipf("%s cannot be installed: %v", name, err)
	}
	return dir
}

// installed is what this program has tried to install.
var installed installations

type installations struct {
	mu    sync.Mutex
	known map[string]installation
}

type installation struct {
	dir string
	err error
}

func (all *installations) find(name string, files fs.FS) (string, error) {
	all.mu.Lock()
	defer all.mu.Unlock()
	one, tried := all.known[name]
	if !tried {
		one.dir, one.err = install(name, files)
		if all.known == nil {
			all.known = map[string]installation{}
		}
		all.known[name] = one
	}
	return one.dir, one.err
}

func install(name string, files fs.FS) (string, error) {
	sum, err := sumOf(files)
	if err != nil {
		return "", err
	}
	cache, err := cacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, name+"-"+sum)
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	npm, err := exec.LookPath("npm")
	if err != nil {
		return "", err
	}
	scratch, err := os.MkdirTemp(cache, name+"-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(scratch)
	if err := os.CopyFS(scratch, files); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	run := exec.CommandContext(ctx, npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1", "--cache", filepath.Join(scratch, ".npm"))
	run.Dir, run.WaitDelay = scratch, time.Second
	if out, err := run.CombinedOutput(); err != nil {
		return "", fmt.Errorf("npm ci: %w: %s", err, mistake(out))
	}
	if err := os.RemoveAll(filepath.Join(scratch, ".npm")); err != nil {
		return "", err
	}
	if err := os.Rename(scratch, dir); err != nil {
		if _, gone := os.Stat(dir); gone != nil { // else another test program was faster
			return "", err
		}
	}
	return dir, nil
}

// sumOf names what the files hold.
func sumOf(files fs.FS) (string, error) {
	sum := sha256.New()
	err := fs.WalkDir(files, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(files, path)
		fmt.Fprintf(sum, "%s %d\n", path, len(data))
		sum.Write(data)
		return err
	})
	return hex.EncodeToString(sum.Sum(nil)[:8]), err
}

// mistake is what npm says went wrong, in one line.
func mistake(out []byte) string {
	var said []string
	for line := range strings.Lines(string(out)) {
		if what, ok := strings.CutPrefix(line, "npm error "); ok && len(said) < 3 {
			said = append(said, strings.TrimSpace(what))
		}
	}
	return strings.Join(said, ", ")
}

// cacheDir is where things are kept that are not worth being fetched twice.
func cacheDir() (string, error) {
	for _, base := range []func() (string, error){os.UserCacheDir, func() (string, error) { return os.TempDir(), nil }} {
		if dir, err := base(); err == nil {
			dir = filepath.Join(dir, "sluice-test")
			if err := os.MkdirAll(dir, 0o755); err == nil {
				return dir, nil
			}
		}
	}
	return "", fmt.Errorf("neither the user's cache nor %s can be written", os.TempDir())
}
