package worker

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"io"
	"log/slog"
	"strings"
	"sync"
)

// A secret's text is this, then base64. Standard Webhooks wants 24 to 64 bytes.
const (
	secretPrefix   = "whsec_"
	minSecretBytes = 24
	maxSecretBytes = 64
	hidden         = "***"
)

// ErrSecret says that a text is no secret of the form whsec_<base64 of 24 to 64
// bytes>. It never quotes the text.
var ErrSecret = errors.New("secret must be whsec_ and the base64 of 24 to 64 bytes")

// Secret is a key shared with a worker. However it is printed, logged or
// marshalled it shows ***; only [Secret.Reveal] tells it.
type Secret struct {
	// A function, because fmt does not ask an unexported field of someone else's
	// struct how to print itself. It would print bytes, and for %s even those
	// behind a pointer; of a function it prints the address under every verb.
	key func() *secretKey
}

type secretKey struct {
	raw  []byte
	macs sync.Pool // of *macer: a keyed hash is dearer to make than to use
}

// macer is a keyed hash with room for the start of what it signs.
type macer struct {
	hash hash.Hash
	buf  []byte
}

// NewSecret makes a secret of 32 random bytes.
func NewSecret() Secret {
	raw := make([]byte, 32)
	rand.Read(raw) // never fails: it ends the program rather than return weak bytes
	return secretOf(raw)
}

// ParseSecret reads a secret in the form that [Secret.Reveal] gives, or fails
// with [ErrSecret].
func ParseSecret(text string) (Secret, error) {
	encoded, found := strings.CutPrefix(text, secretPrefix)
	if !found {
		return Secret{}, ErrSecret
	}
	raw, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil || len(raw) < minSecretBytes || len(raw) > maxSecretBytes {
		return Secret{}, ErrSecret
	}
	return secretOf(raw), nil
}

func secretOf(raw []byte) Secret {
	key := &secretKey{raw: raw}
	key.macs.New = func() any { return &macer{hash: hmac.New(sha256.New, raw)} }
	return Secret{key: func() *secretKey { return key }}
}

// Reveal returns the secret's text, to be stored or shown once to its owner.
func (s Secret) Reveal() string {
	if s.IsZero() {
		return ""
	}
	return secretPrefix + base64.StdEncoding.EncodeToString(s.key().raw)
}

// IsZero reports whether there is no secret.
func (s Secret) IsZero() bool { return s.key == nil }

// String returns ***.
func (s Secret) String() string { return hidden }

// GoString returns ***.
func (s Secret) GoString() string { return hidden }

// Format prints *** for every verb.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, hidden) }

// LogValue logs ***.
func (s Secret) LogValue() slog.Value { return slog.StringValue(hidden) }

// MarshalText gives ***, and so do JSON and whatever else asks for text.
func (s Secret) MarshalText() ([]byte, error) { return []byte(hidden), nil }

// sum appends the MAC over id.timestamp.body to dst.
func (s Secret) sum(dst []byte, id, timestamp string, body []byte) []byte {
	macs := &s.key().macs
	m := macs.Get().(*macer)
	defer macs.Put(m)
	m.buf = append(m.buf[:0], id...)
	m.buf = append(m.buf, '.')
	m.buf = append(m.buf, timestamp...)
	m.buf = append(m.buf, '.')
	m.hash.Reset()
	m.hash.Write(m.buf)
	m.hash.Write(body)
	return m.hash.Sum(dst)
}
