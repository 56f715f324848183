// Package document keeps what workers on Orchesty's SDK keep with their engine:
// which user has installed which application, with what settings, and which
// webhooks were subscribed. The engine's own code reads and writes the same
// through [Store.Installs], [Store.SaveInstall], [Store.DeleteInstalls],
// [Store.Webhooks] and [Store.FindHook]; workers through [Store.Find],
// [Store.Save] and [Store.Delete], which take queries and documents as the SDK
// writes them and answer in kind: see wire.go and query.go.
//
// The settings come sealed by the worker, with a secret that is the worker's.
// They are opaque here, and sealed again by package vault, as the tokens of
// webhooks are: without a key nothing is stored. A user has an application once.
// What was deleted stays deleted, whatever a worker with an old copy writes. A
// worker never changes when a document was made, and never makes one under an
// id of its choice.
//
// The package knows documents and nothing else: not what an application is, not
// who asks, and no HTTP.
//
// # Where it differs from Orchesty's own store
//
//	What happens                   Orchesty                     Sluice, and why
//	-----------------------------  ---------------------------  -------------------------------------------
//	a second install of an         two documents                the second is ignored, and answered as
//	application for a user                                      stored: the SDK looks at no answer
//	a deleted document is          it is alive again            it stays deleted: the writer has an old copy
//	written to
//	created, updated               as the worker wrote them     by the clock of the database: what the SDK
//	                                                            has of loaded ones is no date
//	expires                        compared as text             compared as time, told as it was written
//	filter=undefined               400                          no filter: the SDK sends it when there is none
//	"&", "+", "%" in a filter      cut, made a space, refused   read as they are
//	deleting all by default        the filter {} deletes all    400: a filter must say which
//	filters                        that is enabled
//	more than 10,000 found         all of them                  400: ask with paging
package document

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"sluice/queue/vault"
)

var (
	// ErrInvalid says that a query or a document is not what the store takes; the error around it says why.
	ErrInvalid = errors.New("not valid")
	// ErrUnknown says that there are no documents of a kind.
	ErrUnknown = errors.New("no such documents")
	// ErrNotFound says that there is no such document, or not any more.
	ErrNotFound = errors.New("document not found")
	// ErrExists says that a user has the application already.
	ErrExists = errors.New("the user has this application already")
)

// DB is a pool or a transaction.
type DB interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Store keeps documents. It is safe for concurrent use.
type Store struct{ ring vault.Ring }

// New returns a store that seals with the ring. Without keys it can read what is there but for what is sealed.
func New(ring vault.Ring) *Store { return &Store{ring} }

// Install is an application that a user has.
type Install struct {
	ID          string // 24 hex digits; given by the store
	User        string
	Application string
	SDK         string // of dialect b: the worker; else empty
	Enabled     bool
	DeletedAt   *time.Time
	CreatedAt   time.Time
	UpdatedAt   time.Time
	Settings    string          // sealed by the worker; empty: none
	Plain       json.RawMessage // the settings that are no secrets
	Expires     string          // when its token does, as the worker wrote it; empty: it does not say
}

// Webhook is a place of ours that an application was told to call.
type Webhook struct {
	ID                string
	Name              string // of the event
	User              string
	Application       string
	SDK               string
	Topology          string
	Node              string
	Token             string // whoever has it may call
	WebhookID         string // that the application gave it
	UnsubscribeFailed bool
	DeletedAt         *time.Time
	CreatedAt         time.Time
	UpdatedAt         time.Time
}

// Filter says which documents. All that it says must hold; what is nil or empty says nothing, but for Deleted.
type Filter struct {
	IDs          []string
	Users        []string
	Applications []string
	NotOf        []string // applications
	SDKs         []string
	Enabled      bool // only those that are
	Deleted      bool // those that were deleted, too
	ExpiresBy    *time.Time
	Plain        []PlainFilter // installs only

	Newest bool // first; else the oldest
	Offset int
	Limit  int // 0: all, of which there must not be more than [MaxFound]
}

// PlainFilter says which values a setting may have that is no secret.
type PlainFilter struct {
	Path   []string
	Values json.RawMessage // a JSON array
	Not    bool
}

// MaxFound is how many documents are read at once, and maxBytes what they may take together.
const (
	MaxFound = 10_000
	maxBytes = 64 << 20
)

// room is what the documents of an answer have taken of maxBytes.
type room int

