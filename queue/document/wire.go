package document

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// isoMilli is how JavaScript writes times.
const isoMilli = "2006-01-02T15:04:05.000Z"

// wireInstall is an install as workers know it.
type wireInstall struct {
	ID        string          `json:"_id"`
	User      string          `json:"user"`
	Key       string          `json:"key"`
	Enabled   bool            `json:"enabled"`
	Deleted   any             `json:"deleted"` // false, or when
	Created   string          `json:"created"`
	Updated   string          `json:"updated"`
	Encrypted string          `json:"encryptedSettings"`
	Plain     json.RawMessage `json:"nonEncryptedSettings"`
	Expires   string          `json:"expires,omitempty"`
	SDK       string          `json:"sdk,omitempty"`
}

// wireWebhook is a webhook as workers know it.
type wireWebhook struct {
	ID                string `json:"_id"`
	Name              string `json:"name"`
	User              string `json:"user"`
	Token             string `json:"token"`
	Node              string `json:"node"`
	Topology          string `json:"topology"`
	Application       string `json:"application"`
	WebhookID         string `json:"webhookId"`
	UnsubscribeFailed bool   `json:"unsubscribeFailed"`
	Deleted           any    `json:"deleted"`
	SDK               string `json:"sdk,omitempty"`
}

// Find returns the documents that a filter is for, as a JSON array of what workers know of them.
func (s *Store) Find(ctx context.Context, db DB, tenant int64, kind Kind, f Filter) (_ []byte, err error) {
	defer func() { err = refusal(err) }()
	switch kind {
	case Installs:
		found, err := s.Installs(ctx, db, tenant, f)
		if err != nil {
			return nil, err
		}
		wire := make([]wireInstall, len(found))
		for n, i := range found {
			wire[n] = wireInstall{
				i.ID, i.User, i.Application, i.Enabled, deleted(i.DeletedAt), i.CreatedAt.UTC().Format(isoMilli), i.UpdatedAt.UTC().Format(isoMilli),
				i.Settings, i.Plain, i.Expires, i.SDK,
			}
		}
		return json.Marshal(wire)
	case Webhooks:
		found, err := s.Webhooks(ctx, db, tenant, f)
		if err != nil {
			return nil, err
		}
		wire := make([]wireWebhook, len(found))
		for n, w := range found {
			wire[n] = wireWebhook{w.ID, w.Name, w.User, w.Token, w.Node, w.Topology, w.Application, w.WebhookID, w.UnsubscribeFailed, deleted(w.DeletedAt), w.SDK}
		}
		return json.Marshal(wire)
	}
	return nil, ErrUnknown
}

func deleted(at *time.Time) any {
	if at == nil {
		return false
	}
	return at.UTC().Format(isoMilli)
}

// Delete deletes the documents that a filter is for and returns how many that were.
func (s *Store) Delete(ctx context.Context, db DB, tenant int64, kind Kind, f Filter) (_ int64, err error) {
	defer func() { err = refusal(err) }()
	switch kind {
	case Installs:
		return s.DeleteInstalls(ctx, db, tenant, f)
	case Webhooks:
		return s.DeleteWebhooks(ctx, db, tenant, f)
	}
	return 0, ErrUnknown
}

// patch is a document as a worker writes it: what it says of one, and nil where it says nothing.
type patch struct {
	id        string
	texts     map[string]*string // by the name of their column
	enabled   *bool
	failed    *bool
	deleted   *bool
	plain     *string
	expires   *string // empty: it expires no more
	expiresAt *time.Time
	digest    []byte
}

// Bounds of what is written.
const (
	maxDocuments = 1000
	maxName      = 500     // bytes of what documents are found by
	maxText      = 1 << 20 // bytes of all else
)

// columns are the texts of documents of a kind: their columns by their names on the wire.
var columns = map[Kind]map[string]string{
	Installs: {"user": "user_name", "key": "application", "sdk": "sdk", "encryptedSettings": "settings"},
	Webhooks: {
		"user": "user_name", "application": "application", "sdk": "sdk", "name": "name", "token": "token", "node": "node", "topology": "topology",
		"webhookId": "webhook_id",
	},
}

// Save stores documents as a worker writes them: those without an id are new, of others what is said of them is changed.
// What there is not, or not any more, is not made, and a user gets no application twice. Use a transaction.
func (s *Store) Save(ctx context.Context, tx DB, tenant int64, kind Kind, body []byte) (err error) {
	defer func() { err = refusal(err) }()
	if columns[kind] == nil {
		return ErrUnknown
	}
	items, err := documents(body)
	if err != nil {
		return err
	}
	var added []*patch
	changed := map[string]*patch{}
	for _, item := range items {
		p, err := readPatch(kind, item)
		switch {
		case err != nil:
			return err
		case p.id == "":
			added = append(added, p)
		case isID(p.id) && changed[p.id] != nil:
			changed[p.id].merge(p)
		case isID(p.id):
			changed[p.id] = p
		}
	}
	if err := s.insert(ctx, tx, tenant, kind, added); err != nil {
		return err
	}
	return s.update(ctx, tx, tenant, kind, slices.SortedFunc(maps.Values(changed), func(a, b *patch) int { return cmp.Compare(a.id, b.id) }))
}

