package worker_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"sluice/queue/worker"
)

// vectorSecret is the secret of the vectors below, 24 bytes.
const vectorSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

// However a secret is printed, logged or marshalled, alone or within something,
// nobody learns it.
func TestSecretIsNeverShown(t *testing.T) {
	t.Parallel()
	secret := worker.NewSecret()
	text := secret.Reveal()
	encoded := strings.TrimPrefix(text, "whsec_")
	raw, err := base64.StdEncoding.DecodeString(encoded)
	ok(t, err)

	hiding := struct {
		Target  worker.Target
		private worker.Secret
		pointer *worker.Secret
		list    []worker.Secret
	}{worker.Target{Name: "crm", Secrets: []worker.Secret{secret}}, secret, &secret, []worker.Secret{secret}}

	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T"} {
		fmt.Fprintf(&out, verb+"\n", secret)
		fmt.Fprintf(&out, verb+"\n", &secret)
		fmt.Fprintf(&out, verb+"\n", hiding)
	}
	fmt.Fprintln(&out, secret.String(), secret.GoString())
	for _, handler := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
		slog.New(handler).Info("x", "secret", secret, "hiding", hiding, "target", hiding.Target)
	}
	ok(t, json.NewEncoder(&out).Encode(map[string]any{"secret": secret, "hiding": hiding, "target": hiding.Target}))

	for _, form := range []string{text, encoded, string(raw), fmt.Sprintf("%x", raw), fmt.Sprintf("%X", raw), fmt.Sprint(raw), strings.Trim(fmt.Sprint(raw), "[]")} {
		if bytes.Contains(out.Bytes(), []byte(form)) {
			t.Errorf("the secret is told as %q", form)
		}
	}
	if !bytes.Contains(out.Bytes(), []byte(`"secret":"***"`)) {
		t.Error("JSON does not show *** in place of the secret")
	}
}

func TestParseSecret(t *testing.T) {
	t.Parallel()
	secret := worker.NewSecret()
	parsed, err := worker.ParseSecret(secret.Reveal())
	ok(t, err)
	equal(t, "revealed again", parsed.Reveal(), secret.Reveal())
	if secret.Reveal() == worker.NewSecret().Reveal() {
		t.Error("two new secrets are the same")
	}
	if secret.IsZero() || !(worker.Secret{}).IsZero() || (worker.Secret{}).Reveal() != "" {
		t.Error("zero is not told from a secret")
	}
	for _, bad := range []string{
		"", "whsec_", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "WHSEC_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
		"whsec_short", "whsec_" + base64.StdEncoding.EncodeToString(make([]byte, 23)),
		"whsec_" + base64.StdEncoding.EncodeToString(make([]byte, 65)), vectorSecret + "!", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLa-_",
	} {
		_, err := worker.ParseSecret(bad)
		if !errors.Is(err, worker.ErrSecret) {
			t.Errorf("%q: %v", bad, err)
		}
		if bad != "" && bad != "whsec_" && err != nil && strings.Contains(err.Error(), bad) {
			t.Errorf("the error tells %q", bad)
		}
	}
}
