package auth

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"sluice/gateway/auth/password"
)

// ErrNotSignedIn is returned for a session, link, name or password that does not let in. It does not say which is wrong.
var ErrNotSignedIn = errors.New("not signed in")

// Credentials are what an operator signs in with.
type Credentials struct{ Tenant, Name, Password string }

// SignIn returns a new session's secret, through a session of the database that acts for all tenants. Whether there is
// such an operator can be told neither from the answer nor from the time that it takes.
func SignIn(ctx context.Context, db DB, c Credentials) (string, error) {
	var tenantID, operatorID int64
	var hash string
	err := db.QueryRow(ctx, `
		select o.tenant_id, o.id, coalesce(o.password, '')
		from sluice.tenant t join sluice.operator o on o.tenant_id = t.id
		where t.name = $1 and o.name = $2 and o.disabled_at is null`, c.Tenant, c.Name).Scan(&tenantID, &operatorID, &hash)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return "", fmt.Errorf("sign in: %w", err)
	}
	if !password.Matches(hash, c.Password) {
		return "", ErrNotSignedIn
	}
	secret := random(secretBytes)
	// Who was disabled, or changed the password, while it was compared does not enter. What is over of the operator goes.
	tag, err := db.Exec(ctx, `
		with over as (
			delete from sluice.session where tenant_id = $1 and operator_id = $2 and expires_at <= now()
		)
		insert into sluice.session (tenant_id, digest, operator_id, expires_at)
		select tenant_id, $3, id, now() + $4 from sluice.operator
		where tenant_id = $1 and id = $2 and disabled_at is null and password = $5
		for share`, tenantID, operatorID, digestOf(secret), SessionTime, hash)
	if err != nil {
		return "", fmt.Errorf("sign in: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return "", ErrNotSignedIn
	}
	return secret, nil
}

// OfSession returns who acts in a session, through a session of the database that acts for all tenants.
func OfSession(ctx context.Context, db DB, secret string) (Principal, error) {
	var p Principal
	err := db.QueryRow(ctx, `
		select o.tenant_id, o.id, o.name, o.scopes
		from sluice.session s join sluice.operator o on o.tenant_id = s.tenant_id and o.id = s.operator_id
		where s.digest = $1 and s.expires_at > now() and o.disabled_at is null`,
		digestOf(secret)).Scan(&p.TenantID, &p.OperatorID, &p.OperatorName, &p.Scopes)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return Principal{}, ErrNotSignedIn
	case err != nil:
		return Principal{}, fmt.Errorf("read session: %w", err)
	}
	return p, nil
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
		)
		delete from sluice.session where tenant_id = $1 and operator_id = $2`, by.TenantID, by.OperatorID)
	if err != nil {
		return fmt.Errorf("sign out everywhere: %w", err)
	}
	return nil
}
