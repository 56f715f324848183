package localpg_test

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"sluice/migrations/localpg"
)

// repository serves an archive as a Maven repository does, and counts how often.
type repository struct {
	*httptest.Server
	archives atomic.Int64
}

func newRepository(t *testing.T, jar []byte, checksum string) *repository {
	t.Helper()
	r := &repository{}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("Connection", "close") // the library's client would keep it
		switch {
		case !strings.HasPrefix(q.URL.Path, "/maven/io/zonky/test/postgres/embedded-postgres-binaries-") || !strings.Contains(q.URL.Path, "99.1.0"):
			http.NotFound(w, q)
		case strings.HasSuffix(q.URL.Path, ".jar.sha256"):
			_, _ = w.Write([]byte(checksum))
		case strings.HasSuffix(q.URL.Path, ".jar"):
			r.archives.Add(1)
			_, _ = w.Write(jar)
		default:
			http.NotFound(w, q)
		}
	}))
	t.Cleanup(r.Close)
	return r
}

// A machine without Postgres fetches one, from a repository that may be a mirror, once.
func TestFetch(t *testing.T) {
	t.Setenv("TMPDIR", tempDir(t)) // where the library leaves an empty log
	jar := archive(t, map[string]string{
		"bin/initdb":   "#!/bin/sh\nexit 1\n",
		"bin/pg_ctl":   "#!/bin/sh\necho pg_ctl was run >&2\nexit 1\n",
		"bin/postgres": "#!/bin/sh\necho 'postgres (PostgreSQL) 99.1'\n",
		"share/a/file": "text",
	})
	r := newRepository(t, jar, checksumOf(jar))
	dir := filepath.Join(tempDir(t), "new")
	var said strings.Builder
	o := localpg.FetchOptions{
		Version:    "99.1.0",
		Repository: r.URL + "/maven/",
		Logger:     slog.New(slog.NewTextHandler(&said, nil)),
	}
	bin, err := localpg.Fetch(t.Context(), dir, o)
	ok(t, err)
	out, err := exec.Command(filepath.Join(bin, "postgres"), "--version").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "99.1") {
		t.Errorf("what was fetched says %q, %v", out, err)
	}
	if got, err := os.ReadFile(filepath.Join(bin, "..", "share", "a", "file")); err != nil || string(got) != "text" {
		t.Errorf("%q, %v", got, err)
	}
	if !strings.Contains(said.String(), "Fetching Postgres") || !strings.Contains(said.String(), "Fetched Postgres") {
		t.Errorf("the log says %q", said.String())
	}
	// The binaries reach the step of making a cluster, as the user of the server.
	_, err = localpg.Start(t.Context(), localpg.Config{Dir: tempDir(t), Bin: bin})
	if err == nil || !strings.Contains(err.Error(), "initdb") {
		t.Errorf("a start with initdb that fails says %v", err)
	}

	again, err := localpg.Fetch(t.Context(), dir, o)
	ok(t, err)
	if again != bin || r.archives.Load() != 1 {
		t.Errorf("fetched %d times, to %s and %s", r.archives.Load(), bin, again)
	}
	entries, err := os.ReadDir(dir)
	ok(t, err)
	if len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
}

// A fetch that fails says why, leaves nothing behind and can be tried again.
func TestFetchFails(t *testing.T) {
	t.Setenv("TMPDIR", tempDir(t))
	whole := archive(t, map[string]string{"bin/initdb": "#!/bin/sh\n", "bin/postgres": "#!/bin/sh\n"})
	part := archive(t, map[string]string{"bin/initdb": "#!/bin/sh\n"})
	for name, c := range map[string]struct {
		jar           []byte
		checksum      string
		version, want string
	}{
		"altered on the way": {whole, checksumOf(part), "99.1.0", "checksums do not match"},
		"not there":          {whole, checksumOf(whole), "98.0.0", "no version found"},
		"not an archive":     {[]byte("hello"), checksumOf([]byte("hello")), "99.1.0", "zip"},
		"incomplete":         {part, checksumOf(part), "99.1.0", "incomplete archive"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRepository(t, c.jar, c.checksum)
			dir := tempDir(t)
			_, err := localpg.Fetch(t.Context(), dir, localpg.FetchOptions{Version: c.version, Repository: r.URL + "/maven"})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v", err)
			}
			if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
				t.Errorf("left behind: %v, %v", entries, err)
			}
		})
	}
}

// archive packs files as the repository does: a jar with a .txz in it.
func archive(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var unpacked bytes.Buffer
	tw := tar.NewWriter(&unpacked)
	for name, content := range files {
		ok(t, tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o755, Size: int64(len(content))}))
		_, err := tw.Write([]byte(content))
		ok(t, err)
	}
	ok(t, tw.Close())
	xz := exec.Command("xz", "--stdout", "--check=crc32")
	xz.Stdin = &unpacked
	txz, err := xz.Output()
	if err != nil {
		t.Skipf("packing needs the program xz: %v", err)
	}
	var jar bytes.Buffer
	zw := zip.NewWriter(&jar)
	w, err := zw.Create("postgres-test.txz")
	ok(t, err)
	_, err = w.Write(txz)
	ok(t, err)
	ok(t, zw.Close())
	return jar.Bytes()
}

func checksumOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
