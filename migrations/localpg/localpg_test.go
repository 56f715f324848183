package localpg_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"sluice/migrations/localpg"
)

// helperEnv makes the test binary act as a program that runs a server and waits to be killed.
const helperEnv = "LOCALPG_TEST_HELPER"

func TestMain(m *testing.M) {
	if dir := os.Getenv(helperEnv); dir != "" {
		helper(dir)
		return
	}
	code := m.Run()
	if clusterMade != "" {
		_ = os.RemoveAll(clusterMade)
	}
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// helper starts a durable server on dir, says where it is, and leaves the rest to whoever kills it.
func helper(dir string) {
	s, err := localpg.Start(context.Background(), localpg.Config{Dir: dir})
	if err != nil {
		fmt.Println("error", err)
		return
	}
	fmt.Println("ready", s.URL(localpg.Database))
	_, _ = io.Copy(io.Discard, os.Stdin)
	_ = s.Stop(context.Background())
}

// A cluster is made, serves, is stopped and starts again with what was committed; the application's role is no
// superuser.
func TestLife(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(tempDir(t), "new", "cluster")
	began := time.Now()
	s := start(t, localpg.Config{Dir: dir})
	t.Logf("first start %v", time.Since(began))
	exec1(t, s.URL(localpg.Database), "create table t as select 1 as n")
	if got := scan[bool](t, s.URL(localpg.Database), "select rolsuper or rolbypassrls or rolcreatedb from pg_roles where rolname = current_user"); got {
		t.Error("the application's role has more rights than it needs")
	}
	if got := scan[bool](t, s.SuperURL("postgres"), "select rolsuper from pg_roles where rolname = current_user"); !got {
		t.Error("SuperURL does not connect as a superuser")
	}
	for setting, want := range map[string]string{"fsync": "on", "synchronous_commit": "on", "listen_addresses": ""} {
		if got := scan[string](t, s.URL(localpg.Database), "select current_setting('"+setting+"')"); got != want {
			t.Errorf("%s is %q, want %q", setting, got, want)
		}
	}
	url := s.URL(localpg.Database)
	ok(t, s.Stop(t.Context()))
	ok(t, s.Stop(t.Context()))
	if conn, err := pgx.Connect(t.Context(), url); err == nil {
		conn.Close(t.Context())
		t.Fatal("the server takes connections after Stop")
	}
	if _, err := localpg.Locate(dir, localpg.Database); !errors.Is(err, localpg.ErrNotRunning) {
		t.Errorf("Locate says %v", err)
	}
	began = time.Now()
	s = start(t, localpg.Config{Dir: dir})
	t.Logf("second start %v", time.Since(began))
	if s.URL(localpg.Database) != url {
		t.Errorf("the URL changed from %s to %s", url, s.URL(localpg.Database))
	}
	located, err := localpg.Locate(dir, localpg.Database)
	ok(t, err)
	if n := scan[int](t, located, "select n from t"); n != 1 {
		t.Errorf("read %d", n)
	}
}

// Each way to restart keeps the URL and what was committed.
func TestRestart(t *testing.T) {
	t.Parallel()
	s := start(t, localpg.Config{Dir: clusterDir(t)})
	url := s.URL(localpg.Database)
	exec1(t, url, "create table t (n int)")
	for n, mode := range []localpg.Mode{localpg.Fast, localpg.Immediate, localpg.Crash} {
		exec1(t, url, "insert into t values (1)")
		idle := connect(t, url) // a session that is in the way
		began := time.Now()
		ok(t, s.Restart(t.Context(), mode))
		t.Logf("restart in mode %d: %v", mode, time.Since(began))
		if _, err := idle.Exec(t.Context(), "select 1"); err == nil {
			t.Error("a session outlived the restart")
		}
		if got := scan[int](t, url, "select count(*) from t"); got != n+1 {
			t.Errorf("after mode %d: %d rows, want %d", mode, got, n+1)
		}
	}
}

// The path of a socket has a limit of some hundred bytes; the directory of a cluster has none.
func TestLongDirectory(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(tempDir(t), strings.Repeat("long ", 20), strings.Repeat("länger,\"", 8))
	s := start(t, localpg.Config{Dir: dir, Durability: localpg.Ephemeral})
	if got := scan[int](t, s.URL(localpg.Database), "select 1"); got != 1 {
		t.Error(got)
	}
	socket := scan[string](t, s.SuperURL("postgres"), "select current_setting('unix_socket_directories')")
	socket = strings.Trim(socket, `"`)
	if fi, err := os.Stat(socket); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("the socket's directory: %v, %v", fi, err)
	}
	url, err := localpg.Locate(dir, localpg.Database)
	ok(t, err)
	if url != s.URL(localpg.Database) {
		t.Errorf("Locate says %s, want %s", url, s.URL(localpg.Database))
	}
	ok(t, s.Stop(t.Context()))
	if _, err := os.Stat(socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is left: %v", socket, err)
	}
}

