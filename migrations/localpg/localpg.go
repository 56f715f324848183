// Package localpg runs a private Postgres from the binaries of this machine, for `sluice dev` and for tests.
//
// The server listens on a Unix socket in a directory that nobody else may enter, runs as an ordinary user even when
// Sluice runs as root (Postgres refuses root), and is a child that does not outlive its parent: on Linux the kernel
// ends it when Sluice is killed, elsewhere the next Start does. One directory serves one process at a time; what a
// crash, a kill or a power cut left behind in it is cleared away by the next Start, and nothing committed is lost.
// An application connects as the role sluice, which owns its database but is no superuser, so that row-level security
// holds here as it does in production.
//
// It knows nothing of the schema: bringing a database up to date is the task of package migrations.
package localpg

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Role is the role that owns the database Database. It is no superuser.
const Role = "sluice"

// Database is the database that every server has, owned by Role.
const Database = "sluice"

const (
	superuser = "postgres"
	port      = "5432" // of the socket's name only

	// cluster marks our servers in the process list, and tells them from a server that somebody started by hand.
	cluster = "cluster_name=sluice"
)

// Durability says what a server promises about committed transactions.
type Durability int

const (
	// Durable survives a crash of the machine: a commit is on disk before it is confirmed.
	Durable Durability = iota
	// Ephemeral survives nothing and writes as little as it can. For tests.
	Ephemeral
)

// Mode is a way to end a server before it is started again.
type Mode int

const (
	// Fast ends all sessions, writes everything out and stops.
	Fast Mode = iota
	// Immediate stops at once, as pg_ctl -m immediate does; the next start recovers from the log.
	Immediate
	// Crash kills the server's main process and lets the others find out.
	Crash
)

var (
	// ErrInUse says that the directory belongs to another process that is alive.
	ErrInUse = errors.New("in use")
	// ErrNotRunning says that no server runs on the directory.
	ErrNotRunning = errors.New("no server is running")
)

// Config says what to start.
type Config struct {
	// Dir holds the cluster (data), the server's log (log), the lock of the process that uses it (lock) and the socket
	// (run). It is made if missing. A server that is started by root runs as another user, who must be able to enter
	// it: a directory below /root will not do.
	Dir string

	// Bin is the directory of initdb and postgres. Default: what Find finds, of the version that Dir was made with.
	Bin string

	// Durability is fixed by each start, not by the cluster. Default: Durable.
	Durability Durability

	// Logger is told what happens. Default: nobody is.
	Logger *slog.Logger
}

// Server is a running Postgres.
type Server struct {
	dir, data, bin string
	socket         string // the directory of the socket
	durability     Durability
	account        *syscall.Credential // as whom the server runs; nil: as this process
	log            *slog.Logger
	lock           *os.File

	mu      sync.Mutex
	process *process // nil: stopped
}

// Start starts the cluster in c.Dir, which it makes first if there is none, and returns when the server takes
// connections. ctx bounds the start, not the server's life: the caller must Stop it.
//
// A server that a killed process left running on c.Dir is stopped first. When the process that uses c.Dir is alive,
// Start returns ErrInUse.
func Start(ctx context.Context, c Config) (_ *Server, err error) {
	s := &Server{bin: c.Bin, durability: c.Durability, log: c.Logger}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if err := s.claim(c.Dir); err != nil {
		return nil, fmt.Errorf("local postgres: %w", err)
	}
	defer func() {
		if err != nil {
			s.removeSocketDir()
			s.release()
			err = fmt.Errorf("local postgres: %w", err)
		}
	}()
	began := time.Now()
	if s.account, err = account(s.data); err != nil {
		return nil, err
	}
	if err := s.give(s.lock.Name()); err != nil { // or the owner of the cluster could not come back without root
		return nil, err
	}
	if err := s.choose(); err != nil {
		return nil, err
	}
	if err := s.reach(ctx, s.dir); err != nil {
		return nil, err
	}
	if err := s.stopOrphan(ctx); err != nil {
		return nil, err
	}
	if err := s.initialise(ctx); err != nil {
		return nil, err
	}
	if err := s.makeSocketDir(ctx); err != nil {
		return nil, err
	}
	if err := s.launch(ctx); err != nil {
		return nil, err
	}
	s.log.InfoContext(ctx, "Postgres started", "addr", s.socket, "duration", time.Since(began))
	return s, nil
}

