package auth

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"pgregory.net/rapid"

	"sluice/migrations/pgtest"
	"sluice/queue/process"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func one[T any](t testing.TB, db DB, sql string, args ...any) T {
	t.Helper()
	rows, err := db.Query(t.Context(), sql, args...)
	ok(t, err)
	v, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[T])
	ok(t, err)
	return v
}

// A key enters for its tenant with its scopes until it is revoked; each change is noted and moves the revision.
func TestLifeOfAKey(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	system, tenants := db.Pool(), db.TenantPool()
	keys := New(system)
	clock := time.Now()
	keys.now = func() time.Time { return clock }
	revision := func() int64 {
		return one[int64](t, system, `select revision from sluice.configuration where tenant_id = 1`)
	}
	before := revision()

	var key Key
	var plain string
	ok(t, process.ForTenant(t.Context(), tenants, 1, func(tx pgx.Tx) (err error) {
		key, plain, err = CreateKey(t.Context(), tx, 1, "ci", Scopes{Operate, Operate}, "test")
		return err
	}))
	if revision() != before+1 {
		t.Errorf("revision %d, want %d", revision(), before+1)
	}
	p, err := keys.Authenticate(t.Context(), "Bearer "+plain)
	ok(t, err)
	if want := (Principal{TenantID: 1, KeyID: key.ID, KeyName: "ci", Scopes: Scopes{Operate}}); fmt.Sprint(p) != fmt.Sprint(want) {
		t.Errorf("%+v, want %+v", p, want)
	}
	if p.Actor() != fmt.Sprintf("ci (key %d)", key.ID) {
		t.Error(p.Actor())
	}
	if strings.Contains(one[string](t, system, `select row_to_json(k)::text from sluice.api_key k`), plain[len(plain)-secretDigits:]) {
		t.Error("the secret is in the database")
	}

	ok(t, process.ForTenant(t.Context(), tenants, 1, func(tx pgx.Tx) error {
		return RevokeKey(t.Context(), tx, 1, key.ID, "test")
	}))
	clock = clock.Add(time.Second)
	if _, err := keys.Authenticate(t.Context(), "bearer "+plain); !errors.Is(err, ErrBadKey) {
		t.Errorf("a key still enters a second after it was revoked: %v", err)
	}
	if _, err := New(system).Authenticate(t.Context(), "Bearer "+plain); !errors.Is(err, ErrBadKey) {
		t.Errorf("another node lets a revoked key in: %v", err)
	}
	ok(t, RevokeKey(t.Context(), system, 1, key.ID, "again"))
	if revision() != before+2 {
		t.Errorf("revision %d, want %d", revision(), before+2)
	}
	notes := one[string](t, system, `select string_agg(actor || ' ' || action || ' ' || subject || ' ' || (detail ->> 'key_id'), ', ' order by id) from sluice.audit`)
	if want := fmt.Sprintf("test create-key ci %d, test revoke-key ci %[1]d", key.ID); notes != want {
		t.Errorf("noted %q, want %q", notes, want)
	}
	listed, err := ListKeys(t.Context(), system, 1, 0, 10)
	ok(t, err)
	if len(listed) != 1 || listed[0].RevokedAt == nil || listed[0].PublicID != key.PublicID {
		t.Errorf("%+v", listed)
	}
	if rest, err := ListKeys(t.Context(), system, 1, key.ID, 10); err != nil || len(rest) != 0 {
		t.Errorf("%v %v", rest, err)
	}
}

// What is not a key, or not this one, is refused; who brings nothing is told so.
func TestBadKeys(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t).Pool()
	_, plain, err := CreateKey(t.Context(), pool, 1, "a", Scopes{Ingest}, "test")
	ok(t, err)
	_, other, err := CreateKey(t.Context(), pool, 1, "b", Scopes{Admin}, "test")
	ok(t, err)
	keys := New(pool)
	cut := len(keyPrefix) + publicIDDigits
	last := "0"
	if strings.HasSuffix(plain, last) {
		last = "1"
	}
	for header, want := range map[string]error{
		"":                                      ErrNoKey,
		"Bearer ":                               ErrBadKey,
		"Bearer":                                ErrBadKey,
		plain:                                   ErrBadKey,
		"Basic " + plain:                        ErrBadKey,
		"Bearer " + plain + "x":                 ErrBadKey,
		"Bearer " + plain[1:]:                   ErrBadKey,
		"Bearer " + plain[:len(plain)-1] + last: ErrBadKey,
		"Bearer " + plain[:len(plain)-1] + "é":  ErrBadKey,
		"Bearer " + plain[:len(plain)-1] + "\x00":                                               ErrBadKey,
		"Bearer " + plain[:cut] + other[cut:]:                                                   ErrBadKey,
		"Bearer " + keyPrefix + random(publicIDBytes) + "_" + random(secretBytes):               ErrBadKey,
		"Bearer " + keyPrefix + random(publicIDBytes) + "_" + strings.Repeat("0", secretDigits): ErrBadKey,
		"Bearer  " + plain: nil,
		"BEARER " + plain:  nil,
	} {
		if _, err := keys.Authenticate(t.Context(), header); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", header, err, want)
		}
	}
}

