package vault_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"sluice/queue/vault"
)

func ring(t testing.TB, keys ...string) vault.Ring {
	t.Helper()
	r, err := vault.Parse(strings.Join(keys, ","))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

var here = vault.Place{Tenant: 1, Purpose: "worker", Name: "shop"}

// What is sealed for a place opens there, with any ring that has its key, and nowhere else.
func TestSealAndOpen(t *testing.T) {
	t.Parallel()
	old, young := vault.NewKey(), vault.NewKey()
	before, after := ring(t, old), ring(t, young, old)
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.String().Draw(t, "text")
		sealed, err := before.Seal(here, text)
		if err != nil || !vault.IsSealed(sealed) || !strings.HasPrefix(sealed, before.Prefix()) {
			t.Fatalf("%q %v", sealed, err)
		}
		for _, r := range []vault.Ring{before, after} {
			if opened, err := r.Open(here, sealed); err != nil || opened != text {
				t.Fatalf("%q %v", opened, err)
			}
		}
		again, err := before.Seal(here, text)
		if err != nil || again == sealed {
			t.Fatal("one text is sealed twice in the same way")
		}
	})
	sealed, err := before.Seal(here, "text")
	if err != nil {
		t.Fatal(err)
	}
	if strings.HasPrefix(sealed, after.Prefix()) {
		t.Error("what the old key sealed is taken for the new one's")
	}
	for _, elsewhere := range []vault.Place{
		{2, "worker", "shop"}, {1, "install", "shop"}, {1, "worker", "other"}, {1, "workers", "hop"}, {1, "worker\x00shop", ""}, {},
	} {
		if _, err := before.Open(elsewhere, sealed); !errors.Is(err, vault.ErrSealed) {
			t.Errorf("%+v opens it: %v", elsewhere, err)
		}
	}
	if _, err := ring(t, young).Open(here, sealed); !errors.Is(err, vault.ErrSealed) {
		t.Errorf("another key opens it: %v", err)
	}
}

// What is no sealed text, or was changed, does not open.
func TestBrokenTexts(t *testing.T) {
	t.Parallel()
	r := ring(t, vault.NewKey())
	sealed, err := r.Seal(here, "text")
	if err != nil {
		t.Fatal(err)
	}
	last := sealed[len(sealed)-6:]
	for _, text := range []string{
		"", "text", "whsec_abc", "sealed:1:", "sealed:1:x", r.Prefix(), r.Prefix() + "****", r.Prefix() + "AAAA", sealed + "A", sealed[:len(sealed)-1],
		strings.TrimSuffix(sealed, last) + "AAAAAA",
	} {
		if _, err := r.Open(here, text); !errors.Is(err, vault.ErrSealed) {
			t.Errorf("%q: %v", text, err)
		}
	}
	if _, err := (vault.Ring{}).Open(here, sealed); !errors.Is(err, vault.ErrNoKey) {
		t.Errorf("no key: %v", err)
	}
	if _, err := (vault.Ring{}).Seal(here, "text"); !errors.Is(err, vault.ErrNoKey) {
		t.Errorf("no key: %v", err)
	}
}

func TestParse(t *testing.T) {
	t.Parallel()
	good := vault.NewKey()
	for _, text := range []string{good, " " + good + "\n", good + "," + vault.NewKey(), good + "\n" + vault.NewKey() + "\n"} {
		if r, err := vault.Parse(text); err != nil || r.IsZero() {
			t.Errorf("%d bytes: %v", len(text), err)
		}
	}
	if r, err := vault.Parse(" \n"); err != nil || !r.IsZero() || r.Prefix() != "" {
		t.Errorf("nothing: %v", err)
	}
	for _, text := range []string{"x", good[1:], good + "x", good[:len(good)-2], "slk_", good + ";" + good} {
		if _, err := vault.Parse(text); !errors.Is(err, vault.ErrBadKey) || strings.Contains(fmt.Sprint(err), text) && len(text) > 4 {
			t.Errorf("%d bytes: %v", len(text), err)
		}
	}
}

// However a ring is printed, it shows nothing of its keys.
func TestRingIsHidden(t *testing.T) {
	t.Parallel()
	text := vault.NewKey()
	r := ring(t, text)
	config := struct{ Ring, inner vault.Ring }{r, r}
	marshalled, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	for _, shown := range []string{fmt.Sprint(r), fmt.Sprintf("%x %#v %s", r, r, r), fmt.Sprintf("%+v", config), fmt.Sprintf("%#v", config), r.LogValue().String(), string(marshalled)} {
		if !strings.Contains(shown, "***") || strings.Contains(shown, text[4:12]) {
			t.Errorf("shown as %q", shown)
		}
	}
}
