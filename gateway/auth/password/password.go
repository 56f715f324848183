// Package password keeps passwords so that whoever reads them in the database has to guess each one, slowly.
//
// A password is hashed by argon2id with a salt of its own. What it cost is written beside the hash, so that the cost can
// grow while old hashes still hold. Few are worked at once, whatever knocks: each takes 19 MiB. The package knows nothing
// of who the passwords are for.
package password

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"
)

// ErrUnfit is returned for a password that is too short, too long or no text.
var ErrUnfit = errors.New("a password has 12 to 200 characters")

const (
	memory    = 19 << 10 // KiB
	passes    = 2
	lanes     = 1
	saltBytes = 16
	hashBytes = 32

	shortest, longest = 12, 200
)

// turns bounds how many passwords are hashed at once, and so the memory that strangers can make this process use.
var turns = make(chan struct{}, 2)

// kept is what the text of a hash says.
type kept struct {
	version, memory, passes uint32
	lanes                   uint8
	salt, hash              []byte
}

// Hash returns what is kept of a password.
func Hash(text string) (string, error) {
	if n := utf8.RuneCountInString(text); n < shortest || n > longest || !utf8.ValidString(text) {
		return "", ErrUnfit
	}
	k := kept{version: argon2.Version, memory: memory, passes: passes, lanes: lanes, salt: make([]byte, saltBytes), hash: make([]byte, hashBytes)}
	_, _ = rand.Read(k.salt) // it never fails: it would end the program
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", k.version, k.memory, k.passes, k.lanes,
		encoding.EncodeToString(k.salt), encoding.EncodeToString(k.hashOf(text))), nil
}

// Matches tells whether a password is the one of which hash was kept. An empty hash takes as long and matches nothing.
func Matches(hash, text string) bool {
	if len(text) > utf8.UTFMax*longest {
		return false
	}
	known := hash != ""
	if !known {
		hash = nobody
	}
	k, err := parse(hash)
	if err != nil {
		return false
	}
	return subtle.ConstantTimeCompare(k.hash, k.hashOf(text)) == 1 && known
}

// nobody is the hash that a password is compared with where none was kept.
var nobody = fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, memory, passes, lanes,
	encoding.EncodeToString(make([]byte, saltBytes)), encoding.EncodeToString(make([]byte, hashBytes)))

var errNoHash = errors.New("not a hash of argon2id")

func parse(hash string) (k kept, err error) {
	parts := strings.Split(hash, "$")
	if len(parts) != 6 || parts[1] != "argon2id" {
		return k, errNoHash
	}
	if _, err := fmt.Sscanf(parts[2]+" "+parts[3], "v=%d m=%d,t=%d,p=%d", &k.version, &k.memory, &k.passes, &k.lanes); err != nil {
		return k, errNoHash
	}
	k.salt, err = encoding.DecodeString(parts[4])
	if err != nil {
		return k, errNoHash
	}
	k.hash, err = encoding.DecodeString(parts[5])
	if err != nil || k.version != argon2.Version || k.passes == 0 || k.lanes == 0 || len(k.hash) != hashBytes {
		return k, errNoHash
	}
	return k, nil
}

func (k kept) hashOf(text string) []byte {
	turns <- struct{}{}
	defer func() { <-turns }()
	return argon2.IDKey([]byte(text), k.salt, k.passes, k.memory, k.lanes, hashBytes)
}

var encoding = base64.RawStdEncoding