func (r *room) take(bytes int) error {
	if *r += room(bytes); *r > maxBytes {
		return fmt.Errorf("%w: these documents are larger than %d bytes together: ask with paging", ErrInvalid, maxBytes)
	}
	return nil
}

// errEmptyFilter says it in Orchesty's words.
var errEmptyFilter = fmt.Errorf("%w: %s", ErrInvalid, "Empty filter is not supported.")

// Purposes of what is sealed.
const (
	purposeInstall = "application install"
	purposeWebhook = "webhook"
)

const installColumns = `id, user_name, application, sdk, enabled, deleted_at, created_at, updated_at, settings, plain, coalesce(expires, '') as expires`

// Installs returns the installs that a filter is for.
func (s *Store) Installs(ctx context.Context, db DB, tenant int64, f Filter) ([]Install, error) {
	where, args := f.whereInstalls(tenant)
	var size room
	rows, _ := db.Query(ctx, `select `+installColumns+` from sluice.application_install where `+where+f.order(), args...)
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (i Install, err error) {
		if err = row.Scan(&i.ID, &i.User, &i.Application, &i.SDK, &i.Enabled, &i.DeletedAt, &i.CreatedAt, &i.UpdatedAt, &i.Settings, &i.Plain, &i.Expires); err != nil {
			return i, err
		}
		if err = size.take(len(i.Settings) + len(i.Plain)); err != nil {
			return i, err
		}
		if i.Settings, err = s.open(installAt(tenant, i.ID), i.Settings); err != nil {
			return i, fmt.Errorf("settings of install %s: %w", i.ID, err)
		}
		return i, nil
	})
	if err != nil {
		return nil, err
	}
	return found, f.check(len(found))
}

// SaveInstall stores an install: a new one if it has no id, and returns it as it is stored then. It returns [ErrExists]
// for a user who has the application, and [ErrNotFound] for an id that there is not, or not any more.
func (s *Store) SaveInstall(ctx context.Context, db DB, tenant int64, i Install) (Install, error) {
	isNew := i.ID == ""
	if isNew {
		i.ID = newID()
	}
	settings, err := s.seal(installAt(tenant, i.ID), i.Settings)
	if err != nil {
		return Install{}, err
	}
	if i.Plain == nil {
		i.Plain = json.RawMessage("{}")
	}
	sql := `
		insert into sluice.application_install (tenant_id, id, user_name, application, sdk, enabled, settings, plain, expires, expires_at)
		values ($1, $2, $3, $4, $5, $6, $7, $8, nullif($9, ''), $10) on conflict do nothing returning `
	if !isNew {
		sql = `
		update sluice.application_install
		set user_name = $3, application = $4, sdk = $5, enabled = $6, settings = $7, plain = $8, expires = nullif($9, ''), expires_at = $10, updated_at = now()
		where tenant_id = $1 and id = $2 and deleted_at is null returning `
	}
	err = db.QueryRow(ctx, sql+`created_at, updated_at`, tenant, i.ID, i.User, i.Application, i.SDK, i.Enabled, settings, i.Plain, i.Expires, timeOf(i.Expires)).
		Scan(&i.CreatedAt, &i.UpdatedAt)
	switch {
	case errors.Is(err, pgx.ErrNoRows) && isNew:
		return Install{}, ErrExists
	case errors.Is(err, pgx.ErrNoRows):
		return Install{}, ErrNotFound
	}
	return i, err
}

// DeleteInstalls deletes the installs that a filter is for and returns how many that were. It must say which: an empty
// one is [ErrInvalid].
func (s *Store) DeleteInstalls(ctx context.Context, db DB, tenant int64, f Filter) (int64, error) {
	if !f.names() {
		return 0, errEmptyFilter
	}
	f.Deleted = false
	where, args := f.whereInstalls(tenant)
	return remove(ctx, db, "application_install", where, args)
}

const webhookColumns = `id, name, user_name, application, sdk, topology, node, token, webhook_id, unsubscribe_failed, deleted_at, created_at, updated_at`