func TestWhatCannotBeMade(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t).Pool()
	for _, name := range []string{"", strings.Repeat("é", 201), "a\x00b", "a\nb", "\xff"} {
		if _, _, err := CreateKey(t.Context(), pool, 1, name, Scopes{Ingest}, "test"); !errors.Is(err, ErrInvalid) {
			t.Errorf("key %q: %v", name, err)
		}
	}
	for _, scopes := range []Scopes{nil, {"root"}, {Ingest, ""}} {
		if _, _, err := CreateKey(t.Context(), pool, 1, "a", scopes, "test"); !errors.Is(err, ErrInvalid) {
			t.Errorf("scopes %q: %v", scopes, err)
		}
	}
	if _, _, err := CreateKey(t.Context(), pool, 77, "a", Scopes{Ingest}, "test"); !errors.Is(err, ErrNotFound) {
		t.Errorf("key of no tenant: %v", err)
	}
	if err := RevokeKey(t.Context(), pool, 1, 77, "test"); !errors.Is(err, ErrNotFound) {
		t.Errorf("revoke nothing: %v", err)
	}
	for _, name := range []string{"", "A", "-a", "a--b", strings.Repeat("a", 64), "a\n"} {
		if _, err := CreateTenant(t.Context(), pool, name, "test"); !errors.Is(err, ErrInvalid) {
			t.Errorf("tenant %q: %v", name, err)
		}
	}
	if _, err := CreateTenant(t.Context(), pool, "default", "test"); !errors.Is(err, ErrExists) {
		t.Errorf("tenant twice: %v", err)
	}
	if _, err := FindTenant(t.Context(), pool, "none"); !errors.Is(err, ErrNotFound) {
		t.Errorf("tenant none: %v", err)
	}
	if n := one[int64](t, pool, `select count(*) from sluice.audit`); n != 0 {
		t.Errorf("%d notes of things that were not done", n)
	}
}

// A tenant's keys are behind its wall: another's session can neither see, make nor revoke them.
func TestKeysOfAnotherTenant(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	system, tenants := db.Pool(), db.TenantPool()
	other, err := CreateTenant(t.Context(), system, "other", "test")
	ok(t, err)
	if found, err := FindTenant(t.Context(), system, "other"); err != nil || found != other {
		t.Errorf("%v %v", found, err)
	}
	theirs, plain, err := CreateKey(t.Context(), system, other.ID, "theirs", Scopes{Admin}, "test")
	ok(t, err)
	for _, as := range []int64{1, other.ID} {
		ok(t, process.ForTenant(t.Context(), tenants, 1, func(tx pgx.Tx) error {
			if seen, err := ListKeys(t.Context(), tx, as, 0, 10); err != nil || len(seen) != 0 {
				t.Errorf("sees %v %v", seen, err)
			}
			if err := RevokeKey(t.Context(), tx, as, theirs.ID, "mallory"); !errors.Is(err, ErrNotFound) {
				t.Errorf("revokes: %v", err)
			}
			return nil
		}))
	}
	for _, made := range []func(pgx.Tx) error{
		func(tx pgx.Tx) error {
			_, _, err := CreateKey(t.Context(), tx, other.ID, "mine", Scopes{Admin}, "mallory")
			return err
		},
		func(tx pgx.Tx) error { _, err := CreateTenant(t.Context(), tx, "mine", "mallory"); return err },
	} {
		if err := process.ForTenant(t.Context(), tenants, 1, made); !hasCode(err, "42501") {
			t.Errorf("made: %v", err)
		}
	}
	if p, err := New(system).Authenticate(t.Context(), "Bearer "+plain); err != nil || p.TenantID != other.ID {
		t.Errorf("%v %v", p, err)
	}
}

