package auth

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"sluice/gateway/auth/password"
	"sluice/queue/process"
)

var (
	// ErrNotSignedIn is returned for a session, link, name or password that does not let in. It does not say which is wrong.
	ErrNotSignedIn = errors.New("not signed in")
	// ErrWrongPassword is returned to who is signed in and must say the password again.
	ErrWrongPassword = errors.New("the current password is wrong")
)

// Credentials are what an operator signs in with.
type Credentials struct{ Tenant, Name, Password string }

// Sessions let operators in. All methods may be called at once.
type Sessions struct {
	pool     *pgxpool.Pool
	attempts attempts
}

// NewSessions returns the sessions of a database. They are looked up among those of all tenants, as keys are.
func NewSessions(pool *pgxpool.Pool) *Sessions {
	return &Sessions{pool: pool, attempts: attempts{now: time.Now, failed: map[string]failures{}}}
}

// SignIn returns a new session's secret to who comes from an address. Whether there is such an operator can be told
// neither from the answer nor from the time that it takes. Who fails too often is answered with [*TooManyError].
func (s *Sessions) SignIn(ctx context.Context, c Credentials, address string) (string, error) {
	if err := s.attempts.admit(c, address); err != nil {
		return "", err
	}
	secret, err := s.signIn(ctx, c)
	if errors.Is(err, ErrNotSignedIn) {
		s.attempts.fail(c, address)
	}
	return secret, err
}

func (s *Sessions) signIn(ctx context.Context, c Credentials) (string, error) {
	var tenantID, operatorID int64
	var hash string
	err := s.one(ctx, []any{&tenantID, &operatorID, &hash}, `
		select o.tenant_id, o.id, coalesce(o.password, '')
		from sluice.tenant t join sluice.operator o on o.tenant_id = t.id
		where t.name = $1 and o.name = $2 and o.disabled_at is null`, c.Tenant, c.Name)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return "", fmt.Errorf("sign in: %w", err)
	}
	if !password.Matches(hash, c.Password) {
		return "", ErrNotSignedIn
	}
	secret := random(secretBytes)
	// Who was disabled, or changed the password, while it was compared does not enter. What is over of the operator goes.
	var entered bool
	err = s.one(ctx, []any{&entered}, `
		with operator as (
			select tenant_id, id, name from sluice.operator
			where tenant_id = $1 and id = $2 and disabled_at is null and password = $5
			for share
		), over as (
			delete from sluice.session where tenant_id = $1 and operator_id = $2 and expires_at <= now()
		), session as (
			insert into sluice.session (tenant_id, digest, operator_id, expires_at)
			select tenant_id, $3, id, now() + $4 from operator
		), note as (
			insert into sluice.audit (tenant_id, actor, action, subject, detail)
			select tenant_id, name, 'sign-in', name, jsonb_build_object('operator_id', id, 'by', 'password') from operator
		)
		select exists (select from operator)`, tenantID, operatorID, digestOf(secret), SessionTime, hash)
	if err != nil {
		return "", fmt.Errorf("sign in: %w", err)
	}
	if !entered {
		return "", ErrNotSignedIn
	}
	return secret, nil
}

// EnterByLink uses a link up and returns a new session's secret. Of two who use it at once one enters. Links need no
// bound on attempts: nobody can guess one.
func (s *Sessions) EnterByLink(ctx context.Context, link string) (string, error) {
	secret := random(secretBytes)
	var entered bool
	err := s.one(ctx, []any{&entered}, `
		with link as (
			delete from sluice.operator_link where digest = $1 returning tenant_id, operator_id, expires_at
		), operator as (
			select o.tenant_id, o.id, o.name
			from link l join sluice.operator o on o.tenant_id = l.tenant_id and o.id = l.operator_id
			where l.expires_at > now() and o.disabled_at is null
		), session as (
			insert into sluice.session (tenant_id, digest, operator_id, by_link, expires_at)
			select tenant_id, $2, id, true, now() + $3 from operator
		), note as (
			insert into sluice.audit (tenant_id, actor, action, subject, detail)
			select tenant_id, name, 'sign-in', name, jsonb_build_object('operator_id', id, 'by', 'link') from operator
		)
		select exists (select from operator)`,
		digestOf(link), digestOf(secret), SessionTime)
	if err != nil {
		return "", fmt.Errorf("enter by link: %w", err)
	}
	if !entered {
		return "", ErrNotSignedIn
	}
	return secret, nil
}

// Find returns who acts in a session, or ErrNotSignedIn. It asks the database each time: who is disabled or signed out
// is out at once, and people click seldom.
func (s *Sessions) Find(ctx context.Context, secret string) (Principal, error) {
	var p Principal
	err := s.one(ctx, []any{&p.TenantID, &p.OperatorID, &p.OperatorName, &p.Scopes}, `
		select o.tenant_id, o.id, o.name, o.scopes
		from sluice.session s join sluice.operator o on o.tenant_id = s.tenant_id and o.id = s.operator_id
		where s.digest = $1 and s.expires_at > now() and o.disabled_at is null`,
		digestOf(secret))
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return Principal{}, ErrNotSignedIn
	case err != nil:
		return Principal{}, fmt.Errorf("read session: %w", err)
	}
	return p, nil
}

// one runs a statement that sees all tenants and returns one row: whose session it is, is not known before.
func (s *Sessions) one(ctx context.Context, into []any, sql string, args ...any) error {
	return process.ForAllTenants(ctx, s.pool, func(tx pgx.Tx) error { return tx.QueryRow(ctx, sql, args...).Scan(into...) })
}

// Session is what an operator's screens are told of it.
type Session struct {
	Tenant      string
	HasPassword bool
	ExpiresAt   time.Time
}

// Describe returns a session of an operator, or ErrNotSignedIn.
func Describe(ctx context.Context, db DB, by Principal, secret string) (Session, error) {
	var s Session
	err := db.QueryRow(ctx, `
		select t.name, o.password is not null, s.expires_at
		from sluice.session s
		join sluice.operator o on o.tenant_id = s.tenant_id and o.id = s.operator_id
		join sluice.tenant t on t.id = s.tenant_id
		where s.tenant_id = $1 and s.digest = $2 and s.expires_at > now()`, by.TenantID, digestOf(secret)).Scan(&s.Tenant, &s.HasPassword, &s.ExpiresAt)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return Session{}, ErrNotSignedIn
	case err != nil:
		return Session{}, fmt.Errorf("describe session: %w", err)
	}
	return s, nil
}

// SignOut ends a session. That it is over already is no error.
func SignOut(ctx context.Context, db DB, by Principal, secret string) error {
	_, err := db.Exec(ctx, `delete from sluice.session where tenant_id = $1 and digest = $2`, by.TenantID, digestOf(secret))
	if err != nil {
		return fmt.Errorf("sign out: %w", err)
	}
	return nil
}

// SignOutEverywhere ends every session of an operator, and the link that is not used yet.
func SignOutEverywhere(ctx context.Context, db DB, by Principal) error {
	_, err := db.Exec(ctx, `
		with link as (
			delete from sluice.operator_link where tenant_id = $1 and operator_id = $2
		), note as (
			insert into sluice.audit (tenant_id, actor, action, subject, detail)
			values ($1, $3, 'sign-out-everywhere', $3, jsonb_build_object('operator_id', $2::bigint))
		)
		delete from sluice.session where tenant_id = $1 and operator_id = $2`, by.TenantID, by.OperatorID, by.Actor())
	if err != nil {
		return fmt.Errorf("sign out everywhere: %w", err)
	}
	return nil
}