// Webhooks returns the webhooks that a filter is for.
func (s *Store) Webhooks(ctx context.Context, db DB, tenant int64, f Filter) ([]Webhook, error) {
	where, args := f.where(tenant)
	rows, _ := db.Query(ctx, `select `+webhookColumns+` from sluice.webhook where `+where+f.order(), args...)
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (w Webhook, err error) {
		if err = row.Scan(&w.ID, &w.Name, &w.User, &w.Application, &w.SDK, &w.Topology, &w.Node, &w.Token, &w.WebhookID, &w.UnsubscribeFailed, &w.DeletedAt, &w.CreatedAt, &w.UpdatedAt); err != nil {
			return w, err
		}
		if w.Token, err = s.open(webhookAt(tenant, w.ID), w.Token); err != nil {
			return w, fmt.Errorf("token of webhook %s: %w", w.ID, err)
		}
		return w, nil
	})
	if err != nil {
		return nil, err
	}
	return found, f.check(len(found))
}

// DeleteWebhooks deletes the webhooks that a filter is for, as [Store.DeleteInstalls] does.
func (s *Store) DeleteWebhooks(ctx context.Context, db DB, tenant int64, f Filter) (int64, error) {
	if !f.names() {
		return 0, errEmptyFilter
	}
	f.Deleted = false
	where, args := f.where(tenant)
	return remove(ctx, db, "webhook", where, args)
}

// Hook is where the call of a webhook goes.
type Hook struct {
	Tenant   int64
	User     string
	Topology string
	Node     string
	token    string
}

// Is tells whether this is the webhook that has the token and leads to a node of a topology. It takes as long whatever
// differs.
func (h Hook) Is(topology, node, token string) bool {
	same := subtle.ConstantTimeCompare([]byte(h.token), []byte(token)) &
		subtle.ConstantTimeCompare([]byte(h.Topology), []byte(topology)) & subtle.ConstantTimeCompare([]byte(h.Node), []byte(node))
	return same == 1
}

// FindHooks returns the webhooks of any tenant that have a token: none or one, as tokens are long and random. Those that
// were deleted, or that the application refuses to give up, are not among them. db sees all tenants.
func (s *Store) FindHooks(ctx context.Context, db DB, token string) ([]Hook, error) {
	rows, _ := db.Query(ctx, `
		select tenant_id, id, user_name, topology, node, token from sluice.webhook
		where token_digest = $1 and deleted_at is null and not unsubscribe_failed order by tenant_id, id limit 10`, digest(token))
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (Hook, error) {
		var h Hook
		var id string
		if err := row.Scan(&h.Tenant, &id, &h.User, &h.Topology, &h.Node, &h.token); err != nil {
			return h, err
		}
		var err error
		h.token, err = s.open(webhookAt(h.Tenant, id), h.token)
		return h, err
	})
}

// Reseal seals anew, with the first key, what was sealed with another one, and returns how much that was. db sees all
// tenants.
func (s *Store) Reseal(ctx context.Context, db DB) (int64, error) {
	if s.ring.IsZero() {
		return 0, vault.ErrNoKey
	}
	var all int64
	for _, t := range []struct {
		table, column string
		at            func(int64, string) vault.Place
	}{{"application_install", "settings", installAt}, {"webhook", "token", webhookAt}} {
		n, err := s.resealTable(ctx, db, t.table, t.column, t.at)
		if all += n; err != nil {
			return all, fmt.Errorf("seal %s anew: %w", t.table, err)
		}
	}
	return all, nil
}

// atOnce is how many secrets are sealed anew by one statement.
const atOnce = 500

func (s *Store) resealTable(ctx context.Context, db DB, table, column string, at func(int64, string) vault.Place) (done int64, err error) {
	var tenant int64
	var id, sealed string
	for {
		rows, _ := db.Query(ctx, fmt.Sprintf(`
			select tenant_id, id, %s from sluice.%s
			where (tenant_id, id) > ($1, $2) and %[1]s <> '' and not starts_with(%[1]s, $3) order by tenant_id, id limit $4`, column, table),
			tenant, id, s.ring.Prefix(), atOnce)
		var tenants []int64
		var ids, before, after []string
		_, err := pgx.ForEachRow(rows, []any{&tenant, &id, &sealed}, func() error {
			text, err := s.open(at(tenant, id), sealed)
			if err != nil {
				return fmt.Errorf("%s: %w", id, err)
			}
			again, err := s.seal(at(tenant, id), text)
			tenants, ids, before, after = append(tenants, tenant), append(ids, id), append(before, sealed), append(after, again)
			return err
		})
		if err != nil || len(ids) == 0 {
			return done, err
		}
		// One that was written meanwhile is sealed anew by that.
		tag, err := db.Exec(ctx, fmt.Sprintf(`
			update sluice.%s d set %s = n.after
			from unnest($1::bigint[], $2::text[], $3::text[], $4::text[]) n (tenant_id, id, before, after)
			where d.tenant_id = n.tenant_id and d.id = n.id and d.%[2]s = n.before`, table, column), tenants, ids, before, after)
		if err != nil {
			return done, err
		}
		done += tag.RowsAffected()
	}
}

