package auth

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"sluice/queue/process"
)

const (
	// fresh is how long what was read of a key is believed, counted from before it was read. So a revoked key is
	// refused within a second of the commit that revoked it, with time to spare for slow answers.
	fresh = 900 * time.Millisecond
	// soon is how long before it is old what was read of a key is read again, by one of the requests that come; the others
	// go on with it. So a busy key does not wait for a database that is slow for a moment.
	soon = 400 * time.Millisecond
	// remembered bounds the keys that are remembered, and apart from them the public ids that lead to none. Whoever
	// sends rubbish must not push real keys out.
	remembered = 10_000
	// lookUpTime bounds one look-up, which several requests wait for.
	lookUpTime = 1800 * time.Millisecond
	// batchSize is how many public ids one look-up asks for at most.
	batchSize = 1000
)

// Keys tells by their keys who requests come from. It remembers for a moment what it read, so that a busy key costs two
// look-ups a second, and asks for all keys that it is asked about at one time in one statement, one statement at a time:
// however much rubbish comes in, it takes one connection, and real keys pass in the same look-up.
type Keys struct {
	pool *pgxpool.Pool
	now  func() time.Time
	turn chan struct{} // held by the request that looks up for all that wait

	mu      sync.Mutex
	known   map[string]row
	unknown map[string]row
	reading *batch // by whoever has the turn
	next    *batch // those who are not in it wait for this one
}

// row is what a public id leads to.
type row struct {
	principal Principal
	hash      [sha256.Size]byte
	until     time.Time
}

// batch is a look-up that requests wait for.
type batch struct {
	ids   map[string]bool
	until time.Time // once it is read
	done  chan struct{}
	rows  map[string]row // once done
	err   error          // once done
}

// New returns the keys of a database. They are looked up among those of all tenants: whose key it is, is not known before.
func New(pool *pgxpool.Pool) *Keys {
	return &Keys{
		pool: pool, now: time.Now, turn: make(chan struct{}, 1),
		known: map[string]row{}, unknown: map[string]row{},
	}
}

// Authenticate returns who a request comes from by its header Authorization: Bearer <key>. It returns ErrNoKey, ErrBadKey,
// or another error when the database could not be asked.
func (k *Keys) Authenticate(ctx context.Context, header string) (Principal, error) {
	if header == "" {
		return Principal{}, ErrNoKey
	}
	scheme, key, _ := strings.Cut(header, " ")
	publicID, secret, ok := split(strings.TrimSpace(key))
	if !ok || !strings.EqualFold(scheme, "Bearer") {
		return Principal{}, ErrBadKey
	}
	r, err := k.find(ctx, publicID)
	if err != nil {
		return Principal{}, fmt.Errorf("authenticate: %w", err)
	}
	// An id that leads to nothing has an all-zero hash, which no secret has, and costs the same work.
	hash := sha256.Sum256([]byte(secret))
	if subtle.ConstantTimeCompare(hash[:], r.hash[:]) != 1 || r.principal.KeyID == 0 {
		return Principal{}, ErrBadKey
	}
	return r.principal, nil
}

// find returns what a public id leads to, remembered or read.
func (k *Keys) find(ctx context.Context, publicID string) (row, error) {
	k.mu.Lock()
	r, ok := k.known[publicID]
	if !ok {
		r, ok = k.unknown[publicID]
	}
	if ok && k.now().Before(r.until.Add(-soon)) {
		k.mu.Unlock()
		return r, nil
	}
	valid := ok && k.now().Before(r.until)
	b, turn := k.join(publicID)
	k.mu.Unlock()
	if valid {
		return k.renew(ctx, publicID, r, b, turn)
	}

	// Whichever request of the batch gets the turn looks up for all of them.
	select {
	case <-b.done:
	case turn <- struct{}{}:
		k.lookUp(ctx, b)
	case <-ctx.Done():
		return row{}, ctx.Err()
	}
	return b.rows[publicID], b.err
}

// renew returns what is remembered of a key and is soon old, or what is read of it now, if nobody else reads. What could
// not be read again is believed until it is old, and no longer.
func (k *Keys) renew(ctx context.Context, publicID string, r row, b *batch, turn chan<- struct{}) (row, error) {
	select {
	case turn <- struct{}{}:
	default:
		return r, nil
	}
	k.lookUp(ctx, b)
	if b.err != nil && k.now().Before(r.until) {
		return r, nil
	}
	return b.rows[publicID], b.err
}

// join returns the batch that a public id is in, and where to ask for the turn to read it: nowhere, when it is being
// read already. It is called with the lock held.
func (k *Keys) join(publicID string) (*batch, chan<- struct{}) {
	if b := k.reading; b != nil && b.ids[publicID] && k.now().Before(b.until) {
		return b, nil
	}
	if k.next == nil || len(k.next.ids) >= batchSize && !k.next.ids[publicID] {
		k.next = &batch{ids: map[string]bool{}, done: make(chan struct{}), err: errLost}
	}
	k.next.ids[publicID] = true
	return k.next, k.turn
}

// errLost is the error of a look-up that panicked.
var errLost = errors.New("look-up did not end")

// lookUp reads the keys of a batch and gives back the turn. Another request may have read them just before: then the
// batch is done, since who reads has the turn until then.
func (k *Keys) lookUp(ctx context.Context, b *batch) {
	defer func() { <-k.turn }()
	select {
	case <-b.done:
		return
	default:
	}
	defer close(b.done)

	k.mu.Lock()
	if k.next == b {
		k.next = nil // those who come now are too late for it
	}
	b.until = k.now().Add(fresh)
	k.reading = b
	k.mu.Unlock()

	// The request that happens to read may be given up; those that wait with it are not.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookUpTime)
	defer cancel()
	rows, err := k.read(ctx, slices.Collect(maps.Keys(b.ids)), b.until)

	k.mu.Lock()
	defer k.mu.Unlock()
	b.rows, b.err = rows, err
	k.reading = nil
	k.remember(rows)
}

func (k *Keys) read(ctx context.Context, ids []string, until time.Time) (map[string]row, error) {
	found := make(map[string]row, len(ids))
	for _, id := range ids {
		found[id] = row{until: until}
	}
	err := process.ForAllTenants(ctx, k.pool, func(tx pgx.Tx) error {
		rows, _ := tx.Query(ctx, `
			select public_id, hash, tenant_id, id, name, scopes, coalesce(worker, '')
			from sluice.api_key
			where public_id = any($1) and revoked_at is null`, ids)
		var (
			publicID string
			hash     []byte
			p        Principal
		)
		_, err := pgx.ForEachRow(rows, []any{&publicID, &hash, &p.TenantID, &p.KeyID, &p.KeyName, &p.Scopes, &p.Worker}, func() error {
			r := row{principal: p, until: until}
			copy(r.hash[:], hash)
			found[publicID] = r
			p.Scopes = nil // the next row's must not be written over this one's
			return nil
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	return found, nil
}

// remember is called with the lock held.
func (k *Keys) remember(rows map[string]row) {
	for id, r := range rows {
		delete(k.known, id)
		delete(k.unknown, id)
		if r.principal.KeyID != 0 {
			add(k.known, id, r)
		} else {
			add(k.unknown, id, r)
		}
	}
}

// add forgets everything when there is no more room: all of it is old within a second anyway.
func add(m map[string]row, id string, r row) {
	if len(m) >= remembered {
		clear(m)
	}
	m[id] = r
}
