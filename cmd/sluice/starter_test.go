package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"sluice/gateway/starter"
	"sluice/queue/topology"
	"sluice/queue/worker"
)

// Each worker that `sluice worker new` writes works as it stands: its test passes, and by the commands of its rules it is
// put to work and an event goes through its topology to the end.
func TestWorkerNew(t *testing.T) {
	t.Parallel()
	w, _ := startServe(t)
	for lang, needs := range map[string][]string{"go": {"go"}, "node": {"node"}, "python": {"python3"}, "bash": {"bash", "curl", "jq"}} {
		t.Run(lang, func(t *testing.T) {
			t.Parallel()
			s := newShell(t, w, append(needs, "bash")...)
			name := "my-" + lang
			s.run("sluice worker new --lang "+lang+" "+name, "Wrote "+name+"/AGENTS.md")
			s.dir = filepath.Join(s.dir, name)
			files, err := filepath.Glob(filepath.Join(s.dir, "worker.*"))
			if err != nil || len(files) == 0 {
				t.Fatal("there is no worker", err)
			}
			if text := s.read(filepath.Base(files[0])); strings.Count(text, "\n") >= 40 {
				t.Errorf("the worker has %d lines", strings.Count(text, "\n"))
			}
			rules := s.read("AGENTS.md")
			commands := checkDocument(t, rules)
			if len(commands) != 2 {
				t.Fatalf("the rules have %d blocks of commands:\n%s", len(commands), rules)
			}
			s.run(commands[0])
			s.run(commands[1], `"total":`, "Verdict  done", name+".yaml: valid", "done")
			s.run("sluice worker test "+name+` --node total --data '{"quantity": 0}' || echo refused`, "quantity must be more than 0", "rejected", "refused")
		})
	}
}

// The guide for coding agents is served to everyone, and does not rot: its commands run, and its documents are what it says.
func TestGuide(t *testing.T) {
	t.Parallel()
	w, _ := startServe(t)
	resp, err := http.Get(w.env["SLUICE_URL"] + "/llms.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/plain") {
		t.Fatal(resp.Status, resp.Header, err)
	}
	commands := checkDocument(t, string(text))
	s := newShell(t, w, "bash", "node")
	s.run(strings.Join(commands, "\n"), "Wrote shop/worker.js", `"total":10`, "done")
	for _, link := range regexp.MustCompile(`\]\((/[^)]+)\)`).FindAllStringSubmatch(string(text), -1) {
		resp, err := http.Get(w.env["SLUICE_URL"] + link[1])
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("%s: %s", link[1], resp.Status)
		}
	}
	if _, contract, found := strings.Cut(string(text), "## Contract"); !found || !strings.Contains(s.read("shop/AGENTS.md"), contract) {
		t.Error("the rules of a worker tell another contract than the guide")
	}
}

// checkDocument holds what a document for agents says against the program, and returns its commands, block by block.
func checkDocument(t *testing.T, text string) (commands []string) {
	t.Helper()
	for _, block := range regexp.MustCompile("(?s)```(\\w*)\n(.*?)\n```").FindAllStringSubmatch(text, -1) {
		switch kind, body := block[1], block[2]; kind {
		case "sh":
			commands = append(commands, body)
		case "yaml":
			if _, err := topology.Parse("guide.yaml", []byte(body)); err != nil {
				t.Errorf("%v:\n%s", err, body)
			}
		case "json":
			if err := answers(t, body); err != nil {
				t.Errorf("%v: %s", err, body)
			}
		default:
			t.Errorf("nobody knows what to do with a block of %q:\n%s", kind, body)
		}
	}
	inline := regexp.MustCompile("`(sluice [^`]+)`").FindAllStringSubmatch(text, -1)
	if len(commands) == 0 || len(inline) == 0 {
		t.Error("there are no commands")
	}
	for _, command := range inline {
		if err := parses(t, shellWords(command[1])); err != nil {
			t.Errorf("%s: %v", command[1], err)
		}
	}
	return commands
}

// answers tells whether a document is one that a worker may answer with: that it fails a message is no mistake.
func answers(t *testing.T, document string) error {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", worker.ResultType)
		_, _ = io.WriteString(w, document)
	}))
	defer s.Close()
	c := worker.NewClient(worker.Config{})
	defer c.Close()
	call := worker.Request{Action: "a", MessageID: "1", Followers: []string{"audit"}}
	if strings.Contains(document, `"cursor"`) {
		call.Page = 1
	}
	_, err := c.Call(t.Context(), worker.Target{URL: s.URL}, call)
	if failure, ok := errors.AsType[*worker.Failure](err); ok && failure.Class == worker.Rejected && strings.Contains(document, `"fail"`) {
		return nil
	}
	return err
}