// Two live processes never share a directory, and the second is told who has it.
func TestInUse(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	s := start(t, localpg.Config{Dir: dir, Durability: localpg.Ephemeral})
	_, err := localpg.Start(t.Context(), localpg.Config{Dir: dir})
	if !errors.Is(err, localpg.ErrInUse) || !strings.Contains(err.Error(), strconv.Itoa(os.Getpid())) {
		t.Errorf("the second start says %v", err)
	}
	if err := localpg.Remove(t.Context(), dir); !errors.Is(err, localpg.ErrInUse) {
		t.Errorf("Remove says %v", err)
	}
	if got := scan[int](t, s.URL(localpg.Database), "select 1"); got != 1 {
		t.Error(got)
	}
}

// When Sluice is killed, its server goes with it, and the next start finds all that was committed.
func TestParentKilled(t *testing.T) {
	t.Parallel()
	dir := clusterDir(t)
	for round := range 3 {
		cmd, url := startHelper(t, dir)
		if round == 0 {
			exec1(t, url, "create table t (n int)")
		}
		exec1(t, url, "insert into t values (1)")
		postmaster := postmasterOf(t, dir)
		ok(t, cmd.Process.Kill())
		_ = cmd.Wait()
		if round == 1 { // the other rounds start while it is still on its way out
			waitFor(t, "the server to end with its parent", func() bool { return !alive(postmaster) })
		}
		began := time.Now()
		s := start(t, localpg.Config{Dir: dir})
		t.Logf("start after the kill: %v", time.Since(began))
		if got := scan[int](t, s.URL(localpg.Database), "select count(*) from t"); got != round+1 {
			t.Errorf("round %d: %d rows", round, got)
		}
		ok(t, s.Stop(t.Context()))
	}
}

// Where the kernel does not end a child with its parent, the next start does. (Here the orphan is made by starting a
// server as the package does, but without a parent that cares.)
func TestOrphan(t *testing.T) {
	t.Parallel()
	dir := clusterDir(t)
	s := start(t, localpg.Config{Dir: dir})
	exec1(t, s.URL(localpg.Database), "create table t as select 1 as n")
	ok(t, s.Stop(t.Context()))

	orphan := startByHand(t, dir, "cluster_name=sluice")
	s = start(t, localpg.Config{Dir: dir})
	if now := postmasterOf(t, dir); now == orphan {
		t.Error("the orphan still serves")
	}
	if n := scan[int](t, s.URL(localpg.Database), "select n from t"); n != 1 {
		t.Errorf("read %d", n)
	}
	ok(t, s.Stop(t.Context()))

	startByHand(t, dir, "cluster_name=mine")
	if _, err := localpg.Start(t.Context(), localpg.Config{Dir: dir}); !errors.Is(err, localpg.ErrInUse) {
		t.Errorf("beside a server that somebody started by hand: %v", err)
	}
}

// After a power cut the lock file of the server is there and its process number belongs to somebody else.
func TestStaleLockFile(t *testing.T) {
	t.Parallel()
	dir := clusterDir(t)
	lockFile := filepath.Join(dir, "data", "postmaster.pid")
	s := start(t, localpg.Config{Dir: dir})
	stale, err := os.ReadFile(lockFile)
	ok(t, err)
	_, rest, _ := strings.Cut(string(stale), "\n")
	ok(t, s.Stop(t.Context()))

	for what, content := range map[string]string{
		"of a process that is another program": strconv.Itoa(os.Getpid()) + "\n" + rest,
		"of a process that is no more":         string(stale),
		"empty":                                "",
	} {
		ok(t, os.WriteFile(lockFile, []byte(content), 0o600))
		giveLike(t, filepath.Dir(lockFile), lockFile)
		s, err := localpg.Start(t.Context(), localpg.Config{Dir: dir})
		if err != nil {
			t.Fatalf("with a lock file %s: %v", what, err)
		}
		ok(t, s.Stop(t.Context()))
	}
}

