package auth

import (
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"sluice/migrations/pgtest"
	"sluice/queue/process"
)

// An operator enters by a link once, sets a password, signs in with it, and is out where it says so, or is told so.
func TestLifeOfAnOperator(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	system, tenants := db.Pool(), db.TenantPool()
	sessions := NewSessions(system)
	ctx := t.Context()
	ann, err := AddOperator(ctx, system, 1, Operator{Name: "ann", Scopes: Scopes{Admin}, CreatedBy: "test"})
	ok(t, err)
	if _, err := sessions.SignIn(ctx, Credentials{"default", "ann", ""}, "192.0.2.1"); !errors.Is(err, ErrNotSignedIn) {
		t.Errorf("signed in without a password: %v", err)
	}
	old, err := MakeLink(ctx, system, 1, ann.ID, "test")
	ok(t, err)
	link, err := MakeLink(ctx, system, 1, ann.ID, "test")
	ok(t, err)
	if _, err := sessions.EnterByLink(ctx, old); !errors.Is(err, ErrNotSignedIn) {
		t.Errorf("entered by a link that a newer one ended: %v", err)
	}
	first, err := sessions.EnterByLink(ctx, link)
	ok(t, err)
	if _, err := sessions.EnterByLink(ctx, link); !errors.Is(err, ErrNotSignedIn) {
		t.Errorf("entered by a link twice: %v", err)
	}
	p, err := sessions.Find(ctx, first)
	ok(t, err)
	if p.TenantID != 1 || p.OperatorID != ann.ID || !p.Can(Admin) || p.Actor() != "ann" {
		t.Errorf("%+v", p)
	}

	const secret = "correct horse battery"
	other, err := MakeLink(ctx, system, 1, ann.ID, "test")
	ok(t, err)
	second, err := sessions.EnterByLink(ctx, other)
	ok(t, err)
	if err := SetPassword(ctx, system, p, first, "", "short"); !errors.Is(err, ErrInvalid) {
		t.Errorf("short password: %v", err)
	}
	ok(t, process.ForTenant(ctx, tenants, 1, func(tx pgx.Tx) error { return SetPassword(ctx, tx, p, first, "", secret) }))
	if _, err := sessions.Find(ctx, second); !errors.Is(err, ErrNotSignedIn) {
		t.Errorf("another session outlives the new password: %v", err)
	}
	_, err = sessions.Find(ctx, first)
	ok(t, err)
	for _, c := range []Credentials{{"default", "ann", "wrong"}, {"default", "bob", secret}, {"none", "ann", secret}} {
		if _, err := sessions.SignIn(ctx, c, "192.0.2.1"); !errors.Is(err, ErrNotSignedIn) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	third, err := sessions.SignIn(ctx, Credentials{"default", "ann", secret}, "192.0.2.1")
	ok(t, err)
	if err := SetPassword(ctx, system, p, third, "wrong", "another battery"); !errors.Is(err, ErrWrongPassword) {
		t.Errorf("changed a password without the one before: %v", err)
	}
	ok(t, SetPassword(ctx, system, p, third, secret, secret))
	if _, err := sessions.Find(ctx, first); !errors.Is(err, ErrNotSignedIn) {
		t.Errorf("another session outlives the new password: %v", err)
	}
	ok(t, SignOut(ctx, system, p, third))
	if err := SetPassword(ctx, system, p, third, secret, secret); !errors.Is(err, ErrNotSignedIn) {
		t.Errorf("changed a password when signed out: %v", err)
	}
	first, err = sessions.SignIn(ctx, Credentials{"default", "ann", secret}, "192.0.2.1")
	ok(t, err)
	third, err = sessions.SignIn(ctx, Credentials{"default", "ann", secret}, "192.0.2.1")
	ok(t, err)
	ok(t, SignOut(ctx, system, p, first))
	if _, err := sessions.Find(ctx, first); !errors.Is(err, ErrNotSignedIn) {
		t.Errorf("signed out: %v", err)
	}
	_, err = sessions.Find(ctx, third)
	ok(t, err)
	ok(t, SignOutEverywhere(ctx, system, p))
	if _, err := sessions.Find(ctx, third); !errors.Is(err, ErrNotSignedIn) {
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
	sessions := NewSessions(pool)
	ctx := t.Context()
	enter := func(o Operator) string {
		t.Helper()
		link, err := MakeLink(ctx, pool, 1, o.ID, "test")
		ok(t, err)
		session, err := sessions.EnterByLink(ctx, link)
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
	unused, err := MakeLink(ctx, pool, 1, bob.ID, "test")
	ok(t, err)
	ok(t, disable(bob.ID))
	ok(t, disable(bob.ID))
	if _, err := sessions.Find(ctx, session); !errors.Is(err, ErrNotSignedIn) {
		t.Errorf("a disabled operator's session: %v", err)
	}
	if _, err := sessions.EnterByLink(ctx, unused); !errors.Is(err, ErrNotSignedIn) {
		t.Errorf("a disabled operator's link: %v", err)
	}
	if _, err := MakeLink(ctx, pool, 1, bob.ID, "test"); !errors.Is(err, ErrNotFound) {
		t.Errorf("a link for a disabled operator: %v", err)
	}
	if err := disable(77); !errors.Is(err, ErrNotFound) {
		t.Errorf("nobody: %v", err)
	}

	old := enter(ann)
	late, err := MakeLink(ctx, pool, 1, ann.ID, "test")
	ok(t, err)
	_, err = pool.Exec(ctx, `update sluice.session set expires_at = now()`)
	ok(t, err)
	_, err = pool.Exec(ctx, `update sluice.operator_link set expires_at = now()`)
	ok(t, err)
	if _, err := sessions.Find(ctx, old); !errors.Is(err, ErrNotSignedIn) {
		t.Errorf("a session that is over: %v", err)
	}
	if _, err := sessions.EnterByLink(ctx, late); !errors.Is(err, ErrNotSignedIn) {
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
	if want := "add-operator ann, add-operator bob, make-link bob, sign-in bob, make-link bob, disable-operator bob, " +
		"make-link ann, sign-in ann, make-link ann"; notes != want {
		t.Errorf("%s\nwant %s", notes, want)
	}

	ok(t, EnableOperator(ctx, pool, 1, bob.ID, "test"))
	ok(t, EnableOperator(ctx, pool, 1, bob.ID, "test"))
	_, err = sessions.Find(ctx, enter(bob))
	ok(t, err)
	if err := EnableOperator(ctx, pool, 1, 77, "test"); !errors.Is(err, ErrNotFound) {
		t.Errorf("nobody: %v", err)
	}
}

// Who fails too often waits, from that place and under that name only; and what is remembered of strangers is bounded.
func TestAttemptsAreBounded(t *testing.T) {
	t.Parallel()
	now := time.Now()
	a := attempts{now: func() time.Time { return now }, failed: map[string]failures{}}
	ann, bob := Credentials{Tenant: "default", Name: "ann"}, Credentials{Tenant: "default", Name: "bob"}
	for range attemptsOfName {
		ok(t, a.admit(ann, "192.0.2.1"))
		a.fail(ann, "192.0.2.1")
	}
	var many *TooManyError
	if err := a.admit(ann, "192.0.2.1"); !errors.As(err, &many) || many.RetryAfter <= 0 || many.RetryAfter > attemptsTime {
		t.Errorf("%v", err)
	}
	ok(t, a.admit(bob, "192.0.2.1"))
	ok(t, a.admit(ann, "192.0.2.2"))
	now = now.Add(attemptsTime)
	ok(t, a.admit(ann, "192.0.2.1"))

	for i := range attemptsOfPlace {
		a.fail(Credentials{Name: strconv.Itoa(i)}, "192.0.2.3")
	}
	if err := a.admit(bob, "192.0.2.3"); !errors.As(err, &many) {
		t.Errorf("another name from where a hundred failed: %v", err)
	}

	for i := range 2 * attemptsKept {
		a.fail(Credentials{Name: strconv.Itoa(i)}, strconv.Itoa(i))
		if len(a.failed) > attemptsKept+1 {
			t.Fatalf("%d are remembered", len(a.failed))
		}
	}
}
