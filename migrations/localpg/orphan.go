package localpg

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// claim makes dir if it is missing and locks it for as long as this process lives. The kernel drops the lock with the
// process, however that ends, and the server does not inherit it: so whoever has the lock knows that a server that
// still runs on dir has lost its parent.
func (s *Server) claim(dir string) error {
	if dir == "" {
		return errors.New("no directory given")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	if err := makeDir(dir); err != nil {
		return err
	}
	if s.dir, err = filepath.EvalSymlinks(dir); err != nil {
		return err
	}
	s.data = filepath.Join(s.dir, "data")
	f, err := os.OpenFile(filepath.Join(s.dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return fmt.Errorf("lock %s: %w", s.dir, err)
		}
		holder := make([]byte, 20)
		n, _ := f.Read(holder)
		return fmt.Errorf("%s: %w by process %s: stop that one first, or use another directory", s.dir, ErrInUse, holder[:n])
	}
	s.lock = f
	_ = f.Truncate(0)
	_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())), 0)
	return err
}

func (s *Server) release() {
	if s.lock != nil {
		_ = s.lock.Close()
		s.lock = nil
	}
}

// stopOrphan stops the server that a killed process left on our data, and makes a lock file harmless that a power cut
// left there. Only who holds the lock of dir may call it.
func (s *Server) stopOrphan(ctx context.Context) error {
	f, err := readLockFile(s.data)
	if err != nil || !f.present {
		return err
	}
	if f.pid == 0 { // a power cut came between its making and its writing
		return os.Remove(filepath.Join(s.data, "postmaster.pid"))
	}
	if syscall.Kill(f.pid, 0) == syscall.ESRCH {
		return nil // Postgres sees that too, and looks at what else the file says
	}
	if !isPostmaster(f.pid, s.data) {
		return s.disown(f)
	}
	if !isOurs(f.pid) {
		return fmt.Errorf("%s: %w by a Postgres that Sluice did not start, process %d: stop that one first", s.data, ErrInUse, f.pid)
	}
	s.log.WarnContext(ctx, "Stopping a Postgres that was left behind", "pid", f.pid)
	for _, try := range []struct {
		signal syscall.Signal
		wait   time.Duration
	}{{syscall.SIGINT, 30 * time.Second}, {syscall.SIGQUIT, 10 * time.Second}} {
		if err := syscall.Kill(f.pid, try.signal); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("stop the server left behind, process %d: %w", f.pid, err)
		}
		for deadline := time.Now().Add(try.wait); time.Now().Before(deadline); {
			if !isPostmaster(f.pid, s.data) {
				return s.stopOrphan(ctx) // it may have left its file
			}
			if err := pause(ctx, 5*time.Millisecond); err != nil {
				return err
			}
		}
	}
	return fmt.Errorf("%s: %w by a server left behind, process %d, which does not stop", s.data, ErrInUse, f.pid)
}

// lockFile is what Postgres writes to postmaster.pid.
type lockFile struct {
	present bool
	pid     int    // 0: none in it
	socket  string // directory of the socket; "" while starting
	rest    string // all but the process
}

func readLockFile(data string) (lockFile, error) {
	path := filepath.Join(data, "postmaster.pid")
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return lockFile{}, nil
	}
	if err != nil {
		return lockFile{}, err
	}
	first, rest, _ := strings.Cut(string(b), "\n")
	f := lockFile{present: true}
	if pid, err := strconv.Atoi(strings.TrimSpace(first)); err == nil && pid > 0 {
		f.pid, f.rest = pid, rest
	}
	if lines := strings.Split(f.rest, "\n"); len(lines) > 3 {
		f.socket = lines[3]
	}
	return f, nil
}

// disown makes a lock file harmless whose process number now belongs to some other process, or to one that is dead but
// not buried. Removing the file would be simpler, but with it would go the number of the shared memory by which Postgres
// finds out whether processes of the dead server are still at work. A file of its own parent counts as left behind, and
// the rest of it is heeded.
func (s *Server) disown(f lockFile) error {
	path := filepath.Join(s.data, "postmaster.pid")
	next := path + ".new"
	if err := os.WriteFile(next, []byte(strconv.Itoa(os.Getpid())+"\n"+f.rest), 0o600); err != nil {
		return err
	}
	if err := s.give(next); err != nil {
		return err
	}
	return os.Rename(next, path)
}

// isPostmaster tells whether the process is a live Postgres server on data. (The number in a lock file may have passed
// to another process. A process that is dead but not buried has no command line.)
func isPostmaster(pid int, data string) bool {
	c := commandLine(pid)
	program, _, _ := strings.Cut(c, "\x00")
	return filepath.Base(program) == "postgres" && strings.Contains(c, "\x00-D\x00"+data+"\x00")
}

// isOurs tells whether a server was started by this package.
func isOurs(pid int) bool { return strings.Contains(commandLine(pid), "\x00"+cluster+"\x00") }

// commandLine is the command line of a process with a zero byte after each part; "" if there is none.
func commandLine(pid int) string {
	if runtime.GOOS == "linux" {
		b, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
		return string(b)
	}
	b, _ := exec.Command("ps", "-ww", "-o", "args=", "-p", strconv.Itoa(pid)).Output()
	return parsePS(string(b))
}

// parsePS makes a command line of what ps prints, which does not tell the spaces between arguments from those in them.
// The arguments that we look at are recognised by what stands around them in the commands that we start.
func parsePS(out string) string {
	c := strings.TrimSpace(out)
	c = strings.Replace(c, " -D ", "\x00-D\x00", 1)
	c = strings.Replace(c, " -p "+port+" ", "\x00-p\x00"+port+" ", 1)
	c = strings.ReplaceAll(c, " -c ", "\x00-c\x00")
	if c == "" {
		return ""
	}
	return c + "\x00"
}