// shell runs commands as people do, in a directory of its own, with this program as sluice.
type shell struct {
	t    *testing.T
	dir  string
	port string
	env  []string
}

// newShell skips the test where a program is missing.
func newShell(t *testing.T, w *world, programs ...string) *shell {
	t.Helper()
	for _, program := range programs {
		if err := exec.CommandContext(t.Context(), program, "--version").Run(); err != nil && program != "go" {
			t.Skipf("left out, for this machine has no %s: %v", program, err)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bin := filepath.Dir(writeFile(t, "sluice", "#!/bin/sh\n"+asProgram+"=1 exec '"+self+"' \"$@\"\n"))
	if err := os.Chmod(filepath.Join(bin, "sluice"), 0o700); err != nil {
		t.Fatal(err)
	}
	s := &shell{t: t, dir: t.TempDir(), port: strconv.Itoa(l.Addr().(*net.TCPAddr).Port)}
	s.env = append(os.Environ(), "PATH="+bin+string(os.PathListSeparator)+os.Getenv("PATH"), "PORT="+s.port,
		"SLUICE_URL="+w.env["SLUICE_URL"], "SLUICE_API_KEY="+w.env["SLUICE_API_KEY"])
	return s
}

func (s *shell) read(name string) string {
	s.t.Helper()
	text, err := os.ReadFile(filepath.Join(s.dir, name))
	if err != nil {
		s.t.Fatal(err)
	}
	return string(text)
}

// run runs commands, expects words in what they write, and ends at the end of the test what they leave running.
func (s *shell) run(commands string, says ...string) {
	s.t.Helper()
	out, err := os.CreateTemp(s.t.TempDir(), "out") // no pipe: what is left running would hold it open
	if err != nil {
		s.t.Fatal(err)
	}
	defer out.Close()
	began := time.Now()
	ctx, cancel := context.WithTimeout(s.t.Context(), 3*time.Minute) // the first build of a worker in Go takes its time
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", strings.ReplaceAll(commands, "127.0.0.1:9000", "127.0.0.1:"+s.port))
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = s.dir, s.env, out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	group := -cmd.Process.Pid
	s.t.Cleanup(func() {
		if err := syscall.Kill(group, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			s.t.Error(err)
		}
	})
	failed := cmd.Wait()
	text, err := os.ReadFile(out.Name())
	if err != nil {
		s.t.Fatal(err)
	}
	if failed != nil {
		s.t.Fatalf("%s:\n%s\n%v after %s", commands, text, failed, time.Since(began))
	}
	for _, words := range says {
		if !strings.Contains(strings.ReplaceAll(string(text), `": `, `":`), strings.ReplaceAll(words, `": `, `":`)) {
			s.t.Errorf("%q was not said by\n%s\n\n%s", words, commands, text)
		}
	}
}

// What is there already is not touched, and a name that a worker cannot have is refused before anything is written.
func TestWorkerNewTouchesNothing(t *testing.T) {
	t.Parallel()
	w, dir := newWorld(t), filepath.Join(t.TempDir(), "shop")
	w.run("worker", "new", "--lang", "go", "--dir", dir).exits(exitOK).says("go test ./...")
	before := mustRead(t, filepath.Join(dir, "token"))
	w.run("worker", "new", "--lang", "python", "--dir", dir).exits(exitFailed).complains("is there already", "--dir")
	if _, err := os.Stat(filepath.Join(dir, "worker.py")); err == nil || mustRead(t, filepath.Join(dir, "token")) != before {
		t.Error("something was written")
	}
	if info, err := os.Stat(filepath.Join(dir, "token")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
	for i, name := range []string{"Shop", "a--b", "a/b", "..", "true", strings.Repeat("a", 64)} {
		other := fmt.Sprint(dir, i)
		w.run("worker", "new", "--lang", "bash", name, "--dir", other).exits(exitUsage).complains("cannot be the name")
		if _, err := os.Stat(other); err == nil {
			t.Errorf("%s: something was written", name)
		}
	}
	w.run("worker", "new", "--lang", "cobol").exits(exitUsage).complains("python")
	if _, err := starter.New("cobol", "shop"); !errors.Is(err, starter.ErrLanguage) {
		t.Error(err)
	}
}

func mustRead(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