// documents reads a list of documents, or one.
func documents(body []byte) ([]map[string]json.RawMessage, error) {
	if body = bytes.TrimSpace(body); len(body) > 0 && body[0] != '[' {
		body = bytes.Join([][]byte{[]byte("["), body, []byte("]")}, nil)
	}
	var items []map[string]json.RawMessage
	if err := json.Unmarshal(body, &items); err != nil {
		return nil, invalid("the body must be a JSON array of documents, or one")
	}
	if len(items) > maxDocuments {
		return nil, invalid("there are more than %d documents", maxDocuments)
	}
	return items, nil
}

func readPatch(kind Kind, item map[string]json.RawMessage) (*patch, error) {
	if item == nil {
		return nil, invalid("a document must be an object")
	}
	p := &patch{texts: map[string]*string{}}
	if !isNull(item["_id"]) {
		var err error
		if p.id, err = textOf("_id", item["_id"]); err != nil {
			return nil, err
		}
	}
	for name, column := range columns[kind] {
		if isNull(item[name]) {
			continue
		}
		text, err := textOf(name, item[name])
		if err != nil {
			return nil, err
		}
		most := maxName
		if column == "settings" {
			most = maxText
		}
		if len(text) > most {
			return nil, invalid("%s is longer than %d bytes", name, most)
		}
		p.texts[column] = &text
	}
	if kind == Webhooks {
		if token := p.texts["token"]; token != nil {
			p.digest = digest(*token)
		}
	}
	return p, p.readRest(item)
}

func (p *patch) readRest(item map[string]json.RawMessage) error {
	for name, into := range map[string]**bool{"enabled": &p.enabled, "unsubscribeFailed": &p.failed, "deleted": &p.deleted} {
		if value, given := item[name]; given {
			is := truth(value)
			*into = &is
		}
	}
	if plain := item["nonEncryptedSettings"]; !isNull(plain) {
		if c := first(plain); c != '{' && c != '[' || len(plain) > maxText || hasNUL(plain) {
			return invalid("nonEncryptedSettings must be an object of at most %d bytes without a NUL", maxText)
		}
		text := string(plain)
		p.plain = &text
	}
	if expires, given := item["expires"]; given {
		text := ""
		if !isNull(expires) {
			var err error
			if text, err = textOf("expires", expires); err != nil || len(text) > 100 {
				return invalid("expires must be a date")
			}
		}
		p.expires, p.expiresAt = &text, timeOf(text)
	}
	return nil
}

// merge takes over what another patch of the same document says.
func (p *patch) merge(later *patch) {
	maps.Copy(p.texts, later.texts)
	p.enabled, p.failed, p.deleted = cmp.Or(later.enabled, p.enabled), cmp.Or(later.failed, p.failed), cmp.Or(later.deleted, p.deleted)
	p.plain = cmp.Or(later.plain, p.plain)
	if later.expires != nil {
		p.expires, p.expiresAt = later.expires, later.expiresAt
	}
	if later.digest != nil {
		p.digest = later.digest
	}
}

// seal seals what must not be read in the database.
func (s *Store) sealPatch(tenant int64, kind Kind, p *patch) error {
	column, at := "settings", installAt(tenant, p.id)
	if kind == Webhooks {
		column, at = "token", webhookAt(tenant, p.id)
	}
	text := p.texts[column]
	if text == nil {
		return nil
	}
	sealed, err := s.seal(at, *text)
	p.texts[column] = &sealed
	return err
}

func (s *Store) insert(ctx context.Context, tx DB, tenant int64, kind Kind, all []*patch) error {
	if len(all) == 0 {
		return nil
	}
	for _, p := range all {
		p.id = newID()
		for _, column := range columns[kind] {
			if p.texts[column] == nil {
				p.texts[column] = new(string)
			}
		}
		if *p.texts["application"] == "" {
			return invalid("a document needs an application")
		}
		if kind == Webhooks && *p.texts["token"] == "" {
			return invalid("a webhook needs a token")
		}
		if err := s.sealPatch(tenant, kind, p); err != nil {
			return err
		}
	}
	sql := `
		insert into sluice.application_install (tenant_id, id, user_name, application, sdk, settings, enabled, deleted_at, plain, expires, expires_at)
		select $1, n.id, n.user_name, n.application, n.sdk, n.settings, coalesce(n.enabled, false), case when n.deleted then now() end,
		       coalesce(n.plain, '{}')::jsonb, nullif(n.expires, ''), n.expires_at ` + fromInstalls + `
		on conflict do nothing`
	if kind == Webhooks {
		sql = `
		insert into sluice.webhook (tenant_id, id, user_name, application, sdk, name, node, topology, token, token_digest, webhook_id, unsubscribe_failed, deleted_at)
		select $1, n.id, n.user_name, n.application, n.sdk, n.name, n.node, n.topology, n.token, n.token_digest, n.webhook_id, coalesce(n.failed, false),
		       case when n.deleted then now() end ` + fromWebhooks
	}
	_, err := tx.Exec(ctx, sql, arguments(tenant, kind, all)...)
	return err
}

