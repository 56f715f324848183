package localpg

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// oldest is the oldest major version of Postgres that Sluice works with.
const oldest = 15

// ErrNoBinaries says that this machine has no Postgres, and how to install one.
var ErrNoBinaries error = noBinaries{}

type noBinaries struct{}

// Error is one line that can be pasted, for the package manager at hand.
func (noBinaries) Error() string {
	line := installLine(runtime.GOOS, hasCommand)
	if os.Geteuid() == 0 {
		line = strings.TrimPrefix(line, "sudo ")
	}
	return fmt.Sprintf("no Postgres %d or newer on this machine; install it: %s", oldest, line)
}

func hasCommand(name string) bool {
	_, err := exec.LookPath(name)
	return err == nil
}

func installLine(goos string, has func(string) bool) string {
	switch {
	case goos == "darwin":
		return "brew install postgresql@17"
	case has("apt-get"):
		return "sudo apt-get install -y postgresql"
	case has("dnf"):
		return "sudo dnf install -y postgresql-server"
	case has("apk"):
		return "sudo apk add postgresql"
	case has("pacman"):
		return "sudo pacman -S postgresql"
	case has("brew"):
		return "brew install postgresql@17"
	default:
		return "docker run -d -p 127.0.0.1:5432:5432 -e POSTGRES_PASSWORD=sluice postgres:17 (then set DATABASE_URL=postgres://postgres:sluice@127.0.0.1/postgres)"
	}
}

// places are where packages put the binaries when they are not on the PATH.
var places = []string{
	"/usr/lib/postgresql/*/bin",                          // Debian, Ubuntu
	"/usr/pgsql-*/bin",                                   // Fedora, RHEL
	"/usr/lib/postgresql*/bin",                           // SUSE
	"/usr/libexec/postgresql*",                           // Alpine
	"/opt/homebrew/opt/postgresql*/bin",                  // Homebrew on ARM
	"/usr/local/opt/postgresql*/bin",                     // Homebrew on Intel
	"/home/linuxbrew/.linuxbrew/opt/postgresql*/bin",     // Homebrew on Linux
	"/Applications/Postgres.app/Contents/Versions/*/bin", // Postgres.app
}

// Find finds the directory of this machine's Postgres binaries: on the PATH, or else the newest where packages install
// them. When there is none, or all are too old, the error is ErrNoBinaries.
func Find() (string, error) {
	all := candidates()
	if len(all) == 0 {
		return "", ErrNoBinaries
	}
	return all[0].dir, nil
}

// binaries are the programs of one Postgres.
type binaries struct {
	dir   string
	major int
}

// candidates are the binaries of this machine, the best first.
func candidates() []binaries {
	var found []binaries
	add := func(dir string) {
		dir, err := filepath.EvalSymlinks(dir)
		if err != nil || slices.ContainsFunc(found, func(b binaries) bool { return b.dir == dir }) {
			return
		}
		if major, err := majorOf(dir); err == nil && major >= oldest {
			found = append(found, binaries{dir, major})
		}
	}
	// Distributions put client programs on the PATH without the server, so the server's program is what counts.
	if path, err := exec.LookPath("postgres"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			add(filepath.Dir(path))
		}
	}
	onPath := len(found)
	for _, place := range places {
		dirs, _ := filepath.Glob(place)
		for _, dir := range dirs {
			add(dir)
		}
	}
	slices.SortStableFunc(found[onPath:], func(a, b binaries) int { return b.major - a.major })
	return found
}

var versionPattern = regexp.MustCompile(`\(PostgreSQL\) (\d+)`)

// majorOf asks the server's program in dir for its major version.
func majorOf(dir string) (int, error) {
	if _, err := os.Stat(filepath.Join(dir, "initdb")); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, filepath.Join(dir, "postgres"), "--version").Output()
	if err != nil {
		return 0, err
	}
	m := versionPattern.FindSubmatch(out)
	if m == nil {
		return 0, fmt.Errorf("%s says %q", dir, out)
	}
	return strconv.Atoi(string(m[1]))
}

// choose settles which binaries are used. A cluster can only be run by the major version that made it.
func (s *Server) choose() error {
	b, err := os.ReadFile(filepath.Join(s.data, "PG_VERSION"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	made, _ := strconv.Atoi(strings.TrimSpace(string(b))) // 0: no cluster yet
	var found []binaries
	if s.bin == "" {
		found = candidates()
	} else {
		major, err := majorOf(s.bin)
		if err != nil {
			return fmt.Errorf("no Postgres that runs: %w", err)
		}
		found = []binaries{{s.bin, major}}
	}
	if len(found) == 0 {
		return ErrNoBinaries
	}
	var others []string
	for _, b := range found {
		if made == 0 || b.major == made {
			s.bin = b.dir
			return nil
		}
		others = append(others, strconv.Itoa(b.major))
	}
	return fmt.Errorf("%s was made by Postgres %d, and here is only %s: install Postgres %d, or use another directory",
		s.data, made, strings.Join(others, ", "), made)
}
