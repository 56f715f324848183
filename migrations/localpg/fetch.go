package localpg

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	embeddedpostgres "github.com/fergusstrange/embedded-postgres"
)

// FetchOptions says what to fetch, and from where.
type FetchOptions struct {
	// Version is the version of Postgres, in three parts. Default: one of 17.
	Version string

	// Repository is the base URL of a Maven repository that has the binaries. Default: the public one.
	Repository string

	// Logger is told of the progress. Default: nobody is.
	Logger *slog.Logger
}

// Fetch downloads Postgres into a directory below dir, unless it is there already, and returns the directory of the
// binaries, for Config.Bin. Several processes may fetch into one dir at a time. A checksum that the repository holds
// beside the archive must agree with it.
//
// When ctx is done Fetch returns, but the download goes on in the background to its end and is then thrown away.
func Fetch(ctx context.Context, dir string, o FetchOptions) (string, error) {
	version := embeddedpostgres.V17
	if o.Version != "" {
		version = embeddedpostgres.PostgresVersion(o.Version)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("fetch postgres: %w", err)
	}
	place := filepath.Join(dir, "postgres-"+string(version))
	bin := filepath.Join(place, "bin")
	if err := complete(bin); err == nil {
		return bin, nil
	}
	if err := makeDir(dir); err != nil {
		return "", fmt.Errorf("fetch postgres: %w", err)
	}
	began := time.Now()
	o.Logger.InfoContext(ctx, "Fetching Postgres", "version", string(version))
	done := make(chan error, 1)
	go func() { done <- fetchInto(place, version, o.Repository) }()
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			if err != nil {
				return "", fmt.Errorf("fetch postgres %s: %w", version, err)
			}
			o.Logger.InfoContext(ctx, "Fetched Postgres", "version", string(version), "duration", time.Since(began))
			return bin, nil
		case <-tick.C:
			o.Logger.InfoContext(ctx, "Still fetching Postgres", "duration", time.Since(began))
		case <-ctx.Done():
			return "", fmt.Errorf("fetch postgres %s: %w", version, context.Cause(ctx))
		}
	}
}

// fetchInto has the library download and unpack, beside the place, where the result is moved when it is complete.
//
// The library can only do so on the way to starting a server of its own, on a TCP port and as the present user, which
// may not be root. So it is told to keep the data in a directory whose path ends in a dot: before it makes a cluster it
// clears the directory, which Go refuses for such a path, and it gives up with everything unpacked and nothing run.
// What counts is whether the binaries are there; if not, its error says why.
func fetchInto(place string, version embeddedpostgres.PostgresVersion, repository string) error {
	work, err := os.MkdirTemp(filepath.Dir(place), "fetch-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	data := filepath.Join(work, "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		return err
	}
	unpacked := filepath.Join(work, "postgres")
	c := embeddedpostgres.DefaultConfig().
		Version(version).
		Port(0). // any that is free: none is used
		CachePath(filepath.Join(work, "cache")).
		RuntimePath(filepath.Join(work, "runtime")).
		BinariesPath(unpacked).
		DataPath(data + "/.").
		Logger(io.Discard)
	if repository != "" {
		c = c.BinaryRepositoryURL(strings.TrimSuffix(repository, "/"))
	}
	why := embeddedpostgres.NewDatabase(c).Start()
	if _, err := os.Stat(unpacked); errors.Is(err, os.ErrNotExist) {
		return why
	}
	if err := complete(filepath.Join(unpacked, "bin")); err != nil {
		return fmt.Errorf("incomplete archive: %w", err)
	}
	err = os.Rename(unpacked, place)
	if complete(filepath.Join(place, "bin")) == nil {
		return nil // ours, or that of another process that was faster
	}
	return err
}

// complete says what is missing in a directory of binaries.
func complete(bin string) error {
	for _, name := range []string{"initdb", "postgres"} {
		fi, err := os.Stat(filepath.Join(bin, name))
		if err != nil {
			return err
		}
		if fi.Mode()&0o111 == 0 {
			return fmt.Errorf("%s is not executable", filepath.Join(bin, name))
		}
	}
	return nil
}
