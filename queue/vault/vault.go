// Package vault seals secrets that are kept in the database, so that who has
// the database, or a copy of it, does not have them.
//
// The operator gives a [Ring] of keys. The first one seals; each of them opens
// what it once sealed, so a key is changed without a pause: the new one is added
// at the end on every node, then moved to the front, what is stored is sealed
// anew, and the old one is dropped. A sealed text says by which key it was
// sealed.
//
// The package promises that a sealed text opens only where it was sealed for: at
// its [Place], which is a tenant, a purpose and a name. Whoever can write to the
// database cannot have one tenant's secret opened as another's. It neither
// shows nor logs a key, and knows nothing of what is sealed or of where it is
// kept.
package vault

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"
)

var (
	// ErrNoKey says that there is a secret to seal or open, and no key at all.
	ErrNoKey = errors.New("there is no key to keep secrets with")
	// ErrSealed says that a text cannot be opened: its key is not in the ring, or it was sealed for another place, or
	// it is none.
	ErrSealed = errors.New("the secret cannot be opened with the keys at hand")
	// ErrBadKey says that a text is no list of keys. It never quotes the text.
	ErrBadKey = errors.New("a key must be slk_ and the base64 of 32 bytes")
)

// What texts begin with.
const (
	keyPrefix    = "slk_"
	sealedPrefix = "sealed:1:"
	keyBytes     = 32
	idDigits     = 8
	hidden       = "***"
)

// Place is what a secret belongs to. It is part of what seals it.
type Place struct {
	Tenant  int64
	Purpose string
	Name    string
}

// Ring is the keys of an installation, the newest first. The zero value has none. However it is printed, logged or
// marshalled it shows ***.
type Ring struct {
	// A function, because fmt prints the bytes of an unexported field of someone else's struct, and of this the address.
	keys func() []key
}

type key struct {
	id     string
	secret []byte
}

// NewKey makes a key of 32 random bytes, as text.
func NewKey() string {
	secret := make([]byte, keyBytes)
	rand.Read(secret) // never fails: it ends the program rather than return weak bytes
	return keyPrefix + base64.RawURLEncoding.EncodeToString(secret)
}

// Parse reads keys as [NewKey] writes them, with commas or white space between them. No key is a ring without keys.
func Parse(text string) (Ring, error) {
	var keys []key
	for _, word := range strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(", \t\r\n", r) }) {
		encoded, found := strings.CutPrefix(word, keyPrefix)
		secret, err := base64.RawURLEncoding.DecodeString(encoded)
		if !found || err != nil || len(secret) != keyBytes {
			return Ring{}, ErrBadKey
		}
		sum := sha256.Sum256(append([]byte("id of a key of sluice\x00"), secret...))
		keys = append(keys, key{hex.EncodeToString(sum[:])[:idDigits], secret})
	}
	if keys == nil {
		return Ring{}, nil
	}
	return Ring{keys: func() []key { return keys }}, nil
}

// IsZero tells whether there is no key.
func (r Ring) IsZero() bool { return r.keys == nil }

// Seal seals a text for a place, or returns [ErrNoKey].
func (r Ring) Seal(at Place, text string) (string, error) {
	if r.IsZero() {
		return "", ErrNoKey
	}
	k := r.keys()[0]
	box, err := k.box(at)
	if err != nil {
		return "", err
	}
	sealed := box.Seal(nil, nil, []byte(text), at.label()) //nolint:gosec // it draws a random nonce itself
	return sealedPrefix + k.id + ":" + base64.RawStdEncoding.EncodeToString(sealed), nil
}

// Open returns what was sealed for a place, or [ErrNoKey] or [ErrSealed].
func (r Ring) Open(at Place, sealed string) (string, error) {
	id, encoded, ok := split(sealed)
	if !ok {
		return "", ErrSealed
	}
	if r.IsZero() {
		return "", ErrNoKey
	}
	raw, err := base64.RawStdEncoding.DecodeString(encoded)
	if err != nil {
		return "", ErrSealed
	}
	for _, k := range r.keys() {
		if k.id != id {
			continue
		}
		box, err := k.box(at)
		if err != nil {
			return "", err
		}
		text, err := box.Open(nil, nil, raw, at.label())
		if err != nil {
			return "", ErrSealed
		}
		return string(text), nil
	}
	return "", fmt.Errorf("%w: the key %s is not among them", ErrSealed, id)
}

// IsSealed tells whether a text looks like one that [Ring.Seal] made.
func IsSealed(text string) bool { return strings.HasPrefix(text, sealedPrefix) }

// Prefix is what the texts begin with that were sealed with the first key: all others want to be sealed anew. It is
// empty without a key.
func (r Ring) Prefix() string {
	if r.IsZero() {
		return ""
	}
	return sealedPrefix + r.keys()[0].id + ":"
}

func split(sealed string) (id, encoded string, ok bool) {
	rest, found := strings.CutPrefix(sealed, sealedPrefix)
	if !found {
		return "", "", false
	}
	return strings.Cut(rest, ":")
}

// box is AES-256-GCM with a key of its own for each tenant and purpose, so that no one key has so many nonces drawn for
// it that two could be the same.
func (k key) box(at Place) (cipher.AEAD, error) {
	secret, err := hkdf.Key(sha256.New, k.secret, nil, "sluice vault 1\x00"+strconv.FormatInt(at.Tenant, 10)+"\x00"+at.Purpose, keyBytes)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(secret)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// label is what a sealed text is bound to. The length of the purpose keeps two places from having one label.
func (at Place) label() []byte {
	return fmt.Appendf(nil, "%d\x00%d\x00%s\x00%s", at.Tenant, len(at.Purpose), at.Purpose, at.Name)
}

// String returns ***.
func (r Ring) String() string { return hidden }

// Format prints *** for every verb.
func (r Ring) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, hidden) }

// LogValue logs ***.
func (r Ring) LogValue() slog.Value { return slog.StringValue(hidden) }

// MarshalText gives ***, and so do JSON and whatever else asks for text.
func (r Ring) MarshalText() ([]byte, error) { return []byte(hidden), nil }
