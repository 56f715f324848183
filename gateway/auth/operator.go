package auth

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"sluice/gateway/auth/password"
)

// Operator is a person who signs in at the screens.
type Operator struct {
	ID          int64
	Name        string
	Scopes      Scopes
	HasPassword bool // or enters by a link only
	CreatedAt   time.Time
	CreatedBy   string
	DisabledAt  *time.Time
}

// ErrLastAdmin is returned where the last operator who may change the configuration would be shut out.
var ErrLastAdmin = errors.New("the last operator with the scope admin cannot be disabled")

const (
	// LinkTime is how long a link lets in.
	LinkTime = time.Hour
	// SessionTime is how long a session lasts, however busy it is.
	SessionTime = 12 * time.Hour
)

// AddOperator adds an operator, who enters by a link first: see [MakeLink].
func AddOperator(ctx context.Context, db DB, tenantID int64, o Operator) (Operator, error) {
	if checkName(o.Name) != nil {
		return Operator{}, fmt.Errorf("%w: an operator's name has 1 to 200 characters, none of them a control character", ErrInvalid)
	}
	scopes, err := ParseScopes(o.Scopes.Strings())
	if err != nil || slices.Contains(scopes, Ingest) || slices.Contains(scopes, Worker) {
		return Operator{}, fmt.Errorf("%w: an operator has the scope operate or admin", ErrInvalid)
	}
	rows, err := db.Query(ctx, `
		with operator as (
			insert into sluice.operator (tenant_id, name, scopes, created_by) values ($1, $2, $3, $4)
			returning *
		), note as (
			insert into sluice.audit (tenant_id, actor, action, subject, detail)
			select $1, $4, 'add-operator', name, jsonb_build_object('operator_id', id, 'scopes', scopes) from operator
		)
		select id, name, scopes, password is not null as has_password, created_at, created_by, disabled_at from operator`,
		tenantID, o.Name, scopes.Strings(), o.CreatedBy)
	if err != nil {
		return Operator{}, fmt.Errorf("add operator: %w", err)
	}
	added, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Operator])
	switch {
	case hasCode(err, uniqueViolation):
		return Operator{}, fmt.Errorf("add operator: %q %w", o.Name, ErrExists)
	case hasCode(err, foreignKeyViolation):
		return Operator{}, fmt.Errorf("add operator: tenant %d: %w", tenantID, ErrNotFound)
	case err != nil:
		return Operator{}, fmt.Errorf("add operator: %w", err)
	}
	return added, nil
}

// ListOperators returns up to limit operators of a tenant, the disabled ones too, in the order in which they were added,
// from the first one after the id.
func ListOperators(ctx context.Context, db DB, tenantID, after int64, limit int) ([]Operator, error) {
	rows, err := db.Query(ctx, `
		select id, name, scopes, password is not null as has_password, created_at, created_by, disabled_at
		from sluice.operator
		where tenant_id = $1 and id > $2
		order by id
		limit $3`, tenantID, after, limit)
	if err != nil {
		return nil, fmt.Errorf("list operators: %w", err)
	}
	operators, err := pgx.CollectRows(rows, pgx.RowToStructByName[Operator])
	if err != nil {
		return nil, fmt.Errorf("list operators: %w", err)
	}
	return operators, nil
}

// DisableOperator shuts an operator out and ends what is open: sessions and a link. To disable one again changes nothing.
// The tenant's admins are locked first: two who disable each other at once would leave none.
func DisableOperator(ctx context.Context, tx pgx.Tx, tenantID, id int64, by string) error {
	admins, err := queryColumn[int64](ctx, tx, `
		select id from sluice.operator
		where tenant_id = $1 and disabled_at is null and 'admin' = any(scopes)
		order by id
		for update`, tenantID)
	if err != nil {
		return fmt.Errorf("disable operator: %w", err)
	}
	if len(admins) == 1 && admins[0] == id {
		return fmt.Errorf("disable operator: %w", ErrLastAdmin)
	}
	var found bool
	err = tx.QueryRow(ctx, `
		with operator as (
			update sluice.operator set disabled_at = now()
			where tenant_id = $1 and id = $2 and disabled_at is null
			returning id, name
		), link as (
			delete from sluice.operator_link where tenant_id = $1 and operator_id = $2
		), session as (
			delete from sluice.session where tenant_id = $1 and operator_id = $2
		), note as (
			insert into sluice.audit (tenant_id, actor, action, subject, detail)
			select $1, $3, 'disable-operator', name, jsonb_build_object('operator_id', id) from operator
		)
		select exists (select from sluice.operator where tenant_id = $1 and id = $2)`, tenantID, id, by).Scan(&found)
	if err != nil {
		return fmt.Errorf("disable operator: %w", err)
	}
	if !found {
		return fmt.Errorf("disable operator: operator %d: %w", id, ErrNotFound)
	}
	return nil
}