// URL is the connection string of a database for Role, the same after each Restart.
func (s *Server) URL(database string) string { return connString(s.socket, Role, database) }

// SuperURL is the connection string of a database for the superuser.
func (s *Server) SuperURL(database string) string { return connString(s.socket, superuser, database) }

// Stop ends the server: a durable one writes everything out first, until ctx is done. Stopping twice is no error.
func (s *Server) Stop(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lock == nil {
		return nil
	}
	defer s.release()
	if s.process != nil { // nil: a Restart failed
		mode := Fast
		if s.durability == Ephemeral {
			mode = Immediate
		}
		if err := s.end(ctx, mode); err != nil {
			return fmt.Errorf("local postgres: stop: %w", err)
		}
	}
	s.removeSocketDir()
	s.log.InfoContext(ctx, "Postgres stopped")
	return nil
}

// Restart ends the server in the given way and starts it again under the same URL. It is for tests of faults.
func (s *Server) Restart(ctx context.Context, mode Mode) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process == nil {
		return fmt.Errorf("local postgres: restart: %w", ErrNotRunning)
	}
	if err := s.end(ctx, mode); err != nil {
		return fmt.Errorf("local postgres: restart: %w", err)
	}
	if err := s.launch(ctx); err != nil {
		return fmt.Errorf("local postgres: restart: %w", err)
	}
	return nil
}

// Locate is the connection string, for Role, of a database of the server that runs on dir, which any process may have
// started.
func Locate(dir, database string) (string, error) {
	data, err := filepath.Abs(filepath.Join(dir, "data"))
	if err != nil {
		return "", fmt.Errorf("local postgres: %w", err)
	}
	data, err = filepath.EvalSymlinks(data)
	if errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("local postgres: %s: %w", dir, ErrNotRunning)
	}
	if err != nil {
		return "", fmt.Errorf("local postgres: %w", err)
	}
	f, err := readLockFile(data)
	if err != nil {
		return "", fmt.Errorf("local postgres: %w", err)
	}
	if f.pid == 0 || !isPostmaster(f.pid, data) || f.socket == "" {
		return "", fmt.Errorf("local postgres: %s: %w", dir, ErrNotRunning)
	}
	return connString(f.socket, Role, database), nil
}

// Remove removes dir with its cluster and everything in it. A server that was left behind on it is stopped first; when
// the process that uses it is alive, Remove returns ErrInUse.
func Remove(ctx context.Context, dir string) error {
	s := &Server{durability: Ephemeral, log: slog.New(slog.DiscardHandler)}
	if err := s.claim(dir); err != nil {
		return fmt.Errorf("local postgres: remove: %w", err)
	}
	defer s.release()
	if err := s.stopOrphan(ctx); err != nil {
		return fmt.Errorf("local postgres: remove: %w", err)
	}
	s.removeSocketDir()
	if err := os.RemoveAll(s.dir); err != nil {
		return fmt.Errorf("local postgres: remove: %w", err)
	}
	return nil
}

func connString(socket, user, database string) string {
	q := url.Values{"host": {socket}, "port": {port}, "sslmode": {"disable"}}
	u := url.URL{Scheme: "postgres", User: url.User(user), Path: "/" + database, RawQuery: q.Encode()}
	return u.String()
}

// initialise makes the cluster if there is none. It is made beside its place and moved there when complete, so that
// an interrupted attempt leaves nothing that looks like a cluster.
func (s *Server) initialise(ctx context.Context) error {
	_, err := os.Stat(filepath.Join(s.data, "PG_VERSION"))
	if err == nil {
		return s.own()
	}
	if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	halves, _ := filepath.Glob(filepath.Join(s.dir, "init-*"))
	for _, half := range halves {
		if err := os.RemoveAll(half); err != nil {
			return err
		}
	}
	made, err := os.MkdirTemp(s.dir, "init-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(made)
	if err := s.give(made); err != nil {
		return err
	}
	// The locale C: present on every platform, sorts as Go does, and leaves messages in English for us to read.
	args := []string{"-D", made, "-U", superuser, "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-instructions"}
	if s.durability == Ephemeral {
		args = append(args, "--no-sync")
	}
	if out, err := s.run(ctx, "/", "initdb", args...); err != nil {
		return fmt.Errorf("initdb: %w: %s", err, out)
	}
	if err := os.Rename(made, s.data); err != nil {
		return err
	}
	return syncDir(s.dir)
}

// own gives a cluster that root copied here, from a backup say, to the user whom the server runs as.
func (s *Server) own() error {
	uid, err := owner(s.data)
	if err != nil {
		return err
	}
	if s.account == nil {
		if uid != os.Geteuid() {
			return fmt.Errorf("%s belongs to the user with the number %d: run as that user, or with another directory", s.data, uid)
		}
		return nil
	}
	if uid == int(s.account.Uid) {
		return nil
	}
	return filepath.WalkDir(s.data, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, int(s.account.Uid), int(s.account.Gid))
	})
}

