package pgtest_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"sluice/migrations"
	"sluice/migrations/localpg"
	"sluice/migrations/pgtest"
)

// helperEnv lets a test run only in the process that another test starts.
const helperEnv = "PGTEST_TEST_HELPER"

func TestMain(m *testing.M) { pgtest.Main(m) }

// Each test has a migrated database that no other test sees, quickly.
func TestNew(t *testing.T) {
	t.Parallel()
	pgtest.New(t) // makes the template
	began := time.Now()
	one, two := pgtest.New(t), pgtest.New(t)
	t.Logf("two copies took %v", time.Since(began))
	pool := one.Pool()
	if err := migrations.Check(t.Context(), pool); err != nil {
		t.Error(err)
	}
	if _, err := pool.Exec(t.Context(), "create table sluice.mine ()"); err != nil {
		t.Fatal(err)
	}
	var seen bool
	if err := two.Pool().QueryRow(t.Context(), "select to_regclass('sluice.mine') is not null").Scan(&seen); err != nil || seen {
		t.Errorf("the other database has the table too: %v, %v", seen, err)
	}
}

// The engine's pool sees all tenants, the gateway's none until it says for whom it acts; neither is a superuser, whom
// no wall would stop.
func TestWalls(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	count := func(sql string) (n int) {
		t.Helper()
		pool := db.TenantPool()
		if strings.HasPrefix(sql, "all: ") {
			pool, sql = db.Pool(), sql[5:]
		}
		if err := pool.QueryRow(t.Context(), sql).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := count("all: select count(*) from sluice.tenant"); n != 1 {
		t.Errorf("the engine sees %d tenants", n)
	}
	if n := count("select count(*) from sluice.tenant"); n != 0 {
		t.Errorf("a session without a tenant sees %d", n)
	}
	if n := count("select count(*) from pg_roles where rolname = current_user and (rolsuper or rolbypassrls)"); n != 0 {
		t.Error("tests run as a superuser")
	}
}

func TestNewEmpty(t *testing.T) {
	t.Parallel()
	var n int
	err := pgtest.NewEmpty(t).Pool().QueryRow(t.Context(), "select count(*) from pg_namespace where nspname in ('sluice', 'river')").Scan(&n)
	if err != nil || n != 0 {
		t.Errorf("%d schemas, %v", n, err)
	}
}

func TestExplain(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t).Pool()
	plan := pgtest.Explain(t, pool, "select * from river.river_job where id = $1", 7)
	if !strings.Contains(plan, "Index Scan using river_job_pkey") {
		t.Error(plan)
	}
}

// Many tests that start at once get one server and one template, and a copy each.
func TestParallel(t *testing.T) {
	t.Parallel()
	for n := range 8 {
		t.Run(strconv.Itoa(n), func(t *testing.T) {
			t.Parallel()
			if err := migrations.Check(t.Context(), pgtest.New(t).Pool()); err != nil {
				t.Error(err)
			}
		})
	}
}

// A server for crash tests is durable and migrated.
func TestServer(t *testing.T) {
	t.Parallel()
	s := pgtest.Server(t)
	status, err := migrations.GetStatus(t.Context(), s.URL(localpg.Database))
	if err != nil || status.Err() != nil {
		t.Errorf("%v, %v", status.Err(), err)
	}
	if err := s.Restart(t.Context(), localpg.Immediate); err != nil {
		t.Fatal(err)
	}
	status, err = migrations.GetStatus(t.Context(), s.URL(localpg.Database))
	if err != nil || status.Err() != nil {
		t.Errorf("after a crash: %v, %v", status.Err(), err)
	}
}

// TestHelperWaits is a test that is killed: see TestKilled.
func TestHelperWaits(t *testing.T) {
	if os.Getenv(helperEnv) == "" {
		t.Skip("runs in a process of its own")
	}
	pool := pgtest.New(t).Pool()
	if err := pool.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	fmt.Printf("\nsocket %s\n", pool.Config().ConnConfig.Host)
	_, _ = os.Stdin.Read(make([]byte, 1)) // until the end
}

// TestHelperPasses and TestHelperLeaks are tests whose program ends: see TestMainEnds.
func TestHelperPasses(t *testing.T) {
	if os.Getenv(helperEnv) == "" {
		t.Skip("runs in a process of its own")
	}
	pgtest.New(t).Pool()
}

func TestHelperLeaks(t *testing.T) {
	if os.Getenv(helperEnv) == "" {
		t.Skip("runs in a process of its own")
	}
	go func() { select {} }()
}