func (s *Store) update(ctx context.Context, tx DB, tenant int64, kind Kind, all []*patch) error {
	if len(all) == 0 {
		return nil
	}
	for _, p := range all {
		if err := s.sealPatch(tenant, kind, p); err != nil {
			return err
		}
	}
	table, sql := "application_install", `
		update sluice.application_install d
		set user_name = coalesce(n.user_name, d.user_name), application = coalesce(n.application, d.application), sdk = coalesce(n.sdk, d.sdk),
		    settings = coalesce(n.settings, d.settings), enabled = coalesce(n.enabled, d.enabled), plain = coalesce(n.plain::jsonb, d.plain),
		    expires = case when n.expires is null then d.expires else nullif(n.expires, '') end,
		    expires_at = case when n.expires is null then d.expires_at else n.expires_at end,
		    deleted_at = case when n.deleted then now() end, updated_at = now() `+fromInstalls
	if kind == Webhooks {
		table, sql = "webhook", `
		update sluice.webhook d
		set user_name = coalesce(n.user_name, d.user_name), application = coalesce(n.application, d.application), sdk = coalesce(n.sdk, d.sdk),
		    name = coalesce(n.name, d.name), node = coalesce(n.node, d.node), topology = coalesce(n.topology, d.topology),
		    token = coalesce(n.token, d.token), token_digest = coalesce(n.token_digest, d.token_digest), webhook_id = coalesce(n.webhook_id, d.webhook_id),
		    unsubscribe_failed = coalesce(n.failed, d.unsubscribe_failed), deleted_at = case when n.deleted then now() end, updated_at = now() `+fromWebhooks
	}
	if len(all) > 1 { // in one order, or two who write the same documents could wait for each other
		ids := make([]string, len(all))
		for i, p := range all {
			ids[i] = p.id
		}
		if _, err := tx.Exec(ctx, `select 1 from sluice.`+table+` where tenant_id = $1 and id = any ($2) order by id for update`, tenant, ids); err != nil {
			return err
		}
	}
	_, err := tx.Exec(ctx, sql+` where d.tenant_id = $1 and d.id = n.id and d.deleted_at is null`, arguments(tenant, kind, all)...)
	return err
}

// refusal is what the database refuses for what a worker wrote, said so.
func refusal(err error) error {
	pg, is := errors.AsType[*pgconn.PgError](err)
	switch {
	case is && pg.Code == "23505":
		return ErrExists
	case is && (pg.Code[:2] == "22" || pg.Code == "23514" || pg.Code[:2] == "54"):
		return fmt.Errorf("%w: it holds what cannot be stored", ErrInvalid)
	}
	return err
}

// What a statement is given: a column for each list.
const (
	fromInstalls = `
		from unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::boolean[], $8::boolean[], $9::text[], $10::text[], $11::timestamptz[])
		     n (id, user_name, application, sdk, settings, enabled, deleted, plain, expires, expires_at)`
	fromWebhooks = `
		from unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::bytea[], $11::text[], $12::boolean[], $13::boolean[])
		     n (id, user_name, application, sdk, name, node, topology, token, token_digest, webhook_id, failed, deleted)`
)

// arguments are the lists of [fromInstalls] and [fromWebhooks].
func arguments(tenant int64, kind Kind, all []*patch) []any {
	texts := func(column string) []*string { return list(all, func(p *patch) *string { return p.texts[column] }) }
	args := []any{tenant, list(all, func(p *patch) string { return p.id }), texts("user_name"), texts("application"), texts("sdk")}
	deleted := list(all, func(p *patch) *bool { return p.deleted })
	if kind == Webhooks {
		return append(args, texts("name"), texts("node"), texts("topology"), texts("token"), list(all, func(p *patch) []byte { return p.digest }),
			texts("webhook_id"), list(all, func(p *patch) *bool { return p.failed }), deleted)
	}
	return append(args, texts("settings"), list(all, func(p *patch) *bool { return p.enabled }), deleted, list(all, func(p *patch) *string { return p.plain }),
		list(all, func(p *patch) *string { return p.expires }), list(all, func(p *patch) *time.Time { return p.expiresAt }))
}

func list[T any](all []*patch, of func(*patch) T) []T {
	values := make([]T, len(all))
	for i, p := range all {
		values[i] = of(p)
	}
	return values
}