// What cannot work is said in words that lead on.
func TestRefusals(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	for name, c := range map[string]struct {
		config func(t *testing.T) localpg.Config
		want   string
	}{
		"no binaries where told": {func(t *testing.T) localpg.Config {
			return localpg.Config{Dir: dir, Bin: t.TempDir()}
		}, "no Postgres that runs"},
		"made by another version": {func(t *testing.T) localpg.Config {
			old := filepath.Join(tempDir(t), "old")
			ok(t, os.MkdirAll(filepath.Join(old, "data"), 0o700))
			ok(t, os.WriteFile(filepath.Join(old, "data", "PG_VERSION"), []byte("9\n"), 0o600))
			return localpg.Config{Dir: old}
		}, "was made by Postgres 9"},
		"out of reach": {func(t *testing.T) localpg.Config {
			if os.Geteuid() != 0 {
				t.Skip("only root runs the server as somebody else")
			}
			private := tempDir(t)
			ok(t, os.Chmod(private, 0o700))
			return localpg.Config{Dir: filepath.Join(private, "cluster")}
		}, "cluster: choose a directory that others may enter"},
		"binaries out of reach": {func(t *testing.T) localpg.Config {
			if os.Geteuid() != 0 {
				t.Skip("only root runs the server as somebody else")
			}
			bin := filepath.Join(tempDir(t), "bin")
			ok(t, os.Mkdir(bin, 0o700))
			for _, name := range []string{"initdb", "postgres"} {
				ok(t, os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\necho 'postgres (PostgreSQL) 15.1'\n"), 0o755))
			}
			return localpg.Config{Dir: filepath.Join(dir, "never"), Bin: bin}
		}, "bin: choose a directory that others may enter"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := localpg.Start(t.Context(), c.config(t))
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v", err)
			}
		})
	}
}

// A server that cannot start says why in the error.
func TestBrokenCluster(t *testing.T) {
	t.Parallel()
	dir := clusterDir(t)
	ok(t, os.Remove(filepath.Join(dir, "data", "global", "pg_control")))
	_, err := localpg.Start(t.Context(), localpg.Config{Dir: dir})
	if err == nil || !strings.Contains(err.Error(), "pg_control") || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v", err)
	}
}

// A cluster that root copied from a backup is given to the user of the server.
func TestCopiedByRoot(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := clusterDir(t)
	s := start(t, localpg.Config{Dir: dir})
	exec1(t, s.URL(localpg.Database), "create table t as select 1 as n")
	ok(t, s.Stop(t.Context()))
	ok(t, filepath.WalkDir(filepath.Join(dir, "data"), func(path string, _ os.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(path, 0, 0))
	}))
	s = start(t, localpg.Config{Dir: dir})
	if n := scan[int](t, s.URL(localpg.Database), "select n from t"); n != 1 {
		t.Errorf("read %d", n)
	}
}

// Remove leaves nothing, also of a server whose parent was killed.
func TestRemove(t *testing.T) {
	t.Parallel()
	dir := clusterDir(t)
	cmd, _ := startHelper(t, dir)
	postmaster := postmasterOf(t, dir)
	ok(t, cmd.Process.Kill())
	_ = cmd.Wait()
	ok(t, localpg.Remove(t.Context(), dir))
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is left: %v", dir, err)
	}
	waitFor(t, "the server to end", func() bool { return !alive(postmaster) })
}

// What root may do, an ordinary user may too: the tests above, run again as nobody.
func TestOrdinaryUser(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("this is an ordinary user already")
	}
	nobody, err := user.Lookup("nobody")
	if err != nil {
		t.Skip(err)
	}
	uid, err := strconv.Atoi(nobody.Uid)
	ok(t, err)
	gid, err := strconv.Atoi(nobody.Gid)
	ok(t, err)
	dir := tempDir(t)
	ok(t, os.Chown(dir, uid, gid))
	self, err := os.Executable()
	ok(t, err)
	binary, err := os.ReadFile(self) // where it is now, nobody may not go
	ok(t, err)
	program := filepath.Join(dir, "test")
	ok(t, os.WriteFile(program, binary, 0o755))
	cmd := exec.CommandContext(t.Context(), program, "-test.run", "^Test(Life|LongDirectory|ParentKilled|StaleLockFile|Fetch)$", "-test.v")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "TMPDIR="+dir, "HOME="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	out, err := cmd.CombinedOutput()
	if err != nil || strings.Contains(string(out), "--- SKIP") || !strings.Contains(string(out), "--- PASS: TestLife") {
		t.Errorf("as nobody: %v\n%s", err, out)
	}
}