func (s *Server) give(path string) error {
	if s.account == nil {
		return nil
	}
	return os.Chown(path, int(s.account.Uid), int(s.account.Gid))
}

// settings are given on the command line, so that a cluster follows the binary that starts it.
func (s *Server) settings() []string {
	common := []string{
		cluster,
		"listen_addresses=",
		"unix_socket_directories=" + quoteDirectory(s.socket),
		"unix_socket_permissions=0700",
		"logging_collector=off",
		"log_destination=stderr",
		"log_checkpoints=off",
		"timezone=UTC",
		"log_timezone=UTC",
		"wal_level=minimal", // nobody replicates from here
		"max_wal_senders=0",
		"random_page_cost=1.1",
		"jit=off", // costs more than it saves on statements that take milliseconds
	}
	if s.durability == Ephemeral {
		return append(common,
			"fsync=off",
			"synchronous_commit=off",
			"full_page_writes=off",
			"autovacuum=off", // plans in tests must not depend on when it passes by
			"shared_buffers=128MB",
			"max_connections=300",
		)
	}
	return append(common,
		"fsync=on",
		"synchronous_commit=on",
		"full_page_writes=on",
		"shared_buffers=256MB",
		"max_connections=200",
		// Checkpoints are rare, because each makes the pages that follow it be logged in full.
		"max_wal_size=4GB",
		"min_wal_size=512MB",
		"wal_buffers=16MB",
		"checkpoint_timeout=15min",
		// A queue's tables turn over in seconds.
		"autovacuum_naptime=10s",
	)
}

// quoteDirectory quotes a path for a setting that is a list of directories.
func quoteDirectory(path string) string { return `"` + strings.ReplaceAll(path, `"`, `""`) + `"` }

// process is the server's main process.
type process struct {
	os     *os.Process
	exited chan struct{} // closed when it is gone
}

