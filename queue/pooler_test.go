package queue_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"sluice/migrations"
	"sluice/migrations/pgtest"
	"sluice/queue"
	"sluice/queue/process"
	"sluice/queue/worker"
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

// Behind a pooler that gives each transaction another session, nodes take events, hand them on, keep order, and take over
// from one that was killed. Nothing of what they set stays behind in the sessions that they share with others.
func TestThroughPooler(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	through := startPooler(t, db, "")
	r := newRig(t, db.Pool())
	s := newSink(t, stormFlow)
	r.moveWorker(s.url)
	r.publish(strings.Replace(storm, "d: {kind: connector,", "d: {kind: connector, concurrency: 1,", 1))
	events := bySize(150, 10_000)
	want := stormEffects(t, events)
	running := []*node{startNode(t, through, 2*time.Second, nodePooled+"=1"), startNode(t, through, 2*time.Second, nodePooled+"=1")}
	p := produce(t, events, running[0].addr, running[1].addr)
	progress(t, s, 0.3, len(want))
	running[0].kill()
	killed := time.Now()
	p.gateways.Store(&[]string{running[1].addr})
	held := r.takenOver([]string{running[0].name}, killed)
	t.Logf("%d claims taken over after %v", held, time.Since(killed).Round(10*time.Millisecond))
	<-p.done
	progress(t, s, 1, len(want))
	r.drained()
	s.prove(r, want)

	stranger, err := queue.OpenPooled(t.Context(), through, 20)
	ok(t, err)
	defer stranger.Close()
	for range 50 {
		var tenant, scans, joins string
		ok(t, stranger.QueryRow(t.Context(), `
			select coalesce(current_setting('sluice.tenant_id', true), ''), current_setting('enable_seqscan'), current_setting('enable_hashjoin')`).
			Scan(&tenant, &scans, &joins))
		if tenant != "" || scans != "on" || joins != "on" {
			t.Fatalf("a session was left with tenant %q, sequential scans %s, hash joins %s", tenant, scans, joins)
		}
	}
}

// Behind a pooler the trash works, as a tenant's, and walls stand.
func TestTrashThroughPooler(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	through := startPooler(t, db, "")
	r := newRig(t, db.Pool())
	r.publish(line)
	pool, err := queue.OpenPooled(t.Context(), through, 16)
	ok(t, err)
	t.Cleanup(pool.Close)
	var mended atomic.Bool
	r.engine = newEngine(t, pool, queue.Config{Pooled: true, Caller: callerFunc(func(_ context.Context, req worker.Request) (worker.Result, error) {
		if req.Node == "a" && !mended.Load() {
			return worker.Result{}, &worker.Failure{Class: worker.Rejected, Reason: "broken"}
		}
		return passOn(req), nil
	})})
	id := r.accept("in", "x")
	r.wait(`select count(*) = 1 from sluice.trash`)
	mended.Store(true)
	number := one[int64](r, `select message_id from sluice.trash`)
	resend := func(tenant int64) (sent int, queues []string) {
		ok(t, process.ForTenant(t.Context(), pool, tenant, func(tx pgx.Tx) error {
			messages, q, err := r.engine.Resend(t.Context(), tx, tenant, queue.Resending{Messages: []process.MessageID{{Process: id, Number: number}}, By: "ann", Reason: ""})
			sent, queues = len(messages), q
			return err
		}))
		return sent, queues
	}
	if n, _ := resend(tenant + 1); n != 0 {
		t.Error("another tenant's message was sent again")
	}
	n, queues := resend(tenant)
	if n != 1 {
		t.Errorf("%d messages sent again, want 1", n)
	}
	r.engine.Woke(t.Context(), queues)
	r.finished(id)
	r.drained()
}

// Who does not say that there is a pooler is told, whatever the pooler makes of it, before anything is done wrong.
func TestUnannouncedPooler(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	strict := startPooler(t, db, "")
	pool, err := queue.Open(t.Context(), strict, 4)
	ok(t, err)
	defer pool.Close()
	if _, err := queue.New(t.Context(), pool, queue.Config{}); err == nil || !strings.Contains(err.Error(), "unsupported startup parameter") {
		t.Errorf("a pooler that refuses settings: %v", err)
	}
	if err := migrations.Up(t.Context(), strict); err == nil {
		t.Error("migrated through a pooler")
	}
	lax := startPooler(t, db, "ignore_startup_parameters = sluice.tenant_id,enable_seqscan,jit")
	pool, err = queue.Open(t.Context(), lax+"&default_query_exec_mode=cache_describe", 4)
	ok(t, err)
	defer pool.Close()
	if _, err := queue.New(t.Context(), pool, queue.Config{}); !errors.Is(err, queue.ErrSettingsLost) {
		t.Errorf("a pooler that ignores settings: %v", err)
	}
}

