// Package auth knows who may enter: tenants, the API keys by which programs act for them, and the operators who sign in.
//
// A key reads sluice_<public id>_<secret>. The public id finds its row; of the secret, 32 random bytes, only the
// SHA-256 is kept, which is enough for a secret that nobody can guess. A key that is unknown, wrong or revoked is
// refused in one and the same way, after the same work. A revoked key is refused by every node within a second.
//
// An operator enters by a link that works once, or by a password, and acts in a session. Links and sessions are as random
// as keys and kept by their digests; passwords are hashed slowly. Who is disabled is out at once.
//
// Keys belong to one tenant and have scopes: admin may do everything, operate may do what ingest may and run what is
// there, worker may do what ingest may and what workers on an SDK ask of their engine, ingest may post events, pull may take
// the calls of workers, or of the one that the key is for, and nothing else. What an operation asks for is not known here,
// nor anything of HTTP beyond the one header; package gateway puts the two together.
package auth

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

var (
	// ErrNoKey is returned when a request brings no key.
	ErrNoKey = errors.New("no API key")
	// ErrBadKey is returned for a key that is malformed, unknown, wrong or revoked.
	ErrBadKey = errors.New("API key is not valid")
	// ErrInvalid is returned for a name or scope that cannot be; the error around it says why.
	ErrInvalid = errors.New("not valid")
	// ErrExists is returned when a name is taken.
	ErrExists = errors.New("already exists")
	// ErrNotFound is returned for a key or tenant that does not exist, or not for this tenant.
	ErrNotFound = errors.New("not found")
)

// DB is a pool or a transaction. It sees only what its session may: use process.ForTenant, or the engine's pool.
type DB interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Scope is what a key may do.
type Scope string

// The scopes. Worker and operate include ingest, and admin includes all.
const (
	Ingest  Scope = "ingest"  // post events
	Worker  Scope = "worker"  // keep documents, as workers on Orchesty's SDK do
	Pull    Scope = "pull"    // take the calls of a worker that cannot be reached, and answer them
	Operate Scope = "operate" // see everything, run topologies, decide about the trash
	Admin   Scope = "admin"   // change the configuration, workers and keys
)

// includes has what each scope may do.
var includes = map[Scope][]Scope{
	Ingest:  {Ingest},
	Worker:  {Ingest, Worker},
	Pull:    {Pull},
	Operate: {Ingest, Operate},
	Admin:   {Ingest, Worker, Pull, Operate, Admin},
}

// Scopes are what a key may do.
type Scopes []Scope

// ParseScopes reads the names of scopes.
func ParseScopes(names []string) (Scopes, error) {
	scopes := make(Scopes, 0, len(names))
	for _, name := range names {
		if includes[Scope(name)] == nil {
			return nil, fmt.Errorf("%w: there is no scope %q; the scopes are ingest, worker, pull, operate and admin", ErrInvalid, name)
		}
		if !slices.Contains(scopes, Scope(name)) {
			scopes = append(scopes, Scope(name))
		}
	}
	if len(scopes) == 0 {
		return nil, fmt.Errorf("%w: a key needs a scope: ingest, worker, pull, operate or admin", ErrInvalid)
	}
	return scopes, nil
}

// Can tells whether one of the scopes is the wanted one or includes it.
func (s Scopes) Can(want Scope) bool {
	return slices.ContainsFunc(s, func(have Scope) bool { return slices.Contains(includes[have], want) })
}

// Strings returns the names of the scopes.
func (s Scopes) Strings() []string {
	names := make([]string, len(s))
	for i, scope := range s {
		names[i] = string(scope)
	}
	return names
}

// Principal is who a request comes from: a program with its key, or an operator in a session.
type Principal struct {
	TenantID int64
	KeyID    int64
	KeyName  string
	Scopes   Scopes
	Worker   string // the only one whose calls it may take; empty: any

	OperatorID   int64 // 0: a program
	OperatorName string
}

// Can tells whether the principal may do what asks for this scope.
func (p Principal) Can(want Scope) bool { return p.Scopes.Can(want) }

// Actor is how the principal is written down beside what it did. Names of keys need not differ, so it has the id too.
func (p Principal) Actor() string {
	if p.OperatorID != 0 {
		return p.OperatorName
	}
	return fmt.Sprintf("%s (key %d)", p.KeyName, p.KeyID)
}

type contextKey struct{}

// NewContext returns a context that knows who the request comes from.
func NewContext(ctx context.Context, p Principal) context.Context {
	return context.WithValue(ctx, contextKey{}, p)
}

// FromContext returns who the request comes from, or false where nobody was asked.
func FromContext(ctx context.Context) (Principal, bool) {
	p, ok := ctx.Value(contextKey{}).(Principal)
	return p, ok
}
