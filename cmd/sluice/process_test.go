package main

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// child is sluice as a process of its own, which gets signals as people send them.
type child struct {
	t      *testing.T
	cmd    *exec.Cmd
	stdout *bufio.Reader
	stderr *watched
}

// spawn starts sluice as another process: as this user, or the one named.
func spawn(t *testing.T, home, username string, args ...string) *child {
	t.Helper()
	c := &child{t: t, stderr: &watched{}}
	c.cmd = exec.Command(programFor(t, home), args...)
	c.cmd.Dir = home
	c.cmd.Env = []string{asProgram + "=1", "PATH=" + os.Getenv("PATH"), "HOME=" + home}
	c.cmd.Stderr = c.stderr
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if username != "" {
		u, err := user.Lookup(username)
		if err != nil {
			t.Skip(err)
		}
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		if err := os.Chown(home, uid, gid); err != nil {
			t.Fatal(err)
		}
		c.cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.stdout = bufio.NewReader(out)
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if c.cmd.ProcessState == nil {
			_ = c.cmd.Process.Kill()
			_ = c.cmd.Wait()
		}
	})
	return c
}

// programFor copies this test program to where any user may run it.
func programFor(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(dir, "sluice-under-test")
	if _, err := os.Stat(path); err == nil {
		return path
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	from, err := os.Open(self)
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	to, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(to, from); err != nil {
		t.Fatal(err)
	}
	if err := to.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// ready waits until a dev has printed how to reach it.
func (c *child) ready() devAccess {
	c.t.Helper()
	var text strings.Builder
	for {
		line, err := c.stdout.ReadString('\n')
		text.WriteString(line)
		if err != nil {
			_ = c.cmd.Wait()
			c.t.Fatalf("it ended: %v\n%s%s", c.cmd.ProcessState, &text, c.stderr)
		}
		if strings.HasPrefix(line, "curl ") {
			return parseAccess(c.t, text.String())
		}
	}
}

// signal sends a signal.
func (c *child) signal(s syscall.Signal) {
	c.t.Helper()
	if err := c.cmd.Process.Signal(s); err != nil {
		c.t.Fatal(err)
	}
}

// ended waits for the end of the process.
func (c *child) ended() *os.ProcessState {
	c.t.Helper()
	done := make(chan struct{})
	go func() { _ = c.cmd.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(time.Minute):
		_ = c.cmd.Process.Kill()
		<-done
		c.t.Fatalf("it did not end:\n%s", c.stderr)
	}
	return c.cmd.ProcessState
}

func TestDevAsAnOrdinaryUser(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("every other test runs as an ordinary user, this one starts as root")
	}
	home := dataDir(t)
	dev := spawn(t, home, "nobody", "dev", "--listen", "127.0.0.1:0")
	access := dev.ready()
	if p := finished(at(t, access), paste(t, access).CorrelationID); p.State != "done" {
		t.Errorf("%+v", p)
	}
	data := filepath.Join(home, ".local", "share", "sluice")
	if _, err := readAccess(data); err != nil {
		t.Errorf("its data is not in the user's data directory: %v", err)
	}
	dev.signal(syscall.SIGTERM)
	if s := dev.ended(); s.ExitCode() != exitOK {
		t.Errorf("%v:\n%s", s, dev.stderr)
	}
}

func TestSecondSignalEndsAtOnce(t *testing.T) {
	t.Parallel()
	home := dataDir(t)
	slow := newSlowWorker(t)
	defer close(slow.let)
	dev := spawn(t, home, "", "dev", "--data", home, "--listen", "127.0.0.1:0", "--grace", "1h")
	access := dev.ready()
	w := at(t, access)
	w.run("worker", "add", "slow", slow.URL).exits(exitOK)
	w.typing(slowTopology).run("topology", "apply", "-", "--enable").exits(exitOK)
	w.run("send", "slow", "in", "--data", "{}").exits(exitOK)
	<-slow.called
	dev.signal(syscall.SIGINT)
	eventually(t, "it drains", func() bool { return strings.Contains(dev.stderr.String(), "Draining") })
	dev.signal(syscall.SIGINT)
	if s := dev.ended(); s.Sys().(syscall.WaitStatus).Signal() != syscall.SIGINT {
		t.Errorf("%v:\n%s", s, dev.stderr)
	}
	// Nothing is left behind that would keep the next one from starting.
	again := spawn(t, home, "", "dev", "--data", home, "--listen", "127.0.0.1:0", "--grace", "100ms")
	again.ready()
	again.signal(syscall.SIGTERM)
	again.ended()
}

func TestKilledDevGoesOn(t *testing.T) {
	t.Parallel()
	home := dataDir(t)
	slow := newSlowWorker(t)
	dev := spawn(t, home, "", "dev", "--data", home, "--listen", "127.0.0.1:0")
	access := dev.ready()
	w := at(t, access)
	w.run("worker", "add", "slow", slow.URL).exits(exitOK)
	w.typing(slowTopology).run("topology", "apply", "-", "--enable").exits(exitOK)
	id := strings.TrimSpace(w.run("send", "slow", "in", "--data", "{}").ok())
	<-slow.called
	dev.signal(syscall.SIGKILL)
	dev.ended()
	close(slow.let)
	began := time.Now()
	again := spawn(t, home, "", "dev", "--data", home, "--listen", "127.0.0.1:0")
	access = again.ready()
	if p := finished(at(t, access), id); p.State != "done" {
		t.Errorf("%+v", p)
	}
	t.Logf("the message of the killed dev was done %s after the next start", time.Since(began).Round(time.Millisecond))
	newWorld(t).run("check", "--data", home).exits(exitOK).says("Clean")
	again.signal(syscall.SIGTERM)
	again.ended()
}

// `go run` hands no SIGTERM on, and what it ran must not stay behind with the port and the data.
func TestEndsWithGoRun(t *testing.T) {
	t.Parallel()
	home := dataDir(t)
	built := filepath.Join(home, "go-build")
	if err := os.Mkdir(built, 0o755); err != nil {
		t.Fatal(err)
	}
	parent := exec.Command("sh", "-c", `"$0" "$@" & wait`, programFor(t, built), "dev", "--data", home, "--listen", "127.0.0.1:0")
	parent.Env = []string{asProgram + "=1", "PATH=" + os.Getenv("PATH")}
	stderr := &watched{}
	parent.Stderr = stderr
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "dev has started", func() bool { return strings.Contains(stderr.String(), `"msg":"Started"`) })
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait() // returns when dev, too, has closed its standard error
	if !strings.Contains(stderr.String(), "Postgres stopped") {
		t.Errorf("it did not drain:\n%s", stderr)
	}
}
