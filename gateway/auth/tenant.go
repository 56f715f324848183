package auth

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"time"

	"github.com/jackc/pgx/v5"
)

// Tenant is an organisation. It owns everything else.
type Tenant struct {
	ID        int64
	Name      string
	CreatedAt time.Time
}

var tenantName = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)

// CreateTenant makes a tenant, through a session that acts for all of them: no tenant may make another.
func CreateTenant(ctx context.Context, db DB, name, by string) (Tenant, error) {
	if !tenantName.MatchString(name) || len(name) > 63 {
		return Tenant{}, fmt.Errorf("%w: a tenant's name has 1 to 63 characters, a-z, 0-9 and single hyphens between them", ErrInvalid)
	}
	rows, err := db.Query(ctx, `
		with tenant as (
			insert into sluice.tenant (name) values ($1) returning id, name, created_at
		), change as (
			insert into sluice.configuration (tenant_id, revision) select id, 1 from tenant
		), note as (
			insert into sluice.audit (tenant_id, actor, action, subject) select id, $2, 'create-tenant', name from tenant
		)
		select id, name, created_at from tenant`, name, by)
	if err != nil {
		return Tenant{}, fmt.Errorf("create tenant: %w", err)
	}
	tenant, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Tenant])
	switch {
	case hasCode(err, uniqueViolation):
		return Tenant{}, fmt.Errorf("create tenant: %q %w", name, ErrExists)
	case err != nil:
		return Tenant{}, fmt.Errorf("create tenant: %w", err)
	}
	return tenant, nil
}

// FindTenant returns the tenant with a name, where the session may see it.
func FindTenant(ctx context.Context, db DB, name string) (Tenant, error) {
	rows, err := db.Query(ctx, `select id, name, created_at from sluice.tenant where name = $1`, name)
	if err != nil {
		return Tenant{}, fmt.Errorf("find tenant: %w", err)
	}
	tenant, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Tenant])
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return Tenant{}, fmt.Errorf("find tenant: %q %w", name, ErrNotFound)
	case err != nil:
		return Tenant{}, fmt.Errorf("find tenant: %w", err)
	}
	return tenant, nil
}
