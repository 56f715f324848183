package auth

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Key is an API key without its secret, which only its owner has.
type Key struct {
	ID        int64
	Name      string
	PublicID  string
	Scopes    Scopes
	Worker    *string // the only one whose calls it takes; nil: any
	CreatedAt time.Time
	CreatedBy string
	RevokedAt *time.Time
}

// CreateKey makes an API key for a tenant. See [CreateKeyFor].
func CreateKey(ctx context.Context, db DB, tenantID int64, name string, scopes Scopes, by string) (Key, string, error) {
	return CreateKeyFor(ctx, db, NewKey{Tenant: tenantID, Name: name, Scopes: scopes}, by)
}

// NewKey is a key that is to be made.
type NewKey struct {
	Tenant int64
	Name   string
	Scopes Scopes
	Worker string // the only one whose calls it takes, with the scope pull alone; empty: any
}

// CreateKeyFor makes an API key and returns it with its full text, which cannot be had a second time. The
// key, the note of who made it and the new revision of the tenant's configuration are one statement.
func CreateKeyFor(ctx context.Context, db DB, k NewKey, by string) (Key, string, error) {
	if err := checkName(k.Name); err != nil {
		return Key{}, "", err
	}
	scopes, err := ParseScopes(k.Scopes.Strings())
	if err != nil {
		return Key{}, "", err
	}
	if k.Worker != "" && (len(scopes) != 1 || scopes[0] != Pull) {
		return Key{}, "", fmt.Errorf("%w: a key for one worker has the scope pull, and no other", ErrInvalid)
	}
	publicID, secret := random(publicIDBytes), random(secretBytes)
	hash := sha256.Sum256([]byte(secret))
	rows, err := db.Query(ctx, `
		with key as (
			insert into sluice.api_key (tenant_id, name, public_id, hash, scopes, created_by, worker)
			values ($1, $2, $3, $4, $5, $6, nullif($7, ''))
			returning id, name, public_id, scopes, worker, created_at, created_by, revoked_at
		), note as (
			insert into sluice.audit (tenant_id, actor, action, subject, detail)
			select $1, $6, 'create-key', name, jsonb_build_object('key_id', id, 'scopes', scopes) from key
		), change as (
			insert into sluice.configuration as c (tenant_id, revision) select $1, 1 from key
			on conflict (tenant_id) do update set revision = c.revision + 1
		)
		select id, name, public_id, scopes, worker, created_at, created_by, revoked_at from key`,
		k.Tenant, k.Name, publicID, hash[:], scopes.Strings(), by, k.Worker)
	if err != nil {
		return Key{}, "", fmt.Errorf("create key: %w", err)
	}
	key, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Key])
	switch {
	case hasCode(err, foreignKeyViolation):
		return Key{}, "", fmt.Errorf("create key: tenant %d: %w", k.Tenant, ErrNotFound)
	case err != nil:
		return Key{}, "", fmt.Errorf("create key: %w", err)
	}
	return key, keyPrefix + publicID + "_" + secret, nil
}

// ListKeys returns up to limit keys of a tenant, those that were revoked too, in the order in which they were made, from
// the first one after the id.
func ListKeys(ctx context.Context, db DB, tenantID, after int64, limit int) ([]Key, error) {
	rows, err := db.Query(ctx, `
		select id, name, public_id, scopes, worker, created_at, created_by, revoked_at
		from sluice.api_key
		where tenant_id = $1 and id > $2
		order by id
		limit $3`, tenantID, after, limit)
	if err != nil {
		return nil, fmt.Errorf("list keys: %w", err)
	}
	keys, err := pgx.CollectRows(rows, pgx.RowToStructByName[Key])
	if err != nil {
		return nil, fmt.Errorf("list keys: %w", err)
	}
	return keys, nil
}

// RevokeKey makes a key worthless. To revoke it again changes nothing and is no error.
func RevokeKey(ctx context.Context, db DB, tenantID, id int64, by string) error {
	var found bool
	err := db.QueryRow(ctx, `
		with key as (
			update sluice.api_key set revoked_at = now()
			where tenant_id = $1 and id = $2 and revoked_at is null
			returning id, name
		), note as (
			insert into sluice.audit (tenant_id, actor, action, subject, detail)
			select $1, $3, 'revoke-key', name, jsonb_build_object('key_id', id) from key
		), change as (
			insert into sluice.configuration as c (tenant_id, revision) select $1, 1 from key
			on conflict (tenant_id) do update set revision = c.revision + 1
		)
		select exists (select from sluice.api_key where tenant_id = $1 and id = $2)`, tenantID, id, by).Scan(&found)
	if err != nil {
		return fmt.Errorf("revoke key: %w", err)
	}
	if !found {
		return fmt.Errorf("revoke key: key %d: %w", id, ErrNotFound)
	}
	return nil
}

func checkName(name string) error {
	if n := utf8.RuneCountInString(name); n == 0 || n > 200 || !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl) {
		return fmt.Errorf("%w: a key's name has 1 to 200 characters, none of them a control character", ErrInvalid)
	}
	return nil
}

const (
	keyPrefix     = "sluice_"
	publicIDBytes = 9  // no secret, only rare enough that two are never the same
	secretBytes   = 32 // no one guesses it, so a fast hash is enough
)

// random returns n random bytes in base 62, always of the same length.
func random(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // it never fails: it would end the program
	text := new(big.Int).SetBytes(b).Text(62)
	return strings.Repeat("0", digits(n)-len(text)) + text
}

// digits is how many digits of base 62 n bytes take at most.
func digits(n int) int {
	return len(new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), uint(8*n)), big.NewInt(1)).Text(62))
}

var (
	publicIDDigits = digits(publicIDBytes)
	secretDigits   = digits(secretBytes)
)

// split takes a key apart. What does not look like a key at all never reaches the database.
func split(key string) (publicID, secret string, ok bool) {
	key, ok = strings.CutPrefix(key, keyPrefix)
	if !ok || len(key) != publicIDDigits+1+secretDigits || key[publicIDDigits] != '_' {
		return "", "", false
	}
	publicID, secret = key[:publicIDDigits], key[publicIDDigits+1:]
	return publicID, secret, !strings.ContainsFunc(publicID+secret, isNotDigit)
}

func isNotDigit(r rune) bool {
	return (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
}

const (
	foreignKeyViolation = "23503"
	uniqueViolation     = "23505"
)

func hasCode(err error, code string) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == code
}