func start(t *testing.T, c localpg.Config) *localpg.Server {
	t.Helper()
	s, err := localpg.Start(t.Context(), c)
	if errors.Is(err, localpg.ErrNoBinaries) && os.Getenv("CI") != "true" {
		t.Skip(err)
	}
	ok(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		ok(t, s.Stop(ctx))
	})
	return s
}

// startHelper starts a process that runs a server on dir, and returns the server's URL.
func startHelper(t *testing.T, dir string) (*exec.Cmd, string) {
	t.Helper()
	self, err := os.Executable()
	ok(t, err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), helperEnv+"="+dir)
	cmd.Stderr = os.Stderr
	_, err = cmd.StdinPipe() // held open: its end would end the helper
	ok(t, err)
	out, err := cmd.StdoutPipe()
	ok(t, err)
	ok(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	line, _ := bufio.NewReader(out).ReadString('\n')
	word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
	if word != "ready" {
		t.Fatalf("the helper says %q", line)
	}
	return cmd, rest
}

// startByHand starts a server on dir that is nobody's child.
func startByHand(t *testing.T, dir, setting string) (pid int) {
	t.Helper()
	bin, err := localpg.Find()
	ok(t, err)
	data := filepath.Join(dir, "data")
	cmd := exec.Command(filepath.Join(bin, "postgres"), "-D", data, "-p", "5432",
		"-c", setting, "-c", "listen_addresses=", "-c", "unix_socket_directories="+filepath.Join(dir, "run"))
	cmd.Dir = "/"
	st := stat(t, data)
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: st.Uid, Gid: st.Gid}}
	}
	ok(t, cmd.Start())
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }() // or it would stay in the list of processes
	t.Cleanup(func() { _ = cmd.Process.Signal(syscall.SIGQUIT); <-ended })
	waitFor(t, "the server started by hand", func() bool {
		b, _ := os.ReadFile(filepath.Join(data, "postmaster.pid"))
		return strings.Contains(string(b), "ready")
	})
	return cmd.Process.Pid
}

func postmasterOf(t *testing.T, dir string) int {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "data", "postmaster.pid"))
	ok(t, err)
	first, _, _ := strings.Cut(string(b), "\n")
	pid, err := strconv.Atoi(first)
	ok(t, err)
	return pid
}

// alive tells whether a process runs: one that is dead but not yet buried does not.
func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if errors.Is(err, os.ErrNotExist) {
		if _, noProc := os.Stat("/proc/self"); noProc != nil {
			return syscall.Kill(pid, 0) == nil
		}
	}
	return len(b) > 0
}

// tempDir is a directory with a short name that the user of the server may enter.
func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "localpg-")
	ok(t, err)
	ok(t, os.Chmod(dir, 0o755))
	t.Cleanup(func() { ok(t, os.RemoveAll(dir)) })
	return dir
}

// clusterDir is a directory with a cluster in it, stopped: a copy of one that is made once, because to make one is most of
// the time that these tests take.
func clusterDir(t *testing.T) string {
	t.Helper()
	made, err := cluster()
	if errors.Is(err, localpg.ErrNoBinaries) && os.Getenv("CI") != "true" {
		t.Skip(err)
	}
	ok(t, err)
	dir := tempDir(t)
	if out, err := exec.Command("cp", "-a", filepath.Join(made, "data"), dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return dir
}

var cluster = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "localpg-")
	if err != nil {
		return "", err
	}
	clusterMade = dir
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", err
	}
	s, err := localpg.Start(context.Background(), localpg.Config{Dir: dir})
	if err != nil {
		return "", err
	}
	return dir, s.Stop(context.Background())
})

// clusterMade is for TestMain to remove.
var clusterMade string

func giveLike(t *testing.T, model, path string) {
	t.Helper()
	st := stat(t, model)
	ok(t, os.Chown(path, int(st.Uid), int(st.Gid)))
}

func stat(t *testing.T, path string) *syscall.Stat_t {
	t.Helper()
	fi, err := os.Stat(path)
	ok(t, err)
	return fi.Sys().(*syscall.Stat_t)
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	ok(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func exec1(t *testing.T, url, sql string) {
	t.Helper()
	_, err := connect(t, url).Exec(t.Context(), sql)
	ok(t, err)
}

func scan[T any](t *testing.T, url, sql string) (v T) {
	t.Helper()
	ok(t, connect(t, url).QueryRow(t.Context(), sql).Scan(&v))
	return v
}

// waitFor waits for a fact.
func waitFor(t *testing.T, what string, fact func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !fact(); time.Sleep(5 * time.Millisecond) { //nolint:forbidigo // between two looks at a fact, with a deadline
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
