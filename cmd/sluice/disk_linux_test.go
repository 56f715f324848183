package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"sluice/migrations/pgtest"
)

// The disk that has the payloads is full, until somebody makes room.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	r := startCrashRig(t)
	disk := pgtest.Dir(t)
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=24m,mode=0777"); err != nil {
		t.Skipf("a disk that can be filled needs root: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(disk, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	config, err := pgx.ParseConfig(r.url)
	if err != nil {
		t.Fatal(err)
	}
	owner, err := os.Stat(config.Host) // the directory of the server's socket is the server's
	if err != nil {
		t.Fatal(err)
	}
	place, stat := filepath.Join(disk, "space"), owner.Sys().(*syscall.Stat_t)
	if err := errors.Join(os.Mkdir(place, 0o700), os.Chown(place, int(stat.Uid), int(stat.Gid))); err != nil {
		t.Fatal(err)
	}
	today := time.Now().UTC().Format("20060102")
	r.super(
		fmt.Sprintf(`create tablespace small location '%s'`, place),
		fmt.Sprintf(`alter table sluice.message_%s set tablespace small`, today))
	junk := filepath.Join(disk, "junk")
	r.trouble(
		func() {
			file, err := os.Create(junk)
			if err != nil {
				t.Error(err)
				return
			}
			_, err = io.Copy(file, neverEnding{})
			if err := errors.Join(err, file.Close()); !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("the disk is not full: %v", err)
			}
		},
		func() {
			if err := os.Remove(junk); err != nil {
				t.Error(err)
			}
		})
}

// neverEnding is a file without an end.
type neverEnding struct{}

func (neverEnding) Read(p []byte) (int, error) { return len(p), nil }
