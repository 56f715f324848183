package password

import (
	"errors"
	"strings"
	"testing"
)

// A password matches what was kept of it, and nothing else does; two of the same are kept differently.
func TestPasswords(t *testing.T) {
	t.Parallel()
	const text = "correct horse battery"
	a, err := Hash(text)
	if err != nil {
		t.Fatal(err)
	}
	b, err := Hash(text)
	if err != nil {
		t.Fatal(err)
	}
	if a == b || strings.Contains(a, text) {
		t.Errorf("%q %q", a, b)
	}
	for hash, c := range map[string]struct {
		text string
		want bool
	}{
		a: {text, true}, b: {text, true}, a[:len(a)-2] + "AA": {text, false}, "": {text, false}, nobody: {"", false}, "$": {text, false},
		strings.Replace(a, "argon2id", "argon2i", 1): {text, false}, strings.Replace(a, "t=2", "t=0", 1): {text, false},
		strings.Replace(a, "v=19", "v=16", 1): {text, false}, strings.Replace(a, "p=1", "p=x", 1): {text, false}, a + "$": {text, false},
	} {
		if got := Matches(hash, c.text); got != c.want {
			t.Errorf("%q matches %q: %v", hash, c.text, got)
		}
	}
	for _, other := range []string{"", "correct horse batterY", text + " ", strings.Repeat("x", 1<<20)} {
		if Matches(a, other) {
			t.Errorf("%.30q matches", other)
		}
	}
	for _, unfit := range []string{"", "short", strings.Repeat("é", 201), "long enough but\xff"} {
		if _, err := Hash(unfit); !errors.Is(err, ErrUnfit) {
			t.Errorf("%.20q: %v", unfit, err)
		}
	}
}