// lookUps counts the statements that look keys up.
func lookUps(t *testing.T, db *pgtest.DB) (*pgxpool.Pool, func() int) {
	t.Helper()
	config, err := pgxpool.ParseConfig(db.URL)
	ok(t, err)
	config.ConnConfig.RuntimeParams["sluice.tenant_id"] = "*"
	tracer := &counter{}
	config.ConnConfig.Tracer = tracer
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	ok(t, err)
	t.Cleanup(pool.Close)
	return pool, tracer.count
}

type counter struct {
	mu sync.Mutex
	n  int
}

func (c *counter) count() int { c.mu.Lock(); defer c.mu.Unlock(); return c.n }

func (c *counter) TraceQueryStart(ctx context.Context, _ *pgx.Conn, q pgx.TraceQueryStartData) context.Context {
	if strings.Contains(q.SQL, "from sluice.api_key") {
		c.mu.Lock()
		c.n++
		c.mu.Unlock()
	}
	return ctx
}

func (c *counter) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// Many requests with one key cost one look-up, and one more when it is old; a flood of rubbish costs few, on one
// connection, and neither fills the memory nor keeps the real key out.
func TestLookUpsAreFew(t *testing.T) {
	t.Parallel()
	pool, count := lookUps(t, pgtest.New(t))
	_, plain, err := CreateKey(t.Context(), pool, 1, "a", Scopes{Ingest}, "test")
	ok(t, err)
	keys := New(pool)
	clock := time.Now()
	keys.now = func() time.Time { return clock }
	all := func(n int, header func(i int) string, want error) {
		t.Helper()
		var wait sync.WaitGroup
		for i := range n {
			wait.Go(func() {
				if _, err := keys.Authenticate(t.Context(), header(i)); !errors.Is(err, want) {
					t.Errorf("%v, want %v", err, want)
				}
			})
		}
		wait.Wait()
	}
	genuine := func(int) string { return "Bearer " + plain }
	rubbish := func(int) string { return "Bearer " + keyPrefix + random(publicIDBytes) + "_" + random(secretBytes) }

	before := count()
	all(200, genuine, nil)
	if n := count() - before; n != 1 {
		t.Errorf("%d look-ups for one key at one time", n)
	}
	clock = clock.Add(fresh)
	all(200, genuine, nil)
	if n := count() - before; n != 2 {
		t.Errorf("%d look-ups for one key at two times", n)
	}
	same := rubbish(0)
	all(50, func(int) string { return same }, ErrBadKey)
	all(50, func(int) string { return same }, ErrBadKey)
	if n := count() - before; n != 3 {
		t.Errorf("%d look-ups after an unknown key twice", n)
	}
	before = count()
	all(2*remembered+500, rubbish, ErrBadKey)
	if n := count() - before; n > remembered {
		t.Errorf("%d look-ups for a flood of %d", n, 2*remembered)
	}
	if len(keys.unknown) > remembered || len(keys.known) != 1 {
		t.Errorf("%d unknown and %d known remembered", len(keys.unknown), len(keys.known))
	}
	before = count()
	all(1, genuine, nil)
	if count() != before {
		t.Error("a flood of rubbish pushed a real key out")
	}
}

// A request that is given up while it looks up for others does not take them with it, and a database that cannot be
// asked is told as such, not as a bad key, and not remembered.
func TestLookUpsThatFail(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	_, plain, err := CreateKey(t.Context(), db.Pool(), 1, "a", Scopes{Ingest}, "test")
	ok(t, err)

	gone, cancel := context.WithCancel(t.Context())
	cancel()
	keys := New(db.Pool())
	for range 20 { // by chance it looks up, or it gives up
		if _, err := keys.Authenticate(gone, "Bearer "+plain); err != nil && !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	}
	_, err = keys.Authenticate(t.Context(), "Bearer "+plain)
	ok(t, err)

	closed, err := pgxpool.New(t.Context(), db.URL)
	ok(t, err)
	closed.Close()
	keys = New(closed)
	if _, err := keys.Authenticate(t.Context(), "Bearer "+plain); err == nil || errors.Is(err, ErrBadKey) {
		t.Errorf("%v", err)
	}
	keys.pool = db.Pool()
	_, err = keys.Authenticate(t.Context(), "Bearer "+plain)
	ok(t, err)
}

