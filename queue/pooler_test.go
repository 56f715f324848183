package queue_test

import (
	"bytes"
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"sluice/migrations/pgtest"
)

// startPooler puts a PgBouncer that shares sessions out by transaction before a test's database, and returns the URL that
// leads through it. Without the program, the test is skipped.
func startPooler(t *testing.T, db *pgtest.DB, settings string) string {
	t.Helper()
	program, err := exec.LookPath("pgbouncer")
	if err != nil {
		program = "/usr/sbin/pgbouncer"
		if _, err := os.Stat(program); err != nil {
			t.Skip("there is no pgbouncer here: apt-get install pgbouncer")
		}
	}
	direct, err := pgx.ParseConfig(db.URL)
	ok(t, err)
	dir := pgtest.Dir(t)
	file := filepath.Join(dir, "pgbouncer.ini")
	users := filepath.Join(dir, "users")
	ok(t, os.WriteFile(users, fmt.Appendf(nil, "%q %q\n", direct.User, direct.Password), 0o644))
	ok(t, os.WriteFile(file, fmt.Appendf(nil, `
[databases]
* = host=%s port=%d
[pgbouncer]
unix_socket_dir = %s
listen_port = 6432
auth_type = trust
auth_file = %s
pool_mode = transaction
max_client_conn = 200
default_pool_size = 10
%s
`, direct.Host, direct.Port, dir, users, settings), 0o644))
	cmd := exec.Command(program, file)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if os.Geteuid() == 0 { // it refuses root, and must be let in where Postgres's socket is
		var s syscall.Stat_t
		ok(t, syscall.Stat(direct.Host, &s))
		ok(t, os.Chown(dir, int(s.Uid), int(s.Gid)))
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: s.Uid, Gid: s.Gid}}
	}
	ok(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("pgbouncer:\n%s", log.String())
		}
	})
	through := url.URL{Scheme: "postgres", User: url.User(direct.User), Path: "/" + direct.Database,
		RawQuery: url.Values{"host": {dir}, "port": {"6432"}, "sslmode": {"disable"}}.Encode()}
	until(t, "pgbouncer answers", func() bool {
		conn, err := pgx.Connect(context.WithoutCancel(t.Context()), through.String()+"&default_query_exec_mode=exec")
		if err != nil {
			return false
		}
		defer conn.Close(context.WithoutCancel(t.Context()))
		return conn.Ping(t.Context()) == nil
	})
	return through.String()
}