// where is the part of a filter that all kinds have.
func (f Filter) where(tenant int64) (string, []any) {
	return `tenant_id = $1 and ($2 or deleted_at is null)
		and ($3::text[] is null or id = any ($3)) and ($4::text[] is null or user_name = any ($4))
		and ($5::text[] is null or application = any ($5)) and ($6::text[] is null or application <> all ($6))
		and ($7::text[] is null or sdk = any ($7))`, []any{tenant, f.Deleted, f.IDs, f.Users, f.Applications, f.NotOf, f.SDKs}
}

// whereInstalls has what only installs have, too.
func (f Filter) whereInstalls(tenant int64) (string, []any) {
	where, args := f.where(tenant)
	if f.Enabled {
		where += ` and enabled`
	}
	if f.ExpiresBy != nil {
		args = append(args, f.ExpiresBy)
		where += fmt.Sprintf(` and expires_at <= $%d`, len(args))
	}
	for _, p := range f.Plain {
		args = append(args, p.Path, string(p.Values))
		not := ""
		if p.Not {
			not = "not "
		}
		where += fmt.Sprintf(` and %scoalesce(plain #> $%d::text[] in (select jsonb_array_elements($%d::jsonb)), false)`, not, len(args)-1, len(args))
	}
	return where, args
}

func (f Filter) order() string {
	way := "asc"
	if f.Newest {
		way = "desc"
	}
	limit := f.Limit
	if limit == 0 {
		limit = MaxFound + 1
	}
	return fmt.Sprintf(` order by created_at %s, id %[1]s limit %d offset %d`, way, limit, f.Offset)
}

// check refuses to cut off what nobody asked to be cut off.
func (f Filter) check(found int) error {
	if f.Limit == 0 && found > MaxFound {
		return fmt.Errorf("%w: there are more than %d such documents: ask with paging", ErrInvalid, MaxFound)
	}
	return nil
}

// names tells whether a filter says which documents.
func (f Filter) names() bool {
	return f.IDs != nil || f.Users != nil || f.Applications != nil || f.NotOf != nil || f.SDKs != nil || f.ExpiresBy != nil || len(f.Plain) > 0
}

func remove(ctx context.Context, db DB, table, where string, args []any) (int64, error) {
	tag, err := db.Exec(ctx, `
		update sluice.`+table+` set deleted_at = now(), updated_at = now()
		where tenant_id = $1 and id in (select id from sluice.`+table+` where `+where+` order by id for update)`, args...)
	return tag.RowsAffected(), err
}

func (s *Store) seal(at vault.Place, text string) (string, error) {
	if text == "" {
		return "", nil
	}
	return s.ring.Seal(at, text)
}

func (s *Store) open(at vault.Place, sealed string) (string, error) {
	if sealed == "" {
		return "", nil
	}
	return s.ring.Open(at, sealed)
}

func installAt(tenant int64, id string) vault.Place {
	return vault.Place{Tenant: tenant, Purpose: purposeInstall, Name: id}
}

func webhookAt(tenant int64, id string) vault.Place {
	return vault.Place{Tenant: tenant, Purpose: purposeWebhook, Name: id}
}

// newID is 24 hex digits, as Orchesty's ids are.
func newID() string {
	var b [12]byte
	rand.Read(b[:]) // never fails: it ends the program rather than return weak bytes
	return hex.EncodeToString(b[:])
}

// digest is what a token is found by.
func digest(token string) []byte {
	sum := sha256.Sum256([]byte("token of a webhook\x00" + token))
	return sum[:16]
}

// timeOf is the time that a worker's text means, or nil.
func timeOf(text string) *time.Time {
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999999-0700", "2006-01-02T15:04:05.999999999", "2006-01-02 15:04:05.999999999", time.DateOnly} {
		if at, err := time.Parse(layout, strings.TrimSpace(text)); err == nil {
			if at.Year() < 1 || at.Year() > 9999 {
				return nil
			}
			at = at.UTC()
			return &at
		}
	}
	return nil
}