// openEdited returns a pool as an engine's that writes other bytes, as many, instead of some.
func openEdited(t *testing.T, db *pgtest.DB, edits map[string]string) *pgxpool.Pool {
	t.Helper()
	plain, err := queue.Open(t.Context(), db.URL, 12)
	ok(t, err)
	config := plain.Config()
	plain.Close()
	dial := config.ConnConfig.DialFunc
	config.ConnConfig.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		return editedConn{conn, edits}, err
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	ok(t, err)
	t.Cleanup(pool.Close)
	return pool
}

type editedConn struct {
	net.Conn
	edits map[string]string
}

func (c editedConn) Write(p []byte) (int, error) {
	for from, to := range c.edits {
		p = bytes.ReplaceAll(p, []byte(from), []byte(to))
	}
	return c.Conn.Write(p)
}

// Where nothing is notified, be it that nobody asked, that the database does not know how, or that it takes a LISTEN and
// does nothing, the sweep finds what others made, and the log says so once.
func TestPollOnly(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		config queue.Config
		edits  map[string]string
		said   string
	}{
		"as asked": {config: queue.Config{PollOnly: true}},
		"refused":  {edits: map[string]string{"listen sluice": "lisnet sluice", "LISTEN ": "LISNET "}, said: "No LISTEN to be had"},
		"ignored":  {edits: map[string]string{"listen sluice_wake\x00": "select 1          \x00"}, said: "Not listening"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			pool := openEdited(t, db, c.edits)
			var log lockedBuffer
			c.config.Logger, c.config.Lease = slog.New(slog.NewTextHandler(&log, nil)), 10*time.Second
			r := newRig(t, pool)
			r.publish(line)
			c.config.Caller = callerFunc(same)
			r.engine = newEngine(t, pool, c.config)
			if name == "ignored" {
				until(t, "it is noticed that nothing is heard", func() bool { return strings.Contains(log.String(), c.said) })
			}
			e, err := queue.New(t.Context(), pool, queue.Config{PollOnly: true})
			ok(t, err)
			var slowest time.Duration
			for range 10 {
				began := time.Now()
				a, err := e.Accept(t.Context(), queue.Event{Tenant: tenant, Topology: "flow", Node: "in", Body: []byte("x")})
				ok(t, err)
				r.finished(a.Process)
				slowest = max(slowest, time.Since(began))
			}
			ok(t, e.Stop(t.Context()))
			t.Logf("slowest process %v", slowest)
			if slowest > 5*time.Second {
				t.Errorf("a process took %v", slowest)
			}
			if listening := one[int](r, `select count(*)::int from pg_stat_activity where datname = current_database() and query ~* '^(un)?listen'`); listening > 0 {
				t.Errorf("%d sessions listen", listening)
			}
			warnings := strings.Count(log.String(), "level=WARN") + strings.Count(log.String(), "level=ERROR")
			if want := min(len(c.said), 1); warnings != want || !strings.Contains(log.String(), c.said) {
				t.Errorf("%d warnings, want %d with %q:\n%s", warnings, want, c.said, log.String())
			}
		})
	}
}

// What an engine that notifies nobody is told by nobody it finds by itself; engines of both sorts work side by side.
func TestPollOnlyBesideListeners(t *testing.T) {
	t.Parallel()
	r := newRig(t, pgtest.New(t).Pool())
	r.publish(line)
	r.engine = newEngine(t, r.pool, queue.Config{Caller: callerFunc(same), PollOnly: true})
	newEngine(t, r.pool, queue.Config{Caller: callerFunc(same)})
	var ids []uuid.UUID
	for range 50 {
		ids = append(ids, r.accept("in", "x"))
	}
	for _, id := range ids {
		r.finished(id)
	}
	r.drained()
}
