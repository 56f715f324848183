package auth

import (
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"sluice/migrations/pgtest"
	"sluice/queue/process"
)

// An operator enters by a link once, sets a password, signs in with it, and is out where it says so, or is told so.
func TestLifeOfAnOperator(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	system, tenants := db.Pool(), db.TenantPool()
	ctx := t.Context()
	ann, err := AddOperator(ctx, system, 1, Operator{Name: "ann", Scopes: Scopes{Admin}, CreatedBy: "test"})
	ok(t, err)
	if _, err := SignIn(ctx, system, Credentials{"default", "ann", ""}); !errors.Is(err, ErrNotSignedIn) {
		t.Errorf("signed in without a password: %v", err)
	}
	old, err := MakeLink(ctx, system, 1, ann.ID)
	ok(t, err)
	link, err := MakeLink(ctx, system, 1, ann.ID)
	ok(t, err)
	if _, err := EnterByLink(ctx, system, old); !errors.Is(err, ErrNotSignedIn) {
		t.Errorf("entered by a link that a newer one ended: %v", err)
	}
	first, err := EnterByLink(ctx, system, link)
	ok(t, err)
	if _, err := EnterByLink(ctx, system, link); !errors.Is(err, ErrNotSignedIn) {
		t.Errorf("entered by a link twice: %v", err)
	}
	p, err := OfSession(ctx, system, first)
	ok(t, err)
	if p.TenantID != 1 || p.OperatorID != ann.ID || !p.Can(Admin) || p.Actor() != "ann" {
		t.Errorf("%+v", p)
	}

	const secret = "correct horse battery"
	other, err := MakeLink(ctx, system, 1, ann.ID)
	ok(t, err)
	second, err := EnterByLink(ctx, system, other)
	ok(t, err)
	if err := SetPassword(ctx, system, p, first, "short"); !errors.Is(err, ErrInvalid) {
		t.Errorf("short password: %v", err)
	}
	ok(t, process.ForTenant(ctx, tenants, 1, func(tx pgx.Tx) error { return SetPassword(ctx, tx, p, first, secret) }))
	if _, err := OfSession(ctx, system, second); !errors.Is(err, ErrNotSignedIn) {
		t.Errorf("another session outlives the new password: %v", err)
	}
	_, err = OfSession(ctx, system, first)
	ok(t, err)
	for _, c := range []Credentials{{"default", "ann", "wrong"}, {"default", "bob", secret}, {"none", "ann", secret}} {
		if _, err := SignIn(ctx, system, c); !errors.Is(err, ErrNotSignedIn) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	third, err := SignIn(ctx, system, Credentials{"default", "ann", secret})
	ok(t, err)
	ok(t, SignOut(ctx, system, p, first))
	if _, err := OfSession(ctx, system, first); !errors.Is(err, ErrNotSignedIn) {
		t.Errorf("signed out: %v", err)
	}
	_, err = OfSession(ctx, system, third)
	ok(t, err)
	ok(t, SignOutEverywhere(ctx, system, p))
	if _, err := OfSession(ctx, system, third); !errors.Is(err, ErrNotSignedIn) {
		t.Errorf("signed out everywhere: %v", err)
	}
	kept := one[string](t, system, `select row_to_json(o)::text from sluice.operator o`)
	if strings.Contains(kept, secret) || !strings.Contains(kept, "$argon2id$") {
		t.Error(kept)
	}
}

// A disabled operator is out at once and cannot come back; the last admin cannot be shut out; what is over lets nobody in.
func TestOperatorsAreShutOut(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t).Pool()
	ctx := t.Context()
	enter := func(o Operator) string {
		t.Helper()
		link, err := MakeLink(ctx, pool, 1, o.ID)
		ok(t, err)
		session, err := EnterByLink(ctx, pool, link)
		ok(t, err)
		return session
	}
	disable := func(id int64) error {
		return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error { return DisableOperator(ctx, tx, 1, id, "test") })
	}
	ann, err := AddOperator(ctx, pool, 1, Operator{Name: "ann", Scopes: Scopes{Admin}, CreatedBy: "test"})
	ok(t, err)
	bob, err := AddOperator(ctx, pool, 1, Operator{Name: "bob", Scopes: Scopes{Operate}, CreatedBy: "test"})
	ok(t, err)
	if err := disable(ann.ID); !errors.Is(err, ErrLastAdmin) {
		t.Errorf("the last admin: %v", err)
	}
	session := enter(bob)
	unused, err := MakeLink(ctx, pool, 1, bob.ID)
	ok(t, err)
	ok(t, disable(bob.ID))
	ok(t, disable(bob.ID))
	if _, err := OfSession(ctx, pool, session); !errors.Is(err, ErrNotSignedIn) {
		t.Errorf("a disabled operator's session: %v", err)
	}
	if _, err := EnterByLink(ctx, pool, unused); !errors.Is(err, ErrNotSignedIn) {
		t.Errorf("a disabled operator's link: %v", err)
	}
	if _, err := MakeLink(ctx, pool, 1, bob.ID); !errors.Is(err, ErrNotFound) {
		t.Errorf("a link for a disabled operator: %v", err)
	}
	if err := disable(77); !errors.Is(err, ErrNotFound) {
		t.Errorf("nobody: %v", err)
	}

	old := enter(ann)
	late, err := MakeLink(ctx, pool, 1, ann.ID)
	ok(t, err)
	_, err = pool.Exec(ctx, `update sluice.session set expires_at = now()`)
	ok(t, err)
	_, err = pool.Exec(ctx, `update sluice.operator_link set expires_at = now()`)
	ok(t, err)
	if _, err := OfSession(ctx, pool, old); !errors.Is(err, ErrNotSignedIn) {
		t.Errorf("a session that is over: %v", err)
	}
	if _, err := EnterByLink(ctx, pool, late); !errors.Is(err, ErrNotSignedIn) {
		t.Errorf("a link that is over: %v", err)
	}

	if _, err := AddOperator(ctx, pool, 1, Operator{Name: "ann", Scopes: Scopes{Admin}}); !errors.Is(err, ErrExists) {
		t.Errorf("twice: %v", err)
	}
	for _, o := range []Operator{{Name: "", Scopes: Scopes{Admin}}, {Name: "x"}, {Name: "x", Scopes: Scopes{Ingest}}, {Name: "x", Scopes: Scopes{"root"}}} {
		if _, err := AddOperator(ctx, pool, 1, o); !errors.Is(err, ErrInvalid) {
			t.Errorf("%+v: %v", o, err)
		}
	}
	listed, err := ListOperators(ctx, pool, 1, 0, 10)
	ok(t, err)
	if len(listed) != 2 || listed[0].Name != "ann" || listed[1].DisabledAt == nil {
		t.Errorf("%+v", listed)
	}
	notes := one[string](t, pool, `select string_agg(action || ' ' || subject, ', ' order by id) from sluice.audit`)
	if notes != "add-operator ann, add-operator bob, disable-operator bob" {
		t.Error(notes)
	}
}
