package process_test

import (
	"strings"
	"testing"
	"unicode/utf8"

	"sluice/queue/process"
)

// Reasons that differ only in what they are about have the same cause, and others do not.
func TestCauses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		cause   string
		reasons []string
	}{
		{`shop answered # Unprocessable Entity: no customer "…"`, []string{
			`shop answered 422 Unprocessable Entity: no customer "ann"`, `shop answered 422 Unprocessable Entity:  no customer "bob \"the\" builder"`,
			"shop answered 422 Unprocessable Entity: no customer `x`", `shop answered 422 Unprocessable Entity: no customer 'it's me'`,
			`shop answered 422 Unprocessable Entity: no customer “x”`,
		}},
		{"order # is not there", []string{"order 17 is not there", "order ABC-123 is not there", "order 0193a5b2-7f3c-7c11-9f3e-1b2c3d4e5f60 is not there",
			"order deadbeefdeadbeef is not there", "order 1,234.50 is not there", "order 10.0.0.1:80 is not there"}},
		{"GET https://api.shop.com/orders/#: refused (after # attempts)", []string{
			"GET https://api.shop.com/orders/1: refused (after 10 attempts)", "GET https://api.shop.com/orders/17?key=a&b=c: refused (after 3 attempts)"}},
		{"it can't be: that's all", []string{"it can't be: that's all"}},
		{`says "and does not end`, []string{`says "and does not end`}},
		{"zu spät um #", []string{"zu spät um 12:30:01", "zu spät um 7"}},
		{"\uFFFD bad bytes", []string{"\xff bad bytes"}},
		{"", []string{"", "  \t"}},
	} {
		for _, reason := range c.reasons {
			if got := strings.ReplaceAll(process.CauseOf(reason), "\xff", "\uFFFD"); got != c.cause {
				t.Errorf("%q has the cause %q, want %q", reason, got, c.cause)
			}
		}
	}
	long := strings.Repeat("word ", 100)
	if process.CauseOf(long+"1") != process.CauseOf(long+"other") {
		t.Error("what is cut off makes a difference")
	}
	if h := process.HashOf("order # is not there"); h != -62868101043126468 {
		t.Errorf("the hash has become %d: what is stored has another", h)
	}
}

// No reason takes it off its feet, and a cause is its own cause.
func FuzzCause(f *testing.F) {
	f.Add(`a "b" 'c' http://d/1?e 12`)
	f.Fuzz(func(t *testing.T, reason string) {
		cause := process.CauseOf(reason)
		if utf8.ValidString(reason) && !utf8.ValidString(cause) {
			t.Errorf("%q has the cause %q", reason, cause)
		}
		if n := utf8.RuneCountInString(cause); n > 3*len(reason)+1 {
			t.Errorf("%q has a cause of %d characters", reason, n)
		}
	})
}