// MakeLink returns what lets an operator in once, within [LinkTime]. It ends the operator's link before.
func MakeLink(ctx context.Context, db DB, tenantID, operatorID int64, by string) (string, error) {
	link := random(secretBytes)
	var found bool
	err := db.QueryRow(ctx, `
		with operator as (
			select tenant_id, id, name from sluice.operator where tenant_id = $1 and id = $2 and disabled_at is null
		), link as (
			insert into sluice.operator_link (tenant_id, operator_id, digest, expires_at)
			select tenant_id, id, $3, now() + $4 from operator
			on conflict (tenant_id, operator_id) do update set digest = excluded.digest, expires_at = excluded.expires_at
		), note as (
			insert into sluice.audit (tenant_id, actor, action, subject, detail)
			select tenant_id, $5, 'make-link', name, jsonb_build_object('operator_id', id) from operator
		)
		select exists (select from operator)`,
		tenantID, operatorID, digestOf(link), LinkTime, by).Scan(&found)
	if err != nil {
		return "", fmt.Errorf("make link: %w", err)
	}
	if !found {
		return "", fmt.Errorf("make link: operator %d: %w", operatorID, ErrNotFound)
	}
	return link, nil
}

// EnableOperator lets an operator who was disabled in again, with the scopes and the password from before. To enable one
// who is not disabled changes nothing.
func EnableOperator(ctx context.Context, db DB, tenantID, id int64, by string) error {
	var found bool
	err := db.QueryRow(ctx, `
		with operator as (
			update sluice.operator set disabled_at = null
			where tenant_id = $1 and id = $2 and disabled_at is not null
			returning id, name
		), note as (
			insert into sluice.audit (tenant_id, actor, action, subject, detail)
			select $1, $3, 'enable-operator', name, jsonb_build_object('operator_id', id) from operator
		)
		select exists (select from sluice.operator where tenant_id = $1 and id = $2)`, tenantID, id, by).Scan(&found)
	if err != nil {
		return fmt.Errorf("enable operator: %w", err)
	}
	if !found {
		return fmt.Errorf("enable operator: operator %d: %w", id, ErrNotFound)
	}
	return nil
}

// FindOperator returns the operator of a name, or ErrNotFound.
func FindOperator(ctx context.Context, db DB, tenantID int64, name string) (Operator, error) {
	rows, err := db.Query(ctx, `
		select id, name, scopes, password is not null as has_password, created_at, created_by, disabled_at
		from sluice.operator where tenant_id = $1 and name = $2`, tenantID, name)
	if err != nil {
		return Operator{}, fmt.Errorf("find operator: %w", err)
	}
	found, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Operator])
	if errors.Is(err, pgx.ErrNoRows) {
		return Operator{}, fmt.Errorf("find operator %q: %w", name, ErrNotFound)
	}
	if err != nil {
		return Operator{}, fmt.Errorf("find operator: %w", err)
	}
	return found, nil
}

// SetPassword gives an operator a password, and ends every session but the one that sets it. Who came by a password needs
// it again: a screen that was left open must not be enough to take an operator over. Another one is ErrWrongPassword.
func SetPassword(ctx context.Context, db DB, by Principal, session, current, text string) error {
	hash, err := password.Hash(text)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	var kept string
	var byLink bool
	err = db.QueryRow(ctx, `
		select coalesce(o.password, ''), s.by_link
		from sluice.session s join sluice.operator o on o.tenant_id = s.tenant_id and o.id = s.operator_id
		where s.tenant_id = $1 and s.operator_id = $2 and s.digest = $3`, by.TenantID, by.OperatorID, digestOf(session)).Scan(&kept, &byLink)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return ErrNotSignedIn
	case err != nil:
		return fmt.Errorf("set password: %w", err)
	case kept != "" && !byLink && !password.Matches(kept, current):
		return ErrWrongPassword
	}
	tag, err := db.Exec(ctx, `
		with operator as (
			update sluice.operator set password = $3
			where tenant_id = $1 and id = $2 and disabled_at is null and coalesce(password, '') = $6
			returning id, name
		), session as (
			delete from sluice.session where tenant_id = $1 and operator_id = $2 and digest <> $4 and exists (select from operator)
		)
		insert into sluice.audit (tenant_id, actor, action, subject, detail)
		select $1, $5, 'set-password', name, jsonb_build_object('operator_id', id) from operator`,
		by.TenantID, by.OperatorID, hash, digestOf(session), by.Actor(), kept)
	if err != nil {
		return fmt.Errorf("set password: %w", err)
	}
	if tag.RowsAffected() == 0 { // disabled, or given another password, meanwhile
		return ErrNotSignedIn
	}
	return nil
}

// queryColumn returns the one column of a query.
func queryColumn[T any](ctx context.Context, db DB, sql string, args ...any) ([]T, error) {
	rows, err := db.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[T])
}

// digestOf is what is kept of a secret that nobody can guess.
func digestOf(secret string) []byte {
	sum := sha256.Sum256([]byte(secret))
	return sum[:]
}
