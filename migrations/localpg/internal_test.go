package localpg

import (
	"errors"
	"strings"
	"testing"
)

// Without /proc a server is recognised by what ps prints.
func TestParsePS(t *testing.T) {
	t.Parallel()
	ours := parsePS("/opt/pg/bin/postgres -D /home/a b/sluice/data -p 5432 -c cluster_name=sluice -c listen_addresses= -c x=y\n")
	if want := "\x00-D\x00/home/a b/sluice/data\x00"; !strings.Contains(ours, want) {
		t.Errorf("%q lacks %q", ours, want)
	}
	if want := "\x00" + cluster + "\x00"; !strings.Contains(ours, want) {
		t.Errorf("%q lacks %q", ours, want)
	}
	if program, _, _ := strings.Cut(ours, "\x00"); program != "/opt/pg/bin/postgres" {
		t.Errorf("program %q", program)
	}
	if got := parsePS("\n"); got != "" {
		t.Errorf("of nothing: %q", got)
	}
}

// Whoever has no Postgres gets one line to paste.
func TestInstallLine(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ goos, command, want string }{
		{"linux", "apt-get", "sudo apt-get install"},
		{"linux", "dnf", "sudo dnf install"},
		{"linux", "brew", "brew install"},
		{"linux", "", "docker run"},
		{"darwin", "", "brew install"},
	} {
		got := installLine(c.goos, func(name string) bool { return name == c.command })
		if !strings.HasPrefix(got, c.want) || strings.Contains(got, "\n") {
			t.Errorf("%s with %q: %q", c.goos, c.command, got)
		}
	}
	if !errors.Is(ErrNoBinaries, ErrNoBinaries) || !strings.Contains(ErrNoBinaries.Error(), "install it: ") {
		t.Errorf("%v", ErrNoBinaries)
	}
}
