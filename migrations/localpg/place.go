package localpg

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// pathLimit is the longest path of a socket, on the platform that allows least.
const pathLimit = 103

// account says as whom the server runs: as this process (nil), unless that is root, as whom Postgres refuses to run.
// An existing cluster is run by its owner.
func account(data string) (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	if fi, err := os.Stat(data); err == nil {
		if st := fi.Sys().(*syscall.Stat_t); st.Uid != 0 {
			return &syscall.Credential{Uid: st.Uid, Gid: st.Gid}, nil
		}
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.ParseInt(u.Uid, 10, 64)
		if err != nil {
			return nil, err
		}
		gid, err := strconv.ParseInt(u.Gid, 10, 64)
		if err != nil {
			return nil, err
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, errors.New("postgres does not run as root, and there is no user postgres or nobody to run it as")
}

func owner(path string) (int, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	return int(fi.Sys().(*syscall.Stat_t).Uid), nil
}

// reach finds out whether the user of the server can run the binaries, and run them in dir, for which each directory
// above must let that user through.
func (s *Server) reach(ctx context.Context, dir string) error {
	out, err := s.run(ctx, dir, "postgres", "--version")
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if dir == "/" {
		dir = s.bin
	} else if err := s.reach(ctx, "/"); err != nil {
		return err // it is the binaries that are out of reach
	}
	who := "this user"
	if s.account != nil {
		who = "the user with the number " + strconv.Itoa(int(s.account.Uid))
		if u, lookup := user.LookupId(strconv.Itoa(int(s.account.Uid))); lookup == nil {
			who = "the user " + u.Username
		}
	}
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("postgres runs as %s, who cannot use %s: choose a directory that others may enter, below /var/lib say", who, dir)
	}
	return fmt.Errorf("run %s as %s: %w: %s", filepath.Join(s.bin, "postgres"), who, err, out)
}

// makeDir makes dir and what is missing above it, so that the user of the server may enter whatever the umask says.
// What is to be kept from others in it is so by its own mode.
func makeDir(dir string) error {
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := makeDir(filepath.Dir(dir)); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return os.Chmod(dir, 0o755)
}

// makeSocketDir makes the directory of the socket: dir/run, where that is not too long for a socket's address, and
// otherwise one with a name of its own among the temporary files, to which dir/run is a link.
func (s *Server) makeSocketDir(ctx context.Context) error {
	run := filepath.Join(s.dir, "run")
	s.removeSocketDir() // of a process that was killed
	if fitsSocket(run) {
		s.socket = run
		if err := os.Mkdir(run, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		return errors.Join(os.Chmod(run, 0o700), s.give(run))
	}
	var reasons error
	for _, base := range []string{os.TempDir(), "/var/tmp"} {
		made, err := os.MkdirTemp(base, "sluice-")
		if err == nil {
			err = s.give(made)
		}
		if err == nil {
			err = s.reach(ctx, made)
		}
		if err == nil && !fitsSocket(made) {
			err = fmt.Errorf("%s is too long for a socket", made)
		}
		if err == nil {
			s.socket = made
			return os.Symlink(made, run)
		}
		if made != "" {
			_ = os.Remove(made)
		}
		reasons = errors.Join(reasons, err)
	}
	return reasons
}

// removeSocketDir removes the directory of the socket, if it is one among the temporary files, and the link to it.
func (s *Server) removeSocketDir() {
	run := filepath.Join(s.dir, "run")
	made, err := os.Readlink(run)
	if err != nil {
		return // not a link
	}
	if strings.HasPrefix(filepath.Base(made), "sluice-") {
		for _, name := range []string{".s.PGSQL." + port, ".s.PGSQL." + port + ".lock"} {
			_ = os.Remove(filepath.Join(made, name))
		}
		_ = os.Remove(made) // only if empty
	}
	_ = os.Remove(run)
}

func fitsSocket(dir string) bool { return len(filepath.Join(dir, ".s.PGSQL."+port)) <= pathLimit }