// A test program that is killed leaves no server behind, and the next one removes its files.
func TestKilled(t *testing.T) {
	t.Parallel()
	temp := pgtest.Dir(t)
	cmd := helper(t, temp, "TestHelperWaits")
	if _, err := cmd.StdinPipe(); err != nil { // held open
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	var socket string
	for lines := bufio.NewScanner(out); socket == "" && lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), "socket "); ok {
			socket = rest
		}
	}
	if !strings.HasPrefix(socket, temp) {
		t.Skip("the program that is to be killed has no server of its own")
	}
	b, err := os.ReadFile(filepath.Join(socket, "..", "data", "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(b), "\n")
	server, err := strconv.Atoi(first)
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if _, err := os.Stat("/proc/self"); err == nil { // elsewhere the next program stops it
		for deadline := time.Now().Add(time.Minute); commandOf(server) != ""; time.Sleep(5 * time.Millisecond) { //nolint:forbidigo // between two looks at a fact, with a deadline
			if time.Now().After(deadline) {
				t.Fatalf("the server, process %d, outlived its program", server)
			}
		}
	}
	if out, err := helper(t, temp, "TestHelperPasses").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if left, _ := filepath.Glob(filepath.Join(temp, "*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// A program that ends takes its server and its files with it, and fails when goroutines are left over.
func TestMainEnds(t *testing.T) {
	t.Parallel()
	temp := pgtest.Dir(t)
	if out, err := helper(t, temp, "TestHelperPasses").CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if left, _ := filepath.Glob(filepath.Join(temp, "*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	out, err := helper(t, temp, "TestHelperLeaks").CombinedOutput()
	if err == nil || !bytes.Contains(out, []byte("TestHelperLeaks.func1")) {
		t.Errorf("a goroutine too many: %v\n%s", err, out)
	}
}

// Without a Postgres on the machine tests are skipped with the line that installs one, but never in CI.
func TestNoBinaries(t *testing.T) {
	t.Parallel()
	if _, err := localpg.Find(); err != nil {
		t.Skip(err)
	}
	root := pgtest.Dir(t)
	for _, ci := range []string{"", "true"} {
		cmd := helper(t, root, "TestHelperPasses")
		cmd.Env = append(cmd.Env, "TEST_DATABASE_URL=", "CI="+ci, "PATH=")
		if hidden := hideBinaries(cmd); !hidden {
			t.Skip("cannot hide this machine's Postgres")
		}
		out, err := cmd.CombinedOutput()
		line := strings.Contains(string(out), localpg.ErrNoBinaries.Error()[:20]) && strings.Contains(string(out), "install it: ")
		if failed := err != nil; failed != (ci == "true") || !line {
			t.Errorf("with CI=%q: %v\n%s", ci, err, out)
		}
	}
}

// hideBinaries gives a command a view of the file system of its own, in which the directory of the binaries is empty.
func hideBinaries(cmd *exec.Cmd) bool {
	const places = "/usr/lib/postgresql"
	bin, err := localpg.Find()
	unshare, lookup := exec.LookPath("unshare")
	if err != nil || lookup != nil || os.Geteuid() != 0 || !strings.HasPrefix(bin, places) {
		return false
	}
	script := `mount --make-rprivate / && mount -t tmpfs none ` + places + ` && PATH= exec "$0" "$@"`
	cmd.Args = append([]string{"unshare", "--mount", "/bin/sh", "-c", script}, cmd.Args...)
	cmd.Path = unshare
	cmd.Env = append(cmd.Env, "PATH=/usr/sbin:/usr/bin:/sbin:/bin")
	return exec.Command(unshare, "--mount", "/bin/true").Run() == nil
}

// A server that is there is used instead of a new one, whose user's rights do not lead past the walls.
func TestExternal(t *testing.T) {
	t.Parallel()
	dir := pgtest.Dir(t)
	s, err := localpg.Start(t.Context(), localpg.Config{Dir: dir, Durability: localpg.Ephemeral})
	if errors.Is(err, localpg.ErrNoBinaries) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Stop(context.Background()) })
	temp := pgtest.Dir(t)
	cmd := helper(t, temp, "^Test(New|Walls|NewEmpty|Parallel)$")
	cmd.Env = append(cmd.Env, "TEST_DATABASE_URL="+s.SuperURL("postgres"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if left, _ := filepath.Glob(filepath.Join(temp, "*")); len(left) > 0 {
		t.Errorf("a server was started all the same: %v", left)
	}
	status, err := migrations.GetStatus(t.Context(), s.SuperURL("postgres"))
	if err != nil || status.Current != 0 {
		t.Errorf("the given database was migrated: %+v, %v", status, err)
	}
}

// helper runs some tests of this program in a process of their own, with temporary files in temp.
func helper(t *testing.T, temp, tests string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run", tests, "-test.v")
	cmd.Env = append(os.Environ(), helperEnv+"=1", "TMPDIR="+temp)
	return cmd
}

// commandOf is the command line of a process, "" if it is dead.
func commandOf(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || syscall.Kill(pid, 0) == syscall.ESRCH {
		return ""
	}
	return string(b)
}