// A key that is soon old is read again by one request, and the others do not wait for that. When it cannot be read, what is
// remembered is believed until it is old, and not a moment longer: it may have been revoked.
func TestKeysAreRenewed(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	_, plain, err := CreateKey(t.Context(), db.Pool(), 1, "a", Scopes{Ingest}, "test")
	ok(t, err)
	pool, err := pgxpool.New(t.Context(), db.URL+"&pool_max_conns=1")
	ok(t, err)
	defer pool.Close()
	keys := New(pool)
	start := time.Now()
	var passed atomic.Int64
	keys.now = func() time.Time { return start.Add(time.Duration(passed.Load())) }
	authenticate := func() error {
		_, err := keys.Authenticate(t.Context(), "Bearer "+plain)
		return err
	}
	ok(t, authenticate())

	busy, err := pool.Acquire(t.Context())
	ok(t, err)
	passed.Store(int64(fresh - soon))
	renewed := make(chan error, 1)
	go func() { renewed <- authenticate() }()
	for len(keys.turn) == 0 {
		runtime.Gosched()
	}
	for range 100 {
		ok(t, authenticate())
	}
	select {
	case err := <-renewed:
		t.Errorf("nobody read the key again: %v", err)
	default:
	}
	busy.Release()
	ok(t, <-renewed)
	passed.Store(int64(fresh))
	ok(t, authenticate()) // it was read again

	closed, err := pgxpool.New(t.Context(), db.URL)
	ok(t, err)
	closed.Close()
	keys.pool = closed
	passed.Store(int64(2*fresh - soon - 1))
	ok(t, authenticate()) // it could not, and is not old yet
	keys.pool = pool
	busy, err = pool.Acquire(t.Context())
	ok(t, err)
	defer busy.Release()
	go func() { renewed <- authenticate() }()
	for len(keys.turn) == 0 {
		runtime.Gosched()
	}
	passed.Store(int64(2*fresh - soon)) // it grows old while it cannot be read
	if err := <-renewed; err == nil || errors.Is(err, ErrBadKey) {
		t.Errorf("a key that is old and cannot be read: %v", err)
	}
}

func TestScopes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		have Scopes
		can  string
	}{
		{nil, ""}, {Scopes{Ingest}, "ingest"}, {Scopes{Operate}, "ingest operate"}, {Scopes{Worker}, "ingest worker"}, {Scopes{Admin}, "ingest worker operate admin"},
		{Scopes{Worker, Operate}, "ingest worker operate"},
		{Scopes{Ingest, Operate}, "ingest operate"}, {Scopes{"root"}, ""},
	} {
		var can []string
		for _, want := range []Scope{Ingest, Worker, Operate, Admin, "", "root"} {
			if (Principal{Scopes: c.have}).Can(want) {
				can = append(can, string(want))
			}
		}
		if strings.Join(can, " ") != c.can {
			t.Errorf("%q can %q, want %q", c.have, can, c.can)
		}
	}
	if s, err := ParseScopes([]string{"admin", "ingest", "admin"}); err != nil || fmt.Sprint(s) != "[admin ingest]" {
		t.Errorf("%v %v", s, err)
	}
}

func TestContext(t *testing.T) {
	t.Parallel()
	if _, known := FromContext(t.Context()); known {
		t.Error("someone is in an empty context")
	}
	if p, known := FromContext(NewContext(t.Context(), Principal{TenantID: 7})); !known || p.TenantID != 7 {
		t.Error("not found")
	}
}

// Keys have one shape, whatever the bytes, and nothing else is taken for one.
func TestShapeOfKeys(t *testing.T) {
	t.Parallel()
	for n, want := range map[int]int{publicIDBytes: 13, secretBytes: 43} {
		for range 200 {
			if s := random(n); len(s) != want || strings.ContainsFunc(s, isNotDigit) {
				t.Fatalf("%d bytes: %q", n, s)
			}
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		key := rapid.OneOf(rapid.StringMatching(`sluice_[0-9a-zA-Z]{13}_[0-9a-zA-Z]{43}`), rapid.StringMatching(`(sluice_)?[0-9a-zA-Z_é]{50,60}`), rapid.String()).Draw(t, "key")
		id, secret, isKey := split(key)
		if isKey && key != keyPrefix+id+"_"+secret {
			t.Fatalf("%q is not %q and %q", key, id, secret)
		}
	})
}