// launch starts the server and waits until it takes connections and has our role and database.
func (s *Server) launch(ctx context.Context) error {
	for deadline := time.Now().Add(10 * time.Second); ; {
		said, err := s.tryLaunch(ctx)
		if err == nil {
			return nil
		}
		// The main process of the server before was killed, and its other processes are on their way out.
		dying := strings.Contains(said, "shared memory block") && strings.Contains(said, "still in use")
		if !dying || time.Now().After(deadline) {
			return err
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
}

// tryLaunch also returns what the server wrote to its log if it did not start.
func (s *Server) tryLaunch(ctx context.Context) (said string, err error) {
	logFile, err := openLog(filepath.Join(s.dir, "log"))
	if err != nil {
		return "", err
	}
	defer logFile.Close()
	if err := s.give(logFile.Name()); err != nil {
		return "", err
	}
	from, err := logFile.Seek(0, io.SeekEnd)
	if err != nil {
		return "", err
	}
	args := []string{"-D", s.data, "-p", port}
	for _, setting := range s.settings() {
		args = append(args, "-c", setting)
	}
	// A durable server whose parent dies writes everything out; nobody needs what an ephemeral one would write.
	death := syscall.SIGINT
	if s.durability == Ephemeral {
		death = syscall.SIGQUIT
	}
	// Not CommandContext: the server outlives ctx.
	cmd := exec.Command(filepath.Join(s.bin, "postgres"), args...)
	s.prepare(cmd, "/", death)
	cmd.Stdout, cmd.Stderr = logFile, logFile
	p, err := spawn(cmd)
	if err != nil {
		return "", err
	}
	s.process = p
	conn, err := s.connect(ctx)
	if err == nil {
		err = errors.Join(ensure(ctx, conn), conn.Close(ctx))
	}
	if err != nil {
		ended := errors.Is(err, errExited)
		s.kill()
		said = tail(logFile, from)
		if ended {
			err = fmt.Errorf("%w: %s", err, said)
		}
		return said, err
	}
	return "", nil
}

// spawn starts cmd from a thread that lives as long as cmd: Linux sends the signal that is to follow the death of the
// parent when the parent's thread ends, and Go's threads come and go.
func spawn(cmd *exec.Cmd) (*process, error) {
	p := &process{exited: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		p.os = cmd.Process
		started <- err
		if err != nil {
			return
		}
		_ = cmd.Wait() // the reason stands in the log
		close(p.exited)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

var errExited = errors.New("postgres ended while starting")

// startingUp is the SQLSTATE of a server that does not take connections yet.
const startingUp = "57P03"

// connect waits until the server takes connections. It waits for as long as the server is alive and ctx lets it: after
// a crash under load the log takes its time to be replayed.
func (s *Server) connect(ctx context.Context) (*pgx.Conn, error) {
	for {
		conn, err := pgx.Connect(ctx, s.SuperURL("postgres"))
		if err == nil {
			return conn, nil
		}
		var refused *pgconn.PgError
		if errors.As(err, &refused) && refused.Code != startingUp {
			return nil, err
		}
		select {
		case <-s.process.exited:
			return nil, errExited
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// ensure makes the role and the database on a new cluster.
func ensure(ctx context.Context, conn *pgx.Conn) error {
	var role, database bool
	err := conn.QueryRow(ctx, `
		select exists (select from pg_roles where rolname = $1),
		       exists (select from pg_database where datname = $2)`, Role, Database).Scan(&role, &database)
	if err != nil {
		return err
	}
	if !role {
		if _, err := conn.Exec(ctx, "create role "+Role+" login"); err != nil {
			return err
		}
	}
	if !database {
		if _, err := conn.Exec(ctx, "create database "+Database+" owner "+Role); err != nil {
			return err
		}
	}
	return nil
}

// end ends the process in the given way, and harder when ctx is done before it is gone. Only the mutex's holder calls.
func (s *Server) end(ctx context.Context, mode Mode) error {
	signal := map[Mode]syscall.Signal{Fast: syscall.SIGINT, Immediate: syscall.SIGQUIT, Crash: syscall.SIGKILL}[mode]
	if err := s.process.os.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-s.process.exited:
		s.process = nil
	case <-ctx.Done():
		s.log.WarnContext(ctx, "Postgres did not stop in time and is stopped at once", "err", context.Cause(ctx))
		s.kill()
	}
	return nil
}

// kill makes sure that the process is gone. Postgres itself gives its children five seconds after this signal.
func (s *Server) kill() {
	_ = s.process.os.Signal(syscall.SIGQUIT)
	select {
	case <-s.process.exited:
	case <-time.After(10 * time.Second):
		_ = s.process.os.Kill()
		<-s.process.exited
	}
	s.process = nil
}

// run runs one of the binaries to its end, as the user of the server, and returns what it said.
func (s *Server) run(ctx context.Context, dir, name string, args ...string) (string, error) {
	runtime.LockOSThread() // see spawn
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, name), args...)
	s.prepare(cmd, dir, syscall.SIGKILL)
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	return strings.ReplaceAll(strings.TrimSpace(string(out)), "\n", "; "), err
}

// prepare sets the user, the signal that follows our death, and an environment without PG* variables, which would
// change what the binaries do. A process group of its own keeps the terminal's Ctrl-C away from the server: Sluice
// drains first and then stops it.
func (s *Server) prepare(cmd *exec.Cmd, dir string, death syscall.Signal) {
	cmd.Dir = dir
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C"}
	cmd.SysProcAttr = childOf(death)
	cmd.SysProcAttr.Setpgid = true
	cmd.SysProcAttr.Credential = s.account
}

const logLimit = 10 << 20

// openLog opens the server's log to append to; one that has grown large is put aside, in the place of the one before.
func openLog(path string) (*os.File, error) {
	if fi, err := os.Stat(path); err == nil && fi.Size() > logLimit {
		if err := os.Rename(path, path+".1"); err != nil {
			return nil, err
		}
	}
	return os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
}

// tail is the end of what was written to the log since an offset, in one line.
func tail(f *os.File, from int64) string {
	b, _ := io.ReadAll(io.NewSectionReader(f, from, 64<<10))
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(lines[max(0, len(lines)-8):], "; ")
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// pause waits for d, or until ctx is done.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}
